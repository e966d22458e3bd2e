"""Why a photograph may be outside of what a network knows, in words."""

from __future__ import annotations

from collections.abc import Iterator
import math

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.errors import InputError
from sharp_ros.image_content import ContentCheck

NANO_FIELD_OF_VIEW = (45, 110)  # degrees, of the images that the weights of nano were trained on
# Median over an image. Of 30 images of ten small real sets, metres were off by a factor of 2.3 in
# the median of the 13 above, by 1.6 in that of the others: a sign, not a proof.
MOST_SPREAD = 0.4


def doubts(frame: Frame, spread: np.ndarray | None, model: str) -> Iterator[str]:
    """What speaks against the depth of one photograph.

    Args:
        frame: the photograph.
        spread: [h, w] the network's own standard deviation of log depth; None: it has none.
        model: name of the network.
    """
    try:
        nothing_seen = ContentCheck(measured=False)(frame)
    except InputError as error:
        nothing_seen = error
    if nothing_seen is not None:
        yield str(nothing_seen)
    k, (low, high) = frame.intrinsics, NANO_FIELD_OF_VIEW
    # the longer side, whichever way the camera was held
    field = 2 * math.degrees(math.atan(max(k.width / k.fx, k.height / k.fy) / 2))
    if model == 'nano' and not low <= round(field) <= high:
        yield (
            f'nano knows fields of view of {low}° to {high}°, not of {field:.0f}°: expect metres '
            'that are off by a factor of two'
        )
    if spread is not None and (middle := float(np.nanmedian(spread))) > MOST_SPREAD:
        yield (
            f'the network is unsure of most of the image (± {100 * middle:.0f} %), as where '
            'it has seen nothing like it: expect metres that are off by a factor of two'
        )
