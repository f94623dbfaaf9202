"""One run of the daemon: start, run the tasks, reload, and stop by `shutdown.py`.

Nothing here exits the process or handles signals; `cli/run.py` does, and calls `stop`, `skip_waiting` and `reload`.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from agentd import __version__, log
from agentd.clock import SameMoment
from agentd.config import Config
from agentd.daemon.build import Components, check
from agentd.daemon.input import Input
from agentd.daemon.orphans import Reaper
from agentd.daemon.reload import reload_config
from agentd.daemon.shutdown import FINAL_READ_MAX_S, RunningTasks, final_read_s
from agentd.daemon.views import Views
from agentd.errors import ExitCode
from agentd.local_api.server import LocalApi, Operations
from agentd.restarting import start
from agentd.sdnotify import Notifier, watchdog_interval_s
from agentd.snapshots.receipts import Receipt
from agentd.startup import load_late_modules

STOP_MARGIN_S: Final = 5.0
"""Time beyond the budget that systemd is asked for before it kills: the end of the interpreter, on a busy machine."""
START_RECORD_TIMEOUT_S: Final = 1.0


class Daemon:
    """One run of `agentd run`. Await `run()` once."""

    def __init__(
        self, components: Components, *, notifier: Notifier, read_config: Callable[[], Config]
    ) -> None:
        self._components = components
        self._clock = components.clock
        self._shutdown = components.shutdown
        self._notifier = notifier
        self._read_config = read_config
        self._config = components.config
        self._views = _views(components)
        self._views.register_gauges()
        self._log = log.get("daemon")
        self._receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        settings = components.config.local_api
        self._api = LocalApi(
            socket_path=settings.socket,
            listen=settings.listen,
            proxies=settings.allowed_hosts,
            operations=self._operations(),
        )
        components.watcher.status_changed.add(lambda _change: self._api.feed.changed())
        components.task_reports.changed.add(lambda _report: self._api.feed.changed())

    async def run(self) -> ExitCode:
        """Run until `stop()`; returns 0, 75 (a snapshot is kept undelivered) or 1 (a step of the stop failed).

        Raises `StateError` or `ConfigError` if the local API cannot listen.
        """
        await self._api.start()
        if self._components.hook_socket is not None:
            self._components.hook_socket.open()
        self._components.last_stop.warn_if_killed(self._components.delivery.receipt())
        await self._components.last_stop.running(timeout_s=START_RECORD_TIMEOUT_S)
        self._notifier.send(READY=1, STATUS="running")
        config = self._components.config
        self._log.info(
            "agentd.started",
            version=__version__,
            pid=os.getpid(),
            state_dir=str(config.state.dir),
            socket=str(config.local_api.socket),
            coder_url=config.coder.url,
            agentapi_url=config.agentapi.url,
        )
        # The modules come from a disk that may hang, and a stop must be possible nevertheless.
        starting = asyncio.create_task(asyncio.to_thread(load_late_modules), name="start")
        stopping = asyncio.create_task(self._shutdown.begun.wait(), name="stop requested")
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        tasks = None if stopping.done() else self._start_tasks()
        await stopping
        receipt = await self._shutdown.run(tasks)
        self._receipt.set_result(receipt)
        if self._components.hook_socket is not None:
            self._components.hook_socket.close()
        await self._api.close()
        self._notifier.close()
        if self._shutdown.step_failed:
            return ExitCode.FAILED
        return ExitCode.PENDING if receipt.outcome == "pending" else ExitCode.OK

    def stop(self, reason: str) -> None:
        """Start the shutdown. Its deadline counts from the first call; further calls change nothing."""
        if not self._shutdown.begin(reason):
            return
        self._components.task_view.is_stopping = True
        budget_s = self._components.config.shutdown.budget_s
        # A budget above the unit's TimeoutStopSec would end in SIGKILL. A shorter extension than that has no effect.
        extend_usec = int((budget_s + STOP_MARGIN_S) * 1_000_000)
        self._notifier.send(STOPPING=1, STATUS=f"stopping: {reason}", EXTEND_TIMEOUT_USEC=extend_usec)
        self._log.info("agentd.stopping", reason=reason, budget_s=budget_s)

    def skip_waiting(self) -> None:
        """Skip what the shutdown waits for. An undelivered snapshot stays in the spool."""
        self._shutdown.skip_waiting()

    async def reload(self) -> None:
        """SIGHUP: read the token and the configuration again. An invalid configuration changes nothing."""
        parts = self._components
        # The time distinguishes this reload from an earlier one (sd_notify(3), Type=notify-reload).
        self._notifier.send(RELOADING=1, MONOTONIC_USEC=int(self._clock.monotonic() * 1_000_000))
        self._config = await reload_config(
            self._config,
            read_config=self._read_config,
            check=lambda config: check(config, self._clock),
            token=parts.token,
            headers=parts.headers,
            listener=parts.listener,
            recorder=parts.recorder,
        )
        self._notifier.send(READY=1)

    # Tasks.

    def _start_tasks(self) -> RunningTasks:
        parts = self._components
        others = [
            self._task("snapshot recorder", parts.recorder.run),
            self._task("snapshot delivery", parts.delivery.run),
            self._task("snapshot at settle", parts.snapshot_due.run),
            self._task("task reports", parts.task_reports.run),
        ]
        if os.getpid() == 1:  # of its PID namespace: it inherits orphans
            others.append(self._task("orphan reaper", Reaper(self._clock).run))
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            others.append(self._task("watchdog", partial(self._feed_watchdog, interval_s)))
        return RunningTasks(
            watcher=self._task("agent watcher", parts.watcher.run),
            claims=self._task("claim listener", parts.listener.run) if parts.listener else None,
            hooks=self._task("event hooks", parts.hooks.run),
            app_status=self._task("app status", parts.reporter.run) if parts.reporter else None,
            others=others,
        )

    def _task(self, name: str, run: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
        return start(name, run, self._clock)

    async def _feed_watchdog(self, interval_s: float) -> None:
        """Tell systemd that the event loop and the state directory work. A coderd outage restarts no daemon."""
        while True:
            if await self._components.state.is_writable(self._components.spool.disk):
                self._notifier.send(WATCHDOG=1)
            await self._clock.sleep(interval_s)

    # What the local API answers.

    def _operations(self) -> Operations:
        views, parts = self._views, self._components
        input_ = Input(
            parts.agent, parts.watcher, parts.tracker, parts.task_reports, parts.task_view, asyncio.Lock()
        )
        return Operations(
            healthy=views.healthy,
            ready=views.ready,
            metrics=views.metrics,
            status=views.status,
            claims=views.claims,
            retry_claim=views.retry_claim,
            forget_claim=views.forget_claim,
            snapshot=self._snapshot_now,
            payload=self._payload_now,
            messages=views.messages,
            send=input_.send,
            report=input_.report,
            event=input_.event,
            drill=self._drill,
            stop=self._stop_and_wait,
        )

    async def _stop_and_wait(self) -> dict[str, Any]:
        self.stop("asked over the local API")
        receipt = await asyncio.shield(self._receipt)
        return receipt.as_json()

    async def _snapshot_now(self) -> dict[str, Any]:
        budget_s = self._components.config.shutdown.budget_s
        deadline = self._clock.monotonic() + budget_s
        await self._components.final_snapshot.capture(final_read_s(budget_s))
        return (await self._components.delivery.flush(deadline)).as_json()

    async def _payload_now(self) -> bytes | None:
        captured = await self._components.final_snapshot.capture(FINAL_READ_MAX_S)
        return captured.entry.payload if captured.entry else None

    async def _drill(self) -> dict[str, Any]:
        return await self._components.drill().run()


def _views(parts: Components) -> Views:
    return Views(
        registry=parts.metrics,
        state=parts.state,
        tracker=parts.tracker,
        agent=parts.agent,
        watcher=parts.watcher,
        task_view=parts.task_view,
        ledger=parts.ledger,
        listener=parts.listener,
        spool=parts.spool,
        recorder=parts.recorder,
        delivery=parts.delivery,
        last_stop=parts.last_stop,
        phase=lambda: parts.shutdown.phase,
        stall_note=lambda: parts.reporter.stall_note if parts.reporter else "",
        keep_messages=parts.config.snapshots.max_messages,
        started_at=parts.clock.wall(),
        agent_since=SameMoment(parts.clock),
    )
