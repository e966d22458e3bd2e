"""Gaussian splatting in plain torch: any device, differentiable, written to be read.

Follows Kerbl et al. 2023 (3D Gaussian Splatting) and Zwicker et al. 2001 (EWA splatting), with the
conventions of SHARP's renderer: no low-pass filter on the projected covariance, blending in linear
RGB, encoding to sRGB afterwards. `cpu.py` is its fast twin; both take every threshold from
`rendering.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sharp_ros.camera import Intrinsics
from sharp_ros.gaussians import Gaussians, rotations_from_quats, srgb_from_linear
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

PAIRS_AT_ONCE = 1 << 21  # pixel-Gaussian pairs in memory at a time


@dataclass(frozen=True)
class Splats:
    """Gaussians on the image plane, [M] each, nearest first.

    The 2-D normal distribution is kept as "y, then x given y": y has variance `c` around `v`, and
    on the row at distance dy from `v`, x has variance `det / c` around `u + slope * dy`. The
    exponent is then a sum of two squares, which stays exact in float32 for the thinnest needles,
    where the usual quadratic form cancels.
    """

    u: Tensor
    v: Tensor
    slope: Tensor
    half_precision_x: Tensor  # 0.5 * c / det, 1/px^2
    half_precision_y: Tensor  # 0.5 / c
    cutoff: Tensor  # largest exponent at which alpha still reaches ALPHA_MIN
    radius_x: Tensor
    radius_y: Tensor
    opacity: Tensor
    depth: Tensor
    color: Tensor  # [M, 3]


@torch.no_grad()
def drawable(gaussians: Gaussians) -> Tensor:  # -> [N] bool
    """Which Gaussians can be drawn at all; what a view shows of them is another matter."""
    g, (scales, quats) = gaussians, gaussians.shapes
    everything = torch.cat((g.means, quats, scales, g.opacities[:, None], g.colors), 1)
    # the largest part instead of the length, whose square float32 may not hold
    turned = quats.abs().amax(1) > QUAT_MIN
    return everything.isfinite().all(1) & (scales > 0).all(1) & turned


def _project(
    gaussians: Gaussians, intrinsics: Intrinsics, T: np.ndarray, near: float
) -> tuple[Splats, Tensor]:
    """Perspective projection of what can be drawn, linearised at the means; and what cannot."""
    device, dtype = gaussians.means.device, gaussians.means.dtype
    # Thin Gaussians need the digits; they are dropped again once the splat is known.
    wide = torch.float32 if device.type == 'mps' else torch.float64
    rotation = torch.as_tensor(T[:3, :3], dtype=wide, device=device)
    translation = torch.as_tensor(T[:3, 3], dtype=wide, device=device)

    with torch.no_grad():  # select first: the gradient of a skipped NaN would be NaN
        sound = drawable(gaussians)
        ahead = gaussians.means.to(wide) @ rotation[2] + translation[2] >= near
        visible = sound & ahead & (gaussians.opacities.to(wide) >= ALPHA_MIN)
    g = gaussians.select(visible)

    mean = g.means.to(wide) @ rotation.T + translation
    x, y, z = mean.unbind(-1)
    scales, quats = (t.to(wide) for t in g.shapes)
    rotations = rotations_from_quats(quats / quats.norm(dim=1, keepdim=True))
    axes = rotations * scales[:, None, :]

    # J W R S of EWA splatting (Zwicker 2001, eq. 29-31); its rows' products are the covariance.
    x_lim = jacobian_limits(intrinsics.fx, intrinsics.cx, intrinsics.width)
    y_lim = jacobian_limits(intrinsics.fy, intrinsics.cy, intrinsics.height)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        (
            torch.stack((intrinsics.fx / z, zero, -intrinsics.fx / z * (x / z).clamp(*x_lim)), -1),
            torch.stack((zero, intrinsics.fy / z, -intrinsics.fy / z * (y / z).clamp(*y_lim)), -1),
        ),
        -2,
    )
    row_x, row_y = (jacobian @ rotation @ axes).unbind(-2)
    a, b, c = (row_x * row_x).sum(-1), (row_x * row_y).sum(-1), (row_y * row_y).sum(-1)
    # Lagrange's identity: a c - b^2, without its cancellation.
    det = torch.linalg.cross(row_x, row_y).square().sum(-1)

    with torch.no_grad():
        seen = (c >= VARIANCE_MIN) & (det >= VARIANCE_MIN * c)
        seen &= (a <= VARIANCE_MAX) & (c <= VARIANCE_MAX)
        front_to_back = torch.sort(z[seen].to(torch.float32), stable=True).indices
        order = seen.nonzero()[:, 0][front_to_back]
    opacity = g.opacities.to(wide)
    cutoff = torch.log(opacity / ALPHA_MIN)
    u = intrinsics.fx * (x / z) + intrinsics.cx
    v = intrinsics.fy * (y / z) + intrinsics.cy
    with torch.no_grad():  # 1 px of slack: the exact limit is the cutoff of the exponent
        radius_x = (2 * cutoff.clamp(min=0) * a).sqrt() * 1.001 + 1
        radius_y = (2 * cutoff.clamp(min=0) * c).sqrt() * 1.001 + 1
    precisions = (0.5 * c / det, 0.5 / c)
    parts = (u, v, b / c, *precisions, cutoff, radius_x, radius_y, opacity, z)
    splats = Splats(*(part[order].to(dtype) for part in parts), color=g.colors[order])
    return splats, (~sound).sum()


def _composite(
    splats: Splats, chosen: Tensor, box: tuple[int, int, int, int], median: bool
) -> Tensor:
    """Front-to-back compositing of a box of pixels (Kerbl 2023, eq. 2-3).

    Args:
        splats: of the whole image, [M].
        chosen: which of them can reach the box, in order.
        box: x0, y0, x1, y1 with the ends exclusive.
        median: whether to add the median depth.

    Returns:
        [y1 - y0, x1 - x0, 5 or 6] linear RGB, depth and alpha, summed with their weights.
    """
    s, (x0, y0, x1, y1) = splats, box
    x = torch.arange(x0, x1, dtype=s.u.dtype, device=s.u.device)[None, :, None]
    y = torch.arange(y0, y1, dtype=s.u.dtype, device=s.u.device)[:, None, None]
    dy = y - s.v[chosen]
    dx = x - (s.u[chosen] + s.slope[chosen] * dy)
    exponent = s.half_precision_x[chosen] * dx * dx + s.half_precision_y[chosen] * dy * dy
    alpha = (s.opacity[chosen] * torch.exp(-exponent)).clamp(max=ALPHA_MAX)
    alpha = torch.where(exponent <= s.cutoff[chosen], alpha, torch.zeros_like(alpha))
    passed = torch.cumprod(1 - alpha, -1)
    transmittance = torch.cat((torch.ones_like(passed[..., :1]), passed[..., :-1]), -1)
    one = torch.ones_like(s.depth[chosen])
    values = torch.cat((s.color[chosen], torch.stack((s.depth[chosen], one), -1)), -1)
    image = (alpha * transmittance) @ values
    if not median:
        return image
    first_below = (passed >= MEDIAN).sum(-1)
    depth = torch.cat((s.depth[chosen], s.depth.new_zeros(1)))[first_below]
    return torch.cat((image, depth[..., None]), -1)


def _render(
    splats: Splats, chosen: Tensor, box: tuple[int, int, int, int], median: bool
) -> Tensor:
    """`_composite` of what reaches the box, which is halved until the pairs fit into memory."""
    x0, y0, x1, y1 = box
    with torch.no_grad():
        u, v = splats.u[chosen], splats.v[chosen]
        radius_x, radius_y = splats.radius_x[chosen], splats.radius_y[chosen]
        reach = (u + radius_x >= x0) & (u - radius_x <= x1) & (v + radius_y >= y0)
        chosen = chosen[reach & (v - radius_y <= y1)]
    width, height = x1 - x0, y1 - y0
    if len(chosen) == 0:
        return splats.u.new_zeros((height, width, 6 if median else 5))
    if width * height * len(chosen) > PAIRS_AT_ONCE and width * height > 1:
        if width >= height:
            middle = (x0 + x1) // 2
            halves, axis = ((x0, y0, middle, y1), (middle, y0, x1, y1)), 1
        else:
            middle = (y0 + y1) // 2
            halves, axis = ((x0, y0, x1, middle), (x0, middle, x1, y1)), 0
        return torch.cat([_render(splats, chosen, half, median) for half in halves], axis)
    if torch.is_grad_enabled() and (splats.u.requires_grad or splats.color.requires_grad):
        return checkpoint(_composite, splats, chosen, box, median, use_reentrant=False)
    return _composite(splats, chosen, box, median)


def rasterize(
    gaussians: Gaussians,
    intrinsics: Intrinsics,
    T_camera_world: np.ndarray,
    background: Sequence[float],
    near: float,
    median_depth: bool = False,
) -> Rendering:
    """Render with every pixel-Gaussian pair written out; see `sharp_ros.rasterizer.rasterize`.

    Gradients flow to means, quats, scales, opacities and colors. float64 Gaussians are rendered
    in float64. Memory stays bounded: the image is composited piece by piece and, when gradients
    are asked for, computed again in the backward pass.
    """
    splats, skipped = _project(gaussians, intrinsics, T_camera_world, near)
    everything = torch.arange(len(splats.u), device=splats.u.device)
    box = (0, 0, intrinsics.width, intrinsics.height)
    image = _render(splats, everything, box, median_depth)
    color, depth, alpha = image[..., :3], image[..., 3], image[..., 4]
    color = color + (1 - alpha)[..., None] * color.new_tensor(background)
    depth = depth / alpha.clamp(min=EPSILON)
    median = image[..., 5] if median_depth else None
    return Rendering(srgb_from_linear(color), depth, alpha, skipped, median)
