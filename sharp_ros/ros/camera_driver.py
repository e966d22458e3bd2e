"""A source as a camera on a robot: its frames, published in real time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import threading
import time
from typing import Protocol

import cv2
from nav_msgs.msg import Odometry
import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    depth_to_msg,
    image_to_msg,
    odometry_to_msg,
)
from sharp_ros.sources import Source

CAMERA = '/camera'
WORLD = 'odom'
_SAME_SHAPE = 0.01  # of the ratio of the sides


class Observer(Protocol):
    """Who follows what a `CameraDriver` sends."""

    def expect(self, stamp_ns: int, frame: Frame) -> None:
        """A frame is about to be published with this stamp."""


class CameraDriver:
    """Publishes the frames of a source in real time, as a camera driver does.

    Stamps are those of the moment of publishing, so that ages mean the same for a recording as
    for a camera. One camera has one size of image: pictures of the shape of the first one are
    resized to it, others are skipped.

    Args:
        peer: node that owns the publishers.
        source: where frames come from.
        observer: called with every frame and its truth, before it is sent.
        with_depth: whether to publish the depth of the source on the topic the node reads.
        say: called, in the thread of the camera, with a line about what is skipped.

    Attributes:
        sent: frames so far.
        over: whether the source has ended.
        error: with which it has ended.
    """

    def __init__(
        self,
        peer: Node,
        source: Source,
        observer: Observer,
        with_depth: bool,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._source = source
        self._observer = observer
        self._now = lambda: peer.get_clock().now().nanoseconds
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._image = peer.create_publisher(Image, f'{CAMERA}/image', best_effort)
        self._info = peer.create_publisher(CameraInfo, f'{CAMERA}/camera_info', best_effort)
        self._odometry = peer.create_publisher(Odometry, f'{CAMERA}/odometry', 10)
        topic = f'{CAMERA}/depth' if with_depth else f'{CAMERA}/true_depth'
        self._depth = peer.create_publisher(Image, topic, best_effort)
        self.sent, self.over = 0, False
        self._first: Intrinsics | None = None  # of the first image
        self._skipped: set[tuple[int, int]] = set()  # sizes of what was
        self._say = say
        self.error: Exception | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name='camera', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the stream."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        try:
            # a driver's first frames would only be lost while the node is still being discovered
            outputs = (self._image, self._info)
            while not all(p.get_subscription_count() for p in outputs):
                if self._stopping.wait(0.01):
                    return
            period, due = 1 / self._source.rate_hz, time.monotonic()
            for frame in self._source.frames():
                late = time.monotonic() - due
                if late > period:
                    due += late  # never catch up with a burst
                if self._stopping.wait(max(0.0, -late)):
                    return
                due += period
                fitting = self._fitting(frame)
                if fitting is not None:
                    self._publish(fitting)
            self.over = True
        except Exception as error:  # shown by the main thread
            self.error = error

    def _fitting(self, frame: Frame) -> Frame | None:
        """The frame as the first one is, in size and lens; None where it has another shape."""
        first = self._first = self._first or frame.intrinsics
        k = frame.intrinsics
        if (k.width, k.height) == (first.width, first.height):
            return frame
        shape = k.width * first.height / (k.height * first.width)
        if frame.depth is not None or abs(shape - 1) > _SAME_SHAPE:
            if (k.width, k.height) not in self._skipped:
                self._skipped.add((k.width, k.height))
                self._say(
                    f'skipped: what is {k.width}x{k.height}, where the first image is '
                    f'{first.width}x{first.height}; give pictures of one shape'
                )
            return None
        image = cv2.resize(frame.image, (first.width, first.height), interpolation=cv2.INTER_AREA)
        k = k.resized(first.width, first.height)
        # a digit in the last place would make two cameras of them
        return replace(frame, image=image, intrinsics=first if _alike(k, first) else k)

    def _publish(self, frame: Frame) -> None:
        stamp_ns, frame_id = self._now(), frame.frame_id
        self._observer.expect(stamp_ns, frame)
        pose = frame.T_world_camera
        if pose is not None:
            self._odometry.publish(odometry_to_msg(pose, stamp_ns, WORLD, frame_id))
        if frame.depth is not None and self._depth.get_subscription_count():
            self._depth.publish(depth_to_msg(frame.depth, stamp_ns, frame_id))
        self._info.publish(camera_info_to_msg(frame.intrinsics, stamp_ns, frame_id))
        self._image.publish(image_to_msg(frame.image, stamp_ns, frame_id))
        self.sent += 1


def _alike(a: Intrinsics, b: Intrinsics) -> bool:
    return bool(np.allclose(a.parameters, b.parameters, rtol=_SAME_SHAPE, atol=0))
