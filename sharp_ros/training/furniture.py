"""Furniture, people and clutter of random size and make, built from primitives.

Every function adds one piece to a scene; (x, y) is the middle of its footprint, `yaw` turns its
front, which looks towards -y, and lengths are metres.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np

from sharp_ros.training.scene import SceneBuilder, Vector

Place = Callable[[float, float, float], Vector]


def local_frame(x: float, y: float, yaw: float) -> Place:
    """Function from coordinates along width, depth and height of a piece to the world's."""
    c, s = math.cos(yaw), math.sin(yaw)
    return lambda u, v, z: (x + c * u - s * v, y + s * u + c * v, z)


def add_clutter(
    scene: SceneBuilder,
    x: float,
    y: float,
    z: float,
    width: float,
    depth: float,
    yaw: float,
    count: int,
) -> None:
    """Small things spread over a table top or a patch of floor at height `z`."""
    at = local_frame(x, y, yaw)
    rng = scene.rng
    for _ in range(count):
        u, v = rng.uniform(-0.45, 0.45) * width, rng.uniform(-0.45, 0.45) * depth
        kind = rng.integers(0, len(SMALL_THINGS) + 1)  # one in nine places stays empty
        if kind < len(SMALL_THINGS):
            SMALL_THINGS[kind](scene, at(u, v, z), yaw)


def add_table(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, height: float, yaw: float
) -> None:
    """A table on a column, on legs or on two cabinets, with things on it."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    top = scene.material_of('wood', 'plain', 'marble', 'planks', p=[0.5, 0.35, 0.1, 0.05])
    legs = top if rng.uniform() < 0.5 else scene.material_of('metal', 'plain')
    thickness = rng.uniform(0.02, 0.05)
    if rng.uniform() < 0.2:
        scene.cylinder(width, thickness, (x, y, height - thickness), top, part, 16, depth)
        scene.cylinder(0.1, height, (x, y, 0), legs, part)
    else:
        scene.box((width, depth, thickness), (x, y, height - thickness), yaw, top, part)
        if rng.uniform() < 0.75:
            side, inset = rng.uniform(0.03, 0.08), rng.uniform(0, 0.1)
            for i in (-1, 1):
                for j in (-1, 1):
                    u, v = i * (width / 2 - side / 2 - inset), j * (depth / 2 - side / 2 - inset)
                    scene.box((side, side, height - thickness), at(u, v, 0), yaw, legs, part)
        else:
            for i in (-1, 1):
                size = (0.38, depth * 0.95, height - thickness)
                scene.box(size, at(i * (width / 2 - 0.2), 0, 0), yaw, legs, part)
    add_clutter(scene, x, y, height, width, depth, yaw, rng.integers(0, 10))
    scene.targets.append((x, y, height))


def add_chair(scene: SceneBuilder, x: float, y: float, yaw: float) -> None:
    """A chair on four legs or on a star base, with or without arm rests."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    cover = scene.material()
    frame = cover if rng.uniform() < 0.5 else scene.material()
    height, width, back = rng.uniform(0.4, 0.5), rng.uniform(0.38, 0.52), rng.uniform(0.3, 0.6)
    edge = width / 2 - 0.03
    scene.box((width, width, rng.uniform(0.03, 0.1)), at(0, 0, height - 0.04), yaw, cover, part)
    scene.box((width, 0.05, back), at(0, edge, height + rng.uniform(0, 0.15)), yaw, cover, part)
    if rng.uniform() < 0.65:
        for i in (-1, 1):
            for j in (-1, 1):
                scene.box((0.04, 0.04, height), at(i * edge, j * edge, 0), yaw, frame, part)
    else:
        scene.cylinder(0.06, height, at(0, 0, 0), frame, part, 6)
        for i in range(3):
            scene.box((0.55, 0.05, 0.05), at(0, 0, 0.04), yaw + i * 1.05, frame, part)
        if rng.uniform() < 0.5:
            for i in (-1, 1):
                place = at(i * width / 2, 0, height + 0.2)
                scene.box((0.05, 0.3, 0.03), place, yaw, frame, part)


