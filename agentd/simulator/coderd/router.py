"""From a request to its answer: record, fault, rate limit, auth, route, in coderd's order."""

import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from aiohttp import web

from agentd.simulator import faults
from agentd.simulator.coderd import answers, gate
from agentd.simulator.coderd.routes import log_snapshot, reinit
from agentd.simulator.coderd.workspaces import Caller
from agentd.simulator.coderd.world import World
from agentd.simulator.serving import RecordedRequest, RequestLog

BODY_CAP = 16 << 20
"""More than any limit of coderd's; a client that sends more is cut off."""
_ME = "/api/v2/workspaceagents/me"


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way through the routes."""

    request: web.Request
    args: tuple[str, ...]
    body: bytes
    headers: dict[str, str]
    fault: faults.Fault | None


AgentRoute: TypeAlias = Callable[[Call, Caller], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    method: str
    pattern: re.Pattern[str]


def _route(name: str, method: str, path: str) -> Route:
    return Route(name, method, re.compile(re.sub(r"\{\w+\}", "([^/]*)", path) + "$"))


ROUTES = (
    _route("reinit", "GET", f"{_ME}/reinit"),
    _route("log-snapshot", "POST", f"{_ME}/tasks/{{task}}/log-snapshot"),
    _route("buildinfo", "GET", "/api/v2/buildinfo"),
)
OTHER = "other"


class Router:
    """The handler of a simulated coderd's listener."""

    names = frozenset(route.name for route in ROUTES)

    def __init__(
        self,
        world: World,
        *,
        log: RequestLog,
        faults: faults.FaultPlan,
        limit: gate.RateLimit,
        user_token: str,
    ) -> None:
        self._world = world
        self._log = log
        self._faults = faults
        self._limit = limit
        self._user_token = user_token

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request as coderd would, or as the fault waiting for it wants."""
        route, args = self._match(request)
        name = route.name if route else OTHER
        entry = self._log.note(request, name)
        fault = self._faults.take(name)
        headers = self._common_headers()

        async def answer() -> web.StreamResponse:
            entry.body = await _read(request)
            bent = fault if fault and fault.kind in faults.STREAM else None
            return await self._answer(route, Call(request, args, entry.body, headers, bent), entry)

        if fault and fault.kind in faults.EXCHANGE:
            response = await faults.play(fault, request, answer)
            if not response.prepared:
                entry.body = entry.body or await _read(request)
        else:
            response = await answer()
        if not response.prepared:
            response.headers.update(headers)
        self._log.answered(entry, response.status)
        return response

    async def close(self) -> None:
        """Let go of what the routes hold."""

    async def _answer(self, route: Route | None, call: Call, entry: RecordedRequest) -> web.StreamResponse:
        path = call.request.path
        if not path.startswith("/api/v2"):
            return web.Response(
                body=b"<!doctype html><html><head><title>Coder</title></head></html>\n",
                headers={"Content-Type": "text/html; charset=utf-8"},
            )
        limit_headers, passes = self._limit.check(call.request.remote or "", path)
        call.headers.update(limit_headers)
        if not passes:
            return self._limit.refusal()
        if path == _ME or path.startswith(_ME + "/"):
            caller = gate.agent_of(
                call.request, self._world.workspaces, stop_auth=self._world.behaviour.stop_auth
            )
            if isinstance(caller, web.Response):
                return caller
            return await self._agent_route(route, call, caller, entry)
        if route is None:
            return answers.route_not_found()
        if route.method != call.request.method:
            return _wrong_method(route)
        return answers.reply(
            200, {"external_url": "https://github.com/coder/coder", "version": self._world.behaviour.version}
        )

    async def _agent_route(
        self, route: Route | None, call: Call, caller: Caller, entry: RecordedRequest
    ) -> web.StreamResponse:
        if route is None or (route.name == "log-snapshot" and not self._world.behaviour.log_snapshot):
            return answers.route_not_found()
        if route.method != call.request.method:
            return _wrong_method(route)
        if route.name == "reinit":
            manners = self._world.manners.bent_by(call.fault) if call.fault else self._world.manners
            entry.status = 200
            return await reinit.serve(
                self._world, call.request, caller, manners=manners, headers=call.headers
            )
        return log_snapshot.serve(self._world, call.request, caller, call.args[0], call.body)

    def _match(self, request: web.Request) -> tuple[Route | None, tuple[str, ...]]:
        best: tuple[Route | None, tuple[str, ...]] = (None, ())
        for route in ROUTES:
            found = route.pattern.match(request.path)
            if found:
                best = (route, found.groups())
                if route.method == request.method:
                    return best
        return best

    def _common_headers(self) -> dict[str, str]:
        return {
            "X-Coder-Request-Id": str(uuid.uuid4()),
            "X-Coder-Build-Version": self._world.behaviour.version,
            "X-Content-Type-Options": "nosniff",
        }


def _wrong_method(route: Route) -> web.Response:
    return web.Response(status=405, headers={"Allow": route.method})


async def _read(request: web.Request) -> bytes:
    body = bytearray()
    while len(body) <= BODY_CAP and (chunk := await request.content.readany()):
        body += chunk
    return bytes(body)
