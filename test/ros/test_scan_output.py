"""`~/scan`: the message is what readers of laser scans expect, and says nothing it does not know.

In the words of depthimage_to_laserscan: a scan lies in a frame whose x is ahead and z up, not in
the optical frame; it has the stamp of the image; angles grow counter-clockwise; what is nearer
than range_min or farther than range_max is no range; NaN and infinities are those of REP-117.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from rclpy.lifecycle import TransitionCallbackReturn
from ros_helpers import CAMERA, POSE, start, WALL
from sensor_msgs.msg import LaserScan
import yaml

from sharp_ros import pipeline
from sharp_ros.config import SharpConfig
from sharp_ros.frame_result import SCAN
from sharp_ros.ros.conversions import matrix_from_transform, scan_to_msg, stamp_ns_from_msg
from sharp_ros.scan import beam_count, Scan
from sharp_ros.se3 import inverse, transform

pytestmark = pytest.mark.ros

SUCCESS = TransitionCallbackReturn.SUCCESS
FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # R_base_camera


@pytest.fixture
def scans(peer):
    got = []
    peer.node.create_subscription(LaserScan, '/sharp/scan', got.append, 10)
    return got


def bearings(msg):
    return msg.angle_min + np.arange(len(msg.ranges)) * msg.angle_increment


def test_a_scan_is_laid_out_as_its_readers_expect(make_node, peer, tf2, scans):
    start(make_node())
    peer.spin_until(lambda: len(scans) > 3, each=peer.send)
    for msg in scans:
        assert stamp_ns_from_msg(msg.header) in peer.stamps_sent
        assert msg.angle_min < msg.angle_max
        assert msg.angle_increment > 0
        count = (msg.angle_max - msg.angle_min) / msg.angle_increment + 1  # as slam_toolbox asks
        assert round(count) == len(msg.ranges) == len(msg.intensities)
        assert (msg.range_min, msg.range_max) == pytest.approx((0.3, 5.0))
        assert msg.time_increment == 0.0  # all beams are of one image
        ranges, stds = np.array(msg.ranges), np.array(msg.intensities)
        known = np.isfinite(ranges)
        assert ((ranges[known] >= msg.range_min) & (ranges[known] <= msg.range_max)).all()
        assert (np.isfinite(stds) == known).all()
        seen = np.abs(bearings(msg)) < 0.5
        np.testing.assert_allclose(ranges[seen], WALL / np.cos(bearings(msg)[seen]), rtol=0.01)
        assert np.isnan(ranges[np.abs(bearings(msg)) > 0.7]).all()  # hfov is 1.2
    gaps = np.diff([stamp_ns_from_msg(m.header) for m in scans]) / 1e9
    np.testing.assert_allclose([m.scan_time for m in scans[1:]], gaps, rtol=1e-4)


def test_without_a_robot_frame_a_scan_is_in_a_level_one_below_the_camera(
    make_node, peer, tf2, scans
):
    start(make_node())
    tilted = POSE.copy()  # looks down by 0.2 rad
    c, s = math.cos(0.2), math.sin(0.2)
    tilted[:3, :3] = tilted[:3, :3] @ np.array([[1.0, 0, 0], [0, c, s], [0, -s, c]])
    peer.spin_until(lambda: len(scans) > 2, each=lambda: peer.send(pose=tilted))
    assert {m.header.frame_id for m in scans} == {'scan_frame'}
    sent = {stamp_ns_from_msg(m.header): m for _, m in tf2.sent}
    for msg in scans:
        placed = sent[stamp_ns_from_msg(msg.header)]
        assert (placed.header.frame_id, placed.child_frame_id) == (CAMERA, 'scan_frame')
        T_world_scan = tilted @ matrix_from_transform(placed.transform)
        np.testing.assert_allclose(
            T_world_scan, np.eye(4), atol=1e-6
        )  # level, on the floor, ahead
    # the wall is square to the optical axis, so it leans over: nearest where it is highest
    middle = scans[-1].ranges[len(scans[-1].ranges) // 2]
    assert 1.4 < middle < WALL / c


@pytest.mark.parametrize('known_by', ['tf', 'base_to_camera'])
def test_with_a_robot_frame_a_scan_is_in_that(make_node, peer, tf2, scans, known_by):
    T_base_camera = transform(FORWARD, [0.2, 0.1, 1.0])
    parameters = {'pose__base_frame': 'base_link'}
    if known_by == 'tf':
        tf2.place(inverse(T_base_camera), CAMERA, 'base_link')
        send = peer.send
    else:
        extrinsics = [0.2, 0.1, 1.0, -0.5, 0.5, -0.5, 0.5]
        parameters |= {'pose__source': 'odometry', 'pose__base_to_camera': extrinsics}
        on_floor = POSE @ inverse(T_base_camera)

        def send():
            return peer.send(pose=on_floor, child='base_link')

    start(make_node(**parameters))
    peer.spin_until(lambda: len(scans) > 2, each=send)
    msg = scans[-1]
    assert msg.header.frame_id == 'base_link'
    assert not tf2.sent  # a frame of the robot is its own
    seen = np.abs(bearings(msg)) < 0.4
    expected = (WALL + 0.2) / np.cos(bearings(msg)[seen])
    np.testing.assert_allclose(np.array(msg.ranges)[seen], expected, rtol=0.01)


@pytest.mark.parametrize(
    ('parameters', 'reason'),
    [
        ({'pose__source': 'none'}, 'floor_unknown'),
        ({'pose__source': 'none', 'scale__camera_height': 1.0}, 'floor_unknown'),  # tilted how?
        ({'pose__source': 'visual'}, 'floor_not_found'),
        ({'pose__base_frame': 'base_link', 'pose__wait': 0.0}, 'no_base_frame'),
    ],
)
def test_without_a_floor_there_is_no_scan_and_diagnostics_say_why(
    make_node, peer, tf2, scans, parameters, reason
):
    peer.listen('/diagnostics', '/sharp/depth/image')
    node = start(make_node(**parameters))
    peer.spin_until(lambda: len(peer.received['/sharp/depth/image']) > 3, each=peer.send)
    peer.diagnose(node)
    assert not scans
    level, message, _ = peer.status('Mapping')
    assert level > 0
    values = peer.status('Input')[2]
    assert int(values[f'event.no_scan.{reason}']) >= 3
    if reason == 'floor_unknown':
        assert 'no scan' in message


def test_a_frame_of_the_robot_on_its_floor_is_enough(make_node, peer, tf2, scans):
    tf2.place(inverse(transform(FORWARD, [0.0, 0.0, 1.0])), CAMERA, 'base_footprint')
    start(make_node(pose__source='none', pose__base_frame='base_footprint'))
    peer.spin_until(lambda: scans, each=lambda: peer.send(pose=None))
    assert np.isfinite(scans[0].ranges).sum() > 80


def test_nothing_is_scanned_while_nobody_listens(make_node, peer, tf2, monkeypatch):
    made = []
    scan_of_frame = pipeline.scan_of_frame

    def counted(*args):
        made.append(1)
        return scan_of_frame(*args)

    peer.listen('/sharp/depth/image')
    node = make_node()
    assert node.trigger_configure() == SUCCESS  # which warms up
    monkeypatch.setattr(pipeline, 'scan_of_frame', counted)
    assert node.trigger_activate() == SUCCESS
    peer.spin_until(lambda: len(peer.received['/sharp/depth/image']) > 3, each=peer.send)
    assert not made
    got = []
    peer.node.create_subscription(LaserScan, '/sharp/scan', got.append, 10)
    peer.spin_until(lambda: got, each=peer.send)
    assert made


def test_angles_of_a_scan_may_change_while_the_node_runs(make_node, peer, tf2, scans):
    from rclpy.parameter import Parameter

    node = start(make_node())
    peer.spin_until(lambda: scans, each=peer.send)
    changes = [Parameter('scan.min_angle', value=-0.3), Parameter('scan.max_angle', value=0.3)]
    assert node.set_parameters_atomically(changes).successful
    peer.spin_until(lambda: len(scans[-1].ranges) == 61, each=peer.send)


def test_the_message_holds_the_scan_to_the_bit():
    ranges = np.array([1.5, np.nan, np.inf, -np.inf, 0.3], np.float32)
    stds = np.array([0.1, np.nan, np.nan, np.nan, 0.01], np.float32)
    msg = scan_to_msg(Scan(ranges, stds, -0.02, 0.01, 0.3, 5.0), 1_500_000_007, 'base_link', 0.1)
    np.testing.assert_array_equal(np.array(msg.ranges, np.float32), ranges)
    np.testing.assert_array_equal(np.array(msg.intensities, np.float32), stds)
    assert stamp_ns_from_msg(msg.header) == 1_500_000_007
    assert msg.angle_max == pytest.approx(0.02)


@pytest.mark.parametrize(
    ('name', 'farthest'), [('slam_toolbox', 'max_laser_range'), ('amcl', 'laser_max_range')]
)
def test_recipes_fit_the_node(name, farthest):
    text = (Path(__file__).parents[2] / 'config' / f'{name}.yaml').read_text()
    recipe = yaml.safe_load(text)[name]['ros__parameters']
    assert recipe['scan_topic'] == f'/sharp/{SCAN}'
    assert recipe[farthest] == SharpConfig().scan_range[1]
    if 'max_beams' in recipe:
        assert recipe['max_beams'] < beam_count(SharpConfig())
