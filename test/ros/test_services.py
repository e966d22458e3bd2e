"""Services over DDS: reset, save and load, snapshot, on and off; and what they publish."""

from __future__ import annotations

import re
import threading
import warnings

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_helpers import CAMERA, IMAGE, POSE, start, WALL
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import SetBool, Trigger

from sharp_ros.localization.scale_anchors import floor_below
from sharp_ros.ros import answers, services, transforms
from sharp_ros.ros.conversions import (
    image_to_msg,
    odometry_to_msg,
    pose_from_odometry,
    stamp_ns_from_msg,
)
from sharp_ros.se3 import inverse, transform

pytestmark = pytest.mark.ros

GRID, DEPTH, POINTS = '/sharp/occupancy_grid', '/sharp/depth/image', '/sharp/snapshot/points'


@pytest.fixture
def call(peer):
    """Calls a service of the node while it runs, with images coming in; returns the response."""

    def call(name, request=None, send=peer.send, timeout=20.0):
        request = request or Trigger.Request()
        kind = SetBool if isinstance(request, SetBool.Request) else Trigger
        client = peer.node.create_client(kind, f'/sharp/{name}')
        assert client.wait_for_service(30.0)
        future = client.call_async(request)
        peer.spin_until(future.done, timeout, each=send)
        peer.node.destroy_client(client)
        return future.result()

    return call


def cells(peer):
    return np.array(peer.received[GRID][-1].data)


def stamps(peer, topic):
    return [stamp_ns_from_msg(m.header) for m in peer.received[topic]]


def mapping_node(make_node, peer, directory, **parameters):
    """A node that has published a map of the wall."""
    peer.listen(GRID, DEPTH)
    parameters = {'occupancy__rate_hz': 20.0, **parameters}
    node = start(make_node(output__directory=str(directory), **parameters))
    peer.spin_until(lambda: peer.received[GRID] and (cells(peer) == 100).any(), each=peer.send)
    return node


def test_reset_publishes_an_empty_map(make_node, peer, call, tmp_path):
    mapping_node(make_node, peer, tmp_path)
    response = call('reset', send=lambda: None)
    assert response.success
    peer.spin_until(lambda: np.all(cells(peer) == -1))
    assert peer.received[GRID][-1].header.frame_id == 'odom'
    assert stamps(peer, GRID)[-1] in peer.stamps_sent


def test_reset_after_another_configure_empties_the_map_that_viewers_still_show(
    make_node, peer, call, tmp_path
):
    node = mapping_node(make_node, peer, tmp_path)
    node.trigger_deactivate()
    node.trigger_cleanup()
    peer.spin(0.2)
    assert (cells(peer) == 100).any()  # what was received stays on the screen
    start(node)
    assert call('reset', send=lambda: None).success
    peer.spin_until(lambda: np.all(cells(peer) == -1))
    assert peer.received[GRID][-1].header.frame_id == 'odom'


@pytest.mark.parametrize('simulated', [False, True], ids=['clock', 'simulated time stands at 0'])
def test_a_map_that_no_image_dates_is_not_of_time_0(make_node, peer, call, tmp_path, simulated):
    node = mapping_node(make_node, peer, tmp_path)
    node.trigger_deactivate()
    peer.spin(0.2)
    peer.received.clear()
    node.set_parameters([Parameter('use_sim_time', value=simulated)])
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    before = peer.now()
    assert call('reset', send=lambda: None).success
    peer.spin_until(lambda: peer.received[GRID] and np.all(cells(peer) == -1))
    stamp = stamps(peer, GRID)[-1]
    assert stamp == 1 if simulated else before <= stamp <= peer.now()


def test_a_map_of_images_that_have_no_stamp_has_one(make_node, peer, tmp_path):
    peer.listen(GRID)
    start(make_node(output__directory=str(tmp_path), pose__source='odometry'))
    before = peer.now()

    def send():
        peer.odometry.publish(odometry_to_msg(POSE, 0, 'odom', CAMERA))
        peer.send(pose=None, image=image_to_msg(IMAGE, 0, CAMERA))

    peer.spin_until(lambda: peer.received[GRID], each=send)
    assert stamps(peer, GRID)[-1] >= before


def listen_to_map_points(peer):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    received = []
    subscriber = peer.node.create_subscription(
        PointCloud2, '/sharp/map_points', received.append, latched
    )
    return received, subscriber


