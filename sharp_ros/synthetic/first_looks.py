"""Cameras in the simulated room whose first image misleads about level and floor."""

from __future__ import annotations

import math

import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.se3 import interpolate, look_at, transform
from sharp_ros.synthetic.room import Room

_STAY, _GO = 1.0, 3.0  # seconds before something, and from there to the drive
# Mounted on the drive: turned up, and rolled to the right, degrees.
_MOUNTS = {
    'drive': (0.0, 0.0),
    '20 degrees up': (20.0, 0.0),
    '50 degrees down': (-50.0, 0.0),
    'portrait': (0.0, 90.0),
    'portrait, other side': (0.0, -90.0),
    'upside down': (0.0, 180.0),
}
# Held over: height and length of a top, how far beside its middle, and how high above, metres.
_TOPS = {
    'coffee table': (0.405, 0.95, 0.3, 0.45),
    'dining table': (0.75, 1.3, 0.3, 0.5),
    'counter': (0.9, 2.42, 0.25, 0.45),
}
FIRST_LOOKS = (*_MOUNTS, *_TOPS, 'wall')


def first_look(room: Room, name: str, duration: float, rate_hz: float) -> list[np.ndarray]:
    """Poses `T_world_camera` [4, 4] of a camera that begins with a look that misleads.

    It is mounted on the drive in an odd way, or it looks at something for a second, goes to where
    the drive begins within three, and drives on.

    Args:
        room: in which.
        name: one of `FIRST_LOOKS`.
        duration: of the drive, seconds.
        rate_hz: poses per second.

    Raises:
        InputError: for another name.
    """
    drive = [pose for _, pose in room.trajectory(duration, rate_hz)]
    if name in _MOUNTS:
        return [pose @ _mount(*np.radians(_MOUNTS[name])) for pose in drive]
    if name == 'wall':
        eye = np.array([1.5, 1.5, 1.5])
        first = look_at(eye, eye + np.array([0.2, 1.0, 0.0]), np.array([0, 0, 1.0]))
    elif name in _TOPS:
        first = _over(room, *_TOPS[name])
    else:
        raise InputError(f'no first look {name!r}; there are {", ".join(FIRST_LOOKS)}')
    steps = np.linspace(0, 1, round(_GO * rate_hz), endpoint=False)
    way = [interpolate(first, drive[0], s * s * (3 - 2 * s)) for s in steps]
    return [first] * round(_STAY * rate_hz) + way + drive


def _mount(up: float, roll: float) -> np.ndarray:  # radians -> [4, 4]
    c, s = math.cos(up), math.sin(up)
    pitched = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = math.cos(roll), math.sin(roll)
    return transform(pitched @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.zeros(3))


def _over(room: Room, height: float, length: float, beside: float, above: float) -> np.ndarray:
    """A camera that looks down on a top from the side of the room."""
    tops = [s for s in room.solids if abs(s[2] + s[5] - height) < 1e-6 and s[3] == length]
    x, y, yaw = tops[0][0], tops[0][1], tops[0][6]
    side = np.array([-math.sin(yaw), math.cos(yaw), 0.0])
    side *= 1.0 if side[:2] @ (x, y) <= 0 else -1.0
    top = np.array([x, y, height])
    eye = top + beside * side + [0, 0, above]
    return look_at(eye, top, np.array([0, 0, 1.0]))
