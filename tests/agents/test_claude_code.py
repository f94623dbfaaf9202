"""Claude Code's registry, the choice of the session, and what is not trusted."""

import itertools
import json
import os
import time
import uuid
from pathlib import Path

import pytest
from agents.claude_files import ClaudeHome
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agentd.agents.agent import Activity, AgentBusyError, AgentGoneError, Strength
from agentd.agents.claude_code import agent as agent_module
from agentd.agents.claude_code import registry, sessions
from agentd.agents.claude_code.agent import ClaudeCodeAgent
from agentd.agents.claude_code.registry import read_registry
from agentd.agents.claude_code.row import Row, RowError, observation_of, parse_row
from agentd.agents.claude_code.transcript import Tool, Turn
from agentd.conversation.redaction import Redactor
from agentd.metrics import Registry
from agentd.worker_thread import WorkerThread

ID = "4bfb274f-ee9d-4bac-b59d-b27f0182a749"


@pytest.fixture
def home(tmp_path):
    home = ClaudeHome(tmp_path / ".claude")
    yield home
    home.close()


@pytest.fixture
async def observer(home, fake_clock):
    """Makes agents that observe `home`."""
    disk = WorkerThread("test")

    def build(**options):
        options = {"owner": os.getuid(), "directory": None, "keep": 10, "disk": disk} | options
        return ClaudeCodeAgent(home.folder, clock=fake_clock.as_clock(), **options)

    yield build
    disk.close(1)


async def contents(agent):
    return [one.content for one in await agent.messages(keep=10)]


# A row and a turn.

RUNNING = Turn(is_open=True, by_user=True, began_at=60.0, changed_at=61.0)
CALLING = RUNNING._replace(tools=(Tool("Bash", "run tests"), Tool("Edit", "")))
ASKING = RUNNING._replace(tools=(Tool("AskUserQuestion", "Which colour?"),))
NOTIFIED = RUNNING._replace(by_user=False)
OVER = Turn(end="turn_duration", changed_at=70.0)
EARLIER = RUNNING._replace(began_at=20.0, changed_at=30.0)


@pytest.mark.parametrize(
    ("status", "waiting_for", "turn", "activity", "strength", "evidence"),
    [
        ("busy", "", Turn(), "busy", "TOLD", "busy"),
        ("busy", "", RUNNING, "busy", "TOLD", "busy"),
        ("busy", "", OVER, "idle", "INFERRED", "since before"),
        ("busy", "", OVER._replace(background=1), "busy", "TOLD", "busy"),
        ("busy", "", OVER._replace(changed_at=64.0), "busy", "TOLD", "busy"),
        ("busy", "", OVER._replace(end="end_turn"), "busy", "TOLD", "busy"),
        ("working", "", RUNNING, "busy", "TOLD", "working"),
        ("waiting", "permission prompt", CALLING, "waiting", "TOLD", "permission prompt: Bash (run tests)"),
        ("waiting", "input needed", ASKING, "waiting", "TOLD", "Which colour?"),
        ("waiting", "permission prompt", Turn(), "waiting", "TOLD", "permission prompt"),
        ("waiting", "", RUNNING, "waiting", "TOLD", "waiting"),
        ("blocked", "", RUNNING, "waiting", "TOLD", "blocked"),
        ("waiting", "dialog open", Turn(), "idle", "TOLD", "a dialog is open"),
        ("waiting", "dialog open", EARLIER, "idle", "TOLD", "a dialog is open"),
        ("waiting", "dialog open", NOTIFIED, "idle", "TOLD", "a dialog is open"),
        ("waiting", "dialog open", RUNNING, "waiting", "TOLD", "dialog open"),
        ("waiting", "dialog open", OVER._replace(background=1), "busy", "RECORDED", "background"),
        ("idle", "", OVER, "idle", "TOLD", "idle"),
        ("idle", "", RUNNING, "idle", "TOLD", "idle"),
        ("shell", "", OVER, "idle", "TOLD", "shell command"),
        ("done", "", OVER, "idle", "TOLD", "done"),
        ("", "", Turn(), "idle", "INFERRED", "no open turn"),
        ("", "", RUNNING, "busy", "RECORDED", "a turn is open"),
        ("", "", CALLING, "busy", "RECORDED", "Bash was called"),
        ("", "", EARLIER, "idle", "INFERRED", "no open turn"),
        ("", "", OVER, "idle", "RECORDED", "turn_duration"),
        ("", "", OVER._replace(background=2), "busy", "RECORDED", "background"),
        ("news", "", RUNNING, "busy", "RECORDED", "a turn is open"),
    ],
)
def test_what_the_registry_and_the_transcript_say_together(
    status, waiting_for, turn, activity, strength, evidence
):
    row = Row(7, 1, ID, status=status, waiting_for=waiting_for, status_at=65.0, started_at=50.0)
    seen = observation_of(row, turn, now=100.0)
    assert (seen.activity.value, seen.strength.name) == (activity, strength)
    assert evidence in seen.evidence


