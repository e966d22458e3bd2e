"""One steady metric scale for depth that a network predicts up to a factor.

The true depth is `s(t)` times the predicted one, with `log s(t) = b(t) + e_t`: a bias `b` that
the network has in this place, which wanders slowly, and an error `e_t` that each frame has for
itself. *Relative* evidence compares a frame with a reference frame that was seen before: it says
how the two scales differ, so that one number is left to be known, the scale of the reference.
*Absolute* anchors (metric motion, the known height of the camera, measured depth or distance) tell
metric scale. They err in ways that last, as with a floor that is none, and robots act on
what they say; so what is believed is a histogram over that number, each observation is of the
truth or, with some probability, of anything, and observations that share their errors count as
one.

One module, since the histogram, the reference and the groups of observations are one state, which
a frame advances as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
import math
from typing import Any

import numpy as np

from sharp_ros.camera import check_depth_size, Frame, Intrinsics
from sharp_ros.config import ScaleConfig
from sharp_ros.localization.change_detector import ChangeDetector
from sharp_ros.localization.range_anchor import RangeAnchor
from sharp_ros.localization.scale_anchors import (
    CONSISTENCY,
    consistency_scale,
    HeightAnchor,
    MetricMotion,
    ParallaxAnchor,
    ScaleAnchor,
    ScaleObservation,
    SCATTERED,
    SensorAnchor,
    share_in_view,
    surface_samples,
)
from sharp_ros.localization.scale_belief import Belief
from sharp_ros.localization.scale_dispute import ScaleDispute
from sharp_ros.localization.stereo_anchor import StereoAnchor
from sharp_ros.se3 import angle, apply, checked_pose, inverse

# All anchors in use; a new one is a class in a file of its own and an entry here.
ANCHORS: tuple[type[ScaleAnchor], ...] = (
    ParallaxAnchor,
    StereoAnchor,
    HeightAnchor,
    SensorAnchor,
    RangeAnchor,
)

_GROUP = 0.19  # seconds within which observations of one anchor share their errors
_KEYFRAME = 1.0  # likewise, if they share a keyframe whose pose may be wrong
_RENEWED = 0.05  # times a second that a network is wrong in another way than before
_LEAST = 1e-4  # variance of an observation, which a histogram can show
_GATE = 4.0  # standard deviations beyond which evidence contradicts what is believed
_GIVEN_UP = 0.3  # seconds after which a reference that nothing resembles is dropped
_REMEMBERED = 200  # frames over whose errors the bias is averaged
_AVERAGED = 20  # of which so many are independent
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
        disputed: the factors that anchors ask for which contradict each other, by source; empty
            where none do.
    """

    value: float
    log_variance: float
    sources: Mapping[str, int]
    bias: float = 1.0
    bias_variance: float = 0.0
    disputed: Mapping[str, float] = field(default_factory=dict)


