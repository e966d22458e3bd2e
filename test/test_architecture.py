"""The layers of docs/architecture.md, read from the imports themselves."""

from __future__ import annotations

import ast
from pathlib import Path
import subprocess
import sys

import pytest

PACKAGE = Path(__file__).parents[1] / 'sharp_ros'
ROOT = PACKAGE.name

# A module imports from lower rows, or, within a folder, from those of its folder.
ROWS = [
    ['errors', 'files', 'parameter_text', 'process', 'rate_limiter', 'stopwatch', 'tensors'],
    ['config', 'se3', 'ply'],
    ['camera', 'camera_mount', 'images', 'evaluation.metrics'],
    [
        *('gaussians', 'image_content', 'viewpoints', 'point_cloud_kernels', 'rectification'),
        *('warm_up', 'depth_codecs', 'robot_body', 'scan_kernels'),
    ],
    [
        *('point_cloud', 'synthetic', 'rasterizer', 'network', 'procedural', 'trajectory'),
        *('inference_queue', 'self_check', 'execution_choice'),
    ],
    ['localization.gravity', 'tracks', 'scan', 'optimise'],
    ['mapping', 'models', 'engine', 'snapshot', 'stereo'],
    ['localization', 'loading', 'downloads', 'views', 'pictures'],
    ['frame_result', 'refinement'],
    ['mapper'],
    ['pipeline_state'],
    ['pipeline', 'worker', 'training'],
    ['ros.conversions', 'relative_pipeline'],
    ['sources'],
    ['evaluation', 'exchange', 'fleet'],
    ['web'],
    ['ros'],
    ['apps'],
]
# What a folder may import, however low its row: nothing else of this package.
ONLY = {'procedural': {'errors', 'files', 'procedural'}}
ROS_PACKAGES = ('rclpy', 'tf2_ros', 'launch', 'launch_ros', 'lifecycle_msgs', 'cv_bridge')


def module_names():
    for path in sorted(PACKAGE.rglob('*.py')):
        name = '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
        yield name.removesuffix('.__init__').removesuffix('__init__'), path


def imports_of(path):
    """Absolute names a file imports anywhere, inside functions and for type checkers too.

    A string that is the name of a module of this package counts: the table of commands has such.
    """
    return imports_in(path.read_text(encoding='utf-8'))


def imports_in(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'relative import: {ast.unparse(node)}'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)
        elif isinstance(node, ast.Constant) and str(node.value).startswith(ROOT + '.'):
            yield str(node.value)


