"""Scenes as other programs know them: Gaussians, points or a mesh, and which way is up."""

from __future__ import annotations

from dataclasses import dataclass, replace
import json
from pathlib import Path
from typing import Literal

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.gaussians import load_ply_intrinsics, load_rows, VERTEX
from sharp_ros.ply import PlyFile, read_ply

Up = Literal['y', 'z', '-y']
What = Literal['gaussians', 'mesh', 'cloud']
UPS: tuple[Up, ...] = ('y', 'z', '-y')

SOLID = 0.5  # opacity from which the centre of a Gaussian counts as a point of a surface
_FROM_CAMERA = 'seen from the origin'  # a comment in PLY files
SH_C0 = 0.28209479177387814
_IN_MAP: dict[What, str] = {
    'gaussians': 'gaussians.ply',
    'mesh': 'mesh.ply',
    'cloud': 'cloud.ply',
}
# Quarter turns about x that take what is up from z, the same for every target, and back
_TURNS_FROM_Z: dict[Up, int] = {'z': 0, 'y': -1, '-y': 1}


@dataclass(frozen=True)
class Splats:
    """3D Gaussians.

    Attributes:
        rows: [N, 14] float32, as in a 3DGS file, see `gaussians.VERTEX`.
    """

    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def positions(self) -> np.ndarray:  # [N, 3] float32, metres
        """Centres."""
        return self.rows[:, :3]

    @property
    def srgb(self) -> np.ndarray:  # [N, 3] float32, 0..1
        """Colours, encoded."""
        return np.clip(self.rows[:, 3:6] * np.float32(SH_C0) + np.float32(0.5), 0, 1)

    @property
    def opacities(self) -> np.ndarray:  # [N] float32, 0..1
        """Opacities."""
        return 1 / (1 + np.exp(-self.rows[:, 6]))

    @property
    def scales(self) -> np.ndarray:  # [N, 3] float32, metres
        """Standard deviations along the local axes."""
        return np.exp(self.rows[:, 7:10])

    @property
    def quats(self) -> np.ndarray:  # [N, 4] float32
        """Unit quaternions wxyz."""
        quats = self.rows[:, 10:]
        return quats / np.linalg.norm(quats, axis=1, keepdims=True)

    def turned(self, quarters: int) -> Splats:
        """Turned about x by so many right angles."""
        rows = self.rows.copy()
        rows[:, :3] = _turned(rows[:, :3], quarters)
        half = np.float32(quarters % 4 * np.pi / 4)
        c, s = np.cos(half), np.sin(half)
        w, x, y, z = self.rows[:, 10:].T
        rows[:, 10:] = np.stack((c * w - s * x, c * x + s * w, c * y - s * z, c * z + s * y), 1)
        return Splats(rows)

    def cloud(self) -> Cloud:
        """Centres of those that are solid, see `SOLID`."""
        solid = Splats(self.rows[self.rows[:, 6] >= np.log(SOLID / (1 - SOLID))])
        return Cloud(solid.positions, (solid.srgb * 255 + 0.5).astype(np.uint8))


@dataclass(frozen=True)
class Cloud:
    """Points.

    Attributes:
        positions: [N, 3] float32, metres.
        colors: [N, 3] uint8 sRGB, or None.
        normals: [N, 3] float32, unit, or None.
    """

    positions: np.ndarray
    colors: np.ndarray | None = None
    normals: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def turned(self, quarters: int) -> Cloud:
        """Turned about x by so many right angles."""
        normals = None if self.normals is None else _turned(self.normals, quarters)
        return replace(self, positions=_turned(self.positions, quarters), normals=normals)


@dataclass(frozen=True)
class Mesh:
    """Triangles.

    Attributes:
        positions: [N, 3] float32 of the corners, metres.
        triangles: [F, 3] int32, anticlockwise seen from outside.
        colors: [N, 3] uint8 sRGB, or None.
    """

    positions: np.ndarray
    triangles: np.ndarray
    colors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def turned(self, quarters: int) -> Mesh:
        """Turned about x by so many right angles."""
        return replace(self, positions=_turned(self.positions, quarters))

    def cloud(self) -> Cloud:
        """The corners."""
        return Cloud(self.positions, self.colors)


@dataclass(frozen=True)
class Scene:
    """Something to be seen.

    Attributes:
        content: in metres.
        up: the axis that points up.
        from_camera: whether a camera stood at the origin, which is then where to look from.
        photo: intrinsics of the photo that Gaussians were made from, if that is known.
        comments: more that a PLY file of it keeps.
    """

    content: Splats | Cloud | Mesh
    up: Up
    from_camera: bool = False
    photo: Intrinsics | None = None
    comments: tuple[str, ...] = ()

    def all_comments(self) -> tuple[str, ...]:
        """Lines of a PLY file from which `read_scene` has it all back."""
        return (*self.comments, *([_FROM_CAMERA] if self.from_camera else []), f'up {self.up}')

    def most(self, number: int) -> Scene:
        """Of Gaussians so many at most: those that cover most; all of anything else."""
        if not isinstance(self.content, Splats) or len(self.content) <= number:
            return self
        rows = self.content.rows
        # the logarithm of opacity times the area of the larger two axes
        size = -np.logaddexp(0, -rows[:, 6]) + rows[:, 7:10].sum(1) - rows[:, 7:10].min(1)
        kept = np.argpartition(-size, number)[:number]
        return replace(self, content=Splats(rows[np.sort(kept)]))

    def with_up(self, up: Up) -> Scene:
        """The same, turned about x so that another axis points up."""
        quarters = _TURNS_FROM_Z[up] - _TURNS_FROM_Z[self.up]
        if not quarters % 4:
            return self
        # what a local origin is in the world holds for axes of the world only
        comments = tuple(c for c in self.comments if not c.startswith(('frame ', 'origin ')))
        return replace(self, content=self.content.turned(quarters), up=up, comments=comments)


