"""The small network: shapes, the law of the focal length, and its weight files."""

from __future__ import annotations

import math
import os
from pathlib import Path
import pickle

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from seeded_nano import unsettled_network
import torch

from sharp_ros import models
from sharp_ros.camera import Intrinsics
from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.network import nano
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.network.nano import (
    convex_upsampling,
    fold_batch_norms,
    gaussians_from_prediction,
    LAYOUTS,
    load_weights,
    NanoNetwork,
    save_weights,
)
from sharp_ros.network.predictor import NanoPredictor

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def network() -> NanoNetwork:
    return unsettled_network()


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
    assert out.shape == (2, 11, *size)
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


def test_unknown_geometry_changes_nothing_and_known_geometry_does(network: NanoNetwork) -> None:
    rgb, k = torch.rand(2, 3, 48, 64), intrinsics(64, 48, 2)
    geometry = torch.tensor([[0.0, -1.0, 0.0, math.log(1.2), 1.0], [math.nan] * 4 + [0.0]])
    with torch.no_grad():
        informed, blind = network(rgb, k, geometry), network(rgb, k)
    torch.testing.assert_close(informed[1], blind[1], atol=1e-5, rtol=0)
    assert (informed[0] - blind[0]).abs().max() > 1e-3


def test_the_floor_is_shown_where_it_is() -> None:
    width, height, camera_height, pitch = 64, 48, 1.3, 0.4
    k = torch.tensor([[70.0, 66.0, 30.0, 26.0]])
    image = torch.empty(1, 3, height, width)
    rays = nano._ray_directions(image, image, k)
    up = torch.tensor([[0.0, -math.cos(pitch), -math.sin(pitch)]])  # looks down
    known = torch.cat([up, torch.tensor([[math.log(camera_height), 1.0]])], 1)
    zoom = torch.log(torch.sqrt(k[:, 0] * k[:, 1]) / nano.CANONICAL_FOCAL)[:, None, None]
    elevation, floor, one = nano._floor_planes(rays, zoom, known)[0]
    z = torch.exp(floor + zoom[0])  # metres, as the network turns its answers into them
    lowest = torch.stack([rays[0, 0] * z, rays[0, 1] * z, z], -1) @ up[0]
    below = elevation < -0.1
    assert below.float().mean() > 0.5
    torch.testing.assert_close(
        lowest[below], torch.full_like(lowest[below], -camera_height), atol=1e-3, rtol=0
    )
    assert (floor[elevation > 0] == math.log(nano.FLOOR_RANGE[1])).all()
    assert (one == 1).all()


@pytest.mark.parametrize('size', [(48, 64), (45, 63)])
def test_rays_of_cells_are_means_of_those_of_their_pixels(size: tuple[int, int]) -> None:
    image, k = torch.empty(1, 3, *size), torch.tensor([[70.0, 66.0, 30.0, 26.0]])
    cells = torch.empty(1, 1, 24, 32)
    found = nano._ray_directions(image, cells, k)
    every = nano._ray_directions(image, image, k)
    torch.testing.assert_close(found, nano._resize(every, cells), atol=1e-6, rtol=0)


def box_room(focal: float) -> torch.Tensor:  # -> [1, 3, 192, 256]
    """A tiled room 4 m wide, 2.6 m high and 6 m deep, seen from 1.3 m above its floor."""
    x = (torch.arange(256) + 0.5 - 128) / focal
    y = (torch.arange(192)[:, None] + 0.5 - 96) / focal
    z = torch.stack([(2 / x.abs()).expand(192, 256), (1.3 / y.abs()).expand(192, 256)])
    z, wall = torch.cat([z, torch.full_like(z[:1], 6.0)]).min(0)
    tiles = sum(torch.floor(part * 2 + 0.25) for part in (x * z, y * z, z))
    shade = torch.tensor([0.75, 0.5, 0.9])[wall] - 0.25 * (tiles % 2)
    return (shade * torch.tensor([1.0, 0.9, 0.8])[:, None, None])[None]


