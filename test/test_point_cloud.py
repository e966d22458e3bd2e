from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from sharp_ros.camera import Intrinsics, unproject
from sharp_ros.config import PointCloudConfig
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians, srgb_from_linear
from sharp_ros.point_cloud import (
    clean_depth,
    depth_from_gaussians,
    drop_flying_pixels,
    normals_from_depth,
    organised_cloud,
    pixel_noise,
    resize_depth,
    SAME_SURFACE_RATIO,
    splat_records,
)

VGA = Intrinsics.from_hfov(1.1, 640, 480)
EDGE_RATIO = PointCloudConfig().edge_ratio
NAN = np.float32(np.nan)


def plane_depth(intrinsics: Intrinsics, normal, distance: float) -> np.ndarray:
    """z-depth of the plane normal . p = distance in the optical frame; NaN where not in front."""
    rays = intrinsics.rays().astype(np.float64)
    inverse = (rays @ np.array(normal[:2]) + normal[2]) / distance
    with np.errstate(divide='ignore'):
        return np.where(inverse > 1e-3, 1 / inverse, np.nan).astype(np.float32)


def messy_depth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Surfaces, steps, noise and every kind of missing measurement."""
    rng = np.random.default_rng(seed)
    depth = rng.choice([0.8, 1.0, 2.5, 6.0], (height // 4 + 1, width // 4 + 1))
    depth = np.kron(depth, np.ones((4, 4)))[:height, :width]
    depth = depth * (1 + 0.03 * rng.standard_normal(depth.shape))
    holes = rng.random(depth.shape)
    for bad, low in ((np.nan, 0.0), (0.0, 0.02), (np.inf, 0.04), (-np.inf, 0.06), (-1, 0.07)):
        depth[(holes >= low) & (holes < low + 0.02)] = bad
    return depth.astype(np.float32)


def slow_resize(depth: np.ndarray, width: int, height: int) -> np.ndarray:
    rows, columns = depth.shape
    out = np.full((height, width), NAN)
    for v in range(height):
        y = min(max((v + 0.5) * rows / height - 0.5, 0), rows - 1)
        for u in range(width):
            x = min(max((u + 0.5) * columns / width - 0.5, 0), columns - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            wy, wx = y - y0, x - x0
            cells = depth[[y0, y0, y1, y1], [x0, x1, x0, x1]].astype(np.float64)
            usable = np.isfinite(cells).all() and (cells > 0).all()
            if usable and cells.max() <= SAME_SURFACE_RATIO * cells.min():
                weights = [(1 - wy) * (1 - wx), (1 - wy) * wx, wy * (1 - wx), wy * wx]
                out[v, u] = 1 / np.dot(weights, 1 / cells)
            else:
                nearest = cells[2 * (wy >= 0.5) + (wx >= 0.5)]
                out[v, u] = nearest if nearest > 0 else NAN
    return out


def slow_clean(depth: np.ndarray, edge_ratio: float, near: float, far: float) -> np.ndarray:
    height, width = depth.shape
    measured = depth > 0  # inf counts as seen: nothing is there
    with np.errstate(divide='ignore', invalid='ignore'):
        inverse = np.float32(1) / depth
    mixed = np.zeros(depth.shape, bool)
    inverse = np.where(measured, inverse, NAN)
    for v in range(height):
        for u in range(width):
            for dv, du in ((0, 1), (1, 0)):
                pair = [(v - dv, u - du), (v + dv, u + du)]
                pair = [
                    p for p in pair if 0 <= p[0] < height and 0 <= p[1] < width and measured[p]
                ]
                step = np.float32(edge_ratio) * inverse[v, u]
                agree = [abs(inverse[v, u] - inverse[p]) <= step for p in pair]
                if measured[v, u] and pair and not any(agree):
                    mixed[v, u] = True
    out = depth.copy()
    for v, u in np.argwhere(mixed) if edge_ratio > 0 else []:
        for dv, du in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
            if 0 <= v + dv < height and 0 <= u + du < width:
                out[v + dv, u + du] = NAN
    out[(out <= 0) & (out > -np.inf)] = NAN
    out[out < np.float32(near)] = -np.inf
    out[out > np.float32(far)] = np.inf
    return out


def slow_cloud(depth: np.ndarray, image: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    rgb = image.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    packed = rgb.astype(np.uint32).view(np.float32)
    return np.concatenate([unproject(depth, intrinsics), packed[..., None]], -1)


@pytest.mark.parametrize('size', [(61, 37), (20, 15), (7, 50), (1, 1)])
def test_resize_equals_its_slow_twin(size):
    depth = messy_depth(15, 20)
    expected = slow_resize(depth, *size)
    np.testing.assert_allclose(resize_depth(depth, *size), expected, rtol=1e-5)


@pytest.mark.parametrize('edge_ratio', [0.0, 0.05, 0.12, 0.5])
def test_clean_equals_its_slow_twin(edge_ratio):
    depth = messy_depth(48, 41)
    config = PointCloudConfig(min_range=0.9, max_range=5.0, edge_ratio=edge_ratio)
    np.testing.assert_array_equal(
        clean_depth(depth, config), slow_clean(depth, edge_ratio, 0.9, 5)
    )
    np.testing.assert_array_equal(
        drop_flying_pixels(depth, edge_ratio), slow_clean(depth, edge_ratio, 0, np.inf)
    )


def test_cloud_equals_its_slow_twin_bit_for_bit_in_colour():
    intrinsics = Intrinsics(50.0, 60.0, 21.3, 22.0, 41, 48)
    depth = messy_depth(48, 41)
    image = np.random.default_rng(1).integers(0, 256, (48, 41, 3), np.uint8)
    image.flags.writeable = False  # as arrays over message buffers are
    cloud, expected = (f(depth, image, intrinsics) for f in (organised_cloud, slow_cloud))
    assert cloud.dtype == np.float32
    assert cloud.flags.c_contiguous
    np.testing.assert_allclose(cloud[..., :3], expected[..., :3], rtol=1e-6)
    np.testing.assert_array_equal(cloud.view(np.uint32)[..., 3], expected.view(np.uint32)[..., 3])


def test_point_projects_back_into_its_pixel_with_its_colour():
    depth = np.full((480, 640), 2.0, np.float32)
    image = np.zeros((480, 640, 3), np.uint8)
    image[100, 500] = (255, 128, 7)
    x, y, z, _ = organised_cloud(depth, image, VGA)[100, 500]
    assert x * VGA.fx / z + VGA.cx == pytest.approx(500, abs=1e-3)
    assert y * VGA.fy / z + VGA.cy == pytest.approx(100, abs=1e-3)
    bits = organised_cloud(depth, image, VGA).view(np.uint32)[100, 500, 3]
    assert bits == 0x00FF8007


@pytest.mark.parametrize('normal', [(0, 0, 1), (0, 1, 0.02), (0.9, 0.1, 0.3)])
def test_resize_is_exact_on_planes(normal):
    small = VGA.resized(256, 192)
    resized = resize_depth(plane_depth(small, normal, 1.2), 640, 480)
    truth = plane_depth(VGA, normal, 1.2)
    inside = np.isfinite(truth) & (truth < 8)  # farther, a floor steps by more than the ratio
    inside[[0, 1, -2, -1]] = inside[:, [0, 1, -2, -1]] = False  # nothing to interpolate from
    assert inside.mean() > 0.3
    np.testing.assert_allclose(resized[inside], truth[inside], rtol=1e-4)


def test_resize_invents_no_depth_between_surfaces():
    depth = np.where(np.add.outer(np.arange(192), np.arange(256)) % 90 < 40, 1.0, 5.0)
    resized = resize_depth(depth.astype(np.float32), 640, 480)
    assert ((abs(resized - 1) < 1e-5) | (abs(resized - 5) < 1e-5)).all()


def soft_edge(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Depth with an interpolated 1 m / 5 m edge, and where it is one of the two."""
    u, v = np.meshgrid(np.arange(640), np.arange(480))
    if kind == 'disc':
        across = np.hypot(u - 320, v - 240) - 150
    elif kind == 'diagonal':
        across = (u - 320 + 0.6 * (v - 240)) / np.hypot(1, 0.6)
    else:
        across = (u - 320.3).astype(np.float64)
    share = np.clip(across / 3 + 0.5, 0, 1)  # three pixels wide
    return (1 + 4 * share).astype(np.float32), (share == 0) | (share == 1)


