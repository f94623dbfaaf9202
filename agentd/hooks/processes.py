"""Finding and ending every process of one hook run, our own or one that a killed agentd left behind.

A run carries a unique `AGENTD_RUN_ID` in its environment, so its processes are found even when agentd died between
starting the hook and writing down its pid. A process that has washed its environment is found through the session of
the recorded leader, which is identified by pid, start time and boot: a pid alone may be somebody else's by now.
"""

import asyncio
import contextlib
import os
import signal

from agentd.clock import Clock
from agentd.proc import PROC, ProcessIdentity, ProcessStat, all_stats, boot_id

RUN_ID = "AGENTD_RUN_ID"
KILL_S = 5.0  # after SIGKILL a process is gone in microseconds, unless it hangs in the kernel
_LOOK_S = 0.05


def living(run_id: str, leader: ProcessIdentity | None, *, leader_was_ours: bool = False) -> list[int]:
    """Pids of the run that are alive (zombies are not). Reads /proc; some milliseconds on a busy machine.

    `leader_was_ours` says that we have just seen `leader` exit ourselves, so its session is still its own; otherwise
    the session counts only while its leader lives.
    """
    marker = f"{RUN_ID}={run_id}".encode()
    stats = [stat for stat in all_stats() if stat.state not in "ZX" and stat.pid != os.getpid()]
    session = _session(stats, leader, leader_was_ours=leader_was_ours)
    return [stat.pid for stat in stats if stat.session == session or marker in _environ(stat.pid)]


async def end_run(
    run_id: str,
    leader: ProcessIdentity | None,
    *,
    clock: Clock,
    grace_s: float,
    leader_was_ours: bool = False,
) -> bool:
    """TERM to every process of the run, KILL to what is left after `grace_s`; True once none is left.

    False when one survives SIGKILL for `KILL_S`, which a process stuck in the kernel does.
    """
    signalled: set[int] = set()
    ends_at = clock.monotonic() + grace_s
    while clock.monotonic() < ends_at + KILL_S:
        pids = await asyncio.to_thread(living, run_id, leader, leader_was_ours=leader_was_ours)
        if not pids:
            return True
        killing = clock.monotonic() >= ends_at
        for pid in pids:
            if killing or pid not in signalled:
                _send(pid, signal.SIGKILL if killing else signal.SIGTERM)
        signalled.update(pids)
        await clock.sleep(_LOOK_S)
    return not await asyncio.to_thread(living, run_id, leader, leader_was_ours=leader_was_ours)


def kill_now(run_id: str, leader: ProcessIdentity | None) -> None:
    """One round of SIGKILL, without waiting."""
    for pid in living(run_id, leader, leader_was_ours=True):
        _send(pid, signal.SIGKILL)


def _session(
    stats: list[ProcessStat], leader: ProcessIdentity | None, *, leader_was_ours: bool
) -> int | None:
    if leader is None or leader.boot != boot_id():
        return None
    now = next((stat for stat in stats if stat.pid == leader.pid), None)
    still_its_own = leader_was_ours if now is None else now.start_ticks == leader.ticks
    return leader.pid if still_its_own else None


def _send(pid: int, number: signal.Signals) -> None:
    # Gone meanwhile, or of another user (a setuid child): the next look tells whether it is still there.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _environ(pid: int) -> list[bytes]:
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []  # another user's, or gone
