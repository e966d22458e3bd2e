"""`sharp-ros inspect`: what a recording holds, what is used of it, and why the rest is not."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import json
import math
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from sharp_ros.apps.outputs import check_outputs
from sharp_ros.errors import ConfigError
from sharp_ros.files import write_atomically
from sharp_ros.parameter_text import number

if TYPE_CHECKING:
    from sharp_ros.sources.base import Source
    from sharp_ros.sources.stock import Stock

EXIT_INCOMPLETE = 3  # finished, but a part of the recording was not used; as a bad map
SOURCE_HELP = (
    'video, folder of images, RGB-D folder (TUM and others), ROS bag, synthetic, or a camera '
    '(its index or /dev/video*)'
)
UP_AXES = ('z', '-z', 'y', '-y', 'x', '-x')  # of `sources.up`, which loads what is slow
_THUMBNAILS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros inspect`."""
    parser.add_argument('source', metavar='SOURCE', help=SOURCE_HELP)
    parser.add_argument('--json', action='store_true', help='report as JSON on standard output')
    parser.add_argument(
        '-o',
        '--output',
        type=Path,
        metavar='FILE',
        help='strip of thumbnails, colour above depth, as PNG; reads all frames',
    )
    add_source_options(parser)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """What every command takes that opens a recording."""
    parser.add_argument(
        '--hfov',
        type=number,
        metavar='DEG',
        help='horizontal field of view of an uncalibrated source, degrees',
    )
    parser.add_argument(
        '--image-topic',
        metavar='TOPIC',
        help='image topic of a bag (default: the one that looks most like a colour camera)',
    )
    parser.add_argument(
        '--pose-offset',
        metavar='SECONDS',
        help='seconds by which the clock of the recorded poses is ahead of that of the images; '
        'auto: as the recorder of a bag saw it (default: pose.time_offset of the settings)',
    )
    add_up_argument(parser)
    parser.add_argument(
        '--association',
        type=number,
        metavar='SECONDS',
        default=0.02,
        help='largest time between a depth image and its image (default: %(default)s)',
    )


def add_up_argument(parser: argparse.ArgumentParser) -> None:
    """The flag that says which way is up in a recording."""
    parser.add_argument(
        '--up',
        choices=('auto', *UP_AXES),
        default='auto',
        help='axis of the world of the recorded poses that is up; auto: as format or recording '
        'tell; write --up=-y with the sign (default: %(default)s)',
    )


def open_recording(
    args: argparse.Namespace, *, level: bool = True, time_offset: float = 0.0
) -> Source:
    """The source that the flags of `add_source_options` describe.

    Args:
        args: with those flags.
        level: see `open_source`.
        time_offset: for `--pose-offset` where that is not given, seconds.

    Raises:
        ConfigError: for values that cannot be.
        InputError: of the source.
    """
    from sharp_ros.sources import open_source

    if args.hfov is not None and not 0 < args.hfov < 180:
        raise ConfigError(f'--hfov must lie between 0 and 180 degrees, got {args.hfov:g}')
    if not 0 <= args.association < math.inf:
        raise ConfigError(f'--association must be seconds from 0 on, got {args.association:g}')
    offset = time_offset if args.pose_offset is None else args.pose_offset
    if offset != 'auto':
        try:
            offset = number(str(offset))
        except ValueError:
            offset = math.nan
        if not math.isfinite(offset):
            raise ConfigError(f'--pose-offset must be seconds or auto, got {args.pose_offset!r}')
    return open_source(
        args.source,
        hfov=None if args.hfov is None else math.radians(args.hfov),
        image_topic=args.image_topic,
        level=level,
        pose_offset=offset,
        association=args.association,
        up=None if args.up == 'auto' else args.up,
    )


def run(args: argparse.Namespace) -> int:
    """Print the stock; 3 if a part that was found cannot be used.

    Raises:
        ConfigError: for values that cannot be.
        InputError: if the source cannot be opened.
    """
    from rich.console import Console

    check_outputs(args.output)
    source = open_recording(args)
    if args.output is not None:
        from sharp_ros.pictures.strip import thumbnails

        total = sum(part.count for part in source.stock.parts if part.use == 'camera')
        picture = thumbnails(source.frames(), total, _THUMBNAILS)
        from sharp_ros.pictures.drawing import encode_picture

        write_atomically(args.output, encode_picture(picture))
    report = {**source.stock.as_dict(), 'note': source.note, 'rate_hz': round(source.rate_hz, 3)}
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        console = Console()
        console.print(f'{source.stock.what}: {source.name}', markup=False)
        if source.note:
            console.print(source.note, markup=False)
        if report['parts']:
            console.print(stock_table(report))
        if args.output is not None:
            console.print(f'wrote {args.output}', markup=False)
    return exit_code(source.stock)


def exit_code(stock: Stock, code: int = 0) -> int:
    """Warn of all that was lost; then the code of a command that has finished so far."""
    losses = list(stock.losses())
    for line in losses:
        print(f'warning: not used: {line}', file=sys.stderr)
    return code or (EXIT_INCOMPLETE if losses else 0)


def stock_table(report: Mapping[str, Any]) -> Any:
    """The parts of a stock, as rich prints them."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from sharp_ros.sources.stock import meaning_of

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ('part', 'holds', 'count', 'seconds', 'gap', 'clock', 'used as, or why not'):
        table.add_column(column, overflow='fold', min_width=min(12, len(column)))
    for part in report['parts']:
        seconds = gap = ''
        if part['begin_ns'] is not None:
            seconds, gap = (
                f'{(part["end_ns"] - part["begin_ns"]) / 1e9:.1f}',
                f'{part["gap_s"]:.2f}',
            )
        what = [part['use']] if part['use'] else []
        if part['reason']:
            detail = f' ({part["detail"]})' if part['detail'] else ''
            what.append(f'not used: {meaning_of(part["reason"])}{detail}')
        what += [f'{n} skipped: {meaning_of(key)}' for key, n in part['skipped'].items()]
        cells = (part['name'], part['kind'], str(part['count']), seconds, gap, part['clock'])
        table.add_row(*map(escape, cells), escape('; '.join(what)))
    return table
