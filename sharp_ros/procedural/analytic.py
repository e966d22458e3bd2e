"""Random furnished rooms and yards of boxes and rounds, drawn in batches on any torch device.

The rooms of `procedural/rooms.py` are richer, but come at a few images a second. Here a scene is a
tensor: every ray meets every primitive, so that a GPU trains on new images all the time.

    sample_scenes ── Scenes ──┐
    sample_cameras ─ Cameras ─┴─ render ── light, depth, depth of the surface behind
                                            └ metered, developed ── sRGB

World: z up, the floor at z = 0, metres. Random numbers come from the device that they are for;
apart from them nothing depends on the device but rounding. One module: its steps share the layout
of one tensor of primitives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
import math
from typing import NamedTuple
import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

BOX, ROUND, ROD = 0, 1, 2  # kinds of primitives: box, ellipsoid, upright cylinder
PIECES, THINGS, LIGHTS = 14, 24, 3  # pieces of furniture, things on and beside them, lamps
_BOXES = (
    64  # of all pieces of furniture; 40 on average, of the rare scene with more some is left out
)
_FLOOR, _CEILING = -2, -1  # rows of their stuff
_EPSILON = 1e-4  # metres by which rays start off a surface
_AWAY = 1e6  # metres below the floor, where what a scene has not lies
_CACHED = 2**15  # rays at a time on a CPU
_BLOCK = 4  # primitives that rays meet in one kernel
OUTDOORS = 0.12  # share of the scenes
GREY = 0.25  # linear, to which the middle of an image is exposed


class Scenes(NamedTuple):
    """B scenes of N primitives, parts of M things; the first is the room, seen from inside.

    Attributes:
        kind: [B, N] int64, of the constants above.
        owner: [B, N] int64, the thing that it is part of: 0 the room, then furniture and so on.
        centre: [B, N, 3] metres.
        half: [B, N, 3] metres, half of the sides or the radii.
        yaw: [B, N, 2] cosine and sine of the turn about z.
        colours: [B, M + 2, 2, 3] two linear colours that a pattern mixes; of the M things, then of
            floor and ceiling.
        pattern: [B, M + 2, 4] kind of pattern 0 to 4, its size in metres, its strength, gloss.
        lights: [B, L, 3] metres.
        glow: [B, L, 3] linear colour times brightness, m^2.
        ambient: [B, 3].
        outdoors: [B] bool: no room, but a sky over the floor.
    """

    kind: Tensor
    owner: Tensor
    centre: Tensor
    half: Tensor
    yaw: Tensor
    colours: Tensor
    pattern: Tensor
    lights: Tensor
    glow: Tensor
    ambient: Tensor
    outdoors: Tensor


class Cameras(NamedTuple):
    """One camera for each scene.

    Attributes:
        T_world_camera: [B, 4, 4], optical frame.
        intrinsics: [B, 4] fx, fy, cx, cy of the images to draw, pixels counted from the corner.
    """

    T_world_camera: Tensor
    intrinsics: Tensor


class Images(NamedTuple):
    """What the cameras see.

    Attributes:
        light: [B, 3, H, W] linear.
        depth: [B, H, W] metres along the optical axis; inf where there is only sky.
        second_depth: [B, H, W] the same of the next thing behind; the first where there is none.
    """

    light: Tensor
    depth: Tensor
    second_depth: Tensor


class _Hits(NamedTuple):
    first: Tensor  # [B, R] distance along the ray, inf for none
    second: Tensor  # [B, R] the same of the next other thing that is entered
    owner: Tensor  # [B, R] int64, of the first
    primitive: Tensor  # [B, R] int64, of the first


class Draw:
    """Random numbers of one generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self.device = generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Between two limits."""
        unit = torch.rand(*shape, generator=self._generator, device=self.device)
        return low + (high - low) * unit

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Between two limits, every factor alike."""
        return torch.exp(self.uniform(math.log(low), math.log(high), *shape))

    def normal(self, mean: float, deviation: float, *shape: int) -> Tensor:
        """Of a normal distribution."""
        unit = torch.randn(*shape, generator=self._generator, device=self.device)
        return mean + deviation * unit

    def choice(self, count: int, *shape: int) -> Tensor:
        """Whole numbers below `count`."""
        return torch.randint(0, count, shape, generator=self._generator, device=self.device)

    def chance(self, share: float, *shape: int) -> Tensor:
        """True for this share."""
        return self.uniform(0.0, 1.0, *shape) < share


