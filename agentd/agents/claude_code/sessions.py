"""Reads the live sessions of Claude Code: the registry, and the end of each transcript. Blocks on the disk.

All state belongs to the thread that calls `SessionReader.look`.
"""

import json
import os
import re
import stat
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from agentd.agents.agent import Activity, Observation, Session, Strength
from agentd.agents.claude_code.registry import read_registry
from agentd.agents.claude_code.row import Row, observation_of
from agentd.agents.claude_code.transcript import Record, Tool, Transcript, skim
from agentd.agents.session_file import SessionFile
from agentd.clock import rfc3339
from agentd.conversation.message import Message
from agentd.conversation.redaction import Redactor

FOLLOWED_MAX: Final = 16
"""Sessions whose transcripts are read: those whose rows changed last."""
SEARCH_EVERY_S: Final = 5.0
"""Time between two searches of all folders for a transcript that is not in the folder of its directory."""
READ_ANEW_EVERY_S: Final = 30.0
FOLDERS_MAX: Final = 10_000
META_MAX_BYTES: Final = 64 << 10


class LiveSession(NamedTuple):
    """One session of a running process, and what was read of it."""

    session: Session
    observation: Observation
    messages: tuple[Message, ...]


class View(NamedTuple):
    """What one look found. `live`: the current session first, `reason`: why it is the current one. `ended`: the session
    that was the current one, if no process runs now.

    `problems` name what could not be understood or read, `stale` counts rows of processes that have ended.
    """

    live: tuple[LiveSession, ...] = ()
    reason: str = ""
    ended: Session | None = None
    stale: int = 0
    broken: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class _Followed:
    """A transcript that is followed. `file` is None while it was not found."""

    def __init__(self, keep: int) -> None:
        self.file: SessionFile | None = None
        self.transcript = Transcript(keep)
        self.searched_at = float("-inf")
        self.read_anew_at = float("-inf")


