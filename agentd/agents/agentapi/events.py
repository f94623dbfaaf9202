"""What AgentAPI's `/events` says: bytes -> events, decoded when somebody wants them.

A message is sent whole at every change of the screen (422 events and 18.5 MB in 18 s were seen), so most updates are
outdated before anybody looks: of several of one message that arrive together only the last is passed on, and its
JSON is decoded when its message is asked for.
"""

import json
import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

from agentd.agents.agentapi.message_update import MessageUpdate
from agentd.conversation.message import NotAMessageError
from agentd.sse import EventDecoder, Heartbeat

__all__ = [
    "EVENT_MAX_BYTES",
    "AgentComplaint",
    "AgentEvent",
    "AgentEventDecoder",
    "MessageUpdate",
    "StatusChange",
]

# A screen is 320 kB at the worst; `<`, `>` and `&` are sent as six characters here.
EVENT_MAX_BYTES: Final = 2 * 1024**2

# As AgentAPI spells it; any other order of fields is read the slow way.
_HEAD: Final = re.compile(r'\{"id":(-?[0-9]{1,18}),"role":"(agent|user)",')


class StatusChange(NamedTuple):
    """The status as it is now; the first one of a stream ends the replay of messages."""

    status: Literal["running", "stable"]


class AgentComplaint(NamedTuple):
    """`agent_error` (since 0.12.0): the agent's process or its state has a problem."""

    message: str
    level: str
    time: str


AgentEvent: TypeAlias = MessageUpdate | StatusChange | AgentComplaint


class AgentEventDecoder:
    """Push decoder for one connection.  `feed` raises `StreamTooLargeError` for an event above `EVENT_MAX_BYTES`."""

    def __init__(self) -> None:
        self._events = EventDecoder(event_max_bytes=EVENT_MAX_BYTES)

    def feed(self, chunk: bytes) -> Iterator[AgentEvent]:
        """The events of `chunk`, without updates that a later one in it replaces.  Unknown ones are skipped."""
        waiting: MessageUpdate | None = None
        for raw in self._events.feed(chunk):
            event = None if isinstance(raw, Heartbeat) else _event(raw.event, raw.data)
            if event is None:
                continue
            if waiting is not None and not (isinstance(event, MessageUpdate) and event.id == waiting.id):
                yield waiting
            waiting = event if isinstance(event, MessageUpdate) else None
            if waiting is None:
                yield event
        if waiting is not None:
            yield waiting


def _event(name: str, data: str) -> AgentEvent | None:
    if name == "message_update":
        return _update(data)
    if name not in ("status_change", "agent_error"):
        return None
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    if name == "agent_error":
        return AgentComplaint(*(str(fields.get(key, ""))[:500] for key in ("message", "level", "time")))
    match fields.get("status"):
        case "running" | "stable" as status:
            return StatusChange(status)
    return None


def _update(data: str) -> MessageUpdate | None:
    head = _HEAD.match(data)
    if head is not None:
        return MessageUpdate(int(head[1]), head[2], data)
    try:
        message = MessageUpdate(0, "", data).message()
    except NotAMessageError:
        return None
    return MessageUpdate(message.id, message.role, data)
