"""The local API: HTTP routes on a unix socket, and on a loopback TCP port if one is configured."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from aiohttp import web

from agentd import log
from agentd.config.formats import loopback_address
from agentd.errors import ConfigError
from agentd.local_api import request_guard, unix_socket
from agentd.local_api.connections import ConnectionLimit, bounded_body, connections_max
from agentd.local_api.feed import Feed
from agentd.local_api.input import event_handler, message_handler, report_handler
from agentd.local_api.replies import (
    BODY_MAX_BYTES,
    ApiError,
    Handler,
    Json,
    error_response,
    errors_as_json,
    json_response,
)
from agentd.metrics import CONTENT_TYPE

RESPONSE_TIMEOUT_S: Final = 1.0
"""How long `close` waits for open responses. That of `POST /v1/stop` is sent after the shutdown."""


class Operations(NamedTuple):
    """The operations of the local API, as callables, so that this package imports no other component."""

    healthy: Callable[[], Awaitable[Json]]
    """`{"event_loop": "ok", "state_dir": "ok"}`; any other value means unhealthy."""
    ready: Callable[[], Awaitable[Json]]
    """One entry for each component: "ok", or the reason why it is not ready."""
    metrics: Callable[[], Awaitable[str]]
    status: Callable[[], Json]
    claims: Callable[[], Json]
    retry_claim: Callable[[str], Awaitable[Json]]
    forget_claim: Callable[[str], Awaitable[Json]]
    snapshot: Callable[[], Awaitable[Json]]
    payload: Callable[[], Awaitable[bytes | None]]
    """The exact bytes that a snapshot would upload now; None without one."""
    messages: Callable[[], Awaitable[Json]]
    """`{"messages": […], "snapshot": false}`, or the stored ones. Raises `ApiError` 409 in an error state."""
    drill: Callable[[], Awaitable[Json]]
    """Run the parts of a shutdown without stopping or storing anything; the duration of each part."""
    send: Callable[[object], Awaitable[Json]]
    """Send a message to the agent. Raises `ApiError`: 409 if a retry can succeed, else 400 or 502."""
    report: Callable[[Json], Awaitable[Json]]
    """Set the task's state. Raises `ApiError` 409 if the task is already finished."""
    event: Callable[[Json], Awaitable[Json]]
    """As `report`, but never raises `ApiError`."""
    stop: Callable[[], Awaitable[Json]]


