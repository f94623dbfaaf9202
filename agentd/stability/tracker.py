"""From readings of `/status` to a state with evidence: is the agent idle, and how do we know?  Pure.

"stable" from AgentAPI means that the screen did not change for 2 s, not that the agent is done: one that prints every
4 s is running 2 s and stable 2 s for ever.  So stability is earned, and lost at once.
"""

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from agentd.errors import AgentdError

__all__ = [
    "GAP_MAX_S",
    "TRANSITIONS",
    "AgentStatus",
    "Evidence",
    "IllegalStep",
    "LastMessage",
    "Reading",
    "Sample",
    "Step",
    "Tracker",
    "Transition",
]

SAMPLES_MIN: Final = 2
"""One reading is a moment; two that agree are the least that spans a time."""
BROKEN_MIN: Final = 2
"""A nonsense answer may be a race in the server (it has some); a second one in a row is not."""
GAP_MAX_S: Final = 30.0
"""Longer between two samples, and nobody watched: the machine slept, or this process was stopped."""


class Reading(enum.Enum):
    """What one look at the agent gave."""

    STABLE = "stable"
    RUNNING = "running"
    BUSY = "busy"
    """It lives, but `/status` hangs: a message is being delivered (ACP: its whole turn)."""
    GONE = "gone"
    """Nobody listens, or nothing answers at all."""
    BROKEN = "broken"
    """An answer that makes no sense."""


