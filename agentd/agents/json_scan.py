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
from agentd.masking import masked

_T = TypeVar("_T")
Scan: TypeAlias = Generator[None, bytes, _T]
"""A part of the grammar: it is sent chunks and returns what it read."""

SPACE, QUOTE, COMMA, COLON, BACKSLASH = b' ",:\\'
OBJECT, OBJECT_END, LIST, LIST_END = b"{}[]"

_NAME_MAX_BYTES: Final = 256
_SCALAR_MAX_BYTES: Final = 1024
# Each level takes one byte.
_DEPTH_MAX: Final = 1024**2
# A larger chunk is split: a string keeps at most one piece more than its limit.
_PIECE_BYTES: Final = 256 * 1024
# A longer string is squeezed, a part of this size at a time: padding takes 5 ms.
_SQUEEZE_BYTES: Final = 64 * 1024
_BOM: Final = b"\xef\xbb\xbf"

_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_WORD: Final = re.compile(rb"[-+.0-9A-Za-z]*+")
# Characters and whole escapes up to the closing quote: never stops inside an escape.
_INSIDE: Final = re.compile(rb'[^"\\]*+(?:\\(?:[^u]|u[0-9a-fA-F]{4})[^"\\]*+)*+')
_VALID_ESCAPES: Final = re.compile(rb'[^\\]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^\\]*+)*+')
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?")
# What `sanitize.clean_text` removes: NUL, and spaces before a line end. Escaped backslashes are replaced before.
_NUL: Final = re.compile(rb"\\u0000|\x00")
_PADDING: Final = re.compile(rb"(?<! ) ++(?=(?:\\r|\r)*+(?:\\n|\n))")
_END_PADDING: Final = re.compile(rb"(?<! ) ++(?=(?:\\r|\r)*+\Z)")
# The end of a part, of which the next part decides whether it is padding. Reversed, so that the search is linear.
_UNDECIDED: Final = re.compile(rb"(?: |\r|r\\)*+")
_ESCAPED_BACKSLASH: Final = b"\xff\xfe"
# What a truncated string may begin with: the rest of a UTF-8 character, the second half of a surrogate pair.
_BROKEN_HEAD: Final = re.compile(rb"(?:[\x80-\xbf]|\\u[dD][c-fC-F][0-9a-fA-F]{2})*+")


class BodyError(PeerError):
    """A body is not the expected JSON, ends too early or is too large. The message says which, and where."""


class Malformed:
    """The type of `MALFORMED`."""


MALFORMED: Final = Malformed()
"""A number that Python cannot convert, such as one of 5,000 digits."""


class JsonText(NamedTuple):
    """The raw inside of a JSON string, not decoded. `cut`: the string was longer than its limit, and this is its end.

    `is_tight`: it has no padding.
    """

    raw: bytes
    cut: bool = False
    is_tight: bool = False

    @property
    def is_valid(self) -> bool:
        """Whether `decode` works."""
        return BACKSLASH not in self.raw or _VALID_ESCAPES.fullmatch(self.raw) is not None

    def squeezed(self) -> "JsonText":
        """Without padding, which `sanitize.clean_text` removes from the text."""
        return self if self.is_tight else JsonText(_squeezed(self.raw, at_end=True), self.cut, is_tight=True)

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
        while len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
            yield from self._more()
        self._at = len(_BOM) if self._buffer.startswith(_BOM) else 0
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
        return name.decode() if name.is_valid else ""

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

    def skip(self) -> Scan[object]:
        """Skip any value. A scalar is returned; a string, list or object is returned empty."""
        value = yield from self._skip_one()
        if value not in ([], {}):
            return value
        # Not recursive: a body may be nested as deep as it is long.
        open_brackets = bytearray(self._buffer[self._at : self._at + 1])
        is_first = True
        while open_brackets:
            if open_brackets[-1] == OBJECT:
                more = (yield from self.field(first=is_first)) is not None
            else:
                more = yield from self.item(first=is_first)
            is_first = False
            if not more:
                open_brackets.pop()
                continue
            inner = yield from self._skip_one()
            if inner in ([], {}):
                if len(open_brackets) >= _DEPTH_MAX:
                    raise BodyError(f"nested more than {_DEPTH_MAX} deep")
                open_brackets += self._buffer[self._at : self._at + 1]
                is_first = True
        return value

    def _skip_one(self) -> Scan[object]:
        """Skip a scalar or a string. A list or an object is returned empty, with the position at its bracket."""
        first = yield from self.peek()
        if first == QUOTE:
            yield from self.text(0)
            return ""
        if first in (OBJECT, LIST):
            return {} if first == OBJECT else []
        return (yield from self.scalar())

    def scalar(self) -> Scan[object]:
        """A number, true, false or null; `MALFORMED` for a number that is too long."""
        is_long = False
        end = _end(_WORD, self._buffer, self._at)
        while end == len(self._buffer):
            if end - self._at > _SCALAR_MAX_BYTES:
                is_long, self._at = True, end
            yield from self._more()
            end = _end(_WORD, self._buffer, self._at)
        word = self._buffer[self._at : end]
        if is_long or (len(word) > _SCALAR_MAX_BYTES and _NUMBER.fullmatch(word)):
            self._at = end
            return MALFORMED
        try:
            value: object = json.loads(word)
        except ValueError as exc:
            raise self.unexpected("a value") from exc
        self._at = end
        return value

    def text(self, cap: int) -> Scan[JsonText]:
        """A string, from its opening quote. One longer than `cap` bytes is truncated to its end, between characters.

        The padding of a long string is removed, before it is truncated. Memory: twice `cap`, and two pieces.
        """
        self._at += 1
        string = _LongString(cap)
        while True:
            quote = self._masked.find(b'"', self._at)
            end = quote if quote >= 0 else _whole_characters(self._masked, self._at)
            string.add(self._buffer[self._at : end])
            self._at = end
            if quote >= 0:
                break
            yield from self._more()
        self._at += 1
        return string.close()

    def unexpected(self, wanted: str) -> BodyError:
        """The error for what is at this position."""
        place = self.received_bytes - len(self._buffer) + self._at
        start = self._buffer[self._at : self._at + 256].decode("utf-8", "backslashreplace")
        # The body may be a conversation.
        found = masked(start, cut_start=True, cut_end=True)[:40].encode("utf-8", "backslashreplace")
        return BodyError(f"expected {wanted} near byte {place}, found {found!r}")

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


