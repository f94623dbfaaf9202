"""Codex as an agent: which sessions are open, and what they do."""

import os
import time

import pytest
from agents.codex_files import RolloutWriter, WriterLock

from agentd.agents.agent import Activity, AgentGoneError, Strength
from agentd.agents.codex import control, locks, threads
from agentd.agents.codex.control import ControlSocket
from agentd.agents.codex.locks import Writer, socket_of
from agentd.conversation.redaction import Redactor


async def seen(agent):
    observation = await agent.observe()
    return observation.activity, observation.strength


# Turns and processes.


async def test_an_open_turn_is_busy_however_long_it_is_silent(session, make_agent, fake_clock):
    agent = make_agent()
    session.start_turn("work")
    session.call("sleep 9999")
    for _ in range(3):
        assert await seen(agent) == (Activity.BUSY, Strength.RECORDED)
        await fake_clock.advance(3600)
    session.end_turn("done")
    assert await seen(agent) == (Activity.IDLE, Strength.RECORDED)


@pytest.mark.parametrize("killed", [True, False])
async def test_a_turn_without_an_end_is_over_when_its_writer_is_gone(
    session, make_agent, monkeypatch, killed
):
    agent = make_agent()
    session.start_turn("work")
    assert (await agent.observe()).activity is Activity.BUSY
    session.lock.release(killed=killed)
    assert (await agent.observe()).activity is Activity.GONE
    # The session is resumed: the new process holds the lock, and the old turn still has no end.
    lock = WriterLock(session.path.parents[4], session.thread)
    monkeypatch.setattr(locks, "writer_of", lambda pid: Writer(pid, time.time() + 60, 7))
    for one in (agent, make_agent()):
        observation = await one.observe()
        assert (observation.activity, observation.strength) == (Activity.IDLE, Strength.RECORDED)
        assert "cut off" in observation.evidence
    session.at = time.time() + 120
    session.start_turn("work again")
    assert (await agent.observe()).activity is Activity.BUSY
    lock.release()


async def test_a_clock_that_is_set_during_a_turn_does_not_end_it(session, make_agent, monkeypatch):
    agent = make_agent()
    await agent.observe()
    session.start_turn("work")
    assert (await agent.observe()).activity is Activity.BUSY
    own = locks.writer_of(os.getpid())
    monkeypatch.setattr(locks, "writer_of", lambda _pid: own._replace(started_at=time.time() + 3600))
    assert (await agent.observe()).activity is Activity.BUSY
    session.at = time.time() - 7200
    session.end_turn("done")
    session.start_turn("more")
    assert (await agent.observe()).activity is Activity.BUSY


async def test_an_open_thread_without_a_prompt_is_idle(folder, make_agent):
    agent = make_agent()
    WriterLock(folder, "01a1fdb3-8ade-72b1-99e6-4ac5398602b0")
    assert (await agent.observe()).activity is Activity.IDLE
    assert list(await agent.messages(keep=3)) == []


@pytest.mark.parametrize("content", [b"", b'{"timestamp":"2026-11-21T'])
async def test_a_rollout_whose_first_record_is_not_whole_yet_is_not_damaged(session, make_agent, content):
    session.path.write_bytes(content)
    assert (await make_agent().observe()).activity is Activity.IDLE


@pytest.mark.parametrize("runs", [True, False])
async def test_without_lock_files_a_session_is_open_while_a_codex_process_runs(
    session, make_agent, monkeypatch, runs
):
    session.lock.release()
    (session.path.parents[4] / "thread-writer-locks").rmdir()
    monkeypatch.setattr(threads, "programs", lambda _owner: [Writer(os.getpid(), 1.0)] if runs else [])
    agent = make_agent()
    session.start_turn("work")
    assert (await agent.observe()).activity is (Activity.BUSY if runs else Activity.GONE)
    assert ("no writer locks" in (await agent.diagnose()).cause) is runs


def test_a_codex_process_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(locks, "PROGRAM", locks.read_name(os.getpid()))
    own = [writer for writer in locks.programs(os.getuid()) if writer.pid == os.getpid()]
    assert len(own) == 1
    assert time.time() - 3600 * 24 < own[0].started_at <= time.time()
    assert locks.writer_of(2**22 + 1) == Writer(2**22 + 1, 0.0)


# Sessions.


async def test_a_subagent_counts_for_busy_and_is_no_session(session, folder, make_agent):
    agent = make_agent()
    helper = RolloutWriter(folder, parent=session.thread)
    lock = WriterLock(folder, helper.thread)
    helper.begin()
    helper.start_turn("part of the work")
    observation = await agent.observe()
    assert observation.activity is Activity.BUSY
    assert "subagent" in observation.evidence
    assert [one.id for one in await agent.sessions()] == [session.thread]
    assert [message.content for message in await agent.messages(keep=2)] == ["hello", "hello yourself"]
    helper.end_turn("done")
    assert (await agent.observe()).activity is Activity.IDLE
    lock.release()


