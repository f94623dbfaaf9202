"""Asks Codex's daemon what its threads do. Optional: the daemon exists since 0.169, and a user can switch it off.

The daemon serves JSON-RPC in a WebSocket on a unix socket. Only `thread/list` is called, which reads. It is the only
source that tells a turn that waits for an approval from one that runs a tool.
"""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentd import __version__
from agentd.clock import Clock
from agentd.errors import PeerError
from agentd.masking import excerpt
from agentd.tls import aiohttp

TIMEOUT_S: Final = 1.0
"""For connecting, and for each call."""
RETRY_S: Final = 10.0
ANSWER_MAX_BYTES: Final = 4 << 20
LIST_MAX: Final = 25
NOTICES_MAX: Final = 50
"""Notifications that may come before an answer."""


class ThreadStatus(NamedTuple):
    """`is_active`: a turn runs. `waits_for` is "" or what the turn waits for, in words."""

    is_active: bool
    waits_for: str


class ControlError(PeerError):
    """The daemon gave no answer that is understood."""


_WAITS: Final = {"waitingOnApproval": "an approval", "waitingOnUserInput": "an answer"}


class ControlSocket:
    """A connection to the daemon of the user `owner`, kept between calls."""

    def __init__(self, *, owner: int, clock: Clock) -> None:
        self._owner = owner
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._number = 0
        self._retry_at = float("-inf")
        self.problem = ""
        """Why the last call failed; "" if it did not."""

    async def statuses(self, path: Path) -> Mapping[str, ThreadStatus]:
        """The status of each loaded thread. Empty if the daemon does not tell it; never raises."""
        if self._clock.monotonic() < self._retry_at:
            return {}
        try:
            if self._socket is None or self._socket.closed:
                await self._connect(path)
            answer = await self._call("thread/list", {"limit": LIST_MAX})
            self.problem = ""
            return _statuses(answer)
        except (ControlError, aiohttp.ClientError, OSError, TimeoutError) as exc:
            self.problem = str(exc) or f"no answer within {TIMEOUT_S:g} s"
            self._retry_at = self._clock.monotonic() + RETRY_S
            await self.close()
            return {}

    async def close(self) -> None:
        opened, self._socket, session, self._session = self._socket, None, self._session, None
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            if opened is not None:
                await opened.close()
        if session is not None:
            await session.close()

    async def _connect(self, path: Path) -> None:
        await self.close()
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)))
        self._socket = await self._open(self._session)
        self._check_peer(self._socket)
        await self._call(
            "initialize", {"clientInfo": {"name": "agentd", "title": "agentd", "version": __version__}}
        )
        await self._send({"method": "initialized"})

    async def _open(self, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        async with asyncio.timeout(TIMEOUT_S):
            return await session.ws_connect(
                "http://localhost/",
                max_msg_size=ANSWER_MAX_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=TIMEOUT_S),
            )

    def _check_peer(self, opened: aiohttp.ClientWebSocketResponse) -> None:
        """Raises `ControlError` if a process of another user listens."""
        peer = opened.get_extra_info("socket")
        if peer is None:
            raise ControlError("the connection was lost")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        user = struct.unpack("3i", credentials)[1]
        if user != self._owner:
            raise ControlError(f"the daemon belongs to user {user}, not to {self._owner}")

    async def _call(self, method: str, params: Mapping[str, object]) -> dict[str, Any]:
        self._number += 1
        async with asyncio.timeout(TIMEOUT_S):
            await self._send({"id": self._number, "method": method, "params": params})
            for _ in range(NOTICES_MAX):
                answer = await self._receive()
                if answer.get("id") != self._number:
                    continue
                result = answer.get("result")
                if not isinstance(result, dict):
                    raise ControlError(f"{method}: {excerpt(json.dumps(answer.get('error')), 200)}")
                return result
        raise ControlError(f"{method}: {NOTICES_MAX} messages without an answer")

    async def _send(self, request: Mapping[str, object]) -> None:
        if self._socket is None:
            raise ControlError("the connection was closed")
        await self._socket.send_str(json.dumps(request))

    async def _receive(self) -> dict[str, Any]:
        if self._socket is None:
            raise ControlError("the connection was closed")
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise ControlError(f"the daemon ended the connection ({message.type.name})")
        try:
            answer = json.loads(message.data)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ControlError("an answer is no JSON object")
        return answer


def _statuses(answer: Mapping[str, Any]) -> dict[str, ThreadStatus]:
    """The status of each thread whose status is known. A thread that is not loaded has none."""
    found = {}
    threads = answer.get("data")
    for thread in threads if isinstance(threads, list) else ():
        status = thread.get("status") if isinstance(thread, dict) else None
        if not isinstance(status, dict) or status.get("type") not in ("idle", "active"):
            continue
        flags = status.get("activeFlags")
        flags = flags if isinstance(flags, list) else []
        waits = [what for flag, what in _WAITS.items() if flag in flags]
        found[str(thread.get("id"))] = ThreadStatus(status["type"] == "active", " and ".join(waits))
    return found
