"""Level and floor from many frames, in rooms whose first image misleads."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest
from test_sources import unlit

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import ModelConfig, PoseConfig, SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.localization.gravity import level_from_depth, level_pose
from sharp_ros.localization.level import floor_not_found, LevelEstimator
from sharp_ros.models import MODELS
from sharp_ros.network.predictor import SensorPredictor
from sharp_ros.pipeline import CLEARING, OCCUPANCY, Pipeline
from sharp_ros.se3 import inverse
from sharp_ros.synthetic import first_look, FIRST_LOOKS, plane_depth, Room

K = Intrinsics.from_hfov(1.2, 160, 120)
RATE = 5.0
# Any fixed frame will do as the world of the poses; this one is far from level.
T_ODOM_WORLD = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]


@pytest.fixture(scope='module')
def room():
    """One of those that no number in `level.py` was chosen on."""
    room = Room(7)
    room.__dict__['_atlas'] = unlit(room)
    return room


def odom_from_world():
    T = np.eye(4)
    T[:3, :3] = T_ODOM_WORLD * np.linalg.det(T_ODOM_WORLD)
    T[:3, 3] = (0.3, -0.2, 0.5)
    return T


def levels(room, name, duration=8.0, estimator=None):
    """The estimate after each frame, and how wrong it is in degrees and metres."""
    estimator, T = estimator or LevelEstimator(), odom_from_world()
    for pose in first_look(room, name, duration, RATE):
        estimator.observe(room.render(K, pose)[1], K, T @ pose)
        level = estimator.level
        off = math.degrees(math.acos(min(float(level.up @ T[:3, 2]), 1.0)))
        yield level, off, level.floor - float(T[:3, 3] @ level.up)


def deviation(level):
    return math.degrees(math.sqrt(np.linalg.eigvalsh(level.covariance[:2, :2])[-1]))


# --- what must not become the floor --------------------------------------------------------------


@pytest.mark.parametrize('name', FIRST_LOOKS)
def test_no_other_surface_becomes_the_floor(room, name):
    believed = [(off, floor) for level, off, floor in levels(room, name) if not level.doubt]
    if name != '20 degrees up':  # which may show too little of the floor
        assert believed
    for off, floor in believed:
        assert off < 1.0  # degree
        assert abs(floor) < 0.03  # metres


@pytest.mark.parametrize('name', ['coffee table', 'dining table', 'counter', 'wall'])
def test_what_fills_the_first_image_is_not_believed_while_nothing_else_is_seen(room, name):
    for level, _, _ in list(levels(room, name, 0.2))[: round(RATE)]:
        assert level.doubt


def test_the_first_image_alone_is_misled(room):
    """Which is why it does not decide."""
    pose = first_look(room, 'coffee table', 0.2, RATE)[0]
    height = level_from_depth(room.render(K, pose)[1], K)[2, 3]
    assert pose[2, 3] - height > 0.4  # metres that the floor seems too high


# --- what is known, and when ---------------------------------------------------------------------


def test_nothing_is_known_before_anything_is_seen():
    level = LevelEstimator().level
    assert level.doubt
    assert deviation(level) > 90


def test_knowledge_grows_with_the_views(room):
    found = [level for level, _, _ in levels(room, 'drive', 4.0)]
    assert deviation(found[0]) > 90
    assert deviation(found[-1]) < 0.5
    assert math.sqrt(found[-1].covariance[2, 2]) < 0.02
    assert found[0].extent < found[-1].extent


def test_a_camera_that_stands_still_cannot_tell_until_something_says_what_is_up(room):
    pose = T = odom_from_world() @ room.pose(0.0)
    depth = room.render(K, room.pose(0.0))[1]
    estimator = LevelEstimator()
    for _ in range(20):
        estimator.observe(depth, K, pose)
    assert 'move the camera' in estimator.level.doubt
    estimator.observe_up(room.pose(0.0)[2, :3], math.radians(1), pose)
    level = estimator.level
    assert not level.doubt
    height = level.pose(T)[2, 3]
    assert height == pytest.approx(room.pose(0.0)[2, 3], abs=0.03)


def test_a_given_direction_excludes_what_faces_another(room):
    pose = odom_from_world() @ room.pose(0.0)
    estimator = LevelEstimator()
    estimator.observe(room.render(K, room.pose(0.0))[1], K, pose)
    estimator.observe_up(np.array([1.0, 0.0, 0.0]), math.radians(2), pose)  # on its side
    assert estimator.level.up @ pose[:3, 0] > math.cos(math.radians(10))


def test_a_wall_alone_shows_no_floor():
    estimator = LevelEstimator()
    for x in np.arange(0, 2, 0.2):
        pose = np.eye(4)
        pose[0, 3] = x
        estimator.observe(plane_depth(K, 2.0), K, pose)
    assert estimator.level.doubt


def test_a_plane_at_the_wrong_height_is_no_floor_where_the_height_is_known(room):
    for height, right in ((1.05, True), (0.6, False)):
        estimator = LevelEstimator(height)
        level = [found for found, _, _ in levels(room, 'drive', 4.0, estimator)][-1]
        assert (not level.doubt) == right
        assert ('scale.camera_height says 0.60 m' in level.doubt) != right
        estimator.know_height(1.65 - height)  # corrected, or spoilt, while the node runs
        assert bool(estimator.level.doubt) == right


def test_what_helps_is_said():
    error = floor_not_found(LevelEstimator().level, ['pose.base_frame', 'imu.enabled'])
    assert error.reason == 'floor_not_found'
    for words in ('floor not found: ', 'tilt the camera down', 'pose.base_frame'):
        assert words in str(error)


def test_no_depth_teaches_nothing():
    estimator = LevelEstimator()
    for depth in (np.zeros((120, 160), np.float32), np.full((120, 160), np.nan, np.float32)):
        estimator.observe(depth, K, np.eye(4))
    assert estimator.level.extent == 0


@pytest.mark.parametrize('up', [(0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (0.6, 0.0, 0.8)])
def test_the_pose_in_a_level_frame_is_rigid_and_over_the_origin(up):
    pose = level_pose(np.array(up), 1.3)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pose[2, :3], up, atol=1e-12)
    np.testing.assert_allclose(pose[:3, 3], [0, 0, 1.3])


# --- in the pipeline -----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def lit():
    return Room(7)


CAMERA = Intrinsics.from_hfov(1.2, 320, 240)


def frames(room, name, duration):
    for i, pose in enumerate(first_look(room, name, duration, RATE)):
        image, depth = room.render(CAMERA, pose)
        stamp_ns = round((i + 1) * 1e9 / RATE)
        yield Frame(image, CAMERA, stamp_ns, 'camera', pose, 'odom', depth)


def without_pose(frame):
    return frame.placed(None, 'odom')


def pipeline(**config):
    return Pipeline(
        Engine(SensorPredictor(stride=1), ModelConfig()), MODELS['sensor'], SharpConfig(**config)
    )


@pytest.fixture(scope='module')
def table(lit):
    """Frames that begin at a table, and what the pipeline makes of them without poses."""
    given = list(frames(lit, 'dining table', 3.0))
    running = pipeline()
    wanted = {OCCUPANCY, CLEARING}
    return given, [running.process(without_pose(frame), wanted) for frame in given], running


def test_nothing_is_mapped_before_the_floor_is_found_but_odometry_goes_on(table):
    _, results, _ = table
    begin = [result.mapped for result in results].index(True)
    assert begin >= RATE  # it stood at the table for a second
    for result in results[:begin]:
        assert result.unmapped.reason == 'floor_not_found'
        assert 'floor not found' in str(result.unmapped)
        assert result.motion.T_odom_camera is not None
        assert np.isfinite(result.depth).any()
        assert result.grid is None
        assert result.clearing_points is None
    assert all(result.mapped for result in results[begin:])


def test_the_map_is_level_and_stands_on_the_floor(table):
    given, results, running = table
    for frame, result in zip(given, results, strict=True):
        if result.mapped:
            pose = result.frame.T_world_camera
            np.testing.assert_allclose(pose, result.motion.T_odom_camera)
            assert pose[2, :3] @ frame.T_world_camera[2, :3] > math.cos(math.radians(1))
            assert pose[2, 3] == pytest.approx(frame.T_world_camera[2, 3], abs=0.03)
    cells = running.grid().cells
    assert (cells == 0).sum() > 1000


def test_the_world_is_fixed_from_the_first_map_on(table):
    given, results, _ = table
    begin = [result.mapped for result in results].index(True)
    T_world_true = [
        result.frame.T_world_camera @ inverse(frame.T_world_camera)
        for frame, result in zip(given[begin:], results[begin:], strict=True)
    ]
    for T in T_world_true:  # but for the drift of odometry
        assert np.abs(T - T_world_true[0]).max() < 0.05


def test_a_given_pose_is_never_levelled(lit):
    tilt = first_look(lit, '50 degrees down', 0.2, RATE)[0] @ inverse(lit.pose(0.0))
    running = pipeline()
    for frame in frames(lit, 'drive', 1.0):
        pose = tilt @ frame.T_world_camera
        result = running.process(frame.placed(pose, 'odom'), set())
        assert result.mapped
        np.testing.assert_array_equal(result.frame.T_world_camera, pose)


def test_the_level_of_the_base_is_taken_at_once(lit):
    frame = next(frames(lit, 'dining table', 0.2))
    T_camera_base = inverse(frame.T_world_camera)
    placed = replace(without_pose(frame), transforms={'base': T_camera_base})
    result = pipeline(pose=PoseConfig(base_frame='base')).process(placed, set())
    assert result.mapped
    np.testing.assert_allclose(result.frame.T_world_camera, frame.T_world_camera, atol=1e-9)


def test_a_survey_levels_before_the_first_frame_is_mapped(table):
    given, _, _ = table
    running = pipeline()
    running.survey(without_pose(frame) for frame in given)
    assert not running.world_frame
    for frame in given:
        result = running.process(without_pose(frame), set())
        assert result.mapped
        pose = result.frame.T_world_camera
        assert pose[2, :3] @ frame.T_world_camera[2, :3] > math.cos(math.radians(1))
        assert pose[2, 3] == pytest.approx(frame.T_world_camera[2, 3], abs=0.03)


def test_a_rough_level_is_enough_for_a_whole_recording_and_the_map_says_so(table):
    """Live it is not: more may be seen. `bent` is wrong by another slope in every image."""
    given, _, _ = table
    bent = []
    for i, frame in enumerate(given):
        slope = np.linspace(-1, 1, frame.depth.shape[0])[:, None] * 0.25 * math.sin(1.1 * i)
        bent.append(without_pose(replace(frame, depth=frame.depth * np.exp(slope).astype('f4'))))
    running = pipeline()
    live = [running.process(frame, set()) for frame in bent]
    assert not any(result.mapped for result in live)
    assert 'views of it differ' in str(live[-1].unmapped)
    running.survey(bent)
    results = [running.process(frame, {OCCUPANCY}) for frame in bent]
    assert all(result.mapped for result in results)
    verdict = running.verdict()
    (reason,) = (reason for reason in verdict.reasons if reason.name == 'level_rough')
    assert 'views of it differ' in reason.text
    assert verdict.level != 'good'
    running.survey(without_pose(frame) for frame in given)
    assert running.process(without_pose(given[0]), {OCCUPANCY}).mapped
    assert 'level_rough' not in [reason.name for reason in running.verdict().reasons]


def test_what_is_set_already_is_not_proposed(table):
    given, _, _ = table
    running = pipeline()
    asked = str(running.process(without_pose(given[0]), set()).unmapped)
    assert 'scale.camera_height' in asked
    config = running.config
    running.reconfigure(replace(config, scale=replace(config.scale, camera_height=1.0)))
    answer = str(running.process(without_pose(given[1]), set()).unmapped)
    assert 'set pose.base_frame or imu.enabled' in answer


def test_a_survey_that_finds_no_floor_says_so_and_leaves_nothing(table):
    given, _, _ = table
    running = pipeline()
    with pytest.raises(PoseUnavailableError, match='floor not found'):
        running.survey(without_pose(frame) for frame in given[:4])
    result = running.process(without_pose(given[0]), set())
    assert result.unmapped.reason == 'floor_not_found'


def test_unknown_first_looks_are_refused(room):
    with pytest.raises(InputError, match='upside down'):
        first_look(room, 'sideways', 1.0, RATE)
