"""Messages of a conversation, and the newest of very many without holding the rest. Pure.

AgentAPI's `GET /messages` takes no parameters: it is always the whole history, 201 MB for 20,000 messages of 10 kB
(measured), of which a snapshot needs the last ten. `MessageTail` reads such a body as it arrives and keeps only
those. Its memory is bounded by the window: `keep` messages, `CONTENT_MAX_BYTES` each, `WINDOW_MAX_BYTES` together.
"""

from collections import deque
from typing import Final

from agentd.agents.agentapi.json_scan import LIST, OBJECT, QUOTE, JsonMalformed, JsonScan, JsonText, Scan
from agentd.conversation.message import Message, NotAMessageError, parse_message
from agentd.errors import PeerError

__all__ = [
    "CONTENT_MAX_BYTES",
    "BodyCutOff",
    "BodyMalformed",
    "BodyTooLarge",
    "MessageTail",
]

# JSON spells one byte of a snapshot in at most six of the body (`\u0041` for "A"), so the newest 65,536 encoded bytes
# of a message are always within its last 6 x 65,536. A terminal screen (320 kB at the worst) is never cut.
CONTENT_MAX_BYTES: Final = 6 * 65_536
# Whatever `keep` is: a snapshot takes the newest 65,536 bytes of it.
WINDOW_MAX_BYTES: Final = 10 * CONTENT_MAX_BYTES
# Ten times the largest history that was measured; the caller has a deadline besides.
BODY_MAX_BYTES: Final = 2 * 1024**3

_WORD_MAX_BYTES: Final = 256  # of a role or a time; a longer one is neither


class BodyMalformed(PeerError):
    """A `/messages` body is not the JSON it should be."""


class BodyCutOff(PeerError):
    """A `/messages` body ended before its JSON did."""


class BodyTooLarge(PeerError):
    """A `/messages` body went on beyond the cap."""


class MessageTail(JsonScan):
    """Push scanner over the bytes of one `GET /messages` body.

    `{"$schema": …, "messages": [{"id": int, "role": str, "content": str, "time": str}, …]}`: names in any order,
    unknown ones skipped, `null` for an empty list. `feed` every chunk, then `close()` gives the newest `keep`
    messages, oldest first. The result depends on the bytes alone, never on how they were cut into chunks.
    `text` names the field of the content, as for `parse_message`.
    """

    def __init__(self, keep: int, *, text: str = "content", body_max_bytes: int = BODY_MAX_BYTES) -> None:
        self.refused = 0
        """Entries of the list that were no messages."""
        self.refusal = ""
        """Why the last of them was none."""
        self._keep = keep
        self._text = text
        self._fields = {"id", "role", text, "time"}
        self._body_max_bytes = body_max_bytes
        # Only what is kept in the end is ever decoded: until then a message without its text, and the text.
        self._window: deque[tuple[Message, JsonText]] = deque()
        self._window_bytes = 0
        self._listed = False
        super().__init__()

    def feed(self, chunk: bytes) -> None:
        """Read on. Raises `BodyMalformed` or `BodyTooLarge`, after which the tail is spent."""
        if self.received_bytes + len(chunk) > self._body_max_bytes:
            raise BodyTooLarge(f"/messages: body is larger than {self._body_max_bytes} bytes")
        try:
            super().feed(chunk)
        except JsonMalformed as error:
            raise BodyMalformed(f"/messages: {error}") from error

    def close(self) -> list[Message]:
        """The body has ended. The newest messages of it, oldest first. Raises `BodyCutOff` or `BodyMalformed`."""
        if not self.whole:
            raise BodyCutOff(
                f"/messages: body ended after {self.received_bytes} bytes, in the middle of its JSON"
            )
        if not self._listed:
            raise BodyMalformed('/messages: body has no "messages"')
        try:
            return [message._replace(content=text.decode()) for message, text in self._window]
        except JsonMalformed as error:
            raise BodyMalformed(f"/messages: {error}") from error

    def document(self) -> Scan[None]:
        """The body's object."""
        if (yield from self.peek()) != OBJECT:
            raise self.unexpected("an object")
        name = yield from self.field(first=True)
        while name is not None:
            if name == "messages":
                yield from self._messages()
            else:
                yield from self.skip(1)
            name = yield from self.field()

    def _messages(self) -> Scan[None]:
        # A name that stands twice counts where it stands last, as for `json.loads`.
        self._listed = True
        self._window.clear()
        self._window_bytes = 0
        if (yield from self.peek()) != LIST:
            if (yield from self.skip(1)) is not None:
                raise JsonMalformed('"messages" is no list')
            return
        more = yield from self.item(first=True)
        while more:
            if (yield from self.peek()) == OBJECT:
                yield from self._entry()
            else:
                yield from self.skip(2)
                self._refuse("entry is no object")
            more = yield from self.item()

    def _entry(self) -> Scan[None]:
        fields: dict[str, object] = {}
        text = JsonText(b"")
        name = yield from self.field(first=True)
        while name is not None:
            if name not in self._fields:
                yield from self.skip(3)
            elif (yield from self.peek()) != QUOTE:
                fields[name] = yield from self.skip(3)
            elif name == self._text:
                text = yield from self.text(CONTENT_MAX_BYTES)
                fields[name] = ""
            else:
                fields[name] = (yield from self.text(_WORD_MAX_BYTES)).decode()
            name = yield from self.field()
        try:
            self._offer(parse_message(fields, text=self._text), text)
        except NotAMessageError as refusal:
            self._refuse(str(refusal))

    def _offer(self, message: Message, text: JsonText) -> None:
        self._window.append((message, text))
        self._window_bytes += len(text.raw)
        while len(self._window) > self._keep or (
            self._window_bytes > WINDOW_MAX_BYTES and len(self._window) > 1
        ):
            self._window_bytes -= len(self._window.popleft()[1].raw)

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        self.refusal = reason
