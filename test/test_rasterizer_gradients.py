"""The backward pass of the CPU renderer against autograd of the reference in float64."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from test_rasterizer import CAMERA, cloud, EYE, FIELDS, spoiled, stack, VIEW
import torch

from sharp_ros.camera import Intrinsics
from sharp_ros.gaussians import Gaussians
from sharp_ros.rasterizer import cpu, rasterize, reference

BACKGROUND = (1.0, 0.3, 0.0)
SCENES = {
    'random': lambda: cloud(400, 0),
    'needles': lambda: cloud(300, 1, 1e-4, 3.0),
    'opaque': lambda: cloud(400, 4, opacities=1.0),
    'dense': lambda: cloud(1500, 10, 0.05, 0.5),
    'around the camera': lambda: cloud(300, 9, scale_high=0.2),
    'one behind the other': stack,
    'spoiled': spoiled,
}


def gradients(render, gaussians, dtype, weights):
    """Of a sum of all pixels of colour, depth and alpha, weighted by chance."""
    tensors = [getattr(gaussians, name).to(dtype).clone().requires_grad_() for name in FIELDS]
    out = render(Gaussians(*tensors), CAMERA, VIEW, background=BACKGROUND, near=0.05)
    images = (out.color, out.depth, out.alpha)
    loss = sum((image * w.to(dtype)).sum() for image, w in zip(images, weights, strict=True))
    loss.backward()
    return [tensor.grad for tensor in tensors], images


@pytest.fixture(scope='module')
def weights():
    draw = torch.Generator().manual_seed(3)
    size = (CAMERA.height, CAMERA.width)
    color = torch.randn(*size, 3, generator=draw)
    return color, torch.randn(size, generator=draw) * 0.1, torch.randn(size, generator=draw)


@pytest.mark.parametrize('scene', SCENES)
def test_gradients_agree_with_the_reference(scene, weights):
    g = SCENES[scene]()
    fast, images = gradients(rasterize, g, torch.float32, weights)
    slow, expected = gradients(reference.rasterize, g, torch.float64, weights)
    for image, other in zip(images, expected, strict=True):
        assert (image - other).abs().max() < 1e-3
    for name, ours, theirs in zip(FIELDS, fast, slow, strict=True):
        assert theirs.abs().max() > 1e-3, name
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max(), name


def test_lists_in_rounds_give_the_same_gradients(weights):
    g = SCENES['random']()
    whole, _ = gradients(rasterize, g, torch.float32, weights)
    with mock.patch.object(cpu, '_ENTRIES_AT_ONCE', 100):
        rounds, _ = gradients(rasterize, g, torch.float32, weights)
    for a, b in zip(whole, rounds, strict=True):
        torch.testing.assert_close(a, b)


def test_only_what_asks_for_gradients_carries_them():
    g = cloud(50, 2)
    assert not rasterize(g, CAMERA).color.requires_grad
    colors = g.colors.clone().requires_grad_()
    painted = Gaussians(g.means, g.quats, g.scales, g.opacities, colors)
    with torch.no_grad():
        assert not rasterize(painted, CAMERA).color.requires_grad
    out = rasterize(painted, CAMERA, median_depth=True)
    assert out.color.requires_grad
    assert not out.median_depth.requires_grad
    assert (out.color - rasterize(g, CAMERA).color).abs().max() < 1e-4
    out.color.sum().backward()
    assert colors.grad.abs().max() > 0.1


def test_what_nothing_covers_has_no_gradient():
    means = torch.zeros(0, 3, requires_grad=True)
    shape = (torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 3))
    rasterize(Gaussians(means, *shape), CAMERA).color.sum().backward()
    assert means.grad.shape == (0, 3)


def test_gradient_of_a_nan_image_says_so():
    g = cloud(50, 2)
    colors = g.colors.clone().requires_grad_()
    painted = Gaussians(g.means, g.quats, g.scales, g.opacities, colors)
    k = Intrinsics(60.0, 60.0, 31.5, 23.5, 64, 48)
    (rasterize(painted, k, EYE).color * np.nan).sum().backward()
    assert colors.grad.isnan().any()