class SessionReader:
    """`directory`: as `agent.directory`. `redact` is applied to every message and to the evidence. `skipped` is called
    with a reason and the number of records that are left out.
    """

    def __init__(
        self,
        folder: Path,
        *,
        owner: int,
        directory: Path | None,
        keep: int,
        wall: Callable[[], float],
        redact: Redactor,
        skipped: Callable[[str, int], None],
    ) -> None:
        self._folder = folder
        self._owner = owner
        self._directory = directory
        self._keep = keep
        self._wall = wall
        self._redact = redact
        self._skipped = skipped
        self._followed: dict[str, _Followed] = {}
        self._current: Row | None = None
        self._ended: Session | None = None
        self._problem = ""

    def look(self) -> View:
        """Read what changed since the last call."""
        problem = self._folder_problem()
        if problem:
            return View(ended=self._ended, problems=(problem,))
        rows = read_registry(self._folder, owner=self._owner)
        newest = sorted(rows.live, key=lambda row: (row.status_at, row.started_at, row.pid), reverse=True)
        wanted = {row.session for row in newest[:FOLLOWED_MAX]}
        if self._current is not None:
            wanted.add(self._current.session)  # its last messages are asked for when it has ended
        self._followed = {session: one for session, one in self._followed.items() if session in wanted}
        self._problem = ""
        live = {row.pid: self._read(row, is_followed=row.session in wanted) for row in newest}
        problems = tuple(one for one in (rows.unreadable, self._problem) if one)
        if not live:
            return View(ended=self._ended, stale=rows.stale, broken=rows.broken, problems=problems)
        order = sorted(newest, key=lambda row: self._rank(row, live[row.pid].session), reverse=True)
        self._current = order[0]
        sessions = [live[row.pid].session for row in order]
        self._ended = sessions[0]._replace(is_live=False, pid=0)
        return View(
            tuple(live[row.pid] for row in order),
            self._reason(sessions),
            stale=rows.stale,
            broken=rows.broken,
            problems=problems,
        )

    def last_messages(self) -> tuple[Message, ...]:
        """The messages of the session that was the current one at the last look, as they are on disk now."""
        if self._current is None or self._folder_problem():
            return ()
        return self._read(self._current, is_followed=True).messages

    def _read(self, row: Row, *, is_followed: bool) -> LiveSession:
        transcript = self._follow(row) if is_followed else Transcript(self._keep)
        # Before the question is shortened, which could leave a part of a secret.
        tools = tuple(Tool(*map(self._redact.text, tool)) for tool in transcript.turn.tools)
        observation = observation_of(row, transcript.turn._replace(tools=tools), now=self._wall())
        observation = observation._replace(evidence=self._redact.text(observation.evidence))
        if observation.activity is Activity.IDLE and observation.strength is Strength.INFERRED:
            observation = self._unless_subagents(row, observation)
        session = Session(
            row.session,
            row.directory or transcript.directory,
            rfc3339(row.started_at) if row.started_at else "",
            row.version,
            is_live=True,
            prompted_at=transcript.prompted_at,
            pid=row.pid,
        )
        return LiveSession(session, observation, tuple(self._redact(transcript.messages)))

    # Which one is the current one.

    def _rank(self, row: Row, session: Session) -> tuple[bool, float, float, int]:
        return self._is_inside(session), session.prompted_at, row.started_at, row.pid

    def _is_inside(self, session: Session) -> bool:
        return self._directory is not None and Path(session.directory).is_relative_to(self._directory)

    def _reason(self, sessions: list[Session]) -> str:
        if len(sessions) == 1:
            return "the only live session"
        first, second = sessions[:2]
        if self._is_inside(first) and not self._is_inside(second):
            return f"the only live session in {self._directory}"
        if first.prompted_at > second.prompted_at:
            return "it has the latest prompt of the user"
        return "it started last"

    # The transcript.

    def _follow(self, row: Row) -> Transcript:
        followed = self._followed.get(row.session)
        if followed is None:
            followed = self._followed[row.session] = _Followed(self._keep)
        try:
            if followed.file is None:
                followed.file = self._find(row, followed)
            if followed.file is not None:
                self._read_on(followed, followed.file)
            if followed.file is not None and followed.transcript.lacks_records and self._is_due(followed):
                followed.file.restart()
                self._read_on(followed, followed.file)
        except OSError as exc:
            # Deleted, moved, or not readable: it is searched again.
            self._problem = f"{exc.filename or row.session}: {exc.strerror or exc}"
            followed.file, followed.transcript = None, Transcript(self._keep)
        return followed.transcript

    def _is_due(self, followed: _Followed) -> bool:
        """Whether the file may be read from its end again: a damaged one would be read at each poll."""
        now = time.monotonic()
        is_due = now - followed.read_anew_at >= READ_ANEW_EVERY_S
        if is_due:
            followed.read_anew_at = now
        return is_due

    def _read_on(self, followed: _Followed, file: SessionFile) -> None:
        read = file.read(self._is_enough)
        if read.restarted:
            followed.transcript = Transcript(self._keep)
        unknown = followed.transcript.add(read.records)
        for reason, count in (*read.skipped.items(), *unknown.items()):
            self._skipped(reason, count)

    def _is_enough(self, records: list[Record]) -> bool:
        probe = Transcript(self._keep)
        probe.add(records)
        return probe.is_enough

    def _find(self, row: Row, followed: _Followed) -> SessionFile | None:
        """The session's transcript: below the folder of its directory, else (a resume from another one) below any."""
        projects, name = self._folder / "projects", f"{row.session}.jsonl"
        if not self._is_own(projects):
            return None
        # The vendor's rule; a name of more than 200 characters is cut and gets a hash.
        first = projects / re.sub(r"[^A-Za-z0-9-]", "-", os.path.realpath(row.directory or "/"))
        now = time.monotonic()
        if now - followed.searched_at < SEARCH_EVERY_S:
            return self._file(first / name) if self._has(first, name) else None
        followed.searched_at = now
        if self._has(first, name):
            return self._file(first / name)
        with os.scandir(projects) as entries:
            for entry in islice(entries, FOLDERS_MAX):
                if self._has(projects / entry.name, name):
                    return self._file(projects / entry.name / name)
        return None

    def _file(self, path: Path) -> SessionFile:
        return SessionFile(path, owner=self._owner, skim=skim)

    def _has(self, folder: Path, name: str) -> bool:
        try:
            os.lstat(folder / name)
        except OSError:
            return False
        return self._is_own(folder)

    def _is_own(self, folder: Path) -> bool:
        """Whether this is a directory of the agent's user, and no symbolic link."""
        try:
            info = os.lstat(folder)
        except OSError:
            return False
        if stat.S_ISLNK(info.st_mode):
            self._problem = f"{folder} is a symbolic link, which is not followed"
        elif info.st_uid != self._owner:
            self._problem = f"{folder} does not belong to user {self._owner}"
        return stat.S_ISDIR(info.st_mode) and info.st_uid == self._owner

    def _folder_problem(self) -> str:
        try:
            info = self._folder.stat()
        except FileNotFoundError:
            return f"{self._folder} does not exist"
        except OSError as exc:
            return f"{self._folder}: {exc.strerror}"
        if info.st_uid != self._owner:
            return f"{self._folder} belongs to user {info.st_uid}, not to {self._owner}"
        return ""

    # Subagents.

    def _unless_subagents(self, row: Row, idle: Observation) -> Observation:
        """Busy instead of `idle` if a subagent of this process has not written its end."""
        followed = self._followed.get(row.session)
        if followed is None or followed.file is None:
            return idle
        folder = followed.file.path.with_suffix("") / "subagents"
        if not self._is_own(folder) or not self._is_own(folder.parent):
            return idle
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in islice(entries, FOLDERS_MAX)]
        except OSError:
            return idle
        running = [
            name
            for name in names
            if re.fullmatch(r"agent-[0-9a-f]{1,40}\.meta\.json", name)
            and self._runs(folder / name, row.started_at)
        ]
        if not running:
            return idle
        return Observation(Activity.BUSY, Strength.RECORDED, f"{len(running)} subagents have not ended")

    def _runs(self, meta: Path, started_at: float) -> bool:
        try:
            fd = os.open(meta, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_uid != self._owner or info.st_mtime < started_at:
                return False
            values = json.loads(os.read(fd, META_MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return False
        finally:
            os.close(fd)
        return isinstance(values, dict) and values.get("finished") is not True
