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
from sharp_ros.web.splat_kernels import covariance_kernel, half_kernel

_SMALLEST, _LARGEST = np.float32(1e-3), np.float32(200)  # metres; 1 mm is told within 3 %
# of the largest axis; rounding errs by up to sqrt(3) 2^-11 of its variance
_FLATTEST = np.float32(1 / 24)


def splats(gaussians: Gaussians, most: int) -> np.ndarray:  # -> [N, 8] uint32
    """The buffer of viser's Gaussians, see `viser.GaussianSplatHandle`.

    Args:
        gaussians: with shapes, in any frame; those that are not finite, or that nobody sees, are
            left out.
        most: number of them; beyond, those that cover most are taken.

    Returns:
        A row for each: centre as three float32, metres; 0; six float16 of the covariance, square
        metres; bytes of sRGB and opacity.
    """
    a = gaussians.arrays
    parts = (a.means, a.colors, a.opacities[:, None], *a.shapes)
    if not all(np.isfinite(part).all() for part in parts):
        finite = np.logical_and.reduce([np.isfinite(part).all(1) for part in parts])
        gaussians = gaussians.select(finite)
    records = splat_records(gaussians)
    if len(records) > most:
        records = records[_largest(records, most)]
    covariances = np.empty((len(records), 6), np.float32)
    covariance_kernel(records, _SMALLEST, _LARGEST, _FLATTEST, covariances)
    buffer = np.zeros((len(records), 8), np.uint32)
    bits = records.view(np.uint32)
    buffer[:, :3] = bits[:, :3]
    buffer[:, 4:7] = half(covariances).view(np.uint32)
    rgba = buffer.view(np.uint8)[:, 28:]
    for channel, shift in enumerate((16, 8, 0)):
        rgba[:, channel] = (bits[:, 3] >> shift) & 255
    rgba[:, 3] = np.clip(records[:, 4], 0, 1) * 255 + 0.5
    return buffer


def half(values: np.ndarray) -> np.ndarray:  # [N, M] float32 -> [N, M] uint16
    """The bits of float16, rounded to even, of values below 65504."""
    out = np.empty(values.shape, np.uint16)
    half_kernel(values.ravel(), values.view(np.uint32).ravel(), out.ravel())
    return out


def _largest(records: np.ndarray, most: int) -> np.ndarray:  # -> [most]
    """Indices, in order, of those that cover most: by opacity and their two larger axes."""
    stds = np.sort(records[:, 5:8], axis=1)
    weight = records[:, 4] * stds[:, 1] * stds[:, 2]
    return np.sort(np.argpartition(weight, len(records) - most)[len(records) - most :])
