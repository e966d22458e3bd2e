"""Tensors of SHARP's reference implementation, and the same of a network of ours.

`_sK` in the name of a golden tensor means that every K-th row and column (of lists: every K-th
entry) was kept, `_cK` every K-th channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
import math
from pathlib import Path
import re
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor

from sharp_ros.network.composer import (
    base_gaussians,
    BaseGaussians,
    depth_from_disparity,
    NdcGaussians,
)
from sharp_ros.network.seeded import seeded_image
from sharp_ros.network.sharp import SharpNetwork

DATA = Path(__file__).parents[1] / 'test' / 'data'
SEED = 20251210
DEFAULT, TIGHT = 1e-4, 3e-5  # encoder maps and disparity are held to the tighter bound
# What the golden files call the fields of `NdcGaussians`.
OUTPUTS = {
    'mean_vectors': 'means',
    'singular_values': 'scales',
    'quaternions': 'quats',
    'colors': 'colors',
    'opacities': 'opacities',
}


@dataclass
class Run:
    """All that one forward pass of a network computed."""

    network: SharpNetwork
    image: Tensor
    factor: Tensor
    taps: dict[str, Tensor]
    base: BaseGaussians
    out: NdcGaussians


def run(network: SharpNetwork, image: Tensor, factor: Tensor) -> Run:
    """On the network's device and in its precision; what is kept is float32 on the CPU."""
    parts = network.monodepth_model['monodepth_predictor']
    taps: dict[str, Tensor] = {}
    watched: dict[str, nn.Module] = {
        'patch_encoder.out': parts.encoder.patch_encoder,
        'image_encoder.out': parts.encoder.image_encoder,
        'encoder': parts.encoder,
        'monodepth_decoder.out': parts.decoder,
        'disparity': parts.head,
        'gaussian_decoder.out': network.feature_model.decoder,
        'features': network.feature_model,
        'delta': network.prediction_head,
    }
    blocks = parts.encoder.patch_encoder.blocks
    for i in (1, 2) if len(blocks) < 24 else (5, 11, 17, 23):
        watched[f'patch_encoder.block{i}'] = blocks[i]
    hooks = [
        module.register_forward_hook(
            lambda m, i, out, name=name: taps.__setitem__(name, on_cpu(out))
        )
        for name, module in watched.items()
    ]
    device = next(network.parameters()).device
    with torch.inference_mode():
        out = network(image.to(device), factor.to(device))
        out = replace(out, **{name: on_cpu(getattr(out, name)) for name in OUTPUTS.values()})
        base = base_gaussians(image, depth_from_disparity(taps['disparity'], factor))
    for hook in hooks:
        hook.remove()
    for name in ('patch_encoder.out', 'image_encoder.out'):
        taps[name] = taps[name][0]
    taps |= {f'encoder.{i}': e for i, e in enumerate(taps.pop('encoder'))}
    taps['texture_features'], taps['geometry_features'] = taps.pop('features')
    return Run(network, image, factor, taps, base, out)


def on_cpu(value: Any) -> Any:
    """A tensor, or the tensors of nested lists and tuples, as float32 on the CPU."""
    return value.cpu().float() if isinstance(value, Tensor) else [on_cpu(part) for part in value]


def tiny_run(network: SharpNetwork) -> Run:
    """The two images that the tensors of the tiny networks stem from."""
    image = torch.stack([seeded_image(192, SEED + i) for i in range(2)])
    return run(network, image, torch.tensor([0.8, 1.3]))


def stats(x: Tensor) -> np.ndarray:  # -> [5]
    """Mean, standard deviation, minimum, maximum and mean magnitude."""
    x = x.double()
    values = (x.mean(), x.std(correction=0), x.min(), x.max(), x.abs().mean())
    return np.array([v.item() for v in values])


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    """All tensors of one file, by key."""
    with np.load(DATA / f'{name}.npz') as file:
        return dict(file)


def keys_of(name: str) -> list[str]:
    """The tensors of a file that stem from a forward pass."""
    with np.load(DATA / f'{name}.npz') as file:
        skipped = ('traj.', 'ply.', 'post.', 'pre.', 'align.')  # compared elsewhere in the tests
        return [key for key in file.files if not key.startswith(skipped)]


# --- what a golden tensor should equal ----------------------------------------------------------

