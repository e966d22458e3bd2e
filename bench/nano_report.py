"""How good a depth model is, by one command, and the tables of docs/models.md made from it.

    python bench/nano_report.py [--model FILE] [--recording FOLDER] [--shards FILE...] [--quick]
    python bench/nano_report.py --model FILE --recording FOLDER --update-docs

The sets: scenes of the training generator that no training draws (their seeds begin at
`FIRST_SEED`; or held-out shards), those with sky apart; the simulated rooms of `sharp-ros eval
depth synthetic`, which are drawn by another program; the motorcycle; and a recording with depth.
Next to the accuracy stand baselines, and what mirroring, the field of view and disturbances do to
the depth, whether its uncertainty can be believed, and pictures of the worst images (never of the
recording, which may not be shown). `--update-docs` writes results, pictures and page; `--render`
the page alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
import json
import math
from pathlib import Path
import re
import shlex
import sys
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from sharp_ros.camera import Frame, Intrinsics  # noqa: E402
from sharp_ros.errors import ConfigError, InputError, SharpError  # noqa: E402
from sharp_ros.evaluation.depth_sets import Look, looking, Seen  # noqa: E402
from sharp_ros.evaluation.metrics import (  # noqa: E402
    depth_metrics,
    MAX_TRUTH,
    mean_metrics,
    MIN_TRUTH,
    uncertainty_metrics,
)
from sharp_ros.files import sha256_of, write_atomically  # noqa: E402
from sharp_ros.process import prepare_process  # noqa: E402
from sharp_ros.sources.base import CAMERA, WORLD  # noqa: E402

RESULTS = ROOT / 'docs' / 'results' / 'nano.json'
GALLERY = ROOT / 'docs' / 'images' / 'nano_failures.jpg'
PAGE = ROOT / 'docs' / 'models.md'

FIRST_SEED = 7_000_000  # of held-out scenes; training counts from 0
ROOM_SEEDS = range(100, 200)  # of simulated rooms
WIDTH = 256  # pixels of the images that are disturbed, so that pixels mean the same in all sets
FIELDS = (50, 60, 70, 80, 90, 100)  # horizontal field of view, degrees
CROPS = (1.0, 0.85, 0.7)  # of the sides, for photographs
PIXELS = 2000  # of every image, to judge uncertainty by
WORST = 2  # pictures of each rendered set

_Item = TypeVar('_Item')


class ImageSet(NamedTuple):
    """Images with true depth.

    Attributes:
        title: for the tables.
        all: a fresh iterator over every frame.
        some: those that the studies take, kept in memory.
        picture: whether pictures of it may be shown.
    """

    title: str
    all: Callable[[], Iterable[Frame]]
    some: Sequence[Frame]
    picture: bool = True


# --- images --------------------------------------------------------------------------------------


def drawn_scenes(indoors: int, outdoors: int, version: int = 3) -> Iterator[Frame]:
    """One image each of scenes of the training generator, so many without sky and with.

    Args:
        indoors: number of images without sky.
        outdoors: number of those with.
        version: of the generator; every model is judged by the images of version 3.
    """
    from sharp_ros.procedural.recipes import RECIPES
    from sharp_ros.procedural.rooms import scene_views
    from sharp_ros.procedural.textures import make_textures

    textures, recipe = make_textures(), RECIPES[version]
    left = {False: indoors, True: outdoors}
    seed = FIRST_SEED
    while any(left.values()):
        outside = (
            np.random.default_rng(seed).uniform() > 1 - recipe.outdoors
        )  # as `build_scene` does
        for view in scene_views(seed, textures, 1, recipe=recipe)[:1] if left[outside] else ():
            rows, columns = view.depth.shape
            k = Intrinsics.centred(float(view.focal), columns, rows)
            pose, depth = view.T_world_camera.astype(float), view.depth.astype(np.float32)
            frame = Frame(view.rgb, k, seed, CAMERA, pose, WORLD, depth)
            if left[has_sky(frame)]:  # not every view of a street shows any
                left[has_sky(frame)] -= 1
                yield frame
        seed += 1


def shard_frames(files: Sequence[Path]) -> Iterator[Frame]:
    """Every image of shards, see `sharp_ros.training.dataset`."""
    from sharp_ros.training.dataset import Shards

    shards = Shards(files)
    for i in range(len(shards)):
        view = shards[i]
        fx, fy, cx, cy = (float(value) for value in view.intrinsics)
        rows, columns = view.depth.shape
        yield Frame(
            np.ascontiguousarray(view.rgb),
            Intrinsics(fx, fy, cx - 0.5, cy - 0.5, columns, rows),
            i,
            CAMERA,
            view.T_world_camera.astype(float) if view.level else None,
            WORLD,
            view.depth.astype(np.float32),
        )


def room_views(rooms: int, places: int) -> Iterator[list[Frame]]:
    """Images from places on the drives through simulated rooms, so many of each room.

    Of every place: first as `sharp-ros eval depth synthetic` sees it, then with each of `FIELDS`,
    the widest first.
    """
    from sharp_ros.synthetic import Room

    zoomed = [Intrinsics.from_hfov(math.radians(field), 320, 240) for field in FIELDS[::-1]]
    cameras = [Intrinsics.from_hfov(1.2, 640, 480), *zoomed]
    for seed in ROOM_SEEDS[:rooms]:
        room = Room(seed)  # one at a time: its light takes 240 MB
        for i in range(places):
            pose = room.pose(room.loop_duration * i / places)
            shots = [room.render(camera, pose) for camera in cameras]
            yield [
                Frame(image, camera, i, CAMERA, pose, WORLD, depth)
                for camera, (image, depth) in zip(cameras, shots, strict=True)
            ]


def has_sky(frame: Frame) -> bool:
    """Whether rays of it meet nothing."""
    return frame.depth is not None and bool(np.isinf(frame.depth).any())


def resized(frame: Frame, width: int) -> Frame:
    """An image of that width, as it is if it is no wider; without its pose."""
    k = frame.intrinsics
    assert frame.depth is not None
    if k.width <= width:
        return replace(frame, T_world_camera=None)
    size = (width, round(k.height * width / k.width))
    return Frame(
        cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA),
        k.resized(*size),
        frame.stamp_ns,
        CAMERA,
        depth=cv2.resize(frame.depth, size, interpolation=cv2.INTER_NEAREST_EXACT),
    )


def mirrored(frame: Frame) -> Frame:
    """Left and right exchanged; without its pose."""
    k = frame.intrinsics
    image, depth = (
        None if plane is None else np.ascontiguousarray(plane[:, ::-1])
        for plane in (frame.image, frame.depth)
    )
    assert image is not None
    turned = replace(k, cx=k.width - 1 - k.cx)
    return replace(frame, image=image, intrinsics=turned, depth=depth, T_world_camera=None)


def crops(frame: Frame, shares: Sequence[float] = CROPS) -> list[Frame]:
    """Windows around the middle, whose field of view follows."""
    k = frame.intrinsics
    assert frame.depth is not None
    views = []
    for share in shares:
        width, height = round(k.width * share), round(k.height * share)
        x, y = (k.width - width) // 2, (k.height - height) // 2
        image, depth = (
            np.ascontiguousarray(plane[y : y + height, x : x + width])
            for plane in (frame.image, frame.depth)
        )
        window = k.cropped(x, y, width, height)
        views.append(Frame(image, window, frame.stamp_ns, CAMERA, depth=depth))
    return views


# --- disturbances --------------------------------------------------------------------------------

Disturb = Callable[[Frame, float], Frame]


def _noise(frame: Frame, sigma: float) -> Frame:
    rng = np.random.default_rng(0)
    noisy = frame.image + rng.normal(0, sigma, frame.image.shape)
    return replace(frame, image=np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def _darkness(frame: Frame, stops: float) -> Frame:
    return _gamma(frame, 1.0, 2.0 ** (-stops / 2.2))  # less light, before the curve of the camera


def _gamma(frame: Frame, exponent: float, gain: float = 1.0) -> Frame:
    curve = np.rint(255 * gain * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return replace(frame, image=curve[frame.image])


def _defocus(frame: Frame, sigma: float) -> Frame:
    return replace(frame, image=cv2.GaussianBlur(frame.image, (0, 0), sigma))


def _jpeg(frame: Frame, quality: float) -> Frame:
    _, data = cv2.imencode('.jpg', frame.image, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return replace(frame, image=cv2.imdecode(data, cv2.IMREAD_COLOR))


DISTURBANCES: dict[str, tuple[str, Sequence[float], Disturb]] = {
    'noise': ('noise of {:g} / 255', (5, 10, 20), _noise),
    'darkness': ('exposure -{:g} EV', (1, 2, 3), _darkness),
    'gamma': ('gamma {:g}', (0.7, 1.4), _gamma),
    'defocus': ('blur of {:g} px', (1, 2, 3), _defocus),
    'jpeg': ('JPEG quality {:g}', (50, 20, 10), _jpeg),
    'width': ('{:g} px wide', (640, 192, 128), lambda frame, width: resized(frame, int(width))),
}


# --- studies -------------------------------------------------------------------------------------


def mirror_study(look: Look, frames: Iterable[Frame]) -> float:
    """Median over frames of the median |log| of depth over that of the mirror image."""
    changes = []
    for frame in frames:
        plain = look(replace(frame, T_world_camera=None)).depth
        turned = look(mirrored(frame)).depth[:, ::-1]
        changes.append(_median_log(plain, turned, absolute=True))
    return float(np.nanmedian(changes))


def field_study(look: Look, places: Iterable[Sequence[Frame]]) -> dict[str, Any]:
    """Metres of the same things seen with several fields of view.

    Args:
        look: the model.
        places: the views from every place, of one camera each that zooms: they share their
            optical axis. The first one is what the others are compared with.

    Returns:
        `degrees` (of the first place), `ratio` (median over places of the median of depth over
        that of the first view, on the rays that all see) and `deviation`, the greatest of |ratio -
        1|; `places`, how many.
    """
    ratios, degrees = [], []
    for views in places:
        narrowest = min((view.intrinsics for view in views), key=lambda k: k.hfov)
        rays = narrowest.rays()
        depths = [_along(look(replace(v, T_world_camera=None)).depth, v, rays) for v in views]
        ratios.append([_median_log(depth, depths[0]) for depth in depths])
        degrees = degrees or [round(math.degrees(v.intrinsics.hfov), 1) for v in views]
    ratio = np.exp(np.nanmedian(ratios, 0))
    return {
        'places': len(ratios),
        'degrees': degrees,
        'ratio': [float(r) for r in ratio],
        'deviation': float(np.abs(ratio - 1).max()),
    }


def disturbance_study(look: Look, frames: Iterable[Frame]) -> dict[str, Any]:
    """Accuracy on images of `WIDTH` pixels as they are (`none`), and after each disturbance.

    `coverage` counts images that get no depth at all.
    """
    cases = [('none', '')]
    cases += [
        (kind, f'{s:g}') for kind, (_, strengths, _) in DISTURBANCES.items() for s in strengths
    ]
    rows: dict[tuple[str, str], list[dict[str, float]]] = {case: [] for case in cases}
    count = 0
    for frame in frames:
        count += 1
        small = resized(frame, WIDTH)
        shown = [small]
        for kind, (_, strengths, disturb) in DISTURBANCES.items():
            recorded = frame if kind == 'width' else small
            shown += [disturb(recorded, strength) for strength in strengths]
        for case, image in zip(cases, shown, strict=True):
            assert image.depth is not None
            row = _compared(look(image).depth, image.depth)
            rows[case] += [row] if row else []

    def accuracy(case: tuple[str, str]) -> dict[str, float]:
        if not rows[case]:
            return {'coverage': 0.0}
        mean = mean_metrics(rows[case])
        mean['coverage'] *= len(rows[case]) / count
        keys = ('abs_rel', 'abs_rel_median_scaled', 'scale_median', 'coverage')
        return {key: mean[key] for key in keys}

    study: dict[str, Any] = {'frames': count, 'none': accuracy(cases[0])}
    for kind, strength in cases[1:]:
        study.setdefault(kind, {})[strength] = accuracy((kind, strength))
    return study


def uncertainty_study(seen: Iterable[tuple[Frame, Seen]]) -> dict[str, Any] | None:
    """`uncertainty_metrics` of as many pixels of every frame, plain and `median_scaled`.

    None if the model knows no uncertainty, or gives no depth.
    """
    errors, scaled, stds = [], [], []
    for frame, (depth, log_std) in seen:
        if log_std is None or frame.depth is None:
            return None
        truth = frame.depth
        with np.errstate(invalid='ignore'):
            known = (truth >= MIN_TRUTH) & (truth <= MAX_TRUTH) & np.isfinite(depth) & (depth > 0)
        pixels = np.flatnonzero(known)
        if not len(pixels):
            continue
        pixels = pixels[np.linspace(0, len(pixels) - 1, PIXELS).astype(int)]
        error = np.log(depth.flat[pixels] / truth.flat[pixels])
        errors.append(error)
        scaled.append(error - np.median(error))
        stds.append(log_std.flat[pixels])
    if not stds:
        return None
    std = np.concatenate(stds).astype(np.float64)
    return {
        name: uncertainty_metrics(np.concatenate(parts).astype(np.float64), std)
        for name, parts in (('plain', errors), ('median_scaled', scaled))
    }


def sky_study(seen: Iterable[tuple[Frame, Seen]]) -> dict[str, float]:
    """Shares of the sky, and of what has depth, that get no depth, or are said to be empty."""
    counts = np.zeros((2, 3))  # sky, things; pixels, without depth, empty
    for frame, (depth, _) in seen:
        assert frame.depth is not None
        sky = np.isinf(frame.depth)
        for row, where in enumerate((sky, np.isfinite(frame.depth) & (frame.depth > 0))):
            part = depth[where]
            counts[row] += len(part), np.sum(~np.isfinite(part)), np.sum(np.isinf(part))
    shares = counts[:, 1:] / np.maximum(counts[:, :1], 1)
    return {
        'sky_pixels': int(counts[0, 0]),
        'sky_without_depth': float(shares[0, 0]),
        'sky_empty': float(shares[0, 1]),
        'things_without_depth': float(shares[1, 0]),
        'things_empty': float(shares[1, 1]),
    }


def gallery(worst: Iterable[tuple[str, Frame, Seen]]) -> bytes:
    """A JPEG with a row for each image: image, truth, prediction, error."""
    from sharp_ros.pictures.drawing import tile_pictures
    from sharp_ros.training.progress import validation_grid

    rows = {}
    for title, frame, seen in worst:
        small = resized(frame, WIDTH)
        assert small.depth is not None
        size = (small.intrinsics.width, small.intrinsics.height)
        depth = cv2.resize(seen.depth, size, interpolation=cv2.INTER_NEAREST_EXACT)
        strip = validation_grid(small.image[None] / 255, small.depth[None], depth[None])
        rows[title] = cv2.imdecode(np.frombuffer(strip, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    picture = tile_pictures(rows, 1, (4 * WIDTH, 192))[..., ::-1]
    _, data = cv2.imencode('.jpg', np.ascontiguousarray(picture), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return data.tobytes()


def _compared(depth: np.ndarray, truth: np.ndarray) -> dict[str, float] | None:
    """`depth_metrics`, None where the model gives too little depth."""
    try:
        return depth_metrics(depth, truth)
    except InputError as error:
        if error.reason != 'no_truth':
            raise
        return None


def _median_log(a: np.ndarray, b: np.ndarray, *, absolute: bool = False) -> float:
    """Of a / b where both are depth; NaN where they nowhere are."""
    with np.errstate(divide='ignore', invalid='ignore'):
        logs = np.log(a / b)
    logs = logs[np.isfinite(logs)]
    return float(np.median(np.abs(logs) if absolute else logs)) if len(logs) else math.nan


def _along(depth: np.ndarray, frame: Frame, rays: np.ndarray) -> np.ndarray:
    """Depth at the pixels nearest to rays [h, w, 2], x / z and y / z."""
    k = frame.intrinsics
    u = np.clip(np.rint(rays[..., 0] * k.fx + k.cx), 0, k.width - 1).astype(int)
    v = np.clip(np.rint(rays[..., 1] * k.fy + k.cy), 0, k.height - 1).astype(int)
    return depth[v, u]


# --- the report ----------------------------------------------------------------------------------


def open_sets(args: argparse.Namespace) -> tuple[dict[str, ImageSet], list[list[Frame]]]:
    """Everything to measure on, by the keys of the report; and the rooms in several `FIELDS`."""
    from sharp_ros.evaluation.depth import motorcycle_frames
    from sharp_ros.sources import open_source

    quick = args.quick
    if args.shards:
        frames = list(shard_frames(args.shards))
    else:
        count = (4, 2) if quick else (30, 12)
        frames = list(_tracked(drawn_scenes(*count), 'drawing scenes', sum(count)))
    held_out = [frame for frame in frames if not has_sky(frame)]
    outdoors = [frame for frame in frames if has_sky(frame)]
    count = (2, 2) if quick else (8, 4)
    views = list(_tracked(room_views(*count), 'lighting rooms', math.prod(count)))
    some = 2 if quick else 20
    sets = {
        'held_out': _in_memory('rendered scenes, held out', held_out, some),
        'outdoors': _in_memory('streets and yards, held out', outdoors, some),
        'rooms': _in_memory('simulated rooms', [first for first, *_ in views], some),
        'motorcycle': _in_memory('motorcycle (Middlebury 2014)', list(motorcycle_frames()), 1),
    }
    if args.recording is not None:
        source, step = open_source(str(args.recording), level=False), 20 if quick else 1
        chosen = list(islice(source.frames(), 0, None, max(step, 5)))
        title = f'recording `{args.recording.name}`'
        sets['recording'] = ImageSet(
            title,
            lambda: islice(source.frames(), 0, None, step),
            _evenly(chosen, some),
            picture=False,
        )
    return {name: it for name, it in sets.items() if it.some}, [zoomed for _, *zoomed in views]


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], bytes]:
    """The report and the gallery."""
    from sharp_ros.config import ModelConfig
    from sharp_ros.engine import Engine
    from sharp_ros.evaluation.circumstances import circumstances
    from sharp_ros.evaluation.depth import evaluate_depth
    from sharp_ros.models import load_predictor, WEIGHTS_FOLDER

    file = Path(args.model) if args.model != 'nano' else WEIGHTS_FOLDER / 'nano.safetensors'
    predictor, info = load_predictor(args.model)
    if file.suffix != '.safetensors':
        raise ConfigError(f'{file} is no .safetensors file; give weights of nano')
    engine = Engine(predictor, ModelConfig())
    sets, zoomed = open_sets(args)

    look = looking(engine)
    report: dict[str, Any] = {
        'model': Path(info.name).stem,
        'weights': {'file': file.name, 'bytes': file.stat().st_size, **weights_of(file)},
        'quick': args.quick,
        'sets': {},
        'mirror': {},
        'fields': {},
        'disturbances': {},
        'uncertainty': {},
    }
    shown: list[tuple[str, Frame, Seen]] = []
    for name, images in sets.items():
        # the node's scale needs poses one after the other
        node = info if name == 'recording' else None
        accuracy = evaluate_depth(_tracked(images.all(), f'{name}: accuracy'), engine, node)
        report['sets'][name] = {'title': images.title, **accuracy}
        seen = [(f, look(f)) for f in _tracked(images.some, f'{name}: uncertainty')]
        report['uncertainty'][name] = uncertainty_study(seen)
        if images.picture:
            shown += _worst(images.title, seen)
        if name == 'outdoors':
            report['sky'] = sky_study(seen)
            continue
        report['mirror'][name] = mirror_study(look, _tracked(images.some, f'{name}: mirror'))
        report['disturbances'][name] = disturbance_study(
            look, _tracked(images.some, f'{name}: disturbances')
        )
        if name == 'rooms':
            places = zoomed
        elif images.some[0].intrinsics.width * CROPS[-1] >= WIDTH:
            places = [crops(frame) for frame in images.some]
        else:  # blown up, crops would be blurred
            continue
        report['fields'][name] = field_study(look, _tracked(places, f'{name}: fields of view'))
    report['targets'] = targets(report)
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = shlex.join(['python', 'bench/nano_report.py', *words])
    return rounded({**report, **circumstances(), 'command': command}), gallery(shown)


def weights_of(file: Path) -> dict[str, Any]:
    """What a file of weights says of itself."""
    from safetensors import safe_open

    with safe_open(file, framework='np') as opened:
        metadata = opened.metadata() or {}
        shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
    return {
        'sha256': sha256_of(file),
        'parameters': sum(math.prod(shape) for shape in shapes),
        **{key: metadata[key] for key in ('version', 'samples', 'data') if key in metadata},
    }


def _worst(title: str, seen: Sequence[tuple[Frame, Seen]]) -> list[tuple[str, Frame, Seen]]:
    """Frames of the greatest AbsRel, with captions."""
    judged = []
    for frame, said in seen:
        assert frame.depth is not None
        error = _compared(said.depth, frame.depth)
        if error is not None:
            judged.append((error['abs_rel'], error['abs_rel_median_scaled'], frame, said))
    judged.sort(key=lambda row: -row[0])
    return [
        (f'{title}, worst {i}: AbsRel {raw:.2f}, scaled {scaled:.2f}', frame, said)
        for i, (raw, scaled, frame, said) in enumerate(judged[:WORST], 1)
    ]


def _in_memory(title: str, frames: Sequence[Frame], most: int) -> ImageSet:
    return ImageSet(title, lambda: frames, _evenly(frames, most))


def _evenly(frames: Sequence[Frame], most: int) -> list[Frame]:
    places = np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int)
    return [frames[i] for i in places]


def _tracked(items: Iterable[_Item], what: str, total: int | None = None) -> Iterator[_Item]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return iter(track(items, f'{what:32}', total, transient=True, console=console))


def rounded(value: Any) -> Any:
    """A report with four digits behind the point."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


