"""Pairs of images of one scene from two known poses: photographs, and simulated rooms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from sharp_ros import se3
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.errors import ConfigError
from sharp_ros.synthetic import Room

BASELINES = (0.1, 0.3, 0.5)  # metres to the side, in simulated rooms
_CLEARANCE = 0.2  # metres a simulated camera keeps from surfaces


@dataclass(frozen=True)
class ViewPair:
    """An image with its depth, and what a second camera saw of the same scene.

    Attributes:
        name: for people, and as file name.
        baseline: distance between the cameras, metres.
        image: [H, W, 3] uint8 RGB.
        intrinsics: of the image.
        depth: [H, W] float32 z-depth of the image in metres; not positive or not finite: unknown.
        target: [H, W, 3] uint8 RGB, what the second camera saw.
        target_intrinsics: of the second camera.
        T_target_source: [4, 4] from the optical frame of the image to that of the second camera.
        target_depth: [H, W] true z-depth of `target` in metres, or None.
    """

    name: str
    baseline: float
    image: np.ndarray
    intrinsics: Intrinsics
    depth: np.ndarray
    target: np.ndarray
    target_intrinsics: Intrinsics
    T_target_source: np.ndarray
    target_depth: np.ndarray | None = None


def view_pairs(source: str, max_frames: int | None = None) -> Iterable[ViewPair]:
    """Pairs of `motorcycle` or `synthetic`, the latter from at most `max_frames` first images.

    Raises:
        ConfigError: for other sources, and if scikit-image is missing.
    """
    if source == 'motorcycle':
        return [motorcycle_pair()]
    if source == 'synthetic':
        return room_pairs(max_frames)
    raise ConfigError(
        f'views need an image from a second, known pose, which {source} does not have; give '
        'motorcycle or synthetic'
    )


def room_frames(
    seed: int, count: int = 64, size: tuple[int, int] = (320, 240), hfov: float = 1.2
) -> Iterator[Frame]:
    """Images along the drive through a simulated room, with exact poses and depth.

    Args:
        seed: of the room.
        count: images of one round.
        size: (width, height) of the images, pixels.
        hfov: horizontal field of view, radians.
    """
    room, intrinsics = Room(seed), Intrinsics.from_hfov(hfov, *size)
    for t, T in room.trajectory(room.loop_duration, count / room.loop_duration):
        image, depth = room.render(intrinsics, T)
        yield Frame(image, intrinsics, round(t * 1e9), 'camera', T, 'world', depth)


def motorcycle_pair() -> ViewPair:
    """Both photographs of Middlebury's motorcycle (Scharstein et al., 2014).

    scikit-image carries them at quarter size, together with the focal length, principal point,
    baseline, and offset of the right principal point, so that
    depth = focal * baseline / (disparity + offset).

    Raises:
        ConfigError: if scikit-image is not installed.
    """
    try:
        from skimage.data import stereo_motorcycle
    except ImportError as error:
        raise ConfigError(
            'motorcycle comes with scikit-image; pip install scikit-image'
        ) from error
    focal, centre, baseline, offset = 994.978, (311.193, 254.877), 0.193001, 31.086
    left, right, disparity = stereo_motorcycle()
    intrinsics = Intrinsics(focal, focal, *centre, left.shape[1], left.shape[0])
    return ViewPair(
        name='motorcycle',
        baseline=baseline,
        image=np.ascontiguousarray(left),
        intrinsics=intrinsics,
        depth=(focal * baseline / (disparity + offset)).astype(np.float32),  # NaN stays NaN
        target=np.ascontiguousarray(right),
        target_intrinsics=replace(intrinsics, cx=centre[0] + offset),
        T_target_source=se3.transform(np.eye(3), np.array([-baseline, 0, 0])),
    )


def room_pairs(
    max_frames: int | None = None,
    *,
    rooms: int = 5,
    poses: int = 4,
    size: tuple[int, int] = (640, 480),
    hfov: float = 1.2,
) -> Iterator[ViewPair]:
    """Images of simulated rooms, each with three views from the side, left and right in turn.

    Views from inside of furniture, or too close to see anything of it, are left out.

    Args:
        max_frames: images to stop after.
        rooms: how many, seeds 0, 1, ...
        poses: images of each room, spread over the drive.
        size: (width, height) of the images, pixels.
        hfov: horizontal field of view, radians.
    """
    intrinsics = Intrinsics.from_hfov(hfov, *size)
    visits = (
        (seed, room, pose)
        for seed in range(rooms)
        for room in (Room(seed),)
        for pose in range(poses)
    )
    for index, (seed, room, pose) in enumerate(islice(visits, max_frames)):
        T_world_source = room.pose(room.loop_duration * pose / poses)
        image, depth = room.render(intrinsics, T_world_source)
        for i, baseline in enumerate(BASELINES):
            side = baseline if (index + i) % 2 == 0 else -baseline
            T_source_target = se3.transform(np.eye(3), np.array([side, 0, 0]))
            T_world_target = T_world_source @ T_source_target
            eye = T_world_target[None, :3, 3]
            if room.occupied(eye)[0] or room.distance(eye)[0] < _CLEARANCE:
                continue
            target, target_depth = room.render(intrinsics, T_world_target)
            yield ViewPair(
                name=f'room{seed}_pose{pose}_{side:+.1f}m',
                baseline=baseline,
                image=image,
                intrinsics=intrinsics,
                depth=depth,
                target=target,
                target_intrinsics=intrinsics,
                T_target_source=se3.inverse(T_source_target),
                target_depth=target_depth,
            )
