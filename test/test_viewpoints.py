from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import SharpConfig, ViewConfig
from sharp_ros.errors import ConfigError, PoseUnavailableError
from sharp_ros.se3 import (
    apply,
    inverse,
    look_at,
    matrix_from_quat,
    MAX_DISTANCE,
    transform,
)
from sharp_ros.viewpoints import locate, Viewpoint

SECOND = 1_000_000_000
POSE = look_at(np.array([3.0, 1, 1]), np.array([4.0, 1, 1]), np.array([0.0, 0, 1]))


def seen(viewpoint, point, stamp_ns=0):
    """A point of the parent frame, in the optical frame of the view."""
    return apply(inverse(viewpoint.pose(stamp_ns)), np.array(point, float))


def frame(**changes):
    k = Intrinsics.from_hfov(1.0, 4, 3)
    image = np.zeros((3, 4, 3), np.uint8)
    return replace(Frame(image, k, 0, 'camera_optical', POSE, 'odom'), **changes)


def test_look_at_has_its_target_ahead_and_the_scene_upright():
    in_camera = Viewpoint('v', ViewConfig(position=(1.0, -1.0, 0.0), target=(0.0, 0.0, 3.0)))
    ahead = seen(in_camera, (0, 0, 3))
    np.testing.assert_allclose(ahead, [0, 0, np.sqrt(11)], atol=1e-9)
    assert seen(in_camera, (0, -1, 3))[1] < ahead[1]  # -y of the camera is up in the image
    config = ViewConfig(frame='world', position=(2.0, 0.0, 1.5), target=(0.0, 0.0, 1.0))
    assert seen(Viewpoint('v', config), (0, 0, 2))[1] < 0  # so is +z of the world


def test_a_view_may_stand_wherever_a_pose_may():
    eye, target = (5e5, 5.4e6, 1.0), (MAX_DISTANCE, 5.4e6, 1.0)
    config = ViewConfig(frame='world', position=eye, target=target)
    viewpoint = Viewpoint('v', SharpConfig(views={'v': config}).views['v'])
    np.testing.assert_array_equal(viewpoint.pose(0)[:3, 3], eye)
    np.testing.assert_allclose(seen(viewpoint, target), [0, 0, MAX_DISTANCE - 5e5], atol=1e-6)


def test_the_direction_that_is_up_can_be_given_for_a_view_straight_down():
    config = ViewConfig(frame='world', position=(0.0, 0.0, 5.0), target=(0.0, 0.0, 0.0))
    with pytest.raises(ConfigError, match=r'views.bird: .*up'):
        Viewpoint('bird', config)
    bird = Viewpoint('bird', replace(config, up=(1.0, 0.0, 0.0)))
    np.testing.assert_allclose(seen(bird, (1, 0, 0)), [0, -1, 5], atol=1e-9)


def test_offset_is_the_pose_as_given():
    quat_xyzw = (0.0, 0.0, np.sin(0.4), np.cos(0.4))
    config = ViewConfig(placement='offset', position=(1.0, 2.0, 3.0), orientation=quat_xyzw)
    expected = transform(matrix_from_quat(np.array([np.cos(0.4), 0, 0, np.sin(0.4)])), [1, 2, 3])
    np.testing.assert_allclose(Viewpoint('v', config).pose(7), expected, atol=1e-12)


def test_orbit_keeps_distance_height_and_target_and_returns_after_its_period():
    config = ViewConfig(
        placement='orbit',
        frame='world',
        position=(3.0, 0.0, 2.0),
        target=(1.0, 0.0, 1.0),
        period=8.0,
    )
    orbit = Viewpoint('v', config)
    assert not orbit.fixed
    poses = np.array([orbit.pose(i * SECOND) for i in range(9)])
    eyes = poses[:, :3, 3]
    np.testing.assert_allclose(np.hypot(*(eyes[:, :2] - [1, 0]).T), 2, atol=1e-9)
    np.testing.assert_allclose(eyes[:, 2], 2, atol=1e-9)
    np.testing.assert_allclose(eyes[2], [1, 2, 2], atol=1e-9)  # counter-clockwise from above
    np.testing.assert_allclose(poses[8], poses[0], atol=1e-9)
    for second in range(8):
        x, y, _ = seen(orbit, (1, 0, 1), second * SECOND)
        np.testing.assert_allclose([x, y], 0, atol=1e-9)


@pytest.mark.parametrize('placement', ['look_at', 'orbit'])
def test_a_view_of_its_own_position_is_refused(placement):
    config = ViewConfig(placement=placement, position=(1.0, 0.0, 0.0), target=(1.0, 0.0, 0.0))
    with pytest.raises(ConfigError, match=r'views\.v'):
        Viewpoint('v', config)


def test_every_image_has_the_frames_camera_and_world_under_both_names():
    for name in ('camera', 'camera_optical'):
        T, parent = locate(frame(), name)
        assert parent == 'camera_optical'
        np.testing.assert_array_equal(T, np.eye(4))
    for name in ('world', 'odom'):
        T, parent = locate(frame(), name)
        assert parent == 'odom'
        np.testing.assert_allclose(T @ POSE, np.eye(4), atol=1e-12)


def test_other_frames_are_where_tf_says():
    T = transform(np.eye(3), [0.1, 0.2, 0.3])
    found, parent = locate(frame(transforms={'gripper': T}), 'gripper')
    assert parent == 'gripper'
    np.testing.assert_array_equal(found, T)


@pytest.mark.parametrize(
    ('changes', 'parent', 'reason'),
    [
        ({'T_world_camera': None, 'world_frame': ''}, 'world', 'no_pose'),
        ({'T_world_camera': None, 'world_frame': 'odom'}, 'odom', 'no_pose'),
        ({}, 'grippper', 'no_transform'),
    ],
)
def test_a_frame_nobody_knows_is_not_guessed(changes, parent, reason):
    with pytest.raises(PoseUnavailableError) as error:
        locate(frame(**changes), parent)
    assert error.value.reason == reason
