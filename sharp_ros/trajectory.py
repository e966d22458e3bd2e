"""Paths of a camera around a scene: SHARP's own, an orbit, a dolly, or keyframes from a file.

The scene lies in the optical frame of the photo it was made from, called `world` here: +z forward,
+x right, +y down, metres. How far a path goes follows from the depth of the scene and the field of
view of the photo, so that it shows as much parallax in a closet as in a hall.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import json
import math
import os
from pathlib import Path

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.gaussians import Gaussians, quantiles
from sharp_ros.se3 import interpolate, is_pose, look_at

STEPS = 60  # poses of a path unless more or fewer are asked for
MAX_STEPS = 100_000
NEAR = 0.01  # metres, of the near plane on such a path; SHARP's renderer has the same
# SHARP's: largest shift of what is near, in shares of the image diagonal and of its depth; a
# scene nearer than the focus is not looked at cross-eyed.
_MAX_DISPARITY, _MAX_ZOOM, _MIN_FOCUS = 0.08, 0.15, 2.0
# One photo shows little of what lies behind its objects and has only so many Gaussians on them: as
# far as gaps and grain stay small.
_ORBIT_AZIMUTH, _ORBIT_ELEVATION = math.radians(3), math.radians(1.5)
_LINE_SHARE = 0.3
_UP = np.array([0.0, -1.0, 0.0])


@dataclass(frozen=True)
class Reach:
    """How far a camera may move in a scene, metres.

    Attributes:
        sideways: as far as SHARP goes to the left, right, up and down.
        forwards: as far as SHARP goes ahead.
        near: depth of the nearest part, the 0.1 % quantile of all depths in front of the camera.
        focus: depth of the foreground, their 10 % quantile.
    """

    sideways: float
    forwards: float
    near: float
    focus: float


def measure(gaussians: Gaussians, intrinsics: Intrinsics) -> Reach:
    """How far a camera may move in a scene made from one photo.

    Args:
        gaussians: in the optical frame of the photo.
        intrinsics: of the photo.

    Raises:
        InputError: `empty_scene` if there is nothing in front of the camera.
    """
    depth = gaussians.means[:, 2].detach().cpu().float()
    depth = depth[(depth > 0) & depth.isfinite()]
    if not len(depth):
        raise InputError(
            f'none of {len(gaussians)} Gaussians lies in front of the camera (z > 0), so no path '
            'can be laid around them; scenes that were not made from a photo need keyframes of '
            'their own, a .json file',
            'empty_scene',
        )

    near, focus = map(float, quantiles(depth.numpy(), (0.001, 0.1)))
    diagonal = math.hypot(intrinsics.width / intrinsics.fx, intrinsics.height / intrinsics.fy)
    return Reach(_MAX_DISPARITY * diagonal * near, _MAX_ZOOM * near, near, focus)


def _swipe(reach: Reach, steps: int) -> np.ndarray:
    x = np.linspace(-reach.sideways, reach.sideways, steps)
    return _towards(_sharp_target(reach), x, 0 * x, 0 * x)


def _shake(reach: Reach, steps: int) -> np.ndarray:
    across, upright = steps // 2, steps - steps // 2
    x, y = np.zeros(steps), np.zeros(steps)
    x[:across] = reach.sideways * np.sin(_turn(across))
    y[across:] = reach.sideways * np.sin(_turn(upright))
    return _towards(_sharp_target(reach), x, y, 0 * x)


def _rotate(reach: Reach, steps: int) -> np.ndarray:
    turn = _turn(steps)
    x, y = reach.sideways * np.sin(turn), reach.sideways * np.cos(turn)
    return _towards(_sharp_target(reach), x, y, 0 * x)


def _rotate_forward(reach: Reach, steps: int) -> np.ndarray:
    turn = _turn(steps)
    z = reach.forwards * (1 - np.cos(turn)) / 2
    return _towards(_sharp_target(reach), reach.sideways * np.sin(turn), 0 * z, z)


def _orbit(reach: Reach, steps: int) -> np.ndarray:
    turn = _turn(steps)
    azimuth = _ORBIT_AZIMUTH * np.sin(turn)
    elevation = _ORBIT_ELEVATION * (1 - np.cos(turn)) / 2
    x, y = np.sin(azimuth) * np.cos(elevation), -np.sin(elevation)
    z = 1 - np.cos(azimuth) * np.cos(elevation)
    return _towards(reach.focus, reach.focus * x, reach.focus * y, reach.focus * z)


def _line(reach: Reach, steps: int) -> np.ndarray:
    path = np.tile(np.eye(4), (steps, 1, 1))
    path[:, 2, 3] = _LINE_SHARE * reach.near * (1 - np.cos(_turn(steps))) / 2
    return path


# By name. The first four are SHARP's, which all look at a point at least 2 m ahead.
TRAJECTORIES: dict[str, Callable[[Reach, int], np.ndarray]] = {
    'swipe': _swipe,  # from left to right
    'shake': _shake,  # left and right, then up and down
    'rotate': _rotate,  # a circle that faces the scene
    'rotate_forward': _rotate_forward,  # left and right while going ahead and back; SHARP's own
    'orbit': _orbit,  # a loop on a sphere around the foreground, from the photo's own viewpoint
    'line': _line,  # straight ahead, 0.3 of the way to the nearest part, and back
}


def camera_path(
    trajectory: str, gaussians: Gaussians, intrinsics: Intrinsics, steps: int | None = None
) -> np.ndarray:  # -> [steps, 4, 4]
    """Poses `T_world_camera` of a camera that moves through a scene.

    `swipe`, `shake`, `rotate` and `rotate_forward` are SHARP's. `orbit` looks at the foreground
    from a constant distance and returns to where it began, the photo's viewpoint, after 3 degrees
    to either side and 1.5 degrees upwards. `line` goes straight ahead, 0.3 of the way to what is
    nearest, and back.

    Args:
        trajectory: a name of `TRAJECTORIES`, or a file of keyframes (see `load_keyframes`).
        gaussians: in the optical frame of the photo they were made from.
        intrinsics: of that photo.
        steps: how many poses; None for 60, or for as many as the file says.

    Raises:
        ConfigError: if there is no such path or `steps` is out of range.
        InputError: if nothing lies in front of the camera, or the file cannot be used.
    """
    if steps is not None:
        _checked_steps(steps)
    if trajectory in TRAJECTORIES:
        return TRAJECTORIES[trajectory](measure(gaussians, intrinsics), steps or STEPS)
    check_trajectory(trajectory)
    return load_keyframes(trajectory, steps)


def check_trajectory(trajectory: str) -> None:
    """Raise `ConfigError` unless this is a name of `TRAJECTORIES` or could be a file."""
    if trajectory not in TRAJECTORIES and Path(trajectory).suffix.lower() != '.json':
        raise ConfigError(
            f'unknown trajectory {trajectory!r}; choose {", ".join(TRAJECTORIES)} or a .json file '
            'of keyframes'
        )


def load_keyframes(
    path: str | os.PathLike[str], steps: int | None = None
) -> np.ndarray:  # -> [steps, 4, 4]
    """A path through keyframes, evenly: linear in position, slerp in rotation.

    The file holds a list of poses in the frame of the Gaussians, metres, as 4x4 matrices row by
    row, or as a position, a point to look at and, unless it is (0, -1, 0), what is up:

        {"steps": 90,
         "frames": [{"T_world_camera": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
                    {"eye": [0.2, -0.1, 0], "target": [0, 0, 3], "up": [0, -1, 0]}]}

    A path that is to loop names its first keyframe once more at the end.

    Args:
        path: of the file.
        steps: how many poses; None for what the file says, and where it says nothing for 60, or
            one per keyframe if these are more.

    Raises:
        ConfigError: if `steps` is out of range.
        InputError: `bad_trajectory` if the file cannot be read or is not as above.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise _bad(path, f'cannot be read: {error}') from error
    if not isinstance(content, dict) or not {'frames'} <= set(content) <= {'frames', 'steps'}:
        raise _bad(path, 'needs {"frames": [...]} and may say "steps", nothing else')
    frames = content['frames']
    if not isinstance(frames, list) or not frames:
        raise _bad(path, '"frames" must be a list of at least one keyframe')
    keys = [_keyframe(frame, path, i) for i, frame in enumerate(frames)]
    if steps is None:
        steps = content.get('steps', max(STEPS, len(keys)))
    try:
        count = _checked_steps(steps)
    except ConfigError as error:
        raise _bad(path, str(error)) from error
    places = np.linspace(0, len(keys) - 1, count)
    before = np.clip(np.floor(places).astype(int), 0, max(len(keys) - 2, 0))
    after = np.minimum(before + 1, len(keys) - 1)
    return np.stack(
        [
            interpolate(keys[a], keys[b], p - a)
            for a, b, p in zip(before, after, places, strict=True)
        ]
    )


def _keyframe(frame: object, path: str | os.PathLike[str], index: int) -> np.ndarray:
    name = f'keyframe {index}'
    fields = frame if isinstance(frame, dict) else {}

    def numbers(key: str, shape: tuple[int, ...]) -> np.ndarray:
        try:
            array = np.array(fields[key])
        except ValueError:  # rows of unequal length
            array = np.array(None)
        if array.shape != shape or array.dtype.kind not in 'iuf' or not np.isfinite(array).all():
            size = 'x'.join(map(str, shape))
            raise _bad(path, f'{name}: "{key}" must be {size} finite numbers, got {fields[key]}')
        return array.astype(np.float64)

    names = set(fields)
    if names == {'T_world_camera'}:
        T = numbers('T_world_camera', (4, 4))
        if not is_pose(T):
            raise _bad(
                path,
                f'{name}: "T_world_camera" must be rigid: a rotation without scale or mirroring, '
                'a translation in its last column, and 0 0 0 1 in its last row',
            )
        return T
    if {'eye', 'target'} <= names <= {'eye', 'target', 'up'}:
        up = numbers('up', (3,)) if 'up' in names else _UP
        try:
            return look_at(numbers('eye', (3,)), numbers('target', (3,)), up)
        except InputError as error:
            raise _bad(path, f'{name}: {error}') from error
    raise _bad(path, f'{name} needs "T_world_camera", or "eye" and "target" and perhaps "up"')


def _checked_steps(steps: object) -> int:
    if type(steps) is not int or not 1 <= steps <= MAX_STEPS:
        raise ConfigError(f'steps must be a whole number from 1 to {MAX_STEPS}, got {steps!r}')
    return steps


def _bad(path: str | os.PathLike[str], what: str) -> InputError:
    return InputError(f'trajectory {path}: {what}', 'bad_trajectory')


def _turn(steps: int) -> np.ndarray:  # -> [steps]
    """Angles of one turn, both ends included as in SHARP's paths."""
    return 2 * np.pi * np.linspace(0, 1, steps)


def _sharp_target(reach: Reach) -> float:
    return max(_MIN_FOCUS, reach.focus)


def _towards(depth: float, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Poses [n, 4, 4] at positions [n] each that look at a point straight ahead of the photo."""
    target = np.array([0.0, 0.0, depth])
    return np.stack([look_at(eye, target, _UP) for eye in np.stack([x, y, z], -1)])
