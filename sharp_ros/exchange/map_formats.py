"""Further formats of a map that is being saved, and of a snapshot; see `output.formats`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
import json
import os
from pathlib import Path
import sys
import tempfile

import numpy as np

from sharp_ros.errors import InputError, SharpError
from sharp_ros.exchange.scene import Cloud, read_scene, Scene, SH_C0, Splats
from sharp_ros.exchange.scene_files import FORMATS, write_scene
from sharp_ros.mapping.map_files import by_another_process, end_with
from sharp_ros.snapshot import SnapshotCloud

_ARRAYS = 'snapshot.npz'  # of a snapshot, in a folder of its own
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
        with tempfile.TemporaryDirectory(prefix='.snapshot_', dir=directory) as hidden:
            arrays = {name: getattr(cloud, name) for name in ('points', 'colors', 'normals')}
            np.savez(Path(hidden) / _ARRAYS, fx=cloud.intrinsics.fx, **arrays)
            arguments = (hidden, str(stem), *suffixes)
            said = by_another_process(__name__, arguments, 'the snapshot', given_up)
    except OSError as error:
        raise InputError(
            f'the snapshot cannot be saved to {directory}: {error}; make room there, or save '
            'elsewhere (output.directory)',
            'cannot_save',
        ) from error
    complaints = json.loads(said.splitlines()[-1])
    files = [stem.with_name(f'{stem.name}{suffix}') for suffix in suffixes]
    return [file for file in files if file.exists()], complaints


def _write_snapshot(arrays: Path, stem: Path, suffixes: Sequence[str]) -> list[str]:
    with np.load(arrays) as file:
        points = Cloud(file['points'], file['colors'], file['normals'])
        fx = float(file['fx'])
    complaints: list[str] = []
    for suffix in suffixes:
        try:
            content = points if 'cloud' in FORMATS[suffix].wanted else surfels(points, fx)
            path = stem.with_name(f'{stem.name}{suffix}')
            write_scene(path, Scene(content, '-y', from_camera=True))
        except Exception as error:  # as for maps: one format costs no other
            complaints.append(_complaint(suffix, error))
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
        found = _write_snapshot(folder / _ARRAYS, Path(sys.argv[3]), sys.argv[4:])
    else:
        found = _write_each(folder, sys.argv[3:])
    print(json.dumps(found))
