"""Detail at every scale: grain finer than the textures of a scene, print on its small things.

Without it a surface looks smooth as soon as it is nearer than its texture is fine, and a network
that learns from such images takes detail for distance (docs/models.md). So that the opposite is no
rule either, some surfaces have no grain, and some large ones nothing but their paint.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
import math

import cv2
import numpy as np

from sharp_ros.procedural.scene import Detail, Scene
from sharp_ros.procedural.texture_kernels import ONE
from sharp_ros.procedural.textures import mip_pyramid, PAINTERS, SIZE, Textures

GRAIN = {  # how many textures of a kind there are to be the grain of a surface
    'worn': 8,
    'concrete': 8,
    'fabric': 8,
    'carpet': 8,
    'granite': 6,
    'asphalt': 6,
    'terrazzo': 2,
    'wood': 4,
    'paving': 2,
}
PRINT = ('poster', 'poster', 'sign', 'photo', 'spines')
GRAIN_REPEAT = (0.08, 0.35)  # metres, of one repeat of the grain
GRAIN_STRENGTH = (0.8, 3.2)  # factor on its contrast
CONTRAST = 0.3  # standard deviation of the factors of a grain, before its strength
COARSEST = 6.0  # texels; what is blotchier is taken out of the grain, since it would repeat
SMOOTH = 0.15  # share of the surfaces without grain
PAINTED = 0.2  # share of the large ones that lose their texture, but for their mean colour
SMALL = 0.6  # metres, the longest side of what may be printed on
PRINT_REPEAT = (0.15, 1.0)  # of its longest side
PRINTED = 0.8  # share of the small things


@lru_cache(1)
def grain_mips() -> np.ndarray:  # -> [T, P, 3] uint8, see `Textures.mips`
    """Factors of linear colour times `ONE`, in textures of mean 1 at every place."""
    rng, factors = np.random.default_rng(0), []
    for kind, count in GRAIN.items():
        for _ in range(count):
            linear = np.clip(PAINTERS[kind](rng), 0, 1).astype(np.float32) ** 2.2 + 0.01
            around = np.tile(linear, (3, 3, 1))  # it repeats
            coarse = cv2.GaussianBlur(around, (0, 0), COARSEST)[SIZE : 2 * SIZE, SIZE : 2 * SIZE]
            finer = linear / coarse - 1
            finer = 1 + finer * (CONTRAST / finer.std())
            factors.append(np.clip(finer * ONE + 0.5, 0, 255).astype(np.uint8))
    return mip_pyramid(np.stack(factors))


def detailed(scene: Scene, textures: Textures, rng: np.random.Generator) -> Scene:
    """The same shapes and mean colours with grain on surfaces and print on small things."""
    count = len(textures.mips)
    key = scene.part.astype(np.int64) * count + scene.texture
    _, first, surface = np.unique(key, return_index=True, return_inverse=True)
    extent = _extents(scene)[first]  # of the part
    surfaces = len(first)
    shines = scene.emission[first] > 0
    chance = rng.uniform(size=surfaces)
    printed = (extent < SMALL) & (chance < PRINTED) & ~shines
    painted = (extent >= SMALL) & (chance < PAINTED) & ~shines
    texture, factor = scene.texture[first].copy(), np.ones(surfaces, np.float32)
    texture[printed] = _drawn(rng, textures, PRINT, int(printed.sum()))
    repeat = scene.texel[first] * SIZE  # metres
    wanted = extent * _log_uniform(rng, PRINT_REPEAT, surfaces)
    factor[printed] = np.clip(repeat / np.maximum(wanted, 1e-3), 0.01, 100)[printed]
    texture[painted] = _drawn(rng, textures, ('plain',), int(painted.sum()))
    repeat = repeat / factor
    tint = scene.tint.copy()
    brightness = rng.uniform(0.6, 1.05, surfaces).astype(np.float32)
    tint[printed[surface]] = brightness[surface[printed[surface]]][:, None]
    again = painted[surface]
    tint[again] = scene.mean_albedo[again] / textures.linear_means[texture[surface[again]]]
    strength = _log_uniform(rng, GRAIN_STRENGTH, surfaces)
    strength[(rng.uniform(size=surfaces) < SMOOTH) | shines] = 0
    grain = rng.integers(0, len(grain_mips()), surfaces).astype(np.int32)
    repeats = repeat / _log_uniform(rng, GRAIN_REPEAT, surfaces)
    texture = texture[surface].astype(np.int32)
    return replace(
        scene,
        uv=scene.uv * factor[surface][:, None, None],
        texture=texture,
        tint=tint,
        mean_albedo=tint * textures.linear_means[texture],
        texel=scene.texel / factor[surface],
        detail=Detail(
            grain_mips(),
            grain[surface],
            repeats[surface].astype(np.float32),
            strength[surface].astype(np.float32),
        ),
    )


def _log_uniform(
    rng: np.random.Generator, limits: tuple[float, float], count: int
) -> np.ndarray:  # -> [count]
    return np.exp(rng.uniform(math.log(limits[0]), math.log(limits[1]), count))


def _extents(scene: Scene) -> np.ndarray:  # -> [F]
    """Longest side, in metres, of the part that every triangle belongs to."""
    metres = scene.uv * (scene.texel * SIZE)[:, None, None]
    order = np.argsort(scene.part, kind='stable')
    starts = np.nonzero(np.diff(scene.part[order], prepend=-1))[0]
    low, high = metres.min(1)[order], metres.max(1)[order]
    side = np.maximum.reduceat(high, starts) - np.minimum.reduceat(low, starts)
    per_triangle = np.empty(len(order), np.float32)
    per_triangle[order] = np.repeat(side.max(1), np.diff(starts, append=len(order)))
    return per_triangle


def _drawn(
    rng: np.random.Generator,
    textures: Textures,
    kinds: tuple[str, ...],
    count: int,
) -> np.ndarray:  # -> [count]
    """Random textures of some kinds."""
    which = rng.integers(0, len(kinds), count)
    chosen = rng.uniform(size=count)
    found = np.empty(count, np.int64)
    for i, kind in enumerate(kinds):
        of_kind, mine = textures.of_kind[kind], which == i
        found[mine] = of_kind[(chosen[mine] * len(of_kind)).astype(int)]
    return found
