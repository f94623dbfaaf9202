"""The state directory: private, writable, and held by one agentd at a time."""

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from agentd.errors import StateError

LOCK_NAME = "agentd.lock"


class StateDir:
    """A state directory under an exclusive lock. Use as a context manager, or call `close()`.

    The lock is `flock` on `agentd.lock`, which the kernel drops when the holder dies however it dies; the pid written
    into it is only for the message.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd: int | None = lock_fd

    @classmethod
    def open(cls, path: Path) -> Self:
        """Create `path` (mode 0700) where absent, check it and take the lock.

        Raises `StateError` when the directory cannot be created, belongs to another user, cannot be written, or is
        held by another agentd (the message names its pid).
        """
        _prepare(path)
        lock_path = path / LOCK_NAME
        try:
            fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise _unusable(path, exc) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise StateError(
                f"state directory {path} is in use by another agentd (pid {holder})",
                hint="stop that one first, or give this one another directory with AGENTD_STATE_DIR",
            ) from exc
        except OSError as exc:
            os.close(fd)
            raise _unusable(path, exc) from exc
        state = cls(path, fd)
        # A full disk must not keep a daemon from starting: it still delivers what is spooled, which frees the disk.
        # The pid is only for the message, so it may be missing then.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return state

    def writable(self) -> bool:
        """Whether the directory still takes writes; the liveness check of `/healthz`. A few syscalls, no fsync."""
        try:
            fd = os.open(self.path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            # Not every file system can make unnamed files; that says nothing about this one's health.
            return exc.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT) and os.access(
                self.path, os.W_OK
            )
        os.close(fd)
        return True

    def close(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def holder_pid(path: Path) -> int | None:
    """Pid of the agentd that holds `path`, or None when nobody does."""
    try:
        fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(fd, 32).decode(errors="replace").strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None


def _prepare(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
    except OSError as exc:
        raise _unusable(path, exc) from exc
    if not stat.S_ISDIR(info.st_mode):
        raise StateError(
            f"state directory {path} is not a directory", hint="set AGENTD_STATE_DIR to a directory"
        )
    if info.st_uid != os.geteuid():
        raise StateError(
            f"state directory {path} belongs to uid {info.st_uid}, agentd runs as uid {os.geteuid()}",
            hint="run agentd as that user, or chown the directory",
        )
    if info.st_mode & 0o077:
        # Conversations and hook output lie here; a directory made by hand or by a volume is usually 0755.
        try:
            path.chmod(0o700)
        except OSError as exc:
            raise _unusable(path, exc) from exc


def _unusable(path: Path, exc: OSError) -> StateError:
    hints = {
        errno.EACCES: "give the user agentd runs as write access, or set AGENTD_STATE_DIR",
        errno.EPERM: "give the user agentd runs as write access, or set AGENTD_STATE_DIR",
        errno.EROFS: "mount it writable, or set AGENTD_STATE_DIR to a writable place",
        errno.ENOSPC: "free some space there, or set AGENTD_STATE_DIR to another disk",
        errno.ENOTDIR: "a part of the path is a file; set AGENTD_STATE_DIR to a directory",
    }
    reason = exc.strerror or str(exc)
    return StateError(
        f"state directory {path} is unusable: {reason}",
        hint=hints.get(exc.errno or 0, "set AGENTD_STATE_DIR to a directory agentd may write"),
    )
