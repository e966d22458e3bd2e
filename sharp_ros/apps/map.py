"""`sharp-ros map`: a recording to a map on disk, by the same pipeline as the node runs."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import chain, islice
import json
import math
import os
from pathlib import Path
import sys
import threading
import time
from typing import Any, TYPE_CHECKING

import numpy as np

from sharp_ros.apps.interruption import EXIT_INTERRUPTED, interruptible
from sharp_ros.config import differences, flatten, from_flat, load_yaml, SharpConfig, VIEW_NAMES
from sharp_ros.errors import ConfigError, InputError, PoseUnavailableError
from sharp_ros.files import write_atomically

if TYPE_CHECKING:
    from sharp_ros.camera import Frame
    from sharp_ros.mapping.map_files import MapState
    from sharp_ros.mapping.occupancy import OccupancyGrid2D
    from sharp_ros.pipeline import FrameResult, Pipeline

_FIRST_FRAMES = 10  # searched for a pose, to decide who places the camera
_TILE = (640, 480)  # width, height of one picture of the overview


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros map`."""
    from sharp_ros.apps.predict import add_model_arguments

    parser.add_argument(
        'source',
        metavar='SOURCE',
        help='video, folder of images, RGB-D folder in TUM layout, ROS bag, synthetic, or a '
        'camera (its index or /dev/video*) until Ctrl-C',
    )
    parser.add_argument(
        '-o',
        '--output',
        type=Path,
        required=True,
        help='folder for the map and its pictures; must be empty or not exist',
    )
    add_model_arguments(parser)
    parser.set_defaults(model=None, device=None)  # so that those of --config count
    parser.add_argument(
        '--config', type=Path, metavar='FILE', help='settings, written as config/sharp.yaml is'
    )
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='one setting, such as scale.camera_height=1.1; may be repeated. The fused maps are '
        'on unless surface_map.enabled=false or gaussian_map.enabled=false is set here',
    )
    parser.add_argument(
        '--poses',
        default='auto',
        choices=('auto', 'source', 'visual'),
        help='source: those recorded, frames without one are left out; visual: own visual '
        'odometry, recorded ones are only compared with; auto: source, if one of the first '
        f'{_FIRST_FRAMES} frames has a pose, else visual (default: %(default)s)',
    )
    parser.add_argument('--max-frames', type=int, metavar='N', help='stop after so many')
    parser.add_argument(
        '--hfov', type=float, metavar='DEG', help='field of view of a source without calibration'
    )
    parser.add_argument('--image-topic', metavar='TOPIC', help='of a bag (default: the first)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the report there')


