"""Given poses at the moments of their images."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sharp_ros.se3 import inverse, transform
from sharp_ros.stereo.references import Reference
from sharp_ros.stereo.time_offset import TimeOffset
from sharp_ros.stereo.timed_poses import TimedPoses


def pose(t):
    """Of a hand that moves to and fro and turns."""
    turns = 0.3 * np.array([math.sin(2.1 * t), math.sin(3.3 * t + 1), 0.5 * math.sin(1.3 * t)])
    place = np.array([0.3 * t + 0.05 * math.sin(5 * t), 0.1 * math.cos(4 * t), 0.0])
    return transform(cv2.Rodrigues(turns)[0], place)


def apart(one, other):
    """Metres and rad between two poses."""
    difference = inverse(one) @ other
    return np.linalg.norm(difference[:3, 3]), np.linalg.norm(cv2.Rodrigues(difference[:3, :3])[0])


def image(stamp_ns, given):
    return Reference(stamp_ns, given, np.empty((0, 0), np.uint8))


def followed(offset, rate=30, seconds=4.0, missing=()):
    """Poses that belong to moments so much later, with what images would show; and these."""
    poses, images = TimedPoses(), []
    for i in range(round(rate * seconds)):
        if i in missing:
            continue
        t = i / rate
        images.append(image(round(1e9 * t), pose(t + offset)))
        poses.add(images[-1].stamp_ns, images[-1].T_world_camera)
        others = images[-10:-1:4]
        if others:
            true = [inverse(pose(other.stamp_ns * 1e-9)) @ pose(t) for other in others]
            poses.learn(others, np.stack(true))
    return poses, images


def true_of(one, other):
    return inverse(pose(other.stamp_ns * 1e-9)) @ pose(one.stamp_ns * 1e-9)


def given_of(one, other):
    return inverse(other.T_world_camera) @ one.T_world_camera


@pytest.mark.parametrize('offset', [-0.06, -0.02, 0.02, 0.06])
@pytest.mark.parametrize('rate', [15, 30])
def test_relative_poses_are_those_of_the_images_once_the_shift_is_known(offset, rate):
    poses, images = followed(offset, rate)
    given, corrected = [], []
    for one, other in zip(images[-20:], images[-30:-10], strict=True):
        given.append(apart(given_of(one, other), true_of(one, other)))
        corrected.append(apart(poses.relative(one.stamp_ns, other), true_of(one, other)))
    assert abs(poses.offset.seconds - offset) < 0.01
    assert np.all(np.mean(corrected, 0) < 0.35 * np.mean(given, 0))


def test_without_a_shift_they_stay_as_given():
    poses, images = followed(0.0)
    for one, other in zip(images[-20:], images[-30:-10], strict=True):
        metres, radians = apart(poses.relative(one.stamp_ns, other), true_of(one, other))
        assert metres < 0.001
        assert radians < 0.002


@pytest.mark.parametrize('offset', [0.04, -0.04])
def test_a_pose_beside_a_gap_is_continued_from_the_other_side(offset):
    """Across the gap of 0.8 s the camera would be taken to have moved evenly."""
    poses, images = followed(offset, missing=range(60, 84))
    beside = 60 if offset > 0 else 59
    assert abs(poses.offset.seconds - offset) < 0.01
    metres, radians = apart(
        poses.relative(images[beside].stamp_ns, images[75]), true_of(images[beside], images[75])
    )
    as_given, turned = apart(
        given_of(images[beside], images[75]), true_of(images[beside], images[75])
    )
    assert metres < 0.4 * as_given
    assert radians < 0.4 * turned


def test_the_deviation_of_a_baseline_is_what_an_unknown_shift_does_to_it():
    def setting_out(t):
        return transform(np.eye(3), np.array([max(t - 1.0, 0.0), 0, 0]))

    for rate in (30, 10, 2):
        poses, images = TimedPoses(), []
        for i in range(3 * rate):
            images.append(image(round(1e9 * i / rate), setting_out(i / rate)))
            poses.add(images[-1].stamp_ns, images[-1].T_world_camera)
        # 0.5 m since it set out, by a speed of 1 m/s, of which 0.03 s are unknown; then it is even
        at_once, later = images[3 * rate // 2], images[-1]
        assert poses.baseline_std(at_once.stamp_ns, [images[0]]) == pytest.approx(0.06, abs=0.005)
        assert poses.baseline_std(later.stamp_ns, [at_once]) < 0.001
        assert poses.baseline_std(later.stamp_ns, []) == 0


def test_a_shift_that_cannot_be_reckoned_with_is_doubted():
    poses, images = followed(0.0)
    one, other = images[-1], images[-20]
    poses.offset = None
    before = poses.baseline_std(one.stamp_ns, [other])
    poses.offset = TimeOffset(0.1, 0.005)
    assert not np.allclose(poses.relative(one.stamp_ns, other), given_of(one, other), atol=0.01)
    poses.offset = TimeOffset(0.4, 0.005)
    assert np.allclose(poses.relative(one.stamp_ns, other), given_of(one, other))
    assert poses.baseline_std(one.stamp_ns, [other]) > 3 * before


def test_a_shift_is_known_after_few_images_and_is_a_guess_while_it_is_vague():
    poses, images = followed(0.05, seconds=0.45)
    assert poses.offset is not None
    poses.offset = TimeOffset(0.05, 0.5)
    as_given = given_of(images[-1], images[0])
    assert np.allclose(poses.relative(images[-1].stamp_ns, images[0]), as_given, atol=1e-3)


def test_an_image_whose_pose_is_forgotten_has_that_which_was_given():
    poses, images = followed(0.0, seconds=20.0)
    assert len(poses._stamps_ns) < 400
    assert np.allclose(
        poses.relative(images[-1].stamp_ns, images[3]), given_of(images[-1], images[3])
    )


def test_a_repeated_stamp_replaces_its_pose():
    poses, images = followed(0.0)
    poses.add(images[-1].stamp_ns, pose(9.0))
    there = poses.relative(images[-1].stamp_ns, images[-10])
    assert np.allclose(there, inverse(images[-10].T_world_camera) @ pose(9.0), atol=0.02)
