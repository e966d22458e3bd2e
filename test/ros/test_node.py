from __future__ import annotations

import array
from functools import partial
import gc
import itertools
import os
import re
import threading
import time

import cv2
from nav_msgs.msg import Odometry
import numpy as np
import psutil
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_helpers import CAMERA, IMAGE, INTRINSICS, POSE, start, WALL, WallOracle
from sensor_msgs.msg import CompressedImage, Image
import torch

from sharp_ros import self_check
from sharp_ros.camera import Intrinsics
from sharp_ros.engine import Engine, Pending
from sharp_ros.models import load_predictor
from sharp_ros.pipeline import Pipeline
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    depth_from_msg,
    header_to_msg,
    image_to_msg,
    pose_from_odometry,
    stamp_ns_from_msg,
)
from sharp_ros.ros.diagnostics import WARN

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE


def counts(node):
    return node._worker.counts()


def test_every_output_arrives_with_the_stamp_and_frame_of_the_image(make_node, peer):
    peer.listen()
    node = start(make_node())
    # these come on request, and where nobody else knows the pose
    topics = peer.TOPICS.keys() - {'/sharp/snapshot/points', '/sharp/odometry'}
    peer.spin_until(lambda: all(peer.received[t] for t in topics), each=peer.send)
    sent = set(peer.stamps_sent)
    for topic in topics - {'/diagnostics'}:
        messages = peer.received[topic]
        for msg in messages:
            assert stamp_ns_from_msg(msg.header) in sent, topic
        frame = messages[0].header.frame_id
        expected = dict.fromkeys(('/sharp/occupancy_grid', '/sharp/map_points'), 'odom').get(
            topic, 'over_shoulder_optical_frame' if 'view' in topic else CAMERA
        )
        assert frame == expected, topic
    depth = depth_from_msg(peer.received['/sharp/depth/image'][0])
    assert depth.shape == (120, 160)
    assert np.nanmax(np.abs(depth - WALL)) < 1e-3
    cloud = peer.received['/sharp/points'][0]
    assert (cloud.width, cloud.height, cloud.point_step) == (160, 120, 16)
    info = peer.received['/sharp/depth/camera_info'][0]
    assert info.k[0] == pytest.approx(INTRINSICS.fx)
    node.trigger_deactivate()
    assert counts(node).frames_in == counts(node).processed + counts(node).dropped


def test_depth_does_not_wait_for_the_map(make_node, peer, monkeypatch):
    mapping, place = threading.Event(), Pipeline.place

    def slow(self, seen):
        if seen.begun.wanted:  # not while it warms up
            assert mapping.wait(30)
        return place(self, seen)

    peer.listen('/sharp/depth/image', '/sharp/points', '/sharp/occupancy_grid')
    node = make_node(occupancy__rate_hz=20.0)
    assert node.trigger_configure() == SUCCESS
    monkeypatch.setattr(Pipeline, 'place', slow)
    assert node.trigger_activate() == SUCCESS
    seen = ('/sharp/depth/image', '/sharp/points')
    peer.spin_until(lambda: all(peer.received[t] for t in seen), each=peer.send)
    assert not peer.received['/sharp/occupancy_grid']
    mapping.set()
    peer.spin_until(lambda: peer.received['/sharp/occupancy_grid'], each=peer.send)


@pytest.mark.parametrize('with_wait', [True, False])
def test_a_frame_is_in_the_map_before_the_next_is_seen(make_node, peer, monkeypatch, with_wait):
    """Also where a device runs the network: what is seen may start the maps over."""
    log, submit = [], Engine.submit

    def overlapping(self, *args):
        pending = submit(self, *args)
        return Pending(pending._finish, partial(time.sleep, 0.03) if with_wait else None)

    def logged(name, step, stamp_of):
        def run(self, argument, *rest):
            log.append((name, stamp_of(argument)))
            return step(self, argument, *rest)

        return run

    for name, stamp_of in {
        'begin': lambda frame: frame.stamp_ns,
        'see': lambda begun: begun.frame.stamp_ns,
        'place': lambda seen: seen.result.frame.stamp_ns,
    }.items():
        monkeypatch.setattr(Pipeline, name, logged(name, getattr(Pipeline, name), stamp_of))
    monkeypatch.setattr(Engine, 'submit', overlapping)
    monkeypatch.setattr(Engine, 'runs_beside', with_wait)
    peer.listen('/sharp/depth/image', '/sharp/occupancy_grid')
    node = start(make_node(WallOracle(nap=0.0 if with_wait else 0.03)))
    log.clear()
    peer.spin_until(lambda: counts(node).processed > 12, each=peer.send, period=0.01)
    node.trigger_deactivate()
    stamps = [stamp for name, stamp in log if name == 'place']
    steps = [entry for entry in log if entry[0] != 'begin']
    assert steps == [(name, stamp) for stamp in stamps for name in ('see', 'place')]
    # the device had the next frame before this one was in the map; cores are not shared out
    early = [
        log.index(('begin', b)) < log.index(('place', a)) for a, b in itertools.pairwise(stamps)
    ]
    assert any(early) == with_wait


