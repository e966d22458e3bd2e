"""Generate training images: pairs of near views of random furnished rooms, with exact depth.

    python -m sharp_ros.training.rooms --out DIR --seed S --scenes N --processes P

Shards of 40 scenes hold `rgb` uint8 [N, H, W, 3], `d` and `d2` float16 [N, H, W] (metres of the
first and second surface), `f` [N] (focal length in pixels, principal point in the centre), `pose`
[N, 4, 4] (`T_world_camera`) and `scene` [N] (seed); rows 2i and 2i + 1 are a pair. A shard that
is there already is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import math
import multiprocessing
import os
from pathlib import Path
import sys
import time
from typing import NamedTuple

import numpy as np

from sharp_ros.files import replacing
from sharp_ros.training.layout import build_scene, Room
from sharp_ros.training.raycast import camera_rays, cast, render, Rendering
from sharp_ros.training.scene import Scene
from sharp_ros.training.textures import make_textures, Textures

IMAGE_SIZE = (256, 192)  # width, height
PAIRS = 3  # per scene
SCENES_PER_SHARD = 40
VIEW_SEED = 10**6  # added to a scene's seed for its cameras and sampling noise


class View(NamedTuple):
    """One training image, see the module's description of shards."""

    rgb: np.ndarray
    depth: np.ndarray
    second_depth: np.ndarray
    focal: np.float32
    T_world_camera: np.ndarray


class Camera(NamedTuple):
    """A viewpoint: angles in radians, yaw from +x to +y, pitch upwards, roll clockwise."""

    yaw: float
    pitch: float
    roll: float
    position: np.ndarray

    def pose(self) -> np.ndarray:  # -> [4, 4]
        """`T_world_camera` of the optical frame."""
        forward = np.array(
            [
                math.cos(self.yaw) * math.cos(self.pitch),
                math.sin(self.yaw) * math.cos(self.pitch),
                math.sin(self.pitch),
            ]
        )
        right = np.array([math.sin(self.yaw), -math.cos(self.yaw), 0.0])
        down = np.cross(forward, right)
        c, s = math.cos(self.roll), math.sin(self.roll)
        pose = np.eye(4)
        pose[:3, 0] = right * c + down * s
        pose[:3, 1] = -right * s + down * c
        pose[:3, 2] = forward
        pose[:3, 3] = self.position
        return pose


def scene_views(
    seed: int,
    textures: Textures,
    pairs: int = PAIRS,
    size: tuple[int, int] = IMAGE_SIZE,
) -> list[View]:
    """Up to `pairs` pairs of views of one scene; the same arguments give the same images.

    Args:
        seed: of the scene.
        textures: of its surfaces.
        pairs: fewer come back when most places show nothing but a wall.
        size: width and height of an image, pixels.
    """
    scene, rooms = build_scene(seed, textures)
    rng = np.random.default_rng(VIEW_SEED + seed)
    ambient = np.array([1, 1, 1], np.float32) * rng.uniform(0.25, 0.9)
    views: list[View] = []
    for _ in range(14 * pairs):
        if len(views) >= 2 * pairs:
            break
        views += _pair(scene, rooms, textures, size, ambient, rng)
    return views


def _pair(
    scene: Scene,
    rooms: list[Room],
    textures: Textures,
    size: tuple[int, int],
    ambient: np.ndarray,
    rng: np.random.Generator,
) -> list[View]:
    """Two views a little apart, or nothing if the place drawn is a bad one."""
    camera = _draw_camera(scene, rooms, rng)
    if camera is None:
        return []
    focal = size[0] / 2 / math.tan(math.radians(rng.uniform(50, 100) / 2))
    if not _worth_rendering(scene, camera, focal, size, rng):
        return []
    second = _second_camera(scene, camera, rng)
    if second is None:
        return []
    poses = camera.pose(), second.pose()
    renderings: list[Rendering] = []
    for pose in poses:
        rendering = render(scene, textures, pose, focal, size, ambient, rng)
        if rendering is None:
            return []
        renderings.append(rendering)
    if np.percentile(renderings[1].depth, 3) < 0.15:
        return []
    # Both views of a pair are exposed alike, for the first.
    luminance = np.percentile(renderings[0].colour.mean(-1), rng.uniform(70, 95))
    exposure = rng.uniform(0.45, 1.05) / max(luminance, 1e-3)
    return [
        View(
            _expose(rendering.colour, exposure),
            rendering.depth.astype(np.float16),
            rendering.second_depth.astype(np.float16),
            np.float32(focal),
            pose.astype(np.float32),
        )
        for rendering, pose in zip(renderings, poses, strict=True)
    ]


