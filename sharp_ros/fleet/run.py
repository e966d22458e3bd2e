"""A fleet: read what there is, leave out what is finished, run the rest, make tables.

Tasks are given, so nothing here knows what is done with a recording. A task whose process dies is
tried again, a task that fails is not: it would again. Both are tried by the next call, which takes
up only what the results say is not finished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
import getpass
import hashlib
import json
import os
from pathlib import Path
import shutil
import socket
import tempfile
import threading
import time
import traceback
from typing import Any, Protocol

from sharp_ros.errors import InputError, SharpError
from sharp_ros.fleet.executors import Executor
from sharp_ros.fleet.recordings import Contents, contents, fingerprint, local_copy, stem
from sharp_ros.fleet.results import (
    FAILED,
    FINISHED,
    LOG,
    LOST,
    numbers_of,
    recorded_seconds,
    REPORT,
    Results,
    Row,
    THUMBNAIL,
)
from sharp_ros.process import prepare_process

_WIDTH = 320  # of a thumbnail, pixels
_POLL = 0.2  # seconds between looks at whether to stop
_KEY = 16  # hexadecimal digits


class Task(Protocol):
    """What is done with a recording, in another process: it can be pickled, and so imported."""

    def __call__(self, source: Path, folder: Path) -> Row:
        """Fill a folder, `report.json` among it.

        Returns:
            Columns for the table; `reason`, where it is not empty, says why it failed.
        """
        ...


@dataclass
class Progress:
    """For people.

    Attributes:
        total: recordings.
        read: of these, whose contents are known.
        before: finished by an earlier call, or the same as another one.
        rows: of those that were done in this call, in the order they ended.
        died: how many times a worker has.
    """

    total: int
    read: int
    before: int
    rows: list[Row]
    died: int = 0


@dataclass(frozen=True)
class _Job:
    recording: str
    key: str
    results: Results
    task: Task
    size: int

    @property
    def scratch(self) -> Path:
        """Of the same job always the same, so that the next attempt clears what one has left."""
        place = hashlib.sha256(f'{getpass.getuser()} {self.results.place}'.encode()).hexdigest()
        return Path(tempfile.gettempdir()) / f'sharp_ros_{place[:8]}_{self.key}'


def run_fleet(
    recordings: Sequence[str],
    task: Task,
    settings: Mapping[str, Any],
    results: Results,
    executor: Executor,
    *,
    retries: int = 2,
    about: Mapping[str, Any] | None = None,
    show: Callable[[Progress], None] = lambda progress: None,
    stop: threading.Event | None = None,
) -> tuple[list[Row], Row]:  # rows in the order of `recordings`, and their totals
    """Run a task on every recording that is not finished yet, and write the tables.

    Args:
        recordings: paths and URLs.
        task: see `Task`.
        settings: all that its results depend on besides the recording, as JSON.
        results: where they go; one fleet at a time.
        executor: runs the tasks.
        retries: how often a recording is tried again whose worker died.
        about: what else `results.json` says.
        show: called whenever something has ended.
        stop: ends the run; what is under way is given up, what is finished is kept.

    Raises:
        OSError: if the tables cannot be written.
    """
    stop = stop or threading.Event()
    results.create()
    progress = Progress(len(recordings), 0, 0, [])
    tracked = _Tracked(executor, retries, stop, progress, show)
    held, unreadable = _read(recordings, results, tracked)
    keys = {name: _key(told, settings) for name, told in held.items()}
    finished = results.finished()
    jobs = {
        key: _Job(name, key, results, task, held[name].size)
        for name, key in reversed(keys.items())  # so that the first of equal ones gives the name
        if key not in finished
    }
    progress.before = len(keys) - len(jobs)
    show(progress)
    for job, outcome in tracked.run(_work, reversed(jobs.values())):
        row = outcome if isinstance(outcome, dict) else _ended(job, outcome)
        shutil.rmtree(job.scratch, ignore_errors=True)  # of a worker that died on this machine
        finished[job.key] = row
        progress.rows.append(row)
        show(progress)
    rows = [
        {**finished[keys[name]], 'recording': name} if name in keys else unreadable[name]
        for name in recordings
        if name in unreadable or keys.get(name) in finished
    ]
    return rows, results.write_tables(rows, about or {})


def _read(
    recordings: Sequence[str], results: Results, tracked: _Tracked
) -> tuple[dict[str, Contents], dict[str, Row]]:
    """What each recording holds, or the row of one that cannot be read."""
    known, unreadable = results.known_contents(), dict[str, Row]()
    marks: dict[str, str] = {}
    for name in recordings:
        try:
            marks[name] = fingerprint(name)
        except (SharpError, OSError) as error:
            unreadable[name] = _failed_row(name, str(error))
    held = {name: known[name][1] for name in marks if known.get(name, ('',))[0] == marks[name]}
    tracked.progress.read = len(held)
    missing = [name for name in marks if name not in held]
    for name, outcome in tracked.run(_contents, missing):
        if isinstance(outcome, Contents):
            held[name] = outcome
        else:
            unreadable[name] = _failed_row(name, str(outcome))
        tracked.progress.read += 1
        tracked.show(tracked.progress)
    now = {name: (marks[name], told) for name, told in held.items()}
    results.write_contents({**known, **now})  # those of other calls, too
    return {name: held[name] for name in recordings if name in held}, unreadable


@dataclass
class _Tracked:
    """Runs functions of an argument and the number of the attempt, again if a worker dies."""

    executor: Executor
    retries: int
    stop: threading.Event
    progress: Progress
    show: Callable[[Progress], None]

    def run(
        self, function: Callable[[tuple[Any, int]], Any], arguments: Iterable[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """(argument, result or exception), in the order in which they end."""
        waiting = deque((argument, 1) for argument in arguments)
        running: dict[Future[Any], tuple[Any, int]] = {}
        while (waiting or running) and not self.stop.is_set():
            while waiting and len(running) < self.executor.room:
                call = waiting.popleft()
                running[self.executor.submit(function, call)] = call
            done, _ = wait(running, _POLL, FIRST_COMPLETED)
            for future in done:
                argument, attempt = running.pop(future)
                error = future.exception()
                self.executor.release(future)
                if not isinstance(error, self.executor.died):
                    yield argument, future.result() if error is None else error
                    continue
                self.progress.died += 1
                if attempt <= self.retries:
                    # at the end: it may be what filled the memory
                    waiting.append((argument, attempt + 1))
                    self.show(self.progress)
                else:
                    yield argument, WorkerDied(attempt)


class WorkerDied(Exception):
    """The process of a task ended under it, as often as was allowed."""

    def __init__(self, attempts: int) -> None:
        times = 'once' if attempts == 1 else f'{attempts} times'
        super().__init__(
            f'its worker died {times}; what ended it (memory?) is in the log of the system'
        )


def _contents(call: tuple[str, int]) -> Contents | str:
    """Of a recording, or why it cannot be read; executors tell exceptions each in its own way."""
    try:
        return contents(call[0])
    except (SharpError, OSError) as error:
        return str(error)


def _key(held: Contents, settings: Mapping[str, Any]) -> str:
    text = json.dumps([held.digest, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY]


def _work(call: tuple[_Job, int]) -> Row:
    """One recording, in a process of the executor; its row, whatever happens."""
    prepare_process()
    try:
        return _done(*call)
    except Exception as error:  # such as a full disk
        return _ended(call[0], error)


def _done(job: _Job, attempt: int) -> Row:
    scratch = job.scratch
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)  # it is not there any more, or it is somebody else's
    try:
        folder = scratch / 'results'
        folder.mkdir()
        with suppress(OSError):  # of other systems, where it is that of the process so far
            Path('/proc/self/clear_refs').write_text('5', encoding='ascii')  # forget the peak
        begin, before = time.perf_counter(), sum(os.times()[:4])
        told = _run_task(job, scratch / 'recording', folder)
        row = {
            'recording': job.recording,
            'key': job.key,
            'folder': f'{stem(job.recording)}-{job.key}',
            'status': FAILED if told['reason'] else FINISHED,
            **told,
            'bytes': job.size,
            'wall_s': round(time.perf_counter() - begin, 3),
            'cpu_s': round(sum(os.times()[:4]) - before, 3),
            'peak_mb': _peak_mb(),
            'attempts': attempt,
            'host': socket.gethostname(),
            **_thumbnail(folder),
        }
        row = row | _report(folder) | row  # whatever a report calls its numbers
        row['result_bytes'] = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())
        job.results.keep(folder, row)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return row


def _run_task(job: _Job, copies: Path, folder: Path) -> Row:
    """What it returns; whatever it raises, the next recording has nothing to do with it."""
    with (
        (folder / LOG).open('w', buffering=1, encoding='utf-8') as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        try:
            return job.task(local_copy(job.recording, copies), folder)
        except Exception as error:
            traceback.print_exc()
            return {'reason': f'{type(error).__name__}: {error}'}


def _report(folder: Path) -> Row:
    with suppress(OSError, ValueError):
        report = json.loads((folder / REPORT).read_text(encoding='utf-8'))
        return {'recorded_s': recorded_seconds(report), **numbers_of(report)}
    return {'recorded_s': None}


def _thumbnail(folder: Path) -> Row:
    """Make a small picture of an overview, else of the first picture of the results."""
    from sharp_ros.images import encode_jpeg, read_image

    pictures = sorted(p for p in folder.rglob('*') if p.suffix in ('.png', '.jpg'))
    pictures.sort(key=lambda path: (path.stem != 'overview', not path.stem.endswith('_preview')))
    if not pictures:
        return {'picture': None, 'thumbnail': None}
    import cv2

    try:
        image, _ = read_image(pictures[0])
    except InputError:  # of a user's own; the results are there without it
        return {'picture': None, 'thumbnail': None}
    size = (_WIDTH, max(1, round(image.shape[0] * _WIDTH / image.shape[1])))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    (folder / THUMBNAIL).write_bytes(encode_jpeg(small))
    return {'picture': pictures[0].relative_to(folder).as_posix(), 'thumbnail': THUMBNAIL}


def _peak_mb() -> float:
    """Largest resident memory that this process has had, on Linux since it was told to forget."""
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _ended(job: _Job, error: BaseException) -> Row:
    status = LOST if isinstance(error, WorkerDied) else FAILED
    return {**_failed_row(job.recording, str(error)), 'key': job.key, 'status': status}


def _failed_row(name: str, reason: str) -> Row:
    return {
        'recording': name, 'key': None, 'folder': None, 'status': FAILED, 'reason': reason,
    }  # fmt: skip
