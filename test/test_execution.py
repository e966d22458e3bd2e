"""OpenVINO beside ONNX Runtime and torch, and the choice among them that is measured once."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from shipped_nano import assert_same_shapes, corrupt
import torch

from sharp_ros import execution_choice, models, self_check
from sharp_ros.apps.cli import main
from sharp_ros.camera import FloorGeometry
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import CheckpointError, ConfigError, EngineError
from sharp_ros.evaluation import installation
from sharp_ros.loading import load_engine
from sharp_ros.models import load_predictor
from sharp_ros.network import compiled_files
from sharp_ros.network.nano_arrays import METRES, NanoArrays, NONE
from sharp_ros.network.onnx_predictor import OnnxNanoPredictor
from sharp_ros.network.sessions import import_openvino, openvino_core, OpenVinoSession
from sharp_ros.process import inference_threads

pytest.importorskip('onnxruntime')
try:
    openvino = import_openvino()  # which no test may import in the usual way: it would report that
except ImportError:
    pytest.skip('openvino is not installed', allow_module_level=True)

NANO = models.WEIGHTS_FOLDER / 'nano.onnx'
HAS_BF16 = 'BF16' in openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason='this processor has no bf16')
PRECISIONS = ['fp32', pytest.param('bf16', marks=needs_bf16)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test: the file of choices in it."""
    for module in (self_check, execution_choice, compiled_files):
        monkeypatch.setattr(module, 'CACHE_FOLDER', tmp_path / 'cache')
    return tmp_path / 'cache' / 'execution.json'


_COMPILED = {}


@pytest.fixture
def compiled_once(monkeypatch):
    """Compiling takes half a second: once for each content of the file and its weights."""
    compile_ = OpenVinoSession._compiled

    def compiled(self, shapes):
        contents = [path.read_bytes() for path in models.onnx_files(str(self.path))]
        key = hash((*contents, self.precision, str(shapes)))
        if key not in _COMPILED:
            _COMPILED[key] = compile_(self, shapes)
        return _COMPILED[key]

    monkeypatch.setattr(OpenVinoSession, '_compiled', compiled)


@pytest.fixture
def measured(monkeypatch, compiled_once):
    """How long each way takes from now on, and the ways that were measured, by time."""
    calls, times = [], {'openvino bf16': 10.0, 'openvino fp32': 16.5, 'onnx fp32': 23.5}

    def fake(runs):
        calls.append(sorted(runs))
        for run in runs.values():
            run()
        return {name: times[name] for name in runs}

    monkeypatch.setattr(execution_choice, 'median_ms', fake)
    return calls, times


def session(precision: str = 'fp32') -> OpenVinoSession:
    return OpenVinoSession(NANO, precision)


# --- OpenVINO gives what torch gives -------------------------------------------------------------


# 95 % of the pixels, in parts of the mean depth; bf16 keeps 8 bits of every factor
@pytest.mark.parametrize(('precision', 'bound'), [('fp32', 1e-4), ('bf16', self_check.TOLERANCE)])
def test_openvino_gives_what_torch_gives_at_any_size(precision, bound):
    if precision == 'bf16' and not HAS_BF16:
        pytest.skip('this processor has no bf16')
    fast = OnnxNanoPredictor(session(precision))
    plain, _ = load_predictor('nano')
    image, camera = self_check.check_image()
    for rows in (480, 360, 300, 480):  # the first size again after two others
        inputs = fast.inputs(image[:rows], camera.cropped(0, 0, 640, rows))
        with torch.inference_mode():
            expected = plain.comparable(plain.forward(*inputs))
        found = fast.comparable(fast.forward(*inputs))
        assert self_check.difference(found, expected) < bound


@pytest.mark.parametrize('precision', PRECISIONS)
def test_the_precision_that_is_stated_is_the_one_that_runs(precision):
    """Left alone OpenVINO takes bf16; its own list of executed kernels is the witness."""
    opened = session(precision)
    feeds = {
        'input_0': np.zeros((96, 128, 3), np.uint8),
        'input_1': np.array([[100, 100, 64, 48]], np.float32),
        'geometry': np.zeros((1, 5), np.float32),
    }
    opened.run(list(opened.outputs), feeds)
    (request,) = opened._requests.values()
    nodes = request.get_compiled_model().get_runtime_model().get_ordered_ops()
    kinds = {
        str(node.get_rt_info()['runtimePrecision'].astype(str))
        for node in nodes
        if 'Convolution' in str(node.get_rt_info()['layerType'].astype(str))
    }
    assert kinds == {{'fp32': 'f32', 'bf16': 'bf16'}[precision]}


