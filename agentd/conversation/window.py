"""The newest messages of a conversation, as the user last saw them. Pure.

AgentAPI's list is not a log. Ids collide, have gaps and start again with the agent; the last message is rewritten on
every screen change and may shrink; after a restart the list is empty, then a start screen. So each read replaces the
window as a whole, with two exceptions, so that a restart does not erase the conversation:

- a read without a visible character changes nothing;
- a read without a user message, with fewer messages than are kept, is appended to an earlier conversation instead of
  replacing it, until a user message appears.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from agentd.conversation.message import ROLES, Message, NotAMessageError
from agentd.conversation.sanitize import FALLBACK_TIME, clean_text, clean_time


class UndecodedMessage(NamedTuple):
    """A message as an event announced it. `decode` parses it; it raises `NotAMessageError` when it is none."""

    id: int
    role: str
    decode: Callable[[], Message]


class Window:
    """The newest `keep` messages, from whole reads and from updates of single messages.

    `live` is what the agent shows now, `messages` what a snapshot is made of. The window starts with `held`, messages
    of an earlier run; `talked`: they are part of a real conversation, although none of them may be the user's.
    """

    def __init__(self, keep: int, held: Sequence[Message] = (), *, talked: bool = False) -> None:
        self._keep = keep
        self._live = tuple(held)[-keep:]
        self._shown = self._live
        self._talked = talked or _is_talk(self._live, keep)
        self._carried: tuple[Message, ...] = ()
        self._update: UndecodedMessage | None = None

    @property
    def live(self) -> tuple[Message, ...]:
        """What the agent shows now, oldest first."""
        self._apply_update()
        return self._live

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation, oldest first: what the agent shows, behind what is left of an earlier conversation."""
        self._apply_update()
        space = self._keep - len(self._shown)
        return (self._carried[-space:] if space > 0 else ()) + self._shown

    def replace(self, read: Sequence[Message]) -> bool:
        """Take in the result of a read, oldest first. True when `messages` changed."""
        before = self.messages
        self._live = tuple(message for message in read if message.role in ROLES)[-self._keep :]
        self._retain()
        return self.messages != before

    def merge_saved(self, saved: Sequence[Message]) -> bool:
        """Take in what an agent that is gone saved to disk, oldest first. True when `messages` changed.

        It counts only if its last message is later than the window's: both have the agent's own times, and the last
        message gets a new time whenever it is rewritten. A file of an earlier life, or one without readable times,
        changes nothing.
        """
        if self._shown and _last_message_time(saved) <= _last_message_time(self._shown):
            return False
        return self.replace(saved)

    def update(self, update: UndecodedMessage) -> bool:
        """Take in one announced message. False when its place is unknown: the messages must be read again.

        Ids identify a message only within one life of the agent, and not even there beyond doubt (agentapi#205: an old
        and a new message with one id). So an update rewrites the last message, or is appended behind it.
        It is decoded when the window is read: a screen that streams sends 25 updates a second.
        """
        last = self._update or (self._live[-1] if self._live else None)
        if last is not None and update.id <= last.id and (update.id, update.role) != (last.id, last.role):
            return False
        if self._update is not None and self._update.id != update.id:
            self._apply_update()
        self._update = update
        return True

    def _apply_update(self) -> None:
        update, self._update = self._update, None
        if update is None:
            return
        try:
            message = update.decode()
        except NotAMessageError:
            return
        last = self._live[-1] if self._live else None
        is_rewrite = last is not None and (last.id, last.role) == (message.id, message.role)
        self._live = (*(self._live[:-1] if is_rewrite else self._live), message)[-self._keep :]
        self._retain()

    def _retain(self) -> None:
        """Derive the conversation from what the agent shows."""
        live = self._live
        if not any(message.content.strip("\0 \t\r\n") for message in live):
            return
        is_talk = _is_talk(live, self._keep)
        if is_talk:
            self._carried = ()
        elif self._talked:
            self._carried = _without_repeat(self._shown, live[0])
        self._shown, self._talked = live, is_talk


def _is_talk(messages: Sequence[Message], keep: int) -> bool:
    """Whether these are a conversation, and not only the start screen of an agent."""
    return len(messages) >= keep or any(message.role == "user" for message in messages)


def _last_message_time(messages: Sequence[Message]) -> datetime:
    """The time of the last message, year 1 where it is unreadable. Times are read as coderd will read them."""
    stamp = next((message.time for message in reversed(messages) if message.role in ROLES), "")
    try:
        return datetime.fromisoformat(clean_time(stamp))
    except ValueError:  # Go has a year 0, Python does not
        return datetime.fromisoformat(FALLBACK_TIME)


def _without_repeat(carried: tuple[Message, ...], first: Message) -> tuple[Message, ...]:
    """`carried` without a start screen at its end that `first` repeats (after agentd itself was restarted)."""
    if carried and clean_text(carried[-1].content) == clean_text(first.content):
        return carried[:-1]
    return carried
