"""Kernels of the occupancy map: what one depth image marks, and what its marks change.

Lengths are voxels and the origin is the low corner of the window. The arguments that most kernels
share are

    depth       [H, W] float32 z-depth, metres
    camera      [4] float64 fx, fy, cx, cy, pixels
    rotation    [3, 3] float64 of the camera in the world, divided by the side of a voxel
    eye         [3] float64 position of the camera in the window, voxels
    limits      nearest and farthest range of a hit and the nudge into the surface, metres, the
                standard deviation of depth as a share of it that pixels do not share, and that of
                the logarithm of the factor that all depth shares
    stated      [m, n] float32 standard deviation of the logarithm of depth that the network
                states, the factor left out, edge to edge
    columns     [side] int64 storage index of every window column, which count on and start over at
                the end of the storage; `rows` likewise
    marks       [side, side, layers] uint8 by storage row, column and layer, see below

Of a byte of `marks` the lower two bits are the mark of this frame: 0, `PASSED`, `HIT` or
`DOUBTED`; the next two count recent hits in what was free, and three more the frames in a row in
which rays passed. Threads that mark write the same value, since the upper bits wait until all are
done. One module, since all of them read and write these bits.
"""

from __future__ import annotations

import math

import numba
import numpy as np

UNKNOWN, FREE, OCCUPIED = -1, 0, 100  # cells of the 2-D projection
FULL_SCALE = 30000  # int16 value of the clamping bound
PASSED, HIT = 1, 2  # marks of a frame
DOUBTED = 3  # likewise: passed, if the scale of the depth is as believed
MARK, NEWS_AT, NEWS, STREAK_AT, STREAK = 3, 2, 3, 4, 7  # masks and places of the bits
FLOOR, GAP = 1, 2  # marks of the ground: floor was seen, or looked through
Limits = tuple[float, float, float, float, float]
View = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[int, int], float]
SPREAD = 2.0  # standard deviations of depth that a hit reaches back
STEPS_DOWN = 0.1  # metres below the floor from which on a robot falls
_SAME_SURFACE = 0.12  # of depth; pixels farther from their median are not of its surface
_LEAST_NEAR = 3  # pixels of a block that make a surface before its main one
_PROVEN = 4  # frames in a row in which rays pass, after which there is nothing, whatever was
_COMPANY = 3  # voxels of a column that were hit again in what was free; one may be noise
_MOST_STEPS = 40  # voxels that are looked at behind a hit
GROUND_REACH = 8.0  # voxels, along its ray, from a place on the floor to the last it stands for
FLOOR_WITHIN = 0.06  # metres from the floor that a measurement of it may be, if it is exact


