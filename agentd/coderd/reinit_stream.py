"""`GET /api/v2/workspaceagents/me/reinit?wait=true`: one connection to coderd's claim stream, told honestly.

coderd sends nothing, not even the status line, before its first event or its first ping, which is 15 s after the
request; so the header deadline is 45 s, and a connection that is only quiet is a healthy one until then. After that,
liveness is counted in bytes: a ping is 13 bytes and no event. Three pings' time without a byte ends the connection,
and so does a line or an event that is begun and not ended (a byte every other second is no life sign).

One watchdog task per connection holds these deadlines, because a timer per read would wake the daemon for every ping
and a timeout per read does not see a trickle.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from agentd.clock import Clock
from agentd.coderd.stream_answers import BODY_MAX_BYTES, refusal
from agentd.coderd.stream_faults import Broken, EventLate, HeadersLate, StreamEnded, StreamIdle
from agentd.http_session import USER_AGENT
from agentd.sse import EventDecoder, StreamItem

if TYPE_CHECKING:
    import httpx

PATH = "/api/v2/workspaceagents/me/reinit"
CONNECT_S = 10.0
SILENCE_S = 45.0  # three of coderd's pings


class ReinitStream:
    """The claim stream of one workspace. `last_event_id` and `retry_s` live from connection to connection.

    `url` is coderd's access url, `context` its TLS context (None for plain http), `headers` extra headers for proxies;
    `silence_s` bounds the wait for headers, for bytes and for the end of an event.
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
        """Connect once and yield what arrives, until the connection fails; it never ends in silence.

        `on_sent` is called when the request has left, `on_open` when the server has answered 200 with a stream. Close
        the generator (`contextlib.aclosing`) to close the connection. Raises one of `stream_faults`, `StreamEnded` at
        an orderly end.
        """
        import httpx  # noqa: PLC0415 - the daemon loads it late

        from agentd.coderd.stream_transport import StreamTransport  # noqa: PLC0415 - as above

        # A client per connection: nothing of a broken one is kept, and an idle daemon holds one socket.
        transport = StreamTransport(context=self._context, connect_s=self._connect_s, on_sent=on_sent)
        async with (
            httpx.AsyncClient(
                transport=transport,
                trust_env=False,
                follow_redirects=False,
                headers={"User-Agent": USER_AGENT},
            ) as client,
            _Watchdog(self._clock, self._silence_s) as watchdog,
        ):
            request = client.build_request(
                "GET", self._url, params={"wait": "true"}, headers=self._request_headers(token)
            )
            async with watchdog.deadline(HeadersLate, "no response headers"):
                response = await client.send(request, stream=True)
            try:
                await self._check(response, watchdog)
                on_open()
                async with contextlib.aclosing(self._decoded(response, watchdog)) as items:
                    async for item in items:
                        yield item
            finally:
                await response.aclose()
        raise StreamEnded("the server ended the stream")

    async def _check(self, response: "httpx.Response", watchdog: "_Watchdog") -> None:
        body = bytearray()
        if response.status_code != 200:
            # What has arrived of an error body is enough; a body that hangs or breaks off must not hide the status.
            with contextlib.suppress(Broken):
                async with watchdog.deadline(HeadersLate, "no end of the error body"):
                    async for chunk in response.aiter_raw():
                        body += chunk[:BODY_MAX_BYTES]
                        if len(body) >= BODY_MAX_BYTES:
                            break
        refused = refusal(response.status_code, response.headers, bytes(body), now_unix_s=self._clock.wall())
        if refused is not None:
            raise refused

    async def _decoded(
        self, response: "httpx.Response", watchdog: "_Watchdog"
    ) -> AsyncGenerator[StreamItem, None]:
        decoder = EventDecoder(last_event_id=self.last_event_id, retry_s=self.retry_s)
        # httpx types its generator as a plain iterator, which has no aclose().
        raw = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
        async with contextlib.aclosing(raw) as chunks:
            while True:
                async with watchdog.deadline(StreamIdle, "no byte", unfinished=decoder.unfinished):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                for item in decoder.feed(chunk):
                    self.last_event_id, self.retry_s = decoder.last_event_id, decoder.retry_s
                    yield item
                self.last_event_id, self.retry_s = decoder.last_event_id, decoder.retry_s

    def _request_headers(self, token: str) -> dict[bytes, bytes]:
        headers = {
            **self._headers,
            "Coder-Session-Token": token,
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "Cache-Control": "no-store",
        }
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        # As bytes: httpx would refuse what is not ASCII, and ids are UTF-8 by the standard.
        return {name.encode(): value.encode() for name, value in headers.items()}


class _Watchdog:
    """Ends the read under way when bytes, headers or the end of an event are overdue.

    It only ever interrupts a read, never what the consumer does with an event in between.
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
        self, fault: type[Broken], what: str, *, unfinished: bool = False
    ) -> AsyncIterator[None]:
        """Raise `fault` when the body takes `silence_s`; `EventLate` when reads stay `unfinished` for that long."""
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
                raise fault(f"{what} within {self._silence_s:g} s") from exc
            raise EventLate(f"an event was begun and not ended within {self._silence_s:g} s") from exc
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
