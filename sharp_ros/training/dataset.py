"""Training images from `.npz` shards: crops that change the focal length, camera-like damage.

A shard holds `rgb` uint8 [N, H, W, 3], `d` and `d2` float16 [N, H, W] (metres of the first and
second surface; infinite: nothing there, 0 or NaN: unknown), and `f` float32 [N] (focal length in
pixels, principal point in the centre) or `k` float32 [N, 4] (fx fy cx cy from the corner). With
`pose` float32 [N, 4, 4] (`T_world_camera`, NaN if unknown) rows 2i and 2i + 1 are a pair of views
of one scene, whose world, beside `f`, has z up and the floor at 0. Shards stay on disk, mapped
into memory, which a data set may exceed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import hashlib
from pathlib import Path
from typing import NamedTuple
import zipfile

import cv2
import numpy as np
import torch
from torch import Tensor

from sharp_ros.camera import MIN_HEIGHT
from sharp_ros.errors import InputError
from sharp_ros.training.photograph import photograph

GEOMETRY_UNKNOWN = 0.5  # share of the samples that tell the network nothing of gravity and floor
GRAVITY_NOISE = 0.015  # of the direction, radians, as of an accelerometer and a loose mount
HEIGHT_NOISE = 0.03  # of the camera over the floor, relative


class Batch(NamedTuple):
    """Tensors of B samples; the last four, about the second view of each, only on demand."""

    rgb: Tensor  # [B, 3, h, w] 0..1
    intrinsics: Tensor  # [B, 4] fx fy cx cy in pixels, counted from the image corner
    depth: Tensor  # [B, h, w] metres; infinite: nothing there, 0 or NaN: unknown
    second_depth: Tensor  # [B, h, w] likewise
    geometry: Tensor | None = None  # [B, 5] as `NanoNetwork.forward` takes it
    clean: Tensor | None = None  # [B, 3, h, w] `rgb` before a camera damaged it
    rgb2: Tensor | None = None  # [B, 3, h, w], undamaged
    intrinsics2: Tensor | None = None  # [B, 4]
    T_2_1: Tensor | None = None  # [B, 4, 4], NaN if unknown


class StoredView(NamedTuple):
    """One image of a shard."""

    rgb: np.ndarray  # [H, W, 3] uint8
    depth: np.ndarray  # [H, W]
    second_depth: np.ndarray  # [H, W]
    intrinsics: np.ndarray  # [4] fx fy cx cy, counted from the corner
    T_world_camera: np.ndarray  # [4, 4], NaN if unknown
    level: bool  # the world has z up and the floor at 0


class Shards:
    """All images of some files.

    Raises:
        InputError: if there is no shard or one cannot be read.
    """

    def __init__(self, files: Iterable[str | Path]) -> None:
        self._shards = [_open_shard(Path(file)) for file in files]
        if not self._shards:
            raise InputError('no .npz shards; generate some with sharp_ros.procedural.rooms')
        self._starts = np.cumsum([0, *(len(shard['rgb']) for shard in self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> StoredView:
        """One image; its arrays are read when they are used."""
        shard, row = self._place(i)
        return _view(shard, row)

    def partner(self, i: int) -> StoredView:
        """The other image of the pair; the image itself where it has none."""
        shard, row = self._place(i)
        other = row ^ 1
        return _view(shard, other if 'pose' in shard and other < len(shard['rgb']) else row)

    def batch(
        self,
        ids: Sequence[int],
        height: int,
        width: int,
        rng: np.random.Generator | None,
        second_view: bool = False,
    ) -> Batch:
        """Samples at one size; without `rng` whole images, undamaged."""
        samples = [
            sample(self[i], height, width, rng, self.partner(i) if second_view else None)
            for i in ids
        ]
        columns = zip(*samples, strict=True)
        return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))

    def _place(self, i: int) -> tuple[dict[str, np.ndarray], int]:
        k = int(np.searchsorted(self._starts, i, 'right')) - 1
        return self._shards[k], i - int(self._starts[k])


def sample(
    view: StoredView,
    height: int,
    width: int,
    rng: np.random.Generator | None,
    second: StoredView | None = None,
) -> tuple[np.ndarray, ...]:
    """Crop, resize and flip one image together with its truth and intrinsics.

    Args:
        view: the image.
        height: of the result, pixels.
        width: of the result, pixels.
        rng: source of the augmentation; None takes the whole image as it is, with its geometry.
        second: another view of the scene: flipped alike, not cropped.

    Returns:
        The fields of `Batch` without their first axis, the last four only with `second`.
    """
    rows, columns = view.rgb.shape[:2]
    window, flip = (0, 0, columns, rows), False
    if rng is not None:
        window, flip = _random_window((rows, columns), height, width, rng), rng.uniform() < 0.5
    clean, intrinsics = _resampled(view, window, height, width, flip)
    rgb = clean.astype(np.float32) / 255 if rng is None else photograph(clean, rng)
    # The depth of the nearest pixel, never a mean across an edge.
    x, y, columns, rows = window
    pick_y = y + ((np.arange(height) + 0.5) * rows / height).astype(int)
    pick_x = x + ((np.arange(width) + 0.5) * columns / width).astype(int)
    pick = np.ix_(pick_y, pick_x[::-1] if flip else pick_x)
    depths = (np.ascontiguousarray(d[pick], np.float32) for d in (view.depth, view.second_depth))
    result = (_planes(rgb), intrinsics, *depths, _geometry(view, flip, rng))
    if second is None:
        return result
    whole = (0, 0, second.rgb.shape[1], second.rgb.shape[0])
    rgb2, intrinsics2 = _resampled(second, whole, height, width, flip)
    T_2_1 = np.linalg.inv(second.T_world_camera.astype(np.float64)) @ view.T_world_camera
    if flip:  # the mirrored world: x changes its sign in both cameras
        mirror = np.diag([-1.0, 1, 1, 1])
        T_2_1 = mirror @ T_2_1 @ mirror
    others = (_planes(image.astype(np.float32) / 255) for image in (clean, rgb2))
    return (*result, *others, intrinsics2, T_2_1.astype(np.float32))


def _resampled(
    view: StoredView, window: Sequence[int], height: int, width: int, flip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Image [h, w, 3] uint8 and intrinsics [4] of a window (x, y, columns, rows) of a view."""
    x, y, columns, rows = window
    sx, sy = width / columns, height / rows
    method = cv2.INTER_AREA if sx <= 1 and sy <= 1 else cv2.INTER_CUBIC
    image = cv2.resize(
        view.rgb[y : y + rows, x : x + columns], (width, height), interpolation=method
    )
    fx, fy, cx, cy = view.intrinsics
    cx, cy = (cx - x) * sx, (cy - y) * sy
    if flip:
        image, cx = np.ascontiguousarray(image[:, ::-1]), width - cx
    return image, np.array([fx * sx, fy * sy, cx, cy], np.float32)


