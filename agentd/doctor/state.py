"""The state directory and what lies in it: looked at as it is, nothing made, repaired or set aside."""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from agentd.claims.ledger import Ledger
from agentd.claims.ledger_format import NewerLedgerError
from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.errors import StateError
from agentd.snapshots.entry import FILE_MAX_BYTES, DamagedError, NewerSpoolSchemaError, decode

# A snapshot and the ledger, each written beside the old one, and as much again for what a hook may leave.
NEEDED_BYTES = 1 << 20
COMFORTABLE_BYTES = 64 << 20
# What one durable write needs: the largest snapshot.
_TRIAL_BYTES = 64 << 10

_ROOM = "free space there, or set state.dir (AGENTD_STATE_DIR) to another disk"
_UPGRADE = "run the newer agentd again, or move the file away to begin anew"


def examine(path: Path, spool: Path) -> list[Finding]:
    """Directory, ledger and spool. Blocks on the disk."""
    directory = _directory(path)
    if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        return [directory]
    return [directory, _ledger(path), _spool(spool)]


def _directory(path: Path) -> Finding:
    try:
        info = path.stat()
    except FileNotFoundError:
        return _not_there_yet(path)
    except OSError as error:
        return _closed(path, error)
    if not stat.S_ISDIR(info.st_mode):
        return fail(
            "state", f"{path} is no directory", "set state.dir (AGENTD_STATE_DIR) to a directory of its own"
        )
    if info.st_uid != os.geteuid():
        return fail(
            "state",
            f"{path} belongs to uid {info.st_uid}, this is uid {os.geteuid()}",
            "run this as the user agentd runs as; if this is that user, chown the directory",
        )
    try:
        _write_trial(path)
    except OSError as error:
        return _unwritable(path, error)
    free = os.statvfs(path)
    left = free.f_bavail * free.f_frsize
    if left < NEEDED_BYTES:
        return fail("state", f"the disk of {path} is full: {left // 1024:,} KiB left", _ROOM)
    if left < COMFORTABLE_BYTES:
        return warn("state", f"the disk of {path} is nearly full: {left >> 20:,} MiB left", _ROOM)
    if info.st_mode & 0o077:
        return warn(
            "state",
            f"{path} is open to other users (mode {stat.S_IMODE(info.st_mode):04o})",
            f"chmod 700 {path}; agentd does it at its start",
        )
    return ok("state", f"{path} is ours and takes writes, {left >> 20:,} MiB left")


def _not_there_yet(path: Path) -> Finding:
    parent = next(folder for folder in path.parents if folder.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        return ok("state", f"{path} is not there yet; agentd makes it at its start")
    return fail(
        "state",
        f"{path} is not there and cannot be made in {parent}",
        "make it for the user agentd runs as, or set state.dir (AGENTD_STATE_DIR)",
    )


def _closed(path: Path, error: OSError) -> Finding:
    return fail(
        "state",
        f"{path} cannot be looked into: {error.strerror}",
        "run this as the user agentd runs as (sudo agentd doctor), or mend the rights on the way there",
    )


def _write_trial(path: Path) -> None:
    """One durable write of a snapshot's size, gone again afterwards."""
    trial = path / f".tmp-doctor-{secrets.token_hex(4)}"
    fd = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(bytes(_TRIAL_BYTES))
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):
            trial.unlink()


def _unwritable(path: Path, error: OSError) -> Finding:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return fail("state", f"the disk of {path} is full: {error.strerror}", _ROOM)
        case errno.EROFS:
            return fail(
                "state",
                f"{path} is read-only",
                "mount a writable volume there, or set state.dir (AGENTD_STATE_DIR) to a writable place",
            )
        case errno.EACCES | errno.EPERM:
            return fail(
                "state",
                f"{path} may not be written: {error.strerror}",
                f"chmod 700 {path}, or set state.dir (AGENTD_STATE_DIR)",
            )
    return fail(
        "state", f"{path} takes no writes: {error.strerror}", "see the kernel's log; the disk may be failing"
    )


def _ledger(path: Path) -> Finding:
    try:
        book = Ledger.read(path)
    except NewerLedgerError as error:
        return fail("ledger", f"written by a newer agentd: {error.message}", _UPGRADE)
    except StateError as error:
        return fail("ledger", error.message, error.hint)
    if book.damage:
        return fail(
            "ledger",
            f"damaged: {book.damage}",
            "look at `agentd claims list`, then `agentd claims retry ID` or `forget ID` for each held claim",
        )
    count = len(book.claims)
    return ok("ledger", f"{count} claim{'s' * (count != 1)}, readable")


def _spool(path: Path) -> Finding:
    try:
        files = sorted(path.glob("*.snapshot"))
        aside = len(list((path / "quarantine").iterdir())) if (path / "quarantine").is_dir() else 0
    except OSError as error:
        return fail(
            "spool", f"{path} cannot be read: {error.strerror}", "give agentd's user access to its own files"
        )
    for file in files:
        trouble = _of_snapshot(file)
        if trouble is not None:
            return trouble
    if aside:
        return warn(
            "spool",
            f"{aside} damaged snapshots were set aside in {path}/quarantine",
            "check the disk; remove them when nobody needs them",
        )
    return ok("spool", f"{len(files)} snapshot{'s' * (len(files) != 1)}, readable")


def _of_snapshot(file: Path) -> Finding | None:
    try:
        with file.open("rb") as opened:
            decode(opened.read(FILE_MAX_BYTES + 1))
    except FileNotFoundError:
        return None  # replaced by the daemon while we looked
    except NewerSpoolSchemaError as error:
        return fail("spool", f"{file} was written by a newer agentd ({error})", _UPGRADE)
    except DamagedError as error:
        return fail(
            "spool", f"{file} is damaged: {error}", "agentd sets it aside at its next start; check the disk"
        )
    except OSError as error:
        return fail(
            "spool",
            f"{file} cannot be read: {error.strerror}",
            "give agentd's user access to its own files",
        )
    return None
