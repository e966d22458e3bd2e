"""`sharp-ros mount`: how the camera is mounted, as parameter, tf command and URDF."""

from __future__ import annotations

import argparse
import math

from sharp_ros.camera_mount import (
    mount_pose,
    parameter_line,
    static_transform_command,
    urdf_line,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sharp-ros mount`."""
    for name, unit, help_ in (
        ('forward', 'M', 'position of the lens ahead of the origin of the base frame, metres'),
        ('left', 'M', 'position of the lens to its left, metres'),
        ('up', 'M', 'position of the lens above it, metres'),
        ('pitch', 'DEG', 'degrees by which it is turned upwards: -15 looks down'),
        ('yaw', 'DEG', 'degrees by which it is turned to the left'),
        ('roll', 'DEG', 'degrees by which it is turned clockwise as seen from behind'),
    ):
        parser.add_argument(f'--{name}', type=float, default=0.0, metavar=unit, help=help_)
    parser.add_argument('--base-frame', default='base_link', help='robot frame, x ahead and z up')
    parser.add_argument(
        '--camera-frame',
        default='camera_optical_frame',
        help='optical frame, which is header.frame_id of the images',
    )


def run(args: argparse.Namespace) -> int:
    """Print them."""
    angles = (math.radians(getattr(args, name)) for name in ('roll', 'pitch', 'yaw'))
    pose = mount_pose((args.forward, args.left, args.up), *angles)
    frames = (args.base_frame, args.camera_frame)
    lines = {
        'the camera is in tf, by this or by the URDF below': static_transform_command(
            pose, *frames
        ),
        'in the URDF of the robot': urdf_line(pose, *frames),
        f'or only in the parameters of sharp_ros (odometry gives the pose of {args.base_frame})': (
            parameter_line(pose, args.base_frame)
        ),
    }
    print('\n'.join(f'# {what}\n{line}' for what, line in lines.items()))
    return 0
