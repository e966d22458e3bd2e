"""Depth networks in ONNX: small ones made here, whose depths are known exactly."""

from __future__ import annotations

from pathlib import Path
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from shipped_nano import corrupt
import torch
import yaml

from sharp_ros import execution_choice, models, self_check
from sharp_ros.apps import fetch
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import ModelConfig, SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import CheckpointError, ConfigError, EngineError, InputError
from sharp_ros.loading import load_engine
from sharp_ros.models import load_predictor
from sharp_ros.network import compiled_files, onnx_predictor
from sharp_ros.network.description import load_description
from sharp_ros.network.nano_arrays import NONE
from sharp_ros.network.sessions import OnnxSession, openvino_core
from sharp_ros.pipeline import Pipeline
from sharp_ros.relative_pipeline import load_any_pipeline

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
from onnx import helper, numpy_helper, TensorProto  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')

CAMERA = Intrinsics(70.0, 70.0, 31.5, 23.5, 64, 48)
SMALL = (32, 24)  # half of it, so that focal lengths are half as long
GREY = np.full((48, 64, 3), 102, np.uint8)  # 0.4 of white
BASE = {
    'description': 'brightness as depth',
    'licence': 'CC0-1.0',
    'file': 'tiny.onnx',
    'input': {'name': 'image', 'size': list(SMALL)},
    'output': {'name': 'depth', 'kind': 'metric'},
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    for module in (self_check, execution_choice, compiled_files):
        monkeypatch.setattr(module, 'CACHE_FOLDER', tmp_path / 'cache')


@pytest.fixture
def without_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)


