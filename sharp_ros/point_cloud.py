"""From depth to points: depth of the visible surface, its clean-up, and the organised cloud.

All work is done in inverse depth where neighbours are compared or mixed, because a plane seen in
perspective has an inverse depth that is linear in pixel coordinates: interpolating it is exact on
planes, and its change from pixel to pixel is the same everywhere on one plane, however slanted.
The kernels are compiled on first use (seconds) and cached on disk beside this file.
"""

from __future__ import annotations

from functools import cache
import math
from typing import TYPE_CHECKING

import numba
import numpy as np

from sharp_ros.camera import (
    check_depth_size,
    check_rgbd_size,
    Intrinsics,
    SAME_SURFACE_RATIO,
)
from sharp_ros.config import PointCloudConfig
from sharp_ros.errors import InputError

if TYPE_CHECKING:
    from sharp_ros.gaussians import Gaussians


def depth_from_gaussians(gaussians: Gaussians, width: int, height: int) -> np.ndarray:
    """Depth image of the visible surface, at the resolution of the camera.

    The grid of the network covers the camera image edge to edge. Between grid cells inverse depth
    is interpolated bilinearly (exact on planes; linear depth would bend them). Where the four
    cells do not lie on one surface the nearest cell is taken, so no point appears between
    foreground and background.

    Args:
        gaussians: in the camera frame and in image order (`grid` set); layer 0 is used.
        width: pixels of the result.
        height: pixels of the result.

    Returns:
        [height, width] float32 z-depth in metres, NaN where the network gave none, inf where it
        says that there is nothing.

    Raises:
        InputError: if the image order was lost or the size is not positive.
    """
    if gaussians.grid is None:
        raise InputError(
            'Gaussians without image order have no depth image; pass the prediction itself, '
            'before select()',
            'no_image_grid',
        )
    if width < 1 or height < 1:
        raise InputError(f'depth image of {width}x{height} pixels asked', 'bad_size')
    front = gaussians.layer(0)
    # an invisible Gaussian holds the place of a cell without depth
    z = front.means[:, 2].masked_fill(~(front.opacities > 0), float('nan'))
    if front.empty is not None:
        z = z.masked_fill(front.empty, float('inf'))
    z = z.detach().cpu().numpy().reshape(gaussians.grid[1:])
    return resize_depth(z, width, height)


def resize_depth(depth: np.ndarray, width: int, height: int) -> np.ndarray:
    """[H, W] -> [height, width] edge to edge, see `depth_from_gaussians`; invalid becomes NaN."""
    depth = np.require(depth, np.float32, ['C'])
    with np.errstate(divide='ignore', invalid='ignore'):
        usable = depth > 0  # False for NaN; inf has the inverse depth 0
        inverse = np.where(usable, np.float32(1) / depth, np.float32(np.nan))
    if depth.shape == (height, width):
        return np.where(usable, depth, np.float32(np.nan))
    return _resize_kernel(
        inverse, *_taps(depth.shape[0], height), *_taps(depth.shape[1], width), _RATIO
    )


def drop_flying_pixels(depth: np.ndarray, edge_ratio: float) -> np.ndarray:
    """Remove pixels that hang between two surfaces, as blurred depth edges leave them.

    Along an image row (or column) a pixel of a surface agrees with at least one of its two
    neighbours, also at an occlusion edge; a mixed pixel agrees with neither. Two pixels agree when
    their inverse depths differ by at most `edge_ratio` of the pixel's own. On a plane at distance
    `a` from the camera this difference is `z / (a * focal_px)`, so a floor seen at grazing angle
    survives up to `z = edge_ratio * focal_px * a` (60 camera heights at 500 px), where comparing
    the 3x3 span of the depth would lose it at half of that, and a clean occlusion edge or a thin
    post of two pixels loses nothing. The four neighbours of a mixed pixel, which are often
    slightly mixed themselves, are dropped with it.

    Args:
        depth: [H, W] z-depth in metres; 0 and NaN mean no measurement, inf nothing in range.
        edge_ratio: largest relative step within one surface; 0 keeps all.

    Returns:
        [H, W] float32, NaN where dropped or not measured, inf where nothing is in range.
    """
    return _clean(depth, edge_ratio, 0.0, np.inf)


