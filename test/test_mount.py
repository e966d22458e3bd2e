"""`sharp-ros mount`: three ways to write one pose."""

from __future__ import annotations

import math
import shlex
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import yaml

from sharp_ros.apps.cli import main
from sharp_ros.config import from_flat, nested_to_flat
from sharp_ros.se3 import apply, inverse, matrix_from_quat, transform

# the command the documentation works with, and what it means
EXAMPLE = ['mount', '--forward', '0.2', '--up', '0.3', '--pitch', '-15']


def printed(capsys, *arguments):
    """[4, 4] of the parameter, of the command and of the URDF, and the lines themselves."""
    assert main(['mount', *arguments]) == 0
    command, urdf, parameter = [
        line for line in capsys.readouterr().out.splitlines() if not line.startswith('#')
    ]
    return from_parameter(parameter), from_command(command), from_urdf(urdf), (command, urdf)


def from_parameter(line):
    config = from_flat(nested_to_flat(yaml.safe_load(line)))
    values = yaml.safe_load(line)['pose']['base_to_camera']
    assert all(isinstance(v, float) for v in values)  # ROS takes no list of both kinds
    x, y, z, *quat = config.pose.base_to_camera
    return transform(matrix_from_quat(np.array([quat[3], *quat[:3]])), np.array([x, y, z]))


def from_command(line):
    words = shlex.split(line)
    assert words[:4] == ['ros2', 'run', 'tf2_ros', 'static_transform_publisher']
    flags = dict(zip(words[4::2], words[5::2], strict=True))
    x, y, z, qx, qy, qz, qw = (
        float(flags[f'--{name}']) for name in ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw')
    )
    return transform(matrix_from_quat(np.array([qw, qx, qy, qz])), np.array([x, y, z]))


def from_urdf(line):
    """As URDF defines it: about the fixed axes, roll, then pitch, then yaw."""
    origin = ET.fromstring(f'<robot>{line}</robot>').find('joint/origin')
    roll, pitch, yaw = map(float, origin.get('rpy').split())

    def turned(angle, a, b):
        R = np.eye(3)
        R[a, a] = R[b, b] = math.cos(angle)
        R[b, a] = math.sin(angle)
        R[a, b] = -R[b, a]
        return R

    R = turned(yaw, 0, 1) @ turned(pitch, 2, 0) @ turned(roll, 1, 2)
    return transform(R, np.array([float(v) for v in origin.get('xyz').split()]))


@pytest.mark.parametrize(
    'arguments',
    [
        [],
        EXAMPLE[1:],
        ['--forward=-0.1', '--left=0.25', '--up=1.1', '--yaw=135', '--pitch=-40', '--roll=7'],
        ['--pitch=-90', '--yaw=20'],
        ['--roll=90'],  # of which a URDF knows only the sum of two angles
        ['--roll=-90', '--pitch=-30', '--yaw=50'],
        ['--roll=180', '--up=1e-8'],
    ],
)
def test_parameter_command_and_urdf_are_the_same_pose(capsys, arguments):
    parameter, command, urdf, _ = printed(capsys, *arguments)
    np.testing.assert_allclose(parameter, command, atol=1e-8)
    np.testing.assert_allclose(urdf, command, atol=1e-6)
    np.testing.assert_allclose(inverse(command) @ command, np.eye(4), atol=1e-8)


def test_a_camera_that_looks_ahead_has_the_usual_quaternion(capsys):
    _, _, _, (command, urdf) = printed(capsys, '--forward', '0.2', '--up', '0.3')
    assert '--x 0.2 --y 0.0 --z 0.3 --qx -0.5 --qy 0.5 --qz -0.5 --qw 0.5 ' in command
    assert 'rpy="-1.570796327 0.0 -1.570796327"' in urdf


@pytest.mark.parametrize(
    ('turn', 'seen', 'place'),
    [
        ([], (0, 0, 1), (1, 0, 0)),  # ahead
        ([], (1, 0, 0), (0, -1, 0)),  # right in the image is the right of the robot
        ([], (0, 1, 0), (0, 0, -1)),
        (['--pitch=-15'], (0, 0, 1), (math.cos(math.pi / 12), 0, -math.sin(math.pi / 12))),
        (['--yaw=90'], (0, 0, 1), (0, 1, 0)),  # to the left
        (['--roll=10'], (1, 0, 0), (0, -math.cos(math.pi / 18), -math.sin(math.pi / 18))),
        (['--pitch=-90'], (0, 1, 0), (-1, 0, 0)),  # below the image is behind
    ],
)
def test_each_angle_turns_as_its_help_says(capsys, turn, seen, place):
    pose = printed(capsys, *turn)[0]
    np.testing.assert_allclose(apply(pose, np.array([seen], float))[0], place, atol=1e-6)


def test_a_floor_ahead_is_where_the_tilted_camera_sees_it(capsys):
    """0.3 m up, 15 degrees down: the optical axis meets the floor 1.12 m ahead of the lens."""
    pose = printed(capsys, *EXAMPLE[1:])[0]
    distance = 0.3 / math.sin(math.radians(15))
    point = apply(pose, np.array([[0.0, 0.0, distance]]))[0]
    np.testing.assert_allclose(point, [0.2 + 0.3 / math.tan(math.radians(15)), 0, 0], atol=1e-6)


def test_frames_are_named_as_asked(capsys):
    *_, (command, urdf) = printed(
        capsys, '--base-frame', 'base_footprint', '--camera-frame', 'eye'
    )
    assert command.endswith('--frame-id base_footprint --child-frame-id eye')
    joint = ET.fromstring(f'<robot>{urdf}</robot>').find('joint')
    assert joint.find('parent').get('link') == 'base_footprint'
    assert joint.find('child').get('link') == 'eye'


@pytest.mark.parametrize(
    'arguments', [['--forward', 'nan'], ['--up', 'inf'], ['--camera-frame', 'a"; rm b']]
)
def test_what_is_no_mounting_is_refused_in_one_line(capsys, arguments):
    assert main(['mount', *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert error.count('\n') == 1
