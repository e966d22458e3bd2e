"""`sharp-ros demo`: a camera source in this process, the node in another, DDS between them.

This process publishes the source as a robot's camera driver would, configures and activates the
node through its lifecycle services, listens to everything it publishes, compares depth with the
truth where there is one, and leaves a report and a picture.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
import json
import math
import os
from pathlib import Path
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import OccupancyGrid, Odometry
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from sharp_ros.apps.evaluate import depth_metrics
from sharp_ros.apps.pictures import draw_cloud, draw_grid, tile_pictures
from sharp_ros.apps.predict import colour_depth, depth_range, write_atomically
from sharp_ros.apps.sources import Source, SourceFrame, open_source
from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError, SharpError
from sharp_ros.mapping.gravity import level_from_depth
from sharp_ros.models import model_names
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    depth_from_msg,
    depth_to_msg,
    image_from_msg,
    image_to_msg,
    odometry_to_msg,
)
from sharp_ros.se3 import inverse

NODE = '/sharp'
CAMERA = '/camera'
WORLD = 'odom'
_START_TIMEOUT = 240.0  # a first run compiles kernels and reads weights from a cold disk
_REMEMBERED = 60  # frames kept, with their truth, until their depth comes back
_METRIC_STRIDE = 4  # every how many pixels depth is compared; leaves the cores to the node
# Taken for the pose of a camera whose recording does not say what is up and shows no floor.
_LEVEL_CAMERA = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]], float)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros demo`."""
    parser.add_argument(
        '--source',
        default='synthetic',
        help='synthetic, webcam index or /dev/video*, video, folder of images, RGB-D folder in '
        'TUM layout, or ROS bag (default: %(default)s)',
    )
    parser.add_argument(
        '--model',
        default='nano',
        help=f'{", ".join(model_names())} or the path of weights (default: %(default)s)',
    )
    parser.add_argument(
        '--duration', type=float, default=30.0, help='seconds; 0 runs until Ctrl-C (default: 30)'
    )
    parser.add_argument('--hfov', type=float, help='field of view of an uncalibrated source, deg')
    parser.add_argument('--output', type=Path, default=Path('out/demo'), help='folder of results')


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 if depth came back from the node."""
    console = Console()
    hfov = None if args.hfov is None else math.radians(args.hfov)
    source = open_source(args.source, hfov=hfov, loop=True)
    args.output.mkdir(parents=True, exist_ok=True)
    console.print(f'source: {source.name}, {source.rate_hz:g} Hz. {source.note}')
    rclpy.init()
    peer = Node('sharp_demo')
    monitor = Monitor(peer)
    try:
        with node_process(args.model, args.output / 'node.log') as process:
            console.print('starting the node; its first start on a machine compiles kernels')
            manager = Manager(peer, process)
            manager.change(Transition.TRANSITION_CONFIGURE)
            manager.change(Transition.TRANSITION_ACTIVATE)
            camera = CameraDriver(peer, source, monitor, with_depth=args.model == 'sensor')
            try:
                _watch(peer, process, camera, monitor, args.duration, console)
            finally:
                camera.stop()
            manager.change(Transition.TRANSITION_DEACTIVATE)
            monitor.wait_for_final_counts(peer)
        report = monitor.report(args, source, camera.sent)
        write_atomically(args.output / 'report.json', json.dumps(report, indent=2) + '\n')
        overview = cv2.cvtColor(monitor.overview(), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(args.output / 'overview.png'), overview)
    finally:
        peer.destroy_node()
        rclpy.try_shutdown()
    console.print(monitor.table(camera.sent))
    console.print(f'wrote {args.output / "report.json"} and {args.output / "overview.png"}')
    if not report['topics']['depth/image']['count']:
        raise SharpError(f'no depth came back from the node; see {args.output / "node.log"}')
    return 0


@contextmanager
def node_process(model: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The node as a process of its own, with this environment; ended when the block ends."""
    topics = ('image', 'camera_info', 'odometry', 'depth')
    remappings = [part for t in topics for part in ('-r', f'{t}:={CAMERA}/{t}')]
    command = [sys.executable, '-m', 'sharp_ros.ros.node', '--ros-args', *remappings]
    with log.open('wb') as output:
        process = subprocess.Popen(
            [*command, '-p', f'model.name:={model}'], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Manager:
    """Asks the node for lifecycle transitions.

    Args:
        peer: node that owns the client.
        process: of the node, watched so that its death ends the waiting.
    """

    def __init__(self, peer: Node, process: subprocess.Popen[bytes]) -> None:
        self._peer = peer
        self._process = process
        self._client = peer.create_client(ChangeState, f'{NODE}/change_state')

    def change(self, transition: int) -> None:
        """Request a transition and wait for it.

        Raises:
            SharpError: if the node died, did not answer or refused.
        """
        end = time.monotonic() + _START_TIMEOUT
        while not self._client.service_is_ready():
            self._check(end)
            rclpy.spin_once(self._peer, timeout_sec=0.05)
        request = ChangeState.Request(transition=Transition(id=transition))
        future = self._client.call_async(request)
        while not future.done():
            self._check(end)
            rclpy.spin_once(self._peer, timeout_sec=0.05)
        result = future.result()
        if result is None or not result.success:
            raise SharpError('the node refused to start; node.log in the output folder says why')

    def _check(self, end: float) -> None:
        if self._process.poll() is not None:
            raise SharpError(f'the node ended with code {self._process.returncode}; see node.log')
        if time.monotonic() > end:
            raise SharpError(f'the node did not answer within {_START_TIMEOUT:.0f} s')


class CameraDriver:
    """Publishes the frames of a source in real time, as a camera driver does.

    Stamps are those of the moment of publishing, so that ages mean the same for a recording as
    for a camera.

    Args:
        peer: node that owns the publishers.
        source: where frames come from.
        monitor: told the truth of every frame.
        with_depth: whether to publish the depth of the source on the topic the node reads.
    """

    def __init__(self, peer: Node, source: Source, monitor: Monitor, with_depth: bool) -> None:
        self._source = source
        self._monitor = monitor
        self._now = lambda: peer.get_clock().now().nanoseconds
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._image = peer.create_publisher(Image, f'{CAMERA}/image', best_effort)
        self._info = peer.create_publisher(CameraInfo, f'{CAMERA}/camera_info', best_effort)
        self._odometry = peer.create_publisher(Odometry, f'{CAMERA}/odometry', 10)
        topic = f'{CAMERA}/depth' if with_depth else f'{CAMERA}/true_depth'
        self._depth = peer.create_publisher(Image, topic, best_effort)
        self.sent = 0
        self.error: Exception | None = None
        self._T_level_world: np.ndarray | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name='camera', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the stream."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        try:
            # a driver's first frames would only be lost while the node is still being discovered
            outputs = (self._image, self._info)
            while not all(p.get_subscription_count() for p in outputs):
                if self._stopping.wait(0.01):
                    return
            period, due = 1 / self._source.rate_hz, time.monotonic()
            for frame in self._source.frames():
                late = time.monotonic() - due
                if late > period:
                    due += late  # never catch up with a burst
                if self._stopping.wait(max(0.0, -late)):
                    return
                due += period
                self._publish(frame)
        except Exception as error:  # shown by the main thread
            self.error = error

    def _publish(self, frame: SourceFrame) -> None:
        stamp_ns, frame_id = self._now(), frame.frame_id
        self._monitor.expect(stamp_ns, frame)
        if frame.T_world_camera is not None:
            T_world_camera = self._level(frame) @ frame.T_world_camera
            self._odometry.publish(odometry_to_msg(T_world_camera, stamp_ns, WORLD, frame_id))
        if frame.depth is not None and self._depth.get_subscription_count():
            self._depth.publish(depth_to_msg(frame.depth, stamp_ns, frame_id))
        self._info.publish(camera_info_to_msg(frame.intrinsics, stamp_ns, frame_id))
        self._image.publish(image_to_msg(frame.image, stamp_ns, frame_id))
        self.sent += 1

    def _level(self, frame: SourceFrame) -> np.ndarray:
        """`T_level_world`, decided on the first frame: identity if the world's z axis is up.

        Recordings whose world is merely some camera would otherwise be cut into height bands
        along an arbitrary direction.
        """
        if self._T_level_world is None:
            assert frame.T_world_camera is not None
            self._T_level_world = np.eye(4)
            if frame.T_world_camera[2, 1] > -math.cos(math.radians(60)):  # the image's y is down
                T_level_camera = None
                if frame.depth is not None:
                    T_level_camera = level_from_depth(frame.depth, frame.intrinsics)
                if T_level_camera is None:
                    T_level_camera = _LEVEL_CAMERA
                self._T_level_world = T_level_camera @ inverse(frame.T_world_camera)
        return self._T_level_world


@dataclass
class TopicStats:
    """What arrived on one topic."""

    kind: type
    every_frame: bool
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    ages_ms: deque[float] = field(default_factory=lambda: deque(maxlen=20_000))
    newest: bytes = b''

    def arrived(self, data: bytes, age_ms: float) -> None:
        """Note one serialised message."""
        now = time.monotonic()
        self.first = self.first or now
        self.last = now
        self.count += 1
        self.ages_ms.append(age_ms)
        self.newest = data

    def summary(self, sent: int) -> dict[str, float | int | None]:
        """Count, rate, ages and, for topics that carry every frame, how many are missing."""
        span = self.last - self.first
        ages = np.array(self.ages_ms) if self.ages_ms else np.array([np.nan])
        p50, p95 = (
            None if np.isnan(a) else round(float(a), 2) for a in np.percentile(ages, [50, 95])
        )
        return {
            'count': self.count,
            'rate_hz': round((self.count - 1) / span, 2) if span > 0 else 0.0,
            'age_ms_p50': p50,
            'age_ms_p95': p95,
            'drops': max(0, sent - self.count) if self.every_frame else None,
        }


class Monitor:
    """Listens to every output and keeps what the table, the report and the picture need.

    Args:
        peer: node that owns the subscriptions.
    """

    def __init__(self, peer: Node) -> None:
        self._now = lambda: peer.get_clock().now().nanoseconds
        self._lock = threading.Lock()
        self._sent: OrderedDict[int, SourceFrame] = OrderedDict()
        self._shown: SourceFrame | None = None  # the frame of the newest depth
        self._errors: list[dict[str, float]] = []
        self._values: dict[str, dict[str, str]] = {}
        self._levels: dict[str, tuple[int, str]] = {}
        self.topics: dict[str, TopicStats] = {
            'depth/image': TopicStats(Image, True),
            'depth/camera_info': TopicStats(CameraInfo, True),
            'points': TopicStats(PointCloud2, True),
            'gaussians': TopicStats(PointCloud2, True),
            'occupancy_grid': TopicStats(OccupancyGrid, False),
        }
        for name in SharpConfig().views:
            self.topics[f'view/{name}/image'] = TopicStats(Image, False)
            self.topics[f'view/{name}/camera_info'] = TopicStats(CameraInfo, False)
        for topic, stats in self.topics.items():
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
            if topic == 'occupancy_grid':
                qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            # raw: only what is looked at is decoded, so that watching costs the node little
            peer.create_subscription(
                stats.kind,
                f'{NODE}/{topic}',
                lambda data, t=topic: self._on_output(t, data),
                qos,
                raw=True,
            )
        peer.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def expect(self, stamp_ns: int, frame: SourceFrame) -> None:
        """Remember a frame that is about to be published, with its truth."""
        with self._lock:
            self._sent[stamp_ns] = frame
            while len(self._sent) > _REMEMBERED:
                self._sent.popitem(last=False)

    def _frame_of(self, stamp_ns: int) -> SourceFrame | None:
        with self._lock:
            return self._sent.get(stamp_ns)

    def _on_output(self, topic: str, data: bytes) -> None:
        # CDR: 4 bytes of encapsulation, then the header's seconds and nanoseconds
        seconds, nanoseconds = struct.unpack_from('<iI', data, 4)
        stamp_ns = seconds * 1_000_000_000 + nanoseconds
        self.topics[topic].arrived(data, (self._now() - stamp_ns) / 1e6)
        if topic == 'depth/image':
            frame = self._frame_of(stamp_ns)
            self._shown = frame or self._shown
            if frame is not None and frame.depth is not None:
                depth = depth_from_msg(deserialize_message(data, Image))
                pick = np.s_[::_METRIC_STRIDE, ::_METRIC_STRIDE]
                with suppress(InputError):  # a frame whose truth is empty has no error
                    self._errors.append(depth_metrics(depth[pick], frame.depth[pick]))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.hardware_id == NODE:
                level = status.level[0] if isinstance(status.level, bytes) else status.level
                component = status.name.partition(': ')[2]
                self._levels[component] = (level, status.message)
                self._values[component] = {v.key: v.value for v in status.values}

    def wait_for_final_counts(self, peer: Node) -> None:
        """Spin until the diagnostics of the deactivated node are here."""
        end = time.monotonic() + 3
        while time.monotonic() < end:
            if self._values.get('Input', {}).get('state') == 'inactive':
                return
            rclpy.spin_once(peer, timeout_sec=0.05)

    def depth_errors(self) -> dict[str, float] | None:
        """Mean over frames of the depth metrics, or None without truth."""
        if not self._errors:
            return None
        keys = ('abs_rel', 'delta1', 'rmse', 'abs_rel_median_scaled', 'delta1_median_scaled')
        mean = {k: round(float(np.mean([e[k] for e in self._errors])), 4) for k in keys}
        scales = [e['scale'] for e in self._errors]
        return {**mean, 'scale_median': round(float(np.median(scales)), 4), 'frames': len(scales)}

    def table(self, sent: int) -> Group:
        """What has arrived so far, for the terminal."""
        table = Table(title=f'{NODE}: {sent} frames sent', title_justify='left')
        for column in ('topic', 'count', 'Hz', 'age p50 ms', 'age p95 ms', 'drops'):
            table.add_column(column, justify='left' if column == 'topic' else 'right')
        for topic, stats in self.topics.items():
            row = stats.summary(sent)
            texts = ['-' if row[k] is None else f'{row[k]:g}' for k in row]
            table.add_row(f'~/{topic}', *texts)
        lines = []
        counts = self._values.get('Input', {})
        if counts:
            keys = ('frames_in', 'processed', 'dropped')
            lines.append(' · '.join(f'{k} {counts.get(k, "?")}' for k in keys))
        errors = self.depth_errors()
        if errors:
            lines.append(
                'depth against truth: ' + ' · '.join(f'{k} {v:g}' for k, v in errors.items())
            )
        lines += [f'{name}: {text}' for name, (level, text) in self._levels.items() if level]
        return Group(table, Text('\n'.join(lines)))

    def report(self, args: argparse.Namespace, source: Source, sent: int) -> dict[str, Any]:
        """Everything measured, as plain JSON values."""
        counts = self._values.get('Input', {})
        return {
            'source': source.name,
            'model': args.model,
            'duration': args.duration,
            'frames_sent': sent,
            **{k: int(counts.get(k, -1)) for k in ('frames_in', 'processed', 'dropped')},
            'topics': {topic: stats.summary(sent) for topic, stats in self.topics.items()},
            'depth': self.depth_errors(),
            'diagnostics': self._values,
        }

    def overview(self) -> np.ndarray:
        """Input, depth, cloud, grid and view in one picture, [H, W, 3] uint8 RGB."""
        pictures: dict[str, np.ndarray] = {}
        if self._shown is not None:
            pictures['input'] = self._shown.image
        depth = self._newest('depth/image')
        if depth is not None:
            z = depth_from_msg(depth)
            near, far = depth_range(z)
            pictures[f'depth, {near:.1f} to {far:.1f} m'] = colour_depth(z, near, far)
            truth = self._shown.depth if self._shown is not None else None
            if truth is not None:
                pictures['true depth, same colours'] = colour_depth(truth, near, far)
        cloud = self._newest('points')
        if cloud is not None:
            data = np.frombuffer(bytes(cloud.data), np.float32)
            pictures['cloud from the side'] = draw_cloud(
                data.reshape(cloud.height, cloud.width, 4)
            )
        grid = self._newest('occupancy_grid')
        if grid is not None:
            cells = np.array(grid.data, np.int8).reshape(grid.info.height, grid.info.width)
            pictures['occupancy grid: white free, black occupied'] = draw_grid(cells)
        for topic in self.topics:
            view = self._newest(topic) if topic.startswith('view/') and 'image' in topic else None
            if view is not None:
                pictures[f'virtual {topic.rpartition("/")[0]}'] = image_from_msg(view)
        return tile_pictures(pictures or {'nothing arrived': np.zeros((10, 10, 3), np.uint8)})

    def _newest(self, topic: str) -> Any | None:
        stats = self.topics[topic]
        return deserialize_message(stats.newest, stats.kind) if stats.newest else None


def _watch(
    peer: Node,
    process: subprocess.Popen[bytes],
    camera: CameraDriver,
    monitor: Monitor,
    duration: float,
    console: Console,
) -> None:
    """Spin and show the table until time is up, Ctrl-C, or something ended."""
    end = time.monotonic() + (duration or math.inf)
    interactive = console.is_terminal and not os.environ.get('CI')
    table = monitor.table(0)
    with Live(table, console=console, auto_refresh=False, transient=True) as live:
        shown = time.monotonic()
        try:
            while time.monotonic() < end:
                rclpy.spin_once(peer, timeout_sec=0.05)
                if process.poll() is not None:
                    raise SharpError(
                        f'the node ended with code {process.returncode}; see node.log'
                    )
                if camera.error is not None:
                    raise camera.error
                if interactive and time.monotonic() - shown > 0.5:
                    shown = time.monotonic()
                    live.update(monitor.table(camera.sent), refresh=True)
        except KeyboardInterrupt:
            pass