def test_zooming_keeps_the_metres_of_the_shipped_weights() -> None:
    network = load_weights(models.WEIGHTS_FOLDER / 'nano.safetensors')
    wide = predict(network, box_room(150.0), 150.0)[0, 0]
    narrow = predict(network, box_room(210.0), 210.0)[0, 0]
    same_rays = torch.nn.functional.interpolate(narrow[None, None], scale_factor=1 / 1.4)[0, 0]
    top, left = (192 - same_rays.shape[0]) // 2, (256 - same_rays.shape[1]) // 2
    part = wide[top : top + same_rays.shape[0], left : left + same_rays.shape[1]]
    assert abs((same_rays - part).median().item()) < 0.1  # of log(1.4) = 0.34


def test_upsampling_starts_as_bilinear() -> None:
    cells = torch.randn(1, 4, 6, 8)
    weights = nano._bilinear_logits()[None, :, None, None].expand(-1, -1, 6, 8)
    bilinear = torch.nn.functional.interpolate(cells, scale_factor=2, mode='bilinear')
    torch.testing.assert_close(convex_upsampling(cells, weights), bilinear, atol=0.2, rtol=0)


def test_upsampling_can_cut_an_edge_within_a_cell() -> None:
    cells = torch.zeros(1, 1, 2, 3)
    cells[..., 2] = 5.0
    weights = torch.zeros(1, 9, 4, 2, 3)
    weights[:, 4] = 30.0  # every pixel the value of its own cell
    weights[:, 5, 1::2, :, 1] = (
        60.0  # but the right pixels of the middle cell that of the right one
    )
    out = convex_upsampling(cells, weights.reshape(1, 36, 2, 3))[0, 0]
    wanted = torch.tensor([0.0, 0, 0, 5, 5, 5]).expand(4, -1)
    torch.testing.assert_close(out, wanted)


def test_upsampling_invents_no_depth() -> None:
    cells = torch.randn(1, 2, 6, 8)
    out = convex_upsampling(cells, torch.randn(1, 36, 6, 8) * 5)
    around = torch.nn.functional.pad(cells, (1, 1, 1, 1), mode='replicate')
    highest = torch.nn.functional.max_pool2d(around, 3, 1).repeat_interleave(2, 2)
    lowest = -torch.nn.functional.max_pool2d(-around, 3, 1).repeat_interleave(2, 2)
    assert (out <= highest.repeat_interleave(2, 3) + 1e-5).all()
    assert (out >= lowest.repeat_interleave(2, 3) - 1e-5).all()


# --- Gaussians ------------------------------------------------------------------------------


def test_corrections_begin_without_effect() -> None:
    torch.manual_seed(1)
    out = predict(NanoNetwork().eval(), torch.rand(1, 3, 48, 64))[0]
    assert out[4:].abs().max() == 0
    image, camera = torch.rand(3, 48, 64), Intrinsics.from_hfov(1.0, 64, 48)
    plain = gaussians_from_depth(out[:2].exp(), image, camera)
    corrected = gaussians_from_prediction(out, image, camera)
    torch.testing.assert_close(corrected.opacities, plain.opacities)
    torch.testing.assert_close(corrected.colors, plain.colors)
    assert torch.equal(corrected.means, plain.means)
    assert torch.equal(corrected.shapes[0], plain.shapes[0])


def test_corrections_change_what_they_are_for() -> None:
    image, camera = torch.full((3, 48, 64), 0.5), Intrinsics.from_hfov(1.0, 64, 48)
    out = torch.zeros(11, 48, 64)
    out[1], out[3] = 1.0, -5.0
    plain = gaussians_from_prediction(out, image, camera)
    out[4], out[7], out[8] = 9.0, -1.0, 0.2
    changed = gaussians_from_prediction(out, image, camera)
    front, hidden = changed.layer(0), changed.layer(1)
    widened = front.shapes[0] / plain.layer(0).shapes[0]
    torch.testing.assert_close(widened, torch.full_like(widened, math.exp(0.5)))
    torch.testing.assert_close(front.opacities, plain.layer(0).opacities)
    assert torch.equal(front.colors, plain.layer(0).colors)
    assert torch.equal(hidden.shapes[0], plain.layer(1).shapes[0])
    assert (hidden.opacities < plain.layer(1).opacities).all()
    assert (hidden.opacities > 0).all()
    assert (hidden.colors[:, 0] > plain.layer(1).colors[:, 0]).all()
    assert torch.equal(hidden.colors[:, 1:], plain.layer(1).colors[:, 1:])


