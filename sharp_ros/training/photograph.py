"""What a camera makes of a clean picture: lens, exposure, sensor and processing."""

from __future__ import annotations

import cv2
import numpy as np

GOOD_CAMERA = 0.2  # share of the samples as sharp and clean as the picture is


def photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera makes of a clean picture: [H, W, 3] uint8 to float32 in 0..1.

    Lens, exposure, sensor and processing follow each other as in a camera. Their strength is drawn
    without regard to zoom and distance, so that sharpness says nothing about metres.
    """
    good = rng.uniform() < GOOD_CAMERA
    x = (image if good else _lens(image, rng)).astype(np.float32) / 255
    x = _shading(_exposure(x, rng), rng)
    x = _to_bytes(x) if good else _processing(_sensor(x, rng), rng)
    return x.astype(np.float32) / 255


def _lens(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Defocus, motion blur, a coarse sensor, and chromatic aberration; [H, W, 3] uint8."""
    height, width = x.shape[:2]
    kind = rng.uniform()
    if kind < 0.15:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.3, 2.4))
    elif kind < 0.22:
        x = cv2.filter2D(x, -1, _disc(rng.uniform(0.8, 2.5)))
    elif kind < 0.32:
        x = cv2.filter2D(x, -1, _motion_kernel(int(rng.integers(3, 8)), rng.uniform(0, np.pi)))
    elif kind < 0.45:
        share = rng.uniform(0.35, 0.9)
        size = (int(width * share), int(height * share))
        small = cv2.resize(x, size, interpolation=cv2.INTER_AREA)
        x = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.uniform() < 0.2:  # red and blue are magnified a little differently from green
        channels = list(cv2.split(x))
        for channel in (0, 2):
            zoom = 1 + rng.normal(0, 0.003)
            shift = (1 - zoom) / 2
            warp = np.array([[zoom, 0, shift * width], [0, zoom, shift * height]])
            channels[channel] = cv2.warpAffine(
                channels[channel], warp, (width, height), borderMode=cv2.BORDER_REPLICATE
            )
        x = cv2.merge(channels)
    return x


def _disc(radius: float) -> np.ndarray:
    """Image of a point out of focus."""
    side = np.arange(-3, 4)
    kernel = np.clip(radius + 0.5 - np.hypot(side[:, None], side[None]), 0, 1)
    return (kernel / kernel.sum()).astype(np.float32)


def _motion_kernel(length: int, angle: float) -> np.ndarray:
    """Image of a point that moves; around the middle, as the depth is that of the middle."""
    side = np.arange(-3, 4)
    along = side[:, None] * np.sin(angle) + side * np.cos(angle)
    across = side[:, None] * np.cos(angle) - side * np.sin(angle)
    kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return (kernel / kernel.sum()).astype(np.float32)


