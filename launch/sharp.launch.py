"""Start the node, configured and activated, and RViz or a bag on request.

Holds no defaults of the node: those are in config.py, and config/sharp.yaml shows them all. Keeps
to what launch and launch_ros of humble, jazzy and kilted have in common.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
    UnregisterEventHandler,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition
import yaml

SHARE = Path(get_package_share_directory('sharp_ros'))
RVIZ = SHARE / 'rviz' / 'sharp.rviz'
RVIZ_NODE = '/sharp'  # whose topics that file shows
TOPICS = {  # relative names follow the namespace
    'image': ('camera/image', 'image topic'),
    'camera_info': ('camera/camera_info', 'camera_info topic of that image'),
    'odometry': ('odom', 'nav_msgs/Odometry that places the camera'),
    'depth': ('camera/depth/image', 'registered depth topic, for model sensor'),
}
ARGUMENTS = {
    **TOPICS,
    'model': ('', 'nano, sensor, sharp, or the path of weights; empty: as the files say'),
    'config': (str(SHARE / 'config' / 'sharp.yaml'), 'parameter file'),
    'overrides': ('', 'second parameter file, with only what differs'),
    'namespace': ('', 'namespace of the node, one per camera'),
    'name': ('sharp', 'name of the node'),
    'use_sim_time': ('', 'true: take time from /clock; empty: if a bag is played'),
    'bag': ('', 'bag to play, with its clock, once the node is active'),
    'rviz': ('false', 'true: start RViz with our displays'),
}
START_FAILED = [
    ('configuring', 'unconfigured'),
    ('configuring', 'errorprocessing'),
    ('activating', 'inactive'),
    ('activating', 'errorprocessing'),
]


def generate_launch_description():
    """Describe what `ros2 launch sharp_ros sharp.launch.py` runs."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    transports = SetEnvironmentVariable(
        # the default transports of Fast DDS drop large best-effort images
        'FASTDDS_BUILTIN_TRANSPORTS',
        EnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', default_value='LARGE_DATA'),
    )
    return LaunchDescription([*declared, transports, OpaqueFunction(function=start)])


def start(context):
    """Actions for the arguments as given; a handler that runs later could not read them any more.

    Args:
        context: of this launch.
    """
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    simulated = given['use_sim_time'] or ('true' if given['bag'] else 'false')
    clock = {'use_sim_time': ParameterValue(simulated, value_type=bool)}
    model = {'model.name': ParameterValue(given['model'], value_type=str)}
    node = LifecycleNode(
        package='sharp_ros',
        executable='sharp_node',
        name=given['name'],
        namespace=given['namespace'],
        output='screen',
        parameters=[
            given['config'],
            *([given['overrides']] if given['overrides'] else []),
            {**clock, **(model if given['model'] else {})},
        ],
        remappings=[(topic, given[topic]) for topic in TOPICS],
        on_exit=Shutdown(reason='sharp_node ended'),
    )
    place = '/'.join(['', *filter(None, given['namespace'].split('/')), given['name']])
    shown = [d['Topic']['Value'] for d in rviz_displays() if 'Topic' in d]
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', str(RVIZ)],
        parameters=[clock],
        remappings=[(topic, topic.replace(RVIZ_NODE, place, 1)) for topic in shown],
        condition=IfCondition(given['rviz']),
    )
    play = ['ros2', 'bag', 'play', given['bag'], '--clock']
    bag = [ExecuteProcess(cmd=play, output='screen')] if given['bag'] else []
    return [*autostart(node, place, bag), node, rviz]


def rviz_displays():
    """Displays of our RViz file."""
    return yaml.safe_load(RVIZ.read_text())['Visualization Manager']['Displays']


def autostart(node, place, when_active):
    """Handlers that configure and activate a node once, or end the launch if it refuses.

    Afterwards its states are the operator's: a failing second configure ends nothing. The argument
    `autostart` of LifecycleNode would do part of this, but humble does not know it.

    Args:
        node: the action, which must come after these.
        place: full name of the node, for people.
        when_active: actions that wait for it.
    """

    def change(transition):
        matcher = matches_action(node)
        return EmitEvent(
            event=ChangeState(lifecycle_node_matcher=matcher, transition_id=transition)
        )

    def on(start_state, goal_state, entities):
        return OnStateTransition(
            target_lifecycle_node=node,
            start_state=start_state,
            goal_state=goal_state,
            entities=entities,
            handle_once=True,
        )

    refused = f'{place} did not start; its log above says why'
    failures = [
        on(*states, [LogInfo(msg=refused), Shutdown(reason=refused)]) for states in START_FAILED
    ]
    at_last = [*(UnregisterEventHandler(handler) for handler in failures), *when_active]
    handlers = [
        OnProcessStart(target_action=node, on_start=change(Transition.TRANSITION_CONFIGURE)),
        on('configuring', 'inactive', [change(Transition.TRANSITION_ACTIVATE)]),
        on('activating', 'active', at_last),
        *failures,
    ]
    return [RegisterEventHandler(handler) for handler in handlers]
