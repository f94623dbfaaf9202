"""The debug server of the Coder agent, and other servers on its port."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agentd.coderd.debug_manifest import MANIFEST_MAX_BYTES, Manifest, read_manifest
from agentd.errors import PeerError
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
            assert await read_manifest(session, url) == Manifest(ws.id, "prebuilds")
            coderd.claim_start(ws)
            assert (await read_manifest(session, url)).owner_name == "prebuilds", (
                "the agent has not fetched it again yet"
            )
            agent.fetch_manifest()
            assert await read_manifest(session, url) == Manifest(ws.id, "ada")


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
        (200, b'{"workspace_id": "", "owner_name": ""}', "names no workspace"),
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
