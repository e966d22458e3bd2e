"""Occupancy: a voxel log-odds map around the camera and its 2-D projection.

Every frame marks the voxels in which depth ends and clears those its rays pass (Hornung et al.,
OctoMap, 2013: log-odds with clamping; Amanatides & Woo 1987: the walk along a ray). Hits are
collected from all pixels before any ray is walked, so that a voxel hit in a frame is never cleared
by it, and every voxel changes at most once per frame: the result does not depend on the order of
pixels or threads. The window rolls with the camera in a ring buffer (cell modulo window), so
moving costs only the strip that leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numba
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.config import OccupancyConfig
from sharp_ros.errors import InputError
from sharp_ros.se3 import checked_pose

UNKNOWN, FREE, OCCUPIED = -1, 0, 100

# A column is free when nothing in it is occupied and every voxel in this lower share of the band
# has been seen free. What a robot runs into stands on the floor, so seeing the air at 1 m over a
# 0.4 m box proves nothing; and a layer that nothing has seen yet may be a table top. Asking for
# the whole band instead would leave everything near a level camera unknown.
FREE_SHARE = 0.5

_FULL_SCALE = 30000  # int16 value of the clamping bound
_SURFACE_NUDGE = 1e-3  # voxels; see `_end_depth`


@dataclass(frozen=True)
class OccupancyGrid2D:
    """Projection of the map on the ground plane.

    Attributes:
        cells: [rows, columns] int8: -1 unknown, 0 free, 100 occupied; row along +y, column
            along +x.
        resolution: side of a cell, metres.
        origin: x, y of the outer corner of cell (0, 0) in the world frame, metres.
    """

    cells: np.ndarray
    resolution: float
    origin: tuple[float, float]


class OccupancyMap:
    """Voxel log-odds in a square window that follows the camera, world frame, z up.

    The height band is `min_height` upwards in whole voxels; the last one may reach past
    `max_height`.
    """

    def __init__(self, config: OccupancyConfig) -> None:
        self._config = config
        voxel = config.voxel_size
        self._side = max(1, round(config.size / voxel))
        layers = max(1, math.ceil((config.max_height - config.min_height) / voxel - 1e-6))
        scale = _FULL_SCALE / config.clamp_log_odds
        self._hit = min(round(config.hit_log_odds * scale), 2 * _FULL_SCALE)
        self._miss = min(round(config.miss_log_odds * scale), 2 * _FULL_SCALE)
        # Scaled with a little tolerance, so that rounding cannot lose a sum that meets the bound.
        self._occupied_at = round(config.occupied_log_odds * scale) - 2
        self._free_at = round(config.free_log_odds * scale) + 2
        self._scale = scale
        self._log_odds = np.zeros((self._side, self._side, layers), np.int16)  # y, x, z
        self._marks = np.zeros(self._log_odds.shape, np.uint8)
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next frame places the window."""
        self._log_odds[:] = 0
        self._corner: np.ndarray | None = None  # world cell (x, y) of the window's low corner

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high corner [3] of the mapped volume in the world frame, metres."""
        voxel = self._config.voxel_size
        low = np.array([*(self._low_corner() * voxel), self._config.min_height], np.float64)
        return low, low + voxel * np.array(self._log_odds.shape)[[1, 0, 2]]

    def log_odds(self) -> np.ndarray:  # -> [rows, columns, layers]
        """Log-odds of all voxels as float32 (0: never seen), unrolled: axes +y, +x, +z."""
        columns, rows = self._ring()
        return self._log_odds[np.ix_(rows, columns)] / np.float32(self._scale)

    def integrate(
        self, depth: np.ndarray, intrinsics: Intrinsics, T_world_camera: np.ndarray
    ) -> None:
        """Add one depth image.

        Rays shorter than `min_range` (camera to point, not along z) are ignored, longer ones than
        `max_range` clear up to there and mark nothing.

        Args:
            depth: [H, W] z-depth in metres; 0 and non-finite neither mark nor clear.
            intrinsics: of the same resolution.
            T_world_camera: [4, 4] pose of the optical frame in the world frame (z up).

        Raises:
            InputError: `bad_pose` for a pose that is not finite or not rigid, `size_mismatch` for
                a depth that does not fit the intrinsics; the map is then unchanged.
        """
        if depth.shape != (intrinsics.height, intrinsics.width):
            raise InputError(f'depth {depth.shape} does not fit {intrinsics}', 'size_mismatch')
        pose = checked_pose(T_world_camera)
        config = self._config
        voxel = config.voxel_size
        self._follow(pose[:2, 3])
        # From here on lengths are voxels and the window's low corner is the origin.
        eye = (pose[:3, 3] - self.bounds[0]) / voxel
        rotation = np.ascontiguousarray(pose[:3, :3]) / voxel
        camera = np.array([intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy], np.float64)
        limits = (float(config.min_range), float(config.max_range), _SURFACE_NUDGE * voxel)
        columns, rows = self._ring()
        depth = np.require(depth, np.float32, ['C', 'W'])
        _mark_hits(depth, camera, rotation, eye, limits, columns, rows, self._marks)
        # Neighbouring rays are at most one voxel apart where they are longest.
        stride_u = max(1, int(intrinsics.fx * voxel / config.max_range))
        stride_v = max(1, int(intrinsics.fy * voxel / config.max_range))
        _mark_passed(
            depth,
            camera,
            rotation,
            eye,
            limits,
            columns,
            rows,
            self._marks,
            stride_u,
            stride_v,
        )
        x0, x1, y0, y1 = self._view_box(intrinsics, rotation, eye)
        _apply_marks(
            self._log_odds, self._marks, columns[x0:x1], rows[y0:y1], self._hit, self._miss
        )

    def grid(self) -> OccupancyGrid2D:
        """The 2-D projection of the window; cheap enough to call at the publishing rate."""
        columns, rows = self._ring()
        needed = max(1, math.ceil(FREE_SHARE * self._log_odds.shape[2]))
        cells = _project_columns(
            self._log_odds, columns, rows, self._occupied_at, self._free_at, needed
        )
        x, y = self.bounds[0][:2]
        return OccupancyGrid2D(cells, self._config.voxel_size, (float(x), float(y)))

    def _low_corner(self) -> np.ndarray:
        """World cell (x, y) of the window's low corner; centred on the origin while empty."""
        if self._corner is None:
            return np.full(2, -(self._side // 2), np.int64)
        return self._corner

    def _ring(self) -> tuple[np.ndarray, np.ndarray]:
        """Storage index of every window column and row."""
        window = self._low_corner()[:, None] + np.arange(self._side)
        columns, rows = window % self._side
        return columns, rows

    def _follow(self, position: np.ndarray) -> None:
        """Move the window when the camera is farther than a twentieth of it off its centre."""
        cell = np.floor(position / self._config.voxel_size).astype(np.int64)
        wanted = cell - self._side // 2
        if self._corner is None:
            self._corner = wanted
            return
        shift = wanted - self._corner
        if np.abs(shift).max() <= self._side // 20:
            return
        for axis, moved in enumerate(shift):
            # Cells that enter take the storage of cells that leave: forget those.
            first = self._corner[axis] + (self._side if moved > 0 else 0)
            count = min(abs(int(moved)), self._side)
            step = 1 if moved > 0 else -1
            entering = (first - (step < 0) + step * np.arange(count)) % self._side
            if axis == 0:
                self._log_odds[:, entering] = 0
            else:
                self._log_odds[entering] = 0
        self._corner = wanted

    def _view_box(
        self, intrinsics: Intrinsics, rotation: np.ndarray, eye: np.ndarray
    ) -> tuple[int, int, int, int]:
        """Window columns x0:x1 and rows y0:y1 that the view frustum can touch."""
        u = (np.array([0, intrinsics.width - 1]) - intrinsics.cx) / intrinsics.fx
        v = (np.array([0, intrinsics.height - 1]) - intrinsics.cy) / intrinsics.fy
        corners = np.array([[x, y, 1] for x in u for y in v]) * (self._config.max_range * 1.01)
        reach = np.vstack([corners @ rotation.T + eye, eye])[:, :2]
        low = np.clip(np.floor(reach.min(0)).astype(int) - 1, 0, self._side)
        high = np.clip(np.floor(reach.max(0)).astype(int) + 2, 0, self._side)
        return int(low[0]), int(high[0]), int(low[1]), int(high[1])


@numba.njit(cache=True, nogil=True, error_model='numpy', inline='always')
def _end_depth(
    d: float, rx: float, ry: float, limits: tuple[float, float, float]
) -> tuple[float, bool]:
    """z-depth at which the ray of a pixel ends, and whether a surface ends it; 0: no ray.

    The end is moved a thousandth of a voxel into the surface: surfaces often lie exactly on cell
    boundaries (a wall at x = 2 m), where rounding would scatter their points over both cells. That
    is well above the resolution of float32 depth, and too little to jump over a far edge.
    """
    near, far, nudge = limits
    squared = d * d * (1.0 + rx * rx + ry * ry)
    if not (d > 0.0 and squared >= near * near and squared < np.inf):
        return 0.0, False
    if squared > far * far:
        return d * (far / math.sqrt(squared)), False
    return d + nudge, True


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _mark_hits(
    depth: np.ndarray,
    camera: np.ndarray,
    rotation: np.ndarray,
    eye: np.ndarray,
    limits: tuple[float, float, float],
    columns: np.ndarray,
    rows: np.ndarray,
    marks: np.ndarray,
) -> None:
    """Write 2 into the voxel of every surface point; threads can only write the same value."""
    fx, fy, cx, cy = camera
    height, width = depth.shape
    side, layers = len(columns), marks.shape[2]
    for v in numba.prange(height):
        ry = (v - cy) / fy
        for u in range(width):
            rx = (u - cx) / fx
            end, hit = _end_depth(float(depth[v, u]), rx, ry, limits)
            if not hit:
                continue
            x = eye[0] + (rotation[0, 0] * rx + rotation[0, 1] * ry + rotation[0, 2]) * end
            y = eye[1] + (rotation[1, 0] * rx + rotation[1, 1] * ry + rotation[1, 2]) * end
            z = eye[2] + (rotation[2, 0] * rx + rotation[2, 1] * ry + rotation[2, 2]) * end
            if 0.0 <= x < side and 0.0 <= y < side and 0.0 <= z < layers:
                marks[rows[int(y)], columns[int(x)], int(z)] = 2


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _mark_passed(
    depth: np.ndarray,
    camera: np.ndarray,
    rotation: np.ndarray,
    eye: np.ndarray,
    limits: tuple[float, float, float],
    columns: np.ndarray,
    rows: np.ndarray,
    marks: np.ndarray,
    stride_u: int,
    stride_v: int,
) -> None:
    """Write 1 into every unmarked voxel between the camera and the end of a ray.

    Amanatides & Woo 1987, on the part of the ray inside the window. The voxel of the end itself
    carries a 2 when a surface ends the ray. Crossings are computed from the plane's index instead
    of being summed up, so that errors do not grow along the ray.

    Rays that are one voxel apart at `max_range` crowd near the camera, where most steps would
    repeat each other. So rays with an odd place in the lattice of strides start at half of
    `max_range`, those left with a place odd in twos at a quarter, in fours at an eighth: their
    spacing stays between half a voxel and one, for about half the steps.
    """
    fx, fy, cx, cy = camera
    height, width = depth.shape
    nx, nz = len(columns), marks.shape[2]
    ex, ey, ez = eye
    for i in numba.prange((height + stride_v - 1) // stride_v):
        v = i * stride_v
        ry = (v - cy) / fy
        for j in range((width + stride_u - 1) // stride_u):
            u = j * stride_u
            rx = (u - cx) / fx
            end, _ = _end_depth(float(depth[v, u]), rx, ry, limits)
            place = i | j
            skipped = 0.5 if place & 1 else 0.25 if place & 2 else 0.125 if place & 4 else 0.0
            skipped *= limits[1] / math.sqrt(1.0 + rx * rx + ry * ry)
            if end <= skipped:  # also pixels without a ray, whose end is 0
                continue
            # The ray is eye + t * (dx, dy, dz), t being the z-depth.
            dx = rotation[0, 0] * rx + rotation[0, 1] * ry + rotation[0, 2]
            dy = rotation[1, 0] * rx + rotation[1, 1] * ry + rotation[1, 2]
            dz = rotation[2, 0] * rx + rotation[2, 1] * ry + rotation[2, 2]
            # 1e-30 stands for a parallel ray: its crossings lie beyond every end.
            inv_x = 1.0 / (dx if abs(dx) > 1e-30 else 1e-30)
            inv_y = 1.0 / (dy if abs(dy) > 1e-30 else 1e-30)
            inv_z = 1.0 / (dz if abs(dz) > 1e-30 else 1e-30)
            ax, bx = (0.0 - ex) * inv_x, (nx - ex) * inv_x
            ay, by = (0.0 - ey) * inv_y, (nx - ey) * inv_y
            az, bz = (0.0 - ez) * inv_z, (nz - ez) * inv_z
            start = max(skipped, min(ax, bx), min(ay, by), min(az, bz))
            stop = min(end, max(ax, bx), max(ay, by), max(az, bz))
            if start >= stop:
                continue
            x = min(max(math.floor(ex + dx * start), 0), nx - 1)
            y = min(max(math.floor(ey + dy * start), 0), nx - 1)
            z = min(max(math.floor(ez + dz * start), 0), nz - 1)
            up_x, up_y, up_z = int(dx > 0), int(dy > 0), int(dz > 0)
            next_x = (x + up_x - ex) * inv_x
            next_y = (y + up_y - ey) * inv_y
            next_z = (z + up_z - ez) * inv_z
            while True:
                row, column = rows[y], columns[x]
                if marks[row, column, z] == 0:
                    marks[row, column, z] = 1
                if next_x <= next_y and next_x <= next_z:
                    x += 2 * up_x - 1
                    if next_x >= stop or x < 0 or x >= nx:
                        break
                    next_x = (x + up_x - ex) * inv_x
                elif next_y <= next_z:
                    y += 2 * up_y - 1
                    if next_y >= stop or y < 0 or y >= nx:
                        break
                    next_y = (y + up_y - ey) * inv_y
                else:
                    z += 2 * up_z - 1
                    if next_z >= stop or z < 0 or z >= nz:
                        break
                    next_z = (z + up_z - ez) * inv_z


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _apply_marks(
    log_odds: np.ndarray,
    marks: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    hit: int,
    miss: int,
) -> None:
    """Add hits, subtract misses, clamp, and wipe the marks."""
    for j in numba.prange(len(rows)):
        for i in range(len(columns)):
            values, touched = log_odds[rows[j], columns[i]], marks[rows[j], columns[i]]
            for k in range(len(values)):
                mark = touched[k]
                change = np.int32(hit) if mark == 2 else np.int32(0)
                change -= np.int32(miss) if mark == 1 else np.int32(0)
                value = np.int32(values[k]) + change
                values[k] = min(max(value, np.int32(-_FULL_SCALE)), np.int32(_FULL_SCALE))
                touched[k] = 0


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _project_columns(
    log_odds: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    occupied_at: int,
    free_at: int,
    needed: int,
) -> np.ndarray:
    cells = np.empty((len(rows), len(columns)), np.int8)
    for j in numba.prange(len(rows)):
        for i in range(len(columns)):
            values = log_odds[rows[j], columns[i]]
            highest = np.int32(-_FULL_SCALE)
            for k in range(len(values)):
                highest = max(highest, np.int32(values[k]))
            free = True
            for k in range(needed):
                free &= values[k] <= free_at
            if highest >= occupied_at:
                cells[j, i] = OCCUPIED
            elif free:
                cells[j, i] = FREE
            else:
                cells[j, i] = UNKNOWN
    return cells
