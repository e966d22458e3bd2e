from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.gaussians import Gaussians
from sharp_ros.se3 import inverse, look_at
from sharp_ros.trajectory import camera_path, load_keyframes, measure, STEPS, TRAJECTORIES

PHOTO = Intrinsics.centred(512, 640, 480)
UP, FORWARD = np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, 2.0])
SHARPS = ('swipe', 'shake', 'rotate', 'rotate_forward')


@pytest.fixture(scope='module')
def golden():
    """What SHARP itself made of a scene (docs/conventions.md)."""
    with np.load(Path(__file__).parent / 'data' / 'golden_tiny.npz') as file:
        keys = [key for key in file if key.startswith('traj.')]
        return {key: file[key] for key in [*keys, 'out.mean_vectors']}


def points(means):
    means = torch.as_tensor(np.asarray(means, np.float32)).reshape(-1, 3)
    return Gaussians(means, None, None, torch.ones(len(means)), torch.ones(len(means), 3))


def scene(nearest=1.5):
    rng = np.random.default_rng(0)
    depth = nearest * np.exp(rng.uniform(0, 1.5, 2000))
    return points(np.stack([*rng.normal(0, 1, (2, 2000)), depth], -1))


@pytest.mark.parametrize('name', SHARPS)
def test_paths_are_those_of_sharp(golden, name):
    # Unprojection keeps the depth, and no path depends on more.
    path = camera_path(name, points(golden['out.mean_vectors']), PHOTO)
    assert path.shape == (60, 4, 4)
    np.testing.assert_allclose(path[:, :3, 3], golden[f'traj.{name}.eye'], atol=1e-8)
    extrinsics = golden[f'traj.{name}.extrinsics']  # of every tenth
    np.testing.assert_allclose(inverse(path[::10]), extrinsics, atol=1e-7)


def test_reach_is_that_of_sharp(golden):
    reach = measure(points(golden['out.mean_vectors']), PHOTO)
    near, focus, _ = golden['traj.depth_q001_q100_q999']
    np.testing.assert_allclose([reach.near, reach.focus], [near, focus], rtol=1e-7)
    sideways, _, forwards = golden['traj.max_offset_xyz']
    np.testing.assert_allclose([reach.sideways, reach.forwards], [sideways, forwards], rtol=1e-7)


@pytest.mark.parametrize('count', [1, 2, 3, 1001])
def test_quantiles_are_those_of_torch(count):
    depth = torch.from_numpy(np.random.default_rng(count).uniform(1, 9, count)).float()
    means = torch.stack([depth, depth, depth], -1)
    reach = measure(points(torch.cat([means, -means, means * torch.nan])), PHOTO)
    assert reach.near == float(depth.quantile(0.001))
    assert reach.focus == float(depth.quantile(0.1))


@pytest.mark.parametrize('name', TRAJECTORIES)
@pytest.mark.parametrize('steps', [None, 1, 2, 17])
def test_paths_have_as_many_rigid_poses_as_asked_for(name, steps):
    path = camera_path(name, scene(), PHOTO, steps)
    assert len(path) == (steps or STEPS)
    np.testing.assert_allclose(
        path @ inverse(path), np.tile(np.eye(4), (len(path), 1, 1)), atol=1e-12
    )
    assert (np.linalg.det(path[:, :3, :3]) > 0).all()


@pytest.mark.parametrize('name', TRAJECTORIES)
def test_paths_scale_with_the_scene(name):
    eyes = {near: camera_path(name, scene(near), PHOTO)[:, :3, 3] for near in (3.0, 6.0)}
    assert np.abs(eyes[3.0]).max() > 0.01
    np.testing.assert_allclose(eyes[6.0], 2 * eyes[3.0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize('name', ['orbit', 'line', 'rotate_forward'])
def test_loops_begin_and_end_at_the_viewpoint_of_the_photo(name):
    path = camera_path(name, scene(), PHOTO)
    np.testing.assert_allclose(path[[0, -1]], [np.eye(4), np.eye(4)], atol=1e-9)
    steps = np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1)
    assert steps.max() < 0.15 * steps.sum()  # no jump


def test_orbit_looks_at_the_foreground_from_a_constant_distance():
    centre = np.array([0, 0, measure(scene(), PHOTO).focus])
    path = camera_path('orbit', scene(), PHOTO, 61)
    arm = centre - path[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(arm, axis=1), centre[2], rtol=1e-9)
    np.testing.assert_allclose(path[:, :3, 2] * centre[2], arm, atol=1e-9)
    assert np.degrees(np.arctan2(-arm[:, 0], arm[:, 2])).max() == pytest.approx(3, abs=0.01)
    assert np.degrees(np.arcsin(arm[:, 1] / centre[2])).max() == pytest.approx(1.5, abs=0.01)
    assert (arm[:, 1] > -1e-9).all()  # never below the photo, where floors are


def test_line_stays_on_the_optical_axis_in_front_of_everything():
    path = camera_path('line', scene(), PHOTO)
    assert (path[:, :3, :3] == np.eye(3)).all()
    assert (path[:, :2, 3] == 0).all()
    assert (path[:, 2, 3] >= 0).all()
    assert 0.1 * 1.5 < path[:, 2, 3].max() < 0.5 * 1.5


@pytest.mark.parametrize('means', [[], [[0, 0, -1], [0, 0, np.nan], [0, 0, 0]]])
@pytest.mark.parametrize('name', TRAJECTORIES)
def test_scene_without_anything_in_front_is_refused(name, means):
    with pytest.raises(InputError, match='in front of the camera'):
        camera_path(name, points(means), PHOTO)


@pytest.mark.parametrize('steps', [0, -1, 2.0, True, 10**9])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ConfigError, match='steps must be'):
        camera_path('orbit', scene(), PHOTO, steps)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match='swipe, shake, rotate, rotate_forward, orbit, line'):
        camera_path('obrit', scene(), PHOTO)


