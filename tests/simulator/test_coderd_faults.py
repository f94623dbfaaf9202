"""The faults of the simulated coderd: failed requests, broken connections, faulty streams."""

import asyncio
import gzip

import pytest

from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.faults import SimulatorError

TOKEN = "33333333-3333-4333-8333-333333333333"
AUTH = {"Coder-Session-Token": TOKEN}
PATH = "/api/v2/workspaceagents/me/reinit?wait=true"
GOOD = b'{"messages":[]}'


@pytest.fixture
async def coderd(fake_clock):
    async with SimulatedCoderd(sleep=fake_clock.sleep) as server:
        yield server


@pytest.fixture
def ws(coderd):
    return coderd.add_prebuild(token=TOKEN)


@pytest.fixture
def upload(coderd, ws, ask):
    task = coderd.add_task(ws)

    async def one():
        url = f"{coderd.url}/api/v2/workspaceagents/me/tasks/{task}/log-snapshot?format=agentapi"
        return await ask("POST", url, token=TOKEN, data=GOOD)

    one.task = task
    return one


async def test_fail_next_applies_to_the_given_number_of_requests(coderd, upload):
    coderd.fail_next("log-snapshot", 500, body='{"message":"x"}', headers={"Retry-After": "7"}, times=2)
    for _ in range(2):
        failed = await upload()
        assert (failed.status, failed.text, failed.headers["Retry-After"]) == (500, '{"message":"x"}', "7")
        assert upload.task not in coderd.snapshots
    assert (await upload()).status == 204
    assert [call.status for call in coderd.calls("log-snapshot")] == [500, 500, 204]
    assert [call.body for call in coderd.calls("log-snapshot")] == [GOOD] * 3


async def test_a_fault_of_any_route_applies_to_the_next_request(coderd, upload):
    coderd.fault("*", "html_502")
    failed = await upload()

    assert (failed.status, failed.headers["Content-Type"]) == (502, "text/html")
    assert "X-Coder-Request-Id" not in failed.headers  # the answer is that of a proxy


async def test_a_redirect_has_the_location(coderd, upload):
    coderd.fault("log-snapshot", "redirect", location="https://elsewhere.example/", status=308)
    moved = await upload()

    assert (moved.status, moved.headers["Location"]) == (308, "https://elsewhere.example/")


@pytest.mark.parametrize(
    ("kind", "stored"), [("reset_before_body", False), ("reset_after_body", True), ("eof", False)]
)
async def test_a_broken_connection_has_no_answer_whether_stored_or_not(coderd, upload, kind, stored):
    coderd.fault("log-snapshot", kind)
    with pytest.raises(OSError if kind != "eof" else Exception):
        await upload()

    assert (upload.task in coderd.snapshots) == stored
    assert coderd.calls("log-snapshot")[0].status is None


async def test_a_slow_answer_is_sent_after_the_request_is_processed(coderd, upload):
    release = asyncio.Event()
    coderd.fault("log-snapshot", "slow", release=release)
    waiting = asyncio.create_task(upload())
    await coderd.until(lambda: upload.task in coderd.snapshots)
    assert not waiting.done()
    release.set()
    assert (await waiting).status == 204


async def test_a_request_without_an_answer_hangs(coderd, upload):
    coderd.fault("log-snapshot", "no_headers")
    waiting = asyncio.create_task(upload())
    await coderd.until(lambda: len(coderd.calls("log-snapshot")) == 1)
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    waiting.cancel()


async def test_a_stalled_stream_sends_headers_and_no_ping(coderd, ws, wire, fake_clock):
    coderd.fault("reinit", "stall")
    stream = await wire(coderd.port, "GET", PATH, AUTH)
    await stream.head()
    await fake_clock.advance(60)
    await coderd.publish(ws, {"reason": "x"})

    assert stream.unread() == b""


async def test_a_stream_ends_after_the_event(coderd, ws, wire):
    coderd.fault("reinit", "eof_after_event")
    stream = await wire(coderd.port, "GET", PATH, AUTH)
    await coderd.until(lambda: coderd.open_streams(ws) == 1)
    coderd.claim_start(ws)
    await coderd.claim_finish(ws)
    await stream.head()

    rest = await stream.until(b"\r\n0\r\n\r\n")
    assert rest.count(b"event: data") == 1
    assert coderd.open_streams(ws) == 0


