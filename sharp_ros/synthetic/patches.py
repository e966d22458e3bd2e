"""Flat patches: how things are put together from them, and where a camera sees each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
import math

from numba import njit
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.synthetic.materials import Material, Rgb

_Patch = tuple[np.ndarray, np.ndarray, np.ndarray, Material, bool]


class Scene:
    """Collects patches, solids and lights; lengths are in the frame of the current item.

    In that frame the item stands with its back to the wall: x along the wall, y into the room,
    z up, the origin on the floor at the wall, in the middle of the item.
    """

    def __init__(self) -> None:
        self.patches: list[_Patch] = []
        self.solids: list[tuple[float, float, float, float, float, float, float]] = []
        self.lights: list[tuple[np.ndarray, np.ndarray | None, Rgb]] = []
        self.at(0, 0, 0)

    def at(self, x: float, y: float, yaw: float) -> None:
        """Turn the following items by `yaw` radians, then move them to (x, y) in the world."""
        self._origin, self._yaw = np.array([x, y, 0.0]), yaw

    def world(self, vector: tuple[float, float, float], yaw: float = 0.0) -> np.ndarray:
        """Direction in the item's frame (turned by `yaw`) in the world."""
        c, s = math.cos(self._yaw + yaw), math.sin(self._yaw + yaw)
        x, y, z = vector
        return np.array([c * x - s * y, s * x + c * y, z])

    def place(self, point: tuple[float, float, float]) -> np.ndarray:
        """Point in the item's frame in the world."""
        return self._origin + self.world(point)

    def rect(
        self,
        origin: tuple[float, float, float],
        a: tuple[float, float, float],
        b: tuple[float, float, float],
        material: Material,
        half: bool = False,
    ) -> None:
        """Parallelogram whose front is where a x b points."""
        self.patches.append((self.place(origin), self.world(a), self.world(b), material, half))

    def sheet(
        self,
        origin: tuple[float, float, float],
        a: tuple[float, float, float],
        b: tuple[float, float, float],
        material: Material,
    ) -> None:
        """A thin parallelogram seen from both sides."""
        self.rect(origin, a, b, material)
        self.rect(origin, b, a, material)

    def box(
        self,
        center: tuple[float, float],
        bottom: float,
        size: tuple[float, float, float],
        material: Material,
        yaw: float = 0.0,
        front: Material | None = None,
        solid: bool = True,
    ) -> None:
        """Box standing at height `bottom`; `front` covers the side towards +y."""
        length, width, height = size
        origin = self.place((*center, bottom))
        if solid:
            self.solids.append((*origin, length, width, height, self._yaw + yaw))
        ex, ey = self.world((length, 0, 0), yaw), self.world((0, width, 0), yaw)
        ez = np.array([0, 0, height])
        low = origin - ex / 2 - ey / 2
        sides = [
            (low, ex, ez, material),
            (low + ex, ey, ez, material),
            (low + ex + ey, -ex, ez, front or material),
            (low + ey, -ey, ez, material),
            (low + ez, ex, ey, material),
        ]
        if bottom > 0.02:
            sides.append((low + ey, ex, -ey, material))
        self.patches.extend((*side, False) for side in sides)

    def prism(
        self,
        center: tuple[float, float],
        bottom: float,
        radius: float,
        height: float,
        material: Material,
        sides: int = 10,
    ) -> None:
        """Upright round thing."""
        x, y = center
        inner = 2 * radius * math.cos(math.pi / sides) / math.sqrt(2)
        self.solids.append((*self.place((x, y, bottom)), inner, inner, height, self._yaw))
        angles = np.arange(sides + 1) * 2 * math.pi / sides
        ring = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
        for (px, py), (qx, qy) in pairwise(ring):
            self.rect((px, py, bottom), (qx - px, qy - py, 0), (0, 0, height), material)
            to_p, to_q = (px - x, py - y, 0), (qx - x, qy - y, 0)
            self.rect((x, y, bottom + height), to_p, to_q, material, True)
            if bottom > 0.02:
                self.rect((x, y, bottom), to_q, to_p, material, True)


