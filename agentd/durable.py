"""Files that agentd keeps: read one safely, replace it atomically and durably, set aside what agentd did not write.

Other programs of the same user can write to these directories. A symbolic link, a FIFO, a device, a directory or a file of
gigabytes at the name of a file must cost that file and nothing else: no call here blocks on it or follows it.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

TMP_PREFIX: Final = ".tmp-"
"""Name prefix of temporary files. A file with it that no process writes may be removed."""
MAX_SET_ASIDE: Final = 4
"""Files kept under other names for each name. A further one replaces the last of them."""

# What `open` raises for a symbolic link, a socket and a device without a driver.
_NOT_A_FILE: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV})


class ForeignFileError(OSError):
    """The file was not written by agentd: not a regular file, of another user, or too large. `strerror` says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EINVAL, reason)


def read_file(path: Path, max_bytes: int, *, named_by_user: bool = False) -> bytes:
    """The content of a regular file. Never blocks on a FIFO.

    A file of agentd is not read through a symbolic link, and not if another user except root owns it. A file that is
    `named_by_user` in the configuration may be a link and belong to any user. Raises `ForeignFileError` for anything else and for more than `max_bytes`, `FileNotFoundError` and other `OSError`.
    """
    try:
        no_link = 0 if named_by_user else os.O_NOFOLLOW
        fd = os.open(path, os.O_RDONLY | no_link | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in _NOT_A_FILE:
            raise ForeignFileError("not a regular file") from exc
        raise
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ForeignFileError("not a regular file")
        if info.st_uid not in (os.geteuid(), 0) and not named_by_user:
            raise ForeignFileError(f"belongs to uid {info.st_uid}")
        if info.st_size > max_bytes:
            raise ForeignFileError(f"too large: {info.st_size} bytes")
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(fd)
    if len(data) > max_bytes:
        raise ForeignFileError(f"too large: more than {max_bytes} bytes")
    return data


def set_aside(path: Path) -> Path:
    """Rename what is at `path` to `NAME.corrupt` or `NAME.corrupt-1` and so on, for an operator. Raises `OSError`."""
    kept = path.with_name(f"{path.name}.corrupt")
    for number in range(1, MAX_SET_ASIDE):
        if not os.path.lexists(kept):
            break
        kept = path.with_name(f"{path.name}.corrupt-{number}")
    path.rename(kept)
    return kept


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to a temporary file beside `path`, fsync it, rename it, fsync the directory. Blocks.

    A directory at `path` is set aside. Raises `OSError`. The name then holds the old file or, if only the fsync of the
    directory failed, the new file; a power cut can still undo that rename.
    """
    tmp = path.with_name(TMP_PREFIX + path.name)
    try:
        fd = create_file(tmp, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            tmp.replace(path)
        except IsADirectoryError:
            set_aside(path)
            tmp.replace(path)
    except OSError:
        # On a full disk the partial file would use the space that the next try needs.
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise
    sync_directory(path.parent)


def create_file(path: Path, mode: int = 0o600) -> int:
    """Create and open a new file in place of whatever is at `path`: it may be a FIFO or a link to another file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileExistsError:
        try:
            path.unlink()
        except IsADirectoryError:
            set_aside(path)
        return os.open(path, flags, mode)


def sync_directory(path: Path) -> None:
    """Fsync a directory, so that its entries stay as they are after a power cut. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
