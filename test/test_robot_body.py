"""The robot's own body in view: it is no obstacle, no landmark and no free space either."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from test_pipeline import make_pipeline, wall_frame

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import CameraConfig, from_flat, OccupancyConfig, PoseConfig, SharpConfig
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.frame_result import CLEARING, GAUSSIANS, MAP_POINTS, OCCUPANCY, POINTS
from sharp_ros.localization.odometry import VisualOdometry
from sharp_ros.rectification import CameraModel, Rectifier
from sharp_ros.robot_body import rays_in_box, RobotBody
from sharp_ros.se3 import apply, inverse, look_at
from sharp_ros.stereo import DepthRefiner
from sharp_ros.synthetic import Room

K = Intrinsics.from_hfov(1.2, 160, 120)
# Mounted 0.4 m above the floor, 0.1 m behind the origin of the base, looking 0.2 rad down.
UP = np.array([0.0, 0, 1])
T_BASE_CAMERA = look_at(np.array([-0.1, 0, 0.4]), np.array([0.9, 0, 0.2]), UP)
BUMPER = np.array([[0.35, -0.25, 0.1], [0.45, 0.25, 0.25]])  # ahead, in the base, metres
BOX = (0.3, -0.4, 0.05, 0.5, 0.4, 0.4)
EVERYTHING = {POINTS, GAUSSIANS, OCCUPANCY, MAP_POINTS, CLEARING}


def body(mask='', box=(0.0,) * 6, base_frame='base_link'):
    camera = CameraConfig(mask=str(mask), robot_box=box)
    return RobotBody(SharpConfig(camera=camera, pose=PoseConfig(base_frame=base_frame)))


def seen_from(T_world_base):
    """Depth [H, W] of a floor and a wall at x = 4, and which of it is the bumper in view."""
    T_world_camera = T_world_base @ T_BASE_CAMERA
    rays = np.concatenate([K.rays(), np.ones((120, 160, 1))], -1).astype(np.float64)
    way = rays @ T_world_camera[:3, :3].T
    x, _, z = T_world_camera[:3, 3]
    floor = np.where(way[..., 2] < 0, -z / way[..., 2], np.inf)
    depth = np.minimum(floor, (4 - x) / way[..., 0])
    near, far = rays_in_box(K, inverse(T_BASE_CAMERA), BUMPER)
    robot = near < far
    return np.where(robot, near, depth).astype(np.float32), robot


def frame_at(x, stamp_ns=0, image=None):
    T_world_base = np.eye(4)
    T_world_base[0, 3] = x
    depth, robot = seen_from(T_world_base)
    image = np.full((120, 160, 3), 120, np.uint8) if image is None else image
    frame = Frame(
        image, K, stamp_ns, 'camera', T_world_base @ T_BASE_CAMERA, 'odom', depth,
        transforms={'base_link': inverse(T_BASE_CAMERA)},
    )  # fmt: skip
    return frame, robot


def png(path, robot, **changes):
    cv2.imwrite(str(path), np.where(robot, changes.get('dark', 0), changes.get('bright', 255)))
    return str(path)


def driven(mask='', box=(0.0,) * 6):
    """Results of a drive of 0.5 m with the bumper in view, and where that was in images."""
    pipeline = make_pipeline(
        camera=CameraConfig(mask=mask, robot_box=box),
        pose=PoseConfig(base_frame='base_link'),
        occupancy=OccupancyConfig(min_range=0.1, rate_hz=100.0),
    )
    frames = [frame_at(0.1 * k, k * 100_000_000) for k in range(6)]
    results = [pipeline.process(frame, EVERYTHING) for frame, _ in frames]
    return results, frames[-1][1]


def cells_at(grid, low, high):
    """Cells of a grid between two corners, metres."""
    ends = np.rint((np.array([low, high]) - grid.origin) / grid.resolution).astype(int)
    (left, bottom), (right, top) = ends
    return grid.cells[bottom:top, left:right]


def test_the_bumper_in_view_is_an_obstacle_unless_it_is_masked_or_in_the_box(tmp_path):
    robot = frame_at(0.0)[1]
    assert 0.05 < robot.mean() < 0.4
    # where the bumper stands at the last frame
    now = ((0.5 + 0.35, -0.2), (0.5 + 0.45, 0.2))
    (*_, plain), _ = driven()
    assert (cells_at(plain.grid, *now) == 100).any()
    for given in ({'mask': png(tmp_path / 'mask.png', robot)}, {'box': BOX}):
        results, _ = driven(**given)
        last = results[-1]
        cells = cells_at(last.grid, *now)
        assert not (cells == 100).any(), given
        assert not (last.map_points[:, 0] < 3.5).any(), given  # nothing but the wall
        assert np.isnan(last.depth[robot]).all(), given
        assert np.isnan(last.cloud[robot][:, :3]).all(), given
        assert last.mapped, given


def test_what_the_robot_hides_is_unknown_and_not_free(tmp_path):
    """Seen without the bumper, the low space behind it is free."""
    frame, robot = frame_at(0.0)
    low = OccupancyConfig(min_range=0.1, max_height=0.35, rate_hz=100.0)
    rays = np.concatenate([K.rays(), np.ones((120, 160, 1))], -1)
    floor = -0.4 / (rays @ T_BASE_CAMERA[:3, :3].T)[..., 2]
    bare = replace(frame, depth=np.where(robot, floor, frame.depth).astype(np.float32))
    found = {}
    for mask in ('', png(tmp_path / 'mask.png', robot)):
        pipeline = make_pipeline(camera=CameraConfig(mask=mask), occupancy=low)
        for k in range(4):
            given = replace(frame if mask else bare, stamp_ns=k * 10**8)
            grid = pipeline.process(given, {OCCUPANCY}).grid
        found[bool(mask)] = cells_at(grid, (0.6, -0.15), (0.9, 0.15))
    assert (found[False] == 0).all()
    assert (found[True] == -1).all()


def test_masked_pixels_have_no_depth_no_points_no_gaussians_and_clear_nothing():
    polygon = '0,90 159,90 159,119 0,119; 10,0 20,0 20,10 10,10'
    hidden = np.zeros((120, 160), bool)
    hidden[90:] = hidden[:11, 10:21] = True
    far = replace(wall_frame(30.0), transforms={})  # beyond the range: rays that clear
    near = make_pipeline(camera=CameraConfig(mask=polygon)).process(wall_frame(), EVERYTHING)
    assert np.isnan(near.depth[hidden]).all()
    np.testing.assert_allclose(near.depth[~hidden], 2.0, atol=1e-5)
    assert np.isnan(near.cloud[hidden][:, :3]).all()
    shown = near.gaussians.means.numpy()[near.gaussians.opacities.numpy().ravel() > 0]
    corners = [np.round(K.pixels(shown) + step).astype(int).T for step in (-0.4, 0.4)]
    assert len(shown) > 1000
    assert not np.logical_and(*(hidden[v, u] for u, v in corners)).any()  # of more than a pixel
    clearing = make_pipeline(camera=CameraConfig(mask=polygon)).process(far, EVERYTHING)
    assert np.isnan(clearing.depth[hidden]).all()
    v = clearing.clearing_points @ np.array([[0], [K.fy], [0]]) / clearing.clearing_points[:, 2:]
    assert len(v)
    assert (v + K.cy < 90).all()


def test_no_features_of_odometry_lie_on_the_robot():
    rng = np.random.default_rng(0)
    robot = np.zeros((120, 160), bool)
    robot[45:] = True

    def image(shift):
        wall = np.random.default_rng(1).integers(0, 255, (30, 60, 3), np.uint8)
        wall = cv2.resize(wall, (240, 120), interpolation=cv2.INTER_CUBIC)[:, 20 + shift :][
            :, :160
        ]
        return np.where(robot[..., None], own, wall)

    own = cv2.resize(rng.integers(0, 255, (30, 40, 3), np.uint8), (160, 120))
    depth = np.full((120, 160), 2.0, np.float32)
    moved = {}
    for unseen in (None, robot):
        odometry = VisualOdometry(from_flat({'odometry.min_inliers': 8}).odometry)
        for k in range(6):
            hidden = depth if unseen is None else np.where(unseen, np.float32(np.nan), depth)
            motion = odometry.register_frame(
                image(2 * k), hidden, K, k * 33_000_000, np.eye(4), unseen
            )
            if unseen is not None and motion.tracks is not None:
                assert not robot[tuple(np.rint(motion.tracks.now_px).astype(int).T[::-1])].any()
        assert motion.tracks is not None
        moved[unseen is None] = motion.T_odom_camera[0, 3]
    truth = 10 / K.fx * 2.0  # metres
    assert moved[False] == pytest.approx(truth, rel=0.05)
    assert abs(moved[True] - truth) > 0.2 * truth  # the robot stands still to itself


def test_poses_are_not_doubted_for_a_robot_that_moves_along():
    """Most texture is on the robot, whose image stands still however it drives."""
    room, robot = Room(0), np.zeros((120, 160), bool)
    robot[48:] = True
    rng = np.random.default_rng(0)
    own = cv2.resize(rng.integers(0, 255, (40, 54), np.uint8), (160, 120))
    found = {}
    for unseen in (None, robot):
        refiner, obstacles = DepthRefiner(), []
        for k, (_, pose) in enumerate(room.trajectory(3.0, 5.0)):
            image, depth = room.render(K, pose)
            gray = np.where(robot, own, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
            depth = np.where(robot, np.float32(0.4 if unseen is None else np.nan), depth)
            std = np.full((2, 2), 0.1, np.float32)
            refined = refiner.refine(gray, K, k * 200_000_000, pose, depth, std, unseen=unseen)
            obstacles.append(refined.obstacle)
        found[unseen is None] = sum(o == 'poses_disagree' for o in obstacles) / len(obstacles)
    assert found[True] > 0.3
    assert found[False] == 0


# --- the box ------------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(5))
def test_rays_in_a_box_are_what_testing_every_point_says(seed):
    rng = np.random.default_rng(seed)
    T_camera_base = inverse(look_at(rng.normal(size=3), rng.normal(size=3), UP))
    low = rng.normal(size=3)
    box = np.stack([low, low + rng.uniform(0.2, 2.0, 3)])
    near, far = rays_in_box(K, T_camera_base, box)
    depth = rng.uniform(0.05, 5.0, (120, 160))
    points = np.concatenate([K.rays(), np.ones((120, 160, 1))], -1) * depth[..., None]
    points = apply(inverse(T_camera_base), points)
    slow = ((points >= box[0]) & (points <= box[1])).all(-1)
    rim = np.minimum(abs(points - box[0]), abs(points - box[1])).min(-1) < 1e-5
    np.testing.assert_array_equal(((depth >= near) & (depth <= far))[~rim], slow[~rim])


def test_rays_along_a_side_of_the_box_are_inside_or_not():
    T_camera_base = np.eye(4)
    straight = Intrinsics(100, 100, 1.0, 1.0, 3, 3)
    near, far = rays_in_box(straight, T_camera_base, np.array([[-1.0, -1, 1], [1, 1, 2]]))
    assert (near[1, 1], far[1, 1]) == (1.0, 2.0)
    near, far = rays_in_box(straight, T_camera_base, np.array([[0.1, -1, 1], [1, 1, 2]]))
    assert near[1, 1] > far[1, 1]


def test_without_the_transform_to_the_box_nothing_is_mapped():
    pipeline = make_pipeline(
        camera=CameraConfig(robot_box=BOX), pose=PoseConfig(base_frame='base_link')
    )
    lone = replace(frame_at(0.0)[0], transforms={})
    result = pipeline.process(lone, EVERYTHING)
    assert not result.mapped
    assert result.unmapped.reason == 'waiting_for_robot_box'
    assert 'base_link' in str(result.unmapped)
    assert pipeline.process(frame_at(0.0, 10**9)[0], EVERYTHING).mapped


def test_the_box_may_be_in_the_base_that_the_camera_is_mounted_on():
    mounted = (0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0)  # the base has axes of the camera, 0.5 m lower
    config = from_flat(
        {'pose.base_to_camera': mounted, 'camera.robot_box': (-1.0, -1.0, 2.4, 1.0, 1.0, 2.6)}
    )
    inside = RobotBody(config).in_box(wall_frame(2.0), wall_frame(2.0).depth)
    assert inside is not None
    assert inside[60, 80]
    assert RobotBody(config).in_box(wall_frame(2.2), wall_frame(2.2).depth) is None


@pytest.mark.parametrize(
    ('flat', 'why'),
    [
        ({'camera.robot_box': (0.0, 0.0, 1.0)}, '6 numbers'),
        ({'camera.robot_box': BOX}, 'needs the frame'),
        ({'camera.robot_box': (*BOX[3:], *BOX[:3]), 'pose.base_frame': 'base'}, 'is empty'),
    ],
)
def test_an_impossible_box_is_refused(flat, why):
    with pytest.raises(ConfigError, match=why):
        from_flat(flat)


# --- the mask -----------------------------------------------------------------------------------


def test_masks_of_all_usual_kinds_say_the_same(tmp_path):
    robot = np.zeros((120, 160), bool)
    robot[80:, 16:144] = True
    written = {
        'png': png(tmp_path / 'a.png', robot),
        'of ones': png(tmp_path / 'b.png', robot, bright=1),
        'jpeg': png(tmp_path / 'c.jpg', robot),
    }
    colour = np.where(robot[..., None], np.uint8(0), np.array([0, 200, 90], np.uint8))
    opaque = np.dstack([colour, np.full(robot.shape, 255, np.uint8)])
    for name, picture in {'colour': colour, 'opacity': opaque}.items():
        path = tmp_path / f'{name}.png'
        cv2.imwrite(str(path), picture)
        written[name] = str(path)
    written['polygons'] = '16,80 143,80 143,119 16,119'
    for kind, given in written.items():
        np.testing.assert_array_equal(body(given).mask(160, 120), robot, err_msg=kind)


def test_a_mask_of_another_resolution_is_scaled_and_said_so(tmp_path, caplog):
    robot = np.zeros((240, 320), bool)
    robot[200:] = True
    given = body(png(tmp_path / 'a.png', robot))
    expected = np.zeros((120, 160), bool)
    expected[100:] = True
    np.testing.assert_array_equal(given.mask(160, 120), expected)
    assert 'camera.mask is 320x240, the image 160x120' in caplog.text


def test_the_mask_is_of_the_image_as_delivered(tmp_path):
    """Rectification moves it as it moves the image."""
    lens = CameraModel(
        160, 120, K=tuple(K.matrix.ravel()), D=(-0.3, 0.08, 0.0, 0.0, 0.0),
        distortion_model='plumb_bob',
    )  # fmt: skip
    rectifier = Rectifier(lens, False, 0.0, (160, 120))
    raw = np.full((120, 160, 3), 255, np.uint8)
    robot = np.zeros((120, 160), bool)
    robot[100:, :60] = True
    raw[robot] = 0
    frame = Frame(
        rectifier.rectify(raw), rectifier.intrinsics, 0, 'camera',
        unseen=rectifier.unseen, rectifier=rectifier,
    )  # fmt: skip
    hidden = body(png(tmp_path / 'a.png', robot)).hidden(frame)
    seen = ~hidden.unseen
    assert (frame.image[seen] > 127).all()  # white, or its edge
    shown_black = (frame.image < 100).all(-1) & (
        True if rectifier.unseen is None else ~rectifier.unseen
    )
    assert hidden.unseen[shown_black].all()
    assert not np.array_equal(robot, hidden.unseen)


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        ('/nowhere/mask.png', 'cannot read /nowhere/mask.png'),
        ('1,2 3,4', 'no polygon'),
        ('1,2 3,4 5,6; 7,8 9', 'no polygon'),
        ('1,2,3 3,4 5,6', 'no polygon'),
    ],
)
def test_what_is_neither_image_nor_polygons_is_refused_at_the_start(text, why):
    with pytest.raises(ConfigError, match=why):
        make_pipeline(camera=CameraConfig(mask=text))


def test_images_that_are_no_mask_are_refused_at_the_start(tmp_path):
    text, deep, black = (tmp_path / name for name in ('a.png', 'b.png', 'c.png'))
    text.write_text('no image')
    cv2.imwrite(str(deep), np.ones((12, 16), np.uint16))
    cv2.imwrite(str(black), np.zeros((12, 16), np.uint8))
    for path, why in (
        (text, 'no image'),
        (deep, '8 bits'),
        (black, 'hide all'),
        (tmp_path, 'read'),
    ):
        with pytest.raises(ConfigError, match=why):
            body(path)


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        ('0,0 159,0 159,119 0,119', 'hides all'),
        ('0,100 640,100 640,119 0,119', '640,100 lies outside'),
    ],
)
def test_polygons_that_do_not_fit_the_image_cost_every_frame(text, why):
    pipeline = make_pipeline(camera=CameraConfig(mask=text))
    with pytest.raises(InputError, match=why) as caught:
        pipeline.process(wall_frame(), EVERYTHING)
    assert caught.value.reason == 'bad_mask'


def test_a_mask_of_another_shape_costs_every_frame_but_not_the_warm_up(tmp_path):
    robot = np.zeros((100, 100), bool)
    robot[50:] = True
    pipeline = make_pipeline(camera=CameraConfig(mask=png(tmp_path / 'a.png', robot)))
    pipeline.warm_up(K)
    with pytest.raises(InputError, match='is 100x100, the image 160x120'):
        pipeline.process(wall_frame(), EVERYTHING)


def test_the_mask_may_change_between_two_frames_and_a_bad_one_changes_nothing(tmp_path):
    pipeline = make_pipeline()
    assert np.isfinite(pipeline.process(wall_frame(), ()).depth).all()
    lower = replace(pipeline.config, camera=CameraConfig(mask='0,90 159,90 159,119 0,119'))
    pipeline.reconfigure(lower)
    assert np.isnan(pipeline.process(wall_frame(stamp_ns=10**9), ()).depth[95:]).all()
    for text in (str(tmp_path / 'none.png'), '0,90 300,90 300,119'):
        with pytest.raises((ConfigError, InputError), match=r'camera\.mask'):
            pipeline.reconfigure(replace(pipeline.config, camera=CameraConfig(mask=text)))
    depth = pipeline.process(wall_frame(stamp_ns=2 * 10**9), ()).depth
    assert np.isnan(depth[95:]).all()
    assert np.isfinite(depth[:85]).all()


def test_a_mask_may_be_set_before_the_first_image_and_set_right_after_one_it_does_not_fit():
    """It is held against images of the camera, and neither against the warm-up nor an old one."""
    pipeline = make_pipeline()
    pipeline.warm_up(Intrinsics.from_hfov(1.0, 64, 48))
    wide = replace(pipeline.config, camera=CameraConfig(mask='0,90 159,90 159,119 0,119'))
    pipeline.reconfigure(wide)
    assert np.isnan(pipeline.process(wall_frame(), ()).depth[95:]).all()
    smaller = Intrinsics.from_hfov(1.2, 80, 60)
    image, depth = np.full((60, 80, 3), 120, np.uint8), np.full((60, 80), 2, np.float32)
    frame = replace(wall_frame(stamp_ns=10**9), image=image, depth=depth, intrinsics=smaller)
    with pytest.raises(InputError, match='lies outside of the 80x60'):
        pipeline.process(frame, ())
    with pytest.raises(InputError, match='lies outside of the 80x60'):
        pipeline.check(replace(wide, camera=CameraConfig(mask='0,90 158,90 158,119 0,119')))
    fits = replace(pipeline.config, camera=CameraConfig(mask='0,45 79,45 79,59 0,59'))
    pipeline.reconfigure(fits)
    assert np.isnan(pipeline.process(frame, ()).depth[48:]).all()
