"""Looks at the agent: feeds the tracker with its status and the recorder with its newest messages.

Two sources, each for what the other cannot do (measured in docs/architecture.md):

- The poll is the truth.  One small request a look.  `/messages`, the whole history, is read only when it can have
  news: at the start, at both ends of a quiet stretch, and while the agent runs as often as the spool must be fresh;
  never while `/status` hangs, because then it would hang as well.
- The event stream says things at once, and it alone speaks while a message is delivered.  While it is up, it replaces
  the reads of a running agent and lets an idle one be looked at rarely.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from agentd import log
from agentd.agents.agentapi.client import AgentApi, AgentBusy, AgentError, AgentGone
from agentd.agents.agentapi.follower import Follower, Status
from agentd.agents.agentapi.message_update import MessageUpdate
from agentd.clock import Clock
from agentd.conversation.message import Message
from agentd.stability.tracker import AgentStatus, LastMessage, Reading, Sample, Tracker, Transition
from agentd.stability.window import LiveWindow

__all__ = ["Watcher"]

# In PTY mode "running" lasts at least 2 s after any change, so looking this often never misses a turn.
SLOW_POLL_S: Final = 2.0
# With the event stream up, looking at a stable agent is only the watchdog of a stream that has no keepalive.
WATCHDOG_POLL_S: Final = 5.0
LONG_S: Final = 30.0
"""A state that has lasted this long is looked at more rarely: wake-ups are what idling costs."""
MUTE_MAX_S: Final = 30.0
"""Connections are taken and nothing is answered: after so long the agent counts as gone."""
# A history of 200 MB takes half a second to read. Reading it may take this share of the time, at most.
READ_SHARE_MAX: Final = 0.1
# A screen that streams changes 25 times a second; passing a window on costs the decoding of 80 kB.
PASS_ON_S: Final = 1.0

_READINGS: Final = {"stable": Reading.STABLE, "running": Reading.RUNNING}


class Watcher:
    """Watches one agent for ever.

    `on_messages` is handed the newest window (oldest first, at most `keep_messages`) each time it was read, never an
    empty one; `on_transition` every change of status.  Both are called from this task and must be quick.
    `checkpoint_s`: while the agent runs, the window is at most this old.
    """

    def __init__(
        self,
        *,
        agent: AgentApi,
        tracker: Tracker,
        clock: Clock,
        poll_interval_s: float,
        checkpoint_s: float,
        keep_messages: int,
        on_messages: Callable[[Sequence[Message]], object],
        on_transition: Callable[[Transition], None],
        follow: bool = True,
    ) -> None:
        self._agent = agent
        self._tracker = tracker
        self._clock = clock
        self._poll_interval_s = poll_interval_s
        # A look comes every poll_interval_s, so a read that waited for the full time would come up to one look late.
        self._reread_s = max(0.0, checkpoint_s - poll_interval_s)
        self._keep_messages = keep_messages
        self._on_messages = on_messages
        self._on_transition = on_transition
        self._log = log.get("stability")
        self._looking = asyncio.Lock()
        self._long_rest: asyncio.Task[None] | None = None
        self._window = LiveWindow(keep_messages)
        self._changed = False
        self._passed_on_at = float("-inf")
        self._last: LastMessage | None = None
        self._mute_since: float | None = None
        self._prompted = False
        self._in_doubt = True
        self._read_at = float("-inf")
        self._read_took_s = 0.0
        self._read_failure = ""
        self._follower = Follower(
            agent=agent,
            clock=clock,
            keep=keep_messages,
            look=self._look_for_life,
            on_replayed=self._replayed,
            on_update=self._updated,
            on_status=self._status_changed,
            on_doubt=self._doubt,
            on_lost=self._end_rest,
        )
        self._follow = follow

    async def run(self) -> None:
        """Look and listen, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_for_ever(), name="agent polls")
            if self._follow:
                group.create_task(self._follower.run(), name="agent events")

    async def look(self) -> Transition | None:
        """One look: status, and the messages when they can have news."""
        async with self._looking:
            sample = await self._sample()
            transition = self._observe(sample)
            if self._has_news(sample):
                await self._read()
            return transition

    async def refresh(self, timeout_s: float) -> bool:
        """Read the messages once more, beside `run` or after it.  False when the agent did not answer in time."""
        return await self._read(timeout_s) is None

    def expect_work(self) -> None:
        """A message has just been delivered: the agent runs, whatever the screen still shows."""
        self._in_doubt = True
        self._observe(self._seen(Reading.RUNNING))
        self._end_rest()

    async def _look_for_ever(self) -> None:
        while True:
            await self.look()
            await self._rest(self._pause_s())

    async def _rest(self, pause_s: float) -> None:
        if pause_s <= self._poll_interval_s:
            await self._clock.sleep(pause_s)
            return
        # A long one ends early when the stream says that something moves, or ends.
        self._long_rest = asyncio.create_task(self._sleep(pause_s), name="agent pause")
        try:
            await asyncio.wait({self._long_rest})
        finally:
            self._long_rest.cancel()
            self._long_rest = None

    async def _sleep(self, pause_s: float) -> None:
        await self._clock.sleep(pause_s)

    def _pause_s(self) -> float:
        facts = self._tracker.facts
        if facts.status not in (AgentStatus.STABLE, AgentStatus.UNREACHABLE) or facts.for_s < LONG_S:
            return self._poll_interval_s
        followed = facts.status is AgentStatus.STABLE and self._follower.connected
        return max(self._poll_interval_s, WATCHDOG_POLL_S if followed else SLOW_POLL_S)

    async def _sample(self) -> Sample:
        try:
            status = await self._agent.status()
            reading = _READINGS[status.status]
            if reading is Reading.STABLE and self._must_compare():
                error = await self._read()
                if isinstance(error, AgentBusy | AgentGone):
                    raise error
        except AgentBusy as busy:
            return await self._silence(busy)
        except AgentError as error:
            self._mute_since = None
            gone = isinstance(error, AgentGone)
            return self._seen(Reading.GONE if gone else Reading.BROKEN, str(error))
        self._mute_since = None
        return self._seen(reading)

    async def _silence(self, busy: AgentBusy) -> Sample:
        """`/status` hangs. It does so while a message is being delivered; other paths answer then.

        When those hang too, somebody still takes the connections: a machine short of memory, a debugger. That is not
        "down" yet, so it is given time.
        """
        now = self._clock.monotonic()
        if await self._agent.alive():
            self._mute_since = None
            return self._seen(Reading.BUSY, "/status hangs while a message is being delivered")
        self._mute_since = now if self._mute_since is None else self._mute_since
        mute_s = now - self._mute_since
        if mute_s < MUTE_MAX_S:
            return self._seen(Reading.BUSY, f"nothing has answered for {mute_s:.0f} s")
        return self._seen(Reading.GONE, f"{busy}, and nothing else has answered for {mute_s:.0f} s")

    def _seen(self, reading: Reading, detail: str = "") -> Sample:
        if self._changed:
            self._pass_on()
        return Sample(reading, self._clock.monotonic(), self._last, self._prompted, detail)

    def _observe(self, sample: Sample) -> Transition | None:
        transition = self._tracker.observe(sample)
        if transition is not None:
            level = self._log.warning if transition.new is AgentStatus.UNREACHABLE else self._log.info
            level(
                "agent.status",
                old=transition.old.value,
                new=transition.new.value,
                evidence=transition.evidence,
            )
            self._on_transition(transition)
        return transition

    def _must_compare(self) -> bool:
        """Whether quiet begins or would count now: both ends of the stretch need the last message as it is."""
        quiet = self._tracker.state in (AgentStatus.SETTLING, AgentStatus.STABLE)
        return not quiet or self._tracker.due(self._clock.monotonic())

    def _has_news(self, sample: Sample) -> bool:
        if sample.reading not in (Reading.STABLE, Reading.RUNNING):
            return False
        if self._in_doubt:
            return True
        wait_s = max(self._reread_s, self._read_took_s / READ_SHARE_MAX)
        unheard = sample.reading is Reading.RUNNING and not self._follower.connected
        return unheard and sample.at - self._read_at >= wait_s

    async def _read(self, timeout_s: float | None = None) -> AgentError | None:
        """Read the newest messages and pass them on; the error, when that failed."""
        began = self._clock.monotonic()
        try:
            window = await self._agent.messages(keep=self._keep_messages, timeout_s=timeout_s)
        except AgentError as error:
            # Once per change: while a message is delivered every read fails alike.
            if type(error).__name__ != self._read_failure:
                self._log.warning("agent.messages_unreadable", error=str(error))
            self._read_failure = type(error).__name__
            return error
        if self._read_failure:
            self._log.info("agent.messages_readable", messages=len(window))
            self._read_failure = ""
        self._read_at = self._clock.monotonic()
        self._read_took_s = self._read_at - began
        self._in_doubt = False
        # An empty list is no news: a server that restarts has one, and what the user saw stays what the user saw.
        if window:
            self._window.replace(window)
            self._pass_on()
        return None

    def _pass_on(self) -> None:
        messages = self._window.messages()
        self._changed = False
        self._passed_on_at = self._clock.monotonic()
        if messages:
            self._last = LastMessage(messages[-1].id, hash(messages[-1].content))
            self._prompted = any(message.role == "user" for message in messages)
            self._on_messages(messages)

    # What the follower hears.

    async def _look_for_life(self) -> bool:
        await self.look()
        return self._tracker.state not in (AgentStatus.UNKNOWN, AgentStatus.UNREACHABLE)

    def _replayed(self, newest: Sequence[MessageUpdate], status: Status) -> None:
        if newest:
            self._window.replace(newest)
            self._changed = True
        self._status_changed(status)

    def _updated(self, update: MessageUpdate) -> None:
        if not self._window.update(update):
            self._doubt()
            return
        self._changed = True
        if self._clock.monotonic() - self._passed_on_at >= PASS_ON_S:
            self._pass_on()

    def _status_changed(self, status: Status) -> None:
        transition = self._observe(self._seen(_READINGS[status]))
        if transition is not None and transition.new is AgentStatus.SETTLING:
            # The stream does not announce deletions (a failed ACP prompt takes its answer back).
            self._doubt()
        if transition is not None:
            self._end_rest()

    def _end_rest(self) -> None:
        if self._long_rest is not None:
            self._long_rest.cancel()

    def _doubt(self) -> None:
        self._in_doubt = True
