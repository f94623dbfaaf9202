"""JSON and timestamps as Go's encoding/json writes and reads them.

Encoding, as `json.Encoder`: compact, one newline at the end. coderd escapes `<`, `>` and `&` (SetEscapeHTML),
AgentAPI does not; both escape U+2028 and U+2029.
Decoding, as `json.Decoder`: reads the first value and ignores the rest, replaces each byte that is not UTF-8
and each lone surrogate by U+FFFD. The error messages are Go's; the peers send them in `detail`.
"""

import codecs
import json
import re
from datetime import UTC, datetime
from typing import Any, Final

MAX_DEPTH: Final = 10_000
"""The nesting that encoding/json accepts (`maxNestingDepth`)."""

_SEPARATORS: Final = (("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
_HTML: Final = (*_SEPARATORS, ("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))

_BLANKS: Final = re.compile(r"[ \t\r\n]*")
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]*')
_HEX: Final = "0123456789abcdefABCDEF"
_LITERALS: Final = {"t": "true", "f": "false", "n": "null"}


class GoSyntaxError(ValueError):
    """The text is not JSON. The message is Go's."""


class UnfinishedError(GoSyntaxError):
    """The text ends inside its first value (message `unexpected EOF`) or before it (`EOF`)."""

    def __init__(self, text: str) -> None:
        super().__init__("unexpected EOF" if text.strip(" \t\r\n") else "EOF")


def dumps(value: object, *, escape_html: bool = True) -> str:
    """`value` as `json.Encoder.Encode` writes it, without the newline at the end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # replace() is faster than translate(), which visits each character; a conversation may have 200 MB.
    for character, escaped in _HTML if escape_html else _SEPARATORS:
        text = text.replace(character, escaped)
    return text


def encode(value: object, *, escape_html: bool = True) -> bytes:
    """`value` as a whole response body: JSON and one newline."""
    return (dumps(value, escape_html=escape_html) + "\n").encode()


def timestamp(unix_s: float) -> str:
    """A time as Go writes it (RFC3339Nano): UTC, microseconds, without trailing zeros."""
    at = datetime.fromtimestamp(unix_s, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S") + f".{at.microsecond:06d}".rstrip("0").rstrip(".") + "Z"


def text_of(body: bytes) -> str:
    """`body` as Go's decoder reads it. Each byte that is not UTF-8 becomes one U+FFFD."""
    return body.decode("utf-8", errors=_REPLACE_EACH_BYTE)


def first_value(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """The first JSON value of `text`. Objects are `Pairs`, which keep repeated keys.

    Raises `GoSyntaxError`, and its subclass `UnfinishedError` when the text ends too early.
    """
    start = _blanks(text, 0)
    end = _Scanner(text).value(start)
    try:
        value = json.loads(text[start:end], object_pairs_hook=Pairs, parse_int=Number, parse_float=Number)
        return _without_surrogates(value)
    except RecursionError:
        # Python fails at about 1,000 levels, Go at 10,000; no client sends that many.
        raise GoSyntaxError("exceeded max depth") from None


def only_value(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """The JSON value that `text` is, as `json.Unmarshal` reads it. Raises `GoSyntaxError`."""
    try:
        value = first_value(text)
    except UnfinishedError:
        raise GoSyntaxError("unexpected end of JSON input") from None
    rest = text[_Scanner(text).value(_blanks(text, 0)) :].lstrip(" \t\r\n")
    if rest:
        raise GoSyntaxError(f"invalid character {_quoted(rest[0])} after top-level value")
    return value


class Number(str):
    """A number literal as it was written. The caller decides whether `1.0` is a valid integer."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """A JSON object: its pairs in order, with repeated keys."""

    __slots__ = ()

    def field(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """The value that Go stores in the struct field `name`: keys match in any case, the last one wins."""
        return next((value for key, value in reversed(self) if key.lower() == name.lower()), None)

    def has(self, name: str) -> bool:
        """Whether `name` has a value other than null."""
        return self.field(name) is not None


def plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """A decoded value as Python's json module returns it."""
    match value:
        case Number():
            return json.loads(value)
        case Pairs():
            return {key: plain(item) for key, item in value}
        case list():
            return [plain(item) for item in value]
    return value


def kind_of(value: object) -> str:
    """The name of a decoded value's type in Go's `UnmarshalTypeError`."""
    match value:
        case Number():
            return "number"
        case bool():
            return "bool"
        case str():
            return "string"
        case Pairs():
            return "object"
        case list():
            return "array"
    return "null"


class _Scanner:
    """Finds the end of a value.

    Its errors are those of Go's scanner, which names the byte and the context.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, at: int) -> int:
        """The end of the value at `at`. Not recursive, because the sender chooses the depth."""
        open_brackets: list[str] = []
        at, begins = self._begin(at, open_brackets)
        while begins or open_brackets:
            at, begins = (self._begin if begins else self._proceed)(at, open_brackets)
        return at

    def _begin(self, at: int, open_brackets: list[str]) -> tuple[int, bool]:
        """Read a scalar or the start of a container.

        Returns the next position, and whether a value begins there.
        """
        char = self._char(at)
        if char in "{[":
            inside = _blanks(self._text, at + 1)
            if self._char(inside) == ("}" if char == "{" else "]"):
                return inside + 1, False
            open_brackets.append(char)
            if len(open_brackets) > MAX_DEPTH:
                raise GoSyntaxError("exceeded max depth")
            return (self._key(inside) if char == "{" else inside), True
        if char == '"':
            return self._string(at), False
        if char in "-0123456789":
            return self._number(at), False
        if char in _LITERALS:
            return self._literal(at, _LITERALS[char]), False
        raise self._unexpected(at, "looking for beginning of value")

    def _proceed(self, at: int, open_brackets: list[str]) -> tuple[int, bool]:
        """Read what follows a value inside a container: a comma or the container's end.

        Returns as `_begin`.
        """
        at = _blanks(self._text, at)
        char, bracket = self._char(at), open_brackets[-1]
        if char == ("}" if bracket == "{" else "]"):
            open_brackets.pop()
            return at + 1, False
        if char != ",":
            raise self._unexpected(
                at, "after object key:value pair" if bracket == "{" else "after array element"
            )
        at = _blanks(self._text, at + 1)
        return (self._key(at) if bracket == "{" else at), True

    def _key(self, at: int) -> int:
        """Read a key and its colon. Returns the start of its value."""
        if self._char(at) != '"':
            raise self._unexpected(at, "looking for beginning of object key string")
        at = _blanks(self._text, self._string(at))
        if self._char(at) != ":":
            raise self._unexpected(at, "after object key")
        return _blanks(self._text, at + 1)

    def _string(self, at: int) -> int:
        at += 1
        while True:
            plain = _PLAIN.match(self._text, at)
            at = plain.end() if plain else at
            char = self._char(at)
            if char == '"':
                return at + 1
            if char != "\\":
                raise self._unexpected(at, "in string literal")
            at = self._escape(at + 1)

    def _escape(self, at: int) -> int:
        char = self._char(at)
        if char == "u":
            for digit in range(at + 1, at + 5):
                if self._char(digit) not in _HEX:
                    raise self._unexpected(digit, "in \\u hexadecimal character escape")
            return at + 5
        if char not in '"\\/bfnrt':
            raise self._unexpected(at, "in string escape code")
        return at + 1

    def _number(self, at: int) -> int:
        if self._char(at) == "-":
            at += 1
            if not _is_digit(self._char(at)):
                raise self._unexpected(at, "in numeric literal")
        at = at + 1 if self._char(at) == "0" else self._digits(at)
        if self._peek(at) == ".":
            if not _is_digit(self._char(at + 1)):
                raise self._unexpected(at + 1, "after decimal point in numeric literal")
            at = self._digits(at + 1)
        if self._peek(at) in ("e", "E"):
            at += 1
            if self._char(at) in "+-":
                at += 1
            if not _is_digit(self._char(at)):
                raise self._unexpected(at, "in exponent of numeric literal")
            at = self._digits(at)
        return at

    def _digits(self, at: int) -> int:
        while _is_digit(self._peek(at)):
            at += 1
        return at

    def _literal(self, at: int, word: str) -> int:
        for offset, expected in enumerate(word):
            if self._char(at + offset) != expected:
                raise self._unexpected(at + offset, f"in literal {word} (expecting {_quoted(expected)})")
        return at + len(word)

    def _char(self, at: int) -> str:
        if at >= len(self._text):
            raise UnfinishedError(self._text)
        return self._text[at]

    def _peek(self, at: int) -> str:
        return self._text[at : at + 1]

    def _unexpected(self, at: int, context: str) -> GoSyntaxError:
        return GoSyntaxError(f"invalid character {_quoted(self._text[at])} {context}")


def _quoted(char: str) -> str:
    if char in ("'", '"'):
        return "'\\''" if char == "'" else "'\"'"
    # Go's scanner works on bytes: it names the first byte of a character, as Latin-1.
    first = char.encode()[0]
    named = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 92: "\\\\"}.get(first)
    if named is None:
        named = (
            chr(first)
            if chr(first).isprintable()
            else f"\\x{first:02x}"
            if first < 128
            else f"\\u{first:04x}"
        )
    return f"'{named}'"


def _blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return match.end() if match else at


def _is_digit(char: str) -> bool:
    return char != "" and char in "0123456789"


def _without_surrogates(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    match value:
        case Number():
            return value
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case Pairs():
            return Pairs((_without_surrogates(key), _without_surrogates(item)) for key, item in value)
        case list():
            return [_without_surrogates(item) for item in value]
    return value


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    # Python's "replace" inserts one U+FFFD for an invalid sequence; Go inserts one for each byte.
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


_REPLACE_EACH_BYTE: Final = "agentd.simulator.gojson"
codecs.register_error(_REPLACE_EACH_BYTE, _replace_each_byte)
