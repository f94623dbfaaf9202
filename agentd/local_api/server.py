"""The local API: what people and scripts inside the workspace talk to.

It decides nothing: the supervisor hands in one callable per question (`Answers`), this module gives them routes, status
codes and JSON. Errors are `{"message": …, "detail"?: …}`, as coderd's are.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import web

from agentd import log
from agentd.config.values import loopback_address
from agentd.errors import AgentdError, ConfigError, PeerError
from agentd.local_api import unix_socket, visitors
from agentd.local_api.feed import Feed
from agentd.local_api.input import Handler, on_event, on_message, on_report
from agentd.local_api.replies import Json, RefusedError, error, reply
from agentd.metrics import CONTENT_TYPE

BODY_MAX_BYTES: Final = 1 << 20


class Answers(NamedTuple):
    """What the daemon can be asked. Plain callables so that this room knows none of the others."""

    healthy: Callable[[], Json]
    """`{"event_loop": "ok", "state_dir": "ok"}`; any other word means unhealthy."""
    ready: Callable[[], Json]
    """One entry per component: "ok", or what it waits for."""
    metrics: Callable[[], str]
    status: Callable[[], Json]
    claims: Callable[[], Json]
    retry_claim: Callable[[str], Awaitable[Json]]
    forget_claim: Callable[[str], Awaitable[Json]]
    snapshot: Callable[[], Awaitable[Json]]
    payload: Callable[[], Awaitable[bytes | None]]
    """The exact bytes a snapshot taken now would send; None when there is nothing to send."""
    messages: Callable[[], Awaitable[Json]]
    """`{"messages": […], "snapshot": false}`, or what is stored. Raises `RefusedError` 409 in no state for it."""
    drill: Callable[[], Awaitable[Json]]
    """A shutdown rehearsed: how long each part took. Stops and stores nothing."""
    send: Callable[[object], Awaitable[Json]]
    """Give the agent its input. Raises `RefusedError`: 409 when waiting helps, 400 or 502 when not."""
    report: Callable[[Json], Awaitable[Json]]
    """An explicit word about the task. Raises `RefusedError` 409 when it would take a finished task back."""
    event: Callable[[Json], Awaitable[Json]]
    """The same, fire-and-forget; never raises `RefusedError`."""
    stop: Callable[[], Awaitable[Json]]


class LocalApi:
    """Serves `answers` on a unix socket (mode 0600) and, when asked, on a loopback TCP port, there with a page.

    `listen` is empty or what `config.values.loopback_address` takes; `proxies` are the hosts under which a proxy may
    pass requests on to it.
    """

    def __init__(
        self, *, socket_path: Path, listen: str, answers: Answers, proxies: Collection[str] = ()
    ) -> None:
        self._path = socket_path
        self._listen = listen
        self._proxies = frozenset(host.lower() for host in proxies)
        self._answers = answers
        self.feed = Feed(self._answers.status)
        self._runner: web.AppRunner | None = None
        self._bound = False
        self._closing = False
        self._acts: set[asyncio.Future[Json]] = set()
        self._log = log.get("local_api")

    async def start(self) -> None:
        """Listen. Raises `StateError` or `ConfigError` when the socket or the port cannot be had, and leaves nothing."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        listener = unix_socket.bind(self._path)
        self._bound = True
        app = web.Application(client_max_size=BODY_MAX_BYTES, middlewares=[_errors_as_json, self._guard()])
        app.add_routes(self._routes())
        if self._listen:
            from agentd.local_api import page  # noqa: PLC0415 - who does not watch does not pay for it

            app.add_routes(page.routes())
        # The handler of a running stop outlives the shutdown it asked for by the moment it takes to send the receipt.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()
        if self._listen:
            host, port = loopback_address(self._listen)
            try:
                await web.TCPSite(self._runner, host, port).start()
            except OSError as exc:
                raise ConfigError(
                    f"local_api.listen: {self._listen} cannot be had ({exc.strerror})",
                    hint="choose another port",
                ) from exc
        self._log.debug("local_api.listening", socket=str(self._path), tcp=self._listen or None)

    async def close(self) -> None:
        """Stop listening and answer no more; what was asked for and is still under way is cancelled. Repeatable."""
        self._closing = True
        self.feed.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._bound:
            self._path.unlink(missing_ok=True)
            self._bound = False
        for act in self._acts:
            act.cancel()
        await asyncio.gather(*self._acts, return_exceptions=True)

    def _routes(self) -> list[web.RouteDef]:
        answers = self._answers
        return [
            web.get("/healthz", _checks(answers.healthy)),
            web.get("/readyz", _checks(answers.ready)),
            web.get("/metrics", _text(answers.metrics)),
            web.get("/v1/status", _view(answers.status)),
            web.get("/v1/claims", _view(answers.claims)),
            web.post("/v1/claims/{id}/retry", self._on_claim(answers.retry_claim)),
            web.delete("/v1/claims/{id}", self._on_claim(answers.forget_claim)),
            web.get("/v1/messages", _reading(answers.messages)),
            web.post(
                "/v1/messages", on_message(answers.send, self._to_its_end, closing=lambda: self._closing)
            ),
            web.post("/v1/reports", on_report(answers.report, self._to_its_end)),
            web.post("/v1/events", on_event(answers.event, self._to_its_end)),
            web.get("/v1/events", self.feed.serve),
            web.get("/v1/snapshot", _bytes(answers.payload)),
            web.post("/v1/snapshot", self._act(answers.snapshot)),
            web.post("/v1/drill", self._act(answers.drill)),
            web.post("/v1/stop", self._act(answers.stop)),
        ]

    def _guard(self) -> Any:  # noqa: ANN401 - aiohttp's type of a middleware
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            refused = visitors.refusal(request, self._proxies)
            if refused:
                return error(403, "Only pages and programs on this machine may ask.", refused)
            return await handler(request)

        return guard

    def _act(self, act: Callable[[], Awaitable[Json]]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            await request.read()
            return reply(await self._to_its_end(act()))

        return handle

    def _on_claim(self, act: Callable[[str], Awaitable[Json]]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            await request.read()
            return reply(await self._to_its_end(act(request.match_info["id"])))

        return handle

    async def _to_its_end(self, work: Awaitable[Json]) -> Json:
        """The result of `work`, which goes on when the client hangs up: a delivery is not cancelled half way."""
        act = asyncio.ensure_future(work)
        self._acts.add(act)
        act.add_done_callback(self._on_act_end)
        return await asyncio.shield(act)

    def _on_act_end(self, act: "asyncio.Future[Json]") -> None:
        self._acts.discard(act)
        error = None if act.cancelled() else act.exception()
        if error is not None and not isinstance(error, RefusedError):
            self._log.warning("local_api.act_failed", error=error)


def _view(read: Callable[[], Json]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return reply(read())

    return handle


def _reading(read: Callable[[], Awaitable[Json]]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return reply(await read())

    return handle


def _checks(read: Callable[[], Json]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        components = read()
        good = all(word == "ok" for word in components.values())
        return reply({"ok": good, "components": dict(components)}, 200 if good else 503)

    return handle


def _text(read: Callable[[], str]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=read().encode("utf-8", "replace"), headers={"Content-Type": CONTENT_TYPE})

    return handle


def _bytes(read: Callable[[], Awaitable[bytes | None]]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        body = await read()
        if body is None:
            return error(404, "Nothing to send.", "The agent does not answer and nothing is stored.")
        return web.Response(body=body, content_type="application/json")

    return handle


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as exc:
        return error(exc.status, exc.message, exc.hint)
    except web.HTTPNotFound:
        return error(404, "Route not found.")
    except web.HTTPRequestEntityTooLarge:
        # In our own words: Python's for this status changed with 3.13.
        return error(413, "Request body too large.", f"At most {BODY_MAX_BYTES} bytes.")
    except web.HTTPException as exc:
        answer = error(exc.status, f"{exc.reason}.")
        if "Allow" in exc.headers:
            answer.headers["Allow"] = exc.headers["Allow"]
        return answer
    except AgentdError as exc:
        return error(502 if isinstance(exc, PeerError) else 500, exc.message, exc.hint)
    except Exception as exc:  # noqa: BLE001 - one broken answer must not look like a broken daemon; it is logged
        log.get("local_api").error("local_api.answer_failed", route=request.path, exc_info=exc)
        return error(500, "Internal error.", "See agentd's log.")
