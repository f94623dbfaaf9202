"""Finds the processes that write Codex threads, by the locks that they hold. It takes no lock itself.

A writer holds `thread-writer-locks/THREAD.lock` as long as the thread is open: in the terminal, or in the daemon, also
after its terminal was closed. The file of a killed process stays, so only `/proc/locks` tells who holds it.
"""

import os
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple

from agentd.agents.codex.rollout import is_thread_id
from agentd.proc import PROC, all_stats, read_name, read_stat

FOLDER: Final = "thread-writer-locks"
LOCKS_MAX: Final = 4096
"""Lock files that are looked at: killed processes leave theirs behind."""
PROGRAM: Final = "codex"


class Writer(NamedTuple):
    """The process that has a thread open. `started_at` is in Unix seconds, 0.0 if it is not known.

    `ticks` is its start as the kernel counts it: with the pid it identifies the process, also when the clock is set.
    """

    pid: int
    started_at: float
    ticks: int = 0


def writers(folder: Path, owner: int) -> dict[str, Writer] | None:
    """The writer of each thread that is open. None if the locks cannot be read, so that nothing is known."""
    inodes = {}
    try:
        with os.scandir(folder / FOLDER) as entries:
            for count, entry in enumerate(entries):
                name, dot, suffix = entry.name.partition(".")
                if count >= LOCKS_MAX or not dot or suffix != "lock" or not is_thread_id(name):
                    continue
                inodes[entry.stat(follow_symlinks=False).st_ino] = name
        lines = (PROC / "locks").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    held = {}
    for line in lines:
        fields = line.split()
        if len(fields) < 6 or fields[1] == "->":  # it waits for a lock
            continue
        inode = fields[5].rpartition(":")[2]
        thread = inodes.get(int(inode)) if inode.isdecimal() else None
        # A file of another file system can have the same inode; device numbers differ on overlay and btrfs.
        if thread is not None and fields[4].isdecimal() and _owner(int(fields[4])) == owner:
            held[thread] = writer_of(int(fields[4]))
    return held


def programs(owner: int) -> list[Writer]:
    """The Codex processes of a user. For releases without locks."""
    return [
        writer_of(stat.pid)
        for stat in all_stats()
        if read_name(stat.pid) == PROGRAM and _owner(stat.pid) == owner
    ]


def writer_of(pid: int) -> Writer:
    process = read_stat(pid)
    if process is None:
        return Writer(pid, 0.0)
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - process.start_ticks / os.sysconf("SC_CLK_TCK")
    return Writer(pid, time.time() - age_s, process.start_ticks)


def socket_of(folder: Path, owner: int) -> Path | None:
    """The control socket of Codex's daemon; None if there is none, or if it belongs to another user.

    Its name is a link into a directory below `/tmp`.
    """
    path = folder / "app-server-control" / "app-server-control.sock"
    try:
        info = path.stat()
        if stat.S_ISSOCK(info.st_mode) and info.st_uid == owner:
            return path.resolve()
    except OSError:
        pass
    return None


def _owner(pid: int) -> int:
    try:
        return (PROC / str(pid)).stat().st_uid
    except OSError:
        return -1