def test_where_nothing_may_be_no_gaussian_is_visible_and_only_certainty_clears(
    network: NanoNetwork,
) -> None:
    predictor, camera = NanoPredictor(network), Intrinsics.from_hfov(1.0, 64, 48)
    out, image = torch.zeros(11, 48, 64), torch.rand(3, 48, 64)
    out[1], out[3] = 1.0, -0.1
    out[3, :10] = 0.1
    out[3, :5] = 3.1
    gaussians = predictor.gaussians((out, image), camera)
    visible, empty = gaussians.opacities.reshape(2, 48, 64) > 0, gaussians.empty.reshape(2, 48, 64)
    assert empty[:, :5].all()
    assert not empty[:, 5:].any()
    out[0, 20] = 100.0  # overflows
    overflown = predictor.gaussians((out, image), camera)
    assert torch.equal(overflown.empty, gaussians.empty)
    assert not overflown.opacities.reshape(2, 48, 64)[0, 20].any()
    assert not visible[:, :10].any()
    assert visible[:, 10:].all()


# --- weight files ---------------------------------------------------------------------------


def test_weights_of_the_first_version_give_what_they_always_gave(tmp_path: Path) -> None:
    path = tmp_path / 'first.safetensors'
    save_weights(unsettled_network(LAYOUTS[1]), path, {})
    network = load_weights(path)
    assert network.layout == LAYOUTS[1]
    heads = []
    network.head.register_forward_hook(lambda module, inputs, out: heads.append(out))
    rgb = torch.rand(1, 3, 65, 90)
    out = predict(network, rgb, 80.0)
    full = torch.nn.functional.interpolate(heads[0], (65, 90), mode='bilinear')
    first = full[:, 0] + torch.tensor(80 / nano.CANONICAL_FOCAL).log()
    assert out.shape == (1, 4, 65, 90)
    assert torch.equal(out[:, 0], first)
    assert torch.equal(out[:, 1], first + torch.nn.functional.softplus(full[:, 1]))
    assert torch.equal(out[:, 2], full[:, 2].clamp(*nano.LOG_SCALE_RANGE))
    assert (out[:, 3] == nano.NEVER).all()


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
    save_file({**tensors, 'head.bias': torch.zeros(5)}, path)
    with pytest.raises(CheckpointError, match=r'of another shape head\.bias'):
        load_weights(path)


def test_weights_with_the_first_head_alone_are_refused_with_what_to_do(tmp_path: Path) -> None:
    tensors = load_file(models.WEIGHTS_FOLDER / 'nano.safetensors')
    path = tmp_path / 'older.safetensors'
    save_file({n: t for n, t in tensors.items() if not n.startswith('shape.')}, path)
    with pytest.raises(CheckpointError, match=r'older.*train --metres.*fine-tune anew'):
        load_weights(path)


@pytest.mark.parametrize('value', [torch.tensor(math.nan), torch.tensor(1)])
def test_weights_that_are_no_numbers_are_refused(
    weight_file: Path, tmp_path: Path, value: torch.Tensor
) -> None:
    path = tmp_path / 'bad.safetensors'
    tensors = load_file(weight_file)
    tensors['head.weight'] = value.expand_as(tensors['head.weight']).contiguous()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r'head\.weight holds no finite floats'):
        load_weights(path)


def test_an_encoder_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'resnet.pth'
    with pytest.raises(CheckpointError, match='cannot read ImageNet weights'):
        NanoNetwork().encoder.load_imagenet(path)
    torch.save({'conv1.weight': torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match='no EfficientNet-Lite0'):
        NanoNetwork().encoder.load_imagenet(path)
