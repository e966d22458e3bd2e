"""Viewpoints of training images: close to a table, shelf or tote, or anywhere in a room."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sharp_ros.procedural.furnishing import Room
from sharp_ros.procedural.raycast import camera_rays, cast
from sharp_ros.procedural.recipes import Recipe
from sharp_ros.procedural.scene import Scene, Target


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


def draw_camera(
    scene: Scene, rooms: list[Room], recipe: Recipe, rng: np.random.Generator, close: bool | None
) -> Camera | None:
    """A viewpoint; None if the place drawn is a bad one.

    Args:
        scene: to be seen.
        rooms: places in it where a camera may be.
        recipe: of the images.
        rng: source of every random choice.
        close: whether it is close to something; None: that is drawn, too.
    """
    roll = math.radians(rng.normal(0, 3) if rng.uniform() < 0.75 else rng.uniform(-25, 25))
    if scene.targets and (is_close(scene, recipe, rng) if close is None else close):
        targets = _wanted(scene.targets, recipe.shelves, rng)
        return _close_camera(targets[rng.integers(len(targets))], roll, recipe, rng)
    areas = np.array([(r.bounds[2] - r.bounds[0]) * (r.bounds[3] - r.bounds[1]) for r in rooms])
    room = rooms[rng.choice(len(areas), p=areas**0.6 / np.sum(areas**0.6))]
    x0, y0, x1, y1 = room.bounds
    if min(x1 - x0, y1 - y0) < 0.6:
        return None
    low, high = recipe.heights[rng.choice(3, p=recipe.height_shares)]
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
    pitch = recipe.pitch(position[2], rng)
    return Camera(yaw, pitch, roll, position)


def is_close(scene: Scene, recipe: Recipe, rng: np.random.Generator) -> bool:
    """Whether the next view is a close-up."""
    return bool(rng.uniform() < recipe.close[scene.sky is not None])


def _wanted(
    targets: list[Target], shelves: float | None, rng: np.random.Generator
) -> list[Target]:
    """Those among which one is chosen, so that this share are shelves and totes."""
    if shelves is None:
        return targets
    wanted = rng.uniform() < shelves
    return [t for t in targets if (t.yaw is not None or t.tote) == wanted] or targets


def _close_camera(target: Target, roll: float, recipe: Recipe, rng: np.random.Generator) -> Camera:
    """A viewpoint as of a gripper or of a person at a counter."""
    angle = rng.uniform(0, 6.28)
    if target.yaw is not None:
        angle = target.yaw - math.pi / 2 + rng.uniform(-1.1, 1.1)
    reach = math.exp(rng.uniform(*np.log(recipe.reach)))
    down = math.radians(rng.uniform(*recipe.down))
    x, y, height = target.position
    away = math.cos(down) * reach
    z = float(np.clip(height + math.sin(down) * reach, 0.15, 1.9))
    position = np.array([x + math.cos(angle) * away, y + math.sin(angle) * away, z])
    # The target is not always in the middle of the image.
    yaw = angle + math.pi + rng.normal(0, 0.2)
    pitch = math.atan2(height - z, away) + rng.normal(0.03, 0.15)
    return Camera(yaw, pitch, roll, position)


def worth_rendering(
    scene: Scene,
    camera: Camera,
    focal: float,
    size: tuple[int, int],
    recipe: Recipe,
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
    if np.percentile(depth, 5) < recipe.nearest[0] or np.median(depth) < recipe.nearest[1]:
        return False
    from_inside = (hits['primitive_normals'] * rays).sum(1)[seen] > 0
    if from_inside.mean() > 0.15:  # in a piece of furniture or a wall; leaves have two sides
        return False
    objects = len(np.unique(scene.part[hits['primitive_ids'][seen]]))
    return objects >= 4 or rng.uniform() >= 1 - recipe.bare


def second_camera(
    scene: Scene, camera: Camera, recipe: Recipe, rng: np.random.Generator
) -> Camera | None:
    """A viewpoint a step away, in almost the same direction; None if something is there."""
    step = rng.normal(0, 1, 3)
    step[2] *= 0.4
    step = step / np.linalg.norm(step) * rng.uniform(*recipe.steps)
    if recipe.retry:  # near things would be out of sight after a long step
        axis = camera.pose()[None, :3, 2]
        step *= min(1.0, float(cast(scene, camera.position[None], axis)['t_hit'][0]))
    position = camera.position + step
    reach = cast(scene, camera.position[None], step[None])['t_hit'][0]
    if reach < 1.3 or position[2] < min(0.12, recipe.heights[0][0]):
        return None
    yaw, pitch = camera.yaw + rng.normal(0, 0.06), camera.pitch + rng.normal(0, 0.04)
    return Camera(yaw, pitch, camera.roll + math.radians(rng.normal(0, 1)), position)
