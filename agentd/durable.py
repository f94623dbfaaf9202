"""Replace a file atomically and durably: after a power cut its name holds the complete old or new file."""

import contextlib
import os
from pathlib import Path
from typing import Final

TMP_PREFIX: Final = ".tmp-"
"""Name prefix of temporary files. A file with it that no process writes may be removed."""


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to a temporary file beside `path`, fsync it, rename it, fsync the directory. Blocks.

    Raises `OSError`. The name then holds the old file or, if only the fsync of the directory failed, the new
    file; a power cut can still undo that rename.
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
        # On a full disk the partial file would use the space that the next try needs.
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Fsync a directory, so that its entries stay as they are after a power cut. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
