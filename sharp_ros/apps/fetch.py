"""`sharp-ros fetch`: weights that cannot be shipped, from their publisher to this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import sys

from sharp_ros import models
from sharp_ros.downloads import download_file, held, present_digest, Progress
from sharp_ros.errors import CheckpointError, ConfigError
from sharp_ros.models import ModelInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros fetch`."""
    names = [name for name, info in models.MODELS.items() if info.download]
    names += models.described_names()
    parser.add_argument('model', choices=names, help='model whose weights are downloaded')
    parser.add_argument(
        '--accept-licence', action='store_true', help='acceptance of the licence without a prompt'
    )
    parser.add_argument(
        '--output',
        type=Path,
        default=models.CACHE_FOLDER,
        metavar='FOLDER',
        help='download folder (default: %(default)s, where models are looked up)',
    )


def run(args: argparse.Namespace) -> int:
    """Download what is not there yet, and say where it is.

    Raises:
        ConfigError: if the licence is not accepted, or another download is going on.
        CheckpointError: if the file cannot be had, kept, or is not what it should be.
    """
    info = models.MODELS.get(args.model) or models.described_info(args.model)
    if info.download is None:
        raise ConfigError(models.by_hand(args.model))
    folder = args.output.expanduser().absolute()
    target = folder / info.download.file_name
    try:
        state, digest = 'is already there', present_digest(info.download, target, print)
        if digest is None:
            _agree(info, args.accept_licence)
            folder.mkdir(parents=True, exist_ok=True)
            with held(folder), _progress() as progress:
                digest = download_file(info.download, target, print, progress)
                state = 'is in place'
    except OSError as error:
        raise CheckpointError(
            f'cannot keep {target} ({error.strerror or error}); make room or give another '
            '--output, then run the same command again: what came so far is kept'
        ) from error
    print(f'{target} {state}: {target.stat().st_size:,} bytes, SHA-256 {digest}')
    if folder != models.CACHE_FOLDER.expanduser():
        name = target if info.name in models.MODELS else f'a copy of {info.name}.yaml beside it'
        print(f'use {name} as --model, or as model.name of the node')
    return 0


def _agree(info: ModelInfo, accepted: bool) -> None:
    assert info.download is not None
    print(f'Weights of {info.name}, licence: {info.licence}.\n{info.download.terms}')
    if accepted:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            'there is no terminal to ask whether you accept this licence; '
            'if you do, pass --accept-licence'
        )
    try:
        answer = input('Do you accept it? [y/N] ')
    except EOFError:
        answer = ''
    if answer.strip().lower() not in ('y', 'yes'):
        raise ConfigError('the licence was not accepted, so nothing was downloaded')


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar with the rate and the time left, from the first bytes on."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import (
        Progress as Bar,
    )

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(TextColumn('fetch'), *columns) as bar:
        tasks = []

        def progress(done: int, total: int | None) -> None:
            if not tasks:
                tasks.append(bar.add_task('', total=total, completed=done))
            bar.update(tasks[0], completed=done)

        yield progress