# --- targets -------------------------------------------------------------------------------------

TARGETS: tuple[tuple[str, str, str, float], ...] = (
    ('recording, scaled: AbsRel', 'sets.recording.abs_rel_median_scaled', '≤', 0.13),
    ('recording, scaled: δ1', 'sets.recording.delta1_median_scaled', '≥', 0.85),
    (
        'recording, height and gravity given: AbsRel',
        'sets.recording.with_geometry.abs_rel',
        '≤',
        0.18,
    ),
    ('recording, height and gravity given: δ1', 'sets.recording.with_geometry.delta1', '≥', 0.70),
    ('recording, image alone: AbsRel', 'sets.recording.abs_rel', '≤', 0.22),
    ('recording, image alone: δ1', 'sets.recording.delta1', '≥', 0.60),
    ('recording: spread of the scale', 'sets.recording.scale_std', '≤', 0.10),
    ('rendered scenes, held out: AbsRel', 'sets.held_out.abs_rel', '≤', 0.10),
    ('metres from 50° to 100°, simulated rooms', 'fields.rooms.deviation', '≤', 0.05),
    ('parameters', 'weights.parameters', '≤', 12e6),
    ('bytes of the weights', 'weights.bytes', '≤', 20e6),
)


def targets(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is asked of the model, what was measured (None: not), and whether that will do."""
    rows = []
    for what, path, relation, goal in TARGETS:
        value: Any = report
        for key in path.split('.'):
            value = value.get(key) if isinstance(value, Mapping) else None
        met = None if value is None else value <= goal if relation == '≤' else value >= goal
        rows.append(
            {'what': what, 'relation': relation, 'goal': goal, 'measured': value, 'met': met}
        )
    return rows


# --- the page ------------------------------------------------------------------------------------

_SECTION = re.compile(r'(<!-- nano_report: (\w+) -->\n).*?(<!-- /nano_report -->)', re.DOTALL)


def updated(page: str, report: Mapping[str, Any]) -> str:
    """The page with the sections between its markers made from a report.

    Raises:
        ConfigError: if its sections are not those of `SECTIONS`.
    """
    found = [match[2] for match in _SECTION.finditer(page)]
    if sorted(found) != sorted(SECTIONS):
        raise ConfigError(
            f'the page has the sections {found}; it needs {list(SECTIONS)}, each as '
            '"<!-- nano_report: NAME -->" and "<!-- /nano_report -->" on lines of their own'
        )
    return _SECTION.sub(lambda m: f'{m[1]}\n{SECTIONS[m[2]](report)}\n\n{m[3]}', page)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _targets_section(report: Mapping[str, Any]) -> str:
    def number(value: float | None) -> str:
        if value is None:
            return '-'
        return f'{value / 1e6:.1f} M' if value > 1000 else f'{value:.3f}'

    marks = {True: 'met', False: '**missed**', None: 'not measured'}
    rows = report['targets']
    return table(
        ('target', 'goal', 'measured', ''),
        [
            (
                r['what'],
                f'{r["relation"]} {number(r["goal"])}',
                number(r['measured']),
                marks[r['met']],
            )
            for r in rows
        ],
    )


def _accuracy_section(report: Mapping[str, Any]) -> str:
    keys = ('abs_rel', 'delta1', 'rmse', 'abs_rel_median_scaled', 'delta1_median_scaled')
    rows = []
    for images in report['sets'].values():
        baselines = images['baselines']
        models = {
            f'**{report["model"]}**': images,
            'height and gravity given': images.get('with_geometry'),
            'times the scale of the node': images.get('published'),
            'and refined by motion': images.get('refined'),
            f'constant {baselines["constant"]["depth"]:.2f} m': baselines['constant'],
            'room mean': baselines['training_mean'],
            'floor plane': baselines.get('floor_plane'),
        }
        title, count = images['title'], str(images['frames'])
        for name, row in models.items():
            if row is None:
                continue
            numbers = [f'{row[key]:.3f}' for key in keys]
            spread = f'{row["scale_std"]:.3f}' if images['frames'] > 1 else '-'
            rows.append((title, count, name, *numbers, f'{row["scale_median"]:.2f}', spread))
            title = count = ''
    head = ('set', 'frames', 'depth', 'AbsRel', 'δ1', 'RMSE m')
    return table((*head, 'AbsRel scaled', 'δ1 scaled', 'scale', 'spread'), rows)


def _robustness_section(report: Mapping[str, Any]) -> str:
    parts = report['disturbances']
    titles = [report['sets'][name]['title'] for name in parts]
    rows = [('mirrored', *(f'{report["mirror"][name]:.3f}' for name in parts))]
    changes = [
        (
            'as it is: AbsRel, scaled, scale',
            *(_three(part['none'], '{:.3f} / {:.3f} / {:.2f}') for part in parts.values()),
        )
    ]
    for kind, (text, strengths, _) in DISTURBANCES.items():
        for strength in strengths:
            cells = []
            for part in parts.values():
                none, now = part['none'], part[kind][f'{strength:g}']
                if not now['coverage']:
                    cells.append('all lost')
                    continue
                change = {key: now[key] - none[key] for key in none}
                change['scale_median'] = now['scale_median'] / none['scale_median']
                lost = f', {-change["coverage"]:.0%} lost' if change['coverage'] < -0.005 else ''
                cells.append(_three(change, '{:+.3f} / {:+.3f} / x{:.2f}') + lost)
            changes.append((text.format(strength), *cells))
    fields = []
    for name, study in report['fields'].items():
        pairs = zip(study['degrees'], study['ratio'], strict=True)
        shown = ', '.join(f'{degrees:.0f}°: {ratio:.3f}' for degrees, ratio in pairs)
        fields.append((report['sets'][name]['title'], shown, f'{study["deviation"]:.1%}'))
    return '\n\n'.join(
        (
            table(('median change of the depth', *titles), rows),
            table(('set', 'metres, by field of view', 'most'), fields),
            table(('image', *titles), changes),
        )
    )


def _three(row: Mapping[str, float], form: str) -> str:
    keys = ('abs_rel', 'abs_rel_median_scaled', 'scale_median')
    return form.format(*(round(row[key], 3) + 0.0 for key in keys))  # not -0.000


def _uncertainty_section(report: Mapping[str, Any]) -> str:
    rows, deciles = [], []
    for name, study in report['uncertainty'].items():
        title = report['sets'][name]['title']
        for kind, text in (('plain', ''), ('median_scaled', ', scaled')):
            if study is None:
                continue
            row = study[kind]
            shares = [f'{row[key]:.0%}' for key in ('within_1', 'within_2')]
            means = [f'{row[key]:.3f}' for key in ('expected', 'measured')]
            rows.append((title + text, *means, *shares, f'{row["surest_half"]:.2f}'))
            if kind == 'plain':
                both = zip(row['expected_by_decile'], row['measured_by_decile'], strict=True)
                deciles.append((title, *(f'{e:.2f} / {m:.2f}' for e, m in both)))
    if not rows:
        return 'The model gives no uncertainty.'
    head = ('set', 'expected', 'measured', 'within 1 std', 'within 2 std', 'surest half')
    tenths = [f'{i}.' for i in range(1, 11)]
    return f'{table(head, rows)}\n\n{table(("expected / measured, by tenth", *tenths), deciles)}'


def _sky_section(report: Mapping[str, Any]) -> str:
    sky = report.get('sky')
    if sky is None:
        return 'Not measured.'
    rows = [
        (text, f'{sky[f"{key}_without_depth"]:.1%}', f'{sky[f"{key}_empty"]:.1%}')
        for key, text in (('sky', 'sky'), ('things', 'everything else'))
    ]
    return table(('pixels', 'without depth', 'called empty'), rows)


def _origin_section(report: Mapping[str, Any]) -> str:
    weights, machine = report['weights'], report['machine']
    about = ', '.join(f'{key} {weights[key]}' for key in ('version', 'data') if key in weights)
    return (
        f'`{weights["file"]}` ({about}), {weights["parameters"] / 1e6:.1f} M parameters, '
        f'{weights["bytes"] / 1e6:.1f} MB, SHA-256 `{weights["sha256"]}`; code '
        f'{report["commit"]}, {machine["cpu"]}:\n\n    {report["command"]}'
    )


SECTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    'targets': _targets_section,
    'accuracy': _accuracy_section,
    'robustness': _robustness_section,
    'uncertainty': _uncertainty_section,
    'sky': _sky_section,
    'origin': _origin_section,
}


# --- the command ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    prepare_process()
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    add = parser.add_argument
    add('--model', default='nano', help='nano (default), or the path of weights of it')
    add('--recording', type=Path, metavar='FOLDER', help='an RGB-D folder, or a bag with depth')
    add('--shards', type=Path, nargs='+', metavar='FILE', help='held-out images, not drawn ones')
    add('--quick', action='store_true', help='a few images of each set, to see that it works')
    add('--json', type=Path, metavar='FILE', help='write the report there')
    add('--gallery', type=Path, metavar='FILE', help='write the worst images there, .jpg')
    add('--update-docs', action='store_true', help=f'all of it below {RESULTS.parents[1].name}')
    add('--render', action='store_true', help='write the page from the results that are there')
    args = parser.parse_args(arguments)
    try:
        if args.render:
            report = json.loads(RESULTS.read_text())
        else:
            if args.quick and args.update_docs:
                raise ConfigError('--quick measures too little for the page; leave one out')
            report, pictures = measure(args)
            for file, data in (
                (args.json, _text(report)),
                (args.gallery, pictures),
                (RESULTS if args.update_docs else None, _text(report)),
                (GALLERY if args.update_docs else None, pictures),
            ):
                if file is not None:
                    write_atomically(file, data)
            sys.stdout.write(''.join(f'{part(report)}\n\n' for part in SECTIONS.values()))
        if args.render or args.update_docs:
            write_atomically(PAGE, updated(PAGE.read_text(), report))
    except SharpError as error:
        sys.stderr.write(f'{error}\n')
        return 1
    return 0


def _text(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=2, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    sys.exit(main())
