from __future__ import annotations

from collections import deque
from dataclasses import replace

from geometry_msgs.msg import PoseStamped
import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_helpers import CAMERA, INTRINSICS, POSE, WALL
from sensor_msgs.msg import CameraInfo, Image

from sharp_ros.camera import project, unproject
from sharp_ros.ros.conversions import (
    depth_from_msg,
    image_from_msg,
    matrix_from_transform,
    pose_to_msg,
    stamp_ns_from_msg,
)
from sharp_ros.se3 import apply, inverse, look_at, transform

SUCCESS = TransitionCallbackReturn.SUCCESS
KINDS = {'image': Image, 'camera_info': CameraInfo, 'depth': Image}
EYE = np.array([0.2, -0.1, 0.1])
VIEW_POSE = look_at(EYE, np.array([0.0, 0.0, WALL]), np.array([0.0, -1.0, 0.0]))


def start(node):
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    return node


@pytest.fixture
def watch(peer):
    """Subscribes to the three topics of a view and records what comes."""

    def begin(name, kinds=tuple(KINDS)):
        got = {kind: [] for kind in kinds}
        for kind in kinds:
            topic = f'/sharp/view/{name}/{kind}'
            peer.node.create_subscription(KINDS[kind], topic, got[kind].append, 10)
        return got

    return begin


def view_parameters(name, **changes):
    values = {'width': 80, 'height': 60, 'rate_hz': 100.0, **changes}
    return {'view_names': [name], **{f'views__{name}__{k}': v for k, v in values.items()}}


def triples(got):
    """Messages of the kinds that share a stamp."""
    by_stamp = [{stamp_ns_from_msg(m.header): m for m in messages} for messages in got.values()]
    return [[b[s] for b in by_stamp] for s in set(by_stamp[0]).intersection(*by_stamp)]


def test_a_view_is_a_ros_camera_whose_points_lie_where_the_real_one_saw_them(
    make_node, peer, watch, tf2
):
    got = watch('side')
    start(
        make_node(**view_parameters('side', placement='offset', position=EYE.tolist(), hfov=0.9))
    )
    peer.spin_until(lambda: triples(got), each=peer.send)
    image, info, depth = triples(got)[0]
    assert stamp_ns_from_msg(image.header) in peer.stamps_sent
    assert {m.header.frame_id for m in (image, info, depth)} == {'side_optical_frame'}
    assert (image.width, image.height, image.encoding) == (80, 60, 'rgb8')
    assert (depth.width, depth.height, depth.encoding) == (80, 60, '32FC1')
    assert (info.width, info.height) == (80, 60)
    k = np.array(info.k).reshape(3, 3)
    np.testing.assert_allclose(info.p, np.column_stack([k, np.zeros(3)]).ravel())
    np.testing.assert_allclose(info.r, np.eye(3).ravel())
    assert not any(info.d)
    # its depth, lifted by its own camera_info and moved by its transform, is the wall
    (fixed, sent), *more = tf2.sent
    assert fixed
    assert not more
    assert (sent.header.frame_id, sent.child_frame_id) == (CAMERA, 'side_optical_frame')
    T_camera_view = matrix_from_transform(sent.transform)
    np.testing.assert_allclose(T_camera_view[:3, 3], EYE)
    intrinsics = replace(
        INTRINSICS, fx=k[0, 0], fy=k[1, 1], cx=k[0, 2], cy=k[1, 2], width=80, height=60
    )
    points = unproject(depth_from_msg(depth), intrinsics) @ T_camera_view[:3, :3].T + EYE
    z = points[5:-5, 5:-5, 2]
    assert np.isfinite(z).mean() > 0.95
    assert np.nanmax(abs(z - WALL)) < 0.01  # 1 cm
    u, v = np.moveaxis(project(points[30, 40], INTRINSICS), -1, 0)
    assert abs(u - (INTRINSICS.cx + INTRINSICS.fx * EYE[0] / WALL)) < 1.5  # px
    assert abs(v - (INTRINSICS.cy + INTRINSICS.fy * EYE[1] / WALL)) < 1.5


