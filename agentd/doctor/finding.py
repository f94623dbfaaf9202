"""The result of one check: a level, the cause, and what to do."""

import enum
from dataclasses import dataclass
from typing import Final

from agentd import log

CAUSE_MAX_CHARS: Final = 400


class Level(enum.StrEnum):
    """The result of a check. Only `FAIL` makes `agentd doctor` exit with 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """`cause` states what the check found, `remedy` what to do ("" if nothing).

    Both may quote a peer, so they are converted to one line without control characters, with secrets masked.
    """

    check: str
    level: Level
    cause: str
    remedy: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cause", _one_line(self.cause)[:CAUSE_MAX_CHARS])
        object.__setattr__(self, "remedy", _one_line(self.remedy))


def ok(check: str, cause: str) -> Finding:
    return Finding(check, Level.OK, cause)


def warn(check: str, cause: str, remedy: str) -> Finding:
    return Finding(check, Level.WARN, cause, remedy)


def fail(check: str, cause: str, remedy: str) -> Finding:
    return Finding(check, Level.FAIL, cause, remedy)


def _one_line(text: str) -> str:
    words = " ".join(log.masked(text).split())
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in words)
