"""Install sharp_ros as an ament_python package or with pip."""

from glob import glob
import gzip
import os
from pathlib import Path
import subprocess
import tarfile

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

PACKAGE = 'sharp_ros'
ROOT = Path(__file__).resolve().parent
BEFORE_FILES_HAD_TIMES = 315532800  # 1980-01-01, the first that zip files can say


def pinned(name):
    """The lines of a file of requirements/; nothing where only a part of it was copied."""
    path = ROOT / 'requirements' / f'{name}.txt'
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line and not line.startswith('#')]


def time_of_source():
    """When what is packed was written, seconds: as told, else of the commit, else long ago."""
    if 'SOURCE_DATE_EPOCH' in os.environ:
        return int(os.environ['SOURCE_DATE_EPOCH'])
    try:
        command = ['git', '-C', str(ROOT), 'log', '-1', '--format=%ct']
        return int(subprocess.run(command, capture_output=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return BEFORE_FILES_HAD_TIMES


class ReproducibleSdist(sdist):
    """The same archive of the same files, whoever makes it, when and where."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **_):  # noqa: A002
        """Write base_name.tar.gz; without times of checkouts, owners, umasks and orders."""
        assert format == 'gztar', 'give --formats=gztar'
        when = time_of_source()
        top = Path(root_dir or '.') / base_dir
        files = sorted(p for p in top.rglob('*') if p.is_file())
        target = f'{base_name}.tar.gz'
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with (
            open(target, 'wb') as file,
            gzip.GzipFile('', 'wb', mtime=when, fileobj=file) as packed,
            tarfile.open(fileobj=packed, mode='w', format=tarfile.PAX_FORMAT) as tar,
        ):
            for path in files:
                entry = tarfile.TarInfo(f'{base_dir}/{path.relative_to(top).as_posix()}')
                entry.size, entry.mtime = path.stat().st_size, when
                entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                with path.open('rb') as content:
                    tar.addfile(entry, content)
        return target


WEIGHTS = ('npz', 'onnx', 'safetensors', 'yaml')
CORE = pinned('core')
ROS = [line for line in pinned('ros') if line.startswith('ros-')]

setup(
    name=PACKAGE,
    version='0.1.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    # by their endings: a checkout may hold weights that must not be passed on
    package_data={
        PACKAGE: [
            'py.typed',
            'exchange/viewer.html',
            *(f'weights/*.{ending}' for ending in WEIGHTS),
        ]
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        (f'share/{PACKAGE}/launch', glob('launch/*.launch.py')),
        (f'share/{PACKAGE}/config', glob('config/*.yaml')),
        (f'share/{PACKAGE}/rviz', glob('rviz/*.rviz')),
    ],
    # torch and ROS come from the robot's distribution or from requirements/, never from here
    install_requires=['setuptools'],
    # where no ROS is installed: pip install 'sharp_ros[demo]'
    extras_require={
        'core': CORE,
        'demo': CORE + ROS,
        'fleet': CORE + pinned('fleet'),
        'train': CORE + pinned('train'),
        'test': ['pytest'],  # tells colcon which runner to use
    },
    cmdclass={'sdist': ReproducibleSdist},
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
