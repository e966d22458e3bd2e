"""The one place where ROS messages are read and built; stateless functions.

What is read is duck-typed: messages of rclpy, of `rosbags` (whose `data` is a NumPy array) and of
ROS 1 bags (whose `CameraInfo` has capital K, D, R, P) work alike. Quaternions are xyzw in messages
and wxyz everywhere else; the swap happens here only. One module, so that no other one knows the
fields of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
import math
import struct
import sys
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np

from sharp_ros import se3
from sharp_ros.camera import Intrinsics, RangeReading
from sharp_ros.depth_codecs import decode_compressed_depth, encode_compressed_depth
from sharp_ros.errors import InputError
from sharp_ros.images import check_pixels, decode_image, encode_jpeg
from sharp_ros.localization.imu_gravity import ImuSample
from sharp_ros.rectification import CameraModel

if TYPE_CHECKING:
    from sharp_ros.gaussians import Gaussians
    from sharp_ros.scan import Scan
    from sharp_ros.snapshot import SnapshotCloud

try:
    from builtin_interfaces.msg import Time
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from geometry_msgs.msg import (
        Point,
        Pose,
        PoseStamped,
        Quaternion,
        Transform,
        TransformStamped,
        Vector3,
        Vector3Stamped,
    )
    from nav_msgs.msg import OccupancyGrid, Odometry
    from sensor_msgs.msg import (
        CameraInfo,
        CompressedImage,
        Image,
        LaserScan,
        PointCloud2,
        PointField,
    )
    from std_msgs.msg import Header
except ModuleNotFoundError:  # reading the messages of a bag needs no ROS, building does
    if TYPE_CHECKING:  # all are there where types are checked
        raise

# --- images in --------------------------------------------------------------------------------

# Encoding -> bytes per channel, channels, OpenCV code to RGB (None: is RGB already).
# OpenCV names a Bayer pattern by the second row and column on: its "BG" begins with R G.
_BAYER = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}
_PACKED: dict[str, tuple[int, int, int | None]] = {
    'rgb8': (1, 3, None),
    'bgr8': (1, 3, cv2.COLOR_BGR2RGB),
    'rgba8': (1, 4, cv2.COLOR_RGBA2RGB),
    'bgra8': (1, 4, cv2.COLOR_BGRA2RGB),
    'mono8': (1, 1, cv2.COLOR_GRAY2RGB),
    'rgb16': (2, 3, None),
    'bgr16': (2, 3, cv2.COLOR_BGR2RGB),
    'rgba16': (2, 4, cv2.COLOR_RGBA2RGB),
    'bgra16': (2, 4, cv2.COLOR_BGRA2RGB),
    'mono16': (2, 1, cv2.COLOR_GRAY2RGB),
    '8UC1': (1, 1, cv2.COLOR_GRAY2RGB),
    '8UC3': (1, 3, cv2.COLOR_BGR2RGB),
    '8UC4': (1, 4, cv2.COLOR_BGRA2RGB),
    **{f'bayer_{name}8': (1, 1, code) for name, code in _BAYER.items()},
    **{f'bayer_{name}16': (2, 1, code) for name, code in _BAYER.items()},
    'uyvy': (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422': (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuyv': (1, 2, cv2.COLOR_YUV2RGB_YUYV),
    'yuv422_yuy2': (1, 2, cv2.COLOR_YUV2RGB_YUYV),
}
# BT.601 limited range, the formula OpenCV applies to nv12 and nv21; it has none for nv24.
_RGB_FROM_YUV = np.array(
    [[255 / 219, 0.0, 1.596027], [255 / 219, -0.391762, -0.812968], [255 / 219, 2.017232, 0.0]]
)
_RGB_FROM_YUV = np.column_stack([_RGB_FROM_YUV, _RGB_FROM_YUV @ (-16.0, -128.0, -128.0)])


def image_from_msg(msg: Any) -> np.ndarray:  # -> [H, W, 3]
    """Decode a `sensor_msgs/Image` of any colour encoding, with padding and either byte order.

    16-bit values are divided by 257 and rounded, which maps 65535 to 255 as cv_bridge does. YUV
    is BT.601 limited range. `nv12` is not among the encodings ROS names; it is read like V4L2's.
    Encodings unknown here go to cv_bridge if the compiled one is installed.

    Returns:
        uint8 RGB; a view into the message where that is possible, so treat it as read-only.

    Raises:
        InputError: `bad_image_size`, `image_too_large`, `bad_data_length` or `unknown_encoding`.
    """
    encoding = msg.encoding
    planar = _PLANAR.get(encoding)
    if planar is not None:
        return planar(msg)
    packed = _PACKED.get(encoding)
    if packed is None:
        return _image_by_cv_bridge(msg)
    item_size, channels, code = packed
    pixels = _pixels(msg, 'u', item_size, channels)
    if channels == 2 and msg.width % 2:
        raise InputError(
            f'{encoding} image is {msg.width} pixels wide; two pixels share their colour, so '
            'the width must be even',
            'bad_image_size',
        )
    if code is not None:
        pixels = cv2.cvtColor(pixels, code)
    return _to_8_bit(pixels)


def compressed_from_msg(msg: Any) -> np.ndarray:  # -> [H, W, 3]
    """Decode a `sensor_msgs/CompressedImage` holding JPEG or PNG.

    `format` is `jpeg`, `png` or what image_transport writes, `rgb8; jpeg compressed bgr8`: the
    last word says in which channel order the encoder, which expects BGR, was fed.

    Returns:
        uint8 RGB in the orientation of the sensor, whatever EXIF says: camera_info describes that.

    Raises:
        InputError: `bad_compressed` if the data are truncated, damaged or of another format.
    """
    original, _, compressed = msg.format.partition(';')
    bayer = _BAYER.get(original[6:10]) if original.startswith('bayer_') else None
    if bayer is not None and 'compressed bgr' not in compressed:
        mosaic = decode_image(msg.data, cv2.IMREAD_UNCHANGED)
        if mosaic.ndim == 2:
            return _to_8_bit(cv2.cvtColor(mosaic, bayer))
    image = decode_image(msg.data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if 'compressed rgb' in compressed:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def grey16_from_msg(msg: Any) -> np.ndarray:  # -> [H, W]
    """The values of an image of 16-bit grey, raw or as PNG, of whatever range.

    Raises:
        InputError: `bad_image_size`, `image_too_large`, `bad_data_length` or `bad_compressed`.
    """
    if hasattr(msg, 'encoding'):
        return _pixels(msg, 'u', 2, 1)
    grey = decode_image(msg.data, cv2.IMREAD_UNCHANGED)
    return grey if grey.ndim == 2 else cv2.cvtColor(grey, cv2.COLOR_BGR2GRAY)


def depth_from_msg(msg: Any) -> np.ndarray:  # -> [H, W]
    """Read a depth image: `32FC1` in metres, `16UC1` or `mono16` in millimetres.

    A `sensor_msgs/CompressedImage` is read as `depth_codecs` says.

    Returns:
        float32 z-depth in metres; 0 and non-finite mean no measurement. A view into the message
        where that is possible, so treat it as read-only.

    Raises:
        InputError: `bad_image_size`, `image_too_large`, `bad_data_length` or `unknown_encoding`.
    """
    if not hasattr(msg, 'encoding'):
        return decode_compressed_depth(msg.data, msg.format)
    if msg.encoding == '32FC1':
        return _pixels(msg, 'f', 4, 1)
    if msg.encoding in ('16UC1', 'mono16'):
        return _pixels(msg, 'u', 2, 1) * np.float32(0.001)
    raise InputError(
        f'depth encoding {msg.encoding!r} is unknown; publish 32FC1 (metres) or 16UC1 (mm)',
        'unknown_encoding',
    )


def _rows(msg: Any, row_bytes: int, rows: int) -> np.ndarray:  # -> [rows, row_bytes]
    """The used bytes of a message of that many rows of `step` bytes each; a view."""
    if msg.width < 1 or msg.height < 1:
        raise InputError(
            f'image is {msg.width}x{msg.height}; publish one with pixels', 'bad_image_size'
        )
    data = np.frombuffer(msg.data, np.uint8) if len(msg.data) else np.empty(0, np.uint8)
    if msg.step < row_bytes or data.size != rows * msg.step:
        raise InputError(
            f'{msg.encoding} image of {msg.width}x{msg.height} with step {msg.step} has '
            f'{data.size} bytes; expected {rows} rows of a step of at least {row_bytes}',
            'bad_data_length',
        )
    _check_pixels(msg)
    return data.reshape(rows, msg.step)[:, :row_bytes]


def _check_pixels(msg: Any) -> None:
    """Refuse what a compressed image may not be either."""
    check_pixels(msg.width * msg.height, f'{msg.encoding} image of {msg.width}x{msg.height}')


def _pixels(msg: Any, kind: str, item_size: int, channels: int) -> np.ndarray:
    """[H, W] or [H, W, channels] in native byte order, contiguous and aligned."""
    rows = np.ascontiguousarray(_rows(msg, msg.width * channels * item_size, msg.height))
    pixels = rows.view(f'{kind}{item_size}')
    if item_size > 1 and bool(msg.is_bigendian) != (sys.byteorder == 'big'):
        pixels = pixels.byteswap()
    pixels = np.require(pixels, requirements='A')
    return pixels if channels == 1 else pixels.reshape(msg.height, msg.width, channels)


def _to_8_bit(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255 / 65535)


def _half_chroma(msg: Any, code: int) -> np.ndarray:
    """nv12, nv21: `height` rows of Y, then half as many of chroma pairs, each `step` long."""
    if msg.width % 2 or msg.height % 2:
        raise InputError(
            f'{msg.encoding} image is {msg.width}x{msg.height}; four pixels share their colour, '
            'so both sides must be even',
            'bad_image_size',
        )
    return cv2.cvtColor(_rows(msg, msg.width, msg.height * 3 // 2), code)


def _full_chroma(msg: Any) -> np.ndarray:
    """nv24: `height` rows of Y of `step` bytes, then as many of chroma pairs of twice that."""
    height, width = msg.height, msg.width
    rows = _rows(msg, width, 3 * height)
    y = rows[:height]
    data = np.frombuffer(msg.data, np.uint8)[height * msg.step :]
    uv = data.reshape(height, 2 * msg.step)[:, : 2 * width].reshape(height, width, 2)
    return cv2.transform(np.dstack([y, uv]), _RGB_FROM_YUV)


_PLANAR: dict[str, Callable[[Any], np.ndarray]] = {
    'nv12': lambda msg: _half_chroma(msg, cv2.COLOR_YUV2RGB_NV12),
    'nv21': lambda msg: _half_chroma(msg, cv2.COLOR_YUV2RGB_NV21),
    'nv24': _full_chroma,
}
SUPPORTED_ENCODINGS = (*_PACKED, *_PLANAR)


@cache
def _cv_bridge() -> Any:
    """The compiled cv_bridge, or None; the pure Python copy that pip installs lacks C++."""
    try:
        # a distribution has it, no wheel does
        from cv_bridge import CvBridge  # pyright: ignore[reportMissingImports]
        from cv_bridge.boost import cv_bridge_boost  # pyright: ignore[reportMissingImports]

        del cv_bridge_boost  # whether it is there was the question
    except Exception:  # a build against another NumPy fails in ways of its own
        return None
    return CvBridge()


def _image_by_cv_bridge(msg: Any) -> np.ndarray:
    bridge, cause = _cv_bridge(), None
    if bridge is not None:
        _check_pixels(msg)
        try:
            return np.ascontiguousarray(bridge.imgmsg_to_cv2(msg, 'rgb8'))
        except Exception as error:  # CvBridgeError, TypeError, cv2.error: all mean it cannot
            cause = error
    raise InputError(
        f'encoding {msg.encoding!r} is unknown; publish one of {", ".join(SUPPORTED_ENCODINGS)}',
        'unknown_encoding',
    ) from cause


# --- everything else in -----------------------------------------------------------------------


def stamp_ns_from_msg(header: Any) -> int:
    """Stamp of a header, nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


