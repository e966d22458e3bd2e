"""Loops over pixels behind `point_cloud`, where each is explained.

They are compiled on first use (seconds) and cached on disk beside this file. Those that every
frame needs take one thread: they are done in the time in which others wake up, and the other cores
have the next image's network.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# px^4, determinant of the covariance of places that a normal is fitted to: 2 x 3
_MIN_EXTENT = 0.1


@numba.njit(cache=True, nogil=True, error_model='numpy')
def resize_kernel(
    inverse: np.ndarray,
    top: np.ndarray,
    bottom: np.ndarray,
    weight_y: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    weight_x: np.ndarray,
    ratio: np.float32,
) -> np.ndarray:  # [H, W] -> [h, w]
    """Depth from inverse depth, both float32, see `point_cloud.depth_from_gaussians`.

    `top`, `bottom` [h] and `left`, `right` [w] int32 are neighbours in the source, the weights
    [h], [w] float32 those of the latter, see `point_cloud._taps`. Where depths differ by more than
    `ratio`, nothing is interpolated.
    """
    out = np.empty((len(top), len(left)), np.float32)
    one, half = np.float32(1), np.float32(0.5)
    for v in range(len(top)):
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


@numba.njit(cache=True, nogil=True, error_model='numpy')
def clean_kernel(
    depth: np.ndarray, edge_ratio: np.float32, near: np.float32, far: np.float32
) -> np.ndarray:  # [H, W] -> [H, W]
    """See `point_cloud.drop_flying_pixels` and `_limited`; float32, metres."""
    height, width = depth.shape
    # A frame of NaN around the image spares the inner loops every border case.
    inverse = np.full((height + 2, width + 2), np.nan, np.float32)
    mixed = np.zeros((height + 2, width + 2), np.bool_)
    out = np.empty((height, width), np.float32)
    for v in range(height):
        for u in range(width):
            d = depth[v, u]
            inverse[v + 1, u + 1] = np.float32(1) / d if d > 0 else np.float32(np.nan)
    for v in range(1, height + 1):
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
    for v in range(height):
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
def limit_kernel(
    depth: np.ndarray, near: np.float32, far: np.float32
) -> np.ndarray:  # [H, W] -> [H, W]
    """`_limited` of all pixels; float32, metres."""
    out = np.empty_like(depth)
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            out[v, u] = _limited(depth[v, u], near, far)
    return out


@numba.njit(cache=True, nogil=True, error_model='numpy')
def cloud_kernel(
    depth: np.ndarray,
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    cloud: np.ndarray,
    bits: np.ndarray,
) -> None:
    """Fill the `cloud` [H, W, 4] float32 and its view as uint32, `bits`.

    From `depth` [H, W] float32, `image` [H, W, 3] uint8, and x/z [W] and y/z [H] float32; see
    `point_cloud.organised_cloud`.
    """
    height, width = depth.shape
    for v in range(height):
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
def splat_kernel(
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
    `Gaussians` has them; `srgb8` [65536] uint8 see `point_cloud._srgb8_table`.
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
def runs_kernel(
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
def normal_kernel(
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
    """Normals from inverse depth, both float32, see `point_cloud.normals_from_depth`.

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
