"""Wait for orphaned processes, which process 1 of a container inherits.

A hook that leaves a process in the background makes an orphan. When an orphan ends, it stays as a zombie until process 1
waits for it, and zombies count towards the container's process limit. Where tini or the kubelet's pause process is
process 1, there is nothing to do.

agentd's own children, the hooks, are zombies for some milliseconds as well, until asyncio has waited for them. Waiting
for one of those would lose its exit code, so only a zombie that was there one round earlier is waited for.
"""

import os
from typing import Final

from agentd.clock import Clock
from agentd.proc import all_stats

ROUND_S: Final = 10.0


class Reaper:
    """Waits for orphans that have ended."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: frozenset[int] = frozenset()

    async def run(self) -> None:
        """One round every `ROUND_S`, until cancelled."""
        while True:
            self.reap()
            await self._clock.sleep(ROUND_S)

    def reap(self) -> list[int]:
        """One round. Returns the pids that were waited for. Takes some tens of microseconds in a container with few processes."""
        zombies = frozenset(
            stat.pid for stat in all_stats() if stat.state == "Z" and stat.parent == os.getpid()
        )
        gone = [pid for pid in zombies & self._seen if _waited_for(pid)]
        self._seen = zombies
        return gone


def _waited_for(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False  # asyncio has waited for it
