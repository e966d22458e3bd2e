"""What is set for a whole process: by our programs alone, and not over the user's settings."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

import pytest

import sharp_ros
from sharp_ros import process

PACKAGE = Path(sharp_ros.__file__).parent
RECORDER = """
import os, sys
from sharp_ros import process
calls = []
process._set_malloc = lambda *values: calls.append(values)
"""


def printed(code, **environment):
    """Lines that a program prints in a process where nothing of ours is set, nor what is None."""
    own = {k: v for k, v in os.environ.items() if k not in process._ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, '-c', RECORDER + code],
        env={k: v for k, v in {**own, **environment}.items() if v is not None},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split('\n')


def test_the_library_changes_nothing_of_its_process():
    modules = [
        '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts)
        for path in sorted(PACKAGE.rglob('*.py'))
        if path.relative_to(PACKAGE).parts[0] != 'ros'
    ]
    assert len(modules) > 60
    code = f"""
import importlib, signal
import cv2, torch
def settings():
    return (
        dict(os.environ), cv2.getNumThreads(), torch.get_num_threads(),
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
        signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM),
    )
os.environ['TCM_ENABLE'] = '1'  # as Open3D does when it is imported
before = settings()
for name in {modules}:
    importlib.import_module(name.removesuffix('.__init__'))
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.models import load_predictor
for name in ('nano', 'sensor'):
    Engine(load_predictor(name)[0], ModelConfig())
process.prepare_for_large_network()  # of which the engine thinks in any process
print([pair for pair in zip(before, settings()) if pair[0] != pair[1]], calls)
"""
    assert printed(code)[0] == '[] []'


def test_nothing_else_sets_the_memory_or_the_environment_of_the_process():
    words = ('mallopt', 'os.environ[', 'os.environ.setdefault', 'os.putenv')
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob('*.py')
        if any(word in path.read_text(encoding='utf-8') for word in words)
    }
    assert found == {'process.py', 'apps/bench_ros.py'}


def test_a_program_sets_what_the_user_has_not_set():
    code = """
process.prepare_process()
print(os.environ['GOMP_SPINCOUNT'], os.environ['THP_MEM_ALLOC_ENABLE'])
print(calls, 'torch' in sys.modules)
calls.clear()
process.prepare_for_large_network()
print(calls)
"""
    first, second, third = printed(code, GOMP_SPINCOUNT='7')[:3]
    assert first == '7 1'
    assert second == f'[(-3, {32 << 20}), (-1, {256 << 20})] False'
    assert third == f'[(-3, {1 << 30}), (-1, {2**31 - 1}), (-8, 1)]'


def test_a_package_is_absent_in_the_block_alone():
    code = """
import json
with process.absent('colorsys', 'json', 'no.such'):
    for name in ('colorsys', 'json'):
        try:
            __import__(name)
            print(name)
        except ImportError as error:
            print(error.name)
import colorsys
print('no.such' in sys.modules)
"""
    hidden, loaded, left = printed(code)[:3]
    assert (hidden, loaded, left) == ('colorsys', 'json', 'False')


def test_loops_compile_without_the_packages_that_numba_looks_for():
    code = """
process.import_numba()
import numba, numpy as np
@numba.njit
def largest(a): return a.max()
print(largest(np.arange(5)), [name for name in ('scipy', 'coverage') if name in sys.modules])
import scipy
print(scipy.__name__)
"""
    assert printed(code)[:2] == ['4 []', 'scipy']


def test_threads_of_openmp_do_not_spin_where_no_network_has_them():
    code = """
process.prepare_process()
first = os.environ['GOMP_SPINCOUNT']
process.prepare_for_other_threads()
print(first, os.environ['GOMP_SPINCOUNT'])
"""
    assert printed(code)[0] == '10000 0'
    assert printed(code, GOMP_SPINCOUNT='7')[0] == '7 7'  # as the user says


def test_the_command_prepares_its_process_before_torch_is_there():
    code = """
from sharp_ros.apps import cli
def prepared(): calls.append('torch' in sys.modules)
cli.prepare_process = prepared
cli.main(['params'])
print('PREPARED', calls)
"""
    assert 'PREPARED [False]' in printed(code)


def test_wheels_of_ros_are_found_in_the_environment_they_are_installed_in(tmp_path):
    code = f"""
import site
sys.prefix = {str(tmp_path)!r}
site.getuserbase = lambda: '/nowhere'
process.prepare_for_ros()
print(os.environ.get('AMENT_PREFIX_PATH'), os.environ['FASTDDS_BUILTIN_TRANSPORTS'])
"""
    unset = {'AMENT_PREFIX_PATH': None, 'FASTDDS_BUILTIN_TRANSPORTS': None}
    assert printed(code, **unset)[0] == 'None DEFAULT?sockets_size=8MB'
    index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (index / 'rmw_implementation').touch()
    assert printed(code, **unset)[0] == f'{tmp_path} DEFAULT?sockets_size=8MB'
    sourced = {'AMENT_PREFIX_PATH': '/opt/ros', 'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}
    assert printed(code, **sourced)[0] == '/opt/ros UDPv4'


@pytest.mark.ros
def test_messages_come_without_the_parser_of_their_definitions_which_can_come_later():
    pytest.importorskip('rclpy')
    code = """
process.prepare_for_ros()
process.import_messages()
from rclpy.type_support import check_for_type_support
from sensor_msgs.msg import Image
check_for_type_support(Image)  # as a publisher does
print(Image(width=3).width, 'lark' in sys.modules)
import rosidl_parser.parser
print('lark' in sys.modules)
"""
    assert printed(code)[:2] == ['3 False', 'True']