_BY_LENGTH = ('plumb_bob', 'rational_polynomial')


def is_unnamed(info: Any) -> bool:
    """Whether a `sensor_msgs/CameraInfo` has distortion but does not say of which model."""
    coefficients = getattr(info, 'd', None)
    coefficients = info.D if coefficients is None else coefficients
    return not info.distortion_model and any(coefficients)


def camera_model_from_msg(info: Any) -> CameraModel:
    """Read a `sensor_msgs/CameraInfo` of ROS 2 (k, d, r, p) or ROS 1 (K, D, R, P).

    Coefficients without the name of a model are those of OpenCV's polynomial, as drivers mean it
    that leave the name out; `is_unnamed` tells.

    Raises:
        InputError: `bad_camera_info` if a matrix has the wrong number of elements.
    """

    def numbers(name: str) -> tuple[float, ...]:
        values = getattr(info, name, None)
        return tuple(map(float, getattr(info, name.upper()) if values is None else values))

    roi, D = info.roi, numbers('d')
    return CameraModel(
        width=int(info.width),
        height=int(info.height),
        K=numbers('k'),
        D=D,
        R=numbers('r'),
        P=numbers('p'),
        distortion_model=_BY_LENGTH[len(D) > 5] if is_unnamed(info) else info.distortion_model,
        binning_x=int(info.binning_x),
        binning_y=int(info.binning_y),
        roi=(int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)),
    )


