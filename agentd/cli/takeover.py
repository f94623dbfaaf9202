"""The daemon's work for `agentd stop`, `snapshot` and `claims` when no daemon runs: once, under its lock."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from agentd import log
from agentd.claims.ledger import Ledger, claim_as_json
from agentd.cli.local_client import NOTHING_TO_SEND
from agentd.clock import Clock
from agentd.config import Config
from agentd.daemon.build import build, open_ledger
from agentd.daemon.shutdown import FINAL_READ_MAX_S, disk_s, final_read_s
from agentd.errors import UnavailableError
from agentd.state_dir import StateDir, holder_pid

# A daemon that ends holds the directory's lock for a moment after its socket is gone.
HANDOVER_POLL_S: Final = 0.1


def deliver(
    config: Config,
    *,
    budget_s: float | None = None,
    on_captured: Callable[[dict[str, Any]], object] = lambda _receipt: None,
    end_agent: bool = False,
) -> dict[str, Any]:
    """Capture the conversation from the agent if it answers, deliver the spool, and return the receipt.

    `budget_s` replaces `shutdown.budget_s`. `on_captured` gets the receipt before the delivery begins.
    `end_agent` also ends the agent if `shutdown.stop_agent` is set.

    Raises `UnavailableError` if the agent does not answer and the spool is empty, `ConfigError` if no coderd is
    configured, `StateError` if another agentd holds the directory for longer than the budget.
    """
    config.require_coder()
    log.configure(level=config.log.level if config.log.level != "info" else "warning", fmt=config.log.format)
    budget_s = budget_s or config.shutdown.budget_s

    async def run() -> dict[str, Any]:
        clock = Clock()
        deadline = clock.monotonic() + budget_s
        while holder_pid(config.state.dir) is not None and clock.monotonic() < deadline:
            await clock.sleep(HANDOVER_POLL_S)
        async with build(config, clock) as components:
            final, delivery = components.final_snapshot, components.delivery
            captured = await final.capture(final_read_s(budget_s), disk_s(budget_s))
            if captured.entry is None and not captured.agent_answered:
                raise UnavailableError(NOTHING_TO_SEND)
            on_captured(delivery.receipt().as_json())
            await final.deliver(captured.entry, deadline, end_agent=end_agent and config.shutdown.stop_agent)
            return delivery.receipt().as_json()

    return asyncio.run(run())


def payload(config: Config) -> bytes:
    """The exact bytes that would be sent, from the agent or, if it does not answer, from the spool.

    Raises `UnavailableError` if there are none.
    """
    log.configure(level="warning", fmt=config.log.format)

    async def run() -> bytes:
        async with build(config, Clock()) as components:
            captured = await components.final_snapshot.capture(FINAL_READ_MAX_S)
            if captured.entry is None:
                raise UnavailableError(NOTHING_TO_SEND)
            return captured.entry.payload

    return asyncio.run(run())


def claims(config: Config) -> list[dict[str, Any]]:
    """The ledger, read without its lock and without changing it. Raises `StateError` if it is unreadable."""
    return [claim_as_json(claim, tails=True) for claim in Ledger.read(config.state.dir).claims.values()]


def change_claim(config: Config, action: str, claim_id: str) -> dict[str, Any]:
    """`retry` or `forget`. Raises `UnknownClaimError` or `IllegalClaimStepError` if the ledger refuses it."""
    with StateDir.open(config.state.dir), contextlib.closing(open_ledger(config, Clock())) as ledger:
        if action == "retry":
            ledger.retry(claim_id)
            then = "is queued; agentd runs its remaining hooks at the next start"
        else:
            ledger.forget(claim_id)
            then = "is deleted; if coderd sends its event again, agentd runs all its hooks again"
    return {"message": f"claim {claim_id} {then}"}
