from __future__ import annotations

import numpy as np
import pytest

from sharp_ros.camera import Intrinsics
from sharp_ros.localization.gravity import level_from_depth
from sharp_ros.synthetic import plane_depth, Room

INTRINSICS = Intrinsics.from_hfov(1.2, 320, 240)


@pytest.fixture(scope='module')
def room():
    return Room(seed=1)


@pytest.mark.parametrize('t', [0.0, 8.0, 16.0])
def test_a_furnished_room_is_level_to_two_degrees_and_its_floor_found_to_5_cm(room, t):
    T_world_camera = room.pose(t)
    _, depth = room.render(INTRINSICS, T_world_camera)
    T_level_camera = level_from_depth(depth, INTRINSICS)
    up_in_camera = T_world_camera[2, :3]
    tilt = np.degrees(np.arccos(np.clip(T_level_camera[2, :3] @ up_in_camera, -1, 1)))
    assert tilt < 2.0
    assert abs(T_level_camera[2, 3] - T_world_camera[2, 3]) < 0.05
    np.testing.assert_allclose(
        T_level_camera[:3, :3] @ T_level_camera[:3, :3].T, np.eye(3), atol=1e-9
    )


def test_a_wall_alone_says_nothing_about_up():
    assert level_from_depth(plane_depth(INTRINSICS, 2.0), INTRINSICS) is None


def test_no_depth_says_nothing():
    assert level_from_depth(np.zeros((240, 320), np.float32), INTRINSICS) is None
