"""Replace a file so that its name always holds a whole one, the old or the new, also after a power cut."""

import contextlib
import os
from pathlib import Path

TMP_PREFIX = ".tmp-"
"""Files of that name are remains of an interrupted write and may be removed."""


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to `path`: temporary file beside it, fsync, rename, fsync of the directory. Blocks on the disk.

    Raises `OSError`; the name then holds what it held before, or the new file whose name is not yet safe from a
    power cut (when only the directory's fsync failed).
    """
    tmp = path.with_name(TMP_PREFIX + path.name)
    try:
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        tmp.replace(path)
    except OSError:
        # On a full disk the half-written file would hold the space that the next try needs.
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Fsync a directory, so that a file created, renamed or removed in it stays so after a power cut. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
