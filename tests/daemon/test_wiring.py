"""Which components a change reaches, with real components."""

import pytest

from agentd import config
from agentd.clock import Clock
from agentd.daemon.build import build
from agentd.hooks.event_hooks import HookEvent
from agentd.stability.tracker import AgentStatus, AgentStatusChange

UNKNOWN, RUNNING, WAITING, SETTLING, STABLE, UNREACHABLE = AgentStatus


@pytest.mark.parametrize(
    ("statuses", "triggered"),
    [
        ([STABLE, RUNNING, STABLE], ["stable", "busy", "stable"]),
        ([RUNNING, SETTLING, RUNNING, SETTLING, STABLE], ["busy", "stable"]),
        ([STABLE, SETTLING, STABLE], ["stable"]),
        ([STABLE, UNREACHABLE, SETTLING, STABLE], ["stable", "stable"]),
        ([RUNNING, UNREACHABLE, RUNNING], ["busy", "busy"]),
        ([RUNNING, WAITING, RUNNING, STABLE], ["busy", "waiting", "busy", "stable"]),
        ([WAITING, UNREACHABLE, WAITING], ["waiting", "waiting"]),
    ],
)
async def test_hooks_are_triggered_by_each_new_status_but_not_by_a_pause(tmp_path, statuses, triggered):
    settings = config.load(
        flags=[f"state.dir={tmp_path}/state"], environ={}, system_file=tmp_path / "none.toml"
    )
    found: list[HookEvent] = []
    async with build(settings, Clock()) as components:
        old = UNKNOWN
        for new in statuses:
            components.watcher.status_changed.notify(AgentStatusChange(old, new, 0.0, ""))
            found += components.hooks._queued
            components.hooks._queued.clear()
            old = new
    assert [event.value for event in found] == triggered
