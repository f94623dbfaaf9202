"""Follows an append-only JSON Lines file that another program writes: whole lines only, in bounded time and memory.

A session file can have a gigabyte, so it is never read from its start: the first read goes backwards from the end in
blocks until the caller has enough, the later ones take what was appended. The text in it is not trusted.
"""

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

LINE_MAX_BYTES: Final = 8 << 20
"""A longer line is skipped and counted."""
READ_MAX_BYTES: Final = 32 << 20
"""Bytes that one call reads."""
READ_MAX_S: Final = 1.0
"""Time after which one call ends; the next one continues."""
BLOCK_BYTES: Final = 256 << 10

Record = dict[str, Any]


class Read(NamedTuple):
    """What one call found.

    `records` are JSON objects in the order of the file. `restarted`: they replace all earlier ones, because the file is
    read for the first time, was truncated, or is another file now. `skipped` counts lines that are no JSON object, by
    reason: `json`, `long`.
    """

    records: list[Record]
    restarted: bool
    skipped: dict[str, int]


class SessionFile:
    """One file. Every call blocks on the disk: call it in a `WorkerThread`.

    Only a regular file of `owner` (uid) is opened, and no symbolic link.
    """

    def __init__(self, path: Path, *, owner: int) -> None:
        self.path = path
        self._owner = owner
        self._inode = 0
        self._offset = 0
        self._skipping = False

    def read(self, enough: Callable[[list[Record]], bool]) -> Read:
        """The records since the last call; at the first call the last records, back to where `enough(records)` is true.

        `enough` gets the records that were read so far, in the order of the file. Raises `OSError`, also for a file
        that is not a regular file of the owner.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self.path, flags)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_uid != self._owner:
                raise PermissionError(f"{self.path} is not a regular file of user {self._owner}")
            if info.st_ino != self._inode or info.st_size < self._offset:
                self._inode = info.st_ino
                return self._read_end(fd, info.st_size, enough)
            return self._read_on(fd, info.st_size)
        finally:
            os.close(fd)

    def _read_end(self, fd: int, size: int, enough: Callable[[list[Record]], bool]) -> Read:
        """Read backwards, doubling the part of the file that is read, until `enough` or a limit."""
        ends_at = time.monotonic() + READ_MAX_S
        self._skipping = False
        length = min(size, BLOCK_BYTES)
        data = _pread(fd, length, size - length)
        while True:
            start = size - len(data)
            records, skipped, used = _records(data, is_start=start == 0)
            if start == 0 or len(data) >= READ_MAX_BYTES or time.monotonic() > ends_at or enough(records):
                self._offset = start + used
                return Read(records, restarted=True, skipped=skipped)
            more = min(start, max(len(data), BLOCK_BYTES), READ_MAX_BYTES - len(data))
            data = _pread(fd, more, start - more) + data

    def _read_on(self, fd: int, size: int) -> Read:
        ends_at = time.monotonic() + READ_MAX_S
        records: list[Record] = []
        skipped: dict[str, int] = {}
        taken = 0
        while self._offset < size and taken < READ_MAX_BYTES and time.monotonic() < ends_at:
            data = _pread(fd, min(size - self._offset, LINE_MAX_BYTES), self._offset)
            if not data:
                break
            taken += len(data)
            if self._skipping:
                end = data.find(b"\n") + 1
                self._offset += end or len(data)
                self._skipping = not end
                continue
            found, lost, used = _records(data, is_start=True)
            records += found
            _add(skipped, lost)
            if not used and len(data) >= LINE_MAX_BYTES:
                _add(skipped, {"long": 1})
                self._skipping, used = True, len(data)
            self._offset += used
            if not used:
                break  # the last line is not whole yet
        return Read(records, restarted=False, skipped=skipped)


def _records(data: bytes, *, is_start: bool) -> tuple[list[Record], dict[str, int], int]:
    """The objects in the whole lines of `data`, what was skipped, and the bytes up to the end of the last whole line.

    Without `is_start`, `data` begins inside a line, which is left out.
    """
    begin = 0 if is_start else data.find(b"\n") + 1
    end = data.rfind(b"\n") + 1
    records: list[Record] = []
    skipped: dict[str, int] = {}
    if not is_start and begin == 0:
        return records, skipped, 0
    for line in data[begin:end].split(b"\n"):
        if not line.strip():
            continue
        if len(line) > LINE_MAX_BYTES:
            _add(skipped, {"long": 1})
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # also bytes that are not UTF-8, and a number of 5,000 digits
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            _add(skipped, {"json": 1})
    return records, skipped, end


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for reason, count in more.items():
        counts[reason] = counts.get(reason, 0) + count


def _pread(fd: int, length: int, offset: int) -> bytes:
    blocks = []
    while length > 0 and (block := os.pread(fd, length, offset)):
        blocks.append(block)
        length -= len(block)
        offset += len(block)
    return b"".join(blocks)
