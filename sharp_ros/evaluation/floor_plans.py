"""True floor plans, of simulated rooms and of recordings, and how a map compares with them.

The cells that count are those that a camera with true depth sees from within `SEEN_WITHIN`:
occupied ones, if a pixel falls on a surface in them, and free ones, if a ray passes them, both in
the height band of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import math
from typing import Protocol

import numba
import numpy as np

from sharp_ros import se3
from sharp_ros.camera import Intrinsics
from sharp_ros.config import OccupancyConfig
from sharp_ros.mapping.occupancy import (
    FREE,
    OccupancyGrid2D,
    OccupancyMap,
    OCCUPIED,
    UNKNOWN,
)
from sharp_ros.synthetic import Room, SIZE

SEEN_WITHIN = 4.0  # metres from the camera, in which cells are judged
_AREA = 2048  # cells along a side of the square around the origin in which visibility is noted


class TrueMap(Protocol):
    """What is known of the world beforehand, or gathered from true depth frame by frame.

    Attributes:
        closed: whether what is unknown lies behind walls.
    """

    closed: bool

    def add(self, depth: np.ndarray, intrinsics: Intrinsics, T_map_camera: np.ndarray) -> None:
        """A frame with true depth and its true pose in the frame of the map."""
        ...

    def grid(self, like: OccupancyGrid2D, T_map_world: np.ndarray) -> OccupancyGrid2D:
        """The floor plan in the frame of the map, cells being those of `like` or farther off."""
        ...


class RoomMap:
    """The floor plan of a simulated room, exactly."""

    closed = True

    def __init__(self, room: Room, config: OccupancyConfig) -> None:
        self._room, self._config = room, config

    def add(self, depth: np.ndarray, intrinsics: Intrinsics, T_map_camera: np.ndarray) -> None:
        """The room knows it already."""

    def grid(self, like: OccupancyGrid2D, T_map_world: np.ndarray) -> OccupancyGrid2D:
        """Occupied where a surface passes through the cell, unknown outside of the walls."""
        low, high, side = self._config.min_height, self._config.max_height, like.resolution
        points = _surface_points(self._room, side / 5)
        points = points[(points[:, 2] >= low) & (points[:, 2] <= high)]
        rows, columns = like.cells.shape
        x, y = (
            (np.arange(n) + 0.5) * side + o
            for n, o in zip((columns, rows), like.origin, strict=True)
        )
        centres = np.stack([*np.meshgrid(x, y), np.zeros(like.cells.shape)], -1)
        away = np.abs(se3.apply(se3.inverse(T_map_world), centres)[..., :2])
        cells = np.where((away > np.array(SIZE[:2]) / 2).any(-1), UNKNOWN, FREE).astype(np.int8)
        column, row = _indices(se3.apply(T_map_world, points)[:, :2], like.origin, side)
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        cells[row[inside], column[inside]] = OCCUPIED
        return replace(like, cells=cells)


class RecordedMap:
    """The floor plan that measured depth gives from measured poses."""

    closed = False

    def __init__(self, config: OccupancyConfig) -> None:
        self._map = OccupancyMap(config)

    def add(self, depth: np.ndarray, intrinsics: Intrinsics, T_map_camera: np.ndarray) -> None:
        """Integrate the frame."""
        self._map.integrate(depth, intrinsics, T_map_camera)

    def grid(self, like: OccupancyGrid2D, T_map_world: np.ndarray) -> OccupancyGrid2D:
        """What has been integrated."""
        return self._map.grid()


class Visibility:
    """Which cells of the floor plan a camera with true depth sees, see the top of this module.

    All is laid out as a square of `_AREA` cells around the origin of the map.
    """

    def __init__(self, config: OccupancyConfig) -> None:
        self._side = config.voxel_size
        self._band = np.array(
            [config.voxel_size, config.min_height, config.max_height, SEEN_WITHIN]
        )
        self._hit, self._passed = np.zeros((2, _AREA, _AREA), bool)

    def add(self, depth: np.ndarray, intrinsics: Intrinsics, T_map_camera: np.ndarray) -> None:
        """Note what one frame sees."""
        camera = intrinsics.parameters
        _see(depth, camera, T_map_camera, self._band, self._hit, self._passed)

    def compare(self, grid: OccupancyGrid2D, truth: OccupancyGrid2D) -> tuple[float | None, int]:
        """The IoU of occupied cells that count, and how many free ones the truth does not know.

        None if neither has any.
        """
        found, true = self._placed(grid), self._placed(truth)
        occupied, free = (true == OCCUPIED) & self._hit, (true == FREE) & self._passed
        marked = (found == OCCUPIED) & (occupied | free)
        union = np.count_nonzero(marked | occupied)
        iou = np.count_nonzero(marked & occupied) / union if union else None
        return iou, int(np.count_nonzero((found == FREE) & (true == UNKNOWN)))

    def _placed(self, grid: OccupancyGrid2D) -> np.ndarray:  # -> [_AREA, _AREA]
        area = np.full((_AREA, _AREA), UNKNOWN, np.int8)
        known = np.argwhere(grid.cells != UNKNOWN)
        offset = np.rint(np.array(grid.origin[::-1]) / self._side).astype(int) + _AREA // 2
        at = known + offset
        kept = ((at >= 0) & (at < _AREA)).all(1)
        area[tuple(at[kept].T)] = grid.cells[tuple(known[kept].T)]
        return area


def _indices(points: np.ndarray, origin: Sequence[float], side: float) -> np.ndarray:
    """[N, 2] x, y to [2, N] column, row."""
    return np.floor((points - origin) / side).astype(int).T


def _surface_points(room: Room, spacing: float) -> np.ndarray:  # -> [N, 3]
    """Points on all surfaces of a room, neighbours at most `spacing` metres apart."""
    clouds = []
    for (o, a, _, b), half in zip(*room.patches, strict=True):
        n = [math.ceil(np.linalg.norm(corner - o) / spacing) + 2 for corner in (a, b)]
        u, v = (g.ravel()[:, None] for g in np.meshgrid(*(np.linspace(0, 1, i) for i in n)))
        points = o + u * (a - o) + v * (b - o)
        clouds.append(points[(u + v <= 1).ravel()] if half else points)
    return np.concatenate(clouds)


@numba.njit(cache=True)
def _see(
    depth: np.ndarray,
    camera: np.ndarray,
    T: np.ndarray,
    band: np.ndarray,
    hit: np.ndarray,
    passed: np.ndarray,
) -> None:
    """Mark cells in which pixels end, and cells that every fourth ray passes before its end.

    `depth` [H, W] metres; `camera` [4] float64 fx, fy, cx, cy; `T` [4, 4] `T_map_camera`; `band`
    [4] side of a cell, lowest and highest height and range, metres; `hit` and `passed` [S, S] bool
    by row along +y and column along +x, the origin in the middle, are written.
    """
    voxel, low, high, reach = band
    fx, fy, cx, cy = camera
    half = hit.shape[0] // 2
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            if not (0 < depth[v, u] < np.inf):
                continue
            a, b = (u - cx) / fx, (v - cy) / fy
            norm = math.sqrt(a * a + b * b + 1)
            dx = (T[0, 0] * a + T[0, 1] * b + T[0, 2]) / norm
            dy = (T[1, 0] * a + T[1, 1] * b + T[1, 2]) / norm
            dz = (T[2, 0] * a + T[2, 1] * b + T[2, 2]) / norm
            length = depth[v, u] * norm
            ends = length <= reach
            stop = min(length, reach)
            steps = int(stop / voxel) if u % 4 == 0 and v % 4 == 0 else 0
            for i in range(steps + 1):
                at = i * voxel if i < steps else length
                if i == steps and not ends:
                    break
                if not (low <= T[2, 3] + dz * at <= high):
                    continue
                x = math.floor((T[0, 3] + dx * at) / voxel) + half
                y = math.floor((T[1, 3] + dy * at) / voxel) + half
                if 0 <= x < hit.shape[1] and 0 <= y < hit.shape[0]:
                    if i < steps:
                        passed[y, x] = True
                    else:
                        hit[y, x] = True
