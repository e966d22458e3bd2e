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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math

import numpy as np

from sharp_ros.camera import check_depth_size, Frame, Intrinsics
from sharp_ros.config import ScaleConfig
from sharp_ros.localization.scale_anchors import (
    CONSISTENCY,
    consistency_scale,
    HeightAnchor,
    MetricTracks,
    ParallaxAnchor,
    ScaleAnchor,
    ScaleObservation,
    SensorAnchor,
    share_in_view,
    surface_samples,
)
from sharp_ros.se3 import angle, apply, checked_pose, inverse

# All anchors in use; a new one is a class in a file of its own and an entry here.
ANCHORS: tuple[type[ScaleAnchor], ...] = (ParallaxAnchor, HeightAnchor, SensorAnchor)

_BIAS, _REFERENCE, _NOW = range(3)  # states; the systematic error of each anchor follows
_SYSTEMATIC_TIME = 5.0  # seconds after which such an error of an absolute anchor is another one
_GATE = 4.0  # standard deviations at which an observation is refused
_PERSISTENT = (1.0, 5.0)  # allowance and threshold of the cumulative sums, standard deviations
_PERSISTENT_TIME = 0.3  # seconds that a deviation must have lasted to be believed
_MEMORY = 1.0  # seconds for which an anchor vouches for the estimate
_REFERENCE_OVERLAP = 0.6  # share of the reference in view below which a new one is taken
_REFERENCE_BASE = 0.2  # likewise, distance moved as a share of the median depth
_STILL = (0.005, math.radians(0.5))  # moved (share of the median depth) and turned at most


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