@pytest.mark.parametrize('how', ['reset', 'time goes back'])
def test_late_subscriber_gets_no_points_of_a_map_that_is_gone(
    make_node, peer, call, tmp_path, how
):
    received, subscriber = listen_to_map_points(peer)
    node = mapping_node(make_node, peer, tmp_path)
    peer.spin_until(lambda: received and received[-1].width, each=peer.send)
    peer.node.destroy_subscription(subscriber)  # nobody listens when the map goes
    map_points = node._session.outputs.publishers['map_points']
    peer.spin_until(lambda: not map_points.get_subscription_count())
    gone = max(peer.stamps_sent)
    if how == 'reset':
        assert call('reset', send=lambda: None).success
    else:
        old = gone - 60 * 10**9
        peer.spin_until(
            lambda: stamps(peer, GRID)[-1] == old, each=lambda: peer.send(stamp_ns=old)
        )
    received, _ = listen_to_map_points(peer)
    peer.spin_until(lambda: received)
    if how == 'reset':
        assert received[0].width == 0
    else:
        assert stamp_ns_from_msg(received[0].header) == old


def test_request_is_given_up_when_the_frame_at_work_hangs(
    make_node, peer, call, tmp_path, monkeypatch
):
    node = mapping_node(make_node, peer, tmp_path)
    monkeypatch.setattr(node._health, 'patience', lambda: 0.05)
    gate = threading.Event()
    node._worker.post(lambda: gate.wait(10))
    try:
        response = call('save_map', send=lambda: None)
    finally:
        gate.set()
    assert not response.success
    assert 'busy for 0.05 s' in response.message


def test_node_can_be_disabled_and_timed_while_a_slow_service_is_at_work(make_node, peer, call):
    node = start(make_node(pose__source='none', snapshot__timeout=20.0))
    client = peer.node.create_client(Trigger, '/sharp/snapshot')
    assert client.wait_for_service(5.0)
    snapshot = client.call_async(Trigger.Request())
    peer.spin_until(lambda: not node._session.pipeline.snapshot_is_complete)
    assert call('set_enabled', SetBool.Request(data=False), send=lambda: None).success
    assert call('timings', send=lambda: None).success
    assert not snapshot.done()
    node._requests.snapshot_is_complete()  # enough
    peer.spin_until(snapshot.done)


@pytest.mark.parametrize('name', ['timings', 'set_enabled', 'get_state', 'get_parameters'])
def test_answer_is_sent_again_until_the_client_is_found(make_node, peer, name):
    node = make_node()
    [service] = [s for s in node.services if s.srv_name.endswith(f'/{name}')]
    sender, attempts = service.send_response, []
    send = sender._send

    def unheard_at_first(response, header):
        attempts.append(response)
        if len(attempts) < 3:
            warnings.warn('failed to send response (timeout): client will ...', stacklevel=1)
        else:
            send(response, header)

    sender._send = unheard_at_first
    client = peer.node.create_client(service.srv_type, f'/sharp/{name}')
    assert client.wait_for_service(5.0)
    timers = len(list(node.timers))
    answer = client.call_async(service.srv_type.Request())
    peer.spin_until(answer.done)
    assert len(attempts) == 3
    assert len(list(node.timers)) == timers


def test_client_that_is_never_found_is_given_up(make_node, peer, monkeypatch):
    monkeypatch.setattr(answers, '_PATIENCE', 0.3)
    node = make_node()
    [service] = [s for s in node.services if s.srv_name.endswith('/timings')]
    service.send_response._send = lambda *_: warnings.warn(
        'failed to send response (timeout)', stacklevel=1
    )
    client = peer.node.create_client(Trigger, '/sharp/timings')
    assert client.wait_for_service(5.0)
    client.call_async(Trigger.Request())
    timers = len(list(node.timers))
    peer.spin_until(lambda: len(list(node.timers)) > timers)
    peer.spin_until(lambda: len(list(node.timers)) == timers)


def test_map_is_saved_while_images_go_on(make_node, peer, call, tmp_path, monkeypatch):
    mapping_node(make_node, peer, tmp_path)
    seen, save = threading.Event(), services.save_new_map

    def slowly(*args, **kwargs):
        assert seen.wait(10)  # until an image that came after the request is done
        return save(*args, **kwargs)

    monkeypatch.setattr(services, 'save_new_map', slowly)
    before = peer.now()

    def send():
        peer.send()
        if stamps(peer, DEPTH)[-1] > before:
            seen.set()

    response = call('save_map', send=send)
    assert response.success, response.message
    assert response.message.startswith(str(tmp_path))
    written = {path.name for path in (tmp_path / 'latest').iterdir()}
    assert {'map.pgm', 'map.yaml', 'trajectory.txt', 'config.yaml', 'state.npz'} <= written


