"""Anchors of the metric scale: evidence about the factor of the predicted depth of one frame.

Each anchor is a small class with `observe`, around a function of arrays that does the work;
`scale_filter.ANCHORS` lists those that are in use. One module, since they share how depth images
are sampled and compared.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import ClassVar, Protocol, TypeAlias

import numpy as np

from sharp_ros.camera import check_registered, FloorGeometry, Frame, Intrinsics
from sharp_ros.config import ScaleConfig
from sharp_ros.localization.gravity import level_from_depth
from sharp_ros.localization.gravity_check import sure_up
from sharp_ros.localization.parallax import fit_inverse_scale
from sharp_ros.se3 import checked_pose, inverse
from sharp_ros.stereo import MeasuredScale

CONSISTENCY, PARALLAX, HEIGHT, SENSOR = 'consistency', 'parallax', 'height', 'sensor'
# What averaging over pixels does not remove, standard deviation of the logarithm.
_MATCHING = 0.003  # of two predictions
POSE_CALIBRATION = 0.05  # of odometry, and what its errors from image to image have in common
_BENDING = 0.03  # of a floor by a network
_RANGING = 0.01  # of a depth sensor

_SAMPLES_ACROSS = 80  # of each depth image; more change nothing but the time
_MIN_SAMPLES = 100  # that must agree before two depth images are compared
_PIXELS_TOGETHER = 40  # neighbouring samples of a network err alike; so many count as one
_MOST_INDEPENDENT = 30
_WIDEST = 0.15  # spread of log ratios beyond which two depth images do not show one scene
SCATTERED = _WIDEST**2  # variance from which they do not

_MIN_TRACKS = 15
_VAGUE = 1.0  # share of the inverse scale beyond which its deviation says nothing
_SMALLEST = 0.02  # inverse scale
_POINT_SPREAD = 0.1  # of the predicted log depth of single points around the whole

_FLOOR_CONE = math.cos(math.radians(20))
_FLOOR_STEP = 0.04  # of log height, within which a surface is one level
_FLOOR_SHARE = 0.04  # of all samples that must lie on the floor
_BELOW_SHARE = 0.02  # of all samples that may lie lower than the floor, by noise
_FLOOR_REACH = 5.0  # heights of the camera; farther floor is seen too flat to be trusted


@dataclass(frozen=True)
class ScaleObservation:
    """What one anchor says about the factor of the predicted depth of one frame.

    Attributes:
        log_scale: natural logarithm of true over predicted depth.
        variance: of it, systematic errors of the anchor included.
        source: name of the anchor.
        inverse_std: where it is the inverse of the factor whose error is normal, as with
            parallax, the standard deviation of that, without systematic errors; it may then say
            that a factor is not small, and nothing else. None where the logarithm is normal.
        wild: probability that it has nothing to do with the factor.
        shared: what its errors are shared with, such as the stamp of a keyframe whose pose is
            wrong, nanoseconds; None: with those shortly before and after.
    """

    log_scale: float
    variance: float
    source: str
    inverse_std: float | None = None
    shared: int | None = None
    wild: float = 0.5

    @property
    def uniform(self) -> float:
        """Probability density of what is observed, if it has nothing to do with the factor."""
        return 0.25  # of logarithms between 1/7 and 7, or of inverse factors up to 4

    def log_density(self, log_scale: np.ndarray) -> np.ndarray:
        """Logarithm of the probability density of what was observed, given the log scale [N]."""
        if self.inverse_std is not None:
            difference, std = np.exp(-log_scale) - math.exp(-self.log_scale), self.inverse_std
        else:
            difference, std = log_scale - self.log_scale, math.sqrt(self.variance)
        return -0.5 * (difference / std) ** 2 - math.log(math.sqrt(2 * math.pi) * std)

    def deviation(self, log_scale: float, variance: float) -> float:
        """Difference from a log scale with a variance, in standard deviations."""
        if self.inverse_std is None:
            return (self.log_scale - log_scale) / math.sqrt(self.variance + variance)
        inverse = math.exp(-log_scale)
        std = math.sqrt(self.inverse_std**2 + inverse**2 * variance)
        return (inverse - math.exp(-self.log_scale)) / std


class MetricTracks(Protocol):
    """Points seen from two poses of a metric odometry, such as `tracks.Tracks`.

    Attributes:
        keyframe_stamp_ns: of the image in which they were seen first.
        keyframe_px: [N, 2] where they were seen there.
        now_px: [N, 2] where the current image shows them.
        T_keyframe_camera: [4, 4] pose of the current camera in that of the first, metres.
    """

    @property
    def keyframe_stamp_ns(self) -> int: ...  # noqa: D102
    @property
    def keyframe_px(self) -> np.ndarray: ...  # noqa: D102
    @property
    def now_px(self) -> np.ndarray: ...  # noqa: D102
    @property
    def T_keyframe_camera(self) -> np.ndarray: ...  # noqa: D102


# What motion over metric poses shows: points seen from two of them, or the scale already.
MetricMotion: TypeAlias = 'MetricTracks | MeasuredScale | None'


class ScaleAnchor(Protocol):
    """One kind of evidence about metric scale; made anew when its settings change.

    Attributes:
        source: its name, by which it is counted.
        systematic: standard deviation of the logarithm that averaging over pixels leaves; such an
            error is common to observations that follow each other.
    """

    source: ClassVar[str]
    systematic: ClassVar[float]

    def __init__(self, config: ScaleConfig) -> None: ...

    def tells_metres(self, frame: Frame) -> bool:
        """Whether it tells metric scale without poses in metres.

        Where none can, visual odometry has the scale of the network; see `Localizer`.
        """
        ...

    def observe(
        self, frame: Frame, depth: np.ndarray, motion: MetricMotion
    ) -> ScaleObservation | None:
        """What a frame says about the scale.

        Args:
            frame: with its pose, measured depth and transforms as far as known.
            depth: [H, W] z-depth as predicted.
            motion: over metric poses, of which the last is that of the frame.

        Returns:
            None where it says nothing.
        """
        ...


class ParallaxAnchor:
    """Points seen from two poses whose distance in metres is known; see `parallax_scale`."""

    source: ClassVar[str] = PARALLAX
    systematic: ClassVar[float] = POSE_CALIBRATION

    def __init__(self, config: ScaleConfig) -> None:
        del config  # nothing to set

    def tells_metres(self, frame: Frame) -> bool:
        """See `ScaleAnchor.tells_metres`."""
        return False

    def observe(
        self, frame: Frame, depth: np.ndarray, motion: MetricMotion
    ) -> ScaleObservation | None:
        """See `ScaleAnchor.observe`."""
        if motion is None or isinstance(motion, MeasuredScale):
            return None
        return parallax_scale(motion, depth, frame.intrinsics)


class HeightAnchor:
    """The floor, at the known height of the camera above it; see `height_scale`."""

    source: ClassVar[str] = HEIGHT
    systematic: ClassVar[float] = _BENDING

    def __init__(self, config: ScaleConfig) -> None:
        self._config = config

    def tells_metres(self, frame: Frame) -> bool:
        """See `ScaleAnchor.tells_metres`."""
        return self._config.camera_height > 0 or self._config.floor_frame in frame.transforms

    def observe(
        self, frame: Frame, depth: np.ndarray, motion: MetricMotion
    ) -> ScaleObservation | None:
        """See `ScaleAnchor.observe`."""
        floor = floor_below(frame, self._config.floor_frame)
        if floor is not None:
            return height_scale(depth, frame.intrinsics, floor.height, floor.up)
        if not self._config.camera_height > 0:
            return None
        return height_scale(depth, frame.intrinsics, self._config.camera_height, known_up(frame))


class SensorAnchor:
    """Depth as a sensor measured it; see `sensor_scale`."""

    source: ClassVar[str] = SENSOR
    systematic: ClassVar[float] = _RANGING

    def __init__(self, config: ScaleConfig) -> None:
        del config  # nothing to set

    def tells_metres(self, frame: Frame) -> bool:
        """See `ScaleAnchor.tells_metres`."""
        return frame.depth is not None

    def observe(
        self, frame: Frame, depth: np.ndarray, motion: MetricMotion
    ) -> ScaleObservation | None:
        """See `ScaleAnchor.observe`."""
        return None if frame.depth is None else sensor_scale(depth, frame.depth)


def surface_samples(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray | None:
    """Points [N, 3] of a depth image in the optical frame, to compare others with.

    None if they are too few.
    """
    points = _points(depth, intrinsics).reshape(-1, 3)
    points = points[np.isfinite(points[:, 2])]
    return points if len(points) >= _MIN_SAMPLES else None


def share_in_view(points: np.ndarray, intrinsics: Intrinsics) -> float:  # [N, 3] -> 0..1
    """Share of points in the optical frame that lie within the image."""
    u, v = np.rint(intrinsics.pixels(points)).T
    return float(np.mean(_inside(u, v, points[:, 2], intrinsics)))


def consistency_scale(
    points: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics
) -> ScaleObservation | None:
    """Factor that makes predicted depth agree with surfaces known from before.

    Args:
        points: [N, 3] on those surfaces, in the optical frame of this image, metres.
        depth: [H, W] predicted z-depth.
        intrinsics: of that image.

    Returns:
        None where too little is in view twice; where most of it disagrees the variance is that of
        single points, `SCATTERED` or more.
    """
    step = _step(depth.shape)
    z = points[:, 2]
    u, v = np.rint(intrinsics.pixels(points)).T
    inside = _inside(u, v, z, intrinsics)
    u, v, z = u[inside].astype(np.intp), v[inside].astype(np.intp), z[inside]
    # What the nearer points of the same cell hide now is compared with nothing.
    cell = (v // step) * (depth.shape[1] // step + 1) + u // step
    nearest = np.full((depth.shape[0] // step + 1) * (depth.shape[1] // step + 1), np.inf)
    np.minimum.at(nearest, cell, z)
    visible = z < 1.05 * nearest[cell]
    return _agreement(
        z[visible], depth[v[visible], u[visible]], CONSISTENCY, _MATCHING, scattered=True
    )


def sensor_scale(depth: np.ndarray, sensor_depth: np.ndarray) -> ScaleObservation | None:
    """Factor between predicted and measured depth.

    Args:
        depth: [H, W] predicted z-depth.
        sensor_depth: [H, W] measured z-depth, registered, metres; 0 and non-finite mean no
            measurement. It may be sparse: the reading of a range finder fills one pixel.

    Returns:
        None where nothing was measured on what was predicted, or most of it disagrees.

    Raises:
        InputError: `size_mismatch`.
    """
    check_registered(sensor_depth, depth.shape, 'measured depth')
    grid = _grid(depth.shape)
    dense = _agreement(sensor_depth[grid].ravel(), depth[grid].ravel(), SENSOR, _RANGING)
    if dense is not None or np.count_nonzero(_known(sensor_depth[grid])) >= _MIN_SAMPLES:
        return dense
    log_ratio = _log_ratio(sensor_depth, depth)
    if not len(log_ratio):
        return None
    independent = min(max(1.0, len(log_ratio) / _PIXELS_TOGETHER), _MOST_INDEPENDENT)
    variance = _POINT_SPREAD**2 / independent + _RANGING**2
    return ScaleObservation(float(np.median(log_ratio)), variance, SENSOR)


def parallax_scale(
    tracks: MetricTracks, depth: np.ndarray, intrinsics: Intrinsics
) -> ScaleObservation | None:
    """Factor between predicted depth and that of points seen over a known baseline.

    Args:
        tracks: with metric poses.
        depth: [H, W] predicted z-depth of the current image.
        intrinsics: of both images.

    Returns:
        None where the points are too few, or do not fit; see `fit_inverse_scale`.
    """
    now_px = np.asarray(tracks.now_px, np.float64).reshape(-1, 2)
    u, v = np.rint(now_px).T
    inside = _inside(u, v, np.ones(len(u)), intrinsics)
    predicted = np.full(len(u), np.nan)
    predicted[inside] = depth[v[inside].astype(np.intp), u[inside].astype(np.intp)]
    usable = _known(predicted)
    if np.count_nonzero(usable) < _MIN_TRACKS:
        return None
    points = intrinsics.unprojected(now_px[usable]) * predicted[usable, None].astype(np.float64)
    keyframe_px = np.asarray(tracks.keyframe_px, np.float64).reshape(-1, 2)[usable]
    fitted = fit_inverse_scale(
        intrinsics.unprojected(keyframe_px),
        points,
        checked_pose(tracks.T_keyframe_camera),
        1 / intrinsics.fx,
    )
    if fitted is None:
        return None
    inverse, std, _ = fitted
    if std > _VAGUE * max(inverse, 1.0):
        return None
    inverse = max(inverse, _SMALLEST)
    variance = (std / inverse) ** 2 + POSE_CALIBRATION**2
    return ScaleObservation(
        -math.log(inverse), variance, PARALLAX, std, shared=tracks.keyframe_stamp_ns
    )


def height_scale(
    depth: np.ndarray, intrinsics: Intrinsics, height: float, up: np.ndarray | None = None
) -> ScaleObservation | None:
    """Factor that puts the floor as far below the camera as it is known to be.

    The floor is the lowest level on which enough horizontal surface lies. Past the edge of a table
    top one sees what is lower than it; so where anything is lower than the lowest level, that
    level is no floor.

    Args:
        depth: [H, W] predicted z-depth.
        intrinsics: of that image.
        height: of the camera over the floor, metres.
        up: [3] upwards in the optical frame; None: taken from the surfaces in sight.

    Returns:
        None where no floor is clearly seen.
    """
    if up is None:
        step = max(1, depth.shape[1] // (2 * _SAMPLES_ACROSS))
        thin = depth[::step, ::step]
        T_level_camera = level_from_depth(thin, intrinsics.subsampled(step))
        if T_level_camera is None:
            return None
        up = T_level_camera[2, :3]
    up = np.asarray(up, np.float64) / np.linalg.norm(up)
    points = _points(depth, intrinsics)
    if min(points.shape[:2]) < 3:
        return None
    below = -points[1:-1, 1:-1] @ up
    # x right, y down: across x down points away from the camera
    normal = -np.cross(points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1])
    with np.errstate(invalid='ignore', divide='ignore'):
        level = normal @ up > _FLOOR_CONE * np.linalg.norm(normal, axis=-1)  # False for NaN
        close = points[1:-1, 1:-1, 2] < _FLOOR_REACH * below
    log_below = np.log(below[level & close])
    enough = max(_MIN_SAMPLES, _FLOOR_SHARE * np.count_nonzero(np.isfinite(below)))
    if len(log_below) < enough:
        return None
    bins = np.floor(log_below / _FLOOR_STEP).astype(int)
    counts = np.convolve(np.bincount(bins - bins.min()), np.ones(3), 'same')
    supported = np.flatnonzero(counts >= enough)
    if not len(supported):
        return None
    lowest = supported[-1]
    while lowest and counts[lowest - 1] > counts[lowest]:
        lowest -= 1  # from the rim of the level to its middle
    centre = (lowest + bins.min() + 0.5) * _FLOOR_STEP
    floor = log_below[np.abs(log_below - centre) < 3 * _FLOOR_STEP]
    lower = np.count_nonzero(close & (below > math.exp(centre + 3 * _FLOOR_STEP)))
    if lower > _BELOW_SHARE * np.count_nonzero(np.isfinite(below)):
        return None
    return _agreement(np.full(len(floor), height), np.exp(floor), HEIGHT, _BENDING)


def floor_below(frame: Frame, floor_frame: str) -> FloorGeometry | None:
    """The floor as tf has it, if it lies below the camera.

    Args:
        frame: with its transforms.
        floor_frame: name of a frame whose x-y plane is the floor.
    """
    T_camera_floor = frame.transforms.get(floor_frame)
    if T_camera_floor is None:
        return None
    height = float(inverse(T_camera_floor)[2, 3])
    return FloorGeometry(T_camera_floor[:3, 2], height) if 0 < height < math.inf else None


def known_up(frame: Frame) -> np.ndarray | None:  # -> [3]
    """Upwards in the optical frame: as an IMU has it if it is sure, else as the pose has it."""
    up, pose = sure_up(frame), frame.T_world_camera
    return up_from_pose(pose) if up is None and pose is not None else up


def up_from_pose(T_world_camera: np.ndarray) -> np.ndarray | None:  # [4, 4] -> [3]
    """Upwards in the optical frame of a camera in a world with z up.

    None if it looks up, where no floor is in sight: such a pose, as the identity, is no real one.
    """
    return T_world_camera[2, :3] if T_world_camera[2, 2] < 0.9 else None


def _agreement(
    true: np.ndarray,
    predicted: np.ndarray,
    source: str,
    systematic: float,
    *,
    scattered: bool = False,
) -> ScaleObservation | None:
    """The factor that most of the pixels agree on: of the narrowest half, then of all near it.

    Where they do not agree it is None, or if `scattered` is wanted the middle of that half.
    """
    log_ratio = np.sort(_log_ratio(true, predicted))
    count = len(log_ratio)
    if count < _MIN_SAMPLES:
        return None
    half = count // 2
    widths = log_ratio[half:] - log_ratio[: count - half]
    start = int(np.argmin(widths))
    spread = float(widths[start]) / 1.349
    centre = log_ratio[start + half // 2]
    near = log_ratio[np.abs(log_ratio - centre) <= max(3 * spread, 0.01)]
    if spread > _WIDEST and scattered:
        return ScaleObservation(float(centre), spread**2, source)
    if spread > _WIDEST or len(near) < _MIN_SAMPLES:
        return None
    independent = min(max(1.0, len(near) / _PIXELS_TOGETHER), _MOST_INDEPENDENT)
    value = float(np.median(near))
    variance = math.pi / 2 * spread**2 / independent + systematic**2
    if scattered:  # a third of the image may be another scene, or what the network gets wrong
        variance += (float(log_ratio[half]) - value) ** 2
    return ScaleObservation(value, variance, source)


def _known(depth: np.ndarray) -> np.ndarray:
    return np.isfinite(depth) & (depth > 0)


def _log_ratio(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    both = _known(true) & _known(predicted)
    return np.log(true[both].astype(np.float64) / predicted[both])


def _step(shape: tuple[int, ...]) -> int:
    return max(1, shape[1] // _SAMPLES_ACROSS)


def _grid(shape: tuple[int, ...]) -> tuple[slice, slice]:
    step = _step(shape)
    return slice(step // 2, None, step), slice(step // 2, None, step)


def _points(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:  # -> [h, w, 3]
    """Samples of a depth image in the optical frame; NaN where there is no depth."""
    rows, columns = _grid(depth.shape)
    z = depth[rows, columns].astype(np.float64)
    z = np.where(_known(z), z, np.nan)
    x, y = intrinsics.axes()
    return np.stack([x[columns] * z, y[rows, None] * z, z], -1)


def _inside(u: np.ndarray, v: np.ndarray, z: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    return (z > 0) & intrinsics.contains(u, v)
