"""Worlds whose image, depth, poses and occupancy are known exactly: a furnished room and planes.

The room is made of a few thousand flat patches. Each carries its own texture, into which the light
(windows, lamps and one bounce, ray-cast once with Open3D) is baked, so that a live frame is only
a z-buffer over patches and one filtered texture lookup per pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import colorsys
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
import math

import cv2
from numba import njit
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.se3 import look_at

Rgb = tuple[float, float, float]

SIZE = (8.0, 6.0, 2.6)  # room along x, y, z in metres, centred on the world origin, floor at z = 0
SPEED = 0.5  # of the drive, m/s
_TEXEL = 0.005  # side of a texture element, metres
_LIGHT_TEXEL = 0.11  # side of a light map element, metres
_LEVELS = 8  # of each texture pyramid


def plane_depth(
    intrinsics: Intrinsics, distance: float, normal: tuple[float, float, float] = (0, 0, -1)
) -> np.ndarray:  # -> [H, W] float32
    """Exact z-depth of an endless plane through (0, 0, `distance`) of the optical frame.

    Args:
        intrinsics: of the image.
        distance: where the optical axis meets the plane, metres.
        normal: of the plane, any length; by default it faces the camera.

    Returns:
        Metres; 0 where a ray does not meet the plane in front of the camera.
    """
    n = np.asarray(normal, np.float64)
    inverse = (intrinsics.rays().astype(np.float64) @ n[:2] + n[2]) / (n[2] * distance)
    depth = np.zeros_like(inverse)
    np.divide(1, inverse, out=depth, where=inverse > 1e-9)
    return depth.astype(np.float32)


def step_edge_depth(intrinsics: Intrinsics, near: float, far: float, column: int) -> np.ndarray:
    """Z-depth [H, W] float32 of a near wall left of `column` and a far wall from there on."""
    depth = plane_depth(intrinsics, far)
    depth[:, :column] = near
    return depth


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
        self._scene = _furnish(rng)
        self._rects = _Patches.of(self._scene)
        self._drive = _Drive(rng)
        self._seed = seed

    @property
    def patches(self) -> tuple[np.ndarray, np.ndarray]:
        """Corners [P, 4, 3] in metres of all parallelograms, and [P] True for half of one.

        A half is the triangle of corners 0, 1 and 3.
        """
        return self._rects.corners, self._rects.half

    @property
    def loop_duration(self) -> float:
        """Time after which the drive repeats, seconds."""
        return self._drive.length / SPEED

    @cached_property
    def _atlas(self) -> _Atlas:
        return _bake(self._scene, self._rects, np.random.default_rng([self._seed, 1]))

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
        pose = np.ascontiguousarray(T_world_camera, np.float64)
        size = (intrinsics.height, intrinsics.width)
        ids = np.full(size, -1, np.int32)
        inverse_depth = np.zeros(size, np.float64)
        planes, boxes = self._rects.seen_from(pose, intrinsics)
        _fill(planes, boxes, self._rects.half, ids, inverse_depth)
        image, depth = np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32)
        centre = pose[:3, 3]
        plane_distance = np.abs(
            np.einsum('pi,pi->p', self._rects.normal, self._rects.corners[:, 0] - centre)
        )
        # Surface seen by a pixel is z^3 / (distance to plane * fx * fy); the square root of its
        # size in texels picks the pyramid level.
        texels = self._atlas.density / (plane_distance + 1e-9) / (intrinsics.fx * intrinsics.fy)
        _shade(
            ids,
            inverse_depth,
            planes,
            texels,
            self._atlas.offsets,
            self._atlas.sizes,
            self._atlas.data,
            image,
            depth,
        )
        return image, depth

    def distance(self, points: np.ndarray) -> np.ndarray:  # [N, 3] -> [N]
        """Distance to the nearest surface, metres, from the inside or the outside of things."""
        p = np.asarray(points, np.float64)
        best = np.full(len(p), np.inf)
        for corners, half in zip(self._rects.corners, self._rects.half, strict=True):
            best = np.minimum(best, _distance_to_patch(p, corners, bool(half)))
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


# --- geometry ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Patches:
    """Parallelograms (or halves of them) and what rendering needs of each."""

    corners: np.ndarray  # [P, 4, 3] around the patch, seen from the front counter-clockwise
    half: np.ndarray  # [P] bool: triangle of corners 0, 1, 3
    normal: np.ndarray  # [P, 3] unit, to the front
    dual: np.ndarray  # [P, 2, 3]: u, v in 0..1 are dual @ (point - corner 0)

    @classmethod
    def of(cls, scene: _Scene) -> _Patches:
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


def _distance_to_patch(points: np.ndarray, corners: np.ndarray, half: bool) -> np.ndarray:
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
def _bound(corners, front, fx, fy, cx, cy, width, height, boxes):  # type: ignore[no-untyped-def]
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


@njit(cache=True, nogil=True)
def _fill(planes, boxes, half, ids, inverse_depth):  # type: ignore[no-untyped-def]
    """Nearest patch of every pixel centre. The slack closes seams between neighbours."""
    for p in range(planes.shape[0]):
        w_x, u_x, v_x = planes[p, 0, 0], planes[p, 1, 0], planes[p, 2, 0]
        for y in range(boxes[p, 2], boxes[p, 3] + 1):
            w_0 = planes[p, 0, 1] * y + planes[p, 0, 2]
            u_0 = planes[p, 1, 1] * y + planes[p, 1, 2]
            v_0 = planes[p, 2, 1] * y + planes[p, 2, 2]
            for x in range(boxes[p, 0], boxes[p, 1] + 1):
                w = w_0 + w_x * x
                if w <= inverse_depth[y, x]:
                    continue
                u, v, slack = u_0 + u_x * x, v_0 + v_x * x, 1e-9 * w
                if u < -slack or v < -slack:
                    continue
                if half[p]:
                    if u + v > w + slack:
                        continue
                elif u > w + slack or v > w + slack:
                    continue
                inverse_depth[y, x] = w
                ids[y, x] = p


@njit(cache=True, nogil=True, fastmath=True)
def _shade(  # type: ignore[no-untyped-def]
    ids, inverse_depth, planes, texels, offsets, sizes, data, image, depth
):
    """Trilinear texture lookup."""
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            p = ids[y, x]
            if p < 0:
                continue
            z = 1.0 / inverse_depth[y, x]
            depth[y, x] = z
            u = (planes[p, 1, 0] * x + planes[p, 1, 1] * y + planes[p, 1, 2]) * z
            v = (planes[p, 2, 0] * x + planes[p, 2, 1] * y + planes[p, 2, 2]) * z
            level = 0.5 * math.log2(texels[p] * z * z * z + 1e-12)
            level = min(max(level, 0.0), offsets.shape[1] - 1.001)
            first = int(level)
            share = level - first
            red, green, blue = 0.0, 0.0, 0.0
            for k in range(2):
                weight = share if k == 1 else 1.0 - share
                if weight < 0.02:
                    continue
                w, h = sizes[p, first + k, 0], sizes[p, first + k, 1]
                tx = min(max(u * w - 0.5, 0.0), w - 1.0)
                ty = min(max(v * h - 0.5, 0.0), h - 1.0)
                ix, iy = int(tx), int(ty)
                gx, gy = tx - ix, ty - iy
                right = 1 if ix + 1 < w else 0
                below = w if iy + 1 < h else 0
                at = offsets[p, first + k] + iy * w + ix
                a, b = weight * (1 - gx) * (1 - gy), weight * gx * (1 - gy)
                c, d = weight * (1 - gx) * gy, weight * gx * gy
                e, f, g = at + right, at + below, at + right + below
                red += a * data[at, 0] + b * data[e, 0] + c * data[f, 0] + d * data[g, 0]
                green += a * data[at, 1] + b * data[e, 1] + c * data[f, 1] + d * data[g, 1]
                blue += a * data[at, 2] + b * data[e, 2] + c * data[f, 2] + d * data[g, 2]
            image[y, x, 0] = int(min(red + 0.5, 255.0))
            image[y, x, 1] = int(min(green + 0.5, 255.0))
            image[y, x, 2] = int(min(blue + 0.5, 255.0))


# --- light ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Atlas:
    """Lit textures of all patches as pyramids in one array."""

    data: np.ndarray  # [T, 3] uint8 RGB
    offsets: np.ndarray  # [P, L] of the first texel of each level
    sizes: np.ndarray  # [P, L, 2] width and height of each level
    density: np.ndarray  # [P] texels per square metre


def _bake(scene: _Scene, rects: _Patches, rng: np.random.Generator) -> _Atlas:
    edges = rects.corners[:, [1, 3]] - rects.corners[:, :1]
    lengths = np.linalg.norm(edges, axis=-1)
    light = _light_maps(scene, rects, edges, lengths)
    offsets = np.zeros((len(lengths), _LEVELS), np.int64)
    sizes = np.ones((len(lengths), _LEVELS, 2), np.int64)
    levels, total = [], 0
    for p, (a, b) in enumerate(lengths):
        material = scene.patches[p][3]
        w = int(np.clip(round(a / _TEXEL), 2, 2048))
        h = int(np.clip(round(b / _TEXEL), 2, 2048))
        if material.glow:
            texture = material.sample(w, h, a, b, rng) * material.glow
        else:
            shine = cv2.resize(light[p], (w, h), interpolation=cv2.INTER_LINEAR)
            texture = material.sample(w, h, a, b, rng) * shine
        texture = _develop(texture)
        for level in range(_LEVELS):
            if level:
                w, h = max(1, w // 2), max(1, h // 2)
                texture = cv2.resize(texture, (w, h), interpolation=cv2.INTER_AREA)
            offsets[p, level], sizes[p, level] = total, (w, h)
            levels.append(texture.reshape(-1, 3))
            total += w * h
    area = lengths[:, 0] * lengths[:, 1]
    density = sizes[:, 0].prod(-1) / area
    return _Atlas(np.concatenate(levels), offsets, sizes, density)


def _development() -> np.ndarray:
    radiance = np.linspace(0, 1, 4096) ** 2 * _DEVELOPED_UP_TO
    mapped = radiance * (1 + radiance / _DEVELOPED_UP_TO) / (1 + radiance)
    return (np.clip(mapped, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


_DEVELOPED_UP_TO = 6.0  # radiance that appears white
_DEVELOPED = _development()


def _develop(radiance: np.ndarray) -> np.ndarray:
    """Linear light to 8 bit: a soft shoulder instead of clipping, then the display's gamma."""
    index = np.sqrt(np.minimum(radiance / _DEVELOPED_UP_TO, 1)) * (len(_DEVELOPED) - 1)
    return _DEVELOPED[(index + 0.5).astype(np.uint16)]


