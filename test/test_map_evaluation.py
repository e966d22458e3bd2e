"""What `eval maps` measures, in a room that is known exactly and with errors that are known."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
import json
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from sharp_ros import se3
from sharp_ros.apps.cli import main
from sharp_ros.config import ModelConfig, OccupancyConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import InputError
from sharp_ros.evaluation import maps as module
from sharp_ros.evaluation.floor_plans import RecordedMap, RoomMap, Visibility
from sharp_ros.evaluation.maps import DisturbedPredictor, evaluate_map, map_config, summary
from sharp_ros.mapping.occupancy import FREE, OccupancyGrid2D, OCCUPIED, UNKNOWN
from sharp_ros.models import MODELS
from sharp_ros.network.predictor import SensorPredictor
from sharp_ros.pipeline import Pipeline
from sharp_ros.sources import SyntheticSource
from sharp_ros.synthetic.disturbance import disturbed

BAND = OccupancyConfig()
SHIFT = np.array([0.02, 0.01, 0.0])  # so that no wall lies between two cells
T_MAP_WORLD = se3.transform(np.eye(3), SHIFT)


@pytest.fixture(scope='module')
def source():
    return SyntheticSource(size=(160, 120), rate_hz=5)


@pytest.fixture(scope='module')
def frames(source):
    """The first 2.4 s of the drive."""
    return list(islice(source.frames(), 12))


def pipeline(predictor=None):
    info = MODELS['sensor'] if predictor is None else module._DISTURBED
    predictor = predictor or SensorPredictor(stride=1)
    return Pipeline(Engine(predictor, ModelConfig()), info, map_config())


def square(cells=400):
    """An empty grid with the origin in its middle."""
    side = BAND.voxel_size
    corner = (-cells / 2 * side, -cells / 2 * side)
    return OccupancyGrid2D(np.full((cells, cells), UNKNOWN, np.int8), side, corner)


@pytest.fixture(scope='module')
def plan(source):
    """The true floor plan of the shifted room."""
    return RoomMap(source.room, BAND).grid(square(), T_MAP_WORLD)


# --- disturbed depth -----------------------------------------------------------------------------


def test_disturbed_depth_has_the_noise_and_the_factors_it_promises():
    rng, depth = np.random.default_rng(0), np.full((48, 64), 2.0, np.float32)
    ratios = np.array([disturbed(depth, rng, 0.15) / depth for _ in range(400)])
    factors = ratios.mean((1, 2))
    assert 0.84 < factors.min() < 0.87
    assert 1.13 < factors.max() < 1.16
    assert factors.std() == pytest.approx(0.15 / math.sqrt(3), rel=0.1)  # uniform
    noise = ratios / factors[:, None, None] - 1
    assert noise.std() == pytest.approx(0.05, rel=0.02)
    neighbours = np.mean(noise[:, :, 1:] * noise[:, :, :-1]) / noise.var()
    assert abs(neighbours) < 0.02  # every pixel has its own


def test_disturbed_edges_are_soft_and_unknown_depth_stays_unknown():
    depth = np.full((120, 640), 1.0, np.float32)
    depth[:, 320:] = 3.0
    depth[:, :160] = 0.0
    depth[0, 400] = np.nan
    seen = disturbed(depth, np.random.default_rng(0), 0.0)
    assert seen.dtype == np.float32
    assert np.all(seen[:, :160] == 0)
    assert seen[0, 400] == 0
    across = np.median(seen, 0)
    assert across[300] == pytest.approx(1, abs=0.03)
    assert across[160] == pytest.approx(1, abs=0.03)  # what is unknown draws nothing to itself
    assert 1.2 < across[319] < 2 < across[320] < 2.8


# --- the true floor plan -------------------------------------------------------------------------


def test_floor_plan_is_that_of_the_room(source, plan):
    bounds = (-10 - SHIFT[0], -10 - SHIFT[1], 10 - SHIFT[0], 10 - SHIFT[1])
    truth = source.room.occupancy(BAND.voxel_size, BAND.min_height, BAND.max_height, bounds)
    assert (plan.cells == OCCUPIED).sum() > 1000
    assert np.mean((plan.cells == truth.data)[truth.data == OCCUPIED]) > 0.995
    assert np.mean(plan.cells == truth.data) > 0.999


def test_floor_plan_turns_with_the_frame_of_the_map(source, plan):
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    T_map_world = se3.transform(quarter, quarter @ SHIFT)
    turned = RoomMap(source.room, BAND).grid(square(), T_map_world)
    # row along +y, column along +x: a quarter turn from x to y is one of the array backwards
    assert np.mean(np.rot90(plan.cells, -1) == turned.cells) > 0.9995


def test_the_robot_itself_is_neither_mapped_nor_true_behind_a_mask(frames, monkeypatch):
    given, frames_of_the_room = [], frames

    def recorded(frames, pipeline, true_map, *, visual):
        given.extend((frame, pipeline.process(frame, ()).depth) for frame in frames)
        pipeline.reset()
        return evaluate_map(iter(frames_of_the_room), pipeline, true_map, visual=visual)

    monkeypatch.setattr(module, 'evaluate_map', recorded)
    recording = SimpleNamespace(name='room', note='', frames=lambda: iter(frames[:2]))
    module.evaluate_maps(
        recording,
        ModelConfig(),
        lambda frames: frames,
        depth='true',
        visual=False,
        mask='80,0 160,0 160,120 80,120',
    )
    assert len(given) == 2
    for frame, depth in given:
        assert np.isnan(frame.depth[:, 80:]).all()  # which is the truth
        assert np.isnan(depth[:, 80:]).all()
        assert np.isfinite(depth[:, :80]).all()


def test_cells_count_where_true_depth_sees_them(frames, plan):
    visibility = Visibility(BAND)
    assert visibility.compare(plan, plan) == (None, 0)
    for frame in frames:
        visibility.add(frame.depth, frame.intrinsics, T_MAP_WORLD @ frame.T_world_camera)
    assert visibility.compare(plan, plan) == (1.0, 0)
    off = [replace(plan, cells=np.roll(plan.cells, cells, 1)) for cells in (1, 4)]
    (near, _), (far, behind) = (visibility.compare(grid, plan) for grid in off)
    assert far < 0.85 < near < 0.97
    assert behind > 0  # free cells beyond the true wall
    nothing = replace(plan, cells=np.full_like(plan.cells, FREE))
    assert visibility.compare(nothing, plan)[0] == 0


# --- runs ----------------------------------------------------------------------------------------


def test_true_depth_and_given_poses_map_the_room_as_it_is(source, frames):
    run = evaluate_map(frames, pipeline(), RoomMap(source.room, BAND), visual=False)
    assert run.numbers['occupancy_iou'] > 0.85
    assert run.numbers['free_behind_walls'] == 0
    assert run.numbers['abs_rel'] < 0.01
    assert 'ate_rmse_m' not in run.numbers
    np.testing.assert_allclose(run.estimate, run.truth, atol=1e-9)


def test_own_odometry_is_judged_in_the_frame_that_it_chose(source, frames):
    run = evaluate_map(frames, pipeline(), RoomMap(source.room, BAND), visual=True)
    assert run.numbers['lost_frames'] == 0
    begin = run.numbers['frames_before_map']  # while it looks for the floor
    assert 0 < begin < 9
    assert run.numbers['path_length_m'] == pytest.approx(0.1 * (11 - begin), abs=0.05)
    assert run.numbers['ate_rmse_m'] < 0.03
    assert run.numbers['occupancy_iou'] > 0.6
    np.testing.assert_allclose(run.estimate[0, :2, 3], run.truth[0, :2, 3], atol=1e-9)
    assert run.numbers['floor_error_m'] < 0.05
    assert run.numbers['level_error_deg'] < 1


def test_disturbed_depth_is_steadied_as_that_of_a_network(source, frames):
    stand_in = DisturbedPredictor(0)
    run = evaluate_map(
        stand_in.shown(frames), pipeline(stand_in), RoomMap(source.room, BAND), visual=False
    )
    assert 0.02 < run.numbers['abs_rel'] < 0.15
    assert run.numbers['scale_std'] < 0.05  # 0.087 as it comes


def test_frames_without_truth_are_left_out_and_none_is_an_error(source, frames):
    holes = [replace(f, depth=None) if i % 3 == 0 else f for i, f in enumerate(frames)]
    run = evaluate_map(holes, pipeline(), RoomMap(source.room, BAND), visual=False)
    assert run.numbers['frames'] == 8
    blind = [replace(f, T_world_camera=None) for f in frames]
    with pytest.raises(InputError, match='groundtruth'):
        evaluate_map(blind, pipeline(), RecordedMap(BAND), visual=True)


def test_where_no_map_ever_begins_the_error_says_why(source, frames):
    def refusal(shown):
        with pytest.raises(InputError) as caught:
            evaluate_map(shown, pipeline(), RoomMap(source.room, BAND), visual=True)
        assert caught.value.reason == 'nothing_mapped'
        return str(caught.value)

    short = frames[:2]  # too few to be sure of the floor
    assert 'none of 2 frames could be used; the last one: floor not found' in refusal(short)
    black = [replace(frame, image=np.zeros_like(frame.image)) for frame in frames[:3]]
    assert 'found no pose for any of 3 frames; it needs images with texture' in refusal(black)
    late = [replace(f, stamp_ns=f.stamp_ns + 10**9) for f in short]
    both = refusal([black[0], *late])
    assert 'found no pose for 1, and 2 could not be used; the last of these: floor not' in both


def test_worst_is_the_largest_error_but_the_smallest_overlap():
    runs = [
        {'ate_rmse_m': 0.1, 'occupancy_iou': 0.9, 'scale_median': 1.1, 'rpe_m_per_s': None},
        {'ate_rmse_m': 0.3, 'occupancy_iou': 0.8, 'scale_median': 0.8, 'rpe_m_per_s': None},
        {'ate_rmse_m': 0.2, 'occupancy_iou': None, 'scale_median': 1.0, 'rpe_m_per_s': None},
    ]
    result = summary(runs)
    assert result['ate_rmse_m'] == {'mean': 0.2, 'median': 0.2, 'worst': 0.3}
    assert result['occupancy_iou'] == {'mean': 0.85, 'median': 0.85, 'worst': 0.8}
    assert result['scale_median']['worst'] == 0.8
    assert result['rpe_m_per_s'] == {'mean': None, 'median': None, 'worst': None}


# --- command line --------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def recording(tmp_path_factory, frames):
    """An RGB-D folder whose world is tilted."""
    folder = tmp_path_factory.mktemp('rgbd')
    tilt = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    lines, poses = [], []
    for i, frame in enumerate(frames):
        name = f'{i}.png'
        (folder / 'rgb').mkdir(exist_ok=True)
        (folder / 'depth').mkdir(exist_ok=True)
        cv2.imwrite(str(folder / 'rgb' / name), frame.image[..., ::-1])
        depth = np.rint(frame.depth * 1000).astype(np.uint16)
        cv2.imwrite(str(folder / 'depth' / name), depth)
        lines.append(f'{i / 5} rgb/{name}')
        T = se3.transform(tilt, np.array([1.0, 2, 3])) @ frame.T_world_camera
        w, x, y, z = se3.quat_from_matrix(T[:3, :3])
        poses.append(' '.join(f'{v:.9f}' for v in (i / 5, *T[:3, 3], x, y, z, w)))
    (folder / 'rgb.txt').write_text('\n'.join(lines))
    (folder / 'depth.txt').write_text('\n'.join(lines).replace('rgb/', 'depth/'))
    (folder / 'groundtruth.txt').write_text('\n'.join(poses))
    k = frames[0].intrinsics
    (folder / 'camera.yaml').write_text(
        f'{{width: {k.width}, height: {k.height}, fx: {k.fx}, fy: {k.fy}, cx: {k.cx}, '
        f'cy: {k.cy}, depth_scale: 1000}}'
    )
    return folder


@pytest.mark.parametrize('former', [False, True])
def test_recording_is_compared_with_the_map_of_its_own_truth(recording, former, tmp_path, capsys):
    file, pictures = tmp_path / 'map.json', tmp_path / 'pictures'
    arguments = ['--json', str(file), '--pictures', str(pictures)]
    command = ['eval', str(recording), '--map'] if former else ['eval', 'maps', str(recording)]
    assert main([*command, '--depth', 'true', *arguments]) == 0
    report = json.loads(file.read_text())
    assert report['truth'] == 'floor plan from measured depth and poses'
    (run,) = report['runs']
    assert run['frames'] == 12
    assert run['ate_rmse_m'] < 0.03
    assert run['occupancy_iou'] > 0.6
    assert 'free_behind_walls' not in run
    picture = cv2.imread(str(pictures / f'{recording.name}.png'))
    assert picture.shape[1] > 1000
    assert 'ate_rmse_m' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['synthetic', '--seeds', '2'], 'add --map'),
        (['synthetic', '--poses', 'source'], 'add --map'),
        (['synthetic', '--map', '--views'], 'choose one'),
        (['synthetic', '--map', '--seeds', '0'], 'number of rooms'),
        (['maps', 'synthetic', '--seeds', '0'], 'number of rooms'),
        (['motorcycle', '--map', '--seeds', '2'], 'recordings have none'),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(arguments, message, capsys):
    assert main(['eval', *arguments]) == 1
    assert message in capsys.readouterr().err
