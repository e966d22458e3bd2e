"""Generate training images: pairs of near views of rooms, streets and yards, with exact depth.

    python -m sharp_ros.procedural.rooms --out DIR --seed S --scenes N --furniture FOLDER

Shards of 40 scenes hold `rgb` uint8 [N, H, W, 3], `d` and `d2` float16 [N, H, W] (metres of the
first and second surface; both inf where there is nothing but sky), `f` [N] (focal length in
pixels, principal point in the centre), `pose` [N, 4, 4] (`T_world_camera`; z is up and the floor
is z = 0) and `scene` [N] (seed); rows 2i and 2i + 1 are a pair. Existing shards are kept.
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

from sharp_ros.errors import InputError
from sharp_ros.files import replacing
from sharp_ros.procedural.furnishing import Room
from sharp_ros.procedural.layout import build_storey
from sharp_ros.procedural.meshes import load_models, with_models
from sharp_ros.procedural.outdoor import build_outdoors
from sharp_ros.procedural.raycast import camera_rays, cast, render, Rendering
from sharp_ros.procedural.scene import Scene, Target
from sharp_ros.procedural.textures import make_textures, Textures

IMAGE_SIZE = (256, 192)  # width, height
PAIRS = 3  # per scene
SCENES_PER_SHARD = 40
OUTDOORS = 0.15  # share of the scenes
FIELD_OF_VIEW = (45.0, 110.0)  # horizontal, degrees
VIEW_SEED = 10**6  # added to a scene's seed for its cameras and sampling noise


class SceneView(NamedTuple):
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
) -> list[SceneView]:
    """Up to `pairs` pairs of views of one scene; the same arguments give the same images.

    Args:
        seed: of the scene.
        textures: of its surfaces.
        pairs: fewer come back when most places show nothing but a wall.
        size: width and height of an image, pixels.
    """
    scene, rooms = build_scene(seed, textures)
    rng = np.random.default_rng(VIEW_SEED + seed)
    views: list[SceneView] = []
    for _ in range(14 * pairs):
        if len(views) >= 2 * pairs:
            break
        views += _pair(scene, rooms, textures, size, rng)
    return views


def _pair(
    scene: Scene,
    rooms: list[Room],
    textures: Textures,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> list[SceneView]:
    """Two views a little apart, or nothing if the place drawn is a bad one."""
    camera = _draw_camera(scene, rooms, rng)
    if camera is None:
        return []
    focal = size[0] / 2 / math.tan(math.radians(rng.uniform(*FIELD_OF_VIEW) / 2))
    if not _worth_rendering(scene, camera, focal, size, rng):
        return []
    second = _second_camera(scene, camera, rng)
    if second is None:
        return []
    poses = camera.pose(), second.pose()
    renderings: list[Rendering] = []
    for pose in poses:
        rendering = render(scene, textures, pose, focal, size, rng)
        if rendering is None:
            return []
        renderings.append(rendering)
    if np.percentile(renderings[1].depth, 2) < 0.12:
        return []
    exposure = _metered(renderings[0].colour, rng)  # both views of a pair alike, for the first
    return [
        SceneView(
            _expose(rendering.colour, exposure),
            rendering.depth.astype(np.float16),
            rendering.second_depth.astype(np.float16),
            np.float32(focal),
            pose.astype(np.float32),
        )
        for rendering, pose in zip(renderings, poses, strict=True)
    ]


def build_scene(seed: int, textures: Textures) -> tuple[Scene, list[Room]]:
    """The scene a seed stands for, and the places in it where a camera may be."""
    rng = np.random.default_rng(seed)
    outdoors = rng.uniform() > 1 - OUTDOORS
    return (build_outdoors if outdoors else build_storey)(rng, textures)


def _draw_camera(scene: Scene, rooms: list[Room], rng: np.random.Generator) -> Camera | None:
    """A viewpoint: often close to a table top or shelf, otherwise anywhere at 0.2 to 1.8 m."""
    roll = math.radians(rng.normal(0, 3) if rng.uniform() < 0.75 else rng.uniform(-25, 25))
    if scene.targets and rng.uniform() < 0.22:
        return _close_camera(scene.targets[rng.integers(len(scene.targets))], roll, rng)
    areas = np.array([(r.bounds[2] - r.bounds[0]) * (r.bounds[3] - r.bounds[1]) for r in rooms])
    room = rooms[rng.choice(len(areas), p=areas**0.6 / np.sum(areas**0.6))]
    x0, y0, x1, y1 = room.bounds
    if min(x1 - x0, y1 - y0) < 0.6:
        return None
    low, high = ((0.2, 0.5), (0.5, 1.0), (1.0, 1.8))[rng.choice(3, p=[0.25, 0.25, 0.5])]
    position = np.array(
        [
            rng.uniform(x0 + 0.2, x1 - 0.2),
            rng.uniform(y0 + 0.2, y1 - 0.2),
            rng.uniform(low, high),
        ]
    )
    inside = any(
        a - 0.1 < position[0] < c + 0.1 and b - 0.1 < position[1] < d + 0.1
        for a, b, c, d in room.taken
    )
    if inside and rng.uniform() < 0.8:
        return None
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    if rng.uniform() < 0.65:
        yaw = math.atan2(middle[1] - position[1], middle[0] - position[0]) + rng.normal(0, 0.9)
    else:
        yaw = rng.uniform(0, 6.28)
    if rng.uniform() < 0.1 and position[2] > 0.4:  # at the floor
        pitch = math.radians(rng.uniform(-75, -30))
    else:
        pitch = math.radians(rng.normal(-3 - 10 * max(0, position[2] - 0.4), 13))
    return Camera(yaw, pitch, roll, position)


def _close_camera(target: Target, roll: float, rng: np.random.Generator) -> Camera:
    """A viewpoint 0.3 to 2 m away, as of a gripper or of a person at a counter."""
    angle = rng.uniform(0, 6.28)
    if target.yaw is not None:
        angle = target.yaw - math.pi / 2 + rng.uniform(-1.1, 1.1)
    reach = math.exp(rng.uniform(math.log(0.3), math.log(2.0)))
    down = math.radians(rng.uniform(-5, 75))
    x, y, height = target.position
    away = math.cos(down) * reach
    z = float(np.clip(height + math.sin(down) * reach, 0.15, 1.9))
    position = np.array([x + math.cos(angle) * away, y + math.sin(angle) * away, z])
    # The target is not always in the middle of the image.
    yaw = angle + math.pi + rng.normal(0, 0.2)
    pitch = math.atan2(height - z, away) + rng.normal(0.03, 0.15)
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
    seen = np.isfinite(depth)
    if seen.mean() < (1 if scene.sky is None else 0.35):
        return False
    if np.percentile(depth, 5) < 0.18 or np.median(depth) < 0.28:
        return False
    from_inside = (hits['primitive_normals'] * rays).sum(1)[seen] > 0
    if from_inside.mean() > 0.15:  # in a piece of furniture or a wall; leaves have two sides
        return False
    objects = len(np.unique(scene.part[hits['primitive_ids'][seen]]))
    return objects >= 4 or rng.uniform() >= 0.85


def _second_camera(scene: Scene, camera: Camera, rng: np.random.Generator) -> Camera | None:
    """A viewpoint 0.05 to 0.5 m away, in almost the same direction; None if something is there."""
    step = rng.normal(0, 1, 3)
    step[2] *= 0.4
    step = step / np.linalg.norm(step) * rng.uniform(0.05, 0.5)
    position = camera.position + step
    reach = cast(scene, camera.position[None], step[None])['t_hit'][0]
    if reach < 1.3 or position[2] < 0.12:
        return None
    yaw, pitch = camera.yaw + rng.normal(0, 0.06), camera.pitch + rng.normal(0, 0.04)
    return Camera(yaw, pitch, camera.roll + math.radians(rng.normal(0, 1)), position)


def _metered(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # -> [3]
    """Gains of an automatic camera: brightness within limits, white balance towards grey."""
    luminance = np.percentile(colour.mean(-1), rng.uniform(60, 95))
    key = rng.choice([rng.uniform(0.4, 0.95), math.exp(rng.uniform(-2.0, 0.4))], p=[0.7, 0.3])
    mean = colour.reshape(-1, 3).mean(0)
    balance = (mean.mean() / np.maximum(mean, 1e-4)) ** rng.uniform(0.0, 0.6)
    return (key / max(luminance, 1e-3)) * np.clip(balance, 0.4, 2.5)


def _expose(colour: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Linear colour to 8 bits: gains, a soft shoulder, gamma."""
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
    rgb, d, d2, f, pose, scene = (np.stack(column) for column in columns)
    with replacing(path) as file:
        np.savez(file, rgb=rgb, d=d, d2=d2, f=f, pose=pose, scene=scene)
    return len(rows)


