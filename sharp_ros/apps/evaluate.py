"""`sharp-ros eval depth|views|maps|scale SOURCE`: accuracy against truth, as table and JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
import json
import math
from pathlib import Path
from typing import Any, NamedTuple, TYPE_CHECKING, TypeVar

from sharp_ros.apps.evaluation_arguments import add_arguments, SEEDS
from sharp_ros.apps.evaluation_tables import (
    depth_tables,
    map_tables,
    optimiser_tables,
    scale_tables,
    view_tables,
)
from sharp_ros.apps.fleet import is_fleet, run_many
from sharp_ros.apps.inspect import exit_code, open_recording
from sharp_ros.apps.outputs import check_outputs
from sharp_ros.config import ModelConfig
from sharp_ros.errors import ConfigError
from sharp_ros.files import write_atomically

if TYPE_CHECKING:
    from sharp_ros.camera import Frame
    from sharp_ros.evaluation.hazard_worlds import Hazard
    from sharp_ros.evaluation.hazards import HazardRun
    from sharp_ros.models import ModelInfo
    from sharp_ros.sources.base import Source

_HAZARD_TILE = (510, 121)  # width, height of the three pictures of a hazard
_Item = TypeVar('_Item')
__all__ = ['add_arguments', 'run']


class _Measured(NamedTuple):
    """What an evaluation found, with the model that was judged and what the source assumed."""

    numbers: Mapping[str, Any]
    info: ModelInfo
    note: str = ''


class _Source:
    """What is evaluated, opened when it is wanted: a recording, or the name of what is none."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.name: str = args.source
        self._args, self._opened = args, None
        posed = args.kind != 'views' or args.against is not None
        self.recorded = posed and self.name not in ('motorcycle', 'synthetic')

    @property
    def opened(self) -> Source | None:
        """The recording; None of what is none."""
        if self.recorded and self._opened is None:
            # only a floor that is seen shall level it
            self._opened = open_recording(self._args, level=False)
        return self._opened

    @property
    def given(self) -> str | Source:
        """As evaluations take it."""
        return self.opened or self.name


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table, write the report.

    Raises:
        ConfigError: for unknown models, devices or numbers of frames.
        InputError: if the source cannot be used or has no depth.

    Returns:
        3 if a part of a recording was found but not used, else 0.
    """
    from rich.console import Console

    from sharp_ros.engine import choose_device
    from sharp_ros.evaluation.circumstances import circumstances

    if args.max_frames is not None and args.max_frames < 1:
        raise ConfigError(f'--max-frames must be at least 1, got {args.max_frames}')
    if is_fleet(args, args.source):
        return run_many(args, args.source, _place)
    if args.output is not None:
        raise ConfigError('--output is for many recordings, with --jobs or --executor')
    (args.source,) = args.source
    check_outputs(args.json)
    device = choose_device(args.device)
    against = args.kind == 'views' and args.against is not None
    evaluate, tables = _AGAINST if against else _KINDS[args.kind]
    source = _Source(args)
    measured = evaluate(args, device, source)
    report = {
        'source': args.source,
        'note': measured.note,
        'stock': None if source.opened is None else source.opened.stock.as_dict(),
        'model': measured.info.name,
        'licence': measured.info.licence,
        'metric': measured.info.metric,
        'device': device,
        **measured.numbers,
        **circumstances(),
    }
    if args.json is not None:
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')
    Console().print(*tables(report))
    if measured.note:
        print(f'note: {measured.note}')
    return 0 if source.opened is None else exit_code(source.opened.stock)


def _place(args: argparse.Namespace, source: Path, folder: Path) -> None:
    """One of many recordings, see `run_many`."""
    args.source, args.json = [str(source)], folder / 'report.json'
    if args.kind in ('views', 'maps'):
        args.pictures = folder / 'pictures'


def _depth(args: argparse.Namespace, device: str, source: _Source) -> _Measured:
    from sharp_ros.engine import Engine
    from sharp_ros.evaluation.depth import evaluate_depth
    from sharp_ros.models import load_predictor

    predictor, info = load_predictor(args.model, device)
    frames, note = _frames_of(source)
    engine = Engine(predictor, ModelConfig(name=args.model, device=args.device))
    return _Measured(
        evaluate_depth(_watched(frames, args.max_frames), engine, info, args.mask), info, note
    )


def _views(args: argparse.Namespace, device: str, source: _Source) -> _Measured:
    from sharp_ros.engine import Engine
    from sharp_ros.evaluation.view_pairs import view_pairs
    from sharp_ros.evaluation.views import evaluate_views
    from sharp_ros.models import load_predictor

    predictor, info = load_predictor(args.model, device)
    engine = Engine(predictor, ModelConfig(name=args.model, device=args.device))
    pairs = _with_progress(view_pairs(source.name, args.max_frames), 'views')
    return _Measured(evaluate_views(pairs, engine, Path(info.name).stem, args.pictures), info)


def _optimised(args: argparse.Namespace, device: str, source: _Source) -> _Measured:
    from sharp_ros.engine import Engine
    from sharp_ros.evaluation.optimised import curve_of_run, evaluate_optimised
    from sharp_ros.evaluation.view_pairs import room_frames
    from sharp_ros.models import load_predictor
    from sharp_ros.pictures.drawing import encode_picture

    rooms = source.name == 'synthetic'
    if not args.minutes > 0:
        raise ConfigError(f'--minutes {args.minutes:g}: give a time')
    if args.seeds is not None and (args.seeds < 1 or not rooms):
        raise ConfigError(f'--seeds {args.seeds}: give the number of rooms of synthetic')
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
    predictor, info = load_predictor(args.model, device)
    engine = Engine(predictor, ModelConfig(name=args.model, device=args.device))
    runs = []
    for seed in range(args.seeds or 1):
        opened = source.opened
        frames = room_frames(seed) if opened is None else opened.frames()
        if args.max_frames is not None:
            frames = islice(frames, args.max_frames)
        run = evaluate_optimised(
            frames,
            engine,
            args.minutes * 60,
            device,
            lambda stages: _with_progress(stages, 'points'),
        )
        name = f'room {seed}' if rooms else Path(source.name).name
        runs.append({'name': name, **run})
        if args.pictures is not None:
            picture = encode_picture(curve_of_run(run))
            write_atomically(args.pictures / f'{name.replace(" ", "_")}.png', picture)
    note = '' if source.opened is None else source.opened.note
    return _Measured({'minutes': args.minutes, 'runs': runs}, info, note)


def _maps(args: argparse.Namespace, device: str, source: _Source) -> _Measured:
    if args.hazards is not None:
        return _hazards(args)
    from sharp_ros.evaluation.maps import evaluate_maps

    return _Measured(
        *evaluate_maps(
            source.given,
            ModelConfig(name=args.model, device=args.device),
            lambda frames: _watched(frames, args.max_frames),
            depth=args.depth,
            visual=args.poses == 'visual',
            camera_height=args.camera_height,
            mask=args.mask,
            seeds=args.seeds,
            pictures=args.pictures,
        )
    )


def _hazards(args: argparse.Namespace) -> _Measured:
    from sharp_ros.config import OccupancyConfig
    from sharp_ros.evaluation.hazard_pictures import draw_hazard
    from sharp_ros.evaluation.hazard_worlds import hazards
    from sharp_ros.evaluation.hazards import evaluate_hazards, EXACT
    from sharp_ros.pictures.drawing import encode_picture, tile_pictures

    if args.source != 'synthetic':
        raise ConfigError(f'--hazards are simulated: give synthetic, not {args.source}')
    count, first = 1 if args.seeds is None else args.seeds, args.first_seed
    if count < 1 or first < 0:
        raise ConfigError(f'--seeds {count} from --first-seed {first}: give at least one, from 0')
    pictures: dict[str, Any] = {}
    config = OccupancyConfig()

    def show(hazard: Hazard, run: HazardRun) -> None:
        band = (config.min_height, config.max_height)
        pictures[hazard.name] = draw_hazard(hazard, run, band)

    if not any(args.hazards in hazard.name for hazard in hazards(first)):
        names = ', '.join(hazard.name for hazard in hazards(first))
        raise ConfigError(f'--hazards {args.hazards}: no kind is named so; there are {names}')
    numbers = evaluate_hazards(
        range(first, first + count),
        lambda runs: _with_progress(runs, 'runs'),
        config,
        args.hazards,
        None if args.pictures is None else show,
    )
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
        sheet = tile_pictures(pictures, columns=2, size=_HAZARD_TILE)
        write_atomically(args.pictures / 'hazards.jpg', encode_picture(sheet, '.jpg'))
    return _Measured(numbers, EXACT)


def _scale(args: argparse.Namespace, device: str, source: _Source) -> _Measured:
    from sharp_ros.evaluation.scale import evaluate_scale

    del device  # it loads its network itself, where there is one
    count, simulated = args.seeds, args.source == 'synthetic'
    if count is not None and (count < 1 or not simulated):
        raise ConfigError(
            f'--seeds {count}: give the number of sequences of synthetic; recordings have starts'
        )
    first = args.first_seed
    if first < 0:
        raise ConfigError(f'--first-seed must not be negative, got {first}')
    return _Measured(
        *evaluate_scale(
            source.given,
            ModelConfig(name=args.model, device=args.device),
            _with_progress,
            seeds=range(first, first + (count or SEEDS)) if simulated else (),
            stride=args.stride,
            most=args.max_frames,
            cache=args.cache,
        )
    )


# By name: what measures, and what is printed of the report.
_KINDS: dict[
    str,
    tuple[
        Callable[[argparse.Namespace, str, _Source], _Measured],
        Callable[[Mapping[str, Any]], Iterator[Any]],
    ],
] = {
    'depth': (_depth, depth_tables),
    'views': (_views, view_tables),
    'maps': (_maps, map_tables),
    'scale': (_scale, scale_tables),
}


_AGAINST = (_optimised, optimiser_tables)


def _frames_of(source: _Source) -> tuple[Iterable[Frame], str]:
    """Frames of a source, and what it had to assume."""
    if source.opened is not None:
        return source.opened.frames(), source.opened.note
    if source.name == 'motorcycle':
        from sharp_ros.evaluation.depth import motorcycle_frames

        return motorcycle_frames(), ''
    from sharp_ros.sources import open_source

    opened = open_source(source.name)
    return opened.frames(), opened.note


def _watched(frames: Iterable[Frame], most: int | None) -> Iterator[Frame]:
    """All frames up to the given number of frames with depth, counted on the terminal."""
    return _with_progress(_limited(frames, most), 'frames')


def _limited(frames: Iterable[Frame], most: int | None) -> Iterator[Frame]:
    left = math.inf if most is None else most
    for frame in frames:
        yield frame
        left -= frame.depth is not None
        if left <= 0:
            return


def _with_progress(items: Iterable[_Item], what: str) -> Iterator[_Item]:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn(f'{{task.completed}} {what}'), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task('', total=None)
        for item in items:
            yield item
            progress.advance(task)
