"""Takes secrets out of a conversation before it is fitted, so that no cut can leave a part of one behind."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from agentd.conversation.message import CUT_MARK, Message
from agentd.conversation.sanitize import clean_text
from agentd.errors import ConfigError

REPLACEMENT: Final = "[redacted]"
VALUE_MIN_CHARS: Final = 6
"""A shorter value would blot out half of every text and protect nothing."""

# Where a terminal breaks a line, a value may be broken too, and a box drawn around the text has its border there.
_WRAP: Final = r"(?:[ │|]*\r*\n[ │|]*)?"
# Between two lines of a value there may be empty ones. Possessive, so that there is one way to match each of them.
_LINE_BREAKS: Final = r"(?:[ │|]*+\r*+\n)++[ │|]*"


class Redactor:
    """Replaces known values, also when a terminal wrapped them, and whatever matches the operator's patterns.

    `values` is asked each time, because tokens are renewed; `patterns` are Python regular expressions, matched within
    one message. Raises `ConfigError` for a pattern that is none. Encoded forms of a value (base64 and the like) are
    not known values: give a pattern for them.
    """

    def __init__(self, *, values: Callable[[], Iterable[str]], patterns: Sequence[str] = ()) -> None:
        self._values = values
        self._known: tuple[str, ...] = ()
        self._squeezed: list[str] = []
        self._longest = 0
        self._known_form: re.Pattern[str] | None = None
        self._patterns = [_compiled(pattern) for pattern in patterns]

    def __call__(self, messages: Iterable[Message]) -> list[Message]:
        """The messages without secrets; times, roles and ids stay."""
        self._refresh()
        return [message._replace(content=self._redacted(message.content)) for message in messages]

    def _redacted(self, text: str) -> str:
        if self._known_form is not None and text.startswith(CUT_MARK):
            # An over-long message whose head was dropped while reading: the end of a value may be left of it.
            text = CUT_MARK + text[len(CUT_MARK) + 2 * self._longest :]
        # Cleaned first: what cleaning removes from within a value would put it together again afterwards.
        text = clean_text(text)
        if self._known_form is not None and self._may_hold_one(text):
            text = self._known_form.sub(REPLACEMENT, text)
        for pattern in self._patterns:
            text = pattern.sub(REPLACEMENT, text)
        return text

    def _may_hold_one(self, text: str) -> bool:
        """Whether a known value is in the text when line breaks are disregarded: 50 times faster than the pattern."""
        squeezed = _squeezed(text)
        return any(value in squeezed for value in self._squeezed)

    def _refresh(self) -> None:
        values = {clean_text(value).strip() for value in self._values()}
        known = tuple(
            sorted((value for value in values if len(value) >= VALUE_MIN_CHARS), key=len, reverse=True)
        )
        if known != self._known:
            self._known = known
            self._squeezed = [_squeezed(value) for value in known]
            self._longest = max(map(len, known), default=0)
            self._known_form = re.compile("|".join(map(_wrappable, known))) if known else None


def _wrappable(value: str) -> str:
    """A pattern for `value` with a line break possible between any two of its characters."""
    return _LINE_BREAKS.join(_WRAP.join(map(re.escape, line)) for line in value.splitlines() if line)


def _squeezed(text: str) -> str:
    """`text` without anything that a line break may consist of."""
    return "".join(text.split()).replace("│", "").replace("|", "")


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"snapshots.redact: {pattern!r} is no regular expression: {error}", hint="see Python's re module"
        ) from error
