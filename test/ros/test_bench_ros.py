"""`sharp-ros bench ros`: what it reports, from a short run over DDS."""

from __future__ import annotations

from contextlib import contextmanager
import json
import subprocess
import sys

import numpy as np
import pytest

from sharp_ros.apps.cli import main
from sharp_ros.errors import SharpError
from sharp_ros.ros import bench_conversions, bench_start
from sharp_ros.ros.conversions import cloud_to_msg, image_from_msg

PARTS = {'receive', 'decode', 'pose', 'publish'}
TOPICS = {'depth/image', 'depth/camera_info', 'points', 'occupancy_grid'}


def test_quick_report_has_layer_latency_comparisons_and_start(tmp_path, capsys):
    file = tmp_path / 'report.json'
    assert main(['bench', 'ros', '--quick', '--json', str(file)]) == 0
    report = json.loads(file.read_text())
    layer = report['ros_layer']
    assert layer['pairs'] == 5
    assert layer['pipeline_ms'] > 0
    assert layer['met'] == (layer['added_ms'] <= layer['target_ms'] == 5)
    assert layer['parts_ms'].keys() == PARTS
    assert layer['parts_sum_ms'] == pytest.approx(sum(layer['parts_ms'].values()))
    outputs = layer['outputs']
    assert outputs.keys() == report['latency'].keys() == TOPICS
    assert all(ms > 0 for output in outputs.values() for ms in output.values())
    for times in report['latency'].values():
        assert 0 < times['median_ms'] <= times['p95_ms']
        assert 0 <= times['lost'] < times['sent'] == 5
    assert report['decode']['numpy']['bgr8']['other_takes_times'] > 0
    assert 'cv_bridge' in report['decode']
    assert report['cloud']['points'] == 307_200
    assert report['cloud']['create_cloud']['ours_ms'] > 0
    many = report['parameters']
    assert many['changes'] == 100
    for way in ('node', 'rclpy'):
        assert 0 < many[f'{way}_silence_ms'] <= many[f'{way}_answer_ms']
    start = report['start']
    (first,) = start['runs']
    assert 0 < first['configured_s'] < first['active_s'] < first['depth_s'] == start['median_s']
    assert start['met'] == (start['median_s'] <= start['target_s'] == 6)
    assert report['machine']['cores'] >= 1
    assert all(report[key] for key in ('commit', 'command', 'input', 'transport'))
    printed = capsys.readouterr().out
    assert all(word in printed for word in ('added', 'start to first depth', *PARTS, *TOPICS))


def test_a_node_that_does_not_start_is_reported_with_its_log(monkeypatch):
    @contextmanager
    def node_process(model, log):
        log.write_text(f'no weights at {model}')
        with subprocess.Popen([sys.executable, '-c', '']) as process:
            yield process

    monkeypatch.setattr(bench_start, 'node_process', node_process)
    with pytest.raises(SharpError, match=r'the node ended.*no weights at /nowhere'):
        bench_start._first_output('/nowhere')


def test_the_cloud_compared_with_holds_the_same_bytes():
    cloud = np.random.default_rng(0).random((4, 6, 4), np.float32)
    expected = bytes(cloud_to_msg(cloud, 0, 'camera').data)
    for as_bytes in (False, True):
        assert bytes(bench_conversions._create_cloud(cloud, as_bytes=as_bytes).data) == expected


def test_plain_numpy_decodes_as_we_do():
    msg = bench_conversions.picture_msg()
    assert np.array_equal(bench_conversions._decoded_by_numpy(msg), image_from_msg(msg))


def test_ratio_is_that_of_turns_made_side_by_side():
    # the machine is four times slower in the second turn: the ratio stays
    ratio = bench_conversions._ratio(np.array([[1.0, 3.0], [4.0, 12.0], [1.0, 3.0]]))
    assert ratio == {'ours_ms': 1.0, 'other_ms': 3.0, 'other_takes_times': 3.0}
