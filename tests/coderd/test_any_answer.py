"""Generated answers of every status and shape for each route. A route may raise its named errors only."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import AsyncMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.clock import Clock
from agentd.coderd.answers import parse_error_body
from agentd.coderd.client import Coderd
from agentd.coderd.debug_manifest import read_manifest
from agentd.coderd.errors import CoderdError
from agentd.coderd.identity import InstanceIdentityToken
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import StaticToken
from agentd.errors import PeerError
from agentd.http_client import RETRY_AFTER_MAX_S, client_session, one_line, retry_after_s
from agentd.log import register_secret
from agentd.snapshots import fetching
from agentd.snapshots.destinations.destination import DeliveryError
from agentd.snapshots.destinations.http import HttpDestination
from agentd.snapshots.destinations.url_template import DestinationContext, UrlTemplate
from agentd.snapshots.entry import SpoolEntry
from agentd.sse import StreamTooLargeError
from agentd.tls import aiohttp

TOKEN = "2f6c1c1e-6d0a-4f0c-9a55-2f0b3e5f7a11"

words = st.sampled_from(
    [
        "Route not found.",
        "Resource not found or you do not have access to this resource",
        "Claim build failed permanently.",
        "Invalid agentapi payload structure.",
        "http: request body too large",
        f"token {TOKEN}",
        "\ud800 \x1b[2J \u2028",
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
keys = (
    "message", "detail", "validations", "session_token", "signature", "encoding", "workspace_id", "owner_name",
)  # fmt: skip
objects = st.fixed_dictionaries({}, optional=dict.fromkeys(keys, values))
bodies = (
    st.builds(lambda value: json.dumps(value).encode(), objects | values)
    | st.binary(max_size=200)
    | st.sampled_from(
        [
            b'{"message":"x","validations":7}',
            b'{"message":"x","validations":true}',
            b'{"message":"x","validations":[7,{"detail":7}]}',
            b'{"message":' * 2000,
            b"[" * 100_000,
            b"7" * 10_000,
            b"\xef\xbb\xbf{}",
            b"event: ping\n\ndata: x\n\n",
            b"id: \x01\ndata: x\n\n" + b"data: y\n" * 10_000,
            b"x" * 200_000,
        ]
    )
)
dates = st.sampled_from(
    [
        "Mon, 02 Mar 2026 09:00:30 GMT",
        "Monday, 02-Mar-26 09:00:30 GMT",
        "Mon Mar  2 09:00:30 2026",
        "Mon, 02 Mar 0001 00:00:00 +2359",
        "Mon, 02 Mar 9999 23:59:59 -2359",
        "Mon, 02 Mar 99999999999999999999999 09:00:30 GMT",
        "Mon, 02 Mar 2026 09:00:30 -99999999999999999999",
        "Mon, 99 Foo 2026 99:99:99 GMT",
        "-1", "nan", "inf", "1e9", "9" * 400, "١",
    ]
)  # fmt: skip
header_text = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(
            ["application/json", "text/event-stream", "text/html", ";;=", "text/event-stream; charset=x"]
        )
        | header_text,
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "br", "zstd", "identity"]) | header_text,
        "Location": st.sampled_from(["http://[bad", "mailto:x", "http://h:99999999/", "//h/x"]) | header_text,
        "Retry-After": dates | header_text,
        "Date": dates | header_text,
        "Set-Cookie": header_text,
        "X-Coder-Request-Id": header_text,
        "X-Coder-Build-Version": header_text,
    },
)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def raw(self) -> bytes:
        lines = [f"{name}: {value}" for name, value in self.headers.items()]
        head = "\r\n".join([f"HTTP/1.1 {self.status} X", *lines, f"Content-Length: {len(self.body)}"])
        return head.encode() + b"\r\n\r\n" + self.body


replies = st.builds(
    Reply,
    st.sampled_from([200, 201, 204, 301, 302, 304, 307, 400, 401, 403, 404, 405, 408, 409, 413, 425, 429, 500, 502, 503])
    | st.integers(100, 599),
    headers,
    bodies,
)  # fmt: skip


Ask = Callable[[str, aiohttp.ClientSession], Awaitable[object]]


async def error_of(reply: Reply, ask: Ask, named: Any) -> Any:
    """The named error of `ask` at a server that gives `reply`, None if it succeeds."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply.raw())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, client_session() as session:
        try:
            await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", session)
        except named as exc:
            return exc
    return None


def coderd(url: str, session: aiohttp.ClientSession) -> Coderd:
    return Coderd(url, token=StaticToken(TOKEN), session=session)


async def log_snapshot(url: str, session: aiohttp.ClientSession) -> None:
    await coderd(url, session).put_log_snapshot("task", b"{}", timeout_s=10)


