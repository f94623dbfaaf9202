"""A server that can go away and come back on its port, what it was asked, and the rough ways a connection ends."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NoReturn, Self, TypeAlias

from aiohttp import web
from multidict import CIMultiDict, MultiDict

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Cut: TypeAlias = Literal["eof", "cut", "reset", "half_open"]
"""`eof` ends streams in order (last chunk, FIN), `cut` closes without the last chunk, `reset` sends a RST,
`half_open` leaves the connection up and never says another word on it."""

KEPT_REQUESTS = 20_000
"""A stand-alone simulator is asked once a second for days: past this many, the older half is forgotten."""

BODY_CAP = 16 << 20
"""More than any limit of either peer; what a client sends beyond it is not looked at."""


@dataclass(slots=True, eq=False)
class RecordedRequest:
    """One request as it arrived. `status` is None until it was answered, and stays None when it never was."""

    at: float
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    route: str
    body: bytes = b""
    status: int | None = None


class Changes:
    """Lets a test wait for what a peer does instead of asking again and again."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Say that something changed."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return as soon as `predicate()` holds; it is asked again at each change. The caller sets the deadline."""
        while not predicate():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            await future


class RequestLog:
    """Everything a simulated peer was asked, in order of arrival."""

    def __init__(self, now: Callable[[], float], changes: Changes) -> None:
        self.entries: list[RecordedRequest] = []
        self._now = now
        self._changes = changes

    def note(self, request: web.Request, route: str) -> RecordedRequest:
        """Record the arrival of `request`."""
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
        self._changes.notify()
        return entry

    def answered(self, entry: RecordedRequest, status: int) -> None:
        """Record what `entry` was answered."""
        entry.status = status
        self._changes.notify()

    def recent(self, limit: int = 40) -> list[dict[str, object]]:
        """The newest runs of equal requests, newest first: when the run ended, what was asked and answered, how often."""
        runs: list[dict[str, object]] = []
        times = 0
        for entry in reversed(self.entries):
            asked = {"method": entry.method, "path": entry.path, "route": entry.route, "status": entry.status}
            if runs and runs[-1].items() >= asked.items():
                times += 1
            elif len(runs) == limit:
                break
            else:
                times = 1
                runs.append({"at": entry.at, "bytes": len(entry.body), **asked})
            runs[-1]["times"] = times
        return runs

    def of(self, route: str) -> list[RecordedRequest]:
        """The requests of one route."""
        return [entry for entry in self.entries if entry.route == route]


class Listener:
    """An aiohttp server on `host:port`; port 0 picks one at the first start and keeps it from then on."""

    def __init__(self, handler: Handler, *, host: str, port: int) -> None:
        self._handler = handler
        self._host = host
        self.port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def listening(self) -> bool:
        return self._runner is not None

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application()
        # Not `.*`: a path may hold a line break, and aiohttp's own 404 is no answer of either peer.
        app.router.add_route("*", r"/{path:[\s\S]*}", self._handler)
        app.on_response_prepare.append(_as_go)
        # A peer that hangs up ends its handler: streams must not outlive their readers.
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
        """Refuse new connections and cut the open ones. Stopping twice is harmless."""
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


async def read_body(request: web.Request) -> bytes:
    """The body of a request, up to what any peer would look at."""
    body = bytearray()
    while len(body) <= BODY_CAP and (chunk := await request.content.readany()):
        body += chunk
    return bytes(body)


def cut(transport: asyncio.BaseTransport | None) -> None:
    """Close without a last chunk: a FIN where the protocol expected more."""
    if not isinstance(transport, asyncio.Transport) or transport.is_closing():
        return
    if transport.get_write_buffer_size():
        transport.abort()  # close() would wait for a peer that does not read
    else:
        transport.close()


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Close with a RST."""
    if not isinstance(transport, asyncio.Transport) or transport.is_closing():
        return
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abort()


async def never() -> NoReturn:
    """Wait until the connection (or the server) goes away, which cancels the handler that awaits this."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody sets this future")


def _transports(runner: web.AppRunner) -> list[asyncio.Transport]:
    connections = runner.server.connections if runner.server else []
    return [one.transport for one in connections if isinstance(one.transport, asyncio.Transport)]


async def _as_go(_request: web.Request, response: web.StreamResponse) -> None:
    # Go's server names no software, and no type for a body that is not there.
    response.headers.popall("Server", None)
    if isinstance(response, web.Response) and not response.body:
        response.headers.popall("Content-Type", None)


class Served:
    """A server that is there as long as its `async with`. The subclass makes `_listener`."""

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
        """Whether it is there at all."""
        return self._listener.listening

    async def start(self) -> None:
        """Listen: on the same port as before, if there was a before."""
        await self._listener.start()

    async def stop(self) -> None:
        """Refuse new connections and cut the open ones."""
        await self._listener.stop()
