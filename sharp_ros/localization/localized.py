"""What localization knows of a frame: once odometry is done with it, and at the end."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.gaussians import Gaussians
from sharp_ros.localization.odometry import Motion
from sharp_ros.localization.scale_filter import ScaleEstimate
from sharp_ros.mapping.revision import DepthScale


@dataclass(frozen=True)
class Tracked:
    """A frame as visual odometry leaves it, before anything is learnt from its depth.

    Attributes:
        frame: with the pose of visual odometry, where that was asked for it.
        motion: of visual odometry; where the pose comes from elsewhere only its tracks count.
        visual: whether the pose, if there is one, is that of visual odometry.
        late: whether a newer frame came before it.
        learns: whether anything may be learnt from it, see `BegunFrame.objection`.
        unmappable: as of `Localized`, as far as known.
        world: number of the world that its pose is in; poses of another cannot be compared.
    """

    frame: Frame
    motion: Motion | None
    visual: bool
    late: bool
    learns: bool
    unmappable: PoseUnavailableError | InputError | None
    world: int = 0


@dataclass(frozen=True)
class Localized:
    """A frame with its pose and its metric scale, as far as known.

    Attributes:
        frame: with the pose of visual odometry, where that was asked for it.
        scale: factor that predicted depth is to be multiplied by; None for measured depth.
        motion: of visual odometry, where it was asked for the pose.
        visual: whether the pose, if there is one, is that of visual odometry.
        unmappable: why the frame may not be mapped, wherever it is; also where visual odometry did
            not place it, unless `motion` says why.
        metre_std: standard deviation of the logarithm of metric scale that poses and depth share;
            `scale` does not hold it, since no frame can tell.
        level_doubt: see `MapFacts`.
    """

    frame: Frame
    scale: ScaleEstimate | None
    motion: Motion | None
    visual: bool
    unmappable: PoseUnavailableError | InputError | None = None
    metre_std: float = 0.0
    level_doubt: str = ''

    @property
    def depth_scale(self) -> DepthScale | None:
        """How well the scale of the depth in metres is known; None for measured depth."""
        scale = self.scale
        if scale is None:
            return None
        bias_std = math.sqrt(scale.bias_variance)
        std = math.sqrt(scale.log_variance + self.metre_std**2)
        return DepthScale(std, math.log(scale.bias), bias_std)

    def to_metres(
        self, gaussians: Gaussians | None, depth: np.ndarray
    ) -> tuple[Gaussians | None, np.ndarray]:  # [H, W] -> [H, W]
        """Gaussians, if there are some, and depth of the frame, as predicted, in metres."""
        if self.scale is None:
            return gaussians, depth
        if gaussians is not None:
            gaussians = gaussians.scaled(self.scale.value)
        return gaussians, depth * np.float32(self.scale.value)

    def log_std(self, without_scale: np.ndarray | None) -> np.ndarray | None:  # [m, n] -> [m, n]
        """Standard deviation of the log depth in metres, from that of its shape."""
        if without_scale is None or self.depth_scale is None:
            return None
        return np.sqrt(without_scale**2 + np.float32(self.depth_scale.std**2))
