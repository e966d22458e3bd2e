"""Procedural textures: walls, floors, fabrics, posters and screens from random numbers alone.

No photograph goes in, so images rendered with them carry no licence but ours.
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
    mips = _mip_pyramid(np.stack(level))
    means = (mips[:, -1, :].astype(np.float32) / 255.0) ** 2.2
    of_kind = {kind: np.nonzero(np.array(kinds) == kind)[0] for kind in set(kinds)}
    of_kind['picture'] = of_kind['poster']  # the same, at the size of a picture on a wall
    return Textures(mips, np.maximum(means, 0.02).astype(np.float32), of_kind)


def _mip_pyramid(level: np.ndarray) -> np.ndarray:  # [T, S, S, 3] -> [T, P, 3]
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
    noise = _clouds(rng, octaves=7, base=rng.integers(1, 5), persistence=rng.uniform(0.4, 0.9))
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
    noise = _clouds(rng, octaves=8, base=rng.integers(2, 6), persistence=0.7)
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
}
