"""Whether a robot may drive by the map: people, holes in the floor, overhangs, thin things.

Depth and poses are exact but for noise of every pixel, so what is wrong is the map's. Judged are
the cells in which pixels end on the hazard in the height band of the map, frame by frame, and the
map at the end. Nothing is lost by calling everything unknown, so the floor that is found counts,
too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.config import OccupancyConfig, PointCloudConfig
from sharp_ros.evaluation.hazard_worlds import (
    Box,
    cast,
    ends,
    Hazard,
    hazards,
    solid_columns,
    THICK,
)
from sharp_ros.mapping.occupancy import FREE, OccupancyGrid2D, OccupancyMap, OCCUPIED
from sharp_ros.models import ModelInfo
from sharp_ros.point_cloud import clean_depth

EXACT = ModelInfo(
    'exact', 'true depth with noise, in place of a network', 'Apache-2.0', metric=True
)
CAMERA = Intrinsics.from_hfov(1.2, 640, 480)
RATES_HZ, NOISES = (5.0, 10.0), (0.0, 0.01, 0.03)
_LEAST_PIXELS = 3  # of a cell in which floor counts as seen
_MEASURED = 20  # pixels of a cell that counts as measured in a frame
_IN_VIEW = 200  # pixels of a frame that has the hazard in view
_SHOWN = 0.95  # share of its pixels that end in cells that are not free, if a frame shows it
_MARKED = 0.5  # likewise in occupied cells, if one marks it
_BEHIND = 0.1  # metres beyond a wall, for what is free there
_DEEP = 0.1  # metres inside something, likewise


@dataclass(frozen=True)
class HazardRun:
    """One world, mapped; shares and numbers of cells are of the last grid.

    Attributes:
        numbers: `shown`: share of the frames with the hazard in view that show it;
            `first_shown`: whether the very first does; `marked_after`, `cleared_after`: seconds
            after it came and went, None if it never was; `free_on_solid`: share that is free of
            the cells of the hazard; `deep`: likewise of those well inside of it; `behind`: number
            of cells that are free behind walls; `floor`: share that is free of the cells in which
            floor was seen and nothing stands.
        grid: the last, or while somebody is there the last with him.
        boxes: what was there then, those of the room first.
        depth: [H, W] of the frame of that grid, as it was mapped.
        T_world_camera: [4, 4] true pose of it.
    """

    numbers: dict[str, float | None]
    grid: OccupancyGrid2D
    boxes: list[Box]
    depth: np.ndarray
    T_world_camera: np.ndarray


def run_hazard(
    hazard: Hazard, rate_hz: float, noise: float, seed: int, config: OccupancyConfig | None = None
) -> HazardRun:
    """Map one world.

    Args:
        hazard: of `hazards`.
        rate_hz: of the frames.
        noise: standard deviation of each pixel, as a share of its depth.
        seed: of the noise.
        config: of the map; None: the defaults.
    """
    config = config or OccupancyConfig()
    occupancy, rng = OccupancyMap(config), np.random.default_rng(seed)
    clean = PointCloudConfig()
    shown: list[bool] = []
    marked_at = cleared_at = None
    grid = occupancy.grid()
    before = grid.cells
    floor_seen = np.zeros(before.shape, bool)
    trail = floor_seen.copy()  # cells that he was measured in and that were free before
    kept = None
    seen, T = np.zeros((0, 0), np.float32), hazard.pose(0.0)
    for i in range(round(hazard.duration * rate_hz)):
        t = i / rate_hz
        T, thing = hazard.pose(t), hazard.thing(t)
        depth, owner = cast(hazard.room + thing, CAMERA, T)
        seen = depth * (1 + noise * rng.standard_normal(depth.shape)).astype(np.float32)
        seen = clean_depth(seen, clean)
        occupancy.integrate(seen, CAMERA, hazard.pose(t - hazard.late), round(t * 1e9))
        last, grid = grid, occupancy.grid()
        # The window follows the camera; what enters it was not seen before.
        shift = np.rint(np.subtract(last.origin, grid.origin)[::-1] / grid.resolution)
        floor_seen, trail, before = (
            np.roll(cells, shift.astype(int), (0, 1)) for cells in (floor_seen, trail, before)
        )
        reach = config.max_range - 0.2  # where noise puts no end out of range
        place = (*grid.origin, grid.resolution, *grid.cells.shape)
        walls = len(hazard.room)
        given = (depth, owner, CAMERA.parameters, T, place)
        if i % 3 == 0:
            counts = ends(*given[:2], (0, walls), *given[2:], (-0.01, 0.01, reach))
            floor_seen |= counts >= _LEAST_PIXELS
        if thing:
            limits = (config.min_height, config.max_height, reach)
            told = np.where(seen > 0, depth, 0)  # without the edges, which are no measurement
            counts = ends(told, owner, (walls, 1000), *given[2:], limits)
            measured = counts >= _MEASURED
            if counts.sum() >= _IN_VIEW:
                share = counts[grid.cells != FREE].sum() / counts.sum()
                shown.append(bool(share >= _SHOWN))
                share = counts[grid.cells == OCCUPIED].sum() / counts.sum()
                if share >= _MARKED and marked_at is None:
                    marked_at = t
            trail |= measured & (before == FREE) & _well_in_view(T, grid)
            if hazard.comes:
                kept = grid, hazard.room + thing, seen, T
        elif hazard.comes and t >= hazard.goes:
            if (grid.cells[trail] == FREE).all():
                cleared_at = t if cleared_at is None else cleared_at
            else:
                cleared_at = None
        before = grid.cells
    numbers: dict[str, float | None] = {
        'shown': float(np.mean(shown)) if shown else None,
        'first_shown': float(shown[0]) if shown else None,
    }
    if hazard.comes and hazard.name.startswith('stands'):
        numbers['marked_after'] = None if marked_at is None else marked_at - hazard.comes
    if hazard.comes:
        # From the last frame that may have shown him, one interval before the first without.
        numbers['cleared_after'] = (
            None if cleared_at is None else cleared_at - hazard.goes + 1 / rate_hz
        )
    numbers |= _at_the_end(hazard, grid, floor_seen, config)
    last_seen = (grid, hazard.room + hazard.thing(hazard.duration), seen, T)
    return HazardRun(numbers, *(kept or last_seen))


def _well_in_view(T: np.ndarray, grid: OccupancyGrid2D) -> np.ndarray:  # -> [rows, columns]
    """Cells that a camera sees although it sways."""
    rows, columns = grid.cells.shape
    x, y = (
        o + (np.arange(n) + 0.5) * grid.resolution - eye
        for n, o, eye in zip((columns, rows), grid.origin, T[:2, 3], strict=True)
    )
    ahead = x * T[0, 2] + y[:, None] * T[1, 2]
    aside = x * T[0, 0] + y[:, None] * T[1, 0]
    return np.abs(aside) < 0.9 * ahead * CAMERA.cx / CAMERA.fx


def _at_the_end(
    hazard: Hazard, grid: OccupancyGrid2D, floor_seen: np.ndarray, config: OccupancyConfig
) -> dict[str, float | None]:
    rows, columns = grid.cells.shape
    x, y = (
        o + (np.arange(n) + 0.5) * grid.resolution
        for n, o in zip((columns, rows), grid.origin, strict=True)
    )
    band = (config.min_height, config.max_height)
    thing = hazard.thing(hazard.duration)
    dangerous = solid_columns(thing, x, y, grid.resolution, *band)
    deep = solid_columns(_shrunk(thing), x, y, grid.resolution, *band)
    if hazard.gap is not None:
        x0, y0, x1, y1 = hazard.gap
        half = grid.resolution / 2
        over = ((y - half > y0) & (y + half < y1))[:, None] & (x - half > x0) & (x + half < x1)
        inner = _DEEP + half
        deep = ((y - inner > y0) & (y + inner < y1))[:, None] & (x - inner > x0) & (x + inner < x1)
        dangerous = over
    free = grid.cells == FREE
    corners = np.array(hazard.room)  # the outer faces of its walls bound it
    low, high = corners[:, 0].min(0) + THICK - _BEHIND, corners[:, 1].max(0) - THICK + _BEHIND
    inside = ((y > low[1]) & (y < high[1]))[:, None] & (x > low[0]) & (x < high[0])
    solid = solid_columns(hazard.room + thing, x, y, grid.resolution, *band)
    floor = floor_seen & ~solid
    return {
        'free_on_solid': _share(free, dangerous),
        'deep': _share(free, deep),
        'behind': float((free & ~inside).sum()),
        'floor': _share(free, floor),
    }


def _shrunk(boxes: list[Box]) -> list[Box]:
    """The boxes without a margin of `_DEEP` on their sides; those that are narrower vanish."""
    return [
        ((x0 + _DEEP, y0 + _DEEP, z0), (x1 - _DEEP, y1 - _DEEP, z1))
        for (x0, y0, z0), (x1, y1, z1) in boxes
        if x1 - x0 > 2 * _DEEP and y1 - y0 > 2 * _DEEP
    ]


def _share(of: np.ndarray, among: np.ndarray) -> float | None:
    return float(of[among].mean()) if among.any() else None


def evaluate_hazards(
    seeds: Sequence[int],
    watched: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    config: OccupancyConfig | None = None,
    kinds: str = '',
    shown: Callable[[Hazard, HazardRun], None] | None = None,
) -> dict[str, Any]:
    """All hazards at all rates and noises, for each seed.

    Args:
        seeds: of the worlds.
        watched: applied to the runs, to count them.
        config: of the map; None: the defaults.
        kinds: those whose name holds this only.
        shown: given one run of every hazard of the first seed, at the last rate and 1 % of noise.

    Returns:
        `seeds`, `rates_hz`, `noises`, and `hazards`: for each name the number of `runs` and what
        `_summary` says of each number of `HazardRun`.
    """
    todo = [
        (hazard, rate_hz, noise, seed)
        for seed in seeds
        for hazard in hazards(seed)
        if kinds in hazard.name
        for rate_hz in RATES_HZ
        for noise in NOISES
    ]
    found: dict[str, list[Mapping[str, float | None]]] = {}
    for hazard, rate_hz, noise, seed in watched(todo):
        run = run_hazard(hazard, rate_hz, noise, seed, config)
        found.setdefault(hazard.name, []).append(run.numbers)
        if shown and (rate_hz, noise, seed) == (RATES_HZ[-1], NOISES[1], seeds[0]):
            shown(hazard, run)
    return {
        'seeds': list(seeds),
        'rates_hz': RATES_HZ,
        'noises': NOISES,
        'hazards': {name: {'runs': len(runs), **_summary(runs)} for name, runs in found.items()},
    }


def _summary(runs: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """`mean` and `worst` of each number; a time that never came makes the worst None."""
    summary = {}
    for name in {name: None for run in runs for name in run}:
        values = [run.get(name) for run in runs]
        known = [value for value in values if value is not None]
        worst = min if name in ('shown', 'first_shown', 'floor') else max
        never = name.endswith('after') and len(known) < len(values)
        summary[name] = {
            'mean': round(float(np.mean(known)), 4) if known else None,
            'worst': None if never or not known else round(worst(known), 4),
        }
    return summary
