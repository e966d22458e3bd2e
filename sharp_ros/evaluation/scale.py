"""How steady and how honest the scale of predicted depth is, at its worst.

Frames go through localization and refinement as in the pipeline, with poses from elsewhere, as in
a node whose robot has odometry. The scale that is true for a frame is the median of true over
predicted depth, the latter as motion refines it. What counts is the worst sequence and the worst
frame: a mean forgives what a robot does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
import math
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.config import ModelConfig, SharpConfig
from sharp_ros.engine import choose_device, Engine
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.evaluation.hand_held import DURATION, HandHeld, Shown, THINNED
from sharp_ros.evaluation.metrics import (
    MAX_TRUTH,
    MIN_PIXELS,
    MIN_TRUTH,
    scale_deviations,
    scale_metrics,
)
from sharp_ros.localization.localizer import Localizer
from sharp_ros.localization.scale_anchors import CONSISTENCY
from sharp_ros.localization.scale_filter import ScaleEstimate
from sharp_ros.models import load_predictor, ModelInfo
from sharp_ros.point_cloud import depth_from_gaussians
from sharp_ros.refinement import MotionRefinement
from sharp_ros.sources import open_source, Source
from sharp_ros.stereo import PredictedDepth
from sharp_ros.stopwatch import Stopwatch

SETTLED = 2.0  # seconds after which an error is not excused by the start
ALLOWED_LOSS = 0.005  # of AbsRel, that the scale may cost against the network alone
STRIDE = 10  # frames from start to start of a recording
_CELLS = 256  # of nano, along the longer side
_WORST = 5  # runs that the summary names
_LEAST_SECONDS = SETTLED + 0.2  # of a recording that are left after the last start

_Item = TypeVar('_Item')


class FindsScale(Protocol):
    """What finds the scale of one frame after the other."""

    def find(self, shown: Shown, clock: Stopwatch) -> tuple[ScaleEstimate | None, np.ndarray]:
        """Factor of the depth of a frame, and that depth [H, W], in the unit of the network."""
        ...


class NodeSteps:
    """The steps of the pipeline up to the scale.

    Args:
        config: as of a node.
    """

    def __init__(self, config: SharpConfig) -> None:
        self._localizer = Localizer(config, estimates_scale=True)
        self._refinement = MotionRefinement(config.refinement, predicts=True)

    def find(self, shown: Shown, clock: Stopwatch) -> tuple[ScaleEstimate | None, np.ndarray]:
        """See `FindsScale.find`."""
        carried = self._refinement.carried(shown.frame)
        clock.lap('carry')
        predicted = carried or PredictedDepth(
            shown.predicted, shown.log_std, _cells_of(shown), shown.scale_std
        )
        tracked = self._localizer.track(shown.frame, predicted.depth, clock)
        refined = self._refinement.refine(tracked, predicted, self._localizer.factor, clock)
        seen = (refined.scale, refined.poses_hold)
        localized = self._localizer.observe(
            tracked, refined.depth, clock, *seen, network_std=predicted.scale_std
        )
        self._refinement.remember(localized, refined, predicted)
        return localized.scale, refined.depth


def _cells_of(shown: Shown) -> np.ndarray:  # -> [h, w]
    """Depth in as many cells as nano has, of which only the images are kept."""
    high, wide = shown.predicted.shape
    size = [round(n * _CELLS / max(high, wide)) for n in (wide, high)]
    with np.errstate(divide='ignore', invalid='ignore'):
        inverse = np.where(shown.predicted > 0, 1 / shown.predicted, np.float32(np.nan))
        return 1 / cv2.resize(inverse, size, interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class ScaleRun:
    """What was published of a sequence, and what was true, frame by frame.

    Attributes:
        name: of the sequence.
        seconds: [N] since its first frame.
        true: [N] median of true over predicted depth, as refined by motion.
        published: [N] factor that this depth was multiplied by.
        std: [N] stated standard deviation of its logarithm.
        observed: [N] bool, whether metric scale was observed, believed or not.
        abs_rel: [N] of the depth as published.
        network_abs_rel: [N] of the depth as the network alone has it.
        milliseconds: of all steps but the network, mean over the frames.
    """

    name: str
    seconds: np.ndarray
    true: np.ndarray
    published: np.ndarray
    std: np.ndarray
    observed: np.ndarray
    abs_rel: np.ndarray
    network_abs_rel: np.ndarray
    milliseconds: float

    @property
    def deviations(self) -> np.ndarray:  # -> [N]
        """Of the published scale from the true one, in stated standard deviations."""
        return scale_deviations(self.true, self.published, self.std)

    @property
    def errors(self) -> np.ndarray:  # -> [N]
        """Of the published scale, as a share of the true one."""
        return np.abs(self.published / self.true - 1)

    def numbers(self) -> dict[str, Any]:
        """The worst of the run; `*_at` is in seconds, None where it is too short for an error."""
        settled = np.flatnonzero(self.seconds >= SETTLED)
        worst = settled[np.argmax(self.errors[settled])] if len(settled) else None
        least_honest = int(np.argmax(self.deviations))
        return {
            'name': self.name,
            'frames': len(self.true),
            'observed': float(np.mean(self.observed)),
            **scale_metrics(self.true, self.published, self.std),
            'scale_worst_std_at': float(self.seconds[least_honest]),
            'worst_error': None if worst is None else float(self.errors[worst]),
            'worst_error_at': None if worst is None else float(self.seconds[worst]),
            'abs_rel': float(np.mean(self.abs_rel)),
            'network_abs_rel': float(np.mean(self.network_abs_rel)),
            'abs_rel_loss': float(np.mean(self.abs_rel) - np.mean(self.network_abs_rel)),
            'ms': self.milliseconds,
        }


def scale_run(name: str, sequence: Iterable[Shown], steps: FindsScale | None = None) -> ScaleRun:
    """Find the scale of a sequence frame by frame, and compare it with the true one.

    Args:
        name: of the sequence.
        sequence: with poses, in order of time. Images of which too little is known go through it
            like all others, but are not judged.
        steps: fresh; by default those of a node with the default configuration.

    Raises:
        InputError: `no_truth` if no frame could be judged.
    """
    steps = steps or NodeSteps(SharpConfig())
    rows: list[tuple[float, ...]] = []
    milliseconds: list[float] = []
    start_ns, count_before = None, 0
    for shown in sequence:
        clock = Stopwatch()
        estimate, depth = steps.find(shown, clock)
        milliseconds.append(sum(clock.laps.values()))
        assert estimate is not None
        start_ns = shown.frame.stamp_ns if start_ns is None else start_ns
        # consistency compares a frame with earlier ones, and observes no metric scale
        count = sum(n for name, n in estimate.sources.items() if not name.startswith(CONSISTENCY))
        observed, count_before = count != count_before, count
        ratios, as_predicted = _ratios(shown.truth, depth), _ratios(shown.truth, shown.predicted)
        if len(ratios) >= MIN_PIXELS:
            rows.append(
                (
                    (shown.frame.stamp_ns - start_ns) * 1e-9,
                    float(np.median(ratios)),
                    estimate.value,
                    math.sqrt(estimate.log_variance),
                    observed,
                    float(np.mean(np.abs(estimate.value / ratios - 1))),
                    float(np.mean(np.abs(1 / as_predicted - 1))),
                )
            )
    if not rows:
        raise InputError(f'{name}: no frame has enough true depth to compare with', 'no_truth')
    seconds, true, published, std, observed, abs_rel, network_abs_rel = np.array(rows).T
    return ScaleRun(
        name,
        seconds,
        true,
        published,
        std,
        observed.astype(bool),
        abs_rel,
        network_abs_rel,
        float(np.mean(milliseconds)),
    )


def _ratios(truth: np.ndarray, depth: np.ndarray) -> np.ndarray:  # -> [N]
    """Of the pixels that have both: true, which is `THINNED`, over other depth [H, W]."""
    other = depth[THINNED]
    both = (truth >= MIN_TRUTH) & (truth <= MAX_TRUTH) & (other > 0) & (other < np.inf)
    return truth[both].astype(np.float64) / other[both]


def hand_held_runs(
    seeds: Iterable[int], cache: Path | None = None, duration: float = DURATION
) -> Iterator[tuple[ScaleRun, dict[str, Any]]]:
    """One run per seed of `HandHeld`, with its conditions.

    Args:
        seeds: of the sequences.
        cache: folder of rendered sequences, see `HandHeld.cached_frames`; None: none.
        duration: seconds of each.
    """
    for seed in seeds:
        held = HandHeld(seed, duration)
        sequence = held.frames() if cache is None else held.cached_frames(cache)
        yield scale_run(f'seed {seed}', sequence), asdict(held.conditions)


def recorded_runs(
    recording: Sequence[Shown], stride: int = STRIDE
) -> Iterator[tuple[ScaleRun, dict[str, Any]]]:
    """A recording from every start on, as a node that is switched on then.

    Args:
        recording: all of it, see `predicted_recording`.
        stride: frames from start to start; the last leaves `_LEAST_SECONDS`.
    """
    last_ns = recording[-1].frame.stamp_ns - _LEAST_SECONDS * 1e9
    for start in range(0, len(recording), stride):
        if start == 0 or recording[start].frame.stamp_ns <= last_ns:
            yield scale_run(f'from frame {start}', recording[start:]), {'start': start}


def predicted_recording(frames: Iterable[Frame], engine: Engine) -> list[Shown]:
    """Frames with poses and what a network says of them, which is asked once for each.

    Args:
        frames: with true depth where that is known; those without a pose are left out.
        engine: ready to predict.

    Raises:
        InputError: `no_truth` if no frame has a pose.
    """
    shown = []
    for frame in frames:
        if frame.T_world_camera is None:
            continue
        gaussians = engine.predict(frame.image, frame.intrinsics, covariances=False)
        predicted = depth_from_gaussians(
            gaussians, frame.intrinsics.width, frame.intrinsics.height
        )
        truth = np.zeros_like(predicted) if frame.depth is None else frame.depth
        plain = replace(frame, world_frame='odom', depth=None, unseen=None)
        log_std = gaussians.front_log_std
        scale_std = gaussians.log_scale_std
        shown.append(Shown(plain, predicted, truth[THINNED].copy(), log_std, scale_std))
    if not shown:
        raise InputError(
            'the source has no poses; give synthetic, or an RGB-D folder with depth.txt and '
            'groundtruth.txt',
            'no_truth',
        )
    return shown


class Counted(Protocol):
    """Who counts what takes time while it goes by, and shows it."""

    def __call__(self, items: Iterable[_Item], name: str, /) -> Iterable[_Item]: ...  # noqa: D102


def evaluate_scale(
    source: str | Source,
    model: ModelConfig,
    watched: Counted,
    *,
    seeds: Sequence[int] = (),
    stride: int = STRIDE,
    most: int | None = None,
    cache: Path | None = None,
) -> tuple[dict[str, Any], ModelInfo, str]:
    """Judge the scale over hand-held sequences, or over all starts of a recording.

    Args:
        source: `synthetic` for hand-held sequences, else of `open_source`, or what
            that gave.
        model: what predicts the depth of a recording.
        watched: applied to what takes time, with its name, to count it.
        seeds: of the hand-held sequences.
        stride: see `recorded_runs`.
        most: frames of a recording.
        cache: see `hand_held_runs`.

    Returns:
        `summary` (see there) and `runs` (`ScaleRun.numbers` with the conditions of each); what
        was run, and what the source had to assume.

    Raises:
        ConfigError: for unknown models and devices, or a stride below 1.
        InputError: if the source cannot be used, or has neither poses nor true depth.
    """
    if stride < 1:
        raise ConfigError(f'--stride must be at least 1, got {stride}')
    note = ''
    if source == 'synthetic':
        info = _SIMULATED
        runs = list(watched(hand_held_runs(seeds, cache), 'sequences'))
    else:
        opened = open_source(source, level=False) if isinstance(source, str) else source
        predictor, info = load_predictor(model.name, choose_device(model.device))
        note = opened.note
        frames = watched(islice(opened.frames(), most), 'frames')
        recording = predicted_recording(frames, Engine(predictor, model))
        runs = list(watched(recorded_runs(recording, stride), 'starts'))
    report = {
        'summary': summary([run for run, _ in runs]),
        'runs': [_rounded({**run.numbers(), **conditions}) for run, conditions in runs],
    }
    return report, info, note


_SIMULATED = ModelInfo(
    'simulated',
    'true depth with a factor, another one for every frame, and smooth errors by place, in place '
    'of a network',
    'Apache-2.0',
    metric=True,
)


def summary(runs: Sequence[ScaleRun]) -> dict[str, Any]:
    """All frames of all runs as one, and the runs that are worst.

    Returns:
        `runs` and `frames`; `scale_coverage_2std` over all frames, `scale_worst_std`;
        `worst_error` after `SETTLED` seconds, as a share; `worst_abs_rel_loss`, how much larger
        AbsRel is as published than as predicted, and `runs_beyond_loss`, of how many runs that
        loss is beyond `ALLOWED_LOSS`; `observed`, the share of frames in which metric scale was
        observed; `ms` of all steps but the network per frame; and `worst`, by the name of a number
        the runs in which it is worst (`name`, `value`, `at` in seconds), worst first.
    """
    rows = [run.numbers() for run in runs]
    joined = (np.concatenate([getattr(r, k) for r in runs]) for k in ('true', 'published', 'std'))
    errors = [row['worst_error'] for row in rows if row['worst_error'] is not None]
    losses = [row['abs_rel_loss'] for row in rows]
    keys = {
        'worst_error': 'worst_error_at',
        'scale_worst_std': 'scale_worst_std_at',
        'abs_rel_loss': None,
        'scale_coverage_2std': None,
    }
    worst = {}
    for key, at in keys.items():
        sign = 1 if key == 'scale_coverage_2std' else -1
        known = [row for row in rows if row[key] is not None]
        ordered = sorted(known, key=lambda row, key=key, sign=sign: sign * row[key])
        worst[key] = [
            _rounded({'name': row['name'], 'value': row[key], **({'at': row[at]} if at else {})})
            for row in ordered[:_WORST]
        ]
    return {
        'runs': len(runs),
        'frames': sum(row['frames'] for row in rows),
        **_rounded(
            {
                'observed': float(np.mean(np.concatenate([run.observed for run in runs]))),
                **scale_metrics(*joined),
                'worst_error': max(errors, default=None),
                'worst_abs_rel_loss': max(losses),
                'ms': float(np.mean([run.milliseconds for run in runs])),
            }
        ),
        'runs_beyond_loss': sum(loss > ALLOWED_LOSS for loss in losses),
        'worst': worst,
    }


def _rounded(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in numbers.items()}
