"""Idle and hostile clients of the local API cost bounded connections, memory and time."""

import asyncio
import contextlib
import io
import json
import logging
import resource

import pytest

from agentd import log
from agentd.local_api import connections
from agentd.local_api.replies import BODY_MAX_BYTES
from agentd.local_api.server import LocalApi, Operations


async def nothing(*_):
    return {"ok": "ok"}


@pytest.fixture
async def api(tmp_path, unused_tcp_port):
    operations = Operations(**(dict.fromkeys(Operations._fields, nothing) | {"status": dict, "claims": dict}))
    listen = f"127.0.0.1:{unused_tcp_port}"
    server = LocalApi(socket_path=tmp_path / "a.sock", listen=listen, operations=operations)
    await server.start()
    yield server
    await server.close()


def connect(api, kind):
    if kind == "unix":
        return asyncio.open_unix_connection(str(api._path))
    host, port = api._listen.split(":")
    return asyncio.open_connection(host, int(port))


async def ask(api, kind, head=b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"):
    reader, writer = await connect(api, kind)
    writer.write(head)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_idle_connections_are_capped_and_delay_no_request(api, kind):
    count = 200
    idle = [await connect(api, kind) for _ in range(count)]
    for _, writer in idle[::2]:
        writer.write(b"GET /v1/sta")
    other = "tcp" if kind == "unix" else "unix"
    for one in (kind, other):
        assert (await ask(api, one)).startswith(b"HTTP/1.1 200")
    assert len(api._runner.server.connections) <= connections.connections_max()
    for _, writer in idle:
        writer.close()


async def test_a_header_that_does_not_end_is_closed(api, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_TIMEOUT_S", 0.05)
    assert await ask(api, "tcp", b"GET /v1/status HTTP/1.1\r\nHost:") == b""


async def test_a_body_that_does_not_end_is_408(api, monkeypatch):
    monkeypatch.setattr(connections, "BODY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(connections, "LINGER_S", 0.05)
    head = b"POST /v1/reports HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nConnection: close\r\n\r\n{"
    assert (await ask(api, "tcp", head)).startswith(b"HTTP/1.1 408")


async def test_large_bodies_are_refused_before_they_are_read(api):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    head = b"POST /v1/reports HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n"

    async def post():
        with contextlib.suppress(OSError):
            return await ask(api, "tcp", head + b"x" * 100_000)
        return b""

    answers = await asyncio.gather(*(post() for _ in range(40)))
    assert any(answer.startswith(b"HTTP/1.1 413") for answer in answers)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000
    assert BODY_MAX_BYTES == 65_536


async def test_malformed_requests_make_few_lines_and_no_traceback(api):
    out = io.StringIO()
    log.configure(fmt="json", stream=out)
    for _ in range(40):
        assert b" 400 " in await ask(api, "tcp", b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert 0 < len(lines) <= log.LIBRARY_MAX_PER_MINUTE
    assert not any("exception" in line for line in lines)


def test_dropped_library_messages_are_counted():
    out = io.StringIO()
    log.configure(fmt="json", stream=out)
    handler = logging.root.handlers[0]
    for second in (*range(30), 100):
        record = logging.LogRecord("lib", logging.WARNING, "f", 1, "text", (), None)
        record.created = 1000.0 + second
        handler.emit(record)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in events].count("library.message") == log.LIBRARY_MAX_PER_MINUTE + 1
    assert [line["count"] for line in events if line["event"] == "library.messages_dropped"] == [20]
