import asyncio
import errno
import json
import os

import pytest
from metric_values import value_of
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
    spool = Spool(tmp_path / "spool")
    yield spool
    spool.close()


class Watched:
    """A recorder and its metrics."""

    def __init__(self, spool, clock, **options):
        self.spool = spool
        self.metrics = Registry()
        options = {"task_id": TASK, "max_messages": 10, "max_bytes": 65_536, "checkpoint_s": 5.0} | options
        self.recorder = Recorder(spool=spool, clock=clock, metrics=self.metrics, **options)

    def written(self):
        return self._writes("written")

    def failures(self):
        return self._writes("failed")

    def _writes(self, outcome):
        return value_of(self.metrics, "agentd_snapshot_writes_total", outcome=outcome)

    def at_rest(self):
        return not self.recorder._fitting.locked() and all(entry.durable for entry in self.spool.entries())


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


async def test_after_flush_to_disk_the_window_is_on_disk(watched, spool):
    watched.recorder.record_messages([said("hi", 0, "user"), said("hello   \n", 1)])
    entry = await watched.recorder.flush_to_disk()
    assert contents(entry) == ["hi", "hello\n"]
    assert Spool(spool.path).get(TASK).payload == entry.payload
    assert entry.captured_at == "2026-03-02T09:00:00.000000Z"
    assert (watched.written(), entry.durable) == (1, True)


async def test_an_unchanged_window_is_written_once(watched):
    watched.recorder.record_messages([said("hi")])
    first = await watched.recorder.flush_to_disk()
    watched.recorder.record_messages([said("hi")])
    watched.recorder.record_messages([said("hi   ")])
    assert await watched.recorder.flush_to_disk() == first
    assert watched.written() == 1


async def test_while_messages_change_there_is_one_write_per_checkpoint(running, fake_clock):
    for tenth in range(201):
        running.recorder.record_messages([said("go", 0, "user"), said(f"screen {tenth}", 1)])
        await fake_clock.advance(0.1)
        await until(running.at_rest)
    assert 4 <= running.written() <= 6, "20 seconds of changes, one write in 5 seconds"


async def test_the_spool_is_never_older_than_a_checkpoint(running, fake_clock, spool):
    for second in range(1, 40):
        running.recorder.record_messages([said("go", 0, "user"), said(str(second), 1)])
        await fake_clock.advance(1.0)
        await until(running.at_rest)
        assert second - int(contents(spool.get(TASK))[-1]) <= 5


async def test_without_a_message_nothing_is_written(watched, spool):
    assert await watched.recorder.flush_to_disk() is None
    watched.recorder.record_messages([said("")])
    assert await watched.recorder.flush_to_disk() is None
    assert spool.entries() == []


async def test_the_snapshot_is_the_newest_window_and_after_a_restart_the_stored_one(watched, spool, clock):
    watched.recorder.record_messages([said("go", 0, "user"), said("screen", 1)])
    await watched.recorder.flush_to_disk()
    watched.recorder.record_messages([said("go", 0, "user"), said("last screen", 1)])
    assert contents(await watched.recorder.flush_to_disk()) == ["go", "last screen"]
    after_restart = Watched(Spool(spool.path), clock)
    assert contents(await after_restart.recorder.flush_to_disk()) == ["go", "last screen"]
    assert after_restart.written() == 0


async def test_after_a_restart_a_blank_agent_does_not_replace_the_conversation(watched, spool, clock):
    watched.recorder.record_messages([said("go", 0, "user"), said("done", 1)])
    await watched.recorder.flush_to_disk()
    again = Watched(Spool(spool.path), clock)
    again.recorder.record_messages([])
    again.recorder.record_messages([said(" ")])
    assert contents(await again.recorder.flush_to_disk()) == ["go", "done"]
    again.recorder.record_messages([said("welcome")])
    assert contents(await again.recorder.flush_to_disk()) == ["go", "done", "welcome"]


async def test_after_a_restart_a_start_screen_does_not_replace_a_truncated_conversation(
    watched, spool, clock
):
    watched.recorder.record_messages([said("go", 0, "user"), said("x" * 80_000, 1)])
    assert (await watched.recorder.flush_to_disk()).truncated
    again = Watched(Spool(spool.path), clock)
    again.recorder.record_messages([said("welcome")])
    entry = await again.recorder.flush_to_disk()
    assert contents(entry)[-1] == "welcome"
    assert len(entry.payload) > 65_000


async def test_the_messages_of_two_tasks_are_separate(watched, spool, clock):
    watched.recorder.record_messages([said("mine", 0, "user")])
    await watched.recorder.flush_to_disk()
    assert await Watched(spool, clock, task_id="").recorder.flush_to_disk() is None


async def test_set_task_stores_the_conversation_under_the_new_task(watched, spool):
    watched.recorder.set_task("")
    watched.recorder.record_messages([said("go", 0, "user")])
    await watched.recorder.flush_to_disk()
    watched.recorder.set_task(TASK)
    entry = await watched.recorder.flush_to_disk()
    assert (entry.task_id, contents(entry)) == (TASK, ["go"])
    assert spool.newest().task_id == TASK


async def test_a_task_that_is_set_during_a_write_gets_its_own_snapshot(watched, spool, monkeypatch):
    watched.recorder.record_messages([said("go", 0, "user")])
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (watched.recorder.set_task("other"), real(fd))[1])
    assert (await watched.recorder.flush_to_disk()).task_id == TASK
    assert (await watched.recorder.flush_to_disk()).task_id == "other"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
async def test_a_full_disk_is_logged_once_retried_at_each_checkpoint_and_loses_nothing(
    running, fake_clock, spool, monkeypatch, code
):
    recorder = running.recorder
    recorder.record_messages([said("go", 0, "user")])
    await recorder.flush_to_disk()
    with capture_logs() as logs:
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
            for number in range(1, 4):
                recorder.record_messages([said("go", 0, "user"), said(str(number), 1)])
                await fake_clock.advance(5.0)
                await until(lambda number=number: running.failures() >= number)
            assert contents(Spool(spool.path).get(TASK)) == ["go"], "the old snapshot stays on disk"
            entry = await recorder.flush_to_disk()
            assert (contents(entry), entry.durable) == (["go", "3"], False), (
                "the new snapshot can be delivered"
            )
        await fake_clock.advance(5.0)
        await until(lambda: running.written() == 2)
    assert spool.get(TASK).durable
    assert contents(Spool(spool.path).get(TASK)) == ["go", "3"]
    events = [line["event"] for line in logs if line["log_level"] != "debug"]
    assert events == ["spool.write_failed", "spool.write_restored"]
    assert spool.get(TASK).serial == 4
