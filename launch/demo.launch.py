"""A simulated camera, or any other source, the node and RViz: the first thing to try.

Takes the arguments of sharp.launch.py, too, such as model:=sensor for the depth of the source.
"""

from pathlib import Path
import shutil

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
    TimerAction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    'source': (
        'synthetic',
        'synthetic, webcam index, video, folder of images, RGB-D folder or bag',
    ),
    'hfov': ('0.0', 'horizontal field of view of an uncalibrated source, radians'),
    'rviz': ('true', 'start RViz'),
}
TOPICS = ('image', 'camera_info', 'odometry', 'depth')
PREFIX = 'setpriv --pdeathsig INT' if shutil.which('setpriv') else ''  # as in sharp.launch.py


def generate_launch_description():
    """Describe what `ros2 launch sharp_ros demo.launch.py` runs."""
    launch = Path(get_package_share_directory('sharp_ros')) / 'launch'
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(launch / 'sharp.launch.py')),
        launch_arguments=[
            *((topic, f'/camera/{topic}') for topic in TOPICS),
            ('rviz', LaunchConfiguration('rviz')),
        ],
    )
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    # the node first: it sets the transports that the camera needs, too
    return LaunchDescription([*declared, node, OpaqueFunction(function=start_camera)])


def start_camera(context):
    """The camera driver; nothing can go on without it.

    Args:
        context: of this launch.
    """
    source, hfov = (LaunchConfiguration(name).perform(context) for name in ('source', 'hfov'))
    try:
        angle = float(hfov)
    except ValueError:
        raise ValueError(f'hfov:={hfov} is no number; give radians') from None
    camera = Node(
        package='sharp_ros',
        executable='sharp_camera',
        exec_name='sharp_camera',
        output='screen',
        prefix=None if 'launch-prefix' in context.launch_configurations else PREFIX,
        parameters=[{'source': ParameterValue(source, value_type=str), 'hfov': angle}],
        on_exit=ended,
    )
    return [camera]


def ended(event, context):
    """The end of the camera ends the launch, once; see `required` in sharp.launch.py.

    Args:
        event: of the process.
        context: of this launch.
    """
    if context.is_shutdown:
        return []
    if event.returncode:
        raise RuntimeError(f'the camera failed (exit code {event.returncode}); its log says why')
    return [TimerAction(period=1.0, actions=[Shutdown(reason='the camera ended')])]
