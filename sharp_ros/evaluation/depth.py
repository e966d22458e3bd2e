"""How far predicted depth is from measured or exact depth, and from no network at all.

Pixels are compared at the resolution of the image, see `sharp_ros.evaluation.metrics`. Predictions
are taken before flying pixels are removed, so that a model cannot gain by staying silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sharp_ros.camera import FloorGeometry, Frame, Intrinsics, MIN_HEIGHT
from sharp_ros.config import CameraConfig, PointCloudConfig, SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.evaluation.metrics import (
    depth_metrics,
    mean_metrics,
    MIN_TRUTH,
    scale_metrics,
)
from sharp_ros.evaluation.view_pairs import motorcycle_pair
from sharp_ros.localization.gravity import level_from_depth
from sharp_ros.localization.scale_anchors import height_scale
from sharp_ros.models import ModelInfo
from sharp_ros.pipeline import Pipeline
from sharp_ros.point_cloud import depth_from_gaussians
from sharp_ros.robot_body import RobotBody
from sharp_ros.sources.base import CAMERA, LevelWorld

TRAINING_MEAN = Path(__file__).parents[1] / 'weights' / 'training_mean_depth.npz'
_AS_PREDICTED = PointCloudConfig(min_range=0.0, max_range=1e6, edge_ratio=0.0)
_FAR = 2.0  # times the constant: as far as an empty room goes
_PATIENCE = 30  # frames without any depth after which a source is taken to have none


def evaluate_depth(
    frames: Iterable[Frame], engine: Engine, info: ModelInfo | None = None, mask: str = ''
) -> dict[str, Any]:
    """Run a model over frames with true depth, and the baselines next to it.

    Args:
        frames: those without depth, or with too little of it, are counted and left out.
        engine: ready to predict; sensor models are given the truth as their measurement.
        info: of the model, to judge besides, where poses are known, the depth times the scale
            that the pipeline finds (`published` of the result), and that corrected by motion as
            the node publishes it (`refined`). Frames without true depth teach both, too. Not for
            sensor models.
        mask: of the robot itself, as `camera.mask`; nothing there is predicted or true.

    Returns:
        `frames`, `frames_without_truth`, the means of the metrics, `coverage`, `scale_median`,
        `scale_std` (of the logarithm over frames), `latency_ms` (`p50`, `p95` of
        `Engine.predict`), and with the same keys `with_geometry`, which is given gravity and the
        height of the camera and multiplied so that the floor lies there, if one is clearly seen,
        and `baselines`, of which that of the floor is given the same. With `refined` come
        `scale_coverage_2std` and `scale_worst_std` of `scale_metrics`, over the same frames, and
        `std_coverage_1std` and `std_coverage_2std`: share of its pixels that lie so many stated
        standard deviations from the truth at most.

    Raises:
        InputError: `no_truth` if no frame could be compared; `bad_mask`.
        ConfigError: if the mask cannot be read.
    """
    config = SharpConfig(point_cloud=_AS_PREDICTED, camera=CameraConfig(mask=mask), views={})
    body = RobotBody(config)
    model, published, refined, informed, constant, mean, floor = (_Tally() for _ in range(7))
    within: list[tuple[float, float]] = []  # shares of the pixels of a frame
    scales: list[tuple[float, float, float]] = []  # true, published, its stated deviation
    level = LevelWorld(guess=False)
    pipeline = None
    if info is not None and not info.needs_depth:
        pipeline = Pipeline(engine, info, config)
        pipeline.take_any_image()  # every frame counts
    mean_log_depth, median_depth = load_training_mean()
    latencies: list[float] = []
    without_truth = 0
    for frame in map(body.hidden, frames):
        k = frame.intrinsics
        if frame.depth is None:
            without_truth += 1
            if without_truth == _PATIENCE and not model:
                break
            if pipeline is not None and frame.T_world_camera is not None:
                pipeline.process(_without_truth(frame), set())
            continue
        if not latencies:
            engine.warm_up(k)
        result = scaled = predicted = None
        if pipeline is not None and frame.T_world_camera is not None:
            result = pipeline.process(_without_truth(frame), set())
            assert result.scale is not None
            scaled = result.depth
            if result.refinement is not None:
                scaled = scaled / result.refinement.factors(scaled.shape)
            if result.gaussians is not None:
                predicted = scaled / np.float32(result.scale.value)
        if predicted is None:  # the node would not have asked the network
            gaussians = engine.predict(frame.image, k, frame.depth, covariances=False)
            predicted = depth_from_gaussians(gaussians, k.width, k.height)
        latencies.append(engine.last_ms)
        try:
            model.add(predicted, frame.depth)
        except InputError as error:
            if error.reason != 'no_truth':
                raise
            without_truth += 1
            continue
        if result is not None and result.scale is not None and scaled is not None:
            published.add(scaled, frame.depth)
            value, std = result.scale.value, math.sqrt(result.scale.log_variance)
            true_scale = value * refined.add(result.depth, frame.depth)['scale']
            scales.append((true_scale, value, std))
            log_std = result.log_std_image()
            if log_std is not None:
                within.append(shares_within(result.depth, frame.depth, log_std))
        constant.add(np.full(frame.depth.shape, median_depth, np.float32), frame.depth)
        mean.add(training_mean_depth(mean_log_depth, k), frame.depth)
        if frame.T_world_camera is None:  # judged by its own depth
            T_level_camera = level_from_depth(frame.depth, k)
        else:
            T_level_camera = level.pose(frame)
        if T_level_camera is None:
            continue
        floor.add(floor_depth(k, T_level_camera, _FAR * median_depth), frame.depth)
        up, height = T_level_camera[2, :3], float(T_level_camera[2, 3])
        if height >= MIN_HEIGHT:
            if engine.uses_geometry:
                gaussians = engine.predict(
                    frame.image,
                    k,
                    frame.depth,
                    covariances=False,
                    geometry=FloorGeometry(up, height),
                )
                predicted = depth_from_gaussians(gaussians, k.width, k.height)
            found = height_scale(predicted, k, height, up)
            factor = 1.0 if found is None else math.exp(found.log_scale)
            informed.add(predicted * np.float32(factor), frame.depth)
    if not model:
        raise InputError(
            'the source has no true depth to compare with; give an RGB-D folder (rgb.txt, '
            'depth.txt), a bag with registered depth, synthetic or motorcycle',
            'no_truth',
        )
    return {
        'frames': len(model),
        'frames_without_truth': without_truth,
        **model.summary(),
        **({'published': published.summary(), 'refined': refined.summary()} if refined else {}),
        **(_honesty(scales, within) if refined else {}),
        **({'with_geometry': informed.summary()} if informed else {}),
        'latency_ms': {
            'p50': round(float(np.percentile(latencies, 50)), 2),
            'p95': round(float(np.percentile(latencies, 95)), 2),
        },
        'baselines': {
            'constant': {'depth': round(median_depth, 4), **constant.summary()},
            'training_mean': mean.summary(),
            **({'floor_plane': floor.summary()} if floor else {}),
        },
    }


def _without_truth(frame: Frame) -> Frame:
    """As a node with one camera gets it."""
    return replace(frame, world_frame='world', depth=None, unseen=None)


def shares_within(
    depth: np.ndarray, truth: np.ndarray, log_std: np.ndarray
) -> tuple[float, float]:
    """Shares of pixels within one and two standard deviations [H, W] of the truth."""
    known = (truth >= MIN_TRUTH) & np.isfinite(truth) & np.isfinite(depth) & (depth > 0)
    deviations = np.abs(np.log(depth[known] / truth[known])) / log_std[known]
    return float(np.mean(deviations < 1)), float(np.mean(deviations < 2))


def _honesty(
    scales: Sequence[tuple[float, float, float]], within: Sequence[tuple[float, float]]
) -> dict[str, float]:
    found = scale_metrics(*np.array(scales).T)
    if within:
        one, two = np.mean(within, 0)
        found = {**found, 'std_coverage_1std': one, 'std_coverage_2std': two}
    return {name: round(float(value), 4) for name, value in found.items()}


def load_training_mean() -> tuple[np.ndarray, float]:
    """Mean log depth [24, 32] and median depth (metres) of the rooms nano was trained on.

    `scripts/training_mean.py` made the file.

    Raises:
        CheckpointError: if the file of the package is missing or damaged.
    """
    try:
        with np.load(TRAINING_MEAN) as file:
            return file['mean_log_depth'], float(file['median_depth'])
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f'cannot read {TRAINING_MEAN} ({error}); reinstall sharp_ros'
        ) from error


def training_mean_depth(mean_log_depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """The per-pixel training mean [H, W] in metres at the resolution of an image."""
    size = (intrinsics.width, intrinsics.height)
    return np.exp(cv2.resize(mean_log_depth, size, interpolation=cv2.INTER_LINEAR))


def floor_depth(
    intrinsics: Intrinsics, T_level_camera: np.ndarray, farthest: float
) -> np.ndarray:  # -> [H, W]
    """The depth of an empty floor, metres.

    Args:
        intrinsics: of the image.
        T_level_camera: [4, 4] pose in a world with z up and the floor at 0.
        farthest: metres, for where the floor is farther than that, or not in sight.
    """
    rays, up, height = intrinsics.rays(), T_level_camera[2, :3], float(T_level_camera[2, 3])
    rise = rays @ up[:2].astype(np.float32) + np.float32(up[2])
    least = max(height, MIN_TRUTH) / farthest  # of the fall of a ray, to be counted
    return (max(height, MIN_TRUTH) / np.maximum(-rise, least)).astype(np.float32)


def motorcycle_frames() -> Iterator[Frame]:
    """The left photograph of Middlebury's motorcycle with its depth, see `motorcycle_pair`.

    Raises:
        ConfigError: if scikit-image is not installed.
    """
    pair = motorcycle_pair()
    yield Frame(pair.image, pair.intrinsics, 0, CAMERA, depth=pair.depth)


class _Tally:
    """Metrics of frame after frame."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """The metrics of this frame."""
        self._rows.append(depth_metrics(prediction, truth))
        return self._rows[-1]

    def summary(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in mean_metrics(self._rows).items()}
