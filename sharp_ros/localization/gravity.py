"""Which way is up, and how far below is the floor, from one depth image of an indoor scene.

Where an IMU says which way is up, only the floor is looked for.
"""

from __future__ import annotations

import numpy as np

from sharp_ros.camera import Intrinsics, unproject
from sharp_ros.se3 import transform

_COLUMNS = 80  # of blocks of pixels whose depth is averaged, else its noise tilts every normal
_CONES = (50.0, 25.0, 10.0)  # degrees around the estimate within which normals count, in turn
_MIN_NORMALS = 50
# Of a surface that is told to be a floor by the direction that is said to be up: degrees from it,
# metres below the camera, share of all that is seen, metres about its height.
_LEVEL, _BELOW, _LEVEL_SHARE, _FLATNESS = 8.0, 0.2, 0.1, 0.06
_USUAL = 2  # so many times as likely is a camera that is held upright
_FLOOR_PERCENTILE = 2.0  # heights below this are taken for noise


def level_from_depth(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray | None:
    """Pose of a camera in a level frame: z up, origin on the floor below, x ahead.

    Floors and table tops share one normal, and a camera is rarely tilted by more than 50 degrees:
    the mean normal in a cone around the image's up direction is narrowed down three times. The
    lowest surface seen is taken for the floor.

    Args:
        depth: [H, W] z-depth, metres; 0 and non-finite mean no measurement.
        intrinsics: of that image.

    Returns:
        `T_level_camera` [4, 4], or None if too few horizontal surfaces are in sight.
    """
    points = block_points(depth, intrinsics, _COLUMNS)
    normals, _ = _normals(points)
    up = np.array([0.0, -1.0, 0.0])
    for cone in _CONES:
        near = normals[normals @ up > np.cos(np.radians(cone))]
        if len(near) < _MIN_NORMALS:
            return None
        up = np.median(near, 0)  # a mean would be drawn aside by slanted things
        up /= np.linalg.norm(up)
    return _level(points, up)


def is_floor_below(depth: np.ndarray, intrinsics: Intrinsics, up: np.ndarray) -> bool:
    """Whether a level surface is seen below the camera, if `up` [3] in its optical frame is up.

    However the camera is held: a floor seen upside down, from the side or from straight above
    counts. Where `up` is some other direction a wall may lie "below"; so a camera that is held
    upright over a floor at least half as large is believed instead.

    Args:
        depth: [H, W] z-depth, metres; 0 and non-finite mean no measurement.
        intrinsics: of that image.
        up: unit vector.
    """
    normals, places = _normals(block_points(depth, intrinsics, _COLUMNS))
    found = _largest_level(normals, places, up)
    if found < max(_MIN_NORMALS, _LEVEL_SHARE * len(normals)):
        return False
    T_level_camera = level_from_depth(depth, intrinsics)
    upright = None if T_level_camera is None else T_level_camera[2, :3]
    return upright is None or found > _USUAL * _largest_level(normals, places, upright)


def _largest_level(normals: np.ndarray, places: np.ndarray, up: np.ndarray) -> int:
    """How many blocks of what faces `up` [3] below the camera lie at one height.

    None, if that is not most of them.
    """
    heights = places @ up
    level = (normals @ up > np.cos(np.radians(_LEVEL))) & (heights < -_BELOW)
    if not level.any():
        return 0
    flat = np.abs(heights[level] - np.median(heights[level])) < _FLATNESS
    return int(np.count_nonzero(level)) if flat.mean() > 0.5 else 0


def level_from_up(up: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """As `level_from_depth`, of a camera that is known to have `up` [3] in its optical frame.

    Without any depth the camera itself is the origin.
    """
    return _level(block_points(depth, intrinsics, _COLUMNS), up)


def levelled(T_level_camera: np.ndarray, up: np.ndarray) -> np.ndarray:  # [4, 4], [3] -> [4, 4]
    """A pose whose frame is turned about its origin, as little as may be, so that z is up.

    Args:
        T_level_camera: of a camera in a frame that is nearly level.
        up: [3] unit vector in the optical frame.
    """
    tilted = T_level_camera[:3, :3] @ up
    x, y, z = np.cross(tilted, [0.0, 0.0, 1.0])
    cross, cosine = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), float(tilted[2])
    if cosine < 1e-9 - 1:  # upside down: about any level axis
        turn = np.diag([1.0, -1.0, -1.0])
    else:
        turn = np.eye(3) + cross + cross @ cross / (1 + cosine)  # Rodrigues
    return transform(turn, np.zeros(3)) @ T_level_camera


def _level(points: np.ndarray, up: np.ndarray) -> np.ndarray:  # [h, w, 3], [3] -> [4, 4]
    """Level frame with z along `up`, x ahead, and its origin on the lowest surface."""
    heights = points.reshape(-1, 3) @ up
    heights = heights[np.isfinite(heights)]
    floor = np.percentile(heights, _FLOOR_PERCENTILE) if len(heights) else 0.0
    return level_pose(up, -float(floor))


def level_pose(up: np.ndarray, height: float) -> np.ndarray:  # [3] -> [4, 4]
    """Pose of a camera in a level frame: z up, origin on the floor below, x ahead.

    Args:
        up: of unit length, in the optical frame.
        height: of the camera over the floor, metres.
    """
    ahead = np.array([0.0, 0.0, 1.0]) - up[2] * up
    if np.linalg.norm(ahead) < 1e-3:  # straight down or up: ahead is the top of the image
        ahead = np.array([0.0, -1.0, 0.0]) + up[1] * up
    ahead /= np.linalg.norm(ahead)
    return transform(np.stack([ahead, np.cross(up, ahead), up]), np.array([0.0, 0.0, height]))


def _normals(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # [h, w, 3] -> 2 x [N, 3]
    """Unit normals towards the camera, and where they are, of all blocks that have neighbours."""
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normals = np.cross(across, down)  # x right, y down: across x down points away from the camera
    normals = -normals.reshape(-1, 3)
    length = np.linalg.norm(normals, axis=1)
    with np.errstate(invalid='ignore'):
        usable = np.isfinite(length) & (length > 0)
    places = points[1:-1, 1:-1].reshape(-1, 3)
    usable &= np.isfinite(places).all(1)
    return normals[usable] / length[usable, None], places[usable]


def block_points(
    depth: np.ndarray, intrinsics: Intrinsics, columns: int
) -> np.ndarray:  # [H, W] -> [h, w, 3]
    """Points of square blocks of pixels; NaN for those of which most have no depth.

    Args:
        depth: z-depth, metres; 0 and non-finite mean no measurement.
        intrinsics: of that image.
        columns: of blocks, at least.

    Returns:
        Metres, in the optical frame; inverse depth is averaged.
    """
    side = max(1, intrinsics.width // columns)
    columns, rows = intrinsics.width // side, intrinsics.height // side
    window = intrinsics.cropped(0, 0, columns * side, rows * side)
    with np.errstate(divide='ignore', invalid='ignore'):
        inverse = 1 / depth[: window.height, : window.width]
        known = (inverse > 0) & (inverse < np.inf)
        blocks = (rows, side, columns, side)
        count = known.reshape(blocks).sum((1, 3))
        mean = np.where(known, inverse, 0).reshape(blocks).sum((1, 3)) / count
        pooled = np.where(2 * count > side * side, 1 / mean, np.nan)
    return unproject(pooled, window.resized(columns, rows)).astype(np.float64)
