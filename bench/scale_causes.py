"""What moves the metres of a depth model: renders in which one thing changes at a time.

    python bench/scale_causes.py [--model FILE] [--scenes 12] [--sets FOLDER] [--json FILE]

Scenes of the training generator that no training draws, each seen by one camera of which one
property changes. Of every image: the logarithm of true over predicted depth, median over pixels.
Printed are its mean over scenes at each value, and the standard deviation over scenes; the span of
those means, which is what the factor does to the metres; and the response, where the distance of
what is seen changes with the factor: the slope of the log of predicted distance over that of the
true one, both in focal lengths (which is what the network predicts). It is 1 for a model that sees
how far things are, and 0 for one that always says the same.

`--sets` adds real images, of the folders within FOLDER and the motorcycle: how far things are and
how detailed they look, there and in the generator's scenes, and what predicted distance follows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
import json
import math
from pathlib import Path
import shlex
import sys
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from bench.depth_sets import real_sets  # noqa: E402
from bench.nano_report import drawn_scenes, FIRST_SEED, resized, rounded, table  # noqa: E402
from sharp_ros.camera import Frame, Intrinsics  # noqa: E402
from sharp_ros.evaluation.depth_sets import Look, looking  # noqa: E402
from sharp_ros.evaluation.metrics import MAX_TRUTH, MIN_TRUTH  # noqa: E402
from sharp_ros.files import write_atomically  # noqa: E402
from sharp_ros.network.fine_detail import fine_detail  # noqa: E402
from sharp_ros.process import prepare_process  # noqa: E402

SIZE = (256, 192)
FIELD = 65.0  # degrees, of cameras whose field of view does not change
HEIGHT, PITCH = 1.2, -12.0  # metres, degrees, of cameras in rooms
REACH, DOWN = 1.0, 45.0  # metres from a table top, degrees downwards
LEAST_CHANGE = 0.15  # of log canonical distance (rms), to ask for the response to it
TURNS = 12  # directions tried in a room, until one shows more than a wall

FIELDS = (100.0, 85.0, 65.0, 50.0, 40.0, 33.0)
HEIGHTS = (0.2, 0.4, 0.8, 1.2, 1.6, 2.0)
PITCHES = (15.0, 0.0, -12.0, -30.0, -45.0, -60.0)
REACHES = (0.4, 0.55, 0.75, 1.0, 1.4, 2.0)
BLURS = (0.0, 0.7, 1.5, 3.0)
STOPS = (1.0, 0.0, -1.0, -2.0, -3.0)
REPEATS = (0.5, 1.0, 2.0, 4.0)  # of every texture, along each side, in place of one


class Case(NamedTuple):
    """One image: what changed, to which value."""

    factor: str
    value: float
    frame: Frame


class Row(NamedTuple):
    """What a model said of one image; logs of metres and, canonical, of metres over focal."""

    error: float  # true over predicted
    true: float
    predicted: float


def exposed(colour: np.ndarray, stops: float = 0.0) -> np.ndarray:
    """Linear colour [H, W, 3] to 8 bits; the brightest fifth is nearly white, at 0 stops."""
    gain = 0.7 / max(float(np.percentile(colour.mean(-1), 80)), 1e-3) * 2.0**stops
    x = colour * gain
    x = x / (1 + np.maximum(x - 0.8, 0))
    return (np.clip(x, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def cases_of(seed: int, textures: Any) -> Iterator[Case]:
    """Every image of one scene; factors for which the scene has no place are left out."""
    from sharp_ros.procedural.cameras import Camera
    from sharp_ros.procedural.raycast import render
    from sharp_ros.procedural.rooms import build_scene
    from sharp_ros.procedural.scene import Scene

    scene, rooms = build_scene(seed, textures)
    rng = np.random.default_rng(seed)
    if scene.sky is not None:
        return

    def shot(
        camera: Camera, field: float = FIELD, scene: Scene = scene
    ) -> tuple[Frame, np.ndarray] | None:
        """The frame, and its linear colour; None too near to something, or inside of it."""
        focal = SIZE[0] / 2 / math.tan(math.radians(field) / 2)
        seen = render(scene, textures, camera.pose(), focal, SIZE, np.random.default_rng(seed))
        if seen is None or np.percentile(seen.depth, 5) < MIN_TRUTH:
            return None
        k = Intrinsics.centred(focal, *SIZE)
        depth = seen.depth.astype(np.float32)
        return Frame(exposed(seen.colour), k, seed, 'camera', depth=depth), seen.colour

    def finer(repeats: float) -> Scene:
        """The same shapes under textures whose details are so many times smaller."""
        return replace(scene, uv=scene.uv * repeats, texel=scene.texel / repeats)

    def series(
        factor: str, values: Sequence[float], look: Callable[[float], Any]
    ) -> Iterator[Case]:
        shots = [look(value) for value in values]
        if all(shots):  # the same scenes at every value
            for value, taken in zip(values, shots, strict=True):
                yield Case(factor, value, taken[0])

    room = max(rooms, key=lambda r: (r.bounds[2] - r.bounds[0]) * (r.bounds[3] - r.bounds[1]))
    x0, y0, x1, y1 = room.bounds
    for _ in range(TURNS):
        spot = rng.uniform((x0 + 0.4, y0 + 0.4), (x1 - 0.4, y1 - 0.4))
        inside = any(
            a - 0.2 < spot[0] < c + 0.2 and b - 0.2 < spot[1] < d + 0.2
            for a, b, c, d in room.taken
        )
        yaw = math.atan2((y0 + y1) / 2 - spot[1], (x0 + x1) / 2 - spot[0]) + rng.normal(0, 0.4)

        def camera(
            height: float = HEIGHT,
            pitch: float = PITCH,
            spot: np.ndarray = spot,
            yaw: float = yaw,
        ) -> Camera:
            return Camera(yaw, math.radians(pitch), 0.0, np.array([*spot, height]))

        taken = None if inside else shot(camera())
        if taken and taken[0].depth is not None and np.median(taken[0].depth) > 1.0:
            break
    else:
        return
    frame, colour = taken
    yield from series('room: field of view, °', FIELDS, lambda v: shot(camera(), v))
    yield from series('room: camera height, m', HEIGHTS, lambda v: shot(camera(height=v)))
    yield from series('room: pitch, °', PITCHES, lambda v: shot(camera(pitch=v)))
    yield from series('room: finer texture, x', REPEATS, lambda v: shot(camera(), FIELD, finer(v)))
    yield from disturbed('room', frame, colour)
    flat = [target for target in scene.targets if target.yaw is None and target.position[2] > 0.5]
    if not flat:
        return
    x, y, top = flat[int(rng.integers(len(flat)))].position
    angle = rng.uniform(0, 2 * math.pi)

    def above(reach: float = REACH, down: float = DOWN) -> Camera:
        """Looks at a table top from so many metres, downwards by so many degrees."""
        away = math.cos(math.radians(down)) * reach
        position = np.array(
            [
                x + math.cos(angle) * away,
                y + math.sin(angle) * away,
                top + math.sin(math.radians(down)) * reach,
            ]
        )
        return Camera(angle + math.pi, -math.radians(down), 0.0, position)

    yield from series('table top: distance, m', REACHES, lambda v: shot(above(reach=v)))
    yield from series('table top: field of view, °', FIELDS, lambda v: shot(above(), v))
    yield from series('table top: pitch, °', (-20.0, -45.0, -75.0), lambda v: shot(above(down=-v)))
    yield from series(
        'table top: finer texture, x', REPEATS, lambda v: shot(above(), FIELD, finer(v))
    )
    taken = shot(above())
    if taken:
        yield from disturbed('table top', *taken)


def disturbed(place: str, frame: Frame, colour: np.ndarray) -> Iterator[Case]:
    """One image out of focus, and exposed otherwise."""
    for sigma in BLURS:
        image = cv2.GaussianBlur(frame.image, (0, 0), sigma) if sigma else frame.image
        yield Case(f'{place}: blur, px', sigma, replace(frame, image=image))
    for stops in STOPS:
        image = exposed(colour, stops)
        yield Case(f'{place}: exposure, EV', stops, replace(frame, image=image))


def judged(case: Case, look: Look) -> Row:
    """The error, and the medians of true and predicted canonical depth, in logs."""
    truth, depth = case.frame.depth, look(case.frame).depth
    assert truth is not None
    known = (truth >= MIN_TRUTH) & (truth <= MAX_TRUTH) & np.isfinite(depth) & (depth > 0)
    focal = math.log(case.frame.intrinsics.fx)
    true, said = np.log(truth[known]), np.log(depth[known])
    return Row(*(float(np.median(v)) for v in (true - said, true - focal, said - focal)))


def study(rows: Mapping[str, Mapping[float, Sequence[Row]]]) -> dict[str, Any]:
    """By factor: scenes, and at each value mean error, its deviation, and the response.

    Args:
        rows: by factor and value, of the same scenes in the same order.
    """
    found: dict[str, Any] = {}
    for factor, by_value in rows.items():
        parts = np.array([by_value[value] for value in by_value])  # [values, scenes, 3]
        within = parts - parts.mean(0)  # of each scene
        spread = float((within[..., 1] ** 2).mean())
        changes = spread > LEAST_CHANGE**2
        slope = float((within[..., 1] * within[..., 2]).mean()) / spread if changes else None
        found[factor] = {
            'scenes': parts.shape[1],
            'values': list(by_value),
            'true_over_predicted': [float(v) for v in parts[..., 0].mean(1)],
            'std': [float(v) for v in parts[..., 0].std(1)],
            'span': float(np.ptp(parts[..., 0].mean(1))),
            'response': slope,
        }
    return found


def tables(found: Mapping[str, Any]) -> str:
    """Markdown."""
    return table(
        ('factor', 'scenes', 'log of true over predicted (std over scenes)', 'span', 'response'),
        [
            (
                factor,
                str(row['scenes']),
                ', '.join(
                    f'{value:g}: {mean:+.2f} ({std:.2f})'
                    for value, mean, std in zip(
                        row['values'], row['true_over_predicted'], row['std'], strict=True
                    )
                ),
                f'{row["span"]:.2f}',
                '-' if row['response'] is None else f'{row["response"]:.2f}',
            )
            for factor, row in found.items()
        ],
    )


# --- real images ---------------------------------------------------------------------------------

BOUNDS = (0.1, 0.35, 0.6, 1.0, 1.7, 3.0, 24.0)  # of distance, metres for a focal length of 160 px
FOCAL = 160.0
PER_SET = 20  # images, evenly chosen
DRAWN = 30  # scenes of the generator


def by_distance(sets: Mapping[str, Sequence[Frame]]) -> dict[str, list[float]]:
    """Of pixels at distances within `BOUNDS`, over sets that count alike.

    Args:
        sets: images as wide as the network sees them, with depth.

    Returns:
        `share` of the pixels with depth, and `detail`, the mean of `fine_detail` there (NaN where
        there are none).
    """
    shares, sums = np.zeros((2, len(sets), len(BOUNDS) - 1))
    for k, frames in enumerate(sets.values()):
        for frame in frames:
            truth, shown = frame.depth, fine_detail(frame.image)
            assert truth is not None
            known = (truth >= MIN_TRUTH) & (truth <= MAX_TRUTH)
            bins = np.digitize(truth[known] * FOCAL / frame.intrinsics.fx, BOUNDS)
            for i in range(len(BOUNDS) - 1):
                inside = shown[known][bins == i + 1]
                shares[k, i] += len(inside)
                sums[k, i] += inside.sum(dtype=np.float64)
    count = shares.sum(1, keepdims=True)
    shares, sums = shares / count, sums / count
    with np.errstate(invalid='ignore'):
        means = sums.sum(0) / shares.sum(0)
    return {'share': shares.mean(0).tolist(), 'detail': means.tolist()}


def follows(sets: Mapping[str, Sequence[tuple[Row, float]]]) -> dict[str, dict[str, Any]]:
    """What predicted distance follows: linear fits over images, of sets that count alike.

    Args:
        sets: what a model said of images, and their mean detail.

    Returns:
        By cause, `true distance`, `detail` and `both`: slopes, and the explained share of the
        variance (`r2`).
    """
    rows = [(row, shown, 1 / len(part)) for part in sets.values() for row, shown in part]
    said = np.array([row.predicted for row, _, _ in rows])
    causes = np.array([(row.true, shown) for row, shown, _ in rows])
    root = np.sqrt([weight for _, _, weight in rows])
    variance = float((((said - np.average(said, weights=root**2)) * root) ** 2).sum())
    found = {}
    for name, columns in {'true distance': [0], 'detail': [1], 'both': [0, 1]}.items():
        matrix = np.column_stack([np.ones(len(said)), causes[:, columns]])
        fit = np.linalg.lstsq(matrix * root[:, None], said * root, rcond=None)[0]
        left = float((((said - matrix @ fit) * root) ** 2).sum())
        found[name] = {'slopes': fit[1:].tolist(), 'r2': 1 - left / variance}
    return found


def real_study(folder: Path, look: Look, version: int) -> dict[str, Any]:
    """`by_distance` of real and drawn images, and `follows` of the real ones.

    Args:
        folder: with the sets.
        look: of the model.
        version: of the generator.
    """
    sets, judgements = {}, {}
    for name, frames in real_sets(folder).items():
        every = [frame for frame in frames if frame.depth is not None]
        chosen = [
            resized(every[i], SIZE[0])
            for i in np.linspace(0, len(every) - 1, min(PER_SET, len(every))).astype(int)
        ]
        sets[name] = chosen
        judgements[name] = [
            (judged(Case(name, 0.0, frame), look), float(fine_detail(frame.image).mean()))
            for frame in chosen
        ]
    return {
        'bounds': BOUNDS,
        'real': by_distance(sets),
        'drawn': by_distance({'drawn': list(drawn_scenes(DRAWN, 0, version))}),
        'follows': follows(judgements),
    }


def real_tables(found: Mapping[str, Any]) -> str:
    """Markdown."""
    edges = found['bounds']
    bins = [f'{a:g}-{b:g}' for a, b in pairwise(edges)]
    distances = table(
        ('distance for a focal length of 160 px, m', *bins),
        [
            (f'{what}: {text}', *(form.format(value) for value in found[what][key]))
            for what in ('real', 'drawn')
            for key, text, form in (
                ('share', 'share of pixels', '{:.0%}'),
                ('detail', 'log detail', '{:.2f}'),
            )
        ],
    )
    fits = table(
        ('predicted distance follows', 'slopes', 'R²'),
        [
            (cause, ', '.join(f'{slope:+.2f}' for slope in fit['slopes']), f'{fit["r2"]:.2f}')
            for cause, fit in found['follows'].items()
        ],
    )
    return f'{distances}\n\n{fits}'


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    prepare_process()
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    add = parser.add_argument
    add('--model', default='nano', help='nano (default), or the path of weights of it')
    add('--scenes', type=int, default=12, metavar='N', help='number of scenes; default: 12')
    add(
        '--generator',
        type=int,
        default=3,
        metavar='VERSION',
        help='version of the images that --sets compares with; default: 3',
    )
    add('--sets', type=Path, metavar='FOLDER', help='folder of RGB-D folders in TUM layout')
    add('--json', type=Path, metavar='FILE', help='report file')
    args = parser.parse_args(arguments)

    from sharp_ros.config import ModelConfig
    from sharp_ros.engine import Engine
    from sharp_ros.evaluation.circumstances import circumstances
    from sharp_ros.models import load_predictor
    from sharp_ros.procedural.textures import make_textures

    look = looking(Engine(load_predictor(args.model)[0], ModelConfig()))
    textures = make_textures()
    rows: dict[str, dict[float, list[Row]]] = {}
    used, seed = 0, FIRST_SEED
    while used < args.scenes:
        cases = list(cases_of(seed, textures))
        used += bool(cases)
        for case in cases:
            rows.setdefault(case.factor, {}).setdefault(case.value, []).append(judged(case, look))
        sys.stderr.write(f'\r{used} of {args.scenes} scenes ')
        seed += 1
    sys.stderr.write('\n')
    found = study(rows)
    report: dict[str, Any] = {'model': args.model, 'factors': found}
    sys.stdout.write(tables(found) + '\n')
    if args.sets is not None:
        report['real'] = real_study(args.sets, look, args.generator)
        sys.stdout.write(f'\n{real_tables(report["real"])}\n')
    if args.json is not None:
        words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
        command = shlex.join(['python', 'bench/scale_causes.py', *words])
        report.update(circumstances(), command=command)
        write_atomically(args.json, json.dumps(rounded(report), indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
