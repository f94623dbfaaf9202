"""AgentAPI's state file: the conversation on disk, written on SIGUSR1 and at the end, read at the start."""

import json
import os
from pathlib import Path

from agentd.simulator.agentapi.conversation import Conversation

VERSION = 1


def save(conversation: Conversation, path: Path) -> bool:
    """Write the conversation if anything but a user's message changed since the last save; returns whether it did.

    `{"version":1,"messages":[{"id","message","role","time"}],"initial_prompt","initial_prompt_sent"}`, mode 0600,
    written aside, flushed and renamed.
    """
    if not conversation.dirty:
        return False
    state = {
        "version": VERSION,
        "messages": [
            {
                "id": message["id"],
                "message": message["content"],
                "role": message["role"],
                "time": message["time"],
            }
            for message in conversation.messages
        ],
        "initial_prompt": "",
        "initial_prompt_sent": False,
    }
    aside = path.with_name(f"{path.name}.tmp")
    with os.fdopen(
        os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        json.dump(state, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    conversation.dirty = False
    return True


def load(conversation: Conversation, path: Path) -> None:
    """Take over what was saved. No file: nothing; a broken one: an agent_error, and an empty start."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    try:
        state = json.loads(text)
        if state["version"] != VERSION:
            raise ValueError(f"unsupported state version {state['version']}")
        messages = [
            {
                "id": int(one["id"]),
                "content": str(one["message"]),
                "role": str(one["role"]),
                "time": str(one["time"]),
            }
            for one in state["messages"]
        ]
    except (ValueError, KeyError, TypeError) as wrong:
        conversation.error(f"Failed to load state: {wrong}", "warning")
        return
    conversation.load(messages)
    conversation.dirty = False
