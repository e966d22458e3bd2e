"""Furniture, people and plants of random size and make, built from primitives.

Every function adds one piece to a scene; (x, y) is the middle of its footprint, `yaw` turns its
front, which looks towards -y, and lengths are metres. One module: pieces of one kind, most of them
short, that are read one at a time. The small things on them are in `clutter`.
"""

from __future__ import annotations

import math

import numpy as np

from sharp_ros.procedural.clutter import (
    add_clutter,
    how_much,
    local_frame,
    LOW_THINGS,
    Place,
    small_model,
    THEMES,
)
from sharp_ros.procedural.scene import Piece, SceneBuilder, Target, tilted, Vector
from sharp_ros.procedural.simplification import TOP_SHARE


def add_model(scene: SceneBuilder, piece: Piece, place: Vector, yaw: float) -> None:
    """A model and, if it has a flat top that can be reached, things on it."""
    scene.model(piece, place, yaw)
    x, y, z = place
    width, depth, _ = piece.size * TOP_SHARE
    top = piece.model.top
    if top is not None and top * piece.scale < 1.4 and piece.model.role != 'chair':
        z += top * piece.scale
        add_clutter(scene, x, y, z, width, depth, yaw, how_much(scene, width * depth))
        scene.targets.append(Target((x, y, z), yaw))


def add_table(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, height: float, yaw: float
) -> None:
    """A table on a column, on legs or on two cabinets, with things on it."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    top = scene.material_of(
        *('wood', 'plain', 'granite', 'planks', 'worn', 'fabric'),
        p=[0.45, 0.25, 0.08, 0.05, 0.1, 0.07],
        gloss=scene.sheen(0.3),
        scale=rng.uniform(0.4, 1.0),
    )
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
    add_clutter(scene, x, y, height, width, depth, yaw, how_much(scene, width * depth))
    for _ in range(2):
        place = at(rng.uniform(-0.4, 0.4) * width, rng.uniform(-0.4, 0.4) * depth, height)
        scene.targets.append(Target(place, None))


def add_chair(scene: SceneBuilder, x: float, y: float, yaw: float) -> float:
    """A chair on four legs or on a star base, with or without arm rests; height of its seat."""
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
    return height


def add_bench(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, height: float, yaw: float
) -> None:
    """A work bench: stout legs, a board below, perhaps a wall of tools or a shelf at its back."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    top = scene.material_of('wood', 'worn', 'plain', 'metal', gloss=scene.sheen(0.3))
    frame = scene.material_of('metal', 'wood', 'worn')
    scene.box((width, depth, 0.05), at(0, 0, height - 0.05), yaw, top, part)
    for u in (-1, 1):
        for v in (-1, 1):
            place = at(u * (width / 2 - 0.05), v * (depth / 2 - 0.05), 0)
            scene.box((0.08, 0.08, height - 0.05), place, yaw, frame, part)
    if rng.uniform() < 0.6:
        scene.box((width, depth * 0.8, 0.03), at(0, 0, 0.25), yaw, frame, part)
        add_clutter(scene, *at(0, 0, 0.28), width * 0.9, depth * 0.6, yaw, 3, 'floor')
    back = rng.uniform()
    if back < 0.35:  # tools hang on a board
        scene.box((width, 0.02, 0.8), at(0, depth / 2, height), yaw, frame, part)
        metal = scene.material('metal')
        hooks = np.arange(-width / 2 + 0.1, width / 2 - 0.05, rng.uniform(0.08, 0.2))
        for u in hooks.tolist():
            long, wide = rng.uniform(0.1, 0.3), rng.uniform(0.015, 0.06)
            grip = scene.material('plain')
            z = height + 0.72 - long
            scene.box((wide, 0.02, long), at(u, depth / 2 - 0.02, z), yaw, metal, part)
            scene.box((0.03, 0.03, long / 2), at(u, depth / 2 - 0.03, z - 0.02), yaw, grip, part)
    elif back < 0.65:  # shelves
        for z in (0.4, 0.75):
            board = at(0, depth / 2 - 0.13, height + z)
            scene.box((width, 0.26, 0.025), board, yaw, frame, part)
            _fill_shelf(scene, at, width, 0.24, height + z + 0.025, 0.33, yaw)
        for u in (-1, 1):
            post = at(u * (width / 2 - 0.02), depth / 2 - 0.02, height)
            scene.box((0.04, 0.04, 0.8), post, yaw, frame, part)
    free = depth * (0.65 if back < 0.65 else 0.95)
    place = at(0, (free - depth) / 2, height)
    add_clutter(scene, *place, width, free, yaw, how_much(scene, width * free) + 3)
    for u in (-0.25, 0.25):
        scene.targets.append(Target(at(u * width, -0.1, height), yaw))


