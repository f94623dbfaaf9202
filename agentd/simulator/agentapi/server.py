"""The simulated AgentAPI: what the agent says and does, and what its server was asked."""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from agentd.simulator import faults
from agentd.simulator.agentapi import answers, events, mishaps, openapi, sending, uploads
from agentd.simulator.agentapi.admin import Admin
from agentd.simulator.agentapi.conversation import BOGUS, Conversation, Message, Mode, Status
from agentd.simulator.agentapi.turns import Turns
from agentd.simulator.faults import Fault, FaultPlan, SimulatorError
from agentd.simulator.serving import Changes, Listener, RecordedRequest, RequestLog, Served, read_body

DEFAULT_HOSTS = ("localhost", "127.0.0.1", "[::1]")
ROUTES = {
    "/status": "status",
    "/messages": "messages",
    "/message": "message",
    "/events": "events",
    "/upload": "upload",
    "/openapi.json": "openapi",
    "/internal/screen": "screen",
}
CHAT_BASE_PATH = "/chat"
METHODS = {"message": "POST", "upload": "POST"}
STREAM_END_S = 0.5
"""What an event stream is given to take its last chunk when the server stops."""
SINCE = {
    "host_check": (0, 4, 0),
    "upload": (0, 10, 0),
    "agent_type": (0, 10, 1),
    "transport": (0, 12, 0),
    "agent_error": (0, 12, 0),
    "state": (0, 12, 0),
}
"""The version that brought a feature."""


