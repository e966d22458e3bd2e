"""A range finder along a known ray: what it says of the scale, alone and among other anchors."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest

from sharp_ros.camera import Frame, Intrinsics, RangeReading
from sharp_ros.config import RangeConfig, ScaleConfig, SharpConfig
from sharp_ros.errors import InputError
from sharp_ros.localization.range_anchor import RANGE, range_scale
from sharp_ros.localization.scale_filter import ScaleFilter
from sharp_ros.se3 import look_at, matrix_from_quat, transform
from sharp_ros.synthetic import plane_depth

CAMERA = Intrinsics.from_hfov(1.2, 160, 120)
IMAGE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
POSE = look_at(np.array([0.0, 0, 1]), np.array([1.0, 0, 1]), np.array([0.0, 0, 1]))
AHEAD = np.array([0.0, 0.0, 1.0])


def along(direction=AHEAD, distance=2.0, origin=(0.0, 0.0, 0.0), half_angle=0.02, std=0.02):
    direction = np.asarray(direction, float)
    return RangeReading(
        np.array(origin), direction / np.linalg.norm(direction), distance, half_angle, std
    )


def frame_of(reading, stamp_ns=0, pose=POSE):
    return Frame(IMAGE, CAMERA, stamp_ns, 'camera', pose, 'odom', range_reading=reading)


@pytest.mark.parametrize('factor', [0.6, 1.0, 1.7])
@pytest.mark.parametrize(
    ('direction', 'origin'),
    [((0, 0, 1), (0, 0, 0)), ((0.3, -0.2, 1), (0, 0, 0)), ((-0.2, 0.25, 1), (0.3, 0.1, -0.2))],
)
def test_the_factor_is_that_of_the_wall_wherever_the_sensor_sits(factor, direction, origin):
    """A slanted wall, exactly known; 2 % for pixels and the width of the cone."""
    normal = np.array([0.2, 0.1, -1.0])
    depth = plane_depth(CAMERA, 2.0, tuple(normal))
    ray = np.array(direction, float) / np.linalg.norm(direction)
    distance = (normal @ [0, 0, 2.0] - normal @ origin) / (normal @ ray)
    found = range_scale(depth / factor, CAMERA, along(ray, distance, origin))
    assert math.exp(found.log_scale) == pytest.approx(factor, rel=0.02)
    assert 0.1 < math.sqrt(found.variance) < 0.15


def test_a_near_reading_is_as_vague_as_its_noise():
    depth = plane_depth(CAMERA, 0.1)
    vague = range_scale(depth, CAMERA, along(distance=0.1, std=0.05))
    exact = range_scale(depth, CAMERA, along(distance=0.1, std=0.001))
    assert vague.variance == pytest.approx(exact.variance + 0.25, rel=0.01)


def test_noisy_depth_within_the_cone_widens_the_deviation():
    rng = np.random.default_rng(0)
    depth = plane_depth(CAMERA, 2.0)
    noisy = (depth * np.exp(rng.normal(0, 0.05, depth.shape))).astype(np.float32)
    calm, wild = (range_scale(d, CAMERA, along(half_angle=0.1)) for d in (depth, noisy))
    assert math.sqrt(wild.variance - calm.variance) == pytest.approx(0.05, rel=0.3)


def test_a_cone_that_sees_an_edge_says_nothing():
    depth = plane_depth(CAMERA, 2.0)
    depth[:, 81:] = 3.0
    assert range_scale(depth, CAMERA, along()) is None
    beside = along((-0.1, 0, 1), 2.0 * math.hypot(0.1, 1))
    assert range_scale(depth, CAMERA, beside) is not None


@pytest.mark.parametrize('nothing', [0.0, np.nan, np.inf, -np.inf])
def test_where_there_is_no_depth_nothing_is_said(nothing):
    depth = np.full((120, 160), nothing, np.float32)
    assert range_scale(depth, CAMERA, along()) is None


@pytest.mark.parametrize('direction', [(0, 0, -1), (1, 0, 0), (2, 0, 1), (0, -2, 1)])
def test_a_ray_that_leaves_the_image_says_nothing(direction):
    assert range_scale(plane_depth(CAMERA, 2.0), CAMERA, along(direction)) is None
    assert not along(direction).is_in(CAMERA)


def test_a_ray_that_ends_at_the_rim_of_the_image_is_cut_off():
    depth = plane_depth(CAMERA, 2.0)
    corner = CAMERA.unprojected(np.array([0.0, 0.0]))
    assert range_scale(depth, CAMERA, along(corner, 2 * float(np.linalg.norm(corner))))


def test_a_reading_moves_with_its_sensor():
    T = transform(matrix_from_quat(np.array([0.5, 0.5, -0.5, 0.5])), np.array([0.1, 0.2, 0.3]))
    moved = along((1, 0, 0), 2.0).moved(T)
    np.testing.assert_allclose(moved.point, T[:3, :3] @ [2.0, 0, 0] + T[:3, 3])
    assert (moved.distance, moved.std) == (2.0, 0.02)


@pytest.mark.parametrize(
    'changes',
    [
        {'distance': 0.0}, {'distance': np.nan}, {'distance': np.inf}, {'std': 0.0},
        {'half_angle': -0.1}, {'half_angle': 1.6}, {'half_angle': np.nan},
        {'direction': np.zeros(3)}, {'origin': np.full(3, np.nan)},
    ],
)  # fmt: skip
def test_impossible_readings_are_refused(changes):
    with pytest.raises(InputError) as caught:
        replace(along(), **changes)
    assert caught.value.reason == 'bad_range'


# --- in the filter -------------------------------------------------------------------------------


def run(scale, truth, factor, reading):
    """Feed a still camera before a scene whose predicted depth is `factor` short."""
    rng = np.random.default_rng(0)
    for i in range(40):
        predicted = truth / factor * np.exp(rng.normal(0, 0.03, truth.shape))
        frame = frame_of(reading, round(i * 1e8))
        estimate = scale.update(frame, predicted.astype(np.float32), pose_is_metric=False)
    return estimate


def test_one_range_finder_sets_the_scale_as_well_as_one_place_can():
    estimate = run(ScaleFilter(ScaleConfig()), plane_depth(CAMERA, 2.0), 1.5, along())
    assert estimate.value == pytest.approx(1.5, rel=0.03)
    assert math.sqrt(estimate.log_variance) >= 0.1
    assert estimate.sources[RANGE] == 40


def test_without_readings_in_range_nothing_is_known_and_nothing_breaks():
    estimate = run(ScaleFilter(ScaleConfig()), plane_depth(CAMERA, 2.0), 1.5, None)
    assert RANGE not in estimate.sources
    assert estimate.value == pytest.approx(1.0, rel=0.05)


def test_a_range_finder_that_contradicts_the_height_of_the_camera_is_disputed():
    """Mounted 0.5 m behind where tf has it: it measures too much."""
    camera = look_at(np.array([0.0, 0, 1]), np.array([1.0, 0, 0.6]), np.array([0.0, 0, 1]))
    up = camera[2, :3]
    truth = plane_depth(CAMERA, -1 / up[2], tuple(up))
    true = -1 / up[2]  # where the optical axis meets the floor
    scale = ScaleFilter(ScaleConfig(camera_height=1.0))
    rng = np.random.default_rng(0)
    for reading, expected in ((along(distance=true), False), (along(distance=2 * true), True)):
        scale.reset()
        for i in range(40):
            predicted = (truth / 1.3 * np.exp(rng.normal(0, 0.02, truth.shape))).astype(np.float32)
            frame = frame_of(reading, round(i * 1e8), camera)
            estimate = scale.update(frame, predicted, pose_is_metric=False)
        assert (RANGE in estimate.disputed) == expected
        assert estimate.value == pytest.approx(1.3, rel=0.1) or expected
    assert estimate.disputed[RANGE] == pytest.approx(2.6, rel=0.1)


def test_visual_odometry_is_in_the_metres_of_a_range_finder():
    from sharp_ros.localization.localizer import Localizer

    with_range = SharpConfig(range=RangeConfig(enabled=True))
    frame = frame_of(None, pose=None)
    assert Localizer(with_range, estimates_scale=True)._knows_metres(frame)
    assert not Localizer(SharpConfig(), estimates_scale=True)._knows_metres(frame)
