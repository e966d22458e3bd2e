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
from typing import Protocol

import numpy as np

from sharp_ros.se3 import interpolate, inverse, rotation_vector
from sharp_ros.stereo.time_offset import TimeOffset, TimeOffsetEstimator

_OLDEST_NS = 12_000_000_000  # after which a pose is forgotten
_NEAR_NS = 300_000_000  # between two poses, from which those in between and turning are known
_FAR_NS = 1_000_000_000  # likewise, where there are none nearer
_SHORTEST_NS = 50_000_000  # likewise, by which a motion is continued: single steps jitter
_FARTHEST = 3.0  # of the way between them, by which it is
_UNKNOWN = 0.03  # seconds, standard deviation where nothing is known, as sensors of robots go
_MOST = 0.15  # seconds; poses of moments farther off are not reckoned with, but doubted
_YOUNG = 60  # pairs of images up to which each new one is asked
_AGAIN_NS = 500_000_000  # after which they are asked later


class Posed(Protocol):
    """An image.

    Attributes:
        stamp_ns: acquisition time, nanoseconds.
        T_world_camera: [4, 4] as given.
    """

    @property
    def stamp_ns(self) -> int: ...  # noqa: D102
    @property
    def T_world_camera(self) -> np.ndarray: ...  # noqa: D102


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
        self.offset: TimeOffset | None = None  # of the poses from the images, if they show it
        self._estimated_ns = 0
        self._untold: tuple[Sequence[Posed], np.ndarray] | None = None  # see `learn`

    def add(self, stamp_ns: int, T_world_camera: np.ndarray) -> None:
        """Take the pose of an image.

        Args:
            stamp_ns: acquisition time, nanoseconds, not before that of others.
            T_world_camera: [4, 4] as given.
        """
        if self._stamps_ns and stamp_ns == self._stamps_ns[-1]:
            self._poses[-1] = T_world_camera
            return
        self._stamps_ns.append(stamp_ns)
        self._poses.append(T_world_camera)
        if self._untold is not None:
            self._note_turns(len(self._stamps_ns) - 2, *self._untold)
            self._untold = None
        gone = bisect_right(self._stamps_ns, stamp_ns - _OLDEST_NS)
        del self._stamps_ns[:gone], self._poses[:gone]

    def relative(self, stamp_ns: int, other: Posed) -> np.ndarray:  # -> [4, 4]
        """Pose of the camera at an image of the last seconds in that at another, maybe older."""
        return self._relative(stamp_ns, other, self._believed[0])

    def baseline_std(self, stamp_ns: int, others: Sequence[Posed]) -> float:
        """Deviation of the logarithm of baselines for want of knowledge of the moments of poses.

        Args:
            stamp_ns: of an image.
            others: that it is compared with; they err alike.
        """
        offset, std = self._believed
        offsets = (offset - std, offset, offset + std)
        here = [self._pose(stamp_ns, moved)[:3, 3] for moved in offsets]
        changes = [0.0]
        for other in others:
            early, known, late = (
                math.dist(self._pose(other.stamp_ns, moved, other)[:3, 3], place) + 1e-6
                for moved, place in zip(offsets, here, strict=True)
            )
            changes.append(max(abs(math.log(early / known)), abs(math.log(late / known))))
        return sum(changes) / max(len(others), 1)

    def learn(self, others: Sequence[Posed], T_aligned: np.ndarray) -> None:
        """Take what images show about the moments of their poses.

        It tells when the next pose is known, which has its part in how the camera turned: the
        noise of the pose at hand must not.

        Args:
            others: that the newest image was compared with.
            T_aligned: [N, 4, 4] its pose in each of these, as the images show it.
        """
        self._untold = others, T_aligned

    def _note_turns(self, at: int, others: Sequence[Posed], T_aligned: np.ndarray) -> None:
        """Take what `learn` was told of the image of a number."""
        stamp_ns, turning = self._stamps_ns[at], self._turning(at)
        if turning is None:
            return
        for other, T in zip(others, T_aligned, strict=True):
            number = self._number(other.stamp_ns)
            other_turning = None if number is None else self._turning(number)
            if other_turning is not None:
                given = self._relative(stamp_ns, other, 0.0)
                self._estimator.add(stamp_ns, given, T, turning, other_turning)
        if self._estimator.pairs < _YOUNG or stamp_ns - self._estimated_ns > _AGAIN_NS:
            step = (self._stamps_ns[at + 1] - stamp_ns) * 1e-9
            self._estimated_ns, self.offset = stamp_ns, self._estimator.estimate(step)

    def _turning(self, at: int) -> np.ndarray | None:  # -> [3]
        """How the camera turned at the image of a number, rad/s in its frame, if that is known."""
        if not 0 < at < len(self._stamps_ns) - 1:
            return None
        steps_ns = np.diff(self._stamps_ns[at - 1 : at + 2])
        if steps_ns.max() >= _NEAR_NS:
            return None
        before, here, after = (T[:3, :3] for T in self._poses[at - 1 : at + 2])
        return rotation_vector(here.T @ after @ before.T @ here) / (1e-9 * steps_ns.sum())

    @property
    def _believed(self) -> tuple[float, float]:
        """The shift that is reckoned with and its deviation, seconds."""
        offset = self.offset
        if offset is None:
            return 0.0, _UNKNOWN
        if abs(offset.seconds) > _MOST:
            return 0.0, abs(offset.seconds)
        share = _UNKNOWN**2 / (_UNKNOWN**2 + offset.std**2)
        return share * offset.seconds, math.sqrt(share) * offset.std

    def _relative(self, stamp_ns: int, other: Posed, offset: float) -> np.ndarray:  # -> [4, 4]
        """`relative`, if poses belong to moments so many seconds later than they say."""
        T_world_other = self._pose(other.stamp_ns, offset, other)
        return inverse(T_world_other) @ self._pose(stamp_ns, offset)

    def _pose(
        self, stamp_ns: int, offset: float, image: Posed | None = None
    ) -> np.ndarray:  # -> [4, 4]
        """Pose of an image likewise; that given with it where it is forgotten."""
        number = self._number(stamp_ns)
        if number is None:
            assert image is not None
            return image.T_world_camera
        return self._at(number, round(offset * 1e9))

    def _at(self, here: int, offset_ns: int) -> np.ndarray:  # -> [4, 4]
        """Pose of an image that was taken so long after the moment of the pose given for it."""
        if not offset_ns:
            return self._poses[here]
        moment_ns = self._stamps_ns[here] - offset_ns
        # between two poses, or as the camera moved beside those between which it was not seen
        between = bisect_right(self._stamps_ns, moment_ns) - 1
        steps = [self._step(first) for first in (between, here - 1, here)]
        for longest_ns in (_NEAR_NS, _FAR_NS):
            for first, second in steps:
                step_ns = self._stamps_ns[second] - self._stamps_ns[first]
                if 0 < step_ns < longest_ns:
                    share = (moment_ns - self._stamps_ns[first]) / step_ns
                    share = min(max(share, -_FARTHEST), 1 + _FARTHEST)
                    return interpolate(self._poses[first], self._poses[second], share)
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

    def _number(self, stamp_ns: int) -> int | None:
        """Of the pose of an image; None if that is forgotten."""
        number = bisect_right(self._stamps_ns, stamp_ns) - 1
        return number if number >= 0 and self._stamps_ns[number] == stamp_ns else None
