"""Raw messages to a rectified `Frame`, on the worker thread, for the one frame that is wanted."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharp_ros.camera import check_registered, Frame
from sharp_ros.config import CameraConfig
from sharp_ros.errors import InputError
from sharp_ros.rectification import CameraModel, Rectifier
from sharp_ros.ros.conversions import (
    camera_model_from_msg,
    compressed_from_msg,
    depth_from_msg,
    frame_id_from_msg,
    image_from_msg,
    stamp_ns_from_msg,
)


@dataclass(frozen=True)
class RawFrame:
    """Messages that belong together, not decoded yet.

    Attributes:
        image: sensor_msgs/Image or sensor_msgs/CompressedImage.
        info: sensor_msgs/CameraInfo, or None while none was received.
        depth: sensor_msgs/Image registered to the image, for models that need it.
    """

    image: Any
    info: Any | None
    depth: Any | None = None


class FrameDecoder:
    """Decodes and rectifies frames of one camera, keeping the rectification maps.

    Args:
        config: transport, whether images are rectified, fallback field of view.
    """

    def __init__(self, config: CameraConfig) -> None:
        self._config = config
        self._decode = {'raw': image_from_msg, 'compressed': compressed_from_msg}[config.transport]
        self._key: tuple[CameraModel | None, tuple[int, int]] | None = None
        self._rectifier: Rectifier | None = None

    def decode(self, raw: RawFrame) -> Frame:
        """The rectified frame of a set of messages, without a pose.

        Raises:
            InputError: with the reason it is counted under.
        """
        image = self._decode(raw.image)
        rectifier = self._rectifier_for(raw.info, (image.shape[1], image.shape[0]))
        depth = None
        if raw.depth is not None:
            depth = depth_from_msg(raw.depth)
            remedy = 'use the registered depth topic of the driver'
            check_registered(depth, image.shape[:2], remedy=remedy)
            depth = rectifier.rectify_depth(depth)
        return Frame(
            image=np.ascontiguousarray(rectifier.rectify(image)),
            intrinsics=rectifier.intrinsics,
            stamp_ns=stamp_ns_from_msg(raw.image.header),
            frame_id=frame_id_from_msg(raw.image),
            depth=depth,
            unseen=rectifier.unseen,
            rectifier=rectifier,
        )

    def _rectifier_for(self, info: Any | None, size: tuple[int, int]) -> Rectifier:
        if info is None:
            if not self._config.fallback_hfov:
                raise InputError(
                    'no camera_info received; remap the topic "camera_info" or set '
                    'camera.fallback_hfov',
                    'no_camera_info',
                )
            model = CameraModel(width=size[0], height=size[1])
        else:
            model = camera_model_from_msg(info)
        key = (model, size)
        if key != self._key or self._rectifier is None:
            config = self._config
            self._rectifier = Rectifier(model, config.rectified, config.fallback_hfov, size)
            self._key = key
        return self._rectifier


class StampPairs:
    """Joins images with the depth images of (nearly) the same stamp.

    Args:
        tolerance: largest difference of stamps, seconds.
        capacity: how many unmatched messages of each kind are kept.
    """

    def __init__(self, tolerance: float, capacity: int = 4) -> None:
        self._tolerance_ns = int(tolerance * 1e9)
        self._capacity = capacity
        self._waiting: tuple[OrderedDict[int, Any], OrderedDict[int, Any]] = (
            OrderedDict(),
            OrderedDict(),
        )

    def add_image(self, image: Any) -> tuple[tuple[Any, Any] | None, int]:
        """(image, depth) if the partner is there, and how many images were given up."""
        depth = self._match(0, image)
        return (None if depth is None else (image, depth)), self._evict(0)

    def add_depth(self, depth: Any) -> tuple[tuple[Any, Any] | None, int]:
        """As `add_image`, for the other kind; given up depth images are not counted."""
        image = self._match(1, depth)
        self._evict(1)
        return (None if image is None else (image, depth)), 0

    def _match(self, kind: int, msg: Any) -> Any | None:
        stamp = stamp_ns_from_msg(msg.header)
        others = self._waiting[1 - kind]
        best = min(others, key=lambda s: abs(s - stamp), default=None)
        if best is not None and abs(best - stamp) <= self._tolerance_ns:
            return others.pop(best)
        self._waiting[kind][stamp] = msg
        return None

    def _evict(self, kind: int) -> int:
        waiting = self._waiting[kind]
        lost = max(0, len(waiting) - self._capacity)
        for _ in range(lost):
            waiting.popitem(last=False)
        return lost