class _LongString:
    """Collects the inside of a string, and keeps its last `cap` bytes. Padding is removed part by part."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._part_bytes = min(cap, _SQUEEZE_BYTES)
        self._received = 0
        self._parts: deque[bytes] = deque()
        self._parts_bytes = 0
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    def add(self, piece: bytes) -> None:
        """`piece` ends between two characters."""
        self._received += len(piece)
        if self._cap == 0:
            return
        self._rest.append(piece)
        self._rest_bytes += len(piece)
        if self._received > self._part_bytes and self._rest_bytes > self._part_bytes:
            text, undecided = _split(_squeezed(b"".join(self._rest), at_end=False))
            if len(undecided) > self._cap:
                undecided = _tail(undecided, self._cap + len(rb"\u0000"))
            self._rest, self._rest_bytes = [undecided], 0
            self._keep(text)

    def close(self) -> JsonText:
        if self._cap == 0:
            return JsonText(b"", cut=self._received > 0)
        rest = b"".join(self._rest)
        if self._received <= self._part_bytes:
            return JsonText(rest)
        self._keep(_squeezed(rest, at_end=True))
        raw = b"".join(self._parts)
        is_cut = len(raw) > self._cap
        return JsonText(_tail(raw, self._cap) if is_cut else raw, is_cut, is_tight=True)

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        self._parts_bytes += len(part)
        # What is left stays longer than the limit, so that `close` cuts between characters.
        while self._parts_bytes - len(self._parts[0]) > self._cap:
            self._parts_bytes -= len(self._parts.popleft())


def _squeezed(raw: bytes, *, at_end: bool) -> bytes:
    """The inside of a JSON string without NUL and without spaces before a line end. `raw` begins between characters.

    `at_end`: the string ends with `raw`, which is a line end too.
    """
    text = raw.replace(b"\xff", b"\xef\xbf\xbd").replace(rb"\\", _ESCAPED_BACKSLASH)
    text = _PADDING.sub(b"", _NUL.sub(b"", text))
    return (_END_PADDING.sub(b"", text) if at_end else text).replace(_ESCAPED_BACKSLASH, rb"\\")


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """`raw` before the spaces and carriage returns at its end, and these."""
    end = len(raw) - _end(_UNDECIDED, raw.replace(rb"\\", _ESCAPED_BACKSLASH)[::-1], 0)
    return raw[:end], raw[end:]


def _tail(raw: bytes, cap: int) -> bytes:
    """The last `cap` bytes or a little less, from the first character that is completely within them."""
    if cap == 0:
        return b""
    start = len(raw) - cap
    begin = _end(_INSIDE, raw, 0, start)
    if begin < start:
        begin += 6 if raw[begin + 1 : begin + 2] == b"u" else 2
    return raw[_end(_BROKEN_HEAD, raw, begin) :]
