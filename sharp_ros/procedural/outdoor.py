"""Random streets and yards under a sky: facades, trees, hedges, cars, kerbs, poles, people.

Lengths in metres; the ground under the camera is z = 0; a seed stands for a scene. One module:
streets and yards, and the pieces that stand nowhere else.
"""

from __future__ import annotations

import math

import numpy as np

from sharp_ros.procedural.clutter import add_clutter, local_frame
from sharp_ros.procedural.furnishing import Furnisher, Room
from sharp_ros.procedural.furniture import (
    add_chair,
    add_foliage,
    add_person,
    add_pile,
    add_plant,
    add_table,
    leaf_colour,
)
from sharp_ros.procedural.scene import Light, Material, Scene, SceneBuilder, Sky, Target, tilted
from sharp_ros.procedural.textures import Textures

FAR = 250.0  # half the side of the ground
SUN_DISTANCE = 200.0
KERB = 0.12  # height of a pavement above its street


def build_outdoors(rng: np.random.Generator, textures: Textures) -> tuple[Scene, list[Room]]:
    """A street or a yard and the ground to stand on; the same state of `rng`, the same scene."""
    builder = SceneBuilder(rng, textures)
    builder.theme = 'floor'
    ground = _street(builder) if rng.uniform() < 0.55 else _yard(builder)
    return builder.finish(*_weather(builder)), ground


def _weather(builder: SceneBuilder) -> tuple[np.ndarray, Sky]:
    """Sun, unless it is overcast, the light of the sky and its look."""
    rng = builder.rng
    cover = rng.uniform(0, 1)
    blue = np.array([0.25, 0.45, 0.85]) * rng.uniform(0.6, 1.2)
    haze = np.array([0.85, 0.9, 1.0]) * np.exp(rng.normal(0, 0.05, 3))
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 1.3)
    if cover < 0.75:
        towards = np.array(
            [
                math.cos(azimuth) * math.cos(elevation),
                math.sin(azimuth) * math.cos(elevation),
                math.sin(elevation),
            ]
        )
        warm = np.array([1.0, 0.75 + 0.2 * math.sin(elevation), 0.5 + 0.45 * math.sin(elevation)])
        power = warm * rng.uniform(1.0, 4.0) * math.pi * SUN_DISTANCE**2
        corner, across = towards * SUN_DISTANCE, np.cross(towards, [0, 0, 1.0]) * 3
        sun = Light(corner, across, np.array([0, 0, 3.0]), None, power)
        builder.lights.append(sun)
    ambient = (0.4 * haze + 0.6 * (blue * (1 - cover) + haze * cover)) * rng.uniform(0.5, 1.0)
    sky = Sky(blue, haze, builder.texture_of('overcast'), cover)
    return ambient.astype(np.float32), sky


def _ground(builder: SceneBuilder, material: Material, z: float) -> None:
    builder.box((2 * FAR, 2 * FAR, 1.0), (0, 0, z - 1.0), 0, material)


def _slab(
    builder: SceneBuilder, x: tuple[float, float], y: tuple[float, float], z: float, made: Material
) -> None:
    """A strip of ground with its upper side at `z`."""
    size = (x[1] - x[0], y[1] - y[0], 0.4)
    builder.box(size, (sum(x) / 2, sum(y) / 2, z - 0.4), 0, made)


