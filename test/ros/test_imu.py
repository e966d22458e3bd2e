"""The IMU of the robot over topics, tf and parameters, as far as the map and diagnostics."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from rclpy.serialization import serialize_message
from ros_helpers import CAMERA, POSE, start
from sensor_msgs.msg import Imu

from sharp_ros.config import ImuConfig, PoseConfig, SharpConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.ros.conversions import header_to_msg, imu_from_cdr, imu_from_msg
from sharp_ros.ros.imu_source import ImuSource
from sharp_ros.se3 import inverse, matrix_from_quat, quat_from_matrix, transform

pytestmark = pytest.mark.ros

GRID = '/sharp/occupancy_grid'
# of an IMU on the base, upside down and turned, in that frame
T_BASE_IMU = transform(
    matrix_from_quat(np.array([0.1, 0.9, 0.3, -0.2])), np.array([0.1, 0.0, 0.3])
)
TIPPED = T_BASE_IMU[:3, :3]
T_BASE_CAMERA = POSE  # the base stands at the origin of the world
MOUNTED = inverse(T_BASE_CAMERA) @ T_BASE_IMU
WARN = 1


def imu_msg(stamp_ns, R_world_imu, frame_id='imu', *, orientation=True):
    """Of a robot at rest, as REP-145 has it."""
    msg = Imu(header=header_to_msg(stamp_ns, frame_id))
    a = R_world_imu.T @ [0, 0, 9.81]
    msg.linear_acceleration.x, msg.linear_acceleration.y, msg.linear_acceleration.z = map(float, a)
    if orientation:
        q = msg.orientation
        q.w, q.x, q.y, q.z = map(float, quat_from_matrix(R_world_imu))
        msg.orientation_covariance[0] = msg.orientation_covariance[4] = 0.01**2
    else:
        msg.orientation_covariance[0] = -1.0
    return msg


class Robot:
    """Sends an IMU at 50 Hz and images with a pose, stamped some time ago."""

    def __init__(self, peer, R_world_imu, frame_id='imu', *, orientation=True, spoil=None):
        self.peer, self.R, self.frame_id = peer, R_world_imu, frame_id
        self.orientation, self.spoil = orientation, spoil
        self.publisher = peer.node.create_publisher(Imu, 'imu', 200)
        self.sent_ns = 0

    def __call__(self):
        now = self.peer.now()
        self.sent_ns = self.sent_ns or now - 10**9
        while self.sent_ns < now - 2 * 10**7:
            self.sent_ns += 2 * 10**7
            msg = imu_msg(self.sent_ns, self.R, self.frame_id, orientation=self.orientation)
            if self.spoil is not None:
                self.spoil(msg)
            self.publisher.publish(msg)
        self.peer.send(stamp_ns=now - 3 * 10**7)


def angle(a, b):
    return math.degrees(math.acos(np.clip(a @ b, -1, 1)))


# --- the messages --------------------------------------------------------------------------------


def test_an_imu_is_read_with_what_it_measures_and_without_what_it_does_not():
    msg = imu_msg(5 * 10**9 + 7, np.eye(3))
    msg.orientation_covariance = np.array([4e-4, 0, 0, 0, 1e-4, 0, 0, 0, 9.0])
    msg.angular_velocity.y = 0.25
    sample = imu_from_msg(msg)
    assert (sample.stamp_ns, sample.frame_id) == (5 * 10**9 + 7, 'imu')
    assert sample.orientation == (1.0, 0.0, 0.0, 0.0)
    assert sample.orientation_std == pytest.approx(0.02)  # not that of the heading
    assert sample.angular_velocity == (0.0, 0.25, 0.0)
    assert sample.acceleration == (0.0, 0.0, 9.81)
    for name in ('orientation', 'angular_velocity', 'linear_acceleration'):
        getattr(msg, f'{name}_covariance')[0] = -1.0
    sample = imu_from_msg(msg)
    assert (sample.orientation, sample.angular_velocity, sample.acceleration) == (None,) * 3


@pytest.mark.parametrize('frame_id', ['', 'imu', 'imu_link', 'an_imu', 'imü'])
def test_bytes_as_they_were_sent_are_read_like_the_message(frame_id):
    rng = np.random.default_rng(0)
    msg = imu_msg(5 * 10**9 + 7, TIPPED, frame_id)
    msg.header.stamp.sec = -3
    for name in ('orientation', 'angular_velocity', 'linear_acceleration'):
        setattr(msg, f'{name}_covariance', rng.uniform(0, 1, 9))
    msg.angular_velocity.x, msg.angular_velocity.z = 0.1, -0.3
    data = bytes(serialize_message(msg))
    assert imu_from_cdr(data) == imu_from_msg(msg)
    for name in ('orientation', 'angular_velocity', 'linear_acceleration'):
        getattr(msg, f'{name}_covariance')[0] = -1.0
    assert imu_from_cdr(bytes(serialize_message(msg))) == imu_from_msg(msg)
    for damaged in (data[:-9], data[:10], b'', b'\0\7' + data[2:], data[:12] + b'\xff' * 400):
        with pytest.raises(InputError) as caught:
            imu_from_cdr(damaged)
        assert caught.value.reason == 'bad_imu'


@pytest.mark.parametrize('covariance', [0.0, math.nan, math.inf])
def test_a_covariance_that_says_nothing_is_unknown(covariance):
    msg = imu_msg(0, np.eye(3))
    msg.orientation_covariance = np.full(9, covariance)
    assert imu_from_msg(msg).orientation_std == 0


# --- the mounting --------------------------------------------------------------------------------


class Tf:
    def __init__(self, T=None):
        self.T, self.asked = T, []

    def listen(self):
        pass

    def lookup(self, target, source, *stamp_wait_tolerance):
        self.asked.append((target, source))
        if self.T is None:
            raise PoseUnavailableError(f'no transform from {source!r} to {target!r}', 'no_x')
        return self.T


def as_parameter(T):
    w, x, y, z = map(float, quat_from_matrix(T[:3, :3]))
    return (*map(float, T[:3, 3]), x, y, z, w)


def frame_at(stamp_ns, **changes):
    from sharp_ros.camera import Frame, Intrinsics

    size = Intrinsics.from_hfov(1.2, 32, 24)
    return Frame(np.zeros((24, 32, 3), np.uint8), size, stamp_ns, CAMERA, **changes)


def source_of(tf, R_world_imu, frame_id='imu', imu=(0.0,) * 7, camera=(0.0,) * 7, base=''):
    config = SharpConfig(
        imu=ImuConfig(enabled=True, base_to_imu=imu),
        pose=PoseConfig(base_to_camera=camera, base_frame=base),
    )
    source = ImuSource(config, tf)
    for i in range(100):
        source.add(imu_msg(i * 10**7 + 1, R_world_imu, frame_id))
    return source


UPRIGHT = T_BASE_IMU[:3, :3]  # of the IMU in the world, while the robot stands level


@pytest.mark.parametrize('how', ['tf', 'same frame', 'base_to_camera', 'base_frame', 'optical'])
def test_however_the_imu_is_placed_up_is_up_in_the_image(how):
    truth, transforms = POSE[2, :3], {}
    tf, given, R = Tf(), {}, UPRIGHT
    if how == 'tf':
        tf = Tf(MOUNTED)
    elif how == 'same frame':
        given, R = {'frame_id': CAMERA}, POSE[:3, :3]
    elif how == 'base_to_camera':
        given = {'imu': as_parameter(T_BASE_IMU), 'camera': as_parameter(T_BASE_CAMERA)}
    elif how == 'base_frame':
        given = {'imu': as_parameter(T_BASE_IMU), 'base': 'base'}
        transforms = {'base': inverse(T_BASE_CAMERA)}
    else:
        given = {'imu': as_parameter(MOUNTED)}
    source = source_of(tf, R, **given)
    up = source.up(frame_at(99 * 10**7, transforms=transforms), 0.0)
    assert angle(up.direction, truth) < 0.01
    assert up.std == pytest.approx(0.01)
    assert tf.asked == ([(CAMERA, 'imu')] if how == 'tf' else [])


@pytest.mark.parametrize(('frame_id', 'imu', 'base'), [
    ('imu', (0.0,) * 7, ''), ('', (0.0,) * 7, ''), ('imu', as_parameter(T_BASE_IMU), 'base'),
])  # fmt: skip
def test_an_imu_that_nothing_places_is_refused_by_name(frame_id, imu, base):
    source = source_of(Tf(), UPRIGHT, frame_id, imu, base=base)
    with pytest.raises(InputError) as caught:
        source.up(frame_at(99 * 10**7), 0.0)
    assert caught.value.reason == 'imu_unplaced'
    assert 'imu.base_to_imu' in str(caught.value)


# --- the node ------------------------------------------------------------------------------------


@pytest.mark.parametrize('orientation', [True, False])
def test_an_imu_over_tf_says_what_is_up_and_frames_are_mapped(make_node, peer, tf2, orientation):
    tf2.place(T_BASE_IMU, 'base', 'imu')
    tf2.place(T_BASE_CAMERA, 'base', CAMERA)
    node = start(make_node(imu__enabled=True, pose__source='odometry'))
    ups, see = [], node._session.pipeline.see
    node._session.pipeline.see = lambda b: (ups.append(b.frame.up), see(b))[1]
    peer.listen(GRID, '/diagnostics')
    robot = Robot(peer, UPRIGHT, orientation=orientation)
    peer.spin_until(
        lambda: len([u for u in ups if u is not None and u.std < 0.05]) >= 3, each=robot
    )
    assert angle(ups[-1].direction, POSE[2, :3]) < 1.0
    peer.spin_until(lambda: peer.received[GRID], each=robot)
    peer.diagnose(node)
    _, _, values = peer.status('Mapping')
    assert float(values['gravity_std_deg']) < 3
    assert 'unmapped.gravity_contradicts_pose' not in values


def test_an_imu_that_contradicts_the_poses_is_named_with_both_angles_and_nothing_mapped(
    make_node, peer
):
    wrong = as_parameter(MOUNTED @ transform(matrix_from_quat(np.array([1.0, 0.3, 0, 0])), 0))
    node = start(make_node(imu__enabled=True, imu__base_to_imu=wrong, pose__source='odometry'))
    peer.listen(GRID, '/diagnostics')
    robot = Robot(peer, UPRIGHT)
    peer.spin_until(lambda: node._health._unmapped['gravity_contradicts_pose'] >= 5, each=robot)
    peer.diagnose(node)
    level, message, values = peer.status('Mapping')
    assert level == WARN
    assert 'by the IMU' in message
    assert 'degrees by that' in message
    assert int(values['mapped']) <= 1  # before the first sample, if at all
    assert not node._session.pipeline.world_frame or int(values['mapped'])


def spoil_zero(msg):
    q = msg.orientation
    q.w = q.x = q.y = q.z = 0.0


def spoil_nan(msg):
    msg.orientation.x = math.nan


def spoil_acceleration(msg):
    msg.linear_acceleration.z = math.nan


@pytest.mark.parametrize(('spoil', 'reason'), [
    (spoil_zero, 'bad_imu_orientation'), (spoil_nan, 'bad_imu_orientation'),
    (spoil_acceleration, 'bad_imu'),
])  # fmt: skip
def test_bad_samples_are_counted_and_named_and_frames_go_on(make_node, peer, spoil, reason):
    place = as_parameter(MOUNTED)
    node = start(make_node(imu__enabled=True, imu__base_to_imu=place, pose__source='odometry'))
    peer.listen('/diagnostics')
    robot = Robot(peer, UPRIGHT, spoil=spoil)
    peer.spin_until(
        lambda: node._health._events[reason] >= 50 and node._health._mapped >= 3, each=robot
    )
    peer.diagnose(node)
    level, message, values = peer.status('Input')
    assert level == WARN
    assert 'covariance' in message
    assert int(values[f'event.{reason}']) >= 50
    assert 'gravity_contradicts_pose' not in node._health._unmapped


def test_an_imu_without_a_place_is_named(make_node, peer, tf2):
    node = start(make_node(imu__enabled=True, pose__source='odometry'))
    peer.listen('/diagnostics')
    robot = Robot(peer, UPRIGHT)
    peer.spin_until(
        lambda: node._health._events['imu_unplaced'] and node._health._mapped, each=robot
    )
    peer.diagnose(node)
    level, message, _ = peer.status('Mapping')
    assert level == WARN
    assert 'imu.base_to_imu' in message


def test_an_imu_that_ends_is_named_and_images_do_not_wait_for_it(make_node, peer):
    place = as_parameter(MOUNTED)
    node = start(make_node(imu__enabled=True, imu__base_to_imu=place, pose__source='odometry'))
    peer.spin_until(lambda: node._health._events['no_imu_yet'], each=peer.send)
    robot = Robot(peer, UPRIGHT)  # whose samples arrive once its topic is discovered
    peer.spin_until(lambda: node._session.imu._gravity.newest_ns is not None, each=robot)
    peer.spin_until(lambda: node._health._events['imu_too_old'], each=peer.send)


def test_there_is_no_subscription_unless_asked_for(make_node, peer):
    node = start(make_node())
    assert node._session.imu is None
    assert 'imu' not in {s.topic_name.strip('/') for s in node._subscribers}
    asked = start(make_node(imu__enabled=True))
    assert 'imu' in {s.topic_name.strip('/') for s in asked._subscribers}
