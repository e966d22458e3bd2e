"""The table against a dictionary."""

from __future__ import annotations

import numba
import numpy as np

from sharp_ros.mapping.voxel_hash import (
    erase,
    INDEX_OFFSET,
    move,
    neighbours,
    packed,
    slot_of,
    unpacked,
    VoxelHash,
)


@numba.njit
def insert(voxel, row, table, voxels):
    table[slot_of(voxel, table, voxels)], voxels[row] = row, voxel


@numba.njit
def row_of(voxel, table, voxels):
    return table[slot_of(voxel, table, voxels)]


@numba.njit
def forget(row, last, table, voxels):
    erase(row, table, voxels)
    if row < last:
        move(last, row, table, voxels)


@numba.njit
def around(voxel, table, voxels):
    return neighbours(voxel, table, voxels)


@numba.njit
def there_and_back(x, y, z):
    return packed(x, y, z), unpacked(packed(x, y, z))


def test_rows_are_found_whatever_came_and_went():
    rng = np.random.default_rng(0)
    rows, capacity = VoxelHash(100), 100
    held = []  # voxels by row
    for _ in range(3000):
        if held and (len(held) == capacity or rng.random() < 0.5):
            row = int(rng.integers(len(held)))
            forget(row, len(held) - 1, rows.table, rows.voxels)
            held[row] = held[-1]
            held.pop()
        else:
            voxel = there_and_back(*rng.integers(-6, 6, 3))[0]
            if voxel in held:
                continue
            insert(voxel, len(held), rows.table, rows.voxels)
            held.append(voxel)
        assert sorted(rows.table[rows.table >= 0]) == list(range(len(held)))
        for row, voxel in enumerate(held):
            assert row_of(voxel, rows.table, rows.voxels) == row
    assert row_of(there_and_back(7, 0, 0)[0], rows.table, rows.voxels) == -1


def test_neighbours_share_a_face_and_indices_come_back():
    rows = VoxelHash(7)
    places = [(0, 0, 0), (-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1)]
    for row, place in enumerate(places):
        insert(there_and_back(*place)[0], row, rows.table, rows.voxels)
    rows.count = len(places)
    assert around(there_and_back(0, 0, 0)[0], rows.table, rows.voxels) == (1, 2, 3, 4, 5, 6)
    assert around(there_and_back(1, 0, 0)[0], rows.table, rows.voxels) == (0, -1, -1, -1, -1, -1)
    np.testing.assert_array_equal(rows.indices(), places)
    rows.clear()
    assert len(rows.indices()) == 0
    assert (rows.table < 0).all()


def test_voxels_beyond_the_bounds_are_none():
    most = INDEX_OFFSET - 2  # its neighbours are voxels, too
    assert there_and_back(-most, 5, most)[1] == (-most, 5, most)
    assert there_and_back(most + 1, 0, 0)[0] == -1
    assert there_and_back(0, 0, -most - 1)[0] == -1
