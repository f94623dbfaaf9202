"""Which messages a snapshot is made of: the newest, as the user last saw them.  Pure.

AgentAPI's list is not a log. Ids collide, have gaps and start again with the agent; the last message is rewritten on
every screen change and may shrink; after a restart the list is empty, then a start screen. So the newest read always
replaces the window as a whole, with two exceptions that keep a restart from wiping out a conversation:

- a read without a visible character changes nothing;
- a read in which nobody has spoken to the agent yet (no user message, and fewer messages than are kept) is appended
  to a conversation instead of replacing it, until somebody speaks.
"""

from collections.abc import Sequence
from datetime import datetime

from agentd.conversation.message import ROLES, Message
from agentd.conversation.sanitize import FALLBACK_TIME, clean_text, clean_time


class Window:
    """The newest `keep` messages. Starts with `held`; `talked`: those come out of a conversation."""

    def __init__(self, keep: int, held: Sequence[Message] = (), *, talked: bool = False) -> None:
        self._keep = keep
        self._live = tuple(held)[-keep:]
        self._talked = talked or _talked(self._live, keep)
        self._carried: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """Oldest first."""
        room = self._keep - len(self._live)
        return (self._carried[-room:] if room > 0 else ()) + self._live

    def offer(self, read: Sequence[Message]) -> bool:
        """Take in what `GET /messages` gave, oldest first. True when the window is now another one."""
        live = tuple(message for message in read if message.role in ROLES)[-self._keep :]
        if not any(message.content.strip("\0 \t\r\n") for message in live):
            return False
        before = self.messages
        talked = _talked(live, self._keep)
        if talked:
            self._carried = ()
        elif self._talked:
            self._carried = _without_repeat(self._live, live[0])
        self._live, self._talked = live, talked
        return self.messages != before

    def offer_saved(self, saved: Sequence[Message]) -> bool:
        """Take in what a server that is gone had saved, oldest first. True when the window is now another one.

        Only where it says something later than the window: both hold the server's own times, and the last message is
        stamped anew whenever it is rewritten. An earlier life's file, or one whose times cannot be read, gives way.
        """
        if self._live and _said_at(saved) <= _said_at(self._live):
            return False
        return self.offer(saved)

    def update(self, message: Message) -> bool:
        """Take in one `message_update` of `/events`. True when the window is now another one.

        Rewrites the newest message of that id and role, or appends one with a higher id. Anything else is the replay
        of what has left the window, or news that only the next read can place.
        """
        if message.role not in ROLES:
            return False
        for index in range(len(self._live) - 1, -1, -1):
            known = self._live[index]
            if (known.id, known.role) == (message.id, message.role):
                return self.offer((*self._live[:index], message, *self._live[index + 1 :]))
        if self._live and message.id <= self._live[-1].id:
            return False
        return self.offer((*self._live, message))


def _talked(messages: Sequence[Message], keep: int) -> bool:
    return len(messages) >= keep or any(message.role == "user" for message in messages)


def _said_at(messages: Sequence[Message]) -> datetime:
    """When the last of them was said, year 1 where that cannot be told. Times are read as coderd will read them."""
    stamp = next((message.time for message in reversed(messages) if message.role in ROLES), "")
    try:
        return datetime.fromisoformat(clean_time(stamp))
    except ValueError:  # Go knows a year 0, Python does not
        return datetime.fromisoformat(FALLBACK_TIME)


def _without_repeat(carried: tuple[Message, ...], first: Message) -> tuple[Message, ...]:
    """`carried` without a start screen at its end that `first` shows again (after agentd itself was restarted)."""
    if carried and clean_text(carried[-1].content) == clean_text(first.content):
        return carried[:-1]
    return carried
