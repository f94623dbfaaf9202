"""The state of the components as the local API shows it, and the claims actions behind its routes."""

import os
from collections.abc import Awaitable, Iterable
from typing import Any, Final

from agentd import __version__
from agentd.agents.agent import AgentBusyError, AgentGoneError
from agentd.claims.answers import ClaimsState
from agentd.claims.claim import Claim
from agentd.claims.ledger import claim_as_json
from agentd.claims.ledger_state import UnknownClaimError
from agentd.claims.lifecycle import IllegalClaimStepError
from agentd.claims.listener import ClaimListener
from agentd.clock import SameMoment, rfc3339
from agentd.conversation.fit import messages_of
from agentd.conversation.message import Message
from agentd.daemon.build import Components
from agentd.daemon.last_stop import RunState
from agentd.daemon.task_status import TaskStatus
from agentd.local_api.replies import ApiError, Json
from agentd.metrics import Registry
from agentd.stability.tracker import AgentStatus

LIVE_TIMEOUT_S: Final = 2.0

_ANSWERING: Final = {AgentStatus.RUNNING, AgentStatus.WAITING, AgentStatus.SETTLING, AgentStatus.STABLE}
_NO_LOGS: Final = (TaskStatus.ERROR, TaskStatus.UNKNOWN)
_CLAIMS_OFF: Final = {
    "state": ClaimsState.UNSUPPORTED.value,
    "reason": "claims.enabled is false: agentd does not listen for claims",
    "since": None,
    "last_event_at": None,
    "next_attempt_at": None,
}
_HAS_REINIT: Final = {
    ClaimsState.CONNECTING: None,
    ClaimsState.UNAUTHORIZED: None,
    ClaimsState.UNSUPPORTED: False,
}


