"""The state directory: private, writable, and held by one agentd at a time."""

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agentd.errors import StateError

LOCK_NAME: Final = "agentd.lock"

# `holder_pid` holds the lock for an instant while it looks; a start at that instant must not take it for a daemon.
_LOCK_TRIES: Final = 5
_LOCK_PAUSE_S: Final = 0.02


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
        try:
            # Closed on exec: a hook that outlives us must not hold the lock in our name.
            fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise _unusable(path, exc) from exc
        try:
            _lock(fd, path)
        except StateError:
            os.close(fd)
            raise
        # A full disk must not keep a daemon from starting: it still delivers what is spooled, which frees the disk.
        # The pid is only for the message, so it may be missing then.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(path, fd)

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
    """Pid of the agentd that holds `path`, 0 when it did not write one, None when nobody holds it or we cannot see."""
    try:
        fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(fd)
    finally:
        os.close(fd)
    return None


def _lock(fd: int, path: Path) -> None:
    """Take the lock. Waits a moment for a passing look, never for a daemon."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
        except OSError as exc:
            raise _unusable(path, exc) from exc
        else:
            return
    raise StateError(
        f"state directory {path} is in use by another agentd (pid {_pid_in(fd) or 'unknown'})",
        hint="stop that one first, or give this one another directory with AGENTD_STATE_DIR",
    )


def _pid_in(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _prepare(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
    except FileExistsError as exc:
        raise StateError(
            f"state directory {path} is not a directory", hint="set AGENTD_STATE_DIR to a directory"
        ) from exc
    except OSError as exc:
        raise _unusable(path, exc) from exc
    if info.st_uid != os.geteuid():
        raise StateError(
            f"state directory {path} belongs to uid {info.st_uid}, agentd runs as uid {os.geteuid()}",
            hint="run agentd as that user, chown it, or set AGENTD_STATE_DIR to a directory below it",
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
        errno.ELOOP: f"{LOCK_NAME} in it must not be a symbolic link; remove it",
        errno.ENOLCK: "its file system has no locks; set AGENTD_STATE_DIR to a local disk",
        errno.EOPNOTSUPP: "its file system has no locks; set AGENTD_STATE_DIR to a local disk",
    }
    reason = exc.strerror or str(exc)
    return StateError(
        f"state directory {path} is unusable: {reason}",
        hint=hints.get(exc.errno or 0, "set AGENTD_STATE_DIR to a directory agentd may write"),
    )
