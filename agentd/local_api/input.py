"""What is said to the daemon: a message for the agent, a report about the task, an event."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from agentd.local_api.replies import Json, RefusedError, reply

__all__ = ["Handler", "on_event", "on_message", "on_report"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ToItsEnd = Callable[[Awaitable[Json]], Awaitable[Json]]

WAIT_MAX_S: Final = 3600.0
TRY_EVERY_S: Final = 0.1


def on_message(
    send: Callable[[object], Awaitable[Json]], to_its_end: ToItsEnd, *, closing: Callable[[], bool]
) -> Handler:
    """204 once `send` took the content; with `?wait=S`, what waiting can resolve (409) is tried again for S seconds."""

    async def handle(request: web.Request) -> web.Response:
        wait_s = _wait_s(request)
        content = _object(await request.read()).get("content")
        give_up_at = asyncio.get_running_loop().time() + wait_s
        while True:
            try:
                await to_its_end(send(content))
            except RefusedError as refused:
                left_s = give_up_at - asyncio.get_running_loop().time()
                if refused.status != 409 or left_s <= 0 or closing():
                    raise
                await asyncio.sleep(min(TRY_EVERY_S, left_s))
            else:
                return web.Response(status=204)
            # Nobody is there any more to be told that it was sent: then it is not sent.
            if request.transport is None or request.transport.is_closing():
                raise RefusedError(409, "The client has gone.")

    return handle


def on_report(report: Callable[[Json], Awaitable[Json]], to_its_end: ToItsEnd) -> Handler:
    """200, or what `report` raises."""

    async def handle(request: web.Request) -> web.Response:
        return reply(await to_its_end(report(_object(await request.read()))))

    return handle


def on_event(event: Callable[[Json], Awaitable[Json]], to_its_end: ToItsEnd) -> Handler:
    """200 whatever was sent: its caller does not look, and must not be made to try again. The body says what became of it."""

    async def handle(request: web.Request) -> web.Response:
        try:
            said = _object(await request.read())
        except RefusedError as refused:
            return reply({"taken": False, "message": str(refused)})
        return reply(await to_its_end(event(said)))

    return handle


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "Request body must be valid JSON.", hint=str(error)) from error
    if not isinstance(value, dict):
        raise RefusedError(400, "Request body must be a JSON object.")
    return value


def _wait_s(request: web.Request) -> float:
    text = request.query.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= WAIT_MAX_S:
        raise RefusedError(400, "Not a time to wait.", hint=f"wait: must be 0 to {WAIT_MAX_S:g} seconds")
    return seconds
