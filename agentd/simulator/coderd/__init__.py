"""A simulated coderd: workspaces, builds, claims and tasks, the routes of agents and users, and faults."""

from agentd.simulator.coderd.server import SimulatedCoderd

__all__ = ["SimulatedCoderd"]
