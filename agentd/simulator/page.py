"""The page to watch and drive the simulated peers, on a port of its own: it stays when a peer is made to go away.

`GET /state` is what both peers know and what the demo told so far, `GET /controls` the buttons, `GET /snapshot/<task>` the
bytes coderd stored, `POST /do/<peer>/<command>` one press. All URLs are relative, so any proxy's path may stand in front.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from agentd import ui
from agentd.errors import AgentdError
from agentd.simulator import admin
from agentd.simulator.agentapi.admin import Admin as AgentAdmin
from agentd.simulator.coderd.admin import Admin as CoderdAdmin
from agentd.simulator.controls import GROUPS
from agentd.simulator.serving import Changes, Listener, Served

if TYPE_CHECKING:
    from agentd.simulator.agentapi import SimulatedAgentApi
    from agentd.simulator.coderd import SimulatedCoderd

FILES: Final = ui.files("simulator")


@dataclass(frozen=True, slots=True)
class _Seat:
    """One peer at the page: what it can be told, and what it knows."""

    commands: Mapping[str, admin.Command]
    state: Callable[[], Mapping[str, object]]


@dataclass(slots=True)
class Told:
    """One sentence of a story; `tone` is "", "good" or "bad"."""

    text: str
    tone: str
    at: float = field(default_factory=time.time)


class Page(Served):
    """The page's server on 127.0.0.1, for `async with`. `links` (name to URL) lead to pages beside it; `proxies` are
    hosts under which a proxy may pass requests on.
    """

    def __init__(
        self,
        *,
        coderd: "SimulatedCoderd | None" = None,
        agent: "SimulatedAgentApi | None" = None,
        port: int = 0,
        links: Mapping[str, str] | None = None,
        proxies: Collection[str] = (),
    ) -> None:
        self._coderd = coderd
        self._links = dict(links or {})
        self._proxies = frozenset(host.lower() for host in proxies)
        self._seats: dict[str, _Seat] = {}
        if coderd is not None:
            seat = CoderdAdmin(coderd)
            self._seats["coderd"] = _Seat(seat.commands, lambda: seat.state() | seat.traffic())
        if agent is not None:
            agent_seat = AgentAdmin(agent)
            self._seats["agentapi"] = _Seat(
                agent_seat.commands, lambda: agent_seat.state() | agent_seat.traffic()
            )
        self._story: list[Told] = []
        self._opened = False
        self._changes = Changes()
        self._listener = Listener(self._handle, host="127.0.0.1", port=port)

    @property
    def url(self) -> str:
        return f"{self._listener.url}/"

    def tell(self, sentence: str, tone: str = "") -> None:
        """Let the page show what happens now."""
        self._story.append(Told(sentence, tone))

    @property
    def is_watched(self) -> bool:
        """Whether a browser has read the state once."""
        return self._opened

    async def opened(self) -> None:
        """Return as soon as a browser has read the state once."""
        await self._changes.until(lambda: self.is_watched)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if not admin.is_local(request, self._proxies) or not _is_meant(request):
            return _answer(403, {"message": "only for this page"})
        if request.method == "POST":
            return await self._do(request)
        if request.method != "GET":
            return _answer(405, {"message": "GET or POST"})
        if request.path in FILES:
            return ui.file_response(*FILES[request.path])
        if request.path == "/state":
            self._opened = True
            self._changes.notify()
            return _answer(200, self._state())
        if request.path == "/controls":
            groups = [asdict(group) for group in GROUPS if group.peer in self._seats]
            return _answer(200, groups)
        return self._snapshot(request.path.removeprefix("/snapshot/"))

    def _state(self) -> dict[str, object]:
        return {
            "story": [asdict(told) for told in self._story],
            "links": self._links,
            "peers": {name: seat.state() for name, seat in self._seats.items()},
        }

    def _snapshot(self, task_id: str) -> web.Response:
        row = self._coderd.snapshots.get(task_id) if self._coderd is not None else None
        if row is None:
            return _answer(404, {"message": f"nothing at {task_id!r}"})
        return web.Response(body=row.body, content_type="application/json", headers=ui.HEADERS)

    async def _do(self, request: web.Request) -> web.Response:
        _, do, peer, name = [*request.path.split("/"), "", "", ""][:4]
        if do != "do" or peer not in self._seats or name not in self._seats[peer].commands:
            return _answer(404, {"message": f"no command {request.path!r}"})
        try:
            fields = json.loads(await request.content.read() or b"{}")
            if not isinstance(fields, dict):
                return _answer(400, {"message": "the body is a JSON object, or nothing"})
            result = await admin.carry_out(self._seats[peer].commands, name, fields)
        except (AgentdError, ValueError, TypeError, KeyError, IndexError, OSError) as wrong:
            return _answer(400, {"message": str(wrong) or type(wrong).__name__})
        return _answer(200, {"done": name, "result": result})


def _is_meant(request: web.Request) -> bool:
    """Whether a press came from the page: a form cannot send this header, a foreign script not without a preflight."""
    return request.method in ("GET", "HEAD") or "X-Agentd" in request.headers


def _answer(status: int, value: Any) -> web.Response:  # noqa: ANN401 - whatever JSON can hold
    text = json.dumps(value, ensure_ascii=False, default=str)
    body = text.encode("utf-8", "backslashreplace")
    return web.Response(status=status, body=body, content_type="application/json", headers=ui.HEADERS)
