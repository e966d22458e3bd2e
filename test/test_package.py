"""package.xml as REP-149 and the build farm want it, and what is installed."""

from __future__ import annotations

import ast
import configparser
from fnmatch import fnmatch
import importlib
import json
import os
from pathlib import Path
import re
import runpy
import sys
import tarfile
import xml.etree.ElementTree as ET

import yaml

from sharp_ros.config import SharpConfig

ROOT = Path(__file__).parents[1]
PACKAGE = ET.parse(ROOT / 'package.xml').getroot()
# Importable name -> what package.xml calls it: a ROS package or a key of rosdep.
KEYS = {
    'cv2': 'python3-opencv',
    'numpy': 'python3-numpy',
    'PIL': 'python3-pil',
    'tf2_ros': 'tf2_ros_py',
    'yaml': 'python3-yaml',
}
# What no rosdep key brings on every distribution, or what the node runs without.
BY_PIP = {
    'av', 'backports', 'fsspec', 'gaussforge', 'google', 'gsplat', 'laspy', 'lz4', 'numba',
    'onnx', 'onnxruntime', 'open3d', 'openvino', 'pillow_heif', 'psutil', 'pxr', 'pyarrow', 'ray',
    'rich', 'rosbags', 'safetensors', 'skimage', 'torch', 'viser',
}  # fmt: skip
# https://www.ros.org/reps/rep-0149.html: each at most in this order, names by REP-144
ORDER = ['name', 'version', 'description', 'maintainer', 'license', 'url', 'author']
DEPENDENCIES = ['buildtool_depend', 'build_depend', 'depend', 'exec_depend', 'test_depend']


