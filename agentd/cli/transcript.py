"""Formats a stored conversation as text or JSON; escapes terminal control characters."""

import json
import re
from typing import Final

from agentd.conversation.message import Message
from agentd.conversation.sanitize import FALLBACK_TIME
from agentd.snapshots.reading import StoredConversation

# C0 except tab and line feed, DEL, C1 (0x9b starts a control sequence like ESC [), and characters that change
# the direction of text.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_INDENT: Final = "  "


def as_text(stored: StoredConversation) -> str:
    """All messages, oldest first. Message lines are indented, so that none of them looks like a heading."""
    task = f"task {_escape(stored.task_id)}, " if stored.task_id else ""
    captured = f", captured {_escape(stored.captured_at)}" if stored.captured_at else ""
    count = len(stored.messages)
    blocks = [f"{task}{count} message{'s' * (count != 1)}{captured}, from {_escape(stored.source)}"]
    blocks += [_block(message) for message in stored.messages]
    return "\n\n".join(blocks) + "\n"


def as_json(stored: StoredConversation) -> str:
    """`{"source", "task_id", "captured_at", "messages": [{"id", "role", "content", "time"}]}`. Unknown is ""."""
    value = {
        "source": stored.source,
        "task_id": stored.task_id,
        "captured_at": stored.captured_at,
        "messages": [message._asdict() for message in stored.messages],
    }
    # json.dumps escapes C0 but not the other control characters.
    return _CONTROLS.sub(
        lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}",
        json.dumps(value, ensure_ascii=False, indent=2),
    )


def _block(message: Message) -> str:
    lines = message.content.replace("\r\n", "\n").split("\n")
    content = "\n".join(f"{_INDENT}{_escape(line)}".rstrip() for line in lines)
    when = "" if message.time == FALLBACK_TIME else f", {_escape(message.time)}"
    return f"{message.role}{when}:\n{content}"


def _escape(text: str) -> str:
    """Replace control characters by visible ones: C0 by control pictures (ESC by ␛), others by their code."""
    return _CONTROLS.sub(_visible, text)


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"
