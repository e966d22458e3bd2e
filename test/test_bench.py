from __future__ import annotations

import json
import mmap

import pytest
import torch

from sharp_ros.apps.cli import main
from sharp_ros.config import ModelConfig, SharpConfig
from sharp_ros.evaluation import circumstances, speed
from sharp_ros.evaluation.speed import endurance, measure, plain_frames, Stage
from sharp_ros.network.nano import NanoNetwork, save_weights
from sharp_ros.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures('one_thread')

STAGES = {
    *('decode_rectify_rgb8', 'decode_rectify_bgr8', 'decode_rectify_bayer_rggb8'),
    *(
        'decode_rectify_yuv422_yuy2',
        'decode_rectify_nv12',
        'network',
        'depth',
        'cloud_message',
        'scan',
    ),
    *(
        'scan',
        'occupancy',
        'visual_odometry',
        'carried_depth',
        'refinement',
        'fuse_keyframe',
        'fuse_surface_keyframe',
        'view_320x240',
        'view_640x480',
        'view_320x240_1.18M',
        'view_640x480_1.18M',
    ),
    'whole_frame',
}


def test_quick_report_has_every_stage_with_its_target(tmp_path, capsys):
    torch.manual_seed(0)
    weights, file = tmp_path / 'nano.safetensors', tmp_path / 'report.json'
    save_weights(NanoNetwork(), weights, {})
    assert main(['bench', '--quick', '--model', str(weights), '--json', str(file)]) == 0
    report = json.loads(file.read_text())
    assert set(report['stages']) == STAGES
    for name, stage in report['stages'].items():
        if 'not_measured' in stage:
            assert name == 'cloud_message'
            assert 'not installed' in stage['not_measured']
            continue
        assert 0 < stage['median_ms'] <= stage['p95_ms']
        assert stage['runs'] > 0
        if stage['target_ms'] is not None:
            assert stage['met'] == (stage['median_ms'] <= stage['target_ms'])
    assert {n for n, s in report['stages'].items() if s['target_ms']} == {
        n for n in STAGES if n != 'depth' and 'view_320x240' not in n
    }
    assert 10 < report['memory']['rss_mb'] < 1e5
    assert report['endurance'] is None
    assert report['machine']['cores'] >= 1
    assert all(report[key] for key in ('commit', 'command', 'model', 'device', 'input'))
    printed = capsys.readouterr().out
    assert all(name in printed for name in STAGES)


def test_stage_runs_once_more_for_each_run_and_the_warm_up():
    calls = []
    result = measure(Stage(lambda: calls.append(1), target_ms=1000), runs=4)
    assert len(calls) == 4 + speed._WARM_UP
    assert result['runs'] == 4
    assert result['met'] is True


def test_slow_stages_are_run_less_often(monkeypatch):
    monkeypatch.setattr(speed, '_STAGE_BUDGET', 0.0)
    calls = []
    assert measure(Stage(lambda: calls.append(1)), runs=50)['runs'] == len(calls) == 1


def test_target_that_is_missed_is_reported_as_missed():
    assert measure(Stage(lambda: sum(range(10_000)), target_ms=1e-6), runs=3)['met'] is False


def test_stage_without_its_package_is_reported_with_the_reason():
    def needs_ros():
        raise ModuleNotFoundError('No module', name='sensor_msgs')

    result = measure(Stage(needs_ros, 8.0), runs=3)
    assert result == {'not_measured': 'sensor_msgs is not installed', 'target_ms': 8.0}


def test_endurance_reports_memory_that_grows(monkeypatch):
    usage = iter(range(100, 10**6, 50))  # 50 MB a frame
    monkeypatch.setattr(speed, 'rss_mb', lambda: float(next(usage)))
    config = SharpConfig(model=ModelConfig(name='sensor'), views={})
    pipeline = Pipeline.from_config(config)
    result = endurance(pipeline, plain_frames, minutes=0.01)
    assert result['frames'] >= 2
    assert result['rss_end_mb'] > result['rss_start_mb']
    assert result['drift_mb_per_minute'] > 0
    assert result['met'] == (result['drift_mb'] <= speed.MAX_DRIFT_MB)


def test_memory_of_this_process_is_plausible():
    before = circumstances.rss_mb()
    with mmap.mmap(-1, 100_000_000) as ballast:  # malloc may have as much at hand already
        ballast.write(b'x' * len(ballast))
        assert circumstances.rss_mb() - before > 50


def test_version_stands_in_where_there_is_no_repository(monkeypatch, tmp_path):
    elsewhere = tmp_path / 'sharp_ros' / 'evaluation' / 'circumstances.py'
    monkeypatch.setattr(circumstances, '__file__', str(elsewhere))
    assert circumstances.commit() == circumstances.__version__
