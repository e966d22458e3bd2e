"""Where images come from when no ROS topic delivers them: room, camera, video, folder, bag.

`open_source` picks one of the kinds in `KINDS`. Frames come as fast as they are asked for; whoever
publishes them keeps the pace. A single damaged image is skipped with a log line; a source that
delivers nothing raises.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
import logging
import math
from pathlib import Path
import statistics
import time
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import yaml

from sharp_ros.camera import CameraModel, Intrinsics, Rectifier, read_image
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.se3 import PoseBuffer, inverse, matrix_from_quat, transform

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

DEFAULT_HFOV = math.radians(60)
_IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
_BAG_SUFFIXES = ('.mcap', '.db3', '.bag')
_MAX_STAMP_DIFFERENCE_NS = 20_000_000  # of a depth image or an end of the trajectory
_MAX_POSE_GAP = 0.25  # seconds interpolated over
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceFrame:
    """One image with what its source knows about it.

    Attributes:
        image: [H, W, 3] uint8 RGB, without distortion.
        intrinsics: of that image; see the source's `note` for where they come from.
        stamp_ns: acquisition time, nanoseconds, of the recording's own clock.
        T_world_camera: [4, 4] pose of the optical frame, or None when unknown.
        depth: [H, W] float32 z-depth in metres registered to the image, or None; 0 and
            non-finite mean no measurement.
        frame_id: of the optical frame.
    """

    image: np.ndarray
    intrinsics: Intrinsics
    stamp_ns: int
    T_world_camera: np.ndarray | None = None
    depth: np.ndarray | None = None
    frame_id: str = 'camera_optical_frame'


class Source(Protocol):
    """A camera or a recording.

    Attributes:
        name: what it is, for people.
        rate_hz: nominal frame rate.
        note: what was assumed, for example a field of view; empty when all is known.
    """

    name: str
    rate_hz: float
    note: str

    def frames(self) -> Iterator[SourceFrame]:
        """Frames in order of time, until the recording ends.

        Raises:
            InputError: when there is nothing (more) to deliver and there should be.
        """
        ...


def open_source(
    spec: str, *, hfov: float | None = None, loop: bool = False, image_topic: str | None = None
) -> Source:
    """Open what `spec` names; the first row of `KINDS` that accepts it is taken.

    Args:
        spec: `synthetic`, a webcam (index or /dev/video*), or a path: RGB-D folder in TUM layout,
            ROS bag, folder of images, image, video.
        hfov: horizontal field of view in radians of sources without calibration; by default 60
            degrees, which `source.note` then says. Known calibrations are not overruled.
        loop: begin again at the end; stamps go on.
        image_topic: of a bag; by default the first one in alphabetical order.

    Raises:
        InputError: `no_such_source`, `unreadable_video`, `unreadable_image`, `unreadable_bag`,
            `no_image_topic`, `no_images`, `no_rgb_list`, `camera_unavailable`, ... with a message
            that says what to do.
    """
    path = Path(spec).expanduser()
    if hfov is not None and not 0 < hfov < math.pi:
        raise InputError(f'field of view must lie between 0 and pi rad, got {hfov}')
    for kind in KINDS:
        if kind.accepts(spec, path):
            source = kind.open(spec, path, hfov, image_topic)
            return _Looped(source) if loop else source
    names = '\n'.join(f'  {kind.what}' for kind in KINDS)
    problem = 'is of no known kind' if path.exists() else 'does not exist'
    raise InputError(f'source {spec!r} {problem}; give one of\n{names}', 'no_such_source')


class _Looped:
    """Repeats a source for ever, with stamps that go on rising."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.rate_hz, self.note = source.name, source.rate_hz, source.note

    def frames(self) -> Iterator[SourceFrame]:
        offset = 0
        while True:
            first = last = None
            for frame in self._source.frames():
                first = frame.stamp_ns if first is None else first
                last = frame.stamp_ns
                yield replace(frame, stamp_ns=frame.stamp_ns + offset)
            if first is None or last is None:
                raise InputError(f'{self.name} delivered no frame; give another source')
            offset += last - first + round(1e9 / self.rate_hz)


