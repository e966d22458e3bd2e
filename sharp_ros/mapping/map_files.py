"""A map as a folder: files that planners and viewers read, and one that goes on with it.

    map.pgm, map.yaml   the grid for nav2's map_server, which overlooks our verdict on the map
    occupied.ply        centres of the occupied voxels
    cloud.ply, mesh.ply the coloured surface, where `surface_map.enabled`
    gaussians.ply       where `gaussian_map.enabled`
    transforms.json, images/, points.ply  a scene of nerfstudio, where `keyframe.keep_images`
    trajectory.txt      path of the camera, TUM format
    config.yaml         effective configuration
    about.json          where, when, how much, by which model, how good
    state.npz           for `load_map`

A folder appears when all of it is on the disk. Whatever happens before, a full disk or the end of
the process, the maps that are there stay as they are. PLY files hold metres as float32, which is
what other tools expect: where the map has a local origin they count from there, and tell it in
comments `frame` and `origin`, as other files do. Grid and trajectory are in the world anywhere.
One module, so that the two directions of the format, writing and reading, stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
import ctypes
from dataclasses import dataclass, replace
from datetime import datetime, timezone
import fcntl
import io
import json
import math
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
from typing import Any
import zipfile
import zlib

import numpy as np
import yaml

from sharp_ros import __version__
from sharp_ros.config import GaussianMapConfig, load_yaml, SharpConfig, to_yaml
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.files import new_folder, regular_file, replace_symlink
from sharp_ros.gaussians import save_ply, srgb_bytes
from sharp_ros.mapping.gaussian_map import GaussianMap
from sharp_ros.mapping.keyframes import Keyframe, POINTS, write_scene
from sharp_ros.mapping.local_origin import LocalOrigin, OF_WORLD
from sharp_ros.mapping.occupancy import (
    FREE,
    OccupancyGrid2D,
    OccupancyMap,
    OCCUPIED,
    UNKNOWN,
)
from sharp_ros.mapping.path import tum_text
from sharp_ros.mapping.stored import bad_map, stored_array, stored_poses
from sharp_ros.mapping.surface_map import SurfaceMap
from sharp_ros.mapping.verdict import Verdict
from sharp_ros.ply import write_ply
from sharp_ros.se3 import is_near

LATEST = 'latest'

# map_server reads a pixel v as p = (255 - v) / 255: occupied if p > occupied_thresh, free if
# p < free_thresh, else unknown. The 0.25 that its own saver writes would make free what is unknown
# (205: p = 0.196), so ours lies halfway between that and free (254: p = 0.004).
_PIXEL_UNKNOWN, _PIXEL_FREE, _PIXEL_OCCUPIED = 205, 254, 0
_THRESHOLDS = {'occupied_thresh': 0.65, 'free_thresh': 0.1}
_MARGIN = 5  # cells around what is known

_FORMAT, _LOCAL_FORMAT = 1, 2  # of state.npz; the second with an origin, which former ones ignore
_PR_SET_PDEATHSIG = 1  # of Linux
_PARTS = ('occupancy', 'gaussians', 'surface', 'odometry')
_LOOK_UP = 0.1  # seconds between two looks at whether a save was given up
_LARGEST_TEXT = 1 << 20  # bytes of a text file that is read
_LARGEST_STATE = 4 << 30  # bytes of state.npz, unpacked; beyond all sensible bounds of the maps


@dataclass(frozen=True)
class MapState:
    """All that a map is. Its arrays are copies, any thread may use them.

    Attributes:
        config: it was made with.
        world_frame: of the map.
        stamp_ns: of the newest frame.
        visual: whether the pipeline's own visual odometry placed it.
        occupancy: of `OccupancyMap.state`.
        gaussians: of `GaussianMap.state`, None where it is off.
        surface: of `SurfaceMap.state`, None where it is off.
        odometry: of `VisualOdometry.state`, None where not visual.
        path_stamps_ns: [N] int64.
        path: [N, 4, 4] `T_world_camera`.
        about: what else is worth knowing, for about.json.
        verdict: on the map, if there is one; it is written, but not read.
        origin: of the coordinates in the three maps; the path is in the world.
        keyframes: images that were kept; they are written, but not read.
    """

    config: SharpConfig
    world_frame: str
    stamp_ns: int
    visual: bool
    occupancy: Mapping[str, np.ndarray]
    gaussians: Mapping[str, np.ndarray] | None
    surface: Mapping[str, np.ndarray] | None
    odometry: Mapping[str, np.ndarray] | None
    path_stamps_ns: np.ndarray
    path: np.ndarray
    about: Mapping[str, str]
    verdict: Verdict | None = None
    origin: LocalOrigin = OF_WORLD
    keyframes: Sequence[Keyframe] = ()


def save_map(
    folder: Path,
    state: MapState,
    given_up: Callable[[], bool] = lambda: False,
    finish: Callable[[Path], object] = lambda _: None,
) -> list[Path]:
    """Write a map into a folder, which must not exist or be empty; all of it or nothing.

    Extracts surface and mesh, which takes seconds: not for the thread that maps.

    Args:
        folder: parents are made.
        state: of the map.
        given_up: asked from time to time whether to leave off.
        finish: may put more files into the folder, which is complete but hidden still.

    Returns:
        The files.

    Raises:
        InputError: `cannot_save` if the folder holds something or cannot be written, or if it was
            given up.
    """
    folder = Path(folder).expanduser().absolute()
    with _saving(folder):
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f'{folder} is not empty; name a new folder', 'cannot_save')
        with new_folder(folder) as partial:
            _write(partial, state, given_up)
            finish(partial)
        return sorted(folder.iterdir())


def save_new_map(
    directory: Path,
    state: MapState,
    given_up: Callable[[], bool] = lambda: False,
    finish: Callable[[Path], object] = lambda _: None,
) -> Path:
    """Write a map into a new folder named by the time, UTC, and let `latest` point there.

    Processes that save to the same directory wait for each other.

    Args:
        directory: parents are made.
        state: of the map.
        given_up: as for `save_map`.
        finish: likewise.

    Returns:
        The folder.

    Raises:
        InputError: `cannot_save` as `save_map`; `latest` is then as it was.
    """
    directory = Path(directory).expanduser().absolute()
    latest = directory / LATEST
    with _saving(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / '.lock', 'a', opener=_no_symlink) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, however that ends
            if latest.exists() and not latest.is_symlink():
                raise InputError(f'{latest} is in the way; rename it', 'cannot_save')
            for left_over in directory.glob('.map_*.partial'):
                shutil.rmtree(left_over, ignore_errors=True)
            name = f'map_{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%S}'
            folder, number = directory / name, 1
            while folder.exists():
                number += 1
                folder = directory / f'{name}_{number}'
            save_map(folder, state, given_up, finish)
            replace_symlink(latest, folder.name)
    return folder


def load_map(folder: Path) -> MapState:
    """Read a map that was saved.

    Whether it fits a configuration is found by the maps that it is restored into, and whether
    their parts are sound.

    Raises:
        InputError: `bad_map` if there is none, or if it is damaged.
    """
    folder = Path(folder).expanduser().resolve()  # `latest` may change meanwhile
    about = _read_about(folder / 'about.json')
    arrays = _read_arrays(folder / 'state.npz')
    path = stored_poses(arrays, 'path')
    stamps_ns = stored_array(arrays, 'path_stamps_ns', np.int64, (len(path),))
    parts = {
        part: {k[len(part) + 1 :]: a for k, a in arrays.items() if k.startswith(f'{part}/')}
        for part in _PARTS
    }
    return MapState(
        config=_read_config(folder / 'config.yaml'),
        world_frame=about['world_frame'],
        stamp_ns=about['stamp_ns'],
        visual=about['visual'],
        occupancy=parts['occupancy'],
        gaussians=parts['gaussians'] or None,
        surface=parts['surface'] or None,
        odometry=parts['odometry'] or None,
        path_stamps_ns=stamps_ns,
        path=path,
        about=about['about'],
        origin=_read_origin(arrays, about['format']),
    )


def map_folder(directory: Path, name: str) -> Path:
    """The folder of a map below a directory.

    Args:
        directory: that services may read.
        name: of the folder, relative to it; may be a symlink, as `latest` is.

    Raises:
        InputError: `outside_output` for a name that leads out of the directory.
    """
    directory = Path(directory).expanduser().resolve()
    relative = Path(name)
    if not relative.is_absolute() and '..' not in relative.parts:
        with suppress(OSError, RuntimeError, ValueError):  # a loop of symlinks, or no name at all
            folder = (directory / relative).resolve()
            if directory in folder.parents:
                return folder
    raise InputError(f'{name!r} is no folder below {directory}; name one', 'outside_output')


def _no_symlink(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextmanager
def _saving(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f'the map cannot be saved to {place}: {error}; make room there, or save elsewhere '
            '(output.directory). Maps that were saved before are as they were',
            'cannot_save',
        ) from error


def _write(folder: Path, state: MapState, given_up: Callable[[], bool]) -> None:
    config = state.config
    occupancy = OccupancyMap(config.occupancy)
    occupancy.restore(state.occupancy)
    occupied = occupancy.occupied_points()
    sizes = {'occupied_voxels': len(occupied)}
    comments = state.origin.comments(state.world_frame)
    _write_grid(folder, occupancy.grid(), state.origin, state.verdict)
    _write_ply(folder / 'occupied.ply', occupied, comments=comments)
    if state.gaussians is not None:
        sizes |= _write_gaussians(folder, config.gaussian_map, state, comments)
    trajectory = tum_text(state.path_stamps_ns, state.path, comments)
    _write_text(folder / 'trajectory.txt', trajectory)
    _write_text(folder / 'config.yaml', to_yaml(config))
    arrays = {'path_stamps_ns': state.path_stamps_ns, 'path': state.path}
    local = {} if state.origin.is_world else {'local_origin': state.origin.position}
    for part in _PARTS:
        stored = getattr(state, part)
        arrays |= {f'{part}/{name}': array for name, array in (stored or {}).items()}
    _write_arrays(folder / 'state.npz', arrays | local)
    if state.surface is not None:
        sizes |= _surface_by_another_process(folder, comments, given_up)
    length = np.linalg.norm(np.diff(state.path[:, :3, 3], axis=0), axis=1).sum()
    about = {
        'software': f'sharp_ros {__version__}',
        'format': _LOCAL_FORMAT if local else _FORMAT,
        'world_frame': state.world_frame,
        **{name: position.tolist() for name, position in local.items()},
        'stamp_ns': state.stamp_ns,
        'visual': state.visual,
        'poses': len(state.path),
        'path_length_m': round(float(length), 3),
        **sizes,
        **({} if state.verdict is None else {'verdict': state.verdict.as_dict()}),
        'about': dict(state.about),
    }
    _write_text(folder / 'about.json', json.dumps(about, indent=2, ensure_ascii=False) + '\n')


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding='utf-8')


def _write_grid(
    folder: Path, grid: OccupancyGrid2D, local: LocalOrigin, verdict: Verdict | None
) -> None:
    """The part of a grid that is known, for map_server, which asks for the keys it knows."""
    known = grid.cells != UNKNOWN
    known[0, 0] |= not known.any()  # a map of one unknown cell is one
    box = []
    for axis in (1, 0):
        inside = np.flatnonzero(known.any(axis))
        box.append((max(int(inside[0]) - _MARGIN, 0), int(inside[-1]) + 1 + _MARGIN))
    (bottom, top), (left, right) = box
    cells = grid.cells[bottom:top, left:right]
    pixels = np.full(cells.shape, _PIXEL_UNKNOWN, np.uint8)
    pixels[cells == FREE] = _PIXEL_FREE
    pixels[cells == OCCUPIED] = _PIXEL_OCCUPIED
    height, width = cells.shape
    image = b'P5\n%d %d\n255\n' % (width, height) + pixels[::-1].tobytes()  # top row: largest y
    (folder / 'map.pgm').write_bytes(image)
    origin = local.in_world(grid.origin)
    x, y = (round(o + i * grid.resolution, 9) for o, i in zip(origin, (left, bottom), strict=True))
    about = {
        'image': 'map.pgm',
        'mode': 'trinary',
        'resolution': grid.resolution,
        'origin': [x, y, 0.0],
        'negate': 0,
        **_THRESHOLDS,
        **({} if local.is_world else {'local_origin': local.position.tolist()}),
        **({} if verdict is None else {'verdict': verdict.as_dict()}),
    }
    _write_text(folder / 'map.yaml', yaml.safe_dump(about, sort_keys=False))


def _surface_by_another_process(
    folder: Path, comments: Sequence[str] = (), given_up: Callable[[], bool] = lambda: False
) -> dict[str, int]:
    """Cloud and mesh from the files written so far; their sizes."""
    what = 'the surface of the map'
    return json.loads(by_another_process(__name__, (str(folder), *comments), what, given_up))


def by_another_process(
    module: str, arguments: Sequence[str], what: str, given_up: Callable[[], bool]
) -> str:
    """Run a module that writes files of a map; what it printed.

    Libraries hold the lock of the interpreter while they make a surface or pack Gaussians, for a
    second and more, in which this process would not see an image, nor the wish that it end.

    Args:
        module: whose first arguments are the id of this process, see `end_with`, and a folder.
        arguments: the folder and more.
        what: is written.
        given_up: asked from time to time whether to leave off.

    Raises:
        InputError: `cannot_save` if it failed or was given up.
    """
    command = [sys.executable, '-m', module, str(os.getpid()), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd='/') as process:
        while True:
            try:
                said, errors = process.communicate(timeout=_LOOK_UP)
                break
            except subprocess.TimeoutExpired:
                if given_up():
                    process.kill()
                    raise InputError(f'{what} is not saved: given up', 'cannot_save') from None
    if process.returncode:
        last = errors.strip().splitlines()[-1:] or [f'exit code {process.returncode}']
        raise InputError(f'{what} cannot be saved: {last[0]}', 'cannot_save')
    return said


def _write_surface(folder: Path, comments: Sequence[str]) -> dict[str, int]:
    """Extracted on the CPU wherever the map is."""
    arrays = _read_arrays(folder / 'state.npz')
    state = {k.partition('/')[2]: a for k, a in arrays.items() if k.startswith('surface/')}
    blocks = len(stored_array(state, 'keys', np.int32, (None, 3)))
    settings = _read_config(folder / 'config.yaml').surface_map
    surface = SurfaceMap(replace(settings, device='cpu', max_blocks=max(1, blocks)))
    surface.restore(state)
    points, colors, normals = surface.point_cloud()
    _write_ply(folder / 'cloud.ply', points, colors, normals, comments=comments)
    vertices, triangles, colors = surface.mesh()
    _write_ply(folder / 'mesh.ply', vertices, colors, triangles=triangles, comments=comments)
    return {'surface_points': len(points), 'triangles': len(triangles)}


def _write_gaussians(
    folder: Path,
    config: GaussianMapConfig,
    state: MapState,
    comments: Sequence[str],
) -> dict[str, int]:
    assert state.gaussians is not None
    fused = GaussianMap(config)
    fused.restore(state.gaussians)
    gaussians = fused.gaussians()
    save_ply(folder / 'gaussians.ply', gaussians, comments=comments, plain=True)
    if not state.keyframes:
        return {'gaussians': len(fused)}
    write_scene(folder, state.keyframes, comments)
    a = gaussians.arrays
    _write_ply(folder / POINTS, a.means, srgb_bytes(a.colors), comments=comments)
    return {'gaussians': len(fused), 'keyframes': len(state.keyframes)}


def _write_ply(path: Path, *columns: Any, **more: Any) -> None:
    with path.open('wb') as file:
        write_ply(file, *columns, **more)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """As `np.savez_compressed`, but at the fastest level: what is unknown is 0 and packs well."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                ordered = np.asarray(array, order='C')
                np.lib.format.write_array(member, ordered, (1, 0), allow_pickle=False)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read-only arrays of numbers; sizes are checked before anything is unpacked."""
    try:
        with zipfile.ZipFile(regular_file(path)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > _LARGEST_STATE:
                raise bad_map(f'{path} would take more than {_LARGEST_STATE >> 30} GiB of memory')
            if any(m.compress_type not in (0, zipfile.ZIP_DEFLATED) for m in members):
                raise bad_map(f'{path} is packed in an unknown way; save the map anew')
            return {
                member.filename.removesuffix('.npy'): _array(archive.read(member))
                for member in members
            }
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise bad_map(f'{path} cannot be read: {error}; save a map, or choose another') from error


def _array(data: bytes) -> np.ndarray:
    """What is in a .npy file, which shall not make us take more memory than it has."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError('it holds an array of another version')
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    start = stream.tell()
    if (
        fortran
        or dtype.kind not in 'iuf'
        or math.prod(shape) * dtype.itemsize != len(data) - start
    ):
        raise ValueError('it holds an array that is not as long as it claims, or of no numbers')
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


