"""The calls agentd makes to coderd, and a name for every answer.  HTTP only: whether to try again is the caller's.

Rules of the answers: coderd `coderd/aitasks.go` (postWorkspaceAgentTaskLogSnapshot), `coderd/workspaceagents.go`
(app-status), `coderd/httpapi` (error bodies), `coderd/httpmw/workspaceagent.go` (401).

    answer                                                   raised           worth a retry
    204 (log-snapshot), 200 with JSON (app-status)           -                -
    no answer: refused, reset, timeout, TLS                  Unreachable      yes
    401                                                      Unauthorized     yes: normal while a claim job runs
    408, 425, 5xx                                            ServerFault      yes
    429                                                      RateLimited      yes, after retry_after_s
    3xx                                                      Redirected       yes; never followed: the token stays here
    anything that is not coderd's JSON, or an unknown 404    NotCoderd        yes: a proxy, or coderd behind one is down
    413; 400 with "request body too large"                   TooLarge         smaller
    404 "Route not found."                                   Unsupported      no: this server lacks the endpoint
    404 "Resource not found…"                                NotFound         no: no such task, or not this workspace's
    other 4xx with coderd's JSON                             Invalid          no
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import ClassVar, Final, NamedTuple
from urllib.parse import quote

from yarl import URL

from agentd.coderd.token import TokenSource
from agentd.errors import PeerError
from agentd.tls import aiohttp

_ERROR_BODY_MAX_BYTES: Final = 4096
_EXCERPT_MAX_CHARS: Final = 300
# coderd's words for a body it would have stored, had there been `messages` in it.
_LACKS_MESSAGES: Final = "Invalid agentapi payload structure."


class CoderdError(PeerError):
    """A call to coderd did not succeed.

    `status` is the HTTP status or None when there was no answer, `request_id` coderd's `X-Coder-Request-Id` or "",
    `retry_after_s` how long the server asks to wait, if it does.
    """

    retryable: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class Unreachable(CoderdError):
    """No answer: nobody listens, the connection broke, TLS failed or time ran out. It may have been carried out."""


class Unauthorized(CoderdError):
    """401. While a prebuild is being claimed every request gets one, and the same token works again afterwards."""


class RateLimited(CoderdError):
    """429, counted per address and path, so a whole fleet behind one NAT shares it."""


class ServerFault(CoderdError):
    """408, 425 or 5xx, from coderd or from a proxy before it."""


class NotCoderd(CoderdError):
    """An answer coderd does not give: a proxy's error page, a login page, another server at that address."""


class Redirected(NotCoderd):
    """3xx. Not followed, since the token must not go to an address nobody configured."""


class TooLarge(CoderdError):
    """The body is larger than the server takes: 65,536 bytes at coderd, perhaps less at a proxy."""

    retryable = False


class Unsupported(CoderdError):
    """This server has no such endpoint: it is older or newer than the feature, or the feature is off."""

    retryable = False


class NotFound(CoderdError):
    """The object does not exist or is not this workspace's; coderd does not tell which."""

    retryable = False


class Invalid(CoderdError):
    """coderd refuses the request for what is in it."""

    retryable = False


_BY_STATUS: Final[Mapping[int, type[CoderdError]]] = {
    401: Unauthorized,
    408: ServerFault,
    413: TooLarge,
    425: ServerFault,
    429: RateLimited,
}
_NOT_CODERD_HINT: Final = "check coder.url, and any proxy in between"


class _Answer(NamedTuple):
    """What was read of an answer that is no success. `message` is None when the body is not coderd's JSON."""

    status: int
    headers: Mapping[str, str]
    message: str | None
    detail: str
    excerpt: str


