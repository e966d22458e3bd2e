"""Gaussians behind the lens, against singular values in float64, and points without shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from sharp_ros import se3
from sharp_ros.camera import Intrinsics, project
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians, rotations_from_quats, save_ply
from sharp_ros.network import unprojection
from sharp_ros.network.composer import NdcGaussians
from sharp_ros.network.unprojection import unproject
from sharp_ros.point_cloud import depth_from_gaussians, splat_records
from sharp_ros.rasterizer import rasterize, reference

pytestmark = pytest.mark.usefixtures('one_thread')

CAMERAS = {
    'centred': Intrinsics(500.0, 500.0, 319.5, 239.5, 640, 480),
    'off_centre': Intrinsics(710.0, 380.0, 101.3, 620.8, 640, 720),
    'beside_the_image': Intrinsics(900.0, 905.0, -40.0, 300.0, 1920, 800),
    'very_anisotropic': Intrinsics(64.0, 4800.0, 200.0, 300.0, 640, 480),
}
SCALES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    'equal': lambda rng: np.ones((500, 3)),
    'similar': lambda rng: np.exp(0.5 * rng.standard_normal((500, 3))),
    'any': lambda rng: 10 ** (-6 * rng.random((500, 3))),
    'needle': lambda rng: rng.permuted([[1e-6, 1e-6, 1]] * 500, axis=1),
    'disc': lambda rng: rng.permuted([[1e-6, 1, 1]] * 500, axis=1),
    'graded': lambda rng: rng.permuted([[1e-6, 1e-3, 1]] * 500, axis=1),
    'flat': lambda rng: rng.permuted([[0, 0.3, 1]] * 500, axis=1),
}


@pytest.fixture(params=['compiled', 'torch'])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `unproject` finds shapes with, on the CPU in either case."""
    if request.param == 'torch':
        monkeypatch.setattr(unprojection, '_shapes_on_cpu', unprojection._shapes)
    return request.param


def ndc_of(
    scales: np.ndarray | Tensor | None = None,
    quats: np.ndarray | Tensor | None = None,
    means: Tensor | None = None,
) -> NdcGaussians:
    """A batch of one; what is not given is drawn, but the same every time."""
    rng = torch.Generator().manual_seed(3)
    n = next((len(t) for t in (scales, quats, means) if t is not None), 400)
    drawn = torch.rand(n, 3, generator=rng) * 0.1 + 0.01, torch.randn(n, 4, generator=rng)
    scales, quats = (
        own if given is None else torch.as_tensor(given).float()
        for own, given in zip(drawn, (scales, quats), strict=True)
    )
    return NdcGaussians(
        means=(torch.rand(n, 3, generator=rng) + 1 if means is None else means)[None],
        scales=scales[None],
        quats=quats[None],
        colors=torch.rand(1, n, 3, generator=rng),
        opacities=torch.rand(1, n, generator=rng),
        grid=(1, 1, n),
    )


def pixels_of_ndc(k: Intrinsics) -> np.ndarray:
    """[3, 3]: -1 is the outer edge of the first pixel, half a pixel before its centre."""
    w, h = k.width / 2, k.height / 2
    return np.array([[w, 0, w - 0.5], [0, h, h - 0.5], [0, 0, 1]])


def true_axes(ndc: NdcGaussians, k: Intrinsics) -> tuple[np.ndarray, float]:
    """A R S in float64, and how badly A is conditioned: float32 loses as much, whatever S."""
    lens = np.linalg.inv(k.matrix) @ pixels_of_ndc(k)
    scales, quats = ndc.scales[0].double().numpy(), ndc.quats[0].double().numpy()
    scales = np.maximum(scales, 1e-6 * scales.max(1, keepdims=True))
    quats /= np.abs(quats).max(1, keepdims=True)
    return lens @ se3.matrix_from_quat(quats) * scales[:, None], float(np.linalg.cond(lens))


def covariances(axes: np.ndarray) -> np.ndarray:
    return axes @ axes.swapaxes(1, 2)


# --- places -------------------------------------------------------------------------------------


@pytest.mark.parametrize('k', CAMERAS.values(), ids=CAMERAS)
def test_gaussians_land_on_the_pixels_they_were_predicted_for(k: Intrinsics) -> None:
    rng = torch.Generator().manual_seed(1)
    xy = torch.rand(500, 2, generator=rng) * 2 - 1
    z = 10 ** (torch.rand(500, 1, generator=rng) * 3 - 1)
    means = unproject(ndc_of(means=torch.cat([xy * z, z], 1)), k).means
    expected = (xy.double().numpy() + 1) / 2 * [k.width, k.height] - 0.5
    assert np.abs(project(means.double().numpy(), k) - expected).max() < 0.01
    assert torch.equal(means[:, 2:], z)


