"""The daemon's life: start, run every room as a named task, and one shutdown inside one deadline.

Nothing here exits the process or handles signals; `cli/run.py` does and calls `stop`, `hurry` and `reload`.
"""

import asyncio
import importlib
from collections.abc import Callable, Coroutine
from typing import Any

from agentd import log
from agentd.clock import Clock
from agentd.config import Config
from agentd.daemon import orphans, views
from agentd.daemon.budget import (
    CLOSING_S,
    LAST_WORD_MAX_S,
    REFRESH_MAX_S,
    disk_s,
    last_word_s,
    refresh_s,
)
from agentd.daemon.build import Rooms
from agentd.daemon.ending import deliver_and_end_agent
from agentd.daemon.phase import Phase
from agentd.errors import ConfigError, ExitCode, PeerError
from agentd.local_api.server import LocalApi
from agentd.sdnotify import Notifier, watchdog_interval_s
from agentd.snapshots.receipts import Receipt

CLAIM_LISTENER = "claim listener"
OCCASION_HOOKS = "occasion hooks"
APP_STATUS = "app status"
LOADED_LATE = ("agentd.coderd.stream_transport", "httpx_sse", "agentd.retry")
"""A seventh of the start, and no question to the local API needs them. They are imported by those who use them."""

Forever = Callable[[], Coroutine[Any, Any, None]]

STOP_MARGIN_S = 5.0
"""What systemd should allow beyond the budget before it kills: the interpreter's own end, on a busy machine."""


