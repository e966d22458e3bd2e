import importlib
import itertools
import math
import pickle
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

from sharp_ros import se3
from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.localization.gravity import level_from_up
from sharp_ros.sources import open_source, webcam
from sharp_ros.sources.base import DEFAULT_HFOV, LevelWorld
from sharp_ros.synthetic import Room
from sharp_ros.synthetic.renderer import Atlas

K = Intrinsics(150.0, 152.0, 79.0, 60.5, 160, 120)
STEP_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000


def pattern(index):
    """Smooth enough for lossy codecs, different for every index and channel."""
    y, x = np.mgrid[0 : K.height, 0 : K.width]
    channels = [x + 30 * index, 255 - y - 20 * index, x / 2 + y / 2 + 10]
    return np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)


def depth_of(index):
    return np.full((K.height, K.width), 1.5 + 0.25 * index, np.float32)


def pose_of(index):
    return se3.look_at(np.array([0.1 * index, 0.2, 1]), np.array([3, 0, 0.8]), np.array([0, 0, 1]))


def write_rgb(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


@pytest.fixture
def tum(tmp_path):
    """Four frames; depth is 5 ms late and absent from frame 2, poses lie between the images."""
    rgb, depth, poses = ['# timestamp filename'], [], ['# timestamp tx ty tz qx qy qz qw']
    for i in range(4):
        stamp = 100 + i / 10
        write_rgb(tmp_path / f'rgb/{i}.png', pattern(i))
        rgb.append(f'{stamp:.6f} rgb/{i}.png')
        if i != 2:
            (tmp_path / 'depth').mkdir(exist_ok=True)
            millimetres = np.round(depth_of(i) * 2000).astype(np.uint16)
            cv2.imwrite(str(tmp_path / f'depth/{i}.png'), millimetres)
            depth.append(f'{stamp + 0.005:.6f} depth/{i}.png')
    for i in range(5):
        pose = pose_of(i - 0.5)
        w, x, y, z = se3.quat_from_matrix(pose[:3, :3])
        numbers = ' '.join(f'{v:.9f}' for v in (*pose[:3, 3], x, y, z, w))
        poses.append(f'{100 + (i - 0.5) / 10:.6f} {numbers}')
    (tmp_path / 'rgb.txt').write_text('\n'.join(rgb))
    (tmp_path / 'depth.txt').write_text('\n'.join(depth))
    (tmp_path / 'groundtruth.txt').write_text('\n'.join(poses))
    (tmp_path / 'camera.yaml').write_text(
        f'width: 160\nheight: 120\nfx: {K.fx}\nfy: {K.fy}\ncx: {K.cx}\ncy: {K.cy}\n'
        'depth_scale: 2000.0  # PNG value / depth_scale = metres\n'
    )
    return tmp_path


class Bag:
    """Writes the same few topics in any bag format."""

    def __init__(self, path, kind='mcap'):
        self.ros1 = kind == 'bag'
        self.store = get_typestore(Stores.ROS1_NOETIC if self.ros1 else Stores.ROS2_HUMBLE)
        plugins = {'mcap': StoragePlugin.MCAP, 'db3': StoragePlugin.SQLITE3}
        self.path = path
        self.writer = (
            Writer1(path) if self.ros1 else Writer(path, version=9, storage_plugin=plugins[kind])
        )
        self.connections = {}

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *_):
        self.writer.close()

    def type(self, name):
        return self.store.types[name]

    def header(self, stamp_ns, frame_id):
        stamp = self.type('builtin_interfaces/msg/Time')(*divmod(stamp_ns, 10**9))
        extra = {'seq': 0} if self.ros1 else {}
        return self.type('std_msgs/msg/Header')(stamp=stamp, frame_id=frame_id, **extra)

    def write(self, topic, message, stamp_ns):
        kind = message.__msgtype__
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        serialize = self.store.serialize_ros1 if self.ros1 else self.store.serialize_cdr
        self.writer.write(self.connections[topic], stamp_ns, serialize(message, kind))

    def image(self, topic, array, stamp_ns, encoding, frame_id='cam', late_ns=0):
        rows = np.ascontiguousarray(array).view(np.uint8).reshape(array.shape[0], -1)
        message = self.type('sensor_msgs/msg/Image')(
            header=self.header(stamp_ns, frame_id),
            height=array.shape[0],
            width=array.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=rows.shape[1],
            data=rows.reshape(-1),
        )
        self.write(topic, message, stamp_ns + late_ns)

    def compressed(self, topic, data, stamp_ns, form='jpeg'):
        message = self.type('sensor_msgs/msg/CompressedImage')(
            header=self.header(stamp_ns, 'cam'), format=form, data=np.frombuffer(data, np.uint8)
        )
        self.write(topic, message, stamp_ns)

    def info(self, topic, stamp_ns, k=K, distortion=(0.0,) * 5, k_zero=False, model='plumb_bob'):
        letters = 'DKRP' if self.ros1 else 'dkrp'
        projection = np.column_stack([k.matrix, np.zeros(3)])
        matrix = 0 * k.matrix if k_zero else k.matrix
        values = (
            np.array(distortion, float),
            matrix.ravel(),
            np.eye(3).ravel(),
            projection.ravel(),
        )
        message = self.type('sensor_msgs/msg/CameraInfo')(
            header=self.header(stamp_ns, 'cam'),
            height=k.height,
            width=k.width,
            distortion_model=model,
            binning_x=0,
            binning_y=0,
            roi=self.type('sensor_msgs/msg/RegionOfInterest')(0, 0, 0, 0, False),
            **dict(zip(letters, values, strict=True)),
        )
        self.write(topic, message, stamp_ns)

    def _point(self, kind, xyz):
        return self.type(f'geometry_msgs/msg/{kind}')(*map(float, xyz))

    def _quaternion(self, rotation):
        w, x, y, z = map(float, se3.quat_from_matrix(rotation))
        return self.type('geometry_msgs/msg/Quaternion')(x, y, z, w)

    def odometry(self, pose, stamp_ns, child, topic='/odom', ahead_ns=0):
        zero = self._point('Vector3', (0, 0, 0))
        message = self.type('nav_msgs/msg/Odometry')(
            header=self.header(stamp_ns + ahead_ns, 'odom'),
            child_frame_id=child,
            pose=self.type('geometry_msgs/msg/PoseWithCovariance')(
                self.type('geometry_msgs/msg/Pose')(
                    self._point('Point', pose[:3, 3]), self._quaternion(pose[:3, :3])
                ),
                np.zeros(36),
            ),
            twist=self.type('geometry_msgs/msg/TwistWithCovariance')(
                self.type('geometry_msgs/msg/Twist')(zero, zero), np.zeros(36)
            ),
        )
        self.write(topic, message, stamp_ns)

    def broken_odometry(self, number, stamp_ns):
        kind = self.type('geometry_msgs/msg/Quaternion')
        self._quaternion = lambda rotation: kind(number, number, number, number)
        self.odometry(np.eye(4), stamp_ns, 'cam')
        del self._quaternion

    def imu(self, rotation, stamp_ns, frame_id='imu'):
        """At rest, without an orientation of its own."""
        absent = np.r_[-1.0, np.zeros(8)]
        message = self.type('sensor_msgs/msg/Imu')(
            header=self.header(stamp_ns, frame_id),
            orientation=self._quaternion(np.eye(3)),
            orientation_covariance=absent,
            angular_velocity=self._point('Vector3', (0, 0, 0)),
            angular_velocity_covariance=np.zeros(9),
            linear_acceleration=self._point('Vector3', rotation.T @ [0, 0, 9.81]),
            linear_acceleration_covariance=np.zeros(9),
        )
        self.write('/imu', message, stamp_ns)

    def static(self, parent, child, pose, quaternion=None):
        self.transform('/tf_static', parent, child, pose, 0, quaternion)

    def transform(self, topic, parent, child, pose, stamp_ns, quaternion=None):
        rotation = self._quaternion(pose[:3, :3])
        if quaternion is not None:
            rotation = self.type('geometry_msgs/msg/Quaternion')(*[quaternion] * 4)
        link = self.type('geometry_msgs/msg/TransformStamped')(
            header=self.header(stamp_ns, parent),
            child_frame_id=child,
            transform=self.type('geometry_msgs/msg/Transform')(
                self._point('Vector3', pose[:3, 3]), rotation
            ),
        )
        kind = 'tf2_msgs/msg/TFMessage'
        if kind not in self.store.types:
            text = 'geometry_msgs/TransformStamped[] transforms'
            typesys = importlib.import_module('rosbags.typesys')
            self.store.register(typesys.get_types_from_msg(text, kind))
        self.write(topic, self.type(kind)([link]), stamp_ns or START_NS)


