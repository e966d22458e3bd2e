"""The losses: zero at the truth, blind to what they shall not see, and pulling towards it."""

from __future__ import annotations

from collections.abc import Callable
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sharp_ros.camera import Intrinsics
from sharp_ros.gaussians import Gaussians
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.network.nano import Lite0Encoder
from sharp_ros.rasterizer import reference, Rendering
from sharp_ros.training import losses
from sharp_ros.training.dataset import Batch

pytestmark = pytest.mark.usefixtures('one_thread')

HEIGHT, WIDTH, FOCAL = 32, 48, 40.0
CORNER = torch.tensor([[FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]])


def scene() -> Batch:
    """A slanted floor, a box that hides it, and sky above, in a gay pattern."""
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing='ij')
    depth = 1.2 * FOCAL / (v - HEIGHT / 2 + 6)
    second = torch.full_like(depth, math.inf)
    box = (u > 18) & (u < 30) & (v > 14) & (v < 24)
    second[box], depth[box] = depth[box], 1.0
    depth[v < 12], second[v < 12] = math.inf, math.inf
    rgb = torch.stack([torch.sin(u * 0.9), torch.cos(v * 0.7), torch.sin(u * 0.5 + v)]) / 2 + 0.5
    return Batch(rgb[None], CORNER, depth[None], second[None])


def truth(batch: Batch, channels: int = 11) -> Tensor:
    """The prediction that is right."""
    prediction = torch.zeros(1, channels, HEIGHT, WIDTH)
    known = torch.isfinite(batch.depth) & (batch.depth > 0)
    depth = torch.where(known, batch.depth, 1.0)
    prediction[:, 0] = depth.log()
    behind = torch.isfinite(batch.second_depth) & (batch.second_depth > 0)
    prediction[:, 1] = torch.where(behind, batch.second_depth, depth).log()
    prediction[:, 2] = -4.0
    prediction[:, 3] = torch.where(batch.depth == math.inf, 30.0, -30.0)
    return prediction


@pytest.fixture
def batch() -> Batch:
    return scene()