def add_machine(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, yaw: float
) -> None:
    """A machine or device: a case on a base, a panel with a screen, a door, a pipe."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    height = rng.uniform(0.8, 1.9)
    case = scene.material_of('plain', 'metal', 'worn', gloss=scene.sheen(0.4))
    other = scene.material_of('plain', 'metal')
    scene.box((width, depth, height * 0.55), at(0, 0, 0), yaw, case, part)
    upper = (width * rng.uniform(0.5, 1), depth * rng.uniform(0.5, 0.95), height * 0.45)
    scene.box(upper, at(0, 0, height * 0.55), yaw, other, part)
    door = (width * 0.7, 0.02, height * 0.4)
    scene.box(door, at(0, -depth / 2 - 0.008, height * 0.08), yaw, other, part)
    screen = at(0, -upper[1] / 2 - 0.005, height * 0.7)
    glow = rng.uniform(0, 1)
    scene.panel(upper[0] * 0.5, height * 0.2, screen, yaw, 'screen', 0.01, glow, part=part)
    if rng.uniform() < 0.5:
        pipe = at(0.3 * width, 0.3 * depth, height * 0.5)
        scene.cylinder(0.1, height * rng.uniform(0.5, 0.9), pipe, other, part, 10)
    if rng.uniform() < 0.4:
        disc = at(0, -depth / 2 - 0.015, height * 0.28)
        turn = tilted(yaw, 1.57)
        scene.cylinder(
            min(width, height * 0.4) * 0.7,
            0.03,
            disc,
            scene.material('metal'),
            part,
            16,
            turn=turn,
        )


def add_rack(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, height: float, yaw: float
) -> None:
    """Warehouse racking: posts, beams and loads of boxes."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    colours = ([0.02, 0.08, 0.4], [0.7, 0.2, 0.02], [0.3, 0.3, 0.3], [0.6, 0.45, 0.03])
    posts = scene.material('plain', np.array(colours[rng.integers(4)], np.float32))
    beams = scene.material('plain', np.array(colours[rng.integers(4)], np.float32))
    boards = scene.material_of('wood', 'metal', 'planks')
    for u in (-1, 1):
        for v in (-1, 1):
            place = at(u * (width / 2 - 0.04), v * (depth / 2 - 0.04), 0)
            scene.box((0.08, 0.08, height), place, yaw, posts, part)
    levels = max(2, int(height / rng.uniform(0.6, 1.5)))
    for i in range(levels):
        z = 0.1 + i * height / levels
        scene.box((width, depth * 0.95, 0.03), at(0, 0, z), yaw, boards, part)
        for v in (-1, 1):
            scene.box(
                (width, 0.04, 0.1), at(0, v * (depth / 2 - 0.02), z - 0.08), yaw, beams, part
            )
        if z < 1.7:
            scene.targets.append(Target(at(rng.uniform(-0.3, 0.3) * width, 0, z + 0.2), yaw))
        u = -width / 2 + 0.06
        while u < width / 2 - 0.25:
            across = min(rng.uniform(0.2, 0.9), width / 2 - 0.06 - u)
            tall = min(rng.uniform(0.15, 0.9), height / levels - 0.15)
            if rng.uniform() < 0.8 and tall > 0.05:
                size = (across * 0.95, depth * rng.uniform(0.5, 0.95), tall)
                load = scene.material('cardboard' if rng.uniform() < 0.65 else None)
                scene.box(size, at(u + across / 2, 0, z + 0.03), yaw, load)
            u += across + rng.uniform(0, 0.1)


