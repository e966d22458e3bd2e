"""What stands in the room, and where."""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np

from sharp_ros.synthetic import materials
from sharp_ros.synthetic.materials import Material, Rgb
from sharp_ros.synthetic.patches import Scene

SIZE = (8.0, 6.0, 2.6)  # room along x, y, z in metres, centred on the world origin, floor at z = 0


class _Style:
    """Materials that the items of one room share."""

    def __init__(self, rng: np.random.Generator) -> None:
        def shade(low: float, high: float) -> Rgb:
            return tuple(rng.uniform(low, high) * (1 + rng.uniform(-0.12, 0.12, 3)))

        wood = np.array([(0.72, 0.53, 0.34), (0.5, 0.34, 0.22), (0.82, 0.68, 0.5)])
        woods = rng.permutation(wood) * rng.uniform(0.9, 1.1, (3, 1))
        self.wood = [materials.wood(rng, tuple(color)) for color in woods]
        self.planks = materials.planks(rng, tuple(woods[1] * 1.15))
        self.floor_tiles = materials.tiles(rng, shade(0.5, 0.75), (0.42, 0.41, 0.4), 0.33)
        self.wall_tiles = materials.tiles(rng, shade(0.75, 0.92), (0.6, 0.6, 0.6), 0.15)
        self.bricks = materials.bricks(rng, (0.68, 0.36, 0.28))
        self.walls = [materials.plaster(rng, shade(0.78, 0.93)) for _ in range(3)]
        self.ceiling = materials.plaster(rng, (0.93, 0.93, 0.92), 0.03)
        self.fabric = [materials.fabric(rng, materials.muted(rng)) for _ in range(5)]
        self.white = materials.plaster(rng, (0.9, 0.9, 0.89), 0.02)
        self.dark = materials.plaster(rng, (0.13, 0.13, 0.14), 0.08)
        self.metal = materials.plaster(rng, (0.6, 0.61, 0.63), 0.06)
        self.stone = materials.plaster(rng, shade(0.3, 0.6), 0.25)
        self.card = materials.plaster(rng, (0.72, 0.56, 0.38), 0.1)
        self.clay = materials.plaster(rng, (0.7, 0.4, 0.28), 0.12)
        self.leaf = materials.plaster(rng, (0.25, 0.46, 0.2), 0.3)
        self.books = [
            materials.plaster(rng, materials.muted(rng, 0.12, 0.9), 0.15) for _ in range(10)
        ]
        self.lamp = materials.flat((1.0, 0.93, 0.8), 4.0)
        self.rng = rng

    def any_book(self) -> Material:
        return self.books[int(self.rng.integers(len(self.books)))]

    def any_fabric(self) -> Material:
        return self.fabric[int(self.rng.integers(len(self.fabric)))]


def _row_of_books(s: Scene, st: _Style, x0: float, x1: float, y: float, z: float) -> None:
    x = x0
    while True:
        thick, tall = st.rng.uniform(0.02, 0.055), st.rng.uniform(0.18, 0.27)
        if x + thick > x1:
            return
        if st.rng.random() < 0.92:
            deep = st.rng.uniform(0.14, 0.2)
            s.box((x + thick / 2, y), z, (thick, deep, tall), st.any_book())
        x += thick + 0.002


def _framed(s: Scene, st: _Style, x: float, z: float, width: float, height: float) -> None:
    art = materials.picture(st.rng, int(width * 220), int(height * 220))
    s.box((x, 0.015), z, (width, 0.03, height), st.dark, front=art)


def _sofa(s: Scene, st: _Style) -> None:
    cloth = st.any_fabric()
    s.box((0, 0.45), 0.08, (2.0, 0.85, 0.32), cloth)
    s.box((0, 0.13), 0.08, (2.0, 0.22, 0.75), cloth)
    for side in (-1, 1):
        s.box((side * 1.0, 0.45), 0.05, (0.18, 0.87, 0.55), cloth)
        s.box((side * 0.45, 0.52), 0.4, (0.86, 0.66, 0.13), cloth)
        s.box((side * 0.66, 0.32), 0.54, (0.42, 0.14, 0.38), st.any_fabric(), yaw=0.3 * side)
        _framed(s, st, side * 0.55, 1.3, st.rng.uniform(0.5, 0.8), st.rng.uniform(0.5, 0.8))


