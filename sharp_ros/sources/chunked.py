"""Bags made of chunks, MCAP and ROS 1, walked record by record, so that they need no index.

Why not by the library `mcap`, as seen with 1.6.0: of a file that was cut its reader by index
gives nothing, and the one in order nothing of the chunk in which the cut is (10 of 14 whole
messages of a test file with 10 a chunk). To take stock by it all of the file has to be read
(11.5 MB where 0.4 are here, of images alone). It unpacks a chunk to any size. And where a summary
does not repeat the channels, as it need not, its reader by index ends with a KeyError
(findings/mcap_indexed_reader_needs_repeated_channels.sh).
"""

from __future__ import annotations

from abc import abstractmethod
import bz2
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
import heapq
from pathlib import Path
import struct
from typing import Any, BinaryIO

import numpy as np

from sharp_ros.files import regular_file
from sharp_ros.sources.storage import Channel, LARGEST_UNPACKED, Storage

# What a record raises that is cut off, or holds something else than it says.
_BROKEN = (EOFError, struct.error, ValueError, KeyError, IndexError)
_MOST_CHUNK = 1 << 32  # bytes of a record; more is said by damaged ones only
_MOST_UNPACKED = LARGEST_UNPACKED  # of a chunk; recorders begin another one after some megabytes


@dataclass
class _Chunk:
    """A part of a file that is compressed as one.

    Attributes:
        position: of its data.
        size: of its data in the file.
        compression: name.
        begin: time of its first message; 0 while unknown.
        times: of its messages by channel, as an index says; None if there is no index.
    """

    position: int
    size: int
    compression: str
    begin: int = 0
    times: dict[int, list[int]] | None = None


class _ChunkedStorage(Storage):
    """A file that is a row of records, of which some hold others, compressed.

    The walk over the outer records alone finds all chunks, and mostly their indices. It ends where
    the file ends, be that by its footer or by a power cut.
    """

    def __init__(self, file: Path, path: Path | None = None) -> None:
        super().__init__(path or file)
        self._file: BinaryIO = regular_file(file).open('rb')
        self._size = file.stat().st_size
        self._chunks: list[_Chunk] = []
        try:
            self._begin()
            try:
                self._walk()
            except _BROKEN as error:
                self.fault = ('truncated', self._cut(str(error)))
                for chunk in self._chunks[-1:]:
                    chunk.times = None  # of its indices the last ones may be missing
            self._complete()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """See `Storage`."""
        self._file.close()

    @abstractmethod
    def _begin(self) -> None:
        """Read and check what a file of this kind begins with."""

    @abstractmethod
    def _walk(self) -> None:
        """Find channels and chunks; raises at the end of a file that is not whole."""

    @abstractmethod
    def _records(self, data: bytes) -> Iterator[tuple[int, int, bytes] | Channel]:
        """Channels and messages (channel id, time, bytes) of the whole records of a chunk."""

    def _cut(self, why: str) -> str:
        position = self._file.tell()
        return (
            f'{self.path.name} ends in the middle, at {min(position, self._size)} of '
            f'{self._size} bytes{why and f" ({why})"}; {self._remedy}'
        )

    _remedy = ''

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise EOFError('cut off')
        return data

    def _complete(self) -> None:
        """Look into the chunks whose index is missing or names channels that are not known."""
        for chunk in self._chunks:
            known = chunk.times is not None and chunk.times.keys() <= self.channels.keys()
            if not known:
                times: dict[int, list[int]] = defaultdict(list)
                for record in self._unpack(chunk):
                    if isinstance(record, Channel):
                        self.channels.setdefault(record.id, record)
                    else:
                        times[record[0]].append(record[1])
                chunk.times = dict(times)
            assert chunk.times is not None
            stamps = [t for values in chunk.times.values() for t in values]
            chunk.begin = min(stamps, default=0)
            for channel, values in chunk.times.items():
                self.times[channel].extend(values)

    def _unpack(self, chunk: _Chunk) -> Iterator[tuple[int, int, bytes] | Channel]:
        self._file.seek(chunk.position)
        data, error = _decompressed(self._file.read(chunk.size), chunk.compression)
        if error and self.fault is None:
            self.fault = ('damaged', f'{self.path.name}: {error}')
        try:
            yield from self._records(data)
        except _BROKEN as broken:
            cut = ('damaged', f'{self.path.name}: a record of a chunk is broken ({broken})')
            self.fault = self.fault or cut

    def messages(self, ids: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """See `Storage`."""
        wanted = set(ids)
        order = sorted(
            (c for c in self._chunks if c.times and wanted & c.times.keys()), key=lambda c: c.begin
        )
        waiting: list[tuple[int, int, int, bytes]] = []
        number = 0
        for chunk in [*order, None]:
            while waiting and (chunk is None or waiting[0][0] < chunk.begin):
                time, _, channel, data = heapq.heappop(waiting)
                yield channel, time, data
            if chunk is None:
                return
            for record in self._unpack(chunk):
                if not isinstance(record, Channel) and record[0] in wanted:
                    heapq.heappush(waiting, (record[1], number, record[0], record[2]))
                    number += 1


def _decompressed(data: bytes, compression: str) -> tuple[bytes, str]:
    """As far as it goes, and why it went no further."""
    if compression in ('', 'none'):
        return data, ''
    if compression not in _DECOMPRESSORS:
        return b'', f'a chunk is compressed by {compression!r}, which is unknown'
    decompressor = _DECOMPRESSORS[compression]()
    try:
        found = decompressor.decompress(data, _MOST_UNPACKED)
    except Exception as error:  # each library has a type of its own
        return b'', f'a chunk cannot be decompressed ({error})'
    if len(found) == _MOST_UNPACKED:
        most = f'{_MOST_UNPACKED >> 20} MB'
        return b'', f'a chunk holds more than {most}; record smaller images, or smaller chunks'
    return found, ''


def _lz4() -> Any:
    import lz4.frame

    return lz4.frame.LZ4FrameDecompressor()


def _zstd() -> Any:
    from backports import zstd

    return zstd.ZstdDecompressor()


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    'bz2': bz2.BZ2Decompressor,
    'lz4': _lz4,
    'zstd': _zstd,
}


