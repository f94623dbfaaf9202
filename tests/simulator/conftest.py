"""Fixtures that send requests: an HTTP client, and a raw connection that reads the exact bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp
import pytest

LIMIT_S = 20
"""The limit of every request. Only a failing test reaches it."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        return self.body.decode()


@pytest.fixture
async def ask() -> AsyncIterator[Callable[..., Awaitable[Answer]]]:
    """`await ask("GET", url, token=..., headers=..., data=..., json=...)`; redirects are not followed."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:

        async def one(method: str, url: str, *, token: str | None = None, **given: object) -> Answer:
            headers = dict(given.pop("headers", {}))
            if token is not None:
                headers["Coder-Session-Token"] = token
            async with session.request(
                method, url, headers=headers, allow_redirects=False, **given
            ) as response:
                return Answer(response.status, await response.read(), response.headers)

        yield one


class Wire:
    """A raw connection that has sent one request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> str:
        return (await self.until(b"\r\n\r\n")).decode()

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.readuntil(end)

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.read()

    def unread(self) -> bytes:
        return bytes(self.reader._buffer)


@pytest.fixture
async def wire() -> AsyncIterator[Callable[..., Awaitable[Wire]]]:
    """`await wire(port, "GET", path, headers, body)` sends a request and does not read the answer."""
    opened: list[Wire] = []

    async def open_wire(
        port: int, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        fields = {"Host": "127.0.0.1", **(headers or {})}
        if body:
            fields["Content-Length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        opened.append(Wire(reader, writer))
        return opened[-1]

    yield open_wire
    for one in opened:
        one.writer.transport.abort()