def add_shelf(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, height: float, yaw: float
) -> None:
    """An open shelf with books, boxes and tins."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    material = scene.material_of('wood', 'plain', 'metal')
    board = rng.uniform(0.015, 0.04)
    count = rng.integers(2, 7)
    for i in (-1, 1):
        place = at(i * (width / 2 - board / 2), 0, 0)
        scene.box((board, depth, height), place, yaw, material, part)
    if rng.uniform() < 0.7:
        scene.box((width, board, height), at(0, depth / 2 - board / 2, 0), yaw, material, part)
    gap = height / count
    for i in range(count + 1):
        z = min(i * gap, height - board)
        scene.box((width, depth, board), at(0, 0, z), yaw, material, part)
        if i < count and rng.uniform() < 0.85:
            _fill_shelf(scene, at, width, depth, z + board, gap, yaw)


def add_cabinet(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, height: float, yaw: float
) -> None:
    """A closed cabinet with doors or drawers."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    body = scene.material_of('wood', 'plain', 'metal', p=[0.45, 0.45, 0.1])
    scene.box((width, depth, height), (x, y, 0), yaw, body, part)
    front = body if rng.uniform() < 0.6 else scene.material_of('wood', 'plain')
    columns = max(1, round(width / rng.uniform(0.35, 0.7)))
    rows = max(1, round(height / rng.uniform(0.3, 1.2)))
    joint = 0.012
    metal = scene.material('metal')
    across, up = width / columns, height / rows
    for i in range(columns):
        u = -width / 2 + across * (i + 0.5)
        for j in range(rows):
            place = at(u, -depth / 2 - 0.005, j * up + joint / 2)
            scene.box((across - joint, 0.02, up - joint), place, yaw, front, part)
            if rng.uniform() < 0.9:
                place = at(u, -depth / 2 - 0.03, j * up + up * 0.8)
                scene.box((0.1, 0.02, 0.015), place, yaw, metal, part)
    if height < 1.3:
        add_clutter(scene, x, y, height, width, depth, yaw, rng.integers(0, 5))


def add_sofa(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, yaw: float
) -> None:
    """A sofa or an armchair with cushions."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    cover = scene.material_of('fabric', 'plain', 'carpet')
    height, back, arm = rng.uniform(0.36, 0.48), rng.uniform(0.65, 1.0), rng.uniform(0.1, 0.25)
    scene.box((width, depth, height), at(0, 0, 0), yaw, cover, part)
    scene.box((width, 0.2, back), at(0, depth / 2 - 0.1, 0), yaw, cover, part)
    for i in (-1, 1):
        place = at(i * (width / 2 - arm / 2), 0, 0)
        scene.box((arm, depth, height + 0.2), place, yaw, cover, part)
    count = max(1, int(width / 0.7))
    seat = (width - 2 * arm) / count
    for i in range(count):
        place = at(-width / 2 + arm + seat * (i + 0.5), -0.1, height)
        scene.box((seat - 0.02, depth - 0.25, 0.12), place, yaw, cover, part)
    for _ in range(rng.integers(0, 4)):
        place = at(rng.uniform(-0.4, 0.4) * width, depth / 2 - 0.3, height + 0.1)
        turned = yaw + rng.normal(0, 0.3)
        scene.box((0.4, 0.15, 0.38), place, turned, scene.material('fabric'))


def add_bed(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, yaw: float
) -> None:
    """A bed with head board, two pillows and a blanket."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    height = rng.uniform(0.25, 0.4)
    scene.box((width, depth, height), at(0, 0, 0), yaw, scene.material('wood'), part)
    mattress = (width * 0.98, depth * 0.97, rng.uniform(0.15, 0.25))
    scene.box(mattress, at(0, 0, height), yaw, scene.material('fabric'), part)
    board = (width, 0.06, rng.uniform(0.7, 1.2))
    scene.box(board, at(0, depth / 2, 0), yaw, scene.material('wood'), part)
    for u in (-0.25, 0.25):
        place = at(u * width, depth / 2 - 0.3, height + 0.2)
        turned = yaw + rng.normal(0, 0.15)
        scene.box((width * 0.4, 0.4, 0.14), place, turned, scene.material('fabric'))
    blanket = (width * 1.03, depth * rng.uniform(0.4, 0.7), 0.06)
    scene.box(blanket, at(0, -depth * 0.15, height + 0.2), yaw, scene.material('fabric'))