# Pieces of furniture: width, depth and height in metres, then boxes in shares of these: the
# middle in x and y from the centre, in z from the floor, and the whole sides.
_FURNITURE: tuple[tuple[tuple[float, float, float], tuple[tuple[float, ...], ...]], ...] = (
    (  # table
        (1.3, 0.8, 0.75),
        (
            (0, 0, 0.97, 1, 1, 0.06),
            (-0.45, -0.42, 0.47, 0.05, 0.08, 0.94),
            (0.45, -0.42, 0.47, 0.05, 0.08, 0.94),
            (-0.45, 0.42, 0.47, 0.05, 0.08, 0.94),
            (0.45, 0.42, 0.47, 0.05, 0.08, 0.94),
        ),
    ),
    (  # counter
        (2.0, 0.62, 0.9),
        ((0, 0.02, 0.48, 0.98, 0.94, 0.96), (0, 0, 0.98, 1, 1, 0.04)),
    ),
    (  # chair
        (0.45, 0.45, 0.9),
        (
            (0, 0, 0.5, 1, 1, 0.05),
            (0, 0.46, 0.78, 0.9, 0.07, 0.44),
            (-0.43, -0.43, 0.24, 0.08, 0.08, 0.48),
            (0.43, -0.43, 0.24, 0.08, 0.08, 0.48),
            (-0.43, 0.43, 0.24, 0.08, 0.08, 0.48),
            (0.43, 0.43, 0.24, 0.08, 0.08, 0.48),
        ),
    ),
    (  # shelf
        (0.9, 0.35, 1.9),
        (
            (0, 0.48, 0.5, 1, 0.04, 1),
            (-0.49, 0, 0.5, 0.03, 1, 1),
            (0.49, 0, 0.5, 0.03, 1, 1),
            (0, 0, 0.06, 0.96, 0.96, 0.015),
            (0, 0, 0.3, 0.96, 0.96, 0.015),
            (0, 0, 0.54, 0.96, 0.96, 0.015),
            (0, 0, 0.77, 0.96, 0.96, 0.015),
            (0, 0, 0.99, 1, 1, 0.015),
        ),
    ),
    ((0.9, 0.6, 1.9), ((0, 0, 0.5, 1, 1, 1), (0.3, -0.51, 0.5, 0.02, 0.03, 0.1))),  # cupboard
    (  # sofa
        (1.9, 0.9, 0.8),
        (
            (0, 0, 0.27, 1, 1, 0.5),
            (0, 0.39, 0.7, 1, 0.22, 0.6),
            (-0.46, 0, 0.4, 0.09, 1, 0.7),
            (0.46, 0, 0.4, 0.09, 1, 0.7),
        ),
    ),
    (  # bed
        (1.5, 2.0, 0.9),
        (
            (0, 0, 0.27, 1, 1, 0.5),
            (0, 0.48, 0.5, 1, 0.03, 1),
            (-0.22, 0.36, 0.56, 0.4, 0.2, 0.1),
            (0.22, 0.36, 0.56, 0.4, 0.2, 0.1),
        ),
    ),
    ((0.5, 0.4, 0.45), ((0, 0, 0.5, 1, 1, 1),)),  # parcel
    ((0.9, 0.06, 2.0), ((0, 0, 0.5, 1, 1, 1), (0.4, -0.7, 0.5, 0.05, 0.6, 0.03))),  # door, panel
)


# --- scenes -------------------------------------------------------------------------------------


def sample_scenes(batch: int, generator: torch.Generator) -> Scenes:
    """Draw rooms, and some yards, with furniture along the walls and things upon it.

    Args:
        batch: how many scenes.
        generator: source of all that is random; the scenes are made on its device.
    """
    draw = Draw(generator)
    outdoors = draw.chance(OUTDOORS, batch)
    sides, height = draw.uniform(1.3, 4.0, batch, 2), draw.uniform(1.15, 1.7, batch, 1)
    room = torch.cat([torch.where(outdoors[:, None], 3 * sides, sides), height], -1)
    upright = torch.tensor([1.0, 0.0], device=draw.device).expand(batch, 1, 2)
    zero = torch.zeros_like(outdoors[:, None], dtype=torch.long)
    shell = zero + BOX, zero, (room * room.new_tensor([0.0, 0.0, 1.0]))[:, None], room[:, None]
    boxes, tops = _furniture(draw, room)
    columns = zip((*shell, upright), boxes, _things(draw, tops, room), strict=True)
    kind, owner, centre, half, yaw = (torch.cat(column, 1) for column in columns)
    count = 1 + PIECES + THINGS + 2
    pattern = [
        draw.choice(5, batch, count).float(),
        draw.log_uniform(0.02, 0.6, batch, count),
        draw.uniform(0.05, 0.9, batch, count) ** 2,
        draw.chance(0.3, batch, count) * draw.uniform(0.05, 0.6, batch, count),
    ]
    spread = room.new_tensor([0.9, 0.9, 0.0])
    lights = draw.uniform(-1.0, 1.0, batch, LIGHTS, 3) * room[:, None] * spread
    lights[..., 2] = 2 * room[:, None, 2] * draw.uniform(0.75, 0.98, batch, LIGHTS)
    warmth = draw.uniform(-0.25, 0.25, batch, LIGHTS, 1)
    tint = 1 + warmth * room.new_tensor([1.0, 0.0, -1.0])
    glow = tint * draw.log_uniform(0.3, 6.0, batch, LIGHTS, 1)
    sun = (outdoors[:, None] & (torch.arange(LIGHTS, device=draw.device) == 0))[..., None]
    ambient = draw.log_uniform(0.08, 0.5, batch, 1) * (1 + draw.uniform(-0.1, 0.1, batch, 3))
    return Scenes(
        kind,
        owner,
        centre,
        half,
        yaw,
        _colours(draw, batch, count),
        torch.stack(pattern, -1),
        torch.where(sun, lights * 20 + room.new_tensor([0.0, 0.0, 60.0]), lights),
        torch.where(sun, glow * 15_000, glow),
        ambient,
        outdoors,
    )


