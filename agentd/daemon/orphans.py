"""Process 1 of a container inherits every process whose parent has died, and has to wait for each of them.

A hook that leaves something running in the background makes such orphans. Left alone they stay as zombies until the
container's process limit is reached. With tini, or with the kubelet's pause process in front, this has nothing to do.

Our own children, the hooks, end as zombies too, for the milliseconds until asyncio has waited for them; taking one of
those would lose its exit code. So only a zombie that was already there one whole round earlier is taken.
"""

import os
from pathlib import Path

from agentd.clock import Clock
from agentd.proc import PROC, all_stats

ROUND_S = 10.0


def are_ours() -> bool:
    """Whether orphans come to us: we are the first process of our PID namespace."""
    return os.getpid() == 1


class Reaper:
    """Waits for orphans that have ended. `proc` is where the kernel tells about processes."""

    def __init__(self, clock: Clock, *, proc: Path = PROC) -> None:
        self._clock = clock
        self._proc = proc
        self._seen: frozenset[int] = frozenset()

    async def run(self) -> None:
        while True:
            self.reap()
            await self._clock.sleep(ROUND_S)

    def reap(self) -> list[int]:
        """One round; returns the pids it waited for. Some tens of microseconds in a container's handful of processes."""
        zombies = frozenset(_zombie_children(self._proc))
        gone = [pid for pid in zombies & self._seen if _waited_for(pid)]
        self._seen = zombies
        return gone


def _zombie_children(proc: Path) -> list[int]:
    return [stat.pid for stat in all_stats(proc=proc) if stat.state == "Z" and stat.parent == os.getpid()]


def _waited_for(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False  # somebody else has waited for it
