"""Files of bags, read as far as they are whole: MCAP, SQLite and ROS 1, cut off or complete.

`rosbags` refuses a file that has no index, one channel that it cannot decode, or a folder without
metadata; a recorder that lost its power leaves all of these. So the containers are walked here,
record by record, which needs no index; messages are decoded elsewhere (`messages.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sharp_ros.errors import InputError
from sharp_ros.files import natural

LARGEST_UNPACKED = 1 << 28  # bytes of a chunk or message; MAX_MESSAGE_PIXELS of four bytes fit in
PACKED = ('.zstd', '.zst')  # suffixes, of rosbag2 and of the tool zstd
_ZSTD = b'\x28\xb5\x2f\xfd'


@dataclass(frozen=True, eq=False)  # two are never alike, and each is a key
class Channel:
    """One connection of one file: what a topic was recorded by.

    Attributes:
        file: that holds it.
        id: in that file.
        topic: name.
        msgtype: as written, such as `sensor_msgs/msg/Image`.
        encoding: of its messages: `cdr`, `ros1`, `json`, `protobuf`, ...
        schema_encoding: of its definition: `ros2msg`, `ros1msg`, `protobuf`, ...; empty if none.
        schema: the definition.
    """

    file: Path
    id: int
    topic: str
    msgtype: str
    encoding: str
    schema_encoding: str = ''
    schema: bytes = b''


class Storage(ABC):
    """One file of a bag, open for reading.

    Attributes:
        path: of the file, as its owner knows it.
        channels: by their id.
        times: of the messages of each channel, nanoseconds of the recorder's clock.
        fault: reason and sentence why it was not read to its end; None if it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channels: dict[int, Channel] = {}
        self.times: dict[int, list[int]] = defaultdict(list)
        self.fault: tuple[str, str] | None = None

    @abstractmethod
    def messages(self, ids: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Channel id, time and bytes of all messages of some channels, in order of time."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


def bag_files(path: Path) -> list[Path]:
    """Files of a bag: those of a folder with bags, or the file itself; empty if it is no bag.

    Of a file that lies there packed and unpacked, only the latter.
    """
    if path.is_dir():
        found = [p for p in path.iterdir() if p.is_file() and _is_bag_file(p)]
        packed = {p for p in found if p.suffix.lower() in PACKED and p.with_suffix('') in found}
        return sorted(set(found) - packed, key=natural)
    return [path] if path.is_file() and _is_bag_file(path) else []


def _is_bag_file(path: Path) -> bool:
    suffixes = [s.lower() for s in path.suffixes[-2:]]
    if suffixes[-1:] == ['.active'] or (suffixes and suffixes[-1] in PACKED):
        return suffixes[0] in ('.mcap', '.db3', '.bag')
    return suffixes[-1:] in (['.mcap'], ['.db3'], ['.bag'])


def plain(data: bytes) -> bytes:
    """A message that its recorder may have compressed (rosbag2's mode `message`).

    Raises:
        InputError: `damaged`, or `image_too_large` if it would be far larger unpacked.
    """
    if data[:4] != _ZSTD:
        return data
    from backports import zstd

    unpacking = zstd.ZstdDecompressor()
    try:
        unpacked = unpacking.decompress(data, LARGEST_UNPACKED)
    except zstd.ZstdError as error:
        raise InputError(f'a compressed message is damaged: {error}', 'damaged') from error
    if len(unpacked) == LARGEST_UNPACKED:
        raise InputError(
            f'a compressed message holds more than {LARGEST_UNPACKED >> 20} MB; record smaller '
            'images',
            'image_too_large',
        )
    if not unpacking.eof:
        raise InputError('a compressed message is damaged: it is cut off', 'damaged')
    return unpacked
