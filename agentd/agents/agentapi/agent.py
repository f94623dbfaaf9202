"""AgentAPI as a kind of agent (`agentd.agents.agent.Agent`).

The poll decides, the event stream accelerates (measured in docs/architecture.md). The stream takes no lock, so it is the
only source while a message is delivered and `/status` and `/messages` hang. But it replays the whole history at each
connect, announces no deletions, has no keepalive, and ends when the agent is too fast for the reader. So the stream is
connected only to an agent that answers `/status` just before, and only if its history is small enough to be replayed.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from agentd import log
from agentd.agents.agent import (
    Activity,
    Agent,
    AgentBrokenError,
    AgentBusyError,
    AgentError,
    AgentGoneError,
    CannotEndError,
    Capabilities,
    Change,
    Diagnosis,
    LastMessage,
    Observation,
    Session,
    Strength,
)
from agentd.agents.agentapi.client import AgentApiClient, StatusReading
from agentd.agents.agentapi.events import AgentErrorEvent, AgentEvent, StatusChange
from agentd.agents.agentapi.proof import Proof
from agentd.agents.agentapi.state_file import StateFileError, read_state_file
from agentd.backoff import Backoff
from agentd.clock import Clock
from agentd.conversation.message import Message
from agentd.conversation.redaction import Redactor
from agentd.conversation.window import UndecodedMessage, Window

MUTE_MAX_S: Final = 30.0
"""While connections are accepted and nothing is answered, the agent counts as gone after this time."""
REPLAY_MAX_BYTES: Final = 32 * 1024**2
"""A replay of this takes about a second of one core on either side. A larger history is only polled."""
ANNOUNCE_S: Final = 1.0
"""A streaming screen changes 25 times a second; decoding and storing the messages each time costs 80 kB."""
BUSY_FIRST_BYTE_S: Final = 0.15
"""An agent that is known to be busy and does not begin to answer by then is delivering a message: it will not answer."""
GOOD_CONNECTION_S: Final = 10.0
"""A stream that lasted this long resets the backoff."""
# In a terminal AgentAPI answers when the agent has begun, or gives up after 17 s at most.
PTY_SEND_TIMEOUT_S: Final = 20.0
# By ACP it answers at the end of the turn, and a refusal comes at once. Closing the connection does not stop the turn.
ACP_SEND_TIMEOUT_S: Final = 2.0
STATE_FILE_TIMEOUT_S: Final = 2.0
"""200 MB take half a second; a network file system that hangs must not delay a stop."""
# To learn the version before the end. `/status` hangs while a message is delivered; SIGUSR1 is then not sent.
END_STATUS_TIMEOUT_S: Final = 1.0

_ACTIVITIES: Final = {"stable": Activity.IDLE, "running": Activity.BUSY}


class AgentApiAgent(Agent):
    """The agent behind one AgentAPI server.

    `keep`: messages in the window. The files are AgentAPI's own, None where they are not configured.
    """

    kind = "agentapi"
    can = Capabilities(send_input=True, end_process=True)

    def __init__(
        self,
        client: AgentApiClient,
        *,
        keep: int,
        clock: Clock,
        state_file: Path | None = None,
        pid_file: Path | None = None,
        redact: Redactor | None = None,
    ) -> None:
        self._client = client
        self._keep = keep
        self._clock = clock
        self._state_file = state_file
        self._pid_file = pid_file
        self._redact = redact or Redactor(values=tuple)
        self._window = Window(keep)
        self._replay = Window(keep)
        self._announced_at = float("-inf")
        self._is_announcing = False
        self._collecting: list[dict[int, UndecodedMessage]] = []
        # Counts reasons why the window may lack something that no event announces, and those that a read has removed.
        self._doubts = 1
        self._doubts_at_read = 0
        self._no_answer_since: float | None = None
        self._is_hanging = False
        self._announced_busy = False
        self._proof = Proof(client)
        self._status: StatusReading | None = None
        self._backoff = Backoff(first_s=1.0, cap_s=30.0, floor_s=0.5)
        self._reported_errors: deque[AgentErrorEvent] = deque(maxlen=100)
        self._state_file_problem = ""
        self._last_saved: LastMessage | None = None
        self._log = log.get("agents")

    @property
    def is_announcing(self) -> bool:
        return self._is_announcing

    async def sessions(self) -> Sequence[Session]:
        """One session without an id: AgentAPI does not tell which one its agent has."""
        return (Session(is_live=self._status is not None),)

    # Observing.

    async def observe(self) -> Observation:
        """One `GET /status`."""
        try:
            self._status = status = await self._proof.read_status()
        except AgentBusyError as exc:
            self._is_hanging = True
            return await self._no_answer(exc)
        except AgentError as exc:
            self._no_answer_since = self._status = None
            self._is_hanging = False
            activity = Activity.GONE if isinstance(exc, AgentGoneError) else Activity.BROKEN
            return Observation(activity, evidence=self._redact.text(str(exc)), readable=False)
        self._no_answer_since = None
        self._is_hanging = False
        poll_on = self._proof.is_worth_polling
        return Observation(
            _ACTIVITIES[status.status], last=self._last(), unread=self._is_uncertain, poll_on=poll_on
        )

    async def messages(
        self, *, keep: int, timeout_s: float | None = None, fresh: bool = False
    ) -> Sequence[Message]:
        """The window while the event stream keeps it, otherwise `GET /messages`.

        Fresh messages need the request, because an event may arrive after the answer to a later request. There are two
        exceptions. A large history is not read again if it is proven not to have changed (`Proof`). And an
        agent that the stream shows to be busy gets only a moment to begin its answer: while it delivers a message it
        answers nothing, and the events are the newest that there is.
        """
        if self._is_current() and not fresh:
            return self._window.live[-keep:]
        if fresh and await self._proof.holds_now(keep):
            return self._proof.messages[-keep:]
        is_busy = self.is_announcing and self._announced_busy and (self._is_current() or self._is_hanging)
        first_byte_s = BUSY_FIRST_BYTE_S if fresh and is_busy else float("inf")
        doubts = self._doubts
        with self._updates_meanwhile() as updates:
            async with self._proof.reading():
                read = await self._client.messages(
                    keep=keep, timeout_s=timeout_s, first_byte_s=first_byte_s, fresh=fresh
                )
                # In a thread: ten large screens take longer than the event loop may be blocked.
                messages = await asyncio.to_thread(self._redact, read)
                await self._proof.on_read(messages, keep=keep)
        # An empty list says nothing: a server that restarts has one.
        if messages and not self._is_current():
            self._window.replace(messages)
            # What the events announced during the read may be newer than its answer.
            newer = [update for update in updates.values() if update.id >= messages[-1].id]
            self._doubts += sum(not self._window.update(update) for update in newer)
        elif messages and messages[-1:] != list(self._window.live[-1:]):
            # The events lag behind the answer, or are ahead of it: only another read can tell.
            self._doubts += 1
            return messages
        self._doubts_at_read = doubts
        return messages

    def _collect(self, update: UndecodedMessage) -> None:
        for updates in self._collecting:
            updates[update.id] = update
            if len(updates) > self._keep:  # a replay has them all
                del updates[next(iter(updates))]

    @contextmanager
    def _updates_meanwhile(self) -> Iterator[dict[int, UndecodedMessage]]:
        """Collect the announced messages until the end of the block: the last one of each id, at most `keep`."""
        updates: dict[int, UndecodedMessage] = {}
        self._collecting.append(updates)
        try:
            yield updates
        finally:
            self._collecting.remove(updates)

    async def saved_messages(self, *, keep: int) -> Sequence[Message]:
        """Read AgentAPI's state file, where one is configured.

        AgentAPI writes the file before it closes its port, so the file is complete when the port refuses connections.
        """
        path = self._state_file
        if path is None:
            return ()
        try:
            async with asyncio.timeout(STATE_FILE_TIMEOUT_S):
                messages = await asyncio.to_thread(lambda: self._redact(read_state_file(path, keep=keep)))
        except (StateFileError, TimeoutError) as exc:
            problem = str(exc) or f"not read within {STATE_FILE_TIMEOUT_S:g} s"
            if problem != self._state_file_problem:
                self._log.warning("agent.state_file_unreadable", path=str(path), reason=problem)
            self._state_file_problem = problem
            return ()
        self._state_file_problem = ""
        if messages and LastMessage.of(messages) != self._last_saved:
            self._last_saved = LastMessage.of(messages)
            self._log.info("agent.state_file_read", path=str(path), messages=len(messages))
        return messages

    async def changes(self) -> AsyncGenerator[Change, None]:
        """Hold the event stream, reconnecting with backoff, until cancelled."""
        while True:
            observation = await self.observe()
            # Shows what happened while no stream was connected.
            yield Change(observation)
            is_up = observation.activity in (Activity.BUSY, Activity.IDLE)
            if is_up and not self._client.history_bytes and not self._is_hanging:
                with suppress(AgentError):  # the size is not known; this shares the read of the poll
                    await self._client.messages(keep=self._keep)
            if is_up and self._client.history_bytes <= REPLAY_MAX_BYTES:
                async with aclosing(self._stream()) as changes:
                    async for change in changes:
                        yield change
            await self._clock.sleep(self._backoff.next())

    # Acting on it.

    async def send(self, content: str) -> None:
        """`GET /status` and, if the agent is idle, `POST /message`."""
        status = await self._client.status()
        if status.status != "stable":
            raise AgentBusyError("the agent is running")
        by_acp = status.transport == "acp"
        try:
            await self._client.send(content, timeout_s=ACP_SEND_TIMEOUT_S if by_acp else PTY_SEND_TIMEOUT_S)
        except AgentBusyError as exc:
            if not by_acp:
                raise AgentBrokenError(f"{exc}; it may still be delivered") from exc
        self._proof.on_doubt()
        self._doubts += 1

    async def end(self, *, timeout_s: float) -> None:
        """Signal the process of `agentapi.pid_file`, and SIGUSR1 first where that saves its state."""
        from agentd.agents.agentapi.process import end_agent  # noqa: PLC0415 - off unless configured

        if self._pid_file is None:
            raise CannotEndError("agentapi.pid_file is not set")
        deadline = self._clock.monotonic() + timeout_s
        saves_state = await self._saves_state()
        left_s = max(0.0, deadline - self._clock.monotonic())
        pid_file = self._pid_file
        outcome = await end_agent(pid_file, saves_state=saves_state, timeout_s=left_s)
        self._log.info("agent.ended", outcome=outcome.value, pid_file=str(pid_file), saved_first=saves_state)

    async def diagnose(self) -> Diagnosis:
        from agentd.agents.agentapi.diagnosis import diagnose  # noqa: PLC0415 - for `agentd doctor` only

        return await diagnose(self._client)

    async def close(self) -> None:
        await self._client.close()

    # The event stream.

    async def _stream(self) -> AsyncGenerator[Change, None]:
        """One connection, from its replay to its end."""
        began = self._clock.monotonic()
        reason = "ended by the agent"
        self._replay = Window(self._keep)
        try:
            async with aclosing(self._client.events()) as events:
                async for event in events:
                    change = self._take(event)
                    if change is not None:
                        yield change
        except AgentError as exc:
            reason = str(exc)
        finally:
            was_announcing, self._is_announcing = self._is_announcing, False
        lived_s = self._clock.monotonic() - began
        if was_announcing or self._backoff.failures == 0:
            self._log.info("agent.events_lost", reason=reason, lived_s=round(lived_s, 1))
        if was_announcing:
            if lived_s >= GOOD_CONNECTION_S:
                self._backoff.reset()
            yield Change(lost=True)

    def _take(self, event: AgentEvent) -> Change | None:
        if isinstance(event, UndecodedMessage):
            event = event._replace(decode=partial(self._decoded, event))
            self._collect(event)
        if isinstance(event, StatusChange):
            self._announced_busy = event.status == "running"
        if self.is_announcing:
            self._proof.on_doubt()
        match event:
            case StatusChange() if not self.is_announcing:
                self._end_replay()
                return self._status_change(event)
            case StatusChange():
                # The stream does not announce deletions (a failed ACP prompt removes its answer).
                self._doubts += event.status == "stable"
                return self._status_change(event)
            case AgentErrorEvent():
                self._doubts += self._report(event)
            case UndecodedMessage() if not self.is_announcing:
                # False for ids that run backwards: such a replay is not a list of messages in order.
                self._doubts += not self._replay.update(event)
            case UndecodedMessage():
                return self._update(event)
        return None

    def _update(self, update: UndecodedMessage) -> Change | None:
        self._doubts += not self._window.update(update)
        now = self._clock.monotonic()
        if now - self._announced_at < ANNOUNCE_S or not self._is_current():
            return None
        self._announced_at = now
        return Change(messages=True)

    def _decoded(self, update: UndecodedMessage) -> Message:
        [message] = self._redact([update.decode()])
        return message

    def _end_replay(self) -> None:
        """The first status ends the replay; there is no other mark."""
        self._is_announcing = True
        if self._replay.live:
            self._window.replace(self._replay.live)
        self._log.info("agent.events_followed")

    def _status_change(self, event: StatusChange) -> Change:
        observation = Observation(_ACTIVITIES[event.status], last=self._last(), unread=self._is_uncertain)
        return Change(observation, messages=self._is_current())

    def _report(self, event: AgentErrorEvent) -> bool:
        """Log an error of the agent. False for one that an earlier replay had: the last hundred are replayed."""
        if event in self._reported_errors:
            return False
        self._reported_errors.append(event)
        self._log.warning("agent.complained", level=event.level, said=event.message, at=event.time)
        return True

    # Details of observing.

    @property
    def _is_uncertain(self) -> bool:
        return self._doubts != self._doubts_at_read

    def _is_current(self) -> bool:
        """Whether the window is complete without a read."""
        return self.is_announcing and not self._is_uncertain

    def _last(self) -> LastMessage | None:
        return LastMessage.of(self._window.live) if self._is_current() else None

    async def _no_answer(self, exc: AgentBusyError) -> Observation:
        """`/status` hangs, as it does while a message is delivered; other paths answer meanwhile.

        If they hang as well, the port is still accepted by something: a machine short of memory, a debugger. That does
        not mean "down" until it has lasted for `MUTE_MAX_S`.
        """
        if await self._client.is_up():
            self._no_answer_since = None
            return self._busy("/status hangs while a message is being delivered")
        now = self._clock.monotonic()
        self._no_answer_since = now if self._no_answer_since is None else self._no_answer_since
        silent_s = now - self._no_answer_since
        if silent_s < MUTE_MAX_S:
            return self._busy(f"AgentAPI accepts connections but has not answered for {silent_s:.0f} s")
        return Observation(
            Activity.GONE,
            evidence=f"{exc}, and no other route has answered for {silent_s:.0f} s",
            readable=False,
        )

    def _busy(self, evidence: str) -> Observation:
        return Observation(
            Activity.BUSY, Strength.INFERRED, evidence, last=self._last(), readable=self._is_current()
        )

    async def _saves_state(self) -> bool:
        """Whether SIGUSR1 saves the state: since 0.12.0, which also began to tell the transport, and not in ACP mode."""
        try:
            async with asyncio.timeout(END_STATUS_TIMEOUT_S):
                return (await self._client.status()).transport == "pty"
        except (AgentError, TimeoutError):
            return False
