"""Views of a scene from its images: how near Gaussians come to images that were not used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from sharp_ros import se3
from sharp_ros.camera import Frame
from sharp_ros.evaluation.metrics import image_metrics
from sharp_ros.gaussians import Gaussians
from sharp_ros.optimise import View
from sharp_ros.rasterizer import rasterize

_METRICS = ('psnr', 'ssim')


def views_of_frames(frames: Iterable[Frame]) -> Iterator[View]:
    """Images whose pose is known."""
    for frame in frames:
        if frame.T_world_camera is not None:
            yield View(frame.image, frame.intrinsics, frame.T_world_camera, frame.unseen)


def rendered_metrics(gaussians: Gaussians, views: Sequence[View]) -> dict[str, Any]:
    """Means of `psnr` and `ssim` over views, at least one, and over all they show."""
    rows = []
    for view in views:
        image = rasterize(gaussians, view.intrinsics, se3.inverse(view.T_world_camera))
        seen = np.ones(view.image.shape[:2], bool) if view.unseen is None else ~view.unseen
        rows.append(image_metrics(image.arrays.color, view.image, seen))
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in _METRICS}
