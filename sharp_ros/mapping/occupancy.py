"""Occupancy: a voxel log-odds map around the camera and its 2-D projection.

Every frame marks the voxels in which depth ends and clears those its rays pass (Hornung et al.,
OctoMap, 2013: log-odds with clamping; Amanatides & Woo 1987: the walk along a ray). What a ray
hits, what may lie behind that and what rays pass is collected from all pixels before anything is
counted, so that a voxel hit in a frame is never cleared by it, and every voxel changes at most
once per frame: the result does not depend on the order of pixels or threads. The window rolls with
the camera in a ring buffer (cell modulo window), so moving costs only the strip that leaves.

The depth of a ray is uncertain by a share of it: `range_std`, and the noise found in the image.
The hit is spread over twice that, from where the ray ends backwards, in weights that sum to the
hit; clearing stops one standard deviation before. In front, where frames contradict each other,
the rays of most then win, and the surface stands where it is on average: with evidence on both
sides of the end it would grow towards the camera by what any frame ever erred.

One module: marking, projection, checkpoints and the saved state share the layout of one array of
voxels; the loops over it are in `occupancy_kernels`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
import math

import numpy as np

from sharp_ros.camera import check_depth_size, Intrinsics, JITTER_NS
from sharp_ros.config import OccupancyConfig
from sharp_ros.errors import InputError
from sharp_ros.mapping.occupancy_kernels import (
    apply_marks,
    DOUBTED,
    FLOOR,
    FLOOR_WITHIN,
    FREE,
    FULL_SCALE,
    GROUND_REACH,
    MARK,
    mark_ground,
    mark_hits,
    mark_rays,
    NEWS,
    NEWS_AT,
    note_news,
    OCCUPIED,
    PASSED,
    pooled,
    project_columns,
    SPREAD,
    STEPS_DOWN,
    UNKNOWN,
)
from sharp_ros.mapping.stored import bad_map, check_settings, settings_of, stored_array
from sharp_ros.point_cloud import pixel_noise
from sharp_ros.se3 import angle, checked_pose

__all__ = ['FREE', 'OCCUPIED', 'UNKNOWN', 'OccupancyGrid2D', 'OccupancyMap']

_FARTHEST_CELL = 1 << 40
_SURFACE_NUDGE = 1e-3  # voxels; see `occupancy_kernels`
_STD_MAX = 0.2  # of depth; an image of nothing but noise shall not mark the whole window
# That a map to be restored must share.
_SETTINGS = ('voxel_size', 'size', 'min_height', 'max_height', 'clamp_log_odds')
_REMEMBERED = 1.0  # seconds after which a pose says nothing of how fast the camera turns
_FADES = 20  # steps of a decay time, if frames come as often


def surely_free(scale_std: float) -> float:
    """Share of a depth up to which there is nothing, but for one case in forty.

    Args:
        scale_std: standard deviation of the logarithm of the factor of the depth.
    """
    return 1.0 / (1.0 + 2.0 * scale_std)


_EXACT = np.zeros((1, 1), np.float32)


def _layers_to(height: float, config: OccupancyConfig, most: int) -> int:
    """Number of layers from the bottom of the band to a height, at least one."""
    count = math.ceil((height - config.min_height) / config.voxel_size - 1e-6)
    return min(max(1, count), most)


def _sides_of_view(view: DepthView, rotation: np.ndarray) -> np.ndarray:  # -> [4, 3]
    """Inward normals of the sides of what a camera sees, one ray of its lattice inside of them."""
    (height, width), (fx, fy, cx, cy), (su, sv) = view.depth.shape, view.camera, view.strides
    left, right = (su - cx) / fx, (width - 1 - su - cx) / fx
    top, bottom = (sv - cy) / fy, (height - 1 - sv - cy) / fy
    normals = np.array([[1, 0, -left], [-1, 0, right], [0, 1, -top], [0, -1, bottom]])
    return normals @ rotation.T


def _beside(cells: np.ndarray) -> np.ndarray:  # [R, C] bool -> [R, C] bool
    """Cells with one of these at a side."""
    padded = np.pad(cells, 1)
    return padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


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


@dataclass(frozen=True)
class DepthView:
    """The depth of one frame, and from where it was seen.

    Attributes:
        depth: [H, W] float32 z-depth, metres.
        camera: [4] fx, fy, cx, cy of it, pixels.
        strides: pixels from one ray to the next, along u and v.
        noise: standard deviation of a pixel as a share of its depth.
        log_std: [m, n] stated deviation of the logarithm of depth, edge to edge, that of its
            scale left out.
        T_world_camera: [4, 4].
        base_position: [2] or [3] where the robot stands in the world, or None.
        front: [H, W] depth of what stands before that, narrower than a ray, or NaN; None: nothing.
        clears: whether its rays free anything.
    """

    depth: np.ndarray
    camera: np.ndarray
    strides: tuple[int, int]
    noise: float
    log_std: np.ndarray
    T_world_camera: np.ndarray
    base_position: np.ndarray | None = None
    front: np.ndarray | None = None
    clears: bool = True

    def averaged(self) -> DepthView:
        """The same with one pixel per ray, which the others about it are averaged into."""
        depth, front, camera = pooled(self.depth, self.camera, *self.strides)
        noise = self.noise / math.sqrt(self.strides[0] * self.strides[1])
        return replace(self, depth=depth, camera=camera, strides=(1, 1), noise=noise, front=front)

    def times(self, factor: float) -> DepthView:
        """The same, all depth multiplied."""
        front = None if self.front is None else self.front * np.float32(factor)
        return replace(self, depth=self.depth * np.float32(factor), front=front)

    def thinned(self) -> DepthView:
        """A copy with the pixels of the rays alone."""
        stride_u, stride_v = self.strides
        depth = self.depth[::stride_v, ::stride_u].copy()
        front = None if self.front is None else self.front[::stride_v, ::stride_u].copy()
        camera = self.camera / np.array([stride_u, stride_v, stride_u, stride_v])
        pose = self.T_world_camera.copy()
        return replace(
            self, depth=depth, camera=camera, strides=(1, 1), T_world_camera=pose, front=front
        )


@dataclass(frozen=True)
class Checkpoint:
    """The cells of an `OccupancyMap` at some moment.

    Most columns of the window hold nothing, and several such are kept, so the others are all.

    Attributes:
        known: [rows, columns] where a column holds anything, as they are stored.
        log_odds: [N, layers] of those columns, int16.
        corner: of the window, or None.
        faded_ns: [rows] until when rows have faded.
        columns: what else is kept of columns.
    """

    known: np.ndarray
    log_odds: np.ndarray
    corner: np.ndarray | None  # never written into
    faded_ns: np.ndarray
    columns: np.ndarray


class OccupancyMap:
    """Voxel log-odds in a square window that follows the camera, world frame, z up.

    The height band is `min_height` upwards in whole voxels; the last one may reach past
    `max_height`. Three bytes a voxel and three a column, all taken at the start: 17 MB with the
    defaults.

    Attributes:
        config: settings; the live ones among them may be replaced between two frames.
    """

    def __init__(self, config: OccupancyConfig) -> None:
        self.config = config
        self._side = config.shape[0]
        scale = FULL_SCALE / config.clamp_log_odds
        self._hit = min(round(config.hit_log_odds * scale), 2 * FULL_SCALE)
        self._miss = min(round(config.miss_log_odds * scale), 2 * FULL_SCALE)
        # Scaled with a little tolerance, so that rounding cannot lose a sum that meets the bound;
        # but what nothing has touched, 0, is neither, whatever the bounds.
        self._occupied_at = max(round(config.occupied_log_odds * scale) - 2, 1)
        self._free_at = min(round(config.free_log_odds * scale) + 2, -1)
        self._scale = scale
        # Frames after which more of the same change nothing.
        self._enough = math.ceil(2 * FULL_SCALE / min(self._hit, self._miss))
        self._log_odds = np.zeros(config.shape, np.int16)  # y, x, z
        self._marks = np.zeros(self._log_odds.shape, np.uint8)
        # Likewise by storage row and column: where the floor is missing, how many layers were in
        # view, and the projection, which is kept as voxels change.
        self._columns = np.zeros((2, *config.shape[:2]), np.uint8)
        self._ground, self._tops = self._columns
        self._cells = np.full(config.shape[:2], UNKNOWN, np.int8)
        self._stale = np.ones(self._side, bool)  # rows whose projection is out of date
        layers = config.shape[2]
        self._bounds = (
            self._occupied_at,
            self._free_at,
            _layers_to(config.robot_height or config.max_height, config, layers),
            _layers_to(config.unseen_above, config, layers),
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next frame places the window."""
        self._log_odds[:], self._marks[:], self._columns[:] = 0, 0, 0
        self._cells[:], self._stale[:] = UNKNOWN, False
        self._corner: np.ndarray | None = None  # world cell (x, y) of the window's low corner
        self._faded_ns = np.zeros(self._side, np.int64)  # by storage row
        self._last_ns: int | None = None
        self._seen: tuple[int, np.ndarray] | None = None  # stamp and rotation of the newest frame

    def state(self) -> dict[str, np.ndarray]:
        """All that is known, copied; `restore` takes it back."""
        corner = np.zeros((0, 2), np.int64) if self._corner is None else self._corner[None].copy()
        return {
            **settings_of(self.config, _SETTINGS),
            'log_odds': self._log_odds.copy(),
            'marks': self._marks.copy(),
            'columns': self._columns.copy(),
            'corner': corner,
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the map by one that `state` gave; what fades does so from the next frame on.

        Maps of former versions know neither what was hit in free space nor where floor is missing.

        Raises:
            InputError: `bad_map` if it is damaged or of other settings; the map is then unchanged.
        """
        check_settings(state, 'occupancy', self.config, _SETTINGS)
        log_odds = stored_array(state, 'log_odds', np.int16, self._log_odds.shape)
        corner = stored_array(state, 'corner', np.int64, (None, 2))
        marks, columns = np.uint8(0), np.uint8(0)
        if {'marks', 'columns'} & set(state):
            marks = stored_array(state, 'marks', np.uint8, self._marks.shape)
            columns = stored_array(state, 'columns', np.uint8, self._columns.shape)
        if max(int(log_odds.max()), -int(log_odds.min())) > FULL_SCALE:
            raise bad_map('log-odds are beyond their bound; save the map anew')
        if len(corner) > 1 or (np.abs(corner) > _FARTHEST_CELL).any():
            raise bad_map('the window of the occupancy map is nowhere; save the map anew')
        self.reset()
        self._log_odds[:], self._columns[:] = log_odds, columns
        self._marks[:] = marks & np.uint8(~MARK & 0xFF)  # those are of a frame at work
        self._stale[:] = True
        self._corner = corner[0].copy() if len(corner) else None

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high corner [3] of the mapped volume in the world frame, metres."""
        voxel = self.config.voxel_size
        low = np.array([*(self._low_corner() * voxel), self.config.min_height], np.float64)
        return low, low + voxel * np.array(self._log_odds.shape)[[1, 0, 2]]

    def log_odds(self) -> np.ndarray:  # -> [rows, columns, layers]
        """Log-odds of all voxels as float32 (0: never seen), unrolled: axes +y, +x, +z."""
        columns, rows = self._ring()
        return self._log_odds[np.ix_(rows, columns)] / np.float32(self._scale)

    def integrate(
        self,
        depth: np.ndarray,
        intrinsics: Intrinsics,
        T_world_camera: np.ndarray,
        stamp_ns: int = 0,
        base_position: np.ndarray | None = None,
        scale_std: float = 0.0,
        log_std: np.ndarray | None = None,
    ) -> DepthView:
        """Add one depth image, and follow the camera.

        A frame of a camera that turns faster than `max_turn_rate`, from the pose of the frame
        before to this one, marks but clears nothing: late poses then place it beside what it
        shows, and rays that pass an obstacle would free it.

        Rays shorter than `min_range` (camera to point, not along z) are ignored, longer ones than
        `max_range` clear up to there and mark nothing.

        Args:
            depth: [H, W] z-depth in metres; 0 and NaN neither mark nor clear, +inf (nothing in
                range, REP-117) clears up to `max_range`.
            intrinsics: of the same resolution.
            T_world_camera: [4, 4] pose of the optical frame in the world frame (z up).
            stamp_ns: time of the frame, for `decay_time` and `max_turn_rate`.
            base_position: [2] or [3] where the robot stands in the world frame; within
                `footprint_radius` of it all heights become free.
            scale_std: standard deviation of the logarithm of the factor that all of this depth
                shares: rays free no more than `surely_free` of their depth. Beyond that they only
                take back, down to unknown, what earlier frames marked.
            log_std: [m, n] that of the rest of the error of each pixel, edge to edge in any
                resolution; it adds to that of the factor. None: exact, but for `range_std`.

        Returns:
            What was added, for `add_again`; it may share the memory of `depth`.

        Raises:
            InputError: `bad_pose` for a pose that is not finite or not rigid or a base that is
                not finite, `size_mismatch` for a depth that does not fit the intrinsics; the map
                is then unchanged.
        """
        check_depth_size(depth, intrinsics)
        pose = checked_pose(T_world_camera)
        if base_position is not None and not np.isfinite(base_position).all():
            raise InputError('the base position is not finite; check the base frame', 'bad_pose')
        self._follow(pose[:2, 3])
        self._fade(stamp_ns)
        depth = np.require(depth, np.float32, ['C', 'W'])
        strides = self._strides(intrinsics)
        noise = pixel_noise(depth, *strides)
        stated = _EXACT if log_std is None else np.require(log_std, np.float32, ['C', 'W'])
        view = DepthView(
            depth,
            intrinsics.parameters,
            strides,
            noise,
            stated,
            pose,
            base_position,
            clears=not self._turns(stamp_ns, pose[:3, :3]),
        )
        if noise * self.config.max_range > self.config.voxel_size:
            view = view.averaged()
        self._add(view, scale_std)
        return view

    def add_again(
        self, view: DepthView, factor: float, scale_std: float, count: int, stamp_ns: int
    ) -> None:
        """Add an earlier frame, as far as it is in the window, which stays.

        Args:
            view: of `integrate`.
            factor: that its depth is to be multiplied by.
            scale_std: as for `integrate`.
            count: frames that it stands for.
            stamp_ns: of the frame; what has faded since is not added.
        """
        weight = float(min(count, self._enough))
        if self.config.decay_time > 0 and self._last_ns is not None:
            weight *= math.exp(-max(self._last_ns - stamp_ns, 0) * 1e-9 / self.config.decay_time)
        self._add(view.times(factor), scale_std, weight)

    def checkpoint(self) -> Checkpoint:
        """All cells as they are now, which `go_back` takes back."""
        known = np.bitwise_or.reduce(self._log_odds, axis=2) != 0
        held = self._log_odds[known]
        return Checkpoint(known, held, self._corner, self._faded_ns.copy(), self._columns.copy())

    def go_back(self, checkpoint: Checkpoint) -> None:
        """Forget what was added since a checkpoint; the window stays where it is."""
        self._log_odds[:] = 0
        self._log_odds[checkpoint.known] = checkpoint.log_odds
        self._marks[:], self._columns[:] = 0, checkpoint.columns
        self._stale[:] = True
        if self.config.decay_time > 0 and self._last_ns is not None:
            age = (self._last_ns - checkpoint.faded_ns) * 1e-9
            left = np.exp(-age / self.config.decay_time)[:, None, None]
            self._log_odds[:] = self._log_odds * left
            self._faded_ns[:] = self._last_ns
        corner = self._corner
        if checkpoint.corner is not None and corner is not None:
            self._corner = checkpoint.corner
            self._move_to(corner)

    def _add(self, view: DepthView, scale_std: float, weight: float = 1.0) -> None:
        """Add the evidence of `weight` frames of one view to the window as it stands."""
        config = self.config
        voxel = config.voxel_size
        # From here on lengths are voxels and the window's low corner is the origin.
        pose = view.T_world_camera
        eye = (pose[:3, 3] - self.bounds[0]) / voxel
        rotation = np.ascontiguousarray(pose[:3, :3]) / voxel
        columns, rows = self._ring()
        std = min(math.hypot(config.range_std, view.noise), _STD_MAX)
        limits = (
            float(config.min_range),
            float(config.max_range),
            _SURFACE_NUDGE * voxel,
            std,
            scale_std,
        )
        window = (columns, rows, self._marks)
        front = view.depth
        placed = (view.camera, rotation, eye, limits)
        if view.front is not None:
            front = np.fmin(view.depth, view.front)
            mark_hits(view.front, *placed, *window, (0, 0))
        spread = view.strides if std > 0 else (0, 0)
        farthest = mark_hits(view.depth, *placed, *window, spread)
        marked = (*placed, view.log_std, *window, view.strides)
        if view.clears:
            mark_rays(front, *marked, PASSED)
        if view.clears and (scale_std > 0 or view.log_std is not _EXACT):
            mark_rays(front, *marked, DOUBTED)
        if config.drop_offs != 'ignore' and config.min_height > 0:
            mark_ground(
                view.depth,
                *marked[:5],
                columns,
                rows,
                self._ground,
                view.strides,
                (-config.min_height / voxel, STEPS_DOWN / voxel, FLOOR_WITHIN / voxel),
            )
            if not view.clears:
                self._ground[self._ground & MARK == FLOOR] &= ~MARK & 0xFF
        reach = min(farthest, config.max_range) * (1.01 + SPREAD * std)
        x0, x1, y0, y1 = self._view_box(view, rotation, eye, reach)
        inside = (columns[x0:x1], rows[y0:y1])
        sides, size = _sides_of_view(view, rotation), (view.depth.shape[0], view.depth.shape[1])
        seen = (
            eye - np.array([x0, y0, 0]),
            rotation,
            view.camera,
            sides,
            size,
            config.max_range / voxel,
        )
        count = max(1, round(weight))
        note_news(
            self._log_odds,
            self._marks,
            *inside,
            seen,
            limits,
            view.log_std,
            count,
            self._occupied_at,
        )
        apply_marks(
            self._log_odds,
            self._marks,
            self._ground,
            self._tops,
            self._cells,
            *inside,
            seen,
            limits,
            view.log_std,
            (round(weight * self._hit), round(weight * self._miss), count),
            self._bounds,
        )
        if view.base_position is not None and config.footprint_radius > 0:
            self._clear_footprint(np.asarray(view.base_position, np.float64)[:2])

    def occupied_points(self) -> np.ndarray:  # -> [N, 3] float32
        """Centres of the occupied voxels in the world frame, metres."""
        news = self._marks & (NEWS << NEWS_AT)
        occupied = (self._log_odds >= self._occupied_at) | (news >= 2 << NEWS_AT)
        row, column, layer = np.nonzero(occupied)
        corner = self._low_corner()
        x = corner[0] + (column - corner[0]) % self._side
        y = corner[1] + (row - corner[1]) % self._side
        points = (np.stack([x, y, layer], -1) + 0.5) * self.config.voxel_size
        points[:, 2] += self.config.min_height
        return points.astype(np.float32)

    def clearing_points(
        self,
        depth: np.ndarray,
        intrinsics: Intrinsics,
        T_world_camera: np.ndarray | None = None,
        scale_std: float = 0.0,
    ) -> np.ndarray:  # [H, W] -> [M, 3] float32
        """Ends of the rays that hit nothing within `max_range`, in the optical frame, metres.

        A costmap clears up to them. It drops those out of its height band: with a pose given, such
        rays end where they leave the band of this map, and those that never cross it are left out.

        Args:
            depth: [H, W] z-depth in metres; 0 and NaN say nothing about a ray, +inf that it met
                nothing.
            intrinsics: of the same resolution.
            T_world_camera: [4, 4] pose of the optical frame in the world frame (z up).
            scale_std: as for `integrate`; rays then end where they are surely free.

        Raises:
            InputError: as `integrate`.
        """
        check_depth_size(depth, intrinsics)
        stride_u, stride_v = self._strides(intrinsics)
        rays = intrinsics.rays()[::stride_v, ::stride_u].astype(np.float64)
        rays = np.concatenate([rays, np.ones((*rays.shape[:2], 1))], -1)
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        depth = depth[::stride_v, ::stride_u]
        reach = self.config.max_range
        nothing = depth > reach * rays[..., 2]
        unit = rays[nothing]
        ends = np.minimum(depth[nothing] / unit[:, 2] * surely_free(scale_std), reach)
        if T_world_camera is not None:
            pose = checked_pose(T_world_camera)
            low, high = (bound[2] - pose[2, 3] for bound in self.bounds)
            rise = unit @ pose[2, :3]
            rise[np.abs(rise) < 1e-12] = 1e-12
            ends = np.minimum(ends, np.maximum(low / rise, high / rise))
            crossing = ends > np.maximum(0, np.minimum(low / rise, high / rise))
            # A hair inside, so that rounding puts no point beyond the band.
            unit, ends = unit[crossing], ends[crossing] * (1 - 1e-6)
        return (unit * ends[:, None]).astype(np.float32)

    def grid(self) -> OccupancyGrid2D:
        """The 2-D projection of the window; cheap enough to call at the publishing rate."""
        columns, rows = self._ring()
        stale = np.flatnonzero(self._stale)
        if len(stale):
            project_columns(
                self._log_odds, self._marks, self._tops, self._cells, stale, self._bounds
            )
            self._stale[:] = False
        turn = (-int(rows[0]), -int(columns[0]))
        cells = np.roll(self._cells, turn, (0, 1))
        if self.config.drop_offs != 'ignore' and self._ground.any():
            gaps = (np.roll(self._ground, turn, (0, 1)) > 0) & (cells == FREE)
            cells[gaps] = UNKNOWN
            if self.config.drop_offs == 'occupied':
                cells[gaps & _beside(cells == FREE)] = OCCUPIED
        x, y = self.bounds[0][:2]
        return OccupancyGrid2D(cells, self.config.voxel_size, (float(x), float(y)))

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

    def _strides(self, intrinsics: Intrinsics) -> tuple[int, int]:
        """Pixels between rays that are at most one voxel apart where they are longest."""
        per_voxel = self.config.voxel_size / self.config.max_range
        return max(1, int(intrinsics.fx * per_voxel)), max(1, int(intrinsics.fy * per_voxel))

    def _fade(self, stamp_ns: int) -> None:
        """Let a few rows fade that have waited longest, so that no frame pays for all.

        After a gap all do, else what is seen from now on would fade as if it were as old as that.
        """
        period = self.config.decay_time * 1e9
        if self._last_ns is None or stamp_ns < self._last_ns - JITTER_NS:
            self._last_ns = self._faded_ns[:] = stamp_ns  # the first, or a bag that started over
        gap = stamp_ns - self._last_ns  # below 0 for a late frame, for which no row is due
        self._last_ns = max(self._last_ns, stamp_ns)
        if period > 0:
            age = stamp_ns - self._faded_ns
            count = self._side if gap > period / 4 else max(1, self._side // 4)
            oldest = np.argsort(-age, kind='stable')[:count]
            due = oldest[age[oldest] >= period / _FADES]
            for row in due:
                self._remember(row)
                self._log_odds[row] = self._log_odds[row] * math.exp(-age[row] / period)
            self._faded_ns[due] = stamp_ns
            self._stale[due] = True

    def _turns(self, stamp_ns: int, rotation: np.ndarray) -> bool:
        """Whether the camera turns too fast since the frame before; that is then this one."""
        before, self._seen = self._seen, (stamp_ns, rotation.copy())
        if before is None or self.config.max_turn_rate <= 0:
            return False
        elapsed = abs(stamp_ns - before[0]) * 1e-9
        turned = float(angle(before[1].T @ rotation))
        return 0 < elapsed <= _REMEMBERED and turned > self.config.max_turn_rate * elapsed

    def _remember(self, row: int) -> None:
        """Have what was hit in free space fade as the rest: take it into the log-odds of a row."""
        news = self._marks[row] >> NEWS_AT & NEWS
        values = self._log_odds[row]
        values[news == 1] = np.maximum(values[news == 1], 0)
        values[news > 1] = np.maximum(values[news > 1], self._occupied_at)
        self._marks[row] = 0

    def _clear_footprint(self, base: np.ndarray) -> None:
        """Make what the robot stands on free: all heights, cells whose centre it covers."""
        voxel, radius = self.config.voxel_size, self.config.footprint_radius
        columns, rows = self._ring()
        centres = (self._low_corner()[:, None] + np.arange(self._side) + 0.5) * voxel
        away = centres - base[:, None]
        x, y = (np.flatnonzero(np.abs(axis) <= radius) for axis in away)
        inside = np.hypot(away[0, x], away[1, y, None]) <= radius
        block = np.ix_(rows[y], columns[x])
        values = self._log_odds[block]
        values[inside] = np.minimum(values[inside], self._free_at)
        self._log_odds[block] = values
        marks, ground = self._marks[block], self._ground[block]
        marks[inside], ground[inside] = 0, 0
        self._marks[block], self._ground[block] = marks, ground
        self._stale[rows[y]] = True

    def _follow(self, position: np.ndarray) -> None:
        """Move the window when the camera is farther than a twentieth of it off its centre."""
        cell = np.floor(position / self.config.voxel_size).astype(np.int64)
        wanted = cell - self._side // 2
        if self._corner is None:
            self._corner = wanted
            return
        if np.abs(wanted - self._corner).max() > self._side // 20:
            self._move_to(wanted)

    def _move_to(self, corner: np.ndarray) -> None:
        """Place the window; cells that enter are unknown."""
        assert self._corner is not None
        for axis, moved in enumerate(corner - self._corner):
            # Cells that enter take the storage of cells that leave: forget those.
            first = self._corner[axis] + (self._side if moved > 0 else 0)
            count = min(abs(int(moved)), self._side)
            step = 1 if moved > 0 else -1
            entering = (first - (step < 0) + step * np.arange(count)) % self._side
            for array in (self._log_odds, self._marks, self._ground, self._tops):
                if axis == 0:
                    array[:, entering] = 0
                else:
                    array[entering] = 0
            if axis == 0:
                self._cells[:, entering] = UNKNOWN
            else:
                self._cells[entering] = UNKNOWN
        self._corner = corner

    def _view_box(
        self, view: DepthView, rotation: np.ndarray, eye: np.ndarray, reach: float
    ) -> tuple[int, int, int, int]:
        """Window columns x0:x1, rows y0:y1 that a view down to a depth meets, and its floor."""
        (height, width), (fx, fy, cx, cy) = view.depth.shape, view.camera.tolist()
        box = []
        for (to_u, to_v, ahead), at in zip(rotation.tolist(), eye.tolist(), strict=False):
            sides = (-cx / fx * to_u, (width - 1 - cx) / fx * to_u)
            heights = (-cy / fy * to_v, (height - 1 - cy) / fy * to_v)
            low = min(0.0, reach * (min(sides) + min(heights) + ahead))
            high = max(0.0, reach * (max(sides) + max(heights) + ahead))
            for end in (at + low - GROUND_REACH - 1, at + high + GROUND_REACH + 2):
                box.append(min(max(math.floor(end), 0), self._side))
        return box[0], box[1], box[2], box[3]
