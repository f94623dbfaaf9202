"""Finds and ends every process of one hook run, also of a run that a killed agentd left behind.

Each run has a unique id. A process of the run is found by any of these:

- `AGENTD_RUN_ID` in its environment.
- The run's mark, a soft limit that every descendant inherits, also one that `env -i setsid` started. Linux has not
  used this limit (RLIMIT_LOCKS) since 2.4.25, so its value has no other effect.
- The run's control group, where agentd can make one (cgroup v2, writable). It also ends processes that fork faster
  than they are found.
- The session of the recorded leader. The leader is identified by pid, start time and boot, because the kernel reuses
  pids.

All but the last follow from the run id, so they work even if agentd died between the start of the hook and the record of
its pid. A subreaper would not: it inherits the orphans of all runs, and only while it lives.
"""

import asyncio
import contextlib
import hashlib
import os
import resource
import signal
import time
from pathlib import Path
from typing import Final

from agentd.clock import Clock
from agentd.proc import PROC, ProcessIdentity, ProcessStat, all_stats, boot_id

RUN_ID: Final = "AGENTD_RUN_ID"
KILL_S: Final = 5.0  # a process ends microseconds after SIGKILL, unless it is stuck in the kernel
_POLL_S: Final = 0.05
_RLIMIT_LOCKS: Final = 10
_LIMIT_NAME: Final = b"Max file locks"
_GROUP_PREFIX: Final = "agentd-run-"
_NEW_GROUP_S: Final = 60.0


class RunMarks:
    """The mark and the control group of the run `run_id`, whether or not it has one. Blocks on /proc."""

    def __init__(self, run_id: str) -> None:
        # A hash, because the id comes from a file and becomes a part of a path.
        digest = hashlib.sha256(f"agentd run {run_id}".encode()).hexdigest()
        self._limit = int(digest[:12], 16) | 1 << 48
        own = _own_group()
        self._group = None if own is None else own / f"{_GROUP_PREFIX}{digest[:24]}"

    def remove_empty_groups(self) -> None:
        """Remove the control groups of this run and of earlier ones whose last process has ended.

        A new group of another run is left alone: its process may not have joined it yet.
        """
        if self._group is not None:
            with contextlib.suppress(OSError):
                for earlier in self._group.parent.glob(f"{_GROUP_PREFIX}*"):
                    if earlier == self._group or time.time() - earlier.stat().st_mtime > _NEW_GROUP_S:
                        _remove_group(earlier)

    def apply(self) -> None:
        """Mark this process: for the child, between fork and exec. A system that refuses is no obstacle."""
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(_RLIMIT_LOCKS, (self._limit, resource.getrlimit(_RLIMIT_LOCKS)[1]))
        if self._group is not None:
            _join(self._group)

    def pids(self, among: list[int]) -> set[int]:
        """The pids of `among` that are marked, and those of the control group."""
        wanted = b"%d" % self._limit
        return {pid for pid in among if _soft_limit(pid) == wanted} | self._group_pids().intersection(among)

    def kill_group(self) -> None:
        if self._group is not None:
            with contextlib.suppress(OSError):
                (self._group / "cgroup.kill").write_bytes(b"1")

    def remove_group(self) -> None:
        """Remove the run's control group, unless processes are left in it."""
        if self._group is not None:
            _remove_group(self._group)

    def _group_pids(self) -> set[int]:
        if self._group is None:
            return set()
        try:
            return {int(line) for line in (self._group / "cgroup.procs").read_bytes().split()}
        except (OSError, ValueError):
            return set()


def living(run_id: str, leader: ProcessIdentity | None, *, leader_was_child: bool = False) -> list[int]:
    """The pids of the run that are alive (no zombies). Reads /proc: milliseconds on a busy machine.

    `leader_was_child`: `leader` was a child of this process until now, so its session id cannot have been
    reused. Otherwise the session counts only while the leader lives.
    """
    variable = f"{RUN_ID}={run_id}".encode()
    stats = [stat for stat in all_stats() if stat.state not in "ZX" and stat.pid != os.getpid()]
    session = _session(stats, leader, leader_was_child=leader_was_child)
    marked = RunMarks(run_id).pids([stat.pid for stat in stats])
    return [
        stat.pid
        for stat in stats
        if stat.session == session or stat.pid in marked or variable in _environ(stat.pid)
    ]


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
            await asyncio.to_thread(RunMarks(run_id).remove_group)
            return True
        killing = clock.monotonic() >= kill_at
        if killing:
            await asyncio.to_thread(RunMarks(run_id).kill_group)
        for pid in pids:
            if killing or pid not in signalled:
                _send(pid, signal.SIGKILL if killing else signal.SIGTERM)
        signalled.update(pids)
        await clock.sleep(_POLL_S)
    return not await asyncio.to_thread(living, run_id, leader, leader_was_child=leader_was_child)


def kill_now(run_id: str, leader: ProcessIdentity | None) -> None:
    """Send SIGKILL once to every process of the run of a former child, without waiting."""
    RunMarks(run_id).kill_group()
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


def _soft_limit(pid: int) -> bytes:
    try:
        limits = (PROC / str(pid) / "limits").read_bytes()
    except OSError:
        return b""
    value = limits.partition(_LIMIT_NAME)[2].split(maxsplit=1)
    return value[0] if value else b""


def _own_group() -> Path | None:
    """The directory of this process's cgroup v2; None if there is none or it is not in the mounted tree."""
    try:
        lines = (PROC / "self/cgroup").read_text().splitlines()
        own = next(line[3:] for line in lines if line.startswith("0::"))
        mounts = [line.split(" ") for line in (PROC / "self/mountinfo").read_text().splitlines()]
        # proc(5): field 4 is the root of the mount in its file system, field 5 the mount point.
        root, point = next((one[3], one[4]) for one in mounts if one[one.index("-") + 1] == "cgroup2")
        group = Path(point) / Path(own).relative_to(root)
    except (OSError, StopIteration, ValueError):
        return None
    return group if ".." not in group.parts else None


def _join(group: Path) -> None:
    """Create the control group if necessary, and move this process into it, where that is possible."""
    with contextlib.suppress(OSError):
        group.mkdir(mode=0o755, exist_ok=True)
        (group / "cgroup.procs").write_bytes(b"0")


def _remove_group(group: Path) -> None:
    with contextlib.suppress(OSError):  # processes are left in it, or it was never made
        group.rmdir()