@pytest.mark.parametrize('kind', ['vertical', 'diagonal', 'disc'])
def test_soft_step_edge_leaves_no_flying_points(kind):
    depth, true = soft_edge(kind)
    assert ((depth > 1.2) & (depth < 4.8)).mean() > 0.002
    cleaned = drop_flying_pixels(depth, EDGE_RATIO)
    assert ((cleaned > 1.2) & (cleaned < 4.8)).mean() < 0.001
    assert np.isfinite(cleaned[true]).mean() >= 0.98
    kept = np.isfinite(cleaned)
    np.testing.assert_array_equal(cleaned[kept], depth[kept])


def test_upsampled_edge_of_a_coarse_grid_leaves_no_flying_points():
    coarse = np.where(np.arange(256) < 120, 1.0, 5.0) * np.ones((192, 1))
    coarse[:, 120] = 3.0  # the network's own blur
    cleaned = clean_depth(resize_depth(coarse.astype(np.float32), 640, 480), PointCloudConfig())
    assert ((cleaned > 1.2) & (cleaned < 4.8)).mean() < 0.005  # three columns of the blur
    assert np.isfinite(cleaned).mean() > 0.98


@pytest.mark.parametrize(
    ('normal', 'distance'),
    [
        ((0, 1, 0), 1.0),  # floor 1 m below a level camera
        ((0, 1, 0), 0.35),  # floor as a small robot sees it
        ((1, 0, 0.05), 0.8),  # wall of a corridor
        ((0.6, 0.5, 0.62), 1.5),
    ],
)
def test_slanted_planes_survive(normal, distance):
    depth = clean_depth(plane_depth(VGA, normal, distance), PointCloudConfig(edge_ratio=0.0))
    seen = np.isfinite(depth)
    assert seen.mean() > 0.2
    assert np.isfinite(drop_flying_pixels(depth, EDGE_RATIO)[seen]).mean() >= 0.99


