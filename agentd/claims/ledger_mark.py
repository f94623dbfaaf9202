"""The high-water mark of the claim ledger: which record was written last. It notices that the ledger lost its end.

The ledger's own format shows a flipped byte and a missing line in the middle. A file that was truncated between two
records, emptied or removed looks like one that never had more. So a second file, `claims.mark`, holds the sequence number
and the checksum of the last record; a ledger without exactly that record is damaged.

    0000000007 1c291ca3 0000000007 1c291ca3 5f3a0b11

The order of the writes: the record is written and fsynced, then the mark is overwritten in place, then `append` returns
and agentd acts on the record.

- No false alarm. The mark never names a record that is not durable. After a SIGKILL between the two writes the mark is one
  record behind, which is no alarm. After a power cut it can be further behind, because it is not fsynced. It cannot be
  ahead of a disk that keeps what it has fsynced. Its 49 bytes are in one sector, so a disk writes all of them or none.
- No acted-upon record is missed. `append` returns only after the mark names the record. A SIGKILL does not lose what the
  kernel has taken over, so no fsync of the mark is needed, and the path from claim to hook has none more than the ledger's
  own. The end of a claim is off that path, and there the mark is fsynced: a power cut that also damages the ledger can hide
  only the records of a claim that was not settled, and only those younger than the kernel's write-back (30 s).
- Compaction starts the sequence numbers again. Before the new ledger is renamed into place, the mark names the last record
  of the old file and that of the new one, and is fsynced. Either file is then whole, whenever a crash comes.

The file is created at the start, without an fsync, because a hung disk must not hold a start. A power cut can leave it empty
or full of zeros; that counts as no mark. Any other mark that cannot be read is a lost one: next to a ledger without records
it is damage, next to a ledger with records it is written anew. If ledger and mark are both gone, the directory was reset, and
agentd starts with an empty ledger.
"""

import errno
import os
import re
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from agentd.durable import ForeignFileError, create_file, read_file

MARK_NAME: Final = "claims.mark"

_MAX_BYTES: Final = 4096
_LINE: Final = re.compile(rb"(\d{10}) ([0-9a-f]{8}) (\d{10}) ([0-9a-f]{8}) ([0-9a-f]{8})\n")
_FLAGS: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LastRecord(NamedTuple):
    """The last record of a ledger file: its sequence number and checksum. `NO_RECORD` of an empty one."""

    seq: int
    checksum: int


NO_RECORD: Final = LastRecord(0, 0)


class Mark(NamedTuple):
    """What the mark accepts as the last record written: the same one twice, except around a compaction."""

    last: LastRecord
    alternative: LastRecord

    def loss(self, checksums: Sequence[int]) -> str:
        """What a ledger with the records of these `checksums` has lost, "" if nothing."""
        if any(_has(checksums, one) for one in self):
            return ""
        if len(checksums) < self.last.seq:
            return f"it has {len(checksums)} records, and record {self.last.seq} was written"
        return f"record {self.last.seq} is not the one that was written"


LOST_MARK: Final = "it has no records, and the mark of the last one cannot be read"


def _has(checksums: Sequence[int], last: LastRecord) -> bool:
    return not last.seq or (last.seq <= len(checksums) and checksums[last.seq - 1] == last.checksum)


def read_mark(path: Path) -> Mark | str | None:
    """The mark; why it cannot be read; None if there is none or it was never written. Raises `OSError` if the disk refuses to read it."""
    try:
        data = read_file(path, _MAX_BYTES)
    except FileNotFoundError:
        return None
    except ForeignFileError as exc:
        return exc.strerror
    if not data.strip(b"\0"):
        return None
    line = _LINE.fullmatch(data)
    if line is None or int(line[5], 16) != zlib.crc32(line[0][:40]):
        return "it is not a mark of agentd"
    return Mark(
        LastRecord(int(line[1]), int(line[2], 16)),
        LastRecord(int(line[3]), int(line[4], 16)),
    )


class MarkFile:
    """Writes the mark. Not thread-safe: the ledger's lock serialises the calls."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def write(self, last: LastRecord, alternative: LastRecord | None = None, *, sync: bool = False) -> None:
        """Overwrite the mark in place, or create it. Raises `OSError`. Calls fsync only with `sync`."""
        pairs = b"%010d %08x %010d %08x " % (*last, *(last if alternative is None else alternative))
        line = b"%b%08x\n" % (pairs, zlib.crc32(pairs))
        # A file that was removed while open would not be found by the next start.
        if self._fd is not None and os.fstat(self._fd).st_nlink == 0:
            self.close()
        if self._fd is None:
            self._fd = self._opened(len(line))
        if self._fd is None:
            self._fd = create_file(self._path)
        if os.pwrite(self._fd, line, 0) != len(line):
            raise OSError(errno.EIO, "the mark was written in part")
        if sync:
            os.fdatasync(self._fd)

    def _opened(self, size: int) -> int | None:
        """The open file; None if there is none that can be overwritten in place."""
        try:
            fd = os.open(self._path, _FLAGS)
        except OSError:
            return None
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and info.st_size == size:
            return fd
        os.close(fd)
        return None

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
