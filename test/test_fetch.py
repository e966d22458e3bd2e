"""Downloading weights from a server on this machine that behaves well, badly or not at all."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
import fcntl
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import io
import os
from pathlib import Path
import re
import resource
import shutil
import signal
import socket
import ssl
import sys
from threading import Event, main_thread, Thread
import time
from types import SimpleNamespace
from urllib.request import HTTPSHandler

import pytest
import torch

from sharp_ros import downloads, models
from sharp_ros.apps import cli
from sharp_ros.errors import CheckpointError
from sharp_ros.network import sharp
from sharp_ros.network.sharp import load_checkpoint, SharpNetwork, TINY

pytestmark = pytest.mark.usefixtures('one_thread')

NAME = 'sharp_2572gikvuh.pt'


@dataclass
class Publisher:
    """What the server has, and how it misbehaves."""

    content: bytes
    etag: str = '"one"'
    modified: str = ''
    kind: str = 'application/octet-stream'
    status: int = 200
    ranges: bool = True
    if_range: bool = True
    announced: int | None = None  # 0: no length at all
    cut: int | None = None  # bytes of an answer after which the connection is dropped
    location: str = ''
    silent: bool = False  # whether the connection is left open there instead
    over: Event = field(default_factory=Event)
    asked: list[str] = field(default_factory=list)  # Range of every request
    sent: int = 0
    url: str = ''


@pytest.fixture(scope='session')
def weights() -> bytes:
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.save(SharpNetwork(TINY).state_dict(), file)
    return file.getvalue()


@pytest.fixture
def publisher(weights, monkeypatch):
    here = Publisher(weights)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(here, self)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        here.url = f'http://127.0.0.1:{server.server_port}/{NAME}'
        download = models.Download(
            here.url,
            (len(weights) - 100_000, len(weights) + 100_000),
            'For tests only.',
            lambda path: None,  # looking into the file takes longest; see `strict`
        )
        table(monkeypatch, download)
        monkeypatch.setenv('no_proxy', '*')
        yield here
        here.over.set()
        server.shutdown()


def answer(here: Publisher, request: BaseHTTPRequestHandler) -> None:
    asked = request.headers.get('Range', '')
    here.asked.append(asked)
    start, total = 0, len(here.content)
    fresh = request.headers.get('If-Range') in (here.etag, here.modified)
    if asked and here.ranges and (fresh or not here.if_range):
        start = int(asked.removeprefix('bytes=').rstrip('-'))
    status = 206 if start else here.status
    body = here.content[start:]
    if start >= total:
        status, body = 416, b''
    request.send_response(status)
    if start:
        span = f'{start}-{total - 1}' if status == 206 else '*'
        request.send_header('Content-Range', f'bytes {span}/{total}')
    if here.location:
        request.send_header('Location', here.location)
    if here.etag:
        request.send_header('ETag', here.etag)
    if here.modified:
        request.send_header('Last-Modified', here.modified)
    request.send_header('Content-Type', here.kind)
    if here.announced != 0:
        request.send_header('Content-Length', str(here.announced or len(body)))
    request.end_headers()
    body = body[: here.cut]
    with suppress(ConnectionError):  # who starts over hangs up
        request.wfile.write(body)
    here.sent += len(body)
    if here.silent:
        here.over.wait(10)


def table(monkeypatch, download) -> None:
    info = replace(models.MODELS['sharp'], download=download)
    monkeypatch.setitem(models.MODELS, 'sharp', info)


def change(monkeypatch, **changes) -> None:
    table(monkeypatch, replace(models.MODELS['sharp'].download, **changes))


@pytest.fixture
def strict(publisher, monkeypatch) -> None:
    """The file is looked into as that of the released network would be."""
    change(monkeypatch, check=lambda path: load_checkpoint(path, TINY))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / 'cache'


@pytest.fixture
def run(folder, capsys):
    """Runs `sharp-ros fetch sharp`; gives the exit code, what it said, and its one-line error."""

    def run(*flags: str, accept: bool = True) -> tuple[int, str, str]:
        accepted = ['--accept-licence'] if accept else []
        code = cli.main(['fetch', 'sharp', '--output', str(folder), *accepted, *flags])
        out, error = capsys.readouterr()
        assert error.count('\n') == (code == 1), error
        return code, out, error

    return run


def files(folder: Path) -> set[str]:
    return (
        {file.name.removeprefix(NAME) for file in folder.iterdir()} if folder.exists() else set()
    )


DONE = {'', '.sha256'}
KEPT = {'.part', '.part.json'}


def part_size(folder: Path) -> int:
    part = folder / f'{NAME}.part'
    return part.stat().st_size if part.exists() else 0


# --- it works -----------------------------------------------------------------------------------


@pytest.mark.usefixtures('strict')
def test_weights_arrive_whole_with_their_digest(run, publisher, folder, weights):
    code, out, _ = run()
    assert code == 0
    assert (folder / NAME).read_bytes() == weights
    digest = hashlib.sha256(weights).hexdigest()
    assert (folder / f'{NAME}.sha256').read_text() == f'{digest}  {NAME}\n'
    assert files(folder) == DONE
    for said in ('research only', 'For tests only.', digest, f'{len(weights):,} bytes'):
        assert said in out
    assert str(folder / NAME) in out


def test_weights_go_to_where_the_model_is_looked_for(publisher, folder, monkeypatch):
    monkeypatch.setattr(models, 'CACHE_FOLDER', folder)
    monkeypatch.setattr(sharp, 'SharpNetworkConfig', lambda: TINY)
    with pytest.raises(CheckpointError, match=f'{folder}.*run `sharp-ros fetch sharp`'):
        models.load_predictor('sharp')
    assert cli.main(['fetch', 'sharp', '--accept-licence']) == 0
    assert models.load_predictor('sharp')[1].name == 'sharp'


@pytest.mark.usefixtures('strict')
def test_weights_already_there_are_checked_and_not_asked_for(run, publisher, folder, weights):
    folder.mkdir()
    (folder / NAME).write_bytes(weights)
    code, out, _ = run(accept=False)
    assert code == 0
    assert 'already there' in out
    assert publisher.asked == []


def test_the_check_that_is_used_reads_the_file_as_the_model_would(folder, weights, monkeypatch):
    folder.mkdir()
    (folder / NAME).write_bytes(weights)
    monkeypatch.setattr(sharp, 'load_checkpoint', lambda path: load_checkpoint(path, TINY))
    check = models.MODELS['sharp'].download.check
    check(folder / NAME)
    (folder / NAME).write_bytes(weights[:-50_000])
    with pytest.raises(CheckpointError, match='damaged'):
        check(folder / NAME)


@pytest.mark.usefixtures('strict')
def test_damaged_weights_already_there_are_replaced(run, publisher, folder, weights):
    folder.mkdir()
    (folder / NAME).write_bytes(weights[:-50_000])
    code, out, _ = run()
    assert code == 0
    assert 'damaged' in out
    assert (folder / NAME).read_bytes() == weights


def test_weights_that_changed_after_the_download_are_reported_and_left(run, publisher, folder):
    run()
    other = io.BytesIO()
    torch.save(SharpNetwork(TINY).state_dict(), other)
    (folder / NAME).write_bytes(other.getvalue())
    code, _, error = run()
    assert code == 1
    assert 'changed since it was downloaded' in error
    assert (folder / NAME).read_bytes() == other.getvalue()


# --- the licence --------------------------------------------------------------------------------


def test_without_a_terminal_the_licence_must_be_accepted_by_a_flag(run, publisher, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.StringIO('y\n'))
    code, out, error = run(accept=False)
    assert code == 1
    assert 'For tests only.' in out
    assert '--accept-licence' in error
    assert publisher.asked == []


@pytest.mark.parametrize(
    ('answer', 'expected'),
    [('y\n', 0), ('Yes\n', 0), ('n\n', 1), ('\n', 1), ('', 1), ('yesterday\n', 1)],
)
def test_on_a_terminal_the_licence_is_asked_for(run, publisher, monkeypatch, answer, expected):
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, 'stdin', terminal)
    code, out, _ = run(accept=False)
    assert code == expected
    assert out.index('For tests only.') < out.index('[y/N]')
    assert len(publisher.asked) == (expected == 0)


def test_terms_of_sharp_name_what_is_forbidden():
    info = models.MODELS['sharp']
    for word in ('commercial', 'products', 'derived', 'LICENSE_MODEL'):
        assert word in info.download.terms
    assert 'research only' in info.licence
    least, greatest = info.download.sizes
    assert least <= 4 * 702_305_169 < greatest
    assert info.download.url.startswith('https://')


# --- going on after an interruption -------------------------------------------------------------


@pytest.mark.parametrize(
    'validator', [{}, {'etag': '', 'modified': 'Wed, 10 Dec 2025 10:00:00 GMT'}]
)
@pytest.mark.usefixtures('strict')
def test_after_a_dropped_connection_only_the_rest_is_sent(
    run, publisher, folder, weights, validator
):
    vars(publisher).update(validator, cut=2_000_000)
    code, _, error = run()
    assert code == 1
    assert f'2,000,000 of {len(weights):,} bytes' in error
    assert 'same command' in error
    assert files(folder) == KEPT
    assert part_size(folder) == 2_000_000
    publisher.cut = None
    assert run()[0] == 0
    assert publisher.asked == ['', 'bytes=2000000-']
    assert publisher.sent == len(weights)
    assert (folder / NAME).read_bytes() == weights
    assert files(folder) == DONE


@pytest.fixture
def ctrl_c():
    """Shells start what runs in the background with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('ctrl_c')
