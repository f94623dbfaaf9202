"""The claim stream over real sockets: each answer and each failure raises its own error."""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import subprocess
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import h11
import pytest
from fakeclock import FakeClock
from httpx_sse import ServerSentEvent
from hypothesis import example, given
from hypothesis import strategies as st

from agentd import __version__
from agentd.clock import Clock
from agentd.coderd import errors, reinit_stream
from agentd.coderd.answers import Answer, stream_error
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.reinit_stream import ReinitStream, is_sendable
from agentd.coderd.token import StaticToken
from agentd.http_client import retry_after_s
from agentd.sse import EventTooLargeError, Heartbeat, LineTooLongError

TOKEN = "2f6c1c1e-6d0a-4f0c-9a55-2f0b3e5f7a11"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PING = b"event: ping\n\n"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@contextlib.asynccontextmanager
async def server(handler: Handler, **options: Any) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A TCP server that sends exact bytes; yields its URL and the request heads that it received."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await handler(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        yield f"http{'s' if options else ''}://127.0.0.1:{port}", heads


def sends(*pieces: bytes) -> Handler:
    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return handler


def sends_and_waits(*pieces: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await sends(*pieces)(reader, writer)
        await reader.read()

    return handler


def answer(status: int, body: bytes = b"", *headers: str, content_type: str = "application/json") -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def coderd_answer(status: int, message: str, detail: str = "") -> bytes:
    return answer(status, json.dumps({"message": message, "detail": detail}).encode())


def stream_to(url: str, clock: Clock | None = None, **options: Any) -> ReinitStream:
    return ReinitStream(url, context=None, clock=clock or Clock(), **options)


async def collect(stream: ReinitStream, into: list[ServerSentEvent | Heartbeat] | None = None) -> None:
    async with contextlib.aclosing(stream.events(TOKEN)) as items:
        async for item in items:
            if into is not None:
                into.append(item)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(coderd_answer(401, "Workspace agent not authorized."), errors.UnauthorizedError, id="401"),
        pytest.param(coderd_answer(409, "Claim build failed permanently.", "terraform"), errors.ConflictError, id="409"),
        pytest.param(coderd_answer(404, "Route not found."), errors.RouteNotFoundError, id="404 route absent"),
        pytest.param(answer(404, b"<html>no</html>", content_type="text/html"), errors.NotFoundError, id="404 of a proxy"),
        pytest.param(coderd_answer(429, "You've been rate limited"), errors.RateLimitedError, id="429"),
        pytest.param(coderd_answer(500, "An internal server error occurred."), errors.ServerFaultError, id="500"),
        pytest.param(answer(502, b"<html>Bad Gateway</html>", content_type="text/html"), errors.ServerFaultError, id="HTML 502"),
        pytest.param(answer(503, b"data: x\n\n", content_type="text/event-stream"), errors.ServerFaultError, id="503 that looks like a stream"),
        pytest.param(answer(302, b"", "Location: https://login.example/x?token=1"), errors.RedirectError, id="302"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", errors.NoContentError, id="204"),
        pytest.param(answer(210, b"data: x\n\n", content_type="text/event-stream"), errors.UnexpectedStatusError, id="210"),
        pytest.param(answer(410, b""), errors.UnexpectedStatusError, id="410"),
        pytest.param(answer(200, b"<html></html>", content_type="text/html; charset=utf-8"), errors.HtmlPageError, id="HTML 200"),
        pytest.param(answer(200, b"{}"), errors.WrongContentTypeError, id="JSON 200"),
        pytest.param(answer(200, b"", content_type="application/text/event-streamish"), errors.WrongContentTypeError, id="almost the type"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", errors.WrongContentTypeError, id="no type"),
        pytest.param(answer(200, gzip.compress(b"data: x\n\n"), "Content-Encoding: gzip", content_type="text/event-stream"), errors.ContentEncodedError, id="gzip"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", errors.ProtocolError, id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 40_000, errors.HeadersTooLargeError, id="a header flood"),
        pytest.param(b"", errors.StreamCutError, id="closed without an answer"),
        pytest.param(STREAM_HEAD + chunked(PING), errors.StreamCutError, id="closed inside the chunked body"),
        pytest.param(STREAM_HEAD + chunked(PING) + b"0\r\n\r\n", errors.StreamEndedError, id="ended regularly"),
        pytest.param(STREAM_HEAD + chunked(b"data: " + b"x" * 70_000), LineTooLongError, id="a line too long"),
        pytest.param(STREAM_HEAD + chunked(b"data: xxxx\n" * 7_000), EventTooLargeError, id="an event too large"),
    ],
)  # fmt: skip
async def test_each_answer_raises_its_error(reply: bytes, error: type[Exception]) -> None:
    async with server(sends(reply)) as (url, _):
        with pytest.raises(error) as caught:
            await collect(stream_to(url))
    assert type(caught.value) is error


async def test_an_error_has_the_error_body_the_request_id_and_the_retry_after_of_coderd() -> None:
    body = json.dumps({"message": "M", "detail": "D"}).encode()
    reply = answer(409, body, "X-Coder-Request-Id: 7c9e6679", "Retry-After: 7")
    async with server(sends(reply)) as (url, _):
        with pytest.raises(errors.ConflictError) as caught:
            await collect(stream_to(url))
    refused = caught.value
    assert (refused.status, refused.body_message, refused.detail) == (409, "M", "D")
    assert (refused.request_id, refused.retry_after_s) == ("7c9e6679", 7.0)


async def test_a_redirect_is_not_followed_and_its_error_has_no_query() -> None:
    async with server(sends(STREAM_HEAD)) as (elsewhere, other_heads):
        reply = answer(307, b"", f"Location: {elsewhere}/reinit?secret=1")
        async with server(sends(reply)) as (url, _):
            with pytest.raises(errors.RedirectError, match=r"http://127\.0\.0\.1") as caught:
                await collect(stream_to(url))
    assert "secret" not in str(caught.value)
    assert other_heads == []


@pytest.mark.parametrize(
    "location", ["http://[bad", "mailto:x", "http://a\x01b/", "http://h:99999999/", "\xff", ""]
)
async def test_a_redirect_to_an_invalid_address_raises_the_same_error(location: str) -> None:
    async with server(sends(answer(302, b"", f"Location: {location}"))) as (url, _):
        with pytest.raises(errors.RedirectError):
            await collect(stream_to(url))


async def test_the_request_has_the_path_and_the_headers_of_the_protocol() -> None:
    async with server(sends(STREAM_HEAD + b"0\r\n\r\n")) as (url, heads):
        headers = {"X-Proxy": "1"}
        with pytest.raises(errors.StreamEndedError):
            await collect(stream_to(url, headers=ExtraHeaders(headers)))
    lines = heads[0].decode().lower().split("\r\n")
    assert lines[0] == "get /api/v2/workspaceagents/me/reinit?wait=true http/1.1"
    assert f"coder-session-token: {TOKEN}" in lines
    assert {"accept: text/event-stream", "accept-encoding: identity", "x-proxy: 1"} <= set(lines)
    assert f"user-agent: agentd/{__version__}" in lines
    assert not any(line.startswith("last-event-id") for line in lines)
    assert headers == {"X-Proxy": "1"}, "the caller's dict is not changed"


async def test_a_configured_header_replaces_the_default() -> None:
    async with server(sends(STREAM_HEAD + b"0\r\n\r\n")) as (url, heads):
        with pytest.raises(errors.StreamEndedError):
            await collect(
                stream_to(url, headers=ExtraHeaders({"user-agent": "a name that the proxy allows"}))
            )
    names = [line.partition(b":")[0] for line in heads[0].lower().split(b"\r\n")]
    assert names.count(b"user-agent") == 1
    assert b"a name that the proxy allows" in heads[0]


async def test_the_last_event_id_is_sent_on_reconnect() -> None:
    body = STREAM_HEAD + chunked("id: …\nretry: 200\ndata: a\n\nid: lost\ndata: b\n".encode()) + b"0\r\n\r\n"
    async with server(sends(body)) as (url, heads):
        stream = stream_to(url)
        for _ in range(2):
            with pytest.raises(errors.StreamEndedError):
                await collect(stream)
    assert b"last-event-id: \xe2\x80\xa6\r\n" in heads[1].lower()
    assert stream.retry_s == 0.2


@pytest.mark.parametrize("last_id", [" x", "a\x0bb", "a\x1cb", "x "])
async def test_an_event_id_that_is_not_valid_in_a_header_is_not_sent(last_id: str) -> None:
    body = STREAM_HEAD + chunked(f"id: {last_id}\ndata: a\n\n".encode()) + b"0\r\n\r\n"
    async with server(sends(body)) as (url, heads):
        stream = stream_to(url)
        for _ in range(2):
            with pytest.raises(errors.StreamEndedError):
                await collect(stream)
    assert b"last-event-id" not in heads[1].lower()


@pytest.mark.parametrize("status", [400, 431])
async def test_an_event_id_is_forgotten_after_an_answer_that_refuses_headers(status: int) -> None:
    replies = [
        STREAM_HEAD + chunked(b"id: 7\ndata: a\n\n") + b"0\r\n\r\n",
        answer(status, b""),
        answer(status, b""),
    ]

    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(replies[len(heads) - 1])

    async with server(reply) as (url, heads):
        stream = stream_to(url)
        for _ in range(3):
            with pytest.raises(errors.CoderdError):
                await collect(stream)
    assert [b"last-event-id: 7\r\n" in head.lower() for head in heads] == [False, True, False]


async def test_an_event_id_is_forgotten_after_a_request_that_h11_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reinit_stream, "is_sendable", bool)
    async with server(sends(STREAM_HEAD + chunked(b"data: a\n\n") + b"0\r\n\r\n")) as (url, heads):
        stream = stream_to(url)
        stream.last_event_id = "7\n"
        with pytest.raises(errors.ProtocolError, match="not allowed"):
            await collect(stream)
        with pytest.raises(errors.StreamEndedError):
            await collect(stream)
    assert len(heads) == 1


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.builds(lambda char, size: char * size, st.sampled_from("a…\u0301"), st.integers(1020, 1030))
    | st.builds(
        "".join, st.permutations(["7", "a b", "\t", " ", "\x0b", "\x0c", "\xa0", "é", "\x7f", "\u2028"])
    )
)
@example("7 ").via("the trailing space of the issue")
@example("x" * 1024)
@example("x" * 1025)
def test_a_sent_event_id_is_a_header_value_that_arrives_unchanged_and_is_at_most_1_kb(event_id: str) -> None:
    wanted = is_sendable(event_id)
    raw = event_id.encode()
    client, peer = h11.Connection(h11.CLIENT), h11.Connection(h11.SERVER)
    request = {"method": "GET", "target": "/", "headers": [("Host", "x"), ("Last-Event-ID", raw)]}
    if wanted:
        assert 0 < len(raw) <= 1024
        peer.receive_data(client.send(h11.Request(**request)) or b"")
        received = peer.next_event()
        assert isinstance(received, h11.Request)
        assert dict(received.headers)[b"last-event-id"] == raw
    elif event_id.isascii() and event_id.isprintable() and event_id.strip() == event_id:
        assert not 0 < len(raw) <= 1024, "an ordinary id is sent"