def test_clean_occlusion_edge_and_thin_post_lose_nothing():
    depth = np.full((40, 60), 4.0, np.float32)
    depth[:, 20:22] = 2.0
    depth[10:, 40:] = 1.0
    np.testing.assert_array_equal(drop_flying_pixels(depth, EDGE_RATIO), depth)


def test_two_percent_sensor_noise_loses_few_points():
    noise = np.random.default_rng(0).standard_normal((480, 640))
    depth = (3 * (1 + 0.02 * noise)).astype(np.float32)
    assert np.isfinite(drop_flying_pixels(depth, EDGE_RATIO)).mean() > 0.99


def test_sparse_depth_is_not_mistaken_for_flying_pixels():
    depth = np.full((20, 20), np.nan, np.float32)
    depth[::3, ::3] = 2.0
    np.testing.assert_array_equal(drop_flying_pixels(depth, EDGE_RATIO), depth)


def test_inputs_are_not_modified():
    depth = messy_depth(30, 30)
    before = depth.copy()
    clean_depth(depth, PointCloudConfig())
    np.testing.assert_array_equal(depth, before)


def test_depth_from_gaussians_reads_the_visible_layer():
    torch = pytest.importorskip('torch')
    from sharp_ros.gaussians import Gaussians

    n = 2 * 12 * 16
    means = torch.zeros(n, 3)
    means[: n // 2, 2], means[n // 2 :, 2] = 2.0, 7.0
    ones = torch.ones(n, 4)
    gaussians = Gaussians(means, ones, ones[:, :3], ones[:, 0], ones[:, :3], (2, 12, 16))
    depth = depth_from_gaussians(gaussians, 640, 480)
    assert depth.shape == (480, 640)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, 2.0, rtol=1e-6)
    np.testing.assert_array_equal(depth_from_gaussians(gaussians, 16, 12), 2.0)
    with pytest.raises(InputError, match='image order'):
        depth_from_gaussians(gaussians.select(torch.arange(5)), 640, 480)
    with pytest.raises(InputError, match='0x480'):
        depth_from_gaussians(gaussians, 0, 480)


