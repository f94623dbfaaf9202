"""The agent's HTTP face: its status, its conversation, and the moments at which neither can be had."""

from agentd.simulator.agentapi.server import SimulatedAgentApi

__all__ = ["SimulatedAgentApi"]
