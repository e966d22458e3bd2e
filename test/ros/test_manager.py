"""Leading a node through its states, although requests and answers get lost."""

from __future__ import annotations

import threading
import time

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
import pytest
import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
import rclpy.task
from ros_helpers import WallOracle

from sharp_ros.errors import SharpError
from sharp_ros.ros import autostart, lifecycle
from sharp_ros.ros.lifecycle import Manager, TransitionTimeoutError

pytestmark = pytest.mark.ros

UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = 1, 2, 3, 4
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
LEADS_TO = {CONFIGURE: INACTIVE, ACTIVATE: ACTIVE}
LABELS = {1: 'unconfigured', 2: 'inactive', 3: 'active', 4: 'finalized', 10: 'configuring'}


class Patchy(Node):
    """Answers by a script, which holds what becomes of each request for a transition.

    `lost`: it never came; `unanswered`: it is carried out; `refused`; and afterwards all is well.
    """

    def __init__(self, context, script=(), state=UNCONFIGURED):
        super().__init__('patchy', context=context)
        self.script, self.state, self.asked, self.silent = list(script), state, [], 0
        self.passing = []  # states that it tells once each before the one it is in
        # what is never answered must not keep the other service from answering
        group = ReentrantCallbackGroup()
        self.create_service(GetState, '~/get_state', self.on_get, callback_group=group)
        self.create_service(ChangeState, '~/change_state', self.on_change, callback_group=group)

    async def on_get(self, request, response):
        if self.silent:
            self.silent -= 1
            await rclpy.task.Future()
        state = self.passing.pop(0) if self.passing else self.state
        response.current_state = State(id=state, label=LABELS[state])
        return response

    async def on_change(self, request, response):
        fate = self.script.pop(0) if self.script else 'well'
        self.asked.append(request.transition.id)
        if fate in ('well', 'unanswered'):
            self.state = LEADS_TO[request.transition.id]
        if fate in ('lost', 'unanswered'):
            await rclpy.task.Future()
        response.success = fate == 'well'
        return response


@pytest.fixture
def patchy(context, executor, peer, monkeypatch):
    """Makes a patchy node and who leads it; what it says comes back in `said`."""
    monkeypatch.setattr(lifecycle, 'PATIENCE', 0.4)
    nodes, said, end = [], [], time.monotonic() + 60

    def bounded():
        assert time.monotonic() < end, said

    def make(*script, state=UNCONFIGURED, check=bounded, **kwargs):
        nodes.append(Patchy(context, script, state))
        executor.add_node(nodes[-1])
        return nodes[-1], Manager(peer.node, '/patchy', executor, check, said.append, **kwargs)

    make.said = said
    yield make
    for node in nodes:
        executor.remove_node(node)
        node.destroy_node()


def test_the_node_itself_is_configured_and_activated(make_node, peer, executor):
    node, said = make_node(WallOracle()), []
    Manager(peer.node, '/sharp', executor, lambda: None, said.append).start()
    assert node._label == 'active'
    assert not said


def test_a_request_that_was_lost_is_said_and_made_again(patchy):
    node, manager = patchy('lost')
    manager.start()
    assert node.asked == [CONFIGURE, CONFIGURE, ACTIVATE]
    assert node.state == ACTIVE
    assert 'change_state has not answered' in patchy.said[0]
    assert patchy.said[1] == '/patchy is still unconfigured; it is asked to configure again'


@pytest.mark.parametrize('script', [['unanswered'], ['well', 'unanswered']])
def test_what_was_carried_out_is_not_asked_for_again(patchy, script):
    node, manager = patchy(*script)
    manager.start()
    assert node.asked == [CONFIGURE, ACTIVATE]
    assert node.state == ACTIVE


def test_a_state_that_is_not_answered_is_asked_for_until_it_is(patchy):
    node, manager = patchy()
    node.silent = 2
    manager.start()
    assert node.state == ACTIVE
    assert len(patchy.said) == 2
    assert all('get_state has not answered' in text for text in patchy.said)


def test_a_state_in_passing_is_waited_for(patchy):
    node, manager = patchy('unanswered')
    node.passing = [UNCONFIGURED, 10, 10]
    manager.start()
    assert node.asked == [CONFIGURE, ACTIVATE]


@pytest.mark.parametrize(('script', 'text'), [
    (['refused'], 'refused to configure and is unconfigured'),
    (['well', 'refused'], 'refused to activate and is inactive'),
])  # fmt: skip
def test_a_refusal_is_an_error(patchy, script, text):
    _, manager = patchy(*script)
    with pytest.raises(SharpError, match=text):
        manager.start()


@pytest.mark.parametrize(('state', 'asked'), [(INACTIVE, [ACTIVATE]), (ACTIVE, [])])
def test_a_node_is_taken_from_where_it_is(patchy, state, asked):
    node, manager = patchy(state=state)
    manager.start()
    assert node.asked == asked


