"""Cameras that die, hurry or live in another time, and networks that fail, hang or lie."""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import cv2
from diagnostic_msgs.msg import DiagnosticStatus
from node_process import ROOT
import numpy as np
import psutil
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from ros_helpers import WALL, WallOracle
from rosgraph_msgs.msg import Clock
import torch

from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import InputError
from sharp_ros.models import load_predictor
from sharp_ros.pipeline import Pipeline
from sharp_ros.ros import diagnostics
from sharp_ros.ros.conversions import depth_from_msg, stamp_ns_from_msg, stamp_to_msg
from sharp_ros.ros.node import SharpNode
from sharp_ros.worker import Worker

pytestmark = pytest.mark.ros

SUCCESS, ERROR = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.ERROR
DEPTH = '/sharp/depth/image'
SECOND = 10**9


def start(node):
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    return node


def counts(node):
    return node._worker.counts()


def flows(peer, each=None):
    """Depth of the wall comes out."""
    peer.received[DEPTH].clear()
    peer.spin_until(lambda: peer.received[DEPTH], each=each or peer.send)
    depth = depth_from_msg(peer.received[DEPTH][-1])
    np.testing.assert_allclose(np.nanmedian(depth), WALL, rtol=0.02)


def adds_up(node):
    total = counts(node)
    assert total.frames_in == total.processed + total.dropped + total.pending
    return total


# --- cameras -----------------------------------------------------------------------------------


def test_a_camera_that_is_killed_is_missed_and_taken_back(make_node, peer, monkeypatch):
    now, silences = 100.0, 0  # seconds; on a busy machine any pause could be a stall
    monkeypatch.setattr(diagnostics, 'time', SimpleNamespace(monotonic=lambda: now))
    command = [sys.executable, str(Path(__file__).with_name('camera_process.py')), '30']
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    peer.listen(DEPTH, '/diagnostics')
    node = start(make_node())
    threads = None
    for _ in range(2):
        camera = subprocess.Popen(command, env=environment)
        try:
            flows_from_camera = len(peer.received[DEPTH]) + 3
            peer.spin_until(lambda n=flows_from_camera: len(peer.received[DEPTH]) >= n, 240)
        finally:
            camera.kill()  # SIGKILL: it says goodbye to nobody
            camera.wait()

        def missed():
            nonlocal now, silences
            if not node._health.silence():  # the newest image may have come after the end
                now, silences = now + 10, silences + 1
            peer.diagnose(node)
            silent = node._health.silence()  # it may have come since the diagnostics were made
            return silent and peer.status('Input')[0] == DiagnosticStatus.ERROR[0]

        peer.spin_until(missed)
        assert 'no image for 10.0 s' in peer.status('Input')[1]
        threads = threads or psutil.Process().num_threads()
        assert psutil.Process().num_threads() <= threads + 1  # of the middleware
        assert node._health._events['stall_recovered'] == silences - 1
    flows(peer)
    adds_up(node)


def test_30_hz_into_a_network_of_1_hz_give_fresh_frames_and_counted_drops(
    make_node, peer, long_form
):
    oracle, period = WallOracle(), 1.0
    peer.listen(DEPTH)
    node = start(make_node(oracle))
    oracle.nap = period
    seen, lags = 0, []

    def feed():
        nonlocal seen
        for msg in peer.received[DEPTH][seen:]:
            lags.append((peer.now() - stamp_ns_from_msg(msg.header)) / 1e9)
        seen = len(peer.received[DEPTH])
        peer.send()

    begun = time.monotonic()
    number = 20 if long_form else 4
    peer.spin_until(lambda: len(lags) >= number, 10.0 * number, each=feed, period=1 / 30)
    measured = (time.monotonic() - begun) / number  # of the network and all that is around it
    assert max(lags) < 2 * max(measured, period)
    assert node.trigger_deactivate() == SUCCESS
    total = adds_up(node)
    assert total.reasons['replaced'] > 5 * total.processed
    assert set(total.reasons) <= {'replaced', 'stopped', 'no_camera_info'}


