"""Gaussians as the web page takes them: so many, and of sizes that its format can tell.

viser sends the covariance of a Gaussian as six 16-bit floats, variances in square metres. These
hold nothing above 65504, a standard deviation of 256 m, which becomes infinite; nothing below
3e-8, 0.17 mm, which becomes 0; and eleven bits, by whose rounding the thin axis of a tilted disc
can get a negative variance. Sizes are held within what survives that.
"""

from __future__ import annotations

import numpy as np

from sharp_ros.gaussians import Gaussians
from sharp_ros.point_cloud import splat_records
from sharp_ros.se3 import matrix_from_quat

_SMALLEST, _LARGEST = 1e-3, 200.0  # metres of standard deviation; 1 mm is told within 3 %
_FLATTEST = 1 / 24  # of the largest axis; rounding errs by up to sqrt(3) 2^-11 of its variance
_BLOCK = 1 << 14  # at a time, so that all steps of it stay in the cache


def splats(gaussians: Gaussians, most: int) -> tuple[np.ndarray, ...]:
    """The arguments of viser's `set_gaussians`, of Gaussians with shapes.

    Args:
        gaussians: in any frame; those that are not finite, or that nobody sees, are left out.
        most: number of them; beyond, those that cover most are taken.

    Returns:
        Centres [N, 3] and covariances [N, 3, 3] float32 in metres, sRGB [N, 3] and opacities
        [N, 1] uint8.
    """
    a = gaussians.arrays
    parts = (a.means, a.colors, a.opacities[:, None], *a.shapes)
    finite = np.logical_and.reduce([np.isfinite(part).all(1) for part in parts])
    records = splat_records(gaussians if finite.all() else gaussians.select(finite))
    if len(records) > most:
        records = records[_largest(records, most)]
    covariances = np.empty((len(records), 3, 3), np.float32)
    for start in range(0, len(records), _BLOCK):
        rows = slice(start, start + _BLOCK)
        stds = limited(records[rows, 5:8])
        axes = matrix_from_quat(records[rows, 8:12]).astype(np.float32) * stds[:, None, :]
        covariances[rows] = axes @ axes.transpose(0, 2, 1)
    packed = np.ascontiguousarray(records[:, 3]).view(np.uint32)
    colors = np.stack([packed >> 16, packed >> 8, packed], 1).astype(np.uint8)
    opacities = (np.clip(records[:, 4:5], 0, 1) * 255 + 0.5).astype(np.uint8)
    return records[:, :3], covariances, colors, opacities


def limited(stds: np.ndarray) -> np.ndarray:  # [N, 3] -> [N, 3]
    """Standard deviations, metres, that survive the format; see the top of this module."""
    stds = np.clip(stds, _SMALLEST, _LARGEST)
    return np.maximum(stds, _FLATTEST * stds.max(1, keepdims=True))


def _largest(records: np.ndarray, most: int) -> np.ndarray:  # -> [most]
    """Indices, in order, of those that cover most: by opacity and their two larger axes."""
    stds = np.sort(records[:, 5:8], axis=1)
    weight = records[:, 4] * stds[:, 1] * stds[:, 2]
    return np.sort(np.argpartition(weight, len(records) - most)[len(records) - most :])
