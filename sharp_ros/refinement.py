"""Depth from motion as a step of the pipeline: which frames have it, and what they become."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import RefinementConfig
from sharp_ros.gaussians import Gaussians
from sharp_ros.localization.localized import Localized, Tracked
from sharp_ros.stereo import (
    DepthCarrier,
    DepthRefiner,
    MeasuredScale,
    PredictedDepth,
    Refinement,
)
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

    def corrected(self, gaussians: Gaussians | None) -> Gaussians | None:
        """The Gaussians of the image, as predicted, with the correction of the depth."""
        if gaussians is None or self.motion is None:
            return gaussians
        return gaussians.corrected(self.motion.correction)


class MotionRefinement:
    """Refines predicted depth of frames whose pose is known.

    Args:
        config: whether it does.
        predicts: whether depth is predicted; what a sensor measured is left as it is.
    """

    def __init__(self, config: RefinementConfig, *, predicts: bool) -> None:
        self._predicts = predicts
        self._refiner, self._carrier = DepthRefiner(), DepthCarrier()
        self._world = 0  # of the poses
        self.reconfigure(config)

    def warm_up(self, intrinsics: Intrinsics) -> None:
        """Run every step once on a pattern, then forget it; kernels are compiled here."""
        if self._enabled:
            self._refiner.warm_up(intrinsics)
            self._carrier.warm_up(intrinsics)

    def reset(self) -> None:
        """Forget what was seen."""
        self._refiner.reset()
        self._carrier.reset()

    def reconfigure(self, config: RefinementConfig) -> None:
        """Go on with other settings."""
        self._enabled = self._predicts and config.enabled != 'off'
        self._network_rate_hz = config.network_rate_hz
        if not self._enabled:
            self.reset()

    def carried(self, frame: Frame) -> PredictedDepth | None:
        """Depth that makes the network of a frame needless; None where it is to run."""
        return self._carrier.carried(frame, self._network_rate_hz) if self._enabled else None

    def remember(self, localized: Localized, refined: Refined, predicted: PredictedDepth) -> None:
        """Take what a network said of a frame, if it did, for those that follow.

        Nothing is carried over poses of visual odometry, which builds on what networks say.

        Args:
            localized: the frame.
            refined: what motion made of its depth.
            predicted: its depth, of the network or carried.
        """
        scale, asked = localized.scale, self._enabled and self._network_rate_hz > 0
        if not asked or predicted.cells is None or scale is None:
            return
        if localized.visual or refined.motion is None or not refined.poses_hold:
            self._carrier.reset()
        else:
            self._carrier.remember(localized.frame, predicted, scale.value)

    def refine(
        self,
        tracked: Tracked,
        predicted: PredictedDepth,
        factor: float,
        clock: Stopwatch,
    ) -> Refined:
        """What motion makes of the depth of a frame.

        Args:
            tracked: the frame, with its pose if that is known.
            predicted: its depth.
            factor: that makes metres of it, as far as known.
            clock: of the steps; the lap is `refinement`.
        """
        frame, depth, log_std = tracked.frame, predicted.depth, predicted.log_std
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
            frame.gray,
            frame.intrinsics,
            frame.stamp_ns,
            frame.T_world_camera,
            depth,
            log_std,
            factor,
            frame.unseen,
        )
        refined = Refined(motion.applied(depth), motion.std, motion)
        clock.lap('refinement')
        return refined
