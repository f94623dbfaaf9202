"""The state directory: private, writable, and locked by one agentd at a time."""

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Self

from agentd import log
from agentd.durable import read_file, set_aside
from agentd.errors import StateError
from agentd.worker_thread import WorkerThread

LOCK_NAME: Final = "agentd.lock"
CHECK_TIMEOUT_S: Final = 1.0

# `holder_pid` takes a shared lock for a moment, which `StateDir.open` must not mistake for a daemon.
_LOCK_TRIES: Final = 5
_LOCK_PAUSE_S: Final = 0.02
_PID_MAX_BYTES: Final = 16


class StateDir:
    """A state directory under an exclusive lock. Use it as a context manager, or call `close()`.

    The lock is `flock` on the directory itself, so removing `agentd.lock` lets no second agentd in. A file system
    that cannot lock a directory (NFS) and agentd up to 0.1 have the lock on `agentd.lock`, which is taken too: its
    inode is compared with that of the path after locking and at each `writable`. The kernel releases both when the
    process ends, also after SIGKILL. The pid in the file is only for error messages.
    """

    def __init__(self, path: Path, directory_fd: int, lock_fd: int) -> None:
        self.path = path
        self._directory_fd: int | None = directory_fd
        self._lock_fd: int | None = lock_fd
        self._is_lost = False
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
        with contextlib.ExitStack() as undo:
            try:
                # O_CLOEXEC: a hook that runs longer than agentd must not keep the lock.
                directory_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as exc:
                raise _unusable(path, exc) from exc
            undo.callback(os.close, directory_fd)
            # A file system that cannot lock a directory leaves the decision to the lock of the file.
            with contextlib.suppress(OSError):
                _flock(directory_fd, path)
            lock_fd = _lock_file(path)
            undo.pop_all()
        return cls(path, directory_fd, lock_fd)

    async def is_writable(self, disk: WorkerThread, timeout_s: float = CHECK_TIMEOUT_S) -> bool:
        """Whether the directory is writable now. False if the disk does not answer within `timeout_s`."""
        if self._check is None or self._check.done():
            self._check = disk.submit(self.writable)
        check = asyncio.wrap_future(self._check)
        await asyncio.wait({check}, timeout=timeout_s)
        self.was_writable = check.done() and check.result()
        return self.was_writable

    def writable(self) -> bool:
        """Whether the directory is writable and still ours. Blocks on the disk for a few system calls, without an fsync.

        False if the directory was replaced by another one: a second agentd can have that one.
        """
        if not self._holds_path():
            return False
        try:
            fd = os.open(self.path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            # These mean that the file system does not support O_TMPFILE.
            is_unsupported = exc.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)
            return is_unsupported and os.access(self.path, os.W_OK)
        os.close(fd)
        return True

    def _holds_path(self) -> bool:
        """Whether the locked directory and the locked file are those at the path. Restores a removed lock file."""
        if self._directory_fd is None or self._lock_fd is None:
            return True  # closed
        reason = "it was removed or replaced while agentd ran"
        if _is_at(self._directory_fd, self.path):
            try:
                if not _is_at(self._lock_fd, self.path / LOCK_NAME):
                    replacement = _lock_file(self.path)
                    os.close(self._lock_fd)
                    self._lock_fd = replacement
                    log.get("state").warning("state.lock_restored", file=str(self.path / LOCK_NAME))
                self._is_lost = False
                return True
            except StateError as exc:
                reason = exc.message
        if not self._is_lost:
            hint = "stop agentd, and start it again"
            log.get("state").error("state.lost", path=str(self.path), reason=reason, hint=hint)
        self._is_lost = True
        return False

    def close(self) -> None:
        for fd in (self._lock_fd, self._directory_fd):
            if fd is not None:
                os.close(fd)
        self._lock_fd = self._directory_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def holder_pid(path: Path) -> int | None:
    """Pid of the agentd that locks `path`; 0 if unknown; None if not locked or not readable."""
    lock, no_wait = path / LOCK_NAME, os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    for locked, flags in ((path, os.O_RDONLY | os.O_DIRECTORY), (lock, os.O_RDWR | no_wait)):
        try:
            fd = os.open(locked, flags | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _pid_in(lock)
        except OSError:
            continue
        finally:
            os.close(fd)
    return None


def _lock_file(path: Path) -> int:
    """Open `agentd.lock`, lock it and write the pid into it. Sets aside what is there and is not a regular file."""
    lock = path / LOCK_NAME
    for _ in range(_LOCK_TRIES):
        try:
            if os.path.lexists(lock) and not stat.S_ISREG(lock.lstat().st_mode):
                kept = set_aside(lock)
                log.get("state").error("state.set_aside", file=str(kept), reason="not a regular file")
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(lock, flags, 0o600)
        except OSError as exc:
            raise _unusable(path, exc) from exc
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, fd)
            try:
                _flock(fd, path)
            except OSError as exc:
                raise _unusable(path, exc) from exc
            if not _is_at(fd, lock):
                continue  # removed or replaced between the two calls: another agentd can lock the new one
            undo.pop_all()
        # A daemon must start on a full disk, because it delivers the spooled snapshots, which frees space.
        # The pid is then missing from error messages.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd
    raise _in_use(path)


def _flock(fd: int, path: Path) -> None:
    """Take the exclusive lock. Retries for 0.1 s because of `holder_pid`. Raises `StateError` if it is taken."""
    for _ in range(_LOCK_TRIES):
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
    raise _in_use(path)


def _in_use(path: Path) -> StateError:
    return StateError(
        f"state directory {path} is in use by another agentd (pid {_pid_in(path / LOCK_NAME) or 'unknown'})",
        hint="stop that agentd, or set AGENTD_STATE_DIR to another directory",
    )


def _pid_in(lock: Path) -> int:
    try:
        text = read_file(lock, _PID_MAX_BYTES).strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def _is_at(fd: int, path: Path) -> bool:
    """Whether the open file `fd` is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


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
        errno.ENOLCK: "the file system does not support locks; set AGENTD_STATE_DIR to a local disk",
        errno.EOPNOTSUPP: "the file system does not support locks; set AGENTD_STATE_DIR to a local disk",
    }
    return StateError(
        f"cannot use state directory {path}: {exc.strerror or exc}",
        hint=hints.get(exc.errno or 0, "set AGENTD_STATE_DIR to a directory that agentd may write"),
    )