class SimulatedAgentApi(Served):
    """An AgentAPI on 127.0.0.1, for `async with`.

    `mode` and `version` decide what it lacks and how a send behaves. `reply(prompt)` answers every user message after
    `turn_s`; without it the agent stays running until `set_status("stable")`. `send_s` is how long a PTY takes to
    accept a message. `sleep`, `now` (Unix seconds) and `monotonic` are its time.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        mode: Mode = "pty",
        version: str = "0.12.1",
        allowed_hosts: Iterable[str] = DEFAULT_HOSTS,
        agent_type: str = "claude",
        reply: Callable[[str], str] | None = None,
        send_s: float = 0.0,
        turn_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        admin: bool = False,
    ) -> None:
        self.mode: Mode = mode
        self.version = version
        self._number = _version_number(version)
        self._hosts = tuple(host.lower() for host in allowed_hosts)
        self.agent_type = agent_type if self._number >= SINCE["agent_type"] else None
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
        self._faults = FaultPlan(mishaps.KINDS)
        self._admin = Admin(self).handle if admin else None
        self._listener = Listener(self._handle, host="127.0.0.1", port=port)

    def has(self, feature: str) -> bool:
        """Whether this version has what `SINCE` names."""
        return self._number >= SINCE[feature]

    # --- the server itself ---

    async def start(self) -> None:
        """Listen, on the same port as before if there was a before; the conversation is still there."""
        await self._listener.start()

    async def stop(self) -> None:
        """Go away: the port refuses, event streams end, sends in progress are lost."""
        for follower in list(self.conversation.followers):
            follower.queue.put_nowait(None)
        for watcher in self.conversation.watchers:
            watcher.put_nowait(None)
        with contextlib.suppress(TimeoutError):  # who does not read by then is cut off
            async with asyncio.timeout(STREAM_END_S):
                await self.until(lambda: not (self.followers or self.conversation.watchers))
        await self._listener.stop()
        await self._turns.close()
        self._uploads.remove()

    async def restart(self) -> None:
        """A new life on the same port: the conversation is gone, ids begin again."""
        await self.stop()
        self.conversation.restart()
        self._turns.lock.release()
        await self.start()

    # --- the agent ---

    def set_status(self, status: Status) -> None:
        """Running or stable; stable also ends a turn that a POST waits for (ACP)."""
        self.conversation.set_status(status, agent_type=self.agent_type)
        if status == "stable":
            self._turns.over()
        self._changes.notify()

    def add_message(self, role: str, content: str, time: str | None = None) -> Message:
        """Append a message; returns it as `GET /messages` shows it."""
        return self.conversation.add(role, content, time)

    def rewrite_last(self, content: str) -> Message:
        """Rewrite the last message, as each change of the screen does."""
        return self.conversation.rewrite_last(content)

    def load(self, source: Path | str | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Replace the conversation: a transcript file, its content, or messages."""
        self.conversation.load(source)

    def agent_error(self, message: str, level: Literal["warning", "error"] = "error") -> None:
        """The agent complains (0.12.0 and later)."""
        if not self.has("agent_error"):
            raise SimulatorError(f"AgentAPI {self.version} has no agent_error")
        self.conversation.error(message, level)

    def fail_turn(self, error: str) -> None:
        """ACP: the prompt in progress fails; the agent's half answer is deleted and its id is spent."""
        self.conversation.set_status("stable", agent_type=self.agent_type)
        self._turns.over(error)
        self._changes.notify()

    # --- what goes wrong ---

    def hang(self) -> None:
        """Hold the lock of a send: /status and /messages hang, /events and /openapi.json answer."""
        self._turns.lock.hang()

    def release(self) -> None:
        """Let go of it."""
        self._turns.lock.release()

    def bogus_tail(self, times: int = 1) -> None:
        """The next `times` answers of /messages end with an entry without role."""
        self._bogus_tails += times

    def collide_ids(self) -> None:
        """Every id is shared by two messages from now on."""
        self.conversation.collide_ids()

    def fault(self, kind: str, *, route: str = "*", times: int = 1, **params: Any) -> None:  # noqa: ANN401 - per kind
        """Let the next `times` requests (of `route`) meet a fault; kinds: `mishaps.KINDS` and `faults.EXCHANGE`."""
        if route != "*" and route not in ROUTES.values():
            raise SimulatorError(f"no such route: {route!r}", hint=f"known: {', '.join(ROUTES.values())}")
        self._faults.add(route, Fault(kind, params), times)

    def waiting_faults(self) -> dict[str, list[str]]:
        """The kinds of those nobody has met yet, by route."""
        return self._faults.waiting()

    def clear_faults(self) -> None:
        """Forget the faults nobody met."""
        self._faults.clear()

    # --- what it saw ---

    @property
    def requests(self) -> list[RecordedRequest]:
        """Everything received, in order of arrival."""
        return self._log.entries

    @property
    def received(self) -> list[dict[str, str]]:
        """Messages that were POSTed and taken: {content, type}."""
        return self._turns.received

    def calls(self, route: str) -> list[RecordedRequest]:
        """The requests of one route: status, messages, message, events, upload, screen, openapi."""
        return self._log.of(route)

    def recent(self) -> list[dict[str, object]]:
        """The newest requests, as `RequestLog.recent` has them."""
        return self._log.recent()

    @property
    def followers(self) -> int:
        """How many `/events` streams are open."""
        return len(self.conversation.followers)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait for `predicate()`, asked again whenever a request or an answer comes or the status is set."""
        await self._changes.until(predicate)

    # --- routes ---

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self._admin is not None and request.path.startswith("/_sim/"):
            return await self._admin(request)
        name = ROUTES.get(request.path, "other")
        entry = self._log.note(request, name)
        fault = self._faults.take(name)

        if fault is None or fault.kind != "reset_before_body":
            entry.body = await read_body(request)

        async def answer() -> web.StreamResponse:
            return await self._answer(name, request, entry.body)

        if fault is None:
            response = await answer()
        elif fault.kind in mishaps.KINDS:
            response = await mishaps.play(fault, request, hosts=self._hosts)
        else:
            response = await faults.play(fault, request, answer)
        self._log.answered(entry, response.status)
        return response

    async def _answer(self, name: str, request: web.Request, body: bytes) -> web.StreamResponse:
        if not self._host_allowed(request.headers.get("Host", "")):
            return mishaps.refused_host(self._hosts)
        if name == "other" or (name == "upload" and not self.has("upload")):
            return _elsewhere(request.path)
        if request.method != METHODS.get(name, "GET"):
            return web.Response(status=405, headers={"Allow": METHODS.get(name, "GET")})
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
                return await events.serve_screen(request, self.conversation, on_change=self._changes.notify)
            case "events":
                return await events.serve(
                    request,
                    self.conversation,
                    agent_type=self.agent_type,
                    monotonic=self._monotonic,
                    on_change=self._changes.notify,
                )
        return answers.document(openapi.document(self))

    def _host_allowed(self, host: str) -> bool:
        return not self.has("host_check") or "*" in self._hosts or answers.hostname(host) in self._hosts

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


def _version_number(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        raise SimulatorError(f"no version of AgentAPI: {version!r}", hint="write it like 0.12.1")
    return tuple(int(part) for part in found.groups())