def test_a_node_that_is_finalized_has_to_be_started_anew(patchy):
    _, manager = patchy(state=FINALIZED)
    with pytest.raises(SharpError, match='/patchy is finalized; start it anew'):
        manager.start()


def test_a_transition_that_takes_too_long_is_given_up(patchy):
    node, manager = patchy(limit=0.9)
    node.silent = 100
    with pytest.raises(TransitionTimeoutError, match='did not answer within 1 s'):
        manager.start()


def test_waiting_for_a_node_that_is_not_there_is_said_and_can_be_ended(patchy, peer, executor):
    class EndedError(Exception):
        pass

    def check():
        if len(patchy.said) > 1:
            raise EndedError

    manager = Manager(peer.node, '/nobody', executor, check, patchy.said.append)
    with pytest.raises(EndedError):
        manager.start()
    assert set(patchy.said) == {'/nobody/get_state is not there yet; is the node running?'}


# a participant that missed another one when both started sees nothing of it: one of another domain
BLIND = {'domain_id': 232}


def test_a_service_that_is_not_seen_is_looked_for_with_another_participant_once(
    patchy, executor, peer
):
    node, _ = patchy()
    blind, renewed = rclpy.Context(), []

    def renew():
        renewed.append(peer.node)
        return peer.node, executor

    rclpy.init(context=blind, **BLIND)
    alone = Node('alone', context=blind)
    first = SingleThreadedExecutor(context=blind)
    first.add_node(alone)
    Manager(alone, '/patchy', first, lambda: None, patchy.said.append, renew=renew).start()
    assert node.state == ACTIVE
    assert len(renewed) == 1
    assert patchy.said == ['/patchy/get_state is not there yet; is the node running?']
    first.shutdown()
    alone.destroy_node()
    blind.try_shutdown()


# the executable ----------------------------------------------------------------------------------


class FakeEnding:
    def __init__(self):
        self.asked, self.codes, self.wake = threading.Event(), [], lambda wake: None
        self.limit = self.codes.append


@pytest.fixture
def spinning(make_node, executor):
    """Nodes that run beside what the test does."""
    stop, threads = threading.Event(), []

    def spin():
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.05)

    def make(**kwargs):
        node = make_node(WallOracle(), **kwargs)
        threads.append(threading.Thread(target=spin))
        threads[0].start()
        return node

    yield make
    stop.set()
    threads[0].join()


def test_the_executable_starts_a_node_and_ends(spinning, capfd):
    node, ending = spinning(), FakeEnding()
    assert (
        autostart.main(ending, ['sharp_autostart', '/sharp', '--ros-args', '-r', '__ns:=/x']) == 0
    )
    assert node._label == 'active'
    assert ending.codes == [0]
    assert '/sharp is active' in capfd.readouterr().err


def test_the_executable_finds_a_node_that_its_first_participant_missed(
    spinning, monkeypatch, capfd
):
    node, given, init = spinning(), [BLIND, {}], rclpy.init
    monkeypatch.setattr(lifecycle, 'PATIENCE', 0.5)
    monkeypatch.setattr(rclpy, 'init', lambda **kwargs: init(**kwargs, **given.pop(0)))
    assert autostart.main(FakeEnding(), ['sharp_autostart', '/sharp']) == 0
    assert node._label == 'active'
    assert not given
    assert '/sharp/get_state is not there yet' in capfd.readouterr().err


def test_the_executable_says_which_node_refused(spinning, monkeypatch, capfd):
    node, ending = spinning(), FakeEnding()
    monkeypatch.setattr(node, '_make_pipeline', lambda config: 1 / 0)
    assert autostart.main(ending, ['sharp_autostart', '/sharp']) == 1
    assert ending.codes == [1]
    assert '/sharp refused to configure' in capfd.readouterr().err


@pytest.mark.parametrize('names', [[], ['/a', '/b']])
def test_the_executable_wants_one_name(names, capfd):
    assert autostart.main(FakeEnding(), ['sharp_autostart', *names]) == 1
    assert 'usage: sharp_autostart NODE' in capfd.readouterr().err


def test_the_executable_ends_when_it_is_asked_to():
    ending = FakeEnding()
    ending.asked.set()
    assert autostart.main(ending, ['sharp_autostart', '/nobody']) == 0


def test_several_nodes_of_one_name_are_reported(spinning, monkeypatch, capfd):
    spinning()
    names = lambda self: ['/sharp', '/sharp']  # noqa: E731
    monkeypatch.setattr(Node, 'get_fully_qualified_node_names', names)
    assert autostart.main(FakeEnding(), ['sharp_autostart', '/sharp']) == 0
    assert 'several nodes are named /sharp' in capfd.readouterr().err
