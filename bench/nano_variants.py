"""What decoders of nano cost on a CPU, next to the shipped one.

    python bench/nano_variants.py [--rounds 30] [--threads 2]

Every round runs every variant once, so that a busy machine slows all of them; what counts is the
median over the rounds of the time relative to the first version in the same round. On a busy
machine the ratio of the processor time of one thread (`--threads 1`) is steadier still.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
import sys
import time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn, Tensor

from sharp_ros.network.nano import fold_batch_norms, LAYOUTS, NanoLayout, NanoNetwork
from sharp_ros.process import prepare_process

FIRST, SECOND = LAYOUTS[1], LAYOUTS[2]
SMALL, LARGE = (256, 192), (320, 240)
VARIANTS: dict[str, tuple[NanoLayout, tuple[int, int]]] = {
    'version 1': (FIRST, SMALL),
    'version 1, 320x240': (FIRST, LARGE),
    'version 1 with convex upsampling': (replace(FIRST, channels=11, convex=True), SMALL),
    'version 1 with attention of version 2': (replace(FIRST, token_dim=192, blocks=4), SMALL),
    'version 2': (SECOND, SMALL),
    'version 2, 320x240': (SECOND, LARGE),
    'version 2, bilinear': (replace(SECOND, convex=False), SMALL),
    'version 2, no corrections': (replace(SECOND, channels=4), SMALL),
    'version 2, no floor': (replace(SECOND, planes=2), SMALL),
    'version 2, 8 blocks of 256': (replace(SECOND, token_dim=256, blocks=8), SMALL),
    'version 2, half as wide again': (replace(SECOND, widths=(48, 96, 144, 192)), SMALL),
}


def prepared(layout: NanoLayout) -> NanoNetwork:
    """As it would be loaded from a file."""
    network = fold_batch_norms(NanoNetwork(layout=layout).eval()).requires_grad_(False)
    return network.to(memory_format=torch.channels_last)


def products(network: NanoNetwork, rgb: Tensor, intrinsics: Tensor) -> float:
    """Billions of multiplications in the convolutions and linear layers of one image."""
    total = 0

    def count(module: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        cells = out.numel() // len(weight)
        total += cells * weight.numel()

    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    network(rgb, intrinsics)
    for hook in hooks:
        hook.remove()
    return total / 1e9


@torch.inference_mode()
def measure(rounds: int) -> None:
    """Print a table."""
    runs = []
    for layout, (width, height) in VARIANTS.values():
        rgb = torch.rand(1, 3, height, width).contiguous(memory_format=torch.channels_last)
        runs.append((prepared(layout), rgb, torch.tensor([[200.0, 200, width / 2, height / 2]])))
    times = np.empty((2, rounds, len(runs)))  # by the clock, by the processor
    for i in range(-3, rounds):  # the first three warm up
        for j, (network, rgb, intrinsics) in enumerate(runs):
            begun = time.perf_counter(), time.process_time()
            network(rgb, intrinsics)
            times[:, i, j] = time.perf_counter() - begun[0], time.process_time() - begun[1]
    ms = 1e3 * np.median(times, 1)
    ratios = np.median(times / times[:, :, :1], 1)
    print(
        '| decoder | parameters, M | fp16, MB | products, G | ms | ratio | processor ms | ratio |'
    )
    print('|---|---|---|---|---|---|---|---|')
    for j, (name, run) in enumerate(zip(VARIANTS, runs, strict=True)):
        parameters = sum(p.numel() for p in run[0].parameters()) / 1e6
        print(
            f'| {name} | {parameters:.2f} | {2 * parameters:.1f} | {products(*run):.2f} '
            f'| {ms[0, j]:.1f} | {ratios[0, j]:.2f} | {ms[1, j]:.1f} | {ratios[1, j]:.2f} |'
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    prepare_process()
    parser = argparse.ArgumentParser(description='What decoders of nano cost on a CPU.')
    parser.add_argument('--rounds', type=int, default=30)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    measure(args.rounds)


if __name__ == '__main__':
    main()
