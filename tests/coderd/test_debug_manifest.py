"""The debug server of the Coder agent, and other servers on its port."""

import contextlib
import os
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agentd.coderd import debug_manifest
from agentd.coderd.debug_manifest import MANIFEST_MAX_BYTES, Manifest, read_manifest
from agentd.errors import PeerError
from agentd.proc import ListeningSocket
from agentd.simulator.agent_debug import SimulatedAgentDebug
from agentd.simulator.coderd import SimulatedCoderd
from agentd.tls import aiohttp


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_the_manifest_names_workspace_and_owner(session: aiohttp.ClientSession) -> None:
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_prebuild()
        async with SimulatedAgentDebug(ws, owner_name="ada") as agent:
            url = f"{agent.url}/debug/manifest"
            assert await read_manifest(session, url) == Manifest(ws.id, "prebuilds", "main")
            coderd.claim_start(ws)
            assert (await read_manifest(session, url)).owner_name == "prebuilds", (
                "the agent has not fetched it again yet"
            )
            agent.fetch_manifest()
            assert await read_manifest(session, url) == Manifest(ws.id, "ada", "main")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b"404 page not found", "answered 404"),
        (302, b"", "answered 302"),
        (200, b"<html>", "no JSON"),
        (200, b"[" * 100_000, "no JSON"),
        (200, b"[]", "no JSON"),
        (200, b"{}", "no JSON object, or an empty one"),
        (200, b'{"workspace_id": 7, "owner_name": "a"}', "names no workspace"),
        (200, b'{"workspace_id": "", "owner_name": "", "agent_name": ""}', "names no workspace"),
        (200, b'{"workspace_id": "w", "owner_name": "a"}', "no agent"),
        (200, b" " * (MANIFEST_MAX_BYTES + 1), "larger than"),
    ],
)
async def test_an_answer_that_is_not_a_manifest_is_a_peer_error(
    status: int, body: bytes, message: str, session: aiohttp.ClientSession
) -> None:
    async def answer(_request: object) -> web.Response:
        return web.Response(
            status=status, body=body, headers={"Location": "/elsewhere"} if status == 302 else {}
        )

    app = web.Application()
    app.router.add_get("/debug/manifest", answer)
    async with TestServer(app) as server:
        with pytest.raises(PeerError, match=message):
            await read_manifest(session, str(server.make_url("/debug/manifest")))


async def test_a_closed_port_is_a_peer_error(session: aiohttp.ClientSession) -> None:
    with pytest.raises(PeerError, match="does not answer"):
        await read_manifest(session, "http://127.0.0.1:1/debug/manifest")


@contextlib.asynccontextmanager
async def serving(*sockets: socket.socket) -> AsyncIterator[str]:
    """A server on `sockets` that answers with the manifest of a claimed workspace. Yields its URL."""

    async def answer(_request: object) -> web.Response:
        return web.json_response({"workspace_id": "w", "owner_name": "ada", "agent_name": "main"})

    app = web.Application()
    app.router.add_get("/debug/manifest", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    for one in sockets:
        await web.SockSite(runner, one).start()
    yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}/debug/manifest"
    await runner.cleanup()


def listener(address: str = "127.0.0.1", port: int = 0, *, uid: int = 0) -> socket.socket:
    """A listening socket of this user, or as root of the user `uid`."""
    if uid:
        os.seteuid(uid)
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        one = socket.create_server((address, port), family=family)
    finally:
        if uid:
            os.seteuid(0)
    one.setblocking(False)
    return one


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")


@needs_root
async def test_a_manifest_from_a_port_of_another_user_is_refused(session: aiohttp.ClientSession) -> None:
    async with serving(listener(uid=65534)) as url:
        with pytest.raises(PeerError, match="belongs to uid 65534"):
            await read_manifest(session, url)


@needs_root
async def test_a_second_listener_of_another_user_on_the_port_is_refused(
    session: aiohttp.ClientSession,
) -> None:
    mine = listener()
    try:
        other = listener("127.0.0.2", mine.getsockname()[1], uid=65534)
    except PermissionError:
        pytest.skip("the port is privileged")
    async with serving(mine, other) as url:
        with pytest.raises(PeerError, match="belongs to uid 65534"):
            await read_manifest(session, url)


@pytest.mark.parametrize("address", ["127.0.0.1", "", "::1", "::"])
async def test_a_manifest_from_a_port_of_this_user_is_read(
    session: aiohttp.ClientSession, address: str
) -> None:
    async with serving(listener(address)) as url:
        reached = url.replace("127.0.0.1", "[::1]") if ":" in address else url
        assert (await read_manifest(session, reached)).owner_name == "ada"


async def test_a_port_whose_listener_changes_during_the_request_is_refused(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    inodes = iter((1, 2))
    monkeypatch.setattr(
        debug_manifest, "listening_sockets", lambda _port: [ListeningSocket(os.geteuid(), next(inodes))]
    )
    async with serving(listener()) as url:
        with pytest.raises(PeerError, match="replaced during the request"):
            await read_manifest(session, url)
