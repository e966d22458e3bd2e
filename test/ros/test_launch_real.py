"""The launch files with the real `ros2 launch`, against the installed package.

Runs where launch_ros, ros2cli and the built workspace are, as on every robot.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path
import shutil
import signal
import subprocess
import time

import endings
import pytest
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python

ROOT = Path(__file__).parents[2]


def missing():
    """What keeps these tests from running, or nothing."""
    if importlib.util.find_spec('launch_ros') is None or shutil.which('ros2') is None:
        return 'launch_ros and ros2cli are not installed'
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    if not any((Path(p) / 'share' / 'sharp_ros' / 'launch').is_dir() for p in prefixes):
        return 'sharp_ros is not installed in a workspace; colcon build, and source it'
    return ''


pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
START = 120.0


class Launch:
    """One `ros2 launch sharp_ros FILE KEY:=VALUE ...` as a process of its own."""

    def __init__(self, folder, file, *arguments, **environment):
        self.log = folder / 'launch.log'
        with self.log.open('wb') as output:
            self.process = subprocess.Popen(
                [shutil.which('ros2'), 'launch', 'sharp_ros', file, *arguments],
                env={**os.environ, **environment},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait_for(self, text, count=1, each=lambda: time.sleep(0.1)):
        end = time.monotonic() + START
        while self.log.read_text().count(text) < count:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            each()

    def end(self):
        """Exit code after Ctrl-C, and all that was printed."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(30), self.log.read_text()

    def ended(self):
        """Exit code of a launch that ends by itself, and its lines of level ERROR."""
        code = self.process.wait(START)
        return code, [line for line in self.log.read_text().splitlines() if '[ERROR]' in line]

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def launch(tmp_path):
    launches = []

    def start(*arguments, **environment):
        launches.append(Launch(tmp_path, *arguments, **environment))
        return launches[-1]

    yield start
    for started in launches:
        started.kill()


@pytest.mark.parametrize('name', endings.LAUNCHES)
def test_each_file_starts_active_nodes_and_ends_after_ctrl_c_without_an_error(name):
    outcome = endings.ending(*endings.LAUNCHES[name], endings.WAYS['Ctrl-C'])
    assert not outcome.fault, outcome.fault
    assert outcome.end < endings.LIMIT


@pytest.mark.parametrize('name', endings.LAUNCHES)
def test_no_process_is_left_when_the_launch_alone_is_killed(name):
    with endings.orphans_adopted():
        outcome = endings.ending(*endings.LAUNCHES[name], endings.WAYS['SIGTERM to the launch'])
    assert not outcome.fault, outcome.fault


def test_names_topics_parameters_and_clock_arrive_at_the_node(launch, peer, tmp_path):
    overrides = tmp_path / 'mine.yaml'
    overrides.write_text('/**:\n  ros__parameters:\n    occupancy.voxel_size: 0.123\n')
    run = launch(
        'sharp.launch.py', 'namespace:=front', 'name:=eye', f'overrides:={overrides}',
        'model:=sensor', 'use_sim_time:=True', 'image:=/cam/image', 'camera_info:=info',
    )  # fmt: skip
    run.wait_for('/front/eye is active')
    client = peer.node.create_client(GetParameters, '/front/eye/get_parameters')
    peer.spin_until(client.service_is_ready, START)
    names = ['occupancy.voxel_size', 'model.name', 'use_sim_time', 'pose.wait']
    answer = client.call_async(GetParameters.Request(names=names))
    peer.spin_until(answer.done, START)
    values = [parameter_value_to_python(value) for value in answer.result().values]
    assert values == [0.123, 'sensor', True, 0.1]
    topics = {
        topic for topic, _ in peer.node.get_subscriber_names_and_types_by_node('eye', '/front')
    }
    assert {'/cam/image', '/front/info', '/front/camera/depth/image', '/front/odom'} <= topics
    peer.node.destroy_client(client)
    code, text = run.end()
    assert code == 0, text
    assert '[ERROR]' not in text


