"""Lists the hooks of a directory and checks that no other user can write them.

Hooks run with agentd's rights and its network identity. Another user who can write a hook, its directory or a
parent directory would get those rights.
"""

import os
import stat
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

from agentd.errors import AgentdError

ON_CLAIM: Final = "on-claim.d"

_EDITOR_AND_PACKAGE_SUFFIXES: Final = (
    "~", ".bak", ".orig", ".rej", ".swp", ".tmp", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".rpmsave", ".rpmnew",
)  # fmt: skip


class HookDirectoryError(AgentdError):
    """The directory exists, but it cannot be read or another user may write it."""


class HookListing(NamedTuple):
    """The hooks in name order, and the skipped entries, each with a reason. `exists`: the directory does."""

    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    exists: bool = True


def list_hooks(directory: Path) -> HookListing:
    """The hooks of `directory`. Blocks on the disk. Raises `HookDirectoryError`."""
    try:
        entries = sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return HookListing((), exists=False)
    except OSError as exc:
        raise HookDirectoryError(
            f"hooks directory {directory} cannot be read: {exc.strerror}", hint="check claims.hooks_dir"
        ) from exc
    reason = untrusted_reason(directory)
    if reason:
        raise HookDirectoryError(f"hooks directory {reason}")
    reasons = {name: _skip_reason(directory / name) for name in entries}
    return HookListing(
        names=tuple(name for name in entries if not reasons[name]),
        skipped=tuple((name, why) for name, why in reasons.items() if why),
    )


def untrusted_reason(path: Path) -> str:
    """Why another user could replace `path`: the first such part of its path, links followed; "" if none."""
    ends = {Path(os.path.abspath(path)), Path(os.path.realpath(path))}  # noqa: PTH100 - resolve() follows links
    parts = {part for end in ends for part in (end, *end.parents)}
    for part in sorted(parts):
        try:
            info = part.lstat()
        except OSError as exc:
            return f"{part} cannot be checked: {exc.strerror}"
        if info.st_uid not in (0, os.geteuid()):
            return f"{part} belongs to uid {info.st_uid}; it must belong to root or uid {os.geteuid()}"
        if stat.S_ISLNK(info.st_mode):
            continue  # its mode has no effect; the rights of its directory decide who can replace it
        shared = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a sticky directory such as /tmp other users can add entries, but cannot replace this user's.
        sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX and part not in ends
        if shared and not sticky:
            mode = f"{stat.S_IMODE(info.st_mode):04o}"
            return f"{part} may be written by other users (mode {mode}); chmod go-w it"
    return ""


def _skip_reason(path: Path) -> str:
    name = path.name
    if name.startswith(".") or name.endswith(_EDITOR_AND_PACKAGE_SUFFIXES) or fnmatchcase(name, "#*#"):
        return "hidden or left by an editor or a package manager"
    if not name.isprintable():
        return "its name is not printable"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a file"
    except OSError as exc:
        return exc.strerror or str(exc)
    return "" if os.access(path, os.X_OK) else "not executable"
