"""The executable `sharp_camera`, over DDS."""

from __future__ import annotations

from collections import defaultdict
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

from nav_msgs.msg import Odometry
import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import IMAGE, INTRINSICS, POSE
from sensor_msgs.msg import CameraInfo, Image

from sharp_ros.camera import Frame
from sharp_ros.ros.conversions import depth_from_msg, stamp_ns_from_msg
from sharp_ros.ros.ending import Ending
from sharp_ros.ros.synthetic_camera import Localisation, main

DOMAIN = 51 + (os.getpid() + 17) % 50
TOPICS = {'image': Image, 'camera_info': CameraInfo, 'depth': Image, 'odometry': Odometry}


def start():
    return subprocess.Popen(
        [sys.executable, '-c', 'from sharp_ros.ros.programs import *; sharp_camera()'],
        env={**os.environ, 'ROS_DOMAIN_ID': str(DOMAIN)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture
def peer():
    """A node in the domain of the executable, with what it received by topic."""
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    node, received = Node('listener', context=context), defaultdict(list)
    qos = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
    for topic, kind in TOPICS.items():
        node.create_subscription(kind, f'/camera/{topic}', received[topic].append, qos)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield SimpleNamespace(spin=lambda: executor.spin_once(timeout_sec=0.1), received=received)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_all_topics_of_a_frame_share_stamp_and_frame_and_the_room_is_level(peer):
    camera = start()
    try:
        end = time.monotonic() + 240  # as the demo gives its node on a busy machine
        common = set()
        while len(common) < 3 and time.monotonic() < end and camera.poll() is None:
            peer.spin()
            stamps = [{stamp_ns_from_msg(m.header) for m in peer.received[t]} for t in TOPICS]
            common = set.intersection(*stamps)
        assert len(common) >= 3
    finally:
        camera.send_signal(signal.SIGINT)
        camera.send_signal(signal.SIGINT)  # from the terminal, and from launch
        output, _ = camera.communicate(timeout=20)
    assert camera.returncode == 0, output
    assert 'Traceback' not in output
    image, info, depth, odometry = (peer.received[t][-1] for t in TOPICS)
    assert image.encoding == 'rgb8'
    assert (info.width, info.height) == (image.width, image.height) == (depth.width, depth.height)
    assert image.header.frame_id == info.header.frame_id == odometry.child_frame_id
    assert odometry.header.frame_id == 'odom'
    assert 0.5 < odometry.pose.pose.position.z < 2.0
    z = depth_from_msg(depth)
    assert 0.3 < np.nanmedian(z) < 10


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('/nowhere/film.mp4', "source '/nowhere/film.mp4' does not exist"),
        ('987', 'camera 987 cannot be opened'),  # a number for ROS
    ],
)
def test_a_source_that_cannot_be_opened_ends_it_with_a_clear_line(capfd, source, message):
    ending = Ending()
    try:
        assert main(ending, ['--ros-args', '-p', f'source:={source}']) == 1
    finally:
        ending.close()
    assert message in capfd.readouterr().err


def test_tf_places_every_frame_where_its_source_says(tf2):
    ahead = POSE.copy()
    ahead[:3, 3] += (0.5, 0.0, 0.0)
    frames = [Frame(IMAGE, INTRINSICS, 0, 'camera', pose, 'world') for pose in (POSE, ahead)]
    localisation = Localisation(SimpleNamespace())
    for stamp_ns, frame in enumerate(frames, start=5):
        localisation.expect(stamp_ns, frame)
    assert [fixed for fixed, _ in tf2.sent] == [False, False]
    for (_, msg), frame, stamp in zip(tf2.sent, frames, (5, 6), strict=True):
        assert (msg.header.frame_id, msg.child_frame_id) == ('odom', frame.frame_id)
        assert msg.header.stamp.nanosec == stamp
        found = msg.transform.translation
        np.testing.assert_allclose([found.x, found.y, found.z], frame.T_world_camera[:3, 3])