def _geometry(
    view: StoredView, flip: bool, rng: np.random.Generator | None
) -> np.ndarray:  # -> [5]
    """What is known of gravity and floor: nothing, or as much as a robot would know."""
    known = np.zeros(5, np.float32)
    if not view.level or (rng is not None and rng.uniform() < GEOMETRY_UNKNOWN):
        return known
    up, height = view.T_world_camera[2, :3].astype(np.float64), float(view.T_world_camera[2, 3])
    if rng is not None:
        up += rng.normal(0, GRAVITY_NOISE, 3)
        height *= np.exp(rng.normal(0, HEIGHT_NOISE))
    if height > MIN_HEIGHT:
        known[:] = (*(up / np.linalg.norm(up)), np.log(height), 1)
        known[0] *= -1 if flip else 1
    return known


def _planes(image: np.ndarray) -> np.ndarray:  # [H, W, 3] -> [3, H, W]
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def _view(shard: dict[str, np.ndarray], row: int) -> StoredView:
    rgb = shard['rgb'][row]
    if 'k' in shard:
        intrinsics = np.asarray(shard['k'][row])
    else:
        focal = shard['f'][row]
        intrinsics = np.array([focal, focal, rgb.shape[1] / 2, rgb.shape[0] / 2], np.float32)
    pose = np.asarray(shard['pose'][row]) if 'pose' in shard else np.full((4, 4), np.nan)
    level = 'k' not in shard and 'pose' in shard
    return StoredView(rgb, shard['d'][row], shard['d2'][row], intrinsics, pose, level)


def _open_shard(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an uncompressed .npz file, mapped: only what is used is ever read."""
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open('rb') as file:
            for info in archive.infolist():
                with archive.open(info) as member:
                    np.lib.format.read_magic(member)
                    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
                    header = member.tell()
                if info.compress_type != zipfile.ZIP_STORED or fortran:
                    raise ValueError('it is compressed or in Fortran order')
                # A member starts behind its local header of 30 bytes, its name and extra field.
                file.seek(info.header_offset + 26)
                lengths = np.frombuffer(file.read(4), '<u2')
                start = info.header_offset + 30 + int(lengths.sum()) + header
                name = info.filename.removesuffix('.npy')
                arrays[name] = np.memmap(path, dtype, 'r', start, shape)
        count = len(arrays['rgb'])
        wanted = ('d', 'd2', 'k' if 'k' in arrays else 'f')
        if not count or any(len(arrays[name]) != count for name in wanted):
            raise ValueError('its arrays differ in length')
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    return arrays


def shard_mark(path: Path) -> str:
    """Tells a shard from others wherever it lies: SHA-256 over the checksums it has of its arrays.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            told = [(info.filename, info.file_size, info.CRC) for info in archive.infolist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f'cannot read shard {path} ({error}); delete it or generate it again')


def _random_window(
    shape: Sequence[int], height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """x, y, columns, rows of a crop with about the aspect of the result.

    The crop is hardly smaller than the result: otherwise a long focal length would always come
    with a blurred picture, and the network would read metres from sharpness.
    """
    aspect = np.clip(width / height * np.exp(rng.normal(0, 0.06)), 1, 1.9)
    largest = min(shape[0], shape[1] / aspect)
    smallest = min(max(0.4, 0.85 * height / largest), 1.0)
    zoom = rng.uniform(smallest, 1) if rng.uniform() < 0.75 else 1.0
    rows = int(largest * zoom)
    columns = min(int(rows * aspect), shape[1])
    x = int(rng.integers(0, shape[1] - columns + 1))
    y = int(rng.integers(0, shape[0] - rows + 1))
    return x, y, columns, rows
