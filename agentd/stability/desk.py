"""Where everything that is said about the task arrives: from the watcher, from scripts, from the agent itself.

It hands each to `TaskState`, which knows what holds, and keeps that on disk, so that the guard of a finished task
outlives a restart: a "working" that is replayed after it changes nothing.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from agentd import log
from agentd.clock import Clock
from agentd.conversation.message import Message
from agentd.errors import AgentdError
from agentd.stability import task_file
from agentd.stability.short_text import clean_message
from agentd.stability.task_file import Remembered, Told
from agentd.stability.task_state import TERMINAL, Claim, Source, TaskState, TaskWord, UserMessage, said_at
from agentd.stability.tracker import AgentStatus, Transition

__all__ = ["NotAReport", "TaskDesk"]

URI_MAX_CHARS: Final = 2048
WORDS: Final = ("working", "idle", "complete", "failure")

_SEEN: Final = {AgentStatus.RUNNING: TaskWord.WORKING, AgentStatus.STABLE: TaskWord.IDLE}


class NotAReport(AgentdError):
    """What was said about the task cannot be understood."""


class TaskDesk:
    """What is said about one task.  `folder` is the state directory; `on_change` is called when what holds changed."""

    def __init__(self, *, folder: Path, clock: Clock, on_change: Callable[[], None] = lambda: None) -> None:
        self._path = folder / task_file.NAME
        self._clock = clock
        self.on_change = on_change
        self._since_s = clock.wall() - clock.monotonic()
        self._written = task_file.read(self._path, since_s=self._since_s)
        self._state = TaskState(self._written.kept)
        self.told = self._written.told
        """What coderd took last, in this run or before."""
        # A user message that we see first was not there when we looked last.
        user = self._written.kept.user
        self._looked_at = user.at if user is not None else float("-inf")
        self._newest: tuple[int, str] | None = None
        # The watcher only sees a screen: what the agent last said of itself in this turn goes on describing it.
        self._caption = ("", "")
        self._writing = asyncio.Lock()
        self._write_failed = False
        self._news = asyncio.Event()
        self._log = log.get("stability")

    @property
    def word(self) -> TaskWord:
        """What holds."""
        return self._state.word

    @property
    def is_finished(self) -> bool:
        return self.word in TERMINAL

    @property
    def standing(self) -> Claim | None:
        """The claim that goes back to, None when only the user has spoken."""
        return self._state.standing

    def hear_agent(self, transition: Transition) -> None:
        """The agent's status changed."""
        word, (message, uri) = _SEEN.get(transition.new), self._caption
        if transition.new is AgentStatus.UNREACHABLE and self.word is TaskWord.WORKING:
            # Who works no more must not be shown as working for ever.
            word, message = TaskWord.IDLE, "The agent does not answer"
        if word is not None:
            self._take(Claim(word, Source.WATCHER, transition.at, message, uri))

    def hear_messages(self, window: Sequence[Message]) -> None:
        """The newest messages were read: a user's message that was not there before begins a turn."""
        now = self._clock.monotonic()
        user = next((message for message in reversed(window) if message.role == "user"), None)
        if user is not None and (user.id, user.content) != self._newest:
            self._newest = (user.id, user.content)
            at = said_at(seen_at=now, unseen_at=self._looked_at, age_s=self._age_s(user.time))
            turn = self._state.turn
            changed = self._state.hear_user(UserMessage(user.id, _digest(user.content), at))
            if self._state.turn != turn:
                self._caption = ("", "")
                self._log.info("task.turn", turn=self._state.turn, message=user.id)
                self._news.set()
            if changed:
                self.on_change()
        self._looked_at = now

    async def say(self, said: Mapping[str, object], source: Source) -> bool:
        """Take `{"state", "message"?, "uri"?}` in and keep it; whether that changed what holds.

        Raises `NotAReport`; `TaskFinished` for an explicit report that would take a finished task back.
        """
        word, message, uri = _parsed(said)
        changed = self._take(Claim(word, source, self._clock.monotonic(), message, uri))
        if changed:
            self._caption = (message or self._caption[0], uri or self._caption[1])
            await self.keep()
        return changed

    def remember_told(self, told: Told) -> None:
        """That is what coderd holds now."""
        self.told = told
        self._news.set()

    async def run(self) -> None:
        """Keep what is heard, for ever."""
        while True:
            await self._news.wait()
            await self.keep()

    async def keep(self) -> None:
        """Have what holds now on disk, if the disk takes it."""
        async with self._writing:
            self._news.clear()
            remembered = Remembered(self._state.kept, self.told)
            if remembered == self._written:
                return
            try:
                await asyncio.to_thread(task_file.write, self._path, remembered, since_s=self._since_s)
            except OSError as error:
                # The word still holds while we live; on a full disk every one of them would fail alike.
                if not self._write_failed:
                    self._log.warning("task.not_kept", file=str(self._path), reason=error.strerror)
                self._write_failed = True
            else:
                self._written, self._write_failed = remembered, False

    def _take(self, claim: Claim) -> bool:
        before = self.word
        changed = self._state.take(claim)
        if self.word is not before:
            self._log.info("task.state", old=before.value, new=self.word.value, source=claim.source.value)
        if changed:
            self._news.set()
            self.on_change()
        return changed

    def _age_s(self, time: str) -> float:
        try:
            return max(0.0, self._clock.wall() - datetime.fromisoformat(time).timestamp())
        except (ValueError, OverflowError):
            return 0.0


def _parsed(said: Mapping[str, object]) -> tuple[TaskWord, str, str]:
    state, message, uri = said.get("state"), said.get("message") or "", said.get("uri") or ""
    if not isinstance(state, str) or state.lower() not in WORDS:
        raise NotAReport(f"state: must be one of {', '.join(WORDS)}")
    if not isinstance(message, str):
        raise NotAReport("message: must be a text")
    if not isinstance(uri, str) or len(uri) > URI_MAX_CHARS or not uri.isprintable():
        raise NotAReport(f"uri: must be a link of at most {URI_MAX_CHARS} characters")
    return TaskWord(state.lower()), clean_message(message), uri


def _digest(content: str) -> int:
    # Not hash(), which is another one in each process.
    return int.from_bytes(hashlib.blake2b(content.encode("utf-8", "replace"), digest_size=6).digest())
