"""One message as AgentAPI's event stream sends it, decoded when somebody asks for it.  Pure."""

import json
from dataclasses import dataclass, field

from agentd.peers.messages import Message, NotAMessage, parse_message

__all__ = ["MessageUpdate"]


@dataclass(frozen=True, slots=True)
class MessageUpdate:
    """A message as it is now."""

    id: int
    role: str
    data: str = field(repr=False)

    def message(self) -> Message:
        """Raises `NotAMessage` when it is none."""
        try:
            fields = json.loads(self.data, strict=False)
        except (ValueError, RecursionError) as error:
            raise NotAMessage(f"an update is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise NotAMessage("an update is no object")
        return parse_message(fields, text="message")
