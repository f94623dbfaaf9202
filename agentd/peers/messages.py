"""A conversation as AgentAPI sends it: one message, and the newest of many.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Message"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message.  `time` stays the server's text: nothing here computes with it."""

    id: int
    role: str
    content: str
    time: str