def _street(builder: SceneBuilder) -> list[Room]:
    """A street along x between two pavements, with whatever stands beside it."""
    rng = builder.rng
    on_road = rng.uniform() < 0.35
    road = 0.0 if on_road else -KERB
    walk = road + KERB
    half, left, right = rng.uniform(2.5, 5.0), rng.uniform(1.5, 4.0), rng.uniform(1.5, 4.0)
    length = 70.0
    material_of = builder.material_of
    _ground(builder, material_of('grass', 'asphalt', 'paving'), road - 0.03)
    _slab(builder, (-length, length), (-half, half), road, builder.material('asphalt'))
    paving, edge = material_of('paving', 'asphalt'), builder.material('concrete')
    for side, width in ((-1, left), (1, right)):
        near, far = side * (half + 0.15), side * (half + width)
        _slab(builder, (-length, length), (min(near, far), max(near, far)), walk, paving)
        kerb = (min(side * half, near), max(side * half, near))
        _slab(builder, (-length, length), kerb, walk + 0.004, edge)
        _roadside(builder, side, half + width, walk, length)
    if rng.uniform() < 0.6:
        white = builder.material('worn', np.full(3, 0.7, np.float32))
        for x in np.arange(-length, length, rng.uniform(4, 9)).tolist():
            _slab(builder, (x, x + 2), (-0.06, 0.06), road + 0.004, white)
    for side in (-1, 1):
        x = -40 + rng.uniform(0, 8)
        parking = rng.choice([0.0, rng.uniform(0.2, 1)])
        while x < 40:
            if half > 2.9 and rng.uniform() < parking:
                _car(builder, x, side * (half - 1.05), road, rng.choice([0, math.pi]))
            x += rng.uniform(5.2, 6.5)
        along = -30 + rng.uniform(0, 10)
        kind = (_tree, _pole)[rng.integers(2)]
        while along < 40:
            if rng.uniform() < 0.7:
                kind(builder, along, side * (half + 0.5), walk)
            elif rng.uniform() < 0.5:
                _pole(builder, along, side * (half + 0.4), walk)
            along += rng.uniform(4, 14)
    x0 = 12.0
    if on_road:
        ground = Room((-x0, -half + 2.1, x0, half - 2.1), 10.0)
        if half < 3.2:
            ground = Room((-x0, -half + 0.3, x0, half - 0.3), 10.0)
            ground.taken.append((-x0, half - 2.2, x0, half))
            ground.taken.append((-x0, -half, x0, 2.2 - half))
        return [ground]
    pavements = [
        Room((-x0, -half - left, x0, -half - 0.8), 10.0),
        Room((-x0, half + 0.8, x0, half + right), 10.0),
    ]
    for pavement in pavements:
        _strew(builder, pavement, int(rng.integers(2, 14)))
    return pavements


def _strew(builder: SceneBuilder, ground: Room, count: int) -> None:
    """People and smaller things on free ground."""
    rng = builder.rng
    furnisher = Furnisher(builder, ground, builder.material('plain'))

    def bin_(x: float, y: float, yaw: float) -> None:
        part, made = builder.new_part(), builder.material('plain')
        builder.box((0.5, 0.55, 0.95), (x, y, 0), yaw, made, part)
        builder.box((0.56, 0.62, 0.06), (x, y, 0.95), yaw, made, part)
        builder.targets.append(Target((x, y, 0.8), None))

    def bench(x: float, y: float, yaw: float) -> None:
        at, part, wood = local_frame(x, y, yaw), builder.new_part(), builder.material('planks')
        builder.box((1.6, 0.4, 0.05), at(0, 0, 0.42), yaw, wood, part)
        builder.box((1.6, 0.04, 0.4), at(0, 0.2, 0.5), yaw, wood, part)
        for u in (-0.6, 0.6):
            builder.box((0.06, 0.4, 0.42), at(u, 0, 0), yaw, builder.material('metal'), part)
        builder.targets.append(Target((x, y, 0.45), yaw))

    def things(x: float, y: float, yaw: float) -> None:
        add_clutter(builder, x, y, 0, 0.8, 0.8, yaw, int(rng.integers(1, 5)))
        builder.targets.append(Target((x, y, 0.05), None))

    kinds = (  # role of the models that stand in for it, width, depth, how to add it
        ('person', 0.6, 0.5, lambda x, y, yaw: add_person(builder, x, y, rng.uniform(0, 6.28))),
        ('outdoor', 0.7, 0.7, bin_),
        ('bench', 1.7, 0.6, bench),
        ('', 0.9, 0.9, things),
        ('outdoor', 0.8, 0.8, lambda x, y, yaw: add_pile(builder, x, y, 0.6)),
        ('plant', 0.4, 0.4, lambda x, y, yaw: add_plant(builder, x, y)),
    )
    shares = np.array([0.35, 0.15, 0.15, 0.15, 0.1, 0.1])
    for kind in rng.choice(len(kinds), count, p=shares):
        role, *piece = kinds[kind]
        if not (role and furnisher.model(role)):
            furnisher.anywhere(*piece)


