"""`sharp-ros optimise MAP`: Gaussians of a saved map fitted to its keyframes for some minutes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
import json
from pathlib import Path
from typing import Any

from sharp_ros.apps.inspect import add_source_options, exit_code, open_recording
from sharp_ros.apps.interruption import EXIT_INTERRUPTED, interruptible
from sharp_ros.apps.outputs import check_outputs
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.files import write_atomically
from sharp_ros.parameter_text import number, whole_number

_HOLD_OUT = 8  # every so many-th image, as 3DGS papers do


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros optimise`."""
    parser.add_argument(
        'source',
        metavar='MAP',
        help='folder of a map saved with --keyframes; or any recording with poses in the frame of '
        'the Gaussians, as folders of nerfstudio',
    )
    parser.add_argument(
        '-o', '--output', type=Path, metavar='FILE', help='PLY file; default: MAP/optimised.ply'
    )
    parser.add_argument(
        '--gaussians',
        type=Path,
        metavar='FILE',
        help='Gaussians to begin with; default: MAP/gaussians.ply',
    )
    parser.add_argument(
        '--minutes', type=number, default=5.0, metavar='N', help='duration (default: %(default)g)'
    )
    parser.add_argument(
        '--iterations', type=whole_number, metavar='N', help='end after so many images, if earlier'
    )
    parser.add_argument(
        '--growth',
        type=number,
        metavar='N',
        help='largest number of Gaussians, as a multiple of those to begin with (default: 2)',
    )
    parser.add_argument(
        '--hold-out',
        type=whole_number,
        default=_HOLD_OUT,
        metavar='N',
        help='every N-th image is not fitted, but measures what is gained; 0: all are fitted '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--device', default='auto', metavar='NAME', help='auto, cpu or cuda (default: %(default)s)'
    )
    add_source_options(parser)
    parser.add_argument('--json', type=Path, metavar='FILE', help='report file')


def run(args: argparse.Namespace) -> int:
    """Fit, write the file, print what was gained.

    Raises:
        ConfigError: for durations and numbers that cannot be.
        InputError: if there are no Gaussians or no images with poses.

    Returns:
        130 if Ctrl-C ended it early, what there was then is written; else 3 if a part of the
        recording was found but not used, else 0.
    """
    if not args.minutes > 0 or args.hold_out < 0 or args.hold_out == 1:
        raise ConfigError(
            f'--minutes {args.minutes:g} --hold-out {args.hold_out}: give a time, and 0 or at '
            'least 2'
        )
    if args.growth is not None and not args.growth >= 1:
        raise ConfigError(f'--growth {args.growth:g}: give at least 1')
    if args.iterations is not None and args.iterations < 1:
        raise ConfigError(f'--iterations must be at least 1, got {args.iterations}')
    from dataclasses import replace

    from rich.console import Console

    from sharp_ros.engine import choose_device
    from sharp_ros.evaluation.circumstances import circumstances
    from sharp_ros.evaluation.optimised import held_out, rendered_metrics, views_of_frames
    from sharp_ros.exchange.scene import read_scene
    from sharp_ros.gaussians import load_ply, save_ply
    from sharp_ros.optimise import Optimiser, Settings
    from sharp_ros.rasterizer import backend

    folder = Path(args.source)
    begin = args.gaussians or folder / 'gaussians.ply'
    if not begin.is_file():
        raise InputError(
            f'{begin} does not exist; give --gaussians, or make a map of {folder}: '
            f'sharp-ros map {folder} -o map --keyframes',
            'no_gaussians',
        )
    if args.output is None and not folder.is_dir():
        raise ConfigError(f'{folder} is no folder; give the file to write as --output')
    output = args.output or folder / 'optimised.ply'
    check_outputs(output, args.json)
    source, device = open_recording(args, level=False), choose_device(args.device)
    views = list(views_of_frames(source.frames()))
    out = held_out(len(views), args.hold_out or 2 * len(views) + 1)
    held = [view for view, is_out in zip(views, out, strict=True) if is_out]
    fitted = [view for view, is_out in zip(views, out, strict=True) if not is_out]
    if not fitted:
        raise InputError(
            f'{source.name} has no images with poses; save a map with its keyframes: '
            'sharp-ros map SOURCE -o map --keyframes',
            'no_views',
        )
    before = load_ply(begin)
    settings = Settings() if args.growth is None else replace(Settings(), growth=args.growth)
    optimiser = Optimiser(before, fitted, settings, device)
    console = Console()
    console.print(
        f'{len(before)} Gaussians, {len(fitted)} images, {len(held)} held out; {backend(device)}',
        markup=False,
    )
    with interruptible() as stop, _progress(console) as show:
        optimiser.run(args.minutes * 60, show, stop, args.iterations)
        interrupted = stop.is_set()
    after = optimiser.gaussians
    # in the frame of those it began with, whose comments say what that is
    about = read_scene(begin, ('gaussians',))
    save_ply(output, after, comments=about.all_comments(), plain=True)
    gained = {
        'before': rendered_metrics(before, held) if held else None,
        'after': rendered_metrics(after, held) if held else None,
    }
    report = {
        'source': source.name,
        'stock': source.stock.as_dict(),
        'gaussians': {'before': len(before), 'after': len(after)},
        'images': {'fitted': len(fitted), 'held_out': len(held)},
        'iterations': optimiser.iterations,
        'held_out': gained,
        'renderer': backend(device),
        'file': str(output),
        **circumstances(),
    }
    if args.json is not None:
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')
    for line in _lines(report):
        console.print(line, markup=False)
    return exit_code(source.stock, EXIT_INTERRUPTED if interrupted else 0)


def _lines(report: dict[str, Any]) -> Iterator[str]:
    yield f'{report["iterations"]} iterations, {report["gaussians"]["after"]} Gaussians'
    gained = report['held_out']
    if gained['before'] is not None:
        b, a = gained['before'], gained['after']
        yield (
            f'views held out: PSNR {b["psnr"]:.2f} -> {a["psnr"]:.2f} dB, '
            f'SSIM {b["ssim"]:.3f} -> {a["ssim"]:.3f}'
        )
    yield f'written to {report["file"]}'


@contextmanager
def _progress(console: Any) -> Iterator[Callable[[float], None]]:
    from rich.progress import BarColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task('', total=1.0)
        yield lambda share: progress.update(task, completed=share)
