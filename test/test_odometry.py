from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest

from sharp_ros.camera import Intrinsics, project, unproject
from sharp_ros.config import OdometryConfig
from sharp_ros.errors import InputError
from sharp_ros.localization.odometry import VisualOdometry
from sharp_ros.se3 import apply, inverse, transform
from sharp_ros.synthetic import Room

INTRINSICS = Intrinsics.from_hfov(1.2, 320, 240)
VGA = INTRINSICS.resized(640, 480)
RATE_HZ = 10
STEP_NS = 1_000_000_000 // RATE_HZ


@pytest.fixture(scope='module')
def room():
    return Room(seed=0)


@pytest.fixture(scope='module')
def drive(room):
    """Images, true depth and poses of the first 2.5 m."""
    poses = [pose for _, pose in room.trajectory(5.0, RATE_HZ)]
    return [(*room.render(INTRINSICS, pose), pose) for pose in poses]


def follow(frames, odometry=None, start_ns=0, intrinsics=INTRINSICS):
    odometry = odometry or VisualOdometry(OdometryConfig())
    return [
        odometry.register_frame(image, depth, intrinsics, start_ns + i * STEP_NS)
        for i, (image, depth, _) in enumerate(frames)
    ]


def disturbed(frames, seed):
    """5 % noise of every pixel, soft edges, and a scale of each image's own within 15 %."""
    rng = np.random.default_rng(seed)
    for image, depth, pose in frames:
        soft = cv2.GaussianBlur(depth, (0, 0), depth.shape[1] / 320)
        noise = 1 + 0.05 * rng.standard_normal(depth.shape)
        yield image, (soft * noise * rng.uniform(0.85, 1.15)).astype(np.float32), pose


def in_world(motions, frames):
    """Estimated poses with the odom frame placed by the first one."""
    T_world_odom = frames[0][2] @ inverse(motions[0].T_odom_camera)
    return [T_world_odom @ motion.T_odom_camera for motion in motions]


def position_errors(motions, frames):  # metres
    estimates = in_world(motions, frames)
    return np.array(
        [
            np.linalg.norm(estimate[:3, 3] - pose[:3, 3])
            for estimate, (*_, pose) in zip(estimates, frames, strict=True)
        ]
    )


def angle(rotation):  # degrees
    return np.degrees(np.linalg.norm(cv2.Rodrigues(np.asarray(rotation, np.float64))[0]))


def path_length(frames):
    positions = np.array([pose[:3, 3] for *_, pose in frames])
    return np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()


def blank(seed):
    """A wall without texture, with the noise of a sensor."""
    noise = np.random.default_rng(seed).normal(128, 2, (240, 320, 3))
    return noise.round().astype(np.uint8)


def rmse(motions, frames):
    return np.sqrt(np.mean(position_errors(motions, frames) ** 2))


@pytest.fixture(scope='module')
def motions(drive):
    return follow(drive)


@pytest.fixture(scope='module')
def vga_drive(room, drive):
    return [(*room.render(VGA, pose), pose) for *_, pose in drive]


@pytest.fixture(scope='module')
def disturbed_motions(vga_drive):
    return follow(disturbed(vga_drive, 0), intrinsics=VGA)


def test_with_true_depth_the_path_is_right_to_1_percent(vga_drive):
    motions = follow(vga_drive, intrinsics=VGA)
    assert all(motion.state == 'tracking' for motion in motions)
    assert rmse(motions, vga_drive) < 0.01 * path_length(vga_drive)
    turned = in_world(motions, vga_drive)[-1][:3, :3].T @ vga_drive[-1][2][:3, :3]
    assert angle(turned) < 1.0


def test_with_disturbed_depth_the_path_is_right_to_3_percent(vga_drive, disturbed_motions):
    assert rmse(disturbed_motions, vga_drive) < 0.03 * path_length(vga_drive)


