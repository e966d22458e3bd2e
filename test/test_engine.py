from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
import json
import weakref

import fake_cuda
import numpy as np
import pytest
import torch
from torch import nn

from sharp_ros import engine as engine_module
from sharp_ros import self_check
from sharp_ros.camera import Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.engine import choose_execution, choose_precision, Engine
from sharp_ros.errors import ConfigError, EngineError, InputError
from sharp_ros.inference_queue import CudaQueue, DirectQueue
from sharp_ros.models import load_predictor
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.network.predictor import SharpPredictor
from sharp_ros.network.roles import NetworkPredictor
from sharp_ros.network.seeded import filled_network
from sharp_ros.network.sharp import TINY

pytestmark = pytest.mark.usefixtures('one_thread')

CAMERA = Intrinsics(70.0, 60.0, 30.0, 25.0, 64, 48)


def image(seed=0, camera=CAMERA):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8)


def tiny_predictor():
    return SharpPredictor(filled_network(TINY))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(self_check, 'CACHE_FOLDER', tmp_path)
    return tmp_path / 'self_check.json'


@pytest.fixture
def cuda(monkeypatch):
    return fake_cuda.installed(monkeypatch)


class Doubling(NetworkPredictor):
    """Twice the brightness as depth; half precision can be made to go wrong."""

    large = True

    def __init__(self, *, corrupt=False, parts=1, needs=1):
        super().__init__(nn.Linear(1, 1))
        self.corrupt, self.parts, self.needs, self.runs = corrupt, parts, needs, 0
        self.moves = []

    def inputs(self, image, intrinsics, geometry=None):
        return (torch.from_numpy(image),)

    def forward(self, *inputs):
        self.runs += 1
        if self.parts > self.needs:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')
        weight = self.network.weight
        half = weight.dtype != torch.float32
        return (inputs[0].float().mean(-1) * (3.0 if half and self.corrupt else 2.0) + 1,)

    def gaussians(self, outputs, intrinsics, *, covariances=True):
        return gaussians_from_depth(
            outputs[0][None], torch.zeros(3, *outputs[0].shape), intrinsics
        )

    def move(self, device):
        super().move(device)
        self.moves.append(device)

    def shrink(self):
        self.parts -= 1
        return self.parts > 0


# --- choices -------------------------------------------------------------------------------------


def test_small_networks_and_slow_processors_stay_in_float32(monkeypatch):
    assert choose_precision('auto', 'cpu', large=False) == 'fp32'
    monkeypatch.setattr(engine_module, '_cpu_multiplies_bf16', lambda: False)
    assert choose_precision('auto', 'cpu', large=True) == 'fp32'
    monkeypatch.setattr(engine_module, '_cpu_multiplies_bf16', lambda: True)
    assert choose_precision('auto', 'cpu', large=True) == 'bf16'


@pytest.mark.parametrize('native', [True, False])
def test_half_precision_on_cuda_is_what_the_device_has(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: native)
    assert choose_precision('auto', 'cuda', large=True) == ('bf16' if native else 'fp16')


@pytest.mark.parametrize(
    'config',
    [ModelConfig(precision='tf32'), ModelConfig(precision='fp16'), ModelConfig(execution='graph')],
    ids=['tf32', 'fp16', 'graph'],
)
def test_what_a_cpu_cannot_do_is_refused_with_the_setting_to_change(config):
    with pytest.raises(ConfigError, match=r'set it to (auto|bf16)'):
        Engine(tiny_predictor(), config)


def test_a_graph_is_replayed_on_cuda_unless_asked_otherwise():
    assert choose_execution('auto', 'cuda') == 'graph'
    assert choose_execution('eager', 'cuda') == 'eager'
    assert choose_execution('auto', 'cpu') == 'eager'


# --- precision and self-check --------------------------------------------------------------------


def test_float32_gives_what_the_predictor_gives():
    predictor = tiny_predictor()
    expected = predictor(image(), CAMERA)
    engine = Engine(predictor, ModelConfig(precision='fp32'))
    found = engine.predict(image(), CAMERA)
    for name in ('means', 'colors', 'opacities', 'scales'):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    assert engine.check_error is None
    assert set(engine.timings_ms) == {'input', 'forward', 'gaussians'}


def test_half_precision_is_compared_with_float32_once_and_stays_close(cache):
    expected = tiny_predictor()(image(), CAMERA)
    engine = Engine(tiny_predictor(), ModelConfig(precision='bf16'))
    found = engine.predict(image(), CAMERA)
    assert 0 < engine.check_error < self_check.TOLERANCE
    assert list(json.loads(cache.read_text()).values()) == [engine.check_error]
    depth, truth = found.means[:, 2], expected.means[:, 2]
    assert float((depth / truth - 1).abs().median()) < 0.02
    assert not torch.equal(depth, truth)