LENS_IN_BASE = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # looks ahead


def write_drive(bag, T_base_camera=None):
    for i in range(4):
        stamp = START_NS + i * STEP_NS
        bag.info('/front/camera_info', stamp)
        bag.image('/front/image_raw', pattern(i), stamp, 'rgb8')
        bag.image('/front/depth', depth_of(i), stamp + 3_000_000, '32FC1', late_ns=10_000_000)
    for i in range(5):
        pose = pose_of(i - 0.5)
        child = 'cam'
        if T_base_camera is not None:
            pose, child = pose @ se3.inverse(T_base_camera), 'base'
        bag.odometry(pose, START_NS + round((i - 0.5) * STEP_NS), child)


@pytest.mark.parametrize('kind', ['mcap', 'bag'])
def test_gravity_of_a_bag_is_that_of_its_imu_where_tf_connects_it(tmp_path, kind):
    T_cam_imu = se3.transform(se3.matrix_from_quat(np.array([0.2, 0.8, -0.3, 0.4])), np.zeros(3))
    up = np.array([0.1, -0.9, -0.2]) / np.linalg.norm([0.1, -0.9, -0.2])
    R_world_cam = level_from_up(up, np.zeros((120, 160), np.float32), K)[:3, :3]
    paths = []
    for name in ('with', 'without'):
        paths.append(tmp_path / (f'{name}.bag' if kind == 'bag' else name))
        with Bag(paths[-1], kind) as bag:
            write_drive(bag)
            for i in range(150):
                bag.imu(R_world_cam @ T_cam_imu[:3, :3], START_NS + i * 10**7)
            if name == 'with':
                bag.static('cam', 'imu', T_cam_imu)
    source = open_source(str(paths[0]), level=False)
    assert 'gravity from /imu' in source.note
    frames = list(source.frames())
    assert len(frames) == 4
    for frame in frames:
        np.testing.assert_allclose(frame.up.direction, up, atol=0.01)
        assert frame.up.std < 0.06  # known by what was measured later, too
    world = LevelWorld()  # as evaluations use it, where poses need not be level
    np.testing.assert_allclose(world.pose(frames[0])[2, :3], up, atol=0.01)
    alone = open_source(str(paths[1]))
    assert '/tf_static does not connect' in alone.note
    assert all(frame.up is None for frame in alone.frames())


