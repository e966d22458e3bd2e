"""Laser scans of depth images, of worlds made of boxes over a floor."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest

from sharp_ros.camera import FloorGeometry, Frame, Intrinsics, unproject
from sharp_ros.config import OccupancyConfig, PoseConfig, ScanConfig, SharpConfig
from sharp_ros.errors import ConfigError, InputError, PoseUnavailableError
from sharp_ros.localization.localized import Localized
from sharp_ros.localization.scanner import scan_of_frame
from sharp_ros.point_cloud import clean_depth, pixel_noise
from sharp_ros.scan import beam_count, HIDDEN_SHARE, LEAST, scan_from_depth
from sharp_ros.scan_kernels import CELL_SHIFT
from sharp_ros.se3 import inverse, look_at, transform

CAMERA = Intrinsics.from_hfov(1.2, 320, 240)
CONFIG = SharpConfig()
HEIGHT = 1.2
EYE = 1e-9  # metres; rays of a row shall not lie in the plane of a face
WALL = ((3.0, -9.0, 0.0), (3.2, 9.0, 2.6))  # 3 m ahead, from side to side
POLE = ((2.0, 0.4, 0.0), (2.05, 0.45, 2.0))
TABLE = [((1.6, -0.5, 0.7), (2.4, 0.5, 0.74))] + [
    ((x, y, 0.0), (x + 0.03, y + 0.03, 0.7)) for x in (1.62, 2.35) for y in (-0.48, 0.45)
]
PERSON = [((2.0, -0.7, 0.9), (2.25, -0.3, 1.5)), ((2.05, -0.6, 1.5), (2.25, -0.4, 1.75))] + [
    ((2.05, y, 0.0), (2.2, y + 0.12, 0.9)) for y in (-0.66, -0.48)
]
DOOR = [  # a wall 2.5 m ahead with an opening of 0.9 m, 2 m high
    ((2.5, -9.0, 0.0), (2.6, -0.45, 2.6)),
    ((2.5, 0.45, 0.0), (2.6, 9.0, 2.6)),
    ((2.5, -0.45, 2.0), (2.6, 0.45, 2.6)),
]


def camera(height=HEIGHT, pitch=0.0, roll=0.0, x=0.0, y=0.0):
    """Pose of a camera that looks along +x of a world with z up."""
    eye = np.array([x, y, height])
    ahead = eye + np.array([math.cos(pitch), 0.0, math.sin(pitch)])
    pose = look_at(eye, ahead, np.array([0.0, 0.0, 1.0]))
    c, s = math.cos(roll), math.sin(roll)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return pose @ transform(turn, np.zeros(3))


def seen(boxes, pose, *, noise=0.0, seed=0, intrinsics=CAMERA, far=20.0):
    """Exact z-depth of boxes on a floor; what is farther than `far` is +inf."""
    rays = np.concatenate(
        [intrinsics.rays(), np.ones((intrinsics.height, intrinsics.width, 1), np.float32)], -1
    )
    along = rays.astype(np.float64) @ pose[:3, :3].T
    along[np.abs(along) < EYE] = EYE
    floor = -pose[2, 3] / along[..., 2]
    depth = np.where(floor > 0, floor, np.inf)
    for box in boxes:
        ends = (np.array(box)[:, None, None] - pose[:3, 3]) / along
        enter, leave = ends.min(0).max(-1), ends.max(0).min(-1)
        depth = np.where((enter > 0) & (enter < leave) & (enter < depth), enter, depth)
    depth = depth * (1 + noise * np.random.default_rng(seed).standard_normal(depth.shape))
    return np.where(depth > far, np.inf, depth).astype(np.float32)


def level(pose):
    """The same pose in a frame below the camera, level, with x ahead."""
    return transform(np.eye(3), [-pose[0, 3], -pose[1, 3], 0.0]) @ pose


def scan(boxes, pose=None, *, config=CONFIG, intrinsics=CAMERA, log_std=None, **how):
    pose = camera() if pose is None else pose
    depth = clean_depth(seen(boxes, pose, intrinsics=intrinsics, **how), config.point_cloud)
    return scan_from_depth(depth, intrinsics, level(pose), config, log_std)


def bearings(found):
    return found.min_angle + np.arange(len(found.ranges)) * found.increment


def between(found, low, high):
    """Ranges of the beams that lie wholly between two bearings."""
    half = found.increment / 2
    angles = bearings(found)
    return found.ranges[(angles - half > low) & (angles + half < high)]


def slow_scan(depth, intrinsics, T_scan_camera, config, log_std=None, unseen=None):
    """What `scan_from_depth` does, pixel by pixel, as one would explain it."""
    (low, high), (bottom, top) = config.scan_range, config.scan_band
    noise = pixel_noise(depth, 4, 8)
    count, scan_ = beam_count(config), config.scan
    hits = [[] for _ in range(count)]
    far, doubt, near = np.zeros((3, count), int)
    origin = T_scan_camera[:3, 3]
    reach = high + np.hypot(*origin[:2])
    rays = unproject(np.ones_like(depth), intrinsics) @ T_scan_camera[:3, :3].T
    in_band = lambda height: bottom <= height <= top  # noqa: E731

    def beam(point):
        angle = math.atan2(point[1], point[0])
        return math.floor((angle - scan_.min_angle) / scan_.angle_increment + 0.5)

    for (v, u), z in np.ndenumerate(depth):
        ray = rays[v, u].astype(float)
        if unseen is not None and unseen[v, u]:
            end = origin + ray * (reach / np.hypot(*ray[:2]))
            if 0 <= beam(end) < count:
                doubt[beam(end)] += in_band(end[2]) or in_band((origin[2] + end[2]) / 2)
            continue
        std = 0.0
        if log_std is not None:
            std = log_std[v * len(log_std) // len(depth), u * log_std.shape[1] // depth.shape[1]]
        end = origin + ray * (reach / np.hypot(*ray[:2]))
        b = beam(end)
        point = origin + z * ray
        if np.isfinite(z) and z > 0:
            distance = np.hypot(*point[:2])
            if in_band(point[2]) and distance <= high:
                b = beam(point)
                if not 0 <= b < count:
                    continue
                off = 3 * noise * (point[2] - origin[2])
                if not in_band(point[2] + off):
                    doubt[b] += 1
                elif distance < low:
                    near[b] += 1
                else:
                    hits[b].append((distance, std))
                continue
            if not in_band(point[2]) and z * np.hypot(*ray[:2]) < reach:
                continue
        if not 0 <= b < count:
            continue
        if z == -np.inf:
            near[b] += in_band(origin[2])
        elif z > 0:
            reached = min(z, config.point_cloud.max_range) / (1 + 2 * std)
            sure = reached * np.hypot(*ray[:2]) >= reach
            if in_band(end[2]):
                far[b] += sure
                doubt[b] += not sure and (z == np.inf or in_band(point[2]))
        elif not (min(origin[2], end[2]) > top or max(origin[2], end[2]) < bottom):
            doubt[b] += 1

    def cell(distance):
        return int((np.float32(distance) ** 2).view(np.int32) >> CELL_SHIFT)

    window = 2 + math.ceil(4 * noise * 64)
    ranges, stds = np.full((2, count), np.nan)
    for b in range(count):
        if near[b] >= LEAST:
            ranges[b] = -np.inf
            continue
        if far[b] >= LEAST and doubt[b] <= HIDDEN_SHARE * far[b]:
            ranges[b] = np.inf
        for start in sorted({cell(d) for d, _ in hits[b]}):
            group = [h for h in hits[b] if start <= cell(h[0]) < start + window]
            if len(group) >= LEAST:
                for _ in range(2):
                    first = max(start, cell(np.mean(group, axis=0)[0]) - window // 2)
                    group = [h for h in hits[b] if first <= cell(h[0]) < first + window]
                ranges[b], std = np.mean(group, axis=0)
                stds[b] = ranges[b] * np.hypot(std, noise)
                break
    return ranges, stds


# --- the fast one is the slow one -------------------------------------------------------------


def rough_image(seed):
    """A furnished place with noise, holes, sky and things too near, the origin beside it."""
    rng = np.random.default_rng(seed)
    small = Intrinsics.from_hfov(rng.uniform(0.8, 1.6), 96, 72)
    corners = rng.uniform((0.8, -2.5, 0.0), (5.0, 2.0, 1.0), (12, 3))
    boxes = [(corner, corner + rng.uniform(0.05, 0.8, 3)) for corner in corners]
    pose = camera(rng.uniform(0.3, 1.6), rng.uniform(-0.6, 0.2), rng.uniform(-0.3, 0.3), 0.2, 0.1)
    depth = seen(boxes, pose, noise=rng.uniform(0, 0.02), seed=seed, intrinsics=small)
    for value in (np.nan, np.inf, -np.inf, 0.0):
        u, v = rng.integers(0, 70, 2)
        depth[v : v + rng.integers(2, 20), u : u + rng.integers(2, 20)] = value
    log_std = rng.uniform(0.0, 0.2, (9, 12)).astype(np.float32) if seed % 2 else None
    unseen = rng.random(depth.shape) < 0.05 if seed % 3 else None
    return depth, small, pose, log_std, unseen


@pytest.mark.parametrize('seed', range(6))
def test_the_kernel_agrees_with_its_slow_twin(seed):
    depth, small, pose, log_std, unseen = rough_image(seed)
    config = replace(
        CONFIG,
        scan=ScanConfig(min_angle=-1.0, max_angle=1.1, angle_increment=0.02),
        occupancy=OccupancyConfig(max_range=4.0 if seed % 2 else 5.0),
    )
    fast = scan_from_depth(depth, small, pose, config, log_std, unseen)
    ranges, stds = slow_scan(depth, small, pose, config, log_std, unseen)
    assert np.isfinite(ranges).sum() > 15
    # a pixel that lies on the edge of a beam, cell or band to the last bit may fall to either side
    same = np.isclose(fast.ranges, ranges, rtol=1e-3, equal_nan=True)
    assert same.mean() > 0.97, (fast.ranges[~same], ranges[~same])
    known = same & np.isfinite(ranges)
    np.testing.assert_allclose(fast.stds[known], stds[known], rtol=2e-2, atol=1e-6)


# --- what a scan is of ------------------------------------------------------------------------


@pytest.mark.parametrize('noise', [0.0, 0.01, 0.03])
@pytest.mark.parametrize('pitch', [-0.6, -0.3, 0.0])
def test_a_wall_is_where_it_is_however_the_camera_looks_at_it(pitch, noise):
    found = scan([WALL], camera(pitch=pitch), noise=noise)
    angles = bearings(found)
    middle = np.abs(angles) < 0.5
    expected = 3.0 / np.cos(angles[middle])
    np.testing.assert_allclose(found.ranges[middle], expected, rtol=0.003 + noise / 3)
    assert np.isnan(found.ranges[np.abs(angles) > 1.0]).all()  # out of view


@pytest.mark.parametrize('roll', [-0.5, 0.3])
def test_a_camera_that_is_held_askew_sees_the_same_wall(roll):
    found = scan([WALL], camera(pitch=-0.2, roll=roll))
    angles = bearings(found)
    middle = np.abs(angles) < 0.4
    np.testing.assert_allclose(found.ranges[middle], 3.0 / np.cos(angles[middle]), rtol=0.004)


@pytest.mark.parametrize('noise', [0.0, 0.01, 0.02, 0.03])
@pytest.mark.parametrize('pitch', [-0.6, -0.4, -0.2, 0.0])
@pytest.mark.parametrize('height', [0.3, 1.2, 2.0])
def test_the_floor_is_no_obstacle(height, pitch, noise):
    """An empty plain, of which every pixel errs by itself."""
    for seed in range(3):
        found = scan([], camera(height, pitch), noise=noise, seed=seed)
        assert not np.isfinite(found.ranges).any()
        assert not np.isneginf(found.ranges).any()


def test_an_empty_plain_is_free_as_far_as_it_is_in_view():
    found = scan([], camera(pitch=-0.2), noise=0.01)
    assert np.isposinf(between(found, -0.55, 0.55)).all()
    assert np.isnan(found.ranges[np.abs(bearings(found)) > 0.65]).all()
    # who looks down only does not see how far it is free
    assert np.isnan(scan([], camera(pitch=-1.0)).ranges).all()


@pytest.mark.parametrize('noise', [0.0, 0.03])
def test_a_pole_is_a_few_beams_before_the_wall(noise):
    found = scan([POLE, WALL], noise=noise)
    left, right = math.atan2(0.45, 2.0), math.atan2(0.4, 2.05)
    pole = between(found, right - 0.002, left + 0.002)
    assert len(pole) >= 1
    np.testing.assert_allclose(pole, 2.04, atol=0.03 + noise)
    assert (between(found, left + 0.012, 0.5) > 2.9).all()
    assert (between(found, 0.0, right - 0.012) > 2.9).all()


@pytest.mark.parametrize('pitch', [-0.3, 0.0])
def test_a_table_is_as_wide_as_its_top(pitch):
    """A robot that drives between the thin legs does not come through."""
    found = scan([*TABLE, WALL], camera(pitch=pitch))
    top = between(found, -0.28, 0.28)  # of a front edge from -0.303 to 0.303
    assert len(top) > 50
    angles = bearings(found)[np.isin(found.ranges, top)]
    np.testing.assert_allclose(top, 1.6 / np.cos(angles), atol=0.06)
    # at the height of the table itself it is a thin line, and still there
    edge = between(scan([*TABLE, WALL], camera(0.72, pitch=0.0)), -0.28, 0.28)
    assert (edge < 1.75).all()


def test_a_person_is_as_wide_as_the_shoulders():
    found = scan([*PERSON, WALL], noise=0.01)
    body = between(found, math.atan2(-0.68, 2.0), math.atan2(-0.32, 2.0))
    assert len(body) > 12
    assert ((body > 1.95) & (body < 2.2)).all()
    assert (between(found, -0.1, 0.5) > 2.9).all()


@pytest.mark.parametrize('noise', [0.0, 0.03])
def test_what_hangs_above_the_band_is_no_obstacle_nor_is_what_lies_below(noise):
    lamp = ((1.5, -0.3, 1.95), (1.9, 0.3, 2.2))
    rug = ((1.5, -0.3, 0.0), (2.2, 0.3, 0.03))
    found = scan([lamp, rug, WALL], noise=noise)
    assert (between(found, -0.3, 0.3) > 2.8).all()
    lower = replace(CONFIG, scan=ScanConfig(min_height=0.02, max_height=2.3))
    assert (between(scan([lamp, WALL], config=lower), -0.14, 0.14) < 1.7).all()


# --- free, or not known -----------------------------------------------------------------------


def test_an_open_door_is_free_if_all_that_is_behind_it_is_farther_than_the_scan():
    behind = ((8.0, -9.0, 0.0), (8.1, 9.0, 2.6))
    through = between(scan([*DOOR, behind]), -0.13, 0.13)
    assert len(through) > 20
    assert np.isposinf(through).all()
    frame = between(scan([*DOOR, behind]), 0.2, 0.5)
    assert (frame < 2.9).all()
    near = ((4.0, -9.0, 0.0), (4.1, 9.0, 2.6))  # a wall behind it, in range
    np.testing.assert_allclose(between(scan([*DOOR, near]), -0.13, 0.13), 4.0, rtol=0.01)


def through_door(change, **how):
    pose = camera()
    depth = clean_depth(seen([*DOOR], pose), CONFIG.point_cloud)
    change(depth)
    return between(scan_from_depth(depth, CAMERA, level(pose), CONFIG, **how), -0.13, 0.13)


def test_a_door_is_not_free_where_depth_is_missing():
    def hole(depth):
        depth[100:140, 140:180] = np.nan  # 5 degrees of darkness

    beams = through_door(lambda depth: None)
    assert np.isposinf(beams).all()
    dark = through_door(hole)
    assert np.isnan(dark[len(dark) // 2 - 8 : len(dark) // 2 + 8]).all()
    assert not np.isfinite(dark).any()


def test_a_few_lost_pixels_do_not_hide_a_free_door():
    def specks(depth):
        depth[::40, ::11] = np.nan

    assert np.isposinf(through_door(specks)).mean() > 0.9


def test_a_door_is_not_free_while_the_scale_could_be_off_by_as_much():
    behind = ((8.0, -9.0, 0.0), (8.1, 9.0, 2.6))
    sure = scan([*DOOR, behind], log_std=np.full((8, 8), 0.2, np.float32))
    assert np.isposinf(between(sure, -0.13, 0.13)).all()  # 8 m / 1.4 > 5 m
    vague = scan([*DOOR, behind], log_std=np.full((8, 8), 0.4, np.float32))
    assert np.isnan(between(vague, -0.13, 0.13)).all()
    np.testing.assert_array_equal(between(vague, 0.25, 0.5), between(sure, 0.25, 0.5))


def test_pixels_that_no_ray_reached_are_out_of_view():
    pose, unseen = camera(), np.zeros((240, 320), bool)
    unseen[:, :160] = True  # the left half
    depth = clean_depth(seen([], pose), CONFIG.point_cloud)
    depth[unseen] = np.nan
    found = scan_from_depth(depth, CAMERA, level(pose), CONFIG, unseen=unseen)
    assert np.isnan(found.ranges[bearings(found) > 0.01]).all()
    assert np.isposinf(between(found, -0.5, -0.02)).all()


def test_what_the_robot_is_in_front_of_is_not_free():
    """An arm hides a box 3 m ahead; a bumper hides what is nearer than the image reaches."""
    pose, angles = camera(), (-0.1, 0.1)
    depth = clean_depth(seen([((3.0, -0.5, 0.0), (3.3, 0.5, 0.5))], pose), CONFIG.point_cloud)
    box = np.isfinite(depth) & (np.abs(depth - 3.0) < 0.05)
    top = int(np.flatnonzero(box.any(1))[0])
    arm, bumper = np.zeros((2, 240, 320), bool)
    arm[top - 2 : 216, 90:230] = bumper[220:] = True

    def found(robot, depth):
        hidden = np.where(robot, np.float32(np.nan), depth)
        return between(scan_from_depth(hidden, CAMERA, level(pose), CONFIG, unseen=robot), *angles)

    assert (found(np.zeros_like(arm), depth) < 3.1).all()
    assert not np.isposinf(found(arm, depth)).any()
    free = clean_depth(seen([], pose), CONFIG.point_cloud)
    assert np.isposinf(found(bumper, free)).all()


def test_what_is_too_near_is_no_distance():
    depth = clean_depth(np.full((240, 320), 0.05, np.float32), CONFIG.point_cloud)
    assert np.isneginf(depth).all()
    found = scan_from_depth(depth, CAMERA, level(camera()), CONFIG)
    assert np.isneginf(between(found, -0.5, 0.5)).all()
    box = ((0.2, -0.5, 0.0), (0.25, 0.5, 1.5))  # nearer than occupancy.min_range
    assert np.isneginf(between(scan([box]), -0.5, 0.5)).all()


def test_nothing_is_known_of_an_image_without_depth():
    for value in (np.nan, 0.0, -1.0):
        depth = np.full((240, 320), value, np.float32)
        assert np.isnan(scan_from_depth(depth, CAMERA, level(camera()), CONFIG).ranges).all()


# --- how it is laid out -----------------------------------------------------------------------


def test_distances_are_from_the_origin_of_the_frame_not_from_the_camera():
    """A camera 0.4 m ahead of the robot's middle and 0.2 m to its left."""
    pose = camera(x=0.4, y=0.2)
    depth = clean_depth(seen([WALL], pose), CONFIG.point_cloud)
    found = scan_from_depth(depth, CAMERA, pose, CONFIG)
    angles = bearings(found)
    middle = np.abs(angles) < 0.4
    np.testing.assert_allclose(found.ranges[middle], 3.0 / np.cos(angles[middle]), rtol=0.004)