def clean_depth(depth: np.ndarray, config: PointCloudConfig) -> np.ndarray:
    """`drop_flying_pixels` and limit the range, in one pass.

    An edge against something out of range is still recognised. As in REP-117, what is beyond
    `max_range` becomes +inf, "nothing in range": that a ray met nothing near is worth knowing;
    what is nearer than `min_range` becomes -inf, "too near".
    """
    return _clean(depth, config.edge_ratio, config.min_range, config.max_range)


def organised_cloud(
    depth: np.ndarray, image: np.ndarray, intrinsics: Intrinsics
) -> np.ndarray:  # [H, W], [H, W, 3] -> [H, W, 4]
    """Coloured points in the optical frame, one per pixel, laid out as `PointCloud2` wants them.

    Args:
        depth: z-depth in metres; 0 and non-finite mean no measurement.
        image: uint8 RGB of the same size.
        intrinsics: of that size.

    Returns:
        Contiguous float32 x, y, z, rgb; xyz is NaN where there is no measurement; rgb holds the
        bits of the uint32 0x00RRGGBB (compare through `.view(np.uint32)`, as floats they are
        denormal).

    Raises:
        InputError: if the sizes differ or the image is not uint8 RGB.
    """
    check_rgbd_size(image, depth, intrinsics)
    cloud = np.empty((*depth.shape, 4), np.float32)
    x, y = (axis.astype(np.float32) for axis in intrinsics.axes())
    depth = np.require(depth, np.float32, _KERNEL_INPUT)
    image = np.require(image, None, _KERNEL_INPUT)
    _cloud_kernel(depth, image, x, y, cloud, cloud.view(np.uint32))
    return cloud


def normals_from_depth(
    depth: np.ndarray, intrinsics: Intrinsics, radius: int = 7, edge_ratio: float = 0.03
) -> np.ndarray:  # [H, W] -> [H, W, 3]
    """Unit normals of the visible surface in the optical frame, towards the camera.

    A plane `n . p = 1` has the inverse depth `n . (x/z, y/z, 1)`: the normal is the least-squares
    fit of that over the window around a pixel, exact on planes. Of the window only what hangs
    together with the pixel counts (the cross-shaped support regions of Zhang et al., 2009): the
    pixels of its column up to the first step of depth, and with each of them its row likewise.

    Args:
        depth: z-depth in metres; 0 and non-finite mean no measurement.
        intrinsics: of that size.
        radius: of the window, pixels. The error from noise falls with its square.
        edge_ratio: relative change of inverse depth from pixel to pixel that is a step, unless
            the noise of the pixels is more than a fifth of that: then it is five times the noise.

    Returns:
        float32, NaN where there is no measurement or too few neighbours to say.

    Raises:
        InputError: if the sizes differ.
    """
    check_depth_size(depth, intrinsics)
    with np.errstate(divide='ignore', invalid='ignore'):
        seen = np.isfinite(depth) & (depth > 0)
        inverse = np.where(seen, np.float32(1) / depth, np.float32(np.nan)).astype(np.float32)
    ratio = max(edge_ratio, 5 * pixel_noise(depth))
    left, right = _runs_kernel(inverse, ratio, radius)
    top, bottom = (
        np.ascontiguousarray(ends.T)
        for ends in _runs_kernel(np.ascontiguousarray(inverse.T), ratio, radius)
    )
    k = intrinsics
    return _normal_kernel(inverse, left, right, top, bottom, k.fx, k.fy, k.cx, k.cy)


def pixel_noise(depth: np.ndarray, stride_u: int = 1, stride_v: int = 4) -> float:  # [H, W]
    """Standard deviation of depth between neighbouring pixels, as a share of it.

    Inverse depth is linear along an image of a plane, so its second difference is that of noise,
    whose standard deviation it has times sqrt(6). The median leaves out edges. Every `stride_u`th
    pixel of every `stride_v`th row is looked at.
    """
    width = depth.shape[1] - 2
    with np.errstate(all='ignore'):
        left, middle, right = (1 / depth[::stride_v, i : width + i : stride_u] for i in range(3))
        bend = np.abs((left + right) / middle - 2)
    bend = bend[np.isfinite(bend)]
    return float(np.median(bend)) / (0.6745 * math.sqrt(6)) if bend.size else 0.0