async def rehearsal(url: str, session: aiohttp.ClientSession) -> None:
    await coderd(url, session).rehearse_log_snapshot("task", size_bytes=100, timeout_s=10)


async def app_status(url: str, session: aiohttp.ClientSession) -> None:
    await coderd(url, session).update_app_status("app", "idle", "", "", timeout_s=10)


async def claim_stream(url: str, _session: aiohttp.ClientSession) -> None:
    stream = ReinitStream(url, context=None, clock=Clock())
    with contextlib.suppress(CoderdError, StreamTooLargeError):
        await read(stream)
    # A second connection, because it sends the last event id of the first.
    await read(stream)


async def read(stream: ReinitStream) -> None:
    async for _ in stream.events(TOKEN):
        pass


def identity(kind: Any) -> Ask:
    """The server is both the metadata server and coderd."""

    async def ask(url: str, session: aiohttp.ClientSession) -> None:
        source = InstanceIdentityToken(kind, coder_url=url, session=session, metadata_url=url)
        await source.renew("old")
        await source.current()

    return ask


async def exchange(url: str, session: aiohttp.ClientSession) -> None:
    source = InstanceIdentityToken("aws-instance-identity", coder_url=url, session=session)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(source, "_proof", AsyncMock(return_value={"signature": "s", "document": "d"}))
        await source.current()


async def manifest(url: str, session: aiohttp.ClientSession) -> None:
    await read_manifest(session, url)


async def delivery(url: str, session: aiohttp.ClientSession) -> None:
    entry = SpoolEntry("task", b"{}", 1, False, "2026-03-02T09:00:00.000000Z", serial=1)
    await HttpDestination(UrlTemplate(url, str), DestinationContext(session, Path(), {})).deliver(entry)


async def fetched(url: str, _session: aiohttp.ClientSession) -> None:
    await fetching.fetch(UrlTemplate(url, str), "task")


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        pytest.param(log_snapshot, CoderdError, id="log snapshot"),
        pytest.param(rehearsal, CoderdError, id="rehearsed log snapshot"),
        pytest.param(app_status, CoderdError, id="app status"),
        pytest.param(claim_stream, (CoderdError, StreamTooLargeError), id="claim stream"),
        pytest.param(identity("aws-instance-identity"), CoderdError, id="identity of AWS"),
        pytest.param(identity("azure-instance-identity"), CoderdError, id="identity of Azure"),
        pytest.param(identity("google-instance-identity"), CoderdError, id="identity of Google"),
        pytest.param(exchange, CoderdError, id="identity at coderd"),
        pytest.param(delivery, DeliveryError, id="https destination"),
        pytest.param(fetched, fetching.NotFetchedError, id="fetched snapshot"),
        pytest.param(manifest, PeerError, id="debug manifest"),
    ],
)
@settings(max_examples=60, deadline=None)
@given(reply=replies)
def test_an_answer_of_any_shape_raises_only_named_errors(ask, named, reply):
    register_secret(TOKEN)
    error = asyncio.run(error_of(reply, ask, named))
    assert len(str(error)) < 1000
    if isinstance(error, CoderdError):
        assert TOKEN not in str(error)
        assert error.label
        assert error.retry_after_s is None or 0 <= error.retry_after_s <= RETRY_AFTER_MAX_S


@given(body=bodies)
def test_any_error_body_is_parsed_to_short_printable_text(body):
    message, detail = parse_error_body(body.decode("utf-8", "replace"))
    assert message.isprintable()
    assert detail.isprintable()
    assert (len(message) <= 500, len(detail) <= 1000) == (True, True)


@given(retry_after=dates | st.text(), date=dates | st.text(), now_unix_s=st.floats(0, 253_402_300_799))
def test_any_retry_after_is_none_or_bounded(retry_after, date, now_unix_s):
    wait_s = retry_after_s({"retry-after": retry_after, "date": date}, now_unix_s=now_unix_s)
    assert wait_s is None or 0 <= wait_s <= RETRY_AFTER_MAX_S


@pytest.mark.parametrize(
    "date", ["Mon, 02 Mar 2026 09:00:30 GMT", "Monday, 02-Mar-26 09:00:30 GMT", "Mon Mar  2 09:00:30 2026"]
)
def test_retry_after_has_three_forms_of_date(date):
    assert retry_after_s({"retry-after": date}, now_unix_s=1_772_442_000.0) == 30.0
    sent = "Mon, 02 Mar 2026 09:00:20 GMT"
    assert retry_after_s({"retry-after": date, "date": sent}, now_unix_s=0.0) == 10.0


def test_one_line_has_no_control_characters_and_no_lone_surrogates():
    assert one_line(" a\r\n\tb\x1b[2J\ud800\u2028c\u00a0d ", 100) == "a b [2J c d"
    assert one_line("x" * 100, 10) == "x" * 10
