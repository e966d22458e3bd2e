"""Models of furniture, people and plants from Sweet Home 3D libraries (.sh3f), ready to place.

    python -m sharp_ros.procedural.meshes FOLDER > docs/training_assets.md

writes who made them and under which licences. A library is a zip file with a catalogue
(PluginFurnitureCatalog.properties, see the SH3F section of Sweet Home 3D's documentation) and
Wavefront models. Members are read, never extracted. Lengths in metres, z up, the front looks
towards -y and the middle of the bottom is the origin. One module: the steps of a model from its
library to a scene, in their order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
import hashlib
import io
import json
import math
from pathlib import Path
import posixpath
import re
import sys
from typing import Any, NamedTuple
import zipfile
import zlib

import numpy as np
import open3d as o3d
from PIL import Image

from sharp_ros.errors import InputError
from sharp_ros.files import CACHE_FOLDER, replacing
from sharp_ros.procedural.textures import linear_means, mip_pyramid, SIZE, Textures

CATALOGUE = 'PluginFurnitureCatalog.properties'
FORMAT = 1  # of the cache; raise it when anything below changes what comes out
MAX_MEMBER = 100 * 2**20  # bytes; larger members are not read
MAX_PIXELS = 10**8  # of a picture
MAX_TRIANGLES = {'small': 1000, 'tree': 7000, 'plant': 6000, 'person': 4000}  # others 3000
FAR_TOO_MANY = 4  # times as many triangles: a model that cannot be simplified is left out
MAX_CHANGE = 0.07  # share of a simplified model's views that may look different
FOLIAGE = ('tree', 'plant', 'fence')  # whose leaves may lie elsewhere
LEAF = 40  # triangles in a patch: meshes of smaller patches are thinned instead of simplified
VIEW = 40  # rays along a side of the views that models are judged by
HASH = np.array([3, 5, 7, 11, 13], np.int64) ** 17  # make one number of five
OPAQUE = 0.5  # share of light stopped from which a surface is solid
MOSTLY_GLASS = 0.35  # share of the area from which a model is of no use

# Pieces of no use: out of place in rooms, flat on the floor, of glass, or parts of buildings.
UNFIT = re.compile(
    r'parking|arrow|crossing|^rails|swimming|jacuzzi|sidewalk|column|escalator|staircase|diving'
    r'|shower|curtain|glass|aquarium|elevator|carpet|rug$|mat$|tatami|bathmat|blind|hut|container'
    r'|(rounded|wall) .*(plug|switch)|hanging clothes|iron railing|barnum|mannequin'
    r'|chandelier|\bbill\b|sign|tent\b|child(ren)? (swing|game)'
)
# What a piece is: the first rule whose category and name match and whose size (width, depth,
# height) passes.
Rule = tuple[str, str, str, Callable[[float, float, float], bool]]
RULES: tuple[Rule, ...] = (
    ('', 'Doors|Stair', '', lambda w, d, h: True),
    ('', '', '', lambda w, d, h: h < 0.012 or max(w, d, h) < 0.05),
    ('', 'Characters', '^sitting', lambda w, d, h: h > 1.1),  # on a chair that is not there
    ('person', 'Characters', '', lambda w, d, h: h > 0.28),
    ('car', 'Vehicles', '', lambda w, d, h: d > 2.4 and 1.5 < w < 2.3 and h < 2.7),
    ('', 'Vehicles', '', lambda w, d, h: max(w, d) > 4),
    (
        'tree',
        'Exterior',
        'acacia|bamboo|ficus|pine|tree|beech|cypress|maple|poplar|palm|peach',
        lambda w, d, h: h > 1.9,
    ),
    ('fence', '', 'fence|hedge|railing', lambda w, d, h: w > 1.2 and d < 1.2),
    ('post', 'Lights', '', lambda w, d, h: h > 2.2),
    ('bench', '', r'\bbench|bank$', lambda w, d, h: w > 1 and h < 1.2 and d < 1.2),
    (
        'plant',
        '',
        r'plant|flower|ficus|yucca|bush|spathi|cactus|bamboo|tulip|lily|orchid|bonsai'
        '|christmas',
        lambda w, d, h: h > 0.5 and h < 2.3,
    ),
    ('small', '', '', lambda w, d, h: max(w, d) <= 0.5 and h <= 0.42),
    ('lamp', 'Lights', '', lambda w, d, h: True),
    (
        'chair',
        'Office|Living|Kitchen|Exterior|Bedroom',
        'chair|stool|seat',
        lambda w, d, h: max(w, d) < 0.9 and 0.4 < h < 1.25,
    ),
    ('sofa', '', 'sofa|couch|armchair|puff|chair', lambda w, d, h: h < 1.3 and max(w, d) < 3.6),
    ('bed', 'Bedroom', r'\bbed\b|futon|crib|mattress', lambda w, d, h: w > 0.5),
    ('', '', 'television cabinet|table fan', lambda w, d, h: False),
    (
        'table',
        'Office|Living|Kitchen|Exterior|Bedroom',
        'table|desk|island$',
        lambda w, d, h: w > 0.5 and 0.3 < h < 1.15,
    ),
    ('bath', 'Bathroom', '', lambda w, d, h: max(w, d) > 0.3),
    (
        'kitchen',
        'Kitchen',
        'cabinet|fridge|refrigerator|oven|stove|machine|dryer|sink|cooker|freezer|dishwasher',
        lambda w, d, h: w > 0.28 and h > 0.5 and d > 0.35,
    ),
    (
        'cabinet',
        'Office|Living|Bedroom|Misc',
        'cabinet|dresser|chest|bedside|filing|safe|stand|box|locker|fireplace|trunc|radiator'
        '|contemporary',
        lambda w, d, h: h < 1.35 and w > 0.3,
    ),
    (
        'shelf',
        'Office|Living|Bedroom|Misc|Kitchen',
        'bookcase|shelves|wardrobe|cupboard|cabinet|desk|box|fireplace|workbench|contemporary',
        lambda w, d, h: w > 0.3 and 0.6 < h < 2.4,
    ),
    ('outdoor', 'Exterior|Vehicles', '', lambda w, d, h: max(w, d) < 3.6 and h < 2.6),
    ('thing', '', '', lambda w, d, h: max(w, d) < 2.8 and h < 2.3 and h > 0.06),
)
FIXED_COLOURS = ('person', 'tree', 'plant', 'fence')  # that are never painted anew


class Library(NamedTuple):
    """Where models come from."""

    name: str
    licence: str
    source: str


@dataclass(frozen=True)
class Model:
    """One piece.

    Attributes:
        name: as in the catalogue.
        category: as in the catalogue.
        role: what it serves as, see `RULES`; 'hung' has its back at a wall.
        creator: its author.
        library: index into `Models.libraries`.
        size: [3] width, depth and height.
        elevation: of its bottom above the floor.
        top: height on which things can be put, over `TOP_SHARE` of width and depth; or None.
        vertices: [V, 3].
        faces: [F, 3], anticlockwise from outside.
        uv: [F, 3, 2] of the corners, v downwards.
        material: [F] indices into the two below.
        texture: [M] indices into `Models.mips`.
        colour: [M, 3] linear factors on the texture.
        plain: [M] whether the material has no picture of its own.
    """

    name: str
    category: str
    role: str
    creator: str
    library: int
    size: np.ndarray
    elevation: float
    top: float | None
    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    material: np.ndarray
    texture: np.ndarray
    colour: np.ndarray
    plain: np.ndarray


TOP_SHARE = 0.7
_ARRAYS = ('vertices', 'faces', 'uv', 'material', 'texture', 'colour', 'plain')


@dataclass(frozen=True)
class Models:
    """What a folder of libraries holds.

    Attributes:
        models: that can be placed.
        libraries: they come from.
        mips: [T, P, 3] uint8 textures, as `Textures.mips`; the first is white.
        pictures: indices of textures without holes.
        skipped: how often what was not taken, by reason.
    """

    models: tuple[Model, ...]
    libraries: tuple[Library, ...]
    mips: np.ndarray
    pictures: np.ndarray
    skipped: Mapping[str, int]

    def of_role(
        self,
        *roles: str,
        largest: Sequence[float] | np.ndarray = (math.inf,) * 3,
        categories: Sequence[str] = (),
    ) -> list[Model]:
        """Models of some roles, no larger than that, of any or some categories."""
        return [
            model
            for role in roles
            if role in self._by_role
            for model, fits in zip(
                self._by_role[role],
                np.all(self._sizes[role] <= np.asarray(largest), axis=1),
                strict=True,
            )
            if fits and (not categories or model.category in categories)
        ]

    @cached_property
    def _by_role(self) -> Mapping[str, list[Model]]:
        found: dict[str, list[Model]] = {}
        for model in self.models:
            found.setdefault(model.role, []).append(model)
        return found

    @cached_property
    def _sizes(self) -> Mapping[str, np.ndarray]:
        return {role: np.stack([m.size for m in same]) for role, same in self._by_role.items()}


@dataclass(frozen=True)
class FurnishedTextures(Textures):
    """Textures of which the last are those of models."""

    models: Models


def with_models(textures: Textures, models: Models) -> FurnishedTextures:
    """The same textures and, behind them, those of models; some of these serve as pictures too."""
    pictures = textures.of_kind['picture']
    added = models.pictures[:: max(1, len(models.pictures) // len(pictures))]
    return FurnishedTextures(
        np.concatenate([textures.mips, models.mips]),
        np.concatenate([textures.linear_means, linear_means(models.mips)]),
        {**textures.of_kind, 'picture': np.concatenate([pictures, len(textures.mips) + added])},
        models,
    )


def load_models(
    folder: Path, cache: Path = CACHE_FOLDER, report: Callable[[int], None] = lambda count: None
) -> Models:
    """Read all libraries of a folder; what was read once comes from a file in `cache`.

    Args:
        folder: with .sh3f files.
        cache: folder of the file.
        report: see `read_libraries`.

    Raises:
        InputError: there is no library in the folder, or none with a model of use.
    """
    paths = sorted(folder.glob('*.sh3f'))
    if not paths:
        raise InputError(
            f'{folder} holds no .sh3f library; fetch some with scripts/fetch_furniture.sh',
            'no_furniture',
        )
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    key = hashlib.sha256(repr((FORMAT, SIZE, stamps)).encode()).hexdigest()[:16]
    stored = cache.expanduser() / f'furniture_{key}.npz'
    if stored.is_file():
        return _read(stored)
    models = read_libraries(paths, report)
    stored.parent.mkdir(parents=True, exist_ok=True)
    _write(stored, models)
    return models


def read_libraries(
    paths: Sequence[Path], report: Callable[[int], None] = lambda count: None
) -> Models:
    """Read libraries; broken ones and broken models are counted and left out.

    Args:
        paths: of .sh3f files.
        report: called with the number of models looked at, after each.

    Raises:
        InputError: there is nothing of use in any of them.
    """
    skipped: Counter[str] = Counter()
    pictures = _Pictures()
    libraries, models = [], []
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:
                header, entries = _catalogue(_member(archive, CATALOGUE))
                libraries.append(
                    Library(
                        header.get('name', path.stem),
                        header.get('license', 'not stated'),
                        header.get('provider', 'not stated'),
                    )
                )
                for entry in entries:
                    try:
                        model = _model(archive, entry, len(libraries) - 1, pictures)
                    except _Unfit as unfit:
                        skipped[str(unfit)] += 1
                    except _BROKEN:
                        skipped['broken_model'] += 1
                    else:
                        models.append(model)
                    report(len(models) + skipped.total())
        except _BROKEN:
            skipped['broken_library'] += 1
    if not models:
        raise InputError(
            f'no model of use in {", ".join(str(p) for p in paths)} ({dict(skipped)}); '
            'fetch the libraries anew with scripts/fetch_furniture.sh',
            'no_furniture',
        )
    mips, whole = pictures.finish()
    return Models(tuple(models), tuple(libraries), mips, whole, dict(skipped))


def attribution(models: Models) -> str:
    """Markdown that names libraries, licences, sources and authors of the models in use."""
    authors = defaultdict(set)
    for model in models.models:
        authors[model.library].add(model.creator)
    rows = [
        ' | '.join(('', *library, ', '.join(sorted(authors[i], key=str.casefold)), '')).strip()
        for i, library in enumerate(models.libraries)
        if i in authors
    ]
    return '\n'.join((_ASSETS, *rows, ''))


_ASSETS = """\
# Models in training images

