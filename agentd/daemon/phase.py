"""How far along its life a run is, as `/v1/status` says it under `phase`."""

import enum


class Phase(enum.StrEnum):
    """Only ever goes on to the next."""

    RUNNING = "running"
    STOPPING = "stopping"
    """Hooks are being ended, and the agent is asked for its conversation once more."""
    DELIVERING = "delivering"
    """The conversation is captured and on its way."""
