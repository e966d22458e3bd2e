"""Folders, lists and videos as people bring them: encodings, clocks, layouts, cut files."""

import argparse
from dataclasses import replace
from fractions import Fraction
import json
import struct
import sys

import av
import cv2
import numpy as np
from PIL import Image
import pytest
from test_sources import Bag, depth_of, K, pattern, pose_of, START_NS, write_rgb

from sharp_ros import se3
from sharp_ros.apps.predict import _intrinsics as predicted_intrinsics
from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.sources import open_source

GRAPHICS = np.diag([1.0, -1, -1, 1])  # optical camera to one with y up, looking along -z
STEP_NS = 100_000_000
N = 5


def losses(source):
    return list(source.stock.losses())


def write_depth(path, i, scale=1000.0, size=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = np.round(depth_of(i) * scale).astype(np.uint16)
    if size is not None:
        raw = cv2.resize(raw, size, interpolation=cv2.INTER_NEAREST)
    assert cv2.imwrite(str(path), raw)


def row_of(pose, comma=False):
    w, x, y, z = se3.quat_from_matrix(pose[:3, :3])
    text = ' '.join(f'{v:.9f}' for v in (*pose[:3, 3], x, y, z, w))
    return text.replace('.', ',') if comma else text


def seconds(ns):
    return f'{ns // 10**9}.{ns % 10**9:09d}'


def write_tum(
    folder, stamp=seconds, pose_stamp=None, begin=START_NS, scale=5000.0, camera=None, comma=False
):
    """N frames, 100 ms apart, with depth, poses and calibration."""
    rgb, depth, poses = [], [], []
    for i in range(N):
        time = begin + i * STEP_NS
        write_rgb(folder / f'rgb/{i}.png', pattern(i))
        write_depth(folder / f'depth/{i}.png', i, scale)
        rgb.append(f'{stamp(time)} rgb/{i}.png')
        depth.append(f'{stamp(time)} depth/{i}.png')
        poses.append(f'{(pose_stamp or stamp)(time)} {row_of(pose_of(i), comma)}')
    for name, rows in (('rgb', rgb), ('depth', depth), ('groundtruth', poses)):
        (folder / f'{name}.txt').write_text('\n'.join(rows))
    camera = camera or {'depth_scale': scale}
    k = {'width': 160, 'height': 120, 'fx': K.fx, 'fy': K.fy, 'cx': K.cx, 'cy': K.cy}
    (folder / 'camera.yaml').write_text(json.dumps({**k, **camera}))
    return folder


def assert_is_whole(source, begin=START_NS, poses=True):
    """All frames with depth and their poses, exactly at their stamps."""
    frames = list(source.frames())
    assert [frame.stamp_ns for frame in frames] == [begin + i * STEP_NS for i in range(N)]
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, pattern(i))
        np.testing.assert_allclose(frame.depth, depth_of(i), atol=5e-4)
        if poses:
            np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-6)
    assert losses(source) == []


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('coding', ['utf-8', 'utf-8-sig', 'latin-1', 'utf-16'])
@pytest.mark.parametrize('separator', [' ', '\t', ', ', ','])
def test_lists_are_read_in_any_coding_with_comments_anywhere(tmp_path, coding, separator):
    write_tum(tmp_path)
    for name in ('rgb', 'depth', 'groundtruth'):
        file = tmp_path / f'{name}.txt'
        lines = ['# aufgenommen in Köln', *file.read_text().splitlines()]
        lines.insert(3, '   # in between')
        lines = [line if '#' in line else line.replace(' ', separator) for line in lines]
        lines[2] += ' # größer'
        file.write_bytes('\r\n'.join(lines).encode(coding))
    assert_is_whole(open_source(str(tmp_path), level=False))


