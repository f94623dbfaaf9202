"""Finding a claim that an old server published while agentd was not connected."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentd import config
from agentd.claims.claim import claim_from_record
from agentd.claims.events import ClaimEvent
from agentd.claims.ledger import Ledger, claim_as_json
from agentd.claims.ledger_format import encode
from agentd.claims.listener import FindMissed
from agentd.claims.missed_claim import is_sent_once, missed_claim
from agentd.cli import claims as claims_command
from agentd.clock import Clock
from agentd.coderd.debug_manifest import Manifest, read_manifest
from agentd.daemon.build import build
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
    assert await missed_claim(Manifest(W, "prebuilds", "main"), ledger) is None
    ledger.close()
    assert await missed_claim(Manifest(W, "ada", "main"), Ledger(state_dir)) == ClaimEvent(
        W, None, "prebuild_claimed", inferred=True
    )


async def test_a_regular_workspace_has_no_missed_claim(ledger: Ledger) -> None:
    assert await missed_claim(Manifest(W, "ada", "main"), ledger) is None


async def test_a_clone_of_an_unclaimed_prebuild_has_no_missed_claim(ledger: Ledger) -> None:
    ledger.note_unclaimed(W, "main")
    assert await missed_claim(Manifest(OTHER, "ada", "main"), ledger) is None


async def test_the_manifest_of_another_workspace_is_an_error(ledger: Ledger) -> None:
    with pytest.raises(PeerError, match="this is"):
        await missed_claim(Manifest(OTHER, "ada", "main"), ledger, W)


@pytest.mark.parametrize("owner", ["prebuilds", "ada"])
@pytest.mark.parametrize("configured", ["", "main"])
async def test_the_manifest_of_another_agent_is_an_error(ledger: Ledger, owner: str, configured: str) -> None:
    ledger.note_unclaimed(W, "main")
    with pytest.raises(PeerError, match="agent other; this is main"):
        await missed_claim(Manifest(W, owner, "other"), ledger, W, configured)


async def test_a_record_of_an_older_agentd_without_the_agent_is_read_and_completed(
    ledger: Ledger, state_dir: Path
) -> None:
    (state_dir / "claims.jsonl").write_bytes(encode({"kind": "waiting", "at": 1.0, "workspace": W}, 1))
    older = Ledger(state_dir)
    assert (older.unclaimed_workspace, older.unclaimed_agent) == (W, "")
    found = await missed_claim(Manifest(W, "ada", "main"), older)
    assert found is not None
    await missed_claim(Manifest(W, "prebuilds", "main"), older)
    assert Ledger.read(state_dir).unclaimed_agent == "main"


@pytest.mark.parametrize(
    ("version", "once"),
    [
        ("v2.22.0", True),
        ("v2.29.0+6ad5ff5", True),
        ("v2.31.14", True),
        ("2.31.3-devel+abc", True),
        ("v2.32.0", False),
        ("v2.36.0+96d6cbe", False),
        ("v3.0.1", False),
        ("v10.1.0", False),
        ("v0.0.0-devel+abc", False),
        ("", False),
        ("none", False),
        ("v2.x", False),
        ("v2.٣.0", False),
    ],
)
def test_only_a_version_before_2_32_sends_a_claim_once(version: str, once: bool) -> None:
    assert is_sent_once(version) == once


async def test_an_inferred_claim_says_so_also_after_compaction_and_for_an_older_ledger(
    ledger: Ledger, state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = ledger.admit(ClaimEvent(W, None, "prebuild_claimed", inferred=True)).claim
    real = ledger.admit(ClaimEvent(OTHER, None, "prebuild_claimed")).claim
    assert (claim.inferred, real.inferred) == (True, False)
    records = [json.loads(line) for line in (state_dir / "claims.jsonl").read_bytes().splitlines()]
    assert [record.get("inferred") for record in records] == [True, None]
    # An event that arrives later completes the claim and does not change how it was found.
    assert ledger.admit(ClaimEvent(W, OTHER, "prebuild_claimed")).claim.inferred
    assert [claim_from_record(one.to_record()).inferred for one in ledger.all_claims()] == [True, False]
    assert "inferred" not in real.to_record()
    shown = [claims_command._describe(claim_as_json(one), with_output=True) for one in ledger.all_claims()]
    assert ["inferred: coderd sent no event" in text for text in shown] == [True, False]


@pytest.mark.parametrize(("era", "asked"), [("E1", True), ("E2", False), ("E3", False)])
async def test_the_manifest_is_read_only_where_the_server_cannot_repeat_the_event(
    state_dir: Path, era: str, asked: bool
) -> None:
    """A forged manifest, of a workspace that is recorded as unclaimed, gives no claim on a newer server."""
    async with SimulatedCoderd(era=era) as coderd:
        ws = coderd.add_prebuild()
        async with SimulatedAgentDebug(ws, owner_name="mallory") as forged:
            environ = {
                "CODER_AGENT_URL": coderd.url, "CODER_AGENT_TOKEN": ws.token, "AGENTD_STATE_DIR": str(state_dir),
                "CODER_AGENT_DEBUG_ADDRESS": forged.url.removeprefix("http://"),
            }  # fmt: skip
            async with build(config.load(environ=environ), Clock()) as components:
                assert components.listener is not None
                components.ledger.note_unclaimed(ws.id, ws.agent.name)
                coderd.claim_start(ws)
                forged.fetch_manifest()
                found = await components.listener._find_missed()
                assert found == (
                    ClaimEvent(ws.id, None, "prebuild_claimed", inferred=True) if asked else None
                )
                assert len(forged._log.entries) == asked


async def test_an_unclaimed_workspace_is_recorded_once_and_survives_compaction(
    ledger: Ledger, state_dir: Path
) -> None:
    for _ in range(3):
        await missed_claim(Manifest(W, "prebuilds", "main"), ledger)
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