def test_depth_of_a_view_is_made_only_for_those_who_listen_to_it(make_node, peer, watch, tf2):
    got = watch('side', ['image'])
    node = start(make_node(**view_parameters('side')))
    peer.spin_until(lambda: got['image'], each=peer.send)
    assert node._health._views['side'].depth is None


@pytest.mark.parametrize('parent', ['odom', 'gripper'])
def test_a_view_in_the_world_or_in_a_frame_of_tf_stands_there(make_node, peer, watch, tf2, parent):
    T_camera_gripper = transform(np.eye(3), [0.1, 0.0, 0.2])
    tf2.place(T_camera_gripper, CAMERA, 'gripper')
    T_parent_camera = {'odom': POSE, 'gripper': inverse(T_camera_gripper)}[parent]
    eye, target = apply(T_parent_camera, np.array([[0.3, 0, 0], [0, 0, WALL]]))
    up = T_parent_camera[:3, :3] @ [0, -1, 0]
    got = watch('placed')
    parameters = view_parameters(
        'placed',
        frame={'odom': 'world', 'gripper': 'gripper'}[parent],
        position=eye.tolist(),
        target=target.tolist(),
        up=up.tolist(),
    )
    start(make_node(**parameters))
    peer.spin_until(lambda: triples(got), each=peer.send)
    centre = depth_from_msg(triples(got)[0][2])[28:32, 38:42]
    np.testing.assert_allclose(centre, np.hypot(0.3, WALL), atol=0.02)  # 2 cm
    assert {m.header.frame_id for _, m in tf2.sent} == {parent}


def test_a_view_exactly_in_a_frame_of_tf_takes_its_name_and_broadcasts_nothing(
    make_node, peer, watch, tf2
):
    tf2.place(VIEW_POSE, CAMERA, 'eye')
    got = watch('eye')
    parameters = view_parameters('eye', placement='offset', frame='eye', position=[0.0, 0.0, 0.0])
    start(make_node(**parameters))
    peer.spin_until(lambda: triples(got), each=peer.send)
    assert triples(got)[0][0].header.frame_id == 'eye'
    assert not tf2.sent


@pytest.mark.parametrize(
    ('frame', 'pose', 'reason'), [('griper', POSE, 'no_transform'), ('world', None, 'no_pose')]
)
def test_a_view_without_a_place_is_counted_while_the_rest_goes_on(
    make_node, peer, watch, tf2, frame, pose, reason
):
    got = watch('lost')
    peer.listen('/sharp/depth/image', '/diagnostics')
    node = start(
        make_node(pose__wait=0.0, **view_parameters('lost', frame=frame, up=[0.0, 0.0, 1.0]))
    )
    peer.spin_until(
        lambda: len(peer.received['/sharp/depth/image']) >= 3, each=lambda: peer.send(pose=pose)
    )
    assert not got['image']
    peer.diagnose(node)
    peer.spin_until(lambda: 'lost' in peer.status('Views')[1], each=node.publish_diagnostics)
    level, _, values = peer.status('Views')
    assert level == 1
    assert int(values[f'unplaced.lost.{reason}']) >= 1


def test_a_view_beyond_its_bounds_is_reported_and_withheld_if_so_configured(
    make_node, peer, watch, tf2
):
    peer.listen('/sharp/depth/image', '/diagnostics')
    parameters = view_parameters('far', position=[0.0, 0.0, -3.0], max_distance=1.0, hfov=0.3)
    got = watch('far', ['image'])
    node = start(make_node(**parameters))
    peer.spin_until(lambda: got['image'], each=peer.send)
    assert (image_from_msg(got['image'][0])[0] == (220, 30, 30)).all()
    peer.diagnose(node)
    level, message, values = peer.status('Views')
    assert level == 1
    assert 'max_distance' in message
    assert values['far.trusted'] == 'False'
    assert float(values['far.distance_m']) == pytest.approx(3.0, abs=0.01)
    node.trigger_deactivate()
    node.trigger_cleanup()
    node.set_parameters([Parameter('views.far.withhold', value=True)])
    start(node)
    begun = peer.now()  # what was sent before may still be under way

    def newer(messages):
        return [m for m in messages if stamp_ns_from_msg(m.header) > begun]

    peer.spin_until(lambda: len(newer(peer.received['/sharp/depth/image'])) > 3, each=peer.send)
    assert node._health._views['far'].withheld
    assert not newer(got['image'])


