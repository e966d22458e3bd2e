"""One steady metric scale for depth that a network predicts up to a factor.

The true depth is `s(t)` times the predicted one, with `log s(t) = b(t) + e_t`: a bias `b` that
the network has in this place, which wanders slowly, and an error `e_t` that each frame has for
itself. *Relative* anchors compare a frame with what was seen before and so remove `e_t`;
*absolute* anchors (metric motion, the known height of the camera, measured depth) say how long a
metre is and so fix `b`. `ScaleFilter` weighs them by their variances, all in logarithms, where
factors add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Protocol

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.config import ScaleConfig
from sharp_ros.errors import InputError
from sharp_ros.mapping.gravity import level_from_depth
from sharp_ros.se3 import apply, checked_pose, inverse

CONSISTENCY, PARALLAX, HEIGHT, SENSOR = 'consistency', 'parallax', 'height', 'sensor'
# What averaging over pixels does not remove, standard deviation of the logarithm: matching of two
# predictions; calibration of odometry; how a network bends a floor; calibration of a sensor.
_SYSTEMATIC = {CONSISTENCY: 0.003, PARALLAX: 0.015, HEIGHT: 0.03, SENSOR: 0.01}
_SYSTEMATIC_TIME = 5.0  # seconds after which such an error of an absolute anchor is another one

_SAMPLES_ACROSS = 80  # of each depth image; more change nothing but the time
_MIN_SAMPLES = 100  # that must agree before two depth images are compared
_PIXELS_TOGETHER = 40  # neighbouring samples of a network err alike; so many count as one
_MOST_INDEPENDENT = 30
_WIDEST = 0.15  # spread of log ratios beyond which two depth images do not show one scene

_PIXEL_ERROR = 0.5  # of a tracked point, pixels, per image
_ROTATION_ERROR = 1e-3  # of odometry between two frames, rad
_EPIPOLAR_PX = 3.0  # farther off its epipolar line a point is moving, or a wrong track
_MIN_PARALLAX = math.radians(1.0)
_MIN_TRACKS = 15
_POINT_SPREAD = 0.1  # of the predicted log depth of single points around the whole

_FLOOR_CONE = math.cos(math.radians(20))
_FLOOR_STEP = 0.04  # of log height, within which a surface is one level
_FLOOR_SHARE = 0.04  # of all samples that must lie on the floor
_BELOW_SHARE = 0.02  # of all samples that may lie lower than the floor, by noise
_FLOOR_REACH = 5.0  # heights of the camera; farther floor is seen too flat to be trusted

_GATE = 4.0  # standard deviations at which an observation is refused
_PERSISTENT = (1.0, 5.0)  # allowance and threshold of the cumulative sums, standard deviations
_PERSISTENT_TIME = 0.3  # seconds that a deviation must have lasted to be believed
_MEMORY = 1.0  # seconds for which an anchor vouches for the estimate

_REFERENCE_OVERLAP = 0.6  # share of the reference in view below which a new one is taken
_REFERENCE_BASE = 0.2  # likewise, distance moved as a share of the median depth
_STILL = (0.005, math.radians(0.5))  # moved (share of the median depth) and turned at most


@dataclass(frozen=True)
class ScaleObservation:
    """What one anchor says about the factor of the predicted depth of one frame.

    Attributes:
        log_scale: natural logarithm of true over predicted depth.
        variance: of it, with what the anchor gets wrong systematically.
        source: `consistency`, `parallax`, `height` or `sensor`.
    """

    log_scale: float
    variance: float
    source: str


@dataclass(frozen=True)
class ScaleEstimate:
    """The factor for one frame.

    Attributes:
        value: multiply the predicted depth by it to get metres.
        log_variance: variance of its logarithm.
        sources: how many frames each anchor has contributed to since the start, and, as
            `<source>_refused`, how many times it contradicted everything else.
        bias: the factor that the network needs in this place, frame after frame.
        bias_variance: variance of its logarithm.
    """

    value: float
    log_variance: float
    sources: Mapping[str, int]
    bias: float = 1.0
    bias_variance: float = 0.0


class MetricTracks(Protocol):
    """Points seen from two poses of a metric odometry, such as `odometry.Tracks`.

    Attributes:
        keyframe_px: [N, 2] where they were seen first.
        now_px: [N, 2] where the current image shows them.
        T_keyframe_camera: [4, 4] pose of the current camera in that of the first, metres.
    """

    @property
    def keyframe_px(self) -> np.ndarray: ...  # noqa: D102
    @property
    def now_px(self) -> np.ndarray: ...  # noqa: D102
    @property
    def T_keyframe_camera(self) -> np.ndarray: ...  # noqa: D102


def consistency_scale(
    points: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics
) -> ScaleObservation | None:
    """Factor that makes predicted depth agree with surfaces known from before.

    Args:
        points: [N, 3] on those surfaces, in the optical frame of this image, metres.
        depth: [H, W] predicted z-depth.
        intrinsics: of that image.

    Returns:
        None where too little is in view twice, or most of it disagrees.
    """
    step = _step(depth.shape)
    z = points[:, 2]
    u, v = _pixels(points, intrinsics)
    inside = _inside(u, v, z, intrinsics)
    u, v, z = u[inside].astype(np.intp), v[inside].astype(np.intp), z[inside]
    # What the nearer points of the same cell hide now is compared with nothing.
    cell = (v // step) * (depth.shape[1] // step + 1) + u // step
    nearest = np.full((depth.shape[0] // step + 1) * (depth.shape[1] // step + 1), np.inf)
    np.minimum.at(nearest, cell, z)
    visible = z < 1.05 * nearest[cell]
    return _agreement(z[visible], depth[v[visible], u[visible]], CONSISTENCY)


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
    if sensor_depth.shape != depth.shape:
        raise InputError(
            f'measured depth {sensor_depth.shape} is not registered to the predicted one '
            f'{depth.shape}',
            'size_mismatch',
        )
    grid = _grid(depth.shape)
    dense = _agreement(sensor_depth[grid].ravel(), depth[grid].ravel(), SENSOR)
    if dense is not None or np.count_nonzero(_known(sensor_depth[grid])) >= _MIN_SAMPLES:
        return dense
    log_ratio = _log_ratio(sensor_depth, depth)
    if not len(log_ratio):
        return None
    independent = min(max(1.0, len(log_ratio) / _PIXELS_TOGETHER), _MOST_INDEPENDENT)
    variance = _POINT_SPREAD**2 / independent + _SYSTEMATIC[SENSOR] ** 2
    return ScaleObservation(float(np.median(log_ratio)), variance, SENSOR)


def parallax_scale(
    tracks: MetricTracks, depth: np.ndarray, intrinsics: Intrinsics
) -> ScaleObservation | None:
    """Factor between predicted depth and that of points seen from two places a known way apart.

    A point on the ray `a` of the keyframe is at depth `z` on the ray `c` of the camera that is `t`
    away (all in the frame of the keyframe): `z (a x c) + (a x t) = 0`. That is solved for 1 / z,
    which is linear in the pixels: its noise is centred, and so the median of log z is unbiased.

    Args:
        tracks: with metric poses.
        depth: [H, W] predicted z-depth of the current image.
        intrinsics: of both images.

    Returns:
        None where the points are too few, or their parallax is below a degree.
    """
    now_px = np.asarray(tracks.now_px, np.float64).reshape(-1, 2)
    u, v = np.rint(now_px).T
    inside = _inside(u, v, np.ones(len(u)), intrinsics)
    predicted = np.full(len(u), np.nan)
    predicted[inside] = depth[v[inside].astype(np.intp), u[inside].astype(np.intp)]
    usable = _known(predicted)
    if np.count_nonzero(usable) < _MIN_TRACKS:
        return None
    predicted = predicted[usable].astype(np.float64)
    T = checked_pose(tracks.T_keyframe_camera)
    a = _rays(np.asarray(tracks.keyframe_px, np.float64).reshape(-1, 2)[usable], intrinsics)
    c = _rays(now_px[usable], intrinsics) @ T[:3, :3].T
    t = T[:3, 3]
    normal = np.cross(a, t)  # of the epipolar plane; as long as the way appears from there
    length = np.linalg.norm(normal, axis=1)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(c, axis=1)
    with np.errstate(divide='ignore', invalid='ignore'):
        off_line = np.abs(np.einsum('ni,ni->n', c, normal)) / (length * np.linalg.norm(c, axis=1))
        inverse_z = -np.einsum('ni,ni->n', np.cross(a, c), normal) / length**2
        log_ratio = np.where(inverse_z > 0, -np.log(inverse_z * predicted), np.inf)
        # from the prediction, not from the measured parallax: choosing by that would favour
        # points whose noise makes them near
        angle = length / (lengths * predicted)
    good = (off_line * intrinsics.fx < _EPIPOLAR_PX) & (angle > 0)
    if np.count_nonzero(good) < _MIN_TRACKS:
        return None
    log_ratio, angle = log_ratio[good], angle[good]
    rough = float(np.median(log_ratio[angle >= np.median(angle)]))
    if not math.isfinite(rough):
        return None
    angle = angle / math.exp(rough)
    noise = math.sqrt(2) * _PIXEL_ERROR / intrinsics.fx / angle
    weight = 1 / (noise**2 + _POINT_SPREAD**2)
    low, centre, high = _weighted_quantiles(log_ratio, weight, (0.25, 0.5, 0.75))
    typical_angle = _weighted_quantiles(angle, weight, (0.5,))[0]
    spread = (high - low) / 1.349
    if typical_angle < _MIN_PARALLAX or not spread < 2 * _WIDEST:
        return None
    independent = weight.sum() ** 2 / (weight**2).sum() / 2
    variance = (
        math.pi / 2 * max(spread, 0.5 * _POINT_SPREAD) ** 2 / independent
        + (_ROTATION_ERROR / typical_angle) ** 2
        + _SYSTEMATIC[PARALLAX] ** 2
    )
    return ScaleObservation(float(centre), float(variance), PARALLAX)


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
        T_level_camera = level_from_depth(*_thinned(depth, intrinsics))
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
    return _agreement(np.full(len(floor), height), np.exp(floor), HEIGHT)


def up_from_pose(T_world_camera: np.ndarray) -> np.ndarray | None:  # [4, 4] -> [3]
    """Upwards in the optical frame of a camera in a world with z up.

    None if it looks up, where no floor is in sight: such a pose, as the identity, is no real one.
    """
    return T_world_camera[2, :3] if T_world_camera[2, 2] < 0.9 else None


class ScaleFilter:
    """Estimates the scale frame by frame; see the top of this module.

    A Kalman filter over the logarithms of the bias, of the scale of a reference frame, of that of
    the current frame, and over what each absolute anchor gets wrong systematically. A deviation
    that keeps its sign is not noise: after a third of a second it is followed.

    Attributes:
        config: what is known beforehand; may be replaced between two frames.
    """

    def __init__(self, config: ScaleConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        """Back to the start: factor 1, with the variance of the prior."""
        prior, frame = self.config.prior_std**2, self.config.frame_std**2
        self._log = np.zeros(_STATES)
        self._covariance = np.diag([0.0, 0.0, 0.0, *_SYSTEMATIC_VARIANCE])
        self._covariance[:3, :3] = prior
        # The error of the first frame is counted as the bias's, so that learning it later, from
        # the mean of other frames, does not move depth that was steady from the start.
        self._covariance[_BIAS, _BIAS] += frame
        self._started, self._stamp_ns = False, 0
        self._reference: _Reference | None = None
        self._watches = {source: _Watch() for source in _SYSTEMATIC}
        self._judged: dict[str, tuple[int, bool]] = {}
        self._counts: Counter[str] = Counter()

    def forget_places(self) -> None:
        """Poses from now on cannot be compared with earlier ones; what they taught stays."""
        self._reference = None

    def update(
        self,
        stamp_ns: int,
        depth_pred: np.ndarray,
        intrinsics: Intrinsics,
        *,
        T_world_camera: np.ndarray | None = None,
        pose_is_metric: bool,
        tracks: MetricTracks | None = None,
        sensor_depth: np.ndarray | None = None,
        height: float | None = None,
        up: np.ndarray | None = None,
    ) -> ScaleEstimate:
        """Estimate the scale of one frame from all that is known about it.

        Args:
            stamp_ns: of the frame; when time goes back everything starts anew.
            depth_pred: [H, W] z-depth as the network gave it; 0 and non-finite mean none.
            intrinsics: of that image.
            T_world_camera: [4, 4] pose, world z up; the identity for a camera that stands still.
            pose_is_metric: whether poses come from elsewhere than from predicted depth, so that
                `tracks` tells the scale.
            tracks: points seen from two poses, see `parallax_scale`.
            sensor_depth: [H, W] measured depth, see `sensor_scale`.
            height: of the camera over the floor, metres; None: that of the configuration.
            up: [3] upwards in the optical frame; None: from the pose, else from the depth.

        Raises:
            InputError: `size_mismatch`, `bad_pose`.
        """
        if self.config.constant > 0:
            return ScaleEstimate(self.config.constant, 0.0, {}, self.config.constant)
        if depth_pred.shape != (intrinsics.height, intrinsics.width):
            raise InputError(
                f'depth {depth_pred.shape} does not fit {intrinsics}', 'size_mismatch'
            )
        pose = None if T_world_camera is None else checked_pose(T_world_camera)
        if stamp_ns < self._stamp_ns:
            self.reset()
        if self._started:
            reference = self._reference
            # In one and the same place a network has one bias.
            same = (
                pose is not None
                and reference is not None
                and reference.confirmed_ns == self._stamp_ns
                and self._stands_still(reference, pose)
            )
            self._predict((stamp_ns - self._stamp_ns) * 1e-9, drift=not same)
        self._started, self._stamp_ns = True, stamp_ns
        if up is None and pose is not None:
            up = up_from_pose(pose)
        height = height or self.config.camera_height
        absolute = [
            parallax_scale(tracks, depth_pred, intrinsics)
            if tracks is not None and pose_is_metric
            else None,
            height_scale(depth_pred, intrinsics, height, up) if height > 0 else None,
            None if sensor_depth is None else sensor_scale(depth_pred, sensor_depth),
        ]
        observations = [o for o in absolute if o is not None]
        if pose is None:
            self._fix(observations)
        else:
            self._follow(pose, pose_is_metric, depth_pred, intrinsics, observations)
        return ScaleEstimate(
            math.exp(self._log[_NOW]),
            float(self._covariance[_NOW, _NOW]),
            dict(self._counts),
            math.exp(self._log[_BIAS]),
            float(self._covariance[_BIAS, _BIAS]),
        )

    def _predict(self, seconds: float, drift: bool) -> None:
        """Advance: the bias wanders as places change, the frame is a new one around it."""
        if drift:
            self._covariance[_BIAS, _BIAS] += self.config.drift_std**2 * seconds
        F = np.eye(_STATES)
        F[_NOW, _NOW], F[_NOW, _BIAS] = 0, 1
        kept = math.exp(-seconds / _SYSTEMATIC_TIME)
        F[_OFFSETS, _OFFSETS] = kept
        self._map(F)
        self._covariance[_OFFSETS, _OFFSETS] += _SYSTEMATIC_VARIANCE * (1 - kept**2)
        self._covariance[_NOW, _NOW] += self.config.frame_std**2

    def _follow(
        self,
        pose: np.ndarray,
        pose_is_metric: bool,
        depth: np.ndarray,
        intrinsics: Intrinsics,
        observations: list[ScaleObservation],
    ) -> None:
        """Use the reference frame besides the absolute anchors, and keep one in sight."""
        reference = self._reference
        if reference is None:
            self._fix(observations)
            self._refer_to(pose, depth, intrinsics)
            return
        scale = math.exp(self._log[_REFERENCE])
        T_camera_reference = inverse(pose) @ reference.T_world_camera
        points = apply(T_camera_reference, reference.points * scale)
        base = float(np.linalg.norm(T_camera_reference[:3, 3])) / (reference.median_depth * scale)
        relative = consistency_scale(points, depth, intrinsics)
        if relative is None:
            self._fix(observations)
            if self._stamp_ns - reference.confirmed_ns > _PERSISTENT_TIME * 1e9:
                self._refer_to(pose, depth, intrinsics)
            return
        reference.confirmed_ns = self._stamp_ns
        # A wrong scale of the reference puts its points wrong by a share of the way moved.
        variance = relative.variance + base**2 * self._covariance[_REFERENCE, _REFERENCE]
        # With the reference scaled as estimated, log_scale is now - growth (reference - estimate):
        # over metric motion z = s z_r + t_z, so that d log z / d log s = 1 - t_z / z. Without that
        # an error of the scale would seem to grow as the camera comes nearer, and so would.
        ahead = points[points[:, 2] > 0, 2]
        growth = np.median(1 - T_camera_reference[2, 3] / ahead) if pose_is_metric else 1.0
        H = np.zeros(_STATES)
        H[_NOW], H[_REFERENCE] = 1, -growth
        value = relative.log_scale - growth * self._log[_REFERENCE]
        deviation = self._deviation(H, value, variance)
        watch = self._watches[CONSISTENCY]
        if watch.persists(deviation, value - H @ self._log, self._stamp_ns):
            if self._stands_still(reference, pose) and not self._votes(True, besides=CONSISTENCY):
                # A network does not change its mind about one and the same scene: this is another.
                self._fix(observations)
                self._refer_to(pose, depth, intrinsics)
                return
            self._doubt(_BIAS)
            value = H @ self._log + watch.typical
            deviation = self._deviation(H, value, variance)
        accepted = abs(deviation) < _GATE
        if accepted:
            self._correct(H, value, variance)
        self._count(CONSISTENCY, accepted)
        self._fix(observations)
        u, v = _pixels(points, intrinsics)
        overlap = np.mean(_inside(u, v, points[:, 2], intrinsics))
        if accepted and (overlap < _REFERENCE_OVERLAP or base > _REFERENCE_BASE):
            self._refer_to(pose, depth, intrinsics)

    def _fix(self, observations: list[ScaleObservation]) -> None:
        """Use absolute anchors, those first that most agree with."""
        votes = [o.log_scale for o in observations]
        middle = np.median(votes if len(votes) % 2 else [*votes, self._log[_NOW]])
        for o in sorted(observations, key=lambda o: abs(o.log_scale - middle)):
            H = np.zeros(_STATES)
            H[_NOW] = H[_OFFSET[o.source]] = 1
            value, variance = o.log_scale, o.variance - _SYSTEMATIC[o.source] ** 2
            deviation = self._deviation(H, value, variance)
            against = 1 + self._votes(False, besides=o.source)
            watch = self._watches[o.source]
            if (
                watch.persists(deviation, value - H @ self._log, self._stamp_ns)
                and self._votes(True, besides=o.source) < against
            ):
                self._doubt(_BIAS, _REFERENCE, _NOW)
                value = H @ self._log + watch.typical
                deviation = self._deviation(H, value, variance)
            accepted = abs(deviation) < _GATE
            if accepted:
                self._correct(H, value, variance)
            self._judged[o.source] = (self._stamp_ns, accepted)
            self._count(o.source, accepted)

    def _votes(self, accepted: bool, besides: str) -> int:
        """How many absolute anchors, other than one, were lately accepted, or refused."""
        recent = self._stamp_ns - _MEMORY * 1e9
        return sum(
            stamp > recent and verdict == accepted and source != besides
            for source, (stamp, verdict) in self._judged.items()
        )

    def _stands_still(self, reference: _Reference, pose: np.ndarray) -> bool:
        """Whether the reference was seen from this very place."""
        moved = inverse(pose) @ reference.T_world_camera
        far = reference.median_depth * math.exp(self._log[_REFERENCE])
        cosine = (np.trace(moved[:3, :3]) - 1) / 2
        near = np.linalg.norm(moved[:3, 3]) < _STILL[0] * far
        return bool(near and cosine > math.cos(_STILL[1]))

    def _refer_to(self, pose: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics) -> None:
        """Make the current frame the reference, if it has depth."""
        points = _points(depth, intrinsics).reshape(-1, 3)
        points = points[np.isfinite(points[:, 2])]
        if len(points) < _MIN_SAMPLES:
            return
        median = float(np.median(points[:, 2]))
        self._reference = _Reference(pose, points, median, self._stamp_ns)
        F = np.eye(_STATES)
        F[_REFERENCE] = F[_NOW]
        self._map(F)

    def _doubt(self, *states: int) -> None:
        """Forget what was known of these states in common."""
        self._covariance[np.ix_(states, states)] += self.config.prior_std**2

    def _map(self, F: np.ndarray) -> None:
        self._log = F @ self._log
        self._covariance = F @ self._covariance @ F.T

    def _deviation(self, H: np.ndarray, value: float, variance: float) -> float:
        """Difference of an observation from what is expected, in standard deviations."""
        return (value - H @ self._log) / math.sqrt(H @ self._covariance @ H + variance)

    def _correct(self, H: np.ndarray, value: float, variance: float) -> None:
        gain = self._covariance @ H / (H @ self._covariance @ H + variance)
        self._log = self._log + gain * (value - H @ self._log)
        # Joseph's form stays symmetric and positive
        left = np.eye(_STATES) - np.outer(gain, H)
        self._covariance = left @ self._covariance @ left.T + np.outer(gain, gain) * variance

    def _count(self, source: str, accepted: bool) -> None:
        self._counts[source if accepted else f'{source}_refused'] += 1


_BIAS, _REFERENCE, _NOW = range(3)
_OFFSET = {PARALLAX: 3, HEIGHT: 4, SENSOR: 5}
_STATES = 3 + len(_OFFSET)
_OFFSETS = np.arange(3, _STATES)
_SYSTEMATIC_VARIANCE = np.array([_SYSTEMATIC[source] ** 2 for source in _OFFSET])


@dataclass
class _Reference:
    """A frame that later ones are compared with."""

    T_world_camera: np.ndarray
    points: np.ndarray  # [N, 3] in its optical frame, as predicted
    median_depth: float  # as predicted
    confirmed_ns: int  # when it was last comparable


class _Watch:
    """Tells noise from a change: sums up deviations that keep their sign (CUSUM, Page 1954).

    Attributes:
        typical: lower median of the differences that made up a change; the last one may be wild.
    """

    def __init__(self) -> None:
        self._sums = np.zeros(2)
        self._differences: list[float] = []
        self._quiet_ns = self._last_ns = 0
        self.typical = 0.0

    def persists(self, deviation: float, difference: float, stamp_ns: int) -> bool:
        """Add a difference, also in standard deviations; True once when a change is certain."""
        if stamp_ns - self._last_ns > _MEMORY * 1e9:
            self._sums[:], self._last_ns = 0, stamp_ns
        bounded = min(max(deviation, -_GATE), _GATE)
        allowance, threshold = _PERSISTENT
        if not self._sums.any():
            self._quiet_ns = self._last_ns
            self._differences.clear()
        change = np.array([bounded, -bounded]) - allowance
        self._sums = np.maximum(self._sums + change, 0)
        self._differences.append(difference)
        self._last_ns = stamp_ns
        lasted = (stamp_ns - self._quiet_ns) * 1e-9
        certain = bool(self._sums.max() > threshold and lasted > _PERSISTENT_TIME)
        if certain:
            self._sums[:] = 0
            ordered = sorted(self._differences, key=abs)
            self.typical = ordered[(len(ordered) - 1) // 2]
        return certain


def _agreement(true: np.ndarray, predicted: np.ndarray, source: str) -> ScaleObservation | None:
    """The factor that most of the pixels agree on: of the narrowest half, then of all near it."""
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
    if spread > _WIDEST or len(near) < _MIN_SAMPLES:
        return None
    independent = min(max(1.0, len(near) / _PIXELS_TOGETHER), _MOST_INDEPENDENT)
    variance = math.pi / 2 * spread**2 / independent + _SYSTEMATIC[source] ** 2
    return ScaleObservation(float(np.median(near)), variance, source)


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


def _thinned(depth: np.ndarray, intrinsics: Intrinsics) -> tuple[np.ndarray, Intrinsics]:
    """Every n-th pixel, twice as many across as samples."""
    n = max(1, depth.shape[1] // (2 * _SAMPLES_ACROSS))
    thin = depth[::n, ::n]
    height, width = thin.shape
    k = intrinsics
    return thin, Intrinsics(k.fx / n, k.fy / n, k.cx / n, k.cy / n, width, height)


def _points(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:  # -> [h, w, 3]
    """Samples of a depth image in the optical frame; NaN where there is no depth."""
    rows, columns = _grid(depth.shape)
    z = depth[rows, columns].astype(np.float64)
    z = np.where(_known(z), z, np.nan)
    x = (np.arange(intrinsics.width)[columns] - intrinsics.cx) / intrinsics.fx
    y = (np.arange(intrinsics.height)[rows] - intrinsics.cy) / intrinsics.fy
    return np.stack([x * z, y[:, None] * z, z], -1)


def _rays(pixels: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:  # [N, 2] -> [N, 3]
    x = (pixels[:, 0] - intrinsics.cx) / intrinsics.fx
    y = (pixels[:, 1] - intrinsics.cy) / intrinsics.fy
    return np.stack([x, y, np.ones_like(x)], -1)


def _pixels(points: np.ndarray, intrinsics: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of the nearest pixel, as floats; NaN or outside for what is not in view."""
    with np.errstate(divide='ignore', invalid='ignore'):
        u = np.rint(points[:, 0] / points[:, 2] * intrinsics.fx + intrinsics.cx)
        v = np.rint(points[:, 1] / points[:, 2] * intrinsics.fy + intrinsics.cy)
    return u, v


def _inside(u: np.ndarray, v: np.ndarray, z: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    return (
        (z > 0) & (u >= 0) & (u < intrinsics.width) & (v >= 0) & (v < intrinsics.height)
    )  # False for NaN


def _weighted_quantiles(
    values: np.ndarray, weights: np.ndarray, shares: tuple[float, ...]
) -> np.ndarray:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return values[order][np.searchsorted(total, np.multiply(shares, total[-1]))]
