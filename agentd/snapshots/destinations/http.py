"""`https://…`: a server that accepts a PUT or POST of JSON, with headers from a file."""

import contextlib
import re
from functools import partial
from pathlib import Path
from typing import Final

from yarl import URL

from agentd.durable import read_file
from agentd.http_client import failure, one_line, read_start
from agentd.masking import Mask
from agentd.proxy import proxy_of, request_options, tls_url
from agentd.snapshots.destinations.destination import Accepted, RejectedError, RetryableError
from agentd.snapshots.destinations.url_template import DestinationContext, UrlTemplate
from agentd.snapshots.entry import SpoolEntry
from agentd.tls import aiohttp, client_context

# Credentials can be renewed in the headers file; the other statuses are temporary.
_RETRYABLE_STATUS: Final = frozenset({401, 403, 408, 423, 425, 429})
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")
_HEADERS_MAX_BYTES: Final = 64 * 1024
_EXCERPT_MAX_BYTES: Final = 512


class HttpDestination:
    """Sends the payload to a URL. 2xx: accepted; most 4xx: rejected; any other status: agentd retries.

    `headers_file` has one `Name: value` per line. It is read at each attempt, so that credentials can be
    renewed while agentd runs. Redirects are not followed, because the headers are for the configured address
    only.
    """

    needs_task = False

    def __init__(self, template: UrlTemplate, context: DestinationContext) -> None:
        self._template = template
        self.name = template.name
        self._context = context
        self._proxy = proxy_of(template.url)
        self._tls = client_context(tls_url(template.url, self._proxy), context.ca_file)

    async def deliver(self, entry: SpoolEntry) -> Accepted:
        headers = {"Content-Type": "application/json", **read_headers(self._context.headers_file)}
        excerpt = bytearray()
        try:
            async with self._context.session.request(
                self._context.method,
                URL(self._template.expand(entry.task_id), encoded=True),
                data=entry.payload,
                allow_redirects=False,
                ssl=self._tls or True,
                **request_options(self._proxy, headers),
            ) as response:
                status = response.status
                if 200 <= status < 300:
                    return Accepted(status)
                # A body that breaks off must not hide the status.
                with contextlib.suppress(aiohttp.ClientPayloadError):
                    await read_start(response.content.iter_any(), _EXCERPT_MAX_BYTES, into=excerpt)
        except aiohttp.ClientHttpProxyError as exc:
            raise self._refused_by_proxy(exc.status) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise RetryableError(failure(exc, mask=partial(without_secrets, headers))) from exc
        text = without_secrets(headers, excerpt.decode("utf-8", "replace"))
        answer = f"{status} {one_line(text, _EXCERPT_MAX_BYTES)}".rstrip()
        if status == 407:
            raise self._refused_by_proxy(status)
        if status in _RETRYABLE_STATUS or status >= 500:
            raise RetryableError(answer, status=status)
        if 300 <= status < 400:
            raise RejectedError(
                f"{status}: the server redirects",
                status=status,
                hint="configure the final address; redirects are not followed",
            )
        raise RejectedError(answer, status=status, hint="check the address in snapshots.destinations")

    def _refused_by_proxy(self, status: int) -> RetryableError:
        if self._proxy is None:
            return RetryableError(f"{status}: a proxy refuses the request", status=status)
        hint = self._proxy.login_hint if status == 407 else self._proxy.hint
        return RetryableError(
            f"{status}: the proxy {self._proxy} refuses the request", status=status, hint=hint
        )


def read_headers(path: Path | None) -> dict[str, str]:
    """The headers in the file: one `Name: value` per line; a line that starts with `#` is a comment.

    Raises `RetryableError`, because the file can be corrected while agentd runs.
    """
    if path is None:
        return {}
    try:
        text = read_file(path, _HEADERS_MAX_BYTES, named_by_user=True).decode("ascii", "replace")
    except OSError as exc:
        raise RetryableError(
            f"headers file {path} cannot be read: {exc.strerror}",
            hint="agentd's user must be able to read it",
        ) from exc
    headers = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _HEADER.fullmatch(line.rstrip())
        if match is None:
            raise RetryableError(f"headers file {path}: line {number} is not `Name: value`")
        headers[match[1]] = match[2]
    return headers


def without_secrets(headers: dict[str, str], text: str) -> str:
    """`text` with the values of `headers` masked, because a server may return the request in its answer."""
    values = [value for name, value in headers.items() if name != "Content-Type"]
    # `Authorization: Bearer VALUE` may be returned with or without its scheme.
    return Mask([*values, *(value.rpartition(" ")[2] for value in values)]).replace(text, cut_end=True)
