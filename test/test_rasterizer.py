from __future__ import annotations

import numpy as np
import pytest
import torch

from sharp_ros import se3
from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians, linear_from_srgb, srgb_from_linear
from sharp_ros.rasterizer import rasterize, reference

EYE = np.eye(4)
BLACK = (0.0, 0.0, 0.0)
CAMERA = Intrinsics(60.0, 55.0, 33.0, 22.0, 70, 45)  # no multiple of a tile, off centre


def make(means, scales=0.1, quats=(1, 0, 0, 0), opacities=0.8, colors=(0.2, 0.5, 0.9)):
    means = torch.as_tensor(means, dtype=torch.float32)
    n = len(means)

    def rows(value, shape):
        return torch.as_tensor(np.asarray(value, np.float32)).expand(shape).contiguous()

    return Gaussians(
        means,
        rows(quats, (n, 4)),
        rows(scales, (n, 3)),
        rows(opacities, (n,)),
        rows(colors, (n, 3)),
    )


def cloud(n, seed, scale_low=0.02, scale_high=0.3, opacities=None):
    rng = np.random.default_rng(seed)
    return make(
        np.stack([rng.uniform(-2, 2, n), rng.uniform(-2, 2, n), rng.uniform(0.5, 5, n)], 1),
        np.exp(rng.uniform(np.log(scale_low), np.log(scale_high), (n, 3))),
        rng.normal(size=(n, 4)) * 3,
        rng.uniform(0, 1, n) if opacities is None else opacities,
        rng.uniform(0, 1, (n, 3)),
    )


def spoiled():
    """Forty good Gaussians, and among them everything that can be wrong with one."""
    g = cloud(60, 7)
    g.means[0], g.means[1] = float('nan'), float('inf')
    g.means[2, 0], g.means[3, 2] = 1e30, 3e38
    g.scales[4], g.scales[5, 1], g.scales[6, 2] = 0.0, -0.1, float('nan')
    g.scales[7], g.scales[8] = 1e30, 1e-30
    g.quats[9], g.quats[10, 1], g.quats[11] = 0.0, float('inf'), 1e15
    g.opacities[12], g.opacities[13] = float('nan'), -1.0
    g.opacities[14], g.opacities[15] = 7.0, float('inf')
    g.colors[16, 1], g.colors[17] = float('nan'), float('inf')
    g.means[18:20, 2] = torch.tensor([-1.0, 0.0])
    return g


SCENES = {
    'random': lambda: cloud(400, 0),
    'needles': lambda: cloud(300, 1, 1e-4, 3.0),
    'huge': lambda: cloud(60, 2, 5.0, 500.0),
    'tiny': lambda: cloud(3000, 3, 1e-7, 3e-3),
    'opaque': lambda: cloud(400, 4, opacities=1.0),
    'transparent': lambda: cloud(400, 5, opacities=0.0),
    'at the visibility threshold': lambda: cloud(400, 6, opacities=1.02 / 255),
    'behind the camera': lambda: cloud(100, 8).transformed(se3.transform(np.eye(3), [0, 0, -6])),
    'around the camera': lambda: cloud(300, 9).transformed(se3.transform(np.eye(3), [0, 0, -2])),
    'dense': lambda: cloud(3000, 10, 0.05, 0.5),
    'equal depths': lambda: make(np.tile([[0.1, 0.1, 2.0]], (40, 1)), colors=np.eye(40, 3)),
    'spoiled': spoiled,
    'empty': lambda: make(np.zeros((0, 3))),
}


@pytest.mark.parametrize('background', [BLACK, (1.0, 0.3, 0.0)])
@pytest.mark.parametrize('scene', SCENES)
def test_cpu_agrees_with_reference(scene, background):
    g = SCENES[scene]()
    T = se3.inverse(se3.look_at([0.3, -0.2, -0.3], [0, 0.1, 2], [0.1, -1, 0]))
    fast = rasterize(g, CAMERA, T, background=background)
    slow = reference.rasterize(g, CAMERA, T, background, 0.05)
    assert (fast.color - slow.color).abs().max() <= 1e-3
    assert (fast.alpha - slow.alpha).abs().max() <= 1e-3
    # Depth is only as certain as the coverage it is divided by.
    assert ((fast.depth - slow.depth).abs() * slow.alpha).max() <= 1e-2
    for image in (fast.color, fast.alpha, fast.depth):
        assert image.isfinite().all()


def test_scenes_show_what_they_are_named_after():
    covered = {name: rasterize(scene(), CAMERA).alpha for name, scene in SCENES.items()}
    for name in ('transparent', 'behind the camera', 'empty'):
        assert covered[name].max() == 0, name
    for name in ('random', 'needles', 'huge', 'opaque', 'around the camera', 'dense', 'spoiled'):
        assert covered[name].max() > 0.5, name
    assert covered['tiny'].max() > 0
    assert 1 / 255 <= covered['at the visibility threshold'].max() < 0.1


