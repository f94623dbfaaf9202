"""HTTP client of AgentAPI: one method for each call, and a named error for each way it fails. No decisions.

AgentAPI holds one lock during `POST /message`: a whole turn in ACP mode, up to 17 s in PTY mode, without end in one
0.12 case. Meanwhile `/status` and `/messages` hang, while `/events` and `/openapi.json` answer.

    result                                                   raised             meaning
    no answer in time                                        AgentBusyError     up or not: `is_up()` tells
    connection refused or reset, EOF without an answer       AgentGoneError     the agent has stopped, or is stopping
    400 "Invalid host header"                                HostRefusedError   configuration; the message has the list
    any other answer that AgentAPI does not give             AgentBrokenError   a proxy, another server, a bug
    a message that AgentAPI did not take                     InputRefusedError  the message has AgentAPI's reason

A request that hangs is kept, not cancelled, and the next call of its kind waits for the same request: a server that is
asked every second during a long turn would otherwise hold hundreds of blocked requests.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, Literal, NamedTuple

from yarl import URL

from agentd import log
from agentd.agents.agent import AgentBrokenError, AgentBusyError, AgentError, AgentGoneError
from agentd.agents.agentapi.events import AgentEvent, AgentEventDecoder, LargeUpdate, read_update
from agentd.agents.agentapi.messages import MessageTail
from agentd.agents.json_scan import BodyError
from agentd.agents.single_flight import SingleFlight
from agentd.conversation.message import Message, NotAMessageError
from agentd.conversation.window import UndecodedMessage
from agentd.http_client import LoopShare, failure, json_object, one_line, read_start
from agentd.sse import StreamTooLargeError
from agentd.tls import aiohttp

STATUS_TIMEOUT_S: Final = 2.5
MESSAGES_TIMEOUT_S: Final = 5.0
# From the first byte on. 200 MB take half a second on loopback.
BODY_TIMEOUT_S: Final = 30.0

_SMALL_BODY_MAX_BYTES: Final = 16 * 1024
_EXCERPT_MAX_CHARS: Final = 200
_STATUSES: Final[dict[str, Literal["running", "stable"]]] = {"running": "running", "stable": "stable"}


class HostRefusedError(AgentBrokenError):
    """AgentAPI refuses the Host header. The message has the list of accepted ones."""


class InputRefusedError(AgentError):
    """AgentAPI did not take the input. The message of this error is AgentAPI's reason."""


class StatusReading(NamedTuple):
    """One answer of `GET /status`. `agent_type` (since 0.10.1) and `transport` (since 0.12.0) are "" where missing."""

    status: Literal["running", "stable"]
    agent_type: str = ""
    transport: str = ""