def _draw_camera(scene: Scene, rooms: list[Room], rng: np.random.Generator) -> Camera | None:
    """A viewpoint: bent over a table now and then, otherwise anywhere at 0.2 to 1.7 m."""
    areas = np.array([(r.bounds[2] - r.bounds[0]) * (r.bounds[3] - r.bounds[1]) for r in rooms])
    room = rooms[rng.choice(len(areas), p=areas**0.6 / np.sum(areas**0.6))]
    x0, y0, x1, y1 = room.bounds
    if min(x1 - x0, y1 - y0) < 0.9:
        return None
    roll = math.radians(rng.normal(0, 3) if rng.uniform() < 0.8 else rng.uniform(-18, 18))
    if scene.targets and rng.uniform() < 0.22:
        x, y, height = scene.targets[rng.integers(len(scene.targets))]
        angle, distance = rng.uniform(0, 6.28), rng.uniform(0.5, 1.8)
        z = min(height + rng.uniform(0.2, 0.9), scene.height - 0.3)
        position = np.array([x + math.cos(angle) * distance, y + math.sin(angle) * distance, z])
        yaw = angle + math.pi + rng.normal(0, 0.25)
        pitch = math.atan2(height - position[2], distance) + rng.normal(0.1, 0.15)
        return Camera(yaw, pitch, roll, position)
    position = np.array(
        [
            rng.uniform(x0 + 0.25, x1 - 0.25),
            rng.uniform(y0 + 0.25, y1 - 0.25),
            rng.uniform(0.2, 1.7) if rng.uniform() < 0.6 else rng.uniform(0.9, 1.7),
        ]
    )
    inside = any(
        a - 0.1 < position[0] < c + 0.1 and b - 0.1 < position[1] < d + 0.1
        for a, b, c, d in room.taken
    )
    if inside and rng.uniform() < 0.8:
        return None
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    if rng.uniform() < 0.5:
        yaw = math.atan2(middle[1] - position[1], middle[0] - position[0]) + rng.normal(0, 1.0)
    else:
        yaw = rng.uniform(0, 6.28)
    pitch = math.radians(rng.normal(-4 - 10 * max(0, position[2] - 0.4), 11))
    return Camera(yaw, pitch, roll, position)


def _worth_rendering(
    scene: Scene,
    camera: Camera,
    focal: float,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> bool:
    """Whether a few rays hit something not too near, and mostly more than three objects."""
    columns, rows = 16, 12
    rays = camera_rays(columns, rows, focal * columns / size[0]).reshape(-1, 3)
    rays = rays @ camera.pose()[:3, :3].T
    hits = cast(scene, np.broadcast_to(camera.position, rays.shape), rays)
    depth = hits['t_hit']
    if not np.isfinite(depth).all() or np.percentile(depth, 5) < 0.25 or np.median(depth) < 0.55:
        return False
    objects = len(np.unique(scene.part[hits['primitive_ids']]))
    return objects >= 4 or rng.uniform() >= 0.85


def _second_camera(scene: Scene, camera: Camera, rng: np.random.Generator) -> Camera | None:
    """A viewpoint 0.1 to 0.5 m away that looks almost the same way; None if something is there."""
    step = rng.normal(0, 1, 3)
    step[2] *= 0.4
    step = step / np.linalg.norm(step) * rng.uniform(0.1, 0.5)
    position = camera.position + step
    reach = cast(scene, camera.position[None], step[None])['t_hit'][0]
    if reach < 1.5 or position[2] < 0.12:
        return None
    yaw, pitch = camera.yaw + rng.normal(0, 0.06), camera.pitch + rng.normal(0, 0.04)
    return Camera(yaw, pitch, camera.roll + math.radians(rng.normal(0, 1)), position)


def _expose(colour: np.ndarray, exposure: float) -> np.ndarray:
    """Linear colour to 8 bits: gain, a soft shoulder, gamma."""
    x = colour * exposure
    x = x / (1 + np.maximum(x - 0.8, 0))
    return (np.clip(x, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def write_shard(
    path: Path,
    seeds: Sequence[int],
    textures: Textures,
    pairs: int = PAIRS,
    size: tuple[int, int] = IMAGE_SIZE,
) -> int:
    """Render scenes into one file, written as a whole; returns the number of images."""
    rows = [(view, seed) for seed in seeds for view in scene_views(seed, textures, pairs, size)]
    if not rows:
        return 0
    columns = zip(*((*view, seed) for view, seed in rows), strict=True)
    names = ('rgb', 'd', 'd2', 'f', 'pose', 'scene')
    with replacing(path) as file:
        np.savez(file, **{n: np.stack(c) for n, c in zip(names, columns, strict=True)})
    return len(rows)


_textures: Textures | None = None  # of a worker process


def _start_worker() -> None:
    global _textures  # noqa: PLW0603
    os.nice(10)
    _textures = make_textures()


def _work(job: tuple[Path, list[int]]) -> int:
    assert _textures is not None
    return write_shard(*job, _textures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--out', type=Path, required=True, help='folder for the shards')
    parser.add_argument('--seed', type=int, default=0, help='of the first scene')
    parser.add_argument('--scenes', type=int, default=1360, help='about six images come of each')
    parser.add_argument('--processes', type=int, default=os.cpu_count() or 1, help='at once')
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(options.seed, options.seed + options.scenes)
    blocks = [
        list(seeds[i : i + SCENES_PER_SHARD]) for i in range(0, len(seeds), SCENES_PER_SHARD)
    ]
    jobs = [(options.out / f'rooms_{block[0]:08d}.npz', block) for block in blocks]
    jobs = [job for job in jobs if not job[0].exists()]
    began, images = time.monotonic(), 0
    # A fresh interpreter each: Open3D's threads do not survive a fork.
    context = multiprocessing.get_context('spawn')
    with context.Pool(options.processes, _start_worker) as pool:
        for done, count in enumerate(pool.imap_unordered(_work, jobs), 1):
            images += count
            rate = images / (time.monotonic() - began)
            sys.stderr.write(
                f'\r{done} of {len(jobs)} shards, {images} images, {rate:.1f} images/s '
            )
            sys.stderr.flush()
    sys.stderr.write('\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
