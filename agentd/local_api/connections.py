"""Bounds what the clients of one listener can hold: connections, descriptors, and the time of an unfinished request.

The unix socket and the TCP port have a limit each, so that a flood on one leaves the other free. The rest of the process's
descriptors is for the daemon's own work.
"""

import asyncio
import resource
from typing import Final

from aiohttp import web

from agentd.local_api.replies import BODY_MAX_BYTES, Handler

CONNECTIONS_MAX: Final = 64
CONNECTIONS_MIN: Final = 8
DESCRIPTORS_SHARE: Final = 8
"""A listener may use one in so many of the descriptors that the process may open."""
HEADER_TIMEOUT_S: Final = 15.0
"""Also the time for which a connection is kept between two requests."""
BODY_TIMEOUT_S: Final = 10.0
LINGER_S: Final = 1.0
"""How long the rest of a refused body is read, so that its client gets the answer."""


def connections_max() -> int:
    """The limit of one listener."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(CONNECTIONS_MIN, min(CONNECTIONS_MAX, descriptors // DESCRIPTORS_SHARE))


class ConnectionLimit:
    """The protocol factory of one listener. A new connection above the limit replaces the oldest one without a request.

    If each of them has a request, the new one is closed.
    """

    def __init__(self, server: web.Server, limit: int) -> None:
        self._server = server
        self._limit = limit
        self._open: dict[_Connection, None] = {}

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self, self._server)

    def add(self, new: "_Connection") -> None:
        if len(self._open) >= self._limit:
            oldest = next((one for one in self._open if one.is_idle), None)
            if oldest is None:
                new.force_close()
                return
            del self._open[oldest]
            oldest.force_close()
        self._open[new] = None

    def remove(self, one: "_Connection") -> None:
        self._open.pop(one, None)


class _Connection(web.RequestHandler):
    __slots__ = ("_limit",)

    def __init__(self, limit: ConnectionLimit, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # None turns the access log off
            keepalive_timeout=HEADER_TIMEOUT_S,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self._limit = limit

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered. One whose headers or answer are still on the way counts as none."""
        return self._current_request is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._limit.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limit.remove(self)
        super().connection_lost(exc)


@web.middleware
async def bounded_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Read the body before the handler does: 413 if it is too large, 408 if it does not arrive in time."""
    if request.content_length is not None and request.content_length > BODY_MAX_BYTES:
        raise web.HTTPRequestEntityTooLarge(max_size=BODY_MAX_BYTES, actual_size=request.content_length)
    if request.can_read_body:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                await request.read()
        except TimeoutError as exc:
            raise web.HTTPRequestTimeout from exc
    return await handler(request)
