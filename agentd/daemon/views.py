"""The state of the components as the local API shows it, and the claims actions behind its routes."""

import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple, cast

from agentd import __version__
from agentd.agents.agent import Agent, AgentBusyError, AgentGoneError
from agentd.claims.answers import ClaimsState
from agentd.claims.claim import Claim
from agentd.claims.ledger import Ledger, claim_as_json
from agentd.claims.ledger_state import UnknownClaimError
from agentd.claims.lifecycle import IllegalClaimStepError
from agentd.claims.listener import ClaimListener
from agentd.clock import SameMoment, rfc3339
from agentd.conversation.fit import messages_of
from agentd.conversation.message import Message
from agentd.daemon.last_stop import LastStop, RunState
from agentd.daemon.shutdown import Phase
from agentd.daemon.task_status import TaskStatus, TaskView
from agentd.local_api.replies import ApiError, Json
from agentd.masking import masked, masked_values
from agentd.metrics import Registry
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool
from agentd.stability.tracker import AgentStatus, Tracker
from agentd.stability.watcher import Watcher
from agentd.state_dir import StateDir

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


class Views(NamedTuple):
    """Reads from the components, and changes nothing but claims.

    `listener` is None if claims are disabled. `started_at` is in Unix seconds.
    """

    registry: Registry
    state: StateDir
    tracker: Tracker
    agent: Agent
    watcher: Watcher
    task_view: TaskView
    ledger: Ledger
    listener: ClaimListener | None
    spool: Spool
    recorder: Recorder
    delivery: Delivery
    last_stop: LastStop
    phase: Callable[[], Phase]
    stall_note: Callable[[], str]
    """Why a working agent does not extend the workspace's deadline, "" while it does."""
    keep_messages: int
    started_at: float
    agent_since: SameMoment

    def status(self) -> Json:
        """`GET /v1/status`."""
        evidence = self.tracker.evidence
        previous = self.last_stop.previous
        status = {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": rfc3339(self.started_at),
            "phase": self.phase().value,
            "workspace_id": self.ledger.workspace_id,
            "claims": self.listener.view().as_json() if self.listener else _CLAIMS_OFF,
            "agent": {
                "status": evidence.status.value,
                "since": self.agent_since.to_rfc3339(evidence.since),
                "evidence": ", ".join(filter(None, (str(evidence), self.stall_note()))),
                "kind": self.agent.kind,
                "session": self._session(),
                "sessions": sum(session.is_live for session in self.watcher.sessions),
            },
            "task": self.task_view.as_json(),
            "snapshot": self._snapshot(),
            "last_stop": previous.as_json() if previous else None,
            "capabilities": self._capabilities(),
        }
        return cast("Json", masked_values(status))

    async def healthy(self) -> Json:
        """`GET /healthz`. Answers also while the disk hangs."""
        return {
            "event_loop": "ok",
            "state_dir": "ok" if await self.state.is_writable(self.spool.disk) else "not writable",
        }

    async def ready(self) -> Json:
        """`GET /readyz`: "ok" for each component, or what it waits for."""
        status = self.tracker.status
        claims = self.listener.view() if self.listener else None
        is_waiting = claims is not None and claims.state in (
            ClaimsState.CONNECTING,
            ClaimsState.UNAUTHORIZED,
        )
        is_writable = await self.state.is_writable(self.spool.disk)
        return {
            "claims": claims.reason if claims and is_waiting else "ok",
            "agent": "ok" if status in _ANSWERING else masked(f"{status.value}: {self.tracker.evidence}"),
            "spool": "ok" if is_writable else "state directory is not writable",
        }

    def claims(self) -> Json:
        """`GET /v1/claims`."""
        claims = [claim_as_json(claim, tails=True) for claim in self.ledger.all_claims()]
        return {"claims": masked_values(claims)}

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
        status = self.task_view.status().status
        if status in _NO_LOGS:
            raise ApiError(
                409,
                "Cannot fetch logs for task in current state.",
                hint=f'Task status is "{status.value}".',
            )
        if status is TaskStatus.ACTIVE:
            try:
                live = await self.agent.messages(
                    keep=self.keep_messages, timeout_s=LIVE_TIMEOUT_S, fresh=True
                )
            except (AgentBusyError, AgentGoneError):
                return await self._stored_messages()
            return {"messages": _as_json(live), "snapshot": False}
        return await self._stored_messages()

    async def _stored_messages(self) -> Json:
        """The snapshot that would be delivered now. Without one, the list is empty and `snapshot_at` is null."""
        entry = await self.recorder.capture()
        return {
            "messages": _as_json(messages_of(entry.payload)) if entry else [],
            "snapshot": True,
            "snapshot_at": entry.captured_at if entry else None,
        }

    def _session(self) -> Json | None:
        """The current session, None if the agent does not tell it."""
        current = next(iter(self.watcher.sessions), None)
        if current is None or not current.id:
            return None
        return {
            "id": current.id,
            "directory": current.directory,
            "started_at": current.started_at,
            "agent_version": current.agent_version,
        }

    def _snapshot(self) -> Json:
        entry = self.spool.newest()
        receipt = self.delivery.receipt()
        return {
            "captured_at": entry.captured_at if entry else None,
            "messages": entry.messages if entry else 0,
            "bytes": len(entry.payload) if entry else 0,
            "pending": receipt.outcome == "pending",
            "last_receipt": receipt.as_json() if entry else None,
        }

    def _capabilities(self) -> Json:
        """What this deployment has shown to support: true, false, or null if that is unknown."""
        outcomes = {one.name: one.outcome for one in self.delivery.receipt().destinations if one.attempts}
        log_snapshot = {"delivered": True, "unsupported": False}.get(outcomes.get("coder", ""))
        state = self.listener.view().state if self.listener else ClaimsState.UNSUPPORTED
        return {"log_snapshot": log_snapshot, "reinit": _HAS_REINIT.get(state, True)}

    def _enabled_listener(self) -> ClaimListener:
        if self.listener is None:
            raise ApiError(409, "Claims are off.", hint="claims.enabled is false")
        return self.listener

    async def metrics(self) -> str:
        """`GET /metrics`."""
        await self.state.is_writable(self.spool.disk)
        return self.registry.render()

    def register_gauges(self) -> None:
        """Register facts for alerts that no component counts. They are read at each scrape."""
        metrics, tracker, spool, previous = self.registry, self.tracker, self.spool, self.last_stop.previous
        metrics.gauge("agentd_start_time_seconds", "When this daemon started, Unix seconds.").set(
            self.started_at
        )
        metrics.gauge("agentd_agent_reachable", "1 while the agent answers.").read_from(
            lambda: float(tracker.status in _ANSWERING)
        )
        metrics.gauge("agentd_agent_idle", "1 while the agent is stable.").read_from(
            lambda: float(tracker.status is AgentStatus.STABLE)
        )
        metrics.gauge("agentd_state_writable", "1 while the state directory takes writes.").read_from(
            lambda: float(self.state.was_writable)
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