async def test_the_current_session_has_the_latest_prompt_and_not_the_latest_change(
    session, folder, make_agent
):
    old = RolloutWriter(folder, day="2025/01/02")
    lock = WriterLock(folder, old.thread)
    old.begin()
    old.start_turn("resumed after a year")
    os.utime(session.path)
    agent = make_agent()
    observation = await agent.observe()
    assert observation.activity is Activity.BUSY, "every open session counts"
    sessions = await agent.sessions()
    assert [one.id for one in sessions] == [old.thread, session.thread]
    assert all(one.is_live and one.pid == os.getpid() for one in sessions)
    assert observation.evidence == f"a turn runs (session {old.thread[:8]}, prompted last of 2 open ones)"
    lock.release()


async def test_the_current_session_is_in_the_directory_if_there_is_one(session, folder, make_agent, tmp_path):
    other = RolloutWriter(folder, directory=str(tmp_path / "project" / "below"))
    lock = WriterLock(folder, other.thread)
    other.begin()
    other.at = time.time() - 60
    other.start_turn("here")
    agent = make_agent(directory=tmp_path / "project")
    await agent.observe()
    assert (await agent.sessions())[0].id == other.thread
    assert f"in {tmp_path / 'project'}" in (await agent.observe()).evidence
    lock.release()


async def test_a_run_that_ended_between_two_polls_leaves_its_messages(session, make_agent):
    agent = make_agent()
    await agent.observe()
    session.start_turn("quick")
    session.end_turn("answer")
    session.lock.release()
    assert (await agent.observe()).activity is Activity.GONE
    with pytest.raises(AgentGoneError):
        await agent.messages(keep=2)
    assert [message.content for message in await agent.saved_messages(keep=2)] == ["quick", "answer"]


async def test_messages_are_unread_until_they_were_read(session, make_agent):
    agent = make_agent()
    assert (await agent.observe()).unread
    await agent.messages(keep=3)
    assert not (await agent.observe()).unread
    session.start_turn("more")
    assert (await agent.observe()).unread


async def test_a_secret_is_masked_before_a_message_leaves_the_kind(session, make_agent):
    agent = make_agent(redact=Redactor(values=lambda: ["hello yourself"]))
    await agent.observe()
    assert "yourself" not in (await agent.messages(keep=1))[0].content


# The daemon.


async def test_the_daemon_tells_a_turn_that_waits_from_one_that_runs(session, daemon, make_agent, folder):
    agent = make_agent()
    await daemon.start(folder / "s")
    await agent.observe()
    assert daemon.clients == 0, "between turns the rollout tells enough"
    session.start_turn("work")
    session.call("rm -r x", "may I?")
    daemon.say(session.thread, "active")
    assert await seen(agent) == (Activity.BUSY, Strength.TOLD)
    daemon.say(session.thread, "active", "waitingOnApproval")
    observation = await agent.observe()
    assert (observation.activity, observation.strength) == (Activity.WAITING, Strength.TOLD)
    assert observation.evidence == "exec_command: rm -r x (may I?)"
    daemon.say(session.thread, "notLoaded")
    assert await seen(agent) == (Activity.BUSY, Strength.RECORDED)
    assert daemon.clients == 1
    session.end_turn("done")
    assert await seen(agent) == (Activity.IDLE, Strength.RECORDED)
    assert set(daemon.methods) == {"initialize", "initialized", "thread/list"}


@pytest.mark.parametrize(
    "raw",
    [
        "no JSON",
        "[]",
        '{"id": 2, "error": {"code": -32600, "message": "not now"}}',
        '{"id": 2, "result": 7}',
        '{"id": 2, "result": {"data": {"status": 1}}}',
        '{"id": 2, "result": {"data": [7, {"status": 7}, {"status": {"type": ["active"]}}]}}',
        '{"id": 2, "result": {"data": [{"id": null, "status": {"type": "active", "activeFlags": {}}}]}}',
        '{"id": 99, "result": {"data": []}}',
        "x" * (control.ANSWER_MAX_BYTES + 1),
    ],
    ids=range(9),
)
async def test_a_daemon_that_cannot_be_understood_is_done_without(
    session, daemon, make_agent, folder, raw, monkeypatch, fake_clock
):
    monkeypatch.setattr(control, "TIMEOUT_S", 0.3)
    daemon.raw = raw
    await daemon.start(folder / "s")
    session.start_turn("work")
    agent = make_agent()
    assert await seen(agent) == (Activity.BUSY, Strength.RECORDED)
    asked = daemon.methods.count("thread/list")
    if agent._control.problem:
        await seen(agent)
        assert daemon.methods.count("thread/list") == asked, "not asked again at once"
        assert agent._control.problem in (await agent.diagnose()).cause
        daemon.raw = None
        daemon.say(session.thread, "active")
        await fake_clock.advance(control.RETRY_S)
        assert await seen(agent) == (Activity.BUSY, Strength.TOLD)


async def test_a_socket_of_another_user_is_not_used(session, daemon, folder, fake_clock):
    await daemon.start(folder / "s")
    assert socket_of(folder, os.getuid()) == folder / "s"
    assert socket_of(folder, os.getuid() + 1) is None
    client = ControlSocket(owner=os.getuid() + 1, clock=fake_clock.as_clock())
    assert await client.statuses(folder / "s") == {}
    assert "belongs to user" in client.problem
    assert daemon.methods == []
