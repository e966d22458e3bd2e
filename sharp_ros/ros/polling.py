"""A topic whose messages are taken when they are needed, not one by one as they come.

An executor of rclpy prepares its wait set anew for each callback, which for the hundreds of
messages a second of an IMU costs more than all that is done with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.subscription import Subscription


class PolledGroup(CallbackGroup):
    """Of subscriptions that no executor waits for."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing has begun."""


def waiting_messages(subscription: Subscription[Any]) -> Iterator[Any]:
    """What has come since, oldest first, as far as the queue holds it; none once destroyed.

    Args:
        subscription: of a `PolledGroup`; if it is raw, messages are the bytes that were sent.
    """
    try:
        with subscription.handle:
            while True:
                taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
                if taken is None:
                    return
                yield taken[0]
    except InvalidHandle:
        return