def _colours(draw: Draw, batch: int, count: int) -> Tensor:  # -> [B, M, 2, 3]
    """Mostly muted pairs; the second is a lighter or darker kin of the first, or another."""
    grey = draw.log_uniform(0.03, 0.85, batch, count, 1, 1)
    hue = draw.uniform(-1.0, 1.0, batch, count, 1, 3)
    vivid = draw.uniform(0.0, 1.0, batch, count, 1, 1) ** 3
    first = grey * torch.exp(vivid * 1.5 * hue)
    kin = first * draw.log_uniform(0.4, 2.2, batch, count, 1, 1)
    other = draw.log_uniform(0.03, 0.85, batch, count, 1, 3)
    second = torch.where(draw.chance(0.25, batch, count, 1, 1), other, kin)
    return torch.cat([first, second], 2).clamp(0.02, 0.9)


def _bank(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Sizes [T, 3], boxes [T, parts, 6], and which of the boxes there are [T, parts]."""
    most = max(len(parts) for _, parts in _FURNITURE)
    none = (0.0,) * 6
    boxes = torch.tensor([[*parts, *[none] * (most - len(parts))] for _, parts in _FURNITURE])
    there = torch.tensor([[i < len(parts) for i in range(most)] for _, parts in _FURNITURE])
    sizes = torch.tensor([size for size, _ in _FURNITURE])
    return sizes.to(device), boxes.to(device), there.to(device)


def _furniture(draw: Draw, room: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Primitives of the pieces, and places on top of them [B, PIECES, 3 + 2 + 2].

    A place is the middle of the top, its half sides, and cosine and sine of its turn.
    """
    batch = len(room)
    sizes, boxes, there = _bank(draw.device)
    which = draw.choice(len(sizes), batch, PIECES)
    size = sizes[which] * draw.log_uniform(0.8, 1.25, batch, PIECES, 3)
    wall = draw.choice(4, batch, PIECES)
    free = draw.chance(0.3, batch, PIECES)
    angle = torch.where(free, draw.uniform(0.0, 2 * math.pi, batch, PIECES), wall * (math.pi / 2))
    cos, sin = torch.cos(angle), torch.sin(angle)
    # against its wall, back first: at yaw 0 the back looks along +y
    along = draw.uniform(-1.0, 1.0, batch, PIECES)
    reach = torch.where(wall % 2 == 0, room[:, 1:2], room[:, :1])
    width = torch.where(wall % 2 == 0, room[:, :1], room[:, 1:2])
    back = (reach - size[..., 1] / 2 - 0.01).clamp(min=0.0)
    side = along * (width - size[..., 0] / 2).clamp(min=0.0)
    at_wall = torch.stack(_turned(side, back, cos, sin), -1)
    anywhere = draw.uniform(-0.8, 0.8, batch, PIECES, 2) * room[:, None, :2]
    place = torch.where(free[..., None], anywhere, at_wall)
    shown = draw.chance(0.75, batch, PIECES)
    top = torch.where(shown, size[..., 2], torch.zeros_like(size[..., 2]))[..., None]
    yaw = torch.stack([cos, sin], -1)
    # of all the boxes that there might be, those that there are
    wanted = (there[which] & shown[..., None]).flatten(1)
    chosen = torch.argsort(wanted.int(), dim=1, descending=True, stable=True)[:, :_BOXES]
    piece = chosen // boxes.shape[1]

    def of_piece(values: Tensor) -> Tensor:  # [B, PIECES, K] -> [B, _BOXES, K]
        return _picked(values, piece)

    box, size_of = _picked(boxes[which].flatten(1, 2), chosen), of_piece(size)
    local = box[..., :3] * size_of
    x, y = _turned(local[..., 0], local[..., 1], *of_piece(yaw).unbind(-1))
    centre = torch.stack([x, y, local[..., 2]], -1)
    centre[..., :2] += of_piece(place)
    centre[..., 2] -= _AWAY * ~torch.gather(wanted, 1, chosen)
    half = (box[..., 3:] * size_of / 2).clamp(min=0.004)
    primitives = torch.full_like(piece, BOX), 1 + piece, centre, half, of_piece(yaw)
    return primitives, torch.cat([place, top, size[..., :2] / 2, yaw], -1)


def _things(draw: Draw, tops: Tensor, room: Tensor) -> tuple[Tensor, ...]:
    """Bottles, cups, boxes, balls, books: on furniture, or on the floor beside it."""
    batch = len(tops)
    kind = draw.choice(3, batch, THINGS)
    width = draw.log_uniform(0.02, 0.2, batch, THINGS)
    depth = width * draw.log_uniform(0.5, 2.0, batch, THINGS)
    depth = torch.where(kind == ROD, width, depth)
    height = width * draw.log_uniform(0.4, 3.0, batch, THINGS)
    place = _picked(tops, draw.choice(PIECES, batch, THINGS))
    x, y = (draw.uniform(-0.85, 0.85, batch, THINGS) * place[..., 3 + i] for i in range(2))
    x, y = _turned(x, y, place[..., 5], place[..., 6])
    on = place[..., :3] + torch.stack([x, y, torch.zeros_like(x)], -1)
    beside = draw.uniform(-0.9, 0.9, batch, THINGS, 3) * room[:, None]
    beside[..., 2] = 0
    centre = torch.where(draw.chance(0.2, batch, THINGS, 1), beside, on)
    centre[..., 2] += height
    angle = draw.uniform(0.0, 2 * math.pi, batch, THINGS)
    owner = (1 + PIECES + torch.arange(THINGS, device=draw.device)).expand(batch, THINGS)
    half = torch.stack([width, depth, height], -1)
    return kind, owner, centre, half, torch.stack([torch.cos(angle), torch.sin(angle)], -1)


def _turned(x: Tensor, y: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Of the axes of a primitive into those of the world."""
    return x * cos - y * sin, x * sin + y * cos


def _picked(values: Tensor, index: Tensor) -> Tensor:  # [B, N, ...], [B, R] -> [B, R, ...]
    index = index.reshape(*index.shape, *[1] * (values.ndim - 2))
    return torch.gather(values, 1, index.expand(-1, -1, *values.shape[2:]))


# --- cameras ------------------------------------------------------------------------------------


def sample_cameras(scenes: Scenes, width: int, height: int, generator: torch.Generator) -> Cameras:
    """Draw a camera of a robot for each scene: 0.2 to 1.8 m high, mostly looking ahead.

    Horizontal field of view 45 to 110 degrees, principal point not quite in the middle. Of the
    views drawn one with much to see is taken, from outside of furniture if there is one.
    """
    draw = Draw(generator)
    batch, tries = len(scenes.kind), 4
    place = draw.uniform(-0.85, 0.85, batch, tries, 3) * scenes.half[:, :1]
    place[..., 2] = draw.uniform(0.2, 1.8, batch, tries)
    yaw = draw.uniform(0.0, 2 * math.pi, batch, tries)
    pitch = torch.where(
        draw.chance(0.1, batch, tries),
        draw.uniform(-1.3, -0.5, batch, tries),  # at the floor
        draw.normal(-0.15, 0.22, batch, tries).clamp(-1.3, 0.5),
    )
    roll = torch.where(
        draw.chance(0.75, batch, tries),
        draw.normal(0.0, 0.05, batch, tries),
        draw.uniform(-0.44, 0.44, batch, tries),
    )[..., None]
    ahead = torch.stack([torch.cos(yaw), torch.sin(yaw), torch.tan(pitch)], -1)
    forward = F.normalize(ahead, dim=-1)
    right = torch.stack([torch.sin(yaw), -torch.cos(yaw), torch.zeros_like(yaw)], -1)
    down = torch.linalg.cross(forward, right)
    c, s = torch.cos(roll), torch.sin(roll)
    axes = torch.stack([right * c + down * s, down * c - right * s, forward], -1)
    best = _prospect(scenes, place, axes, draw).argmax(-1, keepdim=True)
    pose = torch.eye(4, device=draw.device).repeat(batch, 1, 1)
    pose[:, :3, :3], pose[:, :3, 3] = _picked(axes, best)[:, 0], _picked(place, best)[:, 0]
    fov = draw.uniform(math.radians(45), math.radians(110), batch, 1)
    focal = width / 2 / torch.tan(fov / 2)
    middle = place.new_tensor([width, height]) * draw.normal(0.5, 0.03, batch, 2)
    return Cameras(pose, torch.cat([focal, focal, middle], -1))


def _prospect(scenes: Scenes, place: Tensor, axes: Tensor, draw: Draw) -> Tensor:  # -> [B, P]
    """How good views [B, P, 3], [B, P, 3, 3] are: by what a few rays hit, and a little by chance.

    Some views of a bare wall remain: robots see them, too.
    """
    x, y = (torch.tensor(v, device=draw.device) for v in ((-0.7, -0.25, 0.25, 0.7), (-0.4, 0.3)))
    grid = torch.cartesian_prod(x, y, torch.ones(1, device=draw.device))
    rays = F.normalize(grid, dim=-1) @ axes.mT  # [B, P, 8, 3]
    eyes = place[:, :, None].expand_as(rays)
    hits = _cast(scenes, eyes.flatten(1, 2), rays.flatten(1, 2))
    first, owner = (v.reshape(rays.shape[:3]) for v in (hits.first, hits.owner))
    space = torch.where(first.isfinite(), first.clamp(max=3.0), 0.0)  # the sky is no sight
    score = (owner > 0).float().mean(-1) + 0.2 * space.mean(-1)
    hidden = (_clearance(scenes, place) < 0.15) | (first.amin(-1) < 0.25)
    return score - 10.0 * hidden + draw.uniform(0.0, 0.4, *score.shape)


def moved(cameras: Cameras, generator: torch.Generator) -> Cameras:
    """Neighbours of cameras, 3 to 15 cm beside them and turned by a few degrees."""
    draw = Draw(generator)
    batch = len(cameras.intrinsics)
    heading = F.normalize(draw.uniform(-1.0, 1.0, batch, 3), dim=-1)
    x, y, z = draw.uniform(-0.04, 0.04, batch, 3).unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(batch, 3, 3)
    step = torch.eye(4, device=draw.device).repeat(batch, 1, 1)
    step[:, :3, :3] = torch.linalg.matrix_exp(skew)
    step[:, :3, 3] = heading * draw.uniform(0.03, 0.15, batch, 1)
    return Cameras(cameras.T_world_camera @ step, cameras.intrinsics)


# --- images -------------------------------------------------------------------------------------


def render(scenes: Scenes, cameras: Cameras, width: int, height: int) -> Images:
    """Draw what the cameras see, with hard shadows and light that falls off by distance.

    The light of a pixel is half that of its middle, half that of its four corners, which it
    shares with its neighbours; its depth is that of its middle.

    Args:
        scenes: B of them.
        cameras: one for each.
        width: of the images, pixels.
        height: of the images, pixels.
    """
    fx, fy, cx, cy = cameras.intrinsics[:, :, None].unbind(1)
    rows, columns = (torch.arange(2 * n + 1, device=fx.device) for n in (height, width))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing='ij')) / 2
    v, u = torch.cat([grid[:, 1::2, 1::2].flatten(1), grid[:, ::2, ::2].flatten(1)], 1)
    x, y = (u - cx) / fx, (v - cy) / fy
    along_axis = torch.rsqrt(1 + x * x + y * y)  # of a unit step along the ray
    right, down, forward, eye = cameras.T_world_camera[:, None, :3].unbind(-1)
    rays = (x[..., None] * right + y[..., None] * down + forward) * along_axis[..., None]
    eye = eye.expand_as(rays)
    hits = _cast(scenes, eye, rays)
    light = _shade(scenes, eye, rays, hits, 1 / fx).mT
    count, n = len(rays), height * width
    corners = light[..., n:].reshape(count, 3, height + 1, width + 1)
    middles = light[..., :n].reshape(count, 3, height, width)
    depth, second = ((t * along_axis)[:, :n].reshape(count, height, width) for t in hits[:2])
    return Images(
        (middles + F.avg_pool2d(corners, 2, 1)) / 2,
        depth,
        torch.where(second.isfinite(), second, depth),
    )


def metered(light: Tensor) -> Tensor:  # [B, 3, H, W] -> [B]
    """Gain that makes the middle of an image a middle grey."""
    return GREY / light.mean(1).flatten(1).median(1).values.clamp(min=1e-3)


def developed(light: Tensor, gain: Tensor) -> Tensor:  # [B, 3, H, W], [B] -> [B, 3, H, W]
    """Of linear light sRGB from 0 to 1, highlights rolled off."""
    exposed = light * gain[:, None, None, None]
    linear = (exposed / (1 + exposed * exposed / 9).sqrt()).clamp(0.0, 1.0)
    curved = 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curved)


# --- rays ---------------------------------------------------------------------------------------


def _cast(scenes: Scenes, origins: Tensor, rays: Tensor) -> _Hits:
    """What is first and second along every ray [B, R, 3] of unit length from [B, R, 3]."""
    meet = _meeting(rays.device.type)
    columns = scenes.kind, scenes.owner, torch.arange(scenes.kind.shape[1]).to(scenes.kind)
    numbers = torch.stack([column.expand_as(scenes.kind) for column in columns], -1)
    spare = torch.zeros_like(scenes.yaw[..., :1])  # twelve columns keep the blocks aligned
    primitives = [numbers, spare, scenes.centre, scenes.half, scenes.yaw]
    table = torch.cat([column.to(rays) for column in primitives], -1).transpose(0, 1)
    # copies, since a compiled function takes views for something else; [K, B, 1, 12] each
    parts = table[1:, :, None].split(_BLOCK)
    blocks = [part.clone(memory_format=torch.contiguous_format) for part in parts]
    first, (o, d) = _shell(scenes, origins, rays), (v.permute(2, 0, 1) for v in (origins, rays))
    # a CPU is done sooner with as many rays as its cache holds
    count = max(1, _CACHED // len(rays)) if rays.device.type == 'cpu' else rays.shape[1]
    hits = []
    for shell, *vectors in zip(*(v.split(count, -1) for v in (first, o, d)), strict=True):
        origin, direction = (v.contiguous() for v in vectors)
        others = (torch.full_like(shell, start) for start in (math.inf, 0.0, 0.0))
        met = shell.clone(), *others
        for block in blocks:
            met = meet(*met, block, origin, direction)
        hits.append(met)
    first, second, owner, index = (torch.cat(column, -1) for column in zip(*hits, strict=True))
    return _Hits(first, second, owner.long(), index.long())


def _shell(scenes: Scenes, origins: Tensor, rays: Tensor) -> Tensor:  # -> [B, R]
    """Distance to where rays leave the room; outdoors to the ground, inf for the sky."""
    walls = torch.copysign(scenes.half[:, :1], rays) + scenes.centre[:, :1] - origins
    inside = (walls / torch.where(rays.abs() < 1e-9, torch.full_like(rays, 1e-9), rays)).abs()
    z = rays[..., 2]
    ground = torch.where(z < -1e-6, -origins[..., 2] / z, math.inf)
    return torch.where(scenes.outdoors[:, None], ground, inside.amin(-1))


def _meet(
    first: Tensor,
    second: Tensor,
    owner: Tensor,
    index: Tensor,
    block: Tensor,
    o: Tensor,
    d: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Go on from what rays met so far [B, R] with some more primitives.

    Slabs for boxes (Kay & Kajiya, 1986), a quadratic equation for what is round.

    Args:
        first: distance of the first hit.
        second: distance of the first hit of another thing than `owner`.
        owner: of the first hit, as a float.
        index: of the first hit, as a float.
        block: [K, B, 1, 12] primitives.
        o: [3, B, R] origins.
        d: [3, B, R] unit directions.
    """
    for primitive in block:
        kind, part_of, number, _, cx, cy, cz, hx, hy, hz, c, s = primitive.unbind(-1)
        px, py = _turned(o[0] - cx, o[1] - cy, c, -s)
        dx, dy = _turned(d[0], d[1], c, -s)
        axes = ((px, dx, hx), (py, dy, hy), (o[2] - cz, d[2], hz))
        entries, exits, a, b, e = [], [], 1e-12, 0.0, -1.0
        for p, direction, half in axes:
            slope = 1 / torch.where(direction.abs() < 1e-9, 1e-9, direction)
            middle, reach = -p * slope, half * slope.abs()
            entries.append(middle - reach)
            exits.append(middle + reach)
            # an ellipsoid is the unit sphere in its own measures, of a rod z does not count
            measure = 1 / half if half is not hz else (kind != ROD) / half
            x, r = p * measure, direction * measure
            a, b, e = a + r * r, b + r * x, e + x * x
        root = b * b - a * e
        assert isinstance(root, Tensor)  # the sums only start as floats
        width = root.clamp(min=0.0).sqrt()
        round_in, round_out = (-b - width) / a, (width - b) / a
        box, rod = kind == BOX, kind == ROD
        enter = torch.where(box, torch.maximum(entries[0], entries[1]), round_in)
        enter = torch.where(box | rod, torch.maximum(enter, entries[2]), enter)
        leave = torch.where(box, torch.minimum(exits[0], exits[1]), round_out)
        leave = torch.where(box | rod, torch.minimum(leave, exits[2]), leave)
        hit = (enter > _EPSILON) & (enter < leave) & (box | (root > 0))
        t = torch.where(hit, enter, math.inf)
        nearer = t < first
        behind = torch.where(nearer, first, torch.minimum(second, t))
        second = torch.where(part_of == owner, second, behind)
        first = torch.where(nearer, t, first)
        owner, index = (
            torch.where(nearer, new, old) for new, old in ((part_of, owner), (number, index))
        )
    return first, second, owner, index


@cache
def _meeting(device: str) -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """`_meet`, on a GPU compiled to one kernel where that works: it is most of the work."""
    if device == 'cpu':
        return _meet
    fused = torch.compile(_meet, dynamic=True)
    # of sizes that all differ: those that agree here are taken to agree for ever
    shapes = *[(7, 5)] * 4, (_BLOCK, 7, 1, 12), (3, 7, 5), (3, 7, 5)
    try:
        fused(*(torch.ones(shape, device=device) for shape in shapes))
    except Exception as error:  # compilers fail in their own ways
        warnings.warn(f'drawing scenes will be slow: {error}', stacklevel=2)
        return _meet
    return fused


def _clearance(scenes: Scenes, points: Tensor) -> Tensor:  # [B, P, 3] -> [B, P]
    """Distance to the nearest box that bounds a primitive of the furniture; 0 inside of one."""
    x, y, z = (points[:, :, None] - scenes.centre[:, None, 1:]).unbind(-1)
    c, s = scenes.yaw[:, None, 1:].unbind(-1)
    local = torch.stack([*_turned(x, y, c, -s), z], -1)
    return (local.abs() - scenes.half[:, None, 1:]).clamp(min=0.0).norm(dim=-1).amin(-1)


# --- light --------------------------------------------------------------------------------------


def _shade(
    scenes: Scenes, eye: Tensor, rays: Tensor, hits: _Hits, pixel: Tensor
) -> Tensor:  # -> [B, R, 3]
    """Linear light that comes back along the rays; `pixel` [B, 1] is the width of one, radians."""
    seen = hits.first.isfinite()
    distance = torch.where(seen, hits.first, torch.zeros_like(hits.first))[..., None]
    points = eye + rays * distance
    normal, uv = _surface(scenes, points, rays, hits.primitive)
    z = normal[..., 2]
    last = scenes.pattern.shape[1]
    indoors = torch.where(z > 0.5, last + _FLOOR, torch.where(z < -0.5, last + _CEILING, 0))
    stuff = torch.where(hits.owner == 0, indoors, hits.owner)
    pattern = _picked(scenes.pattern, stuff)
    slant = (rays * normal).sum(-1, keepdim=True)
    footprint = distance[..., 0] * pixel / slant[..., 0].abs().clamp(min=0.1)
    albedo = _albedo(uv, _picked(scenes.colours, stuff), pattern, stuff, footprint)
    light = scenes.ambient[:, None] * (0.7 + 0.3 * z[..., None])
    shine = torch.zeros_like(light)
    start, mirror = points + normal * 1e-3, rays - 2 * slant * normal
    for lamp, glow in zip(scenes.lights.unbind(1), scenes.glow.unbind(1), strict=True):
        towards = lamp[:, None] - start
        reach = towards.norm(dim=-1, keepdim=True)
        towards = towards / reach
        free = _cast(scenes, start, towards).first > reach[..., 0]
        arriving = glow[:, None] / (reach * reach + 0.05) * free[..., None]
        light = light + arriving * (towards * normal).sum(-1, keepdim=True).clamp(min=0.0)
        shine = shine + arriving * (mirror * towards).sum(-1, keepdim=True).clamp(min=0.0) ** 24
    colour = albedo * light + pattern[..., 3:] * shine
    return torch.where(seen[..., None], colour, _sky(rays) * (0.5 + scenes.ambient[:, None] * 2))


def _sky(rays: Tensor) -> Tensor:  # [B, R, 3] -> [B, R, 3]
    """Blue, paler at the horizon, with clouds."""
    up = rays[..., 2:].clamp(min=0.0)
    blue = rays.new_tensor([0.35, 0.6, 0.95]) + rays.new_tensor([0.4, 0.2, 0.0]) * (1 - up)
    place = rays[..., :2] / (0.15 + up) * 1.5
    clouds = _noise(place, torch.zeros_like(place[..., 0], dtype=torch.long))[..., None]
    return blue + (1 - blue) * (clouds * 1.6 - 0.6).clamp(0.0, 1.0)


def _surface(scenes: Scenes, points: Tensor, rays: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normal against the ray [B, R, 3] and place on the surface [B, R, 2] in metres."""
    half, kind = _picked(scenes.half, index), _picked(scenes.kind, index)[..., None]
    c, s = _picked(scenes.yaw, index).unbind(-1)
    x, y, z = (points - _picked(scenes.centre, index)).unbind(-1)
    local = torch.stack([*_turned(x, y, c, -s), z], -1)
    share = local / half
    face = F.one_hot(share.abs().argmax(-1), 3) * share.sign()
    mantle = share[..., :2].norm(dim=-1, keepdim=True) >= share[..., 2:].abs() - 1e-4
    flat = share.new_tensor([1.0, 1.0, 0.0])
    lid = share.sign() * (1 - flat)
    rod = torch.where(mantle, F.normalize(share * flat / half, dim=-1), lid)
    ball = F.normalize(share / half, dim=-1)
    normal = torch.where(kind == BOX, face, torch.where(kind == ROD, rod, ball))
    axis = normal.abs().argmax(-1)
    x, y, z = local.unbind(-1)
    uv = torch.stack([torch.where(axis == 0, y, x), torch.where(axis == 2, y, z)], -1)
    normal = torch.stack([*_turned(normal[..., 0], normal[..., 1], c, s), normal[..., 2]], -1)
    away = (normal * rays).sum(-1, keepdim=True) > 0
    return torch.where(away, -normal, normal), uv


def _albedo(
    uv: Tensor, colours: Tensor, pattern: Tensor, seed: Tensor, footprint: Tensor
) -> Tensor:  # -> [B, R, 3]
    """Two colours mixed by noise, stripes, checks, tiles with joints or grain.

    What is finer than the footprint of a pixel fades to its mean: the flicker of single samples
    would reveal how far away a surface is.
    """
    kind, size, strength, _ = pattern.unbind(-1)
    u, v = (uv / size[..., None]).unbind(-1)
    stripes = (torch.remainder(u, 1.0) < 0.5).to(u)
    checks = torch.remainder(torch.floor(u) + torch.floor(v), 2.0)
    joint = (torch.minimum(torch.remainder(u, 1.0), torch.remainder(v, 1.0)) < 0.06).to(u)
    grain = _noise(torch.stack([u * 0.15, v * 6], -1), seed)
    mixes = torch.stack([_noise(uv / size[..., None], seed), stripes, checks, joint, grain], -1)
    mean = uv.new_tensor([0.5, 0.5, 0.5, 0.12, 0.5])[kind.long()]
    finest = uv.new_tensor([1.0, 1.0, 1.0, 0.3, 0.2])[kind.long()]
    mix = torch.gather(mixes, -1, kind.long()[..., None])[..., 0] - mean
    visible = (size / footprint.clamp(min=1e-6) / 3).clamp(max=20.0)
    speckle = _noise(uv / size[..., None] * 9.7, seed + 1) - 0.5
    mix = strength * (mean + mix * (visible * finest).clamp(max=1.0))
    mix = (mix + 0.15 * speckle * (visible / 9.7).clamp(max=1.0))[..., None]
    return (colours[..., 0, :] + (colours[..., 1, :] - colours[..., 0, :]) * mix).clamp(0.01, 0.95)


def _noise(place: Tensor, seed: Tensor) -> Tensor:  # [..., 2], [...] -> [...]
    """Value noise 0 to 1 of two octaves: numbers at whole places, smoothly mixed between them."""
    total = torch.zeros_like(place[..., 0])
    for octave, weight in ((1.0, 0.65), (2.3, 0.35)):
        scaled = place * octave
        corner = torch.floor(scaled)
        f, g = (3 - 2 * (scaled - corner)).mul((scaled - corner) ** 2).unbind(-1)
        i, j = corner.long().unbind(-1)
        low, high = (torch.lerp(_hash(i, k, seed), _hash(i + 1, k, seed), f) for k in (j, j + 1))
        total = total + weight * torch.lerp(low, high, g)
    return total


def _hash(i: Tensor, j: Tensor, seed: Tensor) -> Tensor:
    """A number in 0 to 1 for whole numbers, the same on every device."""
    h = (i * 374761393 + j * 668265263 + seed * 2246822519) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF).float() / 65535.0