def test_results_are_the_callers_own():
    opened = session()
    feeds = {
        'input_0': np.zeros((64, 96, 3), np.uint8),
        'input_1': np.array([[100, 100, 48, 32]], np.float32),
        'geometry': np.zeros((1, 5), np.float32),
    }
    (first,) = opened.run(list(opened.outputs)[:1], feeds)
    kept = first.copy()
    opened.run(list(opened.outputs), {**feeds, 'input_0': feeds['input_0'] + np.uint8(200)})
    np.testing.assert_array_equal(first, kept)
    opened.close()
    (again,) = opened.run(list(opened.outputs)[:1], feeds)
    np.testing.assert_allclose(again, kept, rtol=1e-5, atol=1e-5)


def test_a_signal_after_openvino_was_used_does_not_end_the_process():
    """Its plugin leaves an alternate stack for signals, of memory that goes with the last core."""
    code = (
        'import os, signal, threading\n'
        'from sharp_ros.models import WEIGHTS_FOLDER\n'
        'from sharp_ros.network.sessions import OpenVinoSession\n'
        'seen = []\n'
        'signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n'
        "held = [OpenVinoSession(WEIGHTS_FOLDER / 'nano.onnx')]\n"
        'worker = threading.Thread(target=held.clear)  # another thread lets go of it\n'
        'worker.start()\n'
        'worker.join()\n'
        'os.kill(os.getpid(), signal.SIGINT)\n'
        'print(len(seen))\n'
    )
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ['1']), done.stderr


def test_importing_openvino_tells_nobody(tmp_path):
    """Its telemetry would write an identity into the home folder and report every import."""
    code = (
        'import sys\n'
        'from pathlib import Path\n'
        'from sharp_ros.network.sessions import OpenVinoSession\n'
        f'OpenVinoSession(Path({str(NANO)!r}))\n'
        'unwanted = ("openvino_telemetry", "openvino.tools")\n'
        'print([name for name in sys.modules if name.startswith(unwanted)])'
    )
    environment = {**os.environ, 'HOME': str(tmp_path)}
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == '[]'
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_network_are_refused(tmp_path):
    path = tmp_path / 'nano.onnx'
    path.write_bytes(NANO.read_bytes()[:400])
    with pytest.raises(CheckpointError, match='no network that OpenVINO'):
        OpenVinoSession(path)


def test_a_frame_whose_result_nobody_takes_does_not_stop_those_that_follow():
    engine, _ = load_engine(ModelConfig(execution='openvino', precision='fp32'), 'cpu')
    image, camera = self_check.check_image()
    expected = engine.predict(image, camera).arrays.means
    for _ in range(3):
        engine.submit(image, camera)
    np.testing.assert_array_equal(engine.predict(image, camera).arrays.means, expected)


# --- without torch -------------------------------------------------------------------------------


