"""A simulated coderd: workspaces, builds, claims and tasks, the routes for agents and for users, and faults."""

from agentd.simulator.coderd.server import SimulatedCoderd

__all__ = ["SimulatedCoderd"]
