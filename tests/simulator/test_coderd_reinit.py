"""The claim stream of the simulated coderd."""

import asyncio
import uuid

import pytest

from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.workspaces import PREBUILDS_USER, Job

PATH = "/api/v2/workspaceagents/me/reinit"
WAIT = PATH + "?wait=true"
WORKSPACE = "11111111-1111-4111-8111-111111111111"
OWNER = "22222222-2222-4222-8222-222222222222"
TOKEN = "33333333-3333-4333-8333-333333333333"
AUTH = {"Coder-Session-Token": TOKEN}

NOT_AUTHORIZED = (
    '{"message":"Workspace agent not authorized.","detail":"The agent cannot authenticate until the workspace'
    ' provision job has been completed. If the job is no longer running, this agent is invalid."}\n'
)
REGULAR = (
    '{"message":"Workspace is not a prebuilt workspace waiting to be claimed.",'
    '"detail":"This endpoint is only for agents running in prebuilt workspaces."}\n'
)
HANDLED = (
    '{"message":"Workspace is not a prebuilt workspace waiting to be claimed.",'
    '"detail":"The prebuild claim for this workspace has already been handled by an earlier build."}\n'
)
FAILED = '{"message":"Claim build failed permanently.","detail":"no capacity <&>"}\n'.replace(
    "<&>", "\\u003c\\u0026\\u003e"
)
EVENT_E2 = (
    b'event: data\ndata: {"workspace_id":"11111111-1111-4111-8111-111111111111","reason":"prebuild_claimed",'
    b'"owner_id":"22222222-2222-4222-8222-222222222222"}\n\n'
)
EVENT_E1 = b'event: data\ndata: {"WorkspaceID":"11111111-1111-4111-8111-111111111111","reason":"prebuild_claimed"}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def claimed(coderd):
    ws = coderd.add_prebuild(token=TOKEN, workspace_id=WORKSPACE)
    coderd.claim_start(ws, OWNER)
    await coderd.claim_finish(ws)
    return ws


async def test_no_byte_is_sent_before_the_first_ping_and_the_ping_is_13_bytes_in_one_chunk(wire, fake_clock):
    async with SimulatedCoderd(sleep=fake_clock.sleep) as coderd:
        ws = coderd.add_prebuild(token=TOKEN)
        stream = await wire(coderd.port, "GET", WAIT, AUTH)
        await coderd.until(lambda: coderd.open_streams(ws) == 1)
        await fake_clock.advance(14.9)

        assert stream.unread() == b""
        assert coderd.requests[0].status is None

        await fake_clock.advance(0.1)
        head = await stream.head()
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        for line in (
            "Content-Type: text/event-stream",
            "Cache-Control: no-cache",
            "Connection: keep-alive",
            "X-Accel-Buffering: no",
            "Transfer-Encoding: chunked",
            "X-Coder-Build-Version: v2.36.0",
            "X-Ratelimit-Limit: 512",
        ):
            assert f"\r\n{line}\r\n" in head
        assert "Content-Length" not in head
        assert "Server:" not in head
        assert await stream.exactly(18) == b"d\r\nevent: ping\n\n\r\n"
        assert coderd.requests[0].status == 200


async def test_the_ping_interval_counts_from_the_start_of_the_stream(wire, fake_clock):
    async with SimulatedCoderd(sleep=fake_clock.sleep) as coderd:
        ws = coderd.add_prebuild(token=TOKEN, workspace_id=WORKSPACE)
        stream = await wire(coderd.port, "GET", WAIT, AUTH)
        await coderd.until(lambda: coderd.open_streams(ws) == 1)
        await fake_clock.advance(10)
        coderd.claim_start(ws, OWNER)
        await coderd.claim_finish(ws)
        await stream.head()
        assert await stream.exactly(len(chunk(EVENT_E2))) == chunk(EVENT_E2)
        assert chunk(EVENT_E2).startswith(b"99\r\n")

        await fake_clock.advance(5)

        assert await stream.exactly(18) == chunk(b"event: ping\n\n")


async def test_the_headers_are_sent_with_the_first_event(wire):
    async with SimulatedCoderd(era="E1") as coderd:
        ws = coderd.add_prebuild(token=TOKEN, workspace_id=WORKSPACE)
        stream = await wire(coderd.port, "GET", PATH, AUTH)
        await coderd.until(lambda: coderd.open_streams(ws) == 1)
        coderd.claim_start(ws, OWNER)
        await coderd.claim_finish(ws)

        await stream.head()
        assert await stream.exactly(len(chunk(EVENT_E1))) == chunk(EVENT_E1)