@pytest.mark.parametrize(
    ("age_s", "activity"), [(0.1, Activity.BUSY), (0.5, Activity.IDLE), (-9, Activity.IDLE)]
)
def test_idle_waits_a_moment_for_the_text_of_the_answer(age_s, activity):
    row = Row(7, 1, ID, status="idle", status_at=65.0, started_at=50.0)
    assert observation_of(row, RUNNING, now=65.0 + age_s).activity is activity
    assert observation_of(row, OVER, now=65.0 + age_s).activity is Activity.IDLE


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = [
    "pid",
    "procStart",
    "sessionId",
    "cwd",
    "version",
    "status",
    "waitingFor",
    "statusUpdatedAt",
    "startedAt",
]


@pytest.mark.property
@given(st.dictionaries(st.sampled_from(NAMES), json_values), st.integers(0, 400))
def test_any_text_is_a_row_or_an_error(values, cut):
    whole = {"pid": 7, "procStart": "9", "sessionId": ID} | values
    for text in (json.dumps(whole), json.dumps(whole)[:cut], json.dumps(whole) + json.dumps(whole)[-cut:]):
        try:
            row = parse_row(text)
        except RowError:
            continue
        assert uuid.UUID(row.session)
        shown = observation_of(row, Turn(), now=0.0).evidence + row.version + row.directory
        assert shown.isprintable()


@pytest.mark.parametrize(
    "session", ["../../etc/passwd", ID + "/..", ID.upper(), "", None, ID + "\n", "x" * 36]
)
def test_a_session_id_that_is_no_uuid_reaches_no_path(session):
    with pytest.raises(RowError, match="sessionId"):
        parse_row(json.dumps({"pid": 7, "procStart": "9", "sessionId": session}))


# The registry.


def test_only_a_process_with_the_start_time_of_the_row_is_live(home):
    assert [row.pid for row in read_registry(home.folder, owner=os.getuid()).live] == [home.process.pid]
    home.row["procStart"] = str(int(home.row["procStart"]) + 1)
    home.write_row()
    rows = read_registry(home.folder, owner=os.getuid())
    assert (rows.live, rows.stale, rows.broken) == ((), 1, ())


def test_a_row_that_sigkill_left_is_stale(home):
    home.kill()
    rows = read_registry(home.folder, owner=os.getuid())
    assert (rows.live, rows.stale) == ((), 1)


def test_a_row_that_is_being_rewritten_is_read_again(home, monkeypatch):
    text = home.row_path.read_text()
    home.row_path.write_text(text + text[-20:])
    sleeps = []

    def finish(seconds):
        sleeps.append(seconds)
        if len(sleeps) == 2:
            home.row_path.write_text(text)

    monkeypatch.setattr(registry.time, "sleep", finish)
    rows = read_registry(home.folder, owner=os.getuid())
    assert (len(rows.live), len(sleeps)) == (1, 2)


def test_the_key_files_are_never_opened(home, monkeypatch):
    key = home.folder / "sessions" / f"{home.process.pid}.0123abcd.key"
    key.write_text("secret")
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *args, **fields: opened.append(str(path)) or real(path, *args, **fields)
    )
    assert len(read_registry(home.folder, owner=os.getuid()).live) == 1
    assert opened
    assert not [path for path in opened if ".key" in path]


