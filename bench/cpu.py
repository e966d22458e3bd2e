"""What makes SHARP fast on a CPU, each part beside what it replaced, as JSON.

    python bench/cpu.py FILE [--forward]

With `--forward` also a whole forward pass in float32, as the self-check runs it (minutes, 7 GB).
Weights and inputs are random; nothing here depends on their values.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.nn import functional as F

from sharp_ros import self_check
from sharp_ros.camera import Intrinsics
from sharp_ros.config import ModelConfig
from sharp_ros.engine import Engine
from sharp_ros.evaluation.circumstances import commit, machine
from sharp_ros.files import write_atomically
from sharp_ros.gaussians import load_ply, save_ply
from sharp_ros.network import backbone
from sharp_ros.network.composer import NdcGaussians
from sharp_ros.network.decoder import FusionBlock
from sharp_ros.network.predictor import SharpPredictor
from sharp_ros.network.seeded import filled_network
from sharp_ros.network.sharp import SharpNetworkConfig
from sharp_ros.network.unprojection import unproject
from sharp_ros.process import prepare_for_large_network, prepare_process

TOKENS, WINDOWS, DIM, HEADS = 577, 5, 1024, 16
PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16}


def median_ms(step: Callable[[], Any], runs: int = 9) -> float:
    """After one run that is not counted."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    return round(float(np.median(times[1:])), 2)


def transformer() -> dict[str, Any]:
    """One product, one attention, one residual sum of a block, five windows at a time."""
    report: dict[str, Any] = {}
    tokens = torch.randn(WINDOWS, TOKENS, DIM)
    for name, dtype in PRECISIONS.items():
        linear = backbone.Linear(DIM, 4 * DIM).requires_grad_(False).to(dtype)
        x = tokens.to(dtype)
        q, k, v = (torch.randn(WINDOWS, HEADS, TOKENS, 64).to(dtype) for _ in range(3))
        report[name] = {
            'product_ms': median_ms(lambda x=x, m=linear: m(x)),
            'product_before_ms': median_ms(lambda x=x, m=linear: F.linear(x, m.weight, m.bias)),
            'attention_ms': median_ms(lambda q=q, k=k, v=v: backbone._attend(q, k, v)),
            'attention_before_ms': median_ms(
                lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v)
            ),
        }
    scale, branch = backbone.LayerScale(DIM).requires_grad_(False), tokens.bfloat16()
    report['residual_ms'] = median_ms(lambda: scale(tokens, branch))
    report['residual_before_ms'] = median_ms(lambda: tokens + branch * scale.gamma)
    return report


def decoder_block() -> dict[str, Any]:
    """A fusion block at 768 x 768, 128 channels."""
    x = torch.rand(1, 128, 768, 768).to(memory_format=torch.channels_last)
    report: dict[str, Any] = {}
    for name, dtype in PRECISIONS.items():
        block = FusionBlock(128, 128, double=False).requires_grad_(False).to(dtype)
        block.to(memory_format=torch.channels_last)
        y = x.to(dtype)
        report[f'{name}_ms'] = median_ms(lambda b=block, y=y: b(y, y), 3)
    return report


def decoder_block_memory_kept() -> dict[str, Any]:
    """The same with large blocks of freed memory kept, which holds for the whole process."""
    prepare_for_large_network()
    return decoder_block()


def gaussians() -> dict[str, Any]:
    """From the space of the image to metres and to a file, as many as the network makes."""
    grid = SharpNetworkConfig().grid
    n = int(np.prod(grid))
    z = 1 + 9 * torch.rand(1, n, 1)
    ndc = NdcGaussians(
        means=torch.cat([z * (2 * torch.rand(1, n, 2) - 1), z], -1),
        scales=z * 10 ** (torch.rand(1, n, 3) - 3.5),
        quats=torch.randn(1, n, 4),
        colors=torch.rand(1, n, 3),
        opacities=torch.rand(1, n),
        grid=grid,
    )
    camera = Intrinsics(500.0, 510.0, 310.0, 250.0, 640, 480)
    made = unproject(ndc, camera)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'gaussians.ply'
        return {
            'shapes_ms': median_ms(lambda: unproject(ndc, camera)),
            'points_ms': median_ms(lambda: unproject(ndc, camera, covariances=False)),
            'ply_write_ms': median_ms(lambda: save_ply(path, made, camera), 5),
            'ply_read_ms': median_ms(lambda: load_ply(path), 5),
        }


def forward() -> dict[str, Any]:
    """One image in float32; the peak is that of the process, weights included."""
    engine = Engine(
        SharpPredictor(filled_network(SharpNetworkConfig())), ModelConfig(precision='fp32')
    )
    engine.predict(*self_check.check_image())
    status = Path('/proc/self/status').read_text(encoding='ascii').split()
    peak_kb = int(status[status.index('VmHWM:') + 1])
    return {'seconds': round(engine.last_ms / 1e3, 1), 'peak_gb': round(peak_kb / 1e6, 2)}


SECTIONS = {
    'transformer': transformer,
    'decoder_block': decoder_block,
    'decoder_block_memory_kept': decoder_block_memory_kept,
    'gaussians': gaussians,
    'forward_fp32': forward,
}


def main() -> int:
    """Each section in a process of its own, since memory settings hold for a whole one."""
    prepare_process()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('file', type=Path, help='where the JSON goes')
    parser.add_argument('--forward', action='store_true', help='a forward pass in float32 too')
    parser.add_argument('--section', choices=SECTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.section:
        with torch.inference_mode():
            print(json.dumps(SECTIONS[args.section]()))
        return 0
    report: dict[str, Any] = {'machine': machine(), 'commit': commit()}
    for name in SECTIONS:
        if name == 'forward_fp32' and not args.forward:
            continue
        command = [sys.executable, __file__, str(args.file), '--section', name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        report[name] = json.loads(done.stdout)
        print(name, json.dumps(report[name]), flush=True)
    write_atomically(args.file, json.dumps(report, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