# --- simulated room ------------------------------------------------------------------------------


class SyntheticSource:
    """A camera that drives one round through the simulated room, with exact depth and pose.

    Args:
        hfov: horizontal field of view, radians.
        size: (width, height) of the image, pixels.
        rate_hz: frames per simulated second.
        seed: of the room.
    """

    def __init__(
        self,
        hfov: float | None = None,
        size: tuple[int, int] = (640, 480),
        rate_hz: float = 10.0,
        seed: int = 0,
    ) -> None:
        from sharp_ros.synthetic import Room

        self.name, self.rate_hz, self.note = 'synthetic', rate_hz, ''
        self.room = Room(seed)
        self._intrinsics = Intrinsics.from_hfov(hfov or 1.2, *size)
        self.room.render(self._intrinsics, self.room.pose(0.0))  # the first image is slow

    def frames(self) -> Iterator[SourceFrame]:
        """One round of the drive."""
        for t, T_world_camera in self.room.trajectory(self.room.loop_duration, self.rate_hz):
            image, depth = self.room.render(self._intrinsics, T_world_camera)
            yield SourceFrame(image, self._intrinsics, round(t * 1e9), T_world_camera, depth)


# --- images, videos, cameras ---------------------------------------------------------------------


def _guess(hfov: float | None) -> tuple[float, str]:
    """Field of view of an uncalibrated source, and the sentence that owns up to it."""
    if hfov:
        return hfov, f'not calibrated; field of view {math.degrees(hfov):.0f} degrees as given'
    return DEFAULT_HFOV, (
        f'not calibrated; assumed a field of view of {math.degrees(DEFAULT_HFOV):.0f} degrees, '
        'distances scale with it; give the right one with --hfov'
    )


def _image_paths(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES)


class ImageSource:
    """Image files one after the other, ten per second.

    The focal length is `hfov` if given, else EXIF's, else the default field of view.

    Args:
        path: an image, or a folder whose images are taken in alphabetical order.
        hfov: horizontal field of view, radians.

    Raises:
        InputError: `no_images` if the folder holds none.
    """

    def __init__(self, path: Path, hfov: float | None) -> None:
        self.name, self.rate_hz = str(path), 10.0
        self._paths = _image_paths(path) if path.is_dir() else [path]
        self._hfov = hfov
        if not self._paths:
            raise InputError(
                f'{path} holds no images ({" ".join(_IMAGE_SUFFIXES)}); give a folder that does, '
                'or one with rgb.txt or a ROS bag',
                'no_images',
            )
        self.note = _guess(hfov)[1] + ('' if hfov else ' (where EXIF has no focal length)')

    def frames(self) -> Iterator[SourceFrame]:
        """All readable images."""
        count = 0
        for i, path in enumerate(self._paths):
            try:
                image, focal = read_image(path)
            except InputError as error:
                _log.warning('image skipped: %s', error)
                continue
            height, width = image.shape[:2]
            if self._hfov is None and focal is not None:
                centre = ((width - 1) / 2, (height - 1) / 2)
                intrinsics = Intrinsics(focal, focal, *centre, width, height)
            else:
                intrinsics = Intrinsics.from_hfov(_guess(self._hfov)[0], width, height)
            count += 1
            yield SourceFrame(image, intrinsics, round(i * 1e9 / self.rate_hz))
        if not count:
            raise InputError(
                f'no image of {self.name} could be read; give complete image files',
                'unreadable_image',
            )


@contextmanager
def _capture(device: str | int, message: str, reason: str) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(device)
    try:
        if not capture.isOpened():
            raise InputError(message, reason)
        yield capture
    finally:
        capture.release()


def _rgb_frame(bgr: np.ndarray, hfov: float, stamp_ns: int) -> SourceFrame:
    height, width = bgr.shape[:2]
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return SourceFrame(rgb, Intrinsics.from_hfov(hfov, width, height), stamp_ns)


