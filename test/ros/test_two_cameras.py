"""Two nodes in one graph: one costmap of both (docs/planners.md); neither disturbs the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from diagnostic_msgs.msg import DiagnosticArray
from fake_costmap import VoxelCostmap
from nav_msgs.msg import OccupancyGrid, Odometry
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import (
    qos_check_compatible,
    qos_profile_sensor_data,
    QoSCompatibility,
    ReliabilityPolicy,
)
from ros_helpers import start
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import Trigger
from test_planners import AHEAD, GREY, hall, LATCHED, make_pipeline, recipe, SMALL

from sharp_ros.ros.conversions import (
    camera_info_to_msg,
    depth_to_msg,
    image_to_msg,
    odometry_to_msg,
    stamp_ns_from_msg,
)
from sharp_ros.ros.node import SharpNode

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[2]
TURNED = np.diag([-1.0, -1.0, 1.0, 1.0])  # half a turn about z of the world
POSES = {'front': AHEAD, 'rear': TURNED @ AHEAD}
CLOUDS = ('points', 'clearing_points')
# In the frame of each camera: ahead at 2 m of the one, at 2.5 m of the other.
BOXES = {
    'front': np.array([[2.0, -0.3, 0.0], [2.4, 0.3, 0.6]]),
    'rear': np.array([[2.5, -0.5, 0.0], [2.9, -0.1, 0.6]]),
}


def costmap():
    """The local costmap of the recipe."""
    parameters = recipe('nav2_two_cameras')['local_costmap']['local_costmap']['ros__parameters']
    return VoxelCostmap(parameters, (-4.5, -3.5), (4.5, 3.5))


def cells_of(lethal, box):
    """Those of a costmap whose centres lie in a box, a cell widened."""
    (x0, y0, _), (x1, y1, _) = box + np.array([[-0.05], [0.05]])
    rows, columns = np.nonzero(lethal)
    x, y = -4.5 + 0.05 * (columns + 0.5), -3.5 + 0.05 * (rows + 0.5)
    return int(((x > x0) & (x < x1) & (y > y0) & (y < y1)).sum())


class Camera:
    """The node of one camera, and the driver that feeds it, in its namespace."""

    def __init__(self, name, context, executor, folder):
        self.name, self.executor = name, executor
        parameters = {
            'pose.source': 'odometry', 'occupancy.rate_hz': 10.0,
            'output.directory': str(folder / name),
        }  # fmt: skip
        self.node = SharpNode(
            make_pipeline,
            context=context,
            namespace=name,
            parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()],
        )
        self.driver = Node('driver', namespace=name, context=context)
        for node in (self.node, self.driver):
            executor.add_node(node)
        types = {'image': Image, 'camera_info': CameraInfo, 'odometry': Odometry, 'depth': Image}
        self.out = {t: self.driver.create_publisher(k, t, 1) for t, k in types.items()}
        self.got = {topic: [] for topic in (*CLOUDS, 'occupancy_grid')}
        for topic in CLOUDS:
            self.driver.create_subscription(
                PointCloud2, f'sharp/{topic}', self.got[topic].append, qos_profile_sensor_data
            )
        self.driver.create_subscription(
            OccupancyGrid, 'sharp/occupancy_grid', self.got['occupancy_grid'].append, LATCHED
        )
        self.sent = []

    def send(self, box):
        """One frame of a hall with a box in it, both given as the camera at AHEAD sees them."""
        stamp_ns = self.driver.get_clock().now().nanoseconds
        self.sent.append(stamp_ns)
        frame = f'{self.name}_optical_frame'
        pose = POSES[self.name]
        self.out['odometry'].publish(odometry_to_msg(pose, stamp_ns, 'odom', frame))
        self.out['camera_info'].publish(camera_info_to_msg(SMALL, stamp_ns, frame))
        self.out['depth'].publish(depth_to_msg(hall(box), stamp_ns, frame))
        self.out['image'].publish(image_to_msg(GREY, stamp_ns, frame))

    def trigger(self, service):
        client = self.driver.create_client(Trigger, f'sharp/{service}')
        assert client.wait_for_service(10)
        future = client.call_async(Trigger.Request())
        self.executor.spin_until_future_complete(future, 20)
        assert future.result().success, future.result().message


@pytest.fixture
def robot(context, executor, peer, tmp_path, tf2):
    """Both cameras; `spin_until` of the peer drives all of them."""
    cameras = {name: Camera(name, context, executor, tmp_path) for name in POSES}
    for camera in cameras.values():
        start(camera.node)
    yield cameras
    for camera in cameras.values():
        for node in (camera.node, camera.driver):
            executor.remove_node(node)
            node.destroy_node()


def feed(robot, peer, number=3, boxes=BOXES):
    """Send frames to both until that many clouds have come from each since."""
    before = {(n, t): len(c.got[t]) for n, c in robot.items() for t in CLOUDS}

    def send():
        for name, camera in robot.items():
            camera.send(boxes.get(name))

    def enough():
        return all(len(robot[n].got[t]) >= had + number for (n, t), had in before.items())

    peer.spin_until(enough, 30, each=send, period=0.1)


def test_every_source_of_the_recipe_exists_with_the_type_and_qos_nav2_needs(robot, peer):
    feed(robot, peer, 1)
    wanted = set()
    for name in ('local_costmap', 'global_costmap'):
        parameters = recipe('nav2_two_cameras')[name][name]['ros__parameters']
        assert parameters['global_frame'] == 'odom'
        assert parameters['rolling_window'] is True
        layer = parameters['voxel_layer']
        assert layer['plugin'] == 'nav2_costmap_2d::VoxelLayer'
        assert 'voxel_layer' in parameters['plugins']
        wanted |= {layer[source]['topic'] for source in layer['observation_sources'].split()}
    assert wanted == {f'/{n}/sharp/{t}' for n in POSES for t in CLOUDS}
    for topic in wanted:
        (publisher,) = peer.node.get_publishers_info_by_topic(topic)
        assert publisher.topic_type == 'sensor_msgs/msg/PointCloud2'
        assert publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        fits, why = qos_check_compatible(publisher.qos_profile, qos_profile_sensor_data)
        assert fits != QoSCompatibility.ERROR, why


def test_each_source_is_that_of_the_recipe_for_one_camera():
    one = recipe('nav2_costmap')['local_costmap']['local_costmap']['ros__parameters']
    two = recipe('nav2_two_cameras')['local_costmap']['local_costmap']['ros__parameters']
    alone, both = one['voxel_layer'], two['voxel_layer']
    sources = alone['observation_sources'].split()
    named = [f'{camera}_{source}' for camera in POSES for source in sources]
    assert both['observation_sources'].split() == named
    for camera in POSES:
        for source in sources:
            given = dict(both[f'{camera}_{source}'])
            assert given.pop('topic') == alone[source]['topic'].replace('/', f'/{camera}/', 1)
            assert given == {k: v for k, v in alone[source].items() if k != 'topic'}
    rest = set(alone) - {'observation_sources', *sources}
    assert {k: alone[k] for k in rest} == {k: both[k] for k in rest}
    assert {k: v for k, v in one.items() if k != 'voxel_layer'} == {
        k: v for k, v in two.items() if k != 'voxel_layer'
    }
    whole = recipe('nav2_two_cameras')['global_costmap']['global_costmap']['ros__parameters']
    assert whole['voxel_layer'] == both
    assert whole['width'] > two['width']


def test_one_costmap_holds_what_either_camera_sees_and_lets_it_go(robot, peer):
    world = {'front': BOXES['front'], 'rear': np.sort(BOXES['rear'] @ TURNED[:3, :3], 0)}
    grid = costmap()

    def take():
        for name, camera in robot.items():
            for topic in CLOUDS:
                cloud = camera.got[topic][-1]
                assert cloud.header.frame_id == f'{name}_optical_frame'
                assert stamp_ns_from_msg(cloud.header) in camera.sent
                assert [f.name for f in cloud.fields[:3]] == ['x', 'y', 'z']
                grid.observe(f'/{name}/sharp/{topic}', cloud, POSES[name])
        grid.update()

    feed(robot, peer)
    take()
    lethal = grid.lethal
    found = {name: cells_of(lethal, box) for name, box in world.items()}
    assert found['front'] >= 12  # its front, 0.6 m wide
    assert found['rear'] >= 8  # 0.4 m
    assert lethal.sum() == sum(found.values())  # the hall is empty but for them
    feed(robot, peer, boxes={'rear': BOXES['rear']})  # the one ahead is taken away
    take()
    assert cells_of(grid.lethal, world['front']) == 0
    assert cells_of(grid.lethal, world['rear']) == found['rear']


def test_two_nodes_do_not_disturb_each_other(robot, peer, tf2, tmp_path):
    statuses = set()
    peer.node.create_subscription(
        DiagnosticArray, '/diagnostics', lambda m: statuses.update(s.name for s in m.status), 10
    )
    for name in POSES:
        peer.node.create_subscription(
            Image, f'/{name}/sharp/view/over_shoulder/image', lambda m: None, 1
        )
    feed(robot, peer)
    # tf: each view in a frame of its own, below the camera that it belongs to
    parents = {m.child_frame_id: m.header.frame_id for _, m in tf2.sent}
    assert parents == {f'{n}_over_shoulder_optical_frame': f'{n}_optical_frame' for n in POSES}
    # graph: no topic has two publishers of ours, no service two servers
    nodes = [camera.node for camera in robot.values()]
    for kind in ('publisher', 'service'):
        ends = [
            {e for e, _ in getattr(peer.node, f'get_{kind}_names_and_types_by_node')(
                node.get_name(), node.get_namespace())} for node in nodes
        ]  # fmt: skip
        shared = ends[0] & ends[1]
        assert shared <= {'/diagnostics', '/tf', '/tf_static', '/rosout', '/parameter_events'}
    # diagnostics: told apart by name
    peer.spin_until(lambda: len(statuses) >= 8)
    names = {status.partition(':')[0] for status in statuses}
    assert names == {'front/sharp', 'rear/sharp'}
    # maps: a reset of one leaves the other, and each saves below its own folder
    peer.spin_until(lambda: all(c.got['occupancy_grid'] for c in robot.values()))
    robot['front'].got['occupancy_grid'].clear()
    robot['rear'].trigger('save_map')
    robot['front'].trigger('reset')
    peer.spin_until(lambda: robot['front'].got['occupancy_grid'])
    assert set(robot['front'].got['occupancy_grid'][-1].data) == {-1}
    peer.spin(0.3)
    assert 100 in robot['rear'].got['occupancy_grid'][-1].data
    assert (tmp_path / 'rear' / 'latest').exists()
    assert not (tmp_path / 'front').exists()
