"""A robot whose poses are in UTM: what is published where, over the middleware."""

from __future__ import annotations

import numpy as np
import pytest
from ros_helpers import CAMERA, POSE, start, WALL
from sensor_msgs.msg import Image

from sharp_ros.ros.conversions import depth_from_msg, matrix_from_transform
from sharp_ros.se3 import apply, look_at, transform

UTM = np.array([500_123.25, 5_400_321.5, 0.0])
KM = [500_000.0, 5_400_000.0, 0.0]
T_UTM_CAMERA = transform(POSE[:3, :3], POSE[:3, 3] + UTM)
FROM_TF = {'pose__source': 'tf', 'pose__world_frame': 'utm'}


def points_of(msg):
    """[N, 3] as they are in the message."""
    return np.frombuffer(msg.data, np.float32).reshape(-1, msg.point_step // 4)[:, :3]


@pytest.fixture
def far(tf2):
    """tf, in which the camera stands far from the origin of `utm`."""
    tf2.place(T_UTM_CAMERA, 'utm', CAMERA)
    return tf2


def local_frames(tf2):
    return [(fixed, m) for fixed, m in tf2.sent if m.child_frame_id.endswith('_local')]


def mapped(peer):
    """Whether the wall is in the newest points."""
    points = peer.received['/sharp/map_points']
    return bool(points) and points[-1].width > 500


def test_map_points_are_exact_in_a_frame_of_their_own_and_the_grid_in_the_world(
    make_node, peer, far
):
    peer.listen('/sharp/map_points', '/sharp/occupancy_grid')
    start(make_node(**FROM_TF))
    peer.spin_until(lambda: mapped(peer), each=peer.send)
    cloud, grid = (peer.received[f'/sharp/{t}'][-1] for t in ('map_points', 'occupancy_grid'))
    assert (cloud.header.frame_id, grid.header.frame_id) == ('utm_local', 'utm')
    ((fixed, msg),) = local_frames(far)
    assert fixed
    assert msg.header.frame_id == 'utm'
    T_utm_local = matrix_from_transform(msg.transform)
    np.testing.assert_array_equal(T_utm_local, transform(np.eye(3), np.array(KM)))
    at = apply(T_utm_local, points_of(cloud).astype(np.float64)) - UTM
    assert len(np.unique(at[:, 1])) > 20  # 0.5 m apart they were
    np.testing.assert_allclose(at[:, 0], WALL, atol=0.06)  # a voxel, and the spread of the depth
    origin = np.array([grid.info.origin.position.x, grid.info.origin.position.y])
    cells = np.array(grid.data, np.int8).reshape(grid.info.height, grid.info.width)
    columns = np.flatnonzero((cells == 100).any(0))
    x = origin[0] + (columns + 0.5) * grid.info.resolution - UTM[0]
    np.testing.assert_allclose(x, WALL, atol=0.06)


def test_a_view_placed_in_utm_sees_the_wall_where_it_is(make_node, peer, far):
    eye, target = (UTM + at for at in ([0.2, 0.1, 1.0], [WALL, 0.1, 1.0]))
    got = []
    peer.node.create_subscription(Image, '/sharp/view/far/depth', got.append, 10)
    place = {'frame': 'world', 'position': eye.tolist(), 'target': target.tolist()}
    more = {'width': 80, 'height': 60, 'rate_hz': 100.0, 'source': 'map'}
    parameters = {f'views__far__{k}': v for k, v in {**place, **more}.items()}
    start(make_node(view_names=['far'], gaussian_map__enabled=True, **parameters, **FROM_TF))
    peer.spin_until(lambda: got, each=peer.send)
    depth = depth_from_msg(got[-1])
    np.testing.assert_allclose(depth[25:35, 35:45], WALL - 0.2, atol=0.02)  # 2 cm
    (msg,) = (m for _, m in far.sent if m.child_frame_id == 'far_optical_frame')
    T_utm_view = look_at(eye, target, np.array([0.0, 0, 1]))
    assert msg.header.frame_id == 'utm'
    np.testing.assert_allclose(matrix_from_transform(msg.transform), T_utm_view, atol=1e-9)


def test_near_the_origin_there_is_no_other_frame(make_node, peer, tf2):
    tf2.place(POSE, 'utm', CAMERA)
    peer.listen('/sharp/map_points')
    start(make_node(**FROM_TF))
    peer.spin_until(lambda: mapped(peer), each=peer.send)
    assert peer.received['/sharp/map_points'][-1].header.frame_id == 'utm'
    assert not tf2.sent


def test_it_can_be_turned_off(make_node, peer, far):
    peer.listen('/sharp/map_points')
    start(make_node(pose__local_origin='off', **FROM_TF))
    peer.spin_until(lambda: mapped(peer), each=peer.send)
    assert peer.received['/sharp/map_points'][-1].header.frame_id == 'utm'
    assert not local_frames(far)


def test_poses_from_the_centre_of_the_earth_are_named_in_diagnostics(make_node, peer, tf2):
    place = POSE[:3, 3] + [4_177_000.0, 855_000.0, 4_728_000.0]
    tf2.place(transform(POSE[:3, :3], place), 'utm', CAMERA)
    peer.listen('/sharp/depth/image', '/sharp/map_points', '/diagnostics')
    node = start(make_node(**FROM_TF))
    peer.spin_until(lambda: node._health._unmapped['pose_not_z_up'] > 1, each=peer.send)
    peer.spin_until(lambda: peer.received['/sharp/depth/image'], each=peer.send)
    peer.diagnose(node)
    level, message, values = peer.status('Mapping')
    assert level == 1
    assert 'ECEF' in message
    assert int(values['unmapped.pose_not_z_up']) > 1
    assert not mapped(peer)
