"""What a renderer gives, whichever it is, and the thresholds that all share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast, NamedTuple, TYPE_CHECKING

import numpy as np

from sharp_ros.tensors import array_of, give_tensors

if TYPE_CHECKING:
    from torch import Tensor

ALPHA_MIN = 1 / 255  # a splat ends where its alpha falls below one step of an 8-bit image
ALPHA_MAX = 0.999  # nothing hides everything behind it, so gradients reach the back
VARIANCE_MIN, VARIANCE_MAX = 1e-12, 1e20  # px^2; beyond these float32 pixel arithmetic breaks down
JACOBIAN_MARGIN = 0.15  # of the image side, see `jacobian_limits`
QUAT_MIN = 1e-12  # of the largest part; a shorter quaternion names no rotation
MEDIAN = 0.5  # of the light, which gets no farther than the median depth
EPSILON = 1e-8  # of alpha, so that depth is 0 where nothing was hit
_FIELDS = ('color', 'depth', 'alpha', 'skipped', 'median_depth')


class RenderingArrays(NamedTuple):
    """The values of `Rendering` on the CPU, in arrays; see there."""

    color: np.ndarray
    depth: np.ndarray
    alpha: np.ndarray
    skipped: np.ndarray
    median_depth: np.ndarray | None


@dataclass(frozen=True)
class Rendering:
    """What a virtual camera sees, tensors on the device of the Gaussians.

    They are made from arrays when they are asked for, where that is how they came.

    Attributes:
        color: [H, W, 3] sRGB in 0..1, float32.
        depth: [H, W] expected z-depth in metres, weighted by the share each Gaussian has in the
            pixel; 0 where nothing was hit.
        alpha: [H, W] share of the pixel that is covered, 0..1.
        skipped: [] int64, how many Gaussians cannot be drawn from anywhere: NaN or infinity, a
            scale that is not positive, a zero quaternion.
        median_depth: [H, W] z-depth in metres of the Gaussian behind which less than half of the
            light gets through, 0 where no more than half is covered; None unless asked for.
    """

    color: Tensor
    depth: Tensor
    alpha: Tensor
    skipped: Tensor
    median_depth: Tensor | None = None

    @property
    def arrays(self) -> RenderingArrays:
        """The same on the CPU; torch is not needed where it was rendered into arrays."""
        held = vars(self)
        given = (None if held[name] is None else array_of(held[name]) for name in _FIELDS)
        return RenderingArrays(*cast('Any', given))

    def image(self) -> np.ndarray:  # -> [H, W, 3] uint8
        """The colours in 8 bits, on the CPU."""
        return (self.arrays.color * 255).round().clip(0, 255).astype(np.uint8)


give_tensors(Rendering, *_FIELDS)


def jacobian_limits(focal: float, centre: float, side: int) -> tuple[float, float]:
    """Range of x/z within which the projection is linearised at the true mean.

    Far outside the image the linearisation explodes, so Kerbl et al. take it at most 15 % of the
    side beyond the edge.
    """
    margin = JACOBIAN_MARGIN * side
    return -(centre + 0.5 + margin) / focal, (side - 0.5 - centre + margin) / focal
