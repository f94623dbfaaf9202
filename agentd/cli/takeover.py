"""What `agentd stop`, `snapshot` and `claims` do when no daemon runs: its work, once, under its lock."""

import asyncio
from typing import Any

from agentd import log
from agentd.claims.ledger import Ledger, UnknownClaim, describe
from agentd.claims.lifecycle import IllegalStep
from agentd.cli.local_client import RefusedError
from agentd.clock import Clock
from agentd.config import Config
from agentd.state_dir import StateDir, holder_pid
from agentd.supervisor.assembly import furnish, open_ledger

# A daemon that is just ending holds its directory for a moment after its socket has gone.
HANDOVER_POLL_S = 0.1
REFRESH_MAX_S = 2.0
REFRESH_SHARE = 0.25


def deliver(config: Config, *, budget_s: float | None) -> dict[str, Any] | None:
    """Capture from the agent where it answers, deliver what the spool holds, and return the receipt.

    None when the agent does not answer and nothing is spooled. Raises `ConfigError` without a Coder to deliver to,
    `StateError` when another agentd holds the directory for longer than the budget.
    """
    config.require_coder()
    log.configure(level=config.log.level if config.log.level != "info" else "warning", fmt=config.log.format)
    return asyncio.run(_deliver(config, budget_s or config.shutdown.budget_s))


def payload(config: Config) -> bytes | None:
    """The exact bytes that would be sent: from the agent where it answers, else from the spool. Sends nothing."""
    log.configure(level="warning", fmt=config.log.format)
    return asyncio.run(_payload(config))


def claims(config: Config) -> list[dict[str, Any]]:
    """The ledger, read without its lock and without changing it. Raises `StateError` when it cannot be read."""
    return [describe(claim, tails=True) for claim in Ledger.read(config.state.dir).claims.values()]


def change_claim(config: Config, action: str, claim_id: str) -> dict[str, Any]:
    """`retry` or `forget`. Raises `RefusedError` where the ledger does not allow it."""
    with StateDir.open(config.state.dir):
        ledger = open_ledger(config, Clock())
        try:
            if action == "retry":
                ledger.retry(claim_id)
                return {"message": f"claim {claim_id} acts again when agentd runs"}
            ledger.forget(claim_id)
            return {"message": f"claim {claim_id} is forgotten; if its event comes again it acts again"}
        except (UnknownClaim, IllegalStep) as exc:
            raise RefusedError(409, exc.message, hint=exc.hint) from exc
        finally:
            ledger.close()


async def _payload(config: Config) -> bytes | None:
    async with furnish(config, Clock()) as rooms:
        await rooms.last_look(REFRESH_MAX_S)
        entry = await rooms.recorder.capture()
        return entry.payload if entry else None


async def _deliver(config: Config, budget_s: float) -> dict[str, Any] | None:
    clock = Clock()
    deadline = clock.monotonic() + budget_s
    while holder_pid(config.state.dir) is not None and clock.monotonic() < deadline:
        await clock.sleep(HANDOVER_POLL_S)
    async with furnish(config, clock) as rooms:
        answered = await rooms.last_look(min(REFRESH_MAX_S, budget_s * REFRESH_SHARE))
        if await rooms.recorder.capture() is None and not answered:
            return None
        return (await rooms.delivery.flush(deadline)).as_json()
