"""The calls that agentd makes to coderd. It makes one attempt per call; the caller decides about retries.

`answers` has the table of coderd's answers and their errors. A call without an answer (connection refused or
reset, timeout, TLS failure) raises `UnreachableError`.
"""

import asyncio
import contextlib
import json
import ssl
from typing import Final
from urllib.parse import quote

from yarl import URL

from agentd.clock import Clock
from agentd.coderd.answers import ERROR_BODY_MAX_BYTES, Answer, call_error, tunnel_error
from agentd.coderd.errors import (
    CoderdError,
    InvalidRequestError,
    ProxyError,
    UnauthorizedError,
    UnreachableError,
)
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.token import StaticToken, TokenSource
from agentd.http_client import failure, one_line, read_start
from agentd.proxy import Proxy, request_options
from agentd.tls import aiohttp

_AGENT_ROUTES: Final = "/api/v2/workspaceagents/me/"
_NO_TASK: Final = "00000000-0000-0000-0000-000000000000"
# coderd's message for a body that it would have stored if it had `messages`.
_LACKS_MESSAGES: Final = "Invalid agentapi payload structure."


class Coderd:
    """coderd's API for one workspace agent.

    `headers` are the extra headers of each request, `proxy` is the proxy of `url`. `tls` is the context for https, of
    coderd or of the proxy.

    `timeout_s` of a call limits all of it, including a second attempt with a renewed token after a 401. Each
    call raises a `CoderdError`, or `ConfigError` if there is no token.
    """

    def __init__(
        self,
        url: str,
        *,
        token: TokenSource,
        session: aiohttp.ClientSession,
        headers: ExtraHeaders | None = None,
        tls: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._session = session
        self._headers = headers or ExtraHeaders()
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._proxy = proxy
        self._clock = clock or Clock()
        self.build_version = ""
        """`X-Coder-Build-Version` of the last answer, "" before the first."""
        self.date = ""
        """`Date` of the last answer, also of a proxy's; "" before the first."""

    async def put_log_snapshot(self, task_id: str, payload: bytes, *, timeout_s: float) -> None:
        """Store `payload` as the task's log snapshot in place of the previous one. The call is idempotent."""
        await self._call("POST", _log_snapshot(task_id), payload, expect=204, timeout_s=timeout_s)

    async def rehearse_log_snapshot(self, task_id: str, *, size_bytes: int, timeout_s: float) -> None:
        """Send a log snapshot of `size_bytes` that coderd does not store. Raises as `put_log_snapshot` would.

        An empty `task_id` stands for an id that no task has: a working coderd raises `NotFoundError`.
        coderd checks token, route, task, size and JSON in this order, and then rejects this body because it
        has no `messages`. That rejection means that coderd would have stored a real snapshot.
        """
        padding = b"-" * max(0, size_bytes - len(b'{"rehearsal":""}'))
        body = b'{"rehearsal":"%b"}' % padding
        try:
            path = _log_snapshot(task_id or _NO_TASK)
            await self._call("POST", path, body, expect=204, timeout_s=timeout_s)
        except InvalidRequestError as exc:
            if exc.body_message != _LACKS_MESSAGES:
                raise

    async def update_app_status(
        self, app_slug: str, state: str, message: str, uri: str, *, timeout_s: float
    ) -> None:
        """Report `state` (working, idle, complete, failure) for an app. coderd accepts 160 bytes of message.

        It inserts a row for every call, so callers send changes only.
        """
        report = {"app_slug": app_slug, "state": state, "message": message, "uri": uri}
        body = json.dumps(report, ensure_ascii=False).encode("utf-8", "replace")
        await self._call("PATCH", "app-status", body, expect=200, timeout_s=timeout_s)

    async def fetch_build_version(self, *, timeout_s: float) -> str:
        """Coderd's version, such as `v2.31.3+f1e2d3c`; "" if the answer does not have it."""
        await self._call("GET", "/api/v2/buildinfo", b"", expect=200, timeout_s=timeout_s)
        return self.build_version

    async def _call(self, method: str, path: str, body: bytes, *, expect: int, timeout_s: float) -> None:
        call = f"{method} {path.partition('?')[0]}"
        try:
            async with asyncio.timeout(timeout_s):
                token = await self._token.current()
                answer = await self._send(method, path, body, token, expect)
                if answer is not None and answer.status == 401 and await self._token.renew(token):
                    token = await self._token.current()
                    answer = await self._send(method, path, body, token, expect)
        except TimeoutError as exc:
            raise UnreachableError(f"{call}: no answer within {timeout_s:.1f}s") from exc
        except (aiohttp.ClientError, OSError) as exc:
            if self._proxy is not None and (error := proxy_failure(exc, self._proxy)) is not None:
                raise error from exc
            is_tls = isinstance(exc, aiohttp.ClientSSLError)
            hint = "set coder.ca_file to your deployment's CA" if is_tls else ""
            raise UnreachableError(f"{call}: {failure(exc)}", hint=hint) from exc
        if answer is not None:
            refusal = call_error(call, answer, now_unix_s=self._clock.wall())
            if isinstance(refusal, UnauthorizedError):
                refusal.token_can_change = not isinstance(self._token, StaticToken)
            raise refusal

    async def _send(self, method: str, path: str, body: bytes, token: str, expect: int) -> Answer | None:
        """Send one request. Returns None on success."""
        extra = await self._headers.current()
        headers = {"Content-Type": "application/json", **extra, "Coder-Session-Token": token}
        async with self._session.request(
            method,
            # A path without "/" is one of the agent's routes.
            URL(self._url + (path if path.startswith("/") else _AGENT_ROUTES + path), encoded=True),
            data=body,
            allow_redirects=False,
            ssl=self._tls,
            # The timeout of `_call` covers everything. aiohttp rounds its own timeouts up to whole seconds.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            **request_options(self._proxy, headers),
        ) as response:
            version = response.headers.get("X-Coder-Build-Version", self.build_version)
            self.build_version = one_line(version, 100)
            self.date = response.headers.get("Date", self.date)
            if response.status == expect and (expect == 204 or response.content_type == "application/json"):
                return None
            error_body = bytearray()
            # A body that breaks off must not hide the status.
            with contextlib.suppress(aiohttp.ClientPayloadError):
                await read_start(response.content.iter_any(), ERROR_BODY_MAX_BYTES, into=error_body)
            return Answer.of(response.status, response.headers, bytes(error_body))


def proxy_failure(exc: Exception, proxy: Proxy) -> CoderdError | None:
    """The error for an exception of aiohttp that the proxy caused; None if another peer caused it."""
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return tunnel_error(proxy, exc.status, exc.message)
    # The host of an error is the one that aiohttp connected to, or coderd's for TLS inside the tunnel.
    if not isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError):
        return None
    address = URL(proxy.url)
    if (exc.host, exc.port) != (address.host, address.port):
        return None
    match exc:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            cause = f"TLS failed: {failure(exc)}"
        case _:
            cause = failure(exc.os_error)
    return ProxyError(f"no connection to the proxy {proxy}: {cause}", hint=proxy.hint)


def _log_snapshot(task_id: str) -> str:
    return f"tasks/{quote(task_id, safe='')}/log-snapshot?format=agentapi"