def _roadside(builder: SceneBuilder, side: int, offset: float, z: float, length: float) -> None:
    """Houses with gaps, a hedge or a fence with trees behind, along y = `side` times `offset`."""
    rng = builder.rng
    yaw = 0.0 if side > 0 else math.pi
    if rng.uniform() < 0.25:
        _border(builder, (0, side * (offset + 0.3)), yaw, 2 * length, z)
        for x in np.arange(-40, 60, rng.uniform(4, 12)).tolist():
            _tree(builder, x + rng.normal(0, 1), side * (offset + rng.uniform(2, 8)), z)
        return
    x = -length
    setback = rng.choice([0.0, rng.uniform(2, 6)], p=[0.7, 0.3])
    if setback > 0:
        grass = builder.material('grass')
        near, far = side * offset, side * (offset + setback)
        _slab(builder, (-length, length), (min(near, far), max(near, far)), z + 0.02, grass)
        _border(builder, (0, side * (offset + 0.3)), yaw, 2 * length, z)
    while x < length:
        width = rng.uniform(6, 18)
        if rng.uniform() < 0.9:
            depth = 8.0
            place = (x + width / 2, side * (offset + setback + depth / 2), z)
            _house(builder, place, yaw, width, depth)
        else:
            _tree(builder, x + width / 2, side * (offset + 3), z)
        x += width + rng.choice([0.0, rng.uniform(0.5, 5)])


def _house(
    builder: SceneBuilder,
    place: tuple[float, float, float],
    yaw: float,
    width: float,
    depth: float,
) -> None:
    """A box with a regular facade: windows, doors or a shop, a roof or an edge at the top."""
    rng = builder.rng
    x, y, z = place
    at = local_frame(x, y, yaw)
    part = builder.new_part()
    storeys, rise = int(rng.integers(1, 6)), rng.uniform(2.7, 3.4)
    height = storeys * rise + 0.5
    wall = builder.material_of('plain', 'worn', 'brick', 'concrete', p=[0.35, 0.25, 0.28, 0.12])
    builder.box((width, depth, height + 0.5), at(0, 0, z - 0.5), yaw, wall, part)
    trim = builder.material('plain', builder.colour(0.5))
    builder.box((width, depth + 0.04, rng.uniform(0.2, 0.8)), at(0, 0, z), yaw, trim, part)
    if rng.uniform() < 0.5:  # a saddle roof of two boards
        pitch, roof = rng.uniform(0.4, 0.9), builder.material_of('tile', 'slats', 'planks')
        slope = (depth / 2 + 0.3) / math.cos(pitch)
        for v, sign in ((-depth / 2 - 0.3, 1), (depth / 2 + 0.3, -1)):
            turn = tilted(yaw if sign > 0 else yaw + math.pi, pitch)
            middle = at(0, v, z + height - 0.2) + turn @ np.array([0, slope / 2, 0])
            builder.box((width + 0.5, slope, 0.12), tuple(middle), turn, roof, part)
    else:
        builder.box((width + 0.3, depth + 0.5, 0.25), at(0, 0, z + height), yaw, trim, part)
    count = max(1, int(width / rng.uniform(1.8, 3.5)))
    size = (rng.uniform(0.7, 1.5), rng.uniform(1.0, 1.7))
    step, front = width / count, -depth / 2 - 0.02
    door, shop = int(rng.integers(count)), rng.uniform() < 0.25
    for i in range(count):
        u = -width / 2 + step * (i + 0.5)
        for storey in range(storeys):
            sill = z + storey * rise + 1.0
            if storey == 0 and i == door:
                leaf = builder.material_of('wood', 'plain', 'worn')
                builder.box((1.1, 0.08, 2.15), at(u, front, z), yaw, leaf, part)
                builder.box((1.3, 0.06, 2.25), at(u, front, z), yaw, trim, part)
                builder.box((1.4, 0.5, 0.12), at(u, front - 0.2, z), yaw, trim, part)
            elif storey == 0 and shop:
                place = at(u, front, z + 0.4)
                builder.panel(step * 0.9, 2.0, place, yaw, 'window', 0.06, gloss=1.0, part=part)
                board = at(u, front - 0.03, z + 2.5)
                builder.panel(step * 0.9, 0.45, board, yaw, 'sign', 0.1, part=part)
            else:
                across, up = min(size[0], step * 0.8), size[1]
                place = at(u, front, sill)
                builder.panel(across, up, place, yaw, 'window', 0.05, gloss=1.0, part=part)
                board = at(u, front - 0.05, sill - 0.06)
                builder.box((across + 0.2, 0.2, 0.06), board, yaw, trim, part)
    builder.targets.append(Target(at(0, front, 1.2), yaw))


