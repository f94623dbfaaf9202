"""Messages of a conversation to the largest tail of it that coderd takes.  Pure.

The payload is what `POST …/log-snapshot?format=agentapi` decodes, compact, without `$schema`, and the same bytes for
the same input:

    {"messages":[{"id":0,"content":"…","role":"agent","time":"2026-03-02T09:00:00Z"},…]}

Largest tail: messages are taken whole from the newest back, and the first that does not fit loses its head, at a
character, behind a line that says so.  Everything is measured in bytes as encoded: a Chinese character is three, a
quote or line feed two, a control character six.
"""

import json
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from agentd.conversation.message import CUT_MARK, ROLES, Message
from agentd.conversation.sanitize import clean_text, clean_time, cluster_start

MAX_BYTES: Final = 65_536
"""coderd's `taskSnapshotMaxSize`: 65,536 bytes of request body pass, one more does not."""
MIN_BYTES: Final = 128
"""The envelope, the longest id, role and time, and one character of any kind."""

_ENVELOPE: Final = '{"messages":[%s]}'
_ITEM: Final = '{"id":%d,"content":%s,"role":"%s","time":"%s"}'
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1

_encoder: Final = json.JSONEncoder(ensure_ascii=False)


class Fitted(NamedTuple):
    """A payload that coderd takes.  `messages` counts those in it; `truncated`: older text did not fit."""

    payload: bytes
    messages: int
    truncated: bool


def fit(messages: Iterable[Message], *, max_messages: int, max_bytes: int = MAX_BYTES) -> Fitted:
    """The newest of `messages` (oldest first) in at most `max_messages` messages and `max_bytes` bytes of payload.

    Promises: never larger; accepted by coderd; the newest message is there, at least its end; no whole message was
    left out that would have fitted; a cut message fills the limit but for the bytes of one character.  Work is
    linear in what is kept and in the padding around it, not in what is dropped.

    Entries with a role other than agent or user are dropped, since one of them makes coderd answer 500 to every
    reader.  Raises `ValueError` for a limit outside `MIN_BYTES`…`MAX_BYTES` or below one message.
    """
    if not MIN_BYTES <= max_bytes <= MAX_BYTES:
        raise ValueError(f"max_bytes is {max_bytes}, not within {MIN_BYTES} to {MAX_BYTES}")
    if max_messages < 1:
        raise ValueError(f"max_messages is {max_messages}, less than 1")
    window = deque((message for message in messages if _speaks(message)), maxlen=max_messages)
    room = max_bytes - _size(_ENVELOPE % "")
    items: list[str] = []
    truncated = False
    for message in reversed(window):
        shell = _size(_item(message, "")) + (1 if items else 0)
        content, truncated = _tail(message.content, room - shell, must_keep=not items)
        if truncated and not content:
            break
        item = _item(message, content)
        room -= _size(item) + (1 if items else 0)
        items.append(item)
        if truncated:
            break
    payload = (_ENVELOPE % ",".join(reversed(items))).encode()
    return Fitted(payload, len(items), truncated)


def messages_of(payload: bytes) -> list[Message]:
    """The messages of a payload that `fit` made.  Raises `ValueError` when it is no such payload."""
    try:
        return [
            Message(entry["id"], entry["role"], entry["content"], entry["time"])
            for entry in json.loads(payload)["messages"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a snapshot payload: {error!r}") from error


def _speaks(message: Message) -> bool:
    # Parsed messages always have integer ids; one made by hand with 1.5 or True would cost the whole snapshot (400).
    return message.role in ROLES and type(message.id) is int


def _item(message: Message, content: str) -> str:
    number = min(max(message.id, _INT64_MIN), _INT64_MAX)
    return _ITEM % (number, _encoder.encode(content), message.role, clean_time(message.time))


def _tail(content: str, room: int, *, must_keep: bool) -> tuple[str, bool]:
    """The end of `content`, cleaned, in at most `room` encoded bytes, and whether something is missing from it.

    Empty and missing when not even the mark and a character fit; `must_keep` then does without the mark.
    """
    text, whole = _cleaned_end(content, max(room, 0))
    if whole and _encoded(text) <= room:
        return text, False
    mark = _encoded(CUT_MARK)
    if must_keep and room < 2 * mark:
        return text[_cut(text, room) :], True
    kept = text[_cut(text, room - mark) :]
    return (CUT_MARK + kept if kept else ""), True


def _cleaned_end(content: str, room: int) -> tuple[str, bool]:
    """Enough of the end of `content`, cleaned, to fill `room` bytes, and whether that is all of it.

    A character takes at least a byte, so what counts lies in the last `room` characters, unless cleaning removes
    some: then look twice as far.  60 MB of text cost no more than what is kept of them.
    """
    span = room + 64  # some characters before the cut, to see whether it would split one
    while True:
        start = max(0, len(content) - span)
        if start and "\udc00" <= content[start] <= "\udfff":
            start -= 1
        text = clean_text(content[start:])
        if start == 0 or len(text) > room:
            return text, start == 0
        span *= 2


def _cut(text: str, room: int) -> int:
    """Where the longest end of `text` that encodes to at most `room` bytes starts, moved on to a whole character."""
    start = len(text)
    for step in (1024, 32, 1):
        while start > 0:
            earlier = max(0, start - step)
            cost = _encoded(text[earlier:start])
            if cost > room:
                break
            start, room = earlier, room - cost
    return cluster_start(text, start) if start < len(text) else start


def _encoded(text: str) -> int:
    """Bytes that `text` takes inside a JSON string."""
    return _size(_encoder.encode(text)) - 2


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
