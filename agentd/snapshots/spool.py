"""The spool: a directory with the newest snapshot of each task.

A change is in memory at once, from where a snapshot can be delivered, and a thread of the spool writes it to disk
(write-behind). No lock is held during a call to the disk, so a hung disk delays no other method.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from agentd import log
from agentd.conversation.fit import Fitted
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.receipts import DestinationReceipt
from agentd.snapshots.spool_files import SpoolFiles
from agentd.worker_thread import WorkerThread

MAX_TASKS: Final = 16
"""Tasks whose newest snapshot is kept. A workspace has one task at a time; a volume can outlive tasks."""
CLOSE_TIMEOUT_S: Final = 2.0
"""Seconds that `close` waits for a running write."""

T = TypeVar("T")


class Spool:
    """The snapshots in memory and their files. Task id "" stands for "no task".

    Memory holds at most `MAX_TASKS` payloads, plus those that are not written yet. The constructor reads the files of an
    earlier run: it blocks on the disk, and raises `StateError` if the directory is unusable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = SpoolFiles(path)
        # Copied at each change, so that both threads can read it without the lock.
        self._entries = {entry.task_id: entry for entry in self._files.load()}
        self._changing = threading.Lock()
        self._queued_write: Future[OSError | None] | None = None
        self.disk = WorkerThread("agentd-disk")
        """The thread for blocking calls in the state directory: its disk may hang."""
        self._log = log.get("snapshots")

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a blocking `call` in the spool's thread, after the writes that are queued there."""
        return await self.disk.run(call)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Wait for the queued writes, at most `timeout_s`. False if the disk does not answer; that is logged.

        A write that hangs does not keep the process from ending.
        """
        finished = self.disk.close(timeout_s)
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
            receipts = {**current.receipts, receipt.name: receipt}
            return self._set(replace(current, receipts=receipts, durable=False))

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
                self._queued_write = self.disk.submit(self._write_entries)
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
        for task_id in [entry.task_id for entry in reversed(self.entries())]:
            entry = self.get(task_id)  # it may have been replaced or evicted since
            if entry is not None and not entry.durable:
                try:
                    self._write(entry)
                except OSError as exc:
                    failure = failure or exc
        return failure

    def _write(self, entry: SpoolEntry) -> None:
        """Raise `OSError` if the disk did not accept it."""
        self._evict_one_task(entry.task_id)
        self._files.write(entry)
        with self._changing:
            if self.get(entry.task_id) is entry:
                self._set(replace(entry, durable=True))

    def _evict_one_task(self, written: str) -> None:
        """If there are more than `MAX_TASKS` tasks, delete one other than `written`: a delivered one, or the oldest."""
        others = [entry for entry in self._entries.values() if entry.task_id != written]
        if len(others) < MAX_TASKS:
            return
        victim = min(others, key=lambda entry: (not _delivered_anywhere(entry), entry.serial))
        self._files.delete(victim.task_id)
        with self._changing:
            self._entries = {key: entry for key, entry in self._entries.items() if entry is not victim}
        self._log.warning(
            "spool.dropped",
            task_id=victim.task_id,
            captured_at=victim.captured_at,
            delivered=_delivered_anywhere(victim),
            reason=f"more than {MAX_TASKS} tasks",
        )


def _delivered_anywhere(entry: SpoolEntry) -> bool:
    return any(entry.delivered_to(name) for name in entry.receipts)