def test_maps_and_snapshots_are_also_saved_in_other_formats(make_node, peer, call, tmp_path):
    pytest.importorskip('laspy')
    parameters = {'gaussian_map__enabled': True, 'output__formats': '.spz .las'}
    node = mapping_node(make_node, peer, tmp_path, **parameters)
    response = call('save_map', timeout=60.0)
    assert response.success, response.message
    assert 'no .las' not in response.message  # of the Gaussians, where there is no surface
    written = {path.name for path in (tmp_path / 'latest').iterdir()}
    assert {'gaussians.ply', 'gaussians.spz', 'cloud.las'} <= written
    response = call('snapshot', timeout=60.0)  # by another process, which has to start
    assert response.success, response.message
    found = sorted(path.suffix for path in tmp_path.glob('snapshot_*'))
    assert found == ['.las', '.spz']
    assert all(str(path) in response.message for path in tmp_path.glob('snapshot_*'))
    (changed,) = node.set_parameters([Parameter('output.formats', value='.doc')])
    assert not changed.successful
    assert '.doc' in changed.reason


@pytest.fixture
def next_run(make_node, peer, call, tmp_path, monkeypatch):
    """Another run after a map of the wall was saved, and the grid of that map."""
    # else the wall may be anywhere, as far as depth of an unknown scale can tell
    first = mapping_node(make_node, peer, tmp_path, scale__constant=1.0)
    assert call('save_map').success
    saved = first._session.pipeline.grid()
    first.trigger_deactivate()
    first.trigger_cleanup()
    peer.executor.remove_node(first)
    first.destroy_node()
    peer.received.clear()
    monkeypatch.setattr(services, 'LOAD_PATIENCE', 60.0)  # on a busy machine, too
    parameters = {'occupancy__rate_hz': 20.0, 'scale__constant': 1.0}
    return start(make_node(output__directory=str(tmp_path), **parameters)), saved


def test_saved_map_is_used_in_another_run_once_images_agree(next_run, peer, call):
    _, saved = next_run
    response = call('load_map', timeout=60.0)
    assert response.success, response.message
    assert 'it fits what is seen in' in response.message
    peer.spin_until(lambda: peer.received[GRID], each=peer.send)
    known = saved.cells != -1
    np.testing.assert_array_equal(
        cells(peer).reshape(saved.cells.shape)[known], saved.cells[known]
    )
    assert peer.received[GRID][-1].header.frame_id == 'odom'


def test_map_that_lies_beside_is_refused_with_the_measured_offset(next_run, peer, call):
    node, saved = next_run
    peer.listen('/diagnostics')
    ahead = POSE.copy()
    ahead[0, 3] += 1.0  # the odometry began 1 m farther back: the wall is at 3 m now
    response = call('load_map', send=lambda: peer.send(pose=ahead), timeout=60.0)
    assert not response.success
    distance = float(re.search(r'([\d.]+) m, [\d.]+ degrees beside', response.message)[1])
    assert distance == pytest.approx(1.0, abs=0.15)
    # the map of before goes on
    peer.spin_until(lambda: np.any(cells(peer) == 100), each=lambda: peer.send(pose=ahead))
    grid = cells(peer).reshape(saved.cells.shape)
    x = peer.received[GRID][-1].info.origin.position.x + 0.05 * np.nonzero(grid == 100)[1]
    assert np.abs(x - 3.0).max() < 0.15  # and nothing of the saved one, at 2 m
    peer.diagnose(node)
    level, text, values = peer.status('Mapping')
    assert (level, 'beside' in text) == (1, True)
    assert peer.status('Input')[2]['event.map_beside'] == '1'
    assert 'event.map_loaded' not in values


def test_map_that_cannot_be_checked_yet_is_not_used_and_the_answer_says_so(
    next_run, peer, call, monkeypatch
):
    node, _ = next_run
    monkeypatch.setattr(services, 'LOAD_PATIENCE', 0.2)
    response = call('load_map', send=lambda: None)
    assert not response.success
    assert 'not in use yet' in response.message
    assert not node._session.pipeline.world_frame
    peer.spin_until(lambda: node._health._events['map_loaded'], 60.0, each=peer.send)


