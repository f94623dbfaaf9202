"""`GET /api/v2/workspaceagents/me/reinit?wait=true`: one connection to coderd's claim stream.

coderd sends no byte, not even the status line, before its first event or its first ping, which is 15 s after
the request. So the deadline for headers is 45 s, and a connection without a byte is healthy until then. After
that, every byte shows that the connection is alive: a ping is 13 bytes and no event. The connection ends
after 45 s (three pings) without a byte, and after 45 s in which a line or an event started and did not end (a
byte every other second is not enough).

One watchdog task per connection enforces these deadlines. A timer per read would wake the daemon for every
ping, and a timeout per read does not detect a line that arrives byte by byte.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, cast

from agentd.clock import Clock
from agentd.coderd.answers import ERROR_BODY_MAX_BYTES, Answer, stream_error
from agentd.coderd.errors import (
    EventTimeoutError,
    HeadersTimeoutError,
    StreamEndedError,
    StreamIdleError,
    UnreachableError,
)
from agentd.http_client import USER_AGENT, read_start
from agentd.sse import EventDecoder, StreamItem

if TYPE_CHECKING:
    import httpx

PATH: Final = "/api/v2/workspaceagents/me/reinit"
CONNECT_S: Final = 10.0
SILENCE_S: Final = 45.0
"""Three of coderd's pings."""


class ReinitStream:
    """The claim stream of one workspace. `last_event_id` and `retry_s` are kept for the next connection.

    `url` is coderd's access URL, `context` its TLS context (None for plain http), `headers` are extra headers
    for proxies. `silence_s` limits the wait for the headers, for the next byte and for the end of an event.
    """

    def __init__(
        self,
        url: str,
        *,
        context: ssl.SSLContext | None,
        clock: Clock,
        headers: Mapping[str, str] | None = None,
        silence_s: float = SILENCE_S,
        connect_s: float = CONNECT_S,
    ) -> None:
        self._url = url.rstrip("/") + PATH
        self._context = context
        self._clock = clock
        self._headers = dict(headers or {})
        self._silence_s = silence_s
        self._connect_s = connect_s
        self.last_event_id = ""
        self.retry_s: float | None = None

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
        transport = StreamTransport(context=self._context, connect_s=self._connect_s, on_sent=on_sent)
        request = httpx.Request(
            "GET",
            self._url,
            params={"wait": "true"},
            # As UTF-8, the encoding of event ids: httpx would refuse other characters than ASCII.
            headers=httpx.Headers(self._request_headers(token), encoding="utf-8"),
        )
        async with _Watchdog(self._clock, self._silence_s) as watchdog:
            async with watchdog.deadline(HeadersTimeoutError, "no response headers"):
                response = await transport.handle_async_request(request)
            try:
                await self._check(response, watchdog)
                on_open()
                async with contextlib.aclosing(self._decoded(response, watchdog)) as items:
                    async for item in items:
                        yield item
            finally:
                await response.aclose()
        raise StreamEndedError("the server ended the stream")

    async def _check(self, response: "httpx.Response", watchdog: "_Watchdog") -> None:
        """Raise the error of an answer that is not the stream."""
        body = bytearray()
        if response.status_code != 200:
            # An error body that hangs or breaks off must not hide the status.
            with contextlib.suppress(UnreachableError):
                async with watchdog.deadline(HeadersTimeoutError, "no end of the error body"):
                    await read_start(response.aiter_raw(), ERROR_BODY_MAX_BYTES, into=body)
        answer = Answer.of(response.status_code, response.headers, bytes(body))
        error = stream_error(answer, now_unix_s=self._clock.wall())
        if error is not None:
            raise error

    async def _decoded(
        self, response: "httpx.Response", watchdog: "_Watchdog"
    ) -> AsyncGenerator[StreamItem, None]:
        decoder = EventDecoder(last_event_id=self.last_event_id, retry_s=self.retry_s)
        # httpx types its generator as a plain iterator, which has no aclose().
        raw = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
        async with contextlib.aclosing(raw) as chunks:
            while True:
                async with watchdog.deadline(StreamIdleError, "no byte", unfinished=decoder.unfinished):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                for item in decoder.feed(chunk):
                    self.last_event_id, self.retry_s = decoder.last_event_id, decoder.retry_s
                    yield item
                self.last_event_id, self.retry_s = decoder.last_event_id, decoder.retry_s

    def _request_headers(self, token: str) -> list[tuple[str, str]]:
        wanted = [
            ("User-Agent", USER_AGENT),
            *self._headers.items(),
            ("Coder-Session-Token", token),
            ("Accept", "text/event-stream"),
            ("Accept-Encoding", "identity"),
            ("Cache-Control", "no-store"),
        ]
        last_id = self.last_event_id
        # An id that cannot be sent in a header must not prevent all later connections.
        if last_id and last_id.isprintable() and last_id == last_id.strip():
            wanted.append(("Last-Event-ID", last_id))
        # The last one of a name wins, in any spelling: a configured header replaces the default user agent.
        return list({name.lower(): (name, value) for name, value in wanted}.values())


class _Watchdog:
    """Interrupts a read when headers, bytes or the end of an event are overdue.

    It interrupts reads only, never the consumer that handles an event between two reads.
    """

    def __init__(self, clock: Clock, silence_s: float) -> None:
        self._clock = clock
        self._silence_s = silence_s
        self._scope: asyncio.Timeout | None = None
        self._read_at = 0.0
        self._begun_at: float | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch(), name="claim stream watchdog")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    @contextlib.asynccontextmanager
    async def deadline(
        self, error: type[UnreachableError], what: str, *, unfinished: bool = False
    ) -> AsyncIterator[None]:
        """Raise `error` if the block takes `silence_s`.

        Raise `EventTimeoutError` if the blocks are `unfinished` for that long.
        """
        self._read_at = self._clock.monotonic()
        if not unfinished:
            self._begun_at = None
        elif self._begun_at is None:
            self._begun_at = self._read_at
        try:
            async with asyncio.timeout(None) as self._scope:
                yield
        except TimeoutError as exc:
            if self._overdue(self._read_at):
                raise error(f"{what} within {self._silence_s:g} s") from exc
            raise EventTimeoutError(f"an event started and did not end within {self._silence_s:g} s") from exc
        finally:
            self._scope = None

    def _overdue(self, since: float | None) -> bool:
        return since is not None and self._clock.monotonic() >= since + self._silence_s

    async def _watch(self) -> None:
        while True:
            since = self._read_at if self._begun_at is None else self._begun_at
            left_s = since + self._silence_s - self._clock.monotonic()
            if left_s <= 0 and self._scope is not None:
                self._scope.reschedule(asyncio.get_running_loop().time())
            await self._clock.sleep(left_s if left_s > 0 else self._silence_s)