def write_network(
    folder: Path,
    nodes=None,
    *,
    layout='NCHW',
    kind=TensorProto.FLOAT,
    more=(),
    outputs=(),
    size=(),
):
    """A network that gives the mean of the channels, or whatever the nodes make of it."""
    shape = {'NCHW': [1, 3, 'h', 'w'], 'NHWC': [1, 'h', 'w', 3]}[layout]
    if size:
        shape = [1, 3, *size]
    axes = helper.make_tensor('axes', TensorProto.INT64, [1], [layout.index('C')])
    mean = helper.make_node('ReduceMean', ['float', 'axes'], ['mean'], keepdims=0)
    cast = helper.make_node('Cast', ['image'], ['float'], to=TensorProto.FLOAT)
    nodes = nodes or [helper.make_node('Identity', ['mean'], ['depth'])]
    graph = helper.make_graph(
        [cast, mean, *nodes],
        'tiny',
        [helper.make_tensor_value_info('image', kind, shape), *more],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in ('depth', *outputs)
        ],
        [axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    folder.mkdir(exist_ok=True)
    (folder / 'tiny.onnx').write_bytes(model.SerializeToString())


def describe(folder: Path, **changes) -> str:
    """The path of a description; a value of None takes its key away."""
    folder.mkdir(exist_ok=True)
    tree = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    (folder / 'tiny.yaml').write_text(yaml.safe_dump(tree))
    return str(folder / 'tiny.yaml')


def depths(path: str, image=GREY, camera=CAMERA) -> np.ndarray:
    """[rows, columns] as the engine gives them, NaN where there is none."""
    predictor, _ = load_predictor(path, relative=True)
    gaussians = Engine(predictor, ModelConfig()).predict(image, camera)
    z = gaussians.means[:, 2].masked_fill(gaussians.opacities <= 0, float('nan'))
    return z.reshape(gaussians.grid[1:]).numpy()


def halves(left: int, right: int) -> np.ndarray:
    image = np.full((48, 64, 3), left, np.uint8)
    image[:, 32:] = right
    return image


def node(op, *inputs, to='depth'):
    return helper.make_node(op, list(inputs), [to])


# --- what the numbers mean -----------------------------------------------------------------------


@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
@pytest.mark.parametrize('kind', [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_metres_are_taken_as_they_are_whatever_the_layout(tmp_path, layout, kind):
    write_network(tmp_path, layout=layout, kind=kind)
    z = depths(describe(tmp_path, input={**BASE['input'], 'layout': layout}))
    assert z.shape == SMALL[::-1]
    np.testing.assert_allclose(z, 0.4, rtol=1e-3 if kind == TensorProto.FLOAT16 else 1e-6)


def test_colours_are_normalised_as_described(tmp_path):
    write_network(tmp_path)
    look = {**BASE['input'], 'mean': [0.1, 0.2, 0.3], 'std': [0.5, 0.25, 0.1]}
    z = depths(describe(tmp_path, input=look))
    np.testing.assert_allclose(z, (0.3 / 0.5 + 0.2 / 0.25 + 0.1 / 0.1) / 3, rtol=1e-5)


def test_networks_may_take_bytes(tmp_path):
    write_network(tmp_path, kind=TensorProto.UINT8)
    np.testing.assert_allclose(depths(describe(tmp_path)), 102, rtol=1e-6)


def test_disparity_is_inverted_and_none_is_infinitely_far(tmp_path):
    write_network(tmp_path)
    path = describe(tmp_path, output={'name': 'depth', 'kind': 'disparity'})
    z = depths(path, halves(0, 51))
    np.testing.assert_allclose(z[:, 17:], 5.0, rtol=1e-5)
    assert np.isnan(z[:, :15]).all()


def test_disparity_that_is_no_number_is_unknown_and_not_free():
    description = SimpleNamespace(kind='disparity')
    depth = onnx_predictor._depth(description, np.array([[np.nan, 0, 0.5]], np.float32), 2.0)
    np.testing.assert_array_equal(depth, [[np.nan, np.inf, 4.0]])


@pytest.mark.parametrize(('larger_is', 'left', 'right'), [('nearer', 2, 1), ('farther', 1, 2)])
def test_relative_depth_lies_between_1_near_and_2_far(tmp_path, larger_is, left, right):
    write_network(tmp_path)
    output = {'name': 'depth', 'kind': 'relative', 'larger_is': larger_is}
    z = depths(describe(tmp_path, output=output), halves(50, 200))
    np.testing.assert_allclose(z[:, :15], left, atol=1e-5)
    np.testing.assert_allclose(z[:, 17:], right, atol=1e-5)


def test_relative_depth_of_a_plain_wall_is_finite(tmp_path):
    write_network(tmp_path)
    output = {'name': 'depth', 'kind': 'relative', 'larger_is': 'farther'}
    np.testing.assert_allclose(depths(describe(tmp_path, output=output)), 1.0)


@pytest.mark.parametrize('kind', ['metric', 'disparity'])
def test_depth_of_a_canonical_camera_grows_with_the_focal_length(tmp_path, kind):
    write_network(tmp_path)
    path = describe(tmp_path, output={'name': 'depth', 'kind': kind}, focal={'canonical': 50})
    plain = 0.4 if kind == 'metric' else 1 / 0.4
    np.testing.assert_allclose(depths(path), plain * 35 / 50, rtol=1e-5)
    longer = Intrinsics(140.0, 140.0, 31.5, 23.5, 64, 48)
    np.testing.assert_allclose(depths(path, camera=longer), plain * 70 / 50, rtol=1e-5)


def test_the_focal_length_is_fed_in_pixels_of_the_network_s_image(tmp_path):
    focal = helper.make_tensor_value_info('focal', TensorProto.FLOAT, [1])
    write_network(tmp_path, [node('Mul', 'mean', 'focal')], more=[focal])
    np.testing.assert_allclose(depths(describe(tmp_path, focal={'input': 'focal'})), 14.0)


def test_depth_for_a_focal_length_that_the_network_guessed_is_corrected(tmp_path):
    guess = helper.make_node('Constant', [], ['guess'], value_floats=[17.5])
    identity = node('Identity', 'mean')
    write_network(tmp_path, [identity, guess], outputs=['guess'])
    np.testing.assert_allclose(depths(describe(tmp_path, focal={'output': 'guess'})), 0.8)


def test_sky_has_no_depth(tmp_path):
    nodes = [node('Identity', 'mean'), node('Identity', 'mean', to='brightness')]
    write_network(tmp_path, nodes, outputs=['brightness'])
    z = depths(describe(tmp_path, sky={'name': 'brightness', 'above': 0.5}), halves(50, 200))
    assert np.isnan(z[:, 17:]).all()
    assert np.isfinite(z[:, :15]).all()


def test_a_channel_of_points_and_a_constant_input_are_what_they_are_said_to_be(tmp_path):
    tokens = helper.make_tensor_value_info('num_tokens', TensorProto.INT64, [])
    number = helper.make_node('Cast', ['num_tokens'], ['n'], to=TensorProto.FLOAT)
    last = helper.make_node('Constant', [], ['last'], value_ints=[-1])
    column = helper.make_node('Unsqueeze', ['mean', 'last'], ['x'])
    scaled = node('Mul', 'x', 'n', to='z')
    points = helper.make_node('Concat', ['x', 'x', 'z'], ['depth'], axis=-1)
    write_network(tmp_path, [number, last, column, scaled, points], more=[tokens])
    output = {'name': 'depth', 'kind': 'metric', 'channel': 2}
    path = describe(tmp_path, output=output, constants={'num_tokens': 5})
    np.testing.assert_allclose(depths(path), 2.0, rtol=1e-6)


def test_the_shorter_side_decides_and_the_aspect_is_kept(tmp_path):
    description = load_description(Path(describe(tmp_path, input={
        'name': 'image', 'size': 28, 'multiple_of': 14})))  # fmt: skip
    assert description.image_size(640, 480) == (42, 28)  # 37.3 to the nearest multiple
    assert description.image_size(480, 960) == (28, 56)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'nomralisation': {}}, 'unknown key nomralisation'),
        ({'input': {**BASE['input'], 'stride': 2}}, 'unknown key stride in input'),
        ({'licence': None}, 'licence is missing'),
        ({'output': {'name': 'depth', 'kind': 'metres'}}, 'metric, disparity, relative'),
        ({'output': {'name': 'depth', 'kind': 'relative'}}, 'larger_is is missing'),
        ({'output': {'name': 'depth', 'kind': 'metric', 'larger_is': 'nearer'}}, 'larger_is'),
        ({'input': {'name': 'image', 'size': 20, 'multiple_of': 14}}, 'multiples of multiple_of'),
        ({'input': {'name': 'image', 'size': [32]}}, 'size needs 2 numbers'),
        ({'input': {**BASE['input'], 'std': [1, 1, 0]}}, 'std must be positive'),
        ({'input': {**BASE['input'], 'mean': [0.5, '0.5', 0.5]}}, 'must be float'),
        ({'focal': {'canonical': -1}}, 'must be positive'),
        ({'focal': {}}, 'one of canonical, input, output'),
        ({'file': '../../secret.onnx'}, 'without a folder'),
        ({'input': 'image'}, 'input must be a mapping'),
    ],
)
def test_a_wrong_description_is_refused_with_the_reason(tmp_path, changes, reason):
    write_network(tmp_path)
    with pytest.raises(CheckpointError, match=reason):
        load_predictor(describe(tmp_path, **changes))


