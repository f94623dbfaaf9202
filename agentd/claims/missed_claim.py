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
from agentd.coderd.debug_manifest import DebugManifest
from agentd.errors import PeerError

PREBUILDS_OWNER: Final = "prebuilds"
"""The name of coderd's prebuilds system user."""


class MissedClaimFinder:
    """Compares the manifest's owner with the recorded one. `workspace_id` is the configured one, if any."""

    def __init__(self, *, manifest: DebugManifest, ledger: Ledger, workspace_id: str | None = None) -> None:
        self._manifest = manifest
        self._ledger = ledger
        self._workspace_id = workspace_id.lower() if workspace_id else None

    async def find(self) -> ClaimEvent | None:
        """The missed claim, without an owner id (the manifest has none), or None.

        Raises `PeerError` if the manifest cannot be read, `LedgerWriteError` if the owner cannot be recorded.
        """
        manifest = await self._manifest.read()
        if self._workspace_id not in (None, manifest.workspace_id):
            raise PeerError(
                f"the agent's manifest is for workspace {manifest.workspace_id}; this is {self._workspace_id}"
            )
        was_unclaimed = self._ledger.unclaimed_workspace == manifest.workspace_id
        if manifest.owner_name == PREBUILDS_OWNER:
            if not was_unclaimed:
                await asyncio.to_thread(self._ledger.note_unclaimed, manifest.workspace_id)
            return None
        return ClaimEvent(manifest.workspace_id, None, PREBUILD_CLAIMED) if was_unclaimed else None
