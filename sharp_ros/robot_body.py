"""What of an image is the robot itself: there nothing is seen, whatever a network says.

It is told in two ways. A mask names pixels of the image as the camera delivers it, whatever they
show. A box around the robot names a space: what depth shows inside of it is the robot, so parts
that move within it need no mask.
"""

from __future__ import annotations

from dataclasses import replace
import logging
from pathlib import Path
import re

import cv2
import numpy as np

from sharp_ros.camera import Delivered, Frame, Intrinsics
from sharp_ros.config import SharpConfig
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.images import decode_image
from sharp_ros.se3 import inverse, matrix_from_quat, transform

_log = logging.getLogger(__name__)
_NUMBER = r'[+-]?(?:\d+\.?\d*|\.\d+)'
_POINT = re.compile(rf'({_NUMBER})\s*,\s*({_NUMBER})')
_POLYGONS = re.compile(rf'[\s;]*{_NUMBER}\s*,[-+\d.,;\s]*')  # what is no path of a file
_OTHER_SHAPE = 0.02  # relative difference of width over height, by which a mask is no smaller one
_RIM = np.ones((5, 5), np.uint8)  # of what is in the box: beside it lie its soft edges
_SUBPIXEL_BITS = 4


class RobotBody:
    """Hides the robot itself in frames.

    Args:
        config: `camera.mask`, `camera.robot_box`, and which frame that box is in.

    Attributes:
        settings: of the configuration that it was made of.
        share: of the newest image that the mask hides, 0 to 1; None before it, or without a mask.

    Raises:
        ConfigError: if the mask is no readable 8-bit image and no list of polygons, or hides all.
    """

    def __init__(self, config: SharpConfig) -> None:
        self.settings = settings_of(config)
        self.share: float | None = None
        text = config.camera.mask.strip()
        self._polygons = _parsed(text) if _POLYGONS.match(text) else []
        self._picture = _read(Path(text).expanduser()) if text and not self._polygons else None
        box = np.array(config.camera.robot_box)
        self._box = box.reshape(2, 3) if box.any() else None
        self._base_frame = config.pose.base_frame
        mounted = np.array(config.pose.base_to_camera)
        self._T_camera_base: np.ndarray | None = None
        if mounted[3:].any():
            self._T_camera_base = inverse(
                transform(matrix_from_quat(mounted[[6, 3, 4, 5]]), mounted[:3])
            )
        self._mask: tuple[Delivered | None, tuple[int, int], np.ndarray] | None = None
        self._span: tuple[Intrinsics, np.ndarray, tuple[np.ndarray, np.ndarray]] | None = None

    def mask(self, width: int, height: int) -> np.ndarray | None:  # -> [H, W] bool
        """Pixels of an image as delivered that are the robot itself; None without a mask.

        Raises:
            InputError: `bad_mask` if the mask belongs to an image of another size, or hides all.
        """
        if self._picture is not None:
            hidden = _fitted(self._picture, width, height)
        elif self._polygons:
            hidden = _filled(self._polygons, width, height)
        else:
            return None
        if hidden.all():
            raise InputError(
                f'camera.mask hides all of the {width}x{height} image; draw only the robot',
                'bad_mask',
            )
        return hidden

    def hidden(self, frame: Frame) -> Frame:
        """The frame with the pixels of the mask unseen, and without depth there.

        Raises:
            InputError: `bad_mask`, see `mask`.
        """
        if self._picture is None and not self._polygons:
            return frame
        mask = self._mask_of(frame)
        unseen = mask if frame.unseen is None else mask | frame.unseen
        depth = frame.depth
        if depth is not None:
            depth = np.where(mask, np.float32(np.nan), depth)
        return replace(frame, unseen=unseen, depth=depth)

    def _mask_of(self, frame: Frame) -> np.ndarray:  # -> [H, W] bool
        """The mask in the pixels of a rectified image; kept, since it is that of the next, too."""
        shape, by = frame.image.shape[:2], frame.rectifier
        if self._mask is not None and self._mask[0] is by and self._mask[1] == shape:
            return self._mask[2]
        delivered = frame.intrinsics if by is None else by.intrinsics
        mask = self.mask(delivered.width, delivered.height)
        assert mask is not None
        if by is not None:
            mask = by.rectify_depth(mask.astype(np.float32)) > 0
        if mask.shape != shape:
            size = shape[::-1]
            small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
            mask = small.astype(bool)
        self._mask, self.share = (by, shape, mask), float(mask.mean())
        _log.info('camera.mask hides %.1f %% of the image', 100 * self.share)
        return mask

    def objection(self, frame: Frame) -> InputError | None:
        """Why nothing may be learnt from a frame, in which the robot cannot be told apart."""
        if self._box is None or self._T_camera_base_of(frame) is not None:
            return None
        return InputError(
            f'camera.robot_box is in {self._base_frame}, of which tf does not say where it is to '
            'the camera; publish that, or set pose.base_to_camera: till then the robot would be '
            'an obstacle to itself',
            'waiting_for_robot_box',
        )

    def in_box(self, frame: Frame, depth: np.ndarray) -> np.ndarray | None:  # -> [H, W] bool
        """Pixels whose depth lies inside the box, two pixels widened; None if there are none.

        Args:
            frame: with the transform to the base of the robot.
            depth: [H, W] z-depth in metres; NaN is nowhere.
        """
        T_camera_base = self._T_camera_base_of(frame)
        if self._box is None or T_camera_base is None:
            return None
        here, span = frame.intrinsics, self._span
        if span is None or span[0] != here or not np.array_equal(span[1], T_camera_base):
            ends = rays_in_box(here, T_camera_base, self._box)
            span = self._span = here, T_camera_base, ends
        near, far = span[2]
        inside = (depth >= near) & (depth <= far)
        if not inside.any():
            return None
        return cv2.dilate(inside.astype(np.uint8), _RIM).astype(bool)

    def _T_camera_base_of(self, frame: Frame) -> np.ndarray | None:
        if self._T_camera_base is not None:
            return self._T_camera_base
        return frame.transforms.get(self._base_frame)


