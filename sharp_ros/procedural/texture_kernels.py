"""Compiled lookup of surface colours in mip pyramids, see `raycast` and `scene.Detail`."""

from __future__ import annotations

import math

import numba
import numpy as np

ONE = 64  # byte that stands for the factor 1 in textures of finer detail
DARKEST = 0.1  # factor that it may multiply a colour with


@numba.njit(cache=True, nogil=True, error_model='numpy')
def albedo(
    hits: tuple[np.ndarray, np.ndarray, np.ndarray],
    jitter: np.ndarray,
    surfaces: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    detail: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    mips: np.ndarray,
    layout: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:  # -> [N, 3]
    """Linear colours, from the mip level whose texels are as large as the footprint.

    Where that is the finest one, a second texture of finer texels still shows detail.

    Args:
        hits: triangle [N] int64, barycentric coordinates [N, 2] and footprint [N] (metres).
        jitter: [N, 2] texels by which the lookup is off, in place of an interpolation.
        surfaces: of each triangle: coordinates [F, 3, 2], texture [F], tint [F, 3] and metres
            per texel [F].
        detail: pyramids of factors [K, P, 3] uint8, and of each triangle which of them [F], its
            repeats in one of the first texture [F], and its strength [F], 0 for none.
        mips: [T, P, 3] uint8, see `Textures.mips`.
        layout: start of every level [L] int64 and linear values of a byte [256] float32.
    """
    triangles, barycentric, footprint = hits
    uv, texture, tint, texel = surfaces
    factors, finer, repeats, strength = detail
    offsets, linear = layout
    colour = np.empty((len(triangles), 3), np.float32)
    one = np.float32(1)
    for n in range(len(triangles)):
        t = triangles[n]
        second, third = barycentric[n]
        first = one - second - third
        u = uv[t, 0, 0] * first + uv[t, 1, 0] * second + uv[t, 2, 0] * third
        v = uv[t, 0, 1] * first + uv[t, 1, 1] * second + uv[t, 2, 1] * third
        blur = math.log2(max(footprint[n] / texel[t], 1e-6)) + 0.3
        place = _texel(u, v, blur, jitter[n], offsets)
        for c in range(3):
            shade = linear[mips[texture[t], place, c]] * tint[t, c]
            colour[n, c] = min(max(shade, np.float32(0)), np.float32(1.2))
        blur += math.log2(max(repeats[t], 1e-6))
        if strength[t] == 0 or blur >= len(offsets) - 1:  # on average it is 1
            continue
        place = _texel(u * repeats[t], v * repeats[t], blur, jitter[n], offsets)
        for c in range(3):
            factor = factors[finer[t], place, c] / ONE
            factor = max(1 + strength[t] * (factor - 1), DARKEST)
            colour[n, c] = min(colour[n, c] * np.float32(factor), np.float32(1.2))
    return colour


@numba.njit(cache=True, nogil=True, forceinline=True)
def _texel(u: float, v: float, blur: float, jitter: np.ndarray, offsets: np.ndarray) -> int:
    """Place in a pyramid of the texel at coordinates, blurred by 2^`blur` of the finest texels."""
    level = min(max(math.floor(blur), 0), len(offsets) - 1)
    side = (1 << (len(offsets) - 1)) >> level
    x = math.floor((u - math.floor(u)) * side + jitter[0]) % side
    y = math.floor((v - math.floor(v)) * side + jitter[1]) % side
    return offsets[level] + y * side + x
