from __future__ import annotations

from dataclasses import replace
import gc
import math
import tracemalloc

import numpy as np
import pytest
import torch

from sharp_ros import gaussians as gaussians_module
from sharp_ros.camera import Intrinsics
from sharp_ros.config import GaussianMapConfig, PointCloudConfig
from sharp_ros.errors import InputError
from sharp_ros.gaussians import empty_arrays, Gaussians, rotations_from_quats
from sharp_ros.mapping.gaussian_map import GaussianMap, SPREAD
from sharp_ros.mapping.gaussian_moments import _turn, export, TURN_BIT
from sharp_ros.models import load_predictor
from sharp_ros.point_cloud import clean_depth, depth_from_gaussians
from sharp_ros.rasterizer import rasterize
from sharp_ros.se3 import inverse, look_at, matrix_from_quat, quat_from_matrix, transform
from sharp_ros.synthetic import Room

SMALL = Intrinsics.from_hfov(1.2, 80, 60)
QQVGA = Intrinsics.from_hfov(1.2, 160, 120)
UP = np.array([0.0, 0.0, 1.0])
FORWARD = look_at(np.zeros(3), np.array([1.0, 0.0, 0.0]), UP)


def some(number: int, seed: int = 0, spacing: float = 0.2) -> Gaussians:
    """Gaussians of any shape in front of the camera, each in a voxel of its own."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(10 * 10 * 10, number, replace=False)
    x, y, z = cells % 10, cells // 10 % 10, cells // 100
    means = np.stack([x - 4.5, y - 4.5, z + 5], -1) * spacing
    return Gaussians(
        means=torch.tensor(means + rng.uniform(-0.02, 0.02, means.shape), dtype=torch.float32),
        quats=torch.tensor(rng.normal(size=(number, 4)), dtype=torch.float32),
        scales=torch.tensor(rng.uniform(0.001, 0.01, (number, 3)), dtype=torch.float32),
        opacities=torch.tensor(rng.uniform(0.2, 1, number), dtype=torch.float32),
        colors=torch.tensor(rng.uniform(size=(number, 3)), dtype=torch.float32),
    )


def joined(a: Gaussians, b: Gaussians) -> Gaussians:
    (scales, quats), (more_scales, more_quats) = a.shapes, b.shapes
    return Gaussians(
        torch.cat([a.means, b.means]),
        torch.cat([quats, more_quats]),
        torch.cat([scales, more_scales]),
        torch.cat([a.opacities, b.opacities]),
        torch.cat([a.colors, b.colors]),
    )


def covariances(gaussians: Gaussians) -> np.ndarray:
    scales, quats = gaussians.shapes
    rotations = rotations_from_quats(torch.nn.functional.normalize(quats.double(), dim=1))
    axes = rotations * scales.double()[:, None]
    return (axes @ axes.mT).numpy()


def assert_same(a: Gaussians, b: Gaussians, tolerance: float = 1e-5) -> None:
    assert len(a) == len(b)
    nearest = torch.cdist(a.means, b.means).argmin(1)
    assert len(nearest.unique()) == len(a)
    b = b.select(nearest)
    assert torch.allclose(a.means, b.means, atol=tolerance)
    assert torch.allclose(a.colors, b.colors, atol=1e-5)
    assert torch.allclose(a.opacities, b.opacities, atol=1e-5)
    assert np.allclose(covariances(a), covariances(b), rtol=1e-3, atol=tolerance**2)


def take(
    gaussian_map: GaussianMap,
    gaussians: Gaussians,
    T: np.ndarray | None = None,
    far: float = 100.0,
    intrinsics: Intrinsics = SMALL,
) -> None:
    depth = np.full((intrinsics.height, intrinsics.width), far, np.float32)
    gaussian_map.integrate(gaussians, depth, intrinsics, np.eye(4) if T is None else T)


def wall(distance: float, half_width: float, intrinsics: Intrinsics = QQVGA):
    """Depth and Gaussians of a wall at x = 4 m behind a square at `distance`; camera at origin."""
    rays = intrinsics.rays() * distance
    depth = np.where(np.abs(rays).max(-1) < half_width, distance, 4.0).astype(np.float32)
    image = np.full((*depth.shape, 3), 128, np.uint8)
    predictor, _ = load_predictor('sensor')
    return depth, predictor(image, intrinsics, depth)


def near(gaussian_map: GaussianMap, x: float) -> int:
    return int(((gaussian_map.gaussians().means[:, 0] - x).abs() < 0.1).sum())


# --- moments ------------------------------------------------------------------------------------


def test_a_gaussian_alone_in_its_voxel_comes_back_as_it_was():
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    gaussians = some(300)
    take(gaussian_map, gaussians)
    assert_same(gaussian_map.gaussians(), gaussians)


def test_gaussians_in_one_place_become_the_mixture_of_their_moments():
    shapes = some(2, seed=1)
    pair = replace(shapes, means=torch.full((2, 3), 1.0))
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    take(gaussian_map, pair)
    weights = pair.opacities.double().numpy()
    weights = weights / weights.sum()
    merged = gaussian_map.gaussians()
    expected = (weights[:, None, None] * covariances(pair)).sum(0)
    assert len(merged) == 1
    assert np.allclose(covariances(merged)[0], expected, rtol=1e-4, atol=1e-10)
    assert np.allclose(merged.colors[0], weights @ pair.colors.double().numpy(), atol=1e-6)


def test_spread_within_a_voxel_is_widened_in_the_tangent_plane_only():
    rng = np.random.default_rng(2)
    number, normal = 200, np.array([0.2, -0.3, 1.0])
    normal /= np.linalg.norm(normal)
    offsets = rng.uniform(-0.012, 0.012, (number, 3))
    offsets -= np.outer(offsets @ normal, normal) * 0.9
    means = np.array([0.125, 0.125, 2.025]) + offsets
    sigma = 0.002
    gaussians = Gaussians(
        torch.tensor(means, dtype=torch.float32),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(number, 1),
        torch.full((number, 3), sigma),
        torch.full((number,), 0.9),
        torch.full((number, 3), 0.5),
    )
    config = GaussianMapConfig(voxel_size=0.05)
    gaussian_map = GaussianMap(config)
    take(gaussian_map, gaussians)
    merged = gaussian_map.gaussians()
    assert len(merged) == 1
    values, axes = np.linalg.eigh(np.cov(offsets.T, bias=True))
    factors = np.array([1, SPREAD**2, SPREAD**2])  # least variance first
    expected = axes * (values * factors + sigma**2) @ axes.T
    assert np.allclose(merged.means[0], means.mean(0), atol=2e-5)
    assert np.allclose(covariances(merged)[0], expected, atol=0.01 * expected.max())


def test_the_order_of_gaussians_and_frames_does_not_matter():
    # 3 m away, where weights stay below the bound at which the past begins to fade
    frames = [some(400, seed, spacing=0.05) for seed in (3, 4, 5)]
    frames = [replace(f, means=f.means + torch.tensor([0, 0, 3.0])) for f in frames]
    one, other = (GaussianMap(GaussianMapConfig(voxel_size=0.03)) for _ in range(2))
    for frame in frames:
        take(one, frame, far=0.01)
    for frame in reversed(frames):
        order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
        take(other, frame.select(order), far=0.01)
        other.gaussians()  # nor when somebody looks
    assert_same(one.gaussians(), other.gaussians())


def test_the_pose_moves_the_map_as_it_moves_gaussians():
    gaussians = some(300, seed=6)
    T = transform(matrix_from_quat(np.array([0.3, -0.5, 0.7, 0.2])), np.array([31.0, -7.0, 2.5]))
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    take(gaussian_map, gaussians, T)
    assert_same(gaussian_map.gaussians(), gaussians.transformed(T), 2e-5)


def test_near_certain_and_opaque_gaussians_count_more():
    def red_share(**changes) -> float:
        pair = replace(
            some(2, seed=7),
            means=torch.full((2, 3), 1.0),
            opacities=torch.tensor([0.8, 0.8]),
            colors=torch.tensor([[1.0, 0, 0], [0, 0, 1]]),
        )
        gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
        take(gaussian_map, replace(pair, **changes))
        return float(gaussian_map.gaussians().colors[0, 0])

    assert red_share() == pytest.approx(0.5)
    assert red_share(opacities=torch.tensor([0.8, 0.4])) == pytest.approx(2 / 3)
    assert red_share(log_depth_std=torch.tensor([0.1, 0.2])) == pytest.approx(4 / 5)


def driven() -> GaussianMap:
    """A map of three frames, the last of which sees through some of the first."""
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    for seed, x in ((1, 0.0), (2, 0.02), (3, 0.05)):
        take(gaussian_map, some(700, seed, 0.05), transform(np.eye(3), np.array([x, 0, 0])))
    return gaussian_map


def slowly(state: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Means, covariances, opacities and colours of a stored map, row by row in float64."""
    side, rows = float(state['setting.voxel_size']), []
    shifts = np.array([0, 21, 42])
    cells = (state['voxels'][:, None] >> shifts & (1 << 21) - 1) - (1 << 20)
    held = {tuple(cell) for cell in cells}
    upper = np.triu_indices(3)
    for cell, sums in zip(cells, state['sums'].astype(np.float64), strict=True):
        weight, mean = sums[0], sums[1:4] / sums[0]
        own, between = np.empty((2, 3, 3))
        own[upper] = own.T[upper] = sums[4:10] / weight
        between[upper] = between.T[upper] = sums[10:16] / weight
        between -= np.outer(mean, mean)
        _, axes = np.linalg.eigh(own + between)  # the shortest first
        factors = np.array([1, SPREAD**2, SPREAD**2])
        size = np.trace(own + between)
        variances = np.array(
            [
                max(axis @ (own + factor * between) @ axis, 1e-8 * size)
                for axis, factor in zip(axes.T, factors, strict=True)
            ]
        )
        steps = np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
        company = sum(tuple(cell + step) in held for step in steps)
        beyond = np.maximum(variances - (0.6 * side) ** 2, 0)
        variances -= min(company, 4) / 4 * beyond
        covariance = axes * variances @ axes.T
        rows.append(
            ((cell + 0.5) * side + mean, covariance, sums[19] / weight, sums[16:19] / weight)
        )
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def test_what_is_exported_is_that_of_the_slow_twin():
    gaussian_map = driven()
    assert len(gaussian_map) > 1000
    given = gaussian_map.gaussians()
    a, (means, wanted, opacities, colors) = given.arrays, slowly(gaussian_map.state())
    ulp = 1.2e-7
    assert np.abs(a.means - means).max() <= ulp * np.abs(means).max()
    assert np.abs(a.opacities - opacities).max() <= ulp
    assert np.abs(a.colors - colors).max() <= ulp
    assert np.abs(np.linalg.norm(a.quats, axis=1) - 1).max() <= ulp
    sizes = np.trace(wanted, axis1=1, axis2=2)
    errors = np.abs(covariances(given) - wanted).max((1, 2)) / sizes
    assert errors.max() < 1e-3  # two axes as long as each other may be any
    assert np.median(errors) < 1e-6


