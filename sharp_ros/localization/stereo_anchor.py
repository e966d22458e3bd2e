"""The metric scale that the baselines of recent images show, as evidence for `ScaleFilter`.

It takes the place of `ParallaxAnchor` where there is one: both go by the same poses, but this one
by several images at once, and also where the scale of the network is far off.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.config import ScaleConfig
from sharp_ros.localization.scale_anchors import (
    MetricMotion,
    POSE_CALIBRATION,
    ScaleObservation,
)
from sharp_ros.stereo import MeasuredScale

_LASTING_NS = 1_000_000_000  # for which the poses of the images that are compared err alike
# Probability of a measurement that has nothing to do with the scale. Of some 2,000 with true or
# slightly wrong poses, from recordings and simulated rooms, 3 were beyond 4 standard deviations.
_WILD = 0.1


class StereoAnchor:
    """Recent images, aligned over metric poses; see `stereo.DepthRefiner`."""

    source: ClassVar[str] = 'stereo'
    systematic: ClassVar[float] = POSE_CALIBRATION

    def __init__(self, config: ScaleConfig) -> None:
        del config  # nothing to set

    def tells_metres(self, frame: Frame) -> bool:
        """See `ScaleAnchor.tells_metres`."""
        return False

    def observe(
        self, frame: Frame, depth: np.ndarray, motion: MetricMotion
    ) -> ScaleObservation | None:
        """See `ScaleAnchor.observe`."""
        if not isinstance(motion, MeasuredScale):
            return None
        variance = motion.std**2 + POSE_CALIBRATION**2
        return ScaleObservation(
            motion.log_scale,
            variance,
            self.source,
            shared=frame.stamp_ns // _LASTING_NS,
            wild=_WILD,
        )
