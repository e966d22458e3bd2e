from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import runpy
import sys

import cv2
import numpy as np
import pytest
import torch

from sharp_ros import models
from sharp_ros.apps.cli import main
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.evaluation import depth as module
from sharp_ros.evaluation.depth import (
    evaluate_depth,
    load_training_mean,
    motorcycle_frames,
    training_mean_depth,
)
from sharp_ros.evaluation.metrics import depth_metrics
from sharp_ros.models import ModelInfo
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.synthetic import Room

SCRIPT = Path(__file__).parents[1] / 'scripts' / 'training_mean.py'
INTRINSICS = Intrinsics.from_hfov(1.2, 64, 48)
SUMMARY = {
    *('abs_rel', 'delta1', 'rmse', 'coverage', 'scale_median', 'scale_std'),
    *('abs_rel_median_scaled', 'delta1_median_scaled', 'rmse_median_scaled'),
}


def scene(seed=0, low=0.5, high=6.0):
    """Smooth random depth [48, 64], metres."""
    coarse = np.random.default_rng(seed).uniform(low, high, (4, 5)).astype(np.float32)
    return cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_LINEAR)


def knowing_predictor(factor=1.0):
    """Knows the truth, except for the scale."""

    def predict(image, intrinsics, depth=None):
        rgb = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        return gaussians_from_depth(torch.from_numpy(depth * factor)[None], rgb, intrinsics)

    return predict


def frames(*depths):
    image = np.full((48, 64, 3), 90, np.uint8)
    return [Frame(image, INTRINSICS, i, 'camera', depth=d) for i, d in enumerate(depths)]


def engine(predictor):
    return Engine(predictor, ModelConfig())


# --- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize('posed', [False, True])
def test_the_robot_itself_does_not_count_behind_a_mask(posed):
    """Predicted is the scene, without the robot that the truth has in the lower part."""
    behind = scene()
    truth = behind.copy()
    truth[36:] = 0.2
    (frame,) = frames(truth)
    if posed:
        frame = replace(frame, T_world_camera=np.eye(4), world_frame='world')
    info = ModelInfo('oracle', 'for tests', 'Apache-2.0', metric=True)
    knowing = knowing_predictor()

    def predict(image, intrinsics, depth=None):
        return knowing(image, intrinsics, behind)

    found = [
        evaluate_depth([frame], engine(predict), info, mask)['abs_rel']
        for mask in ('', '0,36 63,36 63,47 0,47')
    ]
    assert found[0] > 0.5
    assert found[1] < 0.01


def test_metrics_agree_with_hand_computed_values():
    truth, prediction = np.full((20, 20), 2.0), np.full((20, 20), 2.0)
    prediction[:5] = 3.0  # a quarter of the pixels is 1 m too far, ratio 1.5
    metrics = depth_metrics(prediction, truth)
    assert metrics['abs_rel'] == pytest.approx(0.25 * 0.5)
    assert metrics['delta1'] == pytest.approx(0.75)
    assert metrics['rmse'] == pytest.approx(0.5)  # sqrt(1/4 * 1)
    assert metrics['scale'] == 1.0
    assert metrics['abs_rel_median_scaled'] == metrics['abs_rel']
    assert metrics['coverage'] == 1.0
    assert metrics['pixels'] == 400


def test_perfect_prediction_has_no_error():
    metrics = depth_metrics(scene(), scene())
    assert metrics['abs_rel'] == metrics['rmse'] == metrics['rmse_median_scaled'] == 0
    assert metrics['delta1'] == metrics['scale'] == 1


@pytest.mark.parametrize('factor', [0.4, 1.3, 7.0])
def test_median_scaled_metrics_do_not_see_the_scale(factor):
    rng = np.random.default_rng(3)
    prediction = scene() * np.exp(rng.normal(0, 0.1, (48, 64)))
    plain, scaled = (depth_metrics(prediction * f, scene()) for f in (1.0, factor))
    for name in ('abs_rel', 'delta1', 'rmse'):
        key = f'{name}_median_scaled'
        assert scaled[key] == pytest.approx(plain[key], rel=1e-6)
    assert scaled['scale'] == pytest.approx(plain['scale'] / factor, rel=1e-6)
    assert scaled['abs_rel'] > plain['abs_rel']


def test_relative_metrics_do_not_depend_on_the_unit_and_rmse_grows_with_it():
    prediction, truth = scene(1), scene(2)
    metres, doubled = depth_metrics(prediction, truth), depth_metrics(2 * prediction, 2 * truth)
    assert doubled['abs_rel'] == pytest.approx(metres['abs_rel'])
    assert doubled['delta1'] == metres['delta1']
    assert doubled['rmse'] == pytest.approx(2 * metres['rmse'])


