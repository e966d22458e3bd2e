from __future__ import annotations

from dataclasses import replace
from itertools import islice

import cv2
import numba
import numpy as np
import pytest
import torch

from sharp_ros import snapshot
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import (
    GaussianMapConfig,
    ModelConfig,
    PoseConfig,
    ScaleConfig,
    SharpConfig,
    ViewConfig,
)
from sharp_ros.engine import choose_device, Engine
from sharp_ros.errors import CheckpointError, ConfigError, InputError
from sharp_ros.models import load_predictor, model_names, ModelInfo
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.network.predictor import SensorPredictor
from sharp_ros.pipeline import (
    CLEARING,
    GAUSSIANS,
    MAP_POINTS,
    OCCUPANCY,
    Pipeline,
    POINTS,
)
from sharp_ros.point_cloud import clean_depth, depth_from_gaussians
from sharp_ros.se3 import inverse, look_at
from sharp_ros.sources import SyntheticSource
from sharp_ros.synthetic import Room
from sharp_ros.views import VIEW, VIEW_DEPTH

INTRINSICS = Intrinsics.from_hfov(1.2, 160, 120)
POSE = look_at(np.array([0.0, 0, 1]), np.array([1.0, 0, 1]), np.array([0.0, 0, 1]))


def wall_frame(distance=2.0, stamp_ns=0, pose=POSE, world='odom'):
    image = np.full((120, 160, 3), 200, np.uint8)
    depth = np.full((120, 160), distance, np.float32)
    return Frame(image, INTRINSICS, stamp_ns, 'camera', pose, world, depth)


def make_pipeline(**changes):
    predictor, info = load_predictor('sensor')
    return Pipeline(Engine(predictor, ModelConfig()), info, replace(SharpConfig(), **changes))


def test_depth_passes_through_exactly():
    pipeline = make_pipeline()
    pipeline.process(wall_frame(), {POINTS, OCCUPANCY})
    result = pipeline.process(
        wall_frame(stamp_ns=10**9), {POINTS, OCCUPANCY, MAP_POINTS, CLEARING}
    )
    np.testing.assert_allclose(result.depth, 2.0, atol=1e-5)
    np.testing.assert_allclose(result.cloud[..., 2], 2.0, atol=1e-5)
    assert result.mapped
    assert (result.grid.cells == 100).any()
    np.testing.assert_allclose(result.map_points[:, 0], 2.0, atol=0.06)  # a cell
    assert len(result.clearing_points) == 0  # every ray meets the wall


@pytest.mark.parametrize('stated', [None, 0.05, 1.2])
def test_what_a_network_doubts_of_its_metres_is_stated(stated):
    """Of the first image, of which nothing else is known."""
    (frame,) = islice(SyntheticSource(size=(160, 120)).frames(), 1)
    z = torch.from_numpy(frame.depth)[None]
    colors = torch.full((3, 120, 160), 0.5)

    def network(image, intrinsics, depth=None):
        return replace(gaussians_from_depth(z, colors, intrinsics), log_scale_std=stated)

    info = ModelInfo('doubting', 'says so', 'Apache-2.0', metric=True)
    pipeline = Pipeline(Engine(network, ModelConfig()), info, SharpConfig())
    scale = pipeline.process(replace(frame, depth=None), {POINTS}).scale
    expected = max(SharpConfig().scale.prior_std, stated or 0.0)
    assert scale.log_variance**0.5 == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize('posed', [False, True])
def test_the_gray_of_an_image_is_made_once_a_frame(posed, monkeypatch):
    frames = [
        replace(frame, T_world_camera=frame.T_world_camera if posed else None)
        for frame in islice(SyntheticSource(size=(160, 120)).frames(), 3)
    ]
    pipeline, made, convert = make_pipeline(), [], cv2.cvtColor

    def counted(image, code, *others):
        made.extend([image] if code == cv2.COLOR_RGB2GRAY else [])
        return convert(image, code, *others)

    monkeypatch.setattr(cv2, 'cvtColor', counted)
    for frame in frames:
        pipeline.process(frame, ())
    assert [id(image) for image in made] == [id(frame.image) for frame in frames]