def test_a_description_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / 'tiny.yaml').write_text('input: [')
    with pytest.raises(CheckpointError, match='cannot read'):
        load_predictor(str(tmp_path / 'tiny.yaml'))


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'input': {**BASE['input'], 'name': 'pixels'}}, 'takes image, described are pixels'),
        ({'output': {'name': 'metres', 'kind': 'metric'}}, 'gives depth, described are metres'),
        ({'constants': {'tokens': 3}}, 'described are image, tokens'),
        ({'input': {**BASE['input'], 'layout': 'NHWC'}}, 'has height 3'),
        ({'sha256': '0' * 64}, 'SHA-256 differs'),
    ],
)
def test_a_description_of_another_network_is_refused_with_the_difference(
    tmp_path, changes, reason
):
    write_network(tmp_path, size=(24, 32))
    with pytest.raises(CheckpointError, match=reason):
        load_predictor(describe(tmp_path, **changes))


def test_a_network_of_one_size_needs_that_size_described(tmp_path):
    write_network(tmp_path, size=(20, 32))
    with pytest.raises(CheckpointError, match='height 20'):
        load_predictor(describe(tmp_path))
    with pytest.raises(CheckpointError, match=r'input\.size as \[width, height\]'):
        load_predictor(describe(tmp_path, input={'name': 'image', 'size': 20}))