def run(args: argparse.Namespace) -> int:
    """Map a source; 130 if Ctrl-C ended it early, 1 if the source broke off, else 0.

    Raises:
        ConfigError: for settings that do not exist or cannot be, and outputs that cannot be
            written; nothing has been done then.
        InputError: if the source cannot be opened or none of its frames could be mapped.
    """
    _check(args)
    config = _configured(args)
    from rich.console import Console

    from sharp_ros.evaluation.circumstances import circumstances
    from sharp_ros.mapping.map_files import save_map
    from sharp_ros.pictures.drawing import encode_picture
    from sharp_ros.pipeline import Pipeline
    from sharp_ros.sources import open_source

    hfov = None if args.hfov is None else math.radians(args.hfov)
    source = open_source(args.source, hfov=hfov, image_topic=args.image_topic)
    console = Console()
    console.print(f'source: {source.name}, {source.note or "calibrated"}', markup=False)
    pipeline = Pipeline.from_config(config)
    kind = 'metric' if pipeline.info.metric else 'relative'
    about = f'model: {pipeline.info.name} ({kind} depth), weights: {pipeline.info.licence}'
    console.print(about, markup=False)
    frames = islice(source.frames(), args.max_frames)
    with interruptible() as stop, _progress(console, args.max_frames) as show:
        tally = map_frames(frames, pipeline, args.poses, show, stop)
    if not tally.placed:
        if tally.interrupted:
            raise KeyboardInterrupt
        raise InputError(_why_nothing(tally), 'nothing_mapped')
    if tally.interrupted:
        console.print('interrupted: writing what there is so far')
    state = pipeline.map_state()
    files = save_map(args.output, state)
    contents = _Contents.of(state)
    measured = _measured(tally, contents)
    for name, picture in _draw(contents, tally, _title(measured)).items():
        files.append(args.output / name)
        write_atomically(files[-1], encode_picture(picture))
    report = {
        'source': source.name,
        'note': source.note,
        'model': pipeline.info.name,
        'licence': pipeline.info.licence,
        'device': pipeline.device,
        'config': differences(config),
        **measured,
        'files': [file.name for file in files],
        **circumstances(),
    }
    if args.json is not None:
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')
    console.print(_table(report, args.output))
    for line in _warnings(tally, contents):
        print(f'warning: {line}', file=sys.stderr)
    if tally.interrupted:
        return EXIT_INTERRUPTED
    return 1 if tally.broken else 0


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
) -> Tally:
    """Run all frames of a source through the pipeline, which then holds their map.

    Args:
        frames: in order of time.
        pipeline: started anew.
        poses: `source`, `visual` or `auto`; see the flag `--poses`.
        show: called after every frame.
        stop: ends the run after the frame at hand.

    Raises:
        InputError: of the source, if it breaks off before any frame was placed.
    """
    from sharp_ros.pipeline import MAP_POINTS

    first = list(islice(frames, _FIRST_FRAMES))
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

    try:
        for frame in chain(first, frames):
            tally.frames += 1
            try:
                # without visual odometry, what has no pose would take time for nothing
                if tally.visual or frame.T_world_camera is not None:
                    tally.note(pipeline.process(prepared(frame), {MAP_POINTS}))
            except InputError as error:
                tally.refuse(error)
            tally.seconds = time.perf_counter() - begin
            show(tally)
            if stop is not None and stop.is_set():
                tally.interrupted = True
                break
    except InputError as error:  # of the source: a camera unplugged, a bag cut short
        if not tally.placed:
            raise
        tally.broken = str(error)
    return tally


