"""Collects status reports about the task from every source, and stores what follows from them.

`TurnReports` computes the state. The result is kept on disk, so that a finished task stays finished after a restart: a
"working" that is replayed afterwards changes nothing.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from agentd import log
from agentd.clock import Clock
from agentd.conversation.message import CUT_MARK, Message
from agentd.errors import AgentdError
from agentd.masking import masked
from agentd.stability import task_file
from agentd.stability.status_report import (
    FINAL_STATES,
    Source,
    StatusReport,
    TaskState,
    clean_line,
    clean_message,
)
from agentd.stability.tracker import AgentStatus, AgentStatusChange
from agentd.stability.turn_reports import TurnReports, UserMessage, estimated_time
from agentd.subscribers import Subscribers
from agentd.worker_thread import WorkerThread

URI_MAX_CHARS: Final = 2048
SHOWN_MAX_CHARS: Final = 65_536
"""Of a message, so much is searched for its first or last line. Redacting this takes 25 ms in the event loop."""
REPORTABLE_STATES: Final = ("working", "idle", "complete", "failure")

_STATES: Final = {
    AgentStatus.RUNNING: TaskState.WORKING,
    AgentStatus.WAITING: TaskState.IDLE,
    AgentStatus.STABLE: TaskState.IDLE,
}


class InvalidReportError(AgentdError):
    """A report is malformed. The message says how."""


class TaskReports:
    """The reports about one task. `folder` is the state directory, `disk` the thread that writes there.

    `changed` gets the current report (state, message, link) each time it changes, `message_changed` the conversation's
    newest message each time that is another one or has another text. The watcher's reports have the first
    line of the user's prompt as message while the agent works, and the last line of its answer when it is idle. `redact`
    removes the secrets from a message before a line is taken from it.
    """

    def __init__(
        self,
        *,
        folder: Path,
        clock: Clock,
        disk: WorkerThread,
        redact: Callable[[Iterable[Message]], Iterable[Message]] = tuple,
    ) -> None:
        self.changed = Subscribers[StatusReport]()
        self.message_changed = Subscribers[Message]()
        self._path = folder / task_file.NAME
        self._clock = clock
        self._disk = disk
        self._redact = redact
        self._monotonic_to_unix_s = clock.wall() - clock.monotonic()
        self._stored = task_file.read(self._path, monotonic_to_unix_s=self._monotonic_to_unix_s)
        record, self.accepted = self._stored
        """The report that coderd accepted last, in this run or before."""
        self._turn = TurnReports(record)
        # A user message that appears first in this run was not there at the last poll of the run before.
        self._read_at = record.user.at if record.user is not None else float("-inf")
        self._newest: tuple[int, str] | None = None
        # The watcher's reports reuse message and link of the last other report of this turn, if there is one.
        self._message, self._uri = "", ""
        self._prompt = ""
        """The first line of the user's newest message, until the agent has answered it."""
        self._last: Message | None = None
        self._storing = asyncio.Lock()
        self._store_failed = False
        self._unstored = asyncio.Event()
        self._log = log.get("stability")

    @property
    def state(self) -> TaskState:
        return self._turn.state

    @property
    def is_finished(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def current(self) -> StatusReport:
        """The state with the message and link of the report it is based on; from the user if there is no such report."""
        report = self._turn.current
        if report is None:
            return StatusReport(self.state, Source.USER, message=self._prompt)
        if report.state is TaskState.WORKING and report.source is Source.WATCHER and not report.message:
            # Not stored with the report, because the agent often begins to work before its prompt is read.
            report = report._replace(message=self._prompt)
        return report._replace(state=self.state)

    def on_agent_change(self, change: AgentStatusChange) -> None:
        """The agent's status changed."""
        state, message = _STATES.get(change.new), self._message
        if change.new is AgentStatus.STABLE:
            message, self._prompt = message or self._answer(), ""
        if change.new is AgentStatus.WAITING:
            question = self._line(Message(0, "agent", change.note, ""), last=False)
            message = question or "The agent waits for an answer"
        if change.new is AgentStatus.UNREACHABLE and self.state is TaskState.WORKING:
            # Otherwise a dead agent would be shown as working.
            state, message = TaskState.IDLE, "The agent does not answer"
        if state is not None:
            self._add(StatusReport(state, Source.WATCHER, change.at, message, self._uri))

    def on_messages(self, messages: Sequence[Message]) -> None:
        """The newest messages were read. A user message that was not there before begins a turn."""
        now = self._clock.monotonic()
        last, self._last = self._last, messages[-1] if messages else self._last
        if self._last is not None and (
            last is None or (last.id, last.content) != (self._last.id, self._last.content)
        ):
            self.message_changed.notify(self._last)
        user = next((message for message in reversed(messages) if message.role == "user"), None)
        if user is not None and (user.id, user.content) != self._newest:
            self._newest = (user.id, user.content)
            at = estimated_time(seen_at=now, unseen_at=self._read_at, age_s=self._age_s(user.time))
            turn, before = self._turn.record.turn, self.current
            changed = self._turn.on_user_message(UserMessage(user.id, _digest(user.content), at))
            self._prompt = self._line(user, last=False) if self.state is TaskState.WORKING else ""
            if self._turn.record.turn != turn:
                self._message, self._uri = "", ""
                self._log.info("task.turn", turn=self._turn.record.turn, message=user.id)
                self._unstored.set()
            if changed or self.current != before:
                self.changed.notify(self.current)
        self._read_at = now

    async def report(self, fields: Mapping[str, object], source: Source) -> bool:
        """Add the report `{"state", "message"?, "uri"?}` and store it. True if it changed the current report.

        Raises `InvalidReportError`, and `TaskFinishedError` for an explicit report that would reopen a finished task.
        """
        state, message, uri = _parsed(fields)
        changed = self._add(StatusReport(state, source, self._clock.monotonic(), message, uri))
        if changed:
            self._message, self._uri = message or self._message, uri or self._uri
            await self.store()
        return changed

    def on_accepted(self, report: StatusReport) -> None:
        """Coderd accepted `report`."""
        self.accepted = StatusReport(report.state, message=report.message, uri=report.uri)
        self._unstored.set()

    async def run(self) -> None:
        """Store each change, until cancelled."""
        while True:
            await self._unstored.wait()
            await self.store()

    async def store(self) -> None:
        """Write the current content to disk, if it changed. A failure is logged, not raised."""
        async with self._storing:
            self._unstored.clear()
            content = (self._turn.record, self.accepted)
            if content == self._stored:
                return
            try:
                await self._disk.run(
                    lambda: task_file.write(
                        self._path, *content, monotonic_to_unix_s=self._monotonic_to_unix_s
                    )
                )
            except OSError as exc:
                # Logged once: on a full disk every write fails alike. The content stays in memory.
                if not self._store_failed:
                    self._log.warning("task.not_kept", file=str(self._path), reason=exc.strerror)
                self._store_failed = True
            else:
                self._stored, self._store_failed = content, False

    def _add(self, report: StatusReport) -> bool:
        before = self.state
        changed = self._turn.add(report)
        if self.state is not before:
            self._log.info("task.state", old=before.value, new=self.state.value, source=report.source.value)
        if changed:
            self._unstored.set()
            self.changed.notify(self.current)
        return changed

    def _answer(self) -> str:
        """The last line of the agent's answer to the user; "" if the user has written nothing, or nothing since."""
        answer = self._last
        if answer is None or answer.role != "agent" or self._turn.record.user is None:
            return ""
        return self._line(answer, last=True)

    def _line(self, message: Message, *, last: bool) -> str:
        text = message.content
        if len(text) > SHOWN_MAX_CHARS:
            # The mark makes `redact` drop the rest of a secret that the cut has split.
            text = CUT_MARK + text[-SHOWN_MAX_CHARS:] if last else text[:SHOWN_MAX_CHARS]
        [shown] = self._redact([message._replace(content=text)])
        return clean_line(shown.content.removeprefix(CUT_MARK), last=last)

    def _age_s(self, time: str) -> float:
        try:
            return max(0.0, self._clock.wall() - datetime.fromisoformat(time).timestamp())
        except (ValueError, OverflowError):
            return 0.0


def _parsed(fields: Mapping[str, object]) -> tuple[TaskState, str, str]:
    state, message, uri = fields.get("state"), fields.get("message") or "", fields.get("uri") or ""
    if not isinstance(state, str) or state.lower() not in REPORTABLE_STATES:
        raise InvalidReportError(f"state: must be one of {', '.join(REPORTABLE_STATES)}")
    if not isinstance(message, str):
        raise InvalidReportError("message: must be a text")
    if not isinstance(uri, str) or len(uri) > URI_MAX_CHARS or not uri.isprintable():
        raise InvalidReportError(f"uri: must be a link of at most {URI_MAX_CHARS} characters")
    return TaskState(state.lower()), clean_message(message), masked(uri)


def _digest(content: str) -> int:
    # hash() differs between processes.
    return int.from_bytes(hashlib.blake2b(content.encode("utf-8", "replace"), digest_size=6).digest())
