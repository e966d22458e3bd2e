"""What a driver says about its camera, and pinhole images with exact intrinsics made by it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
import math
from typing import cast

import cv2
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.se3 import is_rotation

_MOST_UNSEEN = 0.6  # share of black pixels that rectification elsewhere may have left


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
        distortion_model: `plumb_bob`, `rational_polynomial`, `equidistant` (or `fisheye`); empty
            means none.
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
    'fisheye': (4,),
}
_FISHEYE = ('equidistant', 'fisheye')  # one formula, two names
_FOLD_STEPS = 4096  # of the radius, along which a fold is looked for
_OUTSIDE = -2  # a pixel of no image, whatever is interpolated


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
                f'the calibration holds impossible numbers: fx={fx}, fy={fy}, cx={cx}, cy={cy}, '
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
                f'{expected[1]}x{expected[0]}; use the calibration of that size',
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
        f'image is {image_size[0]}x{image_size[1]}, but its calibration describes '
        f'{model.width}x{model.height} with region {width}x{height} at ({x}, {y}) and binning '
        f'{bin_x}x{bin_y}; use the calibration that belongs to the image',
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
    distortion = model.D
    if model.distortion_model in _FISHEYE and len(distortion) == 5 and distortion[4] == 0:
        distortion = distortion[:4]  # of drivers that always write five
    if len(distortion) not in counts:
        raise InputError(
            f'{model.distortion_model} takes {" or ".join(map(str, counts))} coefficients, '
            f'the calibration has {len(model.D)}; calibrate the camera again',
            'bad_camera_info',
        )
    if not np.isfinite(model.D).all() or not is_rotation(R):
        raise InputError(
            f'the calibration holds impossible numbers: D={model.D}, R={R.tolist()}; calibrate '
            'the camera again or fix its driver',
            'bad_camera_info',
        )
    fisheye = model.distortion_model in _FISHEYE
    initialise = cv2.fisheye.initUndistortRectifyMap if fisheye else cv2.initUndistortRectifyMap
    size = (rectified.width, rectified.height)
    coefficients = np.array(distortion)
    maps = initialise(raw.matrix, coefficients, R, rectified.matrix, size, cv2.CV_16SC2)
    beyond = _beyond_fold(coefficients, fisheye, np.linalg.inv(rectified.matrix @ R), size)
    if beyond is not None:
        maps[0][beyond], maps[1][beyond] = _OUTSIDE, 0
    return maps


def _beyond_fold(
    D: np.ndarray, fisheye: bool, to_ray: np.ndarray, size: tuple[int, int]
) -> np.ndarray | None:  # -> [H, W] bool
    """Pixels whose rays lie where the distortion has ceased to grow with the angle, or None.

    A fitted polynomial holds only where it was fitted. Farther out it may turn back, or, of a
    rational one, the denominator may reach 0; there it shows parts of the image once more.
    The radial part decides, which is far larger than the rest.
    """
    u, v = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    rays = np.stack([u, v, np.ones_like(u)], -1) @ to_ray.T
    radius = np.hypot(rays[..., 0], rays[..., 1]) / rays[..., 2]
    growing = np.linspace(0, radius.max(), _FOLD_STEPS)
    if fisheye:
        angle = np.arctan(growing)
        distorted = angle * np.polyval([*D[::-1], 1.0], angle**2)
        positive = np.ones(_FOLD_STEPS, bool)
    else:
        k = np.zeros(8)
        k[: min(len(D), 8)] = D[:8]
        denominator = np.polyval([k[7], k[6], k[5], 1.0], growing**2)
        positive = denominator > 0
        numerator = np.polyval([k[4], k[1], k[0], 1.0], growing**2)
        distorted = growing * numerator / np.where(positive, denominator, 1.0)
    folded = ~positive[1:] | (np.diff(distorted) <= 0)
    if not folded.any():
        return None
    return radius > growing[int(np.argmax(folded))]
