"""What all sources share: the frame, the role, the assumed field of view, recorded poses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import math
from typing import Protocol

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.mapping.gravity import level_from_depth
from sharp_ros.se3 import inverse, PoseBuffer

DEFAULT_HFOV = math.radians(60)  # a phone's main camera, about
MAX_STAMP_DIFFERENCE_NS = 20_000_000  # of a depth image or an end of the trajectory
_MAX_POSE_GAP = 0.25  # seconds interpolated over
_MAX_TILT = math.radians(60)  # of a camera whose world is taken to have z up
# Taken for the pose of a camera whose recording does not say what is up and shows no floor.
_LEVEL_CAMERA = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]], float)


@dataclass(frozen=True)
class SourceFrame:
    """One image with what its source knows about it.

    Attributes:
        image: [H, W, 3] uint8 RGB, without distortion.
        intrinsics: of that image; see the source's `note` for where they come from.
        stamp_ns: acquisition time, nanoseconds, of the recording's own clock.
        T_world_camera: [4, 4] pose of the optical frame, or None when unknown.
        depth: [H, W] float32 z-depth in metres registered to the image, or None; 0 and
            non-finite mean no measurement.
        frame_id: of the optical frame.
    """

    image: np.ndarray
    intrinsics: Intrinsics
    stamp_ns: int
    T_world_camera: np.ndarray | None = None
    depth: np.ndarray | None = None
    frame_id: str = 'camera_optical_frame'


class Source(Protocol):
    """A camera or a recording.

    Attributes:
        name: what it is, for people.
        rate_hz: nominal frame rate.
        note: what was assumed, for example a field of view; empty when all is known.
    """

    name: str
    rate_hz: float
    note: str

    def frames(self) -> Iterator[SourceFrame]:
        """Frames in order of time, until the recording ends.

        Raises:
            InputError: when there is nothing (more) to deliver and there should be.
        """
        ...


def assumed_hfov(hfov: float | None) -> tuple[float, str]:
    """Field of view of an uncalibrated source, and the sentence that owns up to it."""
    if hfov:
        return hfov, f'not calibrated; field of view {math.degrees(hfov):.0f} degrees as given'
    return DEFAULT_HFOV, (
        f'not calibrated; assumed a field of view of {math.degrees(DEFAULT_HFOV):.0f} degrees, '
        'distances scale with it; give the right one with --hfov'
    )


def level_world(frame: SourceFrame) -> np.ndarray:  # -> [4, 4]
    """`T_level_world`, from the first frame with a pose: identity if the world's z axis is up.

    Recordings whose world is merely some camera would otherwise be cut into height bands along an
    arbitrary direction.
    """
    T_level_world = known_level(frame)
    if T_level_world is None:
        assert frame.T_world_camera is not None
        return _LEVEL_CAMERA @ inverse(frame.T_world_camera)
    return T_level_world


def known_level(frame: SourceFrame) -> np.ndarray | None:  # -> [4, 4]
    """As `level_world`; None where it would have to guess, since no floor is seen."""
    assert frame.T_world_camera is not None
    if frame.T_world_camera[2, 1] <= -math.cos(_MAX_TILT):  # the image's y is down
        return np.eye(4)
    if frame.depth is None:
        return None
    T_level_camera = level_from_depth(frame.depth, frame.intrinsics)
    return None if T_level_camera is None else T_level_camera @ inverse(frame.T_world_camera)


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
