"""The Coder agent's own debug server: the manifest it last fetched, told to anyone on loopback.

`GET http://127.0.0.1:2113/debug/manifest` (`CODER_AGENT_DEBUG_ADDRESS`) answers the agent's manifest as JSON, without a
content type of its own. The agent fetches it whenever it (re)connects to coderd, so it may be older than the claim.
"""

import asyncio
import json
from typing import NamedTuple

from agentd.errors import PeerError
from agentd.tls import aiohttp

DEFAULT_URL = "http://127.0.0.1:2113/debug/manifest"
MANIFEST_MAX_BYTES = 4 * 1024 * 1024  # scripts and environment of a template are in it


class Manifest(NamedTuple):
    """Whose workspace the agent believes this is. `owner_name` is a user's name, not an id."""

    workspace_id: str
    owner_name: str


class DebugManifest:
    """Reads the manifest. `session` is shared with the other request/response peers."""

    def __init__(
        self, *, session: aiohttp.ClientSession, url: str = DEFAULT_URL, timeout_s: float = 3.0
    ) -> None:
        self._session = session
        self._url = url
        self._timeout_s = timeout_s

    async def read(self) -> Manifest:
        """Raises `PeerError` when there is no such server, or what it says is no manifest."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.get(self._url, allow_redirects=False) as response,
            ):
                body = b"" if response.status != 200 else await _at_most(response.content, MANIFEST_MAX_BYTES)
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise PeerError(
                f"the agent's debug server does not answer: {str(exc) or type(exc).__name__}"
            ) from exc
        if status != 200:
            raise PeerError(f"the agent's debug server answered {status}")
        return _parsed(body)


async def _at_most(content: aiohttp.StreamReader, limit: int) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > limit:
            raise PeerError(f"the agent's manifest is larger than {limit} bytes")
    return bytes(body)


def _parsed(body: bytes) -> Manifest:
    try:
        manifest = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise PeerError("the agent's debug server answered no JSON") from exc
    named = manifest if isinstance(manifest, dict) else {}
    workspace_id, owner_name = named.get("workspace_id"), named.get("owner_name")
    if not (isinstance(workspace_id, str) and isinstance(owner_name, str) and workspace_id and owner_name):
        raise PeerError("the agent's manifest names no workspace or no owner")
    return Manifest(workspace_id.lower(), owner_name)
