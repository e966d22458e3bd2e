"""Compiled loops of motion stereo against twins that read like their definitions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sharp_ros.camera import Intrinsics
from sharp_ros.se3 import apply, transform
from sharp_ros.stereo.alignment_kernels import normal_equations
from sharp_ros.stereo.field_kernels import smoothed
from sharp_ros.stereo.propagation_kernels import propagate
from sharp_ros.stereo.sweep_kernels import census, CENSUS_REACH, posterior, sweep

OUTSIDE_BITS = 20


def a_motion(rng, turn=0.05, shift=0.1):
    return transform(cv2.Rodrigues(turn * rng.normal(size=3))[0], shift * rng.normal(size=3))


# --- the sweep -----------------------------------------------------------------------------------


def brighter_neighbours(gray, y, x):
    """Bits from the top left to the bottom right, the first one the highest."""
    around = range(-CENSUS_REACH, CENSUS_REACH + 1)
    bits = 0
    for j in around:
        for i in around:
            if (i, j) != (0, 0):
                bits = 2 * bits + int(gray[y + j, x + i] > gray[y, x])
    return bits


def test_census_has_a_bit_for_each_brighter_neighbour():
    gray = np.random.default_rng(0).integers(0, 256, (15, 18), np.uint8)
    bits, inner = census(gray), CENSUS_REACH
    for y in range(15):
        for x in range(18):
            inside = inner <= y < 15 - inner and inner <= x < 18 - inner
            assert int(bits[y, x]) == (brighter_neighbours(gray, y, x) if inside else 0)


def test_census_does_not_see_exposure():
    gray = np.random.default_rng(1).integers(10, 120, (20, 20), np.uint8)
    assert np.array_equal(census(gray), census(2 * gray + 5))


def test_sweep_counts_bits_where_the_pixels_of_a_cell_are_seen():
    rng = np.random.default_rng(2)
    k = Intrinsics.from_hfov(1.0, 32, 24)
    bits = rng.integers(1, 2**48, (24, 32), np.uint64)
    references = rng.integers(0, 2**48, (2, 24, 32), np.uint64)
    references[:, ::5] = 0  # as at the rim
    poses = np.stack([a_motion(rng), a_motion(rng)])
    inverse_depth = rng.uniform(0.2, 1.0, (12, 16)).astype(np.float32)
    steps = np.exp(-np.linspace(-0.5, 0.5, 5)).astype(np.float32)
    K = k.matrix
    A = (K @ poses[:, :3, :3] @ np.linalg.inv(K)).astype(np.float32)
    B = (poses[:, :3, 3] @ K.T).astype(np.float32)
    cost = sweep(bits, references, A, B, inverse_depth, steps)
    assert cost.shape == (2, 6, 8, 5)
    unequal, unseen = 0, 0
    for r in range(2):
        for row in range(6):
            for column in range(8):
                expected, outside = np.zeros(5), 0
                for n, step in enumerate(steps):
                    for j in (0, 1):
                        for i in (0, 1):
                            v, u = 4 * row + 2 * j + 1, 4 * column + 2 * i + 1
                            w = inverse_depth[2 * row + j, 2 * column + i] * step
                            x, y, z = A[r] @ np.array([u, v, 1], np.float32) + B[r] * w
                            p = int(np.clip(x / z + 0.5, 0, 31))
                            q = int(np.clip(y / z + 0.5, 0, 23))
                            other = int(references[r, q, p]) if z > 1e-3 else 0
                            ones = bin(int(bits[v, u]) ^ other).count('1')
                            expected[n] += (ones if other else OUTSIDE_BITS) / 4
                            outside += not other
                if outside > 0.25 * 4 * 5:
                    expected[:], unseen = OUTSIDE_BITS, unseen + 1
                unequal += np.abs(cost[r, row, column] - expected).max() > 1e-4
    assert 5 < unseen < 80
    assert unequal <= 3  # where single precision rounds to the pixel beside


@pytest.mark.parametrize('images', [1, 2, 3])
def test_posterior_is_that_of_averaged_costs_and_a_normal_prior(images):
    rng = np.random.default_rng(3)
    cost = rng.uniform(5, 20, (images, 5, 6, 9)).astype(np.float32)
    labels = np.linspace(-0.4, 0.4, 9).astype(np.float32)
    mean, variance = posterior(cost, labels, np.float32(1.5), np.float32(0.3))
    for y in range(5):
        for x in range(6):
            around = np.sort(cost[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2], axis=0)
            joint = (2 * around[0] + around[min(1, images - 1)]) / 3
            energy = joint.mean((0, 1)) / 1.5 + 0.5 * (labels / 0.3) ** 2
            p = np.exp(energy.min() - energy)
            p /= p.sum()
            assert mean[y, x] == pytest.approx(p @ labels, abs=1e-4)
            expected = p @ labels**2 - (p @ labels) ** 2
            assert variance[y, x] == pytest.approx(expected, abs=1e-4)


# --- what is carried over ------------------------------------------------------------------------


def carried(log_depth, variance, known, T, k, prior, surface):
    """`propagate`, cell by cell into lists of shares."""
    high, wide = log_depth.shape
    shares = {}
    for y in range(high):
        for x in range(wide):
            if not known[y, x]:
                continue
            z = np.exp(log_depth[y, x])
            point = np.array([(x - k.cx) / k.fx * z, (y - k.cy) / k.fy * z, z])
            X, Y, Z = apply(T, point)
            u, v = X / Z * k.fx + k.cx, Y / Z * k.fy + k.cy
            if Z <= 0.05 or not (-0.5 <= u < wide - 0.5 and -0.5 <= v < high - 0.5):
                continue
            u, v = np.clip(u, 0, wide - 1), np.clip(v, 0, high - 1)
            i, j = min(int(u), wide - 2), min(int(v), high - 2)
            a, b = u - i, v - j
            corners = [
                (j, i, (1 - b) * (1 - a)),
                (j, i + 1, (1 - b) * a),
                (j + 1, i, b * (1 - a)),
                (j + 1, i + 1, b * a),
            ]
            c = np.log(Z) - sum(share * prior[row, column] for row, column, share in corners)
            if abs(c) <= surface:
                for row, column, share in corners:
                    shares.setdefault((row, column), []).append((share, c, variance[y, x]))
    correction, information = np.zeros((2, high, wide))
    for at, fallen in shares.items():
        weights, c, var = np.array(fallen).T
        if weights.sum() > 0.3:
            mean = np.average(c, weights=weights)
            spread = np.average((c - mean) ** 2, weights=weights)
            correction[at] = mean
            information[at] = 1 / (np.average(var, weights=weights) + spread)
    return correction, information


def test_depth_is_carried_over_as_its_definition_says():
    rng = np.random.default_rng(4)
    k = Intrinsics.from_hfov(1.0, 16, 12)
    log_depth = rng.uniform(0.5, 0.8, (12, 16)).astype(np.float32)
    variance = rng.uniform(0.01, 0.1, (12, 16)).astype(np.float32)
    prior = (log_depth + rng.uniform(-0.3, 0.3, (12, 16))).astype(np.float32)
    T, known = a_motion(rng, 0.03, 0.05), rng.random((12, 16)) < 0.8
    log_depth[~known] = np.nan
    found = propagate(log_depth, variance, known, T, k.parameters, prior, 0.25)
    expected = carried(log_depth.astype(float), variance, known, T, k, prior.astype(float), 0.25)
    assert np.count_nonzero(expected[1]) > 100
    np.testing.assert_allclose(found[0], expected[0], atol=1e-3)
    np.testing.assert_allclose(found[1], expected[1], rtol=2e-2, atol=1e-3)


def test_a_camera_that_stands_still_keeps_what_it_knows():
    rng = np.random.default_rng(5)
    k = Intrinsics.from_hfov(1.0, 16, 12)
    log_depth = rng.uniform(0.5, 0.8, (12, 16)).astype(np.float32)
    prior = log_depth - np.float32(0.1)
    variance, known = np.full((12, 16), 0.04, np.float32), np.ones((12, 16), bool)
    found, information = propagate(log_depth, variance, known, np.eye(4), k.parameters, prior, 0.5)
    np.testing.assert_allclose(found, 0.1, atol=1e-4)
    np.testing.assert_allclose(information, 25, rtol=1e-3)


# --- alignment -----------------------------------------------------------------------------------


def test_normal_equations_are_those_of_all_unknowns_with_depths_eliminated():
    rng = np.random.default_rng(6)
    k = Intrinsics.from_hfov(1.0, 64, 48)
    rays = np.c_[rng.uniform(-0.4, 0.4, (7, 2)), np.ones(7)]
    log_depth = rng.uniform(0.2, 1.0, 7)
    shapes = rng.normal(size=(7, 3))
    T = np.stack([a_motion(rng), a_motion(rng)])
    found = rng.random((2, 7)) < 0.8
    noise, spread, cauchy = 0.3, 0.2, 1e12  # so large that every track counts in full

    def places(x):
        turned = np.stack(
            [
                transform(
                    cv2.Rodrigues(x[6 * n : 6 * n + 3])[0] @ T[n, :3, :3],
                    T[n, :3, 3] + x[6 * n + 3 : 6 * n + 6],
                )
                for n in range(2)
            ]
        )
        points = rays * np.exp(log_depth + shapes @ x[12:15] + x[15:])[:, None]
        return np.stack([k.pixels(apply(pose, points)) for pose in turned])

    none = np.zeros(22)
    seen = places(none) + rng.normal(size=(2, 7, 2))
    J = np.stack(
        [(places(1e-6 * e) - places(-1e-6 * e))[found].ravel() / 2e-6 for e in np.eye(22)], 1
    )
    error = (seen - places(none))[found].ravel()
    full, side = J.T @ J / noise, J.T @ error / noise
    full[15:, 15:] += np.eye(7) / spread**2
    out = np.linalg.solve(full[15:, 15:], full[15:, :15])
    normal, gradient, deviation = normal_equations(
        rays, log_depth, shapes, seen, found, T, k.parameters, noise, spread, cauchy
    )
    np.testing.assert_allclose(normal, full[:15, :15] - full[:15, 15:] @ out, rtol=1e-4, atol=0.1)
    np.testing.assert_allclose(gradient, side[:15] - out.T @ side[15:], rtol=1e-4, atol=0.1)
    assert np.array_equal(np.isfinite(deviation), found)


# --- the field -----------------------------------------------------------------------------------


def test_smoothed_field_solves_the_equations_of_the_membrane():
    rng = np.random.default_rng(7)
    high, wide = 6, 8
    mean = rng.normal(size=(high, wide)).astype(np.float32)
    information = rng.uniform(0.1, 2, (high, wide)).astype(np.float32)
    across = rng.uniform(0.1, 4, (high, wide - 1)).astype(np.float32)
    down = rng.uniform(0.1, 4, (high - 1, wide)).astype(np.float32)
    matrix = np.diag(information.ravel().astype(float))
    number = np.arange(high * wide).reshape(high, wide)
    pairs = zip(
        np.r_[number[:, :-1].ravel(), number[:-1].ravel()],
        np.r_[number[:, 1:].ravel(), number[1:].ravel()],
        np.r_[across.ravel(), down.ravel()],
        strict=True,
    )
    for i, j, link in pairs:
        matrix[[i, j], [i, j]] += link
        matrix[[i, j], [j, i]] -= link
    expected = np.linalg.solve(matrix, (information * mean).ravel())
    start = np.zeros((high, wide), np.float32)
    found = smoothed(mean, information, across, down, start, 1e-6, 500)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-4)
