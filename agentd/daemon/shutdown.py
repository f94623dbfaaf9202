"""The shutdown: the whole order in `Shutdown.run`, under one deadline that counts from the signal.

A disk that hangs must not hold the stop. The final snapshot is fitted in memory and delivered from there; what else is
written to disk runs beside the delivery and is given up at the deadline.
"""

import asyncio
import enum
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from agentd import log
from agentd.agents.agent import Agent, CannotEndError
from agentd.clock import Clock
from agentd.daemon.last_stop import LastStop
from agentd.hooks.event_hooks import EventHooks
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.receipts import Receipt, SnapshotOutcome
from agentd.snapshots.recorder import Recorder
from agentd.stability.task_reports import TaskReports
from agentd.stability.watcher import Watcher

if TYPE_CHECKING:
    from agentd.stability.app_status import AppStatusReporter

T = TypeVar("T")

FINAL_READ_SHARE: Final = 0.25
FINAL_READ_MAX_S: Final = 2.0
FINAL_STATUS_SHARE: Final = 0.1
FINAL_STATUS_MAX_S: Final = 1.0
DISK_SHARE: Final = 0.125
DISK_MAX_S: Final = 1.0
CLOSING_S: Final = 0.3
"""Reserved for closing the local API and answering the request that asked for the stop."""


def final_read_s(left_s: float) -> float:
    """Seconds of `left_s` that the last read of the agent's messages may take."""
    return min(FINAL_READ_MAX_S, left_s * FINAL_READ_SHARE)


def final_status_s(left_s: float) -> float:
    """Seconds of `left_s` that are reserved for the final app status."""
    return min(FINAL_STATUS_MAX_S, left_s * FINAL_STATUS_SHARE)


def disk_s(left_s: float) -> float:
    """Seconds of `left_s` to wait for the disk; delivery then starts from memory."""
    return min(DISK_MAX_S, left_s * DISK_SHARE)


class Phase(enum.StrEnum):
    """`phase` of `/v1/status`. It only moves forward."""

    RUNNING = "running"
    STOPPING = "stopping"
    """Hooks are being ended, and the agent's messages are read once more."""
    DELIVERING = "delivering"
    """The final snapshot is captured and being delivered."""


class Captured(NamedTuple):
    """The snapshot to deliver, None if there is no message; and whether the agent answered."""

    entry: SpoolEntry | None
    agent_answered: bool


class FinalSnapshot(NamedTuple):
    """Reads the conversation once more, captures it and delivers it: at shutdown, and in commands without a daemon."""

    watcher: Watcher
    recorder: Recorder
    delivery: Delivery
    agent: Agent
    clock: Clock

    async def capture(self, read_timeout_s: float, disk_timeout_s: float = DISK_MAX_S) -> Captured:
        """Read the agent's messages, or else what it saved, and capture them."""
        agent_answered = await self.watcher.read_final_messages(read_timeout_s)
        return Captured(await self.recorder.flush_to_disk(disk_timeout_s), agent_answered)

    async def deliver(self, entry: SpoolEntry | None, deadline: float, *, end_agent: bool) -> None:
        """Deliver until `deadline` (monotonic seconds) and, if `end_agent`, end the agent meanwhile.

        The agent is ended only when `entry` is on disk or delivered: before that it holds the only lasting copy.
        """
        async with asyncio.TaskGroup() as group:
            delivering = group.create_task(self.delivery.flush(deadline), name="final delivery")
            if not end_agent:
                return
            if (
                entry is not None
                and not entry.durable
                and (await delivering).outcome is not SnapshotOutcome.DELIVERED
            ):
                log.get("daemon").warning("agent.left_running", reason="the snapshot is in memory only")
                return
            await self._end_agent(deadline)

    async def _end_agent(self, deadline: float) -> None:
        try:
            if not self.agent.can.end_process:
                raise CannotEndError(f"{self.agent.kind} agents cannot be ended")
            await self.agent.end(timeout_s=max(0.0, deadline - self.clock.monotonic()))
        except CannotEndError as exc:
            log.get("daemon").warning("agent.left_running", reason=str(exc))


class RunningTasks(NamedTuple):
    """The daemon's tasks, as far as the shutdown ends them in an order of its own."""

    watcher: "asyncio.Task[None]"
    claims: "asyncio.Task[None] | None"
    hooks: "asyncio.Task[None]"
    app_status: "asyncio.Task[None] | None"
    others: "Sequence[asyncio.Task[None]]"


