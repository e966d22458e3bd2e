"""Which way is up in the world of recorded poses: as told, as the camera is held, as it is seen.

Formats such as TUM's do not say it: z is up where a motion capture system gave the poses, and some
axis of the first camera where odometry did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.localization.gravity import is_floor_below, level_pose, levelled
from sharp_ros.localization.level import as_it_moves, LevelEstimator
from sharp_ros.se3 import angle, inverse

AXES = {
    'z': (0.0, 0.0, 1.0),
    '-z': (0.0, 0.0, -1.0),
    'y': (0.0, 1.0, 0.0),
    '-y': (0.0, -1.0, 0.0),
    'x': (1.0, 0.0, 0.0),
    '-x': (-1.0, 0.0, 0.0),
}
SAMPLES = 24  # of a recording, that tell
_ASKED = 3  # of these, whether they deny what the poses say
_UPRIGHT = math.cos(math.radians(60))  # between the top of the image and what is up
_MOSTLY = 0.8  # share of the images that are upright if the camera is
_SAME = math.cos(math.radians(10))  # of the floor that is seen and an axis
_USUALLY_Z = 3.0  # logarithm of odds; more than an image that is upright says for an axis
_FIRST = math.radians(3)  # by which the first camera is turned in a world that is that camera
_SAID_STD = 0.01  # radians, of what the user says
_CAMERA_HEIGHT = 1.2  # metres over a floor that nothing shows


View = tuple[np.ndarray, Intrinsics]  # depth [H, W] in metres


@dataclass(frozen=True)
class WorldUp:
    """`T_level_world` [4, 4], to a world with z up, and what of it is a guess; empty if nothing.

    The floor is at 0 there, unless z is up in the recorded world, which then stays as it is.
    """

    T_level_world: np.ndarray
    doubt: str = ''

    @property
    def is_recorded(self) -> bool:
        """Whether that is the world of the recording."""
        return bool((self.T_level_world == np.eye(4)).all())


def find_up(
    poses: np.ndarray,  # [N, 4, 4]
    view: Callable[[int], View | None],
    said: str | None = None,
) -> WorldUp:
    """What is up in the world of some poses.

    Args:
        poses: `T_world_camera` from all over the recording, at least one, the first image first.
        view: gives what a camera sees by its index; None if it has no depth. Not asked where the
            poses tell enough.
        said: key of `AXES`, if the user says it.
    """
    if said == 'z' or (said is None and _is_upright(poses, view)):
        return WorldUp(np.eye(4))
    estimator = LevelEstimator()
    for i, pose in enumerate(poses):
        seen = view(i)
        if seen is not None:
            estimator.observe(*seen, pose)
        if said is not None:
            estimator.observe_up(pose[:3, :3].T @ AXES[said], _SAID_STD, pose)
    level = estimator.level
    floor = level.floor if level.extent else None
    if said is not None:
        return WorldUp(_turned(poses[0], np.array(AXES[said]), floor))
    of_camera = float(angle(poses[0])) < _FIRST  # whose z is forward
    if floor is None:
        name, axis = _as_it_moves(poses, 0.0 if of_camera else _USUALLY_Z)
        doubt = _DOUBT.format(f'{name} was taken by how the camera moves', name)
        return WorldUp(np.eye(4) if name == 'z' else _turned(poses[0], axis, None), doubt)
    if level.up[2] > _SAME:
        return WorldUp(np.eye(4))
    if not level.doubt or level.is_rough:
        return WorldUp(_turned(poses[0], level.up, floor))
    # A ceiling is like a floor, to a camera that looks straight at it.
    if level.up[2] < -_SAME and not of_camera:
        return WorldUp(np.eye(4), _DOUBT.format('z was taken, as usual', 'z'))
    said = min(AXES, key=lambda name: -float(level.up @ AXES[name]))
    seen = 'the largest plane that is seen was taken for the floor'
    return WorldUp(_turned(poses[0], level.up, floor), _DOUBT.format(seen, said))


def _is_upright(poses: np.ndarray, view: Callable[[int], View | None]) -> bool:
    """Whether the camera is held upright where z is up, and nothing that it sees denies it."""
    if (poses[:, 2, 1] <= -_UPRIGHT).mean() <= _MOSTLY:  # the image's y is down
        return False
    asked = range(0, len(poses), max(1, len(poses) // _ASKED))
    below = above = 0
    for i in asked:
        seen = view(i)
        if seen is not None:
            below += is_floor_below(*seen, poses[i, 2, :3])
            above += is_floor_below(*seen, -poses[i, 2, :3])
    return below >= above


def turned_up(said: str) -> np.ndarray:  # -> [4, 4]
    """`T_level_world` of a key of `AXES`, with the same origin."""
    return levelled(np.eye(4), np.array(AXES[said]))


_DOUBT = (
    'the recording does not tell for sure which way is up in the world of its poses; {}: say it '
    'with --up, such as --up={}'
)


def _as_it_moves(poses: np.ndarray, for_z: float) -> tuple[str, np.ndarray]:  # [N, 4, 4]
    """The axis along which a camera does not move, and about which it turns, or is upright."""
    scores = {
        name: as_it_moves(np.array(axis), poses) + for_z * (name == 'z')
        for name, axis in AXES.items()
    }
    best = max(scores, key=lambda name: scores[name])
    return best, np.array(AXES[best])


def _turned(first: np.ndarray, up: np.ndarray, floor: float | None) -> np.ndarray:  # [4, 4], [3]
    """`T_level_world` with its origin on the floor below the first camera."""
    height = _CAMERA_HEIGHT if floor is None else float(first[:3, 3] @ up) - floor
    return level_pose(first[:3, :3].T @ up, height) @ inverse(first)
