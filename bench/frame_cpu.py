"""Processor time of the steps of a frame on a CPU, all threads together.

    python bench/frame_cpu.py SOURCE [--frames 150] [--tree FOLDER] [--json FILE]

SOURCE is a recording with poses. Its images go through the pipeline as the node has it, with
cloud, Gaussians, grid and one view wanted; the first 20 do not count. What other programs do
meanwhile lengthens this little, unlike passed time; still, compare runs that took turns. `--tree`
measures another copy of the package, as of an earlier commit.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import islice
import json
from pathlib import Path
import sys
import time
from types import SimpleNamespace

HERE = Path(__file__).resolve().parents[1]
WANTED = {'points', 'gaussians', 'occupancy_grid', 'view/over_shoulder'}
WARM_UP = 20


def measure(source: str, count: int) -> dict[str, float]:
    """Mean milliseconds of each step, and of all."""
    from sharp_ros.process import prepare_process

    prepare_process()
    import numpy as np

    from sharp_ros import stopwatch
    from sharp_ros.config import ModelConfig, SharpConfig
    from sharp_ros.loading import load_engine
    from sharp_ros.pipeline import Pipeline
    from sharp_ros.sources import open_source

    # laps of all steps, in processor time
    stopwatch.time = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        perf_counter=time.process_time
    )
    frames = list(islice(open_source(source).frames(), count))
    pipeline = Pipeline(*load_engine(ModelConfig(device='cpu'), 'cpu'), SharpConfig())
    pipeline.warm_up(frames[0].intrinsics)
    rows: list[dict[str, float]] = []
    for frame in frames:
        start = time.process_time()
        result = pipeline.process(replace(frame, depth=None), WANTED)
        total = (time.process_time() - start) * 1e3
        # the stages of the network are part of it, and some of them in passed time
        laps = {k: ms for k, ms in result.timings_ms.items() if '.' not in k}
        rows.append({**laps, 'all': total})
    rows = rows[WARM_UP:]
    return {name: round(float(np.mean([row[name] for row in rows])), 2) for name in rows[0]}


def main() -> None:
    """Print a table, and write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source')
    parser.add_argument('--frames', type=int, default=150, help='images, at most')
    parser.add_argument('--tree', type=Path, default=HERE, help='folder that holds sharp_ros')
    parser.add_argument('--json', type=Path)
    options = parser.parse_args()
    sys.path[0] = str(options.tree.resolve())
    found = measure(options.source, options.frames)
    for name, ms in found.items():
        print(f'{name:12} {ms:7.2f} ms')
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    main()