def render_by_reference(gaussians, intrinsics):
    return reference.rasterize(gaussians, intrinsics, EYE, BLACK, 0.05)


@pytest.mark.parametrize('render', [rasterize, render_by_reference])
def test_gaussian_facing_the_camera_has_its_closed_form(render):
    sx, sy, z, opacity, color = 0.2, 0.1, 2.0, 0.7, (0.9, 0.4, 0.1)
    g = make([[0.0, 0.0, z]], (sx, sy, 0.3), opacities=opacity, colors=color)
    out = render(g, CAMERA)
    x = (np.arange(CAMERA.width) - CAMERA.cx) / (CAMERA.fx * sx / z)
    y = (np.arange(CAMERA.height) - CAMERA.cy) / (CAMERA.fy * sy / z)
    alpha = opacity * np.exp(-0.5 * (x**2 + y[:, None] ** 2))
    alpha[alpha < 1 / 255] = 0
    expected = srgb_from_linear(torch.from_numpy(alpha[..., None] * np.array(color)))
    np.testing.assert_allclose(out.alpha, alpha, atol=1e-5)
    np.testing.assert_allclose(out.color, expected, atol=1e-4)
    np.testing.assert_allclose(out.depth, np.where(alpha > 0, z, 0), atol=1e-4)  # 0.1 mm


def test_nearer_gaussian_covers_farther_one_in_linear_light():
    means, near, far = [[0, 0, 3], [0, 0, 2]], 0.6, 1.0
    g = make(means, 0.5, opacities=[far, near], colors=[[0.0, 1, 0], [1, 0, 0]])
    center = rasterize(g, Intrinsics(20, 20, 10, 10, 21, 21)).color[10, 10]
    expected = srgb_from_linear(torch.tensor([near, (1 - near) * 0.999, 0]))
    np.testing.assert_allclose(center, expected, atol=1e-4)


def test_background_fills_what_nothing_covers():
    linear = (0.2, 0.5, 1.0)
    out = rasterize(make(np.zeros((0, 3))), CAMERA, background=linear)
    expected = srgb_from_linear(torch.tensor(linear)).expand(45, 70, 3)
    np.testing.assert_allclose(out.color, expected, atol=1e-4)
    assert out.depth.max() == 0
    assert out.alpha.max() == 0


def pixel_grid(intrinsics, depth, linear, width_px=0.4):
    """One opaque Gaussian on the ray of every pixel; [H, W] depth, [H, W, 3] colours."""
    rays = np.concatenate([intrinsics.rays(), np.ones((*depth.shape, 1), np.float32)], -1)
    scales = np.repeat((depth * width_px / intrinsics.fx).reshape(-1, 1), 3, 1)
    means = (rays * depth[..., None]).reshape(-1, 3)
    return make(means, scales, opacities=1.0, colors=linear.reshape(-1, 3))


def test_opaque_wall_is_measured_to_a_millimetre():
    k = Intrinsics.from_hfov(1.2, 64, 48)
    out = rasterize(pixel_grid(k, np.full((48, 64), 2.5), torch.ones(48, 64, 3), 1.0), k)
    assert out.alpha.min() > 0.99
    assert (out.depth - 2.5).abs().max() < 1e-3


def test_moving_the_camera_equals_moving_the_scene_the_other_way():
    T = se3.inverse(se3.look_at([0.5, -0.3, -0.5], [0, 0, 2], [0.2, -1, 0]))
    moved_camera = rasterize(cloud(200, 11), CAMERA, T)
    moved_scene = rasterize(cloud(200, 11).transformed(T), CAMERA)
    assert (moved_camera.color - moved_scene.color).abs().mean() < 1e-4
    assert (moved_camera.color - rasterize(cloud(200, 11), CAMERA).color).abs().mean() > 0.01


def test_identity_view_of_a_grid_reproduces_the_image():
    k = Intrinsics.from_hfov(1.0, 120, 90)
    y, x = np.mgrid[:90, :120]
    image = 0.5 + 0.4 * np.stack([np.sin(x / 5), np.cos(y / 4), np.sin((x + y) / 7)], -1)
    linear = linear_from_srgb(torch.from_numpy(image.astype(np.float32)))
    out = rasterize(pixel_grid(k, 2 + 0.3 * np.sin(x / 20.0), linear), k)
    error = (out.color.numpy() - image)[2:-2, 2:-2]
    assert -10 * np.log10(np.mean(error**2)) > 35  # dB
    assert -10 * np.log10(np.mean((np.roll(out.color, 1, 1) - image)[2:-2, 2:-2] ** 2)) < 30


