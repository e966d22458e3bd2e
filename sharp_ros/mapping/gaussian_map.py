"""Gaussians of many frames as one map: a voxel hash in which every cell holds one Gaussian.

What falls into a voxel is kept as the sums of its mixture's moments, so the merged Gaussian has
the mean and the covariance of all of them (moment-preserving merging: Runnalls, "Kullback-Leibler
Approach to Gaussian Mixture Reduction", 2007), whatever their order: a piece of a wall becomes a
disc, not a ball. Sums are relative to the centre of the voxel, so float32 holds them anywhere.

Here is the policy: what is taken in, what goes when the map is full. Where a voxel's row is knows
`voxel_hash`, what a frame adds and contradicts `gaussian_kernels`, and which Gaussian the sums
stand for `gaussian_moments`.

Between frames a row takes 117 bytes and its share of the table, 8 to 16: the Gaussians themselves
are made when somebody asks for them, and given again only while somebody holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
import weakref

import numpy as np

from sharp_ros.camera import check_depth_size, Intrinsics
from sharp_ros.config import GaussianMapConfig
from sharp_ros.gaussians import empty_arrays, GaussianArrays, GaussianBlocks, Gaussians
from sharp_ros.mapping.gaussian_kernels import (
    add,
    delete,
    EVIDENCE_HIDDEN,
    LOG_DEPTH_STD,
    settle,
    terms_of,
)
from sharp_ros.mapping.gaussian_moments import (
    CHANGED,
    export,
    find_shapes,
    SEEN,
    SHAPES,
    SPREAD,
    SPREADS,
    stored,
    SUMS,
    TERMS,
)
from sharp_ros.mapping.stored import bad_map, check_settings, settings_of, stored_array
from sharp_ros.mapping.voxel_hash import VoxelHash
from sharp_ros.se3 import checked_pose

__all__ = ['SPREAD', 'GaussianMap']

_SETTINGS = ('voxel_size',)  # that a map to be restored must share
_KEPT = 0.9  # of the bound is left when it is reached
_VIEWPOINTS, _VIEWPOINT_SPACING = 2000, 0.1
_CHUNK = 1 << 14  # Gaussians at a time; their sums stay in the cache

# The table and all that is held by row, in the order of the kernels.
_Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class GaussianMap:
    """A bounded map of Gaussians in the world frame.

    When it is full, what was guessed goes first, then what was seen, both from the farthest from
    the camera on: views are rendered near it, a hole in a far wall is worse than no wall, and
    unlike age, distance keeps a place one just turned away from.
    """

    def __init__(self, config: GaussianMapConfig) -> None:
        self._config = config
        rows = config.max_gaussians
        self._hash = VoxelHash(rows)
        self._sums = np.zeros((rows, SUMS), np.float32)
        self._spreads = np.zeros((rows, SPREADS), np.float32)
        self._evidence = np.zeros(rows, np.float32)
        self._flags = np.zeros(rows, np.uint8)
        self._shapes = np.zeros((rows, SHAPES), np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._hash.clear()
        self._viewpoints = np.zeros((0, 3))
        self._given: weakref.ref[Gaussians] | None = None  # as long as nothing has changed

    def state(self) -> dict[str, np.ndarray]:
        """All that is known, copied; `restore` takes it back."""
        n = self._hash.count
        return {
            **settings_of(self._config, _SETTINGS),
            'voxels': self._hash.voxels[:n].copy(),
            'sums': stored(self._sums[:n], self._spreads[:n]),
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
        sums = stored_array(state, 'sums', np.float32, (n, TERMS))
        evidence = stored_array(state, 'evidence', np.float32, (n,))
        viewpoints = stored_array(state, 'viewpoints', np.float64, (None, 3))
        if (voxels < 0).any() or len(np.unique(voxels)) < n or len(viewpoints) > _VIEWPOINTS:
            raise bad_map('its voxels or viewpoints are not those of a map; save the map anew')
        if not (sums[:, 0] > 0).all() or (n and not len(viewpoints)):
            raise bad_map('it holds Gaussians without weight or viewpoint; save the map anew')
        self.reset()
        self._add(voxels, sums, 0, 0)
        self._evidence[:n], self._flags[:n] = evidence, CHANGED
        self._viewpoints = viewpoints.copy()

    def __len__(self) -> int:
        return self._hash.count

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
        check_depth_size(depth, intrinsics)
        pose = checked_pose(T_world_camera)
        a = gaussians.arrays
        scales, quats = a.shapes
        std = a.log_depth_std
        known = np.full_like(a.opacities, LOG_DEPTH_STD) if std is None else std
        means, quats, scales, opacities, colors, stds = (
            np.require(values, np.float32, ['C'])
            for values in (a.means, quats, scales, a.opacities, a.colors, known)
        )
        depth = np.require(depth, np.float32, ['C'])
        camera = intrinsics.parameters

        config = self._config
        layers = 1 if gaussians.grid is None else gaussians.grid[0]
        cells = len(gaussians) // layers
        # Of all cells the image has, a voxel 1 m away takes this many.
        per_voxel = camera[0] * camera[1] * config.voxel_size**2 * cells / depth.size
        for start in range(0, len(gaussians), _CHUNK):
            part = slice(start, start + _CHUNK)
            front = max(0, cells - start)
            voxels, terms = terms_of(
                means[part],
                quats[part],
                scales[part],
                opacities[part],
                colors[part],
                stds[part],
                front,
                depth,
                camera,
                pose,
                (config.voxel_size, config.max_range, per_voxel),
            )
            done = 0
            while done < len(voxels):
                done = self._add(voxels, terms, done, front)
                if done < len(voxels):
                    self._make_room(pose[:3, 3])
        n = self._hash.count
        reach = 0.0 if std is None or not cells else _median(std[:cells])
        gone = settle(
            self._hash.voxels[:n],
            self._sums[:n],
            self._spreads[:n],
            self._evidence[:n],
            self._flags[:n],
            depth,
            camera,
            pose,
            (config.voxel_size, config.max_range, reach),
        )
        self._remove(np.flatnonzero(gone))
        self._note_viewpoint(pose[:3, 3])
        self._given = None

    def gaussians(self) -> Gaussians:
        """The map in the world frame, on the CPU; later frames do not change what was returned.

        The covariance is that of all that fell into the voxel, but for the spread of the means in
        the tangent plane, which is drawn `SPREAD` times wider to leave no gaps. What is
        wider than its gaps ask for, since it was seen from afar, is cut: the more neighbours hold
        something, the more.
        """
        given = None if self._given is None else self._given()
        if given is None:
            self._find_shapes()
            given = Gaussians.of_arrays(empty_arrays(self._hash.count))
            self._write(0, given.arrays)
            self._given = weakref.ref(given)
        return given

    def blocks(self) -> GaussianBlocks:
        """What `gaussians` gives, for who goes through it once, before the next frame."""
        self._find_shapes()
        return GaussianBlocks(self._hash.count, self._write)

    def _find_shapes(self) -> None:
        rows = np.flatnonzero((self._flags[: self._hash.count] & CHANGED) != 0)
        table, voxels, sums, spreads, _, flags = self._rows()
        side = self._config.voxel_size
        find_shapes(rows, table, voxels, sums, spreads, flags, side, self._shapes)

    def _write(self, start: int, out: GaussianArrays) -> None:
        """The Gaussians of as many rows from `start` on, whose shapes have been found."""
        rows = slice(start, start + len(out.means))
        voxels, sums, flags = self._hash.voxels[rows], self._sums[rows], self._flags[rows]
        scales, quats = out.shapes
        into = (out.means, quats, scales, out.opacities, out.colors)
        export(voxels, sums, flags, self._shapes[rows], self._config.voxel_size, *into)

    def _make_room(self, position: np.ndarray) -> None:
        """Forget guesses, then what is farthest from the camera: a tenth of the bound at once."""
        n = self._hash.count
        away = (self._hash.indices() + 0.5) * self._config.voxel_size - position
        guessed = (self._evidence[:n] <= EVIDENCE_HIDDEN) & (self._flags[:n] & SEEN == 0)
        rank = (away**2).sum(1) + guessed * 1e20  # beyond every distance
        kept = int(_KEPT * self._config.max_gaussians)
        self._remove(np.sort(np.argpartition(rank, kept)[kept:]))

    def _add(self, voxels: np.ndarray, terms: np.ndarray, start: int, front: int) -> int:
        """Add terms from `start` on, see `add`; returns how many are done."""
        done, self._hash.count = add(voxels, terms, start, front, *self._rows(), self._hash.count)
        return done

    def _remove(self, rows: np.ndarray) -> None:
        """Delete rows, given in rising order."""
        self._hash.count = delete(rows, *self._rows(), self._hash.count)

    def _rows(self) -> _Rows:
        table, voxels = self._hash.table, self._hash.voxels
        return table, voxels, self._sums, self._spreads, self._evidence, self._flags

    def _note_viewpoint(self, position: np.ndarray) -> None:
        away = np.linalg.norm(self._viewpoints - position, axis=1)
        if not (away < _VIEWPOINT_SPACING).any():
            if len(self._viewpoints) == _VIEWPOINTS:
                self._viewpoints = self._viewpoints[::2]
            self._viewpoints = np.vstack([self._viewpoints, position])


def _median(values: np.ndarray) -> float:
    """Of those that are numbers; of an even count the lower of the two in the middle."""
    known = values[~np.isnan(values)]
    middle = (len(known) - 1) // 2
    return float(np.partition(known, middle)[middle]) if len(known) else float('nan')
