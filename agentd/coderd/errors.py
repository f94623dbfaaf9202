"""Errors of the calls to coderd, of the claim stream and of the instance identity exchange.

Each case has its own class, because callers handle each case differently. `answers` chooses the class for an
HTTP answer. The callers decide about retries: of a call by `retryable`, of the claim stream by
`claims.answers`.
"""

from typing import ClassVar

from agentd.errors import PeerError


class CoderdError(PeerError):
    """A call to coderd or a connection of the claim stream failed.

    `status` is the HTTP status, None without an answer. `body_message` and `detail` are those of coderd's
    error body, "" without one. `retry_after_s` is the wait that the server asks for, None if it asks for
    none. `request_id` is coderd's `X-Coder-Request-Id`, "" without one.
    """

    label: ClassVar[str]
    """Stable name of the class: a value of the label `end` of the metric `agentd_claim_connections_total`."""
    retryable: ClassVar[bool] = True
    """Whether the same call can succeed later."""

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


# Answers of coderd


class UnauthorizedError(CoderdError):
    """401: coderd does not accept the token now.

    This is normal between a claim and the end of its job (seconds to minutes).
    """

    label = "Unauthorized"


class RateLimitedError(CoderdError):
    """429. coderd counts per client address and path, so all workspaces behind one NAT share the limit."""

    label = "RateLimited"


class ServerFaultError(CoderdError):
    """5xx, for a call also 408 and 425, of coderd or of a proxy."""

    label = "ServerFailed"


class ConflictError(CoderdError):
    """409 of the claim stream: no claim will come.

    It has three meanings, which differ in `body_message` and `detail`.
    """

    label = "Conflict"
    retryable = False


class RouteNotFoundError(CoderdError):
    """404 "Route not found.": coderd has no such route. It is too old or too new, or the feature is off."""

    label = "RouteAbsent"
    retryable = False


class NotFoundError(CoderdError):
    """Any other 404.

    Of a call: the object does not exist or belongs to another workspace; coderd does not say which. Of the
    claim stream: also the 404 of a proxy.
    """

    label = "NotFound"
    retryable = False


class TooLargeError(CoderdError):
    """The request body is too large: for coderd above 65,536 bytes, for a proxy possibly less."""

    label = "TooLarge"
    retryable = False


class InvalidRequestError(CoderdError):
    """coderd rejects the content of the request."""

    label = "Invalid"
    retryable = False


class NoContentError(CoderdError):
    """204 of the claim stream: by the standard of event streams, the client must not reconnect."""

    label = "StopAsked"


class UnexpectedStatusError(CoderdError):
    """A status of the claim stream that no other class describes, also a 2xx."""

    label = "UnexpectedStatus"


# Answers that coderd does not give


class NotCoderdError(CoderdError):
    """An answer that coderd does not give: the error page of a proxy, a login page, another server."""

    label = "NotCoderd"


class RedirectError(NotCoderdError):
    """3xx. agentd does not follow it, because the token must not go to an address that is not configured."""

    label = "Redirected"


class WrongContentTypeError(NotCoderdError):
    """200 of the claim stream with another content type than `text/event-stream`."""

    label = "WrongContentType"


class HtmlPageError(WrongContentTypeError):
    """200 of the claim stream with a web page: of a proxy, of a login portal or of coderd's dashboard."""

    label = "HtmlPage"


class ContentEncodedError(NotCoderdError):
    """200 of the claim stream, but compressed. Refused: half a megabyte can decompress to 500 MB."""

    label = "ContentEncoded"


# No answer, or a connection that ended


class UnreachableError(CoderdError):
    """No complete answer: connection refused or reset, a timeout, a TLS failure.

    coderd may have executed the call.
    """

    label = "Unreachable"


class DnsError(UnreachableError):
    """The host name does not resolve."""

    label = "DnsFailed"


class ConnectRefusedError(UnreachableError):
    """The port is closed."""

    label = "ConnectionRefused"


class TlsError(UnreachableError):
    """The certificate is invalid, or the TLS handshake failed."""

    label = "TlsFailed"


class ConnectError(UnreachableError):
    """No connection for another reason: unreachable network, connect timeout, unusable proxy."""

    label = "ConnectFailed"


class HeadersTimeoutError(UnreachableError):
    """No response headers within the deadline. Those of the claim stream normally take up to 15 s."""

    label = "HeadersLate"


class HeadersTooLargeError(UnreachableError):
    """The response headers exceed the size limit."""

    label = "HeadersTooLarge"


class StreamIdleError(UnreachableError):
    """No byte for three ping intervals."""

    label = "StreamIdle"


class EventTimeoutError(UnreachableError):
    """A line or an event started and did not end within the deadline."""

    label = "EventLate"


class StreamCutError(UnreachableError):
    """The connection was reset, or closed inside a chunk."""

    label = "StreamCut"


class StreamEndedError(UnreachableError):
    """The server ended the stream regularly, for a restart or because a proxy limits its duration."""

    label = "StreamEnded"


class ProtocolError(UnreachableError):
    """The exchange is not valid HTTP/1.1."""

    label = "ProtocolBroken"


# Instance identity


class IdentityError(CoderdError):
    """coderd returned no token for the identity of this instance. A build that runs can change the answer."""

    label = "IdentityError"


class MetadataError(IdentityError):
    """The metadata server of the cloud returned no proof of identity."""

    label = "MetadataError"
