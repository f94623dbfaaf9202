"""Finds a claim whose event did not arrive, by a change of the workspace's owner.

Servers up to v2.31 publish a claim once and never repeat it, so an agentd that is not connected at that
moment misses it. The owner of the workspace stays changed, however. While the agent's manifest names the
prebuilds user, the ledger records that. If the manifest names another user for a recorded workspace, its
claim was missed. A workspace that never belonged to the prebuilds user is a regular workspace and has no
claim.
"""

import asyncio
from typing import Final

from agentd.claims.events import PREBUILD_CLAIMED, ClaimEvent
from agentd.claims.ledger import Ledger
from agentd.coderd.debug_manifest import Manifest
from agentd.errors import PeerError

PREBUILDS_OWNER: Final = "prebuilds"
"""The name of coderd's prebuilds system user."""


async def missed_claim(
    manifest: Manifest, ledger: Ledger, workspace_id: str | None = None
) -> ClaimEvent | None:
    """The missed claim, without an owner id (the manifest has none), or None. Records an unclaimed workspace.

    `workspace_id` is the configured one, if any. Raises `PeerError` if the manifest is for another workspace,
    `LedgerWriteError` if the record cannot be written.
    """
    if workspace_id and workspace_id.lower() != manifest.workspace_id:
        raise PeerError(
            f"the agent's manifest is for workspace {manifest.workspace_id}; this is {workspace_id}"
        )
    was_unclaimed = ledger.unclaimed_workspace == manifest.workspace_id
    if manifest.owner_name != PREBUILDS_OWNER:
        return ClaimEvent(manifest.workspace_id, None, PREBUILD_CLAIMED) if was_unclaimed else None
    if not was_unclaimed:
        await asyncio.to_thread(ledger.note_unclaimed, manifest.workspace_id)
    return None
