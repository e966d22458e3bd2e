"""Sparse models of COLMAP, text or binary: which cameras took which images, from where.

https://colmap.github.io/format.html. Poses take the world to the camera, whose axes are optical;
pixels count from the corner of the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
import struct

from sharp_ros.files import regular_file
from sharp_ros.sources.lists import read_text

# Names by number in binary files, and how many parameters each has.
_MODELS = (
    ('SIMPLE_PINHOLE', 3),
    ('PINHOLE', 4),
    ('SIMPLE_RADIAL', 4),
    ('RADIAL', 5),
    ('OPENCV', 8),
    ('OPENCV_FISHEYE', 8),
    ('FULL_OPENCV', 12),
)
_ONE_FOCAL = ('SIMPLE_PINHOLE', 'SIMPLE_RADIAL', 'RADIAL')
_POINT = 24  # bytes of a point in an image: x, y, number


@dataclass(frozen=True)
class ColmapCamera:
    """A calibrated camera.

    Attributes:
        width: of its images, pixels.
        height: likewise.
        focal: fx, fy.
        corner: cx, cy from the corner of the image.
        distortion: of OpenCV: k1, k2, p1, p2, ..., or four of a fisheye.
        fisheye: whether they are of that.
    """

    width: int
    height: int
    focal: tuple[float, float]
    corner: tuple[float, float]
    distortion: tuple[float, ...]
    fisheye: bool


@dataclass(frozen=True)
class ColmapImage:
    """An image that was placed.

    Attributes:
        name: of its file, relative to the folder of images.
        camera: number of the camera.
        rotation: wxyz quaternion that turns the world into the camera.
        translation: of the world's origin in the camera.
    """

    name: str
    camera: int
    rotation: tuple[float, ...]
    translation: tuple[float, ...]


def model_folder(path: Path) -> Path | None:
    """Where the sparse model lies below a folder, as COLMAP and nerfstudio lay it, or None."""
    for below in ('sparse/0', 'sparse', 'colmap/sparse/0', '.'):
        folder = path / below
        if any((folder / f'images.{s}').is_file() for s in ('bin', 'txt')) and any(
            (folder / f'cameras.{s}').is_file() for s in ('bin', 'txt')
        ):
            return folder
    return None


def read_cameras(folder: Path) -> dict[int, ColmapCamera]:
    """Cameras by number; those of models without an equal here are left out.

    Raises:
        ValueError: if the file is damaged.
        OSError: if it cannot be read.
    """
    binary = folder / 'cameras.bin'
    rows = _camera_bytes(binary) if binary.is_file() else _camera_lines(folder / 'cameras.txt')
    return {number: camera for number, camera in rows if camera is not None}


def read_images(folder: Path) -> list[ColmapImage]:
    """Images in the order of the file.

    Raises:
        ValueError: if the file is damaged.
        OSError: if it cannot be read.
    """
    binary = folder / 'images.bin'
    return list(_image_bytes(binary) if binary.is_file() else _image_lines(folder / 'images.txt'))


def _camera(model: str, width: int, height: int, values: list[float]) -> ColmapCamera | None:
    if model not in dict(_MODELS):
        return None
    if len(values) != dict(_MODELS)[model]:
        raise ValueError(f'{model} has {dict(_MODELS)[model]} parameters, not {len(values)}')
    if model in _ONE_FOCAL:
        values = [values[0], *values]
    fx, fy, cx, cy, *rest = values
    return ColmapCamera(width, height, (fx, fy), (cx, cy), tuple(rest), model == 'OPENCV_FISHEYE')


def _camera_lines(file: Path) -> Iterator[tuple[int, ColmapCamera | None]]:
    for line in read_text(file).splitlines():
        words = line.split()
        if words and not line.startswith('#'):
            number, model, width, height, *values = words
            numbers = [float(value) for value in values]
            yield int(number), _camera(model, int(width), int(height), numbers)


def _image_lines(file: Path) -> Iterator[ColmapImage]:
    lines = [line for line in read_text(file).splitlines() if not line.startswith('#')]
    for line in lines[::2]:  # between them stand the points, which may be none
        words = line.split(maxsplit=9)
        if words:
            numbers = [float(word) for word in words[1:8]]
            yield ColmapImage(words[9], int(words[8]), tuple(numbers[:4]), tuple(numbers[4:]))


class _Reader:
    """Values of a binary file, one after the other."""

    def __init__(self, file: Path) -> None:
        self._data, self.at, self._name = regular_file(file).read_bytes(), 0, file.name

    def take(self, form: str) -> tuple[float, ...]:
        try:
            values = struct.unpack_from(f'<{form}', self._data, self.at)
        except struct.error as error:
            raise ValueError(f'{self._name} ends early') from error
        self.at += struct.calcsize(f'<{form}')
        return values

    def text(self) -> str:
        end = self._data.find(b'\0', self.at)
        if end < 0:
            raise ValueError(f'{self._name} ends early')
        text = self._data[self.at : end].decode('utf-8')
        self.at = end + 1
        return text


def _camera_bytes(file: Path) -> Iterator[tuple[int, ColmapCamera | None]]:
    reader = _Reader(file)
    for _ in range(int(reader.take('Q')[0])):
        number, model, width, height = (int(value) for value in reader.take('iiQQ'))
        if not 0 <= model < len(_MODELS):
            raise ValueError(
                f"{file.name} has a camera of model {model}; convert it with COLMAP's "
                'image_undistorter'
            )
        name, count = _MODELS[model]
        yield number, _camera(name, width, height, list(reader.take(f'{count}d')))


def _image_bytes(file: Path) -> Iterator[ColmapImage]:
    reader = _Reader(file)
    for _ in range(int(reader.take('Q')[0])):
        _, *numbers, camera = reader.take('i7di')
        name = reader.text()
        points = int(reader.take('Q')[0])
        reader.at += points * _POINT
        yield ColmapImage(name, int(camera), tuple(numbers[:4]), tuple(numbers[4:]))
