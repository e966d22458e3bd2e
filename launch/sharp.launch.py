"""Start the node, configured and activated, and RViz or a bag on request.

Holds no defaults of the node: those are in config.py, and config/sharp.yaml shows them all.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PythonExpression
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition


def generate_launch_description():
    """Describe what `ros2 launch sharp_ros sharp.launch.py` runs."""
    share = Path(get_package_share_directory('sharp_ros'))
    arguments = {
        'config': (str(share / 'config' / 'sharp.yaml'), 'parameter file'),
        'model': ('nano', 'nano, sensor, sharp, or the path of weights'),
        'image': ('/camera/image', 'image topic'),
        'camera_info': ('/camera/camera_info', 'camera_info topic of that image'),
        'odometry': ('/odom', 'nav_msgs/Odometry that places the camera'),
        'depth': ('/camera/depth/image', 'registered depth topic, for model sensor'),
        'namespace': ('', 'namespace of the node, one per camera'),
        'use_sim_time': ('false', 'take time from /clock'),
        'rviz': ('false', 'start RViz with our displays'),
        'bag': ('', 'bag to play, with its clock'),
    }
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in arguments.items()
    ]
    value = {name: LaunchConfiguration(name) for name in arguments}
    node = LifecycleNode(
        package='sharp_ros',
        executable='sharp_node',
        name='sharp',
        namespace=value['namespace'],
        output='screen',
        parameters=[
            value['config'],
            {'model.name': value['model'], 'use_sim_time': value['use_sim_time']},
        ],
        remappings=[(name, value[name]) for name in ('image', 'camera_info', 'odometry', 'depth')],
    )

    def change(transition):
        return EmitEvent(
            event=ChangeState(
                lifecycle_node_matcher=matches_action(node), transition_id=transition
            )
        )

    activate_when_configured = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state='configuring',
            goal_state='inactive',
            entities=[change(Transition.TRANSITION_ACTIVATE)],
        )
    )
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', str(share / 'rviz' / 'sharp.rviz')],
        parameters=[{'use_sim_time': value['use_sim_time']}],
        condition=IfCondition(value['rviz']),
    )
    bag = ExecuteProcess(
        cmd=['ros2', 'bag', 'play', value['bag'], '--clock'],
        condition=IfCondition(PythonExpression(["'", value['bag'], "' != ''"])),
    )
    transports = SetEnvironmentVariable(
        # the default transports of Fast DDS drop large best-effort images
        'FASTDDS_BUILTIN_TRANSPORTS',
        EnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', default_value='LARGE_DATA'),
    )
    return LaunchDescription(
        [
            *declared,
            transports,
            activate_when_configured,  # listens before the node can change its state
            node,
            change(Transition.TRANSITION_CONFIGURE),
            rviz,
            bag,
        ]
    )
