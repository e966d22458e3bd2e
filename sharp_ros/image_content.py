"""Whether an image shows anything that depth, scale and place can be learnt from.

Images of a scene have structure of all sizes: taken apart into octaves, each has about as much of
it as the next. Noise loses half of its strength from one to the next coarser, blur nearly all of
it to the next finer. So one octave, the second above the finest, tells a dark room from a lens cap
with the noise of a high gain, and fog from a hand before the lens, at whatever contrast. Judged is
tile by tile, since a part of the image that shows something is enough.

Thresholds stem from the first split of `bench/image_content.py`, whose second one checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.errors import InputError
from sharp_ros.se3 import angle, inverse

_LONG_SIDE, _TILE = 160, 16  # cells; a cell is the mean of 4 x 4 pixels of VGA
_DECIMATED = 640  # pixels; of larger images every second, third, ... is looked at
_LEAST = 0.7  # grey levels of structure, below which 8 bits tell little
_OVER_NOISE, _MOST_NOISE = 4.0, 8.0  # factor; no sensor's noise is more grey levels in a cell
_SHARP = 0.4  # structure of an octave over that of the next coarser; heavy blur has 0.3
_SHARP_TWO = 0.2  # likewise of the next coarser but one; real images have 0.38 and more
_ENOUGH = 0.1  # share of tiles with structure
_BLACK, _WHITE, _CLIPPED = 16.0, 250.0, 0.9  # mean level; level, and share of cells beyond it
_PLAIN = 1.0  # grey levels that an image of one shade varies by from tile to tile
_SAME = 0.1  # grey levels, mean difference to an image that is the same, but for its codec
_MOVED = (0.05, math.radians(2.0))  # metres and radians, beyond the jitter of poses


@dataclass(frozen=True)
class Content:
    """What one image shows.

    Attributes:
        share: part of the image, 0 to 1, with structure that is neither noise nor blur.
        level: mean grey level, 0 to 255.
        clipped: part of the image that is white.
        plain: whether it has one shade all over, but for noise.
        cells: [h, w] uint8, the image made small.
    """

    share: float
    level: float
    clipped: float
    plain: bool
    cells: np.ndarray

    @property
    def enough(self) -> bool:
        """Whether something can be learnt from the image."""
        return self.share >= _ENOUGH


def content_of(image: np.ndarray, unseen: np.ndarray | None = None) -> Content:
    """Judge one image by itself.

    Args:
        image: [H, W, 3] uint8 RGB, or [H, W] gray.
        unseen: [H, W] bool, pixels that no ray reached; tiles beside them do not count.
    """
    cells = _cells(image)
    bands = _octaves(cells.astype(np.float32))
    seen = np.ones_like(cells, bool) if unseen is None else _far_from(unseen, cells.shape)
    tiles = seen[_TILE // 2 :: _TILE, _TILE // 2 :: _TILE]
    if not tiles.any():
        return Content(0.0, float(cells.mean()), 0.0, plain=True, cells=cells)
    sample = np.abs(bands[0][::2, ::2][seen[::2, ::2]])
    noise = min(1.4826 * float(np.median(sample)), _MOST_NOISE)
    # variance of each octave in each tile, without that of the noise, which halves in strength
    raw = [_tile_means(band**2, _TILE >> k)[tiles] for k, band in enumerate(bands)]
    one, two, three = (np.maximum(raw[k] - (noise / 2**k) ** 2, 0) for k in (1, 2, 3))
    there = raw[2] > max(_LEAST, _OVER_NOISE * noise / 4) ** 2
    sharp = (one > _SHARP**2 * two) & (one.mean() > _SHARP_TWO**2 * three.mean())
    shades = _tile_means(cells.astype(np.float32), _TILE)[tiles]
    return Content(
        share=float((there & sharp).mean()),
        level=float(cells[seen].mean()),
        clipped=float((cells[seen] >= _WHITE).mean()),
        plain=bool(shades.std() < max(_PLAIN, noise / 4) and there.mean() < _ENOUGH),
        cells=cells,
    )


class ContentCheck:
    """Looks at every image before the network does.

    Args:
        measured: whether depth comes from a sensor, which sees in the dark, too; then images are
            refused only if image and depth are the same again although the camera moved.
    """

    def __init__(self, *, measured: bool) -> None:
        self._measured = measured
        self.reset()

    def reset(self) -> None:
        """Forget the image that the next would be compared with."""
        self._first: tuple[Frame, np.ndarray] | None = None  # of those that are the same

    def __call__(self, frame: Frame) -> InputError | None:
        """Why nothing may be learnt from a frame, although its depth may be published.

        A wall without structure has a depth, if roughly so, and a robot before it needs one.

        Raises:
            InputError: `image_dark`, `image_overexposed`, `image_uniform` or `image_repeated` if
                depth would be invented, or be that of another time.
        """
        content = content_of(frame.gray, frame.unseen)
        if content.enough:
            self._refuse_repeated(frame, content.cells)
        if content.enough or self._measured:
            return None
        if content.level < _BLACK:
            raise InputError(
                f'the image is black (mean level {content.level:.0f} of 255); take off the lens '
                'cap, add light, or raise exposure or gain',
                'image_dark',
            )
        if content.clipped > _CLIPPED:
            raise InputError(
                f'the image is white ({content.clipped:.0%} of it at the limit); lower exposure '
                'or gain, or turn the camera away from the light',
                'image_overexposed',
            )
        if content.plain:
            raise InputError(
                'the image is uniform; uncover the lens, or see whether the camera '
                'driver sends empty images',
                'image_uniform',
            )
        return InputError(
            'the image shows nothing sharp; uncover, wipe or focus the lens, and move away from '
            'what is close before it or from a bare wall',
            'image_featureless',
        )

    def _refuse_repeated(self, frame: Frame, cells: np.ndarray) -> None:
        pose = frame.T_world_camera
        first = self._first
        if first is None or pose is None or not _same(frame, cells, *first):
            self._first = None if pose is None else (frame, cells)
            return
        assert first[0].T_world_camera is not None
        motion = inverse(first[0].T_world_camera) @ pose
        moved, turned = float(np.linalg.norm(motion[:3, 3])), float(angle(motion[:3, :3]))
        if moved > _MOVED[0] or turned > _MOVED[1]:
            raise InputError(
                f'the image is still the same after {moved:.2f} m and {math.degrees(turned):.0f}° '
                'of motion; restart the camera driver, or correct the source of the poses if the '
                'camera stands still',
                'image_repeated',
            )


def _same(frame: Frame, cells: np.ndarray, first: Frame, first_cells: np.ndarray) -> bool:
    """Whether image and measured depth, if any, are those of another frame of that world."""
    if frame.world_frame != first.world_frame or cells.shape != first_cells.shape:
        return False
    if cv2.norm(cells, first_cells, cv2.NORM_L1) > _SAME * cells.size:
        return False
    if frame.depth is None or first.depth is None:
        return frame.depth is first.depth
    return np.array_equal(frame.depth[::8, ::8], first.depth[::8, ::8], equal_nan=True)


def _cells(image: np.ndarray) -> np.ndarray:  # [H, W, 3] or [H, W] -> [h, w] uint8
    """Grey means of cells; the long side has 160 of them, both a number of whole tiles."""
    long = max(image.shape[:2])
    step = max(1, long // _DECIMATED)
    gray = np.ascontiguousarray(image[::step, ::step])
    if gray.ndim == 3:
        gray = cv2.cvtColor(gray, cv2.COLOR_RGB2GRAY)
    share = min(_LONG_SIDE, long) / long
    high, wide = (_TILE * max(1, round(side * share / _TILE)) for side in image.shape[:2])
    return cv2.resize(gray, (wide, high), interpolation=cv2.INTER_AREA)


def _octaves(cells: np.ndarray) -> list[np.ndarray]:  # [h, w] -> [h / 2^k, w / 2^k]
    """What each of four octaves adds to the next coarser one (Burt and Adelson, 1983)."""
    bands = []
    for _ in range(4):
        high, wide = cells.shape
        coarse = cv2.resize(cells, (wide // 2, high // 2), interpolation=cv2.INTER_AREA)
        bands.append(cells - cv2.resize(coarse, (wide, high), interpolation=cv2.INTER_LINEAR))
        cells = coarse
    return bands


def _tile_means(values: np.ndarray, side: int) -> np.ndarray:  # [h, w] -> [h / side, w / side]
    high, wide = values.shape
    size = (wide // side, high // side)
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA)


def _far_from(unseen: np.ndarray, size: tuple[int, ...]) -> np.ndarray:  # [H, W] -> [h, w] bool
    """Cells so far from those without rays that the edge between them does not show."""
    mask = cv2.resize(unseen.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA)
    return cv2.dilate(mask, np.ones((2 * _TILE + 1,) * 2, np.uint8)) == 0