class Coderd:
    """coderd as one workspace agent sees it.

    `url` is the deployment's address, `headers` go with every request (for proxies), `tls` is the context for https.
    Every call takes `timeout_s` for all of it, both tries when a token was renewed after a 401 included, and raises
    one of this module's `CoderdError`s, or `ConfigError` when there is no token.
    """

    def __init__(
        self,
        url: str,
        *,
        token: TokenSource,
        session: aiohttp.ClientSession,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._base = url.rstrip("/") + "/api/v2/workspaceagents/me/"
        self._token = token
        self._session = session
        self._headers = dict(headers or {})
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self.build_version = ""
        """`X-Coder-Build-Version` of the last answer, "" before the first."""
        self.date = ""
        """`Date` of the last answer, whoever gave it; "" before the first."""

    async def put_log_snapshot(self, task_id: str, payload: bytes, *, timeout_s: float) -> None:
        """Store `payload` as the task's log snapshot, replacing the one before. Repeating it is safe."""
        path = f"tasks/{quote(task_id, safe='')}/log-snapshot?format=agentapi"
        await self._call("POST", path, payload, expect=204, timeout_s=timeout_s)

    async def rehearse_log_snapshot(self, task_id: str, *, size_bytes: int, timeout_s: float) -> None:
        """Do all of a log snapshot but the storing: raises as `put_log_snapshot` would for a payload of that size.

        coderd looks at token, route, task, size and JSON in that order, and only then for `messages`, which this body
        lacks: that refusal means that a real one would have been stored.
        """
        padding = b"-" * max(0, size_bytes - len(b'{"rehearsal":""}'))
        path = f"tasks/{quote(task_id, safe='')}/log-snapshot?format=agentapi"
        try:
            await self._call("POST", path, b'{"rehearsal":"%b"}' % padding, expect=204, timeout_s=timeout_s)
        except Invalid as error:
            if _LACKS_MESSAGES not in error.message:
                raise

    async def update_app_status(
        self, app_slug: str, state: str, message: str, uri: str, *, timeout_s: float
    ) -> None:
        """Report `state` (working, idle, complete, failure) for an app of this agent.

        coderd takes at most 160 bytes of message and inserts a row for every call: send changes only.
        """
        report = {"app_slug": app_slug, "state": state, "message": message, "uri": uri}
        body = json.dumps(report, ensure_ascii=False).encode("utf-8", "replace")
        await self._call("PATCH", "app-status", body, expect=200, timeout_s=timeout_s)

    async def _call(self, method: str, path: str, body: bytes, *, expect: int, timeout_s: float) -> None:
        what = f"{method} {path.partition('?')[0]}"
        try:
            async with asyncio.timeout(timeout_s):
                token = await self._token.current()
                answer = await self._send(method, path, body, token, expect)
                if answer is not None and answer.status == 401 and await self._token.renew(token):
                    token = await self._token.current()
                    answer = await self._send(method, path, body, token, expect)
        except TimeoutError as error:
            raise Unreachable(f"{what}: no answer within {timeout_s:.1f}s") from error
        except aiohttp.ClientSSLError as error:
            raise Unreachable(f"{what}: {error}", hint="set coder.ca_file to your deployment's CA") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{what}: {str(error) or type(error).__name__}") from error
        if answer is not None:
            raise _named(what, answer)

    async def _send(self, method: str, path: str, body: bytes, token: str, expect: int) -> _Answer | None:
        """One exchange. None is success."""
        headers = {"Content-Type": "application/json", **self._headers, "Coder-Session-Token": token}
        async with self._session.request(
            method,
            URL(self._base + path, encoded=True),
            data=body,
            headers=headers,
            allow_redirects=False,
            ssl=self._tls,
            # The caller's timeout covers everything; aiohttp's own are rounded up to whole seconds.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        ) as response:
            self.build_version = response.headers.get("X-Coder-Build-Version", self.build_version)
            self.date = response.headers.get("Date", self.date)
            is_json = response.content_type == "application/json"
            if response.status == expect and (expect == 204 or is_json):
                return None
            text = (await _head_of(response)).decode("utf-8", "replace")
            text = text.replace(token, "[hidden]") if token else text
            message, detail = _coderd_error(text)
            return _Answer(response.status, response.headers, message, detail, text)


async def _head_of(response: aiohttp.ClientResponse) -> bytes:
    """The first bytes of the body; what arrived of it when it breaks off."""
    head = b""
    try:
        while len(head) < _ERROR_BODY_MAX_BYTES:
            chunk = await response.content.read(_ERROR_BODY_MAX_BYTES - len(head))
            if not chunk:
                break
            head += chunk
    except aiohttp.ClientPayloadError:
        # The status line says enough.
        return head
    return head


def _coderd_error(text: str) -> tuple[str | None, str]:
    """`message` and `detail` of coderd's error body, `(None, "")` when it is something else."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None, ""
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        return None, ""
    validations = body.get("validations")
    details = [body.get("detail")]
    details += [
        item.get("detail")
        for item in validations or ()
        if isinstance(validations, list) and isinstance(item, dict)
    ]
    return body["message"], " ".join(detail for detail in details if isinstance(detail, str))


def _named(what: str, answer: _Answer) -> CoderdError:
    """The error for an answer; the table stands at the top of this module."""
    status = answer.status
    said = (
        " ".join(part for part in (answer.message, answer.detail) if part)
        if answer.message
        else answer.excerpt
    )
    said = " ".join(said.split())[:_EXCERPT_MAX_CHARS]
    kind, hint = _kind(answer)
    asked_s = _retry_after_s(answer.headers) if kind in (RateLimited, ServerFault) else None
    return kind(
        f"{what}: {status} {said}".rstrip(),
        status=status,
        request_id=answer.headers.get("X-Coder-Request-Id", "")[:64],
        retry_after_s=asked_s,
        hint=hint,
    )


def _kind(answer: _Answer) -> tuple[type[CoderdError], str]:
    status, message = answer.status, answer.message
    if status in _BY_STATUS:
        return _BY_STATUS[status], ""
    if status >= 500:
        return ServerFault, ""
    if 300 <= status < 400:
        # The target is left out: a login page's address may carry secrets.
        return Redirected, "set coder.url to the address it redirects to; redirects are not followed"
    if status < 400 or message is None:
        return NotCoderd, _NOT_CODERD_HINT
    if status == 404 and message.startswith("Route not found"):
        return Unsupported, "this version of Coder does not offer it"
    if status == 404:
        return (NotFound, "") if message.startswith("Resource not found") else (NotCoderd, _NOT_CODERD_HINT)
    if "request body too large" in f"{message} {answer.detail}".lower():
        return TooLarge, ""
    return Invalid, ""


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the server asks: a number, or a date, which is measured by the server's own clock."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))
    except (ValueError, TypeError):
        return None
    return max(0.0, wait.total_seconds())
