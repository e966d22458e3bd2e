"""Kernels of the occupancy map: what one depth image marks, and what its marks change.

Lengths are voxels and the origin is the low corner of the window. The arguments that most kernels
share are

    depth       [H, W] float32 z-depth, metres
    camera      [4] float64 fx, fy, cx, cy, pixels
    rotation    [3, 3] float64 of the camera in the world, divided by the side of a voxel
    eye         [3] float64 position of the camera in the window, voxels
    limits      nearest and farthest range of a hit and the nudge into the surface, metres, the
                standard deviation of depth as a share of it, and the share of depth that is surely
                free, whatever its scale
    columns     [side] int64 storage index of every window column; `rows` likewise
    marks       [side, side, layers] uint8 by storage row, column and layer: 0, `PASSED`, `HIT` or
                `DOUBTED`
"""

from __future__ import annotations

import math

import numba
import numpy as np

UNKNOWN, FREE, OCCUPIED = -1, 0, 100  # cells of the 2-D projection
FULL_SCALE = 30000  # int16 value of the clamping bound
PASSED, HIT = 1, 2  # marks of a frame
DOUBTED = 3  # likewise: passed, if the scale of the depth is as believed
Limits = tuple[float, float, float, float, float]
SPREAD = 2.0  # standard deviations of depth that a hit reaches back
_SAME_SURFACE = 0.12  # of depth; pixels farther from their median are not of its surface