async def test_the_error_does_not_contain_a_token_that_the_server_returns() -> None:
    StaticToken(TOKEN)  # registers it as a secret
    async with server(sends(coderd_answer(409, f"token {TOKEN}", TOKEN))) as (url, _):
        with pytest.raises(errors.ConflictError) as caught:
            await collect(stream_to(url))
    assert TOKEN not in f"{caught.value!r} {caught.value} {caught.value.detail}"


async def test_on_sent_runs_before_the_first_byte_and_on_open_after_the_headers() -> None:
    calls: list[str] = []
    go = asyncio.Event()

    async def delayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(STREAM_HEAD + chunked(PING))
        await reader.read()

    def sent() -> None:
        calls.append("sent")
        go.set()

    async with server(delayed) as (url, _):
        items = stream_to(url).events(TOKEN, on_sent=sent, on_open=lambda: calls.append("open"))
        async with contextlib.aclosing(items):
            assert await anext(items) == Heartbeat("ping")
    assert calls == ["sent", "open"]


async def waits_for_deadline(url: str, fake_clock: FakeClock) -> BaseException | None:
    """Run one connection and advance the fake clock by 45 s while it waits for the server."""
    seen: list[ServerSentEvent | Heartbeat] = []
    task = asyncio.create_task(collect(stream_to(url, fake_clock.as_clock()), seen))
    await fake_clock.next_sleep()
    while not task.done():
        # The bytes need real iterations of the event loop; the deadline needs the fake clock only.
        await asyncio.sleep(0.01)
        await fake_clock.advance(5)
    return task.exception()


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        pytest.param(b"", errors.HeadersTimeoutError, id="no headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", errors.HeadersTimeoutError, id="half the headers"),
        pytest.param(STREAM_HEAD, errors.StreamIdleError, id="silence after the headers"),
        pytest.param(STREAM_HEAD + chunked(PING), errors.StreamIdleError, id="silence after a ping"),
    ],
)
async def test_45_s_without_a_byte_is_an_error(
    sent: bytes, error: type[Exception], fake_clock: FakeClock
) -> None:
    async with server(sends_and_waits(sent)) as (url, _):
        assert isinstance(await waits_for_deadline(url, fake_clock), error)