@pytest.mark.parametrize('nothing', [0.0, np.nan, np.inf, -1.0, 0.1, 25.0])
def test_pixels_without_usable_truth_do_not_count(nothing):
    truth, prediction = scene(), scene()
    truth[:10] = nothing
    prediction[:10] = 99.0
    metrics = depth_metrics(prediction, truth)
    assert metrics['abs_rel'] == 0
    assert metrics['coverage'] == 1
    assert metrics['pixels'] == 38 * 64


@pytest.mark.parametrize('nothing', [0.0, np.nan, np.inf, -1.0])
def test_missing_predictions_lower_the_coverage_only(nothing):
    prediction = scene()
    prediction[:12] = nothing
    metrics = depth_metrics(prediction, scene())
    assert metrics['abs_rel'] == 0
    assert metrics['coverage'] == pytest.approx(0.75)


def test_images_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match='differ in size'):
        depth_metrics(np.ones((4, 5)), np.ones((5, 4)))
    with pytest.raises(InputError, match='unit of the truth') as caught:
        depth_metrics(scene(), scene() * 1000)  # millimetres
    assert caught.value.reason == 'no_truth'


# --- models and baselines ------------------------------------------------------------------------


def test_knowing_model_is_perfect_and_beats_the_baselines():
    report = evaluate_depth(frames(scene(1), scene(2)), engine(knowing_predictor()))
    assert report['frames'] == 2
    assert report['abs_rel'] == pytest.approx(0, abs=1e-4)
    assert report['delta1'] == 1
    assert report['scale_std'] == pytest.approx(0, abs=1e-4)
    assert 0 < report['latency_ms']['p50'] <= report['latency_ms']['p95']
    for baseline in report['baselines'].values():
        assert set(baseline) - {'depth'} == SUMMARY
        assert baseline['abs_rel'] > 0.1


def test_scale_and_its_spread_over_frames_are_reported():
    # a model that says 2 m for everything, before walls at 1 m and at 4 m
    def two_metres(image, intrinsics, depth=None):
        return knowing_predictor()(image, intrinsics, np.full_like(depth, 2.0))

    walls = [np.full((48, 64), d, np.float32) for d in (1.0, 4.0)]
    report = evaluate_depth(frames(*walls), engine(two_metres))
    assert report['scale_median'] == pytest.approx((0.5 + 2) / 2)
    assert report['scale_std'] == pytest.approx(np.log(2), abs=1e-3)
    assert report['abs_rel'] == pytest.approx((1.0 + 0.5) / 2)
    assert report['abs_rel_median_scaled'] == pytest.approx(0, abs=1e-4)


def test_the_scale_that_the_node_finds_over_poses_is_judged_besides():
    room, k = Room(2), Intrinsics.from_hfov(1.2, 320, 240)
    shown = []
    for i in range(25):
        pose = room.pose(i * 0.1)
        image, depth = room.render(k, pose)
        shown.append(Frame(image, k, i * 10**8, 'camera', pose, 'world', depth))

    def too_far(image, intrinsics, depth=None):
        true = next((f.depth for f in shown if f.image is image), shown[0].depth)
        z = torch.from_numpy(true * np.float32(1.4))[None]
        return gaussians_from_depth(z, torch.zeros(3, 240, 320), k)

    info = ModelInfo('too_far', 'for tests', 'Apache-2.0', metric=True)
    report = evaluate_depth(shown, engine(too_far), info)
    assert report['abs_rel'] == pytest.approx(0.4, abs=0.02)
    assert report['published']['abs_rel'] < 0.2
    assert 0 <= report['scale_coverage_2std'] <= 1
    assert report['scale_worst_std'] > 0
    assert 'published' not in evaluate_depth(shown[:2], engine(too_far))
    # what the node sees teaches it, whether or not anyone knows the truth of it
    blind = [replace(f, depth=None) if i < 20 else f for i, f in enumerate(shown)]
    taught = evaluate_depth(blind, engine(too_far), info)
    assert taught['frames'] == 5
    assert taught['published']['abs_rel'] < 0.05


def test_frames_without_truth_are_counted_and_left_out():
    empty = np.zeros((48, 64), np.float32)
    report = evaluate_depth(frames(None, scene(), empty), engine(knowing_predictor()))
    assert report['frames'] == 1
    assert report['frames_without_truth'] == 2


def test_source_that_never_has_depth_is_given_up_with_advice():
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield frames(None)[0]

    with pytest.raises(InputError, match='no true depth'):
        evaluate_depth(endless(), engine(knowing_predictor()))
    assert asked < 100


def test_training_mean_is_computed_from_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', [*sys.path])  # the script changes it
    save_training_mean = runpy.run_path(str(SCRIPT))['save_training_mean']
    rows = np.linspace(1, 3, 24).repeat(8)[:, None] * np.ones(256)
    low, high = rows / np.exp(0.2), rows * np.exp(0.2)
    for i, depth in enumerate((low, high)):
        np.savez(tmp_path / f'{i}.npz', d=depth[None].astype(np.float16))
    save_training_mean(sorted(tmp_path.glob('?.npz')), tmp_path / 'mean')
    with np.load(tmp_path / 'mean.npz') as file:
        mean, median, images = file['mean_log_depth'], file['median_depth'], file['images']
    assert mean.shape == (24, 32)
    np.testing.assert_allclose(np.exp(mean[:, 5]), np.linspace(1, 3, 24), rtol=2e-3)
    assert median == pytest.approx(2.0, rel=0.05)
    assert images == 2