async def test_eager_streams_send_their_headers_at_once(wire):
    async with SimulatedCoderd(flush="eager") as coderd:
        coderd.add_prebuild(token=TOKEN)
        stream = await wire(coderd.port, "GET", WAIT, AUTH)

        assert "text/event-stream" in await stream.head()


async def test_publish_sends_tables_and_raw_bytes_unchanged(wire):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_prebuild(token=TOKEN)
        stream = await wire(coderd.port, "GET", WAIT, AUTH)
        await coderd.until(lambda: coderd.open_streams(ws) == 1)
        await coderd.publish(ws, {"WorkspaceID": WORKSPACE, "reason": "<&>"})
        await coderd.publish(ws, b": raw\n")

        await stream.head()
        first = chunk(
            b'event: data\ndata: {"WorkspaceID":"%s","reason":"\\u003c\\u0026\\u003e"}\n\n'
            % WORKSPACE.encode()
        )
        assert await stream.exactly(len(first)) == first
        assert await stream.exactly(11) == chunk(b": raw\n")


# The states of the table STATES. Its answers are a status with a body, or the first bytes of a stream
# (PINGS: no event).
async def _regular(coderd):
    return coderd.add_workspace(token=TOKEN)


async def _unclaimed(coderd):
    return coderd.add_prebuild(token=TOKEN, workspace_id=WORKSPACE)


async def _claim_running(coderd):
    ws = await _unclaimed(coderd)
    coderd.claim_start(ws, OWNER)
    return ws


async def _claim_pending(coderd):
    ws = await _unclaimed(coderd)
    coderd.claim_start(ws, OWNER, job=Job.PENDING)
    return ws


async def _claim_failed(coderd):
    ws = await _claim_running(coderd)
    coderd.claim_fail(ws, "no capacity <&>")
    return ws


async def _claim_failed_with_agents(coderd):
    ws = await _claim_running(coderd)
    coderd.claim_fail(ws, "no capacity <&>", agents_recorded=True)
    return ws


async def _started_later(coderd):
    ws = await claimed(coderd)
    coderd.start_build(ws, OWNER, token=TOKEN)
    return ws


async def _stopping(coderd):
    ws = await claimed(coderd)
    coderd.stop_start(ws)
    return ws


async def _regular_stopping(coderd):
    ws = await _regular(coderd)
    coderd.stop_start(ws, job=Job.PENDING)
    return ws


async def _stopped(coderd):
    ws = await _stopping(coderd)
    coderd.stop_finish(ws)
    return ws


async def _deleting(coderd):
    ws = await claimed(coderd)
    coderd.delete_build(ws)
    return ws


PINGS = b""
R, H, F, U = (409, REGULAR), (409, HANDLED), (409, FAILED), (401, NOT_AUTHORIZED)
STATES = [
    # state, E1, E2, E3
    (_regular, PINGS, R, R),
    (_unclaimed, PINGS, PINGS, PINGS),
    (_claim_pending, U, U, U),
    (_claim_running, U, U, U),
    (claimed, PINGS, EVENT_E2, EVENT_E2),
    (_claim_failed, U, U, U),
    (_claim_failed_with_agents, PINGS, F, F),
    (_started_later, PINGS, EVENT_E2, H),
    (_stopping, PINGS, PINGS, H),
    (_regular_stopping, PINGS, R, R),
    (_stopped, U, U, U),
    (_deleting, U, U, U),
]


@pytest.mark.parametrize(
    ("state", "era", "expected"),
    [
        pytest.param(state, era, answers[min(int(era[1]), 3) - 1], id=f"{state.__name__.strip('_')}-{era}")
        for state, *answers in STATES
        for era in ("E1", "E2", "E3", "E4", "E5")
    ],
)
async def test_the_answer_to_wait_follows_the_state_table(ask, wire, fake_clock, state, era, expected):
    async with SimulatedCoderd(era=era, sleep=fake_clock.sleep) as coderd:
        ws = await state(coderd)
        if isinstance(expected, tuple):
            answer = await ask("GET", coderd.url + WAIT, token=TOKEN)
            assert (answer.status, answer.text) == expected
            assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
            assert coderd.open_streams(ws) == 0
            return
        stream = await wire(coderd.port, "GET", WAIT, AUTH)
        await coderd.until(lambda: coderd.open_streams(ws) == 1)
        if expected:
            await stream.head()
            assert await stream.exactly(len(chunk(expected))) == chunk(expected)
        await fake_clock.advance(15)
        if not expected:
            await stream.head()
        assert await stream.exactly(18) == chunk(b"event: ping\n\n")


