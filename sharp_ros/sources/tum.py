"""RGB-D recordings in the folder layout of the TUM benchmark."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
import logging
import math
from pathlib import Path
import statistics

import cv2
import numpy as np
import yaml

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.images import read_image
from sharp_ros.se3 import matrix_from_quat, transform
from sharp_ros.sources.base import (
    assumed_hfov,
    CAMERA,
    levelled,
    MAX_STAMP_DIFFERENCE_NS,
    pose_at,
    pose_buffer,
    WORLD,
)

_log = logging.getLogger(__name__)


class TumSource:
    """RGB-D recording: rgb.txt, and where present depth.txt, groundtruth.txt, camera.yaml.

    Format: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats. `camera.yaml` adds
    width, height, fx, fy, cx, cy and depth_scale (PNG value per metre; 5000 without the file).

    Args:
        path: the folder.
        hfov: horizontal field of view in radians, used without camera.yaml.
        level: see `open_source`.

    Raises:
        InputError: `no_rgb_list`, `bad_tum_list`, `bad_camera_yaml`.
    """

    def __init__(self, path: Path, hfov: float | None, *, level: bool = True) -> None:
        self.name, self._path, self._level = str(path), path, level
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
        self._poses = pose_buffer(
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
            self._hfov, self.note = assumed_hfov(hfov)

    def frames(self) -> Iterator[Frame]:
        """All readable images, with the depth within 20 ms and the pose at the stamp."""
        return levelled(self._recorded()) if self._level else self._recorded()

    def _recorded(self) -> Iterator[Frame]:
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

    def _frame(self, stamp: int, name: str) -> Frame:
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
        pose = pose_at(self._poses, stamp)
        return Frame(image, intrinsics, stamp, CAMERA, pose, WORLD, depth)

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
        width, height = (int(values[k]) for k in ('width', 'height'))
        fx, fy, cx, cy = (float(values[k]) for k in ('fx', 'fy', 'cx', 'cy'))
        intrinsics = Intrinsics(fx, fy, cx, cy, width, height)
        scale = float(values.get('depth_scale', 1000.0))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise InputError(f'{path} cannot be used ({error}); {hint}', 'bad_camera_yaml') from error
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f'{path}: depth_scale is {scale}; {hint}', 'bad_camera_yaml')
    return intrinsics, scale


def _nearest(stamps: Sequence[int], stamp: int) -> int | None:
    """Index of the closest of rising stamps, if it is close enough to belong together."""
    i = bisect_left(stamps, stamp)
    best = min(
        (j for j in (i - 1, i) if 0 <= j < len(stamps)),
        key=lambda j: abs(stamps[j] - stamp),
        default=None,
    )
    if best is None or abs(stamps[best] - stamp) > MAX_STAMP_DIFFERENCE_NS:
        return None
    return best
