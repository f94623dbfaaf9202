"""Chooses the error for an HTTP answer of coderd, or of a proxy in front of it. No I/O.

Sources: coderd `coderd/aitasks.go` (postWorkspaceAgentTaskLogSnapshot), `coderd/workspaceagents.go`
(app-status, reinit), `coderd/httpapi` (error bodies), `coderd/httpmw/workspaceagent.go` (401).

    answer                                      of a call               of the claim stream
    401                                         UnauthorizedError       UnauthorizedError
    407                                         ProxyAuthError          ProxyAuthError
    429                                         RateLimitedError        RateLimitedError
    5xx                                         ServerFaultError        ServerFaultError
    3xx                                         RedirectError           RedirectError
    404 "Route not found."                      RouteNotFoundError      RouteNotFoundError
    404 "Resource not found…"                   NotFoundError           NotFoundError
    any other 404                               NotCoderdError          NotFoundError
    413; 400 with "request body too large"      TooLargeError           UnexpectedStatusError
    408, 425                                    ServerFaultError        UnexpectedStatusError
    409                                         as other 4xx            ConflictError
    any other 4xx with coderd's error body      InvalidRequestError     UnexpectedStatusError
    any other status                            NotCoderdError          UnexpectedStatusError
    204                                         success of a snapshot   NoContentError
    200                                         success of app-status,  the stream, HtmlPageError, or
                                                if it is JSON           WrongContentTypeError or
                                                                        ContentEncodedError
"""

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from agentd import log
from agentd.coderd import errors
from agentd.coderd.errors import CoderdError
from agentd.http_client import json_object, one_line, retry_after_s
from agentd.proxy import Proxy

ERROR_BODY_MAX_BYTES: Final = 4096
"""Limit of the part of an error body that is read. coderd's error bodies are far smaller."""
_EXCERPT_MAX_CHARS: Final = 300
_MESSAGE_MAX_CHARS: Final = 500
_DETAIL_MAX_CHARS: Final = 1000

_OF_ANY_REQUEST: Final[Mapping[int, type[CoderdError]]] = {
    401: errors.UnauthorizedError,
    407: errors.ProxyAuthError,
    429: errors.RateLimitedError,
}
_OF_CALL: Final[Mapping[int, type[CoderdError]]] = {
    408: errors.ServerFaultError,
    413: errors.TooLargeError,
    425: errors.ServerFaultError,
}
_OF_STREAM: Final[Mapping[int, type[CoderdError]]] = {
    204: errors.NoContentError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
}
_PROXY_LOGIN_HINT: Final = (
    "write the proxy's user and password into HTTPS_PROXY (for http:// URLs HTTP_PROXY):"
    " http://USER:PASSWORD@HOST:PORT, with special characters percent-encoded"
)
_REASON_MAX_CHARS: Final = 100
_NOT_CODERD_HINT: Final = "check coder.url and any proxy in front of coderd"


class Answer(NamedTuple):
    """An HTTP answer. `headers` looks up names without regard to case; `text` is the start of the body.

    `message` and `detail` are those of coderd's error body (`codersdk.Response`), "" for any other body.
    """

    status: int
    headers: Mapping[str, str]
    text: str
    message: str
    detail: str

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes) -> "Answer":
        """The answer with secrets masked, because a server may return the request in its error body."""
        text = log.masked(body.decode("utf-8", "replace"), cut_end=True)
        return cls(status, headers, text, *parse_error_body(text))

    @property
    def is_absent_route(self) -> bool:
        return self.message.startswith("Route not found")

    @property
    def excerpt(self) -> str:
        return one_line(f"{self.message} {self.detail}" if self.message else self.text, _EXCERPT_MAX_CHARS)


def parse_error_body(text: str) -> tuple[str, str]:
    """The message and detail of coderd's error body. The detail has the details of its validations too."""
    fields = json_object(text)
    message, validations = fields.get("message"), fields.get("validations")
    details = [fields.get("detail")]
    if isinstance(validations, list):
        details += [item.get("detail") for item in validations if isinstance(item, dict)]
    return (
        one_line(message, _MESSAGE_MAX_CHARS) if isinstance(message, str) else "",
        one_line(" ".join(detail for detail in details if isinstance(detail, str)), _DETAIL_MAX_CHARS),
    )


def call_error(call: str, answer: Answer, *, now_unix_s: float) -> CoderdError:
    """The error for an answer to `call` ("METHOD path") that is not its success."""
    kind, hint = _kind_of_call(answer)
    asks_to_wait = kind in (errors.RateLimitedError, errors.ServerFaultError)
    message = f"{call}: {answer.status} {answer.excerpt}".rstrip()
    return _error(kind, message, answer, hint=hint, now_unix_s=now_unix_s if asks_to_wait else None)


def stream_error(answer: Answer, *, now_unix_s: float) -> CoderdError | None:
    """The error for an answer to the claim stream's request; None for an uncompressed 200 event stream."""
    kind, message = _kind_of_stream(answer)
    if kind is None:
        return None
    words = f"{answer.message} {answer.detail}".strip()
    hint = _PROXY_LOGIN_HINT if kind is errors.ProxyAuthError else ""
    return _error(kind, f"{message}: {words}" if words else message, answer, hint=hint, now_unix_s=now_unix_s)


