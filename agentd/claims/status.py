"""The state of the claim side for `/v1/status`: `ClaimsState`, reason, and since when.

The state is computed from the last result of the stream and from the newest claim of this workspace. A change
is logged and counted once, however often the same result repeats.
"""

from typing import Any, Final, NamedTuple

from agentd import log
from agentd.claims.answers import AnswerClass, ClaimsState
from agentd.claims.hook_runner import HookRunner
from agentd.claims.ledger import Ledger
from agentd.claims.lifecycle import ClaimState
from agentd.clock import Clock, rfc3339
from agentd.coderd.errors import CoderdError
from agentd.errors import AgentdError
from agentd.metrics import Registry

# With these results of the stream, the state of a final claim is shown instead.
_CLAIM_PREVAILS: Final = frozenset(
    {ClaimsState.CONNECTING, ClaimsState.LISTENING, ClaimsState.NOT_A_PREBUILD}
)


class ClaimsView(NamedTuple):
    """`claims` of `/v1/status`. Times are Unix seconds. `failures` counts since the last good connection."""

    state: ClaimsState
    reason: str
    since: float
    last_event_at: float | None
    next_attempt_at: float | None
    failures: int
    replays: int
    ignored: int

    def as_json(self) -> dict[str, Any]:
        times = ("since", "last_event_at", "next_attempt_at")
        return {
            name: rfc3339(value) if name in times and value is not None else value
            for name, value in self._asdict().items()
        }


class ClaimsStatus:
    """Computes `claims.state`. The hook runner reports its changes to it."""

    def __init__(self, ledger: Ledger, hook_runner: HookRunner, *, clock: Clock, metrics: Registry) -> None:
        self._ledger = ledger
        self._hook_runner = hook_runner
        self._clock = clock
        self._log = log.get("claims")
        self._was_open = False
        self._gauge = metrics.gauge("agentd_claims_state", "1 for the state the claim side is in.", "state")
        self._stream = ClaimsState.CONNECTING
        self._stream_reason = "starting"
        self._next_connect_at: float | None = None
        self._last_fault: tuple[ClaimsState, str] | None = None
        self._state = ClaimsState.CONNECTING
        self._gauge.set(1.0, state=self._state.value)
        self._since = clock.wall()
        self.last_event_at: float | None = None
        self.failures = 0
        self.replays = 0
        self.ignored = 0
        hook_runner.on_change = self.update

    def connecting(self) -> None:
        """A connection attempt starts. Keep the last state until there is an answer."""
        self._next_connect_at = None
        self.update()

    def listening(self, reason: str) -> None:
        """The server has answered with the stream, or has not refused the request so far."""
        if not self._was_open:
            self._was_open = True
            self._log.info("stream.open", reason=reason)
        self._stream, self._stream_reason = ClaimsState.LISTENING, reason
        self.update()

    def reset_failures(self) -> None:
        """The stream delivered something or lasted long enough."""
        if self.failures:
            self._log.info("stream.restored", failures=self.failures)
        self.failures, self._last_fault = 0, None

    def connection_ended(self, error: AgentdError, answer: AnswerClass, *, retry_in_s: float | None) -> None:
        """The connection ended with `error` of class `answer`. `retry_in_s` is None for a terminal answer."""
        self.failures += 1
        reason = f"{answer.why}: {error}" if answer.why else str(error)
        fault = (answer.state, error.label)
        if fault != self._last_fault:
            request_id = error.request_id if isinstance(error, CoderdError) else ""
            facts = {"state": answer.state.value, **({"request_id": request_id} if request_id else {})}
            if retry_in_s is None:
                self._log.info("stream.parked", reason=reason, **facts)
            else:
                self._log.warning("stream.lost", reason=reason, retry_in_s=round(retry_in_s, 2), **facts)
        self._last_fault = fault
        self._stream, self._stream_reason = answer.state, reason
        self._next_connect_at = None if retry_in_s is None else self._clock.wall() + retry_in_s
        self.update()

    def update(self) -> None:
        """Compute the state again. Call this after each change of its inputs."""
        state, _ = self._current()
        if state is self._state:
            return
        for each in ClaimsState:
            self._gauge.set(float(each is state), state=each.value)
        self._state, self._since = state, self._clock.wall()

    def view(self) -> ClaimsView:
        self.update()
        state, reason = self._current()
        acting = state is ClaimsState.ACTING
        return ClaimsView(
            state=state,
            reason=reason,
            since=self._since,
            last_event_at=self.last_event_at,
            next_attempt_at=self._hook_runner.next_attempt_at if acting else self._next_connect_at,
            failures=self.failures,
            replays=self.replays,
            ignored=self.ignored,
        )

    def _current(self) -> tuple[ClaimsState, str]:
        claim = self._ledger.latest()
        if self._hook_runner.activity:
            return ClaimsState.ACTING, self._hook_runner.activity
        if claim is None or not claim.is_final or self._stream not in _CLAIM_PREVAILS:
            return self._stream, self._stream_reason
        if claim.state is ClaimState.DONE:
            return ClaimsState.SETTLED, f"claim {claim.id} is done; {self._stream_reason}"
        # The set of states is fixed. A held claim has the state of a failed one; the reason tells them apart.
        return ClaimsState.CLAIM_FAILED, f"{claim.state}: {claim.why}; `agentd claims retry {claim.id}`"
