"""Incremental JSON parser for one large document of which little is kept. Pure.

Each part of the grammar is a generator that is sent the next chunk where the buffer ends. A reader of one kind of
document (such as `agentapi.messages.MessageTail`) composes them with `yield from` and keeps what it needs. The rest
is skipped, so memory use is one chunk and the longest string that is kept.

Structure is checked as strictly as `json.loads` does; a skipped string is only searched for its end. Bytes are searched
with `find` and regular expressions, never in a Python loop (200 to 500 MB/s; `benchmarks/` has the figures).
"""

import json
import re
from collections import deque
from collections.abc import Generator
from typing import Final, NamedTuple, TypeAlias, TypeVar

from agentd.conversation.message import CUT_MARK
from agentd.errors import PeerError

_T = TypeVar("_T")
Scan: TypeAlias = Generator[None, bytes, _T]
"""A part of the grammar: it is sent chunks and returns what it read."""

SPACE, QUOTE, COMMA, COLON, BACKSLASH = b' ",:\\'
OBJECT, OBJECT_END, LIST, LIST_END = b"{}[]"

_NAME_MAX_BYTES: Final = 256
_SCALAR_MAX_BYTES: Final = 1024
_DEPTH_MAX: Final = 32
# A larger chunk is split: a string keeps at most one piece more than its limit.
_PIECE_BYTES: Final = 256 * 1024

_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_WORD: Final = re.compile(rb"[-+.0-9A-Za-z]*+")
# Characters and whole escapes up to the closing quote: never stops inside an escape.
_INSIDE: Final = re.compile(rb'[^"\\]*+(?:\\(?:[^u]|u[0-9a-fA-F]{4})[^"\\]*+)*+')
# What a truncated string may begin with: the rest of a UTF-8 character, the second half of a surrogate pair.
_BROKEN_HEAD: Final = re.compile(rb"(?:[\x80-\xbf]|\\u[dD][c-fC-F][0-9a-fA-F]{2})*+")


class BodyError(PeerError):
    """A body is not the expected JSON, ends too early or is too large. The message says which, and where."""


class JsonText(NamedTuple):
    """The raw inside of a JSON string, not decoded. `cut`: the string was longer than its limit, and this is its end."""

    raw: bytes
    cut: bool = False

    def decode(self) -> str:
        """The text, with lone surrogates where the body has them. Raises `BodyError` on a bad escape."""
        text = self.raw.decode("utf-8", "replace")
        if BACKSLASH in self.raw:
            try:
                text = json.loads(f'"{text}"', strict=False)
            except ValueError as exc:
                raise BodyError(f"bad escape in a string: {exc}") from exc
        return CUT_MARK + text if self.cut else text


