"""The claim ledger on disk: an append-only write-ahead log. Each record is fsynced before agentd acts on it.

docs/architecture.md has the measured reasons for a log instead of SQLite. A crash can only tear the end of the
file, and the tear is detected. One flipped byte loses at most the record that contains it. A prebuild is claimed
once in its life, so there is nothing to query.

A second file, the mark (`ledger_mark`), names the last record, so that a lost end of the file is noticed.

A full or read-only disk does not keep the daemon from starting: the existing records are read and a repair
waits. A record that cannot be written raises an error and changes nothing.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agentd import log
from agentd.claims.ledger_format import Scan, checksum_of, encode, scan
from agentd.claims.ledger_mark import LOST_MARK, MARK_NAME, NO_RECORD, LastRecord, Mark, MarkFile, read_mark
from agentd.claims.ledger_state import INVALID_RECORD, LedgerState, apply_record, recover
from agentd.clock import rfc3339
from agentd.durable import ForeignFileError, read_file, replace_file, set_aside, sync_directory
from agentd.errors import StateError

LEDGER_NAME: Final = "claims.jsonl"
COMPACT_BYTES: Final = 1024 * 1024
FILE_MAX_BYTES: Final = 256 * 1024 * 1024
"""Far more than `MAX_CLAIMS` claims need, each with some hooks and 8 KiB of their output."""

# The ends of a claim and an operator's commands: no hook waits for them.
_SYNCED: Final = frozenset({"settle", "retry", "forget", "compact"})
_REREADS_MAX: Final = 2
_RESTART: Final = "restart agentd"
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class LedgerWriteError(StateError):
    """A record could not be made durable, so the step did not happen. A later try may succeed."""


class LedgerFile:
    """Appends records to the file and keeps the state that they give. Thread-safe."""

    def __init__(self, path: Path, *, wall: Callable[[], float]) -> None:
        """Load `path`, which may be absent, and repair it if it is damaged. Raises as `load`."""
        self._path = path
        self._wall = wall
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._log = log.get("ledger")
        self._compact_bytes = COMPACT_BYTES
        self._directory = path.parent.stat()
        self._mark = MarkFile(path.with_name(MARK_NAME))
        self.state, found, mark = load(path, now=wall())
        self._end = found.sound_bytes
        self._last = LastRecord(len(found.records), found.checksums[-1]) if found.records else NO_RECORD
        self._damaged, self._rewrite_due = bool(found.damage), found.rewrite
        if self._damaged:
            self._log.error("ledger.damaged", path=str(path), reason=self.state.damage)
        if self._rewrite_due:
            try:
                self._rewrite()
            except OSError as exc:
                self._log.error("ledger.repair_waits", path=str(path), error=str(exc))
        elif mark != Mark(self._last, self._last):
            if isinstance(mark, str):
                self._log.warning("ledger.mark_replaced", path=str(path.with_name(MARK_NAME)), reason=mark)
            try:
                self._mark.write(self._last)
            except OSError as exc:
                self._log.error("ledger.mark_waits", error=str(exc))

    def append(self, kind: str, **fields: Any) -> LedgerState:  # noqa: ANN401 - JSON of any shape
        """Write one record durably (fsync), then change `state` and return it.

        Raises `IllegalClaimStepError` or `UnknownClaimError` if the record is not valid now,
        `LedgerWriteError` if it cannot be written; nothing has changed then.
        """
        record = {"kind": kind, "at": self._wall(), **fields}
        with self._lock:
            state = apply_record(self.state, record)
            try:
                self._write(record)
            except OSError as exc:
                raise LedgerWriteError(
                    f"the claim ledger {self._path} cannot be written: {exc.strerror or exc}",
                    hint=_RESTART
                    if exc.errno == errno.ESTALE
                    else "free space on that disk or make it writable; agentd retries by itself",
                ) from exc
            self.state = state
            if self._end > self._compact_bytes:
                self._compact()
        return state

    def close(self) -> None:
        with self._lock:
            self._mark.close()
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _write(self, record: dict[str, Any]) -> None:
        if not os.path.samestat(self._path.parent.stat(), self._directory):
            # Another agentd can have the new directory: its ledger must not be overwritten.
            raise OSError(errno.ESTALE, "its directory was replaced by another one")
        fd = self._open_for_append()
        line = encode(record, self._last.seq + 1)
        # Bytes behind the last good record are from a torn or failed write. No action followed it.
        if os.fstat(fd).st_size != self._end:
            os.ftruncate(fd, self._end)
        written = 0
        while written < len(line):
            written += os.pwrite(fd, line[written:], self._end + written)
        os.fdatasync(fd)
        last = LastRecord(self._last.seq + 1, checksum_of(line))
        self._mark.write(last, sync=record["kind"] in _SYNCED)
        self._end += written
        self._last = last

    def _open_for_append(self) -> int:
        if self._rewrite_due or not self._is_intact():
            self._rewrite()
        if self._fd is None:
            created = not self._path.exists()
            self._fd = os.open(self._path, _FLAGS, 0o600)
            if created:
                sync_directory(self._path.parent)
        return self._fd

    def _is_intact(self) -> bool:
        """False if the file was removed, replaced or cut since the last record: the next start must find every record."""
        try:
            info = self._path.lstat() if self._fd is None else os.fstat(self._fd)
        except FileNotFoundError:
            return self._end == 0
        return stat.S_ISREG(info.st_mode) and info.st_nlink > 0 and info.st_size >= self._end

    def _compact(self) -> None:
        try:
            self._rewrite()
        except OSError as exc:
            self._log.warning("ledger.compaction_failed", error=str(exc))
        # At least twice the present size: a large state must not be rewritten at every record.
        self._compact_bytes = max(COMPACT_BYTES, 2 * self._end)

    def _rewrite(self) -> None:
        """Replace the file atomically by one with the present state. The rename is the commit."""
        lines = [encode(record, seq) for seq, record in enumerate(self.state.to_records(self._wall()), 1)]
        last = LastRecord(len(lines), checksum_of(lines[-1])) if lines else NO_RECORD
        if self._damaged:
            self._quarantine()
        # A damaged file must count as damaged until it is replaced, so the mark does not accept it.
        self._mark.write(last if self._damaged else self._last, last, sync=True)
        replace_file(self._path, b"".join(lines))
        self._damaged = self._rewrite_due = False
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._end, self._last = None, sum(map(len, lines)), last
        self._mark.write(last)

    def _quarantine(self) -> None:
        """Keep the damaged file under another name. A hard link, so that a ledger exists at every moment."""
        try:
            info = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISREG(info.st_mode):
            self._log.error("ledger.quarantined", kept=str(set_aside(self._path)))
            return
        if info.st_nlink > 1:
            return  # from an earlier try of this repair
        stamp = rfc3339(self._wall()).replace(":", "").partition(".")[0]
        kept = self._path.with_name(f"ledger.corrupt-{stamp}Z")
        try:
            os.link(self._path, kept)
        except OSError:
            kept.write_bytes(self._path.read_bytes())  # the file system has no hard links
        self._log.error("ledger.quarantined", kept=str(kept))


def load(path: Path, *, now: float) -> tuple[LedgerState, Scan, Mark | str | None]:
    """Read the ledger at `path` and its mark, and replay its records, without a lock. Changes nothing.

    `now` (Unix seconds) is the time of the changes that the recovery of a damaged file makes. Raises
    `NewerLedgerError`, and `StateError` if the file exists and cannot be read.
    """
    try:
        found, mark = _read_consistently(path)
    except OSError as exc:
        raise StateError(
            f"the claim ledger {path} cannot be read: {exc.strerror}",
            hint="check the permissions of its directory",
        ) from exc
    damage, state = found.damage or _loss(found, mark), LedgerState()
    for number, record in enumerate(() if damage else found.records, 1):
        try:
            state = apply_record(state, record)
        except INVALID_RECORD as exc:
            damage = f"record {number} is not valid after the previous records ({exc})"
            break
    if damage:
        why = (
            f"the ledger file was damaged ({damage}). A recorded success may be lost."
            " Held until `agentd claims retry` or `forget`"
        )
        state = recover(found.records, why=why, at=now)
        found = found._replace(damage=damage, rewrite=True)
    return state, found, mark


def _read_consistently(path: Path) -> tuple[Scan, Mark | str | None]:
    """Read mark and ledger. A daemon may write meanwhile: a compaction between the two reads looks like a loss."""
    mark = read_mark(path.with_name(MARK_NAME))
    found = _read(path)
    for _ in range(_REREADS_MAX):
        if not _loss(found, mark) or (newer := read_mark(path.with_name(MARK_NAME))) == mark:
            break
        mark, found = newer, _read(path)
    return found, mark


def _read(path: Path) -> Scan:
    try:
        return scan(read_file(path, FILE_MAX_BYTES))
    except FileNotFoundError:
        return scan(b"")
    except ForeignFileError as exc:
        return Scan((), (), 0, f"it is {exc.strerror}", rewrite=True)


def _loss(found: Scan, mark: Mark | str | None) -> str:
    """Which records are missing at the end, "" if none."""
    if isinstance(mark, Mark):
        return mark.loss(found.checksums)
    return LOST_MARK if mark is not None and not found.records else ""