@pytest.mark.parametrize('scene', ['random', 'needles'])
def test_gradients_match_finite_differences(scene):
    k = Intrinsics(9.0, 8.0, 3.3, 2.6, 8, 6)
    g = cloud(5, 12, 0.2, 0.6) if scene == 'random' else cloud(5, 13, 0.05, 1.5)
    T = se3.inverse(se3.look_at([0.2, -0.1, -1.0], [0, 0, 2], [0.1, -1, 0]))
    names = ('means', 'quats', 'scales', 'opacities', 'colors')
    tensors = [getattr(g, name).double().requires_grad_() for name in names]

    def render(*parts):
        out = reference.rasterize(Gaussians(*parts), k, T, (0.3, 0.3, 0.3), 0.05)
        return out.color, out.depth * out.alpha, out.alpha

    assert sum(part.sum() for part in render(*tensors)).requires_grad
    assert torch.autograd.gradcheck(render, tensors, eps=1e-7, atol=1e-5, fast_mode=True)


def test_skipped_gaussians_do_not_spoil_gradients():
    g = spoiled()
    color = g.colors.clone().requires_grad_()
    means = g.means.clone().requires_grad_()
    scene = Gaussians(means, g.quats, g.scales, g.opacities, color)
    reference.rasterize(scene, CAMERA, EYE, BLACK, 0.05).color.sum().backward()
    assert means.grad.isfinite().all()
    assert color.grad.isfinite().all()
    assert color.grad[20:].abs().sum() > 0


def test_gradient_descent_recovers_a_colour_and_a_place():
    k = Intrinsics(20.0, 20.0, 9.5, 9.5, 20, 20)
    target = rasterize(make([[0.2, -0.1, 2.0]], 0.3, colors=(0.8, 0.3, 0.1)), k).color
    start = make([[0.0, 0.0, 2.0]], 0.3, colors=(0.5, 0.5, 0.5))
    means, colors = start.means.requires_grad_(), start.colors.requires_grad_()
    optimizer = torch.optim.Adam([means, colors], 0.03)
    for _ in range(60):
        optimizer.zero_grad()
        scene = Gaussians(means, start.quats, start.scales, start.opacities, colors)
        out = reference.rasterize(scene, k, EYE, BLACK, 0.05)
        (out.color - target).square().mean().backward()
        optimizer.step()
    np.testing.assert_allclose(means.detach()[0, :2], [0.2, -0.1], atol=0.02)  # 2 cm
    np.testing.assert_allclose(colors.detach()[0], [0.8, 0.3, 0.1], atol=0.05)


def test_reference_in_small_pieces_gives_the_same_image(monkeypatch):
    whole = render_by_reference(cloud(200, 15), CAMERA)
    monkeypatch.setattr(reference, 'PAIRS_AT_ONCE', 1000)
    pieces = render_by_reference(cloud(200, 15), CAMERA)
    assert (whole.color - pieces.color).abs().max() < 1e-5
    assert (whole.depth - pieces.depth).abs().max() < 1e-4


def test_lists_too_long_for_one_round_give_the_same_image(monkeypatch):
    from sharp_ros.rasterizer import cpu

    g, k = cloud(500, 14), Intrinsics.from_hfov(1.2, 90, 100)
    whole = rasterize(g, k)
    monkeypatch.setattr(cpu, '_ENTRIES_AT_ONCE', 100)
    rounds = rasterize(g, k)
    assert torch.equal(whole.color, rounds.color)
    assert torch.equal(whole.depth, rounds.depth)


@pytest.mark.parametrize('size', [(1, 1), (16, 16), (17, 1), (1, 33)])
def test_any_image_size_is_filled(size):
    k = Intrinsics(10.0, 10.0, (size[0] - 1) / 2, (size[1] - 1) / 2, *size)
    out = rasterize(make([[0.0, 0.0, 2.0]], 50.0, opacities=1.0), k)
    assert out.color.shape == (size[1], size[0], 3)
    assert out.alpha.min() > 0.9


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        ({'T_camera_world': np.eye(3)}, 'T_camera_world'),
        ({'T_camera_world': np.full((4, 4), np.nan)}, 'T_camera_world'),
        ({'near': 0.0}, 'near'),
        ({'near': float('nan')}, 'near'),
        ({'background': (1.0,)}, 'background'),
    ],
)
def test_unusable_arguments_are_refused(arguments, match):
    with pytest.raises(InputError, match=match):
        rasterize(cloud(3, 0), CAMERA, **arguments)


def test_empty_image_is_refused():
    with pytest.raises(InputError, match='empty'):
        rasterize(cloud(3, 0), Intrinsics(10, 10, 0, 0, 0, 10))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_gpu_agrees_with_cpu():
    g = cloud(400, 0)
    there, here = rasterize(g.to('cuda'), CAMERA), rasterize(g, CAMERA)
    assert there.color.device.type == 'cuda'
    assert (there.color.cpu() - here.color).abs().max() <= 1e-3