def test_the_wall_becomes_occupied_two_metres_ahead_and_free_before_it(make_node, peer):
    peer.listen('/sharp/occupancy_grid')
    start(make_node(occupancy__rate_hz=20.0, point_cloud__edge_ratio=0.0))
    peer.spin_until(lambda: len(peer.received['/sharp/occupancy_grid']) > 4, each=peer.send)
    grid = peer.received['/sharp/occupancy_grid'][-1]
    cells = np.array(grid.data, np.int8).reshape(grid.info.height, grid.info.width)
    origin = grid.info.origin.position

    def cell(x, y):
        r = grid.info.resolution
        return cells[int((y - origin.y) / r), int((x - origin.x) / r)]

    assert cell(WALL + 0.01, 0.0) == 100
    assert cell(WALL + 0.6, 0.0) == -1
    assert cell(-1.0, 0.0) == -1


def test_the_scale_of_predicted_depth_is_published_and_reported(make_node, peer):
    peer.listen('/sharp/scale', '/sharp/depth/image', '/diagnostics')
    node = start(make_node(scale__constant=1.5))
    peer.spin_until(lambda: peer.received['/sharp/depth/image'], each=peer.send)
    peer.spin_until(lambda: peer.received['/sharp/scale'], each=peer.send)
    vector = peer.received['/sharp/scale'][0].vector
    assert (vector.x, vector.y) == (1.5, 0.0)
    depth = depth_from_msg(peer.received['/sharp/depth/image'][0])
    assert np.nanmedian(depth) == pytest.approx(1.5 * WALL, abs=1e-3)
    peer.diagnose(node)
    assert peer.status('Mapping')[2]['scale'] == '1.5000'


def test_the_deviation_of_predicted_depth_is_published_beside_it(make_node, peer):
    stds = []
    peer.node.create_subscription(Image, '/sharp/depth/log_std', stds.append, 10)
    start(make_node(scale__constant=1.5))
    peer.spin_until(lambda: stds, each=peer.send)
    std = depth_from_msg(stds[0])
    assert std.shape == (IMAGE.shape[0], IMAGE.shape[1])
    assert np.all((std > 0) & (std < 1))


def test_visual_odometry_is_published_but_maps_nothing_before_it_has_found_the_floor(
    make_node, peer
):
    odometry = []
    peer.node.create_subscription(Odometry, '/sharp/odometry', odometry.append, 10)
    peer.listen('/sharp/occupancy_grid', '/diagnostics')
    node = start(make_node(pose__source='visual'))
    peer.spin_until(lambda: len(odometry) >= 5, each=lambda: peer.send(pose=None))
    assert not peer.received['/sharp/occupancy_grid']
    peer.diagnose(node)
    level, message, values = peer.status('Mapping')
    assert level == WARN
    assert 'floor not found: ' in message  # a wall is all there is
    assert int(values['unmapped.floor_not_found']) >= 5
    assert (odometry[0].header.frame_id, odometry[0].child_frame_id) == ('odom', CAMERA)
    assert stamp_ns_from_msg(odometry[0].header) in peer.stamps_sent
    T_odom_camera = pose_from_odometry(odometry[-1])[3]
    np.testing.assert_allclose(T_odom_camera[:3, 2], [1, 0, 0], atol=0.05)  # level, x ahead
    assert np.linalg.norm(T_odom_camera[:3, 3]) < 0.01  # 1 cm: it stands still


