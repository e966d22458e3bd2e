"""Conventions of ROS that hold for the node as a whole: names, QoS, clocks, logs, messages.

docs/conventions.md lists them all, with the test of each.
"""

from __future__ import annotations

import array
import math
from pathlib import Path
import re
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from builtin_interfaces.msg import Time
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from ros_helpers import CAMERA, INTRINSICS
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointField
import yaml

from sharp_ros.config import options, SharpConfig
from sharp_ros.ros import conversions
from sharp_ros.ros.conversions import stamp_ns_from_msg
from sharp_ros.ros.node import SharpNode

pytestmark = pytest.mark.ros

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
VOLATILE, LATCHED = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL
MAPS = {'occupancy_grid', 'map_points', 'snapshot/points'}
INPUTS = {'image', 'camera_info', 'odometry'}
# What ROS itself gives to every node, under names that are not ours to choose.
OF_ROS = {'rosout', 'parameter_events', 'clock', 'diagnostics', 'tf', 'tf_static'}


def start(node):
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    return node


def ends(node, kind, *expected):
    """(name of the topic, QoS) of every publisher or subscription of the node.

    Waits for those that are expected: a node learns of its own ones as of anybody else's.
    """
    info = getattr(node, f'get_{kind}s_info_by_topic'.replace('subscriber', 'subscription'))
    me, until = (node.get_name(), node.get_namespace()), time.monotonic() + 5.0
    while True:
        found = [
            (topic, end.qos_profile)
            for topic, _ in node.get_topic_names_and_types()
            for end in info(topic)
            if (end.node_name, end.node_namespace) == me
        ]
        if {*expected} <= {topic for topic, _ in found} or time.monotonic() > until:
            return found
        time.sleep(0.02)


def own(topics, prefix):
    """Those below a prefix, without it; each only once."""
    return {t.removeprefix(prefix): qos for t, qos in topics if t.startswith(prefix)}


# Names and quality of service


def test_outputs_are_reliable_and_maps_wait_for_late_subscribers(make_node):
    node = start(make_node())
    outputs = own(ends(node, 'publisher', '/sharp/snapshot/points', '/sharp/points'), '/sharp/')
    outputs.pop('transition_event')  # of rclpy
    assert len(outputs) >= 14
    for topic, qos in outputs.items():
        assert qos.reliability == RELIABLE, topic
        assert qos.durability == (LATCHED if topic in MAPS else VOLATILE), topic
    assert outputs.keys() >= MAPS


def test_sensor_data_are_taken_from_publishers_of_either_reliability(make_node):
    inputs = own(ends(start(make_node()), 'subscriber', *(f'/{t}' for t in INPUTS)), '/')
    assert inputs.keys() >= INPUTS
    for topic in INPUTS:
        assert inputs[topic].reliability == BEST_EFFORT, topic
        assert inputs[topic].durability == VOLATILE, topic


@pytest.mark.parametrize(
    ('topic', 'kind', 'value'),
    [('/image', 'subscription', 'reliable'), ('/sharp/depth/image', 'publisher', 'best_effort')],
)
def test_quality_of_service_is_overridden_for_the_topic_that_is_named_and_no_other(
    make_node, topic, kind, value
):
    node = start(make_node(**{f'qos_overrides.{topic}.{kind}.reliability': value}))
    others = {'/camera_info', '/odometry', '/sharp/points', '/sharp/image_rect'}
    found = [
        *ends(node, 'publisher', '/sharp/depth/image', '/sharp/points', '/sharp/image_rect'),
        *ends(node, 'subscriber', '/image', '/camera_info', '/odometry'),
    ]
    qos = {name: profile.reliability for name, profile in found}
    assert qos[topic] == {'reliable': RELIABLE, 'best_effort': BEST_EFFORT}[value]
    for other in others:
        assert qos[other] == (RELIABLE if 'sharp' in other else BEST_EFFORT), other


def test_every_name_is_private_or_remappable_and_lower_snake(make_node):
    node = start(
        make_node(**{'view_names': ['over_shoulder', 'ask'], 'views__ask__placement': 'request'})
    )
    topics = [t for t, _ in (*ends(node, 'publisher'), *ends(node, 'subscriber', '/odometry'))]
    services = [s for s, _ in node.get_service_names_and_types_by_node('sharp', '/')]
    for name in (*topics, *services):
        # the name of its transport is image_transport's own
        ours = name.removesuffix('/compressedDepth')
        assert re.fullmatch(r'(/[a-z][a-z0-9_]*)+', ours), name
    loose = {t.lstrip('/') for t in topics if not t.startswith('/sharp/')} - OF_ROS
    assert loose == INPUTS
    assert all(s.startswith('/sharp/') for s in services)


def test_a_namespace_moves_all_that_is_ours(context):
    node = SharpNode(
        context=context,
        namespace='left_camera',
        parameter_overrides=[Parameter('model.name', value='sensor')],
    )
    try:
        start(node)
        topics = [t for t, _ in ends(node, 'publisher', '/left_camera/sharp/points')]
        topics += [t for t, _ in ends(node, 'subscriber', '/left_camera/image')]
        outside = {t for t in topics if not t.startswith('/left_camera/')}
        assert {t.lstrip('/') for t in outside} <= OF_ROS
        assert '/left_camera/image' in topics
        assert '/left_camera/sharp/points' in topics
    finally:
        node.destroy_node()


# Clocks and logs


