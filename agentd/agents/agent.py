"""The seam between agentd and a coding agent: the protocol `Agent`, and the values it returns.

The packages `stability`, `snapshots`, `local_api`, `daemon` and `doctor` know an agent only by this module. Each kind
of agent is a package beside it; `discovery.py` chooses and builds one.
"""

import enum
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from agentd.conversation.message import Message
from agentd.errors import PeerError


class AgentError(PeerError):
    """A call to the agent failed."""


class AgentBusyError(AgentError):
    """The agent did not answer in time, or does not accept input now. It is not down."""


class AgentGoneError(AgentError):
    """The agent does not run, or the connection to it was lost."""


class AgentBrokenError(AgentError):
    """The answer is not one that this kind of agent gives."""


class CannotSendError(AgentError):
    """This kind of agent takes no input from agentd."""


class CannotEndError(AgentError):
    """The agent's process was not signalled: it is not known, or it is not provably the agent."""


class Activity(enum.Enum):
    """What an agent does, as one observation shows it."""

    BUSY = "busy"
    IDLE = "idle"
    WAITING = "waiting"
    """Inside a turn, for an approval or an answer of the user."""
    GONE = "gone"
    """It does not run, or nothing answers."""
    BROKEN = "broken"
    """Something answers that cannot be understood."""


class Strength(enum.IntEnum):
    """How strong the evidence for an activity is. A higher value wins."""

    INFERRED = 1
    """Derived from what is visible, such as a screen that does not change. Idle must last `stability.settle_s`."""
    RECORDED = 2
    """The agent wrote the end of its turn to disk."""
    TOLD = 3
    """The agent stated it: a registry, a hook, an event of its server."""


class LastMessage(NamedTuple):
    """The newest message: its id, and a digest of its content. Ids restart with the agent and may collide."""

    id: int
    digest: int

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "LastMessage | None":
        """The last of `messages` (oldest first), None when there is none. Digests are comparable in one process."""
        return cls(messages[-1].id, hash(messages[-1].content)) if messages else None


class Observation(NamedTuple):
    """What an agent does now.

    `evidence` says why, in a few words. The evidence of a waiting agent is its question: it becomes the task's message.
    `last` is the newest message where the agent knows it without another read.
    `readable`: `messages` can be called now; False while that call would hang. `unread`: messages changed, or may have
    changed, since the last call of `messages`. `poll_on`: the agent must be observed at the normal interval also while
    nothing happens, so that a final read is quick.
    """

    activity: Activity
    strength: Strength = Strength.INFERRED
    evidence: str = ""
    last: LastMessage | None = None
    readable: bool = True
    unread: bool = False
    poll_on: bool = False


class Change(NamedTuple):
    """Something that an agent announced.

    `observation` is its new activity, None if that did not change. `messages`: the newest messages changed, and
    `Agent.messages` returns them at once. `lost`: announcements have ended for now, so the agent must be observed.
    """

    observation: Observation | None = None
    messages: bool = False
    lost: bool = False


class Session(NamedTuple):
    """One conversation of an agent. Texts are "" and numbers 0 where the agent does not tell them.

    `started_at` is RFC 3339. `prompted_at` is the time of the latest prompt of the user, in Unix seconds: it decides
    which session is the current one. `pid` is the process that runs the session.
    """

    id: str = ""
    directory: str = ""
    started_at: str = ""
    agent_version: str = ""
    is_live: bool = False
    prompted_at: float = 0.0
    pid: int = 0


class Capabilities(NamedTuple):
    """What agentd can do to an agent besides observing it."""

    send_input: bool = False
    end_process: bool = False


class Diagnosis(NamedTuple):
    """What `agentd doctor` says of an agent: whether it can be observed, why, and what to do."""

    severity: Literal["ok", "warn", "fail"]
    cause: str
    remedy: str = ""


class Agent(Protocol):
    """The agent of one kind in this workspace, running or finished. A kind inherits from this class.

    A kind that only reads needs `kind`, `sessions`, `observe`, `messages` and `diagnose`; the rest has defaults.
    Polling `observe` must be enough; `changes` only shortens the delay. `tests/agents/contract.py` states what holds
    for every kind.
    """

    @property
    def kind(self) -> str:
        """The name of the kind in logs, the local API and `agentd doctor`: "agentapi", "claude-code", …"""
        ...

    @property
    def can(self) -> Capabilities:
        """Nothing, unless a kind says more."""
        return Capabilities()

    @property
    def is_announcing(self) -> bool:
        """Whether `changes` has a working source at the moment, so that polling may slow down."""
        return False

    async def sessions(self) -> Sequence[Session]:
        """The conversations of this agent, the current one first. Cheap. Never raises."""
        ...

    async def observe(self) -> Observation:
        """What the agent does now. Returns within a few seconds. Never raises for what the agent is or does."""
        ...

    async def messages(
        self, *, keep: int, timeout_s: float | None = None, fresh: bool = False
    ) -> Sequence[Message]:
        """The newest `keep` messages of the current session, oldest first.

        `fresh`: what the agent wrote before this call is included, also when the agent announces its changes.
        Raises `AgentBusyError`, `AgentGoneError` or `AgentBrokenError`.
        """
        ...

    async def saved_messages(self, *, keep: int) -> Sequence[Message]:  # noqa: ARG002 - used by kinds that save
        """What an agent that is gone left on disk: at most `keep` messages, oldest first. Never raises."""
        return ()

    async def changes(self) -> AsyncGenerator[Change, None]:
        """The agent's announcements, until cancelled. Reconnects by itself; ends only if there are none."""
        nothing: tuple[Change, ...] = ()
        for change in nothing:
            yield change

    async def send(self, content: str) -> None:  # noqa: ARG002 - used by kinds that take input
        """Give the agent a message of the user. Only where `can.send_input`.

        Raises `AgentBusyError` when the agent is inside a turn, another `AgentError` when it did not take the message.
        The call is never repeated: an agent cannot recognise a repetition.
        """
        raise CannotSendError(f"{self.kind} agents take no input")

    async def end(self, *, timeout_s: float) -> None:  # noqa: ARG002 - used by kinds that can be ended
        """End the agent's process within `timeout_s`, and log the outcome. Only where `can.end_process`.

        Raises `CannotEndError`.
        """
        raise CannotEndError(f"{self.kind} agents cannot be ended")

    async def diagnose(self) -> Diagnosis:
        """Why the agent can or cannot be observed, for `agentd doctor`. Takes 4 s at most."""
        ...

    async def diagnoses(self) -> Mapping[str, Diagnosis]:
        """What `agentd doctor` says, by the kind of agent that it is about."""
        return {self.kind: await self.diagnose()}

    async def close(self) -> None:
        """Cancel requests that have not ended. May be called twice."""
