"""coderd's server-sent events, byte for byte, and the faults of such a stream.

From coderd's `ServerSentEventSender`: one write per event, no comments, no ids, no retry. coderd flushes
nothing before the first event or ping, so an idle client gets no status line for 15 s. The ping interval
counts from the start of the stream; events do not reset it.
"""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from agentd.simulator import gojson, serving
from agentd.simulator.faults import Fault, SimulatorError

HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
}
PING: Final = b"event: ping\n\n"
_TRICKLE_BYTE: Final = b"x"


def event(kind: str, payload: object | None) -> bytes:
    """One event: the type, the payload as JSON in one data line (no line for None), a blank line."""
    data = "" if payload is None else f"data: {gojson.dumps(payload)}\n"
    return f"event: {kind}\n{data}\n".encode()


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How one stream behaves. The defaults are coderd's."""

    eager: bool = False
    """Send the headers at once. coderd never does; tests use it to skip the first 15 s."""
    ping_s: float | None = 15.0
    silent: bool = False
    """Send headers and nothing after them, as a stalled server does."""
    copies: int = 1
    eof_after_event: bool = False
    content_type: str = "text/event-stream"
    encoding: str = ""
    first: bytes = b""
    """Sent before anything else."""
    repeated: bytes = b""
    """Sent again and again, as fast as the client reads."""
    byte_interval_s: float | None = None
    """Seconds between the single bytes of an unfinished line."""

    def with_fault(self, fault: Fault) -> "StreamOptions":
        """These options with a fault of `faults.STREAM`. Raises `SimulatorError` for any other fault.

        big_line: size in bytes of one data line. trickle: every_s. wrong_content_type: content_type.
        gzip: size in bytes of the decompressed line. duplicate: copies (default 2).
        """
        values = {name: getattr(self, name) for name in self.__slots__}
        return StreamOptions(**(values | _changes(fault)))


def _changes(fault: Fault) -> dict[str, Any]:
    """The options that `fault` changes."""
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
            return {"eager": True, "first": b": ", "repeated": b"c" * 65_536}
        case "trickle":
            interval_s = params.get("every_s", 2.0)
            return {"eager": True, "silent": True, "first": b"data: ", "byte_interval_s": interval_s}
        case "gzip":
            bomb = b"data: " + b"x" * int(params.get("size", 1 << 20)) + b"\n\n"
            return {"encoding": "gzip", "first": gzip.compress(bomb), "eager": True, "silent": True}
    raise SimulatorError(f"fault {fault.kind!r} does not apply to a stream")


class EventStream:
    """The server's side of one open stream."""

    def __init__(
        self,
        request: web.Request,
        *,
        options: StreamOptions,
        headers: Mapping[str, str],
        sleep: Callable[[float], Awaitable[None]],
        on_open: Callable[[], None],
    ) -> None:
        self._request = request
        self._options = options
        self._sleep = sleep
        self._on_open = on_open
        self._silent = options.silent
        self._queue: asyncio.Queue[tuple[bytes, asyncio.Event] | None] = asyncio.Queue()
        self.closed = asyncio.Event()
        self._response = web.StreamResponse(headers=headers)
        self._response.headers.update({**HEADERS, "Content-Type": options.content_type})
        if options.encoding:
            self._response.headers["Content-Encoding"] = options.encoding

    async def run(self, initial: Sequence[bytes] = ()) -> web.StreamResponse:
        """Serve the stream until it ends or its client disconnects: `initial`, then sent events and pings."""
        tasks = [asyncio.create_task(self._ping(), name="simulated coderd: pings")]
        try:
            if self._options.eager:
                await self._open()
            if self._options.first:
                await self._write(self._options.first)
            if self._options.repeated or self._options.byte_interval_s is not None:
                tasks.append(asyncio.create_task(self._repeat(), name="simulated coderd: repeated bytes"))
            for raw in initial:
                self._queue.put_nowait((raw, asyncio.Event()))
            return await self._serve()
        finally:
            self.closed.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def send(self, raw: bytes) -> None:
        """Write `raw` as one chunk. Returns when it was handed to the connection or the stream has closed."""
        written = asyncio.Event()
        self._queue.put_nowait((raw, written))
        waits = [asyncio.ensure_future(one.wait()) for one in (written, self.closed)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def end(self) -> None:
        """End the stream with its last chunk, as coderd does at shutdown.

        Cut it if the client does not read.
        """
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size():
            serving.cut(transport)
        self._queue.put_nowait(None)

    def drop(self, how: serving.DropMode) -> None:
        """Drop the stream's connection."""
        match how:
            case "eof":
                self.end()
            case "cut":
                serving.cut(self._request.transport)
            case "reset":
                serving.reset(self._request.transport)
            case "half_open":
                self._silent = True

    async def _serve(self) -> web.StreamResponse:
        while (item := await self._queue.get()) is not None:
            raw, written = item
            is_event = raw is not PING
            if self._silent:
                written.set()
                continue
            for _ in range(self._options.copies if is_event else 1):
                await self._write(raw)
            written.set()
            if is_event and self._options.eof_after_event:
                break
        if not self._response.prepared:
            # Go's server sends headers and an empty body when a handler returns without a write.
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

    async def _ping(self) -> None:
        if self._options.ping_s is None:
            return
        while True:
            await self._sleep(self._options.ping_s)
            if not self._silent:
                self._queue.put_nowait((PING, asyncio.Event()))

    async def _repeat(self) -> None:
        while True:
            if self._options.byte_interval_s is not None:
                await self._sleep(self._options.byte_interval_s)
            await self._response.write(self._options.repeated or _TRICKLE_BYTE)
            await asyncio.sleep(0)
