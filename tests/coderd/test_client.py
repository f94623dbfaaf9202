import asyncio
import json
import time
import uuid

import pytest

from agentd.coderd import errors
from agentd.coderd.client import Coderd
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.token import FileToken, StaticToken
from agentd.http_client import USER_AGENT, client_session
from agentd.simulator.coderd import SimulatedCoderd

PAYLOAD = b'{"messages":[{"id":0,"content":"hi","role":"agent","time":"2026-03-02T09:00:00Z"}]}'
ROUTE = "log-snapshot"


@pytest.fixture
async def session():
    async with client_session() as session:
        yield session


@pytest.fixture
async def server():
    async with SimulatedCoderd(era="E3") as server:
        yield server


@pytest.fixture
def workspace(server):
    return server.add_workspace()


@pytest.fixture
def task_id(server, workspace):
    return server.add_task(workspace)


@pytest.fixture
def coderd(server, workspace, session):
    return Coderd(
        server.url,
        token=StaticToken(workspace.token),
        session=session,
        headers=ExtraHeaders({"X-Proxy-Auth": "letmein"}),
    )


async def refused(coderd, task_id, payload=PAYLOAD, timeout_s=5.0):
    with pytest.raises(errors.CoderdError) as caught:
        await coderd.put_log_snapshot(task_id, payload, timeout_s=timeout_s)
    return caught.value


async def test_a_snapshot_is_stored_byte_for_byte(server, coderd, task_id, workspace):
    await coderd.put_log_snapshot(task_id, PAYLOAD, timeout_s=5)
    assert server.snapshots[task_id].body == PAYLOAD
    [request] = server.calls(ROUTE)
    assert request.query == {"format": "agentapi"}
    assert request.headers["Coder-Session-Token"] == workspace.token
    assert request.headers["X-Proxy-Auth"] == "letmein"
    assert request.headers["User-Agent"] == USER_AGENT
    assert request.headers["Content-Type"] == "application/json"
    assert coderd.build_version == "v2.36.0"


async def test_trailing_slashes_of_the_url_are_ignored(server, session, workspace, task_id):
    coderd = Coderd(server.url + "//", token=StaticToken(workspace.token), session=session)
    await coderd.put_log_snapshot(task_id, PAYLOAD, timeout_s=5)
    assert server.snapshots[task_id].body == PAYLOAD


HTML = b"<html><body>Sign in</body></html>"
NOT_FOUND = b'{"message":"Resource not found or you do not have access to this resource"}\n'
ANSWERS = [
    # status, body, headers, error, retryable
    (
        400,
        b'{"message":"Failed to decode request payload.","detail":"http: request body too large"}',
        "TooLargeError",
        False,
    ),
    (413, b'{"message":"Request body too large."}', "TooLargeError", False),
    (413, HTML, "TooLargeError", False),
    (
        400,
        b'{"message":"Invalid task ID format.","detail":"invalid UUID length: 10"}',
        "InvalidRequestError",
        False,
    ),
    (
        400,
        b'{"message":"Failed to decode request payload.","detail":"unexpected EOF"}',
        "InvalidRequestError",
        False,
    ),
    (400, HTML, "NotCoderdError", True),
    (401, b'{"message":"Workspace agent not authorized."}', "UnauthorizedError", True),
    (401, HTML, "UnauthorizedError", True),
    (403, HTML, "NotCoderdError", True),
    (403, b'{"message":"Forbidden."}', "InvalidRequestError", False),
    (404, NOT_FOUND, "NotFoundError", False),
    (404, b'{"message":"Route not found."}\n', "RouteNotFoundError", False),
    (404, HTML, "NotCoderdError", True),
    (404, b'{"message":"no Route matched with those values"}', "NotCoderdError", True),
    (404, b"", "NotCoderdError", True),
    (404, b"[1]", "NotCoderdError", True),
    (404, b'{"message":3}', "NotCoderdError", True),
    (405, b"", "NotCoderdError", True),
    (408, b"", "ServerFaultError", True),
    (429, b'{"message":"You\'ve been rate limited"}', "RateLimitedError", True),
    (500, b'{"message":"Internal error storing snapshot."}', "ServerFaultError", True),
    (502, HTML, "ServerFaultError", True),
    (503, b"", "ServerFaultError", True),
    (599, b"\xff\xfe", "ServerFaultError", True),
    (200, HTML, "NotCoderdError", True),
    (200, b"null\n", "NotCoderdError", True),
    (302, HTML, "RedirectError", True),
    (308, b"", "RedirectError", True),
]


