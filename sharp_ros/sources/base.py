"""What all sources share: the role, the assumed field of view, recorded poses, a level world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import math
from typing import Protocol

import numpy as np

from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.images import DEFAULT_FOCAL_35MM, focal_from_35mm
from sharp_ros.localization.gravity import is_floor_below, level_from_depth, level_from_up
from sharp_ros.localization.gravity_check import sure_up
from sharp_ros.se3 import inverse, PoseBuffer
from sharp_ros.sources.stock import Stock

CAMERA, WORLD = 'camera_optical_frame', 'world'  # frames of sources that do not name theirs
LEVEL_WORLD = 'level_world'  # one whose z is up, by contract or by what its format says
# Of an image of 4:3 by the focal length that `sharp-ros predict` assumes, too: 60 degrees.
DEFAULT_HFOV = 2 * math.atan(4 / 2 / focal_from_35mm(DEFAULT_FOCAL_35MM, 4, 3))
MAX_STAMP_DIFFERENCE_NS = 20_000_000  # of a depth image or an end of the trajectory
_MAX_POSE_GAP = 0.25  # seconds interpolated over
_IMU_TILT = math.radians(5)  # of a world that an IMU does not find level
_MAX_TILT = math.radians(60)  # of a camera whose world is taken to have z up
# Taken for the pose of a camera whose recording does not say what is up and shows no floor.
_LEVEL_CAMERA = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]], float)


class Source(Protocol):
    """A camera or a recording.

    Attributes:
        name: what it is, for people.
        rate_hz: nominal frame rate.
        note: what was assumed, for example a field of view; empty when all is known.
        stock: all that it holds, what becomes of it, and why the rest does not.
    """

    name: str
    rate_hz: float
    note: str
    stock: Stock

    def frames(self) -> Iterator[Frame]:
        """Frames in order of time, until the recording ends.

        Stamps are of the source's own clock, images without distortion, depth is what was
        measured or is exact. Poses are in a world with z up, unless they were asked for as
        recorded.

        Raises:
            InputError: when there is nothing (more) to deliver and there should be.
        """
        ...


def assumed_intrinsics(hfov: float | None, width: int, height: int) -> Intrinsics:
    """Of an uncalibrated image: with the field of view that is given, horizontal as it says.

    The assumed focal length is compared by the diagonal, since a phone held upright has the same
    lens.
    """
    if hfov:
        return Intrinsics.from_hfov(hfov, width, height)
    return Intrinsics.centred(focal_from_35mm(DEFAULT_FOCAL_35MM, width, height), width, height)


def assumption(hfov: float | None) -> str:
    """The sentence that owns up to what is assumed of an uncalibrated source."""
    if hfov:
        return f'not calibrated; field of view {math.degrees(hfov):.0f} degrees as given'
    return (
        f'not calibrated; assumed a focal length of {DEFAULT_FOCAL_35MM:.0f} mm on 35 mm film, '
        f'which is a field of view of {math.degrees(DEFAULT_HFOV):.0f} degrees at 4:3, distances '
        'scale with it; give the right one with --hfov'
    )


class LevelWorld:
    """A recording's world turned so that z is up and, if its depth shows a floor, that is at 0.

    For frames that come one by one; `sources.up` knows more of what can be looked through.
    Recordings whose world is merely some camera would otherwise be cut into height bands along an
    arbitrary direction. What an IMU says comes first. A world stays as it is whose z is up because
    its source says so (`LEVEL_WORLD`), because the camera stands upright in it, or because its
    depth shows a floor there, however the camera is held. Else the image shows where the floor is.

    Args:
        guess: whether the first camera is taken to be upright, 1.2 m high, where nothing shows it.
    """

    def __init__(self, *, guess: bool = True) -> None:
        self._guess = guess
        self._T_level_world: np.ndarray | None = None

    def pose(self, frame: Frame) -> np.ndarray | None:  # -> [4, 4]
        """Pose of the camera in the level world; None of a frame without, or while not known.

        The first frame with a pose that shows what is up decides for all.
        """
        if frame.T_world_camera is None:
            return None
        if self._T_level_world is None:
            self._T_level_world = self._level(frame, frame.T_world_camera)
        return None if self._T_level_world is None else self._T_level_world @ frame.T_world_camera

    def _level(self, frame: Frame, T_world_camera: np.ndarray) -> np.ndarray | None:
        up = sure_up(frame)
        if up is not None and float(up @ T_world_camera[2, :3]) < math.cos(_IMU_TILT):
            if frame.depth is None:
                nothing = np.zeros((frame.intrinsics.height, frame.intrinsics.width), np.float32)
                T_level_camera = level_from_up(up, nothing, frame.intrinsics)
                T_level_camera[2, 3] = _LEVEL_CAMERA[2, 3]
            else:
                T_level_camera = level_from_up(up, frame.depth, frame.intrinsics)
            return T_level_camera @ inverse(T_world_camera)
        upright = T_world_camera[2, 1] <= -math.cos(_MAX_TILT)  # the image's y is down
        if upright or frame.world_frame == LEVEL_WORLD:
            return np.eye(4)
        if frame.depth is not None and is_floor_below(
            frame.depth, frame.intrinsics, T_world_camera[2, :3]
        ):
            return np.eye(4)
        T_level_camera = _LEVEL_CAMERA if self._guess else None
        if frame.depth is not None:
            seen = level_from_depth(frame.depth, frame.intrinsics)
            T_level_camera = T_level_camera if seen is None else seen
        return None if T_level_camera is None else T_level_camera @ inverse(T_world_camera)


def pose_buffer(poses: Sequence[tuple[int, np.ndarray]]) -> PoseBuffer:
    """All poses of a recording, which is read before its first image."""
    poses = sorted(poses, key=lambda pose: pose[0])
    duration = (poses[-1][0] - poses[0][0]) / 1e9 + 1 if poses else 1.0
    buffer = PoseBuffer(duration, _MAX_POSE_GAP, MAX_STAMP_DIFFERENCE_NS / 1e9)
    for stamp, pose in poses:
        buffer.add(stamp, pose)
    return buffer


def pose_at(poses: PoseBuffer, stamp_ns: int) -> np.ndarray | None:  # -> [4, 4]
    """The pose at a stamp, or None where the recording has a gap."""
    try:
        return poses.lookup(stamp_ns)
    except PoseUnavailableError:
        return None
