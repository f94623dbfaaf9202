"""Tell systemd how we are: `READY=1`, `STATUS=…`, `STOPPING=1`, `WATCHDOG=1`, `EXTEND_TIMEOUT_USEC=…`.

Our own few lines because they never block: sdnotify 0.3.2 stalls after eleven unread messages and cysystemd 2.0.5
stalls holding the interpreter lock. A lost status line costs nothing; a stalled event loop costs the workspace.
"""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends to `$NOTIFY_SOCKET`, or nowhere when there is none. Never raises, never blocks."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # "@name" is systemd's spelling of an abstract socket, whose real name starts with a NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self.lost = 0

    def send(self, **fields: str | int) -> None:
        """`send(READY=1, STATUS="listening")`. Newlines in a value would start another field, so they become spaces."""
        if not self._address:
            return
        text = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in fields.items())
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            # Surrogates may stand in a path or an agent's words; the manager refuses what is no UTF-8 anyway.
            self._socket.sendto(text.encode("utf-8", "replace"), self._address)
        except OSError:
            self.lost += 1

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often to say `WATCHDOG=1` (seconds; half of what systemd allows), or None when nobody listens."""
    try:
        usec = float(int(environ.get("WATCHDOG_USEC") or 0))
        pid = int(environ.get("WATCHDOG_PID") or 0)
    except (ValueError, OverflowError):
        return None
    # The pid tells whether the request is meant for us or was inherited from a parent.
    if usec <= 0 or (pid and pid != os.getpid()):
        return None
    return usec / 2_000_000
