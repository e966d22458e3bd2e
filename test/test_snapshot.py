from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sharp_ros.camera import Frame, Intrinsics, unproject
from sharp_ros.config import SnapshotConfig
from sharp_ros.errors import InputError
from sharp_ros.se3 import look_at, transform
from sharp_ros.snapshot import Snapshot
from sharp_ros.synthetic import Room
from sharp_ros.synthetic.patches import distance_to_patch

K = Intrinsics.from_hfov(1.1, 160, 120)
POSE = look_at(np.array([0.0, 0, 1]), np.array([1.0, 0, 1]), np.array([0.0, 0, 1]))
WALL = np.full((120, 160), 2.0, np.float32)


def frame(stamp_ns=0, pose=POSE, image=None, intrinsics=K):
    size = (intrinsics.height, intrinsics.width)
    image = np.full((*size, 3), 100, np.uint8) if image is None else image
    return Frame(image, intrinsics, stamp_ns, 'camera', pose, 'odom')


def noisy(depth, relative, seed):
    noise = np.random.default_rng(seed).standard_normal(depth.shape)
    return (depth * (1 + relative * noise)).astype(np.float32)


def moved(*xyz):
    return POSE @ transform(np.eye(3), np.array(xyz))


def turned(angle):
    c, s = np.cos(angle), np.sin(angle)
    return POSE @ transform(np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]), np.zeros(3))


def snapshot_of(depths, **config):
    snapshot = Snapshot(SnapshotConfig(**{'frames': len(depths), **config}))
    complete = [snapshot.add(frame(i), depth) for i, depth in enumerate(depths)]
    assert complete == [False] * (len(depths) - 1) + [True]
    return snapshot


@pytest.fixture(scope='module')
def room():
    return Room(2)


def test_a_wall_comes_out_where_it_is():
    cloud = snapshot_of([WALL] * 3).cloud()
    np.testing.assert_array_equal(cloud.points, unproject(WALL, K).reshape(-1, 3))
    np.testing.assert_allclose(cloud.normals, np.tile([[0, 0, -1]], (WALL.size, 1)), atol=1e-4)
    assert not cloud.spread.any()
    assert (cloud.colors == 100).all()
    assert cloud.points.dtype == cloud.normals.dtype == cloud.spread.dtype == np.float32


def test_the_cloud_belongs_to_the_newest_image():
    snapshot = Snapshot(SnapshotConfig(frames=3))
    for i in range(5):
        assert snapshot.add(frame(1000 + i), WALL) == (i >= 2)
    cloud = snapshot.cloud()
    assert (cloud.stamp_ns, cloud.frame_id, cloud.frames) == (1004, 'camera', 3)
    assert cloud.intrinsics == K


def test_noise_falls_with_the_root_of_the_number_of_images():
    def error(frames):
        cloud = snapshot_of([noisy(WALL, 0.01, i) for i in range(frames)]).cloud()
        return (cloud.points[:, 2] - 2).std(), np.median(cloud.spread)

    few, spread = error(4)
    many, spread_of_many = error(16)
    assert few / many == pytest.approx(2, rel=0.1)
    assert many == pytest.approx(1.25 * 0.02 / 4, rel=0.1)  # of a median of 16 times 2 cm
    assert spread == pytest.approx(0.02, rel=0.15)
    assert spread_of_many == pytest.approx(0.02, rel=0.05)


def test_colours_are_averaged():
    snapshot = Snapshot(SnapshotConfig(frames=3))
    for i, level in enumerate((10, 20, 60)):
        snapshot.add(frame(i, image=np.full((120, 160, 3), level, np.uint8)), WALL)
    assert (snapshot.cloud().colors == 30).all()


def test_one_image_is_a_cloud_too():
    cloud = snapshot_of([WALL], frames=1).cloud()
    assert cloud.frames == 1
    assert len(cloud.points) == WALL.size


