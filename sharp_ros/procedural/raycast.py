"""Image, depth and hidden second surface of a scene, ray cast on the CPU with Open3D.

Light is direct from the strongest area lights plus one gathered bounce, both with few samples on
half of the pixels, smoothed along surfaces and spread back to all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import open3d as o3d

from sharp_ros.procedural.light_kernels import SAME_DEPTH, smooth, upsample
from sharp_ros.procedural.scene import Light, Scene, Sky
from sharp_ros.procedural.texture_kernels import albedo
from sharp_ros.procedural.textures import LEVEL_OFFSET, LINEAR, SIZE, Textures

SUPERSAMPLING = 2  # albedo samples per pixel, along each side
MAX_LIGHTS = 3  # that are sampled directly
MISS_DEPTH = 50.0  # metres given to the rare ray that slips out between two walls
SKY_DISTANCE = 300.0  # metres at which sky stands in for a surface until its depth becomes inf


class Rendering(NamedTuple):
    """What a camera sees: linear colour [H, W, 3] and depths [H, W] in metres, inf for sky."""

    colour: np.ndarray
    depth: np.ndarray
    second_depth: np.ndarray


class Surface(NamedTuple):
    """Per pixel: world position, normal towards the camera, triangle, depth and viewing ray."""

    position: np.ndarray
    normal: np.ndarray
    triangle: np.ndarray
    depth: np.ndarray
    ray: np.ndarray


def cast(scene: Scene, origins: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
    """Nearest hits of rays [N, 3], [N, 3]: `t_hit` in lengths of the direction, inf for none."""
    rays = np.empty((len(origins), 6), np.float32)
    rays[:, :3] = origins
    rays[:, 3:] = directions
    hits = scene.caster.cast_rays(o3d.core.Tensor.from_numpy(rays), nthreads=1)
    found = {name: value.numpy() for name, value in hits.items()}
    triangle = found['primitive_ids'].astype(np.int64)
    triangle[~np.isfinite(found['t_hit'])] = 0
    found['primitive_ids'] = triangle
    return found


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:  # [..., 3], [..., 3] -> [...]
    """Scalar products; a sum over an axis of three would cost several times as much."""
    return np.einsum('...i,...i->...', a, b)


def camera_rays(
    width: int, height: int, focal: float, samples: int = 1
) -> np.ndarray:  # -> [height * samples, width * samples, 3]
    """Directions with z = 1 through a regular grid of `samples` squared points in every pixel."""
    x = ((np.arange(width * samples) + 0.5) / samples - width / 2) / focal
    y = ((np.arange(height * samples) + 0.5) / samples - height / 2) / focal
    u, v = np.meshgrid(x, y)
    return np.stack([u, v, np.ones_like(u)], -1)


def render(
    scene: Scene,
    textures: Textures,
    T_world_camera: np.ndarray,
    focal: float,
    size: tuple[int, int],
    rng: np.random.Generator,
    gather_rays: int = 8,
) -> Rendering | None:
    """Render one view; None if it sees out of a scene without sky.

    Args:
        scene: what is to be seen.
        textures: those its materials refer to.
        T_world_camera: [4, 4] pose of the optical frame.
        focal: pixels; the principal point is the centre of the image.
        size: width and height, both even.
        rng: of the sampling noise.
        gather_rays: of light from all around, per shaded pixel.
    """
    width, height = size
    rays = camera_rays(width, height, focal, SUPERSAMPLING).reshape(-1, 3).astype(np.float32)
    rays = rays @ T_world_camera[:3, :3].T.astype(np.float32)
    origin = T_world_camera[:3, 3].astype(np.float32)
    hits = cast(scene, np.broadcast_to(origin, rays.shape), rays)
    depth = hits['t_hit']
    seen = np.isfinite(depth)
    if scene.sky is None and seen.mean() < 0.999:
        return None
    depth = np.where(seen, depth, MISS_DEPTH if scene.sky is None else SKY_DISTANCE)
    triangle, normal = hits['primitive_ids'], hits['primitive_normals']
    normal = np.where(dot(normal, rays)[:, None] > 0, -normal, normal)
    slant = np.abs(dot(normal, rays)) / np.sqrt(dot(rays, rays))
    footprint = depth / focal / SUPERSAMPLING / np.maximum(slant, 0.12)
    base = _albedo(scene, textures, triangle, hits['primitive_uvs'], footprint, rng)

    def fold(values: np.ndarray) -> np.ndarray:
        blocks = (height, SUPERSAMPLING, width, SUPERSAMPLING, *values.shape[1:])
        return values.reshape(blocks)

    emission = scene.emission[triangle]
    emitted = base * emission[:, None]
    if scene.sky is not None:
        emitted[~seen] = _sky(scene.sky, textures, rays[~seen])
    reflected = _mean(fold(base * (seen & (emission <= 0))[:, None]))
    emitted = _mean(fold(emitted))
    depth, normal, first, triangle, seen = (
        fold(v)[:, 0, :, 0] for v in (depth, normal, rays, triangle, seen)
    )
    # From the first sample to the middle of the pixel, along the plane of the surface.
    ray = _mean(fold(rays))
    moved = dot(normal, first) / np.minimum(dot(normal, ray), -1e-6)
    depth = depth * np.where(seen, np.clip(moved, 0.97, 1.03), 1)
    surface = Surface(origin + ray * depth[..., None], normal, triangle, depth, ray)
    light = _light(scene, surface, gather_rays, rng)
    colour = reflected * light + emitted
    colour = _add_reflections(scene, textures, surface, colour, rng)
    second = _second_depth(scene, surface, origin)
    if scene.sky is not None:
        depth, second = (np.where(seen, d, np.inf) for d in (depth, second))
    return Rendering(colour, depth, second)


def _mean(samples: np.ndarray) -> np.ndarray:  # [H, s, W, s, ...] -> [H, W, ...]
    """Of the samples of every pixel; NumPy's own takes four times as long along short axes."""
    each = [samples[:, i, :, j] for i in range(SUPERSAMPLING) for j in range(SUPERSAMPLING)]
    return sum(each[1:], each[0]) / np.float32(len(each))


