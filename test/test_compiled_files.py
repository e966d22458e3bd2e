"""Compiled networks that are kept for the next start: the same to the bit, if they are whole."""

from pathlib import Path

import numpy as np
import pytest

from sharp_ros import execution_choice, models, self_check
from sharp_ros.config import ModelConfig
from sharp_ros.loading import load_engine
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
    compiled_files._mapped.cache_clear()
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


def outputs(contents: str = 'nano', precision: str = 'fp32') -> np.ndarray:
    session = OpenVinoSession(NANO, precision, contents=contents)
    return session.run(list(session.outputs)[:1], FEEDS)[0]


def test_a_network_that_was_kept_gives_the_same_to_the_bit(folder, compiled):
    expected = outputs(contents='')
    assert not folder.exists()
    for _ in range(3):
        np.testing.assert_array_equal(outputs(), expected)
    assert compiled == [(64, 96, 3)] * 2  # without a name for its contents, and the first with
    assert len(list(folder.iterdir())) == 1


def test_other_contents_precisions_and_sizes_are_other_files(folder, compiled):
    session = OpenVinoSession(NANO, contents='nano')
    for rows in (64, 96, 64):
        image = np.zeros((rows, 96, 3), np.uint8)
        session.run(list(session.outputs)[:1], {**FEEDS, 'input_0': image})
    outputs('another')
    assert compiled == [(64, 96, 3), (96, 96, 3), (64, 96, 3)]
    assert len(list(folder.iterdir())) == 3
    names = {compiled_files.file_for('nano', p).name for p in ('fp32', 'bf16')}
    assert len(names) == 2


def test_a_request_outlives_the_session_and_what_else_was_mapped(folder):
    """The network reads from the file: it stays mapped, also once the file itself is gone."""
    outputs()
    session = OpenVinoSession(NANO, contents='nano')
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
    compiled_files._mapped.cache_clear()  # as in another process
    damage(path)
    np.testing.assert_array_equal(outputs(), expected)
    assert len(compiled) == 2
    compiled_files._mapped.cache_clear()
    assert compiled_files.mapped(path) is not None
    assert path.stat().st_size == len(whole)


def test_what_this_openvino_cannot_read_is_compiled(folder, compiled):
    expected = outputs()
    (path,) = folder.iterdir()
    compiled_files.keep(path, b'of another version' * 100)
    compiled_files._mapped.cache_clear()
    np.testing.assert_array_equal(outputs(), expected)
    assert len(compiled) == 2
    assert path.stat().st_size > 1_000_000  # a good one again


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
    assert bytes(found[1]) == b'x' * 100
    assert compiled_files.mapped(paths[0]) is None


def test_nano_is_kept_and_passes_its_self_check_when_it_comes_back(folder, compiled):
    config = ModelConfig(execution='openvino', precision='fp32')
    for _ in range(2):
        engine, _ = load_engine(config, 'cpu')
        assert engine.check_error is not None
        assert engine.check_error < self_check.TOLERANCE
    assert len(compiled) == 1
    assert len(list(folder.iterdir())) == 1