def tunnel_error(proxy: Proxy, status: int, reason: str) -> CoderdError:
    """The error for a proxy's answer to CONNECT that is not 2xx."""
    if status == 407:
        message = f"the proxy {proxy} requires {'other ' if proxy.authorization else ''}credentials (407)"
        return errors.ProxyAuthError(message, status=status, hint=proxy.login_hint)
    answer = f"{status} {one_line(log.masked(reason), _REASON_MAX_CHARS)}".rstrip()
    message = f"the proxy {proxy} refuses to connect to coderd: {answer}"
    return errors.ProxyError(message, status=status, hint=proxy.hint)


def identity_error(answer: Answer) -> CoderdError:
    """The error for coderd's refusal of an identity proof. Its 409 lists the agent names to choose from."""
    if answer.status == 407:
        return _error(errors.ProxyAuthError, f"coderd: 407 {answer.excerpt}", answer, hint=_PROXY_LOGIN_HINT)
    hints = {
        400: "normal while a build runs; otherwise the instance belongs to an older build",
        401: "coder.auth must name this cloud, and the Coder deployment must trust its signatures",
        404: "the template must bind this instance to the agent; check coder.auth and coder.agent_name",
        409: "set CODER_AGENT_NAME to one of those names",
    }
    if answer.is_absent_route:
        hints[404] = "this version of Coder knows no such identity"
    message = f"coderd: {answer.status} {answer.excerpt}".rstrip()
    return _error(errors.IdentityError, message, answer, hint=hints.get(answer.status, "check coder.url"))


def _error(
    kind: type[CoderdError], message: str, answer: Answer, *, hint: str = "", now_unix_s: float | None = None
) -> CoderdError:
    """The error with the facts of `answer`. With `now_unix_s` also with the wait that the server asks for."""
    return kind(
        message,
        hint=hint,
        status=answer.status,
        body_message=answer.message,
        detail=answer.detail,
        retry_after_s=None if now_unix_s is None else retry_after_s(answer.headers, now_unix_s=now_unix_s),
        request_id=one_line(answer.headers.get("x-coder-request-id", ""), 64),
    )


def _kind_of_call(answer: Answer) -> tuple[type[CoderdError], str]:
    status = answer.status
    if kind := _OF_ANY_REQUEST.get(status) or _OF_CALL.get(status):
        return kind, _PROXY_LOGIN_HINT if status == 407 else ""
    if status >= 500:
        return errors.ServerFaultError, ""
    if 300 <= status < 400:
        # Without the target: the address of a login page may contain secrets.
        return errors.RedirectError, "set coder.url to the final address; redirects are not followed"
    if status < 400 or not answer.message:
        return errors.NotCoderdError, _NOT_CODERD_HINT
    if status == 404:
        if answer.is_absent_route:
            return errors.RouteNotFoundError, "this version of Coder does not have it"
        if answer.message.startswith("Resource not found"):
            return errors.NotFoundError, ""
        return errors.NotCoderdError, _NOT_CODERD_HINT
    if "request body too large" in f"{answer.message} {answer.detail}".lower():
        return errors.TooLargeError, ""
    return errors.InvalidRequestError, ""


def _kind_of_stream(answer: Answer) -> tuple[type[CoderdError] | None, str]:
    status, headers = answer.status, answer.headers
    message = f"the server answered {status}"
    if status == 200:
        return _kind_of_stream_200(headers)
    if status == 404 and answer.is_absent_route:
        return errors.RouteNotFoundError, message
    if 300 <= status < 400:
        target = _origin(headers.get("location", ""))
        return errors.RedirectError, f"the server redirects ({status}) to {target}, which is not followed"
    if status >= 500:
        return errors.ServerFaultError, message
    return _OF_ANY_REQUEST.get(status) or _OF_STREAM.get(status, errors.UnexpectedStatusError), message


def _kind_of_stream_200(headers: Mapping[str, str]) -> tuple[type[CoderdError] | None, str]:
    mime = headers.get("content-type", "").partition(";")[0].strip().lower()
    if mime in ("text/html", "application/xhtml+xml"):
        message = "a web page came instead of the stream (of a proxy, or coder.url is the dashboard's)"
        return errors.HtmlPageError, message
    if mime != "text/event-stream":
        mime = one_line(mime, 80) or "missing"
        return errors.WrongContentTypeError, f"the content type is {mime}; expected text/event-stream"
    encoding = one_line(headers.get("content-encoding", ""), 40).lower()
    if encoding not in ("", "identity"):
        message = f"the stream is compressed ({encoding}), but agentd asked for identity"
        return errors.ContentEncodedError, message
    return None, ""


def _origin(location: str) -> str:
    # Without path and query: they may contain credentials of a login portal.
    try:
        parts = urlsplit(location)
        known = bool(parts.scheme and parts.hostname)
        return one_line(f"{parts.scheme}://{parts.hostname}", 200) if known else "another path"
    except ValueError:
        return "an unreadable address"
