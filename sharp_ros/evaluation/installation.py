"""What this machine has of what we need, what it lacks, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
import os
from pathlib import Path
import platform
import shutil
import sys
from typing import Any, Literal

from sharp_ros import __version__
from sharp_ros.errors import SharpError
from sharp_ros.network.sessions import import_openvino
from sharp_ros.process import TRANSPORTS, TRANSPORTS_FOR_IMAGES

Status = Literal['ok', 'warn', 'fail']
_INSTALL = 'pip install -r requirements/core.txt'
_MIN_MEMORY, _MIN_DISK = 2.0, 1.0  # GB; the node stays below 1.5 GB


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: what was looked at.
        status: `fail` means that the package cannot do its work here.
        value: what was found.
        advice: what to do; empty if nothing.
    """

    name: str
    status: Status
    value: str
    advice: str = ''


def diagnose() -> Iterator[Check]:
    """Run every check in turn; a check that breaks is reported as failed, not raised."""
    for check in _CHECKS:
        try:
            yield from check()
        except Exception as error:  # whatever a broken installation raises is what we look for
            name = check.__name__.lstrip('_')
            yield Check(name, 'fail', f'{type(error).__name__}: {error}', f'try again: {_INSTALL}')


# --- checks --------------------------------------------------------------------------------------


def _python() -> Iterator[Check]:
    version = platform.python_version()
    supported = (3, 10) <= sys.version_info[:2] <= (3, 12)
    advice = '' if supported else 'use Python 3.10, 3.11 or 3.12'
    too_old = sys.version_info < (3, 10)
    yield Check('python', 'fail' if too_old else 'ok' if supported else 'warn', version, advice)
    yield Check('sharp_ros', 'ok', f'{__version__} in {Path(__file__).parents[1]}')


def _packages() -> Iterator[Check]:
    for module, needed_for in (
        ('numpy', ''),
        ('cv2', ''),
        ('yaml', ''),
        ('safetensors', ''),
        ('numba', ''),
        ('rich', 'tables and progress'),
        ('onnxruntime', 'networks in ONNX'),
        ('openvino', 'nano on a CPU in half the time; pip install openvino'),
        ('PIL', 'reading photographs'),
        ('psutil', 'memory in sharp-ros bench'),
        ('rosbags', 'bags as a source'),
        ('viser', 'live view in the browser'),
        ('av', 'videos, as a source and of sharp-ros render'),
        ('skimage', 'sharp-ros eval depth motorcycle'),
    ):
        load = import_openvino if module == 'openvino' else None
        yield _import_check(module, 'warn' if needed_for else 'fail', needed_for, load)


def _torch() -> Iterator[Check]:
    check = _import_check('torch', 'fail', '')
    yield check
    if check.status == 'fail':
        return
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append('Apple GPU (mps)')
    if devices:
        yield Check('accelerator', 'ok', ', '.join(devices))
        yield _gsplat()
    elif shutil.which('nvidia-smi'):
        yield Check(
            'accelerator',
            'warn',
            f'an NVIDIA driver is there, but torch {torch.__version__} sees no GPU',
            'install a CUDA build of torch that fits the driver',
        )
    else:
        yield Check('accelerator', 'ok', 'none; the CPU is used, which suffices for nano')


def _open3d() -> Iterator[Check]:
    check = _import_check('open3d', 'warn', 'the simulated camera of the demo and of bench')
    if check.status != 'ok' and 'libusb' in check.value:
        check = Check(check.name, 'warn', check.value, 'apt install libusb-1.0-0')
    elif check.status != 'ok' and 'libGL' in check.value:
        check = Check(check.name, 'warn', check.value, 'apt install libgl1')
    yield check


def _ros() -> Iterator[Check]:
    without = 'source /opt/ros/<distro>/setup.bash; without ROS only the library and these tools'
    check = _import_check('rclpy', 'warn', '')
    distro, prefix = os.environ.get('ROS_DISTRO', ''), os.environ.get('AMENT_PREFIX_PATH', '')
    if check.status != 'ok':
        yield Check('rclpy', 'warn', check.value, f'{without} run')
        return
    yield Check('rclpy', 'ok', f'{check.value}, distribution {distro or "not named"}')
    if prefix:
        yield Check('AMENT_PREFIX_PATH', 'ok', prefix)
    else:
        yield Check(
            'AMENT_PREFIX_PATH', 'warn', 'unset', f'{without}; for pip installs set it to the venv'
        )
    missing = [name for name in _MESSAGES if _import_check(name, 'warn', '').status != 'ok']
    yield Check(
        'messages',
        'warn' if missing else 'ok',
        f'missing: {", ".join(missing)}' if missing else f'{len(_MESSAGES)} packages',
        'rosdep install --from-paths . --ignore-src' if missing else '',
    )
    compiled = _import_check('cv_bridge.boost.cv_bridge_boost', 'warn', '').status == 'ok'
    yield Check(
        'cv_bridge',
        'ok',
        'compiled, asked about encodings unknown here'
        if compiled
        else 'no compiled one; not needed for the usual encodings',
    )


_MESSAGES = (
    'builtin_interfaces',
    'diagnostic_msgs',
    'geometry_msgs',
    'lifecycle_msgs',
    'nav_msgs',
    'sensor_msgs',
    'std_msgs',
    'std_srvs',
)


