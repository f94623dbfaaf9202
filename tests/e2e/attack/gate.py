"""A TCP server before a simulated peer: it forwards each request, or answers it with the bytes of an attack."""

import asyncio
import contextlib
from collections import defaultdict, deque
from types import TracebackType
from typing import Self

CHUNK = 1 << 16
ENDLESS_MAX_BYTES = 64 << 20
"""An answer without an end stops here, so that the attack ends also where the daemon would read on."""


class Gate:
    """Listens on a port of 127.0.0.1 and forwards to `port`.

    `attack` queues raw answers for requests whose path contains a text. An answered attack is removed from the queue.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._attacks: dict[str, deque[bytes]] = defaultdict(deque)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.answered = 0
        """Requests that were answered with an attack."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def attack(self, path: str, answer: bytes) -> None:
        """Answer the next request whose path contains `path` with `answer`, and close the connection."""
        self._attacks[path].append(answer)

    def waiting(self, path: str) -> int:
        """The number of attacks that no request has met yet."""
        return len(self._attacks[path])

    def clear(self) -> None:
        """Remove the attacks that no request has met."""
        self._attacks.clear()

    def drop(self) -> None:
        """Close every connection that is forwarded."""
        for task in self._tasks:
            task.cancel()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request on each connection: the answer of the peer is forwarded until it ends."""
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode("latin-1")
        for part, attacks in self._attacks.items():
            if part in path and attacks:
                self.answered += 1
                answer = attacks.popleft()
                reading = asyncio.ensure_future(
                    reader.read(-1)
                )  # a request body must not reset the connection
                try:
                    await _send(writer, answer)
                    writer.write_eof()
                    await asyncio.wait({reading}, timeout=0.05)
                finally:
                    reading.cancel()
                return
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        back.write(b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]))
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(_copy(reader, back))
                await _copy(there, writer)
                sending.cancel()
        finally:
            back.close()


async def _send(writer: asyncio.StreamWriter, answer: bytes) -> None:
    """`answer`; if it ends with `...`, its last 4 KB are repeated up to `ENDLESS_MAX_BYTES`."""
    if not answer.endswith(b"..."):
        writer.write(answer)
        await writer.drain()
        return
    answer = answer.removesuffix(b"...")
    writer.write(answer)
    tail, sent = (answer[-4096:] * (CHUNK // min(4096, len(answer)) + 1))[:CHUNK], 0
    while sent < ENDLESS_MAX_BYTES and not writer.is_closing():
        writer.write(tail)
        await writer.drain()
        sent += len(tail)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await source.read(CHUNK):
            sink.write(block)
            await sink.drain()
