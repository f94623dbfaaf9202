"""Decode AgentAPI's `/events` stream: bytes in, events out.

AgentAPI sends a message whole at every change of the screen (422 events and 18.5 MB in 18 s were measured), so most
updates are outdated on arrival. Of several updates of one message in one chunk only the last is passed on, and its
JSON is decoded when the message is read. A large update is passed on undecoded, for `read_update`.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Final, Literal, NamedTuple, TypeAlias

from agentd.agents.agentapi.messages import UpdateScan
from agentd.agents.json_scan import BodyError
from agentd.conversation.message import Message, NotAMessageError, parse_message
from agentd.conversation.window import UndecodedMessage
from agentd.http_client import LoopShare, json_object
from agentd.masking import excerpt
from agentd.sse import EventDecoder, Heartbeat

# A screen is 320 kB at the worst; `<`, `>` and `&` are sent as six characters here.
EVENT_MAX_BYTES: Final = 2 * 1024**2

_ERROR_MAX_CHARS: Final = 500
# `json.loads` of a larger event could block the event loop: 1.9 MB of small objects take 140 ms.
_SMALL_MAX_CHARS: Final = 64 * 1024
# The order of fields that AgentAPI writes; any other order is decoded at once.
_HEAD: Final = re.compile(r'\{"id":(-?[0-9]{1,18}),"role":"(agent|user)",')


class StatusChange(NamedTuple):
    """The current status. The first one of a stream marks the end of the replayed messages."""

    status: Literal["running", "stable"]


class AgentErrorEvent(NamedTuple):
    """`agent_error` (since 0.12.0): the agent's process or its state has a problem."""

    message: str
    level: str
    time: str


class LargeUpdate(NamedTuple):
    """The JSON of a `message_update` that is too large to be decoded at once."""

    data: str


AgentEvent: TypeAlias = UndecodedMessage | StatusChange | AgentErrorEvent


class AgentEventDecoder:
    """Push decoder for one connection. `feed` raises `StreamTooLargeError` for an event above `EVENT_MAX_BYTES`."""

    def __init__(self) -> None:
        self._events = EventDecoder(event_max_bytes=EVENT_MAX_BYTES)
        self.skipped = 0
        """Updates that are not messages. Those that are passed on undecoded are not among them."""
        self.skipped_because = ""
        """Why the last of them is none."""

    def feed(self, chunk: bytes) -> Iterator[AgentEvent | LargeUpdate]:
        """The events of `chunk`, without updates that a later one in it replaces. Unknown events are skipped."""
        pending: UndecodedMessage | None = None
        for raw in self._events.feed(chunk):
            try:
                event = None if isinstance(raw, Heartbeat) else _event(raw.event, raw.data)
            except NotAMessageError as exc:
                self.skipped += 1
                self.skipped_because = str(exc)
                continue
            if event is None:
                continue
            if pending is not None and not (isinstance(event, UndecodedMessage) and event.id == pending.id):
                yield pending
            pending = event if isinstance(event, UndecodedMessage) else None
            if pending is None:
                yield event
        if pending is not None:
            yield pending


def decode_update(data: str) -> Message:
    """The message of one `message_update`. Raises `NotAMessageError`."""
    try:
        fields = json.loads(data, strict=False)
    except (ValueError, RecursionError) as exc:
        raise NotAMessageError(f"an update is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise NotAMessageError("an update is not a JSON object")
    return parse_message(fields, text="message")


async def read_update(update: LargeUpdate, share: LoopShare) -> Message:
    """The message of a large update, parsed in parts. Its text is limited as in `/messages`. Raises `NotAMessageError`."""
    scan = UpdateScan()
    try:
        async for piece in share.pieces(update.data.encode()):
            scan.feed(piece)
        return scan.close()
    except BodyError as exc:
        raise NotAMessageError(f"an update is not JSON: {exc}") from exc


def _event(name: str, data: str) -> AgentEvent | LargeUpdate | None:
    """None for an unknown event. Raises `NotAMessageError` for a malformed update, if that is seen at once."""
    if name == "message_update":
        return _update(data) if len(data) <= _SMALL_MAX_CHARS else LargeUpdate(data)
    if name not in ("status_change", "agent_error") or len(data) > _SMALL_MAX_CHARS:
        return None
    fields = json_object(data)
    if name == "agent_error" and fields:
        texts = (excerpt(str(fields.get(key, "")), _ERROR_MAX_CHARS) for key in ("message", "level", "time"))
        return AgentErrorEvent(*texts)
    match fields.get("status"):
        case "running" | "stable" as status:
            return StatusChange(status)
    return None


def _update(data: str) -> UndecodedMessage:
    head = _HEAD.match(data)
    if head is not None:
        return UndecodedMessage(int(head[1]), head[2], partial(decode_update, data))
    message = decode_update(data)
    return UndecodedMessage(message.id, message.role, lambda: message)