def imports(path: Path) -> set[str]:
    """Top-level names of the packages a file imports, the standard library left out."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    tops = {name.partition('.')[0] for name in names}
    return tops - set(sys.stdlib_module_names) - {'sharp_ros'}


def declared(*tags: str) -> set[str]:
    return {str(e.text) for tag in tags for e in PACKAGE.iter(tag)}


def test_everything_imported_at_run_time_is_declared_or_comes_by_pip():
    sources = [*(ROOT / 'sharp_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]
    sources = [p for p in sources if 'training' not in p.parts]
    used = set().union(*map(imports, sources))
    assert {'rclpy', 'launch_ros', 'tf2_ros', 'cv2'} <= used  # the search finds something
    missing = {KEYS.get(name, name) for name in used - BY_PIP} - declared('depend', 'exec_depend')
    assert not missing


def test_what_comes_by_pip_is_named_by_the_requirements_with_its_version():
    text = ''.join(p.read_text() for p in (ROOT / 'requirements').glob('*.txt'))
    lines = [x for x in text.splitlines() if x and not x.startswith('#')]
    assert all('==' in line for line in lines)
    names = {line.partition('==')[0].lower() for line in lines}
    optional = {'pillow_heif'}  # its absence is told with the command that installs it
    wheels = {
        'pxr': 'usd-core',
        'skimage': 'scikit-image',
        'backports': 'backports.zstd',
        'google': 'protobuf',
    }
    assert {wheels.get(n, n) for n in BY_PIP - optional} <= names


def test_nothing_is_declared_that_nobody_uses():
    sources = [*(ROOT / 'sharp_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]
    words = set(re.findall(r'\w+', '\n'.join(p.read_text() for p in sources)))
    names = {key: name for name, key in KEYS.items()} | {'ros2bag': 'bag'}  # `ros2 bag play`
    unused = {d for d in declared('depend', 'exec_depend') if names.get(d, d) not in words}
    assert not unused


def test_tags_are_those_of_format_3_in_their_order():
    assert PACKAGE.tag == 'package'
    assert PACKAGE.get('format') == '3'
    tags = [child.tag for child in PACKAGE]
    known = [*ORDER, *DEPENDENCIES, 'export']
    assert set(tags) <= set(known)
    assert [known.index(t) for t in tags] == sorted(known.index(t) for t in tags)
    for tag in ('name', 'version', 'description', 'export'):
        assert tags.count(tag) == 1, tag
    for tag in ('maintainer', 'license'):
        assert tag in tags, tag
    assert [child.tag for child in PACKAGE.find('export')] == ['build_type']
    dependencies = [(c.tag, c.text) for c in PACKAGE if c.tag in DEPENDENCIES]
    assert len(dependencies) == len(set(dependencies))


def test_values_are_what_tools_can_read():
    assert re.fullmatch(r'[a-z](_?[a-z0-9]+)+', PACKAGE.findtext('name'))
    assert re.fullmatch(r'\d+\.\d+\.\d+', PACKAGE.findtext('version'))
    assert len(PACKAGE.findtext('description').split()) > 5
    for person in PACKAGE.iter('maintainer'):
        assert person.text.strip()
        assert re.fullmatch(r'[^@\s]+@[^@\s]+\.[a-z]+', person.get('email'))
    licence = PACKAGE.find('license')
    assert licence.text == 'Apache-2.0'  # as SPDX writes it
    assert 'Apache License' in (ROOT / licence.get('file')).read_text()
    for url in PACKAGE.iter('url'):
        assert url.text.startswith('https://')
        assert url.get('type', 'website') in ('website', 'bugtracker', 'repository')
    for dependency in declared(*DEPENDENCIES):
        assert re.fullmatch(r'[a-z][a-z0-9_+.-]*', dependency), dependency


def test_files_that_comments_and_messages_send_the_user_to_exist():
    for page in ('package.xml', 'setup.py', 'README.md', 'CONTRIBUTING.md'):
        named = re.findall(r'\b(?:requirements|scripts|docs)/[\w/.]+\w', (ROOT / page).read_text())
        for name in named:
            assert (ROOT / name).exists(), f'{page} names {name}'


def test_links_of_all_pages_lead_somewhere():
    for page in [*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')]:
        for target in re.findall(r'\]\(([^)#:]+)[)#]', page.read_text()):
            assert (page.parent / target).exists(), f'{page} links to {target}'


def test_executables_are_installed_where_ros_looks_for_them():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    assert config['install']['install_scripts'] == '$base/lib/sharp_ros'
    assert config['develop']['script_dir'] == '$base/lib/sharp_ros'
    assert (ROOT / 'resource' / 'sharp_ros').is_file()
    text = (ROOT / 'setup.py').read_text()
    for kind in ('launch/*.launch.py', 'config/*.yaml', 'rviz/*.rviz'):
        assert f"glob('{kind}')" in text
        folder, _, pattern = kind.partition('/')
        stray = {p.name for p in (ROOT / folder).iterdir() if p.is_file()}
        assert stray == {p.name for p in (ROOT / folder).glob(pattern)}, folder


def test_nothing_heavy_is_installed_with_the_package():
    text = (ROOT / 'setup.py').read_text()
    assert "install_requires=['setuptools']" in text
    for key in declared(*DEPENDENCIES):
        assert not re.match(r'python3-(torch|open3d|onnx)', key), key


def setup_arguments(monkeypatch) -> dict:
    """What setup.py gives to setuptools, without doing anything."""
    given: dict = {}
    monkeypatch.setattr('setuptools.setup', lambda **arguments: given.update(arguments))
    monkeypatch.chdir(ROOT)
    given['module'] = runpy.run_path(str(ROOT / 'setup.py'))
    return given


def test_extras_name_what_requirements_pin_and_nothing_of_ros_comes_unasked(monkeypatch):
    arguments = setup_arguments(monkeypatch)
    assert arguments['install_requires'] == ['setuptools']
    extras = arguments['extras_require']
    assert extras.keys() == {'core', 'demo', 'fleet', 'train', 'test'}
    pinned = set()
    for path in (ROOT / 'requirements').glob('*.txt'):
        pinned |= {x for x in path.read_text().splitlines() if x and not x.startswith('#')}
    for name, lines in extras.items():
        assert name == 'test' or set(lines) <= pinned
        of_ros = {line for line in lines if line.startswith('ros-')}
        assert bool(of_ros) == (name == 'demo')
        if name != 'test':
            assert set(extras['core']) <= set(lines)
    assert {line.partition('==')[0] for line in extras['fleet']} >= {'ray', 'pyarrow', 'torch'}


def test_sdists_of_the_same_files_are_equal_to_the_byte(tmp_path, monkeypatch):
    command = setup_arguments(monkeypatch)['cmdclass']['sdist']
    monkeypatch.setenv('SOURCE_DATE_EPOCH', '1700000000')
    archives = []
    for folder, names, mode in (('one', 'abc', 0o644), ('two', 'cba', 0o600)):
        tree = tmp_path / folder / 'top'
        (tree / 'below').mkdir(parents=True)
        for age, name in enumerate(names):
            path = tree / 'below' / name
            path.write_text(name)
            path.chmod(mode)
            os.utime(path, (age, age))
        monkeypatch.chdir(tmp_path / folder)
        base = tmp_path / folder / 'dist' / 'out'  # nobody has made the folder
        made = command.make_archive(None, str(base), 'gztar', base_dir='top')
        archives.append(Path(made).read_bytes())
    assert archives[0] == archives[1]
    with tarfile.open(tmp_path / 'one' / 'dist' / 'out.tar.gz') as archive:
        assert archive.getnames() == ['top/below/a', 'top/below/b', 'top/below/c']
        assert {(e.mtime, e.mode) for e in archive} == {(1700000000, 0o644)}


def test_the_time_of_an_sdist_is_that_of_its_commit(monkeypatch):
    when = setup_arguments(monkeypatch)['module']['time_of_source']
    monkeypatch.delenv('SOURCE_DATE_EPOCH', raising=False)
    assert when() >= 315532800  # the first that zip files can say, as without git
    monkeypatch.setenv('SOURCE_DATE_EPOCH', '1700000000')
    assert when() == 1700000000


def test_weights_that_may_not_be_shipped_are_not_packed(monkeypatch):
    patterns = setup_arguments(monkeypatch)['package_data']['sharp_ros']
    shipped = [p.relative_to(ROOT / 'sharp_ros') for p in (ROOT / 'sharp_ros/weights').iterdir()]
    for path in shipped:
        packed = any(fnmatch(path.as_posix(), pattern) for pattern in patterns)
        assert packed == (path.suffix != '.pt'), path
    assert not any(fnmatch('weights/sharp.pt', pattern) for pattern in patterns)


# Keys of rosdep/python.yaml of rosdistro with a package for Debian and for Ubuntu jammy and noble
# (8468e88, August 2026); others may be null on one of them, as python3-open3d on noble.
ROSDEP_KEYS = {
    'python3-numpy', 'python3-opencv', 'python3-pil', 'python3-pytest', 'python3-scipy',
    'python3-yaml',
}  # fmt: skip


def test_keys_of_rosdep_resolve():
    keys = {key for key in declared(*DEPENDENCIES) if key.startswith('python3-')}
    assert keys
    assert keys <= ROSDEP_KEYS


# What is public


def test_all_that_is_promised_to_stay_is_there():
    from sharp_ros.apps.cli import COMMANDS

    page = (ROOT / 'docs' / 'stability.md').read_text()
    names = re.findall(r'`(sharp_ros\.[\w.]+)`', page)
    assert len(names) > 15
    for name in names:
        module, _, attribute = name.rpartition('.')
        assert hasattr(importlib.import_module(module), attribute), name
    commands = page.partition('| commands')[2].partition('\n')[0]
    assert set(re.findall(r'`(?:sharp-ros )?([a-z]+)`', commands)) >= set(COMMANDS)
    setup = (ROOT / 'setup.py').read_text()
    programs = page.partition('| executables')[2].partition('\n')[0]
    for program in re.findall(r"'([\w-]+) = sharp_ros", setup):
        assert f'`{program}`' in programs


def test_examples_use_what_is_promised_to_stay_or_constants_beside_it():
    page = (ROOT / 'docs' / 'stability.md').read_text()
    modules = {name.rpartition('.')[0] for name in re.findall(r'`(sharp_ros\.[\w.]+)`', page)}
    modules |= {'sharp_ros.se3', 'sharp_ros.pictures.video'}  # mathematics, and files for people
    for path in (ROOT / 'examples').glob('*.py'):
        used = {
            n.module
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.ImportFrom)
        }
        assert {m for m in used if m.startswith('sharp_ros')} <= modules


def test_configuration_files_are_parameter_files_of_somebody():
    for path in (ROOT / 'config').glob('*.yaml'):
        assert isinstance(yaml.safe_load(path.read_text()), dict), path
    assert SharpConfig()  # the defaults are valid by themselves


# Workflows and container files


def workflows() -> dict[str, dict]:
    folder = ROOT / '.github' / 'workflows'
    return {p.stem: yaml.load(p.read_text(), yaml.BaseLoader) for p in folder.glob('*.yml')}


def test_there_is_a_workflow_for_each_leg_with_the_versions_it_promises():
    legs = workflows()
    assert legs.keys() == {'core', 'ros', 'gpu'}
    core, ros, gpu = (legs[name]['jobs'] for name in ('core', 'ros', 'gpu'))
    assert core['test']['strategy']['matrix']['python'] == ['3.10', '3.12']
    assert ros['test']['strategy']['matrix']['distro'] == ['humble', 'jazzy', 'kilted']
    assert 'self-hosted' in gpu['test']['runs-on']
    assert list(legs['gpu']['on']) == ['workflow_dispatch']  # never by a stranger's change
    for leg in legs.values():
        assert leg['permissions'] == {'contents': 'read'}
        for job in leg['jobs'].values():
            assert 'timeout-minutes' in job


def shell_lines() -> list[tuple[str, str]]:
    """(file, line) of all commands in workflows and container files."""
    lines = []
    for name, leg in workflows().items():
        for job in leg['jobs'].values():
            for step in job['steps']:
                lines += [(name, line.strip()) for line in step.get('run', '').splitlines()]
    for path in (ROOT / 'docker').glob('Dockerfile.*'):
        lines += [(path.name, line.strip()) for line in path.read_text().splitlines()]
    return lines


def test_workflows_and_container_files_call_what_exists():
    makefile = set(re.findall(r'^(\w+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    seen = 0
    for name, line in shell_lines():
        if line.startswith('#'):
            continue
        for target in re.findall(r'\bmake (?!-)([a-z]\w*)', line):
            assert target in makefile, f'{name}: make {target}'
            seen += 1
        for path in re.findall(
            r'(?<![\w/.])(?:requirements|scripts|test|bench|docker)/[\w/.-]*\w', line
        ):
            assert (ROOT / path).exists(), f'{name}: {path}'
            seen += 1
    assert seen > 8


def test_images_and_actions_are_pinned():
    for path in (ROOT / 'docker').glob('Dockerfile.*'):
        bases = re.findall(r'^FROM (\S+)', path.read_text(), re.MULTILINE)
        assert bases
        for base in bases:
            assert ':' in base, base
            assert not base.endswith(':latest'), base
    for name, leg in workflows().items():
        for job in leg['jobs'].values():
            for step in job['steps']:
                used = step.get('uses', 'x@v1')
                assert re.search(r'@(v\d|[0-9a-f]{40})', used), f'{name}: {used}'


def container_files() -> dict[str, str]:
    """Name -> text with continued lines joined."""
    files = sorted((ROOT / 'docker').glob('Dockerfile.*'))
    return {path.name: path.read_text().replace('\\\n', ' ') for path in files}


def reaches_docker(path: str) -> bool:
    """Whether .dockerignore lets a path through: its last pattern that fits decides."""
    parts = path.split('/')
    ways = ['/'.join(parts[:n]) for n in range(1, len(parts) + 1)]  # a folder counts for its files
    through = True
    for line in (ROOT / '.dockerignore').read_text().splitlines():
        if line and not line.startswith('#'):
            pattern = line.removeprefix('!')
            names = parts if pattern.startswith('**/') else ways
            if any(fnmatch(name, pattern.removeprefix('**/')) for name in names):
                through = line.startswith('!')
    return through


def test_readme_leads_to_the_container_files():
    assert '](docker/)' in (ROOT / 'README.md').read_text()
    page = (ROOT / 'docker' / 'README.md').read_text()
    files = container_files()
    assert files.keys() == {'Dockerfile.cpu', 'Dockerfile.cuda'}
    for name, text in files.items():
        assert f'docker build -f docker/{name} ' in page
        arguments = re.findall(r'^ARG (\w+)', text, re.MULTILINE)
        assert arguments
        for argument in arguments:
            assert f'{argument}=' in page, f'{name}: {argument}'


def test_what_container_files_copy_and_install_is_there():
    for name, text in container_files().items():
        copied = {}
        for source, target in re.findall(r'^COPY (?!--from)(\S+) (\S+)$', text, re.MULTILINE):
            assert (ROOT / source).exists(), f'{name}: {source}'
            assert source == '.' or reaches_docker(source), f'{name}: {source} is ignored'
            copied[target] = source
        wanted = re.findall(r' -r (\S+)', text)
        assert wanted
        for requirements in wanted:
            assert copied[requirements].startswith('requirements/'), f'{name}: {requirements}'
        assert text.count('gsplat==') == (name == 'Dockerfile.cuda')
        for pin in re.findall(r'(?:gsplat|torch)==[\d.]+\d', re.sub('#.*', '', text)):
            files = (ROOT / 'requirements').glob('*.txt')
            assert any(pin in file.read_text().splitlines() for file in files), f'{name}: {pin}'
        libraries = re.findall(
            r'^lib\S+\.so\S* (\S+)$', (ROOT / 'scripts' / 'setup.sh').read_text(), re.MULTILINE
        )
        assert len(libraries) == 5
        assert set(libraries) <= set(text.split()), name


def test_docker_gets_what_is_installed_and_nothing_else():
    package = [p.relative_to(ROOT) for p in (ROOT / 'sharp_ros').rglob('*.*')]
    needed = [p for p in package if '__pycache__' not in p.parts and p.suffix != '.pt']
    for pattern in ('launch/*.launch.py', 'config/*.yaml', 'rviz/*.rviz', 'resource/*'):
        needed += [p.relative_to(ROOT) for p in ROOT.glob(pattern)]
    needed += [Path(name) for name in ('package.xml', 'setup.py', 'setup.cfg', 'LICENSE')]
    for path in needed:
        assert reaches_docker(path.as_posix()), path
    for path in ('.git/config', '.venv/bin/python', 'data/a.mcap', 'out/map/map.pgm', 'sharp.pt',
                 'sharp_ros/weights/sharp.pt', 'sharp_ros/__pycache__/a.pyc'):  # fmt: skip
        assert not reaches_docker(path), path


def test_containers_end_the_node_and_are_not_root():
    for name, text in container_files().items():
        lines = text.splitlines()
        last = {line.partition(' ')[0]: line.partition(' ')[2].strip() for line in lines}
        entry, command = json.loads(last['ENTRYPOINT']), json.loads(last['CMD'])  # no shell form
        assert 'exec "$@"' in entry[2], name  # the command becomes the first process
        assert (ROOT / 'launch' / command[-1]).is_file()
        assert last['STOPSIGNAL'] == 'SIGINT', name  # ros2 launch does not hear SIGTERM there
        assert last['USER'] == '1000', name