@pytest.mark.parametrize("piece", [b"x", b"data: x\n"], ids=["a line without end", "an event without end"])
async def test_a_line_or_an_event_without_an_end_is_an_error_despite_new_bytes(
    piece: bytes, fake_clock: FakeClock
) -> None:
    async def trickle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        while not writer.is_closing():
            writer.write(chunked(piece))
            await writer.drain()
            await asyncio.sleep(0.001)

    async with server(trickle) as (url, _):
        assert isinstance(await waits_for_deadline(url, fake_clock), errors.EventTimeoutError)


async def test_an_error_body_that_hangs_does_not_hide_the_status(fake_clock: FakeClock) -> None:
    hanging = (
        b"HTTP/1.1 409 X\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n" + b'{"message":'
    )
    async with server(sends_and_waits(hanging)) as (url, _):
        assert isinstance(await waits_for_deadline(url, fake_clock), errors.ConflictError)


async def test_quiet_for_44_seconds_is_healthy(fake_clock: FakeClock) -> None:
    go = asyncio.Event()

    async def delayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(STREAM_HEAD + chunked(PING))
        await reader.read()

    async with server(delayed) as (url, _):
        items = stream_to(url, fake_clock.as_clock()).events(TOKEN)
        first = asyncio.ensure_future(anext(items))
        await fake_clock.next_sleep()
        await fake_clock.advance(44)
        go.set()
        assert await first == Heartbeat("ping")
        await items.aclose()


