"""The local API: what people and scripts inside the workspace talk to.

It decides nothing: the supervisor hands in one callable per question (`Answers`), this module gives them routes, status
codes and JSON. Errors are `{"message": …, "detail"?: …}`, as coderd's are.
"""

import asyncio
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from agentd import log
from agentd.errors import AgentdError, ConfigError, StateError

# struct sockaddr_un holds 108 bytes, the last of them NUL.
SOCKET_PATH_MAX_BYTES = 107
BODY_MAX_BYTES = 1 << 20
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}

Json = Mapping[str, Any]


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
    stop: Callable[[], Awaitable[Json]]


class LocalApi:
    """Serves `answers` on a unix socket (mode 0600) and, when asked, on a loopback TCP port."""

    def __init__(self, *, socket_path: Path, listen: str, answers: Answers) -> None:
        self._path = socket_path
        self._listen = listen
        self._answers = answers
        self._runner: web.AppRunner | None = None
        self._log = log.get("local_api")

    async def start(self) -> None:
        """Listen. Raises `StateError` or `ConfigError` when the socket or the port cannot be had."""
        app = web.Application(client_max_size=BODY_MAX_BYTES, middlewares=[_local_only, _errors_as_json])
        self._add_routes(app)
        # The handler of a running stop outlives the shutdown it asked for by the moment it takes to send the receipt.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, _unix_socket(self._path)).start()
        if self._listen:
            host, port = _host_and_port(self._listen)
            try:
                await web.TCPSite(self._runner, host, port).start()
            except OSError as exc:
                raise ConfigError(
                    f"local_api.listen: {self._listen} cannot be had ({exc.strerror})",
                    hint="choose another port",
                ) from exc
        self._log.debug("local_api.listening", socket=str(self._path), tcp=self._listen or None)

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._path.unlink(missing_ok=True)

    def _add_routes(self, app: web.Application) -> None:
        answers = self._answers
        app.add_routes(
            [
                web.get("/healthz", _checks(answers.healthy)),
                web.get("/readyz", _checks(answers.ready)),
                web.get("/metrics", _text(answers.metrics)),
                web.get("/v1/status", _view(answers.status)),
                web.get("/v1/claims", _view(answers.claims)),
                web.post("/v1/claims/{id}/retry", _on_claim(answers.retry_claim)),
                web.delete("/v1/claims/{id}", _on_claim(answers.forget_claim)),
                web.get("/v1/snapshot", _bytes(answers.payload)),
                web.post("/v1/snapshot", _act(answers.snapshot)),
                web.post("/v1/stop", _act(answers.stop)),
            ]
        )


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _json(value: Json, status: int = 200) -> web.Response:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate may stand in a hook's output; it must not break the whole answer.
    body = text.encode("utf-8", "replace") + b"\n"
    return web.Response(body=body, status=status, content_type="application/json")


def _view(read: Callable[[], Json]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return _json(read())

    return handle


def _checks(read: Callable[[], Json]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        components = read()
        good = all(word == "ok" for word in components.values())
        return _json({"ok": good, "components": dict(components)}, 200 if good else 503)

    return handle


def _text(read: Callable[[], str]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(text=read(), content_type="text/plain", charset="utf-8")

    return handle


def _bytes(read: Callable[[], Awaitable[bytes | None]]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        body = await read()
        if body is None:
            return _error(404, "Nothing to send.", "The agent does not answer and nothing is stored.")
        return web.Response(body=body, content_type="application/json")

    return handle


def _act(act: Callable[[], Awaitable[Json]]) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        # Shielded: a client that hangs up must not cancel a delivery half way.
        return _json(await asyncio.shield(asyncio.ensure_future(act())))

    return handle


def _on_claim(act: Callable[[str], Awaitable[Json]]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return _json(await act(request.match_info["id"]))

    return handle


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as exc:
        return _error(exc.status, exc.message, exc.hint)
    except web.HTTPException as exc:
        return _error(
            exc.status, "Route not found." if exc.status == web.HTTPNotFound.status_code else exc.reason
        )
    except AgentdError as exc:
        return _error(500, exc.message, exc.hint)


@web.middleware
async def _local_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """On TCP, answer only loopback names and no foreign page: a browser would send both headers truthfully."""
    if request.transport is not None and request.transport.get_extra_info("sockname"):
        host = (request.host or "").rsplit(":", 1)[0].strip("[]")
        origin = request.headers.get("Origin")
        is_tcp = isinstance(request.transport.get_extra_info("sockname"), tuple)
        if is_tcp and (host not in _LOOPBACK or origin not in (None, f"http://{request.host}")):
            return _error(
                403,
                "Only pages and programs on this machine may ask.",
                f"Host {request.host}, Origin {origin}",
            )
    return await handler(request)


def _error(status: int, message: str, detail: str = "") -> web.Response:
    return _json({"message": message, "detail": detail} if detail else {"message": message}, status)


def _unix_socket(path: Path) -> socket.socket:
    """A listening-ready socket at `path`, mode 0600 from its first moment, replacing a dead daemon's."""
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise ConfigError(
            f"local_api.socket: {path} is longer than a socket's name may be ({SOCKET_PATH_MAX_BYTES} bytes)",
            hint="set AGENTD_LOCAL_API_SOCKET to a shorter path",
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_dead(path)
        # The umask is the process's, but nothing else of us runs yet when the local API comes up.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
    except OSError as exc:
        listener.close()
        raise StateError(
            f"local_api.socket: {path} cannot be had ({exc.strerror})",
            hint="set AGENTD_LOCAL_API_SOCKET to a writable place",
        ) from exc
    except StateError:
        listener.close()
        raise
    return listener


def _remove_dead(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StateError(
            f"local_api.socket: {path} exists and is no socket", hint="remove it or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise StateError(
        f"local_api.socket: another process listens on {path}", hint="stop it or choose another path"
    )


def _host_and_port(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if host.strip("[]") not in _LOOPBACK or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(
            f"local_api.listen: {listen!r} is not a loopback address", hint="write 127.0.0.1:PORT"
        )
    return host.strip("[]"), int(port)
