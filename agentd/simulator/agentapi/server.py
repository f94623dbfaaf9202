"""The simulated AgentAPI: the agent's state, its faults, and the routes of its server."""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from aiohttp import web

from agentd.simulator import faults
from agentd.simulator.agentapi import answers, events, openapi, response_faults, sending, uploads
from agentd.simulator.agentapi.conversation import BOGUS, Conversation, Message, Mode, Status
from agentd.simulator.agentapi.turns import Turns
from agentd.simulator.faults import Fault, FaultPlan, FaultyServer, SimulatorError
from agentd.simulator.serving import Changes, Listener, RequestLog, read_body

DEFAULT_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
DEFAULT_ORIGINS: Final = ("http://localhost:3284", "http://localhost:3000", "http://localhost:3001")
ROUTES: Final = {
    "/status": "status",
    "/messages": "messages",
    "/message": "message",
    "/events": "events",
    "/upload": "upload",
    "/openapi.json": "openapi",
    "/openapi.yaml": "openapi",
    "/internal/screen": "screen",
}
CHAT_BASE_PATH: Final = "/chat"
SCHEMAS_PATH: Final = "/schemas/"
METHODS: Final = {"message": "POST", "upload": "POST"}
STREAM_END_S: Final = 0.5
"""How long a stopping server waits until its event streams have sent their last chunk."""
SINCE: Final = {
    "host_check": (0, 4, 0),
    "unbuffered_events": (0, 7, 1),
    "upload": (0, 10, 0),
    "agent_type": (0, 10, 1),
    "transport": (0, 12, 0),
    "agent_error": (0, 12, 0),
    "state": (0, 12, 0),
}
"""Feature → the first version that has it."""


