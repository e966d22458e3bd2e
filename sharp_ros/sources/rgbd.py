"""Folders of images with depth and poses beside them: one source for all their layouts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
import logging
from pathlib import Path
import statistics

import cv2
import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.errors import InputError
from sharp_ros.files import regular_file
from sharp_ros.images import check_meaningful, decode_image, read_exr, read_image
from sharp_ros.rectification import CameraModel, Rectifier
from sharp_ros.sources.base import (
    assumed_intrinsics,
    assumption,
    CAMERA,
    LEVEL_WORLD,
    pose_at,
    pose_buffer,
    WORLD,
)
from sharp_ros.sources.stock import Part, Stock
from sharp_ros.sources.up import find_up, SAMPLES, View

_log = logging.getLogger(__name__)
_SATURATED = 65535  # of a 16-bit depth image: some cameras write it for "none"


@dataclass
class Listing:
    """What a folder holds, whatever its layout.

    Attributes:
        what: name of the layout.
        images: stamp in nanoseconds and file of each, by time.
        depths: likewise; PNG of 16 bits, or TIFF or OpenEXR of metres.
        poses: stamp and `T_world_camera` [4, 4], camera in optical axes.
        cameras: of the images, by file; the key None is that of all others.
        depth_scale: value of a depth image per metre.
        z_up: whether the layout says that z of its world is up.
        notes: what had to be assumed.
        parts: of the stock, with the keys `image`, `depth`, `poses` and `calibration`.
        stamped: whether the stamps were recorded, so that poses between two may be taken.
        to_depth: images of another size than their depth are brought to its size.
        masks: of images that have one, 0 where they show nothing of the scene.
    """

    what: str
    images: list[tuple[int, Path]]
    depths: list[tuple[int, Path]] = field(default_factory=list)
    poses: list[tuple[int, np.ndarray]] = field(default_factory=list)
    cameras: dict[Path | None, CameraModel] = field(default_factory=dict)
    depth_scale: float = 1000.0
    z_up: bool = False
    notes: list[str] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    stamped: bool = True
    to_depth: bool = False
    masks: dict[Path, Path] = field(default_factory=dict)


class RgbdSource:
    """Images of a folder, with the depth and the pose that belong to them.

    Args:
        path: of the folder.
        listing: what it holds.
        hfov: horizontal field of view in radians, used without calibration.
        level: see `open_source`.
        association: how far the stamp of a depth image may be from that of its image, seconds.
        depth_every: see `open_source`.
        up: see `open_source`.

    Attributes:
        stock: what the folder holds, and what becomes of it.
    """

    def __init__(
        self,
        path: Path,
        listing: Listing,
        hfov: float | None,
        *,
        level: bool,
        association: float,
        depth_every: int = 1,
        up: str | None = None,
    ) -> None:
        self.name, self._path, self._listing = str(path), path, listing
        self._hfov = hfov
        self._limit_ns, self._depth_every = round(association * 1e9), depth_every
        self._depth_stamps = [stamp for stamp, _ in listing.depths]
        self._poses = pose_buffer(listing.poses)
        self._exact = None if listing.stamped else dict(listing.poses)
        self._rectifiers: dict[tuple[CameraModel, tuple[int, int]], Rectifier] = {}
        stamps = [stamp for stamp, _ in listing.images]
        steps = [b - a for a, b in pairwise(stamps)]
        step = statistics.median(steps) if steps else 0
        self.rate_hz = 1e9 / step if step > 0 else 30.0
        assumed = [] if listing.cameras else [assumption(hfov)]
        self.stock = Stock(self.name, listing.what)
        for part in listing.parts.values():
            self.stock.add(part)
        self._image_part = listing.parts['image']
        self._image_part.used_as('camera')
        if 'calibration' in listing.parts and listing.cameras:
            listing.parts['calibration'].used_as('calibration')
        near = self._near_counts(stamps)
        for key, count in near.items():
            self._account(key, count, len(stamps))
        # Of its world: turned so that z is up, and whether that is sure.
        self._T_level_world, self._is_level = np.eye(4), listing.z_up
        if up is not None or not listing.z_up:
            self._find_up(level, up)
        self.note = '; '.join([*assumed, *listing.notes])
        self.stock.mark()

    def _near_counts(self, stamps: Sequence[int]) -> dict[str, int]:
        """How many images have depth, and how many a pose."""
        return {
            'depth': sum(self._nearest(stamp) is not None for stamp in stamps),
            'poses': sum(self._pose(stamp) is not None for stamp in stamps),
        }

    def _account(self, key: str, count: int, images: int) -> None:
        part = self._listing.parts.get(key)
        if part is None or not part.count:
            return
        if count:
            part.used_as(f'{key} of {count} of {images} images')
            return
        gap = ''
        if part.span_ns is not None and self._image_part.span_ns is not None:
            ahead = (part.span_ns[0] - self._image_part.span_ns[0]) / 1e9
            gap = f', it begins {ahead:+.3f} s after the images'
        limit = f'{self._limit_ns / 1e6:.0f} ms allowed{gap}'
        part.unused('never_near', limit)
        self._listing.notes.append(f'no {key}: no stamp of {part.name} is near an image ({limit})')

    def frames(self) -> Iterator[Frame]:
        """All readable images, with their depth and their pose."""
        self.stock.restart()
        for i, (stamp, file) in enumerate(self._listing.images):
            try:
                frame = self._frame(stamp, file, with_depth=i % self._depth_every == 0)
            except InputError as error:
                if error.reason not in self._image_part.skipped:  # the others are counted
                    _log.warning('frame skipped: %s', error)
                self._image_part.skip(error.reason, str(error))
                continue
            self.stock.frames += 1
            yield frame
        if not self.stock.frames:
            raise InputError(
                f'no image that {self._path} lists could be used; its file names are relative to '
                f'the folder; the first one: {self._image_part.example}',
                'unreadable_image',
            )

    def _frame(self, stamp: int, file: Path, *, with_depth: bool) -> Frame:
        image, _ = read_image(file)
        check_meaningful(image, file.name)
        depth = None
        nearest = self._nearest(stamp) if with_depth else None
        if nearest is not None:
            depth = self._read_depth(self._listing.depths[nearest][1])
        cameras = self._listing.cameras
        model = cameras.get(file, cameras.get(None))
        height, width = image.shape[:2]
        unseen, rectifier = self._masked(file, (height, width)), None
        if model is None:
            intrinsics = assumed_intrinsics(self._hfov, width, height)
        else:
            rectifier = self._rectifier(model, (width, height), file)
            image = rectifier.rectify(image)
            if unseen is not None:
                unseen = rectifier.rectify(np.stack([unseen * np.uint8(255)] * 3, -1))[..., 0] > 0
            if rectifier.unseen is not None:
                unseen = rectifier.unseen if unseen is None else unseen | rectifier.unseen
            intrinsics = rectifier.intrinsics
        if depth is not None and depth.shape != (height, width):
            if not self._listing.to_depth:
                raise InputError(
                    f'depth of {file.name} is {depth.shape[1]}x{depth.shape[0]}, the image is '
                    f'{width}x{height}; expected a 16-bit PNG registered to the image',
                    'bad_depth',
                )
            rows, columns = depth.shape
            image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
            intrinsics = intrinsics.resized(columns, rows)
            if unseen is not None:
                size = (columns, rows)
                unseen = cv2.resize(unseen.astype(np.uint8), size).astype(bool)
        pose = self._pose(stamp)
        pose = None if pose is None else self._T_level_world @ pose
        world = LEVEL_WORLD if self._is_level else WORLD
        return Frame(
            image,
            intrinsics,
            stamp,
            CAMERA,
            pose,
            world,
            depth,
            unseen,
            rectifier=rectifier,
        )

    def _masked(self, file: Path, size: tuple[int, int]) -> np.ndarray | None:  # -> [H, W] bool
        """Where the mask of an image says that it shows nothing; None without a mask."""
        mask = self._listing.masks.get(file)
        if mask is None:
            return None
        grey = None
        with suppress(OSError, ValueError, InputError):  # said below
            grey = decode_image(regular_file(mask).read_bytes(), cv2.IMREAD_GRAYSCALE)
        if grey is None or grey.shape != size:
            found = 'unreadable' if grey is None else f'{grey.shape[1]}x{grey.shape[0]}'
            raise InputError(
                f'mask {mask} is {found}; expected one of the size of {file.name}', 'bad_mask'
            )
        return grey == 0

    def _find_up(self, level: bool, said: str | None) -> None:
        """Look through the recording for what is up; it is used if it was asked for or said."""
        posed = [(t, file) for t, file in self._listing.images if self._pose(t) is not None]
        if not posed:
            return
        chosen = np.linspace(0, len(posed) - 1, min(SAMPLES, len(posed))).round().astype(int)

        def view(index: int) -> View | None:
            with suppress(InputError):  # which will be said when all are read
                frame = self._frame(*posed[chosen[index]], with_depth=True)
                return None if frame.depth is None else (frame.depth, frame.intrinsics)
            return None

        poses = [self._pose(posed[i][0]) for i in chosen]
        found = find_up(np.array(poses), view, said)
        if level or said is not None:
            self._T_level_world, self._is_level = found.T_level_world, True
            self._listing.notes += [found.doubt] if found.doubt else []
        else:
            self._is_level = found.is_recorded

    def _pose(self, stamp: int) -> np.ndarray | None:
        return self._exact.get(stamp) if self._exact is not None else pose_at(self._poses, stamp)

    def _rectifier(self, model: CameraModel, size: tuple[int, int], file: Path) -> Rectifier:
        if (model.width, model.height) != size:
            raise InputError(
                f'{file.name} is {size[0]}x{size[1]}, its calibration says {model.width}x'
                f'{model.height}; correct it (camera.yaml)',
                'size_mismatch',
            )
        if (model, size) not in self._rectifiers:
            self._rectifiers[model, size] = Rectifier(model, False, 0.0, size)
        return self._rectifiers[model, size]

    def _read_depth(self, file: Path) -> np.ndarray:  # -> [H, W] float32 metres
        raw = None
        with suppress(OSError, ValueError, InputError):  # said below
            if file.suffix == '.exr':
                raw = read_exr(regular_file(file))
            else:
                raw = decode_image(regular_file(file).read_bytes(), cv2.IMREAD_UNCHANGED)
        if raw is None or raw.ndim != 2 or raw.dtype not in (np.uint16, np.float32):
            found = 'unreadable' if raw is None else f'{raw.dtype} {raw.shape}'
            raise InputError(
                f'depth {file} is {found}; expected a 16-bit PNG registered to the image',
                'bad_depth',
            )
        if raw.dtype == np.float32:
            return raw
        depth = raw.astype(np.float32) / np.float32(self._listing.depth_scale)
        depth[raw == _SATURATED] = 0
        return depth

    def _nearest(self, stamp: int) -> int | None:
        """Index of the depth image closest in time, if it is close enough to belong to it."""
        stamps = self._depth_stamps
        i = bisect_left(stamps, stamp)
        best = min(
            (j for j in (i - 1, i) if 0 <= j < len(stamps)),
            key=lambda j: abs(stamps[j] - stamp),
            default=None,
        )
        if best is None or abs(stamps[best] - stamp) > self._limit_ns:
            return None
        return best
