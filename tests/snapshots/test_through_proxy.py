"""Destinations through a real proxy. The host name of the server does not resolve on this machine."""

import os

import pytest
from aiohttp import web
from httpproxy import ForwardProxy

from agentd.conversation.fit import fit
from agentd.conversation.message import Message
from agentd.errors import ConfigError
from agentd.snapshots.destinations.by_url import from_url
from agentd.snapshots.destinations.destination import Accepted, RetryableError
from agentd.snapshots.destinations.url_template import DestinationContext, UrlTemplate
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.fetching import NotFetchedError, fetch

HOST = "archive.invalid"
LOGIN = ("me", "hunter2hunter2")
WHEN = "2026-03-02T09:00:00.000000Z"


@pytest.fixture
def entry():
    fitted = fit([Message(0, "agent", "hello", WHEN)], max_messages=10)
    return SpoolEntry("task", fitted.payload, fitted.messages, fitted.truncated, WHEN, serial=1)


@pytest.fixture
def context(session, tmp_path):
    return DestinationContext(session=session, folder=tmp_path, environ=dict(os.environ))


@pytest.fixture
async def stored():
    """A server that stores what is put; its port and what it has."""
    found = {}

    async def put(request):
        assert "Proxy-Authorization" not in request.headers
        found[request.path] = await request.read()
        return web.Response(status=204)

    async def get(request):
        return web.Response(body=found[request.path])

    app = web.Application()
    app.add_routes([web.put("/{name}", put), web.get("/{name}", get)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1], found
    await runner.cleanup()


async def test_a_snapshot_is_stored_and_fetched_through_the_proxy(stored, entry, context, monkeypatch):
    port, found = stored
    async with ForwardProxy({HOST: port}, login=LOGIN) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:hunter2hunter2@{proxy.address}")
        assert await from_url(f"http://{HOST}/x", context).deliver(entry) == Accepted(204)
        assert await fetch(UrlTemplate(f"http://{HOST}/x", str), "task") == entry.payload == found["/x"]
    assert proxy.requests == [f"PUT http://{HOST}/x HTTP/1.1", f"GET http://{HOST}/x HTTP/1.1"]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_407_says_what_to_do(scheme, entry, context, monkeypatch):
    async with ForwardProxy({}, login=LOGIN) as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://me:wrongwrong@{proxy.address}")
        with pytest.raises(RetryableError, match="407: the proxy") as caught:
            await from_url(f"{scheme}://{HOST}/x", context).deliver(entry)
        with pytest.raises(NotFetchedError, match="407"):
            await fetch(UrlTemplate(f"{scheme}://{HOST}/x", str), "task")
    assert caught.value.status == 407
    assert f"{scheme.upper()}_PROXY" in caught.value.hint
    assert "wrongwrong" not in str(caught.value)


async def test_a_destination_in_no_proxy_is_direct(stored, entry, context, monkeypatch):
    port, _ = stored
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert await from_url(f"http://127.0.0.1:{port}/x", context).deliver(entry) == Accepted(204)
    monkeypatch.setenv("NO_PROXY", f"{HOST}:{port}")
    with pytest.raises(RetryableError, match=HOST):
        await from_url(f"http://{HOST}:{port}/x", context).deliver(entry)


def _s3_at(monkeypatch, s3, host):
    port = int(os.environ["AWS_ENDPOINT"].rpartition(":")[2])
    monkeypatch.setenv("AWS_ENDPOINT", f"http://{host}:{port}")
    return port


async def test_an_object_is_stored_and_fetched_through_the_proxy(s3, entry, context, monkeypatch):
    port = _s3_at(monkeypatch, s3, HOST)
    async with ForwardProxy({HOST: port}, login=LOGIN) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:hunter2hunter2@{proxy.address}")
        await from_url("s3://archive/x", context).deliver(entry)
        assert await fetch(UrlTemplate("s3://archive/x", str), "task") == entry.payload
    assert proxy.requests
    assert all(f"http://{HOST}:{port}/archive/x" in line for line in proxy.requests)


@pytest.mark.parametrize("no_proxy", ["", "*", "localhost:{port},x"], ids=["loopback", "all", "port"])
async def test_an_object_store_that_needs_no_proxy_gets_none(s3, entry, context, monkeypatch, no_proxy):
    """agentd decides it, because obstore reads NO_PROXY by other rules."""
    port = _s3_at(monkeypatch, s3, "127.0.0.1")
    async with ForwardProxy({}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", no_proxy.format(port=port))
        await from_url("s3://archive/x", context).deliver(entry)
    assert proxy.requests == []


def test_an_object_store_refuses_a_proxy_that_agentd_cannot_use(context, monkeypatch):
    pytest.importorskip("obstore", reason="needs the extra: pip install 'agentd[objects]'")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy:1080")
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        from_url("gs://bucket/x", context)
