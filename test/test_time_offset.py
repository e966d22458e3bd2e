"""Which moments poses belong to, from how images turn against poses."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sharp_ros.camera import Intrinsics
from sharp_ros.se3 import inverse, transform
from sharp_ros.stereo import DepthRefiner
from sharp_ros.stereo.time_offset import TimeOffsetEstimator
from sharp_ros.synthetic import Room

RATE = 30


def pose(t, size=0.25):
    """Of a hand that turns to and fro about all axes while it moves."""
    turns = size * np.array([math.sin(2.1 * t), math.sin(3.3 * t + 1), 0.5 * math.sin(1.3 * t)])
    return transform(cv2.Rodrigues(turns)[0], np.array([0.3 * t, 0, 0]))


def estimated(offset, noise=0.0, wild=0.0, size=0.25, seconds=4.0, path=pose):
    """Of poses that belong to moments so much later; images show the true ones, and errors."""
    rng, estimator, seen = np.random.default_rng(0), TimeOffsetEstimator(), []
    for i in range(round(RATE * seconds)):
        t = i / RATE
        given, true = path(t + offset, size), path(t, size)
        turning = estimator.turning(round(1e9 * t), given)
        for other_given, other_true, other_turning in seen[-10::4]:
            error = noise * rng.standard_normal(3)
            if rng.random() < wild:
                error = 0.05 * rng.standard_normal(3)
            aligned = inverse(other_true) @ true
            aligned[:3, :3] = cv2.Rodrigues(error)[0] @ aligned[:3, :3]
            if turning is not None and other_turning is not None:
                pair = inverse(other_given) @ given
                estimator.add(round(1e9 * t), pair, aligned, turning, other_turning)
        seen.append((given, true, turning))
    return estimator.estimate()


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


def test_turning_is_unknown_after_a_gap_and_at_a_repeated_stamp():
    estimator = TimeOffsetEstimator()
    assert estimator.turning(0, pose(0.0)) is None
    assert estimator.turning(33_000_000, pose(0.033)) is not None
    assert estimator.turning(33_000_000, pose(0.033)) is None
    assert estimator.turning(900_000_000, pose(0.9)) is None


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
