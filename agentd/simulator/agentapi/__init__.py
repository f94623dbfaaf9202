"""A simulated AgentAPI: the agent's status and conversation over HTTP, and its faults."""

from agentd.simulator.agentapi.server import SimulatedAgentApi

__all__ = ["SimulatedAgentApi"]
