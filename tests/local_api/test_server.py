import asyncio
import contextlib
import io
import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from agentd.errors import ConfigError, PeerError, StateError
from agentd.local_api.replies import BODY_MAX_BYTES, ApiError
from agentd.local_api.server import LocalApi, Operations
from agentd.local_api.unix_socket import SOCKET_PATH_MAX_BYTES
from agentd.metrics import CONTENT_TYPE

RECEIPT = {"outcome": "delivered", "bytes": 12, "messages": 1, "sha256": "ab", "destinations": []}


@dataclass
class Daemon:
    """The operations that a daemon passes, with results that a test sets."""

    health: dict[str, str] = field(default_factory=lambda: {"event_loop": "ok", "state_dir": "ok"})
    status: dict[str, Any] = field(default_factory=dict)
    payload: bytes | None = b'{"messages":[]}'
    calls: list[str] = field(default_factory=list)
    fault: Exception | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    may_stop: asyncio.Event = field(default_factory=asyncio.Event)

    def operations(self) -> Operations:
        async def snapshot() -> dict[str, Any]:
            return self._result("snapshot")

        async def stop() -> dict[str, Any]:
            self.stopping.set()
            await self.may_stop.wait()
            return self._result("stop")

        async def on_claim(claim_id: str) -> dict[str, Any]:
            return self._result(claim_id)

        async def on_input(value: Any) -> dict[str, Any]:
            return self._result(f"input {value}")

        async def payload() -> bytes | None:
            return self.payload

        def status() -> dict[str, Any]:
            if self.fault:
                raise self.fault
            return self.status

        async def healthy() -> dict[str, Any]:
            return self.health

        async def metrics() -> str:
            return "agentd_x 1\n"

        async def ready() -> dict[str, Any]:
            return {"claims": "listening"}

        return Operations(
            healthy=healthy,
            ready=ready,
            metrics=metrics,
            status=status,
            claims=lambda: {"claims": []},
            retry_claim=on_claim,
            forget_claim=on_claim,
            snapshot=snapshot,
            payload=payload,
            messages=snapshot,
            drill=snapshot,
            send=on_input,
            report=on_input,
            event=on_input,
            stop=stop,
        )

    def _result(self, name: str) -> dict[str, Any]:
        self.calls.append(name)
        if self.fault:
            raise self.fault
        return RECEIPT


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agentd.sock"


@pytest.fixture
async def api(daemon, path):
    api = LocalApi(socket_path=path, listen="", operations=daemon.operations())
    await api.start()
    yield api
    await api.close()


@pytest.fixture
async def client(api, path):
    async with aiohttp.ClientSession(
        "http://localhost", connector=aiohttp.UnixConnector(str(path))
    ) as session:
        yield session


async def request(client: aiohttp.ClientSession, method: str, route: str, **more: Any) -> tuple[int, Any]:
    async with client.request(method, route, **more) as response:
        assert response.content_type == "application/json"
        body = await response.read()
        assert body.endswith(b"\n") or route == "/v1/snapshot"
        return response.status, json.loads(body)


@pytest.mark.parametrize(
    ("method", "route", "status", "answer"),
    [
        ("GET", "/healthz", 200, {"ok": True, "components": {"event_loop": "ok", "state_dir": "ok"}}),
        ("GET", "/readyz", 503, {"ok": False, "components": {"claims": "listening"}}),
        ("GET", "/v1/status", 200, {}),
        ("GET", "/v1/claims", 200, {"claims": []}),
        ("GET", "/v1/snapshot", 200, {"messages": []}),
        ("GET", "/v1/messages", 200, RECEIPT),
        ("POST", "/v1/snapshot", 200, RECEIPT),
        ("POST", "/v1/claims/c1/retry", 200, RECEIPT),
        ("DELETE", "/v1/claims/c1", 200, RECEIPT),
        ("GET", "/", 404, {"message": "Route not found."}),
        ("GET", "/v1/claims/c1", 405, {"message": "Method Not Allowed."}),
        ("POST", "/v1/status", 405, {"message": "Method Not Allowed."}),
        ("GET", "/v1/stop", 405, {"message": "Method Not Allowed."}),
    ],
)
async def test_every_route_answers_in_json(client, method, route, status, answer):
    assert await request(client, method, route) == (status, answer)


async def test_a_wrong_method_gets_the_allowed_ones(client):
    async with client.get("/v1/stop") as response:
        assert response.headers["Allow"] == "POST"


async def test_the_claim_id_of_the_url_is_decoded_and_passed_on(client, daemon):
    await request(client, "POST", "/v1/claims/a%2Fb/retry")
    await request(client, "DELETE", "/v1/claims/c2")
    assert daemon.calls == ["a/b", "c2"]


