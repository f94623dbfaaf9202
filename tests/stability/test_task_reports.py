"""Reports about the task, and their restoration after a restart."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from agentd.conversation.message import Message
from agentd.conversation.redaction import Redactor
from agentd.stability import task_reports as task_reports_module
from agentd.stability.status_report import Source, StatusReport, TaskState
from agentd.stability.task_file import NAME
from agentd.stability.task_reports import SHOWN_MAX_CHARS, InvalidReportError, TaskReports
from agentd.stability.tracker import AgentStatus, AgentStatusChange
from agentd.stability.turn_reports import TaskFinishedError
from agentd.worker_thread import WorkerThread

NONE, WORKING, IDLE, COMPLETE, FAILURE = TaskState
DISK = WorkerThread("state")


class Life:
    """A desk, and what became of it."""

    def __init__(self, folder, fake_clock):
        self.clock = fake_clock
        self.changes = 0
        self.reports = TaskReports(folder=folder, clock=fake_clock.as_clock(), disk=DISK)
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


async def test_a_turn_is_working_then_idle_and_each_is_reported_once(born, fake_clock):
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


async def test_the_message_of_a_report_describes_its_turn_and_no_other(born, fake_clock):
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
    assert (life.reports.current.message, life.reports.current.uri) == ("and now this", "")


async def test_working_has_the_prompt_and_idle_has_the_last_line_of_the_answer(born, fake_clock):
    life = born()
    sent = datetime.fromtimestamp(fake_clock.wall_now, UTC).isoformat()
    prompt = Message(1, "user", "\n── \x1b[1mFix\x1b[0m the   build ──\nplease", sent)
    life.reports.on_messages([prompt])
    assert life.reports.current.content == (WORKING, "── Fix the build ──", "")
    life.agent(AgentStatus.RUNNING)
    await fake_clock.advance(2)
    answer = Message(2, "agent", "I looked.\n│ All 12 tests pass. │     \n╰────────╯\n\n", sent)
    life.reports.on_messages([prompt, answer])
    life.agent(AgentStatus.STABLE)
    assert life.reports.current.content == (IDLE, "│ All 12 tests pass. │", "")


async def test_a_prompt_that_is_read_after_the_agent_began_is_the_message_of_the_same_report(
    born, fake_clock
):
    life = born()
    life.user("do it")
    life.agent(AgentStatus.STABLE)
    await fake_clock.advance(5)
    life.agent(AgentStatus.RUNNING)
    assert life.reports.current.content == (WORKING, "", "")
    life.user("and now this", number=2)
    assert life.reports.current.content == (WORKING, "and now this", "")


async def test_a_start_screen_is_no_answer(born):
    life = born()
    life.reports.on_messages([Message(0, "agent", "Welcome to the agent", "2026-03-02T09:00:00Z")])
    life.agent(AgentStatus.STABLE)
    assert life.reports.current.content == (IDLE, "", "")


async def test_a_message_counts_as_changed_when_its_id_or_its_text_changes(born):
    life, changed = born(), []
    life.reports.message_changed.add(lambda message: changed.append((message.id, message.content)))
    for number, content in [(1, "a"), (1, "a"), (1, "a b"), (2, "a b"), (2, "a b"), (2, "a")]:
        life.reports.on_messages([Message(number, "agent", content, "2026-03-02T09:00:00Z")])
    life.reports.on_messages([])
    assert changed == [(1, "a"), (1, "a b"), (2, "a b"), (2, "a")]


@pytest.mark.parametrize("before", [0, 1, 100, SHOWN_MAX_CHARS - 20, 2 * SHOWN_MAX_CHARS])
@pytest.mark.parametrize("after", [0, 1, 100, 140, 159, 160, SHOWN_MAX_CHARS - 20, SHOWN_MAX_CHARS])
@pytest.mark.parametrize("role", ["user", "agent"])
async def test_no_part_of_a_known_secret_is_in_a_message(tmp_path, fake_clock, role, before, after):
    secret = "5f3c9a70-71b2-4a6e-9c0d-1b2c3d4e5f60"
    reports = TaskReports(
        folder=tmp_path, clock=fake_clock.as_clock(), disk=DISK, redact=Redactor(values=lambda: [secret])
    )
    sent = datetime.fromtimestamp(fake_clock.wall_now, UTC).isoformat()
    wrapped = secret[:20] + "\n" + secret[20:]
    content = {"user": f"{'.' * before}{wrapped}", "agent": f"{wrapped}{'.' * after}"}
    reports.on_messages([Message(1, "user", content["user"] if role == "user" else "hi", sent)])
    if role == "agent":
        answer = Message(2, "agent", content["agent"], sent)
        reports.on_messages([Message(1, "user", "hi", sent), answer])
        reports.on_agent_change(
            AgentStatusChange(AgentStatus.RUNNING, AgentStatus.STABLE, fake_clock.now, "")
        )
    shown = reports.current.message
    assert not any(secret[start : start + 5] in shown for start in range(len(secret) - 4))


async def test_the_question_of_a_waiting_agent_is_redacted(tmp_path, fake_clock):
    reports = TaskReports(
        folder=tmp_path, clock=fake_clock.as_clock(), disk=DISK, redact=Redactor(values=lambda: ["hunter22"])
    )
    change = AgentStatusChange(
        AgentStatus.RUNNING, AgentStatus.WAITING, fake_clock.now, "", "Run login hunter22?"
    )
    reports.on_agent_change(change)
    assert reports.current.content == (IDLE, "Run login [redacted]?", "")


async def test_an_agent_that_ends_inside_a_turn_is_reported_idle(born, fake_clock):
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


async def test_a_final_report_is_on_disk_before_it_is_answered(born, tmp_path):
    life = born()
    await life.event("complete", "done")
    record = json.loads((tmp_path / NAME).read_text())
    assert [(claim["word"], claim["message"]) for claim in record["claims"]] == [("complete", "done")]
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


async def test_a_user_message_that_arrived_before_the_restart_begins_a_new_turn(born, fake_clock):
    life = born()
    life.user("do it")
    await life.report("complete")
    fake_clock.wall_now += 60
    again = born()
    again.user("something else", number=2, age_s=30)
    assert again.reports.state is WORKING
    assert await again.report("working", "on it")


async def test_a_message_that_was_known_before_the_restart_is_not_a_new_turn(born, fake_clock):
    life = born()
    life.user("do it", number=4)
    await life.report("failure")
    again = born()
    again.user("do it", number=4)
    assert again.reports.state is FAILURE


async def test_the_report_that_coderd_accepted_last_is_restored(born):
    life = born()
    running = asyncio.create_task(life.reports.run())
    life.reports.on_accepted(StatusReport(IDLE, message="m", uri="u"))
    await life.reports.store()
    running.cancel()
    assert born().reports.accepted == StatusReport(IDLE, message="m", uri="u")


async def test_run_stores_the_reports_of_the_watcher(born, fake_clock):
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
async def test_a_damaged_file_is_logged_and_replaced(born, tmp_path, left):
    (tmp_path / NAME).write_bytes(left)
    with capture_logs() as logs:
        life = born()
    assert [line["event"] for line in logs] == ["task.forgotten"]
    assert life.reports.state is NONE
    await life.report("complete")
    assert born().reports.state is COMPLETE


async def test_a_full_disk_is_logged_once_and_the_state_stays_in_memory(born, monkeypatch):
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
async def test_a_malformed_report_is_refused_and_changes_nothing(born, said, why):
    life = born()
    with pytest.raises(InvalidReportError, match=why):
        await life.reports.report(said, Source.REPORT)
    assert (life.reports.state, life.changes) == (NONE, 0)


async def test_a_message_is_stored_as_coderd_would_store_it(born):
    life = born()
    await life.report("Working", "\x1b[31mred\x1b[0m\tand  long " + "é" * 200)
    assert life.reports.current.message.startswith("red and long é")
    assert len(life.reports.current.message.encode()) <= 160
