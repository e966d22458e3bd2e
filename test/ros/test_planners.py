"""The recipes of docs/planners.md: every message is what the planner that reads it expects."""

from __future__ import annotations

from collections import defaultdict
import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import re
import time

import cv2
from fake_costmap import VoxelCostmap, xyz_from_msg
from nav_msgs.msg import OccupancyGrid
import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import (
    DurabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
)
from ros_helpers import CAMERA, Peer
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import Trigger
import yaml

from sharp_ros.camera import Intrinsics
from sharp_ros.config import differences, load_yaml, SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.models import load_predictor
from sharp_ros.network.predictor import SensorPredictor
from sharp_ros.pipeline import Pipeline
from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    depth_from_msg,
    depth_to_msg,
    image_from_msg,
    image_to_msg,
    odometry_to_msg,
    pose_from_odometry,
    stamp_ns_from_msg,
)
from sharp_ros.ros.node import SharpNode
from sharp_ros.se3 import apply, look_at
from sharp_ros.synthetic import Room

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'planners.md').read_text()
SMALL = Intrinsics.from_hfov(1.2, 160, 120)
GREY = np.random.default_rng(0).integers(90, 165, (12, 16, 1), np.uint8)  # in squares of 10
GREY = GREY.repeat(10, 0).repeat(10, 1).repeat(3, 2)
UP = np.array([0.0, 0.0, 1.0])
AHEAD = look_at(np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0]), UP)
RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
LISTENS = {  # as the planners subscribe
    '/sharp/points': (PointCloud2, qos_profile_sensor_data),
    '/sharp/clearing_points': (PointCloud2, qos_profile_sensor_data),
    '/sharp/image_rect': (Image, RELIABLE),
    '/sharp/depth/image': (Image, RELIABLE),
    '/sharp/depth/camera_info': (CameraInfo, RELIABLE),
}


def recipe(name):
    return yaml.safe_load((ROOT / 'config' / f'{name}.yaml').read_text())


def leaves(tree):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield key, value


def subscriptions():
    """(topic, type, QoS) of everything that the recipes let a planner subscribe to."""
    consumers = {
        'topic': (PointCloud2, qos_profile_sensor_data),
        'point_cloud_topic': (PointCloud2, qos_profile_sensor_data),
        'map_topic': (OccupancyGrid, LATCHED),
        'image_topic': (Image, qos_profile_sensor_data),
    }
    for name in ('nav2_costmap', 'moveit_sensors_3d'):
        for key, topic in leaves(recipe(name)):
            if key in consumers:
                yield topic, *consumers[key]
            if key == 'image_topic':  # image_transport's rule for the camera_info of an image
                yield f'{topic.rpartition("/")[0]}/camera_info', CameraInfo, RELIABLE
    for consumer, topic in re.findall(r'-r (\S+):=(\S+)', PAGE):
        yield topic, CameraInfo if consumer.endswith('camera_info') else Image, RELIABLE
    yield '/sharp/snapshot/points', PointCloud2, LATCHED


def make_pipeline(config):
    """With measured depth at full resolution: what is wrong then is wrong in the messages."""
    engine = Engine(SensorPredictor(stride=1), config.model)
    return Pipeline(engine, load_predictor('sensor')[1], config)


class Robot:
    """A camera with true depth and poses beside the real node; frames go one by one."""

    def __init__(self, context, executor):
        parameters = {
            'pose.source': 'odometry', 'occupancy.rate_hz': 10.0, 'view_names': [''],
            'occupancy.max_turn_rate': 0.0,  # a lap takes seconds here
        }  # fmt: skip
        self.node = SharpNode(
            make_pipeline,
            context=context,
            parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()],
        )
        executor.add_node(self.node)
        self.peer = Peer(context, executor)
        self.got = defaultdict(dict)
        for topic, (kind, qos) in LISTENS.items():
            self.peer.node.create_subscription(kind, topic, self._keep(topic), qos)
        self._reset = self.peer.node.create_client(Trigger, '/sharp/reset')
        self._stamp_ns = self.peer.now()

    def _keep(self, topic):
        return lambda msg: self.got[topic].__setitem__(stamp_ns_from_msg(msg.header), msg)

    def start(self):
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS

    def reset(self):
        future = self._reset.call_async(Trigger.Request())
        self.peer.spin_until(future.done)
        assert future.result().success

    def see(self, depth, pose=AHEAD, image=GREY, info=None):
        """Publish a frame until it is processed; its messages by topic, and the pose sent."""
        for _ in range(10):
            self._stamp_ns = stamp_ns = self._stamp_ns + 100_000_000
            odometry = odometry_to_msg(pose, stamp_ns, 'odom', CAMERA)
            self.peer.odometry.publish(odometry)
            self.peer.info.publish(info or camera_info_to_msg(SMALL, stamp_ns, CAMERA))
            self.peer.depth.publish(depth_to_msg(depth, stamp_ns, CAMERA))
            self.peer.image.publish(image_to_msg(image, stamp_ns, CAMERA))
            end = time.monotonic() + 1.0
            complete = partial(self._complete, stamp_ns)
            self.peer.spin_until(lambda e=end, c=complete: c() or time.monotonic() > e)
            if complete():
                messages = {topic: self.got[topic].pop(stamp_ns) for topic in LISTENS}
                return messages, pose_from_odometry(odometry)[3]
        raise AssertionError('no frame comes through; discovery takes no ten seconds')

    def _complete(self, stamp_ns):
        return all(stamp_ns in self.got[topic] for topic in LISTENS)


