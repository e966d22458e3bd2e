"""What the node says about silence, publishers that cannot reach it, hangs and time."""

from __future__ import annotations

import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import CAMERA, IMAGE, start, WallOracle
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from sharp_ros.localization.scale_filter import ScaleEstimate
from sharp_ros.mapping.verdict import judge, MapFacts
from sharp_ros.ros import diagnostics
from sharp_ros.ros.conversions import image_to_msg
from sharp_ros.ros.diagnostics import Health
from sharp_ros.stereo import Refinement, TimeOffset
from sharp_ros.worker import WorkerCounts

pytestmark = pytest.mark.ros

OK, WARN, ERROR = 0, 1, 2


@pytest.fixture
def said(peer):
    """Waits until a component says something; its level."""
    peer.listen('/diagnostics')

    def said(node, component, text, each=lambda: None):
        found = []

        def look():
            each()
            node.publish_diagnostics()
            if peer.received['/diagnostics']:
                level, message, _ = peer.status(component)
                if re.search(text, message):
                    found.append(level)

        peer.spin_until(lambda: found, each=look)
        return found[0]

    return said


def test_missing_camera_is_named_by_its_topic(make_node, peer, said):
    peer.node.destroy_publisher(peer.image)
    assert said(start(make_node()), 'Input', 'no publisher on /image') == WARN


def test_compressed_images_on_the_topic_for_raw_ones_are_reported(make_node, peer, said):
    peer.node.destroy_publisher(peer.image)
    other = Context()  # DDS knows one type of a topic in one participant
    rclpy.init(context=other)
    try:
        camera = Node('camera', context=other)
        camera.create_publisher(CompressedImage, 'image', 1)
        assert said(start(make_node()), 'Input', 'camera.transport: compressed') == WARN
        camera.destroy_node()
    finally:
        rclpy.try_shutdown(context=other)


def test_publisher_whose_quality_of_service_does_not_suit_is_reported_with_the_cure(
    make_node, peer, said
):
    peer.node.destroy_publisher(peer.image)
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    peer.node.create_publisher(Image, 'image', best_effort)
    overrides = {'qos_overrides./image.subscription.reliability': 'reliable'}
    node = start(make_node(**overrides))
    assert said(node, 'Input', 'qos_overrides./image.subscription') == WARN
    peer.spin_until(lambda: node._health._events['incompatible_qos'])


