"""Which way is up at the stamp of an image, from the IMU of the robot."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

import numpy as np

from sharp_ros.camera import Frame, MeasuredUp
from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError
from sharp_ros.localization.imu_gravity import ImuGravity
from sharp_ros.ros.conversions import imu_from_cdr, imu_from_msg
from sharp_ros.ros.mounting import Mounting
from sharp_ros.ros.transforms import Transforms
from sharp_ros.se3 import matrix_from_quat

_PAUSE = 0.002  # seconds between two looks for a sample that is due
_ALIVE_NS = 500_000_000  # by which a stream may lag behind an image that waits for it


class ImuSource:
    """Says what is up in a frame, by the samples that have come.

    Args:
        config: where IMU and camera sit on the base, and the tolerance of tf.
        transforms: to look up the IMU where the configuration does not place it.

    Attributes:
        poll: adds the samples that have come since; for the thread that asks.
    """

    def __init__(self, config: SharpConfig, transforms: Transforms) -> None:
        self._base_frame = config.pose.base_frame
        self._mounting = Mounting(transforms, config.pose.tolerance, 'IMU', 'imu_unplaced')
        self._gravity = ImuGravity()
        self.poll: Callable[[], None] = lambda: None
        self._R_base_imu = _rotation(config.imu.base_to_imu)
        self._R_base_camera = _rotation(config.pose.base_to_camera)
        if self._R_base_imu is None:
            transforms.listen()

    def add(self, msg: Any) -> None:
        """Take in one `sensor_msgs/Imu`, or its bytes as they were sent.

        Raises:
            InputError: see `ImuGravity.add`.
        """
        read = imu_from_cdr if isinstance(msg, bytes) else imu_from_msg
        self._gravity.add(read(msg))

    def up(self, frame: Frame, end: float) -> MeasuredUp:
        """Upwards in the optical frame at the stamp of a frame.

        There is no waiting for a stream that never began or that broke off.

        Args:
            frame: with the transform of the robot's frame, if that places the IMU.
            end: of the time to wait for samples and transforms, by `time.monotonic`.

        Raises:
            InputError: `imu_unplaced` if nothing says how the IMU is mounted; see also
                `ImuGravity.up`.
        """
        self.poll()
        while self._is_due(frame.stamp_ns) and time.monotonic() < end:
            time.sleep(_PAUSE)
            self.poll()
        up = self._gravity.up(frame.stamp_ns)
        return up.turned(self._R_camera_imu(frame, self._gravity.frame_id, end))

    def _is_due(self, stamp_ns: int) -> bool:
        """Whether the sample that follows the stamp should arrive any moment."""
        reaches_ns = self._gravity.reaches_ns
        return reaches_ns is not None and 0 < stamp_ns - reaches_ns < _ALIVE_NS

    def _R_camera_imu(self, frame: Frame, imu_frame: str, end: float) -> np.ndarray:
        if self._R_base_imu is not None:
            return self._R_camera_base(frame) @ self._R_base_imu
        if not imu_frame:
            raise InputError(
                'the IMU names no frame: fill header.frame_id in its driver, or set '
                'imu.base_to_imu',
                'imu_unplaced',
            )
        if imu_frame == frame.frame_id:
            return np.eye(3)
        remedy = 'publish its frame to tf, or set imu.base_to_imu'
        return self._mounting.T_camera_sensor(frame, imu_frame, end, remedy)[:3, :3]

    def _R_camera_base(self, frame: Frame) -> np.ndarray:
        """The base as `imu.base_to_imu` means it."""
        if self._R_base_camera is not None:
            return self._R_base_camera.T
        if not self._base_frame:
            return np.eye(3)
        if self._base_frame not in frame.transforms:
            raise InputError(
                f'imu.base_to_imu places the IMU on {self._base_frame}, which tf does not place',
                'imu_unplaced',
            )
        return frame.transforms[self._base_frame][:3, :3]


def _rotation(extrinsics: tuple[float, ...]) -> np.ndarray | None:  # -> [3, 3]
    """Of x y z qx qy qz qw; None if the quaternion is 0."""
    quat = np.array(extrinsics)[[6, 3, 4, 5]]
    return matrix_from_quat(quat) if np.any(quat) else None