Scenes for training can be furnished with models of these libraries, which Debian packages as
sweethome3d-furniture and `scripts/fetch_furniture.sh` fetches. Nothing of them is in this
repository; pictures of them, rendered in generated rooms and changed in size, colour and detail,
are what weights learn from, and weights that did so name their authors by pointing here.

| Library | Licence | Source | Authors |
|---|---|---|---|"""


class _Unfit(Exception):
    """A model that is sound but of no use; the message is the reason to count."""


_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, KeyError, ValueError, IndexError, OSError, EOFError),
    *(NotImplementedError, RuntimeError, Image.DecompressionBombError),
)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's contents; ValueError if it is too large."""
    if archive.getinfo(name).file_size > MAX_MEMBER:
        raise ValueError(f'{name} is larger than {MAX_MEMBER} bytes')
    return archive.read(name)


def _catalogue(data: bytes) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What a catalogue says of itself and of its models (Java properties, as text)."""
    header: dict[str, str] = {}
    entries: dict[str, dict[str, str]] = defaultdict(dict)
    for line in data.decode('latin-1').splitlines():
        key, equals, value = line.partition('=')
        if not equals or key.lstrip().startswith('#'):
            continue
        value = re.sub(r'\\u([0-9a-fA-F]{4})', lambda m: chr(int(m[1], 16)), value.strip())
        value = ' '.join(value.replace('|', '/').split())
        name, hash_, number = key.strip().partition('#')
        (entries[number] if hash_ else header)[name] = value
    return header, list(entries.values())


def _role(category: str, name: str, size: np.ndarray, elevation: float) -> str:
    """What a model can serve as, see `RULES`; _Unfit if as nothing."""
    name = name.lower()
    if UNFIT.search(name):
        raise _Unfit('out_of_place')
    if elevation > 0.03:
        indoors = category in ('Kitchen', 'Bathroom', 'Miscellaneous', 'Living room')
        if (indoors or 'wall' in name) and size[1] < 0.7 and 'fan' not in name:
            return 'hung'
        raise _Unfit('out_of_place')
    for role, where, what, fits in RULES:
        if re.match(where, category) and re.search(what, name) and fits(*size):
            if role:
                return role
            break
    raise _Unfit('out_of_place')


def _model(
    archive: zipfile.ZipFile, entry: Mapping[str, str], library: int, pictures: _Pictures
) -> Model:
    size = np.array([float(entry[side]) / 100 for side in ('width', 'depth', 'height')])
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise ValueError('no size')
    elevation = float(entry.get('elevation') or 0) / 100
    category, name = entry['category'], entry['name']
    if entry.get('doorOrWindow') == 'true':
        raise _Unfit('out_of_place')
    role = _role(category, name, size, elevation)
    path = posixpath.normpath(entry['model'].lstrip('/'))
    made = _wavefront(_member(archive, path))
    vertices = _upright(made.vertices, entry.get('modelRotation', ''), size)
    materials = _materials(archive, path, made.libraries)
    used = [materials.get(n, _Material()) for n in made.materials]
    corners = vertices[made.faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    if role == 'car':  # whose panes are dark rather than not there
        used = [m if m.opacity >= OPAQUE else _Material((0.02, 0.022, 0.025)) for m in used]
    solid = np.array([m.opacity >= OPAQUE for m in used])[made.material]
    if area[~solid].sum() > MOSTLY_GLASS * area.sum():
        raise _Unfit('glass')
    keep = solid & (area > 1e-10)
    budget = MAX_TRIANGLES.get(role, 3000)
    images = [pictures.find(archive, m.picture) for m in used]
    faces, uv, material = made.faces[keep], made.uv[keep], made.material[keep]
    for i, image in enumerate(images):
        if image is not None and image.alpha is not None:
            vertices, faces, uv, material = _cut_out(
                (vertices, faces, uv, material), i, image.alpha, budget
            )
    if len(faces) < 4:
        raise _Unfit('nothing_solid')
    mesh = vertices, faces, uv, material
    if len(faces) > budget:
        mesh = _simplified(mesh, budget) if role in FOLIAGE else _alike(mesh, budget, size)
        if len(mesh[1]) > FAR_TOO_MANY * budget:
            raise _Unfit('too_detailed')
    (vertices, faces, uv, material), top = _seen_from_outside(mesh, size)
    uv[..., 1] = 1 - uv[..., 1]
    present, material = np.unique(material, return_inverse=True)
    corner, index = np.unique(faces, return_inverse=True)
    colour, texture, plain = [], [], []
    for i in present:
        image = images[i]
        plain.append(image is None)
        texture.append(pictures.WHITE if image is None else pictures.use(image))
        colour.append(used[i].colour if image is None else (1.0, 1.0, 1.0))
    uv[np.array(plain)[material]] = 0.5
    return Model(
        name,
        category,
        role,
        entry.get('creator') or 'unknown',
        library,
        size,
        elevation,
        top,
        vertices[corner].astype(np.float32),
        index.reshape(-1, 3).astype(np.int32),
        uv.astype(np.float32),
        material.astype(np.int32),
        np.array(texture, np.int32),
        np.array(colour, np.float32),
        np.array(plain),
    )


class _Wavefront(NamedTuple):
    """Triangles of a model: `material` [F] indexes the names `materials`; v of uv upwards."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    material: np.ndarray
    materials: list[str]
    libraries: list[str]


