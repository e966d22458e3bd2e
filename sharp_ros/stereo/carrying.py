"""Depth of an image by that of a shortly earlier one, where the network need not run again.

From one image of a video to the next little changes but by the motion of the camera. Where its
pose is known, what a network said of one image says as much of the next, and looking it up costs a
fraction of asking the network again. What else may have changed shows in the images themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from sharp_ros.camera import Frame, Intrinsics, SAME_SURFACE_RATIO
from sharp_ros.point_cloud import resize_inverse_depth
from sharp_ros.se3 import inverse
from sharp_ros.stereo.carrying_kernels import carry
from sharp_ros.warm_up import warm_up_frame

_PERIOD = 0.9  # of that of the network, so that stamps which jitter do not add an image
_TOLERANCE = 10  # grey levels, beyond those of the neighbours
_CHANGED = 0.01  # share of the image that may look otherwise
_NEW = 0.05  # share of it that may have come into view


@dataclass(frozen=True)
class PredictedDepth:
    """What a network said of an image, or of one before in its place.

    Attributes:
        depth: [H, W] z-depth in the unit of the network; NaN where nothing is known, inf where
            nothing is in range.
        log_std: [m, n] standard deviation of its logarithm as the network stated it; None if it
            did not.
        cells: [h, w] depth in the cells of the network; None of an image it did not see.
        scale_std: standard deviation of the logarithm of its scale, as the network states it of
            an image that it saw; None where it does not.
    """

    depth: np.ndarray
    log_std: np.ndarray | None
    cells: np.ndarray | None = None
    scale_std: float | None = None

    def hidden(self, mask: np.ndarray) -> PredictedDepth:  # [H, W] bool
        """The same with no depth where the mask is."""
        none, cells = np.float32(np.nan), self.cells
        if cells is not None:
            size = cells.shape[::-1]
            small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
            cells = np.where(small, none, cells)
        return replace(self, depth=np.where(mask, none, self.depth), cells=cells)


@dataclass(frozen=True)
class _Source:
    """An image that a network saw, in the cells of that network."""

    frame: Frame
    inverse: np.ndarray  # [h, w] float32, 1/m
    known: float  # share of the cells
    darkest: np.ndarray  # [h, w] uint8
    brightest: np.ndarray  # [h, w] uint8
    factor: float  # that made metres of the prediction
    log_std: np.ndarray | None  # [m, n]
    unseen: np.ndarray | None  # [h, w] bool, where pixels are unseen; None: nowhere


class DepthCarrier:
    """Remembers the newest image that a network saw, and carries its depth on."""

    def __init__(self) -> None:
        self._source: _Source | None = None

    def reset(self) -> None:
        """Have the network see the next image."""
        self._source = None

    def warm_up(self, intrinsics: Intrinsics) -> None:
        """Carry a plane once, then forget it; the kernel is compiled here."""
        frame = warm_up_frame(intrinsics)
        size = (intrinsics.height, intrinsics.width)
        plane = np.ones(size, np.float32)
        self.remember(frame, PredictedDepth(plane, None, plane[::4, ::4].copy()), 1.0)
        self.carried(replace(frame, stamp_ns=frame.stamp_ns + 1), 1.0)
        self.reset()

    def remember(self, frame: Frame, predicted: PredictedDepth, factor: float) -> None:
        """Take an image that a network saw.

        Args:
            frame: with its pose.
            predicted: what the network said.
            factor: that makes metres of it.
        """
        assert predicted.cells is not None
        metres = predicted.cells * np.float32(factor)
        known = metres > 0
        rho = np.full_like(metres, np.nan)
        np.divide(1, metres, out=rho, where=known)
        gray, around = _gray(frame, rho.shape), np.ones((3, 3), np.uint8)
        self._source = _Source(
            frame,
            rho,
            float(known.mean()),
            cv2.erode(gray, around),
            cv2.dilate(gray, around),
            factor,
            predicted.log_std,
            None if frame.unseen is None else _any_pixel(frame.unseen, rho.shape),
        )

    def carried(self, frame: Frame, rate_hz: float) -> PredictedDepth | None:
        """Depth of an image, or None where the network is to see it.

        That is so where its pose is not known, the last image that the network saw is not one of
        the same camera in the same world or is too old, or much of what this one shows is new.

        Args:
            frame: the image.
            rate_hz: how often the network is to run at least.
        """
        source = self._source
        if source is None or frame.T_world_camera is None:
            return None
        before = source.frame
        elapsed_ns = frame.stamp_ns - before.stamp_ns
        same = (frame.intrinsics, frame.world_frame) == (before.intrinsics, before.world_frame)
        if not same or not 0 < elapsed_ns * rate_hz < _PERIOD * 1e9:
            return None
        assert before.T_world_camera is not None
        rows, columns = source.inverse.shape
        rho, changed = carry(
            source.inverse,
            source.darkest,
            source.brightest,
            _gray(frame, (rows, columns)),
            inverse(before.T_world_camera) @ frame.T_world_camera,
            frame.intrinsics.resized(columns, rows).parameters,
            SAME_SURFACE_RATIO,
            _TOLERANCE,
        )
        if source.unseen is not None:  # a robot in front of what it passes is no news
            changed &= ~source.unseen
        known = np.count_nonzero(rho >= 0) / rho.size
        if changed.mean() > _CHANGED or known < source.known - _NEW:
            return None
        rho[changed] = np.nan  # something else is there, of which nothing is known
        rho *= np.float32(source.factor)
        depth = resize_inverse_depth(rho, frame.intrinsics.width, frame.intrinsics.height)
        if frame.unseen is not None:
            depth[frame.unseen] = np.nan
        return PredictedDepth(depth, source.log_std)


def _gray(frame: Frame, cells: tuple[int, int]) -> np.ndarray:  # -> [h, w] uint8
    return cv2.resize(frame.gray, cells[::-1], interpolation=cv2.INTER_AREA)


def _any_pixel(mask: np.ndarray, cells: tuple[int, int]) -> np.ndarray:  # [H, W] -> [h, w] bool
    """Cells that the mask has a part in."""
    return cv2.resize(mask.astype(np.float32), cells[::-1], interpolation=cv2.INTER_AREA) > 0
