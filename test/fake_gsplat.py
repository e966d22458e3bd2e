"""gsplat on a CPU: its own plain torch functions, and in between what its kernels alone can do.

gsplat projects (`_quat_scale_to_covar_preci`, `_world_to_cam`, `_persp_proj`) and composites
(`accumulate`) in plain torch too, but only its kernels make the lists of tiles quickly and say
which pixel a Gaussian reaches. That is written here in plain torch, with the limits of the
kernels: alpha below 1/255 is nothing, and a pixel ends before the Gaussian that would let no more
than 1e-4 of the light through.
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
NERFACC.render_weight_from_alpha = _weights_of_rays
NERFACC.accumulate_along_rays = _sum_along_rays


def install(monkeypatch):
    """Make `import gsplat` find the functions below; returns the module."""
    module = ModuleType('gsplat')
    module.rasterization = rasterization
    module.rasterize_to_indices_in_range = rasterize_to_indices_in_range
    monkeypatch.setitem(sys.modules, 'gsplat', module)
    monkeypatch.setitem(sys.modules, 'nerfacc', NERFACC)
    return module


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


def project(means, quats, scales, opacities, viewmats, Ks, width, height, near, far=1e10):
    """Return radii [1, N, 2], means2d [1, N, 2], depths [1, N], conics [1, N, 3] as of the kernel.

    gsplat's own torch version of this step takes no opacities and no determinant below 1e-10.
    """
    covariances, _ = gsplat._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    in_camera, covariances = gsplat._world_to_cam(means, covariances, viewmats)
    means2d, covariances = gsplat._persp_proj(in_camera, covariances, Ks, width, height)
    depths = in_camera[..., 2]
    a, b, c = covariances[..., 0, 0], covariances[..., 0, 1], covariances[..., 1, 1]
    det = a * c - b * b
    conics = torch.stack((c / det, -b / det, a / det), -1)
    with torch.no_grad():
        reach = (2 * torch.log(opacities * 255).clamp(min=0)).sqrt().clamp(max=3.33)
        radii = torch.ceil(reach[None, :, None] * torch.stack((a, c), -1).sqrt())
        seen = (depths >= near) & (depths <= far) & (det > 0) & (opacities >= 1 / 255)
        size = torch.tensor((width, height))
        seen &= ((means2d + radii > 0) & (means2d - radii < size)).all(-1)
        radii = torch.where(seen[..., None], radii, 0)
    return radii, means2d, depths, conics


@torch.no_grad()
def tile_lists(means2d, radii, depths, width, height):
    """Offsets [1, rows, columns] into a list of Gaussians, tile by tile, nearest first."""
    across, down = -(-width // TILE), -(-height // TILE)
    limits = torch.tensor((across, down))
    ids = ((radii[0] > 0).all(-1)).nonzero()[:, 0]
    low, high = means2d[0, ids] - radii[0, ids], means2d[0, ids] + radii[0, ids]
    low = (low / TILE).floor().clamp(min=0).minimum(limits).long()
    high = (high / TILE).ceil().clamp(min=0).minimum(limits).long()
    wide, tall = (high - low).unbind(-1)
    counts = wide * tall
    entry = torch.arange(len(ids)).repeat_interleave(counts)
    place = torch.arange(len(entry)) - (counts.cumsum(0) - counts)[entry]
    tile = (low[entry, 1] + place // wide[entry]) * across + low[entry, 0] + place % wide[entry]
    rank = torch.empty_like(ids)
    rank[depths[0, ids].sort(stable=True).indices] = torch.arange(len(ids))
    order = (tile * len(ids) + rank[entry]).argsort()
    offsets = torch.searchsorted(tile[order], torch.arange(across * down))
    return offsets.view(1, down, across), ids[entry[order]]


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


def rasterization(
    means,
    quats,
    scales,
    opacities,
    colors,
    viewmats,
    Ks,
    width,
    height,
    *,
    near_plane,
    far_plane,
    eps2d,
    packed,
    render_mode,
):
    """The call that `sharp_ros.rasterizer.cuda` makes, and no other."""
    assert (eps2d, packed, render_mode) == (0.0, False, 'RGB+D')
    shapes = [tuple(t.shape[1:]) for t in (means, quats, scales, opacities, colors, viewmats, Ks)]
    assert shapes == [(3,), (4,), (3,), (), (3,), (4, 4), (3, 3)]
    assert all(t.dtype == torch.float32 for t in (means, quats, scales, opacities, colors, Ks))
    assert len(means) > 0
    view = (viewmats, Ks, width, height, near_plane, far_plane)
    seen = project(means, quats, scales, opacities, *view)[0][0].amin(1, keepdim=True) > 0
    shown = [torch.where(seen, part, part.detach()) for part in (means, quats, scales)]
    radii, means2d, depths, conics = project(*shown, opacities, *view)
    offsets, flatten_ids = tile_lists(means2d, radii, depths, width, height)
    meta = {
        'means2d': means2d,
        'depths': depths,
        'conics': conics,
        'opacities': opacities[None],
        'tile_size': TILE,
        'isect_offsets': offsets,
        'flatten_ids': flatten_ids,
    }
    splats = (means2d, conics, opacities[None])
    pairs = rasterize_to_indices_in_range(
        0,
        1 << 30,
        torch.ones(1, height, width),
        *splats,
        width,
        height,
        TILE,
        offsets,
        flatten_ids,
    )
    values = torch.cat((colors[None], depths[..., None]), -1)
    image, alpha = gsplat.accumulate(*splats, values, *pairs, width, height)
    return image, alpha, meta
