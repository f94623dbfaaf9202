"""The local API: what people and scripts inside the workspace talk to.

It decides nothing: the supervisor hands in one callable per question (`Answers`), this module gives them routes, status
codes and JSON. Errors are `{"message": …, "detail"?: …}`, as coderd's are.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from agentd import log
from agentd.config.values import loopback_address
from agentd.errors import AgentdError, ConfigError, PeerError
from agentd.local_api import unix_socket
from agentd.metrics import CONTENT_TYPE

BODY_MAX_BYTES: Final = 1 << 20
_LOOPBACK_HOST: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?", re.IGNORECASE)

Json = Mapping[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RefusedError(AgentdError):
    """The daemon will not do what was asked; `status` is the HTTP status that says why."""

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answers:
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
    stop: Callable[[], Awaitable[Json]]


class LocalApi:
    """Serves `answers` on a unix socket (mode 0600) and, when asked, on a loopback TCP port.

    `listen` is empty or what `config.values.loopback_address` takes.
    """

    def __init__(self, *, socket_path: Path, listen: str, answers: Answers) -> None:
        self._path = socket_path
        self._listen = listen
        self._answers = answers
        self._runner: web.AppRunner | None = None
        self._bound = False
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
        app = web.Application(client_max_size=BODY_MAX_BYTES, middlewares=[_errors_as_json, _local_only])
        app.add_routes(self._routes())
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
            web.get("/v1/snapshot", _bytes(answers.payload)),
            web.post("/v1/snapshot", self._act(answers.snapshot)),
            web.post("/v1/drill", self._act(answers.drill)),
            web.post("/v1/stop", self._act(answers.stop)),
        ]

    def _act(self, act: Callable[[], Awaitable[Json]]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            await request.read()
            return _json(await self._to_its_end(act()))

        return handle

    def _on_claim(self, act: Callable[[str], Awaitable[Json]]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            await request.read()
            return _json(await self._to_its_end(act(request.match_info["id"])))

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


def _json(value: Json, status: int = 200) -> web.Response:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate in a hook's output becomes \udc80, which is how JSON writes it, and does not break the answer.
    body = text.encode("utf-8", "backslashreplace") + b"\n"
    return web.Response(body=body, status=status, content_type="application/json")


def _view(read: Callable[[], Json]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return _json(read())

    return handle


def _reading(read: Callable[[], Awaitable[Json]]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return _json(await read())

    return handle


def _checks(read: Callable[[], Json]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        components = read()
        good = all(word == "ok" for word in components.values())
        return _json({"ok": good, "components": dict(components)}, 200 if good else 503)

    return handle


def _text(read: Callable[[], str]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=read().encode("utf-8", "replace"), headers={"Content-Type": CONTENT_TYPE})

    return handle


def _bytes(read: Callable[[], Awaitable[bytes | None]]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        body = await read()
        if body is None:
            return _error(404, "Nothing to send.", "The agent does not answer and nothing is stored.")
        return web.Response(body=body, content_type="application/json")

    return handle


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as exc:
        return _error(exc.status, exc.message, exc.hint)
    except web.HTTPNotFound:
        return _error(404, "Route not found.")
    except web.HTTPException as exc:
        answer = _error(exc.status, f"{exc.reason}.")
        if "Allow" in exc.headers:
            answer.headers["Allow"] = exc.headers["Allow"]
        return answer
    except AgentdError as exc:
        return _error(502 if isinstance(exc, PeerError) else 500, exc.message, exc.hint)
    except Exception as exc:  # noqa: BLE001 - one broken answer must not look like a broken daemon; it is logged
        log.get("local_api").error("local_api.answer_failed", route=request.path, exc_info=exc)
        return _error(500, "Internal error.", "See agentd's log.")


@web.middleware
async def _local_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """On TCP, answer only loopback names and no foreign page.

    Any page a user opens may send requests to 127.0.0.1, and under a name it has pointed there (DNS rebinding) may
    read the answers; but the browser tells the truth in both headers. On the unix socket, its mode is the guard.
    """
    is_tcp = request.transport is None or isinstance(request.transport.get_extra_info("sockname"), tuple)
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin")
    if is_tcp and not (_LOOPBACK_HOST.fullmatch(host) and origin in (None, f"http://{host}")):
        return _error(
            403, "Only pages and programs on this machine may ask.", f"Host {host}, Origin {origin}"
        )
    return await handler(request)


def _error(status: int, message: str, detail: str = "") -> web.Response:
    return _json({"message": message, "detail": detail} if detail else {"message": message}, status)
