"""The path of the camera: recorded in bounded memory, and as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sharp_ros.se3 import quat_from_matrix

_FIRST = 1024  # poses that memory is taken for at the start; it is doubled when they are full


class CameraPath:
    """Stamped poses in the order they came.

    When it is full, every second one is dropped, and of those to come as many: the path becomes
    evenly coarser, but always begins with the first pose and ends with the newest.

    Args:
        bound: number of poses, 136 bytes each; at least 2.
    """

    def __init__(self, bound: int = 100_000) -> None:
        self._bound = bound
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._stamps = np.zeros(min(_FIRST, self._bound), np.int64)
        self._poses = np.zeros((len(self._stamps), 4, 4))
        self._count = 0
        self._added, self._stride = 0, 1  # every `_stride`th is kept, and the newest

    def __len__(self) -> int:
        return self._count

    def add(self, stamp_ns: int, T_world_camera: np.ndarray) -> None:
        """Append a [4, 4] pose."""
        if (self._added - 1) % self._stride:
            self._count -= 1  # the newest so far is none of those to be kept
        self._added += 1
        if self._count == self._bound:
            self._stride *= 2
            self._count = -(-self._bound // 2)
            for array in (self._stamps, self._poses):
                array[: self._count] = array[::2].copy()
        elif self._count == len(self._stamps):
            size = min(2 * self._count, self._bound)
            self._stamps = np.resize(self._stamps, size)
            self._poses = np.resize(self._poses, (size, 4, 4))
        self._stamps[self._count], self._poses[self._count] = stamp_ns, T_world_camera
        self._count += 1

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamps [N] int64 in nanoseconds and poses [N, 4, 4] `T_world_camera`, copied."""
        return self._stamps[: self._count].copy(), self._poses[: self._count].copy()


def tum_text(
    stamps_ns: np.ndarray, T_world_camera: np.ndarray, comments: Sequence[str] = ()
) -> str:  # [N], [N, 4, 4]
    """Poses in the format of the TUM RGB-D benchmark (Sturm et al. 2012), which others read.

    A line is `timestamp tx ty tz qx qy qz qw`; seconds with all nanoseconds, metres, in the world.
    The comments are those of other files of the map.
    """
    quats = quat_from_matrix(T_world_camera[:, :3, :3])
    rows = np.concatenate([T_world_camera[:, :3, 3], quats[:, 1:], quats[:, :1]], 1)
    lines = [
        f'{ns // 10**9}.{ns % 10**9:09d} ' + ' '.join(f'{value:.9f}' for value in row)
        for ns, row in zip(stamps_ns.tolist(), rows.tolist(), strict=True)
    ]
    header = ['# timestamp tx ty tz qx qy qz qw', *(f'# PLY files: {c}' for c in comments)]
    return '\n'.join([*header, *lines, ''])