def _wavefront(data: bytes) -> _Wavefront:
    """Read an OBJ file: v, vt, f, usemtl and mtllib; all else does not matter here."""
    rows: dict[bytes, list[bytes]] = {b'v': [], b'vt': []}
    polygons: list[tuple[list[bytes], int, int, int]] = []
    materials: dict[str, int] = {}
    libraries: list[str] = []
    current = materials.setdefault('', 0)
    for line in data.replace(b'\\\n', b' ').splitlines():
        word, _, rest = line.strip().partition(b' ')
        if word in rows:
            rows[word].append(rest)
        elif word == b'f':
            polygons.append((rest.split(), current, len(rows[b'v']), len(rows[b'vt'])))
        elif word == b'usemtl':
            current = materials.setdefault(rest.decode('latin-1').strip(), len(materials))
        elif word == b'mtllib':
            libraries.append(rest.decode('latin-1').strip())
    vertices = np.array([row.split()[:3] for row in rows[b'v']], np.float64)
    texture = np.array([row.split()[:2] for row in rows[b'vt']] or [[0, 0]], np.float64)
    if not (len(vertices) and np.isfinite(vertices).all() and np.isfinite(texture).all()):
        raise ValueError('no vertices, or numbers that are not finite')
    corners, look_up, made_of = _triangles(vertices, polygons)
    if len(corners) == 0 or min(corners.min(), look_up.min()) < 0:
        raise ValueError('no faces, or faces without corners')
    return _Wavefront(vertices, corners, texture[look_up], made_of, list(materials), libraries)