@pytest.mark.parametrize(
    ('depth', 'image'),
    [
        (np.ones((480, 639), np.float32), np.zeros((480, 640, 3), np.uint8)),
        (np.ones((480, 640), np.float32), np.zeros((480, 640), np.uint8)),
        (np.ones((480, 640), np.float32), np.zeros((480, 640, 3), np.float32)),
    ],
)
def test_cloud_of_mismatched_inputs_is_refused(depth, image):
    with pytest.raises(InputError, match='size') as caught:
        organised_cloud(depth, image, VGA)
    assert caught.value.reason == 'size_mismatch'


def test_import_needs_no_torch():
    code = 'import sys, sharp_ros.point_cloud; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_splat_records_agree_with_their_slow_twin() -> None:
    rng = np.random.default_rng(4)
    n = 300
    opacities = rng.random(n).astype(np.float32)
    opacities[::7] = 0
    gaussians = Gaussians(
        *(torch.from_numpy(rng.normal(size=(n, k)).astype(np.float32)) for k in (3, 4, 3)),
        torch.from_numpy(opacities),
        torch.from_numpy(rng.random((n, 3)).astype(np.float32)),
    )
    seen = gaussians.select(gaussians.opacities > 0)
    records = splat_records(gaussians)
    np.testing.assert_array_equal(records[:, :3], seen.means.numpy())
    np.testing.assert_array_equal(records[:, 4], seen.opacities.numpy())
    np.testing.assert_array_equal(records[:, 5:8], seen.scales.numpy())
    unit = (seen.quats / seen.quats.norm(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(records[:, 8:], unit, atol=1e-6)
    packed = records.view(np.uint32)[:, 3].astype(int)
    levels = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], -1)
    assert np.abs(levels - srgb_from_linear(seen.colors).numpy() * 255).max() < 0.6


