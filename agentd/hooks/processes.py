"""Finds and ends every process of one hook run, also of a run that a killed agentd left behind.

Each run has a unique `AGENTD_RUN_ID` in its environment. It identifies the processes of the run even if
agentd died between the start of the hook and the record of its pid. A process that removed the variable is
found through the session of the recorded leader. The leader is identified by pid, start time and boot,
because the kernel reuses pids.
"""

import asyncio
import contextlib
import os
import signal
from typing import Final

from agentd.clock import Clock
from agentd.proc import PROC, ProcessIdentity, ProcessStat, all_stats, boot_id

RUN_ID: Final = "AGENTD_RUN_ID"
KILL_S: Final = 5.0  # a process ends microseconds after SIGKILL, unless it is stuck in the kernel
_POLL_S: Final = 0.05


def living(run_id: str, leader: ProcessIdentity | None, *, leader_was_child: bool = False) -> list[int]:
    """The pids of the run that are alive (no zombies). Reads /proc: milliseconds on a busy machine.

    `leader_was_child`: `leader` was a child of this process until now, so its session id cannot have been
    reused. Otherwise the session counts only while the leader lives.
    """
    marker = f"{RUN_ID}={run_id}".encode()
    stats = [stat for stat in all_stats() if stat.state not in "ZX" and stat.pid != os.getpid()]
    session = _session(stats, leader, leader_was_child=leader_was_child)
    return [stat.pid for stat in stats if stat.session == session or marker in _environ(stat.pid)]


async def end_run(
    run_id: str,
    leader: ProcessIdentity | None,
    *,
    clock: Clock,
    grace_s: float,
    leader_was_child: bool = False,
) -> bool:
    """Send SIGTERM to every process of the run, SIGKILL after `grace_s`. True if all ended.

    False if one survives SIGKILL for `KILL_S` seconds, because it is stuck in the kernel.
    """
    signalled: set[int] = set()
    kill_at = clock.monotonic() + grace_s
    while clock.monotonic() < kill_at + KILL_S:
        pids = await asyncio.to_thread(living, run_id, leader, leader_was_child=leader_was_child)
        if not pids:
            return True
        killing = clock.monotonic() >= kill_at
        for pid in pids:
            if killing or pid not in signalled:
                _send(pid, signal.SIGKILL if killing else signal.SIGTERM)
        signalled.update(pids)
        await clock.sleep(_POLL_S)
    return not await asyncio.to_thread(living, run_id, leader, leader_was_child=leader_was_child)


def kill_now(run_id: str, leader: ProcessIdentity | None) -> None:
    """Send SIGKILL once to every process of the run of a former child, without waiting."""
    for pid in living(run_id, leader, leader_was_child=True):
        _send(pid, signal.SIGKILL)


def _session(
    stats: list[ProcessStat], leader: ProcessIdentity | None, *, leader_was_child: bool
) -> int | None:
    """The session id of the run, None if it is unknown or may belong to another process now."""
    if leader is None or leader.boot != boot_id():
        return None
    now = next((stat for stat in stats if stat.pid == leader.pid), None)
    not_reused = leader_was_child if now is None else now.start_ticks == leader.ticks
    return leader.pid if not_reused else None


def _send(pid: int, number: signal.Signals) -> None:
    # It has ended, or a setuid program made it another user's. The next round checks whether it still lives.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _environ(pid: int) -> list[bytes]:
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []  # the process has ended or belongs to another user
