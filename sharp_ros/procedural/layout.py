"""Random floor plans with walls, doors, windows and lights, furnished.

Homes, kitchens, offices, corridors with side rooms, workshops, laboratories, warehouses and tight
rooms. Lengths in metres, the floor is z = 0; a seed stands for a scene. `furnishing` says what
stands in the rooms.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sharp_ros.procedural.furnishing import furnish, furnish_with_totes, Room
from sharp_ros.procedural.scene import (
    Light,
    Material,
    Scene,
    SceneBuilder,
    Vector,
)
from sharp_ros.procedural.textures import Textures

STYLES = {  # share of the scenes
    'home': 0.26,
    'kitchen': 0.14,
    'office': 0.18,
    'corridor': 0.08,
    'workshop': 0.1,
    'laboratory': 0.07,
    'warehouse': 0.07,
    'tight': 0.1,
}
THEME = {  # of the small things lying about, see furniture.THEMES; others 'any'
    'kitchen': 'kitchen',
    'office': 'desk',
    'workshop': 'workshop',
    'laboratory': 'laboratory',
    'warehouse': 'workshop',
}
WALL = 0.12  # thickness


class Wall(NamedTuple):
    """From `start` to `end` along x (axis 0) or y (axis 1), at `offset` on the other axis."""

    axis: int
    start: float
    end: float
    offset: float

    def point(self, along: float, across: float, z: float) -> Vector:
        """World point from coordinates along and across the wall."""
        return (along, across, z) if self.axis == 0 else (across, along, z)


class Opening(NamedTuple):
    """A hole in a wall: `width` along it from `start`, from `bottom` to `top`."""

    start: float
    width: float
    bottom: float
    top: float

    @property
    def end(self) -> float:
        """Where along the wall it ends."""
        return self.start + self.width


def build_storey(
    rng: np.random.Generator, textures: Textures, totes: int = 0, clutter: float = 1.0
) -> tuple[Scene, list[Room]]:
    """A furnished storey and its rooms; the same state of `rng` gives the same scene.

    Args:
        rng: source of every random choice.
        textures: of its surfaces.
        totes: most open boxes full of things, in every room.
        clutter: factor on the number of small things.
    """
    builder = SceneBuilder(rng, textures)
    builder.clutter = clutter
    style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
    builder.theme = THEME.get(style, 'any')
    width, length, height = _storey_size(rng, style)
    rooms, inner_walls = _partition(rng, style, width, length, height)
    main_wall = _wall_material(builder)
    _add_floors_and_ceiling(builder, rooms, width, length, height)
    for wall in inner_walls:
        _add_inner_wall(builder, wall, rooms, height, main_wall)
    for wall, inwards in (
        (Wall(0, 0, width, -WALL / 2), 1),
        (Wall(0, 0, width, length + WALL / 2), -1),
        (Wall(1, 0, length, -WALL / 2), 1),
        (Wall(1, 0, length, width + WALL / 2), -1),
    ):
        _add_outer_wall(builder, wall, inwards, height, main_wall)
    density = rng.uniform(0.5, 1.5)
    lamps = rng.choice([rng.uniform(0.02, 0.2), 1.0], p=[0.2, 0.8])  # off or dimmed
    for room in rooms:
        furnish(builder, room, main_wall, style, density, lamps)
        if totes:
            furnish_with_totes(builder, room, main_wall, int(rng.integers(0, totes + 1)))
    ambient = np.exp(rng.normal(0, 0.06, 3)) * rng.uniform(0.25, 0.9) * lamps**0.5
    return builder.finish(ambient.astype(np.float32)), rooms


def _storey_size(rng: np.random.Generator, style: str) -> tuple[float, float, float]:
    """Width, length and height."""
    height = float(np.clip(rng.normal(2.6, 0.25), 2.05, 3.6))
    if style == 'home':
        return rng.uniform(4, 10), rng.uniform(3.5, 9), height
    if style == 'kitchen':
        return rng.uniform(2.4, 6), rng.uniform(2.4, 6), height
    if style in ('office', 'laboratory'):
        return rng.uniform(4, 14), rng.uniform(4, 12), height + 0.2
    if style == 'workshop':
        return rng.uniform(3.5, 12), rng.uniform(3.5, 10), height + rng.uniform(0, 1.5)
    if style == 'corridor':
        return rng.uniform(6, 22), rng.uniform(4, 8), height
    if style == 'tight':
        return rng.uniform(2.2, 4.5), rng.uniform(2.2, 4.5), height
    return rng.uniform(8, 20), rng.uniform(8, 16), rng.uniform(3.5, 7)


def _partition(
    rng: np.random.Generator, style: str, width: float, length: float, height: float
) -> tuple[list[Room], list[Wall]]:
    """Rooms and the walls between them, by splitting rectangles in two again and again."""
    rooms: list[Room] = []
    walls: list[Wall] = []

    def split(x0: float, y0: float, x1: float, y1: float, depth: int) -> None:
        size_x, size_y = x1 - x0, y1 - y0
        longer = max(size_x, size_y)
        if depth == 0 or longer < 4.2 or (rng.uniform() < 0.25 and size_x * size_y < 40):
            rooms.append(Room((x0, y0, x1, y1), height))
            return
        cut = rng.uniform(0.35, 0.65) * longer
        if size_x > size_y:
            walls.append(Wall(1, y0, y1, x0 + cut))
            split(x0, y0, x0 + cut - WALL / 2, y1, depth - 1)
            split(x0 + cut + WALL / 2, y0, x1, y1, depth - 1)
        else:
            walls.append(Wall(0, x0, x1, y0 + cut))
            split(x0, y0, x1, y0 + cut - WALL / 2, depth - 1)
            split(x0, y0 + cut + WALL / 2, x1, y1, depth - 1)

    if style != 'corridor':
        whole = style in ('tight', 'warehouse', 'workshop')
        split(0, 0, width, length, 0 if whole else int(rng.integers(0, 4)))
        return rooms, walls
    across = rng.uniform(1.1, 2.6)
    start = rng.uniform(0.3, 0.7) * (length - across)
    rooms.append(Room((0, start, width, start + across), height))
    walls.append(Wall(0, 0, width, start - WALL / 2))
    if start > 1.5:
        split(0, 0, width, start - WALL, 2)
    walls.append(Wall(0, 0, width, start + across + WALL / 2))
    if length - start - across > 1.5:
        split(0, start + across + WALL, width, length, 2)
    return rooms, walls


def _wall_material(builder: SceneBuilder) -> Material:
    rng = builder.rng
    if rng.uniform() < 0.72:
        bright = rng.uniform() < 0.75
        return builder.material('plain', builder.colour(0.55) if bright else builder.colour())
    return builder.material_of(
        'brick',
        'tile',
        'concrete',
        'planks',
        'stripes',
        'worn',
        'wood',
        p=[0.2, 0.18, 0.2, 0.1, 0.08, 0.16, 0.08],
    )


def _add_floors_and_ceiling(
    builder: SceneBuilder, rooms: list[Room], width: float, length: float, height: float
) -> None:
    rng = builder.rng
    floor: Material | None = None
    for room in rooms:
        if floor is None or rng.uniform() < 0.5:
            kind = rng.choice(
                ['planks', 'tile', 'carpet', 'concrete', 'granite', 'terrazzo', 'worn', 'plain'],
                p=[0.27, 0.22, 0.2, 0.09, 0.05, 0.05, 0.06, 0.06],
            )
            gloss = float(rng.choice([0, rng.uniform(0.2, 1.0)], p=[0.55, 0.45]))
            floor = builder.material(kind, gloss=gloss)
        x0, y0, x1, y1 = room.bounds
        size = (x1 - x0 + 0.2, y1 - y0 + 0.2, 0.1)
        builder.box(size, ((x0 + x1) / 2, (y0 + y1) / 2, -0.1), 0, floor)
    if rng.uniform() < 0.7:
        ceiling = builder.material('plain', builder.colour(0.75))
    else:
        ceiling = builder.material_of('tile', 'concrete', 'planks', 'plain')
    builder.box((width + 1, length + 1, 0.1), (width / 2, length / 2, height), 0, ceiling)


def _add_inner_wall(
    builder: SceneBuilder, wall: Wall, rooms: list[Room], height: float, main: Material
) -> None:
    """A wall with at least one doorway, if one fits."""
    rng = builder.rng
    material = main if rng.uniform() < 0.6 else _wall_material(builder)
    openings = []
    span = wall.end - wall.start
    count = max(1, int(span / rng.uniform(3, 7)))
    for i in range(count):
        low = wall.start + span * i / count + 0.2
        high = wall.start + span * (i + 1) / count - 0.2
        width = rng.choice([rng.uniform(0.75, 1.05), rng.uniform(1.2, 2.5)], p=[0.75, 0.25])
        if high - low < width + 0.1:
            continue
        start = rng.uniform(low, high - width)
        top = rng.uniform(1.95, 2.15) if rng.uniform() < 0.9 else height - 0.01
        openings.append(Opening(start, width, 0, min(top, height - 0.01)))
        _add_doorway(builder, wall, rooms, start, width, top)
    _add_wall(builder, wall, height, material, openings)


def _add_doorway(
    builder: SceneBuilder, wall: Wall, rooms: list[Room], start: float, width: float, top: float
) -> None:
    """Frame and, for narrow ones, perhaps a door leaf; the floor around is kept free."""
    rng = builder.rng
    leaf = builder.material_of('wood', 'plain')
    frame = builder.material_of('plain', 'wood')
    post = 0.07
    for along in (start - post / 2, start + width + post / 2):
        size = wall.point(post, 0.16, top)
        builder.box(size, wall.point(along, wall.offset, 0), 0, frame)
    chance = rng.uniform()
    for room in rooms:
        x0, y0, _ = wall.point(start, wall.offset - 0.9, 0)
        x1, y1, _ = wall.point(start + width, wall.offset + 0.9, 0)
        room.taken.append((x0, y0, x1, y1))
    if width >= 1.1 or chance >= 0.65:
        return
    angle = 0 if chance < 0.25 else rng.uniform(0.3, 1.7) * rng.choice([-1, 1])
    yaw = (0 if wall.axis == 0 else math.pi / 2) + angle
    x, y, _ = wall.point(start, wall.offset, 0)
    c, s = math.cos(yaw), math.sin(yaw)
    part = builder.new_part()
    place = (x + c * width / 2, y + s * width / 2, 0)
    builder.box((width, 0.04, top - 0.01), place, yaw, leaf, part)
    place = (x + c * width * 0.88, y + s * width * 0.88, 1.0)
    builder.box((0.12, 0.14, 0.02), place, yaw, builder.material('metal'), part)


def _add_outer_wall(
    builder: SceneBuilder, wall: Wall, inwards: int, height: float, main: Material
) -> None:
    """A wall with or without windows; `inwards` is the sign of the direction into the storey."""
    rng = builder.rng
    openings = []
    along = wall.start + rng.uniform(0.3, 1.5)
    material = main if rng.uniform() < 0.7 else _wall_material(builder)
    has_windows = rng.uniform() < 0.5
    while has_windows and along < wall.end - 1.2:
        width = min(rng.uniform(0.7, 2.2), wall.end - along - 0.3)
        bottom = rng.choice([rng.uniform(0.8, 1.1), rng.uniform(0.02, 0.3)], p=[0.8, 0.2])
        top = min(height - 0.15, bottom + rng.uniform(0.9, 1.5) if bottom > 0.5 else 2.2)
        openings.append(Opening(along, width, bottom, top))
        _add_window(builder, wall, inwards, openings[-1])
        along += width + rng.uniform(0.3, 2.5)
    ends = wall._replace(start=wall.start - WALL, end=wall.end + WALL)
    _add_wall(builder, ends, height, material, openings)


def _add_window(builder: SceneBuilder, wall: Wall, inwards: int, opening: Opening) -> None:
    """A shining panel behind the opening, a frame, perhaps a blind, and the light it gives."""
    rng = builder.rng
    start, width, bottom, top = opening
    rise = top - bottom
    daylight = rng.choice([0.05, rng.uniform(0.6, 4.0), rng.uniform(4.0, 12.0)], p=[0.2, 0.6, 0.2])
    middle = start + width / 2
    if wall.axis == 0:
        yaw = 0 if inwards < 0 else math.pi
    else:
        yaw = -math.pi / 2 if inwards < 0 else math.pi / 2
    lap = 0.06  # so that nobody sees past its edge
    outside = wall.point(middle, wall.offset - 0.08 * inwards, bottom - lap)
    kind = str(rng.choice(['photo', 'overcast', 'plain'], p=[0.5, 0.25, 0.25]))
    builder.panel(width + 2 * lap, rise + 2 * lap, outside, yaw, kind, emission=daylight)
    frame = builder.material('plain', builder.colour(0.7))
    bar = rng.uniform(0.03, 0.07)
    for along in np.linspace(start, start + width, rng.integers(2, 4)):
        place = wall.point(along, wall.offset, bottom)
        builder.box(wall.point(bar, 0.08, rise), place, 0, frame)
    for z in (bottom, top - bar):
        builder.box(wall.point(width, 0.1, bar), wall.point(middle, wall.offset, z), 0, frame)
    inside = wall.offset + inwards * 0.1
    if rng.uniform() < 0.25:
        drop = rng.uniform(0.3, 1) * rise
        place = wall.point(middle, inside, top - drop)
        blind = builder.material_of('slats', 'fabric')
        builder.box(wall.point(width, 0.02, drop), place, 0, blind)
    elif rng.uniform() < 0.4:
        curtain = builder.material('folds')
        for along in (start, start + width):
            side = rng.uniform(0.15, 0.45) * width
            place = wall.point(along, inside, 0.02 if bottom < 0.5 else bottom - 0.15)
            builder.box(wall.point(side, 0.05, top - place[2] + 0.1), place, 0, curtain)
    if bottom > 0.6 and rng.uniform() < 0.4:
        radiator = builder.material('slats', builder.colour(0.7))
        place = wall.point(middle, wall.offset + inwards * (WALL / 2 + 0.08), 0.12)
        builder.box(wall.point(width * 0.8, 0.1, bottom - 0.3), place, 0, radiator)
    across = np.array(wall.point(width, 0, 0.0))
    power = np.array([0.85, 0.95, 1.1]) * daylight * width * rise * rng.uniform(0.6, 1.6)
    builder.lights.append(
        Light(
            np.array(wall.point(middle, inside, bottom)) - across / 2,
            across,
            np.array([0, 0, rise]),
            np.array(wall.point(0, inwards, 0.0)),
            power,
        )
    )


def _add_wall(
    builder: SceneBuilder, wall: Wall, height: float, material: Material, openings: list[Opening]
) -> None:
    """The solid parts of a wall around its openings."""
    part = builder.new_part()

    def solid(start: float, end: float, bottom: float, top: float) -> None:
        if end - start < 1e-3 or top - bottom < 1e-3:
            return
        size = wall.point(end - start, WALL, top - bottom)
        place = wall.point((start + end) / 2, wall.offset, bottom)
        builder.box(size, place, 0, material, part)

    reached = wall.start
    for opening in sorted(openings):
        solid(reached, opening.start, 0, height)
        solid(opening.start, opening.end, 0, opening.bottom)
        solid(opening.start, opening.end, opening.top, height)
        reached = opening.end
    solid(reached, wall.end, 0, height)
