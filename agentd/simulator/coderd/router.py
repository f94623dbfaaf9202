"""Answers a request in coderd's order: fault, rate limit, authentication, route."""

import base64
import re
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import aiohttp
from aiohttp import web

from agentd.simulator import faults, sse
from agentd.simulator.coderd import access, answers
from agentd.simulator.coderd.routes import (
    app_status,
    executions,
    identity,
    log_snapshot,
    reinit,
    task_state,
    tasks,
)
from agentd.simulator.coderd.workspaces import Caller
from agentd.simulator.coderd.world import World
from agentd.simulator.serving import RequestLog, read_body

_ME: Final = "/api/v2/workspaceagents/me"
_TASK: Final = "/api/v2/tasks/{user}/{task}"
_EXPERIMENTAL: Final = "/api/experimental/tasks"
"""The former path of tasks, which coderd keeps as an alias."""
_EXECUTION: Final = "/api/v1/executions/{execution}"
Auth: TypeAlias = Literal["agent", "user", "open"]


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    method: str
    auth: Auth
    pattern: re.Pattern[str]


def _route(name: str, method: str, auth: Auth, path: str) -> Route:
    return Route(name, method, auth, re.compile(re.sub(r"\{\w+\}", "([^/]*)", path) + r"\Z"))


ROUTES: Final = (
    _route("reinit", "GET", "agent", f"{_ME}/reinit"),
    _route("log-snapshot", "POST", "agent", f"{_ME}/tasks/{{task}}/log-snapshot"),
    _route("app-status", "PATCH", "agent", f"{_ME}/app-status"),
    _route("identity", "POST", "open", "/api/v2/workspaceagents/{cloud}-instance-identity"),
    _route("buildinfo", "GET", "open", "/api/v2/buildinfo"),
    _route("task-list", "GET", "user", "/api/v2/tasks"),
    _route("task", "GET", "user", _TASK),
    _route("task-delete", "DELETE", "user", _TASK),
    _route("task-logs", "GET", "user", f"{_TASK}/logs"),
    _route("task-send", "POST", "user", f"{_TASK}/send"),
    _route("task-input", "PATCH", "user", f"{_TASK}/input"),
    _route("task-pause", "POST", "user", f"{_TASK}/pause"),
    _route("task-resume", "POST", "user", f"{_TASK}/resume"),
    _route("execution", "GET", "open", _EXECUTION),
    _route("execution-status", "POST", "open", f"{_EXECUTION}/status"),
    _route("execution-status", "PUT", "open", f"{_EXECUTION}/status"),
    _route("execution-events", "POST", "open", "/api/v1/workflow/executions/events"),
)
OTHER: Final = "other"
ROUTE_NAMES: Final = frozenset(route.name for route in ROUTES) | {OTHER}


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its path parameters, its body, and the headers of its answer."""

    request: web.Request
    args: tuple[str, ...]
    body: bytes
    headers: dict[str, str]
    options: sse.StreamOptions
    on_open: Callable[[], None]
    """Called when a stream's headers are sent."""


