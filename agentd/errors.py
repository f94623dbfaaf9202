"""The exit codes, and the base classes of the errors that an operator reads.

The codes follow sysexits.h where it has a code for the case.
"""

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """Exit codes of every command. Scripts depend on them; the README lists them."""

    OK = 0
    FAILED = 1
    USAGE = 64
    """The command line is invalid."""
    UNAVAILABLE = 69
    """No daemon runs, or AgentAPI is unreachable and the spool is empty."""
    STATE = 73
    """The state directory is unusable, or another agentd uses it."""
    PENDING = 75
    """The stop was clean, but a snapshot is undelivered and stays in the spool."""
    CONFIG = 78
    """The configuration is wrong or incomplete."""


class AgentdError(Exception):
    """An error that an operator reads: `message` states what is wrong and where, `hint` what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    label: ClassVar[str]
    """Stable value of a metric label, by default the name of the class."""

    def __init_subclass__(cls, *, label: str = "") -> None:
        cls.label = label or cls.__name__

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(AgentdError):
    """The command line is invalid."""

    exit_code = ExitCode.USAGE


class ConfigError(AgentdError):
    """A configuration value is missing, malformed or unknown. The message starts with `section.key`."""

    exit_code = ExitCode.CONFIG


class StateError(AgentdError):
    """The state directory is unusable: permissions, a full or read-only disk, a lock, a newer format."""

    exit_code = ExitCode.STATE


class UnavailableError(AgentdError):
    """The daemon, or every source of a snapshot, is unavailable."""

    exit_code = ExitCode.UNAVAILABLE


class PeerError(AgentdError):
    """coderd, AgentAPI or a destination is unreachable, or its response breaks the protocol."""
