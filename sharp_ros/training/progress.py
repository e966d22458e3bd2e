"""Pictures of a training run: what it predicts on held-out images, and its curves. PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any

import cv2
import numpy as np

_GREY = (110, 110, 110)  # where nothing is known
_WORST = 0.5  # error in log depth that is drawn in the brightest colour
_SIZE = (900, 420)  # width, height of the curves
_COLOURS = ((220, 60, 40), (40, 110, 220), (40, 150, 60), (160, 80, 190))  # RGB


def validation_grid(images: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> bytes:
    """One row an image: image, true depth, predicted depth, error.

    Both depths of a row share a colour scale, logarithmic from the nearest (red) to the farthest
    (blue) true metre, or predicted one where none is known; the error is the absolute one of the
    logarithm, yellow from 0.5 on.

    Args:
        images: [N, H, W, 3] 0..1.
        truth: [N, H, W] metres; not positive or not finite: drawn grey.
        predicted: [N, H, W] metres.
    """
    rows = []
    for image, t, p in zip(images, truth, predicted, strict=True):
        known = np.isfinite(t) & (t > 0)
        target = np.log(np.where(known, t, 1))
        estimate = np.log(np.maximum(p, 1e-6))
        low, high = np.percentile(target[known] if known.any() else estimate, (1, 99))
        span = max(float(high - low), 1e-3)
        error = np.abs(estimate - target) / _WORST
        tiles = [
            (image * 255).astype(np.uint8),
            _coloured((high - target) / span, cv2.COLORMAP_TURBO, known),
            _coloured((high - estimate) / span, cv2.COLORMAP_TURBO, np.isfinite(p)),
            _coloured(error, cv2.COLORMAP_INFERNO, known),
        ]
        rows.append(np.hstack(tiles))
    return _png(np.vstack(rows))


def training_curve(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Losses and held-out metrics over the images seen, both axes logarithmic.

    Args:
        rows: of the log: `seen` with `total`, the smoothed training loss, or with `validation`,
            which has no AbsRel where there is no true depth.
    """

    def validated(name: str) -> list[tuple[float, float]]:
        checks = [row for row in rows if name in row.get('validation', ())]
        return [(row['seen'], row['validation'][name]) for row in checks]

    curves = {
        'training loss': [(row['seen'], row['total']) for row in rows if 'total' in row],
        'held-out loss': validated('loss'),
        'held-out AbsRel': validated('abs_rel'),
        'scaled': validated('abs_rel_median_scaled'),
    }
    # A loss may be negative, as likelihoods are; it has no place on such an axis.
    curves = {
        name: np.array([p for p in points if p[0] > 0 and p[1] > 0 and math.isfinite(p[1])])
        for name, points in curves.items()
    }
    width, height = _SIZE
    left, right, top, bottom = 60, 20, 40, 40
    picture = np.full((height, width, 3), 255, np.uint8)
    shown = [points for points in curves.values() if len(points)]
    if not shown:
        return _png(picture)
    low, high = (f(np.concatenate(shown), 0) for f in (np.min, np.max))
    low, high = np.log10(low * (1, 0.9)), np.log10(high * (1.01, 1.1))

    def place(points: np.ndarray) -> np.ndarray:
        share = (np.log10(points) - low) / (high - low)
        scale = (width - left - right, -(height - top - bottom))
        return np.rint(share * scale + (left, height - bottom)).astype(np.int32)

    for axis in (0, 1):
        for exponent in range(math.floor(low[axis]), math.ceil(high[axis])):
            for digit in (1, 2, 5):
                value = digit * 10.0**exponent
                if low[axis] <= math.log10(value) <= high[axis]:
                    corner = 10**low
                    corner[axis] = value
                    x, y = (int(v) for v in place(corner[None])[0])
                    end = (x, top) if axis == 0 else (width - right, y)
                    cv2.line(picture, (x, y), end, (225, 225, 225))
                    at = (x - 14, height - 18) if axis == 0 else (6, y + 4)
                    _write(picture, f'{value:g}', at, (60, 60, 60))
    x = left
    for (name, points), colour in zip(curves.items(), _COLOURS, strict=True):
        if len(points):
            pixels = place(points)
            cv2.polylines(picture, [pixels], False, colour, 2, cv2.LINE_AA)
            for pixel in pixels if len(points) < 40 else ():
                cv2.circle(picture, pixel.tolist(), 3, colour, -1, cv2.LINE_AA)
            text = f'{name} {points[-1, 1]:.3f}'
            _write(picture, text, (x, 24), colour)
            x += 12 + 9 * len(text)
    _write(picture, 'images seen', (width - right - 90, height - 4), (60, 60, 60))
    return _png(picture)


def _coloured(value: np.ndarray, colours: int, known: np.ndarray) -> np.ndarray:
    """[H, W] 0..1 to [H, W, 3] uint8 RGB."""
    levels = (np.clip(np.nan_to_num(value), 0, 1) * 255).astype(np.uint8)
    picture = cv2.applyColorMap(levels, colours)[..., ::-1].copy()
    picture[~known] = _GREY
    return picture


def _write(picture: np.ndarray, text: str, at: tuple[int, int], colour: Sequence[int]) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)


def _png(picture: np.ndarray) -> bytes:
    done, data = cv2.imencode('.png', np.ascontiguousarray(picture[..., ::-1]))
    assert done
    return data.tobytes()
