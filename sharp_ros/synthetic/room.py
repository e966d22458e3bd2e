"""A furnished room, a drive through it, and which parts of its floor plan are occupied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
import math

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.se3 import look_at
from sharp_ros.synthetic.patches import distance_to_patch, Patches
from sharp_ros.synthetic.pieces import furnish, SIZE
from sharp_ros.synthetic.renderer import Atlas, bake, render

SPEED = 0.5  # of the drive, m/s


@dataclass(frozen=True)
class GridTruth:
    """Exact occupancy on the floor plan, laid out as in `nav_msgs/OccupancyGrid`.

    Attributes:
        data: [rows, columns] int8; row 0 has the smallest y. 100 where a surface passes through
            the cell, 0 where none does, -1 outside the walls, where no camera can look.
        origin: x and y of the outer corner of cell (0, 0), metres.
        voxel_size: side of a cell, metres.
    """

    data: np.ndarray
    origin: tuple[float, float]
    voxel_size: float


class Room:
    """A furnished, textured and lit room of 8 x 6 x 2.6 m, and a robot's drive through it.

    The world is z up, its origin in the middle of the floor. Colours, patterns and the order of
    the furniture along the walls follow from the seed. Building takes a second, and the light,
    computed for the first image, a few more.

    Args:
        seed: picks one of many rooms; the same seed gives the same room, bit by bit.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._scene = furnish(rng)
        self._rects = Patches.of(self._scene)
        self._drive = _Drive(rng)
        self._seed = seed

    @property
    def patches(self) -> tuple[np.ndarray, np.ndarray]:
        """Corners [P, 4, 3] in metres of all parallelograms, and [P] True for half of one.

        A half is the triangle of corners 0, 1 and 3.
        """
        return self._rects.corners, self._rects.half

    @property
    def solids(self) -> list[tuple[float, ...]]:
        """Boxes as x, y and z of the middle of the bottom, length, width, height, yaw."""
        return list(self._scene.solids)

    @property
    def loop_duration(self) -> float:
        """Time after which the drive repeats, seconds."""
        return self._drive.length / SPEED

    @cached_property
    def _atlas(self) -> Atlas:
        return bake(self._scene, self._rects, np.random.default_rng([self._seed, 1]))

    def render(
        self, intrinsics: Intrinsics, T_world_camera: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a pinhole camera sees.

        Args:
            intrinsics: of the image, of any size.
            T_world_camera: [4, 4] pose of the optical frame.

        Returns:
            Image [H, W, 3] uint8 RGB, and z-depth [H, W] float32 in metres at the pixel centres,
            0 where the ray leaves the room (only from outside of it).
        """
        return render(self._rects, self._atlas, intrinsics, T_world_camera)

    def distance(self, points: np.ndarray) -> np.ndarray:  # [N, 3] -> [N]
        """Distance to the nearest surface, metres, from the inside or the outside of things."""
        p = np.asarray(points, np.float64)
        best = np.full(len(p), np.inf)
        for corners, half in zip(self._rects.corners, self._rects.half, strict=True):
            best = np.minimum(best, distance_to_patch(p, corners, bool(half)))
        return best

    def occupied(self, points: np.ndarray) -> np.ndarray:  # [..., 3] -> [...] bool
        """Whether points lie inside of something solid or outside of the room."""
        p = np.asarray(points, np.float64)
        half = np.array([SIZE[0] / 2, SIZE[1] / 2, SIZE[2]])
        low = np.array([-half[0], -half[1], 0])
        result = np.any((p < low) | (p > half), -1)
        for x, y, z, length, width, height, yaw in self._scene.solids:
            c, s = math.cos(yaw), math.sin(yaw)
            dx, dy = p[..., 0] - x, p[..., 1] - y
            along, across = c * dx + s * dy, c * dy - s * dx
            inside = (np.abs(along) <= length / 2) & (np.abs(across) <= width / 2)
            result |= inside & (p[..., 2] >= z) & (p[..., 2] <= z + height)
        return result

    def occupancy(
        self,
        voxel_size: float,
        min_height: float,
        max_height: float,
        bounds: tuple[float, float, float, float] | None = None,
    ) -> GridTruth:
        """Which cells of the floor plan hold a surface between two heights.

        Args:
            voxel_size: side of a cell, metres.
            min_height: above the floor, metres.
            max_height: above the floor, metres.
            bounds: x and y of the low corner, x and y of the high corner, metres; by default the
                room and one cell around it.

        Raises:
            InputError: if the bounds are empty or the cell size is not positive.
        """
        half = (SIZE[0] / 2, SIZE[1] / 2)
        if bounds is None:
            margin = voxel_size
            bounds = (-half[0] - margin, -half[1] - margin, half[0] + margin, half[1] + margin)
        x0, y0, x1, y1 = bounds
        if voxel_size <= 0 or x1 <= x0 or y1 <= y0:
            raise InputError(f'no cells of {voxel_size} m in bounds {bounds}')
        columns = math.ceil((x1 - x0) / voxel_size - 1e-9)
        rows = math.ceil((y1 - y0) / voxel_size - 1e-9)
        data = np.zeros((rows, columns), np.int8)
        # The nudge decides for surfaces exactly between two cells (walls): the room's side.
        points = self._surface_points(voxel_size / 5)
        points = points[(points[:, 2] >= min_height) & (points[:, 2] <= max_height)]
        points[:, :2] -= 1e-6 * np.sign(points[:, :2])
        column = np.floor((points[:, 0] - x0) / voxel_size).astype(int)
        row = np.floor((points[:, 1] - y0) / voxel_size).astype(int)
        kept = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        data[row[kept], column[kept]] = 100
        x = x0 + (np.arange(columns) + 0.5) * voxel_size
        y = y0 + (np.arange(rows) + 0.5) * voxel_size
        outside = (np.abs(x)[None] > half[0]) | (np.abs(y)[:, None] > half[1])
        data[outside & (data == 0)] = -1
        return GridTruth(data, (x0, y0), voxel_size)

    def pose(self, t: float) -> np.ndarray:  # -> [4, 4]
        """`T_world_camera` (optical frame) on the drive at time `t` in seconds, endlessly."""
        return self._drive.pose(t)

    def trajectory(self, duration: float, rate_hz: float) -> Iterator[tuple[float, np.ndarray]]:
        """Times in seconds and `T_world_camera` [4, 4] of the drive, `rate_hz` a second.

        The drive is a smooth closed loop at constant speed, at least 0.5 m away from everything.
        """
        for i in range(round(duration * rate_hz)):
            yield i / rate_hz, self._drive.pose(i / rate_hz)

    def _surface_points(self, spacing: float) -> np.ndarray:  # -> [N, 3]
        clouds = []
        for (o, a, _, b), half in zip(self._rects.corners, self._rects.half, strict=True):
            n = [max(2, math.ceil(np.linalg.norm(e - o) / spacing) + 1) for e in (a, b)]
            u, v = np.meshgrid(np.linspace(0, 1, n[0]), np.linspace(0, 1, n[1]))
            u, v = u.ravel(), v.ravel()
            if half:
                u, v = u[u + v <= 1], v[u + v <= 1]
            clouds.append(o + u[:, None] * (a - o) + v[:, None] * (b - o))
        return np.concatenate(clouds)


class _Drive:
    """A closed oval through the free middle of the room, by arc length."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._phase = rng.uniform(0, 2 * math.pi, 3)
        self._direction = rng.choice([-1.0, 1.0])
        theta = np.linspace(0, 2 * math.pi, 4097)
        points = np.stack([2.3 * np.cos(theta), self._direction * 1.3 * np.sin(theta)], -1)
        steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        self._theta, self._arc = theta, np.concatenate([[0], np.cumsum(steps)])
        self.length = float(self._arc[-1])

    def pose(self, t: float) -> np.ndarray:
        part = (SPEED * t) % self.length
        theta = float(np.interp(part, self._arc, self._theta))
        loop = 2 * math.pi * part / self.length
        side = self._direction
        x, y = 2.3 * math.cos(theta), side * 1.3 * math.sin(theta)
        z = 1.05 + 0.08 * math.sin(loop + self._phase[0])
        heading = math.atan2(side * 1.3 * math.cos(theta), -2.3 * math.sin(theta))
        # Looking a little into the bend, as a driver does, and around by a few degrees.
        yaw = heading + side * 0.25 + 0.2 * math.sin(2 * loop + self._phase[1])
        pitch = -0.14 + 0.05 * math.sin(3 * loop + self._phase[2])
        eye = np.array([x, y, z])
        ahead = [math.cos(yaw), math.sin(yaw), math.tan(pitch)]
        return look_at(eye, eye + ahead, np.array([0, 0, 1.0]))
