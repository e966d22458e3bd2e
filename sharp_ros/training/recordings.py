"""Recordings of a user's own camera as training shards: RGB-D, stereo pairs, posed video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
import math
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import yaml

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.files import new_folder
from sharp_ros.images import IMAGE_SUFFIXES, read_image
from sharp_ros.se3 import angle, inverse

LONGEST_SIDE = 384  # pixels of a stored image; leaves crops something to be cut from
IMAGES_PER_SHARD = 8  # even, for pairs
MIN_KNOWN = 0.1  # share of an image that must have depth
NEAREST = 0.3  # share of the image's width: the largest disparity looked for
# Between the two views of a pair without depth. A few centimetres move what is 3 m away by half a
# pixel of the rendering, whose blur then draws the best metres nearer.
MIN_STEP = 0.2  # metres
MAX_TURN = math.radians(15)  # leaves most of the image in both views


class RecordedImage(Protocol):
    """An image with what its recording knows; `Frame` is one.

    Attributes:
        image: [H, W, 3] uint8 RGB, rectified.
        intrinsics: of that image.
        depth: [H, W] metres along the optical axis; what is not positive, or 65504 or more:
            not measured; None: no depth.
        T_world_camera: [4, 4], or None if unknown.
    """

    @property
    def image(self) -> np.ndarray: ...  # noqa: D102
    @property
    def intrinsics(self) -> Intrinsics: ...  # noqa: D102
    @property
    def depth(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def T_world_camera(self) -> np.ndarray | None: ...  # noqa: D102


class StereoView(NamedTuple):
    """One image of a stereo pair, a `RecordedImage`."""

    image: np.ndarray
    intrinsics: Intrinsics
    depth: np.ndarray
    T_world_camera: np.ndarray


def write_recording(images: Iterable[RecordedImage], folder: str | Path) -> int:
    """Write shards, see `dataset`, and return the number of images.

    Args:
        images: of one size; the first and second, third and fourth, ... are pairs of views where
            both poses are known. Without depth: all of it is unknown.
        folder: which does not exist, or is empty.

    Raises:
        InputError: `recording_too_short` if there are not two shards, one to train on and one to
            hold out; `size_mismatch`.
    """
    images = iter(images)
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with new_folder(folder) as target:
        while block := list(islice(images, IMAGES_PER_SHARD)):
            rows = [_row(image) for image in block]
            if len({row[0].shape for row in rows}) > 1:
                raise InputError('images of the recording differ in size', 'size_mismatch')
            rgb, depth, k, pose = (np.stack(column) for column in zip(*rows, strict=True))
            path, none = target / f'recording_{count:06d}.npz', np.zeros_like(depth)
            np.savez(path, rgb=rgb, d=depth, d2=none, k=k, pose=pose)
            count += len(block)
        if count <= IMAGES_PER_SHARD:
            raise InputError(
                f'{count} images of the recording can be used, but {IMAGES_PER_SHARD + 1} are '
                'needed to train on some and hold others out; record more',
                'recording_too_short',
            )
    return count


def knows_depth(folder: str | Path) -> bool:
    """Whether the shards of a recording hold depth, or pairs of views alone.

    Raises:
        InputError: if the first of them is damaged.
    """
    # not at the top: it keeps OpenCV to one thread, and stereo pairs are matched by all
    from sharp_ros.training.dataset import Shards

    return bool(Shards([min(Path(folder).glob('*.npz'))])[0].depth.any())


def with_depth(images: Iterable[RecordedImage]) -> Iterator[RecordedImage]:
    """Those that have enough of it to learn from."""
    return (image for image in images if _has_depth(image.depth))


def posed_pairs(images: Iterable[RecordedImage]) -> Iterator[RecordedImage]:
    """Pairs of views of a moving camera without depth, one view after the other.

    The metres come from the poses: the second view of a pair is the first one `MIN_STEP` away.
    Each image is in one pair; where the camera turns by more than `MAX_TURN` in between, the
    search begins again.

    Args:
        images: in order of time; those without a pose are left out.

    Raises:
        InputError: `no_depth` if there are no poses either, `recording_too_short` if there are
            hardly any pairs.
    """
    first: RecordedImage | None = None
    pairs, poses, farthest, start = 0, 0, 0.0, np.zeros(3)
    for image in images:
        if image.T_world_camera is None:
            continue
        position = image.T_world_camera[:3, 3]
        start = position if not poses else start
        poses, farthest = poses + 1, max(farthest, float(np.linalg.norm(position - start)))
        step, turn = (0.0, 0.0) if first is None else _motion(first, image)
        if first is None or turn > MAX_TURN:
            first = image
        elif step >= MIN_STEP:
            yield first
            yield image
            pairs, first = pairs + 1, None
    if not poses:
        raise InputError(
            'the recording has neither depth nor poses, and training needs one of them; give an '
            'RGB-D folder (rgb.txt, depth.txt), images with poses in metres (rgb.txt, '
            'groundtruth.txt), a bag with depth or odometry, or rectified stereo pairs (left/, '
            'right/)',
            'no_depth',
        )
    if 2 * pairs <= IMAGES_PER_SHARD:
        if farthest < MIN_STEP:
            problem = f'its {poses} poses do not move: they stay within {farthest:.3f} m'
        else:
            problem = (
                f'only {pairs} pairs of its images are {MIN_STEP:g} m apart and turned by no more '
                f'than {math.degrees(MAX_TURN):.0f} degrees'
            )
        raise InputError(
            f'the recording has no depth, and {problem}; {IMAGES_PER_SHARD // 2 + 1} pairs are '
            'needed: record longer, moving the camera steadily and turning it slowly, with poses '
            'in metres',
            'recording_too_short',
        )


def is_stereo(folder: str | Path) -> bool:
    """Whether a folder looks like one of `stereo_views`."""
    return all((Path(folder) / side).is_dir() for side in ('left', 'right'))


def stereo_views(folder: str | Path) -> Iterator[StereoView]:
    """Both images of rectified pairs, left first, with depth from their disparity.

    Args:
        folder: holds `left/` and `right/` with images of equal names, and `camera.yaml` with
            fx, fy, cx, cy, width, height of the left ones and `baseline` in metres; `cx_right`
            where it differs from cx.

    Raises:
        InputError: `bad_camera_yaml`, `size_mismatch`, or `no_images` if no name is on both sides.
    """
    folder = Path(folder)
    k, right_k, baseline = _read_camera(folder / 'camera.yaml')
    names = sorted(
        path.name
        for path in (folder / 'left').iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and (folder / 'right' / path.name).is_file()
    )
    if not names:
        raise InputError(f'no image of {folder}/left is in {folder}/right, too', 'no_images')
    T_world_right = np.eye(4)
    T_world_right[0, 3] = baseline
    for name in names:
        left, right = (read_image(folder / side / name)[0] for side in ('left', 'right'))
        if not left.shape == right.shape == (k.height, k.width, 3):
            raise InputError(
                f'pair {name} is {left.shape[1]}x{left.shape[0]} and {right.shape[1]}x'
                f'{right.shape[0]}, camera.yaml says {k.width}x{k.height}; correct camera.yaml',
                'size_mismatch',
            )
        shift = right_k.cx - k.cx  # of what is infinitely far
        depths = [
            np.where(d + shift > 0.5, k.fx * baseline / np.maximum(d + shift, 0.5), 0)
            for d in _disparities(left, right, max(0, math.ceil(shift)))
        ]
        if all(map(_has_depth, depths)):
            yield StereoView(left, k, depths[0], np.eye(4))
            yield StereoView(right, right_k, depths[1], T_world_right)


def _disparities(left: np.ndarray, right: np.ndarray, below: int) -> tuple[np.ndarray, np.ndarray]:
    """Of both images, [H, W] pixels over `-below`, -inf where they contradict each other.

    Hirschmueller, Stereo Processing by Semiglobal Matching (2008), as OpenCV has it.
    """
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (left, right)]
    width = left.shape[1]
    count = max(16, round(width * NEAREST / 16) * 16)
    matcher = cv2.StereoSGBM.create(
        -below,
        count,
        5,
        P1=8 * 25,
        P2=32 * 25,
        uniquenessRatio=8,
        speckleWindowSize=80,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )

    def match(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        # The matcher says nothing about the columns whose partners might be outside.
        padded = [
            cv2.copyMakeBorder(x, 0, 0, count, below, cv2.BORDER_REPLICATE)
            for x in (first, second)
        ]
        return matcher.compute(*padded)[:, count : count + width].astype(np.float32) / 16

    of_left = match(grey[0], grey[1])
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in grey]
    of_right = match(mirrored[1], mirrored[0])[:, ::-1]
    column = np.arange(width)[None]

    def agreed(disparity: np.ndarray, other: np.ndarray, sign: int) -> np.ndarray:
        partner = np.rint(column - sign * disparity).astype(int)
        inside = (partner >= 0) & (partner < width) & (disparity > -below)
        back = np.take_along_axis(other, partner.clip(0, width - 1), 1)
        return np.where(inside & (np.abs(back - disparity) <= 1), disparity, -np.inf)

    return agreed(of_left, of_right, 1), agreed(of_right, of_left, -1)


def _read_camera(path: Path) -> tuple[Intrinsics, Intrinsics, float]:
    """Intrinsics of both sides, and their distance in metres."""
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
        size = int(values['width']), int(values['height'])
        fx, fy, cx, cy = (float(values[name]) for name in ('fx', 'fy', 'cx', 'cy'))
        right_cx, baseline = float(values.get('cx_right', cx)), float(values['baseline'])
        if not 0 < baseline < 10:
            raise ValueError(f'baseline is {baseline}')
        return Intrinsics(fx, fy, cx, cy, *size), Intrinsics(fx, fy, right_cx, cy, *size), baseline
    except (
        OSError,
        yaml.YAMLError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        InputError,
    ) as e:
        raise InputError(
            f'{path} cannot be used ({e}); expected numbers width, height, fx, fy, cx, cy of the '
            'left images and the baseline in metres',
            'bad_camera_yaml',
        ) from e


def _measured(depth: np.ndarray) -> np.ndarray:
    """Where depth was measured.

    Infinite is what a sensor does not reach (REP-117), not the sky that it means in shards, and so
    is 1e6 or 1e10 of simulators, which float16 would make infinite.
    """
    return (depth > 0) & (depth < np.finfo(np.float16).max)


def _has_depth(depth: np.ndarray | None) -> bool:
    return depth is not None and bool(np.mean(_measured(depth)) >= MIN_KNOWN)


def _motion(first: RecordedImage, second: RecordedImage) -> tuple[float, float]:
    """Metres and radians from one pose to the other."""
    assert first.T_world_camera is not None
    assert second.T_world_camera is not None
    T = inverse(first.T_world_camera) @ second.T_world_camera
    return float(np.linalg.norm(T[:3, 3])), float(angle(T))


def _row(image: RecordedImage) -> tuple[np.ndarray, ...]:
    """Image, depth, intrinsics counted from the corner, and pose, as a shard holds them."""
    k, depth = image.intrinsics, image.depth
    depth = np.zeros((k.height, k.width)) if depth is None else depth
    scale = min(1.0, LONGEST_SIDE / max(k.width, k.height))
    k = k.resized(round(k.width * scale), round(k.height * scale))
    rgb = cv2.resize(image.image, (k.width, k.height), interpolation=cv2.INTER_AREA)
    depth = np.where(_measured(depth), depth, 0).astype(np.float32)  # 0: unknown
    depth = cv2.resize(depth, (k.width, k.height), interpolation=cv2.INTER_NEAREST_EXACT)
    pose = image.T_world_camera
    pose = np.full((4, 4), np.nan) if pose is None else pose
    intrinsics = np.array([k.fx, k.fy, k.cx + 0.5, k.cy + 0.5], np.float32)
    return rgb, depth.astype(np.float16), intrinsics, pose.astype(np.float32)
