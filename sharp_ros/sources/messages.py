"""Recorded bytes to messages: CDR, ROS 1, JSON and protobuf, all in the shape of ROS messages.

Foxglove's schemas (https://docs.foxglove.dev/docs/sdk/schemas) say the same as those of ROS under
other names; they are renamed here, so that nobody else knows them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
import json
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.sources.storage import Channel, plain

Role = Literal['raw', 'compressed', 'video', 'info', 'odometry', 'pose', 'tf', 'imu']
_ROLES: dict[str, Role] = {
    'sensor_msgs/Image': 'raw',
    'sensor_msgs/CompressedImage': 'compressed',
    'sensor_msgs/CameraInfo': 'info',
    'sensor_msgs/Imu': 'imu',
    'nav_msgs/Odometry': 'odometry',
    'geometry_msgs/PoseStamped': 'pose',
    'geometry_msgs/PoseWithCovarianceStamped': 'pose',
    'tf2_msgs/TFMessage': 'tf',
    'tf/tfMessage': 'tf',
    'foxglove/RawImage': 'raw',
    'foxglove/CompressedImage': 'compressed',
    'foxglove/CompressedVideo': 'video',
    'foxglove/CameraCalibration': 'info',
    'foxglove/PoseInFrame': 'pose',
    'foxglove/FrameTransform': 'tf',
    'foxglove/FrameTransforms': 'tf',
}


def role_of(msgtype: str) -> Role | None:
    """What a message of this type is to us; None for types of no use."""
    return _ROLES.get(_short(msgtype))


def _short(msgtype: str) -> str:
    name = msgtype.replace('/msg/', '/').replace('foxglove_msgs/', 'foxglove/')
    return name.replace('foxglove.', 'foxglove/')


class Decoder:
    """Messages of one channel.

    Args:
        channel: whose encoding and definition count.

    Raises:
        InputError: `unknown_encoding` if there is no way to read them.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        try:
            maker = _DECODERS[channel.encoding]
        except KeyError:
            raise InputError(
                f'{channel.topic} holds {channel.msgtype or "messages"} encoded as '
                f'{channel.encoding!r}; readable are {", ".join(_DECODERS)}',
                'unknown_encoding',
            ) from None
        try:
            self._decode = maker(channel)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a damaged definition raises whatever its parser does
            raise InputError(
                f'{channel.topic}: the definition of {channel.msgtype} cannot be read: {error}',
                'unknown_encoding',
            ) from error
        self._rename = _FOXGLOVE.get(_short(channel.msgtype))

    def __call__(self, data: bytes) -> Any:
        """One message, whose fields are those of ROS.

        Raises:
            InputError: `damaged`.
        """
        try:
            message = self._decode(plain(data))
            return message if self._rename is None else self._rename(message)
        except InputError:
            raise
        except Exception as error:  # damaged messages raise whatever their decoder does
            raise InputError(
                f'a message of {self._channel.topic} cannot be decoded: {error}', 'damaged'
            ) from error


# --- encodings -----------------------------------------------------------------------------------


def _typestore(channel: Channel) -> Any:
    from rosbags.typesys import get_types_from_idl, get_types_from_msg, get_typestore, Stores

    msgtype, text = channel.msgtype, channel.schema.decode()
    if not text.strip():
        ros1 = channel.encoding == 'ros1'
        return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    store = get_typestore(Stores.EMPTY)
    if channel.schema_encoding in ('ros2idl', 'omgidl'):
        line = '=' * 80 + '\n'
        parts = text.split(line)[1:] if text.startswith(f'{line}IDL: ') else []
        for part in [p.partition('\n')[2] for p in parts] or [text]:
            store.register(get_types_from_idl(part))
    else:
        store.register(get_types_from_msg(text, msgtype))
    return store


def _cdr(channel: Channel) -> Callable[[bytes], Any]:
    store = _typestore(channel)
    return lambda data: store.deserialize_cdr(data, channel.msgtype)


def _ros1(channel: Channel) -> Callable[[bytes], Any]:
    store, msgtype = _typestore(channel), channel.msgtype
    if '/msg/' not in msgtype:
        msgtype = '/msg/'.join(msgtype.rsplit('/', 1))
    return lambda data: store.deserialize_ros1(data, msgtype)


