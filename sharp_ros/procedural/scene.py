"""Textured triangle scenes for ray casting: boxes, cylinders, turned shapes and panels.

Lengths in metres, z up. Random numbers are drawn from one generator in a fixed order, so that a
seed stands for a scene. One module: the builder, and the shapes that it is made to place.
"""

from __future__ import annotations

from collections.abc import Sequence
import colorsys
from dataclasses import dataclass
import math
from typing import NamedTuple

import numpy as np
import open3d as o3d

from sharp_ros.procedural.meshes import FIXED_COLOURS, FurnishedTextures, Model
from sharp_ros.procedural.textures import SIZE, Textures

Vector = tuple[float, float, float]
UNLIMITED: Vector = (math.inf, math.inf, math.inf)
Turn = float | np.ndarray  # yaw in radians, or a rotation matrix [3, 3]

# Side of one repeat of a texture, metres; 0.7 where not named.
REPEAT = {
    'plain': 1.0,
    'wood': 0.8,
    'planks': 1.0,
    'brick': 1.0,
    'tile': 1.2,
    'fabric': 0.4,
    'carpet': 0.6,
    'marble': 1.0,
    'concrete': 1.5,
    'poster': 0.5,
    'picture': 1.0,
    'spines': 0.6,
    'cardboard': 0.5,
    'granite': 0.5,
    'worn': 1.2,
    'rug': 1.2,
    'sign': 0.5,
    'photo': 0.5,
    'keys': 0.45,
    'folds': 1.0,
    'asphalt': 1.5,
    'paving': 1.5,
    'grass': 0.8,
    'leaves': 0.6,
}

MODELS = 0.5  # share of the pieces for which a model is taken, where there are models

# Stone, soil and leaves keep the colours that they were drawn with.
UNPAINTED = ('asphalt', 'paving', 'grass', 'leaves', 'granite', 'cardboard')


class Material(NamedTuple):
    """A surface: texture index, factor on its colour, metres per repeat, mirror share."""

    texture: int
    tint: np.ndarray
    repeat: float
    gloss: float


class Piece(NamedTuple):
    """A model at the size it has in a scene: `scale` times its true one."""

    model: Model
    scale: float

    @property
    def size(self) -> np.ndarray:  # [3]
        """Width, depth and height."""
        return self.model.size * self.scale


class Light(NamedTuple):
    """A parallelogram that emits, to one side of `normal` or, with None, to all sides."""

    corner: np.ndarray
    side_u: np.ndarray
    side_v: np.ndarray
    normal: np.ndarray | None
    power: np.ndarray


class Target(NamedTuple):
    """Something to look at closely: from the side its front `yaw` (as of furniture) looks to."""

    position: Vector
    yaw: float | None  # None: from everywhere
    tote: bool = False  # whether it is what is in an open box


class Sky(NamedTuple):
    """Linear colours of the sky; `cover` in 0..1 is the share of a texture's bright parts."""

    zenith: np.ndarray
    horizon: np.ndarray
    texture: int
    cover: float


