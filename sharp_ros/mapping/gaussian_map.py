"""Gaussians of many frames as one map: a voxel hash in which every cell holds one Gaussian.

What falls into a voxel is kept as the sums of its mixture's moments, so the merged Gaussian has
the mean and the covariance of all of them (moment-preserving merging: Runnalls, "Kullback-Leibler
Approach to Gaussian Mixture Reduction", 2007), whatever their order: a piece of a wall becomes a
disc, not a ball. Sums are relative to the centre of the voxel, so float32 holds them anywhere.

Rows are dense, and the hash table (open addressing, linear probing) holds their numbers only.
Deleting shifts the followers back (Knuth, TAOCP 3, 6.4 R), so nothing wears out over hours.
"""

from __future__ import annotations

from collections.abc import Mapping
import math

import numba
import numpy as np
import torch

from sharp_ros.camera import Intrinsics
from sharp_ros.config import GaussianMapConfig
from sharp_ros.errors import InputError
from sharp_ros.gaussians import Gaussians
from sharp_ros.mapping.stored import bad_map, check_settings, settings_of, stored_array
from sharp_ros.network.unprojection import jacobi_sweep
from sharp_ros.se3 import checked_pose

# A uniform patch of side 1 has a standard deviation of 1 / sqrt(12). Gaussians that stand one side
# apart close the surface from 0.6 on, as those of a network do in their grid; so the spread of the
# means in a voxel, not the width of what it is made of, is drawn wider by the quotient.
_CLOSING = 0.6
SPREAD = _CLOSING * math.sqrt(12)

# Weight 1 is one keyframe that sees a voxel in full from 1 m. More is not gathered than two of
# those or 32 from 2 m, so that new frames keep a say.
_WEIGHT_MAX = 2.0
_HIDDEN_WEIGHT = 0.1  # of layers behind the visible one, which are guessed
# Spread of log depth at which a model's word counts in full, and what bounds its say.
_LOG_DEPTH_STD, _LOG_DEPTH_STD_MIN, _LOG_DEPTH_STD_MAX = 0.1, 0.03, 1.0

# Evidence is one for every keyframe that saw something in the voxel and halves with every one that
# speaks against it: what was guessed goes after one such, what stood for long after four.
_EVIDENCE_MAX, _EVIDENCE_HIDDEN, _EVIDENCE_MIN = 4.0, 0.5, 0.4
_DOUBT = 0.5
# Seen through is what is nearer than the depth image by the larger one of these. Where a model
# says how uncertain its depth is, its frames disagree by about that, and one surface would become
# a stack of them as thick: then what lies out of the margin of voxels, but within a standard
# deviation behind the newest surface, is taken for the same surface and doubted as well.
_MARGIN_RELATIVE, _MARGIN_VOXELS = 0.1, 2.0

_SETTINGS = ('voxel_size',)  # that a map to be restored must share
_OPACITY_MIN = 1 / 255  # less is never drawn
_KEPT = 0.9  # of the bound is left when it is reached
_VIEWPOINTS, _VIEWPOINT_SPACING = 2000, 0.1
_COMPANY = 4  # neighbours of a voxel within a surface, of the six that share a face
_FLOOR = 1e-8  # of a variance, relative to the sum over all axes
_CHUNK = 1 << 14  # Gaussians at a time; their sums stay in the cache
_INDEX_BITS = 21  # of a voxel index per axis: 31 km either way at 3 cm
_INDEX_OFFSET = 1 << (_INDEX_BITS - 1)
_INDEX_MASK = (1 << _INDEX_BITS) - 1

# Columns of the sums: weight; mean; the Gaussians' own covariances and the products of their
# means, both as xx xy xz yy yz zz; linear RGB; opacity.
_MEAN, _OWN, _MEANS, _COLOR, _OPACITY, _COLUMNS = 1, 4, 10, 16, 19, 20

_HIDDEN, _SEEN = 1, 2  # values of `touched`

_inlined = numba.njit(cache=True, forceinline=True, error_model='numpy')


