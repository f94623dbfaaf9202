"""Finding a claim that an old server published while agentd was not connected."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentd.claims.events import ClaimEvent
from agentd.claims.ledger import Ledger
from agentd.claims.listener import FindMissed
from agentd.claims.missed_claim import missed_claim
from agentd.coderd.debug_manifest import Manifest, read_manifest
from agentd.errors import PeerError
from agentd.simulator.agent_debug import SimulatedAgentDebug
from agentd.simulator.coderd import SimulatedCoderd
from agentd.tls import aiohttp

W = "11111111-1111-4111-8111-111111111111"
OTHER = "33333333-3333-4333-8333-333333333333"


@pytest.fixture
def ledger(state_dir: Path) -> Ledger:
    ledger = Ledger(state_dir)
    ledger.token_fingerprint = "token-one"
    return ledger


async def test_a_recorded_unclaimed_workspace_with_an_owner_was_claimed(
    ledger: Ledger, state_dir: Path
) -> None:
    assert await missed_claim(Manifest(W, "prebuilds"), ledger) is None
    ledger.close()
    assert await missed_claim(Manifest(W, "ada"), Ledger(state_dir)) == ClaimEvent(
        W, None, "prebuild_claimed"
    )


async def test_a_regular_workspace_has_no_missed_claim(ledger: Ledger) -> None:
    assert await missed_claim(Manifest(W, "ada"), ledger) is None


async def test_a_clone_of_an_unclaimed_prebuild_has_no_missed_claim(ledger: Ledger) -> None:
    ledger.note_unclaimed(W)
    assert await missed_claim(Manifest(OTHER, "ada"), ledger) is None


async def test_the_manifest_of_another_workspace_is_an_error(ledger: Ledger) -> None:
    with pytest.raises(PeerError, match="this is"):
        await missed_claim(Manifest(OTHER, "ada"), ledger, W)


async def test_an_unclaimed_workspace_is_recorded_once_and_survives_compaction(
    ledger: Ledger, state_dir: Path
) -> None:
    for _ in range(3):
        await missed_claim(Manifest(W, "prebuilds"), ledger)
    assert len((state_dir / "claims.jsonl").read_bytes().splitlines()) == 1
    (state_dir / "claims.jsonl").unlink()
    ledger.admit(ClaimEvent(W, None, "prebuild_claimed"))  # rewrites the file
    assert Ledger.read(state_dir).unclaimed_workspace == W


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_the_hooks_of_a_missed_claim_run_once(
    hooks: Any, start_side: Any, state_dir: Path, session: aiohttp.ClientSession
) -> None:
    hooks.add("10-a")
    async with SimulatedCoderd(era="E1", ping_s=0.05, rate_limit=0) as coderd:
        ws = coderd.add_prebuild()
        async with SimulatedAgentDebug(ws) as agent:

            def missed_claims_of(ledger: Ledger) -> FindMissed:
                async def find_missed() -> ClaimEvent | None:
                    return await missed_claim(
                        await read_manifest(session, f"{agent.url}/debug/manifest"), ledger
                    )

                return find_missed

            async with start_side(coderd.url, ws.token, missed_claims_of=missed_claims_of) as side:
                await coderd.until(lambda: coderd.open_streams(ws) == 1)
                async with asyncio.timeout(20):
                    while side.ledger.unclaimed_workspace != ws.id:
                        await asyncio.sleep(0.005)
                coderd.claim_start(ws)
                await coderd.claim_finish(ws, publish=False)
                agent.fetch_manifest()
                await side.until("settled")
                for _ in range(3):
                    await coderd.drop_connections()
                    await coderd.until(lambda: coderd.open_streams(ws) == 1)
    assert hooks.runs() == ["10-a 1"]
