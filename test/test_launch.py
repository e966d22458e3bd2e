"""The launch files, executed by a stand-in for the packages that no wheel carries."""

from __future__ import annotations

import ast
from pathlib import Path
import re
import runpy
import shutil
import sys
import xml.etree.ElementTree as ET

from fake_launch import ExecuteProcess, Launch, Node, OpaqueFunction, ParameterValue
import pytest
import setuptools
import yaml

from sharp_ros.config import SharpConfig
from sharp_ros.process import TRANSPORTS, TRANSPORTS_FOR_IMAGES

ROOT = Path(__file__).parents[1]
FILES = [path.name for path in sorted((ROOT / 'launch').glob('*.launch.py'))]
SHARED = ROOT / 'sharp_ros' / 'ros' / 'launching.py'


@pytest.fixture(scope='module')
def setup_arguments():
    """What setup.py gives setuptools."""
    given = {}
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.chdir(ROOT)
        context.setattr(setuptools, 'setup', lambda **kwargs: given.update(kwargs))
        runpy.run_path('setup.py')
    return given


@pytest.fixture(scope='module')
def share(setup_arguments, tmp_path_factory):
    """The share folder as it is installed."""
    prefix = tmp_path_factory.mktemp('prefix')
    for folder, files in setup_arguments['data_files']:
        (prefix / folder).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(ROOT / file, prefix / folder)
    return prefix / 'share' / 'sharp_ros'


@pytest.fixture
def launch(share):
    def run(name='sharp.launch.py', /, environment=None, **arguments):
        return Launch(share, dict(environment or {})).run(name, **arguments)

    return run


def started(run, executable):
    return [p for p in run.processes if p.command[0] == executable]


def node_of(run):
    (node,) = started(run, 'sharp_node')
    return node


def resolve(process, topic):
    """Full name of a topic, as rcl expands and remaps it."""

    def absolute(name):
        return name if name.startswith('/') else f'{namespace}/{name}'

    namespace = f'/{process.namespace.strip("/")}'.rstrip('/')
    rules = {absolute(k): absolute(v) for k, v in process.remappings.items()}
    return rules.get(absolute(topic), absolute(topic))


def place_of(process):
    return f'/{process.namespace}/{process.name}'.replace('//', '/')


# all files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', FILES)
def test_every_argument_is_described_and_used(launch, name):
    run = launch(name, rviz='front' if 'multi' in name else 'true')
    for argument, declared in run.declared.items():
        assert declared.description, argument
    assert run.read == run.declared.keys()


@pytest.mark.parametrize('name', FILES)
def test_every_file_with_its_defaults_starts_nodes_that_are_installed_and_activates_each(
    launch, setup_arguments, name
):
    run = launch(name)
    scripts = {e.split(' = ')[0] for e in setup_arguments['entry_points']['console_scripts']}
    assert {p.command[0] for p in run.processes if p.package == 'sharp_ros'} <= scripts
    nodes = started(run, 'sharp_node')
    assert nodes
    starts = [p.command for p in started(run, 'sharp_autostart')]
    assert starts == [['sharp_autostart', place_of(node)] for node in nodes]
    for node in nodes:
        assert node.files
        assert all(Path(file).is_file() for file in node.files)
    assert run.ended is None