def _bookshelf(s: Scene, st: _Style) -> None:
    wood, height = st.wood[0], 2.0
    for side in (-1, 0, 1):
        s.box((side * 0.75, 0.16), 0, (0.03, 0.32, height), wood)
    s.box((0, 0.012), 0, (1.5, 0.02, height), wood)
    for level in range(6):
        z = 0.06 + level * (height - 0.08) / 5
        s.box((0, 0.165), z, (1.5, 0.29, 0.025), wood)
        if level == 5:
            break
        for left in (-0.73, 0.02):
            if st.rng.random() < 0.8:
                end = left + st.rng.uniform(0.3, 0.7)
                _row_of_books(s, st, left, end, 0.17, z + 0.025)
            else:
                size = (0.4, 0.24, st.rng.uniform(0.12, 0.25))
                s.box((left + 0.34, 0.17), z + 0.025, size, st.any_fabric())


def _plant(s: Scene, st: _Style) -> None:
    s.prism((0, 0.35), 0, 0.17, 0.34, st.clay, 12)
    s.prism((0, 0.35), 0.34, 0.025, 0.5, st.wood[1], 6)
    for _ in range(70):
        yaw, rise = st.rng.uniform(0, 2 * math.pi), st.rng.uniform(-0.2, 1.1)
        length, wide = st.rng.uniform(0.14, 0.3), st.rng.uniform(0.03, 0.06)
        out = (
            length * math.cos(rise) * math.cos(yaw),
            length * math.cos(rise) * math.sin(yaw),
            length * math.sin(rise),
        )
        across = (-wide * math.sin(yaw), wide * math.cos(yaw), 0.0)
        root = (
            0.25 * out[0] * st.rng.random(),
            0.35 + 0.25 * out[1] * st.rng.random(),
            st.rng.uniform(0.5, 1.05),
        )
        s.sheet(root, out, across, st.leaf)


def _floor_lamp(s: Scene, st: _Style) -> None:
    s.prism((0, 0.35), 0, 0.16, 0.025, st.dark, 12)
    s.prism((0, 0.35), 0.025, 0.015, 1.45, st.metal, 6)
    s.prism((0, 0.35), 1.4, 0.19, 0.28, st.lamp, 14)
    s.lights.append((s.place((0, 0.35, 1.9)), None, (0.5, 0.42, 0.3)))
    s.lights.append((s.place((0, 0.35, 1.2)), None, (0.35, 0.3, 0.2)))


def _cartons(s: Scene, st: _Style) -> None:
    s.box((-0.15, 0.35), 0, (0.5, 0.4, 0.38), st.card, yaw=0.12)
    s.box((-0.12, 0.34), 0.38, (0.38, 0.3, 0.26), st.card, yaw=-0.2)
    s.box((0.32, 0.3), 0, (0.3, 0.3, 0.3), st.card, yaw=0.5)


def _kitchen(s: Scene, st: _Style) -> None:
    front, width = st.wood[2], 2.4
    s.box((-0.35, 0.29), 0, (width, 0.58, 0.08), st.dark)
    s.box((-0.35, 0.3), 0.08, (width, 0.6, 0.78), st.white)
    s.box((-0.35, 0.31), 0.86, (width + 0.02, 0.64, 0.04), st.stone)
    s.rect((0.85, 0.004, 0.9), (-width, 0, 0), (0, 0, 0.6), st.wall_tiles)
    for i in range(4):
        x = -0.35 + (i - 1.5) * 0.6
        if i == 2:
            s.box((x, 0.61), 0.12, (0.56, 0.02, 0.7), st.dark)
            s.box((x, 0.635), 0.7, (0.46, 0.03, 0.02), st.metal)
            s.rect((x - 0.26, 0.06, 0.901), (0.52, 0, 0), (0, 0.5, 0), st.dark)
        else:
            s.box((x, 0.61), 0.12, (0.575, 0.02, 0.72), front)
            s.box((x + 0.2, 0.63), 0.6, (0.02, 0.02, 0.16), st.metal)
        s.box((x, 0.18), 1.5, (0.585, 0.36, 0.7), st.white, front=front)
        s.box((x + 0.2, 0.37), 1.55, (0.015, 0.02, 0.14), st.metal)
    s.box((1.2, 0.33), 0, (0.66, 0.66, 1.85), st.metal)
    s.box((1.2, 0.665), 1.22, (0.64, 0.01, 0.01), st.dark)
    s.box((0.95, 0.68), 1.3, (0.03, 0.03, 0.4), st.dark)
    s.prism((-1.2, 0.3), 0.9, 0.11, 0.2, st.metal, 12)
    s.prism((0.0, 0.35), 0.9, 0.08, 0.18, st.clay, 12)
    s.box((-0.75, 0.2), 0.9, (0.3, 0.22, 0.2), st.dark)
    s.box((0.5, 0.3), 0.9, (0.35, 0.25, 0.03), st.wood[0])


