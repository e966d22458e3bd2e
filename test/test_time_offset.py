"""Which moments poses belong to, from how images turn against poses."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sharp_ros.camera import Intrinsics
from sharp_ros.se3 import inverse, transform
from sharp_ros.stereo import DepthRefiner
from sharp_ros.stereo.references import Reference
from sharp_ros.stereo.timed_poses import TimedPoses
from sharp_ros.synthetic import Room

RATE = 30


def pose(t, size=0.25):
    """Of a hand that turns to and fro about all axes while it moves."""
    turns = size * np.array([math.sin(2.1 * t), math.sin(3.3 * t + 1), 0.5 * math.sin(1.3 * t)])
    return transform(cv2.Rodrigues(turns)[0], np.array([0.3 * t, 0, 0]))


def estimated(
    offset, noise=0.0, wild=0.0, size=0.25, seconds=4.0, path=pose, jitter=0.0, rate=RATE
):
    """Of poses that belong to moments so much later; images show the true ones, and errors."""
    rng, poses, seen = np.random.default_rng(0), TimedPoses(), []
    for i in range(round(rate * seconds)):
        t = i / rate
        given, true = path(t + offset, size), path(t, size)
        shake = cv2.Rodrigues(jitter * rng.standard_normal(3))[0]
        given[:3, :3] = given[:3, :3] @ shake
        stamp_ns = round(1e9 * t)
        poses.add(stamp_ns, given)
        others, aligned = [], []
        for other, other_true in seen[-10::4]:
            error = noise * rng.standard_normal(3)
            if rng.random() < wild:
                error = 0.05 * rng.standard_normal(3)
            T = inverse(other_true) @ true
            T[:3, :3] = cv2.Rodrigues(error)[0] @ T[:3, :3]
            others.append(other)
            aligned.append(T)
        if others:
            poses.learn(others, np.stack(aligned))
        seen.append((Reference(stamp_ns, given, np.empty((0, 0), np.uint8)), true))
    return poses.offset


@pytest.mark.parametrize('offset', [0.0, 0.015, -0.045, 0.1])
def test_an_offset_is_found_with_a_deviation_that_is_true(offset):
    for noise, wild in ((0.0, 0.0), (0.005, 0.0), (0.003, 0.2)):
        found = estimated(offset, noise, wild)
        assert abs(found.seconds - offset) < min(0.01, 3 * found.std)
        assert found.std < 0.015


def test_a_camera_that_hardly_turns_does_not_tell():
    assert estimated(0.1, noise=0.003, size=0.005).std > 0.03
    assert estimated(0.1, size=0.0) is None
    assert estimated(0.1, seconds=0.1) is None


def test_only_the_last_seconds_count():
    def stepping(t, size):
        return pose(t + (0.08 if t > 30 else 0.0), size)

    found = estimated(0.0, noise=0.002, seconds=60.0, path=stepping)
    # from then on poses and images are those of one moment again, however it is called
    assert abs(found.seconds) < 0.01


@pytest.mark.parametrize('rate', [5, 10, 30])
def test_poses_that_jitter_are_not_taken_for_late_ones(rate):
    """The error of a pose is in its own turning, if that is from the pose before to this one."""
    found = estimated(0.0, jitter=0.005, size=0.0, rate=rate, seconds=200 / rate)
    assert abs(found.seconds) < 2 * found.std
    assert abs(found.seconds) < 0.25 / rate
    turning = estimated(0.04, jitter=0.003, rate=30)
    assert abs(turning.seconds - 0.04) < 0.012


def test_turning_is_unknown_beside_a_gap_and_where_only_one_side_is():
    poses = TimedPoses()
    for stamp_ns in (0, 33_000_000, 33_000_000, 66_000_000, 900_000_000, 933_000_000):
        poses.add(stamp_ns, pose(1e-9 * stamp_ns))
    known = [poses._turning(number) is not None for number in range(5)]
    assert known == [False, True, False, False, False]
    # of images a third of a second apart it cannot be told at all
    assert estimated(0.1, rate=3, seconds=20.0) is None


@pytest.mark.parametrize('offset', [0.0, 0.05, -0.05])
def test_a_drive_shows_it_by_its_images(offset):
    room, K, refiner = Room(seed=1), Intrinsics.from_hfov(1.2, 320, 240), DepthRefiner()
    std, found = np.full((2, 2), 0.15, np.float32), None
    for i in range(50):
        t = 2.0 + i / 10
        image, depth = room.render(K, room.pose(t))
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        given = room.pose(t + offset)
        found = refiner.refine(gray, K, i * 100_000_000, given, depth, std).time_offset
    assert abs(found.seconds - offset) < 2 * found.std < 0.06


def test_a_camera_that_stood_for_long_goes_on_by_what_it_had_seen():
    """Images from before it stopped are older than the poses that are remembered."""
    room, K, refiner = Room(seed=1), Intrinsics.from_hfov(1.2, 320, 240), DepthRefiner()
    std, moments = np.full((2, 2), 0.15, np.float32), [2.0 + i / 10 for i in range(45)]
    stamps_ns = [round(1e9 * (t + (15.0 if t > 4.5 else 0.0))) for t in moments]
    standing = [round(1e9 * (4.5 + i / 10)) for i in range(1, 150)]
    views = [room.render(K, room.pose(t)) for t in moments]
    shown = sorted([*zip(stamps_ns, moments, strict=True), *((s, 4.5) for s in standing)])
    for stamp_ns, t in shown:
        image, depth = views[moments.index(t)] if t in moments else views[25]
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = refiner.refine(gray, K, stamp_ns, room.pose(t), depth, std)
        assert found.obstacle != 'poses_disagree'
        if found.scale is not None:
            assert abs(found.scale.log_scale) < 0.1
