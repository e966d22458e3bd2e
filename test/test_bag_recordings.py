"""Bags as people bring them: several of everything, broken parts, cut files, foreign schemas."""

import base64
import errno
from fractions import Fraction
import importlib
import io
import json
import math
import os
import shutil
import sqlite3
import struct
import tempfile
from types import SimpleNamespace

import av
from backports import zstd
import cv2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from mcap_writer import McapFile, STORE
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from test_sources import (
    assert_is_drive,
    Bag,
    depth_of,
    K,
    pattern,
    pose_of,
    START_NS,
    STEP_NS,
    write_drive,
)

from sharp_ros import images, se3
from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.ros.conversions import depth_from_msg, image_from_msg
from sharp_ros.sources import chunked, open_source, storage


def part_of(source, name):
    """The part of the stock whose name begins so."""
    (found,) = [part for part in source.stock.parts if part.name.startswith(name)]
    return found


def losses(source):
    return list(source.stock.losses())


def stamp(i):
    return START_NS + i * STEP_NS


# --- all of it -----------------------------------------------------------------------------------


def test_a_whole_drive_loses_nothing_and_says_what_everything_is_used_as(tmp_path):
    with Bag(tmp_path / 'drive') as bag:
        write_drive(bag)
    source = open_source(str(tmp_path / 'drive'))
    assert_is_drive(list(source.frames()))
    assert losses(source) == []
    uses = {part.name.partition(' ')[0]: part.use for part in source.stock.parts}
    assert uses == {
        '/front/camera_info': 'calibration',
        '/front/image_raw': 'camera',
        '/front/depth': 'registered depth',
        '/odom': 'poses',
    }
    image = part_of(source, '/front/image_raw')
    assert (image.count, image.span_ns, image.gap) == (4, (stamp(0), stamp(3)), 0.1)
    assert source.stock.frames == 4


def test_both_connections_of_a_driver_that_was_restarted_are_read(tmp_path):
    bag = Bag(tmp_path / 'a.bag', 'bag')
    with bag:
        for i in range(6):
            if i == 3:  # the driver starts anew, under another name
                bag.connections['/image'] = bag.writer.add_connection(
                    '/image', 'sensor_msgs/msg/Image', typestore=bag.store, callerid='/again'
                )
            bag.image('/image', pattern(i), stamp(i), 'rgb8')
    frames = list(open_source(str(tmp_path / 'a.bag')).frames())
    assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in range(6)]


def noise(i):
    """Not to be compressed, so that a share of a file is that share of its images."""
    return np.random.default_rng(i).integers(0, 256, pattern(0).shape, np.uint8)


def ros2_image(i, image=None):
    types = STORE.types
    time = types['builtin_interfaces/msg/Time'](*divmod(stamp(i), 10**9))
    header = types['std_msgs/msg/Header'](time, 'cam')
    image = pattern(i) if image is None else image
    return types['sensor_msgs/msg/Image'](
        header, image.shape[0], image.shape[1], 'rgb8', 0, image.shape[1] * 3, image.reshape(-1)
    )


@pytest.mark.parametrize('compression', ['', 'lz4', 'zstd'])
@pytest.mark.parametrize(('per_chunk', 'index'), [(4, True), (3, False), (0, False)])
def test_both_channels_of_a_topic_in_mcap_are_read(tmp_path, compression, per_chunk, index):
    file = McapFile('ros2')
    first, second = (file.ros2('/image', 'sensor_msgs/msg/Image') for _ in range(2))
    for i in (0, 1, 2, 5, 4, 3):  # recorders write late ones behind, too
        file.add_ros2(second if i > 2 else first, stamp(i), ros2_image(i))
    path = file.write(tmp_path / 'a.mcap', compression, per_chunk, index)
    source = open_source(str(path))
    frames = list(source.frames())
    if per_chunk != 0:
        assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in range(6)]
    for frame in frames:
        i = (frame.stamp_ns - START_NS) // STEP_NS
        np.testing.assert_array_equal(frame.image, pattern(i))
    assert len(frames) == 6
    assert losses(source) == []


def test_images_are_calibrated_by_what_was_in_force_at_their_stamp(tmp_path):
    small = K.resized(80, 60)
    nothing = Intrinsics.centred(100, 160, 120)
    with Bag(tmp_path / 'a') as bag:
        for i in range(12):
            if i < 3:
                bag.info('/cam/camera_info', stamp(i), nothing, k_zero=True)
                bag.image('/cam/image', pattern(i), stamp(i), 'rgb8')
            elif i < 6:
                bag.info('/cam/camera_info', stamp(i), K)
                bag.image('/cam/image', pattern(i), stamp(i), 'rgb8')
            else:  # the resolution is switched
                bag.info('/cam/camera_info', stamp(i), small)
                bag.image('/cam/image', pattern(i)[::2, ::2].copy(), stamp(i), 'rgb8')
    source = open_source(str(tmp_path / 'a'))
    frames = list(source.frames())
    assert len(frames) == 12
    for i, frame in enumerate(frames):
        expected = K if i < 6 else small
        np.testing.assert_allclose(frame.intrinsics.matrix, expected.matrix)
    assert losses(source) == []


def test_a_camera_info_that_is_never_calibrated_is_a_loss(tmp_path):
    with Bag(tmp_path / 'a') as bag:
        bag.info('/cam/camera_info', stamp(0), K, k_zero=True)
        bag.image('/cam/image', pattern(0), stamp(0), 'rgb8')
    source = open_source(str(tmp_path / 'a'))
    assert len(list(source.frames())) == 1
    assert part_of(source, '/cam/camera_info').reason == 'uncalibrated'
    assert 'K[0] is 0' in losses(source)[0]