def test_a_rotation_is_kept_in_three_numbers_to_the_last_bit():
    rng = np.random.default_rng(5)
    given = rng.normal(size=(400, 4))
    given[:100] = np.eye(4)[np.arange(100) % 4]  # half turns are told by one number alone
    given[100:200] = np.abs(rng.normal(size=(100, 4))) * rng.choice([1e-9, 1], (100, 4)) + 1e-30
    rotations = [matrix_from_quat(q / np.linalg.norm(q)) for q in given]
    flags, shapes = np.zeros(400, np.uint8), np.ones((400, 6), np.float32)
    for i, rotation in enumerate(rotations):
        turn, *shapes[i, 3:] = _turn(tuple(rotation[:, 0]), tuple(rotation[:, 1]))
        flags[i] = turn << TURN_BIT
    assert set(flags >> TURN_BIT) == {0, 1, 2, 3}
    out, sums = empty_arrays(400), np.ones((400, 8), np.float32)
    into = (out.means, out.quats, out.scales, out.opacities, out.colors)
    export(np.zeros(400, np.int64), sums, flags, shapes, 0.05, *into)
    assert out.quats is not None
    for quat, rotation, bits in zip(out.quats, rotations, flags, strict=True):
        assert quat[bits >> TURN_BIT] >= 0.5 - 1e-6
        exact = quat_from_matrix(rotation)
        assert np.abs(quat - exact * np.sign(exact @ quat)).max() <= 1.2e-7


