"""Whether a map that was loaded fits what is seen, before it is used.

Depth of a few frames is held against the voxels: a surface should end in an occupied one, and
nothing occupied should lie before it. That is asked for the map as it lies, and for the map moved
and turned within a window: if it fits clearly better there, it was made in another world, such as
that of an odometry which began somewhere else. A scene that changed in part fits worse
everywhere, and best where it lies. Predicted depth may be wrong by a factor that is the same for
all frames: the best one within its stated deviation is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import math
from typing import Literal

import numpy as np

from sharp_ros.camera import Intrinsics, unproject
from sharp_ros.errors import InputError
from sharp_ros.mapping.occupancy import OccupancyMap

_FRAMES = (5, 10, 20)  # after which it is judged; the last time for good
_RAYS, _ALL_RAYS = 200, 1000  # of a frame, and of all
_NEAR, _FAR = 0.4, 4.0  # metres of a ray that counts: farther depth is less certain
_BEFORE = (0.35, 0.55, 0.75)  # of a ray, where nothing should be in the way
_SURFACE = 4  # what a surface counts that is where it should be; a cell off it counts one less
_SPACING = 0.15  # metres of the search
_REACH = 1.5  # likewise, how far
_TURN, _TURNS = math.radians(4.0), 9  # step, and steps to either side
_DETOUR = 0.03  # of agreement that a metre or a radian must gain: along a wall all fit alike
_SMALL = (0.16, math.radians(3.0))  # metres and radians, of what drift and noise may do
_LEAST_VOTES = 0.2  # share of rays that end in what the map knows
_AGREES = 0.25  # agreement, of -1 to 1, of a map that fits
_AGREES_BEST = 0.1  # likewise, if it fits nowhere better
_AGAINST = 0.05  # share of rays that must contradict a map as it lies, and not where it fits
_SURE = (0.7, 0.35)  # agreement that tells where a map lies, of measured and predicted depth
_BETTER = 0.12  # of agreement, by which a map that lies elsewhere must fit better
_CLEAR = 2.0  # times that, for a judgement before the last


@dataclass(frozen=True)
class MapFit:
    """How a map fits what is seen.

    Attributes:
        kind: `fits`; `beside` if it fits clearly better moved; `elsewhere` if it fits nowhere
            near; `unseen` if hardly anything that is seen lies in it.
        agreement: of the map as it lies, within `_SMALL` of it: surfaces that are where they
            should be less those that are not, as a share of all, -1 to 1.
        against: share of what is seen that contradicts the map as it lies.
        best: the best agreement within the window.
        distance: from the map to where it fits best, at the camera, metres.
        turn: likewise about the vertical, radians.
        frames: that were looked at.
    """

    kind: Literal['fits', 'beside', 'elsewhere', 'unseen']
    agreement: float
    against: float
    best: float
    distance: float
    turn: float
    frames: int

    def refusal(self) -> InputError | None:
        """Why the map may not be used; None if it may."""
        if self.kind == 'fits':
            return None
        advice = (
            'begin the odometry where it began when the map was made, give poses of a '
            'localisation in that map, or map anew'
        )
        what = {
            'beside': f'best agreement {self.distance:.2f} m, {math.degrees(self.turn):.1f} '
            f'degrees beside ({self.best:.0%} against {self.agreement:.0%} as it lies)',
            'elsewhere': f'no agreement within {_REACH:g} m ({self.best:.0%} at best)',
            'unseen': 'hardly anything that is seen lies in it',
        }[self.kind]
        return InputError(
            f'the loaded map does not fit what is seen in {self.frames} images: {what}; {advice}. '
            'The map of before goes on',
            f'map_{self.kind}',
        )


@dataclass(frozen=True)
class _Guess:
    """The map moved by `shift` [2] metres, turned by `turn`, and depth times `factor`."""

    shift: np.ndarray
    turn: float
    factor: float


class MapCheck:
    """Collects frames until they say whether a map fits.

    Args:
        occupancy: of the map.
    """

    def __init__(self, occupancy: OccupancyMap) -> None:
        self._occupancy = occupancy
        self._points: list[np.ndarray] = []  # [N, 3] from the camera, along the axes of the world
        self._eyes: list[np.ndarray] = []
        self._variance, self._thin = 0.0, 1
        self._coarse: bool | None = None  # what the fields are made for, once they are

    def add(
        self,
        depth: np.ndarray,
        intrinsics: Intrinsics,
        T_world_camera: np.ndarray,
        scale_variance: float = 0.0,
    ) -> MapFit | None:
        """Look at one more frame.

        Takes some tenths of a second for a frame that decides, else next to nothing.

        Args:
            depth: [H, W] z-depth in metres; NaN where there is none.
            intrinsics: of the same resolution.
            T_world_camera: [4, 4] pose of the optical frame in the world of the map.
            scale_variance: of the logarithm of a factor that all depth may be wrong by.

        Returns:
            How the map fits; None while more frames are needed.
        """
        step = max(1, math.isqrt(depth.size // _RAYS))
        points = unproject(depth[::step, ::step], intrinsics.subsampled(step)).reshape(-1, 3)
        ranges = np.linalg.norm(points, axis=-1)
        points = points[(ranges > _NEAR) & (ranges < _FAR)]  # False for NaN
        self._points.append(points @ T_world_camera[:3, :3].T)
        self._eyes.append(T_world_camera[:3, 3])
        self._variance = max(self._variance, scale_variance)
        count = len(self._points)
        if count not in _FRAMES:
            return None
        fit, is_clear = self._judged()
        return fit if is_clear or count == _FRAMES[-1] else None

    def _judged(self) -> tuple[MapFit, bool]:
        """How the map fits, and whether that is beyond doubt."""
        count = len(self._points)
        self._thin = max(1, sum(map(len, self._points)) // _ALL_RAYS)
        if self._coarse != (self._variance > 0):
            self._prepare(coarse=self._variance > 0)
        factors = self._factors()
        at = max((_Guess(*a, f) for a in _around() for f in factors), key=self._agreement)
        here, against = self._agreement(at), self._against(at)
        best, guess = self._best(factors)
        excess = against - self._against(guess)  # unknown is no contradiction
        distance, turn = float(np.linalg.norm(guess.shift)), abs(guess.turn)
        measured = (here, against, max(best, here), distance, turn, count)
        small = distance <= _SMALL[0] and turn <= _SMALL[1]
        better = 0.0 if small else best - here
        sure = best > _SURE[self._variance > 0] and better > _BETTER
        if sure and (here <= _AGREES or excess > _AGAINST):
            return MapFit('beside', *measured), better > _CLEAR * _BETTER
        # Where it fits best just where it lies, less will do: what moved is not of the map.
        if here > (_AGREES_BEST if small else _AGREES):
            return MapFit('fits', *measured), better < _BETTER / _CLEAR and here > _CLEAR * _AGREES
        if self._votes(factors) < _LEAST_VOTES:
            return MapFit('unseen', *measured), False
        return MapFit('elsewhere', *measured), False

    def _prepare(self, *, coarse: bool) -> None:
        """Make the fields that say how well a ray fits that ends in a voxel, and one that passes.

        Args:
            coarse: take eight voxels as one, for depth that is not measured.
        """
        self._coarse, occupancy = coarse, self._occupancy
        config, log_odds = occupancy.config, occupancy.log_odds()
        occupied = log_odds >= config.occupied_log_odds
        free = log_odds <= config.free_log_odds
        self._voxel, self._low = config.voxel_size, occupancy.bounds[0]
        if coarse:
            occupied, free = _halved(occupied), _halved(free)
            self._voxel *= 2
        ends = np.where(free, np.int8(-_SURFACE), np.int8(0))
        near = occupied
        for score in range(_SURFACE, 0, -1):  # less, the farther off the surface is
            ends[near & (ends <= 0)] = score
            near = _widened(near)
        self._ends = np.pad(ends, 1)  # beyond the window nothing is known
        self._passes = np.pad(occupied * np.int8(-_SURFACE), 1)

    def _factors(self) -> tuple[float, ...]:
        """Of depth, that are likely enough, so close that surfaces do not slip between them."""
        std = min(math.sqrt(self._variance), 0.3)
        if std < 0.02:
            return (1.0,)
        return tuple(math.exp(k * std) for k in (-1.0, 0.0, 1.0))

    def _best(self, factors: tuple[float, ...]) -> tuple[float, _Guess]:
        """The best agreement in the window, and where: coarsely, then finely."""
        steps = np.arange(-_REACH, _REACH + 1e-9, _SPACING)
        shifts = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        found = (
            _Guess(self._best_shift(shifts, turn, factor), turn, factor)
            for factor in factors
            for turn in _TURN * np.arange(-_TURNS, _TURNS + 1)
        )
        guess = max(found, key=self._worth)
        for spacing, angle in ((_SPACING / 2, _TURN / 2), (_SPACING / 4, _TURN / 4)):
            near = (
                _Guess(
                    guess.shift + spacing * np.array([x, y]), guess.turn + angle * k, guess.factor
                )
                for x in (-1, 0, 1)
                for y in (-1, 0, 1)
                for k in (-1, 0, 1)
            )
            guess = max(near, key=self._worth)
        return self._agreement(guess), guess

    def _best_shift(
        self, shifts: np.ndarray, turn: float, factor: float
    ) -> np.ndarray:  # [N, 2] -> [2]
        """The best of many shifts, by the ends of a part of the rays."""
        (ends, _), _ = self._cells(_Guess(np.zeros(2), turn, factor), thin=4)
        moved = np.rint(shifts / self._voxel).astype(np.int32)
        scores = np.array([int(self._at(self._ends, ends, move).sum()) for move in moved])
        detour = _DETOUR * _SURFACE * self._in_band(ends) * np.linalg.norm(shifts, axis=1)
        return shifts[int(np.argmax(scores - detour))]

    def _cells(
        self, guess: _Guess, thin: int = 1
    ) -> tuple[list[np.ndarray], list[tuple[np.ndarray, float]]]:
        """Voxels in which rays end, and those that they pass, with the field that judges them."""
        c, s = math.cos(guess.turn), math.sin(guess.turn)
        turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        middle = np.mean(self._eyes, axis=0)
        ends, passes = [], []
        for eye, points in zip(self._eyes, self._points, strict=True):
            start = turned @ (eye - middle) + middle + [*guess.shift, 0.0]
            rays = guess.factor * points[:: thin * self._thin] @ turned.T
            ends.append(rays + start)
            passes.extend(rays * share + start for share in _BEFORE)
        places = (np.concatenate(part) for part in (ends, passes))
        cells = [np.floor((p - self._low) / self._voxel).astype(np.int32) for p in places]
        return cells, [(self._ends, 1.0), (self._passes, 1.0 / len(_BEFORE))]

    def _at(self, field: np.ndarray, cells: np.ndarray, move: np.ndarray) -> np.ndarray:
        """The field at voxels [N, 3] (x, y, z) moved by [2]; 0 beyond it."""
        rows, columns, layers = field.shape
        x = np.clip(cells[:, 0] + (move[0] + 1), 0, columns - 1)
        y = np.clip(cells[:, 1] + (move[1] + 1), 0, rows - 1)
        z = np.clip(cells[:, 2] + 1, 0, layers - 1)
        return field[y, x, z]

    def _worth(self, guess: _Guess) -> float:
        """Agreement, less what a guess must gain that lies farther off."""
        motion = float(np.linalg.norm(guess.shift)) + abs(guess.turn)
        return self._agreement(guess) - _DETOUR * motion

    def _agreement(self, guess: _Guess) -> float:
        cells, lookups = self._cells(guess)
        total = sum(
            weight * int(self._at(field, cell, np.zeros(2, np.int32)).sum())
            for cell, (field, weight) in zip(cells, lookups, strict=True)
        )
        return total / max(_SURFACE * self._in_band(cells[0]), 1)

    def _against(self, guess: _Guess) -> float:
        """Share of rays that the map contradicts, as they end in free voxels or pass others."""
        (ends, passes), _ = self._cells(guess)
        still = np.zeros(2, np.int32)
        wrong = np.count_nonzero(self._at(self._ends, ends, still) < 0)
        wrong += np.count_nonzero(self._at(self._passes, passes, still)) / len(_BEFORE)
        return wrong / max(self._in_band(ends), 1)

    def _in_band(self, ends: np.ndarray) -> int:
        """Rays that end within the heights of the map: of the others it says nothing."""
        layers = self._ends.shape[2] - 2
        return int(np.count_nonzero((ends[:, 2] >= 0) & (ends[:, 2] < layers)))

    def _votes(self, factors: tuple[float, ...]) -> float:
        """Share of rays that the map, as it lies, says something of."""
        cells, _ = self._cells(_Guess(np.zeros(2), 0.0, factors[len(factors) // 2]))
        said = np.count_nonzero(self._at(self._ends, cells[0], np.zeros(2, np.int32)))
        return said / max(self._in_band(cells[0]), 1)


def _around() -> Iterator[tuple[np.ndarray, float]]:
    """Shifts and turns that count as none."""
    for x in (-1, 0, 1):
        for y in (-1, 0, 1):
            for turn in (-1, 0, 1):
                if abs(x) + abs(y) < 2:
                    yield np.array([x, y]) * _SMALL[0] / 2, turn * _SMALL[1] / 2


def _halved(cells: np.ndarray) -> np.ndarray:
    """Boolean voxels at half the resolution, each true where one of its eight was."""
    odd = [(0, n % 2) for n in cells.shape]
    rows, columns, layers = (n // 2 for n in np.add(cells.shape, [n for _, n in odd]))
    eights = np.pad(cells, odd).reshape(rows, 2, columns, 2, layers, 2)
    return np.asarray(eights.any((1, 3, 5)))


def _widened(cells: np.ndarray) -> np.ndarray:
    """Boolean voxels [rows, columns, layers] and their neighbours to all six sides."""
    wide = cells.copy()
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        wide[tuple(ahead)] |= cells[tuple(behind)]
        wide[tuple(behind)] |= cells[tuple(ahead)]
    return wide
