"""Start the node, configured and activated, and RViz or a bag on request.

Holds no defaults of the node: those are in config.py, and config/sharp.yaml shows them all. Keeps
to what launch and launch_ros of humble, jazzy and kilted have in common.
"""

from pathlib import Path
import re

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
import yaml

from sharp_ros.process import TRANSPORTS, TRANSPORTS_FOR_IMAGES
from sharp_ros.ros.launching import declare, process_prefix, required

SHARE = Path(get_package_share_directory('sharp_ros'))
RVIZ = SHARE / 'rviz' / 'sharp.rviz'
RVIZ_NODE = '/sharp'  # whose topics that file shows
TOPICS = {  # relative names follow the namespace
    'image': ('camera/image', 'image topic'),
    'camera_info': ('camera/camera_info', 'camera_info topic of that image'),
    'odometry': ('odom', 'nav_msgs/Odometry topic with the pose of the camera'),
    'depth': ('camera/depth/image', 'registered depth topic, for model sensor'),
}
SENSORS = {  # topics of what a robot may have; given, they are subscribed to
    'imu': ('', 'sensor_msgs/Imu topic of the robot, for gravity; empty: none'),
    'range': ('', 'sensor_msgs/Range topic of the robot, for the scale; empty: none'),
}
ARGUMENTS = {
    **TOPICS,
    **SENSORS,
    'model': ('', 'nano, sensor, sharp or the path of weights; empty: as in the parameter files'),
    'mask': ('', 'image or polygons of what shows the robot itself; empty: camera.mask'),
    'config': (str(SHARE / 'config' / 'sharp.yaml'), 'parameter file'),
    'overrides': ('', 'parameter file whose settings override those of config'),
    'output': ('', 'folder of saved maps; empty, or as overrides say: output.directory'),
    'namespace': ('', 'namespace of the node, one per camera'),
    'name': ('sharp', 'node name'),
    'autostart': (
        'true',
        'automatic configure and activate; false: by a lifecycle manager or by hand',
    ),
    'use_sim_time': ('', 'true: time from /clock; empty: true if a bag is played'),
    'bag': ('', 'bag to play with its clock once the node is active'),
    'web': ('', 'true: live view in the browser (web.enabled); empty: as in the parameter files'),
    'rviz': ('false', 'start of RViz with the displays of rviz/sharp.rviz'),
}
FLAGS = {'true': True, '1': True, 'false': False, '0': False}
NAME = r'[A-Za-z_][A-Za-z0-9_]*'


def generate_launch_description():
    """Describe what `ros2 launch sharp_ros sharp.launch.py` runs."""
    transports = SetEnvironmentVariable(
        TRANSPORTS, EnvironmentVariable(TRANSPORTS, default_value=TRANSPORTS_FOR_IMAGES)
    )
    return LaunchDescription([*declare(ARGUMENTS), transports, OpaqueFunction(function=start)])


def start(context):
    """Actions for the arguments as given; a handler that runs later could not read them any more.

    Args:
        context: of this launch.
    """
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    simulated = flag(given, 'use_sim_time', bool(given['bag']))
    config, overrides = (
        [existing(given, name)] if given[name] else [] for name in ('config', 'overrides')
    )
    place = place_of(given)
    if given['bag'] and not flag(given, 'autostart'):
        raise ValueError('bag: it is played once the node is active, which needs autostart:=true')
    # before the overrides, since it is but a default for several nodes
    output = [{'output.directory': ParameterValue(given['output'], value_type=str)}]
    texts = {
        key: ParameterValue(given[name], value_type=str)
        for name, key in (('model', 'model.name'), ('mask', 'camera.mask'))
        if given[name]
    }
    sensors = [name for name in SENSORS if given[name]]
    enabled = {f'{name}.enabled': True for name in sensors}
    if given['web']:
        enabled['web.enabled'] = flag(given, 'web')
    prefix = process_prefix(context)
    node = Node(
        package='sharp_ros',
        executable='sharp_node',
        exec_name='sharp_node',
        name=given['name'],
        namespace=given['namespace'],
        output='screen',
        prefix=prefix,
        parameters=[
            *config,
            *(output if given['output'] else []),
            *overrides,
            {'use_sim_time': simulated, **texts, **enabled},
        ],
        remappings=[(topic, given[topic]) for topic in (*TOPICS, *sensors)],
        on_exit=required(place),
    )
    actions = [node]
    play = ExecuteProcess(
        cmd=['ros2', 'bag', 'play', given['bag'], '--clock'],
        name='ros2_bag_play',
        output='screen',
        prefix=prefix,
        on_exit=required('ros2 bag play', [LogInfo(msg=f'the bag has ended; {place} goes on')]),
    )
    if flag(given, 'autostart'):
        actions.append(
            Node(
                package='sharp_ros',
                executable='sharp_autostart',
                exec_name='sharp_autostart',
                name=f'{given["name"]}_autostart',
                namespace=given['namespace'],
                arguments=[place],
                output='screen',
                prefix=prefix,
                on_exit=required(f'the start of {place}', [play] if given['bag'] else []),
            )
        )
    if flag(given, 'rviz'):
        shown = [d['Topic']['Value'] for d in rviz_displays() if 'Topic' in d]
        actions.append(
            Node(
                package='rviz2',
                executable='rviz2',
                exec_name='rviz2',
                arguments=['-d', str(RVIZ)],
                prefix=prefix,
                parameters=[{'use_sim_time': simulated}],
                remappings=[(topic, topic.replace(RVIZ_NODE, place, 1)) for topic in shown],
            )
        )
    return actions


def flag(given, name, default=False):
    """The value of an argument that is true or false, or empty for the default.

    Args:
        given: texts of the arguments.
        name: of the argument.
        default: what an empty text stands for.
    """
    text = given[name].strip().lower()
    if text and text not in FLAGS:
        raise ValueError(f'{name}:={given[name]} is neither true nor false')
    return FLAGS.get(text, default)


def existing(given, name):
    """The path of an argument that names a file; launch would pass over one that is missing.

    Args:
        given: texts of the arguments.
        name: of the argument.
    """
    path = Path(given[name]).expanduser()
    if not path.is_file():
        raise ValueError(f'{name}:={given[name]} is no file; give the path of a parameter file')
    return str(path)


def place_of(given):
    """Full name of the node.

    Args:
        given: texts of the arguments.
    """
    parts = [*filter(None, given['namespace'].split('/')), given['name']]
    if not all(re.fullmatch(NAME, part) for part in parts):
        raise ValueError(
            f'namespace:={given["namespace"]} name:={given["name"]}: names consist of letters, '
            'digits and _, and do not begin with a digit'
        )
    return '/'.join(['', *parts])


def rviz_displays():
    """Displays of our RViz file."""
    return yaml.safe_load(RVIZ.read_text())['Visualization Manager']['Displays']