# Token maps are cut by hand; the files call that plain `_s`.
EVERY = slice(None)
CUTS = {
    'golden_tiny_overlap': {
        'block': (EVERY, slice(None, None, 48), slice(None, None, 4)),
        'patch_encoder.out': (
            EVERY,
            slice(None, None, 8),
            slice(None, None, 4),
            slice(None, None, 4),
        ),
        'image_encoder.out': (slice(None, None, 4), slice(None, None, 2), slice(None, None, 2)),
    },
    'golden_full': {
        'block': (slice(None, None, 3), slice(None, None, 96), slice(None, None, 16)),
        'patch_encoder.out': (
            EVERY,
            slice(None, None, 32),
            slice(None, None, 6),
            slice(None, None, 6),
        ),
        'image_encoder.out': (slice(None, None, 16), slice(None, None, 4), slice(None, None, 4)),
    },
}
TENSOR_KEY = re.compile(r'(?P<name>.+?)(?:_c(?P<c>\d+))?(?P<cut>_s(?P<s>\d*))?$')
OUT_KEY = re.compile(r'out(?P<item>_b1)?(?:_s(?P<s>\d+))?\.(?P<name>\w+)$')


def computed(run: Run, file: str, key: str) -> np.ndarray:
    """Of a run of ours: what the tensor `key` of `file` should equal, cut as that is."""
    if key.startswith('out_stats_per_component.'):
        values = getattr(run.out, OUTPUTS[key.rpartition('.')[2]])[0]
        return np.stack([stats(column) for column in values.unbind(-1)])
    if key.startswith('out_stats.'):
        return stats(getattr(run.out, OUTPUTS[key.rpartition('.')[2]])[0])
    if found := OUT_KEY.match(key):
        values = getattr(run.out, OUTPUTS[found['name']])[1 if found['item'] else 0]
        return values[:: int(found['s'] or 1)].numpy()
    if key.endswith('_stats'):
        values = tensor(run, file, key.removesuffix('_stats'))
        if key == 'delta_stats':
            return np.stack([stats(attribute) for attribute in values])
        return stats(values)
    found = TENSOR_KEY.match(key)
    assert found is not None
    values = tensor(run, file, found['name'])
    if found['cut'] == '_s':
        cuts = CUTS[file]
        return values[cuts['block' if 'block' in key else found['name']]].numpy()
    channels, step = int(found['c'] or 1), int(found['s'] or 1)
    if step > 1:
        values = values[..., ::step, ::step]
    return (values[::channels] if channels > 1 else values).numpy()


def tensor(run: Run, file: str, name: str) -> Tensor:
    """Of a run of ours: the whole tensor that golden files call `name`."""
    base = run.base
    named = {
        'input.image_sum': run.image.double().sum((1, 2, 3)),
        'input.image_probe': run.image[:, :, :4, :4],
        'input.disparity_factor': run.factor,
        'init.x_ndc_row': base.x,
        'init.y_ndc_col': base.y,
        'init.inverse_depth': base.inverse_depth[0],
        'init.scales': base.cell / base.inverse_depth[0],
        'init.colors_layer0': base.colors[0],
        'init.quaternion': torch.tensor([1.0, 0, 0, 0]),
        'init.opacity': torch.tensor([0.5]),
        'init.global_scale': base.global_scale,
        'init.feature_input': base.features[0],
    }
    if name in named:
        return named[name]
    values = run.taps[name]
    whole_batch = name.startswith('patch_encoder.') or (
        name == 'image_encoder.out' and file == 'golden_tiny'
    )
    return values if whole_batch else values[0]


def bound(key: str) -> float:
    """Largest difference to the golden tensor that is allowed."""
    if key == 'input.image_sum':
        return 1e-9 * 3.6e6
    return TIGHT if key.startswith(('encoder.', 'disparity')) else DEFAULT


def error(run: Run, file: str, key: str, expected: dict[str, np.ndarray]) -> float:
    """Largest error of a tensor, infinite where it is not a number."""
    actual = np.asarray(computed(run, file, key), np.float64)
    assert actual.shape == expected[key].shape, key
    value = float(np.abs(actual - expected[key]).max())
    return math.inf if math.isnan(value) else value


def worst(run: Run, file: str, keys: list[str], expected: dict[str, np.ndarray]) -> float:
    """Largest error of some tensors, in units of what is allowed."""
    return max(error(run, file, key, expected) / bound(key) for key in keys)
