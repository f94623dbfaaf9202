"""`GET /v1/events`: `/v1/status` as it changes, as server-sent events.

    event: status        everything, once, at the connect
    event: <key>         one key of it and its new value, whenever that changes: agent, task, claims, snapshot, …
    : heartbeat          every 15 s, so that a broken connection is noticed at either end

Without clients it costs nothing.  With some, the status is read when somebody says that it changed, and twice a second
for what nobody says.  A client that is slow gets the latest of each key when it is ready again, not a backlog.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from agentd.local_api.replies import Json, as_json, error

__all__ = ["Feed"]

CLIENTS_MAX: Final = 32
LOOK_EVERY_S: Final = 0.5
HEARTBEAT_S: Final = 15.0
STALLED_S: Final = 30.0
"""A client that takes nothing for so long is let go."""


class _Client:
    """What one client has not got yet: the newest value of each key, so as many as the status has keys."""

    def __init__(self, status: Json) -> None:
        self.waiting: dict[str, Any] = {"status": status}
        self.woken = asyncio.Event()
        self.woken.set()

    def offer(self, key: str, value: object) -> None:
        self.waiting.pop(key, None)
        self.waiting[key] = value
        self.woken.set()


class Feed:
    """`read` gives the status."""

    def __init__(self, read: Callable[[], Json]) -> None:
        self._read = read
        self._clients: set[_Client] = set()
        self._known: dict[str, Any] = {}
        self._looking: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._closed = False

    def changed(self) -> None:
        """Something did: look at once, if anybody listens."""
        self._news.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One client, to its end."""
        if self._closed or len(self._clients) >= CLIENTS_MAX:
            return error(503, "No more listeners.", f"{len(self._clients)} of {CLIENTS_MAX}")
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )
        await response.prepare(request)
        status = self._read()
        if self._looking is None:
            self._known = _comparable(status)
            self._looking = asyncio.create_task(self._look_for_ever(), name="local API events")
        client = _Client(status)
        self._clients.add(client)
        try:
            await self._pass_on(client, response)
        except (TimeoutError, ConnectionError):
            pass  # it has gone or stands still; either way there is nobody to tell
        finally:
            self._clients.discard(client)
            if not self._clients:
                self._stop_looking()
        return response

    def close(self) -> None:
        """Say good-bye: every client gets what waits for it and the end of its stream."""
        self._closed = True
        self._stop_looking()
        for client in self._clients:
            client.woken.set()

    async def _pass_on(self, client: _Client, response: web.StreamResponse) -> None:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await client.woken.wait()
            except TimeoutError:
                await _write(response, b": heartbeat\n\n")
                continue
            client.woken.clear()
            while client.waiting:
                key = next(iter(client.waiting))
                value = as_json(client.waiting.pop(key))
                await _write(response, b"event: %s\ndata: %s\n\n" % (key.encode(), value))
            if self._closed:
                return

    async def _look_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._news.wait()
            except TimeoutError:
                pass  # nobody said anything; look all the same
            self._news.clear()
            self._look()

    def _look(self) -> None:
        status = self._read()
        fresh = _comparable(status)
        for key, value in fresh.items():
            if self._known.get(key, self) != value:
                for client in self._clients:
                    client.offer(key, status[key])
        self._known = fresh

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None


def _comparable(status: Json) -> dict[str, Any]:
    """The status without what says nothing new: the agent's evidence grows with every look at it."""
    agent = {key: value for key, value in status.get("agent", {}).items() if key != "evidence"}
    return {**status, "agent": agent}


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(STALLED_S):
        await response.write(data)
