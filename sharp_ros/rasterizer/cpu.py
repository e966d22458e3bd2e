"""Gaussian splatting on the CPU: the fast twin of `reference.py`, compiled by numba.

Projection runs over all Gaussians in parallel, one radix sort brings them into depth order, a
counting sort deals them out to tiles of 16x16 pixels, and every tile is composited on its own,
a row of pixels at a time so that the compiler turns it into vector instructions. One module:
each step reads the table that the one before it wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
import math
from typing import Any, NamedTuple

from numba import get_num_threads, njit, prange
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.gaussians import GaussianArrays, GaussianBlocks, Gaussians
from sharp_ros.rasterizer.rendering import (
    ALPHA_MAX,
    ALPHA_MIN,
    EPSILON,
    jacobian_limits,
    MEDIAN,
    QUAT_MIN,
    Rendering,
    VARIANCE_MAX,
    VARIANCE_MIN,
)

TILE_BITS = 4
TILE = 1 << TILE_BITS
PIXELS = TILE * TILE
# A pixel counts as full here. Twice that, the usual limit, could show in black: sRGB is 13 times
# steeper there, and the two implementations are to agree within 1e-3.
_OPAQUE = np.float32(5e-5)
_ENTRIES_AT_ONCE = 1 << 26  # of tile lists, 4 bytes each
_CURVE = 4096  # intervals of the sRGB table
CHECK_EVERY = 16  # Gaussians between two looks at which rows of a tile are full

# Columns of the splat table: one cache line per Gaussian. The names are those of `Splats`.
U, V, SLOPE, HX, HY, CUT, OPACITY, Z, R, G, B = range(11)
Y0, Y1 = 11, 12  # first and last row it can touch
_COLUMNS = 16

# numba's cache on disk notices changes of this file only: after a change of a threshold imported
# from rendering.py, touch this file.
# Typed constants: numba widens float32 arithmetic to float64 at every bare literal.
ZERO, ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
CLAMP, _MEDIAN = np.float32(ALPHA_MAX), np.float32(MEDIAN)
_LOG2E = np.float32(math.log2(math.e))
_E5, _E4, _E3, _E2, _E1 = (
    np.float32(math.log(2) ** n / math.factorial(n)) for n in (5, 4, 3, 2, 1)
)
_BIAS, _MANTISSA = np.int32(127), np.int32(23)
# Unsigned positions: numba guards signed ones against counting from the end, which stops the
# compiler from vectorising.
_PLANES = 6  # of a tile: transmittance, R, G, B, depth, median depth
_, _R0, _G0, _B0, _D0, _M0 = (np.uintp(PIXELS * k) for k in range(_PLANES))
ROW = np.uintp(TILE)


@njit(parallel=True, cache=True, nogil=True, error_model='numpy')
def _project(
    means,
    quats,
    scales,
    opacities,
    colors,
    splats,
    tiles,
    depth,
    T,
    camera,
    limits,
    width,
    height,
    near,
):
    """Write splats, the rectangles of tiles they touch, and depths; how many are unsound.

    Given in float32: means [N, 3], quats [N, 4], scales [N, 3], opacities [N], colors [N, 3] as
    `Gaussians` has them; in float64: `T` [4, 4] `T_camera_world`, `camera` (fx, fy, cx, cy),
    `limits` of x/z and y/z in the Jacobian (lowest and highest of x, of y), `near` in metres; size
    in pixels. Written are splats [N, 16] float32, tiles [N, 4] int16 and depth [N] float32, which
    is 0 for what is not drawn; of that the rest is not written.
    """
    fx, fy, cx, cy = camera
    x_low, x_high, y_low, y_high = limits
    skipped = 0
    for i in prange(len(means)):
        depth[i] = 0
        opacity = np.float64(opacities[i])
        px, py, pz = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
        sx, sy, sz = np.float64(scales[i, 0]), np.float64(scales[i, 1]), np.float64(scales[i, 2])
        qw, qx = np.float64(quats[i, 0]), np.float64(quats[i, 1])
        qy, qz = np.float64(quats[i, 2]), np.float64(quats[i, 3])
        norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        shade = np.float64(colors[i, 0]) + np.float64(colors[i, 1]) + np.float64(colors[i, 2])
        everything = px + py + pz + sx + sy + sz + norm + shade + opacity
        turned = max(abs(qw), abs(qx), abs(qy), abs(qz)) > QUAT_MIN
        if not (sx > 0 and sy > 0 and sz > 0 and turned and math.isfinite(everything)):
            skipped += 1
            continue
        z = px * T[2, 0] + py * T[2, 1] + pz * T[2, 2] + T[2, 3]
        if not (opacity >= ALPHA_MIN and z >= near):
            continue
        x = px * T[0, 0] + py * T[0, 1] + pz * T[0, 2] + T[0, 3]
        y = px * T[1, 0] + py * T[1, 1] + pz * T[1, 2] + T[1, 3]
        u, v = fx * (x / z) + cx, fy * (y / z) + cy

        # Rows of J W, then of J W R S.
        jx, jy = fx / z, fy / z
        tx, ty = min(max(x / z, x_low), x_high), min(max(y / z, y_low), y_high)
        m0, m1 = jx * (T[0, 0] - tx * T[2, 0]), jx * (T[0, 1] - tx * T[2, 1])
        m2 = jx * (T[0, 2] - tx * T[2, 2])
        n0, n1 = jy * (T[1, 0] - ty * T[2, 0]), jy * (T[1, 1] - ty * T[2, 1])
        n2 = jy * (T[1, 2] - ty * T[2, 2])
        qw, qx, qy, qz = qw / norm, qx / norm, qy / norm, qz / norm
        r00, r01, r02 = (
            1 - 2 * (qy * qy + qz * qz),
            2 * (qx * qy - qw * qz),
            2 * (qx * qz + qw * qy),
        )
        r10, r11, r12 = (
            2 * (qx * qy + qw * qz),
            1 - 2 * (qx * qx + qz * qz),
            2 * (qy * qz - qw * qx),
        )
        r20, r21, r22 = (
            2 * (qx * qz - qw * qy),
            2 * (qy * qz + qw * qx),
            1 - 2 * (qx * qx + qy * qy),
        )
        g0 = (m0 * r00 + m1 * r10 + m2 * r20) * sx
        g1 = (m0 * r01 + m1 * r11 + m2 * r21) * sy
        g2 = (m0 * r02 + m1 * r12 + m2 * r22) * sz
        h0 = (n0 * r00 + n1 * r10 + n2 * r20) * sx
        h1 = (n0 * r01 + n1 * r11 + n2 * r21) * sy
        h2 = (n0 * r02 + n1 * r12 + n2 * r22) * sz
        a, b, c = (
            g0 * g0 + g1 * g1 + g2 * g2,
            g0 * h0 + g1 * h1 + g2 * h2,
            h0 * h0 + h1 * h1 + h2 * h2,
        )
        k0, k1, k2 = g1 * h2 - g2 * h1, g2 * h0 - g0 * h2, g0 * h1 - g1 * h0
        det = k0 * k0 + k1 * k1 + k2 * k2
        if not (c >= VARIANCE_MIN and det >= VARIANCE_MIN * c):
            continue
        if not (a <= VARIANCE_MAX and c <= VARIANCE_MAX):
            continue

        cutoff = math.log(opacity / ALPHA_MIN)
        # 0.01 px of slack: the exact limit is the cutoff of the exponent.
        rx, ry = math.sqrt(2 * cutoff * a) + 0.01, math.sqrt(2 * cutoff * c) + 0.01
        x0, x1 = max(math.ceil(u - rx), 0.0), min(math.floor(u + rx), width - 1.0)
        y0, y1 = max(math.ceil(v - ry), 0.0), min(math.floor(v + ry), height - 1.0)
        if x0 > x1 or y0 > y1:
            continue
        depth[i] = z
        splats[i, U], splats[i, V], splats[i, SLOPE] = u, v, b / c
        splats[i, HX], splats[i, HY], splats[i, CUT] = 0.5 * c / det, 0.5 / c, cutoff
        splats[i, OPACITY], splats[i, Z] = opacity, z
        splats[i, R], splats[i, G], splats[i, B] = colors[i, 0], colors[i, 1], colors[i, 2]
        splats[i, Y0], splats[i, Y1] = y0, y1
        tiles[i, 0], tiles[i, 1] = np.uint32(x0) >> TILE_BITS, np.uint32(x1) >> TILE_BITS
        tiles[i, 2], tiles[i, 3] = np.uint32(y0) >> TILE_BITS, np.uint32(y1) >> TILE_BITS
    return skipped


@njit(cache=True, nogil=True)
def _front_to_back(keys):
    """Indices of the non-zero keys, smallest key first: stable radix sort, 11 bits a pass.

    uint32 [N] -> int32 [M].
    """
    n = 0
    counts = np.zeros((3, 2048), np.int64)
    order = np.empty(len(keys), np.int32)
    for i in range(len(keys)):
        key = keys[i]
        if key != 0:
            order[n] = i
            n += 1
            counts[0, key & 2047] += 1
            counts[1, (key >> 11) & 2047] += 1
            counts[2, key >> 22] += 1
    other = np.empty(n, np.int32)
    order = order[:n]
    for digit in range(3):
        position = 0
        for bucket in range(2048):
            size = counts[digit, bucket]
            counts[digit, bucket] = position
            position += size
        shift = np.uint32(11 * digit)
        for i in order:
            bucket = (keys[i] >> shift) & np.uint32(2047)
            other[counts[digit, bucket]] = i
            counts[digit, bucket] += 1
        order, other = other, order
    return order


@njit(cache=True, nogil=True)
def _entries_per_tile_row(tiles, order, tiles_y):
    """How many list entries each row of tiles will have, from sums of differences.

    int16 [N, 4], int32 [M], int -> int64 [tiles_y].
    """
    change = np.zeros(tiles_y + 1, np.int64)
    for i in order:
        wide = np.int64(tiles[i, 1]) - np.int64(tiles[i, 0]) + 1
        change[tiles[i, 2]] += wide
        change[tiles[i, 3] + 1] -= wide
    return np.cumsum(change[:tiles_y])


@njit(parallel=True, cache=True, nogil=True)
def _deal(tiles, order, tiles_x, first_row, end_row, parts):
    """Lists of splats per tile, in the given order: count, prefix sum, fill.

    Only tile rows `first_row` to `end_row` (exclusive) are listed. Of tiles, int16 [N, 4], order,
    int32 [M], and four ints: where each list starts, int64 [tiles + 1], and all lists, int32 [E].

    Every part of the order has counters of its own, so that the parts fill in parallel and the
    lists still come out in order.
    """
    n_tiles = tiles_x * (end_row - first_row)
    counts = np.zeros((parts, n_tiles), np.int64)
    starts = np.empty(n_tiles + 1, np.int64)
    step = (len(order) + parts - 1) // parts
    for part in prange(parts):
        for j in range(part * step, min((part + 1) * step, len(order))):
            i = order[j]
            for ty in range(max(tiles[i, 2], first_row), min(tiles[i, 3] + 1, end_row)):
                for tx in range(tiles[i, 0], tiles[i, 1] + 1):
                    counts[part, (ty - first_row) * tiles_x + tx] += 1
    total = 0
    for tile in range(n_tiles):
        starts[tile] = total
        for part in range(parts):
            size = counts[part, tile]
            counts[part, tile] = total
            total += size
    starts[-1] = total
    entries = np.empty(total, np.int32)
    for part in prange(parts):
        for j in range(part * step, min((part + 1) * step, len(order))):
            i = order[j]
            for ty in range(max(tiles[i, 2], first_row), min(tiles[i, 3] + 1, end_row)):
                for tx in range(tiles[i, 0], tiles[i, 1] + 1):
                    entries[counts[part, (ty - first_row) * tiles_x + tx]] = i
                    counts[part, (ty - first_row) * tiles_x + tx] += 1
    return starts, entries


@njit(cache=True, inline='always')
def exp_minus(x):
    """exp(-x) for a float32 x in 0..6, relative error 3e-6; unlike math.exp it vectorises."""
    power = x * -_LOG2E
    whole = np.int32(power - _HALF)
    f = power - np.float32(whole)
    mantissa = ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * _E5))))
    return mantissa * np.int32((whole + _BIAS) << _MANTISSA).view(np.float32)


@njit(cache=True, nogil=True)
def _blend_row(pixels, first, start, row_x, hx, rest, cutoff, opacity, r, g, b, z, median):
    """Composite one splat over the 16 pixels of a tile row, from index `first` (uintp) on.

    `pixels`, float32 [6 * 256], holds the planes of the tile one after the other; with constant
    distances between them the compiler knows that they do not overlap. `first` is uintp, the rest
    float32. `median` is True or None: the type decides, so that those who want no median depth do
    not pay for it.
    """
    for j in range(ROW):
        dx = (start + np.float32(np.int32(j))) - row_x
        exponent = hx * dx * dx + rest
        inside = exponent <= cutoff
        alpha = opacity * exp_minus(exponent if inside else cutoff)
        alpha = alpha if alpha < CLAMP else CLAMP
        p = first + j
        transmittance = pixels[p]
        weight = alpha * transmittance if inside else ZERO
        left = transmittance - weight
        pixels[p] = left
        if median is not None:
            crossed = (transmittance >= _MEDIAN) & (left < _MEDIAN)
            pixels[_M0 + p] = z if crossed else pixels[_M0 + p]
        pixels[_R0 + p] += weight * r
        pixels[_G0 + p] += weight * g
        pixels[_B0 + p] += weight * b
        pixels[_D0 + p] += weight * z


@njit(parallel=True, cache=True, nogil=True)
def _composite(
    splats,
    starts,
    entries,
    tiles_x,
    first_row,
    color,
    depth,
    alpha,
    median,
    background,
    srgb,
    opaque,
    workers,
):
    """Fill [H, W, 3] sRGB colour, [H, W] depth and alpha in the listed tiles, from `first_row`.

    And [H, W] median depth, unless that array is empty.

    Splats, starts and entries are as `_project` and `_deal` give them; images, background [3] and
    the table of sRGB [_CURVE + 1] are float32, `opaque` is the light below which a pixel counts as
    full, the rest are ints.
    """
    height, width = alpha.shape
    with_median = median.size > 0
    for worker in prange(workers):
        pixels = np.empty(_PLANES * PIXELS, np.float32)
        live = np.empty(TILE, np.bool_)
        # Neighbouring tiles cost alike, so that dealing them out in turn balances the load.
        for tile in range(worker, len(starts) - 1, workers):
            left, top = tile % tiles_x * TILE, (tile // tiles_x + first_row) * TILE
            left_x = np.float32(left)
            pixels[:PIXELS] = ONE
            pixels[PIXELS:] = ZERO
            live[:] = True
            for j in range(starts[tile], starts[tile + 1]):
                if (j - starts[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                    open_rows = 0
                    for row in range(TILE):
                        if live[row]:
                            open_pixels = 0
                            for p in range(row * TILE, (row + 1) * TILE):
                                open_pixels += pixels[p] >= opaque
                            live[row] = open_pixels > 0
                            open_rows += live[row]
                    if open_rows == 0:
                        break
                i = entries[j]
                u, v, slope = splats[i, U], splats[i, V], splats[i, SLOPE]
                hx, hy, cutoff = splats[i, HX], splats[i, HY], splats[i, CUT]
                opacity, z = splats[i, OPACITY], splats[i, Z]
                r, g, b = splats[i, R], splats[i, G], splats[i, B]
                low = max(np.int32(splats[i, Y0]), top)
                high = min(np.int32(splats[i, Y1]), top + TILE - 1)
                for y in range(low, high + 1):
                    dy = np.float32(y) - v
                    rest = hy * dy * dy
                    if live[y - top] and rest <= cutoff:
                        first, row_x = np.uintp((y - top) * TILE), u + slope * dy
                        place = (pixels, first, left_x, row_x, hx, rest, cutoff, opacity)
                        if with_median:
                            _blend_row(*place, r, g, b, z, True)
                        else:
                            _blend_row(*place, r, g, b, z, None)
            for y in range(top, min(top + TILE, height)):
                for x in range(left, min(left + TILE, width)):
                    p = (y - top) * TILE + x - left
                    remaining = pixels[p]
                    covered = ONE - remaining
                    for k in range(3):
                        linear = pixels[(k + 1) * PIXELS + p] + remaining * background[k]
                        linear = min(max(linear, ZERO), ONE) * np.float32(_CURVE)
                        step = min(np.int32(linear), _CURVE - 1)
                        part = linear - np.float32(step)
                        color[y, x, k] = srgb[step] + part * (srgb[step + 1] - srgb[step])
                    depth[y, x] = pixels[4 * PIXELS + p] / max(covered, np.float32(EPSILON))
                    alpha[y, x] = covered
                    if with_median:
                        median[y, x] = pixels[_M0 + np.uintp(p)]


def linear_curve() -> np.ndarray:  # -> [_CURVE + 1]
    """The table that leaves colours linear; steps are powers of two, so it is exact."""
    return np.linspace(0, 1, _CURVE + 1, dtype=np.float32)


@cache
def _srgb_curve() -> np.ndarray:  # -> [_CURVE + 1]
    """Table of sRGB over linear; interpolated within 2e-5, far cheaper than a power per pixel."""
    linear = np.linspace(0, 1, _CURVE + 1)
    curve = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return curve.astype(np.float32)


class Projection(NamedTuple):
    """Gaussians on the image plane of one view.

    Attributes:
        view: T_camera_world [4, 4], (fx, fy, cx, cy) and the limits of the Jacobian, float64.
        size: width and height of the image, pixels.
        splats: [N, 16] float32, see the columns above.
        tiles: [N, 4] int16, first and last column and row of tiles.
        order: [M] int32, those that are drawn, nearest first.
        skipped: how many cannot be drawn from anywhere.
    """

    view: tuple[np.ndarray, tuple[float, float, float, float], tuple[float, float, float, float]]
    size: tuple[int, int]
    splats: np.ndarray
    tiles: np.ndarray
    order: np.ndarray
    skipped: int

    def lists(self, workers: int) -> Iterator[tuple[np.ndarray, np.ndarray, int, int]]:
        """Of rounds of tile rows: list starts and entries (`_deal`), tiles in a row, first row.

        One round in practice; several when a camera inside the scene sees most Gaussians fill it.
        """
        tiles_x, tiles_y = (-(-side // TILE) for side in self.size)
        counts = _entries_per_tile_row(self.tiles, self.order, tiles_y)
        first = 0
        while first < tiles_y:
            fitting = int((np.cumsum(counts[first:]) <= _ENTRIES_AT_ONCE).sum())
            end = first + max(1, fitting)
            starts, entries = _deal(self.tiles, self.order, tiles_x, first, end, workers)
            yield starts, entries, tiles_x, first
            first = end


def kernel_arrays(a: GaussianArrays) -> tuple[np.ndarray, ...]:
    """Means, quats, scales, opacities and colors as the kernels take them, float32."""
    scales, quats = a.shapes
    given = (a.means, quats, scales, a.opacities, a.colors)
    return tuple(np.require(values, np.float32, ['C', 'W']) for values in given)


def project(
    gaussians: Gaussians | GaussianBlocks,
    intrinsics: Intrinsics,
    T_camera_world: np.ndarray,
    near: float,
) -> Projection:
    """Project all Gaussians and sort them; see `sharp_ros.rasterizer.rasterize`."""
    k, n = intrinsics, len(gaussians)
    camera = (float(k.fx), float(k.fy), float(k.cx), float(k.cy))
    limits = (*jacobian_limits(k.fx, k.cx, k.width), *jacobian_limits(k.fy, k.cy, k.height))
    view = (np.ascontiguousarray(T_camera_world, np.float64), camera, limits)
    size = (k.width, k.height)
    splats, tiles = np.empty((n, _COLUMNS), np.float32), np.empty((n, 4), np.int16)
    depth = np.empty(n, np.float32)
    skipped, start = 0, 0
    blocks = gaussians if isinstance(gaussians, GaussianBlocks) else (gaussians.arrays,)
    for block in blocks:
        part = slice(start, start + len(block.means))
        means, quats, scales, opacities, colors = kernel_arrays(block)
        into = (splats[part], tiles[part], depth[part])
        given = (means, quats, scales, opacities, colors)
        skipped += _project(*given, *into, *view, *size, float(near))
        start = part.stop
    # The bits of depths order like the depths.
    order = _front_to_back(depth.view(np.uint32))
    return Projection(view, size, splats, tiles, order, skipped)


def composite(
    projection: Projection,
    background: Sequence[float],
    curve: np.ndarray,
    median_depth: bool,
    opaque: np.float32 = _OPAQUE,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images of what was projected: colour [H, W, 3], depth, alpha and median depth [H, W].

    Args:
        projection: of the view.
        background: linear RGB behind everything.
        curve: [_CURVE + 1] float32 what linear 0 to 1 becomes in the image.
        median_depth: whether that is asked for; else it is empty.
        opaque: the light below which a pixel counts as full.
    """
    width, height = projection.size
    workers = get_num_threads()
    color = np.empty((height, width, 3), np.float32)
    depth, alpha = np.empty((2, height, width), np.float32)
    median = np.empty((height, width) if median_depth else (0, 0), np.float32)
    images = (color, depth, alpha, median)
    light = (np.asarray(background, np.float32), curve, opaque)
    for lists in projection.lists(workers):
        _composite(projection.splats, *lists, *images, *light, workers)
    return images


def rasterize(
    gaussians: Gaussians | GaussianBlocks,
    intrinsics: Intrinsics,
    T_camera_world: np.ndarray,
    background: Sequence[float],
    near: float,
    median_depth: bool = False,
) -> Rendering:
    """Render with tiles on all cores; see `sharp_ros.rasterizer.rasterize`."""
    projection = project(gaussians, intrinsics, T_camera_world, near)
    color, depth, alpha, median = composite(projection, background, _srgb_curve(), median_depth)
    skipped = np.int64(projection.skipped)
    given: Any = (color, depth, alpha, skipped, median if median_depth else None)
    return Rendering(*given)