def test_distortion_without_the_name_of_a_model_is_that_of_plumb_bob_and_said(tmp_path):
    for name in ('plumb_bob', ''):
        with Bag(tmp_path / f'a{name}') as bag:
            bag.info('/cam/camera_info', stamp(0), distortion=(-0.2, 0, 0, 0, 0), model=name)
            bag.image('/cam/image', pattern(0), stamp(0), 'rgb8')
    named, unnamed = (open_source(str(tmp_path / f'a{name}')) for name in ('plumb_bob', ''))
    np.testing.assert_array_equal(next(named.frames()).image, next(unnamed.frames()).image)
    assert (next(named.frames()).image != pattern(0)).any()
    assert 'names no distortion model; plumb_bob taken' in unnamed.note
    assert 'distortion' not in named.note


def test_an_unknown_model_is_one_error_that_names_it(tmp_path, caplog):
    with Bag(tmp_path / 'a') as bag:
        for i in range(5):
            bag.info('/cam/camera_info', stamp(i), distortion=(0.1,) * 5, model='omni')
            bag.image('/cam/image', pattern(i), stamp(i), 'rgb8')
    with pytest.raises(InputError, match="'omni'"):
        list(open_source(str(tmp_path / 'a')).frames())
    assert len([r for r in caplog.records if 'omni' in r.getMessage()]) == 1


def test_the_odometry_that_fits_is_taken_whatever_its_name(tmp_path):
    with Bag(tmp_path / 'a') as bag:
        write_drive(bag)
        bag.odometry(pose_of(0), stamp(0), 'arm', topic='/a_odom')  # connected with nothing
    source = open_source(str(tmp_path / 'a'))
    assert_is_drive(list(source.frames()))
    assert part_of(source, '/a_odom').reason == 'not_connected'
    assert part_of(source, '/odom').use == 'poses'


def test_odometry_that_covers_few_images_gives_way_to_one_that_covers_more(tmp_path):
    for name in ('both', 'alone'):
        with Bag(tmp_path / name) as bag:
            for i in range(10):
                bag.image('/image', pattern(i), stamp(i), 'rgb8')
                if name == 'both':
                    bag.odometry(pose_of(i), stamp(i), 'cam', topic='/wheel')
                if i < 3:
                    bag.odometry(pose_of(0), stamp(i), 'cam', topic='/arm')
    both, alone = open_source(str(tmp_path / 'both')), open_source(str(tmp_path / 'alone'))
    for i, frame in enumerate(both.frames()):
        np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-9)
    assert part_of(both, '/wheel').use == 'poses'
    assert part_of(both, '/arm').reason == 'not_chosen'
    assert sum(frame.T_world_camera is not None for frame in alone.frames()) == 3
    assert part_of(alone, '/arm').use == 'poses of 30% of the images'


@pytest.mark.parametrize('slash', ['', '/'])
def test_moving_transforms_alone_give_poses(tmp_path, slash):
    T_base_cam = se3.look_at(np.zeros(3), np.array([1.0, 0.2, 0]), np.array([0, 0, 1.0]))
    with Bag(tmp_path / 'a') as bag:
        bag.static(f'{slash}base', f'{slash}cam', T_base_cam)
        for i in range(4):
            bag.image('/cam/image', pattern(i), stamp(i), 'rgb8', 'cam')
            pose = pose_of(i) @ se3.inverse(T_base_cam)
            bag.transform('/tf', f'{slash}map', f'{slash}odom', np.eye(4), stamp(i))
            bag.transform('/tf', f'{slash}odom', f'{slash}base', pose, stamp(i))
    source = open_source(str(tmp_path / 'a'))
    frames = list(source.frames())
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-9)
    assert part_of(source, '/tf (').use == 'poses in map'
    assert losses(source) == []


def write_ahead(path, seconds):
    """A drive whose odometry has the clock of another computer."""
    with Bag(path) as bag:
        for i in range(4):
            bag.image('/cam/image', pattern(i), stamp(i), 'rgb8')
            bag.odometry(pose_of(i), stamp(i), 'cam', ahead_ns=round(seconds * 1e9))


@pytest.mark.parametrize('seconds', [111.7, -0.9])
def test_poses_of_another_clock_are_named_with_the_offset_and_used_when_it_is_given(
    tmp_path, seconds
):
    write_ahead(tmp_path / 'a', seconds)
    source = open_source(str(tmp_path / 'a'))
    assert all(frame.T_world_camera is None for frame in source.frames())
    assert part_of(source, '/odom').reason == 'other_clock'
    assert f'{seconds:.3f}' in part_of(source, '/odom').detail
    assert f'pose-offset={seconds:.3f}' in source.note
    for offset in (seconds, 'auto'):
        source = open_source(str(tmp_path / 'a'), pose_offset=offset)
        for i, frame in enumerate(source.frames()):
            np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-3)
        assert losses(source) == []


# --- colour is colour ----------------------------------------------------------------------------


