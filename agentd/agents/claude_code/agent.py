"""Claude Code as a kind of agent (`agentd.agents.agent.Agent`), observed by its own files and never asked.

The registry of live processes tells busy, idle and waiting; the transcript has the messages, checks the registry, and
stands in for it in versions that write no status.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agentd import log
from agentd.agents.agent import (
    Activity,
    Agent,
    AgentBrokenError,
    AgentBusyError,
    AgentGoneError,
    Diagnosis,
    LastMessage,
    Observation,
    Session,
)
from agentd.agents.claude_code.row import LAST_UNDERSTOOD
from agentd.agents.claude_code.sessions import LiveSession, SessionReader, View
from agentd.clock import Clock
from agentd.conversation.message import Message
from agentd.conversation.redaction import Redactor
from agentd.metrics import Metric
from agentd.worker_thread import WorkerThread

LOOK_TIMEOUT_S: Final = 3.0
"""A look takes a millisecond; the first one of a large transcript at most a second."""
PRIVACY: Final = (
    "agentd reads the texts of user and agent, keeps them in its state directory, and sends them only to"
    " the destinations of snapshots"
)

# The first that any session shows is the activity of all.
_ORDER: Final = (Activity.BUSY, Activity.WAITING, Activity.IDLE)


class ClaudeCodeAgent(Agent):
    """Every Claude Code of one user. `folder` is its configuration folder; files of another user than `owner` are not read.

    `directory`: as `agent.directory`. `keep`: messages to keep. `skipped` counts the records that are left out (`kind`,
    `reason`).
    """

    kind = "claude-code"

    def __init__(
        self,
        folder: Path,
        *,
        owner: int,
        directory: Path | None,
        keep: int,
        clock: Clock,
        disk: WorkerThread,
        redact: Redactor | None = None,
        skipped: Metric | None = None,
    ) -> None:
        self._folder = folder
        self._disk = disk
        self._skipped = skipped
        self._reader = SessionReader(
            folder,
            owner=owner,
            directory=directory,
            keep=keep,
            wall=clock.wall,
            redact=redact or Redactor(values=tuple),
            skipped=self._count_skipped,
        )
        self._view = View()
        self._read: tuple[Message, ...] = ()
        self._look: asyncio.Future[View] | None = None
        self._said: set[str] = set()
        self._log = log.get("agents")

    async def sessions(self) -> Sequence[Session]:
        if not self._view.live:
            return [self._view.ended] if self._view.ended else []
        return [one.session for one in self._view.live]

    async def observe(self) -> Observation:
        try:
            view = await self._looked(LOOK_TIMEOUT_S)
        except (TimeoutError, OSError, RuntimeError) as exc:
            reason = str(exc) or f"was not read within {LOOK_TIMEOUT_S:g} s"
            return Observation(Activity.BROKEN, evidence=f"{self._folder} {reason}", readable=False)
        if view.live:
            return self._observation(view)
        if view.broken:
            return Observation(Activity.BROKEN, evidence=view.broken[0], readable=False)
        return Observation(Activity.GONE, evidence=_why_gone(view), readable=False)

    async def messages(
        self,
        *,
        keep: int,
        timeout_s: float | None = None,
        fresh: bool = False,  # noqa: ARG002 - every call reads the file
    ) -> Sequence[Message]:
        limit_s = LOOK_TIMEOUT_S if timeout_s is None else min(timeout_s, LOOK_TIMEOUT_S)
        try:
            view = await self._looked(limit_s)
        except TimeoutError:
            raise AgentBusyError(f"{self._folder} was not read within {limit_s:g} s") from None
        except (OSError, RuntimeError) as exc:
            raise AgentBrokenError(f"{self._folder} cannot be read: {exc}") from exc
        if view.live:
            self._read = view.live[0].messages
            return self._read[-keep:]
        if view.broken:
            raise AgentBrokenError(view.broken[0])
        raise AgentGoneError(_why_gone(view))

    async def saved_messages(self, *, keep: int) -> Sequence[Message]:
        """The transcript of the session that was observed last. `claude -p` ends 0.1 s after its answer."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                return (await self._disk.run(self._reader.last_messages))[-keep:]
        except (TimeoutError, OSError, RuntimeError):
            return ()

    async def diagnose(self) -> Diagnosis:
        try:
            view = await self._looked(LOOK_TIMEOUT_S)
        except (TimeoutError, OSError, RuntimeError) as exc:
            cause = str(exc) or f"was not read within {LOOK_TIMEOUT_S:g} s"
            return Diagnosis("fail", f"{self._folder} {cause}", "check the file system of the agent's home")
        if view.live:
            return Diagnosis("ok", self._described(view))
        if view.broken:
            remedy = "report it with the version of Claude Code; update agentd, or start Claude Code again"
            return Diagnosis("fail", f"a process runs, but {view.broken[0]}", remedy)
        if view.problems:
            remedy = "run agentd as the user of the agent, and set agent.home to that user's home"
            return Diagnosis("warn", view.problems[0], remedy)
        remedy = "start Claude Code 2.1.181 or later as the user of agent.home"
        return Diagnosis("warn", f"{_why_gone(view)} in {self._folder}", remedy)

    async def close(self) -> None:
        if self._look is not None:
            self._look.cancel()

    # Looking.

    async def _looked(self, timeout_s: float) -> View:
        """What is on disk at a time after this call. Raises `TimeoutError`; a look that hangs is not repeated."""
        async with asyncio.timeout(timeout_s):
            if self._look is not None and not self._look.done():
                await asyncio.wait({self._look})
                self._look.exception()  # of a call that timed out
            self._look = asyncio.ensure_future(self._disk.run(self._reader.look))
            await asyncio.wait({self._look})
        self._view = self._look.result()
        for problem in self._view.problems:
            if problem not in self._said and len(self._said) < 100:
                self._said.add(problem)
                self._log.warning("agent.session_unreadable", kind=self.kind, reason=problem)
        return self._view

    def _count_skipped(self, reason: str, count: int) -> None:
        """Called in the thread of the disk."""
        if reason not in self._said:
            self._said.add(reason)
            self._log.warning("agent.records_skipped", kind=self.kind, reason=reason)
        if self._skipped is not None:
            self._skipped.inc(count, kind=self.kind, reason=reason)

    # What was found.

    def _observation(self, view: View) -> Observation:
        current = view.live[0]
        activity = next(one for one in _ORDER if any(seen.observation.activity is one for seen in view.live))
        seen = [one for one in view.live if one.observation.activity is activity]
        # One busy session makes the agent busy; idle needs all of them, so the weakest evidence counts.
        weakest = activity is Activity.IDLE
        decisive = min(seen, key=lambda one: one.observation.strength) if weakest else seen[0]
        evidence = decisive.observation.evidence
        if activity is not Activity.WAITING:  # of a waiting agent it is its question
            evidence += f" ({_name(decisive)}{f', {view.reason}' if decisive is current else ''})"
        return decisive.observation._replace(
            evidence=evidence,
            last=LastMessage.of(current.messages),
            unread=current.messages != self._read,
        )

    def _described(self, view: View) -> str:
        current = view.live[0]
        version = current.session.agent_version or "of an unknown version"
        where = f"{_name(current)} in {current.session.directory}"
        state = f"{current.observation.activity.value}, {current.observation.evidence}"
        parts = (
            f"Claude Code {version} (the last one tried is {LAST_UNDERSTOOD}) in {self._folder}",
            f"live sessions: {len(view.live)}, the current one is {where} ({view.reason}): {state}",
            *view.problems[:1],
            PRIVACY,
        )
        return "; ".join(parts)


def _name(seen: LiveSession) -> str:
    return f"session {seen.session.id[:8]}"


def _why_gone(view: View) -> str:
    if view.problems:
        return view.problems[0]
    ended = f"; {view.stale} rows are of processes that have ended" if view.stale else ""
    return f"no Claude Code runs{ended}"
