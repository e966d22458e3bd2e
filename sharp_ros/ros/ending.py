"""How a process of ours ends: what is ours first, then the middleware, for which time is short.

Fast DDS, told to destroy participants in several processes at the same moment, can wait for ever
within its TCP transport, in C++ and with Python's lock held. No thread of Python could end that,
so a timer of the system does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import ctypes
import os
import signal
import sys
import threading
from typing import NoReturn

PATIENCE = 3.0  # seconds; `launch` sends SIGTERM after 5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SIGEV_THREAD, _CLOCK_MONOTONIC = 2, 1  # of Linux


class Ending:
    """The wish to end, as Ctrl-C and SIGTERM express it; several of them are one wish.

    None raises KeyboardInterrupt between two lines of whatever runs. From the first one on the
    process has `PATIENCE` seconds. To be made on the main thread.

    Attributes:
        asked: set when the process is to end.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._lock = threading.Lock()
        self._wake: Callable[[], None] | None = None
        self._deadline: Deadline | None = None
        # C writes into the pipe at once, where a handler in Python waits until the middleware is
        # done with what it does on the main thread
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._handlers = [signal.signal(number, lambda *_: None) for number in _SIGNALS]
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name='ending', daemon=True).start()

    def wake(self, wake: Callable[[], None]) -> None:
        """What ends the waiting of the main thread; until it is told, the process leaves at once.

        Args:
            wake: called on another thread when the process is asked to end, or has been.
        """
        with self._lock:
            self._wake = wake
            if self.asked.is_set():
                wake()

    def limit(self, code: int) -> None:
        """Give the process `PATIENCE` seconds until it leaves, whatever hangs; once.

        Args:
            code: exit code.
        """
        with self._lock:
            if self._deadline is None:
                self._deadline = Deadline(PATIENCE, code)

    def close(self) -> None:
        """Leave the process as it was before, in which this was not the main program."""
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._pipe[1], b'\0')  # no signal: ends the thread, which closes the pipe
        if self._deadline is not None:
            self._deadline.cancel()

    def _listen(self) -> None:
        while number := os.read(self._pipe[0], 1)[0]:
            if number not in _SIGNALS or self.asked.is_set():
                continue
            with self._lock:
                if self._wake is None:  # nothing of ours is there yet
                    leave(0)
            self.limit(0)
            self.asked.set()
            self._wake()
        for end in self._pipe:
            os.close(end)


class Deadline:
    """Ends the process after a time, with a code, even if no thread of Python can run.

    Args:
        seconds: from now on.
        code: exit code.
    """

    def __init__(self, seconds: float, code: int) -> None:
        try:
            self.cancel = _system_timer(seconds, code)
        except (AttributeError, OSError):  # no Linux, or another C library
            timer = threading.Timer(seconds, os._exit, (code,))
            timer.daemon = True
            timer.start()
            self.cancel = timer.cancel


@contextmanager
def limited(code: int) -> Iterator[None]:
    """Whatever hangs in the block, the process leaves after `PATIENCE` seconds.

    Args:
        code: exit code then.
    """
    deadline = Deadline(PATIENCE, code)
    try:
        yield
    finally:
        deadline.cancel()


class _Event(ctypes.Structure):
    """`struct sigevent`, with a function to be called on a thread of its own."""

    _fields_ = (
        ('value', ctypes.c_void_p),
        ('number', ctypes.c_int),
        ('notify', ctypes.c_int),
        ('function', ctypes.c_void_p),
        ('rest', ctypes.c_char * 64),
    )


class _Times(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = tuple((n, ctypes.c_long) for n in ('every_s', 'every_ns', 'first_s', 'first_ns'))


def _system_timer(seconds: float, code: int) -> Callable[[], object]:
    """Have the C library call `_exit(code)` after a time; what to call to prevent that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, 'timer_create'):  # before glibc 2.34
        libc = ctypes.CDLL('librt.so.1', use_errno=True)
    leave_now = ctypes.cast(ctypes.CDLL(None)._exit, ctypes.c_void_p)
    event = _Event(value=code, notify=_SIGEV_THREAD, function=leave_now)
    timer = ctypes.c_void_p()
    if libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
        raise OSError(ctypes.get_errno(), 'timer_create')
    times = _Times(first_s=int(seconds), first_ns=int(seconds % 1 * 1e9))
    if libc.timer_settime(timer, 0, ctypes.byref(times), None):
        raise OSError(ctypes.get_errno(), 'timer_settime')
    return lambda: libc.timer_delete(timer)


def leave(code: int) -> NoReturn:
    """End this process now: what was printed is out, and all that is ours is closed.

    An interpreter that is torn down waits for threads and libraries that have no end of their own.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