class McapStorage(_ChunkedStorage):
    """An MCAP file (https://mcap.dev/spec), with or without index, summary and profile."""

    _remedy = '"mcap recover" gives a file that other programs read'
    _MAGIC = b'\x89MCAP0\r\n'
    _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX = 2, 3, 4, 5, 6, 7

    def __init__(self, file: Path, path: Path | None = None) -> None:
        self._schemas: dict[int, tuple[str, str, bytes]] = {}
        super().__init__(file, path)

    def _begin(self) -> None:
        if self._file.read(8) != self._MAGIC:
            raise ValueError('it does not begin as an MCAP file')

    def _walk(self) -> None:
        whole = False
        while not whole:
            position = self._file.tell()
            op, size = struct.unpack('<BQ', self._read(9))
            if size > _MOST_CHUNK:
                raise ValueError(f'a record of {size} bytes')
            end = position + 9 + size
            if op == self._CHUNK:
                self._chunk(end)
            elif op == self._MESSAGE_INDEX and self._chunks:
                self._index(self._read(size))
            elif op in (self._SCHEMA, self._CHANNEL):
                self._define(op, self._read(size))
            elif op == self._MESSAGE:  # a file without chunks: each message is one
                self._chunks.append(_Chunk(position, size + 9, ''))
                channel, _, time = struct.unpack('<HIQ', self._read(14))
                self._chunks[-1].times = {channel: [time]}
            whole = op == self._FOOTER
            self._file.seek(end)
            if end > self._size:
                raise EOFError('cut off')

    def _chunk(self, end: int) -> None:
        begin, _, _, _, length = struct.unpack('<QQQII', self._read(32))
        compression = self._read(length).decode()
        (size,) = struct.unpack('<Q', self._read(8))
        self._chunks.append(_Chunk(self._file.tell(), size, compression, begin))

    def _index(self, data: bytes) -> None:
        channel, size = struct.unpack_from('<HI', data)
        entries = np.frombuffer(data, '<u8', size // 8, 6)
        chunk = self._chunks[-1]
        chunk.times = {} if chunk.times is None else chunk.times
        if len(entries):
            chunk.times[channel] = entries[::2].tolist()

    def _define(self, op: int, data: bytes) -> Channel | None:
        if op == self._SCHEMA:
            (number,) = struct.unpack_from('<H', data)
            name, form, definition = _prefixed(data[2:], 3)
            self._schemas[number] = name.decode(), form.decode(), definition
            return None
        number, schema = struct.unpack_from('<HH', data)
        topic, encoding = (text.decode() for text in _prefixed(data[4:], 2))
        name, form, definition = self._schemas.get(schema, ('', '', b''))
        channel = Channel(self.path, number, topic, name, encoding, form, definition)
        self.channels.setdefault(number, channel)
        return channel

    def _records(self, data: bytes) -> Iterator[tuple[int, int, bytes] | Channel]:
        position = 0
        while position < len(data):
            op, size = struct.unpack_from('<BQ', data, position)
            position += 9
            if position + size > len(data):
                raise EOFError
            if op == self._MESSAGE:
                channel, _, time = struct.unpack_from('<HIQ', data, position)
                yield channel, time, data[position + 22 : position + size]
            elif op in (self._SCHEMA, self._CHANNEL):
                defined = self._define(op, data[position : position + size])
                if defined is not None:
                    yield defined
            position += size


def _prefixed(data: bytes, count: int) -> Iterator[bytes]:
    """So many byte strings, each behind its length."""
    position = 0
    for _ in range(count):
        (size,) = struct.unpack_from('<I', data, position)
        position += 4 + size
        if position > len(data):
            raise EOFError('a string is cut off')
        yield data[position - size : position]


class Ros1Storage(_ChunkedStorage):
    """A ROS 1 bag of format 2.0 (http://wiki.ros.org/Bags/Format/2.0), indexed or not."""

    _remedy = '"rosbag reindex" gives a file that other programs read'
    _MESSAGE, _INDEX, _CHUNK, _CONNECTION = 2, 4, 5, 7

    def _begin(self) -> None:
        if self._file.readline(64) != b'#ROSBAG V2.0\n':
            raise ValueError('it does not begin as a ROS bag of format 2.0')

    def _header(self) -> tuple[dict[bytes, bytes], int]:
        (size,) = struct.unpack('<I', self._read(4))
        fields = _ros1_fields(self._read(size))
        (size,) = struct.unpack('<I', self._read(4))
        return fields, size

    def _walk(self) -> None:
        indexed = False
        while self._file.tell() < self._size:
            fields, size = self._header()
            op, end = fields[b'op'][0] if b'op' in fields else 0, self._file.tell() + size
            if op == 3:  # the bag header
                indexed = struct.unpack('<Q', fields[b'index_pos'])[0] != 0
            elif op == self._CHUNK:
                compression = fields[b'compression'].decode()
                self._chunks.append(_Chunk(self._file.tell(), size, compression))
            elif op == self._INDEX and self._chunks:
                self._index(fields, self._read(size))
            elif op == self._CONNECTION:
                self._define(fields, self._read(size))
            self._file.seek(end)
            if end > self._size:
                raise EOFError('cut off')
        if not indexed:
            self.fault = (
                'truncated',
                f'{self.path.name} was never closed by its recorder, so its end may be missing; '
                f'{self._remedy}',
            )

    def _index(self, fields: dict[bytes, bytes], data: bytes) -> None:
        (channel,) = struct.unpack('<I', fields[b'conn'])
        entries = np.frombuffer(data, '<u4').reshape(-1, 3).astype(np.int64)
        chunk = self._chunks[-1]
        chunk.times = {} if chunk.times is None else chunk.times
        chunk.times[channel] = (entries[:, 0] * 10**9 + entries[:, 1]).tolist()

    def _define(self, fields: dict[bytes, bytes], data: bytes) -> Channel:
        about = _ros1_fields(data)
        package, _, name = about[b'type'].decode().rpartition('/')
        (number,) = struct.unpack('<I', fields[b'conn'])
        topic = '/'.join(filter(None, fields[b'topic'].decode().split('/')))
        channel = Channel(
            self.path,
            number,
            f'/{topic}' if fields[b'topic'].startswith(b'/') else topic,
            f'{package}/msg/{name}',
            'ros1',
            'ros1msg',
            about[b'message_definition'],
        )
        self.channels.setdefault(number, channel)
        return channel

    def _records(self, data: bytes) -> Iterator[tuple[int, int, bytes] | Channel]:
        position = 0
        while position < len(data):
            (size,) = struct.unpack_from('<I', data, position)
            fields = _ros1_fields(data[position + 4 : position + 4 + size])
            position += 4 + size
            (size,) = struct.unpack_from('<I', data, position)
            position += 4
            if position + size > len(data):
                raise EOFError
            body = data[position : position + size]
            position += size
            op = fields[b'op'][0]
            if op == self._MESSAGE:
                seconds, nanoseconds = struct.unpack('<II', fields[b'time'])
                (channel,) = struct.unpack('<I', fields[b'conn'])
                yield channel, seconds * 10**9 + nanoseconds, body
            elif op == self._CONNECTION:
                yield self._define(fields, body)


def _ros1_fields(data: bytes) -> dict[bytes, bytes]:
    fields, position = {}, 0
    while position < len(data):
        (size,) = struct.unpack_from('<I', data, position)
        position += 4
        if position + size > len(data):
            raise EOFError('a header field is cut off')
        name, _, value = data[position : position + size].partition(b'=')
        fields[name] = value
        position += size
    return fields
