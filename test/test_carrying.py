"""Depth carried from image to image, against a room whose depth is known everywhere."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import from_flat, ModelConfig, RefinementConfig, SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.models import ModelInfo
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.pipeline import OCCUPANCY, Pipeline, POINTS
from sharp_ros.se3 import transform
from sharp_ros.stereo import DepthCarrier, PredictedDepth
from sharp_ros.stereo.carrying_kernels import carry
from sharp_ros.synthetic import Room
from sharp_ros.views import VIEW

K = Intrinsics.from_hfov(1.2, 320, 240)
CELLS = (120, 160)
STEP_NS = 33_333_333
RATE = 10.0


@pytest.fixture(scope='module')
def drive():
    """Frames of a camera that moves through a room at 30 Hz, with their depth."""
    room, frames = Room(seed=1), []
    for i, (_, pose) in zip(range(18), room.trajectory(4.0, 30), strict=False):
        image, depth = room.render(K, pose)
        frames.append(Frame(image, K, i * STEP_NS, 'camera', pose, 'odom', depth))
    return frames


def cells_of(depth):
    """Inverse depth is what is linear on planes."""
    return 1 / cv2.resize(1 / depth, CELLS[::-1], interpolation=cv2.INTER_AREA)


def carrier_of(frame, depth=None, factor=1.0):
    carrier = DepthCarrier()
    depth = (frame.depth if depth is None else depth) / np.float32(factor)
    carrier.remember(frame, PredictedDepth(depth, None, cells_of(depth)), factor)
    return carrier


def slow_carry(inverse_depth, darkest, brightest, gray, T, intrinsics, ratio, tolerance):
    """As `carry`, cell by cell in whole sentences."""
    high, wide = inverse_depth.shape
    fx, fy, cx, cy = intrinsics
    out, changed = np.full((high, wide), np.nan, np.float32), np.zeros((high, wide), bool)
    for y, x in np.ndindex(high, wide):
        ray = T[:3, :3] @ np.array([(x - cx) / fx, (y - cy) / fy, 1.0])
        guess = float(inverse_depth[y, x]) if inverse_depth[y, x] >= 0 else 0.0
        for _ in range(4):
            there = ray + guess * T[:3, 3]
            if there[2] <= 0:
                break
            place = there[:2] / there[2] * (fx, fy) + (cx, cy)
            if (place < -0.5).any() or (place >= (wide - 0.5, high - 0.5)).any():
                break
            place = np.clip(place, 0, (wide - 1, high - 1))
            corner = np.minimum(place.astype(int), (wide - 2, high - 2))
            share = place - corner
            four = inverse_depth[corner[1] : corner[1] + 2, corner[0] : corner[0] + 2]
            if four.min() * ratio >= four.max():  # False for NaN
                across = four @ np.array([1 - share[0], share[0]])
                value = across @ np.array([1 - share[1], share[1]])
            else:
                value = four[int(share[1] >= 0.5), int(share[0] >= 0.5)]
            if not value >= 0:
                break
            before, guess = guess, float(value) * there[2]
            if abs(guess - before) <= 0.01 * guess:
                nearest = corner + (share >= 0.5)
                column, row = nearest
                level = int(gray[y, x])
                out[y, x] = guess
                darker = level + tolerance < int(darkest[row, column])
                changed[y, x] = darker or level - tolerance > int(brightest[row, column])
                break
    return out, changed


def test_the_kernel_does_what_its_slow_twin_does():
    rng = np.random.default_rng(0)
    rho = rng.uniform(0.2, 0.3, (30, 40)).astype(np.float32)
    rho[:, 20:] += 0.5  # another surface
    rho[5:8, 5:9], rho[20:, :6] = np.nan, 0.0
    gray = rng.integers(0, 256, (30, 40), np.uint8)
    around = np.ones((3, 3), np.uint8)
    small = Intrinsics.from_hfov(1.2, 40, 30).parameters
    turn = cv2.Rodrigues(np.array([0.02, -0.03, 0.05]))[0]
    for shift in ([0.05, -0.02, 0.04], [0.0, 0.0, 0.0], [0.0, 0.0, 9.0]):
        T = transform(turn, np.array(shift))
        given = rho, cv2.erode(gray, around), cv2.dilate(gray, around), np.roll(gray, 1, 1), T
        fast, slow = (f(*given, small, 1.25, 10) for f in (carry, slow_carry))
        np.testing.assert_array_equal(fast[1], slow[1])
        np.testing.assert_allclose(fast[0], slow[0], rtol=1e-5)
    assert not (slow[0] > 0).any()  # what lay ahead is behind


def test_carried_depth_is_that_of_the_new_image(drive):
    worst = []
    for first in range(0, 15, 3):
        for ahead in (1, 2):
            frame = drive[first + ahead]
            carried = carrier_of(drive[first]).carried(frame, RATE)
            known = np.isfinite(carried.depth) & (frame.depth > 0)
            assert known.mean() > 0.93
            error = np.abs(carried.depth[known] / frame.depth[known] - 1)
            still = np.abs(drive[first].depth[known] / frame.depth[known] - 1)
            assert np.median(error) < 0.003
            assert np.mean(error > 0.05) < 0.03  # edges, to a cell
            worst.append(np.mean(error) / np.mean(still))
    assert max(worst) < 0.7  # of what comes of taking the old depth as it is


def test_depth_is_carried_in_the_unit_of_the_network(drive):
    metres = carrier_of(drive[0]).carried(drive[1], RATE)
    halves = carrier_of(drive[0], factor=2.0).carried(drive[1], RATE)
    np.testing.assert_allclose(2 * halves.depth, metres.depth, rtol=1e-5)


def test_what_is_unknown_or_out_of_range_stays_so(drive):
    depth = drive[0].depth.copy()
    depth[:40], depth[-40:] = np.nan, np.inf
    unseen = np.zeros(depth.shape, bool)
    unseen[:, :30] = True
    frame = replace(drive[0], stamp_ns=STEP_NS, unseen=unseen)
    carried = carrier_of(drive[0], depth).carried(frame, RATE)
    assert np.isnan(carried.depth[:30]).all()
    assert np.isinf(carried.depth[-30:, 40:]).all()
    assert np.isnan(carried.depth[:, :30]).all()


@pytest.mark.parametrize(
    'change',
    [
        {'T_world_camera': None},
        {'world_frame': 'map'},
        {'stamp_ns': 0},
        {'stamp_ns': -STEP_NS},
        {'stamp_ns': 90_000_000},
        {'intrinsics': replace(K, fx=K.fx + 1)},
    ],
)
def test_the_network_sees_what_cannot_be_compared(drive, change):
    assert carrier_of(drive[0]).carried(drive[1], RATE) is not None
    assert carrier_of(drive[0]).carried(replace(drive[1], **change), RATE) is None


def test_without_an_image_before_the_network_runs(drive):
    carrier = carrier_of(drive[0])
    carrier.reset()
    assert carrier.carried(drive[1], RATE) is None
    assert DepthCarrier().carried(drive[1], RATE) is None


def test_the_network_sees_what_comes_into_view(drive):
    turn = transform(cv2.Rodrigues(np.array([0.0, 0.15, 0.0]))[0], np.zeros(3))
    room = Room(seed=1)
    image, _ = room.render(K, drive[0].T_world_camera @ turn)
    turned = replace(drive[1], image=image, T_world_camera=drive[0].T_world_camera @ turn)
    assert carrier_of(drive[0]).carried(turned, RATE) is None


@pytest.mark.parametrize('width', [24, 60])
def test_the_network_sees_what_moves_by_itself(drive, width):
    """Somebody in a dark coat who walks by: 0.15 m at 1.4 m/s, as at 3 and at 1.2 m."""

    def with_person(frame, left):
        image = frame.image.copy()
        image[60:230, left : left + width] = (30, 20, 25)
        return replace(frame, image=image)

    step = width // 3
    carrier, later = carrier_of(with_person(drive[0], 150)), replace(drive[0], stamp_ns=STEP_NS)
    assert carrier.carried(with_person(later, 150), RATE) is not None
    assert carrier.carried(with_person(later, 150 + step), RATE) is None


def test_what_is_too_small_to_ask_the_network_for_is_not_taken_for_what_was_there(drive):
    """A ball of 3 % of the width that flies by: neither its old place nor its new one is known."""

    def with_ball(frame, left):
        image = frame.image.copy()
        image[100:112, left : left + 10] = 0
        return replace(frame, image=image)

    later = replace(drive[0], stamp_ns=STEP_NS)
    carried = carrier_of(with_ball(drive[0], 150)).carried(with_ball(later, 180), RATE)
    assert np.isnan(carried.depth[103:109, 152:158]).all()
    assert np.isnan(carried.depth[103:109, 182:188]).all()
    assert np.isfinite(carried.depth[103:109, 100:140]).all()


def test_the_network_sees_images_that_contradict_the_pose(drive):
    frozen = replace(drive[8], stamp_ns=STEP_NS, T_world_camera=drive[0].T_world_camera)
    assert carrier_of(drive[0]).carried(frozen, RATE) is None


class Oracle:
    """A network that knows the depth of the frames it is asked for, in twice the metres."""

    def __init__(self, frames):
        self.depth = {frame.image.tobytes(): frame.depth for frame in frames}
        self.asked = 0

    def __call__(self, image, intrinsics, depth=None):
        self.asked += 1
        z = torch.from_numpy(cells_of(self.depth[image.tobytes()]) / 2)[None]
        colors = torch.full((3, *CELLS), 0.5)
        return gaussians_from_depth(z, colors, intrinsics.resized(*CELLS[::-1]))


INFO = ModelInfo('oracle', 'knows a room', 'Apache-2.0', metric=True)


def pipeline_of(oracle, **refinement):
    config = SharpConfig(refinement=RefinementConfig(**refinement))
    return Pipeline(Engine(oracle, ModelConfig()), INFO, config)


def run(drive, wanted=(POINTS, OCCUPANCY, VIEW + 'over_shoulder'), place=True, **refinement):
    oracle = Oracle(drive)
    pipeline = pipeline_of(oracle, **refinement)
    results = []
    for frame in drive:
        given = replace(frame, depth=None)
        given = given if place else given.placed(None, 'odom')
        results.append(pipeline.process(given, set(wanted)))
    return oracle, results


def test_the_network_of_a_fast_camera_runs_at_its_rate(drive):
    oracle, results = run(drive)
    carried = [result.gaussians is None for result in results]
    assert carried == [i % 3 > 0 for i in range(len(drive))]
    assert oracle.asked == carried.count(False)
    assert all(result.mapped and result.cloud is not None for result in results)
    views = [bool(result.views) for result in results]
    assert any(views)
    assert not any(view and none for view, none in zip(views, carried, strict=True))
    # depth is as good as with the network on every image
    every, expected = run(drive, network_rate_hz=0.0)
    assert every.asked == len(drive)
    for frame, one, other in zip(drive, results, expected, strict=True):
        known = np.isfinite(one.depth) & np.isfinite(other.depth) & (frame.depth < 8)
        assert known.mean() > 0.8
        ratio = np.log(one.depth[known] / other.depth[known])
        assert abs(np.median(ratio)) < 0.02
        assert np.mean(np.abs(ratio - np.median(ratio))) < 0.02


@pytest.mark.parametrize(
    'hides',
    [
        {'camera.mask': '100,120 220,120 220,239 100,239'},
        {'camera.robot_box': (-0.6, -0.6, -0.6, 0.6, 0.6, 0.6), 'pose.base_frame': 'base'},
    ],
)
def test_the_robot_in_front_of_what_it_passes_is_no_news(drive, hides):
    def with_robot(frame):
        image, depth = frame.image.copy(), frame.depth.copy()
        image[120:, 100:221], depth[120:, 100:221] = 20, 0.35
        return replace(frame, image=image, depth=depth, transforms={'base': np.eye(4)})

    frames = [with_robot(frame) for frame in drive]
    oracle = Oracle(frames)
    pipeline = Pipeline(Engine(oracle, ModelConfig()), INFO, from_flat(hides))
    results = [pipeline.process(replace(frame, depth=None), ()) for frame in frames]
    carried = [result.gaussians is None for result in results]
    assert carried == [i % 3 > 0 for i in range(len(drive))]
    inside = np.s_[126:, 106:215]
    for result, depth_there in zip(results, (frame.depth[inside] for frame in drive), strict=True):
        depth = result.depth[inside]  # none, or that of what it passes
        assert (np.isnan(depth) | (depth > 0.6 * depth_there)).all()


def test_timings_name_the_network_only_where_it_ran(drive):
    _, results = run(drive)
    assert all('network' in result.timings_ms for result in results[::3])
    for result in (*results[1::3], *results[2::3]):
        assert not [name for name in result.timings_ms if name.startswith('network')]
        assert result.timings_ms['carry'] > 0


@pytest.mark.parametrize('refinement', [{'enabled': 'off'}, {'network_rate_hz': 0.0}])
def test_the_network_runs_on_every_image_where_nobody_carries(drive, refinement):
    oracle, _ = run(drive[:6], **refinement)
    assert oracle.asked == 6


def test_the_network_runs_on_every_image_of_visual_odometry(drive):
    oracle, _ = run(drive[:6], place=False)
    assert oracle.asked == 6


def test_planes_stay_planes():
    """Cells are looked up between cells, so that a floor has no steps."""
    y = (np.arange(240) - K.cy) / K.fy
    floor = np.where(y > 0.1, 1 / np.maximum(y, 0.1), 10.0)[:, None] * np.ones(320)
    image = np.full((240, 320, 3), 100, np.uint8)
    frame = Frame(image, K, 0, 'camera', np.eye(4), 'odom', floor.astype(np.float32))
    pose = transform(np.eye(3), np.array([0.013, 0.0, 0.021]))
    moved = replace(frame, stamp_ns=STEP_NS, T_world_camera=pose)
    carried = carrier_of(frame).carried(moved, RATE).depth
    below = slice(150, 238), slice(5, 315)  # where no camera height changes
    expected = (1 / y[:, None] * np.ones(320))[below]
    np.testing.assert_allclose(carried[below], expected, rtol=0.004)