class Daemon:
    """One run of `agentd run`. Build it with furnished rooms, await `run()` once."""

    def __init__(self, rooms: Rooms, *, notifier: Notifier, read_config: Callable[[], Config]) -> None:
        self._rooms = rooms
        self._clock: Clock = rooms.clock
        self._notifier = notifier
        self._read_config = read_config
        self._log = log.get("daemon")
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reason = ""
        self._deadline = float("inf")
        self._receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._failed = False
        self._api = LocalApi(
            socket_path=rooms.config.local_api.socket,
            listen=rooms.config.local_api.listen,
            proxies=rooms.config.local_api.allowed_hosts,
            operations=views.operations(
                rooms, stop=self._stop_and_report, snapshot=self._snapshot_now, payload=self._payload_now
            ),
        )

    async def run(self) -> ExitCode:
        """Run until `stop()` or a fault; returns 0, 75 (a snapshot is kept undelivered) or 1 (a task failed).

        Raises `StateError` or `ConfigError` when the local API cannot listen.
        """
        await self._api.start()
        self._rooms.on_change.append(self._api.feed.changed)
        self._rooms.last_stop.complain()
        self._rooms.last_stop.running()
        self._notifier.send(READY=1, STATUS="running")
        self._log.info("agentd.started", **self._rooms.facts())
        await asyncio.to_thread(_load_late)
        tasks = [asyncio.create_task(run(), name=name) for name, run in self._forever().items()]
        for task in tasks:
            task.add_done_callback(self._on_task_end)
        await self._stopping.wait()
        keep, last_stop = self._rooms.spool.in_thread, self._rooms.last_stop
        await keep(last_stop.stopping, self._reason, self._rooms.config.shutdown.budget_s)
        receipt = await self._shut_down(tasks)
        await keep(last_stop.stopped, str(receipt.outcome))
        self._receipt.set_result(receipt)
        await self._api.close()
        self._notifier.close()
        if self._failed:
            return ExitCode.FAILED
        return ExitCode.PENDING if receipt.outcome == "pending" else ExitCode.OK

    def stop(self, reason: str) -> None:
        """Start the shutdown; its deadline counts from here. Further calls change nothing."""
        if self._stopping.is_set():
            return
        self._reason = reason
        self._rooms.phase = Phase.STOPPING
        budget_s = self._rooms.config.shutdown.budget_s
        self._deadline = self._clock.monotonic() + budget_s
        # A budget above the unit's TimeoutStopSec would end in SIGKILL; asking for less than that changes nothing.
        extend_usec = int((budget_s + STOP_MARGIN_S) * 1_000_000)
        self._notifier.send(STOPPING=1, STATUS=f"stopping: {reason}", EXTEND_TIMEOUT_USEC=extend_usec)
        self._log.info("agentd.stopping", reason=reason, budget_s=budget_s)
        self._stopping.set()

    def hurry(self) -> None:
        """Skip what the shutdown waits for: the snapshot stays in the spool."""
        if not self._hurry.is_set():
            self._log.warning("agentd.hurried", kept="whatever is not delivered stays in the spool")
            self._hurry.set()

    async def reload(self) -> None:
        """SIGHUP: read the token and the configuration again; a wrong configuration changes nothing."""
        # The time tells systemd this reload from an earlier one (sd_notify(3), Type=notify-reload).
        self._notifier.send(RELOADING=1, MONOTONIC_USEC=int(self._clock.monotonic() * 1_000_000))
        try:
            await self._reconfigure()
        finally:
            self._notifier.send(READY=1)

    async def _reconfigure(self) -> None:
        try:
            fresh = self._read_config()
            fresh.require_coder()
            restart = await self._rooms.reconfigure(fresh)
        except (ConfigError, PeerError) as exc:
            self._log.error("config.rejected", error=str(exc), kept="the configuration in force")
            return
        self._log.info("config.reloaded", needs_restart=restart or None)

    def _forever(self) -> dict[str, Forever]:
        rooms = self._rooms
        tasks: dict[str, Forever] = {
            "agent watcher": rooms.watcher.run,
            "snapshot recorder": rooms.recorder.run,
            "snapshot delivery": rooms.delivery.run,
            "quiet agent": rooms.keep_when_quiet,
        }
        tasks["task desk"] = rooms.desk.run
        tasks[OCCASION_HOOKS] = rooms.occasions.run
        if rooms.telling is not None:
            tasks[APP_STATUS] = rooms.telling.run
        if rooms.listener is not None:
            tasks[CLAIM_LISTENER] = rooms.listener.run
        if orphans.are_ours():
            tasks["orphan reaper"] = orphans.Reaper(self._clock).run
        if watchdog_interval_s() is not None:
            tasks["watchdog"] = self._feed_watchdog
        return tasks

    def _on_task_end(self, task: "asyncio.Task[None]") -> None:
        if self._stopping.is_set() or task.cancelled():
            return
        # A forever-task that returns is as much a fault as one that raises: a room has gone dark.
        error = task.exception()
        self._failed = True
        self._log.error(
            "agentd.task_failed", task=task.get_name(), exc_info=error, error=str(error or "it returned")
        )
        self.stop(f"{task.get_name()} failed")

    async def _shut_down(self, tasks: "list[asyncio.Task[None]]") -> Receipt:
        """End the claim stream and its hook; meanwhile read the agent once more, write, deliver. Inside the deadline."""
        rooms, left_s = self._rooms, self._left_s()
        claims = _named(tasks, CLAIM_LISTENER)
        ending_claims = asyncio.create_task(_cancelled(claims), name="end of claims")
        on_stop = asyncio.create_task(
            self._unless_hurried(self._on_stop_hooks(_named(tasks, OCCASION_HOOKS))), name="on-stop hooks"
        )
        await self._unless_hurried(rooms.last_look(refresh_s(left_s)))
        entry = await rooms.recorder.flush_to_disk(disk_s(left_s))
        rooms.phase = Phase.DELIVERING
        kept_back_s = last_word_s(left_s) if rooms.telling is not None else 0.0
        delivered_by = self._deadline - CLOSING_S - kept_back_s
        await self._unless_hurried(deliver_and_end_agent(rooms, entry, delivered_by))
        if self._hurry.is_set():
            for task in claims:
                task.cancel()  # a second time: its hook gets no more grace
        await self._unless_hurried(self._last_word(_named(tasks, APP_STATUS)))
        await ending_claims
        await on_stop
        await _cancelled(tasks)
        await rooms.desk.keep()
        receipt = rooms.delivery.receipt()
        self._log.info("agentd.stopped", **receipt.as_json())
        return receipt

    async def _on_stop_hooks(self, running: "list[asyncio.Task[None]]") -> None:
        """Beside the delivery, and not a moment beyond the budget."""
        await _cancelled(running)
        await self._rooms.occasions.stop(self._left_s())

    async def _last_word(self, running: "list[asyncio.Task[None]]") -> None:
        """Leave no spinner behind in coderd, now that the conversation is safe."""
        await _cancelled(running)
        if self._rooms.telling is not None and (left_s := self._left_s()) > 0:
            await self._rooms.telling.last_word(timeout_s=min(LAST_WORD_MAX_S, left_s))

    def _left_s(self) -> float:
        return max(0.0, self._deadline - CLOSING_S - self._clock.monotonic())

    async def _unless_hurried(self, work: Coroutine[Any, Any, object]) -> None:
        """Do `work`, or as much of it as there is time for before a second signal."""
        working = asyncio.create_task(work, name="shutdown")
        hurried = asyncio.create_task(self._hurry.wait(), name="second signal")
        await asyncio.wait({working, hurried}, return_when=asyncio.FIRST_COMPLETED)
        await _cancelled([hurried, *([] if working.done() else [working])])
        if working.done() and not working.cancelled() and (error := working.exception()) is not None:
            self._failed = True
            self._log.error("agentd.stop_step_failed", exc_info=error)

    async def _stop_and_report(self) -> dict[str, Any]:
        self.stop("asked over the local API")
        receipt = await asyncio.shield(self._receipt)
        return receipt.as_json()

    async def _snapshot_now(self) -> dict[str, Any]:
        budget_s = self._rooms.config.shutdown.budget_s
        deadline = self._clock.monotonic() + budget_s
        await self._rooms.last_look(refresh_s(budget_s))
        await self._rooms.recorder.capture()
        return (await self._rooms.delivery.flush(deadline)).as_json()

    async def _payload_now(self) -> bytes | None:
        await self._rooms.last_look(REFRESH_MAX_S)
        entry = await self._rooms.recorder.capture()
        return entry.payload if entry else None

    async def _feed_watchdog(self) -> None:
        """Fed from this loop and the state directory only: a coderd outage must not restart the fleet."""
        interval_s = watchdog_interval_s() or 1.0
        while True:
            if self._rooms.state.writable():
                self._notifier.send(WATCHDOG=1)
            await self._clock.sleep(interval_s)


def _load_late() -> None:
    """Beside the loop, which answers meanwhile; and now, because a stop must not depend on the disk they come from."""
    for name in LOADED_LATE:
        importlib.import_module(name)


def _named(tasks: "list[asyncio.Task[None]]", name: str) -> "list[asyncio.Task[None]]":
    return [task for task in tasks if task.get_name() == name]


async def _cancelled(tasks: "list[Any]") -> None:
    """Cancel `tasks` and wait until they are gone. What one of them failed of was said when it failed."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
