"""Worlds of boxes in which a robot can come to harm, their exact depth, and what is solid there.

Each is a closed room, z up with the floor at 0, in which one thing stands, hangs, walks or is
missing. What differs from seed to seed: distance, height, pitch and bearing of the camera, and
where the room lies among the cells of the map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import math

import numba
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.se3 import look_at

Box = tuple[tuple[float, float, float], tuple[float, float, float]]  # low and high corner, metres
Area = tuple[float, float, float, float]  # x and y of the low corner, of the high corner, metres

_NEAR, _FAR, _SIDE, _TOP = -2.0, 6.5, 3.0, 2.6  # room: x from and to, y either way, ceiling
THICK = 0.3  # of floor and walls
_UNSEEN_FIRST = 3.0  # seconds for which the space is seen free before somebody comes
_WIDTH, _DEPTH, _HEIGHT = 0.5, 0.3, 1.7  # of a person
_HALF_VIEW = 0.475  # radians, from the axis of the camera to its upper edge
_STEPS, _RISE, _RUN = 12, 0.18, 0.28  # of stairs
_TURN, _RATE, _REST, _LATE = math.tau, 1.0, 1.5, 0.1  # of a camera: angle, rate, seconds, seconds


@dataclass(frozen=True)
class Hazard:
    """One world and a drive through it.

    Attributes:
        name: of the kind.
        room: floor, walls and ceiling.
        thing: the boxes of the hazard at a time in seconds; none where the floor is missing.
        gap: where the floor is missing, or None.
        pose: `T_world_camera` at a time in seconds.
        comes: when the hazard is there, seconds; 0: from the start.
        goes: when it is gone, seconds.
        duration: seconds.
        late: by which poses are, seconds.
    """

    name: str
    room: list[Box]
    thing: Callable[[float], list[Box]]
    gap: Area | None
    pose: Callable[[float], np.ndarray]
    comes: float
    goes: float
    duration: float
    late: float = 0.0


def hazards(seed: int) -> list[Hazard]:
    """One of every kind."""
    rng = np.random.default_rng(seed)
    kinds = [_walking(rng, speed, away) for speed in (0.7, 1.4) for away in (1.5, 3.0)]
    kinds += [_standing(rng, away, stays) for away in (1.5, 3.0) for stays in (1.0, 8.0)]
    kinds += [_stairwell(rng), _step(rng)]
    kinds += [_hanging(rng, *what) for what in _HANGING]
    kinds += [_pole(rng, 0.02, 3.0), _pole(rng, 0.01, 1.5), _low_camera(rng)]
    turning = _turning(rng)
    late = replace(turning, name=f'{turning.name}, poses {_LATE:g} s late', late=_LATE)
    return [*kinds, turning, late]


# Name, lowest and highest z, extent along and across the way.
_HANGING = (
    ('shelf at 1.3 m', 1.28, 1.32, 0.4, 1.2),
    ('beam at 1.7 m', 1.70, 1.78, 0.2, 2 * _SIDE),
    ('table top at 0.7 m', 0.67, 0.70, 0.8, 1.2),
)


def _shell(rng: np.random.Generator, gap: Area | None = None) -> tuple[np.ndarray, list[Box]]:
    """Where the room lies among the cells, and its boxes, the floor but for the gap."""
    near, far, side, top, t = _NEAR, _FAR, _SIDE, _TOP, THICK
    floors = [(near, -side, far, side)]
    if gap is not None:
        x0, y0, x1, y1 = gap
        floors = [(near, -side, x0, side), (x1, -side, far, side)]
        floors += [(x0, -side, x1, y0), (x0, y1, x1, side)]
    boxes: list[Box] = [
        ((a, b, -t), (c, d, 0.0)) for a, b, c, d in floors if c - a > 1e-9 and d - b > 1e-9
    ]
    low, high = -3.0, top + t
    boxes += [
        ((near - t, -side - t, top), (far + t, side + t, high)),
        ((near - t, -side - t, low), (near, side + t, high)),
        ((far, -side - t, low), (far + t, side + t, high)),
        ((near - t, -side - t, low), (far + t, -side, high)),
        ((near - t, side, low), (far + t, side + t, high)),
    ]
    return np.array([*rng.uniform(0, 0.05, 2), 0.0]), boxes


def _moved(boxes: list[Box], by: np.ndarray) -> list[Box]:
    return [
        (tuple((np.array(low) + by).tolist()), tuple((np.array(high) + by).tolist()))
        for low, high in boxes
    ]


def _camera(
    offset: np.ndarray, height: float, pitch: float, yaw: float, speed: float = 0.0
) -> Callable[[float], np.ndarray]:
    """A camera that drives along x, swaying by 2 cm as no robot stands quite still."""

    def pose(t: float) -> np.ndarray:
        sway = 0.02 * math.sin(1.7 * t)
        eye = offset + np.array([speed * t, sway, height])
        ahead = [math.cos(yaw), math.sin(yaw), math.tan(pitch)]
        return look_at(eye, eye + ahead, np.array([0.0, 0.0, 1.0]))

    return pose


def _person(x: float, y: float) -> Box:
    return (x, y - _WIDTH / 2, 0.0), (x + _DEPTH, y + _WIDTH / 2, _HEIGHT)


def _walking(rng: np.random.Generator, speed: float, away: float) -> Hazard:
    offset, room = _shell(rng)
    start = 0.69 * away + 0.3  # half of what is in view, and his width
    comes, goes = _UNSEEN_FIRST, _UNSEEN_FIRST + 2 * start / speed

    def thing(t: float) -> list[Box]:
        if not comes <= t < goes:
            return []
        return _moved([_person(away, start - speed * (t - comes))], offset)

    pose = _camera(offset, rng.uniform(0.4, 1.1), rng.uniform(-0.2, 0.0), 0.0)
    name = f'walks {speed:g} m/s at {away:g} m'
    return Hazard(name, _moved(room, offset), thing, None, pose, comes, goes, goes + 1.5)


def _standing(rng: np.random.Generator, away: float, stays: float) -> Hazard:
    offset, room = _shell(rng)
    y = rng.uniform(-0.25, 0.25) * away
    comes, goes = _UNSEEN_FIRST, _UNSEEN_FIRST + stays

    def thing(t: float) -> list[Box]:
        return _moved([_person(away, y)], offset) if comes <= t < goes else []

    pose = _camera(offset, rng.uniform(0.4, 1.1), rng.uniform(-0.2, 0.0), 0.0)
    name = f'stands {stays:g} s at {away:g} m'
    return Hazard(name, _moved(room, offset), thing, None, pose, comes, goes, goes + 1.5)


def _nothing(t: float) -> list[Box]:
    del t
    return []


def _below(rng: np.random.Generator, name: str, gap: Area, bottom: list[Box]) -> Hazard:
    """A drive of 0.6 m towards a gap in the floor."""
    offset, room = _shell(rng, gap)
    pose = _camera(
        offset, rng.uniform(0.4, 1.1), rng.uniform(-0.6, 0.0), rng.uniform(-0.2, 0.2), 0.2
    )
    x0, y0, x1, y1 = gap
    dx, dy, _ = offset.tolist()
    place = (x0 + dx, y0 + dy, x1 + dx, y1 + dy)
    return Hazard(name, _moved(room + bottom, offset), _nothing, place, pose, 0.0, 3.0, 3.0)


def _stairwell(rng: np.random.Generator) -> Hazard:
    rim = rng.uniform(1.0, 3.0) + 0.6
    end = rim + 2.0
    stairs: list[Box] = [
        ((rim + i * _RUN, -1.0, -3.0), (min(rim + (i + 1) * _RUN, end), 1.0, -(i + 1) * _RISE))
        for i in range(_STEPS)
        if rim + i * _RUN < end
    ]
    shaft: list[Box] = [
        ((end, -1.0, -3.0), (end + 0.1, 1.0, -THICK)),
        ((rim, -1.1, -3.0), (end, -1.0, -THICK)),
        ((rim, 1.0, -3.0), (end, 1.1, -THICK)),
    ]
    return _below(rng, 'stairs down', (rim, -1.0, end, 1.0), stairs + shaft)


def _step(rng: np.random.Generator) -> Hazard:
    rim = rng.uniform(1.0, 3.0) + 0.6
    lower: list[Box] = [((rim, -_SIDE, -3.0), (_FAR, _SIDE, -0.15))]
    return _below(rng, 'step down 15 cm', (rim, -_SIDE, _FAR, _SIDE), lower)


def _hanging(
    rng: np.random.Generator, name: str, low: float, high: float, along: float, across: float
) -> Hazard:
    """A drive from 2.8 to 1 m before something that hangs, of a camera in view of it."""
    offset, room = _shell(rng)
    x = 2.8
    boxes = _moved([((x, -across / 2, low), (x + along, across / 2, high))], offset)
    height = rng.uniform(0.3, 1.1)
    # A tenth above its upper edge is in view when the drive begins.
    pitch = math.atan2(high + 0.1 - height, x) - _HALF_VIEW + rng.uniform(0.0, 0.2)
    pose = _camera(offset, height, pitch, 0.0, 0.45)
    return Hazard(name, _moved(room, offset), lambda t: boxes, None, pose, 0.0, 4.0, 4.0)


def _pole(rng: np.random.Generator, width: float, farthest: float) -> Hazard:
    offset, room = _shell(rng)
    x = rng.uniform(0.8, farthest)
    y = rng.uniform(-0.3, 0.3) * x
    boxes = _moved([((x, y, 0.0), (x + width, y + width, 1.2))], offset)
    pose = _camera(offset, rng.uniform(0.4, 1.1), rng.uniform(-0.2, 0.0), 0.0)
    name = f'pole {width * 100:g} cm to {farthest:g} m'
    return Hazard(name, _moved(room, offset), lambda t: boxes, None, pose, 0.0, 4.0, 4.0)


def _low_camera(rng: np.random.Generator) -> Hazard:
    """Nothing but a room, of which a low camera must see that it can be driven through."""
    offset, room = _shell(rng)
    pose = _camera(offset, rng.uniform(0.15, 0.3), rng.uniform(-0.1, 0.1), 0.0, 0.4)
    return Hazard('low camera', _moved(room, offset), _nothing, None, pose, 0.0, 5.0, 5.0)


def _turning(rng: np.random.Generator) -> Hazard:
    """A camera that rests, turns once about, and rests again, among pillars and boxes."""
    offset, room = _shell(rng)
    boxes: list[Box] = []
    for number in range(8):
        bearing = (number + rng.uniform(0.0, 0.6)) * math.tau / 8
        away, half, high = rng.uniform(1.2, 2.4), rng.uniform(0.05, 0.2), rng.uniform(0.5, 1.8)
        x, y = away * math.cos(bearing), away * math.sin(bearing)
        boxes.append(((x - half, y - half, 0.0), (x + half, y + half, high)))
    boxes = _moved(boxes, offset)
    height, pitch, start = rng.uniform(0.4, 1.1), rng.uniform(-0.3, -0.1), rng.uniform(0.0, 6.0)
    duration = 2 * _REST + _TURN / _RATE

    def pose(t: float) -> np.ndarray:
        yaw = start + min(max(t - _REST, 0.0) * _RATE, _TURN)
        return _camera(offset, height, pitch, yaw)(t)

    name = f'turns {_RATE:g} rad/s'
    return Hazard(name, _moved(room, offset), lambda t: boxes, None, pose, 0.0, duration, duration)


# --- truth ---------------------------------------------------------------------------------------


def cast(
    boxes: list[Box], intrinsics: Intrinsics, T_world_camera: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a pinhole camera sees: z-depth [H, W] float32, metres, and [H, W] number of the box.

    Where there is none: 0 and -1. Boxes that hold the camera are not seen.
    """
    corners = np.array(boxes, np.float64).reshape(-1, 2, 3)
    size = (intrinsics.height, intrinsics.width)
    depth, owner = np.zeros(size, np.float32), np.full(size, -1, np.int32)
    _cast(corners, intrinsics.parameters, np.asarray(T_world_camera, np.float64), depth, owner)
    return depth, owner


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _cast(
    corners: np.ndarray, camera: np.ndarray, T: np.ndarray, depth: np.ndarray, owner: np.ndarray
) -> None:
    """Slab intersection; corners [B, 2, 3] -> depth and owner [H, W]."""
    fx, fy, cx, cy = camera
    for v in numba.prange(depth.shape[0]):
        for u in range(depth.shape[1]):
            a, b = (u - cx) / fx, (v - cy) / fy
            best = np.inf
            for k in range(corners.shape[0]):
                enter, leave = 0.0, np.inf
                for i in range(3):
                    d = T[i, 0] * a + T[i, 1] * b + T[i, 2]
                    d = d if abs(d) > 1e-12 else 1e-12
                    s, t = (corners[k, 0, i] - T[i, 3]) / d, (corners[k, 1, i] - T[i, 3]) / d
                    enter, leave = max(enter, min(s, t)), min(leave, max(s, t))
                if 0.0 < enter < leave and enter < best:
                    best = enter
                    depth[v, u], owner[v, u] = enter, k