@dataclass(frozen=True)
class _Contents:
    """What a map holds, as its pictures and its report need it."""

    config: SharpConfig
    grid: OccupancyGrid2D
    voxels: int
    gaussians: int | None
    surface: tuple[np.ndarray, np.ndarray, np.ndarray] | None  # points, colours, normals
    stamps_ns: np.ndarray  # [N]
    path: np.ndarray  # [N, 4, 4]

    @classmethod
    def of(cls, state: MapState) -> _Contents:
        from sharp_ros.mapping.gaussian_map import GaussianMap
        from sharp_ros.mapping.occupancy import OccupancyMap
        from sharp_ros.mapping.surface_map import SurfaceMap

        config = state.config
        occupancy, gaussians, surface = OccupancyMap(config.occupancy), None, None
        occupancy.restore(state.occupancy)
        if state.gaussians is not None:
            gaussians = GaussianMap(config.gaussian_map)
            gaussians.restore(state.gaussians)
        if state.surface is not None:
            surface = SurfaceMap(config.surface_map)
            surface.restore(state.surface)
        return cls(
            config,
            occupancy.grid(),
            len(occupancy.occupied_points()),
            None if gaussians is None else len(gaussians),
            None if surface is None else surface.point_cloud(),
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


def _draw(contents: _Contents, tally: Tally, title: str) -> dict[str, np.ndarray]:
    """Pictures by file name."""
    from sharp_ros.evaluation.metrics import fitted
    from sharp_ros.pictures.depth import colour_depth, depth_range
    from sharp_ros.pictures.drawing import tile_pictures
    from sharp_ros.pictures.maps import draw_map, draw_surface, draw_trajectory, Trajectory

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


def _measured(tally: Tally, contents: _Contents) -> dict[str, Any]:
    """The numbers of the report."""
    from sharp_ros.evaluation.metrics import trajectory_metrics

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


def _title(measured: Mapping[str, Any]) -> str:
    """What is to be known of a path, in a line."""
    title = f'path {measured["path_length_m"]:.2f} m'
    if 'ate_rmse_m' in measured:
        title += f', ATE {measured["ate_rmse_m"]:.3f} m'
        if measured['ate_percent'] is not None:
            title += (
                f' ({measured["ate_percent"]:.1f} % of {measured["true_path_length_m"]:.2f} m)'
            )
    return title


def _table(report: Mapping[str, Any], output: Path) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    unusable = sum(report['unusable'].values())
    rows = {
        'frames': f'{report["frames"]}: {report["placed"]} placed, {report["lost"]} lost, '
        f'{unusable} unusable',
        'poses': {'visual': 'visual odometry', 'source': 'of the source'}[report['poses']],
        'path': _title(report).removeprefix('path '),
        'occupied voxels': f'{report["voxels"]}',
        'Gaussians': '-' if report['gaussians'] is None else f'{report["gaussians"]}',
        'surface points': '-'
        if report['surface_points'] is None
        else str(report['surface_points']),
        'time': f'{report["seconds"]:.1f} s, {report["fps"]:.1f} frames a second',
        str(output): ' '.join(report['files']),
    }
    for name, text in rows.items():
        table.add_row(escape(name), text)
    return table


def _warnings(tally: Tally, contents: _Contents) -> Iterator[str]:
    if tally.broken:
        yield f'the source broke off, the map ends there: {tally.broken}'
    if tally.unusable:
        reasons = ', '.join(f'{name} {count}' for name, count in tally.unusable.items())
        yield f'frames that could not be used: {reasons}; the last one: {tally.example}'
    if tally.lost:
        why = 'visual odometry was lost' if tally.visual else 'the source has no pose'
        yield f'{why} for {tally.lost} of {tally.frames} frames, which are not in the map'
    if find_spec('open3d') is None:
        yield 'open3d is not installed, so there is no coloured surface: no cloud.ply, no mesh.ply'
    if contents.left_window:
        size = contents.config.occupancy.size
        yield (
            f'the path left the occupancy window of {size:g} m, and what it left is not in the '
            f'grid; give --set occupancy.size={2 * size:g}'
        )


def _why_nothing(tally: Tally) -> str:
    """Why no frame was placed, and what to do."""
    if not tally.frames:
        return 'the source delivered no frame; give another one'
    if tally.frames == sum(tally.unusable.values()):
        return f'none of {tally.frames} frames could be used; the last one: {tally.example}'
    if not tally.visual:
        return (
            f'none of {tally.frames} frames has a pose; give --poses visual, or a recording with '
            'odometry (bag) or groundtruth.txt (RGB-D folder)'
        )
    return (
        f'visual odometry found no pose for any of {tally.frames} frames; it needs images with '
        'texture and depth: check --model and --hfov, or give a recording with poses'
    )


def _configured(args: argparse.Namespace) -> SharpConfig:
    """The file, then what this command changes, then the flags."""
    import yaml

    values = flatten(load_yaml(args.config) if args.config else SharpConfig())
    values = {key: value for key, value in values.items() if not key.startswith('views.')}
    values |= {
        'surface_map.enabled': find_spec('open3d') is not None,
        'gaussian_map.enabled': True,
        VIEW_NAMES: [''],
    }
    flags = {'model.name': args.model, 'model.device': args.device}
    values |= {key: value for key, value in flags.items() if value is not None}
    for text in args.set:
        key, equals, value = text.partition('=')
        if not equals:
            raise ConfigError(f'--set needs KEY=VALUE, got {text!r}')
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f'--set {text}: the value cannot be read: {error}') from error
    return from_flat(values)


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything slow is done."""
    output: Path = args.output
    if args.max_frames is not None and args.max_frames < 1:
        raise ConfigError(f'--max-frames must be at least 1, got {args.max_frames}')
    if args.hfov is not None and not 0 < args.hfov < 180:
        raise ConfigError(f'--hfov must lie between 0 and 180 degrees, got {args.hfov:g}')
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f'{output} exists and is not an empty folder; choose another --output')
    for path in (output, *([args.json] if args.json else [])):
        existing = next(p for p in path.absolute().parents if p.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ConfigError(f'{existing} is no folder that can be written; choose another one')
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise ConfigError(f'the folder {args.json.parent} does not exist; make it first')


@contextmanager
def _progress(console: Any, total: int | None) -> Iterator[Callable[[Tally], None]]:
    """A bar on the terminal; gives the function that moves it on."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn('{task.description}')
    columns = (SpinnerColumn(), BarColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task('starting', total=total)

        def show(tally: Tally) -> None:
            description = (
                f'{tally.frames} frames, {tally.fps:.1f} fps, {tally.placed} placed, '
                f'{tally.voxels} voxels'
            )
            progress.update(task, completed=tally.frames, description=description)

        yield show
