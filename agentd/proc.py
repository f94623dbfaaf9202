"""Reads `/proc`: processes, identified so that a reused pid is not mistaken for one, and listening sockets."""

from pathlib import Path
from typing import Final, NamedTuple

PROC: Final = Path("/proc")
_LISTEN: Final = "0A"


class ProcessStat(NamedTuple):
    """One line of `/proc/PID/stat` (proc(5)). `state` is one letter, `start_ticks` counts from the boot."""

    pid: int
    state: str
    parent: int
    session: int
    start_ticks: int


class ProcessIdentity(NamedTuple):
    """Identifies a process: within one boot the kernel does not reuse a pid with the same start time.

    `ticks` is the start time in clock ticks since boot, `boot` the boot id ("" where the sandbox hides it).
    """

    pid: int
    ticks: int
    boot: str


class ListeningSocket(NamedTuple):
    """A TCP socket in the state LISTEN. `inode` identifies it: the kernel does not use one for a second socket."""

    uid: int
    inode: int


def read_stat(pid: int, *, proc: Path = PROC) -> ProcessStat | None:
    """The process that has `pid` now; None if there is none or the kernel does not let this user read it."""
    try:
        line = (proc / str(pid) / "stat").read_bytes()
        # The second field, the name in parentheses, can contain spaces and parentheses, so the fields are
        # counted from its end: proc(5) numbers the state 3, the parent 4, the session 6, the start time 22.
        fields = line.rpartition(b")")[2].split()
        return ProcessStat(pid, fields[0].decode("ascii"), int(fields[1]), int(fields[3]), int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def read_name(pid: int, *, proc: Path = PROC) -> str:
    """The command name of a process, at most 15 characters; "" if it cannot be read."""
    try:
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return ""


def all_stats(*, proc: Path = PROC) -> list[ProcessStat]:
    """Every process that this user can read. Takes some milliseconds on a machine with many processes."""
    pids = [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()]
    return [stat for pid in pids if (stat := read_stat(pid, proc=proc)) is not None]


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the process that has `pid` now; None if there is none."""
    stat = read_stat(pid)
    return None if stat is None else ProcessIdentity(pid, stat.start_ticks, boot_id())


def boot_id() -> str:
    """The kernel's id of this boot; "" in a sandbox that hides it."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def listening_sockets(port: int, *, proc: Path = PROC) -> list[ListeningSocket]:
    """The sockets of this network namespace that listen on TCP `port`, on any address (proc_net_tcp.txt)."""
    found = []
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "self/net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue  # a machine without IPv6 has no tcp6
        for line in lines:
            # sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.append(ListeningSocket(uid=int(fields[7]), inode=int(fields[9])))
    return found
