"""A recording mapped: what became of its frames, what the map holds, how it looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
import threading
import time
from typing import Any

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.evaluation.metrics import fitted, trajectory_metrics
from sharp_ros.frame_result import FrameResult, MAP_POINTS
from sharp_ros.mapping.map_files import MapState
from sharp_ros.mapping.occupancy import OccupancyGrid2D
from sharp_ros.mapping.world_map import WorldMap
from sharp_ros.pictures.depth import colour_depth, depth_range
from sharp_ros.pictures.drawing import tile_pictures
from sharp_ros.pictures.maps import draw_map, draw_surface, draw_trajectory, Trajectory
from sharp_ros.pipeline import Pipeline

FIRST_FRAMES = 10  # searched for a pose, to decide who places the camera
_TILE = (640, 480)  # width, height of one picture of the overview


@dataclass
class Tally:
    """What became of the frames of a source.

    Attributes:
        visual: placed by visual odometry rather than by the poses of the source.
        frames: taken from the source.
        placed: of these, with a pose, and so in the map.
        unusable: how many could not be used, by reason.
        example: what was said about one of them.
        truth: recorded poses [4, 4] by stamp, where visual odometry placed the camera.
        newest: result of the last frame that was placed.
        voxels: occupied ones, as last counted.
        seconds: it took, but for the first start of everything.
        surveyed: frames in which the floor was looked for, before any was mapped.
        interrupted: by Ctrl-C.
        broken: why the source ended before its time.
    """

    visual: bool = False
    frames: int = 0
    placed: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    example: str = ''
    truth: dict[int, np.ndarray] = field(default_factory=dict)
    newest: FrameResult | None = None
    voxels: int = 0
    seconds: float = 0.0
    surveyed: int = 0
    interrupted: bool = False
    broken: str = ''

    @property
    def lost(self) -> int:
        """Frames that could be used, but whose pose is not known."""
        return self.frames - self.placed - sum(self.unusable.values())

    def note(self, result: FrameResult) -> None:
        """Count a frame that went through the pipeline."""
        if result.unmapped is not None:
            self.refuse(result.unmapped)
        elif result.frame.T_world_camera is not None:
            self.placed += 1
            self.newest = result
        if result.map_points is not None:
            self.voxels = len(result.map_points)

    def refuse(self, error: InputError | PoseUnavailableError) -> None:
        """Count a frame that could not be used, and keep what was said about it."""
        self.unusable[error.reason] += 1
        self.example = str(error)

    def why_nothing(self) -> str:
        """Why no frame was placed, and what to do."""
        refused = sum(self.unusable.values())
        if not self.frames:
            return 'the source delivered no frame; give another one'
        if self.frames == refused:
            return f'none of {self.frames} frames could be used; the last one: {self.example}'
        if not self.visual:
            return (
                f'none of {self.frames} frames has a pose; give --poses visual, or a recording '
                'with odometry (bag) or groundtruth.txt (RGB-D folder)'
            )
        if refused:
            return (
                f'none of {self.frames} frames was mapped: visual odometry found no pose for '
                f'{self.lost}, and {refused} could not be used; the last of these: {self.example}'
            )
        return (
            f'visual odometry found no pose for any of {self.frames} frames; it needs images with '
            'texture and depth: check --model and --hfov, or give a recording with poses'
        )

    @property
    def fps(self) -> float:
        """Frames in a second."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


def map_frames(
    frames: Iterator[Frame],
    pipeline: Pipeline,
    poses: str = 'auto',
    show: Callable[[Tally], None] = lambda tally: None,
    stop: threading.Event | None = None,
    again: Callable[[], Iterator[Frame]] | None = None,
) -> Tally:
    """Run all frames of a source through the pipeline, which then holds their map.

    Args:
        frames: in order of time.
        pipeline: started anew.
        poses: `source`, `visual` or `auto`; see the flag `--poses`.
        show: called after every frame.
        stop: ends the run after the frame at hand.
        again: the same frames from the start, of a recording: then visual odometry looks through
            all of them for the floor before the first is mapped. None: the map begins when the
            floor is found.

    Raises:
        InputError: of the source, if it breaks off before any frame was placed.
        PoseUnavailableError: `floor_not_found` in a recording that visual odometry has to place.
    """
    first = list(islice(frames, FIRST_FRAMES))
    recorded = any(frame.T_world_camera is not None for frame in first)
    tally = Tally(visual=poses == 'visual' or (poses == 'auto' and not recorded))
    if first:
        pipeline.warm_up(first[0].intrinsics)
    begin = time.perf_counter()

    def prepared(frame: Frame) -> Frame:
        if tally.visual and frame.T_world_camera is not None:
            tally.truth[frame.stamp_ns] = frame.T_world_camera
        return replace(
            frame,
            T_world_camera=None if tally.visual else frame.T_world_camera,
            world_frame=pipeline.config.pose.world_frame,
            depth=frame.depth if pipeline.info.needs_depth else None,
        )

    def stopped() -> bool:
        tally.interrupted = stop is not None and stop.is_set()
        return tally.interrupted

    def surveyed(frames: Iterator[Frame]) -> Iterator[Frame]:
        with suppress(InputError):  # of a source that breaks off: it will again
            for frame in frames:
                if stopped():
                    return
                yield prepared(frame)
                tally.surveyed += 1
                show(tally)

    if first and tally.visual and again is not None:
        try:
            pipeline.survey(surveyed(again()))
        except PoseUnavailableError:
            if not tally.interrupted:
                raise
        if tally.interrupted:
            return tally
        begin = time.perf_counter()
    try:
        for frame in chain(first, frames):
            tally.frames += 1
            try:
                # without visual odometry, what has no pose would take time for nothing
                if tally.visual or frame.T_world_camera is not None:
                    tally.note(pipeline.process(prepared(frame), {MAP_POINTS}))
                else:
                    pipeline.pass_over(frame.stamp_ns, 'no_pose')
            except InputError as error:
                tally.refuse(error)
            tally.seconds = time.perf_counter() - begin
            show(tally)
            if stopped():
                break
    except InputError as error:  # of the source: a camera unplugged, a bag cut short
        if not tally.placed:
            raise
        tally.broken = str(error)
    return tally


