"""agentd: the agent-side sidecar of a Coder workspace. See docs/architecture.md for the way in."""

__version__ = "0.1.0"
