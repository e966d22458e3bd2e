"""Pictures of a training run: what it predicts on held-out images, and its curves. PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from sharp_ros.pictures.curves import draw_curves
from sharp_ros.pictures.drawing import encode_picture

_GREY = (110, 110, 110)  # where nothing is known
_WORST = 0.5  # error in log depth that is drawn in the brightest colour


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
    return encode_picture(np.vstack(rows))


def training_curve(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Losses and held-out metrics over the images seen.

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
    kept = [row['kept'] for row in rows if row.get('kept')]
    marked = {'kept': kept[-1]} if kept else {}
    return encode_picture(draw_curves(curves, ('images seen', 'loss, AbsRel'), marked))


def _coloured(value: np.ndarray, colours: int, known: np.ndarray) -> np.ndarray:
    """[H, W] 0..1 to [H, W, 3] uint8 RGB."""
    levels = (np.clip(np.nan_to_num(value), 0, 1) * 255).astype(np.uint8)
    picture = cv2.applyColorMap(levels, colours)[..., ::-1].copy()
    picture[~known] = _GREY
    return picture