@pytest.mark.parametrize("what", ["symlink", "fifo", "directory", "another owner", "folder is a symlink"])
async def test_only_files_of_the_owner_inside_the_folder_are_read(home, observer, tmp_path, what):
    home.turn("hello", "hello yourself")
    owner = os.getuid()
    path = home.row_path
    match what:
        case "symlink":
            path.rename(tmp_path / "row")
            path.symlink_to(tmp_path / "row")
        case "fifo":
            path.unlink()
            os.mkfifo(path)
        case "directory":
            path.unlink()
            path.mkdir()
        case "another owner":
            owner += 1
        case "folder is a symlink":
            (home.folder / "sessions").rename(tmp_path / "sessions")
            (home.folder / "sessions").symlink_to(tmp_path / "sessions")
    agent = observer(owner=owner)
    assert (await agent.observe()).activity in (Activity.GONE, Activity.BROKEN)
    diagnosis = await agent.diagnose()
    assert diagnosis.severity != "ok"
    assert diagnosis.cause


@pytest.mark.parametrize("what", ["transcript", "its folder", "projects"])
async def test_no_link_to_a_transcript_is_followed(home, observer, tmp_path, what):
    home.turn("hello", "hello yourself")
    path = {"transcript": home.transcript, "its folder": home.transcript.parent}.get(
        what, home.folder / "projects"
    )
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with capture_logs() as logs:
        agent = observer()
        for _ in range(3):
            assert await contents(agent) == []
    assert [one["event"] for one in logs] == ["agent.session_unreadable"], "said once"
    assert (await agent.observe()).activity is Activity.IDLE, "the registry tells that"


# Sessions.


async def test_the_transcript_is_found_wherever_a_resume_left_it(home, observer):
    home.turn("hello", "hello yourself")
    home.row["cwd"] = "/other"
    home.write_row()
    agent = observer()
    assert await contents(agent) == ["hello", "hello yourself"]
    [session] = await agent.sessions()
    assert (session.directory, session.agent_version, session.pid) == ("/other", "2.1.330", home.process.pid)


async def test_clear_begins_a_session_in_the_same_process(home, observer):
    agent = observer()
    home.turn("one", "first")
    assert await contents(agent) == ["one", "first"]
    home.row["sessionId"] = home.records.session = str(uuid.uuid4())
    home.records.leaf = None
    home.status("idle")
    assert await contents(agent) == []
    home.turn("two", "second")
    assert await contents(agent) == ["two", "second"]
    assert (await agent.sessions())[0].id == home.row["sessionId"]


async def test_the_current_session_is_in_the_directory_then_prompted_last(home, observer):
    home.turn("old", "in the directory")
    first = home.row["sessionId"]
    home.directory = "/elsewhere"
    home.begin(at=home.records.at + 100)
    home.status("idle")
    second = home.row["sessionId"]
    anywhere, inside = observer(), observer(directory=Path("/workspace"))
    assert (await anywhere.observe()).evidence.endswith("it has the latest prompt of the user)")
    assert (await anywhere.sessions())[0].id == first, "a session without a prompt is not the current one"
    home.turn("new", "elsewhere")
    for agent, expected, reason in ((anywhere, second, "latest prompt"), (inside, first, "/workspace")):
        assert reason in (await agent.observe()).evidence
        assert (await agent.sessions())[0].id == expected
    assert await contents(inside) == ["old", "in the directory"]


async def test_any_busy_session_makes_the_agent_busy(home, observer):
    home.turn("one", "first")
    agent = observer()
    home.begin(at=home.records.at + 9)
    for status, waiting_for, activity in (
        ("busy", None, Activity.BUSY),
        ("waiting", "permission prompt", Activity.WAITING),
        ("idle", None, Activity.IDLE),
    ):
        home.status(status, waiting_for)
        assert (await agent.observe()).activity is activity
    home.exit()
    assert (await agent.observe()).activity is Activity.IDLE


async def test_the_last_answer_is_kept_although_the_process_ended_before_it_was_read(home, observer):
    agent = observer()
    home.turn("hello")
    assert (await agent.observe()).activity is Activity.BUSY
    home.write(home.records.answer("the end"))
    home.exit()
    assert (await agent.observe()).activity is Activity.GONE
    with pytest.raises(AgentGoneError):
        await agent.messages(keep=10)
    assert [one.content for one in await agent.saved_messages(keep=10)] == ["hello", "the end"]
    [session] = await agent.sessions()
    assert (session.id, session.is_live, session.pid) == (home.row["sessionId"], False, 0)