class Detail(NamedTuple):
    """What surfaces show where a pixel is finer than their texels, per triangle.

    Attributes:
        mips: [T, P, 3] uint8 pyramids of factors on the colour, see `detail.grain_mips`.
        texture: [F] int32 index of one.
        repeats: [F] float32, of it in one repeat of the surface's texture.
        strength: [F] float32 share of its contrast; 0 for none.
    """

    mips: np.ndarray
    texture: np.ndarray
    repeats: np.ndarray
    strength: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Triangles with everything rendering needs, per triangle.

    Attributes:
        caster: Open3D scene over the same triangles.
        uv: [F, 3, 2] texture coordinates of the corners.
        texture: [F] index.
        tint: [F, 3] factor on the texture's linear colour.
        mean_albedo: [F, 3] mean linear colour.
        part: [F] number of the object the triangle belongs to.
        emission: [F] factor on the albedo, 0 for what does not shine.
        gloss: [F] mirror share.
        texel: [F] metres per texture pixel.
        detail: finer than that.
        lights: area lights.
        ambient: [3] light that arrives from everywhere.
        sky: what rays see that hit nothing; None where walls and ceiling stop all.
        targets: table tops and shelves worth looking at.
    """

    caster: o3d.t.geometry.RaycastingScene
    uv: np.ndarray
    texture: np.ndarray
    tint: np.ndarray
    mean_albedo: np.ndarray
    part: np.ndarray
    emission: np.ndarray
    gloss: np.ndarray
    texel: np.ndarray
    detail: Detail
    lights: list[Light]
    ambient: np.ndarray
    sky: Sky | None
    targets: list[Target]


class SceneBuilder:
    """Collects triangles, lights and points of interest.

    Args:
        rng: source of every random choice.
        textures: to choose materials from.
    """

    def __init__(self, rng: np.random.Generator, textures: Textures) -> None:
        self.rng = rng
        self.lights: list[Light] = []
        self.targets: list[Target] = []
        self.clutter = 1.0  # factor on the number of small things
        self.theme = 'any'  # of the small things that lie about, see furniture.THEMES
        self._textures = textures
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._vertex_count = 0
        self._part_count = 0

    def new_part(self) -> int:
        """Number for an object made of several primitives; it hides nothing behind itself."""
        self._part_count += 1
        return self._part_count

    def colour(self, min_lightness: float | None = None) -> np.ndarray:  # -> [3]
        """A random linear colour, mostly grey."""
        rng = self.rng
        if min_lightness is None:
            ranges = ((0.03, 0.3), (0.2, 0.6), (0.55, 0.9))
            lightness = rng.choice([rng.uniform(*limits) for limits in ranges])
        else:
            lightness = rng.uniform(min_lightness, 0.92)
        hue = rng.uniform()
        saturation = rng.beta(1.0, 3.4) * (1.0 if rng.uniform() < 0.35 else 0.35)
        return np.array(colorsys.hls_to_rgb(hue, lightness, saturation), np.float32) ** 1.3

    def material(
        self,
        kind: str | None = None,
        colour: np.ndarray | None = None,
        gloss: float = 0.0,
        scale: float = 1.0,
    ) -> Material:
        """A random material of a texture kind, or of any kind that furniture is made of.

        Args:
            kind: of texture.
            colour: mean linear colour; random if not given.
            gloss: mirror share.
            scale: factor on the size of the texture, below 1 for small things.
        """
        rng = self.rng
        kind = str(
            kind
            or rng.choice(
                ['plain', 'wood', 'fabric', 'metal', 'planks', 'worn', 'stripes', 'poster'],
                p=[0.4, 0.2, 0.1, 0.08, 0.05, 0.11, 0.03, 0.03],
            )
        )
        texture = int(rng.choice(self._textures.of_kind[kind]))
        repeat = scale * REPEAT.get(kind, 0.7) * math.exp(rng.normal(0, 0.35))
        painted = kind == 'plain' or (kind not in UNPAINTED and rng.uniform() < 0.3)
        if colour is None and painted:
            colour = self.colour()
        if colour is None:
            tint = np.ones(3, np.float32) * rng.uniform(0.7, 1.05)
        else:
            tint = self.tint(texture, colour)
        return Material(texture, tint.astype(np.float32), repeat, gloss)

    def material_of(
        self, *kinds: str, p: list[float] | None = None, gloss: float = 0.0, scale: float = 1.0
    ) -> Material:
        """A random material of one of several kinds, with probabilities `p`."""
        return self.material(self.rng.choice(kinds, p=p), gloss=gloss, scale=scale)

    def sheen(self, chance: float) -> float:
        """Gloss of something that shines with this chance."""
        return self.rng.uniform(0.2, 1.0) if self.rng.uniform() < chance else 0.0

    def tint(self, texture: int, colour: np.ndarray) -> np.ndarray:  # -> [3]
        """Factor that gives a texture this mean linear colour."""
        return colour / self._textures.linear_means[texture]

    def texture_of(self, kind: str) -> int:
        """A random texture of a kind."""
        return int(self.rng.choice(self._textures.of_kind[kind]))

    def box(
        self,
        size: Vector,
        position: Vector,
        turn: Turn,
        material: Material,
        part: int | None = None,
        emission: float = 0.0,
    ) -> None:
        """A box standing on `position`, the centre of its bottom."""
        self._primitive(BOX, size, position, turn, material, part, emission)

    def cylinder(
        self,
        diameter: float,
        height: float,
        position: Vector,
        material: Material,
        part: int | None = None,
        sides: int | None = None,
        other_diameter: float | None = None,
        turn: Turn = 0.0,
    ) -> None:
        """An upright cylinder, elliptic if `other_diameter` (along y) is given, then turned."""
        shape = CYLINDERS[sides or int(self.rng.choice([10, 16]))]
        size = (diameter, other_diameter or diameter, height)
        self._primitive(shape, size, position, turn, material, part, 0.0)

    def lathe(
        self,
        profile: Sequence[tuple[float, float]],
        position: Vector,
        material: Material,
        part: int | None = None,
        turn: Turn = 0.0,
        sides: int = 14,
    ) -> None:
        """A solid of revolution about z; `profile` is (radius, z) upwards along its outside."""
        shape = _revolved(np.asarray(profile, np.float32), sides)
        self.solid(shape, position, turn, material, part)

    def sphere(
        self,
        size: Vector,
        position: Vector,
        material: Material,
        part: int | None = None,
        emission: float = 0.0,
    ) -> None:
        """An ellipsoid resting on `position`."""
        self._primitive(SPHERE, size, position, 0, material, part, emission)

    def panel(
        self,
        width: float,
        height: float,
        position: Vector,
        turn: Turn,
        kind: str | None = None,
        thickness: float = 0.02,
        emission: float = 0.0,
        gloss: float = 0.0,
        part: int | None = None,
    ) -> None:
        """A flat box whose front, towards -y before turning, shows one whole texture."""
        texture = self.texture_of(kind or self.rng.choice(['picture', 'poster']))
        vertices = BOX[0] * np.array([width, thickness, height], np.float32)
        corners = vertices[BOX[1]]
        uv = corners[:, :, [0, 2]] / np.array([width, height], np.float32)
        uv = uv + np.array([0.5, 0], np.float32)
        uv[:, :, 1] = 1 - uv[:, :, 1]
        uv = np.clip(uv, 0.004, 0.996)
        vertices = vertices @ _rotation(turn).T + np.asarray(position, np.float32)
        tint = np.ones(3, np.float32)
        self.triangles(vertices, BOX[1], uv, texture, tint, part, emission, gloss)

    def triangles(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        uv: np.ndarray,
        texture: int | np.ndarray,
        tint: np.ndarray,
        part: int | None = None,
        emission: float = 0.0,
        gloss: float = 0.0,
    ) -> None:
        """Add a mesh: vertices [V, 3], faces [F, 3], uv [F, 3, 2], texture [] or [F], tint [3].

        The tint may be one of each face, [F, 3].
        """
        n = len(faces)
        self._parts.append(
            (
                vertices.astype(np.float32),
                faces + self._vertex_count,
                uv.astype(np.float32),
                np.broadcast_to(np.asarray(texture, np.int32), n),
                np.broadcast_to(np.asarray(tint, np.float32), (n, 3)),
                np.full(n, self.new_part() if part is None else part, np.int32),
                np.full(n, emission, np.float32),
                np.full(n, gloss, np.float32),
            )
        )
        self._vertex_count += len(vertices)

    def finish(self, ambient: np.ndarray, sky: Sky | None = None) -> Scene:
        """Everything collected so far as one scene, see there."""
        columns = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        vertices, faces, uv, texture, tint, part, emission, gloss = columns
        faces = faces.astype(np.uint32)
        caster = o3d.t.geometry.RaycastingScene(nthreads=1)
        caster.add_triangles(
            o3d.core.Tensor.from_numpy(vertices), o3d.core.Tensor.from_numpy(faces)
        )
        return Scene(
            caster=caster,
            uv=uv,
            texture=texture,
            tint=tint,
            mean_albedo=tint * self._textures.linear_means[texture],
            part=part,
            emission=emission,
            gloss=gloss,
            texel=_metres_per_texel(vertices[faces], uv),
            detail=Detail(
                np.zeros((1, 1, 3), np.uint8),
                np.zeros(len(faces), np.int32),
                np.ones(len(faces), np.float32),
                np.zeros(len(faces), np.float32),
            ),
            lights=self.lights,
            ambient=ambient,
            sky=sky,
            targets=self.targets,
        )

    def pick(
        self,
        *roles: str,
        largest: Vector = UNLIMITED,
        categories: Sequence[str] = (),
        share: float = MODELS,
    ) -> Piece | None:
        """A random model that serves as one of `roles`, its size varied by a tenth.

        None comes back, for something built of primitives to take its place, in all but this
        share of the cases, where no model fits, and always where there are no models.
        """
        textures, rng = self._textures, self.rng
        if not isinstance(textures, FurnishedTextures) or rng.uniform() >= share:
            return None
        scale = float(rng.uniform(0.9, 1.1))
        fitting = textures.models.of_role(
            *roles, largest=np.asarray(largest) / scale, categories=categories
        )
        return Piece(fitting[rng.integers(len(fitting))], scale) if fitting else None

    def model(self, piece: Piece, position: Vector, turn: Turn, part: int | None = None) -> None:
        """A model standing on `position`, its plain parts sometimes of another material."""
        model, rng = piece.model, self.rng
        assert isinstance(self._textures, FurnishedTextures)
        first = len(self._textures.mips) - len(self._textures.models.mips)
        texture = first + model.texture
        tint = model.colour * np.exp(rng.normal(0, 0.1, 3)) * rng.uniform(0.8, 1.1)
        uv = model.uv
        made_anew = rng.uniform(size=len(texture)) < 0.3
        if model.role not in FIXED_COLOURS:
            for i in np.nonzero(model.plain & made_anew)[0]:
                made = self.material()
                texture[i], tint[i] = made.texture, made.tint
                mine = model.material == i
                corners = model.vertices[model.faces[mine]] * piece.scale
                uv = uv.copy() if uv is model.uv else uv
                uv[mine] = _seen_along_axes(corners) / made.repeat
        self.triangles(
            model.vertices * piece.scale @ _rotation(turn).T + np.asarray(position, np.float32),
            model.faces,
            uv,
            texture[model.material],
            tint[model.material],
            part,
        )

    def solid(
        self,
        shape: tuple[np.ndarray, np.ndarray],
        position: Vector,
        turn: Turn,
        material: Material,
        part: int | None = None,
    ) -> None:
        """Vertices [V, 3] and faces [F, 3], anticlockwise from outside, turned and moved."""
        self._primitive(shape, (1, 1, 1), position, turn, material, part, 0.0)

    def _primitive(
        self,
        shape: tuple[np.ndarray, np.ndarray],
        size: Vector,
        position: Vector,
        turn: Turn,
        material: Material,
        part: int | None,
        emission: float,
    ) -> None:
        unit, faces = shape
        vertices = unit * np.asarray(size, np.float32)
        uv = _seen_along_axes(vertices[faces]) / material.repeat + self.rng.uniform(0, 1, 2)
        vertices = vertices @ _rotation(turn).T + np.asarray(position, np.float32)
        texture, tint, _, gloss = material
        self.triangles(vertices, faces, uv, texture, tint, part, emission, gloss)


def tilted(yaw: float, pitch: float, roll: float = 0.0) -> np.ndarray:  # -> [3, 3]
    """Rotation by `roll` about y, then `pitch` about x, then `yaw` about z."""
    c, s = math.cos(pitch), math.sin(pitch)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)
    c, s = math.cos(roll), math.sin(roll)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)
    return _rotation(yaw) @ about_x @ about_y


def _rotation(turn: Turn) -> np.ndarray:  # -> [3, 3]
    if isinstance(turn, np.ndarray):
        return turn
    c, s = math.cos(turn), math.sin(turn)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


_PLANES = np.array([[1, 2], [0, 2], [0, 1]])  # that are seen along each axis


def _seen_along_axes(corners: np.ndarray) -> np.ndarray:  # [F, 3, 3] -> [F, 3, 2]
    """Texture coordinates in metres, seen along the axis a face looks at most directly."""
    a, b = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    # np.cross takes ten times as long for the few faces of a box
    normals = np.stack([a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)])
    plane = _PLANES[np.abs(normals).argmax(0)]
    return np.take_along_axis(corners, plane[:, None], 2).astype(np.float32)


def _metres_per_texel(corners: np.ndarray, uv: np.ndarray) -> np.ndarray:  # -> [F]
    edges = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(edges, axis=1)
    u, v = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    uv_area = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    return np.sqrt(area / np.maximum(uv_area, 1e-8)) / SIZE


def _unit_box() -> tuple[np.ndarray, np.ndarray]:
    """Corners and outward faces of the unit box that stands on the origin."""
    sides = (-0.5, 0.5)
    vertices = np.array([[x, y, z] for x in sides for y in sides for z in (0, 1)], np.float32)
    quads = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    faces = np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))], np.int64)
    centre = vertices.mean(0)
    for face in faces:
        a, b, c = vertices[face]
        if np.cross(b - a, c - a) @ (vertices[face].mean(0) - centre) < 0:
            face[:] = face[::-1].copy()
    return vertices, faces


def _unit_cylinder(sides: int) -> tuple[np.ndarray, np.ndarray]:
    angle = np.arange(sides) / sides * 2 * np.pi
    rim = np.stack([np.cos(angle) * 0.5, np.sin(angle) * 0.5], 1)
    bottom, top = np.c_[rim, np.zeros(sides)], np.c_[rim, np.ones(sides)]
    vertices = np.concatenate([bottom, top, [[0, 0, 0], [0, 0, 1]]]).astype(np.float32)
    faces = []
    for i in range(sides):
        j = (i + 1) % sides
        faces += [(i, j, sides + j), (i, sides + j, sides + i)]
        faces += [(2 * sides, j, i), (2 * sides + 1, sides + i, sides + j)]
    return vertices, np.array(faces)


def _revolved(profile: np.ndarray, sides: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and outward faces of a profile [K, 2] turned about z; no faces on the axis."""
    angle = np.arange(sides) / sides * 2 * np.pi
    radius, z = profile[:, :1], np.repeat(profile[:, 1:], sides, 1)
    vertices = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], -1)
    ring, i = np.meshgrid(np.arange(len(profile) - 1) * sides, np.arange(sides), indexing='ij')
    j = (i + 1) % sides
    a, b, c, d = ring + i, ring + j, ring + sides + j, ring + sides + i
    lower = np.stack([a, b, c], -1)[profile[:-1, 0] > 0]
    upper = np.stack([a, c, d], -1)[profile[1:, 0] > 0]
    faces = np.concatenate([lower.reshape(-1, 3), upper.reshape(-1, 3)])
    return vertices.reshape(-1, 3).astype(np.float32), faces


def _unit_sphere(around: int = 12, down: int = 8) -> tuple[np.ndarray, np.ndarray]:
    azimuth, polar = np.arange(around) / around * 2 * np.pi, np.linspace(0, np.pi, down + 1)
    vertices = [
        [0.5 * np.sin(b) * np.cos(a), 0.5 * np.sin(b) * np.sin(a), 0.5 - 0.5 * np.cos(b)]
        for b in polar
        for a in azimuth
    ]
    faces = []
    for i in range(down):
        for j in range(around):
            k = (j + 1) % around
            a, b = i * around + j, i * around + k
            c, d = (i + 1) * around + k, (i + 1) * around + j
            faces += [(a, b, c), (a, c, d)]
    return np.array(vertices, np.float32), np.array(faces)


BOX = _unit_box()
CYLINDERS = {sides: _unit_cylinder(sides) for sides in (6, 10, 16)}
SPHERE = _unit_sphere()
