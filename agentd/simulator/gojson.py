"""JSON as Go writes and reads it: what the peers send, and what they accept.

Written: `json.Encoder`, compact, one newline at the end; coderd escapes `<`, `>` and `&` (SetEscapeHTML), AgentAPI
does not; both escape U+2028 and U+2029.
Read: `json.Decoder`, which takes the first value and leaves what follows it, replaces every byte that is not UTF-8
and every lone surrogate by U+FFFD, and words its complaints as clients find them in `detail`.
"""

import codecs
import json
import re
from typing import Any

MAX_DEPTH = 10_000
"""Nesting that encoding/json accepts (`maxNestingDepth`)."""

_SEPARATORS = (("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
_HTML = (*_SEPARATORS, ("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))

_BLANKS = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_HEX = "0123456789abcdefABCDEF"
_LITERALS = {"t": "true", "f": "false", "n": "null"}


class GoSyntaxError(ValueError):
    """The text is no JSON; the message is Go's."""


class UnfinishedError(GoSyntaxError):
    """The text ends inside its first value (`EOF`: before it began)."""

    def __init__(self, text: str) -> None:
        super().__init__("unexpected EOF" if text.strip(" \t\r\n") else "EOF")


def dumps(value: object, *, escape_html: bool = True) -> str:
    """`value` as `json.Encoder.Encode` writes it, without the newline it ends with."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # replace() and not translate(): a history of 200 MB is written in one go, and translate() looks at each character.
    for character, escaped in _HTML if escape_html else _SEPARATORS:
        text = text.replace(character, escaped)
    return text


def encode(value: object, *, escape_html: bool = True) -> bytes:
    """`value` as a whole response body: JSON and one newline."""
    return (dumps(value, escape_html=escape_html) + "\n").encode()


def text_of(body: bytes) -> str:
    """`body` as Go's decoder reads it: each byte that is not UTF-8 becomes one U+FFFD."""
    return body.decode("utf-8", errors=_REPLACE_EACH_BYTE)


def first_value(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """The first JSON value of `text`; objects come as `Pairs`, so that a reader sees repeated keys.

    Raises `GoSyntaxError`, or `UnfinishedError` when the text ends too early.
    """
    start = _blanks(text, 0)
    end = _Scanner(text).value(start)
    try:
        value = json.loads(text[start:end], object_pairs_hook=Pairs, parse_int=Number, parse_float=Number)
        return _without_surrogates(value)
    except RecursionError:
        # Python gives up at about a thousand levels, Go at ten thousand; no client comes near either.
        raise GoSyntaxError("exceeded max depth") from None


class Number(str):
    """A number literal as it was written: whether `1.0` will do is the reader's business."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """A JSON object, in order, repeated keys kept."""

    __slots__ = ()

    def field(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """The value Go stores in the struct field `name`: keys match whatever their case, the last one wins."""
        return next((value for key, value in reversed(self) if key.lower() == name.lower()), None)

    def has(self, name: str) -> bool:
        """Whether `name` occurs, with a value other than null."""
        return self.field(name) is not None


def plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """A decoded value as Python's json module would have it."""
    match value:
        case Number():
            return json.loads(value)
        case Pairs():
            return {key: plain(item) for key, item in value}
        case list():
            return [plain(item) for item in value]
    return value


def kind_of(value: object) -> str:
    """The word of Go's `UnmarshalTypeError` for a decoded value."""
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
    """Finds where a value ends, complaining as Go's scanner does, which names the byte and what it looked for."""

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, at: int) -> int:
        """The end of the value at `at`. A loop and no recursion: depth is the sender's choice."""
        open_brackets: list[str] = []
        at, begins = self._begin(at, open_brackets)
        while begins or open_brackets:
            at, begins = (self._begin if begins else self._proceed)(at, open_brackets)
        return at

    def _begin(self, at: int, open_brackets: list[str]) -> tuple[int, bool]:
        """Read a scalar, or open a container. Returns where to go on, and whether a value begins there."""
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
        """After a value inside a container: the next one, or the container's end."""
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
        """Read a key and its colon; returns where its value begins."""
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
    # Go looks at bytes: of a longer character it names the first one, as if it were Latin-1.
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
    # Python would give one U+FFFD per broken sequence; Go gives one per byte.
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


_REPLACE_EACH_BYTE = "agentd.simulator.gojson"
codecs.register_error(_REPLACE_EACH_BYTE, _replace_each_byte)