async def test_an_unhealthy_daemon_answers_503_with_the_component(client, daemon):
    daemon.health["state_dir"] = "not writable"
    status, answer = await request(client, "GET", "/healthz")
    assert (status, answer["ok"], answer["components"]["state_dir"]) == (503, False, "not writable")


async def test_metrics_are_text(client):
    async with client.get("/metrics") as response:
        assert (response.status, await response.text()) == (200, "agentd_x 1\n")
        assert response.headers["Content-Type"] == CONTENT_TYPE


async def test_no_snapshot_is_404(client, daemon):
    daemon.payload = None
    assert (await request(client, "GET", "/v1/snapshot"))[0] == 404


async def test_text_with_any_characters_is_unchanged(client, daemon):
    daemon.status = {"tail": "a\udc80\ud83d 🐦 \x00\u2028"}
    assert await request(client, "GET", "/v1/status") == (200, daemon.status)


@pytest.mark.parametrize(
    ("fault", "status", "answer"),
    [
        (
            ApiError(409, "It is over.", hint="start anew"),
            409,
            {"message": "It is over.", "detail": "start anew"},
        ),
        (ApiError(404, "No such claim."), 404, {"message": "No such claim."}),
        (
            StateError("the disk is full", hint="free some"),
            500,
            {"message": "the disk is full", "detail": "free some"},
        ),
        (PeerError("the agent closed the connection"), 502, {"message": "the agent closed the connection"}),
        (KeyError("hunter2"), 500, {"message": "Internal error.", "detail": "See agentd's log."}),
    ],
)
async def test_each_exception_has_its_status_and_only_faults_are_logged(
    client, daemon, fault, status, answer
):
    daemon.fault = fault
    with structlog.testing.capture_logs() as logged:
        assert await request(client, "GET", "/v1/status") == (status, answer)
        assert await request(client, "POST", "/v1/snapshot") == (status, answer)
    events = [record["event"] for record in logged]
    assert ("local_api.answer_failed" in events) == isinstance(fault, KeyError)
    assert ("local_api.act_failed" in events) == (not isinstance(fault, ApiError))


@pytest.mark.parametrize("route", ["/v1/snapshot", "/v1/stop", "/v1/claims/c1/retry"])
async def test_an_oversize_body_is_refused_before_the_operation_starts(client, daemon, route):
    status, answer = await request(client, "POST", route, data=io.BytesIO(bytes(BODY_MAX_BYTES + 1)))
    assert status == 413
    assert answer == {"message": "Request body too large.", "detail": f"At most {BODY_MAX_BYTES} bytes."}
    assert daemon.calls == []
    assert not daemon.stopping.is_set()


async def test_a_stop_returns_its_receipt(client, daemon):
    daemon.may_stop.set()
    assert await request(client, "POST", "/v1/stop", json={}) == (200, RECEIPT)


async def test_a_client_that_disconnects_does_not_cancel_the_stop(api, path, daemon):
    _, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    await asyncio.wait_for(daemon.stopping.wait(), 5)
    writer.close()
    await writer.wait_closed()
    daemon.may_stop.set()
    async with asyncio.timeout(5):
        while daemon.calls != ["stop"]:
            await asyncio.sleep(0)


async def test_a_cancelled_handler_does_not_cancel_its_operation(api, daemon):
    # aiohttp's default decides whether a disconnect cancels the handler; agentd must not depend on it.
    handling = asyncio.create_task(api._run_shielded(daemon.operations().stop()))
    await asyncio.wait_for(daemon.stopping.wait(), 5)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    daemon.may_stop.set()
    async with asyncio.timeout(5):
        while daemon.calls != ["stop"]:
            await asyncio.sleep(0)


async def test_a_stop_that_fails_after_the_client_disconnected_is_logged(api, path, daemon):
    daemon.fault = StateError("the disk is full")
    with structlog.testing.capture_logs() as logged:
        await test_a_client_that_disconnects_does_not_cancel_the_stop(api, path, daemon)
        async with asyncio.timeout(5):
            while not logged:
                await asyncio.sleep(0)
    assert [record["event"] for record in logged] == ["local_api.act_failed"]


async def test_close_cancels_running_operations(daemon, path):
    api = LocalApi(socket_path=path, listen="", operations=daemon.operations())
    await api.start()
    _, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    await asyncio.wait_for(daemon.stopping.wait(), 5)
    writer.close()
    await api.close()
    assert daemon.calls == []
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)


async def test_the_socket_has_mode_0600_and_is_removed_at_close(api, path):
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    await api.close()
    assert not path.exists()
    await api.close()


async def test_the_umask_is_restored(path, daemon):
    before = os.umask(0o027)
    try:
        api = LocalApi(socket_path=path, listen="", operations=daemon.operations())
        await api.start()
        await api.close()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def stale_socket(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))


