"""Hard input through the whole pipeline: what a camera, a sensor or tf may do wrong."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import (
    GaussianMapConfig,
    ModelConfig,
    OccupancyConfig,
    PoseConfig,
    ScaleConfig,
    SharpConfig,
    SurfaceMapConfig,
)
from sharp_ros.engine import Engine
from sharp_ros.errors import EngineError, InputError
from sharp_ros.models import load_predictor
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.pipeline import CLEARING, MAP_POINTS, OCCUPANCY, Pipeline, POINTS
from sharp_ros.se3 import inverse, look_at, transform
from sharp_ros.synthetic import Room

K = Intrinsics.from_hfov(1.2, 160, 120)
UP = np.array([0.0, 0.0, 1.0])
WANTED = {OCCUPANCY, POINTS, MAP_POINTS, CLEARING}
SECOND = 10**9


def facing(x=0.0, y=0.0):
    """Camera at x, y, half a metre above the floor, that looks along x."""
    eye = np.array([x, y, 0.5])
    return look_at(eye, eye + np.array([1.0, 0, 0]), UP)


def frame(depth=2.0, stamp_ns=SECOND, pose=None, image=None, k=K):
    """A wall, or a depth image; at the origin unless said otherwise."""
    size = (k.height, k.width)
    image = np.full((*size, 3), 150, np.uint8) if image is None else image
    depth = np.full(size, depth, np.float32) if np.isscalar(depth) else depth
    return Frame(image, k, stamp_ns, 'camera', facing() if pose is None else pose, 'odom', depth)


def unplaced(frame):
    """Visual odometry shall find out where it is, in a world that is level by the base."""
    known = {} if frame.T_world_camera is None else {'base': inverse(frame.T_world_camera)}
    return replace(frame.placed(None, 'odom'), transforms=known)


LEVEL_BY_BASE = replace(SharpConfig(), pose=PoseConfig(base_frame='base'))


def make_pipeline(**changes):
    predictor, info = load_predictor('sensor')
    return Pipeline(Engine(predictor, ModelConfig()), info, replace(LEVEL_BY_BASE, **changes))


# of planes that stand on nothing, before which there is no floor
NO_FLOOR = {'occupancy': OccupancyConfig(drop_offs='ignore')}


def all_maps():
    return {
        'gaussian_map': GaussianMapConfig(enabled=True, max_gaussians=20_000),
        'surface_map': SurfaceMapConfig(enabled=True, max_blocks=1000),
    }


def texture(seed=0, k=K):
    """Blocks of random grey, full of corners."""
    rows, columns = k.height // 4, k.width // 4
    blocks = np.random.default_rng(seed).integers(30, 225, (rows, columns, 1), np.uint8)
    return np.kron(blocks, np.ones((4, 4, 3), np.uint8))


def contents(pipeline):
    """Everything in the maps, by name."""
    state = pipeline.map_state()
    parts = {'occupancy': state.occupancy, 'gaussians': state.gaussians, 'surface': state.surface}
    found = {f'{p}.{n}': a for p, part in parts.items() if part for n, a in part.items()}
    return {**found, 'stamps': state.path_stamps_ns, 'path': state.path}


def assert_same(before, after):
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def marked(pipeline):
    return (pipeline.grid().cells == 100).sum()


def cell(pipeline, x, y):
    grid = pipeline.grid()
    column, row = ((v - o) / grid.resolution for v, o in zip((x, y), grid.origin, strict=True))
    return grid.cells[int(np.floor(row)), int(np.floor(column))]


def wall_x(pipeline, x, y=0.0):
    """Whether there is a wall near x, within two cells."""
    return any(cell(pipeline, x + d, y) == 100 for d in (-0.1, -0.05, 0, 0.05, 0.1))


@pytest.fixture(scope='module')
def tour():
    """Pose, image and depth of a drive through a room, ten a second."""
    room = Room(2)
    poses = [room.pose(0.1 * i) for i in range(32)]
    return [(pose, *room.render(K, pose)) for pose in poses]


def rolled(pose, image, depth):
    """The same from a camera that hangs upside down."""
    half_turn = transform(np.diag([-1.0, -1.0, 1.0]), np.zeros(3))
    return pose @ half_turn, image[::-1, ::-1].copy(), depth[::-1, ::-1].copy()


# --- which way is up ---------------------------------------------------------------------------


def test_a_camera_mounted_upside_down_makes_the_same_map(tour):
    grids = []
    for mounted in (lambda *seen: seen, rolled):
        pipeline = make_pipeline()
        for i, (pose, image, depth) in enumerate(mounted(*seen) for seen in tour[::2]):
            pipeline.process(frame(depth, SECOND + i * SECOND // 5, pose, image), set())
        grids.append(pipeline.grid())
    assert grids[0].origin == grids[1].origin
    assert (grids[0].cells == 100).sum() > 500
    assert (grids[0].cells == grids[1].cells).mean() > 0.99
    # walls stand between two cells here, so that rounding decides which of them is marked
    nearly = [cv2.dilate((grid.cells == 100).astype(np.uint8), np.ones((3, 3))) for grid in grids]
    for grid, other in zip(grids, nearly[::-1], strict=True):
        assert other[grid.cells == 100].mean() > 0.98


def test_visual_odometry_finds_the_path_of_a_camera_upside_down(tour):
    pipeline, poses = make_pipeline(), []
    for i, (pose, image, depth) in enumerate(rolled(*seen) for seen in tour):
        seen = unplaced(frame(depth, SECOND + i * SECOND // 10, pose, image))
        result = pipeline.process(seen, set())
        assert result.motion.state == 'tracking'
        poses.append((result.frame.T_world_camera, pose))
    (first, true_first), (last, true_last) = poses[0], poses[-1]
    way, true_way = inverse(first) @ last, inverse(true_first) @ true_last
    assert np.linalg.norm(true_way[:3, 3]) > 1
    assert np.linalg.norm(way[:3, 3] - true_way[:3, 3]) < 0.04  # 4 cm of 1.5 m


# --- nothing to see ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('depth', 'expected'),
    [(np.nan, np.nan), (-np.inf, -np.inf), (0.0, np.nan), (-1.0, np.nan), (1e-9, -np.inf)],
)
def test_what_is_no_depth_neither_marks_nor_clears(depth, expected):
    pipeline = make_pipeline(**all_maps())
    for i in range(3):
        result = pipeline.process(frame(depth, SECOND + i * SECOND), WANTED)
        np.testing.assert_array_equal(result.depth, np.full_like(result.depth, expected))
        assert np.isnan(result.cloud[..., :3]).all()
        assert not len(result.map_points)
        assert not len(result.clearing_points)
    assert (pipeline.grid().cells == -1).all()
    assert not pipeline.map_state().gaussians['voxels'].size


@pytest.mark.parametrize('depth', [np.nan, 0.0])
def test_depth_that_fails_for_a_while_keeps_the_maps(depth):
    pipeline = make_pipeline(**all_maps())
    for i in range(3):
        pipeline.process(frame(2.0, SECOND + i * SECOND), WANTED)
    before = contents(pipeline)
    for i in range(3, 6):
        pipeline.process(frame(depth, SECOND + i * SECOND), WANTED)
    after = contents(pipeline)
    assert len(after.pop('stamps')) == len(after.pop('path')) == 6
    before = {name: before[name] for name in after}
    viewpoints = 'gaussians.viewpoints'  # where a view is trusted from may grow
    before.pop(viewpoints), after.pop(viewpoints)
    assert_same(before, after)


@pytest.mark.parametrize('depth', [15.0, 30.0, 1e9, np.inf])
def test_depth_beyond_range_clears_up_to_the_range_of_the_map_and_marks_nothing(depth):
    pipeline = make_pipeline(**all_maps(), **NO_FLOOR)
    for i in range(3):
        result = pipeline.process(frame(depth, SECOND + i * SECOND), WANTED)
        assert np.isnan(result.cloud[..., 2]).all() or depth == 15
    assert marked(pipeline) == 0
    assert not len(pipeline.map_points())
    assert cell(pipeline, 2.0, 0.0) == cell(pipeline, 4.5, 0.0) == 0
    assert cell(pipeline, 5.5, 0.0) == -1  # occupancy.max_range is 5 m
    ends = np.linalg.norm(result.clearing_points, axis=1)
    assert len(ends) > 100
    assert ends.max() <= 5.01
    assert not pipeline.map_state().gaussians['voxels'].size


def test_a_camera_that_looks_at_the_sky_marks_nothing():
    pipeline = make_pipeline(**all_maps())
    eye = facing()[:3, 3]
    sky = look_at(eye, eye + UP, np.array([1.0, 0, 0]))
    for i, depth in enumerate((np.inf, np.nan, 0.0, 15.0)):
        assert pipeline.process(frame(depth, SECOND + i * SECOND, sky), WANTED).mapped
    assert marked(pipeline) == 0
    assert not len(pipeline.map_points())


@pytest.mark.parametrize('depth', [np.inf, np.nan, 0.0, 15.0])
def test_visual_odometry_that_starts_under_the_sky_waits(depth):
    pipeline = make_pipeline()
    white = np.full((120, 160, 3), 250, np.uint8)
    for i in range(5):
        seen = unplaced(frame(depth, SECOND + i * SECOND // 10, image=white))
        result = pipeline.process(seen, WANTED)
        assert result.motion.state == 'starting'
        assert not result.mapped
    assert (pipeline.grid().cells == -1).all()
    assert pipeline.world_frame == ''


# --- no texture --------------------------------------------------------------------------------


def blank(i, shade=0.0):
    """A wall without texture: the noise of a sensor, and light that falls off by `shade`."""
    noise = np.random.default_rng(i).normal(0, 1.5, (120, 160, 3))
    light = 150 + shade * np.linspace(-1, 1, 160)[:, None]
    return (light + noise).astype(np.uint8)


@pytest.mark.parametrize('shade', [0.0, 40.0])
def test_a_blank_wall_does_not_make_visual_odometry_move(shade):
    pipeline = make_pipeline()
    for i in range(20):
        seen = unplaced(frame(2.0, SECOND + i * SECOND // 10, image=blank(i, shade)))
        result = pipeline.process(seen, WANTED)
        pose = result.frame.T_world_camera
        assert pose is None or np.linalg.norm(pose[:2, 3]) < 0.02  # 2 cm
        assert result.mapped == (pose is not None)


def test_a_blank_wall_after_a_room_is_lost_and_adds_nothing(tour):
    pipeline = make_pipeline(**all_maps())
    for i, (_, image, depth) in enumerate(tour[:10]):
        seen = unplaced(frame(depth, SECOND + i * SECOND // 10, image=image))
        assert pipeline.process(seen, set()).mapped
    before = contents(pipeline)
    for i in range(10, 20):
        seen = unplaced(frame(0.5, SECOND + i * SECOND // 10, image=blank(i)))
        result = pipeline.process(seen, WANTED)
        assert result.motion.state == 'lost'
        assert not result.mapped
    assert_same(before, contents(pipeline))
    back = [
        pipeline.process(unplaced(frame(depth, i * SECOND // 10, image=image)), set())
        for i in range(40, 50)  # keyframes are searched a few at a time
    ]
    assert 'recovered' in [result.motion.state for result in back]
    assert back[-1].mapped


def test_a_standing_camera_with_noise_stands():
    pipeline, wall = make_pipeline(), texture()
    for i in range(30):
        noise = np.random.default_rng(i).normal(0, 3, wall.shape)
        image = np.clip(wall + noise, 0, 255).astype(np.uint8)
        depth = 2 * (1 + 0.02 * np.random.default_rng(i).standard_normal((120, 160)))
        seen = frame(depth.astype(np.float32), SECOND + i * SECOND // 10, image=image)
        result = pipeline.process(unplaced(seen), WANTED)
        assert result.mapped
    moved = result.frame.T_world_camera[:2, 3]
    assert np.linalg.norm(moved) < 0.01  # 1 cm


# --- poses -------------------------------------------------------------------------------------


def test_after_a_jump_cells_go_where_the_pose_says():
    pipeline = make_pipeline(**all_maps(), **NO_FLOOR)
    for i, y in enumerate((0.0, 0.0, 5.0, 5.0, 0.0, 0.0)):
        result = pipeline.process(frame(2.0, SECOND + i * SECOND, facing(0, y)), WANTED)
        assert result.mapped
    for y in (0.0, 5.0):
        assert wall_x(pipeline, 2.0, y)
        assert cell(pipeline, 1.5, y) == 0
    assert cell(pipeline, 2.0, 2.5) == -1  # between the two nobody looked
    means = pipeline.map_state().gaussians['sums']
    assert len(means) > 1000


@pytest.mark.parametrize('away', [50.0, 5000.0, -300_000.0])
def test_a_jump_out_of_the_window_leaves_a_map_around_the_camera(away):
    pipeline = make_pipeline(**all_maps())
    for i, x in enumerate((0.0, 0.0, away, away)):
        pipeline.process(frame(2.0, SECOND + i * SECOND, facing(x)), WANTED)
    assert wall_x(pipeline, away + 2.0)
    points = pipeline.map_points()
    assert len(points)
    assert np.abs(points[:, 0] - away - 2.0).max() < 0.11  # the old wall is out of the window


def not_rigid():
    skewed, mirrored, far, nan = (facing() for _ in range(4))
    skewed[:3, :3] *= 1.1
    mirrored[:3, 0] *= -1
    far[0, 3] = 1e12
    nan[1, 3] = np.nan
    return {'skewed': skewed, 'mirrored': mirrored, 'far': far, 'nan': nan, '3x4': facing()[:3]}


@pytest.mark.parametrize('name', not_rigid())
def test_a_pose_that_is_none_is_refused_and_changes_no_map(name):
    pipeline = make_pipeline(**all_maps())
    for i in range(3):
        pipeline.process(frame(2.0, SECOND + i * SECOND), WANTED)
    before = contents(pipeline)
    with pytest.raises(InputError) as caught:
        pipeline.process(frame(1.0, 4 * SECOND, not_rigid()[name]), WANTED)
    assert caught.value.reason == 'bad_pose'
    assert_same(before, contents(pipeline))
    assert pipeline.process(frame(2.0, 5 * SECOND), WANTED).mapped


def test_a_first_pose_that_is_none_leaves_the_maps_empty():
    pipeline = make_pipeline(**all_maps())
    with pytest.raises(InputError):
        pipeline.process(frame(2.0, SECOND, not_rigid()['skewed']), WANTED)
    assert pipeline.world_frame == ''
    assert (pipeline.grid().cells == -1).all()
    assert pipeline.process(replace(frame(2.0, 2 * SECOND), world_frame='map'), WANTED).mapped


def scale_errors(tour, poses):
    """By number of the frame, how far off predicted depth is that is 40 % too large."""
    truth = {}

    def predictor(image, intrinsics, depth=None):
        z = torch.from_numpy(truth['depth'] * np.float32(1.4))[None]
        return gaussians_from_depth(z, torch.full((3, 120, 160), 0.5), intrinsics)

    _, info = load_predictor('nano')
    pipeline, off = Pipeline(Engine(predictor, ModelConfig()), info, SharpConfig()), {}
    for i, ((_, image, truth['depth']), pose) in enumerate(zip(tour, poses, strict=True)):
        with contextlib.suppress(InputError):
            result = pipeline.process(frame(0.0, (1 + i) * SECOND // 10, pose, image), set())
            off[i] = abs(float(np.nanmedian(result.depth / truth['depth'])) - 1)
    return off


@pytest.mark.parametrize('name', ['skewed', 'nan', '3x4'])
def test_a_pose_that_is_none_does_not_cost_the_scale(tour, name):
    poses = [pose for pose, _, _ in tour]
    poses[24] = poses[26] = not_rigid()[name]
    off = scale_errors(tour, poses)
    assert len(off) == len(tour) - 2
    assert max(value for i, value in off.items() if i >= 22) < 0.06


def test_a_jump_of_the_poses_does_not_cost_the_scale(tour):
    """As tf makes it when a localisation corrects itself."""
    jump = transform(np.eye(3), np.array([3.0, 4.0, 0.0]))
    poses = [jump @ pose if i >= 24 else pose for i, (pose, _, _) in enumerate(tour)]
    off = scale_errors(tour, poses)
    assert max(value for i, value in off.items() if i >= 22) < 0.06


# --- time and size -----------------------------------------------------------------------------


def test_all_maps_start_over_when_time_goes_back(caplog):
    pipeline = make_pipeline(**all_maps())
    for i in range(3):
        pipeline.process(frame(2.0, 100 * SECOND + i * SECOND), WANTED)
    pipeline.process(frame(3.0, 100 * SECOND), WANTED)
    pipeline.process(frame(3.0, 101 * SECOND), WANTED)
    assert 'start over' in caplog.text
    fresh = make_pipeline(**all_maps())
    for i in range(2):
        fresh.process(frame(3.0, 100 * SECOND + i * SECOND), WANTED)
    before, after = contents(fresh), contents(pipeline)
    for name in ('occupancy.log_odds', 'gaussians.voxels', 'stamps', 'path'):
        np.testing.assert_array_equal(before[name], after[name])
    assert len(before['surface.keys']) == len(after['surface.keys'])


def test_one_stamp_from_the_far_future_costs_the_maps_once():
    pipeline = make_pipeline()
    for i in range(3):
        pipeline.process(frame(2.0, SECOND + i * SECOND), WANTED)
    pipeline.process(frame(2.0, 10**18), WANTED)
    for i in range(3, 6):
        pipeline.process(frame(2.0, SECOND + i * SECOND), WANTED)
    assert len(pipeline.map_state().path) == 3
    assert wall_x(pipeline, 2.0)


def lose(pipeline, frame):
    """Let the network fail on a frame."""

    def result(**_):
        raise EngineError('out of memory')

    begun = pipeline.begin(frame, WANTED)
    begun.pending.result = result
    with pytest.raises(EngineError):
        pipeline.finish(begun)


def test_maps_that_start_over_with_a_frame_that_fails_are_reported_with_the_next():
    pipeline = make_pipeline()
    assert not pipeline.process(frame(2.0, 100 * SECOND), WANTED).restarted
    lose(pipeline, frame(2.0, SECOND))
    assert (pipeline.grid().cells == -1).all()
    restarted = [pipeline.process(frame(2.0, i * SECOND), WANTED).restarted for i in range(2, 4)]
    assert restarted == [True, False]


def test_depth_is_scaled_also_where_the_first_frame_failed_and_the_next_is_older():
    def predictor(image, intrinsics, depth=None):
        return gaussians_from_depth(
            torch.full((1, 120, 160), 4.0), torch.full((3, 120, 160), 0.5), intrinsics
        )

    _, info = load_predictor('nano')
    config = replace(SharpConfig(), scale=ScaleConfig(constant=0.5))
    pipeline = Pipeline(Engine(predictor, ModelConfig()), info, config)
    squares = np.indices((120, 160)).sum(0)[..., None] // 8 % 2
    image = np.where(squares, 90, 165).astype(np.uint8).repeat(3, 2)
    lose(pipeline, frame(2.0, SECOND, image=image))
    result = pipeline.process(frame(2.0, SECOND - SECOND // 20, image=image), WANTED)
    np.testing.assert_allclose(result.depth, 2.0, atol=1e-5)
    assert result.mapped


@pytest.mark.parametrize('stamp_ns', [0, SECOND])
def test_visual_odometry_maps_no_image_whose_stamp_is_that_of_the_one_before(tour, stamp_ns):
    pipeline = make_pipeline(**all_maps())
    first, *others = [unplaced(frame(depth, stamp_ns, image=image)) for _, image, depth in tour]
    assert pipeline.process(first, WANTED).mapped
    before = contents(pipeline)
    for seen in others[:10]:
        result = pipeline.process(seen, WANTED)
        assert not result.mapped
        assert result.frame.T_world_camera is None
        assert result.unmapped.reason == 'repeated_stamp'
        assert np.isfinite(result.cloud[..., 2]).any()
    assert_same(before, contents(pipeline))
    result = pipeline.process(replace(first, stamp_ns=stamp_ns + SECOND), WANTED)
    assert result.mapped  # the clock goes on


def test_another_image_size_midway_goes_on_with_the_map_where_poses_are_given():
    pipeline = make_pipeline(**all_maps())
    small = Intrinsics.from_hfov(1.2, 80, 60)
    for i, (y, k) in enumerate([(0.0, K)] * 2 + [(3.0, small)] * 2 + [(-3.0, K)] * 2):
        result = pipeline.process(frame(2.0, SECOND + i * SECOND, facing(0, y), k=k), WANTED)
        assert result.mapped
        assert result.depth.shape == (k.height, k.width)
        assert result.cloud.shape == (k.height, k.width, 4)
    assert all(wall_x(pipeline, 2.0, y) for y in (-3.0, 0.0, 3.0))


def test_another_image_size_midway_starts_visual_odometry_over():
    pipeline = make_pipeline()
    small = Intrinsics.from_hfov(1.2, 80, 60)
    for i, k in enumerate([K] * 3 + [small] * 3):
        seen = frame(2.0, SECOND + i * SECOND // 10, image=texture(k=k), k=k)
        result = pipeline.process(unplaced(seen), WANTED)
        assert result.mapped
        assert result.restarted == (i == 3)
    assert len(pipeline.map_state().path) == 3


def test_a_frame_out_of_order_after_another_image_size_is_late():
    pipeline, found = make_pipeline(), []
    small = Intrinsics.from_hfov(1.2, 80, 60)
    for tenth, k in ((0, K), (1, K), (3, small), (2, small), (4, small)):
        seen = frame(2.0, SECOND + tenth * SECOND // 10, image=texture(k=k), k=k)
        found.append(pipeline.process(unplaced(seen), WANTED))
    assert [result.mapped for result in found] == [True, True, True, False, True]
    assert found[-1].motion.state == 'tracking'
    assert not found[-1].motion.keyframe  # it goes on in the odom frame that is


@pytest.mark.parametrize('what', ['depth', 'image'])
def test_sizes_that_do_not_fit_are_refused(what):
    with pytest.raises(InputError):
        replace(frame(), **{what: np.zeros((10, 10, 3), np.uint8)})


# --- images that show nothing ------------------------------------------------------------------


def drive(cover, seed=2, frames=36, covered=range(12, 24)):
    """Results, None where refused, of a drive of which the lens is covered for a while.

    The predictor sees half of the true depth, and 3 m in what shows nothing, as networks do.
    """
    room, predicted = Room(seed), {}

    def predictor(image, intrinsics, depth=None):
        z = torch.from_numpy(predicted['depth'])[None]
        return gaussians_from_depth(z, torch.full((3, 120, 160), 0.5), intrinsics)

    _, info = load_predictor('nano')
    pipeline = Pipeline(Engine(predictor, ModelConfig()), info, SharpConfig())
    results, reasons = [], []
    for i in range(frames):
        pose = room.pose(0.2 * i)
        image, depth = room.render(K, pose)
        predicted['depth'] = 0.5 * depth
        if i in covered:
            image, predicted['depth'] = cover(image), np.full_like(depth, 3.0)
        seen = replace(frame(depth, SECOND + i * SECOND // 5, pose, image), depth=None)
        try:
            results.append(pipeline.process(seen, WANTED))
            reasons.append(getattr(results[-1].unmapped, 'reason', ''))
        except InputError as error:
            results.append(None)
            reasons.append(error.reason)
    return pipeline, results, reasons


COVERS = {
    'image_uniform': lambda image: np.full_like(image, 127),
    'image_dark': lambda image: np.random.default_rng(0).integers(0, 8, image.shape, np.uint8),
    'image_featureless': lambda image: cv2.GaussianBlur(image, None, 12),
}


@pytest.mark.parametrize('reason', COVERS)
def test_a_covered_lens_teaches_nothing_and_marks_and_clears_nothing(reason):
    pipeline, results, reasons = drive(COVERS[reason])
    assert reasons[:12] == reasons[24:] == [''] * 12
    assert set(reasons[12:24]) == {reason}
    assert all(r.mapped for r in results[:12] + results[24:])  # from the first good frame on
    scales = [r.scale.value for r in results if r is not None]
    assert max(scales[6:]) < 1.15 * 2.0  # the truth is 2
    shown = [r for r in results[12:24] if r is not None]
    assert len(shown) == (12 if reason == 'image_featureless' else 0)
    for result in shown:  # a robot before a bare wall needs the depth
        assert np.isfinite(result.depth).any()
        assert not result.mapped
        assert result.clearing_points is None
        assert result.grid is None
    grid = pipeline.grid()
    x, y = (
        o + (np.arange(n) + 0.5) * grid.resolution
        for o, n in zip(grid.origin, grid.cells.shape[::-1], strict=True)
    )
    outside = (np.abs(x) > 4.1)[None] | (np.abs(y) > 3.1)[:, None]
    assert np.count_nonzero((grid.cells == 0) & outside) <= 30


def test_the_frames_of_a_camera_driver_that_hangs_are_refused():
    kept = []

    def hang(image):
        kept.append(image)
        return kept[0]

    _, results, reasons = drive(hang)
    assert reasons[12:24] == ['', *['image_repeated'] * 11]
    assert all(r.mapped for r in results[24:])


def test_before_the_first_image_that_shows_something_depth_has_the_scale_that_was_set():
    _, info = load_predictor('nano')

    def predictor(image, intrinsics, depth=None):
        return gaussians_from_depth(
            torch.full((1, 120, 160), 4.0), torch.full((3, 120, 160), 0.5), intrinsics
        )

    wall = np.repeat(np.linspace(100, 180, 160).astype(np.uint8)[None, :, None], 120, 0)
    for constant, expected in ((0.0, 4.0), (0.5, 2.0)):
        config = replace(SharpConfig(), scale=ScaleConfig(constant=constant))
        pipeline = Pipeline(Engine(predictor, ModelConfig()), info, config)
        result = pipeline.process(frame(image=wall.repeat(3, 2)), WANTED)
        assert result.unmapped.reason == 'image_featureless'
        np.testing.assert_allclose(result.depth, expected, atol=1e-5)


def test_visual_odometry_is_not_moved_by_what_shows_nothing(tour):
    _, info = load_predictor('nano')
    shown = {}

    def predictor(image, intrinsics, depth=None):
        z = torch.from_numpy(shown['depth'])[None]
        return gaussians_from_depth(z, torch.full((3, 120, 160), 0.5), intrinsics)

    pipeline = Pipeline(Engine(predictor, ModelConfig()), info, LEVEL_BY_BASE)
    for i, (_, image, shown['depth']) in enumerate(tour[:20]):
        covered = 8 <= i < 11
        shown['image'] = cv2.GaussianBlur(image, None, 12) if covered else image
        seen = unplaced(frame(2.0, SECOND + i * SECOND // 10, image=shown['image']))
        result = pipeline.process(replace(seen, depth=None), {})
        assert result.mapped == (not covered), i
        assert (result.frame.T_world_camera is None) == covered
