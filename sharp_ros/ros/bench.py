"""`sharp-ros bench ros`: what the node costs beyond its pipeline, and how soon it answers.

The same frames go through a pipeline alone and through the node around another one, in turns, with
an oracle in place of the network; a process of its own subscribes and tells when what arrived.
Then the node is started as `sharp-ros demo` does, until its first depth image is here.
"""

from __future__ import annotations

import argparse
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass, field
from functools import partial
import json
import os
from pathlib import Path
import queue
import struct
import subprocess
import sys
from tempfile import TemporaryDirectory
import threading
import time
from typing import Any

import cv2
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import OccupancyGrid, Odometry
import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.signals import SignalHandlerOptions
from rich import box
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
import torch

from sharp_ros.apps.bench import HEIGHT, WIDTH
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import SharpError
from sharp_ros.evaluation.circumstances import circumstances
from sharp_ros.files import write_atomically
from sharp_ros.gaussians import Gaussians
from sharp_ros.models import ModelInfo
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.pipeline import OCCUPANCY, Pipeline, POINTS
from sharp_ros.point_cloud import organised_cloud
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    cloud_to_msg,
    header_to_msg,
    image_from_msg,
    image_to_msg,
    odometry_to_msg,
    stamp_ns_from_msg,
    stamp_to_msg,
)
from sharp_ros.ros.decoding import FrameDecoder, RawFrame
from sharp_ros.ros.demo import CAMERA, manager_of, node_process
from sharp_ros.ros.diagnostics import Health
from sharp_ros.ros.monitor import NODE
from sharp_ros.ros.node import SharpNode, SUCCESS
from sharp_ros.se3 import look_at

LAYER_TARGET_MS, START_TARGET_S = 5.0, 6.0
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
_START_TIMEOUT = 120.0
_FRAME_ID, _WORLD = 'camera_optical_frame', 'odom'
_INTRINSICS = Intrinsics.from_hfov(1.2, WIDTH, HEIGHT)
_POSE = look_at(np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.9]), np.array([0.0, 0.0, 1.0]))
_LISTENER = 'from sharp_ros.ros.bench import listen; listen()'
# cv_bridge is built for the interpreter of the system, where ours has to do without ROS
_DECODE_PROGRAM = """
import json, sys, time
from types import SimpleNamespace
sys.path.append(sys.argv[1])
import numpy as np
from cv_bridge import CvBridge
import cv_bridge.boost.cv_bridge_boost
from sharp_ros.ros.conversions import image_from_msg

width, height, runs = map(int, sys.argv[2:])
bridge, times = CvBridge(), {}
for encoding, size in {'bgr8': 3, 'bayer_rggb8': 1, 'yuv422': 2}.items():
    noise = np.random.default_rng(0).integers(0, 256, width * height * size, np.uint8)
    msg = SimpleNamespace(
        width=width, height=height, encoding=encoding, step=width * size, is_bigendian=0,
        data=noise.tobytes(),
    )
    times[encoding] = []
    for _ in range(runs):
        start = time.perf_counter()
        image_from_msg(msg)
        middle = time.perf_counter()
        bridge.imgmsg_to_cv2(msg, 'rgb8')
        times[encoding].append((middle - start, time.perf_counter() - middle))
print(json.dumps(times))
"""


def run(args: argparse.Namespace) -> int:
    """Measure, print, write the report. Missed targets are reported, not punished.

    Raises:
        SharpError: if the node does not start, or nothing of it arrives.
    """
    os.environ.setdefault('FASTDDS_BUILTIN_TRANSPORTS', 'DEFAULT?sockets_size=8MB')
    runs = 5 if args.quick else 50
    layer, latency = _layer(0.0 if args.quick else args.seconds, at_least=runs)
    report = {
        'ros_layer': layer,
        'latency': latency,
        'decode': _decode_comparison(runs),
        'cloud': _cloud_comparison(runs),
        'start': _start(args.model, args.quick),
        'input': f'{WIDTH}x{HEIGHT} bgr8',
        'transport': os.environ['FASTDDS_BUILTIN_TRANSPORTS'],
        **circumstances(),
    }
    if args.json is not None:
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')
    _print(report)
    return 0


# --- what the node adds to a frame, and how long messages travel --------------------------------


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


