"""A disk call that never returns does not delay the conversation: it is fitted, delivered and receipted in memory."""

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from structlog.testing import capture_logs

from agentd.clock import Clock
from agentd.conversation.fit import fit
from agentd.conversation.message import Message
from agentd.metrics import Registry
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.destinations.by_url import from_url
from agentd.snapshots.destinations.destination import Accepted
from agentd.snapshots.destinations.url_template import DestinationContext
from agentd.snapshots.receipts import SnapshotOutcome
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool

TASK = "11111111-1111-4111-8111-111111111111"
AT_ONCE_S = 1.0


class Disk:
    """Calls of `os` that block from `hang` until `release`, and then do their work."""

    def __init__(self, monkeypatch, call):
        self._monkeypatch = monkeypatch
        self._call = call
        self._released = threading.Event()
        self.reached = threading.Event()

    def hang(self):
        real = getattr(os, self._call)

        def blocked(*args, **kwargs):
            self.reached.set()
            self._released.wait()
            return real(*args, **kwargs)

        self._monkeypatch.setattr(os, self._call, blocked)

    def release(self):
        self._released.set()


@pytest.fixture(params=["open", "write", "fsync", "replace"])
def disk(request, monkeypatch):
    disk = Disk(monkeypatch, request.param)
    yield disk
    disk.release()


@pytest.fixture
def spool(tmp_path, disk):
    spool = Spool(tmp_path / "spool")
    yield spool
    disk.release()
    spool.close()


@pytest.fixture
def metrics():
    return Registry()


@pytest.fixture
def recorder(spool, metrics):
    return Recorder(
        spool=spool,
        task_id=TASK,
        max_messages=10,
        max_bytes=65_536,
        checkpoint_s=5.0,
        clock=Clock(),
        metrics=metrics,
    )


class Shelf:
    """A destination that accepts everything."""

    name = "shelf"
    needs_task = False

    def __init__(self):
        self.accepted = []

    async def deliver(self, entry):
        self.accepted.append(text_of(entry))
        return Accepted()


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def delivery(spool, shelf, monkeypatch):
    monkeypatch.setattr("agentd.snapshots.delivery.RECEIPT_TIMEOUT_S", 0.1)
    return Delivery(spool=spool, destinations=[shelf], upload="settle", clock=Clock(), metrics=Registry())


def text_of(entry):
    return json.loads(entry.payload)["messages"][-1]["content"]


def record(recorder, text):
    recorder.record_messages([Message(0, "user", text, "2026-03-02T09:00:00Z")])


async def flush(delivery):
    return await delivery.flush(time.monotonic() + 8.0)


def on_disk(spool):
    [entry] = Spool(spool.path).entries()
    return entry


async def test_capture_does_not_wait_for_the_disk(recorder, disk):
    disk.hang()
    record(recorder, "the answer")
    async with asyncio.timeout(AT_ONCE_S):
        entry = await recorder.capture()
    assert (text_of(entry), entry.durable) == ("the answer", False)


async def test_a_flush_to_disk_returns_after_its_timeout_and_is_logged_and_counted(recorder, disk, metrics):
    disk.hang()
    record(recorder, "the answer")
    with capture_logs() as logs:
        async with asyncio.timeout(AT_ONCE_S):
            entry = await recorder.flush_to_disk(0.1)
    assert (text_of(entry), entry.durable) == ("the answer", False)
    [line] = logs
    assert (line["event"], line["reason"]) == ("spool.write_failed", "no answer from the disk within 0.1 s")
    assert 'agentd_snapshot_writes_total{outcome="failed"} 1' in metrics.render()


async def test_the_snapshot_is_delivered_with_its_receipt(recorder, delivery, shelf, disk):
    disk.hang()
    record(recorder, "the answer")
    await recorder.capture()
    async with asyncio.timeout(AT_ONCE_S):
        receipt = await flush(delivery)
    assert shelf.accepted == ["the answer"]
    assert receipt.outcome is SnapshotOutcome.DELIVERED
    assert delivery.receipt() == receipt