def rvl(values):
    """Reference encoder, nibble by nibble, of [H, W] uint16."""
    nibbles, previous, at = [], 0, 0

    def put(number):
        while True:
            number, low = number >> 3, number & 7
            nibbles.append(low | (8 if number else 0))
            if not number:
                return

    flat = [int(v) for v in values.ravel()]
    while at < len(flat):
        zeros = at
        while at < len(flat) and flat[at] == 0:
            at += 1
        put(at - zeros)
        end = at
        while end < len(flat) and flat[end]:
            end += 1
        put(end - at)
        for value in flat[at:end]:
            delta, previous = value - previous, value
            put((delta << 1) ^ (delta >> 63))
        at = end
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        sum(n << (28 - 4 * i) for i, n in enumerate(nibbles[j : j + 8]))
        for j in range(0, len(nibbles), 8)
    ]
    return b''.join(struct.pack('<I', word) for word in words)


def millimetres(i):
    depth = np.round(depth_of(i) * 1000).astype(np.uint16)
    depth += (np.arange(depth.size) % 7 * 40).reshape(depth.shape).astype(np.uint16)
    depth[20:30, 10:60] = 0
    depth[:, -1] = 0
    return depth


def compressed_depth(i, kind):
    """Data and format of image_transport's `compressedDepth`, and the depth in metres."""
    depth = millimetres(i)
    metres = depth / np.float32(1000)
    a, b = 100.0, 100.0 / 8 - 0.5
    if kind == '32FC1':
        with np.errstate(divide='ignore'):
            depth = np.where(depth > 0, np.round(a / metres - 0 + b), 0).astype(np.uint16)
    header = struct.pack('<iff', 0, a, b)
    png = cv2.imencode('.png', depth)[1].tobytes()
    if kind == 'rvl':
        size = struct.pack('<ii', depth.shape[1], depth.shape[0])
        return header + size + rvl(depth), '16UC1; compressedDepth rvl', metres
    if kind == 'plain':
        return png, '16UC1; png compressed', metres
    form = '32FC1' if kind == '32FC1' else '16UC1'
    return header + png, f'{form}; compressedDepth png', metres


@pytest.mark.parametrize('kind', ['png', 'rvl', '32FC1', 'plain'])
def test_compressed_depth_is_depth(tmp_path, kind):
    with Bag(tmp_path / 'a') as bag:
        for i in range(3):
            data, form, _ = compressed_depth(i, kind)
            bag.compressed('/a_depth/image_raw/compressedDepth', data, stamp(i), form)
            bgr = cv2.cvtColor(pattern(i), cv2.COLOR_RGB2BGR)
            jpeg = cv2.imencode('.jpg', bgr)[1].tobytes()
            bag.compressed('/color/image_raw/compressed', jpeg, stamp(i))
    source = open_source(str(tmp_path / 'a'))
    frames = list(source.frames())
    assert 'image topic /color/image_raw/compressed' in source.note
    assert len(frames) == 3
    for i, frame in enumerate(frames):
        truth = compressed_depth(i, kind)[2]
        np.testing.assert_array_equal(frame.depth > 0, truth > 0)
        # 32FC1 is quantised by inverse depth: 1/100 of 1/m at 3 m is 9 cm, half a step off
        tolerance = 0.05 if kind == '32FC1' else 1e-6
        np.testing.assert_allclose(frame.depth, truth, atol=tolerance)
    assert losses(source) == []


def test_truncated_compressed_depth_is_skipped_and_the_image_kept(tmp_path):
    with Bag(tmp_path / 'a') as bag:
        for i in range(3):
            data, form, _ = compressed_depth(i, 'rvl')
            data = data[:200] if i == 1 else data
            bag.compressed('/depth/compressedDepth', data, stamp(i), form)
            bag.image('/color/image_raw', pattern(i), stamp(i), 'rgb8')
    source = open_source(str(tmp_path / 'a'))
    assert [frame.depth is None for frame in source.frames()] == [False, True, False]
    assert part_of(source, '/depth').skipped == {'bad_compressed': 1}
    assert losses(source)


@pytest.mark.parametrize(
    ('topic', 'encoding', 'content'),
    [
        ('/a/depth', '16UC1', 'depth'),
        ('/a/depth', '32FC1', 'depth'),
        ('/device_0/sensor_0/Depth_0/image/data', 'mono16', 'depth'),
        ('/a/mask', 'mono8', 'other'),
        ('/a/debug_image', 'rgb8', 'other'),
        ('/a/thermal/image_raw', 'mono16', 'other'),
        ('/a/thermal/image_raw', '16UC1', 'other'),
        ('/a/infra1/image_rect_raw', 'mono8', 'other'),
        ('/a/semantic', 'bgr8', 'other'),
        ('/a/gray', 'mono8', 'other'),
    ],
)
def test_what_is_no_colour_image_is_never_taken_for_the_camera(tmp_path, topic, encoding, content):
    kinds = {'16UC1': np.uint16, 'mono16': np.uint16, '32FC1': np.float32}
    shape = (120, 160, 3) if encoding in ('rgb8', 'bgr8') else (120, 160)
    with Bag(tmp_path / 'a') as bag:
        for i in range(3):
            other = np.full(shape, 7, kinds.get(encoding, np.uint8))
            bag.image(topic, other, stamp(i), encoding)
            bag.image('/z/image', pattern(i), stamp(i), 'rgb8')
    source = open_source(str(tmp_path / 'a'))
    frames = list(source.frames())
    np.testing.assert_array_equal(frames[0].image, pattern(0))
    part = part_of(source, topic)
    if content == 'depth':
        assert frames[0].depth is not None
    else:
        assert part.reason == 'not_chosen'
        assert part.detail == f'--image-topic {topic}'
        named = next(open_source(str(tmp_path / 'a'), image_topic=topic).frames())
        assert named.image.shape == (120, 160, 3)
    assert losses(source) == []


