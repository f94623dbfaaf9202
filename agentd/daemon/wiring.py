"""Who is told what: one line for each subscription, in the order of the calls.

agent -> watcher -> status_changed -> task reports -> changed -> app status reporter -> coderd
-> messages_read  -> recorder -> spool -> delivery -> destinations
"""

import asyncio
from typing import TYPE_CHECKING, Final

from agentd.hooks.event_hooks import EventHooks, HookEvent
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.recorder import Recorder
from agentd.stability.task_reports import TaskReports
from agentd.stability.tracker import AgentStatus, AgentStatusChange
from agentd.stability.watcher import Watcher

if TYPE_CHECKING:
    from agentd.stability.app_status import AppStatusReporter

HOOK_EVENTS: Final = {
    AgentStatus.STABLE: HookEvent.STABLE,
    AgentStatus.RUNNING: HookEvent.BUSY,
    AgentStatus.WAITING: HookEvent.WAITING,
}


class SnapshotDue:
    """Stores and uploads the conversation when the agent has settled or is gone, without waiting for a checkpoint."""

    def __init__(self, recorder: Recorder, delivery: Delivery) -> None:
        self._recorder = recorder
        self._delivery = delivery
        self._due = asyncio.Event()

    def on_agent_change(self, change: AgentStatusChange) -> None:
        if change.new in (AgentStatus.WAITING, AgentStatus.STABLE, AgentStatus.UNREACHABLE):
            self._due.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            await self.upload()

    async def upload(self) -> None:
        """Store the conversation and request its upload."""
        entry = await self._recorder.capture()
        if entry is not None:
            # Before the wait for the disk: the agent may begin another conversation meanwhile.
            self._delivery.keep_settled(entry)
        await self._recorder.flush_to_disk()
        self._delivery.request_upload()


def connect(
    *,
    watcher: Watcher,
    recorder: Recorder,
    delivery: Delivery,
    snapshot_due: SnapshotDue,
    task_reports: TaskReports,
    reporter: "AppStatusReporter | None",
    hooks: EventHooks,
) -> None:
    """Make every subscription between components, except the local API's (`run.py`)."""

    def trigger_hooks(change: AgentStatusChange) -> None:
        if change.new in HOOK_EVENTS:
            hooks.trigger(HOOK_EVENTS[change.new])
        elif change.new is not AgentStatus.SETTLING:
            # A pause inside a turn is no event. But a restarted agent that is stable is stable anew.
            hooks.forget_last()

    watcher.messages_read.add(recorder.record_messages)
    watcher.messages_read.add(task_reports.on_messages)
    watcher.saved_messages_read.add(recorder.merge_saved)
    recorder.captured.add(delivery.on_captured)
    watcher.status_changed.add(snapshot_due.on_agent_change)
    watcher.status_changed.add(trigger_hooks)
    watcher.status_changed.add(task_reports.on_agent_change)
    if reporter is not None:
        task_reports.message_changed.add(reporter.on_message_changed)
        task_reports.changed.add(reporter.report)
        reporter.accepted.add(task_reports.on_accepted)
        if task_reports.is_finished:
            # A final state that an earlier run could not send. If coderd accepted it before, it is not sent again.
            reporter.report(task_reports.current)