async def test_a_newer_snapshot_is_delivered_while_the_write_of_an_older_one_hangs(
    recorder, delivery, shelf, disk, spool
):
    disk.hang()
    record(recorder, "older")
    await recorder.capture()
    assert await asyncio.to_thread(disk.reached.wait, 10)
    record(recorder, "newer")
    async with asyncio.timeout(AT_ONCE_S):
        assert text_of(await recorder.capture()) == "newer"
    assert (await flush(delivery)).outcome is SnapshotOutcome.DELIVERED
    assert shelf.accepted == ["newer"]
    disk.release()
    await spool.flush_to_disk(10)
    assert text_of(on_disk(spool)) == "newer"
    assert on_disk(spool).delivered_to("shelf")


async def test_a_hung_write_of_a_receipt_delays_no_delivery(recorder, delivery, shelf, disk):
    record(recorder, "first")
    assert (await recorder.flush_to_disk()).durable
    disk.hang()
    assert (await flush(delivery)).outcome is SnapshotOutcome.DELIVERED
    record(recorder, "second")
    await recorder.capture()
    assert (await flush(delivery)).outcome is SnapshotOutcome.DELIVERED
    assert shelf.accepted == ["first", "second"]


async def test_background_uploads_continue(recorder, delivery, shelf, disk, monkeypatch):
    monkeypatch.setattr("agentd.snapshots.uploader.SPACING_S", 0.0)
    disk.hang()
    running = asyncio.create_task(delivery.run())
    for text in ("first", "second"):
        record(recorder, text)
        await recorder.capture()
        delivery.request_upload()
        async with asyncio.timeout(AT_ONCE_S):
            while text not in shelf.accepted:
                await asyncio.sleep(0.001)
    running.cancel()


@pytest.mark.parametrize("scheme", ["file", "exec"])
async def test_a_destination_on_a_hung_disk_does_not_delay_another(
    recorder, spool, shelf, disk, scheme, tmp_path
):
    hung = from_url(
        f"{scheme}://{tmp_path}/destination",
        DestinationContext(session=None, folder=spool.path, environ={}),
    )
    delivery = Delivery(
        spool=spool, destinations=[hung, shelf], upload="settle", clock=Clock(), metrics=Registry()
    )
    record(recorder, "the answer")
    assert (await recorder.flush_to_disk()).durable
    disk.hang()
    async with asyncio.timeout(AT_ONCE_S):
        receipt = await delivery.flush(time.monotonic() + 0.3)
    assert shelf.accepted == ["the answer"]
    assert receipt.outcome is SnapshotOutcome.PENDING


async def test_a_disk_that_answers_again_gets_the_newest_snapshot(recorder, disk, spool, metrics):
    disk.hang()
    record(recorder, "older")
    await recorder.flush_to_disk(0.1)
    record(recorder, "newer")
    await recorder.capture()
    disk.release()
    with capture_logs() as logs:
        entry = await recorder.flush_to_disk()
    assert (text_of(entry), entry.durable) == ("newer", True)
    assert text_of(on_disk(spool)) == "newer"
    assert [line["event"] for line in logs] == ["spool.write_restored", "snapshot.spooled"]
    assert 'agentd_snapshot_writes_total{outcome="written"} 1' in metrics.render()


async def test_close_reports_a_hung_write_and_waits_no_longer_than_its_timeout(recorder, disk, spool):
    disk.hang()
    record(recorder, "the answer")
    await recorder.capture()
    started = time.monotonic()
    with capture_logs() as logs:
        assert not spool.close(0.1)
    assert time.monotonic() - started < AT_ONCE_S
    assert [(line["event"], line["unwritten"]) for line in logs] == [("spool.disk_hangs", 1)]


def test_a_hung_write_does_not_keep_the_process_alive(tmp_path):
    program = """
        import os, sys, threading
        from pathlib import Path
        from agentd.conversation.fit import fit
        from agentd.conversation.message import Message
        from agentd.snapshots.spool import Spool

        spool = Spool(Path(sys.argv[1]))
        os.fsync = lambda _fd: threading.Event().wait()
        spool.put("", fit([Message(0, "user", "hi", "")], max_messages=1), captured_at="")
        spool.start_write()
        print(spool.close(0.1))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.splitlines()[-1] == "False"


async def test_a_cancelled_capture_loses_no_message(recorder, monkeypatch, spool):
    release = threading.Event()
    monkeypatch.setattr("agentd.snapshots.recorder.fit", lambda *_args, **_kwargs: release.wait())
    record(recorder, "the answer")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await recorder.capture()
    assert spool.newest() is None
    release.set()
    monkeypatch.setattr("agentd.snapshots.recorder.fit", fit)
    assert text_of(await recorder.flush_to_disk()) == "the answer"
