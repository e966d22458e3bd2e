"""A bag as one stream of decoded messages by topic, however many files and connections it has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
import heapq
from pathlib import Path
from typing import Any

import yaml

from sharp_ros.errors import InputError
from sharp_ros.files import natural, regular_file
from sharp_ros.sources.bag_files import open_storage
from sharp_ros.sources.messages import Decoder, Role, role_of
from sharp_ros.sources.stock import Kind, Part, Stock
from sharp_ros.sources.storage import bag_files, Channel, PACKED, Storage

_KINDS: dict[Role | None, Kind] = {
    'raw': 'image',
    'compressed': 'image',
    'video': 'image',
    'info': 'calibration',
    'odometry': 'poses',
    'pose': 'poses',
    'tf': 'transforms',
    'imu': 'gravity',
    None: 'other',
}


@dataclass(frozen=True, eq=False)  # two are never alike, and each is a key
class Topic:
    """All connections by which messages of one type were recorded under one name.

    Attributes:
        name: of the topic.
        role: what its messages are.
        msgtype: as recorded.
        channels: its connections.
        part: where it is kept account of.
        times_ns: when its messages were recorded, in order.
    """

    name: str
    role: Role | None
    msgtype: str
    channels: tuple[Channel, ...]
    part: Part
    times_ns: tuple[int, ...]


class Recording:
    """The open files of a bag.

    Attributes:
        topics: those with messages, by name.
    """

    def __init__(self, storages: Sequence[Storage], stock: Stock) -> None:
        self._storages = storages
        self._decoders: dict[Channel, Decoder | InputError] = {}
        groups: dict[tuple[str, str], list[tuple[Channel, list[int]]]] = defaultdict(list)
        for storage in storages:
            for number, channel in storage.channels.items():
                times = storage.times.get(number, [])
                groups[channel.topic, channel.msgtype].append((channel, times))
        known = {part.name: part for part in stock.parts}
        self.topics: list[Topic] = []
        for (name, msgtype), members in sorted(groups.items()):
            times = sorted(t for _, recorded in members for t in recorded)
            role, label = role_of(msgtype), f'{name} ({msgtype})'
            part = known.get(label) or stock.add(self._part(label, role, times))
            channels = tuple(channel for channel, _ in members)
            if times:
                topic = Topic(name, role, msgtype, channels, part, tuple(times))
                self.topics.append(topic)

    def _part(self, label: str, role: Role | None, times: Sequence[int]) -> Part:
        part = Part(label, _KINDS[role], len(times), clock='log')
        part.timed(times)
        if not times:
            part.unused('empty')
        elif role is None:
            part.unused('no_use')
        return part

    def faults(self) -> list[str]:
        """Why files were not read to their end."""
        return [storage.fault[1] for storage in self._storages if storage.fault is not None]

    def of(self, *roles: Role) -> list[Topic]:
        """Topics of some roles, by name."""
        return [topic for topic in self.topics if topic.role in roles]

    def messages(self, *topics: Topic) -> Iterator[tuple[Topic, int, Any]]:
        """Topic, time of the recorder in nanoseconds and message, of some topics in order of time.

        What cannot be decoded is counted at its topic and left out.
        """
        owners = {channel: topic for topic in topics for channel in topic.channels}
        streams = [self._stream(storage, owners.keys()) for storage in self._storages]
        for time, _, channel, data in heapq.merge(*streams):
            topic = owners[channel]
            try:
                yield topic, time, self._decoder(channel)(data)
            except InputError as error:
                where = f'{channel.file.name} at {time / 1e9:.3f} s'
                if error.reason == 'image_too_large':
                    where += f': {error}'
                topic.part.skip(error.reason, where)

    def _stream(
        self, storage: Storage, channels: Collection[Channel]
    ) -> Iterator[tuple[int, int, Channel, bytes]]:
        wanted = {n: channel for n, channel in storage.channels.items() if channel in channels}
        order = self._storages.index(storage)
        for number, time, data in storage.messages(wanted.keys()) if wanted else ():
            yield time, order, wanted[number], data

    def _decoder(self, channel: Channel) -> Decoder:
        if channel not in self._decoders:
            try:
                self._decoders[channel] = Decoder(channel)
            except InputError as error:
                self._decoders[channel] = error
        decoder = self._decoders[channel]
        if isinstance(decoder, InputError):
            raise decoder
        return decoder


@contextmanager
def open_recording(path: Path, stock: Stock) -> Iterator[Recording]:
    """All files of a bag that can be read; the others are accounted for in the stock.

    Raises:
        InputError: `unreadable_bag` if none can, `no_room` to unpack one.
    """
    with ExitStack() as stack:
        files, missing = _named_files(path)
        storages: list[Storage] = []
        errors: list[str] = []
        for file in missing:
            _note_fault(stock, file.name, ('missing_file', 'metadata.yaml names it'))
        for file in files:
            try:
                storages.append(stack.enter_context(open_storage(file)))
                _note_fault(stock, file.name, storages[-1].fault)
            except InputError as error:
                if error.reason == 'no_room':  # for a file that may be whole
                    raise
                _note_fault(stock, file.name, ('damaged', str(error)))
                errors.append(str(error))
        if not storages:
            raise InputError(
                f'cannot read bag {path}: {"; ".join(errors) or "it has no files"}; check it with '
                '"ros2 bag info", or record it again',
                'unreadable_bag',
            )
        yield Recording(storages, stock)
        for storage in storages:  # what reading the messages has shown
            _note_fault(stock, storage.path.name, storage.fault)


def _note_fault(stock: Stock, file: str, fault: tuple[str, str] | None) -> None:
    """Account for a file that is not whole, once."""
    if fault is not None and not any(part.name == file for part in stock.parts):
        stock.add(Part(file, 'file', use='as far as it is whole')).skip(*fault)


def _named_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Files of a bag, and those that its metadata name but that are not there.

    What metadata do not name, though it lies beside them, belongs to the bag only where they name
    nothing that is there: they are written last, so after a power cut they are missing or old.
    """
    files = bag_files(path)
    try:
        metadata = yaml.safe_load(regular_file(path / 'metadata.yaml').read_text(encoding='utf-8'))
        about = metadata['rosbag2_bagfile_information']
        names = [Path(name).name for name in about['relative_file_paths']]
    except (OSError, yaml.YAMLError, UnicodeError, KeyError, TypeError):
        return files, []
    named = [_as_it_lies(path / name) for name in names]
    there = sorted((file for file in named if file.is_file()), key=natural)
    return there or files, [file for file in named if not file.is_file()]


def _as_it_lies(file: Path) -> Path:
    """A file that metadata name, or what became of it when it was packed or unpacked since."""
    others = [file.with_name(file.name + suffix) for suffix in PACKED]
    if file.suffix in PACKED:
        others.append(file.with_suffix(''))
    return next((f for f in (file, *others) if f.is_file()), file)
