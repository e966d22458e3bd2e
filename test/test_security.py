"""Files from strangers: they run nothing, take no memory but their own and lead nowhere else."""

from __future__ import annotations

import ast
from contextlib import suppress
from dataclasses import replace
import io
import os
from pathlib import Path
import pickle
import signal
import stat
import subprocess
import sys
import zipfile

import numpy as np
import psutil
import pytest
from test_map_files import SMALL, small_state
import torch

from sharp_ros.config import load_yaml, to_yaml
from sharp_ros.errors import CheckpointError, ConfigError, InputError
from sharp_ros.mapping import map_files
from sharp_ros.mapping.map_files import load_map, save_map, save_new_map
from sharp_ros.models import load_predictor

PACKAGE = Path(__file__).parents[1] / 'sharp_ros'


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.witness),)


def pickled(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb, protocol=2)


def pickled_by_torch(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    torch.save({'head.bias': torch.zeros(3), 'weight': bomb}, stream)
    return stream.getvalue()


def pickled_by_numpy(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    array = np.empty(1, object)
    array[0] = bomb
    np.savez(stream, path=array)
    return stream.getvalue()


@pytest.mark.parametrize('make', [pickled, pickled_by_torch, pickled_by_numpy])
@pytest.mark.parametrize('name', ['w.pt', 'w.safetensors', 'w.npz', 'w'])
def test_weights_that_bring_code_are_refused_whatever_they_are_called(tmp_path, make, name):
    witness = tmp_path / 'ran'
    (tmp_path / name).write_bytes(make(Bomb(witness)))
    with pytest.raises(CheckpointError):
        load_predictor(str(tmp_path / name))
    assert not witness.exists()


def test_the_code_in_these_files_would_run_where_it_is_let(tmp_path):
    loaders = {
        pickled: pickle.loads,
        pickled_by_torch: lambda data: torch.load(io.BytesIO(data), weights_only=False),
        pickled_by_numpy: lambda data: np.load(io.BytesIO(data), allow_pickle=True)['path'],
    }
    for make, load in loaders.items():
        witness = tmp_path / make.__name__
        load(make(Bomb(witness)))
        assert witness.exists()


def test_a_saved_map_that_brings_code_is_refused(tmp_path):
    save_map(tmp_path / 'm', small_state())
    witness = tmp_path / 'ran'
    (tmp_path / 'm' / 'state.npz').write_bytes(pickled_by_numpy(Bomb(witness)))
    with pytest.raises(InputError) as caught:
        load_map(tmp_path / 'm')
    assert caught.value.reason == 'bad_map'
    assert not witness.exists()


def test_a_saved_map_that_unpacks_to_terabytes_is_refused_unread(tmp_path):
    save_map(tmp_path / 'm', small_state())
    file = tmp_path / 'm' / 'state.npz'
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('path.npy', b'\0' * 1000)
    data = bytearray(file.read_bytes())
    at = data.index(b'PK\1\2') + 24  # size unpacked, in the directory
    data[at : at + 4] = b'\xfe\xff\xff\xff'
    file.write_bytes(data)
    before = peak_memory(reset=True)
    with pytest.raises(InputError, match=r'state\.npz'):
        load_map(tmp_path / 'm')
    assert peak_memory() - before < 100


def peak_memory(reset: bool = False) -> float:
    """Of this process since the last reset, MB."""
    if reset:
        Path('/proc/self/clear_refs').write_text('5')
    status = Path('/proc/self/status').read_text()
    return int(status.partition('VmHWM:')[2].split()[0]) / 1024


@pytest.mark.parametrize(
    'text',
    [
        '/**: !!python/object/apply:os.mkdir ["{witness}"]',
        '/**: {{ros__parameters: {{a: !!python/object/new:os.mkdir ["{witness}"]}}}}',
        '/**: {{ros__parameters: {{a: !!python/name:os.system }}}}',
        '/**: {{ros__parameters: &a {{b: *a}}}}',
        '/**: ' + '[' * 3000,
        '/**: {{ros__parameters: ' + '{{a: ' * 900 + '1' + '}}' * 901,
    ],
    ids=['apply', 'new', 'name', 'cycle', 'deep list', 'deep mapping'],
)
def test_parameter_files_are_data_and_anything_else_is_a_config_error(tmp_path, text):
    witness = tmp_path / 'ran'
    (tmp_path / 'c.yaml').write_text(text.format(witness=witness))
    with pytest.raises(ConfigError):
        load_yaml(tmp_path / 'c.yaml')
    assert not witness.exists()


def test_a_parameter_file_does_not_grow_by_its_aliases(tmp_path):
    lines = [f'    a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}' for i in range(1, 18)]
    text = '\n'.join(['/**:', '  ros__parameters:', '    a0: &a0 {x: 1}', *lines])
    (tmp_path / 'c.yaml').write_text(text)
    before = peak_memory(reset=True)
    with pytest.raises(ConfigError):
        load_yaml(tmp_path / 'c.yaml')
    assert peak_memory() - before < 20


@pytest.mark.parametrize('name', ['config.yaml', 'about.json'])
def test_a_map_with_text_that_is_nested_without_end_is_a_bad_map(tmp_path, name):
    save_map(tmp_path / 'm', small_state())
    (tmp_path / 'm' / name).write_text('{"a": ' * 50_000)
    with pytest.raises(InputError) as caught:
        load_map(tmp_path / 'm')
    assert caught.value.reason == 'bad_map'


def test_saving_writes_through_no_symlink_that_lies_in_the_directory(tmp_path):
    directory, outside = tmp_path / 'maps', tmp_path / 'outside'
    outside.mkdir()
    directory.mkdir()
    (outside / 'file').write_text('precious')
    (directory / 'latest').symlink_to(outside)
    (directory / '.map_old.partial').symlink_to(outside)
    (directory / '.latest.partial').symlink_to(outside / 'file')
    save_new_map(directory, small_state())
    assert [p.name for p in outside.iterdir()] == ['file']
    assert (outside / 'file').read_text() == 'precious'
    assert (directory / 'latest').resolve().parent == directory.resolve()


def test_the_lock_of_the_directory_is_no_way_out_either(tmp_path):
    directory, outside = tmp_path / 'maps', tmp_path / 'file'
    directory.mkdir()
    outside.write_text('precious')
    (directory / '.lock').symlink_to(outside)
    with suppress(InputError):  # it may save, or refuse to
        save_new_map(directory, small_state())
    assert outside.read_text() == 'precious'


def test_saving_runs_nothing_that_lies_in_the_working_directory(tmp_path, monkeypatch):
    """The surface is extracted by a process of its own, which is to find our package alone."""
    (tmp_path / 'sharp_ros.py').write_text('open("ran", "w")')
    monkeypatch.chdir(tmp_path)
    with suppress(InputError):  # there is no map
        map_files._surface_by_another_process(tmp_path)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_the_process_that_extracts_a_surface_ends_with_the_one_that_began_it(number):
    child = 'import os, time; from sharp_ros.mapping.map_files import end_with as end; '
    child += 'end(os.getppid()); print(os.getpid(), flush=True); time.sleep(60)'
    parent = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {child!r}])'
    with subprocess.Popen([sys.executable, '-c', parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        extractor = psutil.Process(int(process.stdout.readline()))
        process.send_signal(number)
    extractor.wait(10)


def test_a_surface_for_a_process_that_has_ended_is_not_extracted():
    with pytest.raises(SystemExit, match='has ended'):
        map_files.end_with(os.getpid())  # it is not that of its parent


@pytest.mark.parametrize(('umask', 'forbidden'), [(0o022, 0o022), (0o077, 0o077)])
def test_saved_files_have_the_permissions_of_the_user_and_none_runs(tmp_path, umask, forbidden):
    before = os.umask(umask)
    try:
        folder = save_new_map(tmp_path / 'maps', small_state())
    finally:
        os.umask(before)
    for path in (tmp_path / 'maps', *(tmp_path / 'maps').rglob('*')):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & forbidden, path
        assert not mode & (stat.S_ISUID | stat.S_ISGID), path
        assert path.is_dir() or not mode & 0o111, path
    assert folder.is_dir()


def test_text_in_a_setting_stays_text_whatever_it_looks_like(tmp_path):
    name = '!!python/name:os.system\n/**: x # "\'\u2028'
    config = replace(SMALL, model=replace(SMALL.model, name=name))
    (tmp_path / 'c.yaml').write_text(to_yaml(config), encoding='utf-8')
    assert load_yaml(tmp_path / 'c.yaml').model.name == name


# What the program never does

_CODE = {
    'eval', 'exec', 'compile', '__import__',
    'os.system', 'os.popen', 'yaml.load', 'yaml.unsafe_load', 'yaml.full_load',
    'pickle.load', 'pickle.loads', 'pickle.Unpickler', 'marshal.loads', 'shelve.open',
}  # fmt: skip


def calls(path: Path) -> list[tuple[str, dict[str, ast.expr], int]]:
    """Name, keyword arguments and line of every call."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {k.arg: k.value for k in node.keywords if k.arg}
            found.append((ast.unparse(node.func), keywords, node.lineno))
    return found


def unsafe(name: str, keywords: dict[str, ast.expr]) -> bool:
    said = {key: getattr(value, 'value', None) for key, value in keywords.items()}
    return (
        name in _CODE
        or (name == 'torch.load' and said.get('weights_only') is not True)
        or said.get('allow_pickle') is True
        or said.get('shell') is True
    )


def test_no_code_is_made_of_data_anywhere():
    seen = []
    for path in PACKAGE.rglob('*.py'):
        for name, keywords, line in calls(path):
            assert not unsafe(name, keywords), f'{path}:{line} calls {name}'
            seen.append(name)
    assert 'torch.load' in seen
    assert 'yaml.safe_load' in seen


@pytest.mark.parametrize(
    'text', ['torch.load(f)', 'np.load(f, allow_pickle=True)', 'run(c, shell=True)', 'eval(s)']
)
def test_the_search_for_such_calls_finds_them(tmp_path, text):
    (tmp_path / 'm.py').write_text(text)
    assert all(unsafe(name, keywords) for name, keywords, _ in calls(tmp_path / 'm.py'))