def test_one_bad_row_of_each_list_is_skipped_and_named(tmp_path):
    write_tum(tmp_path)
    for name, bad in (
        ('rgb', 'soon rgb/9.png'),
        ('depth', 'half'),
        ('groundtruth', f'{seconds(START_NS + 1)} nan nan nan 0 0 0 1'),
    ):
        file = tmp_path / f'{name}.txt'
        file.write_text(f'{file.read_text()}\n{bad}')
    with (tmp_path / 'groundtruth.txt').open('a') as file:
        file.write(f'\n{seconds(START_NS + 2)} 0 0 0 0 0 0 0')
    source = open_source(str(tmp_path), level=False)
    assert len(list(source.frames())) == N
    skipped = {part.name: dict(part.skipped) for part in source.stock.parts if part.skipped}
    assert skipped == {
        'rgb.txt': {'bad_line': 1},
        'depth.txt': {'bad_line': 1},
        'groundtruth.txt': {'bad_pose': 2},
    }
    assert 'groundtruth.txt:6' in ' '.join(losses(source))


def test_a_missing_image_is_skipped_and_named(tmp_path):
    write_tum(tmp_path)
    (tmp_path / 'rgb/2.png').unlink()
    source = open_source(str(tmp_path))
    assert len(list(source.frames())) == N - 1
    assert source.stock.skipped == {'unreadable_image': 1}
    assert '2.png' in losses(source)[0]
    assert len(list(source.frames())) == N - 1  # read again, they are counted anew
    assert source.stock.skipped == {'unreadable_image': 1}


# --- clocks --------------------------------------------------------------------------------------

UNITS = {
    's': seconds,
    'ms': lambda ns: f'{ns // 10**6}',
    'us': lambda ns: f'{ns // 10**3}',
    'ns': str,
    'decimal comma': lambda ns: seconds(ns).replace('.', ','),
}


@pytest.mark.parametrize('unit', UNITS)
@pytest.mark.parametrize('begin', [START_NS, 0, 500_000_000_000])
def test_stamps_of_any_unit_are_recognised_and_said(tmp_path, unit, begin):
    write_tum(tmp_path, UNITS[unit], begin=begin, comma=unit == 'decimal comma')
    source = open_source(str(tmp_path), level=False)
    assert_is_whole(source, begin)
    if unit in ('ms', 'us', 'ns'):
        assert f'in {unit}' in source.note
    else:
        assert source.note == ''


@pytest.mark.parametrize('unit', ['ms', 'ns'])
@pytest.mark.parametrize('begin', [START_NS, 0])
def test_groundtruth_of_another_unit_than_the_lists_is_used_and_said(tmp_path, unit, begin):
    write_tum(tmp_path, pose_stamp=UNITS[unit], begin=begin)
    source = open_source(str(tmp_path), level=False)
    assert_is_whole(source, begin)
    assert f'groundtruth.txt: its stamps are in {unit}' in source.note


def test_stamps_keep_their_nanoseconds(tmp_path):
    begin = START_NS + 123_456_789  # which float64 seconds round by up to 120 ns
    write_tum(tmp_path, begin=begin)
    assert_is_whole(open_source(str(tmp_path), level=False), begin)


def test_pictures_one_second_apart_stay_so(tmp_path):
    for i in range(3):
        write_rgb(tmp_path / f'{i}.png', pattern(i))
    (tmp_path / 'rgb.txt').write_text('0 0.png\n1 1.png\n2 2.png')
    stamps = [frame.stamp_ns for frame in open_source(str(tmp_path)).frames()]
    assert stamps == [0, 10**9, 2 * 10**9]


def test_the_limit_of_association_is_named_and_an_option(tmp_path):
    write_tum(tmp_path)
    rows = [f'{seconds(START_NS + i * STEP_NS + 30_000_000)} depth/{i}.png' for i in range(N)]
    (tmp_path / 'depth.txt').write_text('\n'.join(rows))
    source = open_source(str(tmp_path))
    assert all(frame.depth is None for frame in source.frames())
    assert '20 ms allowed' in losses(source)[0]
    assert '+0.030 s' in losses(source)[0]
    assert_is_whole(open_source(str(tmp_path), level=False, association=0.05))


def test_groundtruth_of_another_clock_is_named_and_used_with_its_offset(tmp_path):
    write_tum(tmp_path, pose_stamp=lambda ns: seconds(ns + 111_700_000_000))
    source = open_source(str(tmp_path), level=False)
    assert all(frame.T_world_camera is None for frame in source.frames())
    assert '+111.700 s' in losses(source)[0]
    assert_is_whole(open_source(str(tmp_path), level=False, pose_offset=111.7))
    with pytest.raises(InputError, match='give the offset in seconds'):
        open_source(str(tmp_path), pose_offset='auto')


