"""What a voxel of the Gaussian map holds, and the one Gaussian that stands for it.

A row holds the sums of the moments of a mixture, weighted and relative to the centre of the voxel,
in float32: in `sums` [8] the weight, the mean, linear RGB and opacity, which whoever goes through
all rows needs; in `spreads` [12] the Gaussians' own covariances and the products of their means,
both as xx xy xz yy yz zz.

What takes time to find, its axes and how long they are, is kept until a row or its neighbours
change: `shapes` [N, 6] float32, three standard deviations in metres and three components of the
unit quaternion. The fourth follows from them; `flags` [N] uint8 say which one it is (`TURN`), and
that a row has changed (`CHANGED`). All else of a Gaussian is a quotient of two sums, and made when
it is asked for.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from sharp_ros.mapping.voxel_hash import company, inlined, unpacked
from sharp_ros.network.jacobi import jacobi_sweep

# First columns of the sums, of the spreads, and how many each has.
MEAN, COLOR, OPACITY, SUMS = 1, 4, 7, 8
OWN, MEANS, SPREADS = 0, 6, 12
# What a Gaussian adds, and what files of maps hold, is one row in which the spreads stand between
# mean and colour.
TERMS, TERMS_COLOR = SUMS + SPREADS, COLOR + SPREADS
SHAPES = 6

# Bits of `flags`. Those of TURN count from 0 to 3: w, x, y or z is left out, which is positive.
HIDDEN, SEEN, CHANGED, TURN_BIT = 1, 2, 4, 3
TURN = 3 << TURN_BIT

# A uniform patch of side 1 has a standard deviation of 1 / sqrt(12). Gaussians that stand one side
# apart close the surface from 0.6 on, as those of a network do in their grid; so the spread of the
# means in a voxel, not the width of what it is made of, is drawn wider by the quotient.
_CLOSING = 0.6
SPREAD = _CLOSING * math.sqrt(12)

_BATCH = 64  # rows whose axes are found together
# Unsigned places of its planes: numba guards signed ones against counting from the end, which
# stops the compiler from vectorising.
_PLANE, _2, _3, _4, _5, _6, _7, _8 = (np.uintp(k * _BATCH) for k in range(1, 9))
_COMPANY = 4  # neighbours of a voxel within a surface, of the six that share a face
_FLOOR = 1e-8  # of a variance, relative to the sum over all axes


@inlined
def position(
    voxel: np.int64, sums: np.ndarray, row: int, side: float
) -> tuple[float, float, float]:
    """Mean of a row in the world, metres, of its voxel, sums [N, 8] and the voxels' side."""
    ix, iy, iz = unpacked(voxel)
    return (
        (ix + 0.5) * side + sums[row, MEAN] / sums[row, 0],
        (iy + 0.5) * side + sums[row, MEAN + 1] / sums[row, 0],
        (iz + 0.5) * side + sums[row, MEAN + 2] / sums[row, 0],
    )


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def find_shapes(
    rows: np.ndarray,
    table: np.ndarray,
    voxels: np.ndarray,
    sums: np.ndarray,
    spreads: np.ndarray,
    flags: np.ndarray,
    side: float,
    shapes: np.ndarray,
) -> None:
    """Write the shapes of the given `rows` [K] int64, which then count as unchanged.

    Args:
        rows: which.
        table: of the `VoxelHash`.
        voxels: of the `VoxelHash`.
        sums: [N, 8] float32.
        spreads: [N, 12] float32.
        flags: [N] uint8, of which `TURN` and `CHANGED` are written.
        side: of a voxel, metres.
        shapes: [N, 6] float32, written.
    """
    closing = (_CLOSING * side) ** 2
    for batch in numba.prange((len(rows) + _BATCH - 1) // _BATCH):
        first = batch * _BATCH
        end = min(first + _BATCH, len(rows))
        columns = np.zeros(9 * _BATCH, np.float32)
        for k in range(first, end):
            row = int(rows[k])
            own, between = _covariances(sums[row], spreads[row])
            _write_factor(own, between, columns, k - first)
        _turn_columns(columns)
        for k in range(first, end):
            row = int(rows[k])
            own, between = _covariances(sums[row], spreads[row])
            p, q, r = _axes(columns, k - first)
            variances = (
                _variance(p, own, between, SPREAD * SPREAD),
                _variance(q, own, between, SPREAD * SPREAD),
                _variance(r, own, between, 1.0),  # across the surface spread is noise
            )
            # A Gaussian from afar is as wide as its cell was then. What need not reach beyond the
            # next voxels is cut, else a surface seen from near and far stays as blurred as from
            # afar.
            cut = 0.0
            if max(variances[0], variances[1], variances[2]) > closing:
                cut = company(voxels[row], table, voxels, _COMPANY) / _COMPANY
            for axis in range(3):
                beyond = max(variances[axis] - closing, 0.0)
                shapes[row, axis] = math.sqrt(variances[axis] - cut * beyond)
            turn, shapes[row, 3], shapes[row, 4], shapes[row, 5] = _turn(p, q)
            flags[row] = (flags[row] & (HIDDEN | SEEN)) | turn << TURN_BIT


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def export(
    voxels: np.ndarray,
    sums: np.ndarray,
    flags: np.ndarray,
    shapes: np.ndarray,
    side: float,
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
) -> None:
    """Write the Gaussians of rows whose shapes have been found.

    Args:
        voxels: [N] int64.
        sums: [N, 8] float32.
        flags: [N] uint8.
        shapes: [N, 6] float32.
        side: of a voxel, metres.
        means: [N, 3] float32 in the world, metres; this and what follows is written.
        quats: [N, 4] float32 unit, wxyz.
        scales: [N, 3] float32 standard deviations, metres.
        opacities: [N] float32.
        colors: [N, 3] float32 linear RGB.
    """
    for row in numba.prange(len(voxels)):
        share = 1 / np.float64(sums[row, 0])
        means[row, 0], means[row, 1], means[row, 2] = position(voxels[row], sums, row, side)
        for c in range(3):
            colors[row, c] = sums[row, COLOR + c] * share
            scales[row, c] = shapes[row, c]
        opacities[row] = sums[row, OPACITY] * share
        # Unsigned, since numba guards signed ones against counting from the end.
        turn = np.uintp((flags[row] & TURN) >> TURN_BIT)
        a, b = np.float64(shapes[row, 3]), np.float64(shapes[row, 4])
        c = np.float64(shapes[row, 5])
        quats[row, 0] = a
        quats[row, 1] = a if turn < 1 else b
        quats[row, 2] = b if turn < 2 else c
        quats[row, 3] = c
        quats[row, turn] = math.sqrt(max(1.0 - (a * a + b * b + c * c), 0.0))


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def stored(sums: np.ndarray, spreads: np.ndarray) -> np.ndarray:  # [N, 8], [N, 12] -> [N, 20]
    """Rows as files of maps have them, float32."""
    result = np.empty((len(sums), TERMS), np.float32)
    for row in numba.prange(len(sums)):
        for c in range(COLOR):
            result[row, c] = sums[row, c]
        for c in range(SPREADS):
            result[row, COLOR + c] = spreads[row, c]
        for c in range(COLOR, SUMS):
            result[row, SPREADS + c] = sums[row, c]
    return result


@inlined
def _covariances(sums, spreads):
    """Covariances of a row, of its own Gaussians and between their means; six float64 each."""
    weight = np.float64(sums[0])
    x, y, z = sums[MEAN] / weight, sums[MEAN + 1] / weight, sums[MEAN + 2] / weight
    squares = (x * x, x * y, x * z, y * y, y * z, z * z)
    own = _six(spreads, OWN, weight, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    return own, _six(spreads, MEANS, weight, squares)


@inlined
def _six(spreads, first, weight, less):
    """Means of six columns of spreads [12] from the `first` on, less what is given, in float64.

    The six are a covariance in m², xx xy xz yy yz zz.
    """
    return (
        spreads[first] / weight - less[0],
        spreads[first + 1] / weight - less[1],
        spreads[first + 2] / weight - less[2],
        spreads[first + 3] / weight - less[3],
        spreads[first + 4] / weight - less[4],
        spreads[first + 5] / weight - less[5],
    )


@inlined
def _write_factor(own, between, columns, j):
    """Write the Cholesky factor of the sum of two covariances, its size taken out.

    Two times six float64 -> place `j` of nine planes of `_BATCH` float32, p q r times x y z. The
    floor, a ten-thousandth of the size, keeps discs and needles from dividing by 0.
    """
    xx, xy, xz = own[0] + between[0], own[1] + between[1], own[2] + between[2]
    yy, yz, zz = own[3] + between[3], own[4] + between[4], own[5] + between[5]
    size = max(xx + yy + zz, 1e-30)
    xx, xy, xz, yy, yz, zz = xx / size, xy / size, xz / size, yy / size, yz / size, zz / size
    l00 = math.sqrt(max(xx, _FLOOR))
    l10, l20 = xy / l00, xz / l00
    l11 = math.sqrt(max(yy - l10 * l10, _FLOOR))
    l21 = (yz - l10 * l20) / l11
    l22 = math.sqrt(max(zz - l20 * l20 - l21 * l21, _FLOOR))
    columns[j], columns[j + _BATCH], columns[j + 2 * _BATCH] = l00, l10, l20
    columns[j + 4 * _BATCH], columns[j + 5 * _BATCH], columns[j + 8 * _BATCH] = l11, l21, l22


@numba.njit(cache=True, nogil=True, error_model='numpy', fastmath={'contract'})
def _turn_columns(columns: np.ndarray) -> None:
    """Turn the columns of all factors until they are perpendicular, the longest first.

    They are then the eigenvectors of the covariances, and as long as their standard deviations.
    Apart from all else, so that the compiler makes vector instructions of it.
    """
    for j in range(_PLANE):
        p = (columns[j], columns[j + _PLANE], columns[j + _2])
        q = (columns[j + _3], columns[j + _4], columns[j + _5])
        r = (columns[j + _6], columns[j + _7], columns[j + _8])
        p, q, r = jacobi_sweep(*jacobi_sweep(*jacobi_sweep(*jacobi_sweep(p, q, r))))
        columns[j], columns[j + _PLANE], columns[j + _2] = p
        columns[j + _3], columns[j + _4], columns[j + _5] = q
        columns[j + _6], columns[j + _7], columns[j + _8] = r


@inlined
def _axes(columns, j):
    """Unit eigenvectors at place `j`, the one of the largest eigenvalue first.

    Nine planes of `_BATCH` float32 -> three times x y z, float64.
    """
    p = (columns[j], columns[j + _BATCH], columns[j + 2 * _BATCH])
    q = (columns[j + 3 * _BATCH], columns[j + 4 * _BATCH], columns[j + 5 * _BATCH])
    r = (columns[j + 6 * _BATCH], columns[j + 7 * _BATCH], columns[j + 8 * _BATCH])
    return _unit(p), _unit(q), _unit(r)


@inlined
def _unit(v):
    """A vector, three float32, of length 1: three float64."""
    x, y, z = np.float64(v[0]), np.float64(v[1]), np.float64(v[2])
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


@inlined
def _variance(axis, own, between, factor):
    """Variance in m² along a unit axis, `between` counted `factor` times; never 0.

    Three float64, two covariances of six float64 -> float64.
    """
    x, y, z = axis
    result = 0.0
    for part, times in ((own, 1.0), (between, factor)):
        result += times * (part[0] * x * x + part[3] * y * y + part[5] * z * z)
        result += times * 2 * (part[1] * x * y + part[2] * x * z + part[4] * y * z)
    size = own[0] + own[3] + own[5] + between[0] + between[3] + between[5]
    return max(result, _FLOOR * size)


@inlined
def _turn(p, q):
    """The rotation whose first two columns are given, as unit quaternion (Shepperd 1978).

    Two times three float64 -> which of w, x, y, z is left out, and the other three, float64. What
    is left out is positive and at least 0.5, so it follows from the rest as exactly as that is.
    """
    xx, yx, zx = p
    xy, yy, zy = q
    xz, yz, zz = yx * zy - zx * yy, zx * xy - xx * zy, xx * yy - yx * xy
    # rows of 4 q q^T, of which the one with the largest diagonal is well defined
    if xx + yy + zz > 0:
        turn, w, x, y, z = 0, 1 + xx + yy + zz, zy - yz, xz - zx, yx - xy
        a, b, c = x, y, z
    elif xx >= yy and xx >= zz:
        turn, w, x, y, z = 1, zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx
        a, b, c = w, y, z
    elif yy >= zz:
        turn, w, x, y, z = 2, xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy
        a, b, c = w, x, z
    else:
        turn, w, x, y, z = 3, yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz
        a, b, c = w, x, y
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    return turn, a / norm, b / norm, c / norm
