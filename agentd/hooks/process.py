"""What identifies a process for good.  Pure."""

from typing import NamedTuple

__all__ = ["Process"]


class Process(NamedTuple):
    """A process for good: a pid is used again, a pid with its start time (clock ticks since boot) in one boot is not."""

    pid: int
    ticks: int
    boot: str
