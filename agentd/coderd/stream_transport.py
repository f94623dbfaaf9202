"""An httpx transport for the claim stream: HTTP/1.1 by h11 over one asyncio connection.

httpx's own transport loads a connection pool and support for other event loops (httpcore, anyio), which a
connection for one request does not need. They cost 2 MB of private memory in every workspace and a tenth of
the startup time. The bytes on the wire are the same, and httpcore also uses h11. Each failure is raised as a
class of `errors`.

A proxy gets a request to an http URL in absolute form. To an https URL it opens a tunnel (CONNECT).
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Final

import aiohappyeyeballs
import h11
import httpx

from agentd.coderd.answers import tunnel_error
from agentd.coderd.errors import (
    ConnectError,
    ConnectRefusedError,
    DnsError,
    HeadersTooLargeError,
    ProtocolError,
    ProxyError,
    StreamCutError,
    TlsError,
    UnreachableError,
)
from agentd.http_client import USER_AGENT, LoopShare, failure
from agentd.proxy import Proxy

CONNECT_S: Final = 10.0
"""Limit of name resolution, connection, tunnel and handshake together."""
HEADERS_MAX_BYTES: Final = 100 * 1024
READ_BYTES: Final = 64 * 1024
NEXT_ADDRESS_AFTER_S: Final = 0.25
"""RFC 8305: the delay before the next address is tried in parallel with one that does not answer."""

# TCP keepalive also detects a dead peer: first probe after 30 s, then every 10 s, three times.
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class StreamTransport(httpx.AsyncBaseTransport):
    """Opens a connection for each request and closes it with the response. No redirect, no retry.

    `context` is the TLS context for an https URL and for an https proxy. `on_sent` is called after the request was
    sent. `proxy` is the proxy of the requests' URL.
    """

    def __init__(
        self, *, context: ssl.SSLContext | None, on_sent: Callable[[], None], proxy: Proxy | None = None
    ) -> None:
        self._context = context
        self._on_sent = on_sent
        self._proxy = proxy

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` without a body and wait for the response's headers. Raises a `CoderdError`."""
        target, headers = request.url.raw_path, request.headers.raw
        if self._proxy is not None and not self._proxy.tunnels:
            target = b"http://%b%b" % (request.url.netloc, target)
            headers += [(name.encode(), value.encode()) for name, value in self._proxy.headers.items()]
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADERS_MAX_BYTES)
        try:
            head = http.send(h11.Request(method=request.method, target=target, headers=headers))
        except h11.LocalProtocolError as exc:
            # h11's text quotes the rejected header, which may be the token.
            raise ProtocolError("the request has a header with a character that is not allowed") from exc
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
        tls = self._context if url.scheme == "https" else None
        host, port = url.raw_host.decode(), url.port or (443 if url.scheme == "https" else 80)
        proxy = self._proxy
        try:
            async with asyncio.timeout(CONNECT_S):
                if proxy is None:
                    return await _open(host, port, tls)
                connected = await self._open_proxy(proxy)
                if proxy.tunnels and tls is not None:
                    await _tunnel(connected, proxy, host, port, tls)
                return connected
        except OSError as exc:
            raise _not_connected(exc, proxy) from exc

    async def _open_proxy(self, proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = httpx.URL(proxy.url)
        tls = self._context if proxy.is_tls else None
        try:
            return await _open(url.raw_host.decode(), url.port or (443 if proxy.is_tls else 80), tls)
        except OSError as exc:
            if isinstance(exc, TimeoutError):
                raise
            cause = _not_connected(exc).message
            raise ProxyError(f"no connection to the proxy {proxy}: {cause}", hint=proxy.hint) from exc


async def _open(
    host: str, port: int, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a host, with TLS if there is a context. Raises `OSError`."""
    addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sock = await aiohappyeyeballs.start_connection(
        addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, interleave=1
    )
    for level, option, value in _KEEPALIVE:
        sock.setsockopt(level, option, value)
    return await asyncio.open_connection(sock=sock, ssl=context, server_hostname=host if context else None)


def authority(host: str, port: int) -> str:
    """The target of CONNECT."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _tunnel(
    connected: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    proxy: Proxy,
    host: str,
    port: int,
    context: ssl.SSLContext,
) -> None:
    """Let the proxy connect to `host`, and start TLS with it. Raises `OSError` or a `CoderdError`."""
    address = authority(host, port)
    headers = {"Host": address, "User-Agent": USER_AGENT, **proxy.headers}
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADERS_MAX_BYTES)
    head = http.send(h11.Request(method="CONNECT", target=address, headers=list(headers.items())))
    http.send(h11.EndOfMessage())
    reader, writer = connected
    connection = _Connection(http, reader, writer)
    try:
        try:
            await connection.send(head)
            response = await connection.response()
        except UnreachableError as exc:
            raise ProxyError(f"the proxy {proxy} does not answer CONNECT {address}: {exc.message}") from exc
        if not 200 <= response.status_code < 300:
            raise tunnel_error(proxy, response.status_code, response.reason.decode("latin-1"))
        await writer.start_tls(context, server_hostname=host)
    except BaseException:
        await connection.aclose()
        raise


class _Connection(httpx.AsyncByteStream):
    """The one request and response of a connection. The stream yields the chunks of the response's body."""

    def __init__(
        self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._http = http
        self._reader = reader
        self._writer = writer
        self._has_answered = False

    async def send(self, head: bytes | None) -> None:
        self._writer.write(head or b"")
        try:
            await self._writer.drain()
        except OSError as exc:
            raise _cut(exc) from exc

    async def response(self) -> h11.Response:
        while not isinstance(event := await self._event(), h11.Response):
            pass  # 1xx is followed by the response
        return event

    async def __aiter__(self) -> AsyncIterator[bytes]:
        share = LoopShare()
        while isinstance(event := await self._event(), h11.Data):
            # A body in chunks of one byte is one event for each byte.
            await share.pause()
            yield bytes(event.data)

    async def aclose(self) -> None:
        # Abort, because a regular close waits for a peer that may be dead.
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
                    place = "inside" if self._has_answered else "before the first byte of"
                    raise StreamCutError(f"the server closed the connection {place} its answer") from exc
                raise ProtocolError(f"the answer is not HTTP: {failure(exc)}") from exc
            if isinstance(event, h11.Event):
                return event
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError as exc:
                raise _cut(exc) from exc
            self._has_answered = self._has_answered or data != b""
            self._http.receive_data(data)


def _not_connected(exc: OSError, proxy: Proxy | None = None) -> UnreachableError:
    match exc:
        case TimeoutError() if proxy is not None:
            return ProxyError(f"no connection by the proxy {proxy} within the connect timeout")
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


def _cut(exc: OSError) -> StreamCutError:
    return StreamCutError(f"the connection broke: {failure(exc)}")
