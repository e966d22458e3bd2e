"""What is shipped beside the code agrees with it."""

from __future__ import annotations

import ast
from pathlib import Path
import re
import xml.etree.ElementTree as ET

import pytest
import yaml

from sharp_ros import __version__
from sharp_ros.config import SharpConfig

ROOT = Path(__file__).parents[1]


def test_package_xml_names_the_version_licence_and_build_type():
    package = ET.parse(ROOT / 'package.xml').getroot()
    assert package.get('format') == '3'
    assert package.findtext('version') == __version__
    assert package.findtext('license') == 'Apache-2.0'
    assert package.findtext('export/build_type') == 'ament_python'


def test_setup_has_the_same_version():
    assert f"version='{__version__}'" in (ROOT / 'setup.py').read_text()


def test_every_message_package_that_is_imported_is_declared():
    declared = {e.text for e in ET.parse(ROOT / 'package.xml').getroot().iter('exec_depend')}
    imported = set()
    for path in (ROOT / 'sharp_ros').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition('.')[0])
    ros = {m for m in imported if m.endswith(('_msgs', '_interfaces', '_srvs')) or m == 'rclpy'}
    assert ros <= declared, ros - declared


def test_rviz_shows_every_cloud_grid_and_image_with_fitting_qos():
    rviz = yaml.safe_load((ROOT / 'rviz' / 'sharp.rviz').read_text())['Visualization Manager']
    topics = {d['Topic']['Value']: d['Topic'] for d in rviz['Displays'] if 'Topic' in d}
    views = [f'/sharp/view/{name}/image' for name in SharpConfig().views]
    expected = ['occupancy_grid', 'points', 'gaussians', 'depth/image', 'odometry']
    expected += ['map_points', 'clearing_points', 'snapshot/points', 'image_rect', 'scan']
    assert set(topics) == {*(f'/sharp/{t}' for t in expected), *views}
    for topic in ('occupancy_grid', 'map_points', 'snapshot/points'):
        assert topics[f'/sharp/{topic}']['Durability Policy'] == 'Transient Local'


def test_launch_file_starts_our_executable_and_holds_no_settings_of_the_node():
    text = (ROOT / 'launch' / 'sharp.launch.py').read_text()
    compile(text, 'sharp.launch.py', 'exec')
    for program in ('sharp_node', 'sharp_autostart'):
        assert f"executable='{program}'" in text
        assert f'{program} = sharp_ros.ros.programs:{program}' in (ROOT / 'setup.py').read_text()
    for section in ('occupancy.', 'point_cloud.', 'views.'):
        assert section not in text


@pytest.mark.parametrize(
    'name',
    [
        *('README.md', 'CONTRIBUTING.md', 'docker/README.md'),
        *('docs/architecture.md', 'docs/findings.md'),
    ],
)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r'\]\(([^)#:]+)\)', page.read_text()):
        assert (page.parent / target).exists(), f'{name} links to {target}'


def test_readme_names_every_command_and_service():
    from sharp_ros.apps.cli import COMMANDS

    readme = (ROOT / 'README.md').read_text()
    for command in COMMANDS:
        assert f'sharp-ros {command}' in readme or f'make {command}' in readme, command
    services = (ROOT / 'sharp_ros' / 'ros' / 'services.py').read_text()
    names = re.findall(r"^            '([a-z_]+)': self", services, re.MULTILINE)
    assert len(names) == 4
    for service in (*names, 'set_enabled'):
        assert f'| `~/{service}` |' in readme, service


def test_findings_are_listed_one_line_each_and_stand_on_their_own():
    page = (ROOT / 'docs' / 'findings.md').read_text()
    listed = re.findall(
        r'^\| \[(\w+)\]\(\.\./findings/(\w+)\.sh\) \| \S.* \|$', page, re.MULTILINE
    )
    scripts = sorted((ROOT / 'findings').iterdir())
    assert [name for name, _ in listed] == [file for _, file in listed]
    assert [name for name, _ in listed] == [script.stem for script in scripts]
    for script in scripts:
        text = script.read_text()
        assert script.suffix == '.sh'
        assert script.stat().st_mode & 0o100, script
        assert text.startswith('#!/bin/sh\n# '), script
        assert 'set -eu\nfolder=$(mktemp -d)\n' in text, script
        assert 'sharp_ros' not in text, script
        installed = re.findall(r'install -qq((?:\\\n|[^\n])*)', text)
        words = ' '.join(installed).replace('\\', ' ').split()
        packages = [word for word in words if not word.startswith('-')]
        assert packages, script
        assert all('==' in word for word in packages), script
