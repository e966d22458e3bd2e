"""Generated training scenes: what lies about in them, and that images and poses tell the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sharp_ros.procedural.clutter import THEMES
from sharp_ros.procedural.furnishing import Room
from sharp_ros.procedural.raycast import camera_rays, cast
from sharp_ros.procedural.rooms import build_scene, scene_views, SceneView
from sharp_ros.procedural.scene import Scene, SceneBuilder, tilted
from sharp_ros.procedural.textures import COUNTS, make_textures, Textures

SIZE = (64, 48)
INDOORS, OUTDOORS = (3, 5, 7), (4, 31, 51)
THINGS = {add.__name__.lstrip('_'): (add, radius) for t in THEMES.values() for add, radius in t}
NO_LIGHT = np.zeros(3, np.float32)


@pytest.fixture(scope='module')
def textures() -> Textures:
    return make_textures(dict.fromkeys(COUNTS, 1))


@pytest.fixture(scope='module')
def indoors(textures: Textures) -> list[SceneView]:
    return [v for seed in INDOORS for v in scene_views(seed, textures, pairs=1, size=SIZE)]


@pytest.fixture(scope='module')
def outdoors(textures: Textures) -> list[SceneView]:
    return [v for seed in OUTDOORS for v in scene_views(seed, textures, pairs=1, size=SIZE)]


def built(textures: Textures, add: Callable[[SceneBuilder], None], seed: int = 0) -> Scene:
    builder = SceneBuilder(np.random.default_rng(seed), textures)
    add(builder)
    return builder.finish(NO_LIGHT)


def seen_from(scene: Scene, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] that vertical rays through a grid meet first, and whether from outside."""
    x, y = (a.ravel() for a in np.meshgrid(*2 * [np.arange(-0.5, 0.5, 0.004) + 1e-4]))
    origins = np.stack([x, y, np.full_like(x, side)], -1)
    rays = np.broadcast_to([0, 0, -np.sign(side)], origins.shape)
    hits = cast(scene, origins, rays)
    met = np.isfinite(hits['t_hit'])
    points = origins + rays * np.where(met, hits['t_hit'], 0)[:, None]
    return points[met], ((hits['primitive_normals'] * rays).sum(1) < 0)[met]


@pytest.mark.parametrize('name', THINGS)
def test_small_things_stand_on_their_place_within_their_footprint(
    name: str, textures: Textures
) -> None:
    add, radius = THINGS[name]
    for seed in range(4):
        scene = built(textures, lambda builder: add(builder, (0, 0, 0), 0.3), seed)
        below, from_outside = seen_from(scene, -1)
        assert from_outside.mean() > 0.98, 'faces look outwards'
        assert abs(below[:, 2].min()) < 0.004
        assert np.hypot(*below[:, :2].T).max() < radius + 0.06
        above, from_outside = seen_from(scene, 2)
        assert from_outside.mean() > 0.98
        assert 0.002 < above[:, 2].max() < 0.8


def test_turned_profile_encloses_its_volume(textures: Textures) -> None:
    def add(builder: SceneBuilder) -> None:
        profile = [(0, 0), (0.3, 0), (0.3, 0.2), (0.1, 0.4), (0, 0.4)]
        material = builder.material('plain')
        builder.lathe(profile, (0, 0, 0), material, turn=tilted(0.3, 0.0), sides=64)

    scene = built(textures, add)
    height = seen_from(scene, 2)[0][:, 2].sum() * 0.004**2
    exact = np.pi * (0.3**2 * 0.2 + 0.2 / 3 * (0.3**2 + 0.3 * 0.1 + 0.1**2))
    assert height == pytest.approx(exact, rel=0.01)


def test_tilt_lowers_what_points_forward() -> None:
    forward = tilted(0.0, -0.5) @ np.array([0, -1, 0])
    np.testing.assert_allclose(forward, [0, -np.cos(0.5), np.sin(0.5)], atol=1e-6)
    np.testing.assert_allclose(
        tilted(0.4, 0.5, 0.6) @ tilted(0.4, 0.5, 0.6).T, np.eye(3), atol=1e-6
    )


def world_points(view: SceneView) -> np.ndarray:  # -> [N, 3], of pixels that see something
    rays = camera_rays(*SIZE, float(view.focal))
    depth = view.depth.astype(np.float64)
    points = (rays * np.where(np.isfinite(depth), depth, 0)[..., None])[np.isfinite(depth)]
    return points @ view.T_world_camera[:3, :3].T + view.T_world_camera[:3, 3]


def test_floor_is_at_zero_and_nothing_lies_below(indoors: list[SceneView]) -> None:
    on_floor = 0
    for view in indoors:
        z = world_points(view)[:, 2]
        assert (z < -0.01).mean() < 0.02  # planes are drawn out by a quarter pixel at edges
        on_floor += (np.abs(z) < 0.006).mean()  # half a float16 step of depth at 8 m
        assert 0.12 <= view.T_world_camera[2, 3] < 2.3
    assert on_floor / len(indoors) > 0.05


def test_sky_has_no_depth_and_is_above_the_horizon(outdoors: list[SceneView]) -> None:
    shares = []
    for view in outdoors:
        sky = np.isinf(view.depth)
        assert np.array_equal(sky, np.isinf(view.second_depth))
        assert not np.isnan(view.depth).any()
        assert (view.second_depth >= view.depth).all()
        up = (camera_rays(*SIZE, float(view.focal)) @ view.T_world_camera[:3, :3].T)[..., 2]
        assert (up[sky] > -0.03).all()
        points = world_points(view)
        far = np.linalg.norm(points - view.T_world_camera[:3, 3], axis=1)
        # The street is a kerb below the pavement; half a pixel at the horizon is many metres.
        assert (points[:, 2] > -0.16 - 0.02 * far).all()
        shares.append(sky.mean())
    assert 0.02 < np.mean(shares) < 0.6


def test_seeds_are_indoors_and_outdoors(textures: Textures) -> None:
    for seeds, expected in ((INDOORS, False), (OUTDOORS, True)):
        for seed in seeds:
            scene, places = build_scene(seed, textures)
            assert (scene.sky is not None) == expected
            assert places
            assert scene.targets


def test_furniture_keeps_its_distance() -> None:
    room = Room((0, 0, 4, 3), 2.5)
    room.taken.append((1, 1, 2, 2))
    assert not room.is_free((1.5, 1.5, 1.8, 1.8), 0)
    assert not room.is_free((2.05, 1, 3, 2), 0.1)
    assert room.is_free((2.2, 1, 3, 2), 0.1)
    assert not room.is_free((3.5, 1, 4.1, 2), 0)


def test_cameras_see_near_and_far_at_all_heights_and_angles(
    indoors: list[SceneView], outdoors: list[SceneView]
) -> None:
    for view in (*indoors, *outdoors):
        field = 2 * np.degrees(np.arctan(SIZE[0] / 2 / view.focal))
        assert 45 <= field <= 110
        assert np.median(view.depth) > 0.25
        assert 8 < view.rgb.mean() < 247