def test_numbered_images_come_in_natural_order(tmp_path):
    for i in range(12):
        write_rgb(tmp_path / f'frame{i}.png', np.full((40, 50, 3), 10 * i, np.uint8))
    values = [frame.image[0, 0, 0] for frame in open_source(str(tmp_path)).frames()]
    assert values == [10 * i for i in range(12)]


@pytest.mark.parametrize('suffix', ['avif', 'webp', 'tiff'])
def test_folders_of_every_format_that_predict_reads_are_recordings(tmp_path, suffix):
    for i in range(2):
        Image.fromarray(pattern(i)).save(tmp_path / f'{i}.{suffix}', quality=95)
    frames = list(open_source(str(tmp_path)).frames())
    assert np.abs(frames[1].image.astype(int) - pattern(1)).mean() < 8


# --- TUM and friends -----------------------------------------------------------------------------


def test_a_missing_depth_scale_is_that_of_tum_and_said(tmp_path):
    write_tum(tmp_path, camera={'note': 'mine'})
    source = open_source(str(tmp_path), level=False)
    assert_is_whole(source)
    assert '5000' in source.note


def test_the_mirrored_camera_of_icl_nuim_shows_the_same_scene(tmp_path):
    mirror = np.diag([1.0, -1, 1, 1])
    write_tum(tmp_path, camera={'fy': -K.fy, 'depth_scale': 5000})
    rows = [
        f'{seconds(START_NS + i * STEP_NS)} {row_of(mirror @ pose_of(i) @ mirror)}'
        for i in range(N)
    ]
    (tmp_path / 'groundtruth.txt').write_text('\n'.join(rows))
    source = open_source(str(tmp_path), level=False)
    assert_is_whole(source)
    assert 'negative fy' in source.note
    assert next(source.frames()).intrinsics.fy == K.fy


def matrix_text(pose):
    return '\n'.join(' '.join(f'{v:.9f}' for v in row) for row in pose)


def write_seven_scenes(folder):
    for i in range(N):
        stem = folder / f'frame-{i:06d}'
        image = cv2.resize(pattern(i), (640, 480))
        write_rgb(stem.with_suffix('.color.png'), image)
        write_depth(stem.with_suffix('.depth.png'), i, size=(640, 480))
        stem.with_suffix('.pose.txt').write_text(matrix_text(pose_of(i)))
    return Intrinsics(585, 585, 320, 240, 640, 480)


def write_scannet(folder):
    (folder / 'intrinsic').mkdir(parents=True)
    k = np.eye(4)
    k[:3, :3] = K.resized(320, 240).matrix
    (folder / 'intrinsic/intrinsic_color.txt').write_text(matrix_text(k))
    (folder / 'pose').mkdir()
    for i in range(N):
        write_rgb(folder / f'color/{i}.jpg', cv2.resize(pattern(i), (320, 240)))
        write_depth(folder / f'depth/{i}.png', i)
        (folder / f'pose/{i}.txt').write_text(matrix_text(pose_of(i)))
    return K  # at the resolution of the depth


def write_replica(folder):
    rows = []
    for i in range(N):
        write_rgb(folder / f'results/frame{i:06d}.jpg', pattern(i))
        write_depth(folder / f'results/depth{i:06d}.png', i, 6553.5)
        rows.append(' '.join(f'{v:.9f}' for v in pose_of(i).ravel()))
    (folder / 'traj.txt').write_text('\n'.join(rows))
    camera = {'w': 160, 'h': 120, 'fx': K.fx, 'fy': K.fy, 'cx': K.cx, 'cy': K.cy, 'scale': 6553.5}
    (folder / 'cam_params.json').write_text(json.dumps({'camera': camera}))
    return K