def test_the_deviation_of_a_range_is_that_of_its_depth():
    std = np.tile(np.linspace(0.05, 0.25, 32, dtype=np.float32), (4, 1))
    found = scan([WALL], log_std=std)
    known = np.isfinite(found.ranges)
    assert np.isnan(found.stds[~known]).all()
    relative = (found.stds / found.ranges)[known]
    assert relative[0] > relative[-1]  # beams begin on the right, where the image ends
    np.testing.assert_allclose(relative[len(relative) // 2], 0.15, atol=0.01)


def test_beams_are_evenly_spaced_and_end_where_they_are_asked_to():
    config = replace(CONFIG, scan=ScanConfig(min_angle=-0.5, max_angle=0.52, angle_increment=0.1))
    found = scan([WALL], config=config)
    assert len(found.ranges) == beam_count(config) == 11
    assert found.max_angle == pytest.approx(0.5)
    assert beam_count(CONFIG) == 315


def test_all_ranges_lie_within_what_is_said():
    narrow = replace(CONFIG, scan=ScanConfig(min_range=1.0, max_range=2.5))
    found = scan([POLE, WALL], config=narrow)
    known = found.ranges[np.isfinite(found.ranges)]
    assert len(known)
    assert known.min() >= found.min_range == 1.0
    assert known.max() <= found.max_range == 2.5


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r'scan\.min_height'):
        SharpConfig(scan=ScanConfig(min_height=2.0))
    with pytest.raises(ConfigError, match=r'scan\.min_range'):
        SharpConfig(scan=ScanConfig(min_range=5.0))
    with pytest.raises(ConfigError, match=r'point_cloud\.max_range'):
        SharpConfig(scan=ScanConfig(max_range=30.0))
    with pytest.raises(ConfigError, match=r'scan\.min_angle'):
        SharpConfig(scan=ScanConfig(min_angle=1.0, max_angle=0.5))
    nearer = OccupancyConfig(min_range=0.0, max_range=2.0)
    assert SharpConfig(occupancy=nearer).scan_range == (0.05, 2.0)


def test_depth_of_another_size_is_refused():
    with pytest.raises(InputError, match='does not fit'):
        scan_from_depth(np.ones((3, 4), np.float32), CAMERA, level(camera()), CONFIG)


# --- where the floor is -----------------------------------------------------------------------

TILTED = camera(pitch=-0.3)
UP = TILTED[2, :3]
BASED = replace(CONFIG, pose=PoseConfig(base_frame='base_link'))


def localized(pose=None, transforms=None, unmappable=None):
    image = np.zeros((240, 320, 3), np.uint8)
    frame = Frame(image, CAMERA, 0, 'camera', pose, 'odom', transforms=transforms or {})
    return Localized(frame, None, None, False, unmappable)


def placed(found, floor=None, config=CONFIG, objection=None):
    depth = clean_depth(seen([WALL], TILTED), config.point_cloud)
    return scan_of_frame(found, depth, None, floor, config, objection)


NOT_FOUND = PoseUnavailableError('floor not found', 'floor_not_found')
BASE = {'base_link': inverse(TILTED)}  # on the floor below the camera


@pytest.mark.parametrize(
    ('found', 'floor', 'config'),
    [
        (localized(TILTED), None, CONFIG),
        (localized(), FloorGeometry(2 * UP, HEIGHT), CONFIG),  # by a frame of tf, or an IMU
        (localized(unmappable=NOT_FOUND), FloorGeometry(UP, HEIGHT), CONFIG),
        (localized(TILTED, BASE), None, BASED),
        (localized(None, BASE), None, BASED),
        (localized(TILTED, {'base_link': inverse(transform(np.eye(3), [0, 0, -0.2]) @ TILTED)}),
         FloorGeometry(UP, HEIGHT), BASED),
    ],
    ids=['pose', 'floor', 'floor, pose unknown', 'pose and base', 'base', 'base above the floor'],
)  # fmt: skip
def test_the_floor_is_known_by_any_of_these(found, floor, config):
    result = placed(found, floor, config)
    angles = bearings(result.scan)
    middle = np.abs(angles) < 0.5
    np.testing.assert_allclose(result.scan.ranges[middle], 3.0 / np.cos(angles[middle]), rtol=4e-3)
    assert result.base_frame == config.pose.base_frame
    if result.base_frame:
        assert result.T_camera_scan is None
    else:
        np.testing.assert_allclose(TILTED @ result.T_camera_scan, np.eye(4), atol=1e-6)


@pytest.mark.parametrize(
    ('found', 'config', 'reason'),
    [
        (localized(), CONFIG, 'floor_unknown'),
        (localized(np.eye(4)), CONFIG, 'floor_unknown'),  # which looks up: no pose of a camera
        (localized(camera(0.0)), CONFIG, 'floor_unknown'),  # a world that begins at the camera
        (localized(TILTED, unmappable=NOT_FOUND), CONFIG, 'floor_not_found'),
        (localized(TILTED), BASED, 'no_base_frame'),
    ],
)
def test_without_a_floor_there_is_no_scan(found, config, reason):
    with pytest.raises(PoseUnavailableError) as caught:
        placed(found, config=config)
    assert caught.value.reason == reason


def test_an_image_of_which_nothing_may_be_learnt_gives_no_scan():
    objection = InputError('nothing sharp', 'image_featureless')
    with pytest.raises(InputError, match='nothing sharp'):
        placed(localized(TILTED), objection=objection)
