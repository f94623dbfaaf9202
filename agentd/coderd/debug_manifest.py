"""Reads the manifest of the Coder agent from the agent's debug server on loopback.

`GET http://127.0.0.1:2113/debug/manifest` (`CODER_AGENT_DEBUG_ADDRESS`) returns the manifest that the agent
fetched last, as JSON without a content type of its own. The agent fetches it each time it connects to coderd,
so the manifest may be older than the claim.

Any process of the machine can listen on that port while the agent does not. So the answer counts only if every socket
that listens on it belongs to root or to agentd's user, and if it is the same sockets before and after the request.
"""

import asyncio
import os
from typing import Final, NamedTuple

from yarl import URL

from agentd.errors import PeerError
from agentd.http_client import failure, json_object, read_start
from agentd.proc import ListeningSocket, listening_sockets
from agentd.tls import aiohttp

MANIFEST_MAX_BYTES: Final = 4 * 1024 * 1024
"""The manifest contains the scripts and the environment of the template."""
TIMEOUT_S: Final = 3.0


class Manifest(NamedTuple):
    """The workspace of the agent and its owner. `owner_name` and `agent_name` are names, not ids."""

    workspace_id: str
    owner_name: str
    agent_name: str


async def read_manifest(session: aiohttp.ClientSession, url: str) -> Manifest:
    """Raises `PeerError` if there is no such server, it is another user's, or its answer is not a manifest."""
    listening = await _trusted_listeners(url)
    try:
        async with asyncio.timeout(TIMEOUT_S), session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise PeerError(f"the agent's debug server answered {response.status}")
            body = await read_start(response.content.iter_any(), MANIFEST_MAX_BYTES + 1)
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        raise PeerError(f"the agent's debug server does not answer: {failure(exc)}") from exc
    if await _trusted_listeners(url) != listening:
        raise PeerError("the agent's debug server was replaced during the request")
    if len(body) > MANIFEST_MAX_BYTES:
        raise PeerError(f"the agent's manifest is larger than {MANIFEST_MAX_BYTES} bytes")
    fields = json_object(body)
    if not fields:
        raise PeerError("the agent's debug server returned no JSON object, or an empty one")
    named = [fields.get(name) for name in ("workspace_id", "owner_name", "agent_name")]
    workspace_id, owner_name, agent_name = (name if isinstance(name, str) else "" for name in named)
    if not (workspace_id and owner_name and agent_name):
        raise PeerError("the agent's manifest names no workspace, no owner or no agent")
    return Manifest(workspace_id.lower(), owner_name, agent_name)


async def _trusted_listeners(url: str) -> frozenset[ListeningSocket]:
    port = URL(url).port
    found = frozenset(await asyncio.to_thread(listening_sockets, port)) if port else frozenset()
    if not found:
        raise PeerError(
            f"the agent's debug server does not answer: no process of this machine listens on {url}"
        )
    if strangers := sorted({socket.uid for socket in found} - {0, os.geteuid()}):
        raise PeerError(
            f"the port of the agent's debug server belongs to uid {strangers[0]}; "
            f"it must belong to root or uid {os.geteuid()}"
        )
    return found