@pytest.mark.parametrize('known_floor', [True, False])
@pytest.mark.parametrize('rows', [480, 360])
def test_arrays_say_what_tensors_say(rows, known_floor):
    """The twin in torch, on the same prediction, with sky and depth that overflows in it."""
    fast, _ = load_predictor('nano', way=('onnx', 'auto'))
    plain, _ = load_predictor('nano')
    assert isinstance(fast, NanoArrays)
    image, camera = self_check.check_image()
    image, camera = image[:rows], camera.cropped(0, 0, 640, rows)
    geometry = FloorGeometry(np.array([0.1, -0.9, -0.3]), 1.2) if known_floor else None
    inputs, expected_inputs = (p.inputs(image, camera, geometry) for p in (fast, plain))
    for found, expected in zip(inputs, expected_inputs, strict=True):
        np.testing.assert_array_equal(found, expected.numpy())
    prediction, small = fast.forward(*inputs)
    assert len(prediction) == METRES + 1
    prediction[NONE, :10] = 2.0  # nothing there, more likely than not
    prediction[NONE, 10:20] = 8.0  # surely
    prediction[0, 30, 30] = 200.0  # overflows, and is no sky
    prediction[1, 40:50] = prediction[0, 40:50]  # a second surface that is none
    rgb = torch.from_numpy(small).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        outputs = torch.from_numpy(prediction), rgb
        expected = plain.gaussians(outputs, camera)
        expected_points = plain.gaussians(outputs, camera, covariances=False)
        comparable = plain.comparable(outputs)
    found = fast.gaussians((prediction, small), camera)
    assert found.grid == expected.grid
    assert found.log_scale_std == pytest.approx(expected.log_scale_std, rel=1e-6)
    points = fast.gaussians((prediction, small), camera, covariances=False)
    for pointlike in (points, expected_points):
        assert pointlike.quats is pointlike.scales is None
    for name in ('means', 'opacities', 'colors', 'log_depth_std', 'empty'):
        a, b = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f'{n}: {m}')
        assert torch.equal(getattr(points, name), a)
        assert torch.equal(getattr(expected_points, name), b)
    assert_same_shapes(found, expected, rtol=1e-5)
    for a, b in zip(fast.comparable((prediction, small)), comparable, strict=True):
        np.testing.assert_allclose(np.squeeze(a), b.squeeze().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('execution', ['onnx', 'openvino'])
def test_from_image_to_map_and_message_torch_is_not_loaded(execution, tmp_path):
    code = f"""
import sys
import numpy as np
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import GaussianMapConfig, ModelConfig, SharpConfig
from sharp_ros.pipeline import Pipeline
from sharp_ros.point_cloud import splat_records
from sharp_ros.self_check import check_image
config = SharpConfig(
    model=ModelConfig(execution={execution!r}, precision='fp32'),
    gaussian_map=GaussianMapConfig(enabled=True),
)
pipeline = Pipeline.from_config(config)
pipeline.take_any_image()
wanted = {{'points', 'gaussians', 'occupancy_grid', *('view/' + name for name in config.views)}}
image, intrinsics = check_image()
T = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1.0]])
for i in range(3):
    frame = Frame(image, intrinsics, i * 10**9, 'camera', T, 'odom')
    result = pipeline.process(frame, wanted)
assert np.isfinite(result.depth).any()
assert result.mapped, result.unmapped
assert len(splat_records(result.gaussians)) > 1000
assert result.views
assert pipeline.map_state().gaussians
print([name for name in ('torch', 'onnx', 'open3d') if name in sys.modules])
"""
    environment = {**os.environ, 'HOME': str(tmp_path)}
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == '[]', done.stderr


# --- by name -------------------------------------------------------------------------------------


@pytest.mark.parametrize('precision', PRECISIONS)
def test_openvino_by_name_runs_in_the_precision_asked_for(precision):
    config = ModelConfig(execution='openvino', precision=precision)
    engine, _ = load_engine(config, 'cpu')
    assert (engine.execution, engine.precision) == ('openvino (CPU)', precision)
    assert engine.check_error < self_check.TOLERANCE


@pytest.mark.parametrize(
    ('config', 'device', 'advice'),
    [
        (ModelConfig(execution='openvino', precision='fp16'), 'cpu', 'fp32 or bf16'),
        (ModelConfig(execution='openvino'), 'cuda', 'set model.device to cpu'),
        (ModelConfig('sensor', execution='openvino'), 'cpu', 'needs nano'),
        (ModelConfig('sharp', execution='openvino'), 'cpu', 'sharp-ros fetch'),
    ],
)
def test_what_openvino_cannot_do_is_an_error_with_what_to_do(config, device, advice):
    with pytest.raises((ConfigError, CheckpointError), match=advice):
        load_engine(config, device)


def test_without_openvino_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(ConfigError, match='pip install openvino'):
        load_engine(ModelConfig(execution='openvino'), 'cpu')


def test_a_network_that_fails_its_check_in_openvino_is_refused_with_what_to_do(graph):
    corrupt(graph)
    engine, _ = load_engine(ModelConfig(execution='openvino'), 'cpu')
    with pytest.raises(EngineError, match=r'by \d.*set model.execution to onnx'):
        engine.prepare()


# --- by measuring --------------------------------------------------------------------------------


@needs_bf16
def test_the_fastest_way_is_measured_once_and_remembered(measured, cache):
    calls, _ = measured
    for _ in range(2):
        engine, _ = load_engine(ModelConfig(), 'cpu')
        assert (engine.execution, engine.precision) == ('openvino (CPU)', 'bf16')
    assert calls == [['onnx fp32', 'openvino bf16', 'openvino fp32']]
    (entry,) = json.loads(cache.read_text()).values()
    assert entry['median_ms'] == {'openvino bf16': 10.0, 'openvino fp32': 16.5, 'onnx fp32': 23.5}
    assert not list(cache.parent.glob('*.partial'))


@pytest.mark.parametrize(
    ('times', 'expected'),
    [
        ({'onnx fp32': 9.0}, ('onnx (CPU)', 'fp32')),
        ({'openvino fp32': 10.5}, ('openvino (CPU)', 'fp32')),  # bf16 gains too little
    ],
)
def test_what_is_fastest_here_runs(times, expected, measured):
    measured[1].update(times)
    engine, _ = load_engine(ModelConfig(), 'cpu')
    assert (engine.execution, engine.precision) == expected


def test_float32_that_is_asked_for_is_never_less(measured):
    engine, _ = load_engine(ModelConfig(precision='fp32'), 'cpu')
    assert (engine.execution, engine.precision) == ('openvino (CPU)', 'fp32')
    assert measured[0] == [['onnx fp32', 'openvino fp32']]


def test_where_there_is_nothing_to_choose_nothing_is_measured(measured, cache):
    engine, _ = load_engine(ModelConfig(execution='openvino', precision='fp32'), 'cpu')
    assert (engine.execution, engine.precision) == ('openvino (CPU)', 'fp32')
    assert not measured[0]
    assert not cache.exists()


@pytest.mark.parametrize('change', ['weights', 'version', 'processor', 'threads', 'nothing'])
def test_a_choice_holds_for_what_it_was_measured_on(change, measured, graph, monkeypatch):
    calls, _ = measured
    load_engine(ModelConfig(), 'cpu')
    config = ModelConfig(threads=7) if change == 'threads' else ModelConfig()
    if change == 'weights':
        weights = graph.with_name('nano.safetensors')
        weights.write_bytes(weights.read_bytes() + b' ')
    elif change == 'version':
        newer = {**execution_choice.versions(), 'openvino': '2027.0.0'}
        monkeypatch.setattr(execution_choice, 'versions', lambda: newer)
    elif change == 'processor':
        monkeypatch.setattr(execution_choice, 'processor', lambda: 'another')
    load_engine(config, 'cpu')
    assert len(calls) == (1 if change == 'nothing' else 2)


@pytest.mark.parametrize('text', ['', '{"a": 1}', '[]', '{"KEY": {"chosen": "x"}}', 'half'])
def test_a_damaged_file_of_choices_counts_as_none(text, measured, cache):
    load_engine(ModelConfig(), 'cpu')
    (key,) = json.loads(cache.read_text())
    whole = cache.read_text()
    cache.write_text(whole[: len(whole) // 2] if text == 'half' else text.replace('KEY', key))
    load_engine(ModelConfig(), 'cpu')
    assert len(measured[0]) == 2
    assert list(json.loads(cache.read_text())) == [key]


def test_a_chosen_way_that_fails_later_gives_way_to_another(measured, monkeypatch, caplog):
    first, _ = load_engine(ModelConfig(), 'cpu')
    assert first.execution == 'openvino (CPU)'
    run = OpenVinoSession.run

    def wrong(self, names, feeds):
        return [output + np.float32(0.2) for output in run(self, names, feeds)]

    monkeypatch.setattr(OpenVinoSession, 'run', wrong)
    engine, _ = load_engine(ModelConfig(), 'cpu')
    assert engine.execution == 'onnx (CPU)'
    assert 'self-check failed' in caplog.text
    choice = execution_choice.here()[-1]
    assert choice.chosen == 'onnx fp32'
    assert 'differs from its reference' in choice.refused['openvino fp32']


def test_without_openvino_onnx_runtime_goes_on(measured, monkeypatch, cache, caplog):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with caplog.at_level(logging.INFO):
        engine, _ = load_engine(ModelConfig(), 'cpu')
    assert engine.execution == 'onnx (CPU)'
    assert 'pip install openvino' in caplog.text
    # its package is there and cannot be imported: that may be mended without a new version
    assert not cache.exists()
    others = {k: v for k, v in execution_choice.versions().items() if k != 'openvino'}
    monkeypatch.setattr(execution_choice, 'versions', lambda: others)
    for _ in range(2):
        assert load_engine(ModelConfig(), 'cpu')[0].execution == 'onnx (CPU)'
    assert len(measured[0]) == 2
    assert len(json.loads(cache.read_text())) == 1


def test_a_cache_that_cannot_be_written_costs_only_the_measurement(measured, cache):
    cache.parent.write_text('a file in the place of the folder')
    for _ in range(2):
        assert load_engine(ModelConfig(), 'cpu')[0].execution == 'openvino (CPU)'
    assert len(measured[0]) == 2


def test_ways_are_measured_in_turn():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in ('a', 'b')}
    times = execution_choice.median_ms(runs)
    assert order == ['a', 'b'] * (len(order) // 2)
    assert set(times) == {'a', 'b'}
    assert len(order) >= 10


def test_the_oldest_choices_are_dropped(cache):
    for i in range(30):
        execution_choice.remember(str(i), execution_choice.Choice('a', {'a': 1.0}))
    kept = list(json.loads(cache.read_text()))
    assert kept == [str(i) for i in range(10, 30)]


def test_threads_are_those_of_the_user_else_of_the_cores(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    assert inference_threads(5) == 5
    assert inference_threads() == 3
    monkeypatch.delenv('OMP_NUM_THREADS')
    assert 1 <= inference_threads() <= len(os.sched_getaffinity(0))
    assert session()._settings['INFERENCE_NUM_THREADS'] == inference_threads()


# --- what people see -----------------------------------------------------------------------------


def test_doctor_shows_the_choice_and_forgets_it(measured, monkeypatch, capsys, cache):
    monkeypatch.setattr(installation, '_CHECKS', (installation._nano,))
    for arguments in ([], ['--forget-execution'], []):
        assert main(['doctor', *arguments]) == 0
        out = capsys.readouterr().out
        assert 'onnx fp32 23.5 ms' in out
        assert 'openvino (CPU)' in out
    assert len(measured[0]) == 2  # before, and after it was forgotten
    execution_choice.forget()
    execution_choice.forget()  # nothing there is no error
    assert not cache.exists()


def test_doctor_forgets_what_was_compiled_for_the_choice(measured, monkeypatch, capsys):
    monkeypatch.setattr(installation, '_CHECKS', (installation._nano,))
    path = compiled_files.file_for('nano')
    compiled_files.keep(path, b'compiled')
    assert main(['doctor']) == 0
    assert path.exists()
    assert main(['doctor', '--forget-execution']) == 0
    assert not path.exists()


def test_onnx_of_nano_by_path_chooses_too_and_other_networks_do_not(measured, graph):
    engine, _ = load_engine(ModelConfig(str(graph)), 'cpu')
    assert engine.execution == 'openvino (CPU)'
    assert Engine(load_predictor(str(graph))[0], ModelConfig()).execution == 'onnx (CPU)'
    assert len(measured[0]) == 1


def test_torch_is_asked_for_a_gpu_only_where_one_may_be(tmp_path):
    code = (
        'import sys\n'
        'from sharp_ros import engine\n'
        'engine._GPU_FILES = (sys.argv[1],)\n'
        'print(engine.choose_device("auto"), engine.choose_device("cpu"), "torch" in sys.modules)'
    )
    found = [
        subprocess.run(
            [sys.executable, '-c', code, str(path)], capture_output=True, text=True, check=True
        ).stdout.split()
        for path in (tmp_path / 'none', tmp_path)
    ]
    assert found[0] == ['cpu', 'cpu', 'False']
    assert found[1][1:] == ['cpu', 'True']
