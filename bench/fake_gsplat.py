"""A stand-in for gsplat on a CPU, which makes images of the lists that `plain_gsplat` makes.

Of what gsplat projects with there is plain torch (`_quat_scale_to_covar_preci`, `_world_to_cam`,
`_persp_proj`), but only its kernels make the lists of tiles quickly; they are made here.
"""

from __future__ import annotations

import sys
from types import ModuleType

from gsplat.cuda import _torch_impl as gsplat
from plain_gsplat import NERFACC, rasterize_to_indices_in_range, TILE
import torch


def install(monkeypatch):
    """Make `import gsplat` find the functions below; returns the module."""
    module = ModuleType('gsplat')
    module.rasterization = rasterization
    module.rasterize_to_indices_in_range = rasterize_to_indices_in_range
    monkeypatch.setitem(sys.modules, 'gsplat', module)
    monkeypatch.setitem(sys.modules, 'nerfacc', NERFACC)
    return module


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
