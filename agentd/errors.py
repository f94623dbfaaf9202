"""What agentd says when it cannot go on: the sentence, what to do next, and the exit code a script reads.

The codes follow sysexits.h, as far as it has a word for the case.
"""

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """Exit codes of every command. People script against them; README lists them."""

    OK = 0
    FAILED = 1
    USAGE = 64
    """The command line could not be understood."""
    UNAVAILABLE = 69
    """Nothing to talk to: no daemon, or nothing reachable and nothing stored."""
    STATE = 73
    """The state directory is unusable, or another instance holds it."""
    PENDING = 75
    """Stopped in order, but a snapshot is undelivered and kept in the spool."""
    CONFIG = 78
    """The configuration is wrong or incomplete."""


class AgentdError(Exception):
    """Base of the errors an operator reads.

    `message` says what is wrong and where, `hint` what to do next (may be empty). `str()` joins them with "; ".
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(AgentdError):
    """The command line could not be understood."""

    exit_code = ExitCode.USAGE


class ConfigError(AgentdError):
    """A configuration value is missing, malformed or unknown. The message starts with `[section] key`'s name."""

    exit_code = ExitCode.CONFIG


class StateError(AgentdError):
    """The state directory cannot be used: permissions, a full or read-only disk, another holder, a newer format."""

    exit_code = ExitCode.STATE


class UnavailableError(AgentdError):
    """There is nothing to talk to."""

    exit_code = ExitCode.UNAVAILABLE


class PeerError(AgentdError):
    """A peer could not be reached or did not keep its contract."""