def add_kitchen(scene: SceneBuilder, x: float, y: float, width: float, yaw: float) -> None:
    """A counter with doors and drawers, perhaps tiles and wall cupboards, and things on it."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    height, depth = rng.uniform(0.84, 0.95), rng.uniform(0.55, 0.65)
    body = scene.material_of('plain', 'wood', p=[0.65, 0.35])
    top = scene.material_of('marble', 'wood', 'terrazzo', 'plain', 'concrete')
    metal = scene.material('metal')
    plinth = at(0, 0.03, 0)
    scene.box((width, depth - 0.05, 0.1), plinth, yaw, scene.material('plain'), part)
    scene.box((width, depth, height - 0.14), at(0, 0, 0.1), yaw, body, part)
    scene.box((width + 0.02, depth + 0.04, 0.04), at(0, -0.02, height - 0.04), yaw, top, part)
    count = max(1, round(width / rng.uniform(0.4, 0.7)))
    wide_handles = rng.uniform() < 0.5
    across = width / count
    for i in range(count):
        u = -width / 2 + across * (i + 0.5)
        rows = 1 if rng.uniform() < 0.6 else 3
        up = (height - 0.16) / rows
        for j in range(rows):
            z = 0.105 + j * up
            size = (across - 0.01, 0.02, up - 0.01)
            scene.box(size, at(u, -depth / 2 - 0.008, z), yaw, body, part)
            size = (across * 0.5, 0.02, 0.015) if wide_handles else (0.02, 0.02, 0.15)
            handle = u if wide_handles else u + across * 0.35
            scene.box(size, at(handle, -depth / 2 - 0.03, z + up * 0.75), yaw, metal, part)
    if rng.uniform() < 0.7:
        splash = (width, 0.012, rng.uniform(0.3, 0.6))
        tiles = scene.material_of('tile', 'plain', 'marble')
        scene.box(splash, at(0, depth / 2, height), yaw, tiles)
    if rng.uniform() < 0.65:
        gap = rng.uniform(0.45, 0.6)
        count = max(1, int(width / 0.6))
        size = (width / count - 0.008, 0.33, rng.uniform(0.5, 0.8))
        for i in range(count):
            if rng.uniform() < 0.85:
                u = -width / 2 + width / count * (i + 0.5)
                scene.box(size, at(u, depth / 2 - 0.17, height + gap), yaw, body)
    things = rng.integers(2, 4 + int(4 * width))
    add_clutter(scene, x, y, height, width * 0.95, depth * 0.7, yaw, things)
    scene.targets.append((x, y, height))


def add_person(scene: SceneBuilder, x: float, y: float, yaw: float) -> None:
    """A standing or walking person."""
    rng = scene.rng
    part = scene.new_part()
    k = rng.uniform(1.5, 1.95) / 1.75  # size relative to the one the numbers below are for
    flat = local_frame(x, y, yaw)

    def at(u: float, v: float, z: float) -> Vector:
        return flat(u, v, z * k)

    skin = np.array([0.75, 0.5, 0.38], np.float32) * rng.uniform(0.25, 1.1)
    skin = scene.material('plain', skin)
    shirt = scene.material_of('fabric', 'plain', 'stripes')
    trousers = scene.material_of('fabric', 'plain')
    stride = rng.uniform(0, 0.25)
    for side in (-1, 1):
        leg, arm = side * stride * 0.5, side * -stride * 0.4
        scene.cylinder(0.16 * k, 0.85 * k, at(side * 0.1, leg, 0), trousers, part, 10)
        shoe = at(side * 0.1, leg - 0.05, 0)
        scene.box((0.1, 0.27, 0.09), shoe, yaw, scene.material('plain'), part)
        scene.cylinder(0.1 * k, 0.6 * k, at(side * 0.24, arm, 0.82), shirt, part, 10)
        scene.sphere((0.1, 0.1, 0.12), at(side * 0.24, arm, 0.75), skin, part)
    scene.cylinder(0.36 * k, 0.62 * k, at(0, 0, 0.82), shirt, part, 16, 0.24 * k)
    scene.cylinder(0.1, 0.12, at(0, 0, 1.42), skin, part, 10)
    scene.sphere((0.17 * k, 0.2 * k, 0.25 * k), at(0, 0, 1.5), skin, part)
    hair = scene.material('plain', scene.colour() * 0.3)
    scene.sphere((0.19 * k, 0.21 * k, 0.14 * k), at(0, 0.02, 1.63), hair, part)


def add_plant(scene: SceneBuilder, x: float, y: float) -> None:
    """A pot with a cloud of leaves."""
    rng = scene.rng
    part = scene.new_part()
    pot = rng.uniform(0.2, 0.45)
    scene.cylinder(rng.uniform(0.2, 0.4), pot, (x, y, 0), scene.material(), part)
    count = rng.integers(20, 90)
    radius, height = rng.uniform(0.2, 0.6), rng.uniform(0.3, 1.3)
    spread = rng.normal(0, 1, (count, 3)) * [radius * 0.4, radius * 0.4, height * 0.25]
    root = np.array([x, y, 0 + pot]) + spread + [0, 0, height * 0.5]
    along = rng.normal(0, 1, (count, 3))
    along[:, 2] = np.abs(along[:, 2]) * 0.5
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, rng.normal(0, 1, (count, 3)))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    length = rng.uniform(0.1, 0.35, (count, 1))
    middle, half = root + along * length * 0.5, across * length * 0.15
    vertices = np.stack([root, middle + half, root + along * length, middle - half], 1)
    first = np.arange(count)[:, None] * 4
    faces = np.concatenate([first + np.array([0, 1, 2]), first + np.array([0, 2, 3])])
    texture = scene.texture_of('plain')
    uv = np.zeros((2 * count, 3, 2)) + rng.uniform(0, 1, (2 * count, 1, 1))
    green = np.array([0.15, 0.35, 0.08], np.float32) * rng.uniform(0.5, 1.8)
    tint = scene.tint(texture, green * rng.uniform(0.6, 1.2, 3))
    scene.triangles(vertices.reshape(-1, 3), faces, uv, texture, tint, part)


def add_pile(scene: SceneBuilder, x: float, y: float, width: float) -> None:
    """Boxes, mostly of cardboard, one on the other."""
    rng = scene.rng
    z = 0.0
    for _ in range(rng.integers(1, 5)):
        height = rng.uniform(0.15, 0.5)
        size = (width * rng.uniform(0.5, 1), width * rng.uniform(0.5, 1), height)
        place = (x + rng.normal(0, 0.04), y + rng.normal(0, 0.04), z)
        yaw = rng.uniform(0, 6)
        if rng.uniform() < 0.6:
            card = np.array([0.5, 0.35, 0.2], np.float32) * rng.uniform(0.7, 1.3)
            material = scene.material('plain', card)
        else:
            material = scene.material()
        scene.box(size, place, yaw, material)
        z += height


def _fill_shelf(
    scene: SceneBuilder, at: Place, width: float, depth: float, z: float, gap: float, yaw: float
) -> None:
    """Things side by side on one board at height `z`, at most `gap` high."""
    rng = scene.rng
    u = -width / 2 + 0.04
    while u < width / 2 - 0.1:
        kind = rng.integers(0, 5)
        across = min(rng.uniform(0.06, 0.45), width / 2 - u - 0.02)
        height = gap * rng.uniform(0.3, 0.88)
        if kind == 0:  # nothing here
            u += across
            continue
        if kind <= 2:
            size = (across, depth * rng.uniform(0.4, 0.85), height)
            place = at(u + across / 2, depth * rng.uniform(-0.1, 0.1), z)
            scene.box(size, place, yaw, scene.material('spines' if kind == 1 else None))
        elif kind == 3:
            place = at(u + across / 2, 0, z)
            scene.cylinder(min(across, 0.25, depth), height, place, scene.material())
        else:
            size = (across, depth * 0.7, height * 0.5)
            scene.box(size, at(u + across / 2, 0, z), yaw, scene.material('plain'))
        u += across + rng.uniform(0, 0.08)


def _parcel(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    size = (rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.3), rng.uniform(0.02, 0.3))
    turned = rng.uniform(0, 6)
    scene.box(size, place, turned, scene.material_of('plain', 'poster', 'picture'))


def _cup(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    diameter, height = rng.uniform(0.05, 0.12), rng.uniform(0.06, 0.3)
    scene.cylinder(diameter, height, place, scene.material())


def _books(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    x, y, z = place
    for _ in range(rng.integers(1, 6)):
        height = rng.uniform(0.01, 0.05)
        size = (rng.uniform(0.15, 0.3), rng.uniform(0.12, 0.25), height)
        turned = yaw + rng.normal(0, 0.3)
        scene.box(size, (x, y, z), turned, scene.material('plain'))
        z += height


def _monitor(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    x, y, z = place
    width = rng.uniform(0.35, 0.75)
    height = width * 0.58
    yaw = yaw + rng.normal(0, 0.5)
    part = scene.new_part()
    scene.box((0.2, 0.18, 0.015), place, yaw, scene.material('plain'), part)
    scene.box((0.04, 0.04, 0.15), place, yaw, scene.material('plain'), part)
    case = scene.material('plain', scene.colour() * 0.2)
    scene.box((width, 0.05, height), (x, y, z + 0.1), yaw, case, part)
    front = (x + 0.03 * math.sin(yaw), y - 0.03 * math.cos(yaw), z + 0.1 + height * 0.05)
    shown = rng.choice(['screen', 'picture'])
    shine = rng.choice([0, rng.uniform(0.2, 1)])
    scene.panel(width * 0.94, height * 0.9, front, yaw, shown, 0.01, shine)


def _keyboard(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    size = (rng.uniform(0.3, 0.5), 0.14, 0.025)
    turned = yaw + rng.normal(0, 0.2)
    scene.box(size, place, turned, scene.material('plain'))


def _ball(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    diameter = rng.uniform(0.06, 0.25)
    size = (diameter, diameter, diameter * rng.uniform(0.6, 1.3))
    scene.sphere(size, place, scene.material())


def _lamp(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    x, y, z = place
    part = scene.new_part()
    height = rng.uniform(0.25, 0.5)
    foot = scene.material('plain')
    scene.cylinder(0.14, 0.02, place, foot, part)
    scene.cylinder(0.025, height, place, foot, part, 6)
    shade = rng.uniform(0.14, 0.25)
    scene.cylinder(shade, 0.15, (x, y, z + height), scene.material('fabric'), part)


def _paper(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    turned = scene.rng.uniform(0, 6)
    scene.box((0.22, 0.3, 0.004), place, turned, scene.material_of('plain', 'poster'))


SMALL_THINGS = (_parcel, _cup, _books, _monitor, _keyboard, _ball, _lamp, _paper)
