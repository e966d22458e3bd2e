"""Rendered rooms from `.npz` shards: crops that change the focal length, and camera-like damage.

A shard holds `rgb` uint8 [N, H, W, 3], `d` and `d2` float16 [N, H, W] (metres of the first and
second surface) and `f` float32 [N] (focal length in pixels, principal point in the centre).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
import zipfile

import cv2
import numpy as np
import torch
from torch import Tensor

from sharp_ros.errors import InputError

cv2.setNumThreads(1)  # the training threads prepare their samples themselves


class Batch(NamedTuple):
    """Tensors of B samples."""

    rgb: Tensor  # [B, 3, h, w] 0..1
    intrinsics: Tensor  # [B, 4] fx fy cx cy in pixels, counted from the image corner
    depth: Tensor  # [B, h, w] metres
    second_depth: Tensor  # [B, h, w] metres


class Rooms:
    """All images of some shards, in memory.

    Raises:
        InputError: if there is no shard or one cannot be read.
    """

    def __init__(self, files: Iterable[str | Path]) -> None:
        self._shards = [_read_shard(file) for file in files]
        if not self._shards:
            raise InputError('no .npz shards; generate some with sharp_ros.training.rooms')
        self._index = [(k, i) for k, s in enumerate(self._shards) for i in range(len(s[3]))]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Image [H, W, 3], both depths [H, W], focal length in pixels."""
        shard, row = self._index[i]
        rgb, depth, second_depth, focal = self._shards[shard]
        return rgb[row], depth[row], second_depth[row], float(focal[row])

    def batch(
        self, ids: Sequence[int], height: int, width: int, rng: np.random.Generator | None
    ) -> Batch:
        """Samples at one size; without `rng` whole images, undamaged."""
        columns = zip(*(sample(*self[i], height, width, rng) for i in ids), strict=True)
        return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))


def sample(
    image: np.ndarray,
    depth: np.ndarray,
    second_depth: np.ndarray,
    focal: float,
    height: int,
    width: int,
    rng: np.random.Generator | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Crop, resize and flip one image together with its truth and intrinsics.

    Args:
        image: [H, W, 3] uint8.
        depth: [H, W] metres.
        second_depth: [H, W] metres.
        focal: of `image`, pixels.
        height: of the result, pixels.
        width: of the result, pixels.
        rng: source of the augmentation; None takes the whole image as it is.

    Returns:
        rgb [3, h, w] float32 in 0..1, intrinsics [4] (corner-counted), both depths [h, w].
    """
    x, y, columns, rows = 0, 0, image.shape[1], image.shape[0]
    flip = False
    if rng is not None:
        x, y, columns, rows = _random_window(image.shape[:2], height, width, rng)
        flip = rng.uniform() < 0.5
    window = np.s_[y : y + rows, x : x + columns]
    sx, sy = width / columns, height / rows
    centre_x, centre_y = (image.shape[1] / 2 - x) * sx, (image.shape[0] / 2 - y) * sy
    shrinks = columns >= width and rows >= height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    rgb = cv2.resize(image[window], (width, height), interpolation=method)
    # The depth of the nearest pixel, never a mean across an edge.
    pick_y = ((np.arange(height) + 0.5) / sy).astype(int)
    pick_x = ((np.arange(width) + 0.5) / sx).astype(int)
    depth = depth[window][pick_y][:, pick_x].astype(np.float32)
    second_depth = second_depth[window][pick_y][:, pick_x].astype(np.float32)
    if flip:
        rgb, depth, second_depth = rgb[:, ::-1], depth[:, ::-1], second_depth[:, ::-1]
        centre_x = width - centre_x
    if rng is None:
        rgb = rgb.astype(np.float32) / 255
    else:
        rgb = photograph(np.ascontiguousarray(rgb), rng)
    intrinsics = np.array([focal * sx, focal * sy, centre_x, centre_y], np.float32)
    return (
        np.ascontiguousarray(rgb.transpose(2, 0, 1)),
        intrinsics,
        np.ascontiguousarray(depth),
        np.ascontiguousarray(second_depth),
    )


def photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a cheap camera makes of a clean picture: [H, W, 3] uint8 to float32 in 0..1."""
    x = _sharpness(image, rng).astype(np.float32) / 255
    if rng.uniform() < 0.9:
        x = _colour(x, rng)
    x = np.clip(_shading(x, rng), 0, 1).astype(np.float32)
    if rng.uniform() < 0.6:
        x = np.clip(x + _noise(x.shape, rng), 0, 1)
    if rng.uniform() < 0.35:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))]
        encoded = cv2.imencode('.jpg', (x * 255).astype(np.uint8), quality)[1]
        x = cv2.imdecode(encoded, cv2.IMREAD_COLOR).astype(np.float32) / 255
    return x.astype(np.float32)


