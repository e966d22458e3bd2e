"""What comes out is understood by parts nobody here wrote: other DDS, bags, readers of clouds."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import partial
import importlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.serialization import deserialize_message, serialize_message
from ros_helpers import CAMERA, IMAGE, POSE, WALL, WallOracle
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from sensor_msgs.msg import PointField
from std_srvs.srv import Trigger
from test_sources import Bag, K, pose_of, START_NS, STEP_NS, unlit
import torch

from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.ros.conversions import image_from_msg, stamp_ns_from_msg
from sharp_ros.synthetic import Room

pytestmark = pytest.mark.ros

IMAGE_OUT, DEPTH, INFO = '/sharp/image_rect', '/sharp/depth/image', '/sharp/depth/camera_info'
POINTS, GAUSSIANS, GRID = '/sharp/points', '/sharp/gaussians', '/sharp/occupancy_grid'
MAP_POINTS, CLEARING = '/sharp/map_points', '/sharp/clearing_points'
SNAPSHOT, ODOMETRY = '/sharp/snapshot/points', '/sharp/odometry'


def start(node):
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    return node


def of_stamp(messages, stamp_ns):
    return next((m for m in messages if stamp_ns_from_msg(m.header) == stamp_ns), None)


def plain(value):
    """A message of rclpy or rosbags as nested dicts, lists and arrays of numbers."""
    if hasattr(value, 'get_fields_and_field_types'):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if is_dataclass(value):
        # rosbags adds __msgtype__ and the CONSTANTS of the definition
        names = [field.name for field in fields(value) if field.name[0].islower()]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, bytes):  # the level of a DiagnosticStatus
        return value[0]
    if isinstance(value, list) and value and not np.isscalar(value[0]):
        return [plain(item) for item in value]
    return value if np.isscalar(value) else np.array(value)


# --- another implementation of DDS ---------------------------------------------------------------


@pytest.fixture
def cyclone():
    pytest.importorskip('cyclonedds', reason='needs cyclonedds, see requirements/dev.txt')
    return importlib.import_module('dds_peer')


@pytest.fixture(
    params=['SUBNET DEFAULT?sockets_size=8MB', 'SUBNET UDPv4', 'LOCALHOST DEFAULT'],
    ids=lambda p: '_'.join(p.split()),
)
def transports(request, monkeypatch):
    """The settings under which Fast DDS talks to others, see docs/conventions.md."""
    discovery_range, transports = request.param.split()
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', discovery_range)
    monkeypatch.setenv('FASTDDS_BUILTIN_TRANSPORTS', transports)


@pytest.fixture
def other_vendor(tmp_path, cyclone):
    """Starts `dds_peer` in a process of its own; what it returns has ended when all was heard."""
    started = []

    class Process:
        def __init__(self, *arguments):
            self.file = tmp_path / f'heard_{len(started)}'
            command = [sys.executable, cyclone.__file__, self.file, *arguments]
            self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            started.append(self.process)

        def ended(self):
            return self.process.poll() is not None

        def heard(self):
            assert self.process.returncode == 0, self.process.stderr.read()
            return pickle.loads(self.file.read_bytes())

    yield Process
    for process in started:
        process.kill()
        process.communicate()


def assert_same(heard, peer):
    """Every message heard over the wire is the one of its stamp that rclpy received."""
    for topic, message in heard.items():
        stamp = message['header']['stamp']
        same = partial(of_stamp, peer.received[topic], stamp['sec'] * 10**9 + stamp['nanosec'])
        peer.spin_until(same)
        np.testing.assert_equal(message, plain(same()), topic)


@pytest.mark.usefixtures('transports')
def test_another_dds_vendor_hears_what_rclpy_hears(make_node, peer, other_vendor, cyclone, tf2):
    tf2.place(POSE, 'base', CAMERA)  # which says what is up
    listener = other_vendor(*cyclone.TOPICS)
    peer.listen(*cyclone.TOPICS)
    start(make_node(pose__source='visual', pose__base_frame='base', occupancy__rate_hz=20.0))
    peer.spin_until(listener.ended, 40, each=lambda: peer.send(pose=None))
    heard = listener.heard()
    assert heard.keys() == cyclone.TOPICS.keys()
    assert_same(heard, peer)
    # and it is no empty talk
    depth = heard[DEPTH]
    assert (depth['encoding'], depth['header']['frame_id']) == ('32FC1', CAMERA)
    assert np.nanmax(np.abs(np.array(depth['data'], np.uint8).view(np.float32) - WALL)) < 1e-3
    assert len(set(heard[GRID]['data'])) > 1
    assert heard[ODOMETRY]['child_frame_id'] == 'base'


@pytest.mark.parametrize('transports', ['SUBNET DEFAULT?sockets_size=8MB'], indirect=True)
@pytest.mark.usefixtures('transports')
def test_another_dds_vendor_that_comes_late_gets_the_map(make_node, peer, other_vendor):
    peer.listen(GRID)
    start(make_node())
    peer.spin_until(lambda: peer.received[GRID], each=peer.send)
    late = other_vendor(GRID)  # no more images come
    peer.spin_until(late.ended, 40)
    assert_same(late.heard(), peer)


@pytest.mark.usefixtures('transports')
def test_a_camera_of_another_dds_vendor_is_taken_in(make_node, peer, other_vendor, cyclone):
    peer.listen(DEPTH, POINTS, IMAGE_OUT, INFO, '/diagnostics')
    node = start(make_node(pose__source='none'))
    camera = other_vendor('--camera', DEPTH, POINTS)
    peer.spin_until(camera.ended, 40)
    assert_same(camera.heard(), peer)
    image, info = peer.received[IMAGE_OUT][-1], peer.received[INFO][-1]
    assert np.array_equal(image_from_msg(image), cyclone.PICTURE)
    assert (info.width, info.height, info.k[0]) == (*cyclone.SIZE, cyclone.FOCAL_LENGTH)
    assert image.header.frame_id == 'cyclone_optical_frame'
    node.trigger_deactivate()
    peer.spin_until(
        lambda: peer.received['/diagnostics'] and peer.status('Input')[2]['state'] == 'inactive'
    )
    counts = peer.status('Input')[2]
    assert int(counts['processed']) >= len(peer.received[DEPTH]) > 0


# --- bags ----------------------------------------------------------------------------------------


@pytest.fixture
def room_bag(tmp_path, monkeypatch):
    """Four images with camera_info and odometry of the simulated room, written by rosbags."""
    monkeypatch.setattr(Room, '_atlas', property(unlit))
    room = Room(0)
    with Bag(tmp_path / 'room', 'mcap') as bag:
        for i in range(4):
            stamp_ns = START_NS + i * STEP_NS
            bag.info('/camera/camera_info', stamp_ns)
            bag.odometry(pose_of(i), stamp_ns, 'cam')
            bag.image('/camera/image', room.render(K, pose_of(i))[0], stamp_ns, 'rgb8')
    return bag.path


def test_a_bag_of_rosbags_is_mapped_and_outputs_survive_another_bag(
    make_node, peer, room_bag, tmp_path
):
    store = get_typestore(Stores.ROS2_KILTED)
    peer.listen()
    start(make_node(occupancy__rate_hz=100.0))
    inputs = {
        '/camera/camera_info': peer.info,
        '/odom': peer.odometry,
        '/camera/image': peer.image,
    }
    outputs = peer.TOPICS.keys() - {SNAPSHOT, ODOMETRY}
    peer.spin_until(lambda: all(p.get_subscription_count() for p in inputs.values()))
    with AnyReader([room_bag]) as reader:
        for connection, stamp_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            again = bytes(store.serialize_cdr(message, connection.msgtype))
            play = partial(inputs[connection.topic].publish, again)
            if connection.topic != '/camera/image':
                play()
                continue
            arrived = partial(of_stamp, peer.received[IMAGE_OUT], stamp_ns)
            peer.spin_until(arrived, each=play, period=0.2)
            np.testing.assert_equal(np.asarray(arrived().data), message.data)
    peer.spin_until(lambda: all(peer.received[topic] for topic in outputs))
    assert list(peer.received[INFO][0].k) == K.matrix.ravel().tolist()

    # serialised once: bytes that only align what follows are left as they are, that is, random
    written = {t: [(m, serialize_message(m)) for m in peer.received[t]] for t in outputs}
    with Writer(tmp_path / 'out', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, messages in written.items():
            kind = peer.TOPICS[topic]
            name = f'{kind.__module__.partition(".")[0]}/msg/{kind.__name__}'
            connection = writer.add_connection(topic, name, typestore=store)
            for i, (_, data) in enumerate(messages):
                writer.write(connection, i, data)
    count = 0
    with AnyReader([tmp_path / 'out']) as reader:
        for connection, i, data in reader.messages():
            original, serialised = written[connection.topic][i]
            assert data == serialised
            message = reader.deserialize(data, connection.msgtype)
            np.testing.assert_equal(plain(message), plain(original), connection.topic)
            again = bytes(store.serialize_cdr(message, connection.msgtype))
            assert deserialize_message(again, type(original)) == original
            count += 1
    assert count == sum(map(len, written.values()))


# --- readers of clouds ---------------------------------------------------------------------------


class WallUnderTheSky(WallOracle):
    """A wall, and above it nothing in range."""

    def __call__(self, image, intrinsics, depth=None):
        z = torch.full((1, 24, 32), WALL)
        z[:, :8] = 100.0
        return gaussians_from_depth(z, torch.full((3, 24, 32), 0.5), intrinsics.resized(32, 24))


def read_points(msg):
    """[height, width] records of a PointCloud2, by nothing but the definition of the message."""
    kinds = dict(zip(range(1, 9), ['i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'f4', 'f8'], strict=True))
    order = '>' if msg.is_bigendian else '<'
    record = {
        'names': [f.name for f in msg.fields],
        'formats': [(order + kinds[f.datatype], (f.count,) * (f.count > 1)) for f in msg.fields],
        'offsets': [f.offset for f in msg.fields],
        'itemsize': msg.point_step,
    }
    assert len(msg.data) == msg.height * msg.row_step
    shape, strides = (msg.height, msg.width), (msg.row_step, msg.point_step)
    return np.ndarray(shape, np.dtype(record), bytes(msg.data), strides=strides)


def xyz(points):
    return np.stack([points[name] for name in 'xyz'], -1)


def rgb(points):
    """As PCL packs colours: the bits of the float are 0x00RRGGBB."""
    bits = np.ascontiguousarray(points['rgb']).view(np.uint32)
    return np.stack([bits >> shift & 255 for shift in (16, 8, 0)], -1)


CLOUDS = {
    POINTS: 'x y z rgb',
    GAUSSIANS: 'x y z rgb opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3',
    MAP_POINTS: 'x y z',
    CLEARING: 'x y z',
    SNAPSHOT: 'x y z rgb normal_x normal_y normal_z curvature',
}


@pytest.fixture
def newest(make_node, peer):
    """The newest message of each topic, all clouds with points in them."""
    peer.listen(*CLOUDS, DEPTH, INFO)
    start(make_node(WallUnderTheSky(), snapshot__frames=2, occupancy__rate_hz=20.0))
    client = peer.node.create_client(Trigger, '/sharp/snapshot')
    assert client.wait_for_service(5.0)
    answer = client.call_async(Trigger.Request())

    def all_filled():
        assert not answer.done() or answer.result().success, answer.result().message
        return all(peer.received[topic] and peer.received[topic][-1].width for topic in CLOUDS)

    peer.spin_until(all_filled, 60, each=peer.send)
    return {topic: messages[-1] for topic, messages in peer.received.items()}


def test_clouds_are_read_by_the_definition_of_the_message_alone(newest):
    for topic, names in CLOUDS.items():
        msg = newest[topic]
        layout = [(f.name, f.offset, f.datatype, f.count) for f in msg.fields]
        expected = [(n, 4 * i, PointField.FLOAT32, 1) for i, n in enumerate(names.split())]
        assert layout == expected, topic
        points = read_points(msg)
        # dense means: no point is invalid
        assert not msg.is_dense or np.isfinite(xyz(points)).all(), topic
        assert np.isfinite(xyz(points)).all() == (topic != POINTS), topic
        if topic != POINTS:
            assert msg.height == 1
    points = read_points(newest[POINTS])
    assert points.shape == IMAGE.shape[:2]
    np.testing.assert_array_equal(rgb(points), IMAGE)
    assert (rgb(read_points(newest[GAUSSIANS])) == 127).all()  # 0.5, as the oracle said
    # a snapshot without poses is in the frame of the camera: each point falls on its pixel
    snapshot = read_points(newest[SNAPSHOT])[0]
    k = np.reshape(newest[INFO].k, (3, 3))
    u, v, w = k @ xyz(snapshot).T
    pixels = np.round([v / w, u / w]).astype(int)
    np.testing.assert_array_equal(rgb(snapshot), IMAGE[pixels[0], pixels[1]])


def test_open3d_makes_the_same_cloud_of_our_image_depth_and_camera_info(newest):
    o3d = pytest.importorskip('open3d', reason='needs open3d')
    info, depth = newest[INFO], newest[DEPTH]
    z = np.frombuffer(depth.data, np.float32).reshape(depth.height, depth.width)
    rgbd = o3d.geometry.RGBDImage.create_from_color_and_depth(
        o3d.geometry.Image(IMAGE),
        o3d.geometry.Image(z.copy()),
        depth_scale=1.0,
        depth_trunc=50.0,
        convert_rgb_to_intensity=False,
    )
    camera = o3d.camera.PinholeCameraIntrinsic(info.width, info.height, np.reshape(info.k, (3, 3)))
    cloud = o3d.geometry.PointCloud.create_from_rgbd_image(
        rgbd, camera, project_valid_depth_only=False
    )
    points = read_points(newest[POINTS])
    theirs = np.asarray(cloud.points).reshape(*points.shape, 3)
    valid = np.isfinite(z)
    assert 0.5 < valid.mean() < 1.0
    np.testing.assert_allclose(xyz(points)[valid], theirs[valid], atol=1e-6)
    assert np.isnan(xyz(points)[~valid]).all()
    colours = np.asarray(cloud.colors).reshape(*points.shape, 3) * 255
    np.testing.assert_allclose(rgb(points)[valid], colours[valid], atol=1e-3)