def test_many_images_of_one_place_tell_no_more_of_metres_than_few(drive):
    """A long look at a place of which a network takes all for larger hardly bends the path."""
    rng = np.random.default_rng(0)
    seen = [*range(35), *[35] * 150, *range(36, 50)]
    frames = []
    for n, i in enumerate(seen):
        image, depth, pose = drive[i]
        factor = (1.2 if n >= 35 else 1.0) * np.exp(rng.normal(0, 0.02))
        frames.append((image, (depth * factor).astype(np.float32), pose))
    motions = follow(frames, VisualOdometry(OdometryConfig(), place_std=0.1))
    assert all(motion.state == 'tracking' for motion in motions)
    positions = np.array([motion.T_odom_camera[:3, 3] for motion in motions])
    assert np.abs(positions[35:185] - positions[35]).max() < 0.001
    moved = np.linalg.norm(np.diff(positions[184:], axis=0), axis=1).sum()
    assert moved / path_length(drive[35:]) < 1.09  # 1.12 if they were independent


def test_places_are_averaged_as_they_come(drive):
    """Of two places of which one is taken for larger, neither is believed alone."""
    factors = np.where(np.arange(50) < 20, 1.0, 1.2)
    frames = [
        (image, (depth * factor).astype(np.float32), pose)
        for (image, depth, pose), factor in zip(drive, factors, strict=True)
    ]
    motions = follow(frames, VisualOdometry(OdometryConfig(), place_std=0.1))
    positions = np.array([motion.T_odom_camera[:3, 3] for motion in motions[35:]])
    moved = np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()
    assert 1.05 < moved / path_length(drive[35:]) < 1.15


def test_path_follows_the_scale_of_the_depth(drive):
    motions = follow([(image, 2 * depth, pose) for image, depth, pose in drive[:30]])
    moved = np.linalg.norm(motions[-1].T_odom_camera[:3, 3] - motions[0].T_odom_camera[:3, 3])
    truth = np.linalg.norm(drive[29][2][:3, 3] - drive[0][2][:3, 3])
    assert moved == pytest.approx(2 * truth, rel=0.02)


def test_first_camera_stands_above_the_origin_of_a_level_odom_frame(drive, motions):
    first = motions[0].T_odom_camera
    np.testing.assert_allclose(first[:2, 3], 0, atol=1e-9)
    assert first[2, 3] == pytest.approx(drive[0][2][2, 3], abs=0.1)  # its height over the floor
    tilt = np.degrees(np.arccos(np.clip(first[2, :3] @ drive[0][2][2, :3], -1, 1)))
    assert tilt < 2
    assert abs(first[1, 2]) < 1e-9
    assert first[0, 2] > 0.9  # x is ahead


def test_pure_rotation_moves_the_camera_by_less_than_2_cm(room):
    centre = room.pose(0.0)
    frames = []
    for yaw in 0.6 * np.sin(np.linspace(0, 2 * np.pi, 31)):
        pose = centre @ transform(cv2.Rodrigues(np.array([0.0, yaw, 0.0]))[0], np.zeros(3))
        frames.append((*room.render(INTRINSICS, pose), pose))
    motions = follow(frames)
    assert any(motion.keyframe for motion in motions[1:])
    assert position_errors(motions, frames).max() < 0.02
    errors = [
        angle(estimate[:3, :3].T @ pose[:3, :3])
        for estimate, (*_, pose) in zip(in_world(motions, frames), frames, strict=True)
    ]
    assert max(errors) < 1.0


def test_standing_still_does_not_drift(drive):
    rng = np.random.default_rng(0)
    frames = []
    for image, depth, pose in disturbed(drive[:1] * 20, 0):
        noisy = np.clip(image + 2 * rng.standard_normal(image.shape), 0, 255).astype(np.uint8)
        frames.append((noisy, depth, pose))
    motions = follow(frames)
    assert not any(motion.keyframe for motion in motions[1:])
    assert position_errors(motions, frames).max() < 0.004


def test_blank_wall_loses_the_camera_and_a_known_view_finds_it_again(drive):
    odometry = VisualOdometry(OdometryConfig())
    before = follow(drive[:30], odometry)
    _, depth, pose = drive[29]
    blind = follow([(blank(seed), depth, pose) for seed in range(3)], odometry, 30 * STEP_NS)
    assert [motion.state for motion in blind] == ['lost'] * 3
    assert all(m.T_odom_camera is m.covariance is m.tracks is None for m in blind)
    seen = drive[12:24]  # the robot was pushed back by a metre
    after = follow(seen, odometry, 33 * STEP_NS)
    states = [motion.state for motion in after]
    recovered = states.index('recovered')
    assert recovered < 8
    assert states[recovered:] == ['recovered'] + ['tracking'] * (len(states) - recovered - 1)
    estimates = in_world(before[:1] + after[recovered:], drive[:1] + seen[recovered:])[1:]
    for estimate, (*_, pose) in zip(estimates, seen[recovered:], strict=True):
        assert np.linalg.norm(estimate[:3, 3] - pose[:3, 3]) < 0.05


