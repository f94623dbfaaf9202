"""The newest snapshot of each task, on disk, whatever happens to the process or the machine.

At any instant the file of a task holds the old snapshot or the new one, whole (`durable`); a test kills a process at
every system call of a write.

One instance owns the directory (the state directory's lock). Methods that write block on the disk: call them through
`in_thread`. Reading answers from memory, which holds at most `MAX_TASKS` payloads.
"""

import asyncio
import contextlib
import os
import re
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final, ParamSpec, Self, TypeVar

from agentd import log
from agentd.conversation.fit import Fitted
from agentd.durable import TMP_PREFIX, replace_file
from agentd.errors import StateError
from agentd.snapshots.entry import (
    FILE_MAX_BYTES,
    DamagedError,
    NewerSpoolSchemaError,
    SpoolEntry,
    decode,
    encode,
)
from agentd.snapshots.receipts import DestinationReceipt

MAX_TASKS: Final = 16
"""Tasks whose last snapshot is kept; a workspace has one at a time, more come from volumes that outlive tasks."""
MAX_QUARANTINED: Final = 8

_SUFFIX: Final = ".snapshot"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

P = ParamSpec("P")
T = TypeVar("T")


class Spool:
    """A directory of snapshots, one per task id; "" is a task id like any other and stands for "no task"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.quarantined = 0
        """Damaged files set aside since this instance opened the spool."""
        self._entries: dict[str, SpoolEntry] = {}  # replaced, never changed: other threads read it
        self._newer: dict[str, int] = {}
        self._writing = threading.Lock()
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agentd-spool")
        self._log = log.get("snapshots")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read what an earlier run left. Damaged files are set aside, newer ones left alone; both are logged.

        Raises `StateError` when the directory cannot be made or listed.
        """
        spool = cls(path)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = sorted(child.name for child in path.iterdir())
        except OSError as error:
            raise StateError(
                f"spool directory {path} is unusable: {error.strerror}",
                hint="give the user agentd runs as access to it, or set AGENTD_STATE_DIR",
            ) from error
        for name in names:
            if name.startswith(TMP_PREFIX):
                # Left by a write that a crash interrupted; the name it was meant for still holds the old snapshot.
                with contextlib.suppress(OSError):
                    (path / name).unlink()
            elif name.endswith(_SUFFIX):
                spool._read(name)
        return spool

    async def in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking `call` in the spool's own thread: a slow disk must not stall the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Let a running write end; take no more."""
        self._disk.shutdown(wait=True)

    # --- reading, from memory ---

    def get(self, task_id: str) -> SpoolEntry | None:
        """The newest snapshot of a task."""
        return self._entries.get(task_id)

    def entries(self) -> list[SpoolEntry]:
        """The newest snapshot of every task, oldest first."""
        return sorted(self._entries.values(), key=lambda entry: entry.serial)

    def newest(self) -> SpoolEntry | None:
        """The newest snapshot of all."""
        return max(self._entries.values(), key=lambda entry: entry.serial, default=None)

    # --- writing, in the spool's thread ---

    def put(self, task_id: str, fitted: Fitted, *, captured_at: str) -> SpoolEntry:
        """Make `fitted` the snapshot of its task; receipts start anew. The same payload again changes nothing.

        Raises `OSError` when the disk does not take it. The file then still holds the one before, and memory the new
        one with `durable=False`, so that it can be delivered nevertheless.
        """
        with self._writing:
            current, newest = self.get(task_id), self.newest()
            if current is not None and current.payload == fitted.payload:
                return current if current.durable else self._store(current)
            entry = SpoolEntry(
                task_id,
                fitted.payload,
                fitted.messages,
                fitted.truncated,
                captured_at,
                serial=newest.serial + 1 if newest else 1,
            )
            return self._store(entry)

    def mark(self, entry: SpoolEntry, receipt: DestinationReceipt) -> SpoolEntry | None:
        """Keep a destination's receipt with `entry`. None when a newer snapshot has taken its place meanwhile.

        Raises `OSError` like `put`; the receipt then counts until the process ends.
        """
        with self._writing:
            current = self._entries.get(entry.task_id)
            if current is None or current.serial != entry.serial:
                return None
            return self._store(current.with_receipt(receipt))

    def _store(self, entry: SpoolEntry) -> SpoolEntry:
        try:
            self._evict_one_task(entry.task_id)
            replace_file(self.path / _name(entry.task_id), encode(entry))
        except OSError:
            self._entries = {**self._entries, entry.task_id: replace(entry, durable=False)}
            raise
        entry = replace(entry, durable=True)
        self._entries = {**self._entries, entry.task_id: entry}
        return entry

    def _evict_one_task(self, task_id: str) -> None:
        """Set aside a newer agentd's file of that name, and drop the least useful task when there are too many."""
        name = _name(task_id)
        if name in self._newer:
            (self.path / name).replace(self.path / f"{name}.schema{self._newer.pop(name)}")
        if task_id in self._entries or len(self._entries) < MAX_TASKS:
            return
        victim = min(self._entries.values(), key=lambda entry: (not _delivered_anywhere(entry), entry.serial))
        (self.path / _name(victim.task_id)).unlink(missing_ok=True)
        self._entries = {key: entry for key, entry in self._entries.items() if entry is not victim}
        self._log.warning(
            "spool.dropped",
            task_id=victim.task_id,
            captured_at=victim.captured_at,
            delivered=_delivered_anywhere(victim),
            reason=f"more than {MAX_TASKS} tasks",
        )

    # --- opening ---

    def _read(self, name: str) -> None:
        try:
            entry = _read_entry(self.path / name)
        except DamagedError as error:
            self._quarantine(name, str(error))
        except NewerSpoolSchemaError as error:
            self._newer[name] = error.schema
            self._log.warning("spool.newer_schema", file=str(self.path / name), reason=str(error))
        except OSError as error:
            self._log.warning("spool.unreadable", file=str(self.path / name), reason=error.strerror)
        else:
            self._entries[entry.task_id] = entry

    def _quarantine(self, name: str, reason: str) -> None:
        """Keep the file for whoever wants to look, out of the way, and only the last few of them."""
        self.quarantined += 1
        folder = self.path / "quarantine"
        kept_as = folder / name
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            taken = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
            for path in taken[: max(0, len(taken) - MAX_QUARANTINED + 1)]:
                path.unlink()
            count = 0
            while kept_as.exists():
                count += 1
                kept_as = folder / f"{name}.{count}"
            (self.path / name).replace(kept_as)
        except OSError as error:
            kept_as = self.path / name
            reason = f"{reason}; it cannot be set aside: {error.strerror}"
        self._log.error("spool.quarantined", file=str(kept_as), reason=reason)


