"""Which frames are worth fusing: those from which something new can be seen."""

from __future__ import annotations

import numpy as np

from sharp_ros.config import KeyframeConfig
from sharp_ros.se3 import angle, checked_pose


class FusionSchedule:
    """Chooses frames by how far the camera has moved, turned or waited since the last one.

    Attributes:
        config: settings, which may be replaced between two frames.
    """

    def __init__(self, config: KeyframeConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        """Forget the last one; the next frame is due."""
        self._last: tuple[int, np.ndarray] | None = None

    def is_due(self, stamp_ns: int, T_world_camera: np.ndarray) -> bool:
        """Whether a frame should be fused; a stamp before that of the last one is due, too.

        Raises:
            InputError: `bad_pose` for a pose that is not finite or not rigid.
        """
        pose = checked_pose(T_world_camera)
        if self._last is None:
            return True
        last_ns, last = self._last
        config = self.config
        return (
            not 0 <= stamp_ns - last_ns < config.interval * 1e9
            or float(np.linalg.norm(pose[:3, 3] - last[:3, 3])) >= config.distance
            or float(angle(last[:3, :3].T @ pose[:3, :3])) >= config.angle
        )

    def note(self, stamp_ns: int, T_world_camera: np.ndarray) -> None:
        """A frame was fused."""
        self._last = (stamp_ns, T_world_camera)