def _triangles(
    vertices: np.ndarray, polygons: Sequence[tuple[list[bytes], int, int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # -> [F, 3], [F, 3], [F]
    """Vertices, texture coordinates and material of the triangles of polygons of any shape.

    A polygon is its corners as in the file, its material, and the number of vertices and of
    texture coordinates before it.
    """
    rows: dict[int, list[list[int]]] = defaultdict(list)
    for words, material, vertex_count, uv_count in polygons:
        row = [material]
        for word in words:
            first, _, rest = word.partition(b'/')
            second = rest.partition(b'/')[0]
            corner, look = int(first), int(second) if second else 1
            row.append(corner - 1 if corner > 0 else vertex_count + corner)
            row.append(look - 1 if look > 0 else uv_count + look)
        rows[len(words)].append(row)
    found: list[np.ndarray] = [np.zeros((0, 7), np.int64)]
    for count, same in rows.items():
        if count < 3:
            continue
        table = np.array(same, np.int64)
        material, corner, look = table[:, :1], table[:, 1::2], table[:, 2::2]
        edge = vertices[np.roll(corner, -1, 1)] - vertices[corner]
        turn = np.cross(edge, np.roll(edge, -1, 1))
        convex = (np.einsum('nck,nk->nc', turn, turn.sum(1)) >= 0).all(1)
        fan = [(0, i, i + 1) for i in range(1, count - 1)]
        for a, b, c in fan:
            chosen = (p[convex][:, [a, b, c]] for p in (corner, look))
            found.append(np.concatenate([material[convex], *chosen], 1))
        for i in np.nonzero(~convex)[0]:
            cut = np.array(_ears(vertices[corner[i]], corner[i].tolist()))
            of = np.full((len(cut), 1), material[i, 0])
            found.append(np.concatenate([of, corner[i][cut], look[i][cut]], 1))
    table = np.concatenate(found)
    return table[:, 1:4], table[:, 4:], table[:, 0]


def _ears(points: np.ndarray, names: list[int]) -> list[tuple[int, int, int]]:
    """Triangles of a polygon [K, 3] by cutting off ears (Meisters 1975)."""
    edge = np.roll(points, -1, 0) - points
    normal = np.cross(points - points[0], edge).sum(0)
    along = int(np.abs(normal).argmax())
    u, v = ((1, 2), (2, 0), (0, 1))[along]
    flat = points[:, [u, v]] * [math.copysign(1, normal[along]), 1]

    def turn(a: int, b: int, c: int) -> float:
        (ax, ay), (bx, by), (cx, cy) = flat[a], flat[b], flat[c]
        return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)

    def is_ear(a: int, b: int, c: int) -> bool:
        return turn(a, b, c) > 0 and not any(
            min(turn(a, b, p), turn(b, c, p), turn(c, a, p)) >= 0
            for p in left
            if names[p] not in (names[a], names[b], names[c])
        )

    left, cut = list(range(len(points))), []
    while len(left) > 3:
        corners = ((left[i - 1], left[i], left[(i + 1) % len(left)]) for i in range(len(left)))
        ear = next((c for c in corners if is_ear(*c)), tuple(left[:3]))
        cut.append(ear)
        left.remove(ear[1])
    return [*cut, (left[0], left[1], left[2])]


class _Material(NamedTuple):
    """Of an MTL file: linear colour, share of light stopped, and the member with the picture."""

    colour: tuple[float, ...] = (0.6, 0.6, 0.6)
    opacity: float = 1.0
    picture: str | None = None


def _materials(
    archive: zipfile.ZipFile, path: str, libraries: Sequence[str]
) -> dict[str, _Material]:
    folder = posixpath.dirname(path)
    members = {name.lower(): name for name in archive.namelist()}

    def beside(name: str) -> str | None:
        name = name.strip().strip('"').replace('\\', '/')
        return members.get(posixpath.normpath(posixpath.join(folder, name)).lower())

    found: dict[str, _Material] = {}
    current = ''
    for library in libraries:
        member = beside(library)
        for line in _member(archive, member).decode('latin-1').splitlines() if member else ():
            word, _, rest = line.strip().partition(' ')
            rest = rest.strip()
            made = found.get(current, _Material())
            if word == 'newmtl':
                current = rest
                found[current] = _Material()
            elif word == 'Kd':
                shown = [min(max(float(v), 0.0), 1.0) for v in rest.split()[:3]]
                linear = tuple(max(v**2.2, 0.012) for v in shown)
                found[current] = made._replace(colour=linear)
            elif word in ('d', 'Tr'):
                value = float(rest.split()[-1])
                found[current] = made._replace(opacity=value if word == 'd' else 1 - value)
            elif word == 'map_Kd':
                found[current] = made._replace(picture=beside(rest))
    return found


class _Picture(NamedTuple):
    """A texture: RGB level [S, S, 3] and, if it has holes, opacity [S, S]."""

    key: str
    level: np.ndarray
    alpha: np.ndarray | None


class _Pictures:
    """Textures that models share; the same picture is kept once, and only if it is used."""

    WHITE = 0

    def __init__(self) -> None:
        self._found: dict[str, _Picture] = {}
        white = np.full((SIZE, SIZE, 3), 255, np.uint8)
        self._used = {'': _Picture('', white, None)}

    def find(self, archive: zipfile.ZipFile, member: str | None) -> _Picture | None:
        """The picture of a member; None if there is none or it cannot be read."""
        if member is None:
            return None
        data = _member(archive, member)
        key = hashlib.sha256(data).hexdigest()
        if key not in self._found:
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f'{member} has more than {MAX_PIXELS} pixels')
                whole = image.convert('RGBA').resize((SIZE, SIZE), Image.Resampling.BOX)
            pixels = np.asarray(whole)
            level, alpha = np.ascontiguousarray(pixels[..., :3]), pixels[..., 3] / 255.0
            holes = alpha < OPAQUE
            if holes.any() and not holes.all():  # so that the colour of holes tints no edge
                level[holes] = level[~holes].mean(0).astype(np.uint8)
            self._found[key] = _Picture(key, level, alpha if holes.any() else None)
        return self._found[key]

    def use(self, picture: _Picture) -> int:
        """Index of a picture among those in use."""
        self._used.setdefault(picture.key, picture)
        return list(self._used).index(picture.key)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Mip levels of all pictures in use, and the indices of those without holes."""
        used = list(self._used.values())
        whole = [i for i, picture in enumerate(used) if i and picture.alpha is None]
        return mip_pyramid(np.stack([p.level for p in used])), np.array(whole, np.int64)


def _upright(vertices: np.ndarray, rotation: str, size: np.ndarray) -> np.ndarray:  # -> [V, 3]
    """Turned as the catalogue says, from y up to z up, scaled to its size, on the floor."""
    if rotation:
        turn = np.array([float(v) for v in rotation.split()]).reshape(3, 3)
        vertices = vertices @ turn.T
    vertices = vertices[:, [0, 2, 1]] * [1, -1, 1]
    low, high = vertices.min(0), vertices.max(0)
    vertices = (vertices - (low + high) / 2) * (size / np.maximum(high - low, 1e-9))
    return vertices + np.array([0, 0, size[2] / 2])


Mesh = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # vertices, faces, uv, material


def _cut_out(mesh: Mesh, which: int, alpha: np.ndarray, budget: int) -> Mesh:
    """Remove the holes of a picture from the triangles of one material, cut finer for that."""
    vertices, faces, uv, material = mesh
    chosen = material == which
    corners, look = vertices[faces[chosen]], uv[chosen]

    def opacity(look: np.ndarray) -> np.ndarray:  # [F, 3, 2] -> [F]
        middle = look.mean(1)
        texel = np.floor((middle - np.floor(middle)) * SIZE).astype(int) % SIZE
        return alpha[SIZE - 1 - texel[:, 1], texel[:, 0]]

    while 0 < len(corners) <= budget // 2:
        corners, look = _quartered(corners), _quartered(look)
    solid = opacity(look) >= OPAQUE
    corners, look = corners[solid], look[solid]
    new = np.arange(3 * len(corners)).reshape(-1, 3) + len(vertices)
    return (
        np.concatenate([vertices, corners.reshape(-1, 3)]),
        np.concatenate([faces[~chosen], new]),
        np.concatenate([uv[~chosen], look]),
        np.concatenate([material[~chosen], np.full(len(new), which)]),
    )


def _quartered(corners: np.ndarray) -> np.ndarray:  # [F, 3, K] -> [4 F, 3, K]
    """Triangles split at the middles of their edges."""
    a, b, c = corners.transpose(1, 0, 2)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    parts = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    return np.concatenate([np.stack(part, 1) for part in parts])


def _alike(mesh: Mesh, budget: int, size: np.ndarray) -> Mesh:
    """One with fewer triangles that looks alike from all sides.

    Raises:
        _Unfit: none does.
    """
    before = _distances(mesh, size)[0]
    for factor in (1, FAR_TOO_MANY / 2, FAR_TOO_MANY):
        if len(mesh[1]) <= factor * budget:
            return mesh
        simple = _simplified(mesh, round(factor * budget))
        if len(simple[1]) > FAR_TOO_MANY * budget:
            continue
        after = _distances(simple, size)[0]
        alike = np.isclose(before, after, rtol=0, atol=0.03 * float(np.linalg.norm(size)))
        seen = np.isfinite(before) | np.isfinite(after)
        changed = (seen & ~alike).sum(1) / np.maximum(seen.sum(1), 1)
        if changed.mean() < MAX_CHANGE and changed.max() < 3 * MAX_CHANGE:
            return simple
    raise _Unfit('too_detailed')


def _simplified(mesh: Mesh, budget: int) -> Mesh:
    """About `budget` triangles (quadric error metrics, Garland and Heckbert 1997), per material.

    The seams of a texture are borders, which are kept; texture coordinates come from the nearest
    place on the original. Of leaves some are left out and the others are enlarged.
    """
    vertices, faces, uv, material = mesh
    pieces: list[Mesh] = []
    count = 0
    for which in np.unique(material):
        chosen = material == which
        target = max(12, math.ceil(budget * chosen.mean()))
        key = np.concatenate([vertices[faces[chosen]], uv[chosen]], 2).reshape(-1, 5)
        code = np.round(key * 1e5).astype(np.int64) @ HASH  # far faster than comparing rows
        _, first, index = np.unique(code, return_index=True, return_inverse=True)
        points, triangles, look = key[first, :3], index.reshape(-1, 3), uv[chosen]
        shape = o3d.geometry.TriangleMesh(
            o3d.utility.Vector3dVector(points), o3d.utility.Vector3iVector(triangles)
        )
        patch = np.asarray(shape.cluster_connected_triangles()[0])
        if len(triangles) > target and len(triangles) < LEAF * (patch.max() + 1):
            points, triangles, look = _thinned(points, triangles, look, patch, target)
        elif len(triangles) > target:
            shape.remove_degenerate_triangles()
            shape = shape.simplify_quadric_decimation(target, boundary_weight=3.0)
            shape.remove_degenerate_triangles()
            shape.remove_unreferenced_vertices()
            simple = np.asarray(shape.vertices), np.asarray(shape.triangles)
            if len(simple[1]):
                look = _nearest_uv(points, triangles, look, simple[0][simple[1]])
                points, triangles = simple
        pieces.append((points, triangles + count, look, np.full(len(triangles), which)))
        count += len(points)
    vertices, faces, uv, material = (np.concatenate(c) for c in zip(*pieces, strict=True))
    return vertices, faces, uv, material


def _thinned(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, patch: np.ndarray, budget: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every so many-th of the patches [F] that do not touch, enlarged to cover as much.

    Patches much larger than most, of a trunk and branches, all stay as they are.
    """
    number = np.arange(patch.max() + 1)
    low, high = np.full((len(number), 3), np.inf), np.full((len(number), 3), -np.inf)
    np.minimum.at(low, patch, vertices[faces].min(1))
    np.maximum.at(high, patch, vertices[faces].max(1))
    extent = np.linalg.norm(high - low, axis=1)
    large = (extent > 3 * np.median(extent))[patch]
    share = min(1.0, max(budget - large.sum(), budget / 2) / max((~large).sum(), 1))
    chosen = number[np.floor((number + 1) * share) > np.floor(number * share)]
    kept = large | np.isin(patch, chosen)
    corners, of = vertices[faces[kept]], patch[kept]
    total = np.zeros((len(number), 3))
    np.add.at(total, of, corners.mean(1))
    middle = (total / np.maximum(np.bincount(of, minlength=len(number)), 1)[:, None])[of, None]
    grown = np.where(large[kept], 1.0, min(share**-0.5, 1.8))[:, None, None]
    corners = middle + (corners - middle) * grown
    return corners.reshape(-1, 3), np.arange(3 * kept.sum()).reshape(-1, 3), uv[kept]


def _nearest_uv(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, corners: np.ndarray
) -> np.ndarray:  # -> [N, 3, 2]
    """Texture coordinates of a mesh at the corners [N, 3, 3] of other triangles near it."""
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(vertices.astype(np.float32)),
        o3d.core.Tensor.from_numpy(faces.astype(np.uint32)),
    )

    def look_up(points: np.ndarray) -> np.ndarray:
        query = o3d.core.Tensor.from_numpy(points.astype(np.float32).reshape(-1, 3))
        found = scene.compute_closest_points(query, nthreads=1)
        second, third = found['primitive_uvs'].numpy().T[..., None]
        a, b, c = uv[found['primitive_ids'].numpy().astype(int)].transpose(1, 0, 2)
        return a * (1 - second - third) + b * second + c * third

    # From a little inside, where the triangle next door on another patch is not the nearest.
    middle = corners.mean(1, keepdims=True)
    look = look_up(corners + 0.1 * (middle - corners)).reshape(-1, 3, 2)
    centre = look_up(middle).reshape(-1, 1, 2)
    astray = np.abs(look.mean(1, keepdims=True) - centre).max((1, 2)) > 0.1
    look[astray] = centre[astray]
    return look


