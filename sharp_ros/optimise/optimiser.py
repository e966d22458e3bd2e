"""A scene fitted to its images: render one, compare, move every Gaussian, again.

Kerbl et al. 2023 ("3D Gaussian Splatting for Real-Time Radiance Field Rendering") with what suits
a start from a map instead of sparse points: no reset of opacities, Gaussians are only ever split,
images come at half their size first. The loop knows no renderer: on the CPU it is our own, on CUDA
devices gsplat, and the same loop runs with the plain torch reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
import threading
import time

import cv2
import numpy as np
import torch
from torch import Tensor

from sharp_ros import se3
from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians
from sharp_ros.optimise.parameters import Parameters
from sharp_ros.optimise.settings import Settings
from sharp_ros.optimise.similarity import ssim
from sharp_ros.rasterizer import rasterize, Rendering
from sharp_ros.rasterizer.reference import drawable

_MIN_SIDE = 32  # pixels, below which an image is not halved
_LEAST_PIXELS = 1.0  # of the larger side of a splat; smaller ones show no detail when split
_FINAL_RATE = 0.01  # of the means, of that at the start


@dataclass(frozen=True)
class View:
    """An image from a known pose.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        intrinsics: of the image.
        T_world_camera: [4, 4] pose of its optical frame, in the frame of the Gaussians.
        unseen: [H, W] bool, pixels that show nothing of the scene; None: all do.
    """

    image: np.ndarray
    intrinsics: Intrinsics
    T_world_camera: np.ndarray
    unseen: np.ndarray | None = None

    @cached_property
    def half(self) -> View:
        """The same at half the size, or itself where it is small already."""
        height, width = self.image.shape[:2]
        if min(height, width) < 2 * _MIN_SIDE:
            return self
        size = (width // 2, height // 2)
        image = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        unseen = None
        if self.unseen is not None:  # a pixel that is half unseen is half wrong
            shares = cv2.resize(self.unseen.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            unseen = shares > 0
        return View(image, self.intrinsics.resized(*size), self.T_world_camera, unseen)


class Optimiser:
    """Owns the Gaussians of one run; `step` is one image, `run` as many as a time allows.

    Args:
        gaussians: to begin with; what cannot be drawn is left out.
        views: to fit them to, at least one.
        settings: of the run.
        device: of torch.
        render: as `sharp_ros.rasterizer.rasterize`.

    Attributes:
        iterations: so many images were taken so far.

    Raises:
        InputError: `no_views`, or `no_gaussians` if nothing can be drawn.
    """

    def __init__(
        self,
        gaussians: Gaussians,
        views: Sequence[View],
        settings: Settings | None = None,
        device: str = 'cpu',
        render: Callable[..., Rendering] = rasterize,
    ) -> None:
        if not views:
            raise InputError('there is no image with a pose to fit the Gaussians to', 'no_views')
        sound = gaussians.select(drawable(gaussians))
        if not len(sound):
            raise InputError('there is no Gaussian to begin with', 'no_gaussians')
        self._settings, self._device, self._render = settings or Settings(), device, render
        self._parameters = Parameters(sound, self._settings, device)
        self._most = round(self._settings.growth * len(sound))
        self._views, self._order = list(views), np.zeros(0, int)
        self._chance = np.random.default_rng(self._settings.seed)
        self._generator = torch.Generator().manual_seed(self._settings.seed)
        # logarithm of the gain, and offset
        self._exposure = torch.zeros(len(views), 2, 3, device=device, requires_grad=True)
        rate = self._settings.exposure_rate
        self._exposure_adam = torch.optim.Adam([self._exposure], lr=rate, fused=True)
        self.iterations = 0
        self._forget_gradients()

    @property
    def gaussians(self) -> Gaussians:
        """As they are now, on the CPU; later steps do not change what was returned."""
        with torch.no_grad():
            now = self._parameters.gaussians()
            quats = now.shapes[1]
            unit = quats / quats.norm(dim=1, keepdim=True)
            held = (now.means, unit, now.shapes[0], now.opacities, now.colors)
            means, quats, scales, opacities, colors = (t.detach().clone().cpu() for t in held)
            return Gaussians(means, quats, scales, opacities, colors)

    def run(
        self,
        seconds: float,
        show: Callable[[float], None] = lambda progress: None,
        stop: threading.Event | None = None,
        iterations: int | None = None,
    ) -> None:
        """Fit for a time, or, if that ends earlier, for a number of iterations.

        Args:
            seconds: of wall time.
            show: called after each step with the share of the run that is done.
            stop: ends it after the step at hand.
            iterations: at most so many.
        """
        begin, before = time.perf_counter(), self.iterations
        progress = 0.0
        while progress < 1 and not (stop is not None and stop.is_set()):
            self.step(progress)
            progress = (time.perf_counter() - begin) / seconds
            if iterations is not None:
                progress = max(progress, (self.iterations - before) / iterations)
            show(min(progress, 1.0))

    def step(self, progress: float) -> float:
        """Fit to one image; returns the loss.

        Args:
            progress: share of the run that is done, 0..1.
        """
        s = self._settings
        index = self._next()
        view = self._views[index]
        if progress < s.half_size_until:
            view = view.half
        gaussians = self._parameters.gaussians()
        T_camera_world = se3.inverse(view.T_world_camera)
        rendering = self._render(gaussians, view.intrinsics, T_camera_world)
        gain, offset = self._exposure[index].unbind(0)
        image = rendering.color * gain.exp() + offset
        target = torch.from_numpy(view.image).to(self._device).float() / 255
        if view.unseen is not None:
            unseen = torch.from_numpy(view.unseen).to(self._device)
            image = torch.where(unseen[..., None], target, image)
        loss = (1 - s.ssim_weight) * (image - target).abs().mean()
        loss = loss + s.ssim_weight * (1 - ssim(image, target))
        loss.backward()
        self._note_gradients(view.intrinsics, T_camera_world)
        self._parameters.step(s.means_rate * _FINAL_RATE ** min(max(progress, 0.0), 1.0))
        self._exposure_adam.step()
        self._exposure_adam.zero_grad()
        with torch.no_grad():  # else all images and all colours could drift apart together
            self._exposure -= self._exposure.mean(0)
        self.iterations += 1
        if self.iterations % s.grow_every == 0 and s.grow_from <= progress < s.grow_until:
            self._grow()
        return float(loss.detach())

    def _next(self) -> int:
        """An image; all of them before any comes again."""
        if not len(self._order):
            self._order = self._chance.permutation(len(self._views))
        index, self._order = int(self._order[0]), self._order[1:]
        return index

    def _forget_gradients(self) -> None:
        n = len(self._parameters)
        self._gradient = torch.zeros(n, device=self._device)
        self._seen = torch.zeros(n, device=self._device)
        self._pixels = torch.zeros(n, device=self._device)

    @torch.no_grad()
    def _note_gradients(self, intrinsics: Intrinsics, T_camera_world: np.ndarray) -> None:
        """Add what the loss would gain by moving each Gaussian in the image, half of it = 1.

        Taken from the gradient of the mean, whatever the renderer: of a move in depth it has
        little.
        """
        v = self._parameters.values
        gradient = v['means'].grad
        assert gradient is not None
        row = torch.from_numpy(T_camera_world[2]).to(v['means'])
        depth = v['means'] @ row[:3] + row[3]
        length = gradient.norm(dim=1)
        self._gradient += length * depth.abs() / intrinsics.fx * (intrinsics.width / 2)
        seen = length > 0
        self._seen += seen
        size = v['scales'].amax(1).exp() * intrinsics.fx / depth.abs().clamp(min=1e-3)
        self._pixels = torch.where(seen, torch.maximum(self._pixels, size), self._pixels)

    @torch.no_grad()
    def _grow(self) -> None:
        """Split what the images pull at, remove what shows nothing."""
        s, n = self._settings, len(self._parameters)
        mean = self._gradient / self._seen.clamp(min=1)
        mean[self._pixels < _LEAST_PIXELS] = 0
        room = max(0, min(round(s.grow_share * n), self._most - n))
        if room:
            least = max(s.grow_gradient, float(mean.topk(min(room, n)).values[-1]))
            self._parameters.split(mean >= least, self._generator)
        v: dict[str, Tensor] = self._parameters.values
        least_logit = float(torch.tensor(s.least_opacity).logit())
        finite = torch.isfinite(v['means']).all(1) & torch.isfinite(v['scales']).all(1)
        kept = (v['opacities'] >= least_logit) & finite
        if not bool(kept.all()) and bool(kept.any()):
            self._parameters.keep(kept)
        self._forget_gradients()