class _TimedNode(SharpNode):
    """The node, with a note of when each message was asked for, built and handed to DDS."""

    def __init__(self, make_pipeline: Callable[[SharpConfig], Pipeline], **kwargs: Any) -> None:
        super().__init__(make_pipeline, **kwargs)
        self.sent: dict[tuple[str, int], tuple[int, int, int]] = {}  # (topic, stamp): instants
        self.laps = _Laps()

    def start(self) -> None:
        """Configure and activate."""
        if self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS:
            raise SharpError('the node refused to start; its log above says why')
        self._health = self.laps

    def is_heard(self) -> bool:
        """Whether every topic has a subscriber."""
        return all(self._outputs[topic].get_subscription_count() for topic in TOPICS)

    def place(self, odometry: Odometry) -> None:
        """Where the camera is at a stamp."""
        self._on_odometry(odometry)

    def work(self, data: bytes, info: CameraInfo) -> None:
        """One frame from its bytes to its outputs; on the worker thread."""
        start = time.perf_counter()
        raw = RawFrame(deserialize_message(data, Image), info)
        receive_ms = (time.perf_counter() - start) * 1e3
        self._stamp_ns = stamp_ns_from_msg(raw.image.header)
        deque(self._process(raw), maxlen=0)
        self.laps.laps[-1]['receive'] = receive_ms

    def _send(self, topic: str, make: Callable[[], Any]) -> None:
        built: list[int] = []

        def timed() -> Any:
            msg = make()
            built.append(time.monotonic_ns())
            return msg

        start = time.monotonic_ns()
        super()._send(topic, timed)
        if built:
            self.sent[topic, self._stamp_ns] = (start, *built, time.monotonic_ns())


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
def _context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield context
    finally:
        rclpy.try_shutdown(context=context)


