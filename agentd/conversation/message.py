"""A message of a conversation, of any kind of agent. Pure."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from agentd.errors import PeerError
from agentd.masking import excerpt

CUT_MARK: Final = "[... earlier text cut by agentd ...]\n"
"""The start of every truncated text: a reader sees that text is missing."""

ROLES: Final = frozenset({"agent", "user"})

_INT64_END: Final = 2**63


class NotAMessageError(PeerError):
    """An entry of a message list is not a message: a field is missing or has a wrong type or role."""


class Message(NamedTuple):
    """One message. `time` is the server's text, unchecked (`clean_time` makes it valid).

    `content` may hold lone surrogates, because a JSON body can contain them as escapes; `clean_text` replaces them.
    """

    id: int
    role: str
    content: str
    time: str


def parse_message(entry: Mapping[str, object], *, text: str = "content") -> Message:
    """Check one decoded entry. `text` is the name of its text field: "message" in `/events` and in the state file.

    Raises `NotAMessageError`. This includes the zero entry (role "", content "", year 1) that AgentAPI sends if its
    list shrinks during a read: with one in a snapshot, coderd answers 500 to every reader.
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
    return "missing" if value is None else excerpt(repr(value), 40)
