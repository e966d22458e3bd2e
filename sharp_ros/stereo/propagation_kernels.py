"""Compiled loop that carries depth of one camera pose to another."""

from __future__ import annotations

from numba import njit
import numpy as np


@njit(cache=True, fastmath=True, nogil=True)
def propagate(
    log_depth: np.ndarray,
    variance: np.ndarray,
    known: np.ndarray,
    T: np.ndarray,
    intrinsics: np.ndarray,
    prior: np.ndarray,
    surface: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Depth seen from one pose as a correction of the prior at another.

    Compared with the prior at the very place where a cell falls, so that slopes cost nothing, and
    shared among the four cells around it, since the nearest alone would wear away a little of far
    surfaces with every image. Where far and near fall together their spread adds to the variance.

    Args:
        log_depth: [h, w] logarithm of depth of cells, metres.
        variance: [h, w] of it.
        known: [h, w] bool, cells to be carried.
        T: [4, 4] pose of that camera in the one at hand.
        intrinsics: [4] fx, fy, cx, cy of the cells.
        prior: [h, w] logarithm of depth of the cells at hand.
        surface: difference of log depth beyond which it is another surface.

    Returns:
        Correction [h, w] of the prior, and its information [h, w], 0 where nothing fell.
    """
    high, wide = log_depth.shape
    fx, fy, cx, cy = intrinsics
    correction = np.zeros((high, wide), np.float32)
    information = np.zeros((high, wide), np.float32)
    square = np.zeros((high, wide), np.float32)
    weight = np.zeros((high, wide), np.float32)
    for y in range(high):
        for x in range(wide):
            if not known[y, x]:
                continue
            z = np.exp(log_depth[y, x])
            X, Y = (x - cx) / fx * z, (y - cy) / fy * z
            d = T[2, 0] * X + T[2, 1] * Y + T[2, 2] * z + T[2, 3]
            if not d > 0.05:
                continue
            u = (T[0, 0] * X + T[0, 1] * Y + T[0, 2] * z + T[0, 3]) / d * fx + cx
            v = (T[1, 0] * X + T[1, 1] * Y + T[1, 2] * z + T[1, 3]) / d * fy + cy
            if not (-0.5 <= u < wide - 0.5 and -0.5 <= v < high - 0.5):
                continue
            # half of the cells at the rim lies beyond their centres
            u, v = min(max(u, 0.0), wide - 1.0), min(max(v, 0.0), high - 1.0)
            i, j = min(int(u), wide - 2), min(int(v), high - 2)
            a, b = u - i, v - j
            there = (1 - b) * ((1 - a) * prior[j, i] + a * prior[j, i + 1]) + b * (
                (1 - a) * prior[j + 1, i] + a * prior[j + 1, i + 1]
            )
            c = np.log(d) - there
            if not abs(c) <= surface:
                continue
            for n in range(4):
                row, column = j + (n >> 1), i + (n & 1)
                share = (b if n >> 1 else 1 - b) * (a if n & 1 else 1 - a)
                weight[row, column] += share
                correction[row, column] += share * c
                square[row, column] += share * c * c
                information[row, column] += share * variance[y, x]
    for y in range(high):
        for x in range(wide):
            total = weight[y, x]
            if total > 0.3:
                mean = correction[y, x] / total
                spread = max(square[y, x] / total - mean * mean, 0.0)
                correction[y, x] = mean
                information[y, x] = 1 / (information[y, x] / total + spread)
            else:
                correction[y, x] = 0
                information[y, x] = 0
    return correction, information