def test_an_unknown_place_is_not_taken_for_a_known_one(drive):
    odometry = VisualOdometry(OdometryConfig())
    follow(drive[:10], odometry)
    elsewhere = [
        (np.ascontiguousarray(image[:, ::-1]), depth, pose) for image, depth, pose in drive
    ]
    assert {m.state for m in follow(elsewhere[40:50], odometry, 10 * STEP_NS)} == {'lost'}


def test_impossible_speed_must_be_confirmed_by_recognising_the_place(drive):
    odometry = VisualOdometry(OdometryConfig(max_speed=0.1))  # the drive does 0.5 m/s
    assert follow(drive[:1], odometry)[0].state == 'tracking'
    assert follow(drive[3:4], odometry, STEP_NS)[0].state == 'recovered'


def test_without_depth_it_does_not_start(drive):
    for value in (np.nan, np.inf, 0.0):
        nothing = np.full((240, 320), value, np.float32)
        motions = follow([(image, nothing, pose) for image, _, pose in drive[:2]])
        assert {motion.state for motion in motions} == {'starting'}
        assert motions[-1].T_odom_camera is None


def test_without_depth_tracking_lasts_as_long_as_the_keyframe(drive):
    odometry = VisualOdometry(OdometryConfig())
    nothing = np.full((240, 320), np.nan, np.float32)
    first = follow(drive[:5], odometry)
    blind = [(image, nothing, pose) for image, _, pose in drive[5:50]]
    states = [motion.state for motion in follow(blind, odometry, 5 * STEP_NS)]
    assert states[:3] == ['tracking'] * 3
    assert states[-1] == 'lost'
    after = follow(drive[:5], odometry, 60 * STEP_NS)
    assert 'recovered' in {motion.state for motion in after}
    error = in_world(first[:1] + after[-1:], drive)[1][:3, 3] - drive[4][2][:3, 3]
    assert np.linalg.norm(error) < 0.05


def test_half_of_the_image_hidden_still_tracks(drive):
    frames = []
    for i, (image, depth, pose) in enumerate(drive[:40]):
        hidden = image.copy()
        hidden[:, :160] = 0 if i >= 5 else hidden[:, :160]
        frames.append((hidden, depth, pose))
    motions = follow(frames)
    assert all(motion.state == 'tracking' for motion in motions)
    assert position_errors(motions, frames).max() < 0.03 * path_length(frames)


def test_camera_upside_down_works(drive):
    frames = [
        (
            np.ascontiguousarray(image[::-1, ::-1]),
            np.ascontiguousarray(depth[::-1, ::-1]),
            pose @ np.diag([-1.0, -1, 1, 1]),
        )
        for image, depth, pose in drive[:30]
    ]
    assert position_errors(follow(frames), frames).max() < 0.03 * path_length(frames)


def test_same_images_give_the_same_poses(drive, motions):
    odometry = VisualOdometry(OdometryConfig())
    follow(drive[20:25], odometry)
    odometry.reset()
    again = follow(drive[:20], odometry)
    for a, b in zip(again, motions, strict=False):
        np.testing.assert_array_equal(a.T_odom_camera, b.T_odom_camera)
        np.testing.assert_array_equal(a.covariance, b.covariance)


def test_earlier_stamp_or_other_camera_starts_over(drive, caplog):
    odometry = VisualOdometry(OdometryConfig())
    origin = follow(drive[:10], odometry, 10 * STEP_NS)[0]
    with caplog.at_level(logging.WARNING):
        again = follow(drive[:1], odometry, 0)[0]
    assert 'time went back' in caplog.text
    np.testing.assert_array_equal(again.T_odom_camera, origin.T_odom_camera)
    image, depth, _ = drive[5]
    small = INTRINSICS.resized(160, 120)
    with caplog.at_level(logging.WARNING):
        motion = odometry.register_frame(
            np.ascontiguousarray(image[::2, ::2]), depth[::2, ::2], small, STEP_NS
        )
    assert 'the camera changed' in caplog.text
    np.testing.assert_allclose(motion.T_odom_camera[:2, 3], 0, atol=1e-9)