def frame_id_from_msg(msg: Any) -> str:
    """Frame of a message, without the leading slash of ROS 1, which tf2 refuses."""
    return msg.header.frame_id.lstrip('/')


def pose_from_odometry(msg: Any) -> tuple[int, str, str, np.ndarray]:
    """Read a `nav_msgs/Odometry`.

    Returns:
        Stamp in nanoseconds, world frame, child frame, [4, 4] `T_world_child`.

    Raises:
        InputError: `bad_pose` if a number is not finite or the quaternion is zero.
    """
    T_world_child = _matrix(msg.pose.pose.position, msg.pose.pose.orientation, 'odometry')
    child = msg.child_frame_id.lstrip('/')
    return stamp_ns_from_msg(msg.header), frame_id_from_msg(msg), child, T_world_child


def imu_from_msg(msg: Any) -> ImuSample:
    """Read a `sensor_msgs/Imu`; what its covariances mark by -1 as not measured is left out."""
    q, w, a = msg.orientation, msg.angular_velocity, msg.linear_acceleration
    xx, xy, _, _, yy = map(float, msg.orientation_covariance[:5])
    return _imu_sample(
        (stamp_ns_from_msg(msg.header), frame_id_from_msg(msg)),
        (q.x, q.y, q.z, q.w, xx, xy, yy),
        (w.x, w.y, w.z, msg.angular_velocity_covariance[0]),
        (a.x, a.y, a.z, msg.linear_acceleration_covariance[0]),
    )


