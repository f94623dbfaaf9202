"""Redacts secrets in messages before they are fitted, so that truncation cannot leave a part of a secret. Pure."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from agentd.conversation.message import CUT_MARK, Message
from agentd.conversation.sanitize import clean_text
from agentd.errors import ConfigError

REPLACEMENT: Final = "[redacted]"
VALUE_MIN_CHARS: Final = 6
"""Shorter values are ignored: they would match in ordinary text."""

# A terminal may wrap a line inside a value. A box drawn around the text has its border at that place.
_WRAP: Final = r"(?:[ │|]*\r*\n[ │|]*)?"
# Between two lines of a value there may be empty lines. Possessive: one way to match each line, so it stays linear.
_LINE_BREAKS: Final = r"(?:[ │|]*+\r*+\n)++[ │|]*"


class Redactor:
    """Replaces known values, also where a terminal wrapped them, and every match of the operator's patterns.

    `values` is called each time, because tokens are renewed. `patterns` are Python regular expressions, matched within
    one message. An encoded form of a value, such as base64, is not known: it needs a pattern. Raises `ConfigError` for
    an invalid pattern.
    """

    def __init__(self, *, values: Callable[[], Iterable[str]], patterns: Sequence[str] = ()) -> None:
        self._values = values
        self._known: tuple[str, ...] = ()
        self._unbroken_values: list[str] = []
        self._longest = 0
        self._known_pattern: re.Pattern[str] | None = None
        self._patterns = [_compiled(pattern) for pattern in patterns]

    def __call__(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages with `REPLACEMENT` for each secret in their content."""
        self._refresh()
        return [message._replace(content=self._redacted(message.content)) for message in messages]

    def _redacted(self, text: str) -> str:
        if self._known_pattern is not None and text.startswith(CUT_MARK):
            # A long message was truncated while it was read: the rest of a value may stand at the cut.
            text = CUT_MARK + text[len(CUT_MARK) + 2 * self._longest :]
        # Clean before the search: `fit` cleans later, which could join a value that was interrupted by a NUL.
        text = clean_text(text)
        if self._known_pattern is not None and self._may_contain_value(text):
            text = self._known_pattern.sub(REPLACEMENT, text)
        for pattern in self._patterns:
            text = pattern.sub(REPLACEMENT, text)
        return text

    def _may_contain_value(self, text: str) -> bool:
        """Return False if no known value is in the text, line breaks ignored. This is 50 times faster than the pattern."""
        unbroken = _unbroken(text)
        return any(value in unbroken for value in self._unbroken_values)

    def _refresh(self) -> None:
        values = {clean_text(value).strip() for value in self._values()}
        known = tuple(
            sorted((value for value in values if len(value) >= VALUE_MIN_CHARS), key=len, reverse=True)
        )
        if known != self._known:
            self._known = known
            self._unbroken_values = [_unbroken(value) for value in known]
            self._longest = max(map(len, known), default=0)
            self._known_pattern = re.compile("|".join(map(_wrapped_pattern, known))) if known else None


def _wrapped_pattern(value: str) -> str:
    """Return a pattern for `value` that allows a line break between any two of its characters."""
    return _LINE_BREAKS.join(_WRAP.join(map(re.escape, line)) for line in value.splitlines() if line)


def _unbroken(text: str) -> str:
    """Return `text` without every character that a line break may consist of."""
    return "".join(text.split()).replace("│", "").replace("|", "")


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as exc:
        raise ConfigError(
            f"snapshots.redact_patterns: not a regular expression: {pattern!r}: {exc}",
            hint="use the syntax of Python's re module",
        ) from exc
