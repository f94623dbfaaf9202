"""Read AgentAPI's own state file: the last source of the conversation when the server is gone.

`{"version":1,"messages":[{"id","message","role","time"}],"initial_prompt":…}`, since 0.12.0, PTY only. AgentAPI writes
it at an orderly stop and at SIGUSR1, so an earlier file is older than any read from the running server.
"""

import os
import stat
from pathlib import Path
from typing import Final

from agentd.agents.agentapi.messages import MessageTail
from agentd.agents.json_scan import BodyError
from agentd.conversation.message import Message
from agentd.errors import PeerError

_CHUNK_BYTES: Final = 256 * 1024


class StateFileError(PeerError):
    """The file is missing, unreadable or not AgentAPI's. The message says which."""


def read_state_file(path: Path, *, keep: int) -> list[Message]:
    """The newest `keep` messages of the file, oldest first. Memory use depends on `keep`. Blocks on the disk.

    Raises `StateFileError`.
    """
    tail = MessageTail(keep, text="message")
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StateFileError(f"state file {path}: not a file")
            while chunk := file.read(_CHUNK_BYTES):
                tail.feed(chunk)
        return tail.close()
    except OSError as exc:
        raise StateFileError(f"state file {path}: {exc.strerror or exc}") from exc
    except BodyError as exc:
        raise StateFileError(f"state file {path}: not AgentAPI's: {exc}") from exc


def _without_waiting(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a FIFO at that path would block.
    return os.open(path, flags | os.O_NONBLOCK)
