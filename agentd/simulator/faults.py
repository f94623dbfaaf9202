"""Faults on request: a queue of faults for each route, and the faults of a single HTTP exchange.

`STREAM` names the faults of an event stream; `sse.StreamOptions.with_fault` implements them.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from aiohttp import web

from agentd.errors import AgentdError
from agentd.simulator import serving

Answer: TypeAlias = Callable[[], Awaitable[web.StreamResponse]]

EXCHANGE: Final = frozenset(
    {
        "respond",
        "html_502",
        "redirect",
        "no_headers",
        "reset_before_body",
        "reset_after_body",
        "eof",
        "slow",
        "header_flood",
    }
)
STREAM: Final = frozenset(
    {
        "stall",
        "eof_after_event",
        "duplicate",
        "big_line",
        "endless_comment",
        "trickle",
        "wrong_content_type",
        "gzip",
    }
)

NGINX_502: Final = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    b"<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
FLOOD_CHUNK: Final = b"".join(b"X-Flood-%04d: %s\r\n" % (line, b"f" * 100) for line in range(100))


class SimulatorError(AgentdError):
    """The simulated peer refuses what its user requests: an unknown name or an impossible operation."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one request. The function that injects a kind of fault documents its parameters."""

    kind: str
    params: Mapping[str, Any] = field(default_factory=dict)


class FaultPlan:
    """The faults of the next requests: a FIFO queue for each route, and the queue `*` for any route."""

    def __init__(self, extra_kinds: frozenset[str] = frozenset()) -> None:
        self._kinds = EXCHANGE | STREAM | extra_kinds
        self._waiting: dict[str, deque[Fault]] = defaultdict(deque)

    def add(self, route: str, fault: Fault, times: int) -> None:
        """Queue `fault` for the next `times` requests of `route`.

        Raises `SimulatorError` for an unknown kind.
        """
        if fault.kind not in self._kinds:
            raise SimulatorError(
                f"no such fault: {fault.kind!r}", hint=f"known: {', '.join(sorted(self._kinds))}"
            )
        self._waiting[route].extend([fault] * times)

    def take(self, route: str) -> Fault | None:
        """Remove and return the fault for a request of `route`; None if no fault waits."""
        for name in (route, "*"):
            if self._waiting[name]:
                return self._waiting[name].popleft()
        return None

    def waiting(self) -> dict[str, list[str]]:
        """The kinds of the waiting faults, by route, the next one first."""
        return {route: [fault.kind for fault in faults] for route, faults in self._waiting.items() if faults}

    def clear(self) -> None:
        """Remove all waiting faults."""
        self._waiting.clear()


class FaultyServer(serving.RecordingServer):
    """A recording server with a fault plan. A subclass sets `_faults`."""

    _faults: FaultPlan

    def waiting_faults(self) -> dict[str, list[str]]:
        """The kinds of the waiting faults, by route."""
        return self._faults.waiting()

    def clear_faults(self) -> None:
        """Remove all waiting faults."""
        self._faults.clear()


async def inject(fault: Fault, request: web.Request, answer: Answer) -> web.StreamResponse:
    """Answer `request` with a fault of `EXCHANGE`. `answer()` does what the server does without the fault.

    The caller reads the body before, for the request log; not for reset_before_body.

    respond: status, body (bytes or str), headers, content_type. redirect: location, status.
    slow: seconds or release (asyncio.Event), and sleep; the answer is computed first and sent late.
    header_flood: count of blocks of 11 kB.
    """
    match fault.kind:
        case "respond":
            return _respond(**fault.params)
        case "html_502":
            return web.Response(status=502, body=NGINX_502, headers={"Content-Type": "text/html"})
        case "redirect":
            location = str(fault.params["location"])
            return web.Response(status=fault.params.get("status", 307), headers={"Location": location})
        case "no_headers":
            await serving.wait_until_cancelled()
        case "reset_before_body":
            serving.reset(request.transport)
            await serving.wait_until_cancelled()
        case "reset_after_body":
            await answer()
            serving.reset(request.transport)
            await serving.wait_until_cancelled()
        case "eof":
            serving.cut(request.transport)
            await serving.wait_until_cancelled()
        case "slow":
            return await _delay(answer, **fault.params)
        case "header_flood":
            await _flood_headers(request, fault.params.get("count"))
    raise SimulatorError(f"fault {fault.kind!r} does not apply to this route")


def _respond(
    *,
    status: int,
    body: bytes | str = b"",
    headers: Mapping[str, str] | None = None,
    content_type: str | None = None,
) -> web.Response:
    content = body.encode() if isinstance(body, str) else body
    kind = content_type or (
        "application/json; charset=utf-8" if content[:1] in (b"{", b"[") else "text/plain"
    )
    return web.Response(status=status, body=content, headers={"Content-Type": kind, **(headers or {})})


async def _delay(
    answer: Answer,
    *,
    seconds: float = 0.0,
    release: asyncio.Event | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> web.StreamResponse:
    response = await answer()
    if release is not None:
        await release.wait()
    else:
        await sleep(seconds)
    return response


async def _flood_headers(request: web.Request, count: int | None) -> None:
    """Send `count` blocks of headers (None: endlessly), as fast as the client reads."""
    transport = request.transport
    if transport is None:
        return
    transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    sent = 0
    while not transport.is_closing() and (count is None or sent < count):
        if transport.get_write_buffer_size() < 1 << 20:
            transport.write(FLOOD_CHUNK)
            sent += 1
        await asyncio.sleep(0)
    await serving.wait_until_cancelled()