def _border(
    builder: SceneBuilder, middle: tuple[float, float], yaw: float, length: float, z: float
) -> None:
    """A hedge, a fence of posts and boards, or a wall."""
    rng = builder.rng
    at = local_frame(*middle, yaw)
    part = builder.new_part()
    model = builder.pick('fence')
    if model is not None:
        step = float(model.size[0])
        for u in np.arange(-length / 2 + step / 2, length / 2 - step / 2, step).tolist():
            if abs(u) < 20:
                builder.model(model, at(u, 0, z), yaw, part)
        return
    height, kind = rng.uniform(0.8, 2.0), rng.uniform()
    if kind < 0.4:
        depth, leaves = rng.uniform(0.4, 0.9), builder.material('leaves')
        builder.box((length, depth, height), at(0, depth / 2, z - 0.02), yaw, leaves, part)
        count = int(min(length, 40) * height * 25)
        u, w = (
            rng.uniform(-0.5, 0.5, count) * min(length, 40),
            rng.uniform(0.02, 1, count) * height,
        )
        roots = np.array([at(a, rng.uniform(0, 0.05), z + b) for a, b in zip(u, w, strict=True)])
        add_foliage(builder, roots, 0.09, leaf_colour(builder), part)
    elif kind < 0.75:
        wood = builder.material_of('planks', 'wood', 'plain', 'metal')
        gap = rng.uniform(0.02, 0.2)
        reach = min(length, 40.0)
        for u in np.arange(-reach / 2, reach / 2, 0.09 + gap).tolist():
            builder.box((0.09, 0.02, height), at(u, 0, z), yaw, wood, part)
        for w in (0.2, 0.8):
            builder.box((reach, 0.05, 0.08), at(0, 0.035, z + w * height), yaw, wood, part)
    else:
        wall = builder.material_of('brick', 'concrete', 'worn', 'plain')
        builder.box((length, 0.25, height), at(0, 0.13, z - 0.1), yaw, wall, part)


