"""What visual odometry remembers, and how it is saved with a map and checked when taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.mapping.stored import bad_map, stored_array, stored_poses
from sharp_ros.tracks import shrunk

WOBBLE_FRAMES = 30  # over which the variance of the depth's scale is averaged


@dataclass
class Keyframe:
    """An image, where it was taken, and features with a Gaussian over inverse depth.

    Attributes:
        stamp_ns: acquisition time, nanoseconds.
        gray: [H, W] uint8.
        T_odom_camera: [4, 4] pose.
        covariance: [7, 7] as in `Motion`, and of the log of the structure's scale.
        px: [N, 2] float32 places of the features.
        rho: [N] their inverse depth, 1/m.
        variance: [N] of rho.
        orb: points [M, 3] in its camera, metres, and descriptors [M, 32] uint8.
    """

    stamp_ns: int
    gray: np.ndarray
    T_odom_camera: np.ndarray
    covariance: np.ndarray
    px: np.ndarray
    rho: np.ndarray
    variance: np.ndarray
    orb: tuple[np.ndarray, np.ndarray]


def state_of(
    keyframes: Sequence[Keyframe], camera: Intrinsics | None, wobble: tuple[float, int]
) -> dict[str, np.ndarray]:
    """Keyframes as arrays, copied; `keyframes_from` takes them back.

    Args:
        keyframes: that are remembered.
        camera: of the images as given, None before the first.
        wobble: variance of the log of the depth's scale, and of how many frames.
    """
    state: dict[str, np.ndarray] = {
        'stamp_ns': np.array([key.stamp_ns for key in keyframes], np.int64)
    }
    if not keyframes or camera is None:
        return state
    size = [camera.width, camera.height]
    state['camera'] = np.array([*camera.parameters, *size], np.float64)
    state['wobble'] = np.array(wobble, np.float64)
    for name in ('gray', 'T_odom_camera', 'covariance'):
        state[name] = np.stack([getattr(key, name) for key in keyframes])
    for name in ('px', 'rho', 'variance'):
        state[name] = np.concatenate([getattr(key, name) for key in keyframes])
    for name, part in zip(('orb_points', 'orb_descriptors'), (0, 1), strict=True):
        state[name] = np.concatenate([key.orb[part] for key in keyframes])
    state['features'] = np.array([len(key.px) for key in keyframes], np.int64)
    state['orb'] = np.array([len(key.orb[1]) for key in keyframes], np.int64)
    return state


def keyframes_from(
    state: Mapping[str, np.ndarray], stamps: np.ndarray
) -> tuple[Intrinsics, np.ndarray, list[Keyframe]]:
    """Camera, wobble [2] and keyframes of a state, checked.

    Args:
        state: as `state_of` gave it, or as it came from a file.
        stamps: [N] int64, those in it.

    Raises:
        InputError: `bad_map` if something is damaged.
    """
    n = len(stamps)
    fx, fy, cx, cy, width, height = stored_array(state, 'camera', np.float64, (6,)).tolist()
    try:
        given = Intrinsics(fx, fy, cx, cy, int(width), int(height))
    except InputError as error:
        raise bad_map(f'the camera of its keyframes is none: {error}') from error
    small = shrunk(given)
    wobble = stored_array(state, 'wobble', np.float64, (2,))
    gray = stored_array(state, 'gray', np.uint8, (n, small.height, small.width))
    poses = stored_poses(state, 'T_odom_camera', n)
    covariance = stored_array(state, 'covariance', np.float64, (n, 7, 7))
    px = stored_array(state, 'px', np.float32, (None, 2))
    rho, variance = (
        stored_array(state, name, np.float64, (len(px),)) for name in ('rho', 'variance')
    )
    points = stored_array(state, 'orb_points', np.float64, (None, 3))
    descriptors = stored_array(state, 'orb_descriptors', np.uint8, (len(points), 32))
    if not ((rho > 0).all() and (variance > 0).all() and wobble[0] > 0):
        raise bad_map('the depth of its keyframes is not positive; save the map anew')
    variances = np.diagonal(covariance, axis1=1, axis2=2)
    if (variances < 0).any() or not 1 <= wobble[1] <= WOBBLE_FRAMES:
        raise bad_map('its odometry is not in a state it can be in; save the map anew')
    counts = stored_array(state, 'features', np.int64, (n,))
    features = zip(*(_split(a, counts) for a in (px, rho, variance)), strict=True)
    counts = stored_array(state, 'orb', np.int64, (n,))
    orb = zip(*(_split(a, counts) for a in (points, descriptors)), strict=True)
    parts = zip(stamps.tolist(), gray, poses, covariance, features, orb, strict=True)
    keyframes = [
        Keyframe(stamp_ns, image, pose, spread, px, rho, variance, orb)
        for stamp_ns, image, pose, spread, (px, rho, variance), orb in parts
    ]
    return given, wobble, keyframes


def _split(array: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:  # [M, ...], [N]
    """Rows of each keyframe, of which it has `counts`."""
    if counts.min() < 0 or counts.max() > len(array) or counts.sum() != len(array):
        raise bad_map('its keyframes do not have the features they claim; save the map anew')
    return np.split(array, np.cumsum(counts)[:-1])