async def test_events_are_duplicated_and_pings_are_not(coderd, ws, wire, fake_clock):
    coderd.fault("reinit", "duplicate")
    stream = await wire(coderd.port, "GET", PATH, AUTH)
    await coderd.until(lambda: coderd.open_streams(ws) == 1)
    await coderd.publish(ws, b"data: x\n\n")
    await fake_clock.advance(15)
    await stream.head()

    assert await stream.exactly(46) == b"9\r\ndata: x\n\n\r\n" * 2 + b"d\r\nevent: ping\n\n\r\n"


async def test_a_big_line_has_the_given_size(coderd, ws, wire):
    coderd.fault("reinit", "big_line", bytes=1_000_000)
    stream = await wire(coderd.port, "GET", PATH, AUTH)
    await stream.head()
    size = int(await stream.reader.readline(), 16)
    data = await stream.exactly(size)

    assert data.startswith(b'event: data\ndata: "xxx')
    assert len(data.split(b"\n")[1]) == 1_000_000


@pytest.mark.parametrize("kind", ["endless_comment", "header_flood"])
async def test_floods_last_until_the_client_disconnects(coderd, ws, wire, kind):
    coderd.fault("reinit", kind)
    stream = await wire(coderd.port, "GET", PATH, AUTH)
    flood = await stream.exactly(3_000_000)

    assert (b"\r\n\r\n" in flood) == (kind == "endless_comment")
    stream.writer.transport.abort()
    await coderd.until(lambda: coderd.open_streams(ws) == 0)


async def test_a_flood_of_headers_has_the_given_length(coderd, ws, wire):
    coderd.fault("reinit", "header_flood", count=1)
    stream = await wire(coderd.port, "GET", PATH, AUTH)
    flood = await stream.until(b"X-Flood-0099: ")

    assert flood.count(b"X-Flood-") == 100


async def test_a_trickle_sends_single_bytes_without_a_line_end(coderd, ws, wire, fake_clock):
    coderd.fault("reinit", "trickle", every_s=2)
    stream = await wire(coderd.port, "GET", PATH, AUTH)
    await stream.head()
    assert await stream.exactly(11) == b"6\r\ndata: \r\n"
    await fake_clock.next_sleep()
    await fake_clock.advance(4)

    assert await stream.exactly(12) == b"1\r\nx\r\n" * 2


async def test_a_stream_has_the_given_content_type(coderd, ws, wire):
    coderd.fault("reinit", "wrong_content_type", content_type="application/json")
    stream = await wire(coderd.port, "GET", PATH, AUTH)

    assert "\r\nContent-Type: application/json\r\n" in await stream.head()


async def test_a_gzip_bomb_decompresses_to_the_given_size(coderd, ws, wire):
    coderd.fault("reinit", "gzip", size=1_000_000)
    stream = await wire(coderd.port, "GET", PATH, AUTH)
    assert "Content-Encoding: gzip" in await stream.head()
    packed = await stream.exactly(int(await stream.reader.readline(), 16))

    assert len(packed) < 5_000
    assert len(gzip.decompress(packed)) > 1_000_000


async def test_unknown_faults_and_routes_are_refused(coderd):
    with pytest.raises(SimulatorError, match=r"no such fault: 'nope'; known: .*stall"):
        coderd.fault("reinit", "nope")
    with pytest.raises(SimulatorError, match=r"no such route: 'nope'; known: .*log-snapshot"):
        coderd.fail_next("nope", 500)


async def test_cleared_faults_are_not_injected(coderd, upload):
    coderd.fail_next("log-snapshot", 500, times=5)
    coderd.clear_faults()

    assert (await upload()).status == 204


async def test_operations_that_coderd_refuses_are_refused(coderd, ws):
    coderd.claim_start(ws)
    with pytest.raises(SimulatorError, match="not an unclaimed prebuild"):
        coderd.claim_start(ws)
    with pytest.raises(SimulatorError, match="a build is already active"):
        coderd.stop_start(ws)
    await coderd.claim_finish(ws)
    with pytest.raises(SimulatorError, match="no claim build is in progress"):
        await coderd.claim_finish(ws)