class VideoSource:
    """A video file.

    Raises:
        InputError: `unreadable_video` if it cannot be decoded.
    """

    def __init__(self, path: Path, hfov: float | None) -> None:
        self.name = str(path)
        self._hfov, self.note = _guess(hfov)
        self._message = (
            f'cannot decode video {path}; convert it, for example with '
            '"ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4"'
        )
        with self._open() as capture:
            rate = capture.get(cv2.CAP_PROP_FPS)
            self.rate_hz = float(rate) if math.isfinite(rate) and rate > 0 else 30.0
            if not capture.read()[0]:
                raise InputError(self._message, 'unreadable_video')

    def _open(self) -> Any:
        return _capture(self.name, self._message, 'unreadable_video')

    def frames(self) -> Iterator[SourceFrame]:
        """All frames, stamped by the frame rate."""
        with self._open() as capture:
            index = 0
            while True:
                read, bgr = capture.read()
                if not read:
                    return
                yield _rgb_frame(bgr, self._hfov, round(index * 1e9 / self.rate_hz))
                index += 1


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
        self._device = device
        self._hfov, self.note = _guess(hfov)
        with self._open() as capture:
            rate = capture.get(cv2.CAP_PROP_FPS)
            self.rate_hz = float(rate) if math.isfinite(rate) and rate > 0 else 30.0

    @contextmanager
    def _open(self) -> Iterator[cv2.VideoCapture]:
        message = (
            f'{self.name} cannot be opened; check that it is plugged in (ls /dev/video*), that no '
            'other program uses it, and that you are in the group "video"'
        )
        with _capture(self._device, message, 'camera_unavailable') as capture:
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest image, not the oldest kept
            yield capture

    def frames(self) -> Iterator[SourceFrame]:
        """Images until the camera is taken away."""
        with self._open() as capture:
            while True:
                read, bgr = capture.read()
                if not read:
                    raise InputError(
                        f'{self.name} stopped delivering; plug it in and start again',
                        'camera_unavailable',
                    )
                yield _rgb_frame(bgr, self._hfov, time.time_ns())


# --- RGB-D folder in TUM layout ------------------------------------------------------------------


class TumSource:
    """RGB-D recording: rgb.txt, and where present depth.txt, groundtruth.txt, camera.yaml.

    Format: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats. `camera.yaml` adds
    width, height, fx, fy, cx, cy and depth_scale (PNG value per metre; 5000 without the file).

    Args:
        path: the folder.
        hfov: horizontal field of view in radians, used without camera.yaml.

    Raises:
        InputError: `no_rgb_list`, `bad_tum_list`, `bad_camera_yaml`.
    """

    def __init__(self, path: Path, hfov: float | None) -> None:
        self.name, self._path = str(path), path
        if not (path / 'rgb.txt').is_file():
            raise InputError(
                f'{path} looks like an RGB-D folder but has no rgb.txt; add it with lines '
                '"timestamp filename"',
                'no_rgb_list',
            )
        self._rgb = _read_list(path / 'rgb.txt', 1)
        if not self._rgb:
            raise InputError(f'{path / "rgb.txt"} lists no images; fill it', 'no_rgb_list')
        self._depth = _read_list(path / 'depth.txt', 1)
        self._depth_stamps = [stamp for stamp, _ in self._depth]
        self._poses = _pose_buffer(
            [
                (stamp, _tum_pose(path / 'groundtruth.txt', row))
                for stamp, row in _read_list(path / 'groundtruth.txt', 7)
            ]
        )
        steps = [b[0] - a[0] for a, b in zip(self._rgb, self._rgb[1:], strict=False)]
        step = statistics.median(steps) if steps else 0
        self.rate_hz = 1e9 / step if step > 0 else 30.0
        self._intrinsics, self._depth_scale, self.note = None, 5000.0, ''
        self._hfov = 0.0
        if (path / 'camera.yaml').is_file():
            self._intrinsics, self._depth_scale = _read_camera_yaml(path / 'camera.yaml')
        else:
            self._hfov, self.note = _guess(hfov)

    def frames(self) -> Iterator[SourceFrame]:
        """All readable images, with the depth within 20 ms and the pose at the stamp."""
        count = 0
        for stamp, (name,) in self._rgb:
            try:
                frame = self._frame(stamp, name)
            except InputError as error:
                _log.warning('frame skipped: %s', error)
                continue
            count += 1
            yield frame
        if not count:
            raise InputError(
                f'no image that {self._path / "rgb.txt"} lists could be used; its file names are '
                'relative to the folder',
                'unreadable_image',
            )

    def _frame(self, stamp: int, name: str) -> SourceFrame:
        image, _ = read_image(self._path / name)
        height, width = image.shape[:2]
        intrinsics = self._intrinsics or Intrinsics.from_hfov(self._hfov, width, height)
        if (intrinsics.width, intrinsics.height) != (width, height):
            raise InputError(
                f'{name} is {width}x{height}, camera.yaml says {intrinsics.width}x'
                f'{intrinsics.height}; correct camera.yaml',
                'size_mismatch',
            )
        depth = None
        nearest = _nearest(self._depth_stamps, stamp)
        if nearest is not None:
            depth = self._read_depth(self._depth[nearest][1][0], (height, width))
        return SourceFrame(image, intrinsics, stamp, _pose_at(self._poses, stamp), depth)

    def _read_depth(self, name: str, shape: tuple[int, int]) -> np.ndarray:
        file = self._path / name
        raw = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) if file.is_file() else None
        if raw is None or raw.dtype != np.uint16 or raw.shape != shape:
            found = 'unreadable' if raw is None else f'{raw.dtype} {raw.shape}'
            raise InputError(
                f'depth {file} is {found}; expected a 16-bit PNG of {shape}, registered to the '
                'image',
                'bad_depth',
            )
        return raw.astype(np.float32) / np.float32(self._depth_scale)