def write_nerfstudio(folder):
    frames = []
    for i in reversed(range(N)):
        write_rgb(folder / f'images/{i}.png', pattern(i))
        write_depth(folder / f'depth/{i}.png', i)
        frames.append(
            {
                'file_path': f'images/{i}.png',
                'depth_file_path': f'depth/{i}.png',
                'transform_matrix': (pose_of(i) @ GRAPHICS).tolist(),
            }
        )
    camera = {'w': 160, 'h': 120, 'fl_x': K.fx, 'fl_y': K.fy, 'cx': K.cx + 0.5, 'cy': K.cy + 0.5}
    (folder / 'transforms.json').write_text(json.dumps({**camera, 'frames': frames}))
    return K


Y_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])


def write_polycam(folder):
    for i in range(N):
        name = 10**9 + i * 10**5
        write_depth(folder / f'keyframes/depth/{name}.png', i, size=(80, 60))
        write_rgb(folder / f'keyframes/images/{name}.jpg', pattern(i))
        pose = Y_UP @ pose_of(i) @ GRAPHICS
        camera = {'fx': K.fx, 'fy': K.fy, 'cx': K.cx, 'cy': K.cy, 'width': 160, 'height': 120}
        camera |= {f't_{r}{c}': pose[r, c] for r in range(3) for c in range(4)}
        file = folder / f'keyframes/cameras/{name}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(camera))
    return K.resized(80, 60)


def write_exr(path, planes):
    """Rows without compression, of channels by name (https://openexr.com, File Layout)."""
    names = sorted(planes)
    height, width = planes[names[0]].shape

    def attribute(name, kind, data):
        return b'%b\0%b\0' % (name.encode(), kind.encode()) + struct.pack('<i', len(data)) + data

    kinds = {np.dtype('<f2'): 1, np.dtype('<f4'): 2}
    channels = b''.join(
        name.encode() + b'\0' + struct.pack('<iB3xii', kinds[planes[name].dtype], 0, 1, 1)
        for name in names
    )
    box = struct.pack('<4i', 0, 0, width - 1, height - 1)
    head = (
        struct.pack('<ii', 20000630, 2)
        + attribute('channels', 'chlist', channels + b'\0')
        + attribute('compression', 'compression', b'\0')
        + attribute('dataWindow', 'box2i', box)
        + attribute('displayWindow', 'box2i', box)
        + attribute('lineOrder', 'lineOrder', b'\0')
        + attribute('pixelAspectRatio', 'float', struct.pack('<f', 1))
        + attribute('screenWindowCenter', 'v2f', bytes(8))
        + attribute('screenWindowWidth', 'float', struct.pack('<f', 1))
        + b'\0'
    )
    rows = [b''.join(planes[name][y].tobytes() for name in names) for y in range(height)]
    starts = np.cumsum([len(head) + 8 * height, *(8 + len(row) for row in rows[:-1])])
    lines = [struct.pack('<ii', y, len(row)) + row for y, row in enumerate(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + starts.astype('<u8').tobytes() + b''.join(lines))


def write_record3d(folder, channels='', kind='<f4'):
    """Depth is PNG, or OpenEXR with these channels, of which the first is depth."""
    poses = []
    for i in range(N):
        write_rgb(folder / f'rgb/{i}.jpg', pattern(i))
        if channels:
            depth = depth_of(i)[:60, :80].astype(kind)
            write_exr(folder / f'depth/{i}.exr', {c: depth + 9 * (c != 'R') for c in channels})
        else:
            write_depth(folder / f'depth/{i}.png', i, size=(80, 60))
        pose = Y_UP @ pose_of(i) @ GRAPHICS
        w, *vector = map(float, se3.quat_from_matrix(pose[:3, :3]))
        poses.append([*vector, w, *pose[:3, 3]])
    about = {'w': 160, 'h': 120, 'K': K.matrix.T.ravel().tolist(), 'fps': 10, 'poses': poses}
    (folder / 'metadata.json').write_text(json.dumps(about))
    return K.resized(80, 60)


@pytest.mark.parametrize('channels', ['R', 'RGB', 'RGBA'])
@pytest.mark.parametrize('kind', ['<f4', '<f2'])
def test_depth_in_openexr_is_read_in_metres(tmp_path, channels, kind):
    write_record3d(tmp_path, channels, kind)
    source = open_source(str(tmp_path))
    for i, frame in enumerate(source.frames()):
        np.testing.assert_allclose(frame.depth, depth_of(i)[:60, :80], atol=1e-3)
    assert source.stock.frames == N
    assert losses(source) == []


@pytest.mark.parametrize('harm', [b'', b'v/1\1', b'nothing at all'])
def test_a_damaged_openexr_file_costs_one_frame(tmp_path, harm):
    write_record3d(tmp_path, 'R')
    (tmp_path / 'depth/1.exr').write_bytes(harm)
    source = open_source(str(tmp_path))
    assert len(list(source.frames())) == N - 1
    assert source.stock.skipped == {'bad_depth': 1}


def test_images_of_record3d_have_their_own_times(tmp_path):
    write_record3d(tmp_path)  # which says 10 frames a second
    steps = [frame.stamp_ns for frame in open_source(str(tmp_path)).frames()]
    assert steps == [i * 100_000_000 for i in range(N)]
    about = json.loads((tmp_path / 'metadata.json').read_text())
    for stamps, used in (([0.0, 0.1, 0.3, 0.4, 2.0], True), ([0.0, 0.1, 0.1, 0.2, 0.3], False)):
        about['frameTimestamps'] = stamps
        (tmp_path / 'metadata.json').write_text(json.dumps(about))
        frames = list(open_source(str(tmp_path)).frames())
        expected = stamps if used else [i / 30 for i in range(N)]
        assert [f.stamp_ns for f in frames] == [round(t * 1e9) for t in expected]
        assert all(f.depth is not None and f.T_world_camera is not None for f in frames)


@pytest.mark.parametrize(
    'write',
    [
        write_seven_scenes,
        write_scannet,
        write_replica,
        write_nerfstudio,
        write_polycam,
        write_record3d,
    ],
)
def test_layouts_of_others_are_read_with_depth_pose_and_calibration(tmp_path, write):
    folder = tmp_path / 'scan'
    folder.mkdir()
    k = write(folder)
    source = open_source(str(folder), level=False)
    frames = list(source.frames())
    assert len(frames) == N
    for i, frame in enumerate(frames):
        assert frame.image.shape == (k.height, k.width, 3)
        shown = cv2.resize(pattern(i), (k.width, k.height), interpolation=cv2.INTER_AREA)
        assert np.abs(frame.image.astype(int) - shown).mean() < 8
        np.testing.assert_allclose(frame.intrinsics.matrix, k.matrix, atol=1e-6)
        np.testing.assert_allclose(frame.depth, depth_of(i)[0, 0], atol=2e-3)
        np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-6)
    assert losses(source) == []


