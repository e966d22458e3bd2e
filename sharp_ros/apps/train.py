"""`sharp-ros train`: train nano, or its two heads alone, or fine-tune it on a recording."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
import json
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING

from sharp_ros.apps.inspect import exit_code
from sharp_ros.apps.interruption import EXIT_INTERRUPTED, interruptible
from sharp_ros.parameter_text import number
from sharp_ros.training.settings import load_yaml, TrainingConfig

if TYPE_CHECKING:
    from sharp_ros.camera import Frame
    from sharp_ros.sources.base import Source
    from sharp_ros.sources.stock import Stock
    from sharp_ros.training.trainer import Run

EXIT_NO_BETTER = 3  # as a bad map
_LINE_SECONDS = 60.0  # between lines of progress where there is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros train`; those that name a setting overrule the file."""
    parser.add_argument('config', type=Path, help='settings file, such as config/train_nano.yaml')
    parser.add_argument('--data', nargs='+', metavar='FOLDER', help='folders with rendered shards')
    parser.add_argument('--out', help='folder of the run; an existing run is resumed')
    parser.add_argument(
        '--minutes', type=number, help='training time in total, over all resumptions'
    )
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), help='compute device')
    parser.add_argument('--init', help='initial weights: imagenet, or a file of weights of nano')
    task = parser.add_mutually_exclusive_group()
    task.add_argument(
        '--metres',
        action='store_true',
        help='training of metric scale and shape alone: the weights of --init stay as they are, '
        'and two heads of a few layers learn what factors their depth needs',
    )
    task.add_argument(
        '--finetune',
        type=Path,
        metavar='FOLDER',
        help='fine-tuning of the weights of nano, at low learning rates, on a recording of your '
        'camera: RGB-D or posed images in TUM layout (poses in metres), a bag with depth or '
        'odometry, or rectified stereo pairs (left/, right/, camera.yaml), mixed with rendered '
        'images where --data holds any; without depth, pairs of views teach the metric scale',
    )


def run(args: argparse.Namespace) -> int:
    """Train, resuming what is there, and print the accuracy on held-out images.

    Returns:
        130 if Ctrl-C ended it after the step at hand, 3 if fine-tuning did not make the weights
        better on held-out images, or a part of the recording was found but not used, else 0.

    Raises:
        ConfigError: if a setting is unknown or wrong, or the run is one on another recording.
        InputError: if the data cannot be used.
        CheckpointError: if weights or the checkpoint cannot be used.
    """
    names = ('data', 'out', 'minutes', 'device', 'init')
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if 'data' in given:
        given['data'] = tuple(given['data'])
    config = replace(load_yaml(args.config), **given)
    stocks: list[Stock] = []

    def opened(recording: Path) -> Iterable[Frame]:
        source = _open(recording)
        stocks.append(source.stock)
        return source.frames()

    if args.finetune is not None:
        if args.out is None:  # where the run on rendered images may be
            config = replace(config, out=str(Path(config.out) / 'finetuned'))
        from sharp_ros.training.fine_tuning import fine_tuning_config

        config = fine_tuning_config(config, args.finetune, opened, _say)

    if args.metres:
        return _metres(config)

    from sharp_ros.training.trainer import train

    with interruptible() as stop, _progress(config) as report:
        metrics = train(config, report, stop.is_set)
    if not metrics:
        print(f'interrupted: {config.out} is saved, the same command resumes it', file=sys.stderr)
        return EXIT_INTERRUPTED
    print(json.dumps({name: round(value, 4) for name, value in metrics.items()}))
    return max([_judge(config), *(exit_code(stock) for stock in stocks)])


def _metres(config: TrainingConfig) -> int:
    """Teach the two heads alone; a bar on a terminal, otherwise a line for every file."""
    from rich.console import Console
    from rich.progress import Progress

    from sharp_ros.training.metres import train_metres

    console = Console(stderr=True)
    bar = Progress(console=console, disable=not console.is_terminal)
    task = bar.add_task('looking at images', total=1.0)

    def report(done: float) -> None:
        bar.update(task, completed=done)
        if not console.is_terminal:
            _say(f'{done:.0%} of {config.metres_crops} crops looked at')

    with interruptible() as stop, bar:
        errors = train_metres(config, report, stop.is_set)
    if not errors:
        print(f'interrupted: {config.out} is saved, the same command resumes it', file=sys.stderr)
        return EXIT_INTERRUPTED
    print(json.dumps({name: round(value, 4) for name, value in errors.items()}))
    print(f'weights are in {Path(config.out) / "nano.safetensors"}')
    return 0


def _judge(config: TrainingConfig) -> int:
    """Say what became of a run that has ended; 3 if it was a fine-tuning for nothing."""
    from sharp_ros.training.selection import gain
    from sharp_ros.training.trainer import Log

    change = gain(Log(Path(config.out) / 'log.jsonl').rows())
    if change is None:
        print(f'weights, curve and validation pictures are in {config.out}')
        return 0
    errors = f'held-out {change.name} {change.before:.3f} -> {change.after:.3f}'
    if change.better:
        print(f'curve and pictures of {change.images} held-out images are in {config.out}')
        print(f'{errors}; use it with --model {Path(config.out) / "nano.safetensors"}')
        return 0
    print(f'curve and pictures of {change.images} held-out images are in {config.out}')
    print(
        f'{errors} at best: no better than before, so no weights are '
        f'written; stay with {config.init}. Images of more places, rendered ones among them '
        '(--data) or a lower learning_rate may help',
        file=sys.stderr,
    )
    return EXIT_NO_BETTER


def _open(recording: Path) -> Source:
    """A recording with poses as recorded, after a line about what was assumed of them."""
    from sharp_ros.sources import open_source

    source = open_source(str(recording), level=False)
    if source.note:
        _say(f'{recording}: {source.note}')
    return source


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _progress(config: TrainingConfig) -> Iterator[Callable[[Run], None]]:
    """A bar on a terminal, otherwise a line a minute."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    bar = Progress(
        BarColumn(20), TaskProgressColumn(), TextColumn('{task.description}'), console=console
    )
    task = bar.add_task('loading', total=1.0)
    begun: tuple[float, int, float] | None = None
    last_line = time.monotonic()

    def report(run: Run) -> None:
        nonlocal begun, last_line
        begun = begun or (run.elapsed, run.seen, run.progress)
        elapsed, done = run.elapsed - begun[0], run.progress - begun[2]
        rate = (run.seen - begun[1]) / max(elapsed, 1e-9)
        left = elapsed / done * max(1 - run.progress, 0) / 60 if done > 0 else 0.0
        text = (
            f'step {run.step}, {run.seen} images, {rate:.1f}/s, {left:.1f} min left, '
            f'loss {run.losses["total"]:.3f}'
        )
        if run.validation:
            text += f'; held out: loss {run.validation["loss"]:.3f}'
        if 'abs_rel' in run.validation:
            text += (
                f', AbsRel {run.validation["abs_rel"]:.3f}, '
                f'scaled {run.validation["abs_rel_median_scaled"]:.3f}'
            )
        if console.is_terminal:
            bar.update(task, completed=min(run.progress, 1.0), description=text)
        elif time.monotonic() - last_line > _LINE_SECONDS:
            last_line = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    if console.is_terminal:
        with bar:
            yield report
    else:
        yield report