def test_nothing_is_published_and_the_network_idles_without_subscribers(make_node, peer):
    oracle = WallOracle()
    node = start(make_node(oracle, pose__source='none'))
    calls = oracle.calls
    for _ in range(5):
        peer.send()
        peer.spin(0.05)
    peer.spin_until(lambda: counts(node).reasons.get('no_subscribers', 0) >= 3, each=peer.send)
    assert oracle.calls == calls


def test_a_late_subscriber_gets_the_grid(make_node, peer):
    peer.listen('/sharp/depth/image')
    node = start(make_node())
    peer.spin_until(lambda: counts(node).processed >= 3, each=peer.send)
    peer.listen('/sharp/occupancy_grid')
    peer.spin_until(lambda: peer.received['/sharp/occupancy_grid'])


def test_each_frame_of_a_slow_predictor_is_the_newest_there_was_when_the_last_one_ended(
    make_node, peer, monkeypatch
):
    """So none is older than the one before took, and it takes itself, and an image interval."""
    arrived, ends = [0], []  # stamps; those of a result and of the newest image at its time
    hurry = threading.Event()
    hurry.set()

    class Slow(WallOracle):
        def __call__(self, *inputs):
            goal = len(arrived) + 3
            while len(arrived) < goal and not hurry.is_set():
                time.sleep(0.001)
            return super().__call__(*inputs)

    peer.listen('/sharp/depth/image')
    node = start(make_node(Slow()))
    submit, publish = node._worker.submit, node._publish

    def submitted(raw):
        submit(raw)
        arrived.append(stamp_ns_from_msg(raw.image.header))

    def published(result):
        ends.append((result.frame.stamp_ns, arrived[-1]))
        publish(result)

    monkeypatch.setattr(node._worker, 'submit', submitted)
    monkeypatch.setattr(node, '_publish', published)
    peer.spin_until(lambda: counts(node).processed >= 1, each=peer.send)
    hurry.clear()
    first = len(ends)
    peer.spin_until(lambda: len(ends) >= first + 10, 60, each=peer.send, period=1 / 30)
    hurry.set()
    for (_, newest), (stamp_ns, _) in itertools.pairwise(ends):
        assert stamp_ns >= newest
    node.trigger_deactivate()
    total = counts(node)
    assert total.frames_in == total.processed + total.dropped
    assert total.reasons['replaced'] > total.processed


@pytest.mark.parametrize(
    ('name', 'break_it', 'reason'),
    [
        ('short data', lambda m: m.data.pop(), 'bad_data_length'),
        ('zero size', lambda m: setattr(m, 'width', 0), 'bad_image_size'),
        ('unknown encoding', lambda m: setattr(m, 'encoding', 'jabberwocky'), 'unknown_encoding'),
    ],
)
def test_a_bad_image_is_counted_and_the_stream_goes_on(make_node, peer, name, break_it, reason):
    peer.listen('/sharp/depth/image', '/diagnostics')
    node = start(make_node())
    peer.spin_until(lambda: counts(node).processed >= 1, each=peer.send)

    def send_bad():
        msg = image_to_msg(IMAGE, peer.now(), CAMERA)
        break_it(msg)
        peer.send(image=msg)

    peer.spin_until(lambda: counts(node).reasons.get(reason, 0) >= 1, each=send_bad)
    before = counts(node).processed
    peer.spin_until(lambda: counts(node).processed > before, each=peer.send)
    peer.diagnose(node)
    level, message, values = peer.status('Input')
    assert level == 1
    assert reason in message
    assert int(values[f'dropped.{reason}']) >= 1