_textures: Textures | None = None  # of a worker process


def _start_worker(furniture: Path | None) -> None:
    global _textures  # noqa: PLW0603
    os.nice(10)
    _textures = make_textures()
    if furniture is not None:
        _textures = with_models(_textures, load_models(furniture))


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
    parser.add_argument(
        '--furniture', type=Path, help='folder of .sh3f libraries, see scripts/fetch_furniture.sh'
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(options.seed, options.seed + options.scenes)
    blocks = [
        list(seeds[i : i + SCENES_PER_SHARD]) for i in range(0, len(seeds), SCENES_PER_SHARD)
    ]
    jobs = [(options.out / f'rooms_{block[0]:08d}.npz', block) for block in blocks]
    jobs = [job for job in jobs if not job[0].exists()]
    if options.furniture is not None:
        try:
            models = load_models(  # once, before all workers want it
                options.furniture,
                report=lambda count: _say(f'\r{count} models read, which is done only once '),
            )
        except InputError as error:
            parser.error(str(error))
        out = ', '.join(f'{count} {reason}' for reason, count in models.skipped.items())
        _say(f'\r{len(models.models)} models of furniture; left out: {out or "none"}\n')
    began, images = time.monotonic(), 0
    # A fresh interpreter each: Open3D's threads do not survive a fork.
    context = multiprocessing.get_context('spawn')
    with context.Pool(options.processes, _start_worker, (options.furniture,)) as pool:
        for done, count in enumerate(pool.imap_unordered(_work, jobs), 1):
            images += count
            rate = images / (time.monotonic() - began)
            _say(f'\r{done} of {len(jobs)} shards, {images} images, {rate:.1f} images/s ')
    _say('\n')
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


if __name__ == '__main__':
    sys.exit(main())
