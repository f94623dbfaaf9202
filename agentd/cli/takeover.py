"""The daemon's work for `agentd stop`, `snapshot` and `claims` when no daemon runs: once, under its lock."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from agentd import log
from agentd.claims.ledger import Ledger, claim_as_json
from agentd.claims.ledger_state import UnknownClaimError
from agentd.claims.lifecycle import IllegalClaimStepError
from agentd.cli.local_client import DaemonError
from agentd.clock import Clock
from agentd.config import Config
from agentd.daemon.build import build, open_ledger
from agentd.daemon.shutdown import FINAL_READ_MAX_S, disk_s, final_read_s
from agentd.state_dir import StateDir, holder_pid

# A daemon that ends holds the directory's lock for a moment after its socket is gone.
HANDOVER_POLL_S: Final = 0.1


def deliver(config: Config) -> dict[str, Any] | None:
    """Capture the conversation from the agent if it answers, deliver the spool, and return the receipt.

    None if the agent does not answer and the spool is empty. Raises `ConfigError` if no coderd is configured,
    `StateError` if another agentd holds the directory for longer than the budget.
    """
    return _once(config, config.shutdown.budget_s, _ignore, end_agent=False)


def stop(
    config: Config, *, budget_s: float | None, on_captured: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """As `deliver`, and end the agent if `shutdown.stop_agent` is set.

    `on_captured` gets the receipt before the delivery begins.
    """
    return _once(config, budget_s or config.shutdown.budget_s, on_captured, end_agent=True)


def payload(config: Config) -> bytes | None:
    """The exact bytes that would be sent, from the agent if it answers, else from the spool. Sends nothing."""
    log.configure(level="warning", fmt=config.log.format)
    return asyncio.run(_payload(config))


def claims(config: Config) -> list[dict[str, Any]]:
    """The ledger, read without its lock and without changing it. Raises `StateError` if it is unreadable."""
    return [claim_as_json(claim, tails=True) for claim in Ledger.read(config.state.dir).claims.values()]


def change_claim(config: Config, action: str, claim_id: str) -> dict[str, Any]:
    """`retry` or `forget`. Raises `DaemonError` if the ledger refuses it."""
    with StateDir.open(config.state.dir):
        ledger = open_ledger(config, Clock())
        try:
            if action == "retry":
                ledger.retry(claim_id)
                return {
                    "message": f"claim {claim_id} is queued; agentd runs its remaining hooks at the next start"
                }
            ledger.forget(claim_id)
            return {
                "message": f"claim {claim_id} is deleted; if coderd sends its event again, agentd runs all its hooks again"
            }
        except (UnknownClaimError, IllegalClaimStepError) as exc:
            raise DaemonError(409, exc.message, hint=exc.hint) from exc
        finally:
            ledger.close()


async def _payload(config: Config) -> bytes | None:
    async with build(config, Clock()) as components:
        captured = await components.final_snapshot.capture(FINAL_READ_MAX_S)
        return captured.entry.payload if captured.entry else None


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
    async with build(config, clock) as components:
        final, delivery = components.final_snapshot, components.delivery
        captured = await final.capture(final_read_s(budget_s), disk_s(budget_s))
        if captured.entry is None and not captured.agent_answered:
            return None
        on_captured(delivery.receipt().as_json())
        await final.deliver(captured.entry, deadline, end_agent=end_agent and config.shutdown.stop_agent)
        return delivery.receipt().as_json()


def _ignore(_receipt: dict[str, Any]) -> None:
    """No-op progress callback."""
