"""A session whose agent pauses for seconds in the middle of its turns: what a person would have been told."""

import asyncio
import json
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from agentd.agents.agent import Activity, Observation
from agentd.coderd.client import Coderd
from agentd.coderd.token import StaticToken
from agentd.metrics import Registry
from agentd.simulator.coderd import SimulatedCoderd
from agentd.stability.app_status import AppStatusReporter
from agentd.stability.status_report import TaskState
from agentd.stability.task_reports import TaskReports
from agentd.stability.tracker import Tracker
from agentd.worker_thread import WorkerThread

ACTIVITIES = {"running": Activity.BUSY, "stable": Activity.IDLE}
NAIVE = {"running": "working", "stable": "idle"}


@pytest.fixture
def session():
    return json.loads((Path(__file__).parent / "flapping_session.json").read_text())


class ControlPlane:
    """coderd with a task, the clock of the session, and a client."""

    def __init__(self, coderd, client):
        self.coderd = coderd
        self.workspace = coderd.add_workspace()
        coderd.add_task(self.workspace)
        token = StaticToken(self.workspace.token)
        self.send = partial(Coderd(coderd.url, token=token, session=client).update_app_status, "agentapi")

    @property
    def told(self):
        return [row.state for row in self.coderd.app_statuses.get(self.workspace.id, [])]

    @property
    def notified(self):
        return [notification.template for notification in self.coderd.notifications]


@pytest.fixture
async def plane():
    async with SimulatedCoderd() as coderd, aiohttp.ClientSession() as client:
        yield ControlPlane(coderd, client)


async def by_the_naive_rule(session, plane):
    """Two seconds of an identical screen are idle, anything else is working: told at each change."""
    for lasts_s, word in session["readings"]:
        await plane.send(NAIVE[word], "", "", timeout_s=5.0)
        plane.coderd.advance_clock(lasts_s)


async def by_agentd(session, plane, fake_clock, folder):
    """A look every second; tracker, reports and reporter as the daemon connects them."""
    clock = fake_clock.as_clock()
    reporter = AppStatusReporter(send=plane.send, is_ready=lambda: True, clock=clock, metrics=Registry())
    reports = TaskReports(folder=folder, clock=clock, disk=WorkerThread("state"))
    reports.changed.add(reporter.report)
    tracker = Tracker(5.0)
    running = asyncio.create_task(reporter.run(), name="app status")
    seconds, ends = 0.0, 0.0
    for lasts_s, word in session["readings"]:
        ends += lasts_s
        while seconds < ends:
            change = tracker.observe(Observation(ACTIVITIES[word]), at=fake_clock.now)
            if change is not None:
                reports.on_agent_change(change)
                await arrived(reporter)
            await fake_clock.advance(1.0)
            plane.coderd.advance_clock(1.0)
            seconds += 1.0
    running.cancel()
    await asyncio.wait({running})
    return seconds


async def arrived(reporter):
    """Real requests take real time, while the clock of the session stands."""
    async with asyncio.timeout(10):
        while reporter._pending is not None and reporter._next()[1] <= 0:
            await asyncio.sleep(0.001)


async def test_each_turn_is_reported_once_although_the_agent_pauses(session, plane, fake_clock, tmp_path):
    assert await by_agentd(session, plane, fake_clock, tmp_path) > 600
    # It begins idle; then one working and one idle for every turn.
    assert plane.told == ["idle"] + ["working", "idle"] * session["turns"]
    assert [TaskState(state) for state in plane.told].count(TaskState.WORKING) == session["turns"]
    assert plane.notified == ["Task Idle"] + ["Task Working", "Task Idle"] * session["turns"]


async def test_by_the_naive_rule_the_user_is_notified_of_every_pause(session, plane):
    await by_the_naive_rule(session, plane)
    assert len(plane.told) == len(session["readings"])
    with_agentd = 1 + 2 * session["turns"]
    assert len(plane.told) > 8 * with_agentd
    # coderd itself shows the same content only once a minute.
    assert len(plane.notified) > 2 * with_agentd, f"{len(plane.notified)} of {len(plane.told)} rows"
