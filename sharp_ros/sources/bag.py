"""ROS 1 and ROS 2 bags, read without ROS."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
import logging
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np

from sharp_ros.camera import Frame, MeasuredUp
from sharp_ros.errors import InputError
from sharp_ros.localization.imu_gravity import ImuGravity
from sharp_ros.rectification import CameraModel, Rectifier
from sharp_ros.ros import conversions
from sharp_ros.se3 import inverse, matrix_from_quat, PoseBuffer, transform
from sharp_ros.sources.base import (
    assumed_hfov,
    MAX_STAMP_DIFFERENCE_NS,
    pose_at,
    pose_buffer,
    WORLD,
)

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

_RAW, _COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
_INFO, _ODOMETRY, _TF, _IMU = (
    'sensor_msgs/msg/CameraInfo',
    'nav_msgs/msg/Odometry',
    'tf2_msgs/msg/TFMessage',
    'sensor_msgs/msg/Imu',
)
_LOOK_AHEAD_NS = 1_000_000_000  # by which gravity is known better than when an image was taken
_DEPTH_ENCODINGS = ('16UC1', '32FC1')
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Topics:
    """What is read from a bag."""

    image: Connection
    info: Connection | None
    depth: Connection | None
    odometry: Connection | None
    imu: Connection | None


class BagSource:
    """Images of a ROS 1 or ROS 2 bag with calibration, odometry and registered depth if recorded.

    Poses come from the first `nav_msgs/Odometry` topic, whose z is up by contract (REP-105),
    wherever the camera looks; if its child frame is not the camera, `/tf_static` has to connect
    the two. Likewise for gravity from the first `sensor_msgs/Imu`.

    Args:
        path: folder with metadata.yaml, or *.mcap, *.db3, *.bag.
        hfov: horizontal field of view in radians, used without camera_info.
        image_topic: which to read, raw or compressed.

    Raises:
        InputError: `unreadable_bag`, `no_image_topic`.
    """

    def __init__(
        self,
        path: Path,
        hfov: float | None,
        image_topic: str | None,
    ) -> None:
        self.name, self._path, self._topic = str(path), path, image_topic
        with self._open() as reader:
            topics = self._choose(reader)
            count = topics.image.msgcount
            duration = reader.duration / 1e9
            self._model = self._read_model(reader, topics)
            header = next(self._messages(reader, topics.image)).header
            tree = self._read_static(reader)
            self._poses, pose_note = self._read_poses(reader, topics, tree, header.frame_id)
            self._R_camera_imu, imu_note = self._read_mounting(
                reader, topics, tree, header.frame_id
            )
        self.rate_hz = (count - 1) / duration if count > 1 and duration > 0 else 30.0
        basename = topics.image.topic.removesuffix('/compressed').rsplit('/', 1)[-1]
        self._rectified = 'rect' in basename
        self._fallback, note = assumed_hfov(hfov)
        calibrated = self._model is not None and self._model.K[0] != 0
        notes = [
            f'image topic {topics.image.topic}',
            '' if calibrated else note,
            pose_note,
            imu_note,
        ]
        self.note = '; '.join(filter(None, notes))

    @contextmanager
    def _open(self) -> Iterator[AnyReader]:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import get_typestore, Stores

        try:
            store = get_typestore(Stores.ROS2_HUMBLE)  # for db3 files, which may lack definitions
            with AnyReader([self._path], default_typestore=store) as reader:
                yield reader
        except InputError:
            raise
        except Exception as error:  # damaged files raise whatever the decoders below raise
            raise InputError(
                f'cannot read bag {self._path}: {error}; check it with "ros2 bag info", repair '
                'it with "ros2 bag reindex", or record it again',
                'unreadable_bag',
            ) from error

    def _messages(self, reader: AnyReader, *connections: Connection) -> Iterator[Any]:
        for _, message in self._by_topic(reader, *connections):
            yield message

    def _by_topic(self, reader: AnyReader, *connections: Connection) -> Iterator[tuple[str, Any]]:
        for connection, _, data in reader.messages(connections=connections):
            yield connection.topic, reader.deserialize(data, connection.msgtype)

    def _choose(self, reader: AnyReader) -> _Topics:
        recorded = sorted((c for c in reader.connections if c.msgcount), key=lambda c: c.topic)

        def of(*types: str) -> list[Connection]:
            return [c for c in recorded if c.msgtype in types]

        images: list[Connection] = []
        depths: dict[str, Connection] = {}
        frames: dict[str, str] = {}
        for connection in (*of(_RAW), *of(_COMPRESSED)):
            first = next(self._messages(reader, connection))
            frames[connection.topic] = first.header.frame_id
            if getattr(first, 'encoding', '') in _DEPTH_ENCODINGS:
                depths.setdefault(first.header.frame_id, connection)
            elif 'compressedDepth' not in getattr(first, 'format', ''):
                images.append(connection)
        named = [c for c in images if self._topic in (None, c.topic)]
        if not named:
            present = ', '.join(f'{c.topic} ({c.msgtype})' for c in recorded) or 'no messages'
            wanted = self._topic or 'sensor_msgs/Image or CompressedImage'
            raise InputError(
                f'bag {self._path} has no image topic {wanted}; it holds {present}; name an image '
                'topic or record one',
                'no_image_topic',
            )
        image, infos = named[0], of(_INFO)
        # camera/image_raw, camera/image_raw/compressed and camera/camera_info belong together.
        parents = (image.topic.rsplit('/', 1)[0], image.topic.rsplit('/', 2)[0])
        beside = [c for c in infos if c.topic in [f'{parent}/camera_info' for parent in parents]]
        info = next(iter(beside or (infos if len(infos) == 1 else [])), None)
        # Depth in the frame of the colour camera is registered to it; any other is not.
        depth = depths.get(frames[image.topic])
        odometry, imu = (next(iter(of(kind)), None) for kind in (_ODOMETRY, _IMU))
        return _Topics(image, info, depth, odometry, imu)

    def _read_model(self, reader: AnyReader, topics: _Topics) -> CameraModel | None:
        if topics.info is None:
            return None
        return conversions.camera_model_from_msg(next(self._messages(reader, topics.info)))

    def _read_static(self, reader: AnyReader) -> _StaticTree:
        static = [c for c in reader.connections if c.msgtype == _TF and 'static' in c.topic]
        links = self._messages(reader, *static) if static else ()
        return _StaticTree([link for message in links for link in message.transforms])

    def _read_mounting(
        self, reader: AnyReader, topics: _Topics, tree: _StaticTree, camera_frame: str
    ) -> tuple[np.ndarray | None, str]:  # [3, 3]
        if topics.imu is None:
            return None, ''
        imu_frame = next(self._messages(reader, topics.imu)).header.frame_id
        T_camera_imu = tree.lookup(camera_frame, imu_frame)
        if T_camera_imu is None:
            return None, (
                f'no gravity: the IMU is in {imu_frame}, the camera is {camera_frame}, and '
                '/tf_static does not connect them'
            )
        return T_camera_imu[:3, :3], f'gravity from {topics.imu.topic}'

    def _read_poses(
        self, reader: AnyReader, topics: _Topics, tree: _StaticTree, camera_frame: str
    ) -> tuple[PoseBuffer, str]:
        poses: list[tuple[int, np.ndarray]] = []
        if topics.odometry is None:
            return pose_buffer(poses), 'no odometry, so no poses'
        for message in self._messages(reader, topics.odometry):
            stamp, _, child, T_world_child = conversions.pose_from_odometry(message)
            T_child_camera = tree.lookup(child, camera_frame)
            if T_child_camera is None:
                return pose_buffer([]), (
                    f'no poses: odometry is of {child}, the camera is {camera_frame}, and '
                    '/tf_static does not connect them'
                )
            poses.append((stamp, T_world_child @ T_child_camera))
        return pose_buffer(poses), ''

    def frames(self) -> Iterator[Frame]:
        """All decodable images in the order they were recorded."""
        count = 0
        with self._open() as reader, self._open() as beside:
            topics, imu = self._choose(reader), None
            if topics.imu is not None and self._R_camera_imu is not None:
                connection = next(c for c in beside.connections if c.topic == topics.imu.topic)
                imu = _RecordedImu(self._messages(beside, connection), self._R_camera_imu)
            decode = _BagDecoder(self._model, self._rectified, self._fallback)
            for image, depth in self._with_depth(reader, topics):
                try:
                    frame = decode(image, depth)
                except InputError as error:
                    _log.warning('%s: image skipped: %s', self.name, error)
                    continue
                count += 1
                if imu is not None:
                    frame = replace(frame, up=imu.up(frame.stamp_ns))
                yield frame.placed(pose_at(self._poses, frame.stamp_ns), WORLD)
        if not count:
            raise InputError(
                f'no image of {topics.image.topic} in {self.name} could be decoded; see the '
                'warnings above',
                'unreadable_bag',
            )

    def _with_depth(self, reader: AnyReader, topics: _Topics) -> Iterator[tuple[Any, Any | None]]:
        """Each image with the depth image closest in time; depth may be recorded later."""
        if topics.depth is None:
            for image in self._messages(reader, topics.image):
                yield image, None
            return
        images: deque[tuple[int, Any]] = deque()
        depths: deque[tuple[int, Any]] = deque(maxlen=8)

        def join(stamp: int, image: Any) -> tuple[Any, Any | None]:
            best = min(depths, key=lambda d: abs(d[0] - stamp), default=None)
            near = best is not None and abs(best[0] - stamp) <= MAX_STAMP_DIFFERENCE_NS
            return image, best[1] if near and best is not None else None

        for topic, message in self._by_topic(reader, topics.image, topics.depth):
            queue = images if topic == topics.image.topic else depths
            queue.append((conversions.stamp_ns_from_msg(message.header), message))
            # A depth image at least as new is there, or it will hardly come any more.
            while images and ((depths and depths[-1][0] >= images[0][0]) or len(images) > 4):
                yield join(*images.popleft())
        while images:
            yield join(*images.popleft())


class _BagDecoder:
    """Messages to frames; keeps the rectification maps."""

    def __init__(self, model: CameraModel | None, rectified: bool, fallback_hfov: float) -> None:
        self._model, self._rectified, self._fallback = model, rectified, fallback_hfov
        self._rectifiers: dict[tuple[int, int], Rectifier] = {}

    def __call__(self, message: Any, depth_message: Any | None) -> Frame:
        raw = hasattr(message, 'encoding')
        decode = conversions.image_from_msg if raw else conversions.compressed_from_msg
        image = decode(message)
        size = (image.shape[1], image.shape[0])
        if size not in self._rectifiers:
            model = self._model or CameraModel(*size)
            self._rectifiers[size] = Rectifier(model, self._rectified, self._fallback, size)
        rectifier = self._rectifiers[size]
        depth = None
        if depth_message is not None:
            depth = conversions.depth_from_msg(depth_message)
            # Depth of another size is of another camera, and not registered to this one.
            depth = rectifier.rectify_depth(depth) if depth.shape == image.shape[:2] else None
        return Frame(
            np.ascontiguousarray(rectifier.rectify(image)),
            rectifier.intrinsics,
            conversions.stamp_ns_from_msg(message.header),
            message.header.frame_id,
            depth=depth,
            unseen=rectifier.unseen,
        )


class _RecordedImu:
    """Which way is up in the camera, from messages that are read as images come."""

    def __init__(self, messages: Iterator[Any], R_camera_imu: np.ndarray) -> None:
        self._messages, self._R_camera_imu = messages, R_camera_imu
        self._gravity = ImuGravity()

    def up(self, stamp_ns: int) -> MeasuredUp | None:
        """At the stamp of an image; None where the recording does not tell."""
        newest_ns = self._gravity.newest_ns
        while newest_ns is None or newest_ns < stamp_ns + _LOOK_AHEAD_NS:
            message = next(self._messages, None)
            if message is None:
                break
            with suppress(InputError):  # of what cannot be used
                self._gravity.add(conversions.imu_from_msg(message))
            newest_ns = self._gravity.newest_ns
        try:
            return self._gravity.up(stamp_ns).turned(self._R_camera_imu)
        except InputError:
            return None


class _StaticTree:
    """Frames connected by `/tf_static`."""

    def __init__(self, links: Sequence[Any]) -> None:
        self._parents: dict[str, tuple[str, np.ndarray]] = {}
        for link in links:
            p, q = link.transform.translation, link.transform.rotation
            rotation = matrix_from_quat(np.array([q.w, q.x, q.y, q.z]))
            T_parent_child = transform(rotation, np.array([p.x, p.y, p.z]))
            parent = link.header.frame_id.lstrip('/')
            self._parents[link.child_frame_id.lstrip('/')] = (parent, T_parent_child)

    def lookup(self, target: str, source: str) -> np.ndarray | None:
        """`T_target_source`, or None if nothing connects them."""
        up_source = self._ancestors(source.lstrip('/'))
        for frame, T_frame_target in self._ancestors(target.lstrip('/')).items():
            if frame in up_source:
                return inverse(T_frame_target) @ up_source[frame]
        return None

    def _ancestors(self, frame: str) -> dict[str, np.ndarray]:
        """`T_ancestor_frame` of a frame and all above it."""
        result = {frame: np.eye(4)}
        pose = np.eye(4)
        while frame in self._parents and self._parents[frame][0] not in result:
            frame, T_parent_frame = self._parents[frame]
            pose = T_parent_frame @ pose
            result[frame] = pose
        return result
