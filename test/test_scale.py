from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np
import pytest

from sharp_ros.camera import Frame, Intrinsics, project, unproject
from sharp_ros.config import ScaleConfig
from sharp_ros.errors import InputError
from sharp_ros.localization.scale_anchors import (
    consistency_scale,
    height_scale,
    parallax_scale,
    ParallaxAnchor,
    ScaleObservation,
    sensor_scale,
)
from sharp_ros.localization.scale_filter import ANCHORS, ScaleFilter
from sharp_ros.se3 import apply, interpolate, inverse, look_at, transform
from sharp_ros.stereo import MeasuredScale
from sharp_ros.synthetic import plane_depth, Room

K = Intrinsics.from_hfov(1.2, 160, 120)
STILL = np.eye(4)
BIAS = 1.47  # true over predicted depth of the network that is played here


@dataclass(frozen=True)
class Tracks:
    keyframe_px: np.ndarray
    now_px: np.ndarray
    T_keyframe_camera: np.ndarray
    keyframe_stamp_ns: int = 0


class Depths:
    """True depth of a room, without the light that its images need seconds for."""

    def __init__(self, seed):
        import open3d as o3d

        self.room = Room(seed)
        corners, half = self.room.patches
        quads = np.arange(4 * len(corners)).reshape(-1, 4)
        triangles = np.concatenate([quads[:, [0, 1, 3]], quads[~half][:, [2, 3, 1]]])
        self._caster = o3d.t.geometry.RaycastingScene()
        self._caster.add_triangles(
            o3d.core.Tensor(corners.reshape(-1, 3).astype(np.float32)),
            o3d.core.Tensor(triangles.astype(np.uint32)),
        )
        self._tensor = o3d.core.Tensor

    def at(self, T_world_camera, intrinsics=K):
        rays = unproject(np.ones((intrinsics.height, intrinsics.width), np.float32), intrinsics)
        directions = rays @ T_world_camera[:3, :3].T
        origins = np.broadcast_to(T_world_camera[:3, 3], directions.shape)
        cast = np.concatenate([origins, directions], -1).astype(np.float32)
        return self._caster.cast_rays(self._tensor(cast))['t_hit'].numpy().copy()


@pytest.fixture(scope='module')
def room():
    return Depths(1)


@pytest.fixture(scope='module')
def drive(room):
    """Stamps, poses and true depths: 6 s, 3 m, at 10 Hz."""
    return [(round(t * 1e9), T, room.at(T)) for t, T in room.room.trajectory(6.0, 10.0)]


def noisy(rng, depth, scale, noise=0.03):
    """What a network predicts where the true depth is `scale` times as much."""
    return (depth / scale * np.exp(rng.normal(0, noise, depth.shape))).astype(np.float32)


def tracks_between(rng, T0, depth0, T1, px=0.3):
    """Points of one view found in another, to a fraction of a pixel."""
    v, u = rng.integers([[K.height], [K.width]], size=(2, 300))
    T_1_0 = inverse(T1) @ T0
    in_1 = apply(T_1_0, unproject(depth0, K)[v, u].astype(np.float64))
    now = project(in_1, K)
    seen = np.all((now >= 0) & (now < (K.width, K.height)), axis=1)
    before = np.stack([u, v], -1)[seen] + rng.normal(0, px, (seen.sum(), 2))
    return Tracks(before, now[seen] + rng.normal(0, px, (seen.sum(), 2)), inverse(T_1_0))


def update(
    scale,
    stamp_ns,
    depth,
    intrinsics,
    *,
    pose_is_metric,
    T_world_camera=None,
    tracks=None,
    sensor_depth=None,
    height=None,
    up=None,
    network_std=None,
):
    """Show a frame to the filter; a height with `up` comes by tf, one without by parameter."""
    image = np.zeros((intrinsics.height, intrinsics.width, 3), np.uint8)
    frame = Frame(image, intrinsics, stamp_ns, 'camera', T_world_camera, depth=sensor_depth)
    if up is not None:
        scale.config = replace(scale.config, floor_frame='floor')
        right = np.cross([0.0, 1.0, 0.0], up)
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(up, right), up], 1)
        frame = replace(frame, transforms={'floor': transform(axes, -height * np.array(up))})
    elif height:
        scale.config = replace(scale.config, camera_height=height)
    return scale.update(
        frame, depth, tracks, pose_is_metric=pose_is_metric, network_std=network_std
    )


