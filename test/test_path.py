from __future__ import annotations

import numpy as np
import pytest

from sharp_ros.mapping.path import CameraPath, tum_text
from sharp_ros.se3 import matrix_from_quat, transform


def pose(x: float) -> np.ndarray:
    return transform(np.eye(3), np.array([x, 0.0, 0.0]))


def test_poses_come_back_in_order_and_are_copies():
    path, given = CameraPath(), pose(1.0)
    for i in range(3000):
        given[0, 3] = i
        path.add(10 * i, given)
    stamps, poses = path.arrays()
    assert stamps.dtype == np.int64
    assert (stamps == 10 * np.arange(3000)).all()
    assert (poses[:, 0, 3] == np.arange(3000)).all()
    poses[:] = 0
    assert path.arrays()[1][7, 0, 3] == 7


@pytest.mark.parametrize('bound', [3, 7, 100])
def test_full_path_becomes_coarser_but_keeps_the_newest_and_its_bound(bound):
    path = CameraPath(bound)
    for i in range(1000):
        path.add(i, pose(i))
        stamps, poses = path.arrays()
        assert stamps[-1] == i
        assert len(stamps) == len(path) <= bound
        assert (np.diff(stamps) > 0).all()
        assert (poses[:, 0, 3] == stamps).all()
    assert len(stamps) > bound // 2
    assert stamps[0] == 0
    assert len(set(np.diff(stamps)[:-1])) <= 1  # evenly


def test_reset_path_is_empty():
    path = CameraPath()
    path.add(1, pose(0))
    path.reset()
    stamps, poses = path.arrays()
    assert stamps.shape == (0,)
    assert poses.shape == (0, 4, 4)
    assert tum_text(stamps, poses).startswith('#')


def test_tum_lines_hold_every_nanosecond_and_xyzw():
    quat = np.array([0.5, -0.5, 0.5, 0.5])  # wxyz
    T = transform(matrix_from_quat(quat), np.array([1.0, -2.0, 3.25]))
    stamp = 1_763_844_693_000_000_007  # a float would lose the last digits
    line = tum_text(np.array([stamp]), T[None]).splitlines()[1]
    first, *rest = line.split()
    assert first == '1763844693.000000007'
    assert [float(value) for value in rest] == pytest.approx([1, -2, 3.25, -0.5, 0.5, 0.5, 0.5])
