"""Decodes server-sent events by the WHATWG rules, independent of the chunking, in bounded memory.

The field decoder is that of httpx-sse: it handles fields, NUL in ids, the space after the colon and the state
between events by the rules. This module adds what the library does not do:

- A line ends at CR at once. The library waits for the next byte, so the last event of a CR stream would be
  late.
- One BOM is removed, and the text is UTF-8 for any charset of the response.
- `retry` accepts digits only. The library's `int()` also accepts "-5" and "1_000".
- An event without data is not an event. The last event id is committed at the blank line.
- Everything that can grow has a limit.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from agentd.errors import PeerError

if TYPE_CHECKING:
    from httpx_sse import ServerSentEvent

LINE_MAX_BYTES: Final = 64 * 1024
EVENT_MAX_BYTES: Final = 64 * 1024
NOISE_MAX_BYTES: Final = 1024 * 1024
"""Limit of bytes without an event. A keepalive comment every second takes days to reach it."""
RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 60.0

_EOL: Final = re.compile(rb"\r\n|\r|\n")
_BOM: Final = b"\xef\xbb\xbf"


class StreamTooLargeError(PeerError):
    """The stream exceeds a size limit and cannot be read on: the start of its next event is unknown."""


class LineTooLongError(StreamTooLargeError, label="LineTooLong"):
    """A line exceeds the limit, whether it has ended or not. A comment is a line too."""


class EventTooLargeError(StreamTooLargeError, label="EventTooLarge"):
    """The lines of one event, including comments, exceed the limit."""


class NoiseFloodError(StreamTooLargeError, label="NoiseFlood"):
    """`NOISE_MAX_BYTES` arrived without an event or a heartbeat."""


class Heartbeat(NamedTuple):
    """An event name without data. By the standard this is not an event. coderd's `ping` is a heartbeat."""

    event: str


StreamItem: TypeAlias = "ServerSentEvent | Heartbeat"


class EventDecoder:
    """Push decoder for one connection: `feed` takes bytes and returns events.

    `last_event_id` is the id that the last blank line committed; it is sent at the next connection. `retry_s`
    is the reconnection time that the server asked for, clamped to `RETRY_MIN_S`..`RETRY_MAX_S`, or None. An
    event that is unfinished at the end of the stream is dropped, including its id.

    `event_max_bytes` allows larger events than those of the claim stream, and lines of the same size.
    """

    def __init__(
        self, *, last_event_id: str = "", retry_s: float | None = None, event_max_bytes: int = EVENT_MAX_BYTES
    ) -> None:
        # Not exported by the package, hence the upper bound on its version in pyproject.toml.
        from httpx_sse._decoders import SSEDecoder  # noqa: PLC0415 - imports httpx, which loads late

        self.last_event_id = last_event_id
        self.retry_s = retry_s
        self._event_max_bytes = event_max_bytes
        self._line_max_bytes = max(LINE_MAX_BYTES, event_max_bytes)
        self._fields = SSEDecoder()
        # The standard starts each connection with an empty id buffer. Browsers and this decoder keep the last
        # id: otherwise the first event without an id after a reconnection would clear it.
        self._fields.decode(f"id: {last_event_id}")
        self._line = bytearray()
        self._at_start = True
        self._after_cr = False
        self._event_name = ""
        self._has_data = False
        self._has_field = False
        self._block_bytes = 0
        self._noise_bytes = 0

    @property
    def unfinished(self) -> bool:
        """True if a line or an event has started and not ended."""
        return bool(self._line) or self._has_field

    def feed(self, chunk: bytes) -> Iterator[StreamItem]:
        """Yield the events that `chunk` completes. Consume them all before the next call.

        Raises a `StreamTooLargeError` after the events before the excess.
        """
        for line in self._lines(chunk):
            self._block_bytes += len(line) + 1
            if self._block_bytes > self._event_max_bytes:
                raise EventTooLargeError(
                    f"an event of the stream is larger than {self._event_max_bytes} bytes"
                )
            if line:
                self._field(line.decode("utf-8", "replace"))
            else:
                yield from self._dispatch()

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if not chunk:
            return
        start = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        self._after_cr = chunk.endswith(b"\r")
        for eol in _EOL.finditer(chunk, start):
            self._grow(chunk[start : eol.start()])
            line, start = bytes(self._line), eol.end()
            self._line.clear()
            if self._at_start:
                self._at_start, line = False, line.removeprefix(_BOM)
            yield line
        self._grow(chunk[start:])

    def _grow(self, piece: bytes) -> None:
        if len(self._line) + len(piece) > self._line_max_bytes:
            raise LineTooLongError(f"a line of the stream is longer than {self._line_max_bytes} bytes")
        self._line += piece

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        if not name:
            return  # a comment
        self._has_field = True
        value = value.removeprefix(" ")
        if name == "retry":
            self._retry(value)
            return
        if name == "data":
            self._has_data = True
        elif name == "event":
            self._event_name = value
        self._fields.decode(line)

    def _retry(self, digits: str) -> None:
        if digits.isascii() and digits.isdigit():
            # Ten digits exceed the maximum, and int() raises an error for more than 4,300.
            wanted_s = int(digits) / 1000 if len(digits) < 10 else RETRY_MAX_S
            self.retry_s = min(max(wanted_s, RETRY_MIN_S), RETRY_MAX_S)

    def _dispatch(self) -> Iterator[StreamItem]:
        event = self._fields.decode("")
        # The library returns None only if there is no data, no type and no id, so the id buffer is empty.
        self.last_event_id = event.id if event is not None else ""
        name, has_data = self._event_name, self._has_data
        self._noise_bytes += self._block_bytes
        self._event_name, self._has_data, self._has_field, self._block_bytes = "", False, False, 0
        if has_data and event is not None:
            self._noise_bytes = 0
            yield event
        elif name:
            self._noise_bytes = 0
            yield Heartbeat(name)
        elif self._noise_bytes > NOISE_MAX_BYTES:
            raise NoiseFloodError(f"the stream sent {NOISE_MAX_BYTES} bytes without an event")
