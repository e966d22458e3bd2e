"""`--jobs` and `--executor` of `map`, `eval` and `predict`: many recordings, a task each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
import os
from pathlib import Path
import re
import sys
from typing import Any, TYPE_CHECKING

from sharp_ros import __version__
from sharp_ros.apps.interruption import EXIT_INTERRUPTED, interruptible
from sharp_ros.apps.outcome import EXIT_FAILED, outcome
from sharp_ros.config import flatten, load_yaml
from sharp_ros.errors import ConfigError
from sharp_ros.files import sha256_of
from sharp_ros.parameter_text import whole_number

if TYPE_CHECKING:
    from sharp_ros.fleet.run import Progress

_OWN = ('jobs', 'threads', 'executor', 'retries', 'output', 'json', 'run', 'parser', 'verbose')
_MODEL = ('model', 'checkpoint_path', 'model.name')  # whose files `models` knows
Place = Callable[[argparse.Namespace, Path, Path], None]


def add_fleet_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that takes many recordings."""
    group = parser.add_argument_group(
        'many recordings, each in a folder of its own below --output; docs/fleet.md'
    )
    group.add_argument(
        '--jobs', type=whole_number, metavar='N', help='number of recordings at a time'
    )
    group.add_argument(
        '--executor',
        choices=('processes', 'ray'),
        help='where they run: processes of this machine (default), or a Ray cluster',
    )
    group.add_argument(
        '--threads',
        type=whole_number,
        metavar='N',
        help='threads of each; default: the cores of this machine shared among --jobs, on Ray 1',
    )
    group.add_argument(
        '--retries',
        type=whole_number,
        metavar='N',
        default=2,
        help='attempts after the first at a recording whose worker died (default: %(default)s)',
    )


def path_or_url(text: str) -> Path | str:
    """A path, or a URL as it is: a path would lose one of its slashes."""
    return text if '://' in text else Path(text)