def test_map_is_loaded_by_the_name_that_was_set_just_before(
    make_node, peer, call, tmp_path, monkeypatch
):
    node = mapping_node(make_node, peer, tmp_path, output__load='old')
    gate, running = threading.Event(), node._requests._running

    def asked():
        found = running()
        gate.set()
        return found

    monkeypatch.setattr(node._requests, '_running', asked)
    node._worker.post(lambda: gate.wait(10))  # a frame is at work until the service has begun
    (changed,) = node.set_parameters([Parameter('output.load', value='new')])
    assert changed.successful
    assert node._session.config.output.load == 'old'
    response = call('load_map', send=lambda: None)
    assert not response.success
    assert str(tmp_path / 'new') in response.message


@pytest.mark.parametrize(
    ('parameters', 'service', 'text'),
    [
        ({'output__load': '../elsewhere'}, 'load_map', 'below'),
        ({'output__load': 'nothing_here'}, 'load_map', 'nothing_here'),
        ({'output__directory': '/dev/null/maps'}, 'save_map', '/dev/null'),
    ],
)
def test_what_cannot_be_done_is_answered_and_the_stream_goes_on(
    make_node, peer, call, tmp_path, parameters, service, text
):
    peer.listen(DEPTH, GRID)
    start(make_node(**{'output__directory': str(tmp_path), **parameters}))
    peer.spin_until(lambda: peer.received[GRID], each=peer.send)
    response = call(service)
    assert not response.success
    assert text in response.message
    before = peer.now()
    peer.spin_until(lambda: stamps(peer, DEPTH)[-1] > before, each=peer.send)


@pytest.mark.parametrize('service', ['reset', 'save_map', 'load_map', 'snapshot'])
def test_inactive_node_says_so(make_node, peer, call, service):
    make_node()
    response = call(service, send=lambda: None)
    assert not response.success
    assert 'not active' in response.message


def test_nothing_mapped_is_nothing_to_save(make_node, peer, call, tmp_path):
    start(make_node(output__directory=str(tmp_path), pose__source='none'))
    response = call('save_map')
    assert not response.success
    assert 'nothing is mapped' in response.message
    assert not list(tmp_path.iterdir())


def test_snapshot_is_one_cloud_of_several_images_also_without_subscribers(make_node, peer, call):
    peer.listen(POINTS)
    node = start(make_node(pose__source='none', snapshot__frames=3))
    response = call('snapshot')
    assert response.success, response.message
    assert 'of 3 images' in response.message
    peer.spin_until(lambda: peer.received[POINTS])
    msg = peer.received[POINTS][0]
    assert msg.header.frame_id == CAMERA
    assert stamps(peer, POINTS)[0] in peer.stamps_sent
    offsets = {field.name: field.offset for field in msg.fields}
    rows = np.frombuffer(bytes(msg.data), np.uint8).reshape(-1, msg.point_step)

    def column(name):
        return np.ascontiguousarray(rows[:, offsets[name] : offsets[name] + 4]).view(np.float32)

    np.testing.assert_allclose(column('z'), WALL, atol=0.01)
    np.testing.assert_allclose(column('normal_z'), -1, atol=0.01)  # towards the camera

    def ignored():
        return node._worker.counts().reasons.get('no_subscribers', 0)

    before = ignored()
    peer.spin_until(lambda: ignored() >= before + 2, each=peer.send)


def test_snapshot_without_images_gives_up(make_node, peer, call):
    start(make_node(pose__source='none', snapshot__timeout=0.2))
    response = call('snapshot', send=lambda: None)
    assert not response.success
    assert response.message


def test_snapshot_of_a_disabled_node_says_how_to_enable_it(make_node, peer, call):
    start(make_node(pose__source='none'))
    assert call('set_enabled', SetBool.Request(data=False)).success
    response = call('snapshot')
    assert not response.success
    assert response.message == 'images are ignored; call ~/set_enabled with true first'


def test_disabled_node_ignores_images_and_keeps_its_map(make_node, peer, call, tmp_path):
    node = mapping_node(make_node, peer, tmp_path)
    assert call('set_enabled', SetBool.Request(data=False)).success
    peer.spin_until(lambda: not node._worker.counts().pending)
    processed = node._worker.counts().processed
    peer.spin_until(lambda: node._worker.counts().reasons.get('disabled', 0) >= 3, each=peer.send)
    assert node._worker.counts().processed == processed
    assert (node._session.pipeline.grid().cells == 100).any()
    assert call('set_enabled', SetBool.Request(data=True)).success
    peer.spin_until(lambda: node._worker.counts().processed > processed, each=peer.send)


