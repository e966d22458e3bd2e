"""Procedural textures: what the surfaces of the room are made of."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """Albedo of a surface: an image in linear RGB, laid out in metres or fitted to the patch."""

    image: np.ndarray  # [h, w, 3] float32
    side: float = 0.0  # of one repetition in metres; 0: one image fills the patch
    glow: float = 0.0  # radiance factor of what shines by itself

    @cached_property
    def mean(self) -> np.ndarray:  # -> [3]
        """Average albedo."""
        return np.array(cv2.mean(self.image)[:3])

    def sample(
        self, w: int, h: int, a: float, b: float, rng: np.random.Generator
    ) -> np.ndarray:  # -> [h, w, 3]
        """Albedo of a patch of `a` by `b` metres at `w` by `h` texels, shifted at random."""
        if not self.side:
            return cv2.resize(self.image[::-1], (w, h), interpolation=cv2.INTER_AREA)
        rows, columns = self.image.shape[:2]
        shift = rng.uniform(0, 1, 2)
        x = ((np.arange(w) + 0.5) / w * a / self.side + shift[0]) * columns
        y = ((np.arange(h) + 0.5) / h * b / self.side + shift[1]) * rows
        xs, ys = np.meshgrid((x % columns).astype(np.float32), (y % rows).astype(np.float32))
        return cv2.remap(self.image, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _noise(rng: np.random.Generator, size: int, falloff: float, stretch: float = 1) -> np.ndarray:
    """Tileable noise [size, size], zero mean, unit deviation, amplitude ~ frequency^-falloff.

    `stretch` > 1 draws it out along x, as fibres.
    """
    amplitude = _amplitude(size, falloff, stretch)
    phase = rng.random(amplitude.shape, np.float32) * np.float32(2 * np.pi)
    spectrum = np.empty(amplitude.shape, np.complex64)
    spectrum.real, spectrum.imag = amplitude * np.cos(phase), amplitude * np.sin(phase)
    field = np.fft.irfft2(spectrum, (size, size))
    return (field / field.std()).astype(np.float32)


@cache
def _amplitude(size: int, falloff: float, stretch: float) -> np.ndarray:
    fx, fy = np.meshgrid(np.fft.rfftfreq(size) * size, np.fft.fftfreq(size) * size)
    radius = np.hypot(fx * stretch, fy)
    radius[0, 0] = np.inf
    return (radius**-falloff).astype(np.float32)


def _tint(color: Rgb, value: np.ndarray) -> np.ndarray:  # [h, w] -> [h, w, 3]
    """Linear albedo of an sRGB colour times a factor image."""
    linear = np.array(color, np.float32) ** 2.2
    return np.clip(linear * value[..., None], 0.005, 0.9).astype(np.float32)


def plaster(rng: np.random.Generator, color: Rgb, rough: float = 0.05) -> Material:
    """Paint, stone, metal, clay: one colour with blotches and grain."""
    value = 1 + rough * (0.6 * _noise(rng, 512, 1.3) + 0.4 * _noise(rng, 512, 0.4))
    return Material(_tint(color, value), 1.7)


def wood(rng: np.random.Generator, color: Rgb, side: float = 0.9) -> Material:
    """Wood with its grain along x."""
    rings = np.sin(7 * _noise(rng, 512, 1.6, 9))
    return Material(_tint(color, 1 + 0.13 * rings + 0.1 * _noise(rng, 512, 0.8, 24)), side)


def fabric(rng: np.random.Generator, color: Rgb) -> Material:
    """Woven cloth."""
    x = np.arange(512) * (2 * np.pi * 64 / 512)
    weave = np.sin(x)[None] * np.sin(x)[:, None]
    value = 1 + 0.18 * weave + 0.12 * _noise(rng, 512, 1.0) + 0.08 * _noise(rng, 512, 0.1)
    return Material(_tint(color, value), 0.5)


def planks(rng: np.random.Generator, color: Rgb) -> Material:
    """A floor of planks of 1 m by 12.5 cm with shifted joints."""
    value = 1 + 0.1 * np.sin(6 * _noise(rng, 1024, 1.6, 8)) + 0.08 * _noise(rng, 1024, 0.7, 20)
    image = _tint(color, value)
    rows = 16
    height = 1024 // rows
    for row in range(rows):
        start = int(rng.integers(1024))
        for piece in range(2):
            columns = (start + piece * 512 + np.arange(512)) % 1024
            tone = rng.uniform(0.72, 1.2) * (1 + rng.uniform(-0.04, 0.04, 3))
            part = image[row * height : (row + 1) * height]
            part[:, columns] *= tone.astype(np.float32)
            part[:, columns[:2]] *= 0.45
        image[row * height : row * height + 2] *= 0.45
    return Material(np.clip(image, 0, 0.9), 2.0)


def tiles(rng: np.random.Generator, color: Rgb, grout: Rgb, side: float) -> Material:
    """Square tiles of `side` metres."""
    tone = rng.uniform(0.8, 1.15, (8, 8)).astype(np.float32)
    value = np.kron(tone, np.ones((128, 128), np.float32)) * (1 + 0.06 * _noise(rng, 1024, 1.2))
    image = _tint(color, value)
    joint = (np.arange(1024) % 128) < 5
    image[joint[:, None] | joint[None]] = np.array(grout, np.float32) ** 2.2
    return Material(image, 8 * side)


def bricks(rng: np.random.Generator, color: Rgb) -> Material:
    """A wall of bricks of 24 cm by 7.5 cm."""
    image = np.empty((1024, 1024, 3), np.float32)
    image[:] = np.array((0.75, 0.72, 0.68), np.float32) ** 2.2
    surface = 1 + 0.12 * _noise(rng, 1024, 0.9)
    for row in range(16):
        for brick in range(5):
            x0 = int((brick + 0.5 * (row % 2)) * 1024 / 5)
            columns = np.arange(x0 + 6, x0 + 204) % 1024
            rows = np.arange(row * 64 + 6, row * 64 + 64)[:, None]
            tone = tuple(np.array(color) * rng.uniform(0.75, 1.15))
            image[rows, columns] = _tint(tone, surface[rows, columns])
    return Material(image, 1.2)


def muted(rng: np.random.Generator, low: float = 0.2, high: float = 0.8) -> Rgb:
    """A colour as it is bought: any hue, seldom loud."""
    saturation = rng.uniform(0.1, 0.55) * rng.uniform(0.6, 1)
    return colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(low, high))


def flat(color: Rgb, glow: float = 0.0) -> Material:
    """One even colour, shining by itself where `glow` > 0."""
    return Material(_tint(color, np.ones((4, 4), np.float32)), 0.0, glow)


def picture(rng: np.random.Generator, width: int, height: int) -> Material:
    """An abstract print: a ground, overlapping shapes, a frame."""
    palette = np.array([muted(rng, 0.15, 0.98) for _ in range(6)])
    ramp = np.linspace(0, 1, height)[:, None, None]
    image = np.ascontiguousarray(
        (palette[0] * (1 - ramp) + palette[1] * ramp) * np.ones((1, width, 1)), np.float32
    )
    for _ in range(int(rng.integers(5, 14))):
        color = [float(c) for c in palette[rng.integers(2, 6)] * rng.uniform(0.7, 1.1)]
        x, y = int(rng.integers(width)), int(rng.integers(height))
        r = int(rng.uniform(0.06, 0.3) * min(width, height))
        shape = int(rng.integers(4))
        if shape == 0:
            cv2.circle(image, (x, y), r, color, -1, cv2.LINE_AA)
        elif shape == 1:
            cv2.rectangle(image, (x - r, y - r // 2), (x + r, y + r // 2), color, -1)
        elif shape == 2:
            points = rng.normal((x, y), r, (4, 2)).astype(np.int32)
            cv2.fillPoly(image, [points], color, cv2.LINE_AA)
        else:
            end = tuple(int(v) for v in rng.integers((width, height)))
            cv2.line(image, (x, y), end, color, max(2, r // 8), cv2.LINE_AA)
    border = max(4, min(width, height) // 22)
    dark = [float(c) for c in rng.uniform(0.05, 0.5, 3)]
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), (0.92, 0.91, 0.88), 3 * border)
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), dark, border)
    return Material(np.clip(image, 0.02, 0.95) ** 2.2)


def screen(rng: np.random.Generator) -> Material:
    """A monitor with windows and lines of text."""
    image = np.full((300, 480, 3), rng.uniform(0.1, 0.45, 3), np.float32)
    for _ in range(4):
        x, y = int(rng.integers(10, 260)), int(rng.integers(10, 160))
        w, h = int(rng.integers(120, 210)), int(rng.integers(80, 135))
        paper = float(rng.choice([0.12, 0.95]))
        cv2.rectangle(image, (x, y), (x + w, y + h), (paper, paper, paper), -1)
        cv2.rectangle(image, (x, y), (x + w, y + 12), [float(c) for c in rng.random(3)], -1)
        for line in range(y + 22, y + h - 6, 9):
            ink = [float(c) for c in rng.uniform(0.3, 0.8, 3)]
            end = x + 10 + int(rng.uniform(0.2, 0.85) * w)
            cv2.line(image, (x + 8, line), (end, line), ink, 3)
    cv2.rectangle(image, (0, 0), (479, 299), (0.03, 0.03, 0.03), 14)
    return Material(np.clip(image, 0.02, 1) ** 2.2, 0.0, 0.8)


def view_outside(rng: np.random.Generator) -> Material:
    """Sky, hills and trees behind a window, overexposed as seen from indoors."""
    h, w = 320, 400
    cloud = np.clip(0.5 + 0.35 * _noise(rng, 512, 1.6, 0.5)[:h, :w], 0, 1)[..., None]
    image = cloud * np.array((0.97, 0.97, 0.97)) + (1 - cloud) * np.array((0.62, 0.78, 0.95))
    image = np.ascontiguousarray(image, np.float32)
    x = np.arange(w)
    for depth in range(3):
        phase, base = rng.uniform(0, 6, 3), 0.55 + 0.13 * depth
        ridge = base + 0.05 * np.sin(x / 55 + phase[0]) + 0.02 * np.sin(x / 13 + phase[1])
        if depth == 1:
            ridge += 0.012 * rng.normal(size=w)
        hill = np.arange(h)[:, None] > ridge * h
        tone = np.array((0.45, 0.58, 0.5)) * (1.05 - 0.22 * depth) * rng.uniform(0.9, 1.1, 3)
        grain = 1 + 0.12 * _noise(rng, 512, 0.6)[:h, :w, None]
        image = np.where(hill[..., None], tone * grain, image).astype(np.float32)
    return Material(np.clip(image, 0.02, 1) ** 2.2, 0.0, 3.2)


def rug(rng: np.random.Generator) -> Material:
    """Stripes and diamonds, mirrored both ways."""
    palette = np.array([muted(rng) for _ in range(4)], np.float32)
    y, x = np.mgrid[0:240, 0:360]
    bands = ((np.abs(x - 180) // 18 + np.abs(y - 120) // 18) % 3).astype(int)
    edge = np.minimum(np.minimum(x, 359 - x), np.minimum(y, 239 - y))
    bands[edge < 26] = 3
    bands[(edge > 8) & (edge < 13)] = 0
    image = palette[bands] ** 2.2 * (1 + 0.15 * _noise(rng, 512, 0.3)[:240, :360, None])
    return Material(np.clip(image, 0.01, 0.9).astype(np.float32))