@pytest.mark.parametrize('pose', [moved(0, 0, 0.05), moved(0.02, 0, 0), turned(0.02)])
def test_a_camera_that_moves_starts_over(pose):
    snapshot = Snapshot(SnapshotConfig(frames=4))
    for i in range(3):
        snapshot.add(frame(i), WALL)
    assert not snapshot.add(frame(3, pose), WALL + 0.05)
    cloud = snapshot.cloud()
    assert cloud.frames == 1
    np.testing.assert_allclose(cloud.points[:, 2], 2.05, atol=1e-6)


def test_a_camera_that_trembles_stands():
    depths = [WALL] * 4
    snapshot = Snapshot(SnapshotConfig(frames=4))
    poses = [POSE, moved(0.004, 0, 0), moved(0, 0.004, 0), turned(0.005)]
    for i, (pose, depth) in enumerate(zip(poses, depths, strict=True)):
        complete = snapshot.add(frame(i, pose), depth)
    assert complete


def test_a_camera_that_creeps_is_never_complete():
    snapshot = Snapshot(SnapshotConfig(frames=8))
    for i in range(40):
        assert not snapshot.add(frame(i, moved(0.003 * i, 0, 0)), WALL)
    assert 1 < snapshot.cloud().frames < 8


def test_another_size_or_lens_starts_over():
    snapshot = Snapshot(SnapshotConfig(frames=2))
    snapshot.add(frame(0), WALL)
    assert not snapshot.add(frame(1, intrinsics=Intrinsics.from_hfov(0.9, 160, 120)), WALL)
    small = Intrinsics.from_hfov(1.1, 80, 60)
    assert not snapshot.add(frame(2, intrinsics=small), WALL[:60, :80])
    assert len(snapshot.cloud().points) == 80 * 60


def test_without_a_pose_images_of_a_standing_camera_are_joined_at_any_exposure(room):
    image, depth = room.render(K, room.pose(3.0))
    snapshot = Snapshot(SnapshotConfig(frames=6))
    for i, gain in enumerate((1.0, 0.8, 1.1, 0.9, 0.7, 1.0)):
        noise = np.random.default_rng(i).normal(0, 4, image.shape)
        seen = np.clip(gain * image + noise, 0, 255).astype(np.uint8)
        complete = snapshot.add(frame(i, None, seen), depth)
    assert complete


@pytest.mark.parametrize('step', [0.03, 0.1, 0.5, 2.0])
@pytest.mark.parametrize('axis', [0, 1, 2])
def test_without_a_pose_images_show_that_the_camera_moved(room, step, axis):
    pose = room.pose(3.0)
    snapshot = Snapshot(SnapshotConfig(frames=2))
    for i in range(2):
        image, depth = room.render(K, pose)
        complete = snapshot.add(frame(i, None, image), depth)
        pose = pose @ transform(np.eye(3), step * np.eye(3)[axis])
    assert not complete


def test_the_robot_in_view_does_not_stand_for_what_the_camera_moves_past(room):
    """A bumper with a pattern goes with the camera; without a pose corners tell of motion."""
    pattern = np.random.default_rng(0).integers(0, 2, (15, 40), np.uint8).repeat(4, 0).repeat(4, 1)
    hidden = np.zeros((120, 160), bool)
    hidden[60:] = True
    snapshot = Snapshot(SnapshotConfig(frames=2))
    for stamp_ns, pose in enumerate((POSE, moved(0.2, 0, 0))):
        image, depth = room.render(K, pose)
        image[60:] = 40 + 160 * pattern[..., None]
        given = replace(frame(stamp_ns, None, image), unseen=hidden)
        complete = snapshot.add(given, np.where(hidden, np.float32(np.nan), depth))
    assert not complete
    assert snapshot.cloud().frames == 1


def test_a_blank_wall_does_not_move_by_its_noise():
    snapshot = Snapshot(SnapshotConfig(frames=4))
    for i in range(4):
        noise = np.random.default_rng(i).normal(100, 4, (120, 160, 3)).astype(np.uint8)
        complete = snapshot.add(frame(i, None, noise), WALL)
    assert complete


def test_a_camera_that_turns_to_a_blank_wall_moved(room):
    image, depth = room.render(K, room.pose(3.0))
    for images in ((image, None), (None, image)):
        snapshot = Snapshot(SnapshotConfig(frames=2))
        assert not any(snapshot.add(frame(i, None, im), depth) for i, im in enumerate(images))