def test_an_output_that_is_no_image_drops_the_frame_with_its_shape(tmp_path):
    write_network(tmp_path, [node('Identity', 'float')])
    predictor, _ = load_predictor(describe(tmp_path))
    with pytest.raises(InputError, match=r'\(1, 3, 24, 32\)') as caught:
        predictor(GREY, CAMERA)
    assert caught.value.reason == 'bad_output'


@pytest.mark.parametrize('name', ['damaged.onnx', 'nano.onnx'])
def test_what_is_no_network_of_ours_is_refused(tmp_path, name):
    write_network(tmp_path)
    path = tmp_path / name
    data = (tmp_path / 'tiny.onnx').read_bytes()
    path.write_bytes(data[:40] if name == 'damaged.onnx' else data)
    with pytest.raises(CheckpointError, match='can load' if name == 'damaged.onnx' else 'export'):
        load_predictor(str(path))


def test_without_onnx_runtime_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    write_network(tmp_path)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ConfigError, match='pip install onnxruntime'):
        load_predictor(describe(tmp_path))


def test_precision_and_execution_are_those_of_the_file(tmp_path):
    write_network(tmp_path)
    predictor, _ = load_predictor(describe(tmp_path))
    engine = Engine(predictor, ModelConfig())
    assert (engine.precision, engine.execution) == ('as exported', 'onnx (CPU)')
    for config in (ModelConfig(precision='bf16'), ModelConfig(execution='eager')):
        with pytest.raises(ConfigError, match='set both to auto'):
            Engine(predictor, config)
    with pytest.raises(ConfigError, match='needs nano'):
        Engine(load_predictor('nano')[0], ModelConfig(execution='onnx'))


# --- descriptions that come along ----------------------------------------------------------------


