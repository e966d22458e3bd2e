"""Compiled networks that are kept for the next start: the same to the bit, if they are whole."""

import os
from pathlib import Path

import numpy as np
import pytest

from sharp_ros import execution_choice, models, self_check
from sharp_ros.config import ModelConfig
from sharp_ros.loading import load_engine
from sharp_ros.models import load_predictor
from sharp_ros.network import compiled_files
from sharp_ros.network.sessions import openvino_core, OpenVinoSession

pytest.importorskip('openvino')
NANO = models.WEIGHTS_FOLDER / 'nano.onnx'
FEEDS = {
    'input_0': np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8),
    'input_1': np.array([[100, 100, 48, 32]], np.float32),
    'geometry': np.zeros((1, 5), np.float32),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where networks are kept, in a cache of this test."""
    for module in (compiled_files, execution_choice, self_check):
        monkeypatch.setattr(module, 'CACHE_FOLDER', tmp_path / 'cache')
    monkeypatch.setattr(compiled_files, '_mapped', {})
    return tmp_path / 'cache' / 'compiled'


@pytest.fixture
def compiled(monkeypatch):
    """The sizes for which networks were compiled from now on."""
    sizes = []

    class Core:
        def __getattr__(self, name):
            return getattr(openvino_core(), name)

        def compile_model(self, model, *args):
            sizes.append(tuple(model.inputs[0].shape))
            return openvino_core().compile_model(model, *args)

    monkeypatch.setattr('sharp_ros.network.sessions.openvino_core', Core)
    return sizes


FILES = (NANO, NANO.with_suffix('.safetensors'))


def outputs(files: tuple[Path, ...] = FILES, precision: str = 'fp32') -> np.ndarray:
    session = OpenVinoSession(files[0] if files else NANO, precision, files=files)
    return session.run(list(session.outputs)[:1], FEEDS)[0]


def test_a_network_that_was_kept_gives_the_same_to_the_bit(folder, compiled):
    expected = outputs(())
    assert not folder.exists()
    for _ in range(3):
        np.testing.assert_array_equal(outputs(), expected)
    assert compiled == [(64, 96, 3)] * 2  # without a name for its contents, and the first with
    assert len(list(folder.iterdir())) == 1


def sized(session: OpenVinoSession, rows: int) -> np.ndarray:
    feeds = {**FEEDS, 'input_0': np.full((rows, 96, 3), 90, np.uint8)}
    return session.run(list(session.outputs)[:1], feeds)[0]


def test_two_sizes_of_a_session_are_kept_and_no_more(folder, compiled):
    """Each that is kept stays in memory, and a folder of photographs has any number."""
    session = OpenVinoSession(NANO, files=FILES)
    for rows in (64, 96, 128, 160, 64):
        sized(session, rows)
    assert compiled == [(64, 96, 3), (96, 96, 3), (128, 96, 3), (160, 96, 3)]
    assert len(list(folder.iterdir())) == len(compiled_files._mapped) == 2


def test_precisions_are_other_files(folder):
    names = {compiled_files.file_for('nano', p).name for p in ('fp32', 'bf16')}
    assert len(names) == 2


def test_weights_that_are_replaced_are_other_contents(folder, tmp_path):
    """Also while a session lasts, which reads them again for another size."""
    files = tuple(tmp_path / file.name for file in FILES)
    for mine, file in zip(files, FILES, strict=True):
        mine.write_bytes(file.read_bytes())
    session = OpenVinoSession(files[0], files=files)
    sized(session, 64)
    before = files[1].read_bytes()
    after = bytearray(before)
    after[-4000:] = bytes(4000)
    renewed = tmp_path / 'renewed'
    renewed.write_bytes(after)
    renewed.replace(files[1])
    changed = sized(session, 96)
    assert not np.array_equal(changed, sized(OpenVinoSession(NANO), 96))
    renewed.write_bytes(before)
    renewed.replace(files[1])
    compiled_files._mapped.clear()
    back = sized(OpenVinoSession(files[0], files=files), 96)
    np.testing.assert_array_equal(back, sized(OpenVinoSession(NANO), 96))


def test_files_of_others_are_not_kept(folder, tmp_path):
    """Which weights a graph refers to stands in the graph."""
    for name, file in (('renamed.onnx', FILES[0]), ('nano.safetensors', FILES[1])):
        (tmp_path / name).write_bytes(file.read_bytes())
    predictor, _ = load_predictor(str(tmp_path / 'renamed.onnx'), way=('openvino', 'fp32'))
    predictor(*self_check.check_image())
    assert not folder.exists()


def test_memory_that_is_locked_stays_where_it_is(folder, monkeypatch):
    class Locked:
        def madvise(self, advice):
            raise OSError(22, 'Invalid argument')

    path = compiled_files.file_for('nano')
    monkeypatch.setitem(compiled_files._mapped, path, Locked())
    compiled_files.give_back(path)


def test_a_file_that_cannot_be_opened_stays(folder, monkeypatch):
    path = compiled_files.file_for('nano')
    compiled_files.keep(path, b'good')

    def none_left(*args):
        raise OSError(24, 'Too many open files')

    with monkeypatch.context() as patched:
        patched.setattr(Path, 'open', none_left)
        assert compiled_files.mapped(path) is None
    found = compiled_files.mapped(path)
    assert found is not None
    assert bytes(found) == b'good'


def test_a_request_outlives_the_session_and_what_else_was_mapped(folder):
    """The network reads from the file: it stays mapped, also once the file itself is gone."""
    outputs()
    session = OpenVinoSession(NANO, files=FILES)
    (first,) = session.run(list(session.outputs)[:1], FEEDS)
    compiled_files.forget()
    assert not list(folder.iterdir())
    np.testing.assert_array_equal(session.run(list(session.outputs)[:1], FEEDS)[0], first)
    session.close()
    np.testing.assert_array_equal(session.run(list(session.outputs)[:1], FEEDS)[0], first)


def damage_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def emptied(path: Path) -> None:
    path.write_bytes(b'')


@pytest.mark.parametrize('damage', [damage_byte, cut_short, emptied])
def test_a_damaged_file_is_made_again(folder, compiled, damage):
    expected = outputs()
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    compiled_files._mapped.clear()  # as in another process
    damage(path)
    np.testing.assert_array_equal(outputs(), expected)
    assert len(compiled) == 2
    compiled_files._mapped.clear()
    assert compiled_files.mapped(path) is not None
    assert path.stat().st_size == len(whole)


def test_what_this_openvino_cannot_read_is_compiled(folder, compiled):
    expected = outputs()
    (path,) = folder.iterdir()
    compiled_files.keep(path, b'of another version' * 100)
    compiled_files._mapped.clear()
    np.testing.assert_array_equal(outputs(), expected)
    assert len(compiled) == 2
    assert path.stat().st_size > 1_000_000  # a good one again, and in use
    np.testing.assert_array_equal(outputs(), expected)
    assert len(compiled) == 2


def test_where_nothing_can_be_kept_it_runs_all_the_same(tmp_path, caplog):
    (tmp_path / 'cache').write_text('a file where the folder would be')
    assert np.isfinite(outputs()).all()
    assert 'cannot keep the network' in caplog.text


def test_only_the_newest_files_are_kept(folder):
    paths = [compiled_files.file_for(n) for n in range(9)]
    for path in paths:
        compiled_files.keep(path, b'x' * 100)
    assert sorted(folder.iterdir()) == sorted(paths[-6:])
    found = compiled_files.mapped(paths[-1])
    assert found is not None
    assert bytes(found) == b'x' * 100
    assert compiled_files.mapped(paths[0]) is None


def test_nano_is_kept_and_passes_its_self_check_when_it_comes_back(folder, compiled):
    config = ModelConfig(execution='openvino', precision='fp32')
    for _ in range(2):
        engine, _ = load_engine(config, 'cpu')
        assert engine.check_error is not None
        assert engine.check_error < self_check.TOLERANCE
    assert len(compiled) == 1
    assert len(list(folder.iterdir())) == 1


def test_what_a_killed_process_left_goes(folder):
    folder.mkdir(parents=True)
    old, new = folder / '.1.x.blob.partial', folder / '.2.x.blob.partial'
    for path in (old, new):
        path.write_bytes(b'half')
    os.utime(old, (1, 1))
    path = compiled_files.file_for('nano')
    compiled_files.keep(path, b'whole')
    assert set(folder.iterdir()) == {new, path}
    compiled_files.forget()
    assert not list(folder.iterdir())
