"""The unix socket of the local API: for its owner alone from its first moment, and never taken from a living daemon."""

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, StateError

# struct sockaddr_un holds 108 bytes, the last of them NUL.
SOCKET_PATH_MAX_BYTES: Final = 107
_PROBE_TIMEOUT_S: Final = 1.0


def bind(path: Path) -> socket.socket:
    """A socket bound to `path` with mode 0600, in place of a dead daemon's.

    Raises `ConfigError` when the path is too long for a socket, and `StateError` when somebody listens there, when it
    is something other than a socket, or when it cannot be made.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise ConfigError(
            f"local_api.socket: {path} is longer than a socket's name may be ({SOCKET_PATH_MAX_BYTES} bytes)",
            hint="set AGENTD_LOCAL_API_SOCKET to a shorter path",
        )
    with contextlib.ExitStack() as undo:
        bound = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_dead(path)
            # The umask is the whole process's, but nothing else of us runs yet when the local API comes up.
            before = os.umask(0o177)
            try:
                bound.bind(str(path))
            finally:
                os.umask(before)
        except OSError as exc:
            raise StateError(
                f"local_api.socket: {path} cannot be had ({exc.strerror or exc})",
                hint="set AGENTD_LOCAL_API_SOCKET to a writable place",
            ) from exc
        undo.pop_all()
        return bound


def _remove_dead(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StateError(
            f"local_api.socket: {path} exists and is no socket", hint="remove it or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            # Its queue of connections is full: somebody is there, and busy.
            pass
    raise StateError(
        f"local_api.socket: another process listens on {path}", hint="stop it or choose another path"
    )
