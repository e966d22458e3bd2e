"""Recordings by path or URL, through fsspec, and known again by their contents."""

from __future__ import annotations

from collections.abc import Iterable
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from sharp_ros.errors import ConfigError, InputError

_BLOCK = 1 << 20  # bytes that are read at once
PATTERN = frozenset('*?[')  # of a name that fsspec takes for a pattern


class Contents(NamedTuple):
    """What a recording holds: SHA-256 over its files, and their bytes."""

    digest: str
    size: int


def is_url(name: str) -> bool:
    """Whether fsspec is asked for it, rather than the file system of this machine alone."""
    return '://' in name


def file_system(place: str) -> tuple[Any, str]:
    """The file system of a path or URL, and its path there.

    Raises:
        ConfigError: if the kind of URL is unknown, or the package for it is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise ConfigError(f'{place} cannot be opened: {error}') from error


def found(names: Iterable[str]) -> list[str]:
    """Names of recordings, each once, with patterns in URLs filled in, since no shell does that.

    Raises:
        InputError: `no_such_source` for what leads nowhere.
        ConfigError: see `file_system`.
    """
    names_found: list[str] = []
    for name in names:
        if is_url(name) and PATTERN & set(name):
            system, pattern = file_system(name)
            matches = sorted(system.glob(pattern))
            if not matches and system.exists(pattern):  # such as `a[1].mcap`
                matches = [pattern]
            if not matches:
                raise InputError(f'nothing matches {name}', 'no_such_source')
            names_found += [system.unstrip_protocol(match) for match in matches]
        else:
            _files(name)
            names_found.append(name)
    return list(dict.fromkeys(names_found))


def fingerprint(name: str) -> str:
    """Differs once any of its files has changed, by what the file system tells without reading."""
    _, _, files = _files(name)
    return hashlib.sha256(repr([(r, sorted(i.items())) for r, i in files]).encode()).hexdigest()


def contents(name: str) -> Contents:
    """Read all of a recording; the same wherever it lies, whatever it or its folder is called.

    Raises:
        InputError: `no_such_source`.
        OSError: if it cannot be read.
    """
    system, _, files = _files(name)
    whole, size = hashlib.sha256(), 0
    for relative, info in files:
        sha256 = hashlib.sha256()
        with system.open(info['name'], 'rb') as file:
            while block := file.read(_BLOCK):
                sha256.update(block)
                size += len(block)
        whole.update(f'{relative}\0{sha256.hexdigest()}\n'.encode())
    return Contents(whole.hexdigest(), size)


def local_copy(name: str, folder: Path) -> Path:
    """Where its files can be read as files: themselves on this machine, else copied to `folder`.

    Raises:
        InputError: `no_such_source`.
        OSError: if it cannot be copied.
    """
    from fsspec.implementations.local import LocalFileSystem

    system, root, files = _files(name)
    if isinstance(system, LocalFileSystem):
        return Path(root)
    copy = folder / root.rstrip('/').rpartition('/')[2]
    for relative, info in files:
        target = copy / relative if relative else copy
        if not target.resolve().is_relative_to(folder.resolve()):
            raise InputError(f'{name} has a file {relative} outside of itself', 'no_such_source')
        target.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(info['name'], str(target))
    return copy


def stem(name: str) -> str:
    """What its results are called after, fit for a file name anywhere."""
    last = name.rstrip('/').rpartition('/')[2] or 'recording'
    plain = ''.join(c if c.isalnum() or c in '-_.' else '_' for c in last).lstrip('.')
    # file systems count bytes, of which a letter may have four
    return plain.encode()[:80].decode(errors='ignore') or 'recording'


def _files(name: str) -> tuple[Any, str, list[tuple[str, dict[str, Any]]]]:
    """File system, path, and (path below it, what is told of it) of all files, in order."""
    system, root = file_system(name if is_url(name) else str(Path(name).absolute()))
    try:
        info = system.info(root)
    except FileNotFoundError:
        raise InputError(f'{name} does not exist', 'no_such_source') from None
    if info['type'] == 'file':
        return system, root, [('', info)]
    below = system.find(root, detail=True) if info['type'] == 'directory' else {}
    files = [
        (path.removeprefix(root).lstrip('/'), told)
        for path, told in sorted(below.items())
        if told['type'] == 'file'  # opening a named pipe would wait for ever
    ]
    if not files:
        raise InputError(f'{name} holds no file', 'no_such_source')
    return system, root, files
