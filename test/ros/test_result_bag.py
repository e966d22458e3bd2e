"""The bag of results is made of messages that ROS reads."""

from importlib import import_module

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.exchange.result_bag import ResultBag
from sharp_ros.frame_result import FrameResult
from sharp_ros.mapping.occupancy import OccupancyGrid2D

K = Intrinsics.centred(20.0, 32, 24)
STAMP_NS = 1_700_000_000_123_456_789


def test_every_message_is_read_by_ros_as_it_was_written(tmp_path):
    depth = np.linspace(1, 2, 32 * 24, dtype=np.float32).reshape(24, 32)
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    image = np.full((24, 32, 3), (10, 20, 30), np.uint8)
    frame = Frame(image, K, STAMP_NS, '/cam', pose, 'odom')
    cells = np.arange(12, dtype=np.int8).reshape(3, 4)
    with ResultBag(tmp_path / 'a.mcap') as bag:
        bag.add(FrameResult(frame, None, depth), 'odom')
        bag.add_grid(OccupancyGrid2D(cells, 0.1, np.array([-1.0, -2.0])), STAMP_NS, 'odom')
    read = {}
    with Reader(tmp_path / 'a.mcap') as reader:
        for connection, _, data in reader.messages():
            package, _, name = connection.msgtype.split('/')
            if package == 'tf2_msgs':  # whose package is on no index; its one field is a list
                continue
            kind = getattr(import_module(f'{package}.msg'), name)
            read[connection.topic] = deserialize_message(data, kind)
    assert len(read) == 5
    for message in read.values():
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1700000000, 123456789)
    image = read['/sharp/depth/image']
    np.testing.assert_array_equal(np.frombuffer(image.data, '<f4').reshape(24, 32), depth)
    assert (image.header.frame_id, image.encoding, image.step) == ('sharp_cam', '32FC1', 128)
    cloud = read['/sharp/points']
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
        ('x', 0, 7),
        ('y', 4, 7),
        ('z', 8, 7),
        ('rgb', 12, 7),
    ]
    points = np.frombuffer(cloud.data, '<f4').reshape(24, 32, 4)
    np.testing.assert_array_equal(points[..., 2], depth)
    assert (points[..., 3].copy().view(np.uint32) == 0x0A141E).all()
    grid = read['/sharp/occupancy_grid']
    assert list(grid.data) == list(range(12))
    assert (grid.info.width, grid.info.height) == (4, 3)
    assert grid.info.resolution == pytest.approx(0.1)
    assert (grid.info.origin.position.x, grid.info.origin.position.y) == (-1.0, -2.0)
    odometry = read['/sharp/odometry']
    assert odometry.child_frame_id == 'sharp_cam'
    assert odometry.pose.pose.position.z == 3.0
    assert read['/sharp/depth/camera_info'].k[0] == 20.0
