"""What the node tells about itself once a second (REP-107): rates, ages, drops, poses, stalls."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
import math
import threading
import time
from typing import Any

import numpy as np

from sharp_ros.odometry import Motion
from sharp_ros.views import View
from sharp_ros.worker import WorkerCounts

OK, WARN, ERROR = 0, 1, 2
_WINDOW = 200  # frames over which ages and rates are taken
_RECENT = 5.0  # seconds for which a failure keeps its component at WARN
_SLOW, _STALLED = 2.0, 5.0  # seconds without an image
# Drops that belong to normal running: the node is slower than the camera, or nobody listens.
NORMAL_DROPS = frozenset({'replaced', 'stopped', 'nobody_listens', 'disabled'})


@dataclass
class Health:
    """Collects what happens to frames, from any thread, and sums it up."""

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
    _last_image: float | None = None

    def image_arrived(self) -> None:
        """Note that the camera is alive."""
        self._last_image = time.monotonic()

    def frame_done(self, age_ms: float, timings_ms: dict[str, float], mapped: bool) -> None:
        """Note one frame with all its outputs published."""
        with self._lock:
            self._ages_ms.append(age_ms)
            self._done.append(time.monotonic())
            self._mapped += mapped
            for name, value in timings_ms.items():
                self._timings_ms.setdefault(name, deque(maxlen=_WINDOW)).append(value)

    def unmapped(self, reason: str) -> None:
        """Count a frame that was published but not integrated."""
        with self._lock:
            self._unmapped[reason] += 1

    def scale(self, value: float, log_variance: float) -> None:
        """Note the factor of the newest depth."""
        with self._lock:
            self._pose_values |= {
                'scale': f'{value:.4f}',
                'scale_std': f'{math.sqrt(log_variance):.4f}',
            }

    def odometry(self, motion: Motion) -> None:
        """Note how visual odometry fares."""
        with self._lock:
            self._pose_values |= {
                'odometry': motion.state,
                'odometry_inliers': motion.inliers,
                'odometry_tracked': motion.tracked,
            }

    def view_done(self, name: str, view: View) -> None:
        """Note how far the newest image of a virtual camera can be trusted."""
        with self._lock:
            self._views[name] = view
        if view.doubt:
            self.problem('Views', f'{name}: {view.doubt}')

    def view_unplaced(self, name: str, reason: str) -> None:
        """Count an image of a virtual camera that could not be made."""
        with self._lock:
            self._unplaced[f'{name}.{reason}'] += 1

    def event(self, name: str) -> None:
        """Count something that harms no frame, such as a stamp that went back."""
        with self._lock:
            self._events[name] += 1

    def problem(self, component: str, message: str) -> None:
        """Keep a component at WARN for a few seconds."""
        with self._lock:
            self._problems[component] = (time.monotonic(), message)

    def statuses(
        self, state: str, facts: dict[str, Any], counts: WorkerCounts | None
    ) -> list[tuple[str, int, str, dict[str, str]]]:
        """Name, level, message and values of each component.

        Args:
            state: label of the lifecycle state.
            facts: constant values of the model: name, device, licence and so on.
            counts: of the worker, or None if it never ran.
        """
        with self._lock:
            ages, done = np.array(self._ages_ms), list(self._done)
            timings = {k: float(np.median(v)) for k, v in self._timings_ms.items()}
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
        inference |= {f'{k}_ms': f'{v:.2f}' for k, v in timings.items()}
        mapping: dict[str, Any] = {'mapped': mapped, 'unmapped': sum(unmapped.values())}
        mapping |= pose_values
        mapping |= {f'unmapped.{k}': v for k, v in sorted(unmapped.items())}
        views: dict[str, Any] = {f'unplaced.{k}': v for k, v in sorted(unplaced.items())}
        for name, view in sorted(seen.items()):
            views |= {
                f'{name}.coverage': f'{view.coverage:.3f}',
                f'{name}.angle_deg': f'{math.degrees(view.angle):.1f}',
                f'{name}.distance_m': f'{view.distance:.3f}',
                f'{name}.skipped_gaussians': view.skipped,
                f'{name}.trusted': not view.doubt,
            }
        return [
            self._status('Input', values, state),
            self._status('Inference', inference, state),
            self._status('Mapping', mapping, state),
            self._status('Views', views, state),
        ]

    def _status(
        self, component: str, values: dict[str, Any], state: str
    ) -> tuple[str, int, str, dict[str, str]]:
        level, message = OK, 'running' if state == 'active' else 'idle'
        watch_images = component == 'Input' and state == 'active'
        with self._lock:
            when, text = self._problems.get(component, (-1e9, ''))
        if time.monotonic() - when < _RECENT:
            level, message = WARN, text
        if watch_images and self._last_image is not None:
            silent = time.monotonic() - self._last_image
            if silent > _SLOW:
                level = ERROR if silent > _STALLED else WARN
                message = f'no image for {silent:.1f} s; is the camera running?'
        elif watch_images:
            level, message = WARN, 'no image yet; check the topic name and its QoS'
        return f'sharp_ros: {component}', level, message, {k: str(v) for k, v in values.items()}
