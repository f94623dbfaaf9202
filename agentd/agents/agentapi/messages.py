"""The newest messages of a `/messages` body, without holding the rest of it in memory. Pure.

AgentAPI's `GET /messages` has no parameters and always returns the whole history: 201 MB for 20,000 messages of 10 kB
(measured), of which a snapshot needs the last ten. `MessageTail` parses such a body as it arrives and keeps only
those. Its memory is bounded: `keep` messages, `CONTENT_MAX_BYTES` each, `WINDOW_MAX_BYTES` together.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from agentd.agents.json_scan import LIST, MALFORMED, OBJECT, QUOTE, BodyError, JsonScan, JsonText, Scan
from agentd.conversation.message import Message, NotAMessageError, parse_message

# One byte of a snapshot takes at most six bytes in the body (`\u0041` for "A"), so the newest 65,536 encoded bytes of a
# message are always within its last 6 x 65,536, without the padding of its lines.
CONTENT_MAX_BYTES: Final = 6 * 65_536
# Independent of `keep`: a snapshot takes the newest 65,536 bytes of the window.
WINDOW_MAX_BYTES: Final = 10 * CONTENT_MAX_BYTES
# Ten times the largest history that was measured. The caller has a deadline as well.
BODY_MAX_BYTES: Final = 2 * 1024**3

_WORD_MAX_BYTES: Final = 256  # of a role or a time


class MessageScan(JsonScan):
    """Reads single messages. `text` names the field of the content, as for `parse_message`."""

    def __init__(self, *, text: str) -> None:
        self._text = text
        self._fields = {"id", "role", text, "time"}
        super().__init__()

    def entry(self) -> Scan[tuple[Message, JsonText]]:
        """The object at this position. The message has no text yet. Raises `NotAMessageError` at the object's end."""
        fields: dict[str, object] = {}
        text = JsonText(b"")
        name = yield from self.field(first=True)
        while name is not None:
            if name not in self._fields:
                yield from self.skip()
            elif (yield from self.peek()) != QUOTE:
                fields[name] = yield from self.skip()
            elif name == self._text:
                text = yield from self.text(CONTENT_MAX_BYTES)
                fields[name] = "" if text.is_valid else MALFORMED
            else:
                word = yield from self.text(_WORD_MAX_BYTES)
                fields[name] = word.decode() if word.is_valid else MALFORMED
            name = yield from self.field()
        return parse_message(fields, text=self._text), text


class UpdateScan(MessageScan):
    """Push parser for the data of one `message_update`. `feed` and `close` raise `NotAMessageError` or `BodyError`."""

    def __init__(self) -> None:
        self._read: tuple[Message, JsonText] | None = None
        super().__init__(text="message")

    def document(self) -> Scan[None]:
        if (yield from self.peek()) != OBJECT:
            raise self.unexpected("an object")
        self._read = yield from self.entry()

    def close(self) -> Message:
        if self._read is None or not self.whole:
            raise BodyError("an update ends before the end of its JSON")
        message, text = self._read
        return message._replace(content=text.decode())


class MessageTail(MessageScan):
    """Push parser for one `GET /messages` body.

    `{"$schema": …, "messages": [{"id": int, "role": str, "content": str, "time": str}, …]}`: fields in any order,
    unknown ones skipped, `null` for an empty list. `feed` it every chunk; `close()` then returns the newest `keep`
    messages, oldest first. The result does not depend on how the body was split into chunks.
    An entry that is not a message is left out and counted, whatever its values are.
    """

    def __init__(self, keep: int, *, text: str = "content") -> None:
        self._keep = keep
        # Only the messages that are kept in the end are decoded; until then a message has no text, and the raw text beside it.
        self._window: deque[tuple[Message, JsonText]] = deque()
        self._window_bytes = 0
        self._listed = False
        self.skipped = 0
        """Entries that are not messages."""
        self.skipped_because = ""
        """Why the last of them is none."""
        super().__init__(text=text)

    def feed(self, chunk: bytes) -> None:
        """Parse the next chunk. Raises `BodyError`; the parser is unusable then."""
        if self.received_bytes + len(chunk) > BODY_MAX_BYTES:
            raise BodyError(f"larger than {BODY_MAX_BYTES} bytes")
        super().feed(chunk)

    def close(self) -> list[Message]:
        """End the body. Returns its newest messages, oldest first. Raises `BodyError`."""
        return list(self.messages())

    def messages(self) -> Iterator[Message]:
        """The same, one by one: to decode the largest takes 2 ms."""
        if not self.whole:
            raise BodyError(f"the body ended after {self.received_bytes} bytes, before the end of its JSON")
        if not self._listed:
            raise BodyError('the body has no "messages"')
        for message, text in self._window:
            yield message._replace(content=text.decode())

    def document(self) -> Scan[None]:
        """The body's object."""
        if (yield from self.peek()) != OBJECT:
            raise self.unexpected("an object")
        name = yield from self.field(first=True)
        while name is not None:
            if name == "messages":
                yield from self._messages()
            else:
                yield from self.skip()
            name = yield from self.field()

    def _skip(self, exc: NotAMessageError) -> None:
        self.skipped += 1
        self.skipped_because = str(exc)

    def _messages(self) -> Scan[None]:
        # Of a field that appears twice, the last one counts, as for `json.loads`.
        self._listed = True
        self._window.clear()
        self._window_bytes = 0
        if (yield from self.peek()) != LIST:
            if (yield from self.skip()) is not None:
                raise BodyError('"messages" is not a list')
            return
        more = yield from self.item(first=True)
        while more:
            if (yield from self.peek()) == OBJECT:
                yield from self._entry()
            else:
                yield from self.skip()
                self._skip(NotAMessageError("an entry is not an object"))
            more = yield from self.item()

    def _entry(self) -> Scan[None]:
        try:
            message, text = yield from self.entry()
        except NotAMessageError as exc:
            self._skip(exc)
            return
        self._window.append((message, text))
        self._window_bytes += len(text.raw)
        if self._window_bytes > WINDOW_MAX_BYTES:
            # Padding must not displace a message.
            self._window = deque((one, raw.squeezed()) for one, raw in self._window)
            self._window_bytes = sum(len(raw.raw) for _, raw in self._window)
        while len(self._window) > self._keep or (
            self._window_bytes > WINDOW_MAX_BYTES and len(self._window) > 1
        ):
            self._window_bytes -= len(self._window.popleft()[1].raw)
