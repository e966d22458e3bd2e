"""The door of the web server: who may come in, how many, and how much they were sent.

The server of viser lets in whoever connects, as many as do, and from web pages of others, too,
which a browser lets connect to this computer. So that server listens where only this module finds
it, and connections are relayed to it that may come in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
import hmac
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
import secrets
import socket
import threading
from urllib.parse import parse_qs, urlsplit

from sharp_ros.errors import ConfigError

LOCAL = ('localhost', '127.0.0.1', '::1')  # names of this computer that no other can have
MOST_WATCHERS = 8
_MOST_CONNECTIONS = 100  # a page is loaded over some
_HEAD_LIMIT, _HEAD_PATIENCE = 1 << 14, 10.0  # bytes and seconds of the head of a request
_BLOCK = 1 << 16
# What a slow browser has not taken yet is old when it comes, so little may wait for it.
_BUFFER = 1 << 18

_ENDINGS = (
    *(OSError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError),  # of the peer
    ValueError,  # likewise, a header that is no address
    asyncio.CancelledError,  # of the gate
)


class Gate:
    """Relays browsers to a server.

    Args:
        address: to listen on; unless it is `LOCAL`, a token is asked for.
        port: to listen on; 0: any free one.
        server: host and port of the server.
        came: called, from a thread of the gate, when somebody begins to watch.

    Attributes:
        url: to be opened in a browser, with the token if there is one.
        watchers: web sockets that are open.
        sent: bytes that web sockets were sent, in all.

    Raises:
        ConfigError: if the address or the port cannot be had.
    """

    def __init__(
        self, address: str, port: int, server: tuple[str, int], came: Callable[[], None]
    ) -> None:
        self._server, self._came = server, came
        self.watchers = self.sent = 0
        listening = _listen(address, port)
        port = listening.getsockname()[1]
        local = address in LOCAL
        self._token = '' if local else secrets.token_urlsafe(16)
        self._cookie = f'sharp_ros_{port}'  # a browser has one set of cookies for all ports
        name = f'[{address}]' if ':' in address else address
        name = socket.gethostname() if address in ('0.0.0.0', '::') else name
        self.url = f'http://{name}:{port}/' + (f'?token={self._token}' if self._token else '')
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop, self._closing = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=(listening,), name='sharp_gate', daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Let nobody in any more, and end all connections; nothing the second time."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(5)

    def _run(self, listening: socket.socket) -> None:
        self._loop.run_until_complete(self._let_in(listening))
        self._loop.close()

    async def _let_in(self, listening: socket.socket) -> None:
        server = await asyncio.start_server(self._connected, sock=listening, limit=_HEAD_LIMIT)
        await self._closing.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if len(self._tasks) <= _MOST_CONNECTIONS:
                # whatever a peer does ends its own connection and nothing else
                with suppress(*_ENDINGS):
                    await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await asyncio.wait_for(reader.readuntil(b'\r\n\r\n'), _HEAD_PATIENCE)
        request = _Request.parsed(head)
        answer = self._answer(request)
        if answer:
            writer.write(answer)
            await writer.drain()
            return
        if not request.is_web_socket:
            await self._relay(head, reader, writer, counted=False)
            return
        self.watchers += 1
        try:
            self._came()
            await self._relay(head, reader, writer, counted=True)
        finally:
            self.watchers -= 1

    def _answer(self, request: _Request) -> bytes:
        """What is said instead of letting somebody in; nothing to those who may come in."""
        if request.method != 'GET':
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, 'only GET is answered')
        host = request.headers.get('host', '')
        origin = request.headers.get('origin')
        if origin is not None and urlsplit(origin).netloc != host:
            return _text(HTTPStatus.FORBIDDEN, 'this connection was opened by another web page')
        if self._token:
            given = request.query.get('token', [''])[-1]
            if hmac.compare_digest(given.encode(), self._token.encode()):
                return self._welcome()
            if not hmac.compare_digest(
                request.cookie(self._cookie).encode(), self._token.encode()
            ):
                return _text(
                    HTTPStatus.FORBIDDEN, 'open the address with ?token= that sharp_ros has logged'
                )
        elif _hostname(host) not in LOCAL:  # a name of others that was made to point here
            return _text(HTTPStatus.FORBIDDEN, 'open this page as localhost')
        is_new = request.is_web_socket or request.path == '/'
        if is_new and self.watchers >= MOST_WATCHERS:
            return _text(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f'{MOST_WATCHERS} browsers show this view, as many as may; close one of them',
            )
        return b''

    def _welcome(self) -> bytes:
        """The page without the token in its address, which the browser keeps in a cookie."""
        cookie = f'{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax'
        return _text(HTTPStatus.FOUND, '', f'Location: /\r\nSet-Cookie: {cookie}\r\n')

    async def _relay(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        counted: bool,
    ) -> None:
        """Pass on what both sides send until one of them ends."""
        writer.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        inner_reader, inner_writer = await asyncio.open_connection(*self._server, limit=_BLOCK)
        inner_writer.write(head)

        def count(size: int) -> None:
            self.sent += size

        ways = [
            asyncio.ensure_future(_pump(reader, inner_writer, lambda size: None)),
            asyncio.ensure_future(
                _pump(inner_reader, writer, count if counted else lambda size: None)
            ),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            inner_writer.close()


@dataclass(frozen=True)
class _Request:
    """The head of an HTTP request; names of headers are lower case."""

    method: str = ''
    path: str = ''
    query: dict[str, list[str]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parsed(cls, head: bytes) -> _Request:
        """Empty where it is none."""
        line, *lines = head.decode('latin-1').split('\r\n')
        words = line.split(' ')
        if len(words) != 3:
            return cls()
        try:
            target = urlsplit(words[1])
        except ValueError:
            return cls()
        pairs = (text.partition(':') for text in lines if ':' in text)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return cls(words[0], target.path, parse_qs(target.query), headers)

    @property
    def is_web_socket(self) -> bool:
        return self.headers.get('upgrade', '').lower() == 'websocket'

    def cookie(self, name: str) -> str:
        """Its value, '' if there is none."""
        try:
            found = SimpleCookie(self.headers.get('cookie', '')).get(name)
        except CookieError:
            return ''
        return '' if found is None else found.value


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]
) -> None:
    while data := await reader.read(_BLOCK):
        writer.write(data)
        await writer.drain()
        count(len(data))


def _listen(address: str, port: int) -> socket.socket:
    try:
        family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family, backlog=_MOST_CONNECTIONS)
    except (OSError, UnicodeError, OverflowError) as error:
        why = getattr(error, 'strerror', None) or str(error)
        raise ConfigError(
            f'the live view cannot be served on port {port} of {address}: {why}; choose another '
            'web.port, 0 for any free one, or web.address'
        ) from error


def _hostname(host: str) -> str:
    """Of a header `host`, without its port."""
    with suppress(ValueError):
        return urlsplit(f'//{host}').hostname or ''
    return ''


def _text(status: HTTPStatus, text: str, headers: str = '') -> bytes:
    body = f'{text}\n'.encode()
    return (
        f'HTTP/1.1 {status.value} {status.phrase}\r\n{headers}Content-Type: text/plain\r\n'
        f'Content-Length: {len(body)}\r\nConnection: close\r\n\r\n'
    ).encode() + body
