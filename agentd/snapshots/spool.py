"""The spool: a directory with the newest snapshot of each task.

A change is in memory at once, from where a snapshot can be delivered, and a thread of the spool writes it to disk
(write-behind). No lock is held during a call to the disk, so a hung disk delays no other method.

On disk, the file of a task always holds the old snapshot or the new one, whole: `durable` writes a temporary file, calls
fsync and renames it. A test kills a process at every system call of a write. One process owns the directory: it holds
the lock of the state directory.
"""

import asyncio
import contextlib
import errno
import os
import re
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final, Self, TypeVar

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
from agentd.worker_thread import WorkerThread

MAX_TASKS: Final = 16
"""Tasks whose newest snapshot is kept. A workspace has one task at a time; a volume can outlive tasks."""
MAX_QUARANTINED: Final = 8
"""Damaged files kept in `quarantine/`."""
CLOSE_TIMEOUT_S: Final = 2.0
"""Seconds that `close` waits for a running write."""

_SUFFIX: Final = ".snapshot"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

T = TypeVar("T")


class Spool:
    """The snapshots in memory and their files. Task id "" stands for "no task".

    Memory holds at most `MAX_TASKS` payloads, plus those that are not written yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.quarantined = 0
        """Damaged files moved to `quarantine/` by this process."""
        self._entries: dict[
            str, SpoolEntry
        ] = {}  # copied at each change: both threads read it without the lock
        self._changing = threading.Lock()
        self._newer_schemas: dict[str, int] = {}
        self._queued_write: Future[OSError | None] | None = None
        self._thread = WorkerThread("agentd-spool")
        self._log = log.get("snapshots")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the files of an earlier run. Blocks on the disk.

        Damaged files are moved to quarantine, files of a newer agentd are not touched; both are logged. Raises
        `StateError` if the directory cannot be created or listed.
        """
        spool = cls(path)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = sorted(child.name for child in path.iterdir())
        except OSError as exc:
            raise StateError(
                f"spool directory {path} is unusable: {exc.strerror}",
                hint="give agentd's user access to it, or set AGENTD_STATE_DIR",
            ) from exc
        for name in names:
            if name.startswith(TMP_PREFIX):
                # An interrupted write. The file that it was meant to replace still holds the old snapshot.
                with contextlib.suppress(OSError):
                    (path / name).unlink()
            elif name.endswith(_SUFFIX):
                spool._load(name)
        return spool

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a blocking `call` in the spool's thread, after the writes that are queued there."""
        return await self._thread.run(call)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Wait for the queued writes, at most `timeout_s`. False if the disk does not answer; that is logged.

        A write that hangs does not keep the process from ending.
        """
        finished = self._thread.close(timeout_s)
        if not finished:
            self._log.error(
                "spool.disk_hangs",
                path=str(self.path),
                waited_s=timeout_s,
                unwritten=sum(not entry.durable for entry in self._entries.values()),
            )
        return finished

    # --- reading, from memory ---

    def get(self, task_id: str) -> SpoolEntry | None:
        """Return the newest snapshot of a task."""
        return self._entries.get(task_id)

    def entries(self) -> list[SpoolEntry]:
        """Return the newest snapshot of every task, oldest first."""
        return sorted(self._entries.values(), key=lambda entry: entry.serial)

    def newest(self) -> SpoolEntry | None:
        """Return the newest snapshot of all tasks."""
        return max(self._entries.values(), key=lambda entry: entry.serial, default=None)

    # --- changing, in memory ---

    def put(self, task_id: str, fitted: Fitted, *, captured_at: str) -> SpoolEntry:
        """Make `fitted` the newest snapshot of its task, without receipts and not durable.

        Idempotent: if the payload is the same as before, nothing changes.
        """
        with self._changing:
            current, newest = self.get(task_id), self.newest()
            if current is not None and current.payload == fitted.payload:
                return current
            return self._set(
                SpoolEntry(
                    task_id,
                    fitted.payload,
                    fitted.messages,
                    fitted.truncated,
                    captured_at,
                    serial=newest.serial + 1 if newest else 1,
                    durable=False,
                )
            )

    def add_receipt(self, entry: SpoolEntry, receipt: DestinationReceipt) -> SpoolEntry | None:
        """Store a destination's receipt with `entry`, which is not durable then.

        Returns None if a newer snapshot has replaced `entry`.
        """
        with self._changing:
            current = self.get(entry.task_id)
            if current is None or current.serial != entry.serial:
                return None
            return self._set(replace(current.with_receipt(receipt), durable=False))

    def _set(self, entry: SpoolEntry) -> SpoolEntry:
        self._entries = {**self._entries, entry.task_id: entry}
        return entry

    # --- writing, in the spool's thread ---

    def start_write(self) -> "Future[OSError | None]":
        """Start to write every entry that is not durable, without waiting.

        Calls are coalesced until that write begins. Its result is the first error: the entry then stays in memory,
        its file holds the snapshot before, and the next write tries again.
        """
        with self._changing:
            if self._queued_write is None:
                self._queued_write = self._thread.submit(self._write_entries)
            return self._queued_write

    async def flush_to_disk(self, timeout_s: float) -> None:
        """Write every entry that is not durable and wait for it, at most `timeout_s`.

        Raises `OSError` if the disk refuses one, and `TimeoutError` if it does not answer; the write then goes on.
        """
        write = asyncio.wrap_future(self.start_write())
        try:
            async with asyncio.timeout(timeout_s):
                failure = await asyncio.shield(write)
        except TimeoutError as exc:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer from the disk within {timeout_s:g} s") from exc
        if failure is not None:
            raise failure

    def _write_entries(self) -> OSError | None:
        with self._changing:
            self._queued_write = None  # a change from here on needs another write
        failure: OSError | None = None
        for entry in reversed(self.entries()):
            if not entry.durable:
                try:
                    self._write(entry)
                except OSError as exc:
                    failure = failure or exc
        return failure

    def _write(self, entry: SpoolEntry) -> None:
        """Raise `OSError` if the disk did not accept it."""
        self._keep_newer_schema(_file_name(entry.task_id))
        self._evict_one_task(entry.task_id)
        replace_file(self.path / _file_name(entry.task_id), encode(entry))
        with self._changing:
            if self.get(entry.task_id) is entry:
                self._set(replace(entry, durable=True))

    def _keep_newer_schema(self, name: str) -> None:
        """Rename the file of a newer agentd instead of overwriting it."""
        if name in self._newer_schemas:
            (self.path / name).replace(self.path / f"{name}.schema{self._newer_schemas[name]}")
            del self._newer_schemas[name]

    def _evict_one_task(self, written: str) -> None:
        """If there are more than `MAX_TASKS` tasks, delete one other than `written`: a delivered one, or the oldest."""
        others = [entry for entry in self._entries.values() if entry.task_id != written]
        if len(others) < MAX_TASKS:
            return
        victim = min(others, key=lambda entry: (not _delivered_anywhere(entry), entry.serial))
        (self.path / _file_name(victim.task_id)).unlink(missing_ok=True)
        with self._changing:
            self._entries = {key: entry for key, entry in self._entries.items() if entry is not victim}
        self._log.warning(
            "spool.dropped",
            task_id=victim.task_id,
            captured_at=victim.captured_at,
            delivered=_delivered_anywhere(victim),
            reason=f"more than {MAX_TASKS} tasks",
        )

    # --- opening ---

    def _load(self, name: str) -> None:
        try:
            entry = read_entry(self.path / name)
        except DamagedError as exc:
            self._quarantine(name, str(exc))
        except NewerSpoolSchemaError as exc:
            self._newer_schemas[name] = exc.schema
            self._log.warning("spool.newer_schema", file=str(self.path / name), reason=str(exc))
        except OSError as exc:
            self._log.warning("spool.unreadable", file=str(self.path / name), reason=exc.strerror)
        else:
            self._set(entry)

    def _quarantine(self, name: str, reason: str) -> None:
        """Move a damaged file to `quarantine/`, which keeps the last `MAX_QUARANTINED` files for an operator."""
        self.quarantined += 1
        folder = self.path / "quarantine"
        kept_as = folder / name
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            present = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
            for path in present[: max(0, len(present) - MAX_QUARANTINED + 1)]:
                path.unlink()
            count = 0
            while kept_as.exists():
                count += 1
                kept_as = folder / f"{name}.{count}"
            (self.path / name).replace(kept_as)
        except OSError as exc:
            kept_as = self.path / name
            reason = f"{reason}; cannot move it to quarantine: {exc.strerror}"
        self._log.error("spool.quarantined", file=str(kept_as), reason=reason)


def read_without_lock(path: Path) -> tuple[list[SpoolEntry], list[str]]:
    """Read a spool directory: the entries, oldest first, and one line for each file that cannot be read.

    Changes nothing. A daemon that owns the directory may write meanwhile: each file then is the old one or the new one.
    """
    entries, wrong = [], []
    try:
        names = sorted(child.name for child in path.iterdir() if child.name.endswith(_SUFFIX))
    except OSError as exc:
        return [], [f"{path}: {exc.strerror}"]
    for name in names:
        if name.startswith(TMP_PREFIX):
            continue  # a running write, or one that a crash interrupted
        try:
            entries.append(read_entry(path / name))
        except FileNotFoundError:
            continue  # deleted by the daemon since the listing
        except (DamagedError, NewerSpoolSchemaError) as exc:
            wrong.append(f"{name}: {exc}")
        except OSError as exc:
            wrong.append(f"{name}: {exc.strerror}")
    return sorted(entries, key=lambda entry: entry.serial), wrong


def read_entry(path: Path) -> SpoolEntry:
    """Raise `DamagedError`, `NewerSpoolSchemaError` or `OSError`."""
    # O_NONBLOCK: to open a named pipe would otherwise block the start.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise DamagedError("not a regular file")
        if info.st_size > FILE_MAX_BYTES:
            raise DamagedError(f"too large: {info.st_size} bytes")
        entry = decode(file.read(FILE_MAX_BYTES + 1))
    if _file_name(entry.task_id) != path.name:
        raise DamagedError(f"holds the snapshot of task {entry.task_id[:64]!r}")
    return entry


def _file_name(task_id: str) -> str:
    """Return the file name of a task. No task id can name a file outside of the spool or another task's file."""
    if not task_id:
        return f"no-task{_SUFFIX}"
    if _UUID.fullmatch(task_id):
        return task_id + _SUFFIX
    return f"task-{sha256(task_id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}{_SUFFIX}"


def _delivered_anywhere(entry: SpoolEntry) -> bool:
    return any(entry.delivered_to(name) for name in entry.receipts)
