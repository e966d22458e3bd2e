"""On a GPU: what comes out of streams and graphs is what the plain path and the CPU compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from test_rasterizer import assert_gsplat_agrees, CAMERA, cloud, FIELDS, SCENES, VIEW
import test_sharp_network as reference
import torch
from torch import Tensor

from sharp_ros import self_check
from sharp_ros.camera import Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import EngineError
from sharp_ros.gaussians import Gaussians, rotations_from_quats
from sharp_ros.inference_queue import CudaQueue, DirectQueue
from sharp_ros.network.predictor import SharpPredictor
from sharp_ros.network.seeded import filled_network
from sharp_ros.network.sharp import TINY
from sharp_ros.rasterizer import backend, rasterize
from sharp_ros.rasterizer import reference as plain_rasterizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]

CAMERAS = [Intrinsics.from_hfov(1.1, 64, 48), Intrinsics.from_hfov(0.9, 80, 50)]
ORDER = (0, 1, 0, 0, 1, 1, 0, 1, 0)  # of the image sizes
Outputs = Sequence[Tensor]


@pytest.fixture(autouse=True)
def exact_and_forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No TF32 unless an engine asks for it, and no self-check remembered."""
    monkeypatch.setattr(self_check, 'CACHE_FOLDER', tmp_path)
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    yield
    for flag, value in zip(flags, before, strict=True):
        flag.allow_tf32 = value


def tiny(device: str = 'cuda') -> SharpPredictor:
    return SharpPredictor(filled_network(TINY).to(device), patch_batch=TINY.windows)


def image(seed: int, camera: Intrinsics) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8)


def frames(predictor: SharpPredictor) -> list[tuple[Tensor, ...]]:
    """Inputs of different images, of two sizes in turn."""
    cameras = [CAMERAS[i] for i in ORDER]
    return [predictor.inputs(image(i, camera), camera) for i, camera in enumerate(cameras)]


def one_by_one(predictor: SharpPredictor, inputs: Sequence[Outputs]) -> list[Outputs]:
    queue = DirectQueue(predictor.forward, torch.device('cuda'))
    return [queue.collect(queue.launch(frame))[0] for frame in inputs]


