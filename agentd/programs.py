"""The rules for every program that agentd starts: which files it trusts, and which environment they get.

A program runs with agentd's rights and its network identity. Another user who can write the program, one of its
directories or a symbolic link on the way to it would get those rights.
"""

import errno
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

SECRET_MIN_CHARS: Final = 6
"""A shorter value protects nothing, and half of all values contain it."""

_LINKS_MAX: Final = 40  # as the kernel (path_resolution(7))

# Where the agent's token is or comes from. Programs get it only on request.
_TOKEN: Final = ("CODER_AGENT_TOKEN", "AGENTD_CODER_TOKEN", "CREDENTIALS_DIRECTORY")
# The headers for coderd's proxy, and the command that prints them.
_HEADERS: Final = ("CODER_AGENT_HEADER", "AGENTD_CODER_HEADER")
_SYSTEMD_ONLY: Final = (
    "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
)  # fmt: skip


def program_environment(
    environ: Mapping[str, str], *, redact: Collection[str] = (), pass_token: bool = False
) -> dict[str, str]:
    """`environ` without secrets and without what systemd tells only agentd.

    `redact` are the names of variables with other secrets (`snapshots.redact_env`). A variable that contains the
    token or such a secret under another name is left out too. `pass_token` keeps the agent's token.
    """
    prefixes = (*_HEADERS, *_SYSTEMD_ONLY, *(() if pass_token else _TOKEN))
    withheld = {name for name in environ if name.startswith(prefixes) or name in redact}
    # The value of CODER_AGENT_TOKEN_FILE is a path and no secret.
    secrets = [
        environ[name] for name in withheld if name in ("CODER_AGENT_TOKEN", "AGENTD_CODER_TOKEN", *redact)
    ]
    secrets = [secret for secret in secrets if len(secret) >= SECRET_MIN_CHARS]
    return {
        name: value
        for name, value in environ.items()
        if name not in withheld and not any(secret in value for secret in secrets)
    }


def untrusted_reason(path: Path) -> str:
    """As `untrusted_part`, with the error as the reason for a path that cannot be checked."""
    try:
        return untrusted_part(path)
    except OSError as exc:
        return f"{exc.filename or path} cannot be checked: {exc.strerror}"


def untrusted_part(path: Path) -> str:
    """Why another user could replace the file or directory at `path`; "" if none could. Blocks on the disk.

    The walk takes the kernel's steps: each directory and each symbolic link between "/" and the end must belong to
    root or to agentd's user, and only they may write it. Other users may add entries to a sticky directory such as
    /tmp, but cannot replace an entry of root or of agentd's user. So another user can change nothing that the walk
    has passed, and nothing on the way between the walk and the use of `path`. Raises `OSError`.
    """
    todo = [*reversed(Path.cwd().joinpath(path).parts)]
    done, links = Path(todo.pop()), 0
    while True:
        info = done.lstat()
        if reason := _replaceable(done, info, is_end=not todo):
            return reason
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = done.readlink()
            todo += reversed(target.parts)
            done = Path(todo.pop()) if target.is_absolute() else done.parent
        elif not todo:
            return ""
        else:
            step = todo.pop()
            # `done` contains no link, so its parent is the directory that the kernel takes for "..".
            done = done.parent if step == ".." else done / step


def _replaceable(part: Path, info: os.stat_result, *, is_end: bool) -> str:
    if info.st_uid not in (0, os.geteuid()):
        return f"{part} belongs to uid {info.st_uid}; it must belong to root or uid {os.geteuid()}"
    if stat.S_ISLNK(info.st_mode):
        return ""  # its mode has no effect; the rights of its directory decide who can replace it
    shared = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX and not is_end
    if not shared or sticky:
        return ""
    return f"{part} may be written by other users (mode {stat.S_IMODE(info.st_mode):04o}); chmod go-w it"
