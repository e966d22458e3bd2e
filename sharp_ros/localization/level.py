"""Which way is up, and how far below is the floor, from many depth images of a moving camera.

One image does not tell: a table, a counter or a wall looks like a floor. So every direction is a
hypothesis at first, and views from different places are collected as small pieces of surface.
What speaks for a direction being up:

- a plane faces it, and next to nothing lies below that plane: a table is refuted by the floor that
  is seen beside it, since the lowest level counts;
- the camera moves across it and turns about it: people and robots go along a floor, so a wall is
  refuted by a turn, and by going towards it;
- what lies between the planes at both ends faces it: things have tops, so a ceiling is no floor;
- the image was taken upright, which is a weak reason: cameras are mounted as they fit.

The floor is then the lowest plane, fitted to all its pieces. Its covariance is taken from how much
the views contradict each other (cluster-robust, Liang and Zeger 1986), since the depth of one view
is wrong as a whole; before there are several it is that of a direction and a height of which
nothing is known.

One module, since the reasons are weighed against each other: none is right by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import PoseUnavailableError
from sharp_ros.localization.gravity import block_points, level_pose
from sharp_ros.se3 import angle, inverse

# views
_COLUMNS = 40  # of blocks whose depth is averaged
_PIECES = 240  # of surface that are kept of a view
_MAX_RANGE = 6.0  # metres
_MOVED, _TURNED = 0.15, math.radians(7)  # metres, radians, from view to view
_VIEWS = 40  # that are kept; then every other one is dropped, and they are taken half as often
_SMOOTH = math.cos(math.radians(20))  # between the normals on either side of a piece
# planes
_FACING = math.cos(math.radians(12))  # of pieces that belong to a plane
_MODES, _MODE_SHARE = 6, 0.05  # directions that surface faces, and the least share of it
_SAME = math.cos(math.radians(15))  # of two directions that are one
_ROUGHLY = math.cos(math.radians(45))
_BIN = 0.05  # metres of height
_CELL = 0.2  # side of the squares by which the extent of a floor is measured, metres
_LEAST_PLANE = 0.15  # square metres a view, and of the largest plane of that direction
_THICK, _THICK_PER_METRE = 0.05, 0.03  # of a plane that is seen from a distance
# evidence, in natural logarithms of odds
_UPRIGHT, _UPRIGHT_WIDTH = 2.0, math.radians(70)
_USUAL_TILT, _USUAL_RISE = math.radians(4), 0.1  # of a camera that moves along, and is
_FREEDOM = 1.5  # half the degrees of freedom of the Student t by which it may do more
_LOWEST, _HIGHEST, _HIGHEST_SPREAD, _ODD_HEIGHT = 0.1, 2.0, 0.25, 3.0  # of cameras over a floor
_KNOWN_HEIGHT, _KNOWN_HEIGHT_BONUS = 0.15, 3.0  # relative
_ENOUGH_FLOOR = ((0.8, 1.2), (3.0, 1.0))  # square metres by the height of the camera: from
# close, a table, a counter or a bed could be it; no such thing is that far below a camera
_EXTENT_WEIGHT = 1.7
_CEILING = 6.0  # what the tops of things may say at most
_OFF_ENDS = 0.15  # metres from floor and ceiling, where things are
_LEAST_TOPS, _LEAST_TOPS_PER_VIEW = 0.2, 0.01  # square metres
_TOPS_WEIGHT = 3.0
_USUAL_TOPS = 0.05  # share of surface between floor and ceiling
_BELOW, _BELOW_WEIGHT = 0.03, 6.0  # share of the surface that may seem lower than the floor
_UP_STD = math.radians(1)  # least, of a direction that is given
_ONE_VIEW_STD = 0.04  # metres, of a floor that few views show, where up is given
# what is believed
_SURE = 0.95
_MAX_LEVEL_STD, _MAX_HEIGHT_STD = math.radians(1.5), 0.05
_ROUGH_LEVEL_STD, _ROUGH_HEIGHT_STD = math.radians(5), 0.2  # of what is better than nothing
_FEWEST_VIEWS = 5  # whose contradictions say how wrong they are
_UNKNOWN_TILT, _UNKNOWN_HEIGHT = math.pi / math.sqrt(3), 10.0  # uniform in all angles; metres


@dataclass(frozen=True)
class Level:
    """What is up, and where the floor is, in the frame of the poses that were given.

    Attributes:
        up: [3] unit vector.
        floor: height of the floor along `up`, metres.
        covariance: [3, 3] of two angles of `up`, rad², and of the floor below the cameras, m².
        probability: that `up` is up, rather than some other direction.
        extent: of the floor as seen so far, square metres.
        doubt: what is missing before this may be relied on; empty if nothing is.
        is_rough: whether that is exactness alone, and not much of it.
    """

    up: np.ndarray
    floor: float
    covariance: np.ndarray
    probability: float
    extent: float
    doubt: str
    is_rough: bool = False

    def pose(self, T_odom_camera: np.ndarray) -> np.ndarray:  # -> [4, 4]
        """Of a camera in a level frame with its origin on the floor below, see `level_pose`."""
        height = float(T_odom_camera[:3, 3] @ self.up) - self.floor
        return level_pose(T_odom_camera[:3, :3].T @ self.up, height)


@dataclass(frozen=True)
class _View:
    """Pieces of surface [N] that one camera saw, in odom."""

    T_odom_camera: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    areas: np.ndarray
    ranges: np.ndarray


@dataclass(frozen=True)
class _Floor:
    """The lowest plane that faces a direction, and how far that may be a floor."""

    up: np.ndarray
    height: float
    on: np.ndarray  # [N] bool
    apart: float  # radians, half of what its slope and its normals differ by
    camera: float  # height of the cameras over it, metres
    extent: float
    small: bool  # too small to tell it from a table
    below: float  # share of the surface
    score: float


class LevelEstimator:
    """Evidence of up and floor, view by view.

    Poses may be in any fixed frame.

    Args:
        camera_height: over the floor where that is known, metres; else 0.
    """

    def __init__(self, camera_height: float = 0.0) -> None:
        self._camera_height = camera_height
        self._views: list[_View] = []
        self._spacing = 1.0
        self._measured_up, self._measured_weight = np.zeros(3), 0.0
        self._weighed = 0.0  # of the latter, in the estimate at hand
        self._level: Level | None = None

    def know_height(self, camera_height: float) -> None:
        """Go on with another height of the camera, as in the constructor."""
        if camera_height != self._camera_height:
            self._camera_height, self._level = camera_height, None

    def observe(
        self, depth: np.ndarray, intrinsics: Intrinsics, T_odom_camera: np.ndarray
    ) -> None:
        """Take the surface that a camera sees, if it does not stand where it last did.

        Args:
            depth: [H, W] z-depth, metres; 0 and non-finite mean no measurement.
            intrinsics: of that image.
            T_odom_camera: [4, 4] pose.
        """
        if self._views:
            motion = inverse(self._views[-1].T_odom_camera) @ T_odom_camera
            moved = float(np.linalg.norm(motion[:3, 3])) / _MOVED
            if max(moved, float(angle(motion)) / _TURNED) < self._spacing:
                return
        points, normals, areas = _pieces(block_points(depth, intrinsics, _COLUMNS))
        if len(points) < _PIECES // 4:
            return
        rotation, position = T_odom_camera[:3, :3], T_odom_camera[:3, 3]
        ranges = np.linalg.norm(points, axis=1)
        seen = (points @ rotation.T + position, normals @ rotation.T, areas, ranges)
        self._views.append(_View(T_odom_camera, *seen))
        if len(self._views) > _VIEWS:
            self._views, self._spacing = self._views[::2], 2 * self._spacing
        self._level = None

    def observe_up(
        self, up_in_camera: np.ndarray, std: float, T_odom_camera: np.ndarray
    ) -> None:  # [3]
        """Take a direction that something else gives, such as an accelerometer.

        Args:
            up_in_camera: unit vector in the optical frame.
            std: of each of its two angles, radians.
            T_odom_camera: [4, 4] pose of that camera.
        """
        weight = 1 / max(std, _UP_STD) ** 2
        self._measured_up = self._measured_up + weight * (T_odom_camera[:3, :3] @ up_in_camera)
        self._measured_weight += weight
        if self._measured_weight > 2 * self._weighed:  # an estimate takes some milliseconds
            self._level = None

    @property
    def level(self) -> Level:
        """The best estimate so far; what it is worth is in it."""
        if self._level is None:
            self._level, self._weighed = self._estimated(), self._measured_weight
        return self._level

    # hypotheses --------------------------------------------------------------------------------

    def _estimated(self) -> Level:
        unknown = np.diag([_UNKNOWN_TILT**2, _UNKNOWN_TILT**2, _UNKNOWN_HEIGHT**2])
        if not self._views:
            return Level(np.array([0.0, 0, 1]), 0.0, unknown, 0.0, 0.0, _NOTHING)
        names = ('points', 'normals', 'areas', 'ranges')
        surface = [np.concatenate([getattr(v, name) for v in self._views]) for name in names]
        points, normals, areas, ranges = surface
        poses = np.stack([view.T_odom_camera for view in self._views])
        directions = self._directions(normals, areas, poses)
        moving = np.array([self._as_it_moves(up, poses) for up in directions])
        scores = moving.copy()
        floors: list[_Floor | None] = [None] * len(directions)
        for i in np.argsort(-moving):
            if moving[i] + _KNOWN_HEIGHT_BONUS + _EXTENT_WEIGHT < scores.max() - 7:
                break  # e^-7: whatever its floor is
            floors[i] = self._lowest_plane(directions[i], points, normals, areas, ranges, poses)
            scores[i] += _of_things(directions[i], points, normals, areas, poses)
            if floors[i] is not None:
                scores[i] += floors[i].score
        odds = np.exp(scores - scores.max())
        best = int(scores.argmax())
        probability = float(odds[best] / odds.sum())
        floor = floors[best]
        if floor is None:
            return Level(directions[best], 0.0, unknown, probability, 0.0, _NOTHING)
        of_view = np.repeat(np.arange(len(poses)), [len(view.areas) for view in self._views])
        covariance = _covariance(floor, points, of_view, poses)
        if covariance is None and self._measured_weight:
            covariance = np.diag([1 / self._measured_weight] * 2 + [_ONE_VIEW_STD**2])
        covariance = unknown if covariance is None else covariance
        doubt = self._doubt(floor, probability)
        level, height = _deviations(covariance)
        is_rough = False
        if not doubt and (level > _MAX_LEVEL_STD or height > _MAX_HEIGHT_STD):
            is_rough = level < _ROUGH_LEVEL_STD and height < _ROUGH_HEIGHT_STD
            doubt = _VAGUE.format(min(math.degrees(level), 90.0), min(height, _UNKNOWN_HEIGHT))
        found = (floor.up, floor.height, covariance, probability, floor.extent)
        return Level(*found, doubt, is_rough)

    def _doubt(self, floor: _Floor, probability: float) -> str:
        if floor.small or floor.below > _BELOW:
            return _SMALL.format(floor.extent)
        if probability < _SURE:
            return _AMBIGUOUS
        if self._camera_height and _off(floor.camera, self._camera_height) > 2 * _KNOWN_HEIGHT:
            return _WRONG_HEIGHT.format(floor.camera, self._camera_height)
        return ''

    def _directions(
        self, normals: np.ndarray, areas: np.ndarray, poses: np.ndarray
    ) -> list[np.ndarray]:
        """What may be up: where surface faces, the opposite, what is square to two of these.

        The last are there for a floor that is out of sight: it must be possible that it is.
        """
        step = max(1, len(normals) // 2000)
        normals, left = normals[::step], areas[::step].copy()
        total, seeds = left.sum(), normals[:: max(1, len(normals) // 100)]
        alike = seeds @ normals.T > _SAME
        modes: list[np.ndarray] = []
        while len(modes) < _MODES:
            share = alike @ left
            if share.max() < _MODE_SHARE * total:
                break
            mode = seeds[share.argmax()]
            for _ in range(2):
                near = normals @ mode > _SAME
                mode = _unit((normals[near] * left[near, None]).sum(0) + 1e-9 * mode)
            modes.append(mode)
            left[normals @ mode > math.cos(math.radians(25))] = 0
        found = [*modes, *(-mode for mode in modes)]
        for i, a in enumerate(modes):
            for b in modes[:i]:
                square = np.cross(a, b)
                if np.linalg.norm(square) > 0.7:
                    found += [_unit(square), -_unit(square)]
        upright = _unit(-poses[:, :3, 1].mean(0) - 1e-9)
        if not any(upright @ direction > _ROUGHLY for direction in found):
            found.append(upright)
        if self._measured_weight:
            found.insert(0, _unit(self._measured_up))
        apart: list[np.ndarray] = []
        for direction in found:
            if all(direction @ other < _SAME for other in apart):
                apart.append(direction)
        return apart

    def _as_it_moves(self, up: np.ndarray, poses: np.ndarray) -> float:
        """Score of a direction by the poses of the camera, and by what is known from elsewhere."""
        score = as_it_moves(up, poses)
        if self._measured_weight:
            off = math.acos(float(np.clip(up @ _unit(self._measured_up), -1, 1)))
            score -= 0.5 * (off / math.radians(5)) ** 2  # planes are not that exactly level
        return score

    def _lowest_plane(
        self,
        up: np.ndarray,
        points: np.ndarray,
        normals: np.ndarray,
        areas: np.ndarray,
        ranges: np.ndarray,
        poses: np.ndarray,
    ) -> _Floor | None:
        """The lowest plane that faces a direction, and what speaks for it as a floor."""
        facing, heights = normals @ up > _FACING, points @ up
        if np.count_nonzero(facing) < 20:
            return None
        start = float(heights[facing].min())
        bins = ((heights[facing] - start) / _BIN).astype(int)
        area = np.convolve(np.bincount(bins, areas[facing], 3), [1, 1, 1], 'same')
        large = np.flatnonzero(area > _LEAST_PLANE * max(float(area.max()), 1.0))
        if not len(large):
            return None
        lowest = int(large[0])
        while lowest + 1 < len(area) and area[lowest + 1] > area[lowest]:
            lowest += 1
        height = start + (lowest + 0.5) * _BIN
        thick = _THICK + _THICK_PER_METRE * ranges
        on = facing & (np.abs(heights - height) < thick)
        for _ in range(3):
            if np.count_nonzero(on) < 20:
                return None
            centre = points[on].mean(0)
            spread = points[on] - centre
            normal = np.linalg.eigh(spread.T @ spread)[1][:, 0]
            normal = normal * np.sign(normal @ up)
            if normal @ up < _FACING:
                return None  # a thread of surface, which spans no plane
            up, height = normal, float(centre @ normal)
            heights = points @ up
            on = (normals @ up > _FACING) & (np.abs(heights - height) < thick)
        # Across views the plane bends where these disagree about distances; within a view, where
        # depth is wrong in the same way in all of them. The middle has half of either error.
        facing_up = _unit(normals[on].mean(0))
        apart = float(np.linalg.norm(facing_up - up)) / 2
        up = _unit(up + facing_up)
        heights = points @ up
        height = float(heights[on].mean())
        below = float(areas[heights < height - 2 * thick].sum())
        below /= below + float(areas[on].sum())
        cells = np.floor(points[on] @ _across(up).T / _CELL).astype(np.int64)
        extent = len(np.unique(cells[:, 0] * 1_000_003 + cells[:, 1])) * _CELL**2
        camera = float((poses[:, :3, 3] @ up).mean()) - height
        enough = float(np.interp(camera, *_ENOUGH_FLOOR))
        score = _EXTENT_WEIGHT * min(1.0, extent / enough) + self._of_height(camera)
        score -= _BELOW_WEIGHT * max(0.0, below - _BELOW) / (below + _BELOW)
        return _Floor(up, height, on, apart, camera, extent, extent < enough, below, score)

    def _of_height(self, camera: float) -> float:
        """Score of the height of a camera over the floor."""
        if self._camera_height:
            off = _off(camera, self._camera_height)
            return _KNOWN_HEIGHT_BONUS if off < _KNOWN_HEIGHT else -_KNOWN_HEIGHT_BONUS
        if camera < _LOWEST:
            return -_ODD_HEIGHT
        off = max(0.0, math.log(camera / _HIGHEST) / _HIGHEST_SPREAD)
        return -min(0.5 * off**2, _ODD_HEIGHT)


def as_it_moves(up: np.ndarray, poses: np.ndarray) -> float:  # [3], [N, 4, 4]
    """Logarithm of the odds that a direction is up, by the poses of the camera alone."""
    in_camera = np.einsum('vji,j->vi', poses[:, :3, :3], up)
    mean = _unit(in_camera.mean(0) + 1e-9)
    tilt = np.arccos(np.clip(in_camera @ mean, -1, 1)) / _USUAL_TILT
    rise = (poses[:, :3, 3] @ up).std() / _USUAL_RISE
    score = -_FREEDOM * (math.log1p(float((tilt**2).mean())) + math.log1p(float(rise**2)))
    off_image = math.acos(float(np.clip(-mean[1], -1, 1)))
    return score + _UPRIGHT * math.exp(-((off_image / _UPRIGHT_WIDTH) ** 4))


_NOTHING = 'no surface that could be a floor is in sight: tilt the camera down'
_SMALL = (
    'the lowest level that was seen is {:.1f} m² large, or something lies below it, as with a '
    'table: show more of the floor'
)
_AMBIGUOUS = 'it is not sure yet which way is up: move the camera along the floor, and turn it'
_WRONG_HEIGHT = (
    'the lowest level that was seen is {:.2f} m below the camera, where scale.camera_height says '
    '{:.2f} m: show the floor, or correct that'
)
_VAGUE = (
    'views of it differ by {:.1f} degrees and {:.2f} m: show more of the floor from other places'
)


def floor_not_found(level: Level, settings: Sequence[str]) -> PoseUnavailableError:
    """Why nothing is mapped until a level may be relied on, and what helps.

    Args:
        level: with its doubt.
        settings: that would help and are not made.
    """
    advice = f'; or set {" or ".join(settings)}' if settings else ''
    return PoseUnavailableError(f'floor not found: {level.doubt}{advice}', 'floor_not_found')


def _of_things(
    up: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    areas: np.ndarray,
    poses: np.ndarray,
) -> float:
    """Score of a direction by what lies between floor and ceiling: things have tops.

    A camera sees tops below itself and undersides above, so either counts as a share of all that
    it sees there: one that looks up sees no tops, and that says nothing.
    """
    heights, facing = points @ up, normals @ up
    low, high = np.percentile(heights, [2, 98])
    inside = (heights > low + _OFF_ENDS) & (heights < high - _OFF_ENDS)
    camera = float((poses[:, :3, 3] @ up).mean())
    least = _LEAST_TOPS + _LEAST_TOPS_PER_VIEW * len(poses)
    shares = []
    for side in (1, -1):  # below the camera facing up, above it facing down
        there = inside & (side * (camera - heights) > 0)
        level = areas[there & (side * facing > _FACING)].sum()
        shares.append((level + least) / (areas[there].sum() + least / _USUAL_TOPS))
    return float(np.clip(_TOPS_WEIGHT * math.log(shares[0] / shares[1]), -_CEILING, 0))


# --- geometry ------------------------------------------------------------------------------------


def _pieces(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # [h, w, 3]
    """Points [N, 3], normals [N, 3] and areas [N] of smooth surface near enough."""
    centre = points[1:-1, 1:-1]
    right, left = points[1:-1, 2:] - centre, centre - points[1:-1, :-2]
    down, above = points[2:, 1:-1] - centre, centre - points[:-2, 1:-1]
    one, other = np.cross(down, right), np.cross(above, left)  # towards the camera
    with np.errstate(divide='ignore', invalid='ignore'):
        one = one / np.linalg.norm(one, axis=-1, keepdims=True)
        other = other / np.linalg.norm(other, axis=-1, keepdims=True)
        smooth = ((one * other).sum(-1) > _SMOOTH) & (centre[..., 2] < _MAX_RANGE)
        size = np.linalg.norm(np.cross(down, right), axis=-1)
    index = np.flatnonzero(smooth)
    index = index[np.linspace(0, len(index) - 1, min(len(index), _PIECES)).astype(int)]
    centre, size = centre.reshape(-1, 3)[index], size.ravel()[index]
    normals = (one + other).reshape(-1, 3)[index]
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    share = np.count_nonzero(smooth) / max(len(index), 1)  # each stands for so many
    return centre, normals, np.minimum(size, 0.1) * share


def _covariance(
    floor: _Floor, points: np.ndarray, of_view: np.ndarray, poses: np.ndarray
) -> np.ndarray | None:  # -> [3, 3]
    """Of the two angles of the floor and its height below the cameras; None with few views."""
    points, of_view = points[floor.on], of_view[floor.on]
    views, cluster = np.unique(of_view, return_inverse=True)
    if len(views) < _FEWEST_VIEWS:
        return None
    across, centre = _across(floor.up), points.mean(0)
    design = np.column_stack([(points - centre) @ across.T, np.ones(len(points))])
    residual = points @ floor.up - floor.height
    scores = np.zeros((len(views), 3))
    np.add.at(scores, cluster, design * residual[:, None])
    bread = np.linalg.pinv(design.T @ design)
    spread = bread @ (scores.T @ scores) @ bread * len(views) / (len(views) - 3)
    spread[:2, :2] += floor.apart**2 * np.eye(2)
    to_cameras = np.eye(3)
    to_cameras[2, :2] = across @ (poses[:, :3, 3].mean(0) - centre)
    return to_cameras @ spread @ to_cameras.T


def _deviations(covariance: np.ndarray) -> tuple[float, float]:
    """Standard deviations of the level, in its worst direction, and of the floor."""
    level = math.sqrt(max(float(np.linalg.eigvalsh(covariance[:2, :2])[-1]), 0.0))
    return level, math.sqrt(max(float(covariance[2, 2]), 0.0))


def _across(up: np.ndarray) -> np.ndarray:  # [3] -> [2, 3]
    """Two unit vectors that are square to a direction and to each other."""
    one = _unit(np.cross(up, np.eye(3)[np.abs(up).argmin()]))
    return np.stack([one, np.cross(up, one)])


def _off(height: float, known: float) -> float:
    """Relative error of a height that is not negative, and far off if it is."""
    return abs(math.log(max(height, 1e-3) / known))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