def test_map_of_a_recording_that_starts_over_is_taken_back_at_once(make_node, peer, tmp_path):
    mapping_node(make_node, peer, tmp_path)
    old = peer.now() - 60_000_000_000
    # no pose: nothing is mapped that could replace the old map
    peer.spin_until(
        lambda: stamps(peer, GRID)[-1] == old, each=lambda: peer.send(stamp_ns=old, pose=None)
    )
    assert (cells(peer) == -1).all()


# --- frames of tf ------------------------------------------------------------------------------

T_CAMERA_BASE = inverse(POSE) @ transform(
    np.eye(3), np.array([-0.2, 0.0, 0.0])
)  # base on the floor


@pytest.fixture
def robot(tf2, monkeypatch):
    """A camera 1 m above and 0.2 m ahead of the base, which stands on the floor."""
    monkeypatch.setattr(transforms, '_HEARING', 0.05)
    tf2.place(inverse(T_CAMERA_BASE), 'base', CAMERA)
    return tf2


def visual_node(make_node, peer, **parameters):
    peer.listen('/sharp/odometry')
    node = start(make_node(pose__source='visual', pose__base_frame='base', **parameters))
    peer.spin_until(
        lambda: len(peer.received['/sharp/odometry']) >= 3, each=lambda: peer.send(pose=None)
    )
    return node


def test_visual_odometry_places_the_base_and_is_level_by_it(make_node, peer, robot):
    visual_node(make_node, peer)
    msg = peer.received['/sharp/odometry'][-1]
    assert (msg.header.frame_id, msg.child_frame_id) == ('odom', 'base')
    np.testing.assert_allclose(pose_from_odometry(msg)[3], np.eye(4), atol=0.02)
    assert not robot.sent  # publish_tf is off


def test_base_is_broadcast_where_nobody_else_does(make_node, peer, robot):
    visual_node(make_node, peer, pose__publish_tf=True)
    peer.spin_until(lambda: len(robot.sent) >= 3, each=lambda: peer.send(pose=None))
    assert {(m.header.frame_id, m.child_frame_id) for _, m in robot.sent} == {('odom', 'base')}


@pytest.mark.parametrize('parent', ['odom', 'map'])
def test_frame_somebody_else_broadcasts_is_left_alone(make_node, peer, robot, parent):
    robot.place(np.eye(4), parent, 'base')
    node = visual_node(make_node, peer, pose__publish_tf=True)
    peer.spin_until(
        lambda: node._health._events['tf_owned_by_another'] >= 3,
        each=lambda: peer.send(pose=None),
    )
    assert not robot.sent


def test_second_parent_that_appears_ends_the_broadcast(make_node, peer, robot):
    node = visual_node(make_node, peer, pose__publish_tf=True)
    peer.spin_until(lambda: robot.sent, each=lambda: peer.send(pose=None))
    count = len(robot.sent)

    def other_robot():
        robot.move(np.eye(4), 'map', 'base', peer.now())
        peer.send(pose=None)

    peer.spin_until(lambda: node._health._events['tf_owned_by_another'] >= 3, each=other_robot)
    assert len(robot.sent) <= count + 5  # until it is looked for again


def test_height_over_the_floor_frame_sets_the_scale(make_node, peer, robot, monkeypatch):
    node = start(make_node(pose__source='none', scale__floor_frame='base'))
    heights = []
    scale = node._session.pipeline._localizer._filter
    update = scale.update

    def watched(frame, *args, **known):
        floor = floor_below(frame, scale.config.floor_frame)
        heights.append((floor.height, floor.up))
        return update(frame, *args, **known)

    monkeypatch.setattr(scale, 'update', watched)
    peer.listen(DEPTH)
    peer.spin_until(lambda: heights, each=peer.send)
    assert heights[0][0] == pytest.approx(1.0)
    np.testing.assert_allclose(heights[0][1], [0, -1, 0], atol=1e-9)


def test_without_the_base_no_level_is_guessed(make_node, peer, robot):
    robot.latched.clear()
    peer.listen(DEPTH, GRID)
    start(make_node(pose__source='visual', pose__base_frame='base', pose__wait=0.0))
    peer.spin_until(lambda: len(peer.received[DEPTH]) >= 5, each=lambda: peer.send(pose=None))
    assert not peer.received[GRID]
