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
_0, _1, _2, _TINY = (np.float32(value) for value in (0, 1, 2, 1e-3))


def stretched(
    z: np.ndarray, known: np.ndarray, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Find how cells lie on the surfaces they show, by the depth of their neighbours.

    Args:
        z: [L, h, w] float32 metres along the optical axis, of each layer of surfaces.
        known: [L, h, w] bool, where z is finite, positive, and of a surface.
        intrinsics: of that size.

    Returns:
        How many times as long, at least 1, and as thick, at most 1, as it is wide each cell is
        there, [2, L, h, w] float32; and [4, L, h, w] float32, the quaternions wxyz, of any length,
        that turn the x axis to where it is long and the z axis to the normal of the surface, in
        the optical frame. A cell without known neighbours, on a ridge or at a jump of depth is
        round.
    """
    x, y = (axis.astype(np.float32) for axis in intrinsics.axes())
    layers, rows, columns = z.shape
    inverse = np.full((layers, rows + 2, columns + 2), np.nan, np.float32)  # with an unknown rim
    np.divide(1, z, out=inverse[:, 1:-1, 1:-1], where=known)
    stretch, quats = (np.empty((count, *z.shape), np.float32) for count in (2, 4))
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
    _, layers, rows, columns = stretch.shape
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
                nx, ny, nz = -a, -b, _1 + a * x[u] + b * y[v]
                square = nx * nx + ny * ny + nz * nz
                length = np.sqrt(square)
                part = _1 / length
                nx, ny, nz = nx * part, ny * part, nz * part
                mx, my, mz = x[u] - nx * part, y[v] - ny * part, _1 - nz * part
                tapered = min(length, steepest + steepest - length)
                share = tapered * part  # what is shorter than its cell is thicker, or it left gaps
                thickness = np.sqrt(_1 - share * share + _1 / (tapered * tapered))
                # the shortest turn of z to n, of length q, brings m to (c, s, 0) times its length
                qw, qx, qy = _1 + nz, -ny, nx
                q = qw * qw + qx * qx + qy * qy
                c = (q - _2 * qy * qy) * mx + _2 * qx * qy * my - _2 * qw * qy * mz
                s = _2 * qx * qy * mx + (q - _2 * qx * qx) * my + _2 * qw * qx * mz
                m = np.sqrt(c * c + s * s)
                turned = tapered > _1 and m > _TINY * q and qw > _TINY
                # then x to there, by half the angle; either end of m is as good
                sign = _1 if c >= _0 else -_1
                c, s = m + sign * c, sign * s
                stretch[0, layer, v, u] = tapered if turned else _1
                stretch[1, layer, v, u] = min(thickness, _1) if turned else _1
                quats[0, layer, v, u] = qw * c if turned else _1
                quats[1, layer, v, u] = qx * c + qy * s if turned else _0
                quats[2, layer, v, u] = qy * c - qx * s if turned else _0
                quats[3, layer, v, u] = qw * s if turned else _0


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _slope(back: np.float32, forth: np.float32) -> np.float32:
    """The flatter of the slopes to both neighbours, since the steeper one may be a jump."""
    flatter = back if abs(back) < abs(forth) or np.isnan(forth) else forth
    # what is not known, NaN, compares as false
    return flatter if abs(flatter) < np.inf and not back * forth <= _0 else _0