class AgentApiClient:
    """AgentAPI at `url`. `session` has no time limit of its own, `tls` is the context for https.

    For `localhost` the client connects to 127.0.0.1, which needs no resolver thread. The Host header, which AgentAPI
    checks, still has the name of the URL.
    """

    def __init__(
        self, url: str, *, session: aiohttp.ClientSession, tls: ssl.SSLContext | None = None
    ) -> None:
        given = URL(url)
        self.url = str(given).rstrip("/")
        self._base = str(given.with_host("127.0.0.1") if given.host == "localhost" else given).rstrip("/")
        self._session = session
        self._headers = {"Host": given.host_port_subcomponent or "", "Accept-Encoding": "identity"}
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._statuses = SingleFlight(self._read_status, "GET /status")
        self._histories: dict[int, SingleFlight[list[Message]]] = {}
        self._skipped = 0
        self.now = time.monotonic
        self.status_sent_at = float("-inf")
        """When the request was sent that gave the last answer of `status`, by `now`."""
        self.messages_sent_at = float("-inf")
        """The same for `messages`."""
        self.history_bytes = 0
        """Size of the last `/messages` body."""

    async def status(self, *, timeout_s: float | None = None, fresh: bool = False) -> StatusReading:
        """`GET /status`. `fresh` as in `messages`. Raises `AgentBusyError`, `AgentGoneError` or `AgentBrokenError`."""
        try:
            return await self._statuses.join(
                STATUS_TIMEOUT_S if timeout_s is None else timeout_s, fresh=fresh
            )
        except TimeoutError as exc:
            raise AgentBusyError(str(exc)) from exc

    async def messages(
        self,
        *,
        keep: int,
        timeout_s: float | None = None,
        first_byte_s: float = float("inf"),
        fresh: bool = False,
    ) -> list[Message]:
        """`GET /messages`: the newest `keep`, oldest first. Memory use depends on `keep`, not on the history.

        `fresh`: the request is sent after this call, not shared with a call that waits already. `timeout_s` bounds the
        whole call, `first_byte_s` the time to its first byte. Without them, `MESSAGES_TIMEOUT_S` bounds the time to the
        first byte, and `BODY_TIMEOUT_S` the rest.
        Raises `AgentBusyError`, `AgentGoneError` or `AgentBrokenError`.
        """
        flight = self._histories.get(keep)
        if flight is None:
            call = partial(self._read_messages, keep)
            flight = self._histories[keep] = SingleFlight(call, "GET /messages")
        try:
            if timeout_s is not None:
                first_byte_s = min(first_byte_s, timeout_s)
                return await flight.join(first_byte_s, then_s=timeout_s - first_byte_s, fresh=fresh)
            return await flight.join(MESSAGES_TIMEOUT_S, then_s=BODY_TIMEOUT_S, fresh=fresh)
        except TimeoutError as exc:
            raise AgentBusyError(str(exc)) from exc

    async def is_up(self, *, timeout_s: float = 1.0) -> bool:
        """Whether the server answers at all: `/openapi.json` does not need the lock (0.00 s while /status hung)."""
        try:
            async with asyncio.timeout(timeout_s), self._exchange("GET", "/openapi.json"):
                return True
        except (AgentError, TimeoutError):
            return False

    async def send(self, content: str, *, timeout_s: float) -> None:
        """`POST /message` as the user. Returns when the agent has begun (PTY, 17 s at most) or finished (ACP) the turn.

        Raises `InputRefusedError`, `AgentGoneError` or `AgentBrokenError`; `AgentBusyError` when there is no answer within
        `timeout_s`; the message may still be delivered. Never repeated: AgentAPI cannot recognise a repetition.
        """
        body = json.dumps({"content": content, "type": "user"}).encode()
        try:
            async with asyncio.timeout(timeout_s), self._exchange("POST", "/message", body) as response:
                text = await read_start(response.content.iter_any(), _SMALL_BODY_MAX_BYTES)
        except TimeoutError as exc:
            raise AgentBusyError(f"POST /message: not finished within {timeout_s:g} s") from exc
        if response.status == 200:
            return
        if response.content_type == "application/problem+json":
            raise InputRefusedError(_reason(text))
        raise _broken("POST /message", response, text)

    async def events(self) -> AsyncGenerator[AgentEvent, None]:
        """`GET /events`: every message, the status, then changes, until the server ends it. Close it with `aclosing`.

        There is no keepalive, so silence is normal and `status` is the watchdog. Read quickly: AgentAPI closes the
        stream (and panics) when a reader is 1,024 events behind. Raises as `status` does.
        """
        decoder = AgentEventDecoder()
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(MESSAGES_TIMEOUT_S):
                    response = await stack.enter_async_context(self._exchange("GET", "/events"))
                    if response.status != 200 or response.content_type != "text/event-stream":
                        text = await read_start(response.content.iter_any(), _SMALL_BODY_MAX_BYTES)
                        raise _broken("GET /events", response, text)
            except TimeoutError as exc:
                raise AgentBusyError(f"GET /events: no answer within {MESSAGES_TIMEOUT_S:g} s") from exc
            share = LoopShare()
            async for chunk in response.content.iter_any():
                try:
                    async for piece in share.pieces(chunk):
                        skipped = decoder.skipped
                        for event in decoder.feed(piece):
                            prepared = await self._prepared(event, share)
                            if prepared is not None:
                                yield prepared
                        if decoder.skipped > skipped:
                            self._on_skipped(
                                self._skipped + decoder.skipped - skipped, decoder.skipped_because
                            )
                except StreamTooLargeError as exc:
                    raise AgentBrokenError(f"GET /events: {exc}") from exc

    async def close(self) -> None:
        """Cancel requests that still hang."""
        await self._statuses.close()
        for flight in self._histories.values():
            await flight.close()

    async def _read_status(self, _begun: asyncio.Event) -> StatusReading:
        sent_at = self.now()
        async with self._exchange("GET", "/status") as response:
            text = await read_start(response.content.iter_any(), _SMALL_BODY_MAX_BYTES)
            fields = json_object(text) if response.status == 200 else {}
            word = fields.get("status")
            if not isinstance(word, str) or word not in _STATUSES:
                raise _broken("GET /status", response, text)
            self.status_sent_at = sent_at
            kinds = (fields.get("agent_type"), fields.get("transport"))
            return StatusReading(_STATUSES[word], *(kind if isinstance(kind, str) else "" for kind in kinds))

    async def _read_messages(self, keep: int, begun: asyncio.Event) -> list[Message]:
        try:
            return await self._stream_messages(keep, begun)
        except _NoAnswerError:
            # AgentAPI reads its list twice without a common lock. If the list grew in between, the handler panics and
            # the client sees EOF without an answer. A second EOF is an error.
            return await self._stream_messages(keep, begun)

    async def _stream_messages(self, keep: int, begun: asyncio.Event) -> list[Message]:
        tail = MessageTail(keep)
        share = LoopShare()
        sent_at = self.now()
        async with self._exchange("GET", "/messages") as response:
            if response.status != 200:
                text = await read_start(response.content.iter_any(), _SMALL_BODY_MAX_BYTES)
                raise _broken("GET /messages", response, text)
            begun.set()
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    async for chunk in response.content.iter_any():
                        async for piece in share.pieces(chunk):
                            tail.feed(piece)
                self._on_skipped(tail.skipped, tail.skipped_because)
                messages = []
                for message in tail.messages():
                    await share.pause()
                    messages.append(message)
                self.messages_sent_at = sent_at
                return messages
            except TimeoutError as exc:
                raise AgentBrokenError(
                    f"GET /messages: the answer did not end; {tail.received_bytes} bytes in {BODY_TIMEOUT_S:g} s"
                ) from exc
            except BodyError as exc:
                raise AgentBrokenError(f"GET /messages: {exc}") from exc
            finally:
                self.history_bytes = tail.received_bytes

    async def _prepared(self, event: AgentEvent | LargeUpdate, share: LoopShare) -> AgentEvent | None:
        """An event as its reader gets it, None for a large update that is malformed."""
        if isinstance(event, LargeUpdate):
            try:
                message = await read_update(event, share)
            except NotAMessageError as exc:
                self._on_skipped(self._skipped + 1, str(exc))
                return None
            return UndecodedMessage(message.id, message.role, lambda: message)
        if isinstance(event, UndecodedMessage):
            return event._replace(decode=partial(self._decoded, event))
        return event

    def _decoded(self, update: UndecodedMessage) -> Message:
        try:
            return update.decode()
        except NotAMessageError as exc:
            self._on_skipped(self._skipped + 1, str(exc))
            raise

    def _on_skipped(self, count: int, reason: str) -> None:
        """Log the entries and updates that are not messages, once until a history has none."""
        if count and not self._skipped:
            log.get("agents").warning("agent.messages_skipped", messages=count, reason=reason)
        self._skipped = count

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request and the head of its answer. Raises the errors of the table above."""
        what = f"{method} {path}"
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        try:
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                # A compressed answer is refused, so it must not be inflated first.
                auto_decompress=False,
                ssl=self._tls,
            ) as response:
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise AgentBrokenError(
                        f"{what}: the answer is compressed, but Accept-Encoding is identity"
                    )
                yield response
        except aiohttp.ServerDisconnectedError as exc:
            raise _NoAnswerError(f"{what}: {self.url} closed the connection without an answer") from exc
        except aiohttp.ClientPayloadError as exc:
            raise AgentGoneError(
                f"{what}: {self.url} closed the connection before the end of its answer"
            ) from exc
        except aiohttp.ClientSSLError as exc:
            raise AgentBrokenError(f"{what}: TLS to {self.url} failed: {failure(exc)}") from exc
        except aiohttp.ClientConnectorError as exc:
            raise AgentGoneError(f"{what}: cannot connect to {self.url} ({exc.os_error})") from exc
        except (aiohttp.ClientOSError, aiohttp.ClientConnectionError, OSError) as exc:
            raise AgentGoneError(f"{what}: connection to {self.url} lost ({type(exc).__name__})") from exc
        except aiohttp.ClientError as exc:
            raise AgentBrokenError(f"{what}: {self.url} does not speak HTTP: {failure(exc)}") from exc


class _NoAnswerError(AgentGoneError):
    """The connection was closed without an answer."""


def _reason(body: bytes) -> str:
    """Why a send failed. Every failure is a 500 "unexpected error occurred"; the cause is in the first error."""
    fields = json_object(body)
    errors = fields.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    message = first.get("message") if isinstance(first, dict) else None
    found = next(
        (text for text in (message, fields.get("detail"), fields.get("title")) if isinstance(text, str)), ""
    )
    return one_line(found, _EXCERPT_MAX_CHARS) or "AgentAPI gave no reason"


def _broken(what: str, response: aiohttp.ClientResponse, body: bytes) -> AgentBrokenError:
    text = one_line(body.decode("utf-8", "replace"), _EXCERPT_MAX_CHARS)
    if response.status == 400 and text.startswith("Invalid host header"):
        return HostRefusedError(
            f"{what}: {text}", hint="set AGENTAPI_ALLOWED_HOSTS of the agent to a list with localhost"
        )
    return AgentBrokenError(f"{what}: {response.status} {text or 'without a body'}")
