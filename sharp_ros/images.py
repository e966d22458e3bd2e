"""Image files and codecs: photographs with their EXIF, and compressed messages."""

from __future__ import annotations

import io
import math
from pathlib import Path
import re
from typing import TYPE_CHECKING
import warnings
import zlib

import cv2
import numpy as np

from sharp_ros.errors import InputError
from sharp_ros.files import regular_file

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm'),
    *('.jp2', '.avif', '.heic', '.heif'),
)
VIDEO_SUFFIXES = ('.mp4', '.mov', '.m4v', '.avi', '.mkv', '.webm', '.gif')  # the most usual
MAX_IMAGE_PIXELS = 200_000_000  # of a file; as many as SHARP's own tool takes
MAX_MESSAGE_PIXELS = 64_000_000  # of a message, compressed or not
_JPEG_QUALITY = 80
_LEAST_SIDE, _MOST_ASPECT = 32, 16  # pixels, and long side over short one, of a useful image
DEFAULT_FOCAL_35MM = 30.0  # a phone's main camera, about; SHARP's own tool assumes the same
_EXIF_IFD, _EXIF_FOCAL, _EXIF_FOCAL_35MM = 0x8769, 0x920A, 0xA405
_HEIF_BRANDS = (b'hei', b'hev', b'mif', b'msf')


def check_meaningful(image: np.ndarray, name: str) -> None:
    """Refuse an image in which nobody could see anything.

    Raises:
        InputError: `image_too_small`.
    """
    height, width = image.shape[:2]
    if min(height, width) < _LEAST_SIDE or max(height, width) > _MOST_ASPECT * min(height, width):
        raise InputError(
            f'{name} is {width}x{height}; too small to mean anything: sides of at least '
            f'{_LEAST_SIDE} pixels are needed, and no more than {_MOST_ASPECT} times as wide as '
            'high',
            'image_too_small',
        )


def decode_image(data: bytes | memoryview, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """A complete compressed image as OpenCV reads it, so in BGR order.

    OpenCV fills what a truncated JPEG lacks with grey and says nothing; here that is an error.

    Args:
        data: contents of a JPEG, PNG or any other file OpenCV knows.
        flags: `cv2.IMREAD_*`.

    Returns:
        [H, W, 3] uint8, or what `flags` ask for.

    Raises:
        InputError: `bad_compressed` if the data are truncated, corrupt or of unknown format.
    """
    data = bytes(data)
    complete = sound = True
    if data.startswith(b'\xff\xd8'):
        # A thumbnail in the header has an end marker too: look behind the start of scan only.
        complete = data.find(b'\xff\xd9', _jpeg_scan_start(data)) >= 0
    elif data.startswith(b'\x89PNG'):
        complete = b'IEND\xaeB`\x82' in data
        sound = _png_is_sound(data)
    image = None
    if data and complete and sound:
        _check_size(data)
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise InputError(f'cannot decode the image: {error}', 'bad_compressed') from error
    if image is None:
        state = 'damaged or of unknown format' if complete else 'truncated'
        raise InputError(
            f'compressed image of {len(data)} bytes is {state}; send complete JPEG or PNG data',
            'bad_compressed',
        )
    return image


def encode_jpeg(rgb: np.ndarray) -> bytes:  # [H, W, 3]
    """A JPEG of uint8 RGB, small enough to be sent by radio."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
    return jpeg.tobytes()


def _check_size(data: bytes) -> None:
    """Refuse by its header what would be far larger unpacked; the rest is for OpenCV to judge."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as header:
                pixels = header.width * header.height
    except Image.DecompressionBombError:
        pixels = MAX_MESSAGE_PIXELS + 1
    except Exception:  # Pillow raises many types for files it does not know
        return
    check_pixels(pixels, 'compressed image')


def check_pixels(pixels: int, what: str) -> None:
    """Refuse the image of a message that is too large.

    Args:
        pixels: that it has, or says that it has.
        what: it is.

    Raises:
        InputError: `image_too_large`.
    """
    if pixels > MAX_MESSAGE_PIXELS:
        raise InputError(
            f'{what} has more than {MAX_MESSAGE_PIXELS / 1e6:.0f} million pixels; send smaller '
            'ones',
            'image_too_large',
        )


def _png_is_sound(data: bytes) -> bool:
    """Whether the checksums of all chunks that matter hold; libpng prints errors of its own."""
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], 'big')
        kind = data[position + 4 : position + 8]
        critical = kind[:1].isupper()
        if critical and zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], 'big'
        ):
            return False
        if kind == b'IEND':
            return True
        position = end
    return False