def _door(s: Scene, st: _Style) -> None:
    leaf = st.wood[1] if st.rng.random() < 0.5 else st.white
    s.box((0, 0.02), 0, (0.86, 0.04, 2.03), leaf)
    for z, height in ((0.15, 0.75), (1.05, 0.8)):
        for side in (-1, 1):
            s.box((side * 0.19, 0.043), z, (0.28, 0.012, height), leaf)
    for side in (-1, 1):
        s.box((side * 0.48, 0.03), 0, (0.1, 0.06, 2.12), st.white)
    s.box((0, 0.03), 2.03, (0.86, 0.06, 0.09), st.white)
    s.box((0.34, 0.08), 1.02, (0.13, 0.02, 0.02), st.metal)


def _sideboard(s: Scene, st: _Style) -> None:
    wood = st.wood[0]
    s.box((0, 0.21), 0.12, (1.4, 0.42, 0.65), wood)
    for x in (-0.6, 0.6):
        for y in (0.05, 0.37):
            s.box((x, y), 0, (0.04, 0.04, 0.12), st.dark)
    for i in range(3):
        s.box(((i - 1) * 0.46, 0.425), 0.16, (0.44, 0.015, 0.57), st.wood[2])
        s.prism(((i - 1) * 0.46 + 0.17, 0.437), 0.45, 0.012, 0.03, st.metal, 6)
    s.prism((-0.5, 0.22), 0.77, 0.09, 0.3, st.clay, 12)
    _row_of_books(s, st, -0.2, 0.15, 0.2, 0.77)
    s.box(
        (0.45, 0.2),
        0.77,
        (0.28, 0.06, 0.2),
        st.dark,
        yaw=0.2,
        front=materials.picture(st.rng, 90, 64),
    )
    _framed(s, st, st.rng.uniform(-0.2, 0.2), 1.35, 1.0, 0.65)


def _dining(s: Scene, st: _Style) -> None:
    s.box((0, 0.45), 0.71, (1.3, 0.8, 0.04), st.wood[0])
    for x in (-0.58, 0.58):
        for y in (0.1, 0.8):
            s.box((x, y), 0, (0.06, 0.06, 0.71), st.wood[0])
    for side in (-1, 1):
        _chair(s, st, (side * 0.72, 0.45), side * math.pi / 2)
    s.prism((0.1, 0.45), 0.75, 0.12, 0.08, st.clay, 12)
    for x, y in ((-0.35, 0.35), (0.38, 0.55)):
        s.prism((x, y), 0.75, 0.11, 0.012, st.white, 14)
        s.prism((x + 0.17, y + 0.08), 0.75, 0.035, 0.09, st.metal, 8)
    s.box((0, 0.012), 1.45, (0.9, 0.024, 0.6), st.dark, front=materials.picture(st.rng, 200, 130))


def _chair(s: Scene, st: _Style, at: tuple[float, float], yaw: float) -> None:
    """A chair whose back is on the side `yaw` turns -y to."""
    c, sn = math.cos(yaw), math.sin(yaw)

    def spot(x: float, y: float) -> tuple[float, float]:
        return at[0] + c * x - sn * y, at[1] + sn * x + c * y

    s.box(spot(0, 0), 0.42, (0.42, 0.42, 0.05), st.wood[1], yaw)
    for x in (-0.18, 0.18):
        s.box(spot(x, 0.18), 0, (0.04, 0.04, 0.42), st.wood[1], yaw)
        s.box(spot(x, -0.19), 0, (0.04, 0.04, 0.9), st.wood[1], yaw)
    for z in (0.6, 0.78):
        s.box(spot(0, -0.19), z, (0.32, 0.025, 0.1), st.wood[1], yaw)


