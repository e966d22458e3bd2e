from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import PoseConfig, SharpConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.ros import transforms
from sharp_ros.ros.conversions import odometry_to_msg
from sharp_ros.ros.diagnostics import Health
from sharp_ros.ros.frame_lookup import FrameLookup
from sharp_ros.ros.pose_sources import (
    make_pose_source,
    NoPose,
    OdometrySource,
    TfSource,
    VisualSource,
)
from sharp_ros.ros.transforms import Transforms
from sharp_ros.se3 import matrix_from_quat, transform

MS = 1_000_000
CAMERA = 'camera_optical_frame'


def odometry(stamp_ms, x=0.0, child=CAMERA, world='odom'):
    return odometry_to_msg(transform(np.eye(3), [x, 0.0, 0.0]), stamp_ms * MS, world, child)


def test_the_pose_is_interpolated_at_the_stamp_of_the_image():
    source = OdometrySource(PoseConfig())
    source.add(odometry(0, 0.0))
    source.add(odometry(100, 1.0))
    T_world_camera, world = source.lookup(25 * MS, CAMERA)
    assert T_world_camera[0, 3] == pytest.approx(0.25)
    assert world == 'odom'


def test_an_image_waits_for_the_pose_that_follows_it():
    source = OdometrySource(PoseConfig(wait=2.0))
    source.add(odometry(0, 0.0))
    later = threading.Timer(0.1, lambda: source.add(odometry(100, 1.0)))
    later.start()
    T_world_camera, _ = source.lookup(50 * MS, CAMERA)
    later.join()
    assert T_world_camera[0, 3] == pytest.approx(0.5)


@pytest.mark.parametrize('first', [None, 0])
def test_nobody_waits_for_odometry_that_never_began_or_broke_off(first):
    source = OdometrySource(PoseConfig(wait=10.0))
    if first is not None:
        source.add(odometry(first))
    start = time.monotonic()
    with pytest.raises(PoseUnavailableError):
        source.lookup(60_000 * MS, CAMERA)
    assert time.monotonic() - start < 5.0


def test_a_stale_pose_is_refused():
    source = OdometrySource(PoseConfig(wait=0.0, tolerance=0.02))
    source.add(odometry(0))
    source.lookup(20 * MS, CAMERA)
    with pytest.raises(PoseUnavailableError) as caught:
        source.lookup(21 * MS, CAMERA)
    assert caught.value.reason == 'pose_too_old'