def _light_maps(
    scene: _Scene, rects: _Patches, edges: np.ndarray, lengths: np.ndarray
) -> list[np.ndarray]:
    """Irradiance of every patch, [h, w, 3] each: lamps and windows with shadows, one bounce."""
    import open3d as o3d

    caster = o3d.t.geometry.RaycastingScene()
    vertices = rects.corners.reshape(-1, 3).astype(np.float32)
    quads = np.arange(len(vertices)).reshape(-1, 4)
    whole = ~rects.half
    triangles = np.concatenate([quads[:, [0, 1, 3]], quads[whole][:, [2, 3, 1]]])
    owner = np.concatenate([np.arange(len(quads)), np.flatnonzero(whole)])
    caster.add_triangles(o3d.core.Tensor(vertices), o3d.core.Tensor(triangles.astype(np.uint32)))

    sizes = np.clip(np.ceil(lengths / _LIGHT_TEXEL), 2, 128).astype(int)
    counts = sizes.prod(-1)
    starts = np.concatenate([[0], np.cumsum(counts)])
    patch = np.repeat(np.arange(len(counts)), counts)
    index = np.arange(starts[-1]) - starts[patch]
    uv = np.stack([index % sizes[patch, 0], index // sizes[patch, 0]], -1) + 0.5
    uv = uv / sizes[patch]
    normal = rects.normal[patch]
    points = rects.corners[patch, 0] + np.einsum('nk,nki->ni', uv, edges[patch]) + 0.004 * normal

    direct = np.zeros((len(points), 3))
    for position, facing, power in scene.lights:
        ray = position - points
        squared = np.einsum('ni,ni->n', ray, ray)
        unit = ray / np.sqrt(squared)[:, None]
        cosine = np.clip(np.einsum('ni,ni->n', unit, normal), 0, None)
        if facing is not None:
            cosine = cosine * np.clip(-unit @ facing, 0, None)
        lit = np.flatnonzero(cosine > 1e-4)
        rays = np.concatenate([points[lit], ray[lit]], -1).astype(np.float32)
        free = ~caster.test_occlusions(o3d.core.Tensor(rays), tnear=0, tfar=0.999).numpy()
        lit = lit[free]
        strength = cosine[lit] / (squared[lit] + 0.05)
        direct[lit] += strength[:, None] * np.asarray(power)

    albedo = np.array([entry[3].mean for entry in scene.patches])
    glows = np.array([entry[3].glow > 0 for entry in scene.patches])
    # The same well spread directions for all points: the error is smooth instead of noise.
    n = 48
    golden = np.arange(n) * math.pi * (3 - math.sqrt(5))
    radius = np.sqrt((np.arange(n) + 0.5) / n)
    local = np.stack([radius * np.cos(golden), radius * np.sin(golden)], -1)
    up = np.sqrt(1 - radius**2)
    tangent = edges[patch, 0] / lengths[patch, 0][:, None]
    bitangent = np.cross(normal, tangent)
    bounce = np.zeros_like(direct)
    for i in range(n):
        d = local[i, 0] * tangent + local[i, 1] * bitangent + up[i] * normal
        rays = np.concatenate([points, d], -1).astype(np.float32)
        hit = caster.cast_rays(o3d.core.Tensor(rays))
        triangle = hit['primitive_ids'].numpy()
        distance = hit['t_hit'].numpy()
        found = np.flatnonzero(np.isfinite(distance))
        at = owner[triangle[found]]
        where = points[found] + distance[found, None] * d[found]
        st = np.einsum('nki,ni->nk', rects.dual[at], where - rects.corners[at, 0])
        cell = np.clip((st * sizes[at]).astype(int), 0, sizes[at] - 1)
        texel = starts[at] + cell[:, 1] * sizes[at, 0] + cell[:, 0]
        # The constant stands for all further bounces.
        bounce[found] += np.where(glows[at][:, None], 0, albedo[at] * (direct[texel] + 0.25))
    total = direct + bounce / n
    maps = []
    for p, (w, h) in enumerate(sizes):
        block = total[starts[p] : starts[p + 1]].reshape(h, w, 3).astype(np.float32)
        maps.append(cv2.blur(block, (3, 3)) if min(w, h) > 4 else block)
    return maps


# --- materials -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Material:
    """Albedo of a surface: an image in linear RGB, laid out in metres or fitted to the patch."""

    image: np.ndarray  # [h, w, 3] float32
    side: float = 0.0  # of one repetition in metres; 0: one image fills the patch
    glow: float = 0.0  # radiance factor of what shines by itself

    @cached_property
    def mean(self) -> np.ndarray:
        return np.array(cv2.mean(self.image)[:3])

    def sample(
        self, w: int, h: int, a: float, b: float, rng: np.random.Generator
    ) -> np.ndarray:  # -> [h, w, 3]
        if not self.side:
            return cv2.resize(self.image[::-1], (w, h), interpolation=cv2.INTER_AREA)
        rows, columns = self.image.shape[:2]
        shift = rng.uniform(0, 1, 2)
        x = ((np.arange(w) + 0.5) / w * a / self.side + shift[0]) * columns
        y = ((np.arange(h) + 0.5) / h * b / self.side + shift[1]) * rows
        xs, ys = np.meshgrid((x % columns).astype(np.float32), (y % rows).astype(np.float32))
        return cv2.remap(self.image, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _noise(rng: np.random.Generator, size: int, falloff: float, stretch: float = 1) -> np.ndarray:
    """Tileable noise [size, size], zero mean, unit deviation, amplitude ~ frequency^-falloff.

    `stretch` > 1 draws it out along x, as fibres.
    """
    amplitude = _amplitude(size, falloff, stretch)
    phase = rng.random(amplitude.shape, np.float32) * np.float32(2 * np.pi)
    spectrum = np.empty(amplitude.shape, np.complex64)
    spectrum.real, spectrum.imag = amplitude * np.cos(phase), amplitude * np.sin(phase)
    field = np.fft.irfft2(spectrum, (size, size))
    return (field / field.std()).astype(np.float32)


@cache
def _amplitude(size: int, falloff: float, stretch: float) -> np.ndarray:
    fx, fy = np.meshgrid(np.fft.rfftfreq(size) * size, np.fft.fftfreq(size) * size)
    radius = np.hypot(fx * stretch, fy)
    radius[0, 0] = np.inf
    return (radius**-falloff).astype(np.float32)


def _tint(color: Rgb, value: np.ndarray) -> np.ndarray:  # [h, w] -> [h, w, 3]
    """Linear albedo of an sRGB colour times a factor image."""
    linear = np.array(color, np.float32) ** 2.2
    return np.clip(linear * value[..., None], 0.005, 0.9).astype(np.float32)


def _plaster(rng: np.random.Generator, color: Rgb, rough: float = 0.05) -> _Material:
    value = 1 + rough * (0.6 * _noise(rng, 512, 1.3) + 0.4 * _noise(rng, 512, 0.4))
    return _Material(_tint(color, value), 1.7)


def _wood(rng: np.random.Generator, color: Rgb, side: float = 0.9) -> _Material:
    rings = np.sin(7 * _noise(rng, 512, 1.6, 9))
    return _Material(_tint(color, 1 + 0.13 * rings + 0.1 * _noise(rng, 512, 0.8, 24)), side)


def _fabric(rng: np.random.Generator, color: Rgb) -> _Material:
    x = np.arange(512) * (2 * np.pi * 64 / 512)
    weave = np.sin(x)[None] * np.sin(x)[:, None]
    value = 1 + 0.18 * weave + 0.12 * _noise(rng, 512, 1.0) + 0.08 * _noise(rng, 512, 0.1)
    return _Material(_tint(color, value), 0.5)


def _planks(rng: np.random.Generator, color: Rgb) -> _Material:
    value = 1 + 0.1 * np.sin(6 * _noise(rng, 1024, 1.6, 8)) + 0.08 * _noise(rng, 1024, 0.7, 20)
    image = _tint(color, value)
    rows = 16
    height = 1024 // rows
    for row in range(rows):  # planks of 1 m, 12.5 cm wide, with shifted joints
        start = int(rng.integers(1024))
        for piece in range(2):
            columns = (start + piece * 512 + np.arange(512)) % 1024
            tone = rng.uniform(0.72, 1.2) * (1 + rng.uniform(-0.04, 0.04, 3))
            part = image[row * height : (row + 1) * height]
            part[:, columns] *= tone.astype(np.float32)
            part[:, columns[:2]] *= 0.45
        image[row * height : row * height + 2] *= 0.45
    return _Material(np.clip(image, 0, 0.9), 2.0)


def _tiles(rng: np.random.Generator, color: Rgb, grout: Rgb, side: float) -> _Material:
    tone = rng.uniform(0.8, 1.15, (8, 8)).astype(np.float32)
    value = np.kron(tone, np.ones((128, 128), np.float32)) * (1 + 0.06 * _noise(rng, 1024, 1.2))
    image = _tint(color, value)
    joint = (np.arange(1024) % 128) < 5
    image[joint[:, None] | joint[None]] = np.array(grout, np.float32) ** 2.2
    return _Material(image, 8 * side)


def _bricks(rng: np.random.Generator, color: Rgb) -> _Material:
    image = np.empty((1024, 1024, 3), np.float32)
    image[:] = np.array((0.75, 0.72, 0.68), np.float32) ** 2.2
    surface = 1 + 0.12 * _noise(rng, 1024, 0.9)
    for row in range(16):
        for brick in range(5):
            x0 = int((brick + 0.5 * (row % 2)) * 1024 / 5)
            columns = np.arange(x0 + 6, x0 + 204) % 1024
            rows = np.arange(row * 64 + 6, row * 64 + 64)[:, None]
            tone = tuple(np.array(color) * rng.uniform(0.75, 1.15))
            image[rows, columns] = _tint(tone, surface[rows, columns])  # type: ignore[arg-type]
    return _Material(image, 1.2)


def _muted(rng: np.random.Generator, low: float = 0.2, high: float = 0.8) -> Rgb:
    """A colour as it is bought: any hue, seldom loud."""
    saturation = rng.uniform(0.1, 0.55) * rng.uniform(0.6, 1)
    return colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(low, high))


def _flat(color: Rgb, glow: float = 0.0) -> _Material:
    return _Material(_tint(color, np.ones((4, 4), np.float32)), 0.0, glow)


def _picture(rng: np.random.Generator, width: int, height: int) -> _Material:
    """An abstract print: a ground, overlapping shapes, a frame."""
    palette = np.array([_muted(rng, 0.15, 0.98) for _ in range(6)])
    ramp = np.linspace(0, 1, height)[:, None, None]
    image = np.ascontiguousarray(
        (palette[0] * (1 - ramp) + palette[1] * ramp) * np.ones((1, width, 1)), np.float32
    )
    for _ in range(int(rng.integers(5, 14))):
        color = [float(c) for c in palette[rng.integers(2, 6)] * rng.uniform(0.7, 1.1)]
        x, y = int(rng.integers(width)), int(rng.integers(height))
        r = int(rng.uniform(0.06, 0.3) * min(width, height))
        shape = int(rng.integers(4))
        if shape == 0:
            cv2.circle(image, (x, y), r, color, -1, cv2.LINE_AA)
        elif shape == 1:
            cv2.rectangle(image, (x - r, y - r // 2), (x + r, y + r // 2), color, -1)
        elif shape == 2:
            points = rng.normal((x, y), r, (4, 2)).astype(np.int32)
            cv2.fillPoly(image, [points], color, cv2.LINE_AA)
        else:
            end = tuple(int(v) for v in rng.integers((width, height)))
            cv2.line(image, (x, y), end, color, max(2, r // 8), cv2.LINE_AA)
    border = max(4, min(width, height) // 22)
    dark = [float(c) for c in rng.uniform(0.05, 0.5, 3)]
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), (0.92, 0.91, 0.88), 3 * border)
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), dark, border)
    return _Material(np.clip(image, 0.02, 0.95) ** 2.2)


def _screen(rng: np.random.Generator) -> _Material:
    """A monitor with windows and lines of text."""
    image = np.full((300, 480, 3), rng.uniform(0.1, 0.45, 3), np.float32)
    for _ in range(4):
        x, y = int(rng.integers(10, 260)), int(rng.integers(10, 160))
        w, h = int(rng.integers(120, 210)), int(rng.integers(80, 135))
        paper = float(rng.choice([0.12, 0.95]))
        cv2.rectangle(image, (x, y), (x + w, y + h), (paper, paper, paper), -1)
        cv2.rectangle(image, (x, y), (x + w, y + 12), [float(c) for c in rng.random(3)], -1)
        for line in range(y + 22, y + h - 6, 9):
            ink = [float(c) for c in rng.uniform(0.3, 0.8, 3)]
            end = x + 10 + int(rng.uniform(0.2, 0.85) * w)
            cv2.line(image, (x + 8, line), (end, line), ink, 3)
    cv2.rectangle(image, (0, 0), (479, 299), (0.03, 0.03, 0.03), 14)
    return _Material(np.clip(image, 0.02, 1) ** 2.2, 0.0, 0.8)


def _view_outside(rng: np.random.Generator) -> _Material:
    """Sky, hills and trees behind a window, overexposed as seen from indoors."""
    h, w = 320, 400
    cloud = np.clip(0.5 + 0.35 * _noise(rng, 512, 1.6, 0.5)[:h, :w], 0, 1)[..., None]
    image = cloud * np.array((0.97, 0.97, 0.97)) + (1 - cloud) * np.array((0.62, 0.78, 0.95))
    image = np.ascontiguousarray(image, np.float32)
    x = np.arange(w)
    for depth in range(3):
        phase, base = rng.uniform(0, 6, 3), 0.55 + 0.13 * depth
        ridge = base + 0.05 * np.sin(x / 55 + phase[0]) + 0.02 * np.sin(x / 13 + phase[1])
        if depth == 1:
            ridge += 0.012 * rng.normal(size=w)
        hill = np.arange(h)[:, None] > ridge * h
        tone = np.array((0.45, 0.58, 0.5)) * (1.05 - 0.22 * depth) * rng.uniform(0.9, 1.1, 3)
        grain = 1 + 0.12 * _noise(rng, 512, 0.6)[:h, :w, None]
        image = np.where(hill[..., None], tone * grain, image).astype(np.float32)
    return _Material(np.clip(image, 0.02, 1) ** 2.2, 0.0, 3.2)


def _rug(rng: np.random.Generator) -> _Material:
    """Stripes and diamonds, mirrored both ways."""
    palette = np.array([_muted(rng) for _ in range(4)], np.float32)
    y, x = np.mgrid[0:240, 0:360]
    bands = ((np.abs(x - 180) // 18 + np.abs(y - 120) // 18) % 3).astype(int)
    edge = np.minimum(np.minimum(x, 359 - x), np.minimum(y, 239 - y))
    bands[edge < 26] = 3
    bands[(edge > 8) & (edge < 13)] = 0
    image = palette[bands] ** 2.2 * (1 + 0.15 * _noise(rng, 512, 0.3)[:240, :360, None])
    return _Material(np.clip(image, 0.01, 0.9).astype(np.float32))


# --- furniture -----------------------------------------------------------------------------------

_Patch = tuple[np.ndarray, np.ndarray, np.ndarray, _Material, bool]


class _Scene:
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
        """Place the following items at (x, y) in the world, turned by `yaw` radians."""
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
        material: _Material,
        half: bool = False,
    ) -> None:
        """Parallelogram whose front is where a x b points."""
        self.patches.append((self.place(origin), self.world(a), self.world(b), material, half))

    def sheet(
        self,
        origin: tuple[float, float, float],
        a: tuple[float, float, float],
        b: tuple[float, float, float],
        material: _Material,
    ) -> None:
        """A thin parallelogram seen from both sides."""
        self.rect(origin, a, b, material)
        self.rect(origin, b, a, material)

    def box(
        self,
        center: tuple[float, float],
        bottom: float,
        size: tuple[float, float, float],
        material: _Material,
        yaw: float = 0.0,
        front: _Material | None = None,
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
        material: _Material,
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


class _Style:
    """Materials that the items of one room share."""

    def __init__(self, rng: np.random.Generator) -> None:
        def shade(low: float, high: float) -> Rgb:
            return tuple(rng.uniform(low, high) * (1 + rng.uniform(-0.12, 0.12, 3)))

        wood = np.array([(0.72, 0.53, 0.34), (0.5, 0.34, 0.22), (0.82, 0.68, 0.5)])
        woods = rng.permutation(wood) * rng.uniform(0.9, 1.1, (3, 1))
        self.wood = [_wood(rng, tuple(color)) for color in woods]
        self.planks = _planks(rng, tuple(woods[1] * 1.15))
        self.floor_tiles = _tiles(rng, shade(0.5, 0.75), (0.42, 0.41, 0.4), 0.33)
        self.wall_tiles = _tiles(rng, shade(0.75, 0.92), (0.6, 0.6, 0.6), 0.15)
        self.bricks = _bricks(rng, (0.68, 0.36, 0.28))
        self.walls = [_plaster(rng, shade(0.78, 0.93)) for _ in range(3)]
        self.ceiling = _plaster(rng, (0.93, 0.93, 0.92), 0.03)
        self.fabric = [_fabric(rng, _muted(rng)) for _ in range(5)]
        self.white = _plaster(rng, (0.9, 0.9, 0.89), 0.02)
        self.dark = _plaster(rng, (0.13, 0.13, 0.14), 0.08)
        self.metal = _plaster(rng, (0.6, 0.61, 0.63), 0.06)
        self.stone = _plaster(rng, shade(0.3, 0.6), 0.25)
        self.card = _plaster(rng, (0.72, 0.56, 0.38), 0.1)
        self.clay = _plaster(rng, (0.7, 0.4, 0.28), 0.12)
        self.leaf = _plaster(rng, (0.25, 0.46, 0.2), 0.3)
        self.books = [_plaster(rng, _muted(rng, 0.12, 0.9), 0.15) for _ in range(10)]
        self.lamp = _flat((1.0, 0.93, 0.8), 4.0)
        self.rng = rng

    def any_book(self) -> _Material:
        return self.books[int(self.rng.integers(len(self.books)))]

    def any_fabric(self) -> _Material:
        return self.fabric[int(self.rng.integers(len(self.fabric)))]


def _row_of_books(s: _Scene, st: _Style, x0: float, x1: float, y: float, z: float) -> None:
    x = x0
    while True:
        thick, tall = st.rng.uniform(0.02, 0.055), st.rng.uniform(0.18, 0.27)
        if x + thick > x1:
            return
        if st.rng.random() < 0.92:
            deep = st.rng.uniform(0.14, 0.2)
            s.box((x + thick / 2, y), z, (thick, deep, tall), st.any_book())
        x += thick + 0.002


def _framed(s: _Scene, st: _Style, x: float, z: float, width: float, height: float) -> None:
    art = _picture(st.rng, int(width * 220), int(height * 220))
    s.box((x, 0.015), z, (width, 0.03, height), st.dark, front=art)


def _sofa(s: _Scene, st: _Style) -> None:
    cloth = st.any_fabric()
    s.box((0, 0.45), 0.08, (2.0, 0.85, 0.32), cloth)
    s.box((0, 0.13), 0.08, (2.0, 0.22, 0.75), cloth)
    for side in (-1, 1):
        s.box((side * 1.0, 0.45), 0.05, (0.18, 0.87, 0.55), cloth)
        s.box((side * 0.45, 0.52), 0.4, (0.86, 0.66, 0.13), cloth)
        s.box((side * 0.66, 0.32), 0.54, (0.42, 0.14, 0.38), st.any_fabric(), yaw=0.3 * side)
        _framed(s, st, side * 0.55, 1.3, st.rng.uniform(0.5, 0.8), st.rng.uniform(0.5, 0.8))


def _bookshelf(s: _Scene, st: _Style) -> None:
    wood, height = st.wood[0], 2.0
    for side in (-1, 0, 1):
        s.box((side * 0.75, 0.16), 0, (0.03, 0.32, height), wood)
    s.box((0, 0.012), 0, (1.5, 0.02, height), wood)
    for level in range(6):
        z = 0.06 + level * (height - 0.08) / 5
        s.box((0, 0.165), z, (1.5, 0.29, 0.025), wood)
        if level == 5:
            break
        for left in (-0.73, 0.02):
            if st.rng.random() < 0.8:
                end = left + st.rng.uniform(0.3, 0.7)
                _row_of_books(s, st, left, end, 0.17, z + 0.025)
            else:
                size = (0.4, 0.24, st.rng.uniform(0.12, 0.25))
                s.box((left + 0.34, 0.17), z + 0.025, size, st.any_fabric())


def _plant(s: _Scene, st: _Style) -> None:
    s.prism((0, 0.35), 0, 0.17, 0.34, st.clay, 12)
    s.prism((0, 0.35), 0.34, 0.025, 0.5, st.wood[1], 6)
    for _ in range(70):
        yaw, rise = st.rng.uniform(0, 2 * math.pi), st.rng.uniform(-0.2, 1.1)
        length, wide = st.rng.uniform(0.14, 0.3), st.rng.uniform(0.03, 0.06)
        out = (
            length * math.cos(rise) * math.cos(yaw),
            length * math.cos(rise) * math.sin(yaw),
            length * math.sin(rise),
        )
        across = (-wide * math.sin(yaw), wide * math.cos(yaw), 0.0)
        root = (
            0.25 * out[0] * st.rng.random(),
            0.35 + 0.25 * out[1] * st.rng.random(),
            st.rng.uniform(0.5, 1.05),
        )
        s.sheet(root, out, across, st.leaf)


def _floor_lamp(s: _Scene, st: _Style) -> None:
    s.prism((0, 0.35), 0, 0.16, 0.025, st.dark, 12)
    s.prism((0, 0.35), 0.025, 0.015, 1.45, st.metal, 6)
    s.prism((0, 0.35), 1.4, 0.19, 0.28, st.lamp, 14)
    s.lights.append((s.place((0, 0.35, 1.9)), None, (0.5, 0.42, 0.3)))
    s.lights.append((s.place((0, 0.35, 1.2)), None, (0.35, 0.3, 0.2)))


def _cartons(s: _Scene, st: _Style) -> None:
    s.box((-0.15, 0.35), 0, (0.5, 0.4, 0.38), st.card, yaw=0.12)
    s.box((-0.12, 0.34), 0.38, (0.38, 0.3, 0.26), st.card, yaw=-0.2)
    s.box((0.32, 0.3), 0, (0.3, 0.3, 0.3), st.card, yaw=0.5)


def _kitchen(s: _Scene, st: _Style) -> None:
    front, width = st.wood[2], 2.4
    s.box((-0.35, 0.29), 0, (width, 0.58, 0.08), st.dark)
    s.box((-0.35, 0.3), 0.08, (width, 0.6, 0.78), st.white)
    s.box((-0.35, 0.31), 0.86, (width + 0.02, 0.64, 0.04), st.stone)
    s.rect((0.85, 0.004, 0.9), (-width, 0, 0), (0, 0, 0.6), st.wall_tiles)
    for i in range(4):
        x = -0.35 + (i - 1.5) * 0.6
        if i == 2:
            s.box((x, 0.61), 0.12, (0.56, 0.02, 0.7), st.dark)
            s.box((x, 0.635), 0.7, (0.46, 0.03, 0.02), st.metal)
            s.rect((x - 0.26, 0.06, 0.901), (0.52, 0, 0), (0, 0.5, 0), st.dark)
        else:
            s.box((x, 0.61), 0.12, (0.575, 0.02, 0.72), front)
            s.box((x + 0.2, 0.63), 0.6, (0.02, 0.02, 0.16), st.metal)
        s.box((x, 0.18), 1.5, (0.585, 0.36, 0.7), st.white, front=front)
        s.box((x + 0.2, 0.37), 1.55, (0.015, 0.02, 0.14), st.metal)
    s.box((1.2, 0.33), 0, (0.66, 0.66, 1.85), st.metal)
    s.box((1.2, 0.665), 1.22, (0.64, 0.01, 0.01), st.dark)
    s.box((0.95, 0.68), 1.3, (0.03, 0.03, 0.4), st.dark)
    s.prism((-1.2, 0.3), 0.9, 0.11, 0.2, st.metal, 12)
    s.prism((0.0, 0.35), 0.9, 0.08, 0.18, st.clay, 12)
    s.box((-0.75, 0.2), 0.9, (0.3, 0.22, 0.2), st.dark)
    s.box((0.5, 0.3), 0.9, (0.35, 0.25, 0.03), st.wood[0])


def _door(s: _Scene, st: _Style) -> None:
    leaf = st.wood[1] if st.rng.random() < 0.5 else st.white
    s.box((0, 0.02), 0, (0.86, 0.04, 2.03), leaf)
    for z, height in ((0.15, 0.75), (1.05, 0.8)):
        for side in (-1, 1):
            s.box((side * 0.19, 0.043), z, (0.28, 0.012, height), leaf)
    for side in (-1, 1):
        s.box((side * 0.48, 0.03), 0, (0.1, 0.06, 2.12), st.white)
    s.box((0, 0.03), 2.03, (0.86, 0.06, 0.09), st.white)
    s.box((0.34, 0.08), 1.02, (0.13, 0.02, 0.02), st.metal)


def _sideboard(s: _Scene, st: _Style) -> None:
    wood = st.wood[0]
    s.box((0, 0.21), 0.12, (1.4, 0.42, 0.65), wood)
    for x in (-0.6, 0.6):
        for y in (0.05, 0.37):
            s.box((x, y), 0, (0.04, 0.04, 0.12), st.dark)
    for i in range(3):
        s.box(((i - 1) * 0.46, 0.425), 0.16, (0.44, 0.015, 0.57), st.wood[2])
        s.prism(((i - 1) * 0.46 + 0.17, 0.437), 0.45, 0.012, 0.03, st.metal, 6)
    s.prism((-0.5, 0.22), 0.77, 0.09, 0.3, st.clay, 12)
    _row_of_books(s, st, -0.2, 0.15, 0.2, 0.77)
    s.box((0.45, 0.2), 0.77, (0.28, 0.06, 0.2), st.dark, yaw=0.2, front=_picture(st.rng, 90, 64))
    _framed(s, st, st.rng.uniform(-0.2, 0.2), 1.35, 1.0, 0.65)


def _dining(s: _Scene, st: _Style) -> None:
    s.box((0, 0.45), 0.71, (1.3, 0.8, 0.04), st.wood[0])
    for x in (-0.58, 0.58):
        for y in (0.1, 0.8):
            s.box((x, y), 0, (0.06, 0.06, 0.71), st.wood[0])
    for side in (-1, 1):
        _chair(s, st, (side * 0.72, 0.45), side * math.pi / 2)
    s.prism((0.1, 0.45), 0.75, 0.12, 0.08, st.clay, 12)
    for x, y in ((-0.35, 0.35), (0.38, 0.55)):
        s.prism((x, y), 0.75, 0.11, 0.012, st.white, 14)
        s.prism((x + 0.17, y + 0.08), 0.75, 0.035, 0.09, st.metal, 8)
    s.box((0, 0.012), 1.45, (0.9, 0.024, 0.6), st.dark, front=_picture(st.rng, 200, 130))


def _chair(s: _Scene, st: _Style, at: tuple[float, float], yaw: float) -> None:
    """A chair whose back is on the side `yaw` turns -y to."""
    c, sn = math.cos(yaw), math.sin(yaw)

    def spot(x: float, y: float) -> tuple[float, float]:
        return at[0] + c * x - sn * y, at[1] + sn * x + c * y

    s.box(spot(0, 0), 0.42, (0.42, 0.42, 0.05), st.wood[1], yaw)
    for x in (-0.18, 0.18):
        s.box(spot(x, 0.18), 0, (0.04, 0.04, 0.42), st.wood[1], yaw)
        s.box(spot(x, -0.19), 0, (0.04, 0.04, 0.9), st.wood[1], yaw)
    for z in (0.6, 0.78):
        s.box(spot(0, -0.19), z, (0.32, 0.025, 0.1), st.wood[1], yaw)


def _window(s: _Scene, st: _Style) -> None:
    s.rect((0.65, 0.012, 0.95), (-1.3, 0, 0), (0, 0, 1.2), _view_outside(st.rng))
    for x in (-0.65, 0, 0.65):
        s.box((x, 0.03), 0.95, (0.07, 0.05, 1.2), st.white)
    for z in (0.92, 2.12):
        s.box((0, 0.03), z, (1.37, 0.06, 0.07), st.white)
    s.box((0, 0.1), 0.88, (1.45, 0.2, 0.04), st.white)
    cloth = st.any_fabric()
    s.box((0, 0.09), 2.3, (2.0, 0.025, 0.025), st.metal)
    for side in (-1, 1):
        x = side * 0.98
        for fold in range(6):
            near, far = (0.06, 0.12) if fold % 2 else (0.12, 0.06)
            step = -side * 0.06
            s.sheet((x, near, 0.15), (step, far - near, 0), (0, 0, 2.15), cloth)
            x += step
    inward = s.world((0, 1, 0))
    for x in (-0.48, -0.16, 0.16, 0.48):
        for z in (1.2, 1.55, 1.9):
            s.lights.append((s.place((x, 0.07, z)), inward, (0.6, 0.64, 0.7)))


def _radiator_window(s: _Scene, st: _Style) -> None:
    _window(s, st)
    for i in range(14):
        s.box(((i - 6.5) * 0.08, 0.08), 0.14, (0.055, 0.1, 0.6), st.white)
    s.prism((0.3, 0.1), 0.92, 0.06, 0.14, st.clay, 10)


def _desk_window(s: _Scene, st: _Style) -> None:
    _window(s, st)
    s.box((0, 0.42), 0.7, (1.4, 0.62, 0.035), st.wood[2])
    for x in (-0.66, 0.66):
        s.box((x, 0.42), 0, (0.04, 0.56, 0.7), st.dark)
    s.box((0.42, 0.42), 0.25, (0.4, 0.5, 0.45), st.white)
    s.box((-0.15, 0.28), 0.85, (0.56, 0.03, 0.36), st.dark, front=_screen(st.rng))
    s.box((-0.15, 0.27), 0.735, (0.05, 0.03, 0.12), st.dark)
    s.box((-0.15, 0.28), 0.735, (0.24, 0.18, 0.012), st.dark)
    s.box((-0.15, 0.55), 0.735, (0.42, 0.14, 0.02), st.dark)
    s.box((0.4, 0.4), 0.735, (0.3, 0.22, 0.05), st.any_book(), yaw=0.3)
    s.box((0.41, 0.41), 0.785, (0.22, 0.16, 0.03), st.any_book(), yaw=-0.2)
    s.prism((-0.55, 0.45), 0.735, 0.04, 0.1, st.clay, 10)
    _chair(s, st, (-0.15, 0.7), math.pi - 0.2)


def _television(s: _Scene, st: _Style) -> None:
    s.box((0, 0.21), 0.06, (1.7, 0.42, 0.4), st.wood[1])
    for i in range(3):
        s.box(((i - 1) * 0.56, 0.425), 0.09, (0.53, 0.012, 0.34), st.wood[2])
    s.box((0, 0.18), 0.46, (0.5, 0.24, 0.02), st.dark)
    s.box((0, 0.17), 0.48, (0.08, 0.04, 0.1), st.dark)
    show = _Material(_picture(st.rng, 320, 180).image, 0.0, 0.9)
    s.box((0, 0.2), 0.55, (1.15, 0.05, 0.66), st.dark)
    s.rect((0.55, 0.2265, 0.575), (-1.1, 0, 0), (0, 0, 0.615), show)
    for side in (-1, 1):
        s.box((side * 0.72, 0.2), 0.46, (0.15, 0.2, 0.28), st.dark)
    s.box((0, 0.1), 1.75, (1.2, 0.2, 0.03), st.wood[1])
    _row_of_books(s, st, -0.5, 0.2, 0.1, 1.78)
    s.prism((0.42, 0.1), 1.78, 0.06, 0.16, st.clay, 10)


def _armchair(s: _Scene, st: _Style) -> None:
    cloth = st.any_fabric()
    s.box((0, 0.45), 0.1, (0.62, 0.62, 0.32), cloth)
    s.box((0, 0.18), 0.1, (0.8, 0.16, 0.8), cloth)
    for side in (-1, 1):
        s.box((side * 0.36, 0.45), 0.08, (0.12, 0.64, 0.5), cloth)
    s.box((0, 0.32), 0.42, (0.4, 0.13, 0.36), st.any_fabric(), yaw=0.15)
    _framed(s, st, 0, 1.35, 0.6, 0.8)


def _coffee_table(s: _Scene, st: _Style) -> None:
    s.rect((-1.1, -0.75, 0.006), (2.2, 0, 0), (0, 1.5, 0), _rug(st.rng))
    s.box((0, 0), 0.36, (0.95, 0.55, 0.045), st.wood[0])
    for x in (-0.43, 0.43):
        for y in (-0.23, 0.23):
            s.box((x, y), 0, (0.05, 0.05, 0.36), st.wood[0])
    s.box((0, 0), 0.12, (0.86, 0.46, 0.02), st.wood[0])
    s.box((-0.2, 0.05), 0.405, (0.28, 0.2, 0.03), st.any_book(), yaw=0.4)
    s.box((-0.19, 0.05), 0.435, (0.22, 0.16, 0.025), st.any_book(), yaw=0.1)
    s.prism((0.25, -0.05), 0.405, 0.1, 0.07, st.clay, 14)
    s.prism((0.05, -0.17), 0.405, 0.035, 0.09, st.white, 10)


_Item = tuple[float, Callable[[_Scene, _Style], None]]  # width along the wall, builder
_LONG_WALLS: tuple[tuple[_Item, ...], ...] = (
    ((3.0, _kitchen), (1.1, _door), (2.0, _dining), (0.6, _plant)),
    ((1.6, _bookshelf), (2.3, _sofa), (0.5, _floor_lamp), (1.5, _sideboard), (1.0, _cartons)),
)
_SHORT_WALLS: tuple[tuple[_Item, ...], ...] = (
    ((2.05, _radiator_window), (2.05, _desk_window)),
    ((1.9, _television), (1.0, _armchair), (0.7, _plant)),
)


def _furnish(rng: np.random.Generator) -> _Scene:
    scene, style = _Scene(), _Style(rng)
    length, width, height = SIZE
    x, y = length / 2, width / 2
    floor = style.planks if rng.random() < 0.7 else style.floor_tiles
    walls = [*style.walls, style.bricks if rng.random() < 0.5 else style.walls[0]]
    scene.rect((-x, -y, 0), (length, 0, 0), (0, width, 0), floor)
    scene.rect((-x, y, height), (length, 0, 0), (0, -width, 0), style.ceiling)
    _coffee_table(scene, style)
    for lamp_x in (-1.9, 1.9):
        scene.box((lamp_x, 0), height - 0.06, (0.9, 0.25, 0.06), style.lamp)
        for dx in (-0.3, 0.0, 0.3):
            down = np.array([0, 0, -1.0])
            at = np.array([lamp_x + dx, 0, height - 0.08])
            scene.lights.append((at, down, (1.6, 1.5, 1.3)))
    sides = [  # position of the middle, yaw, length, furniture; opposite walls take either row
        ((0, -y), 0.0, length, _LONG_WALLS[0]),
        ((0, y), math.pi, length, _LONG_WALLS[1]),
        ((x, 0), math.pi / 2, width, _SHORT_WALLS[0]),
        ((-x, 0), -math.pi / 2, width, _SHORT_WALLS[1]),
    ]
    if rng.random() < 0.5:
        sides[0], sides[1] = (*sides[0][:3], sides[1][3]), (*sides[1][:3], sides[0][3])
    if rng.random() < 0.5:
        sides[2], sides[3] = (*sides[2][:3], sides[3][3]), (*sides[3][:3], sides[2][3])
    for wall, ((px, py), yaw, extent, items) in zip(walls, sides, strict=True):
        scene.at(px, py, yaw)
        scene.rect((extent / 2, 0, 0), (-extent, 0, 0), (0, 0, height), wall)
        scene.box((0, 0.008), 0, (extent, 0.016, 0.09), style.white)
        # Corners of the short walls are left to the furniture of the long ones.
        usable = extent if extent == length else extent - 1.9
        spare = usable - sum(item[0] for item in items)
        cuts = np.sort(rng.uniform(0, spare, len(items)))
        cursor = -usable / 2
        for cut, index in zip(np.diff(cuts, prepend=0), rng.permutation(len(items)), strict=True):
            span, build = items[index]
            middle = cursor + cut + span / 2
            cursor += cut + span
            c, s = math.cos(yaw), math.sin(yaw)
            scene.at(px + c * middle, py + s * middle, yaw)
            build(scene, style)
    return scene