def test_frames_that_are_fixed_to_the_camera_come_with_its_images(tmp_path):
    T_base_cam = se3.transform(LENS_IN_BASE, np.array([0.2, 0.0, 0.3]))
    T_foot_base = se3.transform(np.eye(3), np.array([0.0, 0.0, 0.1]))
    with Bag(tmp_path / 'bag', 'mcap') as bag:
        write_drive(bag, T_base_cam)
        bag.static('/base', 'cam', T_base_cam)
        bag.static('foot', 'base', T_foot_base)
        for i in range(4):  # moves, so it is nowhere on the robot
            T = se3.transform(np.eye(3), np.array([0.1 * i, 0.0, 0.0]))
            bag.transform('/tf', 'foot', 'arm', T, START_NS + i * STEP_NS)
    for frame in open_source(str(tmp_path / 'bag')).frames():
        assert set(frame.transforms) == {'cam', 'base', 'foot'}
        np.testing.assert_allclose(frame.transforms['base'], se3.inverse(T_base_cam), atol=1e-9)
        expected = se3.inverse(T_foot_base @ T_base_cam)
        np.testing.assert_allclose(frame.transforms['foot'], expected, atol=1e-9)


def assert_is_drive(frames):
    assert len(frames) == 4
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, pattern(i))
        np.testing.assert_array_equal(frame.depth, depth_of(i))
        assert frame.stamp_ns == START_NS + i * STEP_NS
        assert frame.frame_id == 'cam'
        np.testing.assert_allclose(frame.intrinsics.matrix, K.matrix)
        # Interpolated halfway between poses 10 cm apart: 1 mm.
        np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-3)


def fill_folder(folder):
    for i in range(3):
        write_rgb(folder / f'{i}.png', pattern(i))


