"""The files of the spool, one for each task. Every method blocks on the disk.

A file always holds the old snapshot or the new one, whole: `durable` writes a temporary file, calls fsync and renames
it. A test kills a process at every system call of a write.
"""

import contextlib
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Final

from agentd import log
from agentd.durable import TMP_PREFIX, ForeignFileError, read_file, replace_file, set_aside
from agentd.errors import StateError
from agentd.snapshots.entry import (
    FILE_MAX_BYTES,
    DamagedError,
    NewerSpoolSchemaError,
    SpoolEntry,
    decode,
    encode,
)

MAX_QUARANTINED: Final = 8
"""Damaged files kept in `quarantine/`."""

_SUFFIX: Final = ".snapshot"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SpoolFiles:
    """The directory `path`. One process owns it: it holds the lock of the state directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._newer_schemas: dict[str, int] = {}
        self._log = log.get("snapshots")

    def load(self) -> list[SpoolEntry]:
        """Create the directory if it is missing and read its files.

        Damaged files are moved to quarantine, files of a newer agentd are not touched; both are logged. Raises
        `StateError` if the directory cannot be created or listed.
        """
        try:
            if os.path.lexists(self.path) and (self.path.is_symlink() or not self.path.is_dir()):
                kept = set_aside(self.path)
                self._log.error("spool.quarantined", file=str(kept), reason="not a directory")
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = sorted(child.name for child in self.path.iterdir())
        except OSError as exc:
            raise StateError(
                f"spool directory {self.path} is unusable: {exc.strerror}",
                hint="give agentd's user access to it, or set AGENTD_STATE_DIR",
            ) from exc
        for name in names:
            if name.startswith(TMP_PREFIX):
                # An interrupted write. The file that it was meant to replace still holds the old snapshot.
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()
        return [
            entry
            for name in names
            if name.endswith(_SUFFIX) and not name.startswith(TMP_PREFIX) and (entry := self._load(name))
        ]

    def write(self, entry: SpoolEntry) -> None:
        """Replace the file of the entry's task. The file of a newer agentd is renamed before. Raises `OSError`."""
        name = _file_name(entry.task_id)
        if name in self._newer_schemas:
            (self.path / name).replace(self.path / f"{name}.schema{self._newer_schemas[name]}")
            del self._newer_schemas[name]
        replace_file(self.path / name, encode(entry))

    def delete(self, task_id: str) -> None:
        """Delete the file of a task if there is one. Raises `OSError`."""
        (self.path / _file_name(task_id)).unlink(missing_ok=True)

    def _load(self, name: str) -> SpoolEntry | None:
        try:
            return read_entry(self.path / name)
        except DamagedError as exc:
            self._quarantine(name, str(exc))
        except NewerSpoolSchemaError as exc:
            self._newer_schemas[name] = exc.schema
            self._log.warning("spool.newer_schema", file=str(self.path / name), reason=str(exc))
        except OSError as exc:
            self._log.warning("spool.unreadable", file=str(self.path / name), reason=exc.strerror)
        return None

    def _quarantine(self, name: str, reason: str) -> None:
        """Move a damaged file to `quarantine/`, which keeps the last `MAX_QUARANTINED` files for an operator."""
        folder = self.path / "quarantine"
        kept_as = folder / name
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            present = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
            for path in present[: max(0, len(present) - MAX_QUARANTINED + 1)]:
                path.unlink()
            count = 0
            while kept_as.exists():
                count += 1
                kept_as = folder / f"{name}.{count}"
            (self.path / name).replace(kept_as)
        except OSError as exc:
            kept_as = self.path / name
            reason = f"{reason}; cannot move it to quarantine: {exc.strerror}"
        self._log.error("spool.quarantined", file=str(kept_as), reason=reason)


def read_without_lock(path: Path) -> tuple[list[SpoolEntry], list[str]]:
    """Read a spool directory: the entries, oldest first, and one line for each file that cannot be read.

    Changes nothing. A daemon that owns the directory may write meanwhile: each file then is the old one or the new one.
    """
    entries, wrong = [], []
    try:
        names = sorted(child.name for child in path.iterdir() if child.name.endswith(_SUFFIX))
    except OSError as exc:
        return [], [f"{path}: {exc.strerror}"]
    for name in names:
        if name.startswith(TMP_PREFIX):
            continue  # a running write, or one that a crash interrupted
        try:
            entries.append(read_entry(path / name))
        except FileNotFoundError:
            continue  # deleted by the daemon since the listing
        except (DamagedError, NewerSpoolSchemaError) as exc:
            wrong.append(f"{name}: {exc}")
        except OSError as exc:
            wrong.append(f"{name}: {exc.strerror}")
    return sorted(entries, key=lambda entry: entry.serial), wrong


def read_entry(path: Path) -> SpoolEntry:
    """Read one file of a spool. Raises `DamagedError`, `NewerSpoolSchemaError` or `OSError`."""
    try:
        entry = decode(read_file(path, FILE_MAX_BYTES))
    except ForeignFileError as exc:
        raise DamagedError(exc.strerror) from exc
    if _file_name(entry.task_id) != path.name:
        raise DamagedError(f"holds the snapshot of task {entry.task_id[:64]!r}")
    return entry


def _file_name(task_id: str) -> str:
    """Return the file name of a task. No task id can name a file outside of the spool or another task's file."""
    if not task_id:
        return f"no-task{_SUFFIX}"
    if _UUID.fullmatch(task_id):
        return task_id + _SUFFIX
    return f"task-{sha256(task_id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}{_SUFFIX}"
