"""The state directory: private, writable, and locked by one agentd at a time."""

import asyncio
import contextlib
import errno
import fcntl
import os
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Self

from agentd.errors import StateError
from agentd.worker_thread import WorkerThread

LOCK_NAME: Final = "agentd.lock"
CHECK_TIMEOUT_S: Final = 1.0

# `holder_pid` takes a shared lock for a moment, which `StateDir.open` must not mistake for a daemon.
_LOCK_TRIES: Final = 5
_LOCK_PAUSE_S: Final = 0.02


class StateDir:
    """A state directory under an exclusive lock. Use it as a context manager, or call `close()`.

    The lock is `flock` on `agentd.lock`. The kernel releases it when the process ends, also after SIGKILL.
    The pid in the file is only for error messages.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd: int | None = lock_fd
        self._check: Future[bool] | None = None
        self.was_writable = True
        """The result of the last `is_writable`."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Create `path` (mode 0700) if absent, check it and take the lock.

        Raises `StateError` if the directory cannot be created or written, belongs to another user, or is
        locked by another agentd (the message names its pid).
        """
        _prepare(path)
        try:
            # O_CLOEXEC: a hook that runs longer than agentd must not keep the lock.
            fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise _unusable(path, exc) from exc
        try:
            _lock(fd, path)
        except StateError:
            os.close(fd)
            raise
        # A daemon must start on a full disk, because it delivers the spooled snapshots, which frees space.
        # The pid is then missing from error messages.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(path, fd)

    async def is_writable(self, disk: WorkerThread, timeout_s: float = CHECK_TIMEOUT_S) -> bool:
        """Whether the directory is writable now. False if the disk does not answer within `timeout_s`."""
        if self._check is None or self._check.done():
            self._check = disk.submit(self.writable)
        check = asyncio.wrap_future(self._check)
        await asyncio.wait({check}, timeout=timeout_s)
        self.was_writable = check.done() and check.result()
        return self.was_writable

    def writable(self) -> bool:
        """Whether the directory is writable. Blocks on the disk for a few system calls, without an fsync."""
        try:
            fd = os.open(self.path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            # These mean that the file system does not support O_TMPFILE.
            is_unsupported = exc.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)
            return is_unsupported and os.access(self.path, os.W_OK)
        os.close(fd)
        return True

    def close(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def holder_pid(path: Path) -> int | None:
    """Pid of the agentd that locks `path`; 0 if unknown; None if not locked or not readable."""
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
    """Take the lock. Retries for 0.1 s because of `holder_pid`."""
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
        hint="stop that agentd, or set AGENTD_STATE_DIR to another directory",
    )


def _pid_in(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _prepare(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
        if info.st_uid == os.geteuid() and info.st_mode & 0o077:
            # It contains conversations and hook output; one made by hand or by a volume often has mode 0755.
            path.chmod(0o700)
    except FileExistsError as exc:
        raise StateError(
            f"state directory {path} is not a directory", hint="set AGENTD_STATE_DIR to a directory"
        ) from exc
    except OSError as exc:
        raise _unusable(path, exc) from exc
    if info.st_uid != os.geteuid():
        raise StateError(
            f"state directory {path} belongs to uid {info.st_uid}, agentd runs as uid {os.geteuid()}",
            hint="run agentd as that user, chown the directory, or set AGENTD_STATE_DIR to one of your own",
        )


def _unusable(path: Path, exc: OSError) -> StateError:
    hints = {
        errno.EACCES: "give agentd's user write access, or set AGENTD_STATE_DIR",
        errno.EPERM: "give agentd's user write access, or set AGENTD_STATE_DIR",
        errno.EROFS: "mount it writable, or set AGENTD_STATE_DIR to a writable directory",
        errno.ENOSPC: "free some space, or set AGENTD_STATE_DIR to another disk",
        errno.ENOTDIR: "a part of the path is a file; set AGENTD_STATE_DIR to another path",
        errno.ELOOP: f"{LOCK_NAME} is a symbolic link; remove it",
        errno.ENOLCK: "the file system does not support locks; set AGENTD_STATE_DIR to a local disk",
        errno.EOPNOTSUPP: "the file system does not support locks; set AGENTD_STATE_DIR to a local disk",
    }
    return StateError(
        f"cannot use state directory {path}: {exc.strerror or exc}",
        hint=hints.get(exc.errno or 0, "set AGENTD_STATE_DIR to a directory that agentd may write"),
    )
