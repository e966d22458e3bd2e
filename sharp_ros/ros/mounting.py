"""How a sensor is mounted beside the camera, as tf says."""

from __future__ import annotations

from dataclasses import dataclass
import time

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.ros.transforms import Transforms


@dataclass(frozen=True)
class Mounting:
    """Looks up a sensor in the optical frame of an image.

    Attributes:
        transforms: of tf.
        tolerance: of the stamps of tf, seconds.
        sensor: its name for messages.
        reason: short snake_case key, where tf does not place it.
    """

    transforms: Transforms
    tolerance: float
    sensor: str
    reason: str

    def T_camera_sensor(
        self, frame: Frame, sensor_frame: str, end: float, remedy: str
    ) -> np.ndarray:  # -> [4, 4]
        """Pose of the sensor at the stamp of a frame.

        Args:
            frame: with its stamp.
            sensor_frame: of its messages.
            end: of the time to wait for transforms, by `time.monotonic`.
            remedy: what to do where there is none.

        Raises:
            InputError: with `reason` if tf does not place the sensor.
        """
        wait = max(0.0, end - time.monotonic())
        try:
            return self.transforms.lookup(
                frame.frame_id, sensor_frame, frame.stamp_ns, wait, self.tolerance
            )
        except PoseUnavailableError as error:
            raise InputError(
                f'how the {self.sensor} is mounted is not known ({error}): {remedy}', self.reason
            ) from error
