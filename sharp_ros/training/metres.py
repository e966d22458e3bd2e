"""Teach a trained nano two heads that correct its metres and its shape, and nothing else.

    crops ── frozen network ──┬ features, in files of the run ──┬── fit ── fit_shape ── nano
                              └ true over predicted depth ──────┘

The network looks at every crop once; what it saw is learnt from many times, in a minute. See
`network.metres` and `network.shape`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import hashlib
import json
from pathlib import Path
from typing import NamedTuple
import zipfile

import numpy as np
import torch
from torch import nn, Tensor

from sharp_ros.errors import CheckpointError, ConfigError, InputError
from sharp_ros.files import replacing
from sharp_ros.network import shape
from sharp_ros.network.cells import between_cells
from sharp_ros.network.metres import GRID, Metres
from sharp_ros.network.nano import (
    LAYOUTS,
    load_weights,
    metadata_of,
    NanoNetwork,
    outputs_of,
    save_weights,
)
from sharp_ros.training.dataset import Batch, Shards
from sharp_ros.training.settings import TrainingConfig
from sharp_ros.training.trainer import crop_size, marks_of, open_data, single_threaded_operators

CELLS = GRID[0] * GRID[1]
CHUNK = 1200  # crops in a file
BATCH = 12
LEAST_KNOWN = 0.15  # share of an image whose depth must be known, LEAST_CELL pixels of a cell
LEAST_CELL = 20  # few enough that an image with that share has known cells: they have 290 pixels
LEAST_CROPS = 2  # of which that much is known
COMPONENTS = 256  # of the tokens, in which nearly all of their variance lies
STEPS, FIT_BATCH, RATE, DECAY, DROPOUT = 2000, 384, 1e-3, 0.1, 0.5
SHAPE_STEPS, SHAPE_BATCH, SHAPE_RATE, SHAPE_DECAY, SHAPE_DROPOUT = 1500, 128, 2e-3, 0.05, 0.2
SHAPE_LEAST_STD = 0.1  # of a plane: a weight of 1 / 0.001 is too coarse in half precision


class Looked(NamedTuple):
    """What the frozen network made of N crops.

    Attributes:
        features: [N, F] float16, see `Metres.gather`.
        wrong: [N, 1 + cells] float32 log of true over predicted depth, the median over the image
            and over each of its cells; NaN where too little is known.
        cells: [N, S + P, *shape.GRID] float16, see `Sight`.
        uneven: [N, *shape.GRID] float32, as `wrong`, of those cells.
    """

    features: np.ndarray
    wrong: np.ndarray
    cells: np.ndarray
    uneven: np.ndarray


def train_metres(
    config: TrainingConfig,
    report: Callable[[float], None] = lambda done: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Add heads to the initial weights that correct metres and shape; they stay as they are.

    Args:
        config: of the run: its data, weights, folder, threads, seed, and `metres_crops`.
        report: called with the share of the crops that was looked at.
        stop: asked between files; where it is true, those that are there serve the next run.

    Returns:
        Mean over held-out crops of |log| of true over predicted depth, `before` and `after`, and
        `within_2std`, the share of them within two stated deviations after it; mean of what cells
        of them differ from that by, `shape_before` and `shape_after`; empty if stopped.

    Raises:
        ConfigError: if the initial weights are ImageNet's.
        InputError: if the data cannot be used, as without depth.
        CheckpointError: if the initial weights cannot be used, or files of the run are of others,
            or of other images or another seed.
    """
    if config.init == 'imagenet':
        raise ConfigError('metres are taught to trained weights of nano: name them with --init')
    network = with_metres(load_weights(config.init)).requires_grad_(False)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    images, rendered, held_out = open_data(config, out / 'held_out.json')
    if images is None or held_out is None:
        raise ConfigError('metres are taught by images in files: name folders with --data')
    parts, mark = [], _mark(network, config)
    with single_threaded_operators(), ThreadPoolExecutor(config.threads) as pool:
        judged = looked_at(network, held_out, min(len(held_out), CHUNK), (config.seed, 8), pool)
        if not np.isfinite(judged.wrong[:, 0]).any():
            raise InputError('no held-out image has depth enough to learn metres from', 'no_truth')
        for i, start in enumerate(range(0, config.metres_crops, CHUNK)):
            if stop():
                return {}
            count = min(CHUNK, config.metres_crops - start)
            file, key = out / f'metres_{i:04d}.npz', (config.seed, 9, i)
            parts.append(
                _kept(
                    file,
                    f'{mark} {count}',
                    lambda n=count, k=key: looked_at(network, images, n, k, pool),
                )
            )
            report((start + count) / config.metres_crops)
    head, shape_head, looked = network.metres, network.shape, _joined(parts)
    assert head is not None
    assert shape_head is not None
    if np.count_nonzero(np.isfinite(looked.wrong[:, 0])) < LEAST_CROPS:
        raise InputError(
            f'fewer than {LEAST_CROPS} crops have depth enough to learn metres from', 'no_truth'
        )
    fit(head, looked, config.seed)
    fit_shape(shape_head, head, looked, config.seed)
    factor, std = said(head, judged)
    known = np.isfinite(judged.wrong[:, 0])
    off, factor, std = judged.wrong[known, 0], factor[known], std[known]
    metadata = metadata_of(config.init) | {
        'version': config.version,
        'metres and shape': f'{config.metres_crops} crops of {rendered} images rendered by '
        'sharp_ros.procedural.rooms, over weights that stayed as they were',
        'outputs': outputs_of(network.layout),
    }
    save_weights(network, out / 'nano.safetensors', metadata)
    return {
        'before': float(np.abs(off).mean()),
        'after': float(np.abs(off - factor).mean()),
        'within_2std': float((np.abs(off - factor) <= 2 * std).mean()),
        'shape_before': unevenness(judged.uneven),
        'shape_after': unevenness(judged.uneven - shaped(shape_head, head, judged)),
    }


