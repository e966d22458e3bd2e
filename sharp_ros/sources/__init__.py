"""Where images come from when no ROS topic delivers them: room, camera, video, folder, bag.

`open_source` picks one of the kinds in `KINDS`. Frames come as fast as they are asked for; the
publisher keeps the pace. A single damaged image is skipped with a log line; a source that
delivers nothing raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
import logging
import math
import os
from pathlib import Path
from typing import Literal

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.files import meant, natural, regular_file
from sharp_ros.images import check_meaningful, IMAGE_SUFFIXES, is_deep, read_image, VIDEO_SUFFIXES
from sharp_ros.sources.bag import BagSource
from sharp_ros.sources.base import (
    assumed_intrinsics,
    assumption,
    CAMERA,
    MAX_STAMP_DIFFERENCE_NS,
    Source,
    WORLD,
)
from sharp_ros.sources.layouts import layout_of, LAYOUTS
from sharp_ros.sources.rgbd import RgbdSource
from sharp_ros.sources.stock import Part, Stock
from sharp_ros.sources.storage import bag_files
from sharp_ros.sources.video import VideoSource
from sharp_ros.sources.webcam import WebcamSource

_log = logging.getLogger(__name__)


def open_source(
    spec: str,
    *,
    hfov: float | None = None,
    loop: bool = False,
    image_topic: str | None = None,
    level: bool = True,
    pose_offset: float | Literal['auto'] = 0.0,
    association: float = MAX_STAMP_DIFFERENCE_NS / 1e9,
    depth_every: int = 1,
    up: str | None = None,
) -> Source:
    """Open what `spec` names; the first row of `KINDS` that accepts it is taken.

    Args:
        spec: `synthetic`, a webcam (index or /dev/video*), or a path: RGB-D folder in TUM layout,
            ROS bag, folder of images, image, video.
        hfov: horizontal field of view in radians of sources without calibration; by default 60
            degrees, which `source.note` then says. Known calibrations are not overruled.
        loop: begin again at the end; stamps go on.
        image_topic: of a bag; by default the one that looks most like a colour camera.
        level: whether poses of RGB-D folders, whose z may point anywhere, are brought to a world
            with z up, see `LevelWorld`; else they are as recorded.
        pose_offset: seconds by which the clock of recorded poses is ahead of that of the images;
            `auto`, of bags: as the recorder's clock says.
        association: how far the stamp of a depth image may be from that of its image, seconds.
        depth_every: of folders, depth comes with every so many images only, the first included:
            decoding it takes twice as long as decoding the image.
        up: axis of the world of recorded poses that is up (`sources.up.AXES`), where it is not
            what a format promises, or the recording shows.

    Raises:
        InputError: `no_such_source`, `unreadable_video`, `unreadable_image`, `unreadable_bag`,
            `no_image_topic`, `no_images`, `no_rgb_list`, `camera_unavailable`, ... with a message
            that says what to do.
    """
    path = Path(os.path.expanduser(spec))  # pathlib raises where there is no such user
    if hfov is not None and not 0 < hfov < math.pi:
        raise InputError(f'field of view must lie between 0 and pi rad, got {hfov}')
    for kind in KINDS:
        if kind.accepts(spec, path):
            if image_topic is not None and not kind.what.startswith('ROS bag'):
                raise InputError(
                    f'--image-topic {image_topic} is for bags, and {spec} is none; leave it out',
                    'no_image_topic',
                )
            given = (hfov, image_topic, level, pose_offset, association, depth_every, up)
            source = kind.open(spec, path, _Options(*given))
            return Looped(source) if loop else source
    names = '\n'.join(f'  {kind.what}' for kind in KINDS)
    problem = f'does not exist{meant(path)}'
    if path.exists():
        problem = 'is of no known kind'
        try:
            regular_file(path)
        except OSError as error:
            problem = f'is {error.strerror}'
    raise InputError(f'source {spec!r} {problem}; give one of\n{names}', 'no_such_source')


class Looped:
    """Repeats a source for ever, with stamps that go on rising."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.rate_hz, self.note = source.name, source.rate_hz, source.note
        self.stock = source.stock

    def frames(self) -> Iterator[Frame]:
        """All frames, again and again."""
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
        self.stock = Stock(self.name, 'simulation')
        self.room = Room(seed)
        self._intrinsics = Intrinsics.from_hfov(hfov or 1.2, *size)
        self.room.render(self._intrinsics, self.room.pose(0.0))  # the first image is slow

    def frames(self) -> Iterator[Frame]:
        """One round of the drive."""
        for t, T_world_camera in self.room.trajectory(self.room.loop_duration, self.rate_hz):
            image, depth = self.room.render(self._intrinsics, T_world_camera)
            yield Frame(
                image, self._intrinsics, round(t * 1e9), CAMERA, T_world_camera, WORLD, depth
            )


# --- images, videos, cameras ---------------------------------------------------------------------


def _image_paths(folder: Path) -> list[Path]:
    images = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(images, key=natural)


def _sources_below(folder: Path) -> list[str]:
    """What lies in a folder and may have been meant instead of it, at most three."""
    found: list[str] = []
    for child in sorted(folder.iterdir(), key=natural):
        with suppress(OSError):  # of a folder that is not to be read
            if child.is_dir():
                useful = bool(layout_of(child) or bag_files(child) or _image_paths(child))
            else:
                useful = child.suffix.lower() in VIDEO_SUFFIXES
            found += [str(child)] * useful
    return found[:3]