def test_the_mounting_of_the_camera_is_applied():
    # camera 0.5 m ahead of the base and looking along its x axis
    mounting = (0.5, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5)
    source = OdometrySource(PoseConfig(base_to_camera=mounting))
    source.add(odometry(0, 2.0, child='base_link'))
    T_world_camera, _ = source.lookup(0, CAMERA)
    np.testing.assert_allclose(T_world_camera[:3, 3], [2.5, 0, 0])
    np.testing.assert_allclose(T_world_camera[:3, 2], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(T_world_camera[:3, 1], [0, 0, -1], atol=1e-12)
    expected = matrix_from_quat(np.array([0.5, -0.5, 0.5, -0.5]))
    np.testing.assert_allclose(T_world_camera[:3, :3], expected, atol=1e-12)


def test_an_unknown_mounting_is_not_guessed():
    source = OdometrySource(PoseConfig())
    source.add(odometry(0, child='base_link'))
    with pytest.raises(PoseUnavailableError, match=r'pose\.base_to_camera'):
        source.lookup(0, CAMERA)


@pytest.mark.parametrize(
    ('frames', 'reason', 'cure'),
    [
        ({'child': ''}, 'unknown_mounting', 'child_frame_id'),
        ({'world': ''}, 'no_world_frame', 'frame_id'),
    ],
)
def test_frames_without_a_name_are_not_taken_for_one(frames, reason, cure):
    source = OdometrySource(PoseConfig())
    source.add(odometry(0, **frames))
    with pytest.raises(PoseUnavailableError, match=cure) as caught:
        source.lookup(0, frames.get('child', CAMERA))
    assert caught.value.reason == reason


def test_another_world_frame_starts_a_new_history():
    source = OdometrySource(PoseConfig(wait=0.0))
    source.add(odometry(0, 5.0, world='map'))
    source.add(odometry(10, 1.0))
    with pytest.raises(PoseUnavailableError):
        source.lookup(-30 * MS, CAMERA)
    assert source.lookup(10 * MS, CAMERA)[1] == 'odom'


def test_time_going_back_is_reported():
    source = OdometrySource(PoseConfig())
    assert source.add(odometry(1000))
    assert not source.add(odometry(0))


def test_a_pose_that_is_not_finite_is_refused():
    with pytest.raises(InputError):
        OdometrySource(PoseConfig()).add(odometry(0, float('nan')))


def test_source_none_never_has_a_pose():
    source = make(source='none')
    assert isinstance(source, NoPose)
    assert source.odometry is None
    with pytest.raises(PoseUnavailableError):
        source.lookup(0, CAMERA)


def make(said=None, **settings):
    node = SimpleNamespace(get_publishers_info_by_topic=lambda topic: [])
    tell = (lambda text: None) if said is None else said.append
    return make_pose_source(PoseConfig(**settings), Transforms(node), tell)


def test_poses_of_tf_are_those_at_the_stamp_of_the_image(tf2):
    T = transform(matrix_from_quat(np.array([0.8, 0.1, -0.5, 0.3])), [1.0, 2.0, 3.0])
    tf2.place(T, 'map', CAMERA)
    source = make(source='tf', world_frame='map', wait=0.25)
    assert isinstance(source, TfSource)
    found, world = source.lookup(7 * MS, CAMERA)
    assert world == 'map'
    np.testing.assert_allclose(found, T, atol=1e-12)
    assert tf2.asked == [('map', CAMERA, 7 * MS, 250 * MS)]


def test_tf_without_an_answer_is_no_pose(tf2):
    with pytest.raises(PoseUnavailableError) as error:
        make(source='tf').lookup(0, CAMERA)
    assert error.value.reason == 'no_transform'


def test_tf_and_odometry_hold_the_newest_pose_for_the_same_time(tf2):
    tf, other = make(source='tf', wait=0.0), OdometrySource(PoseConfig(wait=0.0))
    newest = 1_000_000
    for stamp_ms in (newest - 33, newest):
        tf2.move(transform(np.eye(3), [stamp_ms, 0.0, 0.0]), 'odom', CAMERA, stamp_ms * MS)
        other.add(odometry(stamp_ms, float(stamp_ms)))
    for source in (tf, other):
        for late in (8, 20):
            T_world_camera, _ = source.lookup((newest + late) * MS, CAMERA)
            assert T_world_camera[0, 3] == pytest.approx(newest)
        with pytest.raises(PoseUnavailableError):
            source.lookup((newest + 21) * MS, CAMERA)


def test_auto_waits_while_tf_contradicts_itself(tf2):
    source = make(wait=0.0)
    source.odometry.add(odometry(0))
    for parent in ('odom', 'other_odom'):
        tf2.move(np.eye(4), parent, CAMERA, 0)
    for stamp_ms in range(0, 5000, 500):
        with pytest.raises(PoseUnavailableError) as error:
            source.lookup(stamp_ms * MS, CAMERA)
        assert error.value.reason == 'tf_two_parents'


def test_visual_odometry_is_asked_for_by_a_world_without_a_pose():
    source = make(source='visual', world_frame='odom')
    assert isinstance(source, VisualSource)
    assert source.lookup(0, CAMERA) == (None, 'odom')


def test_auto_prefers_tf_and_keeps_the_first_that_answered(tf2):
    said = []
    source = make(said, wait=0.0)
    source.odometry.add(odometry(0))
    assert source.lookup(0, CAMERA)[1] == 'odom'
    assert len(said) == 1
    assert 'odometry' in said[0]
    tf2.place(np.eye(4), 'odom', CAMERA)
    with pytest.raises(PoseUnavailableError) as error:  # not the other world of tf
        source.lookup(10_000 * MS, CAMERA)
    assert error.value.reason == 'pose_too_old'
    said.clear()
    source = make(said, wait=0.0)
    source.odometry.add(odometry(0))
    source.lookup(0, CAMERA)
    assert 'tf' in said[0]


@pytest.mark.parametrize('restart', [False, True])
def test_auto_takes_to_visual_odometry_when_nothing_else_answers_for_three_seconds(
    monkeypatch, restart
):
    monkeypatch.setattr(transforms, 'tf2_ros', None)
    said = []
    source = make(said, wait=0.0)
    if restart:  # a bag that starts over must not make the wait endless
        with pytest.raises(PoseUnavailableError):
            source.lookup(1_000_000 * MS, CAMERA)
    for stamp_ms in range(0, 3000, 100):
        with pytest.raises(PoseUnavailableError, match='odometry: no pose received') as error:
            source.lookup(stamp_ms * MS, CAMERA)
        assert error.value.reason == 'no_pose_yet'
    assert not said
    assert source.lookup(3000 * MS, CAMERA) == (None, 'odom')
    assert 'visual' in said[0]
    source.odometry.add(odometry(3100))  # too late: that is another world
    assert source.lookup(3100 * MS, CAMERA) == (None, 'odom')


@pytest.mark.parametrize('first', [0, 1_699_999_000])
def test_auto_does_not_take_a_jump_of_time_for_seconds_of_images(tf2, first):
    source = make(wait=0.0)
    for stamp_ms in (first, 1_700_000_000, 1_700_000_100):
        with pytest.raises(PoseUnavailableError):
            source.lookup(stamp_ms * MS, CAMERA)
    tf2.place(np.eye(4), 'odom', CAMERA)
    assert source.lookup(1_700_000_200 * MS, CAMERA)[0] is not None  # of tf


def test_auto_takes_to_visual_odometry_behind_a_slow_network_too(tf2):
    source = make(wait=0.0)
    for stamp_ms in range(0, 60_000, 10_000):
        with pytest.raises(PoseUnavailableError):
            source.lookup(stamp_ms * MS, CAMERA)
    assert source.lookup(60_000 * MS, CAMERA) == (None, 'odom')


def test_the_pose_of_another_moment_is_looked_up_by_the_time_offset():
    source = make(source='odometry', wait=0.0)
    for ms in (900, 1000, 1100):
        source.add(odometry(ms, x=ms / 1000))
    config = SharpConfig(pose=PoseConfig(time_offset=0.05))
    pipeline = SimpleNamespace(view_frames={})
    lookup = FrameLookup(config, source, SimpleNamespace(), pipeline, Health())
    image = np.zeros((4, 4, 3), np.uint8)
    frame = Frame(image, Intrinsics(2.0, 2.0, 1.5, 1.5, 4, 4), 1000 * MS, CAMERA)
    found = lookup.complete(frame, set(), maps=True)
    assert found.T_world_camera[0, 3] == pytest.approx(1.05)
    assert found.stamp_ns == 1000 * MS
    lookup.reconfigure(SharpConfig(pose=PoseConfig(time_offset=-0.1)))
    assert lookup.complete(frame, set(), maps=True).T_world_camera[0, 3] == pytest.approx(0.9)
