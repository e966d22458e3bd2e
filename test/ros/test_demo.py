"""The whole demo as a user runs it: two processes and DDS between them."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
import io
import json
import os
from pathlib import Path
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest
from rclpy.qos import qos_profile_sensor_data
from rich.console import Console
from sensor_msgs.msg import CameraInfo, Image

from sharp_ros.apps.cli import main
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.errors import SharpError
from sharp_ros.ros import demo
from sharp_ros.ros.camera_driver import CameraDriver
from sharp_ros.ros.monitor import Monitor

ROOT = Path(__file__).parents[2]


def demo_environment():
    # beside the domain of this process, and below 101, where ports would clash with others
    return {**os.environ, 'ROS_DOMAIN_ID': str(51 + os.getpid() % 50)}


def run_demo(output, *arguments, timeout=240):
    return subprocess.run(
        [sys.executable, '-m', 'sharp_ros.apps.cli', 'demo', '--output', str(output), *arguments],
        cwd=ROOT, env=demo_environment(), capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip


@contextmanager
def demo_until(text, output, *arguments):
    """A demo that has just said something, and is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'sharp_ros.apps.cli', 'demo', '--model', 'sensor',
         '--output', str(output), *arguments],
        cwd=ROOT, env=demo_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    limit = threading.Timer(240, process.kill)
    limit.start()
    try:
        said = []
        assert any(text in (said.append(line) or line) for line in process.stdout), ''.join(said)
        yield process
    finally:
        limit.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_a_mask_of_the_demo_reaches_the_node(tmp_path):
    polygon = '0,300 640,300 640,480 0,480'  # of 640x480
    done = run_demo(tmp_path, '--model', 'sensor', '--duration', '3', '--mask', polygon)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['depth']['coverage'] == pytest.approx(300 / 480, abs=0.01)


def test_up_of_the_demo_reaches_the_source(tmp_path, monkeypatch):
    given = {}

    def opened(name, **options):
        given.update(options)
        raise SharpError('enough')

    @contextmanager
    def without_ros(*arguments):
        yield demo.Demo(None, None, *arguments)

    for name, fake in {
        'open_source': opened,
        'demo': without_ros,
        'node_process': lambda *_: nullcontext(),
        'Monitor': lambda peer: None,
    }.items():
        monkeypatch.setattr(demo, name, fake)
    monkeypatch.setattr('signal.signal', lambda *_: None)
    for flags, axis in (((), None), (('--up=-y',), '-y')):
        assert main(['demo', '--output', str(tmp_path), *flags]) == 1
        assert given['up'] == axis


@pytest.mark.slow
def test_ctrl_c_ends_an_endless_demo_with_every_topic_true_depth_and_a_picture(tmp_path):
    with demo_until('every topic came back', tmp_path, '--duration', '0') as process:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output + (tmp_path / 'node.log').read_text()
    report = json.loads((tmp_path / 'report.json').read_text())
    topics = report['topics']
    for name in (
        'depth/image', 'depth/camera_info', 'points', 'gaussians', 'occupancy_grid',
        'view/over_shoulder/image', 'view/over_shoulder/camera_info',
    ):  # fmt: skip
        assert topics[name]['count'] > 0, name
        assert 0 < topics[name]['age_ms_p50'] <= topics[name]['age_ms_p95']
        assert topics[name]['age_ms_p95'] <= topics[name]['age_ms_p99']
    assert topics['gaussians']['drops'] is None  # none is due where depth is carried
    assert report['frames_in'] == report['processed'] + report['dropped']
    assert report['processed'] >= topics['depth/image']['count'] > 0
    # what left the sensor comes back: half resolution loses little
    assert report['depth']['abs_rel'] < 0.02
    assert report['depth']['delta1'] > 0.98
    picture = cv2.imread(str(tmp_path / 'overview.png'))
    assert picture.shape[0] > 700
    assert picture.std() > 20


@pytest.mark.parametrize('interrupted', [False, True])
def test_demo_streams_as_long_as_it_shall_or_until_ctrl_c(interrupted):
    executor = SimpleNamespace(spin_once=lambda timeout_sec: time.sleep(0.01))
    process, camera = SimpleNamespace(poll=lambda: None), SimpleNamespace(error=None, over=False)
    monitor = SimpleNamespace(topics={'points': SimpleNamespace(count=0)}, table=lambda sent: '')
    ctrl_c, begun = threading.Event(), time.monotonic()
    if interrupted:
        threading.Timer(0.2, ctrl_c.set).start()
    duration = 0.0 if interrupted else 0.2
    demo._watch(executor, process, camera, monitor, duration, ctrl_c, print, None)
    assert time.monotonic() - begun >= 0.2


