"""The calls agentd makes to AgentAPI, and a name for every way they fail.  HTTP only, no decisions.

AgentAPI holds one lock across `POST /message`: its whole turn in ACP mode, up to 17 s in PTY mode, for ever in one
0.12 case.  Meanwhile `/status` and `/messages` hang, while `/events` and `/openapi.json` answer.  So:

    what happened                                            raised          what it says
    no answer in time                                        AgentBusy       alive or not: ask `alive()`
    nobody listens, connection reset, EOF without answer     AgentGone       the agent has stopped, or is about to
    400 "Invalid host header"                                HostRefused     configuration: its message has the list
    any other answer that AgentAPI does not give             AgentBroken     a proxy, another server, a bug
    a send that AgentAPI turned down                         SendRefused     its message has AgentAPI's reason

A request that hangs is not cancelled but kept, and the next call of its kind waits for the same one: a server that
is asked every second for the length of a turn would otherwise hold hundreds of blocked requests.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, Literal, NamedTuple

from yarl import URL

from agentd.agents.agentapi.events import AgentEvent, AgentEventDecoder
from agentd.agents.agentapi.messages import BodyCutOff, BodyMalformed, BodyTooLarge, MessageTail
from agentd.agents.agentapi.single_flight import SingleFlight
from agentd.conversation.message import Message
from agentd.errors import PeerError
from agentd.http_client import read_start
from agentd.sse import StreamTooLargeError
from agentd.tls import aiohttp

__all__ = [
    "AgentApi",
    "AgentBroken",
    "AgentBusy",
    "AgentError",
    "AgentGone",
    "HostRefused",
    "SendRefused",
    "StatusReading",
]

STATUS_TIMEOUT_S: Final = 2.5
MESSAGES_TIMEOUT_S: Final = 5.0
# From the first byte on: 200 MB take half a second on loopback, a body that takes this long is not coming.
BODY_TIMEOUT_S: Final = 30.0

_SMALL_BODY_MAX_BYTES: Final = 16 * 1024
_EXCERPT_MAX_CHARS: Final = 200
_WORDS: Final[dict[str, Literal["running", "stable"]]] = {"running": "running", "stable": "stable"}


class AgentError(PeerError):
    """A call to AgentAPI did not succeed."""


class AgentBusy(AgentError):
    """No answer in time.  Usually a message is being delivered; not a sign that the agent is down."""


class AgentGone(AgentError):
    """Nobody listens, or the connection broke off."""


class AgentBroken(AgentError):
    """An answer that AgentAPI does not give."""


class HostRefused(AgentBroken):
    """AgentAPI does not accept the Host header that was sent; the message has the list of those it does."""


class SendRefused(AgentError):
    """AgentAPI did not take the message; the message of this error is AgentAPI's reason."""


class StatusReading(NamedTuple):
    """One answer of `GET /status`.  `agent_type` (since 0.10.1) and `transport` (0.12.0) are "" where missing."""

    status: Literal["running", "stable"]
    agent_type: str = ""
    transport: str = ""


