"""A second kind of agent, for tests: it does what it is told, and states everything it does."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from agentd.agents.agent import (
    Activity,
    Agent,
    AgentBrokenError,
    AgentBusyError,
    AgentGoneError,
    Capabilities,
    Change,
    Diagnosis,
    LastMessage,
    Observation,
    Session,
    Strength,
)
from agentd.conversation.message import Message
from agentd.conversation.redaction import Redactor


class ScriptedAgent(Agent):
    kind = "scripted"
    can = Capabilities(send_input=True)

    def __init__(self, redact: Redactor | None = None) -> None:
        self._redact = redact or Redactor(values=tuple)
        self._is_announcing = False
        self.activity = Activity.IDLE
        self.question = ""
        self.inputs: list[str] = []
        self.history: list[Message] = []
        self._listeners: list[asyncio.Queue[Change]] = []
        self.say("user", "hello")
        self.say("agent", "hello yourself")

    # The script.

    def say(self, role: str, content: str) -> None:
        self.history.append(Message(len(self.history), role, content, "2026-03-02T09:00:00Z"))

    def turn(self, activity: Activity, question: str = "") -> None:
        self.activity, self.question = activity, question
        lost = activity is Activity.GONE
        for queue in self._listeners:
            queue.put_nowait(Change(None if lost else self._observation(), messages=True, lost=lost))
        if lost:
            self._is_announcing = False

    # The agent.

    @property
    def is_announcing(self) -> bool:
        return self._is_announcing

    async def sessions(self) -> Sequence[Session]:
        return [
            Session("s-1", "/home/coder", "2026-03-02T09:00:00Z", is_live=self.activity is not Activity.GONE)
        ]

    async def observe(self) -> Observation:
        return self._observation()

    async def messages(
        self, *, keep: int, timeout_s: float | None = None, fresh: bool = False
    ) -> Sequence[Message]:
        if self.activity is Activity.GONE:
            raise AgentGoneError("the script has ended")
        if self.activity is Activity.BROKEN:
            raise AgentBrokenError("the script makes no sense")
        return self._redact(self.history[-keep:])

    async def changes(self) -> AsyncGenerator[Change, None]:
        queue: asyncio.Queue[Change] = asyncio.Queue()
        self._listeners.append(queue)
        self._is_announcing = True
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue)

    async def send(self, content: str) -> None:
        if self.activity is Activity.GONE:
            raise AgentGoneError("the script has ended")
        if self.activity is not Activity.IDLE:
            raise AgentBusyError("in a turn")
        self.inputs.append(content)

    async def diagnose(self) -> Diagnosis:
        match self.activity:
            case Activity.GONE:
                return Diagnosis("fail", "the script has ended", "start it")
            case Activity.BROKEN:
                return Diagnosis("fail", "the script makes no sense", "correct it")
        return Diagnosis("ok", f"the script is {self.activity.value}")

    def _observation(self) -> Observation:
        is_there = self.activity not in (Activity.GONE, Activity.BROKEN)
        return Observation(
            self.activity,
            Strength.TOLD,
            self._redact.text(self.question) or f"the script says {self.activity.value}",
            last=LastMessage.of(self._redact(self.history)) if is_there else None,
            readable=is_there,
        )