def test_a_killed_demo_leaves_no_node_behind(tmp_path):
    with demo_until('starting the node', tmp_path) as process:
        (node,) = psutil.Process(process.pid).children()
    node.wait(timeout=30)
    assert not node.is_running()


def test_a_source_that_does_not_exist_is_one_clear_line(tmp_path):
    done = run_demo(tmp_path, '--source', '/nowhere/film.mp4', timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith('error: ')
    assert '/nowhere/film.mp4' in done.stderr
    assert 'Traceback' not in done.stderr


def test_a_node_that_cannot_start_is_reported_with_its_log(tmp_path):
    done = run_demo(tmp_path, '--model', '/nowhere/weights.safetensors', timeout=120)
    assert done.returncode == 1
    assert 'node.log' in done.stderr
    assert 'nowhere' in (tmp_path / 'node.log').read_text()


def test_counts_of_before_the_start_are_not_taken_for_the_final_ones(make_node, peer, executor):
    monitor = Monitor(peer.node)
    node = make_node()
    node.trigger_configure()
    peer.spin_until(lambda: 'Input' in monitor._values, each=node.publish_diagnostics)
    node.trigger_activate()
    node.trigger_deactivate()
    monitor.wait_for_final_counts(executor)
    assert monitor.report(0)['frames_in'] == 0


def test_what_the_node_says_of_its_map_is_reported(peer):
    monitor = Monitor(peer.node)
    assert monitor.report(0)['verdict'] is None
    monitor._values['Mapping'] = {'mapped': '3', 'verdict': 'bad', 'verdict.little_free': 'black'}
    assert monitor.report(0)['verdict'] == {'level': 'bad', 'reasons': ['black']}
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(monitor.table(0))
    assert 'the map is bad; black' in console.export_text()


def test_every_number_of_the_table_stands_under_its_name(peer):
    monitor = Monitor(peer.node)
    for age in range(1, 101):
        monitor.topics['depth/image'].arrived(b'', float(age))
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(monitor.table(104))
    lines = [re.split(r'\s*[┃│]\s*', line) for line in console.export_text().splitlines()]
    head = next(line for line in lines if 'drops' in line)
    row = next(line for line in lines if '~/depth/image' in line)
    shown = dict(zip(head[1:-1], row[1:-1], strict=True))
    assert shown['count'] == '100'
    assert [float(shown[k]) for k in ('age p50 ms', 'p95', 'p99')] == [50.5, 95.05, 99.01]
    assert shown['drops'] == '4'


def driven(peer, executor, frames):
    """What a camera driver publishes of some frames, and says."""
    source = SimpleNamespace(rate_hz=50.0, frames=lambda: iter(frames))
    sent, said = [], []
    observer = SimpleNamespace(expect=lambda stamp_ns, frame: sent.append(frame))
    for kind, topic in ((Image, 'image'), (CameraInfo, 'camera_info')):  # or none would be sent
        peer.node.create_subscription(
            kind, f'/camera/{topic}', lambda msg: None, qos_profile_sensor_data
        )
    camera = CameraDriver(peer.node, source, observer, with_depth=False, say=said.append)
    try:
        peer.spin_until(lambda: camera.over or camera.error)
    finally:
        camera.stop()
    assert camera.error is None
    return sent, said


def photo(width, height):
    image = np.zeros((height, width, 3), np.uint8)
    return Frame(image, Intrinsics.from_hfov(1.0, width, height), 0, 'camera')


def test_photos_of_other_sizes_are_resized_or_skipped_in_words(peer, executor):
    photos = [photo(64, 48), photo(128, 96), photo(48, 64), photo(64, 48), photo(48, 64)]
    sent, said = driven(peer, executor, photos)
    assert [frame.image.shape for frame in sent] == [(48, 64, 3)] * 3
    assert sent[1].intrinsics == sent[0].intrinsics
    assert len(said) == 1
    assert '48x64, where the first image is 64x48' in said[0]


def test_a_demo_ends_soon_after_its_recording(monkeypatch):
    monkeypatch.setattr(demo, '_LAST', 0.1)
    executor = SimpleNamespace(spin_once=lambda timeout_sec: time.sleep(0.01))
    process, camera = SimpleNamespace(poll=lambda: None), SimpleNamespace(error=None, over=True)
    monitor = SimpleNamespace(topics={'points': SimpleNamespace(count=0)}, table=lambda sent: '')
    said = []
    demo._watch(executor, process, camera, monitor, 0.0, threading.Event(), said.append, None)
    assert len(said) == 1
    assert 'the recording is over' in said[0]


def test_a_live_view_is_announced_only_where_it_is_served():
    with socket.create_server(('localhost', 0)) as server:
        port = server.getsockname()[1]
        assert demo.is_served(port)
    assert not demo.is_served(port)
