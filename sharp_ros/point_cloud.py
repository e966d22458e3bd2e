"""From depth to points: depth of the visible surface, its clean-up, and the organised cloud.

All work is done in inverse depth where neighbours are compared or mixed, because a plane seen in
perspective has an inverse depth that is linear in pixel coordinates: interpolating it is exact on
planes, and its change from pixel to pixel is the same everywhere on one plane, however slanted.
The kernels are in `point_cloud_kernels`.
"""

from __future__ import annotations

from functools import cache
import math
from typing import Final, TYPE_CHECKING

import cv2
import numpy as np

from sharp_ros.camera import (
    check_depth_size,
    check_rgbd_size,
    Intrinsics,
    SAME_SURFACE_RATIO,
)
from sharp_ros.config import PointCloudConfig
from sharp_ros.errors import InputError
from sharp_ros.point_cloud_kernels import (
    clean_kernel,
    cloud_kernel,
    limit_kernel,
    normal_kernel,
    resize_kernel,
    runs_kernel,
    splat_kernel,
)

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
    if width < 1 or height < 1:
        raise InputError(f'depth image of {width}x{height} pixels asked', 'bad_size')
    return resize_depth(surface_depth(gaussians), width, height)


def surface_depth(gaussians: Gaussians) -> np.ndarray:  # -> [rows, columns]
    """Depth of the visible surface in the cells of the network, see `depth_from_gaussians`."""
    if gaussians.grid is None:
        raise InputError(
            'Gaussians without image order have no depth image; pass the prediction itself, '
            'before select()',
            'no_image_grid',
        )
    arrays = gaussians.layer(0).arrays
    # an invisible Gaussian holds the place of a cell without depth
    z = np.where(arrays.opacities > 0, arrays.means[:, 2], np.float32(np.nan))
    if arrays.empty is not None:
        z[arrays.empty] = np.inf
    return z.reshape(gaussians.grid[1:])


def resize_depth(depth: np.ndarray, width: int, height: int) -> np.ndarray:
    """[H, W] -> [height, width] edge to edge, see `depth_from_gaussians`; invalid becomes NaN."""
    depth = np.require(depth, np.float32, ['C'])
    with np.errstate(divide='ignore', invalid='ignore'):
        usable = depth > 0  # False for NaN; inf has the inverse depth 0
        inverse = np.where(usable, np.float32(1) / depth, np.float32(np.nan))
    if depth.shape == (height, width):
        return np.where(usable, depth, np.float32(np.nan))
    return resize_inverse_depth(inverse, width, height)


def resize_inverse_depth(inverse: np.ndarray, width: int, height: int) -> np.ndarray:
    """As `resize_depth`, of [H, W] float32 inverse depth; NaN: none, 0: nothing in range."""
    rows, columns = inverse.shape
    return resize_kernel(inverse, *_taps(rows, height), *_taps(columns, width), _RATIO)


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


def certain_depth(depth: np.ndarray, log_std: np.ndarray | None, max_std: float) -> np.ndarray:
    """Depth [H, W] without what is less certain than a limit; the same if there is none.

    Args:
        depth: metres.
        log_std: [m, n] standard deviation of its logarithm, edge to edge; None: not known.
        max_std: of that, at most; 0 keeps all.
    """
    if log_std is None or max_std <= 0:
        return depth
    high, wide = depth.shape
    std = cv2.resize(log_std, (wide, high), interpolation=cv2.INTER_LINEAR)
    return np.where(std <= max_std, depth, np.float32(np.nan))


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
    cloud_kernel(depth, image, x, y, cloud, cloud.view(np.uint32))
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
    left, right = runs_kernel(inverse, ratio, radius)
    top, bottom = (
        np.ascontiguousarray(ends.T)
        for ends in runs_kernel(np.ascontiguousarray(inverse.T), ratio, radius)
    )
    k = intrinsics
    return normal_kernel(inverse, left, right, top, bottom, k.fx, k.fy, k.cx, k.cy)


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
_KERNEL_INPUT: Final = ('C', 'W')
_RATIO = np.float32(SAME_SURFACE_RATIO)


def splat_records(gaussians: Gaussians) -> np.ndarray:  # -> [M, 12] float32
    """The visible Gaussians as flat records, ready to be sent.

    Columns: mean (3, metres), sRGB colour as 0x00RRGGBB in the bits of a float, opacity, standard
    deviations (3, metres), unit quaternion wxyz. Gaussians of opacity 0 are left out.

    Raises:
        InputError: if the Gaussians are points only.
    """
    a = gaussians.arrays
    means, colors, opacities, scales, quats = (
        np.require(values, None, _KERNEL_INPUT)
        for values in (a.means, a.colors, a.opacities, *a.shapes)
    )
    out = np.empty((len(gaussians), 12), np.float32)
    count = splat_kernel(
        means, colors, opacities, scales, quats, _srgb8_table(), out, out.view(np.uint32)
    )
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
        return limit_kernel(depth, np.float32(near), np.float32(far))
    return clean_kernel(depth, np.float32(edge_ratio), np.float32(near), np.float32(far))


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per target index: left neighbour, right neighbour, weight of the right one."""
    position = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    left = position.astype(np.int32)
    return left, np.minimum(left + 1, source - 1), (position - left).astype(np.float32)
