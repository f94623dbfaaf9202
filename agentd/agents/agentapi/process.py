"""Find the AgentAPI process by its pid file and end it with SIGTERM. No other process is ever signalled.

A pid file outlives a SIGKILL, and the kernel may have given its number to another process; a script that trusted the
number was seen to end an unrelated process. So agentd opens a pidfd first, which cannot refer to another process later,
then checks the process: it runs as the user who wrote the file, it is older than the file, and it is named agentapi.
"""

import asyncio
import enum
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from agentd.agents.agent import CannotEndError
from agentd.proc import PROC, read_stat

SAVE_S: Final = 0.1
"""Between SIGUSR1 and SIGTERM. Saving takes AgentAPI 2 ms (measured); an orderly stop by SIGTERM saves as well."""

_NAME: Final = "agentapi"
_PID_FILE_MAX_BYTES: Final = 32
# The kernel has its boot time in whole seconds, and the start time of a process in ticks since then.
_START_SLACK_S: Final = 2.0


class Ending(enum.StrEnum):
    """The outcome."""

    ENDED = "ended"
    ALREADY_GONE = "already gone"
    STILL_RUNNING = "still running"


class NotTheAgentError(CannotEndError):
    """Nothing was signalled: the process of the pid file is not provably AgentAPI. The message says why."""


class _Written(NamedTuple):
    """A pid file: the process id in it, the owner of the file, and when it was written (Unix seconds)."""

    pid: int
    uid: int
    at: float


async def end_agent(pid_file: Path, *, saves_state: bool, timeout_s: float) -> Ending:
    """Send SIGUSR1 if `saves_state`, then SIGTERM, and wait at most `timeout_s` for the end.

    `saves_state`: the server saves its state at SIGUSR1, which is so since 0.12.0 in PTY mode (`/status` has the
    transport); earlier servers ignore the signal or die of it. A zombie counts as ended. The process is never killed,
    because it may be saving. Raises `NotTheAgentError`.
    """
    written = _read(pid_file)
    if written is None:
        return Ending.ALREADY_GONE
    try:
        with _watched(written.pid) as (process, ended):
            # After one turn of the loop, `ended` is set for a process that had exited before.
            if await _within(ended, 0):
                return Ending.ALREADY_GONE
            _prove(written)
            if saves_state:
                signal.pidfd_send_signal(process, signal.SIGUSR1)
                await _within(ended, min(SAVE_S, timeout_s))
            signal.pidfd_send_signal(process, signal.SIGTERM)
            return Ending.ENDED if await _within(ended, timeout_s) else Ending.STILL_RUNNING
    except ProcessLookupError:
        return Ending.ALREADY_GONE
    except OSError as exc:
        raise NotTheAgentError(f"pid {written.pid} cannot be opened or signalled: {exc.strerror}") from exc


def _read(pid_file: Path) -> _Written | None:
    """None if there is no such file: AgentAPI removes it at an orderly end."""
    try:
        # Without O_NONBLOCK, opening a FIFO at that path would block.
        with open(pid_file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            info, text = os.fstat(file.fileno()), file.read(_PID_FILE_MAX_BYTES) or b""
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise NotTheAgentError(f"pid file {pid_file} cannot be read: {exc.strerror}") from exc
    number = text.strip()
    if not number.isdigit() or not 1 < int(number) < 2**31:
        raise NotTheAgentError(f"pid file {pid_file} holds no process id")
    return _Written(int(number), info.st_uid, info.st_mtime)


@contextmanager
def _watched(pid: int) -> Iterator[tuple[int, asyncio.Event]]:
    """A pidfd of the process, and an event that is set when the process has exited, also as a zombie."""
    process = os.pidfd_open(pid)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process, ended.set)
    try:
        yield process, ended
    finally:
        loop.remove_reader(process)
        os.close(process)


async def _within(ended: asyncio.Event, timeout_s: float) -> bool:
    waiting = asyncio.ensure_future(ended.wait())
    await asyncio.wait({waiting}, timeout=timeout_s)
    waiting.cancel()
    return ended.is_set()


def _prove(written: _Written) -> None:
    """Raise `NotTheAgentError` unless this process wrote the pid file."""
    place = PROC / str(written.pid)
    stat = read_stat(written.pid)
    if stat is None:
        raise NotTheAgentError(f"cannot read {place}/stat")
    try:
        uid = place.stat().st_uid
        started_at = _boot_at() + stat.start_ticks / os.sysconf("SC_CLK_TCK")
        names = _names(place)
    except (OSError, ValueError) as exc:
        raise NotTheAgentError(f"cannot read /proc/{written.pid}: {exc}") from exc
    if uid != written.uid:
        raise NotTheAgentError(f"pid {written.pid} belongs to user {uid}, its pid file to user {written.uid}")
    if started_at > written.at + _START_SLACK_S:
        raise NotTheAgentError(
            f"pid {written.pid} started after the pid file was written, so it is not AgentAPI"
        )
    if not any(name.startswith(_NAME) for name in names):
        raise NotTheAgentError(f"pid {written.pid} is {names[0] or 'nameless'}, not {_NAME}")


def _boot_at() -> float:
    for line in (PROC / "stat").read_bytes().splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    raise ValueError("no btime in /proc/stat")


def _names(place: Path) -> list[str]:
    """The names of the process: its program, and arguments of its command line that are exactly the name."""
    program = (place / "exe").readlink().name
    words = (place / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    # `python -m … agentapi` matches; `tail -f agentapi.log` and `vim agentapi.pid` do not.
    return [program, *(name for word in words if (name := word.rpartition("/")[2]) == _NAME)]
