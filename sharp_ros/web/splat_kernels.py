"""Loops over Gaussians that are sent to a browser; what they are for says `splats`."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, error_model='numpy')
def covariance_kernel(
    records: np.ndarray,
    smallest: np.float32,
    largest: np.float32,
    flattest: np.float32,
    out: np.ndarray,
) -> None:  # [N, 12], out [N, 6]
    """Fill `out` with xx, xy, xz, yy, yz, zz of the covariances, square metres.

    `records` float32 as `splat_records` gives them, finite; standard deviations are held between
    `smallest` and `largest` metres, and above the share `flattest` of the longest.
    """
    std = np.empty(3, np.float32)
    axis = np.empty((3, 3), np.float32)
    two = np.float32(2)
    for i in range(len(records)):
        longest = np.float32(0)
        for k in range(3):
            std[k] = min(max(records[i, 5 + k], smallest), largest)
            longest = max(longest, std[k])
        w, x, y, z = records[i, 8], records[i, 9], records[i, 10], records[i, 11]
        axis[0, 0] = np.float32(1) - two * (y * y + z * z)
        axis[0, 1], axis[0, 2] = two * (x * y - w * z), two * (x * z + w * y)
        axis[1, 0], axis[1, 2] = two * (x * y + w * z), two * (y * z - w * x)
        axis[1, 1] = np.float32(1) - two * (x * x + z * z)
        axis[2, 0], axis[2, 1] = two * (x * z - w * y), two * (y * z + w * x)
        axis[2, 2] = np.float32(1) - two * (x * x + y * y)
        for k in range(3):
            length = max(std[k], flattest * longest)
            for row in range(3):
                axis[row, k] *= length
        n = 0
        for row in range(3):
            for column in range(row, 3):
                total = np.float32(0)
                for k in range(3):
                    total += axis[row, k] * axis[column, k]
                out[i, n] = total
                n += 1


@numba.njit(cache=True, nogil=True, error_model='numpy')
def half_kernel(values: np.ndarray, bits: np.ndarray, out: np.ndarray) -> None:  # [N]
    """Fill `out` uint16 with the bits of float16 of float32 `values` and their bits as uint32.

    Ties to even. numpy does the same in 30 ns each, since it looks for infinities, which these are
    not: values lie below 65504.
    """
    for i in range(len(values)):
        sign = (bits[i] >> np.uint32(16)) & np.uint32(0x8000)
        magnitude = bits[i] & np.uint32(0x7FFFFFFF)
        if magnitude < np.uint32(0x38800000):  # 2^-14, below which there are multiples of 2^-24
            out[i] = sign | np.uint32(np.rint(abs(values[i]) * np.float32(1 << 24)))
        else:  # a shorter fraction, and an exponent that counts from 15, not 127
            odd = (magnitude >> np.uint32(13)) & np.uint32(1)
            rounded = magnitude - np.uint32(0x38000000) + np.uint32(0xFFF) + odd
            out[i] = sign | (rounded >> np.uint32(13))
