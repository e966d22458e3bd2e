"""A costmap as the documentation of Nav2's voxel layer describes it, in NumPy and small."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

import numba
import numpy as np
from sensor_msgs.msg import PointField

from sharp_ros.se3 import apply


def xyz_from_msg(cloud: Any) -> np.ndarray:  # -> [N, 3]
    """Points of a `PointCloud2`, found by the offsets of its fields, as consumers do."""
    offsets = {field.name: field.offset for field in cloud.fields}
    assert all(f.datatype == PointField.FLOAT32 for f in cloud.fields if f.name in 'xyz')
    assert cloud.row_step == cloud.width * cloud.point_step
    data = np.frombuffer(cloud.data, np.uint8).reshape(-1, cloud.point_step)
    columns = [data[:, o : o + 4].copy().view('<f4') for o in (offsets[a] for a in 'xyz')]
    return np.concatenate(columns, 1).astype(np.float64)


class VoxelCostmap:
    """Marks and clears as its YAML says; does not roll, and nothing inflates.

    Args:
        parameters: `ros__parameters` of a costmap with a `voxel_layer`.
        low: x, y of the corner of cell (0, 0).
        high: x, y of the opposite corner.
    """

    def __init__(
        self, parameters: Mapping[str, Any], low: tuple[float, float], high: tuple[float, float]
    ) -> None:
        self._layer = parameters['voxel_layer']
        self._resolution = float(parameters['resolution'])
        self._cell = np.array([self._resolution, self._resolution, self._layer['z_resolution']])
        self._origin = np.array([*low, self._layer['origin_z']])
        shape = np.round((np.array(high) - low) / self._resolution).astype(int)
        self._marked = np.zeros((*shape, self._layer['z_voxels']), bool)  # x, y, z
        self._newest: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # by source: points, sensor

    @property
    def lethal(self) -> np.ndarray:  # -> [rows, columns] bool
        """Row along +y, column along +x, as in `nav_msgs/OccupancyGrid`."""
        return (self._marked.sum(2) > self._layer['mark_threshold']).T

    def observe(self, topic: str, cloud: Any, T_world_cloud: np.ndarray) -> None:
        """Hand a cloud to the buffers of every source of that topic."""
        points = apply(T_world_cloud, xyz_from_msg(cloud))
        for name in self._layer['observation_sources'].split():
            source = self._layer[name]
            if source['topic'] == topic:
                z = points[:, 2]  # of NaN every comparison is false
                kept = (z >= source['min_obstacle_height']) & (z <= source['max_obstacle_height'])
                self._newest[name] = (points[kept], T_world_cloud[:3, 3])

    def update(self) -> None:
        """First all that clears, then all that marks: what is seen now stands."""
        for name, observation in self._newest.items():
            if self._layer[name]['clearing']:
                self._clear(*observation, self._layer[name]['raytrace_max_range'])
        for name, observation in self._newest.items():
            if self._layer[name]['marking']:
                self._mark(*observation, self._layer[name])

    def _cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cells = np.floor((points - self._origin) / self._cell).astype(int)
        return cells, np.all((cells >= 0) & (cells < self._marked.shape), -1)

    def _clear(self, ends: np.ndarray, sensor: np.ndarray, reach: float) -> None:
        if self._cells(sensor)[1]:  # else "sensor origin is out of map bounds", and no ray counts
            spared = 2 * self._resolution
            _clear_rays(self._marked, ends, sensor, self._origin, self._cell, reach, spared)

    def _mark(self, points: np.ndarray, sensor: np.ndarray, source: Mapping[str, Any]) -> None:
        distance = np.linalg.norm(points - sensor, axis=1)
        near = distance < source['obstacle_max_range']
        near &= distance >= source['obstacle_min_range']
        near &= points[:, 2] <= self._layer['max_obstacle_height']
        cells, inside = self._cells(points[near])
        self._marked[tuple(cells[inside].T)] = True


@numba.njit(cache=True)
def _clear_rays(
    marked: np.ndarray,
    ends: np.ndarray,
    sensor: np.ndarray,
    origin: np.ndarray,
    cell: np.ndarray,
    reach: float,
    spared: float,
) -> None:
    step = cell[0] / 4
    for end in ends:
        length = math.sqrt(((end - sensor) ** 2).sum())
        way = (end - sensor) / length / cell
        x, y, z = (sensor - origin) / cell
        for i in range(int(min(length - spared, reach) / step)):
            u, v, w = x + way[0] * i * step, y + way[1] * i * step, z + way[2] * i * step
            if 0 <= u < marked.shape[0] and 0 <= v < marked.shape[1] and 0 <= w < marked.shape[2]:
                marked[int(u), int(v), int(w)] = False