@pytest.mark.parametrize(('arguments', 'message'), [
    (['sharp.launch.py', 'use_sim_time:=maybe'], 'use_sim_time:=maybe is neither true nor false'),
    (['sharp.launch.py', 'overrides:=/nowhere.yaml'], 'overrides:=/nowhere.yaml is no file'),
    (['sharp.launch.py', 'name:=my-node'], 'names consist of letters'),
    (['demo.launch.py', 'rviz:=maybe'], 'rviz:=maybe is neither true nor false'),
    (['demo.launch.py', 'rviz:=false', 'hfov:=wide'], 'hfov:=wide is no number'),
    (['multi_camera.launch.py', 'cameras:=a,a'], 'cameras:=a,a: give each camera a name'),
])  # fmt: skip
def test_a_wrong_value_is_one_line_that_names_the_argument(launch, arguments, message):
    code, errors = launch(*arguments).ended()
    assert code == 1
    assert len(errors) == 1
    assert message in errors[0]


def test_a_node_that_refuses_to_start_ends_the_launch_with_its_reason(launch, tmp_path):
    overrides = tmp_path / 'wrong.yaml'
    overrides.write_text('/**:\n  ros__parameters:\n    model.name: /nowhere.safetensors\n')
    run = launch('sharp.launch.py', f'overrides:={overrides}')
    code, errors = run.ended()
    assert code == 1
    text = run.log.read_text()
    assert 'cannot configure' in text
    assert '/nowhere.safetensors' in text
    assert any('the start of /sharp failed' in line for line in errors)


def test_rviz_and_the_player_of_bags_get_their_command_lines(launch, tmp_path):
    """Both are programs in C++ on a robot; what stands for them here says what it was given."""
    prefix = tmp_path / 'prefix'
    (prefix / 'share' / 'ament_index' / 'resource_index' / 'packages').mkdir(parents=True)
    (prefix / 'share' / 'ament_index' / 'resource_index' / 'packages' / 'rviz2').touch()
    for path in (prefix / 'lib' / 'rviz2' / 'rviz2', prefix / 'bin' / 'ros2'):
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/sh\necho "$0 $*" | tee -a {tmp_path}/said\nsleep 1\n')
        path.chmod(0o755)
    run = launch(
        'sharp.launch.py', 'namespace:=front', 'rviz:=true', 'bag:=/data/drive.mcap',
        AMENT_PREFIX_PATH=f'{prefix}:{os.environ["AMENT_PREFIX_PATH"]}',
        PATH=f'{prefix / "bin"}:{os.environ["PATH"]}',
    )  # fmt: skip
    run.wait_for('the bag has ended; /front/sharp goes on')
    lines = run.log.read_text().splitlines()
    (player,) = (line for line in lines if 'bin/ros2 bag play' in line)
    assert player.endswith('ros2 bag play /data/drive.mcap --clock')
    assert lines.index(player) > next(i for i, x in enumerate(lines) if 'sharp is active' in x)
    said = (tmp_path / 'said').read_text().splitlines()
    (rviz,) = (line for line in said if 'lib/rviz2/rviz2 -d' in line)
    assert 'share/sharp_ros/rviz/sharp.rviz --ros-args' in rviz
    assert '-r /sharp/points:=/front/sharp/points' in rviz
    parameters = rviz.partition('--params-file ')[2].split()[0]
    assert 'use_sim_time: true' in Path(parameters).read_text()


@pytest.mark.skipif(shutil.which('rviz2') is not None, reason='rviz2 is installed')
def test_rviz_that_is_not_installed_is_named(launch):
    code, errors = launch('sharp.launch.py', 'rviz:=true').ended()
    assert code == 1
    assert "package 'rviz2' not found" in errors[0]


def test_a_bag_that_cannot_be_played_ends_the_launch(launch):
    code, errors = launch('sharp.launch.py', 'bag:=/nowhere').ended()
    assert code == 1
    assert any('ros2 bag play failed' in line for line in errors)
