"""Install sharp_ros as an ament_python package or with pip."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = 'sharp_ros'

setup(
    name=PACKAGE,
    version='0.1.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed', 'weights/*', 'exchange/viewer.html']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        (f'share/{PACKAGE}/launch', glob('launch/*.launch.py')),
        (f'share/{PACKAGE}/config', glob('config/*.yaml')),
        (f'share/{PACKAGE}/rviz', glob('rviz/*.rviz')),
    ],
    # torch and ROS come from the robot's distribution or from requirements/, never from here
    install_requires=['setuptools'],
    extras_require={'test': ['pytest']},  # tells colcon which runner to use
    python_requires='>=3.10',
    zip_safe=False,
    maintainer='sharp_ros maintainers',
    maintainer_email='maintainers@sharp-ros.example',
    description='Live metric mapping from a single camera, as ROS 2 node and library.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'sharp_node = sharp_ros.ros.programs:sharp_node',
            'sharp_camera = sharp_ros.ros.programs:sharp_camera',
            'sharp_autostart = sharp_ros.ros.programs:sharp_autostart',
            'sharp-ros = sharp_ros.apps.cli:main',
        ],
    },
)
