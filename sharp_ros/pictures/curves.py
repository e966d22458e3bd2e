"""Curves over axes with round values, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math

import cv2
import numpy as np

_SIZE = (900, 420)  # width, height
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 50  # margins
_INK = (60, 60, 60)
_COLOURS = ((220, 60, 40), (40, 110, 220), (40, 150, 60), (160, 80, 190))  # RGB


def draw_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    axes: tuple[str, str],
    marked: Mapping[str, float] | None = None,
    logarithmic: tuple[bool, bool] = (True, True),
) -> np.ndarray:  # -> [H, W, 3] uint8 RGB
    """Draw curves, each with its name and last value above; empty without any point.

    Args:
        curves: name to points, four at most; what is not finite is left out.
        axes: names of both.
        marked: name to place on the horizontal axis of vertical lines.
        logarithmic: whether each axis is that where all of its values are positive.
    """
    shown = {
        name: np.array([p for p in points if np.isfinite(p).all()], np.float64).reshape(-1, 2)
        for name, points in curves.items()
    }
    width, height = _SIZE
    picture = np.full((height, width, 3), 255, np.uint8)
    points = np.concatenate(list(shown.values()))
    if not len(points):
        return picture
    scales = [_Axis(values, log) for values, log in zip(points.T, logarithmic, strict=True)]
    floor = height - _BOTTOM

    def place(points: np.ndarray) -> np.ndarray:  # [N, 2] -> [N, 2] pixels
        share = np.stack([axis.share(v) for axis, v in zip(scales, points.T, strict=True)], -1)
        size = (width - _LEFT - _RIGHT, -(height - _TOP - _BOTTOM))
        return np.rint(share * size + (_LEFT, floor)).astype(np.int32)

    for axis, ticks in enumerate(axis.ticks() for axis in scales):
        for value in ticks:
            corner = np.array([a.values[0] for a in scales])
            corner[axis] = value
            x, y = (int(v) for v in place(corner[None])[0])
            start, end = (
                ((x, _TOP), (x, floor)) if axis == 0 else ((_LEFT, y), (width - _RIGHT, y))
            )
            cv2.line(picture, start, end, (225, 225, 225))
            text = f'{value:g}'
            at = (x - 4 * len(text), floor + 18) if axis == 0 else (62 - 8 * len(text), y + 4)
            _write(picture, text, at, _INK)
    frame = np.array([(_LEFT, _TOP), (_LEFT, floor), (width - _RIGHT, floor)])
    cv2.polylines(picture, [frame], False, _INK)
    for name, value in (marked or {}).items():
        x = int(place(np.array([[value, scales[1].values[0]]]))[0, 0])
        cv2.line(picture, (x, _TOP), (x, floor), _INK, 1)
        _write(picture, name, (x - 8 * len(name), _TOP + 12), _INK)
    x = _LEFT
    for (name, points), colour in zip(shown.items(), _COLOURS, strict=False):
        if len(points):
            pixels = place(points)
            cv2.polylines(picture, [pixels], False, colour, 2, cv2.LINE_AA)
            for pixel in pixels if len(points) < 40 else ():
                cv2.circle(picture, pixel.tolist(), 3, colour, -1, cv2.LINE_AA)
            text = f'{name} {points[-1, 1]:.3f}'
            _write(picture, text, (x, 24), colour)
            x += 12 + 9 * len(text)
    _write(picture, axes[0], (width - _RIGHT - 7 * len(axes[0]), height - 8), _INK)
    _write(picture, axes[1], (6, height - 8), _INK)
    return picture


class _Axis:
    """From the lowest to the highest of some values, logarithmic if all are positive."""

    def __init__(self, values: np.ndarray, log: bool) -> None:
        self._log = log and bool((values > 0).all())
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


def _write(picture: np.ndarray, text: str, at: tuple[int, int], colour: Sequence[int]) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
