"""What of Codex's files is not trusted, and what is out of order."""

import asyncio
import os
import threading
import time
import tracemalloc

import pytest
from agents.codex_files import RolloutWriter, WriterLock

from agentd.agents import session_file
from agentd.agents.agent import Activity
from agentd.agents.codex import agent as agent_module
from agentd.agents.codex import locks
from agentd.agents.codex.files import RolloutFiles
from agentd.agents.codex.threads import Threads
from agentd.agents.discovery import FILE_KINDS
from agentd.metrics import Registry
from agentd.worker_thread import WorkerThread


@pytest.mark.parametrize("what", ["file", "day", "sessions"])
async def test_symbolic_links_are_not_followed(folder, tmp_path, make_agent, what):
    outside = RolloutWriter(tmp_path / "outside")
    outside.begin()
    outside.start_turn("secret")
    WriterLock(folder, outside.thread)
    inside = folder / outside.path.relative_to(tmp_path / "outside")
    link, target = {
        "file": (inside, outside.path),
        "day": (inside.parent, outside.path.parent),
        "sessions": (folder / "sessions", tmp_path / "outside" / "sessions"),
    }[what]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    agent = make_agent()
    assert (await agent.observe()).activity is Activity.IDLE
    assert list(await agent.messages(keep=3)) == []


def test_files_and_locks_of_another_user_are_not_used(session, folder):
    assert locks.writers(folder, os.getuid() + 1) == {}
    found = Threads(folder, owner=os.getuid() + 1, keep=3).look()
    assert not [one for one in found.threads if one.messages or one.writer]
    assert [one.problem for one in found.threads if one.problem]


def test_a_lock_file_with_another_name_is_no_thread(folder):
    session = WriterLock(folder, "01a1fdb3-8ade-72b1-99e6-4ac5398602b0")
    for name in (".coordination", "..", "x" * 36, "01a1fdb3-8ade-72b1-99e6-4ac5398602b0.old"):
        WriterLock(folder, name)
    assert set(locks.writers(folder, os.getuid())) == {session.path.stem}


async def test_a_file_that_does_not_describe_its_thread_is_broken(session, make_agent):
    lines = session.path.read_text("utf-8").replace(session.thread, "01a1fdb3-8ade-72b1-99e6-4ac5398602b0", 1)
    session.path.write_text(lines, "utf-8")
    agent = make_agent()
    observation = await agent.observe()
    assert observation.activity is Activity.BROKEN
    assert "another thread" in observation.evidence
    assert (await agent.diagnose()).severity == "fail"


async def test_lines_that_are_skipped_are_counted(session, make_agent):
    metrics = Registry()
    counter = metrics.counter("agentd_test_total", "Test.", "kind", "reason")
    agent = make_agent(skipped=counter)
    with session.path.open("ab") as out:
        out.write(b"nonsense\n{\n")
    await agent.observe()
    assert 'agentd_test_total{kind="codex",reason="json"} 2' in counter.render()


async def test_a_disk_that_hangs_delays_no_observation(session, make_agent, monkeypatch):
    monkeypatch.setattr(agent_module, "LOOK_TIMEOUT_S", 0.05)
    agent = make_agent()
    assert (await agent.observe()).activity is Activity.IDLE
    hangs = threading.Event()
    agent._disk.submit(hangs.wait)
    for _ in range(5):
        observation = await agent.observe()
        assert (observation.activity, observation.readable) == (Activity.BROKEN, False)
    assert agent._disk._calls.qsize() <= 1, "looks do not pile up"
    hangs.set()
    async with asyncio.timeout(5):
        while (await agent.observe()).activity is not Activity.IDLE:
            pass


async def test_a_release_that_was_not_tried_is_named(session, make_agent):
    session.path.write_text(session.path.read_text("utf-8").replace("0.169.0", "0.170.1"), "utf-8")
    cause = (await make_agent().diagnose()).cause
    assert "Codex 0.170.1, newer than 0.169.0" in cause
    assert "agentd reads the prompts and the answers" in cause


# Limits.


