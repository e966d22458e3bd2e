"""The SHARP network against tensors of the reference implementation, and its camera geometry.

Weights are pseudo-random numbers seeded by the name of the tensor, so that no checkpoint is needed
and every tensor of every stage can be compared; `golden_sharp` says
what their names mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import json
import math
import os
from pathlib import Path
import pickle
import re

from golden_sharp import (
    DATA,
    DEFAULT,
    golden,
    keys_of,
    OUTPUTS,
    Run,
    run,
    SEED,
    tiny_run,
    worst,
)
import numpy as np
import pytest
import torch
from torch import nn, Tensor
from torch.nn import functional as F

from sharp_ros import models, se3
from sharp_ros.camera import Intrinsics, project
from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.gaussians import rotations_from_quats
from sharp_ros.models import load_predictor
from sharp_ros.network import backbone, sharp
from sharp_ros.network.backbone import merge, split
from sharp_ros.network.composer import (
    NdcGaussians,
)
from sharp_ros.network.predictor import SharpPredictor, square_image
from sharp_ros.network.seeded import fill_value, filled_network, seeded_image
from sharp_ros.network.sharp import (
    load_checkpoint,
    SharpNetwork,
    SharpNetworkConfig,
    TINY,
    TINY_OVERLAP,
)
from sharp_ros.network.unprojection import unproject

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def tiny() -> Run:
    return tiny_run(filled_network(TINY))


@pytest.fixture(scope='module')
def overlap() -> Run:
    return run(filled_network(TINY_OVERLAP), seeded_image(1536, SEED)[None], torch.tensor([0.8]))


@pytest.mark.parametrize('key', keys_of('golden_tiny'))
def test_every_stage_agrees_with_the_reference(tiny: Run, key: str) -> None:
    assert worst(tiny, 'golden_tiny', [key], golden('golden_tiny')) < 1


@pytest.mark.parametrize('key', keys_of('golden_tiny_overlap'))
def test_overlapping_windows_agree_with_the_reference(overlap: Run, key: str) -> None:
    assert worst(overlap, 'golden_tiny_overlap', [key], golden('golden_tiny_overlap')) < 1


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get('SHARP_FULL') != '1',
    reason='full size takes minutes and 10 GB of memory; set SHARP_FULL=1',
)
def test_the_released_size_agrees_with_the_reference() -> None:
    full = run(
        filled_network(SharpNetworkConfig()),
        seeded_image(1536, SEED)[None],
        torch.tensor([0.8]),
    )
    expected, keys = golden('golden_full'), keys_of('golden_full')
    errors = {key: worst(full, 'golden_full', [key], expected) for key in keys}
    assert max(errors.values()) < 1, {k: e for k, e in errors.items() if e >= 1}


# --- the comparison notices what it must --------------------------------------------------------


def set_eps(kind: type[nn.Module], eps: float) -> Callable[[SharpNetwork], None]:
    def mutate(network: SharpNetwork) -> None:
        for module in network.modules():
            if isinstance(module, kind):
                module.eps = eps

    return mutate


def approximate_gelu(network: SharpNetwork) -> None:
    for module in network.modules():
        if isinstance(module, nn.GELU):
            module.approximate = 'tanh'


def swap_coarse_halves(network: SharpNetwork) -> None:
    fuse = network.monodepth_model['monodepth_predictor'].encoder.fuse_lowres
    fuse.weight = nn.Parameter(torch.cat(fuse.weight.chunk(2, 1)[::-1], 1), requires_grad=False)


def upsample_after_projection(network: SharpNetwork) -> None:
    for fusion in network.feature_model.decoder.fusions:
        fusion.deconv, fusion.out_conv = fusion.out_conv, fusion.deconv


@pytest.mark.parametrize(
    'mutate',
    [
        set_eps(nn.LayerNorm, 1e-5),
        set_eps(nn.GroupNorm, 1e-6),
        approximate_gelu,
        swap_coarse_halves,
        upsample_after_projection,
    ],
    ids=['layer_norm_eps', 'group_norm_eps', 'tanh_gelu', 'swapped_concat', 'deconv_last'],
)
def test_typical_mistakes_would_be_seen(mutate: Callable[[SharpNetwork], None]) -> None:
    network = filled_network(TINY)
    mutate(network)
    keys = ['encoder.4', 'disparity', 'delta']
    assert worst(tiny_run(network), 'golden_tiny', keys, golden('golden_tiny')) > 1.5


@pytest.mark.parametrize('wrong', [{'align_corners': True}, {'antialias': True}])
def test_another_pyramid_would_be_seen(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, bool]
) -> None:
    network, resize = filled_network(TINY), F.interpolate
    monkeypatch.setattr(backbone.F, 'interpolate', lambda x, **how: resize(x, **{**how, **wrong}))
    keys = ['encoder.4', 'disparity']
    assert worst(tiny_run(network), 'golden_tiny', keys, golden('golden_tiny')) > 100


# --- the network --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('config', 'file', 'parameters'),
    [(SharpNetworkConfig(), 'state_dict', 702_305_169), (TINY, 'state_dict_tiny', 1_152_243)],
)
def test_tensors_have_the_names_order_and_shapes_of_the_checkpoint(
    config: SharpNetworkConfig, file: str, parameters: int
) -> None:
    with torch.device('meta'):
        state = SharpNetwork(config).state_dict()
    expected = json.loads((DATA / f'{file}.json').read_text())['tensors']
    assert [(key, list(t.shape)) for key, t in state.items()] == list(expected.items())
    assert sum(t.numel() for t in state.values()) == parameters


def test_the_rule_for_weights_gives_the_published_numbers() -> None:
    key = 'monodepth_model.monodepth_predictor.encoder.upsample_latent0.1.weight'
    value = fill_value(key, torch.Size([20, 24, 2, 2]))
    np.testing.assert_allclose(value.flatten()[:3], [0.1471260, -0.2595090, -0.3231726], atol=1e-7)
    assert value.double().sum().item() == pytest.approx(-3.843257, abs=1e-6)


def test_the_number_of_windows_at_a_time_changes_nothing(tiny: Run) -> None:
    with torch.inference_mode():
        out = tiny.network(tiny.image, tiny.factor, patch_batch=5)
    for name in OUTPUTS.values():
        torch.testing.assert_close(getattr(out, name), getattr(tiny.out, name), atol=1e-5, rtol=0)


def test_known_depth_scales_the_prediction(tiny: Run) -> None:
    expected = golden('golden_tiny')
    values = np.random.Generator(np.random.PCG64(777)).random((2, 1, 192, 192))
    maps: list[Tensor] = []
    hook = tiny.network.depth_alignment.scale_map_estimator.register_forward_hook(
        lambda module, inputs, out: maps.append(out)
    )
    with torch.inference_mode():
        depth = torch.from_numpy((1 + 9 * values).astype(np.float32))
        out = tiny.network(tiny.image, tiny.factor, depth)
    hook.remove()
    # the map is an exponential that reaches 30
    np.testing.assert_allclose(maps[0][0, :, ::3, ::3], expected['align.map_s3'], rtol=3e-5)
    means = expected['align.out_mean_vectors_s16']
    np.testing.assert_allclose(out.means[0, ::16], means, rtol=0, atol=DEFAULT)


def test_an_untrained_network_gives_the_base_gaussians() -> None:
    torch.manual_seed(0)
    network = SharpNetwork(TINY).eval()
    image = torch.rand(1, 3, 192, 192)
    result = run(network, image, torch.tensor([1.0]))
    cells = result.base.inverse_depth[0].flatten()
    z = result.out.means[0, :, 2] / result.base.global_scale
    torch.testing.assert_close(1 / z, cells + 1e-3, atol=1e-6, rtol=1e-5)
    assert torch.all(result.out.opacities == 0.5)
    torch.testing.assert_close(
        result.out.scales[0] / result.out.means[0, :, 2:],
        torch.full((len(cells), 3), result.base.cell),
        atol=0,
        rtol=1e-6,
    )


def test_gradients_reach_every_weight_that_runs() -> None:
    torch.manual_seed(0)
    network = SharpNetwork(TINY)
    nn.init.normal_(network.prediction_head.geometry_prediction_head.weight, std=0.1)
    nn.init.normal_(network.prediction_head.texture_prediction_head.weight, std=0.1)
    out = network(torch.rand(1, 3, 192, 192), torch.tensor([1.0]), torch.ones(1, 1, 192, 192))
    sum(getattr(out, name).square().sum() for name in OUTPUTS.values()).backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None}
    assert all(re.search(r'r\.head\.(weight|bias)$|fusions\.4\.resnet1\.', n) for n in idle), idle
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ('image', 'factor'),
    [((1, 3, 96, 192), (1,)), ((1, 1, 192, 192), (1,)), ((2, 3, 192, 192), (1,))],
)
def test_wrong_shapes_are_refused(
    tiny: Run, image: tuple[int, ...], factor: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match='must be'):
        tiny.network(torch.zeros(image), torch.ones(factor))


@pytest.mark.parametrize(
    ('side', 'window', 'overlap'), [(64, 16, 0.25), (32, 16, 0.5), (64, 16, 0)]
)
def test_merging_what_was_split_gives_the_whole(side: int, window: int, overlap: float) -> None:
    image = torch.rand(2, 3, side, side)
    torch.testing.assert_close(merge(split(image, window, overlap), 2, overlap), image)


# --- from the space of the image to the camera --------------------------------------------------


def test_photographs_are_squeezed_as_the_reference_does() -> None:
    expected = golden('golden_tiny')
    pixels = np.random.Generator(np.random.PCG64(555)).integers(
        0, 256, (480, 640, 3), dtype=np.uint8
    )
    square = square_image(torch.from_numpy(pixels), 1536)[0]
    assert square.double().sum().item() == pytest.approx(
        float(expected['pre.image_sum']), rel=1e-9
    )
    np.testing.assert_allclose(square[:, ::97, ::97], expected['pre.image_s97'], atol=1e-6)


def test_gaussians_of_a_photograph_agree_with_the_reference() -> None:
    expected = golden('golden_tiny')
    fields = {ours: torch.from_numpy(expected[f'out.{n}'])[None] for n, ours in OUTPUTS.items()}
    width, height, focal = (float(v) for v in expected['post.W_H_fpx'])
    k = Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, int(width), int(height))
    gaussians = unproject(NdcGaussians(**fields, grid=(2, 96, 96)), k)
    assert gaussians.grid == (2, 96, 96)

    def close(actual: Tensor, name: str, atol: float, rtol: float = 0.0) -> None:
        np.testing.assert_allclose(actual[::8], expected[f'post.{name}_s8'], rtol, atol)

    close(gaussians.means, 'mean_vectors', 1e-6)
    # the reference squares them in float32, which costs thin ones digits
    close(gaussians.scales, 'singular_values', 3e-7, 1e-4)
    axes = rotations_from_quats(gaussians.quats) * gaussians.scales[:, None]
    covariances = axes @ axes.mT
    close(covariances, 'covariances', 3e-9)
    # where two axes are about as long, any pair of directions is as good; q and -q are the same,
    # and so is a rotation whose axes point the other way
    scales, quats = expected['post.singular_values_s8'], expected['post.quaternions_s8']
    distinct = (scales[:, 1:] < 0.95 * scales[:, :-1]).all(1)
    assert distinct.mean() > 0.7
    ours, theirs = (
        se3.matrix_from_quat(q[distinct]) for q in (gaussians.quats[::8].numpy(), quats)
    )
    cosines = np.abs((ours * theirs).sum(1))  # of corresponding axes
    assert cosines.min() > 1 - 1e-5


# --- the predictor and its checkpoint -----------------------------------------------------------


def test_predictor_turns_a_photograph_into_metric_gaussians(tiny: Run) -> None:
    k = Intrinsics(150.0, 140.0, 70.0, 62.0, 160, 120)
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    image.flags.writeable = False
    predictor = SharpPredictor(tiny.network)
    gaussians = predictor(image, k)
    assert gaussians.grid == (2, 96, 96)
    pixels = project(gaussians.layer(0).means.numpy(), k).reshape(96, 96, 2)
    centres = (np.arange(96) + 0.5) / 96
    # corrections move a Gaussian by thousandths of the image
    assert np.abs(pixels[..., 0] - (centres * 160 - 0.5)).max() < 5
    assert np.abs(pixels[..., 1] - (centres * 120 - 0.5)[:, None]).max() < 5
    # depth follows the horizontal focal length; the vertical one narrows the scene alone
    longer, taller = (
        predictor(image, replace(k, **change)) for change in ({'fx': 300.0}, {'fy': 280.0})
    )
    torch.testing.assert_close(longer.means[:, 2], 2 * gaussians.means[:, 2])
    torch.testing.assert_close(taller.means[:, 2], gaussians.means[:, 2])
    torch.testing.assert_close(taller.means[:, 1], gaussians.means[:, 1] / 2)


@pytest.fixture
def checkpoint(tiny: Run, tmp_path: Path) -> Path:
    path = tmp_path / 'tiny.pt'
    torch.save(tiny.network.state_dict(), path)
    return path


@pytest.mark.parametrize('zipped', [True, False])
def test_weights_survive_the_file(tiny: Run, tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / 'tiny.pt'
    torch.save(tiny.network.state_dict(), path, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(path, TINY)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    with torch.inference_mode():
        out = loaded(tiny.image, tiny.factor)
    assert torch.equal(out.means, tiny.out.means)


@pytest.mark.parametrize('share', [0, 0.001, 0.5, 0.999])
def test_truncated_checkpoints_are_refused(checkpoint: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match='damaged'):
        load_checkpoint(checkpoint, TINY)


class _Bomb:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_that_brings_code_is_refused_without_running_it(
    tmp_path: Path, zipped: bool
) -> None:
    path, witness = tmp_path / 'evil.pt', tmp_path / 'ran'
    if zipped:
        torch.save({'weight': _Bomb(witness)}, path)
    else:
        path.write_bytes(pickle.dumps(_Bomb(witness), protocol=2))
    with pytest.raises(CheckpointError):
        load_checkpoint(path, TINY)
    assert not witness.exists()
    if zipped:  # the test can fail: unpickling in full would have run it
        torch.load(path, weights_only=False)
        assert witness.exists()


def test_tensors_of_another_network_are_named(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    bias = 'prediction_head.geometry_prediction_head.bias'
    cases = {
        'unknown stray': {**state, 'stray': torch.zeros(1)},
        f'missing {bias}': {key: t for key, t in state.items() if key != bias},
        f'of another shape {bias}': {**state, bias: torch.zeros(7)},
        'holds more than the tensors': {'state_dict': state},
    }
    for message, changed in cases.items():
        torch.save(changed, checkpoint)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(checkpoint, TINY)


@pytest.mark.parametrize(
    'value',
    [
        torch.full((6,), math.nan),
        torch.ones(6, dtype=torch.int64),
        torch.ones(6).to_sparse(),
        torch.ones(6, device='meta'),
    ],
    ids=['nan', 'integer', 'sparse', 'meta'],
)
def test_weights_that_are_no_numbers_are_refused(checkpoint: Path, value: Tensor) -> None:
    bias = 'prediction_head.geometry_prediction_head.bias'
    torch.save({**torch.load(checkpoint, weights_only=True), bias: value}, checkpoint)
    with pytest.raises(CheckpointError, match=f'{bias} holds no finite floats'):
        load_checkpoint(checkpoint, TINY)


def test_the_table_of_models_knows_sharp(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, 'CACHE_FOLDER', tmp_path / 'cache')
    with pytest.raises(
        CheckpointError, match=r'cache/sharp_2572gikvuh\.pt.*2\.8 GB.*research only'
    ):
        load_predictor('sharp')
    with pytest.raises(CheckpointError, match='of another shape'):  # tiny is not the released size
        load_predictor(str(checkpoint))
    monkeypatch.setattr(sharp, 'SharpNetworkConfig', lambda: TINY)
    predictor, info = load_predictor(str(checkpoint))
    assert isinstance(predictor, SharpPredictor)
    assert (info.name, info.metric) == ('sharp', True)
    assert 'research only' in info.licence