@dataclass(frozen=True)
class MapContents:
    """What a map holds, as its pictures and its report need it."""

    config: SharpConfig
    grid: OccupancyGrid2D
    voxels: int
    gaussians: int | None
    surface: tuple[np.ndarray, np.ndarray, np.ndarray] | None  # points, colours, normals
    stamps_ns: np.ndarray  # [N]
    path: np.ndarray  # [N, 4, 4]

    @classmethod
    def of(cls, state: MapState) -> MapContents:
        """Of a map as the pipeline gives it."""
        world = WorldMap.restored(state.config, state)
        return cls(
            state.config,
            world.grid(),
            len(world.points()),
            world.fused_count,
            world.surface(),
            state.path_stamps_ns,
            state.path,
        )

    @property
    def left_window(self) -> bool:
        """Whether the camera was where the grid, which rolls with it, does not reach any more."""
        rows, columns = self.grid.cells.shape
        cell = (self.path[:, :2, 3] - self.grid.origin) / self.grid.resolution
        return bool(((cell < 0) | (cell >= (columns, rows))).any())

    def true_path(self, tally: Tally) -> np.ndarray | None:  # -> [N, 4, 4]
        """Recorded poses in their own world, NaN where there is none, for visual odometry only."""
        unknown = np.full((4, 4), np.nan)
        truth = np.array([tally.truth.get(int(stamp), unknown) for stamp in self.stamps_ns])
        return truth if np.isfinite(truth).any() else None


def draw_pictures(contents: MapContents, tally: Tally, title: str) -> dict[str, np.ndarray]:
    """Pictures by file name."""
    truth = contents.true_path(tally)
    if truth is not None:
        truth = fitted(truth[:, :3, 3], contents.path[:, :3, 3])
    trajectory = Trajectory(contents.stamps_ns, contents.path, truth)
    plan, curves = draw_map(contents.grid, trajectory), draw_trajectory(trajectory, title)
    tiles = {'occupancy grid with the path of the camera': plan}
    if contents.surface is not None:
        spacing = contents.config.surface_map.voxel_size
        for side, oblique in (('above', False), ('the side', True)):
            picture = draw_surface(*contents.surface, spacing, trajectory, oblique=oblique)
            tiles[f'surface from {side}, ceiling cut off'] = picture
    if tally.newest is not None:
        depth = tally.newest.depth
        near, far = depth_range(depth)
        tiles['newest image'] = tally.newest.frame.image
        tiles[f'its depth, {near:.1f} m red to {far:.1f} m blue'] = colour_depth(depth, near, far)
    tiles['path from above, height over time'] = curves
    overview = tile_pictures(tiles, size=_TILE)
    return {'map.png': plan, 'overview.png': overview, 'trajectory.png': curves}


def map_numbers(tally: Tally, contents: MapContents) -> dict[str, Any]:
    """The numbers of the report."""
    steps = np.linalg.norm(np.diff(contents.path[:, :3, 3], axis=0), axis=1)
    truth, against_truth = contents.true_path(tally), {}
    if truth is not None:
        known = np.isfinite(truth).all((1, 2))
        if np.count_nonzero(known) > 2:
            against_truth = trajectory_metrics(
                contents.stamps_ns[known], contents.path[known], truth[known]
            )
            against_truth['true_path_length_m'] = against_truth.pop('path_length_m')
    return {
        'poses': 'visual' if tally.visual else 'source',
        'frames': tally.frames,
        'placed': tally.placed,
        'lost': tally.lost,
        'unusable': dict(tally.unusable),
        'path_length_m': round(float(steps.sum()), 3),
        **{name: value and round(value, 4) for name, value in against_truth.items()},
        'voxels': contents.voxels,
        'gaussians': contents.gaussians,
        'surface_points': None if contents.surface is None else len(contents.surface[0]),
        'seconds': round(tally.seconds, 2),
        'fps': round(tally.fps, 2),
        'interrupted': tally.interrupted,
        'broken': tally.broken,
    }


def title_of(measured: Mapping[str, Any]) -> str:
    """What is to be known of a path, in a line."""
    title = f'path {measured["path_length_m"]:.2f} m'
    if 'ate_rmse_m' in measured:
        title += f', ATE {measured["ate_rmse_m"]:.3f} m'
        if measured['ate_percent'] is not None:
            title += (
                f' ({measured["ate_percent"]:.1f} % of {measured["true_path_length_m"]:.2f} m)'
            )
    return title
