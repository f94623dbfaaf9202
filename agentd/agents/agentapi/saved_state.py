"""AgentAPI's own state file as the last source of a conversation, when the server no longer answers.

AgentAPI writes it before it closes its listener, so whoever finds the port refused finds the file final. What it says
counts only where it is later than what was read from the living server (`snapshots.window`).
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agentd import log
from agentd.agents.agentapi.state_file import StateFileUnreadable, read_state_file
from agentd.conversation.message import Message

READ_TIMEOUT_S: Final = 2.0
"""200 MB take half a second; a network file system that hangs must not hold up a stop."""


class SavedState:
    """The file at `path`, None where nobody named one. `offer` takes what it holds and says whether that was news."""

    def __init__(self, path: Path | None, *, keep: int, offer: Callable[[Sequence[Message]], bool]) -> None:
        self._path = path
        self._keep = keep
        self._offer = offer
        self._said = ""
        self._log = log.get("snapshots")

    async def recall(self) -> bool:
        """Read the file; True when it held something later than what is known. Never raises for what the file is."""
        if self._path is None:
            return False
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                messages = await asyncio.to_thread(read_state_file, self._path, keep=self._keep)
        except (StateFileUnreadable, TimeoutError) as error:
            reason = str(error) or f"not read within {READ_TIMEOUT_S:g} s"
            if reason != self._said:
                self._log.warning("agent.state_file_unreadable", path=str(self._path), reason=reason)
            self._said = reason
            return False
        self._said = ""
        is_news = self._offer(messages)
        if is_news:
            self._log.info("agent.state_file_read", path=str(self._path), messages=len(messages))
        return is_news