def is_fleet(args: argparse.Namespace, recordings: Sequence[str]) -> bool:
    """Whether many recordings were asked for.

    Args:
        args: of the command.
        recordings: of which it takes one at most, and no URL, without a fleet.

    Raises:
        ConfigError: if there are several, or URLs, and it was not, or the numbers cannot be.
    """
    wanted = args.jobs is not None or args.executor is not None
    if not wanted:
        urls = [name for name in (*recordings, str(args.output)) if '://' in name]
        if len(recordings) > 1 or urls:
            raise ConfigError('for several recordings, or URLs, give --jobs N or --executor ray')
        return False
    for name, least in (('jobs', 1), ('threads', 1), ('retries', 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigError(f'--{name} must be at least {least}, got {value}')
    if args.output is None:
        raise ConfigError('--jobs and --executor need --output, a folder or URL for the results')
    if args.json is not None:
        raise ConfigError('--json is for one recording; many have results.json in --output')
    return True


def run_many(args: argparse.Namespace, recordings: Sequence[object], place: Place) -> int:
    """Run a command on every recording, as `run_fleet` does.

    Args:
        args: of the command.
        recordings: paths and URLs.
        place: sets in arguments of the command which recording is taken and which folder filled,
            with `report.json` in it; a function of a module.

    Returns:
        130 after Ctrl-C, 1 if a recording failed, the largest code of them else.

    Raises:
        InputError: if a recording does not exist.
        ConfigError: if the package for a URL is not installed.
        CheckpointError: if the description of a network cannot be read.
        OSError: if the results cannot be written.
    """
    from rich.console import Console

    from sharp_ros.evaluation.circumstances import circumstances
    from sharp_ros.fleet.executors import EXECUTORS
    from sharp_ros.fleet.recordings import found
    from sharp_ros.fleet.results import FINISHED, Results
    from sharp_ros.fleet.run import run_fleet

    names = found(map(str, recordings))
    # Whatever is parsed and not ours is a setting of the command.
    values = {name: value for name, value in vars(args).items() if name not in _OWN}
    task = _Command(args.run, values, place, tuple(sys.argv))
    settings = _settings(task)
    results, console = Results(str(args.output)), Console()
    results.create()
    jobs, threads = _shares(args)
    with (
        interruptible() as stop,
        EXECUTORS[args.executor or 'processes'](jobs, threads) as executor,
        _progress(console, len(names)) as show,
    ):
        rows, totals = run_fleet(
            names, task, settings, results, executor,
            retries=args.retries, about=circumstances(), show=show, stop=stop,
        )  # fmt: skip
    console.print(_summary(totals, str(args.output)), markup=False)
    if stop.is_set():
        print('interrupted: the same command goes on from here', file=sys.stderr)
        return EXIT_INTERRUPTED
    if totals[FINISHED] < len(rows):
        return EXIT_FAILED
    return max((row.get('exit_code') or 0 for row in rows), default=0)


@dataclass(frozen=True)
class _Command:
    """The command with one recording, in a process of the fleet."""

    run: Callable[[argparse.Namespace], int]
    values: Mapping[str, Any]
    place: Place
    argv: tuple[str, ...]

    def __call__(self, source: Path, folder: Path) -> dict[str, Any]:
        from sharp_ros.fleet.results import LOG

        sys.argv = list(self.argv)  # reports tell the command
        args = self.arguments()
        self.place(args, source, folder)
        code = outcome(lambda: args.run(args))
        reason = ''
        if code in (EXIT_FAILED, EXIT_INTERRUPTED):
            log = (folder / LOG).read_text(encoding='utf-8')
            said = re.findall(r'^(error|warning): (.*)', log, re.MULTILINE)
            # what ended it, else what may have; warnings come before an error, too
            said.sort(key=lambda line: line[0] != 'error')
            reason = said[0][1] if said else f'exit code {code}'
        return {'exit_code': code, 'reason': reason}

    def arguments(self) -> argparse.Namespace:
        """Of the command, as without a fleet."""
        alone = dict.fromkeys(_OWN)
        return argparse.Namespace(**{**alone, **self.values, 'run': self.run})


def _settings(task: _Command) -> dict[str, Any]:
    """What results depend on, files by their contents; the recording itself is left out."""
    args = task.arguments()
    somewhere = Path('/')
    task.place(args, somewhere, somewhere)
    placed = {name for name, value in vars(args).items() if value != task.values.get(name)}
    kept = {name: value for name, value in task.values.items() if name not in placed}
    return {
        'command': f'{task.run.__module__}.{task.run.__qualname__}',
        'version': __version__,
        **{name: _described(name, value) for name, value in sorted(kept.items())},
    }


def _described(name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_described(name, item) for item in value]
    if not isinstance(value, (str, Path)):
        return value
    text = str(value)
    if name == 'set':
        key, equals, text = text.partition('=')
        return f'{key}{equals}{_described(key, text)}'
    digests = [sha256_of(file) for file in _files(name, text)]
    return f'sha256:{" ".join(digests)}' if digests else text


def _files(name: str, text: str) -> list[Path]:
    """The file that a setting leads to, if any, and those that are named in it."""
    file = Path(os.path.expanduser(text))  # pathlib raises where there is no such user
    if name in _MODEL and file.name:
        from sharp_ros.models import model_names, onnx_files

        return [] if text in model_names() else onnx_files(text)
    if not os.path.isfile(file):  # which polygons of a mask may be too long for, says pathlib
        return []
    if name != 'config':
        return [file]
    named = (_files(key, str(value)) for key, value in flatten(load_yaml(file)).items())
    return [file, *chain.from_iterable(named)]


def _shares(args: argparse.Namespace) -> tuple[int, int]:
    """How many at a time, 0: as many as there is room for, and threads of each."""
    from sharp_ros.evaluation.circumstances import cores

    if args.executor == 'ray':
        return args.jobs or 0, args.threads or 1
    jobs = args.jobs or max(1, cores() // (args.threads or 1))
    return jobs, args.threads or max(1, cores() // jobs)


@contextmanager
def _progress(console: Any, total: int) -> Iterator[Callable[[Progress], None]]:
    """A bar, and a line for each recording that has ended."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), TextColumn('{task.description}'), TimeRemainingColumn())
    told = 0
    with Bar(*columns, console=console, transient=True) as bar:
        # what was finished before says nothing of how long the rest takes
        line = bar.add_task('looking at recordings', total=total)

        def show(progress: Progress) -> None:
            nonlocal told
            for row in progress.rows[told:]:
                told += 1
                number = f'[{progress.before + told}/{total}]'
                console.print(f'{number} {_told(row)}', markup=False, highlight=False)
            left = total - progress.before
            failed = sum(row['status'] != 'finished' for row in progress.rows)
            text = f'{told} of {left} done, {progress.before} before, {failed} not finished'
            if progress.read < total:
                text = f'{progress.read} of {total} read'
            if progress.died:
                text += f', a worker died {progress.died} times'
            bar.update(line, total=left, completed=told, description=text)

        yield show


def _told(row: Mapping[str, Any]) -> str:
    if row['status'] != 'finished':
        return f'{row["recording"]}: {row["status"]}: {row["reason"]}'
    again = f', attempt {row["attempts"]}' if row['attempts'] > 1 else ''
    return f'{row["recording"]}: {row["folder"]}, {row["wall_s"]:.1f} s{again}'


def _summary(totals: Mapping[str, Any], place: str) -> str:
    text = (
        f'{totals["finished"]} of {totals["recordings"]} finished, {totals["failed"]} failed, '
        f'{totals["lost"]} lost; '
    )
    if totals['recorded_h']:
        text += (
            f'{totals["recorded_h"] * 60:.1f} min recorded; an hour of recording takes '
            f'{totals["wall_s_per_recorded_h"] / 3600:.2f} h of a worker, '
            f'{totals["cpu_s_per_recorded_h"] / 3600:.2f} h of CPU and '
            f'{totals["result_bytes_per_recorded_h"] / 1e6:.0f} MB of results; '
        )
    return f'{text}wrote {place.rstrip("/")}/index.html'