@pytest.mark.parametrize('name', models.described_names())
def test_descriptions_that_come_along_are_sound_and_say_how_to_get_the_file(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr('sharp_ros.network.description.CACHE_FOLDER', tmp_path)
    description = load_description(models.WEIGHTS_FOLDER / f'{name}.yaml')
    assert description.source.startswith('https://')
    assert bool(description.url) != bool(description.by_hand)
    assert models.described_info(name).metric == (description.kind != 'relative')
    with pytest.raises(CheckpointError, match='sharp-ros fetch' if description.url else 'source'):
        load_predictor(name, relative=True)


def test_what_cannot_be_fetched_is_an_error_with_what_to_do():
    import argparse

    parser = argparse.ArgumentParser()
    fetch.add_arguments(parser)
    with pytest.raises(ConfigError, match='from the source') as caught:
        fetch.run(parser.parse_args(['moge_2_small']))
    assert 'MIT' in str(caught.value)
    assert 'moge_2_small.onnx' in str(caught.value)


# --- relative models -----------------------------------------------------------------------------


def frame(stamp_ns=1):
    return Frame(
        image=halves(50, 200),
        intrinsics=CAMERA,
        stamp_ns=stamp_ns,
        frame_id='camera',
        T_world_camera=np.eye(4),
        world_frame='odom',
    )


def relative_pipeline(folder: Path) -> Pipeline:
    write_network(folder)
    output = {'name': 'depth', 'kind': 'relative', 'larger_is': 'farther'}
    config = SharpConfig(model=ModelConfig(name=describe(folder, output=output), device='cpu'))
    return load_any_pipeline(config)


def test_nothing_that_needs_metres_is_made_of_relative_depth(tmp_path):
    pipeline = relative_pipeline(tmp_path)
    everything = {'points', 'gaussians', 'occupancy_grid', 'map_points', 'clearing_points'}
    result = pipeline.process(frame(), {*everything, 'view/over_shoulder'})
    assert np.isnan(result.depth).all()
    relative = result.relative_depth
    assert relative.shape == (48, 64)
    np.testing.assert_allclose([relative[24, 10], relative[24, 55]], [1, 2], atol=1e-4)
    assert (result.cloud, result.grid, result.map_points, result.clearing_points) == (None,) * 4
    assert (result.scale, result.motion, result.gaussians.quats) == (None,) * 3
    assert not result.mapped
    assert not result.views
    with pytest.raises(InputError, match='mapped'):
        pipeline.map_state()
    with pytest.raises(InputError, match='relative depth'):
        pipeline.begin_snapshot()


def test_commands_that_need_metres_refuse_a_relative_model(tmp_path):
    relative_pipeline(tmp_path)
    config = SharpConfig(model=ModelConfig(name=str(tmp_path / 'tiny.yaml'), device='cpu'))
    with pytest.raises(ConfigError, match='choose a metric model'):
        Pipeline.from_config(config)


# --- the fastest path of nano, and the self-check ------------------------------------------------


@pytest.mark.usefixtures('without_openvino')
def test_nano_runs_in_onnx_runtime_on_a_cpu_and_gives_what_torch_gives():
    engine, info = load_engine(ModelConfig(), 'cpu')
    assert info.name == 'nano'
    assert (engine.precision, engine.execution) == ('fp32', 'onnx (CPU)')
    assert engine.check_error < 1e-4
    torch_engine, _ = load_engine(ModelConfig(execution='eager'), 'cpu')
    assert torch_engine.execution == 'eager'
    image, camera = self_check.check_image()
    for rows in (480, 360, 300):  # three shapes of the network's image
        k = camera.cropped(0, 0, 640, rows)
        found, truth = (e.predict(image[:rows], k) for e in (engine, torch_engine))
        for name in ('means', 'scales', 'opacities', 'colors', 'log_depth_std'):
            a, b = getattr(found, name), getattr(truth, name)
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    'config',
    [ModelConfig(precision='bf16'), ModelConfig(execution='eager')],
    ids=['bf16', 'eager'],
)
@pytest.mark.usefixtures('without_openvino')
def test_torch_runs_nano_where_that_is_asked_for(config):
    assert load_engine(config, 'cpu')[0].execution == 'eager'


def test_a_nano_that_differs_from_its_reference_is_refused_with_the_error_value(graph):
    corrupt(graph)
    predictor, _ = load_predictor(str(graph))
    with pytest.raises(EngineError, match=r'differs from its reference by \d'):
        Engine(predictor, ModelConfig()).prepare()


def test_a_tenth_more_depth_is_refused_however_large_the_other_outputs_are(graph, monkeypatch):
    """The logit of sky is some twenty: among such values a tenth of a log depth would vanish."""
    forward = onnx_predictor.OnnxNanoPredictor.forward

    def farther(self, *inputs):
        prediction, rgb = forward(self, *inputs)
        prediction[:NONE] += 0.1
        return prediction, rgb

    Engine(load_predictor(str(graph))[0], ModelConfig()).prepare()
    monkeypatch.setattr(onnx_predictor.OnnxNanoPredictor, 'forward', farther)
    with pytest.raises(EngineError, match=r'differs from its reference by 0\.1'):
        Engine(load_predictor(str(graph))[0], ModelConfig()).prepare()


def test_torch_runs_nano_if_what_is_faster_fails_its_check(graph, caplog):
    corrupt(graph)
    engine, _ = load_engine(ModelConfig(), 'cpu')
    assert engine.execution == 'eager'
    assert 'self-check failed' in caplog.text


