"""A loopback server that can restart on its port, a log of its requests, and ways to break a connection."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, NoReturn, Self, TypeAlias

from aiohttp import web
from multidict import CIMultiDict, MultiDict

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
DropMode: TypeAlias = Literal["eof", "cut", "reset", "half_open"]
"""How a connection is dropped. `eof` ends the response properly (last chunk, FIN), `cut` closes without
the last chunk, `reset` sends a RST, `half_open` leaves the connection open and sends nothing more."""

KEPT_REQUESTS: Final = 20_000
"""The request log drops its older half at this length. A stand-alone simulator gets a request a second for
days."""

BODY_MAX_BYTES: Final = 16 << 20
"""More than any limit of either peer. The rest of a larger request body is not read."""


@dataclass(slots=True, eq=False)
class RecordedRequest:
    """One received request. `status` is None until the request is answered, and stays None if it never is."""

    at: float
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    route: str
    body: bytes = b""
    status: int | None = None


class Changes:
    """Wakes the tasks that wait for a condition, so that tests do not poll."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Let every waiting task evaluate its condition."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return when `predicate()` is true. It is evaluated at each change; the caller sets the deadline."""
        while not predicate():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            await future


class RequestLog:
    """The requests that a server received, in order of arrival. Each addition notifies `changes`."""

    def __init__(self, now: Callable[[], float], changes: Changes) -> None:
        self.entries: list[RecordedRequest] = []
        self.changes = changes
        self._now = now

    def record(self, request: web.Request, route: str) -> RecordedRequest:
        """Add `request`, without body and status."""
        if len(self.entries) >= KEPT_REQUESTS:
            del self.entries[: KEPT_REQUESTS // 2]
        entry = RecordedRequest(
            self._now(),
            request.method,
            request.path,
            MultiDict(request.query),
            CIMultiDict(request.headers),
            route,
        )
        self.entries.append(entry)
        self.changes.notify()
        return entry

    def record_status(self, entry: RecordedRequest, status: int) -> None:
        """Add the status of the answer to `entry`."""
        entry.status = status
        self.changes.notify()


class Listener:
    """An aiohttp server on `host:port`.

    Port 0 picks a free port at the first start and keeps it afterwards. `headers` returns headers for the
    answer to a request, whatever answer it is.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        host: str,
        port: int,
        headers: Callable[[web.Request], Mapping[str, str]] | None = None,
    ) -> None:
        self._handler = handler
        self._headers = headers
        self._mounted: dict[str, Handler] = {}
        self._host = host
        self.port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def listening(self) -> bool:
        return self._runner is not None

    def mount(self, prefix: str, handler: Handler) -> None:
        """Send requests whose path starts with `prefix` to `handler`."""
        self._mounted[prefix] = handler

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application()
        # Not `.*`: a path may contain a line break, and neither peer sends aiohttp's own 404.
        app.router.add_route("*", r"/{path:[\s\S]*}", self._handle)
        app.on_response_prepare.extend((_set_headers_as_go, self._add_headers))
        # A closed connection cancels its handler, so that no stream outlives its client.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self.port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuse new connections and close the open ones. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        for transport in _transports(runner):
            cut(transport)
        await runner.cleanup()

    def transports(self) -> list[asyncio.Transport]:
        """The open connections."""
        return _transports(self._runner) if self._runner else []

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        if self._headers is not None:
            response.headers.extend(self._headers(request))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        for prefix, handler in self._mounted.items():
            if request.path.startswith(prefix):
                return await handler(request)
        return await self._handler(request)


class Server:
    """A server for `async with`. A subclass sets `_listener`."""

    _listener: Listener

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return self._listener.url

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def listening(self) -> bool:
        return self._listener.listening

    def mount(self, prefix: str, handler: Handler) -> None:
        """Send requests whose path starts with `prefix` to `handler`. These requests are not recorded."""
        self._listener.mount(prefix, handler)

    async def start(self) -> None:
        """Listen, after a stop on the same port as before."""
        await self._listener.start()

    async def stop(self) -> None:
        """Refuse new connections and close the open ones."""
        await self._listener.stop()


class RecordingServer(Server):
    """A server that records its requests. A subclass sets `_log`."""

    _log: RequestLog

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every received request, in order of arrival."""
        return self._log.entries

    def calls(self, route: str) -> list[RecordedRequest]:
        """The requests of one route, by the route's name: status, messages, reinit, log-snapshot, …"""
        return [entry for entry in self.requests if entry.route == route]

    def recent(self, limit: int = 40) -> list[dict[str, object]]:
        """The newest `limit` series of equal requests, newest first.

        A series is represented by its last request, with the length of the series as `times`.
        """
        series: list[dict[str, object]] = []
        times = 0
        for entry in reversed(self.requests):
            fields = {
                "method": entry.method,
                "path": entry.path,
                "route": entry.route,
                "status": entry.status,
            }
            if series and series[-1].items() >= fields.items():
                times += 1
            elif len(series) == limit:
                break
            else:
                times = 1
                series.append({"at": entry.at, "bytes": len(entry.body), **fields})
            series[-1]["times"] = times
        return series

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return when `predicate()` is true.

        It is evaluated at each request, answer and change of the server's state.
        """
        await self._log.changes.until(predicate)


async def read_body(request: web.Request) -> bytes:
    """The body of a request, up to `BODY_MAX_BYTES` and the chunk that exceeds it."""
    body = bytearray()
    while len(body) <= BODY_MAX_BYTES and (chunk := await request.content.readany()):
        body += chunk
    return bytes(body)


def cut(transport: asyncio.BaseTransport | None) -> None:
    """Close the connection without the last chunk of its response."""
    if not isinstance(transport, asyncio.Transport) or transport.is_closing():
        return
    if transport.get_write_buffer_size():
        transport.abort()  # close() would wait for a peer that does not read
    else:
        transport.close()


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Close the connection with a RST."""
    if not isinstance(transport, asyncio.Transport) or transport.is_closing():
        return
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abort()


async def wait_until_cancelled() -> NoReturn:
    """Wait until the connection or the server closes, which cancels the calling handler."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("the future is never set")


def _transports(runner: web.AppRunner) -> list[asyncio.Transport]:
    connections = runner.server.connections if runner.server else []
    return [one.transport for one in connections if isinstance(one.transport, asyncio.Transport)]


async def _set_headers_as_go(_request: web.Request, response: web.StreamResponse) -> None:
    # Go's server sends no Server header, and no Content-Type with an empty body.
    response.headers.popall("Server", None)
    if isinstance(response, web.Response) and not response.body:
        response.headers.popall("Content-Type", None)
