"""Derive the agent's status, with evidence, from observations. Pure.

"stable" from AgentAPI means that the screen did not change for 2 s, not that the agent has finished: an agent that
prints every 4 s alternates between 2 s of running and 2 s of stable. So inferred idleness is debounced: the agent is
stable only after `settle_s` without a change, and running at once. An agent that states or records the end of its turn
is stable at once.
"""

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from agentd.agents.agent import Activity, LastMessage, Observation, Strength

SAMPLES_MIN: Final = 2
"""Observations that a settled status needs; one observation spans no time."""
BROKEN_MIN: Final = 2
"""Unintelligible answers in a row that mean unreachable; a single one may be a race in the server (it has some)."""
GAP_MAX_S: Final = 30.0
"""After a longer gap between two observations (suspended machine, stopped process) the agent must settle again."""


class AgentStatus(enum.Enum):
    """`agent.status` in the local API."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    WAITING = "waiting"
    """Inside a turn, for an approval or an answer of the user."""
    SETTLING = "settling"
    STABLE = "stable"
    UNREACHABLE = "unreachable"


class Assessment(enum.Enum):
    """What an observation means, given the ones before it."""

    ACTIVE = "active"
    WAITING = "waiting"
    QUIET = "quiet"
    """Idle by inference, not long enough since the agent became idle, the last message changed, or polling paused."""
    SETTLED = "settled"
    """Idle by inference, long enough and often enough, with an unchanged last message."""
    FINISHED = "finished"
    """The agent stated or recorded the end of its turn."""
    LOST = "lost"


# Reasons for the table:
#
# ACTIVE leads to RUNNING from every status and at once. A spinner that appears a second too late is a nuisance; input
# sent to an agent inside a turn is lost. A hanging /status is ACTIVE, because it hangs while a message is delivered.
#
# WAITING, FINISHED: the agent itself says so, so they need no confirmation.
#
# SETTLED is a statement about a period, so it can follow only on QUIET: UNKNOWN, RUNNING, WAITING and UNREACHABLE have
# no SETTLED, whatever settle_s is.
#
# From STABLE, QUIET leads back to SETTLING. The agent still looks idle, but the evidence no longer holds: the last
# message changed, or there was no observation for GAP_MAX_S.
#
# LOST is immediate for a refused connection, which is not noise: AgentAPI closes its listener within 8 ms of its
# SIGTERM, and a server that listens there later is a new process with new ids, which has to settle again. An
# unintelligible answer is LOST only if the next one is too (BROKEN_MIN). The first changes no status, but it restarts
# the settling period, and it does not keep STABLE over a gap without observations.
_FROM_ANY: Final = {
    Assessment.ACTIVE: AgentStatus.RUNNING,
    Assessment.WAITING: AgentStatus.WAITING,
    Assessment.QUIET: AgentStatus.SETTLING,
    Assessment.FINISHED: AgentStatus.STABLE,
    Assessment.LOST: AgentStatus.UNREACHABLE,
}
_FROM_QUIET: Final = {**_FROM_ANY, Assessment.SETTLED: AgentStatus.STABLE}
TRANSITIONS: Final[Mapping[AgentStatus, Mapping[Assessment, AgentStatus]]] = {
    AgentStatus.UNKNOWN: _FROM_ANY,
    AgentStatus.RUNNING: _FROM_ANY,
    AgentStatus.WAITING: _FROM_ANY,
    AgentStatus.SETTLING: _FROM_QUIET,
    AgentStatus.STABLE: _FROM_QUIET,
    AgentStatus.UNREACHABLE: _FROM_ANY,
}


class Evidence(NamedTuple):
    """The reason for a status; `str()` makes a sentence of it.

    `activity` is from the last observation. `since` (monotonic seconds) and `for_s`: how long it has been observed, in
    `samples` observations. `note`: why a quiet agent is not stable yet, or why the agent cannot be observed.
    """

    status: AgentStatus
    activity: Activity | None = None
    since: float | None = None
    for_s: float = 0.0
    samples: int = 0
    last_message: int | None = None
    note: str = ""

    def __str__(self) -> str:
        if not self.samples:
            return f"{self.status.value}: {self.note or 'not polled yet'}"
        word = "quiet" if self.status is AgentStatus.SETTLING else self.status.value
        facts = [f"{word} for {self.for_s:.1f} s", f"{self.samples} sample{'' if self.samples == 1 else 's'}"]
        if self.last_message is not None:
            facts.append(f"last message {self.last_message} unchanged")
        if self.note:
            facts.append(self.note)
        return ", ".join(facts)


class AgentStatusChange(NamedTuple):
    """A change of status at `at` (monotonic seconds). `evidence` is the reason for the new one, `note` a part of it."""

    old: AgentStatus
    new: AgentStatus
    at: float
    evidence: str
    note: str = ""


class _Stretch(NamedTuple):
    """Consecutive observations with the same meaning: since when, how many, and their common last message."""

    kind: Assessment
    since: float
    samples: int = 0
    last: LastMessage | None = None


class Tracker:
    """Holds the agent's status. `settle_s`: how long an agent must look idle if it does not say so itself."""

    def __init__(self, settle_s: float) -> None:
        self.status = AgentStatus.UNKNOWN
        self.was_reached = False
        """Whether the agent has answered since this tracker was made."""
        self._settle_s = settle_s
        self._at: float | None = None
        self._activity: Activity | None = None
        self._stretch: _Stretch | None = None
        self._broken = 0
        self._note = ""

    def observe(self, observation: Observation, *, at: float) -> AgentStatusChange | None:
        """Take in an observation made at `at` (monotonic seconds). Returns the change of status, if it makes one."""
        is_continuous = self._at is not None and 0 <= at - self._at <= GAP_MAX_S
        self._at, self._activity = at, observation.activity
        assessment = self._assess(observation, at, is_continuous=is_continuous)
        if assessment is None:
            return None
        old, self.status = self.status, TRANSITIONS[self.status][assessment]
        self.was_reached |= self.status is not AgentStatus.UNREACHABLE
        if self.status is old:
            return None
        return AgentStatusChange(old, self.status, at, str(self.evidence), self._note)

    def is_due(self, at: float) -> bool:
        """Whether an idle observation at `at` would settle the status, so that the last message must be compared."""
        stretch = self._stretch
        if self.status is not AgentStatus.SETTLING or stretch is None:
            return False
        return stretch.samples >= SAMPLES_MIN - 1 and at - stretch.since >= self._settle_s

    @property
    def evidence(self) -> Evidence:
        """The reason for the status, as of the last observation: "stable for 14.2 s, 15 samples, …"."""
        stretch = self._stretch
        if stretch is None or self._at is None:
            return Evidence(self.status, self._activity, note=self._note)
        is_idle = stretch.kind in (Assessment.QUIET, Assessment.FINISHED)
        return Evidence(
            self.status,
            self._activity,
            stretch.since,
            self._at - stretch.since,
            stretch.samples,
            stretch.last.id if stretch.last is not None and is_idle else None,
            self._note,
        )

    def _assess(self, observation: Observation, at: float, *, is_continuous: bool) -> Assessment | None:
        self._broken = self._broken + 1 if observation.activity is Activity.BROKEN else 0
        if 0 < self._broken < BROKEN_MIN:
            if self.status is not AgentStatus.STABLE:
                self._stretch, self._note = None, observation.evidence
                return None
            if is_continuous:
                return None
        stretch = self._extended(observation, at, is_continuous=is_continuous)
        self._stretch, self._note = stretch, observation.evidence
        if stretch.kind is not Assessment.QUIET:
            return stretch.kind
        is_settled = at - stretch.since >= self._settle_s and stretch.samples >= SAMPLES_MIN
        self._note = "" if is_settled else f"becomes stable after {self._settle_s:g} s without a change"
        return Assessment.SETTLED if is_settled else Assessment.QUIET

    def _extended(self, observation: Observation, at: float, *, is_continuous: bool) -> _Stretch:
        kind = _kind(observation)
        stretch = self._stretch
        if (
            stretch is None
            or stretch.kind is not kind
            or not is_continuous
            or _has_changed(stretch.last, observation.last)
        ):
            stretch = _Stretch(kind, at)
        return stretch._replace(samples=stretch.samples + 1, last=observation.last or stretch.last)


def _kind(observation: Observation) -> Assessment:
    match observation.activity:
        case Activity.BUSY:
            return Assessment.ACTIVE
        case Activity.WAITING:
            return Assessment.WAITING
        case Activity.IDLE:
            return Assessment.FINISHED if observation.strength > Strength.INFERRED else Assessment.QUIET
    return Assessment.LOST


def _has_changed(old: LastMessage | None, new: LastMessage | None) -> bool:
    # An unknown last message does not count as a change.
    return old is not None and new is not None and old != new