def test_the_calibration_of_a_realsense_viewer_is_that_of_its_image(tmp_path):
    other = Intrinsics(99.0, 99.0, 79.5, 59.5, 160, 120)
    with Bag(tmp_path / 'a') as bag:
        bag.info('/device_0/sensor_0/Depth_0/info/camera_info', stamp(0), other)
        bag.info('/device_0/sensor_1/Color_0/info/camera_info', stamp(0), K)
        bag.image('/device_0/sensor_1/Color_0/image/data', pattern(0), stamp(0), 'rgb8')
    (frame,) = open_source(str(tmp_path / 'a')).frames()
    assert frame.intrinsics == K


def test_sixteen_bits_of_grey_fill_the_range_and_do_not_flicker(tmp_path):
    y, x = np.mgrid[0:120, 0:160]
    with Bag(tmp_path / 'a') as bag:
        for i in range(6):
            grey = (900 + 2 * x + y).astype(np.uint16)
            grey[0, 0] = 60000 if i % 2 else 900  # one hot pixel
            bag.image('/ir/image', grey, stamp(i), 'mono16')
    source = open_source(str(tmp_path / 'a'))
    images = [frame.image for frame in source.frames()]
    assert '16-bit grey' in source.note
    assert len(np.unique(images[0])) > 200
    assert np.abs(np.diff(np.stack(images).astype(int)[:, 1:], axis=0)).max() <= 2


def test_a_depth_topic_is_refused_as_the_camera(tmp_path):
    with Bag(tmp_path / 'a') as bag:
        write_drive(bag)
    with pytest.raises(InputError, match='holds depth'):
        open_source(str(tmp_path / 'a'), image_topic='/front/depth')


def test_depth_of_another_camera_is_a_loss_and_says_why(tmp_path):
    with Bag(tmp_path / 'a') as bag:
        bag.image('/color/image', pattern(0), stamp(0), 'rgb8', 'color')
        bag.image('/depth/image', depth_of(0), stamp(0), '32FC1', 'depth')
    source = open_source(str(tmp_path / 'a'))
    list(source.frames())
    assert part_of(source, '/depth').reason == 'not_registered'
    assert 'the camera in color' in losses(source)[0]


def test_depth_whose_stamps_never_fit_is_a_loss_and_an_option_helps(tmp_path):
    with Bag(tmp_path / 'a') as bag:
        for i in range(4):
            bag.image('/cam/image', pattern(i), stamp(i), 'rgb8')
            bag.image('/cam/depth', depth_of(i), stamp(i) + 30_000_000, '32FC1')
    source = open_source(str(tmp_path / 'a'))
    assert all(frame.depth is None for frame in source.frames())
    assert part_of(source, '/cam/depth').reason == 'never_near'
    assert '20 ms' in losses(source)[0]
    source = open_source(str(tmp_path / 'a'), association=0.04)
    assert all(frame.depth is not None for frame in source.frames())
    assert losses(source) == []


# --- one bad part --------------------------------------------------------------------------------


@pytest.mark.parametrize('bad', [0.0, math.nan])
def test_one_bad_quaternion_costs_one_message(tmp_path, bad):
    with Bag(tmp_path / 'a') as bag:
        write_drive(bag)
        bag.broken_odometry(bad, stamp(2) + 1)
        bag.static('cam', 'unused', np.eye(4), quaternion=bad)
    source = open_source(str(tmp_path / 'a'))
    assert_is_drive(list(source.frames()))
    for name, where in (('/odom', '.200 s'), ('/tf_static', 'cam to unused')):
        part = part_of(source, name)
        assert part.skipped == {'bad_pose': 1}
        assert where in part.example
    assert len(losses(source)) == 2


def split_bag(folder):
    """Three files of four images each, as a recorder splits them, with their metadata."""
    folder.mkdir()
    for n in range(3):
        with Bag(folder / f'part{n}') as bag:
            for i in range(4 * n, 4 * n + 4):
                bag.image('/image', pattern(i), stamp(i), 'rgb8')
        (file,) = (folder / f'part{n}').glob('*.mcap')
        shutil.move(file, folder / f'part_{n}.mcap')
        shutil.rmtree(folder / f'part{n}')
    names = [f'part_{n}.mcap' for n in range(3)]
    (folder / 'metadata.yaml').write_text(
        json.dumps({'rosbag2_bagfile_information': {'relative_file_paths': names}})
    )
    return folder


@pytest.mark.parametrize(
    ('harm', 'reason'), [('emptied', 'damaged'), ('garbled', 'damaged'), ('gone', 'missing_file')]
)
def test_one_broken_file_of_a_split_bag_is_named_and_the_others_are_read(tmp_path, harm, reason):
    folder = split_bag(tmp_path / 'a')
    file = folder / 'part_1.mcap'
    if harm == 'gone':
        file.unlink()
    else:
        file.write_bytes(b'' if harm == 'emptied' else b'nothing' * 99)
    source = open_source(str(folder))
    stamps = [frame.stamp_ns for frame in source.frames()]
    assert stamps == [stamp(i) for i in (0, 1, 2, 3, 8, 9, 10, 11)]
    part = part_of(source, 'part_1.mcap')
    assert reason in (part.reason, *part.skipped)
    assert 'part_1.mcap' in losses(source)[0]


