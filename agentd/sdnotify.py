"""Notify systemd: `READY=1`, `STATUS=…`, `STOPPING=1`, `WATCHDOG=1`, `EXTEND_TIMEOUT_USEC=…`.

This module never blocks: it drops a message that systemd does not read. The libraries block: sdnotify 0.3.2
after eleven unread messages, cysystemd 2.0.5 while it holds the interpreter lock.
"""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends datagrams to `$NOTIFY_SOCKET`, if it is set. Never raises, never blocks."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # systemd writes an abstract socket as "@name"; the kernel's name starts with NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None

    def send(self, **fields: str | int) -> None:
        """Send the fields, as in `send(READY=1, STATUS="listening")`. Newlines in a value become spaces."""
        if not self._address:
            return
        text = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in fields.items())
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            # A path or an agent's message may contain surrogates; systemd accepts only UTF-8.
            self._socket.sendto(text.encode("utf-8", "replace"), self._address)
        except OSError:
            return

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two `WATCHDOG=1`: half of the interval that systemd allows. None without a watchdog."""
    try:
        usec = float(int(environ.get("WATCHDOG_USEC") or 0))
        pid = int(environ.get("WATCHDOG_PID") or 0)
    except (ValueError, OverflowError):
        return None
    # Another pid means that the variables were inherited from a parent process.
    if usec <= 0 or (pid and pid != os.getpid()):
        return None
    return usec / 2_000_000
