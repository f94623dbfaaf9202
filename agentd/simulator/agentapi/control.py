"""The commands of a simulated AgentAPI's control endpoint, as in `curl -X POST …/_sim/hang`."""

from typing import ClassVar

from agentd.simulator.agentapi.server import SimulatedAgentApi
from agentd.simulator.control import Fields, PeerControl
from agentd.simulator.faults import SimulatorError


class AgentControl(PeerControl[SimulatedAgentApi]):
    """Commands that call the public methods of `SimulatedAgentApi`."""

    NAME = "the agent"

    def state(self) -> dict[str, object]:
        """Version, status, the newest ten messages, and what was received."""
        agent, conversation = self.peer, self.peer.conversation
        return {
            "version": agent.version,
            "url": agent.url,
            "mode": agent.mode,
            "status": conversation.status,
            "messages": len(conversation.messages),
            "newest": conversation.messages[-10:],
            "received": agent.received[-10:],
            "followers": agent.followers,
            "requests": len(agent.requests),
        }

    def _status(self, fields: Fields) -> None:
        status = fields["status"]
        if status not in ("running", "stable"):
            raise SimulatorError(f"unknown status {status!r}", hint="use running or stable")
        self.peer.set_status(status)

    def _restart(self, _fields: Fields) -> None:
        self.require_listening()
        self.after_response(self.peer.restart)

    COMMANDS: ClassVar = {
        "status": _status,
        "message": lambda self, fields: self.peer.add_message(
            str(fields.get("role", "agent")), str(fields["content"])
        ),
        "rewrite": lambda self, fields: self.peer.rewrite_last(str(fields["content"])),
        "load": lambda self, fields: self.peer.load(fields["messages"]),
        "error": lambda self, fields: self.peer.agent_error(
            str(fields["message"]), fields.get("level", "error")
        ),
        "fail-turn": lambda self, fields: self.peer.fail_turn(str(fields["error"])),
        "hang": lambda self, _fields: self.peer.hang(),
        "release": lambda self, _fields: self.peer.release(),
        "bogus-tail": lambda self, _fields: self.peer.bogus_tail(),
        "collide-ids": lambda self, _fields: self.peer.collide_ids(),
        "fault": lambda self, fields: self.peer.fault(**fields),
        "clear-faults": PeerControl.clear_faults,
        "away": PeerControl.away,
        "back": PeerControl.back,
        "restart": _restart,
    }