def test_committed_training_mean_looks_like_rooms():
    mean, median = load_training_mean()
    assert 1 < median < 3
    depth = training_mean_depth(mean, Intrinsics.from_hfov(1.0, 320, 240))
    assert depth.shape == (240, 320)
    assert depth[-20:].mean() < depth[100:140].mean()  # the floor in front is nearer


def test_missing_baselines_are_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(module, 'TRAINING_MEAN', tmp_path / 'none.npz')
    with pytest.raises(CheckpointError, match='reinstall'):
        load_training_mean()


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def knowing_model(monkeypatch):
    info = ModelInfo('oracle', 'knows', 'CC0-1.0', metric=True)
    monkeypatch.setattr(models, 'load_predictor', lambda name, device: (knowing_predictor(), info))


@pytest.fixture
def tum_folder(tmp_path):
    """Three frames of an RGB-D recording, millimetres in 16 bits."""
    folder = tmp_path / 'recording'
    folder.mkdir()
    lists = {'rgb': [], 'depth': []}
    for i in range(3):
        files = {
            'rgb': np.full((48, 64, 3), 60 * i, np.uint8),
            'depth': np.round(scene(i) * 1000).astype(np.uint16),
        }
        files['depth'][:5] = 0  # no measurement
        for kind, image in files.items():
            cv2.imwrite(str(folder / f'{kind}{i}.png'), image)
            lists[kind].append(f'{i / 10} {kind}{i}.png\n')
    for kind, lines in lists.items():
        (folder / f'{kind}.txt').write_text(''.join(lines))
    k = INTRINSICS
    (folder / 'camera.yaml').write_text(
        f'width: 64\nheight: 48\nfx: {k.fx}\nfy: {k.fy}\ncx: {k.cx}\ncy: {k.cy}\n'
        'depth_scale: 1000\n'
    )
    return folder


def test_report_of_a_recording_is_complete(knowing_model, tum_folder, tmp_path, capsys):
    assert main(['eval', 'depth', str(tum_folder), '--json', str(tmp_path / 'r.json')]) == 0
    report = json.loads((tmp_path / 'r.json').read_text())
    assert report['frames'] == 3
    assert report['abs_rel'] == pytest.approx(0, abs=1e-3)
    assert report['delta1'] == 1
    assert report['model'] == 'oracle'
    assert report['licence'] == 'CC0-1.0'
    assert set(report) >= SUMMARY | {'latency_ms', 'machine', 'baselines', 'source', 'device'}
    assert report['commit']
    assert set(report['baselines']) == {'constant', 'training_mean', 'floor_plane'}
    table = capsys.readouterr().out
    assert 'oracle' in table
    assert 'room mean' in table


def test_number_of_frames_can_be_limited(knowing_model, tum_folder, tmp_path):
    report = tmp_path / 'r.json'
    arguments = ['eval', 'depth', str(tum_folder), '--max-frames', '2', '--json', str(report)]
    assert main(arguments) == 0
    assert json.loads(report.read_text())['frames'] == 2


def test_former_command_gives_the_same_report_with_one_line_of_advice(
    knowing_model, tum_folder, tmp_path, capsys
):
    file, reports = tmp_path / 'r.json', []
    for arguments in (['eval', 'depth'], ['eval']):
        assert main([*arguments, str(tum_folder), '--json', str(file)]) == 0
        reports.append(json.loads(file.read_text()))
        err = capsys.readouterr().err
    assert err == f'advice: this is now `sharp-ros eval depth {tum_folder}`\n'
    new, former = reports
    assert list(former) == list(new)
    for varying in ('latency_ms', 'machine'):
        del new[varying], former[varying]
    assert former == new


def test_folder_of_photos_has_no_truth(knowing_model, tum_folder, capsys):
    for name in ('rgb.txt', 'depth.txt', 'camera.yaml'):
        (tum_folder / name).unlink()
    assert main(['eval', 'depth', str(tum_folder)]) == 1
    assert 'no true depth' in capsys.readouterr().err


def test_motorcycle_has_the_depth_of_its_calibration():
    pytest.importorskip('skimage')
    (frame,) = motorcycle_frames()
    assert frame.image.shape == (500, 741, 3)
    known = np.isfinite(frame.depth)
    assert known.mean() > 0.9
    assert 2 < np.median(frame.depth[known]) < 4
    assert frame.intrinsics.fx == 994.978


def test_without_scikit_image_the_motorcycle_says_so(knowing_model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'skimage.data', None)
    assert main(['eval', 'depth', 'motorcycle']) == 1
    assert 'pip install scikit-image' in capsys.readouterr().err
