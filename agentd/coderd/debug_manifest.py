"""Reads the manifest of the Coder agent from the agent's debug server on loopback.

`GET http://127.0.0.1:2113/debug/manifest` (`CODER_AGENT_DEBUG_ADDRESS`) returns the manifest that the agent
fetched last, as JSON without a content type of its own. The agent fetches it each time it connects to coderd,
so the manifest may be older than the claim.
"""

import asyncio
from typing import Final, NamedTuple

from agentd.errors import PeerError
from agentd.http_client import failure, json_object, read_start
from agentd.tls import aiohttp

MANIFEST_MAX_BYTES: Final = 4 * 1024 * 1024
"""The manifest contains the scripts and the environment of the template."""
TIMEOUT_S: Final = 3.0


class Manifest(NamedTuple):
    """The workspace of the agent and its owner. `owner_name` is a user name, not an id."""

    workspace_id: str
    owner_name: str


async def read_manifest(session: aiohttp.ClientSession, url: str) -> Manifest:
    """Raises `PeerError` if there is no such server or its answer is not a manifest."""
    try:
        async with asyncio.timeout(TIMEOUT_S), session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise PeerError(f"the agent's debug server answered {response.status}")
            body = await read_start(response.content.iter_any(), MANIFEST_MAX_BYTES + 1)
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        raise PeerError(f"the agent's debug server does not answer: {failure(exc)}") from exc
    if len(body) > MANIFEST_MAX_BYTES:
        raise PeerError(f"the agent's manifest is larger than {MANIFEST_MAX_BYTES} bytes")
    fields = json_object(body)
    if not fields:
        raise PeerError("the agent's debug server returned no JSON object, or an empty one")
    workspace_id, owner_name = fields.get("workspace_id"), fields.get("owner_name")
    if not (isinstance(workspace_id, str) and isinstance(owner_name, str) and workspace_id and owner_name):
        raise PeerError("the agent's manifest names no workspace or no owner")
    return Manifest(workspace_id.lower(), owner_name)