async def test_a_stale_socket_is_replaced(path, daemon):
    stale_socket(path)
    api = LocalApi(socket_path=path, listen="", operations=daemon.operations())
    await api.start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        assert (await request(session, "GET", "http://localhost/healthz"))[0] == 200
    await api.close()


async def test_the_socket_of_a_running_daemon_is_kept(api, path, client, daemon):
    second = LocalApi(socket_path=path, listen="", operations=daemon.operations())
    with pytest.raises(StateError, match="another process listens on"):
        await second.start()
    await second.close()
    assert (await request(client, "GET", "/healthz"))[0] == 200


async def test_a_daemon_with_a_full_connection_queue_counts_as_running(path, daemon):
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy, contextlib.ExitStack() as waiting:
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(2):
            caller = waiting.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(str(path))
        with pytest.raises(StateError, match="another process listens on"):
            await LocalApi(socket_path=path, listen="", operations=daemon.operations()).start()
    assert path.exists()


async def test_a_file_at_the_socket_path_is_kept(path, daemon):
    path = path.with_name("other.sock")
    path.parent.mkdir(parents=True)
    path.write_text("content")
    with pytest.raises(StateError, match="exists and is not a socket"):
        await LocalApi(socket_path=path, listen="", operations=daemon.operations()).start()
    assert path.read_text() == "content"


async def test_a_file_at_the_default_socket_path_is_set_aside(path, daemon):
    path.parent.mkdir(parents=True)
    path.write_text("content")
    api = LocalApi(socket_path=path, listen="", operations=daemon.operations())
    await api.start()
    await api.close()
    assert path.with_name("agentd.sock.corrupt").read_text() == "content"


async def test_a_path_without_a_directory_is_refused(tmp_path, daemon):
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot create"):
        await LocalApi(
            socket_path=tmp_path / "file" / "sock", listen="", operations=daemon.operations()
        ).start()


async def test_the_longest_path_is_accepted_and_one_more_byte_is_refused(tmp_path, daemon):
    left = SOCKET_PATH_MAX_BYTES - len(os.fsencode(tmp_path)) - 1
    longest = tmp_path / ("x" * left)
    api = LocalApi(socket_path=longest, listen="", operations=daemon.operations())
    await api.start()
    await api.close()
    too_long = LocalApi(
        socket_path=tmp_path / ("é" + "x" * (left - 1)), listen="", operations=daemon.operations()
    )
    with pytest.raises(ConfigError, match="is longer than 107 bytes"):
        await too_long.start()


@pytest.fixture
async def tcp(path, daemon):
    api = LocalApi(socket_path=path, listen="127.0.0.1:0", operations=daemon.operations())
    await api.start()
    port = api._servers[-1].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session, port
    await api.close()


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:{port}", None, 200),
        ("localhost:{port}", None, 200),
        ("LOCALHOST", None, 200),
        ("[::1]:{port}", None, 200),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", 200),
        ("127.0.0.1:{port}", "http://127.0.0.1:3000", 403),
        ("127.0.0.1:{port}", "https://evil.example.com", 403),
        ("127.0.0.1:{port}", "null", 403),
        ("127.0.0.1:{port}", "", 403),
        ("evil.example.com", None, 403),
        ("evil.example.com:{port}", "http://evil.example.com:{port}", 403),
        ("127.0.0.1.evil.example.com", None, 403),
        ("evil@127.0.0.1:{port}", None, 403),
        ("127.0.0.1:{port}x", None, 403),
        ("[::1", None, 403),
        ("", None, 403),
    ],
)
async def test_over_tcp_a_foreign_host_or_origin_is_refused(tcp, daemon, host, origin, status):
    client, port = tcp
    headers = {"Host": host.format(port=port)}
    if origin is not None:
        headers["Origin"] = origin.format(port=port)
    found, answer = await request(client, "POST", "/v1/snapshot", headers=headers)
    assert found == status
    assert daemon.calls == (["snapshot"] if status == 200 else [])
    if status == 403:
        assert answer["message"] == (
            "Request refused: its Host, Origin or Sec-Fetch-Site header is not allowed (local_api.allowed_hosts)."
        )


async def test_the_unix_socket_accepts_any_host(client):
    assert (await request(client, "GET", "/healthz", headers={"Host": "anything"}))[0] == 200


async def test_a_request_without_a_host_is_refused_over_tcp(tcp):
    _, port = tcp
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /v1/status HTTP/1.0\r\n\r\n")
    assert b" 403 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_used_port_is_named_and_the_socket_is_removed(path, daemon):
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        listen = f"127.0.0.1:{used.getsockname()[1]}"
        api = LocalApi(socket_path=path, listen=listen, operations=daemon.operations())
        with pytest.raises(ConfigError, match=f"local_api.listen: cannot listen on {listen}"):
            await api.start()
    assert not path.exists()
