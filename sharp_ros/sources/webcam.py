"""A camera of this computer, by OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import math
import time

import cv2

from sharp_ros.camera import Frame
from sharp_ros.errors import InputError
from sharp_ros.sources.base import assumed_intrinsics, assumption, CAMERA
from sharp_ros.sources.stock import Stock


class WebcamSource:
    """A live camera, stamped by the wall clock on arrival.

    Args:
        device: index, or path of a video device.
        hfov: horizontal field of view, radians.

    Raises:
        InputError: `camera_unavailable` if it is missing, busy or not permitted.
    """

    def __init__(self, device: str | int, hfov: float | None) -> None:
        self.name = f'camera {device}'
        self._device, self._hfov = device, hfov
        self.note = assumption(hfov)
        self.stock = Stock(self.name, 'camera')
        with self._open() as capture:
            rate = capture.get(cv2.CAP_PROP_FPS)
            self.rate_hz = float(rate) if math.isfinite(rate) and rate > 0 else 30.0

    @contextmanager
    def _open(self) -> Iterator[cv2.VideoCapture]:
        message = (
            f'{self.name} cannot be opened; check that it is plugged in (ls /dev/video*), that no '
            'other program uses it, and that you are in the group "video"'
        )
        capture = cv2.VideoCapture(self._device)
        try:
            if not capture.isOpened():
                raise InputError(message, 'camera_unavailable')
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest image, not the oldest kept
            yield capture
        finally:
            capture.release()

    def frames(self) -> Iterator[Frame]:
        """Images until the camera is taken away."""
        with self._open() as capture:
            while True:
                read, bgr = capture.read()
                if not read:
                    raise InputError(
                        f'{self.name} stopped delivering; plug it in and start again',
                        'camera_unavailable',
                    )
                stamp_ns, (height, width) = time.time_ns(), bgr.shape[:2]
                intrinsics = assumed_intrinsics(self._hfov, width, height)
                yield Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), intrinsics, stamp_ns, CAMERA)
