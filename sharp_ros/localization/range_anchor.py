"""A range finder along a known ray, as an anchor of the metric scale."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from sharp_ros.camera import Frame, Intrinsics, RangeReading, SAME_SURFACE_RATIO
from sharp_ros.config import ScaleConfig
from sharp_ros.localization.scale_anchors import MetricMotion, ScaleObservation

RANGE = 'range'
_PLACE = 0.1  # standard deviation of the predicted log depth of one place around the whole
_LEAST_RADIUS = 1 / 80  # of the cone, in image widths: as well as mounting and lens are known
_LEAST_KNOWN = 0.5  # share of the pixels of the cone that must have depth
_INNER = (5, 16, 50, 84, 95)  # percentiles


class RangeAnchor:
    """The distance that a range finder measures; see `range_scale`."""

    source: ClassVar[str] = RANGE
    systematic: ClassVar[float] = _PLACE

    def __init__(self, config: ScaleConfig) -> None:
        del config  # nothing to set

    def tells_metres(self, frame: Frame) -> bool:
        """See `ScaleAnchor.tells_metres`."""
        return frame.range_reading is not None

    def observe(
        self, frame: Frame, depth: np.ndarray, motion: MetricMotion
    ) -> ScaleObservation | None:
        """See `ScaleAnchor.observe`."""
        reading = frame.range_reading
        return None if reading is None else range_scale(depth, frame.intrinsics, reading)


def range_scale(
    depth: np.ndarray, intrinsics: Intrinsics, reading: RangeReading
) -> ScaleObservation | None:
    """Factor between predicted depth and the distance that was measured along a ray.

    Where the ray ends is known in metres, whatever the scale, and so is the pixel that shows it.

    Args:
        depth: [H, W] predicted z-depth.
        intrinsics: of that image.
        reading: in the optical frame of that image.

    Returns:
        None where that is not in the image, or where the depths within the cone are of several
        surfaces or mostly unknown.
    """
    if not reading.is_in(intrinsics):
        return None
    point = reading.point
    u, v = intrinsics.pixels(point)
    spread = reading.distance * math.tan(reading.half_angle) / point[2] * intrinsics.fx
    radius = max(spread, _LEAST_RADIUS * intrinsics.width)
    left, right = max(math.ceil(u - radius), 0), math.floor(u + radius) + 1
    top, bottom = max(math.ceil(v - radius), 0), math.floor(v + radius) + 1
    seen = depth[top:bottom, left:right].astype(np.float64)
    rows, columns = np.indices(seen.shape)
    cone = seen[(rows + top - v) ** 2 + (columns + left - u) ** 2 <= radius**2]
    known = cone[np.isfinite(cone) & (cone > 0)]
    if not len(known) or len(known) < _LEAST_KNOWN * len(cone):
        return None
    lowest, low, middle, high, highest = np.percentile(np.log(known), _INNER)
    if highest - lowest > math.log(SAME_SURFACE_RATIO):
        return None
    within = (high - low) / 2
    variance = (reading.std / reading.distance) ** 2 + within**2 + _PLACE**2
    return ScaleObservation(float(math.log(point[2]) - middle), float(variance), RANGE)
