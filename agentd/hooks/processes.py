"""Finding and ending every process of one hook run, our own or one that a killed agentd left behind.

A run carries a unique `AGENTD_RUN_ID` in its environment, so its processes are found even when agentd died between
starting the hook and writing down its pid. A process that has washed its environment is found through the session of
the recorded leader, which is identified by pid, start time and boot: a pid alone may be somebody else's by now.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agentd.clock import Clock
from agentd.hooks.process import Process

RUN_ID = "AGENTD_RUN_ID"
KILL_S = 5.0  # after SIGKILL a process is gone in microseconds, unless it hangs in the kernel
_LOOK_S = 0.05


class _Stat(NamedTuple):
    pid: int
    state: str
    session: int
    ticks: int


def identify(pid: int) -> Process | None:
    """The process that has `pid` now, or None when there is none."""
    stat = _stat(pid)
    return None if stat is None else Process(pid, stat.ticks, _boot())


def living(run_id: str, leader: Process | None, *, leader_was_ours: bool = False) -> list[int]:
    """Pids of the run that are alive (zombies are not). Reads /proc; some milliseconds on a busy machine.

    `leader_was_ours` says that we have just seen `leader` exit ourselves, so its session is still its own; otherwise
    the session counts only while its leader lives.
    """
    marker = f"{RUN_ID}={run_id}".encode()
    stats = [stat for stat in _all_stats() if stat.state not in "ZX" and stat.pid != os.getpid()]
    session = _session(stats, leader, leader_was_ours=leader_was_ours)
    return [stat.pid for stat in stats if stat.session == session or marker in _environ(stat.pid)]


async def end_run(
    run_id: str, leader: Process | None, *, clock: Clock, grace_s: float, leader_was_ours: bool = False
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


def kill_now(run_id: str, leader: Process | None) -> None:
    """One round of SIGKILL, without waiting."""
    for pid in living(run_id, leader, leader_was_ours=True):
        _send(pid, signal.SIGKILL)


def _session(stats: list[_Stat], leader: Process | None, *, leader_was_ours: bool) -> int | None:
    if leader is None or leader.boot != _boot():
        return None
    now = next((stat for stat in stats if stat.pid == leader.pid), None)
    still_its_own = leader_was_ours if now is None else now.ticks == leader.ticks
    return leader.pid if still_its_own else None


def _send(pid: int, number: signal.Signals) -> None:
    # Gone meanwhile, or of another user (a setuid child): the next look tells whether it is still there.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _all_stats() -> Iterator[_Stat]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat is not None:
                yield stat


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces and parentheses itself; proc(5) counts fields from 1, `state` is the third.
    fields = text.rpartition(")")[2].split()
    return _Stat(pid=pid, state=fields[0], session=int(fields[3]), ticks=int(fields[19]))


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # another user's, or gone


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""  # a sandbox that hides it: pid and start time have to do
