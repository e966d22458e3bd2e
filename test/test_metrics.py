"""How far views are from images and paths from the truth; depth is in test_evaluate.py."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sharp_ros.errors import InputError
from sharp_ros.evaluation.metrics import fitted, image_metrics, trajectory_metrics
from sharp_ros.se3 import apply, look_at

pytest.importorskip('skimage')
EVERYWHERE = np.ones((40, 60), bool)


def texture(seed=0):
    """Smooth colours [40, 60, 3] in 0.2..0.8."""
    coarse = np.random.default_rng(seed).uniform(0.2, 0.8, (10, 15, 3))
    return cv2.resize(coarse, (60, 40), interpolation=cv2.INTER_LINEAR)


def test_equal_images_are_perfect():
    metrics = image_metrics(texture(), texture(), EVERYWHERE)
    assert metrics == {'psnr': math.inf, 'ssim': pytest.approx(1), 'pixels': 2400}


def test_psnr_of_a_constant_error_is_that_of_the_formula():
    # an error of 0.1 of the range everywhere: 20 log10(1 / 0.1)
    metrics = image_metrics(texture() + 0.1, texture(), EVERYWHERE)
    assert metrics['psnr'] == pytest.approx(20)


def test_bytes_and_floats_mean_the_same():
    view, truth = (np.rint(texture(seed) * 255).astype(np.uint8) for seed in (0, 1))
    assert image_metrics(view, truth, EVERYWHERE) == image_metrics(
        view / 255, truth / 255, EVERYWHERE
    )


def test_the_further_an_image_is_shifted_the_worse_it_is():
    rows = [image_metrics(np.roll(texture(), n, 1), texture(), EVERYWHERE) for n in (0, 1, 2, 3)]
    for name in ('psnr', 'ssim'):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 4


@pytest.mark.parametrize('outside', [0.0, 1.0, np.nan])
def test_nothing_outside_of_the_mask_matters(outside):
    mask = EVERYWHERE.copy()
    mask[:, 25:30] = mask[7, 3] = False
    view, spoilt = texture(1), texture(1)
    spoilt[~mask] = outside
    assert image_metrics(spoilt, texture(), mask) == image_metrics(view, texture(), mask)


def test_pixels_inside_of_the_mask_are_judged_alone():
    view = texture()
    view[:, 30:] += 0.1
    left = np.arange(60) < 30
    assert image_metrics(view, texture(), EVERYWHERE & left)['psnr'] == math.inf
    assert image_metrics(view, texture(), EVERYWHERE & ~left)['psnr'] == pytest.approx(20)


def test_similarity_of_a_negative_is_negative_however_little_of_it_is_judged():
    for columns in (60, 30, 10):
        mask = EVERYWHERE & (np.arange(60) < columns)
        assert image_metrics(1 - texture(), texture(), mask)['ssim'] < -0.2


def test_views_that_cannot_be_judged_are_refused():
    few = np.zeros((40, 60), bool)
    few[0, :50] = True
    with pytest.raises(InputError, match='only 50 pixels') as caught:
        image_metrics(texture(), texture(), few)
    assert caught.value.reason == 'no_truth'
    with pytest.raises(InputError, match='differ in size'):
        image_metrics(texture()[:30], texture(), EVERYWHERE)
    with pytest.raises(InputError, match='differ in size'):
        image_metrics(texture(), texture(), EVERYWHERE[:30])


# --- paths ---------------------------------------------------------------------------------------

SECONDS = np.arange(0, 8, 0.1)
STAMPS_NS = np.rint(SECONDS * 1e9).astype(np.int64)


def poses(positions, yaws):
    """[N, 4, 4] from [N, 3] and angles about z."""
    c, s, o, i = np.cos(yaws), np.sin(yaws), np.zeros(len(yaws)), np.ones(len(yaws))
    result = np.tile(np.eye(4), (len(yaws), 1, 1))
    result[:, :3, :3] = np.moveaxis(np.array([[c, -s, o], [s, c, o], [o, o, i]]), -1, 0)
    result[:, :3, 3] = positions
    return result


def helix():
    """A screw path of 1 m radius that rises by 0.1 m/s."""
    turn = 0.5 * SECONDS
    return poses(np.stack([np.cos(turn), np.sin(turn), 0.1 * SECONDS], -1), turn)


def straight(speed=1.0):
    return poses(speed * SECONDS[:, None] * (1, 0, 0), np.zeros(len(SECONDS)))


def test_path_in_another_world_has_no_error():
    world = np.eye(4)
    world[:3, :3], _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    world[:3, :3] *= np.linalg.det(world[:3, :3])
    world[:3, 3] = 3, -2, 1
    metrics = trajectory_metrics(STAMPS_NS, world @ helix(), helix())
    assert metrics['path_length_m'] == pytest.approx(7.9 * math.hypot(0.5, 0.1), rel=1e-3)
    for name in ('ate_rmse_m', 'ate_percent', 'ate_rmse_scaled_m', 'rpe_m_per_s'):
        assert metrics[name] == pytest.approx(0, abs=1e-9)
    assert metrics['rpe_deg_per_s'] == pytest.approx(0, abs=1e-4)


def test_error_of_a_wrong_scale_is_that_of_the_formula():
    truth = helix()
    grown = truth.copy()
    grown[:, :3, 3] *= 1.1
    metrics = trajectory_metrics(STAMPS_NS, grown, truth)
    around = truth[:, :3, 3] - truth[:, :3, 3].mean(0)
    expected = 0.1 * math.sqrt(np.mean(np.sum(around**2, 1)))
    assert metrics['ate_rmse_m'] == pytest.approx(expected)
    assert metrics['ate_percent'] == pytest.approx(100 * expected / metrics['path_length_m'])
    assert metrics['ate_rmse_scaled_m'] == pytest.approx(0, abs=1e-9)
    assert trajectory_metrics(STAMPS_NS, straight(1.02), straight())[
        'rpe_m_per_s'
    ] == pytest.approx(0.02)


def test_error_of_a_zigzag_is_its_amplitude():
    zigzag = straight()
    zigzag[:, 1, 3] += np.where(np.arange(len(zigzag)) % 2, 0.05, -0.05)
    metrics = trajectory_metrics(STAMPS_NS, zigzag, straight())
    assert metrics['ate_rmse_m'] == pytest.approx(0.05, rel=0.01)


def test_mirrored_path_is_no_rotated_one():
    mirrored = helix()
    mirrored[:, 2, 3] *= -1
    assert trajectory_metrics(STAMPS_NS, mirrored, helix())['ate_rmse_scaled_m'] > 0.05


def test_turning_error_is_given_per_second_whatever_the_frame_rate():
    turning = poses(np.zeros((len(SECONDS), 3)), np.radians(3) * SECONDS)
    for every in (1, 5):
        metrics = trajectory_metrics(
            STAMPS_NS[::every], turning[::every], poses(turning[:, :3, 3], 0 * SECONDS)[::every]
        )
        assert metrics['rpe_deg_per_s'] == pytest.approx(3)
        assert metrics['path_length_m'] == 0
        assert metrics['ate_percent'] is None


def test_paths_too_short_to_compare_are_refused_or_lack_what_needs_a_second():
    metrics = trajectory_metrics(STAMPS_NS[:8], helix()[:8], helix()[:8])
    assert metrics['rpe_m_per_s'] is None
    assert metrics['ate_rmse_m'] == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match='longer recording'):
        trajectory_metrics(STAMPS_NS[:2], helix()[:2], helix()[:2])
    with pytest.raises(InputError, match='do not fit'):
        trajectory_metrics(STAMPS_NS[:5], helix()[:6], helix()[:6])


def test_alignment_undoes_any_rigid_motion_and_leaves_the_scale():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 3))
    T = look_at(np.array([5.0, -3, 2]), rng.normal(size=3), np.array([0.0, 0, 1]))
    moved = apply(T, points)
    moved[3] = np.nan  # a pose that nobody recorded
    found = fitted(moved, points)
    np.testing.assert_allclose(np.delete(found, 3, 0), np.delete(points, 3, 0), atol=1e-9)
    spread = [np.linalg.norm(np.nanstd(p, axis=0)) for p in (fitted(2 * moved, points), moved)]
    assert spread[0] == pytest.approx(2 * spread[1])
