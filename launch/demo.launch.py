"""A simulated camera, or any other source, the node and RViz: the first thing to try.

Takes the arguments of sharp.launch.py, too, such as model:=sensor for the depth of the source.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from sharp_ros.ros.launching import declare, process_prefix, required

ARGUMENTS = {
    'source': (
        'synthetic',
        'synthetic, webcam index, video, folder of images, RGB-D folder or bag',
    ),
    'hfov': ('0.0', 'horizontal field of view of an uncalibrated source, radians'),
    'rviz': ('true', 'start of RViz'),
}
TOPICS = ('image', 'camera_info', 'odometry', 'depth')


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
    # the node first: it sets the transports that the camera needs, too
    return LaunchDescription([*declare(ARGUMENTS), node, OpaqueFunction(function=start_camera)])


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
        prefix=process_prefix(context),
        parameters=[{'source': ParameterValue(source, value_type=str), 'hfov': angle}],
        on_exit=required('the camera'),
    )
    return [camera]