def _layer(seconds: float, at_least: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cost of the node per frame, and the latency of its messages.

    Every message counts: grids are published with each frame, more often than by default.
    """
    columns, rows = _GRID_SIZE
    gaussians = gaussians_from_depth(
        torch.full((1, rows, columns), 2.0),
        torch.full((3, rows, columns), 0.5),
        _INTRINSICS.resized(columns, rows),
    )
    info = ModelInfo('oracle', 'a wall at 2 m', 'Apache-2.0', metric=True)

    def make_pipeline(config: SharpConfig) -> Pipeline:
        return Pipeline(Engine(_Oracle(gaussians), config.model), info, config)

    parameters = {'pose.source': 'odometry', 'occupancy.rate_hz': 100.0}
    with ExitStack() as stack:
        context = stack.enter_context(_context())
        listener = stack.enter_context(_listener())
        node = _TimedNode(
            make_pipeline,
            context=context,
            namespace=_NAMESPACE,
            parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()],
        )
        stack.callback(node.destroy_node)
        node.start()
        _until(node.is_heard, 'nobody hears the node; does DDS work here?')
        config = node.running()[2]
        alone = make_pipeline(config)
        alone.warm_up(_INTRINSICS)
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
    worker, decoder = node.running()[1], FrameDecoder(config.camera)
    image, info = _picture(), camera_info_to_msg(_INTRINSICS, 0, _FRAME_ID)

    def frame_alone(frame: Frame) -> tuple[float, float]:
        return worker.call(lambda: _timed(lambda: alone.process(frame, {POINTS, OCCUPANCY})))

    def frame_of_node(data: bytes, stamp_ns: int) -> tuple[float, float]:
        ms = worker.call(lambda: _timed(lambda: node.work(data, info)))
        listener.wait(stamp_ns)  # what it does must not disturb what is timed next
        return ms

    pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    end = time.monotonic() + seconds
    while len(pairs) < _WARM_UP + at_least or time.monotonic() < end:
        stamp_ns = (1 + len(pairs)) * _INTERVAL_NS
        image.header.stamp = stamp_to_msg(stamp_ns)
        node.place(odometry_to_msg(_POSE, stamp_ns, _WORLD, _FRAME_ID))
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
        name: _median([lap[name] for lap in laps])
        for name in ('receive', 'decode', 'pose', 'publish')
    }
    outputs = {}
    for topic in TOPICS:
        instants = np.array([v for (t, _), v in node.sent.items() if t == topic][_WARM_UP:])
        build_ms, publish_ms = (np.median(np.diff(instants), axis=0) / 1e6).tolist()
        outputs[topic] = {'build_ms': round(build_ms, 3), 'publish_ms': round(publish_ms, 3)}
    median = _median(added)
    return {
        'pipeline_ms': _median(pairs[:, 0, 0]),
        'node_ms': _median(pairs[:, 1, 0]),
        'added_ms': median,
        'added_p95_ms': round(float(np.percentile(added, 95)), 3),
        'added_cpu_ms': _median(added_cpu),  # of the thread: without waiting for a core
        'pairs': len(pairs),
        'target_ms': LAYER_TARGET_MS,
        'met': median <= LAYER_TARGET_MS,
        'parts_ms': parts,
        'parts_sum_ms': round(sum(parts.values()), 3),
        'outputs': outputs,
    }


def _latency_report(node: _TimedNode, listener: _Listener) -> dict[str, Any]:
    """From the call of publish to the callback of a subscriber that takes the bytes."""
    report = {}
    for topic in TOPICS:
        sent = {key: built for key, (_, built, _) in node.sent.items() if key[0] == topic}
        sent = dict(list(sent.items())[_WARM_UP:])
        times = [
            (listener.arrivals[key] - built) / 1e6
            for key, built in sent.items()
            if key in listener.arrivals
        ]
        if not times:
            raise SharpError(f'no message of {topic} arrived; does DDS work here?')
        report[topic] = {
            'median_ms': _median(times),
            'p95_ms': round(float(np.percentile(times, 95)), 3),
            'sent': len(sent),
            'lost': len(sent) - len(times),
        }
    return report


# --- others in the same run ---------------------------------------------------------------------


def _decode_comparison(runs: int) -> dict[str, Any]:
    """Our decoder, the plain way in NumPy, and cv_bridge where an interpreter has the real one."""
    msg = _picture()
    ours, plain = partial(image_from_msg, msg), partial(_decoded_by_numpy, msg)
    report: dict[str, Any] = {'numpy': {'bgr8': _compared(ours, plain, runs)}}
    root = str(Path(__file__).parents[2])
    for interpreter in ([sys.executable], ['/usr/bin/python3', '-E'], ['/usr/bin/python3']):
        command = [*interpreter, '-c', _DECODE_PROGRAM, root, *map(str, (WIDTH, HEIGHT, runs))]
        try:
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        times = {name: 1e3 * np.array(pairs) for name, pairs in json.loads(output).items()}
        return {**report, 'cv_bridge': {name: _ratio(pairs) for name, pairs in times.items()}}
    return {**report, 'cv_bridge': 'not installed (the compiled one)'}


def _decoded_by_numpy(msg: Image) -> np.ndarray:  # -> [H, W, 3]
    rows = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)
    return rows[:, : 3 * msg.width].reshape(msg.height, msg.width, 3)[..., ::-1].copy()


def _cloud_comparison(runs: int) -> dict[str, Any]:
    """Our cloud message, and two ways by structured records."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cloud = organised_cloud(np.full((HEIGHT, WIDTH), 2, np.float32), image, _INTRINSICS)
    ours = partial(cloud_to_msg, cloud, 0, _FRAME_ID)
    return {
        'points': HEIGHT * WIDTH,
        'create_cloud': _compared(ours, partial(_create_cloud, cloud, as_bytes=False), runs),
        'tobytes': _compared(ours, partial(_create_cloud, cloud, as_bytes=True), min(runs, 20)),
    }


def _create_cloud(cloud: np.ndarray, *, as_bytes: bool) -> PointCloud2:
    """A cloud in the manner of `sensor_msgs_py.point_cloud2.create_cloud`: records, then bytes."""
    names = ('x', 'y', 'z', 'rgb')
    records = unstructured_to_structured(
        cloud.reshape(-1, 4),
        np.dtype(
            {
                'names': names,
                'formats': ['f4'] * 4,
                'offsets': [0, 4, 8, 12],
                'itemsize': 16,
            }
        ),
    )
    msg = PointCloud2(
        header=header_to_msg(0, _FRAME_ID),
        height=1,
        width=len(records),
        fields=[
            PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
            for i, name in enumerate(names)
        ],
        point_step=records.itemsize,
        row_step=records.nbytes,
    )
    if as_bytes:
        msg.data = records.tobytes()
    else:
        packed = array('B')
        packed.frombytes(memoryview(records).cast('B'))
        msg.data = packed
    return msg


# --- from nothing to the first output -----------------------------------------------------------


def _start(model: str, quick: bool) -> dict[str, Any]:
    """Seconds from the start of the node's process to its first depth image, caches warm."""
    if not quick:
        _first_output(model)  # may have to compile kernels
    runs = [_first_output(model) for _ in range(1 if quick else 3)]
    median = _median([run['depth_s'] for run in runs])
    return {
        'model': model,
        'median_s': median,
        'target_s': START_TARGET_S,
        'met': median <= START_TARGET_S,
        'runs': runs,
    }


def _first_output(model: str) -> dict[str, float]:
    with ExitStack() as stack:
        log = Path(stack.enter_context(TemporaryDirectory())) / 'node.log'
        context = stack.enter_context(_context())
        peer = Node('sharp_bench', context=context)
        stack.callback(peer.destroy_node)
        executor = SingleThreadedExecutor(context=context)
        stack.callback(executor.shutdown)
        executor.add_node(peer)
        instants: dict[str, float] = {}
        peer.create_subscription(
            Image,
            f'{NODE}/depth/image',
            lambda _: instants.setdefault('depth_s', time.monotonic()),
            1,
            raw=True,
        )
        camera = peer.create_publisher(Image, f'{CAMERA}/image', 1)
        infos = peer.create_publisher(CameraInfo, f'{CAMERA}/camera_info', 1)
        image = _picture()
        start = time.monotonic()
        process = stack.enter_context(node_process(model, log))
        try:
            tell = partial(print, file=sys.stderr)
            manager = manager_of(process, peer, executor, threading.Event(), tell)
            manager.change(Transition.TRANSITION_CONFIGURE)
            instants['configured_s'] = time.monotonic()
            manager.change(Transition.TRANSITION_ACTIVATE)
            instants['active_s'] = time.monotonic()
            end = time.monotonic() + _START_TIMEOUT
            while 'depth_s' not in instants:
                if time.monotonic() > end:
                    raise SharpError('no depth came from the node')
                image.header.stamp = peer.get_clock().now().to_msg()
                infos.publish(camera_info_to_msg(_INTRINSICS, 0, _FRAME_ID))
                camera.publish(image)
                executor.spin_once(timeout_sec=0.03)
        except SharpError as error:
            said = log.read_text(errors='replace')[-1000:]
            raise SharpError(f'{error}. Its log ends with: {said}') from error
    return {name: round(instant - start, 3) for name, instant in instants.items()}


# --- small parts --------------------------------------------------------------------------------


def _picture() -> Image:
    """Coloured blobs, 8-bit BGR."""
    coarse = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    pixels = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    msg = image_to_msg(pixels, 0, _FRAME_ID)
    msg.encoding = 'bgr8'
    return msg


def _until(condition: Callable[[], bool], message: str) -> None:
    end = time.monotonic() + _START_TIMEOUT
    while not condition():
        if time.monotonic() > end:
            raise SharpError(message)
        time.sleep(0.01)


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds that pass, and that this thread computes."""
    start, cpu = time.perf_counter(), time.thread_time()
    work()
    return (time.perf_counter() - start) * 1e3, (time.thread_time() - cpu) * 1e3


def _median(values: Sequence[float] | np.ndarray) -> float:
    return round(float(np.median(values)), 3)


def _compared(ours: Callable[[], Any], other: Callable[[], Any], runs: int) -> dict[str, float]:
    """In turns, so that both meet the same load."""
    return _ratio(np.array([(_timed(ours)[0], _timed(other)[0]) for _ in range(runs)]))


def _ratio(pairs: np.ndarray) -> dict[str, float]:  # [N, 2]: milliseconds of ours and the other
    ours, other = np.median(pairs, axis=0).tolist()
    return {
        'ours_ms': round(ours, 3),
        'other_ms': round(other, 3),
        'other_takes_times': round(float(np.median(pairs[:, 1] / pairs[:, 0])), 2),
    }


def _print(report: dict[str, Any]) -> None:
    layer, start = report['ros_layer'], report['start']
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ('', 'median', 'target', 'met'):
        table.add_column(heading, justify='right' if heading else 'left')
    table.add_row('frame through the pipeline alone', f'{layer["pipeline_ms"]:.2f} ms')
    table.add_row('through the node', f'{layer["node_ms"]:.2f} ms')
    marks = {True: 'yes', False: 'no'}
    target = f'{LAYER_TARGET_MS:g} ms'
    table.add_row(
        'added by the ROS layer', f'{layer["added_ms"]:.2f} ms', target, marks[layer['met']]
    )
    for name, ms in layer['parts_ms'].items():
        table.add_row(f'  {name}', f'{ms:.2f} ms')
    for topic, ms in layer['outputs'].items():
        times = f'{ms["build_ms"]:.2f} + {ms["publish_ms"]:.2f} ms'
        table.add_row(f'    {topic}', times)
    for topic, times in report['latency'].items():
        lost = f', {times["lost"]} of {times["sent"]} lost' if times['lost'] else ''
        table.add_row(f'arrival of {topic}{lost}', f'{times["median_ms"]:.2f} ms')
    target = f'{START_TARGET_S:g} s'
    table.add_row(
        f'start to first depth, {start["model"]}',
        f'{start["median_s"]:.2f} s', target, marks[start['met']],
    )  # fmt: skip
    others = {f'decode by {kind}': ways for kind, ways in report['decode'].items()}
    others['cloud as'] = {k: v for k, v in report['cloud'].items() if k != 'points'}
    for kind, ways in others.items():
        if isinstance(ways, str):
            table.add_row(kind, ways)
            continue
        for name, times in ways.items():
            text = f'{times["other_takes_times"]:g} times ours'
            table.add_row(f'{kind} {name}', text)
    console, computer = Console(), report['machine']
    console.print(table)
    console.print(
        f'{layer["pairs"]} frames, {report["input"]}, {report["transport"]}, '
        f'{computer["cores"]} cores of {computer["cpu"]}, load {computer["load_average"]}, '
        f'commit {report["commit"]}',
        highlight=False,
        markup=False,
    )
    if computer['load_average'] > computer['cores']:
        console.print('other programs compete for the cores: times are too long', style='yellow')