def unlit(room):
    """Instead of the room's textures, which take seconds to light: one shade for each patch."""
    count = len(room.patches[0])
    shades = np.arange(count) % 256
    return Atlas(
        np.stack([shades, shades[::-1], shades], -1).astype(np.uint8),
        np.repeat(np.arange(count)[:, None], 2, 1),
        np.ones((count, 2, 2), int),
        np.ones(count),
    )


# --- kinds ---------------------------------------------------------------------------------------


def test_synthetic_drive_has_exact_truth(monkeypatch):
    monkeypatch.setattr(Room, '_atlas', property(unlit))
    source = open_source('synthetic', hfov=1.0)
    frames = list(itertools.islice(source.frames(), 2))
    assert frames[1].stamp_ns - frames[0].stamp_ns == round(1e9 / source.rate_hz)
    assert frames[0].image.shape == (480, 640, 3)
    assert frames[0].intrinsics.hfov == pytest.approx(1.0)
    image, depth = source.room.render(frames[1].intrinsics, frames[1].T_world_camera)
    np.testing.assert_array_equal(frames[1].image, image)
    np.testing.assert_array_equal(frames[1].depth, depth)


def test_folder_of_images_comes_in_alphabetical_order(tmp_path):
    fill_folder(tmp_path)
    (tmp_path / 'notes.txt').write_text('not an image')
    source = open_source(str(tmp_path))
    frames = list(source.frames())
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, pattern(i))
        assert frame.T_world_camera is None
        assert frame.depth is None
    assert len(frames) == 3
    assert frames[0].intrinsics.hfov == pytest.approx(DEFAULT_HFOV)
    assert 'assumed' in source.note
    assert '60 degrees' in source.note


def test_single_image_with_given_field_of_view(tmp_path):
    write_rgb(tmp_path / 'one.png', pattern(0))
    source = open_source(str(tmp_path / 'one.png'), hfov=math.radians(80))
    (frame,) = source.frames()
    assert frame.intrinsics.hfov == pytest.approx(math.radians(80))
    assert '80 degrees as given' in source.note


@pytest.mark.parametrize(('name', 'code'), [('a.mp4', 'mp4v'), ('a.avi', 'MJPG')])
def test_video_frames_come_back_in_colour_and_time(tmp_path, name, code):
    path = tmp_path / name
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 20.0, (K.width, K.height))
    for i in range(5):
        writer.write(cv2.cvtColor(pattern(i), cv2.COLOR_RGB2BGR))
    writer.release()
    source = open_source(str(path))
    frames = list(source.frames())
    assert source.rate_hz == pytest.approx(20)
    assert [frame.stamp_ns for frame in frames] == [i * 50_000_000 for i in range(5)]
    for i, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - pattern(i)).mean() < 8


def test_rgbd_folder_joins_depth_and_pose_by_time(tum):
    source = open_source(str(tum))
    frames = list(source.frames())
    assert source.rate_hz == pytest.approx(10)
    assert source.note == ''
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, pattern(i))
        assert frame.stamp_ns == pytest.approx(100e9 + i * 1e8)
        assert frame.intrinsics == K
        np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-3)
        if i == 2:
            assert frame.depth is None
        else:
            np.testing.assert_allclose(frame.depth, depth_of(i), atol=5e-4)
    assert len(frames) == 4


def test_poses_of_a_recording_come_in_a_world_with_z_up_or_as_recorded(tum):
    lines, camera_world = ['# the world is the first camera'], se3.inverse(pose_of(0))
    for i in range(4):
        pose = camera_world @ pose_of(i)
        w, x, y, z = se3.quat_from_matrix(pose[:3, :3])
        lines.append(f'{100 + i / 10:.6f} {" ".join(map(str, (*pose[:3, 3], x, y, z, w)))}')
    (tum / 'groundtruth.txt').write_text('\n'.join(lines))
    recorded = [f.T_world_camera for f in open_source(str(tum), level=False).frames()]
    level = [f.T_world_camera for f in open_source(str(tum)).frames()]
    np.testing.assert_allclose(recorded[0], np.eye(4), atol=1e-6)
    for a, b in zip(recorded, level, strict=True):
        assert b[2, 1] < -0.9  # the image's y is down
        np.testing.assert_allclose(se3.inverse(level[0]) @ b, se3.inverse(recorded[0]) @ a)