def test_blocks_are_the_same_gaussians_and_give_the_same_view(monkeypatch):
    gaussian_map = driven()
    whole, blocks = gaussian_map.gaussians(), gaussian_map.blocks()
    monkeypatch.setattr(gaussians_module, '_BLOCK', 100)
    parts = [{name: a.copy() for name, a in vars(b).items() if a is not None} for b in blocks]
    assert len(parts) == math.ceil(len(whole) / 100)
    for name in parts[0]:
        joint = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joint, getattr(whole.arrays, name))
    for depth in (False, True):
        expected, got = (
            rasterize(scene, SMALL, median_depth=depth).arrays for scene in (whole, blocks)
        )
        for values, others in zip(expected, got, strict=True):
            np.testing.assert_array_equal(others, values)
    assert expected.alpha.max() > 0.5
    empty = GaussianMap(GaussianMapConfig()).blocks()
    assert len(empty) == 0
    assert not rasterize(empty, SMALL).arrays.alpha.any()


# --- what a frame brings and takes away ---------------------------------------------------------


def test_of_the_visible_layer_only_what_the_depth_image_shows_is_taken():
    rows, columns = 30, 40
    depth = np.full((60, 80), 2.0, np.float32)
    image = np.full((60, 80, 3), 90, np.uint8)
    predictor, _ = load_predictor('sensor')
    gaussians = predictor(image, SMALL, depth)
    cleaned = depth.copy()
    cleaned[:, :40] = np.nan
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.01))
    gaussian_map.integrate(gaussians, cleaned, SMALL, np.eye(4))
    assert len(gaussian_map) == rows * columns // 2
    assert (gaussian_map.gaussians().means[:, 0] > -0.02).all()


