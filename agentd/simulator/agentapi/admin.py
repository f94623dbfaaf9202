"""What a person can do to a running simulated AgentAPI: `curl -X POST …/_sim/hang`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from agentd.simulator import admin
from agentd.simulator.faults import SimulatorError

if TYPE_CHECKING:
    from agentd.simulator.agentapi.server import SimulatedAgentApi


class Admin:
    """Commands over the public methods of `SimulatedAgentApi`."""

    def __init__(self, agent: "SimulatedAgentApi") -> None:
        self._agent = agent
        self.commands: dict[str, admin.Command] = {
            "status": self._status,
            "message": self._message,
            "rewrite": self._rewrite,
            "hang": lambda _: agent.hang(),
            "release": lambda _: agent.release(),
            "bogus-tail": lambda _: agent.bogus_tail(),
            "fail-turn": lambda fields: agent.fail_turn(str(fields["error"])),
            "load": self._load,
            "collide-ids": lambda _: agent.collide_ids(),
            "clear-faults": lambda _: agent.clear_faults(),
            "error": self._error,
            "fault": self._fault,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one `/_sim/` request."""
        return await admin.serve(request, self.commands, {"state": self.state})

    def state(self) -> dict[str, object]:
        """What there is; of the messages the newest ten."""
        conversation = self._agent.conversation
        return {
            "version": self._agent.version,
            "mode": self._agent.mode,
            "status": conversation.status,
            "messages": len(conversation.messages),
            "newest": conversation.messages[-10:],
            "received": self._agent.received[-10:],
            "followers": self._agent.followers,
            "requests": len(self._agent.requests),
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
