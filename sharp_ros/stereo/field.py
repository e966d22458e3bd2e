"""A smooth field of corrections from measurements of some of its cells.

A membrane: neighbouring cells are alike, except across an edge of depth, since the errors of a
network belong to surfaces; and where nothing is measured the correction fades to none.
"""

from __future__ import annotations

import numpy as np

from sharp_ros.stereo.field_kernels import smoothed

_STEP_STD = 0.15  # of the correction from cell to cell
_EDGE = 0.05  # change of log depth between cells that makes another surface as likely as not
_LEAST_LINK = 0.02  # share that an edge leaves of a link
_ALIKE = 4.0  # so many neighbouring cells err alike and count as one
_UNMEASURED_INFORMATION = 2.7  # with which no correction is as good as measured
_OUTLIER = 0.15  # difference from the field at which a measurement counts two thirds
_ROUNDS = 2
_TOLERANCE, _ITERATIONS = 1e-2, 60


def fused_field(
    measured: np.ndarray, information: np.ndarray, log_depth: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """The correction of every cell.

    Args:
        measured: [h, w] float32 correction of log depth.
        information: [h, w] float32 of it, 0 where there is none.
        log_depth: [h, w] float32 whose edges part surfaces.
        start: [h, w] float32 where the search begins; what is found does not depend on it.

    Returns:
        [h, w] float32.
    """
    tie = np.float32(1 / _STEP_STD**2)
    across, down = (tie * _links(np.diff(log_depth, axis=axis)) for axis in (1, 0))
    field = start
    for _ in range(_ROUNDS):
        unlike = np.float32(0.5) * ((measured - field) / np.float32(_OUTLIER)) ** 2
        weight = information / np.float32(_ALIKE) / (1 + unlike)
        total = weight + np.float32(_UNMEASURED_INFORMATION)
        field = smoothed(
            weight * measured / total, total, across, down, field, _TOLERANCE, _ITERATIONS
        )
    return field


def _links(steps: np.ndarray) -> np.ndarray:
    """Share of a link that is left where log depth changes by so much."""
    return np.maximum(np.exp(-0.5 * (steps / np.float32(_EDGE)) ** 2), np.float32(_LEAST_LINK))
