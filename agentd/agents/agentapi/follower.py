"""Follows AgentAPI's event stream: an accelerator, never the only source.

It takes no lock, so it is what still speaks while a message is delivered and `/status` and `/messages` hang.  But it
replays the whole history at each connect, announces no deletions, has no keepalive, and breaks off when the agent is
too fast for it.  So it connects only to an agent that answers, looks before each connect, lets the poll be the
watchdog, and stays away from histories too large to be replayed.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, Literal

from agentd import log
from agentd.agents.agentapi.client import AgentApi, AgentError
from agentd.agents.agentapi.events import AgentComplaint, AgentEvent, MessageUpdate, StatusChange
from agentd.backoff import Backoff
from agentd.clock import Clock

__all__ = ["Follower"]

# A replay of this takes about a second of one core on either side; a larger history is only polled.
REPLAY_MAX_BYTES: Final = 32 * 1024**2
# A stream that has lived this long was a good one: the next failure is a new story.
PROVEN_S: Final = 10.0

Status = Literal["running", "stable"]


class Follower:
    """Holds the stream for ever and says what it hears.

    `look` is awaited before each connect and says whether the agent answers.  `on_replayed` gets the newest `keep`
    messages and the status as they were at the connect, `on_update` and `on_status` what changes from then on;
    `on_doubt` is called when messages may have vanished unannounced, `on_lost` when a stream that was up has ended, as
    it does at once when the agent stops.  All are called from this task.
    """

    def __init__(
        self,
        *,
        agent: AgentApi,
        clock: Clock,
        keep: int,
        look: Callable[[], Awaitable[bool]],
        on_replayed: Callable[[Sequence[MessageUpdate], Status], None],
        on_update: Callable[[MessageUpdate], None],
        on_status: Callable[[Status], None],
        on_doubt: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.connected = False
        """The replay is over and the stream is up."""
        self._agent = agent
        self._clock = clock
        self._look = look
        self._on_replayed = on_replayed
        self._on_update = on_update
        self._on_status = on_status
        self._on_doubt = on_doubt
        self._on_lost = on_lost
        self._backoff = Backoff(first_s=1.0, cap_s=30.0, floor_s=0.5)
        self._replay: deque[MessageUpdate] = deque(maxlen=keep)
        self._complaints: deque[AgentComplaint] = deque(maxlen=100)
        self._log = log.get("stability")

    async def run(self) -> None:
        """Connect, listen, wait, for ever."""
        while True:
            # Before the connect, not after the loss only: what happened unheard is seen by this look.
            if await self._look() and self._agent.history_bytes <= REPLAY_MAX_BYTES:
                await self._listen()
            await self._clock.sleep(self._backoff.next())

    async def _listen(self) -> None:
        began = self._clock.monotonic()
        reason = "ended by the agent"
        try:
            async with aclosing(self._agent.events()) as events:
                async for event in events:
                    self._hear(event)
        except AgentError as error:
            reason = str(error)
        finally:
            was_connected, self.connected = self.connected, False
            self._replay.clear()
        lived_s = self._clock.monotonic() - began
        if was_connected:
            self._on_lost()
        if was_connected and lived_s >= PROVEN_S:
            self._backoff.reset()
        if was_connected or self._backoff.failures == 0:
            self._log.info("agent.events_lost", reason=reason, lived_s=round(lived_s, 1))

    def _hear(self, event: AgentEvent) -> None:
        match event:
            case MessageUpdate() if self.connected:
                self._on_update(event)
            case MessageUpdate():
                if self._replay and self._replay[-1].id == event.id:
                    self._replay.pop()
                self._replay.append(event)
            case StatusChange() if self.connected:
                self._on_status(event.status)
            case StatusChange():
                # The first status ends the replay; there is no other mark.
                self.connected = True
                self._on_replayed(list(self._replay), event.status)
                self._replay.clear()
                self._log.info("agent.events_followed")
            case AgentComplaint() if event not in self._complaints:
                # The last hundred are replayed at each connect.
                self._complaints.append(event)
                self._log.warning("agent.complained", level=event.level, said=event.message, at=event.time)
                self._on_doubt()
