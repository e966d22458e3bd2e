"""Compiled loops that spread light against twins that work on whole images."""

from __future__ import annotations

import numpy as np

from sharp_ros.procedural.light_kernels import SAME_DEPTH, smooth, upsample


def padded(values: np.ndarray, edge: int) -> np.ndarray:
    return np.pad(values, ((edge, edge), (edge, edge), (0, 0)), mode='edge')


def doubled(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(values, 2, 0), 2, 1)


def on_plane(position, normal, others, their_normals, tolerance, cosine):
    """Which of the others lie on the planes through these points, [H, W, 1]."""
    step = ((others - position) * normal).sum(-1)
    parallel = (their_normals * normal).sum(-1) > cosine
    return (parallel & (np.abs(step) < tolerance))[..., None].astype(np.float32)


def smoothed(light, position, normal, tolerance, dilation):
    """One shifted copy of the image for each place in the window."""
    rows, columns = tolerance.shape
    edge = 2 * dilation
    far_position, far_normal, far_light = (padded(v, edge) for v in (position, normal, light))
    total, weight = light.copy(), np.ones((rows, columns, 1), np.float32)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            if (dy, dx) == (0, 0) or abs(dy) + abs(dx) == 4:
                continue
            y, x = edge + dy * dilation, edge + dx * dilation
            window = np.s_[y : y + rows, x : x + columns]
            same = on_plane(
                position, normal, far_position[window], far_normal[window], tolerance, 0.9
            )
            total += far_light[window] * same
            weight += same
    return total / weight


def tent(size: int, offset: int) -> np.ndarray:
    """Weights of the sample before (0), at (1) or after (2) a pixel; samples lie on odd pixels."""
    even, odd = ((0.5, 0.25), (0.5, 0.5), (0.0, 0.25))[offset]
    return np.where(np.arange(size) % 2 == 1, odd, even).astype(np.float32)


def upsampled(light, positions, normals, depth):
    """Likewise, of the samples around every pixel."""
    height, width = depth.shape
    rows, columns = light.shape[:2]
    near_position, near_normal, near_light = (
        padded(v, 1) for v in (positions[0], normals[0], light)
    )
    total, weight = doubled(light) * 1e-5, np.full((height, width, 1), 1e-5, np.float32)
    tolerance = SAME_DEPTH[0] * depth + SAME_DEPTH[1]
    for dy in range(3):
        for dx in range(3):
            window = np.s_[dy : dy + rows, dx : dx + columns]
            others = doubled(near_position[window]), doubled(near_normal[window])
            same = on_plane(positions[1], normals[1], *others, tolerance, 0.8)
            share = same * (tent(height, dy)[:, None] * tent(width, dx)[None])[..., None]
            total += doubled(near_light[window]) * share
            weight += share
    return total / weight


def a_room(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position, normal and depth of pixels that see a corner of two walls and a box in front."""
    x, y = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-0.7, 0.7, rows))
    depth = np.minimum(2.0 / (1 + np.maximum(x, 0)), 2.0)
    normal = np.zeros((rows, columns, 3))
    normal[...] = (0, 0, -1)
    normal[x > 0] = np.array([-1, 0, -1]) / np.sqrt(2)
    box = (np.abs(x + 0.4) < 0.2) & (np.abs(y) < 0.3)
    depth[box], normal[box] = 0.8, (0, 0, -1)
    position = np.stack([x, y, np.ones_like(x)], -1) * depth[..., None]
    return tuple(v.astype(np.float32) for v in (position, normal, depth))


def test_light_is_smoothed_along_surfaces_only():
    position, normal, depth = a_room(26, 34)
    light = np.random.default_rng(0).uniform(0, 2, position.shape).astype(np.float32)
    for dilation in (1, 3):
        result = smooth(light, position, normal, 0.02 * depth + 0.01, dilation)
        expected = smoothed(light, position, normal, 0.02 * depth + 0.01, dilation)
        np.testing.assert_allclose(result, expected, rtol=1e-5)
        assert result.std() < 0.5 * light.std()
    box = depth == depth.min()
    dark = np.where(box[..., None], 0, light).astype(np.float32)
    assert (smooth(dark, position, normal, 0.02 * depth + 0.01, 3)[box] == 0).all()


def test_samples_spread_to_the_pixels_of_their_surface():
    position, normal, depth = a_room(24, 32)
    half = np.s_[1::2, 1::2]
    positions, normals = ((np.ascontiguousarray(v[half]), v) for v in (position, normal))
    light = np.random.default_rng(1).uniform(0, 2, positions[0].shape).astype(np.float32)
    result = upsample(light, positions, normals, depth)
    np.testing.assert_allclose(
        result, upsampled(light, positions, normals, depth), rtol=2e-5, atol=1e-6
    )
    box = depth == depth.min()
    light[box[half]] = 5.0
    spread = upsample(light, positions, normals, depth)
    np.testing.assert_allclose(spread[box], 5.0, rtol=1e-4)