def test_rgbd_folder_may_lack_everything_but_images(tum):
    for name in ('depth.txt', 'groundtruth.txt', 'camera.yaml'):
        (tum / name).unlink()
    source = open_source(str(tum))
    frame = next(source.frames())
    assert frame.depth is None
    assert frame.T_world_camera is None
    assert 'assumed' in source.note


@pytest.mark.parametrize('kind', ['mcap', 'db3', 'bag'])
def test_bag_gives_image_depth_calibration_and_pose(tmp_path, kind):
    path = tmp_path / ('drive.bag' if kind == 'bag' else 'drive')
    with Bag(path, kind) as bag:
        write_drive(bag)
    source = open_source(str(path))
    assert_is_drive(list(source.frames()))
    assert source.rate_hz == pytest.approx(10, rel=0.4)
    assert source.note == 'image topic /front/image_raw'
    if kind != 'bag':
        (file,) = path.glob(f'*.{kind}')
        assert_is_drive(list(open_source(str(file)).frames()))


def test_bag_says_which_pixels_of_its_images_no_ray_reached(tmp_path):
    with Bag(tmp_path / 'drive') as bag:
        bag.info('/front/camera_info', START_NS, distortion=(0.4, 0.0, 0.0, 0.0, 0.0))
        bag.image('/front/image_raw', np.full((120, 160, 3), 255, np.uint8), START_NS, 'rgb8')
    (frame,) = open_source(str(tmp_path / 'drive')).frames()
    assert frame.unseen is not None
    assert frame.unseen[0, 0]
    assert not frame.unseen[50:70, 70:90].any()
    assert (frame.image[~frame.unseen] == 255).all()


READ_WITHOUT_ROS = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition('.')[0]
        if top in ('rclpy', 'rpyutils', 'tf2_ros') or top.endswith(('_msgs', '_interfaces')):
            raise ModuleNotFoundError(name, name=top)
sys.meta_path.insert(0, Block())

