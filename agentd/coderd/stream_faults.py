"""Every way the claim stream can fail, by name.

A class per case, because what to do next differs per case and is decided elsewhere (`claims.answers`). Two families:
`Refused` is an answer with a status that is not the stream; `Broken` is a connection that did not come about or did
not last. What arrives too large has its names in `event_stream`.
"""

from agentd.errors import PeerError
from agentd.sse import StreamTooLarge

__all__ = ["StreamTooLarge"]


class Refused(PeerError):
    """The server answered with something other than the stream.

    `status` is the HTTP status, `body_message` and `detail` what coderd said (empty when it said nothing we can read),
    `retry_after_s` what it asked for (bounded) or None, `request_id` its `X-Coder-Request-Id` or "".
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        body_message: str = "",
        detail: str = "",
        retry_after_s: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body_message = body_message
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class Unauthorized(Refused):
    """401: the token is not accepted now. Normal between a claim and the end of its job (seconds to minutes)."""


class Conflict(Refused):
    """409: no claim is to be expected here. Which of its three meanings, `body_message` and `detail` tell."""


class RouteAbsent(Refused):
    """404 with coderd's "Route not found.": this server has no such endpoint."""


class NotFound(Refused):
    """Any other 404: a proxy's, or a server that is no coderd."""


class RateLimited(Refused):
    """429. coderd counts per address and path, so a fleet behind one NAT shares the limit."""


class ServerFailed(Refused):
    """5xx, coderd's own or a proxy's."""


class Redirected(Refused):
    """3xx. Never followed: the token would go to another origin."""


class StopAsked(Refused):
    """204: by the standard of event streams, the server asks not to come back."""


class UnexpectedStatus(Refused):
    """Any other status, also another 2xx."""


class WrongContentType(Refused):
    """200, but no `text/event-stream`."""


class HtmlPage(WrongContentType):
    """200 with a web page: a proxy, a login portal, or the dashboard in place of the API."""


class ContentEncoded(Refused):
    """200, but compressed although identity was asked for. 500 MB inflate out of half a megabyte, so it is refused."""


class Broken(PeerError):
    """The connection could not be made or did not last."""


class DnsFailed(Broken):
    """The host name does not resolve."""


class ConnectionRefused(Broken):
    """Nobody listens there."""


class TlsFailed(Broken):
    """The certificate or the handshake was not acceptable."""


class ConnectFailed(Broken):
    """No connection for another reason: unreachable network, connect timeout, an unusable proxy."""


class HeadersLate(Broken):
    """No response headers within the deadline. coderd's normal time for them is up to 15 s."""


class HeadersTooLarge(Broken):
    """A flood of response headers."""


class StreamIdle(Broken):
    """Three pings' time without a byte."""


class EventLate(Broken):
    """A line or an event was begun and not ended within the deadline."""


class StreamCut(Broken):
    """Reset, or closed inside a chunk: the peer or something between died."""


class StreamEnded(Broken):
    """The server ended the stream in order: it restarts, or a proxy had enough."""


class ProtocolBroken(Broken):
    """What came back is no HTTP."""
