"""httpx's transport for the claim stream: HTTP/1.1 by h11 over one asyncio connection.

httpx's own transport brings a connection pool, its locks and a second event loop's worth of compatibility (httpcore,
anyio), none of which a connection that is used once needs: 2 MB of private memory in every workspace and a tenth of the
start. What is said on the wire is the same, and h11 is the parser that httpcore would use. Faults leave here by their
names in `errors`.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable

import aiohappyeyeballs
import h11
import httpx

from agentd.coderd.errors import (
    ConnectError,
    ConnectRefusedError,
    DnsError,
    HeadersTooLargeError,
    ProtocolError,
    StreamCutError,
    TlsError,
    UnreachableError,
)
from agentd.http_client import failure

HEADERS_MAX_BYTES = 100 * 1024
READ_BYTES = 64 * 1024
NEXT_ADDRESS_AFTER_S = 0.25
"""RFC 8305's delay before the next address is tried beside one that does not answer."""

# A dead peer behind a dead link is noticed by the kernel too: first probe after 30 s, then every 10 s, three times.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class StreamTransport(httpx.AsyncBaseTransport):
    """A connection per request, closed with the response. No proxy, no redirect, no second try.

    `context` is the TLS context (None for plain http); `connect_s` bounds name, connection and handshake together;
    `on_sent` is called when the request has left.
    """

    def __init__(
        self, *, context: ssl.SSLContext | None, connect_s: float, on_sent: Callable[[], None]
    ) -> None:
        self._context = context
        self._connect_s = connect_s
        self._on_sent = on_sent

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, which has no body, and wait for the response's headers. Raises a `UnreachableError`."""
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADERS_MAX_BYTES)
        try:
            head = http.send(
                h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
            )
        except h11.LocalProtocolError as exc:
            # Its text quotes the header that was refused, which may be the token.
            raise ProtocolError(
                "the request cannot be sent: a header holds a character that is not allowed"
            ) from exc
        http.send(h11.EndOfMessage())
        connection = _Connection(http, *await self._connect(request.url))
        try:
            await connection.send(head)
            self._on_sent()
            response = await connection.response()
        except BaseException:
            await connection.aclose()
            raise
        return httpx.Response(response.status_code, headers=response.headers.raw_items(), stream=connection)

    async def _connect(self, url: httpx.URL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = url.raw_host.decode(), url.port or (443 if self._context else 80)
        try:
            async with asyncio.timeout(self._connect_s):
                addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
                sock = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, interleave=1
                )
                for level, option, value in _KEEPALIVE:
                    sock.setsockopt(level, option, value)
                server_hostname = host if self._context else None
                return await asyncio.open_connection(
                    sock=sock, ssl=self._context, server_hostname=server_hostname
                )
        except OSError as exc:
            raise _not_connected(exc) from exc


class _Connection(httpx.AsyncByteStream):
    """The one exchange of a connection; as a stream, the response's body as it arrives."""

    def __init__(
        self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._http = http
        self._reader = reader
        self._writer = writer

    async def send(self, head: bytes | None) -> None:
        self._writer.write(head or b"")
        try:
            await self._writer.drain()
        except OSError as exc:
            raise _cut(exc) from exc

    async def response(self) -> h11.Response:
        while not isinstance(event := await self._event(), h11.Response):
            pass  # 1xx announces an answer and is none
        return event

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._event(), h11.Data):
            yield bytes(event.data)

    async def aclose(self) -> None:
        # Aborted: what the server still says is of no interest, and a dead one would never take our good-bye.
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _event(self) -> h11.Event:
        data = None
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                if exc.error_status_hint == 431:
                    raise HeadersTooLargeError("the response headers are too large") from exc
                if data == b"":
                    raise _cut(exc) from exc
                raise ProtocolError(f"the answer is no HTTP: {failure(exc)}") from exc
            if isinstance(event, h11.Event):
                return event
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError as exc:
                raise _cut(exc) from exc
            self._http.receive_data(data)


def _not_connected(exc: OSError) -> UnreachableError:
    match exc:
        case TimeoutError():
            return ConnectError("no connection within the connect timeout")
        case socket.gaierror():
            return DnsError(
                f"the host name does not resolve: {failure(exc)}", hint="check coder.url and the resolver"
            )
        case ssl.SSLError():
            return TlsError(f"TLS failed: {failure(exc)}", hint="check coder.url and coder.ca_file")
        case ConnectionRefusedError():
            return ConnectRefusedError("connection refused")
        case _:
            return ConnectError(f"no connection: {failure(exc)}")


def _cut(exc: Exception) -> StreamCutError:
    return StreamCutError(f"the connection broke: {failure(exc)}")