def test_ctrl_c_keeps_what_came_and_the_next_run_goes_on(run, publisher, folder, weights):
    publisher.cut, publisher.silent = 2_000_000, True

    def interrupt():
        for _ in range(1000):
            if part_size(folder) > 1_900_000:  # all but what a buffer may still hold
                time.sleep(0.3)  # until the client waits for more, where nothing swallows signals
                # to the thread that waits, since another one would take it and leave that waiting
                signal.pthread_kill(main_thread().ident, signal.SIGINT)
                return
            time.sleep(0.01)

    thread = Thread(target=interrupt)
    thread.start()
    assert run()[0] == 130
    thread.join()
    assert files(folder) == KEPT
    came = part_size(folder)
    assert came > 0
    publisher.cut, publisher.silent = None, False
    assert run()[0] == 0
    assert publisher.asked[1] == f'bytes={came}-'
    assert (folder / NAME).read_bytes() == weights


def test_progress_goes_on_from_what_came_before_and_ends_with_all(publisher, folder, weights):
    folder.mkdir()
    reports: list[tuple[int, int | None]] = []

    def download():
        return downloads.download_file(
            models.MODELS['sharp'].download,
            folder / NAME,
            lambda text: None,
            lambda done, total: reports.append((done, total)),
        )

    publisher.cut = 2_000_000
    with pytest.raises(CheckpointError, match='2,000,000 of'):
        download()
    assert reports[0] == (0, len(weights))
    assert reports[-1] == (2_000_000, len(weights))
    reports.clear()
    publisher.cut = None
    assert download() == hashlib.sha256(weights).hexdigest()
    assert reports[0] == (2_000_000, len(weights))
    assert reports[-1] == (len(weights), len(weights))
    assert sorted(reports) == reports


