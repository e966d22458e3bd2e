"""`sharp-ros map`: a recording to a map on disk, by the same pipeline as the node runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
import json
import os
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from sharp_ros.apps.fleet import add_fleet_arguments, is_fleet, path_or_url, run_many
from sharp_ros.apps.inspect import (
    add_source_options,
    exit_code,
    open_recording,
    SOURCE_HELP,
    stock_table,
)
from sharp_ros.apps.interruption import EXIT_INTERRUPTED, interruptible
from sharp_ros.apps.outputs import check_outputs
from sharp_ros.config import differences, flatten, from_flat, load_yaml, SharpConfig, VIEW_NAMES
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.files import write_atomically
from sharp_ros.parameter_text import load_value, whole_number

if TYPE_CHECKING:
    from sharp_ros.camera import Frame
    from sharp_ros.evaluation.mapped_recording import MapContents, Tally
    from sharp_ros.exchange.result_bag import ResultBag
    from sharp_ros.mapping.verdict import Verdict

_KEPT_IMAGES = 500  # of keyframes
EXIT_BAD_MAP = 3  # 2 is that of arguments that argparse refuses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros map`."""
    from sharp_ros.apps.predict import add_config_arguments

    parser.add_argument(
        'source',
        metavar='SOURCE',
        nargs='+',
        help=f'{SOURCE_HELP} until Ctrl-C; several, or URLs, with --jobs or --executor',
    )
    parser.add_argument(
        '-o',
        '--output',
        type=path_or_url,
        required=True,
        help='new or empty folder for the map and its pictures; or a new file *.mcap, as --to-bag '
        'alone; of many recordings a folder or URL, which may hold what is finished of them',
    )
    parser.add_argument(
        '--to-bag',
        type=Path,
        metavar='FILE',
        help='new bag *.mcap of the results: depth, points, odometry, grid and tf, at the stamps '
        'of the images, to be replayed beside the recording',
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='parameter override, such as scale.camera_height=1.1; repeatable. The fused maps are '
        'enabled unless surface_map.enabled=false or gaussian_map.enabled=false is set here',
    )
    parser.add_argument(
        '--keyframes',
        action='store_true',
        help='images of keyframes saved with the map, for sharp-ros optimise and nerfstudio; as '
        f'--set keyframe.keep_images={_KEPT_IMAGES}',
    )
    parser.add_argument(
        '--poses',
        default='auto',
        choices=('auto', 'source', 'visual'),
        help='pose source. source: recorded poses, frames without one are skipped; visual: visual '
        'odometry, recorded poses serve as reference; auto: source if one of its first frames has '
        'a pose, else visual (default: %(default)s)',
    )
    parser.add_argument(
        '--max-frames', type=whole_number, metavar='N', help='maximum number of frames'
    )
    add_source_options(parser)
    parser.add_argument('--json', type=Path, metavar='FILE', help='report file')
    add_fleet_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Map a source; see `_exit_code` for what is returned.

    Raises:
        ConfigError: for settings that do not exist or cannot be, and outputs that cannot be
            written; nothing has been done then.
        InputError: if the source cannot be opened or none of its frames could be mapped.
    """
    if is_fleet(args, args.source):
        if args.to_bag is not None:
            raise ConfigError('--to-bag names one file; leave it out with --jobs and --executor')
        _check(argparse.Namespace(**{**vars(args), 'output': None}))
        _configured(args)
        return run_many(args, args.source, _place)
    (args.source,) = args.source
    if args.output.suffix == '.mcap' and args.to_bag is None:
        args.output, args.to_bag = None, args.output
    _check(args)
    config = _configured(args)
    from rich.console import Console

    from sharp_ros.evaluation.circumstances import circumstances
    from sharp_ros.evaluation.mapped_recording import (
        draw_pictures,
        map_frames,
        map_numbers,
        MapContents,
        title_of,
    )
    from sharp_ros.exchange.map_formats import write_formats
    from sharp_ros.mapping.map_files import save_map
    from sharp_ros.pictures.drawing import encode_picture
    from sharp_ros.pipeline import Pipeline
    from sharp_ros.sources.webcam import WebcamSource

    source = open_recording(args, time_offset=config.pose.time_offset)
    console = Console()
    console.print(f'source: {source.name}, {source.note or "calibrated"}', markup=False)
    if source.stock.parts:
        console.print(stock_table(source.stock.as_dict()))
    pipeline = Pipeline.from_config(config)
    if pipeline.info.needs_depth:
        source.stock.require_depth(pipeline.info.name)
    kind = 'metric' if pipeline.info.metric else 'relative'
    about = f'model: {pipeline.info.name} ({kind} depth), weights: {pipeline.info.licence}'
    console.print(about, markup=False)

    def frames() -> Iterator[Frame]:
        return islice(source.frames(), args.max_frames)

    again = None if isinstance(source, WebcamSource) else frames
    with _result_bag(args.to_bag) as bag:
        with interruptible() as stop, _progress(console, args.max_frames) as progress:

            def show(tally: Tally) -> None:
                progress(tally)
                if bag is not None and tally.newest is not None:
                    bag.add(tally.newest, config.pose.world_frame)

            tally = map_frames(frames(), pipeline, args.poses, show, stop, again)
        if not tally.placed:
            if tally.interrupted:
                raise KeyboardInterrupt
            raise InputError(tally.why_nothing(), 'nothing_mapped')
        if tally.interrupted:
            console.print('interrupted: writing what there is so far')
        state, verdict = pipeline.map_state(), pipeline.verdict()
        contents = MapContents.of(state)
        if bag is not None:
            bag.add_grid(contents.grid, state.stamp_ns, config.pose.world_frame)
    measured = map_numbers(tally, contents)
    files = [] if args.to_bag is None else [args.to_bag]
    if args.output is not None:
        missing: list[str] = []
        suffixes = config.output.suffixes
        files += save_map(
            args.output, state, finish=lambda f: missing.extend(write_formats(f, suffixes))
        )
        for line in missing:
            print(f'warning: {line}', file=sys.stderr)
        for name, picture in draw_pictures(contents, tally, title_of(measured)).items():
            files.append(args.output / name)
            write_atomically(files[-1], encode_picture(picture))
    report = {
        'source': source.name,
        'note': source.note,
        'stock': source.stock.as_dict(),
        'model': pipeline.info.name,
        'licence': pipeline.info.licence,
        'device': pipeline.device,
        'config': differences(config),
        **measured,
        'verdict': verdict.as_dict(),
        'files': [file.name for file in files],
        **circumstances(),
    }
    if args.json is not None:
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')
    results = next(path for path in (args.output, args.to_bag) if path is not None)
    console.print(_table(report, results))
    reasons = (f'{r.level} map: {r.sentence("--set ")}' for r in verdict.reasons)
    for line in (*_warnings(tally, contents), *reasons):
        print(f'warning: {line}', file=sys.stderr)
    return exit_code(source.stock, _exit_code(tally, verdict))


def _place(args: argparse.Namespace, source: Path, folder: Path) -> None:
    """One of many recordings, see `run_many`."""
    args.source, args.output, args.json = [str(source)], folder / 'map', folder / 'report.json'


def _exit_code(tally: Tally, verdict: Verdict) -> int:
    """130 if Ctrl-C ended it early, 1 if the source broke off, 3 if the map is bad, else 0.

    3 is also that of a recording of which a part was found but not used.
    """
    if tally.interrupted:
        return EXIT_INTERRUPTED
    if tally.broken:
        return 1
    return EXIT_BAD_MAP if verdict.level == 'bad' else 0


def _table(report: Mapping[str, Any], output: Path) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from sharp_ros.evaluation.mapped_recording import title_of

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    unusable = sum(report['unusable'].values())
    rows = {
        'frames': f'{report["frames"]}: {report["placed"]} placed, {report["lost"]} lost, '
        f'{unusable} unusable',
        'poses': {'visual': 'visual odometry', 'source': 'of the source'}[report['poses']],
        'path': title_of(report).removeprefix('path '),
        'occupied voxels': f'{report["voxels"]}',
        'Gaussians': '-' if report['gaussians'] is None else f'{report["gaussians"]}',
        'surface points': '-'
        if report['surface_points'] is None
        else str(report['surface_points']),
        'map': report['verdict']['level'],
        'time': f'{report["seconds"]:.1f} s, {report["fps"]:.1f} frames a second',
        str(output): ' '.join(report['files']),
    }
    for name, text in rows.items():
        table.add_row(escape(name), text)
    return table


def _warnings(tally: Tally, contents: MapContents) -> Iterator[str]:
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
    if args.keyframes:
        values['keyframe.keep_images'] = _KEPT_IMAGES
    flags = {'model.name': args.model, 'model.device': args.device}
    values |= {key: value for key, value in flags.items() if value is not None}
    for text in args.set:
        key, equals, value = text.partition('=')
        if not equals:
            raise ConfigError(f'--set needs KEY=VALUE, got {text!r}')
        try:
            values[key] = load_value(value)
        except yaml.YAMLError as error:
            raise ConfigError(f'--set {text}: the value cannot be read: {error}') from error
    return from_flat(values)


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything slow is done."""
    output: Path | None = args.output
    if args.max_frames is not None and args.max_frames < 1:
        raise ConfigError(f'--max-frames must be at least 1, got {args.max_frames}')
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f'{output} exists and is not an empty folder; choose another --output')
    for path in filter(None, (output, args.to_bag)):
        if path.suffix in ('.bag', '.db3'):
            raise ConfigError(f'{path}: bags are written as *.mcap only; name it so')
    if args.to_bag is not None and args.to_bag.exists():
        raise ConfigError(f'{args.to_bag} exists; choose another file')
    for path in filter(None, (output, args.to_bag, args.json)):
        existing = next(p for p in path.absolute().parents if p.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ConfigError(f'{existing} is no folder that can be written; choose another one')
    check_outputs(args.json)


@contextmanager
def _result_bag(path: Path | None) -> Iterator[ResultBag | None]:
    """What the results are written to, if anything."""
    if path is None:
        yield None
        return
    from sharp_ros.exchange.result_bag import ResultBag

    with ResultBag(path) as bag:
        yield bag


@contextmanager
def _progress(console: Any, total: int | None) -> Iterator[Callable[[Tally], None]]:
    """A bar on the terminal; gives the function that moves it on."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn('{task.description}')
    columns = (SpinnerColumn(), BarColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task('starting', total=total)

        def show(tally: Tally) -> None:
            searched = f'{tally.surveyed} frames searched for the floor'
            description = (
                searched
                if not tally.frames
                else (
                    f'{tally.frames} frames, {tally.fps:.1f} fps, {tally.placed} placed, '
                    f'{tally.voxels} voxels'
                )
            )
            progress.update(task, completed=tally.frames, description=description)

        yield show