def _jpeg_scan_start(data: bytes) -> int:
    """Offset behind the header of the first scan; the length of the data if there is none."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
        if marker == 0xDA:
            return position
    return len(data)


def focal_from_35mm(millimetres: float, width: int, height: int) -> float:
    """Pixels of a focal length on 35 mm film, compared by the diagonal (CIPA DC-008)."""
    return millimetres * math.hypot(width, height) / math.hypot(36, 24)


def read_image(path: str | Path) -> tuple[np.ndarray, float | None]:
    """Read a photograph upright, in 8 bits a channel, whatever its mode.

    Of several frames or pages the first counts; alpha and colour profiles are ignored.

    Args:
        path: file in any format Pillow reads; HEIC needs the package pillow-heif.

    Returns:
        [H, W, 3] uint8 RGB, and the focal length in pixels if EXIF knows it: the equivalent on
        35 mm film, or else the true one by SHARP's rule, which takes less than 10 mm for that of
        a phone (times 8.4) and more for that of a 35 mm camera.

    Raises:
        InputError: `unreadable_image` if the file is missing, damaged or larger than 200 Mpx.
    """
    from PIL import Image

    heif = _register_heif()
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS // 2  # Pillow refuses twice as many
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(regular_file(path)) as image:
                image.load()
                film_mm = _turn_upright(image)
                focal = film_mm and focal_from_35mm(film_mm, *image.size)
                return _rgb(image), focal
    except Image.DecompressionBombError as error:
        limit_mpx = MAX_IMAGE_PIXELS / 1e6
        raise InputError(
            f'{path} has more than {limit_mpx:.0f} million pixels; shrink it', 'unreadable_image'
        ) from error
    except Exception as error:  # damaged files raise whatever their decoder stumbles over
        reason = _why_unreadable(path, error, heif)
        raise InputError(f'cannot read {path}: {reason}', 'unreadable_image') from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def read_exr(path: Path) -> np.ndarray:  # -> [H, W] float32
    """One channel of an OpenEXR file, as depth is kept in it: the only one, or red.

    By FFmpeg, since OpenCV's wheels come without OpenEXR; its planes are taken as they are, since
    conversions to other formats cut numbers off at 1.

    Raises:
        InputError: `unreadable_image` if it is damaged, or has other channels.
    """
    import av
    from av.error import FFmpegError

    # FFmpeg knows a channel that is alone only by the name of luminance.
    alone = rb'(channels\0chlist\0.{4})[A-Z]\0(.{16}\0)'
    data = re.sub(alone, rb'\1Y\0\2', path.read_bytes(), count=1, flags=re.DOTALL)
    try:
        frame = av.CodecContext.create('exr', 'r').decode(av.Packet(data))[0]
    except (FFmpegError, IndexError, ValueError) as error:
        reason = f'{path} is no OpenEXR file that can be read: {error}'
        raise InputError(reason, 'unreadable_image') from error
    name = frame.format.name
    dtype = np.dtype('<f2' if 'f16' in name else '<f4')
    index = {'grayf': 0, 'gbrpf': 2, 'gbrap': 2}.get(name[:5])
    if index is None or 'f' not in name:
        raise InputError(f'{path} holds {name} instead of fractional numbers', 'unreadable_image')
    plane = frame.planes[index]
    rows = np.frombuffer(bytes(plane), dtype).reshape(frame.height, -1)
    return rows[:, : frame.width].astype(np.float32)


def is_deep(path: str | Path) -> bool:
    """Whether an image file has more than 8 bits of grey, as depth does; False if unreadable."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode.startswith(('I', 'F'))
    except Exception:  # as `read_image` will say
        return False


def frame_count(path: str | Path) -> int:
    """Frames or pages of an image file, of which `read_image` takes the first; 1 if unreadable."""
    from PIL import Image

    try:
        with Image.open(regular_file(path)) as image:
            return int(getattr(image, 'n_frames', 1))
    except Exception:  # as `read_image` will say
        return 1


def _register_heif() -> bool:
    """Teach Pillow to read HEIC; whether the package for it is installed."""
    try:
        # whoever wants it installs it
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    register_heif_opener()
    return True


def _why_unreadable(path: str | Path, error: Exception, heif: bool) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, MemoryError):
        return 'not enough memory; shrink it'
    reason = getattr(error, 'strerror', None) or str(error)
    if isinstance(error, UnidentifiedImageError):
        with Path(path).open('rb') as file:
            start = file.read(12)
        if not heif and start[4:8] == b'ftyp' and start[8:11] in _HEIF_BRANDS:
            return 'HEIC needs another package; pip install pillow-heif, or convert it to JPEG'
        suffix = Path(path).suffix.lower()
        if start and suffix in VIDEO_SUFFIXES and suffix != '.gif':  # of which the first would do
            return 'it is a video; give it to "sharp-ros map", or give single images'
        reason = 'damaged or of unknown format' if start else 'the file is empty'
    return f'{reason}; give a complete JPEG, PNG, WebP or TIFF file'


def _turn_upright(image: Image.Image) -> float | None:
    """Turn or mirror as EXIF says; returns its focal length on 35 mm film, mm, if known."""
    from PIL import ImageOps

    try:
        tags = image.getexif().get_ifd(_EXIF_IFD)
        ImageOps.exif_transpose(image, in_place=True)
        on_film, true = (float(tags.get(tag, 0)) for tag in (_EXIF_FOCAL_35MM, _EXIF_FOCAL))
    except MemoryError:
        raise
    except Exception:  # damaged EXIF raises whatever its parser stumbles over
        return None
    if 1 <= on_film < math.inf:
        return on_film
    if 0 < true < math.inf:  # False for the rational number 0/0, which is not a number
        return true * 8.4 if true < 10 else true
    return None


def _rgb(image: Image.Image) -> np.ndarray:  # -> [H, W, 3] uint8
    if image.mode == 'F':
        raise ValueError('pixels are fractional numbers of unknown range')
    if image.mode.startswith('I'):  # 16 bits of grey, which Pillow would clip instead of scale
        grey = np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
    return np.array(image if image.mode == 'RGB' else image.convert('RGB'))
