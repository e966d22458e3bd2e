"""Depth corrected by motion: in a room whose depth is known, with a prior that errs smoothly."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sharp_ros.camera import Intrinsics, project, unproject
from sharp_ros.se3 import angle, apply, inverse, transform
from sharp_ros.stereo import DepthRefiner
from sharp_ros.stereo.alignment import align
from sharp_ros.stereo.field import fused_field
from sharp_ros.stereo.references import Reference, References
from sharp_ros.stereo.sweep_kernels import census
from sharp_ros.synthetic import Room
from sharp_ros.tracks import corners

INTRINSICS = Intrinsics.from_hfov(1.2, 320, 240)
STEP_NS = 100_000_000
STATED = np.full((24, 32), 0.15, np.float32)  # of the prior, whose errors are of this size
WAVES = np.array([[1.9, 0.7, 1.1], [-0.8, 1.7, 2.1], [2.3, -1.3, 0.4]])


def mistaken(depth, pose):
    """A prior that errs by waves through the world, 0.12 in log, as networks do."""
    points = np.nan_to_num(apply(pose, unproject(depth, INTRINSICS).astype(np.float64)))
    return (depth * np.exp(0.1 * np.sin(points @ WAVES.T).sum(-1))).astype(np.float32)


@pytest.fixture(scope='module')
def drive():
    """Gray images, priors, true depth and poses of the first 2 m."""
    room, frames = Room(seed=0), []
    for _, pose in room.trajectory(4.0, 10):
        image, depth = room.render(INTRINSICS, pose)
        frames.append(
            (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), mistaken(depth, pose), depth, pose)
        )
    return frames


def refined(frames, poses=None, factor=1.0):
    """Of a prior that is the true one in the mean, if multiplied by something else."""
    refiner, out = DepthRefiner(), []
    for i, (gray, prior, _, true) in enumerate(frames):
        pose = true if poses is None else poses[i]
        out.append(refiner.refine(gray, INTRINSICS, i * STEP_NS, pose, prior, STATED, factor))
    return out


def abs_rel(depth, truth):
    """After the median is set right, which is not what a correction is for."""
    known = (truth > 0.1) & np.isfinite(depth)
    depth, truth = depth[known], truth[known]
    return float(np.mean(np.abs(depth * np.median(truth / depth) - truth) / truth))


def errors(frames, results):
    """Mean AbsRel of the prior and of what became of it."""
    before = [abs_rel(prior, truth) for _, prior, truth, _ in frames]
    after = [
        abs_rel(result.applied(prior), truth)
        for result, (_, prior, truth, _) in zip(results, frames, strict=True)
    ]
    return float(np.mean(before)), float(np.mean(after))


def test_a_moving_camera_halves_the_error_of_a_prior(drive):
    results = refined(drive)
    before, after = errors(drive[10:], results[10:])
    assert before > 0.07
    assert after < 0.5 * before
    assert all(not result.obstacle for result in results[10:])
    assert np.mean([result.measured.mean() for result in results[10:]]) > 0.5


def test_stated_deviations_are_true(drive):
    """Of two thirds of the errors, and never of less than nine in ten within two of them."""
    inside = []
    for result, (_, prior, truth, _) in zip(refined(drive)[10:], drive[10:], strict=True):
        error = np.log(result.applied(prior) / truth)
        std = cv2.resize(result.std, (320, 240))
        inside.append(np.abs(error - np.median(error)) / std)
    assert np.mean(np.array(inside) < 1) > 0.6
    assert np.mean(np.array(inside) < 2) > 0.92


def test_the_correction_leaves_the_scale_as_a_whole(drive):
    for result in refined(drive):
        assert np.median(result.correction) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('factor', [0.8, 1.0, 1.25])
def test_the_scale_is_measured_with_a_deviation_that_is_true(drive, factor):
    results = refined(drive, factor=factor)[10:]
    errs = []
    for result, (_, prior, truth, _) in zip(results, drive[10:], strict=True):
        assert result.scale is not None
        true = math.log(np.median(truth / result.applied(prior)))
        errs.append((result.scale.log_scale - true, result.scale.std))
    error, std = np.array(errs).T
    assert np.abs(np.median(error)) < 0.1
    assert np.all(np.abs(error) < 3 * std)


def test_corners_before_something_farther_do_not_shrink_the_scale(drive):
    """Their depth is often that behind them: the scale of exact depth came out 1.7 % too small."""
    exact = [(gray, depth, depth, pose) for gray, _, depth, pose in drive]
    scales = [result.scale.log_scale for result in refined(exact)[10:] if result.scale]
    assert len(scales) > 20
    assert np.abs(np.median(scales)) < 0.014


@pytest.mark.parametrize('factor', [0.3, 3.0])
def test_a_scale_that_is_far_off_is_found_by_trial(drive, factor):
    results = refined(drive, factor=factor)
    found = [result.scale.log_scale for result in results if result.scale is not None]
    assert len(found) > 5
    assert np.median(found) == pytest.approx(0, abs=0.25)


@pytest.mark.parametrize('factor', [0.25, 4.0])
def test_a_slow_camera_tries_all_scales_at_once(drive, factor):
    """At 2 Hz there is time, and after an image or two the places are out of view."""
    refiner, found = DepthRefiner(), []
    for i, (gray, prior, _, pose) in enumerate(drive[::5]):
        depth = prior * np.float32(factor)
        result = refiner.refine(gray, INTRINSICS, i * 500_000_000, pose, depth, STATED)
        found.append(None if result.scale is None else result.scale.log_scale + math.log(factor))
    first = next(i for i, value in enumerate(found) if value is not None)
    assert first <= 2
    assert found[first] == pytest.approx(0, abs=0.3)


def at_random(poses, rng, shift, turn):
    moved = []
    for pose in poses:
        rotation = cv2.Rodrigues(turn * rng.standard_normal(3))[0]
        moved.append(pose @ transform(rotation, shift * rng.standard_normal(3)))
    return moved


@pytest.mark.parametrize('fault', ['frozen', 'reversed', 'random', 'late', 'jitter', 'slip'])
def test_wrong_poses_never_make_a_prior_worse(drive, fault):
    poses, rng = [pose for *_, pose in drive], np.random.default_rng(0)
    wrong = {
        'frozen': [poses[0]] * len(poses),
        'reversed': poses[::-1],
        'random': at_random(poses, rng, 0.3, 0.3),
        'late': [poses[0], *poses[:-1]],
        'jitter': at_random(poses, rng, 0.01, 0.005),
        'slip': [transform(pose[:3, :3], 2 * pose[:3, 3]) for pose in poses],
    }[fault]
    before, after = errors(drive, refined(drive, wrong))
    assert after <= before + 0.002


def test_a_camera_that_turns_on_the_spot_learns_nothing_and_spoils_nothing():
    room, frames = Room(seed=0), []
    start = room.pose(0.0)
    for i in range(8):
        pose = start @ transform(cv2.Rodrigues(np.array([0, 0.03 * i, 0]))[0], np.zeros(3))
        image, depth = room.render(INTRINSICS, pose)
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        frames.append((gray, mistaken(depth, pose), depth, pose))
    results = refined(frames)
    assert {result.obstacle for result in results} == {'no_baseline'}
    assert not any(result.measured.any() for result in results)
    before, after = errors(frames, results)
    assert after <= before + 0.002


def test_an_image_that_stands_still_changes_nothing(drive):
    results = refined([drive[0]] * 4)
    for result in results:
        np.testing.assert_allclose(result.correction, 0, atol=1e-3)
        assert result.scale is None


def test_what_is_not_known_stays_unknown(drive):
    gray, prior, _, pose = drive[12]
    refiner = DepthRefiner()
    for i, frame in enumerate(drive[:12]):
        refiner.refine(frame[0], INTRINSICS, i * STEP_NS, frame[3], frame[1], STATED)
    holes = prior.copy()
    holes[:40], holes[60:80], holes[100:110] = np.nan, 0, np.inf
    result = refiner.refine(gray, INTRINSICS, 12 * STEP_NS, pose, holes, STATED)
    depth = result.applied(holes)
    assert np.isnan(depth[:40]).all()
    assert (depth[60:80] == 0).all()
    assert np.isposinf(depth[100:110]).all()
    assert np.isfinite(result.correction).all()
    assert np.isfinite(result.std).all()


def test_an_image_without_any_depth_or_texture_is_no_error(drive):
    refiner = DepthRefiner()
    for i, (gray, prior, _, pose) in enumerate(drive[:4]):
        refiner.refine(gray, INTRINSICS, i * STEP_NS, pose, prior, STATED)
    gray, prior, _, pose = drive[4]
    blank = refiner.refine(np.full_like(gray, 90), INTRINSICS, 4 * STEP_NS, pose, prior, STATED)
    assert blank.obstacle == 'no_texture'
    none = refiner.refine(gray, INTRINSICS, 5 * STEP_NS, pose, np.full_like(prior, np.nan), STATED)
    assert np.isfinite(none.correction).all()


def test_poses_once_found_wrong_are_not_believed_again_by_an_image_that_shows_nothing(drive):
    """At one image a second, of poses that stand still while the camera moves."""
    refiner, held = DepthRefiner(), []
    for n, i in enumerate((10, 14, 18, None, 18, 18)):
        gray, prior, _, _ = drive[18 if i is None else i]
        gray = np.full_like(gray, 120) if i is None else gray
        stamp_ns = n * 1_100_000_000
        found = refiner.refine(gray, INTRINSICS, stamp_ns, drive[0][3], prior, STATED)
        held.append(found.poses_hold)
    assert held[:3] == [True, True, False]  # the second step that no standing camera makes
    assert held[3] is False
    assert held[5] is True  # it stands now, and was looked at for as long as that takes


def test_another_camera_and_a_step_back_in_time_begin_anew(drive):
    refiner = DepthRefiner()

    def run(intrinsics, first_ns):
        out = []
        for i, (gray, prior, _, pose) in enumerate(drive[:6]):
            out.append(
                refiner.refine(gray, intrinsics, first_ns + i * STEP_NS, pose, prior, STATED)
            )
        return [result.correction for result in out]

    first = run(INTRINSICS, 10**10)
    again = run(INTRINSICS, 0)
    other = Intrinsics.from_hfov(1.19, 320, 240)
    run(other, 10**9)
    last = run(INTRINSICS, 0)
    for one, two, three in zip(first, again, last, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)
        np.testing.assert_allclose(three, one, atol=1e-6)


@pytest.mark.parametrize('size', [(640, 480), (320, 240), (48, 64)])
def test_warm_up_goes_through_every_step(size, monkeypatch):
    """Else a kernel would be compiled while a robot drives."""
    seen = []
    refiner, refine = DepthRefiner(), DepthRefiner.refine
    monkeypatch.setattr(
        DepthRefiner, 'refine', lambda self, *a: seen.append(refine(self, *a)) or seen[-1]
    )
    refiner.warm_up(Intrinsics.from_hfov(1.2, *size))
    assert seen[-1].measured.any()
    assert seen[-1].scale is not None


def test_any_shape_of_image_will_do(drive):
    gray, prior, _, pose = drive[0]
    for rows, columns in ((240, 137), (240, 320), (13, 320), (240, 9)):
        intrinsics = INTRINSICS.cropped(0, 0, columns, rows)
        refiner = DepthRefiner()
        for i in range(2):
            moved = pose @ transform(np.eye(3), np.array([0.2 * i, 0, 0]))
            result = refiner.refine(
                gray[:rows, :columns],
                intrinsics,
                i * STEP_NS,
                moved,
                prior[:rows, :columns],
                STATED,
            )
            assert result.applied(prior[:rows, :columns]).shape == (rows, columns)


# --- parts ---------------------------------------------------------------------------------------


def test_alignment_corrects_the_pose_of_another_image(drive):
    gray, _, depth, pose = drive[12]
    other, _, _, there = drive[8]
    true = inverse(there) @ pose
    wrong = transform(cv2.Rodrigues(np.array([0.004, -0.006, 0.003]))[0], [0.008, -0.01, 0.006])
    px = corners(gray, np.empty((0, 2)), 300)
    x, y = np.rint(px).astype(int).T
    known = np.isfinite(depth[y, x]) & (depth[y, x] > 0.1)
    found = align(
        gray,
        [other],
        (wrong @ true)[None],
        px[known],
        depth[y, x][known].astype(np.float64),
        INTRINSICS,
    )
    assert found is not None
    before, after = wrong, found.T[0] @ inverse(true)
    assert angle(after) < 0.4 * angle(before)
    points = unproject(depth, INTRINSICS)[::8, ::8].reshape(-1, 3).astype(np.float64)
    miss = project(apply(found.T[0], points), INTRINSICS) - project(
        apply(true, points), INTRINSICS
    )
    assert np.nanmedian(np.linalg.norm(miss, axis=1)) < 0.5  # pixels


def test_tracks_that_suit_any_scale_tell_none(drive):
    """Over a baseline below what poses are good for, their errors explain every depth."""
    (before, _, _, T_before), (gray, _, depth, T_now) = drive[10], drive[12]
    px = corners(gray, np.empty((0, 2)), 200)
    column, row = px.astype(int).T
    relative = inverse(T_before) @ T_now
    for scale, telling in ((1.0, True), (0.02, False)):
        # the same images, of a world that is so many times as large
        T = transform(relative[:3, :3], scale * relative[:3, 3])
        z = scale * depth[row, column].astype(np.float64)
        aligned = align(gray, [before], T[None], px, z, INTRINSICS)
        assert aligned is not None
        assert math.isfinite(aligned.log_scale_std) == telling


def test_an_image_that_no_pose_explains_makes_no_corner_move(drive):
    """As by a rolling shutter: else what others show would count as moving by itself."""
    gray, _, depth, pose = drive[12]
    px = corners(gray, np.empty((0, 2)), 300)
    x, y = np.rint(px).astype(int).T
    known = np.isfinite(depth[y, x]) & (depth[y, x] > 0.1)
    T = np.stack([inverse(drive[8][3]) @ pose, inverse(drive[10][3]) @ pose])
    u, v = np.meshgrid(np.arange(320, dtype=np.float32), np.arange(240, dtype=np.float32))
    shaken = cv2.remap(drive[10][0], u + 10 * np.sin(v / 25), v, cv2.INTER_LINEAR)
    found = align(
        gray,
        [drive[8][0], shaken],
        T,
        px[known],
        depth[y, x][known].astype(np.float64),
        INTRINSICS,
    )
    assert found is not None
    assert found.used == (0,)
    assert found.outlying.mean() < 0.1


def test_references_are_some_way_apart_and_not_for_ever():
    references = References()
    gray = np.zeros((8, 8), np.uint8)

    def at(x, seconds):
        pose = transform(np.eye(3), np.array([x, 0.0, 0.0]))
        return Reference(int(seconds * 1e9), pose, gray)

    for i in range(100):
        references.add(at(0.01 * i, 0.1 * i), depth=2.0)
    here = transform(np.eye(3), np.array([0.99, 0.0, 0.0]))
    baselines = [here[0, 3] - r.T_world_camera[0, 3] for r in references.chosen(here, 2.0)]
    np.testing.assert_allclose(baselines, [0.1, 0.24, 0.5], atol=0.02)
    references.add(at(5.0, 60.0), depth=2.0)
    assert references.chosen(here, 2.0) == []


def test_references_keep_the_census_of_few_images():
    references, rng = References(), np.random.default_rng(0)
    images = [
        Reference(i, np.eye(4), rng.integers(0, 255, (24, 32), np.uint8)) for i in range(1, 30)
    ]
    for image in [*images, *images[:3], images[-1]]:
        np.testing.assert_array_equal(references.census(image), census(image.gray))
    assert references.census(images[-1]) is references.census(images[-1])
    assert len(references._censuses) < 10
    references.reset()
    assert not references._censuses


def test_a_field_follows_what_is_measured_and_fades_where_nothing_is():
    log_depth = np.zeros((20, 30), np.float32)
    log_depth[:, 15:] = 1.0  # another surface
    measured = np.zeros((20, 30), np.float32)
    information = np.zeros((20, 30), np.float32)
    measured[:, :10], information[:, :10] = 0.2, 400
    field = fused_field(measured, information, log_depth, np.zeros((20, 30), np.float32))
    np.testing.assert_allclose(field[:, :9], 0.2, atol=0.02)
    assert 0.05 < field[10, 14] < 0.15
    assert np.abs(field[:, 15:]).max() < 0.05
