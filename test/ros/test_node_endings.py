"""What goes wrong beside frames: how the program ends, what transitions answer, what is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_helpers import CAMERA, IMAGE, POSE, start, WallOracle

from sharp_ros.engine import Engine
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.ros import node as node_module
from sharp_ros.ros import parents
from sharp_ros.ros.conversions import image_to_msg
from sharp_ros.ros.ending import Ending
from sharp_ros.ros.node import main, SharpNode

pytestmark = pytest.mark.ros

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
DEPTH = '/sharp/depth/image'


def log(capfd):
    out, err = capfd.readouterr()
    return out + err


def occupy(peer, oracle, nap):
    """Have the node work on a frame for some seconds."""
    oracle.nap, calls = nap, oracle.calls
    peer.spin_until(lambda: oracle.calls > calls, each=peer.send)


# --- the end of the program --------------------------------------------------------------------


@pytest.mark.parametrize(
    'broken', ['declare_parameters = ', 'SharpNode.publish_diagnostics = '], ids=['start', 'timer']
)
def test_program_that_breaks_says_why_and_fails(broken):
    code = (
        'from sharp_ros.ros import node, programs\n'
        f'node.{broken}lambda *_: 1 / 0\nprograms.sharp_node()'
    )
    ended = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert 'the node ends: ZeroDivisionError: ' in ended.stderr + ended.stdout


@pytest.fixture
def ending():
    ending = Ending()
    yield ending
    ending.close()


@pytest.mark.parametrize('error', [None, RuntimeError], ids=str)
def test_program_whose_context_is_gone_ends_quietly(monkeypatch, capfd, ending, error):
    def end(self):
        rclpy.shutdown()
        if error is not None:  # as of what needs the context that is gone
            raise error

    monkeypatch.setattr(SharpNode, 'publish_diagnostics', end)
    assert main(ending, []) == 0
    assert 'rror' not in log(capfd)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_program_that_is_asked_to_end_does_so_quietly(monkeypatch, capfd, ending, number):
    monkeypatch.setattr(SharpNode, 'publish_diagnostics', lambda _: os.kill(os.getpid(), number))
    assert main(ending, []) == 0
    assert 'rror' not in log(capfd)


# --- transitions -------------------------------------------------------------------------------


def test_whatever_fails_at_configure_is_reported_and_what_was_made_is_freed(
    make_node, monkeypatch, capfd
):
    node = make_node()
    create = node.create_lifecycle_publisher

    def refuse(kind, topic, *args, **kwargs):
        if topic == '~/points':
            raise RuntimeError('no more publishers')
        return create(kind, topic, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(node, 'create_lifecycle_publisher', refuse)
        assert node.trigger_configure() == FAILURE
    assert 'cannot configure: RuntimeError: no more publishers' in log(capfd)
    assert node._session is None
    assert not [p for p in node.publishers if p.topic_name.startswith('/sharp/')]
    assert node._label == 'unconfigured'
    assert node.trigger_configure() == SUCCESS


def test_deactivate_waits_for_a_frame_of_a_slow_network_and_keeps_the_map(
    make_node, peer, monkeypatch
):
    monkeypatch.setattr(SharpNode._stop, '__defaults__', (0.0, 0.1))
    oracle = WallOracle()
    peer.listen(DEPTH)
    node = start(make_node(oracle))
    peer.spin_until(lambda: node._health._mapped, each=peer.send)
    occupy(peer, oracle, 0.6)
    assert node.trigger_deactivate() == SUCCESS
    assert node._session.pipeline.world_frame == 'odom'


def test_parameters_accepted_during_the_last_frame_are_not_lost(make_node, peer, monkeypatch):
    released, release = [], Engine.release
    monkeypatch.setattr(Engine, 'release', lambda self: (released.append(1), release(self)))
    oracle = WallOracle()
    peer.listen(DEPTH)
    node = start(make_node(oracle))
    occupy(peer, oracle, 0.5)
    changes = {'point_cloud.min_range': 0.25, 'model.release_when_inactive': True}
    results = node.set_parameters([Parameter(k, value=v) for k, v in changes.items()])
    assert all(result.successful for result in results)
    assert node._session.config.point_cloud.min_range != 0.25, 'the frame ended too early'
    assert node.trigger_deactivate() == SUCCESS
    assert node._session.pipeline.config.point_cloud.min_range == 0.25
    assert released


@pytest.mark.parametrize('error', [TypeError('of no type'), OverflowError('too large')], ids=repr)
def test_parameters_that_nobody_thought_of_are_refused_and_the_node_lives(
    make_node, monkeypatch, error
):
    node = make_node()

    def fail(*args):
        raise error

    monkeypatch.setattr(node_module, 'read_config', fail)
    (result,) = node.set_parameters([Parameter('occupancy.size', value=3.0)])
    assert not result.successful
    assert result.reason == f'{type(error).__name__}: {error}'


# --- frames of tf ------------------------------------------------------------------------------


def test_all_transforms_of_a_frame_share_the_time_it_waits(make_node, peer, tf2):
    frames = {'pose__base_frame': 'base', 'scale__floor_frame': 'floor'}
    node = make_node(pose__source='tf', pose__wait=0.3, **frames)
    asked = []

    def lookup(target, source, stamp_ns, wait, tolerance):
        asked.append((stamp_ns, wait))
        time.sleep(wait)
        raise PoseUnavailableError('late', 'no_transform')

    node._transforms.lookup = lookup
    peer.listen(DEPTH)
    start(node)
    peer.spin_until(lambda: peer.received[DEPTH], each=peer.send)
    waits = [wait for stamp_ns, wait in asked if stamp_ns == asked[0][0]]
    assert len(waits) == 3
    assert sum(waits) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize('doubted', ['base', 'footprint'])
def test_nothing_is_mapped_while_a_frame_has_two_parents(
    make_node, peer, tf2, monkeypatch, doubted
):
    """Be it on the way to the camera, or where the floor is."""
    monkeypatch.setattr(parents, 'QUIET', 0.5)
    tf2.place(POSE, 'base', CAMERA)
    node = start(make_node(pose__source='tf', scale__floor_frame='footprint'))
    peer.listen(DEPTH, '/diagnostics')

    def send(*more):
        stamp_ns = peer.now()
        for parent, child in (('odom', 'base'), ('base', 'footprint'), *more):
            tf2.move(np.eye(4), parent, child, stamp_ns)
        peer.send(pose=None, stamp_ns=stamp_ns)

    def unmapped():
        return node._health._unmapped['tf_two_parents']

    peer.spin_until(lambda: node._health._mapped >= 3, each=send)
    assert not unmapped()
    peer.spin_until(lambda: unmapped() >= 3, each=lambda: send(('elsewhere', doubted)))
    mapped, seen = node._health._mapped, len(peer.received[DEPTH])
    peer.spin_until(lambda: unmapped() >= 10, each=lambda: send(('elsewhere', doubted)))
    assert node._health._mapped == mapped
    assert len(peer.received[DEPTH]) > seen + 3
    node.publish_diagnostics()
    peer.spin(0.2)
    level, text, values = peer.status('Mapping')
    assert level == 1
    assert text.startswith(f'not mapped: {doubted} has 2 parents in tf, ')
    assert 'elsewhere (moving)' in text
    assert int(values['unmapped.tf_two_parents']) >= 10
    peer.spin_until(lambda: node._health._mapped >= mapped + 3, each=send)  # it has ended


def test_images_that_name_no_frame_are_reported_and_place_nothing_in_tf(make_node, peer, tf2):
    view = '/sharp/view/over_shoulder/image'
    peer.listen(view)
    node = start(make_node(pose__source='none'))
    peer.spin_until(
        lambda: peer.received[view],
        each=lambda: peer.send(image=image_to_msg(IMAGE, peer.now(), ''), pose=None),
    )
    assert not tf2.sent
    assert node._health._events['no_frame_id']
    assert 'empty header.frame_id' in node._health._problems['Input'][1]


# --- the log -----------------------------------------------------------------------------------


def test_a_steady_warning_silences_its_own_kind_only(make_node, capfd):
    node = make_node()
    for kind, text in (('a', 'first'), ('a', 'once more'), ('b', 'second')):
        node._health.warn('Input', kind, text)
    node._health.warn('Mapping', 'a', 'third')
    text = log(capfd)
    assert [word for word in ('first', 'once more', 'second', 'third') if word in text] == [
        'first', 'second', 'third',
    ]  # fmt: skip
    for number in range(1000):
        node._health.warn('Views', f'frame_{number}', f'no frame {number}')
    assert len(node._throttled._recent) == log(capfd).count('no frame') + 3 < 100