@pytest.mark.parametrize(
    'behaviour',
    [
        {'ranges': False},
        {'etag': '"two"'},
        {'etag': '"two"', 'if_range': False},  # sends a part of another version
    ],
    ids=['no_ranges', 'new_version', 'new_version_if_range_ignored'],
)
def test_what_cannot_be_continued_starts_over(run, publisher, folder, weights, behaviour):
    publisher.cut = 2_000_000
    run()
    vars(publisher).update(behaviour, cut=None)
    publisher.content = changed = weights if 'ranges' in behaviour else another(weights)
    assert run()[0] == 0
    assert publisher.asked[1] == 'bytes=2000000-'
    assert (folder / NAME).read_bytes() == changed


def another(weights: bytes) -> bytes:
    """The same network with other numbers."""
    state = torch.load(io.BytesIO(weights))
    file = io.BytesIO()
    torch.save({name: tensor + 1 for name, tensor in state.items()}, file)
    return file.getvalue()


@pytest.mark.parametrize('etag', ['', 'W/"weak"'])
def test_a_part_of_an_unknown_version_is_not_continued(run, publisher, folder, weights, etag):
    vars(publisher).update(etag=etag, cut=2_000_000)
    run()
    publisher.cut = None
    assert run()[0] == 0
    assert publisher.asked == ['', '']
    assert (folder / NAME).read_bytes() == weights