class JsonScan:
    """Push parser: `feed` it chunks. `whole` is true after the end of the document. A subclass defines `document`."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self.whole = False
        self._buffer = b""
        self._masked = b""
        self._at = 0
        self._scan = self._to_the_end()
        next(self._scan)

    def feed(self, chunk: bytes) -> None:
        """Parse the next chunk. Raises `BodyError`; the parser is unusable then."""
        self.received_bytes += len(chunk)
        for start in range(0, len(chunk), _PIECE_BYTES):
            self._scan.send(chunk[start : start + _PIECE_BYTES])

    def document(self) -> Scan[None]:
        """The whole document. A subclass decides here what it keeps."""
        yield from self.skip()

    def _to_the_end(self) -> Scan[None]:
        yield from self.document()
        self.whole = True
        yield from self.peek()
        raise self.unexpected("nothing more")

    # Parts for `document`.

    def peek(self) -> Scan[int]:
        """The next byte that is not white space. It is not consumed."""
        while True:
            if self._at < len(self._buffer) and self._buffer[self._at] > SPACE:
                return self._buffer[self._at]
            self._at = _end(_SPACE, self._buffer, self._at)
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            yield from self._more()

    def field(self, *, first: bool = False) -> Scan[str | None]:
        """Advance to the next value of an object. Returns its name, or None at the end of the object.

        With `first`, the position is at the opening brace, otherwise behind the last value.
        """
        if first:
            self._at += 1
        token = yield from self.peek()
        if token == OBJECT_END:
            self._at += 1
            return None
        if not first:
            if token != COMMA:
                raise self.unexpected("a comma or the end of an object")
            self._at += 1
            token = yield from self.peek()
        if token != QUOTE:
            raise self.unexpected("a field name")
        name = yield from self.text(_NAME_MAX_BYTES)
        if (yield from self.peek()) != COLON:
            raise self.unexpected("a colon")
        self._at += 1
        return name.decode()

    def item(self, *, first: bool = False) -> Scan[bool]:
        """Advance to the next item of a list. False at the end of the list. `first` as for `field`."""
        if first:
            self._at += 1
        token = yield from self.peek()
        if token == LIST_END:
            self._at += 1
            return False
        if not first:
            if token != COMMA:
                raise self.unexpected("a comma or the end of a list")
            self._at += 1
            if (yield from self.peek()) == LIST_END:
                raise self.unexpected("an item")
        return True

    def skip(self, depth: int = 0) -> Scan[object]:
        """Skip any value. A scalar is returned; a string, list or object is returned empty."""
        first = yield from self.peek()
        if first == QUOTE:
            yield from self.text(0)
            return ""
        if first not in (OBJECT, LIST):
            return (yield from self.scalar())
        if depth >= _DEPTH_MAX:
            raise BodyError(f"nested more than {_DEPTH_MAX} deep")
        if first == LIST:
            more = yield from self.item(first=True)
            while more:
                yield from self.skip(depth + 1)
                more = yield from self.item()
            return []
        name = yield from self.field(first=True)
        while name is not None:
            yield from self.skip(depth + 1)
            name = yield from self.field()
        return {}

    def scalar(self) -> Scan[object]:
        """A number, true, false or null."""
        end = _end(_WORD, self._buffer, self._at)
        while end == len(self._buffer) and end - self._at <= _SCALAR_MAX_BYTES:
            yield from self._more()
            end = _end(_WORD, self._buffer, self._at)
        if end - self._at > _SCALAR_MAX_BYTES:
            raise self.unexpected("a shorter number")
        try:
            value: object = json.loads(self._buffer[self._at : end])
        except ValueError as exc:
            raise self.unexpected("a value") from exc
        self._at = end
        return value

    def text(self, cap: int) -> Scan[JsonText]:
        """A string, from its opening quote. One longer than `cap` bytes is truncated to its end, between characters."""
        self._at += 1
        pieces: deque[bytes] = deque()
        kept = 0
        while True:
            quote = self._masked.find(b'"', self._at)
            end = quote if quote >= 0 else _whole_characters(self._masked, self._at)
            pieces.append(self._buffer[self._at : end])
            kept += end - self._at
            # Only whole pieces are dropped: a piece begins between characters, its middle may be inside an escape.
            while kept - len(pieces[0]) > cap:
                kept -= len(pieces.popleft())
            self._at = end
            if quote >= 0:
                break
            yield from self._more()
        self._at += 1
        raw = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return JsonText(raw) if kept <= cap else JsonText(_tail(raw, cap), cut=True)

    def unexpected(self, wanted: str) -> BodyError:
        """The error for what is at this position."""
        place = self.received_bytes - len(self._buffer) + self._at
        return BodyError(f"expected {wanted} near byte {place}, found {self._buffer[self._at :][:40]!r}")

    def _more(self) -> Scan[None]:
        chunk = yield
        self._buffer = self._buffer[self._at :] + chunk
        self._masked = _masked(self._buffer)
        self._at = 0


def _end(pattern: re.Pattern[bytes], buffer: bytes, at: int, stop: int | None = None) -> int:
    """The end of the match of a pattern that matches the empty string as well."""
    match = pattern.match(buffer, at) if stop is None else pattern.match(buffer, at, stop)
    return match.end() if match else at


def _masked(buffer: bytes) -> bytes:
    """`buffer` with escaped backslashes and quotes masked: each quote left delimits a string, each backslash left begins
    another escape.

    A run of backslashes begins between two characters, so its pairs, from the left, are escaped backslashes. A
    backslash that is left before a quote escapes it. Two calls of `replace` are faster than a Python loop.
    """
    return buffer.replace(rb"\\", b"__").replace(rb"\"", b"__")


def _whole_characters(masked: bytes, at: int) -> int:
    """The end of the complete characters of a string that continues in the next chunk: an escape may be incomplete."""
    end = len(masked)
    escape = masked.rfind(b"\\", max(at, end - 5))
    if escape < 0:
        return end
    size = 6 if masked[escape + 1 : escape + 2] in (b"", b"u") else 2
    return escape if escape + size > end else end


def _tail(raw: bytes, cap: int) -> bytes:
    """The last `cap` bytes or a little less, from the first character that is completely within them."""
    if cap == 0:
        return b""
    start = len(raw) - cap
    begin = _end(_INSIDE, raw, 0, start)
    if begin < start:
        begin += 6 if raw[begin + 1 : begin + 2] == b"u" else 2
    return raw[_end(_BROKEN_HEAD, raw, begin) :]
