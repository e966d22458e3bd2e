"""Loops over pixels behind `scan`, where they are explained; compiled on first use, one thread."""

from __future__ import annotations

import numba
import numpy as np

# Bits of a float32 that are left out of the number of a cell: 5 bits of the mantissa stay, so
# that a cell of squared distance is 1/64 to 1/32 of it wide, and one of distance half of that.
CELL_SHIFT = 18
FAR, DOUBT, NEAR = 0, 1, 2  # columns of `tally`
HIT, SKIP = 3, 4


@numba.njit(cache=True, forceinline=True, error_model='numpy')
def cell_of(square: np.float32) -> int:
    """Number of the cell of a squared distance; it grows with the logarithm, nearly evenly."""
    return np.float32(square).view(np.int32) >> CELL_SHIFT


@numba.njit(cache=True, forceinline=True, error_model='numpy')
def _bearing(x: np.float32, y: np.float32) -> np.float32:
    """`atan2(y, x)`, as exact as float32 is: Abramowitz and Stegun, 4.4.49."""
    across, along = abs(y), abs(x)
    steep = across > along
    t = along / across if steep else across / along
    s = t * t
    angle = np.float32(0.0028662257)
    angle = angle * s + np.float32(-0.0161657367)
    angle = angle * s + np.float32(0.0429096138)
    angle = angle * s + np.float32(-0.0752896400)
    angle = angle * s + np.float32(0.1065626393)
    angle = angle * s + np.float32(-0.1420889944)
    angle = angle * s + np.float32(0.1999355085)
    angle = angle * s + np.float32(-0.3333314528)
    angle = (angle * s + np.float32(1)) * t
    angle = np.float32(np.pi / 2) - angle if steep else angle
    angle = np.float32(np.pi) - angle if x < 0 else angle
    return -angle if y < 0 else angle


@numba.njit(cache=True, nogil=True, error_model='numpy')
def scan_kernel(
    depth: np.ndarray,
    unseen: np.ndarray,
    log_std: np.ndarray,
    std_row: np.ndarray,
    std_column: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    pose: np.ndarray,
    limits: np.ndarray,
    min_angle: np.float32,
    per_radian: np.float32,
    step: int,
    cells: np.ndarray,
    tally: np.ndarray,
) -> None:
    """Sort what every pixel says into beams; all floats are float32, lengths in metres.

    A row is judged first, without a branch, which the compiler turns into vector instructions.

    Args:
        depth: [H, W].
        unseen: [H, W] bool, or [0, 0] if there is none; these may hide something if their rays
            are in the band half way or at its end.
        log_std: [m, n] standard deviation of the logarithm of depth.
        std_row: [H] int32, row of `log_std`.
        std_column: [W] int32, column of it.
        x: [W] x/z of pixels.
        y: [H] y/z of pixels.
        pose: [3, 4] `T_scan_camera`, z = 0 on the floor.
        limits: [7] bottom and top of the band, `min_range`, `max_range`, how far a ray must be
            free from the camera on, what infinite depth stands for, and how far a height may be
            off, as a share of its difference from the camera.
        min_angle: of the middle of the first beam, radians.
        per_radian: beams.
        step: of the rows that are looked at.
        cells: [N, cells, 3]: pixels of obstacles by their squared distance, their distances and
            their standard deviations of log depth, summed.
        tally: [N, 3] int32: pixels that are free all the way, that may hide something, and of what
            is nearer than `min_range`.
    """
    bottom, top, low, high, reach, beyond, margin = limits
    wide, beams, first = depth.shape[1], len(cells), cell_of(low * low)
    masked, here = unseen.shape[0] > 0, pose[2, 3]
    zero, half, one, two = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
    low2, high2, reach2, inf = low * low, high * high, reach * reach, np.float32(np.inf)
    inside = (here >= bottom) & (here <= top)
    beam_at, kind_at = np.empty(wide, np.int32), np.empty(wide, np.int8)
    square_at, std_at = np.empty(wide, np.float32), np.empty(wide, np.float32)
    for v in range(0, depth.shape[0], step):
        std = log_std[std_row[v]]
        if len(std) > 1:
            for u in range(wide):
                std_at[u] = std[std_column[u]]
        else:
            std_at[:] = std[0]
        row = depth[v]
        at_x = pose[0, 1] * y[v] + pose[0, 2]
        at_y = pose[1, 1] * y[v] + pose[1, 2]
        at_z = pose[2, 1] * y[v] + pose[2, 2]
        for u in range(wide):
            z = row[u]
            to_x, to_y = at_x + pose[0, 0] * x[u], at_y + pose[1, 0] * x[u]
            to_z = at_z + pose[2, 0] * x[u]
            flat = to_x * to_x + to_y * to_y
            ahead = reach / np.sqrt(flat)  # depth at which the ray has gone as far as it must
            end = here + ahead * to_z
            finite = (z > zero) & (z < inf)
            height = here + z * to_z
            px, py = pose[0, 3] + z * to_x, pose[1, 3] + z * to_y
            square = px * px + py * py
            in_band = finite & (height >= bottom) & (height <= top)
            obstacle = in_band & (square <= high2)
            off = margin * (height - here)
            lowest = height + (off if off < zero else zero)
            highest = height + (off if off > zero else zero)
            sure = (lowest >= bottom) & (highest <= top)
            # of what is no obstacle
            seen = beyond if z == inf else z
            far = seen >= ahead * (one + two * std_at[u])
            passes = (end >= bottom) & (end <= top)
            enters = inside | passes | ((here > top) == (end < bottom))
            floor = finite & (not in_band) & (z * z * flat < reach2)
            # what lies on the floor behind that is where the floor is, however vague its depth
            kind = FAR if far else (SKIP if finite & (not in_band) else DOUBT)
            kind = kind if (z > zero) & passes & (not floor) else SKIP
            unknown = not ((z > zero) | (z == -inf))
            kind = DOUBT if unknown & enters else kind
            kind = NEAR if (z == -inf) & inside else kind
            marks = DOUBT if not sure else (NEAR if square < low2 else HIT)
            kind = marks if obstacle else kind
            at = z if obstacle else ahead
            bearing = _bearing(pose[0, 3] + at * to_x, pose[1, 3] + at * to_y)
            beam_at[u] = np.int32((bearing - min_angle) * per_radian + half + one) - 1
            kind_at[u], square_at[u] = kind, square
        for u in range(wide):
            kind, beam = kind_at[u], beam_at[u]
            if masked and unseen[v, u]:
                to_x, to_y = at_x + pose[0, 0] * x[u], at_y + pose[1, 0] * x[u]
                ahead = reach / np.sqrt(to_x * to_x + to_y * to_y)
                end = here + ahead * (at_z + pose[2, 0] * x[u])
                middle = (here + end) * half
                hides = ((end >= bottom) & (end <= top)) | ((middle >= bottom) & (middle <= top))
                kind = DOUBT if hides else SKIP
                bearing = _bearing(pose[0, 3] + ahead * to_x, pose[1, 3] + ahead * to_y)
                beam = np.int32((bearing - min_angle) * per_radian + half + one) - 1
            if (kind == SKIP) | (beam < 0) | (beam >= beams):
                continue
            if kind == HIT:
                cell = cells[beam, cell_of(square_at[u]) - first]
                cell[0] += one
                cell[1] += np.sqrt(square_at[u])
                cell[2] += std_at[u]
            else:
                tally[beam, kind] += 1


