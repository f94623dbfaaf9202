"""A stored conversation for people and for programs. What an agent's terminal did must not be done to the reader's."""

import json
import re
from typing import Final

from agentd.conversation.message import Message
from agentd.conversation.sanitize import FALLBACK_TIME
from agentd.snapshots.reading import StoredConversation

# C0 but tab and line feed, DEL, C1 (one of which begins a sequence as ESC [ does), and what turns text around.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_INDENT: Final = "  "


def readable(stored: StoredConversation) -> str:
    """Who said what, oldest first; every line that somebody said is indented, so that none can pass for a heading."""
    task = f"task {_neutral(stored.task_id)}, " if stored.task_id else ""
    captured = f", captured {_neutral(stored.captured_at)}" if stored.captured_at else ""
    count = len(stored.messages)
    blocks = [f"{task}{count} message{'s' * (count != 1)}{captured}, from {_neutral(stored.source)}"]
    blocks += [_block(message) for message in stored.messages]
    return "\n\n".join(blocks) + "\n"


def as_json(stored: StoredConversation) -> str:
    """`{"source", "task_id", "captured_at", "messages": [{"id", "role", "content", "time"}]}`; unknown ones are ""."""
    value = {
        "source": stored.source,
        "task_id": stored.task_id,
        "captured_at": stored.captured_at,
        "messages": [
            {"id": one.id, "role": one.role, "content": one.content, "time": one.time}
            for one in stored.messages
        ],
    }
    # JSON escapes C0 by itself; the rest may stand as it is and would reach the terminal.
    return _CONTROLS.sub(
        lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}",
        json.dumps(value, ensure_ascii=False, indent=2),
    )


def _block(message: Message) -> str:
    lines = message.content.replace("\r\n", "\n").split("\n")
    said = "\n".join(f"{_INDENT}{_neutral(line)}".rstrip() for line in lines)
    when = "" if message.time == FALLBACK_TIME else f", {_neutral(message.time)}"
    return f"{message.role}{when}:\n{said}"


def _neutral(text: str) -> str:
    """`text` with every control character visible instead of in force: ESC as ␛, others as their code."""
    return _CONTROLS.sub(_visible, text)


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"
