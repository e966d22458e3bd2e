"""Asks a lifecycle node for transitions; requests and answers may get lost on the way."""

from __future__ import annotations

from collections.abc import Callable
import math
import time
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import Executor
from rclpy.node import Node

from sharp_ros.errors import SharpError

PATIENCE = 10.0  # seconds without an answer until something is said and done about it
_STEPS = {  # what a transition is called, where it begins and where it leads
    Transition.TRANSITION_CONFIGURE: (
        'configure',
        State.PRIMARY_STATE_UNCONFIGURED,
        State.PRIMARY_STATE_INACTIVE,
    ),
    Transition.TRANSITION_ACTIVATE: (
        'activate',
        State.PRIMARY_STATE_INACTIVE,
        State.PRIMARY_STATE_ACTIVE,
    ),
    Transition.TRANSITION_DEACTIVATE: (
        'deactivate',
        State.PRIMARY_STATE_ACTIVE,
        State.PRIMARY_STATE_INACTIVE,
    ),
}
_PRIMARY = range(1, 5)  # states that last; from all others a node goes on by itself


class TransitionTimeoutError(SharpError):
    """A transition took longer than its caller wants to wait."""


class Manager:
    """Leads a lifecycle node through its states, and never waits in silence.

    An answer that does not come within `PATIENCE` seconds may be lost, or the node may be at work:
    then its state is looked up, and it is asked again if it is still where it was.

    Args:
        peer: node that owns the clients.
        name: full name of the lifecycle node.
        executor: that spins the peer.
        check: called every moment while waiting; what it raises ends the waiting.
        tell: called with what is waited for.
        limit: seconds that a transition may take.
        log: where the node says why it refuses.
        renew: makes another peer and its executor, with a participant of its own, when a service
            is not seen in time. Called once at most: what Fast DDS missed when two processes
            discovered each other at their start may stay missed for ever.
    """

    def __init__(
        self,
        peer: Node,
        name: str,
        executor: Executor,
        check: Callable[[], None],
        tell: Callable[[str], object],
        limit: float = math.inf,
        log: str = 'its log',
        renew: Callable[[], tuple[Node, Executor]] | None = None,
    ) -> None:
        self._name, self._check, self._tell = name, check, tell
        self._limit, self._end, self._log = limit, math.inf, log
        self._renew = renew
        self._connect(peer, executor)

    def _connect(self, peer: Node, executor: Executor) -> None:
        self._executor = executor
        self._clients = {
            service: peer.create_client(service, f'{self._name}/{name}')
            for service, name in ((GetState, 'get_state'), (ChangeState, 'change_state'))
        }

    def start(self) -> None:
        """Have the node configured and activated, as far as it is not.

        Raises:
            SharpError: if it refuses, or is finalized; TransitionTimeoutError past the limit.
        """
        self._end = time.monotonic() + self._limit
        state = self._state()
        if state.id == State.PRIMARY_STATE_UNCONFIGURED:
            self.change(Transition.TRANSITION_CONFIGURE)
        if state.id in (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE):
            self.change(Transition.TRANSITION_ACTIVATE)
        elif state.id != State.PRIMARY_STATE_ACTIVE:
            raise SharpError(f'{self._name} is {state.label}; start it anew')

    def change(self, transition: int) -> None:
        """Request a transition and wait until it is done.

        Args:
            transition: one of `lifecycle_msgs/msg/Transition`.

        Raises:
            SharpError: if the node refuses; TransitionTimeoutError past the limit.
        """
        self._end = time.monotonic() + self._limit
        label, before, goal = _STEPS[transition]
        request = ChangeState.Request(transition=Transition(id=transition))
        while True:
            answer = self._ask(ChangeState, request)
            if answer is not None and answer.success:
                return
            state = self._state()
            if state.id == goal:  # the answer was lost
                return
            if answer is not None or state.id != before:
                raise SharpError(
                    f'{self._name} refused to {label} and is {state.label}; {self._log} says why'
                )
            self._tell(f'{self._name} is still {state.label}; it is asked to {label} again')

    def _state(self) -> State:
        """The state that the node is in, or comes to."""
        while True:
            answer = self._ask(GetState, GetState.Request())
            if answer is not None and answer.current_state.id in _PRIMARY:
                return answer.current_state
            self._executor.spin_once(timeout_sec=0.1)

    def _ask(self, service: type, request: Any) -> Any:
        """The answer of a service, or None if there is none in time."""
        while not self._spin_until((client := self._clients[service]).service_is_ready):
            self._tell(f'{client.srv_name} is not there yet; is the node running?')
            if self._renew is not None:
                self._connect(*self._renew())
                self._renew = None
        future = client.call_async(request)
        if self._spin_until(future.done):
            return future.result()
        client.remove_pending_request(future)
        self._tell(
            f'{client.srv_name} has not answered within {PATIENCE:.0f} s; the node may be at work '
            '(a first start compiles kernels), or the answer is lost: looking up its state'
        )
        return None

    def _spin_until(self, condition: Callable[[], bool]) -> bool:
        """Whether a condition came true within `PATIENCE` seconds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            self._check()
            now = time.monotonic()
            if now > self._end:
                raise TransitionTimeoutError(
                    f'{self._name} did not answer within {self._limit:.0f} s; try again when '
                    'fewer programs run'
                )
            if now > end:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True
