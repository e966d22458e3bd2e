"""Procedural textures: walls, floors, fabrics, posters, streets and sky from random numbers.

No photograph goes in, so images rendered with them carry no licence but ours; those of models,
which `meshes.with_models` adds, carry theirs. One module: one short function for each kind, which
are read one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

SIZE = 256  # pixels, both sides; a power of two
LEVELS = SIZE.bit_length()  # of the mip pyramid, down to one pixel
LEVEL_OFFSET = np.cumsum([0] + [(SIZE >> level) ** 2 for level in range(LEVELS)])[:LEVELS]
LINEAR = ((np.arange(256) / 255.0) ** 2.2).astype(np.float32)  # of an encoded byte


@dataclass(frozen=True)
class Textures:
    """A set of square textures.

    Attributes:
        mips: [T, P, 3] uint8, all levels of the pyramid one behind the other, each row by row;
            level `l` starts at `LEVEL_OFFSET[l]`.
        linear_means: [T, 3] mean colour in linear light, never black.
        of_kind: indices of the textures of each kind.
    """

    mips: np.ndarray
    linear_means: np.ndarray
    of_kind: Mapping[str, np.ndarray]


def make_textures(counts: Mapping[str, int] | None = None, seed: int = 0) -> Textures:
    """Draw textures.

    Args:
        counts: how many of each kind, in the order of `COUNTS`, which is the default.
        seed: the same seed and counts give the same textures.
    """
    rng = np.random.default_rng(seed)
    level, kinds = [], []
    for kind, count in (COUNTS if counts is None else counts).items():
        for _ in range(count):
            level.append((np.clip(PAINTERS[kind](rng), 0, 1) * 255).astype(np.uint8))
            kinds.append(kind)
    mips = mip_pyramid(np.stack(level))
    of_kind = {kind: np.nonzero(np.array(kinds) == kind)[0] for kind in set(kinds)}
    of_kind['picture'] = np.concatenate([of_kind['poster'], of_kind['photo']])
    return Textures(mips, linear_means(mips), of_kind)


def linear_means(mips: np.ndarray) -> np.ndarray:  # [T, P, 3] -> [T, 3]
    """Mean colours in linear light, never black."""
    means = (mips[:, -1, :].astype(np.float32) / 255.0) ** 2.2
    return np.maximum(means, 0.02).astype(np.float32)


def mip_pyramid(level: np.ndarray) -> np.ndarray:  # [T, S, S, 3] -> [T, P, 3]
    """All levels of detail of pictures, see `Textures.mips`."""
    levels = [level.reshape(len(level), -1, 3)]
    while level.shape[1] > 1:
        half = level.shape[1] // 2
        sums = level.reshape(len(level), half, 2, half, 2, 3).astype(np.uint16).sum((2, 4))
        level = ((sums + 2) // 4).astype(np.uint8)
        levels.append(level.reshape(len(level), -1, 3))
    return np.concatenate(levels, 1)


def _plain(rng: np.random.Generator) -> np.ndarray:
    lightness = rng.choice([rng.uniform(0.6, 0.97), rng.uniform(0.1, 0.9)])
    base = _colour(rng, lightness, rng.beta(1, 5))
    noise = _clouds(
        rng, octaves=7, base=int(rng.integers(1, 5)), persistence=rng.uniform(0.4, 0.9)
    )
    return base * (1 + noise[..., None] * rng.uniform(0.0, 0.04))


def _wood(rng: np.random.Generator) -> np.ndarray:
    stretch = rng.uniform(0.04, 0.2)
    warp = _clouds(rng, base=8, stretch=(1, stretch), octaves=5)
    phase = warp * rng.uniform(1, 4)
    rings = np.arange(SIZE)[:, None] / SIZE * 2 * np.pi * rng.integers(1, 12)
    grain = np.sin(phase + rings) * 0.5 + 0.5
    fibre = _clouds(rng, base=32, stretch=(1, 0.06), octaves=3)
    light = WOODS[rng.integers(7)] * rng.uniform(0.75, 1.15)
    return _mix(grain * 0.6 + 0.2 + fibre * 0.08, light, light * rng.uniform(0.6, 0.9))


def _planks(rng: np.random.Generator) -> np.ndarray:
    wood = _wood(rng)
    count = rng.integers(2, 9)
    out = np.zeros_like(wood)
    height = SIZE // count
    for i in range(count):
        top = i * height
        bottom = SIZE if i == count - 1 else top + height
        shifted = np.roll(wood, (rng.integers(SIZE), rng.integers(SIZE)), (0, 1))
        out[top:bottom] = shifted[top:bottom] * rng.uniform(0.8, 1.15)
        out[top : top + max(1, rng.integers(1, 3))] *= rng.uniform(0.3, 0.9)
        joint = rng.integers(SIZE)
        out[top:bottom, joint : joint + 2] *= rng.uniform(0.3, 0.9)
    return out


def _brick(rng: np.random.Generator) -> np.ndarray:
    clay = _colour(rng, rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.5))
    mortar = _colour(rng, rng.uniform(0.5, 0.9), 0.05)
    out = np.ones((SIZE, SIZE, 3), np.float32) * mortar
    rows, columns, gap = rng.integers(4, 13), rng.integers(2, 6), rng.integers(1, 6)
    height, width = SIZE / rows, SIZE / columns
    for i in range(rows):
        for j in range(-1, columns + 1):
            left, top = int((j + (i % 2) * 0.5) * width), int(i * height)
            across = slice(max(0, left + gap), max(0, int(left + width)))
            out[top + gap : int(top + height), across] = clay * rng.uniform(0.75, 1.2)
    return out * (1 + 0.07 * _clouds(rng, octaves=7, base=4)[..., None])


def _tile(rng: np.random.Generator) -> np.ndarray:
    glaze = _colour(rng, rng.uniform(0.4, 0.95), rng.beta(1, 4) * 0.6)
    grout = _colour(rng, rng.uniform(0.2, 0.8), 0.05)
    count = rng.choice([1, 2, 3, 4, 6, 8])
    out = np.ones((SIZE, SIZE, 3), np.float32)
    side = SIZE / count
    other = glaze * rng.uniform(0.5, 1.0) if rng.uniform() < 0.3 else glaze
    spread = rng.uniform(0, 0.08)
    for i in range(count):
        rows = slice(int(i * side), int(i * side + side))
        for j in range(count):
            shade = rng.uniform(1 - spread, 1 + spread)
            columns = slice(int(j * side), int(j * side + side))
            out[rows, columns] = (glaze if (i + j) % 2 else other) * shade
    out *= 1 + rng.uniform(0, 0.08) * _clouds(rng, base=3)[..., None]
    gap = rng.integers(1, 5)
    for i in range(count):
        out[int(i * side) : int(i * side) + gap] = grout
        out[:, int(i * side) : int(i * side) + gap] = grout
    return out


def _fabric(rng: np.random.Generator) -> np.ndarray:
    warp = _colour(rng)
    weft = warp * rng.uniform(0.6, 0.95)
    pitch = rng.integers(2, 9)
    v, u = np.mgrid[:SIZE, :SIZE]
    weave = ((u // pitch + v // pitch) % 2) * 0.5 + 0.25
    out = _mix(weave + 0.2 * rng.standard_normal((SIZE, SIZE)), warp, weft)
    if rng.uniform() < 0.4:
        frequency = rng.integers(2, 12)
        phase = [u, v, u + v][rng.integers(3)] * frequency / SIZE
        striped = (np.floor(phase * 2) % 2)[..., None] > 0
        out = np.where(striped, out, out * _colour(rng, 0.7))
    return out * (1 + 0.05 * _clouds(rng, base=2)[..., None])


def _carpet(rng: np.random.Generator) -> np.ndarray:
    base = _colour(rng, rng.uniform(0.15, 0.7), rng.beta(1.2, 4))
    pile = rng.standard_normal((SIZE, SIZE)).astype(np.float32)
    pile = cv2.GaussianBlur(pile, (0, 0), rng.uniform(0.3, 1.2))
    pile /= pile.std()
    depth = rng.uniform(0.04, 0.25)
    return base * (1 + depth * pile[..., None] + 0.06 * _clouds(rng, base=2)[..., None])


def _marble(rng: np.random.Generator) -> np.ndarray:
    noise = _clouds(rng, base=2, octaves=7)
    veins = 1 - np.abs(np.sin(noise * rng.uniform(0.6, 2))) ** rng.uniform(0.2, 0.6)
    stone = _colour(rng, rng.uniform(0.5, 0.95), 0.06)
    strength = rng.uniform(0.3, 1)
    return _mix(veins * strength, stone, _colour(rng, rng.uniform(0.1, 0.6), 0.15))


def _concrete(rng: np.random.Generator) -> np.ndarray:
    base = _colour(rng, rng.uniform(0.3, 0.8), 0.04)
    strength = rng.uniform(0.03, 0.15)
    noise = _clouds(rng, octaves=8, base=int(rng.integers(2, 6)), persistence=0.7)
    return base * (1 + strength * noise[..., None])


def _terrazzo(rng: np.random.Generator) -> np.ndarray:
    out = np.ones((SIZE, SIZE, 3), np.float32) * _colour(rng, rng.uniform(0.4, 0.9), 0.1)
    for _ in range(rng.integers(100, 700)):
        centre = tuple(int(v) for v in rng.integers(0, SIZE, 2))
        axes = tuple(int(v) for v in rng.integers(1, 5, 2))
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(out, centre, axes, angle, 0, 360, _scalar(_colour(rng)), -1)
    return out


def _poster(rng: np.random.Generator) -> np.ndarray:
    out = np.ones((SIZE, SIZE, 3), np.float32) * _colour(rng, rng.uniform(0.3, 0.98))
    if rng.uniform() < 0.5:
        fade = np.linspace(0, 1, SIZE)[:, None] * np.ones((1, SIZE))
        out = _mix(fade, _colour(rng), _colour(rng)).astype(np.float32)
    out = np.ascontiguousarray(out, np.float32)
    for _ in range(rng.integers(1, 9)):
        colour = _scalar(_colour(rng))
        x0, y0, x1, y1 = (int(v) for v in rng.integers(0, SIZE, 4))
        if rng.uniform() < 0.5:
            cv2.rectangle(out, (x0, y0), (x1, y1), colour, _line_width(rng))
        else:
            cv2.circle(out, (x0, y0), int(rng.integers(5, 90)), colour, _line_width(rng))
    out = (np.clip(out, 0, 1) * 255).astype(np.uint8)
    for _ in range(rng.integers(0, 14)):
        cv2.putText(
            out,
            ''.join(chr(rng.integers(65, 122)) for _ in range(rng.integers(3, 18))),
            (int(rng.integers(-20, 120)), int(rng.integers(10, SIZE))),
            int(rng.integers(0, 6)),
            float(rng.uniform(0.3, 2.0)),
            tuple(float(v) * 255 for v in _colour(rng, rng.choice([0.1, 0.95]))),
            int(rng.integers(1, 4)),
            cv2.LINE_AA,
        )
    return out.astype(np.float32) / 255


def _screen(rng: np.random.Generator) -> np.ndarray:
    base = _colour(rng, rng.choice([0.05, 0.1, 0.95]))
    out = np.ascontiguousarray(np.ones((SIZE, SIZE, 3), np.float32) * base)
    for i in range(rng.integers(0, 24)):
        y = 10 + i * 10
        start, end = (int(rng.integers(5, 40)), y), (int(rng.integers(60, 250)), y)
        colour = _scalar(_colour(rng, rng.choice([0.5, 0.8])))
        cv2.line(out, start, end, colour, int(rng.integers(1, 5)))
    return out


def _spines(rng: np.random.Generator) -> np.ndarray:
    """Backs of books."""
    out = np.zeros((SIZE, SIZE, 3), np.float32)
    x = 0
    while x < SIZE:
        width = rng.integers(8, 40)
        out[:, x : x + width] = _colour(rng)
        out[:, x : x + 1] *= 0.3
        if rng.uniform() < 0.7:
            top = rng.integers(20, 120)
            label = _colour(rng)
            out[top : top + rng.integers(10, 100), x + 3 : x + max(4, width - 3)] = label
        out[: rng.integers(0, 50), x : x + width] = 0.06
        x += width
    return out


def _stripes(rng: np.random.Generator) -> np.ndarray:
    first = _colour(rng, rng.uniform(0.4, 0.95))
    second = _colour(rng, rng.uniform(0.3, 0.95))
    parity = np.arange(SIZE) * rng.integers(2, 20) * 2 // SIZE % 2
    out = np.where(parity[None, :, None] > 0, first, second) * np.ones((SIZE, 1, 1))
    return out * (1 + 0.03 * _clouds(rng)[..., None])


def _slats(rng: np.random.Generator) -> np.ndarray:
    base = _colour(rng, rng.uniform(0.4, 0.9), 0.1)
    phase = (np.arange(SIZE) * rng.integers(4, 24) / SIZE % 1)[:, None, None]
    return base * (0.5 + 0.5 * np.clip(phase * 1.6, 0, 1)) * np.ones((SIZE, SIZE, 1))


def _metal(rng: np.random.Generator) -> np.ndarray:
    base = _colour(rng, rng.uniform(0.4, 0.85), 0.04)
    return base * (1 + 0.06 * _clouds(rng, base=16, stretch=(1, 0.03), octaves=4)[..., None])


def _cardboard(rng: np.random.Generator) -> np.ndarray:
    base = np.array([0.72, 0.56, 0.38], np.float32) * rng.uniform(0.75, 1.15)
    out = np.ascontiguousarray(base * (1 + 0.04 * _clouds(rng, base=4, octaves=7)[..., None]))
    tape = int(rng.integers(0, SIZE))
    out[:, tape : tape + int(rng.integers(10, 30))] *= rng.uniform(0.8, 1.2)
    for _ in range(rng.integers(0, 3)):
        x, y, w, h = (int(v) for v in rng.integers(20, 110, 4))
        cv2.rectangle(out, (x, y), (x + w, y + h // 2), _scalar(_colour(rng, 0.9, 0.05)), -1)
        for row in range(y + 6, y + h // 2 - 4, 9):
            end = x + 6 + int(rng.integers(5, max(6, w - 6)))
            cv2.line(out, (x + 6, row), (end, row), (0.1, 0.1, 0.1), 2)
    return out


def _granite(rng: np.random.Generator) -> np.ndarray:
    """Stone of counters: specks of three colours in several sizes."""
    base = _colour(rng, rng.uniform(0.1, 0.85), 0.1)
    out = np.ones((SIZE, SIZE, 3), np.float32) * base
    for scale in (12, 30, 64):
        specks = _clouds(rng, octaves=3, base=scale, persistence=0.8)
        share = np.clip((specks - rng.uniform(0.2, 1.4)) * 3, 0, 1)
        out = _mix(share, np.asarray(_colour(rng, rng.uniform(0.05, 0.95), 0.15)), out)
    return out


def _worn(rng: np.random.Generator) -> np.ndarray:
    """Paint with stains, scratches and places where it came off."""
    paint = _colour(rng, rng.uniform(0.3, 0.9), rng.beta(1.2, 2.5))
    out = np.ascontiguousarray(paint * (1 + 0.08 * _clouds(rng, octaves=7)[..., None]))
    off = np.clip((_clouds(rng, octaves=7, persistence=0.7) - rng.uniform(1.0, 2.6)) * 6, 0, 1)
    out = np.ascontiguousarray(_mix(off, _colour(rng, rng.uniform(0.2, 0.6), 0.15), out))
    out = out.astype(np.float32)
    for _ in range(rng.integers(0, 25)):
        x, y, dx, dy = (int(v) for v in (*rng.integers(0, SIZE, 2), *rng.integers(-40, 40, 2)))
        cv2.line(out, (x, y), (x + dx, y + dy), _scalar(paint * rng.uniform(0.5, 1.3)), 1)
    return out


def _rug(rng: np.random.Generator) -> np.ndarray:
    """A few colours in a pattern that mirrors itself, with pile."""
    field = _clouds(rng, octaves=int(rng.integers(2, 5)), base=int(rng.integers(3, 9)))
    field = field + field[::-1]
    field = field + field[:, ::-1]
    if rng.uniform() < 0.5:
        field = field + field.T
    colours = np.stack([_colour(rng, rng.uniform(0.1, 0.85)) for _ in range(rng.integers(2, 6))])
    band = np.floor((field - field.min()) * rng.uniform(0.6, 2.0)).astype(int) % len(colours)
    return colours[band] * (1 + 0.08 * rng.standard_normal((SIZE, SIZE, 1)))


def _photo(rng: np.random.Generator) -> np.ndarray:
    """What looks like a photograph from afar: sky, ridges, blurred things, a frame."""
    fade = np.linspace(0, 1, SIZE)[:, None] * np.ones((1, SIZE))
    out = _mix(fade, _colour(rng, rng.uniform(0.5, 0.95)), _colour(rng, rng.uniform(0.3, 0.8)))
    rows = np.arange(SIZE)[:, None]
    for level in np.sort(rng.uniform(60, 220, rng.integers(1, 5))):
        ridge = level + rng.uniform(4, 30) * _clouds(rng, octaves=5)[:1]
        ground = _colour(rng, rng.uniform(0.1, 0.6)) * (1 + 0.2 * _clouds(rng, base=8)[..., None])
        out = np.where((rows > ridge)[..., None], ground, out)
    out = np.ascontiguousarray(out, np.float32)
    for _ in range(rng.integers(0, 12)):
        centre = tuple(int(v) for v in rng.integers(20, SIZE - 20, 2))
        axes = tuple(int(v) for v in rng.integers(4, 60, 2))
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(out, centre, axes, angle, 0, 360, _scalar(_colour(rng)), -1)
    out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.5, 3))
    out *= 1 + 0.06 * _clouds(rng, base=8, octaves=5)[..., None]
    edge = int(rng.integers(0, 16))
    cv2.rectangle(out, (0, 0), (SIZE - 1, SIZE - 1), _scalar(_colour(rng)), 2 * edge + 1)
    return out


def _sign(rng: np.random.Generator) -> np.ndarray:
    """One strong colour with a border, a symbol and large letters."""
    colour, dark = _colour(rng, 0.45, 0.9) * 255, rng.uniform() < 0.5
    ink = (10.0, 10.0, 10.0) if dark else (245.0, 245.0, 245.0)
    out = np.ascontiguousarray(np.ones((SIZE, SIZE, 3)) * colour).astype(np.uint8)
    cv2.rectangle(out, (8, 8), (SIZE - 9, SIZE - 9), ink, int(rng.integers(2, 14)))
    if rng.uniform() < 0.5:
        corners = rng.integers(50, SIZE - 50, (int(rng.integers(3, 6)), 2)).astype(np.int32)
        cv2.fillPoly(out, [corners], ink)
    else:
        text = ''.join(chr(rng.integers(65, 91)) for _ in range(rng.integers(2, 6)))
        cv2.putText(out, text, (24, int(rng.integers(110, 190))), 2, 2.2, ink, 8, cv2.LINE_AA)
    return out.astype(np.float32) / 255


def _keys(rng: np.random.Generator) -> np.ndarray:
    """Keys of a keyboard."""
    lightness = rng.choice([0.08, 0.15, 0.85])
    out = np.ones((SIZE, SIZE, 3), np.float32) * _colour(rng, lightness * 0.6, 0.05)
    rows, columns = 12, 16
    for i in range(rows):
        for j in range(columns):
            top, left = i * SIZE // rows, j * SIZE // columns
            key = np.s_[top + 3 : top + SIZE // rows - 1, left + 2 : left + SIZE // columns - 1]
            out[key] = lightness * rng.uniform(0.9, 1.2)
            out[top + 9 : top + 13, left + 6 : left + 10] = 1 - lightness
    return out


def _folds(rng: np.random.Generator) -> np.ndarray:
    """A hanging cloth."""
    phase = np.arange(SIZE)[None] / SIZE * 2 * np.pi * rng.integers(4, 14)
    wave = np.sin(phase + 0.8 * _clouds(rng, octaves=2)) * 0.5 + 0.5
    base = _colour(rng, rng.uniform(0.3, 0.95), rng.beta(1.2, 3))
    return base * (0.55 + 0.45 * wave[..., None])


def _asphalt(rng: np.random.Generator) -> np.ndarray:
    base = np.ones(3, np.float32) * rng.uniform(0.2, 0.55)
    grain = rng.standard_normal((SIZE, SIZE, 1)).astype(np.float32) * rng.uniform(0.05, 0.2)
    patches = 0.07 * _clouds(rng, octaves=7)[..., None]
    cracks = np.abs(_clouds(rng, octaves=6)) < rng.uniform(0, 0.03)
    return base * (1 + grain + patches) * np.where(cracks, 0.5, 1)[..., None]


def _paving(rng: np.random.Generator) -> np.ndarray:
    """Slabs or setts, joined like bricks."""
    rows = int(rng.choice([2, 4, 8, 12]))
    columns, gap = rows // 2 if rng.uniform() < 0.4 else rows, int(rng.integers(1, 4))
    stone = _colour(rng, rng.uniform(0.35, 0.75), 0.1)
    out = np.ones((SIZE, SIZE, 3), np.float32) * stone * rng.uniform(0.4, 0.8)
    height, width = SIZE / rows, SIZE / columns
    stagger = rng.choice([0, 0.5])
    for i in range(rows):
        for j in range(-1, columns + 1):
            left, top = int((j + (i % 2) * stagger) * width), int(i * height)
            across = slice(max(0, left + gap), max(0, int(left + width)))
            out[top + gap : int(top + height), across] = stone * rng.uniform(0.85, 1.15)
    return out * (1 + 0.08 * _clouds(rng, octaves=7, base=4, persistence=0.8)[..., None])


def _grass(rng: np.random.Generator) -> np.ndarray:
    green = np.array([0.35, 0.45, 0.18], np.float32) * rng.uniform(0.6, 1.2)
    dry = np.array([0.55, 0.5, 0.3], np.float32) * rng.uniform(0.6, 1.2)
    blades = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)), (1, 5), 1.5)
    patches = _clouds(rng, octaves=4) * 0.3 + rng.uniform(0, 0.6)
    return _mix(patches, dry, green) * (1 + 0.5 * blades[..., None])


def _leaves(rng: np.random.Generator) -> np.ndarray:
    """Foliage: leaf over leaf, dark between them."""
    green = np.array([0.25, 0.4, 0.13], np.float32) * rng.uniform(0.6, 1.5)
    green = green * np.exp(rng.normal(0, 0.15, 3)).astype(np.float32)
    out = np.ascontiguousarray(np.ones((SIZE, SIZE, 3), np.float32) * green * 0.25)
    for shade in np.linspace(0.35, 1.3, 900):
        centre = tuple(int(v) for v in rng.integers(0, SIZE, 2))
        axes = (int(rng.integers(4, 10)), int(rng.integers(2, 5)))
        colour = _scalar(green * shade * rng.uniform(0.8, 1.2))
        cv2.ellipse(out, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return out


def _window(rng: np.random.Generator) -> np.ndarray:
    """A window from outside: frame, dark or curtained panes, a reflection of the sky."""
    out = np.ascontiguousarray(np.ones((SIZE, SIZE, 3), np.float32))
    fade = np.linspace(rng.uniform(0.1, 0.6), 0.05, SIZE)[:, None, None]
    out *= fade * np.array([0.85, 0.95, 1.1], np.float32)
    if rng.uniform() < 0.4:
        side = int(rng.integers(30, 110))
        cloth = _folds(rng)
        out[:, :side], out[:, -side:] = cloth[:, :side] * 0.7, cloth[:, -side:] * 0.7
    frame = _scalar(_colour(rng, rng.choice([0.1, 0.4, 0.9]), 0.1))
    width = int(rng.integers(10, 26))
    cv2.rectangle(out, (0, 0), (SIZE - 1, SIZE - 1), frame, 2 * width)
    for x in np.linspace(0, SIZE, int(rng.integers(2, 5)))[1:-1]:
        cv2.line(out, (int(x), 0), (int(x), SIZE), frame, width)
    if rng.uniform() < 0.5:
        row = int(rng.integers(60, 200))
        cv2.line(out, (0, row), (SIZE, row), frame, width // 2)
    return out


def _overcast(rng: np.random.Generator) -> np.ndarray:
    """Density of clouds in the sky, grey."""
    density = _clouds(rng, octaves=6, base=int(rng.integers(2, 5)))
    return np.repeat((0.5 + 0.22 * density)[..., None], 3, 2)


def _clouds(
    rng: np.random.Generator,
    octaves: int = 6,
    base: int = 2,
    stretch: tuple[float, float] = (1, 1),
    persistence: float = 0.55,
) -> np.ndarray:  # -> [S, S]
    """Tileable value noise summed over octaves (Perlin's fractal sum), zero mean, unit spread."""
    total = np.zeros((SIZE, SIZE), np.float32)
    amplitude = 1.0
    for octave in range(octaves):
        rows, columns = (max(1, int(base * 2**octave * factor)) for factor in stretch)
        if max(rows, columns) > SIZE:
            break
        lattice = rng.standard_normal((rows, columns)).astype(np.float32)
        lattice = np.pad(lattice, ((1, 2), (1, 2)), mode='wrap')
        pixel = np.arange(SIZE, dtype=np.float32) + 0.5
        u, v = np.meshgrid(
            pixel / SIZE * columns - 0.5 + 1,  # +1: the border that np.pad put around
            pixel / SIZE * rows - 0.5 + 1,
        )
        total += amplitude * cv2.remap(
            lattice,
            u.astype(np.float32),
            v.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        amplitude *= persistence
    return (total - total.mean()) / (total.std() + 1e-6)


def _colour(
    rng: np.random.Generator, lightness: float | None = None, saturation: float | None = None
) -> np.ndarray:  # -> [3] float32
    lightness = rng.uniform(0.15, 0.95) if lightness is None else lightness
    saturation = rng.beta(1.2, 3) * 0.8 if saturation is None else saturation
    return np.array(colorsys.hls_to_rgb(rng.uniform(), lightness, saturation), np.float32)


def _mix(share: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)[..., None]
    return first * (1 - share) + second * share


def _scalar(colour: np.ndarray) -> tuple[float, ...]:
    """As OpenCV's drawing functions want a colour."""
    return tuple(float(v) for v in colour)


def _line_width(rng: np.random.Generator) -> int:
    return -1 if rng.uniform() < 0.7 else int(rng.integers(1, 9))


WOODS = np.array(
    [
        [0.80, 0.62, 0.42],
        [0.55, 0.36, 0.20],
        [0.36, 0.22, 0.12],
        [0.87, 0.75, 0.58],
        [0.65, 0.50, 0.36],
        [0.45, 0.40, 0.36],
        [0.75, 0.70, 0.64],
    ],
    np.float32,
)
PAINTERS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    'plain': _plain,
    'wood': _wood,
    'planks': _planks,
    'brick': _brick,
    'tile': _tile,
    'fabric': _fabric,
    'carpet': _carpet,
    'marble': _marble,
    'concrete': _concrete,
    'terrazzo': _terrazzo,
    'poster': _poster,
    'screen': _screen,
    'spines': _spines,
    'stripes': _stripes,
    'slats': _slats,
    'metal': _metal,
    'cardboard': _cardboard,
    'granite': _granite,
    'worn': _worn,
    'rug': _rug,
    'photo': _photo,
    'sign': _sign,
    'keys': _keys,
    'folds': _folds,
    'asphalt': _asphalt,
    'paving': _paving,
    'grass': _grass,
    'leaves': _leaves,
    'window': _window,
    'overcast': _overcast,
}
COUNTS = {
    'plain': 70,
    'wood': 36,
    'planks': 26,
    'brick': 14,
    'tile': 36,
    'fabric': 40,
    'carpet': 34,
    'marble': 14,
    'concrete': 24,
    'terrazzo': 8,
    'poster': 50,
    'screen': 14,
    'spines': 24,
    'stripes': 12,
    'slats': 8,
    'metal': 14,
    'cardboard': 12,
    'granite': 18,
    'worn': 24,
    'rug': 20,
    'photo': 40,
    'sign': 16,
    'keys': 4,
    'folds': 10,
    'asphalt': 8,
    'paving': 16,
    'grass': 8,
    'leaves': 10,
    'window': 16,
    'overcast': 8,
}
