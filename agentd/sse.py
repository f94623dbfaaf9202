"""Bytes of a server-sent event stream -> events, by the WHATWG rules, whatever the chunking, in bounded memory.

httpx-sse's field decoder is right about fields, NUL in ids, the space after the colon and what a block keeps for the
next one, so it is used as it is. What stands around it here is what the library does not do: ends a line at CR at once
(its own waits for the next byte, so the last event of a CR stream comes late by one), strips one BOM, decodes as UTF-8
whatever the charset says, reads `retry` as digits only (its `int()` takes "-5" and "1_000"), emits nothing for a block
without data, commits the last event id at the blank line, and has a limit for everything that may grow.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from agentd.errors import PeerError

if TYPE_CHECKING:
    from httpx_sse import ServerSentEvent

LINE_MAX_BYTES = 64 * 1024
EVENT_MAX_BYTES = 64 * 1024
# Bytes that come to nothing (comments, unknown fields). A keepalive comment every second stays below it for days.
NOISE_MAX_BYTES = 1024 * 1024
RETRY_MIN_S = 0.1
RETRY_MAX_S = 60.0

_EOL = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


class StreamTooLargeError(PeerError):
    """The stream exceeds a size limit. It cannot be read any further, because the start of its next event is unknown."""

    label: ClassVar[str]
    """Stable name of the class: a value of the label `end` of the metric `agentd_claim_connections_total`."""


class LineTooLongError(StreamTooLargeError):
    """A line exceeds the limit, whether it has ended or not. A comment is a line too."""

    label = "LineTooLong"


class EventTooLargeError(StreamTooLargeError):
    """The lines of one event, including comments, exceed the limit."""

    label = "EventTooLarge"


class NoiseFloodError(StreamTooLargeError):
    """`NOISE_MAX_BYTES` arrived without an event or a heartbeat."""

    label = "NoiseFlood"


class Heartbeat(NamedTuple):
    """A block that names an event but has no data. By the standard it is no event; coderd's `ping` is one of these."""

    event: str


StreamItem: TypeAlias = "ServerSentEvent | Heartbeat"


class EventDecoder:
    """Push decoder for one connection: `feed` bytes, get events.

    `last_event_id` is the id committed by the last blank line, to be sent when reconnecting; `retry_s` what the server
    asked for (clamped to `RETRY_MIN_S`..`RETRY_MAX_S`), or None. What stands unfinished at the end of the stream is
    dropped with the decoder, its id included.

    `event_max_bytes` is for a stream whose events are larger than the claim stream's; its lines may be as long.
    """

    def __init__(
        self,
        *,
        last_event_id: str = "",
        retry_s: float | None = None,
        event_max_bytes: int = EVENT_MAX_BYTES,
    ) -> None:
        # Not exported by the package, hence the upper bound on its version in pyproject.toml.
        from httpx_sse._decoders import SSEDecoder  # noqa: PLC0415 - brings httpx, which the daemon loads late

        self.last_event_id = last_event_id
        self.retry_s = retry_s
        self._event_max_bytes = event_max_bytes
        self._line_max_bytes = max(LINE_MAX_BYTES, event_max_bytes)
        self._fields = SSEDecoder()
        # The standard starts each connection with an empty id buffer; browsers carry the last id over, and so do we,
        # or the first id-less event after a reconnect would throw away where we were.
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
        """Whether a line or a block has begun and not ended: the peer owes us bytes."""
        return bool(self._line) or self._has_field

    def feed(self, chunk: bytes) -> Iterator[StreamItem]:
        """The events that `chunk` completes. Exhaust it before the next call.

        Raises `LineTooLongError`, `EventTooLargeError` or `NoiseFloodError`, after the events that came before the excess.
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
            # Nobody needs ten digits, and int() refuses 4,300 of them.
            wanted_s = int(digits) / 1000 if len(digits) < 10 else RETRY_MAX_S
            self.retry_s = min(max(wanted_s, RETRY_MIN_S), RETRY_MAX_S)

    def _dispatch(self) -> Iterator[StreamItem]:
        event = self._fields.decode("")
        # The library answers None only when there is neither data nor type nor id: the id buffer is empty then.
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
            raise NoiseFloodError(f"the stream sent {NOISE_MAX_BYTES} bytes without an event among them")