def test_a_known_result_spares_the_comparison():
    first, again = Doubling(), Doubling()
    again.network.load_state_dict(first.network.state_dict())
    Engine(first, ModelConfig(precision='bf16')).prepare()
    engine = Engine(again, ModelConfig(precision='bf16'))
    engine.prepare()
    assert engine.check_error == 0
    assert (first.runs, again.runs) == (2, 0)


def test_a_released_engine_holds_no_device_and_comes_back_the_same_without_a_comparison(
    monkeypatch, cuda
):
    made = lambda self, forward: CudaQueue(forward, captured=True)  # noqa: E731
    monkeypatch.setattr(Engine, '_made_queue', made)
    predictor = Doubling()
    engine = Engine(predictor, ModelConfig(precision='bf16'))
    before = engine.predict(image(), CAMERA)
    graphs = [weakref.ref(graph) for graph in cuda.graphs]
    cuda.graphs.clear()
    monkeypatch.setattr(self_check, 'remembered', None)  # nobody shall ask
    host = torch.device('cpu')
    engine.release()
    assert predictor.moves == [host]
    assert graphs
    assert not any(graph() for graph in graphs)
    engine.release()  # there is nothing more to free
    after = engine.predict(image(), CAMERA)
    assert predictor.moves == [host, predictor.device]
    assert torch.equal(before.means, after.means)


@pytest.mark.parametrize('change', ['weights', 'precision', 'version'])
def test_any_change_is_compared_again(monkeypatch, change):
    before, after = Doubling(), Doubling()
    after.network.load_state_dict(before.network.state_dict())
    Engine(before, ModelConfig(precision='bf16')).prepare()
    if change == 'weights':
        after.network.weight.data += 0.1
    if change == 'version':
        monkeypatch.setattr(self_check, '__version__', 'next')
    # tf32 is refused on a CPU, so float32 compiled stands for another way of running
    other = ModelConfig(precision='fp32', execution='compile')
    monkeypatch.setattr(torch, 'compile', lambda function, dynamic: function)
    Engine(after, other if change == 'precision' else ModelConfig(precision='bf16')).prepare()
    assert after.runs == 2


def test_a_corrupt_engine_is_refused_with_its_error_every_time(cache):
    for _ in range(2):
        engine = Engine(Doubling(corrupt=True), ModelConfig(precision='bf16'))
        with pytest.raises(EngineError, match=r'self-check failed: bf16.*differs.* by 0\.[3-9]'):
            engine.prepare()
        with pytest.raises(EngineError, match='self-check failed'):
            engine.predict(image(), CAMERA)
    assert not cache.exists()


def test_an_engine_that_broke_off_is_not_compared_with_itself_later(cache):
    predictor = Doubling(corrupt=True)
    cast = predictor.cast

    def cast_and_fail(dtype):
        cast(dtype)
        raise RuntimeError('no compiler')

    predictor.cast = cast_and_fail
    engine = Engine(predictor, ModelConfig(precision='bf16'))
    for _ in range(2):
        with pytest.raises(RuntimeError, match='no compiler'):
            engine.predict(image(), CAMERA)
    assert not cache.exists()


def test_values_that_are_not_finite_never_pass():
    good = [torch.ones(8)]
    assert self_check.difference(good, good) == 0
    assert self_check.difference([torch.tensor([1.0] * 7 + [np.nan])], good) == np.inf
    assert self_check.difference([torch.tensor([1.0] * 7 + [np.inf])], good) == np.inf


@pytest.mark.parametrize('content', ['', '[]', '{"a": "b"}', '\x00'])
def test_a_damaged_cache_is_measured_anew(cache, content):
    cache.write_text(content)
    engine = Engine(Doubling(), ModelConfig(precision='bf16'))
    engine.prepare()
    assert list(json.loads(cache.read_text()).values()) == [engine.check_error]


def test_a_cache_that_cannot_be_written_only_costs_time(monkeypatch, cache, caplog):
    monkeypatch.setattr(self_check, 'CACHE_FOLDER', cache / 'below_a_file')
    cache.write_text('{}')
    Engine(Doubling(), ModelConfig(precision='bf16')).prepare()
    assert 'cannot keep the result' in caplog.text


def test_nano_runs_in_half_precision():
    predictor, _ = load_predictor('nano')
    expected = predictor(image(), CAMERA).means[:, 2]
    found = Engine(predictor, ModelConfig(precision='bf16')).predict(image(), CAMERA).means[:, 2]
    assert float((found / expected - 1).abs().median()) < 0.02


def test_an_error_of_depth_counts_beside_logits_however_large():
    predictor, _ = load_predictor('nano')
    with torch.inference_mode():
        prediction, rgb = predictor.forward(*predictor.inputs(*self_check.check_image()))
    spoiled = prediction.clone()
    spoiled[0] += 0.08
    assert float(prediction.abs().mean()) > 2 * float(prediction[0].abs().mean())
    found, exact = (predictor.comparable((p, rgb)) for p in (spoiled, prediction))
    assert self_check.difference(found, exact) > self_check.TOLERANCE


