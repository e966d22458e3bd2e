"""Depth from motion as a step of the pipeline: when it is taken, and what it changes."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest
import torch

from sharp_ros.camera import Frame, Intrinsics, unproject
from sharp_ros.config import ModelConfig, PointCloudConfig, RefinementConfig, SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians
from sharp_ros.models import ModelInfo
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.pipeline import Pipeline
from sharp_ros.se3 import apply, transform
from sharp_ros.synthetic import Room

K = Intrinsics.from_hfov(1.2, 320, 240)
STEP_NS = 100_000_000
INFO = ModelInfo('mistaken', 'for tests', 'Apache-2.0', metric=True)
WAVES = np.array([[1.9, 0.7, 1.1], [-0.8, 1.7, 2.1], [2.3, -1.3, 0.4]])


def mistaken(depth, pose, factor=1.0):
    """A prediction that errs by waves through the world, and by a factor."""
    points = np.nan_to_num(apply(pose, unproject(depth, K).astype(np.float64)))
    return (factor * depth * np.exp(0.1 * np.sin(points @ WAVES.T).sum(-1))).astype(np.float32)


@pytest.fixture(scope='module')
def drive():
    """Frames with poses and true depth of the first 2.4 m."""
    room, frames = Room(seed=2), []
    for i in range(24):
        pose = room.pose(0.2 * i)
        image, depth = room.render(K, pose)
        frames.append(Frame(image, K, i * STEP_NS, 'camera', pose, 'world', depth))
    return frames


def pipeline(drive, config=None, info=INFO, factor=1.0):
    """One whose network errs as `mistaken` says, and states no deviation."""
    said = [mistaken(f.depth, f.T_world_camera, factor) for f in drive]

    def predictor(image, intrinsics, depth=None):
        if depth is not None:
            return gaussians_from_depth(torch.from_numpy(depth)[None], torch.zeros(3, 240, 320), K)
        z = next((z for f, z in zip(drive, said, strict=True) if f.image is image), said[0])
        return gaussians_from_depth(torch.from_numpy(z)[None], torch.zeros(3, 240, 320), K)

    engine = Engine(predictor, ModelConfig())
    return Pipeline(engine, info, config or SharpConfig(views={}))


def blind(frame):
    return replace(frame, depth=None)


def error(depth, truth):
    known = np.isfinite(depth) & (depth > 0)
    return float(np.mean(np.abs(depth[known] - truth[known]) / truth[known]))


def shape_error(depth, truth):
    known = np.isfinite(depth) & (depth > 0)
    return error(depth * np.median(truth[known] / depth[known]), truth)


@pytest.fixture(scope='module')
def both(drive):
    """Results with and without refinement, of a network that is 1.4 times too far."""
    out = []
    for enabled in ('auto', 'off'):
        run = pipeline(
            drive,
            SharpConfig(views={}, refinement=RefinementConfig(enabled=enabled)),
            factor=1.4,
        )
        out.append([run.process(blind(f), {'gaussians', 'points'}) for f in drive])
    return out


def test_published_depth_is_nearer_to_the_truth_in_shape_and_scale(drive, both):
    refined, plain = both
    last = slice(12, None)
    pairs = list(zip(refined[last], plain[last], drive[last], strict=True))
    shapes = np.array(
        [(shape_error(r.depth, f.depth), shape_error(p.depth, f.depth)) for r, p, f in pairs]
    )
    assert shapes[:, 0].mean() < 0.6 * shapes[:, 1].mean()
    whole = np.array([(error(r.depth, f.depth), error(p.depth, f.depth)) for r, p, f in pairs])
    assert whole[:, 0].mean() < 0.6 * whole[:, 1].mean()


def test_all_outputs_hold_the_same_depth(drive, both):
    for result in both[0]:
        z = result.gaussians.layer(0).means[:, 2].numpy().reshape(240, 320)
        known = np.isfinite(result.depth)
        np.testing.assert_allclose(z[known], result.depth[known], rtol=1e-3)
        np.testing.assert_allclose(result.cloud[..., 2][known], result.depth[known], rtol=1e-5)


def test_stated_deviation_holds_what_is_not_known_of_the_scale(both):
    for result in both[0]:
        assert result.log_std.shape == (60, 80)
        assert np.all(result.log_std >= math.sqrt(result.scale.log_variance) - 1e-6)
    assert both[0][-1].log_std.mean() < 0.5 * both[0][0].log_std.mean()


def test_points_that_are_too_uncertain_are_dropped(drive):
    config = SharpConfig(views={}, point_cloud=PointCloudConfig(max_std=0.15))
    run = pipeline(drive, config)
    for frame in drive[:16]:
        result = run.process(blind(frame), {'points'})
    std, kept = result.log_std_image(), np.isfinite(result.cloud[..., 2])
    assert 0.1 < kept.mean() < 0.99
    np.testing.assert_array_equal(kept, np.isfinite(result.depth) & (std <= np.float32(0.15)))


def test_nothing_is_done_where_it_is_switched_off(both):
    assert all(result.refinement is None for result in both[1])
    assert all('refinement' in result.timings_ms for result in both[1])


def test_measured_depth_is_left_as_it_is(drive):
    run = pipeline(drive, info=replace(INFO, needs_depth=True))
    for frame in drive[:6]:
        result = run.process(frame, set())
        assert result.refinement is None
        assert result.log_std is None
        known = np.isfinite(result.depth)
        np.testing.assert_array_equal(result.depth[known], frame.depth[known])


def test_without_a_pose_depth_is_left_as_predicted(drive):
    run = pipeline(drive)
    for frame in drive[:6]:
        result = run.process(replace(blind(frame), T_world_camera=None, world_frame=''), set())
        assert result.refinement is None


def test_visual_odometry_gives_poses_to_refine_by(drive):
    run = pipeline(drive)
    results = [
        run.process(replace(blind(f), T_world_camera=None, world_frame='odom'), set())
        for f in drive
    ]
    assert np.mean([r.refinement.measured.mean() for r in results[12:]]) > 0.3
    before = np.mean(
        [shape_error(mistaken(f.depth, f.T_world_camera), f.depth) for f in drive[12:]]
    )
    after = np.mean(
        [shape_error(r.depth, f.depth) for r, f in zip(results[12:], drive[12:], strict=True)]
    )
    assert after < 0.8 * before


def test_switching_it_on_and_off_while_it_runs(drive):
    run = pipeline(drive)
    off = SharpConfig(views={}, refinement=RefinementConfig(enabled='off'))
    for i, frame in enumerate(drive[:12]):
        if i in (4, 8):
            run.reconfigure(off if i == 4 else SharpConfig(views={}))
        result = run.process(blind(frame), set())
        assert (result.refinement is None) == (4 <= i < 8)
        if i == 8:
            assert not result.refinement.measured.any()  # what was seen before is forgotten


def test_a_jump_of_the_poses_is_no_baseline(drive):
    """As when a localisation corrects itself; else images would be compared over it."""
    run = pipeline(drive)
    shift = transform(np.eye(3), np.array([30.0, 0, 0]))
    for i, frame in enumerate(drive[:14]):
        pose = frame.T_world_camera if i < 10 else shift @ frame.T_world_camera
        result = run.process(replace(blind(frame), T_world_camera=pose), set())
        if i in (0, 10):
            assert result.refinement.obstacle == 'no_baseline'
            assert not result.refinement.correction.any()


def test_poses_that_stand_while_images_move_cost_nothing_until_they_move_again(drive):
    """Steps are too small for one to be implausible; depth carried over would be left behind."""
    run, plain = pipeline(drive), pipeline(drive, SharpConfig(refinement=RefinementConfig('off')))
    results, before = [], []
    for i, frame in enumerate(drive):
        pose = drive[0 if i < 16 else i].T_world_camera
        seen = replace(blind(frame), T_world_camera=pose)
        results.append(run.process(seen, set()))
        before.append(plain.process(seen, set()))
    for result, plain_result, frame in zip(results[:16], before, drive, strict=False):
        worst = shape_error(plain_result.depth, frame.depth) + 0.02
        assert shape_error(result.depth, frame.depth) < worst
    stood = results[:16]
    assert not stood[-1].refinement.poses_hold
    assert stood[-1].refinement.obstacle == 'poses_disagree'
    assert error(stood[-1].depth, drive[15].depth) < 0.15  # the scale of the network is right
    assert results[-1].refinement.poses_hold
    assert results[-1].refinement.measured.any()


def test_gaussians_are_corrected_by_their_place_in_the_image():
    n = 2 * 4 * 6
    rng = np.random.default_rng(0)
    gaussians = Gaussians(
        means=torch.from_numpy(rng.uniform(1, 2, (n, 3)).astype(np.float32)),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        scales=torch.ones(n, 3),
        opacities=torch.ones(n),
        colors=torch.zeros(n, 3),
        grid=(2, 4, 6),
    )
    field = rng.normal(size=(4, 6)).astype(np.float32)
    corrected = gaussians.corrected(field)
    factor = np.tile(np.exp(field).ravel(), 2)
    np.testing.assert_allclose(corrected.scales[:, 0], factor, rtol=1e-5)
    np.testing.assert_allclose(
        corrected.means, gaussians.means.numpy() * factor[:, None], rtol=1e-5
    )
    with pytest.raises(InputError, match='correct those of the prediction'):
        corrected.select(slice(0, 5)).corrected(field)
