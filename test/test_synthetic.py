import math

import numpy as np
import pytest

from sharp_ros.camera import Intrinsics, project, unproject
from sharp_ros.errors import InputError
from sharp_ros.se3 import apply, inverse, look_at
from sharp_ros.synthetic import plane_depth, renderer, Room, SIZE, SPEED, step_edge_depth

VIEW = Intrinsics.from_hfov(1.2, 320, 240)
UP = np.array([0, 0, 1.0])


@pytest.fixture(scope='module', autouse=True)
def coarse_textures():
    """The laws hold at any resolution of the textures; that of the demo takes longer to light."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renderer, '_TEXEL', 0.02)
        patch.setattr(renderer, '_LIGHT_TEXEL', 0.4)
        yield


@pytest.fixture(scope='module')
def room():
    return Room(0)


@pytest.fixture(scope='module')
def other_room():
    return Room(2)


@pytest.fixture(scope='module')
def grid(room):
    return room.occupancy(0.1, 0.1, 1.5)


def bilinear(image, pixels):
    x, y = pixels[..., 0], pixels[..., 1]
    ix, iy = np.floor(x).astype(int), np.floor(y).astype(int)
    gx, gy = (x - ix)[..., None], (y - iy)[..., None]
    top = image[iy, ix] * (1 - gx) + image[iy, ix + 1] * gx
    return top * (1 - gy) + (image[iy + 1, ix] * (1 - gx) + image[iy + 1, ix + 1] * gx) * gy


def test_tilted_plane_depth_lies_on_the_plane():
    normal = (0.3, -0.5, -1.0)
    points = unproject(plane_depth(VIEW, 2.0, normal), VIEW)
    offsets = (points - np.array([0, 0, 2.0])) @ np.array(normal)
    np.testing.assert_allclose(offsets[np.isfinite(offsets)], 0, atol=1e-4)
    assert np.isfinite(offsets).all()


def test_plane_behind_the_horizon_has_no_depth():
    floor = plane_depth(VIEW, 1000.0, (0, -1, -0.001))  # 1 m below the camera
    assert (floor[: VIEW.height // 2 - 2] == 0).all()
    assert floor[-1].min() > 0


def test_step_edge_has_two_depths():
    depth = step_edge_depth(VIEW, 1.0, 5.0, 100)
    assert (depth[:, :100] == 1).all()
    assert (depth[:, 100:] == 5).all()


def test_ceiling_depth_is_exact(room):
    eye = np.array([0.0, 0.0, 1.0])
    pose = look_at(eye, eye + UP, np.array([1.0, 0, 0]))
    _, depth = room.render(VIEW, pose)
    np.testing.assert_allclose(depth, SIZE[2] - 1.0, atol=1e-6)


def test_depth_agrees_with_ray_casting_everywhere(room):
    import open3d as o3d

    corners, half = room.patches
    quads = np.arange(4 * len(corners)).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 3]], quads[~half][:, [2, 3, 1]]])
    caster = o3d.t.geometry.RaycastingScene()
    caster.add_triangles(
        o3d.core.Tensor(corners.reshape(-1, 3).astype(np.float32)),
        o3d.core.Tensor(triangles.astype(np.uint32)),
    )
    for part in (0.1, 0.4, 0.7):
        pose = room.pose(part * room.loop_duration)
        _, depth = room.render(VIEW, pose)
        rays = np.concatenate([VIEW.rays(), np.ones((240, 320, 1))], -1) @ pose[:3, :3].T
        rays = np.concatenate([np.broadcast_to(pose[:3, 3], rays.shape), rays], -1)
        cast = caster.cast_rays(o3d.core.Tensor(rays.astype(np.float32)))['t_hit'].numpy()
        # Rays within rounding of an edge may fall to either side of it.
        assert np.mean(np.abs(depth - cast) < 1e-4) > 0.9999
        assert depth.min() > 0


def test_two_views_agree_in_geometry_and_colour(room):
    t = 0.3 * room.loop_duration
    pose_a, pose_b = room.pose(t), room.pose(t + 0.3)
    image_a, depth_a = room.render(VIEW, pose_a)
    image_b, depth_b = room.render(VIEW, pose_b)
    points = apply(inverse(pose_b) @ pose_a, unproject(depth_a, VIEW))
    pixels = project(points, VIEW)
    inside = (pixels > 1).all(-1) & (pixels < np.array([318, 238])).all(-1)
    seen, pixels = points[inside][:, 2], pixels[inside]
    assert inside.mean() > 0.5
    there = bilinear(depth_b[..., None], pixels)[:, 0]
    same = np.abs(there - seen) < 0.01 * seen
    assert same.mean() > 0.9  # the rest is hidden or on an edge
    colour = np.abs(bilinear(image_b.astype(float), pixels) - image_a[inside].astype(float))
    assert np.median(colour[same]) < 2.0
    assert np.percentile(colour[same], 95) < 16.0
    wrong = np.clip(pixels + 6, 0, [318, 238])
    wrong = np.abs(bilinear(image_b.astype(float), wrong) - image_a[inside].astype(float))
    assert np.percentile(wrong, 95) > 16.0  # the room has texture to disagree about


def test_colours_keep_still_when_the_camera_comes_closer(room):
    pose = room.pose(3.0)
    forward = pose.copy()
    forward[:3, 3] += 0.02 * pose[:3, 2]
    a, b = (room.render(VIEW, p)[0].astype(float) for p in (pose, forward))
    assert np.abs(a.mean() - b.mean()) < 1.0


def test_image_size_changes_neither_depth_nor_colour(room):
    large, small = Intrinsics.from_hfov(1.2, 640, 480), Intrinsics.from_hfov(1.2, 160, 120)
    image, depth = room.render(large, room.pose(5.0))
    image_small, depth_small = room.render(small, room.pose(5.0))
    average = image.reshape(120, 4, 160, 4, 3).mean((1, 3))
    assert np.median(np.abs(average - image_small)) < 4.0
    assert abs(np.median(depth) / np.median(depth_small) - 1) < 0.01


def test_image_looks_like_a_lit_furnished_room(room):
    small = Intrinsics.from_hfov(1.2, 160, 120)
    for part in np.arange(5) / 5:
        image, depth = room.render(small, room.pose(part * room.loop_duration))
        assert 60 < image.mean() < 190
        assert image.std() > 25
        assert depth.max() - depth.min() > 0.5
        assert len(np.unique(image.reshape(-1, 3) // 8, axis=0)) > 200


def test_same_seed_gives_the_same_room(room):
    pose = room.pose(2.0)
    for first, second in zip(room.render(VIEW, pose), Room(0).render(VIEW, pose), strict=True):
        np.testing.assert_array_equal(first, second)


def test_another_seed_gives_another_room(room, other_room):
    points = np.random.default_rng(0).uniform((-4, -3, 0), (4, 3, 2.6), (3000, 3))
    one, other = room.occupied(points), other_room.occupied(points)
    # They share the walls and the middle; the furniture along the walls is shuffled.
    assert (one != other).sum() > 0.2 * one.sum()


def eyes_of(room):
    return np.array([pose[:3, 3] for _, pose in room.trajectory(room.loop_duration, 2)])


def columns(eyes, heights):
    return np.concatenate([np.column_stack([eyes[:, :2], np.full(len(eyes), z)]) for z in heights])


def test_drive_keeps_its_distance_from_every_surface(room):
    eyes = eyes_of(room)
    # And so does a robot below the camera.
    near = room.distance(np.concatenate([eyes, columns(eyes, (0.55, 0.8, 1.2, 0.3))]))
    assert near[: -len(eyes)].min() > 0.5
    # So low, the floor is the nearest: the distance is the height.
    np.testing.assert_allclose(near[-len(eyes) :], 0.3, atol=1e-6)


@pytest.mark.parametrize('name', ['room', 'other_room'])
def test_drive_is_clear_of_everything_solid_within_half_a_metre(name, request):
    eyes = eyes_of(request.getfixturevalue(name))
    assert ((eyes[:, 2] > 0.9) & (eyes[:, 2] < 1.2)).all()
    angles = np.arange(16) * math.pi / 8
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1)
    column = columns(eyes, np.arange(0.05, 1.3, 0.1))
    around = column[:, None, None] + np.array([0, 0.25, 0.5])[:, None, None] * ring
    assert not request.getfixturevalue(name).occupied(around).any()


def test_drive_is_smooth_level_and_at_robot_speed(room):
    rate = 20.0
    poses = [pose for _, pose in room.trajectory(room.loop_duration, rate)]
    for a, b in zip(poses, [*poses[1:], room.pose(len(poses) / rate)], strict=True):
        step = inverse(a) @ b
        assert np.linalg.norm(step[:3, 3]) * rate == pytest.approx(SPEED, rel=0.05)
        angle = math.acos(min(1.0, (np.trace(step[:3, :3]) - 1) / 2))
        assert angle * rate < 0.8
        assert a[2, 0] == pytest.approx(0, abs=1e-9)  # no roll
        assert -0.25 < math.asin(a[2, 2]) < 0


def test_drive_is_closed(room):
    np.testing.assert_allclose(room.pose(0.7), room.pose(0.7 + room.loop_duration), atol=1e-9)
    before, after = room.pose(room.loop_duration - 1e-4), room.pose(room.loop_duration + 1e-4)
    np.testing.assert_allclose(before, after, atol=1e-3)


def test_trajectory_counts_and_stamps(room):
    times = [t for t, _ in room.trajectory(2.0, 10.0)]
    np.testing.assert_allclose(times, np.arange(20) / 10)


def test_grid_truth_marks_walls_and_leaves_the_drive_free(room, grid):
    assert grid.data.shape == (62, 82)
    assert grid.origin == pytest.approx((-4.1, -3.1))
    assert (grid.data[0] == -1).all()
    assert (grid.data[1, 1:-1] == 100).all()
    assert (grid.data[1:-1, -2] == 100).all()
    for _, pose in room.trajectory(room.loop_duration, 2):
        column = int((pose[0, 3] - grid.origin[0]) / 0.1)
        row = int((pose[1, 3] - grid.origin[1]) / 0.1)
        assert grid.data[row, column] == 0


def test_grid_truth_of_the_coffee_table_is_its_plan(room):
    # Its top is 0.95 m x 0.55 m at 0.36..0.405 m, in the middle of the room.
    grid = room.occupancy(0.1, 0.37, 0.40, bounds=(-1, -0.8, 1, 0.8))
    rows, columns = np.nonzero(grid.data == 100)
    x = grid.origin[0] + (columns + 0.5) * 0.1
    y = grid.origin[1] + (rows + 0.5) * 0.1
    assert np.abs(x).max() == pytest.approx(0.475, abs=0.05)
    assert np.abs(y).max() == pytest.approx(0.275, abs=0.05)
    assert np.abs(x).min() > 0.4 or np.abs(y).max() > 0.2
    assert grid.data[8, 10] == 0  # a slice through the top holds its rim only
    covered = room.occupancy(0.1, 0.37, 0.41, bounds=(-1, -0.8, 1, 0.8))
    assert (covered.data == 100).sum() * 0.1**2 == pytest.approx(0.95 * 0.55, rel=0.2)


def test_depth_points_fall_into_occupied_cells(room, grid):
    for t in (1.0, 9.0, 17.0):
        pose = room.pose(t)
        points = apply(pose, unproject(room.render(VIEW, pose)[1], VIEW)).reshape(-1, 3)
        points = points[(points[:, 2] > 0.1) & (points[:, 2] < 1.5)]
        points[:, :2] -= 1e-4 * np.sign(points[:, :2])
        cells = np.floor((points[:, :2] - np.array(grid.origin)) / 0.1).astype(int)
        assert (grid.data[cells[:, 1], cells[:, 0]] == 100).mean() > 0.97


def test_solid_and_free_points_differ(room):
    points = np.array([[0, 0, 0.38], [0, 0, 0.9], [0, 0, -0.1], [4.2, 0, 1], [2.3, 0, 0.5]])
    np.testing.assert_array_equal(room.occupied(points), [True, False, True, True, False])


def test_empty_grid_is_refused(room):
    with pytest.raises(InputError, match='no cells'):
        room.occupancy(0.1, 0, 1, bounds=(1, 0, 1, 2))
