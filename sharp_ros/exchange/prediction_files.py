"""Depth and Gaussians of a photograph as files: npz, 16-bit PNG, coloured preview, PLY."""

from __future__ import annotations

from collections.abc import Iterable
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np

from sharp_ros.errors import ConfigError
from sharp_ros.exchange.scene import Scene, Splats, Up
from sharp_ros.exchange.scene_files import suffix_of, write_scene
from sharp_ros.files import write_atomically
from sharp_ros.gaussians import Gaussians, rows_of, save_ply
from sharp_ros.pictures.depth import depth_range, draw_preview
from sharp_ros.pictures.drawing import encode_picture

if TYPE_CHECKING:
    from sharp_ros.frame_result import FrameResult

PNG_MAX_RANGE = 65.535  # metres that 16 bits of millimetres can hold
ARRAYS, DEPTH, PREVIEW, GAUSSIANS = '_depth.npz', '_depth.png', '_preview.png', '.ply'


def result_files(stem: Path) -> list[Path]:
    """The files of one image, first the one by which ours are known."""
    return [stem.with_name(stem.name + end) for end in (ARRAYS, DEPTH, PREVIEW, GAUSSIANS)]


def refuse_foreign_results(stems: Iterable[Path]) -> None:
    """Refuse to replace what `save_prediction` did not write, such as the depth of a sensor.

    Args:
        stems: paths of the results without their endings.

    Raises:
        ConfigError: if a file is in the place of a result and is none.
    """
    for arrays, *others in map(result_files, stems):
        foreign = [] if arrays.exists() else [path for path in others if path.exists()]
        if foreign:
            raise ConfigError(
                f'{foreign[0]} would be replaced but is no result of this command, which would '
                f'have {arrays.name} beside it; choose another --output'
            )


def save_prediction(result: FrameResult, stem: Path, *, plain: bool = False) -> list[Path]:
    """Write depth (`_depth.npz`, `_depth.png`), `_preview.png` and `.ply`, all or none of them.

    The PNG holds 16-bit millimetres, 0 where there is no depth, 65535 from 65.535 m on. The npz
    holds `depth` [H, W] float32 metres (NaN: none), `log_depth_std` [H, W] float32 (absent if the
    model does not estimate it), `log_scale_std` of all of its metres together (likewise) and
    `intrinsics` (fx, fy, cx, cy in pixels, centres at integers).

    Args:
        result: of a pipeline.
        stem: path of the results without their endings; its folder is made.
        plain: whether the .ply holds vertices alone, see `gaussians.save_ply`.

    Returns:
        The files written.

    Raises:
        ConfigError: if they cannot be written; older ones are then as they were.
    """
    k = result.frame.intrinsics
    arrays: dict[str, Any] = {'depth': result.depth, 'intrinsics': k.parameters}
    spread = log_depth_std(result)
    if spread is not None:
        arrays['log_depth_std'] = spread
    scale_std = _gaussians(result).log_scale_std
    if scale_std is not None:
        arrays['log_scale_std'] = np.float32(scale_std)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    near, far = depth_range(result.depth)
    pictures = millimetres(result.depth), draw_preview(result.frame.image, result.depth, near, far)
    contents = [buffer.getvalue(), *map(encode_picture, pictures)]
    results = result_files(stem)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix='.', dir=stem.parent) as folder:
            ready = [Path(folder, path.name) for path in results]
            for path, data in zip(ready, contents, strict=False):
                write_atomically(path, data)
            save_ply(ready[-1], _gaussians(result), k, plain=plain)
            for path, target in zip(ready, results, strict=True):
                path.replace(target)
    except OSError as error:
        raise ConfigError(
            f'cannot write the results {stem}*: {error.strerror or error}; make space or choose '
            'another --output'
        ) from error
    return results


def save_gaussians(
    result: FrameResult, path: Path, up: Up | None = None, *, sharp_layout: bool | None = None
) -> str:
    """Write the Gaussians alone, in the format that the suffix stands for.

    Args:
        result: of a pipeline.
        path: one of `scene_files.FORMATS`; its folder is made.
        up: see `scene_files.write_scene`.
        sharp_layout: see `scene_files.write_scene`; None for that of a .ply alone.

    Returns:
        A line about the file.

    Raises:
        ConfigError: if it cannot be written, or a library is missing.
        InputError: if the format cannot hold them.
    """
    rows = rows_of(_gaussians(result))
    scene = Scene(Splats(rows), '-y', from_camera=True, photo=result.frame.intrinsics)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if sharp_layout is None:
            sharp_layout = suffix_of(path) == '.ply'
        return write_scene(path, scene, up, sharp_layout=sharp_layout)
    except OSError as error:
        raise ConfigError(
            f'cannot write {path}: {error.strerror or error}; make space or choose another '
            '--output'
        ) from error


def log_depth_std(result: FrameResult) -> np.ndarray | None:  # -> [H, W]
    """Standard deviation of the logarithm of the depth at image resolution, or None."""
    spread, k = _gaussians(result).front_log_std, result.frame.intrinsics
    if spread is None:
        return None
    return cv2.resize(spread, (k.width, k.height), interpolation=cv2.INTER_LINEAR)


def _gaussians(result: FrameResult) -> Gaussians:
    """Those of a photograph, of which none was carried over from another."""
    assert result.gaussians is not None
    return result.gaussians


def millimetres(depth: np.ndarray) -> np.ndarray:  # [H, W] -> [H, W] uint16
    """Metres to whole millimetres; 0 where there is no depth, saturated at 65535."""
    known = depth > 0  # False for NaN
    rounded = np.clip(np.where(known, depth, 0) * 1000 + 0.5, 0, 65535)
    return np.where(known, np.maximum(rounded, 1), 0).astype(np.uint16)
