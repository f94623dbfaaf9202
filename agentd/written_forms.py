"""The forms in which a text appears inside another text: as `repr`, JSON and URLs write it, also nested. Pure."""

import re
import string
from typing import Final

# The parts of a secret's pattern. Each level of quoting doubles a backslash, so that 64 are six levels. Each level of
# URL encoding writes a percent sign as %25.
_BACKSLASH: Final = r"(?:\\|%(?:25){0,6}5[Cc])"
_BACKSLASHES_MAX: Final = 64
_BACKSLASHES: Final = f"{_BACKSLASH}{{1,{_BACKSLASHES_MAX}}}"
NEVER_ESCAPED: Final = frozenset(string.ascii_letters + string.digits + "-_.")
_ESCAPE_LETTERS: Final = dict(zip("\0\a\b\t\n\v\f\r", "0abtnvfr", strict=True))
# The traceback of an exception group indents each line of a message, and a line ends at each of these.
_LINE_ENDS: Final = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_INDENT: Final = "[ |]{0,32}"


def pattern_of(secret: str) -> str:
    """Return a regular expression for `secret` in every form that it has inside other text.

    There are alternatives for each character, because the form depends on the text around the secret: `repr`
    escapes an apostrophe only if the text contains a double quote too.
    """
    pattern, before = "", ""
    # The backslashes before a character belong to its unit: an escape of the character adds to them.
    for backslashes, char in re.findall(r"(\\*)([^\\]|\Z)", secret):
        pattern += (_INDENT if before in _LINE_ENDS else "") + _unit_pattern(len(backslashes), char)
        before = char
    return pattern


def _unit_pattern(backslashes: int, char: str) -> str:
    """Return the pattern for `backslashes` backslashes and the `char` after them, empty at the end."""
    at_least = f"{_BACKSLASH}{{{backslashes},{_BACKSLASHES_MAX * (backslashes + 1)}}}" if backslashes else ""
    if not char or char in NEVER_ESCAPED:
        return at_least + re.escape(char)
    # Encoded forms first: that of a percent sign starts with one.
    unescaped = "|".join([*_url_encoded(char), re.escape(char)])
    escaped = "|".join([unescaped, *_escape_sequences(char)])
    return f"{at_least}(?:{escaped})" if backslashes else f"(?:{unescaped}|{_BACKSLASHES}(?:{escaped}))"


def _url_encoded(char: str) -> list[str]:
    forms = [_percent_encoded(octets) for octets in _encodings(char)]
    # A web form writes a space as a plus sign, and a second encoding escapes that.
    return [*forms, r"\+", _percent_encoded(b"+")] if char == " " else forms


def _percent_encoded(octets: bytes) -> str:
    return "".join(f"%(?:25){{0,6}}(?i:{octet:02x})" for octet in octets)


def _escape_sequences(char: str) -> list[str]:
    """Return the patterns of the escape sequences for `char`, each without its first backslash."""
    code, utf16 = ord(char), char.encode("utf-16-be", "surrogatepass")
    sequences = [[f"x{byte:02x}" for byte in encoded] for encoded in _encodings(char)]
    sequences.append([f"u{utf16[at : at + 2].hex()}" for at in range(0, len(utf16), 2)])
    sequences.append([f"U{code:08x}"])
    if code <= 0xFF:
        sequences.append([f"x{code:02x}"])
    if char in _ESCAPE_LETTERS:
        sequences.append([_ESCAPE_LETTERS[char]])
    return [_BACKSLASHES.join(f"(?i:{part})" for part in parts) for parts in sequences]


def _encodings(char: str) -> set[bytes]:
    """Return `char` in UTF-8, and the undecodable byte that it may stand for."""
    encodings = {char.encode("utf-8", "surrogatepass")}
    if "\udc80" <= char <= "\udcff":
        encodings.add(char.encode("utf-8", "surrogateescape"))
    return encodings
