"""Training images drawn where they are needed: scenes of `analytic` as cameras take them.

A batch is a function of its key alone, whatever was drawn before, and never leaves the device.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sharp_ros.camera import MIN_HEIGHT
from sharp_ros.procedural import analytic
from sharp_ros.procedural.analytic import Cameras, Draw
from sharp_ros.training.dataset import Batch, GEOMETRY_UNKNOWN, GRAVITY_NOISE, HEIGHT_NOISE

VALIDATION_KEY = 20_301  # seed of the images to measure on: the same for every run
_AT_A_TIME = 16  # validation images: a CPU has little memory
_BLUR = 5  # pixels to each side that a lens spreads light over
_GREY = (0.299, 0.587, 0.114)  # weights of the colours in the luma of JPEG


@torch.no_grad()
def draw_batch(
    key: Sequence[int],
    count: int,
    height: int,
    width: int,
    device: torch.device,
    second_view: bool = False,
    damaged: bool = True,
) -> Batch:
    """Samples of `count` new scenes, with the fields of those of `Shards.batch`.

    Args:
        key: of the random numbers; the same ones come again only on the same kind of device.
        count: of samples.
        height: of the images, pixels; a multiple of 8.
        width: of the images, pixels; a multiple of 8.
        device: that draws, and where the batch is.
        second_view: whether to draw another view of each scene, too.
        damaged: as by a camera, with gravity and height as a robot knows them; else exact.
    """
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator(device).manual_seed(seed)
    scenes = analytic.sample_scenes(count, generator)
    cameras = analytic.sample_cameras(scenes, width, height, generator)
    images = analytic.render(scenes, cameras, width, height)
    gain = analytic.metered(images.light)
    clean = analytic.developed(images.light, gain)
    draw = Draw(generator)
    rgb = photographed(clean, draw) if damaged else clean
    geometry = _geometry(cameras, draw if damaged else None)
    batch = Batch(rgb, cameras.intrinsics, images.depth, images.second_depth, geometry)
    if not second_view:
        return batch
    others = analytic.moved(cameras, generator)
    light = analytic.render(scenes, others, width, height).light
    T_2_1 = torch.linalg.inv(others.T_world_camera) @ cameras.T_world_camera
    # one exposure for both, so that a surface looks the same in either
    return batch._replace(
        clean=clean,
        rgb2=analytic.developed(light, gain),
        intrinsics2=others.intrinsics,
        T_2_1=T_2_1,
    )


class DrawnImages:
    """Images to measure on, drawn once; undamaged and with exact geometry.

    Args:
        count: of images.
        height: of the images, pixels; a multiple of 8.
        width: of the images, pixels; a multiple of 8.
        device: that draws; they are kept in the memory of the CPU.
    """

    def __init__(self, count: int, height: int, width: int, device: torch.device) -> None:
        self._parts = [
            draw_batch(
                (VALIDATION_KEY, start),
                min(_AT_A_TIME, count - start),
                height,
                width,
                device,
                damaged=False,
            )
            for start in range(0, count, _AT_A_TIME)
        ]
        columns = zip(*(part[:5] for part in self._parts), strict=True)
        self._whole = Batch(*(torch.cat(column).cpu() for column in columns))

    def __len__(self) -> int:
        return len(self._whole.rgb)

    def batch(self, ids: Sequence[int], height: int, width: int, rng: None) -> Batch:
        """As `Shards.batch`, at the size that was drawn."""
        assert self._whole.depth.shape[1:] == (height, width)
        columns = (column for column in self._whole if column is not None)
        return Batch(*(column[list(ids)] for column in columns))


def _geometry(cameras: Cameras, draw: Draw | None) -> Tensor:  # -> [B, 5]
    """What is known of gravity and floor, as `NanoNetwork.forward` takes it; `draw` blurs it."""
    up, height = cameras.T_world_camera[:, 2, :3], cameras.T_world_camera[:, 2, 3:]
    known = height > MIN_HEIGHT
    if draw is not None:
        up = up + draw.normal(0.0, GRAVITY_NOISE, len(up), 3)
        height = height * draw.normal(0.0, HEIGHT_NOISE, len(up), 1).exp()
        known = known & ~draw.chance(GEOMETRY_UNKNOWN, len(up), 1)
    geometry = torch.cat([F.normalize(up, dim=-1), height.log(), torch.ones_like(height)], -1)
    return torch.where(known, geometry, torch.zeros_like(geometry))


# --- the camera ---------------------------------------------------------------------------------


def photographed(x: Tensor, draw: Draw) -> Tensor:  # [B, 3, H, W] -> [B, 3, H, W]
    """What cameras make of clean pictures from 0 to 1, each in its own way.

    As `photograph.photograph`: lens, exposure, sensor and processing follow each other. Their
    strength is drawn without regard to zoom and distance, so that sharpness reveals no metres.
    """
    x = _shaded(_exposed(_blurred(x, draw), draw), draw)
    x = _quantised(_noisy(x, draw))
    return _quantised(_compressed(_sharpened(x, draw), draw))


def _some(draw: Draw, share: float, changed: Tensor, x: Tensor) -> Tensor:
    """The change in so many of the images."""
    return torch.where(draw.chance(share, len(x), 1, 1, 1), changed, x)


def _quantised(x: Tensor) -> Tensor:
    return (x.clamp(0.0, 1.0) * 255).round() / 255


def _filtered(x: Tensor, kernels: Tensor) -> Tensor:  # [B, C, H, W], [B, K, K]
    """Each image convolved with its own kernel."""
    batch, colours = x.shape[:2]
    edge = kernels.shape[-1] // 2
    padded = F.pad(x, (edge, edge, edge, edge), mode='replicate').flatten(0, 1)[None]
    weight = kernels.repeat_interleave(colours, 0)[:, None]
    return F.conv2d(padded, weight, groups=batch * colours)[0].reshape(x.shape)


def _gaussians(along: Tensor, across: Tensor, angle: Tensor) -> Tensor:  # [B] -> [B, K, K]
    """Kernels with these standard deviations in pixels, turned."""
    side = torch.arange(-_BLUR, _BLUR + 1, device=along.device).float()
    y, x = torch.meshgrid(side, side, indexing='ij')
    c, s, along, across = (v[:, None, None] for v in (angle.cos(), angle.sin(), along, across))
    kernels = torch.exp(-(((c * x + s * y) / along) ** 2 + ((c * y - s * x) / across) ** 2) / 2)
    return kernels / kernels.sum((1, 2), keepdim=True)


def _blurred(x: Tensor, draw: Draw) -> Tensor:
    """Defocus, a coarse sensor, and in a third of these images motion."""
    n = len(x)
    along = draw.uniform(0.3, 2.4, n)
    across = torch.where(draw.chance(0.3, n), draw.uniform(0.2, 0.4, n), along)
    angle = draw.uniform(0.0, math.pi, n)
    return _some(draw, 0.45, _filtered(x, _gaussians(along, across, angle)), x)


def _exposed(x: Tensor, draw: Draw) -> Tensor:
    """Tone curve, exposure, white balance, saturation, hue and contrast."""
    n = len(x)
    gain = draw.normal(-0.04, 0.16, n, 1, 1, 1) + draw.normal(0.0, 0.07, n, 3, 1, 1)
    bright = draw.chance(0.15, n, 1, 1, 1) * draw.uniform(0.05, 0.4, n, 1, 1, 1)
    y = (x + 1e-4) ** draw.normal(0.0, 0.25, n, 1, 1, 1).exp() * gain.exp()
    dark = draw.chance(0.12, n, 1, 1, 1) * draw.uniform(0.1, 0.65, n, 1, 1, 1)  # to 3 stops
    y = (y * (1 + bright) * (1 - dark)).clamp(max=1.0)  # lights and windows clip
    mix = torch.eye(3, device=x.device)
    mix = mix + draw.chance(0.2, n, 1, 1) * draw.normal(0.0, 0.3, n, 3, 3)
    mix = mix / mix.sum(-1, keepdim=True).clamp(min=0.3)
    y = (mix @ y.flatten(2)).reshape(x.shape)
    kind = draw.uniform(0.0, 1.0, n, 1, 1, 1)  # pale cameras, and all others; of them grey ones
    saturation = torch.where(
        kind < 0.35, draw.uniform(0.0, 1.0, n, 1, 1, 1), draw.uniform(0.7, 1.6, n, 1, 1, 1)
    )
    grey = y.mean(1, keepdim=True)
    y = grey + (y - grey) * saturation * (kind > 0.06)
    mean = y.mean((1, 2, 3), keepdim=True)
    contrast = draw.normal(0.0, 0.16, n, 1, 1, 1).exp()
    y = mean + (y - mean) * contrast + draw.normal(-0.01, 0.05, n, 1, 1, 1)
    return _some(draw, 0.9, y, x)


def _shaded(x: Tensor, draw: Draw) -> Tensor:
    """Vignetting, and a soft-edged band of light or shadow."""
    n, _, rows, columns = x.shape
    v = (torch.arange(rows, device=x.device) / rows - 0.5)[:, None]
    u = (torch.arange(columns, device=x.device) / columns - 0.5)[None]
    x = _some(draw, 0.3, x * (1 - draw.uniform(0.0, 1.2, n, 1, 1, 1) * (u * u + v * v)), x)
    angle = draw.uniform(0.0, 2 * math.pi, n, 1, 1, 1)
    side = u * angle.cos() + v * angle.sin() - draw.uniform(-0.3, 0.3, n, 1, 1, 1)
    light = torch.sigmoid(side * draw.uniform(5.0, 60.0, n, 1, 1, 1))
    return _some(draw, 0.15, x * (1 + light * draw.uniform(-0.5, 0.6, n, 1, 1, 1)), x)


def _noisy(x: Tensor, draw: Draw) -> Tensor:
    """Noise of photons, more where it is bright, or of the sensor; fine, or coarse."""
    n = len(x)
    noise = draw.normal(0.0, 1.0, *x.shape)
    width = torch.full((n,), 0.8, device=x.device)
    coarse = _gaussians(width, width, draw.uniform(0.0, 1.0, n))
    noise = _some(draw, 0.3, 2 * _filtered(noise, coarse), noise)
    noise = _some(draw, 0.5, noise * (0.4 + x.clamp(min=0.0).sqrt()), noise)
    return _some(draw, 0.6, x + noise * draw.uniform(0.0, 0.05, n, 1, 1, 1), x)


def _sharpened(x: Tensor, draw: Draw) -> Tensor:
    n = len(x)
    width = draw.uniform(0.6, 1.6, n)
    soft = _filtered(x, _gaussians(width, width, width))
    return _some(draw, 0.3, x + (x - soft) * draw.uniform(0.3, 1.8, n, 1, 1, 1), x).clamp(0.0, 1.0)


def _compressed(x: Tensor, draw: Draw) -> Tensor:
    """Blocks of 8 pixels whose cosine coefficients are rounded, as of JPEG (Wallace, 1991).

    Colour is rounded more coarsely than grey; the steps grow with the frequency.
    """
    batch, _, height, width = x.shape
    k = torch.arange(8.0, device=x.device)
    cosines = torch.cos(math.pi / 8 * k[:, None] * (k + 0.5)) / 2
    cosines[0] /= math.sqrt(2)  # orthonormal: [frequency, place]
    grey = torch.einsum('c,bchw->bhw', x.new_tensor(_GREY), x)[:, None]
    planes = torch.cat([grey, x[:, 2:] - grey, x[:, :1] - grey], 1)
    blocks = planes.reshape(batch, 3, height // 8, 8, width // 8, 8)
    step = draw.log_uniform(0.01, 0.12, batch, 1, 1, 1) * (1 + (k[:, None] + k) / 2)
    step = step * x.new_tensor([1.0, 2.0, 2.0])[:, None, None]
    step = step[:, :, None, :, None, :]  # [B, 3, 1, 8, 1, 8]
    frequencies = torch.einsum('fi,bcyixj,gj->bcyfxg', cosines, blocks, cosines)
    frequencies = (frequencies / step).round() * step
    blocks = torch.einsum('fi,bcyfxg,gj->bcyixj', cosines, frequencies, cosines)
    grey, blue, red = blocks.reshape(x.shape).split(1, 1)
    green = (grey * (1 - _GREY[0] - _GREY[2]) - blue * _GREY[2] - red * _GREY[0]) / _GREY[1]
    return _some(draw, 0.4, torch.cat([red + grey, green, blue + grey], 1), x)
