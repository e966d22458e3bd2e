"""Weights that cannot be shipped: downloaded from their publisher to where models are looked up.

    server ── what is missing ──> X.part, X.part.json ── what it should be? ──> X, X.sha256

The note X.part.json says which version of the file the part is of. One module, since all of it
keeps one promise: what is in place is whole and what it should be, whatever happens before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import fcntl
from http.client import HTTPException, HTTPResponse
import json
import os
from pathlib import Path
import shutil
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import build_opener, HTTPRedirectHandler, Request
import zipfile

from sharp_ros import __version__
from sharp_ros.errors import CheckpointError, ConfigError
from sharp_ros.files import sha256_of, write_atomically
from sharp_ros.models import Download

Say = Callable[[str], object]  # given a line about what is going on
Progress = Callable[[int, 'int | None'], object]  # given the bytes that have come, of how many
_BLOCK = 1 << 20  # bytes
_TIMEOUT = 30.0  # of connecting, and of silence
_THIS_MACHINE = ('localhost', '127.0.0.1', '::1')


def download_file(download: Download, target: Path, say: Say, progress: Progress) -> str:
    """Download a file, going on with a part of it where there is one, and put it into place.

    Args:
        download: what it is and where it comes from.
        target: path of the file, in a folder that exists.
        say: called with a line about what is going on.
        progress: called with the bytes that have come, and of how many if the server says it.

    Returns:
        Its SHA-256, which `<target>.sha256` holds as well.

    Raises:
        CheckpointError: if it did not come whole, which keeps the part, or is not what it should
            be, which removes it.
        OSError: if it cannot be written.
    """
    part = target.with_name(f'{target.name}.part')
    note = target.with_name(f'{target.name}.part.json')
    try:
        _receive(download, part, note, say, progress)
    except URLError as error:
        raise CheckpointError(
            f'{error.reason}; run the same command again, which keeps what came so far, or '
            f'download {download.url} elsewhere and put it at {target}'
        ) from error
    try:
        digest = verify(download, part, say)
    except CheckpointError as error:
        part.unlink()
        note.unlink(missing_ok=True)
        raise CheckpointError(
            f'{download.url} gave a file that was removed, since it is not what it should be: '
            f'{error}'
        ) from error
    with part.open('rb') as file:
        os.fsync(file.fileno())
    write_atomically(_digest_file(target), f'{digest}  {target.name}\n')
    part.replace(target)
    note.unlink(missing_ok=True)
    return digest


def verify(download: Download, path: Path, say: Say) -> str:
    """The SHA-256 of a file that is what it should be.

    Args:
        download: what it should be.
        path: of the file.
        say: called with a line about what is going on.

    Raises:
        CheckpointError: saying what differs.
    """
    say(f'checking {path}')
    size, (least, greatest) = path.stat().st_size, download.sizes
    if not least <= size <= greatest:
        raise CheckpointError(f'{path} has {size:,} bytes, not {least:,} to {greatest:,}')
    digest = sha256_of(path)
    if download.sha256 not in (None, digest):
        raise CheckpointError(f'the SHA-256 of {path} is {digest}, not {download.sha256}')
    download.check(path)
    # Loading looks at the values alone; the sums in the file also tell wrong from right numbers.
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except zipfile.BadZipFile as error:
            raise CheckpointError(f'{path} is damaged ({error})') from error
        if damaged:
            raise CheckpointError(f'{path} is damaged (the checksum of {damaged} differs)')
    return digest


def present_digest(download: Download, target: Path, say: Say) -> str | None:
    """The SHA-256 of a good file that is there already; None of one that is missing or bad.

    Args:
        download: what it should be.
        target: path of the file.
        say: called with a line about what is going on.

    Raises:
        CheckpointError: if it is a checkpoint, but not the one that was downloaded.
    """
    if not target.is_file():
        return None
    try:
        digest = verify(download, target, say)
    except CheckpointError as error:
        say(f'{error}; it will be replaced')
        return None
    recorded = _digest_file(target)
    if recorded.is_file() and recorded.read_text(encoding='utf-8').split()[:1] != [digest]:
        raise CheckpointError(
            f'{target} is a checkpoint, but changed since it was downloaded: its SHA-256 {digest} '
            f'is not the one in {recorded}; remove the former to download it again, or the latter '
            'if the change was meant'
        )
    return digest


def _digest_file(target: Path) -> Path:
    return target.with_name(f'{target.name}.sha256')  # as `sha256sum -c` reads it


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, since two processes appending to one part would spoil it.

    Raises:
        ConfigError: if another process does.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f'another `sharp-ros fetch` is writing to {folder}; wait until it is done'
            ) from error
        except OSError:
            pass  # some network file systems cannot lock folders; better to go on than never
        yield
    finally:
        os.close(handle)


def _receive(download: Download, part: Path, note: Path, say: Say, progress: Progress) -> None:
    """Bring `part` to the size that the server announces.

    Raises:
        URLError: if the server cannot be reached, goes away or sends something else.
        CheckpointError: if there is no room for the file.
    """
    offset, version = _resumable(download, part, note)
    response = _ask(download.url, offset, version)
    span = response.headers.get('Content-Range', '')
    if response.status == 416 and span == f'bytes */{offset}':
        response.close()
        return  # all of it had come before
    same = _version(response) in ('', version) and span.startswith(f'bytes {offset}-')
    if offset and not (response.status == 206 and same):
        offset = 0
        if response.status != 200:  # which is the whole file
            response.close()
            response = _ask(download.url)
    with response:
        total = _announced(response, offset)
        kind, (least, greatest) = response.headers.get_content_type(), download.sizes
        if kind == 'text/html' or not least <= (least if total is None else total) <= greatest:
            size = 'unknown size' if total is None else f'{total:,} bytes'
            raise URLError(
                f'{download.url} answers with {kind} of {size} instead of a file of {least:,} to '
                f'{greatest:,} bytes (a login page or proxy may be in between)'
            )
        if not offset:
            part.unlink(missing_ok=True)
        free, needed = shutil.disk_usage(part.parent).free, (total or greatest) - offset
        if free < needed:
            raise CheckpointError(
                f'{part.parent} has {free:,} bytes free, but {needed:,} are still to come; '
                'make room or give another --output'
            )
        if not offset:  # after the old part is gone, lest it be taken for one of this version
            contents = {'url': download.url, 'version': _version(response)}
            write_atomically(note, json.dumps(contents))
        say(f'{download.url} -> {part}; if interrupted, the same command goes on')
        progress(offset, total)
        with part.open('ab') as file:
            for block in _blocks(response):
                file.write(block)
                offset += len(block)
                progress(offset, total)
    size = part.stat().st_size
    if total not in (None, size):
        raise URLError(f'the connection ended when {size:,} of {total:,} bytes had come')


def _resumable(download: Download, part: Path, note: Path) -> tuple[int, str]:
    """Bytes that came before, and the version they are of; 0 if they are of no use."""
    try:
        contents = json.loads(note.read_text(encoding='utf-8'))
        if contents['url'] == download.url and contents['version']:
            return part.stat().st_size, contents['version']
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no part, or a note of something else
    return 0, ''


def _version(response: HTTPResponse | HTTPError) -> str:
    """What tells versions of a file apart byte by byte, which weak tags (W/"...") do not."""
    tag = response.headers.get('ETag', '')
    return tag if tag.startswith('"') else response.headers.get('Last-Modified', '')


def _announced(response: HTTPResponse, offset: int) -> int | None:
    """Size of the whole file as the server says it, if it does."""
    total = response.headers.get('Content-Range', '').rpartition('/')[2]
    if response.status == 206 and total.isdecimal():
        return int(total)
    return None if response.length is None else offset + response.length


def _ask(url: str, offset: int = 0, version: str = '') -> Any:
    """The answer to asking for a file from an offset on; 416, nothing there, is one too."""
    headers = {'User-Agent': f'sharp-ros/{__version__}'}
    if offset:
        headers |= {'Range': f'bytes={offset}-', 'If-Range': version}
    try:
        _require_https(url)
        return build_opener(_HttpsRedirects).open(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and offset:
            return error
        raise URLError(f'{url} answers {error.code} {error.reason}') from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, 'reason', error)
        raise URLError(f'cannot reach {url} ({reason})') from error


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            block = response.read1(_BLOCK)  # what has come, so that an interrupt loses nothing
        except (OSError, HTTPException) as error:
            cause = str(error) or type(error).__name__
            raise URLError(f'the connection was lost ({cause})') from error
        if not block:
            return
        yield block


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    local = parts.scheme == 'http' and parts.hostname in _THIS_MACHINE
    if parts.scheme != 'https' and not local:
        raise URLError(f'{url} is not https')


class _HttpsRedirects(HTTPRedirectHandler):
    """Follows no redirect that leaves https."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
