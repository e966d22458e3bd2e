"""`sharp-ros export`: files that give what torch gives, or no file at all."""

from __future__ import annotations

import subprocess
import sys

import pytest
from shipped_nano import assert_same_shapes
import torch

from sharp_ros import __version__, models, self_check
from sharp_ros.apps import cli
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.models import load_predictor
from sharp_ros.network.nano import save_weights

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """Nano with its weights inside."""
    path = tmp_path_factory.mktemp('export') / 'mine.onnx'
    assert cli.main(['export', '--model', 'nano', '--format', 'onnx', '-o', str(path)]) == 0
    return path


def test_an_exported_nano_gives_the_gaussians_of_torch(exported, tmp_path):
    moved = tmp_path / 'moved.onnx'  # it needs no other file
    moved.write_bytes(exported.read_bytes())
    found, info = load_predictor(str(moved))
    truth, _ = load_predictor('nano')
    assert (info.metric, info.licence) == (True, 'Apache-2.0')
    image, camera = self_check.check_image()
    for rows in (480, 340):
        k = camera.cropped(0, 0, 640, rows)
        a = Engine(found, ModelConfig()).predict(image[:rows], k)
        b = truth(image[:rows], k)
        for name in ('means', 'opacities', 'colors', 'log_depth_std'):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-6)
        assert_same_shapes(a, b, rtol=1e-4)


def test_the_file_says_what_it_is(exported):
    session = onnxruntime.InferenceSession(str(exported), providers=['CPUExecutionProvider'])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata['model'] == 'nano'
    assert metadata['licence'] == 'Apache-2.0'
    assert metadata['version'] == __version__
    assert metadata['precision'] == 'fp32'
    onnx.checker.check_model(onnx.load(exported))


def test_the_largest_difference_is_printed(exported, capsys, monkeypatch, tmp_path):
    from sharp_ros.exchange import onnx_export

    translated = onnx.load(exported)
    del translated.metadata_props[:]
    monkeypatch.setattr(onnx_export, '_translated', lambda predictor, inputs: translated)
    assert cli.main(['export', '-o', str(tmp_path / 'again.onnx')]) == 0
    assert 'largest difference from torch' in capsys.readouterr().out


def test_a_wrong_translation_leaves_the_old_file_in_place(exported, capsys, monkeypatch, tmp_path):
    from sharp_ros.exchange import onnx_export

    model = onnx.load(exported)
    del model.metadata_props[:]
    bias = next(i for i in model.graph.initializer if i.name.endswith('head.bias'))
    values = onnx.numpy_helper.to_array(bias) + 0.5
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    monkeypatch.setattr(onnx_export, '_translated', lambda predictor, inputs: model)
    path = tmp_path / 'nano.onnx'
    path.write_bytes(b'old')
    assert cli.main(['export', '-o', str(path)]) == 1
    assert 'differ from torch by' in capsys.readouterr().err
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_graph_alone_reads_the_weights_beside_it(tmp_path):
    weights = tmp_path / 'mine.safetensors'
    network = load_predictor('nano')[0].network
    save_weights(network, weights, {'name': 'another length of the header'})
    assert cli.main(['export', '--model', str(weights), '--graph-only']) == 0
    graph = tmp_path / 'mine.onnx'
    assert graph.stat().st_size < weights.stat().st_size / 10
    engine = Engine(load_predictor(str(graph))[0], ModelConfig())
    engine.prepare()
    assert engine.check_error < 1e-4


def test_a_graph_alone_must_lie_beside_its_weights(tmp_path, capsys):
    assert cli.main(['export', '--graph-only', '-o', str(tmp_path / 'nano.onnx')]) == 1
    assert 'beside' in capsys.readouterr().err


@pytest.mark.parametrize('model', ['sensor'])
def test_what_is_not_nano_is_refused(model, capsys):
    assert cli.main(['export', '--model', model]) == 1
    assert 'only nano' in capsys.readouterr().err


def test_the_package_that_is_missing_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    assert cli.main(['export', '-o', str(tmp_path / 'nano.onnx')]) == 1
    assert 'pip install onnx' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_loads_neither_torch_nor_onnx():
    code = (
        'import sys, contextlib\n'
        'from sharp_ros.apps import cli\n'
        'with contextlib.suppress(SystemExit): cli.main(["export", "--help"])\n'
        'print({"torch", "onnx", "onnxruntime"} & set(sys.modules))'
    )
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert said.stdout.endswith('set()\n')


def test_the_shipped_graph_is_that_of_the_shipped_weights_and_of_this_code():
    """After new weights or another network: `sharp-ros export --graph-only`."""
    predictor, _ = load_predictor(str(models.WEIGHTS_FOLDER / 'nano.onnx'))
    truth, _ = load_predictor('nano')
    inputs = truth.inputs(*self_check.check_image())
    with torch.inference_mode():
        outputs = truth.forward(*inputs)
    assert self_check.difference(predictor.forward(*inputs), outputs) < 1e-4
    compared = truth.comparable(outputs)
    assert self_check.difference_from_stored(compared, predictor.reference) < 1e-4