class Router:
    """The handler of a simulated coderd's listener."""

    def __init__(
        self,
        world: World,
        *,
        log: RequestLog,
        plan: faults.FaultPlan,
        limit: access.RateLimit,
        user_token: str,
    ) -> None:
        self._world = world
        self._log = log
        self._plan = plan
        self._limit = limit
        self._user_token = user_token
        self._http: aiohttp.ClientSession | None = None
        """For coderd's requests to a task's app. Opened with the first one."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Record the request, and answer it as coderd does or with the fault that waits for it."""
        route, args = match(request)
        name = route.name if route else OTHER
        entry = self._log.record(request, name)
        fault = self._plan.take(name)
        headers = self._common_headers(request)

        if fault is None or fault.kind != "reset_before_body":
            entry.body = await read_body(request)

        async def answer() -> web.StreamResponse:
            options = self._world.options
            if fault is not None and fault.kind in faults.STREAM:
                options = options.with_fault(fault)
            call = Call(
                request,
                args,
                entry.body,
                headers,
                options,
                on_open=lambda: self._log.record_status(entry, 200),
            )
            response = await self._answer(route, call)
            if request.method != "GET":
                # Commit before the answer, so that an acknowledged change survives a kill -9.
                self._world.commit()
            if not response.prepared:
                response.headers.update(headers)
            return response

        if fault is not None and fault.kind in faults.EXCHANGE:
            response = await faults.inject(fault, request, answer)
        else:
            response = await answer()
        self._log.record_status(entry, response.status)
        return response

    async def close(self) -> None:
        """Close the connections to the tasks' apps."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _answer(self, route: Route | None, call: Call) -> web.StreamResponse:
        path = call.request.path
        if path.startswith("/api/v1/"):
            return self._for_execution(route, call)
        if not path.startswith(("/api/v2", _EXPERIMENTAL)):
            # coderd serves its dashboard on every other path, so a wrong base URL gets a 200.
            return _dashboard()
        limit_headers, passes = self._limit.check(call.request.remote or "", path)
        call.headers.update(limit_headers)
        if not passes:
            return self._limit.refusal()
        caller = None
        if path == _ME or path.startswith(f"{_ME}/"):
            authenticated = access.authenticate(
                call.request, self._world.workspaces, stop_auth=self._world.behaviour.stop_auth
            )
            if isinstance(authenticated, web.Response):
                return authenticated
            caller = authenticated
        if route is None or self._is_absent(route):
            return answers.route_not_found()
        if route.method != call.request.method:
            return web.Response(status=405, headers={"Allow": route.method})
        if caller is not None:
            return await self._for_agent(route.name, call, caller)
        return await self._for_others(route, call)

    async def _for_agent(self, name: str, call: Call, caller: Caller) -> web.StreamResponse:
        if name == "log-snapshot":
            return log_snapshot.serve(self._world, call.request, caller, call.args[0], call.body)
        if name == "app-status":
            return app_status.serve(self._world, caller, call.body)
        return await reinit.serve(
            self._world,
            call.request,
            caller,
            options=call.options,
            headers=call.headers,
            on_open=call.on_open,
        )

    async def _for_others(self, route: Route, call: Call) -> web.StreamResponse:
        if route.name == "identity":
            return identity.serve(self._world, call.args[0], call.body)
        if route.name == "buildinfo":
            return answers.reply(200, self._build_info(call.request))
        if access.token_of(call.request) != self._user_token:
            return access.signed_out(_url(call.request))
        if self._world.behaviour.oversize_status == 413 and len(call.body) > app_status.MAX_BODY_BYTES:
            return answers.body_too_large(app_status.MAX_BODY_BYTES)
        return await self._for_user(route.name, call)

    def _for_execution(self, route: Route | None, call: Call) -> web.Response:
        """The routes of a control plane that runs agents.

        They are not coderd's: no token and no rate limit.
        """
        if route is None:
            return web.Response(status=404, text="404 page not found")
        if route.method != call.request.method:
            return web.Response(status=405, headers={"Allow": route.method})
        if route.name == "execution-events":
            return executions.event(self._world, call.body)
        if route.name == "execution-status":
            return executions.update_status(self._world, call.args[0], call.body)
        return executions.show(self._world, call.args[0])

    async def _for_user(self, name: str, call: Call) -> web.StreamResponse:
        if name == "task-list":
            return tasks.listing(self._world)
        task = task_state.find(self._world, call.args[1])
        if task is None:
            return answers.not_found()
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        if name == "task-logs":
            return await tasks.logs(self._world, task, self._http)
        if name == "task-send":
            return await tasks.send(self._world, task, call.body, self._http)
        plain: dict[str, Callable[[], web.Response]] = {
            "task": lambda: answers.reply(200, task_state.describe(self._world, task)),
            "task-delete": lambda: tasks.delete(self._world, task),
            "task-input": lambda: tasks.update_input(task, call.body),
            "task-pause": lambda: tasks.pause(self._world, task),
            "task-resume": lambda: tasks.resume(self._world, task),
        }
        return plain[name]()

    def _is_absent(self, route: Route) -> bool:
        behaviour = self._world.behaviour
        if route.name == "log-snapshot":
            return not behaviour.log_snapshot
        return route.auth == "user" and not behaviour.tasks

    @property
    def _version(self) -> str:
        return self._world.behaviour.version

    def _build_info(self, request: web.Request) -> dict[str, object]:
        """The ten fields of `codersdk.BuildInfoResponse`."""
        return {
            "external_url": "https://github.com/coder/coder",
            "version": self._version,
            "dashboard_url": _url(request),
            "telemetry": False,
            "workspace_proxy": False,
            "agent_api_version": "1.0",
            "provisioner_api_version": "1.0",
            "upgrade_message": "",
            "deployment_id": self._world.organization_id,
            "webpush_public_key": "",
        }

    def _common_headers(self, request: web.Request) -> dict[str, str]:
        headers = {
            "X-Coder-Request-Id": str(uuid.uuid4()),
            "X-Coder-Build-Version": self._version,
            "X-Content-Type-Options": "nosniff",
            "Vary": "Origin, Cookie",
        }
        if "csrf_token" not in request.cookies:
            token = base64.b64encode(secrets.token_bytes(32)).decode()
            headers["Set-Cookie"] = f"csrf_token={token}; Path=/; HttpOnly; SameSite=Lax"
        return headers


def match(request: web.Request) -> tuple[Route | None, tuple[str, ...]]:
    """The route and the path parameters of a request.

    A route of another method if only the method is wrong.
    """
    path = request.path
    if path.startswith(_EXPERIMENTAL):
        path = path.replace(_EXPERIMENTAL, "/api/v2/tasks", 1)
    found: tuple[Route | None, tuple[str, ...]] = (None, ())
    for route in ROUTES:
        hit = route.pattern.match(path)
        if hit and (found[0] is None or route.method == request.method):
            found = (route, hit.groups())
    return found


def _url(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _dashboard() -> web.Response:
    return web.Response(
        body=b"<!doctype html>\n<html><head><title>Coder</title></head><body></body></html>\n",
        headers={"Content-Type": "text/html; charset=utf-8"},
    )