def test_equal_stamps_are_ignored(drive):
    odometry = VisualOdometry(OdometryConfig())
    last = follow(drive[:3], odometry)[-1]
    image, depth, _ = drive[20]
    assert odometry.register_frame(image, depth, INTRINSICS, 2 * STEP_NS) is last


def test_covariance_is_that_of_the_errors_and_grows_with_the_path(drive, disturbed_motions):
    motions = disturbed_motions
    T_world_odom = drive[0][2] @ inverse(motions[0].T_odom_camera)
    within = []
    for motion, (*_, pose) in zip(motions[1:], drive[1:], strict=True):
        error = (inverse(T_world_odom) @ pose)[:3, 3] - motion.T_odom_camera[:3, 3]
        within.append(error @ np.linalg.solve(motion.covariance[:3, :3], error) < 14.2)  # 3 sigma
        np.testing.assert_allclose(motion.covariance, motion.covariance.T, atol=1e-12)
    assert np.mean(within) > 0.8
    sigma = [np.sqrt(np.trace(motion.covariance[:3, :3])) for motion in motions]
    assert sigma[0] < sigma[10] < sigma[-1] < 0.15  # metres


def test_fewer_features_are_less_certain(drive):
    frames = drive[:4]
    many, few = (
        follow(frames, VisualOdometry(OdometryConfig(features=count)))[1] for count in (300, 80)
    )
    assert few.inliers < many.inliers / 2
    assert np.trace(few.covariance[3:, 3:]) > 2 * np.trace(many.covariance[3:, 3:])


def test_tracks_triangulate_to_the_depth_that_was_given(drive, motions):
    motion = motions[next(i for i, m in enumerate(motions[5:], 5) if m.keyframe)]
    tracks = motion.tracks
    rays = [
        np.concatenate(
            [(px - (INTRINSICS.cx, INTRINSICS.cy)) / INTRINSICS.fx, np.ones((len(px), 1))], 1
        )
        for px in (tracks.keyframe_px, tracks.now_px)
    ]
    T = inverse(tracks.T_keyframe_camera)  # z * (now x R ray) = -(now x t)
    turned = np.cross(rays[1], rays[0] @ T[:3, :3].T)
    moved = np.cross(rays[1], T[:3, 3])
    z = -(turned * moved).sum(1) / (turned**2).sum(1)
    parallax = np.linalg.norm(turned, axis=1) > 0.02
    assert len(tracks.now_px) == motion.inliers
    assert parallax.sum() > 20
    depth = drive[tracks.keyframe_stamp_ns // STEP_NS][1]
    x, y = np.rint(tracks.keyframe_px[parallax]).astype(int).T
    assert np.median(z[parallax] / depth[y, x]) == pytest.approx(1, abs=0.02)


def test_large_images_report_their_own_pixels(room, drive):
    large = Intrinsics.from_hfov(1.2, 1280, 960)
    odometry = VisualOdometry(OdometryConfig())
    frames = [room.render(large, pose) for *_, pose in drive[:3]]
    last = [odometry.register_frame(*f, large, i * STEP_NS) for i, f in enumerate(frames)][-1]
    assert last.tracks.now_px.max() > 900
    x, y = np.rint(last.tracks.keyframe_px).astype(int).T
    points = unproject(frames[0][1], large)[y, x]
    there = project(apply(inverse(drive[2][2]) @ drive[0][2], points), large)
    assert np.median(np.abs(there - last.tracks.now_px)) < 1.0


def test_stored_keyframes_are_bounded(drive):
    odometry = VisualOdometry(OdometryConfig(keyframes=3, keyframe_parallax=0.01))
    motions = follow(drive[:15], odometry)
    assert sum(motion.keyframe for motion in motions) > 4
    assert len(odometry._stored) == 3


@pytest.mark.parametrize(
    ('image', 'depth'),
    [
        (np.zeros((240, 320), np.uint8), np.ones((240, 320), np.float32)),
        (np.zeros((240, 320, 3), np.float32), np.ones((240, 320), np.float32)),
        (np.zeros((240, 320, 3), np.uint8), np.ones((120, 160), np.float32)),
    ],
)
def test_sizes_and_types_are_checked(image, depth):
    with pytest.raises(InputError, match='as the intrinsics say'):
        VisualOdometry(OdometryConfig()).register_frame(image, depth, INTRINSICS, 0)
