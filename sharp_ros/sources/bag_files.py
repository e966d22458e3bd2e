"""Opening one file of a bag, whatever it is: MCAP, SQLite or ROS 1, packed or not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, ExitStack, suppress
import os
from pathlib import Path
import shutil
import sqlite3
import struct
import tempfile

from sharp_ros.errors import InputError
from sharp_ros.files import regular_file
from sharp_ros.sources.chunked import McapStorage, Ros1Storage
from sharp_ros.sources.storage import Channel, PACKED, Storage

_RESERVE = 1 << 30  # bytes that stay free for others where a file is unpacked or copied
_PIECE = 1 << 16  # bytes that are unpacked before room is looked for again


@contextmanager
def open_storage(path: Path) -> Iterator[Storage]:
    """Open one file of a bag.

    Raises:
        InputError: `unreadable_bag` if nothing of it can be read, `no_room` to unpack it.
    """
    with ExitStack() as stack:
        file, note = path, ''
        if path.suffix.lower() in PACKED:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            file, note = _unpacked(path, folder)
        suffix = file.suffix if file.suffix.lower() != '.active' else Path(file.stem).suffix
        try:
            kind = _STORAGES[suffix.lower()]
        except KeyError:
            raise InputError(f'{path} is no file of a bag', 'unreadable_bag') from None
        try:
            storage = kind(file) if file == path else kind(file, path)
        except (OSError, sqlite3.Error, ValueError, struct.error, EOFError) as error:
            raise InputError(f'{path}: {error}', 'unreadable_bag') from error
        stack.callback(storage.close)
        if note and storage.fault is None:
            storage.fault = ('truncated', note)
        yield storage


def _unpacked(path: Path, folder: Path) -> tuple[Path, str]:
    """A compressed file as far as it can be decompressed, and what is wrong with it.

    Raises:
        InputError: `unreadable_bag` if nothing can, `no_room`.
    """
    from backports import zstd

    target = folder / path.stem
    with regular_file(path).open('rb') as packed, target.open('wb') as file:
        try:
            with zstd.open(packed, 'rb') as whole:
                while piece := whole.read(_PIECE):
                    _check_room(path, folder, len(piece))
                    file.write(piece)
        except OSError as error:
            raise _no_room(path, folder, str(error)) from error
        except (zstd.ZstdError, EOFError) as error:
            if not file.tell():
                raise InputError(f'{path}: {error}', 'unreadable_bag') from error
            return target, f'{path.name} is damaged ({error})'
    return target, ''


def _check_room(path: Path, folder: Path, size: int) -> None:
    """Before a file that may be a small one of endless zeros takes the disk from all others."""
    if shutil.disk_usage(folder).free - size < _RESERVE:
        kept = f'less than {_RESERVE / 1e9:.1f} GB would stay free'
        raise _no_room(path, folder, kept)


def _no_room(path: Path, folder: Path, why: str) -> InputError:
    return InputError(
        f'{path} finds no room in {folder} ({why}); free space there, or set TMPDIR to a folder '
        'that has it',
        'no_room',
    )


def _missing_bytes(file: Path) -> int:
    """By which a database is shorter than its header says (https://sqlite.org/fileformat.html)."""
    with regular_file(file).open('rb') as database:
        header = database.read(32)
    if not header.startswith(b'SQLite format 3\0') or len(header) < 32:
        return 0
    page, pages = struct.unpack_from('>H', header, 16)[0], struct.unpack_from('>I', header, 28)[0]
    return max(0, (65536 if page == 1 else page) * pages - file.stat().st_size)


class SqliteStorage(Storage):
    """A `.db3` file of rosbag2; also one that was being written when the power went."""

    def __init__(self, file: Path, path: Path | None = None) -> None:
        super().__init__(path or file)
        self._stack = ExitStack()
        try:
            journals = [file.with_name(file.name + end) for end in ('-journal', '-wal')]
            hot = [p for p in journals if p.is_file() and p.stat().st_size]
            missing = _missing_bytes(file)
            mode = 'mode=ro&immutable=1'
            if hot or missing:  # mended in a copy, so that the bag stays as it is
                folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
                for original in (file, *hot):
                    _check_room(self.path, folder, original.stat().st_size)
                    shutil.copyfile(original, folder / original.name)
                file, mode = folder / file.name, 'mode=rw'
                why = (
                    f'was being written when its recorder ended ({hot[0].name})'
                    if hot
                    else f'ends {missing} bytes too early'
                )
                self.fault = ('truncated', f'{self.path.name} {why}, so messages may be missing')
            if missing and not hot:  # SQLite reads no file that is shorter than it says
                os.truncate(file, file.stat().st_size + missing)
            uri = f'{file.absolute().as_uri()}?{mode}'
            connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self._database = self._stack.enter_context(closing(connection))
            self._read_topics()
            self._entries = self._read_times()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `Storage`."""
        self._stack.close()

    def _read_topics(self) -> None:
        definitions: dict[str, tuple[str, bytes]] = {}
        with suppress(sqlite3.Error):  # older bags have none
            rows = self._database.execute(
                'SELECT topic_type, encoding, encoded_message_definition FROM message_definitions'
            )
            definitions = {name: (form, text.encode()) for name, form, text in rows if text}
        rows = self._database.execute('SELECT id, name, type, serialization_format FROM topics')
        for number, topic, msgtype, encoding in rows:
            form, text = definitions.get(msgtype, ('', b''))
            self.channels[number] = Channel(
                self.path, number, topic, msgtype, encoding, form, text
            )

    def _read_times(self) -> list[tuple[int, int, int]]:
        """(time, row, channel) of all messages whose row can be found, by time."""
        entries: list[tuple[int, int, int]] = []
        try:
            for row in self._database.execute('SELECT timestamp, id, topic_id FROM messages'):
                entries.append(row)
        except sqlite3.Error as error:
            reason = f'{self.path.name}: {error}; "sqlite3 FILE .recover" helps'
            self.fault = self.fault or ('truncated', reason)
            entries = entries or self._by_row()
        entries = [row for row in entries if all(type(value) is int for value in row)]
        entries.sort()
        for time, _, channel in entries:
            self.times[channel].append(time)
        return entries

    def _by_row(self) -> list[tuple[int, int, int]]:
        """The same, row by row, where the index over times is broken."""
        entries: list[tuple[int, int, int]] = []
        with suppress(sqlite3.Error):
            query = 'SELECT timestamp, id, topic_id FROM messages NOT INDEXED ORDER BY id'
            for row in self._database.execute(query):
                entries.append(row)
        return entries

    def messages(self, ids: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """See `Storage`."""
        wanted = set(ids)
        for time, row, channel in self._entries:
            if channel in wanted:
                try:
                    query = self._database.execute('SELECT data FROM messages WHERE id=?', (row,))
                    found = query.fetchone()
                except sqlite3.Error as error:
                    self.fault = self.fault or ('damaged', f'{self.path.name}: {error}')
                    continue
                if found is not None:
                    yield channel, time, found[0]


_STORAGES = {'.mcap': McapStorage, '.db3': SqliteStorage, '.bag': Ros1Storage}
