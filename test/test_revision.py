"""What a map holds that was told of depth under a scale which proves wrong later."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import OccupancyConfig, ScaleConfig, SharpConfig
from sharp_ros.localization.localizer import Localizer
from sharp_ros.mapping import revision
from sharp_ros.mapping.occupancy import FREE, OccupancyMap, OCCUPIED
from sharp_ros.mapping.revision import DepthScale
from sharp_ros.mapping.world_map import WorldMap
from sharp_ros.se3 import look_at
from sharp_ros.stopwatch import Stopwatch

CAMERA = Intrinsics.from_hfov(1.2, 160, 120)  # a voxel at 5 m is a pixel: nothing is averaged
IMAGE = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
LOW, HIGH = np.array([-2.03, -1.98, 0.0]), np.array([3.02, 2.04, 2.5])  # corners of the room
PERIOD = 200_000_000
UNKNOWN_SCALE, KNOWN = DepthScale(0.3, 0.0, 0.3), DepthScale(0.06, -math.log(1.5), 0.05)


def pose(x, y, yaw):
    eye = np.array([x, y, 1.0])
    ahead = np.array([math.cos(yaw), math.sin(yaw), -0.2])
    return look_at(eye, eye + ahead, np.array([0.0, 0.0, 1.0]))


def true_depth(T):
    """z-depth of the walls, floor and ceiling of an empty room."""
    rays = np.concatenate([CAMERA.rays(), np.ones((*IMAGE.shape[:2], 1))], -1) @ T[:3, :3].T
    rays = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    return np.maximum((LOW - T[:3, 3]) / rays, (HIGH - T[:3, 3]) / rays).min(-1).astype('f4')


def tell(world, T, i, scale, factor=1.0, base=None):
    """The i-th frame, whose depth is wrong by a factor."""
    frame = Frame(IMAGE, CAMERA, i * PERIOD, 'camera', T, 'odom')
    world.integrate(frame, true_depth(T) * np.float32(factor), visual=False, scale=scale)


def turning(count, step=0.2):  # every view from a place of its own
    return [pose(0.1 + 0.002 * i, 0.1, step * i) for i in range(count)]


def wrong_cells(world):
    """How many cells are free, and occupied, that lie more than 0.2 m outside of the room."""
    grid = world.grid()
    x, y = (o + (np.arange(n) + 0.5) * 0.05 for o, n in zip(grid.origin, (400, 400), strict=True))
    x, y = np.meshgrid(x, y)
    outside = (x < LOW[0] - 0.2) | (x > HIGH[0] + 0.2) | (y < LOW[1] - 0.2) | (y > HIGH[1] + 0.2)
    return tuple(int((outside & (grid.cells == value)).sum()) for value in (FREE, OCCUPIED))


def log_odds(world):
    return world._occupancy.log_odds()


def test_a_standing_camera_frees_nothing_behind_walls_and_takes_back_what_it_marked_there():
    """The network sees everything 1.5 times too far, and nobody knows it yet."""
    world, certain = WorldMap(SharpConfig()), WorldMap(SharpConfig())
    for i in range(15):
        tell(world, pose(0.1, 0.1, 0.0), i, UNKNOWN_SCALE, 1.5)
        tell(certain, pose(0.1, 0.1, 0.0), i, None, 1.5)
    free, occupied = wrong_cells(world)
    assert wrong_cells(certain)[0] > 100  # believed as it comes, such depth frees what is behind
    assert free == 0
    assert occupied > 100
    tell(world, pose(0.1, 0.1, 0.0), 15, KNOWN)
    assert wrong_cells(world) == (0, 0)
    assert (world.grid().cells == OCCUPIED).any()
    assert (world.grid().cells == FREE).sum() > 300  # and now it is known how far it is free


def test_views_whose_own_error_stays_are_set_right_when_the_bias_is_known():
    """The default prior, and a bias that is off by less than was stated."""
    world, T = WorldMap(SharpConfig()), pose(0.1, 0.1, 0.0)
    for i in range(10):
        tell(world, T, i, DepthScale(0.56, 0.0, 0.49), 1.4)
    assert wrong_cells(world)[1] > 100
    tell(world, T, 10, DepthScale(0.06, -math.log(1.4), 0.07))
    assert world._revision.times == 1
    assert wrong_cells(world) == (0, 0)


@pytest.mark.parametrize('decay', [0.0, 20.0])
def test_the_map_becomes_what_one_from_scratch_is_with_the_later_scale(decay):
    occupancy = OccupancyConfig(size=8.0, decay_time=decay)
    world, frames = WorldMap(replace(SharpConfig(), occupancy=occupancy)), turning(30)
    # A wrong scale, wide, from frame to frame another; then it is known, and the camera drives on.
    for i, T in enumerate(frames):
        tell(world, T, i, UNKNOWN_SCALE, 1.5)
    for i in range(30, 70):
        tell(world, pose(0.1 + 0.02 * (i - 29), 0.1, 6.0), i, KNOWN)
    scratch = OccupancyMap(occupancy)
    revised = world._revision
    told = {t.stamp_ns: t for t in revised._told}
    assert revised.times == 1
    for i, T in enumerate(frames):
        std, depth = told[i * PERIOD].std, true_depth(T)
        factor = math.exp(told[i * PERIOD].correction) * 1.5
        assert factor == pytest.approx(1.0, abs=0.02)  # drift allows for a little
        assert std < 0.11
        scratch.integrate(depth * np.float32(factor), CAMERA, T, i * PERIOD, None, std)
    for i in range(30, 70):
        T = pose(0.1 + 0.02 * (i - 29), 0.1, 6.0)
        scratch.integrate(true_depth(T), CAMERA, T, i * PERIOD, None, KNOWN.std)
    assert not (world._occupancy.bounds[0] - scratch.bounds[0]).any()
    difference = np.abs(log_odds(world) - scratch.log_odds())
    # At the bound the order counts: the newest frames came before the last of those told again.
    # What fades is told again faded, but by steps of other lengths.
    assert np.mean(difference > (0.35 if decay else 0.01)) < 2e-3
    same = world.grid().cells == scratch.grid().cells
    assert np.count_nonzero(~same) < 0.01 * np.count_nonzero(scratch.grid().cells >= 0)


def test_frames_from_one_place_count_as_many_when_they_are_told_again():
    world, scratch = WorldMap(SharpConfig()), OccupancyMap(OccupancyConfig())
    T = pose(0.1, 0.1, 0.0)
    for i in range(3):
        tell(world, T, i, UNKNOWN_SCALE, 1.5)
    assert len(world._revision._told) == 1
    tell(world, T, 3, KNOWN)
    for _ in range(3):
        told = world._revision._told[0]
        depth = true_depth(T) * np.float32(1.5 * math.exp(told.correction))
        scratch.integrate(depth, CAMERA, T, 0, None, told.std)
    scratch.integrate(true_depth(T), CAMERA, T, 0, None, KNOWN.std)
    np.testing.assert_allclose(log_odds(world), scratch.log_odds(), atol=0.01)


def test_what_was_told_before_the_last_views_stays_and_memory_is_bounded():
    config = OccupancyConfig(max_turn_rate=0.0)  # this one turns by 0.37 rad a frame
    world, scratch = WorldMap(SharpConfig(occupancy=config)), OccupancyMap(config)
    frames = turning(150, step=0.37)
    for i, T in enumerate(frames):
        tell(world, T, i, UNKNOWN_SCALE, 1.5)
        assert len(world._revision._told) <= revision._MOST
    tell(world, frames[-1], 150, KNOWN)
    world._revision.finish()
    told = world._revision._told
    again = {t.stamp_ns: t for t in told}
    assert revision._MOST // 2 <= len(told) <= revision._MOST
    for i, T in enumerate(frames):
        known = again.get(i * PERIOD)
        factor = 1.5 * (math.exp(known.correction) if known else 1.0)
        std = known.std if known else UNKNOWN_SCALE.std
        scratch.integrate(true_depth(T) * np.float32(factor), CAMERA, T, 0, None, std)
    scratch.integrate(true_depth(frames[-1]), CAMERA, frames[-1], 0, None, KNOWN.std)
    difference = np.abs(log_odds(world) - scratch.log_odds())
    assert np.mean(difference > 0.01) < 2e-3


def test_the_window_moves_on_while_the_past_is_set_right():
    """The checkpoint is of a window that has left; cells that came in since are kept as known."""
    occupancy = OccupancyConfig(size=8.0)
    world = WorldMap(replace(SharpConfig(), occupancy=occupancy))
    for i in range(20):
        tell(world, pose(0.1 + 0.1 * i, 0.1, 0.0), i, UNKNOWN_SCALE, 1.5)
    before = world._occupancy.bounds[0]
    tell(world, pose(2.1, 0.1, 0.0), 20, KNOWN)
    world._revision.finish()
    assert (world._occupancy.bounds[0] == before).all()
    assert before[0] > -3.9  # it has moved from -4
    assert wrong_voxels(world) == 0
    points = world.points()
    ahead = points[(np.abs(points[:, 1]) < 0.5) & (points[:, 2] < 1.5)]
    assert len(ahead) > 50
    np.testing.assert_allclose(ahead[:, 0], HIGH[0], atol=0.16)  # all of the wall, and it alone


def wrong_voxels(world):
    """How many occupied or free voxels lie more than 0.3 m outside of the room."""
    cells, (low, _) = log_odds(world), world._occupancy.bounds
    row, column, _ = np.nonzero(np.abs(cells) >= 0.6)
    x, y = low[0] + (column + 0.5) * 0.05, low[1] + (row + 0.5) * 0.05
    return np.count_nonzero((x > HIGH[0] + 0.3) | (y > HIGH[1] + 0.3) | (y < LOW[1] - 0.3))


@pytest.mark.parametrize(
    ('bias', 'std', 'goes_back'), [(0.12, 0.06, False), (0.5, 0.06, True), (0.5, 0.09, False)]
)
def test_a_known_scale_that_wanders_takes_nothing_back_and_one_that_was_wrong_does(
    bias, std, goes_back
):
    """And one that is less sure than it was proves nothing."""
    world = WorldMap(SharpConfig())
    for i, T in enumerate(turning(10)):
        tell(world, T, i, DepthScale(0.06, 0.0, 0.06))
    tell(world, pose(0.1, 0.1, 1.0), 10, DepthScale(0.06, bias, std))
    assert world._revision.times == int(goes_back)


def test_measured_depth_keeps_nothing():
    world = WorldMap(SharpConfig())
    for i, T in enumerate(turning(10)):
        tell(world, T, i, None)
    assert not world._revision._told
    assert world._revision._base is None


def test_a_map_is_saved_with_all_that_was_set_right():
    world = WorldMap(SharpConfig())
    for i, T in enumerate(turning(30)):
        tell(world, T, i, UNKNOWN_SCALE, 1.5)
    tell(world, pose(0.1, 0.1, 0.0), 30, KNOWN)
    assert world._revision._pending  # only a few are told again with a frame
    state = world.state(0, {}, {})
    restored = WorldMap.restored(SharpConfig(), state)
    assert not world._revision._pending
    np.testing.assert_array_equal(log_odds(restored), log_odds(world))
    assert wrong_cells(restored) == (0, 0)
    # What was loaded is no view of this run: nothing of it is taken back.
    tell(restored, pose(0.1, 0.1, 0.0), 31, UNKNOWN_SCALE, 1.0)
    kept = np.count_nonzero(log_odds(restored) > 0.5)
    tell(restored, pose(0.1, 0.1, 0.0), 32, DepthScale(0.06, 0.0, 0.05))
    assert np.count_nonzero(log_odds(restored) > 0.5) > 0.9 * kept


def test_after_a_reset_nothing_of_before_is_told_again():
    world = WorldMap(SharpConfig())
    for i, T in enumerate(turning(10)):
        tell(world, T, i, UNKNOWN_SCALE, 1.5)
    world.reset()
    blind = np.full(IMAGE.shape[:2], np.nan, np.float32)
    frame = Frame(IMAGE, CAMERA, 11 * PERIOD, 'camera', pose(0.1, 0.1, 0.0), 'odom')
    world.integrate(frame, blind, visual=False, scale=KNOWN)
    assert not log_odds(world).any()


@pytest.mark.parametrize(
    ('scale', 'std'), [({}, 0.1), ({'camera_height': 1.0}, 0.0), ({'prior_std': 0.04}, 0.04)]
)
def test_the_metre_of_own_odometry_is_as_uncertain_as_that_of_its_network(scale, std):
    """Parallax over its own path says nothing about it; a known height, or a network, may."""
    localizer = Localizer(SharpConfig(scale=ScaleConfig(**scale)), estimates_scale=True)
    image = np.random.default_rng(0).integers(0, 256, IMAGE.shape, np.uint8)
    frame = Frame(image, CAMERA, 0, 'camera', None, 'odom')
    localized = localizer.update(frame, true_depth(pose(0.1, 0.1, 0.0)), Stopwatch())
    stated = math.sqrt(localized.scale.log_variance)
    assert localized.depth_scale.std == pytest.approx(math.hypot(stated, std))
    placed = replace(frame, T_world_camera=pose(0.1, 0.1, 0.0), stamp_ns=PERIOD)
    given = localizer.update(placed, true_depth(pose(0.1, 0.1, 0.0)), Stopwatch())
    assert given.depth_scale.std == pytest.approx(math.sqrt(given.scale.log_variance))
    sensor = Localizer(SharpConfig(), estimates_scale=False)
    measured = sensor.update(placed, true_depth(pose(0.1, 0.1, 0.0)), Stopwatch())
    assert measured.depth_scale is None