@pytest.fixture(scope='module')
def robot():
    context = Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    robot = Robot(context, executor)
    robot.start()
    yield robot
    robot.node.destroy_node()
    robot.peer.node.destroy_node()
    executor.shutdown()
    rclpy.try_shutdown(context=context)


def local_costmap(**sources):
    """Costmap of the recipe, some of its sources changed, None: left out."""
    parameters = copy.deepcopy(recipe('nav2_costmap'))['local_costmap']['local_costmap']
    layer = parameters['ros__parameters']['voxel_layer']
    names = [n for n in layer['observation_sources'].split() if sources.get(n, {}) is not None]
    layer['observation_sources'] = ' '.join(names)
    for name in names:
        layer[name].update(sources.get(name, {}))
    return VoxelCostmap(parameters['ros__parameters'], (-4.5, -3.5), (4.5, 3.5))


def feed(costmaps, messages, pose):
    for costmap in costmaps:
        for topic in ('/sharp/points', '/sharp/clearing_points'):
            costmap.observe(topic, messages[topic], pose)
        costmap.update()


# --- what is configured -----------------------------------------------------------------------


def test_settings_of_the_node_and_the_costmap_agree():
    ours = SharpConfig().occupancy
    parameters = recipe('nav2_costmap')['local_costmap']['local_costmap']['ros__parameters']
    layer = parameters['voxel_layer']
    points, rays, clearing = (layer[n] for n in layer['observation_sources'].split())
    heights = (points['min_obstacle_height'], points['max_obstacle_height'])
    assert heights == (ours.min_height, ours.max_height)
    assert points['obstacle_min_range'] == ours.min_range
    assert rays['raytrace_max_range'] == clearing['raytrace_max_range'] == ours.max_range
    # the voxel layer shortens rays by two cells; what is marked beyond would stay
    spared = 2 * parameters['resolution']
    assert points['obstacle_max_range'] < rays['raytrace_max_range'] - spared
    assert clearing['min_obstacle_height'] <= ours.min_height
    assert clearing['max_obstacle_height'] >= ours.max_height
    assert layer['z_voxels'] <= 16
    assert layer['origin_z'] + layer['z_voxels'] * layer['z_resolution'] >= ours.max_height
    assert parameters['resolution'] == ours.voxel_size


def test_the_mapping_configuration_only_turns_the_fused_maps_on():
    changed = differences(load_yaml(ROOT / 'config' / 'mapping.yaml'))
    assert changed == {'gaussian_map.enabled': True, 'surface_map.enabled': True}


def test_every_recipe_is_installed_linked_and_explained():
    assert "glob('config/*.yaml')" in (ROOT / 'setup.py').read_text()
    linked = re.findall(r'config/(\w+\.yaml)', PAGE)
    assert set(linked) == {p.name for p in (ROOT / 'config').glob('*.yaml')} - {
        'sharp.yaml',
        'train_nano.yaml',
    }
    for target in re.findall(r'\]\(([^)#:]+)\)', PAGE):
        assert (ROOT / 'docs' / target).exists(), target


# --- what is published ------------------------------------------------------------------------


def test_every_topic_of_the_recipes_exists_with_the_type_and_qos_its_reader_needs(robot):
    robot.see(hall())
    wanted = list(subscriptions())
    assert len({topic for topic, *_ in wanted}) == 7
    for topic, kind, qos in wanted:
        (publisher,) = robot.peer.node.get_publishers_info_by_topic(topic)
        package, name = kind.__module__.partition('.')[0], kind.__name__
        assert publisher.topic_type == f'{package}/msg/{name}', topic
        fits, why = qos_check_compatible(publisher.qos_profile, qos)
        assert fits != QoSCompatibility.ERROR, f'{topic}: {why}'
        # what the check calls a warning: defaults that are not known until both have met
        assert publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE, topic
        if qos is LATCHED:
            assert publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL, topic


