"""What comes out of the node, watched from outside: counts, rates, ages, errors, pictures."""

from __future__ import annotations

from collections import deque, OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
import struct
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import OccupancyGrid
import numpy as np
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rich.console import Group
from rich.table import Table
from rich.text import Text
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from sharp_ros.camera import Frame
from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError
from sharp_ros.evaluation.metrics import depth_metrics, mean_metrics
from sharp_ros.pictures.depth import colour_depth, depth_range
from sharp_ros.pictures.drawing import draw_cloud, draw_grid, tile_pictures
from sharp_ros.ros.conversions import depth_from_msg, image_from_msg

NODE = '/sharp'
_REMEMBERED = 60  # frames kept, with their truth, until their depth comes back
_SHOWN = ('abs_rel', 'delta1', 'rmse', 'abs_rel_median_scaled', 'scale_median')
_METRIC_STRIDE = 4  # every how many pixels depth is compared; leaves the cores to the node


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
        p50, p95, p99 = (
            None if np.isnan(a) else round(float(a), 2) for a in np.percentile(ages, [50, 95, 99])
        )
        return {
            'count': self.count,
            'rate_hz': round((self.count - 1) / span, 2) if span > 0 else 0.0,
            'age_ms_p50': p50,
            'age_ms_p95': p95,
            'age_ms_p99': p99,
            'drops': max(0, sent - self.count) if self.every_frame else None,
        }


class Monitor:
    """Listens to every output and keeps what the table, the report and the picture need.

    Args:
        peer: node that owns the subscriptions.
    """

    def __init__(self, peer: Node) -> None:
        self.truth = 'truth'
        self._now = lambda: peer.get_clock().now().nanoseconds
        self._lock = threading.Lock()
        self._sent: OrderedDict[int, Frame] = OrderedDict()
        # the frame of the newest depth, and that: where there is truth, of what was compared
        self._shown: tuple[Frame, bytes] | None = None
        self._errors: list[dict[str, float]] = []
        self._values: dict[str, dict[str, str]] = {}
        self._levels: dict[str, tuple[int, str]] = {}
        self.topics: dict[str, TopicStats] = {
            'depth/image': TopicStats(Image, True),
            'depth/camera_info': TopicStats(CameraInfo, True),
            'points': TopicStats(PointCloud2, True),
            'gaussians': TopicStats(PointCloud2, False),  # of frames that the network saw
            'occupancy_grid': TopicStats(OccupancyGrid, False),
        }
        names = [name for name, view in SharpConfig().views.items() if view.placement != 'request']
        for name in names:
            self.topics[f'view/{name}/image'] = TopicStats(Image, False)
            self.topics[f'view/{name}/camera_info'] = TopicStats(CameraInfo, False)
            self.topics[f'view/{name}/depth'] = TopicStats(Image, False)
        for topic, stats in self.topics.items():
            qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
            if topic == 'occupancy_grid':
                qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            # raw: only what is looked at is decoded, so that watching costs the node little
            peer.create_subscription(
                stats.kind,
                f'{NODE}/{topic}',
                partial(self._on_output, topic),
                qos,
                raw=True,
            )
        peer.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def expect(self, stamp_ns: int, frame: Frame) -> None:
        """Remember a frame that is about to be published, with its truth."""
        with self._lock:
            self._sent[stamp_ns] = frame
            while len(self._sent) > _REMEMBERED:
                self._sent.popitem(last=False)

    def _frame_of(self, stamp_ns: int) -> Frame | None:
        with self._lock:
            return self._sent.get(stamp_ns)

    def _on_output(self, topic: str, data: bytes) -> None:
        # CDR: 4 bytes of encapsulation, then the header's seconds and nanoseconds
        seconds, nanoseconds = struct.unpack_from('<iI', data, 4)
        stamp_ns = seconds * 1_000_000_000 + nanoseconds
        self.topics[topic].arrived(data, (self._now() - stamp_ns) / 1e6)
        if topic == 'depth/image':
            frame = self._frame_of(stamp_ns)
            if frame is None:
                return
            if self._shown is None or self._shown[0].depth is None or frame.depth is not None:
                self._shown = frame, data
            if frame.depth is not None:
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

    def wait_for_final_counts(self, executor: Executor) -> None:
        """Spin until the diagnostics of the deactivated node are here."""
        end = time.monotonic() + 3
        while time.monotonic() < end:
            values = self._values.get('Input', {})
            # before it was first activated it was inactive, too, and had nothing to count
            if values.get('state') == 'inactive' and 'frames_in' in values:
                return
            executor.spin_once(timeout_sec=0.05)

    def verdict(self) -> dict[str, Any] | None:
        """What the node says of its map: `level`, and `reasons` in words; None if nothing."""
        values = self._values.get('Mapping', {})
        if 'verdict' not in values:
            return None
        reasons = [text for key, text in values.items() if key.startswith('verdict.')]
        return {'level': values['verdict'], 'reasons': reasons}

    def depth_errors(self) -> dict[str, float] | None:
        """Mean over frames of the depth metrics, or None without truth."""
        if not self._errors:
            return None
        means = {name: round(value, 4) for name, value in mean_metrics(self._errors).items()}
        return {**means, 'frames': len(self._errors)}

    def table(self, sent: int) -> Group:
        """What has arrived so far, for the terminal."""
        table = Table(title=f'{NODE}: {sent} frames sent', title_justify='left')
        for column in ('topic', 'count', 'Hz', 'age p50 ms', 'p95', 'p99', 'drops'):
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
                f'depth against {self.truth}: ' + ' · '.join(f'{k} {errors[k]:g}' for k in _SHOWN)
            )
        verdict = self.verdict()
        if verdict is not None:
            lines.append('; '.join([f'the map is {verdict["level"]}', *verdict['reasons']]))
        lines += [
            f'{name}: {text}'
            for name, (level, text) in self._levels.items()
            if level and text not in lines
        ]
        return Group(table, Text('\n'.join(lines)))

    def report(self, sent: int) -> dict[str, Any]:
        """Everything measured, as plain JSON values."""
        counts = self._values.get('Input', {})
        return {
            'frames_sent': sent,
            **{k: int(counts.get(k, -1)) for k in ('frames_in', 'processed', 'dropped')},
            'topics': {topic: stats.summary(sent) for topic, stats in self.topics.items()},
            'depth': self.depth_errors(),
            'verdict': self.verdict(),
            'diagnostics': self._values,
        }

    def overview(self) -> np.ndarray:
        """Input, depth, cloud, grid and view in one picture, [H, W, 3] uint8 RGB."""
        pictures: dict[str, np.ndarray] = {}
        if self._shown is not None:
            frame, data = self._shown
            pictures['input'] = frame.image
            z = depth_from_msg(deserialize_message(data, Image))
            near, far = depth_range(z)
            pictures[f'depth, {near:.1f} to {far:.1f} m'] = colour_depth(z, near, far)
            if frame.depth is not None:
                truth = colour_depth(frame.depth, near, far)
                name = 'true depth' if self.truth == 'truth' else self.truth
                pictures[f'{name}, same colours'] = truth
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
