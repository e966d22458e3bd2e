"""A laser scan of a depth image: the nearest obstacle at each bearing, what is free, what unknown.

Every pixel is a ray from the camera. It ends at an obstacle, on the floor, above the height band,
or farther than the scan reaches. Per beam the obstacle is the nearest distance at which several
pixels agree, averaged over as much of the distance as the noise of the pixels spreads a surface:
the smallest of all would lie before every surface by two or three deviations. A beam without one
is free only where rays are seen to pass at the height of the band as far as the scan reaches, by
two deviations of their depth, and next to none that may hide something. What the robot itself is
in front of is hidden, too, unless its rays leave the band in the nearer half: of what lies lower
the scan says nothing, as of what is below the image.

The floor is no obstacle although its depth is noisy: what is lower than the camera by h, and
off by a share e of its depth, is off by e h in height. So what lies within three such deviations
of the edge of the band is in doubt: it neither marks nor frees.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from sharp_ros.camera import check_depth_size, Intrinsics
from sharp_ros.config import SharpConfig
from sharp_ros.point_cloud import pixel_noise
from sharp_ros.scan_kernels import CELL_SHIFT, nearest_kernel, scan_kernel

LEAST = 3  # pixels that make an obstacle, or free a beam
HIDDEN_SHARE = 0.05  # of pixels that may hide something, to one that is free
_HEIGHT_SIGMAS = 3.0
_NOISE_STRIDES = (4, 8)  # pixels that the noise is estimated from: one in 32 is enough
_FINEST = 1 << (23 - CELL_SHIFT + 1)  # a cell of distance is this fraction of it, or twice that
_ROW_ANGLE = 0.0025  # radians between rows that are looked at: 1.2 cm at 5 m
_EXACT = np.zeros((1, 1), np.float32)


@dataclass(frozen=True)
class Scan:
    """Distances in a level plane, counter-clockwise from `min_angle` about z, 0 along x.

    Attributes:
        ranges: [N] float32 metres: distance of the nearest obstacle; +inf where there is surely
            none up to `max_range`, NaN where that is not known, -inf if it is nearer than
            `min_range` (REP-117).
        stds: [N] float32 standard deviation of the distance, metres; NaN where there is none.
        min_angle: bearing of the first beam, radians.
        increment: from beam to beam, radians.
        min_range: metres.
        max_range: metres.
    """

    ranges: np.ndarray
    stds: np.ndarray
    min_angle: float
    increment: float
    min_range: float
    max_range: float

    @property
    def max_angle(self) -> float:
        """Bearing of the last beam, radians."""
        return self.min_angle + (len(self.ranges) - 1) * self.increment


def scan_from_depth(
    depth: np.ndarray,
    intrinsics: Intrinsics,
    T_scan_camera: np.ndarray,
    config: SharpConfig,
    log_std: np.ndarray | None = None,
    unseen: np.ndarray | None = None,
) -> Scan:
    """The scan of one depth image.

    Args:
        depth: [H, W] float32 z-depth, metres; NaN unknown, +inf beyond `point_cloud.max_range`,
            -inf too near.
        intrinsics: of that image.
        T_scan_camera: [4, 4] pose of the camera in a frame with z up whose z = 0 is the floor.
        config: of the scan, and what it takes from the map and the cloud.
        log_std: [m, n] standard deviation of the logarithm of the depth, edge to edge; None: that
            of its noise alone.
        unseen: [H, W] bool, pixels that no ray of the camera reached, or that show the robot.

    Raises:
        InputError: if the sizes differ.
    """
    check_depth_size(depth, intrinsics)
    settings, (low, far) = config.scan, config.scan_range
    noise = pixel_noise(depth, *_NOISE_STRIDES)
    x, y = (axis.astype(np.float32) for axis in intrinsics.axes())
    rows, columns = (np.zeros(n, np.int32) for n in depth.shape)
    if log_std is None:
        log_std = _EXACT
    else:
        high, wide = log_std.shape
        rows = (np.arange(len(y)) * high // len(y)).astype(np.int32)
        columns = (np.arange(len(x)) * wide // len(x)).astype(np.int32)
    # the scan may begin beside the camera: then rays must be free for longer
    reach = far + math.hypot(*T_scan_camera[:2, 3])
    limits = (
        *config.scan_band,
        low,
        far,
        reach,
        config.point_cloud.max_range,
        _HEIGHT_SIGMAS * noise,
    )
    beams = beam_count(config)
    cells = _cell(far) - _cell(low) + 1
    sorted_, tally = np.zeros((beams, cells, 3), np.float32), np.zeros((beams, 3), np.int32)
    scan_kernel(
        np.require(depth, np.float32, ('C', 'W')),
        np.zeros((0, 0), bool) if unseen is None else np.require(unseen, bool, ('C', 'W')),
        np.require(log_std, np.float32, ('C', 'W')),
        rows,
        columns,
        x,
        y,
        np.ascontiguousarray(T_scan_camera[:3], np.float32),
        np.array(limits, np.float32),
        np.float32(settings.min_angle),
        np.float32(1 / settings.angle_increment),
        max(1, int(intrinsics.fy * _ROW_ANGLE)),
        sorted_,
        tally,
    )
    ranges, range_stds = np.empty(beams, np.float32), np.empty(beams, np.float32)
    window = 2 + math.ceil(4 * noise * _FINEST)
    nearest_kernel(
        sorted_, tally, _cell(low), window, LEAST, HIDDEN_SHARE, noise, ranges, range_stds
    )
    return Scan(ranges, range_stds, settings.min_angle, settings.angle_increment, low, far)


def beam_count(config: SharpConfig) -> int:
    """Number of beams: the last one is at `scan.max_angle`, or less than a beam before it."""
    scan = config.scan
    return math.floor((scan.max_angle - scan.min_angle) / scan.angle_increment + 1e-6) + 1


def _cell(distance: float) -> int:
    """See `cell_of`."""
    return int((np.float32(distance) * np.float32(distance)).view(np.int32) >> CELL_SHIFT)
