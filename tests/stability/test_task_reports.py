"""What is said about the task, and that it is still so after a restart."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from agentd.conversation.message import Message
from agentd.stability import task_reports as task_reports_module
from agentd.stability.status_report import Source, StatusReport, TaskState
from agentd.stability.task_file import NAME
from agentd.stability.task_reports import InvalidReportError, TaskReports
from agentd.stability.tracker import AgentStatus, AgentStatusChange
from agentd.stability.turn_reports import TaskFinishedError

NONE, WORKING, IDLE, COMPLETE, FAILURE = TaskState


class Life:
    """A desk, and what became of it."""

    def __init__(self, folder, fake_clock):
        self.clock = fake_clock
        self.changes = 0
        self.reports = TaskReports(folder=folder, clock=fake_clock.as_clock())
        self.reports.changed.add(self._changed)

    def _changed(self, _report):
        self.changes += 1

    def agent(self, new, old=AgentStatus.UNKNOWN):
        self.reports.on_agent_change(AgentStatusChange(old, new, self.clock.now, ""))

    def user(self, content, *, number=0, age_s=0.0):
        sent = datetime.fromtimestamp(self.clock.wall_now - age_s, UTC).isoformat()
        self.reports.on_messages(
            [Message(number, "user", content, sent), Message(number + 1, "agent", "…", sent)]
        )

    async def event(self, state, message=""):
        return await self.reports.report({"state": state, "message": message}, Source.EVENT)

    async def report(self, state, message="", uri=""):
        return await self.reports.report({"state": state, "message": message, "uri": uri}, Source.REPORT)


@pytest.fixture
def born(tmp_path, fake_clock):
    return lambda: Life(tmp_path, fake_clock)


async def test_a_turn_is_working_then_idle_and_each_is_said_once(born, fake_clock):
    life = born()
    life.user("do it")
    assert life.reports.state is WORKING
    for status in (AgentStatus.RUNNING, AgentStatus.SETTLING, AgentStatus.RUNNING, AgentStatus.SETTLING):
        await fake_clock.advance(1)
        life.agent(status)
        life.user("do it")
    assert life.reports.state is WORKING
    before = life.changes
    await fake_clock.advance(1)
    life.agent(AgentStatus.STABLE)
    assert (life.reports.state, life.changes) == (IDLE, before + 1)


async def test_what_the_agent_said_of_itself_describes_its_turn_and_no_other(born, fake_clock):
    life = born()
    life.user("do it")
    await life.report("working", "running the tests", "https://example.com/1")
    await fake_clock.advance(1)
    life.agent(AgentStatus.STABLE)
    assert (life.reports.current.message, life.reports.current.uri) == (
        "running the tests",
        "https://example.com/1",
    )
    await fake_clock.advance(1)
    life.user("and now this", number=2)
    life.agent(AgentStatus.RUNNING)
    assert life.reports.current.message == ""


async def test_an_agent_that_goes_while_it_works_leaves_no_spinner(born, fake_clock):
    life = born()
    life.agent(AgentStatus.RUNNING)
    await fake_clock.advance(1)
    life.agent(AgentStatus.UNREACHABLE, AgentStatus.RUNNING)
    assert (life.reports.state, life.reports.current.message) == (IDLE, "The agent does not answer")
    await fake_clock.advance(1)
    life.agent(AgentStatus.RUNNING)
    assert (life.reports.state, life.reports.current.message) == (WORKING, "")


@pytest.mark.parametrize("end", ["complete", "failure"])
async def test_a_working_that_is_replayed_after_a_restart_changes_nothing(born, fake_clock, end):
    life = born()
    life.user("do it")
    assert await life.report(end, "that was it")

    fake_clock.now = 3.0  # the machine was restarted: its monotonic clock begins anew
    fake_clock.wall_now += 86_400
    again = born()
    assert again.reports.state.value == end
    again.user("do it", age_s=86_400)
    assert not await again.event("working")
    again.agent(AgentStatus.RUNNING)
    with pytest.raises(TaskFinishedError, match=f"the task is already {end}"):
        await again.report("working")
    assert (again.reports.state.value, again.reports.current.message) == (end, "that was it")
    assert again.changes == 0


async def test_the_end_of_a_task_is_on_disk_before_it_is_answered(born, tmp_path):
    life = born()
    await life.event("complete", "done")
    record = json.loads((tmp_path / NAME).read_text())
    assert [(claim["word"], claim["message"]) for claim in record["claims"]] == [("complete", "done")]
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


async def test_a_message_that_came_while_nobody_looked_lifts_the_guard_after_a_restart(born, fake_clock):
    life = born()
    life.user("do it")
    await life.report("complete")
    fake_clock.wall_now += 60
    again = born()
    again.user("something else", number=2, age_s=30)
    assert again.reports.state is WORKING
    assert await again.report("working", "on it")


async def test_the_same_message_seen_again_by_the_next_life_is_not_a_new_turn(born, fake_clock):
    life = born()
    life.user("do it", number=4)
    await life.report("failure")
    again = born()
    again.user("do it", number=4)
    assert again.reports.state is FAILURE


async def test_what_coderd_took_last_is_remembered(born):
    life = born()
    running = asyncio.create_task(life.reports.run())
    life.reports.on_accepted(StatusReport(IDLE, message="m", uri="u"))
    await life.reports.store()
    running.cancel()
    assert born().reports.accepted == StatusReport(IDLE, message="m", uri="u")


async def test_the_forever_task_keeps_what_the_watcher_said(born, fake_clock):
    life = born()
    running = asyncio.create_task(life.reports.run())
    life.agent(AgentStatus.STABLE)
    async with asyncio.timeout(5):
        while born().reports.state is not IDLE:
            await asyncio.sleep(0.005)
    running.cancel()


@pytest.mark.parametrize(
    "left", [b"", b"{", b"[]", b'{"turn":1}', b"\xff\x00", b'{"turn":1,"user":3,"told":null,"claims":[]}']
)
async def test_a_file_of_which_nothing_can_be_made_is_said_and_begun_anew(born, tmp_path, left):
    (tmp_path / NAME).write_bytes(left)
    with capture_logs() as logs:
        life = born()
    assert [line["event"] for line in logs] == ["task.forgotten"]
    assert life.reports.state is NONE
    await life.report("complete")
    assert born().reports.state is COMPLETE


async def test_a_full_disk_is_said_once_and_the_word_still_holds(born, monkeypatch):
    life = born()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(task_reports_module.task_file, "write", full)
    with capture_logs() as logs:
        assert await life.report("working", "a")
        assert await life.report("complete", "b")
    assert [line["event"] for line in logs].count("task.not_kept") == 1
    assert life.reports.state is COMPLETE


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "state: must be one of working, idle, complete, failure"),
        ({"state": "done"}, "state: must be one of"),
        ({"state": 1}, "state: must be one of"),
        ({"state": "idle", "message": ["x"]}, "message: must be a text"),
        ({"state": "idle", "uri": "x" * 2049}, "uri: must be a link"),
        ({"state": "idle", "uri": "http://x/\n"}, "uri: must be a link"),
    ],
)
async def test_what_cannot_be_understood_is_refused_and_changes_nothing(born, said, why):
    life = born()
    with pytest.raises(InvalidReportError, match=why):
        await life.reports.report(said, Source.REPORT)
    assert (life.reports.state, life.changes) == (NONE, 0)


async def test_a_message_is_kept_as_coderd_would_store_it(born):
    life = born()
    await life.report("Working", "\x1b[31mred\x1b[0m\tand  long " + "é" * 200)
    assert life.reports.current.message.startswith("red and long é")
    assert len(life.reports.current.message.encode()) <= 160
