"""How the claim side stands, in the words of `/v1/status`: one word, the reason for it, and since when.

The word is made of two things: what the stream last met, and what became of our claim. A change is logged once and
counted once, however often the same thing happens again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from structlog.typing import FilteringBoundLogger

from agentd.claims.answers import AnswerClass, ClaimsState
from agentd.claims.ledger_state import Claim
from agentd.claims.lifecycle import ClaimState
from agentd.clock import Clock, rfc3339
from agentd.errors import AgentdError
from agentd.metrics import Registry

# What a claim of ours says more about than the stream does.
_QUIET = frozenset({ClaimsState.CONNECTING, ClaimsState.LISTENING, ClaimsState.NOT_A_PREBUILD})


class ClaimsView(NamedTuple):
    """`claims` of `/v1/status`. Times are Unix seconds or None; `failures` counts connections since the last good one."""

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
    """`claim` gives our newest claim, `doing` what is being done for one now ("" when nothing is)."""

    def __init__(
        self,
        *,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Registry,
        claim: Callable[[], Claim | None],
        doing: Callable[[], str],
        next_hook_at: Callable[[], float | None],
        on_change: Callable[[ClaimsView], None],
    ) -> None:
        self._clock = clock
        self._log = log
        self._claim = claim
        self._doing = doing
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
        """A request goes out. After a refusal its word stays until there is another answer."""
        self._next_connect_at = None
        self.update()

    def listening(self, reason: str) -> None:
        """The server has not refused us, or has answered with the stream."""
        if not self._was_open:
            self._was_open = True
            self._log.info("stream.open", reason=reason)
        self._stream, self._stream_reason = ClaimsState.LISTENING, reason
        self.update()

    def reset_failures(self) -> None:
        """The stream delivered something: earlier failures are history."""
        if self.failures:
            self._log.info("stream.restored", failures=self.failures)
        self.failures, self._last_fault = 0, None

    def connection_ended(self, error: AgentdError, meant: AnswerClass, *, retry_in_s: float | None) -> None:
        """The connection failed with `error`, which means `meant`; None for a terminal answer."""
        self.failures += 1
        reason = f"{meant.why}: {error}" if meant.why else str(error)
        fault = (meant.state, type(error))
        if fault != self._last_fault:
            request_id = getattr(error, "request_id", "")
            facts = {"state": meant.state.value, **({"request_id": request_id} if request_id else {})}
            if retry_in_s is None:
                self._log.info("stream.finished", reason=reason, **facts)
            else:
                self._log.warning("stream.lost", reason=reason, retry_in_s=round(retry_in_s, 2), **facts)
        self._last_fault = fault
        self._stream, self._stream_reason = meant.state, reason
        self._next_connect_at = None if retry_in_s is None else self._clock.wall() + retry_in_s
        self.update()

    def update(self) -> None:
        """Look again what the word is; to be called whenever something it is made of has changed."""
        state, reason = self._composed()
        if state is self._state:
            return
        for each in ClaimsState:
            self._gauge.set(float(each is state), state=each.value)
        self._state, self._since = state, self._clock.wall()
        self._on_change(self._view(state, reason))

    def view(self) -> ClaimsView:
        self.update()
        return self._view(*self._composed())

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

    def _composed(self) -> tuple[ClaimsState, str]:
        doing, claim = self._doing(), self._claim()
        if doing:
            return ClaimsState.ACTING, doing
        if claim is None or not claim.is_final or self._stream not in _QUIET:
            return self._stream, self._stream_reason
        if claim.state is ClaimState.DONE:
            return ClaimsState.SETTLED, f"claim {claim.id} is done; {self._stream_reason}"
        return ClaimsState.CLAIM_FAILED, f"claim {claim.id} is {claim.state}: {claim.why}"