async def test_a_line_of_100_mb_is_rejected_in_constant_memory() -> None:
    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        piece = chunked(b"x" * 65_536)
        for _ in range(1_600):
            writer.write(piece)
            await writer.drain()

    async with server(flood) as (url, _):
        tracemalloc.start()
        try:
            with pytest.raises(LineTooLongError):
                await collect(stream_to(url))
            assert tracemalloc.get_traced_memory()[1] < 3_000_000
        finally:
            tracemalloc.stop()


async def test_a_closed_port_and_an_unknown_host_raise_different_errors() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(errors.ConnectRefusedError):
            await collect(stream_to(f"http://127.0.0.1:{unused.getsockname()[1]}"))
    with pytest.raises(errors.DnsError):
        await collect(stream_to("http://no-such-host.invalid"))


async def test_an_untrusted_certificate_is_a_tls_error(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1",
         "-keyout", str(key), "-out", str(cert)],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        pytest.skip("openssl cannot make a certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with server(sends(STREAM_HEAD), ssl=context) as (url, heads):
        with pytest.raises(errors.TlsError):
            await collect(ReinitStream(url, context=ssl.create_default_context(), clock=Clock()))
    assert heads == []


async def test_a_reset_connection_is_a_stream_cut_error() -> None:
    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunked(PING))
        await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async with server(reset) as (url, _):
        with pytest.raises(errors.StreamCutError):
            await collect(stream_to(url))