async def test_a_stale_busy_row_settles_as_idle_unless_a_subagent_runs(home, observer):
    agent = observer()
    home.turn("hello")
    home.write(home.records.answer("done"), home.records.duration())
    seen = await agent.observe()
    assert (seen.activity, seen.strength) == (Activity.IDLE, Strength.INFERRED)
    folder = home.transcript.with_suffix("") / "subagents"
    folder.mkdir(parents=True)
    meta = folder / "agent-a6c13a076fcb1e9b0.meta.json"
    meta.write_text('{"requestShape":"background"}')
    assert (await agent.observe()).activity is Activity.BUSY
    meta.write_text('{"requestShape":"background","finished":true}')
    assert (await agent.observe()).activity is Activity.IDLE


async def test_the_last_message_tells_that_something_is_unread(home, observer):
    agent = observer()
    home.turn("hello", "hello yourself")
    assert (await agent.observe()).unread
    await agent.messages(keep=10)
    assert not (await agent.observe()).unread
    home.turn("more")
    assert (await agent.observe()).unread


async def test_messages_are_redacted(home, observer):
    home.turn("my token is s3cr3t-s3cr3t", "I see")
    agent = observer(redact=Redactor(values=lambda: ["s3cr3t-s3cr3t"]))
    assert "s3cr3t" not in " ".join(await contents(agent))


async def test_what_is_skipped_is_counted_and_said_once(home, observer):
    counted = Registry().counter("agentd_agent_records_skipped_total", "x", "kind", "reason")
    agent = observer(skipped=counted)
    home.turn("hello", "hello yourself")
    with capture_logs() as logs:
        for _ in range(2):
            home.write(home.records.record("news"), home.records.record("user", message="x"), 7)
            await agent.observe()
    assert {line.split("reason=")[1] for line in counted.render()[2:]} == {
        '"json"} 2', '"malformed"} 2', '"unknown"} 2',
    }  # fmt: skip
    assert sorted(one["reason"] for one in logs) == ["json", "malformed", "unknown"]
    assert await contents(agent) == ["hello", "hello yourself"]


@pytest.mark.parametrize("what", ["folder", "sessions", "projects", "transcript"])
async def test_what_disappears_and_comes_back_is_read_again(home, observer, tmp_path, fake_clock, what):
    home.turn("hello", "hello yourself")
    agent = observer()
    await agent.observe()
    path = {"folder": home.folder, "transcript": home.transcript}.get(what, home.folder / what)
    path.rename(tmp_path / "away")
    gone = what in ("folder", "sessions")
    assert (await agent.observe()).activity is (Activity.GONE if gone else Activity.IDLE)
    if not gone:
        assert await contents(agent) == []
    (tmp_path / "away").rename(path)
    assert (await agent.observe()).activity is Activity.IDLE
    assert await contents(agent) == ["hello", "hello yourself"]


async def test_a_disk_that_hangs_is_named_and_asked_once(home, observer, monkeypatch):
    monkeypatch.setattr(agent_module, "LOOK_TIMEOUT_S", 0.05)
    calls = []
    real = sessions.read_registry
    monkeypatch.setattr(
        sessions,
        "read_registry",
        lambda *args, **fields: calls.append(time.sleep(0.3)) or real(*args, **fields),
    )
    agent = observer()
    for _ in range(3):
        seen = await agent.observe()
        assert (seen.activity, "was not read" in seen.evidence) == (Activity.BROKEN, True)
        with pytest.raises(AgentBusyError):
            await agent.messages(keep=1)
    assert len(calls) <= 1
    await agent.close()


async def test_the_diagnosis_names_version_session_reason_and_privacy(home, observer):
    home.row["version"] = "2.2.0"
    home.turn("hello", "hello yourself")
    diagnosis = await observer().diagnose()
    for part in (
        "2.2.0 (the last one tried is 2.1.330)",
        home.row["sessionId"][:8],
        "/workspace",
        "only live",
        "idle",
        "reads the texts",
    ):
        assert part in diagnosis.cause


async def test_a_look_that_finds_nothing_new_is_cheap(home, fake_clock):
    for number in range(200):
        home.turn(f"prompt {number}", "an answer" * 100)
    reader = sessions.SessionReader(
        home.folder, owner=os.getuid(), directory=None, keep=10, wall=lambda: 0.0, redact=Redactor(values=tuple), skipped=print
    )  # fmt: skip
    reader.look()
    began = time.process_time()
    for _ in itertools.repeat(None, 100):
        reader.look()
    assert (time.process_time() - began) / 100 < 0.015
