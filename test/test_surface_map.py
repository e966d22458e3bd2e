"""Coloured surface against walls and a furnished room that are known exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sharp_ros.camera import Intrinsics
from sharp_ros.config import SurfaceMapConfig
from sharp_ros.errors import InputError
from sharp_ros.mapping.surface_map import SurfaceMap
from sharp_ros.se3 import look_at
from sharp_ros.synthetic import plane_depth, Room

CAMERA = Intrinsics.from_hfov(1.2, 320, 240)
SMALL = Intrinsics.from_hfov(1.2, 80, 60)
UP = np.array([0.0, 0.0, 1.0])
STATM = Path('/proc/self/statm')
COLOR = np.array([200, 100, 50], np.uint8)


def painted(intrinsics: Intrinsics, color: np.ndarray = COLOR) -> np.ndarray:
    return np.broadcast_to(color, (intrinsics.height, intrinsics.width, 3)).copy()


def share_of_color(colors: np.ndarray, color: np.ndarray) -> float:
    return float((np.abs(colors.astype(int) - color) <= 1).all(-1).mean())


def facing_x(x: float, y: float = 0.0, z: float = 1.0) -> np.ndarray:
    """Camera at x, y, z that looks along +x."""
    eye = np.array([x, y, z])
    return look_at(eye, eye + np.array([1.0, 0.0, 0.0]), UP)


def see_wall(surface: SurfaceMap, at: float, times: int = 1, color: np.ndarray = COLOR) -> None:
    for i in range(times):
        T = facing_x(0.1 * (i % 3))
        depth = plane_depth(CAMERA, at - T[0, 3])
        surface.integrate(painted(CAMERA, color), depth, CAMERA, T)


@pytest.mark.parametrize('at', [2.0, 2.013])
def test_wall_stands_where_it_is_in_its_colour_and_faces_the_camera(at):
    surface = SurfaceMap(SurfaceMapConfig())
    see_wall(surface, at, 3)
    points, colors, normals = surface.point_cloud()
    assert len(points) > 5000
    assert points[:, 0] == pytest.approx(at, abs=0.01)
    width, height = np.ptp(points[:, 1]), np.ptp(points[:, 2])
    assert (width, height) == pytest.approx((2.7, 2.0), abs=0.2)
    assert share_of_color(colors, COLOR) > 0.98  # its rim is mixed with what nothing has seen
    assert colors.dtype == np.uint8
    assert np.median(normals[:, 0]) == pytest.approx(-1, abs=0.01)


def test_mesh_is_the_same_wall_with_triangles_that_face_the_camera():
    surface = SurfaceMap(SurfaceMapConfig())
    see_wall(surface, 2.0, 3)
    vertices, triangles, colors = surface.mesh()
    assert vertices[:, 0] == pytest.approx(2.0, abs=0.01)
    assert triangles.max() < len(vertices) == len(colors)
    assert share_of_color(colors, COLOR) > 0.98
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    assert (normal[:, 0] < 0).mean() > 0.95
    area = np.linalg.norm(normal, axis=1).sum() / 2
    assert area == pytest.approx(2.7 * 2.0, rel=0.1)


def test_room_is_within_a_voxel_and_a_half_of_its_surfaces_in_their_colours():
    room, config = Room(0), SurfaceMapConfig()
    surface = SurfaceMap(config)
    poses = [T for _, T in room.trajectory(6.0, 3.0)]
    for T in poses:
        surface.integrate(*room.render(CAMERA, T), CAMERA, T)
    points, colors, _ = surface.point_cloud()
    assert len(points) > 50_000
    some = np.random.default_rng(0).choice(len(points), 3000, replace=False)
    distance = room.distance(points[some])
    assert np.quantile(distance, 0.95) < 1.5 * config.voxel_size
    assert np.median(distance) < 0.4 * config.voxel_size
    # Seen again, the points have the colour of the pixels they fall on.
    T = poses[-1]
    image, depth = room.render(CAMERA, T)
    x, y, z = ((points - T[:3, 3]) @ T[:3, :3]).T
    u, v = (
        np.rint(f * a / z + c).astype(int)
        for f, a, c in ((CAMERA.fx, x, CAMERA.cx), (CAMERA.fy, y, CAMERA.cy))
    )
    there = (z > 0.2) & (u >= 0) & (v >= 0) & (u < 320) & (v < 240)
    there[there] = np.abs(depth[v[there], u[there]] - z[there]) < 0.02
    difference = np.abs(colors[there].astype(int) - image[v[there], u[there]])
    assert there.sum() > 5000
    assert np.median(difference) < 10


def test_wider_images_are_subsampled_without_a_shift():
    vga = Intrinsics.from_hfov(1.2, 640, 480)
    normal = (-0.5, 0.3, -1.0)
    surface = SurfaceMap(SurfaceMapConfig())
    surface.integrate(painted(vga), plane_depth(vga, 1.5, normal), vga, np.eye(4))
    points, _, _ = surface.point_cloud()
    away = (points - [0, 0, 1.5]) @ normal / np.linalg.norm(normal)
    assert len(points) > 5000
    assert abs(np.median(away)) < 0.001


def test_places_far_from_the_origin_are_as_exact_as_near_ones():
    surface = SurfaceMap(SurfaceMapConfig())
    T = facing_x(4_000_000.0, 500_000.0)
    surface.integrate(painted(CAMERA), plane_depth(CAMERA, 2.0), CAMERA, T)
    points, _, _ = surface.point_cloud()
    assert len(points) > 5000
    assert points[:, 0] - 4_000_000.0 == pytest.approx(2.0, abs=0.01)
    assert surface.mesh()[0][:, 0] - 4_000_000.0 == pytest.approx(2.0, abs=0.01)


def test_removed_wall_gives_way_to_what_stands_behind_it():
    surface = SurfaceMap(SurfaceMapConfig())
    see_wall(surface, 1.5, 33)
    red = np.array([255, 0, 0], np.uint8)
    see_wall(surface, 3.0, 33, red)
    points, colors, _ = surface.point_cloud()
    # Of the old wall only what the new view does not reach may be left.
    assert (points[:, 0] < 2.0).mean() < 0.05
    behind = points[:, 0] > 2.9
    assert share_of_color(colors[behind], red) > 0.98


def test_map_holds_no_more_blocks_than_allowed_and_forgets_the_farthest():
    config = SurfaceMapConfig(max_blocks=1000)
    surface = SurfaceMap(config)
    largest = 0
    for i in range(80):
        T = facing_x(0.0, 0.5 * i)
        surface.integrate(painted(CAMERA), plane_depth(CAMERA, 2.0), CAMERA, T)
        largest = max(largest, len(surface))
    assert 500 < largest <= 1000
    assert surface._grid.hashmap().capacity() == 1000
    points, colors, _ = surface.point_cloud()
    assert np.abs(points[:, 1] - 0.5 * 79).min() < 0.1
    assert np.abs(points[:, 1] - 0.5 * 79).max() < 8
    # What stood in the memory of a new block before has left nothing in it.
    assert points[:, 0] == pytest.approx(2.0, abs=0.01)
    assert share_of_color(colors, COLOR) > 0.98


def test_frame_with_more_blocks_than_allowed_keeps_the_nearest():
    surface = SurfaceMap(SurfaceMapConfig(max_blocks=500, max_range=10.0))
    depth = plane_depth(CAMERA, 6.0)
    for _ in range(3):
        surface.integrate(painted(CAMERA), depth, CAMERA, np.eye(4))
    assert 0 < len(surface) <= 500
    assert surface._grid.hashmap().capacity() == 500


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * 4096


@pytest.mark.skipif(not STATM.exists(), reason='there is no /proc here')
def test_an_hour_of_driving_takes_no_more_memory_than_the_start():
    surface = SurfaceMap(SurfaceMapConfig(max_blocks=500))
    depth = plane_depth(SMALL, 1.0)

    def drive(keyframes: range) -> int:
        for i in keyframes:  # one every 8 s, 0.4 m apart
            surface.integrate(painted(SMALL), depth, SMALL, facing_x(0.0, 0.4 * i))
        return resident_bytes()

    before = drive(range(60))
    assert drive(range(60, 450)) - before < 2e7
    assert 300 < len(surface) <= 500


@pytest.mark.parametrize('nothing', [np.nan, 0.0, np.inf, -np.inf, -1.0, 50.0])
def test_depth_without_measurement_changes_nothing(nothing):
    surface = SurfaceMap(SurfaceMapConfig())
    depth = np.full((60, 80), nothing, np.float32)
    surface.integrate(painted(SMALL), depth, SMALL, facing_x(0))
    assert len(surface) == 0
    see_wall(surface, 2.0)
    before = surface.point_cloud()
    surface.integrate(painted(SMALL), depth, SMALL, facing_x(0))
    for old, new in zip(before, surface.point_cloud(), strict=True):
        assert len(old) == len(new)


def test_empty_and_reset_maps_give_empty_arrays():
    surface = SurfaceMap(SurfaceMapConfig())
    for wall in (False, True):
        if wall:
            see_wall(surface, 2.0)
            assert len(surface) > 0
            surface.reset()
        assert len(surface) == 0
        points, colors, normals = surface.point_cloud()
        vertices, triangles, vertex_colors = surface.mesh()
        for array in (points, colors, normals, vertices, triangles, vertex_colors):
            assert array.shape == (0, 3)
        assert colors.dtype == vertex_colors.dtype == np.uint8


@pytest.mark.parametrize('bad', [np.full((4, 4), np.nan), np.diag([2.0, 2, 2, 1]), np.eye(3)])
def test_unusable_pose_is_refused_and_leaves_the_map_alone(bad):
    surface = SurfaceMap(SurfaceMapConfig())
    with pytest.raises(InputError, match='pose') as caught:
        surface.integrate(painted(SMALL), plane_depth(SMALL, 2.0), SMALL, bad)
    assert caught.value.reason == 'bad_pose'
    assert len(surface) == 0


def test_sizes_that_do_not_fit_are_refused():
    surface, depth = SurfaceMap(SurfaceMapConfig()), plane_depth(SMALL, 2.0)
    for image, other in (
        (painted(SMALL)[1:], depth),
        (painted(SMALL), depth[1:]),
        (painted(SMALL) / 255, depth),
    ):
        with pytest.raises(InputError, match='size') as caught:
            surface.integrate(image, other, SMALL, np.eye(4))
        assert caught.value.reason == 'size_mismatch'