def colmap_poses():
    for i in range(N):
        T = se3.inverse(pose_of(i))
        yield i, se3.quat_from_matrix(T[:3, :3]), T[:3, 3]


def write_colmap_text(folder, distortion=()):
    (folder / 'sparse/0').mkdir(parents=True)
    model = 'OPENCV' if distortion else 'PINHOLE'
    values = (K.fx, K.fy, K.cx + 0.5, K.cy + 0.5, *distortion)
    (folder / 'sparse/0/cameras.txt').write_text(
        f'# cameras\n7 {model} 160 120 {" ".join(map(str, values))}\n'
    )
    lines = ['# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME']
    for i, q, t in colmap_poses():
        write_rgb(folder / f'images/{i} a.png', pattern(i))
        lines += [f'{i + 1} {" ".join(map(str, (*q, *t)))} 7 {i} a.png', '1.5 2.5 -1' * (i % 2)]
    (folder / 'sparse/0/images.txt').write_text('\n'.join(lines) + '\n')
    return K


def write_colmap_binary(folder):
    (folder / 'sparse').mkdir()
    values = (K.fx, K.cx + 0.5, K.cy + 0.5)
    camera = struct.pack('<QiiQQ3d', 1, 7, 0, 160, 120, *values)
    (folder / 'sparse/cameras.bin').write_bytes(camera)
    data = struct.pack('<Q', N)
    for i, q, t in colmap_poses():
        write_rgb(folder / f'images/{i}.png', pattern(i))
        data += struct.pack('<i7di', i + 1, *q, *t, 7) + f'{i}.png'.encode() + b'\0'
        data += struct.pack('<Q', i) + bytes(24 * i)
    (folder / 'sparse/images.bin').write_bytes(data)
    return replace(K, fy=K.fx)


