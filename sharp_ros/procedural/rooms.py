"""Generate training images: pairs of near views of rooms, streets and yards, with exact depth.

    python -m sharp_ros.procedural.rooms --out DIR --version V --scenes N --furniture FOLDER

Shards of up to 240 images hold `rgb` uint8 [N, H, W, 3], `d` and `d2` float16 [N, H, W] (metres of
the first and second surface; both inf where there is nothing but sky), `f` [N] (focal length in
pixels, principal point in the centre), `pose` [N, 4, 4] (`T_world_camera`; z is up and the floor
is z = 0) and `scene` [N] (seed); rows 2i and 2i + 1 are a pair. Existing shards are kept;
`manifest.json` beside them says of which version they are, and what else their images depend on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import math
import multiprocessing
import os
from pathlib import Path
import sys
import time
from typing import NamedTuple

import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.files import replacing, write_atomically
from sharp_ros.procedural.cameras import draw_camera, is_close, second_camera, worth_rendering
from sharp_ros.procedural.detail import detailed
from sharp_ros.procedural.furnishing import Room
from sharp_ros.procedural.layout import build_storey
from sharp_ros.procedural.meshes import load_models, with_models
from sharp_ros.procedural.outdoor import build_outdoors
from sharp_ros.procedural.raycast import render, Rendering
from sharp_ros.procedural.recipes import Recipe, RECIPES
from sharp_ros.procedural.scene import Scene
from sharp_ros.procedural.textures import make_textures, Textures

IMAGE_SIZE = (256, 192)  # width, height
SHARD_PAIRS = 120  # most pairs in a shard
VIEW_SEED = 10**6  # added to a scene's seed for its cameras and sampling noise


class SceneView(NamedTuple):
    """One training image, see the module's description of shards."""

    rgb: np.ndarray
    depth: np.ndarray
    second_depth: np.ndarray
    focal: np.float32
    T_world_camera: np.ndarray


def scene_views(
    seed: int,
    textures: Textures,
    pairs: int = 3,
    size: tuple[int, int] = IMAGE_SIZE,
    recipe: Recipe = RECIPES[3],
) -> list[SceneView]:
    """Up to `pairs` pairs of views of one scene; the same arguments give the same images.

    Args:
        seed: of the scene.
        textures: of its surfaces.
        pairs: fewer come back when most places show nothing but a wall.
        size: width and height of an image, pixels.
        recipe: of scene and cameras; that of version 3, by which later ones are judged, if not
            given.
    """
    scene, rooms = build_scene(seed, textures, recipe)
    rng = np.random.default_rng(VIEW_SEED + seed)
    views: list[SceneView] = []
    close = is_close(scene, recipe, rng) if recipe.retry else None
    for _ in range(recipe.tries * pairs):
        if len(views) >= 2 * pairs:
            break
        found = _pair(scene, rooms, textures, size, recipe, close, rng)
        if found and recipe.retry:
            close = is_close(scene, recipe, rng)
        views += found
    return views


def _pair(
    scene: Scene,
    rooms: list[Room],
    textures: Textures,
    size: tuple[int, int],
    recipe: Recipe,
    close: bool | None,
    rng: np.random.Generator,
) -> list[SceneView]:
    """Two views a little apart, or nothing if the place drawn is a bad one."""
    camera = draw_camera(scene, rooms, recipe, rng, close)
    if camera is None:
        return []
    focal = recipe.focal(size[0], rng)
    if not worth_rendering(scene, camera, focal, size, recipe, rng):
        return []
    second = second_camera(scene, camera, recipe, rng)
    if second is None:
        return []
    poses = camera.pose(), second.pose()
    renderings: list[Rendering] = []
    for pose in poses:
        rendering = render(scene, textures, pose, focal, size, rng, recipe.gather_rays)
        if rendering is None:
            return []
        renderings.append(rendering)
    if np.percentile(renderings[1].depth, 2) < recipe.pair_nearest:
        return []
    exposure = _metered(
        renderings[0].colour, recipe.brightness, rng
    )  # both views of a pair alike, for the first
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


def build_scene(
    seed: int, textures: Textures, recipe: Recipe = RECIPES[3]
) -> tuple[Scene, list[Room]]:
    """The scene a seed stands for, and the places in it where a camera may be."""
    rng = np.random.default_rng(seed)
    outdoors = rng.uniform() > 1 - recipe.outdoors
    if outdoors:
        scene, places = build_outdoors(rng, textures)
    else:
        scene, places = build_storey(rng, textures, recipe.totes, recipe.clutter)
    return (detailed(scene, textures, rng) if recipe.detail else scene), places


def _metered(
    colour: np.ndarray, brightness: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:  # -> [3]
    """Gains of an automatic camera: brightness within limits, white balance towards grey."""
    luminance = np.percentile(colour.mean(-1), rng.uniform(60, 95))
    key = rng.choice([rng.uniform(*brightness), math.exp(rng.uniform(-2.0, 0.4))], p=[0.7, 0.3])
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
    pairs: int = 3,
    size: tuple[int, int] = IMAGE_SIZE,
    recipe: Recipe = RECIPES[3],
) -> int:
    """Render scenes into one file, written as a whole; returns the number of images."""
    rows = [
        (view, seed) for seed in seeds for view in scene_views(seed, textures, pairs, size, recipe)
    ]
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


def _work(job: tuple[Path, list[int], int]) -> int:
    assert _textures is not None
    path, seeds, version = job
    recipe = RECIPES[version]
    return write_shard(path, seeds, _textures, recipe.pairs, IMAGE_SIZE, recipe)


def claim(folder: Path, version: int, furniture: Path | None) -> None:
    """Write the manifest of a folder of shards, or see that it is of the same images.

    Raises:
        InputError: if shards there are of another version, or with other furniture.
    """
    path = folder / 'manifest.json'
    libraries = sorted(file.name for file in furniture.glob('*.sh3f')) if furniture else []
    wanted = {'version': version, 'furniture': libraries, 'size': list(IMAGE_SIZE)}
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding='utf-8'))
        except (OSError, ValueError) as error:
            raise InputError(f'cannot read {path}: {error}') from error
    else:  # version 3 wrote none, and does not say with which furniture
        found = {**wanted, 'version': 3} if any(folder.glob('rooms_*.npz')) else wanted
    if found != wanted:
        raise InputError(f'{folder} holds images of {found}, not of {wanted}; use another folder')
    write_atomically(path, json.dumps(wanted) + '\n')


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--out', type=Path, required=True, help='folder for the shards')
    parser.add_argument('--seed', type=int, default=0, help='of the first scene')
    parser.add_argument(
        '--scenes', type=int, default=1360, help='12 images come of most, 6 in version 3'
    )
    parser.add_argument(
        '--version', type=int, default=4, choices=RECIPES, help='of the images, see recipes.py'
    )
    parser.add_argument('--processes', type=int, default=os.cpu_count() or 1, help='at once')
    parser.add_argument(
        '--furniture', type=Path, help='folder of .sh3f libraries, see scripts/fetch_furniture.sh'
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        claim(options.out, options.version, options.furniture)
    except InputError as error:
        parser.error(str(error))
    seeds = range(options.seed, options.seed + options.scenes)
    together = SHARD_PAIRS // RECIPES[options.version].pairs
    blocks = [list(seeds[i : i + together]) for i in range(0, len(seeds), together)]
    jobs = [
        (options.out / f'rooms_{block[0]:08d}.npz', block, options.version) for block in blocks
    ]
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
