"""The scale from two views whose given pose is wrong."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sharp_ros.camera import Intrinsics
from sharp_ros.localization.parallax import fit_inverse_scale
from sharp_ros.localization.parallax_kernels import normal_equations

K = Intrinsics.from_hfov(1.0, 640, 480)


def slow_normal_equations(rays, seen, shapes, way, x, noise, spread, cauchy):
    """As in the paper: projections, numerical derivatives, whitened by the inverse covariance."""

    def projected(x, points):
        bent = points * np.exp(shapes @ x[7:])[:, None]
        at = bent + np.cross(x[1:4], bent) + x[0] * (way + x[4:7])
        return at[:, :2] / at[:, 2:], at[:, 2]

    places, z = projected(x, seen)
    J = np.empty((len(rays), 2, 10))
    for i in range(10):
        step = np.zeros(10)
        step[i] = 1e-6
        J[:, :, i] = (projected(x + step, seen)[0] - projected(x - step, seen)[0]) / 2e-6
    normal, gradient = np.zeros((10, 10)), np.zeros(10)
    deviations = np.full(len(rays), np.inf)
    for n in np.flatnonzero(z > 1e-3):
        s = spread * min(max(x[0], 0.1), 20.0) * J[n, :, 0]
        W = np.linalg.inv(noise * np.eye(2) + np.outer(s, s))
        r = rays[n, :2] - places[n]
        deviations[n] = r @ W @ r
        robust = 1 / (1 + deviations[n] / cauchy)
        normal += robust * J[n].T @ W @ J[n]
        gradient += robust * J[n].T @ W @ r
    return normal, gradient, deviations


def views(rng, scale=1.0, way=(0.1, 0.02, 0.03), count=200, shape=0.1, turn=0.0, shift=0.0):
    """Rays in the keyframe, predicted points, and the given pose, off by `turn` and `shift`."""
    px = rng.uniform((20, 20), (620, 460), (count, 2))
    points = K.unprojected(px) * rng.uniform(1.0, 4.0, (count, 1))
    R = cv2.Rodrigues(np.array([0.02, -0.05, 0.01]))[0]
    in_keyframe = points @ R.T + way
    noise = rng.normal(0, 0.5 / K.fx, (count, 2)) * math.sqrt(2)
    rays = np.append(in_keyframe[:, :2] / in_keyframe[:, 2:] + noise, np.ones((count, 1)), 1)
    predicted = points / scale * np.exp(rng.normal(0, shape, (count, 1)))
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(rng.normal(0, turn, 3))[0] @ R
    T[:3, 3] = way + rng.normal(0, shift, 3)
    return rays, predicted, T


def test_the_compiled_loop_gives_what_the_derivation_does():
    rng = np.random.default_rng(0)
    rays, points, T = views(rng)
    seen = points @ T[:3, :3].T
    seen[0, 2] = -5.0  # behind the keyframe
    shapes = rng.normal(0, 0.5, (len(rays), 3))
    x = np.array([0.8, 0.01, -0.02, 0.03, 0.01, 0.002, -0.01, 0.1, -0.05, 0.2])
    given = (rays, seen, shapes, T[:3, 3].copy(), x, 1e-6, 0.1, 4.0)
    for fast, slow in zip(normal_equations(*given), slow_normal_equations(*given), strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-4 * np.abs(slow[-1]).max())


@pytest.mark.parametrize('scale', [0.3, 0.74, 1.0, 1.9, 4.0])
def test_the_scale_is_found_from_far_off(scale):
    rng = np.random.default_rng(1)
    inverse, std, agree = fit_inverse_scale(*views(rng, scale, way=(0.3, 0.05, 0.1)), 1 / K.fx)
    assert abs(inverse * scale - 1) < min(0.1, 2 * std * scale)
    assert agree.mean() > 0.95


@pytest.mark.parametrize('way', [(0.01, 0.0, 0.0), (0.05, 0.01, 0.0), (0.2, 0.0, 0.1)])
@pytest.mark.parametrize(('turn', 'shift'), [(0.0, 0.0), (0.004, 0.004), (0.01, 0.004)])
def test_what_is_said_of_the_error_holds_for_poses_that_are_wrong(way, turn, shift):
    rng = np.random.default_rng(2)
    fitted = [
        fit_inverse_scale(*views(rng, 0.8, way, turn=turn, shift=shift), 1 / K.fx)
        for _ in range(40)
    ]
    deviations = np.array([(f[0] - 1.25) / f[1] for f in fitted if f is not None])
    assert len(deviations) >= 35
    assert np.mean(np.abs(deviations) < 2) >= 0.85
    assert np.abs(deviations).max() < 4


def test_a_short_way_says_little_and_a_long_one_much():
    stds = [
        fit_inverse_scale(*views(np.random.default_rng(3), way=(d, 0, 0)), 1 / K.fx)[1]
        for d in (0.01, 0.05, 0.4)
    ]
    assert stds[0] > 0.3
    assert 0.1 < stds[1] < 0.2
    assert stds[2] < 0.05


def test_points_that_move_do_not_count():
    rng = np.random.default_rng(4)
    rays, points, T = views(rng, way=(0.3, 0.05, 0.1))
    moving = rng.random(len(rays)) < 0.25
    rays[moving, :2] += rng.normal(0, 0.05, (moving.sum(), 2))
    inverse, std, agree = fit_inverse_scale(rays, points, T, 1 / K.fx)
    assert abs(inverse - 1) < 2 * std
    assert agree[~moving].mean() > 0.9
    assert agree[moving].mean() < 0.3


def test_without_a_way_or_a_scene_there_is_no_scale():
    rng = np.random.default_rng(5)
    assert fit_inverse_scale(*views(rng, way=(0, 0, 0)), 1 / K.fx) is None
    rays, points, T = views(rng, way=(0.3, 0.05, 0.1))
    rays[:, :2] = rng.uniform(-0.5, 0.5, (len(rays), 2))
    assert fit_inverse_scale(rays, points, T, 1 / K.fx) is None
