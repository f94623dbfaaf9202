"""Short turns close to each other: what coderd is sent, and how soon. Virtual time, simulated AgentAPI and coderd."""

import asyncio
from functools import partial

import pytest

from agentd.agents.agentapi.agent import AgentApiAgent
from agentd.coderd.client import Coderd
from agentd.coderd.token import StaticToken
from agentd.metrics import Registry
from agentd.simulator.coderd import SimulatedCoderd
from agentd.stability.app_status import AppStatusReporter
from agentd.stability.task_reports import TaskReports
from agentd.stability.tracker import AgentStatus
from agentd.tls import aiohttp
from agentd.worker_thread import WorkerThread

SERVERS = [
    ("E1", "v2.29.0", "polls"),
    ("E1", None, "events"),
    ("E2", None, "polls"),
    ("E3", None, "events"),
    ("E4", None, "polls"),
    ("E5", None, "events"),
]
SETTLED = {AgentStatus.RUNNING: "working", AgentStatus.STABLE: "idle"}


class Told:
    """The reports that coderd accepted, and the changes that the tracker found, with their times."""

    def __init__(self, bench, coderd, client, folder):
        self.bench = bench
        workspace = coderd.add_workspace()
        self.rows = lambda: coderd.app_statuses.get(workspace.id, [])
        token = StaticToken(workspace.token)
        self.reporter = AppStatusReporter(
            send=partial(Coderd(coderd.url, token=token, session=client).update_app_status, "agentapi"),
            is_ready=lambda: True,
            clock=bench.clock.as_clock(),
            metrics=Registry(),
        )
        bench.task_reports = TaskReports(
            folder=folder, clock=bench.clock.as_clock(), disk=WorkerThread("state")
        )
        bench.task_reports.changed.add(self.reporter.report)
        self.accepted_at, self.settled_at = [], []
        self.reporter.accepted.add(
            lambda report: self.accepted_at.append((report.state.value, bench.clock.now))
        )
        bench.watcher.status_changed.add(self._on_agent_change)

    def _on_agent_change(self, change):
        if change.new in SETTLED:
            self.settled_at.append((SETTLED[change.new], self.bench.clock.now))

    async def seconds(self, count):
        for _ in range(2 * count):
            await self.bench.clock.advance(0.5)
            await self.bench.rest()
            await self.bench.until(lambda: self.reporter._sending is None)


async def three_turns(told):
    agent = told.bench.simulated
    for turn in (1, 2, 3):
        agent.set_status("running")  # AgentAPI 0.12.1 sends this before the user's message
        agent.add_message("user", f"do step {turn}\nplease")
        await told.seconds(1)
        agent.add_message("agent", f"I began.\nStep {turn} is done.")
        await told.seconds(1)
        agent.set_status("stable")
        await told.seconds(10)


@pytest.mark.parametrize(("era", "version", "observed_by"), SERVERS)
async def test_three_turns_of_two_seconds_are_each_sent_within_a_second(
    bench, tmp_path, monkeypatch, era, version, observed_by
):
    if observed_by == "events":
        monkeypatch.setattr(type(bench.agent), "changes", AgentApiAgent.changes)
    async with SimulatedCoderd(era=era, build_version=version) as coderd, aiohttp.ClientSession() as client:
        told = Told(bench, coderd, client, tmp_path)
        sending = asyncio.create_task(told.reporter.run(), name="app status")
        async with bench.running():
            await bench.rest()
            await told.seconds(12)
            await three_turns(told)
        sending.cancel()
        assert [(row.state, row.message) for row in told.rows()] == [
            ("idle", "done"),
            ("working", "do step 1"),
            ("idle", "Step 1 is done."),
            ("working", "do step 2"),
            ("idle", "Step 2 is done."),
            ("working", "do step 3"),
            ("idle", "Step 3 is done."),
        ]
        assert [state for state, _ in told.settled_at] == [state for state, _ in told.accepted_at]
        late = [
            accepted - settled
            for (_, accepted), (_, settled) in zip(told.accepted_at, told.settled_at, strict=True)
        ]
        assert max(late) <= 1.0
