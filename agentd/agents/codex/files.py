"""Finds the rollouts of Codex: `sessions/YYYY/MM/DD/rollout-TIME-THREAD.jsonl`.

The date is the one of the start, and a resumed session appends to its old file. So all folders are looked at; one that
has not changed is not listed again. The name does not tell the thread for certain; the first record does.
"""

import json
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from agentd.agents.codex.rollout import Meta, meta_of

FOLDERS_MAX: Final = 4000
"""Eleven years of days."""
FILES_MAX: Final = 20_000
"""The newest by name are kept."""
HEAD_MAX_BYTES: Final = 1 << 20
"""The first record has about 21 kB."""
RELIST_S: Final = 10.0
TOUCHED_S: Final = 60.0
# The time of a change has the resolution of a kernel tick, so a folder that changed just now can change again unseen.
_FRESH_S: Final = 2.0

_NAME: Final = re.compile(
    r"rollout-[0-9T-]{10,25}-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:_([0-9a-f-]{36}))?\.jsonl"
)
_DATE: Final = (re.compile(r"\d{4}"), re.compile(r"\d{2}"), re.compile(r"\d{2}"))


class Signature(NamedTuple):
    """A file that has the same one has not changed."""

    inode: int
    size: int
    changed_ns: int


class _Folder(NamedTuple):
    changed_ns: int
    folders: tuple[str, ...]
    files: tuple[str, ...]


class RolloutFiles:
    """The rollouts below `root`. Every call blocks on the disk. Symbolic links are not followed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, _Folder] = {}
        self._files: set[str] = set()
        self._named: dict[str, list[str]] = {}
        self._metas: dict[tuple[str, int], Meta] = {}
        self._listed_at = float("-inf")
        self._touched: list[str] = []
        self._touched_at = float("-inf")
        self.count = 0

    def of_thread(self, thread: str, owner: int) -> Path | None:
        """The file of a thread that was touched last; None if it has none yet. Looks for a file that is new."""
        self._list(RELIST_S if thread in self._named else 0.0)
        paths = [path for name in self._named.get(thread, ()) if signature(path := Path(name)) is not None]
        if len(paths) > 1:
            paths = [path for path in paths if self._is_of(path, thread, owner)] or paths
        return max(paths, key=_changed_ns, default=None)

    def newest(self, count: int, *, max_age_s: float = TOUCHED_S) -> list[Path]:
        """The files that were touched last, the newest first, as of `max_age_s` ago."""
        self._list(RELIST_S)
        now = time.monotonic()
        if now - self._touched_at >= max_age_s or any(path not in self._files for path in self._touched):
            self._touched_at = now
            by_age = sorted(self._files, key=lambda path: _changed_ns(Path(path)), reverse=True)
            self._touched = by_age[: max(count, 8)]
        return [Path(path) for path in self._touched[:count]]

    def _is_of(self, path: Path, thread: str, owner: int) -> bool:
        """Whether the first record names the thread. A session that went back to an earlier turn has two ids in its name."""
        found = signature(path)
        key = str(path), found.inode if found else 0
        if key not in self._metas:
            try:
                meta = read_meta(path, owner)
            except (OSError, ValueError):
                meta = None
            if meta is None:
                return False
            self._metas[key] = meta
        return self._metas[key].thread == thread

    def _list(self, max_age_s: float) -> None:
        now = time.monotonic()
        if now - self._listed_at < max_age_s:
            return
        self._listed_at = now
        if self._folders and all(
            _folder_changed_ns(path) == seen.changed_ns for path, seen in self._folders.items()
        ):
            return
        seen: dict[str, _Folder] = {}
        named: dict[str, list[str]] = {}
        files = set()
        for path, threads in self._walk(str(self._root), 0, seen):
            files.add(path)
            for thread in filter(None, threads):
                named.setdefault(thread, []).append(path)
        if files != self._files:
            self._touched_at = float("-inf")
        self._folders, self._files, self._named, self.count = seen, files, named, len(files)

    def _walk(self, path: str, depth: int, seen: dict[str, _Folder]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Paths and the ids in each name, the newest folders first."""
        folder = self._folder(path, depth) if len(seen) < FOLDERS_MAX else None
        if folder is None:
            return
        seen[path] = folder
        for name in folder.files:
            if (match := _NAME.fullmatch(name)) is not None:
                yield f"{path}/{name}", match.groups()
        count = len(folder.files)
        for name in folder.folders:
            for found in self._walk(f"{path}/{name}", depth + 1, seen):
                if count >= FILES_MAX:
                    return
                count += 1
                yield found

    def _folder(self, path: str, depth: int) -> _Folder | None:
        try:
            changed_ns = _folder_changed_ns(path)
            if not changed_ns:
                return None
            known = self._folders.get(path)
            if known is not None and known.changed_ns == changed_ns:
                return known
            folders, files = [], []
            with os.scandir(path) as entries:
                for entry in entries:
                    if depth < len(_DATE):
                        if _DATE[depth].fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                            folders.append(entry.name)
                    elif _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        files.append(entry.name)
        except OSError:
            return None
        is_fresh = time.time() - changed_ns / 1e9 < _FRESH_S
        return _Folder(
            -1 if is_fresh else changed_ns,
            tuple(sorted(folders, reverse=True)),
            tuple(sorted(files, reverse=True)[:FILES_MAX]),
        )


def _folder_changed_ns(path: str) -> int:
    """0 if there is none, also for a symbolic link."""
    try:
        info = os.lstat(path)
    except OSError:
        return 0
    return info.st_mtime_ns if stat.S_ISDIR(info.st_mode) else 0


def signature(path: Path) -> Signature | None:
    """None if there is no regular file."""
    try:
        info = path.lstat()
    except OSError:
        return None
    return Signature(info.st_ino, info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else None


def read_meta(path: Path, owner: int) -> Meta | None:
    """The first record; None if it is not written yet. Raises `ValueError` if it is not understood, and `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != owner:
            raise PermissionError(f"{path} is not a regular file of user {owner}")
        line = file.readline(HEAD_MAX_BYTES)
    if not line.endswith(b"\n") and len(line) < HEAD_MAX_BYTES:
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    meta = meta_of(record) if isinstance(record, dict) else None
    if meta is None:
        raise ValueError("its first record is not the description of a session")
    return meta


def _changed_ns(path: Path) -> int:
    found = signature(path)
    return found.changed_ns if found else 0