class LocalApi:
    """Serves `operations` on a unix socket, and with a page on `listen`, a loopback address or "".

    `proxies` are the host names of proxies that may forward requests to `listen`.
    """

    def __init__(
        self, *, socket_path: Path, listen: str, operations: Operations, proxies: Collection[str] = ()
    ) -> None:
        self._path = socket_path
        self._listen = listen
        self._proxies = frozenset(host.lower() for host in proxies)
        self._operations = operations
        self.feed = Feed(self._operations.status)
        self._runner: web.AppRunner | None = None
        self._servers: list[asyncio.Server] = []
        self._bound = False
        self._closing = False
        self._running: set[asyncio.Future[Json]] = set()
        self._log = log.get("local_api")

    async def start(self) -> None:
        """Listen. Raises `StateError` or `ConfigError` if a socket cannot be used; then none is open."""
        try:
            listener = unix_socket.bind(self._path)
            self._bound = True
            app = web.Application(
                client_max_size=BODY_MAX_BYTES, middlewares=[errors_as_json, self._guard, bounded_body]
            )
            app.add_routes(self._routes())
            if self._listen:
                from agentd import ui  # noqa: PLC0415 - only the TCP port has a page

                app.add_routes(ui.routes("daemon"))
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=RESPONSE_TIMEOUT_S)
            await self._runner.setup()
            self._servers.append(await self._serve(self._runner, sock=listener))
            if self._listen:
                await self._listen_on_tcp(self._runner)
        except BaseException:
            await self.close()
            raise
        self._log.debug("local_api.listening", socket=str(self._path), tcp=self._listen or None)

    async def _listen_on_tcp(self, runner: web.AppRunner) -> None:
        host, port = loopback_address(self._listen)
        try:
            self._servers.append(await self._serve(runner, host=host, port=port))
        except OSError as exc:
            raise ConfigError(
                f"local_api.listen: cannot listen on {self._listen}: {exc.strerror}",
                hint="choose another port",
            ) from exc

    async def _serve(self, runner: web.AppRunner, **listener: Any) -> asyncio.Server:  # noqa: ANN401 - asyncio's arguments
        limit = connections_max()
        connections = ConnectionLimit(cast("web.Server", runner.server), limit)
        # asyncio accepts so many connections at once, each with a descriptor, before the first can be refused.
        return await asyncio.get_running_loop().create_server(connections, backlog=limit, **listener)

    async def close(self) -> None:
        """Stop listening and cancel the operations that still run. Can be called again."""
        self._closing = True
        self.feed.close()
        for server in self._servers:
            server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._bound:
            self._path.unlink(missing_ok=True)
            self._bound = False
        for operation in self._running:
            operation.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _routes(self) -> list[web.RouteDef]:
        operations, shielded = self._operations, self._run_shielded
        send = message_handler(operations.send, shielded, closing=lambda: self._closing)
        return [
            web.get("/healthz", _health(operations.healthy)),
            web.get("/readyz", _health(operations.ready)),
            web.get("/metrics", _metrics(operations.metrics)),
            web.get("/v1/status", _view(operations.status)),
            web.get("/v1/claims", _view(operations.claims)),
            web.post("/v1/claims/{id}/retry", self._operation(operations.retry_claim)),
            web.delete("/v1/claims/{id}", self._operation(operations.forget_claim)),
            web.get("/v1/messages", _view(operations.messages)),
            web.post("/v1/messages", send),
            web.post("/v1/reports", report_handler(operations.report, shielded)),
            web.post("/v1/events", event_handler(operations.event, shielded)),
            web.get("/v1/events", self.feed.serve),
            web.get("/v1/snapshot", _payload(operations.payload)),
            web.post("/v1/snapshot", self._operation(operations.snapshot)),
            web.post("/v1/drill", self._operation(operations.drill)),
            web.post("/v1/stop", self._operation(operations.stop)),
        ]

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        reason = request_guard.refusal_reason(request, self._proxies)
        if reason:
            return error_response(
                403,
                "Request refused: its Host, Origin or Sec-Fetch-Site header is not allowed"
                " (local_api.allowed_hosts).",
                reason,
            )
        return await handler(request)

    def _operation(self, run: Callable[..., Awaitable[Json]]) -> Handler:
        """`run` gets the variable parts of the route's path."""

        async def handle(request: web.Request) -> web.Response:
            await request.read()
            return json_response(await self._run_shielded(run(*request.match_info.values())))

        return handle

    async def _run_shielded(self, work: Awaitable[Json]) -> Json:
        """The result of `work`, which continues if the client disconnects: no delivery is cancelled."""
        operation = asyncio.ensure_future(work)
        self._running.add(operation)
        operation.add_done_callback(self._on_operation_end)
        return await asyncio.shield(operation)

    def _on_operation_end(self, operation: "asyncio.Future[Json]") -> None:
        self._running.discard(operation)
        error = None if operation.cancelled() else operation.exception()
        if error is not None and not isinstance(error, ApiError):
            self._log.warning("local_api.act_failed", error=error)


def _view(read: Callable[[], Json | Awaitable[Json]]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        value = read()
        return json_response(await value if isinstance(value, Awaitable) else value)

    return handle


def _health(read: Callable[[], Awaitable[Json]]) -> Handler:
    """200 if every component is "ok", else 503."""

    async def handle(_request: web.Request) -> web.Response:
        components = await read()
        healthy = all(value == "ok" for value in components.values())
        return json_response({"ok": healthy, "components": dict(components)}, 200 if healthy else 503)

    return handle


def _metrics(read: Callable[[], Awaitable[str]]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(
            body=(await read()).encode("utf-8", "replace"), headers={"Content-Type": CONTENT_TYPE}
        )

    return handle


def _payload(read: Callable[[], Awaitable[bytes | None]]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        body = await read()
        if body is None:
            return error_response(
                404, "Nothing to send.", "The agent does not answer and no snapshot is stored."
            )
        return web.Response(body=body, content_type="application/json")

    return handle
