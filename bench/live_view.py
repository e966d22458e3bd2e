"""What somebody who watches the live view costs a frame: blocks of frames with and without.

usage: python bench/live_view.py [--blocks 8] [--frames 40] [--json FILE]

The simulated room at 10 Hz through the pipeline with all that `make demo` subscribes to. The
watcher is a process that takes all that is sent and draws nothing, as a browser elsewhere does.
"""

from __future__ import annotations

import argparse
from itertools import cycle
import json
from pathlib import Path
import shlex
import subprocess
import sys
import time
from urllib.parse import urlsplit

import numpy as np

from sharp_ros.config import from_flat
from sharp_ros.evaluation.circumstances import circumstances
from sharp_ros.frame_result import GAUSSIANS, OCCUPANCY, POINTS
from sharp_ros.pipeline import Pipeline
from sharp_ros.process import prepare_process
from sharp_ros.sources import SyntheticSource
from sharp_ros.web import Controls, LiveView

WANTED = {POINTS, GAUSSIANS, OCCUPANCY, 'view/over_shoulder', 'view/over_shoulder/depth'}
WATCHER = """
import sys, viser, websockets.sync.client as client
for data in client.connect(
    sys.argv[1], subprotocols=[f'viser-v{viser.__version__}'], compression=None, max_size=None
):
    pass
"""


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--blocks', type=int, default=8)
    parser.add_argument('--frames', type=int, default=40, help='of a block')
    parser.add_argument('--model', default='nano')
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    prepare_process()
    config = from_flat({'model.name': args.model, 'web.port': 0})
    pipeline, source = Pipeline.from_config(config), SyntheticSource()
    recorded = [frame for frame, _ in zip(source.frames(), range(100), strict=False)]
    pipeline.warm_up(recorded[0].intrinsics)
    view = LiveView(config, Controls())
    took, sent = {False: [], True: []}, 0
    offered = []
    stamp_ns, frames = 0, cycle([*recorded, *reversed(recorded)])
    for block in range(2 * args.blocks):
        watched = bool(block % 2)
        watcher = watch(view) if watched else None
        before, begun = view._gate.sent, time.monotonic()
        for count in range(args.frames):
            frame, stamp_ns = next(frames), stamp_ns + 100_000_000
            frame = at(frame, stamp_ns, with_depth=pipeline.info.needs_depth)
            start = time.perf_counter()
            result = pipeline.process(frame, WANTED | view.wanted())
            handed = time.perf_counter()
            view.offer(result)
            end = time.perf_counter()
            if count >= args.frames // 5:  # the first ones come while the watcher does
                took[watched].append(end - start)
                if not watched:
                    offered.append(end - handed)
            time.sleep(max(0.0, 0.1 - (end - start)))
        if watcher is not None:
            sent += (view._gate.sent - before) / (time.monotonic() - begun) / args.blocks
            watcher.kill()
            watcher.wait()
            while view.watched:
                time.sleep(0.01)
    view.close()
    without, with_it = (1e3 * float(np.median(took[w])) for w in (False, True))
    report = {
        'model': args.model,
        'frames': {'without': len(took[False]), 'with': len(took[True])},
        'median_ms': {'without': round(without, 2), 'with': round(with_it, 2)},
        'ratio': round(with_it / without, 3),
        'sent_mb_s': round(sent / 1e6, 2),
        'offer_unwatched_us': round(1e6 * float(np.median(offered)), 1),
        **circumstances(),
        'command': shlex.join(['python', *sys.argv]),
    }
    print(json.dumps(report, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=2) + '\n')


def at(frame, stamp_ns, *, with_depth):
    """The frame at another time."""
    from dataclasses import replace

    return replace(
        frame, stamp_ns=stamp_ns, world_frame='odom', depth=frame.depth if with_depth else None
    )


def watch(view):
    """A process that watches, once it does."""
    place = urlsplit(view.url).netloc
    watcher = subprocess.Popen([sys.executable, '-c', WATCHER, f'ws://{place}/'])
    while not view.watched:
        time.sleep(0.01)
    return watcher


if __name__ == '__main__':
    main()
