"""A forward proxy on loopback: CONNECT, absolute form, Basic authentication, optionally TLS to itself.

`hosts` maps host names that only the proxy knows to addresses, so a request with such a name shows that it went
through the proxy.
"""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class ForwardProxy:
    """`async with ForwardProxy(hosts={"coder.invalid": port})` listens on a free port.

    `login` is (user, password) that it requires. `refusal` is a status line for every CONNECT. `requests` are the
    request lines, `heads` the request heads that it received.
    """

    def __init__(
        self,
        hosts: dict[str, int],
        *,
        login: tuple[str, str] | None = None,
        context: ssl.SSLContext | None = None,
        refusal: str = "",
    ) -> None:
        self.hosts = hosts
        self.login = login
        self.refusal = refusal
        self.heads: list[bytes] = []
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def requests(self) -> list[str]:
        return [head.split(b"\r\n", 1)[0].decode() for head in self.heads]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http{'s' if self._context else ''}://{'localhost' if self._context else '127.0.0.1'}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._answer(reader, writer, await reader.readuntil(b"\r\n\r\n"))
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self.heads.append(head)
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if not self._is_authorized(head):
            await _send(writer, b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        elif method == "CONNECT" and self.refusal:
            await _send(writer, f"HTTP/1.1 {self.refusal}\r\nContent-Length: 0\r\n\r\n".encode())
        elif method == "CONNECT":
            async with self._upstream(target.rpartition(":")[0]) as upstream:
                await _send(writer, b"HTTP/1.1 200 Connection established\r\n\r\n")
                await _relay(reader, writer, *upstream)
        else:
            parts = urlsplit(target)
            path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
            lines = [line for line in head.split(b"\r\n")[1:] if not line.lower().startswith(b"proxy-")]
            # One request per connection, so that the next one is seen here too.
            own = [f"{method} {path} HTTP/1.1".encode(), b"Connection: close", *lines]
            async with self._upstream(parts.hostname or "") as upstream:
                await _send(upstream[1], b"\r\n".join(own))
                await _relay(reader, writer, *upstream)

    def _is_authorized(self, head: bytes) -> bool:
        if self.login is None:
            return True
        wanted = base64.b64encode(":".join(self.login).encode())
        return b"proxy-authorization: basic " + wanted.lower() in head.lower() and wanted in head

    @contextlib.asynccontextmanager
    async def _upstream(self, host: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.hosts[host])
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    up_reader: asyncio.StreamReader,
    up_writer: asyncio.StreamWriter,
) -> None:
    """Copy both ways until one side ends."""
    copies = [asyncio.create_task(_copy(reader, up_writer)), asyncio.create_task(_copy(up_reader, writer))]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            await _send(writer, data)
