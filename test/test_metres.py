"""Heads that correct metres and shape of frozen weights: what they look at, learn, and state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from seeded_nano import unsettled_network
import torch

from sharp_ros.apps.cli import main
from sharp_ros.camera import FloorGeometry
from sharp_ros.errors import CheckpointError, ConfigError, InputError
from sharp_ros.evaluation.depth_sets import looking
from sharp_ros.exchange.onnx_export import export_nano
from sharp_ros.models import WEIGHTS_FOLDER
from sharp_ros.network import shape
from sharp_ros.network.cells import between_cells, cell_means
from sharp_ros.network.metres import GRID, Metres
from sharp_ros.network.nano import fold_batch_norms, LAYOUTS, load_weights, save_weights
from sharp_ros.network.nano_arrays import CHANNELS, METRES, NanoArrays
from sharp_ros.network.predictor import NanoPredictor
from sharp_ros.network.sessions import OnnxSession
from sharp_ros.self_check import check_image, difference, TOLERANCE
from sharp_ros.training import metres
from sharp_ros.training.metres import (
    fit,
    fit_shape,
    Looked,
    said,
    shaped,
    train_metres,
    unevenness,
    with_metres,
)
from sharp_ros.training.settings import to_yaml, TrainingConfig

pytestmark = pytest.mark.usefixtures('one_thread')

GIVEN = {'name': 'nano', 'version': '9', 'licence': 'Apache-2.0'}


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network without such heads."""
    path = tmp_path_factory.mktemp('weights') / 'nano.safetensors'
    save_weights(unsettled_network(), path, GIVEN)
    return path


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of noise before walls at two metres."""
    folder, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    for name in 'abc':
        rgb = rng.integers(0, 255, (6, 48, 64, 3)).astype(np.uint8)
        depth = np.full((6, 48, 64), 2.0, np.float16)
        depth[:, :4] = (0, np.inf, np.nan, 2.0)[' abc'.index(name)]
        np.savez(folder / f'{name}.npz', rgb=rgb, d=depth, d2=depth, f=np.full(6, 50, np.float32))
    return folder


def config(data: Path, weights: Path, out: Path) -> TrainingConfig:
    return TrainingConfig(
        data=(str(data),),
        init=str(weights),
        out=str(out),
        held_out=1,
        metres_crops=30,
        threads=2,
        version='10',
    )


# --- the heads -------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(6, 8), (7, 9), (3, 4), (2, 3), (60, 80)])
def test_cell_means_are_those_of_the_area_of_a_cell(size: tuple[int, int]) -> None:
    planes = torch.rand(2, 5, *size, dtype=torch.float64)
    found = cell_means(planes, GRID)
    fine = planes.repeat_interleave(GRID[0], 2).repeat_interleave(GRID[1], 3)
    parts = fine.reshape(2, 5, GRID[0], size[0], GRID[1], size[1])
    torch.testing.assert_close(found, parts.mean((3, 5)))


@pytest.mark.parametrize('size', [(192, 256), (45, 64), (3, 4), (2, 3)])
def test_between_cells_values_are_bilinear(size: tuple[int, int]) -> None:
    cells = torch.rand(2, 5, *GRID, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(cells, size=size, mode='bilinear')
    found = between_cells(cells, torch.empty(1, 3, *size))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_between_cells_values_keep_their_precision_where_products_are_coarser() -> None:
    cells = torch.rand(2, 1, *GRID)
    like = torch.empty(1, 3, 45, 64)
    with torch.autocast('cpu', torch.bfloat16):
        found = between_cells(cells, like)
    torch.testing.assert_close(found, between_cells(cells, like), atol=1e-6, rtol=0)


@pytest.mark.parametrize('size', [(6, 8), (45, 64), (192, 256)])
def test_the_head_for_the_metres_sees_means_of_its_own_coarser_cells(
    size: tuple[int, int],
) -> None:
    planes, tokens = torch.rand(2, 9, *size), torch.rand(2, 8, 6, 8)
    zoom = torch.rand(2, 1, 1)
    found = Metres(8, 5).gather(tokens, cell_means(planes, shape.GRID), zoom, None)
    expected = [cell_means(x, GRID).flatten(1) for x in (tokens, planes)]
    expected += [zoom[:, 0], torch.zeros(2, 5)]
    torch.testing.assert_close(found, torch.cat(expected, 1))


def test_shape_has_no_say_in_the_metres_and_no_end_of_say_in_itself() -> None:
    head = shape.Shape()
    torch.nn.init.normal_(head.out.weight, std=30)
    cells = 20 * torch.randn(3, shape.SURFACES + shape.RAYS + 1, *shape.GRID)
    with torch.inference_mode():
        factors = head(cells)
    torch.testing.assert_close(factors.mean((1, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    assert 0.5 * shape.MOST < factors.abs().max() <= 2 * shape.MOST


def test_shape_is_judged_by_depth_beside_its_mean() -> None:
    cells = torch.rand(2, 9, *shape.GRID)
    metres = torch.rand(2, 1, *shape.GRID)
    seen = shape.looking(cells, metres)
    corrected = cells[:, 0] + metres[:, 0]
    torch.testing.assert_close(seen[:, 0] + seen[:, -1], corrected)
    torch.testing.assert_close(seen[:, -1, 0, 0], corrected.mean((1, 2)))
    assert torch.equal(seen[:, 1:-1], cells[:, 1 : shape.SURFACES + shape.RAYS])


def test_untrained_heads_change_nothing_and_are_sure_of_nothing() -> None:
    network = fold_batch_norms(unsettled_network())
    rgb, k = torch.rand(2, 3, 64, 96), torch.tensor([[60.0, 60.0, 48.0, 32.0]] * 2)
    with torch.inference_mode():
        before = network(rgb, k)
        after = with_metres(network)(rgb, k)
    assert network.layout == LAYOUTS[3]
    assert before.shape[1] == CHANNELS
    assert torch.equal(after[:, :CHANNELS], before)
    assert (after[:, METRES] == 0).all()


def test_both_surfaces_move_together_and_all_else_stays() -> None:
    network = fold_batch_norms(unsettled_network())
    rgb, k = torch.rand(1, 3, 64, 96), torch.tensor([[60.0, 60.0, 48.0, 32.0]])
    with torch.inference_mode():
        before = network(rgb, k)[0]
        head = with_metres(network).metres
        assert head is not None
        head.out.bias[:4] = 0.5  # the uppermost row of cells
        head.out.bias[-1] = np.log(0.3)
        after = network(rgb, k)[0]
    moved = after[:2] - before[:2]
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[:, 0], torch.full_like(moved[:, 0], 0.5), rtol=0, atol=1e-5)
    assert moved[:, -1].abs().max() < 1e-5
    torch.testing.assert_close(after[2:CHANNELS], before[2:], rtol=0, atol=0)
    torch.testing.assert_close(after[METRES].exp(), torch.full((64, 96), 0.3))


def test_weights_of_the_first_layout_cannot_have_one() -> None:
    with pytest.raises(CheckpointError, match='newer'):
        with_metres(unsettled_network(LAYOUTS[1]))


@pytest.mark.parametrize('size', [(32, 400), (400, 32), (45, 64)])
def test_the_shipped_shape_bends_and_never_tears(size: tuple[int, int]) -> None:
    """Whatever there is to see, through whatever lens."""
    network = load_weights(WEIGHTS_FOLDER / 'nano.safetensors')
    black, noise = torch.zeros(3, *size), torch.rand(3, *size)
    rgb = torch.stack([black, 1 - black, noise]).repeat(3, 1, 1, 1)
    focal = torch.tensor([0.1, 1.0, 1000.0]).repeat_interleave(3) * size[1]
    k = torch.stack([focal, focal, *(torch.full((9,), side / 2) for side in reversed(size))], 1)
    with torch.inference_mode():
        bent = network(rgb, k)
        network.shape = shape.Shape()
        moved = bent[:, :2] - network(rgb, k)[:, :2]
    assert torch.isfinite(bent).all()
    assert 0.02 < moved.abs().max() <= 2 * shape.MOST
    for axis, side, cells in zip((2, 3), size, shape.GRID, strict=True):
        assert moved.diff(dim=axis).abs().max() < 2 * shape.MOST * cells / side + 1e-4


# --- wherever it runs ------------------------------------------------------------------------


@pytest.mark.parametrize('floor', [None, FloorGeometry(np.array([0.1, -0.9, -0.3]), 1.2)])
def test_file_onnx_and_arrays_say_the_same(tmp_path: Path, floor: FloorGeometry | None) -> None:
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    network = with_metres(fold_batch_norms(unsettled_network()))
    assert network.metres is not None
    assert network.shape is not None
    torch.nn.init.normal_(network.metres.out.weight, std=0.1)
    torch.nn.init.normal_(network.shape.out.weight, std=0.1)
    save_weights(network, tmp_path / 'nano.safetensors', GIVEN)
    plain = NanoPredictor(load_weights(tmp_path / 'nano.safetensors'))
    export_nano(plain, tmp_path / 'nano.onnx', {})
    fast = NanoArrays(OnnxSession(tmp_path / 'nano.onnx'))
    image, camera = check_image()
    image, camera = image[:400], camera.cropped(0, 0, 640, 400)
    with torch.inference_mode():
        expected = plain.gaussians(plain.forward(*plain.inputs(image, camera, floor)), camera)
    found = fast.gaussians(fast.forward(*fast.inputs(image, camera, floor)), camera)
    torch.testing.assert_close(found.means, expected.means, rtol=2e-3, atol=2e-3)
    assert expected.log_scale_std != 1.0
    assert found.log_scale_std == pytest.approx(expected.log_scale_std, rel=1e-3)
    assert found.scaled(2.0).log_scale_std == found.log_scale_std


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_it_runs_in_every_precision_of_a_gpu(dtype: torch.dtype) -> None:
    exact, fast = (NanoPredictor(load_weights(WEIGHTS_FOLDER / 'nano.safetensors')) for _ in '12')
    fast.cast(dtype)
    image, camera = check_image()
    with torch.inference_mode():
        outputs = [p.forward(*p.inputs(image, camera)) for p in (exact, fast)]
    truth, found = (exact.gaussians(output, camera).log_scale_std for output in outputs)
    assert found == pytest.approx(truth, rel=0.05)
    compared = [exact.comparable(output) for output in outputs]
    assert difference(compared[1], compared[0]) < TOLERANCE


def test_evaluation_counts_what_is_stated_of_the_metres() -> None:
    from types import SimpleNamespace

    from sharp_ros.camera import Frame

    network = with_metres(fold_batch_norms(unsettled_network()))
    predictor = NanoPredictor(network)
    image, camera = check_image()

    def predict(image, intrinsics, depth, covariances):
        outputs = predictor.forward(*predictor.inputs(image, intrinsics, None))
        return predictor.gaussians(outputs, intrinsics, covariances=covariances)

    def stated() -> float:
        with torch.inference_mode():
            seen = looking(SimpleNamespace(predict=predict))(Frame(image, camera, 0, ''))
        assert seen.log_std is not None
        return float(np.median(seen.log_std))

    assert network.metres is not None
    network.metres.out.bias.data[-1] = np.log(0.03)
    narrow = stated()
    network.metres.out.bias.data[-1] = np.log(1.5)
    assert stated() == pytest.approx(np.hypot(narrow, 1.5), rel=0.01)


# --- learning --------------------------------------------------------------------------------


def test_fit_learns_factor_cells_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metres, 'STEPS', 1000)
    rng = np.random.default_rng(0)
    head = Metres(4, 1)
    assert head.features == 4 * 12 + head.others

    def draw(count: int) -> Looked:
        features = rng.normal(size=(count, head.features)).astype(np.float16)
        features[:, -2] *= 4
        factor = 0.5 * features[:, 3] - 0.4 * features[:, -1]
        uncertain = np.where(features[:, -2] > 0, 0.6, 0.02)
        whole = factor + uncertain * rng.laplace(size=count)
        cells = whole[:, None] + np.linspace(-0.3, 0.3, 12) * features[:, 5:6]
        wrong = np.concatenate([whole[:, None], cells], 1).astype(np.float32)
        wrong[: count // 20] = np.nan  # nothing is known of these
        wrong[-count // 4 :, 1:7] = np.nan  # or of some of their cells
        return Looked(features, wrong, *no_shape(count))

    fit(head, draw(4000), 0)
    new = draw(2000)
    known = np.isfinite(new.wrong[:, 0])
    factor, std = said(head, new)
    off, sure = new.wrong[:, 0] - factor, new.features[:, -2] < 0
    assert np.median(np.abs(off[known & sure])) < 0.25 * np.median(np.abs(new.wrong[known, 0]))
    assert std[~sure].mean() > 1.5 * std[sure].mean()
    assert (np.abs(off[known]) <= 2 * std[known]).mean() > 0.85
    with torch.inference_mode():
        cells = head(torch.from_numpy(new.features.astype(np.float32)))[0].reshape(-1, 12).numpy()
    spread = new.features[:, 5:6] * np.linspace(-0.3, 0.3, 12)
    assert np.corrcoef((cells - factor[:, None]).ravel(), spread.ravel())[0, 1] > 0.95


def no_shape(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((count, 5, *shape.GRID), np.float16), np.zeros((count, *shape.GRID), 'f4')


def test_fit_shape_learns_what_the_metres_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metres, 'SHAPE_STEPS', 200)
    rng = np.random.default_rng(0)
    head, bent = Metres(4, 5), shape.Shape()
    with torch.no_grad():
        head.out.bias[:4] = 0.3  # of the uppermost cells: is not to be learnt again

    def draw(count: int) -> Looked:
        cells = rng.normal(size=(count, 9, *shape.GRID)).astype(np.float16)
        cells[:, 1:4] = 7.0  # which never change, as where a network knows no sky
        cells[:, 4] = np.linspace(-1, 1, shape.GRID[1])
        depth = cells[:, 0].astype(np.float32)
        uneven = 0.1 * (depth - depth.mean((1, 2), keepdims=True)) + rng.normal(size=(count, 1, 1))
        uneven[:, :2] += 0.3
        uneven[: count // 20] = np.nan  # nothing is known of these
        uneven[-count // 4 :, :4] = np.nan  # or of many of their cells
        wrong = np.full((count, 13), np.nan, np.float32)
        wrong[:, 0] = uneven.mean((1, 2)) + np.where(np.arange(count) < count // 20, np.nan, 0)
        wrong[-count // 4 :, 0] = 0.0
        features = np.zeros((count, head.features), np.float16)
        return Looked(features, wrong, cells, uneven.astype(np.float32))

    fit_shape(bent, head, draw(1500), 0)
    new = draw(500)
    before = unevenness(new.uneven)
    assert unevenness(new.uneven - shaped(bent, head, new)) < 0.35 * before
    mirrored = new._replace(cells=np.ascontiguousarray(new.cells[..., ::-1]))
    mirrored.cells[:, 4] *= -1
    turned = shaped(bent, head, mirrored)[..., ::-1]
    assert np.abs(turned - shaped(bent, head, new)).mean() < 0.25 * before
    # what a file holds of it says the same, whatever there is that never changes
    half = {name: tensor.half() for name, tensor in bent.state_dict().items()}
    exact = shaped(bent, head, new)
    bent.load_state_dict(half)
    assert np.abs(shaped(bent, head, new) - exact).max() < 0.005


def test_a_head_for_the_shape_is_learnt_from_few_cells_and_always_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metres, 'SHAPE_STEPS', 3)
    rng = np.random.default_rng(0)
    head, bents = Metres(4, 5), [shape.Shape() for _ in range(2)]
    uneven = np.full((6, *shape.GRID), np.nan, np.float32)
    uneven[:3, 0, :2] = rng.normal(size=(3, 2))  # two cells of half of the crops are known
    uneven[3, 0, 0] = 1.0  # which says nothing of a shape
    wrong = np.full((6, 13), np.nan, np.float32)
    wrong[:4, 0] = 0.0
    cells = rng.normal(size=(6, 9, *shape.GRID)).astype(np.float16)
    looked = Looked(np.zeros((6, head.features), np.float16), wrong, cells, uneven)
    for bent in bents:
        torch.rand(1)  # whatever was drawn before
        fit_shape(bent, head, looked, 0)
    first, second = (bent.state_dict() for bent in bents)
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    assert all(torch.isfinite(tensor).all() for tensor in first.values())
    assert first['out.weight'].abs().max() > 0
    fit_shape(bents[0], head, looked, 1)
    assert not torch.equal(bents[0].seen.weight, second['seen.weight'])


def test_training_moves_metres_and_shape_and_nothing_else(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metres, 'CHUNK', 12)
    monkeypatch.setattr(metres, 'STEPS', 300)
    monkeypatch.setattr(metres, 'SHAPE_STEPS', 50)
    shares: list[float] = []
    errors = train_metres(config(data, weights, tmp_path / 'run'), shares.append)
    assert shares == [0.4, 0.8, 1.0]
    assert errors['after'] < 0.3 * errors['before']
    before, after = load_weights(weights), load_weights(tmp_path / 'run' / 'nano.safetensors')
    assert after.layout == LAYOUTS[3]
    taught = after.state_dict()
    for name, tensor in before.state_dict().items():
        assert torch.equal(taught[name], tensor), name
    rgb, k = torch.rand(1, 3, 96, 128), torch.tensor([[100.0, 100.0, 64.0, 48.0]])
    with torch.inference_mode():
        old, new = before(rgb, k)[0], after(rgb, k)[0]
    truth = np.log(2.0)
    assert (new[0] - truth).abs().median() < 0.3 * (old[0] - truth).abs().median()


def test_a_stopped_run_goes_on_to_the_same_weights(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metres, 'CHUNK', 12)
    monkeypatch.setattr(metres, 'STEPS', 5)
    monkeypatch.setattr(metres, 'SHAPE_STEPS', 5)
    whole, part = (config(data, weights, tmp_path / name) for name in ('whole', 'part'))
    train_metres(whole)
    shares: list[float] = []
    assert train_metres(part, shares.append, lambda: bool(shares)) == {}
    assert not (tmp_path / 'part' / 'nano.safetensors').exists()
    with monkeypatch.context() as patch:
        looked: list[int] = []
        look = metres.looked_at
        patch.setattr(metres, 'looked_at', lambda *a: looked.append(a[2]) or look(*a))
        assert train_metres(part)
    assert looked == [6, 12, 6]  # held-out ones, and what was not there
    states = [
        load_weights(tmp_path / name / 'nano.safetensors').state_dict()
        for name in ('whole', 'part')
    ]
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
    file = tmp_path / 'part' / 'metres_0000.npz'
    with np.load(file) as stored:
        older = {name: stored[name] for name in stored.files if name != 'cells'}
    np.savez(file, **older)  # as before there was a head for the shape
    with pytest.raises(CheckpointError, match=r'metres_0000.*another version.*cells.*--out'):
        train_metres(part)
    file.write_bytes(b'PK')
    with pytest.raises(CheckpointError, match='metres_0000'):
        train_metres(part)


def test_files_of_a_run_serve_no_other_one(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metres, 'CHUNK', 4)
    monkeypatch.setattr(metres, 'fit', lambda *a: None)
    monkeypatch.setattr(metres, 'fit_shape', lambda *a: None)
    first = replace(config(data, weights, tmp_path / 'run'), metres_crops=6)
    train_metres(first)
    train_metres(replace(first, init=str(tmp_path / 'run' / 'nano.safetensors')))  # the same trunk
    other = unsettled_network()
    torch.nn.init.constant_(other.tokens.weight, 0.01)
    save_weights(other, tmp_path / 'other.safetensors', GIVEN)
    for changed, file in (
        ({'init': str(tmp_path / 'other.safetensors')}, 'metres_0000'),
        ({'seed': 1}, 'metres_0000'),
        ({'metres_crops': 8}, 'metres_0001'),  # of which there were 2
    ):
        with pytest.raises(CheckpointError, match=f'{file}.*--out'):
            train_metres(replace(first, **changed))


@pytest.mark.parametrize('known', ['abc', 'a', 'c'])
def test_images_without_depth_count_for_nothing(
    known: str, data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metres, 'fit', lambda *a: None)
    monkeypatch.setattr(metres, 'fit_shape', lambda *a: None)
    folder = tmp_path / 'data'
    folder.mkdir()
    for name in 'abc':
        with np.load(data / f'{name}.npz') as stored:
            arrays = dict(stored)
        arrays['d'][0 if name in known else None :: 1 if name not in known else 2] = 0
        np.savez(folder / f'{name}.npz', **arrays)
    run = replace(config(folder, weights, tmp_path / 'run'), metres_crops=8)
    if known == 'abc':  # every second image of each
        assert all(np.isfinite(value) for value in train_metres(run).values())
    else:
        with pytest.raises(InputError, match='depth enough'):
            train_metres(run)


def test_command_says_what_it_needs_and_what_came_of_it(
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(metres, 'STEPS', 5)
    monkeypatch.setattr(metres, 'SHAPE_STEPS', 5)
    settings = tmp_path / 'settings.yaml'
    settings.write_text(to_yaml(config(data, weights, tmp_path / 'run')))
    assert main(['train', str(settings), '--metres']) == 0
    said = capsys.readouterr()
    assert '"within_2std"' in said.out
    assert str(tmp_path / 'run' / 'nano.safetensors') in said.out
    assert '100% of 30 crops' in said.err
    assert main(['train', str(settings), '--metres', '--init', 'imagenet']) != 0
    assert '--init' in capsys.readouterr().err
    with pytest.raises(ConfigError, match='--init'):
        train_metres(TrainingConfig(data=(str(data),), out=str(tmp_path / 'other')))
