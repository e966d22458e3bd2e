"""Gaussian splatting on an NVIDIA GPU, by the kernels of gsplat.

gsplat compiles them with nvcc when it is first used. Where it is not installed or that fails, the
cause is logged once and the numba renderer of `cpu.py` draws instead: the plain torch one would
launch a dozen operators for every box of pixels, thousands of them for an image.

gsplat follows the same formulas as `reference.py`, with three differences. It works in float32
throughout, which does not hold the shape of a needle 3000 times longer than wide, so nothing
thinner is passed on. It leaves a pixel before the Gaussian that would let less than 1e-4 of the
light through: what is lost is that Gaussian, at most a tenth of the pixel's light where two
Gaussians of opacity 1 meet and 1e-4 / (1 - opacity) elsewhere. And it draws opacities above 1 no
further than 3.33 standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
import logging
from threading import Lock
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from sharp_ros.camera import Intrinsics
from sharp_ros.gaussians import Gaussians, srgb_from_linear
from sharp_ros.rasterizer import reference
from sharp_ros.rasterizer.reference import ALPHA_MAX, EPSILON, MEDIAN, Rendering

ASPECT_MAX = 3e3  # of a Gaussian; float32 loses the determinant of a longer one
SIGMA_MAX = 1e8  # px; beyond it that determinant overflows, and gsplat would fill whole tiles
FAR = 1e10  # m; float32 still holds its square
_PIXELS_AT_ONCE = 1 << 17  # whose lists of Gaussians are in memory while a median depth is found
_ROUNDING = 1e-5  # between two ways to sum up how much of a pixel is covered
_loading = Lock()


def backend(device: str = 'cuda') -> str:
    """What draws on such a device: 'gsplat', or 'numba (gsplat: CAUSE)'.

    The first call on a machine compiles gsplat, which takes minutes.
    """
    _, cause = _gsplat(device)
    return f'numba (gsplat: {cause})' if cause else 'gsplat'


def rasterize(
    gaussians: Gaussians,
    intrinsics: Intrinsics,
    T_camera_world: np.ndarray,
    background: Sequence[float],
    near: float,
    median_depth: bool = False,
) -> Rendering:
    """Render with gsplat; see `sharp_ros.rasterizer.rasterize`.

    Gradients flow to means, quats, scales, opacities and colors. `reference.py` renders what
    gsplat cannot: float64, and gradients where gsplat does not work.
    """
    view = (intrinsics, T_camera_world, background, near, median_depth)
    device = gaussians.means.device
    if gaussians.means.dtype == torch.float64 or len(gaussians) == 0:  # of none it divides by 0
        return reference.rasterize(gaussians, *view)
    gsplat, _ = _gsplat(device.type)
    if gsplat is not None:
        return _render(gsplat, gaussians, *view)
    tensors = (gaussians.means, *gaussians.shapes, gaussians.opacities, gaussians.colors)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return reference.rasterize(gaussians, *view)
    from sharp_ros.rasterizer import cpu

    there = cpu.rasterize(gaussians.to('cpu'), *view)
    color, depth, alpha, skipped = (
        part.to(device) for part in (there.color, there.depth, there.alpha, there.skipped)
    )
    median = None if there.median_depth is None else there.median_depth.to(device)
    return Rendering(color, depth, alpha, skipped, median)


def _gsplat(device: str) -> tuple[ModuleType | None, str]:
    """The module once it has drawn something, else None and why; found out once per process."""
    with _loading:  # two threads must not compile it twice
        return _try_gsplat(device)


@cache
def _try_gsplat(device: str) -> tuple[ModuleType | None, str]:
    try:
        import gsplat

        dot = torch.tensor([[0, 0, 1, 1, 0, 0, 0, 0.1, 0.1, 0.1, 0.9, 1, 1, 1]], device=device)
        means, quats, scales, opacities, colors = dot.split((3, 4, 3, 1, 3), 1)
        scene = Gaussians(means, quats, scales, opacities[:, 0], colors)
        camera = Intrinsics(8.0, 8.0, 7.5, 7.5, 16, 16)
        _render(gsplat, scene, camera, np.eye(4), (0.0, 0.0, 0.0), 0.05, True).alpha.sum().item()
    except Exception as error:  # a compiler, a linker or a driver may raise anything
        cause = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
        if isinstance(error, AttributeError) and 'NoneType' in cause:
            cause = 'it found no nvcc to compile its kernels with'
        logging.getLogger(__name__).warning(
            'Gaussians are rendered on the CPU, since gsplat does not work (%s). For the GPU: '
            'pip install gsplat, with nvcc of CUDA %s on the PATH, then restart',
            cause,
            torch.version.cuda,
        )
        return None, cause
    return gsplat, ''


def _render(
    gsplat: ModuleType,
    gaussians: Gaussians,
    intrinsics: Intrinsics,
    T: np.ndarray,
    background: Sequence[float],
    near: float,
    median_depth: bool,
) -> Rendering:
    """Nothing here waits for the device, gsplat itself does once."""
    g, k, (scales, quats) = gaussians, intrinsics, gaussians.shapes
    sound = reference.drawable(g)
    with torch.no_grad():
        size = scales.amax(1)
        z = g.means @ g.means.new_tensor(T[2, :3]) + float(T[2, 3])
        fits = sound & (size * max(k.fx, k.fy) <= SIGMA_MAX * z) & (z <= FAR)
        # gsplat squares the quaternion; what one of length 1e20 means is the same at length 1
        length = quats.abs().amax(1, keepdim=True)
    row = fits[:, None]  # a copy without the unsound would have to wait for their number
    upright = quats.new_tensor((1.0, 0.0, 0.0, 0.0))
    camera = (k.fx, 0.0, k.cx + 0.5, 0.0, k.fy, k.cy + 0.5, 0.0, 0.0, 1.0)
    image, alpha, meta = gsplat.rasterization(
        torch.where(row, g.means, 0).float(),
        torch.where(row, quats / torch.where(row, length, 1), upright).float(),
        torch.where(row, scales.maximum(size[:, None] / ASPECT_MAX), 1).float(),
        torch.where(fits, g.opacities, 0).float(),
        torch.where(row, g.colors, 0).float(),
        g.means.new_tensor(T, dtype=torch.float32)[None],
        g.means.new_tensor(camera, dtype=torch.float32).view(1, 3, 3),
        k.width,
        k.height,
        near_plane=near,
        far_plane=FAR,
        eps2d=0.0,
        packed=False,
        render_mode='RGB+D',
    )
    image, alpha = image[0], alpha[0, ..., 0]
    color = image[..., :3] + (1 - alpha)[..., None] * image.new_tensor(background)
    depth = image[..., 3] / alpha.clamp(min=EPSILON)
    median = _median_depth(gsplat, meta, alpha) if median_depth else None
    return Rendering(srgb_from_linear(color), depth, alpha, (~sound).sum(), median)


def _median_depth(gsplat: ModuleType, meta: dict, alpha: Tensor) -> Tensor:  # [H, W] -> [H, W]
    """Depth of the Gaussian behind which less than half of the light gets through."""
    chosen = _median_gaussian(gsplat, meta, alpha.detach()).view(alpha.shape)
    return torch.where(chosen >= 0, meta['depths'][0][chosen.clamp(min=0)], 0)


@torch.no_grad()
def _median_gaussian(gsplat: ModuleType, meta: dict, alpha: Tensor) -> Tensor:  # [H, W] -> [H * W]
    """Index of that Gaussian, -1 where there is none.

    gsplat lists which Gaussians reach which pixels, one stretch of the lists of all tiles per
    round. Only pixels that have yet to cross are asked for, and not too many at a time.
    """
    height, width = alpha.shape
    splats = (meta['means2d'], meta['conics'], meta['opacities'])
    means2d, conics, opacities = (part[0] for part in splats)
    tiles = (width, height, meta['tile_size'], meta['isect_offsets'], meta['flatten_ids'])
    covered = alpha.flatten()
    left, chosen = torch.ones_like(covered), torch.full_like(covered, -1, dtype=torch.int64)
    for step in range(-(-len(meta['flatten_ids']) // meta['tile_size'] ** 2)):
        unfinished = (covered > 1 - MEDIAN - _ROUNDING) & (left >= MEDIAN)
        places = unfinished.nonzero()[:, 0]
        if not len(places):
            break
        for pixels in places.split(_PIXELS_AT_ONCE):
            asked = torch.zeros_like(left)  # where no light is left, gsplat lists nothing
            asked[pixels] = left[pixels]
            ids, at, _ = gsplat.rasterize_to_indices_in_range(
                step, step + 1, asked.view(1, height, width), *splats, *tiles
            )
            dx, dy = (torch.stack((at % width, at // width), -1) + 0.5 - means2d[ids]).unbind(-1)
            a, b, c = conics[ids].unbind(-1)
            exponent = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            covers = (opacities[ids] * torch.exp(-exponent)).clamp(max=ALPHA_MAX)
            # pairs come pixel by pixel, nearest first, so that one running sum serves them all
            logs = torch.log1p(-covers.double()).cumsum(0)
            logs = torch.cat((logs.new_zeros(1), logs))
            before = logs[torch.searchsorted(at, pixels)]
            behind = left[at] * torch.exp(logs[1:] - before[torch.searchsorted(pixels, at)])
            crossed = behind < MEDIAN
            first = crossed.clone()
            first[1:] &= ~(crossed[:-1] & (at[1:] == at[:-1]))
            chosen[at[first]] = ids[first]
            after = logs[torch.searchsorted(at, pixels, right=True)]
            left[pixels] *= torch.exp(after - before).float()
    return chosen
