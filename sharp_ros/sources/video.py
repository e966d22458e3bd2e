"""Videos, from files and from messages, decoded by FFmpeg through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
import logging
from pathlib import Path
from typing import Any

import numpy as np

from sharp_ros.camera import Frame
from sharp_ros.errors import InputError
from sharp_ros.images import check_meaningful
from sharp_ros.sources.base import assumed_intrinsics, assumption, CAMERA
from sharp_ros.sources.stock import Part, Stock

_CODECS = {'h264': 'h264', 'h265': 'hevc', 'vp9': 'vp9', 'av1': 'av1'}
_ARCHIVES = ('.zip', '.7z', '.rar', '.tar', '.tgz', '.gz', '.bz2', '.xz', '.lz4', '.zst', '.zstd')
_TEXTS = ('.txt', '.yaml', '.yml', '.json', '.csv', '.md', '.xml')
_LONGEST_FRAME = 2.0  # seconds; the last one may be shown so long before the video ends
_DEFAULT_RATE = 30.0  # frames per second where a file does not say
_log = logging.getLogger(__name__)


class VideoSource:
    """A video file, by its own presentation times; also an animated GIF.

    Args:
        path: of the file.
        hfov: horizontal field of view, radians.

    Attributes:
        stock: how many frames the file says it has, and how many could be decoded.

    Raises:
        InputError: `unreadable_video` if it cannot be decoded or shows no pictures.
    """

    def __init__(self, path: Path, hfov: float | None) -> None:
        self.name, self._path, self._hfov = str(path), path, hfov
        self.note = assumption(hfov)
        self.stock = Stock(self.name, 'video')
        self._part = self.stock.add(Part(path.name, 'image', use='camera', clock='list'))
        first = next(self._decoded(), None)
        if first is None:
            raise InputError(self._undecodable(), 'unreadable_video')
        check_meaningful(first[1], path.name)
        with self._open() as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate or 0
            self.rate_hz = float(rate) if 0 < rate < 1000 else _DEFAULT_RATE
            self._part.count = stream.frames
            duration = _duration(container, stream)
            if duration:
                self._part.span_ns = 0, round(duration * 10**9)
            self._part.detail = f'{stream.codec_context.name}, {first[1].shape[1]}x' + str(
                first[1].shape[0]
            )
        self._part.skipped.clear()
        self._part.examples.clear()
        self.stock.mark()

    def frames(self) -> Iterator[Frame]:
        """All frames that can be decoded, turned upright, stamped from the first one on."""
        self.stock.restart()
        stamp_ns = 0
        for stamp_ns, rgb in self._decoded():
            self.stock.frames += 1
            height, width = rgb.shape[:2]
            yield Frame(rgb, assumed_intrinsics(self._hfov, width, height), stamp_ns, CAMERA)
        missing = self._missing(stamp_ns)
        if missing:
            self._part.skip('truncated', missing)
            _log.warning('%s: %s', self.name, missing)
        self._part.count = self._part.count or self.stock.frames

    def _missing(self, last_ns: int) -> str:
        """How much less was decoded than its container says; empty if all of it was."""
        if self._part.count:
            missing = self._part.count - self.stock.frames - self._part.skipped['damaged']
            if missing > max(1, 0.02 * self._part.count):  # containers miscount by a frame or two
                return f'{self.stock.frames} of {self._part.count} frames could be decoded'
        elif self._part.span_ns is not None:
            end, last = self._part.span_ns[1] / 1e9, last_ns / 1e9
            if end - last > max(_LONGEST_FRAME, 0.02 * end):
                return f'{self.stock.frames} frames could be decoded, {last:.1f} of {end:.1f} s'
        return ''

    def _undecodable(self) -> str:
        suffix = self._path.suffix.lower()
        if suffix == '.r3d':
            return (
                f'{self._path} is how Record3D keeps a recording for itself; export it there as '
                'EXR and RGB, and give the folder EXR_RGBD'
            )
        if suffix in _TEXTS:
            return f'{self._path} is text; give the folder or bag that it belongs to'
        if suffix in _ARCHIVES:
            return f'{self._path} is packed; unpack it, and give what is in it'
        return (
            f'cannot decode video {self._path}; convert it, for example with '
            '"ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4"'
        )

    def _open(self) -> Any:
        import av
        from av.error import FFmpegError

        try:
            container = av.open(self.name)
        except (FFmpegError, ValueError) as error:
            with self._path.open('rb') as file:
                start = file.read(12)
            if start[4:8] == b'ftyp':
                raise InputError(
                    f'{self._path} has no index (moov), as when a camera loses its power; '
                    '"untrunc WHOLE.mp4 THIS.mp4" recovers it by a whole file of the same camera',
                    'unreadable_video',
                ) from error
            raise InputError(self._undecodable(), 'unreadable_video') from error
        if container.format.name == 'tty':  # to which any text is a picture
            container.close()
            raise InputError(
                f'{self._path} is text; give a video, or the folder or bag that it belongs to',
                'unreadable_video',
            )
        if not container.streams.video:
            kinds = ', '.join(sorted({s.type for s in container.streams})) or 'no stream'
            container.close()
            raise InputError(
                f'{self._path} holds {kinds} but no video; give a file with pictures',
                'unreadable_video',
            )
        return container

    def _decoded(self) -> Iterator[tuple[int, np.ndarray]]:
        """Nanoseconds since the first frame, and RGB images."""
        from av.error import FFmpegError

        with self._open() as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate or Fraction(30)
            stream.thread_type = 'AUTO'
            convert = _Converter()
            first = last = None
            try:
                for packet in container.demux(stream):
                    try:
                        decoded = packet.decode()
                    except FFmpegError as error:
                        self._part.skip('damaged', f'packet {packet.pts}: {error.strerror}')
                        continue
                    for frame in decoded:
                        time = _time_of(frame)
                        if last is not None and (time is None or time <= last):
                            time = last + 1 / rate
                        time = time or Fraction(0)
                        first, last = time if first is None else first, time
                        yield round((time - first) * 10**9), convert(frame)
            except FFmpegError as error:  # of the container: here it ends
                self._part.skip('truncated', str(error))


def _duration(container: Any, stream: Any) -> float | None:
    """Of the pictures, seconds; Matroska has it in words, or for all of the file with sound."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    with suppress(KeyError, ValueError):
        hours, minutes, seconds = stream.metadata['DURATION'].split(':')
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    alone = container.duration and len(container.streams) == 1
    return container.duration / 1e6 if alone else None  # AV_TIME_BASE


