"""How much fine detail an image shows, and the same image with no more of it than some amount.

A network that was trained on renders whose near surfaces are smooth takes detail for distance
(docs/models.md). What it says of the metres of a softened image is then better, and of the shape
of the image as it is.
"""

from __future__ import annotations

from bisect import bisect_left

import cv2
import numpy as np

MOST_DETAIL = -3.5  # that the training images of nano show, in the mean over an image
# Of blur, pixels.
_SIGMAS = (0.0, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.4, 2.7, 3.0, 3.4, 3.8, 4.3)


def fine_detail(image: np.ndarray) -> np.ndarray:  # [H, W, 3] uint8 -> [H, W]
    """Log of the mean gradient around every pixel, per pixel and of the brightness there."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    x, y = (cv2.Sobel(grey, cv2.CV_32F, *axis) / 8 for axis in ((1, 0), (0, 1)))
    relative = np.hypot(x, y) / (cv2.blur(grey, (15, 15)) + 0.05)
    return np.log(cv2.blur(relative, (25, 25)) + 1e-3)


def softened(image: np.ndarray, most: float = MOST_DETAIL) -> np.ndarray:
    """The image out of focus, as little as will do.

    Args:
        image: [H, W, 3] uint8, as large as the network sees it.
        most: of `fine_detail` that may be left, mean over the image, where 4.3 px of blur bring
            it there.

    Returns:
        The image itself where it shows no more.
    """

    def blurred(sigma: float) -> np.ndarray:
        return cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image

    def smoothness(sigma: float) -> float:  # grows with sigma
        return -float(fine_detail(blurred(sigma)).mean())

    least = bisect_left(_SIGMAS, -most, key=smoothness)
    return blurred(_SIGMAS[min(least, len(_SIGMAS) - 1)])