@pytest.mark.usefixtures('without_openvino')
def test_torch_runs_nano_where_onnx_runtime_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert load_engine(ModelConfig(), 'cpu')[0].execution == 'eager'
    with pytest.raises(ConfigError, match='pip install onnxruntime'):
        load_engine(ModelConfig(execution='onnx'), 'cpu')


def test_a_reference_that_was_tampered_with_is_no_reference():
    outputs = [torch.rand(3, 40, 50), torch.rand(7)]
    text = self_check.stored(outputs)
    assert self_check.difference_from_stored(outputs, text) == 0
    assert self_check.difference_from_stored([o * 1.1 for o in outputs], text) > 0.05
    assert self_check.difference_from_stored(outputs[:1], text) == np.inf
    assert self_check.difference_from_stored(outputs, text[:50]) == np.inf


def test_another_provider_is_compared_with_the_cpu_once(tmp_path, monkeypatch, caplog):
    write_network(tmp_path)
    path, real = describe(tmp_path), OnnxSession.__init__
    factor = [1.0]

    def fast(self, path, device='cpu', threads=0):
        real(self, path, 'cpu', threads)
        self.provider = 'CPU' if device == 'cpu' else 'CUDA'
        self.factor = 1.0 if device == 'cpu' else factor[0]

    run = OnnxSession.run
    monkeypatch.setattr(OnnxSession, '__init__', fast)
    monkeypatch.setattr(
        OnnxSession,
        'run',
        lambda self, *args: [output * self.factor for output in run(self, *args)],
    )
    for _ in range(2):
        Engine(load_predictor(path, 'cuda')[0], ModelConfig()).prepare()
    assert caplog.text.count('comparing CUDA with CPU') == 1
    factor[0] = np.float32(1.2)
    (tmp_path / 'cache' / 'self_check.json').unlink()
    with pytest.raises(EngineError, match=r'differs from its reference by 0\.2'):
        Engine(load_predictor(path, 'cuda')[0], ModelConfig()).prepare()


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_a_described_network_runs_in_openvino_by_name_and_is_compared_once(
    precision, tmp_path, caplog
):
    try:
        core = openvino_core()
    except ImportError:
        pytest.skip('openvino is not installed')
    able = core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if precision == 'bf16' and 'BF16' not in able:
        pytest.skip('this processor has no bf16')
    sky = helper.make_node('Mul', ['mean', 'mean'], ['sky'])
    depth = helper.make_node('Identity', ['mean'], ['depth'])
    write_network(tmp_path, [depth, sky], outputs=['sky'])
    path = describe(tmp_path, sky={'name': 'sky', 'above': 0.9})
    usual, _ = load_engine(ModelConfig(path), 'cpu')
    assert usual.execution == 'onnx (CPU)'
    config = ModelConfig(path, execution='openvino', precision=precision)
    for _ in range(2):
        engine, _ = load_engine(config, 'cpu')
        engine.prepare()
        assert (engine.execution, engine.precision) == ('openvino (CPU)', precision)
    assert caplog.text.count(f'comparing openvino (CPU), {precision} with CPU') == 1
    found, truth = (e.predict(halves(80, 250), CAMERA) for e in (engine, usual))
    tolerance = 1e-6 if precision == 'fp32' else 2**-8
    torch.testing.assert_close(found.means, truth.means, rtol=tolerance, atol=1e-6)
    assert torch.equal(found.empty, truth.empty)
    assert truth.empty.any()


def test_the_shipped_graph_refers_to_the_shipped_weights():
    model = onnx.load(models.WEIGHTS_FOLDER / 'nano.onnx', load_external_data=True)
    state = load_predictor('nano')[0].network.state_dict()
    held = {i.name.removesuffix('.half'): i for i in model.graph.initializer}
    assert set(state) <= set(held)
    for name, tensor in state.items():
        np.testing.assert_array_equal(numpy_helper.to_array(held[name]), tensor.half().numpy())
