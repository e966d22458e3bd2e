"""Pinhole geometry: intrinsics, frames and projection.

Integer pixel coordinates are pixel centres, as in `CameraInfo` and OpenCV; `Intrinsics` owns the
half-pixel shift to networks that count from the image corner, and every resize and crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
import math
from typing import Protocol

import cv2
import numpy as np

from sharp_ros.errors import InputError

# Neighbouring depths that differ by more than this factor belong to different surfaces.
SAME_SURFACE_RATIO = 1.25
JITTER_NS = 1_000_000_000  # by which stamps may go back without that a recording started over
_FOCAL_SHARE = 1000.0  # of the sides of an image; beyond there are no lenses


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole parameters in pixels of a `width` x `height` image, pixel centres at integers.

    Raises:
        InputError: if a value is not finite, a side is not positive, or a focal length is not
            between a thousandth of and a thousand sides.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.fx, self.fy, self.cx, self.cy)):
            raise InputError(f'intrinsics must be finite, got {self}', 'bad_intrinsics')
        if self.fx <= 0 or self.fy <= 0:
            raise InputError(
                f'focal lengths must be positive, got fx={self.fx}, fy={self.fy}; calibrate the '
                'camera or set camera.fallback_hfov',
                'bad_intrinsics',
            )
        if self.width < 1 or self.height < 1:
            raise InputError(f'image size {self.width}x{self.height} is empty', 'bad_intrinsics')
        shares = (self.fx / self.width, self.fy / self.height)
        if not all(1 / _FOCAL_SHARE < share < _FOCAL_SHARE for share in shares):
            raise InputError(
                f'focal lengths fx={self.fx:g}, fy={self.fy:g} are impossible for an image of '
                f'{self.width}x{self.height}; calibrate the camera',
                'bad_intrinsics',
            )

    @classmethod
    def centred(cls, focal: float, width: int, height: int) -> Intrinsics:
        """Square pixels and the principal point in the middle of the image; `focal` in pixels."""
        return cls(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)

    @classmethod
    def from_hfov(cls, hfov: float, width: int, height: int) -> Intrinsics:
        """Square pixels, centred, with a horizontal field of view in radians."""
        if not 0 < hfov < math.pi:
            raise InputError(f'field of view must lie between 0 and pi rad, got {hfov}')
        return cls.centred(width / 2 / math.tan(hfov / 2), width, height)

    @property
    def hfov(self) -> float:
        """Horizontal field of view of the image from edge to edge, radians."""
        left, right = (self.cx + 0.5) / self.fx, (self.width - 0.5 - self.cx) / self.fx
        return math.atan(left) + math.atan(right)

    @property
    def matrix(self) -> np.ndarray:
        """[3, 3] float64 camera matrix K."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    def resized(self, width: int, height: int) -> Intrinsics:
        """Intrinsics after the image is resized edge to edge (`cv2.resize`), axes independent."""
        sx, sy = width / self.width, height / self.height
        cx, cy = (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5
        return Intrinsics(self.fx * sx, self.fy * sy, cx, cy, width, height)

    def cropped(self, x: int, y: int, width: int, height: int) -> Intrinsics:
        """Intrinsics of the window whose top left pixel is (x, y)."""
        return replace(self, cx=self.cx - x, cy=self.cy - y, width=width, height=height)

    def subsampled(self, step: int) -> Intrinsics:
        """Intrinsics of `image[::step, ::step]`, whose pixels keep their places."""
        return Intrinsics(
            self.fx / step,
            self.fy / step,
            self.cx / step,
            self.cy / step,
            -(-self.width // step),
            -(-self.height // step),
        )

    @property
    def parameters(self) -> np.ndarray:
        """[4] float64 fx, fy, cx, cy, as kernels take them."""
        return np.array([self.fx, self.fy, self.cx, self.cy], np.float64)

    def axes(self) -> tuple[np.ndarray, np.ndarray]:  # -> [W], [H]
        """x/z of every column and y/z of every row of pixel centres, float64."""
        x = (np.arange(self.width) - self.cx) / self.fx
        y = (np.arange(self.height) - self.cy) / self.fy
        return x, y

    def rays(self) -> np.ndarray:  # -> [H, W, 2] float32
        """x/z and y/z of every pixel centre."""
        x, y = (axis.astype(np.float32) for axis in self.axes())
        return np.stack(np.meshgrid(x, y), -1)

    def pixels(self, points: np.ndarray) -> np.ndarray:  # [..., 3] -> [..., 2]
        """Where points of the optical frame appear, pixels; as precise as the points are.

        Only for those in front of the camera that is true, see `project`; at z = 0 it is NaN or
        infinite.
        """
        with np.errstate(divide='ignore', invalid='ignore'):
            u = points[..., 0] / points[..., 2] * self.fx + self.cx
            v = points[..., 1] / points[..., 2] * self.fy + self.cy
        return np.stack([u, v], -1)

    def contains(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:  # [...], [...] -> [...] bool
        """Whether pixels, rounded or indices, are of this image; not if they are NaN."""
        return (u >= 0) & (u < self.width) & (v >= 0) & (v < self.height)

    def unprojected(self, pixels: np.ndarray) -> np.ndarray:  # [..., 2] -> [..., 3]
        """Points at z = 1 in the optical frame that appear at these places, float64."""
        xy = (pixels - np.array([self.cx, self.cy])) / np.array([self.fx, self.fy])
        return np.concatenate([xy, np.ones((*xy.shape[:-1], 1))], -1)


MIN_HEIGHT = 0.05  # metres over the floor; a camera below is on stairs or in a pit


@dataclass(frozen=True)
class FloorGeometry:
    """How a camera stands over the floor, known from elsewhere than from its images.

    Attributes:
        up: [3] upwards in the optical frame, against gravity; of any length but 0.
        height: of the camera above the floor, metres.

    Raises:
        InputError: `bad_geometry` if a number is not finite, the height not positive, or `up` no
            direction.
    """

    up: np.ndarray
    height: float

    def __post_init__(self) -> None:
        length = float(np.linalg.norm(self.up)) if np.shape(self.up) == (3,) else 0.0
        if not (0 < length < math.inf and 0 < self.height < math.inf):
            raise InputError(
                f'up must be a direction [3] and the height positive metres, got {self.up} and '
                f'{self.height}',
                'bad_geometry',
            )


@dataclass(frozen=True)
class MeasuredUp:
    """The direction against gravity, as an IMU measured it.

    Attributes:
        direction: [3] unit vector, against gravity; in the optical frame unless said otherwise.
        std: standard deviation of its angle about any axis, radians.

    Raises:
        InputError: `bad_geometry` if it is no unit vector or the deviation not positive.
    """

    direction: np.ndarray
    std: float

    def __post_init__(self) -> None:
        length = float(np.linalg.norm(self.direction)) if np.shape(self.direction) == (3,) else 0
        if not (abs(length - 1) < 1e-6 and 0 < self.std < math.inf):
            raise InputError(
                f'up must be a unit vector [3] with a positive deviation, got {self.direction} '
                f'and {self.std}',
                'bad_geometry',
            )

    def turned(self, rotation: np.ndarray) -> MeasuredUp:  # [3, 3]
        """The same direction in another frame, `rotation` being `R_other_this`."""
        direction = rotation @ self.direction
        return replace(self, direction=direction / np.linalg.norm(direction))


@dataclass(frozen=True)
class RangeReading:
    """A distance that a range finder measured along a ray.

    Attributes:
        origin: [3] where the ray begins, in the optical frame unless said otherwise, metres.
        direction: [3] unit vector along it.
        distance: along the ray, metres.
        half_angle: of the cone around the ray in which the sensor sees, radians.
        std: standard deviation of the distance, metres.

    Raises:
        InputError: `bad_range` if a number is impossible.
    """

    origin: np.ndarray
    direction: np.ndarray
    distance: float
    half_angle: float
    std: float

    def __post_init__(self) -> None:
        ray = np.concatenate([self.origin, self.direction])
        aimed = ray.shape == (6,) and abs(float(np.linalg.norm(ray[3:])) - 1) < 1e-6
        if not (
            aimed
            and np.isfinite(ray).all()
            and 0 < self.distance < math.inf
            and 0 <= self.half_angle < math.pi / 2
            and 0 < self.std < math.inf
        ):
            raise InputError(f'impossible reading of a range finder: {self}', 'bad_range')

    @property
    def point(self) -> np.ndarray:
        """[3] where the ray ends, metres."""
        return self.origin + self.distance * self.direction

    def is_in(self, intrinsics: Intrinsics) -> bool:
        """Whether a camera, in whose optical frame it is given, has where the ray ends in view."""
        point = self.point
        if not point[2] > 0:
            return False
        u, v = intrinsics.pixels(point)
        return bool(-0.5 <= u < intrinsics.width - 0.5 and -0.5 <= v < intrinsics.height - 0.5)

    def moved(self, T_other_this: np.ndarray) -> RangeReading:  # [4, 4]
        """The same reading in another frame."""
        R, t = T_other_this[:3, :3], T_other_this[:3, 3]
        direction = R @ self.direction
        return replace(
            self, origin=R @ self.origin + t, direction=direction / np.linalg.norm(direction)
        )


class Delivered(Protocol):
    """What made a rectified image of the one that the camera delivered."""

    @property
    def intrinsics(self) -> Intrinsics:
        """Of the rectified image, whose size is that of the delivered one."""
        ...

    def rectify_depth(self, depth: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W]
        """Values over the pixels delivered, float32, over those rectified; 0 where none came."""
        ...


@dataclass(frozen=True)
class Frame:
    """One rectified camera image with all that is known about it at its stamp.

    Attributes:
        image: [H, W, 3] uint8 RGB, rectified.
        intrinsics: of that image.
        stamp_ns: acquisition time, nanoseconds.
        frame_id: optical frame (+z forward, +x right, +y down).
        T_world_camera: [4, 4] pose at the stamp, or None when unknown.
        world_frame: frame of the pose; z up. Without a pose: where visual odometry shall find it.
        depth: [H, W] float32 registered z-depth in metres when a sensor supplies it; 0 and
            non-finite mean no measurement.
        unseen: [H, W] bool, pixels that no ray of the camera reached, as rectification leaves
            them, or that show the robot itself: there nothing is known, whatever a network says.
            None: all were reached.
        transforms: `T_camera_x` [4, 4] of other frames x at the stamp, as far as wanted and known.
        up: against gravity in the optical frame at the stamp, where an IMU says so.
        range_reading: of a range finder at the stamp, in the optical frame.
        rectifier: what made the image of the one delivered; None: they are the same.
    """

    image: np.ndarray
    intrinsics: Intrinsics
    stamp_ns: int
    frame_id: str
    T_world_camera: np.ndarray | None = None
    world_frame: str = ''
    depth: np.ndarray | None = None
    unseen: np.ndarray | None = None
    transforms: Mapping[str, np.ndarray] = field(default_factory=dict)
    up: MeasuredUp | None = None
    range_reading: RangeReading | None = None
    rectifier: Delivered | None = None
    # an image and its gray, shared with what `replace` makes of the frame
    _made: list[tuple[np.ndarray, np.ndarray]] = field(
        default_factory=list, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        size = (self.intrinsics.height, self.intrinsics.width)
        if self.image.dtype != np.uint8 or self.image.shape != (*size, 3):
            raise InputError(
                f'image must be uint8 {(*size, 3)}, got {self.image.dtype} {self.image.shape}',
                'size_mismatch',
            )
        if self.depth is not None:
            check_registered(self.depth, size)
        if self.unseen is not None:
            check_registered(self.unseen, size, 'mask')

    @property
    def gray(self) -> np.ndarray:
        """The image in gray, [H, W] uint8; made once for all frames with the same image."""
        made = self._made[0] if self._made else None
        if made is None or made[0] is not self.image:
            made = self.image, cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY)
            self._made[:] = [made]
        return made[1]

    def placed(self, T_world_camera: np.ndarray | None, world_frame: str) -> Frame:
        """The same frame with its pose in a world frame, None if that is yet to be found."""
        return replace(self, T_world_camera=T_world_camera, world_frame=world_frame)


def check_registered(
    depth: np.ndarray, size: tuple[int, ...], name: str = 'depth', remedy: str = ''
) -> None:
    """Refuse a depth image, or another one, that does not share the pixels of an image.

    Args:
        depth: [H, W].
        size: H, W of the image.
        name: of what is refused, for the message.
        remedy: what to do then, likewise.

    Raises:
        InputError: `size_mismatch`.
    """
    if depth.shape != size:
        raise InputError(
            f'{name} {depth.shape} does not fit the image {size}, so it is not registered to it'
            f'{remedy and "; "}{remedy}',
            'size_mismatch',
        )


def check_depth_size(depth: np.ndarray, intrinsics: Intrinsics) -> None:
    """Refuse a depth image that is not [H, W] of the intrinsics.

    Raises:
        InputError: `size_mismatch`.
    """
    check_registered(depth, (intrinsics.height, intrinsics.width))


def check_rgbd_size(image: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics) -> None:
    """Refuse an image that is not uint8 RGB [H, W, 3] of the intrinsics, or such a depth image.

    Raises:
        InputError: `size_mismatch`.
    """
    size = (intrinsics.height, intrinsics.width)
    if depth.shape != size or image.shape != (*size, 3) or image.dtype != np.uint8:
        raise InputError(
            f'depth {depth.shape} and {image.dtype} image {image.shape} must be of size {size} '
            'as the intrinsics say, the image uint8 RGB',
            'size_mismatch',
        )


def unproject(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:  # [H, W] -> [H, W, 3]
    """Lift a depth image to float32 points in the camera's optical frame.

    Args:
        depth: z-depth in metres; 0 and non-finite mean "no measurement".
        intrinsics: of the same resolution as `depth`.

    Returns:
        Points in metres; NaN where there was no measurement.

    Raises:
        InputError: if the two resolutions differ.
    """
    check_depth_size(depth, intrinsics)
    z = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)
    return np.concatenate([intrinsics.rays() * z[..., None], z[..., None]], -1)


def project(points: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:  # [..., 3] -> [..., 2]
    """Pixel coordinates of points in the optical frame; NaN at or behind the camera plane."""
    return np.where(points[..., 2:] > 0, intrinsics.pixels(points), np.nan)
