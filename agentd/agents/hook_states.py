"""What agents' own hooks said last, and how far it counts. Kept in memory only.

A hook is evidence beside others. Hooks do not run after a SIGKILL, and most not after an interrupt, so what a hook said has
an end; and of an agent that is observed by its files, a hook adds only what the files do not tell.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from agentd.agents.agent import Activity, Observation, Session, Strength
from agentd.agents.hook_events import GONE, HookEvent
from agentd.clock import Clock

BUSY_MAX_S: Final = 3600.0
"""An agent is not busy for longer by the word of one hook: nothing tells that it was killed."""
STATE_MAX_S: Final = 24 * 3600.0
AHEAD_MAX_S: Final = 5.0
"""A hook may be so much earlier than the record of the same prompt."""
BEHIND_MAX_S: Final = 1.0
"""A hook may be so much earlier than the read of the record that came before it."""
SESSIONS_MAX: Final = 64

# The order of the activities: the first that any session shows is the activity of all.
_ORDER: Final = (Activity.BUSY, Activity.WAITING, Activity.IDLE)


class Told:
    """The last event of one session. `at`: monotonic seconds; `prompted_at`: Unix seconds of its latest `busy`, or 0."""

    def __init__(self, event: HookEvent, at: float, prompted_at: float) -> None:
        self.event = event
        self.activity = Activity(event.state)
        self.at = at
        self.prompted_at = prompted_at
        self.own: Observation | None = None
        """What the agent's files said when the event came."""

    @property
    def evidence(self) -> str:
        """Of a waiting agent it is its question."""
        question = self.event.text if self.activity is Activity.WAITING else ""
        answer = f": {self.event.text}" if self.event.text else ""
        return question or f"its hook says {self.event.state}{answer}"


class HookStates:
    """The last event of each session of each agent. `arrived` is set after each event."""

    def __init__(self, clock: Clock) -> None:
        self.arrived = asyncio.Event()
        self._clock = clock
        self._told: dict[tuple[str, str], Told] = {}

    def take(self, event: HookEvent) -> None:
        """Keep what `event` says of its session. The session with the oldest event is forgotten if there are too many."""
        key = (event.agent, event.session)
        before = self._told.pop(key, None)
        if event.state != GONE:
            prompted_at = before.prompted_at if before else 0.0
            prompted_at = self._clock.wall() if event.state == "busy" else prompted_at
            self._told[key] = Told(event, self._clock.monotonic(), prompted_at)
        while len(self._told) > SESSIONS_MAX:
            del self._told[next(iter(self._told))]
        self.arrived.set()

    def agents(self) -> list[str]:
        """The names of the agents, each once."""
        return list(dict.fromkeys(agent for agent, _session in self._told))

    def of(self, agent: str) -> list[Told]:
        """What still counts of the sessions of `agent`: the decisive session first, then the latest."""
        now = self._clock.monotonic()
        found = [
            told
            for (name, _session), told in self._told.items()
            if name == agent
            and now - told.at <= (BUSY_MAX_S if told.activity is Activity.BUSY else STATE_MAX_S)
        ]
        return sorted(found, key=lambda told: (_ORDER.index(told.activity), -told.at))

    def refined(self, agent: str, own: Observation, sessions: Sequence[Session]) -> Observation:
        """`own`, the observation of an agent by its files, or the hook's where that says more.

        Not with several live sessions: `own` is of all of them. What an agent tells of itself (`Strength.TOLD`) and an
        agent that is gone are not doubted.
        """
        live = [session.id for session in sessions if session.is_live]
        told = self._told.get((agent, live[0])) if len(live) == 1 else None
        if told is None or own.activity in (Activity.GONE, Activity.BROKEN):
            return own
        age_s = self._clock.monotonic() - told.at
        if told.own is None or age_s <= BEHIND_MAX_S:
            told.own = own
        if own.activity is told.activity or not _says_more(told, own, age_s):
            return own
        return own._replace(activity=told.activity, strength=Strength.TOLD, evidence=told.evidence)


def _says_more(told: Told, own: Observation, age_s: float) -> bool:
    is_unchanged = told.own is not None and _content(own) == _content(told.own)
    match own.strength, told.activity:
        case Strength.RECORDED, Activity.WAITING:
            # An approval is on no disk. The next record is its answer.
            return own.activity is Activity.BUSY and is_unchanged and age_s <= STATE_MAX_S
        case Strength.RECORDED, Activity.BUSY:
            return is_unchanged and age_s <= AHEAD_MAX_S
        case Strength.INFERRED, Activity.BUSY:
            return age_s <= BUSY_MAX_S
        case Strength.INFERRED, _:
            return told.own is not None and own.last == told.own.last and age_s <= STATE_MAX_S
    return False


def _content(own: Observation) -> tuple[object, ...]:
    return own.activity, own.strength, own.evidence, own.last
