"""`GET /v1/events`: the whole status once, then each change, while a client is connected."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from agentd.local_api import feed as feed_module
from agentd.local_api.feed import CLIENTS_MAX, Feed


class Source:
    def __init__(self):
        self.status = {"agent": {"status": "running", "evidence": "1 sample"}, "task": {"state": "working"}}
        self.reads = 0

    def read(self):
        self.reads += 1
        return json.loads(json.dumps(self.status))


class Listener:
    """One client. Its events are (name, value)."""

    def __init__(self, response):
        self._response = response
        self.raw = []

    async def event(self):
        name = ""
        async with asyncio.timeout(10):
            async for line in self._response.content:
                self.raw.append(line)
                if line.startswith(b"event: "):
                    name = line[7:].strip().decode()
                elif line.startswith(b"data: "):
                    return name, json.loads(line[6:])
        return None

    async def line(self, wanted):
        async with asyncio.timeout(10):
            async for line in self._response.content:
                if line == wanted:
                    return
        raise AssertionError(f"the stream ended without {wanted!r}")


@pytest.fixture
def source():
    return Source()


@pytest.fixture
async def feed(source):
    return Feed(source.read)


@pytest.fixture
async def listen(feed):
    app = web.Application()
    app.add_routes([web.get("/v1/events", feed.serve)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/events"

    @asynccontextmanager
    async def one():
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            yield Listener(response) if response.status == 200 else response

    yield one
    feed.close()
    await runner.cleanup()


async def test_the_whole_status_is_sent_first_and_then_each_change(feed, source, listen):
    async with listen() as listener:
        assert await listener.event() == ("status", source.status)
        source.status["task"] = {"state": "idle"}
        feed.changed()
        assert await listener.event() == ("task", {"state": "idle"})


async def test_a_change_that_was_not_announced_is_sent(feed, source, listen):
    async with listen() as listener:
        await listener.event()
        source.status["claims"] = {"state": "acting"}
        assert await listener.event() == ("claims", {"state": "acting"})


async def test_new_evidence_alone_is_not_sent_but_comes_with_the_next_change(feed, source, listen):
    async with listen() as listener:
        await listener.event()
        for samples in range(5):
            source.status["agent"]["evidence"] = f"{samples} samples"
            feed.changed()
            await asyncio.sleep(0.01)
        source.status["agent"]["status"] = "stable"
        feed.changed()
        assert await listener.event() == ("agent", {"status": "stable", "evidence": "4 samples"})


async def test_without_clients_the_status_is_not_read(feed, source, listen):
    feed.changed()
    assert (source.reads, feed._poller) == (0, None)
    async with listen() as listener:
        await listener.event()
    async with asyncio.timeout(10):
        while feed._poller is not None:
            source.status["task"] = {"state": source.reads}  # the write shows that the client disconnected
            feed.changed()
            await asyncio.sleep(0.01)
    reads = source.reads
    feed.changed()
    await asyncio.sleep(0.05)
    assert source.reads == reads


async def test_a_slow_client_gets_only_the_newest_value_of_each_key(feed, source, monkeypatch):
    client = feed_module._Client(source.read())
    for number in range(10_000):
        client.put("task", {"state": number})
        client.put("agent", {"status": number})
    assert client.pending == {"status": source.status, "task": {"state": 9999}, "agent": {"status": 9999}}


async def test_a_heartbeat_is_sent_when_nothing_changes(feed, source, listen, monkeypatch):
    monkeypatch.setattr(feed_module, "HEARTBEAT_S", 0.05)
    async with listen() as listener:
        await listener.event()
        await listener.line(b": heartbeat\n")
        source.status["task"] = {"state": "idle"}
        feed.changed()
        assert await listener.event() == ("task", {"state": "idle"})


async def test_one_client_too_many_is_refused(feed, listen):
    feed._clients.update(feed_module._Client({}) for _ in range(CLIENTS_MAX))
    async with listen() as response:
        assert response.status == 503
    feed._clients.clear()


async def test_close_ends_every_stream(feed, listen):
    async with listen() as listener:
        await listener.event()
        feed.close()
        assert await listener.event() is None
