"""What a voxel of the Gaussian map holds, and the one Gaussian that stands for it.

A row of `sums` [20] float32 are the sums of the moments of a mixture, weighted and relative to the
centre of the voxel: the weight; the mean; the Gaussians' own covariances and the products of their
means, both as xx xy xz yy yz zz; linear RGB; opacity.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from sharp_ros.mapping.voxel_hash import inlined, neighbours, unpacked
from sharp_ros.network.jacobi import jacobi_sweep

MEAN, OWN, MEANS, COLOR, OPACITY, COLUMNS = 1, 4, 10, 16, 19, 20  # first columns of the sums

# A uniform patch of side 1 has a standard deviation of 1 / sqrt(12). Gaussians that stand one side
# apart close the surface from 0.6 on, as those of a network do in their grid; so the spread of the
# means in a voxel, not the width of what it is made of, is drawn wider by the quotient.
_CLOSING = 0.6
SPREAD = _CLOSING * math.sqrt(12)

_COMPANY = 4  # neighbours of a voxel within a surface, of the six that share a face
_FLOOR = 1e-8  # of a variance, relative to the sum over all axes


@inlined
def position(voxel: np.int64, sums: np.ndarray, side: float) -> tuple[float, float, float]:
    """Mean of a row in the world, metres, of its voxel (int64), sums [20] and the voxels' side."""
    ix, iy, iz = unpacked(voxel)
    return (
        (ix + 0.5) * side + sums[MEAN] / sums[0],
        (iy + 0.5) * side + sums[MEAN + 1] / sums[0],
        (iz + 0.5) * side + sums[MEAN + 2] / sums[0],
    )


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def export(
    rows: np.ndarray,
    table: np.ndarray,
    voxels: np.ndarray,
    sums: np.ndarray,
    side: float,
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
) -> None:
    """Write the Gaussians of the given `rows` [K] int64.

    Args:
        rows: which.
        table: of the `VoxelHash`.
        voxels: of the `VoxelHash`.
        sums: [N, 20] float32.
        side: of a voxel, metres.
        means: [N, 3] float32 in the world, metres; this and what follows is written.
        quats: [N, 4] float32 unit, wxyz.
        scales: [N, 3] float32 standard deviations, metres.
        opacities: [N] float32.
        colors: [N, 3] float32 linear RGB.
    """
    closing = (_CLOSING * side) ** 2
    for k in numba.prange(len(rows)):
        row = int(rows[k])
        total = sums[row]
        weight = np.float64(total[0])
        means[row, 0], means[row, 1], means[row, 2] = position(voxels[row], total, side)
        for c in range(3):
            colors[row, c] = total[COLOR + c] / weight
        opacities[row] = total[OPACITY] / weight

        x, y, z = total[MEAN] / weight, total[MEAN + 1] / weight, total[MEAN + 2] / weight
        squares = (x * x, x * y, x * z, y * y, y * z, z * z)
        own = _six(total, OWN, weight, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
        between = _six(total, MEANS, weight, squares)
        p, q, r = _axes(own, between)
        variances = (
            _variance(p, own, between, SPREAD * SPREAD),
            _variance(q, own, between, SPREAD * SPREAD),
            _variance(r, own, between, 1.0),  # across the surface spread is noise
        )
        # A Gaussian from afar is as wide as its cell was then. What need not reach beyond the next
        # voxels is cut, else a surface seen from near and far stays as blurred as from afar.
        company = 0
        for other in neighbours(voxels[row], table, voxels):
            company += other >= 0
        cut = min(company, _COMPANY) / _COMPANY
        for axis in range(3):
            beyond = max(variances[axis] - closing, 0.0)
            scales[row, axis] = math.sqrt(variances[axis] - cut * beyond)
        quats[row, 0], quats[row, 1], quats[row, 2], quats[row, 3] = _quat(p, q)


@inlined
def _six(sums, first, weight, less):
    """Means of six columns of sums [20] from the `first` on, less what is given; float64 tuples.

    The six are a covariance in m², xx xy xz yy yz zz.
    """
    return (
        sums[first] / weight - less[0],
        sums[first + 1] / weight - less[1],
        sums[first + 2] / weight - less[2],
        sums[first + 3] / weight - less[3],
        sums[first + 4] / weight - less[4],
        sums[first + 5] / weight - less[5],
    )


@inlined
def _axes(own, between):
    """Unit eigenvectors of the sum of two covariances, the one of the largest eigenvalue first.

    Two times six float64 -> three times x y z, float64. They are the left singular vectors of its
    Cholesky factor. The floor, a ten-thousandth of the size, keeps discs and needles from dividing
    by 0.
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
    zero = np.float32(0)
    p = (np.float32(l00), np.float32(l10), np.float32(l20))
    q = (zero, np.float32(l11), np.float32(l21))
    r = (zero, zero, np.float32(l22))
    p, q, r = jacobi_sweep(*jacobi_sweep(*jacobi_sweep(*jacobi_sweep(p, q, r))))
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
def _quat(p, q):
    """Unit wxyz quaternion of the rotation whose first two columns are given (Shepperd 1978).

    Two times three float64 -> four float64.
    """
    xx, yx, zx = p
    xy, yy, zy = q
    xz, yz, zz = yx * zy - zx * yy, zx * xy - xx * zy, xx * yy - yx * xy
    # rows of 4 q q^T, of which the one with the largest diagonal is well defined
    if xx + yy + zz > 0:
        w, x, y, z = 1 + xx + yy + zz, zy - yz, xz - zx, yx - xy
    elif xx >= yy and xx >= zz:
        w, x, y, z = zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx
    elif yy >= zz:
        w, x, y, z = xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy
    else:
        w, x, y, z = yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    return w / norm, x / norm, y / norm, z / norm
