"""`GET /v1/events`: the changes of `/v1/status` as server-sent events.

    event: status        the whole status, once, after the connection is made
    event: <key>         a top-level key of the status and its new value, after each change of it
    : heartbeat          every 15 s, so that both ends notice a broken connection

Without clients the status is not read. With clients it is read after each call of `changed` and every 0.5 s,
because some changes are not announced. A slow client gets the newest value of each key, not every value.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from agentd.clock import Clock
from agentd.local_api.replies import Json, encode_json, error_response
from agentd.restarting import start

CLIENTS_MAX: Final = 32
POLL_INTERVAL_S: Final = 0.5
HEARTBEAT_S: Final = 15.0
WRITE_TIMEOUT_S: Final = 30.0
"""A client that accepts no data for this long is disconnected."""


class _Client:
    """Changes that one client has not received: the newest value of each key."""

    def __init__(self, status: Json) -> None:
        self.pending: dict[str, Any] = {"status": status}
        self.wake = asyncio.Event()
        self.wake.set()

    def put(self, key: str, value: object) -> None:
        self.pending.pop(key, None)
        self.pending[key] = value
        self.wake.set()


class Feed:
    """Sends the changes of a status to all connected clients. `read` returns the current status."""

    def __init__(self, read: Callable[[], Json]) -> None:
        self._read = read
        self._clients: set[_Client] = set()
        self._sent: dict[str, Any] = {}
        self._poller: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed = False

    def changed(self) -> None:
        """Read the status now, if there are clients."""
        self._changed.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one client until it disconnects or the feed closes."""
        if self._closed or len(self._clients) >= CLIENTS_MAX:
            return error_response(
                503, f"Too many clients of /v1/events ({len(self._clients)} of {CLIENTS_MAX})."
            )
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )
        await response.prepare(request)
        status = self._read()
        if self._poller is None:
            self._sent = _comparable(status)
            self._poller = start("local API events", self._poll, Clock())
        client = _Client(status)
        self._clients.add(client)
        try:
            await self._send_to(client, response)
        except (TimeoutError, ConnectionError):
            pass  # the client disconnected or does not read
        finally:
            self._clients.discard(client)
            if not self._clients:
                self._stop_polling()
        return response

    def close(self) -> None:
        """Send each client its pending changes and end its stream."""
        self._closed = True
        self._stop_polling()
        for client in self._clients:
            client.wake.set()

    async def _send_to(self, client: _Client, response: web.StreamResponse) -> None:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await client.wake.wait()
            except TimeoutError:
                await _write(response, b": heartbeat\n\n")
                continue
            client.wake.clear()
            while client.pending:
                key = next(iter(client.pending))
                value = encode_json(client.pending.pop(key))
                await _write(response, b"event: %s\ndata: %s\n\n" % (key.encode(), value))
            if self._closed:
                return

    async def _poll(self) -> None:
        while True:
            try:
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            self._send_changes()

    def _send_changes(self) -> None:
        status = self._read()
        comparable = _comparable(status)
        for key, value in comparable.items():
            if self._sent.get(key, self) != value:
                for client in self._clients:
                    client.put(key, status[key])
        self._sent = comparable

    def _stop_polling(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            self._poller = None


def _comparable(status: Json) -> dict[str, Any]:
    """The status without `agent.evidence`, which changes with each poll of the agent."""
    agent = {key: value for key, value in status.get("agent", {}).items() if key != "evidence"}
    return {**status, "agent": agent}


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)