def test_batch_items_are_placed_one_by_one(implementation: str) -> None:
    one, two = ndc_of(), ndc_of(np.full((400, 3), 0.2))
    both = {
        f.name: torch.cat([getattr(one, f.name), getattr(two, f.name)])
        for f in fields(NdcGaussians)
        if f.name != 'grid'
    }
    k = CAMERAS['off_centre']
    placed, alone = unproject(NdcGaussians(**both, grid=one.grid), k, 1), unproject(two, k)
    assert all(torch.equal(getattr(placed, n), getattr(alone, n)) for n in both)


# --- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize('k', CAMERAS.values(), ids=CAMERAS)
def test_footprints_keep_their_shape_in_the_image(k: Intrinsics, implementation: str) -> None:
    """A direction of the covariance moves a pixel as the same direction in NDC does."""
    ndc = ndc_of()
    gaussians = unproject(ndc, k)
    before = se3.matrix_from_quat(ndc.quats[0].double().numpy()) * ndc.scales[0, :, None].numpy()
    after = rotations_from_quats(gaussians.quats) * gaussians.scales[:, None]
    wanted = covariances(pixels_of_ndc(k) @ before)
    got = covariances(k.matrix @ after.double().numpy())
    largest = np.abs(wanted).max((1, 2), keepdims=True)
    assert (np.abs(got - wanted) / largest).max() < 1e-4


@pytest.mark.parametrize('k', CAMERAS.values(), ids=CAMERAS)
@pytest.mark.parametrize('kind', SCALES)
def test_shapes_are_those_of_the_covariance(k: Intrinsics, kind: str, implementation: str) -> None:
    rng = np.random.default_rng(4)
    size, length = 10 ** rng.uniform(-8, 3, (500, 1)), 10 ** rng.uniform(-30, 30, (500, 1))
    ndc = ndc_of(SCALES[kind](rng) * size, rng.standard_normal((500, 4)) * length)
    gaussians = unproject(ndc, k)
    axes, condition = true_axes(ndc, k)
    directions, exact, _ = np.linalg.svd(axes)
    tolerance = 1e-6 * max(3, condition)

    scales, quats = gaussians.scales.double().numpy(), gaussians.quats.double().numpy()
    np.testing.assert_allclose(scales, exact, rtol=tolerance)
    assert (scales[:, 1:] <= scales[:, :-1] * (1 + 1e-6)).all()
    np.testing.assert_allclose(np.linalg.norm(quats, axis=1), 1, rtol=3e-7)
    assert (np.abs(quats).max(1) == quats.max(1)).all()

    rotations = se3.matrix_from_quat(quats)
    wanted = covariances(axes)
    error = np.abs(covariances(rotations * scales[:, None]) - wanted).max((1, 2))
    assert (error / np.abs(wanted).max((1, 2))).max() < tolerance
    # covariances hardly show where the thin side of a disc points
    distinct = exact[:, 1] > 1.5 * exact[:, 2]
    sines = np.linalg.norm(np.cross(directions[..., 2], rotations[..., 2]), axis=1)
    assert sines[distinct].max(initial=0) < tolerance


def test_the_layout_and_the_number_of_gaussians_change_nothing(implementation: str) -> None:
    k, whole = CAMERAS['off_centre'], ndc_of(np.random.default_rng(5).random((600, 3)))
    wanted = unproject(whole, k)
    for n in (0, 1, 255, 256, 257, 600):
        for layout in ('rows', 'planes', 'every second'):
            parts = {}
            for name in ('scales', 'quats'):
                part = getattr(whole, name)[:, :n]
                if layout == 'planes':
                    part = part.mT.contiguous().mT
                elif layout == 'every second':
                    part = part.repeat_interleave(2, 1)[:, ::2]
                parts[name] = part
            rest = {name: getattr(whole, name)[:, :n] for name in ('means', 'colors', 'opacities')}
            got = unproject(NdcGaussians(**parts, **rest, grid=(1, 1, n)), k)
            torch.testing.assert_close(got.scales, wanted.scales[:n], rtol=1e-6, atol=0)
            torch.testing.assert_close(got.quats, wanted.quats[:n], rtol=0, atol=1e-5)


def test_the_compiled_loop_and_torch_agree() -> None:
    rng = np.random.default_rng(6)
    k, ndc = CAMERAS['beside_the_image'], ndc_of(10 ** (-5 * rng.random((5000, 3))))
    lens = torch.tensor([[0.9, 0.4, 1], [0.2, -0.3, 0]])
    (scales, quats), (scales_too, quats_too) = (
        f(ndc.scales[0], ndc.quats[0], lens)
        for f in (unprojection._shapes, unprojection._shapes_on_cpu)
    )
    torch.testing.assert_close(scales, scales_too, rtol=3e-6, atol=0)
    distinct = (scales[:, :-1] > 1.2 * scales[:, 1:]).all(1)
    assert distinct.float().mean() > 0.8
    cosines = (rotations_from_quats(quats) * rotations_from_quats(quats_too)).sum(1)[distinct]
    assert cosines.abs().min() > 1 - 1e-5
    assert torch.equal(unproject(ndc, k).means, unproject(ndc, k, covariances=False).means)


