"""A thread with a one-slot mailbox: the newest item wins, and every item is accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
import threading
import time
from typing import Any, Generic, TypeVar

from sharp_ros.errors import SharpError

Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass(frozen=True)
class WorkerCounts:
    """What became of the items so far; `frames_in == processed + dropped + pending` always.

    Attributes:
        frames_in: items submitted or rejected.
        processed: items the callback finished.
        dropped: items that were replaced by a newer one, refused, or failed.
        pending: items in the slot or begun, at most three.
        reasons: how often each reason made an item drop; `replaced` is the normal one.
        busy_seconds: for how long the item at work has been so; 0 when there is none.
    """

    frames_in: int
    processed: int
    dropped: int
    pending: int
    reasons: dict[str, int]
    busy_seconds: float = 0.0


Wait = Callable[[], None]  # until a device has done its part


class Worker(Generic[Item]):
    """Runs `process` on its own thread, always with the newest item submitted.

    Args:
        process: called with one item at a time on the worker thread. Where part of the work is
            done by another device, it may be a generator that hands the device its part and
            yields a function that waits for it: once that returns, the next item is begun before
            this one goes on, so that the device is never idle while this thread works. A
            `SharpError` it raises drops the item under the error's `reason`; any other exception
            under `internal_error`. Neither ends the thread.
        on_error: called with every exception and the reason it was counted under.
        name: of the thread, for debuggers.
    """

    def __init__(
        self,
        process: Callable[[Item], Iterable[Wait] | None],
        on_error: Callable[[Exception, str], None],
        name: str = 'worker',
    ) -> None:
        self._process = process
        self._on_error = on_error
        self._condition = threading.Condition()
        self._slot: list[Item] = []  # empty, or the one waiting item
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._frames_in = self._processed = self._busy = 0
        self._since = 0.0  # when the item that is to end next became that
        self._reasons: Counter[str] = Counter()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> None:
        """Leave an item in the slot, dropping the one that waits there; never blocks."""
        with self._condition:
            self._frames_in += 1
            if self._stopping:
                self._reasons['stopped'] += 1
                return
            if self._slot:
                self._slot.clear()
                self._reasons['replaced'] += 1
            self._slot.append(item)
            self._condition.notify()

    def reject(self, reason: str) -> None:
        """Count an item that cannot even be submitted."""
        with self._condition:
            self._frames_in += 1
            self._reasons[reason] += 1

    def call(self, function: Callable[[], Result], timeout: float | None = None) -> Result:
        """Run a function on the worker thread, between two items, and return its result.

        Raises:
            TimeoutError: if the worker did not get to it in `timeout` seconds.
            SharpError: if the worker was stopped first.
        """
        future = self.post(function)
        try:
            return future.result(timeout)
        except FutureTimeoutError as error:  # the builtin only from Python 3.11 on
            future.cancel()
            raise TimeoutError(f'the worker was busy for {timeout} s') from error

    def post(self, function: Callable[[], Result]) -> Future[Result]:
        """As `call`, without waiting; the future holds the result, or what was raised.

        Raises:
            SharpError: if the worker was stopped.
        """
        future: Future[Result] = Future()
        with self._condition:
            if self._stopping:
                raise SharpError('the worker is stopped; activate the node first')
            self._calls.append((function, future))
            self._condition.notify()
        return future

    def counts(self) -> WorkerCounts:
        """A consistent snapshot of the counters."""
        with self._condition:
            return WorkerCounts(
                self._frames_in,
                self._processed,
                sum(self._reasons.values()),
                len(self._slot) + self._busy,
                dict(self._reasons),
                time.monotonic() - self._since if self._busy else 0.0,
            )

    def stop(self, timeout: float = 5.0) -> bool:
        """Drop what waits, finish what runs, end the thread; True if it ended in time."""
        with self._condition:
            self._stopping = True
            if self._slot:
                self._slot.clear()
                self._reasons['stopped'] += 1
            self._condition.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            with self._condition:
                self._condition.wait_for(lambda: self._slot or self._calls or self._stopping)
                calls, self._calls = self._calls, []
                stopping = self._stopping
            for function, future in calls:
                _answer(function, future, stopping or self._stopping)
            begun = self._begin()
            while begun is not None:
                begun = self._finish(*begun)

    def _begin(self) -> tuple[Generator[Wait, None, None], Wait] | None:
        """Run the item in the slot until a device has to be waited for, or to its end."""
        with self._condition:
            if not self._slot:
                return None
            item = self._slot.pop()
            self._since = self._since if self._busy else time.monotonic()
            self._busy += 1
        steps = self._steps(item)
        wait = next(steps, None)
        return None if wait is None else (steps, wait)

    def _finish(
        self, steps: Generator[Wait, None, None], wait: Wait | None
    ) -> tuple[Generator[Wait, None, None], Wait] | None:
        """Run an item to its end; what has been begun meanwhile is returned, see `_begin`."""
        following = None
        while wait is not None:
            try:
                wait()
            except Exception as error:  # as if raised where the process waits
                with suppress(StopIteration):
                    steps.throw(error)
            # whoever calls wants no item under way
            if following is None and not self._calls:
                following = self._begin()
            wait = next(steps, None)
        return following

    def _steps(self, item: Item) -> Generator[Wait, None, None]:
        """Process an item, and count what became of it."""
        reason = ''
        try:
            yield from self._process(item) or ()
        except Exception as error:
            reason = getattr(error, 'reason', 'failed')
            if not isinstance(error, SharpError):
                reason = 'internal_error'
            self._on_error(error, reason)
        with self._condition:
            self._busy -= 1
            self._since = time.monotonic()
            if reason:
                self._reasons[reason] += 1
            else:
                self._processed += 1


def _answer(function: Callable[[], Any], future: Future[Any], stopping: bool) -> None:
    if not future.set_running_or_notify_cancel():
        return  # its caller gave up waiting
    if stopping:
        future.set_exception(SharpError('the worker was stopped'))
        return
    try:
        future.set_result(function())
    except Exception as error:  # the caller of `call` gets it
        future.set_exception(error)
