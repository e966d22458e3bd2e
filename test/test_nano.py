"""The small network: shapes, the law of the focal length, and its weight files."""

from __future__ import annotations

import math
import os
from pathlib import Path
import pickle

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
import torch

from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.network.nano import fold_batch_norms, load_weights, NanoNetwork, save_weights

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def network() -> NanoNetwork:
    """Untrained, but with batch norm statistics and a head that are not the neutral ones."""
    torch.manual_seed(0)
    network = NanoNetwork().train()
    torch.nn.init.normal_(network.head.weight, std=0.05)
    with torch.no_grad():
        network(torch.rand(2, 3, 64, 64), intrinsics(64, 64, 2))
    return network.eval()


@pytest.fixture(scope='module')
def weight_file(network: NanoNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('weights') / 'nano.safetensors'
    save_weights(network, path, {'name': 'nano', 'licence': 'Apache-2.0'})
    return path


def intrinsics(width: int, height: int, batch: int = 1, focal: float = 60.0) -> torch.Tensor:
    return torch.tensor([[focal, focal, width / 2, height / 2]]).repeat(batch, 1)


@torch.no_grad()
def predict(network: NanoNetwork, rgb: torch.Tensor, focal: float = 60.0) -> torch.Tensor:
    height, width = rgb.shape[2:]
    return network(rgb, intrinsics(width, height, len(rgb), focal))


@pytest.mark.parametrize('size', [(48, 64), (33, 47), (65, 131)])
def test_output_has_the_size_of_the_image(network: NanoNetwork, size: tuple[int, int]) -> None:
    out = predict(network, torch.rand(2, 3, *size))
    assert out.shape == (2, 3, *size)
    assert torch.isfinite(out).all()


def test_second_surface_is_never_nearer_than_the_first(network: NanoNetwork) -> None:
    out = predict(network, torch.rand(2, 3, 65, 90))
    assert (out[:, 1] >= out[:, 0]).all()


def test_images_of_a_batch_do_not_influence_each_other(network: NanoNetwork) -> None:
    rgb = torch.rand(3, 3, 48, 64)
    alone = torch.cat([predict(network, rgb[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(predict(network, rgb), alone, atol=1e-4, rtol=0)


def test_what_looks_alike_is_farther_by_the_ratio_of_focal_lengths() -> None:
    blind = NanoNetwork().eval()  # sees the same canonical depth everywhere
    torch.nn.init.zeros_(blind.head.weight)
    rgb = torch.rand(1, 3, 48, 64)
    ratio = predict(blind, rgb, 123.0)[:, :2] - predict(blind, rgb, 41.0)[:, :2]
    torch.testing.assert_close(ratio, torch.full_like(ratio, math.log(3)), atol=1e-5, rtol=0)


def test_the_principal_point_matters(network: NanoNetwork) -> None:
    rgb = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        centred = network(rgb, torch.tensor([[60.0, 60.0, 32.0, 24.0]]))
        shifted = network(rgb, torch.tensor([[60.0, 60.0, 50.0, 10.0]]))
    assert (centred - shifted).abs().max() > 1e-3


def test_folding_batch_norms_changes_nothing_but_speed(network: NanoNetwork) -> None:
    rgb = torch.rand(1, 3, 48, 64)
    folded = NanoNetwork().eval()
    folded.load_state_dict(network.state_dict())
    fold_batch_norms(folded)
    assert not any('running_mean' in name for name in folded.state_dict())
    torch.testing.assert_close(predict(folded, rgb), predict(network, rgb), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ('rgb', 'k'),
    [
        ((3, 64, 64), (1, 4)),
        ((1, 1, 64, 64), (1, 4)),
        ((1, 3, 16, 64), (1, 4)),
        ((2, 3, 64, 64), (1, 4)),
    ],
)
def test_wrong_shapes_are_refused(
    network: NanoNetwork, rgb: tuple[int, ...], k: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match='must be'):
        network(torch.rand(rgb), torch.ones(k))


def test_weights_survive_the_file(network: NanoNetwork, weight_file: Path) -> None:
    rgb = torch.rand(1, 3, 48, 64)
    loaded = load_weights(weight_file)
    assert not loaded.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())
    # Half precision keeps about three digits: 2 % in depth here.
    torch.testing.assert_close(predict(loaded, rgb), predict(network, rgb), atol=0.02, rtol=0)
    assert network.fuse2.mix[0][1].running_mean is not None  # the network saved is left as it was


def test_weight_file_is_small_and_says_what_it_is(weight_file: Path) -> None:
    assert weight_file.stat().st_size <= 20e6
    with safe_open(weight_file, framework='pt') as file:
        assert file.metadata() == {'name': 'nano', 'licence': 'Apache-2.0'}
        names = file.keys()
        assert all(file.get_slice(name).get_dtype() == 'F16' for name in names)


def test_saving_loaded_weights_again_is_the_same_file(weight_file: Path, tmp_path: Path) -> None:
    again = tmp_path / 'again.safetensors'
    save_weights(load_weights(weight_file), again, {})
    first, second = load_file(weight_file), load_file(again)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first.keys() == second.keys()


def test_missing_weights_are_reported_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'no weights at .*train_nano'):
        load_weights(tmp_path / 'nowhere.safetensors')


@pytest.mark.parametrize('size', [0, 5, 1000, 3_000_000])
def test_truncated_weights_are_refused(weight_file: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / 'cut.safetensors'
    path.write_bytes(weight_file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match='damaged'):
        load_weights(path)


class _Bomb:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.witness),)


def test_a_pickle_is_refused_without_running_it(tmp_path: Path) -> None:
    path, witness = tmp_path / 'evil.safetensors', tmp_path / 'ran'
    path.write_bytes(pickle.dumps(_Bomb(witness)))
    with pytest.raises(CheckpointError):
        load_weights(path)
    assert not witness.exists()
    pickle.loads(path.read_bytes())  # the test can fail: unpickling would have run it
    assert witness.exists()


def test_a_header_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'huge.safetensors'
    header = (
        b'{"head.bias":{"dtype":"F16","shape":[999999999999],"data_offsets":[0,1999999999998]}}'
    )
    path.write_bytes(len(header).to_bytes(8, 'little') + header)
    with pytest.raises(CheckpointError):
        load_weights(path)


def test_weights_of_another_network_are_named(weight_file: Path, tmp_path: Path) -> None:
    tensors = load_file(weight_file)
    path = tmp_path / 'other.safetensors'
    save_file({**tensors, 'stray.weight': torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r'unknown stray\.weight'):
        load_weights(path)
    save_file({name: t for name, t in tensors.items() if name != 'head.bias'}, path)
    with pytest.raises(CheckpointError, match=r'missing head\.bias'):
        load_weights(path)
    save_file({**tensors, 'head.bias': torch.zeros(4)}, path)
    with pytest.raises(CheckpointError, match=r'of another shape head\.bias'):
        load_weights(path)


@pytest.mark.parametrize('value', [torch.tensor([0.0, math.nan, 0.0]), torch.tensor([1, 2, 3])])
def test_weights_that_are_no_numbers_are_refused(
    weight_file: Path, tmp_path: Path, value: torch.Tensor
) -> None:
    path = tmp_path / 'bad.safetensors'
    save_file({**load_file(weight_file), 'head.bias': value}, path)
    with pytest.raises(CheckpointError, match=r'head\.bias holds no finite floats'):
        load_weights(path)


def test_an_encoder_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'resnet.pth'
    with pytest.raises(CheckpointError, match='cannot read ImageNet weights'):
        NanoNetwork().encoder.load_imagenet(path)
    torch.save({'conv1.weight': torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match='no EfficientNet-Lite0'):
        NanoNetwork().encoder.load_imagenet(path)