class ScaleFilter:
    """Estimates the scale frame by frame; see the top of this module.

    Args:
        config: see `ScaleConfig`.
        anchors: classes of those that are asked, in this order.
    """

    def __init__(
        self, config: ScaleConfig, anchors: Sequence[type[ScaleAnchor]] = ANCHORS
    ) -> None:
        self._kinds = {kind.source: kind for kind in anchors}
        self.config = config
        self.reset()

    @property
    def config(self) -> ScaleConfig:
        """What is known beforehand; may be replaced between two frames."""
        return self._config

    @config.setter
    def config(self, config: ScaleConfig) -> None:
        self._config = config
        self._anchors = [kind(config) for kind in self._kinds.values()]

    def knows_metres(self, frame: Frame) -> bool:
        """Whether an anchor tells metric scale where poses are not in metres."""
        return any(anchor.tells_metres(frame) for anchor in self._anchors)

    def reset(self) -> None:
        """Back to the start: factor 1, with the variance of the prior."""
        self._stated_std = 0.0  # by the network, of the last image that it saw
        # of the bias, without what was observed since there is a reference
        self._bias = Belief(self._prior_std)
        self._taught = False  # whether anything was observed or compared yet
        self._groups: dict[str, _Group] = {}
        self._reference: _Reference | None = None
        # what the reference says about the error of a frame that does not look like it
        self._doubtful: ScaleObservation | None = None
        self._error = Belief()  # about the error of the last frame that was compared with none
        self._systematic = 0.0  # variance of what averaging does not remove
        self._change = ChangeDetector(bound=_GATE)
        systematic = {source: kind.systematic for source, kind in self._kinds.items()}
        self._dispute = ScaleDispute(systematic, _GROUP)
        self._started, self._stamp_ns = False, 0
        self._counts: Counter[str] = Counter()

    @property
    def _prior_std(self) -> float:
        """Of the log scale where nothing was observed."""
        return max(self.config.prior_std, self._stated_std)

    def forget_places(self) -> None:
        """Poses from now on cannot be compared with earlier ones; what they taught stays."""
        self._bias = self._of_bias()
        self._reference, self._groups = None, {}
        self._dispute.clear()

    def update(
        self,
        frame: Frame,
        depth: np.ndarray,
        motion: MetricMotion = None,
        *,
        pose_is_metric: bool,
        network_std: float | None = None,
    ) -> ScaleEstimate:
        """Estimate the scale of one frame from all that is known about it.

        When time goes back everything starts anew.

        Args:
            frame: with its pose, world z up, where that is known; the identity for a camera that
                stands still.
            depth: [H, W] z-depth as the network gave it; 0 and non-finite mean none.
            motion: points seen from two poses, see `parallax_scale`, or the scale that recent
                images show.
            pose_is_metric: whether poses come from elsewhere than from predicted depth, so that
                `motion` tells the scale.
            network_std: standard deviation of the logarithm of the scale of this depth, as the
                network states it: where it is larger than what is usual (`prior_std`), it is what
                is believed until something is observed; None where it does not say.

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
        seconds = (stamp_ns - self._stamp_ns) * 1e-9 if self._started else 0.0
        self._started, self._stamp_ns = True, stamp_ns
        if network_std is not None:
            self._stated_std = network_std
            if not self._taught:
                self._bias = Belief(self._prior_std)
        motion = motion if pose_is_metric else None
        observed = [anchor.observe(frame, depth, motion) for anchor in self._anchors]
        observations = [
            # what averaging does not remove is added in the end
            replace(o, variance=max(o.variance - self._kinds[o.source].systematic ** 2, _LEAST))
            for o in observed
            if o is not None
        ]
        relation = self._doubtful = None
        if pose is None:
            self.forget_places()
        else:
            relation = self._relate(pose, pose_is_metric, depth, intrinsics, observations)
        if relation is None:
            now = self._update_bias(observations, seconds)
            value, variance = now.median, now.variance
            if pose is not None and self._reference is None:
                self._refer_to(pose, depth, intrinsics)
        else:
            value, variance = self._update_reference(relation, observations)
            if relation.outgrown:
                self._hand_over(relation, depth, intrinsics)
        bias = self._of_bias()
        return ScaleEstimate(
            math.exp(value),
            variance + self._systematic,
            dict(self._counts),
            math.exp(bias.median),
            bias.variance + self._systematic,
            self._disputed(),
        )

    def _age(self, bias: Belief, nanoseconds: int) -> None:
        """Let the bias wander, or be another one at once, as from room to room."""
        seconds = nanoseconds * 1e-9
        bias.widen(self.config.drift_std**2 * seconds)
        bias.doubt(-math.expm1(-_RENEWED * seconds), self._prior_std)

    # a frame on its own ------------------------------------------------------------------------

    def _of_bias(self) -> Belief:
        """What is believed about the bias."""
        bias, reference = self._bias.copy(), self._reference
        if reference is not None:
            if reference.sets_bias:
                bias.shift(reference.offset)
            self._age(bias, self._stamp_ns - reference.first_ns)
            evidence = self._with_groups(reference.evidence)
            bias.learn(
                evidence.likelihood(bias.values - reference.offset),
                self.config.frame_std / math.sqrt(min(reference.frames, _AVERAGED)),
            )
        return bias

    def _update_bias(self, observations: list[ScaleObservation], seconds: float) -> Belief:
        """What is believed of the scale of a frame that is compared with none before."""
        frame_std = self.config.frame_std
        if self._reference is None:
            self._age(self._bias, round(seconds * 1e9))
        now = self._of_bias()
        error = Belief.of_frame_error(frame_std)
        if self._doubtful is not None:
            error.learn(_likelihood(self._doubtful, error.values))
        now.add(error)
        self._error = error
        for o in observations:
            now.learn(_likelihood(o, now.values))
            if self._reference is None:
                self._bias.learn(_likelihood(o, self._bias.values), frame_std)
        self._taught |= bool(observations)
        self._judge(observations, now.median, now.variance)
        return now

    # a frame beside a reference ----------------------------------------------------------------

    def _refer_to(self, pose: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics) -> None:
        """Make the current frame the reference, if it has depth."""
        points = surface_samples(depth, intrinsics)
        if points is not None:
            self._reference = _Reference(
                pose,
                points,
                float(np.median(points[:, 2])),
                self._stamp_ns,
                sets_bias=not self._taught,
                error=self._error,
            )
            self._taught = True

    def _relate(
        self,
        pose: np.ndarray,
        pose_is_metric: bool,
        depth: np.ndarray,
        intrinsics: Intrinsics,
        observations: list[ScaleObservation],
    ) -> _Relation | None:
        """How the scale of this frame follows from that of the reference, if it does.

        A reference that contradicts what is seen for long is dropped.
        """
        reference = self._reference
        if reference is None:
            return None
        current = self._of_reference(reference)
        about = current.median
        scale = math.exp(about)
        T_camera_reference = inverse(pose) @ reference.T_world_camera
        points = apply(T_camera_reference, reference.points * scale)
        base = float(np.linalg.norm(T_camera_reference[:3, 3])) / (reference.median_depth * scale)
        relative = consistency_scale(points, depth, intrinsics)
        if relative is None:
            self._give_up(reference)
            return None
        difference = relative.log_scale - about - reference.offset  # of the frame from the bias
        # for use where the frame does not look like the reference
        doubtful = replace(
            relative, log_scale=difference, variance=max(relative.variance, SCATTERED)
        )
        if relative.variance >= SCATTERED:
            self._doubtful = doubtful
            self._give_up(reference)
            return None
        # With the reference scaled as estimated, log_scale is now - growth (reference - estimate):
        # over metric motion z = s z_r + t_z, so that d log z / d log s = 1 - t_z / z. Without that
        # an error of the scale would seem to grow as the camera comes nearer, and so would.
        ahead = points[points[:, 2] > 0, 2]
        growth = float(np.median(1 - T_camera_reference[2, 3] / ahead)) if pose_is_metric else 1.0
        growth = min(max(growth, 0.5), 2.0)
        # A wrong scale of the reference puts its points wrong by a share of the motion.
        variance = relative.variance + base**2 * current.variance
        frame_variance = self.config.frame_std**2 * (1 + 1 / reference.frames)
        deviation = difference / math.sqrt(frame_variance + variance)
        certain = self._change.persists(deviation, difference, self._stamp_ns)
        if certain:
            supported = any(
                abs(o.deviation(relative.log_scale, variance)) < _GATE for o in observations
            )
            if self._stands_still(reference, T_camera_reference, scale) and not supported:
                # A network does not change its mind about one and the same scene: this is another.
                self.forget_places()
                return None
            reference.offset += self._change.typical
            reference.frames = 1
        accepted = certain or abs(deviation) < _GATE
        self._count(CONSISTENCY, accepted)
        if not accepted:
            self._doubtful = doubtful
            return None
        reference.confirm(self._stamp_ns, relative.log_scale - about)
        overlap = share_in_view(points, intrinsics)
        outgrown = overlap < _REFERENCE_OVERLAP or base > _REFERENCE_BASE
        return _Relation(
            pose,
            relative.log_scale,
            about,
            growth,
            variance,
            reference=reference,
            outgrown=outgrown,
        )

    def _give_up(self, reference: _Reference) -> None:
        """Drop a reference with which nothing could be compared for long."""
        if self._stamp_ns - reference.confirmed_ns > _GIVEN_UP * 1e9:
            self.forget_places()

    def _update_reference(
        self, relation: _Relation, observations: list[ScaleObservation]
    ) -> tuple[float, float]:
        """Scale of a frame that is compared with the reference, and its variance."""
        reference = relation.reference
        for source, group in list(self._groups.items()):
            longest = _GROUP if group.shared is None else _KEYFRAME
            another = any(o.source == source and o.shared != group.shared for o in observations)
            if another or self._stamp_ns - group.begun_ns > longest * 1e9:
                reference.evidence.learn(group.likelihood)
                del self._groups[source]
        for o in observations:
            group = self._groups.setdefault(
                o.source, _Group(self._stamp_ns, o, reference.evidence.values)
            )
            group.add(o.log_density(relation.of_frame(group.values)), 1 / o.variance)
            log_scale = relation.of_reference(o.log_scale)
            self._dispute.add(o.source, self._stamp_ns, log_scale, o.variance)
        current = self._of_reference(reference)
        value = float(relation.of_frame(current.median))
        variance = relation.growth**2 * current.variance + relation.variance
        self._judge(observations, value, variance)
        return value, variance

    def _of_reference(self, reference: _Reference) -> Belief:
        """What is believed about the log scale of the reference."""
        belief, error = self._bias.copy(), reference.error.copy()
        self._age(belief, self._stamp_ns - reference.first_ns)
        if not reference.sets_bias and reference.frames > 1:
            others = min(reference.frames - 1, _AVERAGED)
            std = self.config.frame_std / math.sqrt(others)
            error.learn(np.exp(-0.5 * ((error.values + reference.offset) / std) ** 2))
        belief.add(error)
        evidence = self._with_groups(reference.evidence)
        belief.learn(evidence.likelihood(belief.values))
        return belief

    def _disputed(self) -> dict[str, float]:
        """Anchors that contradict each other for long, and the factors of depth they ask for."""
        if self._reference is None:
            return {}
        offset, log_scales = self._reference.offset, self._dispute.log_scales(self._stamp_ns)
        return {source: math.exp(value + offset) for source, value in log_scales.items()}

    def _with_groups(self, belief: Belief) -> Belief:
        """A belief with what the groups say that are not yet complete."""
        belief = belief.copy()
        for group in self._groups.values():
            belief.learn(group.likelihood)
        return belief

    def _hand_over(self, relation: _Relation, depth: np.ndarray, intrinsics: Intrinsics) -> None:
        """Make the current frame the reference instead of that it was compared with."""
        points = surface_samples(depth, intrinsics)
        if points is None:
            return
        before = relation.reference
        evidence = self._with_groups(before.evidence)
        self._groups = {}
        moved = relation.level - relation.about
        seconds = (self._stamp_ns - before.begun_ns) * 1e-9
        evidence.stretch(relation.growth, relation.about)
        evidence.shift(moved)
        error = before.error.copy()
        error.shift(moved)
        self._dispute.shift(moved)
        evidence.widen(relation.variance + self.config.drift_std**2 * seconds)
        self._reference = replace(
            before,
            T_world_camera=relation.T_world_camera,
            points=points,
            median_depth=float(np.median(points[:, 2])),
            offset=before.offset - moved,
            begun_ns=self._stamp_ns,
            confirmed_ns=self._stamp_ns,
            evidence=evidence,
            error=error,
        )

    def _stands_still(
        self, reference: _Reference, T_camera_reference: np.ndarray, scale: float
    ) -> bool:
        """Whether the reference was seen from this very place."""
        far = reference.median_depth * scale
        near = np.linalg.norm(T_camera_reference[:3, 3]) < _STILL[0] * far
        return bool(near and angle(T_camera_reference) < _STILL[1])

    def _judge(self, observations: list[ScaleObservation], value: float, variance: float) -> None:
        """Count which observations agree with what is believed after all of them."""
        for o in observations:
            accepted = abs(o.deviation(value, variance)) < _GATE
            self._count(o.source, accepted)
            if accepted:
                lasting = self._kinds[o.source].systematic ** 2
                self._systematic = min(self._systematic or lasting, lasting)

    def _count(self, source: str, accepted: bool) -> None:
        self._counts[source if accepted else f'{source}_refused'] += 1


@dataclass
class _Reference:
    """A frame that later ones are compared with."""

    T_world_camera: np.ndarray
    points: np.ndarray  # [N, 3] in its optical frame, as predicted
    median_depth: float  # as predicted
    begun_ns: int
    # Nothing was known of the bias before the first of those that were compared: that its error is
    # learnt later, from the mean of other frames, is no reason to move depth that was steady.
    sets_bias: bool
    error: Belief  # about its difference from the bias, before it was compared with others
    # what was observed of it and of those before that it was compared with, without a prior
    evidence: Belief = field(default_factory=Belief)
    offset: float = 0.0  # of the bias from its log scale, by the mean of other frames
    frames: int = 1
    first_ns: int = 0  # when the first of those was taken
    confirmed_ns: int = 0  # when it was last comparable

    def __post_init__(self) -> None:
        self.confirmed_ns = self.confirmed_ns or self.begun_ns
        self.first_ns = self.first_ns or self.begun_ns

    def confirm(self, stamp_ns: int, difference: float) -> None:
        """A frame was comparable, whose log scale differs by so much."""
        self.confirmed_ns = stamp_ns
        self.offset += (difference - self.offset) / min(self.frames, _REMEMBERED)
        self.frames += 1


@dataclass(frozen=True)
class _Relation:
    """How the log scale of a frame follows from that of the reference."""

    T_world_camera: np.ndarray  # of the frame
    level: float  # of the frame, if that of the reference is `about`
    about: float
    growth: float  # of differences from that
    variance: float
    reference: _Reference
    outgrown: bool  # the frame shows so much else that it should be the next reference

    def of_frame(self, of_reference: Any) -> Any:
        return self.level + self.growth * (of_reference - self.about)

    def of_reference(self, of_frame: float) -> float:
        return self.about + (of_frame - self.level) / self.growth


class _Group:
    """Observations of one anchor that follow each other so closely that they share their errors.

    Their likelihoods are averaged, in logarithms and by what they know: many say no more than one,
    only more steadily.
    """

    def __init__(self, begun_ns: int, first: ScaleObservation, values: np.ndarray) -> None:
        self.begun_ns, self.shared, self.values = begun_ns, first.shared, values
        self._wild, self._uniform = first.wild, first.uniform
        self._log_density = np.zeros(len(values))
        self._information = 0.0

    def add(self, log_density: np.ndarray, information: float) -> None:
        self._log_density += information * log_density
        self._information += information

    @property
    def likelihood(self) -> np.ndarray:
        """[N] of the log scales of the reference."""
        return _mixed(self._log_density / self._information, self._wild, self._uniform)


def _likelihood(observation: ScaleObservation, values: np.ndarray) -> np.ndarray:
    """Of log scales [N]."""
    return _mixed(observation.log_density(values), observation.wild, observation.uniform)


def _mixed(log_density: np.ndarray, wild: float, uniform: float) -> np.ndarray:
    """Likelihood of what is of anything once in a while."""
    return (1 - wild) * np.exp(log_density) + wild * uniform
