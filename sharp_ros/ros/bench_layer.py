"""What the node costs beyond its pipeline, and how soon its messages arrive.

The same frames go through a pipeline alone and through the node around another one, in turns, with
an oracle in place of the network; a process of its own subscribes and reports when each
message arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass, field
from functools import partial
import os
import queue
import struct
import subprocess
import sys
import threading
import time
from typing import Any

from nav_msgs.msg import OccupancyGrid, Odometry
import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
import torch

from sharp_ros.camera import Frame
from sharp_ros.config import SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import SharpError
from sharp_ros.frame_result import OCCUPANCY, POINTS
from sharp_ros.gaussians import Gaussians
from sharp_ros.models import ModelInfo
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.pipeline import Pipeline
from sharp_ros.ros.bench_conversions import (
    FRAME_ID,
    INTRINSICS,
    picture_msg,
    rounded_median,
    timed,
)
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    odometry_to_msg,
    stamp_ns_from_msg,
    stamp_to_msg,
)
from sharp_ros.ros.decoding import FrameDecoder, RawFrame
from sharp_ros.ros.diagnostics import Health
from sharp_ros.ros.monitor import NODE
from sharp_ros.ros.node import SharpNode, SUCCESS
from sharp_ros.ros.outputs import Outputs
from sharp_ros.se3 import look_at

TARGET_MS = 5.0  # that the node may add to a frame
TOPICS: dict[str, type] = {
    'depth/image': Image,
    'depth/camera_info': CameraInfo,
    POINTS: PointCloud2,
    OCCUPANCY: OccupancyGrid,
}
_NAMESPACE = '/bench'  # so that a node that is at work is left in peace
_GRID_SIZE = (384, 256)  # columns and rows of the Gaussians of nano
_INTERVAL_NS = 100_000_000
_WARM_UP = 3
_ARRIVAL = 0.5  # seconds after which the next frame is sent, whatever has arrived
_WORLD = 'odom'
START_TIMEOUT = 120.0
_POSE = look_at(np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.9]), np.array([0.0, 0.0, 1.0]))
_LISTENER = 'from sharp_ros.ros.bench_layer import listen; listen()'


class _Oracle:
    """A predictor that knows the answer."""

    def __init__(self, gaussians: Gaussians) -> None:
        self._gaussians = gaussians

    def __call__(self, image: Any, intrinsics: Any, depth: Any = None) -> Gaussians:
        return self._gaussians


@dataclass
class _Laps(Health):
    """Keeps the durations of every frame."""

    laps: list[dict[str, float]] = field(default_factory=list)

    def frame_done(self, age_ms: float, timings_ms: dict[str, float], mapped: bool) -> None:
        """As `Health`."""
        super().frame_done(age_ms, timings_ms, mapped)
        assert mapped, 'the frame was not mapped: the grid would be missing'
        self.laps.append(timings_ms)


class _TimedOutputs(Outputs):
    """The outputs, with a note of when each message was asked for, built and handed to DDS."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sent: dict[tuple[str, int], tuple[int, int, int]] = {}  # (topic, stamp): instants

    def send(self, topic: str, make: Callable[[], Any]) -> None:
        """As `Outputs`."""
        built: list[tuple[int, int]] = []  # stamp and instant

        def noted() -> Any:
            msg = make()
            built.append((stamp_ns_from_msg(msg.header), time.monotonic_ns()))
            return msg

        start = time.monotonic_ns()
        super().send(topic, noted)
        for stamp_ns, instant in built:
            self.sent[topic, stamp_ns] = (start, instant, time.monotonic_ns())


class _TimedNode(SharpNode):
    """The node with timed outputs, whose frames are given to it one by one."""

    def __init__(self, make_pipeline: Callable[[SharpConfig], Pipeline], **kwargs: Any) -> None:
        super().__init__(make_pipeline, _TimedOutputs, **kwargs)
        self.laps = _Laps()

    def start(self) -> None:
        """Configure and activate."""
        if self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS:
            raise SharpError('the node refused to start; its log above says why')
        self._health = self.laps

    @property
    def outputs(self) -> _TimedOutputs:
        """Those of the running node."""
        outputs = self.running().session.outputs
        assert isinstance(outputs, _TimedOutputs)
        return outputs

    def is_heard(self) -> bool:
        """Whether every topic has a subscriber."""
        publishers = self.outputs.publishers
        return all(publishers[topic].get_subscription_count() for topic in TOPICS)

    def place(self, odometry: Odometry) -> None:
        """Where the camera is at a stamp."""
        self._on_odometry(odometry)

    def work(self, data: bytes, info: CameraInfo) -> None:
        """One frame from its bytes to its outputs; on the worker thread."""
        start = time.perf_counter()
        raw = RawFrame(deserialize_message(data, Image), info)
        receive_ms = (time.perf_counter() - start) * 1e3
        deque(self._process(raw), maxlen=0)
        self.laps.laps[-1]['receive'] = receive_ms


