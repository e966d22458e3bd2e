"""A map that was loaded is held against what is seen before it is used."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest
from test_map_command import speckled

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import ModelConfig, OccupancyConfig, PoseConfig, SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.mapping.map_fit import MapCheck, MapFit
from sharp_ros.mapping.occupancy import OccupancyMap
from sharp_ros.mapping.world_map import WorldMap
from sharp_ros.models import load_predictor
from sharp_ros.pipeline import CLEARING, MAP_POINTS, OCCUPANCY, Pipeline
from sharp_ros.se3 import inverse, look_at, transform
from sharp_ros.synthetic import Room

CAMERA = Intrinsics.from_hfov(1.2, 160, 120)
STEP_NS = 200_000_000


def drive_of(seed, seconds=6.0):
    """Frames at 5 Hz of the first metres of a room."""
    room = Room(seed)
    return [
        Frame(image, CAMERA, i * STEP_NS, 'camera', T, 'odom', depth)
        for i, (image, depth, T) in enumerate(
            (*room.render(CAMERA, T), T) for _, T in room.trajectory(seconds, 5.0)
        )
    ]


@pytest.fixture(scope='module')
def rooms():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, '_atlas', property(speckled))
        return [drive_of(0), drive_of(1)]


@pytest.fixture(scope='module')
def saved(rooms):
    """The map of every second frame of the first room."""
    occupancy = OccupancyMap(OccupancyConfig())
    for frame in rooms[0][::2]:
        occupancy.integrate(frame.depth, CAMERA, frame.T_world_camera, frame.stamp_ns)
    return occupancy


def moved(frames, x=0.0, y=0.0, degrees=0.0):
    """The same frames in a world that lies beside, turned about the first camera."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    eye = frames[0].T_world_camera[:3, 3]
    T_beside_world = transform(turn, eye - turn @ eye + [x, y, 0])
    return [replace(f, T_world_camera=T_beside_world @ f.T_world_camera) for f in frames]


def fit_of(occupancy, frames, scale_variance=0.0, factor=1.0):
    check = MapCheck(occupancy)
    for frame in frames:
        depth = frame.depth * np.float32(factor)
        fit = check.add(depth, CAMERA, frame.T_world_camera, scale_variance)
        if fit is not None:
            return fit
    raise AssertionError('never judged')


def test_an_unchanged_map_fits(saved, rooms):
    fit = fit_of(saved, rooms[0][1::2] * 2)
    assert (fit.kind, fit.refusal()) == ('fits', None)
    assert fit.agreement > 0.9
    assert fit.distance < 0.1


@pytest.mark.parametrize(
    ('x', 'y', 'degrees'),
    [(1.0, 0, 0), (0, -1.0, 0), (0.3, 0, 0), (0, 0.3, 0), (0, 0, 30.0), (0, 0, -8.0)],
)
def test_a_map_that_lies_beside_is_refused_with_the_measured_offset(saved, rooms, x, y, degrees):
    frames = rooms[0][1::2] * 2
    beside = moved(frames, x, y, degrees)
    fit = fit_of(saved, beside)
    assert fit.kind == 'beside'
    ways = [b.T_world_camera - f.T_world_camera for b, f in zip(beside, frames, strict=True)]
    way = np.mean(ways[: fit.frames], axis=0)[:3, 3]  # the turn is about the first camera
    assert fit.distance == pytest.approx(np.linalg.norm(way), abs=0.15)
    assert math.degrees(fit.turn) == pytest.approx(abs(degrees), abs=2.0)
    refusal = fit.refusal()
    assert refusal.reason == 'map_beside'
    assert f'{fit.distance:.2f} m, {math.degrees(fit.turn):.1f} degrees beside' in str(refusal)
    assert 'map anew' in str(refusal)


def test_along_a_wall_nothing_is_measured_that_cannot_be():
    occupancy = OccupancyMap(OccupancyConfig())
    pose = look_at(np.array([0.0, 0, 1]), np.array([1.0, 0, 1]), np.array([0.0, 0, 1]))
    wall = Frame(
        np.zeros((120, 160, 3), np.uint8), CAMERA, 0, 'camera', pose, 'odom',
        np.full((120, 160), 2.0, np.float32),
    )  # fmt: skip
    for _ in range(3):
        occupancy.integrate(wall.depth, CAMERA, pose)
    assert fit_of(occupancy, moved([wall] * 20, y=0.5)).kind == 'fits'
    fit = fit_of(occupancy, moved([wall] * 20, x=1.0))
    assert fit.kind == 'beside'
    assert fit.distance == pytest.approx(1.0, abs=0.15)


def test_the_map_of_another_room_is_refused(saved, rooms):
    fit = fit_of(saved, rooms[1] * 2)
    assert fit.kind in ('elsewhere', 'beside')
    assert fit.agreement < 0.5


def test_what_lies_outside_of_the_map_does_not_say_that_it_fits(saved, rooms):
    fit = fit_of(saved, moved(rooms[0] * 2, x=50.0))
    assert fit.kind == 'unseen'
    assert 'hardly anything' in str(fit.refusal())


