"""`bench/nano_report.py` on models that know the truth, or err in a known way."""

from __future__ import annotations

from dataclasses import replace
import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sharp_ros import models
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.errors import ConfigError
from sharp_ros.evaluation.depth import evaluate_depth, floor_depth
from sharp_ros.evaluation.metrics import uncertainty_metrics
from sharp_ros.files import sha256_of
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.network.nano import load_weights
from sharp_ros.network.predictor import NanoPredictor
from sharp_ros.se3 import look_at

pytestmark = pytest.mark.usefixtures('one_thread')

ROOT = Path(__file__).parents[1]
FLOOR_POSE = look_at(np.array([0.0, 0, 1.2]), np.array([2.0, 0.3, 0]), np.array([0.0, 0, 1]))


@pytest.fixture(scope='module')
def report():
    """The program as a module; it sets the path for itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / 'bench')
        yield importlib.import_module('nano_report')


def floor(field=70.0, pose=FLOOR_POSE, width=320):
    """A camera that sees an empty floor, all of it below the horizon."""
    k = Intrinsics.from_hfov(math.radians(field), width, width * 3 // 4)
    depth = floor_depth(k, pose, 20.0)
    texture = np.random.default_rng(0).integers(40, 220, (*depth.shape, 3)).astype(np.uint8)
    return Frame(texture, k, 0, 'camera', pose, 'world', depth)


def oracle(report, factor=1.0):
    """Knows the depth, times a factor, and how sure it is."""
    return lambda f: report.Seen(f.depth * np.float32(factor), np.full(f.depth.shape, 0.1))


# --- uncertainty ---------------------------------------------------------------------------------


def laplace(scales, seed=0):
    return np.random.default_rng(seed).laplace(0, scales)


def test_uncertainty_that_is_right_is_found_right_in_every_decile():
    scales = np.random.default_rng(1).uniform(0.02, 0.4, 200_000)
    metrics = uncertainty_metrics(laplace(scales), scales * math.sqrt(2))
    np.testing.assert_allclose(
        metrics['measured_by_decile'], metrics['expected_by_decile'], rtol=0.05
    )
    assert metrics['expected_by_decile'][0] < 0.2 * metrics['expected_by_decile'][-1]
    assert metrics['within_1'] == pytest.approx(1 - math.exp(-math.sqrt(2)), abs=0.01)
    assert metrics['within_2'] == pytest.approx(1 - math.exp(-2 * math.sqrt(2)), abs=0.01)
    assert metrics['surest_half'] < 0.6


def test_uncertainty_of_the_wrong_size_or_of_other_pixels_shows():
    scales = np.random.default_rng(1).uniform(0.02, 0.4, 100_000)
    halved = uncertainty_metrics(laplace(scales), scales * math.sqrt(2) / 2)
    assert halved['measured'] == pytest.approx(2 * halved['expected'], rel=0.05)
    assert halved['within_1'] < 0.55
    elsewhere = uncertainty_metrics(laplace(scales), np.roll(scales, 1))
    assert elsewhere['surest_half'] == pytest.approx(1, abs=0.03)


def test_a_wrong_scale_spoils_the_plain_uncertainty_only(report):
    frame = floor()
    noise = np.exp(laplace(np.full(frame.depth.shape, 0.1))).astype(np.float32)
    seen = report.Seen(1.5 * frame.depth * noise, np.full(frame.depth.shape, 0.1 * math.sqrt(2)))
    study = report.uncertainty_study([(frame, seen)])
    assert study['median_scaled']['measured'] == pytest.approx(0.1, rel=0.1)
    assert study['plain']['measured'] == pytest.approx(math.log(1.5), rel=0.1)
    assert report.uncertainty_study([(frame, seen._replace(log_std=None))]) is None


# --- mirror, field of view, disturbances ---------------------------------------------------------


def test_mirroring_changes_nothing_for_who_knows_the_truth_and_shows_who_prefers_a_side(report):
    def sided(frame):  # 20 % farther on the left
        left = np.arange(frame.depth.shape[1]) < frame.depth.shape[1] / 2
        return report.Seen(frame.depth * np.where(left, 1.2, 1), None)

    assert report.mirror_study(oracle(report, 3.0), [floor()]) == pytest.approx(0, abs=1e-6)
    assert report.mirror_study(sided, [floor()]) == pytest.approx(math.log(1.2))


def test_mirrored_camera_sees_the_mirrored_rays(report):
    frame = replace(floor(), intrinsics=replace(floor().intrinsics, cx=100.0))
    rays, turned = frame.intrinsics.rays(), report.mirrored(frame).intrinsics.rays()
    np.testing.assert_allclose(turned[:, ::-1] * [-1, 1], rays, atol=1e-6)


def test_metres_do_not_depend_on_the_field_of_view_for_who_knows_the_truth(report):
    views = [floor(field) for field in (100, 75, 50)]
    study = report.field_study(oracle(report, 2.0), [views, report.crops(floor())])
    assert study['deviation'] < 0.005
    assert study['degrees'] == [100, 75, 50]


def test_model_that_takes_zoom_for_nearness_fails_the_fields_of_view(report):
    def no_focal(frame):  # as if all images were taken by the same lens
        return report.Seen(frame.depth * np.float32(100 / frame.intrinsics.fx), None)

    views = [floor(field) for field in (100, 75, 50)]
    wrong = views[0].intrinsics.fx / views[-1].intrinsics.fx
    study = report.field_study(no_focal, [views])
    assert study['ratio'][-1] == pytest.approx(wrong, rel=0.01)
    assert study['deviation'] == pytest.approx(1 - wrong, rel=0.02)


def test_crops_keep_the_rays(report):
    frame = floor()
    whole, part = report.crops(frame, (1.0, 0.5))
    assert part.intrinsics.fx == whole.intrinsics.fx
    depth = floor_depth(part.intrinsics, FLOOR_POSE, 20.0)
    np.testing.assert_allclose(part.depth, depth, rtol=1e-5)


def test_doubled_depth_has_an_error_of_one_and_none_when_scaled_whatever_the_image(report):
    study = report.disturbance_study(oracle(report, 2.0), [floor(), floor(50, width=640)])
    for kind, (_, strengths, _) in report.DISTURBANCES.items():
        for strength in strengths:
            row = study[kind][f'{strength:g}']
            assert row['abs_rel'] == pytest.approx(1)
            assert row['abs_rel_median_scaled'] == pytest.approx(0, abs=1e-6)
            assert row['scale_median'] == pytest.approx(0.5)
            assert row['coverage'] == 1


def test_model_that_falls_silent_in_the_dark_loses_frames_and_not_the_report(report):
    def night_blind(frame):
        dark = frame.image.mean() < 60
        return report.Seen(np.where(dark, np.inf, frame.depth), None)

    study = report.disturbance_study(night_blind, [floor()])
    assert study['darkness']['1']['coverage'] == 1
    assert study['darkness']['3']['coverage'] == 0
    assert study['none']['abs_rel'] == pytest.approx(0)


@pytest.mark.parametrize('kind', ['noise', 'darkness', 'gamma', 'defocus', 'jpeg'])
def test_disturbances_grow_and_touch_the_image_alone(report, kind):
    frame = report.resized(floor(), 256)
    _, strengths, disturb = report.DISTURBANCES[kind]
    shown = [disturb(frame, strength) for strength in strengths]
    changes = [np.abs(s.image.astype(float) - frame.image).mean() for s in shown]
    assert changes[0] > 1
    if kind != 'gamma':
        assert sorted(changes) == changes
    assert all(s.depth is frame.depth and s.intrinsics == frame.intrinsics for s in shown)


def test_a_stop_halves_the_light(report):
    frame = replace(floor(), image=np.full((240, 320, 3), 200, np.uint8))
    darker = report.DISTURBANCES['darkness'][2](frame, 1)
    assert (darker.image[0, 0, 0] / 200) ** 2.2 == pytest.approx(0.5, abs=0.01)


def test_smaller_image_keeps_the_field_of_view_and_the_depth_of_its_rays(report):
    small = report.resized(floor(width=640), 128)
    assert small.intrinsics.hfov == pytest.approx(math.radians(70))
    depth = floor_depth(small.intrinsics, FLOOR_POSE, 20.0)
    np.testing.assert_allclose(small.depth, depth, rtol=0.03)  # of the nearest pixel


def test_sky_is_counted_where_it_is(report):
    frame = floor()
    frame.depth[:60] = np.inf  # a quarter
    said = frame.depth.copy()
    said[:30], said[30:40], said[40:60] = np.inf, np.nan, 7.0
    said[-18:] = np.inf  # a tenth of the floor
    assert report.has_sky(frame)
    assert report.sky_study([(frame, report.Seen(said, None))]) == pytest.approx(
        {
            'sky_pixels': 60 * 320,
            'sky_without_depth': 40 / 60,
            'sky_empty': 0.5,
            'things_without_depth': 0.1,
            'things_empty': 0.1,
        }
    )


# --- baselines, targets, page --------------------------------------------------------------------


class FloorEngine:
    """A network that needs to be told gravity and height to see the floor."""

    uses_geometry, last_ms = True, 1.0

    def warm_up(self, intrinsics):
        pass

    def predict(self, image, intrinsics, depth, *, covariances, geometry=None):
        z = np.full(image.shape[:2], 5.0, np.float32)
        if geometry is not None:
            z = geometry.height / -(intrinsics.rays() @ geometry.up[:2] + geometry.up[2])
        z = torch.from_numpy(z.astype(np.float32))[None]
        return gaussians_from_depth(z, torch.zeros(3, *image.shape[:2]), intrinsics)


def test_height_and_gravity_are_given_to_who_uses_them_and_known_to_the_floor_plane():
    pose = look_at(np.array([0.0, 0, 1.2]), np.array([1.2, 0.1, 0]), np.array([0.0, 0, 1]))
    result = evaluate_depth([floor(60, pose)], FloorEngine())
    assert result['abs_rel'] > 0.5
    assert result['with_geometry']['abs_rel'] == pytest.approx(0, abs=1e-3)
    assert result['baselines']['floor_plane']['abs_rel'] == pytest.approx(0, abs=1e-3)
    assert result['baselines']['constant']['abs_rel'] > 0.05


def test_no_height_is_made_up_where_no_floor_is_seen():
    pose = look_at(np.array([0.0, 0, 1.2]), np.array([1.2, 0.1, 0]), np.array([0.0, 0, 1]))
    wall = floor(60, pose)
    lying = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # no z axis up
    wall = replace(wall, T_world_camera=lying, depth=np.full_like(wall.depth, 2.0))
    result = evaluate_depth([wall], FloorEngine())
    assert 'with_geometry' not in result
    assert 'floor_plane' not in result['baselines']


def test_floor_plane_ends_where_no_floor_is():
    up = FLOOR_POSE @ np.diag([1.0, -1, -1, 1])
    np.testing.assert_allclose(floor(pose=up).depth, 20)


def test_targets_are_met_missed_or_not_measured(report):
    rows = {
        row['what']: row
        for row in report.targets(
            {
                'sets': {'recording': {'abs_rel': 0.22, 'delta1': 0.59}},
                'weights': {'parameters': 13e6},
            }
        )
    }
    assert rows['recording, image alone: AbsRel']['met'] is True
    assert rows['recording, image alone: δ1']['met'] is False
    assert rows['parameters']['met'] is False
    assert rows['recording, height and gravity given: AbsRel']['met'] is None
    assert rows['rendered scenes, held out: AbsRel']['measured'] is None


def test_page_is_what_its_results_say(report):
    page = report.PAGE.read_text()
    assert report.updated(page, json.loads(report.RESULTS.read_text())) == page, (
        'run python bench/nano_report.py --render'
    )


def test_other_results_change_the_sections_and_nothing_else(report):
    results, page = json.loads(report.RESULTS.read_text()), report.PAGE.read_text()
    results['sets']['motorcycle']['abs_rel'] = 0.98765
    changed = report.updated(page, results).splitlines()
    differing = [new for new, old in zip(changed, page.splitlines(), strict=True) if new != old]
    assert len(differing) == 1
    assert '| 0.988 |' in differing[0]


def test_page_without_its_markers_is_refused(report):
    page = report.PAGE.read_text().replace('<!-- nano_report: sky -->', '')
    with pytest.raises(ConfigError, match='sky'):
        report.updated(page, {})


def test_shipped_results_are_of_the_shipped_weights(report):
    results = json.loads(report.RESULTS.read_text())
    assert results['weights']['sha256'] == sha256_of(models.WEIGHTS_FOLDER / 'nano.safetensors')
    assert not results['quick']
    assert results['targets'] == report.targets(results)


def test_one_command_measures_writes_and_renders(report, monkeypatch, tmp_path, capsys):
    frame = floor()
    views = [[floor(field) for field in (100, 50)]]
    one = {
        name: report.ImageSet(name, lambda: [frame], [frame], picture=name != 'recording')
        for name in ('rooms', 'recording')
    }
    monkeypatch.setattr(report, 'open_sets', lambda args: (one, views))
    predictor = NanoPredictor(load_weights(models.WEIGHTS_FOLDER / 'nano.safetensors'), 96 * 64)
    monkeypatch.setattr(models, 'load_predictor', lambda name: (predictor, models.MODELS['nano']))
    shown, draw = [], report.gallery
    monkeypatch.setattr(report, 'gallery', lambda worst: shown.extend(worst) or draw(worst))
    few = {kind: report.DISTURBANCES[kind] for kind in ('gamma', 'width')}
    monkeypatch.setattr(report, 'DISTURBANCES', few)
    page = ''.join(
        f'<!-- nano_report: {name} -->\n<!-- /nano_report -->\n' for name in report.SECTIONS
    )
    for name in ('PAGE', 'RESULTS', 'GALLERY'):
        monkeypatch.setattr(report, name, tmp_path / name)
    report.PAGE.write_text(page)
    assert report.main(['--update-docs']) == 0
    results = json.loads(report.RESULTS.read_text())
    assert results['machine']
    assert results['command'].startswith('python bench/nano_report.py')
    assert results['fields']['rooms']['degrees'] == [100, 50]
    assert report.GALLERY.read_bytes()[:2] == b'\xff\xd8'
    assert [title.partition(',')[0] for title, *_ in shown] == ['rooms']  # not the recording
    printed, page = capsys.readouterr().out, report.PAGE.read_text()
    assert '| **nano** |' in page
    assert '| **nano** |' in printed
    assert report.main(['--render']) == 0
    assert report.PAGE.read_text() == page


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--quick', '--update-docs'], 'too little'),
        (['--model', 'nowhere.safetensors'], 'nowhere'),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(report, capsys, arguments, message):
    assert report.main(arguments) == 1
    assert message in capsys.readouterr().err
