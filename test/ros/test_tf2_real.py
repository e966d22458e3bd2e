"""The tf2_ros of a ROS distribution, over its own topics, and the stand-in held against it."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')
pytest.importorskip('tf2_ros', reason='needs tf2_ros, which no wheel carries')

import fake_tf2
import rclpy.time
from ros_helpers import CAMERA, POSE, start
import tf2_ros

from sharp_ros.ros import parents
from sharp_ros.ros.conversions import matrix_from_transform, transform_to_msg
from sharp_ros.ros.transforms import Transforms
from sharp_ros.se3 import matrix_from_quat, transform

pytestmark = pytest.mark.ros

MS, SECOND = 1_000_000, 1_000_000_000
BEGIN = 1_700_000_000 * SECOND
DEPTH = '/sharp/depth/image'


# --- the stand-in ------------------------------------------------------------------------------


def random_pose(rng):
    q = rng.normal(size=4)
    return transform(matrix_from_quat(q / np.linalg.norm(q)), rng.normal(size=3))


def answer(buffer, target, source, stamp_ns, errors):
    """Transform and its stamp, or the name of the error."""
    try:
        msg = buffer.lookup_transform(
            target, source, rclpy.time.Time(nanoseconds=stamp_ns), rclpy.time.Duration()
        )
    except errors.TransformException as error:
        return type(error).__name__
    return matrix_from_transform(msg.transform), msg.header.stamp


@pytest.mark.parametrize('seed', range(60))
def test_the_stand_in_answers_as_tf2_does(seed):
    rng = np.random.default_rng(seed)
    frames = ['map', 'odom', 'base', 'head', CAMERA]
    one, other = tf2_ros.Buffer(), fake_tf2.Buffer()
    moving = set(rng.choice(frames, 3, replace=False))
    for _ in range(rng.integers(1, 120)):
        i = rng.integers(1, len(frames))
        parent, child = frames[rng.integers(0, i)], frames[i]
        if rng.random() < 0.8:
            parent = frames[i - 1]
        elif rng.random() < 0.2:
            parent = str(rng.choice(['', child, '/' + parent, 'unknown']))
        stamp_ns = BEGIN + int(rng.integers(0, 60 if seed % 2 else 15_000)) * MS
        msg = transform_to_msg(random_pose(rng), stamp_ns, parent, child)
        if rng.random() < 0.05:
            msg.transform.rotation.w += float(rng.choice([0.001, 0.1, np.nan]))
        static = (child not in moving) ^ (rng.random() < 0.03)
        for buffer in (one, other):
            take = buffer.set_transform_static if static else buffer.set_transform
            take(msg, 'somebody')
        if rng.random() < 0.01:
            one.clear()
            other.clear()
    names = [*frames, 'nowhere', '', '/odom']
    for _ in range(200):
        target, source = rng.choice(names, 2, p=[0.18] * 5 + [0.04, 0.03, 0.03])
        near = BEGIN + int(rng.integers(-5, 70)) * MS
        stamp_ns = int(rng.choice([0, near, BEGIN + 12 * SECOND]))
        real = answer(one, target, source, stamp_ns, tf2_ros)
        fake = answer(other, target, source, stamp_ns, fake_tf2)
        if isinstance(real, str) or isinstance(fake, str):
            assert real == fake, (target, source, stamp_ns)
        else:
            np.testing.assert_allclose(fake[0], real[0], atol=1e-6)
            if target != source:
                assert fake[1] == real[1]


# --- over its topics ---------------------------------------------------------------------------


class Robot:
    """Broadcasts as the nodes of a robot do: each is one with its own broadcasters."""

    def __init__(self, peer, context):
        self.peer, self.context = peer, context
        self.nodes, self.moving, self.fixed = {}, {}, {}

    def node(self, name):
        if name not in self.nodes:
            node = rclpy.create_node(name, context=self.context)
            self.nodes[name] = node
            self.moving[name] = tf2_ros.TransformBroadcaster(node)
        return self.nodes[name]

    def place(self, name, T, parent, child):
        broadcaster = tf2_ros.StaticTransformBroadcaster(self.node(name))
        broadcaster.sendTransform(transform_to_msg(T, self.peer.now(), parent, child))

    def move(self, name, T, parent, child, stamp_ns=None):
        self.node(name)
        msg = transform_to_msg(T, stamp_ns or self.peer.now(), parent, child)
        self.moving[name].sendTransform(msg)

    def end(self, name):
        self.nodes.pop(name).destroy_node()


@pytest.fixture
def robot(peer, context):
    robot = Robot(peer, context)
    yield robot
    for name in list(robot.nodes):
        robot.end(name)


def at(x):
    return transform(np.eye(3), [x, 0.0, 0.0])


def mapped(node):
    return node._health._mapped


def unmapped(node):
    return node._health._unmapped['tf_two_parents']


def stream(peer, robot, node, done, *, lag=0.0, seconds=20.0, each=lambda: None, begin=None):
    """Odometry of the base at 30 Hz, and an image with every third that is `lag` s newer."""
    count = 0
    end = time.monotonic() + seconds
    first = time.monotonic()
    while not done():
        assert time.monotonic() < end, 'timed out'
        stamp_ns = peer.now() if begin is None else begin + int((time.monotonic() - first) * 1e9)
        robot.move('wheels', at(0.1 * np.sin(count / 10)), 'odom', 'base', stamp_ns)
        each()
        if count % 3 == 0:
            peer.send(pose=None, stamp_ns=stamp_ns + int(lag * 1e9))
        count += 1
        peer.spin(1 / 30)


def test_what_moves_on_tf_places_the_camera_also_when_its_mounting_comes_late(
    make_node, peer, robot
):
    node = start(make_node(pose__source='tf'))
    peer.listen(DEPTH)
    stream(peer, robot, node, lambda: len(peer.received[DEPTH]) >= 5)
    assert mapped(node) == 0
    assert node._health._unmapped['no_transform'] >= 5
    robot.place('state_publisher', POSE, 'base', CAMERA)
    stream(peer, robot, node, lambda: mapped(node) >= 10)


@pytest.mark.parametrize(('tolerance', 'known'), [(0.02, True), (0.0, False)])
def test_an_image_newer_than_the_last_transform_is_mapped_within_the_tolerance(
    make_node, peer, robot, tolerance, known
):
    robot.place('state_publisher', POSE, 'base', CAMERA)
    node = start(make_node(pose__source='tf', pose__wait=0.05, pose__tolerance=tolerance))
    peer.listen(DEPTH)
    stream(peer, robot, node, lambda: mapped(node) >= 3)
    peer.spin(0.3)
    for number in range(1, 6):  # and no transform after it
        before, seen = mapped(node), len(peer.received[DEPTH])
        stamp_ns = peer.now()
        robot.move('wheels', at(0.0), 'odom', 'base', stamp_ns)
        peer.spin(0.02)
        peer.send(pose=None, stamp_ns=stamp_ns + 8 * MS)
        peer.spin_until(lambda seen=seen: len(peer.received[DEPTH]) > seen)
        peer.spin(0.1)
        assert mapped(node) == before + known, number


def test_two_parents_over_tf_are_named_and_nothing_is_mapped(make_node, peer, robot, monkeypatch):
    monkeypatch.setattr(parents, 'QUIET', 0.5)
    robot.place('state_publisher', POSE, 'base', CAMERA)
    node = start(make_node(pose__source='tf'))
    peer.listen(DEPTH, '/diagnostics')
    stream(peer, robot, node, lambda: mapped(node) >= 5)

    def other():
        robot.move('second_odometry', np.eye(4), 'odom_2', 'base')

    stream(peer, robot, node, lambda: unmapped(node) >= 3, each=other)
    before, seen = mapped(node), len(peer.received[DEPTH])
    stream(peer, robot, node, lambda: unmapped(node) >= 20, each=other)
    assert mapped(node) == before
    assert len(peer.received[DEPTH]) > seen + 10
    node.publish_diagnostics()
    peer.spin(0.2)
    level, text, _ = peer.status('Mapping')
    assert level == 1
    assert 'base has 2 parents in tf, odom (moving) and odom_2 (moving)' in text
    assert '/wheels' in text
    assert '/second_odometry' in text
    stream(peer, robot, node, lambda: mapped(node) >= before + 5)


def test_a_fixed_parent_counts_until_its_broadcaster_has_gone(make_node, peer, robot, monkeypatch):
    monkeypatch.setattr(parents, 'QUIET', 1.0)
    monkeypatch.setattr('sharp_ros.ros.transforms.QUIET', 1.0)
    robot.place('state_publisher', POSE, 'base', CAMERA)
    node = start(make_node(pose__source='tf'))
    stream(peer, robot, node, lambda: mapped(node) >= 5)
    robot.place('old_calibration', POSE, 'mast', CAMERA)
    begun = time.monotonic()
    stream(peer, robot, node, lambda: time.monotonic() - begun > 4.0)
    before = mapped(node)
    assert unmapped(node) >= 20
    robot.end('old_calibration')
    stream(peer, robot, node, lambda: mapped(node) >= before + 5)


def test_a_recording_that_starts_over_is_mapped_again(make_node, peer, robot):
    robot.place('state_publisher', POSE, 'base', CAMERA)
    node = start(make_node(pose__source='tf'))
    for begin in (BEGIN + 600 * SECOND, BEGIN):
        before = mapped(node)
        stream(peer, robot, node, lambda before=before: mapped(node) >= before + 10, begin=begin)
    assert node._health._events['stamp_went_back']


def test_visual_odometry_is_in_tf_for_others_and_a_second_broadcaster_ends_it(
    make_node, peer, robot
):
    robot.place('state_publisher', POSE, 'base', CAMERA)
    node = start(make_node(pose__source='visual', pose__base_frame='base', pose__publish_tf=True))
    others = Transforms(peer.node)
    others.listen()

    def base_is_known():
        newest = rclpy.time.Time()
        return others._buffer.can_transform('odom', 'base', newest, rclpy.time.Duration())

    peer.spin_until(base_is_known, each=lambda: peer.send(pose=None))

    def other():
        robot.move('wheels', np.eye(4), 'wheel_odom', 'base')
        peer.send(pose=None)

    peer.spin_until(lambda: node._health._events['tf_owned_by_another'] >= 3, each=other)


def test_frames_of_views_reach_others_that_listen_late(make_node, peer, robot):
    names = ['side', 'top']
    parameters = {
        f'views__{name}__{key}': value
        for name, x in zip(names, (0.3, 0.6), strict=True)
        for key, value in {
            'placement': 'offset', 'position': [x, 0.0, 0.0], 'width': 80, 'height': 60,
            'rate_hz': 100.0,
        }.items()
    }  # fmt: skip
    for name in names:
        topic = f'/sharp/view/{name}/image'
        peer.TOPICS[topic] = peer.TOPICS[DEPTH]
        peer.listen(topic)
    start(make_node(view_names=names, **parameters))
    peer.spin_until(
        lambda: all(peer.received[f'/sharp/view/{name}/image'] for name in names), each=peer.send
    )
    late = Transforms(peer.node)
    late.listen()

    def known(name):
        newest = rclpy.time.Time()
        frame = f'{name}_optical_frame'
        return late._buffer.can_transform(CAMERA, frame, newest, rclpy.time.Duration())

    peer.spin_until(lambda: all(known(name) for name in names), each=peer.send)
    for name, x in zip(names, (0.3, 0.6), strict=True):
        found = late.lookup(CAMERA, f'{name}_optical_frame', peer.now(), 0.0)
        np.testing.assert_allclose(found[:3, 3], [x, 0.0, 0.0], atol=1e-9)


def test_a_fixed_frame_that_was_moved_is_where_it_is_now(peer, context):
    node = rclpy.create_node('views', context=context)
    ours = Transforms(node)
    for name, x in (('side', 1.0), ('top', 2.0), ('side', 3.0)):
        ours.broadcast(at(x), 0, CAMERA, name, fixed=True)
        peer.spin(0.1)
    late = Transforms(peer.node)
    late.listen()
    peer.spin(0.5)
    for name, x in (('side', 3.0), ('top', 2.0)):
        np.testing.assert_allclose(late.lookup(CAMERA, name, BEGIN, 0.0), at(x))
    node.destroy_node()