def test_stall_is_an_error_until_images_are_back(make_node, peer, said, monkeypatch):
    now = 100.0  # seconds; on a busy machine any pause could be a stall
    monkeypatch.setattr(diagnostics, 'time', SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(diagnostics, '_RECENT', 0.0)
    peer.listen('/sharp/depth/image')
    node = start(make_node())
    peer.spin_until(
        lambda: (
            peer.received['/sharp/depth/image']
            and node._session.last_stamp_ns == peer.stamps_sent[-1]
        ),
        each=peer.send,
        period=0.5,
    )  # no image is under way
    now += 2.5
    assert said(node, 'Input', r'no image for 2\.5 s; is the camera running\?') == WARN
    now += 3.5
    assert said(node, 'Input', r'no image for 6\.0 s; is the camera running\?') == ERROR
    assert said(node, 'Input', '^running$', each=peer.send) == OK
    assert node._health._events['stall_recovered'] == 1


def test_frame_that_hangs_is_an_error_until_it_ends(make_node, peer, said, monkeypatch):
    monkeypatch.setattr(diagnostics, '_HANGS', 0.2)
    monkeypatch.setattr(diagnostics, '_RECENT', 0.0)
    gate = threading.Event()
    gate.set()

    class Hanging(WallOracle):
        def __call__(self, *args):
            assert gate.wait(30)
            return super().__call__(*args)

    node = start(make_node(Hanging()))
    peer.listen('/sharp/depth/image')
    peer.spin_until(lambda: peer.received['/sharp/depth/image'], each=peer.send)
    gate.clear()
    try:
        assert said(node, 'Inference', 'in progress for', each=peer.send) == ERROR
    finally:
        gate.set()
    assert said(node, 'Inference', '^running$') == OK


@pytest.mark.parametrize(
    ('ahead', 'cure'),
    [(-3600, 'images are 360. s old .*ros2 bag play --clock'), (60, 'use_sim_time .* /clock')],
)
def test_images_of_another_time_are_reported_with_the_cure_and_hide_nothing(
    make_node, peer, said, ahead, cure
):
    node = start(make_node())

    def send(encoding='rgb8'):
        stamp_ns = peer.now() + ahead * 10**9
        image = image_to_msg(IMAGE, stamp_ns, CAMERA)
        image.encoding = encoding
        peer.send(stamp_ns=stamp_ns, image=image)

    assert said(node, 'Input', cure, each=send) == WARN
    said(node, 'Input', f'{cure}.*unknown_encoding', each=lambda: send('jabberwocky'))
    said(node, 'Input', '^(?!.*images are)', each=peer.send)


def test_driver_that_repeats_its_stamp_is_reported(make_node, peer, said, monkeypatch):
    monkeypatch.setattr(diagnostics, '_STUCK', 0.3)
    monkeypatch.setattr(diagnostics, '_RECENT', 0.0)
    node, stamp_ns = start(make_node()), peer.now()
    found = said(node, 'Input', 'same stamp for', each=lambda: peer.send(stamp_ns=stamp_ns))
    assert found == WARN
    assert said(node, 'Input', '^running$', each=peer.send) == OK


def test_time_in_which_a_frame_is_at_work_heals_no_problem(monkeypatch):
    monkeypatch.setattr(diagnostics, '_RECENT', 0.1)
    health = Health()
    health.problem('Mapping', 'no pose')
    time.sleep(0.2)

    def level(busy_seconds):
        counts = WorkerCounts(1, 0, 0, 1, {}, busy_seconds)
        levels = {name: level for name, level, *_ in health.statuses('active', {}, counts, 'n')}
        return levels['n: Mapping']

    assert level(busy_seconds=5.0) == WARN  # the next frame of a slow network
    assert level(busy_seconds=0.01) == OK


def result_with(**given):
    names = ('scale', 'refinement', 'motion', 'unmapped', 'verdict', 'loaded', 'unscanned')
    return SimpleNamespace(**{**dict.fromkeys(names), 'views': {}, 'unplaced': {}, **given})


def test_a_bad_map_is_a_warning_for_as_long_as_it_is_bad():
    health, counts = Health(), WorkerCounts(1, 0, 0, 1, {}, 0.0)

    def mapping():
        statuses = health.statuses('active', {}, counts, 'n')
        return next(status[1:] for status in statuses if status[0] == 'n: Mapping')

    assert mapping()[0] == OK
    assert 'verdict' not in mapping()[2]
    health.note_placed(result_with(verdict=judge(MapFacts(free=67, occupied=10_439))))
    health.note_placed(result_with())  # a frame for which no grid was due
    level, text, values = mapping()
    assert (level, values['verdict']) == (WARN, 'bad')
    assert 'scale.camera_height' in text
    assert '67 of 10506' in values['verdict.little_free']
    health.note_placed(result_with(verdict=judge(MapFacts(8000, 1500, scale_std=0.5))))
    level, _, values = mapping()
    assert (level, values['verdict']) == (OK, 'doubtful')  # no warning that would never end
    assert 'metre' in values['verdict.scale_unsure']
    health.verdict(None)  # as after ~/reset
    assert 'verdict' not in mapping()[2]


def test_anchors_of_the_scale_that_contradict_each_other_are_named_with_their_factors():
    health = Health()
    disputed = {'height': 0.95, 'parallax': 1.42}
    scale = ScaleEstimate(1.1, 0.04, {}, disputed=disputed)
    health.note_seen(result_with(scale=scale))
    counts = WorkerCounts(1, 0, 0, 1, {}, 0.0)
    statuses = {
        n: (level, text) for n, level, text, _ in health.statuses('active', {}, counts, 'n')
    }
    level, text = statuses['n: Mapping']
    assert level == WARN
    assert '0.95 by height, 1.42 by parallax' in text
    assert 'slipping wheels' in text


def test_poses_that_images_go_on_contradicting_are_a_warning_and_single_ones_are_not():
    health, cells = Health(), np.zeros((2, 2), np.float32)

    def status(*obstacles):
        for obstacle in obstacles:
            measured = np.array([[True, False], [True, not obstacle]])
            health.refinement(Refinement(cells, cells, measured, obstacle=obstacle))
        return health.statuses('active', {}, None, 'n')[2]

    name, level, _, values = status('')
    assert name == 'n: Mapping'
    assert (values['refinement'], values['refinement_share']) == ('measured', '0.75')
    for _ in range(5):
        _, level, _, values = status(*['poses_disagree'] * 10, 'nothing_new', '')
        assert level == OK
    _, level, _, values = status(*['poses_disagree', 'no_baseline'] * 19)
    assert (level, values['refinement']) == (OK, 'no_baseline')
    _, level, text, values = status('poses_disagree')
    assert level == WARN
    assert values['refinement'] == 'poses_disagree'
    assert 'last 20 images' in text
    assert 'pose.base_to_camera' in text


@pytest.mark.parametrize(
    ('seconds', 'said'), [(-0.1, 'earlier'), (0.06, 'later'), (0.03, None), (0.0, None)]
)
def test_poses_of_another_moment_are_a_warning_with_what_to_set(seconds, said):
    health = Health()
    cells, offset = np.zeros((2, 2), np.float32), TimeOffset(seconds, 0.006)
    refinement = Refinement(cells, cells, cells > 0, time_offset=offset)
    own = SimpleNamespace(
        T_odom_camera=np.eye(4), state='tracking', inliers=30, tracked=30
    )  # whose poses are of the images
    health.note_seen(result_with(refinement=refinement, motion=own))
    assert 'pose_offset_ms' not in health.statuses('active', {}, None, 'n')[2][3]
    health.note_seen(result_with(refinement=refinement))
    _, level, text, values = health.statuses('active', {}, None, 'n')[2]
    assert values['pose_offset_ms'] == f'{seconds * 1e3:.0f}'
    assert values['pose_offset_std_ms'] == '6'
    assert level == (WARN if said else OK)
    if said:
        assert f'{abs(seconds) * 1e3:.0f} ms {said} than their images' in text
        assert f'change pose.time_offset by {-seconds:+.3f}' in text


def test_frame_hangs_by_how_long_those_before_it_took():
    assert Health().patience() == 10.0
    health = Health(warm_up=60.0)
    assert health.patience() == 300.0
    for _ in range(3):
        health.frame_done(0.0, {'decode': 1000.0, 'process': 5000.0, 'network': 4000.0}, True)
    assert health.patience() == 30.0


def test_timings_are_given_on_request(make_node, peer):
    peer.listen('/sharp/depth/image')
    start(make_node())
    peer.spin_until(lambda: len(peer.received['/sharp/depth/image']) >= 3, each=peer.send)
    client = peer.node.create_client(Trigger, '/sharp/timings')
    assert client.wait_for_service(5.0)
    future = client.call_async(Trigger.Request())
    peer.spin_until(future.done)
    lines = future.result().message.splitlines()
    assert lines[0].startswith('age p50')
    names = {line.partition(':')[0] for line in lines[1:]}
    assert {'decode', 'pose', 'network', 'map', 'publish'} <= names