def _json(channel: Channel) -> Callable[[bytes], Any]:
    return lambda data: json.loads(data, object_hook=lambda o: SimpleNamespace(**o))


def _protobuf(channel: Channel) -> Callable[[bytes], Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(channel.schema)
    pool, left = descriptor_pool.DescriptorPool(), {f.name: f for f in files.file}

    def add(name: str) -> None:  # a file after those it imports
        file = left.pop(name, None)
        if file is not None:
            for imported in file.dependency:
                add(imported)
            pool.Add(file)

    for name in [f.name for f in files.file]:
        add(name)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(channel.msgtype))
    return kind.FromString


_DECODERS: Mapping[str, Callable[[Channel], Callable[[bytes], Any]]] = {
    'cdr': _cdr,
    'ros1': _ros1,
    'json': _json,
    'protobuf': _protobuf,
}


# --- Foxglove's schemas --------------------------------------------------------------------------


def _stamp(message: Any) -> SimpleNamespace:
    """Of ROS (sec, nanosec), protobuf (seconds, nanos) or JSON (sec, nsec)."""
    time = message.timestamp

    def either(*names: str) -> int:
        return int(next((getattr(time, n) for n in names if hasattr(time, n)), 0))

    return SimpleNamespace(
        sec=either('sec', 'seconds'), nanosec=either('nanosec', 'nsec', 'nanos')
    )


def _header(message: Any, frame: str = 'frame_id') -> SimpleNamespace:
    return SimpleNamespace(stamp=_stamp(message), frame_id=getattr(message, frame, ''))


def _data(message: Any) -> np.ndarray:
    data = message.data
    if isinstance(data, str):  # JSON
        data = base64.b64decode(data)
    return np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.asarray(data, np.uint8)


def _numbers(message: Any, name: str) -> list[float]:
    return [float(v) for v in getattr(message, name, getattr(message, name.lower(), ()))]


def _point(value: Any) -> SimpleNamespace:
    xyz = {axis: float(getattr(value, axis, 0.0)) for axis in 'xyz'}  # JSON may leave out zeros
    return SimpleNamespace(**xyz)


def _quaternion(value: Any) -> SimpleNamespace:
    return SimpleNamespace(**{axis: float(getattr(value, axis, 0.0)) for axis in 'xyzw'})


def _raw_image(message: Any) -> SimpleNamespace:
    return SimpleNamespace(
        header=_header(message),
        width=int(message.width),
        height=int(message.height),
        encoding=message.encoding,
        is_bigendian=0,
        step=int(message.step),
        data=_data(message),
    )


def _compressed(message: Any) -> SimpleNamespace:
    return SimpleNamespace(header=_header(message), format=message.format, data=_data(message))


def _calibration(message: Any) -> SimpleNamespace:
    whole = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    return SimpleNamespace(
        header=_header(message),
        width=int(message.width),
        height=int(message.height),
        distortion_model=message.distortion_model,
        d=_numbers(message, 'D'),
        k=_numbers(message, 'K') or [0.0] * 9,
        r=_numbers(message, 'R') or list(np.eye(3).ravel()),
        p=_numbers(message, 'P') or [0.0] * 12,
        binning_x=0,
        binning_y=0,
        roi=whole,
    )


def _pose(message: Any) -> SimpleNamespace:
    position, orientation = message.pose.position, message.pose.orientation
    pose = SimpleNamespace(position=_point(position), orientation=_quaternion(orientation))
    return SimpleNamespace(header=_header(message), pose=pose)


def _transform(message: Any) -> SimpleNamespace:
    return SimpleNamespace(
        header=_header(message, 'parent_frame_id'),
        child_frame_id=message.child_frame_id,
        transform=SimpleNamespace(
            translation=_point(message.translation), rotation=_quaternion(message.rotation)
        ),
    )


_FOXGLOVE: Mapping[str, Callable[[Any], Any]] = {
    'foxglove/RawImage': _raw_image,
    'foxglove/CompressedImage': _compressed,
    'foxglove/CompressedVideo': _compressed,
    'foxglove/CameraCalibration': _calibration,
    'foxglove/PoseInFrame': _pose,
    'foxglove/FrameTransform': lambda m: SimpleNamespace(transforms=[_transform(m)]),
    'foxglove/FrameTransforms': lambda m: SimpleNamespace(
        transforms=[_transform(t) for t in m.transforms]
    ),
}