def request_from(peer, parent, T_parent_view):
    if not hasattr(peer, 'requests'):
        peer.requests = peer.node.create_publisher(PoseStamped, '/sharp/view_request', 1)
    peer.requests.publish(pose_to_msg(T_parent_view, peer.now(), parent))


@pytest.mark.parametrize('parent', [CAMERA, 'odom', 'gripper'])
def test_a_requested_pose_is_rendered_from_the_newest_image(make_node, peer, watch, tf2, parent):
    T_camera_gripper = transform(np.eye(3), [0.1, 0.0, 0.2])
    tf2.place(T_camera_gripper, CAMERA, 'gripper')
    T_parent_camera = {CAMERA: np.eye(4), 'odom': POSE, 'gripper': inverse(T_camera_gripper)}
    got = watch('requested')
    node = start(make_node())
    peer.spin_until(lambda: node._worker.counts().processed >= 2, each=peer.send)
    assert not got['image']  # on demand only
    peer.spin_until(
        lambda: triples(got),
        each=lambda: (
            peer.send(),
            request_from(peer, parent, T_parent_camera[parent] @ VIEW_POSE),
        ),
    )
    image, _, depth = triples(got)[0]
    assert stamp_ns_from_msg(image.header) in peer.stamps_sent
    distance = np.linalg.norm(VIEW_POSE[:3, 3] - [0, 0, WALL])
    centre = depth_from_msg(depth)[118:122, 158:162]
    np.testing.assert_allclose(centre, distance, atol=0.02)  # 2 cm
    fixed, sent = tf2.sent[-1]
    assert not fixed
    assert (sent.header.frame_id, sent.child_frame_id) == (parent, 'requested_optical_frame')


def test_a_request_that_comes_while_another_is_taken_is_served_too(make_node, peer, watch, tf2):
    class Taken(deque):
        def pop(self):
            taken = super().pop()
            if not late:
                late.append(pose_to_msg(VIEW_POSE, peer.now(), CAMERA))
                node._on_view_request(late[0])
            return taken

    late = []
    got = watch('requested', ['image'])
    node = start(make_node())
    node._configured().requests = Taken(maxlen=1)
    peer.spin_until(lambda: node._worker.counts().processed >= 1, each=peer.send)
    node._on_view_request(pose_to_msg(VIEW_POSE, peer.now(), CAMERA))
    peer.spin_until(lambda: len(got['image']) == 2)


def test_requests_that_cannot_be_served_are_counted_and_harm_nothing(make_node, peer, watch, tf2):
    got = watch('requested', ['image'])
    node = start(make_node())
    events = node._health._events
    peer.spin_until(
        lambda: events['no_frame_yet'], each=lambda: request_from(peer, CAMERA, VIEW_POSE)
    )
    peer.spin_until(lambda: node._worker.counts().processed >= 1, each=peer.send)
    broken = VIEW_POSE.copy()
    broken[0, 3] = np.nan
    peer.spin_until(lambda: events['bad_pose'], each=lambda: request_from(peer, CAMERA, broken))
    peer.spin_until(
        lambda: node._health._unplaced['requested.no_transform'],
        each=lambda: (peer.send(), request_from(peer, 'nowhere', VIEW_POSE)),
    )
    assert not got['image']
    peer.spin_until(
        lambda: got['image'], each=lambda: (peer.send(), request_from(peer, CAMERA, VIEW_POSE))
    )
    # and after a pause, during which a request came that was never served
    request_from(peer, CAMERA, VIEW_POSE)
    node.trigger_deactivate()
    peer.spin(0.1)
    node.trigger_activate()
    got['image'].clear()
    peer.spin_until(
        lambda: got['image'], each=lambda: (peer.send(), request_from(peer, CAMERA, VIEW_POSE))
    )
