"""The handlers of `POST /v1/messages`, `/v1/reports` and `/v1/events`."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from agentd.local_api.replies import ApiError, Handler, Json, json_response

RunShielded = Callable[[Awaitable[Json]], Awaitable[Json]]
"""Awaits an operation that continues when the client disconnects."""

WAIT_MAX_S: Final = 3600.0
RETRY_INTERVAL_S: Final = 0.1


def message_handler(
    send: Callable[[object], Awaitable[Json]], run_shielded: RunShielded, *, closing: Callable[[], bool]
) -> Handler:
    """204 once `send` accepted the content. With `?wait=S` it retries a 409 of `send` for up to S seconds.

    The retries end when the client disconnects or `closing` returns True.
    """

    async def handle(request: web.Request) -> web.Response:
        wait_s = _wait_s(request)
        content = _json_object(await request.read()).get("content")
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            try:
                await run_shielded(send(content))
            except ApiError as exc:
                left_s = deadline - asyncio.get_running_loop().time()
                if exc.status != 409 or left_s <= 0 or closing():
                    raise
                await asyncio.sleep(min(RETRY_INTERVAL_S, left_s))
            else:
                return web.Response(status=204)
            # A client that disconnected does not learn that the message was sent, so it is not sent.
            if request.transport is None or request.transport.is_closing():
                raise ApiError(409, "The client disconnected.")

    return handle


def report_handler(report: Callable[[Json], Awaitable[Json]], run_shielded: RunShielded) -> Handler:
    """200 with the result of `report`."""

    async def handle(request: web.Request) -> web.Response:
        return json_response(await run_shielded(report(_json_object(await request.read()))))

    return handle


def event_handler(event: Callable[[Json], Awaitable[Json]], run_shielded: RunShielded) -> Handler:
    """200 for every request: its client must not retry. `taken` states whether the event was accepted."""

    async def handle(request: web.Request) -> web.Response:
        try:
            fields = _json_object(await request.read())
        except ApiError as exc:
            return json_response({"taken": False, "message": str(exc)})
        return json_response(await run_shielded(event(fields)))

    return handle


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ApiError(400, "Request body must be valid JSON.", hint=str(exc)) from exc
    if not isinstance(value, dict):
        raise ApiError(400, "Request body must be a JSON object.")
    return value


def _wait_s(request: web.Request) -> float:
    text = request.query.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= WAIT_MAX_S:
        raise ApiError(400, "Invalid `wait` parameter.", hint=f"wait: must be 0 to {WAIT_MAX_S:g} seconds")
    return seconds
