"""Codex CLI as a kind of agent (`agentd.agents.agent.Agent`), in a terminal, in its daemon, or as `codex exec`.

Codex writes the start and the end of each turn to the rollout, and nothing in between: it is busy from the one to the
other, however long it is silent. While a turn runs, the daemon is asked whether it waits for an approval.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
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
    Strength,
)
from agentd.agents.codex.control import ControlSocket, ThreadStatus
from agentd.agents.codex.threads import Look, Thread, Threads
from agentd.clock import Clock
from agentd.conversation.message import Message
from agentd.conversation.redaction import Redactor
from agentd.metrics import Metric
from agentd.worker_thread import WorkerThread

UNDERSTOOD: Final = "0.169.0"
"""The newest release whose files were tried."""
LOOK_TIMEOUT_S: Final = 3.0
REPORTED_MAX: Final = 100
PRIVACY: Final = (
    "agentd reads the prompts and the answers in these files; it keeps the newest in its state directory with mode 0600,"
    " and sends them to the configured destinations only"
)

# The order of the activities: the first that any thread shows is the activity of all.
_ORDER: Final = (Activity.BUSY, Activity.WAITING, Activity.IDLE, Activity.BROKEN)


class CodexAgent(Agent):
    """The Codex threads of one user. `folder` is CODEX_HOME; the other parameters are those of `Surroundings`."""

    kind = "codex"

    def __init__(
        self,
        folder: Path,
        *,
        owner: int,
        keep: int,
        clock: Clock,
        disk: WorkerThread,
        directory: Path | None = None,
        redact: Redactor | None = None,
        skipped: Metric | None = None,
    ) -> None:
        self._folder = folder
        self._owner = owner
        self._directory = directory
        self._disk = disk
        self._redact = redact or Redactor(values=tuple)
        self._threads = Threads(folder, owner=owner, keep=keep, redact=self._redact, skipped=skipped)
        self._control = ControlSocket(owner=owner, clock=clock)
        self._look = Look((), has_locks=True, rollouts=0, socket=None, skipped={})
        self._looking: Future[Look] | None = None
        self._statuses: Mapping[str, ThreadStatus] = {}
        self._given: tuple[str, int] = ("", 0)
        self._reported: set[str] = set()
        self._log = log.get("agents")

    # The current session.

    @property
    def _open(self) -> list[Thread]:
        return [thread for thread in self._look.threads if thread.writer is not None]

    @property
    def _current(self) -> Thread | None:
        """One that is open, in the configured directory, with the latest prompt; None if there is no session at all."""
        return next(iter(self._ranked()), None)

    def _ranked(self) -> list[Thread]:
        parents = {thread.meta.parent for thread in self._open if thread.meta}

        def rank(thread: Thread) -> tuple[bool, bool, float, str]:
            is_open = thread.writer is not None or thread.id in parents
            return is_open, self._is_inside(thread), thread.prompted_at, thread.id

        return sorted((one for one in self._look.threads if one.is_main), key=rank, reverse=True)

    def _reason(self) -> str:
        """Why the current session is the current one."""
        open_ = [thread for thread in self._open if thread.is_main]
        inside = [thread for thread in open_ if self._is_inside(thread)]
        if len(open_) < 2:
            return "the only open one"
        if self._directory is not None and 0 < len(inside) < len(open_):
            return f"in {self._directory}" + (", prompted last" if len(inside) > 1 else "")
        return f"prompted last of {len(open_)} open ones"

    def _is_inside(self, thread: Thread) -> bool:
        return self._directory is None or Path(thread.directory).is_relative_to(self._directory)

    async def sessions(self) -> Sequence[Session]:
        return [
            Session(
                thread.id,
                thread.directory,
                thread.meta.started_at if thread.meta else "",
                thread.meta.version if thread.meta else "",
                is_live=thread.writer is not None,
                prompted_at=thread.prompted_at,
                pid=thread.writer.pid if thread.writer else 0,
            )
            for thread in self._ranked()
        ]

    # Observing.

    async def observe(self) -> Observation:
        try:
            await self._refresh(LOOK_TIMEOUT_S)
        except AgentBusyError as exc:
            return Observation(Activity.BROKEN, evidence=str(exc), readable=False)
        self._statuses = await self._ask()
        current = self._current
        # The current thread is the first: where several threads have equal evidence, its own is shown.
        threads = sorted((one for one in self._open if one.is_read), key=lambda one: one is not current)
        if not threads:
            return Observation(Activity.GONE, evidence=self._why_gone(), readable=False)
        observed = [(self._observed(thread), thread) for thread in threads]
        activity = next(one for one in _ORDER if any(seen.activity is one for seen, _ in observed))
        decisive = [(seen, thread) for seen, thread in observed if seen.activity is activity]
        # Any busy thread makes the agent busy; all of them must be idle, so the weakest evidence counts.
        best = min if activity is Activity.IDLE else max
        seen, thread = best(decisive, key=lambda one: one[0].strength)
        evidence = seen.evidence
        if activity is not Activity.WAITING:  # of a waiting agent it is its question
            why = f", {self._reason()}" if thread is current else ""
            evidence = f"{evidence} (session {thread.id[:8]}{why})"
        return seen._replace(
            evidence=self._redact.text(evidence),
            last=LastMessage.of(current.messages) if current else None,
            readable=activity is not Activity.BROKEN,
            unread=current is not None and (current.id, current.version) != self._given,
        )

    async def messages(
        self,
        *,
        keep: int,
        timeout_s: float | None = None,
        fresh: bool = False,  # noqa: ARG002 - the files are always read
    ) -> Sequence[Message]:
        await self._refresh(LOOK_TIMEOUT_S if timeout_s is None else timeout_s)
        current = self._current
        if current is None or not self._open:
            raise AgentGoneError(self._why_gone())
        if current.problem:
            raise AgentBrokenError(f"thread {current.id}: {current.problem}")
        self._given = current.id, current.version
        return current.messages[-keep:]

    async def saved_messages(self, *, keep: int) -> Sequence[Message]:
        """The newest session, if no thread is open: `codex exec` ends with its last message."""
        try:
            await self._refresh(LOOK_TIMEOUT_S)
        except AgentBusyError:
            return ()
        current = self._current
        return current.messages[-keep:] if current and not self._open else ()

    async def diagnose(self) -> Diagnosis:
        try:
            await self._refresh(LOOK_TIMEOUT_S)
        except AgentBusyError as exc:
            return Diagnosis("fail", str(exc), f"check the disk of {self._folder}")
        if self._look.owner not in (self._owner, -1):
            return Diagnosis(
                "warn",
                f"{self._folder} belongs to user {self._look.owner}, agentd runs as user {self._owner} and reads nothing there",
                "run agentd as the user who runs Codex",
            )
        current = self._current
        found = f"{self._folder}: {self._look.rollouts:,} sessions, {len(self._open)} open"
        problems = [f"thread {one.id} {one.problem}" for one in self._look.threads if one.problem]
        if problems and (current is None or current.problem):
            return Diagnosis(
                "fail",
                f"{found}; {problems[0]}",
                "run agentd as the user who runs Codex, or report the version of Codex if it is that user",
            )
        if current is None or not self._open:
            return Diagnosis("warn", f"{found}; {self._why_gone()}", "start codex")
        version = current.meta.version if current.meta else ""
        is_newer = _numbers(version) > _numbers(UNDERSTOOD)
        parts = [
            found,
            f"current session {current.id}"
            + (f" in {current.directory}" if current.directory else "")
            + f" ({self._reason()})",
            f"Codex {version or 'of an unknown version'}"
            + (f", newer than {UNDERSTOOD}, the last one that was tried" if is_newer else ""),
        ]
        if not self._look.has_locks:
            parts.append("no writer locks: a session counts as open while a Codex process runs")
        if self._control.problem:
            parts.append(f"the daemon does not tell its state: {self._control.problem}")
        return Diagnosis("ok", f"{'; '.join(parts)}. {PRIVACY}")

    async def close(self) -> None:
        await self._control.close()

    # Reading.

    async def _refresh(self, timeout_s: float) -> None:
        """Look at the disk. Raises `AgentBusyError` if it does not answer in time; that look then still runs."""
        if self._looking is not None and self._looking.done():
            self._looking = None
        try:
            fresh = self._looking is None
            looking = self._looking = self._looking or self._disk.submit(self._threads.look)
            async with asyncio.timeout(timeout_s):
                self._take(await asyncio.wrap_future(looking))
                if not fresh:
                    # The look that was under way may have begun before the caller's last change.
                    self._looking = self._disk.submit(self._threads.look)
                    self._take(await asyncio.wrap_future(self._looking))
        except TimeoutError:
            raise AgentBusyError(f"{self._folder} was not read within {timeout_s:g} s") from None
        except (OSError, RuntimeError) as exc:
            raise AgentBusyError(f"{self._folder} cannot be read: {exc}") from exc

    def _take(self, look: Look) -> None:
        self._look = look
        problems = {f"{one.id}: {one.problem}" for one in look.threads if one.problem}
        for event, reasons in (
            ("agent.records_skipped", set(look.skipped)),
            ("agent.session_unreadable", problems),
        ):
            for reason in sorted(reasons - self._reported) if len(self._reported) < REPORTED_MAX else ():
                self._reported.add(reason)
                self._log.warning(event, kind=self.kind, reason=reason)

    async def _ask(self) -> Mapping[str, ThreadStatus]:
        """The daemon's word on the threads, only while a turn is open: between turns the rollout tells enough."""
        if self._look.socket is None or not any(thread.turn_at is not None for thread in self._open):
            await self._control.close()
            return {}
        return await self._control.statuses(self._look.socket)

    def _observed(self, thread: Thread) -> Observation:
        status = self._statuses.get(thread.id)
        of = "" if thread.is_main else "a subagent: "
        if thread.problem:
            return Observation(Activity.BROKEN, evidence=f"thread {thread.id}: {thread.problem}")
        if thread.turn_at is None:
            if thread.meta is None:
                return Observation(Activity.IDLE, evidence="Codex is open, and no prompt was written yet")
            if not thread.ending and thread.messages:
                return Observation(Activity.IDLE, evidence="no record of a turn was found")
            return Observation(
                Activity.IDLE, Strength.RECORDED, of + (thread.ending or "no turn has begun yet")
            )
        if status is None:
            return Observation(Activity.BUSY, Strength.RECORDED, f"{of}a turn runs")
        if status.waits_for:
            question = thread.question or f"Codex waits for {status.waits_for}"
            return Observation(Activity.WAITING, Strength.TOLD, of + question)
        if status.is_active:
            return Observation(Activity.BUSY, Strength.TOLD, f"{of}Codex says active")
        return Observation(Activity.IDLE, Strength.TOLD, f"{of}Codex says idle")

    def _why_gone(self) -> str:
        if not self._look.rollouts and not self._look.threads:
            return f"no Codex session was found in {self._folder}"
        return "no process has a Codex session open"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-", maxsplit=1)[0].split(".") if part.isdecimal())
