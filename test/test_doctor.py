from __future__ import annotations

import json
import sys

import pytest
import torch

from sharp_ros import models
from sharp_ros.apps.cli import main
from sharp_ros.evaluation import circumstances, installation
from sharp_ros.network.nano import NanoNetwork, save_weights


@pytest.fixture
def weights(tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_weights(NanoNetwork(), tmp_path / 'nano.safetensors', {})
    monkeypatch.setattr(models, 'WEIGHTS_FOLDER', tmp_path)
    return tmp_path / 'nano.safetensors'


@pytest.fixture
def without_open3d(monkeypatch):
    """Importing it takes seconds."""
    rest = tuple(check for check in installation._CHECKS if check is not installation._open3d)
    monkeypatch.setattr(installation, '_CHECKS', rest)


def checks_of(function):
    return {check.name: check for check in function()}


def test_json_is_a_list_of_complete_checks(weights, without_open3d, capsys):
    assert main(['doctor', '--json']) == 0
    checks = json.loads(capsys.readouterr().out)
    for check in checks:
        assert set(check) == {'name', 'status', 'value', 'advice'}
        assert check['status'] in ('ok', 'warn', 'fail')
        assert check['value']
        assert check['advice'] or check['status'] == 'ok'
    names = [check['name'] for check in checks]
    assert len(names) == len(set(names))
    wanted = {'python', 'numpy', 'torch', 'numba', 'rclpy', 'nano weights', 'memory', 'disk'}
    assert wanted <= set(names)


def test_text_names_every_check_and_its_advice(monkeypatch, capsys):
    check = installation.Check('cable', 'warn', 'unplugged', 'plug it in')
    monkeypatch.setattr(installation, '_CHECKS', (lambda: iter([check]),))
    assert main(['doctor']) == 0
    out = capsys.readouterr().out
    for word in ('warn', 'cable', 'unplugged', '-> plug it in'):
        assert word in out


def test_missing_weights_fail_with_advice(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(models, 'WEIGHTS_FOLDER', tmp_path)
    monkeypatch.setattr(installation, '_CHECKS', (installation._nano,))
    assert main(['doctor', '--json']) == 1
    (check,) = json.loads(capsys.readouterr().out)
    assert check['status'] == 'fail'
    assert str(tmp_path) in check['value']
    assert 'install' in check['advice']


def test_damaged_weights_fail(weights):
    weights.write_bytes(weights.read_bytes()[:1000])
    assert checks_of(installation._nano)['nano weights'].status == 'fail'


def test_loadable_weights_are_tried_out(weights):
    check = checks_of(installation._nano)['nano weights']
    assert check.status == 'ok'
    assert 'Gaussians by eager' in check.value  # where no graph for ONNX Runtime lies beside them


def test_without_ros_there_is_a_warning_only(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rclpy', None)
    check = checks_of(installation._ros)['rclpy']
    assert check.status == 'warn'
    assert 'setup.bash' in check.advice


@pytest.mark.parametrize(
    ('value', 'status', 'why'),
    [
        ('DEFAULT?sockets_size=8MB', 'ok', ''),
        ('LARGE_DATA', 'warn', 'do not find'),
        ('UDPv4', 'warn', 'drops'),
        ('', 'warn', 'drops'),
    ],
)
def test_transport_of_fast_dds_is_checked(monkeypatch, value, status, why):
    name = 'FASTDDS_BUILTIN_TRANSPORTS'
    monkeypatch.setenv(name, value)
    monkeypatch.setenv('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
    check = checks_of(installation._middleware)[name]
    assert check.status == status
    assert status == 'ok' or f"export {name}='DEFAULT?sockets_size=8MB'" in check.advice
    assert why in check.advice


@pytest.mark.parametrize(('value', 'known'), [('LOCALHOST', True), ('SUBNET', False)])
def test_range_that_overrules_the_transports_is_named(monkeypatch, value, known):
    name = 'ROS_AUTOMATIC_DISCOVERY_RANGE'
    monkeypatch.setenv(name, value)
    monkeypatch.setenv('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
    assert (name in checks_of(installation._middleware)) == known


def test_package_that_cannot_be_loaded_differs_from_one_that_is_missing(monkeypatch):
    missing = installation._import_check('no_such_package', 'warn', '')
    assert missing.value == 'not installed'

    def broken(name):
        raise OSError('libusb-1.0.so.0: cannot open shared object file')

    monkeypatch.setattr(installation, 'import_module', broken)
    check = checks_of(installation._open3d)['open3d']
    assert check.status == 'warn'
    assert check.advice == 'apt install libusb-1.0-0'


def test_check_that_breaks_does_not_end_the_others(monkeypatch):
    def broken():
        raise RuntimeError('no such register')

    rest = installation.Check('rest', 'ok', 'fine')
    monkeypatch.setattr(installation, '_CHECKS', (broken, lambda: iter([rest])))
    first, second = installation.diagnose()
    assert first.status == 'fail'
    assert 'no such register' in first.value
    assert second == rest


def test_machine_is_described_with_plain_values():
    machine = circumstances.machine()
    assert machine['cores'] >= 1
    assert machine['memory_gb'] > 0
    json.dumps(machine)


@pytest.mark.parametrize(
    ('found', 'home', 'status', 'words'),
    [
        ((), None, 'warn', 'pip install gsplat'),
        (('gsplat',), None, 'warn', 'nvcc'),
        (('gsplat',), '/usr/local/cuda', 'ok', ''),
        (('gsplat', 'gsplat.csrc'), None, 'ok', ''),
    ],
)
def test_what_gsplat_needs_beside_a_gpu_is_named(monkeypatch, found, home, status, words):
    from torch.utils import cpp_extension

    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda i: 'a card')
    monkeypatch.setattr(installation, 'find_spec', lambda name: name in found or None)
    monkeypatch.setattr(installation, '_version', lambda name: '1.5.3')
    monkeypatch.setattr(cpp_extension, 'CUDA_HOME', home)
    check = checks_of(installation._torch)['gsplat']
    assert check.status == status
    assert words in check.advice
