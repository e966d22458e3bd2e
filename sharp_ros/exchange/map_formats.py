"""Further formats of a map that is being saved, and of a snapshot; see `output.formats`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
import fcntl
import json
import os
from pathlib import Path
import re
import shutil
import sys
import tempfile
import time

import numpy as np

from sharp_ros.errors import InputError, SharpError
from sharp_ros.exchange.scene import Cloud, read_scene, Scene, SH_C0, Splats
from sharp_ros.exchange.scene_files import FORMATS, write_scene
from sharp_ros.mapping.map_files import by_another_process, end_with
from sharp_ros.snapshot import SnapshotCloud

_ARRAYS = 'snapshot.npz'  # of a snapshot, in a folder of its own
_HIDDEN, _LOCK = '.snapshot_', 'lock'  # such a folder, and who holds this in it is alive
_OURS = re.compile(rf'{_LOCK}|{_ARRAYS}|\.?snapshot_\d{{4}}-\d\d-\d\dT.*')
_YOUNG = 60.0  # seconds in which a folder may not be locked yet
_OPACITY = 5.0  # logit
_FLAT = 0.1  # thickness of a point that became a Gaussian, of its width
_WIDTH = 0.6  # its standard deviation along the surface, in pixels: neighbours join


def write_formats(
    folder: Path, suffixes: Sequence[str], given_up: Callable[[], bool] = lambda: False
) -> list[str]:
    """Write more files into the folder of a map, by another process.

    They are gaussians, mesh or cloud by name; a .ply is there already.

    Args:
        folder: of a map, complete.
        suffixes: of `scene_files.FORMATS`.
        given_up: asked from time to time whether to leave off.

    Returns:
        What could not be written, and why: a map is worth more than a format of it.

    Raises:
        InputError: `cannot_save` if it was given up.
    """
    wanted = [suffix for suffix in suffixes if suffix != '.ply']
    if not wanted:
        return []
    what = 'further formats of the map'
    try:
        said = by_another_process(__name__, (str(folder), *wanted), what, given_up)
        return json.loads(said.splitlines()[-1])
    except (InputError, OSError, ValueError, IndexError) as error:
        if given_up():
            raise
        return [f'no {" ".join(wanted)}: {error}']


def _write_each(folder: Path, suffixes: Sequence[str]) -> list[str]:
    complaints: list[str] = []
    for suffix in suffixes:
        wanted = FORMATS[suffix].wanted
        try:
            scene = read_scene(folder, wanted)
            points = wanted[0] == 'cloud' or isinstance(scene.content, Cloud)
            gaussians = isinstance(scene.content, Splats)
            name = 'cloud' if points else 'gaussians' if gaussians else 'mesh'
            write_scene(folder / f'{name}{suffix}', scene)
        except Exception as error:  # of any library, or a full disk: the map is worth more
            reason = _complaint(suffix, error)
            complaints.append(reason.replace(f'{folder}{os.sep}', '').replace(str(folder), 'it'))
    return complaints


def save_snapshot(
    directory: Path,
    cloud: SnapshotCloud,
    suffixes: Sequence[str],
    given_up: Callable[[], bool] = lambda: False,
) -> tuple[list[Path], list[str]]:
    """Write a snapshot into files named by the time, UTC, by another process.

    Where a format holds Gaussians alone, each point becomes a flat one that lies in the surface.

    Args:
        directory: parents are made.
        cloud: in the frame of the camera.
        suffixes: of `scene_files.FORMATS`.
        given_up: asked from time to time whether to leave off.

    Returns:
        The files, and what could not be written, and why.

    Raises:
        InputError: `cannot_save` if the folder cannot be written, or it was given up.
    """
    directory = directory.expanduser().absolute()
    stem = directory / f'snapshot_{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%S-%f}'
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _tidy(directory)
        with _hidden_folder(directory) as hidden:
            arrays = {name: getattr(cloud, name) for name in ('points', 'colors', 'normals')}
            np.savez(hidden / _ARRAYS, fx=cloud.intrinsics.fx, **arrays)
            arguments = (str(hidden), stem.name, *suffixes)
            said = by_another_process(__name__, arguments, 'the snapshot', given_up)
            files = [f'{stem.name}{suffix}' for suffix in suffixes]
            files = [name for name in files if (hidden / name).exists()]
            for name in files:
                (hidden / name).rename(directory / name)
    except OSError as error:
        raise InputError(
            f'the snapshot cannot be saved to {directory}: {error}; make room there, or save '
            'elsewhere (output.directory)',
            'cannot_save',
        ) from error
    return [directory / name for name in files], json.loads(said.splitlines()[-1])


@contextmanager
def _hidden_folder(directory: Path) -> Iterator[Path]:
    """Where a snapshot is made, with a lock in it that ends with this process, however it ends."""
    with (
        tempfile.TemporaryDirectory(prefix=_HIDDEN, dir=directory) as hidden,
        (Path(hidden) / _LOCK).open('w') as lock,
    ):
        with suppress(OSError):  # file systems without locks, where none is removed either
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(hidden)


def _tidy(directory: Path) -> None:
    """Remove the hidden folders of killed processes: with our files alone, old, and not locked."""
    for folder in directory.glob(f'{_HIDDEN}*'):
        with suppress(OSError):  # locked; or not ours, or removed by another process meanwhile
            ours = all(_OURS.fullmatch(name) for name in os.listdir(folder))
            if ours and not folder.is_symlink() and time.time() - folder.stat().st_mtime > _YOUNG:
                with (folder / _LOCK).open('a') as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)


def _write_snapshot(folder: Path, stem: str, suffixes: Sequence[str]) -> list[str]:
    with np.load(folder / _ARRAYS) as file:
        points = Cloud(file['points'], file['colors'], file['normals'])
        fx = float(file['fx'])
    complaints: list[str] = []
    for suffix in suffixes:
        try:
            content = points if 'cloud' in FORMATS[suffix].wanted else surfels(points, fx)
            write_scene(folder / f'{stem}{suffix}', Scene(content, '-y', from_camera=True))
        except Exception as error:  # as for maps: one format costs no other
            complaints.append(_complaint(suffix, error).replace(f'{folder}{os.sep}', ''))
    return complaints


def _complaint(suffix: str, error: Exception) -> str:
    return f'no {suffix}: {error if isinstance(error, (SharpError, OSError)) else repr(error)}'


def surfels(cloud: Cloud, fx: float) -> Splats:
    """Flat Gaussians as wide as the pixels of a snapshot, in its surface.

    Args:
        cloud: in the frame of the camera, with colours and normals.
        fx: focal length, pixels.
    """
    assert cloud.colors is not None
    assert cloud.normals is not None
    n = len(cloud)
    width = cloud.positions[:, 2] * (_WIDTH / fx)
    rows = np.empty((n, 14), np.float32)
    rows[:, :3] = cloud.positions
    rows[:, 3:6] = (cloud.colors / np.float32(255) - 0.5) / SH_C0
    rows[:, 6] = _OPACITY
    rows[:, 7:10] = np.log(width)[:, None] + np.log(np.array([1, 1, _FLAT], np.float32))
    # the shortest rotation from z to the normal, whose sign does not matter
    normals = np.where(cloud.normals[:, 2:] < 0, -cloud.normals, cloud.normals)
    rows[:, 10], rows[:, 11] = 1 + normals[:, 2], -normals[:, 1]
    rows[:, 12], rows[:, 13] = normals[:, 0], 0
    return Splats(rows)


if __name__ == '__main__':
    end_with(int(sys.argv[1]))
    os.nice(10)  # the map may be saved while a robot drives
    folder = Path(sys.argv[2])
    if (folder / _ARRAYS).is_file():
        found = _write_snapshot(folder, sys.argv[3], sys.argv[4:])
    else:
        found = _write_each(folder, sys.argv[3:])
    print(json.dumps(found))