def pooled(
    depth: np.ndarray, camera: np.ndarray, stride_u: int, stride_v: int
) -> tuple[np.ndarray, np.ndarray]:
    """One depth per block of pixels, [H / stride_v, W / stride_u], and the camera of these [4]."""
    strides = np.array([stride_u, stride_v], np.float64)
    centre = (camera[2:] - (strides - 1) / 2) / strides
    return _pool(depth, stride_u, stride_v), np.concatenate([camera[:2] / strides, centre])


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _pool(depth: np.ndarray, stride_u: int, stride_v: int) -> np.ndarray:
    """Mean of the pixels of a block that lie about their median; NaN where most have no depth.

    [H, W] float32 -> [H / stride_v, W / stride_u] float32, metres.
    The median of every second one does, and is found in a fourth of the time.
    """
    height, width = depth.shape[0] // stride_v, depth.shape[1] // stride_u
    pooled = np.full((height, width), np.nan, np.float32)
    for i in numba.prange(height):
        ordered = np.empty((stride_u * stride_v + 1) // 2, np.float32)
        for j in range(width):
            block = depth[i * stride_v : (i + 1) * stride_v, j * stride_u : (j + 1) * stride_u]
            count = 0
            for v in range(stride_v):
                for u in range(v % 2, stride_u, 2):
                    d = block[v, u]
                    if not d > 0:
                        continue
                    k = count
                    while k > 0 and ordered[k - 1] > d:
                        ordered[k] = ordered[k - 1]
                        k -= 1
                    ordered[k] = d
                    count += 1
            if 2 * count < len(ordered):
                continue
            middle = ordered[count // 2]
            if middle == np.inf:
                pooled[i, j] = middle
                continue
            margin = np.float32(_SAME_SURFACE) * middle
            total, used = np.float32(0), 0
            for v in range(stride_v):
                for u in range(stride_u):
                    near = abs(block[v, u] - middle) <= margin  # never NaN
                    total += block[v, u] if near else np.float32(0)
                    used += near
            pooled[i, j] = total / used
    return pooled


@numba.njit(cache=True, nogil=True, error_model='numpy', inline='always')
def _end_depth(d: float, rx: float, ry: float, limits: Limits) -> tuple[float, float, bool]:
    """z-depth, metres: of the end of a ray, and up to where it is free; is a surface at the end?

    0 means no ray. The ray is (rx, ry, 1), `d` the float64 z-depth of the pixel.

    The end is moved a thousandth of a voxel into the surface: surfaces often lie exactly on cell
    boundaries (a wall at x = 2 m), where rounding would scatter their points over both cells. That
    is well above the resolution of float32 depth, and too little to jump over a far edge.
    """
    near, far, nudge, std, sure = limits
    squared = d * d * (1.0 + rx * rx + ry * ry)
    if not (d > 0.0 and squared >= near * near):
        return 0.0, 0.0, False
    if squared > far * far:
        end = far / math.sqrt(1.0 + rx * rx + ry * ry)
        return end, min(end, d * sure), False
    return d + nudge, (d + nudge) * (1.0 - std) * sure, True


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def mark_hits(
    depth: np.ndarray,
    camera: np.ndarray,
    rotation: np.ndarray,
    eye: np.ndarray,
    limits: Limits,
    columns: np.ndarray,
    rows: np.ndarray,
    marks: np.ndarray,
) -> None:
    """Write `HIT` for the voxel of every surface point; threads can only write the same value."""
    fx, fy, cx, cy = camera
    height, width = depth.shape
    side, layers = len(columns), marks.shape[2]
    for v in numba.prange(height):
        ry = (v - cy) / fy
        for u in range(width):
            rx = (u - cx) / fx
            end, _, hit = _end_depth(float(depth[v, u]), rx, ry, limits)
            if not hit:
                continue
            x = eye[0] + (rotation[0, 0] * rx + rotation[0, 1] * ry + rotation[0, 2]) * end
            y = eye[1] + (rotation[1, 0] * rx + rotation[1, 1] * ry + rotation[1, 2]) * end
            z = eye[2] + (rotation[2, 0] * rx + rotation[2, 1] * ry + rotation[2, 2]) * end
            if 0.0 <= x < side and 0.0 <= y < side and 0.0 <= z < layers:
                marks[rows[int(y)], columns[int(x)], int(z)] = HIT


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def mark_rays(
    depth: np.ndarray,
    camera: np.ndarray,
    rotation: np.ndarray,
    eye: np.ndarray,
    limits: Limits,
    columns: np.ndarray,
    rows: np.ndarray,
    marks: np.ndarray,
    stride_u: int,
    stride_v: int,
    mark: int,
) -> None:
    """Mark voxels along rays: those between camera and surface, or those the surface may be in.

    The rays are those of every `stride_u`th pixel of every `stride_v`th row. `mark` says which
    part of them: `HIT` from the surface on, `PASSED` as far as is surely free, `DOUBTED` from
    there to one standard deviation before the surface.

    Amanatides & Woo 1987, on the part of the ray inside the window. They must come in this order:
    the latter two take only voxels without a mark. Crossings are computed from the plane's index
    instead of being summed up, so that errors do not grow along the ray.

    Rays that are one voxel apart at `max_range` crowd near the camera, where most steps would
    repeat each other. So passing rays with an odd place in the lattice of strides start at half of
    `max_range`, those left with a place odd in twos at a quarter, in fours at an eighth: their
    spacing stays between half a voxel and one, for about half the steps.
    """
    fx, fy, cx, cy = camera
    height, width = depth.shape
    nx, nz = len(columns), marks.shape[2]
    ex, ey, ez = eye
    std = limits[3]
    for i in numba.prange((height + stride_v - 1) // stride_v):
        v = i * stride_v
        ry = (v - cy) / fy
        for j in range((width + stride_u - 1) // stride_u):
            u = j * stride_u
            rx = (u - cx) / fx
            end, sure, hit = _end_depth(float(depth[v, u]), rx, ry, limits)
            if mark == HIT:
                first, last = end, end * (1.0 + SPREAD * std) if hit else 0.0
            else:
                place = i | j
                first = 0.5 if place & 1 else 0.25 if place & 2 else 0.125 if place & 4 else 0.0
                first *= limits[1] / math.sqrt(1.0 + rx * rx + ry * ry)
                last = sure
                if mark == DOUBTED:
                    first, last = max(first, sure), end * (1.0 - std) if hit else end
            if last <= first:  # also pixels without a ray, whose end is 0
                continue
            # The ray is eye + t * (dx, dy, dz), t being the z-depth.
            dx = rotation[0, 0] * rx + rotation[0, 1] * ry + rotation[0, 2]
            dy = rotation[1, 0] * rx + rotation[1, 1] * ry + rotation[1, 2]
            dz = rotation[2, 0] * rx + rotation[2, 1] * ry + rotation[2, 2]
            # 1e-30 stands for a parallel ray: its crossings lie beyond every end.
            inv_x = 1.0 / (dx if abs(dx) > 1e-30 else 1e-30)
            inv_y = 1.0 / (dy if abs(dy) > 1e-30 else 1e-30)
            inv_z = 1.0 / (dz if abs(dz) > 1e-30 else 1e-30)
            ax, bx = (0.0 - ex) * inv_x, (nx - ex) * inv_x
            ay, by = (0.0 - ey) * inv_y, (nx - ey) * inv_y
            az, bz = (0.0 - ez) * inv_z, (nz - ez) * inv_z
            start = max(first, min(ax, bx), min(ay, by), min(az, bz))
            stop = min(last, max(ax, bx), max(ay, by), max(az, bz))
            if start >= stop:
                continue
            x = min(max(math.floor(ex + dx * start), 0), nx - 1)
            y = min(max(math.floor(ey + dy * start), 0), nx - 1)
            z = min(max(math.floor(ez + dz * start), 0), nz - 1)
            up_x, up_y, up_z = int(inv_x > 0), int(inv_y > 0), int(inv_z > 0)
            next_x = (x + up_x - ex) * inv_x
            next_y = (y + up_y - ey) * inv_y
            next_z = (z + up_z - ez) * inv_z
            while True:
                row, column = rows[y], columns[x]
                if mark == HIT or marks[row, column, z] == 0:
                    marks[row, column, z] = mark
                if next_x <= next_y and next_x <= next_z:
                    x += 2 * up_x - 1
                    if next_x >= stop or x < 0 or x >= nx:
                        break
                    next_x = (x + up_x - ex) * inv_x
                elif next_y <= next_z:
                    y += 2 * up_y - 1
                    if next_y >= stop or y < 0 or y >= nx:
                        break
                    next_y = (y + up_y - ey) * inv_y
                else:
                    z += 2 * up_z - 1
                    if next_z >= stop or z < 0 or z >= nz:
                        break
                    next_z = (z + up_z - ez) * inv_z


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def apply_marks(
    log_odds: np.ndarray,
    marks: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    eye: np.ndarray,
    weights: tuple[int, int, float],
) -> None:
    """Add hits, subtract misses, clamp, and wipe the marks.

    Only in the given `columns` [C] and `rows` [R], from whose first ones `eye` is counted here.
    `log_odds` [side, side, layers] int16 as the marks, in `FULL_SCALE`ths of the bound; `weights`
    are hit and miss in these units, and how far a hit reaches back as a share of its distance.

    A hit is shared among the voxels that its ray reaches: its distance times the third of
    the weights, plus one. Distance is that of the voxel, so that all rays agree on its share.

    What is `DOUBTED` contradicts earlier hits, down to unknown, but makes nothing free.
    """
    hit, miss, reach = weights
    for j in numba.prange(len(rows)):
        for i in range(len(columns)):
            values, touched = log_odds[rows[j], columns[i]], marks[rows[j], columns[i]]
            flat = (i + 0.5 - eye[0]) ** 2 + (j + 0.5 - eye[1]) ** 2
            for k in range(len(values)):
                mark = touched[k]
                if mark == 0:
                    continue
                touched[k] = 0
                change = -np.int32(miss)
                if mark == DOUBTED:
                    change = max(change, -max(np.int32(values[k]), np.int32(0)))
                elif mark == HIT:
                    distance = math.sqrt(flat + (k + 0.5 - eye[2]) ** 2)
                    change = np.int32(hit / (1.0 + reach * distance))
                value = np.int32(values[k]) + change
                values[k] = min(max(value, np.int32(-FULL_SCALE)), np.int32(FULL_SCALE))


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def project_columns(
    log_odds: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    occupied_at: int,
    free_at: int,
    needed: int,
) -> np.ndarray:  # [side, side, layers] -> [R, C] int8
    """2-D projection of log-odds (int16): `OCCUPIED`, `FREE` or `UNKNOWN`.

    A column is free where none of its voxels is occupied and the lowest `needed` ones are free.
    """
    cells = np.empty((len(rows), len(columns)), np.int8)
    for j in numba.prange(len(rows)):
        for i in range(len(columns)):
            values = log_odds[rows[j], columns[i]]
            highest = np.int32(-FULL_SCALE)
            for k in range(len(values)):
                highest = max(highest, np.int32(values[k]))
            free = True
            for k in range(needed):
                free &= values[k] <= free_at
            if highest >= occupied_at:
                cells[j, i] = OCCUPIED
            elif free:
                cells[j, i] = FREE
            else:
                cells[j, i] = UNKNOWN
    return cells
