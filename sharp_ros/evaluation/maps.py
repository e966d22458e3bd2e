"""How true a map of one camera is: its path, its scale and its cells.

The pipeline runs frame by frame as in the node. Where it places the camera by itself, its world is
laid on the true one at the first pose alone, so that all that drifts later counts. Which cells
count, and what is true of them, `floor_plans` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
import math
import operator
from pathlib import Path
from typing import Any

import numpy as np

from sharp_ros import se3
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import (
    CameraConfig,
    ModelConfig,
    OccupancyConfig,
    ScaleConfig,
    SharpConfig,
)
from sharp_ros.engine import choose_device, Engine
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.evaluation.floor_plans import RecordedMap, RoomMap, TrueMap, Visibility
from sharp_ros.evaluation.mapped_recording import Tally
from sharp_ros.evaluation.metrics import depth_metrics, mean_metrics, trajectory_metrics
from sharp_ros.files import write_atomically
from sharp_ros.frame_result import OCCUPANCY
from sharp_ros.gaussians import Gaussians
from sharp_ros.mapping.occupancy import OccupancyGrid2D
from sharp_ros.models import load_predictor, ModelInfo
from sharp_ros.network.predictor import SensorPredictor
from sharp_ros.pictures.drawing import encode_picture, tile_pictures
from sharp_ros.pictures.maps import draw_map, draw_trajectory, Trajectory
from sharp_ros.pipeline import Pipeline
from sharp_ros.robot_body import RobotBody
from sharp_ros.sources import open_source, SyntheticSource
from sharp_ros.sources.base import LevelWorld, Source
from sharp_ros.synthetic.disturbance import disturbed

FRAME_SCALE = 0.15  # of disturbed depth, both ways
_ROOM_RATE_HZ = 5.0
_OFF_GRID = (0.0183, 0.0117, 0.0)  # metres; walls exactly between two cells would be in neither
_BETTER_IF_LARGE = ('occupancy_iou', 'delta1', 'delta1_median_scaled', 'coverage')
_DISTURBED = ModelInfo(
    'disturbed',
    f'true depth with noise, soft edges and a factor of its own within {FRAME_SCALE:.0%} for '
    'every frame, in place of a network',
    'Apache-2.0',
    metric=True,
)


class DisturbedPredictor:
    """Stands for a network: knows the true depth of the frames it is shown, but not well.

    Args:
        seed: of the noise.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._lift = SensorPredictor(stride=1)
        self._depth: np.ndarray | None = None

    def shown(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames; each must be predicted before the next one is asked for."""
        for frame in frames:
            self._depth = frame.depth
            yield frame

    def __call__(
        self, image: np.ndarray, intrinsics: Intrinsics, depth: np.ndarray | None = None
    ) -> Gaussians:
        """See `Predictor`; the depth that comes with the call is that of a sensor, and ignored."""
        assert self._depth is not None
        return self._lift(image, intrinsics, disturbed(self._depth, self._rng, FRAME_SCALE))


# --- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MapRun:
    """One recording, mapped.

    Attributes:
        numbers: as `evaluate_map` describes them.
        stamps_ns: [N] of the frames with a pose.
        estimate: [N, 4, 4] poses in the frame of the map.
        truth: [N, 4, 4] true poses in that frame, the worlds being laid on each other at the
            first one.
        grid: of the pipeline.
        true_grid: as far as known.
    """

    numbers: dict[str, float | None]
    stamps_ns: np.ndarray
    estimate: np.ndarray
    truth: np.ndarray
    grid: OccupancyGrid2D
    true_grid: OccupancyGrid2D


def evaluate_map(
    frames: Iterable[Frame],
    pipeline: Pipeline,
    true_map: TrueMap,
    *,
    visual: bool,
) -> MapRun:
    """Map a recording with true depth and poses, and compare.

    Args:
        frames: those without true depth or pose are left out.
        pipeline: fresh, with `map_config`; sensor models are given the true depth.
        true_map: of the world, z up with the floor at 0; a recording's world that is not level is
            made so, by the floor in its first depth image.
        visual: whether the pipeline has to find its poses; else it is given the true ones.

    Returns:
        Numbers: `frames`; with `visual` `frames_before_map`, while the floor was looked for and
        which count for nothing else, `lost_frames`, those of `trajectory_metrics`, `odometry_ms`
        (median), `level_ms` (mean), and how wrong the first pose in the map is about what is up
        and about its height over the floor, `level_error_deg` and `floor_error_m`;
        `occupancy_iou`, and `free_behind_walls` (cells) where the truth is closed; those of
        `mean_metrics` for the depth as published, over the frames after the first second.

    Raises:
        InputError: `no_truth` if nothing could be compared; `nothing_mapped` if no map began.
    """
    visibility = Visibility(pipeline.config.occupancy)
    T_map_world = None if visual else se3.transform(np.eye(3), np.array(_OFF_GRID))
    stamps: list[int] = []
    poses: list[tuple[np.ndarray, np.ndarray]] = []  # estimated and true, where there is one
    rows: list[tuple[int, dict[str, float]]] = []  # of the depth, by stamp
    odometry_ms: list[float] = []
    level_ms: list[float] = []
    tally = Tally(visual)
    unmapped = 0  # frames before the map began
    grid = None
    world = None if true_map.closed else LevelWorld()
    for frame, depth, T_world_camera in _with_truth(frames, world):
        placed = None if visual else T_map_world @ T_world_camera
        sensed = depth if pipeline.info.needs_depth else None
        camera, stamp_ns = frame.intrinsics, frame.stamp_ns
        result = pipeline.process(
            replace(frame, T_world_camera=placed, world_frame='odom', depth=sensed, unseen=None),
            {OCCUPANCY},
        )
        tally.frames += 1
        tally.note(result)
        odometry_ms.append(result.timings_ms['odometry'])
        level_ms.append(result.timings_ms['level'])
        try:
            rows.append((stamp_ns, depth_metrics(result.depth, depth)))
        except InputError as error:
            if error.reason != 'no_truth':
                raise
        pose = result.frame.T_world_camera
        if T_map_world is None:
            if pose is None or not result.mapped:
                unmapped += 1
                continue
            T_map_world = _laid_on(pose, T_world_camera)
        true_pose = T_map_world @ T_world_camera
        visibility.add(depth, camera, true_pose)
        true_map.add(depth, camera, true_pose)
        if pose is not None:
            stamps.append(stamp_ns)
            poses.append((pose, true_pose))
            grid = result.grid or grid
    if tally.frames and not tally.placed:
        raise InputError(tally.why_nothing(), 'nothing_mapped')
    if grid is None or T_map_world is None or not rows:
        raise InputError(
            'nothing could be mapped and compared; give synthetic, or an RGB-D folder with '
            'depth.txt and groundtruth.txt',
            'no_truth',
        )
    stamps_ns = np.array(stamps)
    estimate, truth = np.array(poses).swapaxes(0, 1)
    true_grid = true_map.grid(grid, T_map_world)
    iou, behind = visibility.compare(grid, true_grid)
    settled = [row for stamp_ns, row in rows if stamp_ns - rows[0][0] >= 1_000_000_000]
    numbers: dict[str, float | None] = {'frames': len(odometry_ms)}
    if visual:
        numbers['frames_before_map'] = unmapped
        numbers['lost_frames'] = len(odometry_ms) - unmapped - len(poses)
        numbers.update(trajectory_metrics(stamps_ns, estimate, truth))
        numbers['odometry_ms'] = float(np.median(odometry_ms))
        numbers['level_ms'] = float(np.mean(level_ms))
        up = min(float(estimate[0, 2, :3] @ truth[0, 2, :3]), 1.0)
        numbers['level_error_deg'] = math.degrees(math.acos(up))
        numbers['floor_error_m'] = abs(float(estimate[0, 2, 3] - truth[0, 2, 3]))
    numbers['occupancy_iou'] = iou
    if true_map.closed:
        numbers['free_behind_walls'] = behind
    numbers.update(mean_metrics(settled or [row for _, row in rows]))
    return MapRun(numbers, stamps_ns, estimate, truth, grid, true_grid)


def _with_truth(
    frames: Iterable[Frame], world: LevelWorld | None
) -> Iterator[tuple[Frame, np.ndarray, np.ndarray]]:
    """Frames that have them with their true depth and pose, in a level world if one is given."""
    for frame in frames:
        if frame.depth is not None:
            pose = world.pose(frame) if world else frame.T_world_camera
            if pose is not None:
                yield frame, frame.depth, pose


def _laid_on(T_map_camera: np.ndarray, T_world_camera: np.ndarray) -> np.ndarray:
    """`T_map_world` of two level worlds, floor on floor, so that a camera is where it is.

    How wrong the pipeline is about the floor and about up shows in the map, as it would in use.
    """
    turn = (T_map_camera @ se3.inverse(T_world_camera))[:3, :3]
    yaw = math.atan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1])
    c, s = math.cos(yaw), math.sin(yaw)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    shift = T_map_camera[:3, 3] - rotation @ T_world_camera[:3, 3]
    return se3.transform(rotation, np.array([*shift[:2], 0.0]))


def map_config(camera_height: float = 0.0, mask: str = '') -> SharpConfig:
    """The defaults, but a grid after every frame.

    Args:
        camera_height: over the floor, metres; 0: unknown to the pipeline.
        mask: of the robot itself, as `camera.mask`.
    """
    return SharpConfig(
        camera=CameraConfig(mask=mask),
        occupancy=OccupancyConfig(rate_hz=1e3),
        scale=ScaleConfig(camera_height=camera_height),
        views={},
    )


def evaluate_maps(
    source: str | Source,
    model: ModelConfig,
    watched: Callable[[Iterable[Frame]], Iterable[Frame]],
    *,
    depth: str = 'model',
    visual: bool = True,
    camera_height: float = 0.0,
    mask: str = '',
    seeds: int | None = None,
    pictures: Path | None = None,
) -> tuple[dict[str, Any], ModelInfo, str]:
    """Map a recording, or simulated rooms, each once around.

    Args:
        source: of `open_source`, or what that gave.
        model: what predicts the depth, if `depth` says so.
        watched: applied to the frames, to count or to limit them.
        depth: `model`; `true`: that of the source, in every pixel; `disturbed`: see
            `DisturbedPredictor`.
        visual: see `evaluate_map`.
        camera_height: see `map_config`.
        mask: of the robot itself, likewise; what is true there does not count either.
        seeds: how many rooms, seeds 0, 1, ...; by default one. For `synthetic` only.
        pictures: folder to save one picture per run to, or None.

    Returns:
        `poses`, `depth`, `camera_height`, `truth`, `runs` (`name` and the numbers of
        `evaluate_map`) and `summary` (`mean`, `median` and `worst` of each number over the runs
        that have it); what was run, and what the source had to assume.

    Raises:
        ConfigError: for unknown models and devices, or seeds of what has none.
        InputError: see `evaluate_map`.
    """
    rooms = source == 'synthetic'
    if seeds is not None and (seeds < 1 or not rooms):
        raise ConfigError(
            f'--seeds {seeds}: give the number of rooms of synthetic; recordings have none'
        )
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    config, note = map_config(camera_height, mask), ''
    body = RobotBody(config)
    predictor, info = None, _DISTURBED
    if depth != 'disturbed':
        name = 'sensor' if depth == 'true' else model.name
        predictor, info = load_predictor(name, choose_device(model.device))
    runs: list[tuple[str, MapRun]] = []
    for seed in range(seeds or 1):
        opened = (
            SyntheticSource(rate_hz=_ROOM_RATE_HZ, seed=seed)
            if rooms
            else open_source(source, level=False)
            if isinstance(source, str)
            else source
        )
        true_map: TrueMap = RecordedMap(config.occupancy)
        if isinstance(opened, SyntheticSource):
            true_map = RoomMap(opened.room, config.occupancy)
        frames = map(body.hidden, watched(opened.frames()))
        chosen = predictor
        if chosen is None:
            chosen = DisturbedPredictor(seed)
            frames = chosen.shown(frames)
        pipeline = Pipeline(Engine(chosen, model), info, config)
        run = evaluate_map(frames, pipeline, true_map, visual=visual)
        name = f'room {seed}' if rooms else Path(opened.name).name
        runs.append((name, run))
        note = opened.note
        if pictures is not None:
            write_atomically(pictures / f'{name.replace(" ", "_")}.png', map_picture(name, run))
    report = {
        'poses': 'visual' if visual else 'source',
        'depth': depth,
        'camera_height': camera_height or None,
        'truth': 'exact floor plan' if rooms else 'floor plan from measured depth and poses',
        'runs': [{'name': name, **_rounded(run.numbers)} for name, run in runs],
        'summary': summary([run.numbers for _, run in runs]),
    }
    return report, info, note


def summary(runs: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """`mean`, `median` and `worst` of each number over the runs that have it.

    The worst is the largest, the smallest of `_BETTER_IF_LARGE`, of `scale_median` the one that is
    farthest from 1.
    """
    result = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        known = [value for value in values if value is not None]
        if not known:
            result[name] = dict.fromkeys(('mean', 'median', 'worst'))
            continue
        badness: Callable[[float], float] = float
        if name in _BETTER_IF_LARGE:
            badness = operator.neg
        elif name == 'scale_median':
            badness = _off_one
        numbers = {
            'mean': float(np.mean(known)),
            'median': float(np.median(known)),
            'worst': max(known, key=badness),
        }
        result[name] = _rounded(numbers)
    return result


def _off_one(scale: float) -> float:
    return abs(math.log(scale))


def _rounded(numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if v is None else round(v, 4) for name, v in numbers.items()}


# --- pictures ------------------------------------------------------------------------------------


def map_picture(name: str, run: MapRun) -> bytes:
    """PNG of the grid beside the true one, each with its path, and of both paths."""
    found = Trajectory(run.stamps_ns, run.estimate)
    true = Trajectory(run.stamps_ns, run.truth)
    both = replace(found, truth=run.truth[:, :3, 3])
    tiles = {
        f'{name}: map': draw_map(run.grid, found),
        'truth': draw_map(run.true_grid, true),
        'paths': draw_trajectory(both, 'from the same first pose on'),
    }
    return encode_picture(tile_pictures(tiles, size=(960, 720)))
