"""Wavefront models (OBJ) and their materials (MTL), read from a zip file.

Members are read, never extracted. Only what a model needs to be seen: triangles, texture
coordinates, colours, pictures and what is transparent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
import math
import posixpath
from typing import NamedTuple
import zipfile

import numpy as np

MAX_MEMBER = 100 * 2**20  # bytes; larger members are not read


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's contents; ValueError if it is too large."""
    if archive.getinfo(name).file_size > MAX_MEMBER:
        raise ValueError(f'{name} is larger than {MAX_MEMBER} bytes')
    return archive.read(name)


class Wavefront(NamedTuple):
    """Triangles of a model: `material` [F] indexes the names `materials`; v of uv upwards."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    material: np.ndarray
    materials: list[str]
    libraries: list[str]


def read_wavefront(data: bytes) -> Wavefront:
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
    return Wavefront(vertices, corners, texture[look_up], made_of, list(materials), libraries)


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


class ModelMaterial(NamedTuple):
    """Of an MTL file: linear colour, share of light stopped, and the member with the picture."""

    colour: tuple[float, ...] = (0.6, 0.6, 0.6)
    opacity: float = 1.0
    picture: str | None = None


def read_materials(
    archive: zipfile.ZipFile, path: str, libraries: Sequence[str]
) -> dict[str, ModelMaterial]:
    """Materials by name.

    Args:
        archive: with the model.
        path: of the model in it; other members are named from its folder.
        libraries: MTL files that the model names; those that are missing are left out.
    """
    folder = posixpath.dirname(path)
    members = {name.lower(): name for name in archive.namelist()}

    def beside(name: str) -> str | None:
        name = name.strip().strip('"').replace('\\', '/')
        return members.get(posixpath.normpath(posixpath.join(folder, name)).lower())

    found: dict[str, ModelMaterial] = {}
    current = ''
    for library in libraries:
        member = beside(library)
        for line in read_member(archive, member).decode('latin-1').splitlines() if member else ():
            word, _, rest = line.strip().partition(' ')
            rest = rest.strip()
            made = found.get(current, ModelMaterial())
            if word == 'newmtl':
                current = rest
                found[current] = ModelMaterial()
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
