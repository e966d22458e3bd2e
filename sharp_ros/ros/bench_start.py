"""How long the node takes from the start of its process, as `sharp-ros demo` starts it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
import sys
from tempfile import TemporaryDirectory
import threading
import time
from typing import Any

from lifecycle_msgs.msg import Transition
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from sharp_ros.errors import SharpError
from sharp_ros.ros.bench_conversions import FRAME_ID, INTRINSICS, picture_msg, rounded_median
from sharp_ros.ros.bench_layer import own_context, START_TIMEOUT
from sharp_ros.ros.camera_driver import CAMERA
from sharp_ros.ros.conversions import camera_info_to_msg
from sharp_ros.ros.demo import manager_of, node_process
from sharp_ros.ros.monitor import NODE

TARGET_S = 6.0


def measure_start(model: str, quick: bool) -> dict[str, Any]:
    """Seconds from the start of the node's process to its first depth image, caches warm."""
    if not quick:
        _first_output(model)  # may have to compile kernels
    runs = [_first_output(model) for _ in range(1 if quick else 3)]
    median = rounded_median([run['depth_s'] for run in runs])
    return {
        'model': model,
        'median_s': median,
        'target_s': TARGET_S,
        'met': median <= TARGET_S,
        'runs': runs,
    }


def _first_output(model: str) -> dict[str, float]:
    with ExitStack() as stack:
        log = Path(stack.enter_context(TemporaryDirectory())) / 'node.log'
        context = stack.enter_context(own_context())
        peer = Node('sharp_bench', context=context)
        stack.callback(peer.destroy_node)
        executor = SingleThreadedExecutor(context=context)
        stack.callback(executor.shutdown)
        executor.add_node(peer)
        instants: dict[str, float] = {}

        def on_depth(_: object) -> None:
            instants.setdefault('depth_s', time.monotonic())

        peer.create_subscription(
            Image,
            f'{NODE}/depth/image',
            on_depth,
            1,
            raw=True,
        )
        camera = peer.create_publisher(Image, f'{CAMERA}/image', 1)
        infos = peer.create_publisher(CameraInfo, f'{CAMERA}/camera_info', 1)
        image = picture_msg()
        start = time.monotonic()
        process = stack.enter_context(node_process(model, log))
        try:
            log_line = partial(print, file=sys.stderr)
            manager = manager_of(process, peer, executor, threading.Event(), log_line)
            manager.change(Transition.TRANSITION_CONFIGURE)
            instants['configured_s'] = time.monotonic()
            manager.change(Transition.TRANSITION_ACTIVATE)
            instants['active_s'] = time.monotonic()
            end = time.monotonic() + START_TIMEOUT
            while 'depth_s' not in instants:
                if time.monotonic() > end:
                    raise SharpError('no depth came from the node')
                image.header.stamp = peer.get_clock().now().to_msg()
                infos.publish(camera_info_to_msg(INTRINSICS, 0, FRAME_ID))
                camera.publish(image)
                executor.spin_once(timeout_sec=0.03)
        except SharpError as error:
            said = log.read_text(errors='replace')[-1000:]
            raise SharpError(f'{error}. Its log ends with: {said}') from error
    return {name: round(instant - start, 3) for name, instant in instants.items()}
