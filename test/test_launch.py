"""The launch files, executed by a stand-in for the packages that no wheel carries."""

from __future__ import annotations

import ast
from pathlib import Path
import re
import runpy
import shutil
import xml.etree.ElementTree as ET

from fake_launch import ChangeState, Launch, LifecycleNode, matches_action, ProcessExited
import pytest
import setuptools
import yaml

from sharp_ros.config import SharpConfig

ROOT = Path(__file__).parents[1]
FILES = [path.name for path in sorted((ROOT / 'launch').glob('*.launch.py'))]
TRANSPORTS = 'FASTDDS_BUILTIN_TRANSPORTS'


@pytest.fixture(scope='module')
def setup_arguments():
    """What setup.py tells setuptools."""
    told = {}
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.chdir(ROOT)
        context.setattr(setuptools, 'setup', lambda **kwargs: told.update(kwargs))
        runpy.run_path('setup.py')
    return told


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
    def run(name='sharp.launch.py', /, environment=None, refusals=None, **arguments):
        return Launch(share, dict(environment or {}), dict(refusals or {})).run(name, **arguments)

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
def test_every_file_with_its_defaults_starts_active_nodes_that_are_installed(
    launch, setup_arguments, name
):
    run = launch(name)
    scripts = {e.split(' = ')[0] for e in setup_arguments['entry_points']['console_scripts']}
    nodes = [p for p in run.processes if getattr(p, 'package', None) == 'sharp_ros']
    assert {p.command[0] for p in nodes} <= scripts
    lifecycle = [p for p in nodes if isinstance(p.action, LifecycleNode)]
    assert lifecycle
    assert {p.action.state for p in lifecycle} == {'active'}
    for node in lifecycle:
        assert node.files
        assert all(Path(file).is_file() for file in node.files)
    assert run.ended is None


@pytest.mark.parametrize('name', FILES)
def test_every_package_that_a_file_imports_or_starts_is_declared(launch, name):
    declared = {e.text for e in ET.parse(ROOT / 'package.xml').getroot().iter('exec_depend')}
    tree = ast.parse((ROOT / 'launch' / name).read_text())
    imported = {
        n.module.partition('.')[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)
    }
    assert imported - {'pathlib'} <= declared
    run = launch(name, rviz='front' if 'multi' in name else 'true')
    assert {p.package for p in run.processes} - {'sharp_ros'} <= declared


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize(('before', 'after'), [(None, 'LARGE_DATA'), ('UDPv4', 'UDPv4')])
def test_the_transports_are_set_unless_the_user_has_set_them(launch, name, before, after):
    run = launch(name, environment={} if before is None else {TRANSPORTS: before})
    assert {p.environment[TRANSPORTS] for p in run.processes} == {after}


@pytest.mark.parametrize('name', FILES)
def test_the_page_lists_every_argument_and_no_other(launch, name):
    page = (ROOT / 'docs' / 'launch.md').read_text()
    section = page.partition(f'\n## `{name}`')[2].partition('\n## ')[0]
    listed = re.findall(r'^\| `(\w+)` \|', section, re.MULTILINE)
    text = (ROOT / 'launch' / name).read_text()
    own = [a for a in launch(name).declared if f"'{a}': (" in text]  # not of an included file
    assert sorted(listed) == sorted(own)


def test_an_argument_that_a_distribution_lacks_is_refused():
    with pytest.raises(TypeError, match='autostart'):
        LifecycleNode(executable='x', name='x', namespace='', autostart=True)


# sharp.launch.py ---------------------------------------------------------------------------------


def test_defaults_start_only_the_node_and_change_no_setting(launch):
    run = launch()
    assert [p.command[0] for p in run.processes] == ['sharp_node']
    assert place_of(node_of(run)) == '/sharp'
    assert node_of(run).parameters == {'use_sim_time': False}


