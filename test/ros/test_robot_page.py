"""docs/robot.md: every command, name and value on the page is one that works."""

from __future__ import annotations

from pathlib import Path
import re
import shlex

import pytest

pytest.importorskip('rclpy', reason='needs rclpy')

from rclpy.parameter import Parameter
from ros_helpers import start

from sharp_ros.apps import cli
from sharp_ros.config import flatten_keys, load_yaml
from sharp_ros.parameter_text import load_value

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'robot.md').read_text()
BLOCKS = [lines.split('\n', 1)[1] for lines in PAGE.split('```')[1::2]]
CODE = [*re.findall(r'`([^`\n]+)`', re.sub(r'```.*?```', '', PAGE, flags=re.DOTALL))]
COMMANDS = [*CODE, *(line.removeprefix('$ ') for block in BLOCKS for line in block.splitlines())]
OURS = sorted({c for c in COMMANDS if re.match(r'sharp-ros \w+', c)})
ROS2 = sorted({c for c in COMMANDS if c.startswith('ros2 ')})


@pytest.mark.parametrize('command', OURS)
def test_our_commands_are_understood(command):
    arguments = shlex.split(command)[1:]
    assert callable(cli._parser(arguments).parse_args(arguments).run)


def test_the_worked_example_prints_what_the_page_shows(capsys):
    (block,) = (b for b in BLOCKS if b.startswith('$ sharp-ros mount'))
    command, shown = block.split('\n', 1)
    assert cli.main(shlex.split(command)[2:]) == 0
    assert capsys.readouterr().out == shown


def test_the_parameter_file_is_one(tmp_path, capsys):
    (block,) = (b for b in BLOCKS if b.startswith('/**'))
    path = tmp_path / 'robot.yaml'
    path.write_text(block)
    config = load_yaml(path)
    assert config.pose.base_frame == 'base_link'
    cli.main(['mount', '--forward', '0.2', '--up', '0.3', '--pitch', '-15'])
    assert capsys.readouterr().out.splitlines()[-1] in block
    assert config.scale.camera_height == 0.3


def test_ros2_commands_name_what_the_node_has(make_node):
    node = start(make_node())
    publishers = {topic for topic, _ in node.get_topic_names_and_types()}
    services = dict(node.get_service_names_and_types_by_node('sharp', '/'))
    checked = 0
    for command in ROS2:
        words = shlex.split(command)
        if words[1:3] == ['param', 'set']:
            _, _, _, name, key, value = words
            assert name == '/sharp'
            changed = node.set_parameters_atomically([Parameter(key, value=load_value(value))])
            assert changed.successful, changed.reason
        elif words[1] == 'topic':
            assert words[2:4] == ['echo', '--once'], command
            assert words[4] in publishers, command
        elif words[1:3] == ['service', 'call']:
            assert services[words[3]] == [words[4]]
        elif words[1] == 'lifecycle':
            assert {'/sharp/get_state', '/sharp/change_state'} <= services.keys()
        elif words[1] == 'launch':
            text = (ROOT / 'launch' / words[3]).read_text()
            assert all(f"'{w.partition(':=')[0]}'" in text for w in words[4:]), command
        else:
            assert words[1] == 'run', command
            continue
        checked += 1
    assert checked >= 8


def test_reasons_and_settings_exist():
    source = '\n'.join(p.read_text() for p in (ROOT / 'sharp_ros').rglob('*.py'))
    reasons = re.findall(r'`(?:unmapped|dropped)\.(\w+)`', PAGE)
    assert len(reasons) >= 8
    for reason in [*reasons, 'scale_disputed', 'little_free']:
        assert f"'{reason}'" in source, reason
    known = set(flatten_keys())
    sections = {key.partition('.')[0] for key in known} - {'views'}
    named = [
        code.partition(':')[0]
        for code in CODE
        if re.fullmatch(rf'({"|".join(sections)})\.[a-z_]+(: \S+)?', code)
    ]
    assert len(named) > 12
    assert set(named) <= known


def test_links_lead_somewhere():
    for target in re.findall(r'\]\(([^)#:]+)', PAGE):
        assert (ROOT / 'docs' / target).exists(), target