def hidden_imports(source):
    """Calls that import a module of this package by a literal name."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        called, name = ast.unparse(node.func).rpartition('.')[2], node.args[0]
        ours = isinstance(name, ast.Constant) and str(name.value).partition('.')[0] == ROOT
        if ours and called in ('import_module', '__import__'):
            yield ast.unparse(node)


MODULES = dict(module_names())


def own_imports(name):
    """Modules of the package that a module imports."""
    found = set()
    for imported in imports_of(MODULES[name]):
        if imported.startswith(ROOT + '.') and imported[len(ROOT) + 1 :] in MODULES:
            found.add(imported[len(ROOT) + 1 :])
    # `from package import module` also names the package; only the module counts then
    return {f for f in found if not any(o.startswith(f + '.') for o in found)} - {name}


def row_of(name):
    entries = [
        (len(e), i, e)
        for i, row in enumerate(ROWS)
        for e in row
        if name == e or name.startswith(e + '.')
    ]
    assert entries, f'{name} has no row; add it to ROWS and to docs/architecture.md'
    return max(entries)[1:]


@pytest.mark.parametrize('name', [n for n in MODULES if n])
def test_module_imports_only_from_below(name):
    row, entry = row_of(name)
    for imported in own_imports(name):
        other_row, other = row_of(imported)
        beside = other_row == row and other == entry
        assert other_row < row or beside, f'{name} (row {row}) imports {imported}'
        if entry in ONLY:
            assert row_of(imported)[1] in ONLY[entry], f'{name} imports {imported}'


def test_there_are_no_import_cycles():
    graph = {name: own_imports(name) for name in MODULES}
    done, path = set(), []

    def visit(name):
        assert name not in path, f'cycle: {" -> ".join([*path[path.index(name) :], name])}'
        if name in done:
            return
        path.append(name)
        for imported in graph[name]:
            visit(imported)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize('name', [n for n in MODULES if n])
def test_no_import_is_hidden(name):
    assert not list(hidden_imports(MODULES[name].read_text(encoding='utf-8')))


@pytest.mark.parametrize(
    'source',
    [
        'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sharp_ros.worker',
        'def f():\n    from sharp_ros import worker',
        "TABLE = {'work': ('sharp_ros.worker', 'help')}",
    ],
)
def test_every_kind_of_import_is_counted(source):
    assert 'sharp_ros.worker' in imports_in(source)


@pytest.mark.parametrize(
    'source', ["importlib.import_module('sharp_ros.worker')", "__import__('sharp_ros')"]
)
def test_a_hidden_import_would_be_found(source):
    assert list(hidden_imports(source))
    assert not list(hidden_imports(source.replace("'sharp_ros", "'torch")))


def programs():
    """Python files beside the package, but for the tests of the commands."""
    root = PACKAGE.parent
    for folder in ('bench', 'examples', 'launch', 'scripts'):
        yield from sorted((root / folder).glob('*.py'))


@pytest.mark.parametrize(
    'path',
    [*(p for n, p in MODULES.items() if n.partition('.')[0] != 'apps'), *programs()],
    ids=lambda path: str(path.relative_to(PACKAGE.parent)),
)
def test_nothing_imports_the_command_line(path):
    assert not [name for name in imports_of(path) if name.startswith(f'{ROOT}.apps')]


@pytest.mark.parametrize('path', [*programs()], ids=lambda path: f'{path.parent.name}/{path.name}')
def test_no_program_needs_the_tests(path):
    """`programs` run where `test/` is not on the path, whenever they import."""
    tests = {test.stem for test in (PACKAGE.parent / 'test').rglob('*.py')}
    assert not [name for name in imports_of(path) if name.partition('.')[0] in tests]


@pytest.mark.parametrize('name', [n for n in MODULES if n])
def test_ros_is_known_under_ros_alone(name):
    if name == 'ros' or name.startswith('ros.'):
        return
    if name == 'evaluation.installation':  # looks whether ROS is there, by name
        return
    for imported in imports_of(MODULES[name]):
        top = imported.partition('.')[0]
        assert top not in ROS_PACKAGES, f'{name} imports {imported}'
        assert not top.endswith('_msgs'), f'{name} imports {imported}'


def run_python(code):
    return subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True, timeout=60
    ).stdout


@pytest.mark.parametrize(
    'code',
    [
        'import sharp_ros, sharp_ros.config, sharp_ros.errors, sharp_ros.worker',
        'from sharp_ros.apps.cli import main\ntry: main(["--help"])\nexcept SystemExit: pass',
        *(
            f'from sharp_ros.apps.cli import main\ntry: main(["{command}", "--help"])\n'
            'except SystemExit: pass'
            for command in ('predict', 'demo', 'doctor', 'fetch', 'view')
        ),
    ],
)
def test_light_things_do_not_load_heavy_libraries(code):
    heavy = ('torch', 'open3d', 'numba', 'rclpy', 'viser')
    out = run_python(
        f'{code}\nimport sys\nprint("LOADED", [m for m in {heavy} if m in sys.modules])'
    )
    assert out.rstrip().endswith('LOADED []')


def test_core_runs_without_ros():
    """Everything but ros/ imports where no ROS package can be found."""
    names = [f'{ROOT}.{n}' for n in MODULES if n and not n.startswith('ros')]
    names.append(f'{ROOT}.ros.conversions')
    run_python(
        'import sys, importlib\n'
        'class Block:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        top = name.partition(".")[0]\n'
        f'        if top in {ROS_PACKAGES} or top.endswith(("_msgs", "_interfaces", "_srvs")):\n'
        '            raise ModuleNotFoundError(name, name=top)\n'
        'sys.meta_path.insert(0, Block())\n'
        f'for name in {names}: importlib.import_module(name)\n'
    )