def imu_from_cdr(data: bytes) -> ImuSample:
    """Read a `sensor_msgs/Imu` as it was sent (CDR), which is ten times as fast.

    Raises:
        InputError: `bad_imu` if the bytes are of no such message, or of another encoding.
    """
    if data[:2] not in (b'\0\0', b'\0\1'):
        raise InputError('the IMU is sent in an encoding other than CDR', 'bad_imu')
    order, body = '><'[data[1]], memoryview(data)[4:]
    try:
        sec, nanosec, length = struct.unpack_from(f'{order}iII', body)
        frame_id = bytes(body[12 : 12 + length]).rstrip(b'\0').decode().lstrip('/')
        numbers = struct.unpack_from(f'{order}37d', body, (12 + length + 7) // 8 * 8)
    except (struct.error, UnicodeDecodeError) as error:
        raise InputError(f'a message of the IMU is damaged: {error}', 'bad_imu') from error
    return _imu_sample(
        (sec * 10**9 + nanosec, frame_id),
        (*numbers[:6], numbers[8]),
        numbers[13:17],
        numbers[25:29],
    )


def _imu_sample(
    header: tuple[int, str],
    orientation: tuple[float, ...],
    rate: tuple[float, ...],
    acceleration: tuple[float, ...],
) -> ImuSample:
    """A sample of numbers each followed by the first of their covariances.

    Those of the orientation are x y z w, and of the covariance xx xy yy.
    """
    x, y, z, w, xx, xy, yy = orientation
    tilt = max(xx, yy) + abs(xy)  # no less than the larger eigenvalue
    return ImuSample(
        stamp_ns=header[0],
        frame_id=header[1],
        orientation=None if xx < 0 else (w, x, y, z),
        orientation_std=min(math.sqrt(tilt), math.pi) if 0 < tilt < math.inf else 0.0,
        angular_velocity=None if rate[3] < 0 else (rate[0], rate[1], rate[2]),
        acceleration=None
        if acceleration[3] < 0
        else (acceleration[0], acceleration[1], acceleration[2]),
    )


def range_from_msg(msg: Any) -> tuple[int, str, RangeReading | None]:
    """Read a `sensor_msgs/Range`.

    Returns:
        Stamp in nanoseconds, frame of the sensor, and the reading in it, along x; None if it
        measured nothing: NaN, +-inf (REP-117), or beyond its limits, which of a fixed-distance
        ranger coincide.

    Raises:
        InputError: `bad_range` if limits or field of view are impossible.
    """
    limits = float(msg.min_range), float(msg.max_range)
    variance = float(getattr(msg, 'variance', 0.0))  # which humble lacks
    cone = float(msg.field_of_view) / 2
    return _range_sample(
        msg.header, float(msg.range), limits, np.array([1.0, 0, 0]), cone, variance
    )


def range_from_scan(msg: Any) -> tuple[int, str, RangeReading | None]:
    """Read a `sensor_msgs/LaserScan` of one beam; see `range_from_msg`.

    Raises:
        InputError: `bad_range`, also for another number of beams.
    """
    if len(msg.ranges) != 1:
        raise InputError(
            f'a scan of {len(msg.ranges)} beams; as a range finder only one beam is taken',
            'bad_range',
        )
    limits, bearing = (float(msg.range_min), float(msg.range_max)), float(msg.angle_min)
    if not math.isfinite(bearing):
        raise InputError(f'the scan has its beam at angle_min {bearing}', 'bad_range')
    beam = np.array([math.cos(bearing), math.sin(bearing), 0.0])
    return _range_sample(msg.header, float(msg.ranges[0]), limits, beam, 0.0, 0.0)


_RANGE_NOISE = (0.01, 0.02)  # metres, and share of the distance, where a sensor states none


def _range_sample(
    header: Any,
    distance: float,
    limits: tuple[float, float],
    direction: np.ndarray,
    half_angle: float,
    variance: float,
) -> tuple[int, str, RangeReading | None]:
    low, high = limits
    if not (0 <= low <= high and 0 <= half_angle < math.pi / 2):  # nor NaN
        raise InputError(
            f'a range finder from {low} to {high} m that sees {2 * half_angle} rad is none; fix '
            'its driver',
            'bad_range',
        )
    stamp_ns, frame_id = stamp_ns_from_msg(header), header.frame_id.lstrip('/')
    if not (0 < distance < math.inf and low <= distance <= high and low < high):
        return stamp_ns, frame_id, None
    std = math.sqrt(variance) if 0 < variance < math.inf else 0.0
    std = std or _RANGE_NOISE[0] + _RANGE_NOISE[1] * distance
    return stamp_ns, frame_id, RangeReading(np.zeros(3), direction, distance, half_angle, std)


def pose_from_msg(msg: Any) -> tuple[str, np.ndarray]:
    """Read a `geometry_msgs/PoseStamped`: its frame, and [4, 4] `T_frame_pose`.

    Raises:
        InputError: `bad_pose` if it names no frame, a number is not finite or the quaternion is
            zero.
    """
    if not msg.header.frame_id:
        raise InputError('the pose names no frame; fill header.frame_id', 'bad_pose')
    return frame_id_from_msg(msg), _matrix(msg.pose.position, msg.pose.orientation, 'pose')


def matrix_from_pose(msg: Any) -> np.ndarray:  # -> [4, 4]
    """Read a `geometry_msgs/Pose`.

    Raises:
        InputError: `bad_pose` if a number is not finite or the quaternion is zero.
    """
    return _matrix(msg.position, msg.orientation, 'pose')


def matrix_from_transform(msg: Any) -> np.ndarray:  # -> [4, 4]
    """Read a `geometry_msgs/Transform`.

    Raises:
        InputError: `bad_pose` if a number is not finite or the quaternion is zero.
    """
    return _matrix(msg.translation, msg.rotation, 'transform')


def _matrix(p: Any, q: Any, what: str) -> np.ndarray:  # -> [4, 4]
    position = np.array([p.x, p.y, p.z], np.float64)
    if not np.all(np.isfinite(position)):
        raise InputError(
            f'{what} position {position} is not finite; fix its publisher', 'bad_pose'
        )
    return se3.transform(se3.matrix_from_quat(np.array([q.w, q.x, q.y, q.z])), position)


# --- out --------------------------------------------------------------------------------------


def stamp_to_msg(stamp_ns: int) -> Time:
    """Nanoseconds to a `builtin_interfaces/Time`, exactly."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def header_to_msg(stamp_ns: int, frame_id: str) -> Header:
    """A header with that stamp and frame."""
    return Header(stamp=stamp_to_msg(stamp_ns), frame_id=frame_id)


def image_to_msg(rgb: np.ndarray, stamp_ns: int, frame_id: str) -> Image:
    """[H, W, 3] uint8 RGB to an `rgb8` image."""
    return _image_msg(rgb, 'rgb8', stamp_ns, frame_id)


def depth_to_msg(depth: np.ndarray, stamp_ns: int, frame_id: str) -> Image:
    """[H, W] float32 z-depth in metres to a `32FC1` image as REP-118 wants it.

    What is not positive becomes NaN, "no measurement"; as in REP-117 +inf stays, "nothing in
    range", and so does -inf, "too near".
    """
    depth = depth.astype(np.float32, copy=False)
    if not np.fmin.reduce(depth, axis=None, initial=np.inf) > 0:
        depth = depth.copy()
        depth[(depth <= 0) & (depth > -np.inf)] = np.nan
    return _image_msg(depth, '32FC1', stamp_ns, frame_id)


def jpeg_to_msg(rgb: np.ndarray, stamp_ns: int, frame_id: str) -> CompressedImage:
    """[H, W, 3] uint8 RGB as a JPEG, which image_transport reads as `compressed`."""
    data = encode_jpeg(rgb)
    return _compressed_msg(data, 'rgb8; jpeg compressed bgr8', stamp_ns, frame_id)


def compressed_depth_to_msg(depth: np.ndarray, stamp_ns: int, frame_id: str) -> CompressedImage:
    """[H, W] float32 depth, which image_transport reads as `compressedDepth`.

    See `encode_compressed_depth`: what is NaN or infinite becomes NaN there.
    """
    data = encode_compressed_depth(depth)
    return _compressed_msg(data, '32FC1; compressedDepth png', stamp_ns, frame_id)


def camera_info_to_msg(intrinsics: Intrinsics, stamp_ns: int, frame_id: str) -> CameraInfo:
    """Camera info of a pinhole image without distortion: R = I, P = [K | 0]."""
    k = intrinsics.matrix
    return CameraInfo(
        header=header_to_msg(stamp_ns, frame_id),
        width=intrinsics.width,
        height=intrinsics.height,
        distortion_model='plumb_bob',
        d=[0.0] * 5,
        k=k.ravel(),
        r=np.eye(3).ravel(),
        p=np.column_stack([k, np.zeros(3)]).ravel(),
    )


def cloud_to_msg(cloud: np.ndarray, stamp_ns: int, frame_id: str) -> PointCloud2:
    """Organised cloud, one point per pixel of the image: `height` rows of `width` points.

    Args:
        cloud: [H, W, 4] float32: x, y, z in metres (NaN where there is no point) and the colour
            as 0x00RRGGBB in the bits of a float.
        stamp_ns: of the image.
        frame_id: frame of the points.
    """
    return _cloud_msg(cloud, ('x', 'y', 'z', 'rgb'), stamp_ns, frame_id)


def points_to_msg(points: np.ndarray, stamp_ns: int, frame_id: str) -> PointCloud2:
    """[N, 3] float32 points in metres, without colour or order."""
    return _cloud_msg(points[None], ('x', 'y', 'z'), stamp_ns, frame_id, dense=True)


def snapshot_to_msg(cloud: SnapshotCloud) -> PointCloud2:
    """Unordered cloud that PCL reads as `PointXYZRGBNormal`: every point has a surface.

    Fields, all FLOAT32: x y z (metres), rgb (packed 8-bit sRGB), normal_x normal_y normal_z (unit,
    towards the camera), curvature (0: not estimated).
    """
    fields = ('x', 'y', 'z', 'rgb', 'normal_x', 'normal_y', 'normal_z', 'curvature')
    records = np.zeros((1, len(cloud.points), len(fields)), np.float32)
    records[0, :, :3], records[0, :, 4:7] = cloud.points, cloud.normals
    weights = np.array([1 << 16, 1 << 8, 1], np.uint32)
    records.view(np.uint32)[0, :, 3] = cloud.colors.astype(np.uint32) @ weights
    return _cloud_msg(records, fields, cloud.stamp_ns, cloud.frame_id, dense=True)


_GAUSSIAN_FIELDS = (
    *('x', 'y', 'z', 'rgb', 'opacity', 'scale_0', 'scale_1', 'scale_2'),
    *('rot_0', 'rot_1', 'rot_2', 'rot_3'),
)


def gaussians_to_msg(gaussians: Gaussians, stamp_ns: int, frame_id: str) -> PointCloud2:
    """Unordered cloud of splats, 48 bytes each, that RViz shows as coloured points.

    Fields, all FLOAT32: x y z (metres), rgb (packed 8-bit sRGB), opacity (0..1), scale_0..2
    (standard deviations in metres, no logarithms), rot_0..3 (unit quaternion, wxyz). Gaussians
    of opacity 0, the grid order and the depth uncertainty are not sent.
    """
    from sharp_ros.point_cloud import splat_records  # loads numba, which few readers need

    records = splat_records(gaussians)[None]
    return _cloud_msg(records, _GAUSSIAN_FIELDS, stamp_ns, frame_id, dense=True)


def gaussians_from_msg(msg: Any) -> Gaussians:
    """Read a cloud with the fields `gaussians_to_msg` writes, in any order and among others.

    Colours come back as linear RGB, to the 8 bits they were sent with.

    Raises:
        InputError: `bad_cloud` if a field is missing or the data have the wrong length.
    """
    import torch

    from sharp_ros.gaussians import Gaussians, linear_from_srgb

    offsets = {f.name: f.offset for f in msg.fields if f.datatype == PointField.FLOAT32}
    missing = [name for name in _GAUSSIAN_FIELDS if name not in offsets]
    rows, columns = msg.height, msg.width
    length = rows * msg.row_step
    too_far = any(offsets.get(name, 0) + 4 > msg.point_step for name in _GAUSSIAN_FIELDS)
    if missing or too_far or len(msg.data) != length or msg.row_step < columns * msg.point_step:
        raise InputError(
            f'cloud is no cloud of Gaussians: missing fields {missing}, {len(msg.data)} bytes '
            f'for {rows} rows of {msg.row_step}; subscribe to ~/gaussians',
            'bad_cloud',
        )
    order = '>' if msg.is_bigendian else '<'
    layout = np.dtype(
        {
            'names': list(_GAUSSIAN_FIELDS),
            'formats': [order + ('u4' if name == 'rgb' else 'f4') for name in _GAUSSIAN_FIELDS],
            'offsets': [offsets[name] for name in _GAUSSIAN_FIELDS],
            'itemsize': msg.point_step,
        }
    )
    data = np.frombuffer(msg.data, np.uint8) if length else np.empty(0, np.uint8)
    used = data.reshape(rows, msg.row_step)[:, : columns * msg.point_step]
    points = np.ascontiguousarray(used).reshape(-1).view(layout)

    def columns_of(*names: str) -> torch.Tensor:
        stacked = np.stack([points[name] for name in names], -1)
        return torch.from_numpy(stacked.astype(np.float32))

    rgb = np.stack([points['rgb'] >> shift & 255 for shift in (16, 8, 0)], -1)
    return Gaussians(
        means=columns_of('x', 'y', 'z'),
        quats=columns_of('rot_0', 'rot_1', 'rot_2', 'rot_3'),
        scales=columns_of('scale_0', 'scale_1', 'scale_2'),
        opacities=columns_of('opacity')[:, 0],
        colors=linear_from_srgb(torch.from_numpy(rgb.astype(np.float32) / 255)),
    )


def grid_to_msg(
    cells: np.ndarray,
    resolution: float,
    origin_xy: tuple[float, float],
    stamp_ns: int,
    frame_id: str,
) -> OccupancyGrid:
    """Occupancy grid parallel to the xy plane of its frame.

    Args:
        cells: [rows, columns] int8, -1 unknown, 0..100 occupied; rows grow with y, columns with x.
        resolution: side of a cell, metres.
        origin_xy: outer corner of cell (0, 0), metres.
        stamp_ns: of the newest image in the map.
        frame_id: frame of the map.
    """
    msg = OccupancyGrid(header=header_to_msg(stamp_ns, frame_id))
    msg.info.map_load_time = msg.header.stamp
    msg.info.resolution = float(resolution)
    msg.info.height, msg.info.width = cells.shape
    msg.info.origin.position.x, msg.info.origin.position.y = map(float, origin_xy)
    msg.info.origin.orientation.w = 1.0
    _fill(msg, cells.astype(np.int8, copy=False))
    return msg


def odometry_to_msg(
    T_world_camera: np.ndarray,
    stamp_ns: int,
    world_frame: str,
    child_frame: str,
    covariance: np.ndarray | None = None,
) -> Odometry:
    """[4, 4] pose of `child_frame` in `world_frame`; velocities stay zero.

    Args:
        T_world_camera: the pose.
        stamp_ns: of the image.
        world_frame: parent.
        child_frame: what is placed.
        covariance: [6, 6] of x y z and the rotation about the axes of the world, or None for 0.
    """
    msg = Odometry(header=header_to_msg(stamp_ns, world_frame), child_frame_id=child_frame)
    msg.pose.pose = _pose(T_world_camera)
    if covariance is not None:
        msg.pose.covariance = covariance.astype(np.float64).ravel()
    return msg


def scan_to_msg(scan: Scan, stamp_ns: int, frame_id: str, scan_time: float) -> LaserScan:
    """A scan all of whose beams were measured at once, with their deviations as intensities.

    Args:
        scan: in the x-y plane of the frame.
        stamp_ns: of the image.
        frame_id: with z up.
        scan_time: since the scan before, seconds; 0: not known.
    """
    msg = LaserScan(
        header=header_to_msg(stamp_ns, frame_id),
        angle_min=float(scan.min_angle),
        angle_max=float(scan.max_angle),
        angle_increment=float(scan.increment),
        time_increment=0.0,
        scan_time=float(scan_time),
        range_min=float(scan.min_range),
        range_max=float(scan.max_range),
    )
    for values, numbers in ((scan.ranges, msg.ranges), (scan.stds, msg.intensities)):
        numbers.frombytes(values.astype(np.float32, copy=False).tobytes())
    return msg


def scale_to_msg(
    value: float, log_variance: float, stamp_ns: int, frame_id: str
) -> Vector3Stamped:
    """Factor of the depth in x, variance of its logarithm in y; z is 0."""
    vector = Vector3(x=float(value), y=float(log_variance))
    return Vector3Stamped(header=header_to_msg(stamp_ns, frame_id), vector=vector)


def pose_to_msg(T_frame_pose: np.ndarray, stamp_ns: int, frame_id: str) -> PoseStamped:
    """[4, 4] pose in a frame."""
    return PoseStamped(header=header_to_msg(stamp_ns, frame_id), pose=_pose(T_frame_pose))


def transform_to_msg(
    T_parent_child: np.ndarray, stamp_ns: int, parent_frame: str, child_frame: str
) -> TransformStamped:
    """[4, 4] transform that places `child_frame` in `parent_frame`, as tf wants it."""
    pose = _pose(T_parent_child)
    p = pose.position
    return TransformStamped(
        header=header_to_msg(stamp_ns, parent_frame),
        child_frame_id=child_frame,
        transform=Transform(translation=Vector3(x=p.x, y=p.y, z=p.z), rotation=pose.orientation),
    )


def _pose(T: np.ndarray) -> Pose:
    x, y, z = map(float, T[:3, 3])
    qw, qx, qy, qz = map(float, se3.quat_from_matrix(T[:3, :3]))
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def diagnostics_to_msg(
    statuses: Sequence[tuple[str, int, str, Mapping[str, Any]]], stamp_ns: int, hardware_id: str
) -> DiagnosticArray:
    """Diagnostics (REP-107).

    Args:
        statuses: name, level (0 OK, 1 WARN, 2 ERROR, 3 STALE), message, values; values are
            written with `str`, floats with four digits.
        stamp_ns: now.
        hardware_id: the camera or machine they are about.
    """

    def text(value: Any) -> str:
        return f'{value:.4g}' if isinstance(value, float) else str(value)

    return DiagnosticArray(
        header=header_to_msg(stamp_ns, ''),
        status=[
            DiagnosticStatus(
                level=bytes([level]),
                name=name,
                message=message,
                hardware_id=hardware_id,
                values=[KeyValue(key=key, value=text(value)) for key, value in values.items()],
            )
            for name, level, message, values in statuses
        ],
    )


def _fill(msg: Any, values: np.ndarray) -> None:
    """Put the bytes of an array into the `data` of a fresh message, without another copy."""
    msg.data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8))


def _image_msg(image: np.ndarray, encoding: str, stamp_ns: int, frame_id: str) -> Image:
    height, width = image.shape[:2]
    msg = Image(
        header=header_to_msg(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == 'big'),
        step=image.nbytes // height,
    )
    _fill(msg, image)
    return msg


def _compressed_msg(data: bytes, form: str, stamp_ns: int, frame_id: str) -> CompressedImage:
    msg = CompressedImage(header=header_to_msg(stamp_ns, frame_id), format=form)
    msg.data.frombytes(data)
    return msg


def _cloud_msg(
    cloud: np.ndarray, names: Sequence[str], stamp_ns: int, frame_id: str, *, dense: bool = False
) -> PointCloud2:
    """[H, W, len(names)] float32 to a cloud whose fields are those names in that order.

    `dense` says that there is no NaN; else a pixel without depth is one.
    """
    height, width, count = cloud.shape
    assert cloud.dtype == np.float32
    assert count == len(names)
    msg = PointCloud2(
        header=header_to_msg(stamp_ns, frame_id),
        height=height,
        width=width,
        fields=[
            PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
            for i, name in enumerate(names)
        ],
        is_bigendian=sys.byteorder == 'big',
        point_step=4 * count,
        row_step=4 * count * width,
        is_dense=dense,
    )
    _fill(msg, cloud)
    return msg
