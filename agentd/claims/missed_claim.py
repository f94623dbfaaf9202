"""Find a claim whose event never came, by the owner having changed.

Servers up to v2.31 publish a claim once and never repeat it: whoever is not connected at that moment has missed it for
ever. The workspace's owner stays changed, though. So: while the agent's manifest names the prebuilds user, note that in
the ledger; when it names somebody else for a workspace that was noted, its claim was missed. A workspace that never
belonged to the prebuilds user is a regular one and has nothing to miss.
"""

import asyncio
from typing import Protocol

from agentd.claims.events import PREBUILD_CLAIMED, ClaimEvent
from agentd.claims.ledger import Ledger
from agentd.coderd.debug_manifest import Manifest
from agentd.errors import PeerError

PREBUILDS_OWNER = "prebuilds"  # the name of coderd's prebuilds system user


class OwnerSource(Protocol):
    """Who says whose workspace this is: the agent's debug manifest now, its DRPC manifest one day."""

    async def read(self) -> Manifest:
        """Raises `PeerError` when it cannot say."""
        ...


class MissedClaimFinder:
    """Call it to learn of a missed claim. `workspace_id` is the configured one."""

    def __init__(self, *, source: OwnerSource, ledger: Ledger, workspace_id: str | None = None) -> None:
        self._source = source
        self._ledger = ledger
        self._workspace_id = workspace_id.lower() if workspace_id else None

    async def __call__(self) -> ClaimEvent | None:
        """The missed claim, without its owner's id (the manifest has none), or None. Raises `PeerError`."""
        manifest = await self._source.read()
        if self._workspace_id not in (None, manifest.workspace_id):
            raise PeerError(f"the agent's manifest is of workspace {manifest.workspace_id}, not of ours")
        waited = self._ledger.unclaimed_workspace == manifest.workspace_id
        if manifest.owner_name == PREBUILDS_OWNER:
            if not waited:
                await asyncio.to_thread(self._ledger.note_unclaimed, manifest.workspace_id)
            return None
        return ClaimEvent(manifest.workspace_id, None, PREBUILD_CLAIMED) if waited else None