def test_a_scene_that_changed_in_part_still_fits(saved, rooms):
    """Somebody stands 1 m before the left third of the camera, in every third image."""

    def with_screen(frame):
        depth = frame.depth.copy()
        depth[:, :53] = np.minimum(depth[:, :53], 1.0)
        return replace(frame, depth=depth)

    frames = rooms[0][1::2] * 2
    seen = [f if i % 3 else with_screen(f) for i, f in enumerate(frames)]
    assert fit_of(saved, seen).kind == 'fits'


def test_depth_that_is_wrong_by_no_more_than_is_stated_does_not_refuse_a_map(saved, rooms):
    frames = rooms[0][1::2] * 2
    assert fit_of(saved, frames, scale_variance=0.1**2, factor=1.1).kind == 'fits'
    assert fit_of(saved, frames, scale_variance=0.1**2, factor=0.9).kind == 'fits'
    beside = fit_of(saved, moved(frames, y=1.0), scale_variance=0.1**2, factor=1.1)
    assert beside.kind == 'beside'


# --- in the pipeline -----------------------------------------------------------------------------


def make_pipeline():
    predictor, info = load_predictor('sensor')
    config = SharpConfig(pose=PoseConfig(base_frame='base'), views={})
    return Pipeline(Engine(predictor, ModelConfig()), info, config)


@pytest.fixture(scope='module')
def state(rooms):
    pipeline = make_pipeline()
    for frame in rooms[0]:
        pipeline.process(frame, ())
    return pipeline.map_state()


def run(pipeline, frames):
    """Results up to the one that tells what became of the loaded map."""
    results = []
    for frame in frames:
        results.append(pipeline.process(frame, {OCCUPANCY, MAP_POINTS}))
        if results[-1].loaded is not None:
            break
    return results


def test_a_loaded_map_is_published_only_once_it_fits(state, rooms):
    pipeline = make_pipeline()
    pipeline.restore(state)
    assert pipeline.checks_loaded_map
    assert not pipeline.world_frame  # the map of before, which is empty
    results = run(pipeline, rooms[0])
    assert results[-1].loaded.kind == 'fits'
    assert not pipeline.checks_loaded_map
    assert [r.restarted for r in results] == [False] * (len(results) - 1) + [True]
    known = (results[-1].grid.cells != -1).sum()
    assert known > 2 * (results[0].grid.cells != -1).sum()
    assert len(pipeline.map_state().path) == len(state.path) + 1


def test_a_loaded_map_that_fits_by_a_frame_that_fails_is_reported_with_the_next(
    state, rooms, monkeypatch
):
    def fails(*_):
        raise MemoryError

    pipeline = make_pipeline()
    pipeline.restore(state)
    frames = iter(rooms[0])
    for frame in frames:
        with monkeypatch.context() as patch:
            patch.setattr(WorldMap, 'clearing_points', fails)  # the last step
            with pytest.raises(MemoryError):
                pipeline.process(frame, {CLEARING})
        if not pipeline.checks_loaded_map:
            break
    results = [pipeline.process(next(frames), ()) for _ in range(2)]
    assert [r.restarted for r in results] == [True, False]
    assert results[0].loaded.kind == 'fits'
    assert results[1].loaded is None


def test_a_map_that_does_not_fit_leaves_the_map_of_before_as_if_it_had_never_been_loaded(
    state, rooms
):
    """The fault: 1 m beside, cells deep in obstacles became free."""
    frames = moved(rooms[0], x=1.0)
    with_load, without = make_pipeline(), make_pipeline()
    for pipeline in (with_load, without):
        pipeline.process(frames[0], ())
    with_load.restore(state)
    results = run(with_load, frames[1:])
    assert results[-1].loaded.kind == 'beside'
    assert not any(r.restarted for r in results)
    for frame in frames[1 : 1 + len(results)]:
        without.process(frame, ())
    np.testing.assert_array_equal(with_load.grid().cells, without.grid().cells)
    assert all(result.mapped for result in results)


def test_poses_of_another_frame_or_source_refuse_a_map_at_once(state, rooms):
    pipeline = make_pipeline()
    pipeline.restore(state)
    result = pipeline.process(replace(rooms[0][0], world_frame='map'), ())
    assert isinstance(result.loaded, PoseUnavailableError)
    assert result.loaded.reason == 'world_frame_changed'
    assert result.mapped  # in the map of before
    pipeline = make_pipeline()
    pipeline.restore(state)
    base = {'base': inverse(rooms[0][1].T_world_camera)}  # by which visual odometry is level
    result = pipeline.process(replace(rooms[0][1], T_world_camera=None, transforms=base), ())
    assert result.loaded.reason == 'world_frame_changed'


def test_a_reset_gives_up_a_map_that_is_being_checked_but_a_jump_in_time_does_not(state, rooms):
    pipeline = make_pipeline()
    pipeline.process(rooms[0][-1], ())
    pipeline.restore(state)
    late = [replace(frame, stamp_ns=frame.stamp_ns - 10**10) for frame in rooms[0]]
    assert pipeline.process(late[0], ()).restarted
    assert pipeline.checks_loaded_map
    pipeline.reset()
    assert not pipeline.checks_loaded_map


def test_the_refusal_names_what_was_measured():
    fit = MapFit('elsewhere', 0.05, 0.5, 0.15, 0.8, 0.2, 20)
    assert 'no agreement within 1.5 m (15% at best)' in str(fit.refusal())
    assert fit.refusal().reason == 'map_elsewhere'
