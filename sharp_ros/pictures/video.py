"""Video files that are complete and play everywhere, or are not there at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
import os

import numpy as np

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.files import replacing

_QUALITY = '18'  # x264's constant rate factor: no loss that one sees
_MAX_HEIGHT = 3000  # see `video_intrinsics`


def video_intrinsics(photo: Intrinsics) -> Intrinsics:
    """What a video of a photo's scene is rendered with, by SHARP's rules.

    Sides are halved above 3000 rows and odd ones raised by one, as codecs store colours for blocks
    of 2x2 pixels. The picture keeps its place: SHARP itself shifts it by half a pixel.
    """
    width, height = photo.width, photo.height
    if height > _MAX_HEIGHT:
        width, height = width // 2, height // 2
    return photo.resized(width + width % 2, height + height % 2)


@contextmanager
def video_writer(
    path: str | os.PathLike[str], width: int, height: int, fps: float
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an H.264 video in an MP4 file, which appears under its name when the block ends well.

    Args:
        path: of the file; its folder exists.
        width: of all frames, pixels, even, since colours are stored for blocks of 2x2.
        height: likewise.
        fps: frames per second.

    Yields:
        A function that appends a frame, [height, width, 3] uint8 RGB.

    Raises:
        ConfigError: if PyAV is not installed.
        InputError: `bad_video` if a frame has another size, or the encoder refuses the video.
        OSError: if the file cannot be written.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise ConfigError(
            'videos are written by PyAV, which is not installed; pip install av, or write a '
            'picture (-o view.png)'
        ) from error
    assert width % 2 == height % 2 == 0
    try:
        with replacing(path) as file, av.open(file, 'w', format='mp4') as container:
            rate = Fraction(fps).limit_denominator(1000)
            stream = container.add_stream('libx264', rate=rate, options={'crf': _QUALITY})
            stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'

            def write(image: np.ndarray) -> None:
                if image.shape != (height, width, 3) or image.dtype != np.uint8:
                    raise InputError(
                        f'frames of this video are uint8 [{height}, {width}, 3], got '
                        f'{image.dtype} {list(image.shape)}',
                        'bad_video',
                    )
                image = np.ascontiguousarray(image)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))

            yield write
            container.mux(stream.encode(None))
    except FFmpegError as error:
        if isinstance(error, OSError) and error.errno == 28:
            raise OSError(error.errno, 'no space left for the video', str(path)) from error
        raise InputError(
            f'cannot encode {path} of {width}x{height} at {fps:g} fps: {error}; choose another '
            'size or rate, or write a PNG',
            'bad_video',
        ) from error