class GaussianMap:
    """A bounded map of Gaussians in the world frame.

    When it is full, what was guessed goes first, then what was seen, both from the farthest from
    the camera on: views are rendered near it, a hole in a far wall is worse than no wall, and
    unlike age, distance keeps a place one just turned away from.
    """

    def __init__(self, config: GaussianMapConfig) -> None:
        self._config = config
        rows = config.max_gaussians
        slots = 1 << math.ceil(math.log2(2 * rows))  # at most half full: probes stay short
        self._table = np.full(slots, -1, np.int32)  # row by hash
        self._voxels = np.zeros(rows, np.int64)
        self._sums = np.zeros((rows, _COLUMNS), np.float32)
        self._evidence = np.zeros(rows, np.float32)
        self._touched = np.zeros(rows, np.uint8)  # within the current integrate
        self._changed = np.zeros(rows, np.bool_)  # since the last export
        shapes = ((rows, 3), (rows, 4), (rows, 3), rows, (rows, 3))  # as `Gaussians` has them
        self._exported = tuple(np.zeros(shape, np.float32) for shape in shapes)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._table[:] = -1
        self._count = 0
        self._viewpoints = np.zeros((0, 3))
        self._cached: Gaussians | None = None

    def state(self) -> dict[str, np.ndarray]:
        """All that is known, copied; `restore` takes it back."""
        n = self._count
        return {
            **settings_of(self._config, _SETTINGS),
            'voxels': self._voxels[:n].copy(),
            'sums': self._sums[:n].copy(),
            'evidence': self._evidence[:n].copy(),
            'viewpoints': self._viewpoints.copy(),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the map by one that `state` gave.

        Raises:
            InputError: `bad_map` if it is damaged, of other settings or larger than allowed; the
                map is then unchanged.
        """
        check_settings(state, 'gaussian_map', self._config, _SETTINGS)
        voxels = stored_array(state, 'voxels', np.int64, (None,))
        n, bound = len(voxels), self._config.max_gaussians
        if n > bound:
            raise bad_map(f'it holds {n} Gaussians; raise gaussian_map.max_gaussians from {bound}')
        sums = stored_array(state, 'sums', np.float32, (n, _COLUMNS))
        evidence = stored_array(state, 'evidence', np.float32, (n,))
        viewpoints = stored_array(state, 'viewpoints', np.float64, (None, 3))
        if (voxels < 0).any() or len(np.unique(voxels)) < n or len(viewpoints) > _VIEWPOINTS:
            raise bad_map('its voxels or viewpoints are not those of a map; save the map anew')
        if not (sums[:, 0] > 0).all() or (n and not len(viewpoints)):
            raise bad_map('it holds Gaussians without weight or viewpoint; save the map anew')
        self.reset()
        rows = (self._voxels, self._sums, self._evidence, self._touched, self._changed)
        _, self._count = _add(voxels, sums, 0, 0, self._table, *rows, 0)
        self._evidence[:n], self._touched[:n], self._changed[:n] = evidence, 0, True
        self._viewpoints = viewpoints.copy()

    def __len__(self) -> int:
        return self._count

    @property
    def viewpoints(self) -> np.ndarray:  # -> [K, 3]
        """Where cameras stood that were taken in, metres in the world frame.

        No two are closer than 10 cm; from 2000 on every second one is forgotten.
        """
        return self._viewpoints

    def integrate(
        self,
        gaussians: Gaussians,
        depth: np.ndarray,
        intrinsics: Intrinsics,
        T_world_camera: np.ndarray,
    ) -> None:
        """Take in a frame and forget what it contradicts.

        Gaussians that are not finite, invisible, behind the camera or farther than `max_range` are
        passed over, and those of the visible layer where the depth image has none. Layers behind
        it count a tenth, until something is seen there.

        Args:
            gaussians: in the optical frame; without `grid` all are taken as visible.
            depth: [H, W] cleaned z-depth in metres; 0 and non-finite say nothing.
            intrinsics: of the depth image, of which the Gaussians are a prediction.
            T_world_camera: [4, 4] pose of the optical frame in the world frame.

        Raises:
            InputError: `bad_pose` for a pose that is not finite or not rigid, `size_mismatch` for
                a depth that does not fit the intrinsics, `no_shapes` for Gaussians that are points
                only; the map is then unchanged.
        """
        if depth.shape != (intrinsics.height, intrinsics.width):
            raise InputError(f'depth {depth.shape} does not fit {intrinsics}', 'size_mismatch')
        pose = checked_pose(T_world_camera)
        scales, quats = gaussians.shapes
        tensors = [gaussians.means, quats, scales, gaussians.opacities, gaussians.colors]
        std = gaussians.log_depth_std
        tensors.append(
            torch.full_like(gaussians.opacities, _LOG_DEPTH_STD) if std is None else std
        )
        arrays = [np.require(t.detach().float().cpu().numpy(), None, ['C']) for t in tensors]
        depth = np.require(depth, np.float32, ['C'])
        camera = np.array([intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy], np.float64)

        config = self._config
        layers = 1 if gaussians.grid is None else gaussians.grid[0]
        cells = len(gaussians) // layers
        # Of all cells the image has, a voxel 1 m away takes this many.
        per_voxel = camera[0] * camera[1] * config.voxel_size**2 * cells / depth.size
        for start in range(0, len(gaussians), _CHUNK):
            stop = min(start + _CHUNK, len(gaussians))
            part = tuple(array[start:stop] for array in arrays)
            front = max(0, cells - start)
            limits = (config.voxel_size, config.max_range, per_voxel)
            voxels, terms = _terms(*part, front, depth, camera, pose, limits)
            done = 0
            while done < len(voxels):
                done, self._count = _add(
                    voxels,
                    terms,
                    done,
                    front,
                    self._table,
                    self._voxels,
                    self._sums,
                    self._evidence,
                    self._touched,
                    self._changed,
                    self._count,
                )
                if done < len(voxels):
                    self._make_room(pose[:3, 3])
        n = self._count
        reach = 0.0 if std is None or not cells else float(torch.nanmedian(std[:cells]))
        gone = _settle(
            self._voxels[:n],
            self._sums[:n],
            self._evidence[:n],
            self._touched[:n],
            self._changed[:n],
            depth,
            camera,
            pose,
            (config.voxel_size, config.max_range, reach),
        )
        self._remove(np.flatnonzero(gone))
        self._note_viewpoint(pose[:3, 3])
        self._cached = None

    def gaussians(self) -> Gaussians:
        """The map in the world frame, on the CPU; later frames do not change what was returned.

        The covariance is that of all that fell into the voxel, but for the spread of the means in
        the tangent plane, which is drawn `SPREAD` times wider to leave no gaps. What is
        wider than its gaps ask for, since it was seen from afar, is cut: the more neighbours hold
        something, the more.
        """
        if self._cached is None:
            n = self._count
            rows = np.flatnonzero(self._changed[:n])
            out, side = self._exported, self._config.voxel_size
            _export(rows, self._table, self._voxels, self._sums, side, *out)
            self._changed[:n] = False
            self._cached = Gaussians(*(torch.from_numpy(array[:n].copy()) for array in out))
        return self._cached

    def _make_room(self, position: np.ndarray) -> None:
        """Forget guesses, then what is farthest from the camera: a tenth of the bound at once."""
        n = self._count
        shifts = np.array([0, _INDEX_BITS, 2 * _INDEX_BITS])
        index = (self._voxels[:n, None] >> shifts & _INDEX_MASK) - _INDEX_OFFSET
        away = (index + 0.5) * self._config.voxel_size - position
        guessed = (self._evidence[:n] <= _EVIDENCE_HIDDEN) & (self._touched[:n] != _SEEN)
        rank = (away**2).sum(1) + guessed * 1e20  # beyond every distance
        kept = int(_KEPT * self._config.max_gaussians)
        self._remove(np.sort(np.argpartition(rank, kept)[kept:]))

    def _remove(self, rows: np.ndarray) -> None:
        """Delete rows, given in rising order."""
        self._count = _delete(
            rows,
            self._table,
            self._voxels,
            self._sums,
            self._evidence,
            self._touched,
            self._changed,
            self._count,
        )

    def _note_viewpoint(self, position: np.ndarray) -> None:
        away = np.linalg.norm(self._viewpoints - position, axis=1)
        if not (away < _VIEWPOINT_SPACING).any():
            if len(self._viewpoints) == _VIEWPOINTS:
                self._viewpoints = self._viewpoints[::2]
            self._viewpoints = np.vstack([self._viewpoints, position])


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _terms(
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    log_depth_std: np.ndarray,
    front: int,
    depth: np.ndarray,
    camera: np.ndarray,
    pose: np.ndarray,
    limits: tuple[float, float, float],
) -> tuple[np.ndarray, np.ndarray]:  # -> [N], [N, 20]
    """The voxel of every Gaussian, -1 for none, and what it adds to the sums there.

    The first `front` Gaussians are of the visible layer.
    """
    n = len(means)
    voxels, terms = np.full(n, -1, np.int64), np.empty((n, _COLUMNS), np.float32)
    side, max_range, per_voxel = limits
    fx, fy, cx, cy = camera
    height, width = depth.shape
    for i in numba.prange(n):
        x, y, z = float(means[i, 0]), float(means[i, 1]), float(means[i, 2])
        if not (z > 0 and x * x + y * y + z * z <= max_range * max_range):
            continue
        if i < front:
            u = min(max(round(fx * x / z + cx), 0), width - 1)
            v = min(max(round(fy * y / z + cy), 0), height - 1)
            if not (depth[v, u] > 0 and depth[v, u] < np.inf):
                continue
        qw, qx, qy, qz = (
            float(quats[i, 0]),
            float(quats[i, 1]),
            float(quats[i, 2]),
            float(quats[i, 3]),
        )
        sx, sy, sz = float(scales[i, 0]), float(scales[i, 1]), float(scales[i, 2])
        red, green, blue = float(colors[i, 0]), float(colors[i, 1]), float(colors[i, 2])
        std = float(log_depth_std[i])
        norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        opacity = float(opacities[i])
        if not (sx > 0 and sy > 0 and sz > 0 and norm > 1e-12 and opacity >= _OPACITY_MIN):
            continue
        if not (sx + sy + sz <= max_range and math.isfinite(norm + std)):
            continue  # a Gaussian as large as the range is none of a surface
        if not math.isfinite(opacity + red + green + blue):
            continue
        wx = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]
        wy = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]
        wz = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
        ix, iy, iz = math.floor(wx / side), math.floor(wy / side), math.floor(wz / side)
        if max(abs(ix), abs(iy), abs(iz)) >= _INDEX_OFFSET - 1:
            continue
        voxels[i] = (
            (int(ix) + _INDEX_OFFSET)
            | (int(iy) + _INDEX_OFFSET) << _INDEX_BITS
            | (int(iz) + _INDEX_OFFSET) << (2 * _INDEX_BITS)
        )

        std = min(max(std, _LOG_DEPTH_STD_MIN), _LOG_DEPTH_STD_MAX)
        weight = opacity * (_LOG_DEPTH_STD / (std * z)) ** 2 / per_voxel
        weight *= 1.0 if i < front else _HIDDEN_WEIGHT
        dx, dy, dz = wx - (ix + 0.5) * side, wy - (iy + 0.5) * side, wz - (iz + 0.5) * side
        terms[i, 0] = weight
        terms[i, _MEAN] = weight * dx
        terms[i, _MEAN + 1] = weight * dy
        terms[i, _MEAN + 2] = weight * dz

        # columns of R S in the camera, then in the world
        qw, qx, qy, qz = qw / norm, qx / norm, qy / norm, qz / norm
        a = (
            (1 - 2 * (qy * qy + qz * qz)) * sx,
            2 * (qx * qy + qw * qz) * sx,
            2 * (qx * qz - qw * qy) * sx,
        )
        b = (
            2 * (qx * qy - qw * qz) * sy,
            (1 - 2 * (qx * qx + qz * qz)) * sy,
            2 * (qy * qz + qw * qx) * sy,
        )
        c = (
            2 * (qx * qz + qw * qy) * sz,
            2 * (qy * qz - qw * qx) * sz,
            (1 - 2 * (qx * qx + qy * qy)) * sz,
        )
        a, b, c = _turn(pose, a), _turn(pose, b), _turn(pose, c)
        d = (dx, dy, dz)
        column = 0
        for j in range(3):
            for k in range(j, 3):
                own = a[j] * a[k] + b[j] * b[k] + c[j] * c[k]
                terms[i, _OWN + column] = weight * own
                terms[i, _MEANS + column] = weight * d[j] * d[k]
                column += 1
        terms[i, _COLOR] = weight * red
        terms[i, _COLOR + 1] = weight * green
        terms[i, _COLOR + 2] = weight * blue
        terms[i, _OPACITY] = weight * opacity
    return voxels, terms


@_inlined
def _turn(pose: np.ndarray, vector: tuple[float, float, float]) -> tuple[float, float, float]:
    return (
        pose[0, 0] * vector[0] + pose[0, 1] * vector[1] + pose[0, 2] * vector[2],
        pose[1, 0] * vector[0] + pose[1, 1] * vector[1] + pose[1, 2] * vector[2],
        pose[2, 0] * vector[0] + pose[2, 1] * vector[1] + pose[2, 2] * vector[2],
    )


@_inlined
def _home(voxel: int, slots: int) -> int:
    """Slot at which the search for a voxel starts: a multiplicative hash, then its high bits."""
    mixed = np.uint64(voxel) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed >> np.uint64(32)) & np.uint64(slots - 1))


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _slot(voxel: int, table: np.ndarray, voxels: np.ndarray) -> int:
    """Slot that holds the voxel's row, or the empty one where it belongs."""
    slot = _home(voxel, len(table))
    while table[slot] >= 0 and voxels[table[slot]] != voxel:
        slot = (slot + 1) & (len(table) - 1)
    return slot


@_inlined
def _neighbours(voxel: int, table: np.ndarray, voxels: np.ndarray) -> tuple[int, ...]:
    """Rows of the six voxels that share a face, -1 where nothing is held."""
    x, y, z = np.int64(1), np.int64(1) << _INDEX_BITS, np.int64(1) << (2 * _INDEX_BITS)
    return (
        table[_slot(voxel - x, table, voxels)],
        table[_slot(voxel + x, table, voxels)],
        table[_slot(voxel - y, table, voxels)],
        table[_slot(voxel + y, table, voxels)],
        table[_slot(voxel - z, table, voxels)],
        table[_slot(voxel + z, table, voxels)],
    )


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _add(
    new: np.ndarray,
    terms: np.ndarray,
    start: int,
    front: int,
    table: np.ndarray,
    voxels: np.ndarray,
    sums: np.ndarray,
    evidence: np.ndarray,
    touched: np.ndarray,
    changed: np.ndarray,
    count: int,
) -> tuple[int, int]:
    """Add terms to the rows of their voxels `new`; stops where one more row does not fit.

    Returns:
        How many are done, and the number of rows.
    """
    for i in range(start, len(new)):
        if new[i] < 0:
            continue
        slot = _slot(new[i], table, voxels)
        row = table[slot]
        if row < 0:
            if count == len(voxels):
                return i, count
            row = count
            count += 1
            table[slot], voxels[row] = row, new[i]
            sums[row], evidence[row], touched[row] = 0, 0, 0
            for other in _neighbours(new[i], table, voxels):
                if other >= 0:
                    changed[other] = True
        for c in range(_COLUMNS):
            sums[row, c] += terms[i, c]
        touched[row] = max(touched[row], _SEEN if i < front else _HIDDEN)
    return len(new), count


@numba.njit(cache=True, nogil=True, error_model='numpy')
def _delete(
    rows: np.ndarray,
    table: np.ndarray,
    voxels: np.ndarray,
    sums: np.ndarray,
    evidence: np.ndarray,
    touched: np.ndarray,
    changed: np.ndarray,
    count: int,
) -> int:
    """Delete rows (rising), filling each gap with the last row; returns how many are left."""
    mask = len(table) - 1
    for row in rows[::-1]:
        hole = _slot(voxels[row], table, voxels)
        slot = (hole + 1) & mask
        while table[slot] >= 0:
            home = _home(voxels[table[slot]], len(table))
            if (slot - home) & mask >= (slot - hole) & mask:  # may stand in the hole
                table[hole] = table[slot]
                hole = slot
            slot = (slot + 1) & mask
        table[hole] = -1
        for other in _neighbours(voxels[row], table, voxels):
            if other >= 0:
                changed[other] = True
        count -= 1
        if row < count:
            table[_slot(voxels[count], table, voxels)] = row
            voxels[row], evidence[row] = voxels[count], evidence[count]
            sums[row] = sums[count]
            touched[row], changed[row] = touched[count], True
    return count


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _settle(
    voxels: np.ndarray,
    sums: np.ndarray,
    evidence: np.ndarray,
    touched: np.ndarray,
    changed: np.ndarray,
    depth: np.ndarray,
    camera: np.ndarray,
    pose: np.ndarray,
    limits: tuple[float, float, float],
) -> np.ndarray:  # -> [N] bool
    """Bound the weights of what the frame touched, doubt what it saw through; who is to go."""
    gone = np.zeros(len(sums), np.bool_)
    for i in numba.prange(len(sums)):
        if touched[i]:
            if touched[i] == _SEEN:
                evidence[i] = min(evidence[i] + 1, _EVIDENCE_MAX)
            else:
                evidence[i] = max(evidence[i], _EVIDENCE_HIDDEN)
            if sums[i, 0] > _WEIGHT_MAX:
                sums[i] *= np.float32(_WEIGHT_MAX) / sums[i, 0]
            touched[i], changed[i] = 0, True
        elif _doubtful(voxels[i], sums[i], depth, camera, pose, limits):
            evidence[i] *= _DOUBT
            sums[i] *= np.float32(_DOUBT)
            gone[i] = evidence[i] < _EVIDENCE_MIN
    return gone


@_inlined
def _position(voxel: int, sums: np.ndarray, side: float) -> tuple[float, float, float]:
    """Mean of a row in the world."""
    ix = (voxel & _INDEX_MASK) - _INDEX_OFFSET
    iy = (voxel >> _INDEX_BITS & _INDEX_MASK) - _INDEX_OFFSET
    iz = (voxel >> (2 * _INDEX_BITS)) - _INDEX_OFFSET
    return (
        (ix + 0.5) * side + sums[_MEAN] / sums[0],
        (iy + 0.5) * side + sums[_MEAN + 1] / sums[0],
        (iz + 0.5) * side + sums[_MEAN + 2] / sums[0],
    )


@_inlined
def _doubtful(
    voxel: int,
    sums: np.ndarray,
    depth: np.ndarray,
    camera: np.ndarray,
    pose: np.ndarray,
    limits: tuple[float, float, float],
) -> bool:
    """Whether the depth image speaks against a voxel, at its centre and its corners.

    A surface was measured clearly behind it, or it is itself so little behind a surface that it is
    likely the same one, misplaced by an earlier frame.
    """
    side, max_range, reach = limits
    x, y, z = _position(voxel, sums, side)
    x, y, z = x - pose[0, 3], y - pose[1, 3], z - pose[2, 3]
    along = pose[0, 2] * x + pose[1, 2] * y + pose[2, 2] * z
    if not (along > side and along < max_range):
        return False
    fx, fy, cx, cy = camera
    u = fx * (pose[0, 0] * x + pose[1, 0] * y + pose[2, 0] * z) / along + cx
    v = fy * (pose[0, 1] * x + pose[1, 1] * y + pose[2, 1] * z) / along + cy
    ru, rv = 0.5 * fx * side / along, 0.5 * fy * side / along
    height, width = depth.shape
    if not (u >= ru and v >= rv and u + ru <= width - 1 and v + rv <= height - 1):
        return False
    margin = _MARGIN_VOXELS * side
    beyond = along + (margin if reach > 0 else max(margin, _MARGIN_RELATIVE * along))
    for du, dv in ((0, 0), (-1, -1), (1, -1), (-1, 1), (1, 1)):
        measured = depth[round(v + dv * rv), round(u + du * ru)]
        double = measured < along - margin and measured * (1 + reach) > along
        if not (double or (measured > beyond and measured < np.inf)):
            return False
    return True


@numba.njit(cache=True, parallel=True, nogil=True, error_model='numpy')
def _export(
    rows: np.ndarray,
    table: np.ndarray,
    voxels: np.ndarray,
    sums: np.ndarray,
    side: float,
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
) -> None:
    """Write the Gaussians of the given rows."""
    closing = (_CLOSING * side) ** 2
    for k in numba.prange(len(rows)):
        row = rows[k]
        total = sums[row]
        weight = np.float64(total[0])
        means[row, 0], means[row, 1], means[row, 2] = _position(voxels[row], total, side)
        for c in range(3):
            colors[row, c] = total[_COLOR + c] / weight
        opacities[row] = total[_OPACITY] / weight

        x, y, z = total[_MEAN] / weight, total[_MEAN + 1] / weight, total[_MEAN + 2] / weight
        squares = (x * x, x * y, x * z, y * y, y * z, z * z)
        own = _six(total, _OWN, weight, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
        between = _six(total, _MEANS, weight, squares)
        p, q, r = _axes(own, between)
        variances = (
            _variance(p, own, between, SPREAD * SPREAD),
            _variance(q, own, between, SPREAD * SPREAD),
            _variance(r, own, between, 1.0),  # across the surface spread is noise
        )
        # A Gaussian from afar is as wide as its cell was then. What need not reach beyond the next
        # voxels is cut, else a surface seen from near and far stays as blurred as from afar.
        company = 0
        for other in _neighbours(voxels[row], table, voxels):
            company += other >= 0
        cut = min(company, _COMPANY) / _COMPANY
        for axis in range(3):
            beyond = max(variances[axis] - closing, 0.0)
            scales[row, axis] = math.sqrt(variances[axis] - cut * beyond)
        quats[row, 0], quats[row, 1], quats[row, 2], quats[row, 3] = _quat(p, q)


@_inlined
def _six(sums, first, weight, less):
    """Six means of a row's sums, less what is given."""
    return (
        sums[first] / weight - less[0],
        sums[first + 1] / weight - less[1],
        sums[first + 2] / weight - less[2],
        sums[first + 3] / weight - less[3],
        sums[first + 4] / weight - less[4],
        sums[first + 5] / weight - less[5],
    )


@_inlined
def _axes(own, between):
    """Unit eigenvectors of the sum of two covariances, the one of the largest eigenvalue first.

    They are the left singular vectors of its Cholesky factor. The floor, a ten-thousandth of the
    size, keeps discs and needles from dividing by 0.
    """
    xx, xy, xz = own[0] + between[0], own[1] + between[1], own[2] + between[2]
    yy, yz, zz = own[3] + between[3], own[4] + between[4], own[5] + between[5]
    size = max(xx + yy + zz, 1e-30)
    xx, xy, xz, yy, yz, zz = xx / size, xy / size, xz / size, yy / size, yz / size, zz / size
    l00 = math.sqrt(max(xx, _FLOOR))
    l10, l20 = xy / l00, xz / l00
    l11 = math.sqrt(max(yy - l10 * l10, _FLOOR))
    l21 = (yz - l10 * l20) / l11
    l22 = math.sqrt(max(zz - l20 * l20 - l21 * l21, _FLOOR))
    zero = np.float32(0)
    p = (np.float32(l00), np.float32(l10), np.float32(l20))
    q = (zero, np.float32(l11), np.float32(l21))
    r = (zero, zero, np.float32(l22))
    p, q, r = jacobi_sweep(*jacobi_sweep(*jacobi_sweep(*jacobi_sweep(p, q, r))))
    return _unit(p), _unit(q), _unit(r)


@_inlined
def _unit(v):
    x, y, z = np.float64(v[0]), np.float64(v[1]), np.float64(v[2])
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


@_inlined
def _variance(axis, own, between, factor):
    """Along an axis, `between` counted `factor` times; never 0."""
    x, y, z = axis
    result = 0.0
    for part, times in ((own, 1.0), (between, factor)):
        result += times * (part[0] * x * x + part[3] * y * y + part[5] * z * z)
        result += times * 2 * (part[1] * x * y + part[2] * x * z + part[4] * y * z)
    size = own[0] + own[3] + own[5] + between[0] + between[3] + between[5]
    return max(result, _FLOOR * size)


@_inlined
def _quat(p, q):
    """Unit wxyz quaternion of the rotation whose first two columns are given (Shepperd 1978)."""
    xx, yx, zx = p
    xy, yy, zy = q
    xz, yz, zz = yx * zy - zx * yy, zx * xy - xx * zy, xx * yy - yx * xy
    # rows of 4 q q^T, of which the one with the largest diagonal is well defined
    if xx + yy + zz > 0:
        w, x, y, z = 1 + xx + yy + zz, zy - yz, xz - zx, yx - xy
    elif xx >= yy and xx >= zz:
        w, x, y, z = zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx
    elif yy >= zz:
        w, x, y, z = xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy
    else:
        w, x, y, z = yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    return w / norm, x / norm, y / norm, z / norm
