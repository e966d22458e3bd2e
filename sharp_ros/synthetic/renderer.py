"""Images of patches: light is baked into their textures once, a frame only looks them up.

The light (windows, lamps and one bounce) is ray-cast with Open3D. A live frame is then a z-buffer
over patches and one filtered texture lookup per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
from numba import njit
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.synthetic.patches import Patches, Scene

_TEXEL = 0.005  # side of a texture element, metres
_LIGHT_TEXEL = 0.11  # side of a light map element, metres
_LEVELS = 8  # of each texture pyramid


@dataclass(frozen=True)
class Atlas:
    """Lit textures of all patches as pyramids in one array."""

    data: np.ndarray  # [T, 3] uint8 RGB
    offsets: np.ndarray  # [P, L] of the first texel of each level
    sizes: np.ndarray  # [P, L, 2] width and height of each level
    density: np.ndarray  # [P] texels per square metre


def bake(scene: Scene, rects: Patches, rng: np.random.Generator) -> Atlas:
    """Light the textures of all patches; takes seconds. `rng` shifts the textures."""
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
    return Atlas(np.concatenate(levels), offsets, sizes, density)


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
    scene: Scene, rects: Patches, edges: np.ndarray, lengths: np.ndarray
) -> list[np.ndarray]:
    """Irradiance of every patch, [h, w, 3] each: lamps and windows with shadows, one bounce."""
    import open3d as o3d

    caster = o3d.t.geometry.RaycastingScene()
    vertices = rects.corners.reshape(-1, 3).astype(np.float32)
    quads = np.arange(len(vertices)).reshape(-1, 4)
    whole = ~rects.half
    triangles = np.concatenate([quads[:, [0, 1, 3]], quads[whole][:, [2, 3, 1]]])
    owner = np.concatenate([np.arange(len(quads)), np.flatnonzero(whole)])
    caster.add_triangles(
        o3d.core.Tensor.from_numpy(vertices),
        o3d.core.Tensor.from_numpy(triangles.astype(np.uint32)),
    )

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
        shadow_rays = o3d.core.Tensor.from_numpy(rays)
        free = ~caster.test_occlusions(shadow_rays, tnear=0, tfar=0.999).numpy()
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
        hit = caster.cast_rays(o3d.core.Tensor.from_numpy(rays))
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


def render(
    patches: Patches, atlas: Atlas, intrinsics: Intrinsics, T_world_camera: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Image [H, W, 3] uint8 RGB, and z-depth [H, W] float32 in metres, 0 where nothing is."""
    pose = np.ascontiguousarray(T_world_camera, np.float64)
    size = (intrinsics.height, intrinsics.width)
    ids = np.full(size, -1, np.int32)
    inverse_depth = np.zeros(size, np.float64)
    planes, boxes = patches.seen_from(pose, intrinsics)
    _fill(planes, boxes, patches.half, ids, inverse_depth)
    image, depth = np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32)
    centre = pose[:3, 3]
    plane_distance = np.abs(np.einsum('pi,pi->p', patches.normal, patches.corners[:, 0] - centre))
    # Surface seen by a pixel is z^3 / (distance to plane * fx * fy); the square root of its
    # size in texels picks the pyramid level.
    texels = atlas.density / (plane_distance + 1e-9) / (intrinsics.fx * intrinsics.fy)
    _shade(
        ids,
        inverse_depth,
        planes,
        texels,
        atlas.offsets,
        atlas.sizes,
        atlas.data,
        image,
        depth,
    )
    return image, depth


@njit(cache=True, nogil=True)
def _fill(planes, boxes, half, ids, inverse_depth):
    """Nearest patch of every pixel centre. The slack closes seams between neighbours.

    planes [P, 3, 3], boxes [P, 4], half [P] -> ids [H, W], inverse_depth [H, W].
    """
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
def _shade(ids, inverse_depth, planes, texels, offsets, sizes, data, image, depth):
    """Trilinear texture lookup.

    ids, inverse_depth [H, W], planes [P, 3, 3], texels [P], and the arrays of an `Atlas` ->
    image [H, W, 3] uint8, depth [H, W].
    """
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
