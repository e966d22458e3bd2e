"""How long images wait while thousands of live parameters are set in one request."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
import threading
import time
from typing import Any

import numpy as np
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

from sharp_ros.errors import SharpError
from sharp_ros.ros.bench_conversions import FRAME_ID, INTRINSICS, picture_msg, rounded_median
from sharp_ros.ros.bench_layer import own_context, pipeline_of_oracle, START_TIMEOUT
from sharp_ros.ros.conversions import camera_info_to_msg, stamp_to_msg
from sharp_ros.ros.node import SharpNode, SUCCESS

_NAMESPACE, _CAMERA_HZ = '/bench', 30.0


class _WatchedNode(SharpNode):
    """The node, with a note of when each image came."""

    instants: list[float]

    def _on_image(self, msg: Any) -> None:
        self.instants.append(time.monotonic())
        super()._on_image(msg)


@dataclass(frozen=True)
class _Request:
    """Seconds: until the answer, and the longest in which no image was received meanwhile."""

    answer: float
    silence: float


def measure_parameters(changes: int, turns: int) -> dict[str, Any]:
    """Silence and duration of requests to the node, and as rclpy alone would carry them out.

    Args:
        changes: parameters in a request, each of which changes something.
        turns: requests of either kind, which alternate.
    """
    with ExitStack() as stack:
        context = stack.enter_context(own_context())
        node = _WatchedNode(pipeline_of_oracle(), context=context, namespace=_NAMESPACE)
        stack.callback(node.destroy_node)
        node.instants = []
        if node.trigger_configure() != SUCCESS or node.trigger_activate() != SUCCESS:
            raise SharpError('the node refused to start; its log above says why')
        peer = Node('bench_peer', context=context, namespace=_NAMESPACE)
        stack.callback(peer.destroy_node)
        executor, ended = SingleThreadedExecutor(context=context), threading.Event()
        executor.add_node(node)
        threads = [
            threading.Thread(target=_spin, args=(executor, ended)),
            threading.Thread(target=_film, args=(peer, ended)),
        ]
        for thread in threads:
            thread.start()
        stack.callback(lambda: [thread.join() for thread in threads])
        stack.callback(ended.set)
        (service,) = (s for s in node.services if s.srv_name.endswith('/set_parameters'))
        # pylint: disable=protected-access  (what `create_service` was given)
        plain = node._parameter_service._set_parameters_callback
        ways = {'node': service.callback, 'rclpy': plain}
        found: dict[str, list[_Request]] = {way: [] for way in ways}
        for turn in range(2 * turns):
            way = list(ways)[turn % 2]
            service.callback = ways[way]
            found[way].append(_ask(peer, node, changes))
    report: dict[str, Any] = {'changes': changes, 'turns': turns}
    for way, requests in found.items():
        report[f'{way}_silence_ms'] = rounded_median([r.silence * 1e3 for r in requests])
        report[f'{way}_answer_ms'] = rounded_median([r.answer * 1e3 for r in requests])
    return report


def _spin(executor: SingleThreadedExecutor, ended: threading.Event) -> None:
    while not ended.is_set():
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()


def _film(peer: Node, ended: threading.Event) -> None:
    """Publish images as a camera does."""
    images = peer.create_publisher(Image, 'image', 1)
    infos = peer.create_publisher(CameraInfo, 'camera_info', 1)
    image = picture_msg()
    while not ended.wait(1 / _CAMERA_HZ):
        stamp_ns = time.time_ns()
        image.header.stamp = stamp_to_msg(stamp_ns)
        infos.publish(camera_info_to_msg(INTRINSICS, stamp_ns, FRAME_ID))
        images.publish(image)


def _ask(peer: Node, node: _WatchedNode, changes: int) -> _Request:
    values = 1.0 + np.arange(changes) % 7
    parameters = [Parameter('occupancy.rate_hz', value=float(v)) for v in values]
    request = SetParameters.Request(parameters=[p.to_parameter_msg() for p in parameters])
    client = peer.create_client(SetParameters, f'{node.get_name()}/set_parameters')
    executor = SingleThreadedExecutor(context=peer.context)
    executor.add_node(peer)
    try:
        if not client.wait_for_service(START_TIMEOUT):
            raise SharpError('no service of the node; does DDS work here?')
        begun = time.monotonic()
        answer = client.call_async(request)
        executor.spin_until_future_complete(answer, START_TIMEOUT)
        ended = time.monotonic()
        result = answer.result()
        if result is None or not all(r.successful for r in result.results):
            raise SharpError('the node did not set all parameters')
    finally:
        executor.shutdown()
        peer.destroy_client(client)
    instants = [begun, *(i for i in node.instants if begun < i < ended), ended]
    return _Request(ended - begun, float(np.diff(instants).max()))
