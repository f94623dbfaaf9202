"""What `agentd stop`, `snapshot` and `claims` do when no daemon runs: its work, once, under its lock."""

import asyncio
from collections.abc import Callable
from typing import Any

from agentd import log
from agentd.claims.ledger import Ledger, UnknownClaimError, describe
from agentd.claims.lifecycle import IllegalClaimStepError
from agentd.cli.local_client import DaemonError
from agentd.clock import Clock
from agentd.config import Config
from agentd.daemon.budget import REFRESH_MAX_S, disk_s, refresh_s
from agentd.daemon.build import furnish, open_ledger
from agentd.daemon.ending import deliver_and_end_agent
from agentd.state_dir import StateDir, holder_pid

# A daemon that is just ending holds its directory for a moment after its socket has gone.
HANDOVER_POLL_S = 0.1


def deliver(config: Config) -> dict[str, Any] | None:
    """Capture from the agent where it answers, deliver what the spool holds, and return the receipt.

    None when the agent does not answer and nothing is spooled. Raises `ConfigError` without a Coder to deliver to,
    `StateError` when another agentd holds the directory for longer than the budget.
    """
    return _once(config, config.shutdown.budget_s, _no_one, end_agent=False)


def stop(
    config: Config, *, budget_s: float | None, on_captured: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """As `deliver`, and end AgentAPI where `shutdown.stop_agent` asks for it.

    `on_captured` is handed the receipt as it stands before the delivery.
    """
    return _once(config, budget_s or config.shutdown.budget_s, on_captured, end_agent=True)


def payload(config: Config) -> bytes | None:
    """The exact bytes that would be sent: from the agent where it answers, else from the spool. Sends nothing."""
    log.configure(level="warning", fmt=config.log.format)
    return asyncio.run(_payload(config))


def claims(config: Config) -> list[dict[str, Any]]:
    """The ledger, read without its lock and without changing it. Raises `StateError` when it cannot be read."""
    return [describe(claim, tails=True) for claim in Ledger.read(config.state.dir).claims.values()]


def change_claim(config: Config, action: str, claim_id: str) -> dict[str, Any]:
    """`retry` or `forget`. Raises `DaemonError` where the ledger does not allow it."""
    with StateDir.open(config.state.dir):
        ledger = open_ledger(config, Clock())
        try:
            if action == "retry":
                ledger.retry(claim_id)
                return {"message": f"claim {claim_id} acts again when agentd runs"}
            ledger.forget(claim_id)
            return {"message": f"claim {claim_id} is forgotten; if its event comes again it acts again"}
        except (UnknownClaimError, IllegalClaimStepError) as exc:
            raise DaemonError(409, exc.message, hint=exc.hint) from exc
        finally:
            ledger.close()


async def _payload(config: Config) -> bytes | None:
    async with furnish(config, Clock()) as rooms:
        await rooms.last_look(REFRESH_MAX_S)
        entry = await rooms.recorder.capture()
        return entry.payload if entry else None


def _once(
    config: Config, budget_s: float, on_captured: Callable[[dict[str, Any]], None], *, end_agent: bool
) -> dict[str, Any] | None:
    config.require_coder()
    log.configure(level=config.log.level if config.log.level != "info" else "warning", fmt=config.log.format)
    return asyncio.run(_deliver(config, budget_s, on_captured, end_agent=end_agent))


async def _deliver(
    config: Config, budget_s: float, on_captured: Callable[[dict[str, Any]], None], *, end_agent: bool
) -> dict[str, Any] | None:
    clock = Clock()
    deadline = clock.monotonic() + budget_s
    while holder_pid(config.state.dir) is not None and clock.monotonic() < deadline:
        await clock.sleep(HANDOVER_POLL_S)
    async with furnish(config, clock) as rooms:
        answered = await rooms.last_look(refresh_s(budget_s))
        entry = await rooms.recorder.flush_to_disk(disk_s(budget_s))
        if entry is None and not answered:
            return None
        on_captured(rooms.delivery.receipt().as_json())
        if end_agent:
            await deliver_and_end_agent(rooms, entry, deadline)
        else:
            await rooms.delivery.flush(deadline)
        return rooms.delivery.receipt().as_json()


def _no_one(_receipt: dict[str, Any]) -> None:
    """Nobody wants to know how far it is."""
