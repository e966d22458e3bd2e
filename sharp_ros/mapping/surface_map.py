"""Coloured surface of all fused frames: a truncated signed distance function in blocks of voxels.

Curless & Levoy 1996 in Open3D's `VoxelBlockGrid` (Dong et al., ASH, 2021), which holds blocks only
where surfaces are. Two things are added here. The number of blocks is bounded: when they do not
suffice, those farthest from the camera go. And what is not there any more goes: blocks that depth
looks through are averaged with free space, and no voxel gathers so much weight that this, or any
other change, would take forever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sharp_ros.camera import check_rgbd_size, Intrinsics
from sharp_ros.config import SurfaceMapConfig
from sharp_ros.mapping.stored import bad_map, check_settings, settings_of, stored_array
from sharp_ros.se3 import checked_pose, inverse

_SIDE = 8  # voxels of a block along an edge
_CUBE = (_SIDE,) * 3
_TRUNCATION = 4.0  # voxels
_COLUMNS = 320  # of the depth image that is taken in; wider ones are subsampled
_WEIGHT_MAX = 30.0  # frames
_CLAMP_INTERVAL = 10  # frames
_WEIGHT_MIN = 0.5  # frames; what any has seen is extracted
_KEPT = 0.9  # of the bound is left when it is reached
# Of a voxel: Open3D finds no point where the distance is exactly 0, as it would be all over a wall
# at a round coordinate. So its grid is shifted against the world's.
_SHIFT = 0.37
# Of every voxel, with the number of channels.
_ATTRIBUTES = {'tsdf': 1, 'weight': 1, 'color': 3}
_SETTINGS = ('voxel_size',)  # that a map to be restored must share


class SurfaceMap:
    """A bounded surface in the world frame; memory (10 kB a block) is taken at the first frame."""

    def __init__(self, config: SurfaceMapConfig) -> None:
        self._config = config
        self._block = config.voxel_size * _SIDE
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._grid: Any = None  # open3d.t.geometry.VoxelBlockGrid, of coordinates minus `_origin`
        self._origin = np.zeros(3)
        self._fused = 0

    def state(self) -> dict[str, np.ndarray]:
        """All that is known, copied; `restore` takes it back."""
        keys = np.zeros((0, 3), np.int32)
        values = {n: np.zeros((0, *_CUBE, c), np.float32) for n, c in _ATTRIBUTES.items()}
        if self._grid is not None:
            import open3d as o3d

            rows = self._grid.hashmap().active_buf_indices().cpu().numpy()
            keys = self._keys(o3d)
            # NumPy picks rows a hundred times as fast as Open3D.
            values = {n: self._grid.attribute(n).cpu().numpy()[rows] for n in _ATTRIBUTES}
        settings = settings_of(self._config, _SETTINGS)
        return {**settings, 'origin': self._origin.copy(), 'keys': keys, **values}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the map by one that `state` gave.

        Raises:
            InputError: `bad_map` if it is damaged, of other settings or larger than allowed; the
                map is then unchanged.
        """
        check_settings(state, 'surface_map', self._config, _SETTINGS)
        origin = stored_array(state, 'origin', np.float64, (3,))
        keys = stored_array(state, 'keys', np.int32, (None, 3))
        n, bound = len(keys), self._config.max_blocks
        if n > bound:
            raise bad_map(f'it holds {n} blocks; raise surface_map.max_blocks from {bound}')
        if len(np.unique(keys, axis=0)) < n:
            raise bad_map('its blocks are not those of a map; save the map anew')
        values = {
            name: stored_array(state, name, np.float32, (n, *_CUBE, channels))
            for name, channels in _ATTRIBUTES.items()
        }
        self.reset()
        if not n:
            return

        import open3d as o3d

        self._grid, self._origin = self._new_grid(o3d), origin.copy()
        core, table = o3d.core, self._grid.hashmap()
        table.insert(
            core.Tensor(keys, core.int32, table.device),
            [core.Tensor(array, core.float32, table.device) for array in values.values()],
        )

    def __len__(self) -> int:
        """Number of blocks held."""
        return self._grid.hashmap().size() if self._grid is not None else 0

    def integrate(
        self,
        image: np.ndarray,
        depth: np.ndarray,
        intrinsics: Intrinsics,
        T_world_camera: np.ndarray,
    ) -> None:
        """Fuse a frame.

        Args:
            image: [H, W, 3] uint8 RGB.
            depth: [H, W] z-depth in metres; 0, negative and non-finite say nothing.
            intrinsics: of the same resolution.
            T_world_camera: [4, 4] pose of the optical frame in the world frame.

        Raises:
            InputError: `bad_pose` for a pose that is not finite or not rigid, `size_mismatch` for
                an image or depth that does not fit the intrinsics; the map is then unchanged.
        """
        check_rgbd_size(image, depth, intrinsics)
        pose = checked_pose(T_world_camera).copy()
        stride = -(-intrinsics.width // _COLUMNS)
        depth = np.array(depth[::stride, ::stride], np.float32)
        rays = intrinsics.rays()[::stride, ::stride]
        with np.errstate(invalid='ignore', over='ignore'):
            in_range = depth * np.sqrt(1 + (rays**2).sum(-1)) <= self._config.max_range
        depth[~(in_range & (depth > 0))] = 0
        if not depth.any():
            return

        import open3d as o3d

        if self._grid is None:
            self._grid = self._new_grid(o3d)
            # float32 resolves voxels near its origin only; the world's may be that of a country.
            self._origin = np.round(pose[:3, 3]) + _SHIFT * self._config.voxel_size
        pose[:3, 3] -= self._origin
        subsampled = intrinsics.subsampled(stride)
        core, device = o3d.core, self._grid.hashmap().device
        colors = np.ascontiguousarray(image[::stride, ::stride]).astype(np.float32) / 255
        pictures = [
            o3d.t.geometry.Image(core.Tensor(a, core.float32, device)) for a in (depth, colors)
        ]
        cpu = core.Device('CPU:0')
        camera = [core.Tensor(a, core.float64, cpu) for a in (subsampled.matrix, inverse(pose))]
        limits = (1.0, self._config.max_range, _TRUNCATION)
        touched = self._grid.compute_unique_block_coordinates(pictures[0], *camera, *limits)
        touched = touched.cpu().numpy()
        held = self._keys(o3d)
        seen_through = held[self._seen_through(held, depth, subsampled, pose)]
        blocks = np.unique(np.concatenate([touched, seen_through]), axis=0)
        # Open3D counts all of them as new ones when it decides whether to grow.
        bound = self._config.max_blocks
        blocks = blocks[np.argsort(self._distance(blocks, pose))[: bound // 2]]
        if len(held) + len(blocks) > bound:
            keep = max(0, int(_KEPT * bound) - len(blocks))
            self._forget(o3d, held[np.argsort(self._distance(held, pose))[keep:]])
        places = core.Tensor(blocks, core.int32, device)
        self._grid.integrate(places, *pictures, *camera, *limits)
        self._fused += 1
        if self._fused % _CLAMP_INTERVAL == 0:
            weights = self._grid.attribute('weight').reshape([-1])  # a view
            if self._config.device == 'cpu':  # NumPy is ten times as fast there
                np.minimum(weights.numpy(), _WEIGHT_MAX, out=weights.numpy())
            else:
                weights.clip_(0, _WEIGHT_MAX)

    def point_cloud(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points [N, 3] float64 of the surface in the world frame, metres.

        With them colours [N, 3] uint8 RGB and unit normals [N, 3] float32 towards where they were
        seen from.
        """
        if not len(self):
            return np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.float32)
        cloud = self._grid.extract_point_cloud(_WEIGHT_MIN).cpu().point
        points = cloud.positions.numpy().astype(np.float64) + self._origin
        return points, _to_uint8(cloud.colors.numpy()), cloud.normals.numpy().copy()

    def mesh(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Marching cubes (Lorensen & Cline 1987) of the surface.

        Returns:
            Vertices [V, 3] float64 in the world frame, metres; triangles [F, 3] int32, seen from
            the front counter-clockwise; colours [V, 3] uint8 RGB.
        """
        if not len(self):
            return np.zeros((0, 3)), np.zeros((0, 3), np.int32), np.zeros((0, 3), np.uint8)
        mesh = self._grid.extract_triangle_mesh(_WEIGHT_MIN).cpu()
        vertices = mesh.vertex.positions.numpy().astype(np.float64) + self._origin
        triangles = mesh.triangle.indices.numpy().astype(np.int32)
        return vertices, triangles, _to_uint8(mesh.vertex.colors.numpy())

    def _new_grid(self, o3d: Any) -> Any:
        names, shapes = zip(*_ATTRIBUTES.items(), strict=True)
        kinds = (o3d.core.float32,) * len(names)
        device = o3d.core.Device('CUDA:0' if self._config.device == 'cuda' else 'CPU:0')
        voxel, bound = self._config.voxel_size, self._config.max_blocks
        return o3d.t.geometry.VoxelBlockGrid(names, kinds, shapes, voxel, _SIDE, bound, device)

    def _keys(self, o3d: Any) -> np.ndarray:  # -> [N, 3] int32
        """Places of all blocks held, in blocks from the origin."""
        table = self._grid.hashmap()
        rows = table.active_buf_indices().to(o3d.core.int64)
        return table.key_tensor()[rows].cpu().numpy()

    def _distance(self, blocks: np.ndarray, pose: np.ndarray) -> np.ndarray:
        return np.linalg.norm((blocks + 0.5) * self._block - pose[:3, 3], axis=-1)

    def _seen_through(
        self, blocks: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, pose: np.ndarray
    ) -> np.ndarray:  # -> [N] bool
        """Whether blocks lie wholly in front of what their centre's pixel sees."""
        centres = ((blocks + 0.5) * self._block - pose[:3, 3]) @ pose[:3, :3]
        ahead = centres[:, 2] > self._block
        centres[~ahead, 2] = 1.0
        u, v = np.rint(intrinsics.pixels(centres)).astype(np.int64).T
        z = centres[:, 2]
        inside = ahead & (u >= 0) & (v >= 0) & (u < depth.shape[1]) & (v < depth.shape[0])
        margin = self._block + _TRUNCATION * self._config.voxel_size
        result = np.zeros(len(blocks), np.bool_)
        result[inside] = depth[v[inside], u[inside]] > z[inside] + margin
        return result

    def _forget(self, o3d: Any, blocks: np.ndarray) -> None:
        """Erase blocks; a later block in their memory must not find their weights."""
        if not len(blocks):
            return
        table = self._grid.hashmap()
        keys = o3d.core.Tensor(blocks, device=table.device)
        rows = table.find(keys)[0].to(o3d.core.int64)
        self._grid.attribute('weight')[rows] = 0
        table.erase(keys)


def _to_uint8(colors: np.ndarray) -> np.ndarray:
    return (np.clip(colors, 0, 1) * 255 + 0.5).astype(np.uint8)