@pytest.mark.parametrize('name', FILES)
def test_every_package_that_a_file_imports_or_starts_is_declared(launch, name):
    declared = {e.text for e in ET.parse(ROOT / 'package.xml').getroot().iter('exec_depend')}
    trees = [ast.parse(path.read_text()) for path in (ROOT / 'launch' / name, SHARED)]
    imported = {
        node.module.partition('.')[0]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert imported - sys.stdlib_module_names - {'sharp_ros'} <= declared
    run = launch(name, rviz='front' if 'multi' in name else 'true')
    assert {p.package for p in run.processes} - {'sharp_ros'} <= declared


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize(('before', 'after'), [(None, TRANSPORTS_FOR_IMAGES), ('UDPv4', 'UDPv4')])
def test_the_transports_are_set_unless_the_user_has_set_them(launch, name, before, after):
    run = launch(name, environment={} if before is None else {TRANSPORTS: before})
    assert {p.environment[TRANSPORTS] for p in run.processes} == {after}


@pytest.mark.parametrize(
    'path',
    [
        'scripts/env.sh',
        'docker/Dockerfile.cpu',
        'docker/Dockerfile.cuda',
        '.github/workflows/ros.yml',
        'README.md',
        'docs/launch.md',
        'docs/planners.md',
    ],
)
def test_whoever_sets_the_transports_sets_the_same(path):
    settings = re.findall(rf'{TRANSPORTS}[^A-Z]*(DEFAULT\?\w*=\w*)', (ROOT / path).read_text())
    assert set(settings) == {TRANSPORTS_FOR_IMAGES}


@pytest.mark.parametrize('name', FILES)
def test_the_page_lists_every_argument_and_no_other(launch, name):
    page = (ROOT / 'docs' / 'launch.md').read_text()
    section = page.partition(f'\n## `{name}`')[2].partition('\n## ')[0]
    listed = re.findall(r'^\| `(\w+)` \|', section, re.MULTILINE)
    text = (ROOT / 'launch' / name).read_text()
    own = [a for a in launch(name).declared if f"'{a}': (" in text]  # not of an included file
    assert sorted(listed) == sorted(own)


@pytest.mark.parametrize('name', FILES)
def test_no_process_outlives_a_launch_that_is_killed(launch, name):
    assert {p.prefix for p in launch(name).processes} == {'setpriv --pdeathsig INT'}
    assert {p.prefix for p in launch(name, **{'launch-prefix': 'gdb'}).processes} == {'gdb'}


@pytest.mark.parametrize('name', FILES)
def test_processes_are_named_after_their_programs_and_not_what_runs_them(launch, name):
    for process in launch(name).processes:
        assert process.action.label == process.command[0]


# the stand-in ------------------------------------------------------------------------------------


@pytest.mark.parametrize(('make', 'error'), [
    (lambda: Node(executable='x', name='x', namespace='', autostart=True), 'autostart'),
    (lambda: ParameterValue('false', value_type=bool), 'not an instance of'),
    (lambda: ParameterValue(1, value_type=float), 'not an instance of'),
    (lambda: Node(executable='x', parameters=({},)), 'expected a list'),
    (lambda: Node(executable='x', parameters=[{'a': None}]), 'Unexpected type'),
    (lambda: Node(executable='x', parameters=[Path('/x')]), 'iterable'),
    (lambda: Node(executable='x', remappings=[('a', 1)]), 'iterable'),
    (lambda: ExecuteProcess(cmd=['x', 1]), 'iterable'),
    (lambda: ExecuteProcess(cmd=['x', [1]]), 'Failed to normalize'),
    (lambda: OpaqueFunction(function=[]), 'expected a callable'),
])  # fmt: skip
def test_the_stand_in_refuses_what_the_real_packages_refuse(make, error):
    with pytest.raises(TypeError, match=error):
        make()


# sharp.launch.py ---------------------------------------------------------------------------------


def test_defaults_start_only_the_node_and_change_no_setting(launch):
    run = launch()
    assert [p.command[0] for p in run.processes] == ['sharp_node', 'sharp_autostart']
    assert place_of(node_of(run)) == '/sharp'
    assert node_of(run).parameters == {'use_sim_time': False}


def test_its_states_can_be_left_to_others(launch):
    assert [p.command[0] for p in launch(autostart='false').processes] == ['sharp_node']


@pytest.mark.parametrize(('program', 'message'), [
    ('sharp_node', '/front/sharp failed (exit code 1); its log says why'),
    ('sharp_autostart', 'the start of /front/sharp failed (exit code 1); its log says why'),
])  # fmt: skip
def test_a_node_that_dies_or_refuses_to_start_is_named_and_ends_the_launch(
    launch, program, message
):
    run = launch(namespace='front')
    (process,) = started(run, program)
    with pytest.raises(RuntimeError, match=re.escape(message)):
        run.exits(process, 1)


def test_a_node_that_is_ended_ends_the_launch(launch):
    run = launch()
    run.exits(node_of(run))
    assert run.ended is None
    run.waits()
    assert run.ended == '/sharp ended'


def test_a_process_that_ctrl_c_ends_before_launch_takes_note_asks_for_no_second_end(launch):
    run = launch('demo.launch.py', rviz='false')
    for process in run.processes:
        run.exits(process)
    run.ended = 'ctrl-c (SIGINT)'
    run.waits()
    assert run.ended == 'ctrl-c (SIGINT)'


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('code', [0, 1, -2])
def test_what_ends_while_the_launch_ends_asks_for_nothing(launch, name, code):
    run = launch(name, **({} if 'multi' in name else {'rviz': 'true'}))
    run.ended = 'ctrl-c (SIGINT)'
    for process in run.processes:
        run.exits(process, code)


def test_a_node_goes_on_after_it_was_started(launch):
    run = launch()
    (start,) = started(run, 'sharp_autostart')
    before = len(run.processes)
    run.exits(start)
    assert run.ended is None
    assert len(run.processes) == before


@pytest.mark.parametrize(('argument', 'value', 'message'), [
    ('use_sim_time', 'maybe', 'use_sim_time:=maybe is neither true nor false'),
    ('rviz', 'yes', 'rviz:=yes is neither true nor false'),
    ('autostart', '2', 'autostart:=2 is neither true nor false'),
    ('overrides', '/nowhere.yaml', 'overrides:=/nowhere.yaml is no file'),
    ('config', '/tmp', 'config:=/tmp is no file'),
    ('namespace', 'my-robot', 'namespace:=my-robot name:=sharp: names consist of'),
    ('name', '', 'names consist of letters, digits and _'),
    ('name', '1st', 'do not begin with a digit'),
])  # fmt: skip
def test_a_wrong_value_ends_the_launch_with_a_line_that_names_the_argument(
    launch, argument, value, message
):
    with pytest.raises(ValueError, match=re.escape(message)):
        launch(**{argument: value})


@pytest.mark.parametrize(('given', 'expected'), [
    ('true', True), ('True', True), ('1', True), ('false', False), ('FALSE', False), ('0', False),
])  # fmt: skip
def test_a_flag_may_be_written_as_launch_itself_reads_conditions(launch, given, expected):
    assert node_of(launch(use_sim_time=given)).parameters == {'use_sim_time': expected}
    assert bool(started(launch(rviz=given), 'rviz2')) == expected


@pytest.mark.parametrize('namespace', ['', 'front', 'robot/front', '/robot/front'])
def test_relative_topics_follow_the_namespace_and_absolute_ones_do_not(launch, namespace):
    node = node_of(launch(namespace=namespace, image='cam/image', depth='/cam/depth'))
    prefix = f'/{namespace.strip("/")}'.rstrip('/')
    assert resolve(node, 'image') == f'{prefix}/cam/image'
    assert resolve(node, 'depth') == '/cam/depth'
    assert resolve(node, 'camera_info') == f'{prefix}/camera/camera_info'
    assert resolve(node, 'odometry') == f'{prefix}/odom'
    default = node_of(launch(namespace=namespace))
    assert resolve(default, 'image') == f'{prefix}/camera/image'
    assert resolve(default, 'depth') == f'{prefix}/camera/depth/image'


def test_exactly_the_inputs_of_the_node_are_remapped(launch):
    source = (ROOT / 'sharp_ros' / 'ros' / 'node.py').read_text()
    inputs = set(re.findall(r"^ +\(?\w+, '(\w+)', self\._on_\w+", source, re.MULTILINE))
    inputs |= set(re.findall(r"topics\.append\(\(\w+, '(\w+)',", source))
    always = {'image', 'camera_info', 'odometry', 'depth'}
    assert set(node_of(launch()).remappings) == always
    sensors = {'imu': '/robot/imu', 'range': '/robot/range'}
    assert set(node_of(launch(**sensors)).remappings) == inputs == always | set(sensors)


@pytest.mark.parametrize('sensor', ['imu', 'range'])
def test_a_sensor_of_the_robot_is_enabled_by_its_topic_and_only_then(launch, sensor):
    node = node_of(launch(namespace='front', **{sensor: '/robot/topic'}))
    assert resolve(node, sensor) == '/robot/topic'
    assert node.parameters[f'{sensor}.enabled'] is True
    assert f'{sensor}.enabled' not in node_of(launch()).parameters  # as the files say
    several = launch('multi_camera.launch.py', **{sensor: '/{camera}/topic'})
    for each in started(several, 'sharp_node'):
        assert resolve(each, sensor) == f'/{each.namespace}/topic'
        assert each.parameters[f'{sensor}.enabled'] is True


def test_a_model_is_passed_as_text_and_only_if_given(launch):
    assert node_of(launch(model='1000')).parameters['model.name'] == '1000'
    assert 'model.name' not in node_of(launch(model='')).parameters


def test_maps_of_several_cameras_are_saved_apart_unless_overrides_say_where(launch, tmp_path):
    assert 'output.directory' not in node_of(launch()).parameters
    for camera in ('front', 'rear'):
        (tmp_path / f'{camera}.yaml').touch()
    two = launch('multi_camera.launch.py', overrides=f'{tmp_path}/{{camera}}.yaml')
    for node in started(two, 'sharp_node'):
        assert node.parameters['output.directory'] == f'~/.ros/sharp_ros/{node.namespace}'
        assert node.order.index({'output.directory'}) == 1  # after the shipped file
        assert node.order[2] == f'{tmp_path}/{node.namespace}.yaml'


def test_the_live_view_is_on_or_off_only_if_given(launch):
    assert node_of(launch(web='true')).parameters['web.enabled'] is True
    assert node_of(launch(web='false')).parameters['web.enabled'] is False
    assert 'web.enabled' not in node_of(launch()).parameters
    with pytest.raises(ValueError, match='web:=maybe'):
        launch(web='maybe')


def test_a_mask_is_passed_as_text_and_only_if_given(launch):
    polygon = '0,100 160,100 160,120'
    assert node_of(launch(mask=polygon)).parameters['camera.mask'] == polygon
    assert 'camera.mask' not in node_of(launch(mask='')).parameters
    two = launch('multi_camera.launch.py', mask='/etc/{camera}.png')
    masks = {node.parameters['camera.mask'] for node in started(two, 'sharp_node')}
    assert masks == {'/etc/front.png', '/etc/rear.png'}


def test_overrides_come_after_the_configuration(launch, share):
    mapping = str(share / 'config' / 'mapping.yaml')
    base = node_of(launch()).files
    assert node_of(launch(overrides=mapping)).files == [*base, mapping]


def test_overrides_may_lie_in_the_home_folder(launch, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'mine.yaml').touch()
    assert node_of(launch(overrides='~/mine.yaml')).files[-1] == str(tmp_path / 'mine.yaml')


def test_a_bag_plays_its_clock_once_the_node_is_active(launch):
    run = launch(bag="/tmp/it's a bag", rviz='true')
    assert not started(run, 'ros2')
    (start,) = started(run, 'sharp_autostart')
    run.exits(start)
    play = run.processes[-1]
    assert play.command == ['ros2', 'bag', 'play', "/tmp/it's a bag", '--clock']
    for process in (node_of(run), *started(run, 'rviz2')):
        assert process.parameters['use_sim_time'] is True
    run.exits(play)
    assert run.log == ['the bag has ended; /sharp goes on']
    assert run.ended is None


def test_a_bag_that_cannot_be_played_ends_the_launch(launch):
    run = launch(bag='x')
    run.exits(started(run, 'sharp_autostart')[0])
    with pytest.raises(RuntimeError, match='ros2 bag play failed'):
        run.exits(run.processes[-1], 2)


def test_a_bag_needs_a_node_that_is_activated(launch):
    with pytest.raises(ValueError, match=r'bag: .* autostart:=true'):
        launch(bag='x', autostart='false')


@pytest.mark.parametrize(('bag', 'given', 'expected'), [
    ('', '', False), ('', 'true', True), ('x', '', True), ('x', 'false', False),
])  # fmt: skip
def test_the_clock_is_that_of_the_bag_unless_said_otherwise(launch, bag, given, expected):
    node = node_of(launch(bag=bag, use_sim_time=given))
    assert node.parameters == {'use_sim_time': expected}


def test_rviz_shows_the_topics_of_this_very_node(launch):
    run = launch(rviz='true', namespace='front', name='eye')
    assert place_of(node_of(run)) == '/front/eye'
    (rviz,) = started(run, 'rviz2')
    file = Path(rviz.command[rviz.command.index('-d') + 1])
    displays = yaml.safe_load(file.read_text())['Visualization Manager']['Displays']
    shown = {resolve(rviz, d['Topic']['Value']) for d in displays if 'Topic' in d}
    assert len(shown) > 10
    assert all(topic.startswith('/front/eye/') for topic in shown)
    assert not started(launch(rviz='false'), 'rviz2')


# the others --------------------------------------------------------------------------------------


def test_the_demo_shows_a_simulated_camera_in_rviz(launch):
    from sharp_ros.ros.camera_driver import CAMERA

    run = launch('demo.launch.py')
    assert {p.command[0] for p in run.processes} == {
        'sharp_node', 'sharp_autostart', 'rviz2', 'sharp_camera',
    }  # fmt: skip
    (camera,) = started(run, 'sharp_camera')
    assert camera.parameters == {'source': 'synthetic', 'hfov': 0.0}
    for topic in ('image', 'camera_info', 'odometry', 'depth'):
        assert resolve(node_of(run), topic) == f'{CAMERA}/{topic}'
    sensor = launch('demo.launch.py', model='sensor', rviz='false')
    assert node_of(sensor).parameters['model.name'] == 'sensor'
    assert not started(sensor, 'rviz2')


def test_the_demo_ends_with_its_camera(launch):
    run = launch('demo.launch.py', source='0')
    (camera,) = started(run, 'sharp_camera')
    assert camera.parameters['source'] == '0'
    run.exits(camera)
    run.waits()
    assert run.ended == 'the camera ended'
    failed = launch('demo.launch.py')
    with pytest.raises(RuntimeError, match='the camera failed'):
        failed.exits(started(failed, 'sharp_camera')[0], 1)


def test_the_field_of_view_of_the_demo_is_a_number(launch):
    (camera,) = started(launch('demo.launch.py', hfov='1'), 'sharp_camera')
    assert camera.parameters['hfov'] == 1.0
    assert isinstance(camera.parameters['hfov'], float)
    with pytest.raises(ValueError, match='hfov:=wide is no number'):
        launch('demo.launch.py', hfov='wide')


def test_cameras_get_nodes_topics_and_overrides_of_their_own(launch, tmp_path):
    for camera in ('front', 'rear', 'arm'):
        (tmp_path / f'{camera}.yaml').touch()
    run = launch(
        'multi_camera.launch.py',
        cameras='front, rear,arm',
        overrides=f'{tmp_path}/{{camera}}.yaml',
    )
    nodes = {p.namespace: p for p in started(run, 'sharp_node')}
    assert list(nodes) == ['front', 'rear', 'arm']
    for camera, node in nodes.items():
        assert place_of(node) == f'/{camera}/sharp'
        assert resolve(node, 'image') == f'/{camera}/image'
        assert resolve(node, 'camera_info') == f'/{camera}/camera_info'
        assert resolve(node, 'odometry') == '/odom'
        assert node.files[-1] == f'{tmp_path}/{camera}.yaml'
    assert 'namespace' not in run.launch_configurations  # of who includes this file


def test_rviz_shows_one_of_several_cameras(launch):
    (rviz,) = started(launch('multi_camera.launch.py', rviz='rear'), 'rviz2')
    assert resolve(rviz, '/sharp/points') == '/rear/sharp/points'
    with pytest.raises(ValueError, match='side'):
        launch('multi_camera.launch.py', rviz='side')


def test_the_browser_shows_one_of_several_cameras(launch):
    nodes = started(launch('multi_camera.launch.py', web='rear'), 'sharp_node')
    assert [node.parameters['web.enabled'] for node in nodes] == [False, True]
    nodes = started(launch('multi_camera.launch.py'), 'sharp_node')
    assert not any('web.enabled' in node.parameters for node in nodes)
    with pytest.raises(ValueError, match='web:=side is none of the cameras'):
        launch('multi_camera.launch.py', web='side')


@pytest.mark.parametrize('cameras', ['front,front', 'front,', ''])
def test_cameras_without_a_name_of_their_own_are_refused(launch, cameras):
    with pytest.raises(ValueError, match=f'cameras:={cameras}: give each'):
        launch('multi_camera.launch.py', cameras=cameras)


def test_one_camera_that_fails_ends_all(launch):
    run = launch('multi_camera.launch.py')
    with pytest.raises(RuntimeError, match='/rear/sharp failed'):
        run.exits(started(run, 'sharp_node')[1], 1)


# RViz --------------------------------------------------------------------------------------------


def rviz_file():
    return yaml.safe_load((ROOT / 'rviz' / 'sharp.rviz').read_text())


def test_rviz_is_fixed_to_the_world_frame_of_the_node():
    options = rviz_file()['Visualization Manager']['Global Options']
    assert options['Fixed Frame'] == SharpConfig().pose.world_frame


def test_rviz_gives_each_topic_one_display_and_each_display_a_name_of_its_own():
    displays = rviz_file()['Visualization Manager']['Displays']
    topics = [d['Topic']['Value'] for d in displays if 'Topic' in d]
    names = [d['Name'] for d in displays]
    assert len(set(topics)) == len(topics)
    assert len(set(names)) == len(names)


def test_rviz_docks_every_image_that_it_shows_at_first():
    file = rviz_file()
    images = {d['Name'] for d in file['Visualization Manager']['Displays']
              if d['Class'].endswith('/Image') and d['Enabled']}  # fmt: skip
    docked = {n for n, dock in file['Window Geometry'].items()
              if isinstance(dock, dict) and dock == {'collapsed': False}}  # fmt: skip
    assert images
    assert images <= docked