@pytest.mark.parametrize("value", ["", "?wait=yes", "?wait=false", "?wait=0", "?wait="])
async def test_without_wait_a_regular_workspace_gets_a_stream(wire, value):
    async with SimulatedCoderd(flush="eager") as coderd:
        coderd.add_workspace(token=TOKEN)
        stream = await wire(coderd.port, "GET", PATH + value, AUTH)

        assert "200 OK" in await stream.head()


@pytest.mark.parametrize("value", ["1", "t", "T", "TRUE", "true", "True"])
async def test_wait_is_true_for_every_value_that_go_accepts(ask, value):
    async with SimulatedCoderd() as coderd:
        coderd.add_workspace(token=TOKEN)

        assert (await ask("GET", f"{coderd.url}{PATH}?wait={value}&x=y", token=TOKEN)).status == 409


async def test_an_open_stream_survives_the_claim_while_new_requests_are_refused(ask, wire):
    async with SimulatedCoderd() as coderd:
        ws = await _unclaimed(coderd)
        stream = await wire(coderd.port, "GET", WAIT, AUTH)
        await coderd.until(lambda: coderd.open_streams(ws) == 1)
        coderd.claim_start(ws, OWNER)
        assert (await ask("GET", coderd.url + WAIT, token=TOKEN)).status == 401
        await coderd.claim_finish(ws)

        await stream.head()
        assert await stream.exactly(len(chunk(EVENT_E2))) == chunk(EVENT_E2)


async def test_the_stream_waits_between_the_owner_change_and_the_claim_build(wire):
    async with SimulatedCoderd(flush="eager") as coderd:
        ws = await _unclaimed(coderd)
        ws.owner_id = OWNER
        assert ws.latest.initiator_id == PREBUILDS_USER
        stream = await wire(coderd.port, "GET", WAIT, AUTH)

        assert "200 OK" in await stream.head()


async def test_a_new_start_build_has_a_new_token_and_the_old_one_is_invalid(ask):
    async with SimulatedCoderd() as coderd:
        ws = await claimed(coderd)
        fresh = coderd.start_build(ws)

        assert fresh == ws.token != TOKEN
        assert (await ask("GET", coderd.url + WAIT, token=TOKEN)).status == 401
        assert (await ask("GET", coderd.url + WAIT, token=fresh)).text == HANDLED


@pytest.mark.parametrize(
    ("headers", "status", "body"),
    [
        ({}, 401, '{"message":"Cookie \\"coder_session_token\\" must be provided."}\n'),
        (
            {"Coder-Session-Token": "nonsense"},
            401,
            '{"message":"Workspace agent token invalid.","detail":"An agent token must be a valid UUIDv4. (len 8)"}\n',
        ),
        ({"Coder-Session-Token": str(uuid.UUID(int=5))}, 401, NOT_AUTHORIZED),
        ({"Authorization": f"Bearer {TOKEN}"}, 409, REGULAR),
        ({"Cookie": f"coder_session_token={TOKEN}"}, 409, REGULAR),
        ({"Coder-Session-Token": f"urn:uuid:{TOKEN}"}, 409, REGULAR),
        ({"Coder-Session-Token": "{" + TOKEN + "}"}, 409, REGULAR),
        ({"Coder-Session-Token": TOKEN.replace("-", "").upper()}, 409, REGULAR),
    ],
)
async def test_the_token_is_found_and_checked_as_in_coderd(ask, headers, status, body):
    async with SimulatedCoderd() as coderd:
        coderd.add_workspace(token=TOKEN)
        answer = await ask("GET", coderd.url + WAIT, headers=headers)

        assert (answer.status, answer.text) == (status, body)
        assert uuid.UUID(answer.headers["X-Coder-Request-Id"])


@pytest.mark.parametrize("name", ["coder_session_token", "access_token"])
async def test_the_token_may_be_in_the_query(ask, name):
    async with SimulatedCoderd() as coderd:
        coderd.add_workspace(token=TOKEN)

        assert (await ask("GET", f"{coderd.url}{WAIT}&{name}={TOKEN}")).status == 409