def test_the_hidden_layer_yields_to_what_is_seen():
    first = some(1, seed=8)
    layers = replace(
        joined(first, first), grid=(2, 1, 1), colors=torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    )
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    take(gaussian_map, layers)
    assert gaussian_map.gaussians().colors[0].tolist() == pytest.approx([10 / 11, 0, 1 / 11])


def test_a_removed_box_disappears_and_what_lies_behind_missing_depth_stays():
    with_box, without_box = wall(2.0, 0.4), wall(2.0, 0.0)
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    for _ in range(10):
        gaussian_map.integrate(with_box[1], with_box[0], QQVGA, FORWARD)
    box = near(gaussian_map, 2.0)
    assert box > 300
    unknown = np.full_like(without_box[0], np.nan)
    empty = without_box[1].select(slice(0, 0))
    for _ in range(10):
        gaussian_map.integrate(empty, unknown, QQVGA, FORWARD)
    assert near(gaussian_map, 2.0) == box
    seen = near(gaussian_map, 4.0)
    for _ in range(4):
        gaussian_map.integrate(without_box[1], without_box[0], QQVGA, FORWARD)
    assert near(gaussian_map, 2.0) == 0
    assert near(gaussian_map, 4.0) > seen


def test_a_box_in_front_does_not_erase_the_wall_behind_it():
    free, blocked = wall(2.0, 0.0), wall(2.0, 0.4)
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    gaussian_map.integrate(free[1], free[0], QQVGA, FORWARD)
    seen = near(gaussian_map, 4.0)
    for _ in range(10):
        gaussian_map.integrate(blocked[1], blocked[0], QQVGA, FORWARD)
    assert near(gaussian_map, 4.0) == seen


def test_an_uncertain_surface_does_not_grow_thick():
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    rng = np.random.default_rng(9)
    sizes = []
    for _ in range(30):
        depth = np.full((120, 160), 2 * math.exp(rng.normal(0, 0.1)), np.float32)
        gaussians = load_predictor('sensor')[0](np.zeros((120, 160, 3), np.uint8), QQVGA, depth)
        uncertain = replace(gaussians, log_depth_std=torch.full((len(gaussians),), 0.1))
        gaussian_map.integrate(uncertain, depth, QQVGA, FORWARD)
        sizes.append(len(gaussian_map))
    assert sizes[-1] < 8 * sizes[0]  # 30 without a rule against it