@dataclass(frozen=True)
class Drive:
    costmap: VoxelCostmap
    seen: np.ndarray  # [rows, columns] cells in which truth was within the ranges of the recipe
    truth: np.ndarray  # [rows, columns] as in Room.occupancy, over the costmap


@pytest.fixture(scope='module')
def drive(robot):
    """One lap through a furnished room with true depth."""
    robot.reset()
    room, costmap = Room(3), local_costmap()
    truth = room.occupancy(0.05, 0.1, 1.8, (-4.5, -3.5, 4.5, 3.5)).data
    seen = np.zeros(truth.shape, bool)
    for _, pose in room.trajectory(room.loop_duration, 0.6):
        image, depth = room.render(SMALL, pose)
        messages, placed = robot.see(depth, pose, image)
        feed([costmap], messages, placed)
        rays = np.concatenate([SMALL.rays(), np.ones((*depth.shape, 1), np.float32)], -1)
        points = rays * depth[..., None]
        near = np.linalg.norm(points, axis=-1) < 4.8
        points = apply(pose, points[near].astype(np.float64))
        x, y = points[(points[:, 2] > 0.1) & (points[:, 2] < 1.8), :2].T
        seen[((y + 3.5) / 0.05).astype(int), ((x + 4.5) / 0.05).astype(int)] = True
    return Drive(costmap, seen, truth)


def grown(cells, by=1):
    size = 2 * by + 1
    return cv2.dilate(cells.astype(np.uint8), np.ones((size, size), np.uint8)) > 0


def test_the_costmap_holds_walls_and_furniture_and_leaves_the_floor_free(drive):
    lethal, solid = drive.costmap.lethal, drive.truth == 100
    expected = solid & drive.seen
    assert expected.sum() > 500
    assert (grown(lethal) & expected).sum() > 0.97 * expected.sum()
    assert not (lethal & ~grown(solid)).any()  # farther than a cell from everything solid


def test_the_static_layer_gets_the_grid_late_and_the_right_way_round(robot, drive):
    grids = []
    robot.peer.node.create_subscription(
        OccupancyGrid, '/sharp/occupancy_grid', grids.append, LATCHED
    )
    robot.peer.spin_until(lambda: grids)  # without a further frame
    grid = grids[0]
    assert grid.header.frame_id == 'odom'
    cells = np.array(grid.data, np.int8).reshape(grid.info.height, grid.info.width)
    assert set(np.unique(cells)) == {-1, 0, 100}
    assert np.int8(-1).view(np.uint8) == 255  # unknown_cost_value
    q, origin = grid.info.origin.orientation, grid.info.origin.position
    assert (q.x, q.y, q.z, q.w) == (0.0, 0.0, 0.0, 1.0)
    cell = grid.info.resolution
    assert cell == pytest.approx(0.05)
    corner = np.array([origin.x, origin.y]) / cell
    np.testing.assert_allclose(corner, np.round(corner), atol=1e-3)  # aligned, or Nav2 warns
    row, column = np.nonzero(cells == 100)
    x, y = origin.x + (column + 0.5) * cell, origin.y + (row + 0.5) * cell
    solid = grown(drive.truth == 100, 2)  # what is hit is spread backwards over its uncertainty

    def agree(x, y):
        row, column = ((y + 3.5) / 0.05).astype(int), ((x + 4.5) / 0.05).astype(int)
        inside = (row >= 0) & (row < solid.shape[0]) & (column >= 0) & (column < solid.shape[1])
        return solid[row[inside], column[inside]].sum() / len(x)

    assert agree(x, y) > 0.99
    assert max(agree(y, x), agree(-x, y), agree(x, -y)) < 0.9


def hall(box=None):
    """True depth in a hall: a floor, a wall 8 m ahead as high as one looks, one box."""
    rays = np.concatenate([SMALL.rays(), np.ones((120, 160, 1), np.float32)], -1)
    direction = rays.astype(np.float64) @ AHEAD[:3, :3].T
    direction[np.abs(direction) < 1e-9] = 1e-9
    depth = 8 / direction[..., 0]
    floor = -1 / direction[..., 2]
    depth = np.where(floor > 0, np.minimum(depth, floor), depth)
    if box is not None:
        ends = (np.array(box)[:, None, None] - AHEAD[:3, 3]) / direction
        enter, leave = ends.min(0).max(-1), ends.max(0).min(-1)
        depth = np.where((enter < leave) & (enter < depth), enter, depth)
    return depth.astype(np.float32)