def stamp(i, rate):
    return 1_700_000_000 * 10**9 + round(i / rate * 1e9)


@pytest.mark.parametrize('seed', range(4))
def test_a_static_scene_is_steady_although_every_frame_has_its_own_scale(room, seed):
    rng = np.random.default_rng(seed)
    truth, scale = room.at(room.room.pose(seed)), ScaleFilter(ScaleConfig())
    medians = []
    for i in range(300):
        predicted = noisy(rng, truth, rng.uniform(0.85, 1.15))
        estimate = update(
            scale, stamp(i, 30), predicted, K, T_world_camera=STILL, pose_is_metric=False
        )
        medians.append(np.median(predicted) * estimate.value)
    assert np.std(medians) / np.mean(medians) < 0.015
    assert estimate.sources == {'consistency': 299}


@pytest.mark.parametrize(
    ('rate', 'factor'), [(10, 1 / 1.4), (10, 2.5), (30, 1.2), (30, 1.4), (5, 2.5)]
)
def test_a_still_camera_before_which_the_scene_changes_shows_it_within_a_second(rate, factor):
    rng = np.random.default_rng(0)
    scale = ScaleFilter(ScaleConfig())
    before, errors = 4 * rate, []
    for i in range(6 * rate):
        truth = plane_depth(K, 2.0 * (factor if i >= before else 1.0))
        predicted = noisy(rng, truth, rng.uniform(0.85, 1.15))
        estimate = update(
            scale, stamp(i, rate), predicted, K, T_world_camera=STILL, pose_is_metric=False
        )
        errors.append(np.log(np.median(predicted) * estimate.value / np.median(truth)))
    # What the first frame was off stays, for nobody knows it.
    offset = np.mean(errors[before // 2 : before])
    assert np.abs(errors[before + rate :] - offset).max() < 0.1
    assert np.std(errors[before + rate :]) < 0.02


@pytest.mark.parametrize('rate', [10, 30])
@pytest.mark.parametrize('anchor', ['sensor', 'sensor and a still camera', 'height'])
def test_a_step_of_the_network_is_followed_within_a_second(room, rate, anchor):
    rng = np.random.default_rng(1)
    T = room.room.pose(0.0)
    truth, scale = room.at(T), ScaleFilter(ScaleConfig())
    for i in range(5 * rate):
        step = 1.4 if i >= 3 * rate else 1.0
        true = step * rng.uniform(0.85, 1.15)
        given = (
            {'height': T[2, 3], 'up': T[2, :3]} if anchor == 'height' else {'sensor_depth': truth}
        )
        pose = STILL if 'still' in anchor else None
        estimate = update(
            scale,
            stamp(i, rate),
            noisy(rng, truth, true),
            K,
            T_world_camera=pose,
            pose_is_metric=False,
            **given,
        )
        if rate <= i < 3 * rate or i >= 4 * rate:
            assert abs(np.log(estimate.value / true)) < 0.03


def run_drive(drive, seed, *, every=5, **options):
    """Errors of log scale and their predicted standard deviations along a drive."""
    rng = np.random.default_rng(seed)
    scale, key, rows = ScaleFilter(ScaleConfig()), drive[0], []
    for i, (now_ns, T, truth) in enumerate(drive):
        true = BIAS * rng.uniform(0.85, 1.15)
        tracks = tracks_between(rng, key[1], key[2], T) if options.get('tracks', True) else None
        estimate = update(
            scale,
            now_ns,
            noisy(rng, truth, true),
            K,
            T_world_camera=T,
            pose_is_metric=True,
            tracks=tracks,
            height=options.get('height') and T[2, 3],
        )
        rows.append((np.log(estimate.value / true), np.sqrt(estimate.log_variance)))
        if i % every == 0:
            key = drive[i]
    return np.array(rows), estimate


@pytest.mark.parametrize('seed', range(4))
def test_a_metre_of_metric_motion_gives_the_scale(drive, seed):
    rows, estimate = run_drive(drive, seed)
    assert np.abs(rows[20:, 0]).max() < 0.03  # 0.5 m/s, 10 Hz
    assert estimate.sources['parallax'] > 20


@pytest.mark.parametrize('seed', range(2))
def test_the_height_over_the_floor_gives_the_scale(drive, seed):
    rows, estimate = run_drive(drive, seed, tracks=False, height=True)
    assert np.abs(rows[20:, 0]).max() < 0.03
    assert estimate.sources['height'] > 20


def test_errors_are_within_three_of_the_standard_deviations_given(drive):
    runs = [
        run_drive(drive, seed, tracks=tracks, height=height)[0]
        for seed in range(3)
        for tracks, height in [(True, False), (False, True), (False, False)]
    ]
    errors, stds = np.concatenate(runs).T
    assert np.mean(np.abs(errors) < 3 * stds) >= 0.95


def steady(scale, frames=30, rate=10, **given):
    """Let the filter see the same plane at 2 m for a while; its last estimate."""
    for i in range(frames):
        estimate = update(
            scale,
            stamp(i, rate),
            plane_depth(K, 2.0),
            K,
            T_world_camera=STILL,
            pose_is_metric=False,
            **given,
        )
    return estimate


def test_a_person_walking_through_a_third_of_the_image_moves_nothing(room):
    rng = np.random.default_rng(2)
    truth, scale = room.at(room.room.pose(1.0)), ScaleFilter(ScaleConfig())
    factors = []
    for i in range(60):
        frame = rng.uniform(0.85, 1.15)
        predicted = noisy(rng, truth, frame)
        if i >= 10:
            left = i % 40 * 2
            predicted[:, left : left + 48] = 0.8 / frame
        estimate = update(
            scale, stamp(i, 10), predicted, K, T_world_camera=STILL, pose_is_metric=False
        )
        factors.append(estimate.value / frame)
    assert np.std(factors) / np.mean(factors) < 0.01


def test_the_wrong_one_of_several_anchors_is_refused(drive):
    rng = np.random.default_rng(3)
    scale, key = ScaleFilter(ScaleConfig()), drive[0]
    for i, (now_ns, T, truth) in enumerate(drive[:40]):
        estimate = update(
            scale,
            now_ns,
            noisy(rng, truth, BIAS),
            K,
            T_world_camera=T,
            pose_is_metric=True,
            tracks=tracks_between(rng, key[1], key[2], T),
            height=T[2, 3],
            sensor_depth=2 * truth,
        )
        key = drive[i] if i % 5 == 0 else key
    assert abs(np.log(estimate.value / BIAS)) < 0.03
    # of the first frame nobody knows which of two is wrong
    assert estimate.sources.get('sensor', 0) <= 1
    assert estimate.sources['sensor_refused'] >= 39


@pytest.mark.parametrize('slip', [1.0, 1.5, 0.7])
def test_odometry_that_contradicts_the_height_of_the_camera_is_reported_with_both(drive, slip):
    """Wheels that slip: the way is told as longer, or shorter, than it is."""
    rng = np.random.default_rng(4)
    scale, key, disputes = ScaleFilter(ScaleConfig()), drive[0], []
    for i, (now_ns, T, truth) in enumerate(drive):
        told, told_key = T.copy(), key[1].copy()
        told[:3, 3] *= slip
        told_key[:3, 3] *= slip
        tracks = tracks_between(rng, key[1], key[2], T)
        estimate = update(
            scale,
            now_ns,
            noisy(rng, truth, BIAS),
            K,
            T_world_camera=told,
            pose_is_metric=True,
            tracks=replace(tracks, T_keyframe_camera=inverse(told_key) @ told),
            height=T[2, 3],
        )
        disputes.append(estimate.disputed)
        key = drive[i] if i % 5 == 0 else key
    if slip == 1.0:
        assert not any(disputes)
        return
    assert any(disputes[:40])
    said = next(filter(None, disputes))
    assert said['height'] == pytest.approx(BIAS, rel=0.1)
    assert said['parallax'] == pytest.approx(slip * BIAS, rel=0.15)


def test_a_single_wrong_observation_is_not_believed_and_several_are_within_half_a_second():
    depth, reading = plane_depth(K, 2.0), None

    class Reader(ParallaxAnchor):
        def observe(self, frame, depth, tracks):
            return reading

    scale = ScaleFilter(ScaleConfig(), [Reader])
    values = []
    for i in range(60):
        factor = 0.3 if i == 1 else 0.74 if i < 40 else 1.2
        reading = ScaleObservation(math.log(factor), 0.05**2 + 0.05**2, 'parallax')
        estimate = update(scale, stamp(i, 30), depth, K, T_world_camera=STILL, pose_is_metric=True)
        values.append(math.log(estimate.value))
    assert min(values) > math.log(0.6)
    assert abs(values[20] - math.log(0.74)) < 0.05
    assert np.abs(np.array(values[56:]) - math.log(1.2)).max() < 0.06  # 0.53 s later


def test_a_network_that_errs_otherwise_in_another_place_is_followed_with_the_second_frame():
    """Of a camera of 1.5 Hz, none of whose images resembles the one before."""
    depth, scale = plane_depth(K, 2.0), ScaleFilter(ScaleConfig())
    found = []
    for i in range(20):
        factor = 0.8 if i < 15 else 0.0
        pose = transform(np.eye(3), np.array([10.0 * i, 0, 0]))
        estimate = update(
            scale,
            stamp(i, 1.5),
            depth,
            K,
            tracks=MeasuredScale(factor, 0.1),
            T_world_camera=pose,
            pose_is_metric=True,
        )
        found.append((math.log(estimate.value), math.sqrt(estimate.log_variance)))
    for value, std in found[5:15]:
        assert abs(value - 0.8) < 0.08
        assert std < 0.2
    assert found[15][0] < 2 * found[15][1]  # one may be wrong; but now it is not sure
    for value, std in found[16:]:
        assert abs(value) < 0.15
        assert abs(value) < 2 * std


def test_an_anchor_that_alone_contradicts_is_believed_only_when_it_persists():
    depth, scale = plane_depth(K, 2.0), ScaleFilter(ScaleConfig())
    steady(scale, sensor_depth=depth)
    for i in range(30, 40):
        estimate = update(
            scale,
            stamp(i, 10),
            depth,
            K,
            T_world_camera=STILL,
            pose_is_metric=False,
            sensor_depth=2 * depth,
        )
        if i < 32:
            assert abs(np.log(estimate.value)) < 0.1
    assert abs(np.log(estimate.value / 2)) < 0.05


def test_what_a_sensor_gets_wrong_for_good_stays_in_doubt():
    estimate = steady(ScaleFilter(ScaleConfig()), sensor_depth=plane_depth(K, 2.0))
    assert 0.01 <= np.sqrt(estimate.log_variance) < 0.015  # of the sensor, and of the bins


@pytest.mark.parametrize('shape', [(120, 160), (3, 4), (1, 1)])
@pytest.mark.parametrize('content', [np.nan, 0.0, np.inf, -1.0])
def test_without_depth_nothing_is_observed_and_doubt_grows(shape, content):
    empty = np.full(shape, content, np.float32)
    intrinsics = Intrinsics.from_hfov(1.2, *shape[::-1])
    scale = ScaleFilter(ScaleConfig(camera_height=1.0))
    known = steady(scale, sensor_depth=plane_depth(K, 2.0))
    variances = [known.log_variance]
    for i in range(30, 40):
        estimate = update(
            scale,
            stamp(i, 10),
            empty,
            intrinsics,
            T_world_camera=STILL,
            pose_is_metric=False,
            sensor_depth=empty,
        )
        variances.append(estimate.log_variance)
    assert estimate.value == pytest.approx(known.value, abs=0.02)
    assert np.all(np.diff(variances[-8:]) > 0)
    assert {k: v for k, v in estimate.sources.items() if k != 'height'} == known.sources


def test_nothing_known_means_factor_one_and_the_doubt_of_the_prior():
    config = ScaleConfig(prior_std=0.4)
    scale = ScaleFilter(config)
    for _ in range(2):
        estimate = update(scale, 0, plane_depth(K, 2.0), K, pose_is_metric=False)
        assert estimate.value == pytest.approx(1.0)
        assert 0.16 < estimate.log_variance < 0.25  # and what a single frame is off
        later = update(scale, stamp(1, 10), plane_depth(K, 2.0), K, pose_is_metric=False)
        assert later.value == pytest.approx(1.0)
        assert later.log_variance > estimate.log_variance - 1e-6
        scale.reset()


@pytest.mark.parametrize('pose', [STILL, None])
def test_what_the_network_says_of_its_metres_is_the_doubt_to_begin_with(pose):
    depth, config = plane_depth(K, 2.0), ScaleConfig(prior_std=0.4)

    def stds(stated):
        scale = ScaleFilter(config)
        given = {'T_world_camera': pose, 'pose_is_metric': False, 'network_std': stated}
        first = update(scale, 0, depth, K, **given)
        return math.sqrt(first.log_variance), math.sqrt(first.bias_variance)

    assert stds(0.1) == stds(None)  # what is usual holds for a network that is sure of itself
    assert stds(0.9)[0] == pytest.approx(0.9, rel=0.1)
    assert stds(0.9)[1] == pytest.approx(0.9, rel=0.1)


@pytest.mark.parametrize('stated', [None, 0.3])
def test_another_prior_holds_from_the_next_frame_on(stated):
    depth = plane_depth(K, 2.0)

    def doubt(prior, then):
        scale = ScaleFilter(ScaleConfig(prior_std=prior))
        given = {'pose_is_metric': False, 'network_std': stated}
        update(scale, 0, depth, K, sensor_depth=1.5 * depth, **given)
        scale.config = ScaleConfig(prior_std=then)
        return update(scale, stamp(60, 1), depth, K, **given).bias_variance

    assert doubt(0.3, 0.9) > 1.5 * doubt(0.3, 0.3)


def test_a_doubt_that_comes_late_takes_back_nothing_that_was_learnt():
    depth = plane_depth(K, 2.0)
    sure, told = (ScaleFilter(ScaleConfig()) for _ in range(2))
    for scale in (sure, told):
        steady(scale, sensor_depth=1.5 * depth)
    given = {'T_world_camera': STILL, 'pose_is_metric': False, 'sensor_depth': 1.5 * depth}
    later = [
        update(scale, stamp(200, 10), depth, K, **given, network_std=std)
        for scale, std in ((sure, None), (told, 0.9))
    ]
    assert later[1].value == pytest.approx(later[0].value, rel=1e-3)
    assert later[1].log_variance == pytest.approx(later[0].log_variance, rel=0.1)


def test_time_that_goes_back_starts_anew():
    depth, scale = plane_depth(K, 2.0), ScaleFilter(ScaleConfig())
    assert steady(scale, sensor_depth=1.5 * depth).value == pytest.approx(1.5, rel=0.02)
    estimate = update(scale, 0, depth, K, T_world_camera=STILL, pose_is_metric=False)
    assert estimate.value == pytest.approx(1.0)
    assert estimate.sources == {}


def test_a_given_constant_is_used_as_it_is():
    scale = ScaleFilter(ScaleConfig(constant=1.3))
    estimate = steady(scale, 3, sensor_depth=plane_depth(K, 4.0))
    assert (estimate.value, estimate.log_variance, estimate.sources) == (1.3, 0.0, {})


def test_the_same_frames_give_the_same_scale(drive):
    first, second = (run_drive(drive[:20], 0, height=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize('reason', ['size_mismatch', 'bad_pose'])
def test_what_cannot_belong_together_is_refused(reason):
    depth = plane_depth(K, 2.0)
    calls = {
        'size_mismatch': [
            lambda s: update(s, 0, depth[1:], K, pose_is_metric=False),
            lambda s: update(s, 0, depth, K, pose_is_metric=False, sensor_depth=depth[1:]),
        ],
        'bad_pose': [
            lambda s: update(s, 0, depth, K, T_world_camera=2 * np.eye(4), pose_is_metric=False)
        ],
    }
    for call in calls[reason]:
        with pytest.raises(InputError) as error:
            call(ScaleFilter(ScaleConfig()))
        assert error.value.reason == reason


def test_consistency_compares_only_what_is_seen_from_both_places(room):
    T0, T1 = room.room.pose(0.0), room.room.pose(0.8)
    known = apply(inverse(T1) @ T0, unproject(room.at(T0), K).reshape(-1, 3).astype(float))
    seen = consistency_scale(known, room.at(T1) / 1.2, K)
    assert seen.log_scale == pytest.approx(np.log(1.2), abs=0.01)
    assert consistency_scale(known * (1, 1, -1), room.at(T1), K) is None  # behind the camera
    hidden = np.concatenate([unproject(plane_depth(K, z), K).reshape(-1, 3) for z in (2, 4, 4)])
    assert consistency_scale(hidden.astype(float), plane_depth(K, 2.0), K).log_scale == 0
    behind = apply(inverse(room.room.pose(8.0)) @ T1, known)
    assert consistency_scale(behind, room.at(room.room.pose(8.0)), K) is None


def test_parallax_needs_motion_and_many_points(drive):
    rng = np.random.default_rng(5)
    (_, T0, d0), (_, T1, d1) = drive[0], drive[6]
    tracks = tracks_between(rng, T0, d0, T1)
    seen = parallax_scale(tracks, d1 / BIAS, K)
    # a pose off by 4 mm and a quarter of a degree, over 28 cm
    assert abs(seen.log_scale - np.log(BIAS)) < 2 * np.sqrt(seen.variance) < 0.2
    # the error that all of an odometry shares is no part of what one fit says: it is added once
    alone = (seen.inverse_std * np.exp(seen.log_scale)) ** 2
    assert seen.variance == pytest.approx(alone + ParallaxAnchor.systematic**2)
    few = Tracks(tracks.keyframe_px[:10], tracks.now_px[:10], tracks.T_keyframe_camera)
    assert parallax_scale(few, d1, K) is None
    turned = tracks.T_keyframe_camera.copy()
    turned[:3, 3] *= 1e-3
    assert parallax_scale(tracks_between(rng, T0, d0, T0 @ turned), d1, K) is None
    assert parallax_scale(tracks, np.full_like(d1, np.nan), K) is None
    near = interpolate(T0, T1, 0.05)
    vague = parallax_scale(tracks_between(rng, T0, d0, near, px=0.0), d0, K)
    assert vague is None or vague.inverse_std > 0.3


def test_parallax_is_not_biased_by_the_noise_of_tracks(drive):
    (_, T0, d0), (_, T1, d1) = drive[0], drive[6]
    seen = [
        parallax_scale(
            tracks_between(np.random.default_rng(s), T0, d0, T1, px=0.5), d1, K
        ).log_scale
        for s in range(20)
    ]
    assert abs(np.mean(seen)) < 0.02


def test_points_that_move_or_were_mistracked_do_not_count_as_parallax(drive):
    rng = np.random.default_rng(6)
    (_, T0, d0), (_, T1, d1) = drive[0], drive[6]
    tracks = tracks_between(rng, T0, d0, T1)
    wrong = rng.random(len(tracks.now_px)) < 0.3
    tracks.now_px[wrong] += rng.normal(0, 20, (wrong.sum(), 2))
    seen = parallax_scale(tracks, d1, K)
    assert abs(seen.log_scale) < 0.06


def test_a_camera_height_is_found_with_and_without_known_gravity(drive):
    found = 0
    for _, T, depth in drive[::10]:
        told = height_scale(depth / BIAS, K, T[2, 3], T[2, :3])
        assert told.log_scale == pytest.approx(np.log(BIAS), abs=0.02)
        guessed = height_scale(depth / BIAS, K, T[2, 3])
        found += guessed is not None and abs(guessed.log_scale - np.log(BIAS)) < 0.06
    assert found >= 4


def desk(floor, wall):
    """Depth and up direction before a table of 0.75 m; nothing else is level but the floor."""
    T = look_at(np.array([0, 0, 1.3]), np.array([1.5, 0, 0.75]), np.array([0, 0, 1.0]))
    rays = unproject(np.ones((K.height, K.width), np.float32), K).astype(float) @ T[:3, :3].T
    with np.errstate(divide='ignore'):
        z = np.where(rays[..., 0] > 0, wall / rays[..., 0], np.inf)
        if floor:
            z = np.minimum(z, np.where(rays[..., 2] < 0, -1.3 / rays[..., 2], np.inf))
        table = np.where(rays[..., 2] < 0, (0.75 - 1.3) / rays[..., 2], np.inf)
    x, y = table * rays[..., 0], table * rays[..., 1]
    on_table = (x > 0.5) & (x < 1.8) & (np.abs(y) < 0.7)
    return np.where(on_table, table, z).astype(np.float32), T[2, :3]


def test_a_table_top_is_not_taken_for_the_floor():
    depth, up = desk(floor=False, wall=3.0)
    assert height_scale(depth, K, 1.3, up) is None
    depth, up = desk(floor=True, wall=7.0)
    assert height_scale(depth, K, 1.3, up).log_scale == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize('up', [None, (0.0, -1.0, 0.0)])
def test_a_wall_shows_no_floor(up):
    assert height_scale(plane_depth(K, 2.0), K, 1.0, up) is None


def test_what_most_pixels_agree_on_is_not_moved_by_the_others():
    rng = np.random.default_rng(7)
    depth = plane_depth(K, 2.0)
    measured = noisy(rng, depth, 1.0, noise=0.05)
    measured[:, :64] *= 1.5
    assert abs(sensor_scale(depth, measured).log_scale) < 0.012


def test_a_range_reading_is_a_sensor_with_one_pixel():
    depth, reading = plane_depth(K, 2.0), np.zeros((K.height, K.width), np.float32)
    assert sensor_scale(depth, reading) is None
    reading[60, 80] = 3.0
    one, all_pixels = sensor_scale(depth, reading), sensor_scale(depth, 1.5 * depth)
    assert one.log_scale == pytest.approx(np.log(1.5), abs=1e-3)
    assert all_pixels.log_scale == pytest.approx(np.log(1.5), abs=1e-3)
    assert one.variance > 10 * all_pixels.variance


@pytest.mark.parametrize(('side', 'wild'), [(0.75, 0.3), (1 / 0.75, 1 / 0.3)])
def test_one_wild_reading_after_a_doubtful_run_does_not_take_the_scale_along(side, wild):
    """Readings off to one side make a change likely, but not one of the size of the last."""
    k = Intrinsics.from_hfov(1.0, 160, 120)
    depth, reading = plane_depth(k, 2.0), None

    class Reader(ParallaxAnchor):
        def observe(self, frame, depth, tracks):
            return reading

    scales = ScaleFilter(ScaleConfig(), [Reader])
    for i, factor in enumerate([1.0] * 30 + [side] * 2 + [wild]):
        reading = ScaleObservation(math.log(factor), 0.06**2, 'parallax')
        estimate = update(scales, i * 200_000_000, depth, k, pose_is_metric=True)
    assert abs(math.log(estimate.value)) < abs(math.log(side)) + 0.02
    # each of these frames may have had its own error, so that the next one is as doubtful
    assert math.sqrt(estimate.log_variance) > 0.12


def test_a_new_anchor_is_one_class_and_one_entry_of_the_list():
    class AltimeterAnchor:
        """A range finder beside the camera, which says how far the plane ahead is."""

        source, systematic = 'altimeter', 0.02

        def __init__(self, config):
            self._prior = config.prior_std

        def tells_metres(self, frame):
            return True

        def observe(self, frame, depth, tracks):
            ratio = 3.0 / float(np.median(depth))
            return ScaleObservation(math.log(ratio), 0.03**2, self.source)

    scale = ScaleFilter(ScaleConfig(), [*ANCHORS, AltimeterAnchor])
    estimate = steady(scale)  # a plane predicted at 2 m
    assert estimate.value == pytest.approx(1.5, rel=0.02)
    assert estimate.sources['altimeter'] == 30
    frame = Frame(np.zeros((120, 160, 3), np.uint8), K, 0, 'camera', world_frame='odom')
    assert scale.knows_metres(frame)  # so that parallax over own odometry does not vote against it
    assert not ScaleFilter(ScaleConfig()).knows_metres(frame)