def foxglove_types():
    """Message classes of Foxglove's protobuf schemas, and their definition, all in one file."""
    file = descriptor_pb2.FileDescriptorProto(
        name='foxglove.proto', package='foxglove', syntax='proto3'
    )
    kinds = {'double': 1, 'int64': 3, 'uint32': 13, 'fixed32': 7, 'string': 9, 'bytes': 12}
    kinds['int32'] = 5

    def message(name, *fields):
        entry = file.message_type.add(name=name)
        for number, (field, kind, *repeated) in enumerate(fields, 1):
            label = 3 if repeated else 1
            if kind in kinds:
                entry.field.add(name=field, number=number, type=kinds[kind], label=label)
            else:
                full = f'.foxglove.{kind}'
                entry.field.add(name=field, number=number, type=11, label=label, type_name=full)

    stamped = (('timestamp', 'Time'), ('frame_id', 'string'))
    message('Time', ('seconds', 'int64'), ('nanos', 'int32'))
    message('Vector3', *((axis, 'double') for axis in 'xyz'))
    message('Quaternion', *((axis, 'double') for axis in 'xyzw'))
    message('Pose', ('position', 'Vector3'), ('orientation', 'Quaternion'))
    message('CompressedImage', *stamped, ('data', 'bytes'), ('format', 'string'))
    message('CompressedVideo', *stamped, ('data', 'bytes'), ('format', 'string'))
    message(
        'RawImage',
        *stamped,
        *((name, 'fixed32') for name in ('width', 'height')),
        ('encoding', 'string'),
        ('step', 'fixed32'),
        ('data', 'bytes'),
    )
    message(
        'CameraCalibration',
        *stamped,
        *((name, 'fixed32') for name in ('width', 'height')),
        ('distortion_model', 'string'),
        *((name, 'double', True) for name in 'DKRP'),
    )
    message('PoseInFrame', *stamped, ('pose', 'Pose'))
    files = descriptor_pb2.FileDescriptorSet(file=[file])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return (
        lambda name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f'foxglove.{name}')
        ),
        files.SerializeToString(),
    )


def foxglove_drive(i):
    """Topics with name of the schema and fields of message `i`."""
    seconds, nanos = divmod(stamp(i), 10**9)
    head = {'timestamp': {'seconds': seconds, 'nanos': nanos}, 'frame_id': 'cam'}
    png = cv2.imencode('.png', pattern(i)[..., ::-1])[1].tobytes()
    w, x, y, z = map(float, se3.quat_from_matrix(pose_of(i)[:3, :3]))
    position = dict(zip('xyz', map(float, pose_of(i)[:3, 3]), strict=True))
    k = [float(v) for v in K.matrix.ravel()]
    size = {'width': K.width, 'height': K.height}
    depth = millimetres(i)
    return {
        '/cam/image': ('CompressedImage', {**head, 'data': png, 'format': 'png'}),
        '/cam/calibration': (
            'CameraCalibration',
            {**head, **size, 'distortion_model': '', 'D': [], 'K': k, 'R': [], 'P': []},
        ),
        '/pose': (
            'PoseInFrame',
            {
                **head,
                'pose': {'position': position, 'orientation': {'x': x, 'y': y, 'z': z, 'w': w}},
            },
        ),
        '/cam/depth': (
            'RawImage',
            {**head, **size, 'encoding': '16UC1', 'step': 2 * K.width, 'data': depth.tobytes()},
        ),
    }


def write_foxglove(path, encoding):
    """The drive as Foxglove's SDK records it, beside a channel of nobody's."""
    types, definition = foxglove_types()
    file = McapFile()
    channels = {}
    for topic, (name, _) in foxglove_drive(0).items():
        form, text = ('protobuf', definition) if encoding == 'protobuf' else ('jsonschema', b'{}')
        channels[topic] = file.channel(topic, f'foxglove.{name}', encoding, form, text)
    channels['/other'] = file.channel('/other', 'acme.Thing', 'flatbuffer', 'flatbuffer', b'?')
    file.add(channels['/other'], stamp(0), b'?')
    for i in range(4):
        for topic, (name, fields) in foxglove_drive(i).items():
            if encoding == 'protobuf':
                data = types(name)(**fields).SerializeToString()
            else:
                time = fields['timestamp']
                written = {**fields, 'timestamp': {'sec': time['seconds'], 'nsec': time['nanos']}}
                if 'data' in fields:
                    written['data'] = base64.b64encode(fields['data']).decode()
                data = json.dumps(written).encode()
            file.add(channels[topic], stamp(i), data)
    return file.write(path, 'zstd')


@pytest.mark.parametrize('encoding', ['protobuf', 'json'])
def test_foxglove_recordings_are_read(tmp_path, encoding):
    source = open_source(str(write_foxglove(tmp_path / 'a.mcap', encoding)))
    frames = list(source.frames())
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, pattern(i))
        np.testing.assert_allclose(frame.depth, millimetres(i) / 1000, atol=1e-6)
        np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-9)
        assert (frame.intrinsics, frame.stamp_ns) == (K, stamp(i))
    assert len(frames) == 4
    assert losses(source) == []  # the other channel is of no use
    assert part_of(source, '/other').reason == 'no_use'


