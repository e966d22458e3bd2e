"""Whether z of the world is up: what poses and tf say, held against reason and an IMU."""

from __future__ import annotations

import math

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.errors import InputError

SURE_STD = 0.06  # rad; an IMU that knows no better levels nothing
_HIGHEST = 20_000.0  # metres, of anything over or under the sea
_EARTH = 6_330_000.0, 6_400_000.0  # metres from its centre to such things
_ALLOWED = math.radians(5)  # of ramps, suspensions and mountings, besides three deviations


def sure_up(frame: Frame) -> np.ndarray | None:  # -> [3]
    """Upwards in the optical frame, where an IMU is sure of it."""
    return frame.up.direction if frame.up is not None and frame.up.std <= SURE_STD else None


def no_height(frame: Frame) -> InputError | None:
    """Why z of a pose cannot be up: no robot is `_HIGHEST` above its floor.

    So it is with poses from the centre of the earth (ECEF), but for those near the equator, of
    which only an IMU knows.

    Returns:
        `pose_not_z_up`, with z.
    """
    if frame.T_world_camera is None or abs(z := float(frame.T_world_camera[2, 3])) <= _HIGHEST:
        return None
    low, high = _EARTH
    from_centre = low < float(np.linalg.norm(frame.T_world_camera[:3, 3])) < high
    return InputError(
        f'its pose in {frame.world_frame or "the world"} has z = {z:.0f} m, which is no height'
        f'{": it is from the centre of the earth (ECEF)" if from_centre else ""}; the map needs a '
        'world with z up and its floor at z = 0: give poses in a local one, as ENU or UTM',
        'pose_not_z_up',
    )


def contradiction(frame: Frame, frames: dict[str, str]) -> InputError | None:
    """Why what is said to be up cannot be, if an IMU measured something else.

    Args:
        frame: with its pose, if it comes from elsewhere, and transforms.
        frames: of tf with z up, and what they are used for.

    Returns:
        `gravity_contradicts_pose` or `gravity_contradicts_tf`, with the angles of both.
    """
    if frame.up is None:
        return None
    claims: list[tuple[str, str, np.ndarray]] = []
    if frame.T_world_camera is not None:
        source = f'its pose in {frame.world_frame or "the world"}'
        claims.append((source, 'gravity_contradicts_pose', frame.T_world_camera[2, :3]))
    for name, use in frames.items():
        if name in frame.transforms:
            up = frame.transforms[name][:3, 2]
            claims.append((f'z of {name} ({use})', 'gravity_contradicts_tf', up))
    allowed = _ALLOWED + 3 * frame.up.std
    for source, reason, up in claims:
        cosine = float(up @ frame.up.direction)
        if not cosine >= math.cos(min(allowed, math.pi)):  # NaN contradicts, too
            return InputError(
                f'gravity contradicts {source} by {_degrees(math.acos(max(-1.0, cosine)))}: '
                f'the camera {_attitude(frame.up.direction)} by the IMU, and {_attitude(up)} by '
                f'that, where {_degrees(allowed)} are allowed; check the mounting of the IMU '
                '(imu.base_to_imu, or its frame in tf) and of the camera',
                reason,
            )
    return None


def _attitude(up: np.ndarray) -> str:
    """How a camera is held, for people."""
    pitch = math.asin(min(max(float(up[2]), -1.0), 1.0))
    roll = math.atan2(-float(up[0]), -float(up[1]))  # its right side down
    return f'looks {_degrees(pitch)} upwards, rolled by {_degrees(roll)}'


def _degrees(angle: float) -> str:
    return f'{round(math.degrees(angle)) if math.isfinite(angle) else angle} degrees'  # no -0