class _Listener:
    """The process that subscribes to everything, seen from here."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.arrivals: dict[tuple[str, int], int] = {}  # (topic, stamp): instant
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def wait(self, stamp_ns: int) -> None:
        """Until all messages of a frame have arrived, or do so no more."""
        end = time.monotonic() + _ARRIVAL
        while not all((topic, stamp_ns) in self.arrivals for topic in TOPICS):
            try:
                topic, stamp, instant = self._lines.get(timeout=end - time.monotonic()).split()
            except (queue.Empty, ValueError):  # a negative timeout
                return
            self.arrivals[topic, int(stamp)] = int(instant)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line)


def listen() -> None:
    """Subscribe to the outputs and print topic, stamp and instant of each message, until killed.

    Instants are of the monotonic clock, which all processes share.
    """
    rclpy.init()
    node = Node('bench_listener')

    def arrived(topic: str, data: bytes) -> None:
        instant = time.monotonic_ns()
        # CDR: 4 bytes of encapsulation, then the header's seconds and nanoseconds
        seconds, nanoseconds = struct.unpack_from('<iI', data, 4)
        print(topic, seconds * 1_000_000_000 + nanoseconds, instant, flush=True)

    for topic, kind in TOPICS.items():
        name = f'{_NAMESPACE}{NODE}/{topic}'
        node.create_subscription(kind, name, partial(arrived, topic), 5, raw=True)
    executor, parent = SingleThreadedExecutor(), os.getppid()
    executor.add_node(node)
    while os.getppid() == parent:  # who is killed cannot kill
        executor.spin_once(timeout_sec=0.5)


@contextmanager
def _listener() -> Iterator[_Listener]:
    process = subprocess.Popen(
        [sys.executable, '-c', _LISTENER],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C is for us
    )
    try:
        yield _Listener(process)
    finally:
        process.kill()
        process.wait()


@contextmanager
def own_context() -> Iterator[Context]:
    """A context of rclpy that leaves signals alone and ends with the block."""
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield context
    finally:
        rclpy.try_shutdown(context=context)


def pipeline_of_oracle() -> Callable[[SharpConfig], Pipeline]:
    """What builds a pipeline that sees a wall, and as many Gaussians as nano predicts."""
    columns, rows = _GRID_SIZE
    gaussians = gaussians_from_depth(
        torch.full((1, rows, columns), 2.0),
        torch.full((3, rows, columns), 0.5),
        INTRINSICS.resized(columns, rows),
    )
    info = ModelInfo('oracle', 'a wall at 2 m', 'Apache-2.0', metric=True)

    def make_pipeline(config: SharpConfig) -> Pipeline:
        return Pipeline(Engine(_Oracle(gaussians), config.model), info, config)

    return make_pipeline


def measure_layer(seconds: float, at_least: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cost of the node per frame, and the latency of its messages.

    Every message counts: grids are published with each frame, more often than by default.
    """
    make_pipeline = pipeline_of_oracle()
    parameters = {'pose.source': 'odometry', 'occupancy.rate_hz': 100.0}
    with ExitStack() as stack:
        context = stack.enter_context(own_context())
        listener = stack.enter_context(_listener())
        node = _TimedNode(
            make_pipeline,
            context=context,
            namespace=_NAMESPACE,
            parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()],
        )
        stack.callback(node.destroy_node)
        node.start()
        _wait_until(node.is_heard, 'no subscriber of the node; does DDS work here?')
        config = node.running().session.config
        alone = make_pipeline(config)
        alone.warm_up(INTRINSICS)
        pairs = _pairs(node, alone, config, listener, seconds, at_least)
    return _layer_report(pairs, node), _latency_report(node, listener)


