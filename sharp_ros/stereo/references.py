"""The recent images of a camera, and which of them show most about the depth of the newest."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from sharp_ros.stereo.sweep_kernels import census

_SPACING = 0.01  # of the depth: an image that was taken nearer to the last one is not kept
_MOST = 60  # images
_OLDEST_NS = 10_000_000_000
_USABLE = (0.02, 0.4)  # baseline as a share of the depth
_BASELINES = (0.05, 0.12, 0.25)  # likewise, that are aimed at
_TURNED = 0.45  # rad between the optical axes, at most
_TURN_COST = 4.0  # of a radian, in logarithms of the baseline
_CENSUSES = 8  # that are kept: images are compared several times in a row, and each has 0.6 MB


@dataclass(frozen=True, eq=False)
class Reference:
    """An image that others are compared with.

    Attributes:
        stamp_ns: acquisition time, nanoseconds.
        T_world_camera: [4, 4] as given.
        gray: [H, W] uint8.
        unseen: [H, W] bool, pixels that are not to be compared; None: all are.
    """

    stamp_ns: int
    T_world_camera: np.ndarray
    gray: np.ndarray
    unseen: np.ndarray | None = None


class References:
    """Keeps images that are some way apart."""

    def __init__(self) -> None:
        self._kept: list[Reference] = []
        self._censuses: dict[int, np.ndarray] = {}  # by stamp, that used last at the end

    def reset(self) -> None:
        """Forget all images."""
        self._kept.clear()
        self._censuses.clear()

    def census(self, image: Reference) -> np.ndarray:  # -> [H, W] uint64
        """Census of one of the images."""
        found = self._censuses.pop(image.stamp_ns, None)
        self._censuses[image.stamp_ns] = census(image.gray) if found is None else found
        if len(self._censuses) > _CENSUSES:
            del self._censuses[next(iter(self._censuses))]
        return self._censuses[image.stamp_ns]

    def add(self, image: Reference, depth: float) -> None:
        """Keep an image, unless the one before was taken from the same place, or then.

        Args:
            image: newer than all others.
            depth: its median, metres.
        """
        if self._kept:
            last = self._kept[-1].T_world_camera
            if image.stamp_ns == self._kept[-1].stamp_ns or (
                _baseline(last, image.T_world_camera) < _SPACING * depth
                and _turned(last, image.T_world_camera) < _SPACING
            ):
                return
        self._kept.append(image)
        first_ns = image.stamp_ns - _OLDEST_NS
        self._kept = [kept for kept in self._kept[-_MOST:] if kept.stamp_ns >= first_ns]

    def chosen(self, T_world_camera: np.ndarray, depth: float) -> list[Reference]:
        """Those whose baselines come closest to what is aimed at.

        Args:
            T_world_camera: [4, 4] of the image they are to be compared with.
            depth: its median, metres.
        """
        chosen: list[Reference] = []
        usable = []
        for image in self._kept:
            baseline = _baseline(image.T_world_camera, T_world_camera) / depth
            turned = _turned(image.T_world_camera, T_world_camera)
            if _USABLE[0] < baseline < _USABLE[1] and turned < _TURNED:
                usable.append((image, math.log(baseline), turned))
        for aim in _BASELINES:
            if usable:
                best = min(usable, key=lambda u: abs(u[1] - math.log(aim)) + _TURN_COST * u[2])
                chosen.append(best[0])
                usable.remove(best)
        return chosen


def _baseline(one: np.ndarray, other: np.ndarray) -> float:
    return math.dist(one[:3, 3], other[:3, 3])


def _turned(one: np.ndarray, other: np.ndarray) -> float:
    """Angle between the optical axes, rad."""
    return math.acos(min(max(float(one[:3, 2] @ other[:3, 2]), -1.0), 1.0))