@pytest.mark.parametrize(("status", "body", "name", "retryable"), ANSWERS)
async def test_each_answer_raises_its_error_once(server, coderd, task_id, status, body, name, retryable):
    server.fail_next(
        ROUTE, status, body, headers={"Location": server.url + "/elsewhere"} if status // 100 == 3 else None
    )
    error = await refused(coderd, task_id)
    assert type(error) is getattr(errors, name)
    assert error.retryable is retryable
    assert error.status == status
    assert str(status) in error.message
    assert len(server.requests) == 1, "not repeated, and no redirect followed"


@pytest.mark.parametrize("era", ["E3", "E4"])
async def test_one_byte_above_the_limit_is_too_large_in_every_era(session, era):
    async with SimulatedCoderd(era=era) as server:
        workspace = server.add_workspace()
        task_id = server.add_task(workspace)
        coderd = Coderd(server.url, token=StaticToken(workspace.token), session=session)
        filled = PAYLOAD.replace(b"hi", b"x" * (65_536 - len(PAYLOAD) + 2))
        await coderd.put_log_snapshot(task_id, filled, timeout_s=5)
        assert type(await refused(coderd, task_id, filled.replace(b"x", b"xx", 1))) is errors.TooLargeError


async def test_an_unknown_task_and_an_absent_route_raise_different_errors(server, coderd, session, workspace):
    assert type(await refused(coderd, "11111111-1111-4111-8111-111111111111")) is errors.NotFoundError
    async with SimulatedCoderd(era="E5") as newer:
        removed = Coderd(newer.url, token=StaticToken(newer.add_workspace().token), session=session)
        assert (
            type(await refused(removed, "11111111-1111-4111-8111-111111111111")) is errors.RouteNotFoundError
        )


@pytest.mark.parametrize("task_id", ["short", "../../me", "a/b?x=1#y", "", "..", "%2e%2e", "ü\n"])
async def test_an_invalid_task_id_never_reaches_another_route(server, coderd, task_id):
    await refused(coderd, task_id)
    assert all("log-snapshot" in request.path for request in server.requests)
    assert server.snapshots == {}


async def test_an_error_has_the_message_and_the_request_id_of_coderd_and_a_bounded_length(
    server, coderd, task_id
):
    server.fail_next(ROUTE, 500, b'{"message":"Internal error fetching task.","detail":"pq: gone"}')
    error = await refused(coderd, task_id)
    assert error.message.endswith("500 Internal error fetching task. pq: gone")
    assert uuid.UUID((await refused(coderd, str(uuid.uuid4()))).request_id)
    server.fail_next(ROUTE, 502, b"x" * 5_000_000)
    assert len(str(await refused(coderd, task_id))) < 500


async def test_an_error_has_the_details_of_the_validations(server, coderd, task_id):
    body = {
        "message": "Invalid query parameters.",
        "validations": [{"field": "format", "detail": "is required"}, 7],
    }
    server.fail_next(ROUTE, 400, json.dumps(body))
    assert "Invalid query parameters. is required" in (await refused(coderd, task_id)).message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "60"}, 60.0),
        ({"Retry-After": "Mon, 02 Mar 2026 09:00:30 GMT", "Date": "Mon, 02 Mar 2026 09:00:00 GMT"}, 30.0),
        ({"Retry-After": "Mon, 02 Mar 2026 08:00:00 GMT", "Date": "Mon, 02 Mar 2026 09:00:00 GMT"}, 0.0),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "9" * 400}, 300.0),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_measured_by_the_clock_of_the_server(
    server, coderd, task_id, headers, seconds, status
):
    server.fail_next(ROUTE, status, b"", headers)
    assert (await refused(coderd, task_id)).retry_after_s == seconds


async def test_the_rate_limit_of_coderd_is_an_error_with_its_wait(session):
    async with SimulatedCoderd(rate_limit=1) as server:
        workspace = server.add_workspace()
        task_id = server.add_task(workspace)
        coderd = Coderd(server.url, token=StaticToken(workspace.token), session=session)
        await coderd.put_log_snapshot(task_id, PAYLOAD, timeout_s=5)
        error = await refused(coderd, task_id)
        assert (type(error), error.retry_after_s) == (errors.RateLimitedError, 60.0)


