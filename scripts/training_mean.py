"""Make the baseline of depth that knows no image: what training rooms look like on average.

    python scripts/training_mean.py data/*.npz

replaces sharp_ros/weights/training_mean_depth.npz, which `sharp-ros eval depth` compares with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import sys

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402

from sharp_ros.evaluation.depth import TRAINING_MEAN  # noqa: E402
from sharp_ros.evaluation.metrics import MAX_TRUTH, MIN_TRUTH  # noqa: E402


def save_training_mean(shards: Sequence[str | Path], path: Path) -> None:
    """Compute the baselines from shards of training rooms (`sharp_ros.training.dataset`).

    Args:
        shards: files with `d` [N, 192, 256], z-depth in metres.
        path: of the file to write: `mean_log_depth` [24, 32] float32, `median_depth` float32, and
            `images`, how many went into them.
    """
    total, count, images = np.zeros((24, 32)), np.zeros((24, 32)), 0
    sample = []
    for shard in shards:
        with np.load(shard) as file:
            depth = file['d'].astype(np.float32)
        known = (depth >= MIN_TRUTH) & (depth <= MAX_TRUTH)
        logs = np.log(np.where(known, depth, 1))
        blocks = (-1, 24, depth.shape[1] // 24, 32, depth.shape[2] // 32)
        total += logs.reshape(blocks).sum((0, 2, 4))
        count += known.reshape(blocks).sum((0, 2, 4))
        images += len(depth)
        sample.append(depth[known][::101])  # of all pixels; the median needs no more
    median = np.float32(np.median(np.concatenate(sample)))
    mean = (total / count).astype(np.float32)
    np.savez_compressed(path, mean_log_depth=mean, median_depth=median, images=images)


if __name__ == '__main__':
    save_training_mean(sys.argv[1:] or sys.exit(__doc__), TRAINING_MEAN)