def test_what_moves_leaves_no_points():
    depths = []
    for i in range(8):
        depth = WALL.copy()
        depth[40:60, 10 * i : 10 * i + 20] = 1.2  # each place is covered twice or once
        depths.append(depth)
    cloud = snapshot_of(depths).cloud()
    crossed = np.zeros_like(WALL, bool)
    crossed[40:60, :90] = True
    z = np.full(WALL.shape, np.nan)
    uv = np.rint(cloud.points[:, :2] / cloud.points[:, 2:] * [K.fx, K.fy] + [K.cx, K.cy])
    z[tuple(uv.astype(int)[:, ::-1].T)] = cloud.points[:, 2]
    assert np.isnan(z[crossed]).all()
    np.testing.assert_array_equal(z[~crossed], 2)


def test_what_less_than_half_of_the_images_saw_leaves_no_points():
    depths = [WALL.copy() for _ in range(4)]
    for depth in depths[:2]:
        depth[:, :20] = np.nan
    for depth in depths[:3]:
        depth[:, 140:] = 0
    cloud = snapshot_of(depths).cloud()
    u = np.rint(cloud.points[:, 0] / cloud.points[:, 2] * K.fx + K.cx)
    assert (u.min(), u.max()) == (0, 139)


@pytest.mark.parametrize('nothing', [0.0, np.nan, np.inf])
def test_a_view_of_nothing_is_refused(nothing):
    with pytest.raises(InputError, match='point the camera') as caught:
        snapshot_of([np.full_like(WALL, nothing)] * 2).cloud()
    assert caught.value.reason == 'snapshot_empty'


def test_a_cloud_before_the_first_image_is_refused():
    with pytest.raises(InputError) as caught:
        Snapshot(SnapshotConfig()).cloud()
    assert caught.value.reason == 'snapshot_empty'


def test_depth_of_another_size_is_refused():
    with pytest.raises(InputError, match='does not fit') as caught:
        Snapshot(SnapshotConfig()).add(frame(), WALL[1:])
    assert caught.value.reason == 'size_mismatch'


def angles(normals, truth):
    return np.degrees(np.arccos(np.clip((normals * truth).sum(-1), -1, 1)))


@pytest.mark.parametrize(('noise', 'frames', 'limit'), [(0.0, 1, 0.5), (0.01, 8, 5.0)])
def test_normals_of_a_furnished_room(room, noise, frames, limit):
    k, pose = Intrinsics.from_hfov(1.1, 640, 480), room.pose(3.0)
    image, depth = room.render(k, pose)
    snapshot = Snapshot(SnapshotConfig(frames=frames))
    for i in range(frames):
        snapshot.add(frame(i, pose, image, k), noisy(depth, noise, i))
    cloud = snapshot.cloud()
    assert len(cloud.points) > 0.97 * depth.size
    np.testing.assert_allclose(np.linalg.norm(cloud.normals, axis=1), 1, atol=1e-5)
    assert ((cloud.normals * cloud.points).sum(1) < 0).all()  # towards the camera
    rng = np.random.default_rng(0)
    some = rng.choice(len(cloud.points), 1000, replace=False)
    points = cloud.points[some] @ pose[:3, :3].T + pose[:3, 3]
    if noise:  # the true point of the same pixel says which surface it is
        uv = np.rint(
            cloud.points[some, :2] / cloud.points[some, 2:] * [k.fx, k.fy] + [k.cx, k.cy]
        ).astype(int)
        points = unproject(depth, k)[uv[:, 1], uv[:, 0]] @ pose[:3, :3].T + pose[:3, 3]
    corners, half = room.patches
    surface = np.argmin(
        [distance_to_patch(points, c, bool(h)) for c, h in zip(corners, half, strict=True)], 0
    )
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])[surface]
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True) @ pose[:3, :3]
    normals *= -np.sign((normals * cloud.points[some]).sum(1, keepdims=True))
    off = angles(cloud.normals[some], normals)
    print(f'noise {noise}: median {np.median(off):.2f} deg, 90 % {np.percentile(off, 90):.2f}')
    assert np.median(off) < limit
