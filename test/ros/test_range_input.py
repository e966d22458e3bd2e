"""A range finder over topics and tf, as far as the scale and diagnostics."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from ros_helpers import CAMERA, INTRINSICS, start, WALL
from sensor_msgs.msg import LaserScan, Range

from sharp_ros.camera import Frame
from sharp_ros.config import RangeConfig, SharpConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.ros.conversions import header_to_msg, range_from_msg, range_from_scan
from sharp_ros.ros.range_source import RangeSource
from sharp_ros.se3 import matrix_from_quat, transform

pytestmark = pytest.mark.ros

WARN = 1
# x of a sensor along z of the camera, y to the left, 10 cm to the right
FORWARD = transform(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.array([0.1, 0, 0]))


def range_msg(stamp_ns, distance=WALL, frame_id='sonar', **fields):
    msg = Range(header=header_to_msg(stamp_ns, frame_id), field_of_view=0.05)
    msg.min_range, msg.max_range, msg.range = 0.1, 8.0, float(distance)
    for name, value in fields.items():
        setattr(msg, name, value)
    return msg


def scan_msg(stamp_ns, *ranges, frame_id='sonar', bearing=0.0):
    msg = LaserScan(header=header_to_msg(stamp_ns, frame_id), angle_min=bearing)
    msg.angle_max, msg.range_min, msg.range_max = bearing, 0.1, 8.0
    msg.ranges = [float(r) for r in ranges]
    return msg


class Tf:
    def __init__(self, T=FORWARD):
        self.T = T

    def listen(self):
        pass

    def lookup(self, target, source, *stamp_wait_tolerance):
        if self.T is None:
            raise PoseUnavailableError(f'no transform from {source!r} to {target!r}', 'no_x')
        return self.T


def frame_at(stamp_ns):
    image = np.zeros((INTRINSICS.height, INTRINSICS.width, 3), np.uint8)
    return Frame(image, INTRINSICS, stamp_ns, CAMERA)


def source_of(*messages, tf=None, message='range'):
    config = SharpConfig(range=RangeConfig(enabled=True, message=message))
    source = RangeSource(config, tf or Tf())
    for msg in messages:
        source.add(msg)
    return source


# --- messages ------------------------------------------------------------------------------------


def test_a_range_is_a_cone_along_x_of_its_frame():
    stamp_ns, frame_id, reading = range_from_msg(range_msg(5 * 10**9 + 3, 2.0))
    assert (stamp_ns, frame_id) == (5 * 10**9 + 3, 'sonar')
    np.testing.assert_array_equal(reading.direction, [1, 0, 0])
    np.testing.assert_array_equal(reading.origin, 0)
    assert reading.distance == 2.0
    assert reading.half_angle == pytest.approx(0.025)
    assert 0.01 < reading.std < 0.1
    if hasattr(Range(), 'variance'):
        known = range_from_msg(range_msg(0, 2.0, variance=0.09))[2]
        assert known.std == pytest.approx(0.3)


def test_a_scan_of_one_beam_points_where_its_angle_says():
    reading = range_from_scan(scan_msg(0, 2.0, bearing=0.5))[2]
    np.testing.assert_allclose(reading.point, [2 * math.cos(0.5), 2 * math.sin(0.5), 0], atol=1e-6)


@pytest.mark.parametrize('distance', [math.inf, -math.inf, math.nan, 0.05, 9.0, 0.0])
def test_what_is_out_of_range_is_no_evidence_but_no_error(distance):
    assert range_from_msg(range_msg(0, distance))[2] is None
    assert range_from_scan(scan_msg(0, distance))[2] is None


def test_a_fixed_distance_ranger_measures_nothing():
    msg = range_msg(0, -math.inf, min_range=1.0, max_range=1.0)
    assert range_from_msg(msg)[2] is None


@pytest.mark.parametrize(
    'fields',
    [
        {'min_range': math.nan}, {'max_range': math.nan}, {'field_of_view': math.nan},
        {'field_of_view': 4.0}, {'field_of_view': -0.1}, {'min_range': 5.0, 'max_range': 1.0},
        {'min_range': -1.0},
    ],
)  # fmt: skip
def test_impossible_limits_are_named(fields):
    with pytest.raises(InputError) as caught:
        range_from_msg(range_msg(0, 2.0, **fields))
    assert caught.value.reason == 'bad_range'


def test_a_scan_of_several_beams_or_none_is_refused():
    for ranges in ((), (1.0, 2.0)):
        with pytest.raises(InputError, match='beam') as caught:
            range_from_scan(scan_msg(0, *ranges))
        assert caught.value.reason == 'bad_range'


# --- the frame -----------------------------------------------------------------------------------


def test_the_nearest_reading_is_placed_by_tf():
    source = source_of(*(range_msg(i * 10**8, 1.0 + i) for i in range(5)))
    reading = source.reading(frame_at(2 * 10**8 + 10**7), 0.0)
    np.testing.assert_allclose(reading.point, [0.1, 0, 3.0], atol=1e-6)


def test_readings_that_cannot_be_used_are_named():
    def reason(source, stamp_ns=0):
        with pytest.raises(InputError) as caught:
            source.reading(frame_at(stamp_ns), 0.0)
        return caught.value.reason

    assert reason(source_of()) == 'no_range_yet'
    assert reason(source_of(range_msg(0)), 10**8) == 'range_too_old'
    unplaced = Tf()
    unplaced.T = None
    assert reason(source_of(range_msg(0), tf=unplaced)) == 'range_unplaced'
    turned = Tf(FORWARD @ transform(matrix_from_quat(np.array([0.5, 0, 0, 0.5])), 0))
    assert reason(source_of(range_msg(0), tf=turned)) == 'range_outside_image'
    assert source_of(range_msg(0, math.inf)).reading(frame_at(0), 0.0) is None


# --- the node ------------------------------------------------------------------------------------


class Robot:
    """Sends readings and images with a pose."""

    def __init__(self, peer, kind, make):
        self.peer, self.make = peer, make
        self.publisher = peer.node.create_publisher(kind, 'range', 10)

    def __call__(self):
        stamp_ns = self.peer.now()
        self.publisher.publish(self.make(stamp_ns))
        self.peer.send(stamp_ns=stamp_ns)


@pytest.mark.parametrize(('message', 'kind', 'make'), [
    ('range', Range, lambda stamp: range_msg(stamp, 1.5 * WALL)),
    ('scan', LaserScan, lambda stamp: scan_msg(stamp, 1.5 * WALL)),
])  # fmt: skip
def test_a_range_finder_sets_the_scale(make_node, peer, tf2, message, kind, make):
    tf2.place(FORWARD, CAMERA, 'sonar')
    node = start(make_node(
        range__enabled=True, range__message=message, pose__source='odometry'
    ))  # fmt: skip
    estimates, note = [], node._health.note_seen
    node._health.note_seen = lambda result: (estimates.append(result.scale), note(result))[1]
    robot = Robot(peer, kind, make)
    peer.spin_until(lambda: estimates and estimates[-1].sources.get('range', 0) >= 5, each=robot)
    peer.spin_until(lambda: abs(estimates[-1].value - 1.5) < 0.15, each=robot)


def test_a_range_finder_that_looks_elsewhere_is_counted_and_named(make_node, peer, tf2):
    tf2.place(np.eye(4), CAMERA, 'sonar')  # along x of the image
    node = start(make_node(range__enabled=True, pose__source='odometry'))
    peer.listen('/diagnostics')
    robot = Robot(peer, Range, range_msg)
    peer.spin_until(
        lambda: node._health._events['range_outside_image'] >= 3 and node._health._mapped,
        each=robot,
    )
    peer.diagnose(node)
    level, message, _ = peer.status('Mapping')
    assert level == WARN
    assert 'outside of the image' in message


def test_bad_readings_are_counted_and_there_is_no_subscription_unless_asked_for(make_node, peer):
    node = start(make_node(range__enabled=True, pose__source='odometry'))
    robot = Robot(peer, Range, lambda stamp: range_msg(stamp, field_of_view=math.nan))
    peer.spin_until(
        lambda: node._health._events['bad_range'] >= 3 and node._health._mapped, each=robot
    )
    assert 'range' in {s.topic_name.strip('/') for s in node._subscribers}
    other = start(make_node())
    assert 'range' not in {s.topic_name.strip('/') for s in other._subscribers}
