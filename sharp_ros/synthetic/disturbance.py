"""True depth with errors about as large as those of a network."""

from __future__ import annotations

import cv2
import numpy as np

NOISE = 0.05  # relative standard deviation of each pixel
_SOFTNESS = 1.5 / 640  # standard deviation of the blur, in image widths


def disturbed(depth: np.ndarray, rng: np.random.Generator, frame_scale: float) -> np.ndarray:
    """Depth with soft edges, 5 % noise of every pixel, and a factor that the whole image has.

    Args:
        depth: [H, W] true z-depth, metres; not positive or not finite: unknown.
        rng: of the noise, then of the factor.
        frame_scale: the factor lies within 1 minus and 1 plus this, all equally likely.

    Returns:
        [H, W] float32, metres; 0 where the truth is unknown.
    """
    sigma = _SOFTNESS * depth.shape[1]
    known = np.isfinite(depth) & (depth > 0)
    weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), sigma)
    soft = cv2.GaussianBlur(np.where(known, depth, 0).astype(np.float32), (0, 0), sigma)
    factor = 1 + NOISE * rng.standard_normal(depth.shape)
    factor *= rng.uniform(1 - frame_scale, 1 + frame_scale)
    return np.where(known, soft / np.maximum(weight, 1e-6) * factor, 0).astype(np.float32)
