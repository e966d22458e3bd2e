"""Requests of one service, in turn, on a thread of their own: how many may wait, and for whom."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
import threading

from sharp_ros.errors import SharpError
from sharp_ros.worker import Worker

MOST_WAITING = 4  # requests of a service behind the one at work
Action = Callable[[], str]  # does what was asked for, and returns the message of the answer


class Lane:
    """Carries out the requests of one service, one after the other.

    What a client gave up waiting for cannot be told: it does not tell the service, and the
    middleware knows of clients, not of their requests. So a request that waited is left out only
    if the service had a client when it came and has none when its turn comes.

    Args:
        name: of the service.
        has_client: whether anybody may wait for an answer of this service.
        log: told of requests that have to wait, and of those that are left out.
    """

    def __init__(
        self, name: str, has_client: Callable[[], bool], log: Callable[[str], object]
    ) -> None:
        self._name, self._has_client, self._log = name, has_client, log
        self._thread: Worker[None] = Worker(lambda _: None, lambda *_: None, f'sharp_{name}')
        self._lock = threading.Lock()
        self._requests: list[Action] = []

    def requests(self) -> list[Action]:
        """What is not answered yet, in order; the first one may be at work."""
        with self._lock:
            return list(self._requests)

    def ask(self, action: Action, heard: bool | None = None) -> Future[str]:
        """Have a request carried out when its turn comes; the future holds its message.

        Args:
            action: what it asks for.
            heard: whether it ends with the last client of the service; None: if there is one.

        Raises:
            SharpError: if too many wait already, or the lane was stopped.
        """
        heard = self._has_client() if heard is None else heard
        with self._lock:
            ahead = len(self._requests)
            if ahead > MOST_WAITING:
                raise SharpError(
                    f'{self._name} is not begun: one request is at work and {MOST_WAITING} wait, '
                    f'as many as may; this one would be number {ahead + 1}. Ask again later'
                )
            self._requests.append(action)
        if ahead:
            self._log(f'{self._name}: a request waits, number {ahead + 1} in the queue')
        try:
            future = self._thread.post(partial(self._carry_out, action, ahead, heard))
        except SharpError:
            self._forget(action)
            raise
        future.add_done_callback(lambda _: self._forget(action))
        return future

    def stop(self, timeout: float) -> None:
        """Begin no more, and let the request at work end if it does so in time.

        Args:
            timeout: seconds.
        """
        self._thread.stop(timeout)

    def _carry_out(self, action: Action, ahead: int, heard: bool) -> str:
        if not ahead:
            return action()
        if heard and not self._has_client():
            text = f'{self._name} is not carried out: nobody waits for the answer any more'
            self._log(text)
            raise SharpError(text)
        return f'{action()} (number {ahead + 1} in the queue)'

    def _forget(self, action: Action) -> None:
        with self._lock:
            self._requests.remove(action)
