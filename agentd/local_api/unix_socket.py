"""Creates the unix socket of the local API, with mode 0600, unless another process listens on it."""

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Final

from agentd import log
from agentd.durable import set_aside
from agentd.errors import ConfigError, StateError

# struct sockaddr_un has 108 bytes for the path and its NUL.
SOCKET_PATH_MAX_BYTES: Final = 107
DEFAULT_NAME: Final = "agentd.sock"
_PROBE_TIMEOUT_S: Final = 1.0


def bind(path: Path) -> socket.socket:
    """A socket that is bound to `path` with mode 0600. Replaces the socket of a daemon that has ended.

    Raises `ConfigError` if the path is too long for a socket, `StateError` if a process listens on it, if it
    is not a socket, or if it cannot be created.
    """
    require_short(path)
    with contextlib.ExitStack() as undo:
        bound = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_stale(path)
            # The umask applies to the whole process, but no other task runs yet when the local API starts.
            before = os.umask(0o177)
            try:
                bound.bind(str(path))
            finally:
                os.umask(before)
        except OSError as exc:
            raise StateError(
                f"local_api.socket: cannot create {path}: {exc.strerror or exc}",
                hint="set AGENTD_LOCAL_API_SOCKET to a path in a writable directory",
            ) from exc
        undo.pop_all()
        return bound


def require_short(path: Path) -> None:
    """Raise `ConfigError` if `path` is too long for a socket."""
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise ConfigError(
            f"local_api.socket: {path} is longer than {SOCKET_PATH_MAX_BYTES} bytes, the limit for a socket",
            hint="set AGENTD_LOCAL_API_SOCKET to a shorter path",
        )


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        if path.name == DEFAULT_NAME:
            kept = set_aside(path)  # no other program has a file of this name
            log.get("local_api").error("local_api.set_aside", file=str(kept), reason="not a socket")
            return
        raise StateError(
            f"local_api.socket: {path} exists and is not a socket", hint="remove it or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            # The connection queue is full: a process listens, and is busy.
            pass
    raise StateError(
        f"local_api.socket: another process listens on {path}",
        hint="stop that process or choose another path",
    )
