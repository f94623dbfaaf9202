"""The event streams `GET /events` and `GET /internal/screen`.

They have no keepalive, no ids, and end for slow readers.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import web

from agentd.simulator import serving, sse
from agentd.simulator.agentapi.conversation import Conversation, Event, Follower, status_event, update_event

WRITE_DEADLINE_S: Final = 5.0
"""A longer write breaks the connection. So does the last chunk of a stream that was idle this long."""

_UNBUFFERED: Final = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
    "X-Accel-Buffering": "no",
    "X-Proxy-Buffering": "no",
    "Connection": "keep-alive",
}


async def serve(
    request: web.Request,
    conversation: Conversation,
    *,
    agent_type: str | None,
    unbuffered: bool,
    monotonic: Callable[[], float],
    on_change: Callable[[], None],
) -> web.StreamResponse:
    """Send the conversation and its events.

    The stream ends when the client disconnects or lags, and at None in the follower's queue. `on_change()` is
    called when the subscription begins and when it ends. `unbuffered` adds the headers for proxies.
    """
    response = _stream(unbuffered=unbuffered)
    follower = conversation.follow()
    on_change()
    try:
        await response.prepare(request)
        written_at = await _replay(response, follower, agent_type, monotonic)
        while (event := await _next(follower)) is not None:
            async with asyncio.timeout(WRITE_DEADLINE_S):
                await _send(response, event)
            written_at = monotonic()
        if monotonic() - written_at < WRITE_DEADLINE_S:
            await response.write_eof()
            return response
        # The write deadline of the last event has passed, so the final chunk fails.
        serving.cut(request.transport)
    except (LaggingError, TimeoutError):
        # The real server panics here ("close of nil channel"), which breaks the connection inside a chunk.
        serving.cut(request.transport)
    finally:
        conversation.followers.discard(follower)
        on_change()
    return await serving.wait_until_cancelled()


async def serve_screen(
    request: web.Request, conversation: Conversation, *, unbuffered: bool, on_change: Callable[[], None]
) -> web.StreamResponse:
    """`GET /internal/screen`: the screen now and after each change, until the client or the server closes."""
    response = _stream(unbuffered=unbuffered)
    screens: asyncio.Queue[str | None] = asyncio.Queue()
    screens.put_nowait(conversation.screen)
    conversation.watchers.add(screens)
    try:
        await response.prepare(request)
        while (screen := await screens.get()) is not None:
            await response.write(sse.event("screen", {"screen": screen}))
        await response.write_eof()
    finally:
        conversation.watchers.discard(screens)
        on_change()
    return response


def _stream(*, unbuffered: bool) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream"} | (_UNBUFFERED if unbuffered else {})
    )
    response.enable_chunked_encoding()
    return response


class LaggingError(Exception):
    """The follower's queue is full."""


async def _replay(
    response: web.StreamResponse, follower: Follower, agent_type: str | None, monotonic: Callable[[], float]
) -> float:
    for message in follower.messages:
        await _send(response, update_event(message))
    follower.messages.clear()
    await _send(response, status_event(follower.status, agent_type))
    for error in follower.errors:
        await _send(response, error)
    return monotonic()


async def _send(response: web.StreamResponse, event: Event) -> None:
    await response.write(sse.event(event.kind, event.data))


async def _next(follower: Follower) -> Event | None:
    if follower.overflowed.is_set():
        raise LaggingError
    return await follower.queue.get()