@pytest.mark.parametrize('write', [write_colmap_text, write_colmap_binary])
def test_sparse_models_of_colmap_give_poses_and_calibration(tmp_path, write):
    k = write(tmp_path)
    frames = list(open_source(str(tmp_path), level=False).frames())
    assert len(frames) == N
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(frame.intrinsics.matrix, k.matrix, atol=1e-9)
        np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-9)
        assert frame.unseen is None


def test_distorted_images_of_colmap_are_rectified(tmp_path):
    write_colmap_text(tmp_path, (-0.2, 0.05, 0.0, 0.0))
    source = open_source(str(tmp_path), level=False)
    frame = next(source.frames())
    assert not np.array_equal(frame.image, pattern(0))  # straightened
    np.testing.assert_allclose(frame.T_world_camera, pose_of(0), atol=1e-9)
    assert losses(source) == []


@pytest.mark.parametrize(
    ('file', 'data', 'words'),
    [
        ('images.bin', b'\x05' + bytes(40), 'images.bin ends early'),
        ('images.bin', struct.pack('<Q', 1) + bytes(64) + b'abc', 'images.bin ends early'),
    ],
)
def test_damaged_models_of_colmap_are_named(tmp_path, file, data, words):
    write_colmap_binary(tmp_path)
    (tmp_path / 'sparse' / file).write_bytes(data)
    with pytest.raises(InputError, match=words):
        open_source(str(tmp_path))


@pytest.mark.parametrize('model', [9, -1])
def test_cameras_of_colmap_without_an_equal_are_named(tmp_path, model):
    write_colmap_binary(tmp_path)
    (tmp_path / 'sparse/cameras.bin').write_bytes(struct.pack('<QiiQQ', 1, 7, model, 160, 120))
    source = open_source(str(tmp_path), level=False)
    assert f'model {model}' in losses(source)[0]


def test_a_pose_that_tracking_lost_is_skipped_and_named(tmp_path):
    write_scannet(tmp_path)
    (tmp_path / 'pose/2.txt').write_text('\n'.join(['-inf -inf -inf -inf'] * 4))
    source = open_source(str(tmp_path))
    placed = [frame.T_world_camera is not None for frame in source.frames()]
    assert placed == [True, True, False, True, True]
    assert '2.txt' in losses(source)[0]


def write_euroc(path):
    cam = path / 'mav0/cam0'
    cam.mkdir(parents=True)
    T_body_cam = se3.look_at(np.array([0.1, 0, 0]), np.array([1.0, 0.2, 0]), np.array([0, 0, 1.0]))
    rows, truth = ['#timestamp [ns],filename'], ['#timestamp, p_RS_R_x [m], ...']
    for i in range(N):
        ns = 1403636579763555584 + i * 50_000_000
        write_rgb(cam / 'data' / f'{ns}.png', pattern(i))
        rows.append(f'{ns},{ns}.png')
        body = pose_of(i) @ se3.inverse(T_body_cam)
        w, x, y, z = se3.quat_from_matrix(body[:3, :3])
        truth.append(','.join(f'{v:.9f}' for v in (*body[:3, 3], w, x, y, z, 0, 0, 0)))
        truth[-1] = f'{ns},{truth[-1]}'
    (cam / 'data.csv').write_text('\n'.join(rows))
    (cam / 'sensor.yaml').write_text(
        '%YAML:1.0\nT_BS:\n  cols: 4\n  rows: 4\n'
        f'  data: {T_body_cam.ravel().tolist()}\nresolution: [160, 120]\n'
        f'intrinsics: [{K.fx}, {K.fy}, {K.cx}, {K.cy}]\n'
        'distortion_model: radial-tangential\ndistortion_coefficients: [-0.28, 0.07, 0, 0]\n'
    )
    folder = path / 'mav0/state_groundtruth_estimate0'
    folder.mkdir()
    (folder / 'data.csv').write_text('\n'.join(truth))