def test_the_number_of_threads_of_torch_is_kept() -> None:
    """In a process of its own: numba starts its threads once."""
    code = (
        'import torch\n'
        'from sharp_ros.network.unprojection import _shapes_on_cpu\n'
        'torch.set_num_threads(1)\n'
        'torch.get_num_threads()\n'  # torch applies what was set no earlier than this
        '_shapes_on_cpu(torch.ones(9, 3), torch.ones(9, 4), torch.ones(2, 3))\n'
        'print("THREADS", torch.get_num_threads())\n'
    )
    environment = {**os.environ, 'NUMBA_NUM_THREADS': '2'}
    out = subprocess.run(
        [sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert out.rstrip().endswith('THREADS 1')


@pytest.mark.parametrize('scale', [0.0, 1e-45, 1e-30, 1e6, 1e37])
def test_degenerate_gaussians_stay_finite(scale: float, implementation: str) -> None:
    scales = torch.tensor([[scale] * 3, [scale, 0, 0], [scale, scale, 0], [scale, -scale, 0]])
    quats = torch.tensor([[1, 0, 0, 0], [1e-45, 0, 0, 0], [0.0] * 4, [3e38] * 4])
    gaussians = unproject(ndc_of(scales, quats), CAMERAS['centred'])
    assert torch.isfinite(gaussians.scales).all()
    torch.testing.assert_close(gaussians.quats.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_and_disturbs_no_other(
    bad: float, implementation: str
) -> None:
    clean, k = ndc_of(), CAMERAS['off_centre']
    fine = unproject(clean, k)
    ndc = replace(clean, **{n: getattr(clean, n).clone() for n in ('means', 'scales', 'quats')})
    touched = torch.zeros(len(fine), dtype=torch.bool)
    for tensor, first in ((ndc.quats[0], 0), (ndc.scales[0], 50)):
        for component in range(tensor.shape[1]):
            # a negative scale counts as none
            if not (first == 50 and bad == -np.inf):
                tensor[first + component, component] = bad
                touched[first + component] = True
    ndc.means[0, 100, 0] = bad
    got = unproject(ndc, k)
    assert not torch.isfinite(got.means[100, 0])
    assert torch.equal(got.means[:100], fine.means[:100])
    for name in ('scales', 'quats'):
        values, expected = getattr(got, name), getattr(fine, name)
        assert not torch.isfinite(values[touched]).any()
        assert torch.equal(values[~touched], expected[~touched])


# --- points only --------------------------------------------------------------------------------


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Gaussians:
    for name in ('_shapes', '_shapes_on_cpu'):
        monkeypatch.delattr(unprojection, name)  # nobody may ask for them
    rng = torch.Generator().manual_seed(7)
    ndc = replace(ndc_of(means=torch.rand(2 * 6 * 8, 3, generator=rng) + 1), grid=(2, 6, 8))
    return unproject(ndc, CAMERAS['centred'], covariances=False)


def test_points_come_without_shapes_and_give_depth(points: Gaussians) -> None:
    assert points.quats is None
    assert points.scales is None
    depth = depth_from_gaussians(points, 8, 6)
    np.testing.assert_allclose(depth.ravel(), points.means[:48, 2])


def test_points_can_be_moved_chosen_and_turned(points: Gaussians) -> None:
    T = np.diag([-1.0, -1, 1, 1])
    T[2, 3] = 0.5
    there = points.means.numpy() * [-1, -1, 1] + [0, 0, 0.5]
    for moved in (points.to('cpu'), points.select(slice(3, 9)), points.layer(1)):
        assert moved.quats is None
        assert moved.scales is None
    assert torch.equal(points.layer(1).means, points.means[48:])
    turned = points.transformed(T)
    assert turned.quats is None
    assert turned.grid == points.grid
    np.testing.assert_allclose(turned.means, there, rtol=1e-6)


def test_what_needs_shapes_refuses_points(points: Gaussians, tmp_path: Path) -> None:
    k = CAMERAS['centred']
    for use in (
        lambda: points.shapes,
        lambda: rasterize(points, k),
        lambda: reference.rasterize(points, k, np.eye(4), (0, 0, 0), 0.05),
        lambda: splat_records(points),
        lambda: save_ply(tmp_path / 'points.ply', points),
    ):
        with pytest.raises(InputError, match='points only') as error:
            use()
        assert error.value.reason == 'no_shapes'
    assert not list(tmp_path.iterdir())


def test_half_a_shape_is_none(points: Gaussians) -> None:
    for half in ({'quats': torch.ones(96, 4)}, {'scales': torch.ones(96, 3)}):
        with pytest.raises(InputError, match='both'):
            replace(points, **half)
    whole = replace(points, quats=torch.ones(96, 4), scales=torch.ones(96, 3))
    assert [t.shape[1] for t in whole.shapes] == [3, 4]
