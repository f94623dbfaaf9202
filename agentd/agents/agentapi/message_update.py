"""One message as AgentAPI's event stream sends it, decoded when somebody asks for it.  Pure."""

import json
from typing import NamedTuple

from agentd.conversation.message import Message, NotAMessageError, parse_message

__all__ = ["MessageUpdate"]


class MessageUpdate(NamedTuple):
    """A message as it is now."""

    id: int
    role: str
    data: str

    def __repr__(self) -> str:
        return f"MessageUpdate(id={self.id}, role={self.role!r}, {len(self.data)} characters)"

    def message(self) -> Message:
        """Raises `NotAMessageError` when it is none."""
        try:
            fields = json.loads(self.data, strict=False)
        except (ValueError, RecursionError) as error:
            raise NotAMessageError(f"an update is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise NotAMessageError("an update is no object")
        return parse_message(fields, text="message")
