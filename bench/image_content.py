"""How often images that show something are refused, and others are not.

    python bench/image_content.py [--real FOLDER] [--json FILE]

Good and bad images are made from simulated rooms, in two splits: thresholds were chosen on the
first, and are to be judged by the second. `--real` adds every picture in `FOLDER/*/rgb`, all of
which are good. Printed are how many were refused of how many, and the share of tiles with
structure of the image that came nearest to the threshold. The time is that of one 640x480 image.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
import json
from pathlib import Path
import sys
import time
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from sharp_ros.camera import Frame, Intrinsics  # noqa: E402
from sharp_ros.errors import InputError  # noqa: E402
from sharp_ros.files import write_atomically  # noqa: E402
from sharp_ros.image_content import content_of, ContentCheck  # noqa: E402
from sharp_ros.images import read_image  # noqa: E402
from sharp_ros.synthetic import Room  # noqa: E402

SPLITS = {'chosen on': range(10, 14), 'checked on': range(20, 24)}  # seeds of rooms
VIEWS = 4  # per room
CAMERA = Intrinsics.from_hfov(1.2, 640, 480)
Case = tuple[str, np.ndarray]


def noisy(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """8 bits with white noise."""
    return np.clip(np.rint(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Encoded and decoded."""
    return cv2.imdecode(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def soft(image: np.ndarray, sigma: float) -> np.ndarray:
    """Out of focus."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


def gray(image: np.ndarray) -> np.ndarray:
    """Three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def fall_off(shape: tuple[int, ...]) -> np.ndarray:  # -> [H, W, 1]
    """Of a lens, half a stop in the corners."""
    y, x = (np.linspace(-1, 1, n) for n in shape[:2])
    return (1 - 0.15 * (x**2 + y[:, None] ** 2))[..., None]


def smear(image: np.ndarray, length: int, direction: float) -> np.ndarray:
    """Motion blur."""
    kernel, c = np.zeros((length, length), np.float32), length // 2
    dx, dy = (round(c * v) for v in (np.cos(direction), np.sin(direction)))
    cv2.line(kernel, (c - dx, c - dy), (c + dx, c + dy), 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def good(image: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> Iterator[Case]:
    """What cameras make of a scene."""
    light, shape = image.astype(np.float64), image.shape
    yield 'as rendered', image
    yield 'grey, infrared', noisy(gray(image) * fall_off(shape) * 0.6, rng, 3)
    yield 'night: 8 % of the light', noisy(light * 0.08, rng, 1.5)
    yield 'night: gain, noise 12', noisy(light * 0.35, rng, 12)
    photons = rng.poisson(60 * (light / 255) ** 2.2) + rng.normal(0, 2, shape)
    yield 'night: 60 photons a pixel', np.clip(photons / 60 * 255, 0, 255).astype(np.uint8)
    heat = soft(gray(image).astype(np.float64), 2.5)
    yield 'thermal, low contrast', noisy(120 + (heat - heat.mean()) * 0.12, rng, 1.5)
    clear = np.exp(-np.where(depth > 0, depth, 8) / 1.5)[..., None]
    yield 'fog, 1.5 m', noisy(light * clear + 210 * (1 - clear), rng, 2)
    yield 'JPEG of quality 10', jpeg(image, 10)
    yield 'motion blur, 40 pixels', noisy(smear(image, 41, rng.uniform(0, np.pi)), rng, 2)
    yield 'out of focus, 4 pixels', noisy(soft(light, 4), rng, 2)
    yield 'noise 25', noisy(light, rng, 25)
    yield 'half of it white', np.clip(light * 2.2, 0, 255).astype(np.uint8)
    covered = light.copy()
    covered[:, : shape[1] * 2 // 3] = 15
    yield 'two thirds covered', noisy(covered, rng, 3)
    yield '160x120', cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA)
    wall = np.full(shape, rng.uniform(150, 225)) * fall_off(shape)
    edge, x, y = rng.uniform(12, 40), *rng.integers(50, 350, 2)
    wall[int(shape[0] * 0.87) :] -= edge
    wall[y : y + 60, x : x + 60] += edge / 3
    yield 'white wall, skirting, socket', noisy(soft(wall, 0.8), rng, 2)
    bars = np.kron(rng.integers(0, 2, (1, 8, 3)) * 191, np.ones((shape[0], shape[1] // 8, 1)))
    yield 'test pattern, bars', noisy(bars, rng, 1)


def bad(image: np.ndarray, rng: np.random.Generator) -> Iterator[Case]:
    """What cameras make of nothing."""
    light, shape = image.astype(np.float64), image.shape
    yield 'one grey', np.full(shape, rng.integers(0, 256), np.uint8)
    cap = np.full(shape, rng.uniform(0, 12))
    yield 'lens cap', noisy(cap, rng, rng.uniform(0.5, 4))
    cap = np.full(shape, rng.uniform(10, 60))
    yield 'lens cap, high gain', noisy(cap, rng, rng.uniform(6, 22))
    yield (
        'lens cap, high gain, JPEG',
        jpeg(noisy(cap, rng, rng.uniform(4, 15)), int(rng.integers(30, 90))),
    )
    grain = soft(rng.normal(0, rng.uniform(4, 15), shape), 1.0)
    grain += rng.normal(0, 1.5, (shape[0], 1, 1))
    grain.reshape(-1, 3)[rng.integers(0, shape[0] * shape[1], 200)] += 200
    yield 'lens cap, grain, rows, hot pixels', noisy(cap + grain, rng, 1)
    glow = soft(rng.normal(0, 1, (shape[0] // 8, shape[1] // 8, 3)), rng.uniform(8, 16))
    glow = cv2.resize(glow / glow.std(), shape[1::-1], interpolation=cv2.INTER_CUBIC)
    hand = (np.array([110, 60, 50]) + glow * rng.uniform(5, 35)) * rng.uniform(0.3, 1.6)
    yield 'hand over the lens', noisy(hand * fall_off(shape), rng, rng.uniform(1, 5))
    wall = rng.uniform(90, 235) * fall_off(shape) + glow * rng.uniform(0, 4)
    yield 'wall at 10 cm', noisy(wall, rng, rng.uniform(0.7, 3))
    yield 'overexposed', noisy(light * 30 + 150, rng, 2)
    yield 'underexposed', noisy(light * 0.006, rng, rng.uniform(0.3, 1))
    yield 'blur, 20 pixels', noisy(soft(light, 20), rng, 2)
    yield 'blur, 35 pixels, JPEG', jpeg(noisy(soft(light, 35), rng, 2), 70)


class Table:
    """Counts by case."""

    def __init__(self, split: str) -> None:
        self._split = split
        self.rows: dict[str, dict[str, Any]] = {}
        self._why: dict[str, Counter[str]] = {}

    def add(self, name: str, image: np.ndarray, *, is_good: bool) -> None:
        """Judge one image."""
        share, why = content_of(image).share, reason(image)
        row = self.rows.setdefault(
            name,
            {'split': self._split, 'good': is_good, 'images': 0, 'refused': 0, 'share': share},
        )
        self._why.setdefault(name, Counter())[why] += 1
        row['images'] += 1
        row['refused'] += bool(why)
        row['share'] = round((min if is_good else max)(row['share'], share), 3)
        row['reasons'] = {k: n for k, n in self._why[name].most_common() if k}

    def show(self) -> None:
        """Print it."""
        for name, row in self.rows.items():
            kind = 'good' if row['good'] else 'bad'
            print(
                f'{self._split:11}{kind:5}{name:34}{row["refused"]:4} of {row["images"]:4} refused'
                f'  {row["share"]:.3f}  {" ".join(f"{k} {n}" for k, n in row["reasons"].items())}'
            )
        for kind in (True, False):
            rows = [row for row in self.rows.values() if row['good'] is kind]
            if rows:
                refused, images = (sum(row[k] for row in rows) for k in ('refused', 'images'))
                print(
                    f'{self._split:11}{"good" if kind else "bad"}: {refused} of {images} refused'
                )


def reason(image: np.ndarray) -> str:
    """Why the pipeline would learn nothing from an image, or ''."""
    high, wide = image.shape[:2]
    frame = Frame(image, Intrinsics.from_hfov(1.2, wide, high), 0, 'camera')
    try:
        doubt = ContentCheck(measured=False)(frame)
    except InputError as error:
        doubt = error
    return '' if doubt is None else doubt.reason


def milliseconds(image: np.ndarray) -> float:
    """Median time of the check on one core."""
    times = []
    for _ in range(200):
        begin = time.perf_counter()
        content_of(image)
        times.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(times))


def main() -> None:
    """Judge, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--real', type=Path, help='folder of RGB-D sequences')
    parser.add_argument('--json', type=Path, help='file to write the table to')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    tables = []
    image = np.zeros((480, 640, 3), np.uint8)
    for split, seeds in SPLITS.items():
        tables.append(table := Table(split))
        for seed in seeds:
            room, rng = Room(seed), np.random.default_rng(seed)
            for t in np.linspace(0, room.loop_duration, VIEWS, endpoint=False):
                image, depth = room.render(CAMERA, room.pose(t))
                for name, case in good(image, depth, rng):
                    table.add(name, case, is_good=True)
                for name, case in bad(image, rng):
                    table.add(name, case, is_good=False)
        table.show()
    if args.real:
        tables.append(table := Table('real'))
        for path in sorted(args.real.glob('*/rgb/*')):
            table.add(path.parts[-3], read_image(path)[0], is_good=True)
        table.show()
    duration = milliseconds(image)
    print(f'{duration:.2f} ms for 640x480')
    if args.json:
        rows = [{'name': name, **row} for table in tables for name, row in table.rows.items()]
        report = {'ms_640x480': round(duration, 2), 'rows': rows}
        write_atomically(args.json, json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