@numba.njit(cache=True, nogil=True, error_model='numpy')
def nearest_kernel(
    cells: np.ndarray,
    tally: np.ndarray,
    first: int,
    window: int,
    least: int,
    share: float,
    noise: float,
    ranges: np.ndarray,
    range_stds: np.ndarray,
) -> None:
    """Fill `ranges` [N] and `range_stds` [N] from what `scan_kernel` has sorted.

    The nearest obstacle is about the first `window` of cells that holds `least` pixels, `first`
    the number of the first cell (see `cell_of`), `noise` the standard deviation of one pixel as a
    share of its depth, `share` the largest number of pixels that may hide something, to one that
    is free.
    """
    beams, count = cells.shape[:2]
    for beam in range(beams):
        ranges[beam] = range_stds[beam] = np.nan
        if tally[beam, NEAR] >= least:
            ranges[beam] = -np.inf
            continue
        if tally[beam, FAR] >= least and tally[beam, DOUBT] <= share * tally[beam, FAR]:
            ranges[beam] = np.inf
        for start in range(count):
            if cells[beam, start, 0] == 0:
                continue
            pixels, distance, std = _mean(cells[beam], start, window)
            if pixels < least:
                continue
            for _ in range(2):  # it began with the nearest pixels: move it to the middle of all
                middle = cell_of(distance * distance) - first - window // 2
                _, distance, std = _mean(cells[beam], max(middle, start), window)
            ranges[beam] = distance
            range_stds[beam] = distance * np.sqrt(std * std + noise * noise)
            break


@numba.njit(cache=True, forceinline=True, error_model='numpy')
def _mean(cells: np.ndarray, start: int, window: int) -> tuple[np.float32, np.float32, np.float32]:
    """Number of pixels in a window of cells [cells, 3], their mean distance and deviation."""
    pixels, total, std = np.float32(0), np.float32(0), np.float32(0)
    for cell in range(start, min(start + window, len(cells))):
        pixels += cells[cell, 0]
        total += cells[cell, 1]
        std += cells[cell, 2]
    return pixels, total / pixels, std / pixels