@dataclass(frozen=True)
class Patches:
    """Parallelograms (or halves of them) and what rendering needs of each."""

    corners: np.ndarray  # [P, 4, 3] around the patch, seen from the front counter-clockwise
    half: np.ndarray  # [P] bool: triangle of corners 0, 1, 3
    normal: np.ndarray  # [P, 3] unit, to the front
    dual: np.ndarray  # [P, 2, 3]: u, v in 0..1 are dual @ (point - corner 0)

    @classmethod
    def of(cls, scene: Scene) -> Patches:
        """The patches of a scene, in its order."""
        o, a, b = (np.array([patch[i] for patch in scene.patches]) for i in range(3))
        normal = np.cross(a, b)
        area2 = np.einsum('pi,pi->p', normal, normal)[:, None]
        dual = np.stack([np.cross(b, normal) / area2, np.cross(normal, a) / area2], 1)
        corners = np.stack([o, o + a, o + a + b, o + b], 1)
        half = np.array([patch[4] for patch in scene.patches])
        return cls(corners, half, normal / np.sqrt(area2), dual)

    def seen_from(
        self, T_world_camera: np.ndarray, intrinsics: Intrinsics
    ) -> tuple[np.ndarray, np.ndarray]:
        """Affine functions of the pixel, and pixel boxes.

        On a plane 1/z, u/z and v/z are affine in the pixel coordinates.

        Returns:
            [P, 3, 3]: for 1/z, u/z, v/z the factors of x, of y, and the constant; and [P, 4] int
            first column, last column, first row, last row, empty for patches seen from behind.
        """
        rotation, centre = T_world_camera[:3, :3], T_world_camera[:3, 3]
        relative = self.corners[:, 0] - centre
        height = np.einsum('pi,pi->p', self.normal, relative)
        front = height < -1e-6
        slope = self.normal @ rotation / np.where(front, height, -1.0)[:, None]
        start = -np.einsum('pki,pi->pk', self.dual, relative)
        uv = start[..., None] * slope[:, None] + self.dual @ rotation
        rays = np.concatenate([slope[:, None], uv], 1)  # [P, 3, 3] in (x/z, y/z, 1)
        k = intrinsics
        planes = np.empty_like(rays)
        planes[..., 0] = rays[..., 0] / k.fx
        planes[..., 1] = rays[..., 1] / k.fy
        planes[..., 2] = rays[..., 2] - rays[..., 0] * k.cx / k.fx - rays[..., 1] * k.cy / k.fy
        corners = (self.corners - centre) @ rotation
        boxes = np.empty((len(corners), 4), np.int32)
        _bound(corners, front, k.fx, k.fy, k.cx, k.cy, k.width, k.height, boxes)
        return planes, boxes


def distance_to_patch(points: np.ndarray, corners: np.ndarray, half: bool) -> np.ndarray:
    """Distance of [N, 3] points to one rectangle or right-angled triangle."""
    o, a, b = corners[0], corners[1] - corners[0], corners[3] - corners[0]
    gram = np.array([[a @ a, a @ b], [a @ b, b @ b]])
    uv = (points - o) @ np.stack([a, b], -1) @ np.linalg.inv(gram)
    inside = np.all((uv >= 0) & (uv <= 1), -1) & ((uv.sum(-1) <= 1) | (not half))
    flat = np.linalg.norm(points - o - uv @ np.stack([a, b]), axis=-1)
    ring = corners[[0, 1, 3]] if half else corners
    edge = np.full(len(points), np.inf)
    for p, q in zip(ring, np.roll(ring, -1, 0), strict=True):
        d = q - p
        t = np.clip((points - p) @ d / (d @ d), 0, 1)
        edge = np.minimum(edge, np.linalg.norm(points - p - t[:, None] * d, axis=-1))
    return np.where(inside, flat, edge)


@njit(cache=True, nogil=True)
def _bound(corners, front, fx, fy, cx, cy, width, height, boxes):
    """Fill `boxes` int32 [P, 4], see `seen_from`; corners [P, 4, 3] in the camera, front [P]."""
    near = 1e-3
    for p in range(corners.shape[0]):
        x0, x1, y0, y1 = 1e9, -1e9, 1e9, -1e9
        if front[p]:
            for i in range(4):
                a, b = corners[p, i], corners[p, (i + 1) % 4]
                za, zb = a[2], b[2]
                if za < near and zb < near:
                    continue
                for end in range(2):
                    t = float(end)
                    if end == 0 and za < near:
                        t = (near - za) / (zb - za)
                    if end == 1 and zb < near:
                        t = (near - za) / (zb - za)
                    z = za + t * (zb - za)
                    x = (a[0] + t * (b[0] - a[0])) / z * fx + cx
                    y = (a[1] + t * (b[1] - a[1])) / z * fy + cy
                    x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
        # One pixel of margin: `_fill` decides, this only saves work.
        boxes[p, 0] = int(max(0.0, min(x0, 1e6)))
        boxes[p, 1] = int(min(width - 1.0, max(x1, -2.0) + 1))
        boxes[p, 2] = int(max(0.0, min(y0, 1e6)))
        boxes[p, 3] = int(min(height - 1.0, max(y1, -2.0) + 1))
