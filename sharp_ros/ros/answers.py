"""Answers of services that are sent again until the client can hear them.

A client may ask before the service has found where it listens. Fast DDS waits 100 ms for that and
then drops the answer: what was asked for is done, and the client waits for ever. All that rclpy
does is to warn, once in a process. On a busy machine, finding takes longer.
"""

from __future__ import annotations

import time
from typing import Any
import warnings

from rclpy.clock import (
    Clock,
    ClockType,  # pyright: ignore[reportPrivateImportUsage]  # Humble has it nowhere else
)
from rclpy.node import Node
from rclpy.service import Service

_PAUSE, _PATIENCE = 0.2, 10.0  # seconds between two attempts, and for all of them


def answer_patiently(node: Node) -> None:
    """Have every service that a node has by now, also those of rclpy, try more than once."""
    for service in node.services:
        service.send_response = _Sender(node, service)  # which is what executors call


class _Sender:
    def __init__(self, node: Node, service: Service[Any, Any]) -> None:
        self._node, self._name, self._send = node, service.srv_name, service.send_response

    def __call__(self, response: Any, header: Any) -> None:
        if self._sent(response, header):
            return
        end = time.monotonic() + _PATIENCE

        def again() -> None:
            sent = self._sent(response, header)
            if not sent and time.monotonic() < end:
                return
            self._node.destroy_timer(timer)
            if not sent:
                self._node.get_logger().warning(
                    f'a client of {self._name} may lack its answer: it was not found within '
                    f'{_PATIENCE:g} s'
                )

        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        timer = self._node.create_timer(_PAUSE, again, clock=steady)

    def _sent(self, response: Any, header: Any) -> bool:
        """Whether it is on its way, or nobody waits for it any more."""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter('always')
            self._send(response, header)
        return not any('failed to send response' in str(w.message) for w in warned)
