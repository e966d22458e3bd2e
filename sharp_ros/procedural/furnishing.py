"""What stands in a room, hangs on its walls and lights it.

Lengths in metres, the floor is z = 0. One module: the pieces of a room are laid out against each
other; `Room` knows which parts of the floor are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import math

import numpy as np

from sharp_ros.procedural.clutter import add_clutter, local_frame
from sharp_ros.procedural.furniture import (
    add_bed,
    add_bench,
    add_cabinet,
    add_chair,
    add_kitchen,
    add_machine,
    add_model,
    add_person,
    add_pile,
    add_plant,
    add_rack,
    add_shelf,
    add_sofa,
    add_table,
    add_tote,
)
from sharp_ros.procedural.scene import (
    Light,
    Material,
    Piece,
    SceneBuilder,
    Target,
    UNLIMITED,
    Vector,
)

FURNITURE_DENSITY = {'corridor': 0.35, 'warehouse': 0.3, 'tight': 1.2}  # per m2, others 0.6
PIECES = {  # how often each piece of furniture is tried
    'low_cabinet': 25.0,
    'table': 16.0,
    'chair': 7.0,
    'shelf': 11.0,
    'tall_cabinet': 9.0,
    'kitchen': 2.0,
    'sofa': 4.0,
    'bed': 1.5,
    'person': 5.0,
    'plant': 4.0,
    'pile': 5.0,
    'drum': 3.0,
    'pillar': 2.0,
    'bench': 1.0,
    'machine': 1.0,
    'rack': 0.0,
    'things_on_floor': 6.0,
}
EMPHASIS = {  # where that differs by style
    'home': {'sofa': 8.0, 'bed': 3.0, 'kitchen': 3.0},
    'kitchen': {'kitchen': 45.0, 'table': 20.0, 'chair': 10.0, 'low_cabinet': 12.0, 'bed': 0.0},
    'office': {'table': 25.0, 'chair': 12.0, 'bed': 0.0},
    'workshop': {
        'bench': 25.0,
        'machine': 10.0,
        'rack': 5.0,
        'pile': 10.0,
        'bed': 0.0,
        'sofa': 0.0,
    },
    'laboratory': {'bench': 35.0, 'machine': 10.0, 'bed': 0.0, 'sofa': 0.0},
    'warehouse': {'rack': 45.0, 'pile': 20.0, 'machine': 5.0, 'bed': 0.0, 'sofa': 0.0},
}
# Roles of the models that stand in for a piece, see `meshes.RULES`, and how often at a wall.
ROLES = {
    'low_cabinet': (('cabinet', 'cabinet', 'kitchen', 'bath', 'thing'), 0.9),
    'table': (('table',), 0.5),
    'chair': (('chair',), 0.2),
    'shelf': (('shelf',), 0.95),
    'tall_cabinet': (('shelf', 'kitchen'), 1.0),
    'kitchen': (('kitchen',), 1.0),
    'sofa': (('sofa',), 0.7),
    'bed': (('bed',), 1.0),
    'person': (('person',), 0.1),
    'plant': (('plant',), 0.5),
    'pile': (('thing', 'lamp'), 0.6),
    'drum': (('thing', 'bath', 'lamp'), 0.6),
    'machine': (('kitchen', 'thing'), 0.6),
}
MAX_PIECES = 26  # of furniture in a room

Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1
AddAt = Callable[[float, float, float], object]  # x, y, yaw


@dataclass(frozen=True)
class Room:
    """An axis-aligned room and the parts of its floor that are taken."""

    bounds: Rectangle
    height: float
    taken: list[Rectangle] = field(default_factory=list)

    def is_free(self, area: Rectangle, margin: float) -> bool:
        """Whether an area lies inside and keeps a margin from everything there."""
        x0, y0, x1, y1 = area
        left, top, right, bottom = self.bounds
        if x0 < left or y0 < top or x1 > right or y1 > bottom:
            return False
        return all(
            x1 + margin < a or x0 - margin > c or y1 + margin < b or y0 - margin > d
            for a, b, c, d in self.taken
        )


def furnish(
    builder: SceneBuilder, room: Room, wall: Material, style: str, density: float, lamps: float
) -> None:
    """Fill a room: furniture, what is on the walls, lights, and what runs below the ceiling.

    Args:
        builder: of the scene.
        room: to furnish.
        wall: material of pillars.
        style: key of `EMPHASIS` and `FURNITURE_DENSITY`, if they have it.
        density: times the usual number of pieces.
        lamps: share of the power of lights on the ceiling.
    """
    Furnisher(builder, room, wall, style).furnish(FURNITURE_DENSITY.get(style, 0.6) * density)
    _add_wall_pieces(builder, room)
    _add_lights(builder, room, style, lamps)
    _add_ducts(builder, room, style)


def furnish_with_totes(builder: SceneBuilder, room: Room, wall: Material, count: int) -> None:
    """Put open boxes full of things on the free floor, on stands of the height of a table."""
    furnisher, rng = Furnisher(builder, room, wall), builder.rng
    for _ in range(count):
        width, depth = rng.uniform(0.35, 0.65), rng.uniform(0.28, 0.45)
        height = rng.choice([0.0, rng.uniform(0.3, 1.0)], p=[0.3, 0.7])

        def add(
            x: float,
            y: float,
            yaw: float,
            size: tuple[float, float, float] = (width, depth, height),
        ) -> None:
            add_tote(builder, x, y, *size, yaw)

        furnisher.anywhere(width, depth, add)


class Furnisher:
    """Fills one room with furniture that stands free or along its walls.

    Args:
        builder: of the scene.
        room: to furnish.
        wall: material of pillars.
        style: key of `EMPHASIS`, if it has one.
    """

    def __init__(self, builder: SceneBuilder, room: Room, wall: Material, style: str = '') -> None:
        self._builder, self._room, self._wall = builder, room, wall
        self._rng = builder.rng
        x0, y0, x1, y1 = room.bounds
        self._width, self._length = x1 - x0, y1 - y0
        self._weights = PIECES | EMPHASIS.get(style, {})

    def furnish(self, density: float) -> None:
        """Add about `density` pieces per square metre."""
        rng = self._rng
        area = self._width * self._length
        count = int(area * density * rng.uniform(0.5, 1.3)) + rng.integers(0, 3)
        share = np.array(list(self._weights.values()))
        for piece in rng.choice(
            list(self._weights), min(count, MAX_PIECES), p=share / share.sum()
        ):
            roles, chance = ROLES.get(piece, ((), 0.0))
            if not (roles and self.model(*roles, chance=chance)):
                getattr(self, f'_{piece}')()

    def model(self, *roles: str, chance: float = 0.0, largest: Vector = UNLIMITED) -> bool:
        """Put a model, along a wall with this chance; False if there was none to be put.

        True does not say that a place was found.
        """
        builder = self._builder
        highest = min(largest[2], self._room.height - 0.05)
        piece = builder.pick(*roles, largest=(largest[0], largest[1], highest))
        if piece is None:
            return False
        width, depth, _ = (float(side) for side in piece.size)
        if piece.model.role == 'kitchen' and roles == ('kitchen',):
            self._kitchen_row(piece)
            return True

        def add(x: float, y: float, yaw: float) -> None:
            add_model(builder, piece, (x, y, 0.0), yaw)
            if piece.model.role == 'table' and piece.model.size[2] > 0.6:
                self._chairs_around(x, y, width, depth, yaw)

        self._mostly_along_wall(chance, width, depth, add)
        return True

    def _chairs_around(self, x: float, y: float, width: float, depth: float, yaw: float) -> None:
        """Models of chairs, of one kind or of several, that face a table."""
        rng, builder, piece = self._rng, self._builder, None
        for _ in range(rng.integers(0, 5)):
            if piece is None or rng.uniform() < 0.2:
                piece = builder.pick('chair', largest=(0.7, 0.7, 1.1), share=1.0)
            if piece is None:
                return
            side = rng.integers(4)
            reach, along = (depth, width) if side % 2 == 0 else (width, depth)
            turned = yaw + side * math.pi / 2
            away = reach / 2 + piece.size[1] / 2 + rng.uniform(0.02, 0.3)
            place = local_frame(x, y, turned)(rng.uniform(-0.35, 0.35) * along, away, 0.0)
            facing = turned + rng.normal(0, 0.25)
            if self._take(_footprint(place, piece.size, facing), 0.01):
                builder.model(piece, place, facing)

    def _kitchen_row(self, first: Piece) -> None:
        """Cabinets and machines beside each other, perhaps cupboards above them."""
        builder, rng = self._builder, self._rng
        row, reach = [first], rng.uniform(1.2, 3.6)
        while sum(piece.size[0] for piece in row) < reach:
            piece = builder.pick('kitchen', largest=(1.2, 0.75, 1.3), share=1.0)
            if piece is None:
                break
            row.append(piece)
        gap = 0.01
        width = sum(piece.size[0] + gap for piece in row)
        depth = max(piece.size[1] for piece in row)
        hung = [builder.pick('hung', categories=('Kitchen',), share=0.6) for _ in row]

        def add(x: float, y: float, yaw: float) -> None:
            at = local_frame(x, y, yaw)
            u = -width / 2
            for piece, above in zip(row, hung, strict=True):
                middle = u + (piece.size[0] + gap) / 2
                place = at(middle, (depth - piece.size[1]) / 2, 0.0)
                add_model(builder, piece, place, yaw)
                u += piece.size[0] + gap
                if above is None or above.size[0] > piece.size[0] + gap:
                    continue
                z = above.model.elevation
                if piece.size[2] + 0.3 < z < self._room.height - above.size[2]:
                    back = at(middle, (depth - above.size[1]) / 2, z)
                    builder.model(above, back, yaw)

        self.along_wall(width, depth, add)

    def along_wall(self, width: float, depth: float, add: AddAt) -> bool:
        """Put a piece with its back to a wall; False if no place was found."""
        rng = self._rng
        x0, y0, x1, y1 = self._room.bounds
        for _ in range(8):
            side = rng.integers(4)
            wall, other = self._width, self._length
            if side >= 2:
                wall, other = other, wall
            if width > wall - 0.05 or depth > other * 0.6:
                continue
            along = rng.uniform(width / 2, wall - width / 2)
            gap = rng.uniform(0, 0.06)
            x, y, yaw = (
                (x0 + along, y1 - depth / 2 - gap, 0.0),
                (x0 + along, y0 + depth / 2 + gap, math.pi),
                (x1 - depth / 2 - gap, y0 + along, -math.pi / 2),
                (x0 + depth / 2 + gap, y0 + along, math.pi / 2),
            )[side]
            half_x, half_y = (width / 2, depth / 2) if side < 2 else (depth / 2, width / 2)
            if self._take((x - half_x, y - half_y, x + half_x, y + half_y), 0.02):
                add(x, y, yaw)
                return True
        return False

    def anywhere(self, width: float, depth: float, add: AddAt) -> bool:
        """Put a piece on the free floor, turned; False if no place was found."""
        rng = self._rng
        x0, y0, x1, y1 = self._room.bounds
        for _ in range(8):
            yaw = rng.choice([0, math.pi / 2, math.pi, -math.pi / 2])
            yaw = yaw + (rng.normal(0, 0.1) if rng.uniform() < 0.6 else rng.uniform(-1, 1))
            half_x, half_y = _reach(width, depth, yaw)
            if 2 * half_x > self._width - 0.1 or 2 * half_y > self._length - 0.1:
                continue
            x, y = rng.uniform(x0 + half_x, x1 - half_x), rng.uniform(y0 + half_y, y1 - half_y)
            if self._take((x - half_x, y - half_y, x + half_x, y + half_y), 0.05):
                add(x, y, yaw)
                return True
        return False

    def _take(self, area: Rectangle, margin: float) -> bool:
        if not self._room.is_free(area, margin):
            return False
        self._room.taken.append(area)
        return True

    def _mostly_along_wall(self, chance: float, width: float, depth: float, add: AddAt) -> bool:
        """Along a wall with this chance, otherwise anywhere."""
        place = self.along_wall if self._rng.uniform() < chance else self.anywhere
        return place(width, depth, add)

    def _cabinet(self, width: float, depth: float, height: float) -> None:
        self.along_wall(
            width,
            depth,
            lambda x, y, yaw: add_cabinet(self._builder, x, y, width, depth, height, yaw),
        )

    def _low_cabinet(self) -> None:
        rng = self._rng
        self._cabinet(rng.uniform(0.4, 1.6), rng.uniform(0.35, 0.65), rng.uniform(0.5, 2.0))

    def _tall_cabinet(self) -> None:
        rng = self._rng
        width, depth = rng.uniform(0.4, 2.4), rng.uniform(0.35, 0.65)
        self._cabinet(width, depth, rng.choice([rng.uniform(0.5, 1.0), rng.uniform(1.5, 2.3)]))

    def _table(self) -> None:
        """A table, perhaps with chairs around it."""
        rng, builder = self._rng, self._builder
        width, depth = rng.uniform(0.7, 2.2), rng.uniform(0.5, 1.0)
        heights = [rng.uniform(0.68, 0.8), rng.uniform(0.35, 0.55), rng.uniform(0.85, 1.1)]
        height = rng.choice(heights, p=[0.7, 0.2, 0.1])

        def add(x: float, y: float, yaw: float) -> None:
            add_table(builder, x, y, width, depth, height, yaw)

        if not self._mostly_along_wall(0.5, width, depth, add):
            return
        left, top, right, bottom = self._room.taken[-1]
        x, y = (left + right) / 2, (top + bottom) / 2
        x0, y0, x1, y1 = self._room.bounds
        for _ in range(rng.integers(0, 5)):
            angle = rng.uniform(0, 6.28)
            u = x + math.cos(angle) * ((right - left) / 2 + 0.2)
            v = y + math.sin(angle) * ((bottom - top) / 2 + 0.2)
            if x0 + 0.3 < u < x1 - 0.3 and y0 + 0.3 < v < y1 - 0.3:
                yaw = math.atan2(v - y, u - x) - math.pi / 2 + rng.normal(0, 0.4)
                seat = add_chair(builder, u, v, yaw)
                if rng.uniform() < 0.15:
                    add_person(builder, u, v, yaw, seat)

    def _chair(self) -> None:
        def add(x: float, y: float, yaw: float) -> None:
            add_chair(self._builder, x, y, self._rng.uniform(0, 6.28))

        self.anywhere(0.5, 0.5, add)

    def _shelf(self) -> None:
        rng = self._rng
        width, depth, height = rng.uniform(0.5, 1.8), rng.uniform(0.25, 0.5), rng.uniform(0.7, 2.3)

        def add(x: float, y: float, yaw: float) -> None:
            add_shelf(self._builder, x, y, width, depth, height, yaw)

        self._mostly_along_wall(0.85, width, depth, add)

    def _kitchen(self) -> None:
        width = self._rng.uniform(1.2, 3.6)
        self.along_wall(
            width, 0.66, lambda x, y, yaw: add_kitchen(self._builder, x, y, width, yaw)
        )

    def _sofa(self) -> None:
        width, depth = self._rng.uniform(0.8, 2.4), self._rng.uniform(0.7, 1.0)

        def add(x: float, y: float, yaw: float) -> None:
            add_sofa(self._builder, x, y, width, depth, yaw)

        self._mostly_along_wall(0.7, width, depth, add)

    def _bed(self) -> None:
        width, depth = self._rng.uniform(0.9, 1.9), 2.05
        self.along_wall(
            width, depth, lambda x, y, yaw: add_bed(self._builder, x, y, width, depth, yaw)
        )

    def _person(self) -> None:
        def add(x: float, y: float, yaw: float) -> None:
            add_person(self._builder, x, y, self._rng.uniform(0, 6.28))

        self.anywhere(0.5, 0.4, add)

    def _plant(self) -> None:
        self.anywhere(0.5, 0.5, lambda x, y, yaw: add_plant(self._builder, x, y))

    def _pile(self) -> None:
        width = self._rng.uniform(0.3, 0.8)
        self._mostly_along_wall(
            0.6, width, width, lambda x, y, yaw: add_pile(self._builder, x, y, width)
        )

    def _drum(self) -> None:
        diameter, height = self._rng.uniform(0.2, 0.6), self._rng.uniform(0.3, 1.1)

        def add(x: float, y: float, yaw: float) -> None:
            self._builder.cylinder(diameter, height, (x, y, 0), self._builder.material())

        self.anywhere(diameter, diameter, add)

    def _pillar(self) -> None:
        side = self._rng.uniform(0.2, 0.5)
        size = (side, side, self._room.height)
        self.along_wall(
            side, side, lambda x, y, yaw: self._builder.box(size, (x, y, 0), yaw, self._wall)
        )

    def _bench(self) -> None:
        rng = self._rng
        width, depth, height = (
            rng.uniform(1.0, 3.0),
            rng.uniform(0.55, 0.85),
            rng.uniform(0.8, 1.0),
        )

        def add(x: float, y: float, yaw: float) -> None:
            add_bench(self._builder, x, y, width, depth, height, yaw)

        self._mostly_along_wall(0.8, width, depth, add)

    def _machine(self) -> None:
        width, depth = self._rng.uniform(0.4, 1.5), self._rng.uniform(0.4, 0.9)

        def add(x: float, y: float, yaw: float) -> None:
            add_machine(self._builder, x, y, width, depth, yaw)

        self._mostly_along_wall(0.6, width, depth, add)

    def _rack(self) -> None:
        rng = self._rng
        width, depth = rng.uniform(1.2, 3.2), rng.uniform(0.5, 1.1)
        height = min(rng.uniform(1.8, 5.0), self._room.height - 0.1)

        def add(x: float, y: float, yaw: float) -> None:
            add_rack(self._builder, x, y, width, depth, height, yaw)

        self._mostly_along_wall(0.5, width, depth, add)

    def _things_on_floor(self) -> None:
        rng = self._rng
        width, depth = rng.uniform(0.4, 1.2), rng.uniform(0.4, 1.2)

        def add(x: float, y: float, yaw: float) -> None:
            count = int(rng.integers(1, 2 + int(8 * width * depth)))
            add_clutter(self._builder, x, y, 0, width, depth, yaw, count, 'floor')
            self._builder.targets.append(Target((x, y, 0.05), None))

        self.anywhere(width, depth, add)


def _reach(width: float, depth: float, yaw: float) -> tuple[float, float]:
    """Half the sides of the upright rectangle around a turned piece."""
    c, s = abs(math.cos(yaw)), abs(math.sin(yaw))
    return (width * c + depth * s) / 2, (width * s + depth * c) / 2


def _footprint(place: Vector, size: np.ndarray, yaw: float) -> Rectangle:
    """The upright rectangle around a turned piece."""
    x, y, _ = place
    half_x, half_y = _reach(size[0], size[1], yaw)
    return (x - half_x, y - half_y, x + half_x, y + half_y)


def _add_wall_pieces(builder: SceneBuilder, room: Room) -> None:
    """A rug, what hangs on the walls, and the skirting board."""
    rng = builder.rng
    x0, y0, x1, y1 = room.bounds
    width, length = x1 - x0, y1 - y0
    if rng.uniform() < 0.3:
        size = (width * rng.uniform(0.3, 0.7), length * rng.uniform(0.3, 0.7), 0.012)
        place = ((x0 + x1) / 2 + rng.normal(0, 0.2), (y0 + y1) / 2 + rng.normal(0, 0.2), 0)
        builder.box(size, place, 0, builder.material_of('carpet', 'fabric', 'rug', 'rug'))
    for _ in range(rng.integers(0, 9)):
        side = rng.integers(4)
        along = rng.uniform(0.3, max(0.31, (width if side < 2 else length) - 0.3))
        x, y, yaw = (
            (x0 + along, y1 - 0.015, 0.0),
            (x0 + along, y0 + 0.015, math.pi),
            (x1 - 0.015, y0 + along, -math.pi / 2),
            (x0 + 0.015, y0 + along, math.pi / 2),
        )[side]
        _add_hanging(builder, room, x, y, yaw)
    if rng.uniform() < 0.7:
        board = builder.material_of('plain', 'wood')
        height = rng.uniform(0.05, 0.14)
        for x, y, size_x, size_y in (
            ((x0 + x1) / 2, y0 + 0.008, width, 0.016),
            ((x0 + x1) / 2, y1 - 0.008, width, 0.016),
            (x0 + 0.008, (y0 + y1) / 2, 0.016, length),
            (x1 - 0.008, (y0 + y1) / 2, 0.016, length),
        ):
            if rng.uniform() < 0.8:
                builder.box((size_x, size_y, height), (x, y, 0), 0, board)


def _add_hanging(builder: SceneBuilder, room: Room, x: float, y: float, yaw: float) -> None:
    """A picture, a board or screen, a socket or switch, a wall shelf, a cupboard, or nothing."""
    rng = builder.rng
    c, s = math.cos(yaw), math.sin(yaw)
    piece = builder.pick('hung', share=0.4)
    if piece is not None:
        out = float(piece.size[1]) / 2 - 0.01
        place = (x + s * out, y - c * out, piece.model.elevation)
        area = _footprint(place, piece.size, yaw)
        below = piece.model.elevation + piece.size[2] < room.height
        if below and room.is_free(area, 0.01):
            room.taken.append(area)
            builder.model(piece, place, yaw)
        return
    chance = rng.uniform()
    if chance < 0.5:
        width, height, z = rng.uniform(0.2, 1.2), rng.uniform(0.2, 0.9), rng.uniform(0.9, 1.7)
        kind = rng.choice(['picture', 'poster', 'sign'], p=[0.6, 0.25, 0.15])
        thickness = rng.uniform(0.01, 0.05)
        builder.panel(width, height, (x, y, z), yaw, kind, thickness, gloss=builder.sheen(0.4))
    elif chance < 0.6:
        size = (rng.uniform(0.6, 2.2), 0.03, rng.uniform(0.5, 1.1))
        black_or_white = np.full(3, rng.choice([0.03, 0.85]), np.float32)
        builder.box(size, (x, y, 0.9), yaw, builder.material('plain', black_or_white))
    elif chance < 0.7:
        size = (rng.uniform(0.08, 0.4), 0.03, rng.uniform(0.08, 0.3))
        place = (x, y, rng.choice([0.25, 1.1, 1.5]))
        builder.box(size, place, yaw, builder.material('plain'))
    elif chance < 0.82 and room.height > 2:
        depth = rng.uniform(0.2, 0.35)
        size = (rng.uniform(0.5, 1.8), depth, 0.03)
        x, y = x + s * depth / 2, y - c * depth / 2
        builder.box(size, (x, y, 1.5), yaw, builder.material('wood'))
        add_clutter(builder, x, y, 1.53, size[0] * 0.9, depth, yaw, 6)
    elif chance < 0.87:  # a closed door that leads elsewhere
        leaf = builder.material_of('wood', 'plain', 'worn')
        part = builder.new_part()
        builder.box((1.0, 0.05, 2.05), (x, y, 0), yaw, builder.material('plain'), part)
        builder.box((0.86, 0.07, 1.98), (x, y, 0), yaw, leaf, part)
        handle = (x + c * 0.35 + s * 0.06, y + s * 0.35 - c * 0.06, 1.02)
        builder.box((0.12, 0.05, 0.02), handle, yaw, builder.material('metal'), part)
    elif chance < 0.94:
        depth = 0.35
        size = (rng.uniform(0.5, 1.8), depth, 0.7)
        place = (x + s * depth / 2, y - c * depth / 2, 1.45)
        builder.box(size, place, yaw, builder.material_of('wood', 'plain'))


def _add_lights(builder: SceneBuilder, room: Room, style: str, share: float) -> None:
    """Ceiling lights at a share of their power, perhaps a lamp at the height of furniture."""
    rng = builder.rng
    x0, y0, x1, y1 = room.bounds
    width, length = x1 - x0, y1 - y0
    area = width * length
    coolness = rng.uniform(0, 1)
    colour = np.array([1, 0.75 + 0.25 * coolness, 0.5 + 0.55 * coolness], np.float32)
    power = area * rng.uniform(1.5, 4.0) * share
    count = 1 if area < 10 else (2 if area < 25 else min(4, int(area / 10)))
    if rng.uniform() < 0.12:
        power *= 0.1
    for i in range(count):
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        if width > length:
            x = x0 + width * (i + 0.5) / count
        else:
            y = y0 + length * (i + 0.5) / count
        x += rng.normal(0, 0.2)
        y += rng.normal(0, 0.2)
        if style == 'office' or rng.uniform() < 0.4:
            size_x, size_y = rng.choice([(0.6, 0.6), (1.2, 0.3), (1.2, 0.15)])
            yaw = rng.choice([0, math.pi / 2])
            size, place = (size_x, size_y, 0.06), (x, y, room.height - 0.06)
            material = builder.material('plain', colour * 0.9)
            builder.box(size, place, yaw, material, emission=rng.uniform(2, 8) * share)
            z = room.height - 0.1
        else:
            size_x = size_y = rng.uniform(0.1, 0.4)
            z = room.height - rng.uniform(0.1, 0.7)
            material = builder.material('plain', colour * 0.9)
            size = (size_x, size_x, size_x * 0.6)
            builder.sphere(size, (x, y, z), material, emission=rng.uniform(1, 6) * share)
            z -= 0.05
        builder.lights.append(
            Light(
                np.array([x - size_x / 2, y - size_y / 2, z - 0.02]),
                np.array([size_x, 0, 0.0]),
                np.array([0, size_y, 0.0]),
                np.array([0, 0, -1.0]) if size_x > 0.5 else None,
                colour * power / count,
            )
        )
    if rng.uniform() < 0.35:
        x, y = rng.uniform(x0 + 0.2, x1 - 0.2), rng.uniform(y0 + 0.2, y1 - 0.2)
        builder.lights.append(
            Light(
                np.array([x, y, rng.uniform(0.6, 1.9)]),
                np.array([0.15, 0, 0]),
                np.array([0, 0.15, 0]),
                None,
                np.array([1, 0.8, 0.55]) * rng.uniform(0.3, 2.0),
            )
        )


def _add_ducts(builder: SceneBuilder, room: Room, style: str) -> None:
    """Pipes, ducts and beams below the ceiling."""
    rng = builder.rng
    x0, y0, x1, y1 = room.bounds
    if style != 'warehouse' and rng.uniform() >= 0.12:
        return
    for _ in range(rng.integers(1, 5)):
        side = rng.uniform(0.05, 0.4)
        z = room.height - side - rng.uniform(0, 0.4)
        if rng.uniform() < 0.5:
            size, place = (
                (x1 - x0, side, side),
                ((x0 + x1) / 2, rng.uniform(y0 + side, y1 - side), z),
            )
        else:
            size, place = (
                (side, y1 - y0, side),
                (rng.uniform(x0 + side, x1 - side), (y0 + y1) / 2, z),
            )
        builder.box(size, place, 0, builder.material('metal'))
