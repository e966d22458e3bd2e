"""From depth layers to 3D Gaussians, one per cell of the depth image and layer.

`gaussians_from_depth` is all a network of depth alone needs. SHARP starts from such Gaussians too
(`base_gaussians`), corrects every attribute of them (`compose`), and only then learns of the
camera (`unprojection.unproject`). Before that its space is the image's: x / z and y / z run from
-1 at the left and upper edge to 1 at the right and lower one, whatever the lens.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians, linear_from_srgb
from sharp_ros.network.footprints import stretched
from sharp_ros.network.nano_arrays import HIDDEN, SECOND_LAYER_RATIO, STD_CELLS, VISIBLE
from sharp_ros.tensors import array_of

# Of SHARP, all as trained.
_STRIDE = 2  # pixels to a cell, per axis
_DISPARITY_RANGE = (1e-4, 1e4)
_DEPTH_MAX = 100.0  # multiples of the least depth
_DEPTH_EPSILON = 1e-6
_INVERSE_DEPTH_EPSILON = 1e-3
_POSITION_STEP, _COLOR_STEP = 1e-3, 0.1  # by how much a unit of correction moves its attribute
_COLOR_RANGE = (0.01, 0.99)  # keeps the logit finite
_SCALE_MAX = 10.0  # times the base scale


def gaussians_from_depth(
    depth: Tensor,  # [layers, rows, columns]
    image: Tensor,  # [3, rows, columns]
    intrinsics: Intrinsics,
    log_depth_std: Tensor | None = None,  # [rows, columns]
    *,
    covariances: bool = True,
) -> Gaussians:  # N = layers * rows * columns
    """Place a Gaussian on the ray of every cell, as wide as the cell appears there.

    Along a slanted surface it is as long as the cell covers of it, and as much thinner, so that
    the surface is closed seen from elsewhere, too (`footprints`), and not blurred from here. No
    gradient flows through how long that is.

    Args:
        depth: z-depth of the surfaces met by each ray, front layer first, metres; cells that are
            not finite or not positive become Gaussians of opacity 0 at 1 m, and count as `empty`
            where it is infinite.
        image: sRGB in 0..1 at the same resolution.
        intrinsics: of that resolution.
        log_depth_std: standard deviation of the logarithm of the depth.
        covariances: False if only points are needed; shapes are found on the CPU.

    Returns:
        Gaussians in the camera's optical frame with `grid = (layers, rows, columns)`.

    Raises:
        InputError: if the resolutions differ.
    """
    layers, rows, columns = depth.shape
    if (intrinsics.height, intrinsics.width) != (rows, columns) or tuple(image.shape) != (
        3,
        rows,
        columns,
    ):
        raise InputError(
            f'depth {tuple(depth.shape)}, image {tuple(image.shape)} and {intrinsics} differ',
            'size_mismatch',
        )
    valid = torch.isfinite(depth) & (depth > 0)
    z = torch.where(valid, depth, torch.ones_like(depth))
    opacity = torch.full_like(z, VISIBLE)
    opacity[1:] = torch.where(z[1:] > z[:-1] * SECOND_LAYER_RATIO, HIDDEN, 0.0)
    opacity = torch.where(valid, opacity, torch.zeros_like(opacity))
    rays = torch.from_numpy(intrinsics.rays()).to(z)
    means = torch.cat([rays * z[..., None], z[..., None]], -1).reshape(-1, 3)
    scales, quats = _shapes(z, valid, intrinsics) if covariances else (None, None)
    colors = linear_from_srgb(image).permute(1, 2, 0).reshape(-1, 3)
    if log_depth_std is not None:
        log_depth_std = log_depth_std.reshape(-1).repeat(layers)
    return Gaussians(
        means=means,
        quats=quats,
        scales=scales,
        opacities=opacity.reshape(-1),
        colors=colors.repeat(layers, 1),
        grid=(layers, rows, columns),
        log_depth_std=log_depth_std,
        empty=torch.isposinf(depth).reshape(-1),
    )


def _shapes(
    z: Tensor, valid: Tensor, intrinsics: Intrinsics
) -> tuple[Tensor, Tensor]:  # [L, h, w] -> [N, 3], [N, 4]
    # pixels may be anisotropic after a resize; the geometric mean keeps the footprint's area
    widths = z * (STD_CELLS / (intrinsics.fx * intrinsics.fy) ** 0.5)
    (long, thick), quats = (
        torch.from_numpy(values).to(z)
        for values in stretched(array_of(z.float()), array_of(valid), intrinsics)
    )
    scales = torch.stack([widths * long, widths, widths * thick], -1).reshape(-1, 3)
    return scales, quats.flatten(1).T.contiguous()


@dataclass(frozen=True)
class BaseGaussians:
    """Where SHARP starts: a Gaussian on every cell of its two depth layers.

    Attributes:
        x: [W] centres of the columns, -1..1 from edge to edge.
        y: [H] centres of the rows, likewise.
        inverse_depth: [B, layers, H, W] of the nearest pixel of the cell, 1 at the nearest of all.
        colors: [B, 3, H, W] sRGB, the same for all layers.
        global_scale: [B] metres that one unit of depth stands for.
        features: [B, 3 + layers, S, S] image and inverse depth in -1..1, for the decoder.
    """

    x: Tensor
    y: Tensor
    inverse_depth: Tensor
    colors: Tensor
    global_scale: Tensor
    features: Tensor

    @property
    def cell(self) -> float:
        """Standard deviation at unit depth: the width of a cell."""
        return 2 / len(self.x)


@dataclass(frozen=True)
class NdcGaussians:
    """A batch of Gaussians in the space of the image, N = layers * H * W in this order.

    Attributes:
        means: [B, N, 3] as (z x, z y, z), with z in metres and x, y in -1..1 across the image.
        scales: [B, N, 3] standard deviations along the local axes, in units of the means.
        quats: [B, N, 4] wxyz, of any positive length.
        colors: [B, N, 3] linear RGB in 0..1.
        opacities: [B, N] in 0..1.
        grid: (layers, H, W).
    """

    means: Tensor
    scales: Tensor
    quats: Tensor
    colors: Tensor
    opacities: Tensor
    grid: tuple[int, int, int]


def depth_from_disparity(disparity: Tensor, factor: Tensor) -> Tensor:
    """Metres of SHARP's disparity, which is inverse depth seen by a lens as long as the image.

    Args:
        disparity: [B, layers, S, S].
        factor: [B] focal length over image width.
    """
    return factor[:, None, None, None] / disparity.clamp(*_DISPARITY_RANGE)


def base_gaussians(image: Tensor, depth: Tensor) -> BaseGaussians:
    """Initialise Gaussians from depth; every second pixel gets one.

    Args:
        image: [B, 3, S, S] sRGB in 0..1.
        depth: [B, layers, S, S] metres.
    """
    nearest = depth.amin((1, 2, 3)) + _DEPTH_EPSILON
    inverse = 1 / (depth / nearest[:, None, None, None]).clamp(max=_DEPTH_MAX)
    cells = image.shape[-1] // _STRIDE
    centre = (torch.arange(cells, device=image.device) * 2 + 1).to(image.dtype) / cells - 1
    return BaseGaussians(
        x=centre,
        y=centre,
        inverse_depth=F.max_pool2d(inverse, _STRIDE),  # the nearest surface hides the others
        colors=F.avg_pool2d(image, _STRIDE),
        global_scale=nearest,
        features=2 * torch.cat([image, inverse], 1) - 1,
    )


def compose(base: BaseGaussians, delta: Tensor) -> NdcGaussians:
    """Correct base Gaussians, each attribute in the space in which it has no bounds.

    Args:
        base: of B images.
        delta: [B, 14, layers, H, W]: x, y, inverse depth, 3 scales, quaternion wxyz, RGB, opacity.
    """
    x = base.x + _POSITION_STEP * delta[:, 0]
    y = base.y[:, None] + _POSITION_STEP * delta[:, 1]
    # softplus of (its inverse + step): stays positive, and is the plain sum far from zero
    q = base.inverse_depth.clamp(min=1e-6)
    unbounded = q + torch.log(-torch.expm1(-q)) + _POSITION_STEP * delta[:, 2]
    z = 1 / (F.softplus(unbounded) + _INVERSE_DEPTH_EPSILON)
    z_metres = z * base.global_scale[:, None, None, None]
    means = torch.stack([z_metres * x, z_metres * y, z_metres], -1)

    # a sigmoid up to _SCALE_MAX that passes through 1 with slope 1
    slope, offset = _SCALE_MAX / (_SCALE_MAX - 1), -math.log(_SCALE_MAX - 1)
    factor = _SCALE_MAX * torch.sigmoid(slope * delta[:, 3:6] + offset)
    scales = (base.cell * z_metres)[:, None] * factor

    quats = torch.cat([delta[:, 6:7] + 1, delta[:, 7:10]], 1)  # from no rotation
    color = base.colors.clamp(*_COLOR_RANGE)[:, :, None]
    color = torch.sigmoid(torch.logit(color) + _COLOR_STEP * delta[:, 10:13])
    return NdcGaussians(
        means=means.flatten(1, 3),
        scales=scales.movedim(1, -1).flatten(1, 3),
        quats=quats.movedim(1, -1).flatten(1, 3),
        colors=linear_from_srgb(color).movedim(1, -1).flatten(1, 3),
        opacities=torch.sigmoid(delta[:, 13]).flatten(1),  # from 1/2, whose logit is 0
        grid=(delta.shape[2], delta.shape[3], delta.shape[4]),
    )
