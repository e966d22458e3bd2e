"""Scenes drawn in batches and what cameras make of them: depth, two views, light, damage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sharp_ros.procedural import analytic
from sharp_ros.procedural.analytic import (
    BOX,
    developed,
    metered,
    moved,
    render,
    ROUND,
    sample_cameras,
    sample_scenes,
)
from sharp_ros.training import drawn
from sharp_ros.training.drawn import draw_batch, DrawnImages

pytestmark = pytest.mark.usefixtures('one_thread')

WIDTH, HEIGHT = 28, 20
FULL_TURN = np.array([0.0, 0.0, 1.0])


@pytest.fixture(scope='module')
def world():
    generator = torch.Generator().manual_seed(1)
    scenes = sample_scenes(5, generator)
    cameras = sample_cameras(scenes, WIDTH, HEIGHT, generator)
    return scenes, cameras, moved(cameras, generator)


@pytest.fixture(scope='module')
def images(world):
    scenes, cameras, _ = world
    return render(scenes, cameras, WIDTH, HEIGHT)


def rays_of(cameras, i):
    """Origin [3] and directions [H * W, 3] with a z of 1 in the camera."""
    fx, fy, cx, cy = cameras.intrinsics[i].tolist()
    v, u = np.mgrid[:HEIGHT, :WIDTH].reshape(2, -1) + 0.5
    local = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(u.size)], -1)
    pose = cameras.T_world_camera[i].double().numpy()
    return pose[:3, 3], local @ pose[:3, :3].T


def meshes(o3d, scenes, i):
    """Triangles of every primitive; round ones finely divided."""
    for n in range(1, scenes.kind.shape[1]):
        half, (c, s) = scenes.half[i, n].double().numpy(), scenes.yaw[i, n].double().numpy()
        if scenes.kind[i, n] == BOX:
            mesh = o3d.geometry.TriangleMesh.create_box(2, 2, 2).translate([-1, -1, -1])
        elif scenes.kind[i, n] == ROUND:
            mesh = o3d.geometry.TriangleMesh.create_sphere(1, 60)
        else:
            mesh = o3d.geometry.TriangleMesh.create_cylinder(1, 2, 90)
        turn = np.array([[c, -s, 0], [s, c, 0], FULL_TURN])
        vertices = np.asarray(mesh.vertices) * half @ turn.T + scenes.centre[i, n].double().numpy()
        yield vertices.astype(np.float32), np.asarray(mesh.triangles).astype(np.uint32)


def test_depth_is_that_of_another_ray_caster(world, images):
    o3d = pytest.importorskip('open3d', reason='needs open3d')
    scenes, cameras, _ = world
    for i in range(len(scenes.kind)):
        caster = o3d.t.geometry.RaycastingScene()
        for vertices, triangles in meshes(o3d, scenes, i):
            caster.add_triangles(o3d.core.Tensor(vertices), o3d.core.Tensor(triangles))
        origin, rays = rays_of(cameras, i)
        half = scenes.half[i, 0].double().numpy()
        if scenes.outdoors[i]:
            shell = np.where(rays[:, 2] < 0, -origin[2] / rays[:, 2], np.inf)
        else:  # to where the ray leaves the room
            walls = (np.sign(rays) * half + [0, 0, half[2]] - origin) / rays
            shell = walls.min(-1)
        both = np.concatenate([np.broadcast_to(origin, rays.shape), rays], -1).astype(np.float32)
        hit = caster.cast_rays(o3d.core.Tensor(both))['t_hit'].numpy()
        expected = np.minimum(hit, shell)
        depth = images.depth[i].numpy().ravel()
        same = np.isclose(depth, expected, rtol=2e-3) | (np.isinf(depth) & np.isinf(expected))
        assert same.mean() > 0.985, i  # edges, and the facets of what is round


def test_the_second_surface_is_that_of_another_thing_behind(world, images):
    scenes, cameras, _ = world
    assert (images.second_depth >= images.depth).all()
    assert (images.second_depth > images.depth + 0.1).float().mean() > 0.1
    one_thing = scenes._replace(owner=torch.zeros_like(scenes.owner))
    alone = render(one_thing, cameras, WIDTH, HEIGHT)
    assert torch.equal(alone.depth, images.depth)
    assert torch.equal(alone.second_depth, images.depth)


def test_only_the_sky_is_infinitely_far(world, images):
    scenes, _, _ = world
    sky = images.depth.isinf().flatten(1).any(1)
    assert sky.any()
    assert not (sky & ~scenes.outdoors).any()
    assert images.depth.min() > 0
    assert torch.isfinite(images.light).all()
    rgb = developed(images.light, metered(images.light))
    assert rgb.min() >= 0
    assert rgb.max() <= 1


def test_rays_in_parts_meet_the_same(world, monkeypatch):
    scenes, cameras, _ = world
    generator = torch.Generator().manual_seed(0)
    rays = torch.nn.functional.normalize(torch.randn(5, 50, 3, generator=generator), dim=-1)
    eyes = cameras.T_world_camera[:, None, :3, 3].expand_as(rays)
    whole = analytic._cast(scenes, eyes, rays)
    monkeypatch.setattr(analytic, '_CACHED', 100)
    for one, parts in zip(whole, analytic._cast(scenes, eyes, rays), strict=True):
        torch.testing.assert_close(parts, one)


def test_without_a_compiler_scenes_are_drawn_all_the_same(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError('no compiler here')

    monkeypatch.setattr(torch, 'compile', lambda *_, **__: refuse)
    with pytest.warns(UserWarning, match='no compiler here'):
        assert analytic._meeting.__wrapped__('meta') is analytic._meet


def test_two_views_see_the_same_surfaces(world, images):
    """A point of one view lies in the other on what is seen there, or behind it."""
    scenes, cameras, others = world
    second = render(scenes, others, WIDTH, HEIGHT)
    agreeing = []
    for i in range(len(scenes.kind)):
        origin, rays = rays_of(cameras, i)
        z = images.depth[i].double().numpy().ravel()
        known = np.isfinite(z)
        points = origin + rays[known] * z[known, None]
        pose = others.T_world_camera[i].double().numpy()
        x, y, depth = ((points - pose[:3, 3]) @ pose[:3, :3]).T
        fx, fy, cx, cy = others.intrinsics[i].tolist()
        u, v = np.floor(fx * x / depth + cx), np.floor(fy * y / depth + cy)
        visible = (depth > 0.05) & (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
        there = second.depth[i].numpy()[v[visible].astype(int), u[visible].astype(int)]
        agreeing.append(np.mean(there < depth[visible] * 1.1))
    assert np.mean(agreeing) > 0.97


def test_light_falls_off_and_casts_shadows(world):
    scenes, cameras, _ = world
    dark = scenes._replace(ambient=scenes.ambient * 0)
    only = dark._replace(glow=dark.glow * torch.tensor([1.0, 0.0, 0.0])[:, None])
    light = render(only, cameras, WIDTH, HEIGHT).light
    share = (light.amax(1) < 1e-4).flatten(1).float().mean(1)[~scenes.outdoors]
    assert share.max() > 0.02  # what no lamp reaches is black
    assert share.min() < 0.9


def test_cameras_are_those_of_robots(world):
    _, cameras, others = world
    height = cameras.T_world_camera[:, 2, 3]
    assert ((height > 0.19) & (height < 1.81)).all()
    fov = 2 * torch.atan(WIDTH / 2 / cameras.intrinsics[:, 0])
    assert ((fov > math.radians(44.9)) & (fov < math.radians(110.1))).all()
    rotation = others.T_world_camera[:, :3, :3]
    torch.testing.assert_close(
        rotation @ rotation.transpose(1, 2), torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0
    )
    way = (others.T_world_camera[:, :3, 3] - cameras.T_world_camera[:, :3, 3]).norm(dim=-1)
    assert ((way > 0.029) & (way < 0.151)).all()


# --- batches ------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def batch():
    return draw_batch((7, 1), 4, 32, 48, torch.device('cpu'), second_view=True)


def test_a_batch_depends_on_its_key_alone(batch):
    again = draw_batch((7, 1), 4, 32, 48, torch.device('cpu'), second_view=True)
    other = draw_batch((7, 2), 4, 32, 48, torch.device('cpu'))
    assert all(torch.equal(one, two) for one, two in zip(batch, again, strict=True))
    for one, two in zip(batch[:5], other[:5], strict=True):
        assert one.shape == two.shape
        assert not torch.equal(one, two)
    assert other.rgb2 is None


def test_batches_keep_the_conventions_of_shards(batch):
    assert batch.rgb.shape == batch.clean.shape == batch.rgb2.shape == (4, 3, 32, 48)
    assert batch.depth.shape == (4, 32, 48)
    assert (batch.depth > 0).all()  # infinite: nothing there
    assert (batch.second_depth >= batch.depth).all()
    fov = 2 * torch.atan(24 / batch.intrinsics[:, 0])
    assert ((fov > math.radians(44.9)) & (fov < math.radians(110.1))).all()
    images = torch.cat([batch.rgb, batch.clean, batch.rgb2])
    assert images.min() >= 0
    assert images.max() <= 1
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in batch)


def test_gravity_and_height_are_given_half_of_the_time_and_almost_right():
    camera = torch.eye(4)
    camera[:3, :3] = torch.tensor([[0.8, 0, 0.6], [-0.6, 0, 0.8], [0, -1, 0]])
    camera[2, 3] = 1.2
    cameras = analytic.Cameras(camera.repeat(400, 1, 1), torch.zeros(400, 4))
    exact = drawn._geometry(cameras, None)
    torch.testing.assert_close(exact[0], torch.tensor([0, -1, 0, math.log(1.2), 1]))
    geometry = drawn._geometry(cameras, analytic.Draw(torch.Generator().manual_seed(0)))
    known = geometry[:, 4] > 0
    assert 0.4 < known.float().mean() < 0.6
    assert not geometry[~known].any()
    torch.testing.assert_close(geometry[known, :3].norm(dim=1), torch.ones(int(known.sum())))
    error = geometry[known] - exact[known]
    assert 0.008 < error[:, :3].std(0)[[0, 2]].mean() < 0.025  # radians
    assert 0.02 < error[:, 3].std() < 0.04


def test_the_second_view_shows_each_point_where_the_pose_says(batch):
    """The colour of a point of the first view, found again in the second through its depth."""
    fx, fy, cx, cy = batch.intrinsics[:, :, None, None].unbind(1)
    v, u = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(48) + 0.5, indexing='ij')
    z = torch.where(batch.depth.isfinite(), batch.depth, 50.0)
    points = torch.stack([(u - cx) / fx * z, (v - cy) / fy * z, z, torch.ones_like(z)], -1)

    def difference(T):
        x, y, z2, _ = (points @ T[:, None].mT).unbind(-1)
        fx2, fy2, cx2, cy2 = batch.intrinsics2[:, :, None, None].unbind(1)
        place = torch.stack([(fx2 * x / z2 + cx2) / 24 - 1, (fy2 * y / z2 + cy2) / 16 - 1], -1)
        seen = torch.nn.functional.grid_sample(batch.rgb2, place, align_corners=False)
        inside = (place.abs() < 1).all(-1) & (z2 > 0.05)
        return (seen - batch.clean).abs().mean(1)[inside].mean()

    assert difference(batch.T_2_1) < 0.6 * difference(torch.eye(4).repeat(4, 1, 1))
    assert difference(batch.T_2_1) < 0.5 * difference(torch.linalg.inv(batch.T_2_1))


def test_cameras_damage_pictures_but_leave_outlines_in_place():
    """Edges stay within three pixels: the depth belongs to the picture that was not damaged."""
    clean = torch.full((60, 3, 32, 64), 0.15)
    clean[..., 32:] = 0.75
    pictures = drawn.photographed(clean, analytic.Draw(torch.Generator().manual_seed(0)))
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert (pictures - clean).abs().mean((1, 2, 3)).min() > 0
    rows = pictures.mean((1, 2))
    steps = rows.diff(dim=1).abs()
    clear = steps.amax(1) > 0.1
    assert clear.sum() > 45
    assert ((steps.argmax(1) - 31).abs() <= 3)[clear].all()
    sharpness = (steps.amax(1) / (rows.amax(1) - rows.amin(1)))[clear]
    assert sharpness.max() - sharpness.min() > 0.4  # from smeared to sharp


def test_images_to_measure_on_are_exact_and_the_same_for_every_run():
    one, two = (DrawnImages(2, 16, 24, torch.device('cpu')) for _ in range(2))
    assert len(one) == 2
    batch = one.batch([1, 0], 16, 24, None)
    assert torch.equal(batch.rgb, two.batch([1, 0], 16, 24, None).rgb)
    assert (batch.geometry[:, 4] == 1).all()
    whole = draw_batch((drawn.VALIDATION_KEY, 0), 2, 16, 24, torch.device('cpu'), damaged=False)
    assert torch.equal(batch.depth, whole.depth.flip(0))