class ScaleFilter:
    """Estimates the scale frame by frame; see the top of this module.

    A Kalman filter over the logarithms of the bias, of the scale of a reference frame, of that of
    the current frame, and over what each absolute anchor gets wrong systematically. A deviation
    that keeps its sign is not noise: after a third of a second it is followed.

    Args:
        config: see `ScaleConfig`.
        anchors: classes of those that are asked, in this order.
    """

    def __init__(
        self, config: ScaleConfig, anchors: Sequence[type[ScaleAnchor]] = ANCHORS
    ) -> None:
        self._kinds = anchors
        self._offset = {kind.source: _NOW + 1 + i for i, kind in enumerate(anchors)}
        self._offsets = np.arange(_NOW + 1, _NOW + 1 + len(anchors))
        self._systematic = {kind.source: kind.systematic**2 for kind in anchors}
        self.config = config
        self.reset()

    @property
    def config(self) -> ScaleConfig:
        """What is known beforehand; may be replaced between two frames."""
        return self._config

    @config.setter
    def config(self, config: ScaleConfig) -> None:
        self._config = config
        self._anchors = [kind(config) for kind in self._kinds]

    def reset(self) -> None:
        """Back to the start: factor 1, with the variance of the prior."""
        prior, frame = self.config.prior_std**2, self.config.frame_std**2
        self._covariance = np.diag([0.0, 0.0, 0.0, *self._systematic.values()])
        self._log = np.zeros(len(self._covariance))
        self._covariance[:3, :3] = prior
        # The error of the first frame is counted as the bias's, so that learning it later, from
        # the mean of other frames, does not move depth that was steady from the start.
        self._covariance[_BIAS, _BIAS] += frame
        self._started, self._stamp_ns = False, 0
        self._reference: _Reference | None = None
        self._watches = {source: _Watch() for source in (CONSISTENCY, *self._systematic)}
        self._judged: dict[str, tuple[int, bool]] = {}
        self._counts: Counter[str] = Counter()

    def forget_places(self) -> None:
        """Poses from now on cannot be compared with earlier ones; what they taught stays."""
        self._reference = None

    def update(
        self,
        frame: Frame,
        depth: np.ndarray,
        tracks: MetricTracks | None = None,
        *,
        pose_is_metric: bool,
    ) -> ScaleEstimate:
        """Estimate the scale of one frame from all that is known about it.

        When time goes back everything starts anew.

        Args:
            frame: with its pose, world z up, where that is known; the identity for a camera that
                stands still.
            depth: [H, W] z-depth as the network gave it; 0 and non-finite mean none.
            tracks: points seen from two poses, see `parallax_scale`.
            pose_is_metric: whether poses come from elsewhere than from predicted depth, so that
                `tracks` tells the scale.

        Raises:
            InputError: `size_mismatch`, `bad_pose`.
        """
        if self.config.constant > 0:
            return ScaleEstimate(self.config.constant, 0.0, {}, self.config.constant)
        stamp_ns, intrinsics, pose = frame.stamp_ns, frame.intrinsics, frame.T_world_camera
        check_depth_size(depth, intrinsics)
        pose = None if pose is None else checked_pose(pose)
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
        tracks = tracks if pose_is_metric else None
        observed = [anchor.observe(frame, depth, tracks) for anchor in self._anchors]
        observations = [observation for observation in observed if observation is not None]
        if pose is None:
            self._fix(observations)
        else:
            self._follow(pose, pose_is_metric, depth, intrinsics, observations)
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
        F = np.eye(len(self._log))
        F[_NOW, _NOW], F[_NOW, _BIAS] = 0, 1
        kept = math.exp(-seconds / _SYSTEMATIC_TIME)
        F[self._offsets, self._offsets] = kept
        self._map(F)
        added = np.array(list(self._systematic.values())) * (1 - kept**2)
        self._covariance[self._offsets, self._offsets] += added
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
        H = np.zeros(len(self._log))
        H[_NOW], H[_REFERENCE] = 1, -growth
        value = relative.log_scale - growth * self._log[_REFERENCE]
        deviation = self._deviation(H, value, variance)
        watch = self._watches[CONSISTENCY]
        if watch.persists(deviation, value - self._expected(H), self._stamp_ns):
            supported = self._votes(True, excluding=CONSISTENCY)
            if self._stands_still(reference, pose) and not supported:
                # A network does not change its mind about one and the same scene: this is another.
                self._fix(observations)
                self._refer_to(pose, depth, intrinsics)
                return
            self._doubt(_BIAS)
            value = self._expected(H) + watch.typical
            deviation = self._deviation(H, value, variance)
        accepted = abs(deviation) < _GATE
        if accepted:
            self._correct(H, value, variance)
        self._count(CONSISTENCY, accepted)
        self._fix(observations)
        overlap = share_in_view(points, intrinsics)
        if accepted and (overlap < _REFERENCE_OVERLAP or base > _REFERENCE_BASE):
            self._refer_to(pose, depth, intrinsics)

    def _fix(self, observations: list[ScaleObservation]) -> None:
        """Use absolute anchors, those first that most agree with."""
        votes = [o.log_scale for o in observations]
        middle = np.median(votes if len(votes) % 2 else [*votes, self._log[_NOW]])
        for o in sorted(observations, key=lambda o: abs(o.log_scale - middle)):
            H = np.zeros(len(self._log))
            H[_NOW] = H[self._offset[o.source]] = 1
            value, variance = o.log_scale, o.variance - self._systematic[o.source]
            deviation = self._deviation(H, value, variance)
            against = 1 + self._votes(False, excluding=o.source)
            watch = self._watches[o.source]
            if (
                watch.persists(deviation, value - self._expected(H), self._stamp_ns)
                and self._votes(True, excluding=o.source) < against
            ):
                self._doubt(_BIAS, _REFERENCE, _NOW)
                value = self._expected(H) + watch.typical
                deviation = self._deviation(H, value, variance)
            accepted = abs(deviation) < _GATE
            if accepted:
                self._correct(H, value, variance)
            self._judged[o.source] = (self._stamp_ns, accepted)
            self._count(o.source, accepted)

    def _votes(self, accepted: bool, excluding: str) -> int:
        """How many absolute anchors, other than one, were lately accepted, or refused."""
        recent = self._stamp_ns - _MEMORY * 1e9
        return sum(
            stamp > recent and verdict == accepted and source != excluding
            for source, (stamp, verdict) in self._judged.items()
        )

    def _stands_still(self, reference: _Reference, pose: np.ndarray) -> bool:
        """Whether the reference was seen from this very place."""
        moved = inverse(pose) @ reference.T_world_camera
        far = reference.median_depth * math.exp(self._log[_REFERENCE])
        near = np.linalg.norm(moved[:3, 3]) < _STILL[0] * far
        return bool(near and angle(moved) < _STILL[1])

    def _refer_to(self, pose: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics) -> None:
        """Make the current frame the reference, if it has depth."""
        points = surface_samples(depth, intrinsics)
        if points is None:
            return
        median = float(np.median(points[:, 2]))
        self._reference = _Reference(pose, points, median, self._stamp_ns)
        F = np.eye(len(self._log))
        F[_REFERENCE] = F[_NOW]
        self._map(F)

    def _doubt(self, *states: int) -> None:
        """Forget what was known of these states in common."""
        self._covariance[np.ix_(states, states)] += self.config.prior_std**2

    def _map(self, F: np.ndarray) -> None:
        self._log = F @ self._log
        self._covariance = F @ self._covariance @ F.T

    def _expected(self, H: np.ndarray) -> float:
        return float(H @ self._log)

    def _deviation(self, H: np.ndarray, value: float, variance: float) -> float:
        """Difference of an observation from what is expected, in standard deviations."""
        return (value - self._expected(H)) / math.sqrt(H @ self._covariance @ H + variance)

    def _correct(self, H: np.ndarray, value: float, variance: float) -> None:
        gain = self._covariance @ H / (H @ self._covariance @ H + variance)
        self._log = self._log + gain * (value - self._expected(H))
        # Joseph's form stays symmetric and positive
        left = np.eye(len(self._log)) - np.outer(gain, H)
        self._covariance = left @ self._covariance @ left.T + np.outer(gain, gain) * variance

    def _count(self, source: str, accepted: bool) -> None:
        self._counts[source if accepted else f'{source}_refused'] += 1


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
