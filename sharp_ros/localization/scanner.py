"""Where the scan of a frame lies: the floor that its heights count from, and its frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharp_ros.camera import FloorGeometry, Frame, MIN_HEIGHT
from sharp_ros.config import SharpConfig
from sharp_ros.errors import InputError, PoseUnavailableError
from sharp_ros.localization.gravity import level_pose
from sharp_ros.localization.localized import Localized
from sharp_ros.localization.scale_anchors import up_from_pose
from sharp_ros.scan import Scan, scan_from_depth
from sharp_ros.se3 import inverse


@dataclass(frozen=True)
class PlacedScan:
    """A scan and the frame it is in.

    Attributes:
        scan: distances and bearings in the x-y plane of that frame.
        base_frame: frame of the robot, x ahead; empty: that of `T_camera_scan`.
        T_camera_scan: [4, 4] level frame on the floor below the camera, x ahead of it, in the
            optical frame; None where the scan is in the frame of the robot.
    """

    scan: Scan
    base_frame: str = ''
    T_camera_scan: np.ndarray | None = None


def scan_of_frame(
    localized: Localized,
    depth: np.ndarray,
    log_std: np.ndarray | None,
    floor: FloorGeometry | None,
    config: SharpConfig,
    objection: InputError | None = None,
) -> PlacedScan:
    """The scan of a frame in metres, if it is known how the camera stands over the floor.

    That is as given by `floor`, else by the pose in a world whose z = 0 is the floor, else by the
    frame of the robot.

    Args:
        localized: frame and pose.
        depth: [H, W] z-depth of it, metres, cleaned.
        log_std: [m, n] standard deviation of its logarithm; None: not known.
        floor: see `Localizer.floor`.
        config: all settings.
        objection: why nothing may be learnt from the frame, see `BegunFrame`.

    Raises:
        PoseUnavailableError: `no_base_frame` if tf does not place `pose.base_frame`, or why the
            frame has no floor; `floor_unknown` if nobody says anything of it.
        InputError: the objection.
    """
    frame, base = localized.frame, config.pose.base_frame
    if objection is not None:
        raise objection
    T_camera_base = np.eye(4) if base == frame.frame_id else frame.transforms.get(base)
    if base and T_camera_base is None:
        raise PoseUnavailableError(
            f'tf does not place {base} (pose.base_frame), which the scan would be in; publish it, '
            'or leave pose.base_frame empty for a scan in a level frame below the camera',
            'no_base_frame',
        )
    if floor is None and localized.unmappable is None:
        floor = _floor_by_pose(frame)
    if floor is None and base:
        assert T_camera_base is not None
        height = float(inverse(T_camera_base)[2, 3])
        floor = _floor(T_camera_base[:3, 2], height)
    if floor is None:
        raise localized.unmappable or PoseUnavailableError(
            'nothing says where the floor is: give the pose of the camera in a world with z = 0 '
            'on the floor, pose.base_frame, scale.floor_frame, or scale.camera_height with an IMU',
            'floor_unknown',
        )
    pose = level_pose(floor.up / np.linalg.norm(floor.up), floor.height)
    T_camera_scan = None
    if base:
        assert T_camera_base is not None
        pose = np.vstack([inverse(T_camera_base)[:2], pose[2:]])  # z counts from the floor
    else:
        T_camera_scan = inverse(pose)
    scan = scan_from_depth(depth, frame.intrinsics, pose, config, log_std, frame.unseen)
    return PlacedScan(scan, base, T_camera_scan)


def _floor_by_pose(frame: Frame) -> FloorGeometry | None:
    """The floor as the plane z = 0 of the world, if the camera stands over it."""
    pose = frame.T_world_camera
    up = None if pose is None else up_from_pose(pose)
    return None if pose is None or up is None else _floor(up, float(pose[2, 3]))


def _floor(up: np.ndarray, height: float) -> FloorGeometry | None:
    return FloorGeometry(up, height) if height >= MIN_HEIGHT else None
