"""Finds a claim whose event did not arrive, by a change of the workspace's owner.

Servers up to v2.31 publish a claim once and never repeat it, so an agentd that is not connected at that
moment misses it. The owner of the workspace stays changed, however. While the agent's manifest names the
prebuilds user, the ledger records that. If the manifest names another user for a recorded workspace, its
claim was missed. A workspace that never belonged to the prebuilds user is a regular workspace and has no
claim.

The manifest comes from a port of this machine and not from coderd, so it counts only if it names the workspace and
the agent that agentd knows, and `debug_manifest` trusts the owner of the port.
"""

import asyncio
import re
from typing import Final

from agentd.claims.events import PREBUILD_CLAIMED, ClaimEvent
from agentd.claims.ledger import Ledger
from agentd.coderd.debug_manifest import Manifest
from agentd.errors import PeerError

PREBUILDS_OWNER: Final = "prebuilds"
"""The name of coderd's prebuilds system user."""

_VERSION: Final = re.compile(r"v?([1-9]\d{0,5})\.(\d{1,6})(?=\.)", re.ASCII)
_REPEATS_SINCE: Final = (2, 32)


def is_sent_once(build_version: str) -> bool:
    """True if coderd of this version sends the event of a claim once. False for an unknown version (v0 is a build
    from source): its events are trusted to come.
    """
    version = _VERSION.match(build_version)
    return version is not None and (int(version[1]), int(version[2])) < _REPEATS_SINCE


async def missed_claim(
    manifest: Manifest, ledger: Ledger, workspace_id: str | None = None, agent_name: str = ""
) -> ClaimEvent | None:
    """The missed claim, without an owner id (the manifest has none), or None. Records an unclaimed workspace.

    `workspace_id` and `agent_name` are the configured ones, if any. Raises `PeerError` if the manifest is for another
    workspace or agent than these or the recorded ones, `LedgerWriteError` if the record cannot be written.
    """
    if workspace_id and workspace_id.lower() != manifest.workspace_id:
        raise PeerError(
            f"the agent's manifest is for workspace {manifest.workspace_id}; this is {workspace_id}"
        )
    was_unclaimed = ledger.unclaimed_workspace == manifest.workspace_id
    for known in (agent_name, ledger.unclaimed_agent if was_unclaimed else ""):
        if known and known != manifest.agent_name:
            raise PeerError(f"the agent's manifest is for agent {manifest.agent_name}; this is {known}")
    if manifest.owner_name != PREBUILDS_OWNER:
        claimed = ClaimEvent(manifest.workspace_id, None, PREBUILD_CLAIMED, inferred=True)
        return claimed if was_unclaimed else None
    if not (was_unclaimed and ledger.unclaimed_agent):
        await asyncio.to_thread(ledger.note_unclaimed, manifest.workspace_id, manifest.agent_name)
    return None
