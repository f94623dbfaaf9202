import asyncio
import json
import time
import uuid

import pytest
from fakeclock import SkippingClock
from metric_values import value_of
from structlog.testing import capture_logs

from agentd.clock import Clock
from agentd.coderd.client import Coderd
from agentd.coderd.token import FileToken, StaticToken
from agentd.conversation.fit import fit
from agentd.conversation.message import Message
from agentd.metrics import Registry
from agentd.simulator.coderd import SimulatedCoderd
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.destinations.coder import CoderDestination
from agentd.snapshots.destinations.destination import Accepted, RejectedError, RetryableError
from agentd.snapshots.receipts import DestinationOutcome, SnapshotOutcome
from agentd.snapshots.spool import Spool

ROUTE = "log-snapshot"
WHEN = "2026-03-02T09:00:00Z"


def put(spool, task_id, text="hello"):
    spool.put(task_id, fit([Message(0, "agent", text, WHEN)], max_messages=10), captured_at=WHEN)
    assert spool.start_write().result(timeout=10) is None
    return spool.get(task_id)


def delivery_of(spool, *destinations, upload="settle", clock=None, metrics=None):
    return Delivery(
        spool=spool,
        destinations=destinations,
        upload=upload,
        clock=clock or Clock(),
        metrics=metrics or Registry(),
    )


def soon(seconds=8.0):
    return time.monotonic() + seconds


@pytest.fixture
def delivery(spool, coderd):
    return delivery_of(spool, CoderDestination(coderd))


class Shelf:
    """A second destination: a list. It raises `failures` first."""

    needs_task = False

    def __init__(self, name="shelf", failures=()):
        self.name = name
        self.failures = list(failures)
        self.taken = []

    async def deliver(self, entry):
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append(entry.payload)
        return Accepted()


# --- the flush ---


async def test_a_flush_delivers_the_snapshot_and_returns_its_receipt(delivery, spool, server, task_id):
    entry = put(spool, task_id)
    receipt = await delivery.flush(soon())
    assert server.snapshots[task_id].body == entry.payload
    [coder] = receipt.destinations
    assert (coder.name, coder.outcome, coder.status, coder.attempts) == (
        "coder",
        DestinationOutcome.DELIVERED,
        204,
        1,
    )
    assert json.loads(json.dumps(receipt.as_json())) == {
        "outcome": "delivered",
        "bytes": len(entry.payload),
        "messages": 1,
        "sha256": entry.sha256,
        "destinations": [
            {
                "name": "coder",
                "outcome": "delivered",
                "status": 204,
                "detail": "",
                "attempts": 1,
                "at": coder.at,
            }
        ],
    }
    assert spool.get(task_id).payload == entry.payload, "it stays in the spool"


async def test_a_delivered_snapshot_is_not_delivered_again_after_a_restart(
    delivery, spool, server, task_id, coderd
):
    put(spool, task_id)
    await delivery.flush(soon())
    await delivery.flush(soon())
    again = delivery_of(Spool(spool.path), CoderDestination(coderd))
    assert (await again.flush(soon())).outcome is SnapshotOutcome.DELIVERED
    assert len(server.calls(ROUTE)) == 1


async def test_without_a_snapshot_or_a_task_there_is_nothing_to_deliver(delivery, spool, server):
    assert (await delivery.flush(soon())).as_json() == {
        "outcome": "nothing",
        "bytes": 0,
        "messages": 0,
        "sha256": "",
        "destinations": [],
    }
    put(spool, "")
    assert (await delivery.flush(soon())).outcome is SnapshotOutcome.NOTHING
    assert server.requests == []


async def test_a_retry_sends_the_newest_snapshot(delivery, spool, server, task_id):
    put(spool, task_id, "older")
    server.fail_next(ROUTE, 503, times=2)
    flushing = asyncio.create_task(delivery.flush(soon()))
    await server.until(lambda: len(server.calls(ROUTE)) == 1)
    newer = put(spool, task_id, "newer")
    receipt = await flushing
    assert receipt.sha256 == newer.sha256
    assert receipt.outcome is SnapshotOutcome.DELIVERED
    assert server.snapshots[task_id].body == newer.payload


