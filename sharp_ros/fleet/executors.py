"""Where tasks run: processes of this machine, or Ray; both give standard futures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
import ctypes
import os
import signal
from typing import Any, Protocol

from sharp_ros.process import limit_threads, prepare_for_ray, thread_limits

_IN_FLIGHT = 1000  # tasks that Ray is given at a time: enough for it to see what it has to place
_PR_SET_PDEATHSIG = 1  # of Linux


class Executor(Protocol):
    """Runs functions elsewhere.

    Attributes:
        room: how many may be submitted before one is done.
        died: raised by the future of a function whose process ended under it.
    """

    room: int
    died: tuple[type[BaseException], ...]

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exception: object) -> None:
        """End what still runs."""
        ...

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        """Begin a function that can be imported, with an argument that can be pickled."""
        ...

    def release(self, future: Future[Any]) -> None:
        """Take back the place of a future that is done."""
        ...


class Processes:
    """Processes of this machine, each a pool of one.

    A pool of several is broken as a whole when one of its processes dies, and does not tell which
    task was the cause: all would be tried again, and a recording that takes the process with it
    every time would take its neighbours along.

    Args:
        jobs: how many.
        threads: of each.
    """

    died: tuple[type[BaseException], ...] = (BrokenProcessPool,)

    def __init__(self, jobs: int, threads: int) -> None:
        self.room, self._threads = jobs, threads
        self._idle: list[tuple[ProcessPoolExecutor, Future[int]]] = []
        self._busy: dict[Future[Any], tuple[ProcessPoolExecutor, Future[int]]] = {}

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exception: object) -> None:
        for pool, pid in (*self._idle, *self._busy.values()):
            # a map that is being made ends with the frame at hand, see apps.interruption
            with suppress(BrokenProcessPool, ProcessLookupError):
                os.kill(pid.result(), signal.SIGTERM)
            pool.shutdown()

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        """See `Executor`."""
        while self._idle:
            pool, pid = self._idle.pop()
            try:
                return self._begun(pool, pid, function, argument)
            except BrokenProcessPool:  # it was killed while it had nothing to do
                pool.shutdown()
        return self._begun(*self._new_pool(), function, argument)

    def _begun(
        self,
        pool: ProcessPoolExecutor,
        pid: Future[int],
        function: Callable[[Any], Any],
        argument: Any,
    ) -> Future[Any]:
        future = pool.submit(function, argument)
        self._busy[future] = pool, pid
        return future

    def release(self, future: Future[Any]) -> None:
        """See `Executor`."""
        pool, pid = self._busy.pop(future)
        if isinstance(future.exception(), BrokenProcessPool):
            pool.shutdown()
        else:
            self._idle.append((pool, pid))

    def _new_pool(self) -> tuple[ProcessPoolExecutor, Future[int]]:
        from multiprocessing import get_context

        # forked, it would inherit the threads' locks of whatever has been loaded here
        pool = ProcessPoolExecutor(1, get_context('spawn'), _prepare, (self._threads,))
        return pool, pool.submit(os.getpid)


def _prepare(threads: int) -> None:
    """Set up a process of a pool before anything large is imported."""
    limit_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends us
    with suppress(OSError, AttributeError):  # of other systems
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody is left to hear of it


class Ray:
    """A Ray cluster: the one that RAY_ADDRESS or this machine knows, else one of its own.

    Args:
        jobs: how many tasks at a time; 0: as many as the cluster has processors for.
        threads: of each, and so the processors that Ray sets aside for it.
    """

    def __init__(self, jobs: int, threads: int) -> None:
        prepare_for_ray()
        import ray  # pyright: ignore[reportMissingImports]

        self._ray = ray
        self.room = jobs or _IN_FLIGHT
        errors = ray.exceptions
        self.died: tuple[type[BaseException], ...] = (
            *(errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError),
            errors.OutOfMemoryError,
        )
        quiet = {'log_to_driver': False, 'logging_level': 'ERROR'}
        try:
            ray.init(address='auto', **quiet)
        except ConnectionError:
            processors = jobs * threads if jobs else None
            ray.init(address='local', num_cpus=processors, include_dashboard=False, **quiet)
        self._remote: dict[Callable[[Any], Any], Any] = {}
        # we count attempts ourselves, so that both executors do alike
        self._options = {
            'num_cpus': threads,
            'max_retries': 0,
            'runtime_env': {'env_vars': thread_limits(threads)},
        }

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ray.shutdown()

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        """See `Executor`."""
        if function not in self._remote:  # each of them is sent to the cluster once
            self._remote[function] = self._ray.remote(**self._options)(function)
        return self._remote[function].remote(argument).future()

    def release(self, future: Future[Any]) -> None:
        """See `Executor`."""


EXECUTORS: dict[str, Callable[[int, int], Executor]] = {'processes': Processes, 'ray': Ray}
