"""`sharp_autostart NODE`: configures and activates a lifecycle node, then ends."""

from __future__ import annotations

import sys

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from sharp_ros.errors import SharpError
from sharp_ros.ros.ending import Ending
from sharp_ros.ros.lifecycle import Manager


class _AskedToEndError(Exception):
    pass


def main(ending: Ending, args: list[str] | None = None) -> int:
    """Wait for the node, configure and activate it; 1 if it refuses.

    Args:
        ending: tells when to give up.
        args: command line in place of that of the process.
    """
    command = sys.argv if args is None else args
    peers = []

    def connect() -> tuple[Node, SingleThreadedExecutor]:
        context = rclpy.Context()
        rclpy.init(args=command, context=context, signal_handler_options=SignalHandlerOptions.NO)
        peer = Node('sharp_autostart', context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(peer)
        ending.wake(executor.wake)
        peers.append((peer, executor))
        return peer, executor

    peer, executor = connect()
    code, log = 1, peer.get_logger()

    def check() -> None:
        if ending.asked.is_set():
            raise _AskedToEndError

    try:
        names = remove_ros_args(command)[1:]
        if len(names) != 1:
            raise SharpError('usage: sharp_autostart NODE, the full name of a lifecycle node')
        Manager(peer, names[0], executor, check, log.warning, renew=connect).start()
        if peers[-1][0].get_fully_qualified_node_names().count(names[0]) > 1:
            log.warning(
                f'several nodes are named {names[0]}, and either may answer; end the older one, '
                'or give one of them another name or namespace'
            )
        log.info(f'{names[0]} is active')
        code = 0
    except SharpError as error:
        log.error(str(error))
    except _AskedToEndError:
        code = 0
    ending.limit(code)
    for peer, executor in peers:
        executor.shutdown(0.0)  # it holds on to the node, whose participant would stay
        peer.destroy_node()
        peer.context.try_shutdown()
    return code
