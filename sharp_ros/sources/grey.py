"""16-bit grey, of which most cameras fill a small part, to pictures."""

from __future__ import annotations

import numpy as np

_PERCENTILES = (1.0, 99.0)  # of the pixels that count; beyond are hot pixels and reflections
_NEWEST = 0.1  # weight of an image; the range shall not flicker
_STEP = 4  # every fourth row and column tells the range as well as all


class GreyRange:
    """Scales 16-bit grey to what is seen in it, steadily from image to image."""

    def __init__(self) -> None:
        self._range: np.ndarray | None = None

    def scaled(self, grey: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W, 3]
        """Uint8 RGB, in which the range of this and past images goes from black to white."""
        seen = np.percentile(grey[::_STEP, ::_STEP], _PERCENTILES)
        before = seen if self._range is None else self._range
        self._range = before + _NEWEST * (seen - before)
        low, high = self._range
        scaled = (grey.astype(np.float32) - low) * (255 / max(high - low, 1.0))
        return np.repeat(np.clip(np.rint(scaled), 0, 255).astype(np.uint8)[..., None], 3, -1)
