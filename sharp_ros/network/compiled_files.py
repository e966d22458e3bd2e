"""Networks as a runtime compiled them for this processor, kept in the user's cache.

To compile nano takes half a second of each start and leaves memory behind; what comes out is read
from a file instead, whose pages the system may take back at any time. A file is named by all that
it depends on and ends with a checksum, so that one of another version is never met, and a damaged
one is thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
import hashlib
import json
import logging
import mmap
import os
from pathlib import Path
import time

from sharp_ros.files import CACHE_FOLDER, replacing
from sharp_ros.process import processor

_FOLDER, _ENDING = 'compiled', '.blob'
_KEPT = 6  # files: two precisions of three sizes of images
_ABANDONED = 600.0  # seconds after which a file that is not finished is nobody's any more
_CHECKSUM = hashlib.sha256().digest_size
_log = logging.getLogger(__name__)
_mapped: dict[Path, mmap.mmap] = {}
_lasting: list[mmap.mmap] = []  # all that was ever mapped: networks read from it


def file_for(*facts: object) -> Path:
    """Where a network is kept; it depends on the processor and on these facts."""
    text = json.dumps([processor(), *facts])
    name = hashlib.sha256(text.encode()).hexdigest() + _ENDING
    return CACHE_FOLDER.expanduser() / _FOLDER / name


def keep(path: Path, contents: bytes) -> None:
    """Write a file, and remove the oldest ones; where that is impossible the next start compiles.

    Args:
        path: from `file_for`.
        contents: as the runtime exported them.
    """
    own = path.with_name(f'{os.getpid()}.{path.name}')  # others may write the same one just now
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(own) as file:
            file.write(contents)
            file.write(hashlib.sha256(contents).digest())
        own.replace(path)
        by_age = sorted(path.parent.glob('[!.]*' + _ENDING), key=_written)
        abandoned = (p for p in path.parent.glob('.*') if time.time() - _written(p) > _ABANDONED)
        _remove([*by_age[:-_KEPT], *abandoned])
    except OSError as error:
        _log.warning('cannot keep the network that was compiled: %s', error)


def mapped(path: Path) -> memoryview | None:
    """The contents of a file; None if it cannot be had, or is damaged: then the file goes.

    They stay in memory as long as the process lasts, see `give_back`.
    """
    if path not in _mapped:
        try:
            with path.open('rb') as file:
                # pages of its own: runtimes ask for memory that may be written to
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError:
            return None
        except ValueError:  # empty
            discard(path)
            return None
        if hashlib.sha256(memoryview(pages)[:-_CHECKSUM]).digest() != pages[-_CHECKSUM:]:
            _log.warning('%s is damaged and is made again', path)
            discard(path)
            return None
        _mapped[path] = pages
        _lasting.append(pages)
    return memoryview(_mapped[path])[:-_CHECKSUM]


def give_back(path: Path) -> None:
    """Let the system have the memory of a file that is mapped; what is read again comes back."""
    with suppress(OSError):  # a process that has locked its memory keeps it
        _mapped[path].madvise(mmap.MADV_DONTNEED)


def discard(path: Path) -> None:
    """Remove a file that is of no use."""
    _mapped.pop(path, None)
    with suppress(OSError):
        path.unlink(missing_ok=True)


def forget() -> None:
    """Remove all files, so that the next start compiles again."""
    _remove((CACHE_FOLDER.expanduser() / _FOLDER).glob('*'))


def _written(path: Path) -> float:
    """When, as seconds since the epoch; of a file that has just gone: now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
