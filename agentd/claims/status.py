"""The state of the claim side for `/v1/status`: `ClaimsState`, reason, and since when.

The state is computed from the last result of the stream and from the newest claim of this workspace. A change
is logged and counted once, however often the same result repeats.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from structlog.typing import FilteringBoundLogger

from agentd.claims.answers import AnswerClass, ClaimsState
from agentd.claims.claim import Claim
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
    """`claims` of `/v1/status`. Times are Unix seconds.

    `failures` counts the connections since the last good one.
    """

    state: ClaimsState
    reason: str
    since: float
    last_event_at: float | None
    next_attempt_at: float | None
    failures: int
    replays: int
    ignored: int

    def as_json(self) -> dict[str, Any]:
        return {
            "state": self.state.value,
            "reason": self.reason,
            "since": rfc3339(self.since),
            "last_event_at": None if self.last_event_at is None else rfc3339(self.last_event_at),
            "next_attempt_at": None if self.next_attempt_at is None else rfc3339(self.next_attempt_at),
            "failures": self.failures,
            "replays": self.replays,
            "ignored": self.ignored,
        }


class ClaimsStatus:
    """Computes `claims.state`.

    `claim` returns the newest claim of this workspace; `activity` what the hook runner does, "" if nothing;
    `next_hook_at` when a failed hook runs again (Unix seconds). `on_change` gets each new state.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Registry,
        claim: Callable[[], Claim | None],
        activity: Callable[[], str],
        next_hook_at: Callable[[], float | None],
        on_change: Callable[[ClaimsView], None],
    ) -> None:
        self._clock = clock
        self._log = log
        self._claim = claim
        self._activity = activity
        self._next_hook_at = next_hook_at
        self._on_change = on_change
        self._was_open = False
        self._gauge = metrics.gauge("agentd_claims_state", "1 for the state the claim side is in.", "state")
        self._stream = ClaimsState.CONNECTING
        self._stream_reason = "starting"
        self._next_connect_at: float | None = None
        self._last_fault: tuple[ClaimsState, type[AgentdError]] | None = None
        self._state = ClaimsState.CONNECTING
        self._gauge.set(1.0, state=self._state.value)
        self._since = clock.wall()
        self.last_event_at: float | None = None
        self.failures = 0
        self.replays = 0
        self.ignored = 0

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
        fault = (answer.state, type(error))
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
        state, reason = self._current()
        if state is self._state:
            return
        for each in ClaimsState:
            self._gauge.set(float(each is state), state=each.value)
        self._state, self._since = state, self._clock.wall()
        self._on_change(self._view(state, reason))

    def view(self) -> ClaimsView:
        self.update()
        return self._view(*self._current())

    def _view(self, state: ClaimsState, reason: str) -> ClaimsView:
        return ClaimsView(
            state=state,
            reason=reason,
            since=self._since,
            last_event_at=self.last_event_at,
            next_attempt_at=self._next_hook_at() if state is ClaimsState.ACTING else self._next_connect_at,
            failures=self.failures,
            replays=self.replays,
            ignored=self.ignored,
        )

    def _current(self) -> tuple[ClaimsState, str]:
        activity, claim = self._activity(), self._claim()
        if activity:
            return ClaimsState.ACTING, activity
        if claim is None or not claim.is_final or self._stream not in _CLAIM_PREVAILS:
            return self._stream, self._stream_reason
        if claim.state is ClaimState.DONE:
            return ClaimsState.SETTLED, f"claim {claim.id} is done; {self._stream_reason}"
        # The set of states is fixed, so a held claim has the state of a failed one. The reason tells them
        # apart.
        return ClaimsState.CLAIM_FAILED, f"{claim.state}: {claim.why}; `agentd claims retry {claim.id}`"
