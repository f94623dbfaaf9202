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
"""The first block that is read backwards; each further one is twice as large, up to `BLOCK_MAX_BYTES`."""
BLOCK_MAX_BYTES: Final = 2 << 20

Record = dict[str, Any]


class Read(NamedTuple):
    """What one call found.

    `records` are JSON objects in the order of the file. `restarted`: they replace all earlier ones, because the file is
    read for the first time, was truncated, or is another file now. `skipped` counts lines that are no JSON object, by
    reason: `json`, `long`. `is_whole`: a restarted read reached the start of the file.
    `has_more`: a limit ended the call before the last whole line.
    """

    records: list[Record]
    restarted: bool
    skipped: dict[str, int]
    is_whole: bool = False
    has_more: bool = False


class SessionFile:
    """One file. Every call blocks on the disk: call it in a `WorkerThread`.

    Only a regular file of `owner` (uid) is opened, and no symbolic link. `skim` gets each line before it is parsed, and
    may return a record of its own in place of it: {} leaves the line out, None has it parsed.
    """

    def __init__(
        self, path: Path, *, owner: int, skim: Callable[[bytes], Record | None] | None = None
    ) -> None:
        self.path = path
        self._owner = owner
        self._skim = skim
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

    def restart(self) -> None:
        """Read the end of the file anew at the next call."""
        self._inode = 0

    def _read_end(self, fd: int, size: int, enough: Callable[[list[Record]], bool]) -> Read:
        """Read backwards, block by block, until `enough` or a limit. Only one block and one line are in memory."""
        ends_at = time.monotonic() + READ_MAX_S
        records: list[Record] = []
        skipped: dict[str, int] = {}
        start, block, has_end, is_long = size, BLOCK_BYTES, False, False
        line = b""  # the end of a line that begins in a block before
        while start > 0 and size - start < READ_MAX_BYTES and time.monotonic() < ends_at:
            length = min(start, block)
            start, block = start - length, min(2 * block, BLOCK_MAX_BYTES)
            data = _pread(fd, length, start)
            if not has_end or is_long:
                # What is behind the last line break is not whole yet, or belongs to a line that is too long.
                end = data.rfind(b"\n") + 1
                data = data[:end]
                if end and not has_end:
                    self._offset, has_end = start + end, True
                is_long = is_long and not end
            data += line
            begin = data.find(b"\n") + 1 if start > 0 else 0
            line = data[:begin] or data
            if begin or start == 0:
                found, lost = self._records(data[begin:])
                records = found + records
                _add(skipped, lost)
            if start > 0 and len(line) > LINE_MAX_BYTES:
                _add(skipped, {"long": 1})
                line, is_long = b"", True
            if begin and enough(records):
                break
        if not has_end:
            self._offset = start
        self._skipping = not has_end and start > 0
        return Read(records, restarted=True, skipped=skipped, is_whole=start == 0)

    def _read_on(self, fd: int, size: int) -> Read:
        ends_at = time.monotonic() + READ_MAX_S
        records: list[Record] = []
        skipped: dict[str, int] = {}
        taken = 0
        is_partial = False
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
            used = data.rfind(b"\n") + 1
            found, lost = self._records(data[:used])
            records += found
            _add(skipped, lost)
            if not used and len(data) >= LINE_MAX_BYTES:
                _add(skipped, {"long": 1})
                self._skipping, used = True, len(data)
            self._offset += used
            if not used:
                is_partial = True
                break
        has_more = self._offset < size and not is_partial
        return Read(records, restarted=False, skipped=skipped, has_more=has_more)

    def _records(self, data: bytes) -> tuple[list[Record], dict[str, int]]:
        """The objects in the whole lines of `data`, and what was skipped."""
        records: list[Record] = []
        skipped: dict[str, int] = {}
        for line in data.split(b"\n"):
            if not line.strip():
                continue
            if len(line) > LINE_MAX_BYTES:
                _add(skipped, {"long": 1})
                continue
            record = self._skim(line) if self._skim else None
            if record is None:
                try:
                    record = json.loads(line)
                except (
                    ValueError,
                    RecursionError,
                ):  # also bytes that are not UTF-8, and a number of 5,000 digits
                    record = None
            if not isinstance(record, dict):
                _add(skipped, {"json": 1})
            elif record:
                records.append(record)
        return records, skipped


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