def test_foxglove_messages_of_ros_2_are_read(tmp_path):
    typesys = importlib.import_module('rosbags.typesys')
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    kind = 'foxglove_msgs/msg/CompressedImage'
    text = 'builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n'
    store.register(typesys.get_types_from_msg(text, kind))
    file = McapFile('ros2')
    channel = file.channel('/cam', kind, 'cdr', 'ros2msg', store.generate_msgdef(kind)[0].encode())
    for i in range(3):
        time = store.types['builtin_interfaces/msg/Time'](*divmod(stamp(i), 10**9))
        png = cv2.imencode('.png', pattern(i)[..., ::-1])[1].ravel()
        message = store.types[kind](time, 'cam', png, 'png')
        file.add(channel, stamp(i), store.serialize_cdr(message, kind))
    frames = list(open_source(str(file.write(tmp_path / 'a.mcap'))).frames())
    assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in range(3)]
    np.testing.assert_array_equal(frames[2].image, pattern(2))


def test_an_image_channel_of_an_unknown_encoding_beside_a_good_one_is_named(tmp_path):
    file = McapFile('')
    good = file.ros2('/image', 'sensor_msgs/msg/Image')
    bad = file.channel('/zz', 'sensor_msgs/msg/Image', 'cbor', 'ros2msg', b'')
    for i in range(3):
        file.add_ros2(good, stamp(i), ros2_image(i))
        file.add(bad, stamp(i), b'\0')
    source = open_source(str(file.write(tmp_path / 'a.mcap')))
    assert len(list(source.frames())) == 3
    assert part_of(source, '/zz').skipped == {'unknown_encoding': 3}
    assert '/zz' in losses(source)[0]


def h264_packets(count):
    """Annex B packets of a video without frames that wait for others, one per image."""
    context = av.CodecContext.create('libx264', 'w')
    context.width, context.height, context.pix_fmt = K.width, K.height, 'yuv420p'
    context.time_base = Fraction(1, 10)
    context.options = {'tune': 'zerolatency', 'preset': 'veryfast', 'crf': '10'}
    packets = []
    for i in range(count):
        frame = av.VideoFrame.from_ndarray(pattern(i), format='rgb24')
        frame.pts = i
        packets += [bytes(p) for p in context.encode(frame)]
    return packets + [bytes(p) for p in context.encode(None)]


def write_video_messages(path, count):
    """A packet in each message, as Foxglove's SDK records video."""
    types, definition = foxglove_types()
    file = McapFile()
    channel = file.channel('/cam', 'foxglove.CompressedVideo', 'protobuf', 'protobuf', definition)
    packets = h264_packets(count)
    assert len(packets) == count
    for i, data in enumerate(packets):
        seconds, nanos = divmod(stamp(i), 10**9)
        fields = {'timestamp': {'seconds': seconds, 'nanos': nanos}, 'frame_id': 'cam'}
        message = types('CompressedVideo')(**fields, data=data, format='h264')
        file.add(channel, stamp(i), message.SerializeToString())
    return file.write(path)


def test_video_messages_are_decoded(tmp_path):
    source = open_source(str(write_video_messages(tmp_path / 'a.mcap', 6)))
    frames = list(source.frames())
    assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in range(6)]
    for i, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - pattern(i)).mean() < 8


# --- after a power cut ---------------------------------------------------------------------------


def write_long(path, kind='mcap', count=40):
    with Bag(path, kind) as bag:
        for i in range(count):
            bag.image('/image', noise(i), stamp(i), 'rgb8')


@pytest.mark.parametrize('kind', ['mcap', 'db3'])
@pytest.mark.parametrize('capitals', [False, True])
def test_a_folder_without_metadata_is_read(tmp_path, kind, capitals):
    write_long(tmp_path / 'a', kind)
    (tmp_path / 'a' / 'metadata.yaml').unlink()
    if capitals:  # as from a stick with FAT
        (file,) = (tmp_path / 'a').iterdir()
        file.rename(file.with_name(file.name.upper()))
    source = open_source(str(tmp_path / 'a'))
    assert len(list(source.frames())) == 40
    assert losses(source) == []


@pytest.mark.parametrize('compression', ['', 'lz4', 'zstd'])
@pytest.mark.parametrize('share', [0.4, 0.7, 0.97])
def test_an_mcap_that_was_cut_gives_what_is_whole_and_names_the_remedy(
    tmp_path, compression, share
):
    file = McapFile('ros2')
    channel = file.ros2('/image', 'sensor_msgs/msg/Image')
    for i in range(20):
        file.add_ros2(channel, stamp(i), ros2_image(i, noise(i)))
    path = file.write(tmp_path / 'a.mcap', compression, per_chunk=2)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    source = open_source(str(path))
    frames = list(source.frames())
    assert len(frames) >= 20 * share - 2
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, noise(i))
    (loss,) = losses(source)
    assert 'mcap recover' in loss
    assert 'ros2 bag reindex' not in loss


@pytest.mark.parametrize('compression', ['lz4', 'zstd'])
def test_a_chunk_that_unpacks_to_more_than_recorders_write_costs_itself_only(
    tmp_path, monkeypatch, compression
):
    monkeypatch.setattr(chunked, '_MOST_UNPACKED', 100_000)
    file = McapFile('ros2')
    channel = file.ros2('/image', 'sensor_msgs/msg/Image')
    for i in range(4):
        image = np.zeros((240, 320, 3), np.uint8) if i == 2 else noise(i)
        file.add_ros2(channel, stamp(i), ros2_image(i, image))
    path = file.write(tmp_path / 'a.mcap', compression, per_chunk=1, index=False)
    source = open_source(str(path))
    assert [frame.stamp_ns for frame in source.frames()] == [stamp(i) for i in (0, 1, 3)]
    assert 'a chunk holds more than' in losses(source)[0]


