"""How wrong level and floor are by the first depth image, and by many.

    python bench/level.py [--rooms 4 5 6] [--json FILE]

Cameras that begin with a look that misleads (`synthetic.first_looks`) drive through simulated
rooms, with exact depth and poses, five images a second. Printed are the errors by the first image
alone (`level_from_depth`); after how many images the estimate is believed, and how wrong it then
is; and how often it was believed while more than 1.5 degrees or 5 cm off. Weights and thresholds
of `localization/level.py` were chosen on rooms 0 to 3. The time is that of the processor, an image
on average.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
import sys
import time
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402

from sharp_ros.camera import Intrinsics  # noqa: E402
from sharp_ros.files import write_atomically  # noqa: E402
from sharp_ros.localization.gravity import level_from_depth  # noqa: E402
from sharp_ros.localization.level import LevelEstimator  # noqa: E402
from sharp_ros.synthetic import first_look, FIRST_LOOKS, Room  # noqa: E402
from sharp_ros.synthetic.renderer import Atlas  # noqa: E402

CAMERA = Intrinsics.from_hfov(1.2, 320, 240)
RATE_HZ, DURATION = 5.0, 12.0
WRONG = (1.5, 0.05)  # degrees, metres


def dark(room: Room) -> Atlas:
    """No texture at all, since only depth is asked for."""
    count = len(room.patches[0])
    texels = np.zeros((1, 3), np.uint8)
    return Atlas(texels, np.zeros((count, 1), int), np.ones((count, 1, 2), int), np.ones(count))


def degrees_between(a: np.ndarray, b: np.ndarray) -> float:
    """Of two unit vectors."""
    return math.degrees(math.acos(float(np.clip(a @ b, -1, 1))))


def measured(room: Room, name: str) -> dict[str, Any]:
    """One camera in one room."""
    poses = first_look(room, name, DURATION, RATE_HZ)
    row: dict[str, Any] = {'look': name, 'first_level_deg': None, 'first_floor_m': None}
    row |= {'images': None, 'level_deg': None, 'floor_m': None, 'wrong': 0}
    estimator, spent = LevelEstimator(), 0.0
    for i, pose in enumerate(poses):
        depth = room.render(CAMERA, pose)[1]
        if i == 0:
            first = level_from_depth(depth, CAMERA)
            if first is not None:
                row['first_level_deg'] = degrees_between(first[2, :3], pose[2, :3])
                row['first_floor_m'] = float(pose[2, 3] - first[2, 3])
        begin = time.process_time()
        estimator.observe(depth, CAMERA, pose)
        level = estimator.level
        spent += time.process_time() - begin
        if level.doubt:
            continue
        off = degrees_between(level.up, np.array([0, 0, 1.0])), float(level.floor)
        row['wrong'] += off[0] > WRONG[0] or abs(off[1]) > WRONG[1]
        if row['images'] is None:
            row |= {'images': i + 1, 'level_deg': off[0], 'floor_m': off[1]}
    return {**row, 'ms_per_image': 1e3 * spent / len(poses)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rooms', type=int, nargs='+', default=[4, 5, 6], help='seeds')
    parser.add_argument('--json', type=Path, help='report file')
    args = parser.parse_args()
    rows = []
    for seed in args.rooms:
        room = Room(seed)
        room.__dict__['_atlas'] = dark(room)
        for name in FIRST_LOOKS:
            row = {'room': seed, **measured(room, name)}
            rows.append(row)
            texts = [f'{v:.2f}' if isinstance(v, float) else str(v) for v in row.values()]
            print('  '.join(f'{text:>8}' for text in texts), flush=True)
        if seed == args.rooms[0]:
            print('columns: ' + ', '.join(row))
    if args.json is not None:
        write_atomically(args.json, json.dumps(rows, indent=2) + '\n')


if __name__ == '__main__':
    main()
