"""Files: where ours are kept, their order, and writing so that nobody ever meets half of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
import errno
import hashlib
import os
from pathlib import Path
import re
import shutil
import stat
from typing import Any, BinaryIO

# Of the user: weights whose licence does not let us ship them, and results of self-checks.
CACHE_FOLDER = Path('~/.cache/sharp_ros')


_KINDS = (
    (stat.S_ISFIFO, 'a named pipe'),
    (stat.S_ISSOCK, 'a socket'),
    (stat.S_ISCHR, 'a device'),
    (stat.S_ISBLK, 'a device'),
)


def regular_file(path: str | os.PathLike[str]) -> Path:
    """The path itself, if nothing but its contents is to be had from opening it; links count.

    Opening a named pipe waits until somebody writes to it, reading a device may never end, and
    both may be anybody's in a folder of others. Folders pass: opening them says what they are.

    Raises:
        OSError: that names the kind, or as of a file that is missing.
    """
    mode = os.stat(path).st_mode
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise OSError(errno.EINVAL, f'{name} instead of a file', os.fspath(path))
    return Path(path)


def natural(path: Path) -> list[Any]:
    """Sorts `frame2` before `frame10`, by the name alone."""
    parts = re.split(r'(\d+)', path.name.lower())
    return [(int(p), '') if p.isdecimal() else (-1, p) for p in parts] + [(-1, path.name)]


def meant(path: Path) -> str:
    """What lies where a path leads and has nearly its name, as a question; empty if nothing."""
    with suppress(OSError):
        near = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 1)
        return ''.join(f' (did you mean {path.parent / name}?)' for name in near)
    return ''


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path`, as a whole, when the block ends well.

    It is written beside the target, forced to disk and renamed; after an error the target is as it
    was and nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.partial')
    try:
        with temporary.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Replace a file by these contents, text as UTF-8; see `replacing`."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder that appears at `path`, as a whole, when the block ends well.

    The block fills a hidden one beside it with files. All of it is forced to disk and renamed;
    after an error nothing is left behind. What a killed process left goes when the same folder is
    written again.

    Args:
        path: of a folder that is empty or does not exist.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.partial')
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in (*temporary.rglob('*'), temporary):
            _force_to_disk(file)
        temporary.rename(path)
        _force_to_disk(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_symlink(path: str | Path, target: str) -> None:
    """Let a symlink point elsewhere; at any moment it points to the old target or the new one."""
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.partial')
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)
    _force_to_disk(path.parent)


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    sha256 = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()