def put_and_removed(robot, box, *costmaps):
    """Cells that a box makes lethal, and those of them left when it is gone, by costmap."""
    robot.reset()
    for _ in range(2):
        feed(costmaps, *robot.see(hall(box)))
    before = [costmap.lethal for costmap in costmaps]
    for _ in range(2):
        feed(costmaps, *robot.see(hall()))
    return [
        (cells.sum(), (cells & costmap.lethal).sum())
        for cells, costmap in zip(before, costmaps, strict=True)
    ]


def test_a_box_on_the_floor_clears_when_it_is_gone(robot):
    box = ((2.0, -0.3, 0.0), (2.4, 0.3, 0.6))
    in_band = local_costmap(rays=None, points={'clearing': True})
    (marked, left), (_, without_rays) = put_and_removed(robot, box, local_costmap(), in_band)
    assert marked >= 12  # its front, 0.6 m wide
    assert left == 0
    assert without_rays > 0  # seen before the floor, which no source of the band may hold


def test_what_hung_before_nothing_in_range_clears_through_the_clearing_cloud_only(robot):
    shelf = ((2.0, -0.3, 1.2), (2.4, 0.3, 1.75))  # its upper part before the wall above 1.8 m
    thrifty = {'rays': None, 'points': {'clearing': True}}
    found = put_and_removed(
        robot,
        shelf,
        local_costmap(),
        local_costmap(**thrifty),
        local_costmap(**thrifty, clearing=None),
    )
    assert all(marked >= 12 for marked, _ in found)
    assert [left > 0 for _, left in found] == [False, False, True]


def test_clearing_points_lie_in_the_height_band_of_their_source(robot):
    messages, pose = robot.see(hall())
    points = apply(pose, xyz_from_msg(messages['/sharp/clearing_points']))
    assert len(points) > 100
    assert points[:, 2].min() >= 0.1
    assert points[:, 2].max() <= 1.8 + 0.05  # the band is of whole voxels


# --- RTAB-Map and nvblox ----------------------------------------------------------------------

LENS = [-0.25, 0.06, 0.001, -0.002, 0.0]  # plumb_bob: k1 k2 p1 p2 k3


def pattern(u, v):
    """Smooth picture and depth over pinhole pixels: what rectification must give back."""
    image = np.stack([60 + u, 200 - u * 0.8, 40 + v], -1)
    return np.clip(image, 0, 255), 2.0 + 0.004 * u + 0.003 * v


def distorted():
    """The pattern through a lens, and the camera_info that tells of the lens."""
    v, u = np.mgrid[:120, :160].astype(np.float64)
    raw = np.stack([u, v], -1).reshape(-1, 1, 2)
    pinhole = cv2.undistortPoints(raw, SMALL.matrix, np.array(LENS), P=SMALL.matrix)
    image, depth = pattern(*pinhole.reshape(120, 160, 2).transpose(2, 0, 1))
    info = camera_info_to_msg(SMALL, 0, CAMERA)
    info.d = LENS
    return image.round().astype(np.uint8), depth.astype(np.float32), info


@pytest.mark.parametrize('lens', [False, True], ids=['pinhole', 'plumb_bob'])
def test_image_depth_and_camera_info_of_a_frame_fit_exactly(robot, lens):
    robot.reset()
    v, u = np.mgrid[:120, :160].astype(np.float64)
    truth, true_depth = pattern(u, v)
    image, depth, info = (
        distorted() if lens else (truth.round().astype(np.uint8), true_depth, None)
    )
    messages, _ = robot.see(depth.astype(np.float32), image=image, info=info)
    rgb, z, info = (
        messages[f'/sharp/{t}'] for t in ('image_rect', 'depth/image', 'depth/camera_info')
    )
    assert rgb.header == z.header == info.header
    assert rgb.header.frame_id == CAMERA
    assert (rgb.width, rgb.height) == (z.width, z.height) == (info.width, info.height)
    assert (rgb.encoding, z.encoding) == ('rgb8', '32FC1')
    assert (rgb.step, z.step) == (3 * rgb.width, 4 * z.width)
    assert not any(info.d)
    k = np.array(info.k).reshape(3, 3)
    np.testing.assert_allclose(np.array(info.p).reshape(3, 4), np.column_stack([k, np.zeros(3)]))
    np.testing.assert_array_equal(info.r, np.eye(3).ravel())
    np.testing.assert_allclose(k, SMALL.matrix, rtol=1e-6)
    # where the lens saw, both are what a pinhole with this K sees
    inner = np.s_[12:-12, 16:-16]
    colour = np.abs(image_from_msg(rgb).astype(float) - truth)[inner]
    assert colour.max() < 2.0
    assert np.abs(depth_from_msg(z) - true_depth)[inner].max() < 0.01  # 1 cm
