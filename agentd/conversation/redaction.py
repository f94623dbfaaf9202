"""Redacts secrets in messages before they are fitted, so that truncation cannot leave a part of a secret. Pure."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from agentd.conversation.message import CUT_MARK, Message
from agentd.conversation.sanitize import clean_text
from agentd.errors import ConfigError
from agentd.masking import Mask

REPLACEMENT: Final = "[redacted]"


class Redactor:
    """Replaces known values, as `masking.Mask` finds them, and every match of the operator's patterns.

    `values` is called each time, because tokens are renewed. `patterns` are Python regular expressions, matched within
    one message. An encoded form of a value, such as base64, is not known: it needs a pattern. Raises `ConfigError` for
    an invalid pattern.
    """

    def __init__(self, *, values: Callable[[], Iterable[str]], patterns: Sequence[str] = ()) -> None:
        self._values = values
        self._known: frozenset[str] = frozenset()
        self._mask = Mask(())
        self._patterns = [_compiled(pattern) for pattern in patterns]

    def __call__(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages with `REPLACEMENT` for each secret in their content."""
        if self._finds_nothing():
            return list(messages)
        return [message._replace(content=self._redacted(message.content)) for message in messages]

    def text(self, text: str) -> str:
        """A text that an agent wrote, outside its messages. Apply it before the text is cut."""
        return text if self._finds_nothing() else self._redacted(text)

    def _finds_nothing(self) -> bool:
        """Whether there is no secret. Reads the known ones."""
        known = frozenset(clean_text(value).strip() for value in self._values())
        if known != self._known:
            self._known, self._mask = known, Mask(known)
        return self._mask.is_empty and not self._patterns

    def _redacted(self, text: str) -> str:
        # A long message was truncated while it was read: the rest of a value may stand at the cut.
        mark = CUT_MARK if text.startswith(CUT_MARK) else ""
        # Clean before the search: `fit` cleans later, which could join a value that was interrupted by a NUL.
        text = self._mask.replace(clean_text(text[len(mark) :]), REPLACEMENT, cut_start=bool(mark))
        for pattern in self._patterns:
            text = pattern.sub(REPLACEMENT, text)
        return mark + text


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as exc:
        raise ConfigError(
            f"snapshots.redact_patterns: not a regular expression: {pattern!r}: {exc}",
            hint="use the syntax of Python's re module",
        ) from exc
