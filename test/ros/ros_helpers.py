"""Nodes with an oracle in place of a network, and a peer that feeds and watches them."""

from __future__ import annotations

from collections import defaultdict
import time
from typing import ClassVar

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Vector3Stamped
from nav_msgs.msg import OccupancyGrid, Odometry
import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
import torch

from sharp_ros.camera import Intrinsics
from sharp_ros.config import SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.models import ModelInfo
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.pipeline import Pipeline
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    image_to_msg,
    odometry_to_msg,
    stamp_ns_from_msg,
)
from sharp_ros.ros.node import SharpNode
from sharp_ros.se3 import look_at

INTRINSICS = Intrinsics.from_hfov(1.2, 160, 120)
IMAGE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
CAMERA = 'camera_optical_frame'
WALL = 2.0
# 1 m above the floor, looking along +x of the world
POSE = look_at(np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0]))


class WallOracle:
    """A predictor that always sees a wall, after a nap if asked for."""

    def __init__(self, nap=0.0):
        self.nap = nap
        self.calls = 0
        self.fault = None

    def __call__(self, image, intrinsics, depth=None):
        self.calls += 1
        time.sleep(self.nap)
        if self.fault is not None:
            raise self.fault
        small = intrinsics.resized(32, 24)
        z = torch.full((1, 24, 32), WALL)
        return gaussians_from_depth(z, torch.full((3, 24, 32), 0.5), small)


def start(node):
    """Configure and activate a node."""
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    return node


@pytest.fixture
def context():
    context = Context()
    rclpy.init(context=context)
    yield context
    rclpy.try_shutdown(context=context)


@pytest.fixture
def executor(context):
    executor = SingleThreadedExecutor(context=context)
    yield executor
    executor.shutdown()


@pytest.fixture
def make_node(context, executor):
    """Builds unconfigured nodes around an oracle; they are destroyed at the end."""
    nodes = []

    def make(oracle=None, info=None, **parameters):
        info = info or ModelInfo('oracle', 'a wall for tests', 'Apache-2.0', metric=True)

        def make_pipeline(config: SharpConfig):
            return Pipeline(Engine(oracle or WallOracle(), config.model), info, config)

        node = SharpNode(
            make_pipeline,
            context=context,
            parameter_overrides=[
                Parameter(k.replace('__', '.'), value=v) for k, v in parameters.items()
            ],
        )
        nodes.append(node)
        executor.add_node(node)
        return node

    yield make
    for node in nodes:
        executor.remove_node(node)
        node.destroy_node()


class Peer:
    """Publishes frames to the node and records what comes back."""

    TOPICS: ClassVar = {
        '/sharp/image_rect': Image,
        '/sharp/depth/image': Image,
        '/sharp/depth/camera_info': CameraInfo,
        '/sharp/points': PointCloud2,
        '/sharp/gaussians': PointCloud2,
        '/sharp/occupancy_grid': OccupancyGrid,
        '/sharp/map_points': PointCloud2,
        '/sharp/clearing_points': PointCloud2,
        '/sharp/snapshot/points': PointCloud2,
        '/sharp/odometry': Odometry,
        '/sharp/scale': Vector3Stamped,
        '/sharp/view/over_shoulder/image': Image,
        '/sharp/view/over_shoulder/camera_info': CameraInfo,
        '/diagnostics': DiagnosticArray,
    }

    def __init__(self, context, executor):
        self.node = Node('peer', context=context)
        self.executor = executor
        executor.add_node(self.node)
        self.image = self.node.create_publisher(Image, 'image', 1)
        self.info = self.node.create_publisher(CameraInfo, 'camera_info', 1)
        self.odometry = self.node.create_publisher(Odometry, 'odometry', 10)
        self.depth = self.node.create_publisher(Image, 'depth', 1)
        self.received = defaultdict(list)
        self.stamps_sent = []

    def listen(self, *topics):
        for topic in topics or self.TOPICS:
            latched = QoSProfile(
                depth=10,
                reliability=ReliabilityPolicy.RELIABLE,
                durability=DurabilityPolicy.TRANSIENT_LOCAL
                if topic.endswith(('grid', 'map_points', 'snapshot/points'))
                else DurabilityPolicy.VOLATILE,
            )
            self.node.create_subscription(
                self.TOPICS[topic], topic, lambda m, t=topic: self.received[t].append(m), latched
            )

    def now(self):
        return self.node.get_clock().now().nanoseconds

    def send(self, *, image=None, info=INTRINSICS, pose=POSE, stamp_ns=None, child=CAMERA):
        """One frame with camera_info and odometry of the same stamp; returns the stamp."""
        stamp_ns = stamp_ns or self.now()
        self.stamps_sent.append(stamp_ns)
        if info is not None:
            self.info.publish(camera_info_to_msg(info, stamp_ns, CAMERA))
        if pose is not None:
            self.odometry.publish(odometry_to_msg(pose, stamp_ns, 'odom', child))
        msg = image_to_msg(IMAGE, stamp_ns, CAMERA) if image is None else image
        self.image.publish(msg)
        return stamp_ns

    def spin_until(self, condition, timeout=60.0, each=lambda: None, period=0.05):
        """Spin both nodes until the condition holds, calling `each` every period."""
        end, due = time.monotonic() + timeout, 0.0
        while not condition():
            assert time.monotonic() < end, 'timed out'
            if time.monotonic() >= due:
                each()
                due = time.monotonic() + period
            self.executor.spin_once(timeout_sec=0.01)

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.01)

    def diagnose(self, node):
        """Have a node publish its diagnostics; wait for these, not for earlier ones under way."""
        asked, received = node.get_clock().now().nanoseconds, self.received['/diagnostics']
        node.publish_diagnostics()
        self.spin_until(lambda: received and stamp_ns_from_msg(received[-1].header) >= asked)

    def status(self, component):
        """Values and level of a component in the newest diagnostics."""
        for status in self.received['/diagnostics'][-1].status:
            if status.name == f'sharp: {component}':
                level = status.level[0] if isinstance(status.level, bytes) else status.level
                return level, status.message, {v.key: v.value for v in status.values}
        raise AssertionError(f'no status of {component}')


@pytest.fixture
def peer(context, executor):
    peer = Peer(context, executor)
    yield peer
    executor.remove_node(peer.node)
    peer.node.destroy_node()
