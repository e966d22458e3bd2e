"""Given poses at the moments of their images, although they may belong to others.

A driver that stamps poses when they arrive, or images when they are read, shifts one against the
other by some hundredths of a second. While a camera sets out or turns, that is as much motion as
there is between two images, and all depth that is measured by it is wrong by the same share. How
images turn against poses shows the shift (`time_offset`), and poses of other moments are those in
between. As long as it is unknown, what it may do to a baseline is part of its deviation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
import math

import cv2
import numpy as np

from sharp_ros.se3 import inverse, transform
from sharp_ros.stereo.time_offset import TimeOffset, TimeOffsetEstimator

_OLDEST_NS = 12_000_000_000  # longer than images are compared
_LONGEST_NS = 300_000_000  # between two poses, from which those in between are known
_SHORTEST_NS = 50_000_000  # likewise, by which a motion is continued: single steps jitter
_FARTHEST = 3.0  # of the way between them, by which it is
_UNKNOWN = 0.03  # seconds, standard deviation where nothing is known, as sensors of robots go
_MOST = 0.15  # seconds; a shift beyond is taken for an error of the estimate
_CHANGED = 0.005  # seconds by which an estimate must change for images to be compared again
_YOUNG = 60  # pairs of images up to which each new one is asked
_AGAIN_NS = 500_000_000  # after which they are asked later


class TimedPoses:
    """Poses of a camera, one for each image, in order of time."""

    def __init__(self) -> None:
        self._estimator = TimeOffsetEstimator()
        self.reset()

    def reset(self) -> None:
        """Forget all poses."""
        self._estimator.reset()
        self._stamps_ns: list[int] = []
        self._poses: list[np.ndarray] = []  # [4, 4]
        self._turning: list[np.ndarray | None] = []  # [3] rad/s
        self.offset: TimeOffset | None = None  # of the poses from the images, if they show it
        self._estimated_ns = 0

    def add(self, stamp_ns: int, T_world_camera: np.ndarray) -> None:
        """Take the pose of an image.

        Args:
            stamp_ns: acquisition time, nanoseconds, not before that of others.
            T_world_camera: [4, 4] as given.
        """
        turning = self._estimator.turning(stamp_ns, T_world_camera)
        gone = bisect_right(self._stamps_ns, stamp_ns - _OLDEST_NS)
        if self._stamps_ns and stamp_ns == self._stamps_ns[-1]:
            self._stamps_ns.pop(), self._poses.pop(), self._turning.pop()
        self._stamps_ns.append(stamp_ns)
        self._poses.append(T_world_camera)
        self._turning.append(turning)
        del self._stamps_ns[:gone], self._poses[:gone], self._turning[:gone]

    def relative(self, stamp_ns: int, other_ns: int) -> np.ndarray:  # -> [4, 4]
        """Pose of the camera at one image in that at another, both of the last seconds."""
        return self._relative(stamp_ns, other_ns, self._believed[0])

    def baseline_std(self, stamp_ns: int, others_ns: Sequence[int]) -> float:
        """Deviation of the logarithm of baselines for want of knowledge of the moments of poses.

        Args:
            stamp_ns: of an image.
            others_ns: of those that it is compared with; they err alike.
        """
        offset, std = self._believed
        change = 0.0
        for other_ns in others_ns:
            longer, shorter = (
                np.linalg.norm(self._relative(stamp_ns, other_ns, offset + side * std)[:3, 3])
                for side in (1, -1)
            )
            change += math.log((longer + 1e-6) / (shorter + 1e-6)) / 2
        return abs(change) / max(len(others_ns), 1)

    def learn(self, stamp_ns: int, others_ns: Sequence[int], T_aligned: np.ndarray) -> bool:
        """Take what images show about the moments of their poses.

        Args:
            stamp_ns: of the newest image.
            others_ns: of those that it was compared with.
            T_aligned: [N, 4, 4] its pose in each of these, as the images show it.

        Returns:
            Whether relative poses are now others, so that the images are to be compared again.
        """
        before, turning = self._believed[0], self._turning[-1]
        for other_ns, T in zip(others_ns, T_aligned, strict=True):
            other_turning = self._turning[self._index(other_ns)]
            if turning is not None and other_turning is not None:
                given = self._relative(stamp_ns, other_ns, 0.0)
                self._estimator.add(stamp_ns, given, T, turning, other_turning)
        if self._estimator.pairs < _YOUNG or stamp_ns - self._estimated_ns > _AGAIN_NS:
            self._estimated_ns, self.offset = stamp_ns, self._estimator.estimate()
        return abs(self._believed[0] - before) > _CHANGED

    @property
    def _believed(self) -> tuple[float, float]:
        """The shift that is reckoned with and its deviation, seconds."""
        offset = self.offset
        if offset is None or abs(offset.seconds) > _MOST:
            return 0.0, _UNKNOWN
        share = _UNKNOWN**2 / (_UNKNOWN**2 + offset.std**2)
        return share * offset.seconds, math.sqrt(share) * offset.std

    def _relative(self, stamp_ns: int, other_ns: int, offset: float) -> np.ndarray:  # -> [4, 4]
        """`relative`, if poses belong to moments so many seconds later than they say."""
        offset_ns = round(offset * 1e9)
        return inverse(self._at(other_ns, offset_ns)) @ self._at(stamp_ns, offset_ns)

    def _at(self, stamp_ns: int, offset_ns: int) -> np.ndarray:  # -> [4, 4]
        """Pose of an image that was taken so long after the moment of the pose given for it."""
        here, moment_ns = self._index(stamp_ns), stamp_ns - offset_ns
        if not offset_ns:
            return self._poses[here]
        # between two poses, or as the camera moved beside those between which it was not seen
        between = bisect_right(self._stamps_ns, moment_ns) - 1
        for first, second in map(self._step, (between, here - 1, here)):
            step_ns = self._stamps_ns[second] - self._stamps_ns[first]
            if 0 < step_ns < _LONGEST_NS:
                share = (moment_ns - self._stamps_ns[first]) / step_ns
                share = min(max(share, -_FARTHEST), 1 + _FARTHEST)
                return _between(self._poses[first], self._poses[second], share)
        return self._poses[here]

    def _step(self, first: int) -> tuple[int, int]:
        """Numbers of a pose and of one after it, at the ends a while apart."""
        last = len(self._stamps_ns) - 1
        second = first + 1
        if first < 0:
            first, second = 0, min(1, last)
            while second < last and self._stamps_ns[second] - self._stamps_ns[0] < _SHORTEST_NS:
                second += 1
        elif second > last:
            first, second = max(last - 1, 0), last
            while first > 0 and self._stamps_ns[last] - self._stamps_ns[first] < _SHORTEST_NS:
                first -= 1
        return first, second

    def _index(self, stamp_ns: int) -> int:
        return max(bisect_right(self._stamps_ns, stamp_ns) - 1, 0)


def _between(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:  # -> [4, 4]
    """Pose on the way from one to another, or beyond."""
    turn = cv2.Rodrigues(before[:3, :3].T @ after[:3, :3])[0]
    rotation = before[:3, :3] @ cv2.Rodrigues(share * turn)[0]
    return transform(rotation, before[:3, 3] + share * (after[:3, 3] - before[:3, 3]))