def _turned(vectors: np.ndarray, quarters: int) -> np.ndarray:  # [N, 3] -> [N, 3]
    x, y, z = vectors.T
    y, z = ((y, z), (-z, y), (-y, -z), (z, -y))[quarters % 4]
    return np.stack((x, y, z), 1)


_KINDS: dict[type, What] = {Splats: 'gaussians', Mesh: 'mesh', Cloud: 'cloud'}


def read_scene(path: Path, wanted: tuple[What, ...]) -> Scene:
    """A scene from a PLY file, or from the folder of a map.

    Up is what a comment `up` of the file says, else z in the folder of a map, as `save_map` makes
    it, and -y elsewhere, as in the frame of a camera.

    Args:
        path: of either.
        wanted: from a map, the first of these that it holds.

    Raises:
        ConfigError: if there is nothing of that name.
        InputError: `bad_ply` if the file cannot be read or holds none of them.
    """
    if path.is_dir():
        if not (path / 'about.json').is_file():
            raise ConfigError(f'{path} is no folder of a map: it holds no about.json')
        found = [path / _IN_MAP[w] for w in wanted if (path / _IN_MAP[w]).is_file()]
        if not found:
            names = ' nor '.join(_IN_MAP[w] for w in wanted)
            raise InputError(f'the map {path} holds no {names}; map with them enabled', 'bad_ply')
        path = found[0]
    elif not path.exists():
        raise ConfigError(f'{path} does not exist; give a .ply file or the folder of a map')
    file = read_ply(path)
    content = _content(path, file)
    kind = _KINDS[type(content)]
    if kind not in wanted:
        if kind == 'cloud':  # its reader knows best what is missing
            load_rows(path)
        raise InputError(f'{path} holds a {kind}, no {" nor ".join(wanted)}', 'bad_ply')
    said = [line[3:] for line in file.comments if line.startswith('up ')]
    in_map = _in_map(path)
    up: Up = 'z' if in_map else '-y'
    for known in UPS:
        up = known if said[-1:] == [known] else up
    from_camera = _FROM_CAMERA in file.comments or not (said or in_map)
    ours = (_FROM_CAMERA, *(f'up {u}' for u in UPS))
    kept = tuple(line for line in file.comments if line not in ours)
    photo = load_ply_intrinsics(path) if 'intrinsic' in file.elements else None
    return Scene(content, up, from_camera, photo, kept)


def _in_map(path: Path) -> bool:
    about = path.absolute().parent / 'about.json'
    try:
        return about.is_file() and 'world_frame' in json.loads(about.read_text('utf-8'))
    except (OSError, ValueError):
        return False


def _content(path: Path, file: PlyFile) -> Splats | Cloud | Mesh:
    vertex = file.elements.get('vertex')
    names = set() if vertex is None else set(vertex.dtype.names or ())
    if vertex is None or not {'x', 'y', 'z'} <= names or names & {*VERTEX[3:], 'packed_position'}:
        return Splats(load_rows(path))
    if file.has_faces:
        return _read_mesh(path)
    if not len(vertex):
        raise InputError(f'{path} holds no points', 'bad_ply')

    def columns(wanted: str, dtype: type) -> np.ndarray | None:
        found = wanted.split()
        if not set(found) <= names:
            return None
        return np.stack([vertex[name].astype(dtype) for name in found], 1)

    positions = columns('x y z', np.float32)
    assert positions is not None
    finite = np.asarray(np.isfinite(positions).all(1))
    if not finite.any():
        raise InputError(f'{path} holds {len(finite)} points, none finite', 'bad_ply')
    colors, normals = columns('red green blue', np.uint8), columns('nx ny nz', np.float32)
    return Cloud(
        positions[finite],
        None if colors is None else colors[finite],
        None if normals is None else normals[finite],
    )


def _read_mesh(path: Path) -> Mesh:
    try:
        import open3d
    except ImportError as error:
        raise ConfigError(f'{path} is a mesh, which open3d reads; pip install open3d') from error
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        mesh = open3d.io.read_triangle_mesh(path)
    positions = np.asarray(mesh.vertices, np.float32)
    triangles = np.asarray(mesh.triangles, np.int32)
    if not len(triangles) or not np.isfinite(positions).all():
        raise InputError(f'{path} holds no mesh that can be read', 'bad_ply')
    colors = None
    if mesh.has_vertex_colors():
        colors = (np.asarray(mesh.vertex_colors) * 255 + 0.5).astype(np.uint8)
    return Mesh(positions, triangles, colors)
