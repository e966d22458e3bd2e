"""SPZ of 1.18 million Gaussians, ours and splat-transform's, in turn: wall time, memory, size.

    python bench/spz.py photo.ply [--rounds 5]

The scene is a prediction of nano, twelve times at growing distances, with noise as another image
would have. `splat-transform` is looked for in PATH (npm install -g @playcanvas/splat-transform).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import median
import subprocess
import sys
from tempfile import TemporaryDirectory
import time

import numpy as np

from sharp_ros.gaussians import load_rows, plain_header

_NOISE = (((0, 3), 1e-3), ((3, 6), 1e-2), ((7, 10), 2e-2), ((10, 14), 1e-2))  # by columns


def write_scene(path: Path, rows: np.ndarray) -> int:
    """Twelve of a scene [N, 14] in one file; their number."""
    random = np.random.default_rng(0)
    copies = []
    for i in range(12):
        copy = rows.copy()
        copy[:, :3] *= 1 + 0.1 * i
        for columns, sigma in _NOISE:
            part = copy[:, slice(*columns)]
            part += random.normal(0, sigma, part.shape)
        copies.append(copy)
    together = np.concatenate(copies)
    path.write_bytes(plain_header(len(together)) + together.tobytes())
    return len(together)


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MB of a command."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f'{command[0]} failed')
    return time.perf_counter() - begin, used.ru_maxrss / 1e3


def main() -> None:
    """Print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('scene', type=Path)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        source = Path(folder, 'scene.ply')
        count = write_scene(source, load_rows(args.scene))
        commands = {
            'sharp-ros export': ['sharp-ros', 'export', str(source), '-o', f'{folder}/ours.spz'],
            'splat-transform': ['splat-transform', '-q', '-w', str(source), f'{folder}/peer.spz'],
        }
        files = dict(zip(commands, ('ours.spz', 'peer.spz'), strict=True))
        found = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                found[name].append(run(command))
        print(f'{count:,} Gaussians, medians of {args.rounds}, load {os.getloadavg()[0]:.0f}')
        for name, runs in found.items():
            size = Path(folder, files[name]).stat().st_size / 1e6
            seconds, memory = (median(values) for values in zip(*runs, strict=True))
            print(f'{name}: {seconds:.2f} s, {memory:.0f} MB, {size:.1f} MB of file')
        ours, peer = ([seconds for seconds, _ in runs] for runs in found.values())
        print(f'ratio {median(a / b for a, b in zip(ours, peer, strict=True)):.2f}')


if __name__ == '__main__':
    main()
