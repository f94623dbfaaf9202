"""The event streams. `GET /events`: everything again, then live; no keepalive, no ids, and no patience with slow readers."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from agentd.simulator import gojson, serving
from agentd.simulator.agentapi import answers
from agentd.simulator.agentapi.conversation import Conversation, Event, Follower, status_event, update_event

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
}
WRITE_DEADLINE_S = 5.0
"""A write that takes longer breaks the connection; so does the last chunk of a stream that was idle this long."""


async def serve(
    request: web.Request,
    conversation: Conversation,
    *,
    agent_type: str | None,
    monotonic: Callable[[], float],
    on_change: Callable[[], None],
) -> web.StreamResponse:
    """Follow `conversation` until the client goes, lags, or the server stops (None in the queue).

    `on_change()` is called when the following begins and when it ends.
    """
    response = web.StreamResponse(headers=_HEADERS)
    response.enable_chunked_encoding()
    follower = conversation.follow()
    on_change()
    try:
        await response.prepare(request)
        written_at = await _replay(response, follower, agent_type, monotonic)
        while (event := await _next(follower)) is not None:
            async with asyncio.timeout(WRITE_DEADLINE_S):
                await response.write(answers.event_bytes(event))
            written_at = monotonic()
        if monotonic() - written_at < WRITE_DEADLINE_S:
            await response.write_eof()
            return response
        # The write deadline of the last event has passed, so the final chunk fails.
        serving.cut(request.transport)
    except (Lagging, TimeoutError):
        # The real server panics here ("close of nil channel"): the connection breaks mid-chunk.
        serving.cut(request.transport)
    finally:
        conversation.followers.discard(follower)
        on_change()
    return await serving.never()


async def serve_screen(
    request: web.Request, conversation: Conversation, *, on_change: Callable[[], None]
) -> web.StreamResponse:
    """`GET /internal/screen`: the screen now and at each change, until the client goes or the server stops."""
    response = web.StreamResponse(headers=_HEADERS)
    response.enable_chunked_encoding()
    screens: asyncio.Queue[str | None] = asyncio.Queue()
    screens.put_nowait(conversation.screen)
    conversation.watchers.add(screens)
    try:
        await response.prepare(request)
        while (screen := await screens.get()) is not None:
            await response.write(f"event: screen\ndata: {gojson.dumps({'screen': screen})}\n\n".encode())
        await response.write_eof()
    finally:
        conversation.watchers.discard(screens)
        on_change()
    return response


class Lagging(Exception):
    """The follower's queue was full."""


async def _replay(
    response: web.StreamResponse, follower: Follower, agent_type: str | None, monotonic: Callable[[], float]
) -> float:
    for message in follower.messages:
        await response.write(answers.event_bytes(update_event(message)))
    follower.messages.clear()
    await response.write(answers.event_bytes(status_event(follower.status, agent_type)))
    for error in follower.errors:
        await response.write(answers.event_bytes(error))
    return monotonic()


async def _next(follower: Follower) -> Event | None:
    if follower.overflowed.is_set():
        raise Lagging
    return await follower.queue.get()
