"""A status message as coderd keeps it: one line of what prints, in few bytes.  Pure."""

import re
from typing import Final

__all__ = ["MESSAGE_MAX_BYTES", "clean_message"]

MESSAGE_MAX_BYTES: Final = 160
"""coderd counts bytes, though it says characters; 160 itself passes."""

_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def clean_message(text: str) -> str:
    """`text` as coderd would store it, in at most `MESSAGE_MAX_BYTES` bytes, cut between characters.

    Escape sequences and what does not print go, white space is one blank, lone surrogates become U+FFFD.
    """
    plain = _SURROGATES.sub("\ufffd", _ESCAPES.sub("", text))
    words = "".join(one if one.isprintable() else " " if one.isspace() else "" for one in plain).split()
    return " ".join(words).encode()[:MESSAGE_MAX_BYTES].decode("utf-8", "ignore").rstrip()