def _tree(builder: SceneBuilder, x: float, y: float, z: float) -> None:
    """A trunk and a crown of round clumps covered with leaves."""
    rng = builder.rng
    model = builder.pick('tree', largest=(4.5, 4.5, 12.0))
    if model is not None:
        builder.model(model, (x, y, z - 0.02), rng.uniform(0, 6.28))
        return
    part = builder.new_part()
    height, crown = rng.uniform(3, 9), rng.uniform(0.8, 2.2)
    thick = height * rng.uniform(0.02, 0.04)
    profile = [
        (0, 0),
        (thick * 1.4, 0),
        (thick, 0.4),
        (thick * 0.5, height * 0.8),
        (0, height * 0.8),
    ]
    bark = builder.material('wood', np.array([0.12, 0.09, 0.06], np.float32))
    builder.lathe(profile, (x, y, z), bark, part, sides=9)
    green, leaves = leaf_colour(builder), builder.material('leaves')
    count = int(rng.integers(3, 8))
    for _ in range(count):
        radius = crown * rng.uniform(0.35, 0.7)
        middle = np.array([x, y, z + height - crown])
        middle = middle + rng.normal(0, 0.4, 3) * [crown, crown, crown * 0.8]
        middle[2] = max(middle[2], z + height * 0.4)
        size = 2 * radius * 0.85
        bottom = (middle[0], middle[1], middle[2] - size / 2)
        builder.sphere((size, size, size), bottom, leaves, part)
        direction = rng.normal(0, 1, (90, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        add_foliage(builder, middle + direction * radius * 0.85, 0.25, green, part)


def _pole(builder: SceneBuilder, x: float, y: float, z: float) -> None:
    """A lamp post, a road sign or a bollard."""
    rng = builder.rng
    model = builder.pick('post', largest=(0.7, 2.0, 8.0))
    if model is not None:
        builder.model(model, (x, y, z), 0.0 if y > 0 else math.pi)
        return
    part, metal = builder.new_part(), builder.material('metal')
    kind = rng.uniform()
    if kind < 0.35:
        height = rng.uniform(4, 7)
        builder.cylinder(0.14, height, (x, y, z), metal, part, 10)
        builder.box((0.3, 0.9, 0.12), (x, y - math.copysign(0.35, y), z + height), 0, metal, part)
    elif kind < 0.7:
        height, yaw = rng.uniform(1.9, 2.6), rng.choice([-math.pi / 2, math.pi / 2])
        builder.cylinder(0.06, height + 0.6, (x, y, z), metal, part, 6)
        board = (x + 0.045 * math.sin(yaw), y, z + height)
        builder.panel(0.6, 0.6, board, yaw, 'sign', part=part)
    else:
        builder.cylinder(rng.uniform(0.1, 0.25), rng.uniform(0.5, 1.0), (x, y, z), metal, part)


def _car(builder: SceneBuilder, x: float, y: float, z: float, yaw: float) -> None:
    """A car, or a van if it is tall, pointing along x: body, cabin with windows, wheels, lamps."""
    rng = builder.rng
    model = builder.pick('car', largest=(2.15, 4.9, 2.5))
    if model is not None:
        builder.model(model, (x, y, z), yaw + math.pi / 2)
        builder.targets.append(Target((x, y, z + 0.8), None))
        return
    at = local_frame(x, y, yaw)
    part = builder.new_part()
    length, width, van = rng.uniform(3.6, 4.8), rng.uniform(1.6, 1.85), rng.uniform() < 0.2
    waist = rng.uniform(0.75, 0.95)
    top = rng.uniform(1.8, 2.2) if van else rng.uniform(1.38, 1.6)
    colour = builder.colour() if rng.uniform() < 0.5 else np.full(3, rng.choice([0.02, 0.3, 0.75]))
    paint = builder.material('plain', colour.astype(np.float32), gloss=1.0)
    glass = builder.material('plain', np.array([0.02, 0.025, 0.03], np.float32), gloss=1.5)
    rubber = builder.material('plain', np.full(3, 0.015, np.float32))
    rim = builder.material('metal', gloss=0.5)
    front, back = (0.25, 0.05) if van else (0.3, rng.uniform(0.08, 0.25))
    # Outline in the plane of symmetry, from the front bumper over the roof, front is +x.
    lower = np.array(
        [[0.5, 0.25], [0.5, 0.62], [0.28, waist], [-0.47, waist], [-0.5, 0.6], [-0.5, 0.25]]
    )
    cabin = np.array(
        [[front, waist], [front - 0.16, top], [back - 0.5 + 0.08, top], [back - 0.5, waist]]
    )
    _extrude(builder, lower * [length, 1], width, (x, y, z), yaw, paint, part)
    _extrude(builder, cabin * [length, 1], width * 0.9, (x, y, z), yaw, glass, part)
    roof = cabin[1:3].mean(0)[0] * length, (cabin[1, 0] - cabin[2, 0]) * length
    builder.box((roof[1], width * 0.88, 0.03), at(roof[0], 0, z + top), yaw, paint, part)
    for pillar in (0.35, 0.65):
        u = (cabin[1, 0] * (1 - pillar) + cabin[2, 0] * pillar) * length
        size = (0.08, width * 0.905, top - waist)
        builder.box(size, at(u, 0, z + waist), yaw, paint, part)
    for u in (-0.31, 0.31):
        for side in (-1, 1):
            axle = at(u * length, side * (width / 2 - 0.19), z + 0.31)
            turn = tilted(yaw, -side * math.pi / 2)
            builder.cylinder(0.62, 0.21, axle, rubber, part, 16, turn=turn)
            hub = at(u * length, side * (width / 2 + 0.0), z + 0.31)
            builder.cylinder(0.38, 0.03, hub, rim, part, 10, turn=turn)
    lamp = builder.material('plain', np.full(3, 0.8, np.float32), gloss=0.6)
    red = builder.material('plain', np.array([0.5, 0.01, 0.01], np.float32), gloss=0.6)
    for side in (-1, 1):
        place = at(length / 2, side * width * 0.36, z + 0.5)
        builder.box((0.04, 0.3, 0.13), place, yaw, lamp, part)
        place = at(-length / 2, side * width * 0.38, z + 0.55)
        builder.box((0.04, 0.22, 0.18), place, yaw, red, part)
    for u in (length / 2, -length / 2):
        builder.box((0.02, 0.5, 0.12), at(u, 0, z + 0.36), yaw, lamp, part)
    builder.targets.append(Target(at(0, 0, 0.8), None))


def _extrude(
    builder: SceneBuilder,
    outline: np.ndarray,
    width: float,
    place: tuple[float, float, float],
    yaw: float,
    material: Material,
    part: int,
) -> None:
    """A convex outline [K, 2] in x and z, anticlockwise seen from -y, drawn out along y."""
    count = len(outline)
    u, w = outline.T
    corners = np.concatenate(
        [np.stack([u, np.full(count, v), w], 1) for v in (-width / 2, width / 2)]
    )
    i = np.arange(count)
    j = (i + 1) % count
    k = np.arange(1, count - 1)
    zero = np.zeros_like(k)
    faces = np.concatenate(
        [
            np.stack([i, i + count, j], 1),
            np.stack([j, i + count, j + count], 1),
            np.stack([zero, k, k + 1], 1),
            np.stack([zero, k + 1, k], 1) + count,
        ]
    )
    builder.solid((corners, faces), place, yaw, material, part)


def _yard(builder: SceneBuilder) -> list[Room]:
    """Lawn and paving between a house and a border on the other sides."""
    rng = builder.rng
    width, length = rng.uniform(7, 20), rng.uniform(6, 16)
    outside = builder.material_of('grass', 'asphalt', 'paving')
    _ground(builder, outside, -0.02)
    lawn = builder.material_of('grass', 'paving', p=[0.7, 0.3])
    _slab(builder, (-width / 2, width / 2), (-length / 2, length / 2), 0.0, lawn)
    terrace = length * rng.uniform(0.15, 0.5)
    paving = builder.material_of('paving', 'planks', 'concrete', 'tile')
    across = width * rng.uniform(0.3, 1.0) / 2
    _slab(builder, (-across, across), (length / 2 - terrace, length / 2), 0.004, paving)
    _house(
        builder, (rng.normal(0, 1), length / 2 + 4.0, 0.0), 0.0, width * rng.uniform(0.7, 1.3), 8
    )
    for middle, yaw, reach in (
        ((0, -length / 2), math.pi, width),
        ((width / 2, 0), -math.pi / 2, length),
        ((-width / 2, 0), math.pi / 2, length),
    ):
        if rng.uniform() < 0.85:
            _border(builder, middle, yaw, reach, 0.0)
    for _ in range(rng.integers(1, 7)):  # behind the border
        angle = rng.uniform(math.pi, 2 * math.pi)
        reach = rng.uniform(3, 15)
        x, y = math.cos(angle) * (width / 2 + reach), math.sin(angle) * (length / 2 + reach)
        _tree(builder, x, y, 0.0)
    for side in (-1, 1):
        if rng.uniform() < 0.6:
            place = (side * (width / 2 + rng.uniform(9, 20)), rng.uniform(-10, 10), 0.0)
            _house(builder, place, -side * math.pi / 2, rng.uniform(8, 14), 8)
    if rng.uniform() < 0.6:
        place = (rng.uniform(-8, 8), -length / 2 - rng.uniform(12, 25), 0.0)
        _house(builder, place, math.pi, rng.uniform(8, 16), 8)
    ground = Room((-width / 2 + 0.2, -length / 2 + 0.2, width / 2 - 0.2, length / 2 - 0.3), 10.0)
    furnisher = Furnisher(builder, ground, builder.material('plain'))
    put = furnisher.anywhere
    if rng.uniform() < 0.3:
        put(4.9, 4.9, lambda x, y, yaw: _car(builder, x, y, 0.0, yaw))
    for _ in range(rng.integers(0, 3)):
        if not furnisher.model('tree', largest=(4.5, 4.5, 8.0)):
            put(1.2, 1.2, lambda x, y, yaw: _tree(builder, x, y, 0.0))
    for _ in range(rng.integers(0, 3)):
        if not furnisher.model('table'):
            put(1.8, 0.9, lambda x, y, yaw: add_table(builder, x, y, 1.7, 0.8, 0.74, yaw))
    for _ in range(rng.integers(0, 6)):
        if not furnisher.model('chair', 'sofa', 'outdoor'):
            put(0.6, 0.6, lambda x, y, yaw: add_chair(builder, x, y, yaw))
    if rng.uniform() < 0.35:
        put(2.6, 2.2, lambda x, y, yaw: _shed(builder, x, y, yaw))
    _strew(builder, ground, int(rng.integers(2, 12)))
    return [ground]


def _shed(builder: SceneBuilder, x: float, y: float, yaw: float) -> None:
    """A hut of boards with a door."""
    at, part = local_frame(x, y, yaw), builder.new_part()
    boards, door = builder.material_of('planks', 'slats'), builder.material_of('wood', 'worn')
    height = builder.rng.uniform(1.9, 2.5)
    builder.box((2.3, 1.8, height), (x, y, 0), yaw, boards, part)
    builder.box((0.8, 0.05, 1.8), at(0.3, -0.92, 0.03), yaw, door, part)
    lid = tilted(yaw, builder.rng.uniform(0.05, 0.25))
    builder.box((2.6, 2.2, 0.06), (x, y, height + 0.05), lid, door, part)