def test_gaussians_that_make_no_sense_are_passed_over():
    good = some(20, seed=10)
    bad = some(6, seed=11)
    scales, quats = bad.shapes
    bad.means[0, 1] = math.nan
    bad.means[1] *= -1  # behind the camera
    bad.means[2, 2] = 9.0  # beyond max_range
    scales[3, 0] = math.inf
    quats[4] = 0
    bad.opacities[5] = 0
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    take(gaussian_map, joined(bad, good))
    assert_same(gaussian_map.gaussians(), good)


# --- a room -------------------------------------------------------------------------------------


def test_the_map_of_a_room_shows_more_and_truer_views_than_any_frame_of_it():
    room = Room(1)
    predictor, _ = load_predictor('sensor')
    gaussian_map = GaussianMap(GaussianMapConfig(max_range=10.0))
    frames = []
    for t in np.arange(0, 5, 0.5):
        T = room.pose(t)
        image, depth = room.render(QQVGA, T)
        gaussians = predictor(image, QQVGA, depth)
        cleaned = clean_depth(depth_from_gaussians(gaussians, 160, 120), PointCloudConfig())
        gaussian_map.integrate(gaussians, cleaned, QQVGA, T)
        frames.append(gaussians.transformed(T))
    aside = look_at(np.array([0.4, -0.3, 0.2]), np.array([0, 0, 3.0]), np.array([0, -1.0, 0]))
    T = room.pose(4.2) @ aside
    truth = torch.from_numpy(room.render(QQVGA, T)[0] / np.float32(255))

    fused = rasterize(gaussian_map.gaussians(), QQVGA, inverse(T))
    error, covered = ((fused.color - truth) ** 2).mean(-1), fused.alpha > 0.5
    shares = []
    for frame in frames:
        single = rasterize(frame, QQVGA, inverse(T))
        single_error, single_covered = ((single.color - truth) ** 2).mean(-1), single.alpha > 0.5
        assert covered.sum() > single_covered.sum()
        assert error.mean() < single_error.mean()
        both = covered & single_covered
        shares.append(float(error[both].mean() / single_error[both].mean()))
    # and where both show something it is the truer one in most cases, and never worse than 1 dB
    assert np.median(shares) < 1
    assert max(shares) < 10**0.1


# --- bounds -------------------------------------------------------------------------------------


def test_a_full_map_keeps_what_is_nearest_to_the_camera():
    config = GaussianMapConfig(max_gaussians=1000)
    gaussian_map = GaussianMap(config)
    for i in range(8):
        take(gaussian_map, some(400, seed=i), transform(np.eye(3), np.array([3.0 * i, 0, 0])))
        assert len(gaussian_map) <= 1000
    assert len(gaussian_map) >= 900
    x = gaussian_map.gaussians().means[:, 0]
    assert int((x > 19.9).sum()) == 400  # the newest and nearest are complete
    assert float(x.min()) > 13


def test_guesses_make_room_for_what_was_seen():
    gaussian_map = GaussianMap(GaussianMapConfig(max_gaussians=1000))
    take(gaussian_map, some(400, seed=2), transform(np.eye(3), np.array([50.0, 0, 0])))
    hidden = some(900, seed=1)
    front = replace(hidden, opacities=torch.zeros(900))
    take(gaussian_map, replace(joined(front, hidden), grid=(2, 30, 30)))
    assert len(gaussian_map) <= 1000
    assert int((gaussian_map.gaussians().means[:, 0] > 40).sum()) == 400


def held_by(gaussian_map: GaussianMap) -> int:
    members = (*vars(gaussian_map).values(), *vars(gaussian_map._hash).values())
    return sum(a.nbytes for a in members if isinstance(a, np.ndarray))


@pytest.mark.parametrize('rows', [1 << 16, 100_000, (1 << 16) + 1])
def test_a_row_takes_six_tenths_of_what_it_took(rows):
    # Once there were 20 sums, voxel, evidence and two marks, and the Gaussians twice.
    rasterize(driven().blocks(), SMALL)  # compiled before anything is counted
    gc.collect()
    tracemalloc.start()  # knows of NumPy's arrays, too
    gaussian_map = GaussianMap(GaussianMapConfig(max_gaussians=rows, voxel_size=0.03))
    take(gaussian_map, some(900, seed=1))
    assert len(gaussian_map.gaussians()) == 900  # which nobody holds any more
    rasterize(gaussian_map.blocks(), SMALL)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    table = gaussian_map._hash.table.nbytes
    once = table + rows * (8 + 80 + 4 + 1 + 1 + 56 + 56)
    assert held_by(gaussian_map) == table + rows * 117 + gaussian_map.viewpoints.nbytes
    assert held_by(gaussian_map) <= 0.6 * once
    assert kept <= held_by(gaussian_map) + 2**16


