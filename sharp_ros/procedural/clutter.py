"""Small things on tables, in shelves and on floors, of random size and make.

`add_clutter` strews those of a theme; each function below adds one thing, whose bottom is at
`place`, in metres. One module: things of one kind, most of them short, and the themes that list
them.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np

from sharp_ros.procedural.scene import Material, SceneBuilder, tilted, Vector

Place = Callable[[float, float, float], Vector]
AddThing = Callable[[SceneBuilder, Vector, float], None]  # place and yaw
Profile = list[tuple[float, float]]  # radius and height, see SceneBuilder.lathe


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
    theme: str | None = None,
) -> None:
    """Small things beside each other on a table top or a patch of floor at height `z`.

    `theme` is a key of `THEMES`, that of the scene if not given; fewer than `count` things are
    put where there is no room for them.
    """
    at = local_frame(x, y, yaw)
    rng = scene.rng
    things = THEMES[theme or scene.theme]
    there: list[tuple[float, float, float]] = []
    for _ in range(count):
        add, radius = small_model(scene, theme) or things[rng.integers(len(things))]
        half_x, half_y = width / 2 - radius, depth / 2 - radius
        if half_x < 0 or half_y < 0:
            continue
        for _ in range(5):
            u, v = rng.uniform(-half_x, half_x), rng.uniform(-half_y, half_y)
            if all(math.hypot(u - a, v - b) > radius + r for a, b, r in there):
                there.append((u, v, radius))
                add(scene, at(u, v, z), yaw)
                break


def small_model(
    scene: SceneBuilder, theme: str | None, tallest: float = math.inf
) -> tuple[AddThing, float] | None:
    """What adds a small model of a theme, and the radius of its footprint; None as of `pick`."""
    where = CATEGORIES[theme or scene.theme]
    piece = scene.pick('small', categories=where, largest=(math.inf, math.inf, tallest))
    if piece is None:
        return None

    def add(scene: SceneBuilder, place: Vector, yaw: float) -> None:
        scene.model(piece, place, yaw + scene.rng.normal(0, 0.6))

    return add, float(np.linalg.norm(piece.size[:2])) / 2


def how_much(scene: SceneBuilder, area: float) -> int:
    """How many small things lie on so many square metres: some places are tidy, some are not."""
    per_area = scene.rng.choice([0, 5, 14, 30], p=[0.1, 0.3, 0.35, 0.25]) * scene.clutter
    return int(per_area * area + 1.5)


def _parcel(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    size = (rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.3), rng.uniform(0.02, 0.3))
    turned = rng.uniform(0, 6)
    scene.box(size, place, turned, scene.material_of('plain', 'cardboard', 'picture'))


def _hollow(radius: float, height: float, flare: float = 1.0, wall: float = 0.004) -> Profile:
    """A cup: up outside from a foot of this radius, down inside."""
    top = radius * flare
    return [
        *((0.0, 0.0), (radius, 0.0), (top, height), (top - wall, height)),
        *((radius - wall, wall * 2), (0.0, wall * 2)),
    ]


def _glaze(scene: SceneBuilder) -> Material:
    """Paint, china, plastic or enamel; glossy more often than not."""
    return scene.material('plain', gloss=scene.sheen(0.6))


def _cup(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    part = scene.new_part()
    radius, height = rng.uniform(0.03, 0.045), rng.uniform(0.07, 0.12)
    glaze = _glaze(scene)
    scene.lathe(_hollow(radius, height, rng.uniform(0.9, 1.25)), place, glaze, part)
    if rng.uniform() < 0.7:
        yaw = rng.uniform(0, 6.28)
        x, y, z = local_frame(*place[:2], yaw)(radius + 0.012, 0, place[2] + height * 0.25)
        scene.box((0.03, 0.01, height * 0.5), (x, y, z), yaw, glaze, part)


def _bottle(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    part = scene.new_part()
    r, h = rng.uniform(0.028, 0.045), rng.uniform(0.17, 0.33)
    neck, shoulder = r * rng.uniform(0.3, 0.6), h * rng.uniform(0.55, 0.75)
    profile = [(0, 0), (r, 0), (r, shoulder), (neck, shoulder + h * 0.15), (neck, h), (0, h)]
    x, y, z = place
    if rng.uniform() < 0.08:  # lies
        turn = tilted(rng.uniform(0, 6.28), 1.57)
        scene.lathe(profile, (x, y, z + r), _glaze(scene), part, turn)
        return
    scene.lathe(profile, place, _glaze(scene), part)
    if rng.uniform() < 0.6:
        label = scene.material('poster', scale=0.3)
        scene.cylinder(
            2.06 * r, h * rng.uniform(0.15, 0.35), (x, y, z + h * 0.12), label, part, 16
        )


def _can(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    r, h = rng.choice([(0.033, 0.115), (0.037, 0.11), (0.05, 0.12), (0.075, 0.19)])
    part = scene.new_part()
    metal = scene.material('metal', gloss=0.5)
    scene.cylinder(2 * r, h, place, scene.material_of('poster', 'plain', scale=0.3), part, 16)
    lid = (place[0], place[1], place[2] + h)
    scene.lathe(_hollow(r * 0.96, 0.004, 1, 0.003), lid, metal, part)
    if rng.uniform() < 0.15:
        scene.cylinder(2 * r, h, (place[0], place[1], place[2] + h + 0.004), metal, None, 16)


def _plate(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    r, rise = rng.uniform(0.09, 0.14), rng.uniform(0.012, 0.03)
    glaze = _glaze(scene)
    x, y, z = place
    for _ in range(int(rng.choice([1, 1, 1, 4]))):
        scene.lathe(_hollow(r * 0.6, rise, 1.65, 0.005), (x, y, z), glaze)
        z += 0.009


def _bowl(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    part = scene.new_part()
    r, h = rng.uniform(0.04, 0.065), rng.uniform(0.05, 0.09)
    scene.lathe(_hollow(r, h, 1.9, 0.006), place, _glaze(scene), part)
    if rng.uniform() < 0.5:
        for angle in np.arange(3) * 2.1 + rng.uniform(0, 2):
            x, y = place[0] + math.cos(angle) * 0.042, place[1] + math.sin(angle) * 0.042
            _one_fruit(scene, (x, y, place[2] + h * 0.5))


def _fruit(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    for angle in np.arange(scene.rng.integers(1, 4)) * 2.1 + scene.rng.uniform(0, 2):
        x, y = place[0] + math.cos(angle) * 0.045, place[1] + math.sin(angle) * 0.045
        _one_fruit(scene, (x, y, place[2]))


def _one_fruit(scene: SceneBuilder, place: Vector) -> None:
    rng = scene.rng
    colours = ([0.6, 0.05, 0.03], [0.3, 0.5, 0.05], [0.85, 0.35, 0.02], [0.85, 0.7, 0.05])
    colour = np.array(colours[rng.integers(4)], np.float32) * rng.uniform(0.6, 1.1)
    d = rng.uniform(0.05, 0.085)
    peel = scene.material('plain', colour, gloss=0.4)
    scene.sphere((d, d, d * rng.uniform(0.85, 1.1)), place, peel)


def _pot(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    """A pot with two handles, or a pan with a long one."""
    rng = scene.rng
    part = scene.new_part()
    pan = rng.uniform() < 0.5
    r, h = rng.uniform(0.08, 0.13), rng.uniform(0.03, 0.055) if pan else rng.uniform(0.09, 0.2)
    metal = scene.material_of('metal', 'plain', gloss=scene.sheen(0.7))
    scene.lathe(_hollow(r, h, 1.05), place, metal, part)
    yaw = rng.uniform(0, 6.28)
    at = local_frame(*place[:2], yaw)
    dark = scene.material('plain', np.full(3, 0.03, np.float32))
    for side, length in ((1, 0.19),) if pan else ((-1, 0.04), (1, 0.04)):
        middle = at(side * (r * 1.05 + length / 2), 0, place[2] + h * 0.75)
        scene.box((length, 0.025, 0.015), middle, yaw, dark, part)
    if not pan and rng.uniform() < 0.4:
        lid = (place[0], place[1], place[2] + h)
        profile = [(0, 0), (r * 1.07, 0), (r * 0.9, 0.02), (0.015, 0.03), (0.015, 0.05), (0, 0.05)]
        scene.lathe(profile, lid, metal, part)


def _kettle(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    part = scene.new_part()
    h, yaw = rng.uniform(0.18, 0.25), rng.uniform(0, 6.28)
    at = local_frame(*place[:2], yaw)
    body = scene.material_of('metal', 'plain', gloss=scene.sheen(0.7))
    profile = [
        (0, 0),
        (0.085, 0),
        (0.08, 0.03),
        (0.06, h),
        (0.015, h),
        (0.015, h + 0.02),
        (0, h + 0.02),
    ]
    scene.lathe(profile, place, body, part)
    dark = scene.material('plain', np.full(3, 0.03, np.float32))
    scene.box((0.02, 0.025, h * 0.8), at(0.11, 0, place[2] + h * 0.12), yaw, dark, part)
    scene.box((0.06, 0.025, 0.02), at(0.09, 0, place[2] + h * 0.85), yaw, dark, part)


def _appliance(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    """A microwave, toaster or coffee machine."""
    rng = scene.rng
    part = scene.new_part()
    width, depth, height = [(0.46, 0.32, 0.27), (0.3, 0.17, 0.19), (0.22, 0.32, 0.33)][
        rng.integers(3)
    ]
    at = local_frame(*place[:2], yaw)
    body = scene.material_of('plain', 'metal', gloss=scene.sheen(0.6))
    dark = scene.material('plain', np.full(3, 0.03, np.float32), gloss=0.8)
    scene.box((width, depth, height), place, yaw, body, part)
    front = (width * 0.65, 0.01, height * 0.7)
    scene.box(
        front, at(-width * 0.1, -depth / 2 - 0.004, place[2] + height * 0.15), yaw, dark, part
    )
    for z in (0.3, 0.6):
        knob = at(width * 0.36, -depth / 2 - 0.008, place[2] + height * z)
        scene.box((0.03, 0.02, 0.03), knob, yaw, dark, part)


def _carton(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    """A packet: cereals, milk, tea."""
    rng = scene.rng
    sizes = ((0.19, 0.06, 0.28), (0.095, 0.065, 0.2), (0.13, 0.07, 0.07), (0.07, 0.07, 0.24))
    size = np.array(sizes[rng.integers(4)]) * rng.uniform(0.85, 1.15)
    print_ = scene.material_of('poster', 'photo', 'sign', scale=rng.uniform(0.3, 0.6))
    scene.box(tuple(size), place, yaw + rng.normal(0, 0.6), print_)


def _chopping_board(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    part = scene.new_part()
    yaw = yaw + rng.normal(0, 0.4)
    at = local_frame(*place[:2], yaw)
    scene.box((0.34, 0.22, 0.02), place, yaw, scene.material('wood', scale=0.5), part)
    scene.box(
        (0.18, 0.03, 0.003), at(0.03, 0, place[2] + 0.02), yaw, scene.material('metal'), part
    )
    dark = scene.material('plain', np.full(3, 0.03, np.float32))
    scene.box((0.11, 0.025, 0.018), at(-0.11, 0, place[2] + 0.02), yaw, dark, part)


def _cutlery(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    """Thin long metal things, such as spoons, tweezers and spanners."""
    rng = scene.rng
    metal = scene.material('metal', gloss=0.6)
    yaw = yaw + rng.normal(0, 0.5)
    at = local_frame(*place[:2], yaw)
    for i in range(rng.integers(1, 4)):
        part = scene.new_part()
        length = rng.uniform(0.14, 0.22)
        turned = yaw + rng.normal(0, 0.15)
        scene.box((0.012, length, 0.006), at(i * 0.03 - 0.03, 0, place[2]), turned, metal, part)
        head = at(i * 0.03 - 0.03, -length / 2, place[2])
        scene.box((0.026, 0.04, 0.008), head, turned, metal, part)


def _screwdriver(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    part = scene.new_part()
    turn = tilted(rng.uniform(0, 6.28), -1.57)
    x, y, z = place
    grip, blade = rng.uniform(0.08, 0.12), rng.uniform(0.06, 0.15)
    colour = scene.material('plain', scene.colour(0.4) ** 2 * 1.2, gloss=0.4)
    scene.cylinder(0.03, grip, (x, y, z + 0.015), colour, part, 6, turn=turn)
    end = (x - turn[0, 2] * blade, y - turn[1, 2] * blade, z + 0.015)
    scene.cylinder(0.007, blade, end, scene.material('metal', gloss=0.6), part, 6, turn=turn)


def _hammer(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    part = scene.new_part()
    yaw = scene.rng.uniform(0, 6.28)
    at = local_frame(*place[:2], yaw)
    scene.box((0.26, 0.028, 0.022), place, yaw, scene.material('wood', scale=0.4), part)
    scene.box((0.028, 0.11, 0.028), at(0.13, 0, place[2]), yaw, scene.material('metal'), part)


def _drill(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    part = scene.new_part()
    yaw = rng.uniform(0, 6.28)
    at = local_frame(*place[:2], yaw)
    case = scene.material('plain', scene.colour(0.3), gloss=0.3)
    dark = scene.material('plain', np.full(3, 0.03, np.float32))
    z = place[2]
    scene.box((0.11, 0.07, 0.05), at(0, 0, z), yaw, dark, part)
    scene.box((0.04, 0.035, 0.12), at(0, 0, z + 0.05), yaw, case, part)
    scene.box((0.17, 0.06, 0.07), at(0.02, 0, z + 0.15), yaw, case, part)
    chuck = tilted(yaw - math.pi / 2, -1.57)
    scene.cylinder(0.035, 0.07, at(0.1, 0, z + 0.185), dark, part, 10, turn=chuck)


def _tape(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    """A ring: adhesive tape or coiled cable."""
    rng = scene.rng
    outer, height = rng.uniform(0.04, 0.11), rng.uniform(0.015, 0.05)
    inner = outer * rng.uniform(0.5, 0.8)
    profile = [(inner, 0), (outer, 0), (outer, height), (inner, height), (inner, 0)]
    scene.lathe(profile, place, _glaze(scene))


def _crate(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    """An open box with a few things in it."""
    rng = scene.rng
    part = scene.new_part()
    width, depth, height = rng.uniform(0.25, 0.4), rng.uniform(0.2, 0.3), rng.uniform(0.1, 0.22)
    yaw = yaw + rng.normal(0, 0.2)
    at = local_frame(*place[:2], yaw)
    side = scene.material_of('plain', 'cardboard', 'wood', scale=0.7)
    z = place[2]
    scene.box((width, depth, 0.008), place, yaw, side, part)
    for i in (-1, 1):
        scene.box((width, 0.008, height), at(0, i * depth / 2, z), yaw, side, part)
        scene.box((0.008, depth, height), at(i * width / 2, 0, z), yaw, side, part)
    for _ in range(rng.integers(0, 6)):
        u, v = rng.uniform(-0.3, 0.3) * width, rng.uniform(-0.3, 0.3) * depth
        size = (rng.uniform(0.03, 0.1), rng.uniform(0.03, 0.08), height * rng.uniform(0.3, 1.1))
        scene.box(size, at(u, v, z + 0.008), yaw + rng.uniform(0, 3), scene.material(scale=0.3))


def _flask(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    r, h = rng.uniform(0.03, 0.06), rng.uniform(0.1, 0.2)
    lip, neck = (r * 0.4, h * 0.96), r * 0.35
    cone = [
        (0, 0),
        (r, 0),
        (r, h * 0.08),
        (neck, h * 0.7),
        (neck, h * 0.95),
        lip,
        (neck, h),
        (0, h),
    ]
    tall = _hollow(r * 0.6, h * 1.3, 1.0, 0.003)
    scene.lathe(cone if rng.uniform() < 0.5 else tall, place, _glaze(scene))


def _tubes(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    """A rack with two rows of tubes, or a cup with pens."""
    rng = scene.rng
    part = scene.new_part()
    yaw = yaw + rng.normal(0, 0.3)
    at = local_frame(*place[:2], yaw)
    scene.box((0.2, 0.06, 0.06), place, yaw, _glaze(scene), part)
    caps = _glaze(scene)
    for u in np.linspace(-0.08, 0.08, 6):
        for v in (-0.015, 0.015):
            if rng.uniform() < 0.7:
                scene.cylinder(0.018, 0.05, at(u, v, place[2] + 0.06), caps, part, 6)


def _meter(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    """An instrument with a screen and knobs."""
    rng = scene.rng
    part = scene.new_part()
    width, depth, height = rng.uniform(0.15, 0.35), 0.2, rng.uniform(0.08, 0.2)
    yaw = yaw + rng.normal(0, 0.25)
    at = local_frame(*place[:2], yaw)
    scene.box((width, depth, height), place, yaw, scene.material_of('plain', 'metal'), part)
    screen = at(-width * 0.2, -depth / 2 - 0.004, place[2] + height * 0.25)
    glow = rng.uniform(0, 0.8)
    scene.panel(width * 0.45, height * 0.55, screen, yaw, 'screen', 0.01, glow, part=part)
    knob = scene.material('plain')
    for u in (0.15, 0.35):
        for z in (0.25, 0.6):
            where = at(u * width, -depth / 2 - 0.01, place[2] + z * height)
            scene.box((0.022, 0.02, 0.022), where, yaw, knob, part)


def _laptop(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    part = scene.new_part()
    yaw = yaw + rng.normal(0, 0.4)
    x, y, z = place
    at = local_frame(x, y, yaw)
    width = rng.uniform(0.28, 0.38)
    depth, case = width * 0.68, scene.material('plain', scene.colour() * 0.5)
    scene.box((width, depth, 0.018), place, yaw, case, part)
    keys = scene.material('keys')
    scene.box((width * 0.88, depth * 0.45, 0.003), at(0, depth * 0.15, z + 0.018), yaw, keys, part)
    lid = tilted(yaw, -rng.uniform(0.05, 0.6))
    hinge = at(0, depth / 2, z + 0.018)
    scene.box((width, 0.008, depth), hinge, lid, case, part)
    front = tuple(np.array(hinge) + lid @ np.array([0, -0.005, depth * 0.06]))
    kind = rng.choice(['screen', 'photo'])
    glow = rng.choice([0, rng.uniform(0.2, 1)])
    scene.panel(width * 0.92, depth * 0.86, front, lid, kind, 0.004, glow, 0.5, part)


def _mouse(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    scene.sphere((0.06, 0.1, 0.035), place, _glaze(scene))


def _phone(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    turned = scene.rng.uniform(0, 6.28)
    size = (0.072, 0.15, 0.009)
    black = scene.material('plain', np.full(3, 0.02, np.float32), gloss=1.0)
    scene.box(size, place, turned, black)


def _shoes(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    leather = scene.material_of('fabric', 'plain', scale=0.4)
    turned = rng.uniform(0, 6.28)
    at = local_frame(*place[:2], turned)
    for side in (-1, 1):
        part, yaw = scene.new_part(), turned + rng.normal(0, 0.15)
        scene.box((0.095, 0.28, 0.06), at(side * 0.07, 0, place[2]), yaw, leather, part)
        scene.sphere((0.095, 0.15, 0.12), at(side * 0.07, 0.06, place[2]), leather, part)


def _bag(scene: SceneBuilder, place: Vector, yaw: float) -> None:
    rng = scene.rng
    part = scene.new_part()
    cloth = scene.material_of('fabric', 'plain')
    size = (rng.uniform(0.25, 0.4), rng.uniform(0.15, 0.25), rng.uniform(0.3, 0.5))
    turned = rng.uniform(0, 6.28)
    scene.box(size, place, turned, cloth, part)
    top = (place[0], place[1], place[2] + size[2] * 0.7)
    scene.sphere((size[1], size[1], size[2] * 0.6), top, cloth, part)


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
    turned = yaw + rng.normal(0, 0.2)
    scene.box((rng.uniform(0.3, 0.46), 0.14, 0.025), place, turned, scene.material('keys'))


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


# What adds a thing, and the radius of its footprint.
KITCHEN = (
    *((_cup, 0.06), (_cup, 0.06), (_bottle, 0.05), (_bottle, 0.05), (_can, 0.06), (_plate, 0.14)),
    *((_bowl, 0.12), (_fruit, 0.09), (_pot, 0.24), (_kettle, 0.13), (_appliance, 0.24)),
    *((_carton, 0.1), (_carton, 0.1), (_chopping_board, 0.18), (_cutlery, 0.1), (_paper, 0.15)),
)
DESK = (
    *((_monitor, 0.25), (_keyboard, 0.2), (_laptop, 0.24), (_mouse, 0.05), (_phone, 0.08)),
    *((_books, 0.15), (_books, 0.15), (_paper, 0.16), (_paper, 0.16), (_cup, 0.06), (_cup, 0.06)),
    *((_lamp, 0.12), (_bottle, 0.05), (_carton, 0.1), (_parcel, 0.17), (_tape, 0.1), (_bag, 0.2)),
)
WORKSHOP = (
    *((_screwdriver, 0.12), (_screwdriver, 0.12), (_hammer, 0.15), (_drill, 0.14), (_tape, 0.1)),
    *((_can, 0.07), (_crate, 0.22), (_crate, 0.22), (_parcel, 0.17), (_cutlery, 0.1)),
    *((_bottle, 0.05), (_meter, 0.18), (_cup, 0.06), (_paper, 0.16), (_carton, 0.1)),
)
LABORATORY = (
    *((_flask, 0.06), (_flask, 0.06), (_flask, 0.06), (_tubes, 0.11), (_meter, 0.2)),
    *((_meter, 0.2), (_bottle, 0.05), (_laptop, 0.24), (_paper, 0.16), (_tape, 0.1)),
    *((_carton, 0.1), (_monitor, 0.25), (_crate, 0.22), (_cutlery, 0.1)),
)
FLOOR = (
    *((_parcel, 0.18), (_ball, 0.12), (_shoes, 0.17), (_crate, 0.22), (_bag, 0.22)),
    *((_bottle, 0.05), (_carton, 0.1), (_lamp, 0.12), (_books, 0.15), (_tape, 0.1)),
)
THEMES = {
    'kitchen': KITCHEN,
    'desk': DESK,
    'workshop': WORKSHOP,
    'laboratory': LABORATORY,
    'floor': FLOOR,
    'any': (*KITCHEN, *DESK, *FLOOR),
}
CATEGORIES = {  # of small models, see `meshes`; none: all
    'kitchen': ('Kitchen',),
    'desk': ('Office', 'Living room', 'Miscellaneous', 'Lights'),
    'workshop': ('Miscellaneous', 'Office'),
    'laboratory': ('Bathroom', 'Office', 'Kitchen'),
    'floor': ('Bedroom', 'Miscellaneous', 'Living room'),
    'any': (),
}
LOW_THINGS = (  # that fit between two boards
    *((_can, 0.06), (_cup, 0.06), (_carton, 0.1), (_flask, 0.06), (_bowl, 0.12), (_tape, 0.1)),
    *((_can, 0.07), (_crate, 0.22), (_tubes, 0.11), (_books, 0.15), (_plate, 0.14)),
)
