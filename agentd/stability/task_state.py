"""Working, idle, complete or failed: what holds for a task, whoever says it and in whatever order it arrives.  Pure.

Three sources speak: the watcher (from the screen), fire-and-forget events (`POST /v1/events`), and explicit reports
(`POST /v1/reports`, `agentd report`).  The first two may be late or replayed; the last one has a caller who reads the
answer.
"""

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from agentd.errors import AgentdError

__all__ = [
    "TERMINAL",
    "TRANSITIONS",
    "Claim",
    "Kept",
    "Source",
    "Step",
    "TaskFinished",
    "TaskState",
    "TaskWord",
    "UserMessage",
    "said_at",
]

CLAIMS_MAX: Final = 32
"""Final claims that are remembered of one turn; more than one is unusual."""


class TaskWord(enum.Enum):
    """What holds. All but NONE are coderd's words for an app status."""

    NONE = "none"
    """Nobody has said anything yet."""
    WORKING = "working"
    IDLE = "idle"
    COMPLETE = "complete"
    FAILURE = "failure"


TERMINAL: Final = frozenset({TaskWord.COMPLETE, TaskWord.FAILURE})


class Step(enum.Enum):
    """What is said."""

    TURN = "turn"
    """A new user message."""
    WORKING = "working"
    IDLE = "idle"
    COMPLETE = "complete"
    FAILURE = "failure"


# Why the table is as it is:
#
# COMPLETE and FAILURE are rows that no word leads out of: the screen goes on flickering after "done", events are
# replayed, a report may overtake another.  What was said first about the end stays said, also against the other end.
#
# A user's message leads out of everything, and to WORKING: the agent has something to do, even before it moves.
#
# The words are taken in the order in which they were said, not in which they arrived (`TaskState`), so this table is
# all there is to know about what wins.
_WORDS: Final = {
    Step.TURN: TaskWord.WORKING,
    Step.WORKING: TaskWord.WORKING,
    Step.IDLE: TaskWord.IDLE,
    Step.COMPLETE: TaskWord.COMPLETE,
    Step.FAILURE: TaskWord.FAILURE,
}
TRANSITIONS: Final[Mapping[TaskWord, Mapping[Step, TaskWord]]] = {
    TaskWord.NONE: _WORDS,
    TaskWord.WORKING: _WORDS,
    TaskWord.IDLE: _WORDS,
    TaskWord.COMPLETE: dict.fromkeys(Step, TaskWord.COMPLETE) | {Step.TURN: TaskWord.WORKING},
    TaskWord.FAILURE: dict.fromkeys(Step, TaskWord.FAILURE) | {Step.TURN: TaskWord.WORKING},
}


class TaskFinished(AgentdError):
    """An explicit report would take a finished task back. Nothing was changed."""


class Source(enum.Enum):
    """Who says it."""

    WATCHER = "watcher"
    EVENT = "event"
    REPORT = "report"
    """Explicit: its caller reads the answer."""


class Claim(NamedTuple):
    """`word` (not NONE) was said by `source` at `at` (monotonic seconds), with a message and a link for people."""

    word: TaskWord
    source: Source
    at: float
    message: str = ""
    uri: str = ""

    @property
    def step(self) -> Step:
        return Step(self.word.value)


class UserMessage(NamedTuple):
    """A message of the user: its id, a digest of its content, and when it was sent (monotonic seconds, estimated)."""

    id: int
    digest: int
    at: float


class Kept(NamedTuple):
    """All that a `TaskState` rests on, for whoever has to remember it."""

    turn: int = 0
    user: UserMessage | None = None
    claims: tuple[Claim, ...] = ()


NOTHING_KEPT: Final = Kept()


class TaskState:
    """Takes in what is said and holds what is true.

    The state is the fold of `TRANSITIONS` over the words of the current turn in the order of their `at`.  Of those
    only the ones are kept that can still decide: the final ones, and the last of the others.  So a late or replayed
    word changes nothing, and a user message that is noticed late still begins its turn where it was sent: a "complete"
    that came before it was noticed and after it was sent is about that turn.
    """

    def __init__(self, kept: Kept = NOTHING_KEPT) -> None:
        self.turn = kept.turn
        """How many user messages have begun a turn."""
        self._user = kept.user
        self._final = sorted((claim for claim in kept.claims if claim.word in TERMINAL), key=_order)
        others = (claim for claim in kept.claims if claim.word not in TERMINAL)
        self._last = max(others, key=_order, default=None)

    @property
    def word(self) -> TaskWord:
        """What holds."""
        word = TaskWord.NONE
        for step in self._steps():
            word = TRANSITIONS[word][step]
        return word

    @property
    def kept(self) -> Kept:
        """What makes another `TaskState` hold the same."""
        return Kept(self.turn, self._user, (*self._final, *([self._last] if self._last else [])))

    @property
    def standing(self) -> Claim | None:
        """The claim that what holds goes back to; None for a turn of which only the user has spoken."""
        return self._final[0] if self._final else self._last

    def take(self, claim: Claim) -> bool:
        """Take a claim in; whether it changed what holds (the word, or the message and link that go with it).

        Raises `TaskFinished` for an explicit report of working or idle about a finished task; such a word from the
        watcher or an event is taken, and changes nothing.
        """
        word = self.word
        if claim.source is Source.REPORT and word in TERMINAL and claim.word not in TERMINAL:
            raise TaskFinished(
                f"the task is {word.value}; {claim.word.value} would take that back",
                hint="a new message from the user begins a new turn",
            )
        before = (word, self.standing)
        if self._user is not None and claim.at < self._user.at:
            return False  # about an earlier turn
        if claim.word in TERMINAL:
            final = sorted({*self._final, claim}, key=_order)
            self._final = final[:1] + final[1:][1 - CLAIMS_MAX :]
        elif self._last is None or _order(claim) > _order(self._last):
            self._last = claim
        return (self.word, self.standing) != before

    def hear_user(self, message: UserMessage) -> bool:
        """Take the newest user message in, seen again and again; whether it is a new one and changed what holds."""
        known = self._user
        if known is not None and (message.id, message.digest) == (known.id, known.digest):
            return False
        before = (self.word, self.standing)
        if known is not None and message.at < known.at:
            return False
        self.turn += 1
        self._user = message
        self._final = [claim for claim in self._final if claim.at >= message.at]
        if self._last is not None and self._last.at < message.at:
            self._last = None
        return (self.word, self.standing) != before

    def _steps(self) -> list[Step]:
        claims = [*self._final, *([self._last] if self._last else [])]
        turn = [Step.TURN] if self._user is not None else []
        return turn + [claim.step for claim in sorted(claims, key=_order)]


def said_at(*, seen_at: float, unseen_at: float, age_s: float) -> float:
    """When something that is `age_s` old by its own clock was said: between the look that missed it and the one that saw it.

    All in monotonic seconds.  A message's own time is wall time, which may have been stepped since; the looks bound it.
    """
    return min(max(seen_at - age_s, unseen_at), seen_at)


def _order(claim: Claim) -> tuple[float, bool, bool, bool, str, str, str, str]:
    # Said at the same moment: an end after the rest, an explicit word after the others; the remainder makes it total.
    ends = claim.word in TERMINAL
    explicit = claim.source is Source.REPORT
    last = (claim.word.value, claim.source.value, claim.message, claim.uri)
    return (claim.at, ends, explicit, claim.word is TaskWord.IDLE, *last)
