"""gsplat: its plain torch code as truth from outside, and the path of the GPU taken on the CPU."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
import sys
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip('gsplat')

import fake_gsplat
from plain_gsplat import rendered_plainly
from test_rasterizer import (
    assert_gsplat_agrees,
    CAMERA,
    cloud,
    FIELDS,
    make,
    psnr,
    SCENES,
    spoiled,
    VIEW,
)
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sharp_ros import rasterizer, se3
from sharp_ros.camera import Intrinsics
from sharp_ros.gaussians import Gaussians, srgb_from_linear
from sharp_ros.rasterizer import cpu, cuda, reference

SKY = (0.2, 0.5, 0.9)


@pytest.fixture(autouse=True)
def forgetful():
    """What one test found out about gsplat is nothing to the next."""
    cuda._try_gsplat.cache_clear()
    yield
    cuda._try_gsplat.cache_clear()


@pytest.fixture
def stand_in(monkeypatch):
    return fake_gsplat.install(monkeypatch)


# --- gsplat's plain torch code ------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(6))
def test_reference_draws_what_gsplat_draws(seed):
    rng = np.random.default_rng(seed)
    g = cloud(300, 30 + seed, 0.03, 0.5)
    eye = rng.uniform(-0.5, 0.5, 3)
    T = se3.inverse(se3.look_at(eye, [*rng.uniform(-0.3, 0.3, 2), 3], rng.normal(size=3)))
    background = tuple(rng.uniform(0, 1, 3))
    ours = reference.rasterize(g, CAMERA, T, background, 0.05)
    image, alpha, _ = rendered_plainly(g, CAMERA, T)
    color = srgb_from_linear(image[..., :3] + (1 - alpha)[..., None] * torch.tensor(background))
    assert 0.3 < alpha.mean() < 1
    assert psnr(ours.color, color) >= 50
    assert psnr(ours.alpha, alpha) >= 50
    assert (ours.depth * ours.alpha - image[..., 3]).abs().max() < 1e-2  # m
    shifted = psnr(ours.color[:, 1:], color[:, :-1])
    assert shifted < 47  # a pixel would be noticed


# --- the path of the GPU ------------------------------------------------------------------------


@pytest.mark.parametrize('scene', SCENES)
def test_gsplat_path_agrees_with_reference(scene, stand_in):
    view = (SCENES[scene](), CAMERA, VIEW, SKY, 0.05)
    assert_gsplat_agrees(scene, cuda.rasterize(*view, True), view)
    assert cuda.backend('cpu') == 'gsplat'
    assert cuda.rasterize(*view).median_depth is None


def test_median_depth_in_many_rounds_is_the_same(stand_in, monkeypatch):
    g = cloud(1000, 10, 0.2, 0.5, opacities=0.006)  # so thin that half takes more than 256
    g.means[:, :2] *= 0.15
    view = (g, Intrinsics(60.0, 55.0, 14.0, 11.0, 30, 24), VIEW, SKY, 0.05, True)
    calls, indices = [], stand_in.rasterize_to_indices_in_range

    def counted(start, end, light, *rest):
        calls.append((start, int((light > 0).sum())))
        return indices(start, end, light, *rest)

    stand_in.rasterize_to_indices_in_range = counted
    monkeypatch.setattr(cuda, '_PIXELS_AT_ONCE', 100)
    made, expected = cuda.rasterize(*view), reference.rasterize(*view)
    assert max(start for start, _ in calls) >= 1
    assert max(pixels for _, pixels in calls) == 100
    assert (expected.median_depth > 0).float().mean() > 0.3
    differ = (made.median_depth - expected.median_depth).abs() > 1e-4
    assert differ.float().mean() < 0.01


def test_gradients_of_the_gsplat_path_are_those_of_the_reference(stand_in):
    k = Intrinsics(20.0, 18.0, 11.3, 8.6, 24, 18)

    def gradients(render):
        g = cloud(12, 17, 0.1, 0.6)
        tensors = [getattr(g, name).clone().requires_grad_() for name in FIELDS]
        out = render(Gaussians(*tensors), k, VIEW, SKY, 0.05, True)
        loss = out.color.square().sum() + (out.depth * out.alpha).sum() + out.median_depth.sum()
        return torch.autograd.grad(loss, tensors)

    pairs = zip(gradients(cuda.rasterize), gradients(reference.rasterize), strict=True)
    for made, expected in pairs:
        assert expected.abs().max() > 0.01
        assert (made - expected).abs().max() < 1e-2 * expected.abs().max()


def test_unsound_gaussians_do_not_spoil_gradients_of_the_gsplat_path(stand_in):
    g = spoiled()
    tensors = [getattr(g, name).clone().requires_grad_() for name in FIELDS]
    out = cuda.rasterize(Gaussians(*tensors), CAMERA, VIEW, SKY, 0.05)
    for gradient in torch.autograd.grad(out.color.sum(), tensors):
        assert gradient.isfinite().all()
        assert gradient[20:].abs().max() > 0


class NeverWait(TorchDispatchMode):
    """Refuses what makes a host wait for its device."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        assert operator.__name__.split('.')[0] not in {'_local_scalar_dense', 'nonzero'}
        return operator(*args, **(kwargs or {}))


