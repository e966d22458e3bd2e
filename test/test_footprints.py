"""Gaussians of a depth image close the surfaces they lie on, seen from elsewhere, too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sharp_ros.camera import Intrinsics
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.network.footprints import STEEPEST, stretched
from sharp_ros.network.nano_arrays import STD_CELLS
from sharp_ros.rasterizer import rasterize
from sharp_ros.se3 import matrix_from_quat

CAMERA = Intrinsics.from_hfov(1.0, 64, 48)


def plane(normal, distance, k=CAMERA):
    """Depth [h, w] of the plane normal . p = distance; NaN where a ray misses it."""
    x, y = k.axes()
    along = normal[0] * x[None] + normal[1] * y[:, None] + normal[2]
    with np.errstate(divide='ignore'):
        z = distance / along
    return np.where(z > 0, z, np.nan).astype(np.float32)


def slow(z, known, k):
    """Lengths, areas, long axes and normals as `stretched` finds them, by cross products."""
    x, y = k.axes()
    stretch, areas = np.ones(z.shape), np.ones(z.shape)
    long, normals = np.zeros((2, *z.shape, 3))

    def flatter(v, u, dv, du):
        """Slope of the log of z towards (dv, du) and from behind, whichever is less."""
        slopes = []
        for sign in (-1, 1):
            row, column = v + sign * dv, u + sign * du
            if 0 <= row < z.shape[1] and 0 <= column < z.shape[2] and known[layer, row, column]:
                ratio = np.float64(z[layer, v, u]) / z[layer, row, column]
                slopes.append(sign * (1 - ratio))
        if len(slopes) == 2 and slopes[0] * slopes[1] <= 0:
            return 0.0
        return min(slopes, key=abs, default=0.0)

    for layer, v, u in zip(*np.nonzero(known), strict=True):
        ray = np.array([x[u], y[v], 1.0])
        right = np.array([1.0, 0, 0]) + k.fx * flatter(v, u, 0, 1) * ray
        down = np.array([0, 1.0, 0]) + k.fy * flatter(v, u, 1, 0) * ray
        normal = np.cross(right, down)
        area = np.linalg.norm(normal)
        length = min(area, 2 * STEEPEST - area)
        unit = normal / area
        inside = ray - (ray @ unit) * unit
        if length > 1 and np.linalg.norm(inside) > 1e-3:
            stretch[layer, v, u], areas[layer, v, u] = length, area
            long[layer, v, u] = inside / np.linalg.norm(inside)
            normals[layer, v, u] = unit
    return stretch, areas, long, normals


@pytest.mark.parametrize('missing', [0.0, 0.3])
def test_cells_are_as_long_as_points_and_cross_products_say(missing):
    rng = np.random.default_rng(3)
    k = Intrinsics(70.0, 60.0, 30.0, 20.0, 64, 48)
    rough = np.exp(0.2 * np.cumsum(rng.normal(0, 0.15, (2, 48, 64)), 2)).astype(np.float32)
    known = rng.random(rough.shape) >= missing
    (stretch, thick), quats = stretched(rough, known, k)
    truth, areas, long, normals = slow(rough, known, k)
    assert np.median(truth[known]) > 1.1  # the rough surface has cells of all kinds
    assert (truth == 1).mean() > 0.02
    assert truth.max() > 6
    np.testing.assert_allclose(stretch, truth, rtol=2e-3)
    surface = (truth > 1) & (truth == areas)
    np.testing.assert_allclose(thick[surface], 1 / truth[surface], rtol=0.02)
    assert (thick >= np.float32(0.99) / stretch).all()
    assert (thick <= 1).all()
    turned = truth > 1.01
    quats = np.moveaxis(quats, 0, -1).astype(np.float64)
    axes = matrix_from_quat(quats / np.linalg.norm(quats, axis=-1, keepdims=True))
    for axis, expected in ((axes[..., 0], long), (axes[..., 2], normals)):
        assert np.abs((axis * expected).sum(-1))[turned].min() > 0.999
    assert (quats[truth == 1] == [1, 0, 0, 0]).all()


def least_covered(gaussians, normal):
    """The least alpha around the middle, seen square on from as far as the camera was."""
    n = np.array(normal) / np.linalg.norm(normal)
    centre = gaussians.arrays.means[24 * 64 + 32]
    right = np.cross([0.1, 1, 0.2], n)
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(n, right), n])
    T[:3, 3] = -T[:3, :3] @ (centre - n * np.linalg.norm(centre))
    return np.asarray(rasterize(gaussians, CAMERA, T).alpha)[20:28, 28:36].min()


@pytest.mark.parametrize('normal', [(0, 0.94, 0.35), (0.87, 0, 0.5), (0.6, 0.6, 0.53)])
def test_a_slanted_surface_has_no_gaps_from_the_side(normal):
    z = plane(normal, 1.0)
    z[z > 6] = np.nan
    gray = torch.full((3, *z.shape), 0.5)
    gaussians = gaussians_from_depth(torch.from_numpy(z)[None], gray, CAMERA)
    assert least_covered(gaussians, normal) > 0.8
    scales, _ = gaussians.shapes
    unstretched = replace(gaussians, scales=scales[:, 1:2].expand(-1, 3).contiguous())
    assert least_covered(unstretched, normal) < 0.75


@pytest.mark.parametrize('normal', [(0, 0.94, 0.35), (0.87, 0, 0.5), (0.6, 0.6, 0.53)])
def test_a_slanted_surface_is_as_sharp_as_ever_from_where_it_was_seen(normal):
    """Standard deviations in the image, in cells, are those of a surface seen square on."""
    z = plane(normal, 1.0)[8:-8, 8:-8]
    k = CAMERA.cropped(8, 8, 48, 32)
    gaussians = gaussians_from_depth(torch.from_numpy(z)[None], torch.zeros(3, *z.shape), k)
    scales, quats = (values.double().numpy() for values in gaussians.shapes)
    axes = matrix_from_quat(quats / np.linalg.norm(quats, axis=1, keepdims=True))
    axes *= scales[:, None]
    x, y = (axis.ravel() for axis in np.meshgrid(*k.axes()))
    jacobian = np.zeros((len(x), 2, 3))
    jacobian[:, 0, 0], jacobian[:, 0, 2] = k.fx, -k.fx * x
    jacobian[:, 1, 1], jacobian[:, 1, 2] = k.fy, -k.fy * y
    seen = jacobian @ axes / z.reshape(-1, 1, 1)
    known = np.isfinite(z).ravel()
    deviations = np.linalg.svd(seen[known], compute_uv=False)
    assert deviations.max() < 1.15 * STD_CELLS
    assert deviations.min() > 0.8 * STD_CELLS


def test_nothing_is_stretched_across_a_jump_of_depth():
    z = np.full((1, 48, 64), 3.0, np.float32)
    z[0, 10:30, 20:40] = 1.0
    stretch, quats = stretched(z, np.ones(z.shape, bool), CAMERA)
    np.testing.assert_allclose(stretch, 1, atol=1e-4)
    assert (quats[0] > 0).all()


def test_what_is_steeper_than_any_surface_is_round():
    steps = np.exp(np.arange(64) * 0.5 / 64 * 60).astype(np.float32)  # of half a log a cell
    z = np.tile(steps / steps[0], (1, 48, 1))
    stretch, _ = stretched(z, np.ones(z.shape, bool), CAMERA)
    assert (stretch == 1).all()
