"""What a person can do to a running simulated AgentAPI: `curl -X POST …/_sim/hang`."""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from aiohttp import web

from agentd.simulator import admin
from agentd.simulator.faults import SimulatorError

if TYPE_CHECKING:
    from agentd.simulator.agentapi.server import SimulatedAgentApi


class Admin:
    """Commands over the public methods of `SimulatedAgentApi`."""

    def __init__(self, agent: "SimulatedAgentApi") -> None:
        self._agent = agent
        self._soon = admin.Soon()

    @property
    def commands(self) -> dict[str, admin.Command]:
        """What can be done, by name."""
        return {name: functools.partial(one, self) for name, one in self.COMMANDS.items()}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one `/_sim/` request."""
        return await admin.serve(request, self.commands, {"state": self.state, "traffic": self.traffic})

    def state(self) -> dict[str, object]:
        """What there is; of the messages the newest ten."""
        conversation = self._agent.conversation
        return {
            "version": self._agent.version,
            "url": self._agent.url,
            "mode": self._agent.mode,
            "status": conversation.status,
            "messages": len(conversation.messages),
            "newest": conversation.messages[-10:],
            "received": self._agent.received[-10:],
            "followers": self._agent.followers,
            "requests": len(self._agent.requests),
        }

    def traffic(self) -> dict[str, object]:
        """What came in lately, and the faults that wait for what comes next."""
        return {
            "listening": self._agent.listening,
            "recent": self._agent.recent(),
            "waiting_faults": self._agent.waiting_faults(),
        }

    def _status(self, fields: Mapping[str, Any]) -> None:
        status = fields["status"]
        if status not in ("running", "stable"):
            raise SimulatorError(f"no status {status!r}", hint="running or stable")
        self._agent.set_status(status)

    def _message(self, fields: Mapping[str, Any]) -> object:
        return self._agent.add_message(str(fields.get("role", "agent")), str(fields["content"]))

    def _rewrite(self, fields: Mapping[str, Any]) -> object:
        return self._agent.rewrite_last(str(fields["content"]))

    def _load(self, fields: Mapping[str, Any]) -> None:
        self._agent.load(fields["messages"])

    def _error(self, fields: Mapping[str, Any]) -> None:
        self._agent.agent_error(str(fields["message"]), fields.get("level", "error"))

    def _fault(self, fields: Mapping[str, Any]) -> None:
        self._agent.fault(**fields)

    def _away(self) -> None:
        self._must_listen()
        self._soon(self._agent.stop)

    async def _back(self) -> None:
        if self._agent.listening:
            raise SimulatorError("the agent is there")
        await self._agent.start()

    def _restart(self) -> None:
        self._must_listen()
        self._soon(self._agent.restart)

    def _must_listen(self) -> None:
        if not self._agent.listening:
            raise SimulatorError("the agent is away")

    COMMANDS: ClassVar[dict[str, Callable[["Admin", Mapping[str, Any]], object]]] = {
        "status": _status,
        "message": _message,
        "rewrite": _rewrite,
        "load": _load,
        "error": _error,
        "fail-turn": lambda self, fields: self._agent.fail_turn(str(fields["error"])),
        "hang": lambda self, _fields: self._agent.hang(),
        "release": lambda self, _fields: self._agent.release(),
        "bogus-tail": lambda self, _fields: self._agent.bogus_tail(),
        "collide-ids": lambda self, _fields: self._agent.collide_ids(),
        "fault": _fault,
        "clear-faults": lambda self, _fields: self._agent.clear_faults(),
        "away": lambda self, _fields: self._away(),
        "back": lambda self, _fields: self._back(),
        "restart": lambda self, _fields: self._restart(),
    }