def test_nothing_but_gsplat_waits_for_the_device(stand_in):
    view = (spoiled(), CAMERA, VIEW, SKY, 0.05)
    cuda.rasterize(*view)  # so that gsplat is tried
    size = (1, CAMERA.height, CAMERA.width)
    stand_in.rasterization = lambda *_, **__: (torch.zeros(*size, 4), torch.zeros(*size, 1), {})
    with NeverWait():
        assert isinstance(cuda.rasterize(*view).skipped, torch.Tensor)
    with pytest.raises(AssertionError), NeverWait():
        reference.rasterize(*view)


# --- where gsplat does not work -----------------------------------------------------------------


def no_gsplat(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gsplat', None)


def no_compiler(monkeypatch):
    module = ModuleType('gsplat')
    module.tried = 0

    def rasterization(*_, **__):
        module.tried += 1
        raise RuntimeError("Error building extension 'gsplat_cuda': [1/24] nvcc\nand much more")

    module.rasterization = rasterization
    monkeypatch.setitem(sys.modules, 'gsplat', module)
    return module


def no_backend(monkeypatch):
    no_compiler(monkeypatch).rasterization = lambda *_, **__: None.CameraModelType


@pytest.mark.parametrize(
    ('broken', 'cause'),
    [
        (no_gsplat, 'ModuleNotFoundError: import of gsplat halted'),
        (no_compiler, "RuntimeError: Error building extension 'gsplat_cuda': [1/24] nvcc)"),
        (no_backend, 'it found no nvcc'),
    ],
)
def test_without_gsplat_the_numba_renderer_draws_and_says_so_once(
    broken, cause, monkeypatch, caplog
):
    module = broken(monkeypatch)
    view = (cloud(50, 0), CAMERA, VIEW, SKY, 0.05, True)
    with caplog.at_level(logging.WARNING):
        images = [cuda.rasterize(*view) for _ in range(2)]
        named = cuda.backend('cpu')
    assert named.startswith(f'numba (gsplat: {cause}')
    (record,) = caplog.records
    assert 'pip install gsplat' in record.message
    assert 'nvcc of CUDA' in record.message
    if module is not None:
        assert module.tried == 1
    expected = cpu.rasterize(*view)
    for made in images:
        assert torch.equal(made.color, expected.color)
        assert torch.equal(made.median_depth, expected.median_depth)
        assert made.skipped == expected.skipped


def test_what_gsplat_cannot_do_the_reference_does(monkeypatch):
    no_gsplat(monkeypatch)
    g = cloud(20, 0)
    wide = Gaussians(*(getattr(g, name).double() for name in FIELDS))
    assert cuda.rasterize(wide, CAMERA, VIEW, SKY, 0.05).color.dtype == torch.float64
    scene = Gaussians(g.means.requires_grad_(), g.quats, g.scales, g.opacities, g.colors)
    cuda.rasterize(scene, CAMERA, VIEW, SKY, 0.05).color.sum().backward()
    assert g.means.grad.abs().max() > 0
    with torch.no_grad():
        assert not cuda.rasterize(scene, CAMERA, VIEW, SKY, 0.05).color.requires_grad


def test_a_gpu_is_served_by_gsplat(stand_in, monkeypatch):
    monkeypatch.setattr(cuda, '_try_gsplat', lambda device: (stand_in, ''))
    assert rasterizer._implementation('cuda', gradients=True) is cuda.rasterize
    assert rasterizer.backend('cuda:1') == 'gsplat'


def test_nothing_thinner_than_float32_can_hold_is_passed_on(stand_in):
    passed = []
    original = stand_in.rasterization
    stand_in.rasterization = lambda *args, **rest: passed.append(args) or original(*args, **rest)
    thin = make([[0.0, 0.0, 2.0]] * 2, [[1.0, 1e-6, 1e-9], [0.1, 0.1, 0.1]])
    cuda.rasterize(thin, CAMERA, VIEW, SKY, 0.05)
    scales = passed[-1][2]
    assert (scales.amax(1) / scales.amin(1)).max() < 1.001 * cuda.ASPECT_MAX
    assert torch.equal(scales[1], thin.scales[1])


def test_bench_compares_all_renderers(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / 'bench')
    bench = importlib.import_module('rasterizer')
    monkeypatch.setattr(bench, 'SCENES', {'small': bench.Scene((1, 12, 16), 15.0)})
    monkeypatch.setattr(bench, 'CAMERA', CAMERA)
    assert bench.main(['--quick', '--json', str(tmp_path / 'report.json')]) == 0
    report = json.loads((tmp_path / 'report.json').read_text())
    small = report['scenes']['small']
    assert small['gaussians'] == small['share']['gaussians'] == 192
    assert small['numba']['median_ms'] > 0
    assert small['share']['gsplat_torch_times_numba'] > 0
    assert small['share']['psnr_db'] > 50
    assert {'machine', 'commit', 'command'} <= set(report)
