"""coderd's server-sent events, byte for byte, and the ways such a stream goes wrong.

From coderd's `ServerSentEventSender`: one write per event, no comments, no ids, no retry. Nothing is flushed before
the first event or ping, so an idle client sees not even a status line for 15 s. The ping ticker runs from the
stream's start and is not put back by events.
"""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from agentd.simulator import gojson, serving
from agentd.simulator.faults import Fault, SimulatorError

PING = b"event: ping\n\n"
_TRICKLE_BYTE = b"x"


def event(kind: str, payload: object | None) -> bytes:
    """One event: type line, the JSON in one data line (none for None), blank line."""
    data = "" if payload is None else f"data: {gojson.dumps(payload)}\n"
    return f"event: {kind}\n{data}\n".encode()


@dataclass(frozen=True, slots=True)
class Manners:
    """How one stream behaves. The defaults are coderd's."""

    eager: bool = False
    """Send the headers at once, as coderd never does: for tests that want no 15 s of silence."""
    ping_s: float | None = 15.0
    silent: bool = False
    """Headers, then nothing, ever (a stalled server)."""
    copies: int = 1
    eof_after_event: bool = False
    content_type: str = "text/event-stream"
    encoding: str = ""
    first: bytes = b""
    """Sent before anything else."""
    endless: bytes = b""
    """Repeated for as long as the client reads."""
    drip_s: float | None = None
    """Pause between the single bytes of an unfinished line."""

    def bent_by(self, fault: Fault) -> "Manners":
        """These manners under `fault`. Raises `SimulatorError` when it is none of a stream's.

        big_line: size in bytes of one data line. trickle: every_s. wrong_content_type: content_type.
        gzip: size in bytes of the line that inflates from almost nothing. duplicate: copies (default 2).
        """
        values = {name: getattr(self, name) for name in self.__slots__}
        return Manners(**(values | _bend(fault)))


def _bend(fault: Fault) -> dict[str, Any]:
    params = fault.params
    match fault.kind:
        case "stall":
            return {"eager": True, "silent": True}
        case "eof_after_event":
            return {"eof_after_event": True}
        case "duplicate":
            return {"copies": params.get("copies", 2)}
        case "wrong_content_type":
            return {"content_type": params.get("content_type", "text/html; charset=utf-8"), "eager": True}
        case "big_line":
            size = int(params.get("bytes", params.get("size", 1 << 20)))
            return {"first": b'event: data\ndata: "' + b"x" * (size - 8) + b'"\n\n'}
        case "endless_comment":
            return {"eager": True, "first": b": ", "endless": b"c" * 65_536}
        case "trickle":
            return {"eager": True, "silent": True, "first": b"data: ", "drip_s": params.get("every_s", 2.0)}
        case "gzip":
            bomb = b"data: " + b"x" * int(params.get("size", 1 << 20)) + b"\n\n"
            return {"encoding": "gzip", "first": gzip.compress(bomb), "eager": True, "silent": True}
    raise SimulatorError(f"fault {fault.kind!r} does not fit a stream")


class EventStream:
    """The server's side of one open stream."""

    def __init__(
        self,
        request: web.Request,
        *,
        manners: Manners,
        headers: Mapping[str, str],
        sleep: Callable[[float], Awaitable[None]],
        on_open: Callable[[], None],
    ) -> None:
        self._request = request
        self._manners = manners
        self._sleep = sleep
        self._on_open = on_open
        self._silent = manners.silent
        self._queue: asyncio.Queue[tuple[bytes, asyncio.Event] | None] = asyncio.Queue()
        self.closed = asyncio.Event()
        self._response = web.StreamResponse(headers=headers)
        self._response.headers["Content-Type"] = manners.content_type
        self._response.headers["Cache-Control"] = "no-cache"
        self._response.headers["Connection"] = "keep-alive"
        self._response.headers["X-Accel-Buffering"] = "no"
        if manners.encoding:
            self._response.headers["Content-Encoding"] = manners.encoding

    async def run(self, seeds: Sequence[bytes] = ()) -> web.StreamResponse:
        """Serve the stream until it is ended or its client goes: `seeds` first, then what is sent, with pings."""
        helpers = [asyncio.create_task(self._tick(), name="simulated coderd: pings")]
        try:
            if self._manners.eager:
                await self._open()
            if self._manners.first:
                await self._write(self._manners.first)
            if self._manners.endless or self._manners.drip_s is not None:
                helpers.append(asyncio.create_task(self._babble(), name="simulated coderd: babble"))
            for seed in seeds:
                self._queue.put_nowait((seed, asyncio.Event()))
            return await self._serve()
        finally:
            self.closed.set()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def send(self, raw: bytes) -> None:
        """Write `raw` as one chunk; returns when it was handed to the connection, or never will be."""
        written = asyncio.Event()
        self._queue.put_nowait((raw, written))
        waits = [asyncio.ensure_future(one.wait()) for one in (written, self.closed)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def end(self) -> None:
        """End the stream in order, as coderd does when it shuts down; a client that does not read is cut off."""
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size():
            serving.cut(transport)
        self._queue.put_nowait(None)

    def go_silent(self) -> None:
        """Keep the connection and never write to it again."""
        self._silent = True

    def break_off(self, how: serving.Cut) -> None:
        """End the stream the way `how` says."""
        match how:
            case "eof":
                self.end()
            case "cut":
                serving.cut(self._request.transport)
            case "reset":
                serving.reset(self._request.transport)
            case "half_open":
                self.go_silent()

    async def _serve(self) -> web.StreamResponse:
        while (item := await self._queue.get()) is not None:
            raw, written = item
            is_event = raw is not PING
            if self._silent:
                written.set()
                continue
            for _ in range(self._manners.copies if is_event else 1):
                await self._write(raw)
            written.set()
            if is_event and self._manners.eof_after_event:
                break
        if not self._response.prepared:
            # Go's server still owes the headers, with an empty body, when a handler returns without a write.
            self._response.content_length = 0
            await self._response.prepare(self._request)
        await self._response.write_eof()
        return self._response

    async def _open(self) -> None:
        if not self._response.prepared:
            self._response.enable_chunked_encoding()
            await self._response.prepare(self._request)
            self._on_open()

    async def _write(self, raw: bytes) -> None:
        await self._open()
        await self._response.write(raw)

    async def _tick(self) -> None:
        if self._manners.ping_s is None:
            return
        while True:
            await self._sleep(self._manners.ping_s)
            if not self._silent:
                self._queue.put_nowait((PING, asyncio.Event()))

    async def _babble(self) -> None:
        while True:
            if self._manners.drip_s is not None:
                await self._sleep(self._manners.drip_s)
            await self._response.write(self._manners.endless or _TRICKLE_BYTE)
            await asyncio.sleep(0)