def test_euroc_is_read_with_its_distortion_and_the_pose_of_its_body(tmp_path):
    write_euroc(tmp_path)
    source = open_source(str(tmp_path))
    frames = list(source.frames())
    assert [f.stamp_ns for f in frames] == [1403636579763555584 + i * 50_000_000 for i in range(N)]
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(frame.T_world_camera, pose_of(i), atol=1e-6)
        np.testing.assert_allclose(frame.intrinsics.matrix, K.matrix)
    x, y = np.array([0.3]), np.array([0.2])  # a ray, and where the raw image shows it
    r2 = x * x + y * y
    bent = 1 - 0.28 * r2 + 0.07 * r2 * r2
    raw = pattern(0)[round(float(K.cy + K.fy * y[0] * bent[0])), :, 0]
    there = raw[round(float(K.cx + K.fx * x[0] * bent[0]))]
    seen = frames[0].image[round(K.cy + K.fy * y[0]), round(K.cx + K.fx * x[0]), 0]
    assert abs(int(seen) - int(there)) <= 2
    assert losses(source) == []


# --- video ---------------------------------------------------------------------------------------


def write_video(path, times, size=(160, 120), codec='libx264', ticks=90000):
    """Frames at these times, seconds."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, 'yuv420p'
        stream.codec_context.time_base = stream.time_base = Fraction(1, ticks)
        for i, time in enumerate(times):
            image = cv2.resize(pattern(i % 8), size)
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            frame.pts, frame.time_base = round(time * ticks), Fraction(1, ticks)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize('suffix', ['mp4', 'mkv'])
def test_video_of_variable_rate_has_its_own_times(tmp_path, suffix):
    times = [0.0, 0.02, 0.05, 0.4, 0.45, 1.7, 1.72, 2.5]
    source = open_source(str(write_video(tmp_path / f'a.{suffix}', times)))
    stamps = [frame.stamp_ns / 1e9 for frame in source.frames()]
    np.testing.assert_allclose(stamps, times, atol=0.001)  # mkv counts milliseconds
    assert losses(source) == []


def test_a_cut_video_says_how_many_of_its_frames_could_be_read(tmp_path):
    times = np.arange(200) / 25
    path = write_video(tmp_path / 'a.avi', times, codec='mpeg4', ticks=25)
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    source = open_source(str(path))
    frames = list(source.frames())
    assert 20 < len(frames) < 190
    assert losses(source)
    assert f'{len(frames)} of ' in ' '.join(losses(source))


@pytest.mark.parametrize('share', [0.6, 1.0])
def test_a_cut_video_that_does_not_count_its_frames_says_how_many_seconds(tmp_path, share):
    path = write_video(tmp_path / 'a.mkv', np.arange(200) / 25)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    source = open_source(str(path))
    frames = list(source.frames())
    if share == 1:
        assert len(frames) == 200
        assert losses(source) == []
    else:
        last = frames[-1].stamp_ns / 1e9
        assert 2 < last < 7
        assert f'{len(frames)} frames could be decoded, {last:.1f} of 8.0 s' in losses(source)[0]


def test_a_video_without_its_index_names_what_recovers_it(tmp_path):
    path = write_video(tmp_path / 'a.mp4', [i / 30 for i in range(30)])
    path.write_bytes(path.read_bytes()[: int(0.5 * path.stat().st_size)])
    with pytest.raises(InputError, match='untrunc'):
        open_source(str(path))


def write_sound(path):
    """One second of silence."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('aac', rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), 'fltp', 'mono')
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_file_with_sound_alone_is_no_video(tmp_path):
    path = write_sound(tmp_path / 'a.mp4')
    with pytest.raises(InputError, match='audio but no video'):
        open_source(str(path))


def test_an_animated_gif_gives_all_its_frames(tmp_path):
    images = [Image.fromarray(pattern(i)) for i in range(4)]
    images[0].save(tmp_path / 'a.gif', save_all=True, append_images=images[1:], duration=200)
    stamps = [frame.stamp_ns for frame in open_source(str(tmp_path / 'a.gif')).frames()]
    assert stamps == [0, 200_000_000, 400_000_000, 600_000_000]