import pickle
from sharp_ros.sources import open_source
sys.stdout.buffer.write(pickle.dumps(list(open_source(sys.argv[1]).frames())))
"""


def test_bag_is_read_where_there_is_no_ros(tmp_path):
    with Bag(tmp_path / 'drive') as bag:
        bag.static('base', 'cam', np.eye(4))
        write_drive(bag, np.eye(4))
    command = [sys.executable, '-c', READ_WITHOUT_ROS, str(tmp_path / 'drive')]
    read = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60)
    assert_is_drive(pickle.loads(read.stdout))


def test_bag_pose_of_the_robot_is_carried_to_the_camera(tmp_path):
    T_base_mast = se3.transform(np.eye(3), np.array([0.1, 0, 0.5]))
    T_mast_cam = se3.look_at(np.zeros(3), np.array([1.0, 0.2, 0]), np.array([0, 0, 1.0]))
    with Bag(tmp_path / 'drive') as bag:
        bag.static('base', 'mast', T_base_mast)
        bag.static('mast', 'cam', T_mast_cam)
        write_drive(bag, T_base_mast @ T_mast_cam)
    assert_is_drive(list(open_source(str(tmp_path / 'drive')).frames()))


def test_bag_pose_of_an_unconnected_frame_is_not_used(tmp_path):
    with Bag(tmp_path / 'drive') as bag:
        write_drive(bag, np.eye(4))
    source = open_source(str(tmp_path / 'drive'))
    assert all(frame.T_world_camera is None for frame in source.frames())
    assert 'does not connect' in source.note


def test_bag_with_compressed_uncalibrated_images(tmp_path):
    with Bag(tmp_path / 'web') as bag:
        for i in range(3):
            bgr = cv2.cvtColor(pattern(i), cv2.COLOR_RGB2BGR)
            data = cv2.imencode('.jpg', bgr)[1].tobytes()
            # The second is cut off: it is skipped, the others come.
            bag.compressed('/cam/compressed', data[:500] if i == 1 else data, START_NS + i)
    source = open_source(str(tmp_path / 'web'), hfov=1.1)
    frames = list(source.frames())
    assert [frame.stamp_ns - START_NS for frame in frames] == [0, 2]
    assert np.abs(frames[1].image.astype(int) - pattern(2)).mean() < 4
    assert frames[0].intrinsics.hfov == pytest.approx(1.1)
    assert 'not calibrated' in source.note


def test_bag_topic_can_be_named_and_brings_its_own_calibration(tmp_path):
    other = Intrinsics(99.0, 99.0, 79.5, 59.5, 160, 120)
    with Bag(tmp_path / 'two') as bag:
        bag.image('/a/image', pattern(0), START_NS, 'rgb8')
        bag.info('/a/camera_info', START_NS)
        bag.image('/b/image', pattern(1)[..., ::-1], START_NS, 'bgr8')
        bag.info('/b/camera_info', START_NS, other)
        bag.image('/b/depth', depth_of(1), START_NS, '32FC1', frame_id='elsewhere')
    first = next(open_source(str(tmp_path / 'two')).frames())
    named = next(open_source(str(tmp_path / 'two'), image_topic='/b/image').frames())
    np.testing.assert_array_equal(first.image, pattern(0))
    np.testing.assert_array_equal(named.image, pattern(1))
    assert named.intrinsics == other
    assert named.depth is None  # of another frame, so not registered


class FakeCamera:
    def __init__(self, images, opens=True):
        self.images, self.opens, self.released = list(images), opens, 0

    def __call__(self, device):
        self.device = device
        return self

    def isOpened(self):
        return self.opens

    def get(self, _):
        return 0.0

    def set(self, *_):
        return True

    def read(self):
        return (True, self.images.pop(0)) if self.images else (False, None)

    def release(self):
        self.released += 1


def with_camera(monkeypatch, camera):
    fake = types.SimpleNamespace(**{**vars(cv2), 'VideoCapture': camera})
    monkeypatch.setattr(webcam, 'cv2', fake)


def test_webcam_delivers_until_it_is_pulled_out(monkeypatch):
    camera = FakeCamera([pattern(i)[..., ::-1] for i in range(2)])
    with_camera(monkeypatch, camera)
    frames = open_source('3').frames()
    first, second = next(frames), next(frames)
    assert camera.device == 3
    np.testing.assert_array_equal(second.image, pattern(1))
    assert second.stamp_ns >= first.stamp_ns > START_NS
    with pytest.raises(InputError, match='plug it in') as caught:
        next(frames)
    assert caught.value.reason == 'camera_unavailable'
    assert camera.released == 2


def test_webcam_is_released_when_the_reader_stops(monkeypatch):
    camera = FakeCamera([pattern(0)])
    with_camera(monkeypatch, camera)
    frames = open_source('/dev/video0').frames()
    next(frames)
    frames.close()
    assert camera.released == 2


# --- repetition ----------------------------------------------------------------------------------


def test_loop_repeats_with_rising_stamps(tum):
    frames = list(itertools.islice(open_source(str(tum), loop=True).frames(), 10))
    np.testing.assert_array_equal(frames[9].image, pattern(1))
    steps = np.diff([frame.stamp_ns for frame in frames])
    np.testing.assert_allclose(steps, 1e8, rtol=1e-6)


def test_depth_that_few_need_is_read_with_few_images_of_each_round(tum):
    source = open_source(str(tum), loop=True, depth_every=3)
    frames = list(itertools.islice(source.frames(), 8))
    assert [frame.depth is not None for frame in frames] == 2 * [True, False, False, True]
    np.testing.assert_allclose(frames[3].depth, depth_of(3), atol=5e-4)


def test_source_can_be_read_twice(tum):
    source = open_source(str(tum))
    assert len(list(source.frames())) == len(list(source.frames())) == 4


# --- errors --------------------------------------------------------------------------------------


def refused(reason, match):
    context = pytest.raises(InputError, match=match)

    class Check:
        def __enter__(self):
            self.caught = context.__enter__()

        def __exit__(self, *details):
            swallowed = context.__exit__(*details)
            assert self.caught.value.reason == reason
            return swallowed

    return Check()


def test_missing_path_is_refused_with_the_list_of_kinds(tmp_path):
    with refused('no_such_source', r'does not exist(.|\n)*synthetic(.|\n)*mcap'):
        open_source(str(tmp_path / 'nothing'))
    with refused('no_such_source', 'does not exist'):
        open_source('~nobody_of_that_name/nothing')


def test_impossible_field_of_view_is_refused(tmp_path):
    with pytest.raises(InputError, match='between 0 and pi'):
        open_source(str(tmp_path), hfov=60.0)


def test_empty_folder_is_refused(tmp_path):
    with refused('no_images', 'holds no images'):
        open_source(str(tmp_path))


def test_folder_of_damaged_images_is_refused_when_read(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'not a PNG')
    with refused('unreadable_image', 'complete image files'):
        list(open_source(str(tmp_path)).frames())


def test_damaged_image_is_skipped(tmp_path):
    fill_folder(tmp_path)
    (tmp_path / '1.png').write_bytes((tmp_path / '1.png').read_bytes()[:100])
    assert len(list(open_source(str(tmp_path)).frames())) == 2


def test_undecodable_video_is_refused(tmp_path):
    (tmp_path / 'a.mp4').write_bytes(b'no video' * 100)
    with refused('unreadable_video', 'ffmpeg'):
        open_source(str(tmp_path / 'a.mp4'))


def test_missing_webcam_is_refused():
    with refused('camera_unavailable', 'plugged in'):
        open_source('/dev/video97')


def test_busy_webcam_is_refused_and_released(monkeypatch):
    camera = FakeCamera([], opens=False)
    with_camera(monkeypatch, camera)
    with refused('camera_unavailable', 'no other program'):
        open_source('0')
    assert camera.released == 1


def test_rgbd_folder_without_rgb_list_is_refused(tum):
    (tum / 'rgb.txt').unlink()
    with refused('no_rgb_list', 'timestamp filename'):
        open_source(str(tum))


@pytest.mark.parametrize(
    ('name', 'text', 'reason', 'match'),
    [
        ('rgb.txt', '# nothing', 'no_rgb_list', 'lists no images'),
        ('rgb.txt', 'soon rgb/0.png', 'bad_tum_list', 'rgb.txt:1'),
        ('depth.txt', '1.0', 'bad_tum_list', 'depth.txt:1'),
        ('groundtruth.txt', '1 0 0 0 0 0 0 0', 'bad_tum_list', 'tx ty tz qx'),
        ('groundtruth.txt', '1 0 0 0 0 0 0 one', 'bad_tum_list', 'tx ty tz qx'),
        ('camera.yaml', 'width: 160', 'bad_camera_yaml', 'expected numbers'),
        ('camera.yaml', ': [', 'bad_camera_yaml', 'expected numbers'),
    ],
)
def test_damaged_rgbd_list_is_refused(tum, name, text, reason, match):
    (tum / name).write_text(text)
    with refused(reason, match):
        open_source(str(tum))


def test_zero_depth_scale_is_refused(tum):
    text = (tum / 'camera.yaml').read_text().replace('2000.0', '0')
    (tum / 'camera.yaml').write_text(text)
    with refused('bad_camera_yaml', 'depth_scale is 0'):
        open_source(str(tum))


def test_rgbd_images_of_another_size_than_camera_yaml_are_refused(tum):
    (tum / 'camera.yaml').write_text('{width: 80, height: 60, fx: 9, fy: 9, cx: 9, cy: 9}')
    with refused('unreadable_image', 'could be used'):
        list(open_source(str(tum)).frames())


def test_frame_with_damaged_depth_is_skipped(tum):
    (tum / 'depth/1.png').write_bytes(b'')
    assert len(list(open_source(str(tum)).frames())) == 3


def test_bag_without_image_topic_is_refused_with_what_it_holds(tmp_path):
    with Bag(tmp_path / 'poses') as bag:
        bag.odometry(pose_of(0), START_NS, 'base')
    with refused('no_image_topic', '/odom .*Odometry'):
        open_source(str(tmp_path / 'poses'))


def test_unknown_bag_topic_is_refused_with_what_it_holds(tmp_path):
    with Bag(tmp_path / 'drive') as bag:
        write_drive(bag)
    with refused('no_image_topic', '/front/image_raw'):
        open_source(str(tmp_path / 'drive'), image_topic='/wrong')


@pytest.mark.parametrize('name', ['a.mcap', 'a.db3', 'a.bag'])
def test_damaged_bag_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b'no bag at all' * 50)
    with refused('unreadable_bag', 'ros2 bag'):
        open_source(str(tmp_path / name))


def test_bag_whose_images_are_all_damaged_is_refused_when_read(tmp_path):
    with Bag(tmp_path / 'bad') as bag:
        bag.compressed('/cam/compressed', b'\xff\xd8 nothing', START_NS)
    source = open_source(str(tmp_path / 'bad'))
    with refused('unreadable_bag', 'could be decoded'):
        list(source.frames())
