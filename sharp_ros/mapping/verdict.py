"""Whether a map can be believed, in words: one judgement from plain numbers.

That every frame was placed says nothing of the map: where the floor is taken for an obstacle, all
is black although no frame was lost. So the cells are looked at, and how they came about. The
bounds were chosen on some rooms and recordings; docs/benchmark.md tells how the judgement fares on
others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
import math
from typing import Any, Literal

import numpy as np

from sharp_ros.mapping.occupancy import FREE, OccupancyGrid2D, OCCUPIED

Level = Literal['good', 'doubtful', 'bad']

_FEW_CELLS = 400  # that were seen, free or occupied: too few for a share to mean anything
# Bounds beyond which a map is no better than that.
_Bounds = Mapping[Level, float]
_NOT_FREE: _Bounds = {'bad': 0.9, 'doubtful': 0.8}  # share of the cells that were seen
_SCALE_STD: _Bounds = {'bad': 1.0, 'doubtful': 0.25}  # of the logarithm of all lengths
_LOST: _Bounds = {'bad': 0.5, 'doubtful': 0.2}  # share of the time
_DISPUTED: _Bounds = {'doubtful': 0.1}  # share of the mapped frames
_LONGEST_GAP = 1.0  # seconds between two frames, beyond which the camera itself paused


@dataclass(frozen=True)
class MapFacts:
    """What is known of a map, and of how it came about.

    Attributes:
        free: cells of the grid that are free.
        occupied: cells that are occupied.
        scale_std: standard deviation of the logarithm of the factor from the depth that was mapped
            to metres; None for measured depth.
        seconds: of recording since the first frame that was mapped.
        lost_seconds: of these, without a frame that could be mapped.
        passed_over: frames that were not mapped, by reason.
        mapped: frames that were.
        disputed: of these, while anchors of the scale contradicted each other.
        floor_is_credible: whether the floor was found, where visual odometry has to find it.
        level_doubt: why it was found roughly only; empty if it was not.
    """

    free: int
    occupied: int
    scale_std: float | None = None
    seconds: float = 0.0
    lost_seconds: float = 0.0
    passed_over: Mapping[str, int] = field(default_factory=dict)
    mapped: int = 0
    disputed: int = 0
    floor_is_credible: bool = True
    level_doubt: str = ''

    @property
    def free_share(self) -> float:
        """Share of free cells among those seen, 0 to 1."""
        return self.free / max(self.free + self.occupied, 1)


@dataclass(frozen=True)
class Reason:
    """What speaks against a map.

    Attributes:
        name: short snake_case key.
        level: of a map against which only this speaks.
        text: what is wrong.
        remedy: what to do.
        settings: parameters that are worth trying, as KEY=VALUE.
    """

    name: str
    level: Level
    text: str
    remedy: str
    settings: tuple[str, ...] = ()

    def sentence(self, flag: str = '') -> str:
        """What is wrong and what to do, in a line.

        Args:
            flag: what a setting is to be given with, such as `--set `.
        """
        settings = ', '.join(flag + setting for setting in self.settings)
        return f'{self.text}; {self.remedy}' + (f': {settings}' if settings else '')


@dataclass(frozen=True)
class Verdict:
    """What `judge` makes of a map: as bad as the worst reason, which comes first."""

    reasons: tuple[Reason, ...] = ()

    @property
    def level(self) -> Level:
        """`good` if nothing speaks against it."""
        return self.reasons[0].level if self.reasons else 'good'

    def as_dict(self) -> dict[str, Any]:
        """For JSON and YAML files."""
        reasons = [{'name': r.name, 'level': r.level, 'text': r.sentence()} for r in self.reasons]
        return {'level': self.level, 'reasons': reasons}

    def __str__(self) -> str:
        return '; '.join([f'the map is {self.level}', *(r.sentence() for r in self.reasons)])


def judge(facts: MapFacts) -> Verdict:
    """Say how far a map can be believed, and why not farther."""
    found = (
        _too_little(facts),
        _hardly_free(facts),
        _no_floor(facts),
        _rough_level(facts),
        _unsure_scale(facts),
        _contradictions(facts),
        _lost_time(facts),
    )
    reasons = [reason for reason in found if reason is not None]
    return Verdict(tuple(sorted(reasons, key=lambda reason: reason.level != 'bad')))


def _too_little(facts: MapFacts) -> Reason | None:
    seen = facts.free + facts.occupied
    if seen >= _FEW_CELLS:
        return None
    text = f'only {seen} cells of the grid were seen'
    return Reason('too_little_seen', 'doubtful', text, 'map for longer, and look around')


def _hardly_free(facts: MapFacts) -> Reason | None:
    """Where a camera moves it is free, and nothing is occupied but what bounds that."""
    level = _level(1 - facts.free_share, _NOT_FREE)
    if level is None or facts.free + facts.occupied < _FEW_CELLS:
        return None
    return Reason(
        'little_free',
        level,
        f'only {facts.free} of {facts.free + facts.occupied} seen cells are free '
        f'({facts.free_share:.0%}): the floor is taken for an obstacle, or hidden',
        'tell how high the camera is, check the tilt of the camera in tf or pose.base_to_camera, '
        'use measured depth, or raise what counts as an obstacle',
        ('scale.camera_height=METRES', 'model.name=sensor', 'occupancy.min_height=0.2'),
    )


def _no_floor(facts: MapFacts) -> Reason | None:
    if facts.floor_is_credible:
        return None
    return Reason(
        'no_floor',
        'doubtful',
        'the floor was not found, and nothing is mapped before it is',
        'move along the floor with it in view, and turn; or tell where it is',
        ('scale.camera_height=METRES', 'pose.base_frame=base_footprint'),
    )


def _rough_level(facts: MapFacts) -> Reason | None:
    if not facts.level_doubt:
        return None
    return Reason(
        'level_rough',
        'doubtful',
        f'the floor was found roughly only: {facts.level_doubt}',
        'or tell where it is, or map with measured depth',
        ('scale.camera_height=METRES', 'pose.base_frame=base_footprint', 'model.name=sensor'),
    )


def _unsure_scale(facts: MapFacts) -> Reason | None:
    std = facts.scale_std
    level = None if std is None else _level(std, _SCALE_STD)
    if std is None or level is None:
        return None
    return Reason(
        'scale_unsure',
        level,
        f'the factor to metres, metric scale, was known to {math.expm1(std):.0%} only, and so are '
        'all lengths',
        'give an anchor: metric odometry, the height of the camera, or measured depth',
        ('scale.camera_height=METRES', 'model.name=sensor'),
    )


def _contradictions(facts: MapFacts) -> Reason | None:
    level = _level(facts.disputed / max(facts.mapped, 1), _DISPUTED)
    if level is None:
        return None
    return Reason(
        'scale_disputed',
        level,
        f'observations of metric scale contradicted each other in {facts.disputed} of '
        f'{facts.mapped} mapped frames',
        'check the scale of the odometry (slipping wheels), scale.camera_height and the '
        'registered depth',
    )


def _lost_time(facts: MapFacts) -> Reason | None:
    share = facts.lost_seconds / facts.seconds if facts.seconds > 0 else 0.0
    level = _level(share, _LOST)
    if level is None:
        return None
    counts = sorted(facts.passed_over.items(), key=lambda item: -item[1])
    reasons = ', '.join(f'{name} {count}' for name, count in counts)
    return Reason(
        'lost_time',
        level,
        f'nothing was mapped for {share:.0%} of the time ({reasons})',
        _against(counts[0][0]) if counts else 'see /diagnostics',
    )


def _against(reason: str) -> str:
    """What to do about frames that are not mapped for a reason."""
    if reason.startswith('odometry_'):
        return (
            'move more slowly, keep texture and things within 5 m in view, check the field of '
            'view, or give poses from elsewhere'
        )
    if reason.startswith('image_'):
        return 'see that the images show something: light, exposure, lens, focus'
    if reason == 'repeated_stamp':
        return 'make the driver stamp each image by the time it was taken'
    return 'give a pose for every image: see pose.source, or let visual odometry find it'


def _level(value: float, bounds: _Bounds) -> Level | None:
    """The first level, the worst first, whose bound a value exceeds."""
    return next((level for level, bound in bounds.items() if value > bound), None)


class MapCourse:
    """How a map came about, frame by frame; together with its grid the facts to judge it by."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew, as the map does."""
        self._passed_over: Counter[str] = Counter()
        self._stamp_ns: int | None = None  # of the newest frame since the first that was mapped
        self._seconds = self._lost_seconds = self._scale_variances = 0.0
        self._mapped = self._disputed = self._scaled = 0
        self._level_doubt = ''

    def mapped(
        self,
        stamp_ns: int,
        scale_variance: float | None = None,
        *,
        disputed: bool = False,
        level_doubt: str = '',
    ) -> None:
        """Note a frame that is in the map.

        Args:
            stamp_ns: of the frame.
            scale_variance: of the logarithm of the factor of its depth; None for measured depth.
            disputed: whether anchors of the scale contradict each other.
            level_doubt: see `MapFacts`.
        """
        self._mapped += 1
        self._level_doubt = level_doubt
        self._disputed += disputed
        if scale_variance is not None:
            self._scaled += 1
            self._scale_variances += scale_variance
        if self._stamp_ns is None:
            self._stamp_ns = stamp_ns
        self._seconds += self._since_last(stamp_ns)

    def passed_over(self, stamp_ns: int, reason: str) -> None:
        """Note a frame that is not in the map; before there is one, that costs no time of it."""
        self._passed_over[reason] += 1
        if self._stamp_ns is not None:
            seconds = self._since_last(stamp_ns)
            self._seconds += seconds
            self._lost_seconds += seconds

    def _since_last(self, stamp_ns: int) -> float:
        assert self._stamp_ns is not None
        seconds = min(max(stamp_ns - self._stamp_ns, 0) * 1e-9, _LONGEST_GAP)
        self._stamp_ns = max(stamp_ns, self._stamp_ns)
        return seconds

    def facts(self, grid: OccupancyGrid2D) -> MapFacts:
        """What is known, with the cells of the map as it is now."""
        variance = self._scale_variances / self._scaled if self._scaled else None
        return MapFacts(
            free=int(np.count_nonzero(grid.cells == FREE)),
            occupied=int(np.count_nonzero(grid.cells == OCCUPIED)),
            scale_std=None if variance is None else math.sqrt(variance),
            seconds=self._seconds,
            lost_seconds=self._lost_seconds,
            passed_over=dict(self._passed_over),
            mapped=self._mapped,
            disputed=self._disputed,
            floor_is_credible=not self._passed_over['floor_not_found'] or bool(self._mapped),
            level_doubt=self._level_doubt,
        )
