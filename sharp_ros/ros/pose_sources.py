"""Where the pose of the camera at the stamp of an image comes from."""

from __future__ import annotations

import threading
from typing import Protocol

import numpy as np

from sharp_ros.config import PoseConfig
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.ros.conversions import pose_from_odometry
from sharp_ros.se3 import PoseBuffer, matrix_from_quat, transform

_HISTORY = 10.0  # seconds of poses kept; an image older than that is of no use


class PoseSource(Protocol):
    """Gives the pose of a camera frame in a world frame at a stamp."""

    def lookup(self, stamp_ns: int, camera_frame: str) -> tuple[np.ndarray, str]:
        """`T_world_camera` [4, 4] at the stamp, and the name of the world frame.

        Raises:
            PoseUnavailableError: with the reason under which it is counted.
        """
        ...


class NoPose:
    """`pose.source: none`: the camera is never placed, so nothing is mapped."""

    def lookup(self, stamp_ns: int, camera_frame: str) -> tuple[np.ndarray, str]:
        """Always raises; see `PoseSource`."""
        raise PoseUnavailableError('pose.source is "none"', 'pose_source_none')


class OdometrySource:
    """Poses of an odometry topic, interpolated at the stamp of the image.

    Messages come in on one thread while another waits in `lookup` for the pose that follows the
    image.

    Args:
        config: tolerance, gap, waiting time, and where the camera sits on the child frame.
    """

    def __init__(self, config: PoseConfig) -> None:
        self._config = config
        self._buffer = PoseBuffer(_HISTORY, config.max_gap, config.tolerance)
        self._frames = ('', '')
        self._news = threading.Condition()
        self._T_base_camera: np.ndarray | None = None
        offset = np.array(config.base_to_camera)
        if np.any(offset[3:]):
            rotation = matrix_from_quat(offset[[6, 3, 4, 5]])
            self._T_base_camera = transform(rotation, offset[:3])

    def add(self, msg: object) -> bool:
        """Take in one `nav_msgs/Odometry`; False when time went back and history was dropped.

        Raises:
            InputError: if the pose is not finite or its quaternion is zero.
        """
        stamp_ns, world, child, T_world_child = pose_from_odometry(msg)
        with self._news:
            if (world, child) != self._frames:
                self._buffer.clear()
                self._frames = (world, child)
            forward = self._buffer.add(stamp_ns, T_world_child)
            self._news.notify_all()
        return forward

    def lookup(self, stamp_ns: int, camera_frame: str) -> tuple[np.ndarray, str]:
        """See `PoseSource`; waits up to `pose.wait` for a pose as new as the image.

        There is no waiting for a stream that never began or that broke off.
        """
        with self._news:
            self._news.wait_for(lambda: not self._is_due(stamp_ns), self._config.wait)
            world, child = self._frames
            T_world_child = self._buffer.lookup(stamp_ns)
        if self._T_base_camera is not None:
            return T_world_child @ self._T_base_camera, world
        if child != camera_frame:
            raise PoseUnavailableError(
                f'odometry places {child!r} but the image is from {camera_frame!r}; set '
                'pose.base_to_camera to the pose of the optical frame in the odometry child frame',
                'unknown_mounting',
            )
        return T_world_child, world

    def _is_due(self, stamp_ns: int) -> bool:
        """Whether the pose that follows the stamp should arrive any moment."""
        newest_ns = self._buffer.newest_ns
        return newest_ns is not None and 0 < stamp_ns - newest_ns < self._config.max_gap * 1e9


def make_pose_source(config: PoseConfig) -> PoseSource:
    """The source that `pose.source` names."""
    return {'odometry': lambda: OdometrySource(config), 'none': NoPose}[config.source]()
