"""Open-addressing table of voxel rows; knows nothing of what the rows hold.

Rows are dense, 0 to the number of voxels held, and whoever owns the table keeps arrays of as many
rows beside it. The table holds their numbers only, by linear probing. Deleting shifts the
followers back (Knuth, TAOCP 3, 6.4 R), so nothing wears out over hours.

A voxel is an int64 of three indices, 21 bits each. Kernels take the two arrays of a `VoxelHash`:
`table` [slots] int32, a row or -1, and `voxels` [capacity] int64, the voxel of every row. They are
compiled into those that call them, and numba's cache on disk notices changes of the caller's file
only: after a change here, touch those too.
"""

from __future__ import annotations

import math

import numba
import numpy as np

INDEX_BITS = 21  # of a voxel index per axis: 31 km either way at 3 cm
INDEX_OFFSET = 1 << (INDEX_BITS - 1)
INDEX_MASK = (1 << INDEX_BITS) - 1

inlined = numba.njit(cache=True, forceinline=True, error_model='numpy')


class VoxelHash:
    """Which row belongs to which voxel.

    Args:
        capacity: number of rows.

    Attributes:
        table: [slots] int32, row by hash, -1 where empty; at most half full, so probes stay short.
        voxels: [capacity] int64, those of the rows held come first.
        count: number of rows held. Kernels that add or remove rows return the new one.
    """

    def __init__(self, capacity: int) -> None:
        self.table = np.full(1 << math.ceil(math.log2(2 * capacity)), -1, np.int32)
        self.voxels = np.zeros(capacity, np.int64)
        self.count = 0

    def clear(self) -> None:
        """Forget all rows."""
        self.table[:] = -1
        self.count = 0

    def indices(self) -> np.ndarray:  # -> [N, 3] int64
        """Indices x, y, z of the voxels held; voxel 0, 0, 0 begins at the origin."""
        shifts = np.array([0, INDEX_BITS, 2 * INDEX_BITS])
        return (self.voxels[: self.count, None] >> shifts & INDEX_MASK) - INDEX_OFFSET


@inlined
def packed(ix: int, iy: int, iz: int) -> np.int64:
    """The voxel of three int64 indices; -1 for one beyond the bounds, whose neighbours count."""
    if max(abs(ix), abs(iy), abs(iz)) >= INDEX_OFFSET - 1:
        return np.int64(-1)
    return (
        (np.int64(ix) + INDEX_OFFSET)
        | (np.int64(iy) + INDEX_OFFSET) << INDEX_BITS
        | (np.int64(iz) + INDEX_OFFSET) << (2 * INDEX_BITS)
    )


@inlined
def unpacked(voxel: np.int64) -> tuple[np.int64, np.int64, np.int64]:
    """The three int64 indices of a voxel."""
    return (
        (voxel & INDEX_MASK) - INDEX_OFFSET,
        (voxel >> INDEX_BITS & INDEX_MASK) - INDEX_OFFSET,
        (voxel >> (2 * INDEX_BITS)) - INDEX_OFFSET,
    )


@inlined
def _home(voxel: np.int64, slots: int) -> np.int64:
    """Slot at which the search for a voxel starts: a multiplicative hash, then its high bits."""
    mixed = np.uint64(voxel) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed >> np.uint64(32)) & np.uint64(slots - 1))


@numba.njit(cache=True, nogil=True, error_model='numpy')
def slot_of(voxel: np.int64, table: np.ndarray, voxels: np.ndarray) -> np.int64:
    """Slot that holds the voxel's row, or the empty one where it belongs."""
    slot = _home(voxel, len(table))
    while table[slot] >= 0 and voxels[table[slot]] != voxel:
        slot = (slot + 1) & (len(table) - 1)
    return slot


@inlined
def neighbours(voxel: np.int64, table: np.ndarray, voxels: np.ndarray) -> tuple[int, ...]:
    """Rows of the six voxels that share a face, -1 where nothing is held."""
    x, y, z = np.int64(1), np.int64(1) << INDEX_BITS, np.int64(1) << (2 * INDEX_BITS)
    return (
        table[slot_of(voxel - x, table, voxels)],
        table[slot_of(voxel + x, table, voxels)],
        table[slot_of(voxel - y, table, voxels)],
        table[slot_of(voxel + y, table, voxels)],
        table[slot_of(voxel - z, table, voxels)],
        table[slot_of(voxel + z, table, voxels)],
    )


@inlined
def company(voxel: np.int64, table: np.ndarray, voxels: np.ndarray, enough: int) -> int:
    """How many of the six voxels that share a face are held; not counted beyond `enough`."""
    x, y, z = np.int64(1), np.int64(1) << INDEX_BITS, np.int64(1) << (2 * INDEX_BITS)
    count = 0
    for step in (-x, x, -y, y, -z, z):
        count += table[slot_of(voxel + step, table, voxels)] >= 0
        if count == enough:
            break
    return count


@inlined
def erase(row: int, table: np.ndarray, voxels: np.ndarray) -> None:
    """Empty the slot of a row, closing the gap; the row itself is then free to be overwritten."""
    mask = len(table) - 1
    hole = slot_of(voxels[row], table, voxels)
    slot = (hole + 1) & mask
    while table[slot] >= 0:
        home = _home(voxels[int(table[slot])], len(table))
        if (slot - home) & mask >= (slot - hole) & mask:  # may stand in the hole
            table[hole] = table[slot]
            hole = slot
        slot = (slot + 1) & mask
    table[hole] = -1


@inlined
def move(source: int, target: int, table: np.ndarray, voxels: np.ndarray) -> None:
    """Give the voxel of one row another, free row."""
    table[slot_of(voxels[source], table, voxels)] = target
    voxels[target] = voxels[source]
