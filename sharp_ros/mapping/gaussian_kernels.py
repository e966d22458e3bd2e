"""Kernels of the Gaussian map: what a frame adds to voxels, and which voxels it contradicts.

The arguments they share: `table` and `voxels` of a `VoxelHash`; by row `sums` [N, 8] and `spreads`
[N, 12] float32 (see `gaussian_moments`), `evidence` [N] float32 and `flags` [N] uint8, of which
these set `HIDDEN` and `SEEN` while the frame at hand is taken in, and `CHANGED` until shapes are
found anew; `depth` [H, W] float32 metres, `camera` [4] float64 fx fy cx cy and `pose` [4, 4]
float64 `T_world_camera` of the frame. What a Gaussian adds are its terms [20] float32.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from sharp_ros.mapping.gaussian_moments import (
    CHANGED,
    COLOR,
    HIDDEN,
    MEAN,
    MEANS,
    OPACITY,
    OWN,
    position,
    SEEN,
    SPREADS,
    SUMS,
    TERMS,
    TERMS_COLOR,
)
from sharp_ros.mapping.voxel_hash import (
    erase,
    inlined,
    move,
    neighbours,
    packed,
    slot_of,
    unpacked,
)

# Weight 1 is one frame that sees a voxel in full from 1 m. More is not gathered than two of
# those or 32 from 2 m, so that new frames keep a say.
_WEIGHT_MAX = 2.0
_HIDDEN_WEIGHT = 0.1  # of layers behind the visible one, which are guessed
# Spread of log depth at which a model's word counts in full, and what bounds its say.
LOG_DEPTH_STD, _LOG_DEPTH_STD_MIN, _LOG_DEPTH_STD_MAX = 0.1, 0.03, 1.0

# Evidence is one for every frame that saw something in the voxel and halves with every one that
# speaks against it: what was guessed goes after one such, what stood for long after four.
_EVIDENCE_MAX, EVIDENCE_HIDDEN, _EVIDENCE_MIN = 4.0, 0.5, 0.4
_DOUBT = 0.5
# Seen through is what is nearer than the depth image by the larger one of these. Where a model
# says how uncertain its depth is, its frames disagree by about that, and one surface would become
# a stack of them as thick: then what lies out of the margin of voxels, but within a standard
# deviation behind the newest surface, is taken for the same surface and doubted as well.
_MARGIN_RELATIVE, _MARGIN_VOXELS = 0.1, 2.0

_OPACITY_MIN = 1 / 255  # less is never drawn
_HALF_DIAGONAL = 0.87  # of a voxel of side 1: the square root of 3, halved, and some more


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def terms_of(
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    log_depth_std: np.ndarray,
    front: int,
    depth: np.ndarray,
    camera: np.ndarray,
    pose: np.ndarray,
    limits: tuple[float, float, float],
) -> tuple[np.ndarray, np.ndarray]:  # -> [N], [N, 20]
    """The voxel (int64) of every Gaussian, -1 for none, and what it adds to the sums there.

    Args:
        means: [N, 3] float32 in the optical frame, metres, as `Gaussians` has this and the next.
        quats: [N, 4] float32.
        scales: [N, 3] float32.
        opacities: [N] float32.
        colors: [N, 3] float32.
        log_depth_std: [N] float32.
        front: so many of them, the first, are of the visible layer.
        depth: see the top of this module, as for the next two.
        camera: likewise.
        pose: likewise.
        limits: side of a voxel and largest range, metres, and the share of a voxel at 1 m that one
            Gaussian fills.
    """
    n = len(means)
    voxels, terms = np.full(n, -1, np.int64), np.empty((n, TERMS), np.float32)
    side, max_range, per_voxel = limits
    # Taken out of the array once: as an argument of an inlined function it would be every time.
    lens = (camera[0], camera[1], camera[2], camera[3])
    for i in numba.prange(n):
        x, y, z = float(means[i, 0]), float(means[i, 1]), float(means[i, 2])
        if not _visible(x, y, z, i < front, depth, lens, max_range):
            continue
        quat = (
            float(quats[i, 0]),
            float(quats[i, 1]),
            float(quats[i, 2]),
            float(quats[i, 3]),
        )
        scale = (float(scales[i, 0]), float(scales[i, 1]), float(scales[i, 2]))
        color = (float(colors[i, 0]), float(colors[i, 1]), float(colors[i, 2]))
        opacity, std = float(opacities[i]), float(log_depth_std[i])
        if not _sound(quat, scale, opacity, color, std, max_range):
            continue
        wx, wy, wz = _turned(pose, (x, y, z))
        wx, wy, wz = wx + pose[0, 3], wy + pose[1, 3], wz + pose[2, 3]
        ix, iy, iz = math.floor(wx / side), math.floor(wy / side), math.floor(wz / side)
        voxels[i] = packed(ix, iy, iz)
        if voxels[i] < 0:
            continue
        offset = (wx - (ix + 0.5) * side, wy - (iy + 0.5) * side, wz - (iz + 0.5) * side)
        weight = _weight(opacity, std, z, i < front, per_voxel)
        axes = _axes_of(quat, scale, pose)
        _pack(terms, i, weight, offset, axes, color, opacity)
    return voxels, terms


@inlined
def _visible(
    x: float,
    y: float,
    z: float,
    front: bool,
    depth: np.ndarray,
    lens: tuple[float, float, float, float],
    max_range: float,
) -> bool:
    """Whether a mean, metres in the optical frame, is ahead and in range.

    One of the visible layer (`front`) also needs depth in its pixel. `lens` is the camera.
    """
    if not (z > 0 and x * x + y * y + z * z <= max_range * max_range):
        return False
    if not front:
        return True
    fx, fy, cx, cy = lens
    height, width = depth.shape
    u = min(max(round(fx * x / z + cx), 0), width - 1)
    v = min(max(round(fy * y / z + cy), 0), height - 1)
    return depth[v, u] > 0 and depth[v, u] < np.inf


@inlined
def _sound(
    quat: tuple[float, float, float, float],
    scale: tuple[float, float, float],
    opacity: float,
    color: tuple[float, float, float],
    std: float,
    max_range: float,
) -> bool:
    """Whether a Gaussian is finite, visible and not as large as the range; float64 throughout."""
    sx, sy, sz = scale
    norm = _norm(quat)
    if not (sx > 0 and sy > 0 and sz > 0 and norm > 1e-12 and opacity >= _OPACITY_MIN):
        return False
    if not (sx + sy + sz <= max_range and math.isfinite(norm + std)):
        return False
    return math.isfinite(opacity + color[0] + color[1] + color[2])


@inlined
def _norm(quat: tuple[float, float, float, float]) -> float:
    """Length of a quaternion, float64."""
    w, x, y, z = quat
    return math.sqrt(w * w + x * x + y * y + z * z)


@inlined
def _weight(opacity: float, std: float, z: float, front: bool, per_voxel: float) -> float:
    """How much a Gaussian at depth `z` counts that has this spread of log depth; float64."""
    std = min(max(std, _LOG_DEPTH_STD_MIN), _LOG_DEPTH_STD_MAX)
    weight = opacity * (LOG_DEPTH_STD / (std * z)) ** 2 / per_voxel
    return weight * (1.0 if front else _HIDDEN_WEIGHT)


@inlined
def _axes_of(
    quat: tuple[float, float, float, float], scale: tuple[float, float, float], pose: np.ndarray
) -> tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]:
    """Columns of R S in the world, metres, of a wxyz quaternion and scales; float64."""
    w, x, y, z = quat
    norm = _norm(quat)
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    sx, sy, sz = scale
    a = ((1 - 2 * (y * y + z * z)) * sx, 2 * (x * y + w * z) * sx, 2 * (x * z - w * y) * sx)
    b = (2 * (x * y - w * z) * sy, (1 - 2 * (x * x + z * z)) * sy, 2 * (y * z + w * x) * sy)
    c = (2 * (x * z + w * y) * sz, 2 * (y * z - w * x) * sz, (1 - 2 * (x * x + y * y)) * sz)
    return _turned(pose, a), _turned(pose, b), _turned(pose, c)


@inlined
def _turned(pose: np.ndarray, vector: tuple[float, float, float]) -> tuple[float, float, float]:
    """A vector of the optical frame, three float64, along the axes of the world."""
    return (
        pose[0, 0] * vector[0] + pose[0, 1] * vector[1] + pose[0, 2] * vector[2],
        pose[1, 0] * vector[0] + pose[1, 1] * vector[1] + pose[1, 2] * vector[2],
        pose[2, 0] * vector[0] + pose[2, 1] * vector[1] + pose[2, 2] * vector[2],
    )


@inlined
def _pack(
    terms: np.ndarray,
    i: int,
    weight: float,
    offset: tuple[float, float, float],
    axes: tuple[
        tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]
    ],
    color: tuple[float, float, float],
    opacity: float,
) -> None:
    """Write row `i` of the terms [N, 20]: the weighted moments of one Gaussian.

    `offset` is its mean from the centre of the voxel, metres, `axes` as of `_axes_of`; float64.
    """
    a, b, c = axes
    terms[i, 0] = weight
    column = 0
    for j in range(3):
        terms[i, MEAN + j] = weight * offset[j]
        terms[i, TERMS_COLOR + j] = weight * color[j]
        for k in range(j, 3):
            own = a[j] * a[k] + b[j] * b[k] + c[j] * c[k]
            terms[i, COLOR + OWN + column] = weight * own
            terms[i, COLOR + MEANS + column] = weight * offset[j] * offset[k]
            column += 1
    terms[i, OPACITY + SPREADS] = weight * opacity


@numba.njit(cache=True, nogil=True, error_model='numpy')
def add(
    new: np.ndarray,
    terms: np.ndarray,
    start: int,
    front: int,
    table: np.ndarray,
    voxels: np.ndarray,
    sums: np.ndarray,
    spreads: np.ndarray,
    evidence: np.ndarray,
    flags: np.ndarray,
    count: int,
) -> tuple[int, int]:
    """Add terms [M, 20] to the rows of their voxels `new` [M] int64, from `start` on.

    Stops where one more row does not fit. The first `front` terms are seen, the others hidden.

    Returns:
        How many are done, and the number of rows, which was `count`.
    """
    for i in range(start, len(new)):
        if new[i] < 0:
            continue
        slot = slot_of(new[i], table, voxels)
        row = table[slot]
        if row < 0:
            if count == len(voxels):
                return i, count
            row = count
            count += 1
            table[slot], voxels[row] = row, new[i]
            sums[row], spreads[row], evidence[row], flags[row] = 0, 0, 0, 0
            for other in neighbours(new[i], table, voxels):
                if other >= 0:
                    flags[other] |= CHANGED
        for c in range(COLOR):
            sums[row, c] += terms[i, c]
        for c in range(SPREADS):
            spreads[row, c] += terms[i, COLOR + c]
        for c in range(COLOR, SUMS):
            sums[row, c] += terms[i, SPREADS + c]
        flags[row] |= SEEN if i < front else HIDDEN
    return len(new), count


@numba.njit(cache=True, nogil=True, error_model='numpy')
def delete(
    rows: np.ndarray,
    table: np.ndarray,
    voxels: np.ndarray,
    sums: np.ndarray,
    spreads: np.ndarray,
    evidence: np.ndarray,
    flags: np.ndarray,
    count: int,
) -> int:
    """Delete `rows` [K] int64 (rising) of `count`, filling each gap with the last row.

    Returns:
        How many rows are left.
    """
    for row in rows[::-1]:
        erase(row, table, voxels)
        for other in neighbours(voxels[int(row)], table, voxels):
            if other >= 0:
                flags[other] |= CHANGED
        count -= 1
        if row < count:
            move(count, row, table, voxels)
            evidence[row] = evidence[count]
            sums[row], spreads[row] = sums[count], spreads[count]
            flags[row] = flags[count] | CHANGED
    return count


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def settle(
    voxels: np.ndarray,
    sums: np.ndarray,
    spreads: np.ndarray,
    evidence: np.ndarray,
    flags: np.ndarray,
    depth: np.ndarray,
    camera: np.ndarray,
    pose: np.ndarray,
    limits: tuple[float, float, float],
) -> np.ndarray:  # -> [N] bool
    """Bound the weights of what the frame touched, doubt what it saw through; who is to go.

    `limits` are the side of a voxel and the largest range, metres, and the spread of log depth
    within which two surfaces are the same one.
    """
    gone = np.zeros(len(sums), np.bool_)
    for i in numba.prange(len(sums)):
        if flags[i] & (HIDDEN | SEEN):
            if flags[i] & SEEN:
                evidence[i] = min(evidence[i] + 1, _EVIDENCE_MAX)
            else:
                evidence[i] = max(evidence[i], EVIDENCE_HIDDEN)
            if sums[i, 0] > _WEIGHT_MAX:
                _fade(sums, spreads, i, np.float32(_WEIGHT_MAX) / sums[i, 0])
            flags[i] = CHANGED
        elif _doubtful(voxels[i], sums, i, depth, camera, pose, limits):
            evidence[i] *= _DOUBT
            _fade(sums, spreads, i, np.float32(_DOUBT))
            gone[i] = evidence[i] < _EVIDENCE_MIN
    return gone


@inlined
def _fade(sums: np.ndarray, spreads: np.ndarray, row: int, factor: np.float32) -> None:
    """Have what a row gathered count less; value by value, since slices take numba longer."""
    for c in range(SUMS):
        sums[row, c] *= factor
    for c in range(SPREADS):
        spreads[row, c] *= factor


@inlined
def _doubtful(
    voxel: np.int64,
    sums: np.ndarray,
    row: int,
    depth: np.ndarray,
    camera: np.ndarray,
    pose: np.ndarray,
    limits: tuple[float, float, float],
) -> bool:
    """Whether the depth image speaks against the voxel of a row, at its centre and its corners.

    A surface was measured clearly behind it, or it is itself so little behind a surface that it is
    likely the same one, misplaced by an earlier frame.
    """
    side, max_range, reach = limits
    # The mean lies in its voxel. Most are told by its centre already, without their sums.
    ix, iy, iz = unpacked(voxel)
    x, y, z = (ix + 0.5) * side - pose[0, 3], (iy + 0.5) * side - pose[1, 3], (iz + 0.5) * side
    along = pose[0, 2] * x + pose[1, 2] * y + pose[2, 2] * (z - pose[2, 3])
    if not (along > (1 - _HALF_DIAGONAL) * side and along < max_range + _HALF_DIAGONAL * side):
        return False
    x, y, z = position(voxel, sums, row, side)
    x, y, z = x - pose[0, 3], y - pose[1, 3], z - pose[2, 3]
    along = pose[0, 2] * x + pose[1, 2] * y + pose[2, 2] * z
    if not (along > side and along < max_range):
        return False
    fx, fy, cx, cy = camera
    u = fx * (pose[0, 0] * x + pose[1, 0] * y + pose[2, 0] * z) / along + cx
    v = fy * (pose[0, 1] * x + pose[1, 1] * y + pose[2, 1] * z) / along + cy
    ru, rv = 0.5 * fx * side / along, 0.5 * fy * side / along
    height, width = depth.shape
    if not (u >= ru and v >= rv and u + ru <= width - 1 and v + rv <= height - 1):
        return False
    margin = _MARGIN_VOXELS * side
    beyond = along + (margin if reach > 0 else max(margin, _MARGIN_RELATIVE * along))
    for du, dv in ((0, 0), (-1, -1), (1, -1), (-1, 1), (1, 1)):
        measured = depth[round(v + dv * rv), round(u + du * ru)]
        double = measured < along - margin and measured * (1 + reach) > along
        if not (double or (measured > beyond and measured < np.inf)):
            return False
    return True
