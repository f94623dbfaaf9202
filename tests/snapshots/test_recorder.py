import asyncio
import errno
import json
import os

import pytest
from structlog.testing import capture_logs

from agentd.conversation.message import Message
from agentd.metrics import Registry
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool

TASK = "11111111-1111-4111-8111-111111111111"


def said(content, number=0, role="agent"):
    return Message(number, role, content, "2026-03-02T09:00:00Z")


def contents(entry):
    return [message["content"] for message in json.loads(entry.payload)["messages"]]


@pytest.fixture
async def spool(tmp_path):
    spool = Spool.open(tmp_path / "spool")
    yield spool
    spool.close()


class Watched:
    """A recorder, what it announced, and how often the disk was written."""

    def __init__(self, spool, clock, **options):
        self.spooled = []
        self.metrics = Registry()
        options = {"task_id": TASK, "max_messages": 10, "max_bytes": 65_536, "checkpoint_s": 5.0} | options
        self.recorder = Recorder(
            spool=spool, clock=clock, metrics=self.metrics, on_spooled=self.spooled.append, **options
        )

    def written(self):
        return len(self.spooled)

    def failures(self):
        return self.metrics.counter("agentd_snapshot_writes_total", "", "outcome").value(outcome="failed")


@pytest.fixture
def watched(spool, clock):
    return Watched(spool, clock)


@pytest.fixture
async def running(watched):
    task = asyncio.create_task(watched.recorder.run(), name="recorder")
    yield watched
    task.cancel()


async def until(predicate):
    async with asyncio.timeout(10):
        while not predicate():
            await asyncio.sleep(0.001)


async def test_a_settle_has_the_window_on_disk_when_it_returns(watched, spool):
    watched.recorder.offer([said("hi", 0, "user"), said("hello   \n", 1)])
    entry = await watched.recorder.settle()
    assert contents(entry) == ["hi", "hello\n"]
    assert Spool.open(spool.path).load(TASK).payload == entry.payload
    assert entry.captured_at == "2026-03-02T09:00:00.000000Z"
    assert watched.spooled == [entry]


async def test_an_unchanged_window_is_written_once(watched):
    watched.recorder.offer([said("hi")])
    first = await watched.recorder.settle()
    watched.recorder.offer([said("hi")])
    watched.recorder.offer([said("hi   ")])
    assert await watched.recorder.settle() == first
    assert watched.written() == 1


async def test_while_messages_change_the_disk_is_written_at_most_every_checkpoint(running, fake_clock):
    for tenth in range(201):
        running.recorder.offer([said("go", 0, "user"), said(f"screen {tenth}", 1)])
        await fake_clock.advance(0.1)
        await until(lambda: not running.recorder._one_at_a_time.locked())
    assert 4 <= running.written() <= 6, "20 seconds of changes, one write each 5 seconds"


async def test_the_spool_is_never_older_than_a_checkpoint(running, fake_clock, spool):
    for second in range(1, 40):
        running.recorder.offer([said("go", 0, "user"), said(str(second), 1)])
        await fake_clock.advance(1.0)
        await until(lambda: not running.recorder._one_at_a_time.locked())
        assert second - int(contents(spool.load(TASK))[-1]) <= 5


async def test_nothing_said_is_nothing_written(watched, spool):
    assert await watched.recorder.capture() is None
    watched.recorder.offer([said("")])
    assert await watched.recorder.settle() is None
    assert spool.entries() == []


async def test_at_stop_the_newest_is_captured_and_else_what_the_spool_holds(watched, spool, clock):
    watched.recorder.offer([said("go", 0, "user"), said("screen", 1)])
    await watched.recorder.settle()
    watched.recorder.offer([said("go", 0, "user"), said("last screen", 1)])
    assert contents(await watched.recorder.capture()) == ["go", "last screen"]
    after_restart = Watched(Spool.open(spool.path), clock)
    assert contents(await after_restart.recorder.capture()) == ["go", "last screen"]
    assert after_restart.written() == 0


async def test_after_a_restart_a_blank_agent_does_not_replace_what_was_kept(watched, spool, clock):
    watched.recorder.offer([said("go", 0, "user"), said("done", 1)])
    await watched.recorder.settle()
    again = Watched(Spool.open(spool.path), clock)
    again.recorder.offer([])
    again.recorder.offer([said(" ")])
    assert contents(await again.recorder.capture()) == ["go", "done"]
    again.recorder.offer([said("welcome")])
    assert contents(await again.recorder.capture()) == ["go", "done", "welcome"]


async def test_a_cut_conversation_survives_the_agents_start_screen_after_a_restart(watched, spool, clock):
    watched.recorder.offer([said("go", 0, "user"), said("x" * 80_000, 1)])
    assert (await watched.recorder.settle()).truncated
    again = Watched(Spool.open(spool.path), clock)
    again.recorder.offer([said("welcome")])
    entry = await again.recorder.settle()
    assert contents(entry)[-1] == "welcome"
    assert len(entry.payload) > 65_000


async def test_tasks_do_not_see_each_others_messages(watched, spool, clock):
    watched.recorder.offer([said("mine", 0, "user")])
    await watched.recorder.settle()
    assert await Watched(spool, clock, task_id="").recorder.capture() is None


async def test_a_claim_that_brings_a_task_takes_the_conversation_along(watched, spool):
    watched.recorder.retarget("")
    watched.recorder.offer([said("go", 0, "user")])
    await watched.recorder.settle()
    watched.recorder.retarget(TASK)
    entry = await watched.recorder.settle()
    assert (entry.task_id, contents(entry)) == (TASK, ["go"])
    assert spool.newest().task_id == TASK


async def test_a_task_that_comes_while_the_disk_is_busy_gets_its_snapshot_too(watched, spool, monkeypatch):
    watched.recorder.offer([said("go", 0, "user")])
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (watched.recorder.retarget("other"), real(fd))[1])
    assert (await watched.recorder.settle()).task_id == TASK
    assert (await watched.recorder.settle()).task_id == "other"


async def test_one_event_is_recorded_like_a_read(watched):
    watched.recorder.offer([said("go", 0, "user"), said("wor", 1)])
    assert watched.recorder.update(said("working", 1))
    assert contents(await watched.recorder.settle()) == ["go", "working"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
async def test_a_full_disk_is_told_once_tried_at_each_checkpoint_and_loses_nothing(
    running, fake_clock, spool, monkeypatch, code
):
    recorder = running.recorder
    recorder.offer([said("go", 0, "user")])
    await recorder.settle()
    with capture_logs() as logs:
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
            for number in range(1, 4):
                recorder.offer([said("go", 0, "user"), said(str(number), 1)])
                await fake_clock.advance(5.0)
                await until(lambda number=number: running.failures() >= number)
            assert contents(Spool.open(spool.path).load(TASK)) == ["go"], "the good one stays on disk"
            entry = await recorder.capture()
            assert (contents(entry), entry.durable) == (["go", "3"], False), (
                "and the new one can be delivered"
            )
        await fake_clock.advance(5.0)
        await until(lambda: spool.load(TASK).durable)
        await until(lambda: not recorder._one_at_a_time.locked())
    assert contents(Spool.open(spool.path).load(TASK)) == ["go", "3"]
    told = [line["event"] for line in logs]
    assert told == ["spool.write_failed", "spool.write_restored"]
    assert running.spooled[-1].serial == 4
