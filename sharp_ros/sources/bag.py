"""ROS 1 and ROS 2 bags and Foxglove's MCAP files, read without ROS."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sharp_ros.camera import Frame, MeasuredUp
from sharp_ros.errors import InputError
from sharp_ros.images import check_meaningful
from sharp_ros.localization.imu_gravity import ImuGravity
from sharp_ros.rectification import CameraModel, Rectifier
from sharp_ros.ros import conversions
from sharp_ros.sources.bag_poses import BagPoses, Clock
from sharp_ros.sources.bag_topics import choose_depth, choose_image, choose_info, Looked
from sharp_ros.sources.base import (
    assumed_intrinsics,
    assumption,
    LEVEL_WORLD,
    MAX_STAMP_DIFFERENCE_NS,
)
from sharp_ros.sources.grey import GreyRange
from sharp_ros.sources.recorded_tf import RecordedTree
from sharp_ros.sources.recording import open_recording, Recording, Topic
from sharp_ros.sources.stock import Stock
from sharp_ros.sources.up import turned_up
from sharp_ros.sources.video import PacketDecoder

_LOOK_AHEAD_NS = 1_000_000_000  # by which gravity is known better than when an image was taken
_WAITING = 4  # images that wait for their depth
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Topics:
    """What is read from a bag."""

    image: Looked
    info: Topic | None
    depth: Looked | None
    imu: Topic | None


class BagSource:
    """Images of a bag with calibration, poses and registered depth if they were recorded.

    Poses come from the first `nav_msgs/Odometry` that fits, then `/tf`, then a stamped pose, whose
    z is up by contract (REP-105), wherever the camera looks. What is not of the camera itself has
    to be connected with it by tf. Likewise for gravity from the first `sensor_msgs/Imu`.

    Args:
        path: folder of bag files, or *.mcap, *.db3, *.bag, also `.zstd` and `.active` ones.
        hfov: horizontal field of view in radians, used without camera_info.
        image_topic: which to read, raw or compressed; by default the one that looks most like a
            colour camera.
        pose_offset: seconds by which the clock of the poses is ahead of that of the images;
            `auto` takes what the recorder's clock says.
        association: how far the stamp of a depth image may be from that of its image, seconds.
        up: axis of the world of the poses that is up; z by default.

    Attributes:
        stock: what the bag holds, and what becomes of it.

    Raises:
        InputError: `unreadable_bag`, `no_image_topic`.
    """

    def __init__(
        self,
        path: Path,
        hfov: float | None,
        image_topic: str | None,
        pose_offset: float | Literal['auto'] = 0.0,
        association: float = MAX_STAMP_DIFFERENCE_NS / 1e9,
        up: str | None = None,
    ) -> None:
        self._limit_ns = round(association * 1e9)
        self._T_level_world = np.eye(4) if up is None else turned_up(up)
        self.name, self._path, self._wanted = str(path), path, image_topic
        self.stock = Stock(self.name, 'bag')
        with self._open() as recording:
            topics = self._choose(recording)
            image = topics.image.topic
            self._clock = Clock.of(topics.image)
            self._models, model_note = _read_models(recording, topics.info)
            tree, gathered = BagPoses.gather(recording)
            self._poses = BagPoses(gathered, tree, topics.image, self._clock, pose_offset)
            self._mounted = tree.mounted(topics.image.frame_id)
            self._R_camera_imu, imu_note = _read_mounting(recording, topics, tree)
        duration = (image.times_ns[-1] - image.times_ns[0]) / 1e9
        count = len(image.times_ns)
        self.rate_hz = (count - 1) / duration if count > 1 and duration > 0 else 30.0
        basename = image.name.removesuffix('/compressed').rsplit('/', 1)[-1]
        self._rectified = 'rect' in basename
        self._hfov, note = hfov, assumption(hfov)
        calibrated = any(model.K[0] for _, model in self._models)
        grey = topics.image.content == 'grey16'
        notes = [
            f'image topic {image.name}',
            'its 16-bit grey is scaled to the range that is seen' if grey else '',
            'its stamps are all equal or repeated: those of the recorder are used'
            if self._clock.of_recorder
            else '',
            '' if calibrated else note,
            model_note,
            self._poses.note,
            imu_note,
        ]
        self.note = '; '.join(filter(None, notes))
        self._account(topics, calibrated)
        self.stock.mark()

    def _account(self, topics: _Topics, calibrated: bool) -> None:
        topics.image.topic.part.used_as('camera')
        topics.image.topic.part.clock = 'log' if self._clock.of_recorder else 'header'
        if topics.depth is not None:
            topics.depth.topic.part.used_as('depth')
        if topics.info is not None:
            if calibrated:
                topics.info.part.used_as('calibration')
            else:
                topics.info.part.unused('uncalibrated')
        if topics.imu is not None:
            if self._R_camera_imu is None:
                topics.imu.part.unused('not_connected')
            else:
                topics.imu.part.used_as('gravity')

    @contextmanager
    def _open(self) -> Iterator[Recording]:
        with open_recording(self._path, self.stock) as recording:
            yield recording

    def _choose(self, recording: Recording) -> _Topics:
        image, others = choose_image(self._path, recording, self._wanted)
        info = choose_info(recording, image, others)
        imus = recording.of('imu')
        for topic in imus[1:]:
            topic.part.unused('not_chosen', f'{imus[0].name} is used')
        return _Topics(image, info, choose_depth(image, others), next(iter(imus), None))

    def frames(self) -> Iterator[Frame]:
        """All decodable images in the order they were recorded."""
        self.stock.restart()
        with self._open() as recording:
            topics, imu = self._choose(recording), None
            self.stock.restart()  # choosing again has said the same again
            if topics.imu is not None and self._R_camera_imu is not None:
                messages = (message for _, _, message in recording.messages(topics.imu))
                imu = _RecordedImu(messages, self._R_camera_imu)
            decode = _BagDecoder(self._models, self._rectified, self._hfov, topics)
            part = topics.image.topic.part
            for stamp_ns, image, depth in self._with_depth(recording, topics):
                try:
                    frame = decode(stamp_ns, image, depth)
                except InputError as error:
                    if error.reason not in part.skipped:  # the others are counted
                        _log.warning('%s: image skipped: %s', self.name, error)
                    part.skip(error.reason, f'at {stamp_ns / 1e9:.3f} s: {error}')
                    continue
                if frame is None:  # of a video, whose decoder waits for more
                    continue
                self.stock.frames += 1
                if imu is not None:
                    frame = replace(frame, up=imu.up(frame.stamp_ns))
                frame = replace(frame, transforms=self._mounted)
                pose = self._poses.at(frame.stamp_ns)
                pose = None if pose is None else self._T_level_world @ pose
                yield frame.placed(pose, LEVEL_WORLD)
            decode.close(self._limit_ns)
        if not self.stock.frames:
            raise InputError(
                f'no image of {topics.image.topic.name} in {self.name} could be decoded or used: '
                f'{part.example or "its decoder gave none"}',
                'unreadable_bag',
            )

    def _with_depth(
        self, recording: Recording, topics: _Topics
    ) -> Iterator[tuple[int, Any, Any | None]]:
        """Stamp and message of each image, and the depth closest in time, maybe recorded later."""
        image_topic = topics.image.topic
        if topics.depth is None:
            for _, time, image in recording.messages(image_topic):
                yield self._clock.stamp(image.header, time), image, None
            return
        images: deque[tuple[int, Any]] = deque()
        depths: deque[tuple[int, Any]] = deque(maxlen=2 * _WAITING)

        def join(stamp: int, image: Any) -> tuple[int, Any, Any | None]:
            best = min(depths, key=lambda d: abs(d[0] - stamp), default=None)
            near = best is not None and abs(best[0] - stamp) <= self._limit_ns
            return stamp, image, best[1] if near and best is not None else None

        for topic, time, message in recording.messages(image_topic, topics.depth.topic):
            queue = images if topic.name == image_topic.name else depths
            queue.append((self._clock.stamp(message.header, time), message))
            # A depth image at least as new is there, or it will hardly come any more.
            while images and (
                (depths and depths[-1][0] >= images[0][0]) or len(images) > _WAITING
            ):
                yield join(*images.popleft())
        while images:
            yield join(*images.popleft())


def _read_models(
    recording: Recording, info: Topic | None
) -> tuple[list[tuple[int, CameraModel]], str]:
    """Each calibration from the stamp on from which it held, nanoseconds, and what was assumed."""
    models: list[tuple[int, CameraModel]] = []
    note = ''
    if info is None:
        return models, note
    for _, time, message in recording.messages(info):
        stamp = conversions.stamp_ns_from_msg(message.header) or time
        try:
            model = conversions.camera_model_from_msg(message)
        except InputError as error:
            info.part.skip(error.reason, f'at {stamp / 1e9:.3f} s: {error}')
            continue
        if not models or models[-1][1] != model:
            models.append((stamp, model))
        if conversions.is_unnamed(message):
            note = f'{info.name} names no distortion model; {model.distortion_model} taken'
    return models, note


def _read_mounting(
    recording: Recording, topics: _Topics, tree: RecordedTree
) -> tuple[np.ndarray | None, str]:  # [3, 3]
    if topics.imu is None:
        return None, ''
    first = next(recording.messages(topics.imu), None)
    if first is None:
        return None, ''
    camera_frame, imu_frame = topics.image.frame_id, first[2].header.frame_id
    T_camera_imu = tree.lookup(camera_frame, imu_frame)
    if T_camera_imu is None:
        return None, (
            f'no gravity: the IMU is in {imu_frame}, the camera is {camera_frame}, and '
            '/tf_static does not connect them'
        )
    return T_camera_imu[:3, :3], f'gravity from {topics.imu.name}'


class _BagDecoder:
    """Messages to frames; keeps the rectification maps.

    Args:
        models: calibrations by the stamp from which they hold.
        rectified: see `Rectifier`.
        hfov: horizontal field of view where there is no calibration, if given.
        topics: what the messages are.
    """

    def __init__(
        self,
        models: Sequence[tuple[int, CameraModel]],
        rectified: bool,
        hfov: float | None,
        topics: _Topics,
    ) -> None:
        self._models = [entry for entry in models if entry[1].K[0]]
        self._stamps = [stamp for stamp, _ in self._models]
        self._rectified, self._hfov, self._topics = rectified, hfov, topics
        self._rectifiers: dict[tuple[CameraModel, tuple[int, int]], Rectifier] = {}
        self._video = PacketDecoder() if topics.image.topic.role == 'video' else None
        self._grey = GreyRange() if topics.image.content == 'grey16' else None

    def __call__(self, stamp_ns: int, message: Any, depth_message: Any | None) -> Frame | None:
        image = self._image(message)
        if image is None:
            return None
        check_meaningful(image, f'the image of {self._topics.image.topic.name}')
        rectifier = self._rectifier(stamp_ns, (image.shape[1], image.shape[0]))
        return Frame(
            np.ascontiguousarray(rectifier.rectify(image)),
            rectifier.intrinsics,
            stamp_ns,
            conversions.frame_id_from_msg(message),
            depth=self._depth(depth_message, rectifier, image.shape[:2], stamp_ns),
            unseen=rectifier.unseen,
            rectifier=rectifier,
        )

    def close(self, limit_ns: int) -> None:
        """Say what the whole recording could not tell before."""
        depth = self._topics.depth
        if depth is not None and depth.topic.part.use == 'depth':
            depth.topic.part.unused('never_near', f'{limit_ns / 1e6:.0f} ms allowed')

    def _image(self, message: Any) -> np.ndarray | None:
        if self._video is not None:
            return self._video.decode(message.format, bytes(message.data))
        if self._grey is not None:
            return self._grey.scaled(conversions.grey16_from_msg(message))
        if hasattr(message, 'encoding'):
            return conversions.image_from_msg(message)
        return conversions.compressed_from_msg(message)

    def _depth(
        self, message: Any | None, rectifier: Rectifier, shape: tuple[int, ...], stamp_ns: int
    ) -> np.ndarray | None:
        looked = self._topics.depth
        if message is None or looked is None:
            return None
        part = looked.topic.part
        try:
            depth = conversions.depth_from_msg(message)
        except InputError as error:
            part.skip(error.reason, f'at {stamp_ns / 1e9:.3f} s: {error}')
            return None
        if depth.shape != shape:  # of another size it is of another camera
            part.skip('not_registered', f'{depth.shape[1]}x{depth.shape[0]} at {stamp_ns / 1e9} s')
            return None
        part.used_as('registered depth')
        return rectifier.rectify_depth(depth)

    def _rectifier(self, stamp_ns: int, size: tuple[int, int]) -> Rectifier:
        """By the calibration in force: the newest that fits the size, else the next one."""
        newest = bisect_right(self._stamps, stamp_ns + MAX_STAMP_DIFFERENCE_NS) - 1
        order = [*range(newest, -1, -1), *range(newest + 1, len(self._models))]
        error: InputError | None = None
        for i in order:
            model = self._models[i][1]
            try:
                return self._made(model, size)
            except InputError as caught:
                error = error or caught
        if error is not None:
            raise error
        return self._made(CameraModel(*size), size)

    def _made(self, model: CameraModel, size: tuple[int, int]) -> Rectifier:
        key = model, size
        if key not in self._rectifiers:
            fallback = assumed_intrinsics(self._hfov, *size).hfov
            self._rectifiers[key] = Rectifier(model, self._rectified, fallback, size)
        return self._rectifiers[key]


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