def add_shelf(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, height: float, yaw: float
) -> None:
    """An open shelf with books, boxes and tins."""
    rng = scene.rng
    at = local_frame(x, y, yaw)
    part = scene.new_part()
    material = scene.material_of('wood', 'plain', 'metal')
    board = rng.uniform(0.015, 0.04)
    count = int(rng.integers(2, 7))
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
            if 0.2 < z < 1.7:
                scene.targets.append(Target(at(rng.uniform(-0.4, 0.4) * width, 0, z + 0.1), yaw))


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
        add_clutter(scene, x, y, height, width, depth, yaw, how_much(scene, width * depth))
        scene.targets.append(Target((x, y, height), yaw))


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
    top = scene.material_of(
        *('granite', 'wood', 'marble', 'plain', 'concrete', 'terrazzo'),
        p=[0.35, 0.25, 0.1, 0.15, 0.1, 0.05],
        gloss=scene.sheen(0.6),
        scale=rng.uniform(0.4, 1.0),
    )
    metal = scene.material('metal', gloss=0.5)
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
    black = scene.material('plain', np.full(3, 0.02, np.float32), gloss=1.0)
    if width > 1.8:  # hob above an oven, sink with a tap
        u = rng.uniform(-0.3, -0.1) * width
        scene.box((0.56, 0.48, 0.008), at(u, 0, height), yaw, black, part)
        scene.box((0.55, 0.03, 0.42), at(u, -depth / 2 - 0.012, 0.3), yaw, black, part)
        for v in (-0.12, 0.12):
            for w in (-0.14, 0.14):
                place = at(u + w, v, height + 0.008)
                scene.cylinder(rng.uniform(0.12, 0.2), 0.004, place, metal, part)
        u = rng.uniform(0.15, 0.3) * width
        scene.box((0.5, 0.4, 0.006), at(u, 0, height), yaw, metal, part)
        scene.cylinder(0.03, 0.25, at(u, 0.2, height), metal, part, 6)
        scene.box((0.025, 0.2, 0.025), at(u, 0.1, height + 0.25), yaw, metal, part)
    things = how_much(scene, width * depth) + 2
    add_clutter(
        scene, *at(0, 0, height + 0.008), width * 0.95, depth * 0.8, yaw, things, 'kitchen'
    )
    for _ in range(1 + int(width)):
        place = at(rng.uniform(-0.4, 0.4) * width, -0.1, height)
        scene.targets.append(Target(place, yaw))


def add_person(
    scene: SceneBuilder, x: float, y: float, yaw: float, seat: float | None = None
) -> None:
    """A person, standing or walking, or sitting on a seat of this height."""
    rng = scene.rng
    part = scene.new_part()
    k = rng.uniform(1.5, 1.95) / 1.75  # size relative to the one the numbers below are for
    if rng.uniform() < 0.1:
        k *= rng.uniform(0.6, 0.85)
    flat = local_frame(x, y, yaw)
    hip = 0.85 * k if seat is None else seat + 0.09

    def at(u: float, v: float, above_hip: float) -> Vector:
        return flat(u * k, v * k, hip + above_hip * k)

    skin = np.array([0.75, 0.5, 0.38], np.float32) * rng.uniform(0.25, 1.1)
    skin = scene.material('plain', skin)
    shirt = scene.material_of('fabric', 'plain', 'stripes', scale=0.5)
    trousers = scene.material_of('fabric', 'plain')
    shoes = scene.material('plain')
    stride = rng.normal(0, 0.2) if seat is None else 0.0
    for side in (-1, 1):
        u, swing = side * 0.1, side * stride
        if seat is None:
            turn = tilted(yaw, swing)
            foot = (0.0, 0.85 * math.sin(swing))
            ground = 0.85 * k * (1 - math.cos(swing))
            x_, y_, _ = at(u, foot[1], 0)
            scene.cylinder(0.15 * k, 0.87 * k, (x_, y_, ground), trousers, part, 10, turn=turn)
        else:
            knee = at(u * 1.4, -0.42, -0.04)
            scene.cylinder(0.15 * k, 0.45 * k, knee, trousers, part, 10, turn=tilted(yaw, -1.57))
            x_, y_, _ = at(u * 1.4, -0.42, 0)
            scene.cylinder(0.12 * k, hip, (x_, y_, 0.0), trousers, part, 10)
            ground = 0.0
        c, s = math.cos(yaw), math.sin(yaw)
        shoe = (x_ + s * 0.05, y_ - c * 0.05, ground)
        scene.box((0.1, 0.27 * k, 0.09), shoe, yaw, shoes, part)
        reach = rng.uniform(0.0, 0.5) if seat is None else rng.uniform(0.3, 0.9)
        shoulder = np.array(at(side * 0.22, 0, 0.55))
        for length, width, material, bend in (
            (0.32, 0.1, shirt, reach - swing),
            (0.28, 0.08, skin, reach * 2 - swing),
        ):
            turn = tilted(yaw, -bend)
            end = shoulder - turn[:, 2] * length * k
            scene.cylinder(width * k, length * k, tuple(end), material, part, 10, turn=turn)
            shoulder = end
        scene.sphere((0.1 * k, 0.1 * k, 0.1 * k), tuple(shoulder - [0, 0, 0.08 * k]), skin, part)
    scene.cylinder(0.36 * k, 0.62 * k, at(0, 0, -0.03), shirt, part, 16, 0.24 * k, turn=yaw)
    scene.cylinder(0.1 * k, 0.12 * k, at(0, 0, 0.57), skin, part, 10)
    scene.sphere((0.17 * k, 0.2 * k, 0.25 * k), at(0, 0, 0.65), skin, part)
    hair = scene.material('plain', scene.colour() * 0.3)
    scene.sphere((0.19 * k, 0.21 * k, 0.14 * k), at(0, 0.02, 0.78), hair, part)


