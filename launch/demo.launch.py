"""A simulated camera, or any other source, the node and RViz: the first thing to try.

Takes the arguments of sharp.launch.py, too, such as model:=sensor for the depth of the source.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    'source': ('synthetic', 'synthetic, webcam index, video, folder of images or RGB-D, bag'),
    'hfov': ('0.0', 'horizontal field of view of an uncalibrated source, radians'),
    'rviz': ('true', 'false: without RViz'),
}
TOPICS = ('image', 'camera_info', 'odometry', 'depth')


def generate_launch_description():
    """Describe what `ros2 launch sharp_ros demo.launch.py` runs."""
    value = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    launch = Path(get_package_share_directory('sharp_ros')) / 'launch'
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(launch / 'sharp.launch.py')),
        launch_arguments=[
            *((topic, f'/camera/{topic}') for topic in TOPICS),
            ('rviz', value['rviz']),
        ],
    )
    camera = Node(
        package='sharp_ros',
        executable='sharp_camera',
        output='screen',
        parameters=[
            {
                'source': ParameterValue(value['source'], value_type=str),
                'hfov': ParameterValue(value['hfov'], value_type=float),
            }
        ],
        on_exit=Shutdown(reason='the camera ended'),
    )
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    # the node first: it sets the transports that the camera needs, too
    return LaunchDescription([*declared, node, camera])
