"""gsplat's own plain torch code on a CPU, and in between what its kernels alone can do.

gsplat projects and composites (`accumulate`) in plain torch too, but only its kernels say which
pixel a Gaussian reaches. That is written here in plain torch, with the limits of the kernels:
alpha below 1/255 is nothing, and a pixel ends before the Gaussian that would let no more than
1e-4 of the light through. Used by `rasterizer.py` beside it and by the tests of the rasterizers.
"""

from __future__ import annotations

import sys
import time
from types import ModuleType
from unittest import mock

from gsplat.cuda import _torch_impl as gsplat
import torch

TILE = 16


def _weights_of_rays(alphas, *, ray_indices, n_rays):
    """[M] weight of each sample and transmittance before it; rays one after the other."""
    logs = torch.log1p(-alphas.double())  # whose sum runs on from ray to ray
    before = logs.cumsum(0) - logs
    first = torch.searchsorted(ray_indices, torch.arange(n_rays, device=ray_indices.device))
    start = torch.cat((before, before.new_zeros(1)))[first]
    transmittance = torch.exp(before - start[ray_indices]).to(alphas.dtype)
    return alphas * transmittance, transmittance


def _sum_along_rays(weights, values, *, ray_indices, n_rays):
    terms = weights[:, None] if values is None else weights[:, None] * values
    return terms.new_zeros((n_rays, terms.shape[1])).index_add(0, ray_indices, terms)


NERFACC = ModuleType('nerfacc')  # what `accumulate` needs of it, whose own needs CUDA
vars(NERFACC).update(
    render_weight_from_alpha=_weights_of_rays, accumulate_along_rays=_sum_along_rays
)


def rendered_plainly(g, k, T, near=0.05):
    """From gsplat, its plain torch code from Gaussians to an image; pixels do not end early.

    Returns [H, W, 4] linear colour and depth, summed with their weights, [H, W] alpha, and the
    seconds it took without finding out which Gaussian reaches which pixel.
    """
    size, start = (k.width, k.height), time.perf_counter()
    K = torch.tensor([[[k.fx, 0, k.cx + 0.5], [0, k.fy, k.cy + 0.5], [0, 0, 1]]])
    covariances, _ = gsplat._quat_scale_to_covar_preci(g.quats, g.scales, compute_preci=False)
    radii, means2d, depths, conics, _ = gsplat._fully_fused_projection(
        g.means,
        covariances,
        torch.tensor(T, dtype=torch.float32)[None],
        K,
        *size,
        eps2d=0.0,
        near_plane=near,
    )
    tiles = [-(-side // TILE) for side in size]
    _, isect_ids, flatten_ids = gsplat._isect_tiles(means2d, radii, depths, TILE, *tiles)
    offsets = gsplat._isect_offset_encode(isect_ids, 1, *tiles)
    seconds = time.perf_counter() - start

    splats, light = (means2d, conics, g.opacities[None]), torch.full((1, *size[::-1]), 1e30)
    pairs = rasterize_to_indices_in_range(
        0, 1 << 30, light, *splats, *size, TILE, offsets.long(), flatten_ids.long()
    )
    start = time.perf_counter()
    values = torch.cat((g.colors[None], depths[..., None]), -1)
    with mock.patch.dict(sys.modules, nerfacc=NERFACC):
        image, alpha = gsplat.accumulate(*splats, values, *pairs, *size)
    return image[0], alpha[0, ..., 0], seconds + time.perf_counter() - start


@torch.no_grad()
def rasterize_to_indices_in_range(
    range_start,
    range_end,
    transmittances,
    means2d,
    conics,
    opacities,
    width,
    height,
    tile_size,
    isect_offsets,
    flatten_ids,
):
    """Gaussian, pixel and image of every pair, by pixel and nearest first.

    Of the list of every tile, `range_start` to `range_end` (exclusive) times `tile_size ** 2`.
    """
    assert tile_size == TILE
    assert transmittances.shape == (1, height, width)
    across = isect_offsets.shape[-1]
    position = torch.arange(len(flatten_ids))
    tile = torch.searchsorted(isect_offsets.flatten(), position, right=True) - 1
    batch = (position - isect_offsets.flatten()[tile]) // TILE**2
    entry = position[(batch >= range_start) & (batch < range_end)]
    found = []
    for part in entry.split(1 << 9):  # one empty part where there is no entry
        y = (tile[part] // across * TILE)[:, None] + torch.arange(TILE**2) // TILE
        x = (tile[part] % across * TILE)[:, None] + torch.arange(TILE**2) % TILE
        ids = flatten_ids[part, None]
        dx, dy = x + 0.5 - means2d[0, ids, 0], y + 0.5 - means2d[0, ids, 1]
        a, b, c = conics[0, ids].unbind(-1)
        sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
        alpha = (opacities[0, ids] * torch.exp(-sigma)).clamp(max=0.999)
        hit = (alpha >= 1 / 255) & (sigma >= 0) & (x < width) & (y < height)
        found.append(((y * width + x)[hit], part[:, None].expand_as(hit)[hit], alpha[hit]))
    pixel, entry, alpha = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = (pixel * len(flatten_ids) + entry).argsort()
    pixel, entry, alpha = pixel[order], entry[order], alpha[order].double()
    _, before = _weights_of_rays(alpha, ray_indices=pixel, n_rays=width * height)
    left = transmittances.flatten()[pixel] * before * (1 - alpha)
    goes_on = left > 1e-4
    return flatten_ids[entry[goes_on]], pixel[goes_on], torch.zeros_like(pixel[goes_on])
