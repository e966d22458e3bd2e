"""Pinhole geometry: intrinsics, frames, unprojection and virtual viewpoints.

Integer pixel coordinates are pixel centres, as in `CameraInfo` and OpenCV; `Intrinsics` owns the
half-pixel shift to networks that count from the image corner, and every resize and crop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np

from sharp_ros.errors import InputError


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole parameters in pixels of a `width` x `height` image, pixel centres at integers.

    Raises:
        InputError: if a value is not finite, a focal length or a side is not positive.
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

    @classmethod
    def from_hfov(cls, hfov: float, width: int, height: int) -> Intrinsics:
        """Square pixels, centred, with a horizontal field of view in radians."""
        if not 0 < hfov < math.pi:
            raise InputError(f'field of view must lie between 0 and pi rad, got {hfov}')
        focal = width / 2 / math.tan(hfov / 2)
        return cls(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)

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

    def rays(self) -> np.ndarray:  # -> [H, W, 2] float32
        """x/z and y/z of every pixel centre."""
        x = ((np.arange(self.width) - self.cx) / self.fx).astype(np.float32)
        y = ((np.arange(self.height) - self.cy) / self.fy).astype(np.float32)
        return np.stack(np.meshgrid(x, y), -1)


@dataclass(frozen=True)
class Frame:
    """One rectified camera image with all that is known about it at its stamp.

    Attributes:
        image: [H, W, 3] uint8 RGB, rectified.
        intrinsics: of that image.
        stamp_ns: acquisition time, nanoseconds.
        frame_id: optical frame (+z forward, +x right, +y down).
        T_world_camera: [4, 4] pose at the stamp, or None when unknown.
        world_frame: frame of the pose; z up.
        depth: [H, W] float32 registered z-depth in metres when a sensor supplies it; 0 and
            non-finite mean no measurement.
    """

    image: np.ndarray
    intrinsics: Intrinsics
    stamp_ns: int
    frame_id: str
    T_world_camera: np.ndarray | None = None
    world_frame: str = ''
    depth: np.ndarray | None = None

    def __post_init__(self) -> None:
        size = (self.intrinsics.height, self.intrinsics.width)
        if self.image.dtype != np.uint8 or self.image.shape != (*size, 3):
            raise InputError(
                f'image must be uint8 {(*size, 3)}, got {self.image.dtype} {self.image.shape}',
                'size_mismatch',
            )
        if self.depth is not None and self.depth.shape != size:
            raise InputError(
                f'depth {self.depth.shape} is not registered to the image {size}', 'size_mismatch'
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
    if depth.shape != (intrinsics.height, intrinsics.width):
        raise InputError(f'depth {depth.shape} does not fit {intrinsics}', 'size_mismatch')
    z = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)
    return np.concatenate([intrinsics.rays() * z[..., None], z[..., None]], -1)


def project(points: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:  # [..., 3] -> [..., 2]
    """Pixel coordinates of points in the optical frame; NaN at or behind the camera plane."""
    z = np.where(points[..., 2] > 0, points[..., 2], np.nan)
    u = points[..., 0] / z * intrinsics.fx + intrinsics.cx
    v = points[..., 1] / z * intrinsics.fy + intrinsics.cy
    return np.stack([u, v], -1)