async def test_the_rate_limit_precedes_authentication_and_has_a_sliding_window(ask):
    now = [1_772_442_000.0]  # the start of a minute
    async with SimulatedCoderd(rate_limit=3, now=lambda: now[0]) as coderd:
        for left in ("2", "1", "0"):
            answer = await ask("GET", coderd.url + WAIT)
            assert (answer.status, answer.headers["X-Ratelimit-Remaining"]) == (401, left)
        answer = await ask("GET", coderd.url + WAIT)
        assert answer.status == 429
        assert (
            answer.text
            == '{"message":"You\'ve been rate limited for sending more than 3 requests in 1m0s."}\n'
        )
        assert answer.headers["Retry-After"] == "60"
        assert answer.headers["X-Ratelimit-Reset"] == "1772442060"
        assert (await ask("GET", coderd.url + "/api/v2/buildinfo")).status == 200

        coderd.advance_clock(60)
        assert (await ask("GET", coderd.url + WAIT)).status == 429
        coderd.advance_clock(50)
        assert (await ask("GET", coderd.url + WAIT)).status == 401


async def test_unknown_routes_wrong_methods_and_other_paths(ask):
    async with SimulatedCoderd() as coderd:
        coderd.add_workspace(token=TOKEN)
        me = coderd.url + "/api/v2/workspaceagents/me"
        unknown = await ask("GET", me + "/nope", token=TOKEN)
        assert (unknown.status, unknown.text) == (404, '{"message":"Route not found."}\n')
        assert (await ask("GET", me + "/nope")).status == 401
        assert (await ask("GET", me + "/reinit/", token=TOKEN)).status == 404
        wrong = await ask("POST", coderd.url + WAIT, token=TOKEN)
        assert (wrong.status, wrong.body, wrong.headers.get("Content-Type")) == (405, b"", None)
        assert (
            (await ask("GET", coderd.url + "/workspaceagents/me/reinit"))
            .headers["Content-Type"]
            .startswith("text/html")
        )
        info = await ask("GET", coderd.url + "/api/v2/buildinfo")
        assert '"version":"v2.36.0"' in info.text


@pytest.mark.parametrize("how", ["eof", "cut", "reset"])
async def test_dropped_connections_end_in_the_given_way(wire, how):
    async with SimulatedCoderd(flush="eager") as coderd:
        ws = coderd.add_prebuild(token=TOKEN)
        stream = await wire(coderd.port, "GET", WAIT, AUTH)
        await stream.head()
        await coderd.drop_connections(how)
        if how == "reset":
            with pytest.raises(ConnectionResetError):
                await stream.rest()
        else:
            assert await stream.exactly(0 if how == "cut" else 5) == (b"" if how == "cut" else b"0\r\n\r\n")
            if how == "cut":
                assert await stream.rest() == b""
        await coderd.until(lambda: coderd.open_streams(ws) == 0)


async def test_half_open_connections_send_nothing_and_stay_open(wire, fake_clock):
    async with SimulatedCoderd(flush="eager", sleep=fake_clock.sleep) as coderd:
        ws = coderd.add_prebuild(token=TOKEN)
        stream = await wire(coderd.port, "GET", WAIT, AUTH)
        await stream.head()
        await coderd.drop_connections("half_open")
        await fake_clock.advance(60)
        await coderd.publish(ws, {"reason": "x"})

        assert stream.unread() == b""
        assert not stream.reader.at_eof()


async def test_a_restart_keeps_port_and_records_and_ends_the_streams(ask, wire):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_prebuild(token=TOKEN)
        stream = await wire(coderd.port, "GET", WAIT, AUTH)
        await coderd.until(lambda: coderd.open_streams(ws) == 1)
        url = coderd.url
        await coderd.stop()

        # Before the first event or ping, Go answers with an empty 200.
        assert "Content-Length: 0" in await stream.head()
        assert coderd.open_streams(ws) == 0
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", coderd.port)

        await coderd.start()
        assert coderd.url == url
        coderd.claim_start(ws)
        assert (await ask("GET", url + WAIT, token=TOKEN)).text == NOT_AUTHORIZED


async def test_a_stream_is_not_open_after_its_client_has_disconnected(wire):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_prebuild(token=TOKEN)
        stream = await wire(coderd.port, "GET", WAIT, AUTH)
        await coderd.until(lambda: coderd.open_streams(ws) == 1)
        stream.writer.close()

        await coderd.until(lambda: coderd.open_streams(ws) == 0)