def assert_same(made: Outputs, expected: Outputs) -> None:
    for one, other in zip(made, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('captured', [False, True])
def test_two_frames_at_a_time_give_what_one_at_a_time_gives(captured: bool) -> None:
    predictor = tiny()
    inputs = frames(predictor)
    expected = one_by_one(predictor, inputs)
    assert (expected[0][0] - expected[2][0]).abs().max() > 0.01  # else any frame would do
    queue = CudaQueue(predictor.forward, captured=captured)
    flights = [queue.launch(inputs[0])]
    for i, wanted in enumerate(expected):
        if i + 1 < len(inputs):
            flights.append(queue.launch(inputs[i + 1]))
        made, ms = queue.collect(flights[i])
        assert ms > 0
        assert_same(made, wanted)


@pytest.mark.parametrize('captured', [False, True])
def test_outputs_stay_as_they_are_while_later_frames_run(captured: bool) -> None:
    predictor = tiny()
    inputs = frames(predictor)[2:4] + frames(predictor)[:1]  # of one size
    queue = CudaQueue(predictor.forward, captured=captured)
    outputs, _ = queue.collect(queue.launch(inputs[0]))
    kept = [tensor.cpu() for tensor in outputs]
    for flight in [queue.launch(frame) for frame in inputs[1:]]:
        queue.collect(flight)
    torch.cuda.synchronize()
    for tensor, copy in zip(outputs, kept, strict=True):
        assert torch.equal(tensor.cpu(), copy)


class Greedy(SharpPredictor):
    """Has no memory for more than some windows at a time."""

    limit = 6

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.patch_batch > self.limit:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. As if it were.')
        return super().forward(*inputs)


@pytest.mark.parametrize('execution', ['eager', 'graph'])
def test_short_memory_makes_the_parts_smaller_and_changes_nothing(execution: str) -> None:
    config = ModelConfig(precision='fp32', execution=execution)
    predictor = Greedy(filled_network(TINY).to('cuda'), TINY.windows)
    picture = image(0, CAMERAS[0])
    made = Engine(predictor, config).predict(picture, CAMERAS[0])
    assert predictor.patch_batch == 6  # 21, 11, 6
    expected = Engine(tiny(), config).predict(picture, CAMERAS[0])
    assert_same([made.means, made.opacities], [expected.means, expected.opacities])


@pytest.mark.parametrize('execution', ['eager', 'graph'])
def test_memory_too_short_for_a_single_window_is_an_error(
    execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Greedy, 'limit', 0)
    predictor = Greedy(filled_network(TINY).to('cuda'), TINY.windows)
    engine = Engine(predictor, ModelConfig(precision='fp32', execution=execution))
    with pytest.raises(EngineError, match='out of memory on cuda'):
        engine.predict(image(0, CAMERAS[0]), CAMERAS[0])


def covariances(gaussians: Gaussians) -> Tensor:
    scales, quats = gaussians.shapes
    axes = rotations_from_quats(quats) * scales[:, None]
    return (axes @ axes.mT).flatten(1) / scales.amax(1, keepdim=True) ** 2


@pytest.mark.parametrize('execution', ['eager', 'graph'])
def test_gaussians_are_those_of_the_cpu(execution: str) -> None:
    config = ModelConfig(precision='fp32', execution=execution)
    engine = Engine(tiny(), config)
    expected = Engine(tiny('cpu'), ModelConfig(precision='fp32'))
    for seed, camera in enumerate(CAMERAS):
        picture = image(seed, camera)
        there = engine.predict(picture, camera)
        assert there.means.device.type == 'cuda'
        there, here = there.to('cpu'), expected.predict(picture, camera)
        for field in ('means', 'scales', 'opacities', 'colors'):
            one, other = getattr(there, field), getattr(here, field)
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
        # axes of about the same length may lie anywhere, covariances may not
        torch.testing.assert_close(covariances(there), covariances(here), atol=1e-3, rtol=0)


def test_the_network_agrees_with_the_reference() -> None:
    keys, expected = reference.keys_of('golden_tiny'), reference.golden('golden_tiny')
    run = reference.tiny_run(filled_network(TINY).to('cuda'))
    assert reference.worst(run, 'golden_tiny', keys, expected) < 1


@pytest.mark.parametrize('execution', ['eager', 'graph'])
@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_passes_the_self_check(precision: str, execution: str) -> None:
    engine = Engine(tiny(), ModelConfig(precision=precision, execution=execution))
    engine.prepare()
    assert 0 < engine.check_error <= self_check.TOLERANCE


def product_error(precision: str) -> float:
    """Relative, of a product of float32 matrices after an engine of some precision was made."""
    Engine(tiny(), ModelConfig(precision=precision, execution='eager')).prepare()
    a, b = torch.randn(2, 1024, 1024, device='cuda')
    exact = a.double() @ b.double()
    return float((a @ b - exact).norm() / exact.norm())


def test_fp32_multiplies_in_full_precision_and_tf32_does_not() -> None:
    torch.manual_seed(0)
    assert product_error('fp32') < 1e-5
    x, weight = torch.randn(1, 256, 64, 64, device='cuda'), torch.randn(256, 256, 3, 3).cuda()
    convolved = torch.nn.functional.conv2d(x, weight)
    exact = torch.nn.functional.conv2d(x.double(), weight.double())
    assert (convolved - exact).norm() / exact.norm() < 1e-5
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip('this GPU has no TF32')
    assert product_error('tf32') > 1e-4


@pytest.mark.parametrize('background', [(0.0, 0.0, 0.0), (0.2, 0.5, 0.9)])
@pytest.mark.parametrize('scene', SCENES)
def test_rendering_agrees_with_the_reference(
    scene: str, background: tuple[float, float, float]
) -> None:
    gaussians = SCENES[scene]()
    made = rasterize(gaussians.to('cuda'), CAMERA, VIEW, background=background, median_depth=True)
    assert made.color.device.type == 'cuda'
    assert_gsplat_agrees(scene, made, (gaussians, CAMERA, VIEW, background, 0.05))


def test_rendering_is_done_by_gsplat_where_it_is_installed() -> None:
    pytest.importorskip('gsplat')
    assert backend('cuda') == 'gsplat'


def test_gradients_of_rendering_are_those_of_the_reference() -> None:
    gradients = []
    for device, render in (('cuda', rasterize), ('cpu', plain_rasterizer.rasterize)):
        scene = cloud(12, 17, 0.1, 0.6).to(device)
        tensors = [getattr(scene, name).clone().requires_grad_() for name in FIELDS]
        options = {'background': (0.2, 0.5, 0.9), 'near': 0.05}
        out = render(Gaussians(*tensors), CAMERA, VIEW, **options)
        loss = out.color.square().sum() + (out.depth * out.alpha).sum()
        gradients.append([part.cpu() for part in torch.autograd.grad(loss, tensors)])
    for made, expected in zip(*gradients, strict=True):
        assert (made - expected).abs().max() < 1e-2 * expected.abs().max()