def terms_of_depth() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Losses of predicted and true log depth, all [B, H, W]."""
    return {
        'l1': lambda p, t, v: losses.log_depth_l1((p - t) * v, v),
        'scale_invariant': lambda p, t, v: losses.scale_invariant_log((p - t) * v, v, 1.0),
        'gradient': lambda p, t, v: losses.multi_scale_gradient((p - t) * v, v),
        'edge': lambda p, t, v: losses.edge_gradient((p - t) * v, t, v),
        'normals': lambda p, t, v: losses.surface_normals(p, t, v, CORNER[:, :4].to(p)),
    }


def two_surfaces(dtype: torch.dtype) -> Tensor:
    """Log depth [1, 6, 8] of two uneven surfaces, one before the other."""
    return (torch.arange(8) >= 4) * 0.5 + torch.randn(1, 6, 8, dtype=dtype) * 0.02


DEPTH_TERMS = pytest.mark.parametrize('name', terms_of_depth())


def test_every_term_is_zero_at_the_truth(batch: Batch) -> None:
    terms = losses.depth_loss(truth(batch), batch)
    assert terms.pop('laplace') == pytest.approx(-4, abs=1e-5)  # of the least scale
    terms.pop('total')
    assert set(terms) == {'l1', 'scale_invariant', 'gradient', 'edge', 'normals', 'second_layer',
                          'none'}  # fmt: skip
    for name, term in terms.items():
        assert term.item() == pytest.approx(0, abs=2e-5), name


@pytest.mark.parametrize('phase', [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_thinned_batch_is_that_of_a_camera_with_every_second_pixel(
    batch: Batch, phase: tuple[int, int]
) -> None:
    prediction = truth(batch)
    prediction[:, 0] += 0.1 * torch.randn_like(prediction[:, 0])
    few, coarse = losses.thinned(prediction, batch, phase)
    assert few.shape[2:] == coarse.depth.shape[1:] == (HEIGHT // 2, WIDTH // 2)
    row, column = phase
    assert torch.equal(coarse.depth, batch.depth[:, row::2, column::2])
    fx, fy, cx, cy = batch.intrinsics[0].tolist()
    ours = coarse.intrinsics[0].tolist()
    for j in range(3):  # the ray through a pixel stays that of the pixel it was
        x = (column + 2 * j + 0.5 - cx) / fx
        assert (j + 0.5 - ours[2]) / ours[0] == pytest.approx(x, abs=1e-5)
        y = (row + 2 * j + 0.5 - cy) / fy
        assert (j + 0.5 - ours[3]) / ours[1] == pytest.approx(y, abs=1e-5)
    assert losses.depth_loss(few, coarse)['total'].isfinite()
    exact = losses.depth_loss(*losses.thinned(truth(batch), batch, phase))
    assert exact['normals'].item() == pytest.approx(0, abs=2e-5)
    assert exact['l1'].item() == pytest.approx(0, abs=2e-5)


@pytest.mark.parametrize('name', ['l1', 'scale_invariant', 'gradient', 'edge', 'normals'])
def test_every_term_grows_with_the_error(batch: Batch, name: str) -> None:
    bump = torch.zeros(1, HEIGHT, WIDTH)
    bump[:, 16:20, 16:22] = 1.0
    values = []
    for size in (0.0, 0.1, 0.3):
        prediction = truth(batch)
        prediction[:, 0] += size * bump
        values.append(losses.depth_loss(prediction, batch)[name].item())
    assert values[0] < values[1] < values[2]


@DEPTH_TERMS
@pytest.mark.parametrize('seed', range(2))
def test_a_small_step_against_the_gradient_is_an_improvement(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    target = two_surfaces(torch.float32)
    prediction = (target + torch.randn_like(target) * 0.2).requires_grad_()
    valid = (torch.rand_like(target) < 0.8).float()
    loss = terms_of_depth()[name]
    before = loss(prediction, target, valid).sum()
    (gradient,) = torch.autograd.grad(before, prediction)
    after = loss(prediction - 1e-3 * gradient / gradient.norm(), target, valid).sum()
    assert gradient[valid == 0].abs().max() == 0
    assert after < before


@DEPTH_TERMS
def test_gradients_are_those_of_the_formula(name: str) -> None:
    torch.manual_seed(3)
    target = two_surfaces(torch.float64)
    prediction = (target + torch.randn_like(target) * 0.2).requires_grad_()
    valid = (torch.rand_like(target) < 0.8).double()
    loss = terms_of_depth()[name]
    assert torch.autograd.gradcheck(lambda p: loss(p, target, valid), prediction)


@pytest.mark.parametrize('name', ['scale_invariant', 'gradient', 'edge', 'normals'])
def test_shape_losses_do_not_see_a_common_factor(batch: Batch, name: str) -> None:
    torch.manual_seed(0)
    valid = (batch.depth < 40).float()
    target = torch.where(valid > 0, batch.depth, 1.0).log()
    prediction = target + torch.randn_like(target) * 0.1
    loss = terms_of_depth()[name]
    near, far = (loss(prediction + shift, target, valid) for shift in (0.0, 0.8))
    torch.testing.assert_close(far, near, atol=2e-4, rtol=0)
    assert near > 0.01


def test_normals_of_a_plane_do_not_depend_on_lens_or_distance() -> None:
    wanted = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, -0.8]), dim=0)
    for corner in (CORNER, torch.tensor([[90.0, 75.0, 10.0, 25.0]])):
        for distance in (0.4, 25.0):
            fx, fy, cx, cy = corner[0].tolist()
            rays = torch.from_numpy(Intrinsics(fx, fy, cx - 0.5, cy - 0.5, WIDTH, HEIGHT).rays())
            inverse = -(rays.float() @ wanted[:2] + wanted[2]) / distance
            seen = losses._normals(-inverse.log()[None], corner)
            assert (seen @ wanted).min() > math.cos(math.radians(0.2))


def test_only_true_occlusions_count_as_edges(batch: Batch) -> None:
    valid = torch.ones(1, HEIGHT, WIDTH)
    error = torch.zeros_like(valid)
    error[:, :, 20:] = 0.3
    smooth = torch.linspace(0, 0.5, WIDTH).expand_as(valid)
    assert losses.edge_gradient(error, smooth, valid).item() == 0
    step = smooth + (torch.arange(WIDTH) >= 20) * 1.0
    torch.testing.assert_close(
        losses.edge_gradient(error, step, valid), torch.tensor([0.3]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize('hole', [math.nan, math.inf, 0.0, -1.0, 1e6])
def test_what_is_no_depth_leaks_into_no_gradient(batch: Batch, hole: float) -> None:
    depth, second = batch.depth.clone(), batch.second_depth.clone()
    depth[:, 20:24, 5:9] = second[:, 20:24, 5:9] = hole
    prediction = (truth(batch) + 0.1).requires_grad_()
    total = losses.depth_loss(prediction, batch._replace(depth=depth, second_depth=second))[
        'total'
    ]
    (gradient,) = torch.autograd.grad(total, prediction)
    assert torch.isfinite(gradient).all()
    assert gradient[:, :3, 20:24, 5:9].abs().max() == 0
    assert gradient[:, 3, 20:24, 5:9].abs().max() > 0 if hole > 0 else True
    assert gradient[:, 0, 26:].abs().max() > 0


def test_what_is_stated_of_the_metres_learns_what_they_are_off_by() -> None:
    error = torch.tensor([0.3, -0.6, 0.1])[:, None, None] + torch.linspace(-2, 2, 9)[None, :, None]
    valid = torch.ones_like(error)
    valid[2] = 0  # nothing is known of it
    error *= valid
    log_std = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([log_std], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        losses.metres_nll(error, log_std, valid).sum().backward()
        optimizer.step()
    found = log_std.detach().exp() / 2**0.5
    torch.testing.assert_close(found[:2], torch.tensor([0.3, 0.6]), rtol=0.02, atol=0)
    assert log_std[2] == 0


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_an_image_without_any_truth_gives_finite_terms(batch: Batch, value: float) -> None:
    empty = batch._replace(depth=torch.full_like(batch.depth, value))
    prediction = truth(batch).requires_grad_()
    terms = losses.depth_loss(prediction, empty)
    (gradient,) = torch.autograd.grad(terms['total'], prediction)
    assert all(math.isfinite(term) for term in terms.values())
    assert torch.isfinite(gradient).all()


def test_sky_is_learnt_from_infinity_and_not_from_what_is_unknown(batch: Batch) -> None:
    depth = batch.depth.clone()
    depth[:, 28:] = math.nan
    prediction = torch.zeros(1, 11, HEIGHT, WIDTH, requires_grad=True)
    term = losses.depth_loss(prediction, batch._replace(depth=depth))['none']
    gradient = torch.autograd.grad(term, prediction)[0][0, 3]
    assert (gradient[depth[0] == math.inf] < 0).all()  # descent makes "nothing" more likely there
    assert (gradient[torch.isfinite(depth[0])] > 0).all()
    assert (gradient[depth[0].isnan()] == 0).all()
    assert term.item() == pytest.approx(math.log(2), abs=1e-5)


def test_the_spread_is_calibrated() -> None:
    # half of the pixels err by 1 cm in 1 m, half by 10: the best scales are these
    error = torch.tensor([0.01, 0.1, -0.1, -0.01])[None, None]
    log_scale = torch.full_like(error, -1.0, requires_grad=True)
    optimizer = torch.optim.SGD([log_scale], lr=0.5)
    for _ in range(150):
        optimizer.zero_grad()
        losses.laplace_nll(error, log_scale, torch.ones_like(error)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(log_scale.detach().exp(), error.abs(), atol=1e-3, rtol=0.05)


def test_second_layer_without_anything_behind_lies_on_the_first(batch: Batch) -> None:
    prediction = truth(batch)
    prediction[:, 1] += 0.5
    prediction.requires_grad_()
    term = losses.depth_loss(prediction, batch)['second_layer']
    gradient = torch.autograd.grad(term, prediction)[0][0, 1]
    known = torch.isfinite(batch.depth[0])
    assert (gradient[known] > 0).all()
    assert (gradient[~known] == 0).all()
    box = torch.isfinite(batch.second_depth[0])
    assert gradient[box].min() > 4 * gradient[known & ~box].max()


@pytest.mark.parametrize('unknown', [0.0, math.nan, 50.0])
def test_an_unknown_second_surface_teaches_nothing(batch: Batch, unknown: float) -> None:
    """A recording with depth knows of no second surface: what was learnt of it has to stay."""
    prediction = truth(batch).requires_grad_()
    blind = batch._replace(second_depth=torch.full_like(batch.depth, unknown))
    term = losses.depth_loss(prediction, blind)['second_layer']
    assert term == 0
    assert torch.autograd.grad(term, prediction)[0].abs().max() == 0


# --- second view ----------------------------------------------------------------------------


def test_ssim_of_an_image_with_itself_is_one_and_less_with_others() -> None:
    image = torch.rand(2, 3, 12, 16)
    torch.testing.assert_close(losses.ssim(image, image), torch.ones(2, 12, 16))
    assert losses.ssim(image, torch.rand(2, 3, 12, 16)).mean() < 0.5
    a, b = (torch.rand(1, 3, 4, 5, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(1, 4, 5, dtype=torch.float64)
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.photometric(x, b, weight), a)


@pytest.fixture(scope='module')
def pair() -> Batch:
    """A textured wall 2 m away and a board before it, and the second view as Gaussians show it."""
    height, width = 96, 128
    corner = torch.tensor([[110.0, 110.0, 64.0, 48.0]])
    camera = Intrinsics(110.0, 110.0, 63.5, 47.5, width, height)
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    rgb = torch.stack([torch.sin(u * 0.17), torch.cos(v * 0.19), torch.sin(u * 0.1 + v * 0.13)])
    rgb = (rgb / 2 + 0.5)[None]
    depth = torch.full((1, height, width), 2.0)
    depth[:, 30:70, 40:80] = 1.4
    T = np.eye(4)
    T[0, 3] = -0.25
    gaussians = gaussians_from_depth(depth, rgb[0], camera)
    rendering = reference.rasterize(gaussians, camera, T, (0.0, 0.0, 0.0), 0.05)
    rgb2 = rendering.color.permute(2, 0, 1)[None]
    pose = torch.from_numpy(T).float()[None]
    second = torch.full_like(depth, math.inf)
    return Batch(rgb, corner, depth, second, rgb2=rgb2, intrinsics2=corner, T_2_1=pose)


def at_depth(pair: Batch, factor: float) -> Tensor:
    prediction = torch.zeros(1, 11, *pair.depth.shape[1:])
    prediction[:, :2] = (pair.depth * factor).log()
    prediction[:, 2:4] = torch.tensor([-3.0, -10.0])[:, None, None]
    return prediction.requires_grad_()


def test_second_view_agrees_best_at_the_true_depth_and_pulls_towards_it(pair: Batch) -> None:
    torch.manual_seed(0)
    encoder = Lite0Encoder(0).requires_grad_(False)
    values, pulls = [], []
    for factor in (0.7, 1.0, 1.5):
        prediction = at_depth(pair, factor)
        terms = losses.depth_loss(prediction, pair, encoder)
        values.append((terms['photometric'].item(), terms['perceptual'].item()))
        gradient = torch.autograd.grad(terms['photometric'], prediction)[0]
        assert torch.isfinite(gradient).all()
        pulls.append(gradient[:, 0].sum().item())
    for near, right, far in zip(*values, strict=True):
        assert right < 0.6 * near
        assert right < 0.6 * far
    assert pulls[0] < 0 < pulls[2]  # farther if too near, nearer if too far


def test_a_gpu_renders_the_second_view_through_the_function_made_for_it(pair: Batch) -> None:
    class OnGpu(Tensor):
        is_cuda = True

    prediction = at_depth(pair, 1.1).detach()
    with torch.no_grad():
        there, seen, _ = losses.render_second_view(prediction.as_subclass(OnGpu), pair)
        here, same, _ = losses.render_second_view(prediction, pair)
    torch.testing.assert_close(there.as_subclass(Tensor), here, atol=1e-3, rtol=0)
    torch.testing.assert_close(seen, same)


def test_gaussians_of_the_second_view_lie_on_the_surface_that_is_predicted(
    pair: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pixel of a block stands for it: taken for the middle, a floor would lie too high."""
    height, width = pair.depth.shape[1:]
    fx, fy, cx, cy = pair.intrinsics[0].tolist()
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing='ij')
    # the plane x / 20 + y / 2 + z / 4 = 1 m
    depth = 1 / ((u - cx) / fx / 20 + (v - cy) / fy / 2 + 0.25)
    shown = []

    def render(gaussians: Gaussians, *args: Any, **options: Any) -> Rendering:
        shown.append(gaussians)
        return reference.rasterize(gaussians, *args, **options)

    monkeypatch.setattr(losses, 'reference', SimpleNamespace(rasterize=render))
    losses.render_second_view(at_depth(pair._replace(depth=depth[None]), 1.0), pair)
    means = shown[0].means.detach()
    heights = means @ torch.tensor([1 / 20, 1 / 2, 1 / 4])
    assert len(means) >= height * width / 16
    torch.testing.assert_close(heights, torch.ones(len(means)), atol=1e-4, rtol=0)