def degrees_off(normals: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.degrees(2 * np.arcsin(np.linalg.norm(normals - truth, axis=-1) / 2))


@pytest.mark.parametrize(
    'normal', [(0, 0, 1), (0.6, 0, 0.8), (0, -0.8, 0.6), (0, 0.99, 0.141), (-0.48, 0.64, 0.6)]
)
def test_normals_of_a_plane_are_exact_up_to_its_horizon_and_point_to_the_camera(normal):
    distance = 1.5
    depth = plane_depth(VGA, normal, distance)
    normals = normals_from_depth(depth, VGA)
    near = depth < 20
    assert near.any()
    assert degrees_off(normals[near], -np.array(normal) / np.linalg.norm(normal)).max() < 0.1
    assert np.isnan(normals[np.isnan(depth)]).all()


def test_normals_of_a_sphere_point_away_from_its_centre():
    rays = np.concatenate([VGA.rays(), np.ones((480, 640, 1))], -1).astype(np.float64)
    centre, radius = np.array([0.1, -0.05, 1.5]), 0.5
    along, square = rays @ centre, (rays * rays).sum(-1)
    root = along**2 - square * (centre @ centre - radius**2)
    with np.errstate(invalid='ignore'):
        depth = ((along - np.sqrt(root)) / square).astype(np.float32)
    depth[np.isnan(depth)] = 4.0  # a wall behind it
    on_it = root > 0
    truth = (rays * depth[..., None] - centre) / radius
    normals = normals_from_depth(depth, VGA)[on_it]
    assert np.isfinite(normals).all(1).mean() > 0.99  # but of pixels alone on the rim
    off = degrees_off(normals, truth[on_it])
    assert np.nanmedian(off) < 0.3
    assert np.nanpercentile(off, 95) < 3  # towards the rim the window reaches inwards only


def test_normals_do_not_mix_what_stands_before_a_wall_with_the_wall():
    depth = plane_depth(VGA, (0.2, 0, 0.98), 1.0)
    before = plane_depth(VGA, (-0.2, 0, 0.98), 0.9)  # about a tenth nearer
    depth[100:300, 200:400] = before[100:300, 200:400]
    normals = normals_from_depth(depth, VGA)
    truth = np.full((480, 640, 3), np.array([-0.2, 0, -0.98]) / np.hypot(0.2, 0.98))
    truth[100:300, 200:400, 0] *= -1
    clear = np.abs(depth - plane_depth(VGA, (0.2, 0, 0.98), 1.0)) > 0.05
    clear[:100] = clear[300:] = clear[:, :200] = clear[:, 400:] = True
    off = degrees_off(normals, truth)
    assert np.percentile(off[clear], 99.5) < 0.1


def test_normals_of_a_noisy_wall_are_those_of_the_wall():
    noise = np.random.default_rng(0).standard_normal((480, 640))
    depth = (plane_depth(VGA, (0.5, 0, 0.866), 2.0) * (1 + 0.004 * noise)).astype(np.float32)
    assert pixel_noise(depth) == pytest.approx(0.004, rel=0.05)
    truth = -np.array([0.5, 0, 0.866])
    fine, coarse = (normals_from_depth(depth, VGA, radius) for radius in (7, 3))
    assert np.isfinite(fine).all()
    fine, coarse = (np.median(degrees_off(normals, truth)) for normals in (fine, coarse))
    assert fine < 2.5
    assert coarse / fine == pytest.approx((7 / 3) ** 2, rel=0.25)


def test_a_thin_line_and_a_lonely_pixel_have_no_normal():
    depth = np.full((60, 80), np.nan, np.float32)
    depth[10, :] = 2.0
    depth[30:50, 40] = 1.0
    depth[55, 5] = 1.0
    k = Intrinsics.from_hfov(1.0, 80, 60)
    assert np.isnan(normals_from_depth(depth, k)).all()


def test_sparse_depth_has_normals_too():
    depth = np.full((60, 80), np.nan, np.float32)
    depth[::3, ::3] = 2.0
    normals = normals_from_depth(depth, Intrinsics.from_hfov(1.0, 80, 60))
    np.testing.assert_allclose(normals[::3, ::3], np.broadcast_to([0, 0, -1], (20, 27, 3)))
    assert np.isnan(normals[1::3]).all()


def slow_run(line: np.ndarray, at: int, ratio: float, radius: int) -> list[int]:
    """What hangs together with one pixel along a line."""
    run = [at]
    for step in (-1, 1):
        last = at
        for i in range(at + step, at + step * (radius + 1), step):
            if 0 <= i < len(line) and line[i] > 0:
                if abs(line[i] - line[last]) > ratio * abs(i - last) * min(line[i], line[last]):
                    break
                run.append(i)
                last = i
    return run


def slow_normal(depth, k, v, u, ratio, radius):
    with np.errstate(divide='ignore', invalid='ignore'):
        inverse = np.where(np.isfinite(depth) & (depth > 0), np.float32(1) / depth, np.nan)
    rows, values = [], []
    for row in slow_run(inverse[:, u], v, ratio, radius):
        for column in slow_run(inverse[row], u, ratio, radius):
            rows.append([(column - k.cx) / k.fx, (row - k.cy) / k.fy, 1.0])
            values.append(inverse[row, column])
    places = np.array(rows)[:, :2] * [k.fx, k.fy]
    if np.linalg.det(np.cov(places.T, ddof=0)) < 0.1:
        return np.full(3, np.nan)
    normal = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return -normal / np.linalg.norm(normal)


def test_normals_agree_with_their_slow_twin():
    k = Intrinsics(300.0, 280.0, 15.2, 11.9, 32, 24)
    depth = messy_depth(24, 32)
    radius, ratio = 5, 5 * pixel_noise(depth)
    assert 0.03 < ratio < 0.5
    normals = normals_from_depth(depth, k, radius)
    seen = np.isfinite(depth) & (depth > 0)
    assert np.isnan(normals[~seen]).all()
    slow = np.array([slow_normal(depth, k, v, u, ratio, radius) for v, u in np.argwhere(seen)])
    assert np.isfinite(slow).all(1).sum() > 300
    np.testing.assert_allclose(normals[seen], slow, atol=2e-3)


def test_normals_of_mismatched_sizes_are_refused():
    with pytest.raises(InputError, match='does not fit') as caught:
        normals_from_depth(np.ones((480, 639), np.float32), VGA)
    assert caught.value.reason == 'size_mismatch'
