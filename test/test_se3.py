from __future__ import annotations

import cv2
import numpy as np
import pytest

from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.se3 import (
    angle,
    apply,
    interpolate,
    inverse,
    is_rotation,
    look_at,
    matrix_from_quat,
    moved_pose,
    PoseBuffer,
    quat_from_matrix,
    transform,
)

RNG = np.random.default_rng(3)


def random_transforms(*batch):
    return transform(matrix_from_quat(RNG.normal(size=(*batch, 4))), RNG.normal(size=(*batch, 3)))


@pytest.mark.parametrize('batch', [(), (5,), (2, 3)])
def test_rotations_are_orthonormal_and_round_trip(batch):
    quats = RNG.normal(size=(*batch, 4)) * 3
    rotation = matrix_from_quat(quats)
    np.testing.assert_allclose(
        rotation @ np.swapaxes(rotation, -1, -2),
        np.broadcast_to(np.eye(3), rotation.shape),
        atol=1e-12,
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0)
    unit = quats / np.linalg.norm(quats, axis=-1, keepdims=True)
    unit *= np.where(unit[..., :1] < 0, -1, 1)
    np.testing.assert_allclose(quat_from_matrix(rotation), unit, atol=1e-9)


def test_half_turns_round_trip():
    for axis in np.eye(3):
        rotation = matrix_from_quat(np.array([0.0, *axis]))
        np.testing.assert_allclose(
            matrix_from_quat(quat_from_matrix(rotation)), rotation, atol=1e-9
        )


@pytest.mark.parametrize('batch', [(), (4,)])
def test_inverse_undoes(batch):
    T = random_transforms(*batch)
    np.testing.assert_allclose(T @ inverse(T), np.broadcast_to(np.eye(4), T.shape), atol=1e-12)


def test_quarter_turn_about_z_takes_x_to_y():
    T = transform(matrix_from_quat(np.array([1.0, 0, 0, 1.0])), np.array([0.0, 0, 5]))
    np.testing.assert_allclose(apply(T, np.array([[1.0, 0, 0]])), [[0, 1, 5]], atol=1e-12)


@pytest.mark.parametrize('quat', [np.zeros(4), np.array([np.nan, 0, 0, 1])])
def test_useless_quaternions_are_refused(quat):
    with pytest.raises(InputError, match='quaternion'):
        matrix_from_quat(quat)


def test_look_at_puts_the_target_on_the_axis_and_up_up():
    T = look_at(np.array([1.0, 2, 1]), np.array([4.0, 2, 1]), np.array([0.0, 0, 1]))
    seen = apply(inverse(T), np.array([[4.0, 2, 1], [4, 2, 2], [4, 1, 1]]))
    np.testing.assert_allclose(seen, [[0, 0, 3], [0, -1, 3], [1, 0, 3]], atol=1e-12)


def test_look_at_refuses_degenerate_views():
    up = np.array([0.0, 0, 1])
    with pytest.raises(InputError):
        look_at(np.zeros(3), np.zeros(3), up)
    with pytest.raises(InputError):
        look_at(np.zeros(3), up, up)


def test_interpolation_hits_the_ends_and_halves_the_angle():
    T_0, T_1 = random_transforms(), random_transforms()
    np.testing.assert_allclose(interpolate(T_0, T_1, 0.0), T_0, atol=1e-9)
    np.testing.assert_allclose(interpolate(T_0, T_1, 1.0), T_1, atol=1e-9)
    half = interpolate(T_0, T_1, 0.5)
    np.testing.assert_allclose(
        inverse(T_0)[:3, :3] @ half[:3, :3], inverse(half)[:3, :3] @ T_1[:3, :3], atol=1e-9
    )


def pose_at(x):
    return transform(np.eye(3), np.array([x, 0.0, 0.0]))


def second(t):
    return int(t * 1e9)


def test_what_lies_between_poses_that_are_nearly_rigid_is_rigid():
    rng = np.random.default_rng(0)
    for turn in (0.0, 1e-3, 2.0, np.pi - 1e-3):
        T_0, T_1 = np.eye(4), np.eye(4)
        c, s = np.cos(turn), np.sin(turn)
        T_1[:2, :2] = [[c, -s], [s, c]]
        for T in (T_0, T_1):
            T[:3, :3] += rng.uniform(-4e-4, 4e-4, (3, 3))
        for alpha in (-1.0, 0.0, 0.3, 1.0, 2.0):
            rotation = interpolate(T_0, T_1, alpha)[:3, :3]
            np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)


