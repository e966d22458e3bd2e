"""Pinhole geometry: intrinsics, frames, projection and rectification.

Integer pixel coordinates are pixel centres, as in `CameraInfo` and OpenCV; `Intrinsics` owns the
half-pixel shift to networks that count from the image corner, and every resize and crop. One
module: from what a driver says about its camera to the ray of every pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
import math
from typing import cast

import cv2
import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.se3 import is_rotation

# Neighbouring depths that differ by more than this factor belong to different surfaces.
SAME_SURFACE_RATIO = 1.25
JITTER_NS = 1_000_000_000  # by which stamps may go back without that a recording started over
_MOST_UNSEEN = 0.6  # share of black pixels that rectification elsewhere may have left
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
            them: there nothing is known, whatever a network says. None: all were reached.
        transforms: `T_camera_x` [4, 4] of other frames x at the stamp, as far as wanted and known.
        up: against gravity in the optical frame at the stamp, where an IMU says so.
        range_reading: of a range finder at the stamp, in the optical frame.
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


@dataclass(frozen=True)
class CameraModel:
    """What `sensor_msgs/CameraInfo` says about a camera, in its own terms and without ROS types.

    Hashable and comparable, so that maps are built only when the camera changes.

    Attributes:
        width: of the full image the camera was calibrated with, pixels.
        height: likewise.
        K: 3x3 row-major camera matrix of the raw full image; K[0] == 0 means uncalibrated.
        D: distortion coefficients in OpenCV's order.
        R: 3x3 row-major rectifying rotation of a stereo rig; a single camera needs none.
        P: 3x4 row-major projection of the rectified full image.
        distortion_model: `plumb_bob`, `rational_polynomial`, `equidistant`; empty means none.
        binning_x: columns of the full image merged into one; 0 means 1.
        binning_y: rows of the full image merged into one; 0 means 1.
        roi: (x, y, width, height) read out, in pixels of the full image; all 0 means all of it.

    Raises:
        InputError: if K, R or P have the wrong length.
    """

    width: int
    height: int
    K: tuple[float, ...] = (0.0,) * 9
    D: tuple[float, ...] = ()
    R: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    P: tuple[float, ...] = (0.0,) * 12
    distortion_model: str = ''
    binning_x: int = 1
    binning_y: int = 1
    roi: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        if (len(self.K), len(self.R), len(self.P)) != (9, 9, 12):
            raise InputError(
                f'camera_info needs 9, 9 and 12 numbers in K, R and P, got {len(self.K)}, '
                f'{len(self.R)} and {len(self.P)}; fix the camera driver',
                'bad_camera_info',
            )


# Numbers of coefficients OpenCV accepts; the first two models share one formula, of which
# shorter lists are a prefix, and drivers mix up their names.
_POLYNOMIAL_COEFFICIENTS = (4, 5, 8, 12, 14)
_COEFFICIENTS = {
    'plumb_bob': _POLYNOMIAL_COEFFICIENTS,
    'rational_polynomial': _POLYNOMIAL_COEFFICIENTS,
    'equidistant': (4,),
}


class Rectifier:
    """Turns images of one camera into pinhole images whose intrinsics are known exactly.

    Raw images keep their camera matrix: only the distortion is removed, the optical frame does
    not turn (R belongs to stereo pairs), so `frame_id` stays true. Pixels no ray of the camera
    reached are black, and 0 in depth images.

    Args:
        model: of the camera that took the images.
        rectified: the images are rectified already: P describes them; K, D and R say no more
            than which of their pixels are black.
        fallback_hfov: horizontal field of view assumed if the camera is uncalibrated, radians;
            0 refuses such a camera.
        image_size: (width, height) of the images, pixels.

    Attributes:
        intrinsics: of the images that `rectify` returns.
        unseen: [H, W] bool, their pixels without a ray, two pixels widened, since what is beside
            them is an edge of nothing; None if there are none.

    Raises:
        InputError: `uncalibrated`; `bad_camera_info` for numbers no camera has or an unknown
            distortion model; `size_mismatch` if images of that size are neither the full image
            of the model nor what its region of interest and binning leave of it.
    """

    def __init__(
        self,
        model: CameraModel,
        rectified: bool,
        fallback_hfov: float,
        image_size: tuple[int, int],
    ) -> None:
        self._maps: tuple[np.ndarray, np.ndarray] | None = None
        self.unseen: np.ndarray | None = None
        name, matrix, columns = ('P', model.P, 4) if rectified else ('K', model.K, 3)
        fx, cx, fy, cy = matrix[0], matrix[2], matrix[columns + 1], matrix[columns + 2]
        if model.K[0] == 0 or fx == 0:
            if fallback_hfov <= 0:
                raise InputError(
                    f'camera_info is uncalibrated ({"K" if model.K[0] == 0 else name}[0] is 0); '
                    'calibrate the camera or set camera.fallback_hfov, its horizontal field of '
                    'view in radians',
                    'uncalibrated',
                )
            self.intrinsics = Intrinsics.from_hfov(fallback_hfov, *image_size)
            return
        distortion = () if rectified or not model.distortion_model else model.D
        if not all(map(math.isfinite, (fx, fy, cx, cy, *distortion))) or fx <= 0 or fy <= 0:
            raise InputError(
                f'camera_info holds impossible numbers: fx={fx}, fy={fy}, cx={cx}, cy={cy}, '
                f'D={distortion}; calibrate the camera again or fix its driver',
                'bad_camera_info',
            )
        x, y, bin_x, bin_y = _window(model, image_size)
        width, height = image_size

        def windowed(fx: float, fy: float, cx: float, cy: float) -> Intrinsics:
            full = Intrinsics(fx, fy, cx, cy, model.width, model.height)
            return full.cropped(x, y, width * bin_x, height * bin_y).resized(width, height)

        self.intrinsics = windowed(fx, fy, cx, cy)
        if any(distortion):
            self._maps = _undistortion_maps(model, self.intrinsics, np.eye(3), self.intrinsics)
            self.unseen = _unseen(self._maps)
        elif rectified and any(model.D):
            with suppress(InputError):  # who rectified the images need not say how
                raw = windowed(model.K[0], model.K[4], model.K[2], model.K[5])
                R = np.reshape(model.R, (3, 3))
                unseen = _unseen(_undistortion_maps(model, raw, R, self.intrinsics))
                # Some drivers leave in K what belongs to another size, which would black them out.
                self.unseen = unseen if unseen is None or unseen.mean() < _MOST_UNSEEN else None

    def rectify(self, image: np.ndarray) -> np.ndarray:  # [H, W, 3] -> [H, W, 3]
        """The uint8 image without distortion (bilinear); the same array if there is none.

        Raises:
            InputError: `size_mismatch` if the image is not of the size given at construction.
        """
        self._check_size(image)
        return image if self._maps is None else cv2.remap(image, *self._maps, cv2.INTER_LINEAR)

    def rectify_depth(self, depth: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W]
        """Registered float32 z-depth without distortion; nearest neighbour, never mixing surfaces.

        Raises:
            InputError: `size_mismatch` if the depth is not of the size given at construction.
        """
        self._check_size(depth)
        if self._maps is None:
            return depth
        no_fractions = cast('np.ndarray', None)  # which OpenCV takes, but its stub does not
        return cv2.remap(depth, self._nearest_map, no_fractions, cv2.INTER_NEAREST)

    @cached_property
    def _nearest_map(self) -> np.ndarray:  # [H, W, 2] int16
        """Rounded source pixels; OpenCV 5 drops the fractions of fixed-point maps instead."""
        assert self._maps is not None
        whole, fractions = self._maps  # of 1/32 px: 5 bits in y above 5 bits in x
        up = np.stack([fractions & 31, fractions >> 5], -1) >= 16
        return whole + up.astype(np.int16)

    def _check_size(self, image: np.ndarray) -> None:
        expected = (self.intrinsics.height, self.intrinsics.width)
        if image.shape[:2] != expected:
            raise InputError(
                f'image is {image.shape[1]}x{image.shape[0]}, the camera was set up for '
                f'{expected[1]}x{expected[0]}; publish camera_info of the same size',
                'size_mismatch',
            )


def _window(model: CameraModel, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Offset x, y and binning x, y of images of a size, in pixels of the model's full image."""
    bin_x, bin_y = max(model.binning_x, 1), max(model.binning_y, 1)
    x, y, width, height = model.roi
    if width == 0 or height == 0:
        x, y, width, height = 0, 0, model.width, model.height
    if image_size == (width // bin_x, height // bin_y):
        return x, y, bin_x, bin_y
    if image_size == (model.width, model.height):
        return 0, 0, 1, 1
    raise InputError(
        f'image is {image_size[0]}x{image_size[1]}, but camera_info describes '
        f'{model.width}x{model.height} with region {width}x{height} at ({x}, {y}) and binning '
        f'{bin_x}x{bin_y}; publish the camera_info that belongs to the image',
        'size_mismatch',
    )


def _unseen(maps: tuple[np.ndarray, np.ndarray]) -> np.ndarray | None:  # -> [H, W] bool
    """Pixels to which `maps` bring less than one whole pixel, and what is beside them."""
    white = np.full(maps[1].shape, 255, np.uint8)
    black = (cv2.remap(white, *maps, cv2.INTER_LINEAR) < 255).astype(np.uint8)
    return cv2.dilate(black, np.ones((5, 5), np.uint8)).astype(bool) if black.any() else None


def _undistortion_maps(
    model: CameraModel, raw: Intrinsics, R: np.ndarray, rectified: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Fixed-point maps of OpenCV, by which rectified images take their pixels from raw ones.

    Distortion acts on rays, so window and binning change only the camera matrices.
    """
    counts = _COEFFICIENTS.get(model.distortion_model)
    if counts is None:
        raise InputError(
            f'unknown distortion model {model.distortion_model!r}; supported are '
            f'{", ".join(_COEFFICIENTS)}; or rectify upstream and set camera.rectified',
            'bad_camera_info',
        )
    if len(model.D) not in counts:
        raise InputError(
            f'{model.distortion_model} takes {" or ".join(map(str, counts))} coefficients, '
            f'camera_info has {len(model.D)}; calibrate the camera again',
            'bad_camera_info',
        )
    if not np.isfinite(model.D).all() or not is_rotation(R):
        raise InputError(
            f'camera_info holds impossible numbers: D={model.D}, R={R.tolist()}; calibrate the '
            'camera again or fix its driver',
            'bad_camera_info',
        )
    equidistant = model.distortion_model == 'equidistant'
    initialise = (
        cv2.fisheye.initUndistortRectifyMap if equidistant else (cv2.initUndistortRectifyMap)
    )
    size = (rectified.width, rectified.height)
    return initialise(raw.matrix, np.array(model.D), R, rectified.matrix, size, cv2.CV_16SC2)
