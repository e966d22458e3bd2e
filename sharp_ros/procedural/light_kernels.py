"""Compiled loops that spread few samples of light along surfaces, see `raycast`.

Rows and columns of the samples are half those of the image, and sample (i, j) lies on pixel
(2 i + 1, 2 j + 1). Positions and normals are those of the world, in metres and of unit length.
Borders repeat. The sums are taken in float32, in the order of the window.
"""

from __future__ import annotations

import numba
import numpy as np

SAME_DEPTH = (0.02, 0.01)  # of what counts as one plane: share of the depth, and metres
_PARALLEL = (0.9, 0.8)  # least cosine between normals, of samples and from samples to pixels


@numba.njit(cache=True, nogil=True, error_model='numpy')
def smooth(
    light: np.ndarray,
    position: np.ndarray,
    normal: np.ndarray,
    tolerance: np.ndarray,
    dilation: int,
) -> np.ndarray:  # all [h, w, 3] but tolerance [h, w] -> [h, w, 3]
    """Mean over a 5x5 window with holes, of samples on the same plane (a-trous, Dammertz 2010).

    Args:
        light: of the samples, float32 as all arrays here.
        position: of the samples.
        normal: of the samples.
        tolerance: metres from a sample's plane within which others count as on it.
        dilation: samples from one of the window to the next.
    """
    rows, columns = tolerance.shape
    smoothed = np.empty_like(light)
    for i in range(rows):
        for j in range(columns):
            x, y, z = position[i, j]
            nx, ny, nz = normal[i, j]
            red, green, blue = light[i, j]
            weight = np.float32(1)
            for di in range(-2, 3):
                for dj in range(-2, 3):
                    if (di == 0 and dj == 0) or abs(di) + abs(dj) == 4:
                        continue
                    k = min(max(i + di * dilation, 0), rows - 1)
                    m = min(max(j + dj * dilation, 0), columns - 1)
                    ax, ay, az = normal[k, m]
                    if not ax * nx + ay * ny + az * nz > _PARALLEL[0]:
                        continue
                    px, py, pz = position[k, m]
                    step = (px - x) * nx + (py - y) * ny + (pz - z) * nz
                    if abs(step) < tolerance[i, j]:
                        red += light[k, m, 0]
                        green += light[k, m, 1]
                        blue += light[k, m, 2]
                        weight += np.float32(1)
            smoothed[i, j, 0] = red / weight
            smoothed[i, j, 1] = green / weight
            smoothed[i, j, 2] = blue / weight
    return smoothed


@numba.njit(cache=True, nogil=True, error_model='numpy')
def upsample(
    light: np.ndarray,
    positions: tuple[np.ndarray, np.ndarray],
    normals: tuple[np.ndarray, np.ndarray],
    depth: np.ndarray,
) -> np.ndarray:  # -> [2 h, 2 w, 3]
    """From every second pixel to all, linearly, from samples on the plane of the pixel only.

    Args:
        light: [h, w, 3] of the samples, float32 as all arrays here.
        positions: [h, w, 3] of the samples and [2 h, 2 w, 3] of the pixels.
        normals: likewise.
        depth: [2 h, 2 w] of the pixels.
    """
    rows, columns = light.shape[:2]
    nearest = np.float32(1e-5)  # weight of the sample that is taken where none fits
    spread = np.empty((2 * rows, 2 * columns, 3), np.float32)
    for i in range(2 * rows):
        for j in range(2 * columns):
            x, y, z = positions[1][i, j]
            nx, ny, nz = normals[1][i, j]
            tolerance = SAME_DEPTH[0] * depth[i, j] + SAME_DEPTH[1]
            red = light[i // 2, j // 2, 0] * nearest
            green = light[i // 2, j // 2, 1] * nearest
            blue = light[i // 2, j // 2, 2] * nearest
            weight = nearest
            for di in range(-1, 2):
                across = _tent(i, di)
                k = min(max(i // 2 + di, 0), rows - 1)
                for dj in range(-1, 2):
                    share = np.float32(across * _tent(j, dj))
                    m = min(max(j // 2 + dj, 0), columns - 1)
                    ax, ay, az = normals[0][k, m]
                    if share == 0 or not ax * nx + ay * ny + az * nz > _PARALLEL[1]:
                        continue
                    px, py, pz = positions[0][k, m]
                    step = (px - x) * nx + (py - y) * ny + (pz - z) * nz
                    if abs(step) < tolerance:
                        red += light[k, m, 0] * share
                        green += light[k, m, 1] * share
                        blue += light[k, m, 2] * share
                        weight += share
            spread[i, j, 0] = red / weight
            spread[i, j, 1] = green / weight
            spread[i, j, 2] = blue / weight
    return spread


@numba.njit(cache=True, nogil=True)
def _tent(pixel: int, offset: int) -> float:
    """Weight, for a pixel, of the sample of its pair (offset 0), the one before or after it."""
    if pixel % 2 == 1:
        return 0.5 if offset == 0 else 0.25
    return 0.0 if offset == 1 else 0.5
