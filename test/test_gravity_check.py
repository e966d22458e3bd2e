"""What an IMU says is up, from the frame to the network, the scale, odometry and the map."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sharp_ros.camera import Frame, Intrinsics, MeasuredUp
from sharp_ros.config import ImuConfig, ModelConfig, PoseConfig, ScaleConfig, SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import InputError
from sharp_ros.localization.gravity import level_from_up, levelled
from sharp_ros.localization.gravity_check import contradiction
from sharp_ros.localization.scale_anchors import HeightAnchor
from sharp_ros.models import ModelInfo
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.pipeline import Pipeline
from sharp_ros.se3 import inverse, look_at, matrix_from_quat, transform
from sharp_ros.synthetic import plane_depth

CAMERA = Intrinsics.from_hfov(1.2, 160, 120)
INFO = ModelInfo('made here', 'a floor, or a wall', 'Apache-2.0', metric=True)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 120, 160, 3), np.uint8)
SURE = 0.02


def held(pitch=0.0, roll=0.0, height=1.0):
    """Pose of a camera that looks up by `pitch` and is rolled, degrees."""
    pitch, roll = math.radians(pitch), math.radians(roll)
    pose = look_at(
        np.array([0.0, 0, height]),
        np.array([math.cos(pitch), 0, height + math.sin(pitch)]),
        np.array([0.0, 0, 1]),
    )
    turn = matrix_from_quat(np.array([math.cos(roll / 2), 0, 0, math.sin(roll / 2)]))
    return pose @ transform(turn, np.zeros(3))


def frame_of(pose=None, up=None, stamp_ns=0, std=SURE, world='odom', transforms=None):
    """`up` is that of a pose, too."""
    measured = None if up is None else MeasuredUp(up[2, :3] / np.linalg.norm(up[2, :3]), std)
    image = IMAGES[stamp_ns // 10**8 % 4] if pose is not None else IMAGES[0]
    return Frame(
        image, CAMERA, stamp_ns, 'camera', pose, world, transforms=transforms or {}, up=measured
    )


def floor_depth(pose):
    """Of the plane z = 0, metres; 0 above the horizon."""
    up, height = pose[2, :3], pose[2, 3]
    return plane_depth(CAMERA, -height / up[2], tuple(up))


class Driven:
    """A pipeline whose network gives a depth image of ours, and what it is told of the floor."""

    def __init__(self, depth=None, **parts):
        self.depth = np.full((120, 160), 2.0, np.float32) if depth is None else depth
        self.pipeline = Pipeline(Engine(self, ModelConfig()), INFO, SharpConfig(**parts))
        self.geometries = []
        submit = self.pipeline.engine.submit

        def spy(image, intrinsics, depth, geometry):
            self.geometries.append(geometry)
            return submit(image, intrinsics, depth, geometry)

        self.pipeline.engine.submit = spy

    def __call__(self, image, intrinsics, depth=None):
        z = torch.from_numpy(np.where(self.depth > 0, self.depth, 50.0).astype(np.float32))[None]
        return gaussians_from_depth(z, torch.zeros(3, 120, 160), CAMERA)

    def process(self, *args, **kwargs):
        return self.pipeline.process(frame_of(*args, **kwargs), set())


# --- contradictions ------------------------------------------------------------------------------


@pytest.mark.parametrize(('by', 'std', 'agrees'), [
    (4.0, 0.005, True), (7.0, 0.005, False), (9.0, 0.03, True), (12.0, 0.03, False),
    (90.0, 0.03, False), (180.0, 0.03, False), (180.0, 1.2, True),
])  # fmt: skip
def test_a_pose_may_be_off_by_five_degrees_and_three_deviations(by, std, agrees):
    found = contradiction(frame_of(held(), held(roll=by), std=std), {})
    assert (found is None) == agrees
    if found is not None:
        assert found.reason == 'gravity_contradicts_pose'


def test_both_angles_are_named():
    found = contradiction(frame_of(held(pitch=-10), held(pitch=-30, roll=20)), {})
    assert 'looks -30 degrees upwards, rolled by 20 degrees by the IMU' in str(found)
    assert 'looks -10 degrees upwards, rolled by 0 degrees by that' in str(found)


def test_a_pose_that_is_not_a_number_contradicts():
    assert contradiction(frame_of(np.full((4, 4), np.nan), held()), {}) is not None


def test_without_an_imu_or_a_claim_nothing_is_contradicted():
    assert contradiction(frame_of(held()), {}) is None
    assert contradiction(frame_of(None, held()), {'base': 'pose.base_frame'}) is None


@pytest.mark.parametrize('wrong', [held(roll=30), held(pitch=-80), held(roll=180)])
def test_frames_that_gravity_contradicts_are_published_but_never_mapped(wrong):
    driven = Driven(scale=ScaleConfig(constant=1.0))
    result = driven.process(held(), wrong)
    assert result.unmapped.reason == 'gravity_contradicts_pose'
    assert not result.mapped
    assert not len(driven.pipeline.map_points())
    np.testing.assert_allclose(np.nanmedian(result.depth), 2.0, rtol=0.01)
    assert driven.process(held(), held(), stamp_ns=10**8).mapped
    assert driven.process(held(), None, stamp_ns=2 * 10**8).mapped


def test_nothing_is_learnt_from_such_a_frame_nor_told_to_the_network():
    driven = Driven(scale=ScaleConfig(camera_height=1.0))
    result = driven.process(held(pitch=-20), held(roll=60))
    assert driven.geometries == [None]
    assert not result.scale.sources


def test_a_frame_on_the_floor_is_held_against_gravity_too():
    scale = ScaleConfig(floor_frame='footprint', constant=1.0)
    driven, floor = Driven(scale=scale), {'footprint': inverse(held(pitch=-20))}
    result = driven.process(held(pitch=-20, roll=25), held(pitch=-20, roll=25), transforms=floor)
    assert result.unmapped.reason == 'gravity_contradicts_tf'
    assert 'footprint (scale.floor_frame)' in str(result.unmapped)
    good = {'footprint': inverse(held(pitch=-20, roll=25))}
    again = driven.process(
        held(pitch=-20, roll=25), held(pitch=-20, roll=25), stamp_ns=10**8, transforms=good
    )
    assert again.mapped


# --- what it is used for -------------------------------------------------------------------------


@pytest.mark.parametrize('pose', [None, held(pitch=-20)])
def test_the_network_is_told_what_the_imu_says_is_up_with_and_without_a_pose(pose):
    driven, truth = Driven(scale=ScaleConfig(camera_height=0.9)), held(pitch=-22, roll=2)
    driven.process(pose, truth)
    (known,) = driven.geometries
    assert known.height == 0.9
    np.testing.assert_allclose(known.up, truth[2, :3], atol=1e-12)


def test_an_imu_that_is_not_sure_levels_nothing():
    driven = Driven(scale=ScaleConfig(camera_height=0.9))
    driven.process(held(pitch=-20), held(pitch=-24), std=0.2)
    np.testing.assert_allclose(driven.geometries[0].up, held(pitch=-20)[2, :3], atol=1e-12)
    driven.process(None, held(pitch=-24), std=0.2, stamp_ns=10**8)
    assert driven.geometries[1] is None


@pytest.mark.parametrize(('pitch', 'roll'), [(-30, 0), (-35, 25), (-25, -40), (-40, 180)])
def test_the_height_of_the_camera_gives_the_scale_however_it_is_held(pitch, roll):
    """Without a pose: the depth of the floor is a factor of 1.5 short."""
    truth = held(pitch, roll, height=1.2)
    anchor = HeightAnchor(ScaleConfig(camera_height=1.2))
    seen = anchor.observe(frame_of(None, truth), floor_depth(truth) / 1.5, None)
    assert math.exp(seen.log_scale) == pytest.approx(1.5, rel=0.02)


@pytest.mark.parametrize(('pitch', 'roll'), [(0, 0), (-25, 15), (5, -30), (-89.9, 0)])
def test_visual_odometry_starts_level_before_a_wall_that_shows_no_floor(pitch, roll):
    truth = held(pitch, roll)
    driven = Driven(imu=ImuConfig(enabled=True))
    pose = driven.process(None, truth).frame.T_world_camera
    # a camera that looks down has the wall for a floor, which is 0.1 degrees off
    np.testing.assert_allclose(pose[2, :3], truth[2, :3], atol=2e-3 if pitch < -80 else 1e-6)


def test_visual_odometry_waits_for_the_imu_but_not_for_ever():
    driven = Driven(imu=ImuConfig(enabled=True))
    for i in range(30):
        assert driven.process(None, held(), std=0.3, stamp_ns=i * 10**8).motion is None
    late = driven.process(None, None, stamp_ns=3 * 10**9)
    assert late.frame.T_world_camera is not None
    prompt = Driven().process(None, None)
    assert prompt.frame.T_world_camera is not None


def test_the_robot_starts_upright_by_the_imu_where_its_own_frame_is_a_little_tilted():
    truth = held(pitch=-20, roll=4)
    base = {'base': inverse(held(pitch=-20))}
    driven = Driven(pose=PoseConfig(base_frame='base'), imu=ImuConfig(enabled=True))
    pose = driven.process(None, truth, transforms=base).frame.T_world_camera
    np.testing.assert_allclose(pose[2, :3], truth[2, :3], atol=1e-9)
    # turned about the origin of the base
    np.testing.assert_allclose(np.linalg.norm(pose[:3, 3]), 1.0, atol=1e-9)


def test_a_robot_whose_frame_contradicts_gravity_is_not_started_from():
    base = {'base': inverse(held())}
    driven = Driven(pose=PoseConfig(base_frame='base'))
    result = driven.process(None, held(roll=40), transforms=base)
    assert result.unmapped.reason == 'gravity_contradicts_tf'
    assert result.frame.T_world_camera is None


# --- geometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(5))
def test_a_level_frame_has_z_up_and_its_origin_on_the_floor(seed):
    rng = np.random.default_rng(seed)
    truth = held(rng.uniform(-60, -20), rng.uniform(-180, 180), rng.uniform(0.3, 2))
    level = level_from_up(truth[2, :3], floor_depth(truth), CAMERA)
    np.testing.assert_allclose(level[2, :3], truth[2, :3], atol=1e-9)
    assert level[2, 3] == pytest.approx(truth[2, 3], abs=0.02)  # 2 cm
    np.testing.assert_allclose(level[:3, :3] @ level[:3, :3].T, np.eye(3), atol=1e-9)


def test_without_depth_the_camera_is_the_origin():
    level = level_from_up(held(roll=10)[2, :3], np.zeros((120, 160), np.float32), CAMERA)
    np.testing.assert_array_equal(level[:3, 3], 0)


@pytest.mark.parametrize('tilt', [0.0, 1e-9, 0.3, 2.0, math.pi])
def test_levelling_turns_no_more_than_it_must(tilt):
    turn = matrix_from_quat(np.array([math.cos(tilt / 2), math.sin(tilt / 2), 0, 0]))
    tilted = transform(turn, np.zeros(3)) @ held()
    level = levelled(tilted, held()[2, :3])
    np.testing.assert_allclose(level[2, :3], held()[2, :3], atol=1e-9)
    if tilt < 3:
        np.testing.assert_allclose(level, held(), atol=1e-9)


@pytest.mark.parametrize(
    ('up', 'std'),
    [((0, 0, 0), 0.1), ((0, np.nan, 1), 0.1), ((0, 0, 2), 0.1), ((0, 0, 1), 0.0),
     ((0, 0, 1), np.nan), ((0, 1), 0.1)],
)  # fmt: skip
def test_what_is_no_direction_is_refused(up, std):
    with pytest.raises(InputError) as caught:
        MeasuredUp(np.array(up, float), std)
    assert caught.value.reason == 'bad_geometry'