@pytest.mark.parametrize(
    'sent', ['a minute ahead', 'of the year 2100', 'of 1970', 'before 1970', 'the latest there is']
)
def test_one_wrong_stamp_costs_no_more_than_its_frame(make_node, peer, sent):
    peer.listen(DEPTH)
    node = start(make_node())
    flows(peer)
    stamp_ns = {
        'a minute ahead': peer.now() + 60 * SECOND,
        'of the year 2100': 4_102_444_800 * SECOND,
        'of 1970': 1,
        'before 1970': -5 * SECOND,
        'the latest there is': (2**31 - 1) * SECOND + SECOND - 1,
    }[sent]
    before = counts(node).frames_in
    peer.spin_until(
        lambda: counts(node).frames_in > before, each=lambda: peer.send(stamp_ns=stamp_ns)
    )
    flows(peer)
    assert 'internal_error' not in adds_up(node).reasons
    mapped = node._health._mapped
    peer.spin_until(lambda: node._health._mapped > mapped, each=peer.send)


def test_simulated_time_may_jump_ahead_back_and_stand_still(make_node, peer):
    clock = peer.node.create_publisher(Clock, '/clock', QoSProfile(depth=1))
    peer.node.set_parameters([Parameter('use_sim_time', value=True)])
    peer.listen(DEPTH, '/diagnostics')
    node = start(make_node(use_sim_time=True))
    now = 1000 * SECOND

    def tick(step=SECOND // 20):
        nonlocal now
        now += step
        clock.publish(Clock(clock=stamp_to_msg(now)))

    def send():
        tick()
        peer.send(stamp_ns=now)

    for jump in (0, 3600 * SECOND, -7200 * SECOND + 3700 * SECOND, -50 * SECOND):
        tick(jump)
        peer.spin_until(lambda: abs(node.get_clock().now().nanoseconds - now) < SECOND // 2,
                        each=lambda: tick(0))  # fmt: skip
        flows(peer, send)
        peer.received['/diagnostics'].clear()
        peer.spin_until(lambda: peer.received['/diagnostics'], each=send)
        assert stamp_ns_from_msg(peer.received[DEPTH][-1].header) <= now
    assert node._health._events['stamp_went_back'] == 2
    # a simulator that is paused
    flows(peer, lambda: peer.send(stamp_ns=now))
    assert 'internal_error' not in adds_up(node).reasons


# --- networks ----------------------------------------------------------------------------------


class NanOracle(WallOracle):
    """Returns what is not a number while `lies`."""

    lies = False

    def __call__(self, image, intrinsics, depth=None):
        gaussians = super().__call__(image, intrinsics, depth)
        if self.lies:
            gaussians.means[:] = float('nan')
        return gaussians


@pytest.mark.parametrize(
    ('fault', 'reason'),
    [
        (ValueError('a bug'), 'internal_error'),
        (MemoryError(), 'internal_error'),
        (InputError('too dark', 'too_dark'), 'too_dark'),
        (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'), 'failed'),
        (RuntimeError('CUDA error: out of memory'), 'failed'),
        ('nan', 'not_finite'),
    ],
    ids=str,
)
def test_a_network_that_fails_costs_frames_which_are_counted(make_node, peer, fault, reason):
    peer.listen(DEPTH)
    if reason == 'failed':  # what a network on a device says when memory is short
        nano, info = load_predictor('nano')
        node = make_node()
        broken, forward = [], nano.forward

        def faulty(*inputs):
            if broken:
                raise fault
            return forward(*inputs)

        nano.forward = faulty
        node._make_pipeline = lambda config: Pipeline(Engine(nano, ModelConfig()), info, config)
        fail, heal = lambda: broken.append(1), broken.clear
    else:
        oracle = NanOracle()
        node = make_node(oracle)

        def fail():
            oracle.lies, oracle.fault = fault == 'nan', None if fault == 'nan' else fault

        def heal():
            oracle.lies, oracle.fault = False, None

    start(node)
    peer.spin_until(lambda: peer.received[DEPTH], each=peer.send)
    fail()
    peer.spin_until(lambda: counts(node).reasons.get(reason, 0) >= 3, each=peer.send)
    heal()
    peer.received[DEPTH].clear()
    peer.spin_until(lambda: peer.received[DEPTH], each=peer.send)
    assert set(adds_up(node).reasons) <= {reason, 'replaced', 'no_camera_info'}
    assert node.trigger_deactivate() == SUCCESS


class Hanging(WallOracle):
    """Hangs for the one call after `hang` was set, until `gate` opens; of the frame `stamp_ns`."""

    def __init__(self):
        super().__init__()
        self.hang, self.gate, self.ended = False, threading.Event(), threading.Event()

    def __call__(self, image, intrinsics, depth=None):
        if not self.hang:
            return super().__call__(image, intrinsics, depth)
        self.hang = False
        assert self.gate.wait(60)
        try:
            return super().__call__(image, intrinsics, depth)
        finally:
            self.ended.set()


@pytest.fixture
def hung(make_node, peer, monkeypatch):
    """A node with a frame that hangs, and its network."""
    monkeypatch.setattr(diagnostics, '_HANGS', 0.3)
    monkeypatch.setattr(diagnostics, '_HANGS_TIMES', 0.0)
    oracle = Hanging()
    peer.listen(DEPTH, '/diagnostics')
    node = start(make_node(oracle))
    flows(peer)
    begin = node._session.pipeline.begin

    def noted(frame, wanted):
        oracle.stamp_ns = frame.stamp_ns
        return begin(frame, wanted)

    monkeypatch.setattr(node._session.pipeline, 'begin', noted)
    oracle.hang = True

    def reported():
        node.publish_diagnostics()
        peer.send()
        level, message, _ = (
            peer.status('Inference') if peer.received['/diagnostics'] else (0, '', 0)
        )
        return level == DiagnosticStatus.ERROR[0] and 'frame in progress' in message

    peer.spin_until(reported)
    yield node, oracle
    oracle.gate.set()


def test_a_hanging_network_is_reported_and_deactivate_says_what_to_do(hung, peer, monkeypatch):
    node, _ = hung
    given, stop = [], Worker.stop

    def counted(worker, seconds):
        given.append(seconds)
        return stop(worker, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, 'stop', counted)
        assert node.trigger_deactivate() == ERROR
    assert given == [5.0], 'the frame was given its 5 s more than once'
    assert node._label == 'unconfigured'
    start(node)  # over a network made anew
    flows(peer)
    assert 'internal_error' not in adds_up(node).reasons


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(SharpNode._stop, '__defaults__', (0.0, 0.2))


def test_a_frame_that_hung_ends_without_an_error_after_its_run(hung, peer, impatient):
    node, oracle = hung
    assert node.trigger_deactivate() == ERROR
    oracle.gate.set()
    assert oracle.ended.wait(10)
    peer.spin(0.5)
    assert 'Inference' not in node._health._problems, node._health._problems


def test_a_frame_that_hung_is_not_published_by_the_next_run(hung, peer, impatient):
    node, oracle = hung
    assert node.trigger_deactivate() == ERROR
    late_ns = max(peer.stamps_sent)
    start(node)
    peer.spin(0.5)
    oracle.gate.set()
    assert oracle.ended.wait(10)
    peer.spin(0.5)
    stamps = [stamp_ns_from_msg(msg.header) for msg in peer.received[DEPTH]]
    assert not [s for s in stamps if oracle.stamp_ns <= s <= late_ns]
    assert not node._health._mapped


# --- all of it, for a while --------------------------------------------------------------------


def test_a_short_soak_is_measured_and_drawn(tmp_path):
    """That memory is flat takes minutes to say: make soak."""
    command = [sys.executable, str(Path(__file__).with_name('soak.py')), '--minutes', '0.15']
    done = subprocess.run(
        [*command, '--output', str(tmp_path)], capture_output=True, text=True, check=False,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])}, timeout=300,
    )  # fmt: skip
    assert (tmp_path / 'soak.json').is_file(), done.stdout + done.stderr
    report = json.loads((tmp_path / 'soak.json').read_text())
    assert report['exit_code'] == 0
    assert report['frames_in'] == report['processed'] + report['dropped'] > 0
    assert report['processed'] > 0
    assert len(report['samples']) >= 5
    picture = cv2.imread(str(tmp_path / 'soak.png'))
    assert picture.shape[1] == 900
    assert (picture.min(2) < 128).any(1).sum() > 100  # lines on most rows of the charts