def _window(s: Scene, st: _Style) -> None:
    s.rect((0.65, 0.012, 0.95), (-1.3, 0, 0), (0, 0, 1.2), materials.view_outside(st.rng))
    for x in (-0.65, 0, 0.65):
        s.box((x, 0.03), 0.95, (0.07, 0.05, 1.2), st.white)
    for z in (0.92, 2.12):
        s.box((0, 0.03), z, (1.37, 0.06, 0.07), st.white)
    s.box((0, 0.1), 0.88, (1.45, 0.2, 0.04), st.white)
    cloth = st.any_fabric()
    s.box((0, 0.09), 2.3, (2.0, 0.025, 0.025), st.metal)
    for side in (-1, 1):
        x = side * 0.98
        for fold in range(6):
            near, far = (0.06, 0.12) if fold % 2 else (0.12, 0.06)
            step = -side * 0.06
            s.sheet((x, near, 0.15), (step, far - near, 0), (0, 0, 2.15), cloth)
            x += step
    inward = s.world((0, 1, 0))
    for x in (-0.48, -0.16, 0.16, 0.48):
        for z in (1.2, 1.55, 1.9):
            s.lights.append((s.place((x, 0.07, z)), inward, (0.6, 0.64, 0.7)))


def _radiator_window(s: Scene, st: _Style) -> None:
    _window(s, st)
    for i in range(14):
        s.box(((i - 6.5) * 0.08, 0.08), 0.14, (0.055, 0.1, 0.6), st.white)
    s.prism((0.3, 0.1), 0.92, 0.06, 0.14, st.clay, 10)


def _desk_window(s: Scene, st: _Style) -> None:
    _window(s, st)
    s.box((0, 0.42), 0.7, (1.4, 0.62, 0.035), st.wood[2])
    for x in (-0.66, 0.66):
        s.box((x, 0.42), 0, (0.04, 0.56, 0.7), st.dark)
    s.box((0.42, 0.42), 0.25, (0.4, 0.5, 0.45), st.white)
    s.box((-0.15, 0.28), 0.85, (0.56, 0.03, 0.36), st.dark, front=materials.screen(st.rng))
    s.box((-0.15, 0.27), 0.735, (0.05, 0.03, 0.12), st.dark)
    s.box((-0.15, 0.28), 0.735, (0.24, 0.18, 0.012), st.dark)
    s.box((-0.15, 0.55), 0.735, (0.42, 0.14, 0.02), st.dark)
    s.box((0.4, 0.4), 0.735, (0.3, 0.22, 0.05), st.any_book(), yaw=0.3)
    s.box((0.41, 0.41), 0.785, (0.22, 0.16, 0.03), st.any_book(), yaw=-0.2)
    s.prism((-0.55, 0.45), 0.735, 0.04, 0.1, st.clay, 10)
    _chair(s, st, (-0.15, 0.7), math.pi - 0.2)


def _television(s: Scene, st: _Style) -> None:
    s.box((0, 0.21), 0.06, (1.7, 0.42, 0.4), st.wood[1])
    for i in range(3):
        s.box(((i - 1) * 0.56, 0.425), 0.09, (0.53, 0.012, 0.34), st.wood[2])
    s.box((0, 0.18), 0.46, (0.5, 0.24, 0.02), st.dark)
    s.box((0, 0.17), 0.48, (0.08, 0.04, 0.1), st.dark)
    show = Material(materials.picture(st.rng, 320, 180).image, 0.0, 0.9)
    s.box((0, 0.2), 0.55, (1.15, 0.05, 0.66), st.dark)
    s.rect((0.55, 0.2265, 0.575), (-1.1, 0, 0), (0, 0, 0.615), show)
    for side in (-1, 1):
        s.box((side * 0.72, 0.2), 0.46, (0.15, 0.2, 0.28), st.dark)
    s.box((0, 0.1), 1.75, (1.2, 0.2, 0.03), st.wood[1])
    _row_of_books(s, st, -0.5, 0.2, 0.1, 1.78)
    s.prism((0.42, 0.1), 1.78, 0.06, 0.16, st.clay, 10)


def _armchair(s: Scene, st: _Style) -> None:
    cloth = st.any_fabric()
    s.box((0, 0.45), 0.1, (0.62, 0.62, 0.32), cloth)
    s.box((0, 0.18), 0.1, (0.8, 0.16, 0.8), cloth)
    for side in (-1, 1):
        s.box((side * 0.36, 0.45), 0.08, (0.12, 0.64, 0.5), cloth)
    s.box((0, 0.32), 0.42, (0.4, 0.13, 0.36), st.any_fabric(), yaw=0.15)
    _framed(s, st, 0, 1.35, 0.6, 0.8)


