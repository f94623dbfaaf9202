"""Proves that AgentAPI's messages are those of the last read, without another read. Pure.

AgentAPI has no cheap request for this: no HEAD, no ETag, no part of the list. The event stream proves nothing either,
because its events may arrive late. But in a terminal `/status` is "stable" only if the screen has not changed for 2.0 s
(81 equal samples, 25 ms apart) and the newest message is not the user's. So:

    The list was read at some time after its request was sent, P. "stable" is answered to a later request before
    P + 1.8 s. The 2.0 s of that answer reach back beyond P, so nothing has changed since then: the list is still the
    one that was read when this answer was made, which was after the sending of its request. That is the next P.

Unbroken answers "stable" less than 1.8 s apart therefore keep the proof, and it does not depend on any event. The answers
during a long read count: they show that nothing has changed since its request was sent. In ACP mode a turn can be shorter
than any poll, so there is no proof.
"""

from collections.abc import Sequence
from typing import Final

from agentd.conversation.message import Message

GAP_MAX_S: Final = 1.8
"""Less than the shortest "running" after a change: 1.99 s, measured with v0.10.0 to v0.12.1."""


class UnchangedMessages:
    """The messages of the last read, while they are proven to be the newest. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.messages: Sequence[Message] = ()
        self._keep = 0
        self._proven_at: float | None = None
        self._reading_since: float | None = None

    @property
    def is_proven(self) -> bool:
        """Whether nothing has changed, as far as the answers so far show."""
        return self._proven_at is not None

    def is_proven_for(self, at: float, *, keep: int) -> bool:
        """Whether `messages` has the newest `keep` messages that AgentAPI had at `at` or later."""
        return self._proven_at is not None and self._proven_at >= at and keep <= self._keep

    def on_sent(self, at: float) -> None:
        """`GET /messages` is sent. Its answer may take long, so the proof begins now."""
        self.messages, self._keep = (), 0
        self._proven_at = self._reading_since = at

    def on_read(self, messages: Sequence[Message], *, keep: int, sent_at: float) -> None:
        """`GET /messages`, sent at `sent_at`, has answered with these, the newest `keep`."""
        is_continued = self._reading_since is not None and sent_at >= self._reading_since
        self.messages, self._keep = messages, keep
        if self._proven_at is None or not is_continued:
            self._proven_at = sent_at

    def on_stable(self, *, sent_at: float, answered_at: float) -> None:
        """`GET /status` has answered "stable"."""
        if self._proven_at is None or sent_at < self._proven_at:
            return  # it may have been answered before the list was read
        if answered_at - self._proven_at < GAP_MAX_S:
            self._proven_at = sent_at
        else:
            self.on_doubt()

    def on_doubt(self) -> None:
        """Something may have changed."""
        self.messages, self._keep, self._proven_at, self._reading_since = (), 0, None, None
