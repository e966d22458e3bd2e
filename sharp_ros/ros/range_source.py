"""The distance that a range finder measured when an image was taken."""

from __future__ import annotations

from collections import deque
import threading
from typing import Any

from sharp_ros.camera import Frame, RangeReading
from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError
from sharp_ros.ros.conversions import range_from_msg, range_from_scan
from sharp_ros.ros.mounting import Mounting
from sharp_ros.ros.transforms import Transforms

_NEAR_NS = 60_000_000  # between an image and the reading that is used for it
_KEPT = 200  # readings, since images wait while others are processed


class RangeSource:
    """Takes in readings on one thread, while another asks for that of an image.

    Args:
        config: the kind of message, and the tolerance of tf.
        transforms: that place the sensor.
    """

    def __init__(self, config: SharpConfig, transforms: Transforms) -> None:
        self._read = {'range': range_from_msg, 'scan': range_from_scan}[config.range.message]
        tolerance = config.pose.tolerance
        self._mounting = Mounting(transforms, tolerance, 'range finder', 'range_unplaced')
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, str, RangeReading | None]] = deque(maxlen=_KEPT)
        transforms.listen()

    def add(self, msg: Any) -> None:
        """Take in one message.

        Raises:
            InputError: `bad_range`, see `range_from_msg`.
        """
        sample = self._read(msg)
        with self._lock:
            self._kept.append(sample)

    def reading(self, frame: Frame, end: float) -> RangeReading | None:
        """The reading nearest to a frame, in its optical frame; None where nothing was in range.

        Args:
            frame: with its stamp.
            end: of the time to wait for transforms, by `time.monotonic`.

        Raises:
            InputError: `no_range_yet`; `range_too_old` if none was taken when the image was;
                `range_unplaced` if tf does not place the sensor; `range_outside_image` if the
                camera does not see where the ray ends.
        """
        stamp_ns = frame.stamp_ns
        with self._lock:
            best = min(self._kept, key=lambda kept: abs(kept[0] - stamp_ns), default=None)
        if best is None:
            raise InputError('no reading of the range finder has come', 'no_range_yet')
        apart_ns, sensor, reading = abs(best[0] - stamp_ns), *best[1:]
        if apart_ns > _NEAR_NS:
            raise InputError(
                f'the nearest reading of the range finder is {apart_ns / 1e9:.3f} s from the '
                'image; is its driver running, and do both use one clock?',
                'range_too_old',
            )
        if reading is None:
            return None
        if sensor != frame.frame_id:
            remedy = f'publish its frame {sensor!r} to tf'
            reading = reading.moved(self._mounting.T_camera_sensor(frame, sensor, end, remedy))
        if not reading.is_in(frame.intrinsics):
            x, y, z = reading.point
            raise InputError(
                'the range finder measures outside of the image, at '
                f'({x:.2f}, {y:.2f}, {z:.2f}) m in the optical frame; check its mounting in tf, '
                'or aim it where the camera looks',
                'range_outside_image',
            )
        return reading