def _read_list(path: Path, columns: int) -> list[tuple[int, list[str]]]:
    """Rows of a TUM list by rising stamp (nanoseconds); empty if there is no such file."""
    rows: list[tuple[int, list[str]]] = []
    if not path.is_file():
        return rows
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.replace(',', ' ').split()
        if not words or words[0].startswith('#'):
            continue
        try:
            stamp = float(words[0])
            if len(words) <= columns or not math.isfinite(stamp):
                raise ValueError
        except ValueError:
            raise InputError(
                f'{path}:{number}: expected a time in seconds and {columns} more words, got '
                f'{line!r}; correct the line',
                'bad_tum_list',
            ) from None
        rows.append((round(stamp * 1e9), words[1 : columns + 1]))
    return sorted(rows, key=lambda row: row[0])


def _tum_pose(path: Path, words: Sequence[str]) -> np.ndarray:
    try:
        x, y, z, qx, qy, qz, qw = map(float, words)
        return transform(matrix_from_quat(np.array([qw, qx, qy, qz])), np.array([x, y, z]))
    except (ValueError, InputError) as error:
        raise InputError(
            f'{path}: {" ".join(words)!r} is no pose "tx ty tz qx qy qz qw"; correct the line',
            'bad_tum_list',
        ) from error


def _read_camera_yaml(path: Path) -> tuple[Intrinsics, float]:
    hint = 'expected numbers width, height, fx, fy, cx, cy and depth_scale'
    try:
        values = yaml.safe_load(path.read_text())
        size = (int(values['width']), int(values['height']))
        intrinsics = Intrinsics(*(float(values[k]) for k in ('fx', 'fy', 'cx', 'cy')), *size)
        scale = float(values.get('depth_scale', 1000.0))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise InputError(f'{path} cannot be used ({error}); {hint}', 'bad_camera_yaml') from error
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f'{path}: depth_scale is {scale}; {hint}', 'bad_camera_yaml')
    return intrinsics, scale


def _pose_buffer(poses: Sequence[tuple[int, np.ndarray]]) -> PoseBuffer:
    """All poses of a recording, which is read before its first image."""
    poses = sorted(poses, key=lambda pose: pose[0])
    duration = (poses[-1][0] - poses[0][0]) / 1e9 + 1 if poses else 1.0
    buffer = PoseBuffer(duration, _MAX_POSE_GAP, _MAX_STAMP_DIFFERENCE_NS / 1e9)
    for stamp, pose in poses:
        buffer.add(stamp, pose)
    return buffer