# Read-only or strided arrays are other types to numba: each would compile anew in mid-stream.
_KERNEL_INPUT = ['C', 'W']
_RATIO = np.float32(SAME_SURFACE_RATIO)
_MIN_EXTENT = (
    0.1  # px^4, determinant of the covariance of places that a normal is fitted to: 2 x 3
)


def splat_records(gaussians: Gaussians) -> np.ndarray:  # -> [M, 12] float32
    """The visible Gaussians as flat records, ready to be sent.

    Columns: mean (3, metres), sRGB colour as 0x00RRGGBB in the bits of a float, opacity, standard
    deviations (3, metres), unit quaternion wxyz. Gaussians of opacity 0 are left out.

    Raises:
        InputError: if the Gaussians are points only.
    """
    g = gaussians
    tensors = (g.means, g.colors, g.opacities, *g.shapes)
    arrays = [t.detach().cpu().contiguous().numpy() for t in tensors]
    out = np.empty((len(g), 12), np.float32)
    count = _splat_kernel(*arrays, _srgb8_table(), out, out.view(np.uint32))
    return out[:count]


@cache
def _srgb8_table() -> np.ndarray:  # -> [65536] uint8
    """8-bit sRGB of 16-bit linear values; a look-up costs a tenth of the powers."""
    linear = np.arange(65536) / 65535
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255 + 0.5).astype(np.uint8)


