"""A message of a conversation, whichever agent it comes from.  Pure."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from agentd.errors import PeerError

__all__ = ["CUT_MARK", "ROLES", "Message", "NotAMessageError", "parse_message"]

CUT_MARK: Final = "[... earlier text cut by agentd ...]\n"
"""Replaces the start of a text that was too long, so that a reader does not take the rest for the whole."""

ROLES: Final = frozenset({"agent", "user"})

_INT64_END: Final = 2**63


class NotAMessageError(PeerError):
    """An entry of a message list is not one: wrong types, or a role that nobody speaks in. The message says which."""


class Message(NamedTuple):
    """One message.  `time` stays the server's text: nothing here computes with it.

    `content` may hold lone surrogates (a body can spell them as escapes); whoever encodes it replaces them.
    """

    id: int
    role: str
    content: str
    time: str


def parse_message(entry: Mapping[str, object], *, text: str = "content") -> Message:
    """Check one decoded entry.  `text` names its text field: "message" in `/events` and in the state file.

    Raises `NotAMessageError`, also for the zero entry (role "", content "", year 1) that AgentAPI sends when its list
    shrinks while it reads it: one such entry in a snapshot makes coderd answer 500 to every later reader.
    """
    number, role, content, time = (entry.get(name) for name in ("id", "role", text, "time"))
    if not isinstance(number, int) or isinstance(number, bool) or not -_INT64_END <= number < _INT64_END:
        raise NotAMessageError(f"id is {_shown(number)}, not a 64-bit integer")
    if not isinstance(role, str) or role not in ROLES:
        raise NotAMessageError(f"role is {_shown(role)}, neither agent nor user")
    if not isinstance(content, str):
        raise NotAMessageError(f"{text} is {_shown(content)}, not a string")
    if not isinstance(time, str) or not time:
        raise NotAMessageError(f"time is {_shown(time)}, not a time")
    return Message(number, role, content, time)


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:40]