def test_regularisers_hold_corrections_back_and_are_zero_without_any(pair: Batch) -> None:
    prediction = at_depth(pair, 1.0)
    terms = losses.depth_loss(prediction, pair)
    assert 'perceptual' not in terms
    assert terms['widths'] == terms['opacities'] == 0
    with torch.no_grad():
        prediction[:, 4:8] = 0.5
    terms = losses.depth_loss(prediction, pair)
    gradient = torch.autograd.grad(terms['widths'] + terms['opacities'], prediction)[0]
    assert (gradient[:, 4:8] > 0).all()
    assert gradient[:, :4].abs().max() == 0


def test_predictions_without_corrections_are_compared_in_the_second_view(pair: Batch) -> None:
    terms = losses.depth_loss(at_depth(pair, 1.0)[:, :4], pair)
    assert 'widths' not in terms
    assert terms['photometric'] < 0.1
    assert math.isfinite(terms['total'])


def test_a_pair_of_unknown_pose_counts_without_its_second_view(pair: Batch) -> None:
    assert pair.T_2_1 is not None
    unknown = pair._replace(T_2_1=torch.full_like(pair.T_2_1, math.nan))
    terms = losses.depth_loss(at_depth(pair, 1.1), unknown)
    assert 'photometric' not in terms
    assert math.isfinite(terms['total'])