def read_without_lock(path: Path) -> tuple[list[SpoolEntry], list[str]]:
    """What lies in a spool, oldest first, and what is wrong with files that cannot be read. Changes and locks nothing.

    The daemon that owns it may write meanwhile: a file is then the old one or the new one, whole.
    """
    entries, wrong = [], []
    try:
        names = sorted(child.name for child in path.iterdir() if child.name.endswith(_SUFFIX))
    except OSError as error:
        return [], [f"{path}: {error.strerror}"]
    for name in names:
        if name.startswith(TMP_PREFIX):
            continue  # being written, or left by a crash in the middle of that
        try:
            entries.append(_read_entry(path / name))
        except FileNotFoundError:
            continue  # a task that has just been dropped
        except (DamagedError, NewerSpoolSchemaError) as error:
            wrong.append(f"{name}: {error}")
        except OSError as error:
            wrong.append(f"{name}: {error.strerror}")
    return sorted(entries, key=lambda entry: entry.serial), wrong


def _read_entry(path: Path) -> SpoolEntry:
    """Raises `DamagedError`, `NewerSpoolSchemaError` or `OSError`."""
    # O_NONBLOCK so that a pipe put there by someone cannot hold up the start.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise DamagedError("is no regular file")
        if info.st_size > FILE_MAX_BYTES:
            raise DamagedError(f"has {info.st_size} bytes")
        entry = decode(file.read(FILE_MAX_BYTES + 1))
    if _name(entry.task_id) != path.name:
        raise DamagedError(f"holds the snapshot of task {entry.task_id[:64]!r}")
    return entry


def _name(task_id: str) -> str:
    """The file name of a task; whatever the id is made of, it names a file in the spool and no other."""
    if not task_id:
        return f"no-task{_SUFFIX}"
    if _UUID.fullmatch(task_id):
        return task_id + _SUFFIX
    return f"task-{sha256(task_id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}{_SUFFIX}"


def _delivered_anywhere(entry: SpoolEntry) -> bool:
    return any(entry.delivered_to(name) for name in entry.receipts)
