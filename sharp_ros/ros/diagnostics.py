"""What the node reports of itself once a second (REP-107): rates, ages, drops, poses, stalls.

One module: whatever is noted, from any thread, is summed up in the same few lines.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import math
import threading
import time
from typing import Any

import numpy as np

from sharp_ros.errors import PoseUnavailableError
from sharp_ros.frame_result import FrameResult
from sharp_ros.localization.odometry import Motion
from sharp_ros.mapping.map_fit import MapFit
from sharp_ros.mapping.verdict import Verdict
from sharp_ros.stereo import Refinement, TimeOffset
from sharp_ros.views import View
from sharp_ros.worker import WorkerCounts

OK, WARN, ERROR = 0, 1, 2
_WINDOW = 200  # frames over which ages and rates are taken
_RECENT = 5.0  # seconds for which a failure keeps its component at WARN
_SLOW, _STALLED = 2.0, 5.0  # seconds without an image
_STALE, _AHEAD = 5.0, 1.0  # seconds that stamps may lie behind the clock, or before it
_STUCK = 1.0  # seconds of images with the same stamp
_HANGS, _HANGS_TIMES = 10.0, 5.0  # seconds and usual durations after which a frame hangs
_STEPS = ('decode', 'pose', 'process')  # that make up the duration of a frame
THROTTLE, _KINDS = 5.0, 50  # seconds between two warnings of a kind; kinds within them
_MOST_OFFSET = 0.02  # seconds between image and pose that are no matter
_DISAGREEMENTS = 20  # images, one after the other, that are no chance
# Drops that belong to normal running: the node is slower than the camera, or no output is used.
NORMAL_DROPS = frozenset({'replaced', 'stopped', 'no_subscribers', 'disabled'})


class ThrottledLog:
    """Logs a message of each kind once in a few seconds, and no flood of kinds.

    rclpy throttles by line of code: there one warning would silence all the others.

    Args:
        log: takes a message.
    """

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log
        self._recent: dict[tuple[str, str], float] = {}  # when each kind was logged

    def __call__(self, kind: tuple[str, str], message: str) -> None:
        """Log a message, unless one of its kind was logged just before."""
        now = time.monotonic()
        recent = {k: when for k, when in self._recent.items() if now - when < THROTTLE}
        if kind not in recent and len(recent) < _KINDS:
            self._recent = {**recent, kind: now}  # replaced as a whole: several threads warn
            self._log(message)


@dataclass
class Health:
    """Collects what happens to frames, from any thread, and sums it up.

    Attributes:
        warm_up: seconds that the first frame took, which is all that is known before others.
        log: takes the kind of a warning, component and reason, and its text.
    """

    warm_up: float = 0.0
    log: Callable[[tuple[str, str], str], None] = lambda kind, message: None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ages_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _done: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _timings_ms: dict[str, deque[float]] = field(default_factory=dict)
    _problems: dict[str, tuple[float, str]] = field(default_factory=dict)
    _unmapped: Counter[str] = field(default_factory=Counter)
    _events: Counter[str] = field(default_factory=Counter)
    _views: dict[str, View] = field(default_factory=dict)
    _unplaced: Counter[str] = field(default_factory=Counter)
    _pose_values: dict[str, Any] = field(default_factory=dict)
    _mapped: int = 0
    _disagreements: int = 0  # images since one agreed with its pose
    _verdict_on_map: Verdict | None = None
    _last_image: float | None = None
    _stamp_ns: int | None = None  # of the newest image
    _stuck_since: float = 0.0  # when the first image with that stamp came
    _age: float = 0.0  # seconds, of the newest image when it came

    def image_arrived(self, stamp_ns: int, now_ns: int) -> float:
        """Note that the camera is alive; seconds of silence that end with this, 0 if none."""
        now, last = time.monotonic(), self._last_image
        self._last_image = now
        if stamp_ns != self._stamp_ns:
            self._stamp_ns, self._stuck_since = stamp_ns, now
        self._age = (now_ns - stamp_ns) / 1e9
        silent = 0.0 if last is None else now - last
        if silent <= _SLOW:
            return 0.0
        self.event('stall_recovered')
        return silent

    def silence(self) -> float | None:
        """Seconds since the newest image, None if none ever came."""
        return None if self._last_image is None else time.monotonic() - self._last_image

    def patience(self) -> float:
        """Seconds after which a frame is taken to hang, by how long those before it took."""
        medians = self._medians()
        usual = sum(medians.get(step, 0.0) for step in _STEPS) / 1e3
        return max(_HANGS, _HANGS_TIMES * (usual or self.warm_up))

    def _medians(self) -> dict[str, float]:
        """Milliseconds of every step of recent frames."""
        with self._lock:
            return {name: float(np.median(v)) for name, v in self._timings_ms.items()}

    def timings(self) -> str:
        """Median duration of every step of recent frames, a line each."""
        with self._lock:
            ages = np.array(self._ages_ms)
        if not len(ages):
            return 'no frame was processed yet'
        p50, p95 = np.percentile(ages, [50, 95])
        lines = [f'age p50 {p50:.1f} ms, p95 {p95:.1f} ms over {len(ages)} frames; medians:']
        return '\n'.join([*lines, *(f'{k}: {ms:.2f} ms' for k, ms in self._medians().items())])

    def frame_done(self, age_ms: float, timings_ms: dict[str, float], mapped: bool) -> None:
        """Note one frame with all its outputs published."""
        with self._lock:
            self._ages_ms.append(age_ms)
            self._done.append(time.monotonic())
            self._mapped += mapped
            for name, value in timings_ms.items():
                self._timings_ms.setdefault(name, deque(maxlen=_WINDOW)).append(value)

    def note_seen(self, result: FrameResult) -> None:
        """Note scale and odometry of a frame, and why it has no scan."""
        scale, motion = result.scale, result.motion
        if scale is not None:
            self.scale(scale.value, scale.log_variance)
            if scale.disputed:
                factors = ', '.join(f'{v:.2f} by {k}' for k, v in scale.disputed.items())
                self.report(
                    'Mapping',
                    'scale_disputed',
                    f'scale anchors disagree, scale factors {factors}; check the scale of the '
                    'odometry (slipping wheels), scale.camera_height, the registered depth and '
                    'the range finder in tf',
                )
        if result.refinement is not None:
            self.refinement(result.refinement)
            if motion is None:  # own odometry takes its poses from the very images
                self.time_offset(result.refinement.time_offset)
        if result.unscanned is not None:
            reason = result.unscanned.reason
            self.report('Mapping', f'no_scan.{reason}', f'no scan: {result.unscanned}')
        if motion is not None:
            self.odometry(motion)
            if motion.T_odom_camera is None:
                self.not_mapped(f'odometry_{motion.state}', f'visual odometry is {motion.state}')

    def note_placed(self, result: FrameResult) -> None:
        """Note map and views of a frame, and why it was not integrated."""
        unmapped = result.unmapped
        if unmapped is not None:
            self.not_mapped(unmapped.reason, str(unmapped))
        if result.loaded is not None:
            self.loaded(result.loaded)
        if result.verdict is not None:
            self.verdict(result.verdict)
        self.views(result.views, result.unplaced)

    def refinement(self, refinement: Refinement) -> None:
        """Note what motion said about a depth image, and warn where poses go on contradicting."""
        obstacle = refinement.obstacle
        with self._lock:
            self._pose_values['refinement'] = obstacle or 'measured'
            if not obstacle:
                self._pose_values['refinement_share'] = f'{np.mean(refinement.measured):.2f}'
                self._disagreements = 0
            self._disagreements += obstacle == 'poses_disagree'
            lasting = obstacle == 'poses_disagree' and self._disagreements >= _DISAGREEMENTS
        if lasting:
            self.report(
                'Mapping',
                'poses_disagree',
                f'poses disagree with what the last {self._disagreements} images show that could '
                'be compared; check their source, its stamps, how the camera is mounted in tf or '
                'pose.base_to_camera, and camera_info; depth is as the network predicts it',
            )

    def time_offset(self, offset: TimeOffset | None) -> None:
        """Note which moments poses belong to, and warn if those are not those of the images."""
        if offset is None:
            return
        with self._lock:
            self._pose_values |= {
                'pose_offset_ms': f'{offset.seconds * 1e3:.0f}',
                'pose_offset_std_ms': f'{offset.std * 1e3:.0f}',
            }
        if abs(offset.seconds) > _MOST_OFFSET + 2 * offset.std:
            ms, side = abs(offset.seconds) * 1e3, 'later' if offset.seconds > 0 else 'earlier'
            self.problem(
                'Mapping',
                f'poses belong {ms:.0f} ms {side} than their images; change pose.time_offset by '
                f'{-offset.seconds:+.3f}, or correct the stamps',
            )

    def loaded(self, loaded: MapFit | PoseUnavailableError) -> None:
        """Note what became of a map that was loaded and checked."""
        refusal = loaded.refusal() if isinstance(loaded, MapFit) else loaded
        if refusal is None:
            self.event('map_loaded')
        else:
            self.report('Mapping', refusal.reason, str(refusal))

    def verdict(self, verdict: Verdict | None) -> None:
        """Note how far the map can be believed; None while there is none."""
        self._verdict_on_map = verdict

    def not_mapped(self, reason: str, why: str, *, log: bool = True) -> None:
        """Count a frame that is published but not integrated; warn of it if it is to be logged."""
        with self._lock:
            self._unmapped[reason] += 1
        if log:
            self.warn('Mapping', reason, f'not mapped: {why}')

    def scale(self, value: float, log_variance: float) -> None:
        """Note the factor of the newest depth."""
        with self._lock:
            self._pose_values |= {
                'scale': f'{value:.4f}',
                'scale_std': f'{math.sqrt(log_variance):.4f}',
            }

    def gravity(self, std: float) -> None:
        """Note how sure an IMU is of what is up, radians."""
        with self._lock:
            self._pose_values['gravity_std_deg'] = f'{math.degrees(std):.2f}'

    def odometry(self, motion: Motion) -> None:
        """Note how visual odometry fares."""
        with self._lock:
            self._pose_values |= {
                'odometry': motion.state,
                'odometry_inliers': motion.inliers,
                'odometry_tracked': motion.tracked,
            }

    def views(
        self, views: Mapping[str, View], unplaced: Mapping[str, PoseUnavailableError]
    ) -> None:
        """Note how far new images of virtual cameras can be trusted, and which are missing."""
        for name, error in unplaced.items():
            kind = f'{name}.{error.reason}'
            with self._lock:
                self._unplaced[kind] += 1
            self.warn('Views', kind, f'view {name} not rendered: {error}')
        for name, view in views.items():
            with self._lock:
                self._views[name] = view
            if view.doubt:
                self.problem('Views', f'{name}: {view.doubt}')

    def event(self, name: str) -> None:
        """Count something that harms no frame, such as a stamp that went back."""
        with self._lock:
            self._events[name] += 1

    def report(self, component: str, reason: str, message: str) -> None:
        """Count an event, and warn of it."""
        self.event(reason)
        self.warn(component, reason, message)

    def warn(self, component: str, reason: str, message: str) -> None:
        """Keep a component at WARN for a few seconds, and log why."""
        self.problem(component, message)
        self.log((component, reason), message)

    def problem(self, component: str, message: str) -> None:
        """Keep a component at WARN for a few seconds."""
        with self._lock:
            self._problems[component] = (time.monotonic(), message)

    def statuses(
        self,
        state: str,
        facts: dict[str, Any],
        counts: WorkerCounts | None,
        node: str,
        why_silent: str = '',
    ) -> list[tuple[str, int, str, dict[str, str]]]:
        """Name, level, message and values of each component.

        Args:
            state: label of the lifecycle state.
            facts: constant values of the model: name, device, licence and so on.
            counts: of the worker, or None if it never ran.
            node: its name, with which that of each component begins.
            why_silent: what the graph says about the topic of the images, if anything.
        """
        with self._lock:
            ages, done = np.array(self._ages_ms), list(self._done)
            unmapped, events, mapped = dict(self._unmapped), dict(self._events), self._mapped
            seen, unplaced = dict(self._views), dict(self._unplaced)
            pose_values = dict(self._pose_values)
        values: dict[str, Any] = {'state': state}
        if counts is not None:
            values |= {
                'frames_in': counts.frames_in,
                'processed': counts.processed,
                'dropped': counts.dropped,
                'pending': counts.pending,
            }
            values |= {f'dropped.{k}': v for k, v in sorted(counts.reasons.items())}
        values |= {f'event.{k}': v for k, v in sorted(events.items())}
        inference = dict(facts)
        if len(done) > 1:
            inference['rate_hz'] = f'{(len(done) - 1) / max(done[-1] - done[0], 1e-9):.2f}'
        if len(ages):
            p50, p95 = np.percentile(ages, [50, 95])
            inference |= {'age_ms_p50': f'{p50:.1f}', 'age_ms_p95': f'{p95:.1f}'}
        inference |= {f'{k}_ms': f'{v:.2f}' for k, v in self._medians().items()}
        mapping: dict[str, Any] = {'mapped': mapped, 'unmapped': sum(unmapped.values())}
        mapping |= pose_values
        mapping |= {f'unmapped.{k}': v for k, v in sorted(unmapped.items())}
        verdict = self._verdict_on_map
        if verdict is not None:
            mapping['verdict'] = verdict.level
            mapping |= {f'verdict.{r.name}': r.sentence() for r in verdict.reasons}
        views: dict[str, Any] = {f'unplaced.{k}': v for k, v in sorted(unplaced.items())}
        for name, view in sorted(seen.items()):
            views |= {
                f'{name}.coverage': f'{view.coverage:.3f}',
                f'{name}.angle_deg': f'{math.degrees(view.angle):.1f}',
                f'{name}.distance_m': f'{view.distance:.3f}',
                f'{name}.skipped_gaussians': view.skipped,
                f'{name}.trusted': not view.doubt,
            }
        trouble = {
            'Input': self._input_trouble(state, why_silent),
            'Inference': self._hang(counts),
            'Mapping': None if verdict is None else _bad_map(verdict),
        }
        quiet_since = time.monotonic() - (0.0 if counts is None else counts.busy_seconds)
        parts = {'Input': values, 'Inference': inference, 'Mapping': mapping, 'Views': views}
        return [
            (
                f'{node}: {name}',
                *self._verdict(name, state, trouble.get(name), quiet_since),
                _texts(part),
            )
            for name, part in parts.items()
        ]

    def _input_trouble(self, state: str, why_silent: str) -> tuple[int, str] | None:
        silent = self.silence()
        if state != 'active':
            return None
        if silent is not None and silent <= _SLOW:
            return self._wrong_stamps()
        if silent is None:
            return WARN, f'no image yet; {why_silent or "is the camera running?"}'
        level = ERROR if silent > _STALLED else WARN
        return level, f'no image for {silent:.1f} s; {why_silent or "is the camera running?"}'

    def _wrong_stamps(self) -> tuple[int, str] | None:
        """Images that come, but were not taken when they say so."""
        assert self._last_image is not None
        stuck, age = self._last_image - self._stuck_since, self._age
        if stuck > _STUCK:
            return WARN, (
                f'images have had the same stamp for {stuck:.0f} s: set header.stamp in the '
                'camera driver to when each was taken; a paused simulation needs nothing'
            )
        if age > _STALE:
            return WARN, (
                f'images are {age:.0f} s old when they come: synchronise the clocks of camera and '
                'node; a recording wants use_sim_time and "ros2 bag play --clock"'
            )
        if age < -_AHEAD:
            return WARN, (
                f'images are {-age:.0f} s ahead of the clock of the node: synchronise the clocks; '
                'with use_sim_time a node must publish /clock'
            )
        return None

    def _hang(self, counts: WorkerCounts | None) -> tuple[int, str] | None:
        """The watchdog: a frame that takes far longer than those before it."""
        if counts is None or counts.busy_seconds < self.patience():
            return None
        return ERROR, (
            f'frame in progress for {counts.busy_seconds:.0f} s; is the device hung? '
            'Deactivate and clean up the node, or restart it'
        )

    def _verdict(
        self, component: str, state: str, trouble: tuple[int, str] | None, quiet_since: float
    ) -> tuple[int, str]:
        """Present trouble and what happened lately, else that all is well.

        While a frame is in progress nothing is known of its success: such time heals no problem,
        or a slow network that always fails would look well between two failures.
        """
        with self._lock:
            problem = self._problems.get(component)
        if problem is None or quiet_since - problem[0] >= _RECENT:
            return trouble or (OK, 'running' if state == 'active' else 'idle')
        text = problem[1]
        if trouble is None:
            return WARN, text
        level, present = trouble
        return level, present if text in present else f'{present}; {text}'


def _bad_map(verdict: Verdict) -> tuple[int, str] | None:
    """Trouble for as long as it lasts; of a map that is merely doubtful the values tell."""
    return (WARN, str(verdict)) if verdict.level == 'bad' else None


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}
