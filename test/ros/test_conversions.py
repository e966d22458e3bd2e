from __future__ import annotations

import array
from collections.abc import Callable
import json
import math
import struct
from types import SimpleNamespace
from typing import Any

import cv2
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import numpy as np
import pytest

pytest.importorskip('sensor_msgs', reason='needs the ROS message packages')

from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField

from sharp_ros import se3
from sharp_ros.camera import Intrinsics
from sharp_ros.config import CameraConfig
from sharp_ros.errors import InputError
from sharp_ros.rectification import CameraModel, Rectifier
from sharp_ros.ros import conversions
from sharp_ros.ros.conversions import compressed_from_msg, depth_from_msg, image_from_msg
from sharp_ros.ros.decoding import FrameDecoder, RawFrame

pytestmark = pytest.mark.ros

STAMP = 1_700_000_123_987_654_321
WIDTH, HEIGHT = 16, 12

# --- pictures and their encodings, by definition ----------------------------------------------


def blocky_picture() -> np.ndarray:
    """[H, W, 3] uint8 whose colour changes every two pixels and whose brightness at each."""
    rng = np.random.default_rng(0)
    colour = rng.integers(40, 216, (HEIGHT // 2, WIDTH // 2, 3)).repeat(2, 0).repeat(2, 1)
    return (colour + rng.integers(-40, 40, (HEIGHT, WIDTH, 1))).astype(np.uint8)


def smooth_picture() -> np.ndarray:
    """[H, W, 3] uint8 of three different linear ramps, which demosaicing reproduces."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.dstack([20 + 8 * x, 230 - 10 * y, 60 + 4 * x + 6 * y]).astype(np.uint8)


def yuv_planes(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """BT.601 with Y in 16..235 and Cb, Cr in 16..240 (ITU-R BT.601-7, 2.5)."""
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    y = 16 + 65.481 * r + 128.553 * g + 24.966 * b
    cb = 128 - 37.797 * r - 74.203 * g + 112.0 * b
    cr = 128 + 112.0 * r - 93.786 * g - 18.214 * b
    return tuple(np.rint(plane).astype(np.uint8) for plane in (y, cb, cr))


def interleave(*columns: np.ndarray) -> np.ndarray:
    return np.stack(columns, -1).reshape(columns[0].shape[0], -1)


def packed_422(rgb: np.ndarray, luma_first: bool) -> np.ndarray:
    y, cb, cr = yuv_planes(rgb)
    u, v = cb[:, ::2], cr[:, ::2]
    y0, y1 = y[:, ::2], y[:, 1::2]
    return interleave(y0, u, y1, v) if luma_first else interleave(u, y0, v, y1)


def semiplanar_420(rgb: np.ndarray, v_first: bool) -> np.ndarray:
    y, cb, cr = yuv_planes(rgb)
    u, v = cb[::2, ::2], cr[::2, ::2]
    return np.vstack([y, interleave(v, u) if v_first else interleave(u, v)])


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    out = np.empty(rgb.shape[:2], rgb.dtype)
    for i, letter in enumerate(pattern):
        part = np.s_[i // 2 :: 2, i % 2 :: 2]
        out[part] = rgb[(*part, 'rgb'.index(letter))]
    return out


def with_alpha(image: np.ndarray) -> np.ndarray:
    return np.dstack([image, np.full(image.shape[:2], 77, image.dtype)])


ENCODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'rgb8': lambda rgb: rgb,
    'bgr8': lambda rgb: rgb[..., ::-1],
    'rgba8': with_alpha,
    'bgra8': lambda rgb: with_alpha(rgb[..., ::-1]),
    'mono8': lambda rgb: rgb[..., 0],
    '8UC1': lambda rgb: rgb[..., 0],
    '8UC3': lambda rgb: rgb[..., ::-1],
    '8UC4': lambda rgb: with_alpha(rgb[..., ::-1]),
    'uyvy': lambda rgb: packed_422(rgb, False),
    'yuv422': lambda rgb: packed_422(rgb, False),
    'yuyv': lambda rgb: packed_422(rgb, True),
    'yuv422_yuy2': lambda rgb: packed_422(rgb, True),
    'nv12': lambda rgb: semiplanar_420(rgb, False),
    'nv21': lambda rgb: semiplanar_420(rgb, True),
    **{
        f'bayer_{pattern}8': lambda rgb, pattern=pattern: mosaic(rgb, pattern)
        for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')
    },
}
for name in ('rgb', 'bgr', 'rgba', 'bgra', 'mono', *(f'bayer_{p}' for p in conversions._BAYER)):
    ENCODERS[f'{name}16'] = lambda rgb, encode=ENCODERS[f'{name}8']: (
        encode(rgb).astype(np.uint16) * 257 + 97  # not the same in both byte orders
    )


def image_msg(
    encoded: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False
) -> Image:
    """A message of HEIGHT x WIDTH pixels whose rows end in `padding` bytes of rubbish."""
    if encoded.dtype.itemsize > 1:
        encoded = encoded.astype(encoded.dtype.newbyteorder('>' if big_endian else '<'))
    rows = np.ascontiguousarray(encoded).reshape(encoded.shape[0], -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)
    return Image(
        height=HEIGHT,
        width=WIDTH,
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=int(big_endian),
        data=array.array('B', rows.tobytes()),
    )


def expected_picture(encoding: str) -> tuple[np.ndarray, np.ndarray, int, int]:
    """What goes in, what must come out, how many levels may differ, and the border left out."""
    if encoding.startswith('bayer'):
        rgb = smooth_picture()
        return rgb, rgb, 1, 2
    rgb = blocky_picture()
    if encoding.startswith('mono') or encoding == '8UC1':
        return rgb, rgb[..., :1].repeat(3, -1), 0, 0
    yuv = encoding.startswith(('yu', 'uy', 'nv'))
    return rgb, rgb, 2 if yuv else 0, 0


@pytest.mark.parametrize('padding', [0, 3, 16])
@pytest.mark.parametrize('encoding', ENCODERS)
def test_every_encoding_gives_the_picture_back(encoding: str, padding: int) -> None:
    source, expected, levels, border = expected_picture(encoding)
    encoded = ENCODERS[encoding](source)
    for big_endian in (False, True):
        image = image_from_msg(image_msg(encoded, encoding, padding, big_endian))
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        inside = np.s_[border : HEIGHT - border, border : WIDTH - border]
        assert np.abs(image.astype(int) - expected)[inside].max() <= levels


@pytest.mark.parametrize('padding', [0, 3])
def test_nv24_has_chroma_rows_of_twice_the_step(padding: int) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    y, cb, cr = yuv_planes(rgb)
    rubbish = np.full((HEIGHT, padding), 0xA5, np.uint8)
    data = [np.hstack([y, rubbish]), np.hstack([interleave(cb, cr), rubbish, rubbish])]
    msg = image_msg(y, 'nv24', padding)
    msg.data = array.array('B', b''.join(plane.tobytes() for plane in data))
    assert np.abs(image_from_msg(msg).astype(int) - rgb).max() <= 2


def test_nv24_agrees_with_opencv_where_both_formats_say_the_same() -> None:
    source = blocky_picture()
    _, cb, cr = yuv_planes(source)
    half = semiplanar_420(source, False)
    chroma = interleave(*(p[::2, ::2].repeat(2, 0).repeat(2, 1) for p in (cb, cr)))
    msg = image_msg(half[:HEIGHT], 'nv24')
    msg.data = array.array('B', half[:HEIGHT].tobytes() + chroma.tobytes())
    nv12 = image_from_msg(image_msg(half, 'nv12'))
    assert np.abs(image_from_msg(msg).astype(int) - nv12).max() <= 1


def test_all_supported_encodings_are_tested() -> None:
    assert set(conversions.SUPPORTED_ENCODINGS) == {*ENCODERS, 'nv24'}


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight() -> None:
    values = np.arange(65536 - HEIGHT * WIDTH, 65536, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    image = image_from_msg(image_msg(values, 'mono16'))
    assert np.abs(image[..., 0] - values / 257).max() <= 0.5
    assert image.max() == 255


@pytest.mark.parametrize('hold', [bytes, bytearray, lambda b: np.frombuffer(b, np.uint8)])
def test_data_of_other_libraries_are_read_like_those_of_rclpy(hold: Callable) -> None:
    rgb = blocky_picture()
    msg = SimpleNamespace(
        width=WIDTH, height=HEIGHT, encoding='bgr8', step=WIDTH * 3, is_bigendian=0,
        data=hold(rgb[..., ::-1].tobytes()),
    )  # fmt: skip
    assert np.array_equal(image_from_msg(msg), rgb)


def test_unaligned_depth_is_read() -> None:
    depth = np.random.default_rng(0).uniform(0, 9, (HEIGHT, WIDTH)).astype(np.float32)
    whole = np.frombuffer(b'\0' + depth.tobytes(), np.uint8)
    msg = SimpleNamespace(
        width=WIDTH, height=HEIGHT, encoding='32FC1', step=WIDTH * 4, is_bigendian=0,
        data=whole[1:],
    )  # fmt: skip
    assert np.array_equal(depth_from_msg(msg), depth)


def test_rgb8_is_not_copied() -> None:
    msg = image_msg(blocky_picture(), 'rgb8')
    assert np.shares_memory(image_from_msg(msg), np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'width': 0}, 'bad_image_size'),
        ({'height': 0}, 'bad_image_size'),
        ({'step': 0}, 'bad_data_length'),
        ({'step': WIDTH * 3 - 1}, 'bad_data_length'),
        ({'width': WIDTH + 1}, 'bad_data_length'),
        ({'height': HEIGHT + 1}, 'bad_data_length'),
        ({'height': HEIGHT - 1}, 'bad_data_length'),
        ({'data': array.array('B')}, 'bad_data_length'),
        ({'data': array.array('B', bytes(WIDTH * HEIGHT * 3 - 1))}, 'bad_data_length'),
        ({'encoding': 'rgba8'}, 'bad_data_length'),
        ({'encoding': 'rgb10'}, 'unknown_encoding'),
        ({'encoding': ''}, 'unknown_encoding'),
    ],
)
def test_broken_image_is_refused(changes: dict[str, Any], reason: str) -> None:
    msg = image_msg(blocky_picture(), 'rgb8')
    for key, value in changes.items():
        setattr(msg, key, value)
    with pytest.raises(InputError) as caught:
        image_from_msg(msg)
    assert caught.value.reason == reason


@pytest.mark.parametrize('encoding', ['uyvy', 'yuyv', 'nv12', 'nv21'])
def test_shared_chroma_needs_even_sides(encoding: str) -> None:
    step = 10 if encoding[0] != 'n' else 5
    msg = Image(width=5, height=4, encoding=encoding, step=step)
    msg.data = array.array('B', bytes(step * (4 if encoding[0] != 'n' else 6)))
    with pytest.raises(InputError, match='even') as caught:
        image_from_msg(msg)
    assert caught.value.reason == 'bad_image_size'


def test_unknown_encoding_names_those_that_work() -> None:
    with pytest.raises(InputError, match=r'rgb8.*bayer_rggb8.*yuyv.*nv12'):
        image_from_msg(image_msg(blocky_picture(), 'h264'))


def test_unknown_encoding_goes_to_cv_bridge_when_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rgb = blocky_picture()

    class Bridge:
        def imgmsg_to_cv2(self, msg: Any, encoding: str) -> np.ndarray:
            if msg.encoding != 'exotic':
                raise RuntimeError('unknown here too')
            assert encoding == 'rgb8'
            return rgb

    monkeypatch.setattr(conversions, '_cv_bridge', Bridge)
    assert np.array_equal(image_from_msg(image_msg(rgb, 'exotic')), rgb)
    with pytest.raises(InputError, match='unknown'):
        image_from_msg(image_msg(rgb, 'stranger'))


# --- compressed images ------------------------------------------------------------------------


def compressed(image: np.ndarray, form: str, name: str | None = None) -> CompressedImage:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 100] if form == 'jpg' else []
    data = cv2.imencode(f'.{form}', image, quality)[1].tobytes()
    return CompressedImage(format=name or form, data=array.array('B', data))


@pytest.mark.parametrize('name', ['jpeg', 'bgr8; jpeg compressed bgr8', 'rgb8; jpeg compressed '])
def test_jpeg_is_decoded(name: str) -> None:
    rgb = smooth_picture()
    image = compressed_from_msg(compressed(rgb[..., ::-1], 'jpg', name))
    assert np.abs(image.astype(int) - rgb).mean() < 3  # levels


@pytest.mark.parametrize(
    ('name', 'fed'),
    [
        ('png', 'bgr'),
        ('rgb8; png compressed bgr8', 'bgr'),
        ('bgr8; png compressed bgr8', 'bgr'),
        ('rgb8; png compressed rgb8', 'rgb'),
        ('bgr8; png compressed rgb8', 'rgb'),
    ],
)
def test_channel_order_follows_what_the_encoder_was_fed(name: str, fed: str) -> None:
    rgb = blocky_picture()
    encoded = rgb if fed == 'rgb' else rgb[..., ::-1]
    assert np.array_equal(compressed_from_msg(compressed(encoded, 'png', name)), rgb)


@pytest.mark.parametrize('bits', [8, 16])
def test_compressed_mosaic_gets_its_colours(bits: int) -> None:
    rgb = smooth_picture()
    encoded = ENCODERS[f'bayer_grbg{bits}'](rgb)
    image = compressed_from_msg(compressed(encoded, 'png', f'bayer_grbg{bits}; png compressed '))
    assert np.abs(image.astype(int) - rgb)[2:-2, 2:-2].max() <= 1


def test_grey_png_gets_three_channels() -> None:
    grey = blocky_picture()[..., 0]
    image = compressed_from_msg(compressed(grey, 'png', 'mono8; png compressed '))
    assert np.array_equal(image, grey[..., None].repeat(3, -1))


def test_jpeg_is_not_turned_by_its_exif() -> None:
    exif = b'Exif\0\0MM\0*' + struct.pack('>IHHHIHHI', 8, 1, 0x0112, 3, 1, 6, 0, 0)
    msg = compressed(smooth_picture(), 'jpg')
    data = bytes(msg.data)
    segment = b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif
    msg.data = array.array('B', data[:2] + segment + data[2:])
    assert cv2.imdecode(np.frombuffer(msg.data, np.uint8), 1).shape == (WIDTH, HEIGHT, 3)
    assert compressed_from_msg(msg).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize('form', ['jpg', 'png'])
@pytest.mark.parametrize('lost', [1, 2, 13, 100, 10**9])
def test_truncated_data_are_refused(form: str, lost: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    msg = compressed(noise, form)
    msg.data = msg.data[: max(len(msg.data) - lost, 0)]
    with pytest.raises(InputError, match='complete JPEG or PNG') as caught:
        compressed_from_msg(msg)
    assert caught.value.reason == 'bad_compressed'


# --- depth ------------------------------------------------------------------------------------


@pytest.mark.parametrize('padding', [0, 3])
@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('encoding', ['32FC1', '16UC1', 'mono16'])
def test_depth_is_read_in_metres(encoding: str, padding: int, big_endian: bool) -> None:
    millimetres = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH))
    metres = (millimetres / 1000).astype(np.float32)
    encoded = metres if encoding == '32FC1' else millimetres.astype(np.uint16)
    depth = depth_from_msg(image_msg(encoded, encoding, padding, big_endian))
    assert depth.dtype == np.float32
    assert np.abs(depth - metres).max() < 1e-5  # m


def test_other_depth_encodings_are_refused() -> None:
    with pytest.raises(InputError, match='32FC1') as caught:
        depth_from_msg(image_msg(blocky_picture(), 'rgb8'))
    assert caught.value.reason == 'unknown_encoding'


def test_depth_round_trip_marks_what_is_invalid() -> None:
    depth = np.random.default_rng(0).uniform(0.1, 9, (HEIGHT, WIDTH)).astype(np.float32)
    depth[0, :5] = 0, np.nan, -1, -np.inf, np.inf
    msg = conversions.depth_to_msg(depth, STAMP, 'camera_optical_frame')
    assert (msg.encoding, msg.width, msg.height, msg.step) == ('32FC1', WIDTH, HEIGHT, WIDTH * 4)
    back = depth_from_msg(msg)
    assert np.isnan(back[0, :3]).all()
    np.testing.assert_array_equal(back[0, 3:5], [-np.inf, np.inf])
    assert np.array_equal(back[1:], depth[1:])


# --- camera info, poses, headers --------------------------------------------------------------


@pytest.mark.parametrize('stamp', [0, 1, 999_999_999, 10**9, STAMP])
def test_stamp_round_trip_is_exact(stamp: int) -> None:
    header = conversions.header_to_msg(stamp, 'camera')
    assert conversions.stamp_ns_from_msg(header) == stamp
    assert header.frame_id == 'camera'


def test_camera_info_round_trip() -> None:
    intrinsics = Intrinsics(500.25, 510, 331, 236.125, 640, 480)
    msg = conversions.camera_info_to_msg(intrinsics, STAMP, 'camera')
    assert conversions.stamp_ns_from_msg(msg.header) == STAMP
    assert (msg.header.frame_id, list(msg.d)) == ('camera', [0.0] * 5)
    assert list(msg.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert list(msg.p) == [500.25, 0, 331, 0, 0, 510, 236.125, 0, 0, 0, 1, 0]
    model = conversions.camera_model_from_msg(msg)
    for rectified in (False, True):
        assert Rectifier(model, rectified, 0.0, (640, 480)).intrinsics == intrinsics


def test_camera_info_of_ros_1_and_2_mean_the_same() -> None:
    k, d, p = [float(i) for i in range(1, 10)], [0.1, 0.2, 0.3, 0.4], [float(i) for i in range(12)]
    roi = SimpleNamespace(x_offset=1, y_offset=2, width=30, height=20, do_rectify=False)
    common = {
        'width': 64, 'height': 48, 'distortion_model': 'equidistant', 'binning_x': 0,
        'binning_y': 2, 'roi': roi,
    }  # fmt: skip
    r = list(np.eye(3).ravel())
    expected = CameraModel(
        64, 48, tuple(k), tuple(d), tuple(r), tuple(p), 'equidistant', 0, 2, (1, 2, 30, 20)
    )
    ros_1 = SimpleNamespace(K=np.array(k), D=np.array(d), R=r, P=p, **common)
    ros_2 = SimpleNamespace(k=np.array(k), d=np.array(d), r=r, p=p, **common)
    assert conversions.camera_model_from_msg(ros_1) == expected
    assert conversions.camera_model_from_msg(ros_2) == expected
    ros_2.k = k[:4]
    with pytest.raises(InputError, match='9, 9 and 12') as caught:
        conversions.camera_model_from_msg(ros_2)
    assert caught.value.reason == 'bad_camera_info'


def test_decoded_frames_say_which_pixels_no_ray_reached() -> None:
    info = conversions.camera_info_to_msg(Intrinsics(60, 60, 31.5, 23.5, 64, 48), STAMP, 'camera')
    info.d = [0.4, 0.0, 0.0, 0.0, 0.0]  # pincushion: the corners lie beyond the raw image
    white = Image(width=64, height=48, encoding='rgb8', step=192, data=bytes([255]) * 9216)
    frame = FrameDecoder(CameraConfig()).decode(RawFrame(white, info))
    assert frame.unseen is not None
    assert frame.unseen[0, 0]
    assert not frame.unseen[20:28, 28:36].any()
    assert (frame.image[~frame.unseen] == 255).all()


def test_empty_camera_info_is_uncalibrated() -> None:
    model = conversions.camera_model_from_msg(CameraInfo())
    with pytest.raises(InputError, match='uncalibrated'):
        Rectifier(model, False, 0.0, (640, 480))


def test_odometry_round_trip() -> None:
    pose = se3.look_at(np.array([1.0, -2, 0.5]), np.array([3.0, 1, 0.2]), np.array([0.0, 0, 1]))
    msg = conversions.odometry_to_msg(pose, STAMP, 'odom', 'camera')
    assert conversions.stamp_ns_from_msg(msg.header) == STAMP
    stamp, world, child, back = conversions.pose_from_odometry(msg)
    assert (stamp, world, child) == (STAMP, 'odom', 'camera')
    assert np.abs(back - pose).max() < 1e-12


def test_quarter_turn_to_the_left_is_read_as_such() -> None:
    msg = conversions.odometry_to_msg(np.eye(4), STAMP, 'odom', 'base_link')
    msg.pose.pose.orientation.z = msg.pose.pose.orientation.w = math.sqrt(0.5)
    T_odom_base = conversions.pose_from_odometry(msg)[3]
    assert se3.apply(T_odom_base, np.array([1.0, 0, 0])) == pytest.approx((0, 1, 0))


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('part', ['position', 'orientation'])
def test_impossible_pose_is_refused(part: str, value: float) -> None:
    msg = conversions.odometry_to_msg(np.eye(4), STAMP, 'odom', 'camera')
    getattr(msg.pose.pose, part).y = value
    with pytest.raises(InputError) as caught:
        conversions.pose_from_odometry(msg)
    assert caught.value.reason == 'bad_pose'


def test_zero_quaternion_is_refused() -> None:
    msg = conversions.odometry_to_msg(np.eye(4), STAMP, 'odom', 'camera')
    msg.pose.pose.orientation.w = 0.0
    with pytest.raises(InputError, match='quaternion') as caught:
        conversions.pose_from_odometry(msg)
    assert caught.value.reason == 'bad_pose'


# --- images, clouds, grids, diagnostics out ---------------------------------------------------


def test_image_round_trip() -> None:
    rgb = blocky_picture()
    for image in (rgb, rgb[:, ::-1], np.asfortranarray(rgb)):
        msg = conversions.image_to_msg(image, STAMP, 'camera')
        assert (msg.encoding, msg.step, msg.is_bigendian) == ('rgb8', WIDTH * 3, 0)
        assert conversions.stamp_ns_from_msg(msg.header) == STAMP
        assert np.array_equal(image_from_msg(msg), image)


def test_organised_cloud_has_the_shape_of_the_image() -> None:
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32)
    xyz[3, 4] = np.nan
    rgb = blocky_picture()
    cloud = np.empty((HEIGHT, WIDTH, 4), np.float32)
    cloud[..., :3] = xyz
    cloud.view(np.uint32)[..., 3] = rgb.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    msg = conversions.cloud_to_msg(cloud, STAMP, 'camera')
    assert conversions.stamp_ns_from_msg(msg.header) == STAMP
    assert (msg.width, msg.height, msg.point_step) == (WIDTH, HEIGHT, 16)
    assert msg.row_step == msg.point_step * msg.width
    assert len(msg.data) == msg.row_step * msg.height
    assert (msg.is_dense, msg.is_bigendian) == (False, False)
    assert [(f.name, f.offset, f.datatype, f.count) for f in msg.fields] == [
        (name, 4 * i, PointField.FLOAT32, 1) for i, name in enumerate(('x', 'y', 'z', 'rgb'))
    ]
    data = bytes(msg.data)
    for row, column in ((0, 0), (0, 7), (5, 0), (HEIGHT - 1, WIDTH - 1), (3, 4)):
        at = row * msg.row_step + column * msg.point_step
        assert np.array_equal(
            struct.unpack_from('<fff', data, at), xyz[row, column], equal_nan=True
        )
        b, g, r, unused = struct.unpack_from('<4B', data, at + 12)
        assert ((r, g, b), unused) == (tuple(rgb[row, column]), 0)


def test_snapshot_round_trip_has_the_fields_of_point_xyz_rgb_normal() -> None:
    from sharp_ros.snapshot import SnapshotCloud

    rng = np.random.default_rng(0)
    points, normals = rng.normal(size=(2, 50, 3)).astype(np.float32)
    colors = rng.integers(0, 256, (50, 3), np.uint8)
    spread = np.full(50, 0.01, np.float32)
    k = Intrinsics.from_hfov(1.0, WIDTH, HEIGHT)
    cloud = SnapshotCloud(points, colors, normals, spread, k, STAMP, 'optical', 8)
    msg = conversions.snapshot_to_msg(cloud)
    assert (msg.height, msg.width, msg.point_step, msg.row_step) == (1, 50, 32, 1600)
    assert (msg.is_dense, msg.is_bigendian) == (True, False)
    assert (conversions.stamp_ns_from_msg(msg.header), msg.header.frame_id) == (STAMP, 'optical')
    names = ('x', 'y', 'z', 'rgb', 'normal_x', 'normal_y', 'normal_z', 'curvature')
    assert [(f.name, f.offset, f.datatype, f.count) for f in msg.fields] == [
        (name, 4 * i, PointField.FLOAT32, 1) for i, name in enumerate(names)
    ]
    for i, values in enumerate(struct.iter_unpack('<3f4B4f', bytes(msg.data))):
        assert np.array_equal(values[:3], points[i])
        assert values[3:7] == (*colors[i, ::-1], 0)
        assert np.array_equal(values[7:], [*normals[i], 0])


@pytest.fixture(scope='module')
def gaussians() -> Any:
    torch = pytest.importorskip('torch')
    from sharp_ros.gaussians import Gaussians

    rng = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Any:
        return torch.rand(shape, generator=rng)

    return Gaussians(
        rand(50, 3) * 9 - 4, rand(50, 4) + 0.1, rand(50, 3), rand(50), rand(50, 3) * 1.2 - 0.1
    )


def assert_same_gaussians(back: Any, sent: Any) -> None:
    from sharp_ros.gaussians import srgb_from_linear

    for name in ('means', 'scales', 'opacities'):
        assert np.array_equal(getattr(back, name).numpy(), getattr(sent, name).numpy()), name
    unit = sent.quats / sent.quats.norm(dim=1, keepdim=True)
    assert (back.quats - unit).abs().max() < 1e-6
    levels = (srgb_from_linear(back.colors) - srgb_from_linear(sent.colors)) * 255
    assert levels.abs().max() < 0.6  # of 255; half a level and the step of the table


def test_gaussians_round_trip(gaussians: Any) -> None:
    msg = conversions.gaussians_to_msg(gaussians, STAMP, 'camera')
    assert conversions.stamp_ns_from_msg(msg.header) == STAMP
    assert (msg.height, msg.width, msg.point_step, msg.row_step) == (1, 50, 48, 2400)
    assert {f.datatype for f in msg.fields} == {PointField.FLOAT32}
    assert_same_gaussians(conversions.gaussians_from_msg(msg), gaussians)


def test_gaussians_are_laid_out_as_their_fields_say(gaussians: Any) -> None:
    msg = conversions.gaussians_to_msg(gaussians, STAMP, 'camera')
    offsets = {f.name: f.offset for f in msg.fields}
    data = bytes(msg.data)

    def value(name: str, code: str = '<f') -> float:
        return struct.unpack_from(code, data, 7 * msg.point_step + offsets[name])[0]

    assert [value(n) for n in 'xyz'] == pytest.approx(gaussians.means[7].tolist())
    assert value('opacity') == pytest.approx(float(gaussians.opacities[7]))
    assert value('scale_2') == pytest.approx(float(gaussians.scales[7, 2]))
    quat = gaussians.quats[7] / gaussians.quats[7].norm()
    assert value('rot_0') == pytest.approx(float(quat[0]))
    linear = np.clip(gaussians.colors[7].numpy().astype(float), 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    packed = int(value('rgb', '<I'))
    channels = [packed >> shift & 255 for shift in (16, 8, 0)]
    assert channels == pytest.approx(srgb * 255, abs=0.6)
    assert packed >> 24 == 0


def test_gaussians_are_found_among_other_fields_in_any_byte_order(gaussians: Any) -> None:
    msg = conversions.gaussians_to_msg(gaussians, STAMP, 'camera')
    words = np.frombuffer(msg.data, '<u4').reshape(50, 12)[:, ::-1].astype('>u4')
    padded = np.zeros((50, 56), np.uint8)
    padded[:, 4:52] = words.copy().view(np.uint8).reshape(50, 48)
    fields = [
        PointField(name=f.name, offset=48 - f.offset, datatype=f.datatype, count=1)
        for f in msg.fields
    ]
    other = PointCloud2(
        height=2, width=25, point_step=56, row_step=25 * 56, is_bigendian=True,
        fields=[PointField(name='index', offset=0, datatype=PointField.UINT32), *fields],
        data=array.array('B', padded.tobytes()),
    )  # fmt: skip
    assert_same_gaussians(conversions.gaussians_from_msg(other), gaussians)


def test_no_gaussians_round_trip(gaussians: Any) -> None:
    none = gaussians.select(gaussians.opacities < 0)
    msg = conversions.gaussians_to_msg(none, STAMP, 'camera')
    assert len(conversions.gaussians_from_msg(msg)) == 0


def test_other_cloud_is_refused_as_gaussians(gaussians: Any) -> None:
    cloud = conversions.cloud_to_msg(np.zeros((2, 3, 4), np.float32), STAMP, 'camera')
    short = conversions.gaussians_to_msg(gaussians, STAMP, 'camera')
    short.data = short.data[:-1]
    beyond = conversions.gaussians_to_msg(gaussians, STAMP, 'camera')
    beyond.fields[3].offset = 46
    for msg in (cloud, short, beyond):
        with pytest.raises(InputError, match='~/gaussians') as caught:
            conversions.gaussians_from_msg(msg)
        assert caught.value.reason == 'bad_cloud'


def test_grid_is_row_major_from_its_origin() -> None:
    cells = np.random.default_rng(0).integers(-1, 101, (5, 7)).astype(np.int8)
    for given_cells in (cells, np.asfortranarray(cells)):
        msg = conversions.grid_to_msg(given_cells, 0.05, (-1.5, 2.25), STAMP, 'odom')
        assert (msg.info.width, msg.info.height, msg.header.frame_id) == (7, 5, 'odom')
        assert msg.info.resolution == pytest.approx(0.05)
        origin = msg.info.origin
        assert (origin.position.x, origin.position.y, origin.position.z) == (-1.5, 2.25, 0)
        assert origin.orientation.w == 1
        assert msg.info.map_load_time == msg.header.stamp
        assert conversions.stamp_ns_from_msg(msg.header) == STAMP
        assert [msg.data[y * 7 + x] for y in range(5) for x in range(7)] == cells.ravel().tolist()


def test_diagnostics_say_what_they_were_given() -> None:
    statuses = [
        ('sharp_ros: Inference', 0, 'running', {'rate_hz': 9.98765, 'frames_in': 12}),
        ('sharp_ros: Camera', 2, 'uncalibrated', {}),
    ]
    msg = conversions.diagnostics_to_msg(statuses, STAMP, 'camera')
    assert conversions.stamp_ns_from_msg(msg.header) == STAMP
    assert [s.name for s in msg.status] == ['sharp_ros: Inference', 'sharp_ros: Camera']
    assert [s.level for s in msg.status] == [b'\x00', b'\x02']
    assert {s.hardware_id for s in msg.status} == {'camera'}
    values = {v.key: v.value for v in msg.status[0].values}
    assert values == {'rate_hz': '9.988', 'frames_in': '12'}


# --- anything at all --------------------------------------------------------------------------

fuzz = settings(
    max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def outcome(function: Callable, *arguments: Any) -> tuple[Any, str]:
    """What a call returns and '', or None and the reason of its InputError."""
    try:
        return function(*arguments), ''
    except InputError as error:
        return None, error.reason


@fuzz
@given(data=st.data())
def test_no_image_message_raises_anything_but_input_error(data: st.DataObject) -> None:
    encoding = data.draw(st.sampled_from([*conversions.SUPPORTED_ENCODINGS, '', '32FC1', '16UC1']))
    width, height = data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    item = conversions._PACKED.get(encoding, (1, 1, None))
    step = width * item[0] * item[1] + data.draw(st.integers(-2, 5))
    rows = height * 3 if encoding == 'nv24' else height * 3 // 2 if encoding[:1] == 'n' else height
    length = max(step, 0) * rows + data.draw(st.sampled_from([0, 0, 0, -1, 1, 40]))
    buffer = data.draw(st.binary(min_size=max(length, 0), max_size=max(length, 0)))
    msg = SimpleNamespace(
        encoding=encoding, width=width, height=height, step=max(step, 0), data=buffer,
        is_bigendian=data.draw(st.integers(0, 1)),
    )  # fmt: skip
    for read, shape in ((image_from_msg, (height, width, 3)), (depth_from_msg, (height, width))):
        image, reason = outcome(read, msg)
        assert reason in ('', 'bad_image_size', 'bad_data_length', 'unknown_encoding')
        assert reason or image.shape == shape


@fuzz
@given(
    form=st.sampled_from(['jpg', 'png']),
    at=st.integers(0, 400),
    rubbish=st.binary(max_size=40),
    keep_tail=st.booleans(),
    name=st.sampled_from(['jpeg', 'png', '', ';;', 'bayer_rggb8; png compressed ', 'bayer_']),
)
def test_no_compressed_data_raise_anything_but_input_error(
    form: str, at: int, rubbish: bytes, keep_tail: bool, name: str
) -> None:
    whole = cv2.imencode(f'.{form}', smooth_picture())[1].tobytes()
    data = whole[:at] + rubbish + (whole[at + len(rubbish) :] if keep_tail else b'')
    image, reason = outcome(compressed_from_msg, SimpleNamespace(format=name, data=data))
    assert reason in ('', 'bad_compressed')
    assert reason or (image.dtype, image.shape[2:]) == (np.uint8, (3,))


any_float = st.one_of(st.floats(), st.floats(-2, 2), st.floats(1, 1000))


@fuzz
@given(
    k=st.lists(any_float, min_size=9, max_size=9),
    d=st.lists(any_float, max_size=14),
    p=st.lists(any_float, min_size=12, max_size=12),
    name=st.sampled_from(['', 'plumb_bob', 'rational_polynomial', 'equidistant', 'other']),
    rectified=st.booleans(),
)
def test_no_camera_info_raises_anything_but_input_error(
    k: list[float], d: list[float], p: list[float], name: str, rectified: bool
) -> None:
    msg = CameraInfo(width=32, height=24, k=k, d=d, p=p, distortion_model=name)
    model = conversions.camera_model_from_msg(msg)
    rectifier, reason = outcome(Rectifier, model, rectified, 0.0, (32, 24))
    assert reason in ('', 'bad_camera_info', 'bad_intrinsics', 'uncalibrated')
    if not reason:
        assert rectifier.rectify(np.zeros((24, 32, 3), np.uint8)).shape == (24, 32, 3)
        assert rectifier.rectify_depth(np.ones((24, 32), np.float32)).shape == (24, 32)


def test_importing_the_conversions_leaves_torch_alone() -> None:
    import subprocess
    import sys

    code = 'import json, sys, sharp_ros.ros.conversions; print(json.dumps(list(sys.modules)))'
    modules = json.loads(
        subprocess.run([sys.executable, '-c', code], check=True, capture_output=True).stdout
    )
    assert not {'torch', 'open3d', 'rclpy'} & set(modules)