def test_a_part_from_another_address_is_not_continued(run, publisher, folder, monkeypatch):
    publisher.cut = 2_000_000
    run()
    publisher.cut = None
    change(monkeypatch, url=publisher.url.replace(NAME, f'other/{NAME}'))
    assert run()[0] == 0
    assert publisher.asked == ['', '']


def test_a_whole_part_is_checked_without_being_sent_again(run, publisher, folder, weights):
    publisher.cut = 2_000_000
    run()
    (folder / f'{NAME}.part').write_bytes(weights)  # as after a kill while it was checked
    assert run()[0] == 0
    assert publisher.asked[1] == f'bytes={len(weights)}-'
    assert publisher.sent == 2_000_000
    assert (folder / NAME).read_bytes() == weights


def test_a_part_longer_than_the_file_starts_over(run, publisher, folder, weights):
    publisher.cut = 2_000_000
    run()
    (folder / f'{NAME}.part').write_bytes(weights + b'more')
    publisher.cut = None
    assert run()[0] == 0
    assert (folder / NAME).read_bytes() == weights


def test_a_login_page_does_not_cost_the_part(run, publisher, folder, weights):
    publisher.cut = 2_000_000
    run()
    page = b'<html>please log in</html>'
    vars(publisher).update(content=page, kind='text/html', etag='', cut=None)
    code, _, error = run()
    assert code == 1
    assert 'text/html' in error
    assert part_size(folder) == 2_000_000


# --- files that are not what they should be -----------------------------------------------------


def saved(value) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


class _Bomb:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.witness),)


def wrong_file(kind: str, weights: bytes, witness: Path) -> bytes:
    state = torch.load(io.BytesIO(weights))
    first = next(iter(state))
    if kind == 'code':
        return saved({**state, first: _Bomb(witness)})
    if kind == 'another network':
        return saved(
            {**{name: t for name, t in state.items() if name != first}, 'n\n\x1b': state[first]}
        )
    if kind == 'nan':
        return saved({**state, first: torch.full_like(state[first], torch.nan)})
    if kind == 'one bit':
        middle = len(weights) // 2
        return weights[:middle] + bytes([weights[middle] ^ 1]) + weights[middle + 1 :]
    if kind == 'shortened':
        return weights[:-50_000]
    return bytes(len(weights))


@pytest.mark.parametrize(
    ('kind', 'said'),
    [
        ('code', 'nothing in it was run'),
        ('another network', r'missing feature_model\.\S+; unknown n\\n\\x1b'),
        ('nan', 'holds no finite floats'),
        ('one bit', 'checksum of .* differs'),
        ('shortened', 'damaged'),
        ('zeros', 'no checkpoint of SHARP'),
    ],
)
@pytest.mark.usefixtures('strict')
def test_wrong_files_are_named_removed_and_never_in_place(
    run, publisher, folder, weights, tmp_path, kind, said
):
    witness = tmp_path / 'ran'
    publisher.content = wrong_file(kind, weights, witness)
    code, _, error = run()
    assert code == 1
    assert re.search(said, error), error
    assert files(folder) == set()
    assert not witness.exists()


@pytest.mark.parametrize('announced', [None, 0])
def test_a_page_instead_of_the_file_is_refused(run, publisher, folder, announced):
    vars(publisher).update(content=b'<html></html>', kind='text/html', announced=announced)
    code, _, error = run()
    assert code == 1
    assert 'login page' in error
    assert files(folder) == set()


def test_a_page_that_says_neither_length_nor_kind_is_removed(run, publisher, folder):
    vars(publisher).update(content=b'<html></html>', announced=0)
    code, _, error = run()
    assert code == 1
    assert '13 bytes, not' in error
    assert files(folder) == set()


def test_without_an_announced_length_the_file_is_still_checked(run, publisher, folder):
    publisher.announced = 0
    assert run()[0] == 0
    assert files(folder) == DONE


def test_a_file_shorter_than_announced_is_not_in_place(run, publisher, folder, weights):
    publisher.announced = len(weights) + 1
    code, _, error = run()
    assert code == 1
    assert f'{len(weights):,} of {len(weights) + 1:,} bytes' in error
    assert files(folder) == KEPT


