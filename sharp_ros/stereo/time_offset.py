"""Whether poses belong to other moments than their images, by how images turn against poses.

A pose that belongs to a moment later than its image by some seconds is turned by as much as the
camera turns in these. So between two images given poses and images differ in rotation by that
time, multiplied by how differently the camera turned at either: one number, in which all pairs of
images agree (cf. Furgale et al., 2013, who estimate it with splines).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import math

import numpy as np

from sharp_ros.se3 import rotation_vector

_MEMORY_NS = 20_000_000_000
_MOST = 300  # pairs of images
_FEWEST = 6  # likewise: mostly those of two images
# What is not known of its error, seconds and share of the time from image to image: images last,
# odometry is smoothed, and a camera does not turn evenly between two of them.
_GENERAL = (0.002, 0.1)
_SPREAD = 0.001  # rad, likewise of what single pairs say: few may agree by chance
_ROUNDS = 10
_OUTLIER = 2.0  # deviations at which a pair counts half


@dataclass(frozen=True)
class TimeOffset:
    """By how much later the moments of poses are than those of their images.

    Attributes:
        seconds: negative where poses belong to earlier moments, as of a driver that stamps them
            when they arrive.
        std: of that.
    """

    seconds: float
    std: float


class TimeOffsetEstimator:
    """Pairs of images of the last seconds; poses are of the optical frame."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._pairs: deque[tuple[int, np.ndarray, np.ndarray]] = deque(maxlen=_MOST)

    @property
    def pairs(self) -> int:
        """How many are known."""
        return len(self._pairs)

    def add(
        self,
        stamp_ns: int,
        T_given: np.ndarray,
        T_aligned: np.ndarray,
        turning: np.ndarray,
        other_turning: np.ndarray,
    ) -> None:
        """Take a pair of images.

        Args:
            stamp_ns: of the newer one, nanoseconds, not before those of earlier pairs.
            T_given: [4, 4] pose of that in the other, as given.
            T_aligned: [4, 4] likewise, as the images show it.
            turning: [3] of the newer one, rad/s in its frame.
            other_turning: [3] likewise of the other.
        """
        difference = rotation_vector(T_aligned[:3, :3] @ T_given[:3, :3].T)
        self._pairs.append((stamp_ns, other_turning - T_given[:3, :3] @ turning, difference))
        while self._pairs[0][0] < stamp_ns - _MEMORY_NS:
            self._pairs.popleft()

    def estimate(self, step: float) -> TimeOffset | None:
        """What all pairs agree in, without those that do not; None where they are too few.

        Args:
            step: from image to image, seconds.
        """
        if len(self._pairs) < _FEWEST:
            return None
        rate, angle = (np.concatenate(v) for v in list(zip(*self._pairs, strict=True))[1:])
        weight, seconds, spread = np.ones(len(rate)), 0.0, 0.0
        for _ in range(_ROUNDS):
            information = float(weight @ rate**2)
            if not information > 0:
                return None
            seconds = float((weight * rate) @ angle) / information
            error = angle - seconds * rate
            spread = math.hypot(1.48 * float(np.median(np.abs(error))), _SPREAD)
            weight = 1 / (1 + (error / (_OUTLIER * spread)) ** 2)
        # pairs that share an image err alike: each image has three pairs
        variance = 3 * spread**2 / float(weight @ rate**2)
        general = _GENERAL[0] + _GENERAL[1] * step
        return TimeOffset(seconds, math.sqrt(variance + general**2))