class Shutdown:
    """Ends one run of the daemon. `budget_s` counts from `begin`."""

    def __init__(
        self,
        *,
        final: FinalSnapshot,
        hooks: EventHooks,
        reporter: "AppStatusReporter | None",
        task_reports: TaskReports,
        last_stop: LastStop,
        clock: Clock,
        budget_s: float,
        end_agent: bool,
    ) -> None:
        self.phase = Phase.RUNNING
        self.begun = asyncio.Event()
        self.step_failed = False
        self._final = final
        self._hooks = hooks
        self._reporter = reporter
        self._task_reports = task_reports
        self._last_stop = last_stop
        self._clock = clock
        self._budget_s = budget_s
        self._end_agent = end_agent
        self._reason = ""
        self._deadline = float("inf")
        self._skip = asyncio.Event()
        self._log = log.get("daemon")

    def begin(self, reason: str) -> bool:
        """Start the clock of the shutdown. False if it had begun before; nothing changes then."""
        if self.begun.is_set():
            return False
        self._reason = reason
        self._deadline = self._clock.monotonic() + self._budget_s
        self.phase = Phase.STOPPING
        self.begun.set()
        return True

    def skip_waiting(self) -> None:
        """Skip each step that waits: an undelivered snapshot stays in the spool."""
        if not self._skip.is_set():
            self._log.warning(
                "agentd.shutdown_skipped", note="second signal: undelivered snapshots stay in the spool"
            )
            self._skip.set()

    async def run(self, tasks: RunningTasks | None) -> Receipt:
        """The shutdown, from the signal to the receipt. `tasks` is None if the stop came before they were started."""
        left_s = self._left_s()
        delivery_deadline = self._deadline - CLOSING_S - (final_status_s(left_s) if self._reporter else 0.0)
        recording = asyncio.create_task(
            self._last_stop.stopping(self._reason, self._budget_s), name="record of the stop"
        )
        beside: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(left_s):
                if tasks is not None:
                    on_stop = self._step(self._on_stop_hooks(tasks.hooks))
                    beside.append(asyncio.create_task(on_stop, name="on-stop hooks"))
                    beside.append(asyncio.create_task(cancelled(tasks.claims), name="end of claims"))
                await self._step(self._final.watcher.read_final_messages(final_read_s(left_s)))
                if tasks is not None:
                    tasks.watcher.cancel()  # a later read could be older than the final one
                entry = await self._step(self._final.recorder.flush_to_disk(disk_s(left_s)), skippable=False)
                self.phase = Phase.DELIVERING
                await self._step(self._final.deliver(entry, delivery_deadline, end_agent=self._end_agent))
                if tasks is not None:
                    if self._skip.is_set() and tasks.claims is not None:
                        tasks.claims.cancel()  # a second time: its hook gets no more time to end
                    await self._step(self._send_final_status(tasks.app_status))
                    await asyncio.gather(*beside)
                    await cancelled(tasks.watcher, *tasks.others)
                await self._step(self._task_reports.store())
        except TimeoutError:
            self._log.warning("agentd.shutdown_timed_out", budget_s=self._budget_s, phase=self.phase.value)
            await self._give_up([recording, *beside, *(tasks.others if tasks else ())])
        receipt = self._final.delivery.receipt()
        self._log.info("agentd.stopped", **receipt.as_json())
        left_s = 0.0 if self._skip.is_set() else self._left_s()
        await self._last_stop.stopped(str(receipt.outcome), timeout_s=left_s + CLOSING_S / 2)
        return receipt

    async def _on_stop_hooks(self, running: "asyncio.Task[None]") -> None:
        """Beside the delivery, within the same deadline."""
        await cancelled(running)
        await self._hooks.run_stop_hooks(self._left_s())

    async def _send_final_status(self, running: "asyncio.Task[None] | None") -> None:
        """Replace a reported "working" in coderd, after the conversation was delivered."""
        await cancelled(running)
        if self._reporter is not None and (left_s := self._left_s()) > 0:
            await self._reporter.send_final(timeout_s=min(FINAL_STATUS_MAX_S, left_s))

    def _left_s(self) -> float:
        return max(0.0, self._deadline - CLOSING_S - self._clock.monotonic())

    async def _step(self, work: Coroutine[Any, Any, T], *, skippable: bool = True) -> T | None:
        """Run one step until it ends or, if `skippable`, until a second signal. Returns its result, None without one.

        An exception of the step is logged; the shutdown goes on.
        """
        working = asyncio.create_task(work, name="shutdown step")
        skipping = asyncio.create_task(self._skip.wait(), name="second signal")
        try:
            await asyncio.wait(
                {working, skipping} if skippable else {working}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await cancelled(skipping, None if working.done() else working)
        if working.cancelled():
            return None
        if (error := working.exception()) is not None:
            self.step_failed = True
            self._log.error("agentd.stop_step_failed", exc_info=error)
            return None
        return working.result()

    async def _give_up(self, left: "Sequence[asyncio.Task[None]]") -> None:
        """Cancel the tasks that are left, without waiting for a thread that hangs."""
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CLOSING_S / 3)


async def cancelled(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancel `tasks` and wait for their end. Their exceptions were logged when they failed."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