def settings_of(config: SharpConfig) -> tuple[object, ...]:
    """All that a `RobotBody` depends on."""
    camera, pose = config.camera, config.pose
    return camera.mask, camera.robot_box, pose.base_frame, pose.base_to_camera


def rays_in_box(
    intrinsics: Intrinsics, T_camera_base: np.ndarray, box: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # -> [H, W], [H, W] float32
    """Between which z-depths the ray of each pixel runs inside a box, metres.

    Where it passes by, the first is above the second. By slabs (Kay and Kajiya, 1986).

    Args:
        intrinsics: of the image.
        T_camera_base: [4, 4] of the frame whose axes the box has.
        box: [2, 3] lowest and highest corner, metres.
    """
    T_base_camera = inverse(T_camera_base)
    rays = intrinsics.rays().astype(np.float64)
    rays = np.concatenate([rays, np.ones((*rays.shape[:2], 1))], -1) @ T_base_camera[:3, :3].T
    near, far = np.zeros(rays.shape[:2]), np.full(rays.shape[:2], np.inf)
    for axis in range(3):
        low, high = box[:, axis] - T_base_camera[axis, 3]
        along = rays[..., axis]
        with np.errstate(divide='ignore', invalid='ignore'):
            ends = np.stack([low / along, high / along])
        # along a slab a ray is inside of it everywhere or nowhere
        within = low <= 0 <= high
        first = np.where(along == 0, -np.inf if within else np.inf, ends.min(0))
        last = np.where(along == 0, np.inf if within else -np.inf, ends.max(0))
        near, far = np.maximum(near, first), np.minimum(far, last)
    return near.astype(np.float32), far.astype(np.float32)


def _parsed(text: str) -> list[np.ndarray]:  # -> [N, 2] each
    """Polygons of `x,y x,y x,y; x,y ...`."""
    polygons = []
    for part in filter(str.strip, text.split(';')):
        points = [(float(x), float(y)) for x, y in _POINT.findall(part)]
        if _POINT.sub('', part).strip() or len(points) < 3:
            raise ConfigError(
                f'camera.mask: {part.strip()!r} is no polygon; write at least three points as '
                '"x,y x,y x,y", in pixels, polygons apart by ";"'
            )
        polygons.append(np.array(points))
    return polygons


def _read(path: Path) -> np.ndarray:  # -> [H, W] uint8
    """An image file as levels of grey."""
    try:
        picture = decode_image(path.read_bytes(), cv2.IMREAD_UNCHANGED)
    except OSError as error:
        raise ConfigError(
            f'camera.mask: cannot read {path} ({error.strerror}); give the path of an image, or '
            'polygons "x,y x,y x,y; ..."'
        ) from error
    except InputError as error:
        raise ConfigError(f'camera.mask: {path} is no image that can be read: {error}') from error
    if picture.dtype != np.uint8:
        raise ConfigError(
            f'camera.mask: {path} has {picture.dtype} pixels; save it with 8 bits, 0 where the '
            'robot is and 255 elsewhere'
        )
    if picture.ndim == 3:  # the last of two or four channels is opacity
        picture = picture[..., : 3 if picture.shape[2] > 2 else 1].max(-1)
    if not picture.any():
        raise ConfigError(
            f'camera.mask: {path} is black, so it would hide all of the image; 0 is the robot, '
            '255 what is seen'
        )
    return picture


def _fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:  # -> [H, W] bool
    """Where a mask is dark, less than half of its brightest: of 0 and 255 as of 0 and 1."""
    high, wide = picture.shape
    if (wide, high) != (width, height):
        if abs(wide / high / (width / height) - 1) > _OTHER_SHAPE:
            raise InputError(
                f'camera.mask is {wide}x{high}, the image {width}x{height}; draw it over an image '
                'of this camera',
                'bad_mask',
            )
        _log.warning(
            'camera.mask is %dx%d, the image %dx%d: the mask is scaled', wide, high, width, height
        )
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return picture < picture.max() / 2


def _filled(polygons: list[np.ndarray], width: int, height: int) -> np.ndarray:  # -> [H, W] bool
    """Pixels inside of polygons, or on their edges."""
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        if (polygon < -1).any() or (polygon > (width, height)).any():
            x, y = polygon[((polygon < -1) | (polygon > (width, height))).any(1)][0]
            raise InputError(
                f'camera.mask: the point {x:g},{y:g} lies outside of the {width}x{height} image; '
                'give pixels of the image as the camera delivers it',
                'bad_mask',
            )
        shifted = np.round(polygon * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(mask, [shifted], 1, shift=_SUBPIXEL_BITS)
    return mask.astype(bool)
