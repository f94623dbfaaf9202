"""The newest messages of a `/messages` body, without holding the rest of it in memory. Pure.

AgentAPI's `GET /messages` has no parameters and always returns the whole history: 201 MB for 20,000 messages of 10 kB
(measured), of which a snapshot needs the last ten. `MessageTail` parses such a body as it arrives and keeps only
those. Its memory is bounded: `keep` messages, `CONTENT_MAX_BYTES` each, `WINDOW_MAX_BYTES` together.
"""

from collections import deque
from typing import Final

from agentd.agents.agentapi.json_scan import LIST, OBJECT, QUOTE, JsonMalformedError, JsonScan, JsonText, Scan
from agentd.conversation.message import Message, NotAMessageError, parse_message
from agentd.errors import PeerError

# One byte of a snapshot takes at most six bytes in the body (`\u0041` for "A"), so the newest 65,536 encoded bytes of a
# message are always within its last 6 x 65,536. A terminal screen (320 kB at the worst) is never truncated.
CONTENT_MAX_BYTES: Final = 6 * 65_536
# Independent of `keep`: a snapshot takes the newest 65,536 bytes of the window.
WINDOW_MAX_BYTES: Final = 10 * CONTENT_MAX_BYTES
# Ten times the largest history that was measured. The caller has a deadline as well.
BODY_MAX_BYTES: Final = 2 * 1024**3

_WORD_MAX_BYTES: Final = 256  # of a role or a time


class BodyMalformedError(PeerError):
    """A `/messages` body is not the expected JSON."""


class BodyCutOffError(PeerError):
    """A `/messages` body ended before its JSON did."""


class BodyTooLargeError(PeerError):
    """A `/messages` body is larger than the limit."""


class MessageTail(JsonScan):
    """Push parser for one `GET /messages` body.

    `{"$schema": …, "messages": [{"id": int, "role": str, "content": str, "time": str}, …]}`: fields in any order,
    unknown ones skipped, `null` for an empty list. `feed` it every chunk; `close()` then returns the newest `keep`
    messages, oldest first. The result does not depend on how the body was split into chunks.
    `text` names the field of the content, as for `parse_message`.
    """

    def __init__(self, keep: int, *, text: str = "content", body_max_bytes: int = BODY_MAX_BYTES) -> None:
        self.refused = 0
        """Number of entries that are not messages."""
        self.refusal = ""
        """The reason for the last of them."""
        self._keep = keep
        self._text = text
        self._fields = {"id", "role", text, "time"}
        self._body_max_bytes = body_max_bytes
        # Only the messages that are kept in the end are decoded; until then a message has no text, and the raw text beside it.
        self._window: deque[tuple[Message, JsonText]] = deque()
        self._window_bytes = 0
        self._listed = False
        super().__init__()

    def feed(self, chunk: bytes) -> None:
        """Parse the next chunk. Raises `BodyMalformedError` or `BodyTooLargeError`; the parser is unusable then."""
        if self.received_bytes + len(chunk) > self._body_max_bytes:
            raise BodyTooLargeError(f"/messages: body is larger than {self._body_max_bytes} bytes")
        try:
            super().feed(chunk)
        except JsonMalformedError as exc:
            raise BodyMalformedError(f"/messages: {exc}") from exc

    def close(self) -> list[Message]:
        """End the body. Returns its newest messages, oldest first. Raises `BodyCutOffError` or `BodyMalformedError`."""
        if not self.whole:
            raise BodyCutOffError(
                f"/messages: body ended after {self.received_bytes} bytes, before the end of its JSON"
            )
        if not self._listed:
            raise BodyMalformedError('/messages: body has no "messages"')
        try:
            return [message._replace(content=text.decode()) for message, text in self._window]
        except JsonMalformedError as exc:
            raise BodyMalformedError(f"/messages: {exc}") from exc

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
        # Of a field that appears twice, the last one counts, as for `json.loads`.
        self._listed = True
        self._window.clear()
        self._window_bytes = 0
        if (yield from self.peek()) != LIST:
            if (yield from self.skip(1)) is not None:
                raise JsonMalformedError('"messages" is not a list')
            return
        more = yield from self.item(first=True)
        while more:
            if (yield from self.peek()) == OBJECT:
                yield from self._entry()
            else:
                yield from self.skip(2)
                self._refuse("entry is not an object")
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
        except NotAMessageError as exc:
            self._refuse(str(exc))

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