class Views:
    """Reads from the components, and changes nothing but claims. `listener` is None if claims are disabled."""

    def __init__(self, parts: Components) -> None:
        self._parts = parts
        self._tracker = parts.tracker
        self._listener = parts.listener
        self._is_state_writable = True
        self._started_at = parts.clock.wall()
        self._agent_since = SameMoment(parts.clock)
        self._register_gauges(parts.metrics)

    def status(self) -> Json:
        """`GET /v1/status`."""
        evidence = self._tracker.evidence
        previous = self._parts.last_stop.previous
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": rfc3339(self._started_at),
            "phase": self._parts.shutdown.phase.value,
            "workspace_id": self._parts.ledger.workspace_id,
            "claims": self._listener.view().as_json() if self._listener else _CLAIMS_OFF,
            "agent": {
                "status": evidence.status.value,
                "since": self._agent_since.to_rfc3339(evidence.since),
                "evidence": str(evidence),
                "kind": self._parts.agent.kind,
                "session": self._session(),
                "sessions": sum(session.is_live for session in self._parts.watcher.sessions),
            },
            "task": self._parts.task_view.as_json(),
            "snapshot": self._snapshot(),
            "last_stop": previous.as_json() if previous else None,
            "capabilities": self._capabilities(),
        }

    async def healthy(self) -> Json:
        """`GET /healthz`. Answers also while the disk hangs."""
        return {"event_loop": "ok", "state_dir": "ok" if await self._check_state_dir() else "not writable"}

    async def ready(self) -> Json:
        """`GET /readyz`: "ok" for each component, or what it waits for."""
        status = self._tracker.status
        claims = self._listener.view() if self._listener else None
        is_waiting = claims is not None and claims.state in (
            ClaimsState.CONNECTING,
            ClaimsState.UNAUTHORIZED,
        )
        is_writable = await self._check_state_dir()
        return {
            "claims": claims.reason if claims and is_waiting else "ok",
            "agent": "ok" if status in _ANSWERING else f"{status.value}: {self._tracker.evidence}",
            "spool": "ok" if is_writable else "state directory is not writable",
        }

    def claims(self) -> Json:
        """`GET /v1/claims`."""
        return {"claims": [claim_as_json(claim, tails=True) for claim in self._parts.ledger.all_claims()]}

    async def retry_claim(self, claim_id: str) -> Json:
        """Raises `ApiError` 404 or 409."""
        claim = await _claim_action(self._enabled_listener().retry(claim_id))
        message = f"claim {claim_id} is queued; agentd runs its hooks again, starting with the first that has not succeeded"
        return {"message": message, "claim": claim_as_json(claim)}

    async def forget_claim(self, claim_id: str) -> Json:
        """Raises `ApiError` 404 or 409."""
        await _claim_action(self._enabled_listener().forget(claim_id))
        return {
            "message": f"claim {claim_id} is deleted; if coderd sends its event again, agentd runs all its hooks again"
        }

    async def messages(self) -> Json:
        """`GET /v1/messages`: the newest messages, oldest first. By status of the task, as coderd's task logs do:

        active                          live, `snapshot` false; the stored ones while the agent cannot be asked
        pending, initializing, paused   the stored ones, `snapshot` true, and when they were captured
        error, unknown                  409

        Raises `ApiError` (409), and `AgentBrokenError` for an answer that the agent's kind does not give.
        """
        status = self._parts.task_view.status().status
        if status in _NO_LOGS:
            raise ApiError(
                409,
                "Cannot fetch logs for task in current state.",
                hint=f'Task status is "{status.value}".',
            )
        if status is TaskStatus.ACTIVE:
            try:
                live = await self._parts.agent.messages(
                    keep=self._parts.config.snapshots.max_messages, timeout_s=LIVE_TIMEOUT_S, fresh=True
                )
            except (AgentBusyError, AgentGoneError):
                return await self._stored_messages()
            return {"messages": _as_json(live), "snapshot": False}
        return await self._stored_messages()

    async def _stored_messages(self) -> Json:
        """The snapshot that would be delivered now. Without one, the list is empty and `snapshot_at` is null."""
        entry = await self._parts.recorder.capture()
        return {
            "messages": _as_json(messages_of(entry.payload)) if entry else [],
            "snapshot": True,
            "snapshot_at": entry.captured_at if entry else None,
        }

    def _session(self) -> Json | None:
        """The current session, None if the agent does not tell it."""
        current = next(iter(self._parts.watcher.sessions), None)
        if current is None or not current.id:
            return None
        return {
            "id": current.id,
            "directory": current.directory,
            "started_at": current.started_at,
            "agent_version": current.agent_version,
        }

    def _snapshot(self) -> Json:
        entry = self._parts.spool.newest()
        receipt = self._parts.delivery.receipt()
        return {
            "captured_at": entry.captured_at if entry else None,
            "messages": entry.messages if entry else 0,
            "bytes": len(entry.payload) if entry else 0,
            "pending": receipt.outcome == "pending",
            "last_receipt": receipt.as_json() if entry else None,
        }

    def _capabilities(self) -> Json:
        """What this deployment has shown to support: true, false, or null if that is unknown."""
        outcomes = {
            one.name: one.outcome for one in self._parts.delivery.receipt().destinations if one.attempts
        }
        log_snapshot = {"delivered": True, "unsupported": False}.get(outcomes.get("coder", ""))
        state = self._listener.view().state if self._listener else ClaimsState.UNSUPPORTED
        return {"log_snapshot": log_snapshot, "reinit": _HAS_REINIT.get(state, True)}

    def _enabled_listener(self) -> ClaimListener:
        if self._listener is None:
            raise ApiError(409, "Claims are off.", hint="claims.enabled is false")
        return self._listener

    async def _check_state_dir(self) -> bool:
        self._is_state_writable = await self._parts.state.is_writable()
        return self._is_state_writable

    async def metrics(self) -> str:
        """`GET /metrics`."""
        await self._check_state_dir()
        return self._parts.metrics.render()

    def _register_gauges(self, metrics: Registry) -> None:
        """Facts for alerts that no component counts. They are read at each scrape."""
        tracker, spool, previous = self._tracker, self._parts.spool, self._parts.last_stop.previous
        metrics.gauge("agentd_start_time_seconds", "When this daemon started, Unix seconds.").set(
            self._started_at
        )
        metrics.gauge("agentd_agent_reachable", "1 while the agent answers.").read_from(
            lambda: float(tracker.status in _ANSWERING)
        )
        metrics.gauge("agentd_agent_idle", "1 while the agent is stable.").read_from(
            lambda: float(tracker.status is AgentStatus.STABLE)
        )
        metrics.gauge("agentd_state_writable", "1 while the state directory takes writes.").read_from(
            lambda: float(self._is_state_writable)
        )
        metrics.gauge("agentd_snapshot_bytes", "Size of the newest snapshot, 0 without one.").read_from(
            lambda: float(len(newest.payload)) if (newest := spool.newest()) else 0.0
        )
        metrics.gauge(
            "agentd_last_run_cut_off",
            "1 when the run before this one was killed before it had stopped in order.",
        ).set(float(previous is not None and previous.state is not RunState.STOPPED))


def _as_json(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [message._asdict() for message in messages]


async def _claim_action(work: Awaitable[Claim | None]) -> Any:  # noqa: ANN401 - the result of `work`
    try:
        return await work
    except UnknownClaimError as exc:
        raise ApiError(404, exc.message, hint=exc.hint) from exc
    except IllegalClaimStepError as exc:
        raise ApiError(409, exc.message, hint=exc.hint) from exc