def _middleware() -> Iterator[Check]:
    rmw = os.environ.get('RMW_IMPLEMENTATION', '')
    try:
        rmw = import_module('rclpy.utilities').get_rmw_implementation_identifier()
    except Exception as error:  # a middleware library that does not load, or no ROS at all
        if rmw:
            advice = f'install the package of {rmw} or unset RMW_IMPLEMENTATION'
            yield Check('middleware', 'warn', f'{rmw} does not load: {error}', advice)
            return
    yield Check('middleware', 'ok', rmw or 'none without ROS')
    if rmw and 'fastrtps' not in rmw:
        return
    yield from _transports()


def _transports() -> Iterator[Check]:
    """Whether images fit into what Fast DDS sets aside, and everybody is reached."""
    name, value = TRANSPORTS, os.environ.get(TRANSPORTS, '')
    advice = (
        f"export {name}='{TRANSPORTS_FOR_IMAGES}' in every process that sends images or clouds "
        '(make demo and the launch files do so): '
    )
    if value.startswith('LARGE_DATA'):
        advice += (
            'LARGE_DATA carries them, too, but programs without it, such as ros2 in another '
            'terminal, do not find those that have it, and services answer late'
        )
        yield Check(name, 'warn', value, advice)
    elif value.startswith('DEFAULT?') and 'sockets_size=' in value:
        yield Check(name, 'ok', value)
    else:
        advice += 'Fast DDS else drops most best-effort messages as big as an image'
        yield Check(name, 'warn', value or 'unset', advice)
    name = 'ROS_AUTOMATIC_DISCOVERY_RANGE'
    if os.environ.get(name) == 'LOCALHOST':
        yield Check(
            name,
            'warn',
            'LOCALHOST',
            f'with it rmw_fastrtps takes no notice of {TRANSPORTS}, and most big '
            'best-effort images are lost; unset it, or send compressed images',
        )


def _nano() -> Iterator[Check]:
    import numpy as np

    from sharp_ros import execution_choice
    from sharp_ros.camera import Intrinsics
    from sharp_ros.config import ModelConfig
    from sharp_ros.engine import choose_device
    from sharp_ros.loading import load_engine

    try:
        engine, info = load_engine(ModelConfig(), choose_device('auto'))
        intrinsics = Intrinsics.from_hfov(1.0, 64, 48)
        gaussians = engine.predict(np.full((48, 64, 3), 127, np.uint8), intrinsics)
    except SharpError as error:
        advice = 'install the package with its weights again, or train with scripts/train_nano.sh'
        yield Check('nano weights', 'fail', str(error), advice)
        return
    how = f'{engine.execution}, {engine.precision}, in {engine.last_ms:.0f} ms at first use'
    value = f'{len(gaussians)} Gaussians by {how}; {info.licence}'
    yield Check('nano weights', 'ok', value)
    choices = execution_choice.here()
    if choices:
        value = '; '.join(f'{choice.model}: {choice}' for choice in choices)
        yield Check('execution', 'ok', f'{value}, measured on {choices[0].processor}')


def _resources() -> Iterator[Check]:
    from sharp_ros.evaluation.circumstances import cores as usable_cores
    from sharp_ros.evaluation.circumstances import cpu_name, memory_gb

    cores = usable_cores()
    few = cores < 2
    yield Check(
        'cores',
        'warn' if few else 'ok',
        f'{cores} ({cpu_name()})',
        'two cores are needed for live rates' if few else '',
    )
    total, available = memory_gb()
    tight = available < _MIN_MEMORY
    yield Check(
        'memory',
        'warn' if tight else 'ok',
        f'{available:.1f} GB of {total:.1f} GB available',
        f'free {_MIN_MEMORY:g} GB: the node needs up to 1.5 GB' if tight else '',
    )
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    full = free < _MIN_DISK
    yield Check(
        'disk',
        'warn' if full else 'ok',
        f'{free:.1f} GB free in {Path.cwd()}',
        f'free {_MIN_DISK:g} GB for results and compiled kernels' if full else '',
    )


_CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    _python,
    _packages,
    _torch,
    _open3d,
    _ros,
    _middleware,
    _nano,
    _resources,
)


def _gsplat() -> Check:
    """What gsplat needs, without the minutes that compiling it may take."""
    if find_spec('gsplat') is None:
        advice = 'pip install gsplat; until then virtual views are rendered on the CPU'
        return Check('gsplat', 'warn', 'not installed', advice)
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is None and find_spec('gsplat.csrc') is None:
        advice = 'install the CUDA toolkit that torch was built with, which has nvcc'
        return Check('gsplat', 'warn', 'no compiler for its CUDA code', advice)
    return Check('gsplat', 'ok', str(_version('gsplat')))


# --- helpers -------------------------------------------------------------------------------------


def _import_check(
    module: str, otherwise: Status, needed_for: str, load: Callable[[], Any] | None = None
) -> Check:
    """Whether a module can be imported, which is more than being installed."""
    purpose = f' (for {needed_for})' if needed_for else ''
    try:
        imported = import_module(module) if load is None else load()
    except ModuleNotFoundError as error:
        if error.name == module:
            return Check(module, otherwise, 'not installed', f'{_INSTALL}{purpose}')
        return Check(module, otherwise, f'does not import: {error}', f'{_INSTALL}{purpose}')
    except Exception as error:  # broken binaries raise OSError, ImportError, RuntimeError, ...
        return Check(module, otherwise, f'does not import: {error}', f'{_INSTALL}{purpose}')
    version = getattr(imported, '__version__', None) or _version(module)
    return Check(module, 'ok', str(version))


def _version(module: str) -> str:
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        return 'version unknown'
