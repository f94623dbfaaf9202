"""Checks the state directory, the claim ledger and the spool. Changes nothing except for one trial file."""

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from agentd.claims.ledger import COMPACTED_CLAIMS, MAX_CLAIMS, MAX_SETTLED_IDS, Ledger
from agentd.claims.ledger_format import NewerLedgerError
from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.errors import StateError
from agentd.snapshots.entry import DamagedError, NewerSpoolSchemaError
from agentd.snapshots.spool_files import read_entry

# Space for a snapshot and the ledger, each written beside its old file, and the same again for files of
# hooks.
NEEDED_BYTES: Final = 1 << 20
COMFORTABLE_BYTES: Final = 64 << 20
# The size of the trial file: the largest snapshot.
_TRIAL_BYTES: Final = 64 << 10

_SET_DIR: Final = "set state.dir (AGENTD_STATE_DIR)"
_FREE_SPACE: Final = f"free space on it, or {_SET_DIR} to another disk"
_UPGRADE: Final = "run the newer agentd again, or move the file away to start without it"
_ACCESS: Final = "give agentd's user access to its own files"


def check(path: Path, spool: Path) -> list[Finding]:
    """The findings for directory, ledger and spool. Blocks on the disk."""
    directory = _check_directory(path)
    if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        return [directory]
    return [directory, _check_ledger(path), _check_spool(spool)]


def _check_directory(path: Path) -> Finding:
    try:
        info = path.stat()
    except FileNotFoundError:
        return _absent(path)
    except OSError as exc:
        remedy = "run this as agentd's user (sudo agentd doctor), or correct the permissions of its parents"
        return fail("state", f"{path} cannot be opened: {exc.strerror}", remedy)
    if not stat.S_ISDIR(info.st_mode):
        return fail("state", f"{path} is not a directory", f"{_SET_DIR} to a directory of its own")
    if info.st_uid != os.geteuid():
        cause = f"{path} belongs to uid {info.st_uid}, this is uid {os.geteuid()}"
        return fail("state", cause, "run this as agentd's user; if this is that user, chown the directory")
    try:
        _write_trial(path)
    except OSError as exc:
        return _unwritable(path, exc)
    volume = os.statvfs(path)
    free_bytes = volume.f_bavail * volume.f_frsize
    if free_bytes < NEEDED_BYTES:
        return fail("state", f"the disk of {path} is full: {free_bytes // 1024:,} KiB free", _FREE_SPACE)
    if free_bytes < COMFORTABLE_BYTES:
        return warn("state", f"the disk of {path} is nearly full: {free_bytes >> 20:,} MiB free", _FREE_SPACE)
    if info.st_mode & 0o077:
        cause = f"{path} is accessible to other users (mode {stat.S_IMODE(info.st_mode):04o})"
        return warn("state", cause, f"chmod 700 {path}; agentd does so when it starts")
    return ok("state", f"{path} is owned by this user and writable, {free_bytes >> 20:,} MiB free")


def _absent(path: Path) -> Finding:
    parent = next(folder for folder in path.parents if folder.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        return ok("state", f"{path} does not exist yet; agentd creates it when it starts")
    remedy = f"create it for agentd's user, or {_SET_DIR}"
    return fail("state", f"{path} does not exist and cannot be created in {parent}", remedy)


def _write_trial(path: Path) -> None:
    """Write and fsync a file of a snapshot's size, without a name where the file system supports that."""
    with tempfile.TemporaryFile(dir=path) as trial:
        trial.write(bytes(_TRIAL_BYTES))
        trial.flush()
        os.fsync(trial.fileno())


def _unwritable(path: Path, error: OSError) -> Finding:
    full = ("on a full disk", _FREE_SPACE)
    forbidden = ("not writable", f"chmod 700 {path}, or {_SET_DIR}")
    fault, remedy = {
        errno.ENOSPC: full,
        errno.EDQUOT: full,
        errno.EROFS: ("read-only", f"mount a writable volume there, or {_SET_DIR} to a writable directory"),
        errno.EACCES: forbidden,
        errno.EPERM: forbidden,
    }.get(error.errno or 0, ("not writable", "see the log of the kernel; the disk may be failing"))
    return fail("state", f"{path} is {fault}: {error.strerror}", remedy)


def _check_ledger(path: Path) -> Finding:
    try:
        ledger = Ledger.read(path)
    except NewerLedgerError as exc:
        return fail("ledger", f"written by a newer agentd: {exc.message}", _UPGRADE)
    except StateError as exc:
        return fail("ledger", exc.message, exc.hint)
    if ledger.damage:
        remedy = "run `agentd claims list`, then `agentd claims retry ID` or `forget ID` for each held claim"
        return fail("ledger", f"damaged: {ledger.damage}", remedy)
    if len(ledger.claims) < MAX_CLAIMS and not ledger.settled_ids:
        return ok("ledger", f"{_counted(len(ledger.claims), 'claim')}, readable")
    cause = (
        f"{len(ledger.claims):,} claims of at most {MAX_CLAIMS:,}, and {len(ledger.settled_ids):,} ids of removed ones of at"
        f" most {MAX_SETTLED_IDS:,}"
    )
    final = sum(claim.is_final for claim in ledger.claims.values())
    if final and len(ledger.settled_ids) + 2 * COMPACTED_CLAIMS <= MAX_SETTLED_IDS:
        return warn(
            "ledger", cause, "a prebuild is claimed once: find out why coderd sends claims of so many owners"
        )
    return fail("ledger", f"{cause}: new claims are dropped", "remove some with `agentd claims forget ID`")


def _check_spool(path: Path) -> Finding:
    quarantine = path / "quarantine"
    try:
        files = sorted(path.glob("*.snapshot"))
        quarantined = len(list(quarantine.iterdir())) if quarantine.is_dir() else 0
    except OSError as exc:
        return fail("spool", f"{path} cannot be read: {exc.strerror}", _ACCESS)
    for file in files:
        fault = _snapshot_fault(file)
        if fault is not None:
            return fault
    if quarantined:
        remedy = "check the disk; delete the files in quarantine/ when you no longer need them"
        return warn("spool", f"{_counted(quarantined, 'damaged file')} in {quarantine}", remedy)
    return ok("spool", f"{_counted(len(files), 'snapshot')}, readable")


def _snapshot_fault(file: Path) -> Finding | None:
    try:
        read_entry(file)
    except FileNotFoundError:
        return None  # replaced by the daemon since the listing
    except NewerSpoolSchemaError as exc:
        return fail("spool", f"{file} was written by a newer agentd ({exc})", _UPGRADE)
    except DamagedError as exc:
        remedy = "check the disk; agentd moves the file to quarantine/ when it starts"
        return fail("spool", f"{file} is damaged: {exc}", remedy)
    except OSError as exc:
        return fail("spool", f"{file} cannot be read: {exc.strerror}", _ACCESS)
    return None


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
