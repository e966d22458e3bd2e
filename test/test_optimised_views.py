"""`eval views --against optimiser`: one image, the fused map and the optimised one, over time."""

from __future__ import annotations

from itertools import pairwise
import json
import time

import cv2
import numpy as np
import pytest

from sharp_ros.apps.cli import main
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import InputError
from sharp_ros.evaluation import view_pairs
from sharp_ros.evaluation.optimised import curve_of_run, evaluate_optimised, held_out
from sharp_ros.evaluation.view_pairs import room_frames
from sharp_ros.network.predictor import SensorPredictor
from sharp_ros.optimise import Optimiser

pytest.importorskip('skimage')
pytestmark = pytest.mark.usefixtures('one_thread')
SIZE = (96, 72)


@pytest.fixture(scope='module')
def frames():
    return list(room_frames(0, 60, SIZE))[:24]


def test_every_eighth_image_is_held_out():
    assert np.flatnonzero(held_out(24)).tolist() == [4, 12, 20]
    assert not held_out(10, 21).any()


def test_curves_of_a_room_rise_from_one_image_to_the_optimised_map(frames):
    engine = Engine(SensorPredictor(stride=1), ModelConfig(name='sensor', device='cpu'))
    marks = []

    def watched(stages):
        for share in stages:
            marks.append(share)
            yield share

    report = evaluate_optimised(frames, engine, 3.0, 'cpu', watched, compare_speed=False)
    assert (report['images'], report['held_out'], report['size']) == (24, 3, list(SIZE))
    assert [p['images'] for p in report['fused']] == [1, 2, 4, 8, 16, 21]
    assert marks == [3, 6, 12, 25, 50, 100]
    points = [report['instant'], *report['fused'], *report['optimised']]
    assert all(p['rss_mb'] > 0 and p['gaussians'] > 0 for p in points)
    for a, b in pairwise([*report['fused'], *report['optimised']]):
        assert a['seconds'] < b['seconds']
    assert 0 < report['first_view'] == report['instant']['seconds']
    first, last = report['fused'][0], report['fused'][-1]
    assert last['all']['psnr'] > first['all']['psnr'] + 2
    gained = report['optimised'][-1]
    assert gained['iterations'] > report['optimised'][0]['iterations']
    assert gained['all']['psnr'] > last['all']['psnr']
    assert gained['common']['psnr'] > last['common']['psnr']


def test_what_is_compiled_on_first_use_is_no_time_of_the_optimisation(frames, monkeypatch):
    steps = []

    def step(optimiser, progress):
        time.sleep(0.01 if steps else 0.5)  # the first one compiles
        steps.append(progress)

    monkeypatch.setattr(Optimiser, 'step', step)
    engine = Engine(SensorPredictor(stride=4), ModelConfig(name='sensor', device='cpu'))
    evaluate_optimised(frames[:16], engine, 0.2, 'cpu', compare_speed=False)
    assert len(steps) > 2


def test_command_writes_the_curves(frames, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(view_pairs, 'room_frames', lambda seed: iter(frames))
    report = tmp_path / 'report.json'
    command = ['eval', 'views', 'synthetic', '--against', 'optimiser', '--model', 'sensor']
    command += ['--minutes', '0.01', '--max-frames', '16', '--json', str(report)]
    assert main([*command, '--pictures', str(tmp_path / 'curves')]) == 0
    out = capsys.readouterr().out
    assert 'room 0: 2 of 16 images held out' in out
    assert 'one image' in out
    (run,) = json.loads(report.read_text())['runs']
    picture = cv2.imread(str(tmp_path / 'curves' / 'room_0.png'))
    np.testing.assert_array_equal(picture[..., ::-1], curve_of_run(run))
    for colour in ((220, 60, 40), (40, 110, 220), (40, 150, 60)):  # one image, map, optimised
        assert (picture[..., ::-1] == colour).all(-1).sum() > 50
    assert run['name'] == 'room 0'
    speed = run['speed']  # of the same loop with the reference renderer, in turn
    assert speed['size'] == list(SIZE)
    assert speed['iterations_per_s'] > speed['reference_iterations_per_s'] > 0
    assert speed['ratio'] > 3  # of so few pixels; a real image has 20 and more


def test_a_sequence_without_poses_is_refused(frames):
    engine = Engine(SensorPredictor(stride=2), ModelConfig(name='sensor', device='cpu'))
    with pytest.raises(InputError, match='only 15 images have a pose'):
        evaluate_optimised(frames[:15], engine, 1.0, 'cpu')


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--minutes', '0'], 'give a time'),
        (['--seeds', '0'], 'number of rooms'),
    ],
)
def test_what_cannot_be_compared_is_said(flags, words, capsys):
    assert main(['eval', 'views', 'synthetic', '--against', 'optimiser', *flags]) == 1
    assert words in capsys.readouterr().err
