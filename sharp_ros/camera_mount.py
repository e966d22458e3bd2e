"""How a camera is mounted on a robot: one pose, written in each form that ROS wants."""

from __future__ import annotations

import math
import re

import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.se3 import quat_from_matrix, transform

# of a camera that looks ahead: its z is x of the robot, its x is -y, its y is -z
_R_BODY_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
_FRAME = re.compile(r'[A-Za-z_][\w/.-]*')


def mount_pose(
    position: tuple[float, float, float], roll: float, pitch: float, yaw: float
) -> np.ndarray:  # -> [4, 4]
    """`T_base_camera`, the pose of the optical frame in a robot's frame, x ahead, y left, z up.

    Args:
        position: forward, left and up, metres.
        roll: its right side down, radians.
        pitch: its view upwards, so negative for a camera that looks down. In URDF the sign of the
            pitch about y is the other.
        yaw: its view to the left.

    Raises:
        InputError: `bad_mount` if a number is not finite.
    """
    if not all(math.isfinite(v) for v in (*position, roll, pitch, yaw)):
        raise InputError(
            f'a camera cannot be mounted at {position}, turned by {roll}, {pitch}, {yaw}: give '
            'finite numbers',
            'bad_mount',
        )
    (cr, cp, cy), (sr, sp, sy) = (
        tuple(f(v) for v in (roll, -pitch, yaw)) for f in (math.cos, math.sin)
    )
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return transform(about_z @ about_y @ about_x @ _R_BODY_OPTICAL, np.array(position))


def parameter_line(T_base_camera: np.ndarray, base_frame: str) -> str:
    """The line of a parameter file, below `ros__parameters`.

    Raises:
        InputError: `bad_mount` if the name is none of a frame.
    """
    numbers = ', '.join([*_position(T_base_camera), *_quaternion(T_base_camera)])
    return f'pose: {{base_frame: {_checked(base_frame)}, base_to_camera: [{numbers}]}}'


def static_transform_command(T_base_camera: np.ndarray, base_frame: str, camera_frame: str) -> str:
    """The command that broadcasts the pose to tf, on humble and later.

    Raises:
        InputError: `bad_mount` if a name is none of a frame.
    """
    names = ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw')
    numbers = (*_position(T_base_camera), *_quaternion(T_base_camera))
    values = ' '.join(f'--{name} {number}' for name, number in zip(names, numbers, strict=True))
    frames = f'--frame-id {_checked(base_frame)} --child-frame-id {_checked(camera_frame)}'
    return f'ros2 run tf2_ros static_transform_publisher {values} {frames}'


def urdf_line(T_base_camera: np.ndarray, base_frame: str, camera_frame: str) -> str:
    """Link and joint of a URDF, whose angles are about the fixed axes x, then y, then z.

    Raises:
        InputError: `bad_mount` if a name is none of a frame.
    """
    base_frame, camera_frame = _checked(base_frame), _checked(camera_frame)
    xyz, rpy = (
        ' '.join(values)
        for values in (_position(T_base_camera), map(_decimal, _fixed_angles(T_base_camera)))
    )
    return (
        f'<link name="{camera_frame}"/> <joint name="{camera_frame}_joint" type="fixed">'
        f'<parent link="{base_frame}"/><child link="{camera_frame}"/>'
        f'<origin xyz="{xyz}" rpy="{rpy}"/></joint>'
    )


def _fixed_angles(T: np.ndarray) -> tuple[float, float, float]:
    """Angles about x, y, z with R = Rz Ry Rx."""
    R = T[:3, :3]
    across = math.hypot(R[0, 0], R[1, 0])
    pitch = math.atan2(-R[2, 0], across)
    if across < 1e-6:  # x points up or down: only the sum of the other two is known
        return math.atan2(-R[1, 2], R[1, 1]), pitch, 0.0
    return math.atan2(R[2, 1], R[2, 2]), pitch, math.atan2(R[1, 0], R[0, 0])


def _position(T: np.ndarray) -> tuple[str, ...]:
    return tuple(_decimal(v) for v in T[:3, 3])


def _quaternion(T: np.ndarray) -> tuple[str, ...]:  # x y z w
    w, x, y, z = quat_from_matrix(T[:3, :3])
    return tuple(_decimal(v) for v in (x, y, z, w))


def _decimal(value: float) -> str:
    """With a point, without which ROS takes it for an integer that fits in no list of floats."""
    text = f'{value:.9f}'.rstrip('0')
    return {'-0.': '0.0'}.get(text, text + '0' * text.endswith('.'))


def _checked(frame: str) -> str:
    if not _FRAME.fullmatch(frame):
        raise InputError(
            f'{frame!r} is no name of a frame; letters, digits and _ / . - are', 'bad_mount'
        )
    return frame
