"""How fast Gaussians are rendered on a CPU, next to the targets and to plain torch.

    python bench/rasterizer.py [--json FILE] [--quick]

The scene is a wavy surface of opaque Gaussians with a texture, in one or two layers, seen from a
little beside the camera that it covers. The plain torch renderers, ours and that of gsplat (where
gsplat is installed), are far slower: they run once, on a share of the Gaussians, and the numba
renderer is timed on the same share. Which pixels each Gaussian reaches, which gsplat finds out on
a GPU only, is given to it and not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
import json
from pathlib import Path
import shlex
import sys
import time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from sharp_ros import se3
from sharp_ros.camera import Intrinsics
from sharp_ros.evaluation.circumstances import commit, machine
from sharp_ros.files import write_atomically
from sharp_ros.gaussians import Gaussians, srgb_from_linear
from sharp_ros.process import prepare_process
from sharp_ros.rasterizer import rasterize, reference

CAMERA = Intrinsics.from_hfov(1.1, 640, 480)
VIEW = se3.inverse(se3.look_at([0.2, -0.1, 0.0], [0.0, 0.0, 3.0], [0.0, -1.0, 0.0]))
TIMES_GSPLAT = 20.0  # how much faster than gsplat in plain torch we want to be
BLACK = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """Layers, rows and columns of Gaussians, and the images per second to reach on two cores."""

    grid: tuple[int, int, int]
    target_fps: float

    def gaussians(self) -> Gaussians:
        """One per cell of the image: as flat as a surface, as wide as its cells need."""
        layers, rows, columns = self.grid
        layer, y, x = np.mgrid[:layers, :rows, :columns]
        x, y = (x + 0.5) / columns - 0.5, (y + 0.5) / rows - 0.5
        z = 3 + 0.5 * np.sin(10 * x) * np.cos(8 * y) + 0.5 * layer
        width = CAMERA.width / CAMERA.fx, CAMERA.height / CAMERA.fy  # of the view at 1 m
        means = np.stack([x * width[0] * z, y * width[1] * z, z], -1)
        sigma = 0.6 * np.array([width[0] / columns, width[1] / rows, 0.3 * width[0] / columns])
        phases = np.array([80, 0, 40]) * x[..., None] + np.array([0, 60, 40]) * y[..., None]
        parts = (means, z[..., None] * sigma, 0.5 + 0.45 * np.sin(phases))
        means, scales, colors = (torch.tensor(p.reshape(-1, 3)).float() for p in parts)
        upright = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(means), 1)
        return Gaussians(means, upright, scales, torch.full((len(means),), 0.98), colors)


SCENES = {'98k': Scene((1, 308, 320), 15.0), '1.18M': Scene((2, 768, 768), 2.0)}


def timed(render: Callable[[], Any], runs: int) -> dict[str, float]:
    """After two runs that are not counted."""
    times = []
    for _ in range(2 + runs):
        start = time.perf_counter()
        render()
        times.append((time.perf_counter() - start) * 1e3)
    median = float(np.median(times[2:]))
    p95 = float(np.percentile(times[2:], 95))
    return {'median_ms': round(median, 2), 'p95_ms': round(p95, 2), 'fps': round(1e3 / median, 2)}


def measure(scene: Scene, runs: int, at_most: int) -> dict[str, Any]:
    """The numba renderer on a scene, and all renderers on at most so many Gaussians of it."""
    gaussians = scene.gaussians()
    numba = timed(partial(rasterize, gaussians, CAMERA, VIEW), runs)
    median = timed(partial(rasterize, gaussians, CAMERA, VIEW, median_depth=True), runs)
    return {
        'gaussians': len(gaussians),
        'image': f'{CAMERA.width}x{CAMERA.height}',
        'numba': {
            **numba,
            'target_fps': scene.target_fps,
            'met': numba['fps'] >= scene.target_fps,
        },
        'with_median_depth': median,
        'share': compare(gaussians.select(slice(None, None, -(-len(gaussians) // at_most))), runs),
    }


def compare(gaussians: Gaussians, runs: int) -> dict[str, Any]:
    """The plain torch renderers once, as multiples of the numba renderer's time."""
    numba = timed(partial(rasterize, gaussians, CAMERA, VIEW), runs)
    start = time.perf_counter()
    reference.rasterize(gaussians, CAMERA, VIEW, BLACK, 0.05)
    reference_ms = (time.perf_counter() - start) * 1e3
    report = {
        'gaussians': len(gaussians),
        'numba': numba,
        'reference_ms': round(reference_ms, 1),
        'reference_times_numba': round(reference_ms / numba['median_ms'], 1),
    }
    if find_spec('gsplat') is None:
        return {**report, 'not_measured': 'gsplat is not installed'}
    import plain_gsplat

    image, _, seconds = plain_gsplat.rendered_plainly(gaussians, CAMERA, VIEW)
    ratio = seconds * 1e3 / numba['median_ms']
    error = srgb_from_linear(image[..., :3]) - rasterize(gaussians, CAMERA, VIEW).color
    return {
        **report,
        'gsplat_torch_ms': round(seconds * 1e3, 1),
        'gsplat_torch_times_numba': round(ratio, 1),
        'target_times': TIMES_GSPLAT,
        'met': ratio >= TIMES_GSPLAT,
        'psnr_db': round(float(-10 * torch.log10(error.square().mean())), 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the report."""
    prepare_process()
    parser = argparse.ArgumentParser(description='measure rendering on a CPU')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the report there')
    parser.add_argument('--quick', action='store_true', help='few runs, a small share')
    args = parser.parse_args(arguments)
    runs, share = (3, 5_000) if args.quick else (30, 50_000)
    report: dict[str, Any] = {
        'scenes': {},
        'machine': machine(),
        'commit': commit(),
        'command': shlex.join(['python', *sys.argv]),
    }
    for name, scene in SCENES.items():
        report['scenes'][name] = measure(scene, runs, share)
        print(name, json.dumps(report['scenes'][name], indent=1), flush=True)
    if args.json is not None:
        write_atomically(args.json, json.dumps(report, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    with torch.inference_mode():
        sys.exit(main())