def _coffee_table(s: Scene, st: _Style) -> None:
    s.rect((-1.1, -0.75, 0.006), (2.2, 0, 0), (0, 1.5, 0), materials.rug(st.rng))
    s.box((0, 0), 0.36, (0.95, 0.55, 0.045), st.wood[0])
    for x in (-0.43, 0.43):
        for y in (-0.23, 0.23):
            s.box((x, y), 0, (0.05, 0.05, 0.36), st.wood[0])
    s.box((0, 0), 0.12, (0.86, 0.46, 0.02), st.wood[0])
    s.box((-0.2, 0.05), 0.405, (0.28, 0.2, 0.03), st.any_book(), yaw=0.4)
    s.box((-0.19, 0.05), 0.435, (0.22, 0.16, 0.025), st.any_book(), yaw=0.1)
    s.prism((0.25, -0.05), 0.405, 0.1, 0.07, st.clay, 14)
    s.prism((0.05, -0.17), 0.405, 0.035, 0.09, st.white, 10)


_Item = tuple[float, Callable[[Scene, _Style], None]]  # width along the wall, builder
_LONG_WALLS: tuple[tuple[_Item, ...], ...] = (
    ((3.0, _kitchen), (1.1, _door), (2.0, _dining), (0.6, _plant)),
    ((1.6, _bookshelf), (2.3, _sofa), (0.5, _floor_lamp), (1.5, _sideboard), (1.0, _cartons)),
)
_SHORT_WALLS: tuple[tuple[_Item, ...], ...] = (
    ((2.05, _radiator_window), (2.05, _desk_window)),
    ((1.9, _television), (1.0, _armchair), (0.7, _plant)),
)


def furnish(rng: np.random.Generator) -> Scene:
    """The room with its furniture along the walls, in an order and colours that `rng` picks."""
    scene, style = Scene(), _Style(rng)
    length, width, height = SIZE
    x, y = length / 2, width / 2
    floor = style.planks if rng.random() < 0.7 else style.floor_tiles
    walls = [*style.walls, style.bricks if rng.random() < 0.5 else style.walls[0]]
    scene.rect((-x, -y, 0), (length, 0, 0), (0, width, 0), floor)
    scene.rect((-x, y, height), (length, 0, 0), (0, -width, 0), style.ceiling)
    _coffee_table(scene, style)
    for lamp_x in (-1.9, 1.9):
        scene.box((lamp_x, 0), height - 0.06, (0.9, 0.25, 0.06), style.lamp)
        for dx in (-0.3, 0.0, 0.3):
            down = np.array([0, 0, -1.0])
            at = np.array([lamp_x + dx, 0, height - 0.08])
            scene.lights.append((at, down, (1.6, 1.5, 1.3)))
    sides = [  # position of the middle, yaw, length, furniture; opposite walls take either row
        ((0, -y), 0.0, length, _LONG_WALLS[0]),
        ((0, y), math.pi, length, _LONG_WALLS[1]),
        ((x, 0), math.pi / 2, width, _SHORT_WALLS[0]),
        ((-x, 0), -math.pi / 2, width, _SHORT_WALLS[1]),
    ]
    if rng.random() < 0.5:
        sides[0], sides[1] = (*sides[0][:3], sides[1][3]), (*sides[1][:3], sides[0][3])
    if rng.random() < 0.5:
        sides[2], sides[3] = (*sides[2][:3], sides[3][3]), (*sides[3][:3], sides[2][3])
    for wall, ((px, py), yaw, extent, items) in zip(walls, sides, strict=True):
        scene.at(px, py, yaw)
        scene.rect((extent / 2, 0, 0), (-extent, 0, 0), (0, 0, height), wall)
        scene.box((0, 0.008), 0, (extent, 0.016, 0.09), style.white)
        # Corners of the short walls are left to the furniture of the long ones.
        usable = extent if extent == length else extent - 1.9
        spare = usable - sum(item[0] for item in items)
        cuts = np.sort(rng.uniform(0, spare, len(items)))
        cursor = -usable / 2
        for cut, index in zip(np.diff(cuts, prepend=0), rng.permutation(len(items)), strict=True):
            span, build = items[index]
            middle = cursor + cut + span / 2
            cursor += cut + span
            c, s = math.cos(yaw), math.sin(yaw)
            scene.at(px + c * middle, py + s * middle, yaw)
            build(scene, style)
    return scene
