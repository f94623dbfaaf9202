"""What the rooms know, in the words of the local API."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from agentd import __version__
from agentd.claims.ledger import Claim, IllegalClaimStepError, UnknownClaimError, describe
from agentd.clock import rfc3339
from agentd.daemon import conversation
from agentd.daemon.build import Rooms
from agentd.daemon.input import Input
from agentd.local_api.replies import ApiError, Json
from agentd.local_api.server import Operations
from agentd.stability.tracker import AgentStatus

Act = Callable[[], Awaitable[dict[str, Any]]]

_REACHED = {AgentStatus.RUNNING, AgentStatus.SETTLING, AgentStatus.STABLE}
_CLAIMS_OFF = {
    "state": "unsupported",
    "reason": "claims.enabled is false",
    "since": None,
    "last_event_at": None,
    "next_attempt_at": None,
}


def operations(
    rooms: Rooms, *, stop: Act, snapshot: Act, payload: Callable[[], Awaitable[bytes | None]]
) -> Operations:
    """The local API's callables, reading from `rooms`."""
    heard = Input(rooms)
    return Operations(
        healthy=lambda: {"event_loop": "ok", "state_dir": "ok" if rooms.state.writable() else "not writable"},
        ready=lambda: _ready(rooms),
        metrics=rooms.metrics.render,
        status=lambda: status(rooms),
        claims=lambda: {"claims": [describe(claim, tails=True) for claim in rooms.ledger.all_claims()]},
        retry_claim=lambda claim_id: _retry(rooms, claim_id),
        forget_claim=lambda claim_id: _forget(rooms, claim_id),
        snapshot=snapshot,
        payload=payload,
        messages=lambda: conversation.messages(rooms),
        send=heard.send,
        report=heard.report,
        event=heard.event,
        drill=lambda: _drill(rooms),
        stop=stop,
    )


def status(rooms: Rooms) -> dict[str, Any]:
    """`/v1/status`."""
    facts = rooms.tracker.facts
    return {
        "version": __version__,
        "pid": os.getpid(),
        "started_at": rfc3339(rooms.started_at),
        "phase": rooms.phase.value,
        "workspace_id": rooms.ledger.workspace_id,
        "claims": rooms.listener.view().as_json() if rooms.listener else _CLAIMS_OFF,
        "agent": {
            "status": facts.status.value,
            "since": rooms.agent_since.to_rfc3339(facts.since),
            "evidence": str(facts),
        },
        **conversation.described(rooms),
        "snapshot": _snapshot(rooms),
        "last_stop": rooms.last_stop.previous.as_json() if rooms.last_stop.previous else None,
        "capabilities": _capabilities(rooms),
    }


def _snapshot(rooms: Rooms) -> dict[str, Any]:
    entry = rooms.spool.newest()
    receipt = rooms.delivery.receipt()
    return {
        "captured_at": entry.captured_at if entry else None,
        "messages": entry.messages if entry else 0,
        "bytes": len(entry.payload) if entry else 0,
        "pending": receipt.outcome == "pending",
        "last_receipt": receipt.as_json() if entry else None,
    }


def _capabilities(rooms: Rooms) -> dict[str, Any]:
    """What this deployment was seen to offer: true, false, or null while nothing has shown it."""
    outcomes = {one.name: one.outcome for one in rooms.delivery.receipt().destinations if one.attempts}
    log_snapshot = {"delivered": True, "unsupported": False}.get(outcomes.get("coder", ""))
    reinit = {"connecting": None, "unauthorized": None, "unsupported": False}
    state = rooms.listener.view().state.value if rooms.listener else "unsupported"
    return {"log_snapshot": log_snapshot, "reinit": reinit.get(state, True)}


def _ready(rooms: Rooms) -> Json:
    agent = rooms.tracker.state
    claims = rooms.listener.view() if rooms.listener else None
    waiting = claims is not None and claims.state.value in ("connecting", "unauthorized")
    return {
        "claims": claims.reason if claims and waiting else "ok",
        "agent": "ok" if agent in _REACHED else f"{agent.value}: {rooms.tracker.evidence}",
        "spool": "ok" if rooms.state.writable() else "state directory is not writable",
    }


async def _drill(rooms: Rooms) -> Json:
    from agentd.daemon import drill  # noqa: PLC0415 - loaded when a rehearsal is asked for

    return await drill.rehearse(rooms)


async def _retry(rooms: Rooms, claim_id: str) -> Json:
    listener = _claims_of(rooms)
    claim = await _answered(listener.retry(claim_id))
    return {"message": f"claim {claim_id} acts again", "claim": describe(claim)}


async def _forget(rooms: Rooms, claim_id: str) -> Json:
    await _answered(_claims_of(rooms).forget(claim_id))
    return {"message": f"claim {claim_id} is forgotten; if its event comes again it acts again"}


def _claims_of(rooms: Rooms) -> Any:  # noqa: ANN401 - the listener
    if rooms.listener is None:
        raise ApiError(409, "Claims are off.", hint="claims.enabled is false")
    return rooms.listener


async def _answered(work: Awaitable[Claim | None]) -> Any:  # noqa: ANN401 - what `work` gives
    try:
        return await work
    except UnknownClaimError as exc:
        raise ApiError(404, exc.message, hint=exc.hint) from exc
    except IllegalClaimStepError as exc:
        raise ApiError(409, exc.message, hint=exc.hint) from exc