def add_foliage(
    scene: SceneBuilder, roots: np.ndarray, length: float, green: np.ndarray, part: int
) -> None:
    """Leaves of about this length that start at `roots` [N, 3] and point anywhere but down."""
    rng = scene.rng
    count = len(roots)
    along = rng.normal(0, 1, (count, 3))
    along[:, 2] = np.abs(along[:, 2]) * 0.5
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, rng.normal(0, 1, (count, 3)))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    reach = along * rng.uniform(0.6, 1.6, (count, 1)) * length
    half = across * length * rng.uniform(0.15, 0.3)
    middle = roots + reach * 0.5
    vertices = np.stack([roots, middle + half, roots + reach, middle - half], 1)
    first = np.arange(count)[:, None] * 4
    faces = np.concatenate([first + np.array([0, 1, 2]), first + np.array([0, 2, 3])])
    texture = scene.texture_of('plain')
    uv = np.zeros((2 * count, 3, 2)) + rng.uniform(0, 1, (2 * count, 1, 1))
    shade = np.tile(rng.uniform(0.5, 1.4, (count, 1)), (2, 1))
    tint = scene.tint(texture, green) * shade
    scene.triangles(vertices.reshape(-1, 3), faces, uv, texture, tint, part)


def leaf_colour(scene: SceneBuilder) -> np.ndarray:  # -> [3]
    """A linear green."""
    green = np.array([0.13, 0.25, 0.06], np.float32) * scene.rng.uniform(0.5, 1.8)
    return (green * np.exp(scene.rng.normal(0, 0.15, 3))).astype(np.float32)


def add_plant(scene: SceneBuilder, x: float, y: float) -> None:
    """A pot with a cloud of leaves."""
    rng = scene.rng
    part = scene.new_part()
    pot, radius = rng.uniform(0.2, 0.45), rng.uniform(0.1, 0.2)
    profile = [(0, 0), (radius * 0.75, 0), (radius, pot), (0, pot)]
    scene.lathe(profile, (x, y, 0), scene.material(), part)
    spread, height = rng.uniform(0.08, 0.24), rng.uniform(0.3, 1.3)
    scatter = rng.normal(0, 1, (int(rng.integers(20, 90)), 3)) * [spread, spread, height * 0.2]
    scatter[:, 2] = np.maximum(scatter[:, 2], -height * 0.45)
    roots = np.array([x, y, pot + height * 0.5]) + scatter
    scene.cylinder(0.03, height * 0.6, (x, y, pot), scene.material('wood'), part, 6)
    add_foliage(scene, roots, rng.uniform(0.1, 0.3), leaf_colour(scene), part)


def add_pile(scene: SceneBuilder, x: float, y: float, width: float) -> None:
    """Boxes, mostly of cardboard, one on the other."""
    rng = scene.rng
    z = 0.0
    for _ in range(rng.integers(1, 5)):
        height = rng.uniform(0.15, 0.5)
        size = (width * rng.uniform(0.5, 1), width * rng.uniform(0.5, 1), height)
        place = (x + rng.normal(0, 0.04), y + rng.normal(0, 0.04), z)
        yaw = rng.uniform(0, 6)
        scene.box(size, place, yaw, scene.material('cardboard' if rng.uniform() < 0.7 else None))
        z += height


