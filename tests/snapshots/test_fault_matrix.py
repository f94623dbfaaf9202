"""After each fault of network, disk or clock, the conversation is at coderd or complete in the spool."""

import asyncio
import errno
import os
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentd.clock import Clock
from agentd.conversation.message import Message
from agentd.metrics import Registry
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.destinations.coder import CoderDestination
from agentd.snapshots.receipts import SnapshotOutcome
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool

ROUTE = "log-snapshot"
ALWAYS = 1000
LIMITED = b'{"message":"You\'ve been rate limited for sending more than 512 requests in 1m0s."}\n'
UNAUTHORIZED = b'{"message":"Workspace agent not authorized."}\n'
LOST = b'{"message":"Resource not found or you do not have access to this resource"}\n'
TOO_LARGE = b'{"message":"Failed to decode request payload.","detail":"http: request body too large"}\n'


@dataclass
class Answer:
    """`times` faulty answers of coderd before it works again, and the outcome of a flush of some seconds."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 2
    outcome: SnapshotOutcome = SnapshotOutcome.DELIVERED

    def play(self, server):
        server.fail_next(ROUTE, self.status, self.body, self.headers, self.times)


@dataclass
class Break:
    """`times` broken connections before coderd works again."""

    kind: str
    params: dict[str, Any] = field(default_factory=dict)
    times: int = 2
    outcome: SnapshotOutcome = SnapshotOutcome.DELIVERED

    def play(self, server):
        server.fault(ROUTE, self.kind, times=self.times, **self.params)


NETWORK = {
    "500": Answer(500, b'{"message":"Internal error storing snapshot."}'),
    "502 from a proxy": Answer(502, b"<html>Bad Gateway</html>"),
    "503": Answer(503),
    "504": Answer(504),
    "429": Answer(429, LIMITED, times=2),
    "429 that asks for a minute": Answer(429, LIMITED, {"Retry-After": "60"}, times=1),
    "401 while a claim runs": Answer(401, UNAUTHORIZED, times=3),
    "408": Answer(408),
    "404 from a proxy": Answer(404, b"<html>Not Found</html>"),
    "200 from a login page": Answer(200, b"<html>Sign in</html>"),
    "redirect": Answer(302, b"", {"Location": "http://127.0.0.1:9/login"}),
    "400 too large": Answer(400, TOO_LARGE, times=2),
    "413": Answer(413, times=2),
    "404 unknown task": Answer(404, LOST, times=1, outcome=SnapshotOutcome.PENDING),
    "400 invalid": Answer(
        400, b'{"message":"Request body must be valid JSON."}', outcome=SnapshotOutcome.PENDING
    ),
    "500 always": Answer(500, times=ALWAYS, outcome=SnapshotOutcome.PENDING),
    "401 always": Answer(401, UNAUTHORIZED, times=ALWAYS, outcome=SnapshotOutcome.PENDING),
    "404 route not found": Answer(
        404, b'{"message":"Route not found."}\n', times=1, outcome=SnapshotOutcome.NOTHING
    ),
    "reset before the body": Break("reset_before_body"),
    "reset after the body": Break("reset_after_body"),
    "closed without an answer": Break("eof"),
    "slow 204": Break("slow", {"seconds": 0.3}, times=1),
    "204 that comes too late": Break(
        "slow", {"seconds": 30.0}, times=ALWAYS, outcome=SnapshotOutcome.PENDING
    ),
    "never an answer": Break("no_headers", times=ALWAYS, outcome=SnapshotOutcome.PENDING),
}


class Daemon:
    """Recorder, spool and delivery as in one run of the daemon."""

    def __init__(self, path, coderd, task_id, clock):
        self.spool = Spool(path)
        self.clock = clock
        self.recorder = Recorder(
            spool=self.spool,
            task_id=task_id,
            max_messages=10,
            max_bytes=65_536,
            checkpoint_s=5.0,
            clock=clock,
            metrics=Registry(),
        )
        self.delivery = Delivery(
            spool=self.spool,
            destinations=[CoderDestination(coderd)],
            upload="settle",
            clock=clock,
            metrics=Registry(),
        )

    async def hears(self, text):
        self.recorder.record_messages(
            [Message(0, "user", "go", "2026-03-02T09:00:00Z"), Message(1, "agent", text, "")]
        )
        return await self.recorder.flush_to_disk()

    async def flush(self, seconds=2.5):
        return await self.delivery.flush(self.clock.monotonic() + seconds)


@pytest.fixture
def daemon(tmp_path, coderd, task_id):
    """Starts a daemon; each call uses the same spool."""
    started = []

    def start(clock=None):
        started.append(Daemon(tmp_path / "spool", coderd, task_id, clock or Clock()))
        return started[-1]

    yield start
    for one in started:
        one.spool.close()


def shown(server, task_id):
    stored = server.snapshots.get(task_id)
    return stored and stored.envelope["data"]["messages"][-1]["content"]


@pytest.mark.parametrize("fault", NETWORK.values(), ids=NETWORK)
async def test_no_answer_of_the_network_loses_a_conversation(daemon, server, task_id, fault):
    first = daemon()
    await first.hears("the answer")
    fault.play(server)
    receipt = await first.flush(0.6 if fault.times >= ALWAYS else 20)
    assert receipt.outcome is fault.outcome
    if receipt.outcome is SnapshotOutcome.DELIVERED:
        assert shown(server, task_id) == "the answer"
    server.clear_faults()
    later = daemon()
    assert (await later.flush()).outcome is SnapshotOutcome.DELIVERED
    assert shown(server, task_id) == "the answer"
    await later.hears("and more")
    assert (await later.flush()).outcome is SnapshotOutcome.DELIVERED
    assert shown(server, task_id) == "and more"


async def test_a_server_that_is_down_and_comes_back_gets_the_snapshot(daemon, server, task_id):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            await server.start()

    one = daemon(Clock(sleep=sleep))
    await one.hears("the answer")
    await server.stop()
    assert (await one.flush(8.0)).outcome is SnapshotOutcome.DELIVERED
    assert shown(server, task_id) == "the answer"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
async def test_a_disk_that_cannot_be_written_does_not_prevent_the_delivery(
    daemon, server, task_id, monkeypatch, call, code
):
    one = daemon()
    await one.hears("before")
    with monkeypatch.context() as broken:
        broken.setattr(
            os, call, lambda *_args, **_kwargs: (_ for _ in ()).throw(OSError(code, os.strerror(code)))
        )
        assert not (await one.hears("the answer")).durable
        assert (await one.flush()).outcome is SnapshotOutcome.DELIVERED
    assert shown(server, task_id) == "the answer"
    assert "before" in Spool(one.spool.path).get(task_id).payload.decode()


def torn(data):
    return data[: len(data) // 2]


def flipped(data):
    return data[:-20] + bytes([data[-20] ^ 4]) + data[-19:]


@pytest.mark.parametrize("damage", [torn, flipped, lambda _data: b""], ids=["torn", "bit flip", "empty"])
async def test_after_a_damaged_spool_file_agentd_starts_and_delivers_the_next_snapshot(
    daemon, server, task_id, damage
):
    one = daemon()
    await one.hears("the answer")
    file = one.spool.path / f"{task_id}.snapshot"
    file.write_bytes(damage(file.read_bytes()))
    damaged = file.read_bytes()
    for _ in range(2):
        later = daemon()
        assert (await later.flush()).outcome is SnapshotOutcome.NOTHING
    assert (one.spool.path / "quarantine" / file.name).read_bytes() == damaged, "kept for inspection"
    await later.hears("the answer")
    assert (await later.flush()).outcome is SnapshotOutcome.DELIVERED
    assert shown(server, task_id) == "the answer"


@pytest.mark.parametrize("step_s", [-86_400 * 3650, -3600, 3600, 86_400 * 3650])
async def test_a_stepped_clock_changes_neither_order_nor_deadline(
    daemon, server, task_id, step_s, fake_clock
):
    real = Clock()
    clock = Clock(monotonic=real.monotonic, wall=lambda: fake_clock.wall_now, sleep=real.sleep)
    one = daemon(clock)
    await one.hears("before the step")
    server.fail_next(ROUTE, 500)
    flushing = asyncio.create_task(one.flush())
    await server.until(lambda: len(server.calls(ROUTE)) == 1)
    fake_clock.wall_now += step_s
    await one.hears("after the step")
    assert (await flushing).outcome is SnapshotOutcome.DELIVERED
    await one.flush()
    assert shown(server, task_id) == "after the step"
    assert "after the step" in Spool(one.spool.path).newest().payload.decode()


async def test_after_a_lost_response_the_same_snapshot_is_sent_again(daemon, server, task_id):
    one = daemon()
    await one.hears("the answer")
    server.fault(ROUTE, "reset_after_body")
    assert (await one.flush()).outcome is SnapshotOutcome.DELIVERED
    bodies = [call.body for call in server.calls(ROUTE)]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]
