"""Compiled loops of the plane sweep: what images look like around a pixel, and where they agree.

A plane sweep (Collins, 1996) asks for many depths of a pixel how well other images agree there;
whether they do is judged by the census transform (Zabih and Woodfill, 1994), to which exposure
and shading do not matter. Kernels only; `refiner.py` says what is swept and what follows. One
thread each: the other cores have the next image's network.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numba.extending import intrinsic
import numpy as np

CENSUS_REACH = 3  # pixels to all sides: 48 neighbours
# Bits that differ by chance are half of all; where a pixel falls out of an image it says little,
# and a cell of which so many places lie outside says nothing: what is left would agree by chance.
_OUTSIDE_BITS = 20
_MOST_OUTSIDE = 0.25
_NEAREST = np.float32(1e-3)  # share of its depth at which a pixel is in front of the other camera


def _count(context: Any, bits: Any) -> Any:
    """Number of bits that are set, by the instruction of the processor."""
    del context
    return bits(bits), lambda _, builder, __, arguments: builder.ctpop(arguments[0])


_ones: Any = intrinsic(_count)  # called with bits alone


@njit(cache=True, nogil=True)
def census(gray: np.ndarray) -> np.ndarray:
    """Which neighbours of each pixel are brighter than it.

    Args:
        gray: [H, W] uint8.

    Returns:
        [H, W] uint64, a bit for each of 7x7 neighbours in order of rows; 0 at the rim.
    """
    high, wide = gray.shape
    out = np.zeros((high, wide), np.uint64)
    for y in range(CENSUS_REACH, high - CENSUS_REACH):
        middle, line = gray[y, CENSUS_REACH:], out[y, CENSUS_REACH:]
        around = gray[y - CENSUS_REACH : y + CENSUS_REACH + 1]
        # one loop without branches over pixels, the one over neighbours unrolled: so the compiler
        # takes many pixels at once
        for x in range(wide - 2 * CENSUS_REACH):
            bits = np.uint64(0)
            for j in range(2 * CENSUS_REACH + 1):
                for i in range(2 * CENSUS_REACH + 1):
                    if i != CENSUS_REACH or j != CENSUS_REACH:
                        bits = (bits << np.uint64(1)) | np.uint64(around[j, x + i] > middle[x])
            line[x] = bits
    return out


@njit(fastmath=True, cache=True, nogil=True)
def sweep(
    bits: np.ndarray,
    references: np.ndarray,
    A: np.ndarray,
    B: np.ndarray,
    inverse_depth: np.ndarray,
    steps: np.ndarray,
) -> np.ndarray:
    """How badly each cell of 4x4 pixels agrees with other images for each correction of its depth.

    Args:
        bits: [H, W] uint64 census.
        references: [R, H, W] uint64 census of the other images.
        A: [R, 3, 3] float32, and
        B: [R, 3] float32: a pixel (u, v) of inverse depth w is seen at `A (u, v, 1) + B w`.
        inverse_depth: [H / 2, W / 2] float32 of every second pixel, beginning with (1, 1).
        steps: [D] float32 that it is multiplied by.

    Returns:
        [R, H / 4, W / 4, D] float32, mean number of bits that differ over four pixels of a cell;
        the same for all corrections where the other image does not show it.
    """
    count, high, wide = references.shape
    rows, columns, labels = high // 4, wide // 4, len(steps)
    cost = np.empty((count, rows, columns, labels), np.float32)
    flat = references.reshape(count, high * wide)
    right, bottom = np.float32(wide - 1), np.float32(high - 1)
    index = np.empty(labels, np.uint32)  # without sign, so that none counts from the end
    total = np.empty(labels, np.int32)
    for row in range(rows):
        for column in range(columns):
            for r in range(count):
                there = flat[r]
                total[:] = 0
                outside = np.int32(0)
                for s in range(4):
                    y, x = 2 * row + (s >> 1), 2 * column + (s & 1)
                    u, v = np.float32(2 * x + 1), np.float32(2 * y + 1)
                    here, w = bits[2 * y + 1, 2 * x + 1], inverse_depth[y, x]
                    ax = A[r, 0, 0] * u + A[r, 0, 1] * v + A[r, 0, 2]
                    ay = A[r, 1, 0] * u + A[r, 1, 1] * v + A[r, 1, 2]
                    az = A[r, 2, 0] * u + A[r, 2, 1] * v + A[r, 2, 2]
                    bx, by, bz = B[r, 0] * w, B[r, 1] * w, B[r, 2] * w
                    for k in range(labels):
                        t = steps[k]
                        depth = az + bz * t  # in the other image, of that at hand
                        z = np.float32(1) / max(depth, _NEAREST)
                        p = (ax + bx * t) * z + np.float32(0.5)
                        q = (ay + by * t) * z + np.float32(0.5)
                        p = min(max(p, np.float32(0)), right)
                        q = min(max(q, np.float32(0)), bottom)
                        at = np.int32(q) * np.int32(wide) + np.int32(p)
                        # what lies behind the other camera is as the corner, which has no census
                        index[k] = np.uint32(at) if depth > _NEAREST else np.uint32(0)
                    for k in range(labels):
                        other = there[index[k]]
                        missing = other == 0
                        unlike = np.int32(_ones(here ^ other))
                        total[k] += np.int32(_OUTSIDE_BITS) if missing else unlike
                        outside += np.int32(missing)
                if outside > _MOST_OUTSIDE * 4 * labels:
                    total[:] = 4 * _OUTSIDE_BITS
                for k in range(labels):
                    cost[r, row, column, k] = np.float32(total[k]) * np.float32(0.25)
    return cost


@njit(fastmath=True, cache=True, nogil=True)
def posterior(
    cost: np.ndarray, labels: np.ndarray, bits: float, prior_std: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the correction of each cell, from its costs and those around it.

    Of the images that which agrees best counts two thirds, the next one third: what is hidden from
    one is seen from the other side (cf. Kang et al., 2001). The costs of 3x3 cells are averaged; a
    correction is `exp(-cost / bits)` as likely, times a normal prior around 0.

    Args:
        cost: [R, h, w, D] of several images.
        labels: [D] float32 corrections of log depth.
        bits: of mean cost that make a correction e times less likely.
        prior_std: of the normal prior.

    Returns:
        Mean [h, w] and variance [h, w].
    """
    count, high, wide, amount = cost.shape
    mean, variance = np.empty((high, wide), np.float32), np.empty((high, wide), np.float32)
    prior = np.empty(amount, np.float32)
    per_std = np.float32(1 / prior_std)
    for k in range(amount):
        deviation = labels[k] * per_std
        prior[k] = np.float32(0.5) * deviation * deviation
    # sums of up to three cells of a column, which up to three cells of the row share; costs are
    # quarters of integers, whose sums are exact in any order
    upright = np.empty((wide, amount), np.float32)
    energy = np.empty(amount, np.float32)
    best, second = np.empty(amount, np.float32), np.empty(amount, np.float32)
    for y in range(high):
        top, bottom = max(0, y - 1), min(high, y + 2)
        for x in range(wide):
            line = upright[x]
            line[:] = 0
            for j in range(top, bottom):
                best[:] = cost[0, j, x]
                second[:] = cost[min(1, count - 1), j, x]
                for k in range(amount):
                    low = min(best[k], second[k])
                    second[k] = max(best[k], second[k])
                    best[k] = low
                for r in range(2, count):
                    row = cost[r, j, x]
                    for k in range(amount):
                        second[k] = min(second[k], max(best[k], row[k]))
                        best[k] = min(best[k], row[k])
                for k in range(amount):
                    line[k] += 2 * best[k] + second[k]
        for x in range(wide):
            left, right = max(0, x - 1), min(wide, x + 2)
            energy[:] = 0
            for i in range(left, right):
                line = upright[i]
                for k in range(amount):
                    energy[k] += line[k]
            weight = np.float32(1 / (bits * ((bottom - top) * (right - left)) * 3))
            least = np.float32(1e30)
            for k in range(amount):
                energy[k] = energy[k] * weight + prior[k]
                least = min(least, energy[k])
            s0 = s1 = s2 = np.float32(0)
            for k in range(amount):
                if energy[k] < least + np.float32(12):
                    p = np.exp(least - energy[k])
                    s0 += p
                    s1 += p * labels[k]
                    s2 += p * labels[k] * labels[k]
            mean[y, x] = s1 / s0
            variance[y, x] = s2 / s0 - (s1 / s0) ** 2
    return mean, variance
