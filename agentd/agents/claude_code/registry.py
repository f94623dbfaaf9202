"""Reads Claude Code's registry of live processes: `sessions/PID.json` below its folder.

A row is removed at a clean exit and stays after SIGKILL, so its process is identified by pid and start time. It is
rewritten in place (`write`, then `ftruncate`), so a reader can see new text with an old tail. The `.key` files beside
the rows are tokens, and are never opened.
"""

import os
import re
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple

from agentd.agents.claude_code.row import Row, RowError, parse_row
from agentd.proc import read_stat

ROW_MAX_BYTES: Final = 64 << 10
READS_MAX: Final = 4
"""A row that is being rewritten is read again this often."""
READ_AGAIN_S: Final = 0.01
ROWS_MAX: Final = 64
"""Live processes that are observed."""

_NAME: Final = re.compile(r"([1-9][0-9]{0,9})\.json")


class Rows(NamedTuple):
    """`live`: the rows of processes that run. `stale`: files of processes that do not. `broken`: problems of rows of
    processes that run, by file name. `unreadable`: why nothing could be read, "" if it could.
    """

    live: tuple[Row, ...] = ()
    stale: int = 0
    broken: tuple[str, ...] = ()
    unreadable: str = ""


def read_registry(folder: Path, *, owner: int) -> Rows:
    """Every row of a live process. Blocks on the disk. A folder that does not exist has no rows."""
    try:
        fd = os.open(folder / "sessions", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return Rows()
    except OSError as exc:
        return Rows(unreadable=f"{folder / 'sessions'}: {exc.strerror}")
    try:
        if os.fstat(fd).st_uid != owner:
            return Rows(unreadable=f"{folder / 'sessions'} does not belong to user {owner}")
        names = [match for name in os.listdir(fd) if (match := _NAME.fullmatch(name))]  # noqa: PTH208 - a descriptor
        return _read_rows(fd, {int(match[1]): match[0] for match in names}, owner)
    except OSError as exc:
        return Rows(unreadable=f"{folder / 'sessions'}: {exc.strerror}")
    finally:
        os.close(fd)


def _read_rows(fd: int, names: dict[int, str], owner: int) -> Rows:
    live: list[Row] = []
    broken: list[str] = []
    stale = 0
    for pid, name in sorted(names.items()):
        process = read_stat(pid)
        if process is None or process.state in "ZX" or len(live) >= ROWS_MAX:
            stale += 1
            continue
        try:
            row = _read_row(fd, name, owner)
        except FileNotFoundError:
            continue  # removed since the folder was listed
        except (OSError, RowError) as exc:
            broken.append(f"sessions/{name} {exc.strerror if isinstance(exc, OSError) else exc}")
            continue
        if (row.pid, row.start_ticks) == (pid, process.start_ticks):
            live.append(row)
        else:
            stale += 1
    return Rows(tuple(live), stale, tuple(broken))


def _read_row(directory: int, name: str, owner: int) -> Row:
    """Raises `RowError` for a file that is no row, also when it is read again, and `OSError`."""
    for attempt in range(READS_MAX):
        if attempt:
            time.sleep(READ_AGAIN_S)
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_uid != owner:
                raise PermissionError(1, "is not a regular file of the agent's user")
            text = os.read(fd, ROW_MAX_BYTES)
        finally:
            os.close(fd)
        try:
            return parse_row(text)
        except RowError:
            if attempt == READS_MAX - 1:
                raise
    raise AssertionError
