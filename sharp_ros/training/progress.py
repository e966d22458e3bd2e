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
_INK = (60, 60, 60)
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
    """Losses and held-out metrics over the images seen.

    An axis is logarithmic where all of its values are positive: a fine-tuning is judged before its
    first image, too, and a loss may be negative, as likelihoods are.

    Args:
        rows: of the log: `seen` with `total`, the smoothed training loss, or with `validation`,
            which has no AbsRel where there is no true depth, or, at the end, with `kept`, the
            images that the weights that were kept had seen.
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
    curves = {
        name: np.array([p for p in points if math.isfinite(p[1])], np.float64).reshape(-1, 2)
        for name, points in curves.items()
    }
    width, height = _SIZE
    left, right, top, bottom = 70, 20, 40, 50
    picture = np.full((height, width, 3), 255, np.uint8)
    shown = np.concatenate(list(curves.values()))
    if not len(shown):
        return _png(picture)
    axes = [_Axis(values) for values in shown.T]

    def place(points: np.ndarray) -> np.ndarray:  # [N, 2] -> [N, 2] pixels
        share = np.stack([axis.share(v) for axis, v in zip(axes, points.T, strict=True)], -1)
        scale = (width - left - right, -(height - top - bottom))
        return np.rint(share * scale + (left, height - bottom)).astype(np.int32)

    floor = height - bottom
    for axis, ticks in enumerate(axis.ticks() for axis in axes):
        for value in ticks:
            corner = np.array([a.values[0] for a in axes])
            corner[axis] = value
            x, y = (int(v) for v in place(corner[None])[0])
            start, end = ((x, top), (x, floor)) if axis == 0 else ((left, y), (width - right, y))
            cv2.line(picture, start, end, (225, 225, 225))
            text = f'{value:g}'
            at = (x - 4 * len(text), floor + 18) if axis == 0 else (62 - 8 * len(text), y + 4)
            _write(picture, text, at, _INK)
    cv2.polylines(
        picture, [np.array([(left, top), (left, floor), (width - right, floor)])], False, _INK
    )
    for seen in (row['kept'] for row in rows if row.get('kept')):
        x = int(place(np.array([[seen, axes[1].values[0]]]))[0, 0])
        cv2.line(picture, (x, top), (x, floor), _INK, 1)
        _write(picture, 'kept', (x - 32, top + 12), _INK)
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
    _write(picture, 'images seen', (width - right - 80, height - 8), _INK)
    _write(picture, 'loss, AbsRel', (6, height - 8), _INK)
    return _png(picture)


class _Axis:
    """From the lowest to the highest of some values, logarithmic if all are positive."""

    def __init__(self, values: np.ndarray) -> None:
        self._log = bool((values > 0).all())
        low, high = float(values.min()), float(values.max())
        margin = 0.02 * (high - low) or 0.1 * abs(high) or 1.0
        self.values = (low / 1.05, high * 1.05) if self._log else (low - margin, high + margin)
        self._ends = self._scaled(np.array(self.values))

    def share(self, values: np.ndarray) -> np.ndarray:
        """Values to 0 at the beginning of the axis, 1 at its end."""
        return (self._scaled(values) - self._ends[0]) / (self._ends[1] - self._ends[0])

    def ticks(self) -> list[float]:
        """Round values on the axis."""
        low, high = self.values
        if self._log and high / low > 2:
            exponents = range(math.floor(self._ends[0]), math.ceil(self._ends[1]))
            steps = [digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5)]
        else:
            rough = (high - low) / 4
            size = 10.0 ** math.floor(math.log10(rough))
            size *= max(digit for digit in (1, 2, 5) if digit * size <= rough)
            steps = [size * i for i in range(math.ceil(low / size), math.floor(high / size) + 1)]
        return [round(step, 12) for step in steps if low <= step <= high]

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return np.log10(values) if self._log else values


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
