"""Reads the threads of Codex from disk: which are open, their turns, and their messages. Every call blocks on the disk."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from agentd.agents.codex.files import RolloutFiles, Signature, read_meta, signature
from agentd.agents.codex.locks import Writer, programs, socket_of, writers
from agentd.agents.codex.rollout import Meta, Record, Rollout, Turn, folded, skim
from agentd.agents.session_file import READ_MAX_BYTES, READ_MAX_S, SessionFile
from agentd.conversation.message import Message
from agentd.metrics import Metric

KIND: Final = "codex"
OPEN_MAX: Final = 8
"""Files that one look opens. What is left is read by the next one."""
THREADS_MAX: Final = 64
PROGRAMS_S: Final = 5.0
"""Time between two searches for Codex processes, where the locks cannot be read."""
TURN_CLOCK_S: Final = 2.0
"""By how much the time of a record and the start of a process may differ."""


class Thread(NamedTuple):
    """One thread as it is on disk.

    `meta` is None before its rollout exists, or if the rollout cannot be read: then `problem` says why. `writer` is None
    if no process has it open. `version` counts the changes of `messages`. `turn_at` is the start of the turn that is
    open (0.0: not known), None between turns. `ending` says how the last turn ended.
    """

    id: str
    meta: Meta | None
    writer: Writer | None
    directory: str = ""
    prompted_at: float = 0.0
    messages: tuple[Message, ...] = ()
    version: int = 0
    turn_at: float | None = None
    ending: str = ""
    question: str = ""
    problem: str = ""
    is_read: bool = True

    @property
    def is_main(self) -> bool:
        return self.meta is None or not self.meta.is_subagent


class Look(NamedTuple):
    """What one look found. `has_locks`: the locks were read, so a thread without a writer is closed.

    `skipped`: the lines that were skipped since the start, by reason. `owner`: the user whom the folder belongs to, -1 if
    there is none.
    """

    threads: tuple[Thread, ...]
    has_locks: bool
    rollouts: int
    socket: Path | None
    skipped: dict[str, int]
    owner: int = -1


class _Followed:
    """A rollout that is followed."""

    def __init__(self, path: Path, owner: int, keep: int) -> None:
        self.path = path
        self.meta: Meta | None = None
        self.rollout = Rollout(keep)
        self.problem = ""
        self.was_open = True
        self.version = 0
        self.read_at = float("-inf")
        self.seen_turn: Turn | None = None
        self.seen_writer: tuple[int, int] | None = None
        self.messages: tuple[Message, ...] = ()
        self._owner = owner
        self._keep = keep
        self._file = SessionFile(path, owner=owner, skim=skim)
        self._signature: Signature | None = None

    def changed_bytes(self) -> int:
        """The bytes that the next read takes, at most; 0 if the file has not changed."""
        found = signature(self.path)
        if found is None or found == self._signature:
            return 0
        before = self._signature.size if self._signature and self._signature.inode == found.inode else 0
        return max(1, min(found.size - before, READ_MAX_BYTES))

    def read(self, redact: Callable[[Sequence[Message]], Sequence[Message]]) -> dict[str, int]:
        """Take in what is new. Returns the lines that were skipped, by reason."""
        self.read_at = time.monotonic()
        self._signature = signature(self.path)
        self.problem = ""
        try:
            read = self._file.read(self._is_enough)
            if read.restarted or self.meta is None:
                self._read_meta()
        except OSError as exc:
            self.problem = f"cannot be read: {exc.strerror or exc}"
            self._signature = None
            self._file.restart()
            return {}
        before, turn = self.rollout.messages, self.rollout.turn
        if read.restarted:
            self.rollout = Rollout(self._keep)
        for record in read.records:
            self.rollout.add(record)
        if read.restarted and not read.is_whole:
            self.rollout.assume_turn()
        if self.rollout.turn != turn:
            self.was_open = read.restarted
        self.rollout.trim()
        if self.rollout.is_short:
            self._file.restart()
        if self.rollout.is_short or read.has_more:
            self._signature = None
        if self.rollout.messages != before:
            self.messages = tuple(redact(self.rollout.messages))
            self.version += 1
        return read.skipped

    def is_cut_off(self, writer: Writer) -> bool:
        """Whether the open turn belongs to an earlier process than `writer`, which does not continue it.

        Codex does not write the end of a killed process's turn, also not when the session is resumed. The times are
        compared only for a turn that was open when the file was first read: the clock can be set during a turn.
        """
        turn, process = self.rollout.turn, (writer.pid, writer.ticks)
        if turn != self.seen_turn:
            self.seen_turn = turn
            self.seen_writer = None if self.was_open and self.is_older_than(writer) else process
        return turn is not None and self.seen_writer != process

    def is_older_than(self, writer: Writer) -> bool:
        """Whether the open turn began before `writer` started."""
        turn = self.rollout.turn
        return turn is not None and 0 < turn.started_at < writer.started_at - TURN_CLOCK_S

    def _read_meta(self) -> None:
        self.meta = None
        try:
            self.meta = read_meta(self.path, self._owner)
        except ValueError as exc:
            self.problem = str(exc)

    def _is_enough(self, records: list[Record]) -> bool:
        return folded(records, self._keep).is_enough


class Threads:
    """The threads below `folder` that are open; if none is, those that were touched last."""

    def __init__(
        self,
        folder: Path,
        *,
        owner: int,
        keep: int,
        redact: Callable[[Sequence[Message]], Sequence[Message]] = tuple,
        skipped: Metric | None = None,
    ) -> None:
        self._folder = folder
        self._owner = owner
        self._keep = keep
        self._redact = redact
        self._counter = skipped
        self._files = RolloutFiles(folder / "sessions")
        self._followed: dict[Path, _Followed] = {}
        self._skipped: dict[str, int] = {}
        self._programs: list[Writer] = []
        self._programs_at = float("-inf")

    def look(self) -> Look:
        held = writers(self._folder, self._owner)
        open_threads = dict(list((held or {}).items())[:THREADS_MAX])
        paths = {thread: self._files.of_thread(thread, self._owner) for thread in open_threads}
        followed = {thread: self._follow(path) for thread, path in paths.items() if path is not None}
        others = []
        if not open_threads:
            max_age_s = PROGRAMS_S if held is None else 60.0
            others = [self._follow(path) for path in self._files.newest(OPEN_MAX, max_age_s=max_age_s)]
        self._followed = {one.path: one for one in (*followed.values(), *others)}
        self._read()
        threads = [
            self._thread(followed[thread], thread, writer)
            if thread in followed
            else Thread(thread, None, writer)
            for thread, writer in open_threads.items()
        ]
        has_locks = held is not None
        threads += [
            self._thread(one, "", None if has_locks else self._program(one), has_locks=has_locks)
            for one in others
        ]
        return Look(
            tuple(threads),
            has_locks,
            self._files.count,
            socket_of(self._folder, self._owner) if open_threads else None,
            dict(self._skipped),
            self._owner_of_folder(),
        )

    def _owner_of_folder(self) -> int:
        try:
            return self._folder.stat().st_uid
        except OSError:
            return -1

    def _follow(self, path: Path) -> _Followed:
        return self._followed.get(path) or _Followed(path, self._owner, self._keep)

    def _read(self) -> None:
        """Read what changed, the file that was not read for longest first, within the limits of one look."""
        ends_at, left = time.monotonic() + READ_MAX_S, READ_MAX_BYTES
        opened = 0
        for one in sorted(self._followed.values(), key=lambda one: one.read_at):
            new = one.changed_bytes()
            if not new:
                continue
            if opened and (opened >= OPEN_MAX or new > left or time.monotonic() > ends_at):
                break
            opened, left = opened + 1, left - new
            for reason, count in one.read(self._redact).items():
                self._skipped[reason] = self._skipped.get(reason, 0) + count
                if self._counter is not None:
                    self._counter.inc(count, kind=KIND, reason=reason)

    def _program(self, one: _Followed) -> Writer | None:
        """Where the locks cannot be read: a process of Codex that may write this file, because it is not newer."""
        now = time.monotonic()
        if now - self._programs_at >= PROGRAMS_S:
            self._programs, self._programs_at = programs(self._owner), now
        found = signature(one.path)
        changed_at = found.changed_ns / 1e9 if found else 0.0
        older = [writer for writer in self._programs if writer.started_at <= changed_at + TURN_CLOCK_S]
        return min(older, key=lambda writer: writer.started_at, default=None)

    def _thread(
        self, one: _Followed, thread: str, writer: Writer | None, *, has_locks: bool = True
    ) -> Thread:
        rollout, meta, problem = one.rollout, one.meta, one.problem
        if meta and thread and meta.thread != thread:
            meta, problem = None, "its first record describes another thread"
        turn = rollout.turn
        turn_at, ending = turn.started_at if turn else None, rollout.ending
        if turn is not None and writer is None:
            turn_at, ending = None, "the turn was cut off: no process has the thread open"
        elif writer is not None and (one.is_cut_off(writer) if has_locks else one.is_older_than(writer)):
            turn_at, ending = None, "the turn was cut off: its process has ended"
        return Thread(
            thread or (meta.thread if meta else ""),
            meta,
            writer,
            rollout.directory or (meta.directory if meta else ""),
            rollout.prompted_at,
            one.messages,
            one.version,
            turn_at,
            ending,
            rollout.question,
            problem,
            is_read=one.read_at > 0,
        )
