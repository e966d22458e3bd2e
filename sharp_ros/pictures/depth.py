"""Depth in colours, with a scale in metres."""

from __future__ import annotations

import math

import cv2
import numpy as np

_PREVIEW_SIDE = 960  # longest side of either half of a preview, pixels
_UNKNOWN = np.uint8(40)  # grey
_LEGEND = 46  # pixels below the scale, of an image that is high enough


def depth_range(depth: np.ndarray) -> tuple[float, float]:
    """Nearest and farthest depth worth a colour: the 1 % and 99 % quantiles, metres."""
    known = depth[np.isfinite(depth) & (depth > 0)]
    if known.size == 0:
        return 1.0, 2.0
    near, far = (float(v) for v in np.quantile(known, (0.01, 0.99)))
    return near, max(far, near * 1.05)


def colour_depth(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth in colours, red near to blue far on a logarithmic scale, dark grey where unknown.

    Args:
        depth: [H, W] metres; what is not positive or not a number is unknown.
        near: depth of the reddest colour, metres.
        far: depth of the bluest colour, metres.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    known = depth > 0
    part = np.log(np.where(known, depth, near) / near) / math.log(far / near)
    shade = (255 * (1 - np.clip(part, 0, 1)) + 0.5).astype(np.uint8)
    colour = cv2.applyColorMap(shade, cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(known[..., None], colour, _UNKNOWN)


def draw_preview(image: np.ndarray, depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """The image, its depth in colours, and what these mean, in metres, side by side.

    Args:
        image: [H, W, 3] uint8 RGB.
        depth: [H, W] metres.
        near: see `colour_depth`.
        far: see `colour_depth`.

    Returns:
        [h, w, 3] uint8 RGB, large images reduced.
    """
    height, width = depth.shape
    shrink = min(1.0, _PREVIEW_SIDE / max(width, height))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    photo = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    colour = colour_depth(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST), near, far)
    bar = _legend(size[1], near, far, some_unknown=bool((~(depth > 0)).any()))
    return np.concatenate([photo, colour, bar], axis=1)


def _legend(height: int, near: float, far: float, some_unknown: bool) -> np.ndarray:
    """The scale, and below it, where there is such, what has no depth; [height, ~90, 3]."""
    if not some_unknown or height < 3 * _LEGEND:
        return _scale_bar(height, near, far)
    bar = _scale_bar(height - _LEGEND, near, far)
    below = np.full((_LEGEND, bar.shape[1], 3), _UNKNOWN)
    cv2.rectangle(below, (12, 8), (29, 36), (255, 255, 255), 1)
    font, white = cv2.FONT_HERSHEY_SIMPLEX, (255,) * 3
    for y, text in ((18, 'sky or'), (34, 'unknown')):
        cv2.putText(below, text, (34, y), font, 0.4, white, 1, cv2.LINE_AA)
    return np.concatenate([bar, below])


def _scale_bar(height: int, near: float, far: float) -> np.ndarray:  # -> [height, ~90, 3]
    """The colours of `colour_depth` from near (bottom) to far (top), with ticks in metres."""
    font, text = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    margin = min(14, height // 4)
    bar = np.full((height, 92, 3), _UNKNOWN)
    rows = max(height - 2 * margin, 2)
    metres = far * (near / far) ** (np.arange(rows) / (rows - 1))
    ramp = colour_depth(np.repeat(metres[:, None], 18, 1), near, far)
    bar[margin : margin + rows, 12:30] = ramp[: height - margin]
    last = math.inf
    for tick in _ticks(near, far):
        y = margin + round((rows - 1) * math.log(far / tick) / math.log(far / near))
        if last - y < 16:  # labels would overlap
            continue
        last = y
        cv2.line(bar, (30, y), (35, y), (255, 255, 255), 1)
        cv2.putText(bar, f'{tick:g} m', (39, y + 5), font, text, (255,) * 3, 1, cv2.LINE_AA)
    return bar


def _ticks(near: float, far: float) -> list[float]:
    """Round numbers between two depths, ascending: 1, 2, 5 and, over a short range, all tenths."""
    decades = range(math.floor(math.log10(near)), math.ceil(math.log10(far)) + 1)
    digits = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9) if far / near < 20 else (1, 2, 5)
    ticks = [float(f'{d * 10.0**e:.3g}') for e in decades for d in digits]
    inside = [tick for tick in ticks if near <= tick <= far]
    return inside if len(inside) >= 2 else [float(f'{v:.3g}') for v in (near, far)]
