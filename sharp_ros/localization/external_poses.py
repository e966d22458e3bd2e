"""Poses of a camera that come from elsewhere: whether they jump, and what tracks say with them."""

from __future__ import annotations

from dataclasses import replace
import logging

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.se3 import inverse
from sharp_ros.tracks import Tracks

_log = logging.getLogger(__name__)


class ExternalPoses:
    """The pose of the newest frame and that of the keyframe of its tracks."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget both."""
        self._newest: tuple[int, np.ndarray] | None = None  # stamp and pose [4, 4]
        self._keyframe: tuple[int, np.ndarray] | None = None

    def add(self, frame: Frame, max_speed: float) -> bool:
        """Take in the pose of a frame.

        Args:
            frame: with its pose.
            max_speed: above which it jumped, m/s.

        Returns:
            Whether it jumped, as of a localisation that corrects itself: then the past tells no
            scale, and neither do tracks before the next keyframe.
        """
        assert frame.T_world_camera is not None
        before, self._newest = self._newest, (frame.stamp_ns, frame.T_world_camera)
        if before is None:
            return False
        before_ns, pose = before
        moved = float(np.linalg.norm(frame.T_world_camera[:3, 3] - pose[:3, 3]))
        jumped = moved > max_speed * (frame.stamp_ns - before_ns) * 1e-9
        if jumped:
            _log.warning('the pose jumped by %.2f m; the map goes on from there', moved)
            self._keyframe = None
        return jumped

    def note_keyframe(self, frame: Frame) -> None:
        """Take in that features are tracked from this frame on."""
        assert frame.T_world_camera is not None
        self._keyframe = (frame.stamp_ns, frame.T_world_camera)

    def tracks(self, frame: Frame, tracks: Tracks) -> Tracks | None:
        """The same tracks over these poses; None where that of the keyframe is not known."""
        if self._keyframe is None or self._keyframe[0] != tracks.keyframe_stamp_ns:
            return None
        assert frame.T_world_camera is not None
        return replace(tracks, T_keyframe_camera=inverse(self._keyframe[1]) @ frame.T_world_camera)