def _pose_at(poses: PoseBuffer, stamp_ns: int) -> np.ndarray | None:
    try:
        return poses.lookup(stamp_ns)
    except PoseUnavailableError:
        return None


def _nearest(stamps: Sequence[int], stamp: int) -> int | None:
    """Index of the closest of rising stamps, if it is close enough to belong together."""
    i = bisect_left(stamps, stamp)
    best = min(
        (j for j in (i - 1, i) if 0 <= j < len(stamps)),
        key=lambda j: abs(stamps[j] - stamp),
        default=None,
    )
    if best is None or abs(stamps[best] - stamp) > _MAX_STAMP_DIFFERENCE_NS:
        return None
    return best


# --- ROS bags ------------------------------------------------------------------------------------

_RAW, _COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
_INFO, _ODOMETRY, _TF = (
    'sensor_msgs/msg/CameraInfo',
    'nav_msgs/msg/Odometry',
    'tf2_msgs/msg/TFMessage',
)
_DEPTH_ENCODINGS = ('16UC1', '32FC1')


def _conversions() -> Any:
    """The decoder of messages; loaded here because nothing but bags needs ROS's packages."""
    try:
        from sharp_ros.ros import conversions
    except ImportError as error:
        raise InputError(
            f'reading a bag needs the ROS message packages ({error}); source a ROS installation '
            'or use the virtual environment that "make demo" sets up',
            'no_ros',
        ) from error
    return conversions


@dataclass(frozen=True)
class _Topics:
    """What is read from a bag."""

    image: Connection
    info: Connection | None
    depth: Connection | None
    odometry: Connection | None


class BagSource:
    """Images of a ROS 1 or ROS 2 bag with calibration, odometry and registered depth if recorded.

    Poses come from the first `nav_msgs/Odometry` topic; if its child frame is not the camera,
    `/tf_static` has to connect the two.

    Args:
        path: folder with metadata.yaml, or *.mcap, *.db3, *.bag.
        hfov: horizontal field of view in radians, used without camera_info.
        image_topic: which to read, raw or compressed.

    Raises:
        InputError: `unreadable_bag`, `no_image_topic`.
    """

    def __init__(self, path: Path, hfov: float | None, image_topic: str | None) -> None:
        self.name, self._path, self._topic = str(path), path, image_topic
        with self._open() as reader:
            topics = self._choose(reader)
            count = topics.image.msgcount
            duration = reader.duration / 1e9
            self._model = self._read_model(reader, topics)
            header = next(self._messages(reader, topics.image)).header
            self._poses, pose_note = self._read_poses(reader, topics, header.frame_id)
        self.rate_hz = (count - 1) / duration if count > 1 and duration > 0 else 30.0
        basename = topics.image.topic.removesuffix('/compressed').rsplit('/', 1)[-1]
        self._rectified = 'rect' in basename
        self._fallback, note = _guess(hfov)
        calibrated = self._model is not None and self._model.K[0] != 0
        notes = [f'image topic {topics.image.topic}', '' if calibrated else note, pose_note]
        self.note = '; '.join(filter(None, notes))

    @contextmanager
    def _open(self) -> Iterator[AnyReader]:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

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
        for connection, _, data in reader.messages(connections=connections):
            yield reader.deserialize(data, connection.msgtype)

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
        return _Topics(image, info, depth, next(iter(of(_ODOMETRY)), None))

    def _read_model(self, reader: AnyReader, topics: _Topics) -> CameraModel | None:
        if topics.info is None:
            return None
        return _conversions().camera_model_from_msg(next(self._messages(reader, topics.info)))

    def _read_poses(
        self, reader: AnyReader, topics: _Topics, camera_frame: str
    ) -> tuple[PoseBuffer, str]:
        poses: list[tuple[int, np.ndarray]] = []
        if topics.odometry is None:
            return _pose_buffer(poses), 'no odometry, so no poses'
        static = [c for c in reader.connections if c.msgtype == _TF and 'static' in c.topic]
        links = self._messages(reader, *static) if static else ()
        tree = _StaticTree([link for message in links for link in message.transforms])
        for message in self._messages(reader, topics.odometry):
            stamp, _, child, T_world_child = _conversions().pose_from_odometry(message)
            T_child_camera = tree.lookup(child, camera_frame)
            if T_child_camera is None:
                return _pose_buffer([]), (
                    f'no poses: odometry is of {child}, the camera is {camera_frame}, and '
                    '/tf_static does not connect them'
                )
            poses.append((stamp, T_world_child @ T_child_camera))
        return _pose_buffer(poses), ''

    def frames(self) -> Iterator[SourceFrame]:
        """All decodable images in the order they were recorded."""
        count = 0
        with self._open() as reader:
            topics = self._choose(reader)
            decode = _BagDecoder(self._model, self._rectified, self._fallback)
            for image, depth in self._with_depth(reader, topics):
                try:
                    frame = decode(image, depth)
                except InputError as error:
                    _log.warning('%s: image skipped: %s', self.name, error)
                    continue
                count += 1
                yield replace(frame, T_world_camera=_pose_at(self._poses, frame.stamp_ns))
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
            near = best is not None and abs(best[0] - stamp) <= _MAX_STAMP_DIFFERENCE_NS
            return image, best[1] if near and best is not None else None

        both = (topics.image, topics.depth)
        for connection, _, data in reader.messages(connections=both):
            message = reader.deserialize(data, connection.msgtype)
            queue = images if connection.topic == topics.image.topic else depths
            queue.append((_conversions().stamp_ns_from_msg(message.header), message))
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

    def __call__(self, message: Any, depth_message: Any | None) -> SourceFrame:
        conversions = _conversions()
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
        return SourceFrame(
            np.ascontiguousarray(rectifier.rectify(image)),
            rectifier.intrinsics,
            conversions.stamp_ns_from_msg(message.header),
            None,
            depth,
            message.header.frame_id,
        )


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


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    what: str
    accepts: Callable[[str, Path], bool]
    open: Callable[[str, Path, float | None, str | None], Source]