# --- keyframes ----------------------------------------------------------------------------------


def written(tmp_path, content):
    path = tmp_path / 'path.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def matrix(x=0.0):
    T = look_at(np.array([x, 0.3, 0]), np.array([0, 0, 3.0]), UP)
    return {'T_world_camera': T.tolist()}


def test_path_survives_a_file(tmp_path):
    path = camera_path('orbit', scene(), PHOTO, 20)
    frames = [{'T_world_camera': T.tolist()} for T in path]
    file = written(tmp_path, {'frames': frames, 'steps': 20})
    np.testing.assert_allclose(camera_path(str(file), scene(), PHOTO), path, atol=1e-9)


def test_keyframes_of_both_kinds_are_reached_and_evenly_interpolated(tmp_path):
    eyes = [np.array([x, 0, 0.0]) for x in (0, 1, 3)]
    frames = [{'eye': eye.tolist(), 'target': (eye + FORWARD).tolist()} for eye in eyes]
    frames[1] = {'T_world_camera': look_at(eyes[1], eyes[1] + FORWARD, UP).tolist()}
    path = load_keyframes(written(tmp_path, {'frames': frames}), 9)
    np.testing.assert_allclose(path[:, 0, 3], [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3])
    np.testing.assert_allclose(path[:, :3, :3], np.tile(np.eye(3), (9, 1, 1)), atol=1e-9)


def test_up_turns_the_camera(tmp_path):
    frame = {'eye': [0, 0, 0], 'target': [0, 0, 1], 'up': [1, 0, 0]}
    path = load_keyframes(written(tmp_path, {'frames': [frame]}), 1)
    np.testing.assert_allclose(path[0, :3, 1], [-1, 0, 0], atol=1e-9)  # the camera's down


@pytest.mark.parametrize(
    ('keyframes', 'said', 'asked', 'expected'),
    [(2, None, None, 60), (99, None, None, 99), (2, 7, None, 7), (2, 7, 5, 5), (1, None, 3, 3)],
)
def test_steps_asked_for_go_before_those_of_the_file(tmp_path, keyframes, said, asked, expected):
    content = {'frames': [matrix(0.01 * i) for i in range(keyframes)]}
    file = written(tmp_path, content | ({} if said is None else {'steps': said}))
    assert len(load_keyframes(file, asked)) == expected


def test_scene_behind_the_photo_needs_only_keyframes(tmp_path):
    file = written(tmp_path, {'frames': [matrix()]})
    assert len(camera_path(str(file), points([[0, 0, -4]]), PHOTO)) == STEPS


def changed(row, column, value):
    frame = matrix()
    frame['T_world_camera'][row][column] = value
    return {'frames': [matrix(), frame]}


EYE = {'eye': [0, 0, 0], 'target': [0, 0, 1]}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"frames": [', 'cannot be read'),
        ('[' * 100_000, 'cannot be read'),
        ([], 'needs {"frames"'),
        ({'poses': []}, 'needs {"frames"'),
        ({'frames': [matrix()], 'fps': 30}, 'nothing else'),
        ({'frames': []}, 'at least one keyframe'),
        ({'frames': {}}, 'at least one keyframe'),
        ({'frames': [matrix(), 5]}, 'keyframe 1 needs "T_world_camera"'),
        ({'frames': [{'eye': [0, 0, 0]}]}, 'keyframe 0 needs'),
        ({'frames': [matrix() | EYE]}, 'keyframe 0 needs'),
        ({'frames': [{'T_world_camera': [[1, 0], [0]]}]}, '4x4 finite numbers'),
        ({'frames': [{'T_world_camera': np.eye(3).tolist()}]}, '4x4 finite numbers'),
        (changed(0, 3, 'a'), '4x4 finite numbers'),
        (changed(0, 3, np.nan), 'keyframe 1: "T_world_camera" must be 4x4 finite numbers'),
        (changed(2, 3, np.inf), '4x4 finite numbers'),
        (changed(1, 1, 2.0), 'must be rigid'),
        (changed(3, 0, 1.0), 'must be rigid'),
        ({'frames': [{'T_world_camera': np.diag([-1, 1, 1, 1]).tolist()}]}, 'must be rigid'),
        ({'frames': [EYE | {'eye': [0, 0]}]}, '"eye" must be 3 finite numbers'),
        ({'frames': [EYE | {'target': [0, 0, 0]}]}, 'keyframe 0: look_at needs target != eye'),
        ({'frames': [EYE | {'up': [0, 0, 1]}]}, 'off the line of sight'),
        ({'frames': [matrix()], 'steps': 0}, 'steps must be a whole number'),
        ({'frames': [matrix()], 'steps': '9'}, 'steps must be a whole number'),
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path, content, message):
    with pytest.raises(InputError) as error:
        load_keyframes(written(tmp_path, content))
    assert message in str(error.value)
    assert 'path.json' in str(error.value)


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / 'none.json', tmp_path):
        with pytest.raises(InputError, match='cannot be read'):
            load_keyframes(path)
