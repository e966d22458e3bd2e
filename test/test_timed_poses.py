"""Given poses at the moments of their images."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sharp_ros.se3 import inverse, transform
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


def followed(offset, rate=30, seconds=4.0, missing=()):
    """Poses that belong to moments so much later, with what images would show; and stamps."""
    poses, stamps_ns = TimedPoses(), []
    for i in range(round(rate * seconds)):
        if i in missing:
            continue
        t = i / rate
        stamps_ns.append(round(1e9 * t))
        poses.add(stamps_ns[-1], pose(t + offset))
        others_ns = stamps_ns[-10:-1:4]
        if others_ns:
            true = np.stack([inverse(pose(other * 1e-9)) @ pose(t) for other in others_ns])
            poses.learn(stamps_ns[-1], others_ns, true)
    return poses, stamps_ns


@pytest.mark.parametrize('offset', [-0.06, -0.02, 0.02, 0.06])
@pytest.mark.parametrize('rate', [15, 30])
def test_relative_poses_are_those_of_the_images_once_the_shift_is_known(offset, rate):
    poses, stamps_ns = followed(offset, rate)
    given, corrected = [], []
    for stamp_ns, other_ns in zip(stamps_ns[-20:], stamps_ns[-30:-10], strict=True):
        true = inverse(pose(other_ns * 1e-9)) @ pose(stamp_ns * 1e-9)
        as_given = inverse(pose(other_ns * 1e-9 + offset)) @ pose(stamp_ns * 1e-9 + offset)
        given.append(apart(as_given, true))
        corrected.append(apart(poses.relative(stamp_ns, other_ns), true))
    assert abs(poses.offset.seconds - offset) < 0.01
    assert np.all(np.mean(corrected, 0) < 0.35 * np.mean(given, 0))


def test_without_a_shift_they_stay_as_given():
    poses, stamps_ns = followed(0.0)
    for stamp_ns, other_ns in zip(stamps_ns[-20:], stamps_ns[-30:-10], strict=True):
        true = inverse(pose(other_ns * 1e-9)) @ pose(stamp_ns * 1e-9)
        metres, radians = apart(poses.relative(stamp_ns, other_ns), true)
        assert metres < 0.001
        assert radians < 0.002


def test_a_pose_beside_a_gap_is_continued_from_the_other_side():
    missing = range(60, 90)  # a second
    poses, stamps_ns = followed(0.04, missing=missing)
    first_ns = next(stamp_ns for stamp_ns in stamps_ns if stamp_ns > 2.9e9)
    for stamp_ns in (first_ns, first_ns + 33_333_333):
        true = inverse(pose(first_ns * 1e-9 + 0.3)) @ pose(stamp_ns * 1e-9)
        near = min(stamps_ns, key=lambda s: abs(s - first_ns - 300_000_000))
        metres, radians = apart(poses.relative(stamp_ns, near), true)
        assert metres < 0.01
        assert radians < 0.03


def test_the_deviation_of_a_baseline_is_what_an_unknown_shift_does_to_it():
    def setting_out(t):
        return transform(np.eye(3), np.array([max(t - 1.0, 0.0), 0, 0]))

    poses = TimedPoses()
    for i in range(90):
        poses.add(round(1e9 * i / 30), setting_out(i / 30))
    at_once, later = round(1e9 * 33 / 30), round(1e9 * 89 / 30)
    # 0.1 m since it set out, by a speed of 1 m/s, of which 0.03 s are unknown; then at even speed
    assert poses.baseline_std(at_once, [0]) == pytest.approx(0.31, abs=0.05)
    assert poses.baseline_std(later, [round(1e9 * 45 / 30)]) < 0.001
    assert poses.baseline_std(later, []) == 0


def test_an_impossible_shift_is_not_reckoned_with():
    poses, stamps_ns = followed(0.0)
    stamp_ns, other_ns = stamps_ns[-1], stamps_ns[-20]
    given = inverse(pose(other_ns * 1e-9)) @ pose(stamp_ns * 1e-9)
    poses.offset = TimeOffset(0.1, 0.005)
    assert not np.allclose(poses.relative(stamp_ns, other_ns), given, atol=0.01)
    poses.offset = TimeOffset(0.4, 0.005)
    assert np.allclose(poses.relative(stamp_ns, other_ns), given)


def test_memory_ends_and_a_repeated_stamp_replaces_its_pose():
    poses = TimedPoses()
    for i in range(2000):
        poses.add(round(1e9 * i / 30), pose(i / 30))
    assert len(poses._stamps_ns) < 400
    poses.add(round(1e9 * 1999 / 30), pose(3.0))
    there = poses.relative(round(1e9 * 1999 / 30), round(1e9 * 1990 / 30))
    assert np.allclose(there, inverse(pose(1990 / 30)) @ pose(3.0))
