"""AgentAPI's state file: the conversation on disk, written at SIGUSR1 and at exit, read at start."""

import json
import os
from pathlib import Path
from typing import Final

from agentd.simulator.agentapi.conversation import Conversation

VERSION: Final = 1


def save(conversation: Conversation, path: Path) -> bool:
    """Write the conversation if anything except a user's message changed since the last save.

    Returns whether it wrote. Format:
    `{"version":1,"messages":[{"id","message","role","time"}],"initial_prompt","initial_prompt_sent"}`.
    The file has mode 0600; it is written to a temporary file, fsynced and renamed.
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
    temporary = path.with_name(f"{path.name}.tmp")
    with os.fdopen(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        json.dump(state, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    conversation.dirty = False
    return True


def load(conversation: Conversation, path: Path) -> None:
    """Load the saved conversation.

    A missing file is ignored; a malformed one causes an agent_error and an empty start.
    """
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
    except (ValueError, KeyError, TypeError) as exc:
        conversation.error(f"Failed to load state: {exc}", "warning")
        return
    conversation.load(messages)
    conversation.dirty = False
