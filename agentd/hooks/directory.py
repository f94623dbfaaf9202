"""Which hooks there are, and whether they may be trusted.

agentd runs hooks with its own rights and its own network identity, so a hook, its directory, or anything on the way
to it that another user may write would hand those rights to that user.
"""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from agentd.errors import AgentdError

ON_CLAIM = "on-claim.d"

_LEFT_BY_EDITORS = ("~", ".bak", ".orig", ".rej", ".swp", ".tmp", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".rpmsave", ".rpmnew")  # fmt: skip


class HookDirectoryError(AgentdError):
    """The directory is there and cannot be read, or another user may write it."""


class Listing(NamedTuple):
    """Names to run, in order, and what lies there besides with the reason it is passed over.

    `exists` is False when there is no such directory, which is how a workspace without hooks looks.
    """

    names: tuple[str, ...]
    passed_over: tuple[tuple[str, str], ...] = ()
    exists: bool = True


def listing(directory: Path) -> Listing:
    """The hooks of `directory` in name order. Raises `HookDirectoryError`."""
    try:
        entries = sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return Listing((), exists=False)
    except OSError as exc:
        raise HookDirectoryError(
            f"hooks directory {directory} cannot be read: {exc.strerror}", hint="check claims.hooks_dir"
        ) from exc
    distrust = untrusted_reason(directory)
    if distrust:
        raise HookDirectoryError(f"hooks directory {distrust}")
    reasons = {name: _why_no_hook(directory / name) for name in entries}
    return Listing(
        names=tuple(name for name in entries if not reasons[name]),
        passed_over=tuple((name, why) for name, why in reasons.items() if why),
    )


def untrusted_reason(path: Path) -> str:
    """One sentence saying who else may write `path` or something on the way to it (links followed); "" when nobody."""
    chain = {*_prefixes(Path(os.path.abspath(path))), *_prefixes(Path(os.path.realpath(path)))}  # noqa: PTH100 - Path.resolve() has no form that leaves links alone
    for step in sorted(chain):
        try:
            info = step.lstat()
        except OSError as exc:
            return f"{step} cannot be checked: {exc.strerror}"
        if info.st_uid not in (0, os.geteuid()):
            return f"{step} belongs to uid {info.st_uid}; it must belong to root or uid {os.geteuid()}"
        if stat.S_ISLNK(info.st_mode):
            continue  # a link's mode means nothing; who may replace it, its directory says
        shared = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a sticky directory such as /tmp others may add entries but not replace ours.
        sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX and step not in _ends(path)
        if shared and not sticky:
            return (
                f"{step} may be written by other users (mode {stat.S_IMODE(info.st_mode):04o}); chmod go-w it"
            )
    return ""


def _why_no_hook(path: Path) -> str:
    name = path.name
    if (
        name.startswith(".")
        or name.endswith(_LEFT_BY_EDITORS)
        or (name.startswith("#") and name.endswith("#"))
    ):
        return "hidden or left by an editor or a package manager"
    if not name.isprintable():
        return "its name is not printable"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a file"
    except OSError as exc:
        return exc.strerror or str(exc)
    return "" if os.access(path, os.X_OK) else "not executable"


def _prefixes(path: Path) -> list[Path]:
    return [*path.parents, path]


def _ends(path: Path) -> set[Path]:
    return {Path(os.path.abspath(path)), Path(os.path.realpath(path))}  # noqa: PTH100 - as above
