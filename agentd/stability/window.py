"""The newest messages as they are now, kept from two sources: whole histories, and updates of single messages.  Pure."""

from collections import deque
from collections.abc import Sequence

from agentd.agents.agentapi.message_update import MessageUpdate
from agentd.conversation.message import Message, NotAMessageError

__all__ = ["LiveWindow"]


class LiveWindow:
    """At most `keep` messages, oldest first.

    Ids are keys only within one life of the server, and not even there beyond doubt (agentapi#205: an old and a new
    message under one id).  So an update may rewrite the last message or come after it; any other is not guessed at.
    """

    def __init__(self, keep: int) -> None:
        self._entries: deque[Message | MessageUpdate] = deque(maxlen=keep)

    def replace(self, entries: Sequence[Message | MessageUpdate]) -> None:
        """A whole history was read; these are the newest of it."""
        self._entries.clear()
        self._entries.extend(entries)

    def update(self, update: MessageUpdate) -> bool:
        """Take an update in.  False when its place is not certain: the history has to be read again."""
        last = self._entries[-1] if self._entries else None
        if last is None or update.id > last.id:
            self._entries.append(update)
            return True
        if (update.id, update.role) == (last.id, last.role):
            self._entries[-1] = update
            return True
        return False

    def messages(self) -> list[Message]:
        """The window, decoded as far as it was not yet; what turns out to be no message is dropped."""
        decoded = []
        for entry in self._entries:
            try:
                decoded.append(entry if isinstance(entry, Message) else entry.message())
            except NotAMessageError:
                continue
        self.replace(decoded)
        return decoded