def test_a_message_that_unpacks_to_more_than_an_image_may_have_is_refused_by_name(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(storage, 'LARGEST_UNPACKED', 100_000)
    file = McapFile('ros2')
    channel = file.ros2('/image', 'sensor_msgs/msg/Image')
    image = ros2_image(0, np.zeros((240, 320, 3), np.uint8))
    file.add(channel, stamp(0), zstd.compress(STORE.serialize_cdr(image, image.__msgtype__)))
    path = file.write(tmp_path / 'a.mcap')
    with pytest.raises(InputError, match=r'/image.*message holds more than 0 MB; record smaller'):
        open_source(str(path))


def test_a_compressed_message_that_is_cut_off_is_damaged():
    data = zstd.compress(bytes(range(256)) * 40)
    assert storage.plain(data) == bytes(range(256)) * 40
    with pytest.raises(InputError, match='cut off'):
        storage.plain(data[:-1])


def test_a_raw_image_has_no_more_pixels_than_a_compressed_one(tmp_path, monkeypatch):
    """Whatever a message claims, and however much comes with it; of a bag it costs itself only."""
    monkeypatch.setattr(images, 'MAX_MESSAGE_PIXELS', 160 * 120)
    file = McapFile('ros2')
    channel = file.ros2('/image', 'sensor_msgs/msg/Image')
    sizes = [(120, 160), (121, 160), (120, 160)]
    for i, size in enumerate(sizes):
        image = np.random.default_rng(i).integers(0, 255, (*size, 3), np.uint8)
        file.add_ros2(channel, stamp(i), ros2_image(i, image))
    source = open_source(str(file.write(tmp_path / 'a.mcap')))
    assert [frame.stamp_ns for frame in source.frames()] == [stamp(0), stamp(2)]
    assert 'rgb8 image of 160x121 has more than' in losses(source)[0]


@pytest.mark.parametrize(
    ('encoding', 'row', 'rows'),
    [
        ('rgb8', 60, 10),
        ('bgra16', 160, 10),
        ('mono8', 20, 10),
        ('nv12', 20, 15),
        ('32FC1', 80, 10),
    ],
)
def test_a_live_image_has_no_more_pixels_than_a_compressed_one(monkeypatch, encoding, row, rows):
    image = SimpleNamespace(
        width=20, height=10, step=row, encoding=encoding, is_bigendian=0, data=bytes(row * rows)
    )
    read = depth_from_msg if encoding == '32FC1' else image_from_msg
    assert read(image).shape[:2] == (10, 20)
    monkeypatch.setattr(images, 'MAX_MESSAGE_PIXELS', 199)
    with pytest.raises(InputError, match=f'{encoding} image of 20x10.*send smaller') as caught:
        read(image)
    assert caught.value.reason == 'image_too_large'


@pytest.mark.parametrize('compression', ['BZ2', 'LZ4'])
@pytest.mark.parametrize('share', [1.0, 0.6])
def test_a_compressed_ros1_bag_is_read_as_far_as_it_is_whole(tmp_path, compression, share):
    bag = Bag(tmp_path / 'a.bag', 'bag')
    bag.writer.set_compression(Writer1.CompressionFormat[compression])
    with bag:
        for i in range(40):
            bag.image('/image', noise(i), stamp(i), 'rgb8')
    data = (tmp_path / 'a.bag').read_bytes()
    (tmp_path / 'a.bag').write_bytes(data[: int(share * len(data))])
    source = open_source(str(tmp_path / 'a.bag'))
    frames = list(source.frames())
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, noise(i))
    if share == 1:
        assert len(frames) == 40
        assert losses(source) == []
    else:
        assert 0 < len(frames) <= 25
        assert 'rosbag reindex' in losses(source)[0]


def test_a_bag_of_a_recorder_that_was_killed_is_read(tmp_path):
    bag = Bag(tmp_path / 'a.bag', 'bag')
    bag.writer = Writer1(tmp_path / 'a.bag')
    with bag:
        for i in range(40):
            bag.image('/image', pattern(i), stamp(i), 'rgb8')
    data = bytearray((tmp_path / 'a.bag').read_bytes())
    at = data.index(b'index_pos=') + 10
    end = struct.unpack_from('<Q', data, at)[0]  # the index is written when the bag is closed
    data[at : at + 8] = bytes(8)
    path = tmp_path / 'a.bag.active'
    path.write_bytes(data[: end - 1000])
    source = open_source(str(path))
    assert len(list(source.frames())) >= 35
    assert 'rosbag reindex' in losses(source)[0]


def test_a_database_with_a_hot_journal_is_read_and_stays_as_it_is(tmp_path):
    write_long(tmp_path / 'a', 'db3', 12)
    (file,) = (tmp_path / 'a').glob('*.db3')
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute('PRAGMA cache_size=1')  # so that pages reach the file before the end
    connection.execute('BEGIN')
    connection.execute('UPDATE messages SET data=zeroblob(60000)')
    journal = file.with_name(file.name + '-journal')
    hurt = tmp_path / 'hurt'
    hurt.mkdir()
    for original in (file, journal):
        shutil.copyfile(original, hurt / original.name)
    connection.execute('ROLLBACK')
    connection.close()
    before = {p.name: p.read_bytes() for p in hurt.iterdir()}
    source = open_source(str(hurt / file.name))
    for i, frame in enumerate(source.frames()):
        np.testing.assert_array_equal(frame.image, noise(i))
    assert source.stock.frames == 12
    assert 'was being written' in losses(source)[0]
    assert {p.name: p.read_bytes() for p in hurt.iterdir()} == before


