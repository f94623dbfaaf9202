"""Lists the hooks of a directory that no other user can write."""

import os
import stat
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

from agentd.errors import AgentdError
from agentd.programs import untrusted_part

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
        if reason := untrusted_part(directory):
            raise HookDirectoryError(f"hooks directory {reason}")
        entries = sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return HookListing((), exists=False)
    except OSError as exc:
        raise HookDirectoryError(
            f"hooks directory {directory} cannot be read: {exc.strerror}", hint="check claims.hooks_dir"
        ) from exc
    reasons = {name: _skip_reason(directory / name) for name in entries}
    return HookListing(
        names=tuple(name for name in entries if not reasons[name]),
        skipped=tuple((name, why) for name, why in reasons.items() if why),
    )


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
