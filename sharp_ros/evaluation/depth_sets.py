"""A depth model over many small sets: the geometric mean over them, and the worst one.

One set says how a model does in one place; chosen by it alone, a model learns that place. Sets
count alike however many frames they have, and a set that is twice as bad weighs as much as one
that is twice as good. Every frame is judged on its own, by the network alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import math
from typing import Any, NamedTuple

import cv2
import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.engine import Engine
from sharp_ros.errors import InputError
from sharp_ros.evaluation.depth import load_training_mean, shares_within, training_mean_depth
from sharp_ros.evaluation.metrics import depth_metrics, mean_metrics
from sharp_ros.network.fine_detail import softened
from sharp_ros.network.nano_arrays import nano_inputs, PIXELS
from sharp_ros.point_cloud import depth_from_gaussians

LEAST_ERROR = 1e-4  # AbsRel that counts in a geometric mean, where truth is predicted
BASELINES = ('constant', 'training_mean')


class Seen(NamedTuple):
    """What a model says of one image."""

    depth: np.ndarray  # [H, W] metres; NaN: nothing said, inf: nothing there
    log_std: np.ndarray | None  # [H, W] standard deviation of the log of the depth


Look = Callable[[Frame], Seen]


def looking(engine: Engine) -> Look:
    """The network of an engine, given image and intrinsics (sensor models: the truth, too)."""

    def look(frame: Frame) -> Seen:
        k = frame.intrinsics
        gaussians = engine.predict(frame.image, k, frame.depth, covariances=False)
        depth, log_std = depth_from_gaussians(gaussians, k.width, k.height), None
        if gaussians.log_depth_std is not None and gaussians.grid is not None:
            cells = gaussians.log_depth_std.reshape(gaussians.grid)[0].numpy()
            log_std = cv2.resize(cells, (k.width, k.height), interpolation=cv2.INTER_LINEAR)
            if gaussians.log_scale_std is not None:
                log_std = np.hypot(log_std, np.float32(gaussians.log_scale_std))
        return Seen(depth, log_std)

    return look


def second_look(look: Look) -> Look:
    """A model whose metres are those of a second look, at the softened image; see `fine_detail`.

    The shape stays as it is, and the deviation grows by as much as the two disagree.
    """

    def twice(frame: Frame) -> Seen:
        first, k = look(frame), frame.intrinsics
        small = nano_inputs(frame.image, k, None, PIXELS)[0]
        soft = softened(small)
        if soft is small:
            return first
        rows, columns = small.shape[:2]
        seen = look(Frame(soft, k.resized(columns, rows), frame.stamp_ns, frame.frame_id))
        before = cv2.resize(first.depth, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
        with np.errstate(invalid='ignore', divide='ignore'):
            ratios = np.log(seen.depth / before)
        ratios = ratios[np.isfinite(ratios)]
        log_factor = float(np.median(ratios)) if len(ratios) else 0.0
        log_std = None if first.log_std is None else np.hypot(first.log_std, log_factor)
        return Seen(first.depth * np.float32(math.exp(log_factor)), log_std)

    return twice


def judge_set(frames: Iterable[Frame], look: Look) -> dict[str, Any]:
    """Errors of a model on one set, and of what needs no network.

    Args:
        frames: those without depth, or with too little of it, are left out.
        look: the model.

    Returns:
        `frames`, the means of `mean_metrics`, and the same of each of `BASELINES`; of models that
        state a deviation `within_1std` and `within_2std`, the shares of the pixels that lie so
        many stated deviations from the truth at most (means over frames).

    Raises:
        InputError: `no_truth` if no frame could be compared.
    """
    mean_log_depth, median_depth = load_training_mean()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ('model', *BASELINES)}
    within: list[tuple[float, float]] = []
    for frame in frames:
        truth = frame.depth
        if truth is None:
            continue
        depth, log_std = look(frame)
        try:
            rows['model'].append(depth_metrics(depth, truth))
        except InputError as error:
            if error.reason != 'no_truth':
                raise
            continue
        constant = np.full(truth.shape, median_depth, np.float32)
        rows['constant'].append(depth_metrics(constant, truth))
        mean = training_mean_depth(mean_log_depth, frame.intrinsics)
        rows['training_mean'].append(depth_metrics(mean, truth))
        if log_std is not None:
            within.append(shares_within(depth, truth, log_std))
    if not rows['model']:
        raise InputError('none of the frames has true depth to compare with', 'no_truth')
    judged: dict[str, Any] = {'frames': len(rows['model']), **mean_metrics(rows['model'])}
    if within:
        judged['within_1std'], judged['within_2std'] = map(float, np.mean(within, 0))
    return {**judged, **{name: mean_metrics(rows[name]) for name in BASELINES}}


def over_sets(judged: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What counts of several sets.

    Args:
        judged: by name of the set, what `judge_set` found; at least one.

    Returns:
        `sets`, how many; the geometric means over them of `abs_rel` and `abs_rel_median_scaled`;
        the largest AbsRel (`worst`) and whose it is (`worst_set`); `scale_std`, the standard
        deviation over sets of the logarithm of the median scale; `within_2std`, the least of any
        set, and whose (`within_2std_set`; both None where a model states no deviation); and
        the same but for the last two of each of `BASELINES`.
    """
    shares = {name: row['within_2std'] for name, row in judged.items() if 'within_2std' in row}
    least = min(shares, key=lambda name: shares[name]) if shares else None
    return {
        'sets': len(judged),
        **_errors_over(judged),
        'within_2std': None if least is None else shares[least],
        'within_2std_set': least,
        **{
            baseline: _errors_over({name: row[baseline] for name, row in judged.items()})
            for baseline in BASELINES
        },
    }


def _errors_over(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    worst = max(rows, key=lambda name: rows[name]['abs_rel'])
    means = {
        key: math.exp(np.mean([math.log(max(row[key], LEAST_ERROR)) for row in rows.values()]))
        for key in ('abs_rel', 'abs_rel_median_scaled')
    }
    return {
        **means,
        'worst': rows[worst]['abs_rel'],
        'worst_set': worst,
        'scale_std': float(np.std(np.log([row['scale_median'] for row in rows.values()]))),
    }
