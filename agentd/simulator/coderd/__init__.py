"""The control plane: workspaces, builds, claims, tasks and what an agent may ask about them."""

from agentd.simulator.coderd.server import SimulatedCoderd

__all__ = ["SimulatedCoderd"]