@pytest.mark.parametrize("fault", ["reset_before_body", "reset_after_body", "eof"])
async def test_a_broken_connection_is_unreachable_and_the_next_call_works(server, coderd, task_id, fault):
    server.fault(ROUTE, fault)
    error = await refused(coderd, task_id)
    assert (type(error), error.status) == (errors.UnreachableError, None)
    await coderd.put_log_snapshot(task_id, PAYLOAD, timeout_s=5)
    assert server.snapshots[task_id].body == PAYLOAD


async def test_a_closed_port_is_unreachable(server, coderd, task_id):
    await server.stop()
    assert type(await refused(coderd, task_id)) is errors.UnreachableError


async def test_a_server_that_never_answers_is_unreachable_after_the_timeout(server, coderd, task_id):
    server.fault(ROUTE, "slow", release=asyncio.Event())
    started = time.monotonic()
    error = await refused(coderd, task_id, timeout_s=0.2)
    assert type(error) is errors.UnreachableError
    assert "no answer within 0.2s" in error.message
    assert time.monotonic() - started < 2


async def test_a_failed_tls_handshake_is_unreachable(server, session, workspace, task_id):
    coderd = Coderd(
        server.url.replace("http:", "https:"), token=StaticToken(workspace.token), session=session
    )
    assert type(await refused(coderd, task_id)) is errors.UnreachableError


async def test_after_a_401_the_call_is_repeated_with_a_new_token(
    server, session, workspace, task_id, tmp_path
):
    path = tmp_path / "token"
    path.write_text("11111111-1111-4111-8111-111111111111\n")
    coderd = Coderd(server.url, token=FileToken(path), session=session)
    path.write_text(workspace.token + "\n")
    await coderd.put_log_snapshot(task_id, PAYLOAD, timeout_s=5)
    assert [request.status for request in server.calls(ROUTE)] == [401, 204]


async def test_after_a_401_without_a_new_token_the_call_is_not_repeated(server, coderd, workspace, task_id):
    server.delete_build(workspace)
    assert type(await refused(coderd, task_id)) is errors.UnauthorizedError
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [500, 404, 200])
async def test_the_error_does_not_contain_a_token_that_the_server_returns(
    server, coderd, workspace, task_id, status
):
    server.fail_next(
        ROUTE, status, json.dumps({"message": f"token {workspace.token}", "detail": workspace.token})
    )
    error = await refused(coderd, task_id)
    assert workspace.token not in f"{error!r} {error} {error.hint}"


async def test_the_error_of_a_redirect_does_not_contain_the_target(server, coderd, task_id):
    server.fault(ROUTE, "redirect", location="https://login.example.com/?secret=abc")
    assert "abc" not in str(await refused(coderd, task_id))


async def test_an_app_status_is_sent_with_all_its_fields(server, coderd, workspace):
    await coderd.update_app_status("agentapi", "working", "läuft 🚀", "https://x", timeout_s=5)
    [request] = server.calls("app-status")
    assert request.method == "PATCH"
    assert json.loads(request.body) == {
        "app_slug": "agentapi",
        "state": "working",
        "message": "läuft 🚀",
        "uri": "https://x",
    }


async def test_a_login_page_is_not_a_success_of_an_app_status(server, coderd):
    server.fail_next("app-status", 200, HTML, content_type="text/html")
    with pytest.raises(errors.NotCoderdError):
        await coderd.update_app_status("agentapi", "idle", "", "", timeout_s=5)


async def test_an_app_status_that_coderd_rejects_is_invalid(server, coderd):
    server.fail_next("app-status", 400, b'{"message":"Message is too long."}')
    with pytest.raises(errors.InvalidRequestError, match="Message is too long"):
        await coderd.update_app_status("agentapi", "idle", "x" * 161, "", timeout_s=5)


@pytest.mark.parametrize("era", ["E1", "E2", "E3", "E4"])
async def test_a_rehearsed_log_snapshot_succeeds_and_stores_nothing(session, era):
    async with SimulatedCoderd(era=era) as server:
        workspace = server.add_workspace()
        task = server.add_task(workspace)
        coderd = Coderd(server.url, token=StaticToken(workspace.token), session=session)
        await coderd.rehearse_log_snapshot(task, size_bytes=65_536, timeout_s=5)
        assert server.snapshots == {}
        assert len(server.calls("log-snapshot")[0].body) == 65_536
        with pytest.raises(errors.NotFoundError):
            await coderd.rehearse_log_snapshot(str(uuid.uuid4()), size_bytes=0, timeout_s=5)
        with pytest.raises(errors.TooLargeError):
            await coderd.rehearse_log_snapshot(task, size_bytes=65_537, timeout_s=5)
        assert coderd.date.endswith("GMT")