def test_where_the_image_shows_nothing_the_network_is_not_believed():
    """As in the black margins of rectified images."""
    predictor, info = load_predictor('nano')
    pipeline = Pipeline(Engine(predictor, ModelConfig()), info, SharpConfig())
    rng = np.random.default_rng(0)
    frame = replace(wall_frame(), image=rng.integers(0, 256, (120, 160, 3), np.uint8), depth=None)
    unseen = np.zeros((120, 160), bool)
    unseen[:, :40] = True
    wanted = {POINTS, GAUSSIANS, MAP_POINTS, CLEARING}
    whole = pipeline.process(frame, wanted)
    pipeline.reset()  # nothing of it shall be of use for the other
    part = pipeline.process(replace(frame, unseen=unseen), wanted)
    assert np.isfinite(whole.depth[:, :40]).any()
    assert np.isnan(part.depth[:, :40]).all()
    assert np.isnan(part.cloud[:, :40, :3]).all()
    np.testing.assert_array_equal(part.depth[:, 45:], whole.depth[:, 45:])
    layers, rows, columns = part.gaussians.grid
    opacities = part.gaussians.opacities.reshape(layers, rows, columns)
    assert not opacities[..., : columns // 4 - 1].any()
    shown = whole.gaussians.opacities.reshape(layers, rows, columns)
    assert torch.equal(opacities[..., columns // 4 + 1 :], shown[..., columns // 4 + 1 :])


def test_sensors_see_what_the_image_does_not_show():
    unseen = np.ones((120, 160), bool)
    result = make_pipeline().process(replace(wall_frame(), unseen=unseen), set())
    np.testing.assert_allclose(result.depth, 2.0, atol=1e-5)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(InputError, match='does not fit'):
        replace(wall_frame(), unseen=np.zeros((3, 4), bool))


def test_where_nothing_is_in_range_rays_clear():
    result = make_pipeline().process(wall_frame(12.0), {CLEARING})
    assert len(result.clearing_points) > 1000
    assert np.linalg.norm(result.clearing_points, axis=1).max() <= 5.01  # occupancy.max_range


def test_only_what_is_wanted_is_made():
    result = make_pipeline().process(wall_frame(), set())
    assert result.cloud is None
    assert result.grid is None
    assert not result.views
    assert not {'points', 'grid'} & {k for k, v in result.timings_ms.items() if v > 1.0}


def test_frames_that_overlap_keep_their_own_results():
    """The next frame is begun before this one is finished, as on a GPU."""
    predictor, info = load_predictor('nano')

    def make():
        return Pipeline(Engine(predictor, ModelConfig()), info, SharpConfig())

    rng = np.random.default_rng(0)
    frames = [
        replace(wall_frame(stamp_ns=i), image=rng.integers(0, 256, (120, 160, 3), np.uint8))
        for i in range(4)
    ]
    one_by_one = make()
    expected = [one_by_one.process(frame, {GAUSSIANS}) for frame in frames]
    pipeline, begun, found = make(), [], []
    for frame in frames:
        begun.append(pipeline.begin(frame, {GAUSSIANS}))
        if len(begun) == 2:
            found.append(pipeline.finish(begun.pop(0)))
    found.append(pipeline.finish(begun.pop()))
    for a, b in zip(found, expected, strict=True):
        assert a.frame.stamp_ns == b.frame.stamp_ns
        np.testing.assert_array_equal(a.depth, b.depth)
        assert torch.equal(a.gaussians.colors, b.gaussians.colors)


def test_a_bag_that_starts_over_between_two_overlapping_frames_gets_its_grid():
    """The first frame of the second round is begun before the last of the first is finished."""
    pipeline = make_pipeline()
    last = pipeline.begin(wall_frame(stamp_ns=100 * 10**9), {OCCUPANCY})
    first = pipeline.begin(wall_frame(stamp_ns=10**9), {OCCUPANCY})
    assert pipeline.finish(last).grid is not None
    assert pipeline.finish(first).grid is not None


@pytest.mark.parametrize('hidden', [0.5, 1.0, 4.0])
def test_what_lies_behind_the_visible_surface_neither_marks_nor_clears(hidden):
    grids = []
    for depths in ([2.0], [2.0, hidden]):
        layers = torch.stack([torch.full((120, 160), depth) for depth in depths])

        def predictor(image, intrinsics, depth=None, layers=layers):
            return gaussians_from_depth(layers, torch.zeros(3, 120, 160), intrinsics)

        _, info = load_predictor('sensor')
        pipeline = Pipeline(Engine(predictor, ModelConfig()), info, SharpConfig())
        for i in range(4):
            result = pipeline.process(wall_frame(stamp_ns=i * 10**9), {OCCUPANCY})
        grids.append(result.grid.cells)
    assert (grids[0] == 100).any()
    assert (grids[0] == 0).any()
    np.testing.assert_array_equal(*grids)


def covariances_asked(pipeline):
    """Filled with one entry per frame from now on: whether its shapes were asked for."""
    asked = []
    submit = pipeline.engine.submit

    def spy(*args):
        pending = submit(*args)
        result = pending.result

        def wrapped(*, covariances):
            asked.append(covariances)
            return result(covariances=covariances)

        pending.result = wrapped
        return pending

    pipeline.engine.submit = spy
    return asked


def test_shapes_are_made_only_for_those_who_see_them():
    pipeline = make_pipeline()
    asked = covariances_asked(pipeline)
    views = ({VIEW + 'over_shoulder'}, {VIEW + 'requested'})
    for wanted in ((), {POINTS, OCCUPANCY}, {GAUSSIANS}, *views):
        pipeline.process(wall_frame(), wanted)
    assert asked == [False, False, True, True, True]


def test_the_fused_map_asks_for_the_shapes_of_keyframes_alone():
    pipeline = make_pipeline(gaussian_map=GaussianMapConfig(enabled=True))
    asked = covariances_asked(pipeline)
    for stamp_ns in (0, 10**8, 11 * 10**8):  # standing still, the next one is due after a second
        pipeline.process(wall_frame(stamp_ns=stamp_ns), ())
    lost = replace(wall_frame(stamp_ns=12 * 10**8), T_world_camera=None, world_frame='')
    pipeline.process(lost, ())
    assert asked == [True, False, True, False]


def test_without_a_pose_nothing_is_mapped():
    frame = replace(wall_frame(), T_world_camera=None)
    result = make_pipeline().process(frame, {OCCUPANCY})
    assert not result.mapped
    assert result.grid is None


def test_rate_limited_outputs_keep_their_rate_on_the_clock_of_the_stamps():
    pipeline = make_pipeline()
    grids = views = 0
    for i in range(50):  # 5 s at 10 Hz; both are limited to 2 Hz
        frame = wall_frame(stamp_ns=1_000_000_000 + i * 100_000_000)
        result = pipeline.process(frame, {OCCUPANCY, VIEW + 'over_shoulder'})
        grids += result.grid is not None
        views += len(result.views)
    assert grids == views == 10


def test_a_recording_that_starts_over_starts_a_new_map(caplog):
    pipeline = make_pipeline()
    for i in range(3):
        pipeline.process(wall_frame(stamp_ns=10**11 + i * 10**9), {OCCUPANCY})
    far_away = replace(wall_frame(stamp_ns=10**10), T_world_camera=None)
    pipeline.process(far_away, {OCCUPANCY})
    assert 'start over' in caplog.text
    assert (pipeline.grid().cells == -1).all()


def test_stamps_that_jitter_keep_the_map():
    pipeline = make_pipeline()
    for stamp_ns in (10**11, 10**11 + 10**8, 10**11 + 5 * 10**7):
        pipeline.process(wall_frame(stamp_ns=stamp_ns), {OCCUPANCY})
    assert (pipeline.grid().cells == 100).any()


def test_another_camera_starts_visual_odometry_and_map_over(caplog):
    pipeline = make_pipeline(pose=PoseConfig(base_frame='base'))
    level = {'base': inverse(POSE)}
    frame = replace(wall_frame(stamp_ns=10**9), T_world_camera=None, transforms=level)
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    for i in range(3):
        seen = replace(frame, image=noise, stamp_ns=(1 + i) * 10**8)
        assert pipeline.process(seen, {OCCUPANCY}).mapped
    other = replace(seen, intrinsics=Intrinsics.from_hfov(0.8, 160, 120), stamp_ns=5 * 10**8)
    blank = replace(other, image=np.full_like(noise, 90))
    assert not pipeline.process(blank, {OCCUPANCY}).mapped
    assert 'camera changed' in caplog.text
    assert (pipeline.grid().cells == -1).all()


def test_stamps_that_start_over_do_not_silence_rate_limited_outputs():
    pipeline = make_pipeline()
    pipeline.process(wall_frame(stamp_ns=10**18), {OCCUPANCY})
    assert pipeline.process(wall_frame(stamp_ns=10**9), {OCCUPANCY}).grid is not None


def test_map_does_not_mix_world_frames_until_reset():
    views = {'map': FROM_MAP, 'asked': replace(FROM_MAP, placement='request')}
    pipeline = make_pipeline(gaussian_map=FUSING, views=views)
    wanted = {OCCUPANCY, POINTS, CLEARING, *(VIEW + name for name in views)}
    pipeline.process(wall_frame(), wanted)
    before = pipeline.map_state()
    result = pipeline.process(wall_frame(5.0, 10**10, world='map'), wanted)
    assert not result.mapped
    assert result.unmapped.reason == 'world_frame_changed'
    assert 'reset the map' in str(result.unmapped)
    np.testing.assert_allclose(result.cloud[..., 2], 5.0, atol=1e-5)
    assert len(result.clearing_points)
    assert result.unplaced['map'].reason == 'no_pose'  # in the map
    asked = pipeline.render_request('world', POSE, pipeline.latest, wanted)
    assert asked[1]['asked'].reason == 'no_pose'
    after = pipeline.map_state()
    np.testing.assert_array_equal(before.occupancy['log_odds'], after.occupancy['log_odds'])
    np.testing.assert_array_equal(before.gaussians['sums'], after.gaussians['sums'])
    assert len(after.path) == 1
    pipeline.reset()
    result = pipeline.process(wall_frame(world='map'), wanted)
    assert result.mapped
    assert result.unmapped is None


def test_warm_up_leaves_no_trace():
    pipeline = make_pipeline()
    pipeline.warm_up(INTRINSICS)
    result = pipeline.process(wall_frame(), {OCCUPANCY})
    fresh = make_pipeline().process(wall_frame(), {OCCUPANCY})
    np.testing.assert_array_equal(result.grid.cells, fresh.grid.cells)
    assert pipeline.snapshot_is_complete
    with pytest.raises(InputError, match='no image has come yet'):
        pipeline.take_snapshot().cloud()


def test_warm_up_compiles_what_joins_the_first_snapshot(monkeypatch):
    kinds, join = [], snapshot._join

    def watched(*arguments):
        kinds.append([numba.typeof(argument) for argument in arguments])
        return join(*arguments)

    monkeypatch.setattr(snapshot, '_join', watched)
    pipeline = make_pipeline()
    pipeline.warm_up(INTRINSICS)
    assert len(kinds) == 1
    pipeline.begin_snapshot()
    for stamp_ns in (0, 10**9):
        pipeline.process(wall_frame(stamp_ns=stamp_ns), set())
    assert pipeline.take_snapshot().cloud().frames == 2
    assert kinds[0] == kinds[1]


def test_view_from_the_camera_itself_shows_the_wall_and_from_behind_it_nothing():
    views = {
        'same': ViewConfig(160, 120, position=(0.0, 0.0, 0.0), target=(0.0, 0.0, 1.0)),
        'away': ViewConfig(160, 120, position=(0.0, 0.0, -0.5), target=(0.0, 0.0, -2.0)),
    }
    wanted = {VIEW + name for name in views}
    result = make_pipeline(views=views).process(wall_frame(), wanted)
    same, away = result.views['same'], result.views['away']
    inner = same.image[10:-10, 10:-10].astype(int)
    assert np.abs(inner - 200).max() <= 6
    assert same.coverage > 0.9
    assert away.coverage == 0.0


FUSING = GaussianMapConfig(enabled=True)
FROM_MAP = ViewConfig(
    160, 120, frame='world', position=(0.0, 0.0, 1.0), target=(2.0, 0.0, 1.0), source='map'
)


def test_a_view_of_the_fused_map_shows_what_the_camera_has_turned_away_from():
    pipeline = make_pipeline(gaussian_map=FUSING, views={'map': FROM_MAP})
    wanted = {VIEW + 'map', VIEW + 'map' + VIEW_DEPTH}
    pipeline.process(wall_frame(), set())  # fused although nobody listens
    back = look_at(np.array([0.0, 0, 1]), np.array([-1.0, 0, 1]), np.array([0.0, 0, 1]))
    result = pipeline.process(wall_frame(5.0, 2 * 10**9, back), wanted)
    view = result.views['map']
    assert view.coverage > 0.9
    np.testing.assert_allclose(view.depth[30:-30, 40:-40], 2.0, atol=0.02)  # 2 cm
    assert view.distance == 0
    pipeline.reset()
    result = pipeline.process(replace(wall_frame(), T_world_camera=None), wanted)
    assert result.unplaced['map'].reason == 'no_pose'


def test_a_view_of_a_map_that_is_still_empty_says_so():
    pipeline = make_pipeline(gaussian_map=FUSING, views={'map': FROM_MAP})
    frame = wall_frame()
    frame.depth[:] = 0  # nothing measured
    assert pipeline.process(frame, {VIEW + 'map'}).unplaced['map'].reason == 'map_empty'


def test_a_view_shows_the_map_only_where_one_is_fused():
    with pytest.raises(ConfigError, match=r'gaussian_map\.enabled'):
        make_pipeline(views={'map': FROM_MAP})


def test_a_requested_view_shows_the_newest_image_and_is_forgotten_with_its_listener():
    pipeline = make_pipeline(views={'asked': ViewConfig(160, 120, placement='request')})
    with pytest.raises(InputError, match='no image received'):
        _ = pipeline.latest
    wanted = {VIEW + 'asked'}
    for stamp_ns, distance in ((1, 2.0), (2, 3.0)):
        assert not pipeline.process(wall_frame(distance, stamp_ns), wanted).views
    frame = pipeline.latest
    assert frame.stamp_ns == 2
    views, unplaced = pipeline.render_request(
        'camera', np.eye(4), frame, {*wanted, VIEW + 'asked' + VIEW_DEPTH}
    )
    assert not unplaced
    np.testing.assert_allclose(views['asked'].depth[20:-20, 20:-20], 3.0, atol=0.01)
    assert not pipeline.render_request('camera', np.eye(4), frame, set())[0]
    pipeline.process(wall_frame(), set())
    with pytest.raises(InputError, match='no image received'):
        _ = pipeline.latest


def drive(model, bias=1.0, wobble=0.0, seconds=4.0, place=True, config=None, late=None):
    """Results of a drive through a room, predicted depth being the true one times `bias`.

    Frame number `late` says that it was taken 150 ms earlier than it was.
    """
    room, k = Room(2), Intrinsics.from_hfov(1.2, 320, 240)
    rng = np.random.default_rng(3)
    truth = {}

    def predictor(image, intrinsics, depth=None):
        factor = bias * (1 + wobble * rng.uniform(-1, 1))
        z = torch.from_numpy(truth['depth'] * np.float32(factor))[None]
        return gaussians_from_depth(z, torch.full((3, 240, 320), 0.5), k)

    _, info = load_predictor('sensor' if model == 'sensor' else 'nano')
    pipeline = Pipeline(Engine(predictor, ModelConfig()), info, config or SharpConfig())
    for i in range(int(10 * seconds)):
        T_world_camera = room.pose(i * 0.1)
        image, truth['depth'] = room.render(k, T_world_camera)
        stamp_ns = (i + 1) * 10**8 - (15 * 10**7 if i == late else 0)
        frame = Frame(image, k, stamp_ns, 'camera', world_frame='odom')
        if place:
            frame = frame.placed(T_world_camera, 'odom')
        yield pipeline.process(frame, set()), truth['depth'], T_world_camera


def ratio(depth, truth):
    return np.nanmedian(depth / truth)


def test_parallax_over_metric_poses_brings_predicted_depth_to_metres():
    results = list(drive('nano', bias=1.4, wobble=0.15))
    off = np.array([ratio(result.depth, truth) for result, truth, _ in results])
    assert abs(off[0] - 1) > 0.2
    assert np.abs(off[20:] - 1).max() < 0.05
    assert results[-1][0].motion is None  # its pose is nobody's business
    sources = results[-1][0].scale.sources  # of the first images, then of several at once
    assert sources.get('parallax', 0) + sources['stereo'] > 10


def test_a_frame_out_of_order_does_not_cost_the_scale():
    results = list(drive('nano', bias=1.4, seconds=2.5, late=20))
    off = np.array([ratio(result.depth, truth) for result, truth, _ in results])
    assert np.abs(off[18:] - 1).max() < 0.05
    assert results[20][0].mapped


def test_a_frame_out_of_order_does_not_cost_the_path():
    results = list(drive('sensor', place=False, seconds=2.0, late=10))
    assert results[10][0].frame.T_world_camera is None
    first, last = results[0], results[-1]
    there = inverse(first[0].frame.T_world_camera) @ last[0].frame.T_world_camera
    truth = inverse(first[2]) @ last[2]
    assert np.linalg.norm(there[:3, 3] - truth[:3, 3]) < 0.03  # 3 cm


def test_measured_depth_is_taken_as_it_is():
    result, truth, _ = next(iter(drive('sensor', bias=1.4)))
    assert result.scale is None
    assert ratio(result.depth, truth) == pytest.approx(1.4, abs=1e-3)


def test_without_a_pose_visual_odometry_places_the_camera_and_maps():
    results = list(drive('sensor', place=False))
    assert all(result.motion.state == 'tracking' for result, _, _ in results)
    begin = [result.mapped for result, _, _ in results].index(True)  # the floor is found
    assert begin < 20  # 2 s, 1 m
    results = results[begin:]
    first = results[0][2]
    for result, _, T_world_camera in results:
        assert result.mapped
        there = inverse(results[0][0].frame.T_world_camera) @ result.frame.T_world_camera
        truth = inverse(first) @ T_world_camera
        assert np.linalg.norm(there[:3, 3] - truth[:3, 3]) < 0.03  # 3 cm of some 2 m


def test_a_lost_camera_maps_nothing():
    results = drive('sensor', place=False, seconds=1.0)
    pipeline = make_pipeline()
    for result, _, _ in results:
        last = result.frame
    blank = replace(last, image=np.full_like(last.image, 90), T_world_camera=None)
    blank = replace(blank, depth=np.full((240, 320), 2, np.float32))
    result = pipeline.process(blank, {OCCUPANCY})
    assert not result.mapped
    assert result.grid is None
    assert result.frame.T_world_camera is None


def test_a_constant_scale_is_used_as_given():
    config = SharpConfig(scale=ScaleConfig(constant=0.5))
    result, truth, _ = next(iter(drive('nano', bias=2.0, config=config)))
    assert ratio(result.depth, truth) == pytest.approx(1, abs=1e-3)
    assert float(result.gaussians.means[:, 2].median()) == pytest.approx(np.median(truth), rel=0.1)


def test_measured_depth_is_published_as_measured():
    _, info = load_predictor('sensor')
    room = Room(0)
    k = Intrinsics.from_hfov(1.2, 161, 121)  # odd: no Gaussian for the last row and column
    image, depth = room.render(k, room.pose(0.0))
    depth[:20], depth[20:25] = np.inf, np.nan
    pipeline = Pipeline(Engine(SensorPredictor(), ModelConfig()), info, SharpConfig(views={}))
    result = pipeline.process(Frame(image, k, 0, 'camera', depth=depth), {POINTS})
    expected = clean_depth(depth, SharpConfig().point_cloud)
    np.testing.assert_array_equal(result.depth, expected)
    assert np.isinf(result.depth[:19]).all()  # nothing in range is known, unlike no measurement
    assert np.isnan(result.cloud[:25, :, 2]).all()


def test_numbers_that_are_no_depth_leave_the_rest_of_a_measured_frame_alone():
    k = Intrinsics.from_hfov(1.2, 160, 120)
    depth = np.full((120, 160), 2.0, np.float32)
    depth[:2, :10] = [1e-45, 1e-30, 1e-4, 1e6, 3e38, -3e38, -1e-45, np.inf, -np.inf, np.nan]
    gaussians = Engine(SensorPredictor(), ModelConfig()).predict(
        np.zeros((120, 160, 3), np.uint8), k, depth
    )
    z = gaussians.means[:, 2].reshape(60, 80)
    assert torch.isfinite(gaussians.means).all()
    torch.testing.assert_close(z[1:], torch.full((59, 80), 2.0))


def test_gaussians_of_measured_depth_lie_on_a_slanted_plane():
    k = Intrinsics.from_hfov(1.2, 161, 121)
    normal = np.array([0.3, 0.4, 1.0])
    depth = 2 / (np.dstack([k.rays(), np.ones((121, 161))]) @ normal)
    image = np.zeros((121, 161, 3), np.uint8)
    gaussians = SensorPredictor()(image, k, depth.astype(np.float32))
    np.testing.assert_allclose(gaussians.means.numpy() @ normal, 2, atol=1e-5)
    depth[:, 101:] += 1  # a step within blocks: both sides stay, nothing lies between
    gaussians = SensorPredictor()(image, k, depth.astype(np.float32))
    z = gaussians.means[:, 2].reshape(60, 80).numpy()
    small = k.cropped(0, 0, 160, 120).resized(80, 60)
    centres = 2 / (np.dstack([small.rays(), np.ones((60, 80))]) @ normal)
    off = np.minimum(abs(z - centres), abs(z - centres - 1))
    assert off.max() < 0.05


def test_sensor_model_without_depth_says_what_to_do():
    with pytest.raises(InputError, match='remap the topic "depth"'):
        make_pipeline().process(replace(wall_frame(), depth=None), {GAUSSIANS})


def test_network_that_returns_nan_is_caught():
    def broken(image, intrinsics, depth=None):
        gaussians = gaussians_from_depth(
            torch.ones(1, 120, 160), torch.zeros(3, 120, 160), intrinsics
        )
        gaussians.means[7, 2] = float('nan')
        return gaussians

    with pytest.raises(InputError, match='not finite'):
        Engine(broken, ModelConfig()).predict(wall_frame().image, INTRINSICS)


def test_names_of_models():
    assert model_names() == ['nano', 'sensor', 'sharp']
    with pytest.raises(ConfigError, match='nano, sensor, sharp'):
        load_predictor('no_such_model')


def test_corrupt_weights_are_refused(tmp_path):
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(b'not a checkpoint')
    with pytest.raises(CheckpointError):
        load_predictor(str(path))


def test_a_missing_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ConfigError, match='not available'):
        choose_device('cuda')
    assert choose_device('cpu') == 'cpu'


def test_gaussians_of_a_depth_image_reproject_onto_their_cells():
    k = Intrinsics(100.0, 90.0, 10.2, 7.7, 20, 16)
    z = torch.rand(2, 16, 20) * 4 + 1
    gaussians = gaussians_from_depth(z, torch.rand(3, 16, 20), k)
    means = gaussians.means.reshape(2, 16, 20, 3)
    u = means[..., 0] / means[..., 2] * k.fx + k.cx
    v = means[..., 1] / means[..., 2] * k.fy + k.cy
    assert (u - torch.arange(20)).abs().max() < 1e-4
    assert (v - torch.arange(16)[:, None]).abs().max() < 1e-4
    assert torch.equal(means[..., 2], z)


def test_missing_depth_becomes_invisible_gaussians():
    z = torch.full((1, 4, 4), 2.0)
    z[0, 1, 2] = 0.0
    z[0, 3, 3] = float('nan')
    gaussians = gaussians_from_depth(z, torch.zeros(3, 4, 4), Intrinsics.from_hfov(1.0, 4, 4))
    assert int((gaussians.opacities == 0).sum()) == 2
    assert torch.isfinite(gaussians.means).all()


def test_where_a_network_sees_nothing_rays_clear_and_borders_invent_no_depth():
    cells = torch.full((1, 6, 8), 3.0)
    cells[0, :3], cells[0, 5] = torch.inf, torch.nan
    camera = Intrinsics.from_hfov(1.0, 32, 24)
    gaussians = gaussians_from_depth(cells, torch.rand(3, 6, 8), camera.resized(8, 6))
    assert torch.equal(gaussians.empty.reshape(6, 8), cells[0] == torch.inf)
    assert torch.isfinite(gaussians.means).all()
    scaled = gaussians.scaled(1.5).transformed(np.eye(4))
    depth = depth_from_gaussians(scaled, 32, 24)
    assert (depth[:12] == np.inf).all()
    np.testing.assert_allclose(depth[12:20], 4.5, rtol=1e-6)
    assert np.isnan(depth[20:]).all()
    assert (depth_from_gaussians(gaussians, 8, 6)[:3] == np.inf).all()
    assert gaussians.select(slice(0, 10)).empty.all()


def test_pixels_the_sensor_did_not_measure_stay_unknown():
    frame = wall_frame()
    frame.depth[40:80, 50:100] = 0.0
    frame.depth[:10] = np.nan
    depth = make_pipeline().process(frame, set()).depth
    assert np.isnan(depth[42:78, 52:98]).all()
    assert np.isnan(depth[:9]).all()
    np.testing.assert_allclose(depth[20:38, 5:150], 2.0, atol=1e-5)
