"""What a fleet leaves: a folder for each recording, and tables of all of them.

    NAME-KEY/        of one recording; KEY is made of its contents and of the settings
        log.txt      what the command said
        report.json  its report, where it makes one
        ...          its results
        result.json  written last: without it, or with half of it, a recording is not finished
    results.json     the table, with totals; results.parquet the same, where pyarrow is installed
    index.html       the table with pictures
    contents.json    what was read of each recording, so that it is read again only if it changed

All of it lies in a folder or below a URL, through fsspec.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
import io
import json
from pathlib import Path
import re
from typing import Any

from sharp_ros.fleet.page import page
from sharp_ros.fleet.recordings import Contents, file_system, is_url, PATTERN

RESULT, REPORT, LOG, THUMBNAIL = 'result.json', 'report.json', 'log.txt', 'thumbnail.jpg'
FINISHED, FAILED, LOST = 'finished', 'failed', 'lost'
_CONTENTS, _PARQUET = 'contents.json', 'results.parquet'
# what a report says of the machine, the settings and the parts of a recording is no column
_NOT_IN_TABLE = frozenset({'stock', 'config', 'machine', 'files', 'command', 'commit', 'source'})
Row = dict[str, Any]


class Results:
    """The results of a fleet.

    Args:
        place: folder or URL.

    Raises:
        ConfigError: if the package for such URLs is not installed.
    """

    def __init__(self, place: str) -> None:
        self.place = place if is_url(place) else str(Path(place).absolute())
        self._system, self._root = file_system(self.place)
        self._root = self._root.rstrip('/')

    def create(self) -> None:
        """Make the folder, where there are folders.

        Raises:
            OSError: if it cannot be written.
        """
        self._system.makedirs(self._root, exist_ok=True)

    def finished(self) -> dict[str, Row]:
        """The rows of all recordings that are finished, by key."""
        rows: dict[str, Row] = {}
        root = re.sub(r'([*?[])', r'[\1]', self._root)  # which may be called `maps [1]`
        paths = self._system.glob(f'{root}/*/{RESULT}')
        # `cat` would take the names for patterns, too
        for data in self._system.cat_ranges(paths, None, None, on_error='return'):
            with suppress(ValueError, KeyError, TypeError):  # cut short: not finished
                row = json.loads(data)
                if row['status'] == FINISHED:
                    rows[row['key']] = row
        return rows

    def keep(self, folder: Path, row: Mapping[str, Any]) -> None:
        """Copy the results of one recording to where `row['folder']` says, its row last.

        Raises:
            OSError: if that cannot be written.
        """
        target = f'{self._root}/{row["folder"]}'
        self._remove(target)  # what a failed or a killed attempt has left
        for path in sorted(p for p in folder.rglob('*') if p.is_file()):
            copy = f'{target}/{path.relative_to(folder).as_posix()}'
            self._system.makedirs(copy.rpartition('/')[0], exist_ok=True)
            self._system.put_file(str(path), copy)
        self._write(f'{row["folder"]}/{RESULT}', json.dumps(row, indent=2).encode())

    def known_contents(self) -> dict[str, tuple[str, Contents]]:
        """Fingerprint and contents of recordings that were read before, by name."""
        with suppress(OSError, ValueError, TypeError, AttributeError):
            known = json.loads(self._system.cat_file(f'{self._root}/{_CONTENTS}'))
            return {name: (mark, Contents(*told)) for name, (mark, told) in known.items()}
        return {}

    def write_contents(self, known: Mapping[str, tuple[str, Contents]]) -> None:
        """Remember what was read."""
        self._write(_CONTENTS, json.dumps(known).encode())

    def write_tables(self, rows: Sequence[Row], about: Mapping[str, Any]) -> Row:
        """Write the table in all its forms.

        Args:
            rows: one for each recording, in their order.
            about: what else the JSON says.

        Returns:
            The totals.
        """
        totals = totals_of(rows)
        # of an earlier call: it would contradict the others where it cannot be written anew
        self._remove(f'{self._root}/{_PARQUET}')
        report = {**about, 'totals': totals, 'recordings': rows}
        self._write('results.json', json.dumps(report, indent=2).encode())
        self._write('index.html', page(rows, totals).encode())
        # not installed; or a column of several kinds, which JSON holds
        with suppress(ImportError, ValueError, TypeError):
            self._write(_PARQUET, parquet(rows))
        return totals

    def _remove(self, target: str) -> None:
        """Remove a file, or a folder with all files in it, if it is there."""
        if self._local or not PATTERN & set(target):
            with suppress(FileNotFoundError):
                self._system.rm(target, recursive=True)
            return
        for file in self._system.find(target):  # elsewhere `rm` would fill in the pattern
            self._system.rm_file(file)

    def _write(self, name: str, data: bytes) -> None:
        """Not in place, where readers or a kill could meet half of it."""
        target = f'{self._root}/{name}'
        if self._local:
            from sharp_ros.files import write_atomically

            write_atomically(target, data)
        else:
            self._system.pipe_file(target, data)

    @property
    def _local(self) -> bool:
        from fsspec.implementations.local import LocalFileSystem

        return isinstance(self._system, LocalFileSystem)


def totals_of(rows: Sequence[Row]) -> Row:
    """Counts, and what an hour of recording cost, each content counted once."""
    done = {row['key']: row for row in rows if row['status'] == FINISHED}.values()
    hours = sum(row.get('recorded_s') or 0.0 for row in done) / 3600
    totals: Row = {
        'recordings': len(rows),
        **{s: sum(row['status'] == s for row in rows) for s in (FINISHED, FAILED, LOST)},
        'recorded_h': round(hours, 6),
        'peak_mb': max((row['peak_mb'] for row in done), default=None),
    }
    for name in ('wall_s', 'cpu_s', 'bytes', 'result_bytes'):
        totals[name] = round(sum(row[name] for row in done), 2)
        totals[f'{name}_per_recorded_h'] = round(totals[name] / hours, 1) if hours else None
    return totals


def numbers_of(report: Mapping[str, Any]) -> Row:
    """A report as columns: nested names are joined by dots, lists are left out."""
    return dict(_flat(report, ''))


def _flat(report: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in report.items():
        if not prefix and name in _NOT_IN_TABLE:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{name}.')
        elif not isinstance(value, list):
            yield f'{prefix}{name}', value


def recorded_seconds(report: Mapping[str, Any]) -> float | None:
    """Length of a recording by the stamps of its images; None where the report does not tell."""
    parts = (report.get('stock') or {}).get('parts', ())
    spans = [
        (part['end_ns'] - part['begin_ns']) / 1e9
        for part in parts
        if part['use'] == 'camera' and part['begin_ns'] is not None
    ]
    return round(max(spans), 3) if spans else None


def parquet(rows: Sequence[Row]) -> bytes:
    """The table as a Parquet file; what a row does not say is null.

    Raises:
        ModuleNotFoundError: without pyarrow.
    """
    import pyarrow  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet  # pyright: ignore[reportMissingImports]

    columns = {name: [row.get(name) for row in rows] for name in _names(rows)}
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _names(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
