"""Keeps the window of newest messages and stores it as snapshots: when the agent settles, else at each checkpoint.

Messages are recorded in the event loop, fitted in a thread, put in the spool's memory, and written by
the spool's thread. So a snapshot can be delivered while the disk hangs.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from agentd import log
from agentd.clock import Clock, rfc3339
from agentd.conversation.fit import Fitted, fit, messages_of
from agentd.conversation.message import Message
from agentd.conversation.window import Window
from agentd.metrics import Registry
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.spool import Spool
from agentd.subscribers import Subscribers

DISK_TIMEOUT_S: Final = 5.0
"""A write without an answer for so long counts as failed, and the recorder goes on without it."""

_RETRY_MIN_S: Final = 1.0


class Recorder:
    """The snapshot of one task while its agent runs. With `task_id` "" it is stored all the same, to be read back.

    `checkpoint_s` limits the age of the spool while messages change. `redact` removes secrets from the messages before
    they are fitted, so nothing that it removes reaches the disk. `captured` gets each new snapshot of the spool.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        task_id: str,
        max_messages: int,
        max_bytes: int,
        checkpoint_s: float,
        clock: Clock,
        metrics: Registry,
        redact: Callable[[Iterable[Message]], Iterable[Message]] | None = None,
    ) -> None:
        self.captured = Subscribers[SpoolEntry]()
        self._spool = spool
        self._task_id = task_id
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._checkpoint_s = checkpoint_s
        self._clock = clock
        self._redact = redact
        self._writes = metrics.counter(
            "agentd_snapshot_writes_total", "Snapshots written to disk.", "outcome"
        )
        self._log = log.get("snapshots")
        stored = spool.get(task_id)
        # A truncated snapshot may have lost its user messages; it belongs to a conversation nevertheless.
        held = tuple(self._messages_in(stored)) if stored else ()
        # An earlier run may have stored what is a secret today; the window is then fitted again.
        clean = held if redact is None else tuple(redact(held))
        self._window = Window(max_messages, clean, talked=stored is not None and stored.truncated)
        self._fitted = (task_id, self._window.messages if clean == held else ())
        self._written_serial = stored.serial if stored else 0
        self._fitting = asyncio.Lock()  # without it an older window could replace a newer one
        self._changed = asyncio.Event()
        self._tried_at = float("-inf")
        self._failures = 0
        self._failing_with = ""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The window, oldest first: what a user saw last."""
        return self._window.messages

    def record_messages(self, messages: Sequence[Message]) -> None:
        """Record the newest messages, oldest first, as just read from the agent."""
        if self._window.replace(messages):
            self._changed.set()

    def merge_saved(self, messages: Sequence[Message]) -> None:
        """Record what an agent that is gone saved to disk, if they are later than the window."""
        if self._window.merge_saved(messages):
            self._changed.set()

    def set_task(self, task_id: str) -> None:
        """Store the conversation under another task from now on, for example after a claim."""
        if task_id != self._task_id:
            self._task_id = task_id
            self._changed.set()

    async def capture(self) -> SpoolEntry | None:
        """Fit the window into a snapshot in the spool's memory and start to write it. Does not wait for the disk.

        The snapshot can be delivered from memory. Returns the task's newest snapshot, None without messages. May be
        cancelled: the window is then fitted at the next call.
        """
        entry = await self._fit_window()
        if entry is not None and not entry.durable:
            self._spool.start_write()
            self._changed.set()  # `run` checks the write
        return entry

    async def flush_to_disk(self, timeout_s: float = DISK_TIMEOUT_S) -> SpoolEntry | None:
        """Fit the window and wait until the snapshot is on disk, at most `timeout_s` for the disk.

        Returns the task's newest snapshot, None without messages. Its `durable` is False if the disk refused it or
        did not answer; that is logged, counted and retried at the next checkpoint.
        """
        entry = await self._fit_window()
        if entry is None:
            return None
        try:
            if not entry.durable:
                self._tried_at = self._clock.monotonic()
                await self._spool.flush_to_disk(timeout_s)
        except OSError as exc:
            self._failed(exc)
        else:
            self._succeeded(entry)
        return self._spool.get(entry.task_id) or entry

    async def run(self) -> None:
        """Write a checkpoint while the window changes, at most every `checkpoint_s`. Runs until cancelled."""
        while True:
            await self._changed.wait()
            await self._clock.sleep(max(0.0, self._tried_at + self._pause_s() - self._clock.monotonic()))
            await self.flush_to_disk()

    def _messages_in(self, stored: SpoolEntry) -> Sequence[Message]:
        try:
            return messages_of(stored.payload)
        except ValueError as exc:
            # Its checksum matches, so another program wrote it. It stays in the spool until the next snapshot.
            self._log.warning("snapshot.unreadable", task_id=stored.task_id, reason=str(exc))
            return ()

    async def _fit_window(self) -> SpoolEntry | None:
        """Bring the spool's memory up to date with the window; return the task's newest snapshot."""
        async with self._fitting:
            task_id, window = fitting = self._task_id, self._window.messages
            if window and fitting != self._fitted:
                self._tried_at = self._clock.monotonic()
                fitted = await asyncio.to_thread(self._fit, window)
                entry = self._spool.put(task_id, fitted, captured_at=rfc3339(self._clock.wall()))
                self.captured.notify(entry)
            self._fitted = fitting
            if fitting == (self._task_id, self._window.messages):
                self._changed.clear()
            return self._spool.get(task_id)

    def _fit(self, window: tuple[Message, ...]) -> Fitted:
        messages = window if self._redact is None else self._redact(window)
        return fit(messages, max_messages=self._max_messages, max_bytes=self._max_bytes)

    def _pause_s(self) -> float:
        return max(self._checkpoint_s, _RETRY_MIN_S) if self._failures else self._checkpoint_s

    def _failed(self, exc: OSError) -> None:
        self._changed.set()
        self._writes.inc(outcome="failed")
        self._failures += 1
        reason = exc.strerror or str(exc)
        if reason != self._failing_with:
            self._failing_with = reason
            self._log.error(
                "spool.write_failed",
                reason=reason,
                path=str(self._spool.path),
                kept="the previous snapshot stays on disk; the new one is only in memory",
                retry_in_s=self._pause_s(),
            )

    def _succeeded(self, entry: SpoolEntry) -> None:
        if self._failures:
            self._log.info("spool.write_restored", failures=self._failures)
        self._failures, self._failing_with = 0, ""
        if entry.serial > self._written_serial:
            self._written_serial = entry.serial
            self._writes.inc(outcome="written")
            self._log.debug(
                "snapshot.spooled",
                task_id=entry.task_id,
                messages=entry.messages,
                bytes=len(entry.payload),
                durable=True,
            )