def test_the_network_traces_without_a_break():
    predictor = tiny_predictor()
    traced = torch.compile(predictor.forward, dynamic=False, backend='eager', fullgraph=True)
    inputs = predictor.inputs(image(), CAMERA)
    with torch.inference_mode():
        for found, expected in zip(traced(*inputs), predictor.forward(*inputs), strict=True):
            torch.testing.assert_close(found, expected)


# --- results -------------------------------------------------------------------------------------


def test_points_come_without_shapes_if_nobody_wants_them():
    found = Engine(tiny_predictor(), ModelConfig()).predict(image(), CAMERA, covariances=False)
    assert found.scales is None
    assert len(found.means) == 2 * 96 * 96


def test_a_frame_that_is_not_finite_is_refused():
    predictor = Doubling()
    engine = Engine(predictor, ModelConfig(precision='fp32'))
    engine.predict(image(), CAMERA)
    predictor.forward = lambda *inputs: (torch.full(CAMERA.rays().shape[:2], torch.nan),)
    predictor.gaussians = lambda outputs, k, covariances: replace(
        gaussians_from_depth(torch.ones(1, 48, 64), torch.zeros(3, 48, 64), k),
        means=torch.full((48 * 64, 3), torch.nan),
    )
    with pytest.raises(InputError, match='not finite'):
        Engine(predictor, ModelConfig(precision='fp32')).predict(image(), CAMERA)


# --- memory --------------------------------------------------------------------------------------


def test_short_memory_makes_the_parts_smaller(caplog):
    predictor = Doubling(parts=4, needs=2)
    Engine(predictor, ModelConfig(precision='fp32')).predict(image(), CAMERA)
    assert predictor.parts == 2
    assert 'continuing with a smaller batch' in caplog.text


def test_memory_that_is_never_enough_is_one_clear_error():
    predictor = Doubling(parts=3, needs=0)
    with pytest.raises(EngineError, match=r'out of memory on cpu.*2 GiB.*choose model.name'):
        Engine(predictor, ModelConfig(precision='fp32')).predict(image(), CAMERA)


def test_other_errors_of_the_network_pass_through():
    predictor = Doubling()
    predictor.forward = lambda *inputs: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match='size'):
        Engine(predictor, ModelConfig(precision='fp32')).predict(image(), CAMERA)


def test_windows_are_halved_down_to_one_and_give_the_same_result():
    whole, parts = tiny_predictor(), tiny_predictor()
    seen = [parts.patch_batch]
    while parts.shrink():
        seen.append(parts.patch_batch)
    assert seen[-1] == 1
    assert all(b == (a + 1) // 2 for a, b in pairwise(seen))
    a, b = whole(image(), CAMERA), parts(image(), CAMERA)
    torch.testing.assert_close(a.means, b.means, atol=1e-5, rtol=1e-5)


# --- streams and graphs --------------------------------------------------------------------------


@pytest.mark.parametrize('captured', [True, False])
def test_frames_in_flight_keep_their_results(cuda, captured):
    predictor = tiny_predictor()
    queue = CudaQueue(predictor.forward, captured=captured)
    direct = DirectQueue(predictor.forward, torch.device('cpu'))
    other = CAMERA.resized(40, 72)
    frames = [(image(i, k), k) for i, k in enumerate((CAMERA, CAMERA, other, CAMERA, other))]
    waiting, found = [], []
    for frame, k in frames:
        waiting.append(queue.launch(predictor.inputs(frame, k)))
        if len(waiting) == 2:
            found.append(queue.collect(waiting.pop(0))[0])
    found.append(queue.collect(waiting.pop(0))[0])
    for (frame, k), outputs in zip(frames, found, strict=True):
        expected, _ = direct.collect(direct.launch(predictor.inputs(frame, k)))
        for a, b in zip(outputs, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert [graph.replays for graph in cuda.graphs] == ([3, 2] if captured else [])


def test_a_graph_holds_nothing_that_a_device_cannot_capture(cuda):
    def reads_back(x):
        return (x * float(x.sum()),)

    queue = CudaQueue(reads_back, captured=True)
    with pytest.raises(RuntimeError, match='capturing'):
        queue.launch((torch.ones(3),))


def test_nano_can_be_captured(cuda):
    predictor, _ = load_predictor('nano')
    queue = CudaQueue(predictor.forward, captured=True)
    inputs = predictor.inputs(image(), CAMERA)
    found, _ = queue.collect(queue.launch(inputs))
    with torch.inference_mode():
        torch.testing.assert_close(found[0], predictor.forward(*inputs)[0])


def test_forgetting_lets_go_of_graphs(cuda):
    queue = CudaQueue(tiny_predictor().forward, captured=True)
    inputs = tiny_predictor().inputs(image(), CAMERA)
    queue.launch(inputs)
    queue.forget()
    queue.launch(inputs)
    assert len(cuda.graphs) == 2
