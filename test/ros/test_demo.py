"""The whole demo as a user runs it: two processes and DDS between them."""

from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import cv2
import psutil
import pytest

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


@pytest.mark.slow
def test_demo_reports_every_topic_true_depth_and_a_picture(tmp_path):
    done = run_demo(tmp_path, '--model', 'sensor', '--duration', '6')
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / 'node.log').read_text()
    report = json.loads((tmp_path / 'report.json').read_text())
    topics = report['topics']
    for name in (
        'depth/image', 'depth/camera_info', 'points', 'gaussians', 'occupancy_grid',
        'view/over_shoulder/image', 'view/over_shoulder/camera_info',
    ):  # fmt: skip
        assert topics[name]['count'] > 0, name
        assert 0 < topics[name]['age_ms_p50'] <= topics[name]['age_ms_p95']
    assert report['frames_in'] == report['processed'] + report['dropped']
    assert report['processed'] >= topics['depth/image']['count'] > 0
    # what left the sensor comes back: half resolution loses little
    assert report['depth']['abs_rel'] < 0.02
    assert report['depth']['delta1'] > 0.98
    picture = cv2.imread(str(tmp_path / 'overview.png'))
    assert picture.shape[0] > 700
    assert picture.std() > 20


def test_ctrl_c_ends_an_endless_demo_with_its_report(tmp_path):
    demo = subprocess.Popen(
        [sys.executable, '-m', 'sharp_ros.apps.cli', 'demo', '--model', 'sensor',
         '--duration', '0', '--output', str(tmp_path)],
        cwd=ROOT, env=demo_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        assert any('streaming' in line for line in demo.stdout), 'the demo ended early'
        time.sleep(8)
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 0, output
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['frames_in'] == report['processed'] + report['dropped'] > 0


def test_a_killed_demo_leaves_no_node_behind(tmp_path):
    demo = subprocess.Popen(
        [sys.executable, '-m', 'sharp_ros.apps.cli', 'demo', '--model', 'sensor',
         '--output', str(tmp_path)],
        cwd=ROOT, env=demo_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert any('starting the node' in line for line in demo.stdout)
    (node,) = psutil.Process(demo.pid).children()
    demo.kill()
    demo.wait()
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
