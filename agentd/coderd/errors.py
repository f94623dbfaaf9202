"""Errors of the calls to coderd, of the claim stream and of the instance identity exchange.

Each case has its own class, because callers handle each case differently. `answers` chooses the class for an
HTTP answer. The callers decide about retries: of a call by `retryable`, of the claim stream by
`claims.answers`.
"""

from typing import ClassVar

from agentd.errors import PeerError


class CoderdError(PeerError):
    """A call to coderd or a connection of the claim stream failed.

    `status` is None without an answer. `body_message` and `detail` are of coderd's error body, "" if none.
    `retry_after_s` is the wait that the server asks for. `request_id` is coderd's `X-Coder-Request-Id`.
    """

    retryable: ClassVar[bool] = True
    """Whether the same call can succeed later."""

    def __init_subclass__(cls, *, label: str = "", retryable: bool = True) -> None:
        super().__init_subclass__(label=label)
        cls.retryable = retryable

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        body_message: str = "",
        detail: str = "",
        retry_after_s: float | None = None,
        request_id: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.body_message = body_message
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class UnauthorizedError(CoderdError, label="Unauthorized"):
    """401: coderd does not accept the token now. Normal while a claim's job runs (seconds to minutes)."""

    token_can_change = True
    """Whether this agentd can get another token: from its file, or for the identity of the instance."""


class ProxyAuthError(CoderdError, label="ProxyAuthRequired"):
    """407: the proxy between agentd and coderd requires other credentials."""


class RateLimitedError(CoderdError, label="RateLimited"):
    """429. coderd counts per client address and path, so all workspaces behind one NAT share the limit."""


class ServerFaultError(CoderdError, label="ServerFailed"):
    """5xx, for a call also 408 and 425, of coderd or of a proxy."""


class ConflictError(CoderdError, label="Conflict", retryable=False):
    """409 of the claim stream: no claim will come. Its texts tell three meanings apart (`claims.answers`)."""


class RouteNotFoundError(CoderdError, label="RouteAbsent", retryable=False):
    """404 "Route not found.": coderd has no such route. It is too old or too new, or the feature is off."""


class NotFoundError(CoderdError, label="NotFound", retryable=False):
    """Any other 404: no such object, or one of another workspace; of the stream, also the 404 of a proxy."""


class TooLargeError(CoderdError, label="TooLarge", retryable=False):
    """The request body is too large: for coderd above 65,536 bytes, for a proxy possibly less."""


class InvalidRequestError(CoderdError, label="Invalid", retryable=False):
    """coderd rejects the content of the request."""


class NoContentError(CoderdError, label="StopAsked"):
    """204 of the claim stream: by the standard of event streams, the client must not reconnect."""


class UnexpectedStatusError(CoderdError, label="UnexpectedStatus"):
    """A status of the claim stream that no other class describes, also a 2xx."""


class NotCoderdError(CoderdError, label="NotCoderd"):
    """An answer that coderd does not give: the error page of a proxy, a login page, another server."""


class RedirectError(NotCoderdError, label="Redirected"):
    """3xx. agentd does not follow it, because the token must not go to an address that is not configured."""


class WrongContentTypeError(NotCoderdError, label="WrongContentType"):
    """200 of the claim stream with another content type than `text/event-stream`."""


class HtmlPageError(WrongContentTypeError, label="HtmlPage"):
    """200 of the claim stream with a web page: of a proxy, of a login portal or of coderd's dashboard."""


class ContentEncodedError(NotCoderdError, label="ContentEncoded"):
    """200 of the claim stream, but compressed. Refused: half a megabyte can decompress to 500 MB."""


class UnreachableError(CoderdError, label="Unreachable"):
    """No complete answer: refused, reset, a timeout, a TLS failure. coderd may have executed the call."""


class DnsError(UnreachableError, label="DnsFailed"):
    """The host name does not resolve."""


class ConnectRefusedError(UnreachableError, label="ConnectionRefused"):
    """The port is closed."""


class TlsError(UnreachableError, label="TlsFailed"):
    """The certificate is invalid, or the TLS handshake failed."""


class ConnectError(UnreachableError, label="ConnectFailed"):
    """No connection for another reason: unreachable network, connect timeout."""


class ProxyError(UnreachableError, label="ProxyFailed"):
    """The proxy is unreachable, or refuses to connect to coderd."""


class HeadersTimeoutError(UnreachableError, label="HeadersLate"):
    """No response headers within the deadline. Those of the claim stream normally take up to 15 s."""


class HeadersTooLargeError(UnreachableError, label="HeadersTooLarge"):
    """The response headers exceed the size limit."""


class StreamIdleError(UnreachableError, label="StreamIdle"):
    """No byte for three ping intervals."""


class EventTimeoutError(UnreachableError, label="EventLate"):
    """A line or an event started and did not end within the deadline."""


class StreamCutError(UnreachableError, label="StreamCut"):
    """The connection was reset, or closed inside a chunk."""


class StreamEndedError(UnreachableError, label="StreamEnded"):
    """The server ended the stream regularly, for a restart or because a proxy limits its duration."""


class ProtocolError(UnreachableError, label="ProtocolBroken"):
    """The exchange is not valid HTTP/1.1."""


class HeaderCommandError(CoderdError, label="HeaderCommandFailed"):
    """`coder.header_command` failed, so no request was sent."""


class IdentityError(CoderdError):
    """coderd returned no token for the identity of this instance. A build that runs can change the answer."""


class MetadataError(IdentityError):
    """The metadata server of the cloud returned no proof of identity."""