@pytest.mark.parametrize('size', [(90, 160), (160, 90), (160, 120)])
def test_the_assumed_focal_length_is_that_of_predict_however_the_camera_is_held(tmp_path, size):
    write_rgb(tmp_path / 'photo/a.png', cv2.resize(pattern(0), size))
    video = write_video(tmp_path / 'a.mp4', [0.0, 0.1], size=size)
    with Bag(tmp_path / 'bag') as bag:
        bag.image('/image', cv2.resize(pattern(0), size), START_NS, 'rgb8')
    args = argparse.Namespace(hfov=None, focal_px=None)
    expected, origin = predicted_intrinsics(size, None, args)
    assert 'assumed' in origin
    for path in (tmp_path / 'photo', video, tmp_path / 'bag'):
        source = open_source(str(path))
        intrinsics = next(source.frames()).intrinsics
        np.testing.assert_allclose(intrinsics.matrix, expected.matrix)
        assert '30 mm' in source.note


@pytest.mark.parametrize('size', [(1, 1), (4000, 30)])
def test_images_too_small_to_mean_anything_are_refused(tmp_path, size):
    write_rgb(tmp_path / 'a.png', np.zeros((size[1], size[0], 3), np.uint8))
    source = open_source(str(tmp_path))
    with pytest.raises(InputError, match='could be read'):
        list(source.frames())
    assert source.stock.skipped == {'image_too_small': 1}


def test_a_photo_of_another_package_names_it(tmp_path, monkeypatch):
    """The head of a HEIC file is enough to tell; without pillow-heif no more of it is read."""
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    for i, brand in enumerate((b'heic', b'mif1')):
        (tmp_path / f'{i}.heic').write_bytes(b'\0\0\0\x18ftyp' + brand + bytes(99))
    with pytest.raises(InputError, match='pip install pillow-heif'):
        list(open_source(str(tmp_path)).frames())


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('a.r3d', 'EXR_RGBD'),
        ('a.zip', 'unpack it'),
        ('a.bag.gz', 'unpack it'),
        ('a.mov', 'ffmpeg -i'),
    ],
)
def test_files_that_are_no_video_are_named_with_what_helps(tmp_path, name, words):
    (tmp_path / name).write_bytes(b'PK\3\4' * 99)
    with pytest.raises(InputError, match=words):
        open_source(str(tmp_path / name))


def test_a_folder_around_what_was_meant_names_it(tmp_path):
    write_record3d(tmp_path / 'EXR_RGBD')
    (tmp_path / 'notes.txt').touch()
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match=r'give \S*/EXR_RGBD$'):
        open_source(str(tmp_path))
    write_video(tmp_path / 'a.mp4', [0.0, 0.1])
    with pytest.raises(InputError, match=r'give \S*/a.mp4 or \S*/EXR_RGBD$'):
        open_source(str(tmp_path))


@pytest.mark.parametrize(('a', 'b'), [(0, 1), (0, -1), (-1, 0)])
def test_a_video_that_was_held_upright_comes_as_players_turn_it(tmp_path, a, b):
    path = write_video(tmp_path / 'a.mp4', [0.0, 0.1, 0.2])
    data = bytearray(path.read_bytes())
    at = data.index(b'tkhd') + 4 + 40  # the matrix of the track (ISO/IEC 14496-12)
    matrix = [a, b, 0, -b, a, 0, 0, 0]
    data[at : at + 36] = struct.pack('>8iI', *(v << 16 for v in matrix), 1 << 30)
    path.write_bytes(data)
    capture = cv2.VideoCapture(str(path))  # which turns by itself
    frames = list(open_source(str(path)).frames())
    assert frames[0].image.shape == ((160, 120, 3) if b else (120, 160, 3))
    for frame in frames:
        expected = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
        assert np.abs(frame.image.astype(int) - expected).mean() < 3
    assert np.abs(frames[0].image[::-1].astype(int) - frames[0].image).mean() > 20