def _exposure(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, white balance, tone curve, saturation, hue and contrast; float32."""
    if rng.uniform() < 0.1:
        return x
    gain = np.exp(rng.normal(-0.04, 0.16)) * np.exp(rng.normal(0, 0.07, 3))
    x = cv2.pow(x + np.float32(1e-4), float(np.exp(rng.normal(0, 0.25)))) * gain.astype(np.float32)
    light = rng.uniform()
    if light < 0.15:  # over-exposed: lights and windows clip, as in a small sensor
        x = np.minimum(x * np.float32(rng.uniform(1.05, 1.4)), 1)
    elif light < 0.27:  # under-exposed, by up to three stops
        x = x * np.float32(rng.uniform(0.35, 0.9))
    colour = np.eye(3)
    if rng.uniform() < 0.2:
        colour += rng.normal(0, 0.3, (3, 3))
        colour /= colour.sum(1, keepdims=True)
    kind = rng.uniform()  # grey cameras, pale ones, and all others
    saturation = 0 if kind < 0.06 else rng.uniform(0, 1) if kind < 0.35 else rng.uniform(0.7, 1.6)
    colour = (saturation * np.eye(3) + (1 - saturation) / 3) @ colour
    contrast, mean = np.exp(rng.normal(0, 0.16)), float(x.mean())
    offset = np.full((3, 1), mean * (1 - contrast) + rng.normal(-0.01, 0.05))
    return cv2.transform(x, np.hstack([colour * contrast, offset]).astype(np.float32))


def _shading(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vignetting, a soft-edged band of light or shadow, and the bands of flickering lamps."""
    rows, columns = x.shape[:2]
    v = (np.arange(rows, dtype=np.float32) / rows - 0.5)[:, None]
    u = (np.arange(columns, dtype=np.float32) / columns - 0.5)[None]
    light = np.ones((rows, columns), np.float32)
    if rng.uniform() < 0.3:
        light *= 1 - np.float32(rng.uniform(0, 1.2)) * (u * u + v * v)
    if rng.uniform() < 0.15:
        angle = rng.uniform(0, 2 * np.pi)
        side = u * np.float32(np.cos(angle)) + v * np.float32(np.sin(angle))
        steepness, amount = rng.uniform(5, 60), np.float32(rng.uniform(-0.5, 0.6))
        side = (side - np.float32(rng.uniform(-0.3, 0.3))) * np.float32(steepness)
        light *= 1 + amount / (1 + np.exp(-side))
    if rng.uniform() < 0.08:  # rows of a rolling shutter are exposed one after the other
        wave = np.sin(2 * np.pi * (v * rng.uniform(0.5, 4) + rng.uniform()))
        light *= 1 + (rng.uniform(0, 0.15) * wave).astype(np.float32)
    return x * light[..., None]


def _sensor(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise, colour filter, and smoothing against both; float32 to uint8."""
    noise = None
    if rng.uniform() < 0.6:
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        noise *= np.float32(rng.uniform(0, 0.05))
        if rng.uniform() < 0.5:  # photons: brighter is noisier, but less so relatively
            noise *= 0.4 + cv2.sqrt(np.maximum(x, 0))
    mosaic = rng.uniform() < 0.3
    if noise is not None and not mosaic and rng.uniform() < 0.4:  # coarse, as after compression
        noise = 2 * cv2.GaussianBlur(noise, (0, 0), 0.8)
    y = _to_bytes(x if noise is None else x + noise)
    if mosaic:
        y = _demosaiced(y, *(int(i) for i in rng.integers(0, 2, 2)))
    kind = rng.uniform()
    if kind < 0.06:
        y = cv2.medianBlur(y, 3)
    elif kind < 0.16:  # fine texture is smeared, edges remain
        y = cv2.bilateralFilter(y, 5, rng.uniform(10, 50), rng.uniform(1, 2.5))
    return y


def _demosaiced(x: np.ndarray, row: int, column: int) -> np.ndarray:
    """Keep one colour per pixel, as behind a Bayer filter with its red at (row, column) of 2 x 2.

    The others are interpolated from the neighbours.
    """
    raw = x[..., 1].copy()
    raw[row::2, column::2] = x[row::2, column::2, 0]
    raw[1 - row :: 2, 1 - column :: 2] = x[1 - row :: 2, 1 - column :: 2, 2]
    return cv2.cvtColor(raw, _BAYER[row, column])


# OpenCV names a pattern by the second row's second and third pixel.
_BAYER = {
    (0, 0): cv2.COLOR_BayerBG2RGB,
    (0, 1): cv2.COLOR_BayerGB2RGB,
    (1, 0): cv2.COLOR_BayerGR2RGB,
    (1, 1): cv2.COLOR_BayerRG2RGB,
}


def _processing(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sharpening and compression; uint8."""
    if rng.uniform() < 0.35:
        amount, radius = rng.uniform(0.3, 2.2), rng.uniform(0.6, 1.6)
        x = cv2.addWeighted(x, 1 + amount, cv2.GaussianBlur(x, (0, 0), radius), -amount, 0)
    if rng.uniform() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 95))]
        decoded = cv2.imdecode(cv2.imencode('.jpg', x, quality)[1], cv2.IMREAD_COLOR)
        assert decoded is not None
        x = decoded
    return x


def _to_bytes(x: np.ndarray) -> np.ndarray:
    return (np.clip(x, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
