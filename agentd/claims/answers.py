"""Classifies the answers and failures of the claim stream, and schedules the next connection. No I/O.

409 is terminal. It has three meanings, which differ only in the texts of coderd (`workspaceAgentReinit`); an
unknown text is terminal too. 401 is normal while a claim job runs: the agents of the new build exist only
after the job, so coderd refuses the old token for seconds to minutes and then accepts it again.
"""

import enum
import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

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
    """When to connect again. All except `NEVER` use backoff with full jitter (`backoff.Backoff`)."""

    SOON = "soon"
    """A network failure or a restart of coderd: first within about a second, later up to 30 s."""
    SLOW = "slow"
    """An answer that does not change within a second: from 1 s to 30 s."""
    EVERY_TEN_MINUTES = "every ten minutes"
    """A server without this endpoint: 8 to 12 minutes, because it may be upgraded."""
    NEVER = "never"
    """Terminal until agentd restarts or `reconnect` is called."""


class AnswerClass(NamedTuple):
    """How agentd treats an answer. `why` precedes the text of the error in the status reason."""

    state: ClaimsState
    retry: RetryClass
    why: str = ""


_RETRY_SOON: Final = AnswerClass(ClaimsState.CONNECTING, RetryClass.SOON)
_RETRY_SLOW: Final = AnswerClass(ClaimsState.CONNECTING, RetryClass.SLOW)

# A class has the entry of its nearest base class, unless it has its own.
ANSWER_CLASSES: Final[Mapping[type[AgentdError], AnswerClass]] = {
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
        ClaimsState.UNSUPPORTED, RetryClass.EVERY_TEN_MINUTES, "the server says not to reconnect"
    ),
    errors.CoderdError: _RETRY_SLOW,
    errors.ServerFaultError: _RETRY_SOON,
    errors.NotCoderdError: _RETRY_SLOW,
    errors.UnreachableError: _RETRY_SOON,
    errors.TlsError: _RETRY_SLOW,
    errors.HeadersTooLargeError: _RETRY_SLOW,
    errors.ProtocolError: _RETRY_SLOW,
    StreamTooLargeError: _RETRY_SLOW,
    AgentdError: _RETRY_SLOW,
}

CLAIM_FAILED_WORDS: Final = "Claim build failed permanently."
HANDLED_WORDS: Final = "already been handled by an earlier build"


def classify(error: AgentdError) -> AnswerClass:
    """The class of `error`, which the stream or the token source raised."""
    if isinstance(error, errors.ConflictError):
        return _classify_conflict(error)
    return next(ANSWER_CLASSES[kind] for kind in type(error).__mro__ if kind in ANSWER_CLASSES)


def _classify_conflict(error: errors.ConflictError) -> AnswerClass:
    state, why = ClaimsState.NOT_A_PREBUILD, "coderd will not send a claim to this workspace"
    if error.body_message == CLAIM_FAILED_WORDS:
        state, why = ClaimsState.CLAIM_FAILED, "the claim's build failed"
    elif HANDLED_WORDS in error.detail:
        why = "an earlier build has handled the claim"
    return AnswerClass(state, RetryClass.NEVER, why)


class RetrySchedule:
    """The wait before the next connection: backoff with full jitter, floor and cap per `RetryClass`."""

    def __init__(self) -> None:
        self._backoffs = {
            RetryClass.SOON: Backoff(first_s=1.0, cap_s=30.0, floor_s=0.25),
            RetryClass.SLOW: Backoff(first_s=4.0, cap_s=30.0, floor_s=1.0),
            RetryClass.EVERY_TEN_MINUTES: Backoff(first_s=720.0, cap_s=720.0, floor_s=480.0),
        }
        # After the claim no event is expected, and some servers repeat the claim on each connection. The first
        # connection after a good one still comes soon; only those that bring nothing but replays become rare.
        self._after_claim = Backoff(first_s=2.0, cap_s=300.0, floor_s=0.5)

    def reset(self) -> None:
        """Start again at the floors, after a good connection."""
        for backoff in (*self._backoffs.values(), self._after_claim):
            backoff.reset()

    def pause_s(
        self, retry: RetryClass, *, claim_is_final: bool, retry_after_s: float | None, stream_retry_s: float
    ) -> float | None:
        """Seconds to wait, at least `stream_retry_s` (the stream's `retry` field); None: do not reconnect.

        The jitter is added to `retry_after_s`, the `Retry-After` of the answer.
        """
        if retry is RetryClass.NEVER:
            return None
        after_claim = claim_is_final and retry is RetryClass.SOON
        pause_s = (self._after_claim if after_claim else self._backoffs[retry]).next()
        return max(pause_s, stream_retry_s) if retry_after_s is None else retry_after_s + pause_s


def fleet_offset(name: str) -> float:
    """A stable number in 0..1 hashed from `name`; the workspaces of a fleet are spread evenly."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