def _is_tum(path: Path) -> bool:
    names = ('rgb.txt', 'depth.txt', 'groundtruth.txt', 'camera.yaml')
    return path.is_dir() and any((path / name).is_file() for name in names)


KINDS: tuple[_Kind, ...] = (
    _Kind(
        'synthetic: a camera driving through a simulated room',
        lambda spec, path: spec == 'synthetic',
        lambda spec, path, hfov, topic: SyntheticSource(hfov),
    ),
    _Kind(
        'webcam: an index (0, 1, ...) or /dev/video*',
        lambda spec, path: spec.isdigit() or spec.startswith('/dev/video'),
        lambda spec, path, hfov, topic: WebcamSource(int(spec) if spec.isdigit() else spec, hfov),
    ),
    _Kind(
        'ROS bag: a folder with metadata.yaml, or *.mcap, *.db3, *.bag',
        lambda spec, path: (
            (path / 'metadata.yaml').is_file()
            or (path.is_file() and path.suffix.lower() in _BAG_SUFFIXES)
        ),
        lambda spec, path, hfov, topic: BagSource(path, hfov, topic),
    ),
    _Kind(
        'RGB-D folder in TUM layout: rgb.txt, depth.txt, groundtruth.txt, camera.yaml',
        lambda spec, path: _is_tum(path),
        lambda spec, path, hfov, topic: TumSource(path, hfov),
    ),
    _Kind(
        f'image, or folder of images ({" ".join(_IMAGE_SUFFIXES)})',
        lambda spec, path: (
            path.is_dir() or (path.is_file() and path.suffix.lower() in _IMAGE_SUFFIXES)
        ),
        lambda spec, path, hfov, topic: ImageSource(path, hfov),
    ),
    _Kind(
        'video file in any format that FFmpeg decodes',
        lambda spec, path: path.is_file(),
        lambda spec, path, hfov, topic: VideoSource(path, hfov),
    ),
)
