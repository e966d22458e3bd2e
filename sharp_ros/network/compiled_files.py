"""Networks as a runtime compiled them for this processor, kept in the user's cache.

To compile nano takes half a second of each start and leaves memory behind; what comes out is read
from a file instead, whose pages the system may take back at any time. A file is named by all that
it depends on and ends with a checksum, so that one of another version is never met, and a damaged
one is thrown away.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
import hashlib
import json
import logging
import mmap
from pathlib import Path

from sharp_ros.files import CACHE_FOLDER, replacing
from sharp_ros.process import processor

_FOLDER, _ENDING = 'compiled', '.blob'
_KEPT = 6  # files: two precisions of three sizes of images
_CHECKSUM = hashlib.sha256().digest_size
_log = logging.getLogger(__name__)


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(contents)
            file.write(hashlib.sha256(contents).digest())
        by_age = sorted(path.parent.glob('*' + _ENDING), key=lambda file: file.stat().st_mtime_ns)
        for old in by_age[:-_KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        _log.warning('cannot keep the network that was compiled: %s', error)


def mapped(path: Path) -> tuple[mmap.mmap, memoryview] | None:
    """A file in memory, and its contents; None if it is missing, or damaged: then it goes.

    It stays mapped as long as the process lasts, since networks read from it.
    """
    with suppress(OSError, ValueError):  # missing; empty
        return _mapped(path)
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return None


def forget() -> None:
    """Remove all files, so that the next start compiles again."""
    for path in (CACHE_FOLDER.expanduser() / _FOLDER).glob('*' + _ENDING):
        path.unlink(missing_ok=True)


@cache
def _mapped(path: Path) -> tuple[mmap.mmap, memoryview]:
    with path.open('rb') as file:
        # pages of its own: runtimes ask for memory that may be written to
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    contents = memoryview(pages)[:-_CHECKSUM]
    if hashlib.sha256(contents).digest() != pages[-_CHECKSUM:]:
        _log.warning('%s is damaged and is made again', path)
        raise ValueError(f'{path} is damaged')
    return pages, contents
