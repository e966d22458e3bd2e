"""Recordings as the world writes them, each made by some lines: the rows of docs/recordings.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
import shutil
import sqlite3
import struct

from backports import zstd
import cv2
from mcap_writer import McapFile
import numpy as np
from PIL import Image
from rosbags.rosbag1 import Writer as Writer1
import test_bag_recordings as bags
from test_bag_recordings import noise, ros2_image, stamp
import test_folder_recordings as folders
from test_folder_recordings import N, seconds
from test_sources import Bag, depth_of, K, pattern, pose_of, START_NS, write_drive, write_rgb

from sharp_ros import se3
from sharp_ros.camera import Intrinsics


@dataclass(frozen=True)
class Case:
    """One recording.

    Attributes:
        kind: heading under which docs/recordings.md has it.
        what: it is, in words.
        holds: images, images with depth and images with poses that somebody recorded.
        said: part of what has to be said about it; empty if nothing has to be.
        write: makes it in a folder, and returns the words behind `sharp-ros inspect`.
    """

    kind: str
    what: str
    holds: tuple[int, int, int]
    said: str
    write: Callable[[Path], Sequence[str]]


CASES: list[Case] = []


def case(
    kind: str, what: str, holds: tuple[int, int, int], said: str = ''
) -> Callable[[Callable[[Path], Sequence[str]]], Callable[[Path], Sequence[str]]]:
    """Put a function into the table."""

    def add(write: Callable[[Path], Sequence[str]]) -> Callable[[Path], Sequence[str]]:
        CASES.append(Case(kind, what, holds, said, write))
        return write

    return add


# --- all of it -----------------------------------------------------------------------------------

ALL = 'All of it'


@case(ALL, 'ROS 1 bag whose driver was restarted under another name', (6, 0, 0))
def restarted(path):
    with Bag(path / 'a.bag', 'bag') as bag:
        for i in range(6):
            if i == 3:
                bag.connections['/image'] = bag.writer.add_connection(
                    '/image', 'sensor_msgs/msg/Image', typestore=bag.store, callerid='/again'
                )
            bag.image('/image', pattern(i), stamp(i), 'rgb8')
    return [str(path / 'a.bag')]


@case(ALL, 'MCAP with two channels for one topic', (6, 0, 0))
def two_channels(path):
    file = McapFile('ros2')
    both = [file.ros2('/image', 'sensor_msgs/msg/Image') for _ in range(2)]
    for i in range(6):
        file.add_ros2(both[i > 2], stamp(i), ros2_image(i))
    return [str(file.write(path / 'a.mcap', 'zstd'))]


@case(ALL, '`camera_info` with K = 0 at the first three of 12 images', (12, 0, 0))
def late_calibration(path):
    with Bag(path / 'a') as bag:
        for i in range(12):
            bag.info('/cam/camera_info', stamp(i), K, k_zero=i < 3)
            bag.image('/cam/image', pattern(i), stamp(i), 'rgb8')
    return [str(path / 'a')]


@case(ALL, 'resolution switched after three of 12 images', (12, 0, 0))
def switched(path):
    with Bag(path / 'a') as bag:
        for i in range(12):
            step = 1 if i < 3 else 2
            bag.info('/cam/camera_info', stamp(i), K.resized(160 // step, 120 // step))
            bag.image('/cam/image', pattern(i)[::step, ::step].copy(), stamp(i), 'rgb8')
    return [str(path / 'a')]


@case(ALL, 'two odometries, the first connected with nothing', (4, 4, 4), 'arm and cam')
def two_odometries(path):
    with Bag(path / 'a') as bag:
        write_drive(bag)
        bag.odometry(pose_of(0), stamp(0), 'arm', topic='/a_odom')
    return [str(path / 'a')]


@case(ALL, 'tf alone, map to odom to base to camera', (4, 0, 4), 'poses of tf')
def tf_alone(path):
    T_base_cam = se3.look_at(np.zeros(3), np.array([1.0, 0.2, 0]), np.array([0, 0, 1.0]))
    with Bag(path / 'a') as bag:
        bag.static('base', 'cam', T_base_cam)
        for i in range(4):
            bag.image('/cam/image', pattern(i), stamp(i), 'rgb8', 'cam')
            bag.transform('/tf', 'map', 'odom', np.eye(4), stamp(i))
            bag.transform('/tf', 'odom', 'base', pose_of(i) @ se3.inverse(T_base_cam), stamp(i))
    return [str(path / 'a')]


def ahead(path):
    bags.write_ahead(path / 'a', 111.7)
    return [str(path / 'a')]


case(ALL, 'odometry with a clock that is ahead by 111.7 s', (4, 0, 4), '--pose-offset=111.700')(
    ahead
)


@case(ALL, 'the same with `--pose-offset auto`', (4, 0, 4))
def ahead_auto(path):
    return [*ahead(path), '--pose-offset', 'auto']


# --- colour is colour ----------------------------------------------------------------------------

COLOUR = 'Colour is colour'


def beside_colour(what, topic, encoding, kind, holds=(3, 0, 0), said=''):
    @case(COLOUR, what, holds, said)
    def write(path):
        shape = (120, 160, 3) if encoding == 'rgb8' else (120, 160)
        with Bag(path / 'a') as bag:
            for i in range(3):
                bag.image(topic, np.full(shape, 7, kind), stamp(i), encoding)
                bag.image('/z/image', pattern(i), stamp(i), 'rgb8')
        return [str(path / 'a')]


NAMED = '--image-topic'
beside_colour('depth as `16UC1`, before colour by alphabet', '/a', '16UC1', np.uint16, (3, 3, 0))
beside_colour('depth as `32FC1`', '/a', '32FC1', np.float32, (3, 3, 0))
REALSENSE = '/device_0/sensor_0/Depth_0/image/data'
beside_colour(
    'depth of a RealSense Viewer bag, `mono16`', REALSENSE, 'mono16', np.uint16, (3, 3, 0)
)
beside_colour('mask', '/a/mask', 'mono8', np.uint8, said=NAMED)
beside_colour('debug image', '/a/debug_image', 'rgb8', np.uint8, said=NAMED)
beside_colour('thermal stream', '/a/thermal/image_raw', 'mono16', np.uint16, said=NAMED)


def compressed(what, kind):
    @case(COLOUR, what, (3, 3, 0))
    def write(path):
        with Bag(path / 'a') as bag:
            for i in range(3):
                data, form, _ = bags.compressed_depth(i, kind)
                bag.compressed('/a_depth/image_raw/compressedDepth', data, stamp(i), form)
                jpeg = cv2.imencode('.jpg', pattern(i)[..., ::-1])[1].tobytes()
                bag.compressed('/color/image_raw/compressed', jpeg, stamp(i))
        return [str(path / 'a')]


compressed('`compressedDepth` as PNG, with its header of 12 bytes', 'png')
compressed('`compressedDepth` as RVL', 'rvl')
compressed('`compressedDepth` of `32FC1`', '32FC1')
compressed('`16UC1; png compressed`', 'plain')


@case(COLOUR, 'camera_info of a RealSense Viewer bag, `.../info/camera_info`', (1, 0, 0))
def viewer(path):
    with Bag(path / 'a') as bag:
        other = Intrinsics(99.0, 99.0, 79.5, 59.5, 160, 120)
        bag.info('/device_0/sensor_0/Depth_0/info/camera_info', stamp(0), other)
        bag.info('/device_0/sensor_1/Color_0/info/camera_info', stamp(0), K)
        bag.image('/device_0/sensor_1/Color_0/image/data', pattern(0), stamp(0), 'rgb8')
    return [str(path / 'a')]


@case(COLOUR, 'infrared alone, `mono16` of which 500 levels are used', (3, 0, 0), '16-bit grey')
def infrared(path):
    y, x = np.mgrid[0:120, 0:160]
    with Bag(path / 'a') as bag:
        for i in range(3):
            bag.image('/ir/image', (900 + 2 * x + y).astype(np.uint16), stamp(i), 'mono16')
    return [str(path / 'a')]


@case(COLOUR, 'depth in the frame of another camera', (3, 3, 0), 'the camera in color')
def unregistered(path):
    with Bag(path / 'a') as bag:
        for i in range(3):
            bag.image('/color/image', pattern(i), stamp(i), 'rgb8', 'color')
            bag.image('/depth/image', depth_of(i), stamp(i), '32FC1', 'depth')
    return [str(path / 'a')]


# --- one bad part --------------------------------------------------------------------------------

BAD = 'One bad part'


def bad_quaternion(what, number):
    @case(BAD, what, (4, 4, 4), 'odom')
    def write(path):
        with Bag(path / 'a') as bag:
            write_drive(bag)
            bag.broken_odometry(number, stamp(2) + 1)
        return [str(path / 'a')]


bad_quaternion('one odometry message with a quaternion of zero', 0.0)
bad_quaternion('one odometry message with a quaternion of NaN', float('nan'))


@case(BAD, 'an unused static transform with a quaternion of zero', (4, 4, 4), 'cam to unused')
def bad_static(path):
    with Bag(path / 'a') as bag:
        write_drive(bag)
        bag.static('cam', 'unused', np.eye(4), quaternion=0.0)
    return [str(path / 'a')]


@case(BAD, 'one of three files of a split bag is empty', (12, 0, 0), 'part_1.mcap')
def split(path):
    folder = bags.split_bag(path / 'a')
    (folder / 'part_1.mcap').write_bytes(b'')
    return [str(folder)]


@case(BAD, 'NaN in one row of `groundtruth.txt`', (N, N, N), 'groundtruth.txt:6')
def nan_row(path):
    folders.write_tum(path)
    with (path / 'groundtruth.txt').open('a') as file:
        file.write(f'\n{seconds(START_NS + 1)} nan nan nan 0 0 0 1')
    return [str(path)]


def foreign(what, encoding, profile, said=''):
    @case(BAD, what, (3, 0, 0), said)
    def write(path):
        file = McapFile(profile)
        image = file.ros2('/image', 'sensor_msgs/msg/Image')
        if encoding:
            other = file.channel('/other', 'acme.Thing', encoding, encoding, b'{}')
        for i in range(3):
            file.add_ros2(image, stamp(i), ros2_image(i))
            if encoding:
                file.add(other, stamp(i), b'{}')
        return [str(file.write(path / 'a.mcap'))]


foreign('a channel of JSON in an MCAP of ROS', 'json', 'ros2')
foreign('a channel of protobuf in an MCAP of ROS', 'protobuf', 'ros2')
foreign('MCAP with an empty profile', '', '')


def foxglove(what, encoding):
    @case(BAD, what, (4, 4, 4))
    def write(path):
        return [str(bags.write_foxglove(path / 'a.mcap', encoding))]


foxglove("Foxglove's image, depth, calibration and poses in protobuf", 'protobuf')
foxglove("Foxglove's image, depth, calibration and poses in JSON", 'json')


@case(BAD, "Foxglove's `CompressedVideo`, H.264", (6, 0, 0))
def video_messages(path):
    return [str(bags.write_video_messages(path / 'a.mcap', 6))]


# --- after a power cut ---------------------------------------------------------------------------

CUT = 'After a power cut'


def no_metadata(what, kind):
    @case(CUT, what, (40, 0, 0))
    def write(path):
        bags.write_long(path / 'a', kind)
        (path / 'a/metadata.yaml').unlink()
        return [str(path / 'a')]


no_metadata('folder with MCAP, without metadata.yaml', 'mcap')
no_metadata('folder with SQLite, without metadata.yaml', 'db3')


@case(CUT, 'MCAP cut at 70 %', (20, 0, 0), 'mcap recover')
def cut_mcap(path):
    file = McapFile('ros2')
    channel = file.ros2('/image', 'sensor_msgs/msg/Image')
    for i in range(20):
        file.add_ros2(channel, stamp(i), ros2_image(i, noise(i)))
    return [str(shortened(file.write(path / 'a.mcap', 'zstd', per_chunk=2), 0.7))]


def shortened(file, share):
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    return file


def database(path):
    bags.write_long(path / 'a', 'db3')
    return next((path / 'a').glob('*.db3'))


@case(CUT, 'SQLite cut at 70 %', (40, 0, 0), 'bytes too early')
def cut_database(path):
    return [str(shortened(database(path), 0.7))]


@case(CUT, 'SQLite with a hot journal', (40, 0, 0), 'was being written')
def hot(path):
    file = database(path)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute('PRAGMA cache_size=1')
    connection.execute('BEGIN')
    connection.execute('UPDATE messages SET data=zeroblob(60000)')
    (path / 'hurt').mkdir()
    for original in (file, file.with_name(f'{file.name}-journal')):
        shutil.copyfile(original, path / 'hurt' / original.name)
    connection.execute('ROLLBACK')
    connection.close()
    return [str(path / 'hurt' / file.name)]


@case(CUT, '`.bag.active` of a recorder that was killed', (40, 0, 0), 'rosbag reindex')
def active(path):
    bag = Bag(path / 'a.bag', 'bag')
    bag.writer = Writer1(path / 'a.bag')
    with bag:
        for i in range(40):
            bag.image('/image', pattern(i), stamp(i), 'rgb8')
    data = bytearray((path / 'a.bag').read_bytes())
    at = data.index(b'index_pos=') + 10
    end = struct.unpack_from('<Q', data, at)[0]
    data[at : at + 8] = bytes(8)
    (path / 'a.bag').unlink()
    (path / 'a.bag.active').write_bytes(data[: end - 1000])
    return [str(path / 'a.bag.active')]


def packed(what, suffix):
    @case(CUT, what, (40, 0, 0))
    def write(path):
        file = database(path)
        target = path / f'{file.name}.{suffix}'
        target.write_bytes(zstd.compress(file.read_bytes()))
        return [str(target)]


packed('a lone `.db3.zstd`', 'zstd')
packed('a lone `.db3.zst`, as the tool zstd names it', 'zst')


@case(CUT, 'mp4 without its index', (30, 0, 0), 'untrunc')
def no_index(path):
    times = [i / 30 for i in range(30)]
    return [str(shortened(folders.write_video(path / 'a.mp4', times), 0.5))]


# --- stamps --------------------------------------------------------------------------------------

STAMPS = 'Stamps'


def standing(what, header):
    @case(STAMPS, what, (8, 8, 8), 'those of the recorder')
    def write(path):
        with Bag(path / 'a') as bag:
            for i in range(8):
                late = stamp(i) - header(i)
                bag.image('/cam/image', pattern(i), header(i), 'rgb8', late_ns=late)
                bag.image('/cam/depth', depth_of(i), header(i), '32FC1', late_ns=late)
                bag.odometry(pose_of(i), stamp(i), 'cam')
        return [str(path / 'a')]


standing('header stamps all 0', lambda i: 0)
standing('header stamps repeated', lambda i: stamp(i // 2 * 2))


@case(STAMPS, 'video with frames at 0, 0.02, 0.05, 0.4, ... 2.5 s', (8, 0, 0))
def variable_rate(path):
    times = [0.0, 0.02, 0.05, 0.4, 0.45, 1.7, 1.72, 2.5]
    return [str(folders.write_video(path / 'a.mp4', times))]


def unit(what, name, said=''):
    @case(STAMPS, what, (N, N, N), said)
    def write(path):
        text = folders.UNITS[name]
        return [str(folders.write_tum(path, text, comma=name == 'decimal comma'))]


unit('TUM lists in nanoseconds', 'ns', 'in ns')
unit('TUM lists in milliseconds', 'ms', 'in ms')
unit('TUM lists with decimal commas', 'decimal comma')


@case(STAMPS, '`frame0.png` to `frame11.png`', (12, 0, 0))
def natural(path):
    for i in range(12):
        write_rgb(path / f'frame{i}.png', pattern(i))
    return [str(path)]


def formats(suffix):
    @case(STAMPS, f'folder of {suffix.upper()}', (3, 0, 0))
    def write(path):
        for i in range(3):
            Image.fromarray(pattern(i)).save(path / f'{i}.{suffix}')
        return [str(path)]


formats('avif')
formats('webp')


@case(STAMPS, 'folder of HEIC, without pillow-heif', (2, 0, 0), 'pip install pillow-heif')
def heic(path):
    for i in range(2):
        (path / f'{i}.heic').write_bytes(b'\0\0\0\x18ftypheic' + bytes(99))
    return [str(path)]


@case(STAMPS, 'Matroska video of variable rate, cut at 60 %', (200, 0, 0), 'of 14.4 s')
def cut_variable(path):
    times = np.cumsum(np.where(np.arange(200) % 5, 0.04, 0.2))
    # amid a frame of some 200 bytes: the length of the file varies by a few
    return [str(shortened(folders.write_video(path / 'a.mkv', times), 0.603))]


# --- TUM and friends -----------------------------------------------------------------------------

FRIENDS = 'TUM and friends'


def coded(what, coding, separator=' '):
    @case(FRIENDS, what, (N, N, N))
    def write(path):
        folders.write_tum(path)
        for name in ('rgb', 'depth', 'groundtruth'):
            file = path / f'{name}.txt'
            lines = ['# Köln', *file.read_text().splitlines(), '  # in between']
            lines = [line if '#' in line else line.replace(' ', separator) for line in lines]
            file.write_bytes('\r\n'.join(lines).encode(coding))
        return [str(path)]


coded('lists in UTF-8 with a byte order mark', 'utf-8-sig')
coded('lists in Latin-1', 'latin-1')
coded('lists in UTF-16, with tabs', 'utf-16', '\t')


@case(FRIENDS, '`camera.yaml` without `depth_scale`', (N, N, N), '5000 taken')
def no_scale(path):
    return [str(folders.write_tum(path, camera={'note': 'mine'}))]


def late_depth(path):
    folders.write_tum(path)
    rows = [f'{seconds(START_NS + i * 10**8 + 3 * 10**7)} depth/{i}.png' for i in range(N)]
    (path / 'depth.txt').write_text('\n'.join(rows))
    return [str(path)]


case(FRIENDS, 'depth 30 ms later than its images', (N, N, N), '20 ms allowed')(late_depth)


@case(FRIENDS, 'the same with `--association 0.05`', (N, N, N))
def late_depth_allowed(path):
    return [*late_depth(path), '--association', '0.05']


@case(FRIENDS, 'groundtruth in ms beside lists in s', (N, N, N), 'its stamps are in ms')
def other_unit(path):
    return [str(folders.write_tum(path, pose_stamp=folders.UNITS['ms']))]


@case(FRIENDS, "ICL-NUIM's negative fy", (N, N, N), 'negative fy')
def icl(path):
    return [str(folders.write_tum(path, camera={'fy': -K.fy, 'depth_scale': 5000}))]


def layout(what, write_layout, said=''):
    @case(FRIENDS, what, (N, N, N), said)
    def write(path):
        write_layout(path)
        return [str(path)]


layout('7-Scenes', folders.write_seven_scenes, 'nominal calibration')
layout('ScanNet export', folders.write_scannet)
layout('Replica, as rendered for NICE-SLAM', folders.write_replica)
layout('`transforms.json` of nerfstudio or COLMAP', folders.write_nerfstudio, 'another unit')
layout('Polycam, raw data', folders.write_polycam)
layout('Record3D, depth as PNG', folders.write_record3d)
layout('Record3D, depth as OpenEXR', lambda path: folders.write_record3d(path, 'R'))


@case(FRIENDS, '`.r3d`, as Record3D keeps it for itself', (0, 0, 0), 'EXR_RGBD')
def record3d_archive(path):
    (path / 'a.r3d').write_bytes(b'PK\3\4' * 99)
    return [str(path / 'a.r3d')]


@case(FRIENDS, 'EuRoC, `mav0/cam0`', (N, 0, N))
def euroc(path):
    folders.write_euroc(path)
    return [str(path)]


# --- camera_info ---------------------------------------------------------------------------------

INFO = 'camera_info'


def calibrated(what, model, distortion, said=''):
    @case(INFO, what, (3, 0, 0), said)
    def write(path):
        with Bag(path / 'a') as bag:
            for i in range(3):
                bag.info('/cam/camera_info', stamp(i), distortion=distortion, model=model)
                bag.image('/cam/image', pattern(i), stamp(i), 'rgb8')
        return [str(path / 'a')]


calibrated('`equidistant`, 5 coefficients, the last 0', 'equidistant', (0.01, 0, 0, 0, 0))
calibrated('`fisheye`, 5 coefficients, the last 0', 'fisheye', (0.01, 0, 0, 0, 0))
calibrated('no model, 5 coefficients', '', (-0.2, 0, 0, 0, 0), 'plumb_bob taken')
calibrated('`kannala_brandt4`', 'kannala_brandt4', (0.1,) * 4, "'kannala_brandt4'")
calibrated('`omni`', 'omni', (0.1,) * 5, "'omni'")
calibrated('polynomial that folds back inside of the image', 'plumb_bob', (-1.5, 0, 0, 0, 0))
calibrated('rational model with a pole', 'rational_polynomial', (0.1, 0, 0, 0, 0, -8.0, 0, 0))

# --- video and photos ----------------------------------------------------------------------------

VIDEO = 'Video and photos'


@case(VIDEO, 'video held upright', (3, 0, 0), '30 mm')
def portrait(path):
    return [str(folders.write_video(path / 'a.mp4', [0.0, 0.1, 0.2], size=(90, 160)))]


@case(VIDEO, 'photo held upright, without EXIF', (1, 0, 0), '30 mm')
def portrait_photo(path):
    write_rgb(path / 'a.png', cv2.resize(pattern(0), (90, 160)))
    return [str(path / 'a.png')]


@case(VIDEO, 'video cut at 60 %', (200, 0, 0), 'of 200')
def cut_video(path):
    times = np.arange(200) / 25
    video = folders.write_video(path / 'a.avi', times, codec='mpeg4', ticks=25)
    return [str(shortened(video, 0.6))]


@case(VIDEO, 'sound alone', (0, 0, 0), 'audio but no video')
def sound(path):
    return [str(folders.write_sound(path / 'a.mp4'))]


@case(VIDEO, 'animated GIF', (4, 0, 0))
def animated(path):
    images = [Image.fromarray(pattern(i)) for i in range(4)]
    images[0].save(path / 'a.gif', save_all=True, append_images=images[1:], duration=200)
    return [str(path / 'a.gif')]


def small(size):
    @case(VIDEO, f'image of {size[0]}x{size[1]}', (1, 0, 0), 'too small to mean anything')
    def write(path):
        write_rgb(path / 'a.png', np.zeros((size[1], size[0], 3), np.uint8))
        return [str(path / 'a.png')]


small((1, 1))
small((4000, 30))