def test_the_node_is_configured_when_it_has_started_and_then_activated(launch):
    assert launch().transitions == [
        ('', 'configuring', 'inactive'), ('', 'activating', 'active'),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('step', 'leads_to'),
    [
        ('configuring', 'unconfigured'),
        ('configuring', 'errorprocessing'),
        ('activating', 'inactive'),
        ('activating', 'errorprocessing'),
    ],
)
def test_a_node_that_refuses_to_start_is_named_and_ends_the_launch(launch, step, leads_to):
    run = launch(refusals={step: leads_to}, namespace='front')
    assert run.transitions[-1] == ('front', step, leads_to)
    assert run.log == ['/front/sharp did not start; its log above says why']
    assert run.ended == run.log[0]


def test_a_node_that_dies_ends_the_launch(launch):
    run = launch()
    run.events.append(ProcessExited(node_of(run).action))
    run.go_on()
    assert run.ended == 'sharp_node ended'


def test_a_node_that_an_operator_configures_again_is_left_to_him(launch):
    run = launch()
    node = node_of(run).action
    for refusal, state in (('unconfigured', 'unconfigured'), ('inactive', 'inactive')):
        node.state, run.refusals = 'unconfigured', {'configuring': refusal}
        run.events.append(change_state(node, 1))
        run.go_on()
        assert node.state == state  # neither activated nor
        assert run.ended is None


def change_state(node, transition):
    return ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)


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
    assert (
        set(node_of(launch()).remappings)
        == inputs
        == {'image', 'camera_info', 'odometry', 'depth'}
    )


def test_a_model_is_passed_as_text_and_only_if_given(launch):
    assert node_of(launch(model='1000')).parameters['model.name'] == '1000'
    assert 'model.name' not in node_of(launch(model='')).parameters


def test_overrides_come_after_the_configuration(launch, share):
    mapping = str(share / 'config' / 'mapping.yaml')
    base = node_of(launch()).files
    assert node_of(launch(overrides=mapping)).files == [*base, mapping]


def test_a_bag_plays_its_clock_once_the_node_is_active(launch):
    run = launch(bag="/tmp/it's a bag", rviz='true')
    play = run.processes[-1]
    assert play.command == ['ros2', 'bag', 'play', "/tmp/it's a bag", '--clock']
    assert all(p.parameters['use_sim_time'] is True for p in run.processes[:-1])
    refused = launch(bag='x', refusals={'configuring': 'unconfigured'})
    assert not started(refused, 'ros2')


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
    from sharp_ros.ros.demo import CAMERA

    run = launch('demo.launch.py')
    assert {p.command[0] for p in run.processes} == {'sharp_node', 'rviz2', 'sharp_camera'}
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
    run.events.append(ProcessExited(camera.action))
    run.go_on()
    assert run.ended == 'the camera ended'


def test_cameras_get_nodes_topics_and_overrides_of_their_own(launch):
    run = launch(
        'multi_camera.launch.py', cameras='front, rear,arm', overrides='/etc/{camera}.yaml'
    )
    nodes = {p.namespace: p for p in run.processes}
    assert list(nodes) == ['front', 'rear', 'arm']
    for camera, node in nodes.items():
        assert place_of(node) == f'/{camera}/sharp'
        assert resolve(node, 'image') == f'/{camera}/image'
        assert resolve(node, 'camera_info') == f'/{camera}/camera_info'
        assert resolve(node, 'odometry') == '/odom'
        assert node.files[-1] == f'/etc/{camera}.yaml'
    assert len(run.transitions) == 6
    assert 'namespace' not in run.configurations  # of who includes this file


def test_rviz_shows_one_of_several_cameras(launch):
    (rviz,) = started(launch('multi_camera.launch.py', rviz='rear'), 'rviz2')
    assert resolve(rviz, '/sharp/points') == '/rear/sharp/points'
    with pytest.raises(ValueError, match='side'):
        launch('multi_camera.launch.py', rviz='side')


def test_cameras_of_one_name_are_refused(launch):
    with pytest.raises(ValueError, match='front,front'):
        launch('multi_camera.launch.py', cameras='front,front')


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