def test_compressed_images_are_decoded_and_truncated_ones_counted(make_node, peer):
    peer.node.destroy_publisher(peer.image)  # DDS allows one type a topic in a process
    compressed = peer.node.create_publisher(CompressedImage, 'image', 1)
    jpeg = cv2.imencode('.jpg', IMAGE)[1].tobytes()
    peer.listen('/sharp/depth/image')
    node = start(make_node(camera__transport='compressed'))

    def send(data):
        stamp_ns = peer.now()
        peer.info.publish(camera_info_to_msg(INTRINSICS, stamp_ns, CAMERA))
        msg = CompressedImage(header=header_to_msg(stamp_ns, CAMERA), format='jpeg')
        msg.data = array.array('B', data)
        compressed.publish(msg)

    peer.spin_until(lambda: peer.received['/sharp/depth/image'], each=lambda: send(jpeg))
    peer.spin_until(
        lambda: counts(node).reasons.get('bad_compressed', 0) >= 1,
        each=lambda: send(jpeg[: len(jpeg) // 2]),
    )
    before = counts(node).processed
    peer.spin_until(lambda: counts(node).processed > before, each=lambda: send(jpeg))


def test_camera_info_of_another_size_is_refused_and_a_resolution_change_is_followed(
    make_node, peer
):
    peer.listen('/sharp/depth/image')
    node = start(make_node())
    other = Intrinsics.from_hfov(1.2, 200, 100)
    peer.spin_until(
        lambda: counts(node).reasons.get('size_mismatch', 0) >= 1,
        each=lambda: peer.send(info=other),
    )
    image = np.random.default_rng(0).integers(0, 255, (10, 20, 3), np.uint8)
    image = image.repeat(10, 0).repeat(10, 1)
    peer.spin_until(
        lambda: peer.received['/sharp/depth/image'],
        each=lambda: peer.send(info=other, image=image_to_msg(image, peer.now(), CAMERA)),
    )
    assert peer.received['/sharp/depth/image'][-1].width == 200


def test_without_calibration_frames_are_refused_unless_a_field_of_view_is_assumed(make_node, peer):
    peer.listen('/sharp/depth/camera_info')
    node = start(make_node())
    peer.spin_until(
        lambda: counts(node).reasons.get('no_camera_info', 0) >= 1,
        each=lambda: peer.send(info=None),
    )
    node.trigger_deactivate()
    node.trigger_cleanup()
    node.set_parameters([Parameter('camera.fallback_hfov', value=1.0)])
    start(node)
    peer.spin_until(
        lambda: peer.received['/sharp/depth/camera_info'], each=lambda: peer.send(info=None)
    )
    k = peer.received['/sharp/depth/camera_info'][-1].k
    assert k[0] == pytest.approx(Intrinsics.from_hfov(1.0, 160, 120).fx)


def test_without_a_pose_depth_flows_but_nothing_is_mapped(make_node, peer):
    peer.listen('/sharp/depth/image', '/sharp/occupancy_grid', '/diagnostics')
    node = start(make_node(pose__wait=0.01))
    peer.spin_until(
        lambda: len(peer.received['/sharp/depth/image']) >= 3, each=lambda: peer.send(pose=None)
    )
    assert not peer.received['/sharp/occupancy_grid']
    peer.diagnose(node)
    level, _, values = peer.status('Mapping')
    assert level == 1
    assert int(values['unmapped.no_pose_yet']) >= 3
    assert values['mapped'] == '0'


@pytest.mark.parametrize(
    ('reason', 'component', 'remedy'),
    [
        ('image_uniform', 'Input', 'uncover the lens'),
        ('image_featureless', 'Mapping', 'bare wall'),
    ],
)
def test_images_that_show_nothing_are_named_and_the_next_good_one_is_mapped(
    make_node, peer, reason, component, remedy
):
    peer.listen('/sharp/depth/image', '/diagnostics')
    node = start(make_node())
    peer.spin_until(lambda: node._health._mapped >= 2, each=peer.send)
    shade = np.full((120, 160, 3), 127, np.uint8)
    if reason == 'image_featureless':
        shade += np.linspace(0, 80, 160).astype(np.uint8)[:, None]
    refused = {'Input': lambda: counts(node).reasons, 'Mapping': lambda: node._health._unmapped}
    peer.spin_until(
        lambda: refused[component]().get(reason, 0) >= 3,
        each=lambda: peer.send(image=image_to_msg(shade, peer.now(), CAMERA)),
    )
    peer.diagnose(node)
    level, message, values = peer.status(component)
    assert level == 1
    assert remedy in message
    assert int(values[f'{"dropped" if component == "Input" else "unmapped"}.{reason}']) >= 3
    peer.spin(0.2)  # what is under way
    mapped, done = node._health._mapped, counts(node).processed
    peer.spin_until(lambda: counts(node).processed > done, each=peer.send)
    assert node._health._mapped > mapped


def test_a_pose_of_an_unknown_mounting_or_that_is_not_finite_is_not_guessed(make_node, peer):
    peer.listen('/sharp/depth/image', '/sharp/occupancy_grid')
    node = start(make_node(pose__wait=0.01))
    peer.spin_until(
        lambda: node._health._unmapped['unknown_mounting'] >= 1,
        each=lambda: peer.send(child='base_link'),
    )
    broken = POSE.copy()
    broken[0, 3] = np.nan
    peer.spin_until(
        lambda: node._health._events['bad_pose'] >= 1, each=lambda: peer.send(pose=broken)
    )
    assert not peer.received['/sharp/occupancy_grid']


def test_stamps_going_back_are_reported_and_the_stream_goes_on(make_node, peer):
    peer.listen('/sharp/depth/image')
    node = start(make_node())
    peer.spin_until(lambda: counts(node).processed >= 2, each=peer.send)
    old = peer.now() - 60_000_000_000
    peer.received.clear()
    peer.spin_until(
        lambda: any(
            stamp_ns_from_msg(m.header) == old for m in peer.received['/sharp/depth/image']
        ),
        each=lambda: peer.send(stamp_ns=old),
    )
    assert node._health._events['stamp_went_back'] >= 1


def test_a_failing_predictor_costs_frames_not_the_node(make_node, peer):
    oracle = WallOracle()
    peer.listen('/sharp/depth/image')
    node = start(make_node(oracle))
    oracle.fault = RuntimeError('out of luck')
    peer.spin_until(lambda: counts(node).reasons.get('internal_error', 0) >= 2, each=peer.send)
    oracle.fault = None
    peer.spin_until(lambda: peer.received['/sharp/depth/image'], each=peer.send)


def test_sensor_depth_is_paired_by_stamp_and_its_absence_is_counted(make_node, peer):
    from sharp_ros.models import load_predictor
    from sharp_ros.ros.conversions import depth_to_msg

    predictor, info = load_predictor('sensor')
    peer.listen('/sharp/depth/image')
    node = start(make_node(predictor, info))
    truth = np.full((120, 160), 3.0, np.float32)

    def send_pair():
        stamp_ns = peer.send()
        peer.depth.publish(depth_to_msg(truth, stamp_ns, CAMERA))

    peer.spin_until(lambda: peer.received['/sharp/depth/image'], each=send_pair)
    depth = depth_from_msg(peer.received['/sharp/depth/image'][-1])
    assert np.nanmax(np.abs(depth - 3.0)) < 1e-3
    peer.spin_until(lambda: counts(node).reasons.get('no_depth', 0) >= 2, each=peer.send)


def test_lifecycle_goes_round_without_leaking_threads_or_memory(make_node, peer):
    peer.listen()
    node = make_node()

    def cycle():
        start(node)
        done = counts(node).processed
        peer.spin_until(lambda: counts(node).processed > done, each=peer.send)
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_cleanup() == SUCCESS
        for messages in peer.received.values():
            messages.clear()  # what the listener keeps is no leak of the node

    cycle()
    gc.collect()
    threads = threading.active_count()
    memory = psutil.Process(os.getpid()).memory_info().rss
    for _ in range(10):
        cycle()
    assert threading.active_count() == threads
    grown = psutil.Process(os.getpid()).memory_info().rss - memory
    assert grown < 40e6  # each cycle allocates an occupancy map of several MB
    assert node.trigger_shutdown() == SUCCESS


def test_deactivated_node_keeps_weights_and_starts_again(make_node, peer):
    peer.listen('/sharp/depth/image')
    node = start(make_node())
    node.trigger_deactivate()
    assert node.trigger_activate() == SUCCESS
    peer.spin_until(lambda: peer.received['/sharp/depth/image'], each=peer.send)


def test_deactivate_frees_the_device_only_if_configured_and_activate_takes_it_again(
    make_node, peer, monkeypatch
):
    calls = []
    for name in ('release', 'prepare'):
        method = getattr(Engine, name)
        monkeypatch.setattr(
            Engine, name, lambda self, n=name, m=method: (calls.append(n), m(self))[1]
        )
    peer.listen('/sharp/depth/image')
    node = start(make_node())
    node.trigger_deactivate()
    assert 'release' not in calls
    node.set_parameters([Parameter('model.release_when_inactive', value=True)])
    node.trigger_activate()
    node.trigger_deactivate()
    assert calls.count('release') == 1
    calls.clear()
    assert node.trigger_activate() == SUCCESS
    assert calls[0] == 'prepare'
    peer.spin_until(lambda: peer.received['/sharp/depth/image'], each=peer.send)


def test_a_device_that_is_full_at_activate_is_an_answer(make_node, monkeypatch, capfd):
    node = make_node()
    assert node.trigger_configure() == SUCCESS

    def full(self):
        raise RuntimeError('CUDA out of memory')

    with monkeypatch.context() as patch:
        patch.setattr(Engine, 'prepare', full)
        assert node.trigger_activate() == FAILURE
    out, err = capfd.readouterr()
    assert 'cannot activate: RuntimeError: CUDA out of memory' in out + err
    assert node.trigger_activate() == SUCCESS


@pytest.mark.parametrize(
    ('parameters', 'text'),
    [
        ({'occupancy__voxel_size': -1.0}, 'occupancy.voxel_size must be at least'),
        ({'occupancy__voxle_size': 0.1}, 'unknown parameter'),
        ({'model__name': 'nonsense'}, 'nonsense'),
        ({'model__name': '/nowhere/weights.safetensors'}, 'nowhere'),
    ],
)
def test_configure_fails_with_a_reason_and_can_be_repaired(make_node, parameters, text, capfd):
    node = make_node(**parameters)
    node._make_pipeline = Pipeline.from_config
    assert node.trigger_configure() == FAILURE
    out, err = capfd.readouterr()
    assert text in out + err


def test_an_engine_that_differs_from_float32_is_refused_at_configure(
    make_node, capfd, tmp_path, monkeypatch
):
    monkeypatch.setattr(self_check, 'CACHE_FOLDER', tmp_path)
    node = make_node(model__precision='bf16')
    spoil = True

    def make_pipeline(config):
        predictor, info = load_predictor('nano')
        forward = predictor.forward

        def corrupt(*inputs):
            out, rgb = forward(*inputs)
            halved = next(predictor.network.parameters()).dtype != torch.float32
            return out + 0.5 * (spoil and halved), rgb

        predictor.forward = corrupt
        return Pipeline(Engine(predictor, config.model), info, config)

    node._make_pipeline = make_pipeline
    assert node.trigger_configure() == FAILURE
    out, err = capfd.readouterr()
    assert re.search(r'self-check failed: bf16 .* differs from fp32 by 0\.\d+', out + err)
    spoil = False
    assert node.trigger_configure() == SUCCESS


def test_configured_views_are_published_and_others_are_not(make_node, peer):
    node = start(
        make_node(view_names=['left', 'right'], views__left__width=64, views__left__height=48)
    )
    assert set(node._session.config.views) == {'left', 'right'}
    got = []
    peer.node.create_subscription(Image, '/sharp/view/left/image', got.append, 10)
    peer.spin_until(lambda: got, each=peer.send)
    assert (got[0].width, got[0].height) == (64, 48)
    topics = {name for name, _ in peer.node.get_topic_names_and_types()}
    assert '/sharp/view/over_shoulder/image' not in topics


def test_no_component_claims_to_run_before_the_node_is_active(make_node, peer):
    peer.listen('/diagnostics')
    node = make_node()

    def messages():
        peer.diagnose(node)
        return {status.message for status in peer.received['/diagnostics'][-1].status}

    peer.spin_until(node._diagnostics.get_subscription_count)
    assert messages() == {'idle'}
    start(node)
    assert 'running' in messages()
    node.trigger_deactivate()
    assert messages() == {'idle'}


def test_silence_of_the_camera_is_reported(make_node, peer):
    peer.listen('/diagnostics')
    node = start(make_node())
    peer.diagnose(node)
    level, message, _ = peer.status('Input')
    assert level == 1
    assert 'no image yet' in message
    node._health.image_arrived(peer.now(), peer.now())
    node._health._last_image = time.monotonic() - 6
    peer.diagnose(node)
    assert peer.status('Input')[0] == 2
