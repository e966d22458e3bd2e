"""Models of furniture, people and plants from Sweet Home 3D libraries (.sh3f), ready to place.

    python -m sharp_ros.procedural.meshes FOLDER > docs/training_assets.md

writes who made them and under which licences. A library is a zip file with a catalogue
(PluginFurnitureCatalog.properties, see the SH3F section of Sweet Home 3D's documentation) and
Wavefront models. Lengths in metres, z up, the front looks towards -y and the middle of the bottom
is the origin. One module: what a catalogue says decides what becomes of its models, and the cache
keeps just that. `wavefront` reads the models, `simplification` makes them small.
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
from PIL import Image

from sharp_ros.errors import InputError
from sharp_ros.files import CACHE_FOLDER, replacing
from sharp_ros.procedural.simplification import (
    alike,
    cut_out,
    FAR_TOO_MANY,
    OPAQUE,
    seen_from_outside,
    simplified,
)
from sharp_ros.procedural.textures import linear_means, mip_pyramid, SIZE, Textures
from sharp_ros.procedural.wavefront import (
    ModelMaterial,
    read_materials,
    read_member,
    read_wavefront,
)

CATALOGUE = 'PluginFurnitureCatalog.properties'
FORMAT = 1  # of the cache; raise it when what comes out changes, of this or what it imports
MAX_PIXELS = 10**8  # of a picture
MAX_TRIANGLES = {'small': 1000, 'tree': 7000, 'plant': 6000, 'person': 4000}  # others 3000
FOLIAGE = ('tree', 'plant', 'fence')  # whose leaves may lie elsewhere
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
                header, entries = _catalogue(read_member(archive, CATALOGUE))
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
    made = read_wavefront(read_member(archive, path))
    vertices = _upright(made.vertices, entry.get('modelRotation', ''), size)
    materials = read_materials(archive, path, made.libraries)
    used = [materials.get(n, ModelMaterial()) for n in made.materials]
    corners = vertices[made.faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    if role == 'car':  # whose panes are dark rather than not there
        used = [m if m.opacity >= OPAQUE else ModelMaterial((0.02, 0.022, 0.025)) for m in used]
    solid = np.array([m.opacity >= OPAQUE for m in used])[made.material]
    if area[~solid].sum() > MOSTLY_GLASS * area.sum():
        raise _Unfit('glass')
    keep = solid & (area > 1e-10)
    budget = MAX_TRIANGLES.get(role, 3000)
    images = [pictures.find(archive, m.picture) for m in used]
    faces, uv, material = made.faces[keep], made.uv[keep], made.material[keep]
    for i, image in enumerate(images):
        if image is not None and image.alpha is not None:
            vertices, faces, uv, material = cut_out(
                (vertices, faces, uv, material), i, image.alpha, budget
            )
    if len(faces) < 4:
        raise _Unfit('nothing_solid')
    mesh = vertices, faces, uv, material
    if len(faces) > budget:
        fewer = simplified(mesh, budget) if role in FOLIAGE else alike(mesh, budget, size)
        if fewer is None or len(fewer[1]) > FAR_TOO_MANY * budget:
            raise _Unfit('too_detailed')
        mesh = fewer
    (vertices, faces, uv, material), top = seen_from_outside(mesh, size)
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
        data = read_member(archive, member)
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
