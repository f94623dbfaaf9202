"""What identifies a process for good.  Pure."""

from dataclasses import dataclass

__all__ = ["Process"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process for good: a pid is used again, a pid with its start time (clock ticks since boot) in one boot is not."""

    pid: int
    ticks: int
    boot: str
