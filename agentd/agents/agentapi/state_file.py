"""AgentAPI's own state file: where the conversation is when AgentAPI is gone and nobody read it before.

`{"version":1,"messages":[{"id","message","role","time"}],"initial_prompt":…}`, since 0.12.0, PTY only; written when
AgentAPI stops in order and at SIGUSR1, so it is older than anything that was read from a living server.
"""

import os
import stat
from pathlib import Path
from typing import Final

from agentd.agents.agentapi.messages import BodyCutOff, BodyMalformed, BodyTooLarge, MessageTail
from agentd.conversation.message import Message
from agentd.errors import PeerError

__all__ = ["StateFileUnreadable", "read_state_file"]

_CHUNK_BYTES: Final = 256 * 1024


class StateFileUnreadable(PeerError):
    """There is no such file, it may not be read, or it is not AgentAPI's. The message says which."""


def read_state_file(path: Path, *, keep: int) -> list[Message]:
    """The newest `keep` messages in it, oldest first, in memory for that many.  Blocks on the disk.

    Raises `StateFileUnreadable`.
    """
    tail = MessageTail(keep, text="message")
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StateFileUnreadable(f"state file {path}: not a file")
            while chunk := file.read(_CHUNK_BYTES):
                tail.feed(chunk)
        return tail.close()
    except OSError as error:
        raise StateFileUnreadable(f"state file {path}: {error.strerror or error}") from error
    except (BodyMalformed, BodyCutOff, BodyTooLarge) as error:
        raise StateFileUnreadable(f"state file {path}: not AgentAPI's: {error}") from error


def _without_waiting(path: str, flags: int) -> int:
    # A FIFO or a device at that path must not hold us up.
    return os.open(path, flags | os.O_NONBLOCK)