def test_a_huge_rollout_opens_in_little_time_and_memory(session, folder, monkeypatch):
    with session.path.open("r+b") as file:
        file.seek(1 << 30)
        file.write(b"\n")
    session.start_turn("one")
    for number in range(40):
        session.call(f"cat {number}")
        session.result("x" * 100_000)
    session.end_turn("two")
    found = Threads(folder, owner=os.getuid(), keep=2)
    tracemalloc.start()
    began = time.monotonic()
    [thread] = found.look().threads
    took_s, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [message.content for message in thread.messages] == ["one", "two"]
    assert (thread.turn_at, thread.directory) == (None, "/w")
    assert peak < 10e6
    assert took_s < 2, "0.3 s without tracing, on a machine without load"


def test_what_a_limit_left_is_read_by_the_next_look(session, folder, monkeypatch):
    found = Threads(folder, owner=os.getuid(), keep=2)
    found.look()
    monkeypatch.setattr(session_file, "LINE_MAX_BYTES", 20_000)
    monkeypatch.setattr(session_file, "READ_MAX_BYTES", 40_000)
    session.start_turn("one")
    for _ in range(20):
        session.result("x" * 10_000)
    session.end_turn("two")
    for _ in range(20):
        [thread] = found.look().threads
    assert (thread.turn_at, thread.messages[-1].content) == (None, "two")


def test_a_rollout_is_found_in_any_folder_and_when_it_appears(folder):
    files = RolloutFiles(folder / "sessions")
    assert files.newest(8) == []
    for day in ("2024/02/29", "2026/11/21"):
        writer = RolloutWriter(folder, day=day)
        assert files.of_thread(writer.thread, os.getuid()) is None
        writer.begin()
        assert files.of_thread(writer.thread, os.getuid()) == writer.path
    assert files.count == 2
    writer.path.unlink()
    assert files.of_thread(writer.thread, os.getuid()) is None


def test_the_first_record_tells_the_thread_where_the_name_has_two_ids(folder):
    old, other = RolloutWriter(folder), RolloutWriter(folder)
    old.begin()
    name = f"rollout-2026-11-21T10-00-00-{other.thread}_{old.thread}.jsonl"
    other.path = other.path.with_name(name)
    other.begin()
    files = RolloutFiles(folder / "sessions")
    assert files.of_thread(old.thread, os.getuid()) == old.path
    assert files.of_thread(other.thread, os.getuid()) == other.path
    back = RolloutWriter(folder, thread=old.thread)
    back.path = back.path.with_name(name.replace("10-00-00", "11-00-00"))
    back.begin()
    assert RolloutFiles(folder / "sessions").of_thread(old.thread, os.getuid()) == back.path


async def test_a_folder_of_another_user_is_named(session, folder, fake_clock):
    disk = WorkerThread("test")
    agent = agent_module.CodexAgent(
        folder, owner=os.getuid() + 1, keep=3, clock=fake_clock.as_clock(), disk=disk
    )
    diagnosis = await agent.diagnose()
    assert diagnosis.severity == "warn"
    assert f"belongs to user {os.getuid()}" in diagnosis.cause
    assert (await agent.observe()).activity is Activity.GONE
    await agent.close()
    disk.close(1)


def test_a_tree_of_folders_that_are_no_dates_is_not_walked(folder):
    for name in ("sessions/2026/11/xx", "sessions/other/11/21", "sessions/2026/11/21/deep"):
        (folder / name).mkdir(parents=True)
        (folder / name / "rollout-2026-11-21T10-00-00-01a1fdb3-8ade-72b1-99e6-4ac5398602b0.jsonl").touch()
    assert RolloutFiles(folder / "sessions").newest(8) == []


def test_the_folder_is_codex_home_or_in_the_home_of_the_user(tmp_path):
    kind = FILE_KINDS["codex"]
    assert kind.folder(tmp_path, {}) == tmp_path / ".codex"
    assert kind.folder(tmp_path, {"CODEX_HOME": "/srv/codex"}).as_posix() == "/srv/codex"
