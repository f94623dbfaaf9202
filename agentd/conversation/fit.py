"""Fits messages into a payload that coderd accepts: the newest messages, the oldest of them truncated. Pure.

The payload is what `POST …/log-snapshot?format=agentapi` decodes, compact and without `$schema`. The same input always
gives the same bytes:

    {"messages":[{"id":0,"content":"…","role":"agent","time":"2026-03-02T09:00:00Z"},…]}

Messages are added whole, from the newest back. The first one that does not fit is truncated: it loses its start, at a
character, and begins with `CUT_MARK` instead. Sizes are in bytes as encoded: a Chinese character has three, a quote or
line feed two, a control character six.
"""

import json
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from agentd import strict_json
from agentd.conversation.message import CUT_MARK, ROLES, Message, NotAMessageError, parse_message
from agentd.conversation.sanitize import clean_text, clean_time, cluster_start

MAX_BYTES: Final = 65_536
"""coderd's `taskSnapshotMaxSize`: it accepts a request body of 65,536 bytes and refuses one of 65,537."""
MIN_BYTES: Final = 128
"""Enough for the envelope, the longest id, role and time, and one character of any kind."""

_ENVELOPE: Final = '{"messages":[%s]}'
_ITEM: Final = '{"id":%d,"content":%s,"role":"%s","time":"%s"}'
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1

# Characters read before the cut, to detect that it would split a character of several code points.
_LOOKBEHIND_CHARS: Final = 64

_encoder: Final = json.JSONEncoder(ensure_ascii=False)


class Fitted(NamedTuple):
    """A payload that coderd accepts. `messages` counts its messages; `truncated` is True if older text did not fit."""

    payload: bytes
    messages: int
    truncated: bool


def fit(messages: Iterable[Message], *, max_messages: int, max_bytes: int = MAX_BYTES) -> Fitted:
    """Fit the newest of `messages` (oldest first) into `max_messages` messages and `max_bytes` bytes of payload.

    Promises: the payload is never larger. coderd accepts it. It holds at least the end of the newest message. No whole
    message that would have fitted is left out. A truncated message fills the limit except for the bytes of one
    character. The work is linear in the kept text and the padding around it; it does not depend on the dropped text.

    A message whose role is not agent or user is dropped, because coderd answers 500 to every reader of a snapshot with
    one. Raises `ValueError` for a limit outside `MIN_BYTES`…`MAX_BYTES` or below one message.
    """
    if not MIN_BYTES <= max_bytes <= MAX_BYTES:
        raise ValueError(f"max_bytes is out of range: {max_bytes}; use {MIN_BYTES} to {MAX_BYTES}")
    if max_messages < 1:
        raise ValueError(f"max_messages is out of range: {max_messages}; use 1 or more")
    window = deque((message for message in messages if _is_valid(message)), maxlen=max_messages)
    bytes_left = max_bytes - _size(_ENVELOPE % "")
    items: list[str] = []
    truncated = False
    for message in reversed(window):
        comma = 1 if items else 0
        content_bytes = bytes_left - comma - _size(_item(message, ""))
        content, truncated = _fit_content(message.content, content_bytes, must_keep=not items)
        if truncated and not content:
            break
        item = _item(message, content)
        bytes_left -= comma + _size(item)
        items.append(item)
        if truncated:
            break
    payload = (_ENVELOPE % ",".join(reversed(items))).encode()
    return Fitted(payload, len(items), truncated)


def messages_of(payload: bytes) -> list[Message]:
    """Return the messages of a payload that `fit` made. Raises `ValueError` for other bytes."""
    try:
        return [parse_message(entry) for entry in strict_json.loads(payload)["messages"]]
    except (KeyError, TypeError, AttributeError, NotAMessageError) as exc:
        raise ValueError(f"not a snapshot payload: {exc!r}") from exc


def _is_valid(message: Message) -> bool:
    # Parsed messages always have integer ids. An id of 1.5 or True would cost the whole snapshot: coderd answers 400.
    return message.role in ROLES and type(message.id) is int


def _item(message: Message, content: str) -> str:
    number = min(max(message.id, _INT64_MIN), _INT64_MAX)
    return _ITEM % (number, _encoder.encode(content), message.role, clean_time(message.time))


def _fit_content(content: str, max_bytes: int, *, must_keep: bool) -> tuple[str, bool]:
    """Clean `content` and truncate it at its start to `max_bytes` encoded bytes. Returns the text, and if it was truncated.

    The text is empty if the mark and one character do not fit; with `must_keep` the mark is left out instead.
    """
    text, is_whole = _clean_end(content, max(max_bytes, 0))
    if is_whole and _encoded_size(text) <= max_bytes:
        return text, False
    mark_bytes = _encoded_size(CUT_MARK)
    if must_keep and max_bytes < 2 * mark_bytes:
        return text[_start_of_end(text, max_bytes) :], True
    kept = text[_start_of_end(text, max_bytes - mark_bytes) :]
    return (CUT_MARK + kept if kept else ""), True


def _clean_end(content: str, max_bytes: int) -> tuple[str, bool]:
    """Clean enough of the end of `content` to fill `max_bytes`. Returns the text, and True if it is the whole content.

    A character has at least one byte, so the last `max_bytes` characters are enough unless cleaning removes some; then
    the span is doubled. The cost does not depend on the rest of the text, which may have 60 MB.
    """
    span = max_bytes + _LOOKBEHIND_CHARS
    while True:
        start = max(0, len(content) - span)
        if start and "\udc00" <= content[start] <= "\udfff":
            start -= 1
        text = clean_text(content[start:])
        if start == 0 or len(text) > max_bytes:
            return text, start == 0
        span *= 2


def _start_of_end(text: str, max_bytes: int) -> int:
    """Return the start of the longest end of `text` with at most `max_bytes` encoded bytes, at a whole character."""
    start = len(text)
    for step in (1024, 32, 1):
        while start > 0:
            earlier = max(0, start - step)
            step_bytes = _encoded_size(text[earlier:start])
            if step_bytes > max_bytes:
                break
            start, max_bytes = earlier, max_bytes - step_bytes
    return cluster_start(text, start) if start < len(text) else start


def _encoded_size(text: str) -> int:
    """Return the bytes that `text` has inside a JSON string."""
    return _size(_encoder.encode(text)) - 2


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