def _pairs(
    node: _TimedNode,
    alone: Pipeline,
    config: SharpConfig,
    listener: _Listener,
    seconds: float,
    at_least: int,
) -> np.ndarray:  # -> [N, 2, 2]
    """Milliseconds of each frame through the pipeline alone and the node, passed and computed."""
    worker, decoder = node.running().worker, FrameDecoder(config.camera)
    image, info = picture_msg(), camera_info_to_msg(INTRINSICS, 0, FRAME_ID)

    def frame_alone(frame: Frame) -> tuple[float, float]:
        return worker.call(lambda: timed(lambda: alone.process(frame, {POINTS, OCCUPANCY})))

    def frame_of_node(data: bytes, stamp_ns: int) -> tuple[float, float]:
        ms = worker.call(lambda: timed(lambda: node.work(data, info)))
        listener.wait(stamp_ns)  # what it does must not disturb what is timed next
        return ms

    pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    end = time.monotonic() + seconds
    while len(pairs) < _WARM_UP + at_least or time.monotonic() < end:
        stamp_ns = (1 + len(pairs)) * _INTERVAL_NS
        image.header.stamp = stamp_to_msg(stamp_ns)
        node.place(odometry_to_msg(_POSE, stamp_ns, _WORLD, FRAME_ID))
        frame = decoder.decode(RawFrame(image, info)).placed(_POSE, _WORLD)
        data = serialize_message(image)
        if len(pairs) % 2:  # each comes first in its turn
            of_node = frame_of_node(data, stamp_ns)
            pairs.append((frame_alone(frame), of_node))
        else:
            pairs.append((frame_alone(frame), frame_of_node(data, stamp_ns)))
    return np.array(pairs[_WARM_UP:])


def _layer_report(pairs: np.ndarray, node: _TimedNode) -> dict[str, Any]:
    added, added_cpu = (pairs[:, 1] - pairs[:, 0]).T
    laps = node.laps.laps[_WARM_UP:]
    parts = {
        name: rounded_median([lap[name] for lap in laps])
        for name in ('receive', 'decode', 'pose', 'publish')
    }
    outputs = {}
    for topic in TOPICS:
        instants = np.array(
            [v for (t, _), v in node.outputs.sent.items() if t == topic][_WARM_UP:]
        )
        build_ms, publish_ms = (np.median(np.diff(instants), axis=0) / 1e6).tolist()
        outputs[topic] = {'build_ms': round(build_ms, 3), 'publish_ms': round(publish_ms, 3)}
    median = rounded_median(added)
    return {
        'pipeline_ms': rounded_median(pairs[:, 0, 0]),
        'node_ms': rounded_median(pairs[:, 1, 0]),
        'added_ms': median,
        'added_p95_ms': round(float(np.percentile(added, 95)), 3),
        'added_cpu_ms': rounded_median(added_cpu),  # of the thread: without waiting for a core
        'pairs': len(pairs),
        'target_ms': TARGET_MS,
        'met': median <= TARGET_MS,
        'parts_ms': parts,
        'parts_sum_ms': round(sum(parts.values()), 3),
        'outputs': outputs,
    }


def _latency_report(node: _TimedNode, listener: _Listener) -> dict[str, Any]:
    """From the call of publish to the callback of a subscriber that takes the bytes."""
    report = {}
    for topic in TOPICS:
        sent = {key: built for key, (_, built, _) in node.outputs.sent.items() if key[0] == topic}
        sent = dict(list(sent.items())[_WARM_UP:])
        times = [
            (listener.arrivals[key] - built) / 1e6
            for key, built in sent.items()
            if key in listener.arrivals
        ]
        if not times:
            raise SharpError(f'no message of {topic} arrived; does DDS work here?')
        report[topic] = {
            'median_ms': rounded_median(times),
            'p95_ms': round(float(np.percentile(times, 95)), 3),
            'sent': len(sent),
            'lost': len(sent) - len(times),
        }
    return report


def _wait_until(condition: Callable[[], bool], message: str) -> None:
    end = time.monotonic() + START_TIMEOUT
    while not condition():
        if time.monotonic() > end:
            raise SharpError(message)
        time.sleep(0.01)
