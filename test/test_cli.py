from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from sharp_ros import __version__
from sharp_ros.apps import cli
from sharp_ros.errors import InputError


@pytest.fixture
def command(monkeypatch):
    """Registers a subcommand `try` that runs a given function."""

    def register(function):
        module = SimpleNamespace(add_arguments=lambda parser: None, run=function)
        monkeypatch.setitem(cli.COMMANDS, 'try', ('module_of_try', 'for tests'))
        monkeypatch.setattr(cli, 'import_module', lambda name: module)

    return register


def raiser(error):
    def run(args):
        raise error

    return run


def test_exit_code_of_the_command_is_returned(command):
    command(lambda args: 3)
    assert cli.main(['try']) == 3


def test_expected_errors_become_one_line(command, capsys):
    command(raiser(InputError('bad photo;\ntake another')))
    assert cli.main(['try']) == 1
    assert capsys.readouterr().err == 'error: bad photo; take another\n'


def test_missing_package_is_named_and_the_doctor_recommended(command, capsys):
    command(raiser(ModuleNotFoundError('No module', name='fancylib')))
    assert cli.main(['try']) == 1
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert 'fancylib' in err
    assert 'sharp-ros doctor' in err


def test_interrupt_ends_with_130(command, capsys):
    command(raiser(KeyboardInterrupt()))
    assert cli.main(['try']) == 130
    assert 'Traceback' not in capsys.readouterr().err


def test_programming_errors_keep_their_traceback(command):
    command(raiser(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(['try'])


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(['--version'])
    assert end.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize('arguments', [[], ['paint'], ['predict', '--no-such-flag']])
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert 'usage: sharp-ros' in capsys.readouterr().err


def loaded_by_help_of(names, slow):
    """Which of some modules are loaded after the help of some commands was shown."""
    code = (
        'import sys\n'
        'from sharp_ros.apps.cli import main\n'
        f'for arguments in {[[], *([name] for name in names)]}:\n'
        '    try: main([*arguments, "--help"])\n'
        '    except SystemExit as end: assert end.code == 0\n'
        f'print("LOADED", [name for name in {slow} if name in sys.modules])\n'
    )
    out = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    for name in names:
        assert f'usage: sharp-ros {name}' in out
    return out.rstrip().rpartition('LOADED ')[2]


def test_help_appears_without_loading_what_is_slow():
    names = [n for n, (module, _) in cli.COMMANDS.items() if module.startswith('sharp_ros.apps.')]
    assert len(names) >= 4
    slow = ('torch', 'open3d', 'numba', 'cv2', 'rclpy', 'rich', 'PIL', 'skimage')
    assert loaded_by_help_of(names, slow) == '[]'


@pytest.mark.ros
def test_help_of_the_demo_loads_no_network():
    pytest.importorskip('rclpy')
    assert loaded_by_help_of(['demo'], ('torch', 'open3d', 'numba')) == '[]'


@pytest.mark.parametrize(
    'line', ['eval depth motorcycle', 'bench --quick', 'bench ros --quick', 'eval maps synthetic']
)
def test_a_report_that_cannot_be_written_is_refused_before_it_is_measured(line, capsys):
    if 'ros' in line:
        pytest.importorskip('rclpy')
    assert cli.main([*line.split(), '--json', 'none/report.json']) == 1
    assert 'the folder none does not exist; make it first' in capsys.readouterr().err


def test_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, '-m', 'sharp_ros.apps.cli', 'predict', '/nowhere.jpg', '-o', '/tmp'],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith('error: /nowhere.jpg does not exist')