class SimulatedAgentApi(FaultyServer):
    """An AgentAPI on 127.0.0.1, for `async with`.

    Args:
        mode, version: which AgentAPI to simulate.
        allowed_hosts: the hosts that the Host check accepts; `*` accepts all.
        allowed_origins: the origins whose scripts may read the answers; `*` allows all.
        agent_type: the value of that field in `/status`.
        reply: `reply(prompt)` answers each user message after `turn_s`. Without it the agent stays running
            until `set_status("stable")`.
        send_s: seconds until the terminal accepts a message (PTY).
        sleep, now, monotonic: its clocks; `now` returns Unix seconds.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        mode: Mode = "pty",
        version: str = "0.12.1",
        allowed_hosts: Iterable[str] = DEFAULT_HOSTS,
        allowed_origins: Iterable[str] = DEFAULT_ORIGINS,
        agent_type: str = "claude",
        reply: Callable[[str], str] | None = None,
        send_s: float = 0.0,
        turn_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode: Mode = mode
        self.version = version
        self._features = _features(version)
        self._hosts = tuple(host.lower().strip("[]") for host in allowed_hosts)
        self._origins = tuple(origin.lower() for origin in allowed_origins)
        self.agent_type = agent_type if self.has("agent_type") else None
        self._monotonic = monotonic
        self.conversation = Conversation(mode, now=now)
        self._turns = Turns(
            self.conversation,
            set_status=self.set_status,
            reply=reply,
            send_s=send_s,
            turn_s=turn_s,
            sleep=sleep,
        )
        self._uploads = uploads.Uploads()
        self._bogus_tails = 0
        self._changes = Changes()
        self._log = RequestLog(now, self._changes)
        self._faults = FaultPlan(response_faults.KINDS)
        self._listener = Listener(self._handle, host="127.0.0.1", port=port, headers=self._cors_headers)

    def has(self, feature: str) -> bool:
        """Whether this version has a feature of `SINCE`."""
        return feature in self._features

    # --- the server itself ---

    async def stop(self) -> None:
        """End event streams, refuse connections, cancel sends in progress. The conversation stays."""
        for follower in list(self.conversation.followers):
            follower.queue.put_nowait(None)
        for watcher in self.conversation.watchers:
            watcher.put_nowait(None)
        with contextlib.suppress(TimeoutError):  # the listener closes the connections of slower readers
            async with asyncio.timeout(STREAM_END_S):
                await self.until(lambda: not (self.followers or self.conversation.watchers))
        await self._listener.stop()
        await self._turns.close()
        self._uploads.remove()

    async def restart(self) -> None:
        """Restart on the same port, without the conversation; ids start at 0."""
        await self.stop()
        self.conversation.restart()
        self._turns.lock.release()
        await self.start()

    # --- the agent ---

    def set_status(self, status: Status) -> None:
        """Set the status. "stable" also ends a turn that a POST waits for (ACP)."""
        self.conversation.set_status(status, agent_type=self.agent_type)
        if status == "stable":
            self._turns.over()
        self._changes.notify()

    def add_message(self, role: str, content: str, time: str | None = None) -> Message:
        """Append a message. Returns it as `GET /messages` shows it."""
        return self.conversation.add(role, content, time)

    def rewrite_last(self, content: str) -> Message:
        """Replace the content of the last message, as a change of the screen does."""
        return self.conversation.rewrite_last(content)

    def load(self, source: Path | str | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Replace the conversation by a transcript file, its content, or messages."""
        self.conversation.load(source)

    def agent_error(self, message: str, level: Literal["warning", "error"] = "error") -> None:
        """Report an error of the agent (0.12.0 and later)."""
        if not self.has("agent_error"):
            raise SimulatorError(f"AgentAPI {self.version} has no agent_error", hint="use 0.12.0 or later")
        self.conversation.error(message, level)

    def fail_turn(self, error: str) -> None:
        """Let the current prompt fail (ACP).

        The agent's partial answer is removed, and its id is not reused.
        """
        self.conversation.set_status("stable", agent_type=self.agent_type)
        self._turns.over(error)
        self._changes.notify()

    # --- faults ---

    def hang(self) -> None:
        """Hold the send lock: `/status` and `/messages` hang, `/events` and `/openapi.json` answer."""
        self._turns.lock.hang()

    def release(self) -> None:
        """Release the send lock."""
        self._turns.lock.release()

    def bogus_tail(self, times: int = 1) -> None:
        """Append an entry without a role to the next `times` answers of `/messages`."""
        self._bogus_tails += times

    def collide_ids(self) -> None:
        """Give every id to two messages, from now on."""
        self.conversation.collide_ids()

    def fault(self, kind: str, *, route: str = "*", times: int = 1, **params: Any) -> None:  # noqa: ANN401 - per kind
        """Inject a fault into the next `times` requests of `route` ("*": any).

        Kinds and parameters: `faults.inject` and `response_faults.inject`.
        """
        if route != "*" and route not in ROUTES.values():
            raise SimulatorError(f"no such route: {route!r}", hint=f"known: {', '.join(ROUTES.values())}")
        self._faults.add(route, Fault(kind, params), times)

    # --- observations ---

    @property
    def received(self) -> list[dict[str, str]]:
        """The messages that were sent by POST and accepted: {content, type}."""
        return self._turns.received

    @property
    def followers(self) -> int:
        """The number of open `/events` streams."""
        return len(self.conversation.followers)

    # --- routes ---

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        name = ROUTES.get(request.path, "other")
        entry = self._log.record(request, name)
        fault = self._faults.take(name)

        if fault is None or fault.kind != "reset_before_body":
            entry.body = await read_body(request)

        async def answer() -> web.StreamResponse:
            return await self._answer(name, request, entry.body)

        if fault is None:
            response = await answer()
        elif fault.kind in response_faults.KINDS:
            response = await response_faults.inject(fault, request, hosts=self._hosts)
        else:
            response = await faults.inject(fault, request, answer)
        self._log.record_status(entry, response.status)
        return response

    async def _answer(self, name: str, request: web.Request, body: bytes) -> web.StreamResponse:
        if not self._host_allowed(request):
            return response_faults.refused_host(self._hosts)
        if answers.is_preflight(request):
            return web.Response()
        if request.path.startswith(SCHEMAS_PATH):
            return self._schema(request)
        if name == "other" or (name == "upload" and not self.has("upload")):
            return _elsewhere(request.path)
        if request.method != METHODS.get(name, "GET"):
            return web.Response(status=405, headers={"Allow": METHODS.get(name, "GET")})
        return await self._serve(name, request, body)

    async def _serve(self, name: str, request: web.Request, body: bytes) -> web.StreamResponse:
        match name:
            case "status":
                await self._turns.lock.free()
                return answers.reply(request, "StatusResponseBody", self._status())
            case "messages":
                await self._turns.lock.free()
                return await answers.messages(request, self._messages())
            case "message":
                return await sending.serve(request, body, self._turns.send)
            case "upload":
                return await self._uploads.serve(request, body)
            case "screen":
                return await events.serve_screen(
                    request,
                    self.conversation,
                    unbuffered=self.has("unbuffered_events"),
                    on_change=self._changes.notify,
                )
            case "events":
                return await events.serve(
                    request,
                    self.conversation,
                    agent_type=self.agent_type,
                    unbuffered=self.has("unbuffered_events"),
                    monotonic=self._monotonic,
                    on_change=self._changes.notify,
                )
        suffix = request.path.rpartition(".")[2]
        return answers.document(
            openapi.document(self.version, self._features), f"application/vnd.oai.openapi+{suffix}"
        )

    def _schema(self, request: web.Request) -> web.Response:
        """`/schemas/NAME.json`. The answer for an unknown name is `null`, also 200."""
        if request.method != "GET":
            return web.Response(status=405, headers={"Allow": "GET"})
        name = request.path.removeprefix(SCHEMAS_PATH).removesuffix(".json")
        return answers.document(openapi.schemas(self._features).get(name), "application/json")

    def _host_allowed(self, request: web.Request) -> bool:
        host = answers.hostname(request.headers.get("Host", ""))
        return not self.has("host_check") or "*" in self._hosts or host in self._hosts

    def _cors_headers(self, request: web.Request) -> Mapping[str, str]:
        # The Host check comes first.
        return answers.cors_headers(request, self._origins) if self._host_allowed(request) else {}

    def _status(self) -> dict[str, object]:
        fields: dict[str, object] = {"status": self.conversation.status}
        if self.agent_type is not None:
            fields["agent_type"] = self.agent_type
        if self.has("transport"):
            fields["transport"] = self.mode
        return fields

    def _messages(self) -> list[Message]:
        messages = list(self.conversation.messages)
        if self._bogus_tails:
            self._bogus_tails -= 1
            messages.append(BOGUS)
        return messages


def _elsewhere(path: str) -> web.Response:
    if path == "/":
        return web.Response(status=307, headers={"Location": f"{CHAT_BASE_PATH}/embed"})
    if path == "/docs" or path.startswith(f"{CHAT_BASE_PATH}/"):
        page = b"<!DOCTYPE html><html><head><title>AgentAPI (simulated)</title></head><body></body></html>\n"
        return web.Response(body=page, headers={"Content-Type": "text/html; charset=utf-8"})
    return answers.plain(404, "404 page not found")


def _features(version: str) -> frozenset[str]:
    """The features of `SINCE` that an AgentAPI of `version` has.

    Raises `SimulatorError` for a malformed version.
    """
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        raise SimulatorError(f"malformed version of AgentAPI: {version!r}", hint="write it like 0.12.1")
    number = tuple(int(part) for part in found.groups())
    return frozenset(feature for feature, since in SINCE.items() if number >= since)
