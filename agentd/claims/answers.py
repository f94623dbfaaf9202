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
from agentd.coderd import stream_faults as faults
from agentd.errors import AgentdError, ConfigError


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


class Pace(enum.StrEnum):
    """When to connect again. All but `NEVER` are full-jitter backoff (`retry.Backoff`)."""

    SOON = "soon"
    """A network's fault or a restart: within a second or so at first, 30 s at most."""
    SLOW = "slow"
    """An answer that will not change by itself within a second."""
    RARE = "rare"
    """A server without this endpoint: look again every ten minutes, in case it is upgraded."""
    NEVER = "never"
    """Terminal until agentd is started again or told to reconnect."""


class Meaning(NamedTuple):
    """What an answer means. `why` goes before the error's own words in the reason."""

    state: ClaimsState
    pace: Pace
    why: str = ""


_LOST = Meaning(ClaimsState.CONNECTING, Pace.SOON)
_ODD = Meaning(ClaimsState.CONNECTING, Pace.SLOW)

MEANINGS: Mapping[type[AgentdError], Meaning] = {
    faults.Unauthorized: Meaning(
        ClaimsState.UNAUTHORIZED,
        Pace.SLOW,
        "coderd does not accept the agent token now (normal while a claim or a build runs)",
    ),
    ConfigError: Meaning(ClaimsState.UNAUTHORIZED, Pace.SLOW, "there is no agent token"),
    faults.RouteAbsent: Meaning(ClaimsState.UNSUPPORTED, Pace.RARE, "this server has no claim stream"),
    faults.StopAsked: Meaning(ClaimsState.UNSUPPORTED, Pace.RARE, "the server asks not to come back"),
    faults.NotFound: _ODD,
    faults.RateLimited: _ODD,
    faults.ServerFailed: _LOST,
    faults.Redirected: _ODD,
    faults.UnexpectedStatus: _ODD,
    faults.HtmlPage: _ODD,
    faults.WrongContentType: _ODD,
    faults.ContentEncoded: _ODD,
    faults.DnsFailed: _LOST,
    faults.ConnectionRefused: _LOST,
    faults.ConnectFailed: _LOST,
    faults.TlsFailed: _ODD,
    faults.HeadersLate: _LOST,
    faults.HeadersTooLarge: _ODD,
    faults.StreamIdle: _LOST,
    faults.EventLate: _LOST,
    faults.StreamCut: _LOST,
    faults.StreamEnded: _LOST,
    faults.ProtocolBroken: _ODD,
    faults.StreamTooLarge: _ODD,
}

CLAIM_FAILED_WORDS = "Claim build failed permanently."
HANDLED_WORDS = "already been handled by an earlier build"


def meaning(error: AgentdError) -> Meaning:
    """What `error`, raised by the stream or by the token's source, means."""
    if isinstance(error, faults.Conflict):
        return _meaning_of_conflict(error)
    for kind in type(error).__mro__:
        if kind in MEANINGS:
            return MEANINGS[kind]
    return _ODD


def _meaning_of_conflict(error: faults.Conflict) -> Meaning:
    if error.body_message == CLAIM_FAILED_WORDS:
        return Meaning(ClaimsState.CLAIM_FAILED, Pace.NEVER, "the claim's build failed")
    if HANDLED_WORDS in error.detail:
        return Meaning(ClaimsState.NOT_A_PREBUILD, Pace.NEVER, "an earlier build has handled the claim")
    return Meaning(ClaimsState.NOT_A_PREBUILD, Pace.NEVER, "no claim is to be expected")


class Pacing:
    """How long to wait before the next connection: full jitter, never less than a floor, never more than the cap."""

    def __init__(self) -> None:
        self._backoffs = {
            Pace.SOON: Backoff(first_s=1.0, cap_s=30.0, floor_s=0.25),
            Pace.SLOW: Backoff(first_s=4.0, cap_s=30.0, floor_s=1.0),
            Pace.RARE: Backoff(first_s=720.0, cap_s=720.0, floor_s=480.0),
        }
        # After the claim nothing is expected any more, and some servers repeat it on every connection for ever. The
        # first connection after a good one still comes soon; only those that never prove themselves become rare.
        self._after_claim = Backoff(first_s=2.0, cap_s=300.0, floor_s=0.5)

    def reset(self) -> None:
        """A connection has proved itself."""
        for backoff in (*self._backoffs.values(), self._after_claim):
            backoff.reset()

    def pause_s(
        self, pace: Pace, *, claim_settled: bool, asked_s: float | None, least_s: float
    ) -> float | None:
        """Seconds to wait, None for ever.

        `asked_s` is the answer's `Retry-After`, to which the jitter is added; `least_s` the stream's own `retry`.
        """
        if pace is Pace.NEVER:
            return None
        quiet = claim_settled and pace is Pace.SOON
        pause_s = (self._after_claim if quiet else self._backoffs[pace]).next()
        return max(pause_s, least_s) if asked_s is None else asked_s + pause_s


def place_in_fleet(name: str) -> float:
    """A fixed place in 0..1 for this workspace, even over a fleet."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
