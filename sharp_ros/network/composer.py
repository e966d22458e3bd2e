"""From depth layers to 3D Gaussians, one per cell of the depth image and layer."""

from __future__ import annotations

import torch
from torch import Tensor

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians, linear_from_srgb

# A standard deviation of 0.6 cells closes the surface between neighbours (their sum ripples by
# less than 2 %) and still resolves one cell.
_STD_CELLS = 0.6
# A second surface within 3 % of the first is the same surface; showing it twice only blurs.
_SECOND_LAYER_RATIO = 1.03
_VISIBLE, _HIDDEN, _NONE = 0.95, 0.9, 0.0


def gaussians_from_depth(
    depth: Tensor,  # [layers, rows, columns]
    image: Tensor,  # [3, rows, columns]
    intrinsics: Intrinsics,
    log_depth_std: Tensor | None = None,  # [rows, columns]
) -> Gaussians:  # N = layers * rows * columns
    """Place an isotropic Gaussian on the ray of every cell, as wide as the cell appears there.

    Args:
        depth: z-depth of the surfaces met by each ray, front layer first, metres; cells that are
            not finite or not positive become Gaussians of opacity 0 at 1 m.
        image: sRGB in 0..1 at the same resolution.
        intrinsics: of that resolution.
        log_depth_std: standard deviation of the logarithm of the depth.

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
    opacity = torch.full_like(z, _VISIBLE)
    opacity[1:] = torch.where(z[1:] > z[:-1] * _SECOND_LAYER_RATIO, _HIDDEN, _NONE)
    opacity = torch.where(valid, opacity, torch.zeros_like(opacity))
    rays = torch.from_numpy(intrinsics.rays()).to(z)
    means = torch.cat([rays * z[..., None], z[..., None]], -1).reshape(-1, 3)
    # pixels may be anisotropic after a resize; the geometric mean keeps the footprint's area
    cell = _STD_CELLS / (intrinsics.fx * intrinsics.fy) ** 0.5
    quats = torch.zeros(len(means), 4, dtype=z.dtype, device=z.device)
    quats[:, 0] = 1
    colors = linear_from_srgb(image).permute(1, 2, 0).reshape(-1, 3)
    if log_depth_std is not None:
        log_depth_std = log_depth_std.reshape(-1).repeat(layers)
    return Gaussians(
        means=means,
        quats=quats,
        scales=(z.reshape(-1, 1) * cell).expand(-1, 3).contiguous(),
        opacities=opacity.reshape(-1),
        colors=colors.repeat(layers, 1),
        grid=(layers, rows, columns),
        log_depth_std=log_depth_std,
    )