def _time_of(frame: Any) -> Fraction | None:
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


class _Converter:
    """Frames to RGB, by one scaler: to make it anew costs more than the frame."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:  # -> [H, W, 3]
        """As a player shows it: phones store portrait as landscape, with the angle beside it."""
        rgb = self._reformatter.reformat(frame, format='rgb24').to_ndarray()
        quarter_turns = round(getattr(frame, 'rotation', 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb


class PacketDecoder:
    """Images of a video that was recorded packet by packet (Foxglove's CompressedVideo).

    Its packets hold one frame each, in order, and no frame refers to a later one.
    """

    def __init__(self) -> None:
        self._context: Any = None
        self._convert: _Converter | None = None

    def decode(self, form: str, data: bytes) -> np.ndarray | None:  # -> [H, W, 3]
        """The image of a packet; None while the decoder waits for a key frame.

        Raises:
            InputError: `unknown_encoding`, `damaged`.
        """
        import av
        from av.error import FFmpegError

        if self._context is None:
            if form not in _CODECS:
                raise InputError(
                    f'video messages of format {form!r}; readable are {", ".join(_CODECS)}',
                    'unknown_encoding',
                )
            self._context = av.CodecContext.create(_CODECS[form], 'r')
            self._context.flags |= 0x80000  # AV_CODEC_FLAG_LOW_DELAY: a frame for every packet
            self._context.thread_count = 1  # several hold frames back
            self._convert = _Converter()
        try:
            frames = self._context.decode(av.Packet(data))
        except FFmpegError as error:
            raise InputError(f'a video packet is damaged: {error}', 'damaged') from error
        assert self._convert is not None
        return self._convert(frames[-1]) if frames else None