def pooled(
    depth: np.ndarray, camera: np.ndarray, stride_u: int, stride_v: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One depth per block of pixels, what stands before it, and the camera of these [4].

    Both are [H / stride_v, W / stride_u]; before most blocks stands nothing, NaN.
    """
    strides = np.array([stride_u, stride_v], np.float64)
    centre = (camera[2:] - (strides - 1) / 2) / strides
    main, front = _pool(depth, stride_u, stride_v)
    return main, front, np.concatenate([camera[:2] / strides, centre])


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _pool(depth: np.ndarray, stride_u: int, stride_v: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the pixels of a block that lie about their median; NaN where most have no depth.

    [H, W] float32 -> [H / stride_v, W / stride_u] float32, metres; and the mean of the nearest
    ones, where they are another surface: a pole is narrower than a block, and the rays beside it
    must not clear it away.
    The median of every second one does, and is found in a fourth of the time.
    """
    height, width = depth.shape[0] // stride_v, depth.shape[1] // stride_u
    pooled = np.full((height, width), np.nan, np.float32)
    front = np.full((height, width), np.nan, np.float32)
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
            margin = np.float32(_SAME_SURFACE) * middle
            total, used, nearest = np.float32(0), 0, np.float32(np.inf)
            for v in range(stride_v):
                for u in range(stride_u):
                    d = block[v, u]
                    near = abs(d - middle) <= margin  # never NaN
                    total += d if near else np.float32(0)
                    used += near
                    nearest = min(nearest, d if d > 0 else np.float32(np.inf))
            if middle < np.inf:
                pooled[i, j] = total / used
            if nearest < middle - margin:
                front[i, j] = _mean_of_nearest(block, float(nearest), float(middle - margin))
    return pooled, front


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _mean_of_nearest(block: np.ndarray, nearest: float, before: float) -> float:
    """Mean of the pixels of the nearest surface, if they are enough and it ends before another."""
    total, used = 0.0, 0
    for v in range(block.shape[0]):
        for u in range(block.shape[1]):
            d = block[v, u]
            near = 0 < d < min(before, nearest * (1 + _SAME_SURFACE))
            total += d if near else 0.0
            used += near
    return total / used if used >= _LEAST_NEAR else np.nan


@numba.njit(cache=True, nogil=True, error_model='numpy', inline='always')
def _stated_at(stated: np.ndarray, v: int, u: int, height: int, width: int) -> float:
    """What is stated of a pixel of an image of this size."""
    row = int((v + 0.5) * stated.shape[0] / height)
    column = int((u + 0.5) * stated.shape[1] / width)
    return float(stated[row, column])


@numba.njit(cache=True, nogil=True, error_model='numpy', inline='always')
def _end_depth(d: float, rx: float, ry: float, limits: Limits) -> tuple[float, bool]:
    """z-depth of the end of a ray, metres; is there a surface?

    0 means no ray. The ray is (rx, ry, 1), `d` the float64 z-depth of the pixel.

    The end is moved a thousandth of a voxel into the surface: surfaces often lie exactly on cell
    boundaries (a wall at x = 2 m), where rounding would scatter their points over both cells. That
    is well above the resolution of float32 depth, and too little to jump over a far edge.
    """
    near, far, nudge = limits[0], limits[1], limits[2]
    squared = d * d * (1.0 + rx * rx + ry * ry)
    if not (d > 0.0 and squared >= near * near):
        return 0.0, False
    if squared > far * far:
        return far / math.sqrt(1.0 + rx * rx + ry * ry), False
    return d + nudge, True


@numba.njit(cache=True, nogil=True, error_model='numpy', inline='always')
def may_be_floor(z: float, eye_z: float, unsure: float) -> bool:
    """Whether a surface at height `z` may lie below the band, its depth being wrong by a share."""
    return unsure > 0.0 and z - unsure * (eye_z - z) < 0.0 < eye_z - z


@numba.njit(cache=True, forceinline=True, nogil=True, error_model='numpy')
def _walk(
    cells: np.ndarray,
    of_column: np.ndarray,
    of_row: np.ndarray,
    eye: np.ndarray,
    ray: tuple[float, float, float],
    part: tuple[float, float],
    layers: int,
    mark: int,
) -> None:
    """Mark the voxels of a part of a ray, of which those inside the window.

    `cells` are all marks in a row, `of_column` and `of_row` [side] the places in it of columns and
    rows of the window; the ray is eye + t * ray, t from and to in `part`.

    Amanatides & Woo 1987. Crossings are computed from the plane's index instead of being summed
    up, so that errors do not grow along the ray.
    """
    first, last = part
    side = len(of_column)
    ex, ey, ez = eye
    dx, dy, dz = ray
    # 1e-30 stands for a parallel ray: its crossings lie beyond every end.
    inv_x = 1.0 / (dx if abs(dx) > 1e-30 else 1e-30)
    inv_y = 1.0 / (dy if abs(dy) > 1e-30 else 1e-30)
    inv_z = 1.0 / (dz if abs(dz) > 1e-30 else 1e-30)
    ax, bx = (0.0 - ex) * inv_x, (side - ex) * inv_x
    ay, by = (0.0 - ey) * inv_y, (side - ey) * inv_y
    az, bz = (0.0 - ez) * inv_z, (layers - ez) * inv_z
    start = max(first, min(ax, bx), min(ay, by), min(az, bz))
    stop = min(last, max(ax, bx), max(ay, by), max(az, bz))
    if start >= stop:
        return
    x = min(max(math.floor(ex + dx * start), 0), side - 1)
    y = min(max(math.floor(ey + dy * start), 0), side - 1)
    z = min(max(math.floor(ez + dz * start), 0), layers - 1)
    up_x, up_y, up_z = int(inv_x > 0), int(inv_y > 0), int(inv_z > 0)
    next_x = (x + up_x - ex) * inv_x
    next_y = (y + up_y - ey) * inv_y
    next_z = (z + up_z - ez) * inv_z
    # Where the window ends is one of these crossings, to the bit: no step leaves it.
    column, row = of_column[x], of_row[y]
    while True:
        place = np.uint64(row + column + z)  # which needs no check of its sign
        known = cells[place]
        if mark == HIT or known & MARK == 0:
            cells[place] = (known & ~MARK) | mark
        if next_x <= next_y and next_x <= next_z:
            if next_x >= stop:
                break
            x += 2 * up_x - 1
            column = of_column[np.uint64(x)]
            next_x = (x + up_x - ex) * inv_x
        elif next_y <= next_z:
            if next_y >= stop:
                break
            y += 2 * up_y - 1
            row = of_row[np.uint64(y)]
            next_y = (y + up_y - ey) * inv_y
        else:
            if next_z >= stop:
                break
            z += 2 * up_z - 1
            next_z = (z + up_z - ez) * inv_z


@numba.njit(cache=True, nogil=True, error_model='numpy')
def mark_hits(
    depth: np.ndarray,
    camera: np.ndarray,
    rotation: np.ndarray,
    eye: np.ndarray,
    limits: Limits,
    columns: np.ndarray,
    rows: np.ndarray,
    marks: np.ndarray,
    strides: tuple[int, int],
) -> float:
    """Mark the voxel of every surface point as `HIT`, and those behind that it may be in.

    The latter along the rays of every `strides[0]`th pixel of every `strides[1]`th row; 0: none.
    Where rays end is told by `_end_depth`.

    The voxels of a line are found first, by vector instructions, which need a loop without
    branches; most of its pixels then are in the voxel of the one before.

    Returns:
        The largest z-depth, metres; 0: none.
    """
    fx, fy, cx, cy = camera
    height, width = depth.shape
    side, layers = len(columns), marks.shape[2]
    ex, ey, ez = eye
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    near, far, nudge = limits[0] * limits[0], limits[1] * limits[1], limits[2]
    across = (np.arange(width) - cx) / fx
    turn, first_column, first_row = np.int32(side), np.int32(columns[0]), np.int32(rows[0])
    cells, places = marks.reshape(-1), np.empty(width, np.int64)
    of_column, of_row = columns * layers, rows * (side * layers)
    farthest, back = np.float32(0), 1.0 + SPREAD * limits[3]
    for v in range(height):
        ry = (v - cy) / fy
        for u in range(width):
            rx, d = across[u], float(depth[v, u])
            squared = d * d * (1.0 + rx * rx + ry * ry)
            end = d + nudge
            x = ex + (xx * rx + xy * ry + xz) * end
            y = ey + (yx * rx + yy * ry + yz) * end
            z = ez + (zx * rx + zy * ry + zz) * end
            hit = (d > 0.0) & (squared >= near) & (squared <= far)
            hit &= (x >= 0.0) & (x < side) & (y >= 0.0) & (y < side) & (z >= 0.0) & (z < layers)
            column, row = np.int32(x) + first_column, np.int32(y) + first_row
            column -= turn if column >= turn else np.int32(0)
            row -= turn if row >= turn else np.int32(0)
            place = (np.int64(row) * side + column) * layers + np.int32(z)
            places[u] = place if hit else -1
        last = -1
        for u in range(width):
            place, d = places[u], depth[v, u]
            farthest = d if d > farthest else farthest
            if place != last and place >= 0:
                cells[place] = (cells[place] & ~MARK) | HIT
            last = place
        if strides[1] == 0 or v % strides[1] != 0:
            continue
        for u in range(0, width, strides[0]):
            rx = across[u]
            end, is_surface = _end_depth(float(depth[v, u]), rx, ry, limits)
            if is_surface:
                dx = xx * rx + xy * ry + xz
                dy = yx * rx + yy * ry + yz
                dz = zx * rx + zy * ry + zz
                part = (end, end * back)
                _walk(cells, of_column, of_row, eye, (dx, dy, dz), part, layers, HIT)
    return float(farthest)


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def mark_rays(
    depth: np.ndarray,
    camera: np.ndarray,
    rotation: np.ndarray,
    eye: np.ndarray,
    limits: Limits,
    stated: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    marks: np.ndarray,
    strides: tuple[int, int],
    mark: int,
) -> None:
    """Mark voxels along rays between camera and surface, as far as they have no mark.

    The rays are those of every `strides[0]`th pixel of every `strides[1]`th row. `mark` says which
    part of them: `PASSED` as far as is surely free, but for one case in forty, `DOUBTED`, which
    must come later, from there to one standard deviation before the surface.

    Where what a ray meets may as well be the floor, that tells its depth: it passes up to there.

    Rays that are one voxel apart at `max_range` crowd near the camera, where most steps would
    repeat each other. So rays with an odd place in the lattice of strides start at half of
    `max_range`, those left with a place odd in twos at a quarter, in fours at an eighth: their
    spacing stays between half a voxel and one, for about half the steps.

    The one loop of a frame that is worth the time in which other threads wake up.
    """
    fx, fy, cx, cy = camera
    height, width = depth.shape
    side, layers = len(columns), marks.shape[2]
    std, scale_std = limits[3], limits[4]
    cells = marks.reshape(-1)
    of_column, of_row = columns * layers, rows * (side * layers)
    for i in numba.prange((height + strides[1] - 1) // strides[1]):
        v = i * strides[1]
        ry = (v - cy) / fy
        for j in range((width + strides[0] - 1) // strides[0]):
            u = j * strides[0]
            rx = (u - cx) / fx
            end, hit = _end_depth(float(depth[v, u]), rx, ry, limits)
            if end == 0.0:
                continue
            # The ray is eye + t * (dx, dy, dz), t being the z-depth.
            dx = rotation[0, 0] * rx + rotation[0, 1] * ry + rotation[0, 2]
            dy = rotation[1, 0] * rx + rotation[1, 1] * ry + rotation[1, 2]
            dz = rotation[2, 0] * rx + rotation[2, 1] * ry + rotation[2, 2]
            place = i | j
            first = 0.5 if place & 1 else 0.25 if place & 2 else 0.125 if place & 4 else 0.0
            first *= limits[1] / math.sqrt(1.0 + rx * rx + ry * ry)
            before = end * (1.0 - std) if hit else end
            if before <= first:
                continue
            shape_std = _stated_at(stated, v, u, height, width)
            unsure = 2.0 * math.sqrt(scale_std**2 + shape_std**2)
            last = min(before, float(depth[v, u]) / (1.0 + unsure))
            if hit:
                last = before / (1.0 + unsure)
                if may_be_floor(eye[2] + dz * end, eye[2], unsure):
                    last = before
            if mark == DOUBTED:
                first, last = max(first, last), before
            if last > first:
                _walk(cells, of_column, of_row, eye, (dx, dy, dz), (first, last), layers, mark)


@numba.njit(cache=True, nogil=True, error_model='numpy')
def mark_ground(
    depth: np.ndarray,
    camera: np.ndarray,
    rotation: np.ndarray,
    eye: np.ndarray,
    limits: Limits,
    stated: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    ground: np.ndarray,
    strides: tuple[int, int],
    heights: tuple[float, float, float],
) -> None:
    """Mark where floor is seen, `FLOOR`, and where rays go through it, `GAP`, which counts more.

    `ground` [side, side] uint8 by storage row and column; its lower two bits take the mark.
    `heights` are those of the floor in the window, of what a robot falls down, and how near to the
    floor a measurement of it is, all in voxels.

    Images are gone through from what is near to what is far: behind a gap a floor that is seen but
    a little too low is the wall at its end.

    A ray stands for those up to halfway to its neighbours in the lattice of strides, which a low
    camera has far apart on the floor.
    """
    fx, fy, cx, cy = camera
    height, width = depth.shape
    side = len(columns)
    floor, fall, within = heights
    if eye[2] <= floor:
        return
    near, far = limits[0], limits[1]
    upright = rotation[2, 1] < 0.0
    widest = 2.0 * math.sqrt(limits[3] ** 2 + limits[4] ** 2 + float(stated.max()) ** 2)
    for u in range(0, width, strides[0]):
        rx = (u - cx) / fx
        missing = False
        for n in range((height + strides[1] - 1) // strides[1]):
            v = n * strides[1]
            if upright:
                v = (height - 1) // strides[1] * strides[1] - v
            ry = (v - cy) / fy
            dz = rotation[2, 0] * rx + rotation[2, 1] * ry + rotation[2, 2]
            d = float(depth[v, u])
            z = eye[2] + dz * d
            # Most of an image is neither, whatever is stated: air above the floor ends there.
            below = eye[2] - max(z, 2.0 * floor - eye[2])
            if not (dz < 0.0 and z - floor <= within + widest * below):
                continue
            length = math.sqrt(1.0 + rx * rx + ry * ry)
            if not d * length >= near:
                continue
            own = _stated_at(stated, v, u, height, width)
            std = math.sqrt(limits[3] ** 2 + limits[4] ** 2 + own**2)
            slack = 2.0 * std * below
            at, mark = (floor - eye[2]) / dz, GAP
            if z >= floor - fall - slack:
                if missing and -within - slack < z - floor < -0.3 * within - 0.5 * slack:
                    pass  # the wall of a hole, up to its rim
                elif d * length <= far and abs(z - floor) <= within + slack:
                    at, mark = d, FLOOR
                    missing = False
                else:
                    continue
            if at * length > far:
                continue
            missing |= mark == GAP
            dx = rotation[0, 0] * rx + rotation[0, 1] * ry + rotation[0, 2]
            dy = rotation[1, 0] * rx + rotation[1, 1] * ry + rotation[1, 2]
            flat = math.sqrt(dx * dx + dy * dy)
            apart = strides[1] / fy * (flat * flat + dz * dz) * at * at / (eye[2] - floor)
            half = min(0.5 * apart, GROUND_REACH)
            steps = int(2.0 * half) + 1
            for i in range(-steps, steps + 1):
                along = at + i * half / steps / max(flat, 1e-9) if flat > 1e-6 else at
                x, y = eye[0] + dx * along, eye[1] + dy * along
                if 0.0 <= x < side and 0.0 <= y < side:
                    row, column = rows[int(y)], columns[int(x)]
                    if mark == GAP or ground[row, column] & MARK == 0:
                        ground[row, column] = (ground[row, column] & ~MARK) | mark


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _explained(
    log_odds: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    voxel: tuple[int, int, int],
    eye: np.ndarray,
    reach: float,
    occupied_at: int,
) -> bool:
    """Whether a hit may be one of a known surface: along its ray, nearer or farther by `reach`.

    A voxel to the side counts, too: rays that graze a wall end before it.

    `eye` and `voxel` are counted from the first of `columns` and `rows`.
    """
    i, j, k = voxel
    dx, dy, dz = i + 0.5 - eye[0], j + 0.5 - eye[1], k + 0.5 - eye[2]
    away = math.sqrt(dx * dx + dy * dy + dz * dz)
    steps = min(int(reach * away + 1.5), _MOST_STEPS)
    for sign in (1, -1):
        for n in range(1, steps + 1):
            t = sign * n / away
            x, y, z = (
                math.floor(i + 0.5 + t * dx),
                math.floor(j + 0.5 + t * dy),
                math.floor(k + 0.5 + t * dz),
            )
            if not (
                1 <= x < len(columns) - 1 and 1 <= y < len(rows) - 1 and 0 <= z < log_odds.shape[2]
            ):
                break
            for side_x, side_y in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
                if log_odds[rows[y + side_y], columns[x + side_x], z] >= occupied_at:
                    return True
    return False


@numba.njit(cache=True, nogil=True, error_model='numpy')
def note_news(
    log_odds: np.ndarray,
    marks: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    view: View,
    limits: Limits,
    stated: np.ndarray,
    count: int,
    occupied_at: int,
) -> None:
    """Count hits in what was free, before `apply_marks`, whose arguments these are.

    Such a voxel is at once not free, and occupied with the second hit, whatever it was: somebody
    may have come. But not what may be a hit of a surface that is known, whose place is told by
    the average of many frames, or of the floor; of that a hit only says that it is not free.
    """
    eye, rotation, camera, _, size, _ = view
    std, scale_std = limits[3], limits[4]
    layers = log_odds.shape[2]
    for j in range(len(rows)):
        for i in range(len(columns)):
            touched = marks[rows[j], columns[i]]
            any_mark = np.uint8(0)
            for k in range(layers):
                any_mark |= touched[k] & HIT
            if any_mark == 0:
                continue
            values = log_odds[rows[j], columns[i]]
            for k in range(layers):
                if touched[k] & MARK != HIT or values[k] >= 0:
                    continue
                news = touched[k] >> NEWS_AT & NEWS
                dx, dy, dz = i + 0.5 - eye[0], j + 0.5 - eye[1], k + 0.5 - eye[2]
                own = _stated_towards(stated, rotation, camera, size, dx, dy, dz)
                unsure = 2.0 * math.sqrt(scale_std**2 + own**2)
                reach = math.sqrt(unsure**2 + (2.0 * std) ** 2)
                if may_be_floor(k + 0.5, eye[2], unsure) or _explained(
                    log_odds, columns, rows, (i, j, k), eye, reach, occupied_at
                ):
                    news = 1
                else:
                    news = min(news + count, NEWS)
                touched[k] = (touched[k] & ~(NEWS << NEWS_AT)) | news << NEWS_AT


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _project(
    values: np.ndarray, touched: np.ndarray, bounds: tuple[int, int, int, int], top: int
) -> int:
    """Cell of the 2-D projection of one column; see `project_columns`."""
    occupied_at, free_at, needed, unseen = bounds
    highest = np.int32(-FULL_SCALE)
    news, again = np.uint8(0), 0
    for k in range(len(values)):
        highest = max(highest, np.int32(values[k]))
        news |= touched[k] & (NEWS << NEWS_AT)
        again += touched[k] >> NEWS_AT & NEWS >= 2
    if highest >= occupied_at or again >= _COMPANY:
        return OCCUPIED
    if news > 0:
        return UNKNOWN
    free = True
    for k in range(min(needed, unseen)):
        free &= values[k] <= free_at
    for k in range(unseen, min(needed, top)):  # up there the view may have passed but once
        free &= values[k] < 0
    return FREE if free else UNKNOWN


@numba.njit(cache=True, nogil=True, error_model='numpy', inline='always')
def _top_in_view(dx: float, dy: float, sides: np.ndarray, reach: float) -> float:
    """Highest point in view over a place `dx`, `dy` from the eye, voxels above it; -1e9: none.

    `sides` [4, 3] normals of the sides of the view, inwards.
    """
    flat = dx * dx + dy * dy
    if flat >= reach * reach:
        return -1e9
    high = math.sqrt(reach * reach - flat)
    low = -high
    for n in range(4):
        a, b = sides[n, 0] * dx + sides[n, 1] * dy, sides[n, 2]
        if abs(b) < 1e-9:
            if a < 0.0:
                return -1e9
        elif b > 0.0:
            low = max(low, -a / b)
        else:
            high = min(high, -a / b)
    return high if high > low else -1e9


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _pass(
    values: np.ndarray, touched: np.ndarray, miss: np.int32, count: np.int32, free_at: np.int32
) -> bool:
    """What `apply_marks` does where rays passed a column; whether any did.

    Most columns hold nothing else. Without branches, and in 32 bits, it takes vector instructions.
    """
    most, proven, one = np.int32(STREAK), np.int32(_PROVEN), np.int32(1)
    streak_at, news_at, lowest = np.int32(STREAK_AT), np.int32(NEWS_AT), np.int32(-FULL_SCALE)
    passed = False
    for k in range(len(values)):
        byte, value = np.int32(touched[k]), np.int32(values[k])
        here = byte & np.int32(MARK) == np.int32(PASSED)
        streak = min((byte >> streak_at) + count, most)
        news = byte >> (news_at + one) & one  # halved
        less = max(value - miss, lowest)
        less = min(less, free_at) if streak >= proven else less
        news = np.int32(0) if streak >= proven else news
        values[k] = less if here else value
        touched[k] = news << news_at | streak << streak_at if here else byte
        passed |= here
    return passed


@numba.njit(cache=True, nogil=True, error_model='numpy')
def apply_marks(
    log_odds: np.ndarray,
    marks: np.ndarray,
    ground: np.ndarray,
    tops: np.ndarray,
    cells: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    view: View,
    limits: Limits,
    stated: np.ndarray,
    weights: tuple[int, int, int],
    bounds: tuple[int, int, int, int],
) -> None:
    """Add hits, subtract misses, clamp, wipe the marks, and project the columns that changed.

    Only in the given `columns` [C] and `rows` [R], from whose first ones `eye` is counted here.
    `log_odds` [side, side, layers] int16 as the marks, in `FULL_SCALE`ths of the bound; `ground`,
    `tops` (layers of a column that were in view, uint8) and `cells` (int8) are [side, side] by
    storage row and column. `view` is eye, rotation, camera, sides of the view (see
    `_top_in_view`), height and width of the image, and farthest range in voxels; `weights` hit and
    miss in these units, and the frames that they stand for.

    A hit is shared among the voxels that its ray reaches: as many as lie in the deviations of its
    distance, plus one. Distance is that of the voxel, so that all rays agree on its share.

    What is `DOUBTED` contradicts earlier hits, down to unknown, but makes nothing free.

    The log-odds are a long memory, which what passes by does not change much. Where it was hit
    `note_news` tells; rays that pass take that back within two frames, and after `_PROVEN` such
    frames in a row nothing is there, whatever was.

    A hit that may as well be the floor never makes a voxel occupied. What a network states of a
    pixel weakens no other hit: pixels err together, and those that frames agree on were right more
    often than not (with weaker hits the maps of three rooms lost 0.08 of their IoU).
    """
    eye, rotation, camera, sides, size, far = view
    hit, miss, count = weights
    occupied_at, free_at = bounds[0], bounds[1]
    std, scale_std = limits[3], limits[4]
    layers = log_odds.shape[2]
    for j in range(len(rows)):
        for i in range(len(columns)):
            values, touched = log_odds[rows[j], columns[i]], marks[rows[j], columns[i]]
            told = ground[rows[j], columns[i]]
            if told & MARK:
                gap = told >> NEWS_AT & NEWS
                gap = min(gap + 1, NEWS) if told & MARK == GAP else gap >> 1
                ground[rows[j], columns[i]] = gap << NEWS_AT
            any_mark = np.uint8(0)
            for k in range(layers):
                any_mark |= touched[k]
            if any_mark & MARK == 0:
                continue
            dx, dy = i + 0.5 - eye[0], j + 0.5 - eye[1]
            flat = dx * dx + dy * dy
            passed = _pass(values, touched, np.int32(miss), np.int32(count), np.int32(free_at))
            for k in range(layers if any_mark & HIT else 0):  # a bit of `DOUBTED`, too
                mark = touched[k] & MARK
                if mark == 0:
                    continue
                value = np.int32(values[k])
                news, streak = touched[k] >> NEWS_AT & NEWS, touched[k] >> STREAK_AT & STREAK
                if mark == DOUBTED:
                    value -= min(miss, max(value, 0))
                    news = max(news >> 1, min(news, 1))
                else:
                    streak = 0
                    dz = k + 0.5 - eye[2]
                    away = math.sqrt(flat + dz * dz)
                    own = _stated_towards(stated, rotation, camera, size, dx, dy, dz)
                    unsure = 2.0 * math.sqrt(scale_std**2 + own**2)
                    change = np.int32(hit / (1.0 + SPREAD * std * away))
                    if may_be_floor(k + 0.5, eye[2], unsure):
                        change = min(change // 4, max(np.int32(occupied_at - 1) - value, 0))
                    value += change
                values[k] = min(max(value, np.int32(-FULL_SCALE)), np.int32(FULL_SCALE))
                touched[k] = news << NEWS_AT | streak << STREAK_AT
            if passed:
                top = math.floor(eye[2] + _top_in_view(dx, dy, sides, far)) - 1
                top = min(max(top, 0), layers, 255)
                tops[rows[j], columns[i]] = max(tops[rows[j], columns[i]], top)
            top = tops[rows[j], columns[i]]
            cells[rows[j], columns[i]] = _project(values, touched, bounds, int(top))


@numba.njit(cache=True, nogil=True, error_model='numpy', inline='always')
def _stated_towards(
    stated: np.ndarray,
    rotation: np.ndarray,
    camera: np.ndarray,
    size: tuple[int, int],
    dx: float,
    dy: float,
    dz: float,
) -> float:
    """What is stated of the pixel that sees a point so far from the eye, or the nearest one."""
    if stated.size == 1:
        return float(stated[0, 0])
    x = rotation[0, 0] * dx + rotation[1, 0] * dy + rotation[2, 0] * dz
    y = rotation[0, 1] * dx + rotation[1, 1] * dy + rotation[2, 1] * dz
    z = max(rotation[0, 2] * dx + rotation[1, 2] * dy + rotation[2, 2] * dz, 1e-9)
    u = min(max(camera[0] * x / z + camera[2], 0.0), size[1] - 1.0)
    v = min(max(camera[1] * y / z + camera[3], 0.0), size[0] - 1.0)
    return _stated_at(stated, v, u, size[0], size[1])


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def project_columns(
    log_odds: np.ndarray,
    marks: np.ndarray,
    tops: np.ndarray,
    cells: np.ndarray,
    chosen: np.ndarray,
    bounds: tuple[int, int, int, int],
) -> None:
    """Project the storage rows `chosen` [R]: `OCCUPIED`, `FREE` or `UNKNOWN`.

    A column is free where no voxel is occupied or was hit last, and the lowest ones are free: as
    many as the robot is high, but of those above the last one of `bounds` only what was in view.
    `bounds` are the log-odds from which on a voxel is occupied and down to which it is free, and
    these two numbers of layers.
    """
    for n in numba.prange(len(chosen)):
        row = chosen[n]
        for column in range(log_odds.shape[1]):
            cells[row, column] = _project(
                log_odds[row, column], marks[row, column], bounds, int(tops[row, column])
            )
