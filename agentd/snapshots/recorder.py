"""Keeps the window of newest messages and has it on disk soon: at once when the agent settles, else every checkpoint.

Offers are cheap and happen in the event loop; fitting and writing happen in the spool's thread.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from agentd import log
from agentd.clock import Clock, rfc3339
from agentd.conversation.fit import fit, messages_of
from agentd.conversation.message import Message
from agentd.conversation.window import Window
from agentd.metrics import Registry
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.spool import Spool

_RETRY_MIN_S: Final = 1.0


class Recorder:
    """The snapshot of one task while its agent lives. `task_id` may be "": then it is kept for reading back.

    `checkpoint_s` bounds how old the spool is while messages change; `on_spooled` is called in the event loop with
    each new snapshot, also with one that the disk did not take (it can still be delivered from memory). `redact` takes
    out what must not leave this machine; nothing that it removes reaches the disk.
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
        on_spooled: Callable[[SpoolEntry], None],
        redact: Callable[[Iterable[Message]], Iterable[Message]] | None = None,
    ) -> None:
        self._spool = spool
        self._task_id = task_id
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._checkpoint_s = checkpoint_s
        self._clock = clock
        self._on_spooled = on_spooled
        self._redact = redact
        self._writes = metrics.counter(
            "agentd_snapshot_writes_total", "Snapshots written to disk.", "outcome"
        )
        self._log = log.get("snapshots")
        held = spool.get(task_id)
        # A cut snapshot may hold no word of the user's any more: it comes out of a conversation nevertheless.
        self._window = Window(
            max_messages,
            messages_of(held.payload) if held else (),
            talked=held is not None and held.truncated,
        )
        self._written = (task_id, self._window.messages)
        self._changed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._tried_at = float("-inf")
        self._failures = 0
        self._failing_with = ""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The window, oldest first: what a user last saw."""
        return self._window.messages

    def record_messages(self, messages: Sequence[Message]) -> None:
        """Record the newest messages, oldest first, as just read from the agent."""
        self._note(self._window.offer(messages))

    def merge_state_file(self, messages: Sequence[Message]) -> bool:
        """What AgentAPI saved before it went; counts only where it is later. True when the window changed."""
        return self._note(self._window.offer_saved(messages))

    def set_task(self, task_id: str) -> None:
        """The conversation belongs to another task from now on: a claim gave the workspace its task, say."""
        if task_id != self._task_id:
            self._task_id = task_id
            self._changed.set()

    async def flush_to_disk(self) -> SpoolEntry | None:
        """The agent has settled: have the window on disk now.

        Returns the task's snapshot, None when nobody has said anything. `durable` is False on it when the disk did
        not take it; that is logged, counted and tried again at the next checkpoint.
        """
        return await self._write()

    async def run(self) -> None:
        """Write while the window changes, at most every `checkpoint_s`. Runs until cancelled."""
        while True:
            await self._changed.wait()
            await self._clock.sleep(max(0.0, self._tried_at + self._pause_s() - self._clock.monotonic()))
            await self._write()

    def _note(self, changed: bool) -> bool:
        if changed:
            self._changed.set()
        return changed

    def _pause_s(self) -> float:
        return max(self._checkpoint_s, _RETRY_MIN_S) if self._failures else self._checkpoint_s

    async def _write(self) -> SpoolEntry | None:
        async with self._one_at_a_time:
            task_id, window = self._task_id, self._window.messages
            before = self._spool.get(task_id)
            self._changed.clear()
            if not window or (self._written == (task_id, window) and (before is None or before.durable)):
                return before
            self._tried_at = self._clock.monotonic()
            try:
                await self._spool.in_thread(self._fit_and_put, task_id, window)
            except OSError as error:
                self._changed.set()
                self._failed(error)
            else:
                self._written = (task_id, window)
                self._succeeded()
            entry = self._spool.get(task_id)
            if entry is not None and (before is None or entry.serial != before.serial):
                self._on_spooled(entry)
            return entry

    def _fit_and_put(self, task_id: str, window: tuple[Message, ...]) -> None:
        messages = window if self._redact is None else self._redact(window)
        fitted = fit(messages, max_messages=self._max_messages, max_bytes=self._max_bytes)
        self._spool.put(task_id, fitted, captured_at=rfc3339(self._clock.wall()))

    def _failed(self, error: OSError) -> None:
        self._writes.inc(outcome="failed")
        self._failures += 1
        reason = error.strerror or str(error)
        if reason != self._failing_with:
            self._failing_with = reason
            self._log.error(
                "spool.write_failed",
                reason=reason,
                path=str(self._spool.path),
                kept="the snapshot before stays on disk, the new one in memory",
                retry_in_s=self._pause_s(),
            )

    def _succeeded(self) -> None:
        self._writes.inc(outcome="written")
        if self._failures:
            self._log.info("spool.write_restored", failures=self._failures)
        self._failures, self._failing_with = 0, ""