def test_on_simulated_time_ages_are_simulated_and_stamps_those_of_the_images(make_node, peer):
    clock = peer.node.create_publisher(Clock, '/clock', 1)
    peer.listen('/sharp/depth/image', '/diagnostics')
    node = start(make_node(use_sim_time=True))
    stamp_ns = 5_000_000_000  # long ago

    def send():
        nonlocal stamp_ns
        stamp_ns += 100_000_000
        clock.publish(Clock(clock=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)))
        peer.spin(0.02)
        peer.send(stamp_ns=stamp_ns)

    peer.spin_until(lambda: len(peer.received['/sharp/depth/image']) > 3, each=send)
    for msg in peer.received['/sharp/depth/image']:
        assert stamp_ns_from_msg(msg.header) in peer.stamps_sent
    peer.diagnose(node)
    assert float(peer.status('Inference')[2]['age_ms_p95']) < 60_000  # not 50 years
    assert stamp_ns_from_msg(peer.received['/diagnostics'][-1].header) <= stamp_ns


def test_frames_that_go_well_are_not_logged_one_by_one(make_node, peer, capfd):
    peer.listen('/sharp/depth/image')
    node = start(make_node())
    peer.spin_until(lambda: len(peer.received['/sharp/depth/image']) > 2, each=peer.send)
    loading = capfd.readouterr().err
    assert 'licence Apache-2.0' in loading  # of the weights, named when they are loaded
    assert 'metric' in loading
    before = node._worker.counts().processed
    peer.spin_until(lambda: node._worker.counts().processed > before + 20, each=peer.send)
    lines = [line for line in capfd.readouterr().err.splitlines() if '[sharp]' in line]
    assert len(lines) <= 1, lines


def test_frames_that_fail_are_logged_once_in_a_while(make_node, peer, capfd):
    peer.listen('/sharp/depth/image')
    node = start(make_node())
    reasons = node._worker.counts
    peer.spin_until(
        lambda: reasons().reasons.get('no_camera_info', 0) > 15, each=lambda: peer.send(info=None)
    )
    text = capfd.readouterr().err
    assert text.count('no camera_info received') == 1


# Messages


def test_the_grid_says_when_it_was_made_and_lies_on_the_floor_of_its_frame():
    stamp_ns = 1_700_000_000_123_456_789
    cells = np.full((3, 5), -1, np.int8)
    cells[1, 2], cells[2, 4] = 100, 0
    msg = conversions.grid_to_msg(cells, 0.05, (-1.0, 2.0), stamp_ns, 'odom')
    assert msg.info.map_load_time == msg.header.stamp
    assert (msg.info.width, msg.info.height) == (5, 3)
    origin = msg.info.origin
    assert (origin.position.x, origin.position.y, origin.position.z) == (-1.0, 2.0, 0.0)
    assert (origin.orientation.x, origin.orientation.y) == (0.0, 0.0)
    assert (origin.orientation.z, origin.orientation.w) == (0.0, 1.0)
    assert msg.data[1 * 5 + 2] == 100
    assert msg.data[2 * 5 + 4] == 0
    assert set(msg.data) == {-1, 0, 100}


def test_clouds_are_complete_rows_of_float32_and_dense_only_without_nan():
    cloud = np.random.default_rng(0).random((4, 6, 4), np.float32)
    cloud[0, 0, :3] = math.nan
    msg = conversions.cloud_to_msg(cloud, 1, CAMERA)
    assert [(f.name, f.offset) for f in msg.fields] == [('x', 0), ('y', 4), ('z', 8), ('rgb', 12)]
    assert {(f.datatype, f.count) for f in msg.fields} == {(PointField.FLOAT32, 1)}
    assert (msg.height, msg.width) == (4, 6)
    assert msg.row_step == msg.point_step * msg.width
    assert len(msg.data) == msg.row_step * msg.height
    assert not msg.is_dense
    assert isinstance(msg.data, array.array)
    assert msg.data.typecode == 'B'  # any other type is converted element by element


def test_depth_is_that_of_rep_117_and_118():
    depth = np.array([[0.5, math.inf, -math.inf, math.nan, 0.0, -1.0]], np.float32)
    msg = conversions.depth_to_msg(depth, 1, CAMERA)
    assert msg.encoding == '32FC1'
    assert (msg.step, msg.height, msg.width) == (24, 1, 6)
    sent = np.frombuffer(msg.data, np.float32)
    assert sent[0] == 0.5
    assert sent[1] == math.inf
    assert sent[2] == -math.inf
    assert np.isnan(sent[3:]).all()


def test_camera_info_of_an_output_is_that_of_a_rectified_image():
    msg = conversions.camera_info_to_msg(INTRINSICS, 1, CAMERA)
    np.testing.assert_array_equal(np.reshape(msg.r, (3, 3)), np.eye(3))
    np.testing.assert_array_equal(np.reshape(msg.p, (3, 4))[:, :3], np.reshape(msg.k, (3, 3)))
    assert not np.reshape(msg.p, (3, 4))[:, 3].any()
    assert not any(msg.d)


# Parameters


def test_ranges_with_two_ends_are_described_to_tools(make_node):
    node = make_node()
    seen = 0
    for entry in options():
        if entry.type not in ('int', 'float') or None in (entry.minimum, entry.maximum):
            continue
        descriptor = node.describe_parameter(entry.key)
        (limits,) = [*descriptor.floating_point_range, *descriptor.integer_range]
        assert (limits.from_value, limits.to_value) == (entry.minimum, entry.maximum), entry.key
        seen += 1
    assert seen > 10


def test_nothing_of_tf_is_broadcast_by_default_and_odom_is_the_world():
    config = SharpConfig()
    assert config.pose.publish_tf is False
    assert config.pose.world_frame == 'odom'


def test_the_shipped_parameter_file_serves_a_node_of_any_name():
    file = Path(__file__).parents[2] / 'config' / 'sharp.yaml'
    assert list(yaml.safe_load(file.read_text())) == ['/**']
