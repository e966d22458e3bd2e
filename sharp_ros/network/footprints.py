"""How much of a surface a cell of a depth image covers, where that is slanted.

A Gaussian as wide as its cell appears leaves gaps on a slanted surface that is seen from
elsewhere: neighbours on it lie farther apart than they appear. The cell covers an ellipse there,
as long as the surface is slanted to its ray (Zwicker et al., EWA Splatting, 2002).
"""

from __future__ import annotations

import numba
import numpy as np

from sharp_ros.camera import Intrinsics

# Times as long as wide. What is steeper yet is less and less a surface, more a jump of depth, and
# from twice that on nothing else; a step there would let rounding decide.
STEEPEST = 8.0
# Typed constants: numba widens float32 arithmetic to float64 at every bare literal.
_0, _1, _TINY = np.float32(0), np.float32(1), np.float32(1e-3)


def stretched(
    z: np.ndarray, known: np.ndarray, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Find how cells lie on the surfaces they show, by the depth of their neighbours.

    Args:
        z: [L, h, w] float32 metres along the optical axis, of each layer of surfaces.
        known: [L, h, w] bool, where z is finite, positive, and of a surface.
        intrinsics: of that size.

    Returns:
        How many times as long as wide each cell is there, [L, h, w] float32, at least 1; and the
        turn of the z axis into the direction in which it is long, [L, h, w, 4] float32 quaternions
        wxyz of any length, in the optical frame. A cell without known neighbours, on a ridge or at
        a jump of depth is round.
    """
    x, y = (axis.astype(np.float32) for axis in intrinsics.axes())
    layers, rows, columns = z.shape
    inverse = np.full((layers, rows + 2, columns + 2), np.nan, np.float32)  # with an unknown rim
    np.divide(1, z, out=inverse[:, 1:-1, 1:-1], where=known)
    stretch, quats = np.empty(z.shape, np.float32), np.empty((*z.shape, 4), np.float32)
    focal = np.float32(intrinsics.fx), np.float32(intrinsics.fy)
    _stretch_kernel(inverse, x, y, focal, np.float32(STEEPEST), stretch, quats)
    return stretch, quats


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _stretch_kernel(
    inverse: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    focal: tuple[np.float32, np.float32],
    steepest: np.float32,
    stretch: np.ndarray,
    quats: np.ndarray,
) -> None:
    """Fill `stretch` and `quats`, see `stretched`, of inverse depths [L, h + 2, w + 2].

    With the slopes a = fx dz/z and b = fy dz/z between cells, of the ray r = (x, y, 1) the normal
    is n = (-a, -b, 1 + a x + b y), of which n r = 1, and the area of a cell |n| times that of one
    that is seen square on. What of the ray lies in the surface is m = r - n / |n|^2.
    """
    layers, rows, columns = stretch.shape
    fx, fy = focal
    sides = np.empty((2, columns), np.float32)
    for layer in range(layers):
        for v in range(rows):
            above, row, below = inverse[layer, v], inverse[layer, v + 1], inverse[layer, v + 2]
            # Loops of one kind each, without a branch: the compiler does several cells at once.
            for u in range(columns):
                z = _1 / row[u + 1]
                sides[0, u] = fx * _slope(z * row[u] - _1, _1 - z * row[u + 2])
                sides[1, u] = fy * _slope(z * above[u + 1] - _1, _1 - z * below[u + 1])
            for u in range(columns):
                a, b = sides[0, u], sides[1, u]
                nz = _1 + a * x[u] + b * y[v]
                square = _1 / (a * a + b * b + nz * nz)
                length = np.sqrt(_1 / square)
                length = min(length, steepest + steepest - length)
                mx, my, mz = x[u] + a * square, y[v] + b * square, _1 - nz * square
                m = np.sqrt(mx * mx + my * my + mz * mz)
                turned = length > _1 and m > _TINY
                sign = _1 if mz >= _0 else -_1  # either end of it is as good; never half a turn
                stretch[layer, v, u] = length if turned else _1
                quats[layer, v, u, 0] = m + sign * mz if turned else _1
                quats[layer, v, u, 1] = -sign * my if turned else _0
                quats[layer, v, u, 2] = sign * mx if turned else _0
                quats[layer, v, u, 3] = _0


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _slope(back: np.float32, forth: np.float32) -> np.float32:
    """The flatter of the slopes to both neighbours, since the steeper one may be a jump."""
    flatter = back if abs(back) < abs(forth) or np.isnan(forth) else forth
    # what is not known, NaN, compares as false
    return flatter if abs(flatter) < np.inf and not back * forth <= _0 else _0
