"""Where virtual cameras stand: placed in the frame of the real one, of the world or of any part.

A placement gives the pose of the virtual camera in its own parent frame; `locate` tells where that
frame is, seen from the real camera, at the stamp of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
import math

import numpy as np

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import ViewConfig
from sharp_ros.errors import ConfigError, InputError, PoseUnavailableError
from sharp_ros.se3 import inverse, look_at, matrix_from_quat, transform

CAMERA, WORLD = 'camera', 'world'  # names of frames that every image has, see `ViewConfig.frame`


class Viewpoint:
    """A virtual camera as configured.

    Args:
        name: of the view, for messages.
        config: its settings.

    Attributes:
        intrinsics: of its images.
        frame: in which it is placed: `camera`, `world` or a name known to tf.
        fixed: whether it never moves in that frame.

    Raises:
        ConfigError: if it looks at its own position, or along the direction that is to be up.
    """

    def __init__(self, name: str, config: ViewConfig) -> None:
        self.intrinsics = Intrinsics.from_hfov(config.hfov, config.width, config.height)
        self.frame = config.frame
        self.fixed = config.placement in ('look_at', 'offset')
        self._position, self._target = np.array(config.position), np.array(config.target)
        up = config.up if any(config.up) else ((0, -1, 0) if config.frame == CAMERA else (0, 0, 1))
        self._up = np.array(up, np.float64)
        self._orientation = matrix_from_quat(np.array(config.orientation)[[3, 0, 1, 2]])
        self._period_ns = int(config.period * 1e9)
        self._place = {
            'look_at': lambda stamp_ns: look_at(self._position, self._target, self._up),
            'offset': lambda stamp_ns: transform(self._orientation, self._position),
            'orbit': self._orbit,
            'request': lambda stamp_ns: np.eye(4),
        }[config.placement]
        try:
            self.pose(0)
        except InputError as error:
            raise ConfigError(f'views.{name}: {error}') from error

    def pose(self, stamp_ns: int) -> np.ndarray:  # -> [4, 4]
        """`T_frame_view`, the pose of its optical frame at a stamp."""
        return self._place(stamp_ns)

    def _orbit(self, stamp_ns: int) -> np.ndarray:
        """Around the target, about the direction that is up, by Rodrigues' formula."""
        angle = 2 * math.pi * (stamp_ns % self._period_ns) / self._period_ns
        axis, arm = self._up / np.linalg.norm(self._up), self._position - self._target
        turned = math.cos(angle) * arm + math.sin(angle) * np.cross(axis, arm)
        turned += (1 - math.cos(angle)) * (axis @ arm) * axis
        return look_at(self._target + turned, self._target, self._up)


def viewpoints(configs: Mapping[str, ViewConfig]) -> dict[str, Viewpoint]:
    """All virtual cameras by name.

    Raises:
        ConfigError: if one of them cannot stand as configured.
    """
    return {name: Viewpoint(name, config) for name, config in configs.items()}


def locate(frame: Frame, parent: str) -> tuple[np.ndarray, str]:
    """Where a frame is at the stamp of an image.

    Args:
        frame: image with its pose and the transforms that were looked up for it.
        parent: `camera`, `world` or the name of a frame.

    Returns:
        `T_camera_parent` [4, 4], and the true name of that frame.

    Raises:
        PoseUnavailableError: `no_pose` or `no_transform`.
    """
    if parent in (CAMERA, frame.frame_id):
        return np.eye(4), frame.frame_id
    if parent in frame.transforms:
        return frame.transforms[parent], parent
    if parent not in (WORLD, frame.world_frame):
        raise PoseUnavailableError(
            f'no transform from {parent!r} to {frame.frame_id!r} at the stamp of the image; is '
            'the name right, and does somebody broadcast it?',
            'no_transform',
        )
    if frame.T_world_camera is None:
        raise PoseUnavailableError('the pose of the camera is not known', 'no_pose')
    return inverse(frame.T_world_camera), frame.world_frame