def test_memory_and_bounds_hold_over_a_long_drive():
    gaussian_map = GaussianMap(GaussianMapConfig(max_gaussians=2000))
    frames = [some(150, seed) for seed in range(8)]

    def held() -> int:
        return held_by(gaussian_map)

    most = []
    for i in range(2400):
        T = transform(np.eye(3), np.array([0.2 * i, 0.0, 0.0]))
        # every other frame sees through what the last one brought
        take(gaussian_map, frames[i % 8], T, far=100.0 if i % 2 else math.nan)
        assert len(gaussian_map) <= 2000
        if i % 400 == 399:
            gaussian_map.gaussians()
            most.append(held())
    assert most[-1] - most[0] <= 24 * 2000  # positions of the camera, which are bounded, too
    assert len(gaussian_map.viewpoints) <= 2000
    # table and rows agree to the last one: no row is lost and none is held twice
    table, voxels = gaussian_map._hash.table, gaussian_map._hash.voxels
    assert sorted(table[table >= 0]) == list(range(len(gaussian_map)))
    assert len(np.unique(voxels[: len(gaussian_map)])) == len(gaussian_map)


def test_reset_forgets_everything():
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    take(gaussian_map, some(100, seed=1))
    gaussian_map.reset()
    assert len(gaussian_map) == len(gaussian_map.gaussians()) == len(gaussian_map.viewpoints) == 0
    take(gaussian_map, some(100, seed=2))
    assert_same(gaussian_map.gaussians(), some(100, seed=2))


def test_what_was_exported_is_not_changed_by_later_frames():
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    take(gaussian_map, some(100, seed=1))
    first = gaussian_map.gaussians()
    assert gaussian_map.gaussians() is first
    before = first.means.clone()
    take(gaussian_map, some(100, seed=2))
    assert torch.equal(first.means, before)
    assert len(gaussian_map.gaussians()) > 100


# --- viewpoints -------------------------------------------------------------------


def test_a_stored_map_that_no_camera_has_seen_is_refused():
    gaussian_map = GaussianMap(GaussianMapConfig())
    empty = gaussian_map.state()
    take(gaussian_map, some(10))
    state = gaussian_map.state()
    with pytest.raises(InputError, match='viewpoint') as caught:
        gaussian_map.restore({**state, 'viewpoints': np.zeros((0, 3))})
    assert caught.value.reason == 'bad_map'
    gaussian_map.restore(state)
    assert len(gaussian_map) == 10
    gaussian_map.restore(empty)
    assert not len(gaussian_map)


def test_viewpoints_are_where_cameras_stood():
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    for x in (0.0, 0.05, 0.5, 0.5, 1.0):
        take(gaussian_map, some(1), transform(np.eye(3), np.array([x, 2.0, 0])))
    assert gaussian_map.viewpoints.tolist() == [[0, 2, 0], [0.5, 2, 0], [1, 2, 0]]


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'pose', [np.full((4, 4), np.nan), 2 * np.eye(4), np.diag([1.0, 1, -1, 1]), np.eye(3)]
)
def test_a_pose_that_is_none_is_refused(pose):
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    with pytest.raises(InputError) as error:
        take(gaussian_map, some(5), pose)
    assert error.value.reason == 'bad_pose'
    assert len(gaussian_map) == 0


def test_points_and_depth_of_another_size_are_refused_and_no_gaussians_are_fine():
    gaussian_map = GaussianMap(GaussianMapConfig(voxel_size=0.03))
    with pytest.raises(InputError) as error:
        take(gaussian_map, replace(some(5), quats=None, scales=None))
    assert error.value.reason == 'no_shapes'
    with pytest.raises(InputError) as error:
        gaussian_map.integrate(some(5), np.ones((6, 8), np.float32), SMALL, np.eye(4))
    assert error.value.reason == 'size_mismatch'
    take(gaussian_map, some(5).select(slice(0, 0)))
    assert len(gaussian_map) == len(gaussian_map.gaussians()) == 0
