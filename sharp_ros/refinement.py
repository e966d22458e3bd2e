"""Depth from motion as a step of the pipeline: which frames have it, and what they become."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.config import RefinementConfig
from sharp_ros.gaussians import Gaussians
from sharp_ros.localization.localized import Tracked
from sharp_ros.stereo import DepthRefiner, MeasuredScale, Refinement
from sharp_ros.stopwatch import Stopwatch

_UNSTATED_STD = 0.25  # of log depth of a network that states none, as networks err


@dataclass(frozen=True)
class Refined:
    """Depth as motion leaves it, in the unit in which it was predicted.

    Attributes:
        depth: [H, W] z-depth of the visible surface.
        log_std: [m, n] standard deviation of its logarithm, edge to edge at some resolution,
            without that of its scale; None for measured depth, and where the network states none.
        motion: what motion says; None where it was not asked.
    """

    depth: np.ndarray
    log_std: np.ndarray | None
    motion: Refinement | None = None

    @property
    def scale(self) -> MeasuredScale | None:
        """The scale of the depth, if motion shows it."""
        return None if self.motion is None else self.motion.scale

    @property
    def poses_hold(self) -> bool:
        """Whether motion says nothing against the pose."""
        return self.motion is None or self.motion.poses_hold

    def corrected(self, gaussians: Gaussians) -> Gaussians:
        """The Gaussians of the image, as predicted, with the correction of the depth."""
        return gaussians if self.motion is None else gaussians.corrected(self.motion.correction)


class MotionRefinement:
    """Refines predicted depth of frames whose pose is known.

    Args:
        config: whether it does.
        predicts: whether depth is predicted; what a sensor measured is left as it is.
    """

    def __init__(self, config: RefinementConfig, *, predicts: bool) -> None:
        self._predicts = predicts
        self._refiner = DepthRefiner()
        self._world = 0  # of the poses
        self.reconfigure(config)

    def warm_up(self, intrinsics: Intrinsics) -> None:
        """See `DepthRefiner.warm_up`."""
        if self._enabled:
            self._refiner.warm_up(intrinsics)

    def reset(self) -> None:
        """Forget what was seen."""
        self._refiner.reset()

    def reconfigure(self, config: RefinementConfig) -> None:
        """Go on with other settings."""
        self._enabled = self._predicts and config.enabled != 'off'
        if not self._enabled:
            self.reset()

    def refine(
        self,
        tracked: Tracked,
        depth: np.ndarray,
        log_std: np.ndarray | None,
        factor: float,
        clock: Stopwatch,
    ) -> Refined:
        """What motion makes of the depth of a frame.

        Args:
            tracked: the frame, with its pose if that is known.
            depth: [H, W] as predicted.
            log_std: [m, n] standard deviation of its logarithm as the network states it, edge to
                edge at any resolution; None if it states none.
            factor: that makes metres of it, as far as known.
            clock: of the steps; the lap is `refinement`.
        """
        frame = tracked.frame
        usable = tracked.learns and not tracked.late and frame.T_world_camera is not None
        if not (self._enabled and usable):
            clock.lap('refinement')
            return Refined(depth, log_std if self._predicts else None)
        assert frame.T_world_camera is not None
        if tracked.world != self._world:
            self._world = tracked.world
            self.reset()
        if log_std is None:
            log_std = np.full((2, 2), _UNSTATED_STD, np.float32)
        motion = self._refiner.refine(
            cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY),
            frame.intrinsics,
            frame.stamp_ns,
            frame.T_world_camera,
            depth,
            log_std,
            factor,
        )
        refined = Refined(motion.applied(depth), motion.std, motion)
        clock.lap('refinement')
        return refined
