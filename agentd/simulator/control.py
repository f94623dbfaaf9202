"""The `/_sim/` control endpoint of both simulated peers.

It serves local clients, not web pages of other sites.
"""

import abc
import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar

from aiohttp import web

from agentd.errors import AgentdError
from agentd.simulator.faults import FaultyServer, SimulatorError

Fields: TypeAlias = Mapping[str, Any]
Peer = TypeVar("Peer", bound=FaultyServer)

PREFIX: Final = "/_sim/"
_ANSWER_S: Final = 0.05
"""Enough to send a response on loopback."""
_LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class PeerControl(abc.ABC, Generic[Peer]):
    """The commands and views of one peer. A subclass names its commands in `COMMANDS` and adds `state()`."""

    NAME: ClassVar[str]
    COMMANDS: ClassVar[Mapping[str, Callable[[Any, Fields], object]]]
    """Name → a function of the control and the fields of the request. Its result may be awaitable."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._tasks: set[asyncio.Task[None]] = set()

    def mount(self) -> None:
        """Serve the control endpoint on the peer's own port."""
        self.peer.mount(PREFIX, self._handle)

    async def run(self, name: str, fields: Fields) -> object:
        """Run the command `name` and return its result. Raises what the command raises."""
        result = self.COMMANDS[name](self, fields)
        return await result if inspect.isawaitable(result) else result

    async def answer(self, name: str, body: bytes) -> tuple[int, object]:
        """Run the command `name` with a JSON object (or nothing) as body.

        Returns the HTTP status and the JSON value.

        200 `{"done": NAME, "result": …}`; 400 when the body is malformed or the command fails.
        """
        try:
            fields = json.loads(body or b"{}")
            if not isinstance(fields, dict):
                return 400, {"message": "the body must be a JSON object or empty"}
            return 200, {"done": name, "result": await self.run(name, fields)}
        except (AgentdError, ValueError, TypeError, KeyError, IndexError, OSError) as exc:
            return 400, {"message": str(exc) or type(exc).__name__}

    @abc.abstractmethod
    def state(self) -> dict[str, object]:
        """What the peer stores. A view."""

    def traffic(self) -> dict[str, object]:
        """The newest requests and the waiting faults. A view."""
        return {
            "listening": self.peer.listening,
            "recent": self.peer.recent(),
            "waiting_faults": self.peer.waiting_faults(),
        }

    def views(self) -> dict[str, Callable[[], object]]:
        """Name → a function that returns the JSON value of `GET /_sim/NAME`."""
        return {"state": self.state, "traffic": self.traffic}

    def clear_faults(self, _fields: Fields) -> None:
        self.peer.clear_faults()

    def away(self, _fields: Fields) -> None:
        self.require_listening()
        self.after_response(self.peer.stop)

    async def back(self, _fields: Fields) -> None:
        if self.peer.listening:
            raise SimulatorError(f"{self.NAME} is already listening")
        await self.peer.start()

    def require_listening(self) -> None:
        """Raises `SimulatorError` when the peer is stopped."""
        if not self.peer.listening:
            raise SimulatorError(f"{self.NAME} is stopped", hint="send the command `back` first")

    def after_response(self, action: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run `action` after the response was sent, because it may close the connection of the response."""

        async def later() -> None:
            await asyncio.sleep(_ANSWER_S)
            await action(*args)

        task = asyncio.create_task(later(), name="simulator: control command")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, request: web.Request) -> web.Response:
        """`GET /_sim/VIEW`, `POST /_sim/COMMAND`. 403 for a request of a web page; else as `answer()`."""
        if not is_local(request):
            return _json(403, {"message": "only local clients may use this endpoint"})
        name, views = request.path.removeprefix(PREFIX), self.views()
        if name in views and request.method == "GET":
            return _json(200, views[name]())
        if name not in self.COMMANDS:
            known = [*sorted(views), *sorted(self.COMMANDS)]
            return _json(404, {"message": f"no command {name!r}", "known": known})
        if request.method != "POST":
            return _json(405, {"message": f"use POST /_sim/{name}"})
        return _json(*await self.answer(name, await request.content.read()))


def is_local(request: web.Request, proxies: Collection[str] = ()) -> bool:
    """Whether `request` was not sent by a page of another site.

    Such a request has a foreign Origin or, after DNS rebinding, a foreign Host. `proxies` are the hosts
    (lower case) of proxies that forward requests.
    """
    host = request.headers.get("Host", "").lower()
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not _is_navigation(request):
        return False
    if host in proxies:
        return request.headers.get("Origin") in (None, f"http://{host}", f"https://{host}")
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    origin = request.headers.get("Origin")
    return name in _LOCAL_HOSTS and (origin is None or origin == f"http://{host}")


def _is_navigation(request: web.Request) -> bool:
    headers = request.headers
    return headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"


def _json(status: int, value: object) -> web.Response:
    body = json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n"
    return web.Response(status=status, text=body, content_type="application/json")
