"""Requests that take long, and those that come meanwhile: which wait, in what order, how many."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from ros_helpers import start
from std_srvs.srv import Trigger

from sharp_ros.mapping.occupancy import OccupancyMap
from sharp_ros.ros import services
from sharp_ros.ros.requests import MOST_WAITING

pytestmark = pytest.mark.ros

GRID = '/sharp/occupancy_grid'


class SlowSave:
    """In place of `save_new_map`: says when a save has begun, and waits to be let through."""

    def __init__(self):
        self.states = []
        self.begun, self.gate = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, directory, state, **_):
        self.states.append(state)
        self.begun.release()
        assert self.gate.acquire(timeout=30)
        return directory / f'map_{len(self.states)}'


@pytest.fixture
def save(monkeypatch):
    save = SlowSave()
    monkeypatch.setattr(services, 'save_new_map', save)
    monkeypatch.setattr(services, 'SAVE_INTERVAL', 0.0)
    yield save
    for _ in range(20):
        save.gate.release()


@pytest.fixture
def node(make_node, peer, tmp_path):
    """A node that has mapped the wall."""
    peer.listen(GRID)
    node = start(make_node(output__directory=str(tmp_path), occupancy__rate_hz=20.0))
    grids = peer.received[GRID]
    peer.spin_until(lambda: grids and 100 in grids[-1].data, each=peer.send)
    return node


@pytest.fixture
def ask(peer):
    """Asks a service, and returns the answer that is to come; clients of their own, if asked."""
    clients = {}

    def ask(name, by=0):
        if (name, by) not in clients:
            clients[name, by] = peer.node.create_client(Trigger, f'/sharp/{name}')
            assert clients[name, by].wait_for_service(5.0)
        return clients[name, by].call_async(Trigger.Request())

    def leave(name, by=0):
        peer.node.destroy_client(clients.pop((name, by)))

    ask.leave = leave
    yield ask
    for client in clients.values():
        peer.node.destroy_client(client)


def begun(save):
    return lambda: save.begun.acquire(blocking=False)


@pytest.mark.parametrize('name', ['timings', 'reset', 'snapshot', 'load_map'])
def test_a_map_that_is_being_saved_holds_up_no_other_service(node, peer, ask, save, name):
    saved = ask('save_map')
    peer.spin_until(begun(save))
    answer = ask(name)
    peer.spin_until(answer.done, each=peer.send)
    assert answer.result().success == (name != 'load_map')  # there is none
    assert not saved.done()
    save.gate.release()
    peer.spin_until(saved.done)
    assert saved.result().success


def test_saves_wait_in_a_row_that_has_an_end_and_the_answers_say_which_they_were(
    node, peer, ask, save, tmp_path
):
    answers = [ask('save_map')]
    peer.spin_until(begun(save))
    for i in range(MOST_WAITING):
        answers.append(ask('save_map'))
        peer.spin_until(lambda n=i + 2: len(node._requests._lanes['save_map'].requests()) == n)
    refused = ask('save_map')
    peer.spin_until(refused.done)
    assert not refused.result().success
    assert f'{MOST_WAITING} wait' in refused.result().message
    assert len(save.states) == 1
    for number, answer in enumerate(answers, 1):
        save.gate.release()
        peer.spin_until(answer.done)
        place = f' (number {number} in the queue)' if number > 1 else ''
        assert answer.result().message == f'{tmp_path}/map_{number}{place}'
    again = ask('save_map')
    save.gate.release()
    peer.spin_until(again.done)
    assert again.result().success


def test_a_map_that_was_asked_for_before_a_reset_is_saved_as_it_was(node, peer, ask, save):
    answers = [ask('save_map')]
    peer.spin_until(begun(save))
    answers += [ask('save_map'), ask('save_map')]
    peer.spin_until(lambda: len(node._requests._lanes['save_map'].requests()) == 3)
    reset = ask('reset')
    peer.spin_until(reset.done)
    assert reset.result().success
    assert not node._session.pipeline.world_frame
    for answer in answers:
        save.gate.release()
        peer.spin_until(answer.done)
        assert answer.result().success, answer.result().message
    assert len(save.states) == 3
    assert save.states[1] is save.states[2]  # one copy serves both
    for state in save.states:
        occupancy = OccupancyMap(state.config.occupancy)
        occupancy.restore(state.occupancy)
        assert np.any(occupancy.grid().cells == 100)


def test_what_nobody_waits_for_any_more_is_not_begun(node, peer, ask, save):
    first = ask('save_map')
    peer.spin_until(begun(save))
    ask('save_map', by=1)
    lane = node._requests._lanes['save_map']
    peer.spin_until(lambda: len(lane.requests()) == 2)
    ask.leave('save_map', by=1)
    ask.leave('save_map')
    del first
    peer.spin_until(lambda: not node.count_clients('/sharp/save_map'))
    save.gate.release()
    peer.spin_until(lambda: not lane.requests())
    assert len(save.states) == 1


def test_a_request_that_waits_with_its_client_there_is_begun(node, peer, ask, save):
    ask('save_map', by=1)
    peer.spin_until(begun(save))
    waiting = ask('save_map')
    peer.spin_until(lambda: len(node._requests._lanes['save_map'].requests()) == 2)
    ask.leave('save_map', by=1)
    save.gate.release()
    save.gate.release()
    peer.spin_until(waiting.done)
    assert waiting.result().success
    assert len(save.states) == 2


def test_a_loaded_map_that_is_forgotten_by_a_reset_is_answered_at_once(
    node, peer, ask, monkeypatch
):
    monkeypatch.setattr(services, 'LOAD_PATIENCE', 60.0)
    saved = ask('save_map')
    peer.spin_until(saved.done)
    loaded = ask('load_map')
    peer.spin_until(lambda: node._session.pipeline.checks_loaded_map)
    reset = ask('reset')
    peer.spin_until(loaded.done)
    assert not loaded.result().success
    assert 'reset' in loaded.result().message
    peer.spin_until(reset.done)
    assert reset.result().success