def _distances(mesh: Mesh, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What rays from many sides meet, first those from above, over the footprint exactly.

    Returns:
        Distances [S, N], inf for nothing; face hit [S, N]; whether from its front [S, N].
    """
    vertices, faces = mesh[0].astype(np.float32), mesh[1].astype(np.uint32)
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(o3d.core.Tensor.from_numpy(vertices), o3d.core.Tensor.from_numpy(faces))
    grid = (np.arange(VIEW) + 0.5) / VIEW * 2 - 1
    u, v = (axis.ravel()[:, None] for axis in np.meshgrid(grid, grid))
    reach, middle = float(np.linalg.norm(size)) / 2, np.array([0, 0, size[2] / 2])
    above = np.concatenate([u * size[0] / 2, v * size[1] / 2, u * 0 + size[2] + 1], 1)
    rays = [np.concatenate([above, np.broadcast_to([0, 0, -1.0], above.shape)], 1)]
    angles = [(a, e) for e in (0.05, 0.8) for a in range(6)] + [(a, -0.5) for a in (0.5, 2.6, 4.7)]
    for azimuth, elevation in angles:
        away = np.array([math.cos(azimuth), math.sin(azimuth), elevation])
        away /= np.linalg.norm(away)
        right = np.cross([0, 0, 1], away)
        right /= np.linalg.norm(right)
        origins = middle + away * 2 * reach + reach * (u * right + v * np.cross(away, right))
        rays.append(np.concatenate([origins, np.broadcast_to(-away, origins.shape)], 1))
    bundle = np.stack(rays).astype(np.float32)
    hits = scene.cast_rays(o3d.core.Tensor.from_numpy(bundle), nthreads=1)
    towards = (hits['primitive_normals'].numpy() * bundle[..., 3:]).sum(-1) < 0
    return hits['t_hit'].numpy(), hits['primitive_ids'].numpy(), towards


def _seen_from_outside(mesh: Mesh, size: np.ndarray) -> tuple[Mesh, float | None]:
    """Faces turned to where most rays see them from, and the height of a free flat top if any."""
    vertices, faces, uv, material = mesh
    distance, face, front = _distances(mesh, size)
    hit = np.isfinite(distance)
    votes = np.zeros(len(faces))
    np.add.at(votes, face[hit].astype(int), np.where(front[hit], 1, -1))
    wrong = (votes < 0)[:, None]
    faces = np.where(wrong, faces[:, ::-1], faces)
    uv = np.where(wrong[..., None], uv[:, ::-1], uv)
    heights = np.where(hit[0], size[2] + 1 - distance[0], 0).reshape(VIEW, VIEW)
    return (vertices, faces, uv, material), _free_top(heights)


def _free_top(heights: np.ndarray) -> float | None:
    """The height most of the middle of a map of heights has, if nearly all of it has it."""
    border = round(len(heights) * (1 - TOP_SHARE) / 2)
    inner = heights[border:-border, border:-border]
    level = float(np.median(inner))
    flat = np.abs(inner - level) < 0.006
    return float(inner[flat].max()) if level > 0.2 and flat.mean() > 0.98 else None


def _write(path: Path, models: Models) -> None:
    table = [
        {
            **{n: getattr(m, n) for n in ('name', 'category', 'role', 'creator', 'library')},
            'size': m.size.tolist(),
            'elevation': m.elevation,
            'top': m.top,
            'vertices': len(m.vertices),
            'faces': len(m.faces),
            'materials': len(m.texture),
        }
        for m in models.models
    ]
    about = {'models': table, 'libraries': models.libraries, 'skipped': models.skipped}
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(m, name) for m in models.models]) for name in _ARRAYS
    }
    with replacing(path) as file:
        np.savez(
            file, about=json.dumps(about), mips=models.mips, pictures=models.pictures, **arrays
        )


def _read(path: Path) -> Models:
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(str(stored['about']))
        arrays = {name: stored[name] for name in _ARRAYS}
        mips, pictures = stored['mips'], stored['pictures']
    models = []
    v = f = m = 0
    for row in about['models']:
        across = {name: slice(f, f + row['faces']) for name in ('faces', 'uv', 'material')}
        across |= {n: slice(m, m + row['materials']) for n in ('texture', 'colour', 'plain')}
        across['vertices'] = slice(v, v + row['vertices'])
        v, f, m = v + row['vertices'], f + row['faces'], m + row.pop('materials')
        row['size'] = np.array(row['size'])
        models.append(Model(**row | {name: arrays[name][part] for name, part in across.items()}))
    libraries = tuple(Library(*row) for row in about['libraries'])
    return Models(tuple(models), libraries, mips, pictures, about['skipped'])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    folder, *more = sys.argv[1:] if arguments is None else arguments
    if more:
        raise SystemExit('usage: python -m sharp_ros.procedural.meshes FOLDER')
    sys.stdout.write(attribution(load_models(Path(folder))))
    return 0


if __name__ == '__main__':
    sys.exit(main())
