"""What a run leaves about its end, and what the next one makes of it."""

import asyncio
import os
import threading

import pytest
from structlog.testing import capture_logs

from agentd.daemon import last_stop
from agentd.daemon.last_stop import NAME, LastStop, RunState, read
from agentd.snapshots.receipts import Receipt, SnapshotOutcome
from agentd.worker_thread import WorkerThread

DISK = WorkerThread("state")


def test_the_first_run_logs_no_warning(tmp_path, clock):
    last = LastStop(tmp_path, clock, DISK)
    assert last.previous is None
    with capture_logs() as lines:
        last.warn_if_killed()
    assert lines == []


async def test_a_run_that_ended_in_order_causes_no_warning(tmp_path, clock):
    run = LastStop(tmp_path, clock, DISK)
    await run.running()
    await run.stopping("SIGTERM", 8)
    await run.stopped("delivered", timeout_s=5)
    after = LastStop(tmp_path, clock, DISK)
    assert after.previous.as_json() == {
        "ended": "in_order",
        "started_at": after.previous.started_at,
        "reason": "SIGTERM",
        "began_at": after.previous.began_at,
        "ended_at": after.previous.ended_at,
        "budget_s": 8,
        "outcome": "delivered",
    }
    with capture_logs() as lines:
        after.warn_if_killed()
    assert lines == []


@pytest.mark.parametrize(("steps", "verdict"), [(1, "killed"), (2, "cut_off")])
async def test_the_warning_says_how_far_a_killed_run_had_come(tmp_path, clock, steps, verdict):
    run = LastStop(tmp_path, clock, DISK)
    for step in (run.running, lambda: run.stopping("SIGTERM", 8))[:steps]:
        await step()
    after = LastStop(tmp_path, clock, DISK)
    with capture_logs() as lines:
        after.warn_if_killed()
    assert [(line["event"], line["ended"]) for line in lines] == [("agentd.last_run_not_stopped", verdict)]


@pytest.mark.parametrize(
    ("captured", "kept"),
    [
        (Receipt(SnapshotOutcome.NOTHING), "nothing: no message was captured"),
        (
            Receipt(SnapshotOutcome.PENDING, messages=1),
            "captured snapshots are in the spool and are delivered now",
        ),
        (
            Receipt(SnapshotOutcome.DELIVERED, messages=1),
            "captured snapshots are in the spool; the newest: delivered",
        ),
    ],
)
async def test_the_warning_says_what_is_left_of_the_conversation(tmp_path, clock, captured, kept):
    await LastStop(tmp_path, clock, DISK).running()
    with capture_logs() as lines:
        LastStop(tmp_path, clock, DISK).warn_if_killed(captured)
    assert [line["kept"] for line in lines] == [kept]


async def test_the_file_describes_the_current_run(tmp_path, clock):
    await LastStop(tmp_path, clock, DISK).running()
    assert read(tmp_path).state is RunState.RUNNING


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"state":"asleep"}', b'{"state":"running","x":1}', b"\xff"])  # fmt: skip
def test_a_damaged_file_counts_as_none(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    assert read(tmp_path) is None


async def test_a_full_disk_is_logged_and_not_raised(tmp_path, clock, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    run = LastStop(tmp_path, clock, DISK)
    monkeypatch.setattr(os, "write", full)
    with capture_logs() as lines:
        await run.stopping("SIGTERM", 8)
    assert [line["event"] for line in lines] == ["last_stop.not_kept"]


async def test_a_hung_disk_delays_the_end_by_its_time_limit_only(tmp_path, clock, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(last_stop, "replace_file", lambda *_args: release.wait(30))
    run = LastStop(tmp_path, clock, DISK)
    stopping = asyncio.create_task(run.stopping("SIGTERM", 8))
    with capture_logs() as lines:
        await run.stopped("delivered", timeout_s=0.05)
    release.set()
    await stopping
    assert [line["event"] for line in lines] == ["last_stop.not_kept"]
