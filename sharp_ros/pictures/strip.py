"""A recording at a glance: a strip of its images, with their depth below."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.errors import InputError
from sharp_ros.pictures.depth import colour_depth, depth_range

_WIDTH, _HEIGHT = 240, 180  # of a thumbnail
_BACKGROUND = 24


def thumbnails(frames: Iterable[Frame], total: int, count: int) -> np.ndarray:
    """A picture of `count` frames, evenly spread over `total` of them; all frames are read.

    Args:
        frames: of a recording.
        total: how many there are, about; 0: unknown, the first ones are taken.
        count: of thumbnails, at most.

    Returns:
        [H, W, 3] uint8 RGB: a row of images, and one of depth if any has it.

    Raises:
        InputError: `no_images` if there is no frame.
    """
    step = max(1, total // count)
    kept = [frame for i, frame in enumerate(frames) if i % step == 0 and i < step * count]
    if not kept:
        raise InputError('the source delivered no frame; give another one', 'no_images')
    rows = [np.hstack([_fitted(frame.image) for frame in kept])]
    if any(frame.depth is not None for frame in kept):
        rows.append(np.hstack([_depth_of(frame) for frame in kept]))
    return np.vstack(rows)


def _depth_of(frame: Frame) -> np.ndarray:
    if frame.depth is None:
        return np.full((_HEIGHT, _WIDTH, 3), _BACKGROUND, np.uint8)
    return _fitted(colour_depth(frame.depth, *depth_range(frame.depth)))


def _fitted(image: np.ndarray) -> np.ndarray:  # [H, W, 3] -> [_HEIGHT, _WIDTH, 3]
    """Scaled into a tile, its shape kept."""
    height, width = image.shape[:2]
    scale = min(_WIDTH / width, _HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    tile = np.full((_HEIGHT, _WIDTH, 3), _BACKGROUND, np.uint8)
    y, x = (_HEIGHT - small.shape[0]) // 2, (_WIDTH - small.shape[1]) // 2
    tile[y : y + small.shape[0], x : x + small.shape[1]] = small
    return tile
