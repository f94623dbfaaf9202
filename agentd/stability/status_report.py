"""A report about the state of the task: the one type on the way from the agent to coderd. Pure."""

import enum
import re
from typing import Final, NamedTuple

from agentd.masking import masked

MESSAGE_MAX_BYTES: Final = 160
"""coderd counts bytes, although its error text says characters; 160 itself passes."""

_LINE_MAX_CHARS: Final = 4096
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


class TaskState(enum.Enum):
    """What the task does. All but NONE are coderd's values of an app status."""

    NONE = "none"
    """No report and no user message so far."""
    WORKING = "working"
    IDLE = "idle"
    COMPLETE = "complete"
    FAILURE = "failure"


FINAL_STATES: Final = frozenset({TaskState.COMPLETE, TaskState.FAILURE})


class Source(enum.Enum):
    """Where a report comes from."""

    WATCHER = "watcher"
    """Derived from an observation of the agent."""
    EVENT = "event"
    """`POST /v1/events`: fire-and-forget."""
    REPORT = "report"
    """`POST /v1/reports`, `agentd report`: its sender reads the answer."""
    USER = "user"
    """A message of the user, which begins a turn."""


class StatusReport(NamedTuple):
    """`state` as of `at` (monotonic seconds), with a message and a link for people."""

    state: TaskState
    source: Source = Source.WATCHER
    at: float = 0.0
    message: str = ""
    uri: str = ""

    @property
    def content(self) -> tuple[TaskState, str, str]:
        """What coderd stores of it."""
        return (self.state, self.message, self.uri)

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES


def clean_message(text: str) -> str:
    """`text` masked and as coderd would store it, truncated between characters to `MESSAGE_MAX_BYTES` bytes.

    Escape sequences and unprintable characters are removed, white space becomes one blank, lone surrogates U+FFFD.
    """
    plain = _SURROGATES.sub("\ufffd", _ESCAPES.sub("", masked(text, cut_end=True)))
    words = "".join(one if one.isprintable() else " " if one.isspace() else "" for one in plain).split()
    return " ".join(words).encode()[:MESSAGE_MAX_BYTES].decode("utf-8", "ignore").rstrip()


def clean_line(text: str, *, last: bool = False) -> str:
    """The first line of `text`, or the `last` one, that has a letter or digit, as `clean_message`; "" if there is none.

    The lines of a box or a rule have none. Secrets must be redacted before: the line is truncated.
    """
    lines = text.splitlines()
    found = (clean_message(line[:_LINE_MAX_CHARS]) for line in (reversed(lines) if last else lines))
    return next((line for line in found if any(map(str.isalnum, line))), "")
