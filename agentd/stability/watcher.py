"""Polls the agent, feeds the tracker, and reads the newest messages. The source of every status and message.

The poll decides; the agent's announcements (`Agent.changes`) only shorten the delay. Messages can be expensive to read
(AgentAPI sends its whole history), so they are read only when they can have changed: at the start, at both ends of a
quiet period, when the agent says so, and while it runs as often as `checkpoint_s` requires.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

from agentd import log
from agentd.agents.agent import (
    Activity,
    Agent,
    AgentBrokenError,
    AgentBusyError,
    AgentError,
    AgentGoneError,
    Change,
    LastMessage,
    Observation,
    Session,
    Strength,
)
from agentd.clock import Clock
from agentd.conversation.message import Message
from agentd.restarting import keep_running
from agentd.stability.tracker import AgentStatus, AgentStatusChange, Tracker
from agentd.subscribers import Subscribers

T = TypeVar("T")

SLOW_POLL_S: Final = 2.0
"""AgentAPI in PTY mode shows "running" for at least 2 s after a change, so this interval misses no turn."""
WATCHDOG_POLL_S: Final = 5.0
"""While the agent announces its changes, polling only detects announcements that stopped without a notice."""
LONG_S: Final = 30.0
"""A status that has lasted this long is polled at the slow interval: wake-ups are the cost of an idle daemon."""
ANNOUNCED_TIMEOUT_S: Final = 0.1
"""Announced messages are in memory, so reading them needs no longer."""
READ_SHARE_MAX: Final = 0.1
"""Reading messages may take this share of the time. A history of 200 MB takes half a second."""


class Watcher:
    """Watches one agent.

    `status_changed` gets each change of status; `messages_read` the newest messages (oldest first, at most
    `keep_messages`, never empty) after each read; `saved_messages_read` what a gone agent left on disk. Subscribers are
    called from the watcher's tasks and must be quick. While the agent runs, its messages are at most `checkpoint_s` old.
    """

    def __init__(
        self,
        *,
        agent: Agent,
        tracker: Tracker,
        clock: Clock,
        poll_interval_s: float,
        checkpoint_s: float,
        keep_messages: int,
    ) -> None:
        self.status_changed = Subscribers[AgentStatusChange]()
        self.messages_read = Subscribers[Sequence[Message]]()
        self.saved_messages_read = Subscribers[Sequence[Message]]()
        self.sessions: Sequence[Session] = ()
        """The agent's sessions at the last poll, the current one first."""
        self._agent = agent
        self._tracker = tracker
        self._clock = clock
        self._poll_interval_s = poll_interval_s
        # A poll comes every poll_interval_s, so a read that waited for the full time would be up to one poll late.
        self._reread_s = max(0.0, checkpoint_s - poll_interval_s)
        self._keep_messages = keep_messages
        self._log = log.get("stability")
        self._poll_now = asyncio.Event()
        self._poll_on = False
        self._announced = 0
        self._last: LastMessage | None = None
        self._read_at = float("-inf")
        self._read_took_s = 0.0
        self._read_failure = ""
        self._defect = ""

    async def run(self) -> None:
        """Poll, and follow the agent's announcements, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, run in (("agent polls", self._poll_forever), ("agent changes", self._follow_changes)):
                group.create_task(keep_running(name, run, self._clock), name=name)

    async def poll(self) -> None:
        """Observe the agent once, and read its messages if they can have changed."""
        announced = self._announced
        try:
            observation = await self._asked(self._agent.observe())
            self.sessions = await self._asked(self._agent.sessions())
        except AgentBrokenError as exc:
            observation = Observation(Activity.BROKEN, evidence=str(exc), readable=False)
        self._poll_on = observation.poll_on
        if self._needs_comparison(observation):
            observation = self._after_read(observation, await self._read())
        if observation.activity is Activity.GONE and self._tracker.status is not AgentStatus.UNREACHABLE:
            await self._read_saved()
            if self._announced != announced:
                return  # the agent announced an activity meanwhile, which is newer
        self._apply(observation)
        if self._is_read_due(observation):
            await self._read()

    async def read_messages(self, timeout_s: float) -> bool:
        """Read the messages once more. False if the agent did not answer in time."""
        return await self._read(timeout_s, fresh=True) is None

    async def read_final_messages(self, timeout_s: float) -> bool:
        """Read the messages a last time, from the agent or else from what it saved. False if it did not answer."""
        error = await self._read(timeout_s, fresh=True)
        if error is None:
            return True
        if self._agent.is_announcing:
            # The agent hangs, but it has announced its messages until now. What it saved is not newer while it runs.
            announced = await self._read(ANNOUNCED_TIMEOUT_S) is None
            if announced and isinstance(error, AgentBusyError):
                return False
        await self._read_saved()
        return False

    def expect_work(self) -> None:
        """Count the agent as running at once: input was sent, and no observation shows it yet."""
        self._apply(Observation(Activity.BUSY, Strength.TOLD, "input was sent"))
        self._poll_now.set()

    # Polling.

    async def _poll_forever(self) -> None:
        while True:
            self._poll_now.clear()
            await self.poll()
            pause_s = self._pause_s()
            # Only a long pause is worth ending early.
            if pause_s <= self._poll_interval_s:
                await self._clock.sleep(pause_s)
            else:
                await self._clock.wait_event(self._poll_now, pause_s)

    def _pause_s(self) -> float:
        evidence = self._tracker.evidence
        if (
            self._poll_on
            or evidence.status not in (AgentStatus.STABLE, AgentStatus.UNREACHABLE)
            or evidence.for_s < LONG_S
        ):
            return self._poll_interval_s
        is_followed = evidence.status is AgentStatus.STABLE and self._agent.is_announcing
        return max(self._poll_interval_s, WATCHDOG_POLL_S if is_followed else SLOW_POLL_S)

    def _needs_comparison(self, observation: Observation) -> bool:
        """Whether the last message must be known before this observation counts: at both ends of a quiet period."""
        if observation.activity is not Activity.IDLE or observation.strength > Strength.INFERRED:
            return False
        is_quiet = self._tracker.status in (AgentStatus.SETTLING, AgentStatus.STABLE)
        return observation.last is None and (not is_quiet or self._tracker.is_due(self._clock.monotonic()))

    def _after_read(self, observation: Observation, error: AgentError | None) -> Observation:
        """What `observation` still says after a read of the messages that ended with `error`."""
        if isinstance(error, AgentBusyError):
            return Observation(Activity.BUSY, evidence=str(error), readable=False)
        if isinstance(error, AgentGoneError):
            return Observation(Activity.GONE, evidence=str(error), readable=False)
        return observation._replace(unread=False)

    def _apply(self, observation: Observation) -> bool:
        """Feed the tracker. True if the status changed."""
        last = observation.last or self._last
        change = self._tracker.observe(observation._replace(last=last), at=self._clock.monotonic())
        if change is None:
            return False
        level = self._log.warning if change.new is AgentStatus.UNREACHABLE else self._log.info
        level("agent.status", old=change.old.value, new=change.new.value, evidence=change.evidence)
        self.status_changed.notify(change)
        return True

    # Announcements.

    async def _follow_changes(self) -> None:
        async with aclosing(self._agent.changes()) as changes:
            async for change in changes:
                await self._take(change)
        await asyncio.get_running_loop().create_future()  # an agent without announcements

    async def _take(self, change: Change) -> None:
        if change.messages:
            await self._read()
        if change.observation is not None:
            self._announced += 1
            # Before the subscribers are called: they show the session beside the status.
            self.sessions = await self._asked(self._agent.sessions())
        has_new_status = change.observation is not None and self._apply(change.observation)
        if has_new_status or change.lost:
            self._poll_now.set()

    # Reading messages.

    def _is_read_due(self, observation: Observation) -> bool:
        if not observation.readable or observation.activity in (Activity.GONE, Activity.BROKEN):
            return False
        if observation.unread:
            return True
        if observation.last is not None:
            return observation.last != self._last
        wait_s = max(self._reread_s, self._read_took_s / READ_SHARE_MAX)
        is_old = self._clock.monotonic() - self._read_at >= wait_s
        return observation.activity is Activity.BUSY and is_old

    async def _read(self, timeout_s: float | None = None, *, fresh: bool = False) -> AgentError | None:
        """Read the newest messages and notify the subscribers. Returns the error if that failed."""
        began = self._clock.monotonic()
        try:
            messages = await self._asked(
                self._agent.messages(keep=self._keep_messages, timeout_s=timeout_s, fresh=fresh)
            )
        except AgentError as exc:
            # Logged once for each kind of failure: while a message is delivered every read fails alike.
            if type(exc).__name__ != self._read_failure:
                self._log.warning("agent.messages_unreadable", error=str(exc))
            self._read_failure = type(exc).__name__
            return exc
        if self._read_failure:
            self._log.info("agent.messages_readable", messages=len(messages))
            self._read_failure = ""
        self._read_at = self._clock.monotonic()
        self._read_took_s = self._read_at - began
        if messages:
            self._last = LastMessage.of(messages)
            self.messages_read.notify(messages)
        return None

    async def _read_saved(self) -> None:
        try:
            saved = await self._asked(self._agent.saved_messages(keep=self._keep_messages))
        except AgentBrokenError:
            return  # logged
        if saved:
            self.saved_messages_read.notify(saved)

    async def _asked(self, answer: Awaitable[T]) -> T:
        """The agent's answer. An unexpected exception, a defect in its kind, is logged and becomes `AgentBrokenError`."""
        try:
            return await answer
        except AgentError:
            raise
        except Exception as exc:
            defect = f"{self._agent.kind} cannot be observed: {exc!r}"
            if defect != self._defect:
                self._log.error("agent.kind_failed", kind=self._agent.kind, exc_info=exc)
            self._defect = defect
            raise AgentBrokenError(defect) from exc