def _clean(depth: np.ndarray, edge_ratio: float, near: float, far: float) -> np.ndarray:
    if depth.ndim != 2:
        raise InputError(f'depth must be [H, W], got {depth.shape}', 'size_mismatch')
    depth = np.require(depth, np.float32, _KERNEL_INPUT)
    if edge_ratio <= 0:
        return _limit_kernel(depth, np.float32(near), np.float32(far))
    return _clean_kernel(depth, np.float32(edge_ratio), np.float32(near), np.float32(far))


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per target index: left neighbour, right neighbour, weight of the right one."""
    position = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    left = position.astype(np.int32)
    return left, np.minimum(left + 1, source - 1), (position - left).astype(np.float32)


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _resize_kernel(
    inverse: np.ndarray,
    top: np.ndarray,
    bottom: np.ndarray,
    weight_y: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    weight_x: np.ndarray,
    ratio: np.float32,
) -> np.ndarray:  # [H, W] -> [h, w]
    """Depth from inverse depth, both float32, see `depth_from_gaussians`.

    `top`, `bottom` [h] and `left`, `right` [w] int32 are neighbours in the source, the weights
    [h], [w] float32 those of the latter, see `_taps`; beyond `ratio` nothing is interpolated.
    """
    out = np.empty((len(top), len(left)), np.float32)
    one, half = np.float32(1), np.float32(0.5)
    for v in numba.prange(len(top)):
        wy = weight_y[v]
        upper, lower = inverse[top[v]], inverse[bottom[v]]
        for u in range(len(left)):
            wx = weight_x[u]
            a, b, c, d = upper[left[u]], upper[right[u]], lower[left[u]], lower[right[u]]
            mixed = (one - wy) * ((one - wx) * a + wx * b) + wy * ((one - wx) * c + wx * d)
            spread = ratio * min(a, b, c, d) - max(a, b, c, d)
            if np.isnan(mixed) or spread < 0:
                mixed = (a if wx < half else b) if wy < half else (c if wx < half else d)
            out[v, u] = one / mixed
    return out


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _clean_kernel(
    depth: np.ndarray, edge_ratio: np.float32, near: np.float32, far: np.float32
) -> np.ndarray:  # [H, W] -> [H, W]
    """See `drop_flying_pixels` and `_limited`; float32, metres."""
    height, width = depth.shape
    # A frame of NaN around the image spares the inner loops every border case.
    inverse = np.full((height + 2, width + 2), np.nan, np.float32)
    mixed = np.zeros((height + 2, width + 2), np.bool_)
    out = np.empty((height, width), np.float32)
    for v in numba.prange(height):
        for u in range(width):
            d = depth[v, u]
            inverse[v + 1, u + 1] = np.float32(1) / d if d > 0 else np.float32(np.nan)
    for v in numba.prange(1, height + 1):
        for u in range(1, width + 1):
            q = inverse[v, u]
            left, right = inverse[v, u - 1], inverse[v, u + 1]
            up, down = inverse[v - 1, u], inverse[v + 1, u]
            step = edge_ratio * q
            # Comparisons with NaN are false: an absent neighbour neither agrees nor disagrees.
            across = (abs(q - left) <= step) | (abs(q - right) <= step)
            along = (abs(q - up) <= step) | (abs(q - down) <= step)
            doubt_across = (abs(q - left) > step) | (abs(q - right) > step)
            doubt_along = (abs(q - up) > step) | (abs(q - down) > step)
            mixed[v, u] = (doubt_across & (not across)) | (doubt_along & (not along))
    for v in numba.prange(height):
        for u in range(width):
            d = depth[v, u]
            dropped = (
                mixed[v + 1, u + 1]
                | mixed[v + 1, u]
                | mixed[v + 1, u + 2]
                | mixed[v, u + 1]
                | mixed[v + 2, u + 1]
            )
            out[v, u] = np.float32(np.nan) if dropped else _limited(d, near, far)
    return out


@numba.njit(cache=True, forceinline=True, error_model='numpy')
def _limited(d: np.float32, near: np.float32, far: np.float32) -> np.float32:
    """Depth in range, +inf beyond it, -inf before it, NaN for no measurement."""
    if d > far:
        return np.float32(np.inf)
    if d >= near:
        return d if d > 0 else np.float32(np.nan)
    return np.float32(-np.inf) if (d > 0) | (d == -np.inf) else np.float32(np.nan)


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _limit_kernel(
    depth: np.ndarray, near: np.float32, far: np.float32
) -> np.ndarray:  # [H, W] -> [H, W]
    """`_limited` of all pixels; float32, metres."""
    out = np.empty_like(depth)
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            out[v, u] = _limited(depth[v, u], near, far)
    return out


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _cloud_kernel(
    depth: np.ndarray,
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    cloud: np.ndarray,
    bits: np.ndarray,
) -> None:
    """Fill the `cloud` [H, W, 4] float32 and its view as uint32, `bits`, see `organised_cloud`.

    From `depth` [H, W] float32, `image` [H, W, 3] uint8, and x/z [W] and y/z [H] float32.
    """
    height, width = depth.shape
    for v in numba.prange(height):
        for u in range(width):
            d = depth[v, u]
            z = d if (d > 0) & (d < np.inf) else np.float32(np.nan)
            cloud[v, u, 0] = x[u] * z
            cloud[v, u, 1] = y[v] * z
            cloud[v, u, 2] = z
            red, green, blue = image[v, u, 0], image[v, u, 1], image[v, u, 2]
            bits[v, u, 3] = (
                (np.uint32(red) << np.uint32(16))
                | (np.uint32(green) << np.uint32(8))
                | np.uint32(blue)
            )


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _splat_kernel(
    means: np.ndarray,
    colors: np.ndarray,
    opacities: np.ndarray,
    scales: np.ndarray,
    quats: np.ndarray,
    srgb8: np.ndarray,
    out: np.ndarray,
    bits: np.ndarray,
) -> int:
    """Fill `out` [N, 12] float32 and its view as uint32, `bits`; returns how many rows are used.

    `means` [N, 3], `colors` [N, 3], `opacities` [N], `scales` [N, 3] and `quats` [N, 4] float32 as
    `Gaussians` has them; `srgb8` [65536] uint8 see `_srgb8_table`.
    """
    count = 0
    for i in range(len(means)):
        if not opacities[i] > 0:
            continue
        packed = np.uint32(0)
        for c in range(3):
            linear = min(max(colors[i, c], np.float32(0)), np.float32(1))
            level = srgb8[int(linear * np.float32(65535) + np.float32(0.5))]
            packed = (packed << np.uint32(8)) | np.uint32(level)
            out[count, c] = means[i, c]
            out[count, 5 + c] = scales[i, c]
        bits[count, 3] = packed
        out[count, 4] = opacities[i]
        square = np.float32(0)
        for c in range(4):
            square += quats[i, c] * quats[i, c]
        for c in range(4):
            out[count, 8 + c] = quats[i, c] / np.sqrt(square)
        count += 1
    return count


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _runs_kernel(
    inverse: np.ndarray, ratio: float, radius: int
) -> tuple[np.ndarray, np.ndarray]:  # [H, W] -> [H, W], [H, W]
    """First and last column within the radius that hang together with each pixel along its row.

    float32 inverse depth -> int32 columns.
    Pixels without a measurement are stepped over; across them the depth may change the more.
    """
    height, width = inverse.shape
    first, last = np.empty((height, width), np.int32), np.empty((height, width), np.int32)
    for v in numba.prange(height):
        for forth in (True, False):
            start, at, before = 0, -1, np.float32(np.nan)
            for i in range(width):
                u = i if forth else width - 1 - i
                q = inverse[v, u]
                if q > 0:
                    gap = abs(u - at)
                    # the first of all compares with NaN and starts a run, too
                    if not (gap <= radius and abs(q - before) <= ratio * gap * min(q, before)):
                        start = u
                    at, before = u, q
                    if forth:
                        first[v, u] = max(start, u - radius)
                    else:
                        last[v, u] = min(start, u + radius)
    return first, last


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _normal_kernel(
    inverse: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    top: np.ndarray,
    bottom: np.ndarray,
    fx: float,
    fy: float,
    cx: float,
    cy: float,
) -> np.ndarray:  # [H, W] -> [H, W, 3]
    """Normals from inverse depth, both float32, see `normals_from_depth`.

    `left`, `right` and `top`, `bottom` [H, W] int32 are the ends of each pixel's run along its row
    and its column.
    """
    height, width = inverse.shape
    # of each run: sums of 1, x, x^2, q, x q with x from the pixel it belongs to
    sums = np.zeros((height, width, 5), np.float32)
    out = np.full((height, width, 3), np.nan, np.float32)
    for v in numba.prange(height):
        before = np.zeros((width + 1, 5))  # the same with x from the margin, of all on the left
        for u in range(width):
            q = inverse[v, u]
            weight, value = (1.0, q) if q > 0 else (0.0, np.float32(0))
            before[u + 1, 0] = before[u, 0] + weight
            before[u + 1, 1] = before[u, 1] + weight * u
            before[u + 1, 2] = before[u, 2] + weight * u * u
            before[u + 1, 3] = before[u, 3] + value
            before[u + 1, 4] = before[u, 4] + value * u
        for u in range(width):
            if inverse[v, u] > 0:
                start, end = before[left[v, u]], before[right[v, u] + 1]
                n, x, q = end[0] - start[0], end[1] - start[1], end[3] - start[3]
                sums[v, u, 0] = n
                sums[v, u, 1] = x - u * n
                sums[v, u, 2] = end[2] - start[2] - u * (2 * x - u * n)
                sums[v, u, 3] = q
                sums[v, u, 4] = end[4] - start[4] - u * q
    for v in numba.prange(height):
        for u in range(width):
            if not inverse[v, u] > 0:
                continue
            n, q, x, y, xx, xy, yy, xq, yq = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for row in range(top[v, u], bottom[v, u] + 1):  # where nothing was seen sums are 0
                dy, n1, x1, q1 = row - v, sums[row, u, 0], sums[row, u, 1], sums[row, u, 3]
                n += n1
                q += q1
                x += x1
                y += dy * n1
                xx += sums[row, u, 2]
                xy += dy * x1
                yy += dy * dy * n1
                xq += sums[row, u, 4]
                yq += dy * q1
            q, x, y = q / n, x / n, y / n
            xx, xy, yy = xx / n - x * x, xy / n - x * y, yy / n - y * y
            xq, yq = xq / n - x * q, yq / n - y * q
            extent = xx * yy - xy * xy
            if extent < _MIN_EXTENT:
                continue
            across = (xq * yy - yq * xy) / extent
            down = (yq * xx - xq * xy) / extent
            here = q - across * x - down * y
            if not here > 0:
                continue
            nx, ny = across * fx, down * fy
            nz = here - across * (u - cx) - down * (v - cy)
            length = math.sqrt(nx * nx + ny * ny + nz * nz)
            out[v, u, 0], out[v, u, 1], out[v, u, 2] = -nx / length, -ny / length, -nz / length
    return out