class ImageSource:
    """Image files one after the other, ten per second.

    The focal length is `hfov` if given, else EXIF's, else the default field of view.

    Args:
        path: an image, or a folder whose images are taken in alphabetical order, numbers in it by
            their value.
        hfov: horizontal field of view, radians.

    Raises:
        InputError: `no_images` if the folder holds none.
    """

    def __init__(self, path: Path, hfov: float | None) -> None:
        self.name, self.rate_hz = str(path), 10.0
        self._paths = _image_paths(path) if path.is_dir() else [path]
        self._hfov = hfov
        if not self._paths:
            below = _sources_below(path)
            raise InputError(
                f'{path} holds no images ({" ".join(IMAGE_SUFFIXES)}); give '
                + (f'{" or ".join(below)}' if below else 'a folder that does')
                + ', or one with rgb.txt or a ROS bag' * (not below),
                'no_images',
            )
        if 'depth' in path.name.lower() and is_deep(self._paths[0]):
            raise InputError(
                f'{path} holds depth, not images; give the folder around both', 'no_images'
            )
        self.note = assumption(hfov) + ('' if hfov else ' (where EXIF has no focal length)')
        if path.is_dir() and layout_of(path.absolute().parent) is not None:
            self.note += f'; {path.absolute().parent} has more than these images: give that'
        self.stock = Stock(self.name, 'images')
        self._part = Part(path.name, 'image', len(self._paths), use='camera', clock='order')
        self.stock.add(self._part).timed([self._stamp(0), self._stamp(len(self._paths) - 1)])
        self.stock.mark()

    def _stamp(self, index: int) -> int:
        return round(index * 1e9 / self.rate_hz)

    def frames(self) -> Iterator[Frame]:
        """All readable images."""
        self.stock.restart()
        for i, path in enumerate(self._paths):
            try:
                image, focal = read_image(path)
                check_meaningful(image, path.name)
            except InputError as error:
                if error.reason not in self._part.skipped:  # the others are counted
                    _log.warning('image skipped: %s', error)
                self._part.skip(error.reason, str(error))
                continue
            height, width = image.shape[:2]
            if self._hfov is None and focal is not None:
                intrinsics = Intrinsics.centred(focal, width, height)
            else:
                intrinsics = assumed_intrinsics(self._hfov, width, height)
            self.stock.frames += 1
            yield Frame(image, intrinsics, self._stamp(i), CAMERA)
        if not self.stock.frames:
            raise InputError(
                f'no image of {self.name} could be read and used: {self._part.example}'
                + '; give complete image files' * ('unreadable_image' in self._part.skipped),
                'unreadable_image',
            )


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Options:
    """As given to `open_source`."""

    hfov: float | None
    image_topic: str | None
    level: bool
    pose_offset: float | Literal['auto']
    association: float
    depth_every: int
    up: str | None


@dataclass(frozen=True)
class _Kind:
    what: str
    accepts: Callable[[str, Path], bool]
    open: Callable[[str, Path, _Options], Source]


def _open_layout(path: Path, options: _Options) -> Source:
    read = layout_of(path)
    assert read is not None
    try:
        listing = read(path)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:  # others wrote it
        raise InputError(
            f'{path} is not laid out as its files say ({type(error).__name__}: {error}); give its '
            'images alone, or one of the layouts in docs/recordings.md',
            'bad_layout',
        ) from error
    if isinstance(options.pose_offset, str):
        raise InputError(
            f'{path} has no clock of a recorder to compare with; give the offset in seconds',
            'no_clock',
        )
    ahead = round(options.pose_offset * 1e9)
    listing.poses = [(stamp - ahead, pose) for stamp, pose in listing.poses]
    return RgbdSource(
        path,
        listing,
        options.hfov,
        level=options.level,
        association=options.association,
        depth_every=options.depth_every,
        up=options.up,
    )


KINDS: tuple[_Kind, ...] = (
    _Kind(
        'synthetic: a camera driving through a simulated room',
        lambda spec, path: spec == 'synthetic',
        lambda spec, path, options: SyntheticSource(options.hfov),
    ),
    _Kind(
        'webcam: an index (0, 1, ...) or /dev/video*',
        lambda spec, path: spec.isdigit() or spec.startswith('/dev/video'),
        lambda spec, path, options: WebcamSource(
            int(spec) if spec.isdigit() else spec, options.hfov
        ),
    ),
    _Kind(
        'ROS bag: *.mcap, *.db3, *.bag, also with .zstd, .zst or .active behind; or a folder',
        lambda spec, path: layout_of(path) is None and bool(bag_files(path)),
        lambda spec, path, options: BagSource(
            path,
            options.hfov,
            options.image_topic,
            options.pose_offset,
            options.association,
            options.up,
        ),
    ),
    _Kind(
        f'folder with depth or poses ({"; ".join(what for what, *_ in LAYOUTS)})',
        lambda spec, path: layout_of(path) is not None,
        lambda spec, path, options: _open_layout(path, options),
    ),
    _Kind(
        f'image, or folder of images ({" ".join(IMAGE_SUFFIXES)})',
        lambda spec, path: (
            path.is_dir() or (path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES)
        ),
        lambda spec, path, options: ImageSource(path, options.hfov),
    ),
    _Kind(
        'video file in any format that FFmpeg decodes',
        lambda spec, path: path.is_file(),
        lambda spec, path, options: VideoSource(path, options.hfov),
    ),
)
