"""`GET /api/v2/workspaceagents/me/reinit?wait=true`: one connection to coderd's claim stream.

coderd sends no byte, not even the status line, before its first event or its first ping, 15 s after the
request. So the deadline for headers is 45 s. Later every byte shows that the connection is alive: a ping is
13 bytes and no event. The connection ends after 45 s (three pings) without a byte, and after 45 s in which a
line or an event started and did not end (a byte every other second is not enough).
"""

import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Final, cast

from agentd.clock import Clock
from agentd.coderd.answers import ERROR_BODY_MAX_BYTES, Answer, stream_error
from agentd.coderd.errors import (
    EventTimeoutError,
    HeadersTimeoutError,
    ProtocolError,
    StreamEndedError,
    StreamIdleError,
    UnreachableError,
)
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.http_client import USER_AGENT, LoopShare, one_line, read_start
from agentd.proxy import Proxy
from agentd.sse import EventDecoder, StreamItem

if TYPE_CHECKING:
    import httpx

PATH: Final = "/api/v2/workspaceagents/me/reinit"
SILENCE_S: Final = 45.0
"""Limit of the wait for headers, for the next byte and for the end of an event: three of coderd's pings."""

LAST_EVENT_ID_MAX_BYTES: Final = 1024
"""A proxy limits all headers together, often to 8 KB."""
_REFUSED_HEADERS: Final = frozenset({400, 431})
"""Statuses by which a server or a proxy refuses a header. The event id is the only one that came from the server."""


class ReinitStream:
    """The claim stream of one workspace. `last_event_id` and `retry_s` are kept for the next connection.

    `build_version` is `X-Coder-Build-Version` of the last answer, "" before the first and without the header.

    `url` is coderd's access URL, `proxy` its proxy, `context` the TLS context for https of either, `headers` are
    extra headers.
    """

    def __init__(
        self,
        url: str,
        *,
        context: ssl.SSLContext | None,
        clock: Clock,
        headers: ExtraHeaders | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self._url = url.rstrip("/") + PATH
        self._context = context
        self._clock = clock
        self._headers = headers or ExtraHeaders()
        self._proxy = proxy
        self.last_event_id = ""
        self.retry_s: float | None = None
        self.build_version = ""

    async def events(
        self,
        token: str,
        *,
        on_sent: Callable[[], None] = lambda: None,
        on_open: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[StreamItem, None]:
        """Connect once and yield each item until the connection fails. It always ends with an error.

        `on_sent` is called after the request was sent, `on_open` after the server answered 200 with a stream.
        Close the generator (`contextlib.aclosing`) to close the connection. Raises a `CoderdError` or a
        `StreamTooLargeError`; `StreamEndedError` if the server ends the stream regularly.
        """
        import httpx  # noqa: PLC0415 - the daemon loads it late

        from agentd.coderd.stream_transport import StreamTransport  # noqa: PLC0415 - as above

        # Without httpx's client, which also parses redirects and raises its own errors for invalid ones.
        transport = StreamTransport(context=self._context, on_sent=on_sent, proxy=self._proxy)
        extra = await self._headers.current()
        request = httpx.Request(
            "GET",
            self._url,
            params={"wait": "true"},
            # As UTF-8, the encoding of event ids: httpx would refuse other characters than ASCII.
            headers=httpx.Headers(self._request_headers(token, extra), encoding="utf-8"),
        )
        try:
            async with self._deadline(HeadersTimeoutError, "no response headers"):
                response = await transport.handle_async_request(request)
        except ProtocolError:
            self.last_event_id = ""  # it may be the header that cannot be sent
            raise
        self.build_version = one_line(response.headers.get("X-Coder-Build-Version", ""), 100)
        try:
            await self._check(response)
            on_open()
            async with contextlib.aclosing(self._decoded(response)) as items:
                async for item in items:
                    yield item
        finally:
            await response.aclose()
        raise StreamEndedError("the server ended the stream")

    @contextlib.asynccontextmanager
    async def _deadline(
        self, error: type[UnreachableError], what: str, *, since: float | None = None
    ) -> AsyncIterator[None]:
        """Raise `error` if the block does not end within `SILENCE_S` from now or from `since` (monotonic)."""
        now = self._clock.monotonic()
        try:
            async with self._clock.timeout((now if since is None else since) + SILENCE_S - now):
                yield
        except TimeoutError as exc:
            raise error(f"{what} within {SILENCE_S:g} s") from exc

    async def _check(self, response: "httpx.Response") -> None:
        """Raise the error of an answer that is not the stream."""
        body = bytearray()
        if response.status_code != 200:
            # An error body that hangs or breaks off must not hide the status.
            with contextlib.suppress(UnreachableError):
                async with self._deadline(HeadersTimeoutError, "no end of the error body"):
                    await read_start(response.aiter_raw(), ERROR_BODY_MAX_BYTES, into=body)
        if response.status_code in _REFUSED_HEADERS:
            self.last_event_id = ""
        answer = Answer.of(response.status_code, response.headers, bytes(body))
        error = stream_error(answer, now_unix_s=self._clock.wall())
        if error is not None:
            raise error

    async def _decoded(self, response: "httpx.Response") -> AsyncGenerator[StreamItem, None]:
        decoder = EventDecoder(last_event_id=self.last_event_id, retry_s=self.retry_s)
        # httpx types its generator as a plain iterator, which has no aclose().
        raw = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
        async with contextlib.aclosing(raw) as chunks:
            unfinished_since: float | None = None
            share = LoopShare()
            while True:
                deadline = self._deadline(StreamIdleError, "no byte")
                if not decoder.unfinished:
                    unfinished_since = None
                elif unfinished_since is None:
                    unfinished_since = self._clock.monotonic()
                else:
                    what = "an event started and did not end"
                    deadline = self._deadline(EventTimeoutError, what, since=unfinished_since)
                async with deadline:
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                async for piece in share.pieces(chunk):
                    for item in decoder.feed(piece):
                        self.last_event_id, self.retry_s = decoder.last_event_id, decoder.retry_s
                        yield item
                self.last_event_id, self.retry_s = decoder.last_event_id, decoder.retry_s

    def _request_headers(self, token: str, extra: Mapping[str, str]) -> list[tuple[str, str]]:
        wanted = [
            ("User-Agent", USER_AGENT),
            *extra.items(),
            ("Coder-Session-Token", token),
            ("Accept", "text/event-stream"),
            ("Accept-Encoding", "identity"),
            ("Cache-Control", "no-store"),
        ]
        if is_sendable(self.last_event_id):
            wanted.append(("Last-Event-ID", self.last_event_id))
        # The last one of a name wins, in any spelling: a configured header replaces the default user agent.
        return list({name.lower(): (name, value) for name, value in wanted}.values())


def is_sendable(event_id: str) -> bool:
    """Whether an event id is a legal header value of at most `LAST_EVENT_ID_MAX_BYTES`.

    Another id would prevent all later connections, so it is not sent.
    """
    return (
        event_id.isprintable()
        and event_id == event_id.strip()
        and 0 < len(event_id.encode()) <= LAST_EVENT_ID_MAX_BYTES
    )