def with_metres(network: NanoNetwork) -> NanoNetwork:
    """The network with heads that do not change anything yet, where it has none.

    Raises:
        CheckpointError: if no layout of weight files holds such a network.
    """
    layout = replace(network.layout, metres=True)
    if layout not in LAYOUTS.values():
        raise CheckpointError('weights of layout 1 cannot learn their metres anew: use newer ones')
    if network.metres is None:
        network.layout = layout
        network.metres = Metres(layout.token_dim, layout.planes)
        network.shape = shape.Shape()
    return network


def looked_at(
    network: NanoNetwork, images: Shards, count: int, key: Sequence[int], pool: ThreadPoolExecutor
) -> Looked:
    """What a frozen network makes of crops drawn at random; a function of `key`.

    Args:
        network: with such heads.
        images: to crop and damage, see `dataset.sample`.
        count: of crops.
        key: seed.
        pool: threads to share it.
    """
    batches = -(-count // BATCH)

    def one(number: int) -> Looked:
        rng = np.random.default_rng((*key, number))
        height, width = crop_size(rng)
        ids = rng.integers(len(images), size=min(BATCH, count - number * BATCH))
        return _look(network, images.batch([int(i) for i in ids], height, width, rng))

    return _joined(list(pool.map(one, range(batches))))


@torch.inference_mode()
def _look(network: NanoNetwork, batch: Batch) -> Looked:
    seen = network.look(batch.rgb, batch.intrinsics, batch.geometry)
    assert seen.features is not None
    assert seen.cells is not None
    off = (batch.depth.log() - (seen.surfaces[:, 0] + seen.zoom)).numpy()
    off[np.isfinite(off).mean((1, 2)) < LEAST_KNOWN] = np.nan
    whole, coarse, fine = (_medians(off, grid) for grid in ((1, 1), GRID, shape.GRID))
    wrong = np.concatenate([whole.reshape(-1, 1), coarse.reshape(-1, CELLS)], 1)
    features, cells = (x.numpy().astype(np.float16) for x in (seen.features, seen.cells))
    return Looked(features, wrong, cells, fine)


def _medians(off: np.ndarray, grid: tuple[int, int]) -> np.ndarray:  # [N, h, w] -> [N, *grid]
    """Of what is finite in cells, float32; NaN where that is too little."""
    found = np.full((len(off), *grid), np.nan, np.float32)
    for row, strip in enumerate(np.array_split(off, grid[0], axis=1)):
        for column, cell in enumerate(np.array_split(strip, grid[1], axis=2)):
            for image, known in enumerate(np.isfinite(cell)):
                if known.sum() >= LEAST_CELL:
                    found[image, row, column] = np.median(cell[image][known])
    return found


def fit(head: Metres, looked: Looked, seed: int) -> None:
    """Train a head from nothing, in place.

    It learns on principal components of the tokens, which are then folded into its first layer;
    the median over the image with a Laplace likelihood (Kendall & Gal, 2017), and what cells
    differ from it by with L1.

    Args:
        head: to be trained.
        looked: of which at least `LEAST_CROPS` have known depth.
        seed: of initialisation, order and dropout.
    """
    known = np.isfinite(looked.wrong[:, 0])
    features = torch.from_numpy(looked.features[known].astype(np.float32))
    wrong = torch.from_numpy(looked.wrong[known])
    tokens = head.features - head.others
    mean, project = _components(features[:, :tokens])
    others = features[:, tokens:].mean(0)
    x = torch.cat([(features[:, :tokens] - mean) @ project, features[:, tokens:] - others], 1)
    torch.manual_seed(seed)
    learnt = nn.Sequential(
        nn.Dropout(DROPOUT / 2),
        nn.Linear(x.shape[1], head.hidden.out_features),
        nn.GELU(),
        nn.Dropout(DROPOUT),
        nn.Linear(head.hidden.out_features, head.mixed.out_features),
        nn.GELU(),
        nn.Linear(head.mixed.out_features, CELLS + 2),
    )
    optimizer = torch.optim.AdamW(learnt.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        chosen = torch.from_numpy(rng.integers(len(x), size=FIT_BATCH))
        loss = _loss(learnt(x[chosen]), wrong[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    _fold(learnt, head, mean, project, others)


def _loss(out: Tensor, wrong: Tensor) -> Tensor:
    """Of [B, cells of the difference, factor, log scale] and [B, 1 + cells]."""
    cells, factor, log_scale = out[:, :CELLS], out[:, CELLS], out[:, CELLS + 1].clamp(-4, 1)
    whole = (factor - wrong[:, 0]).abs() * torch.exp(-log_scale) + log_scale
    differences = cells - (wrong[:, 1:] - wrong[:, :1])
    return whole.mean() + differences[torch.isfinite(differences)].abs().mean()


def _components(x: Tensor) -> tuple[Tensor, Tensor]:  # [N, F] -> [F], [F, K]
    """Mean, and what makes principal components of a variance of 1 on average."""
    mean, std = x.mean(0), x.std(0) + 1e-3
    scaled = (x - mean) / std
    values, axes = torch.linalg.eigh(scaled.T @ scaled / len(x))
    count = min(COMPONENTS, len(axes))
    return mean, axes[:, -count:] / std[:, None] / values[-count:].mean().sqrt()


@torch.no_grad()
def _fold(
    learnt: nn.Sequential, head: Metres, mean: Tensor, project: Tensor, others: Tensor
) -> None:
    """Write what was learnt on components as a head that takes the features themselves."""
    first, second, last = (layer for layer in learnt if isinstance(layer, nn.Linear))
    count = project.shape[1]
    weight = torch.cat([first.weight[:, :count] @ project.T, first.weight[:, count:]], 1)
    head.hidden.weight.copy_(weight)
    head.hidden.bias.copy_(first.bias - weight @ torch.cat([mean, others]))
    head.mixed.load_state_dict(second.state_dict())
    # a cell's factor is that of the image and its difference; sqrt(2) times the Laplace scale is
    # the standard deviation
    for whole, part in ((head.out.weight, last.weight), (head.out.bias, last.bias)):
        whole[:CELLS] = part[:CELLS] + part[CELLS]
        whole[CELLS] = part[CELLS + 1]
    head.out.bias[CELLS] += 0.5 * np.log(2)


def fit_shape(shape_head: shape.Shape, head: Metres, looked: Looked, seed: int) -> None:
    """Train the other head from nothing, in place, with L1 on what the first one leaves.

    Args:
        shape_head: for the shape, to be trained.
        head: for the metres, which is trained already.
        looked: of which at least `LEAST_CROPS` have known depth.
        seed: of initialisation, order and dropout.
    """
    known = np.isfinite(looked.wrong[:, 0])
    looked = Looked(*(column[known] for column in looked))
    x, factors = _shape_inputs(head, looked)
    wrong = torch.from_numpy(looked.uneven)[:, None] - factors
    mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3)) + 1e-3
    std = std.clamp(min=SHAPE_LEAST_STD)
    mean[shape.SIDEWAYS] = 0.0  # so that a mirror image is one, too
    x = (x - mean[:, None, None]) / std[:, None, None]
    torch.manual_seed(seed)
    learnt = shape.Shape(SHAPE_DROPOUT)
    optimizer = torch.optim.AdamW(learnt.parameters(), SHAPE_RATE, weight_decay=SHAPE_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, SHAPE_RATE, SHAPE_STEPS)
    rng = np.random.default_rng(seed)
    for _ in range(SHAPE_STEPS):
        chosen = torch.from_numpy(rng.integers(len(x), size=SHAPE_BATCH))
        seen, expected = x[chosen], wrong[chosen]
        if rng.uniform() < 0.5:
            seen, expected = seen.flip(3), expected.flip(3)
            seen[:, shape.SIDEWAYS] *= -1
        loss = _shape_loss(learnt(seen), expected)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        shape_head.load_state_dict(learnt.state_dict())
        shape_head.seen.weight.div_(std[:, None, None])
        assert shape_head.seen.bias is not None
        shape_head.seen.bias.sub_(shape_head.seen.weight[:, :, 0, 0] @ mean)


def _shape_loss(factors: Tensor, wrong: Tensor) -> Tensor:
    """Of log factors [B, 1, *shape.GRID], whatever they have in common; unknown is NaN."""
    known = torch.isfinite(wrong)
    off = torch.where(known, wrong, factors) - factors  # 0 there: gradients of NaN are NaN
    mean = off.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
    return (off - mean)[known].abs().mean()


def _shape_inputs(head: Metres, looked: Looked) -> tuple[Tensor, Tensor]:
    """What the head for the shape looks at, and the log factors of that for the metres there."""
    cells = torch.from_numpy(looked.cells.astype(np.float32))
    with torch.no_grad():
        factors, _ = head(torch.from_numpy(looked.features.astype(np.float32)))
        factors = between_cells(factors, cells)
        return shape.looking(cells, factors), factors


@torch.inference_mode()
def shaped(shape_head: shape.Shape, head: Metres, looked: Looked) -> np.ndarray:
    """Log factors [N, *shape.GRID] of both heads."""
    x, factors = _shape_inputs(head, looked)
    return (factors + shape_head(x))[:, 0].numpy()


def unevenness(wrong: np.ndarray) -> float:
    """Mean of |log| of what is wrong of cells [N, *shape.GRID], without that of their image."""
    known = wrong[np.isfinite(wrong).any((1, 2))]
    return float(np.nanmean(np.abs(known - np.nanmedian(known, (1, 2), keepdims=True))))


@torch.inference_mode()
def said(head: Metres, looked: Looked) -> tuple[np.ndarray, np.ndarray]:
    """Mean log factors [N] over the cells, and their standard deviations [N]."""
    factors, log_std = head(torch.from_numpy(looked.features.astype(np.float32)))
    return factors.mean((1, 2, 3)).numpy(), log_std.exp().numpy()


def _mark(network: NanoNetwork, config: TrainingConfig) -> str:
    """Tells what a run looks at, and with what, from anything else."""
    told = hashlib.sha256(json.dumps([config.seed, *marks_of(config)]).encode())
    for name, tensor in network.state_dict().items():
        if not name.startswith(('metres.', 'shape.')):  # which are taught anew
            told.update(tensor.numpy().tobytes())
    return told.hexdigest()


def _kept(path: Path, mark: str, look: Callable[[], Looked]) -> Looked:
    """What a file of the run holds, or else is written there."""
    if path.exists():
        try:
            with np.load(path) as stored:
                if str(stored['mark']) != mark:
                    raise CheckpointError(
                        f'{path} was made with other weights, images or settings; give another '
                        '--out, or remove it'
                    )
                return Looked(*(stored[name] for name in Looked._fields))
        except KeyError as error:
            raise CheckpointError(
                f'{path} was made by another version ({error.args[0]}); give another --out, or '
                'remove the metres_*.npz beside it, too'
            ) from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(f'cannot resume from {path} ({error}); remove it') from error
    looked = look()
    with replacing(path) as file:
        np.savez(file, mark=np.array(mark), **looked._asdict())
    return looked


def _joined(parts: Sequence[Looked]) -> Looked:
    return Looked(*(np.concatenate(column) for column in zip(*parts, strict=True)))
