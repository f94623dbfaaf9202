"""Looks at the agent: feeds the tracker with its status and the recorder with its newest messages.

One request per look while nothing happens.  `/messages` is the whole history, so it is read only when it can have
news: at the start, at each edge to quiet, once more before quiet counts as stable, and while the agent runs as often
as the spool must be fresh; never while `/status` hangs, because then it would hang as well.
"""

from collections.abc import Callable, Sequence
from typing import Final

from agentd import log
from agentd.clock import Clock
from agentd.peers.agentapi import AgentApi, AgentBusy, AgentError, AgentGone
from agentd.peers.messages import Message
from agentd.stability.tracker import AgentStatus, LastMessage, Reading, Sample, Tracker, Transition

__all__ = ["Watcher"]

# In PTY mode "running" lasts at least 2 s after any change, so looking this often never misses a turn.
SLOW_POLL_S: Final = 2.0
LONG_S: Final = 30.0
"""A state that has lasted this long is looked at more rarely: wake-ups are what an idle daemon costs."""
# A history of 200 MB takes half a second to read. Reading it may take this share of the time, at most.
READ_SHARE_MAX: Final = 0.1

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
        self._last: LastMessage | None = None
        self._prompted = False
        self._read_at: float | None = None
        self._read_took_s = 0.0
        self._read_failure = ""

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await self._clock.sleep(self._pause_s())

    async def look(self) -> Transition | None:
        """One look: status, and the messages when they can have news."""
        sample = await self._sample()
        transition = self._tracker.observe(sample)
        if transition is not None:
            self._tell(transition)
        if self._has_news(sample):
            await self._read()
        return transition

    async def refresh(self, timeout_s: float) -> bool:
        """Read the messages once more, beside `run` or after it.  False when the agent did not answer in time."""
        return await self._read(timeout_s) is None

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
        except AgentGone as gone:
            return self._seen(Reading.GONE, str(gone))
        except AgentError as broken:
            return self._seen(Reading.BROKEN, str(broken))
        return self._seen(reading)

    async def _silence(self, busy: AgentBusy) -> Sample:
        """`/status` hangs. It does so while a message is being delivered; other paths answer then."""
        if await self._agent.alive():
            return self._seen(Reading.BUSY, "/status hangs while a message is being delivered")
        return self._seen(Reading.GONE, f"{busy}, and nothing else answers")

    def _seen(self, reading: Reading, detail: str = "") -> Sample:
        return Sample(reading, self._clock.monotonic(), self._last, self._prompted, detail)

    def _tell(self, transition: Transition) -> None:
        level = self._log.warning if transition.new is AgentStatus.UNREACHABLE else self._log.info
        level(
            "agent.status", old=transition.old.value, new=transition.new.value, evidence=transition.evidence
        )
        self._on_transition(transition)

    def _must_compare(self) -> bool:
        """Whether quiet begins or would count now: both ends of the stretch need the last message as it is."""
        quiet = self._tracker.state in (AgentStatus.SETTLING, AgentStatus.STABLE)
        return not quiet or self._tracker.due(self._clock.monotonic())

    def _has_news(self, sample: Sample) -> bool:
        if sample.reading not in (Reading.STABLE, Reading.RUNNING):
            return False
        if self._read_at is None:
            return True
        wait_s = max(self._reread_s, self._read_took_s / READ_SHARE_MAX)
        return sample.reading is Reading.RUNNING and sample.at - self._read_at >= wait_s

    async def _read(self, timeout_s: float | None = None) -> AgentError | None:
        """Read the newest messages and pass them on; the error, when that failed."""
        began = self._clock.monotonic()
        try:
            window = await self._agent.messages(keep=self._keep_messages, timeout_s=timeout_s)
        except AgentError as error:
            # Once per change: while a message is delivered every read fails alike.
            if str(error) != self._read_failure:
                self._log.warning("agent.messages_unreadable", error=str(error))
            self._read_failure = str(error)
            return error
        if self._read_failure:
            self._log.info("agent.messages_readable", messages=len(window))
            self._read_failure = ""
        self._read_at = self._clock.monotonic()
        self._read_took_s = self._read_at - began
        if window:
            self._take(window)
        return None

    def _take(self, window: Sequence[Message]) -> None:
        newest = window[-1]
        self._last = LastMessage(newest.id, hash(newest.content))
        self._prompted = any(message.role == "user" for message in window)
        self._on_messages(window)

    def _pause_s(self) -> float:
        facts = self._tracker.facts
        lasting = facts.status in (AgentStatus.STABLE, AgentStatus.UNREACHABLE) and facts.for_s >= LONG_S
        return max(self._poll_interval_s, SLOW_POLL_S) if lasting else self._poll_interval_s