@numba.njit(cache=True, nogil=True, error_model='numpy')
def ends(
    depth: np.ndarray,
    owner: np.ndarray,
    owners: tuple[int, int],
    camera: np.ndarray,
    T: np.ndarray,
    place: tuple[float, float, float, int, int],
    limits: tuple[float, float, float],
) -> np.ndarray:  # -> [rows, columns] int32
    """How many pixels end in each cell of a grid, of boxes from the first to before the second.

    `camera` [4] fx, fy, cx, cy; `place` origin and side of the grid, rows and columns; `limits`
    lowest and highest z and farthest range, metres.
    """
    fx, fy, cx, cy = camera
    x0, y0, side, rows, columns = place
    counts = np.zeros((rows, columns), np.int32)
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            d = depth[v, u]
            if not (owners[0] <= owner[v, u] < owners[1]) or not d > 0:
                continue
            a, b = (u - cx) / fx, (v - cy) / fy
            z = (T[2, 0] * a + T[2, 1] * b + T[2, 2]) * d + T[2, 3]
            if limits[0] < z < limits[1] and d * math.sqrt(a * a + b * b + 1) < limits[2]:
                x = (T[0, 0] * a + T[0, 1] * b + T[0, 2]) * d + T[0, 3]
                y = (T[1, 0] * a + T[1, 1] * b + T[1, 2]) * d + T[1, 3]
                i, j = math.floor((y - y0) / side), math.floor((x - x0) / side)
                if 0 <= i < rows and 0 <= j < columns:
                    counts[i, j] += 1
    return counts


def solid_columns(
    boxes: list[Box], x: np.ndarray, y: np.ndarray, side: float, low: float, high: float
) -> np.ndarray:  # [columns], [rows] -> [rows, columns] bool
    """Cells, given by their centres, that a box enters between two heights, by over 0.1 mm."""
    half = side / 2 - 1e-4
    solid = np.zeros((len(y), len(x)), bool)
    for (x0, y0, z0), (x1, y1, z1) in boxes:
        if z1 > low and z0 < high:
            solid |= (
                ((y + half > y0) & (y - half < y1))[:, None] & (x + half > x0) & (x - half < x1)
            )
    return solid