def _read_text(path: Path) -> str:
    try:
        with regular_file(path).open('rb') as file:
            data = file.read(_LARGEST_TEXT + 1)
        if len(data) > _LARGEST_TEXT:
            raise bad_map(f'{path} is too long for what it should hold')
        return data.decode('utf-8')
    except (OSError, ValueError) as error:
        raise bad_map(f'{path} cannot be read: {error}') from error


def _read_config(path: Path) -> SharpConfig:
    _read_text(path)
    try:
        return load_yaml(path)
    except ConfigError as error:
        raise bad_map(str(error)) from error


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise bad_map(f'{path} is no JSON: {error}') from error
    kinds = {'format': int, 'world_frame': str, 'stamp_ns': int, 'visual': bool, 'about': dict}
    for name, kind in kinds.items():
        if not isinstance(about, dict) or type(about.get(name)) is not kind:
            raise bad_map(f'{path} does not say "{name}" ({kind.__name__})')
    if about['format'] not in (_FORMAT, _LOCAL_FORMAT):
        raise bad_map(
            f'{path} names format {about["format"]}, this software reads {_FORMAT} and '
            f'{_LOCAL_FORMAT}; use the version that saved it'
        )
    return about


def end_with(parent: int) -> None:
    """End this process when the one that began it does, however that ends (Linux)."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had ended before
        sys.exit('the process that saves the map has ended')


def _read_origin(arrays: Mapping[str, np.ndarray], version: int) -> LocalOrigin:
    if version == _FORMAT:
        return OF_WORLD
    position = stored_array(arrays, 'local_origin', np.float64, (3,))
    if not is_near(position) or position[2]:
        raise bad_map(f'its origin {position} is nowhere on the floor; save the map anew')
    return LocalOrigin(*position[:2].tolist())


if __name__ == '__main__':
    end_with(int(sys.argv[1]))
    os.nice(10)  # the map may be saved while a robot drives
    print(json.dumps(_write_surface(Path(sys.argv[2]), sys.argv[3:])))