def test_a_database_that_was_cut_gives_what_is_whole(tmp_path):
    write_long(tmp_path / 'a', 'db3')
    (file,) = (tmp_path / 'a').glob('*.db3')
    file.write_bytes(file.read_bytes()[: int(0.7 * file.stat().st_size)])
    source = open_source(str(file))
    frames = list(source.frames())
    assert 25 <= len(frames) < 40
    np.testing.assert_array_equal(frames[20].image, noise(20))
    assert 'bytes too early' in losses(source)[0]


def test_a_packed_bag_for_which_there_is_no_room_is_refused_with_the_folder(tmp_path, monkeypatch):
    write_long(tmp_path / 'a', 'db3')
    (file,) = (tmp_path / 'a').glob('*.db3')
    path = tmp_path / f'{file.name}.zstd'
    path.write_bytes(zstd.compress(file.read_bytes()))

    class Full(io.BytesIO):
        def read(self, *_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zstd, 'open', lambda *_: Full())
    with pytest.raises(InputError, match=r'No space left on device.*TMPDIR'):
        list(open_source(str(path)).frames())


def test_a_small_file_does_not_fill_the_disk_and_leaves_nothing_there(tmp_path, monkeypatch):
    """Zeros pack to a thousandth; the room that is left for others is what bounds them."""
    scratch = tmp_path / 'scratch'
    scratch.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(scratch))
    path = tmp_path / 'a.mcap.zst'
    path.write_bytes(zstd.compress(bytes(1 << 25)))
    room, largest = (1 << 30) + (1 << 24), []

    def usage(folder):
        used = sum(p.stat().st_size for p in scratch.rglob('*') if p.is_file())
        largest.append(used)
        return SimpleNamespace(free=room - used)

    monkeypatch.setattr(shutil, 'disk_usage', usage)
    with pytest.raises(InputError, match=r'a\.mcap\.zst finds no room in .* \(less than 1\.1 GB'):
        open_source(str(path))
    assert 1 << 22 < max(largest) <= 1 << 24
    assert not any(scratch.iterdir())


def test_a_file_that_was_packed_or_unpacked_since_is_the_one_that_metadata_name(tmp_path):
    folder = split_bag(tmp_path / 'a')
    one, two = folder / 'part_1.mcap', folder / 'part_2.mcap'
    for file in (one, two):  # the tool keeps what it packs
        file.with_name(f'{file.name}.zst').write_bytes(zstd.compress(file.read_bytes()))
    two.unlink()
    source = open_source(str(folder))
    assert [frame.stamp_ns for frame in source.frames()] == [stamp(i) for i in range(12)]
    assert losses(source) == []
    (folder / 'metadata.yaml').unlink()
    source = open_source(str(folder))
    assert [frame.stamp_ns for frame in source.frames()] == [stamp(i) for i in range(12)]
    assert losses(source) == []


@pytest.mark.parametrize('suffix', ['zstd', 'zst', 'ZST'])
@pytest.mark.parametrize('share', [1.0, 0.7])
def test_a_packed_database_is_a_bag_and_no_video(tmp_path, share, suffix):
    write_long(tmp_path / 'a', 'db3')
    (file,) = (tmp_path / 'a').glob('*.db3')
    packed = zstd.compress(file.read_bytes())
    path = tmp_path / f'{file.name}.{suffix}'
    path.write_bytes(packed[: int(share * len(packed))])
    source = open_source(str(path))
    frames = list(source.frames())
    assert source.stock.what == 'bag'
    if share == 1:
        assert len(frames) == 40
        assert losses(source) == []
    else:
        assert 0 < len(frames) < 40
        assert losses(source)


def test_messages_that_were_compressed_one_by_one_are_read(tmp_path):
    file = McapFile('ros2')
    channel = file.ros2('/image', 'sensor_msgs/msg/Image')
    for i in range(3):
        data = STORE.serialize_cdr(ros2_image(i), 'sensor_msgs/msg/Image')
        file.add(channel, stamp(i), zstd.compress(bytes(data)))
    frames = list(open_source(str(file.write(tmp_path / 'a.mcap'))).frames())
    np.testing.assert_array_equal(frames[2].image, pattern(2))


# --- stamps --------------------------------------------------------------------------------------


@pytest.mark.parametrize('stamps', ['zero', 'equal', 'pairs'])
def test_stamps_that_stand_still_are_replaced_by_those_of_the_recorder(tmp_path, stamps):
    def header(i):
        return {'zero': 0, 'equal': stamp(0), 'pairs': stamp(i // 2 * 2)}[stamps]

    with Bag(tmp_path / 'a') as bag:
        for i in range(8):
            late = stamp(i) - header(i)
            bag.image('/cam/image', pattern(i), header(i), 'rgb8', late_ns=late)
            bag.image('/cam/depth', depth_of(i), header(i), '32FC1', late_ns=late)
            bag.odometry(pose_of(i), stamp(i), 'cam')
    source = open_source(str(tmp_path / 'a'))
    frames = list(source.frames())
    assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in range(8)]
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.depth, depth_of(i))
        np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-3)
    assert 'those of the recorder' in source.note