def _read_shard(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    try:
        with np.load(path) as shard:
            return shard['rgb'], shard['d'], shard['d2'], shard['f']
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f'cannot read shard {path} ({error}); delete it or generate it again'
        ) from error


def _random_window(
    shape: Sequence[int], height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """x, y, columns, rows of a crop with about the aspect of the result.

    The crop is seldom much smaller than the result: otherwise a long focal length would always
    come with a blurred picture, and the network would read metres from sharpness.
    """
    aspect = np.clip(width / height * np.exp(rng.normal(0, 0.06)), 1, 1.9)
    largest = min(shape[0], shape[1] / aspect)
    smallest = min(max(0.4, 0.7 * height / largest), 1.0)
    zoom = rng.uniform(smallest, 1) if rng.uniform() < 0.75 else 1.0
    rows = int(largest * zoom)
    columns = min(int(rows * aspect), shape[1])
    x = int(rng.integers(0, shape[1] - columns + 1))
    y = int(rng.integers(0, shape[0] - rows + 1))
    return x, y, columns, rows


def _sharpness(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lens and motion blur, a coarse sensor, a camera's sharpening; independent of the zoom."""
    kind = rng.uniform()
    height, width = x.shape[:2]
    if kind < 0.2:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.3, 1.8))
    elif kind < 0.3:
        x = cv2.filter2D(x, -1, _motion_kernel(int(rng.integers(3, 8)), rng.uniform(0, np.pi)))
    elif kind < 0.45:
        share = rng.uniform(0.35, 0.9)
        size = (int(width * share), int(height * share))
        small = cv2.resize(x, size, interpolation=cv2.INTER_AREA)
        x = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.uniform() < 0.3:
        amount, radius = rng.uniform(0.3, 1.8), rng.uniform(0.6, 1.6)
        x = cv2.addWeighted(x, 1 + amount, cv2.GaussianBlur(x, (0, 0), radius), -amount, 0)
    return x


def _motion_kernel(length: int, angle: float) -> np.ndarray:
    kernel, centre = np.zeros((length, length), np.float32), (length - 1) / 2
    for t in np.linspace(-centre, centre, 2 * length):
        kernel[round(centre + t * np.sin(angle)), round(centre + t * np.cos(angle))] = 1
    return kernel / kernel.sum()


def _colour(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, white balance, tone curve, saturation, hue and contrast."""
    gain = np.exp(rng.normal(-0.04, 0.16)) * np.exp(rng.normal(0, 0.07, 3))
    x = np.power(x + 1e-4, np.exp(rng.normal(0, 0.25))) * gain.astype(np.float32)
    if rng.uniform() < 0.15:  # over-exposed: lights and windows clip, as in a small sensor
        x = np.minimum(x * rng.uniform(1.05, 1.4), 1)
    saturation = rng.uniform(0, 1) if rng.uniform() < 0.35 else rng.uniform(0.7, 1.6)
    grey = x.mean(-1, keepdims=True)
    x = grey + (x - grey) * saturation
    if rng.uniform() < 0.2:
        mix = np.eye(3) + rng.normal(0, 0.3, (3, 3))
        x = x @ (mix / mix.sum(1, keepdims=True)).T.astype(np.float32)
    mean = x.mean()
    return (x - mean) * np.exp(rng.normal(0, 0.16)) + mean + rng.normal(-0.01, 0.05)


def _shading(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vignetting, and a soft-edged band of light or shadow."""
    rows, columns = x.shape[:2]
    v = (np.arange(rows, dtype=np.float32) / rows - 0.5)[:, None]
    u = (np.arange(columns, dtype=np.float32) / columns - 0.5)[None]
    if rng.uniform() < 0.3:
        x = x * (1 - rng.uniform(0, 1.2) * (u * u + v * v))[..., None]
    if rng.uniform() < 0.15:
        angle = rng.uniform(0, 2 * np.pi)
        side = u * np.cos(angle) + v * np.sin(angle) - rng.uniform(-0.3, 0.3)
        x = x * (1 + rng.uniform(-0.5, 0.6) / (1 + np.exp(-side * rng.uniform(5, 60))))[..., None]
    return x


def _noise(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Sensor noise, half of the time coarse as after demosaicing and denoising."""
    rows, columns = shape[:2]
    if rng.uniform() < 0.5:
        noise = rng.standard_normal((rows, columns, 3), dtype=np.float32)
    else:
        coarse = rng.standard_normal((rows // 2, columns // 2, 3), dtype=np.float32)
        noise = cv2.resize(coarse, (columns, rows))
    return noise * np.float32(rng.uniform(0, 0.05))