def test_buffer_interpolates_between_neighbours():
    buffer = PoseBuffer(duration=10, max_gap=1, tolerance=0.05)
    for t in range(3):
        buffer.add(second(t), pose_at(float(t)))
    assert buffer.lookup(second(1.25))[0, 3] == pytest.approx(1.25)
    assert buffer.lookup(second(2))[0, 3] == 2.0
    assert buffer.lookup(second(2.04))[0, 3] == 2.0
    assert buffer.newest_ns == second(2)


@pytest.mark.parametrize(
    ('t', 'reason'), [(2.2, 'pose_too_old'), (-0.2, 'pose_too_new'), (1.5, 'pose_gap')]
)
def test_buffer_refuses_to_guess(t, reason):
    buffer = PoseBuffer(duration=10, max_gap=0.5, tolerance=0.1)
    for stamp in (0, 1, 2):
        buffer.add(second(stamp), pose_at(0.0))
    with pytest.raises(PoseUnavailableError) as caught:
        buffer.lookup(second(t))
    assert caught.value.reason == reason


def test_empty_buffer_says_so():
    assert PoseBuffer(1, 1, 1).newest_ns is None
    with pytest.raises(PoseUnavailableError, match='no pose received'):
        PoseBuffer(1, 1, 1).lookup(0)


def test_time_going_back_forgets_the_future():
    buffer = PoseBuffer(duration=10, max_gap=1, tolerance=0.05)
    buffer.add(second(100), pose_at(0.0))
    assert not buffer.add(second(1), pose_at(7.0))
    assert len(buffer) == 1
    assert buffer.lookup(second(1))[0, 3] == 7.0


def test_a_pose_of_the_same_stamp_replaces_the_one_before():
    buffer = PoseBuffer(duration=10, max_gap=1, tolerance=0.05)
    for x in range(100):
        assert buffer.add(0, pose_at(float(x)))
    assert len(buffer) == 1
    assert buffer.lookup(0)[0, 3] == 99


def test_old_poses_leave():
    buffer = PoseBuffer(duration=2, max_gap=1, tolerance=0.05)
    for t in range(100):
        buffer.add(second(t), pose_at(0.0))
    assert len(buffer) == 3


def test_covariance_of_a_fixed_frame_is_that_of_samples():
    rng = np.random.default_rng(0)
    T_world_a = transform(matrix_from_quat(np.array([0.9, 0.1, -0.3, 0.2])), [1.0, 2.0, 0.5])
    T_a_b = transform(matrix_from_quat(np.array([0.5, 0.5, 0.5, -0.5])), [0.4, -0.3, 1.2])
    root = rng.normal(size=(6, 6)) * 1e-3
    pose, covariance = moved_pose(T_world_a, root @ root.T, T_a_b)
    np.testing.assert_allclose(pose, T_world_a @ T_a_b)
    samples = []
    for dx, dy, dz, *turn in (root @ rng.normal(size=(6, 20_000))).T:
        rotation, _ = cv2.Rodrigues(np.array(turn))
        moved = transform(rotation @ T_world_a[:3, :3], T_world_a[:3, 3] + [dx, dy, dz]) @ T_a_b
        samples.append([*(moved[:3, 3] - pose[:3, 3]), *turn])
    scale = np.sqrt(np.diag(covariance))
    difference = np.cov(np.array(samples).T) - covariance
    assert np.abs(difference / np.outer(scale, scale)).max() < 0.05


def test_angle_is_that_of_the_rotation_vector():
    rng = np.random.default_rng(0)
    angles = np.array([0.0, 0.3, 1.5, 3.0, np.pi])
    axes = rng.normal(size=(5, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    rotations = np.stack([cv2.Rodrigues(v)[0] for v in axes * angles[:, None]])
    np.testing.assert_allclose(angle(rotations), angles, atol=1e-7)
    np.testing.assert_allclose(
        angle(transform(rotations, rng.normal(size=(5, 3)))), angles, atol=1e-7
    )
    assert angle(np.eye(3) * (1 + 1e-9)) == 0  # rounding gives no NaN


def test_reflections_and_what_is_not_orthonormal_are_no_rotations():
    turned = matrix_from_quat(np.array([0.9, 0.1, -0.3, 0.2]))
    overflowing = np.array([[1e200, 1e200, 0], [1e200, -1e200, 0], [0, 0, 1.0]])
    matrices = np.stack([turned, -turned, 1.001 * turned, turned * np.nan, overflowing])
    assert is_rotation(matrices).tolist() == [True, False, False, False, False]