def _sky(sky: Sky, textures: Textures, rays: np.ndarray) -> np.ndarray:  # [N, 3] -> [N, 3]
    """Colour of the sky: a gradient, and clouds on a plane above."""
    up = np.maximum(rays[:, 2] / np.sqrt(dot(rays, rays)), 0.0)[:, None]
    clear = sky.horizon + (sky.zenith - sky.horizon) * up**0.6
    plane = rays[:, :2] / (np.maximum(rays[:, 2:], 0) + 0.2 * np.sqrt(dot(rays, rays))[:, None])
    texel = np.floor(plane * 0.3 * SIZE).astype(np.int64) % SIZE
    density = LINEAR[textures.mips[sky.texture, texel[:, 1] * SIZE + texel[:, 0], :1]]
    share = np.clip((density - 1 + sky.cover) * 3, 0, 1) * np.clip(up * 6, 0.2, 1)
    white = (sky.horizon.mean() * 0.5 + 0.5) * (0.6 + 0.5 * density)
    return clear * (1 - share) + white * share


def _albedo(
    scene: Scene,
    textures: Textures,
    triangle: np.ndarray,
    barycentric: np.ndarray,
    footprint: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:  # -> [N, 3]
    """Texture colour at hits; the lookup is jittered by up to half a texel, not interpolated."""
    jitter = rng.uniform(-0.5, 0.5, (len(triangle), 2)).astype(np.float32)
    return albedo(
        (triangle, barycentric, footprint.astype(np.float32)),
        jitter,
        (scene.uv, scene.texture, scene.tint, scene.texel),
        scene.detail,
        textures.mips,
        (LEVEL_OFFSET, LINEAR),
    )


def _light(
    scene: Scene, surface: Surface, gather_rays: int, rng: np.random.Generator
) -> np.ndarray:  # -> [H, W, 3]
    """Light arriving at every pixel, from samples at every second row and column."""
    half = np.s_[1::2, 1::2]
    position, normal, depth = surface.position[half], surface.normal[half], surface.depth[half]
    rows, columns = depth.shape
    points, normals = position.reshape(-1, 3), normal.reshape(-1, 3)
    above = points + normals * 4e-3  # a little off the surface, so that it does not shade itself
    light = _gathered(scene, above, normals, gather_rays, rng)
    everything = surface.position
    middle = everything[everything.shape[0] // 2, everything.shape[1] // 2] * 0.5
    middle = middle + everything[::8, ::8].reshape(-1, 3).mean(0) * 0.5
    strongest = _strongest_lights(scene.lights, middle)
    samples = 2 if len(strongest) <= 2 else 1
    for source in strongest:
        for _ in range(samples):
            light = light + _direct(scene, source, above, normals, rng) / samples
    light = light.astype(np.float32).reshape(rows, columns, 3)
    positions, normals = (
        (np.ascontiguousarray(some, np.float32), np.ascontiguousarray(every, np.float32))
        for some, every in ((position, surface.position), (normal, surface.normal))
    )
    tolerance = (SAME_DEPTH[0] * depth + SAME_DEPTH[1]).astype(np.float32)
    for dilation in (3, 1):
        light = smooth(light, positions[0], normals[0], tolerance, dilation)
    return upsample(light, positions, normals, surface.depth.astype(np.float32))


def _gathered(
    scene: Scene,
    points: np.ndarray,
    normals: np.ndarray,
    per_point: int,
    rng: np.random.Generator,
) -> np.ndarray:  # -> [N, 3]
    """One diffuse bounce: mean colour of what a few random rays hit, darker in narrow corners."""
    count = len(points)
    rays = rng.normal(0, 1, (count, per_point, 3)).astype(np.float32)
    rays /= np.sqrt(dot(rays, rays))[..., None] + 1e-9
    rays = rays * 0.98 + normals[:, None]  # cosine-weighted, kept off the horizon
    hits = cast(scene, np.repeat(points, per_point, 0), rays.reshape(-1, 3))
    triangle, distance = hits['primitive_ids'], hits['t_hit']
    arriving = scene.ambient + np.minimum(scene.emission[triangle], 4.0)[:, None]
    radiance = scene.mean_albedo[triangle] * arriving
    radiance[~np.isfinite(distance)] = scene.ambient
    near = np.clip(distance / 0.25, 0, 1)[:, None]
    radiance = radiance * (0.35 + 0.65 * near)
    return radiance.reshape(count, per_point, 3).mean(1)


def _strongest_lights(lights: list[Light], middle: np.ndarray) -> list[Light]:
    """The lights that matter most in the middle of what is seen."""
    strength = [
        np.linalg.norm(light.power)
        / (np.sum((light.corner + light.side_u / 2 + light.side_v / 2 - middle) ** 2) + 0.5)
        for light in lights
    ]
    return [lights[i] for i in np.argsort(strength)[::-1][:MAX_LIGHTS]]


def _direct(
    scene: Scene,
    light: Light,
    points: np.ndarray,
    normals: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:  # -> [N, 3]
    """Light from one random point of an area light, with shadows."""
    count = len(points)
    target = (
        light.corner
        + rng.uniform(0, 1, (count, 1)) * light.side_u
        + rng.uniform(0, 1, (count, 1)) * light.side_v
    )
    ray = (target - points).astype(np.float32)
    square = dot(ray, ray)
    distance = np.sqrt(square)
    cosine = np.maximum(dot(ray, normals) / distance, 0)
    if light.normal is not None:
        leaving = -(ray @ light.normal.astype(np.float32)) / distance
        cosine = cosine * np.maximum(leaving, 0) * 2
    lit = np.nonzero(cosine > 1e-3)[0]
    visible = np.zeros(count, np.float32)
    if len(lit):
        reach = cast(scene, points[lit], ray[lit])['t_hit']
        # Stop short of the emitter's own geometry.
        visible[lit] = reach > 1 - 0.12 / np.maximum(distance[lit], 0.2)
    falloff = cosine * visible / (square + 0.15)
    return falloff[:, None] * light.power.astype(np.float32) / np.pi


def _add_reflections(
    scene: Scene,
    textures: Textures,
    surface: Surface,
    colour: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Mirror images in glossy surfaces (Schlick's Fresnel term, 1994)."""
    gloss = scene.gloss[surface.triangle] * (surface.depth < SKY_DISTANCE)
    if (gloss > 0).mean() <= 0.01:
        return colour
    height, width = gloss.shape
    glossy = np.nonzero(gloss.ravel() > 0)[0]
    ray = surface.ray.reshape(-1, 3)[glossy]
    normal = surface.normal.reshape(-1, 3)[glossy]
    normal = normal + rng.normal(0, 0.01, normal.shape)
    mirrored = ray - 2 * dot(ray, normal)[:, None] * normal
    hits = cast(scene, surface.position.reshape(-1, 3)[glossy] + normal * 4e-3, mirrored)
    triangle = hits['primitive_ids']
    slant = np.abs(dot(ray, normal)) / np.sqrt(dot(ray, ray))
    fresnel = (0.04 + 0.96 * (1 - np.clip(slant, 0, 1)) ** 5) * gloss.ravel()[glossy]
    arriving = scene.ambient * 1.3 + np.minimum(scene.emission[triangle], 5.0)[:, None]
    radiance = scene.mean_albedo[triangle] * arriving
    if scene.sky is not None:
        missed = ~np.isfinite(hits['t_hit'])
        radiance[missed] = _sky(scene.sky, textures, mirrored[missed])
    image = np.zeros((height * width, 3), np.float32)
    image[glossy] = radiance * fresnel[:, None]
    return colour + cv2.blur(image.reshape(height, width, 3), (3, 3))


def _second_depth(scene: Scene, surface: Surface, origin: np.ndarray) -> np.ndarray:  # -> [H, W]
    """Depth of the next front face of another object along each ray; the first depth if none."""
    height, width = surface.depth.shape
    second = surface.depth.copy().ravel()
    own = scene.part[surface.triangle].ravel()
    rays = surface.ray.reshape(-1, 3)
    reached = surface.depth.ravel().copy()
    open_ = np.arange(height * width)
    for _ in range(3):
        start = reached[open_] + 0.01
        hits = cast(scene, origin + rays[open_] * start[:, None], rays[open_])
        distance, triangle = hits['t_hit'], hits['primitive_ids']
        hit = np.isfinite(distance)
        in_front = dot(hits['primitive_normals'], rays[open_]) < 0
        found = hit & in_front & (scene.part[triangle] != own[open_])
        second[open_[found]] = (start + distance)[found]
        passed = hit & ~found
        reached[open_[passed]] = (start + distance)[passed]
        open_ = open_[passed]
        if len(open_) == 0:
            break
    return second.reshape(height, width)