async def test_the_error_for_a_token_that_cannot_be_sent_does_not_contain_it() -> None:
    async with server(sends(STREAM_HEAD)) as (url, heads):
        with pytest.raises(errors.ProtocolError) as caught:
            async with contextlib.aclosing(stream_to(url).events("secret\nvalue")) as items:
                await anext(items)
    assert "secret" not in str(caught.value)
    assert heads == []


async def test_cancelling_closes_the_connection_at_once() -> None:
    closed = asyncio.Event()

    async def wait_for_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunked(PING))
        await reader.read()
        closed.set()

    seen: list[ServerSentEvent | Heartbeat] = []
    async with server(wait_for_close) as (url, _):
        task = asyncio.create_task(collect(stream_to(url), seen))
        while not seen:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("60", 60.0), ("0", 0.0), ("99999999999999", 300.0), ("-1", None), ("soon", None), ("", None),
        ("Mon, 02 Mar 2026 09:00:30 GMT", 30.0), ("Mon, 02 Mar 2026 08:00:00 GMT", 0.0), ("Mon, 02 Mar 2099 09:00:00 GMT", 300.0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date_and_bounded(value: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": value}, now_unix_s=1_772_442_000.0) == seconds


@pytest.mark.parametrize("content_type", ["text/event-stream", "Text/Event-Stream", "text/event-stream;", " text/event-stream ; charset=x"])  # fmt: skip
def test_the_content_type_is_compared_exactly_except_case_and_parameters(content_type: str) -> None:
    assert stream_error(Answer.of(200, {"content-type": content_type}, b""), now_unix_s=0.0) is None


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[" * 5000, b"[]", b'{"message": 1}', b"\xff\xfe", b"null"]
)
def test_an_error_body_that_is_not_coderds_has_no_message(body: bytes) -> None:
    refused = stream_error(Answer.of(500, {}, body), now_unix_s=0.0)
    assert isinstance(refused, errors.ServerFaultError)
    assert refused.body_message == ""


def test_an_answer_is_refused_if_the_web_platform_tests_refuse_it(data_dir: Path) -> None:
    cases = json.loads((data_dir / "wpt-sse-cases.json").read_text("utf-8"))
    for case in cases:
        refused = stream_error(
            Answer.of(case["status"], {"content-type": case["content_type"]}, b""),
            now_unix_s=0.0,
        )
        assert (refused is not None) == (case["outcome"] == "fail"), case["name"]


async def test_each_web_platform_case_gives_the_expected_events_over_http(data_dir: Path) -> None:
    for case in json.loads((data_dir / "wpt-sse-cases.json").read_text("utf-8")):
        body = bytes.fromhex(case["input_hex"])
        head = f"HTTP/1.1 {case['status']} X\r\nContent-Type: {case['content_type']}\r\n".encode()
        for size in (1, max(len(body), 1)):
            chunks = [chunked(body[at : at + size]) for at in range(0, len(body), size)]
            async with server(sends(head + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n")) as (
                url,
                _,
            ):
                seen: list[ServerSentEvent | Heartbeat] = []
                failed = errors.CoderdError if case["outcome"] == "fail" else errors.StreamEndedError
                with pytest.raises(failed):
                    await collect(stream_to(url), seen)
            events = [(item.event, item.data, item.id) for item in seen if isinstance(item, ServerSentEvent)]
            assert events == [(e["event"], e["data"], e["id"]) for e in case["expected"]], case["name"]
