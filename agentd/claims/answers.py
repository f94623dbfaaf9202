"""What each answer of the claim stream means for this workspace, and when to ask again. No I/O.

409 ends the wait, whichever of its three meanings it has; they are told apart by coderd's words (coderd
`workspaceAgentReinit`), and one that is not known ends it too. 401 is normal while a claim job runs: agents of the new
build exist only once the job is complete, so the old token is refused for seconds to minutes and then works again.
"""

import enum
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from agentd.backoff import Backoff
from agentd.coderd import errors
from agentd.errors import AgentdError, ConfigError
from agentd.sse import StreamTooLargeError


class ClaimsState(enum.StrEnum):
    """`claims.state` of `/v1/status`."""

    CONNECTING = "connecting"
    LISTENING = "listening"
    ACTING = "acting"
    SETTLED = "settled"
    NOT_A_PREBUILD = "not_a_prebuild"
    CLAIM_FAILED = "claim_failed"
    UNSUPPORTED = "unsupported"
    UNAUTHORIZED = "unauthorized"


class RetryClass(enum.StrEnum):
    """When to connect again. All but `NEVER` are full-jitter backoff (`retry.Backoff`)."""

    SOON = "soon"
    """A network's fault or a restart: within a second or so at first, 30 s at most."""
    SLOW = "slow"
    """An answer that will not change by itself within a second."""
    EVERY_TEN_MINUTES = "rare"
    """A server without this endpoint: look again every ten minutes, in case it is upgraded."""
    NEVER = "never"
    """Terminal until agentd is started again or told to reconnect."""


class AnswerClass(NamedTuple):
    """What an answer means. `why` goes before the error's own words in the reason."""

    state: ClaimsState
    pace: RetryClass
    why: str = ""


_RETRY_SOON = AnswerClass(ClaimsState.CONNECTING, RetryClass.SOON)
_RETRY_SLOW = AnswerClass(ClaimsState.CONNECTING, RetryClass.SLOW)

ANSWER_CLASSES: Mapping[type[AgentdError], AnswerClass] = {
    errors.UnauthorizedError: AnswerClass(
        ClaimsState.UNAUTHORIZED,
        RetryClass.SLOW,
        "coderd does not accept the agent token now (normal while a claim or a build runs)",
    ),
    ConfigError: AnswerClass(ClaimsState.UNAUTHORIZED, RetryClass.SLOW, "there is no agent token"),
    errors.RouteNotFoundError: AnswerClass(
        ClaimsState.UNSUPPORTED, RetryClass.EVERY_TEN_MINUTES, "this server has no claim stream"
    ),
    errors.NoContentError: AnswerClass(
        ClaimsState.UNSUPPORTED, RetryClass.EVERY_TEN_MINUTES, "the server asks not to come back"
    ),
    errors.NotFoundError: _RETRY_SLOW,
    errors.RateLimitedError: _RETRY_SLOW,
    errors.ServerFaultError: _RETRY_SOON,
    errors.RedirectError: _RETRY_SLOW,
    errors.UnexpectedStatusError: _RETRY_SLOW,
    errors.HtmlPageError: _RETRY_SLOW,
    errors.WrongContentTypeError: _RETRY_SLOW,
    errors.ContentEncodedError: _RETRY_SLOW,
    errors.DnsError: _RETRY_SOON,
    errors.ConnectRefusedError: _RETRY_SOON,
    errors.ConnectError: _RETRY_SOON,
    errors.TlsError: _RETRY_SLOW,
    errors.HeadersTimeoutError: _RETRY_SOON,
    errors.HeadersTooLargeError: _RETRY_SLOW,
    errors.StreamIdleError: _RETRY_SOON,
    errors.EventTimeoutError: _RETRY_SOON,
    errors.StreamCutError: _RETRY_SOON,
    errors.StreamEndedError: _RETRY_SOON,
    errors.ProtocolError: _RETRY_SLOW,
    StreamTooLargeError: _RETRY_SLOW,
}

CLAIM_FAILED_WORDS = "Claim build failed permanently."
HANDLED_WORDS = "already been handled by an earlier build"


def classify(error: AgentdError) -> AnswerClass:
    """What `error`, raised by the stream or by the token's source, means."""
    if isinstance(error, errors.ConflictError):
        return _classify_conflict(error)
    for kind in type(error).__mro__:
        if kind in ANSWER_CLASSES:
            return ANSWER_CLASSES[kind]
    return _RETRY_SLOW


def end_label(error: AgentdError) -> str:
    """The value of the label `end` of `agentd_claim_connections_total` for a connection that ended with `error`."""
    return (
        error.label if isinstance(error, errors.CoderdError | StreamTooLargeError) else type(error).__name__
    )


def _classify_conflict(error: errors.ConflictError) -> AnswerClass:
    if error.body_message == CLAIM_FAILED_WORDS:
        return AnswerClass(ClaimsState.CLAIM_FAILED, RetryClass.NEVER, "the claim's build failed")
    if HANDLED_WORDS in error.detail:
        return AnswerClass(
            ClaimsState.NOT_A_PREBUILD, RetryClass.NEVER, "an earlier build has handled the claim"
        )
    return AnswerClass(ClaimsState.NOT_A_PREBUILD, RetryClass.NEVER, "no claim is to be expected")


class RetrySchedule:
    """How long to wait before the next connection: full jitter, never less than a floor, never more than the cap."""

    def __init__(self) -> None:
        self._backoffs = {
            RetryClass.SOON: Backoff(first_s=1.0, cap_s=30.0, floor_s=0.25),
            RetryClass.SLOW: Backoff(first_s=4.0, cap_s=30.0, floor_s=1.0),
            RetryClass.EVERY_TEN_MINUTES: Backoff(first_s=720.0, cap_s=720.0, floor_s=480.0),
        }
        # After the claim nothing is expected any more, and some servers repeat it on every connection for ever. The
        # first connection after a good one still comes soon; only those that never prove themselves become rare.
        self._after_claim = Backoff(first_s=2.0, cap_s=300.0, floor_s=0.5)

    def reset(self) -> None:
        """A connection has proved itself."""
        for backoff in (*self._backoffs.values(), self._after_claim):
            backoff.reset()

    def pause_s(
        self, pace: RetryClass, *, claim_settled: bool, asked_s: float | None, least_s: float
    ) -> float | None:
        """Seconds to wait, None for ever.

        `asked_s` is the answer's `Retry-After`, to which the jitter is added; `least_s` the stream's own `retry`.
        """
        if pace is RetryClass.NEVER:
            return None
        quiet = claim_settled and pace is RetryClass.SOON
        pause_s = (self._after_claim if quiet else self._backoffs[pace]).next()
        return max(pause_s, least_s) if asked_s is None else asked_s + pause_s


def fleet_offset(name: str) -> float:
    """A fixed place in 0..1 for this workspace, even over a fleet."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
