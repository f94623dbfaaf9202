"""What goes wrong, on demand: a plan of faults per route, and how those play that concern one exchange.

Faults that bend an event stream are the stream's business (`sse.Manners`); this module only names them.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp import web

from agentd.errors import AgentdError
from agentd.simulator import serving

Answer: TypeAlias = Callable[[], Awaitable[web.StreamResponse]]

EXCHANGE = frozenset(
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
STREAM = frozenset(
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

NGINX_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    b"<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
FLOOD_CHUNK = b"".join(b"X-Flood-%04d: %s\r\n" % (line, b"f" * 100) for line in range(100))


class SimulatorError(AgentdError):
    """The simulator was told to do what the peer it plays cannot do."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing going wrong once. Which parameters a kind takes stands where it is played."""

    kind: str
    params: Mapping[str, Any] = field(default_factory=dict)


class FaultPlan:
    """Faults waiting for their request: first in, first out, per route; `*` waits for any route."""

    def __init__(self, extra_kinds: frozenset[str] = frozenset()) -> None:
        self._kinds = EXCHANGE | STREAM | extra_kinds
        self._waiting: dict[str, deque[Fault]] = defaultdict(deque)

    def add(self, route: str, fault: Fault, times: int) -> None:
        """Let the next `times` requests of `route` meet `fault`. Raises `SimulatorError` for an unknown kind."""
        if fault.kind not in self._kinds:
            raise SimulatorError(
                f"no such fault: {fault.kind!r}", hint=f"known: {', '.join(sorted(self._kinds))}"
            )
        self._waiting[route].extend([fault] * times)

    def take(self, route: str) -> Fault | None:
        """The fault this request meets, if any; taken is gone."""
        for name in (route, "*"):
            if self._waiting[name]:
                return self._waiting[name].popleft()
        return None

    def waiting(self) -> dict[str, list[str]]:
        """The kinds that wait, by route, first in first."""
        return {route: [fault.kind for fault in faults] for route, faults in self._waiting.items() if faults}

    def clear(self) -> None:
        """Forget all faults that were not met."""
        self._waiting.clear()


async def play(fault: Fault, request: web.Request, answer: Answer) -> web.StreamResponse:
    """Play an exchange fault; `answer()` does what the server would have done. The body was read by the caller
    (except for reset_before_body), so that it is on record.

    respond: status, body (bytes or str), headers, content_type. redirect: location, status. slow: seconds or release
    (asyncio.Event), and sleep; the answer was made before, it only arrives late. header_flood: count of 11 kB blocks.
    """
    match fault.kind:
        case "respond":
            return _canned(**fault.params)
        case "html_502":
            return web.Response(status=502, body=NGINX_502, headers={"Content-Type": "text/html"})
        case "redirect":
            location = str(fault.params["location"])
            return web.Response(status=fault.params.get("status", 307), headers={"Location": location})
        case "no_headers":
            await serving.never()
        case "reset_before_body":
            serving.reset(request.transport)
            await serving.never()
        case "reset_after_body":
            await answer()
            serving.reset(request.transport)
            await serving.never()
        case "eof":
            serving.cut(request.transport)
            await serving.never()
        case "slow":
            return await _late(answer, **fault.params)
        case "header_flood":
            await _flood(request, fault.params.get("count"))
    raise SimulatorError(f"fault {fault.kind!r} does not fit this route")


def _canned(
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


async def _late(
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


async def _flood(request: web.Request, count: int | None) -> None:
    """Headers without an end (or `count` blocks of them), as fast as the client takes them."""
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
    await serving.never()