class AgentApi:
    """AgentAPI at `url`.

    A `localhost` in it is connected to as 127.0.0.1, which saves resolver threads, and still named in the Host
    header, which is checked; `host_header` names another.  `tls` is the context for https.
    """

    def __init__(
        self,
        url: str,
        *,
        session: aiohttp.ClientSession,
        host_header: str | None = None,
        tls: ssl.SSLContext | None = None,
        status_timeout_s: float = STATUS_TIMEOUT_S,
        messages_timeout_s: float = MESSAGES_TIMEOUT_S,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        given = URL(url)
        self.url = str(given).rstrip("/")
        self._base = str(given.with_host("127.0.0.1") if given.host == "localhost" else given).rstrip("/")
        self._session = session
        self._headers = {
            "Host": host_header or given.host_port_subcomponent or "",
            "Accept-Encoding": "identity",
        }
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._status_timeout_s = status_timeout_s
        self._messages_timeout_s = messages_timeout_s
        self._body_timeout_s = body_timeout_s
        self._statuses = SingleFlight(self._read_status, "GET /status")
        self._histories: dict[int, SingleFlight[list[Message]]] = {}
        self.history_bytes = 0
        """Size of the last `/messages` body."""

    async def status(self) -> StatusReading:
        """`GET /status`.  Raises `AgentBusy`, `AgentGone` or `AgentBroken`."""
        try:
            return await self._statuses.join(self._status_timeout_s)
        except TimeoutError as error:
            raise AgentBusy(str(error)) from error

    async def messages(self, *, keep: int, timeout_s: float | None = None) -> list[Message]:
        """`GET /messages`: the newest `keep`, oldest first, in memory for that many, however long the history is.

        `timeout_s` is for all of it; without it, the usual time to the first byte and `body_timeout_s` from there.
        Raises `AgentBusy`, `AgentGone` or `AgentBroken`.
        """
        flight = self._histories.get(keep)
        if flight is None:
            call = partial(self._read_messages, keep)
            flight = self._histories[keep] = SingleFlight(call, "GET /messages")
        try:
            if timeout_s is not None:
                return await flight.join(timeout_s)
            return await flight.join(self._messages_timeout_s, then_s=self._body_timeout_s)
        except TimeoutError as error:
            raise AgentBusy(str(error)) from error

    async def alive(self, *, timeout_s: float = 1.0) -> bool:
        """Whether something answers at all: `/openapi.json` is not under the lock (0.00 s while /status hung)."""
        try:
            async with asyncio.timeout(timeout_s), self._exchange("GET", "/openapi.json"):
                return True
        except (AgentError, TimeoutError):
            return False

    async def send(self, content: str, *, timeout_s: float) -> None:
        """`POST /message` as the user.  PTY: returns when the agent has started on it (17 s at most); ACP: when done.

        Raises `SendRefused`, `AgentGone` or `AgentBroken`; `AgentBusy` when it is not known within `timeout_s`, in
        which case the message may still be delivered.  Never repeated: AgentAPI cannot tell a repetition.
        """
        body = json.dumps({"content": content, "type": "user"}).encode()
        try:
            async with asyncio.timeout(timeout_s), self._exchange("POST", "/message", body) as response:
                text = await read_start(response.content.iter_any(), _SMALL_BODY_MAX_BYTES)
        except TimeoutError as error:
            raise AgentBusy(f"POST /message: not finished within {timeout_s:g} s") from error
        if response.status == 200:
            return
        if response.content_type == "application/problem+json":
            raise SendRefused(_reason(text))
        raise _broken("POST /message", response, text)

    async def events(self) -> AsyncGenerator[AgentEvent, None]:
        """`GET /events`: every message, the status, then live, until the server ends it.  Close it with `aclosing`.

        There is no keepalive: silence is normal, and another call is the watchdog.  Read it quickly: AgentAPI breaks
        off (and panics) when a reader is 1,024 events behind.  Raises as `status` does.
        """
        decoder = AgentEventDecoder()
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._messages_timeout_s):
                    response = await stack.enter_async_context(self._exchange("GET", "/events"))
                    if response.status != 200 or response.content_type != "text/event-stream":
                        text = await read_start(response.content.iter_any(), _SMALL_BODY_MAX_BYTES)
                        raise _broken("GET /events", response, text)
            except TimeoutError as error:
                raise AgentBusy(f"GET /events: no answer within {self._messages_timeout_s:g} s") from error
            async for chunk in response.content.iter_any():
                try:
                    for event in decoder.feed(chunk):
                        yield event
                except StreamTooLargeError as error:
                    raise AgentBroken(f"GET /events: {error}") from error

    async def close(self) -> None:
        """Let go of requests that still hang."""
        await self._statuses.close()
        for flight in self._histories.values():
            await flight.close()

    async def _read_status(self, _begun: asyncio.Event) -> StatusReading:
        async with self._exchange("GET", "/status") as response:
            text = await read_start(response.content.iter_any(), _SMALL_BODY_MAX_BYTES)
            fields = _object(text) if response.status == 200 else None
            word = fields.get("status") if fields is not None else None
            if fields is None or not isinstance(word, str) or word not in _WORDS:
                raise _broken("GET /status", response, text)
            kinds = (fields.get("agent_type"), fields.get("transport"))
            return StatusReading(_WORDS[word], *(kind if isinstance(kind, str) else "" for kind in kinds))

    async def _read_messages(self, keep: int, begun: asyncio.Event) -> list[Message]:
        try:
            return await self._stream_messages(keep, begun)
        except _HungUp:
            # AgentAPI reads its list twice without a common lock; when it grew in between, the handler panics and
            # the client sees EOF without an answer.  Once more, then it counts.
            return await self._stream_messages(keep, begun)

    async def _stream_messages(self, keep: int, begun: asyncio.Event) -> list[Message]:
        tail = MessageTail(keep)
        async with self._exchange("GET", "/messages") as response:
            if response.status != 200:
                text = await read_start(response.content.iter_any(), _SMALL_BODY_MAX_BYTES)
                raise _broken("GET /messages", response, text)
            begun.set()
            try:
                async with asyncio.timeout(self._body_timeout_s):
                    async for chunk in response.content.iter_any():
                        tail.feed(chunk)
                return tail.close()
            except TimeoutError as error:
                raise AgentBroken(
                    f"GET /messages: {tail.received_bytes} bytes and no end in {self._body_timeout_s:g} s"
                ) from error
            except (BodyMalformed, BodyCutOff, BodyTooLarge) as error:
                raise AgentBroken(f"GET {error}") from error
            finally:
                self.history_bytes = tail.received_bytes

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request and the head of its answer, however it ends named as in the table above."""
        what = f"{method} {path}"
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        try:
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                # Nothing was asked to be compressed; what is anyway must not be inflated before it is refused.
                auto_decompress=False,
                ssl=self._tls,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            ) as response:
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise AgentBroken(f"{what}: compressed, which was not asked for")
                yield response
        except aiohttp.ServerDisconnectedError as error:
            raise _HungUp(f"{what}: {self.url} closed the connection without an answer") from error
        except aiohttp.ClientPayloadError as error:
            raise AgentGone(f"{what}: {self.url} broke off in the middle of its answer") from error
        except aiohttp.ClientSSLError as error:
            raise AgentBroken(f"{what}: TLS to {self.url} failed: {error}") from error
        except aiohttp.ClientConnectorError as error:
            raise AgentGone(f"{what}: nobody listens at {self.url} ({error.os_error})") from error
        except (aiohttp.ClientOSError, aiohttp.ClientConnectionError, OSError) as error:
            raise AgentGone(f"{what}: connection to {self.url} lost ({type(error).__name__})") from error
        except aiohttp.ClientError as error:
            raise AgentBroken(
                f"{what}: {self.url} does not speak HTTP: {str(error)[:_EXCERPT_MAX_CHARS]}"
            ) from error


class _HungUp(AgentGone):
    """EOF instead of an answer."""


def _object(body: bytes) -> dict[str, object] | None:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _reason(body: bytes) -> str:
    """Why a send failed: every failure is a 500 "unexpected error occurred", the cause is in the first error."""
    fields = _object(body) or {}
    errors = fields.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    message = first.get("message") if isinstance(first, dict) else None
    found = next(
        (text for text in (message, fields.get("detail"), fields.get("title")) if isinstance(text, str)), ""
    )
    return _excerpt(found) or "AgentAPI gave no reason"


def _broken(what: str, response: aiohttp.ClientResponse, body: bytes) -> AgentBroken:
    text = _excerpt(body.decode("utf-8", "replace"))
    if response.status == 400 and text.startswith("Invalid host header"):
        return HostRefused(
            f"{what}: {text}", hint="let AGENTAPI_ALLOWED_HOSTS of the agent include localhost"
        )
    return AgentBroken(f"{what}: {response.status} {text or 'without a body'}")


def _excerpt(text: str) -> str:
    return " ".join(text.split())[:_EXCERPT_MAX_CHARS]