def test_a_published_digest_is_compared(run, publisher, folder, weights, monkeypatch):
    digest = hashlib.sha256(weights).hexdigest()
    change(monkeypatch, sha256='0' * 64)
    code, _, error = run()
    assert code == 1
    assert f'{digest}, not {"0" * 64}' in error
    assert files(folder) == set()
    change(monkeypatch, sha256=digest)
    assert run()[0] == 0


# --- no way through -----------------------------------------------------------------------------


def refuse(error):
    def refuse(*args, **kwargs):
        raise error

    return refuse


def test_without_network_the_way_around_is_named(run, publisher, folder, monkeypatch):
    url = f'https://weights.invalid/{NAME}'
    change(monkeypatch, url=url)
    cases = {
        'Name or service not known': socket.gaierror(-2, 'Name or service not known'),
        'timed out': TimeoutError('timed out'),
        'certificate verify failed': ssl.SSLCertVerificationError('certificate verify failed'),
    }
    for said, error in cases.items():
        monkeypatch.setattr(socket, 'create_connection', refuse(error))
        code, _, message = run()
        assert code == 1
        assert said in message
        assert f'download {url} elsewhere and put it at {folder / NAME}' in message
    assert files(folder) == set()


def test_a_server_that_is_not_there_or_falls_silent_is_one_line(
    run, publisher, folder, monkeypatch
):
    monkeypatch.setattr(downloads, '_TIMEOUT', 0.3)
    publisher.cut, publisher.silent = 2_000_000, True
    code, _, error = run()
    assert code == 1
    assert 'connection was lost (timed out)' in error
    assert files(folder) == KEPT
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        change(monkeypatch, url=f'http://127.0.0.1:{free.getsockname()[1]}/{NAME}')
        code, _, error = run()
    assert code == 1
    assert 'refused' in error


def test_answers_that_are_errors_are_named(run, publisher, folder):
    publisher.status = 404
    code, _, error = run()
    assert code == 1
    assert 'answers 404' in error
    assert files(folder) == set()


@pytest.mark.parametrize('url', ['http://weights.invalid/x', 'file:///etc/hostname', 'ftp://x/y'])
def test_only_https_is_followed(run, publisher, folder, monkeypatch, url):
    publisher.status, publisher.location = 302, url
    code, _, error = run()
    assert code == 1
    assert 'https' in error
    change(monkeypatch, url=f'{url}.pt')
    assert 'is not https' in run()[2]
    assert files(folder) == set()


def test_redirects_on_https_are_followed(run, publisher, monkeypatch):
    asked = []
    monkeypatch.setattr(
        HTTPSHandler,
        'https_open',
        lambda self, request: asked.append(request) or refuse(OSError)(),
    )
    publisher.status, publisher.location = 302, 'https://weights.invalid/elsewhere.pt'
    run()
    assert [request.full_url for request in asked] == ['https://weights.invalid/elsewhere.pt']


def test_a_full_disk_is_noticed_before_the_first_byte(run, publisher, folder, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=1_000_000))
    code, _, error = run()
    assert code == 1
    assert '1,000,000 bytes free' in error
    assert files(folder) == set()


def test_room_is_needed_for_the_rest_only(run, publisher, folder, weights, monkeypatch):
    publisher.cut = 2_000_000
    run()
    publisher.cut = None
    rest = SimpleNamespace(free=len(weights) - 2_000_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: rest)
    assert run()[0] == 0


def test_a_disk_that_fills_up_midway_keeps_the_part(run, publisher, folder, weights):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # writing beyond fails
    try:
        code, _, error = run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    assert 'make room' in error
    assert files(folder) == KEPT
    assert part_size(folder) == 1_000_000
    assert run()[0] == 0
    assert publisher.asked == ['', 'bytes=1000000-']
    assert (folder / NAME).read_bytes() == weights


def test_two_downloads_do_not_write_one_file(run, publisher, folder):
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        code, _, error = run()
    finally:
        os.close(handle)
    assert code == 1
    assert 'another `sharp-ros fetch`' in error
    assert publisher.asked == []
    assert run()[0] == 0


def test_a_folder_that_cannot_be_made_is_one_line(run, publisher, folder):
    folder.write_text('a file')
    code, _, error = run()
    assert code == 1
    assert str(folder) in error