async def test_a_snapshot_that_arrives_during_an_attempt_is_delivered_by_the_same_flush(
    delivery, spool, server, task_id
):
    put(spool, task_id, "older")
    release = asyncio.Event()
    server.fault(ROUTE, "slow", release=release)
    flushing = asyncio.create_task(delivery.flush(soon()))
    await server.until(lambda: len(server.calls(ROUTE)) == 1)
    newer = put(spool, task_id, "newer")
    release.set()
    assert (await flushing).outcome is SnapshotOutcome.DELIVERED
    assert server.snapshots[task_id].body == newer.payload


@pytest.mark.parametrize("budget_s", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("trouble", ["hangs", "refuses", "500", "429"])
async def test_a_flush_returns_by_its_deadline(spool, server, task_id, coderd, budget_s, trouble):
    match trouble:
        case "hangs":
            server.fault(ROUTE, "no_headers", times=100)
        case "refuses":
            await server.stop()
        case "500":
            server.fail_next(ROUTE, 500, times=1000)
        case "429":
            server.fail_next(ROUTE, 429, headers={"Retry-After": "60"}, times=1000)
    put(spool, task_id)
    started = time.monotonic()
    receipt = await delivery_of(spool, CoderDestination(coderd)).flush(started + budget_s)
    assert time.monotonic() - started < budget_s + 0.5
    assert receipt.outcome is SnapshotOutcome.PENDING
    assert not Spool(spool.path).get(task_id).delivered_to("coder")


async def test_a_hung_request_leaves_time_for_a_retry(delivery, spool, server, task_id):
    server.fault(ROUTE, "no_headers")
    put(spool, task_id)
    receipt = await delivery.flush(soon(3.0))
    assert receipt.outcome is SnapshotOutcome.DELIVERED
    assert receipt.destinations[0].attempts == 2


async def test_a_retry_after_beyond_the_deadline_gets_a_last_attempt_before_it(
    delivery, spool, server, task_id
):
    server.fail_next(ROUTE, 429, headers={"Retry-After": "60"})
    put(spool, task_id)
    assert (await delivery.flush(soon(2.0))).outcome is SnapshotOutcome.DELIVERED


async def test_a_flush_cancels_a_running_attempt_and_starts_at_once(delivery, spool, server, task_id):
    server.fault(ROUTE, "no_headers")
    put(spool, task_id)
    running = asyncio.create_task(delivery.run())
    await server.until(lambda: len(server.calls(ROUTE)) == 1)
    started = time.monotonic()
    assert (await delivery.flush(soon())).outcome is SnapshotOutcome.DELIVERED
    assert time.monotonic() - started < 2.0
    running.cancel()


async def test_a_flush_does_not_wait_for_a_background_retry(
    spool, server, task_id, coderd, clock, fake_clock
):
    delivery = delivery_of(spool, CoderDestination(coderd), clock=clock)
    server.fail_next(ROUTE, 503)
    put(spool, task_id)
    running = asyncio.create_task(delivery.run())
    await server.until(lambda: server.calls(ROUTE) and server.calls(ROUTE)[0].status == 503)
    assert (await delivery.flush(fake_clock.now + 8)).outcome is SnapshotOutcome.DELIVERED, (
        "no time has passed"
    )
    running.cancel()


# --- refusals ---


async def test_an_unknown_task_is_refused_logged_once_and_counts_as_pending(delivery, spool, server):
    task_id = str(uuid.uuid4())
    put(spool, task_id)
    with capture_logs() as logs:
        receipt = await delivery.flush(soon())
        again = await delivery.flush(soon())
    assert receipt == again
    assert receipt.outcome is SnapshotOutcome.PENDING
    assert receipt.destinations[0].outcome is DestinationOutcome.REFUSED
    assert "snapshots.task_id" in receipt.destinations[0].detail
    assert len(server.calls(ROUTE)) == 1
    assert [line["event"] for line in logs] == ["snapshot.refused"]


async def test_after_a_refusal_the_next_snapshot_is_sent_and_after_a_restart_the_same_one(
    delivery, spool, server, workspace, coderd
):
    task_id = str(uuid.uuid4())
    put(spool, task_id)
    await delivery.flush(soon())
    server.add_task(workspace, task_id)
    restarted = delivery_of(Spool(spool.path), CoderDestination(coderd))
    assert (await restarted.flush(soon())).outcome is SnapshotOutcome.DELIVERED
    put(spool, task_id, "more")
    assert (await delivery.flush(soon())).outcome is SnapshotOutcome.DELIVERED


async def test_a_release_without_tasks_is_unsupported_and_no_loss(spool, session):
    async with SimulatedCoderd(era="E5") as server:
        coderd = Coderd(server.url, token=StaticToken(server.add_workspace().token), session=session)
        delivery = delivery_of(spool, CoderDestination(coderd))
        put(spool, str(uuid.uuid4()))
        with capture_logs() as logs:
            receipt = await delivery.flush(soon())
        assert receipt.outcome is SnapshotOutcome.NOTHING
        assert receipt.destinations[0].outcome is DestinationOutcome.UNSUPPORTED
        assert [(line["event"], line["log_level"]) for line in logs] == [("snapshot.unsupported", "info")]


async def test_a_server_without_the_feature_is_asked_once_an_hour(spool, session, clock, fake_clock):
    async with SimulatedCoderd(era="E5") as server:
        coderd = Coderd(server.url, token=StaticToken(server.add_workspace().token), session=session)
        metrics = Registry()
        delivery = delivery_of(spool, CoderDestination(coderd), clock=clock, metrics=metrics)
        running = asyncio.create_task(delivery.run())
        task_id = str(uuid.uuid4())
        for number in range(5):
            put(spool, task_id, str(number))
            delivery.request_upload()
            await server.until(lambda: len(server.calls(ROUTE)) == 1)
            await fake_clock.advance(60)
        assert len(server.calls(ROUTE)) == 1
        assert delivery.receipt().destinations[0].outcome is DestinationOutcome.UNSUPPORTED
        assert value_of(metrics, "agentd_snapshot_pending") == 0
        await fake_clock.advance(3600)
        delivery.request_upload()
        await server.until(lambda: len(server.calls(ROUTE)) == 2)
        running.cancel()


@pytest.mark.parametrize("era", ["E3", "E4"])
async def test_a_snapshot_that_is_too_large_is_truncated_until_accepted_and_the_size_is_remembered(
    spool, session, era
):
    async with SimulatedCoderd(era=era) as server:
        workspace = server.add_workspace()
        task_id = server.add_task(workspace)
        coderd = Coderd(server.url, token=StaticToken(workspace.token), session=session)
        delivery = delivery_of(spool, CoderDestination(coderd))
        bodies = {
            "E3": (
                400,
                b'{"message":"Failed to decode request payload.","detail":"http: request body too large"}',
            ),
            "E4": (413, b"<html>413 Request Entity Too Large</html>"),
        }
        server.fail_next(ROUTE, *bodies[era], times=2)
        put(spool, task_id, "x" * 70_000 + "the end")
        receipt = await delivery.flush(soon())
        assert receipt.outcome is SnapshotOutcome.DELIVERED
        stored = server.snapshots[task_id]
        assert 36_000 < len(stored.body) <= 36_864
        assert stored.envelope["data"]["messages"][0]["content"].endswith("the end")
        assert receipt.destinations[0].detail == f"cut from 65536 to {len(stored.body)} bytes"
        put(spool, task_id, "y" * 70_000)
        await delivery.flush(soon())
        assert len(server.calls(ROUTE)) == 4


async def test_a_server_that_answers_413_to_any_size_is_retried_without_further_truncation(
    spool, server, task_id, coderd, monkeypatch
):
    skipping, destination = SkippingClock(), CoderDestination(coderd)
    deliver = destination.deliver

    async def deliver_in_4_seconds(entry):
        try:
            return await deliver(entry)
        finally:
            skipping.now += 4

    monkeypatch.setattr(destination, "deliver", deliver_in_4_seconds)
    delivery = delivery_of(spool, destination, clock=skipping.as_clock())
    server.fail_next(ROUTE, 413, times=1000)
    put(spool, task_id, "x" * 70_000)
    receipt = await delivery.flush(skipping.now + 8)
    assert receipt.destinations[0].attempts == 2
    assert receipt.outcome is SnapshotOutcome.PENDING
    assert "but the payload has only" in receipt.destinations[0].detail
    assert min(len(call.body) for call in server.calls(ROUTE)) > 1000


@pytest.mark.parametrize("can_change", [False, True])
async def test_a_flush_gives_up_on_a_refused_token_that_cannot_change(
    spool, server, task_id, workspace, session, tmp_path, can_change
):
    skipping = SkippingClock()
    (tmp_path / "token").write_text(workspace.token)
    token = FileToken(tmp_path / "token") if can_change else StaticToken(workspace.token)
    destination = CoderDestination(Coderd(server.url, token=token, session=session))
    delivery = delivery_of(spool, destination, clock=skipping.as_clock())
    server.fail_next(ROUTE, 401, body=b'{"message":"Workspace agent not authorized."}', times=1000)
    put(spool, task_id)
    began = skipping.now
    assert (await delivery.flush(began + 8)).outcome is SnapshotOutcome.PENDING
    waited_s = skipping.now - began
    assert waited_s > 6 if can_change else 2 <= waited_s < 5
    before = len(server.calls(ROUTE))
    began = skipping.now
    await delivery.flush(began + 8)
    if not can_change:
        assert (skipping.now, len(server.calls(ROUTE)) - before) == (began, 1), "at once"
    put(spool, task_id, "later")
    server.clear_faults()
    assert (await delivery.flush(skipping.now + 8)).outcome is SnapshotOutcome.DELIVERED


async def test_after_a_refusal_the_next_snapshot_is_pending_with_the_reason(delivery, spool, server):
    task_id = str(uuid.uuid4())
    put(spool, task_id)
    [refused] = (await delivery.flush(soon())).destinations
    put(spool, task_id, "more")
    [pending] = delivery.receipt().destinations
    assert (pending.outcome, pending.status, pending.attempts) == (DestinationOutcome.PENDING, 404, 0)
    assert pending.detail == f"the snapshot before was refused: {refused.detail}"


# --- the daemon ---


async def test_snapshots_of_an_earlier_run_are_delivered_at_start_under_either_policy(
    spool, server, task_id, coderd
):
    for upload in ("settle", "stop"):
        put(spool, task_id, upload)
        delivery = delivery_of(Spool(spool.path), CoderDestination(coderd), upload=upload)
        running = asyncio.create_task(delivery.run())
        await server.until(lambda upload=upload: upload in str(server.snapshots.get(task_id)))
        running.cancel()


async def test_background_uploads_are_at_least_30_seconds_apart(
    spool, server, task_id, coderd, clock, fake_clock
):
    delivery = delivery_of(spool, CoderDestination(coderd), clock=clock)
    running = asyncio.create_task(delivery.run())
    put(spool, task_id, "settle 0")
    delivery.request_upload()
    async with asyncio.timeout(10):
        while not spool.get(task_id).delivered_to("coder"):
            await asyncio.sleep(0)
    for second in range(1, 30):
        put(spool, task_id, f"settle {second}")
        delivery.request_upload()
        await fake_clock.advance(1.0)
    assert len(server.calls(ROUTE)) == 1
    await fake_clock.advance(5.0)
    await server.until(lambda: "settle 29" in str(server.snapshots[task_id].envelope))
    assert len(server.calls(ROUTE)) == 2
    running.cancel()


async def test_under_the_stop_policy_only_a_flush_uploads(spool, server, task_id, coderd, clock, fake_clock):
    delivery = delivery_of(spool, CoderDestination(coderd), upload="stop", clock=clock)
    running = asyncio.create_task(delivery.run())
    await fake_clock.settle()
    put(spool, task_id)
    delivery.request_upload()
    await fake_clock.advance(120)
    assert server.requests == []
    assert (await delivery.flush(fake_clock.now + 8)).outcome is SnapshotOutcome.DELIVERED
    running.cancel()


async def test_under_the_stop_policy_a_snapshot_captured_before_the_uploads_begin_is_not_a_leftover(
    spool, server, task_id, coderd, clock, fake_clock
):
    delivery = delivery_of(spool, CoderDestination(coderd), upload="stop", clock=clock)
    put(spool, task_id, "captured between the start of the local API and the start of the uploads")
    running = asyncio.create_task(delivery.run())
    await fake_clock.advance(60)
    assert server.calls("log-snapshot") == []
    running.cancel()
    receipt = await delivery.flush(clock.monotonic() + 5)
    assert receipt.outcome is SnapshotOutcome.DELIVERED


async def test_background_retries_do_not_end_and_are_logged_once(
    spool, server, task_id, coderd, clock, fake_clock
):
    delivery = delivery_of(spool, CoderDestination(coderd), clock=clock)
    server.fail_next(ROUTE, 500, times=12)
    put(spool, task_id)
    with capture_logs() as logs:
        running = asyncio.create_task(delivery.run())
        async with asyncio.timeout(10):
            while not spool.get(task_id).delivered_to("coder"):
                await fake_clock.advance(1.0)
        running.cancel()
    assert [line["event"] for line in logs] == ["snapshot.delivery_failed", "snapshot.delivered"]
    assert spool.get(task_id).receipts["coder"].attempts == 13
    assert 10 < max(fake_clock.slept) <= 60.0


async def test_a_retry_after_is_followed_in_the_background(spool, server, task_id, coderd, clock, fake_clock):
    delivery = delivery_of(spool, CoderDestination(coderd), clock=clock)
    server.fail_next(ROUTE, 429, headers={"Retry-After": "60"})
    put(spool, task_id)
    running = asyncio.create_task(delivery.run())
    await server.until(lambda: server.calls(ROUTE) and server.calls(ROUTE)[0].status == 429)
    assert await fake_clock.next_sleep() == 60.0
    running.cancel()


# --- several destinations ---


async def test_each_destination_has_its_own_receipt_and_does_not_wait_for_others(
    spool, server, task_id, coderd
):
    shelf, stubborn = Shelf(), Shelf("stubborn", [RetryableError("not now")] * 1000)
    delivery = delivery_of(spool, CoderDestination(coderd), shelf, stubborn)
    entry = put(spool, task_id)
    receipt = await delivery.flush(soon(1.0))
    assert receipt.outcome is SnapshotOutcome.PENDING
    assert [(one.name, one.outcome) for one in receipt.destinations] == [
        ("coder", DestinationOutcome.DELIVERED),
        ("shelf", DestinationOutcome.DELIVERED),
        ("stubborn", DestinationOutcome.PENDING),
    ]
    assert receipt.destinations[2].detail == "not now"
    assert shelf.taken == [entry.payload]
    again = delivery_of(Spool(spool.path), CoderDestination(coderd), shelf, Shelf("stubborn"))
    assert (await again.flush(soon())).outcome is SnapshotOutcome.DELIVERED
    assert len(shelf.taken) == len(server.calls(ROUTE)) == 1


async def test_a_destination_that_fails_unexpectedly_is_retried_and_delays_no_other(spool, fake_clock, clock):
    put(spool, "")
    faulty, sound = Shelf("faulty", failures=[TypeError("'int' object is not iterable")] * 2), Shelf("sound")
    delivery = delivery_of(spool, faulty, sound, clock=clock)
    with capture_logs() as lines:
        running = asyncio.create_task(delivery.run())
        await fake_clock.advance(0)
        assert (len(sound.taken), len(faulty.taken)) == (1, 0)
        [receipt] = [each for each in delivery.receipt().destinations if each.name == "faulty"]
        assert (receipt.outcome, receipt.attempts) == (DestinationOutcome.PENDING, 1)
        assert "TypeError" in receipt.detail
        await fake_clock.advance(10)
    assert len(faulty.taken) == 1
    assert not running.done()
    running.cancel()
    assert [line["event"] for line in lines].count("agentd.task_failed") == 0


async def test_in_a_flush_a_destination_that_fails_unexpectedly_delays_no_other(spool):
    put(spool, "")
    faulty, sound = Shelf("faulty", failures=[RecursionError("deep")]), Shelf("sound")
    receipt = await delivery_of(spool, faulty, sound).flush(soon())
    assert (len(sound.taken), len(faulty.taken)) == (1, 1)
    assert receipt.outcome is SnapshotOutcome.DELIVERED


async def test_without_a_task_destinations_other_than_coder_get_the_snapshot(spool, server, coderd):
    shelf = Shelf()
    put(spool, "")
    receipt = await delivery_of(spool, CoderDestination(coderd), shelf).flush(soon())
    assert [(one.name, one.outcome) for one in receipt.destinations] == [
        ("shelf", DestinationOutcome.DELIVERED)
    ]


async def test_the_snapshot_of_an_earlier_task_is_delivered_and_listed_while_pending(spool, task_id):
    shelf = Shelf(failures=[])
    put(spool, "older task")
    put(spool, task_id)
    shelf.failures = [RetryableError("busy")] * 1000
    delivery = delivery_of(spool, shelf)
    receipt = await delivery.flush(soon(0.3))
    assert [(one.outcome, one.detail) for one in receipt.destinations] == [
        (DestinationOutcome.PENDING, "busy"),
        (DestinationOutcome.PENDING, "task older task"),
    ]
    shelf.failures = []
    assert (await delivery.flush(soon())).outcome is SnapshotOutcome.DELIVERED
    assert len(shelf.taken) == 2


async def test_a_refused_snapshot_of_an_earlier_task_does_not_change_the_outcome(spool, task_id):
    put(spool, "older task")
    put(spool, task_id)
    shelf = Shelf()
    delivery = delivery_of(spool, shelf)
    real = shelf.deliver

    async def deliver(entry):
        if entry.task_id == "older task":
            raise RejectedError("gone")
        return await real(entry)

    shelf.deliver = deliver
    assert (await delivery.flush(soon())).outcome is SnapshotOutcome.DELIVERED


async def test_attempts_and_pending_snapshots_are_counted(spool, server, task_id, coderd):
    metrics = Registry()
    delivery = delivery_of(spool, CoderDestination(coderd), metrics=metrics)
    server.fail_next(ROUTE, 500)
    put(spool, task_id)
    assert "agentd_snapshot_pending 1" in metrics.render()
    await delivery.flush(soon())
    text = metrics.render()
    assert 'agentd_snapshot_deliveries_total{destination="coder",outcome="pending"} 1' in text
    assert 'agentd_snapshot_deliveries_total{destination="coder",outcome="delivered"} 1' in text
    assert "agentd_snapshot_pending 0" in text


async def test_without_destinations_run_does_not_return(spool, fake_clock):
    running = asyncio.create_task(delivery_of(spool).run())
    await fake_clock.settle()
    assert not running.done()
    running.cancel()