def add_tote(
    scene: SceneBuilder, x: float, y: float, width: float, depth: float, z: float, yaw: float
) -> None:
    """An open box on a stand of height `z`, with things in it that lie as they fell."""
    rng = scene.rng
    at, part = local_frame(x, y, yaw), scene.new_part()
    wall, deep = rng.uniform(0.003, 0.012), rng.uniform(0.1, 0.32)
    made = scene.material_of('plain', 'plain', 'cardboard', 'metal', 'wood', scale=0.5)
    if z > 0:
        stand = scene.material_of('wood', 'plain', 'metal')
        scene.box((width * 1.1, depth * 1.1, z), (x, y, 0), yaw, stand)
    scene.box((width, depth, wall), (x, y, z), yaw, made, part)
    for i in (-1, 1):
        scene.box((width, wall, deep), at(0, i * depth / 2, z), yaw, made, part)
        scene.box((wall, depth, deep), at(i * width / 2, 0, z), yaw, made, part)
    fullest = int(rng.choice([0, 8, 30], p=[0.1, 0.4, 0.5]))
    for i in range(int(rng.integers(fullest // 4, fullest + 1))):
        longest = float(rng.uniform(0.04, 0.22))
        size = (longest, longest * rng.uniform(0.25, 0.9), longest * rng.uniform(0.1, 0.7))
        u = rng.uniform(-0.5, 0.5) * max(width - longest, 0)
        v = rng.uniform(-0.5, 0.5) * max(depth - longest, 0)
        up = z + wall + min(i * rng.uniform(0, 0.012), deep * 0.8)  # on what lies below
        turn = tilted(rng.uniform(0, 6.28), rng.normal(0, 0.25), rng.normal(0, 0.25))
        thing = scene.material(scale=0.3, gloss=scene.sheen(0.3))
        kind, place = rng.integers(4), at(u, v, up)
        if kind == 0:
            scene.cylinder(size[1], longest, place, thing, turn=turn @ tilted(0, math.pi / 2))
        elif kind == 1:
            scene.sphere((size[1], size[1], size[1]), place, thing)
        else:
            scene.box(size, place, turn, thing)
    scene.targets.append(Target(at(0, 0, z + deep * 0.4), None, tote=True))


def _fill_shelf(
    scene: SceneBuilder, at: Place, width: float, depth: float, z: float, gap: float, yaw: float
) -> None:
    """Things side by side on one board at height `z`, at most `gap` high."""
    rng = scene.rng
    if rng.uniform() < 0.4 and gap > 0.25:
        low = [thing for thing in THEMES[scene.theme] if thing in LOW_THINGS]
        u = -width / 2
        for _ in range(int(width / 0.1)):
            own = low[rng.integers(len(low))] if low else LOW_THINGS[0]
            add, radius = small_model(scene, None, gap - 0.05) or own
            u += radius + rng.uniform(0.0, 0.06)
            if u > width / 2 - radius or radius > depth / 2:
                break
            add(scene, at(u, rng.uniform(-0.3, 0.1) * (depth - 2 * radius), z), yaw)
            u += radius
        return
    u = -width / 2 + 0.04
    while u < width / 2 - 0.1:
        kind = rng.integers(0, 6)
        across = min(rng.uniform(0.06, 0.45), width / 2 - u - 0.02)
        height = gap * rng.uniform(0.3, 0.88)
        if kind == 0:  # nothing here
            u += across
            continue
        if kind <= 2:
            size = (across, depth * rng.uniform(0.4, 0.85), height)
            place = at(u + across / 2, depth * rng.uniform(-0.1, 0.1), z)
            made_of = ('spines', None, 'cardboard')[kind - rng.integers(0, 2)]
            scene.box(size, place, yaw, scene.material(made_of))
        elif kind == 3:
            place = at(u + across / 2, 0, z)
            scene.cylinder(min(across, 0.25, depth), height, place, scene.material())
        elif kind == 4:
            size = (across, depth * 0.7, height * 0.5)
            scene.box(size, at(u + across / 2, 0, z), yaw, scene.material('plain'))
        else:  # books one by one, the last leaning
            end, up = u + across, min(gap * 0.85, 0.3)
            while u < end:
                thick, tall = rng.uniform(0.012, 0.05), up * rng.uniform(0.6, 1)
                lean = tilted(yaw, 0, -0.15) if u + thick > end - 0.05 else yaw
                book = scene.material('spines' if rng.uniform() < 0.3 else 'plain')
                scene.box((thick, depth * 0.6, tall), at(u + thick / 2, 0, z), lean, book)
                u += thick + 0.002
            across = 0.03
        u += across + rng.uniform(0, 0.08)
