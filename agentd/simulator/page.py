"""The page that shows and drives the simulated peers.

It has its own port, so an outage of a peer does not stop it. `GET /state` returns the state of both peers
and the demo's steps, `GET /controls` the buttons, `GET /snapshot/TASK` the bytes that coderd stored;
`POST /do/PEER/COMMAND` runs a command. All URLs are relative, so a proxy may add a path prefix.
"""

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from aiohttp import web

from agentd import ui
from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.agentapi.control import AgentControl
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.control import CoderdControl
from agentd.simulator.control import PeerControl, is_local
from agentd.simulator.page_controls import GROUPS
from agentd.simulator.serving import Changes, Listener, Server

FILES: Final = ui.files("simulator")


@dataclass(slots=True)
class DemoStep:
    """One sentence of the demo. `tone` is "", "good" or "bad"."""

    text: str
    tone: str
    at: float = field(default_factory=time.time)


class Page(Server):
    """The page's server on 127.0.0.1.

    `links` (name → URL) appear in the page's header. `proxies` are the hosts of proxies that forward
    requests.
    """

    def __init__(
        self,
        *,
        coderd: SimulatedCoderd | None = None,
        agent: SimulatedAgentApi | None = None,
        port: int = 0,
        links: Mapping[str, str] | None = None,
        proxies: Collection[str] = (),
    ) -> None:
        self._coderd = coderd
        self._links = dict(links or {})
        self._proxies = frozenset(host.lower() for host in proxies)
        self._peers: dict[str, PeerControl[Any]] = {}
        if coderd is not None:
            self._peers["coderd"] = CoderdControl(coderd)
        if agent is not None:
            self._peers["agentapi"] = AgentControl(agent)
        self._steps: list[DemoStep] = []
        self._is_open = False
        self._changes = Changes()
        self._listener = Listener(self._handle, host="127.0.0.1", port=port)

    @property
    def url(self) -> str:
        return f"{self._listener.url}/"

    def show(self, sentence: str, tone: str = "") -> None:
        """Add a step of the demo."""
        self._steps.append(DemoStep(sentence, tone))

    @property
    def is_open(self) -> bool:
        """Whether a browser has read the state."""
        return self._is_open

    async def until_open(self) -> None:
        """Wait until a browser reads the state for the first time."""
        await self._changes.until(lambda: self._is_open)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if not is_local(request, self._proxies) or not _is_sent_by_page(request):
            return _answer(403, {"message": "only this page may send requests"})
        if request.method == "POST":
            return await self._run_command(request)
        if request.method != "GET":
            return _answer(405, {"message": "use GET or POST"})
        if request.path in FILES:
            return ui.file_response(*FILES[request.path])
        if request.path == "/state":
            self._is_open = True
            self._changes.notify()
            return _answer(200, self._state())
        if request.path == "/controls":
            groups = [asdict(group) for group in GROUPS if group.peer in self._peers]
            return _answer(200, groups)
        return self._snapshot(request.path.removeprefix("/snapshot/"))

    def _state(self) -> dict[str, object]:
        return {
            "steps": [asdict(step) for step in self._steps],
            "links": self._links,
            "peers": {name: control.state() | control.traffic() for name, control in self._peers.items()},
        }

    def _snapshot(self, task_id: str) -> web.Response:
        row = self._coderd.snapshots.get(task_id) if self._coderd is not None else None
        if row is None:
            return _answer(404, {"message": f"no snapshot of task {task_id!r}"})
        return web.Response(body=row.body, content_type="application/json", headers=ui.HEADERS)

    async def _run_command(self, request: web.Request) -> web.Response:
        _, do, peer, name = [*request.path.split("/"), "", "", ""][:4]
        if do != "do" or peer not in self._peers or name not in self._peers[peer].COMMANDS:
            return _answer(404, {"message": f"no command {request.path!r}"})
        return _answer(*await self._peers[peer].answer(name, await request.content.read()))


def _is_sent_by_page(request: web.Request) -> bool:
    """Whether a POST has the page's header.

    A form cannot set it, and a script of another site needs a CORS preflight.
    """
    return request.method in ("GET", "HEAD") or "X-Agentd" in request.headers


def _answer(status: int, value: object) -> web.Response:
    text = json.dumps(value, ensure_ascii=False, default=str)
    body = text.encode("utf-8", "backslashreplace")
    return web.Response(status=status, body=body, content_type="application/json", headers=ui.HEADERS)
