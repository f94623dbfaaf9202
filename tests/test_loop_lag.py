"""A peer that floods agentd does not hold up its other tasks."""

import asyncio
import contextlib
import socket
import time

import aiohttp
import pytest

from agentd.agents.agent import AgentError
from agentd.agents.agentapi.client import AgentApiClient
from agentd.clock import Clock
from agentd.coderd.reinit_stream import ReinitStream
from agentd.errors import PeerError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM, JSON = HEAD % b"text/event-stream", HEAD % b"application/json"


def one(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


# What is sent again and again behind a head, and how many of them are sent at once.
FLOODS = {
    "one-byte chunks": one(b":") * 20_000,
    "one-byte lines": one(b"\n" * 200_000),
    "lines with a colon": one(b":\n" * 100_000),
    "empty data": one(b"data\n" * 12_000 + b"\n"),
    "small events": one(b"event: ping\n\n" * 15_000),
}
BODIES = {
    "one-byte chunks": (b"", one(b" ") * 20_000),
    "fields": (b'{"a":1', one(b',"a":1' * 30_000)),
    "small messages": (b'{"messages":[{}', one(b",{}" * 60_000)),
    "nested": (b'{"a":', one(b"[" * 200_000)),
    "padding": (b'{"messages":[{"content":"', one(b"  \\n" * 50_000)),
    "escapes": (b'{"messages":[{"content":"', one(b'\\"\\\\' * 50_000)),
}


class Flood:
    """A server that sends `flood` again and again behind `start` until `total` bytes are sent."""

    def __init__(self, start, flood, total):
        self.start, self.flood, self.total = start, flood, total

    async def __aenter__(self):
        # In a thread, so that the probe measures the client only.
        self.ready = asyncio.get_running_loop().create_future()
        self.loop = asyncio.get_running_loop()
        self.work = asyncio.create_task(asyncio.to_thread(self.serve))
        return f"http://127.0.0.1:{await self.ready}"

    async def __aexit__(self, *exc):
        self.sock.close()
        with contextlib.suppress(OSError):
            await self.work

    def serve(self):

        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.settimeout(10)
        self.loop.call_soon_threadsafe(self.ready.set_result, self.sock.getsockname()[1])
        peer, _ = self.sock.accept()
        with peer, contextlib.suppress(OSError):
            peer.settimeout(10)
            peer.recv(65_536)
            peer.sendall(self.start)
            sent = 0
            while sent < self.total:
                peer.sendall(self.flood)
                sent += len(self.flood)


async def lag_of(work):
    """How long the longest turn of the event loop lasts while `work` runs."""
    longest = 0.0

    async def probe():
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before - 0.001)

    probing = asyncio.create_task(probe())
    await asyncio.sleep(0.01)
    try:
        async with asyncio.timeout(60):
            await work
    except (PeerError, AgentError):
        pass
    finally:
        probing.cancel()
    return longest


SIZES = [
    pytest.param(100_000, 0.25, id="short"),
    pytest.param(20_000_000, 0.05, id="long", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("total", "bound_s"), SIZES)
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_on_the_claim_stream_does_not_block_the_loop(kind, total, bound_s):
    async def read(url):
        stream = ReinitStream(url, context=None, clock=Clock())
        async for _ in stream.events("token"):
            pass

    async with Flood(STREAM, FLOODS[kind], total) as url:
        assert await lag_of(read(url)) < bound_s


@pytest.mark.parametrize(("total", "bound_s"), SIZES)
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_on_the_agents_stream_does_not_block_the_loop(kind, total, bound_s):
    async def read(url):
        async with aiohttp.ClientSession() as session:
            async for _ in AgentApiClient(url, session=session).events():
                pass

    async with Flood(STREAM, FLOODS[kind], total) as url:
        assert await lag_of(read(url)) < bound_s


@pytest.mark.parametrize(("total", "bound_s"), SIZES)
@pytest.mark.parametrize("kind", BODIES)
async def test_a_flood_in_a_body_does_not_block_the_loop(kind, total, bound_s):
    start, flood = BODIES[kind]

    async def read(url):
        async with aiohttp.ClientSession() as session:
            client = AgentApiClient(url, session=session)
            try:
                await client.messages(keep=10, timeout_s=30)
            finally:
                await client.close()

    async with Flood(JSON + (one(start) if start else b""), flood, total) as url:
        assert await lag_of(read(url)) < bound_s