class AgentStatus(enum.Enum):
    """What we hold for true. The words of `agent.status` in the local API."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    SETTLING = "settling"
    STABLE = "stable"
    UNREACHABLE = "unreachable"


class Step(enum.Enum):
    """What a sample amounts to, in the light of those before it."""

    ACTIVE = "active"
    QUIET = "quiet"
    """Stable, for too short a time, or since the last message changed, or since we looked away."""
    SETTLED = "settled"
    """Stable, long enough, often enough, with an unchanged last message."""
    LOST = "lost"


class IllegalStep(AgentdError):
    """A step that the table does not have. Nothing was changed."""


# Why the table is as it is:
#
# ACTIVE leads to RUNNING from everywhere and at once.  A spinner shown a second too late is a nuisance; input sent to
# an agent that is at work is lost.  A hanging /status is ACTIVE, since it hangs exactly while a message is delivered.
#
# SETTLED is a claim about a stretch of time, so it can follow only on QUIET: there is no way from UNKNOWN, RUNNING or
# UNREACHABLE to STABLE in one step, whatever settle_s is.
#
# From STABLE, QUIET leads back to SETTLING.  It says that what STABLE rested on is void, though the agent looks quiet:
# the last message is another one, or for GAP_MAX_S nobody looked.
#
# LOST is immediate for a refused connection.  It is no noise: the kernel says that nobody listens, AgentAPI closes its
# listener within 8 ms of its SIGTERM, and what comes back on the port later is another life with other ids, which
# has to settle anew in any case.  A nonsense answer is LOST only when the next is one too (BROKEN_MIN); the first
# is no step, but a stretch of quiet that is being measured starts again after it, and it does not carry STABLE over
# a time in which nobody looked.
TRANSITIONS: Final[Mapping[AgentStatus, Mapping[Step, AgentStatus]]] = {
    AgentStatus.UNKNOWN: {
        Step.ACTIVE: AgentStatus.RUNNING,
        Step.QUIET: AgentStatus.SETTLING,
        Step.LOST: AgentStatus.UNREACHABLE,
    },
    AgentStatus.RUNNING: {
        Step.ACTIVE: AgentStatus.RUNNING,
        Step.QUIET: AgentStatus.SETTLING,
        Step.LOST: AgentStatus.UNREACHABLE,
    },
    AgentStatus.SETTLING: {
        Step.ACTIVE: AgentStatus.RUNNING,
        Step.QUIET: AgentStatus.SETTLING,
        Step.SETTLED: AgentStatus.STABLE,
        Step.LOST: AgentStatus.UNREACHABLE,
    },
    AgentStatus.STABLE: {
        Step.ACTIVE: AgentStatus.RUNNING,
        Step.QUIET: AgentStatus.SETTLING,
        Step.SETTLED: AgentStatus.STABLE,
        Step.LOST: AgentStatus.UNREACHABLE,
    },
    AgentStatus.UNREACHABLE: {
        Step.ACTIVE: AgentStatus.RUNNING,
        Step.QUIET: AgentStatus.SETTLING,
        Step.LOST: AgentStatus.UNREACHABLE,
    },
}


def follow(state: AgentStatus, step: Step) -> AgentStatus:
    """The state after `step`.  Raises `IllegalStep`."""
    try:
        return TRANSITIONS[state][step]
    except KeyError:
        raise IllegalStep(f"agent status: no step {step.value} from {state.value}") from None


class LastMessage(NamedTuple):
    """The newest message: its id, and a digest of its content.  Ids restart with the server and may collide."""

    id: int
    digest: int


class Sample(NamedTuple):
    """One look at the agent, `at` (monotonic seconds).

    `last` is the newest message as far as it is known at that moment, `prompted` whether a user's message is in the
    conversation, `detail` why the agent could not be read.
    """

    reading: Reading
    at: float
    last: LastMessage | None = None
    prompted: bool = False
    detail: str = ""


class Evidence(NamedTuple):
    """What a state rests on; `str()` is the sentence.  `reading` is the last one.

    `since` (monotonic seconds) and `for_s`: how long it has been observed, in `samples` looks.  `note`: what keeps a quiet agent from counting as
    stable, or why it cannot be read.
    """

    status: AgentStatus
    reading: Reading | None = None
    since: float | None = None
    for_s: float = 0.0
    samples: int = 0
    last_message: int | None = None
    note: str = ""

    def __str__(self) -> str:
        if not self.samples:
            return f"{self.status.value}: {self.note or 'not looked at yet'}"
        word = "quiet" if self.status is AgentStatus.SETTLING else self.status.value
        facts = [f"{word} for {self.for_s:.1f} s", f"{self.samples} sample{'' if self.samples == 1 else 's'}"]
        if self.last_message is not None:
            facts.append(f"last message {self.last_message} unchanged")
        if self.note:
            facts.append(self.note)
        return ", ".join(facts)


class Transition(NamedTuple):
    """A change of state, `at` (monotonic seconds), with what the new one rests on."""

    old: AgentStatus
    new: AgentStatus
    at: float
    evidence: str


class _Stretch(NamedTuple):
    """Samples in a row that say the same: what, since when, how many, and the last message they have in common."""

    kind: Step
    since: float
    samples: int = 0
    last: LastMessage | None = None


_KINDS: Final = {
    Reading.STABLE: Step.QUIET,
    Reading.RUNNING: Step.ACTIVE,
    Reading.BUSY: Step.ACTIVE,
    Reading.GONE: Step.LOST,
    Reading.BROKEN: Step.LOST,
}


class Tracker:
    """Feed it every sample; it holds the state.

    `settle_s`: how long the agent must be seen stable.  `await_prompt`: a user's message must be visible before the
    first "stable" counts; AgentAPI reports stable before the initial prompt is even taken up (coder/coder#19940).
    """

    def __init__(self, settle_s: float, *, await_prompt: bool = False, gap_max_s: float = GAP_MAX_S) -> None:
        self.state = AgentStatus.UNKNOWN
        self._settle_s = settle_s
        self._await_prompt = await_prompt
        self._gap_max_s = gap_max_s
        self._at: float | None = None
        self._reading: Reading | None = None
        self._stretch: _Stretch | None = None
        self._prompted = False
        self._broken = 0
        self._note = ""

    def observe(self, sample: Sample) -> Transition | None:
        """Take a sample in; the change of state it makes, if it makes one."""
        watched = self._at is not None and 0 <= sample.at - self._at <= self._gap_max_s
        self._at, self._reading = sample.at, sample.reading
        step = self._step(sample, watched=watched)
        if step is None:
            return None
        old, self.state = self.state, follow(self.state, step)
        return None if self.state is old else Transition(old, self.state, sample.at, self.evidence)

    def due(self, at: float) -> bool:
        """Whether a stable sample at that time would settle it: the moment to look at the last message again."""
        stretch = self._stretch
        if self.state is not AgentStatus.SETTLING or stretch is None:
            return False
        return stretch.samples >= SAMPLES_MIN - 1 and at - stretch.since >= self._settle_s

    @property
    def facts(self) -> Evidence:
        """What the state rests on, as of the last sample."""
        stretch = self._stretch
        if stretch is None or self._at is None:
            return Evidence(self.state, self._reading, note=self._note)
        last = stretch.last.id if stretch.last is not None and stretch.kind is Step.QUIET else None
        return Evidence(
            self.state,
            self._reading,
            stretch.since,
            self._at - stretch.since,
            stretch.samples,
            last,
            self._note,
        )

    @property
    def evidence(self) -> str:
        """`facts` as a sentence: "stable for 14.2 s, 15 samples, last message 9 unchanged"."""
        return str(self.facts)

    def _step(self, sample: Sample, *, watched: bool) -> Step | None:
        self._broken = self._broken + 1 if sample.reading is Reading.BROKEN else 0
        if 0 < self._broken < BROKEN_MIN:
            if self.state is not AgentStatus.STABLE:
                self._stretch, self._note = None, sample.detail
                return None
            if watched:
                return None
        stretch = self._extended(sample, watched=watched)
        self._stretch, self._note = stretch, sample.detail
        if stretch.kind is not Step.QUIET:
            self._prompted &= stretch.kind is not Step.LOST  # what comes back is another life
            return stretch.kind
        self._prompted |= sample.prompted
        if self._await_prompt and not self._prompted:
            self._note = "no user message yet"
            return Step.QUIET
        long_enough = sample.at - stretch.since >= self._settle_s and stretch.samples >= SAMPLES_MIN
        self._note = "" if long_enough else f"needs {self._settle_s:g} s"
        return Step.SETTLED if long_enough else Step.QUIET

    def _extended(self, sample: Sample, *, watched: bool) -> _Stretch:
        kind = _KINDS[sample.reading]
        stretch = self._stretch
        if stretch is None or stretch.kind is not kind or not watched or _changed(stretch.last, sample.last):
            stretch = _Stretch(kind, sample.at)
        return stretch._replace(samples=stretch.samples + 1, last=sample.last or stretch.last)


def _changed(old: LastMessage | None, new: LastMessage | None) -> bool:
    # Not known is not another.
    return old is not None and new is not None and old != new
