"""AgentAPI as a process of this machine, found by its pid file and ended politely. Signals nothing else, ever.

A pid file outlives a SIGKILL, and its number may be anybody's by then: the script that did this before was seen to end
a stranger that way. So the process is held by a pidfd, which cannot come to mean another one, and then has to prove
itself: it runs as the user who wrote the file, it is older than the file, and it is named agentapi.
"""

import asyncio
import enum
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import PeerError
from agentd.proc import PROC, read_stat

__all__ = ["Ending", "NotTheAgent", "end_agent"]

SAVE_S: Final = 0.1
"""From SIGUSR1 to SIGTERM. Saving takes AgentAPI 2 ms (measured); SIGTERM saves as well, where it is in order."""

_NAME: Final = "agentapi"
_PID_FILE_MAX_BYTES: Final = 32
# The kernel tells when it booted in whole seconds, and the start of a process in ticks since.
_START_SLACK_S: Final = 2.0


class Ending(enum.StrEnum):
    """What became of it."""

    ENDED = "ended"
    ALREADY_GONE = "already gone"
    STILL_RUNNING = "still running"


class NotTheAgent(PeerError):
    """Nothing was signalled: what the pid file names is not provably AgentAPI. The message says why."""


@dataclass(frozen=True, slots=True)
class _Written:
    """A pid file: what it names, who wrote it and when (Unix seconds)."""

    pid: int
    uid: int
    at: float


async def end_agent(pid_file: Path, *, saves_state: bool, timeout_s: float) -> Ending:
    """SIGUSR1 where that saves its state (`saves_state`), SIGTERM, and a wait of at most `timeout_s`.

    `saves_state`: 0.12.0 and later in PTY mode, which is what `/status` tells by its transport; earlier ones ignore the
    signal or die of it. A process that has exited and that nobody has waited for (a zombie) has ended. It is never
    killed: it may be saving. Raises `NotTheAgent`.
    """
    written = _read(pid_file)
    if written is None:
        return Ending.ALREADY_GONE
    try:
        with _held(written.pid) as process, _ended(process) as ended:
            # One turn of the loop tells of a process that has exited.
            if await _within({ended}, 0):
                return Ending.ALREADY_GONE
            _prove(written)
            if saves_state:
                signal.pidfd_send_signal(process, signal.SIGUSR1)
                await _within({ended}, min(SAVE_S, timeout_s))
            signal.pidfd_send_signal(process, signal.SIGTERM)
            return Ending.ENDED if await _within({ended}, timeout_s) else Ending.STILL_RUNNING
    except ProcessLookupError:
        return Ending.ALREADY_GONE
    except OSError as error:
        raise NotTheAgent(f"pid {written.pid} cannot be held or signalled: {error.strerror}") from error


def _read(pid_file: Path) -> _Written | None:
    """None when there is no such file: AgentAPI takes it away when it ends in order."""
    try:
        # A FIFO at that path must not hold us up.
        with open(pid_file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            info, text = os.fstat(file.fileno()), file.read(_PID_FILE_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotTheAgent(f"pid file {pid_file} cannot be read: {error.strerror}") from error
    number = text.strip()
    if not number.isdigit() or not 1 < int(number) < 2**31:
        raise NotTheAgent(f"pid file {pid_file} holds no process id")
    return _Written(int(number), info.st_uid, info.st_mtime)


@contextmanager
def _held(pid: int) -> Iterator[int]:
    process = os.pidfd_open(pid)
    try:
        yield process
    finally:
        os.close(process)


@contextmanager
def _ended(process: int) -> Iterator["asyncio.Future[None]"]:
    """Done when the process has exited, whether or not its parent has waited for it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        loop.remove_reader(process)
        ended.set_result(None)

    loop.add_reader(process, on_readable)
    try:
        yield ended
    finally:
        loop.remove_reader(process)


async def _within(ended: "set[asyncio.Future[None]]", timeout_s: float) -> bool:
    done, _ = await asyncio.wait(ended, timeout=timeout_s)
    return bool(done)


def _prove(written: _Written) -> None:
    """Raises `NotTheAgent` unless the process, which is held and lives, is the one that the file was written by."""
    place = PROC / str(written.pid)
    stat = read_stat(written.pid)
    if stat is None:
        raise NotTheAgent(f"pid {written.pid}: cannot read {place}/stat")
    try:
        uid = place.stat().st_uid
        started_at = _boot_at() + stat.start_ticks / os.sysconf("SC_CLK_TCK")
        names = _names(place)
    except (OSError, ValueError) as error:
        raise NotTheAgent(f"pid {written.pid}: the kernel does not tell what it is ({error})") from error
    if uid != written.uid:
        raise NotTheAgent(f"pid {written.pid} belongs to user {uid}, its pid file to user {written.uid}")
    if started_at > written.at + _START_SLACK_S:
        raise NotTheAgent(f"pid {written.pid} is younger than its pid file: the number was given to another")
    if not any(name.startswith(_NAME) for name in names):
        raise NotTheAgent(f"pid {written.pid} is {names[0] or 'nameless'}, not {_NAME}")


def _boot_at() -> float:
    for line in (PROC / "stat").read_bytes().splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    raise ValueError("no time of boot")


def _names(place: Path) -> list[str]:
    """What the process is called: its program, and the words of its command line that are exactly the name."""
    program = (place / "exe").readlink().name
    words = (place / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    # `tail -f agentapi.log` is called so as little as `vim agentapi.pid`; `python -m … agentapi` is.
    return [program, *(name for word in words if (name := word.rpartition("/")[2]) == _NAME)]
