"""Takes the events of `agentd hook` from a unix datagram socket with mode 0600.

A datagram never blocks its sender: when the queue is full (`net.unix.max_dgram_qlen`), or no daemon runs, it is dropped.
"""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agentd import log
from agentd.agents.hook_events import DATAGRAM_MAX_BYTES, SOCKET_SUFFIX, HookEvent, decoded
from agentd.clock import Clock
from agentd.metrics import Registry

EVENTS_MAX: Final = 50
"""Events in one second. Above that they stay in the queue, which is short."""


class HookSocket:
    """Calls `take` with each event. `api_socket` is the path of the local API's socket, which this daemon holds."""

    def __init__(
        self, api_socket: Path, *, take: Callable[[HookEvent], None], clock: Clock, metrics: Registry
    ) -> None:
        self._path = api_socket.with_name(api_socket.name + SOCKET_SUFFIX)
        self._take = take
        self._clock = clock
        self._events = metrics.counter(
            "agentd_agent_hook_events_total", "Events of agents' own hooks.", "outcome"
        )
        self._socket: socket.socket | None = None
        self._left = 0
        self._since = float("-inf")
        self._resuming: asyncio.TimerHandle | None = None
        self._has_logged = False
        self._log = log.get("agents")

    def open(self) -> None:
        """Take events from now on. Without the socket agents are observed nevertheless, so a failure is only logged."""
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(self._path.lstat().st_mode):
                    self._path.unlink()  # of a daemon that has ended: this one holds the socket beside it
            os.fchmod(bound.fileno(), 0o600)  # Linux gives the file this mode; a umask is the process's
            bound.bind(str(self._path))
        except OSError as exc:
            bound.close()
            self._log.warning("agent.hook_socket_unusable", path=str(self._path), reason=str(exc))
            return
        self._socket = bound
        self._listen(bound)

    def close(self) -> None:
        """Take no more events, and remove the socket. Idempotent."""
        if self._socket is None:
            return
        if self._resuming is not None:
            self._resuming.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        self._path.unlink(missing_ok=True)

    def _listen(self, bound: socket.socket) -> None:
        self._resuming = None
        asyncio.get_running_loop().add_reader(bound, self._read, bound)

    def _read(self, bound: socket.socket) -> None:
        now = self._clock.monotonic()
        if now - self._since >= 1.0:
            self._since, self._left = now, EVENTS_MAX
        if self._left == 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(bound)
            self._resuming = loop.call_later(1.0, self._listen, bound)
            return
        self._left -= 1
        with contextlib.suppress(BlockingIOError):
            self._take_datagram(bound.recv(DATAGRAM_MAX_BYTES + 1))

    def _take_datagram(self, datagram: bytes) -> None:
        event = decoded(datagram) if len(datagram) <= DATAGRAM_MAX_BYTES else None
        self._events.inc(outcome="taken" if event else "malformed")
        if event is not None:
            self._take(event)
        elif not self._has_logged:
            self._has_logged = True
            self._log.warning("agent.hook_malformed", bytes=len(datagram))
