"""One node per camera, each in the namespace of its camera; {camera} stands for its name.

ros2 launch sharp_ros multi_camera.launch.py cameras:=front,rear image:=/{camera}/image_raw
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from sharp_ros.ros.launching import declare

FOR_EACH = {  # arguments of sharp.launch.py
    'image': ('/{camera}/image', 'image topics'),
    'camera_info': ('/{camera}/camera_info', 'camera_info topics'),
    'depth': ('/{camera}/depth/image', 'registered depth topics, for model sensor'),
    'odometry': ('/odom', 'nav_msgs/Odometry topic with the poses of the cameras'),
    'imu': ('', 'sensor_msgs/Imu topics, for gravity; empty: none'),
    'range': ('', 'sensor_msgs/Range topics, for the scale; empty: none'),
    'overrides': ('', 'parameter files that override the shipped one, e.g. /etc/{camera}.yaml'),
    'model': ('', 'nano, sensor, sharp or the path of weights; empty: as in the parameter files'),
    'output': ('~/.ros/sharp_ros/{camera}', 'folders of saved maps'),
    'mask': ('', 'image or polygons of the robot itself in view, e.g. /etc/{camera}.png'),
    'autostart': (
        'true',
        'automatic configure and activate; false: by a lifecycle manager or by hand',
    ),
    'use_sim_time': ('', 'true: time from /clock'),
}
ARGUMENTS = {
    'cameras': ('front,rear', 'names of the cameras, also their namespaces'),
    'rviz': ('', 'name of the camera shown in RViz; empty: no RViz'),
    'web': ('', 'name of the camera shown in the browser; empty: as in the parameter files'),
    **FOR_EACH,
}


def generate_launch_description():
    """Describe what `ros2 launch sharp_ros multi_camera.launch.py` runs."""
    return LaunchDescription([*declare(ARGUMENTS), OpaqueFunction(function=start)])


def start(context):
    """One scoped include of sharp.launch.py per camera.

    Args:
        context: of this launch.
    """
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    launch = Path(get_package_share_directory('sharp_ros')) / 'launch'
    cameras = [name.strip() for name in given['cameras'].split(',')]
    if not all(cameras) or len(set(cameras)) < len(cameras):
        raise ValueError(f'cameras:={given["cameras"]}: give each camera a name of its own')
    for shown in ('rviz', 'web'):
        if given[shown] not in {'', *cameras}:
            raise ValueError(f'{shown}:={given[shown]} is none of the cameras {given["cameras"]}')
    groups = []
    for camera in cameras:
        arguments = {name: given[name].replace('{camera}', camera) for name in FOR_EACH}
        arguments |= {'namespace': camera, 'rviz': str(camera == given['rviz']).lower()}
        if given['web']:
            arguments['web'] = str(camera == given['web']).lower()
        source = PythonLaunchDescriptionSource(str(launch / 'sharp.launch.py'))
        include = IncludeLaunchDescription(source, launch_arguments=arguments.items())
        groups.append(GroupAction([include]))
    return groups
