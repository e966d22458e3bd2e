"""Pictures of clouds, grids and whole frames, for people: NumPy and OpenCV in, RGB out."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import InputError
from sharp_ros.se3 import apply, inverse, look_at

TILE = (480, 360)  # width, height of one picture of an overview
_BACKGROUND = 24
_SIDE = np.array([-0.68, -0.5, -0.54])  # unit direction of the viewpoint in the optical frame
_GRID_COLOURS = {-1: (110, 110, 110), 0: (245, 245, 245), 100: (20, 20, 20)}


def encode_picture(picture: np.ndarray, ending: str = '.png') -> bytes:
    """The contents of a picture file.

    Args:
        picture: [H, W, 3] uint8 RGB, or [H, W] of one channel in 8 or 16 bits.
        ending: of the file, which names its format.

    Raises:
        InputError: `bad_image_size` if it cannot be encoded.
    """
    bgr = picture[..., ::-1] if picture.ndim == 3 else picture
    done, data = cv2.imencode(ending.lower(), np.ascontiguousarray(bgr))
    if not done:
        raise InputError(
            f'cannot encode a picture of {picture.shape} as {ending}; choose another ending or '
            'size',
            'bad_image_size',
        )
    return data.tobytes()


def draw_cloud(cloud: np.ndarray, size: tuple[int, int] = TILE) -> np.ndarray:
    """An organised cloud seen from above its left shoulder, nearest point first.

    Args:
        cloud: [H, W, 4] float32 x, y, z in the optical frame and packed RGB.
        size: (width, height) of the picture.

    Returns:
        [height, width, 3] uint8 RGB.
    """
    width, height = size
    picture = np.full((height, width, 3), _BACKGROUND, np.uint8)
    flat = np.ascontiguousarray(cloud.reshape(-1, 4))
    flat = flat[np.isfinite(flat[:, 2])]
    if not len(flat):
        return picture
    points = flat[:, :3].astype(np.float64)
    middle = np.median(points, 0)
    radius = max(float(np.percentile(np.linalg.norm(points - middle, axis=1), 90)), 0.3)
    eye = middle + 2.6 * radius * _SIDE
    T_camera_view = look_at(eye, middle, np.array([0.0, -1.0, 0.0]))
    seen = apply(inverse(T_camera_view), points)
    k = Intrinsics.from_hfov(1.0, width, height)
    ahead = seen[:, 2] > 0.05
    seen, packed = seen[ahead], flat[ahead, 3].copy().view(np.uint32)
    u, v = np.rint(k.pixels(seen)).astype(int).T
    order = np.argsort(-seen[:, 2])  # painter's algorithm: near points are drawn last
    rgb = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], -1).astype(np.uint8)
    for dv, du in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x, y = u[order] + du, v[order] + dv
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        picture[y[inside], x[inside]] = rgb[order][inside]
    return picture


def draw_grid(cells: np.ndarray, size: tuple[int, int] = TILE) -> np.ndarray:
    """The known part of an occupancy grid: white free, black occupied, grey unknown, +y up.

    Args:
        cells: [rows, columns] int8, row 0 at the smallest y.
        size: (width, height) of the picture.

    Returns:
        [height, width, 3] uint8 RGB.
    """
    known = np.argwhere(cells != -1)
    if len(known):
        (r0, c0), (r1, c1) = known.min(0), known.max(0) + 1
        margin = 6
        cells = cells[max(r0 - margin, 0) : r1 + margin, max(c0 - margin, 0) : c1 + margin]
    picture = np.full((*cells.shape, 3), _GRID_COLOURS[-1], np.uint8)
    for value, colour in _GRID_COLOURS.items():
        picture[cells == value] = colour
    return _fit(picture[::-1], size, cv2.INTER_NEAREST, _GRID_COLOURS[-1])


def tile_pictures(
    pictures: Mapping[str, np.ndarray], columns: int = 3, size: tuple[int, int] = TILE
) -> np.ndarray:
    """Pictures of any size side by side under their titles, [H, W, 3] uint8 RGB.

    Args:
        pictures: by title.
        columns: of tiles.
        size: (width, height) of a tile below its title.
    """
    width, height = size
    bar = 28
    tiles = []
    for title, picture in pictures.items():
        tile = np.full((height + bar, width, 3), _BACKGROUND, np.uint8)
        tile[bar:] = _fit(picture, size, cv2.INTER_AREA, (_BACKGROUND,) * 3)
        white = (235, 235, 235)
        cv2.putText(tile, title, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, white, 1, cv2.LINE_AA)
        tiles.append(tile)
    while len(tiles) % columns:
        tiles.append(np.full_like(tiles[0], _BACKGROUND))
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


def _fit(
    picture: np.ndarray, size: tuple[int, int], shrink: int, border: tuple[int, ...]
) -> np.ndarray:
    """Scale a picture into a box of `size`, keeping its aspect ratio."""
    width, height = size
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    how = shrink if scale < 1 or shrink == cv2.INTER_NEAREST else cv2.INTER_CUBIC
    small = cv2.resize(np.ascontiguousarray(picture), inner, interpolation=how)
    out = np.empty((height, width, 3), np.uint8)
    out[:] = border
    x, y = (width - inner[0]) // 2, (height - inner[1]) // 2
    out[y : y + inner[1], x : x + inner[0]] = small
    return out
